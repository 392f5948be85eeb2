"""Checks whether a run that rests above the minimum is at a saddle, and how steep the way out is."""

from __future__ import annotations

from linflow.dynamics.field import GradientField
from linflow.dynamics.landscape import Verdict, judge
from linflow.model.network import Network
from linflow.model.objectives import Objective

MOST_WEIGHTS = 200
"""Largest number of weights for which the Hessian of the loss is formed."""


def saddle_note(f: Objective, network: Network) -> str | None:
    """Return a note that stationary weights are a saddle, with the least eigenvalue of `∇²L`; None if uncertain.

    The verdict is that of `landscape`. If `∇f(W)` itself is rounding, W may just as well be a minimum, in a direction
    that f hardly sees. At the origin the least eigenvalue is `−c σ_1(∇f(0))` for two layers and 0 for more.

    Args:
        f: the objective.
        network: the weights at full width; a reduced network has fewer ways out.
    """
    found = judge(GradientField(f, network), stationary=True, most=MOST_WEIGHTS)
    if found.verdict is Verdict.MINIMUM:
        return f"at a minimum up to symmetry: the loss is {found.gap:.3g} above f*, and {found.reason}"
    if found.verdict not in {Verdict.STRICT_SADDLE, Verdict.FLAT_SADDLE, Verdict.SADDLE}:
        return None
    text = f"at a saddle: {found.reason}"
    if found.least is None:
        return text
    return f"{text} (least eigenvalue of its Hessian {0.0 if abs(found.least) < 1e-300 else found.least:.3g})"
