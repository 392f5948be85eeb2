"""Gradient flow: an adaptive eighth-order integration that controls the error of the loss itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from linflow import _checks
from linflow._arrays import EPS, norm
from linflow.dynamics import _dop853
from linflow.dynamics._roots import root_between
from linflow.dynamics._stepping import allowed_error, attempt, grow, initial_step, shrink
from linflow.dynamics._threads import one_thread_when_small
from linflow.dynamics.declared import DeclaredConstants
from linflow.dynamics.field import GradientField, Point, prepared
from linflow.dynamics.trajectory import Checkpoints, Recorder, Result, Stats, Trajectory, ended_outside
from linflow.imbalance import imbalance_drift
from linflow.network import Network
from linflow.objectives import Objective


def gradient_flow(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    until: float | None = None,
    t_max: float | None = None,
    record: Sequence[str] = ("loss", "rate"),
    times: Sequence[float] = (),
    rtol: float = 1e-8,
    max_steps: int = 100_000,
    progress: Callable[[float], None] | None = None,
) -> Trajectory:
    """Integrate the gradient flow `Ẇ_l = −∂L/∂W_l` and record it at every accepted step.

    Dormand–Prince of order 8 with adaptive steps. A step is accepted when its error estimate is below
    `rtol · min(‖y‖, ℓ/‖∇L‖)`: relative to the weights, and so small that it changes the loss gap ℓ by at most rtol
    of itself. The run stops exactly (to rounding of the logarithm) where the gap reaches `until` of its start.

    Args:
        objective: what is minimised.
        network: a `Network` or its weights; float32 and integers are computed in float64 and noted.
        until: fraction of the initial loss gap to reach, in (0, 1); 1e-10 when neither it nor t_max is given.
        t_max: time to stop at.
        record: any of "loss", "rate" (both always kept), "least_eigenvalue" (of T on what the objective
            sees), "imbalance_drift", "singular_values" (of the product).
        times: instants to step on exactly; those before the run ends appear in `run.t` between the accepted steps.
        rtol: relative tolerance of one step.
        max_steps: limit on accepted and rejected steps. The method is explicit: a stiff problem needs about
            `K λ_max(T) t / 6` steps.
        progress: called with the fraction done after each step.

    Returns:
        A `Trajectory`. A run that cannot reach its target ends with a named `result` and all computed so far.

    Raises:
        ValueError, TypeError: arguments that do not fit.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
        >>> run = lf.gradient_flow(f, lf.init.imbalanced((2, 4, 2), 1.0, 0.1 * np.eye(2), rng=0), until=1e-6)
        >>> run.result.value, bool(abs(run.gap[-1] / run.gap[0] / 1e-6 - 1) < 1e-9)
        ('target reached', True)
    """
    began = time.perf_counter()
    net = prepared(objective, network)
    until = _checks.fraction(until, "until") if until is not None else None if t_max is not None else 1e-10
    end = math.inf if t_max is None else _checks.positive(t_max, "t_max")
    rtol = _checks.fraction(rtol, "rtol")
    max_steps = _checks.count(max_steps, "max_steps")
    stops = sorted({_checks.positive(s, "times", allow_zero=True) for s in times} - {0.0})
    if stops and stops[-1] > end:
        raise ValueError(f"times holds {stops[-1]:g}, beyond t_max = {end:g}; leave it out or raise t_max.")
    with np.errstate(over="ignore", invalid="ignore"):
        loop = _Loop(objective, net, until, end, record, stops, rtol, max_steps)
    with one_thread_when_small(net), np.errstate(over="ignore", invalid="ignore"):
        result = loop.run(progress)
    return loop.trajectory(result, time.perf_counter() - began)


class _Loop:
    """The state of one integration."""

    def __init__(
        self,
        objective: Objective,
        network: Network,
        until: float | None,
        end: float,
        record: Sequence[str],
        stops: list[float],
        rtol: float,
        max_steps: int,
    ):
        self.field = GradientField(objective, network)
        self.recorder = Recorder(self.field, record)
        self.checkpoints = Checkpoints(self.field, rtol)
        self.declared = DeclaredConstants(objective)
        self.curvatures: list[float] = []
        self.t, self.end, self.rtol, self.max_steps = 0.0, end, rtol, max_steps
        self.stops = [*stops, end]
        self.accepted = self.rejected = 0
        self.gap_error = 0.0
        self.point = self.field.at(self.field.flatten(network.weights))
        self.target = -math.inf if until is None else until * self.point.gap
        self.first_gap, self.first_size = self.point.gap, norm(self.point.y)
        self._keep()

    def run(self, progress: Callable[[float], None] | None) -> Result:
        early = self._ended(self.first_gap)
        if early is not None:
            return early
        h = initial_step(self.point)
        while self.accepted + self.rejected < self.max_steps:
            room = self.stops[0] - self.t
            taken, new, h = self._attempt(h, room)
            if taken is None:
                # A rejected step that would not move the weights, or the time, cannot be shortened with any effect.
                if not (h * self.point.speed > EPS * norm(self.point.y) and self.t + h > self.t):
                    return Result.ROUNDING if self._at_rounding() else Result.STEP_UNDERFLOW
                continue
            landed = new.gap <= self.target
            if landed:
                self.declared.observe(self.t + taken, self.field, new)  # past the target, the minimum may show wrong
                taken, new = self._land(taken, new)
                if taken == 0:  # the target is the start, to rounding
                    return Result.TARGET
            before = self.point
            self.t = self.stops[0] if taken == room else self.t + taken
            if self.t >= self.stops[0]:
                self.stops.pop(0)
            self.point = new
            self.accepted += 1
            self._keep()
            if progress is not None:
                progress(self._done())
            # Near rounding the gap comes in steps, and the target may lie between two: crossing it is reaching it.
            ended = Result.TARGET if landed else self._ended(before.gap)
            if ended is not None:
                return ended
        return Result.STEP_LIMIT

    def _attempt(self, h: float, room: float) -> tuple[float | None, Point, float]:
        """Try a step of min(h, room); return the step taken (None if rejected), the new point, the next h."""
        trial = min(h, room)
        new, ratio = attempt(self.field, self.point, trial, self.rtol)
        if new is None:
            self.rejected += 1
            return None, self.point, trial * shrink(ratio)
        self.gap_error += ratio * allowed_error(self.point, trial, self.rtol) * self.point.speed / self.point.gap
        grown = trial * grow(ratio)
        # A step cut short by a stop says little about the next one: do not let it shrink h.
        return trial, new, max(h, grown) if trial < h else grown

    def _land(self, taken: float, new: Point) -> tuple[float, Point]:
        """Shorten the last step so that it ends where the gap equals the target, by re-taking it."""
        level = math.log(max(self.target, 5e-324))
        tried: dict[float, Point] = {0.0: self.point, taken: new}

        def excess(h: float) -> float:
            if h not in tried:
                y, _ = _dop853.step(self.field, self.point.y, self.point.slope, h)
                tried[h] = self.field.at(y)
            return math.log(max(tried[h].gap, 5e-324)) - level

        h = root_between(excess, 0.0, taken)
        excess(h)
        return h, tried[h]

    def _ended(self, before: float) -> Result | None:
        point = self.point
        if not point.finite or point.gap <= 0:
            return ended_outside(self.field, point)
        if self.t >= self.end:
            return Result.TIME_LIMIT
        # The remaining tests cost an evaluation; a run that still falls by a hundredth need not take them.
        if point.gap > 0.99 * before:
            if self._at_rounding():
                return Result.ROUNDING
            collapsed = norm(point.y) < EPS**2 * self.first_size  # on the way into the saddle at zero, for ever
            if collapsed or self.field.is_stationary(point):
                return Result.STATIONARY
        return None

    def _at_rounding(self) -> bool:
        """Whether the gap is so small that it, and its further fall, is rounding."""
        return self.point.gap <= self.field.objective.rounding(self.field.network_at(self.point.y))

    def _keep(self) -> None:
        self.recorder.add(self.t, self.point)
        self.checkpoints.add(self.t, self.point.y)
        self.curvatures.append(self.field.curvature(self.point) if self.point.gap > 0 else 0.0)
        self.declared.observe(self.t, self.field, self.point)

    def _done(self) -> float:
        by_time = self.t / self.end if math.isfinite(self.end) else 0.0
        if self.target <= 0 or self.point.gap <= 0:
            return by_time
        fallen = math.log(self.first_gap / self.point.gap) / math.log(self.first_gap / self.target)
        return min(1.0, max(by_time, fallen))

    def trajectory(self, result: Result, seconds: float) -> Trajectory:
        start = self.field.network
        network = self.field.network_at(self.point.y)
        drift = imbalance_drift(network, start)
        stats = Stats(self.accepted, self.rejected, self.field.evaluations, drift, self.gap_error, seconds)
        gaps, rates = np.asarray(self.recorder.gap), np.asarray(self.recorder.rate)
        nodes = (
            np.asarray(self.recorder.t),
            np.log(np.maximum(gaps, 5e-324)),
            -rates,
            np.asarray(self.curvatures),
        )
        objective = self.field.objective
        notes = (*objective.notes, *start.notes, *self.declared.notes)
        return Trajectory(
            **self.recorder.arrays(),
            minimum=objective.minimum,
            start=start,
            network=network,
            result=result,
            stats=stats,
            notes=notes,
            _nodes=nodes,
            _checkpoints=self.checkpoints,
        )
