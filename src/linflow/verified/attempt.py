"""A verified run within a budget: a proof, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable

from linflow.dynamics.descent import Schedule
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import PLAIN, Optimizer
from linflow.verified.descent import DescentEnclosure
from linflow.verified.enclosure import Enclosure
from linflow.verified.run import STEPS, enclose

STORED = 6_000_000
"""Limit on weights times stored steps of a flow. A step stores 21 numbers per weight, so this is 1 GB. With up to 200
weights it may store 61, which is 200 MB for the 2000 steps of a proof."""

COMPUTED = 1_200_000_000
"""Limit on weights times steps of a descent, which stores none of its steps."""


def attempt(
    objective: Objective,
    network: Network,
    *,
    until: float | None,
    t_max: float | None = None,
    step_size: float | None = None,
    schedule: Schedule | None = None,
    steps: int | None = None,
    max_steps: int = 2000,
    optimizer: Optimizer = PLAIN,
    progress: Callable[[float], None] | None = None,
) -> tuple[Enclosure | DescentEnclosure | None, str]:
    """Return a proof, or None and the reason why there is none.

    The proof is for descent if a step size or a schedule is given, otherwise for the flow. The arguments are those of
    `enclose`.

    Args:
        objective: the objective that is minimised.
        network: the network at the start.
        until: fraction of the initial loss gap to prove.
        t_max: time at which the flow stops.
        step_size: a constant step of a descent. Without it and without a schedule, the proof is for the flow.
        schedule: a rule for the step of a descent.
        steps: largest number of steps of a descent.
        progress: called with the fraction done.
        max_steps: limit on the steps of a flow. A descent can take twice as many. The limit is lowered if there are
            many weights. With 0, no proof is attempted.
        optimizer: the momentum of a descent, if there is one.
    """
    if max_steps == 0:
        return None, "no steps were allowed for it"
    size = sum(W.shape[0] * W.shape[1] for W in network.weights)
    try:
        if step_size is not None or schedule is not None:
            steps = min(steps or STEPS, 2 * max_steps, COMPUTED // size)
            proof = enclose(
                objective,
                network,
                algorithm="descent",
                step_size=step_size,
                schedule=schedule,
                until=until,
                steps=steps,
                progress=progress,
                **optimizer.options(),
            )
            return proof, ""
        allowed = min(max_steps, STORED // size)
        if allowed == 0:
            return None, f"{size} weights are too many for a proof"
        return enclose(objective, network, until=until, t_max=t_max, max_steps=allowed, progress=progress), ""
    except ValueError as error:
        return None, str(error).rstrip(".")
