"""Gradient flow of a two-layer ReLU network: smooth pieces, joined where a pre-activation crosses 0."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, norm
from linflow.dynamics.trajectory import Result, Stats
from linflow.relu.certificate import problem_of, two_layers
from linflow.relu.layers import TwoLayers
from linflow.relu.network import Network
from linflow.relu.pieces import OFF, ON, SLIDING, Pattern, PiecePoint, field_of
from linflow.relu.problem import Problem
from linflow.relu.roots import NODES, TOGETHER, first_roots
from linflow.relu.smooth import SmoothNetwork
from linflow.relu.trajectory import WORDS, Flip, Trajectory, find_root

AT_ZERO = 1e-12
"""A pre-activation below this part of `|x_i|ᵀ|u_j|` on the wrong side has crossed; the crossing is at half of it."""
LEFT = 1e-9
"""The part of its pull by which a force must be outside its range before the pair no longer slides."""
BUDGET = 256 * 2**20
"""Bytes of weights kept along a run; beyond, every second of those between flips is dropped."""


def gradient_flow(
    X: Any,
    Y: Any,
    network: Any,
    *,
    until: float | None = None,
    t_max: float | None = None,
    loss: str = "squared",
    rtol: float = 1e-8,
    max_steps: int = 20_000,
) -> Trajectory:
    """Integrate the gradient flow of `½‖σ(XU + 1bᵀ)V − Y‖_F²`, or of a loss for classification, from flip to flip.

    Between flips the slopes are constant and the flow is smooth; it is integrated by Dormand–Prince of order 8, with
    an error of at most `rtol · min(‖y‖, L/‖∇L‖)` a step. Where a pre-activation reaches 0, the step ends. There the
    flow goes on as Filippov defines it: across, or, if it is pushed back from both sides, along `z_ij = 0` with the
    one slope in `[slope, 1]` that keeps it there ("sliding"), until that slope leaves the interval. Where several
    ways to go on exist, which can only be so at the start, the slope at 0 is that of `z < 0`, as in PyTorch.

    Args:
        X: inputs, shape `(N, d)`.
        Y: targets, shape `(N, m)`, or `(N,)` for one output.
        network: a `relu.Network` or a `relu.SmoothNetwork`, whose flow has no flips; two layers stand for a ReLU
            without bias.
        until: fraction of the initial loss to reach, in (0, 1); 1e-8 if neither `until` nor `t_max` is given.
        t_max: time to stop at.
        loss: "squared", or the sum "exponential" or "logistic", as for `relu.certify`.
        rtol: relative tolerance of one step.
        max_steps: limit on the number of steps, pieces included.

    Returns:
        A `relu.Trajectory`.

    Raises:
        ValueError, TypeError: invalid arguments.

    Source: docs/relu.md, section 10.

    Example:
        >>> import numpy as np
        >>> from linflow import relu
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((6, 12)) / 12**0.5, rng.standard_normal(6)
        >>> run = relu.gradient_flow(X, Y, relu.paired((12, 100, 1), 1.0, rng=0), until=1e-4)
        >>> run.result.value, bool(abs(run.gap[-1] / run.gap[0] / 1e-4 - 1) < 1e-6), len(run.flips) > 0
        ('target reached', True, True)
    """
    began = time.perf_counter()
    net = two_layers(network)
    problem = problem_of(X, Y, net, loss)
    until = checks.fraction(until, "until") if until is not None else None if t_max is not None else 1e-8
    end = math.inf if t_max is None else checks.positive(t_max, "t_max")
    rtol = checks.fraction(rtol, "rtol", "the relative tolerance of one step", "1e-8")
    most = checks.count(max_steps, "max_steps")
    with np.errstate(over="ignore", invalid="ignore"):  # a start beyond float64 is "diverged"
        loop = _PieceLoop(problem, net, until, end, rtol, most)
        result = loop.run()
        return loop.trajectory(result, time.perf_counter() - began, partial(_difference, loop, result))


def _difference(loop: _PieceLoop, result: Result) -> float:
    """Return how far a run with ten times the tolerance is from this one."""
    with np.errstate(over="ignore", invalid="ignore"):
        coarse = _PieceLoop(loop.problem, loop.net, loop.until, loop.end, min(10 * loop.rtol, 0.5), loop.max_steps)
        again = coarse.trajectory(coarse.run(), 0.0, math.nan)
        return loop.trajectory(result, 0.0, math.nan).difference(again)


@dataclass(repr=False)
class _Kept:
    """The weights at one step, and the pattern on which the flow goes on."""

    t: float
    y: np.ndarray
    pattern: Pattern
    flip: bool


class _PieceLoop:
    """One integration."""

    def __init__(
        self,
        problem: Problem,
        net: Network | SmoothNetwork,
        until: float | None,
        end: float,
        rtol: float,
        max_steps: int,
    ):
        self.problem, self.net, self.until, self.end = problem, net, until, end
        self.rtol, self.max_steps = rtol, max_steps
        self.field = field_of(problem, net)
        self.t, self.y = 0.0, self.field.vector(net.extended, net.V)
        z, noise = self.field.z(self.y), self.field.z_noise(self.y)
        self.pattern = Pattern(np.where(z > 0, ON, OFF), self.field.slope)
        for j in np.flatnonzero((np.abs(z) <= noise).any(axis=0) & self.field.has_kinks):
            self.pattern = self.field.resolve(
                self.y, self.pattern, int(j), np.flatnonzero(np.abs(z[:, j]) <= noise[:, j])
            )
        self.point = self.field.at(self.y, self.pattern)
        # Time is measured in a power of two near that in which the weights move by their own size: squares of
        # velocities stay within float64 in the integrator.
        ratio = self.point.speed / max(norm(self.y[:-1]), 1e-300)
        self.unit = 2.0 ** round(math.log2(ratio)) if 0 < ratio < math.inf else 1.0
        self.target = -math.inf if until is None else until * self.point.gap
        self.steps = self.evaluations = 0
        self.flips: list[Flip] = []
        self.times, self.gaps, self.rates, self.paths = [0.0], [self.point.gap], [self.point.rate], [0.0]
        self.kept = [_Kept(0.0, self.y, self.pattern, True)]
        self.length: float | None = None
        self.solver: tuple[Any, Pattern | None] = (None, None)

    def tolerance(self, y: np.ndarray, point: PiecePoint) -> float:
        """Return the error allowed in a step, in norm."""
        relative = point.gap / point.speed if point.speed > 0 else math.inf
        size = norm(y[:-1])
        return max(self.rtol * min(size, relative), 4 * EPS * size)

    def run(self) -> Result:
        """Run to the end."""
        while self.steps < self.max_steps:
            ended = self._ended()
            if ended is not None:
                return ended
            step = self._step(self.y, self.t, self.end)
            if step is None:
                return Result.ROUNDING if self._at_rounding() else Result.STEP_UNDERFLOW
            y, t, dense = step
            event = self._first_event(t, dense)
            if event is not None:
                t = event[0]
            if self.field.at(y if event is None else dense(t), self.pattern).gap <= self.target:
                self._keep(*self._land(t, dense), False)
                return Result.TARGET
            if event is None:
                self._keep(t, y, False)
            else:
                self._turn(*event)
        return Result.STEP_LIMIT

    def _ended(self) -> Result | None:
        if not (math.isfinite(self.point.gap) and math.isfinite(self.point.speed)):
            return Result.DIVERGED
        if self.t >= self.end:
            return Result.TIME_LIMIT
        if self.point.speed == 0 or self._at_rounding():
            return Result.STATIONARY if not self._at_rounding() else Result.ROUNDING
        slow = self.point.speed * norm(self.y[:-1]) <= 16 * EPS * self.problem.scale(self.point.gap)
        return Result.STATIONARY if slow else None

    def _at_rounding(self) -> bool:
        return self.point.gap <= self.problem.rounding(self._network(self.y))

    def _network(self, y: np.ndarray) -> TwoLayers:
        return self.net.with_layers(*self.field.layers(y))

    def _step(
        self, y: np.ndarray, t: float, end: float
    ) -> tuple[np.ndarray, float, Callable[..., np.ndarray]] | None:
        """Take one step on the present pattern, at most to `end`. Return None if the tolerance cannot be met."""
        point = self.point if y is self.y else self.field.at(y, self.pattern)
        allowed = np.full(len(y), self.tolerance(y, point) / math.sqrt(len(y)))
        speed, unit = max(point.speed, 1e-300), self.unit
        # The path has its own size: that of the residual over one fall of the loss.
        allowed[-1] = max(self.rtol * norm(point.residual) * min(point.gap / speed, norm(y[:-1])) / speed, 1e-300)
        solver, pattern = self.solver
        if solver is None or solver.y is not y or pattern is not self.pattern or solver.t_bound != end * unit:
            first = self.length or min(0.01 * norm(y[:-1]), point.gap / speed) / speed
            solver = self._solver(y, t, end, min(first, end - t))
            self.evaluations += solver.nfev
        solver.atol = allowed
        before = solver.nfev
        with np.errstate(all="ignore"):
            solver.step()
        self.steps += 1
        self.evaluations += solver.nfev - before
        if solver.status == "failed":
            return None
        reached = min(float(solver.t) / unit, end)
        self.length = float(solver.h_abs) / unit if reached < end else self.length
        self.solver = solver, self.pattern
        found: list[Callable[..., np.ndarray]] = []

        def dense(s: Any) -> np.ndarray:  # costs three evaluations: made at the first call, before the next step
            if not found:
                before = solver.nfev
                found.append(solver.dense_output())
                self.evaluations += solver.nfev - before
            return found[0](s * unit)

        return solver.y, reached, dense

    def _solver(self, y: np.ndarray, t: float, end: float, first: float) -> Any:
        """Return the integrator of the present pattern; its absolute tolerance is set before each step."""
        from scipy.integrate import DOP853  # noqa: PLC0415 - scipy.integrate is slow to import

        pattern, unit = self.pattern, self.unit

        def velocity(_: float, x: np.ndarray) -> np.ndarray:
            return self.field.velocity(x, pattern) / unit

        return DOP853(velocity, t * unit, y, end * unit, rtol=1e-13, first_step=first * unit)

    def _first_event(
        self, t: float, dense: Callable[..., np.ndarray]
    ) -> tuple[float, list[tuple[int, int, int]]] | None:
        """Return the first time in the step at which pairs leave their sides, and these pairs.

        The pairs are `(sample, neuron, way)`: for a sliding pair, the way out is ON or OFF; for others it is 0.
        """
        if not self.field.has_kinks:
            return None
        states = dense(self.t + NODES * (t - self.t)).T
        zero = AT_ZERO * (np.abs(self.field.X) @ np.abs(self.field.layers(self.y)[0]))
        signed = self.field.z(states) * self.pattern.sides
        samples, neurons = np.nonzero(self._may_leave(signed))
        pairs = [(samples, neurons, 0)]
        curves = [signed[:, samples, neurons] + 0.5 * zero[samples, neurons]]
        if (self.pattern.sides == SLIDING).any():
            # The forces and pulls are as smooth as the weights; their ratio has a pole where a pull is 0.
            samples, neurons, forces, pulls = self.field.sliding_forces(states, self.pattern)
            signs, most = np.sign(pulls[0]), np.abs(pulls).max(axis=0)
            for way, room in ((ON, pulls - forces), (OFF, forces - self.field.slope * pulls)):
                pairs.append((samples, neurons, way))
                curves.append(signs * room + LEFT * most)
        first = first_roots(np.concatenate(curves, axis=1))
        earliest = float(first.min(initial=math.inf))
        if math.isinf(earliest):
            return None
        leaving = [(int(i), int(j), way) for some, others, way in pairs for i, j in zip(some, others, strict=True)]
        together = [pair for theta, pair in zip(first, leaving, strict=True) if theta <= earliest + TOGETHER]
        return self.t + earliest * (t - self.t), together

    def _may_leave(self, signed: np.ndarray) -> np.ndarray:
        """Return the pairs that are beyond 0 at a node of the step, or may be between nodes: `(N, h)`."""
        jump = np.max(np.abs(np.diff(signed, axis=0)), axis=0)
        return (signed.min(axis=0) < 0.5 * jump) & (self.pattern.sides != SLIDING)

    def _turn(self, t: float, pairs: list[tuple[int, int, int]]) -> None:
        """Go to the time of an event and change the pattern there."""
        y = self._advance(self.y, self.t, t, self.pattern)
        before = self.field.at(y, self.pattern)
        old = self.pattern
        for j in sorted({j for _, j, _ in pairs}):
            leaving = [(i, way) for i, neuron, way in pairs if neuron == j and way]
            for i, way in leaving:
                self.pattern = self.pattern.turned(np.array([i]), j, np.array([way]))
            crossing = np.array(sorted(i for i, neuron, way in pairs if neuron == j and not way), dtype=int)
            if crossing.size:
                held = np.flatnonzero(self.pattern.sides[:, j] == SLIDING)
                at_zero = np.union1d(crossing, held)
                y = self._onto_zero(y, j, at_zero)
                self.pattern = self.field.resolve(y, self.pattern, j, at_zero)
        changed = np.nonzero(self.pattern.sides != old.sides)
        for i, j in zip(*changed, strict=True):
            words = WORDS[int(old.sides[i, j])], WORDS[int(self.pattern.sides[i, j])]
            self.flips.append(Flip(t, int(j), int(i), *words))
        self._keep(t, y, True, before.rate)

    def _onto_zero(self, y: np.ndarray, neuron: int, samples: np.ndarray) -> np.ndarray:
        """Return the point with `x_iᵀu_j = 0` on some samples, changed by rounding only."""
        y = y.copy()
        U, _ = self.field.layers(y)
        rows = self.field.X[samples]
        U[:, neuron] -= np.linalg.lstsq(rows, rows @ U[:, neuron], rcond=None)[0]
        return y

    def _advance(self, y: np.ndarray, t: float, end: float, pattern: Pattern) -> np.ndarray:
        """Return the weights at `end`, on one pattern."""
        kept, self.pattern, length = self.pattern, pattern, self.length
        while t < end:
            self.length = min(length or end - t, end - t)
            step = self._step(y, t, end)
            if step is None:
                break
            y, t, _ = step
        self.pattern, self.length, self.solver = kept, length, (None, None)
        return y

    def _land(self, t: float, dense: Callable[..., np.ndarray]) -> tuple[float, np.ndarray]:
        """Return the time in the step at which the loss meets the target, and the weights there."""

        def above(s: float) -> float:
            return math.log(self.field.at(dense(s), self.pattern).gap / self.target)

        at = t
        if above(t) < 0 < above(self.t):
            at = find_root(above, self.t, t)
        y = self.y
        for _ in range(3):  # the weights are those of a step, which the dense output meets to its own error
            y = self._advance(self.y, self.t, at, self.pattern)
            point = self.field.at(y, self.pattern)
            off = math.log(point.gap / self.target)
            if abs(off) <= 1e-3 * self.rtol:
                break
            at = min(max(at + off / point.rate, self.t), t)
        return at, y

    def _keep(self, t: float, y: np.ndarray, flip: bool, rate: float = math.inf) -> None:
        """Record a point; `rate` is the other one-sided rate, at a flip."""
        self.t, self.y, self.point = t, y, self.field.at(y, self.pattern)
        values = self.point.gap, min(rate, self.point.rate)
        if t > self.times[-1]:
            self.times.append(t)
            self.gaps.append(values[0])
            self.rates.append(values[1])
            self.paths.append(float(y[-1]))
        else:  # several flips at one time
            self.gaps[-1], self.rates[-1] = values[0], min(values[1], self.rates[-1])
        self.kept.append(_Kept(t, y, self.pattern, flip))
        if len(self.kept) * y.nbytes > BUDGET and len(self.kept) > 4:
            self.kept = [one for k, one in enumerate(self.kept) if one.flip or k % 2 == 0]

    def weights_at(self, t: float) -> TwoLayers:
        """Return the network at a time, from the nearest kept weights before."""
        k = int(np.searchsorted([one.t for one in self.kept], t, side="right")) - 1
        one = self.kept[k]
        return self._network(self._advance(one.y, one.t, t, one.pattern) if t > one.t else one.y)

    def trajectory(self, result: Result, seconds: float, error: Callable[[], float] | float) -> Trajectory:
        """Return what was computed."""
        self.solver = None, None  # it cannot be pickled
        last = self._network(self.y)
        stats = Stats(self.steps, 0, self.evaluations, self.net.drift(last), seconds, error)
        return Trajectory(
            np.array(self.times),
            np.array(self.gaps),
            np.array(self.rates),
            np.array(self.paths),
            self.net,
            last,
            tuple(self.flips),
            result,
            stats,
            self.problem,
            until=self.until,
            weights_at=self.weights_at,
        )
