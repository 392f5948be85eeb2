"""The gradient flow with weight decay, and the heavy-ball flow: the method of order 8 on their own equations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np

from linflow._support.arrays import EPS, Array, norm
from linflow._support.threads import one_thread_when_small
from linflow.dynamics import _dop853
from linflow.dynamics._stepping import MOTION, grow, shrink
from linflow.dynamics.coordinates import Coordinates
from linflow.dynamics.declared import DeclaredConstants
from linflow.dynamics.ending import Result, Stats
from linflow.dynamics.field import GradientField, Point
from linflow.dynamics.motion import quadratic
from linflow.dynamics.trajectory import Checkpoints, Recorder, Trajectory, ended_outside
from linflow.geometry.imbalance import imbalance_drift
from linflow.model.network import Network
from linflow.model.objectives import LeftBehindError, Objective
from linflow.model.optimizer import Optimizer, layer_vector

FINER = 1e-2
"""Factor on the tolerance for the second run, which meets the steps of the first and estimates its error."""
RESTING = 64 * EPS
"""A step that would move the state by less than this part of its size is rounding."""


@dataclass(frozen=True)
class Limits:
    """Where a flow ends and how accurate it is; the arguments of `gradient_flow`."""

    until: float | None
    end: float
    stops: tuple[float, ...]
    rtol: float
    max_steps: int


@dataclass(frozen=True)
class FlowState:
    """A state of the flow: `z`, the weights y or the pair (y, ẏ), with its derivative.

    Attributes:
        z, rate: the state and ż.
        point: the loss gap and `−∇L` at y.
        total: the loss gap plus `½ Σ κ_l‖W_l‖²` and `½‖ẏ‖²`, which never grows.
        steepness: the norm of the derivative of `total` by z.
    """

    z: Array
    rate: Array
    point: Point
    total: float
    steepness: float


class OtherField:
    """`ẏ = −∇L − κy`, or `ÿ + aẏ = −∇L − κy` on the pair `z = (y, ẏ)`."""

    def __init__(self, objective: Objective, network: Network, optimizer: Optimizer):
        self.inner = GradientField(objective, network)
        self.objective, self.friction = objective, optimizer.friction
        decays = optimizer.decays(network.depth)
        self.kappa = layer_vector(decays, network.weights, self.inner.xp) if optimizer.weight_decay else None
        self.size = sum(rows * columns for rows, columns in self.inner.shapes)

    def first(self) -> Array:
        """Return the state at time 0, at rest."""
        y = self.inner.flatten(self.inner.network.weights)
        return y if self.friction is None else self.inner.xp.concat([y, 0.0 * y])

    def network_at(self, z: Array) -> Network:
        """Return the network of a state."""
        return self.inner.network_at(z[: self.size])

    def __call__(self, z: Array) -> Array:
        """Return ż."""
        y = z[: self.size]
        return self._rate(z, self.inner(y))

    def _rate(self, z: Array, slope: Array) -> Array:
        force = slope if self.kappa is None else slope - self.kappa * z[: self.size]
        if self.friction is None:
            return force
        p = z[self.size :]
        return self.inner.xp.concat([p, force - self.friction * p])

    def at(self, z: Array) -> FlowState:
        """Return everything that a step needs of a state."""
        y, p = z[: self.size], z[self.size :]
        point = self.inner.at(y)
        rate, total = self._rate(z, point.slope), point.gap
        force = point.slope
        if self.kappa is not None:
            total += 0.5 * float(self.inner.xp.sum(self.kappa * y * y))
            force = force - self.kappa * y
        if self.friction is None:
            return FlowState(z, rate, point, total, norm(force))
        return FlowState(z, rate, point, total + 0.5 * norm(p) ** 2, math.hypot(norm(force), norm(p)))

    def bend(self, state: FlowState) -> tuple[float, float]:
        """Return the first and the second derivative of the logarithm of the loss gap, along a flow with decay."""
        y, point, gap = state.z[: self.size], state.point, state.point.gap
        if gap <= 0 or self.kappa is None:
            return 0.0, 0.0
        change = self.inner.slope_change(y, state.rate)
        second = change - self.kappa * state.rate  # ÿ
        xp = self.inner.xp
        first = -float(xp.sum(point.slope * state.rate)) / gap
        twice = -float(xp.sum(change * state.rate) + xp.sum(point.slope * second)) / gap
        return first, twice - first * first

    def further(self, rtol: float, z: Array, duration: float) -> Array:
        """Return the state after a duration."""
        march = _March(self, self.at(z), rtol)
        while march.t < duration and march.advance(duration):
            pass
        return march.state.z


class _March:
    """Accepted steps of one integration."""

    def __init__(self, field: OtherField, state: FlowState, rtol: float):
        self.field, self.state, self.rtol = field, state, rtol
        self.t, self.accepted, self.rejected = 0.0, 0, 0
        size, speed = norm(state.z), norm(state.rate)
        self.h = 0.01 * size / speed if size > 0 and speed > 0 else 1.0
        if field.friction is not None:
            self.h = min(self.h, 0.01 / field.friction)

    @property
    def resting(self) -> bool:
        """Whether the next step would move nothing but rounding."""
        return self.h * norm(self.state.rate) <= RESTING * norm(self.state.z)

    def advance(self, stop: float) -> bool:
        """Take one step, at most to `stop`; return False if no step is short enough."""
        state, field = self.state, self.field
        while True:
            h = min(self.h, stop - self.t)
            z, error = _dop853.step(field, state.z, state.rate, h)
            allowed = self._allowed(h)
            ratio = error / allowed
            new = field.at(z) if ratio <= 1 else None
            rises = new is not None and not new.total <= state.total + self._slack(allowed)
            if new is not None and not rises:
                break
            self.rejected += 1
            self.h = h * (0.2 if rises or not math.isfinite(ratio) else shrink(ratio))
            if not (self.t + self.h > self.t and self.h * norm(state.rate) > EPS * EPS * norm(state.z)):
                return False
        self.t = stop if h == stop - self.t else self.t + h
        self.h = max(self.h, h * grow(ratio)) if h < self.h else h * grow(ratio)
        self.state, self.accepted = new, self.accepted + 1
        return True

    def _slack(self, error: float) -> float:
        """Return by how much an error of the state can raise the total, to second order, and 1e-10 of it."""
        state = self.state
        bent = state.steepness * (error * (state.steepness / max(state.total, 5e-324)))
        return 1e-10 * state.total + 2 * error * (state.steepness + bent)

    def _allowed(self, h: float) -> float:
        """Return the allowed error of a step: the parts of the rule of the plain flow, for `total`."""
        state, rtol = self.state, self.rtol
        size = norm(state.z)
        by_total = rtol * state.total / state.steepness if state.steepness > 0 else math.inf
        return max(min(rtol * size, by_total, MOTION * rtol * h * norm(state.rate)), 4 * EPS * size, 5e-324)


def other_flow(
    objective: Objective,
    coordinates: Coordinates,
    limits: Limits,
    record: Sequence[str],
    progress: Callable[[float], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Trajectory:
    """Integrate the flow of an optimizer with weight decay or friction; see `gradient_flow`."""
    loop = _MotionLoop(objective, coordinates, limits, record)
    with np.errstate(over="ignore", invalid="ignore"), one_thread_when_small(coordinates.network.weights):
        result = loop.run(progress, stopped)
        return loop.trajectory(result)


class _MotionLoop:
    """One integration: keeps its records and decides how it ends."""

    def __init__(self, objective: Objective, coordinates: Coordinates, limits: Limits, record: Sequence[str]):
        self.began, self.coordinates, self.limits = time.perf_counter(), coordinates, limits
        self.field = field = OtherField(objective, coordinates.network, coordinates.optimizer)
        self.march = _March(field, field.at(field.first()), limits.rtol)
        self.declared = DeclaredConstants(objective)
        self.recorder = Recorder(field.inner, record, self._law())
        self.checkpoints = Checkpoints(cast(Any, field), limits.rtol, further=partial(field.further, limits.rtol))
        self.nodes: list[tuple[float, ...]] = []
        self.first = self.march.state.point.gap
        self._keep()

    def _law(self) -> Callable[[float, Point], float] | None:
        """Return the error of `D(t) = e^{−2κt} D(0)`; None if the imbalance follows no law in closed form."""
        decays, field = set(self.coordinates.optimizer.decays(self.coordinates.start.depth)), self.field.inner
        if self.field.friction is not None or len(decays) > 1:
            return None
        (kappa,), start = decays, quadratic(field.network.weights)

        def error(t: float, point: Point) -> float:
            now = quadratic(field.unflatten(point.y))
            return max(
                (norm(D - math.exp(-2 * kappa * t) * D0) for D, D0 in zip(now, start, strict=True)), default=0.0
            )

        return error

    def _keep(self) -> None:
        t, state = self.march.t, self.march.state
        bend = self.field.bend(state) if self.field.friction is None else ()
        self.nodes.append((t, math.log(max(state.point.gap, 5e-324)), *bend))
        self.checkpoints.add(t, state.z)
        self.recorder.add(t, state.point)
        self.declared.observe(t, self.field.inner, state.point)

    def run(self, progress: Callable[[float], None] | None, stopped: Callable[[], bool]) -> Result:
        """Integrate to an end or an interruption."""
        march, limits = self.march, self.limits
        stops = [*limits.stops, limits.end]
        try:
            while (ended := self._ended()) is None:
                if stopped():
                    return Result.INTERRUPTED
                if march.accepted + march.rejected >= limits.max_steps:
                    return Result.STEP_LIMIT
                if not march.advance(stops[0]):
                    return Result.STEP_UNDERFLOW
                if march.t >= stops[0]:
                    stops.pop(0)
                self._keep()
                if progress is not None:
                    progress(march.t / limits.end)
        except KeyboardInterrupt:
            return Result.INTERRUPTED
        return ended

    def _ended(self) -> Result | None:
        state, limits = self.march.state, self.limits
        point = state.point
        if not point.finite or (point.gap <= 0 and self.field.friction is None):
            return ended_outside(self.field.inner, point)
        if limits.until is not None and point.gap <= limits.until * self.first:
            return Result.TARGET
        if self.march.t >= limits.end:
            return Result.TIME_LIMIT
        if state.total <= self.field.objective.rounding(self.field.network_at(state.z)):
            return Result.ROUNDING
        return Result.STATIONARY if self.march.resting else None

    def trajectory(self, result: Result) -> Trajectory:
        """Return the run."""
        march, field, coordinates = self.march, self.field, self.coordinates
        t = self.nodes[-1][0]
        self.recorder.cut(t)
        nodes = tuple(np.array(column) for column in zip(*self.nodes[: len(self.recorder.t)], strict=True))
        last, start = field.network_at(march.state.z), coordinates.start
        drift = imbalance_drift(last, field.inner.network)
        if not coordinates.same:
            last, self.checkpoints.expand = coordinates.expand(last), coordinates.expand
        estimate = partial(_error, field.objective, coordinates, self.limits, tuple(nodes[0]))
        counts = march.accepted, march.rejected, field.inner.evaluations
        decay = coordinates.optimizer.weight_decay > 0
        notes = ["the loss and its gap leave the weight decay out, and need not fall to f*"] if decay else []
        return Trajectory(
            **self.recorder.arrays(),
            minimum=field.objective.minimum,
            start=start,
            final=last,
            result=result,
            stats=Stats(*counts, drift, time.perf_counter() - self.began, partial(estimate, _gaps(nodes))),
            notes=(*field.objective.notes, *start.notes, *self.declared.notes, *notes),
            until=self.limits.until,
            nodes=nodes,
            checkpoints=self.checkpoints,
            optimizer=coordinates.optimizer,
        )


def _gaps(nodes: Sequence[np.ndarray]) -> np.ndarray:
    return np.exp(nodes[1])


def _error(
    objective: Objective, coordinates: Coordinates, limits: Limits, times: Sequence[float], gaps: np.ndarray
) -> float:
    """Return how far these gaps are from those of a finer run; NaN if the objective was left behind.

    Differences are relative to the gap, or for a heavy ball to its energy, because its gap can pass through 0.
    """
    end = float(times[-1])
    if end == 0:
        return 0.0
    again = replace(limits, until=None, end=end, rtol=FINER * limits.rtol)
    try:
        loop = _MotionLoop(objective, coordinates, again, ())
        with np.errstate(over="ignore", invalid="ignore"):
            totals = [loop.march.state.total]
            found = [loop.march.state.point.gap]
            for stop in times[1:]:
                while loop.march.t < stop:
                    if not loop.march.advance(stop):
                        return math.inf
                totals.append(loop.march.state.total)
                found.append(loop.march.state.point.gap)
    except LeftBehindError:
        return math.nan
    scale = np.maximum(gaps, totals if loop.field.friction is not None else found)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nanmax(np.abs(gaps - np.array(found)) / scale))
