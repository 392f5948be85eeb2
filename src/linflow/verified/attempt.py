"""A verified run within a budget: a proof, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable

from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.verified.descent import DescentEnclosure
from linflow.verified.enclosure import Enclosure
from linflow.verified.run import STEPS, enclose

STORED = 6_000_000
"""Limit on weights times kept steps of a flow. A step keeps 21 numbers for each weight, so this is 1 GB."""

COMPUTED = 1_200_000_000
"""Limit on weights times steps of a descent, which keeps none of them."""


def attempt(
    objective: Objective,
    network: Network,
    *,
    until: float | None,
    t_max: float | None = None,
    step_size: float | None = None,
    steps: int | None = None,
    max_steps: int = 2000,
    progress: Callable[[float], None] | None = None,
) -> tuple[Enclosure | DescentEnclosure | None, str]:
    """Return a proof, or None and the reason why there is none.

    The proof is of the descent if a step size is given, else of the flow. The arguments are those of `enclose`.

    Args:
        objective: what is minimised.
        network: the start.
        until: fraction of the first loss gap that is to be proved.
        t_max: time at which the flow stops.
        step_size: η of a descent; the flow if left out.
        steps: largest number of steps of a descent.
        progress: called with the fraction done.
        max_steps: limit on the steps of a flow; a descent may take twice as many. It is lowered if there are many
            weights. 0 makes no proof.
    """
    if max_steps == 0:
        return None, "no steps were allowed for it"
    size = sum(W.shape[0] * W.shape[1] for W in network.weights)
    try:
        if step_size is not None:
            steps = min(steps or STEPS, 2 * max_steps, COMPUTED // size)
            proof = enclose(
                objective,
                network,
                algorithm="descent",
                step_size=step_size,
                until=until,
                steps=steps,
                progress=progress,
            )
            return proof, ""
        allowed = min(max_steps, STORED // size)
        if allowed == 0:
            return None, f"{size} weights are too many for a proof"
        return enclose(objective, network, until=until, t_max=t_max, max_steps=allowed, progress=progress), ""
    except ValueError as error:
        return None, str(error).rstrip(".")
