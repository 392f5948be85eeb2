"""Tied layers: an objective of `XXᵀ` as one of X, so that runs keep the tie."""

from __future__ import annotations

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, norm, to_numpy
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.quadratics import MatrixFactorization


class TiedLayers(Objective):
    """The loss `½ f(XXᵀ)` of tied layers `W_1 = X`, `W_2 = Xᵀ`, as a function of the one matrix X, `n × h`.

    Its gradient is `S X` with `S = ½(∇f + ∇fᵀ)` at `XXᵀ`. Give it to `gradient_flow`, `gradient_descent` or
    `landscape` with the one layer X. Two layers `[X, Xᵀ]` follow the same flow in exact arithmetic, but rounding
    makes their run leave it where f pulls towards negative eigenvalues; here the tie holds to the last bit.

    It is not convex in X: there are no μ, K and γ, and `certify` has no guarantee for it. Those of `[X, Xᵀ]` on f
    hold for it (docs/exact.md), if f* is reached by a matrix `XXᵀ`.

    The minimum is `½f*` if the minimiser of f is symmetric, has no negative eigenvalue and at most rank h. For a
    `MatrixFactorization` with symmetric Y it is `¼‖Y − P‖²`, P being the h largest positive eigenvalues of Y with
    their eigenvectors. For any other f it has to be given.

    Args:
        objective: f, of square matrices.
        width: h, the columns of X.
        minimum: the minimum of `½ f(XXᵀ)`, if it does not follow.

    Raises:
        ValueError: f is not about square matrices, or the minimum is not known.

    Source: docs/exact.md, symmetric factorization; Li, Luo & Lyu (ICLR 2021), section 3.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.TiedLayers(lf.MatrixFactorization(np.diag([2.0, -1.0])), width=2)
        >>> run = lf.gradient_flow(f, [0.1 * np.eye(2)], t_max=20.0)
        >>> X = run.weights[0]
        >>> (X @ X.T).round(4) + 0.0
        array([[2., 0.],
               [0., 0.]])
        >>> bool(np.allclose(X @ X.T, lf.exact.symmetric(np.diag([2.0, -1.0]), 0.1 * np.eye(2), 20.0), atol=1e-7))
        True
    """

    name = "objective of tied layers"
    citations = frozenset({"li2021glrl"})

    def __init__(self, objective: Objective, width: int, *, minimum: float | None = None):
        n, m = objective.shape
        if n != m:
            raise ValueError(f"the objective is about {n}×{m} matrices; XXᵀ is square, so give an n×n objective.")
        self.objective, self.shape = objective, (n, checks.count(width, "width"))
        self.strong_convexity, self.smoothness, self.pl_constant = 0.0, float("inf"), 0.0
        self.derived, self.notes = objective.derived, objective.notes
        self.minimizer, self._nearest, self._low = None, None, None
        reached = self._split(width)
        if minimum is not None:
            self.minimum = checks.number(minimum, "minimum")
        elif reached or self._low is not None:
            self.minimum = 0.5 * objective.minimum if reached else 0.25 * float(np.sum(to_numpy(self._low) ** 2))
        else:
            raise ValueError(
                "the least value of ½ f(XXᵀ) is not known: no XXᵀ of this width is the minimiser of f; give minimum=."
            )
        self._reached = reached and minimum is None
        self._given = minimum is not None

    def _split(self, width: int) -> bool:
        """Return whether the minimiser of f is some XXᵀ; for a factorization also find the nearest one that is."""
        best = self.objective.minimizer
        if best is None:
            return False
        Y = to_numpy(best)
        size = float(np.linalg.norm(Y))
        if np.linalg.norm(Y - Y.T) > 64 * EPS * size:
            return False
        values, vectors = np.linalg.eigh(0.5 * (Y + Y.T))
        kept = np.where(np.arange(len(Y)) >= len(Y) - width, np.maximum(values, 0.0), 0.0)
        if isinstance(self.objective, MatrixFactorization):
            self._nearest = from_numpy((vectors * kept) @ vectors.T, best)
            self._low = from_numpy((vectors * (values - kept)) @ vectors.T, best)
        return float(np.abs(values - kept).max()) <= 64 * EPS * size

    def _symmetric(self, Q: Array) -> Array:
        return 0.5 * (Q + Q.T)

    def value(self, W: Array) -> float:
        """Return `½ f(XXᵀ)`."""
        return 0.5 * self.objective.value(W @ W.T)

    def gap(self, W: Array) -> float:
        """Return `½ f(XXᵀ)` less its minimum, without cancellation where that is known."""
        Q = W @ W.T
        if self._given:
            return self.value(W) - self.minimum
        if self._reached or self._nearest is None:
            return 0.5 * self.objective.gap(Q)
        # ¼‖Q − Y‖² − ¼‖P − Y‖² with ⟨P, P − Y⟩ = 0.
        return 0.25 * norm(Q - self._nearest) ** 2 - 0.5 * float((Q * self._low).sum())

    def gradient(self, W: Array) -> Array:
        """Return `S X`."""
        return self._symmetric(self.objective.gradient(W @ W.T)) @ W

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `S V + ½(H + Hᵀ) X`, `H = ∇²f[VXᵀ + XVᵀ]`."""
        Q, change = W @ W.T, V @ W.T + W @ V.T
        S, H = self.objective.gradient(Q), self.objective.hessian_product(Q, change)
        return self._symmetric(S) @ V + self._symmetric(H) @ W

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding: ½ of that of f at `[X, Xᵀ]`, or 4ε of the sums in it."""
        X = network.weights[0]
        both = 0.5 * self.objective.rounding(Network([X, X.T]))
        if self._given:
            return both + 4 * EPS * (abs(self.minimum) + abs(self.value(X)))
        low = 0.0 if self._low is None else norm(self._low)
        return both + 4 * EPS * low * norm(X) ** 2

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `S X`: that in `∇f`, times ‖X‖, and 4ε of the product."""
        X = network.weights[0]
        inner = self.objective.gradient_rounding(Network([X, X.T]))
        return norm(X) * (inner + 4 * EPS * norm(self.objective.gradient(X @ X.T)))

    def __repr__(self) -> str:
        return f"TiedLayers({self.objective!r}, width={self.shape[1]})"
