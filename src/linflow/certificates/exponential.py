"""Guarantees on the flow under gradient dominance: each bound, the lazy regime, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from linflow import bounds
from linflow._support.arrays import norm, sigma, to_numpy
from linflow.bounds import Bound, Invariants
from linflow.certificates._base import Guarantee, beyond_float64
from linflow.certificates.curves import ExponentialCurve, LevelCurve
from linflow.certificates.envelope import envelope, gap_levels
from linflow.certificates.lazy import Neighbourhood
from linflow.certificates.margin import product_range
from linflow.model.network import Network
from linflow.model.objectives import Objective

_Row = Callable[..., Guarantee]
"""Makes a guarantee on the run at hand from name, source, citation, reason, curve and facts."""


def exponential(objective: Objective, network: Network) -> list[Guarantee]:
    """Return the guarantees on the flow that need `‖∇f‖² ≥ γ (f − f*)`.

    - One for each bound α on `λ_min(T)`: D is conserved and `σ_min(W(t))` never falls below the margin, so
      `ℓ(t) ≤ e^{−γ α(D, margin) t} ℓ(0)` (Min, Vidal & Mallada 2023, section 4).
    - The lazy regime: weights that stay near their start keep its T.
    - The envelope: the best of all these on every level of the gap, as the margin grows while the gap falls.

    Proofs: `docs/theory.md`.
    """
    gap = objective.gap(network.product())
    seen, net = objective.effective(network)
    gamma = seen.pl_constant

    def guarantee(name: str, source: str, citation: Sequence[str], reason: str, curve=None, **facts) -> Guarantee:
        return Guarantee(name, source, tuple(citation), reason, curve, gap, objective.minimum, facts)

    if gamma == 0:
        reason = (
            "the objective has no gradient dominance: γ = 0"
            if objective.derived
            else "no pl_constant is known for the objective; declare strong_convexity= or pl_constant="
        )
        return [guarantee("exponential", "gradient dominance", ["min2023"], reason)]
    if reason := beyond_float64(objective, network):
        return [guarantee("exponential", "gradient dominance", ["min2023"], reason)]
    if net.depth == 1:
        source = "convex optimisation (gradient dominance)"
        return [guarantee("one layer", source, ["karimi2016"], "", ExponentialCurve(gap, gamma * net.scale**2))]
    levels = gap_levels(gap) if gap > 0 else np.zeros(1)
    rows, values, held = bounds_on(levels, seen, net)
    why = _why_zero(seen, net, held)
    # A theorem whose hypotheses hold explains a missing rate better than one for other networks: it comes first.
    found = [
        guarantee(row.name, row.source, [row.theorem.citation], row.reason or ("" if rate > 0 else why), curve)
        for row in sorted(rows, key=lambda row: not row.applies)
        for rate in [gamma * float(values[row.name][0])]
        for curve in [ExponentialCurve(gap, rate) if rate > 0 else None]
    ]
    if gap <= 0:
        return found
    nearby = Neighbourhood.of(net)
    lazy = envelope(levels, gamma, np.zeros(len(levels)), nearby)
    together = envelope(levels, gamma, np.max(list(values.values()), axis=0), nearby)
    return [
        _envelope(guarantee, together, rows, why),
        _lazy(guarantee, lazy, nearby, gamma, gap),
        *found,
    ]


def bounds_on(levels: np.ndarray, objective: Objective, net: Network) -> tuple[list[Bound], dict, float]:
    """Return every bound for weights with a gap of at most each level, by name, and the margin at the first."""
    low, following, high = product_range(objective, net, levels)
    seen = (low > 0) | (np.arange(len(levels)) == 0)  # without a margin every level has the bound of the first
    invariants = Invariants.of(net).at(low[seen] / net.scale, high[seen] / net.scale, following[seen] / net.scale)
    rows = bounds.evaluate(invariants, net.scale)
    index = np.cumsum(seen) - 1
    return rows, {row.name: to_numpy(row.value)[index] for row in rows}, float(low[0])


def _used(rows: Sequence[Bound]) -> list[str]:
    """Return the references of the theorems that take part in the envelope."""
    return sorted({row.theorem.citation for row in rows if row.applies} - {"linflow"})


def _envelope(guarantee: _Row, curve: LevelCurve | None, rows: Sequence[Bound], why: str) -> Guarantee:
    source, citation = "linflow, docs/theory.md", ["linflow", *_used(rows)]
    if curve is not None and curve.rate > 0:
        return guarantee("envelope", source, citation, "", curve, **{"final rate": curve.final_rate})
    if curve is None:
        return guarantee("envelope", source, citation, f"no bound applies at the start: {why}")
    down = float(curve.levels[int(np.argmin(curve.rates > 0))] / curve.levels[0])
    reason = f"what is known of the start ends when the gap is {down:.3g} of its first; then {why}"
    return guarantee("envelope", source, citation, reason)


def _lazy(guarantee: _Row, curve: LevelCurve | None, nearby: Neighbourhood, gamma: float, gap: float) -> Guarantee:
    """Return the guarantee of the lazy regime: it needs the flow to end inside the largest ball."""
    source = "linflow, docs/theory.md, after Chizat, Oyallon & Bach 2019"
    if curve is not None and curve.final_rate > 0:
        roots = np.sqrt(np.append(curve.levels, 0.0))
        travel = float(np.sum(2 * (roots[:-1] - roots[1:]) / np.sqrt(curve.rates)))
        return guarantee("lazy regime", source, ["linflow", "chizat2019"], "", curve, radius=travel)
    # The greatest gap that the balls can hold: the integral of sqrt(γ κ) over the radii, from below.
    reach = float(np.sum(np.diff(nearby.radii) * np.sqrt(gamma * nearby.floors[1:]))) / 2
    reason = (
        f"the weights may move too far: 2 sqrt(ℓ(0)) = {2 * math.sqrt(gap):.3g} exceeds "
        f"∫ sqrt(γ κ(r)) dr = {2 * reach:.3g}; widen the layers, or start nearer to the optimum"
    )
    return guarantee("lazy regime", source, ["linflow", "chizat2019"], reason)


def _why_zero(objective: Objective, network: Network, held: float) -> str:
    if not network.overparametrized:
        return f"the model is not overparametrized: a hidden width below min(n, m) = {min(network.shape)} (widen it)"
    if held > 0:
        return f"its bound on λ_min(T) is 0 at this imbalance and margin {held:.3g}; imbalance the start more"
    if objective.strong_convexity == 0 or objective.minimizer is None:
        return "its bound on λ_min(T) is 0 from the imbalance alone, and the margin needs μ and W*"
    distance = norm(network.product() - objective.minimizer)
    least = float(sigma(objective.minimizer, min(network.shape)))
    return (
        f"margin is 0: ‖W(0) − W*‖_F = {distance:.3g} is too far for σ_min(W*) = {least:.3g}, and the imbalance "
        "alone gives no bound; start closer or imbalance more"
    )
