"""Two narrow layers: the loss gap falls at a known rate to the best that one of the layers, as it starts, allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linflow._support.arrays import EPS, Array, namespace, norm, singular_values, to_numpy
from linflow.certificates._base import Guarantee
from linflow.certificates.curves import LimitCurve
from linflow.certificates.setting import Setting

CELLS = 200
"""Cells of the square root of the gap on which the path is bounded, and how many limits are tried."""
UP, DOWN = 1 + 1e-10, 1 - 1e-10
"""For the rounding of sums and products of some hundred terms."""


def low_rank(setting: Setting) -> list[Guarantee]:
    """Return the guarantee on the flow of two layers that are too narrow for some matrices; no row for others.

    Let U (n×r) and V (r×m) be the layers and `σ² = λ_r(UᵀU − VVᵀ) > 0`, as for an adapter with `V(0) = 0`. Then
    `σ_r(U(t)) ≥ σ` for ever, and with `m(t) = min_Z f(cU(t)Z)` and a strongly convex f,
    `L̇ ≤ −2μc²σ² (L − m(t))`. The columns of U span nearly the same space for ever if the path is short, which bounds
    m(t) by a number m̄. So L falls to m̄ at the rate `2μc²σ²`. If `λ_1(UᵀU − VVᵀ) < 0`, the same holds with the
    layers exchanged.

    Source: this library, docs/lora.md, theorems 1 and 2.
    """
    if setting.depth != 2 or not setting.too_narrow:
        return []
    D = setting.invariants.spectra[0]
    least, most = float(D.lower[-1]), float(D.upper[0])
    reason, curve, facts = _why_not(setting, least, most), None, {}
    if not reason:
        frame = _Frame.of(setting, first=least > 0)
        start = frame.start(least if least > 0 else -most)
        limit = start.limit() if start.speed > 0 else None
        if limit is None:
            reason = (
                f"the range of {frame.name} may turn too far: sqrt(ℓ(0)) is {start.reach:.3g} times "
                f"σ_r({frame.name})² c sqrt(2μ); begin with a larger {frame.name}"
            )
        else:
            curve = LimitCurve(setting.gap, limit, start.speed)
            facts = {"limit": limit, "rate to the limit": start.speed, "best of this layer": start.floor}
    return [
        setting.guarantee(
            name="low rank",
            source="linflow, docs/lora.md",
            citation=("linflow",),
            reason=reason,
            curve=curve,
            facts=facts,
        )
    ]


def _why_not(setting: Setting, least: float, most: float) -> str:
    if setting.beyond_float64:
        return setting.beyond_float64
    if not setting.strongly_convex or not math.isfinite(setting.objective.smoothness):
        return "it needs a strongly convex objective with a known minimiser and smoothness"
    if setting.gap <= 0:
        return "the start is at the minimum"
    if not (least > 0 or most < 0):
        return "it needs a positive or negative definite W_1ᵀW_1 − W_2W_2ᵀ, as an adapter with one factor 0 has"
    return ""


@dataclass(frozen=True)
class _Frame:
    """The layer that keeps its rank, as U (n×r) of a product `c U V`, the other layer, and which way f is turned."""

    name: str
    setting: Setting
    U: Array
    other: Array
    transposed: bool

    @classmethod
    def of(cls, setting: Setting, *, first: bool) -> _Frame:
        U, V = setting.network.weights
        return cls("W_1", setting, U, V, False) if first else cls("W_2", setting, V.T, U, True)

    def _turned(self, W: Array) -> Array:
        return W.T if self.transposed else W

    def best(self) -> tuple[Array, float]:
        """Return a matrix `U Z` near the best one of this form, and a bound of its rounding, in the norm.

        It is the best one if f is quadratic, and the projection of W* else.
        """
        target, factors = self._turned(self.setting.objective.minimizer), self.setting.objective.factors
        side = None if factors is None else factors[1 if self.transposed else 0]
        seen, aim = self.U, target
        if side is not None:
            F = side.T if self.transposed else side
            seen, aim = F @ self.U, F @ target
        Z = namespace(seen).linalg.pinv(seen) @ aim
        return self.U @ Z, 4 * self.U.shape[1] * EPS * norm(self.U) * norm(Z)

    def start(self, squared: float) -> _Turning:
        """Return the numbers of theorem 2, for a lower bound `squared` of `σ_r(U)²`."""
        objective, c = self.setting.objective, self.setting.scale
        W, off = self.best()
        gradient, size = self._turned(objective.gradient(self._turned(W))), (norm(W) + off) * UP
        slack = objective.gradient_rounding(self.setting.network) + objective.smoothness * off
        turned = float(np.sum(to_numpy(singular_values(W @ gradient.T)))) * UP + off * norm(gradient) + size * slack
        moved = off * (norm(gradient) + slack) + 0.5 * objective.smoothness * off * off
        sigma = math.sqrt(squared) * DOWN
        return _Turning(
            gap=self.setting.gap,
            floor=objective.gap(self._turned(W)) * UP + moved + objective.rounding(self.setting.network),
            turned=turned,
            size=size,
            sigma=sigma,
            kappa=c * sigma * math.sqrt(2 * objective.strong_convexity) * DOWN,
            pull=c * math.sqrt(2 * objective.smoothness) * UP,
            other=float(singular_values(self.other)[0]) * UP,
            smoothness=objective.smoothness,
        )


@dataclass(frozen=True)
class _Turning:
    """The numbers of theorem 2.

    Attributes:
        gap: `L(0) − f*`.
        floor: `f(W̄) − f*` of a matrix W̄ in the range of U(0).
        turned: nuclear norm of `W̄ ∇f(W̄)ᵀ`.
        size: `‖W̄‖_F`.
        sigma: lower bound of `σ_r(U(t))`.
        kappa: `c σ sqrt(2μ)`; its square is the rate.
        pull: `c sqrt(2K)`.
        other: `‖V(0)‖₂`.
        smoothness: K.
    """

    gap: float
    floor: float
    turned: float
    size: float
    sigma: float
    kappa: float
    pull: float
    other: float
    smoothness: float

    @property
    def speed(self) -> float:
        """The rate at which the gap falls to the limit."""
        return self.kappa * self.kappa * DOWN

    @property
    def reach(self) -> float:
        """The square root of the gap, in the unit `σκ`."""
        unit = self.kappa * self.sigma
        return math.sqrt(self.gap) / unit if unit > 0 else math.inf

    def path(self, limit: np.ndarray) -> np.ndarray:
        """Return bounds of `∫ ‖U̇‖ dt` until the gap is at each limit: upper sums of the integral of theorem 2."""
        first = np.sqrt(self.gap - limit)[:, None]
        x = first * np.linspace(1.0, 0.0, CELLS + 1)
        high, low = x[:, :-1], self.kappa * x[:, 1:]
        force = self.pull * np.sqrt(limit[:, None] + high * high)
        most = force * (self.other + 2 * (first - x[:, 1:]) / self.kappa) * UP
        r = np.divide(most, low, out=np.ones(low.shape), where=most < low)  # no square, which could overflow
        return np.sum(2 * r / (1 + r * r) * (high - x[:, 1:]), axis=1) / self.kappa * UP

    def held(self, limit: np.ndarray) -> np.ndarray:
        """Return bounds of `m(t) − f*` until the gap is at each limit."""
        s = np.minimum(1.0, self.path(limit) / self.sigma * UP)
        return (self.floor + self.turned * s + 0.5 * self.smoothness * (self.size * s) ** 2) * UP

    def limit(self) -> float | None:
        """Return the least limit, of some, that `held` does not exceed; None if none is below the initial gap."""
        shares = (np.arange(1, CELLS) / CELLS) ** 2
        limits = self.floor + shares * (self.gap - self.floor)
        with np.errstate(over="ignore", invalid="ignore"):  # a limit that cannot be computed is not kept
            kept = self.held(limits) <= limits
        return float(limits[np.argmax(kept)]) if kept.any() else None
