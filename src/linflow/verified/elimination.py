"""A proved lower bound of `λ_min` of the Hessian of a chain of layers, eliminating one layer after the other.

A change V of the weights changes the product by `X_L` to first order, where `X_0 = 0` and
`X_j = X_{j−1} W_j + P_{j−1} V_j`. With `N_j = c∇f S_{j+1}ᵀ`,
`⟨V, ∇²L V⟩ = c² ⟨A X_L B, X_L⟩ + 2 Σ_j ⟨X_{j−1} V_j, N_j⟩`: each layer enters through V_j and `X_{j−1}` alone. So the
last layer can be eliminated first, and no matrix is as large as the Hessian. Proofs: docs/verified.md, sections 4, 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from linflow.verified.hessian import KEPT, Matrix, coefficient, hessian, identity
from linflow.verified.least import CLOSE, ENOUGH, TRIALS, libraries, nearer, ritz
from linflow.verified.problem import AffineGradient
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, least_eigenvalue
from linflow.verified.taylor import Expansion

FIXED, COMPILED = 4e6, 1.5e5
"""Multiplications that take as long as the rest of an elimination, in NumPy and in compiled loops."""

LAPACK_FROM = 400
"""Matrices with a longer side than this are eliminated by BLAS and LAPACK."""

SHORT, LONG = 14, 40
"""Dimensions of the Krylov spaces before the first elimination and after one that does not run to completion."""

MIX = 0.03
"""Length of the random vector that is added to the eigenvector of the last Hessian. It may be an eigenvector of this
one too, but no longer that of the least eigenvalue, and then its Krylov space has no other."""


def dense_cost(widths: Sequence[int]) -> float:
    """Return the multiplications of a Cholesky factorisation of the whole Hessian."""
    return sum(a * b for a, b in pairwise(widths)) ** 3 / 6


def chain_cost(widths: Sequence[int]) -> float:
    """Return the multiplications of an elimination that starts at the last layer."""
    n, total = widths[0], 0.0
    for rows, columns in pairwise(widths[1:]):
        layer, state, after = rows * columns, n * rows, n * columns
        total += layer**3 / 6 + 0.5 * layer * state * (layer + state)
        total += rows * (2 * after * after + 2 * layer * after + state * after)
    return total + (n * widths[1]) ** 3 / 6


def best_cost(widths: Sequence[int], *, compiled: bool = False) -> tuple[float, str]:
    """Return the least cost of a bound of `λ_min`, and how it is reached: "dense", "last" or "first" layer first."""
    fixed = COMPILED if compiled else FIXED
    ways = {
        "dense": dense_cost(widths),
        "last": chain_cost(widths) + fixed,
        "first": chain_cost(widths[::-1]) + fixed,
    }
    way = min(ways, key=ways.__getitem__)
    return ways[way], way


@dataclass(frozen=True)
class HessianChain:
    """The parts of a Hessian, as computed, with bounds of their errors.

    Attributes:
        weights: `W_1 … W_L`.
        before: `P_0 … P_{L−1}`.
        pulled: `N_1 … N_L`. The first one has no effect.
        left: A, or None for the identity.
        right: B, or None for the identity.
        factor: c² times the part of `Jᵀ(∇²f)J` that is kept.
    """

    weights: list[Matrix]
    before: list[Matrix]
    pulled: list[Matrix]
    left: Matrix | None
    right: Matrix | None
    factor: float

    @classmethod
    def of(
        cls,
        problem: AffineGradient,
        factor: float,
        W: list[Matrix],
        P: list[Matrix],
        S: list[Matrix],
        Q: list[Matrix],
        way: str,
    ) -> HessianChain:
        """Return the chain of a node whose elimination starts at the last or at the first layer.

        Args:
            problem: the gradient.
            factor: c² times the part of `Jᵀ(∇²f)J` that is kept.
            W: `W_1 … W_L`.
            P: `P_1 … P_{L−1}`.
            S: `S_2 … S_L`.
            Q: `P_{l−1}ᵀ c∇f` for each layer l.
            way: "last" or "first". The first layer is the last one of the transposed network.
        """
        A = None if problem.A is None else Matrix(problem.A, problem.errors[0], problem.norms[0])
        B = None if problem.B is None else Matrix(problem.B, problem.errors[1], problem.norms[1])
        if way == "first":
            before = [identity(Q[0].value.shape[1]), *(F.T for F in reversed(S))]
            return cls([F.T for F in reversed(W)], before, [F.T for F in reversed(Q)], B, A, factor)
        return cls(W, [identity(len(W[0].value)), *P], [*(Q[0] @ F.T for F in S), Q[0]], A, B, factor)

    @cached_property
    def size(self) -> int:
        """The number of weights."""
        return sum(W.value.size for W in self.weights)

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each layer starts and ends in a vector of all weights."""
        return np.cumsum([0, *(W.value.size for W in self.weights)])

    @cached_property
    def error(self) -> float:
        """Bound of the spectral norm of the Hessian less that of the computed parts."""
        L = len(self.weights)
        first = slip = second = 0.0
        for i, P in enumerate(self.before):
            size, wrong = _size(P)
            for j in range(i + 1, L):
                apart = _times(size, wrong, self.pulled[j])[1]
                second += apart * apart
                size, wrong = _times(size, wrong, self.weights[j])
            first, slip = first + size * size, slip + wrong * wrong
        smooth, changed = 1.0, 0.0
        for F in (self.left, self.right):
            smooth, changed = (smooth, changed) if F is None else _times(smooth, changed, F)
        kept = (changed + 4 * U * smooth) * first + 2 * smooth * math.sqrt(first * slip)
        total = self.factor * kept + math.sqrt(2 * second)
        return total * UP + TINY

    def times(self, v: np.ndarray) -> np.ndarray:
        """Return the product of the Hessian of the computed parts and a vector."""
        layers = [
            v[a:b].reshape(W.value.shape) for a, b, W in zip(self.ends[:-1], self.ends[1:], self.weights, strict=True)
        ]
        states = [layers[0]]
        for V, W, P in zip(layers[1:], self.weights[1:], self.before[1:], strict=True):
            states.append(states[-1] @ W.value + P.value @ V)
        X = states[-1] * self.factor
        X = X if self.left is None else self.left.value @ X
        X = X if self.right is None else X @ self.right.value
        found = np.empty_like(v)
        for j in range(len(layers) - 1, 0, -1):
            P, N, W = self.before[j].value, self.pulled[j].value, self.weights[j].value
            found[self.ends[j] : self.ends[j + 1]] = (P.T @ X + states[j - 1].T @ N).ravel()
            X = X @ W.T + N @ layers[j].T
        found[: self.ends[1]] = X.ravel()
        return found

    def nearer(self, v: np.ndarray, most: int, programs: Any = None) -> tuple[float, np.ndarray]:
        """Return the least Rayleigh quotient on a Krylov space that starts at v, and its vector."""
        if programs is None:
            return nearer(self.times, v, most)
        most, n = min(most, self.size), self.widths[0]
        V, H = np.empty((2, most, self.size))
        most_columns, largest = max(self.widths[1:]), max(W.value.size for W in self.weights)
        room = np.empty(n * (sum(self.widths[:-1]) + 2 * most_columns) + largest)
        count = programs.krylov(self.widths, self.sides, self.parts, v.copy(), V, H, room)
        return ritz(V[:count], H[:count], v)

    @cached_property
    def widths(self) -> np.ndarray:
        """The widths of the layers."""
        return np.array([*(W.value.shape[0] for W in self.weights), self.weights[-1].value.shape[1]])

    @cached_property
    def sides(self) -> np.ndarray:
        """Whether there are matrices A and B."""
        return np.array([self.left is not None, self.right is not None], dtype=np.int64)

    @cached_property
    def parts(self) -> np.ndarray:
        """All matrices in one array, as compiled loops take them."""
        found = [np.array([self.factor]), *(F.value.ravel() for F in (self.left, self.right) if F is not None)]
        for W, P, N in zip(self.weights, self.before, self.pulled, strict=True):
            found += [W.value.ravel(), W.value.T.ravel(), P.value.ravel(), N.value.ravel()]
        return np.concatenate(found)

    def lacking(self, shift: float, programs: Any = None) -> float | None:
        """Return a bound of how much the Hessian of the computed parts lacks of being at least `−shift ≤ 0`.

        This is the rounding of an elimination, or None if it does not run to completion.
        """
        if programs is not None and self.largest <= LAPACK_FROM:
            lost = programs.lacking(self.widths, self.sides, self.parts, self.lengths, shift)
            return None if lost < 0 else lost
        blas, lapack = libraries()
        Pi, worst = self._end(), 0.0
        for W, P, N in zip(self.weights[:0:-1], self.before[:0:-1], self.pulled[:0:-1], strict=True):
            (n, rows), columns = P.value.shape, W.value.shape[1]
            layer, state, turned = rows * columns, n * rows, P.value.T
            size, askew = float(frobenius(Pi)), float(frobenius(Pi - Pi.T))
            if not size < math.inf:
                return None
            half = (turned @ Pi.reshape(n, -1)).reshape(layer, n * columns)
            R = (turned @ half.T.reshape(n, -1)).reshape(layer, layer)
            diagonal = R.ravel()[:: layer + 1]
            diagonal += shift
            trace = float(diagonal.sum())
            Y = (half.reshape(-1, columns) @ W.value.T).reshape(layer, state)
            np.einsum("kbak->kba", Y.reshape(rows, columns, n, rows))[...] += N.value.T
            right = (Pi.reshape(-1, columns) @ W.value.T).reshape(n, columns, state)
            Z = np.matmul(W.value, right).reshape(state, state)
            factor, info = lapack.dpotrf(R.T, lower=1, clean=0, overwrite_a=1)
            # The square of each entry is part of a pivot, so finite pivots imply a finite matrix.
            if info or not np.isfinite(factor.diagonal()).all():
                return None
            T = blas.dtrsm(1.0, factor, Y.T, side=1, lower=1, trans_a=1, overwrite_b=1)
            # What V and X pay; see docs/verified.md, section 5. Any ratio above 0 would do.
            height, width = trace / (1 - gamma(layer + 1)), float(frobenius(T))
            if not width < math.inf:
                return None
            each = (3 * gamma(2 * max(n, columns) + 2) + gamma(6)) * size + 2 * askew
            ratio, added = max(math.sqrt(height) / width, TINY), gamma(6) * math.sqrt(rows) * N.length
            lost = each * P.length * P.length + gamma(6) * math.sqrt(layer) * shift + added * ratio
            left = each * W.length * W.length + added / ratio + 2 * gamma(layer + 2) * width * width
            Pi = _lowered(Z - T @ T.T, left)
            worst = max(worst, lost + 2 * gamma(layer + 2) * height)
        lost = rest_of(Pi, shift)
        return None if lost is None else max(worst, lost) * UP + TINY

    @cached_property
    def largest(self) -> int:
        """The largest side of a matrix in an elimination."""
        states = self.weights[0].value.shape[0] * self.widths[1:]
        return max(int(states.max()), *(W.value.size for W in self.weights))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Bounds of the Frobenius norms of W, P and N of each layer, as compiled loops take them."""
        layers = zip(self.weights, self.before, self.pulled, strict=True)
        return np.array([[F.length for F in layer] for layer in layers])

    def _end(self) -> np.ndarray:
        """Return a matrix that is at most that of the form `factor ⟨A X B, X⟩`."""
        n, m = self.weights[0].value.shape[0], self.weights[-1].value.shape[1]
        A = np.eye(n) if self.left is None else self.left.value
        B = np.eye(m) if self.right is None else self.right.value
        end = self.factor * (A[:, None, :, None] * B[None, :, None, :]).reshape(n * m, n * m)
        return _lowered(end, gamma(4) * self.factor * float(frobenius(A)) * float(frobenius(B)))


def rest_of(Pi: np.ndarray, shift: float) -> float | None:
    """Return a bound of how much the form of a matrix lacks of being at least `−shift ≤ 0`, or None."""
    _, lapack = libraries()
    R, side = np.array(Pi.T, order="F"), len(Pi)
    diagonal = R.ravel(order="K")[:: side + 1]
    diagonal += shift
    trace = float(diagonal.sum())
    factor, info = lapack.dpotrf(R, lower=1, clean=0, overwrite_a=1)
    if info or not np.isfinite(factor.diagonal()).all():
        return None
    lost = float(frobenius(Pi - Pi.T)) + U * (float(frobenius(Pi)) + shift * side)
    return lost + gamma(side + 1) * trace / (1 - gamma(side + 1))


def least_of_chain(
    chain: HessianChain, vector: np.ndarray, enough: float, programs: Any = None
) -> tuple[float, np.ndarray]:
    """Return a proved lower bound of `min(0, λ_min)` of a Hessian, and a vector near the eigenvector.

    Trial shifts come from Rayleigh quotients on Krylov spaces. The proof does not depend on how good they are.

    Args:
        chain: the parts of the Hessian.
        vector: vector near the eigenvector of the least eigenvalue, such as that of the last call; empty if unknown.
        enough: the bound may always be this far below the eigenvalue.
        programs: compiled programs, if there are any.
    """
    v = np.random.default_rng(0).standard_normal(chain.size)
    if vector.size == chain.size:
        v = vector + MIX / math.sqrt(chain.size) * v
    quotient, v = chain.nearer(v, SHORT, programs)
    if not (math.isfinite(quotient) and math.isfinite(chain.error)):
        return -math.inf, vector
    low, high, lost = -math.inf, math.inf, math.inf
    width = max(CLOSE * abs(quotient), enough)
    s = min(quotient - width, 0.0)
    for _ in range(TRIALS):
        lacking = chain.lacking(-s, programs)
        if lacking is None:
            high = s
            quotient, v = chain.nearer(v, LONG, programs)
            width = max(CLOSE * abs(quotient), enough)
            s = quotient - width
            if not low < s < high:
                s = high - max(4 * width, 0.5 * abs(high)) if math.isinf(low) else 0.5 * (low + high)
            continue
        low, top, lost = s, min(quotient, high, 0.0), lacking + chain.error
        if top - low <= 1.5 * width:
            break
        s = 0.5 * (low + top)
    return (low - (lost - 4 * U * low) * UP if math.isfinite(low) else low), v  # low ≤ 0


def _size(F: Matrix) -> tuple[float, float]:
    """Return a bound of the norms of a matrix, exact and computed, and of its error."""
    return F.norm + F.error, F.error


def _times(size: float, wrong: float, F: Matrix) -> tuple[float, float]:
    """Return the bounds for a product with F."""
    other, error = _size(F)
    return size * other, wrong * other + size * error


def _lowered(A: np.ndarray, lost: float) -> np.ndarray:
    """Return A with a diagonal so much less that the result is at most `A − lost I`."""
    diagonal = A.ravel(order="K")[:: len(A) + 1]
    diagonal -= (lost + 2 * U * (lost + float(np.abs(diagonal).max()))) * UP + TINY
    return A


def least_curvature(path: Expansion) -> float:
    """Return a proved lower bound of `λ_min` of the Hessian at the start of the step, with KEPT of its first part.

    It bounds `min(0, λ_min)` where the layers are eliminated one after the other.
    """
    W = [coefficient(factor) for factor in path.weights]
    _, way = best_cost([*(len(F.value) for F in W), W[-1].value.shape[1]])
    if way == "dense":
        return least_eigenvalue(*hessian(path, KEPT))
    L, factor = path.depth, path.scale * path.scale * KEPT
    parts = (1, path.prefixes), (2, path.suffixes)
    P, S = ([coefficient(products[l]) for l in range(first, first + L - 1)] for first, products in parts)
    chain = HessianChain.of(path.problem, factor, W, P, S, [coefficient(Q) for Q in path.pulled], way)
    return least_of_chain(chain, np.zeros(0), ENOUGH / path.tau)[0]
