"""The guarantee on the heavy-ball flow `Ẅ_l + aẆ_l = −∂L/∂W_l` from rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linflow.certificates._base import Guarantee
from linflow.certificates.curves import log_ratio
from linflow.certificates.setting import NO_SMOOTHNESS, Setting
from linflow.certificates.step_bounds import NO_CAPS, STRICT, DescentBounds, cap_facts

SHARES = np.arange(1, 100) / 100
"""Values of s in (0, 1) that are tried; each gives a valid rate."""
TARGET = 1e-6
"""The share is the one with the earliest time to this fraction."""


@dataclass(frozen=True)
class HeavyBallCurve:
    """`ℓ(t) ≤ min(1, factor e^{−rate·t}) ℓ(0)`. The gap itself can rise, so no rate is kept at each time."""

    first: float
    rate: float
    factor: float

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        return self.first * min(1.0, self.factor * math.exp(-self.rate * t))

    def time(self, gap: float) -> float:
        """Return when the bound comes down to `gap`."""
        return 0.0 if gap >= self.first else log_ratio(self.first * self.factor, gap) / self.rate

    def rate_at(self, gap: float) -> float:
        """Return 0: the gap of a heavy ball can stand still or rise."""
        return 0.0


def heavy_ball(setting: Setting, friction: float) -> Guarantee:
    """Return the guarantee on the heavy-ball flow with this friction a.

    The energy `ℓ + ½Σ‖Ẇ_l‖²` never grows, so the gap stays at most ℓ(0), and the imbalances stay within
    `δ = 2ℓ(0)/a²` of those of the start. With β the curvature under the caps at that drift and α the floor of
    `λ_min(T)`, any s in (0, 1), `ε = 2a/(2β + a²/(2s) + (1 − s)γα)` and `e = ε√β < 1`:
    `ℓ(t) ≤ e^{−ct} ℓ(0)/(1 − e)`, `c = ε(1 − s)γα/(1 + e)`.

    Source: this library, docs/optimisers.md.
    """
    K, gamma = setting.objective.smoothness, setting.gamma
    why = NO_SMOOTHNESS if math.isinf(K) else setting.beyond_float64
    if not why and gamma == 0:
        why = "no gradient dominance is known for the objective: γ = 0"
    curve, facts = None, {}
    if not why:
        drift = drift_cap(setting.gap, friction)
        bounds = DescentBounds(setting, nearby=False)
        caps = bounds.caps(drift, bounds.high[:1])
        beta = float(bounds.curvature(caps, np.full(1, math.inf), 1, 0.0)[0])
        alpha = float(bounds.alphas(drift)[0])
        facts = {"β": beta, "α": alpha} | cap_facts(drift, math.inf, caps.layers[:, 0])
        if not math.isfinite(beta):
            why = NO_CAPS
        elif alpha <= 0:
            why = (
                f"the bound on λ_min(T) is 0 when imbalances may drift by 2ℓ(0)/a² = {drift:.3g}; take more "
                "friction, start nearer, or imbalance the start more"
            )
        elif setting.gap > 0:
            curve = best_curve(setting.gap, friction, beta, gamma * alpha)
            facts |= {"factor": curve.factor}
        else:
            why = "the start is at the minimum"
    return setting.guarantee(
        name="heavy ball",
        source="linflow, docs/optimisers.md",
        citation=("linflow", "polyak1964"),
        reason=why,
        curve=curve,
        facts=facts,
    )


def drift_cap(gap: float, friction: float) -> float:
    """Return `2ℓ(0)/a²`, raised by its rounding: a cap on `‖D_l(t) − D_l(0)‖` along a heavy-ball flow from rest."""
    return 2 * gap / friction / friction * STRICT


def best_curve(gap: float, friction: float, beta: float, rate: float) -> HeavyBallCurve:
    """Return the curve with the earliest time to 10⁻⁶ among the shares s; `rate` is γα."""
    a, s = friction, SHARES
    eps = 2 * a / (2 * beta + a * a / (2 * s) + (1 - s) * rate)
    e = eps * math.sqrt(beta)
    c = eps * (1 - s) * rate / (1 + e) / STRICT
    factor = STRICT / (1 - e)
    best = int(np.argmin(np.log(factor / TARGET) / c))
    return HeavyBallCurve(gap, float(c[best]), float(factor[best]))
