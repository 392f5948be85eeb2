"""Gradient descent with a constant step or a schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from linflow._support import checks
from linflow._support.arrays import from_numpy
from linflow._support.threads import one_thread_when_small
from linflow.dynamics.declared import DeclaredConstants
from linflow.dynamics.field import GradientField, Point, prepared
from linflow.dynamics.saddles import saddle_note
from linflow.dynamics.trajectory import Interrupted, Recorder, Result, Stats, Trajectory, ended_outside
from linflow.geometry.imbalance import imbalance_drift
from linflow.geometry.reduction import worthwhile_reduction
from linflow.model.network import Network
from linflow.model.objectives import Objective

DIVERGENCE = 1e12
"""Growth factor of the loss gap since the start above which a descent counts as diverged."""


@dataclass(frozen=True)
class Iterate:
    """State of a descent before a step: everything that a schedule can read.

    Attributes:
        field: the gradient field, with `objective` and the layout of the weights.
        point: weights, gap and `slope = −∇L`.
        k: number of steps done.
        last: the previous step size; None at the first step.
    """

    field: GradientField
    point: Point
    k: int
    last: float | None

    @property
    def network(self) -> Network:
        """The weights as a network."""
        return self.field.network_at(self.point.y)


class Schedule(Protocol):
    """A rule for the step size; see `linflow.schedules` for the rules that come with the library."""

    def step(self, iterate: Iterate) -> float:
        """Return η > 0 for the next step."""
        ...


@dataclass(frozen=True)
class Constant:
    """A constant step size."""

    step_size: float

    def step(self, iterate: Iterate) -> float:
        """Return η."""
        return self.step_size


def gradient_descent(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    step_size: float | None = None,
    schedule: Schedule | None = None,
    steps: int,
    until: float | None = None,
    record: Sequence[str] = ("loss", "rate"),
    every: int = 1,
    progress: Callable[[float], None] | None = None,
    stopped: Callable[[], bool] | None = None,
    reduce: bool = True,
) -> Trajectory:
    """Run gradient descent `W_l ← W_l − η ∂L/∂W_l`.

    As η → 0 it follows the flow with an error of order η. Each step changes the imbalance by
    `η²(G_lᵀG_l − G_{l+1}G_{l+1}ᵀ)`.

    Args:
        objective: the objective to minimise.
        network: a `Network` or its weights. float32 and integer weights are converted to float64, with a note.
        step_size: a constant `η > 0`.
        schedule: a rule for the step size, used instead of `step_size`; see `linflow.schedules`.
        steps: number of steps.
        until: stop at the first step whose loss gap is at most this fraction of the initial one, in (0, 1).
        record: as for `gradient_flow`.
        every: number of steps between records; the first and the last step are always recorded.
        progress: called from time to time with the fraction done.
        stopped: called as often as `progress`; if it returns True, the run ends as with Ctrl-C.
        reduce: run at the smallest width that holds the descent (`reduce_width`), if that is faster and takes the
            same steps: with a constant step, or with two layers. The result is exact to rounding, and its weights
            have the full width.

    Returns:
        A `Trajectory`. Its `t` is the sum of the steps, and `step_sizes` holds the steps themselves. A diverging
        descent ends with the result `Result.DIVERGED` and keeps its records; its `final` network is then the start,
        because the last weights mean nothing. If all steps are done and the weights rest at a saddle, a note says so.

    Raises:
        ValueError, TypeError: invalid arguments, or a schedule that does not return a positive number.
        Interrupted: Ctrl-C was pressed or `stopped` returned True; `run` holds the part done so far.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.eye(2))
        >>> run = lf.gradient_descent(f, [np.eye(2), 0.5 * np.eye(2)], step_size=0.1, steps=100)
        >>> run.result.value, bool(run.gap[-1] < 1e-10)
        ('all steps done', True)
    """
    began = time.perf_counter()
    net = prepared(objective, network)
    constant = constant_step(step_size, schedule)
    steps, every = checks.count(steps, "steps"), checks.count(every, "every")
    until = None if until is None else checks.fraction(until, "until")
    # Beyond two layers, the local smoothness refers to the full width, and a schedule may read it.
    reduction = worthwhile_reduction(net) if reduce and (constant or net.depth == 2) else None
    field = GradientField(objective, reduction.network if reduction else net)
    declared = DeclaredConstants(objective)
    recorder = Recorder(field, record)
    taken: list[float] = []
    with one_thread_when_small(field.network.weights), np.errstate(over="ignore", invalid="ignore"):
        point = field.at(field.flatten(field.network.weights))
        first = point.gap
        result, k, t, recorded = Result.STEPS_DONE, 0, 0.0, 0
        try:
            while True:
                ended = _ended(field, point, first, until)
                if k % every == 0 or k == steps or ended is not None:
                    recorder.add(t, point)
                    declared.observe(t, field, point)
                    recorded = k
                if ended is not None or k == steps:
                    result = ended or result
                    break
                if k % 100 == 0:
                    _tell(k / steps, progress, stopped)
                eta = constant or scheduled_step(schedule, Iterate(field, point, k, taken[-1] if taken else None))
                new = field.at(point.y + eta * point.slope)
                taken.append(eta)
                # No call in between: an interruption finds either all of them changed or none.
                point, k, t = new, k + 1, (k + 1) * eta if constant else t + eta
        except KeyboardInterrupt:
            result, taken = Result.INTERRUPTED, taken[:k]
            recorder.cut(t)
            if recorded < k or not recorder.t:
                recorder.add(t, point)
    last = field.network_at(point.y) if result is not Result.DIVERGED else field.network
    drift = imbalance_drift(last, field.network)
    network = reduction.expand(last) if reduction else last
    saddle = _saddle(field, point, network) if result is Result.STEPS_DONE else None
    gaps = np.asarray(recorder.gap)
    run = Trajectory(
        **recorder.arrays(),
        minimum=objective.minimum,
        start=net,
        final=network,
        result=result,
        stats=Stats(k, 0, field.evaluations, drift, time.perf_counter() - began),
        notes=(*objective.notes, *net.notes, *declared.notes, *([saddle] if saddle else [])),
        algorithm="descent",
        step_size=constant,
        step_sizes=from_numpy(np.asarray(taken), net.weights[0]),
        until=until,
        nodes=(np.asarray(recorder.t), np.log(np.maximum(gaps, 5e-324))),
    )
    if result is Result.INTERRUPTED:
        raise Interrupted(run)
    return run


def _saddle(field: GradientField, point: Point, network: Network) -> str | None:
    """Return a note if the descent rests at a saddle, else None; the network has the full width."""
    with np.errstate(over="ignore", invalid="ignore"):
        return saddle_note(field.objective, network) if field.is_stationary(point) else None


def _tell(done: float, progress: Callable[[float], None] | None, stopped: Callable[[], bool] | None) -> None:
    if stopped is not None and stopped():
        raise KeyboardInterrupt
    if progress is not None:
        progress(done)


def constant_step(step_size: float | None, schedule: Schedule | None) -> float | None:
    """Return the constant step, also that of a `Constant` schedule; None for any other schedule.

    Raises:
        ValueError, TypeError: both or neither are given, or the schedule has no method `step`.
    """
    if (step_size is None) == (schedule is None):
        given = "neither" if schedule is None else "both"
        raise ValueError(
            f"{given} of step_size and schedule given; give one: step_size=0.1, or "
            "schedule=linflow.schedules.backtracking(). linflow.safe_step_size proposes a constant step."
        )
    if schedule is None:
        return checks.positive(step_size, "step_size")
    if not callable(getattr(schedule, "step", None)):
        raise TypeError(
            f"schedule is {schedule!r}; an object with a method step(iterate) is needed, such as those of "
            "linflow.schedules."
        )
    return schedule.step_size if isinstance(schedule, Constant) else None


def scheduled_step(schedule: Schedule | None, iterate: Iterate) -> float:
    """Return the step of a schedule.

    Raises:
        ValueError: the step is not positive and finite.
    """
    assert schedule is not None
    eta = float(schedule.step(iterate))
    if not (eta > 0 and math.isfinite(eta)):
        raise ValueError(f"the schedule returned {eta!r} for step {iterate.k}; a positive, finite number is needed.")
    return eta


def _ended(field: GradientField, point: Point, first: float, until: float | None) -> Result | None:
    if not point.finite or point.gap <= 0:
        return ended_outside(field, point)
    if point.gap > DIVERGENCE * max(first, 5e-324):
        return Result.DIVERGED
    if until is None or point.gap > until * first:
        return None
    # A gap at rounding level can fall on either side of the target, wherever the exact descent is.
    noise = field.objective.rounding(field.network_at(point.y))
    return Result.ROUNDING if point.gap <= noise else Result.TARGET
