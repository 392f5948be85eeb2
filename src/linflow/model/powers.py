"""Regression under the p-norm: convex, but neither smooth nor strongly convex; and the constants that it has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, namespace, to_numpy, unmasked
from linflow._support.words import plural
from linflow.model.network import Network
from linflow.model.objectives import Objective

DUALITY = 1e-9
"""Largest gap, relative to f*, between a computed minimum and the lower bound of its dual problem."""


class LpRegression(Objective):
    """Regression `f(W) = (1/p) Σ_ij |Y − XW|_ij^p`, `p ≥ 2`, with `N` samples in rows.

    For `p > 2` the curvature is 0 where the residual is, and grows without bound: there are no μ, K and γ. What there
    is, with σ the least nonzero singular value of X and `κ = 2^{2−p} (Nm)^{1−p/2} σ^p`:

    - *growth*: `f(W) − f* ≥ (κ/p) ‖W − W*‖_F^p` on the part of W that f sees;
    - *dominance*: `‖∇f(W)‖_F^{p/(p−1)} ≥ C (f(W) − f*)`, `C = (p/(p−1)) κ^{1/(p−1)}`; if X has full row rank (then
      `f* = 0`), `C = p ((Nm)^{1−p/2} σ^p)^{1/(p−1)}`;
    - *smoothness below a level*: where `f − f* ≤ y`, the Hessian is at most
      `K(y) = (p − 1) ‖X‖² (p (f* + y))^{1−2/p}` (`smoothness_below`).

    At `p = 2` they are those of `LinearRegression`. If X does not have full row rank, f* is computed by Newton's
    method and checked against the dual problem `max {⟨U, Y⟩ − (1/q) Σ|U|^q : XᵀU = 0}`, `1/p + 1/q = 1`.

    Attributes:
        p: the power.
        growth: κ.
        dominance: C.

    Args:
        X: inputs, shape `(N, n)`.
        Y: outputs, shape `(N, m)`.
        p: the power, at least 2.

    Raises:
        ValueError: `p < 2`, shapes that do not fit, X is zero, or f* cannot be computed to 10⁻⁹.

    Source: the objective is that of Arora, Cohen & Hazan 2018, section 6; the constants are of this library
        (docs/acceleration.md).

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.LpRegression(np.eye(2), np.array([[2.0], [1.0]]), 4)
        >>> f.value(np.zeros((2, 1))), f.minimum, round(f.dominance, 6)
        (4.25, 0.0, 3.174802)
    """

    name = "p-norm regression objective"
    citations = frozenset({"arora2018"})
    derived = True
    convex = True

    def __init__(self, X: Any, Y: Any, p: float):
        X, note_x = checks.matrix(X, "X")
        Y, note_y = checks.matrix(Y, "Y")
        self.p = checks.number(p, "p")
        if not self.p >= 2:
            raise ValueError(f"p is {p!r}; a power of 2 or more is needed: below 2 the curvature is infinite at 0.")
        if X.shape[0] != Y.shape[0]:
            raise ValueError(
                f"X has {plural(X.shape[0], 'row')} and Y has {Y.shape[0]}; both need one row per sample."
            )
        namespace(X, Y)
        self.X, self.Y, self.shape = X, Y, (X.shape[1], Y.shape[1])
        U, s, Vt = np.linalg.svd(to_numpy(X), full_matrices=False)
        rank = int(np.sum(s > max(X.shape) * EPS * s[0]))
        if rank == 0:
            raise ValueError("X is zero; the objective would not depend on the product at all.")
        self.rank, self._norm = rank, float(s[0])
        self.row_space = None if rank == X.shape[1] else from_numpy(Vt[:rank].T, X)
        least, count = float(s[rank - 1]), X.shape[0] * Y.shape[1]
        spread = count ** (1 - self.p / 2) * least**self.p
        self.growth = 2 ** (2 - self.p) * spread
        self.notes = tuple(note for note in (note_x, note_y) if note)
        seen, coordinates = to_numpy(X) @ Vt[:rank].T, (U[:, :rank].T @ to_numpy(Y)) / s[:rank, None]
        if rank == X.shape[0]:
            self.minimum, self.dominance = 0.0, self.p * spread ** (1 / (self.p - 1))
        else:
            self.dominance = self.p / (self.p - 1) * self.growth ** (1 / (self.p - 1))
            columns = [_minimised(seen, y, w, self.p) for y, w in zip(to_numpy(Y).T, coordinates.T, strict=True)]
            self.minimum, coordinates = math.fsum(v for v, _ in columns), np.stack([w for _, w in columns], axis=1)
        self.minimizer = from_numpy(Vt[:rank].T @ coordinates, X)
        quadratic = self.p == 2
        self.strong_convexity = least**2 if quadratic and self.row_space is None else 0.0
        self.smoothness = self._norm**2 if quadratic else math.inf
        self.pl_constant = 2 * least**2 if quadratic else 0.0

    def _residual(self, W: Array) -> Array:
        return self.X @ unmasked(W, "W") - self.Y

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        xp, R = namespace(W), self._residual(W)
        with np.errstate(over="ignore"):
            return float(xp.sum(xp.abs(R) ** self.p)) / self.p

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W) = Xᵀ (sign(R) |R|^{p−1})`, `R = XW − Y`."""
        xp, R = namespace(W), self._residual(W)
        with np.errstate(over="ignore", invalid="ignore"):  # inf or NaN, where the value is inf
            return self.X.T @ (R * xp.abs(R) ** (self.p - 2))

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f(W)[V] = (p − 1) Xᵀ (|R|^{p−2} ∘ XV)`."""
        xp, R = namespace(W), self._residual(W)
        with np.errstate(over="ignore", invalid="ignore"):
            return (self.p - 1) * (self.X.T @ (xp.abs(R) ** (self.p - 2) * (self.X @ V)))

    def smoothness_below(self, gap: float) -> float:
        """Return `K(y) = (p − 1) ‖X‖² (p (f* + y))^{1−2/p}`, a bound on the Hessian where `f − f* ≤ y`.

        Example:
            >>> import numpy as np, linflow as lf
            >>> lf.LpRegression(np.eye(1), np.array([[2.0]]), 4).smoothness_below(4.0)  # |r| ≤ 2, 3r² ≤ 12
            12.0
        """
        level = self.minimum + checks.positive(gap, "gap", allow_zero=True)
        return (self.p - 1) * self._norm**2 * (self.p * level) ** (1 - 2 / self.p)

    def effective(self, network: Network) -> tuple[Objective, Network]:
        """Return objective and network in coordinates of the row space of X."""
        V = self.row_space
        if V is None:
            return self, network
        seen: LpRegression = self.__copy__()
        seen.X, seen.shape, seen.row_space = self.X @ V, (self.rank, self.shape[1]), None
        seen.minimizer = V.T @ self.minimizer
        seen.strong_convexity = self.pl_constant / 2
        return seen, network.restricted([V.T @ network.weights[0], *network.weights[1:]])

    def __repr__(self) -> str:
        return f"LpRegression({self.shape[0]}×{self.shape[1]}, p={self.p:g}, dominance={self.dominance:.4g})"


def _minimised(X: np.ndarray, y: np.ndarray, w: np.ndarray, p: float) -> tuple[float, np.ndarray]:
    """Minimise `(1/p) Σ|Xw − y|^p` from the least-squares solution w, by Newton's method with halved steps."""

    def value(w: np.ndarray) -> float:
        return float(np.sum(np.abs(X @ w - y) ** p)) / p

    with np.errstate(over="ignore"):
        best = value(w)
    if not math.isfinite(best):
        raise ValueError(
            f"the residuals leave float64 when they are raised to the power p = {p:g}; divide Y by a constant."
        )
    sizes = float(np.linalg.norm(X)) * float(np.linalg.norm(w)) + float(np.linalg.norm(y))
    noise = 16 * EPS * max(X.shape) * sizes
    if float(np.abs(X @ w - y).max()) <= noise:  # the data fit to rounding
        return 0.0, w
    for _ in range(200):
        r = X @ w - y
        size = float(np.abs(r).max())
        weight = (np.abs(r) / size) ** (p - 2)
        # Newton's step solves a least-squares problem; residuals of 0 have no weight.
        step = np.linalg.lstsq(np.sqrt(weight)[:, None] * X, np.sqrt(weight) * r, rcond=None)[0] / (p - 1)
        length = 1.0
        while value(w - length * step) > best and length > 1e-10:
            length /= 2
        new = value(w - length * step)
        if not new < best:
            break
        w, best = w - length * step, new
    if best - _dual(X, X @ w - y, y, p) > DUALITY * best:
        raise ValueError(
            f"the minimum f* could not be computed to {DUALITY:g} of its size for p = {p:g}; use a smaller p, or a "
            "linflow.Objective with minimum=."
        )
    return best, w


def _dual(X: np.ndarray, r: np.ndarray, y: np.ndarray, p: float) -> float:
    """Return a lower bound on the minimum: the dual objective at the residual's direction, made feasible."""
    u = -np.sign(r) * np.abs(r) ** (p - 1)
    u = u - X @ np.linalg.lstsq(X, u, rcond=None)[0]
    inner, size = float(u @ y), float(np.sum(np.abs(u) ** (p / (p - 1))))
    return inner * (inner / size) ** (p - 1) / p if inner > 0 and size > 0 else 0.0
