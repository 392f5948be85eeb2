"""The rows of published results: how to build one, and the reasons that several of them share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from linflow._support.arrays import norm
from linflow.bounds import THEOREMS, Theorem
from linflow.certificates._base import Guarantee
from linflow.certificates.curves import Curve, ExponentialCurve, StepCurve
from linflow.certificates.setting import Setting

WHITE = 1e-12
"""Relative spread of the curvatures of a squared loss that counts as zero: a few hundred rounding errors."""


def row(
    setting: Setting,
    name: str,
    source: str,
    citation: Sequence[str],
    outcome: float | Curve | str,
    **facts: Any,
) -> Guarantee:
    """Return the row of one result from its outcome: a rate, a curve, or the reason why it does not apply."""
    curve, reason = None, ""
    if isinstance(outcome, str):
        reason = outcome
    elif isinstance(outcome, (int, float)):
        curve = ExponentialCurve(setting.gap, outcome)
    else:
        curve = outcome
    if curve is not None and setting.algorithm == "descent" and not isinstance(curve, StepCurve):
        reason = f"it is for the flow (rate {curve.rate:.3g} there), but this certificate is for descent"
        curve = None
    numbers = {key: float(value) + 0.0 for key, value in facts.items()}  # −0 is 0
    return setting.guarantee(
        name=name, source=source, citation=tuple(citation), reason=reason, curve=curve, facts=numbers
    )


def on_descent(setting: Setting, guarantees: Sequence[Guarantee], *keys: str) -> Guarantee | None:
    """Return the fastest guarantee of a certificate on descent that cites one of these keys; None otherwise."""
    found = [g for g in guarantees if setting.algorithm == "descent" and set(keys) & set(g.citation)]
    return min(found, key=lambda g: g.time_to(1e-6), default=None)


def bounds_at_margin(setting: Setting) -> list[tuple[Theorem, float]]:
    """Return the applicable bounds on `λ_min(T)` of Min et al. 2021 and 2023, at the margin of the papers."""
    c = setting.scale
    inv = setting.invariants.at(setting.margin_by_distance / c, math.inf)
    known = [t for t in THEOREMS if t.citation in ("min2021", "min2023") and t.hypothesis(inv) is None]
    return [(t, c**2 * max(0.0, float(t.evaluate(inv)))) for t in known]


def no_squared_loss(setting: Setting) -> str:
    """Return why a result on the squared loss `½‖F (W − W*) H‖² + f*` does not apply; "" if it can."""
    return "" if setting.objective.quadratic else f"it is for the squared loss, not for a {setting.objective.name}"


def not_white(setting: Setting) -> str:
    """Return why a result on the squared loss with whitened data does not apply; "" if it can."""
    if reason := no_squared_loss(setting):
        return reason
    ratio = setting.objective.smoothness / setting.objective.strong_convexity
    if ratio > 1 + WHITE:
        return f"it is for whitened data, K = μ, and here K/μ = {ratio:.3g}; whiten the inputs"
    return ""


def not_deep(setting: Setting, *allowed: int) -> str:
    """Return why a result on this many layers does not apply; "" if it can."""
    if setting.depth in allowed:
        return ""
    return f"it is for {' or '.join(map(str, allowed))} layers, but the network has {setting.depth}"


def no_dominance(setting: Setting) -> str:
    """Return why a result that needs γ > 0 does not apply; "" if it can."""
    return "" if setting.gamma else "no gradient dominance is known; declare strong_convexity= or pl_constant="


def no_margin(setting: Setting) -> str:
    """Return, in words, why the margin gives no rate."""
    f, margin = setting.objective, setting.margin_by_distance
    if setting.too_narrow:
        return setting.too_narrow
    if margin > 0:
        return f"the margin {margin:.3g} is at the level of rounding; start nearer to W*"
    if not setting.strongly_convex:
        return "the margin needs μ > 0 and W*; declare strong_convexity= and minimizer="
    least = setting.least_of_target
    if least <= 1e-14 * norm(f.minimizer):
        return "the margin is 0, as W* does not have full rank"
    away = (f.smoothness / f.strong_convexity) ** 0.5 * setting.distance
    return (
        f"the margin is 0: sqrt(K/μ) ‖W(0) − W*‖_F = {away:.3g} is not below σ_min(W*) = {least:.3g}; "
        "start nearer to W*"
    )
