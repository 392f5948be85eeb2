"""Gradient descent with a constant step or a schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy
from linflow._support.threads import one_thread_when_small
from linflow.dynamics.coordinates import Coordinates
from linflow.dynamics.declared import DeclaredConstants
from linflow.dynamics.ending import Result, Stats
from linflow.dynamics.field import GradientField, Point, prepared
from linflow.dynamics.motion import Motion, MotionLaw
from linflow.dynamics.saddles import saddle_note
from linflow.dynamics.trajectory import Interrupted, Recorder, Trajectory, ended_outside
from linflow.geometry.imbalance import imbalance_drift
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import Batches, Optimizer

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
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    layer_rates: Sequence[float] | None = None,
    batches: Sequence[Any] | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
) -> Trajectory:
    """Run gradient descent `W_l ← W_l − η ∂L/∂W_l`, with momentum, weight decay, layer rates or mini-batches.

    As η → 0 the plain descent follows the flow with an error of order η. Each of its steps changes the imbalance by
    `η²(G_lᵀG_l − G_{l+1}G_{l+1}ᵀ)`. The other options are those of `torch.optim.SGD` (`Optimizer`). The law of the
    imbalance is exact for any schedule and any batches (`record="law_error"`, docs/optimisers.md).

    Args:
        objective: the objective to minimise.
        network: a `Network` or its weights. float32 and integer weights are converted to float64, with a note.
        step_size: a constant `η > 0`.
        schedule: a rule for the step size, used instead of `step_size`; see `linflow.schedules`. It reads the
            gradient of the whole loss and knows nothing of the other options.
        steps: number of steps.
        until: stop at the first step whose loss gap is at most this fraction of the initial one, in (0, 1). With
            mini-batches only the records are looked at.
        record: as for `gradient_flow`.
        every: number of steps between records; the first and the last step are always recorded.
        progress: called from time to time with the fraction done.
        stopped: called as often as `progress`; if it returns True, the run ends as with Ctrl-C.
        reduce: run at the smallest width that holds the descent (`reduce_width`), if that is faster and takes the
            same steps: with a constant step, or with two layers. The result is exact to rounding, and its weights
            have the full width.
        momentum: `μ` in [0, 1).
        nesterov: whether to use Nesterov's form of the momentum.
        weight_decay: `λ ≥ 0`: the steps follow `∂L/∂W_l + λW_l`. The loss and its gap leave the decay out.
        layer_rates: `ρ_1, …, ρ_L`: layer l takes the step `ηρ_l`.
        batches: the samples of each step, lists of indices from 0; after the last the first follows. The gradient of
            a batch is scaled to all samples, `N/|B| Σ_{i∈B} ∇f_i`.
        batch_size: samples of each batch, drawn anew in each epoch without repetition, instead of `batches`.
        seed: seed of the draws; 0 if left out.

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
        >>> run = lf.gradient_descent(
        ...     f, [np.eye(2), 0.5 * np.eye(2)], step_size=0.1, steps=60, momentum=0.5, record="law_error")
        >>> bool(run.gap[-1] < 1e-10), bool(run.law_error.max() < 1e-14)
        (True, True)
    """
    net = prepared(objective, network)
    constant = constant_step(step_size, schedule)
    drawn = Batches.of(batches, batch_size, seed)
    optimizer = Optimizer.of(
        net.depth,
        layer_rates=layer_rates,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov,
        batches=drawn,
    )
    steps, every = checks.count(steps, "steps"), checks.count(every, "every")
    until = None if until is None else checks.fraction(until, "until")
    # Beyond two layers, the local smoothness refers to the full width, and a schedule may read it.
    narrow = reduce and (constant is not None or net.depth == 2)
    loop = _DescentLoop(objective, Coordinates.of(optimizer, net, reduce=narrow), constant, schedule, record)
    with one_thread_when_small(loop.field.network.weights), np.errstate(over="ignore", invalid="ignore"):
        result = loop.run(steps, every, until, progress, stopped)
    run = loop.trajectory(result, until)
    if result is Result.INTERRUPTED:
        raise Interrupted(run)
    return run


class _DescentLoop:
    """One descent: its weights, its records and how it ends."""

    def __init__(
        self,
        objective: Objective,
        coordinates: Coordinates,
        constant: float | None,
        schedule: Schedule | None,
        record: Sequence[str],
    ):
        self.began = time.perf_counter()
        self.coordinates, self.optimizer = coordinates, coordinates.optimizer
        self.constant, self.schedule = constant, schedule
        self.field = field = GradientField(objective, coordinates.network)
        self.declared = DeclaredConstants(objective)
        self.motion = Motion(self.optimizer, field)
        self.law = MotionLaw(self.motion, field) if "law_error" in record else None
        self.recorder = Recorder(field, record, self.law.error if self.law is not None else None)
        self.batches = self._draws()
        self.taken: list[float] = []
        self.k, self.t = 0, 0.0

    def _draws(self) -> Iterator[np.ndarray] | None:
        """Return the samples of each step; None if each takes all."""
        objective, batches = self.field.objective, self.optimizer.batches
        if batches is None:
            return None
        if objective.samples is None:
            objective.batch_gradient(self.field.network.product(), self.field.network.weights[0])  # says why
        return batches.draws(objective.samples or 0)

    def run(
        self,
        steps: int,
        every: int,
        until: float | None,
        progress: Callable[[float], None] | None,
        stopped: Callable[[], bool] | None,
    ) -> Result:
        """Take the steps, up to an end or an interruption."""
        field = self.field
        self.y = field.flatten(field.network.weights)
        self.point: Point | None = field.at(self.y)
        first, recorded = self.point.gap, 0
        try:
            while True:
                k, point = self.k, self.point
                ended = None if point is None else _ended(field, point, first, until)
                if point is not None and (k % every == 0 or k == steps or ended is not None):
                    self.recorder.add(self.t, point)
                    self.declared.observe(self.t, field, point)
                    recorded = k
                if ended is not None or k == steps:
                    return ended or Result.STEPS_DONE
                if k % 100 == 0:
                    _tell(k / steps, progress, stopped)
                self._step((k + 1) % every == 0 or k + 1 == steps)
        except KeyboardInterrupt:
            self.taken = self.taken[: self.k]
            self.recorder.cut(self.t)
            self.point = self.point or field.at(self.y)
            if recorded < self.k or not self.recorder.t:
                self.recorder.add(self.t, self.point)
            return Result.INTERRUPTED

    def _step(self, looked_at: bool) -> None:
        """Take one step. With mini-batches, the whole loss is computed only where it is looked at."""
        field, point = self.field, self.point
        if self.constant is None:
            point = point or field.at(self.y)  # a schedule reads the whole gradient
            last = self.taken[-1] if self.taken else None
            eta = scheduled_step(self.schedule, Iterate(field, point, self.k, last))
        else:
            eta = self.constant
        slope = point.slope if self.batches is None and point is not None else self._slope()
        u = self.motion(self.y, slope)
        if self.law is not None:
            self.law.advance(eta, self.y, u)
        y = self.y + eta * u
        new = field.at(y) if looked_at or self.batches is None else None
        self.taken.append(eta)
        # No call in between: an interruption finds either all of them changed or none.
        self.point, self.y, self.k, self.t = new, y, self.k + 1, (self.k + 1) * eta if self.constant else self.t + eta

    def _slope(self) -> Array:
        assert self.batches is not None
        rows = from_numpy(next(self.batches), self.y)
        return self.field.slope_on(self.y, rows)

    def trajectory(self, result: Result, until: float | None) -> Trajectory:
        """Return the run."""
        field, net, point = self.field, self.coordinates.start, self.point
        assert point is not None
        last = field.network_at(point.y) if result is not Result.DIVERGED else field.network
        drift = imbalance_drift(last, field.network)
        network = last if self.coordinates.same else self.coordinates.expand(last)
        still = result is Result.STEPS_DONE and self.optimizer.weight_decay == 0
        saddle = _saddle(field, point, network) if still else None
        gaps = np.asarray(self.recorder.gap)
        objective = field.objective
        notes = (*objective.notes, *net.notes, *self.declared.notes, *_notes(self.optimizer))
        return Trajectory(
            **self.recorder.arrays(),
            minimum=objective.minimum,
            start=net,
            final=network,
            result=result,
            stats=Stats(self.k, 0, field.evaluations, drift, time.perf_counter() - self.began),
            notes=(*notes, *([saddle] if saddle else [])),
            algorithm="descent",
            step_size=self.constant,
            step_sizes=from_numpy(np.asarray(self.taken), net.weights[0]),
            until=until,
            nodes=(np.asarray(self.recorder.t), np.log(np.maximum(gaps, 5e-324))),
            optimizer=self.optimizer,
        )


def _notes(optimizer: Optimizer) -> list[str]:
    """Return what the reader of a run must know of its options."""
    notes = []
    if optimizer.batches is not None:
        notes.append(
            f"{optimizer.batches}: the law of the imbalance is exact for every batch, and no rate is claimed"
        )
    if optimizer.weight_decay:
        notes.append("the loss and its gap leave the weight decay out, and need not fall to f*")
    return notes


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
