"""Gradient flow: an adaptive eighth-order integration that controls the error of the loss itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, norm, to_numpy, unmasked
from linflow._support.threads import one_thread_when_small
from linflow.dynamics._compiled import BLOCK, CompiledMarch, StepBlock, compiler_trouble, large, why_not_compiled
from linflow.dynamics._stepping import Event, March, PlainMarch, Step, shorten
from linflow.dynamics.coordinates import Coordinates
from linflow.dynamics.declared import DeclaredConstants
from linflow.dynamics.ending import Result, Stats
from linflow.dynamics.field import GradientField, Point, prepared
from linflow.dynamics.other_flows import Limits, other_flow
from linflow.dynamics.saddles import saddle_note
from linflow.dynamics.trajectory import Checkpoints, Interrupted, Recorder, Trajectory, difference, ended_outside
from linflow.geometry.imbalance import imbalance_drift
from linflow.model.network import Network
from linflow.model.objectives import LeftBehindError, Objective
from linflow.model.optimizer import Optimizer

COARSER = 10.0
"""Factor on the tolerance for the second run, which estimates the error of the first."""


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
    engine: str = "auto",
    reduce: bool = True,
    stopped: Callable[[], bool] | None = None,
    layer_rates: Sequence[float] | None = None,
    weight_decay: float = 0.0,
    friction: float | None = None,
) -> Trajectory:
    """Integrate the gradient flow `Ẇ_l = −∂L/∂W_l` and record it at every accepted step.

    The integrator is Dormand–Prince of order 8 with adaptive steps. If stability alone would limit the steps, as in
    slow tails, the stabilised method RKC2 takes over (docs/theory.md, section 13). A step is accepted if its error
    estimate is below `rtol · min(‖y‖, ℓ/‖∇L‖, 10 h‖∇L‖)`. The first term keeps the error small relative to the
    weights. The second limits the relative change of the loss gap ℓ to rtol. The third keeps the error small against
    the motion near saddles. The run stops when the gap reaches `until` times its initial value; its logarithm meets
    the target to a thousandth of rtol.

    Args:
        objective: the objective to minimise.
        network: a `Network` or its weights. float32 and integer weights are converted to float64, with a note.
        until: fraction of the initial loss gap to reach, in (0, 1); 1e-10 if neither `until` nor `t_max` is given.
        t_max: time to stop at.
        record: any of "loss", "rate" (both always kept), "least_eigenvalue" (of T, restricted to what the objective
            sees), "imbalance_drift", "tangent_change" (`‖T(t) − T(0)‖_F/‖T(0)‖_F`), "singular_values" (of the
            product).
        times: times at which a step must end exactly; those before the end of the run appear in `run.t`, among the
            accepted steps.
        rtol: relative tolerance of one step.
        max_steps: limit on the number of accepted and rejected steps together.
        progress: called with the fraction done after each step.
        engine: "compiled" uses the compiled loop, which supports NumPy weights and the built-in objectives; its first
            run on a machine compiles for half a minute. "plain" uses the Python loop, which supports everything. Both
            follow the same rules. "auto" uses the compiled loop if it supports the problem, unless the layers are so
            large that BLAS is faster. If compilation fails, a note says so.
        reduce: integrate at the smallest width that holds the flow (`reduce_width`), if that is faster. The result is
            exact to rounding, and its weights have the full width.
        stopped: a function called between blocks of steps; if it returns True, the run ends as with Ctrl-C.
        layer_rates: `ρ_1, …, ρ_L`, for the flow `Ẇ_l = −ρ_l ∂L/∂W_l`.
        weight_decay: `λ ≥ 0`, for the flow `Ẇ_l = −ρ_l (∂L/∂W_l + λW_l)`. The loss and its gap leave the decay out.
        friction: `a > 0`, for the heavy-ball flow `Ẅ_l + aẆ_l = −ρ_l (∂L/∂W_l + λW_l)` from rest. Its loss can rise,
            and `gap_at` interpolates linearly between its steps.

    Returns:
        A `Trajectory`. If a run cannot reach its target, `result` names the reason, and everything computed so far is
        kept.

    Raises:
        ValueError, TypeError: invalid arguments.
        Interrupted: Ctrl-C was pressed or `stopped` returned True; `run` holds the part done so far.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
        >>> run = lf.gradient_flow(f, lf.init.imbalanced((2, 4, 2), 1.0, 0.1 * np.eye(2), rng=0), until=1e-6)
        >>> run.result.value, bool(abs(run.gap[-1] / run.gap[0] / 1e-6 - 1) < 1e-9)
        ('target reached', True)
    """
    began = time.perf_counter()
    net = prepared(objective, network)
    optimizer = Optimizer.of(net.depth, layer_rates=layer_rates, weight_decay=weight_decay, friction=friction)
    until = checks.fraction(until, "until") if until is not None else None if t_max is not None else 1e-10
    end = math.inf if t_max is None else checks.positive(t_max, "t_max")
    rtol = checks.fraction(rtol, "rtol", "the relative tolerance of one step", "1e-8")
    max_steps = checks.count(max_steps, "max_steps")
    stops = sorted({checks.positive(s, "times", allow_zero=True) for s in unmasked(times, "times")} - {0.0})
    if stops and stops[-1] > end:
        raise ValueError(f"times holds {stops[-1]:g}, beyond t_max = {end:g}; leave it out or raise t_max.")
    engine = checks.choice(engine, "engine", ("auto", "compiled", "plain"))
    coordinates = Coordinates.of(optimizer, net, reduce=reduce)
    again = {"until": until, "t_max": t_max, "max_steps": max_steps, "engine": engine, "reduce": reduce}
    again |= optimizer.options()
    if not optimizer.only_rates:
        if engine == "compiled":
            raise ValueError(f"engine 'compiled' cannot run this: {optimizer}. Leave engine at 'auto'.")
        limits = Limits(until, end, tuple(stops), rtol, max_steps)
        run = other_flow(objective, coordinates, limits, record, progress, stopped or (lambda: False))
        if run.result is Result.INTERRUPTED:
            raise Interrupted(run)
        return run
    field = GradientField(objective, coordinates.network)
    with np.errstate(over="ignore", invalid="ignore"):
        march, notes = _march(field, rtol, engine, 1 if progress is not None else BLOCK)
        loop = _Loop(march, field, until, end, record, stops, rtol, max_steps, notes)
        with one_thread_when_small(field.network.weights) if loop.uses_blas else nullcontext():
            result = loop.run(progress, stopped or (lambda: False))

    error = partial(_error, objective, net, rtol, result is Result.INTERRUPTED, again)
    run = loop.trajectory(result, coordinates, time.perf_counter() - began, error)
    if result is Result.INTERRUPTED:
        raise Interrupted(run)
    return run


def _error(
    objective: Objective,
    network: Network,
    rtol: float,
    interrupted: bool,
    options: dict[str, Any],
    nodes: tuple[np.ndarray, ...],
) -> float:
    """Return how far a run with ten times the tolerance is from these nodes; NaN if the objective was left behind.

    This is a module-level function, not a closure, so that a run can be pickled.
    """
    if interrupted:  # its target is far
        options = {**options, "until": None, "t_max": float(nodes[0][-1]) or 1.0}
    try:
        again = gradient_flow(objective, network, rtol=min(COARSER * rtol, 0.5 * (1 + rtol)), **options)
    except LeftBehindError:
        return math.nan
    return difference(nodes, again.nodes)


def _march(field: GradientField, rtol: float, engine: str, block: int) -> tuple[March, tuple[str, ...]]:
    """Return the march that `engine` asks for, and a note if it should be compiled but cannot be."""
    if engine == "plain" or (engine == "auto" and large(field)):
        return PlainMarch(field, rtol), ()
    reason, notes = why_not_compiled(field), ()
    if reason is None:
        reason = compiler_trouble()
        if reason is None:
            return CompiledMarch(field, rtol, block), ()
        notes = (f"computed by the plain loop, because compiling failed: {reason}",)
    if engine == "compiled":
        raise ValueError(f"engine 'compiled' cannot run this: {reason}. Leave engine at 'auto'.")
    return PlainMarch(field, rtol), notes


def _drift(field: GradientField, point: Point) -> float:
    """Return the change of the imbalances since the start; by their law it is 0."""
    return imbalance_drift(field.network_at(point.y), field.network)


class _Loop:
    """One integration: keeps the records of the march and decides how it ends."""

    def __init__(
        self,
        march: March,
        field: GradientField,
        until: float | None,
        end: float,
        record: Sequence[str],
        stops: list[float],
        rtol: float,
        max_steps: int,
        notes: Sequence[str],
    ):
        self.march, self.field, self.notes = march, field, notes
        self.recorder = Recorder(field, record, lambda t, point: _drift(field, point))
        self.checkpoints = Checkpoints(field, rtol)
        self.declared = DeclaredConstants(field.objective)
        self.curvatures: list[float] = []
        self.uses_blas = isinstance(march, PlainMarch) or bool(self.recorder.names)
        self.end, self.max_steps, self.rtol = end, max_steps, rtol
        self.stops = [*stops, end]
        start = march.start.point
        self.until, self.target = until, -math.inf if until is None else until * start.gap
        self.first_gap = start.gap
        self._latest: tuple[Step | None, Network] = None, field.network
        self._keep(march.start)

    def run(self, progress: Callable[[float], None] | None, stopped: Callable[[], bool]) -> Result:
        """Run to the end, or to an interruption."""
        try:
            return self._run(progress, stopped)
        except KeyboardInterrupt:
            return Result.INTERRUPTED

    def _run(self, progress: Callable[[float], None] | None, stopped: Callable[[], bool]) -> Result:
        march = self.march
        ended = self._ended()
        while ended is None and (left := self.max_steps - march.accepted - march.rejected) > 0:
            if stopped():
                return Result.INTERRUPTED
            event, steps = march.advance(self.stops[0], self.target, left)
            plain = progress is None and not (self.recorder.names or self.declared.watching)
            if plain and isinstance(steps, StepBlock):
                self._keep_all(steps)
            else:
                for step in steps:
                    self._keep(step)
                    if progress is not None:
                        progress(self._done(step))
            if event is Event.UNDERFLOW:
                return Result.ROUNDING if self._at_rounding() else Result.STEP_UNDERFLOW
            if event is Event.CROSSED:
                self._land(progress)
                # A gap at rounding level can fall on either side of the target, wherever the exact flow is.
                return Result.ROUNDING if self._at_rounding() else Result.TARGET
            if event is Event.LOOK:
                if march.t >= self.stops[0]:
                    self.stops.pop(0)
                ended = self._ended()
        return ended or Result.STEP_LIMIT

    def _land(self, progress: Callable[[float], None] | None) -> None:
        """Repeat the last step with the length at which the logarithm of the gap meets the target."""
        march = self.march
        past = march.t + march.taken
        self.declared.observe(past, self.field, march.reached)  # past the target, a wrong minimum may show
        if shorten(march, self.target, self.rtol):
            step = march.accept(self.stops[0])
            self._keep(step)
            if progress is not None:
                progress(self._done(step))

    def _ended(self) -> Result | None:
        march, point = self.march, self.last.point
        if not point.finite or point.gap <= 0:
            return ended_outside(self.field, point)
        if march.t >= self.end:
            return Result.TIME_LIMIT
        # The remaining tests cost an evaluation; skip them while the gap falls by a hundredth per step.
        if march.may_rest and (point.gap > 0.99 * march.before or point.speed == 0.0):
            if self._at_rounding():
                return Result.ROUNDING
            # The run approaches the saddle at zero for ever.
            collapsed = norm(point.y) < EPS**2 * norm(march.start.point.y)
            if collapsed or self.field.is_stationary(march.point):
                return Result.STATIONARY
        return None

    def _at_rounding(self) -> bool:
        """Return whether the gap is so small that it and any further decrease are rounding."""
        return self.last.point.gap <= self.field.objective.rounding(self._network())

    def _network(self) -> Network:
        """Return the network of the last step."""
        if self._latest[0] is not self.last:
            self._latest = self.last, self.field.network_at(self.last.point.y)
        return self._latest[1]

    def _keep(self, step: Step) -> None:
        self.checkpoints.add(step.t, step.point.y)
        self.curvatures.append(step.curvature)
        self.recorder.add(step.t, step.point)
        self.declared.observe(step.t, self.field, step.point)
        self.last = step  # from here on the step counts, even if the run is interrupted

    def _keep_all(self, steps: StepBlock) -> None:
        """Keep a block of steps at once, of which nothing more is asked than loss and rate."""
        if steps.t:
            self.checkpoints.extend(steps.t, steps.y)
            self.curvatures += steps.curvature
            self.recorder.extend(steps.t, steps.gap, steps.speed)
            self.last = steps[-1]

    def _done(self, step: Step) -> float:
        by_time = step.t / self.end if math.isfinite(self.end) else 0.0
        if self.target <= 0 or step.point.gap <= 0:
            return by_time
        fallen = math.log(self.first_gap / step.point.gap) / math.log(self.first_gap / self.target)
        return min(1.0, max(by_time, fallen))

    def trajectory(
        self,
        result: Result,
        coordinates: Coordinates,
        seconds: float,
        error: Callable[[tuple[np.ndarray, ...]], float],
    ) -> Trajectory:
        march, network, start = self.march, self._network(), coordinates.start
        drift = imbalance_drift(network, self.field.network)
        if not coordinates.same:
            network, self.checkpoints.expand = coordinates.expand(network), coordinates.expand
        self.recorder.cut(self.last.t)
        self.checkpoints.cut(self.last.t)
        found = self.recorder.arrays()
        t, gaps, rates = (to_numpy(found[name]) for name in ("t", "gap", "rate"))
        nodes = (t, np.log(np.maximum(gaps, 5e-324)), -rates, np.asarray(self.curvatures[: len(t)]))
        counts = march.accepted, march.rejected, self.field.evaluations
        objective, stats = self.field.objective, Stats(*counts, drift, seconds, partial(error, nodes))
        notes = (*objective.notes, *start.notes, *self.notes, *self.declared.notes)
        if result is Result.STATIONARY and (note := saddle_note(objective, network)):
            notes = (*notes, note)
        return Trajectory(
            **found,
            minimum=objective.minimum,
            start=start,
            final=network,
            result=result,
            stats=stats,
            notes=notes,
            until=self.until,
            nodes=nodes,
            checkpoints=self.checkpoints,
            optimizer=coordinates.optimizer,
        )
