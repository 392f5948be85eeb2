"""A guarantee for all times after the end of a verified flow: the envelope of the certificates, restarted there.

At the end, the exact weights lie within the radius of the path, their gap is at most its upper bound, and their
imbalances are exactly those of the start. Proof: docs/verified.md, section 7.
"""

from __future__ import annotations

import numpy as np

from linflow._support.arrays import sigma
from linflow.certificates import Guarantee
from linflow.certificates.envelope import envelope, gap_levels
from linflow.certificates.exponential import bounds_on
from linflow.certificates.lazy import Neighbourhood
from linflow.certificates.setting import Setting
from linflow.model.network import Network
from linflow.model.objectives import Objective

SOURCE = "linflow, docs/verified.md"


def ever_after(
    objective: Objective,
    start: Network,
    reached: Network,
    radius: float,
    gap: float,
    pl_constant: float,
) -> tuple[Guarantee | None, str]:
    """Return a guarantee for the flow after the end of an enclosure, or None and the reason why there is none.

    Args:
        objective: the objective that is minimised.
        start: the network at the start. The flow conserves its imbalances.
        reached: the network of the path at the end.
        radius: upper bound of the distance of the exact weights to `reached`.
        gap: upper bound of the loss gap at the end.
        pl_constant: proved lower bound of γ.
    """
    setting = Setting(objective, start)
    if pl_constant <= 0:
        return None, "no gradient dominance γ > 0 could be proved for the objective"
    if setting.too_narrow:
        return None, f"λ_min(T) is 0: {setting.too_narrow}; nothing is proved after this"
    levels = gap_levels(gap)
    floors = np.full(len(levels), setting.scale**2)
    nearby = None
    if setting.depth > 1:
        _, values, _ = bounds_on(setting, levels)
        floors = np.max(list(values.values()), axis=0)
        nearby = shifted(Setting(objective, reached).nearby, radius)
    curve = envelope(levels, pl_constant, floors, nearby)
    if curve is None or curve.rate <= 0:
        return None, (
            f"neither the imbalance nor the weights reached prove λ_min(T) > 0 from then on (gap {gap:.3g}, radius "
            f"{radius:.2g}); {_way_out(setting, float(floors[-1]))}"
        )
    facts = {"final rate": curve.final_rate, "radius": radius}
    guarantee = Guarantee(
        name="ever after",
        source=SOURCE,
        citation=("linflow",),
        reason="",
        curve=curve,
        gap=gap,
        minimum=objective.minimum,
        facts=facts,
    )
    return guarantee, ""


def _way_out(setting: Setting, last: float) -> str:
    """Return what would help if nothing is proved: a smaller target, unless λ_min(T) can tend to 0."""
    target = setting.objective.minimizer
    if target is not None and last <= 0 and setting.least_of_target <= 1e-12 * float(sigma(target, 1)):
        return (
            "W* does not have full rank and the imbalance gives no floor, so λ_min(T) can tend to 0 (from balanced "
            "layers it does); the loss then falls more slowly than any exponential"
        )
    return "try a smaller until"


def shifted(nearby: Neighbourhood, radius: float) -> Neighbourhood:
    """Return floors that hold around all weights within `radius` of the centre.

    The ball of radius R around such weights lies in the ball of radius `R + radius` around the centre.
    """
    radii = nearby.radii - radius
    inside = radii >= 0
    if not inside.any():
        return Neighbourhood(np.array([0.0]), np.array([0.0]))
    first = int(np.argmax(inside))
    return Neighbourhood(
        np.concatenate([[0.0], radii[first:]]), np.concatenate([[nearby.floors[first]], nearby.floors[first:]])
    )
