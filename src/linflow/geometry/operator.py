"""The operator T, which maps the gradient of the objective to the motion of the product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import (
    EPS,
    Array,
    detach,
    device,
    eigenvalues,
    from_numpy,
    namespace,
    norm,
    to_numpy,
    unmasked,
)
from linflow.geometry.extreme_eigenvalues import extreme
from linflow.model.network import Network

DENSE_LIMIT = 900
"""Largest `nm` for which the eigenvalues of T are computed from its dense matrix."""
UNCONVERGED = 1e-7
"""Error above which an eigenvalue counts as not found, in units of the root mean square eigenvalue of outer terms."""


@dataclass(frozen=True)
class Eigenvalue:
    """An extreme eigenvalue of T.

    Attributes:
        value: a 0-d array of the same kind as the weights.
        error: an eigenvalue of T lies within this distance of `value`. It is the residual of the vector found by
            iteration, or rounding. The value is a Rayleigh quotient, so it lies above the least and below the
            greatest eigenvalue.
        iterations: the number of iterations; 0 if none were needed.
    """

    value: Array
    error: float
    iterations: int


class TangentOperator:
    """`T(E) = c² Σ_l P_{l-1}P_{l-1}ᵀ E S_{l+1}ᵀS_{l+1}` on `R^{n×m}`, symmetric positive semidefinite.

    Along the gradient flow, `Ẇ = −T ∇f(W)` and `dL/dt = −⟨T ∇f, ∇f⟩`. The instantaneous rate is at least
    `λ_min(T)` times the constant `γ`. For linear networks, T is the neural tangent kernel.

    T is a sum over the layers that are trained. A layer that is not trained contributes no term.

    Args:
        network: a `Network` or its weights.
        trained: whether each layer is trained, as a sequence of bool. If omitted, all layers are trained.

    Raises:
        ValueError: `trained` does not hold one bool per layer, or no layer is trained (T would be 0).

    Example:
        >>> import numpy as np, linflow as lf
        >>> weights = [np.diag([2.0, 1.0]), np.ones((2, 1))]
        >>> T = lf.TangentOperator(weights)
        >>> float(T.least_eigenvalue()), T.dense().shape
        (3.0, (2, 2))
        >>> float(lf.TangentOperator(weights, trained=[False, True]).least_eigenvalue())
        1.0
    """

    def __init__(self, network: Network | Sequence[Any], trained: Sequence[bool] | None = None):
        net = Network.of(network)
        self.shape, self._widths = net.shape, net.widths
        kept = _trained(trained, net.depth)
        # Gram matrices of the prefixes (n×n) and suffixes (m×m); None stands for the identity.
        lefts = [None if P is None else P @ P.T for P in net.prefixes()]
        rights = [None if S is None else S.T @ S for S in net.suffixes()]
        self._scale = net.scale**2
        self._terms: list[tuple[Array, Array]] = [
            pair for pair, keep in zip(zip(lefts, rights, strict=True), kept, strict=True) if keep
        ]
        self._like = net.weights[0]

    def __repr__(self) -> str:
        return f"TangentOperator({'×'.join(map(str, self._widths))}, on {self.shape[0]}×{self.shape[1]} matrices)"

    @property
    def _outer(self) -> tuple[Array, Array]:
        """The Gram matrices of the last and first terms, `P_{L-1}P_{L-1}ᵀ` and `S_2ᵀS_2`; 0 for a missing term."""
        left = next((A for A, B in self._terms if B is None), None)
        right = next((B for A, B in self._terms if A is None), None)
        xp, (n, m) = namespace(self._like), self.shape
        zeros = [xp.zeros((k, k), dtype=xp.float64, device=device(self._like)) for k in (n, m)]
        return zeros[0] if left is None else left, zeros[1] if right is None else right

    @property
    def _between(self) -> list[tuple[Array, Array]]:
        """The terms that are not one-sided."""
        return [(A, B) for A, B in self._terms if A is not None and B is not None]

    def apply(self, E: Array) -> Array:
        """Return `T(E)` for `E` of shape `(n, m)`, or for a stack of shape `(…, n, m)`."""
        E = unmasked(E, "E")
        if tuple(E.shape[-2:]) != self.shape:
            raise ValueError(
                f"E has shape {tuple(E.shape)}; T acts on matrices of shape {self.shape} or stacks of them."
            )
        total: Array = None
        for A, B in self._terms:
            term = E if A is None else A @ E
            term = term if B is None else term @ B
            total = term if total is None else total + term
        return self._scale * total

    def dense(self) -> Array:
        """Return the `nm × nm` matrix `c² Σ_l (P_{l-1}P_{l-1}ᵀ) ⊗ (S_{l+1}ᵀS_{l+1})` for row-major `vec(E)`."""
        n, m = self.shape
        xp = namespace(self._like)
        basis = xp.eye(n * m, dtype=xp.float64, device=device(self._like))
        return xp.reshape(self.apply(xp.reshape(basis, (n * m, n, m))), (n * m, n * m))

    def least_eigenvalue(self) -> Array:
        """Return `λ_min(T)`. For two layers it is exactly `c²(λ_n(W_1W_1ᵀ) + λ_m(W_2ᵀW_2))`.

        Raises:
            RuntimeError: the iteration did not converge. `eigenvalue("least")` returns the value with its error.
        """
        return self._converged("least")

    def greatest_eigenvalue(self) -> Array:
        """Return `λ_max(T)`. For two layers it is exactly `c²(λ_1(W_1W_1ᵀ) + λ_1(W_2ᵀW_2))`.

        Raises:
            RuntimeError: the iteration did not converge. `eigenvalue("greatest")` returns the value with its error.
        """
        return self._converged("greatest")

    def eigenvalue(self, which: str = "least") -> Eigenvalue:
        """Return the "least" or the "greatest" eigenvalue with a bound on its error.

        Two layers need only the eigenvalues of an n×n and an m×m matrix. For more layers, the dense matrix is used up
        to `nm = 900`. Above that, LOBPCG is used; it takes seconds at n = m = 200.

        Raises:
            ValueError: `which` is neither "least" nor "greatest".

        Example:
            >>> import linflow as lf
            >>> found = lf.TangentOperator(lf.init.ntk((40, 60, 60, 40), rng=0)).eigenvalue("least")
            >>> bool(0 < found.error < 1e-6 * found.value), found.iterations > 0
            (True, True)
        """
        checks.choice(which, "which", ("least", "greatest"))
        n, m = self.shape
        at = 0 if which == "greatest" else -1
        if self._terms[0][0] is None and self._terms[0][1] is None:  # one layer
            return Eigenvalue(self._like[0, 0] * 0.0 + self._scale, 0.0, 0)
        if not self._between:
            left, right = (eigenvalues(gram) for gram in self._outer)
            size = float(detach(left[0] + right[0]))
            return Eigenvalue(self._scale * (left[at] + right[at]), self._scale * _rounding(size, n + m), 0)
        if n * m <= DENSE_LIMIT:
            values = eigenvalues(self.dense())
            return Eigenvalue(values[at], _rounding(float(detach(values[0])), n * m), 0)
        left, right = (to_numpy(gram) for gram in self._outer)
        between = [(to_numpy(A), to_numpy(B)) for A, B in self._between]
        value, error, iterations = extreme(left, right, between, largest=which == "greatest")
        return Eigenvalue(from_numpy(np.asarray(self._scale * value), self._like), self._scale * error, iterations)

    def _converged(self, which: str) -> Array:
        found = self.eigenvalue(which)
        if not found.iterations:  # it was computed, to rounding
            return found.value
        n, m = self.shape
        size = sum(norm(A) / math.sqrt(A.shape[0]) for A in self._outer)
        size = size or sum(norm(A) * norm(B) for A, B in self._between) / math.sqrt(n * m)  # neither is trained
        if found.error <= UNCONVERGED * self._scale * size:
            return found.value
        raise RuntimeError(
            f"the {which} eigenvalue of T ({n}×{m}) was not found: after {found.iterations} iterations it is "
            f"{float(found.value):.3g} with an error of {found.error:.2g}. For a lower bound use linflow.bounds.best."
        )


def _trained(trained: Sequence[bool] | None, depth: int) -> list[bool]:
    """Return whether each layer is trained, after checking the argument."""
    kept = [True] * depth if trained is None else list(trained)
    if len(kept) != depth or not all(isinstance(keep, (bool, np.bool_)) for keep in kept):
        raise ValueError(f"trained is {trained!r}; True or False for each of the {depth} layers is needed.")
    if not any(kept):
        raise ValueError("no layer is trained, so the product does not move and T is 0; train at least one.")
    return kept


def tangent_rounding(network: Network) -> float:
    """Return the rounding error of an eigenvalue of T that is computed from these weights.

    It is `16 ε L sqrt(max(nm, h)) c² Σ_l Π_{i≠l} ‖W_i‖_F²`. For one layer it is 0, since T is then a multiple of the
    identity.
    """
    if network.depth == 1:
        return 0.0
    sizes, (n, m) = network.sizes, network.shape
    terms = sum(math.prod(sizes[:l] + sizes[l + 1 :]) ** 2 for l in range(len(sizes)))
    return 16 * EPS * network.depth * math.sqrt(max(n * m, *network.widths)) * network.scale**2 * terms


def _rounding(size: float, order: int) -> float:
    """Return the rounding error of eigenvalues of a symmetric matrix, computed by a backward stable method."""
    return 4 * EPS * math.sqrt(order) * size
