"""Exponential convergence of the flow from a bound on T that holds along the whole run."""

from __future__ import annotations

from functools import cache

from linflow import bounds
from linflow._arrays import norm, sigma
from linflow.certificates._base import Guarantee
from linflow.certificates.margin import margin
from linflow.network import Network
from linflow.objectives import Objective


def exponential(objective: Objective, network: Network) -> list[Guarantee]:
    """Return one guarantee for each bound: rate `γ α(D, margin)`.

    The imbalance is conserved and `σ_min(W(t))` never falls below the margin, so `λ_min(T(t)) ≥ α(D, margin)` and,
    with gradient dominance, `L(t) − f* ≤ e^{−γαt} (L(0) − f*)`.

    Source: Min, Vidal & Mallada 2023, section 4; docs/theory.md for the sharper margin.
    """
    gap = objective.gap(network.product())
    held = margin(objective, network)
    restricted, net = objective.effective(network)
    gamma = restricted.pl_constant

    @cache
    def why_zero() -> str:
        return _why_zero(restricted, net, held)

    def guarantee(name: str, source: str, alpha: float, reason: str) -> Guarantee:
        if not reason and gamma == 0:
            reason = "no pl_constant is known for the objective; declare strong_convexity= or pl_constant="
        if not reason and alpha <= 0:
            reason = why_zero()
        rate = 0.0 if reason else gamma * alpha
        return Guarantee(name, source, not reason, reason, rate, gap, objective.minimum)

    if net.depth == 1:
        source = "convex optimisation (gradient dominance)"
        return [guarantee("one layer", source, net.scale**2, "")]
    # A theorem whose hypotheses hold explains a missing rate better than one for other networks: it comes first.
    rows = sorted(bounds.table(net, held), key=lambda row: not row.applies)
    return [guarantee(row.name, row.source, float(row.value), row.reason) for row in rows]


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
