"""Objectives `f: R^{n×m} → R` on the product, with their constants derived, never typed in by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from linflow import _checks
from linflow._arrays import EPS, Array, from_numpy, namespace, norm, to_numpy
from linflow.network import Network


class Objective:
    """A function of the product given by its value and gradient, with declared constants.

    The constants are those of the theory:

    - strong convexity `μ`: `f(V) ≥ f(W) + ⟨∇f(W), V − W⟩ + μ/2 ‖V − W‖²`;
    - smoothness `K`: `‖∇f(V) − ∇f(W)‖ ≤ K ‖V − W‖`;
    - gradient dominance (Polyak–Łojasiewicz) `γ`: `‖∇f(W)‖² ≥ γ (f(W) − f*)`, without a ½; `γ = 2μ` is always
      admissible and is the default.

    A run that contradicts a declared constant says so in `run.notes`.

    Args:
        value: `W ↦ f(W)`, a number.
        gradient: `W ↦ ∇f(W)`, an array of the shape of `W`.
        shape: `(n, m)`.
        strong_convexity: `μ > 0` if known.
        smoothness: `K > 0` if known.
        pl_constant: `γ > 0` if known; `2μ` otherwise.
        minimum: `f*`; computed from `minimizer`, or numerically, when left out.
        minimizer: `W*`, needed for a margin; computed numerically when left out.
        like: an array of the kind that `value` and `gradient` take; NumPy by default.

    Raises:
        ValueError: non-positive or inconsistent constants (`μ ≤ K`, `γ ≤ 2K` hold for every function), or a
            minimum that is neither given nor computable.

    Example:
        >>> import numpy as np, linflow as lf
        >>> Y = np.eye(2)
        >>> f = lf.Objective(lambda W: float(((W - Y) ** 2).sum()), lambda W: 2 * (W - Y), shape=(2, 2),
        ...                  strong_convexity=2.0, smoothness=2.0)
        >>> f.pl_constant, bool(abs(f.minimum) < 1e-12)
        (4.0, True)
    """

    name = "user-defined objective"
    derived = False
    """Whether the constants follow from the data, rather than from a declaration that a run may contradict."""

    def __init__(
        self,
        value: Callable[[Array], Any],
        gradient: Callable[[Array], Array],
        *,
        shape: tuple[int, int],
        strong_convexity: float | None = None,
        smoothness: float | None = None,
        pl_constant: float | None = None,
        minimum: float | None = None,
        minimizer: Any = None,
        like: Array | None = None,
    ):
        n, m = _checks.widths(shape)
        self.shape = (n, m)
        self._value, self._gradient = value, gradient
        mu = 0.0 if strong_convexity is None else _checks.positive(strong_convexity, "strong_convexity")
        K = math.inf if smoothness is None else _checks.positive(smoothness, "smoothness")
        gamma = 2 * mu if pl_constant is None else _checks.positive(pl_constant, "pl_constant")
        if mu > K:
            raise ValueError(
                f"strong_convexity {mu:g} exceeds smoothness {K:g}; every function has μ ≤ K. Were the two exchanged?"
            )
        if gamma > 2 * K:
            raise ValueError(
                f"pl_constant {gamma:g} exceeds 2·smoothness = {2 * K:g}; with ‖∇f‖² ≥ γ (f − f*) (no ½) "
                "every function has γ ≤ 2K."
            )
        self.strong_convexity, self.smoothness, self.pl_constant = mu, K, max(gamma, 2 * mu)
        self.notes: tuple[str, ...] = ()
        if minimizer is not None:
            minimizer, note = _checks.matrix(minimizer, "minimizer", self.shape)
            self.notes = (note,) if note else ()
        elif minimum is None:
            minimizer = self._find_minimizer(np.zeros(self.shape) if like is None else like)
        self.minimizer: Any = minimizer
        self.minimum = float(value(minimizer)) if minimum is None else float(minimum)
        if not math.isfinite(self.minimum):
            raise ValueError(f"the minimum f* is {self.minimum}; a finite number is needed.")

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        return float(self._value(W))

    def gap(self, W: Array) -> float:
        """Return `f(W) − f*`, without cancellation where the objective's form allows."""
        return self.value(W) - self.minimum

    def rounding(self, W: Array) -> float:
        """Return the size below which a gap at W is rounding: here `8ε max(|f|, |f*|)`."""
        return 8 * EPS * max(abs(self.value(W)), abs(self.minimum))

    def gradient_rounding(self, W: Array) -> float:
        """Return the size of the rounding in `∇f(W)`: here `4ε‖∇f‖`, as the inner cancellation is unknown."""
        return 4 * EPS * norm(self.gradient(W))

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W)`, shape `(n, m)`."""
        return self._gradient(W)

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f(W)[V]`; by a central difference of the gradient unless the objective knows better."""
        size = norm(V)
        if size == 0.0:
            return V
        step = EPS ** (1 / 3) * max(norm(W), 1.0) / size
        return (self.gradient(W + step * V) - self.gradient(W - step * V)) / (2 * step)

    def effective(self, network: Network) -> tuple[Objective, Network]:
        """Return objective and network restricted to what the objective sees; themselves if it sees all.

        With a rank-deficient design the loss depends on part of the product only and the rest of the outer
        layers never moves. The theory applies to the restricted pair, which follows the same flow.
        """
        return self, network

    def check_network(self, network: Network) -> None:
        """Raise ValueError or TypeError unless `network` has the shape and array kind this objective takes."""
        if network.shape != self.shape:
            raise ValueError(
                f"the network's product is {network.shape[0]}×{network.shape[1]} but the {self.name} needs "
                f"{self.shape[0]}×{self.shape[1]}; the widths must begin with {self.shape[0]} and end with "
                f"{self.shape[1]}."
            )
        if self.minimizer is not None:
            namespace(self.minimizer, *network.weights)

    def _find_minimizer(self, like: Array) -> Array:
        """Minimise numerically; under gradient dominance `f − f* ≤ ‖∇f‖²/γ` shows how well it worked."""
        if self.pl_constant == 0:
            raise ValueError(
                "the minimum f* is unknown and cannot be computed for a function that is not declared convex: "
                "give minimum=, minimizer=, strong_convexity= or pl_constant=."
            )
        from scipy.optimize import minimize  # noqa: PLC0415 - scipy.optimize is slow to import

        def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
            W = from_numpy(x.reshape(self.shape), like)
            return self.value(W), to_numpy(self.gradient(W)).ravel()

        x = np.zeros(self.shape[0] * self.shape[1])
        first, g = value_and_gradient(x)
        value = first
        for _ in range(20):  # restarts drop the quasi-Newton memory, which polishes the last digits
            found = minimize(value_and_gradient, x, jac=True, method="BFGS", options={"gtol": 0.0, "maxiter": 500})
            if not found.fun < value:
                break
            x = found.x
            value, g = value_and_gradient(x)
        size = float(np.linalg.norm(g))
        if size**2 / self.pl_constant > 1e-12 * (first - value) + 8 * EPS * abs(value):
            raise ValueError(
                f"the minimum f* could not be computed: the gradient norm stayed at {size:.2g}. "
                "Give minimizer= (or minimum=), and check that value and gradient agree."
            )
        return from_numpy(x.reshape(self.shape), like)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.shape[0]}×{self.shape[1]}, μ={self.strong_convexity:.4g}, "
            f"K={self.smoothness:.4g}, γ={self.pl_constant:.4g})"
        )


class _Quadratic(Objective):
    """`f(W) = f* + ½‖F (W − W*) H‖²` with `F` (r×n) and `H` (m×q) of full rank, None for the identity.

    Every quadratic objective takes this form; the gap and gradient are free of cancellation near `W*`.
    `V` (n×r) and `U` (m×q) are orthonormal bases of what `F` and `H` see; None when they see everything.
    """

    derived = True

    def __init__(self, minimizer, minimum, F=None, H=None, s=(1.0,), t=(1.0,), V=None, U=None, notes=()):
        self.shape = tuple(minimizer.shape)
        self.minimizer, self.minimum, self.notes = minimizer, float(minimum), tuple(notes)
        self._F, self._H, self._V, self._U = F, H, V, U
        # s and t are the nonzero singular values of F and H.
        least, largest = float(min(s)) * float(min(t)), float(max(s)) * float(max(t))
        self._least, self._largest = least, largest
        self.smoothness = largest**2
        self.pl_constant = 2 * least**2
        self.strong_convexity = least**2 if V is None and U is None else 0.0

    def _residual(self, E: Array) -> Array:
        E = E if self._F is None else self._F @ E
        return E if self._H is None else E @ self._H

    def _adjoint(self, E: Array) -> Array:
        E = E if self._F is None else self._F.T @ E
        return E if self._H is None else E @ self._H.T

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        return self.gap(W) + self.minimum

    def rounding(self, W: Array) -> float:
        """Return the size below which a gap at W is rounding: `½K (4ε)² (‖W‖² + ‖W*‖²)`."""
        return 0.5 * self.smoothness * (4 * EPS) ** 2 * (norm(W) ** 2 + norm(self.minimizer) ** 2)

    def gradient_rounding(self, W: Array) -> float:
        """Return the size of the rounding in `∇f(W)`: `4εK (‖W‖ + ‖W*‖)`."""
        return 4 * EPS * self.smoothness * (norm(W) + norm(self.minimizer))

    def gap(self, W: Array) -> float:
        """Return `f(W) − f*`."""
        E = self._residual(W - self.minimizer)
        return 0.5 * float(namespace(E).sum(E * E))

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W)`, shape `(n, m)`."""
        return self._adjoint(self._residual(W - self.minimizer))

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f[V]`, which does not depend on `W`."""
        return self._adjoint(self._residual(V))

    def effective(self, network: Network) -> tuple[Objective, Network]:
        """Return objective and network in the coordinates of the row (and column) space the objective sees.

        `W ↦ Vᵀ W U`, `W_1 ↦ Vᵀ W_1`, `W_L ↦ W_L U`. The frozen part `(I − VVᵀ) W_1` never moves, so `D_1` less
        that part is conserved too, and it is the imbalance of the restricted network.
        """
        V, U = self._V, self._U
        if V is None and U is None:
            return self, network
        weights = list(network.weights)
        minimizer, F, H = self.minimizer, self._F, self._H
        if V is not None:
            weights[0], minimizer, F = V.T @ weights[0], V.T @ minimizer, F @ V
        if U is not None:
            weights[-1], minimizer, H = weights[-1] @ U, minimizer @ U, U.T @ H
        restricted = _Quadratic(minimizer, self.minimum, F, H, s=(self._least, self._largest), notes=self.notes)
        return restricted, network.with_weights(weights)


class MatrixFactorization(_Quadratic):
    """Matrix factorization `f(W) = ½‖Y − W‖_F²`: `W* = Y`, `f* = 0`, `μ = K = 1`, `γ = 2`.

    Args:
        Y: target, shape `(n, m)`, any array kind.

    Raises:
        ValueError: when `Y` is not a finite, non-empty matrix.

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.MatrixFactorization(np.ones((3, 2)))
        MatrixFactorization(3×2, μ=1, K=1, γ=2)
    """

    name = "matrix factorization objective"

    def __init__(self, Y: Any):
        Y, note = _checks.matrix(Y, "Y")
        super().__init__(Y, 0.0, notes=(note,) if note else ())


class LinearRegression(_Quadratic):
    """Linear regression `f(W) = ½‖Y − XW‖_F²` with `N` samples in rows.

    `μ = σ_min²(X)`, `K = σ_max²(X)`, `γ = 2σ_r²(X)` with `r = rank X` (numerical rank: singular values not above
    `max(N, n)·ε·σ_max` count as 0). When `r < n`, `μ = 0` on the whole space, `W*` is the minimum-norm solution
    and `effective` gives the strongly convex restriction to the row space.

    Args:
        X: inputs, shape `(N, n)`.
        Y: outputs, shape `(N, m)`.

    Raises:
        ValueError: when the rows of X and Y differ in number, X is zero, or entries are not finite.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.LinearRegression(np.diag([1.0, 2.0]), np.ones((2, 1)))
        >>> f, f.minimizer.ravel()
        (LinearRegression(2×1, μ=1, K=4, γ=2), array([1. , 0.5]))
    """

    name = "linear regression objective"

    def __init__(self, X: Any, Y: Any):
        X, note_x = _checks.matrix(X, "X")
        Y, note_y = _checks.matrix(Y, "Y")
        xp = namespace(X, Y)
        if X.shape[0] != Y.shape[0]:
            raise ValueError(f"X has {X.shape[0]} rows and Y has {Y.shape[0]}; both need one row per sample.")
        left, s, Vt = xp.linalg.svd(X, full_matrices=False)
        rank = _rank(s, max(X.shape), "X")
        self.rank = rank
        left, s, Vt = left[:, :rank], s[:rank], Vt[:rank, :]
        W = Vt.T @ ((left.T @ Y) / s[:, None])
        R = Y - X @ W
        super().__init__(
            W,
            0.5 * float(xp.sum(R * R)),
            F=s[:, None] * Vt,
            s=to_numpy(s),
            V=Vt.T if rank < X.shape[1] else None,
            notes=[note for note in (note_x, note_y) if note],
        )


class Quadratic(_Quadratic):
    """General quadratic `f(W) = ½⟨W, A W B⟩ − ⟨C, W⟩` with `A`, `B` symmetric positive semidefinite.

    `W* = A⁺ C B⁺`, `μ = λ_min(A) λ_min(B)`, `K = λ_max(A) λ_max(B)`, `γ = 2 λ₊(A) λ₊(B)` with `λ₊` the least
    nonzero eigenvalue (eigenvalues not above `n·ε·λ_max` count as 0).

    Args:
        A: shape `(n, n)`.
        B: shape `(m, m)`, the identity when left out.
        C: shape `(n, m)`.

    Raises:
        ValueError: when A or B is not symmetric positive semidefinite, or f is unbounded below (C has a part
            outside the range of A and B).

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.Quadratic(np.diag([1.0, 3.0]), C=np.ones((2, 2)))
        Quadratic(2×2, μ=1, K=3, γ=2)
    """

    name = "quadratic objective"

    def __init__(self, A: Any, B: Any = None, C: Any = None):
        if C is None:
            raise ValueError("C is missing; ½⟨W, A W B⟩ − ⟨C, W⟩ needs the linear term C of shape (n, m).")
        C, note_c = _checks.matrix(C, "C")
        n, m = C.shape
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
        )


def _rank(s: Array, side: int, name: str) -> int:
    """Numerical rank from singular values in descending order."""
    s = to_numpy(s)
    if s[0] == 0:
        raise ValueError(f"{name} is zero; the objective would not depend on the product at all.")
    return int(np.sum(s > side * EPS * s[0]))


def _semidefinite_root(A: Any, name: str, side: int) -> tuple[Array, np.ndarray, Array | None, str | None]:
    """Return `F` (r×n) with `FᵀF = A`, its singular values, a basis of its row space if r < n, and a note."""
    A, note = _checks.matrix(A, name, (side, side))
    xp = namespace(A)
    if norm(A - A.T) > 1e-10 * norm(A):
        raise ValueError(f"{name} is not symmetric; pass ({name} + {name}ᵀ)/2, which gives the same f.")
    values, vectors = xp.linalg.eigh((A + A.T) / 2)
    eigenvalues = to_numpy(values)
    floor = side * EPS * float(np.max(np.abs(eigenvalues)))
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
