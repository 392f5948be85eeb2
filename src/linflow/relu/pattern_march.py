"""The march of a verified flow of a ReLU network: steps on one pattern, and passages from one to the next.

Proofs: docs/relu_verified.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from linflow.relu.events import Passing, first_event, moved_on
from linflow.relu.passage import Crossing, Grown, grown
from linflow.relu.pattern_path import Data, PatternPath
from linflow.relu.pattern_tube import PatternTube
from linflow.relu.pieces import OFF, ON, SLIDING, Pattern
from linflow.verified.march import TOO_SHORT, EnclosureStep, next_time, time_exponent
from linflow.verified.rounding import TINY, UP, U

SHORTER = 40
"""Largest number of shorter steps that are tried."""
TURNS = 50
"""Largest number of changes of the pattern without progress in time."""
ROOM, WIDER = 6.0, 4.0
"""A passage begins and ends at this multiple of the radius from 0; then at WIDER times as much, and so on."""
FINE = 2e-14
"""Part of the size of the weights that is added to a radius from which room is made."""
TRIES = 6
"""How often a passage is made wider."""
ORDER = 6
"""Degree of the path after a crossing, to the end of the passage."""
NOTHING = "nothing moves: all inputs, or all weights, are 0"
PART = (
    "there two solutions can part, and what a program computes depends on its slope at 0; a start that is moved a "
    "little, or a small positive slope, may pass"
)


class Turn(NamedTuple):
    """A change of the path's pattern: the time, the pair, and the sides before and after."""

    t: float
    neuron: int
    sample: int
    before: int
    after: int


@dataclass
class PatternMarch:
    """State of a verified flow, with the interface that `enclose_flow` needs.

    Attributes:
        data: inputs and targets.
        weights: the layers that the path has reached.
        pattern: the pattern of the path.
        radius: upper bound of the distance of every solution to `weights`.
        t: time reached.
        exponent: `∫ m` so far, with the logarithms of the factors at passages.
        first, gap: bounds of the loss at the start and now.
        trouble: why the march cannot go on; empty while it can.
        turns: changes of the pattern.
    """

    data: Data
    weights: list[np.ndarray] = field(init=False)
    pattern: Pattern = field(init=False)
    radius: float = 0.0
    t: float = 0.0
    exponent: float = 0.0
    trouble: str = ""
    turns: list[Turn] = field(default_factory=list)
    pending: list[EnclosureStep] = field(default_factory=list)

    def __post_init__(self) -> None:
        net, flow = self.data.start, self.data.field
        self.weights = [np.array(net.extended), np.array(net.V)]
        z, noise = self.data.X @ self.weights[0], self.data.preactivation_error(self.weights[0])
        self.pattern = Pattern(np.where(z > noise, ON, OFF), net.slope)
        self.first = self.gap = self.data.loss(self.weights, (0.0, 0.0), 0.0)
        y = flow.vector(self.weights[0], self.weights[1])
        unclear = (np.abs(z) <= noise) & ~self.data.void
        for j in np.flatnonzero(unclear.any(axis=0)):
            self.pattern = flow.resolve(y, self.pattern, int(j), np.flatnonzero(unclear[:, j]))
        speed = flow.at(y, self.pattern).speed
        self.tau = 2.0 ** (time_exponent(float(np.linalg.norm(y[:-1])), speed) - 3)

    def hurry(self, factor: float) -> None:
        """Go on as before: the degree of the path is always the same."""

    def advance(self, end: float = math.inf) -> EnclosureStep | None:
        """Take one step, at most to `end`. Return None if no radius is confirmed (`trouble` says why)."""
        if self.pending:
            return self._arrive(self.pending.pop(0))
        if self.data.void.all():
            self.trouble = NOTHING
            return None
        i = j = 0
        for _ in range(TURNS):
            path = self._path()
            s = path.longest()
            doubtful = self._doubtful(path)
            if doubtful.any():
                return self._pass(None, 0.0, self.weights, self.pattern, doubtful, self._speeds(path)[doubtful], end)
            event = first_event(path, self.t, s)
            if event is None or event.t > self.t:
                return self._ahead(path, s, event, end)
            i, j, _ = event.pairs[0]
            if not self._turn(event):
                self.trouble = (
                    f"neuron {j} is at 0 on sample {i}, and how the flow goes on is not clear: rounding hides "
                    "whether it crosses, turns back or is held there"
                )
                return None
        self.trouble = (
            f"the pattern changes again and again at one time, the last time for neuron {j} on sample {i}: "
            "rounding hides in which pattern the flow goes on"
        )
        return None

    def _path(self) -> PatternPath:
        """Return the path from here, in a unit of time in which its steps have about the length 1."""
        path = PatternPath(self.data, self.pattern, self.weights, self.tau)
        for _ in range(60):
            finite = np.isfinite(path.defects).all()
            longest = path.longest() if finite else 2.0**-8
            change = round(math.log2(longest))
            if not change or not 1e-100 < self.tau * 2.0**change < 1e100:
                break
            self.tau *= 2.0**change
            path = PatternPath(self.data, self.pattern, self.weights, self.tau)
        return path

    def _speeds(self, path: PatternPath) -> np.ndarray:
        """Return the computed speeds of the pre-activations, in real time."""
        return np.abs(path.z[1]) / path.tau

    def _doubt(self, path: PatternPath, radius: float) -> np.ndarray:
        """Return a pull, for each neuron, below which a kink within some radius is not surely convex."""
        rows, size = np.linalg.norm(self.weights[1], axis=1), float(path.residual[0])
        moved = math.hypot(self.data.norm * float(path.weights[1].norms[0]), float(path.features[0])) * radius
        return 4 * (moved * rows + size * radius) + 1e-14 * size * rows

    def _doubtful(self, path: PatternPath) -> np.ndarray:
        """Return the pairs that are at 0 now, up to the radius, and whose kink is not surely convex."""
        close = np.abs(path.z[0]) <= 2 * self.data.lengths[:, None] * self.radius + path.z_error[0]
        concave = path.pulls[0] < self._doubt(path, self.radius)
        return close & concave & ~self.data.void & (self.pattern.sides != SLIDING)

    def _ahead(self, path: PatternPath, s: float, event: Passing | None, end: float) -> EnclosureStep | None:
        """Take a step that ends where the pattern of the path changes, or before."""
        concave, room = False, 0.0
        if event is not None:
            radius = 2 * (self.radius + path.added(s)) + FINE * path.norm()
            doubt = self._doubt(path, radius)[[j for _, j, _ in event.pairs]]
            crosses = np.array([way == 0 for _, _, way in event.pairs])
            concave = bool((crosses & (event.pulls < doubt)).any())
            room = self._room(event.pairs, event.speeds, radius) if concave else 0.0
        blocking = None
        for _ in range(SHORTER):
            stop = end if event is None else min(end, event.t - room)
            if event is not None and event.t <= end and stop <= self.t:
                return self._cross(path, event, end)
            after = self._next(s * path.tau, stop)
            if after is None:
                self.trouble = TOO_SHORT
                return None
            tube = PatternTube(path, (after - self.t) / path.tau)
            found = grown([tube], self.radius, path.at(tube.s)[1])
            if found.holds:
                step = self._taken(tube, found)
                if event is not None and after == event.t:
                    self._turn(event)
                return step
            blocking = found.blocking
            if concave and after == stop and room * WIDER < 0.1 * (event.t - self.t if event else 0.0):
                room *= WIDER
            else:
                s = 0.5 * tube.s
        self.trouble = self._why(blocking)
        return None

    def _next(self, length: float, stop: float) -> float | None:
        """Return the end of a step of at most this length, at most to `stop`, and there if it can be."""
        if not self.t + length < stop:
            length = stop - self.t
            if next_time(self.t, 2 * length, stop) == stop:
                return stop
            length *= 0.5
        after = next_time(self.t, length, stop)
        if after is None:  # all differences up to 2t are exact
            end = self.t + min(length, 0.99 * self.t)
            after = next_time(self.t, 2 * (end - self.t), end)
        return after

    def _room(self, pairs: list[tuple[int, int, int]], speeds: np.ndarray, radius: float) -> float:
        """Return the time before a crossing at which the pairs are still clear of 0."""
        lengths = self.data.lengths[[i for i, _, _ in pairs]]
        noise = self.data.preactivation_error(self.weights[0])[[i for i, _, _ in pairs], [j for _, j, _ in pairs]]
        need = ROOM * (lengths * radius + 4 * noise) / np.maximum(speeds, 1e-300)
        return max(float(need.max()), 8 * math.ulp(self.t))

    def _cross(self, path: PatternPath, event: Passing, end: float) -> EnclosureStep | None:
        """Pass through crossings that are near."""
        after = self._next(2 * (event.t - self.t), event.t)
        if after is None:
            self.trouble = TOO_SHORT
            return None
        s = (after - self.t) / path.tau
        layers, _ = path.at(s)
        pattern = moved_on(self.data, layers, self.pattern, event.pairs)
        crossing = self.pattern.sides != pattern.sides
        for i, j, _ in event.pairs:
            crossing[i, j] = True
        return self._pass(path, s, layers, pattern, crossing, event.speeds, end)

    def _pass(
        self,
        path: PatternPath | None,
        s: float,
        layers: list[np.ndarray],
        pattern: Pattern,
        pairs: np.ndarray,
        speeds: np.ndarray,
        end: float,
    ) -> EnclosureStep | None:
        """Pass through crossings: on the old path to the crossing, if there is one, then on the new one."""
        before = [] if path is None else [PatternTube(path, s, pairs)]
        jump = 0.0 if path is None else path.at(s)[1]
        t = self.t if path is None else self.t + s * path.tau
        old, self.t = self.t, t
        where = [(int(i), int(j), 0) for i, j in zip(*np.nonzero(pairs), strict=True)]
        speed = np.full(len(where), float(np.min(speeds)))
        size = FINE * math.hypot(*(float(np.linalg.norm(layer)) for layer in layers))
        room = self._room(where, speed, 2 * self.radius + size)
        found, slow = Grown(math.inf, 0.0, 0.0, pairs), None
        for _ in range(TRIES):
            after = self._next(room, min(end, t + 2 * room))
            if after is None:
                break
            tau = 2.0 ** round(math.log2(after - t))
            new = PatternPath(self.data, pattern, layers, tau, ORDER)
            tube = PatternTube(new, (after - t) / tau, pairs)
            crossing = Crossing([*before, tube], layers, pattern, pairs)
            jumps = (jump + new.at(tube.s)[1]) * UP
            found = grown([*before, tube], self.radius, jumps, crossing)
            if found.holds and self._clear(tube, pairs, found.radius + jumps + size):
                self.t = old
                return self._passed(before, tube, found, layers, pattern, jump)
            room, slow = room * WIDER, crossing.slow or slow
        self.t = old
        if found.blocking is None and slow is not None:
            self.trouble = self._not_crossed(*slow, t)
        else:
            self.trouble = self._why(found.blocking if found.blocking is not None else pairs)
        return None

    def _clear(self, tube: PatternTube, pairs: np.ndarray, radius: float) -> bool:
        """Return whether the pairs are clear of 0 at the end of a passage."""
        layers, _ = tube.path.at(tube.s)
        z, error = self.data.X @ layers[0], self.data.preactivation_error(layers[0])
        away = tube.side * z - error - 2 * self.data.lengths[:, None] * radius
        return bool((away[pairs & (tube.side != 0)] > 0).all())

    def _passed(
        self,
        before: list[PatternTube],
        tube: PatternTube,
        found: Grown,
        layers: list[np.ndarray],
        pattern: Pattern,
        jump: float,
    ) -> EnclosureStep:
        """Take the steps of a confirmed passage. The radius at its end holds on both."""
        steps = []
        if before:
            path = before[0].path
            gap = self.data.loss(layers, (0.0, 0.0), (found.radius + jump) * UP)
            steps.append(self._step(before[0], found.radius, 0.0, found.reach, self.t, gap))
            self._record(pattern, self.t + before[0].s * path.tau)
        self.pattern = pattern
        weights, last = tube.path.at(tube.s)
        weights, nudge = self._onto_zero(weights)
        after = (found.radius + jump + last + nudge) * UP
        gap = self.data.loss(weights, (0.0, 0.0), after)
        start = self.t if not before else self.t + before[0].s * before[0].path.tau
        steps.append(self._step(tube, found.radius, found.exponent, found.reach, start, gap))
        self.radius, self.weights = after, weights
        self.exponent += found.exponent
        self.pending = steps[1:]
        return self._arrive(steps[0])

    def _taken(self, tube: PatternTube, found: Grown) -> EnclosureStep:
        """Go to the end of a confirmed step."""
        weights, jump = tube.path.at(tube.s)
        weights, nudge = self._onto_zero(weights)
        self.radius, self.weights = (found.radius + jump + nudge) * UP, weights
        self.exponent += found.exponent
        gap = self.data.loss(weights, (0.0, 0.0), self.radius)
        return self._arrive(self._step(tube, found.radius, found.exponent, found.reach, self.t, gap))

    def _arrive(self, step: EnclosureStep) -> EnclosureStep:
        self.t, self.gap = step.t + step.length, step.gap
        return step

    def _step(
        self, tube: PatternTube, radius: float, exponent: float, reach: float, t: float, gap: tuple[float, float]
    ) -> EnclosureStep:
        path, constants = tube.path, tube.constants(reach)
        length = tube.s * path.tau
        return EnclosureStep(t, length, path.tau, path.values, path.lengths, radius, constants, exponent, gap)

    def _onto_zero(self, weights: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
        """Put sliding pairs onto 0, up to rounding; return how far this moves the weights."""
        first, square = weights[0].copy(), 0.0
        for j, S in self.pattern.sliding:
            rows = self.data.X[S]
            moved = first[:, j] - np.linalg.lstsq(rows, rows @ first[:, j], rcond=1e-12)[0]
            square += float(np.sum((np.abs(moved - first[:, j]) + U * np.abs(moved)) ** 2)) * UP + TINY
            first[:, j] = moved
        return [first, weights[1]], math.sqrt(square) * UP

    def _turn(self, event: Passing) -> bool:
        """Change the pattern at an event; return whether it changed."""
        pattern = moved_on(self.data, self.weights, self.pattern, event.pairs)
        changed = bool((pattern.sides != self.pattern.sides).any())
        self._record(pattern, self.t)
        self.pattern = pattern
        return changed

    def _record(self, pattern: Pattern, t: float) -> None:
        """Keep every change of the pattern."""
        for i, j in zip(*np.nonzero(pattern.sides != self.pattern.sides), strict=True):
            self.turns.append(Turn(t, int(j), int(i), int(self.pattern.sides[i, j]), int(pattern.sides[i, j])))

    def _why(self, blocking: np.ndarray | None) -> str:
        """Return why no radius was confirmed."""
        if blocking is None or not blocking.any():
            return f"no radius was confirmed, however short the step; it is {self.radius:.2g}"
        i, j = (int(k[0]) for k in np.nonzero(blocking))
        return self._not_crossed(i, j, None)

    def _not_crossed(self, i: int, j: int, t: float | None) -> str:
        """Return what happens to a pair whose kink is not convex: at a time, or soon."""
        path = self._path()
        z, pull = np.abs(path.z[:, i, j]), float(path.pulls[0, i, j])
        at_zero = 1e-12 * float(np.abs(self.data.X[i]) @ np.abs(self.weights[0][:, j]))
        if self.t == 0 and z[0] <= at_zero:
            what = f"starts at 0 on sample {i} and is not proved to leave it at a positive speed"
        elif np.sum(z) <= at_zero:
            what = f"is held at 0 on sample {i} and may stay there or leave"
        elif t is not None:
            what = f"comes to 0 on sample {i} at t = {t:.6g} and is not proved to cross it at a positive speed"
        else:
            what = f"comes near 0 on sample {i} and may turn back or cross it"
        return f"neuron {j} {what}; its pull (R v_j)_i is {pull:.2g}, the radius {self.radius:.2g}: {PART}"
