"""Huber regression: quadratic for small residuals and linear for large ones, so that outliers pull with one force."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, detach, from_numpy, namespace, norm, to_numpy, unmasked
from linflow._support.words import plural
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.robust import HuberFit, fitted, huber

LEAST, LARGEST = 1e-140, 1e140
"""Sizes of δ and of the data whose squares stay within float64, with room for sums."""

SOLVED = 1e-6
"""Largest excess of a computed minimum, relative to the loss at 0."""


class Huber(Objective):
    """Huber regression `f(W) = Σ_ij h(r_ij)`, `r = XW − Y`, `h(r) = ½r²` for `|r| ≤ δ`, else `δ|r| − ½δ²`.

    `K = σ_max²(X)`. Far out f grows only linearly, so on the whole space `μ = γ = 0`. Below a level ℓ of the gap
    there is more. For every set S of samples with `|r_ij| < δ` at the minimum, let `μ_S` be the least eigenvalue of
    `X_SᵀX_S`, and `ℓ_S` the least `(δ − |r_i|)²/(2h_i)` over S, with `h_i = x_iᵀ(X_SᵀX_S)⁻¹x_i`. Then

        `‖∇f(W)‖² ≥ 2μ_S min(f(W) − f*, ℓ_S)` for every W,

    so `γ(ℓ) = max_S 2μ_S min(1, ℓ_S/ℓ)` below the level ℓ (`pl_constant_on`). Guarantees use that of the level which
    they have reached: the gap falls linearly in time at first, then exponentially. Once all residuals are sure to
    stay within δ, γ is that of the linear regression. `effective` has the constants of the level of the start.

    Attributes:
        X: inputs.
        Y: outputs.
        delta: δ.
        excess: upper bound of how far the computed minimum is above f*.

    Args:
        X: inputs, shape `(N, n)`.
        Y: outputs, shape `(N, m)`.
        delta: the threshold δ > 0, in the unit of Y; 1 by default, as in PyTorch.

    Raises:
        ValueError: δ is not positive, shapes do not fit, X is zero, entries are not finite or too large, or the
            minimum cannot be computed.

    Source: docs/losses.md, section 5; the loss is that of Huber 1964.

    Example:
        >>> import numpy as np, linflow as lf
        >>> X, Y = np.vstack([np.eye(2)] * 3), np.array([[1.0], [2.0], [1.5], [100.0], [1.25], [2.25]])
        >>> f = lf.Huber(X, Y, delta=0.5)
        >>> f, f.minimizer.ravel().round(6).tolist()
        (Huber(2×1, 6 samples, δ=0.5), [1.25, 2.375])
        >>> near, far = f.pl_constant_on(np.array([1e-3, 1.0]))
        >>> round(float(near), 6), round(float(far / near), 6)
        (4.0, 0.035156)
    """

    name = "Huber regression objective"
    citations = frozenset({"huber1964"})
    derived = True
    convex = True
    strong_convexity = pl_constant = 0.0

    def __init__(self, X: Any, Y: Any, delta: float = 1.0):
        X, note_x = checks.matrix(X, "X")
        Y, note_y = checks.matrix(Y, "Y")
        self.delta = checks.positive(delta, "delta")
        namespace(X, Y)
        if X.shape[0] != Y.shape[0]:
            raise ValueError(
                f"X has {plural(X.shape[0], 'row')} and Y has {Y.shape[0]}; both need one row per sample."
            )
        for size, what in ((norm(X), "‖X‖"), (norm(Y), "‖Y‖"), (self.delta, "delta")):
            if size > LARGEST or 0 < size < LEAST:
                raise ValueError(f"{what} is {size:.3g}, whose square leaves float64; rescale the data.")
        self.X, self.Y, self.samples = X, Y, int(X.shape[0])
        self.shape = (int(X.shape[1]), int(Y.shape[1]))
        self.notes = tuple(note for note in (note_x, note_y) if note)
        inputs, outputs = to_numpy(X), to_numpy(Y)
        _, s, Vt = np.linalg.svd(inputs, full_matrices=False)
        rank = int(np.sum(s > max(inputs.shape) * EPS * s[0]))
        if rank == 0:
            raise ValueError("X is zero; the objective would not depend on the product at all.")
        self.rank, self.smoothness = rank, float(s[0]) ** 2
        basis = Vt[:rank].T
        self.row_space = None if rank == inputs.shape[1] else from_numpy(basis, X)
        self._solve(inputs, outputs, basis, float(s[rank - 1]))

    def _solve(self, inputs: np.ndarray, outputs: np.ndarray, basis: np.ndarray, least: float) -> None:
        """Compute the minimum, and what is known of the loss around it."""
        seen = inputs if self.row_space is None else inputs @ basis
        columns = [fitted(seen, y, self.delta) for y in outputs.T]
        self._fits = [HuberFit.of(seen, y, w, self.delta, least) for y, w in zip(outputs.T, columns, strict=True)]
        best = np.stack(columns, axis=1)
        best = best if self.row_space is None else basis @ best
        self.minimizer = from_numpy(best, self.X)
        self.excess = math.fsum(fit.excess for fit in self._fits)
        first = math.fsum(huber(outputs, self.delta).ravel())
        R = self.X @ self.minimizer - self.Y
        self.minimum = math.fsum(huber(to_numpy(R), self.delta).ravel())
        if not self.excess <= SOLVED * first + 1e3 * LEAST * LEAST:
            raise ValueError(
                f"the minimum could be computed to {self.excess:.2g} only, against a loss of {first:.3g} at W = 0; "
                "use a larger delta."
            )
        xp, d = namespace(R), self.delta
        self._residual, self._slope = R, xp.clip(R, -d, d)
        self._lengths = from_numpy(np.linalg.norm(inputs, axis=1)[:, None], self.X)

    def _moved(self, W: Array) -> tuple[Array, Array, Array]:
        """Return `X(W − W*)`, the residuals, and how far they are from the slopes at the minimum."""
        D = self.X @ (unmasked(W, "W") - self.minimizer)
        return D, self._residual + D, (self._residual - self._slope) + D

    def _turned(self, R: Array, away: Array) -> Array:
        """Return `h'(r) − h'(r*)`."""
        xp, d = namespace(R), self.delta
        return xp.where(xp.abs(R) <= d, away, xp.sign(R) * d - self._slope)

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        return self.gap(W) + self.minimum

    def gap(self, W: Array) -> float:
        """Return `f(W) − f*`, as the sum of `h(r) − h(r*) − h'(r*)(r − r*)`, none of which is negative."""
        _, R, away = self._moved(W)
        xp, d = namespace(R), self.delta
        with np.errstate(over="ignore", invalid="ignore"):  # the gap is then inf
            turned = d - xp.sign(R) * self._slope
            parts = xp.where(xp.abs(R) <= d, 0.5 * away * away, turned * ((xp.abs(R) - d) + 0.5 * turned))
            return float(detach(xp.sum(parts)))

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W) = Xᵀ(h'(r) − h'(r*))`; shape `(n, m)`. At W* it is 0."""
        _, R, away = self._moved(W)
        return self.X.T @ self._turned(R, away)

    def batch_gradient(self, W: Array, rows: Array) -> Array:
        """Return `N/|B| Σ_{i∈B} ∇f_i(W)`, the gradient on the samples `rows` scaled to all of them."""
        R = self.X[rows] @ unmasked(W, "W") - self.Y[rows]
        slopes = namespace(R).clip(R, -self.delta, self.delta)
        return ((self.samples or 0) / len(rows)) * (self.X[rows].T @ slopes)

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `Xᵀ(1_{|r| ≤ δ} ∘ XV)`, which is `∇²f(W)[V]` where no residual is ±δ."""
        _, R, _ = self._moved(W)
        moved = self.X @ unmasked(V, "V")
        xp = namespace(R)
        return self.X.T @ xp.where(xp.abs(R) <= self.delta, moved, xp.zeros_like(moved))

    def pl_constant_on(self, gaps: Any) -> Any:
        """Return γ with `‖∇f(W)‖² ≥ γ (f(W) − f*)` wherever the gap is at most each of `gaps`."""
        return self._below("dominance", gaps)

    def growth_on(self, gaps: Any) -> Any:
        """Return μ with `f(W) − f* ≥ ½μ‖W − W*‖²` wherever the gap is at most each of `gaps`."""
        return self._below("growth", gaps)

    def _below(self, name: str, gaps: Any) -> np.ndarray:
        levels = np.maximum(np.asarray(gaps, dtype=np.float64), 0.0) * (1 + 8 * EPS) + self.excess
        none = np.zeros_like(levels)
        each = [[getattr(piece, name)(levels) for piece in fit.pieces] for fit in self._fits]
        return np.min([np.max(found, axis=0) if found else none for found in each], axis=0)

    def effective(self, network: Network) -> tuple[Huber, Network]:
        """Return objective and network in coordinates of the row space of X, with the constants of this level.

        Flow and certified descent never leave the set where f is at most its value at the start.
        """
        seen, V = copy.copy(self), self.row_space
        seen.pl_constant = float(self.pl_constant_on(self.gap(network.product()) + self.rounding(network)))
        if V is None:
            return seen, network
        seen.X, seen.row_space, seen.minimizer = self.X @ V, None, V.T @ self.minimizer
        seen.shape = (self.rank, self.shape[1])
        return seen, network.restricted([V.T @ network.weights[0], *network.weights[1:]])

    def _crossers(self, R: Array, D: Array) -> Array:
        """Return what the rounding of r* may change in the slope of each sample that crossed a kink."""
        xp, d = namespace(R), self.delta
        other = xp.where(xp.abs(R) <= d, xp.abs(self._residual) > d, xp.abs(self._residual) <= d)
        off = 4 * EPS * (self._lengths * norm(self.minimizer) + xp.abs(self.Y))
        return xp.where(other, xp.minimum(off, xp.minimum(xp.abs(D), 2 * d + 0 * D)), 0 * D)

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding.

        It is `8ε(f − f*) + Σ|h'(r) − h'(r*)| e_i + ½Σe_i²` with `e_i = 4ε‖x_i‖(c Π‖W_l‖_F + ‖W*‖_F)`, the rounding of
        r* where a kink was crossed, and the excess of the computed minimum.
        """
        W = network.product()
        D, R, away = self._moved(W)
        xp, e = namespace(R), 4 * EPS * self._lengths * (network.magnitude() + norm(self.minimizer))
        turned = xp.abs(self._turned(R, away))
        moved = xp.sum(turned * e) + 0.5 * self.shape[1] * xp.sum(e * e) + xp.sum(self._crossers(R, D) * xp.abs(D))
        return 8 * EPS * self.gap(W) + float(detach(moved)) + self.excess

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `∇f(W)`: `‖X‖‖e‖_F + 4ε Σ_i ‖x_i‖ ‖h'(r_i) − h'(r_i*)‖`, and kinks."""
        D, R, away = self._moved(network.product())
        xp, e = namespace(R), 4 * EPS * self._lengths * (network.magnitude() + norm(self.minimizer))
        rows = xp.sqrt(xp.sum(self._turned(R, away) ** 2, axis=1))[:, None]
        direct = float(detach(xp.sum(self._lengths * (4 * EPS * rows))))
        spread = math.sqrt(self.shape[1] * self.smoothness) * norm(e)
        return direct + spread + math.sqrt(self.smoothness) * norm(self._crossers(R, D))

    @property
    def minimizer_size(self) -> float:
        """The size to which the rounding of W* is relative: `4‖W*‖_F`, and what its gradient says that it is off."""
        away = math.hypot(*(fit.distance for fit in self._fits))
        return 4 * norm(self.minimizer) + (away / EPS if math.isfinite(away) else 0.0)

    def check_network(self, network: Network) -> None:
        """Raise ValueError or TypeError unless `network` has the shape and array kind that this objective needs."""
        super().check_network(network)
        namespace(self.X, *network.weights)

    def _shifted(self, W0: Array) -> Huber:
        return Huber(self.X, self.Y - self.X @ W0, self.delta)

    def __repr__(self) -> str:
        n, m = self.shape
        return f"Huber({n}×{m}, {plural(self.samples or 0, 'sample')}, δ={self.delta:g})"
