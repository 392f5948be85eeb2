"""Guarantees on the flow under gradient dominance: from each bound, the lazy regime, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from linflow import bounds
from linflow._support.arrays import to_numpy
from linflow.bounds import Bound
from linflow.certificates._base import Guarantee
from linflow.certificates.curves import Curve, ExponentialCurve, LevelCurve
from linflow.certificates.envelope import envelope
from linflow.certificates.margin import most_of_least, product_range
from linflow.certificates.setting import NO_MARGIN, Setting
from linflow.exact.chain_rate import least_slope
from linflow.model.coefficients import ChainRegression


def exponential(setting: Setting) -> list[Guarantee]:
    """Return the guarantees on the flow that need `‖∇f‖² ≥ γ (f − f*)`.

    - One for each bound α on `λ_min(T)`: D is conserved and `σ_min(W(t))` never falls below the margin, so
      `ℓ(t) ≤ e^{−γ α(D, margin) t} ℓ(0)` (Min, Vidal & Mallada 2023, section 4).
    - Diagonal and circulant layers stay so, and are scalar chains: `ℓ(t) ≤ e^{−γ min_i T_i t} ℓ(0)`.
    - The lazy regime: weights that stay near their start keep its T.
    - The envelope: the best of these on every level of the gap. The margin grows while the gap falls.

    Proofs: `docs/theory.md`.
    """
    gap, gamma = setting.gap, setting.gamma
    why = _why_nothing(setting)
    if why:
        return [setting.guarantee(name="exponential", source="gradient dominance", citation=("min2023",), reason=why)]
    if setting.depth == 1:
        return [
            setting.guarantee(
                name="one layer",
                source="convex optimisation (gradient dominance)",
                citation=("karimi2016",),
                curve=_one_layer(setting),
            )
        ]
    levels = setting.levels
    rows, values, held = bounds_on(setting, levels)
    why = _why_zero(setting, held)
    # Theorems whose hypotheses hold come first: they explain a missing rate better than those for other networks.
    found = [
        setting.guarantee(
            name=row.name,
            source=row.source,
            citation=(row.theorem.citation,),
            reason=row.reason or ("" if rate > 0 else why),
            curve=ExponentialCurve(gap, rate) if rate > 0 else None,
        )
        for row in sorted(rows, key=lambda row: not row.applies)
        for rate in [gamma * float(values[row.name][0])]
    ]
    found = [*_structured(setting), *found]
    if gap <= 0:
        return found
    lazy = envelope(levels, setting.gammas, np.zeros(len(levels)), setting.nearby)
    together = envelope(levels, setting.gammas, np.max(list(values.values()), axis=0), setting.nearby)
    return [_envelope(setting, together, rows, why), _lazy(setting, lazy), *found]


def _one_layer(setting: Setting) -> Curve | None:
    """Return the decay of one layer, whose T is `c²`: exponential if γ is the same on all levels."""
    alpha, gammas = setting.scale**2, setting.gammas
    if setting.gap <= 0 or gammas[-1] == gammas[0]:
        return ExponentialCurve(setting.gap, setting.gamma * alpha)
    return envelope(setting.levels, gammas, np.full(len(gammas), alpha), None)


def _why_nothing(setting: Setting) -> str:
    """Return the reason why no row can be computed; "" if some can be."""
    if setting.gamma > 0:
        return setting.beyond_float64
    if setting.objective.derived:
        return "the objective has no gradient dominance: γ = 0"
    return "no pl_constant is known for the objective; declare strong_convexity= or pl_constant="


def bounds_on(setting: Setting, levels: np.ndarray) -> tuple[list[Bound], dict, float]:
    """Return every bound, its values by name for gaps of at most each level, and the margin at the first level."""
    low, following, high = product_range(setting.objective, setting.network, levels)
    seen = (low > 0) | (np.arange(len(levels)) == 0)  # a level without a margin shares the bound of the first
    c = setting.scale
    most = most_of_least(setting.objective, setting.network, levels)[seen] / c
    invariants = setting.invariants.at(low[seen] / c, high[seen] / c, following[seen] / c, most)
    rows = bounds.evaluate(invariants, c)
    index = np.cumsum(seen) - 1
    return rows, {row.name: to_numpy(row.value)[index] for row in rows}, float(low[0])


def _used(rows: Sequence[Bound]) -> list[str]:
    """Return the references of the theorems that the envelope uses."""
    return sorted({row.theorem.citation for row in rows if row.applies} - {"linflow"})


def _envelope(setting: Setting, curve: LevelCurve | None, rows: Sequence[Bound], why: str) -> Guarantee:
    reason, facts = "", {}
    if curve is None:
        reason = f"no bound applies at the start: {why}"
    elif curve.rate > 0:
        facts = {"final rate": curve.final_rate}
    else:
        down = float(curve.levels[int(np.argmin(curve.rates > 0))] / curve.levels[0])
        reason = f"the bounds from the start end when the gap is {down:.3g} of its initial value; then {why}"
    return setting.guarantee(
        name="envelope",
        source="linflow, docs/theory.md",
        citation=("linflow", *_used(rows)),
        reason=reason,
        curve=None if reason else curve,
        facts=facts,
    )


def _lazy(setting: Setting, curve: LevelCurve | None) -> Guarantee:
    """Return the guarantee of the lazy regime, which needs the flow to end inside the largest ball."""
    reason, facts = "", {}
    if curve is not None and curve.final_rate > 0:
        roots = np.sqrt(np.append(curve.levels, 0.0))
        facts = {"radius": float(np.sum(2 * (roots[:-1] - roots[1:]) / np.sqrt(curve.rates)))}
    else:
        # The largest gap that the balls can hold: the integral of sqrt(γ κ) over the radii, from below.
        nearby = setting.nearby
        reach = float(np.sum(np.diff(nearby.radii) * np.sqrt(setting.gamma * nearby.floors[1:]))) / 2
        reason = (
            f"the weights may move too far: 2 sqrt(ℓ(0)) = {2 * math.sqrt(setting.gap):.3g} exceeds "
            f"∫ sqrt(γ κ(r)) dr = {2 * reach:.3g}; widen the layers, or start nearer to the optimum"
        )
    return setting.guarantee(
        name="lazy regime",
        source="linflow, docs/theory.md, after Chizat, Oyallon & Bach 2019",
        citation=("linflow", "chizat2019"),
        reason=reason,
        curve=None if reason else curve,
        facts=facts,
    )


def _structured(setting: Setting) -> list[Guarantee]:
    """Return the guarantee of layers that are diagonal or circulant and stay so: `γ min_i T_i` of their chains."""
    f, net = setting.whole_objective, setting.whole_network
    if not isinstance(f, ChainRegression):
        return []
    reason, rate = "", 0.0
    try:
        rate = setting.gamma * net.scale**2 * least_slope(f.modes(net), opposite=f.opposite)
        if not rate > 0:
            reason = (
                "a chain has T = 0 where its product is 0, as its two least weights are equal in size; imbalance it"
            )
    except ValueError as error:
        reason = str(error)
    return [
        setting.guarantee(
            name="diagonal or circulant layers",
            source="linflow, docs/small_starts.md",
            citation=("linflow", *sorted(f.citations)),
            reason=reason,
            curve=ExponentialCurve(setting.gap, rate) if rate > 0 else None,
        )
    ]


def _why_zero(setting: Setting, held: float) -> str:
    if setting.too_narrow:
        return f"the model is not overparametrized: {setting.too_narrow}"
    if held > 0:
        return f"its bound on λ_min(T) is 0 at this imbalance and margin {held:.3g}; imbalance the start more"
    if not setting.growing:
        return NO_MARGIN
    return (
        f"margin is 0: ‖W(0) − W*‖_F = {setting.distance:.3g} is too far for σ_min(W*) = "
        f"{setting.least_of_target:.3g}, and the imbalance alone gives no bound; start closer or imbalance more"
    )
