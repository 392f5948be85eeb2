"""Quadratic objectives: matrix factorization, linear regression and the general quadratic."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, detach, from_numpy, namespace, norm, to_numpy, unmasked
from linflow._support.words import plural
from linflow.model.network import Network
from linflow.model.objectives import Objective

SOLVED = 4.0
"""Rounding of a computed minimiser, in units of the rounding of its size. 100 regressions to 60×13 needed ≤ 1.8."""


class _Quadratic(Objective):
    """`f(W) = f* + ½‖F (W − W*) H‖²` with `F` (r×n) and `H` (m×q) of full rank, None for the identity.

    Every quadratic objective takes this form. The gap and the gradient are free of cancellation near `W*`.
    `V` (n×r) is an orthonormal basis of the row space of `F`, and `U` (m×q) of the column space of `H`. Each is None
    if the space is the whole space.
    """

    derived = True
    convex = True
    quadratic = True

    def __init__(self, minimizer, minimum, F=None, H=None, s=(1.0,), t=(1.0,), V=None, U=None, notes=(), size=0.0):
        self.shape = tuple(minimizer.shape)
        self.minimizer, self.minimum, self.notes = minimizer, float(minimum), tuple(notes)
        self._F, self._H, self.row_space, self._U = F, H, V, U
        # s and t are the nonzero singular values of F and H.
        least, largest = float(min(s)) * float(min(t)), float(max(s)) * float(max(t))
        self._least, self._largest = least, largest
        self._size = max(size, norm(minimizer))
        self.smoothness = largest * largest
        self.pl_constant = 2 * least * least
        self.strong_convexity = least * least if V is None and U is None else 0.0
        if not np.isfinite(self.smoothness) or self.pl_constant == 0:
            raise ValueError(
                f"the singular values {least:.3g} to {largest:.3g} of the {self.name} leave float64 when squared; "
                "rescale the data."
            )

    @property
    def column_space(self) -> Array | None:
        """Orthonormal basis, shape `(m, q)`, of the space in which f sees the rows of W; None if it sees all."""
        return self._U

    @property
    def factors(self) -> tuple[Array | None, Array | None]:
        """`F` and `H`, None for the identity."""
        return self._F, self._H

    @property
    def minimizer_size(self) -> float:
        """The size to which the rounding of W* is relative.

        If W* is given, it is `‖W*‖_F`. For a regression with residual R, it is four times `‖W*‖_F + ‖R‖_F/σ_min(X)`.
        For a general quadratic, it is four times `κ(F) κ(H) ‖W*‖_F`. The last two assume backward stable methods.
        """
        return self._size

    def _residual(self, E: Array) -> Array:
        E = E if self._F is None else self._F @ E
        return E if self._H is None else E @ self._H

    def _adjoint(self, E: Array) -> Array:
        E = E if self._F is None else self._F.T @ E
        return E if self._H is None else E @ self._H.T

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        return self.gap(W) + self.minimum

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding: `½K (4ε (c Π‖W_l‖_F + s))²`, s the `minimizer_size`."""
        size = 4 * EPS * (network.magnitude() + self.minimizer_size)
        return 0.5 * self.smoothness * size * size

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `∇f(W)`: `4εK (c Π‖W_l‖_F + s)`, s the `minimizer_size`."""
        return 4 * EPS * self.smoothness * (network.magnitude() + self.minimizer_size)

    def gap(self, W: Array) -> float:
        """Return `f(W) − f*`."""
        E = self._residual(unmasked(W, "W") - self.minimizer)
        with np.errstate(over="ignore"):  # the gap is then inf
            return 0.5 * float(detach(namespace(E).sum(E * E)))

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W)`, shape `(n, m)`."""
        return self._adjoint(self._residual(unmasked(W, "W") - self.minimizer))

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f[V]`, which does not depend on `W`."""
        return self._adjoint(self._residual(unmasked(V, "V")))

    def effective(self, network: Network) -> tuple[Objective, Network]:
        """Return objective and network in coordinates of the row (and column) space that the objective depends on.

        The coordinates are `W ↦ Vᵀ W U`, `W_1 ↦ Vᵀ W_1`, `W_L ↦ W_L U`. The frozen part `(I − VVᵀ) W_1` never moves.
        So `D_1` minus the contribution of that part is conserved too: it is the imbalance of the restricted network.
        """
        V, U = self.row_space, self._U
        if V is None and U is None:
            return self, network
        weights = list(network.weights)
        minimizer, F, H = self.minimizer, self._F, self._H
        if V is not None:
            weights[0], minimizer, F = V.T @ weights[0], V.T @ minimizer, F @ V
        if U is not None:
            weights[-1], minimizer, H = weights[-1] @ U, minimizer @ U, U.T @ H
        restricted = _Quadratic(
            minimizer, self.minimum, F, H, s=(self._least, self._largest), notes=self.notes, size=self.minimizer_size
        )
        return restricted, network.restricted(weights)


class MatrixFactorization(_Quadratic):
    """Matrix factorization `f(W) = ½‖Y − W‖_F²`: `W* = Y`, `f* = 0`, `μ = K = 1`, `γ = 2`.

    Args:
        Y: target, shape `(n, m)`, any array kind.

    Raises:
        ValueError: `Y` is not a finite, non-empty matrix.

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.MatrixFactorization(np.ones((3, 2)))
        MatrixFactorization(3×2, μ=1, K=1, γ=2)
    """

    name = "matrix factorization objective"

    def __init__(self, Y: Any):
        Y, note = checks.matrix(Y, "Y")
        self.Y = Y
        super().__init__(Y, 0.0, notes=(note,) if note else ())

    def _shifted(self, W0: Array) -> MatrixFactorization:
        return MatrixFactorization(self.Y - W0)


class LinearRegression(_Quadratic):
    """Linear regression `f(W) = ½ Σ_i w_i ‖y_i − Wᵀx_i‖² + ½ρ‖W‖_F²` with `N` samples in rows; `½‖Y − XW‖_F²` alone.

    `μ = σ_min²(X)`, `K = σ_max²(X)` and `γ = 2σ_r²(X)` with `r = rank X`. This is the numerical rank: singular values
    up to `max(N, n)·ε·σ_max` count as 0. If `r < n`, then `μ = 0` on the whole space and `W*` is the minimum-norm
    solution. `effective` then gives the strongly convex restriction to the row space.

    With weights and a ridge it is the regression on `X' = [√w ∘ X; √ρ I]` and `Y' = [√w ∘ Y; 0]`, and all constants
    are those of `X'`. The ridge is on the product, so it is not weight decay, which is on the layers. The rows are
    rounded when they are scaled; proofs are about the rounded ones.

    Attributes:
        X: the inputs that are fitted, `X'`.
        Y: the outputs that are fitted, `Y'`.

    Args:
        X: inputs, shape `(N, n)`.
        Y: outputs, shape `(N, m)`.
        weights: the weight `w_i ≥ 0` of each sample, shape `(N,)` or `(N, 1)`; 1 for all by default.
        ridge: ρ ≥ 0.

    Raises:
        ValueError: X, Y and weights have different numbers of rows, X is zero, a weight is negative, or entries are
            not finite.

    Source: docs/losses.md, section 2, for weights and ridge.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.LinearRegression(np.diag([1.0, 2.0]), np.ones((2, 1)))
        >>> f, f.minimizer.ravel()
        (LinearRegression(2×1, μ=1, K=4, γ=2), array([1. , 0.5]))
        >>> lf.LinearRegression(np.diag([1.0, 2.0]), np.ones((2, 1)), weights=[4.0, 0.0], ridge=1.0)
        LinearRegression(2×1, μ=1, K=5, γ=2)
    """

    name = "linear regression objective"

    def __init__(self, X: Any, Y: Any, *, weights: Any = None, ridge: float = 0.0):
        X, note_x = checks.matrix(X, "X")
        Y, note_y = checks.matrix(Y, "Y")
        xp = namespace(X, Y)
        if X.shape[0] != Y.shape[0]:
            raise ValueError(
                f"X has {plural(X.shape[0], 'row')} and Y has {Y.shape[0]}; both need one row per sample."
            )
        self.samples, ridge = int(X.shape[0]), checks.positive(ridge, "ridge", allow_zero=True)
        if weights is not None:
            root = from_numpy(np.sqrt(_weights(weights, self.samples)), X)
            X, Y = root * X, root * Y
        if ridge:
            below = np.sqrt(ridge) * np.eye(X.shape[1]), np.zeros((X.shape[1], Y.shape[1]))
            X, Y = xp.concat([X, from_numpy(below[0], X)]), xp.concat([Y, from_numpy(below[1], X)])
        self.X, self.Y = X, Y
        left, s, Vt = xp.linalg.svd(X, full_matrices=False)
        rank = _rank(s, max(X.shape), "X")
        self.rank = rank
        left, s, Vt = left[:, :rank], s[:rank], Vt[:rank, :]
        W = Vt.T @ ((left.T @ Y) / s[:, None])
        R = Y - X @ W
        left_over = norm(R)
        super().__init__(
            W,
            0.5 * left_over * left_over,
            F=s[:, None] * Vt,
            s=to_numpy(s),
            V=Vt.T if rank < X.shape[1] else None,
            size=SOLVED * (norm(W) + left_over / float(s[-1])),
            notes=[note for note in (note_x, note_y) if note],
        )

    def _shifted(self, W0: Array) -> LinearRegression:
        moved = LinearRegression(self.X, self.Y - self.X @ W0)
        moved.samples = self.samples  # the rows of a ridge are none
        return moved

    def batch_gradient(self, W: Array, rows: Array) -> Array:
        """Return `N/|B| X_Bᵀ(X_B W − Y_B) + ρW`, the gradient on the samples `rows` scaled to all of them."""
        X, N = self.X[rows], self.samples or 0
        found = (N / len(rows)) * (X.T @ (X @ unmasked(W, "W") - self.Y[rows]))
        below = self.X[N:]  # those of a ridge belong to every batch
        return found + below.T @ (below @ W - self.Y[N:]) if below.shape[0] else found


class Quadratic(_Quadratic):
    """General quadratic `f(W) = ½⟨W, A W B⟩ − ⟨C, W⟩` with `A`, `B` symmetric positive semidefinite.

    `W* = A⁺ C B⁺`, `μ = λ_min(A) λ_min(B)`, `K = λ_max(A) λ_max(B)` and `γ = 2 λ₊(A) λ₊(B)`, where `λ₊` is the least
    nonzero eigenvalue (eigenvalues up to `n·ε·λ_max` count as 0).

    Args:
        A: shape `(n, n)`.
        B: shape `(m, m)`; the identity if omitted.
        C: shape `(n, m)`.

    Raises:
        ValueError: A or B is not symmetric positive semidefinite, or f is unbounded below (C has a part outside the
            range of A and B).

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.Quadratic(np.diag([1.0, 3.0]), C=np.ones((2, 2)))
        Quadratic(2×2, μ=1, K=3, γ=2)
    """

    name = "quadratic objective"

    def __init__(self, A: Any, B: Any = None, C: Any = None):
        if C is None:
            raise ValueError("C is missing; ½⟨W, A W B⟩ − ⟨C, W⟩ needs the linear term C of shape (n, m).")
        C, note_c = checks.matrix(C, "C")
        n, m = C.shape
        self.A, self.B, self.C = A, B, C
        F, s, V, note_a = _semidefinite_root(A, "A", n)
        H, t, U, note_b = (None, (1.0,), None, None) if B is None else _semidefinite_root(B, "B", m)
        xp = namespace(*(a for a in (C, F, H) if a is not None))
        seen = C if V is None else V @ (V.T @ C)
        seen = seen if U is None else (seen @ U) @ U.T
        if norm(C - seen) > 100 * max(n, m) * EPS * norm(C):
            raise ValueError(
                "f is unbounded below: C has a part outside the range of A and B. Make A and B definite "
                "(add a ridge) or project C."
            )
        W = _solve_root(F, np.asarray(s), seen)
        W = W if H is None else _solve_root(H, np.asarray(t), W.T).T
        super().__init__(
            W,
            -0.5 * float(xp.sum(C * W)),
            F=F,
            H=None if H is None else H.T,
            s=s,
            t=t,
            V=V,
            U=U,
            notes=[note for note in (note_a, note_b, note_c) if note],
            size=SOLVED * norm(W) * float(max(s) / min(s)) * float(max(t) / min(t)),
        )

    def _shifted(self, W0: Array) -> Quadratic:
        moved = checks.matrix(self.A, "A")[0] @ W0
        moved = moved if self.B is None else moved @ checks.matrix(self.B, "B")[0]
        return Quadratic(self.A, self.B, self.C - moved)


def _weights(weights: Any, samples: int) -> np.ndarray:
    """Return the weights of the samples as a column."""
    found = checks.numbers(weights, "weights")
    found = found[:, None] if found.ndim == 1 else found
    if found.shape != (samples, 1):
        raise ValueError(f"weights has the shape {found.shape}; one for each of the {samples} samples is needed.")
    if not ((found >= 0) & (found < np.inf)).all():
        bad = found[~((found >= 0) & (found < np.inf))][0]
        raise ValueError(f"weights holds {bad:.3g}; finite numbers that are not negative are needed.")
    return found


def _rank(s: Array, side: int, name: str) -> int:
    """Return the numerical rank, from singular values in descending order."""
    s = to_numpy(s)
    if s[0] == 0:
        raise ValueError(f"{name} is zero; the objective would not depend on the product at all.")
    return int(np.sum(s > side * EPS * s[0]))


def _semidefinite_root(A: Any, name: str, side: int) -> tuple[Array, np.ndarray, Array | None, str | None]:
    """Return `F` (r×n) with `FᵀF = A`, its singular values, a basis of its row space (None if r = n) and a note."""
    A, note = checks.matrix(A, name, (side, side))
    xp = namespace(A)
    if norm(A - A.T) > 1e-10 * norm(A):
        raise ValueError(f"{name} is not symmetric; pass ({name} + {name}ᵀ)/2, which gives the same f.")
    values, vectors = xp.linalg.eigh((A + A.T) / 2)
    eigenvalues = to_numpy(values)
    floor = side * EPS * float(np.max(eigenvalues))
    if eigenvalues[0] < -10 * floor:
        raise ValueError(
            f"{name} has the negative eigenvalue {eigenvalues[0]:.3g}; positive semidefinite is needed, "
            "or f is unbounded below."
        )
    zero = side - _rank(from_numpy(np.maximum(eigenvalues[::-1], 0.0), A), side, name)
    V, s = vectors[:, zero:], np.sqrt(eigenvalues[zero:])
    return from_numpy(s, A)[:, None] * V.T, s, (V if zero else None), note


def _solve_root(F: Array, s: np.ndarray, C: Array) -> Array:
    """Return `(FᵀF)⁺ C` for `F = diag(s) Vᵀ`."""
    scale = from_numpy(s**2, F)[:, None]
    return F.T @ ((F @ C) / scale**2)
