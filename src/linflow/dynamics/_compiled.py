"""The compiled march: what `PlainMarch` does, in compiled code, for NumPy weights and built-in objectives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from linflow._support.arrays import Array, is_numpy, norm
from linflow._support.extras import explained
from linflow.dynamics import _tableau
from linflow.dynamics._stabilized import Stiffness
from linflow.dynamics._stepping import REVIEW, Event, Step, allowed_error, initial_step
from linflow.dynamics.field import GradientField, Point
from linflow.model.classification import ExponentialLoss, LogisticLoss
from linflow.model.network import Network
from linflow.model.quadratics import LinearRegression, MatrixFactorization, Quadratic, _Quadratic

BLAS_FROM = 2_000_000
"""Number of multiplications in one matrix product from which BLAS, and so the plain loop, is faster."""
BLOCK, BLOCK_BYTES, BLOCK_PRODUCTS = 128, 2**22, 3 * 10**7
"""Limits between two returns to Python: steps, bytes of the weights kept, and steps times multiplications."""
LINE = 8
"""Numbers in a line of the cache."""
QUADRATIC, EXPONENTIAL, LOGISTIC = range(3)
_KINDS = {
    **dict.fromkeys((_Quadratic, MatrixFactorization, LinearRegression, Quadratic), QUADRATIC),
    ExponentialLoss: EXPONENTIAL,
    LogisticLoss: LOGISTIC,
}
"""Keyed by exact type, because a subclass may compute something else."""


def why_not_compiled(field: GradientField) -> str | None:
    """Return why compiled code cannot take this problem, or None if it can."""
    objective = field.objective
    if type(objective) not in _KINDS:
        return f"it supports only the built-in objectives, not {type(objective).__name__}"
    if not all(is_numpy(A) and A.dtype == np.float64 for A in (*field.network.weights, *_matrices(objective))):
        return "it takes only NumPy arrays of float64"
    return None


def large(field: GradientField) -> bool:
    """Return whether matrix products are so large that the plain loop, with BLAS, is faster."""
    widths = field.network.widths
    return max(a * b for a, b in pairwise(widths)) * min(widths[0], widths[-1]) >= BLAS_FROM


@lru_cache(maxsize=1)
def compiler_trouble() -> str | None:
    """Return why nothing can be compiled here, or None; the first call compiles, or loads code compiled before."""
    one = np.ones((1, 1))
    field = GradientField(MatrixFactorization(2 * one), Network([one]))
    try:
        march = CompiledMarch(field, 1e-8, 1)
        march.advance(1.0, 0.0, 1)
    except ModuleNotFoundError as error:
        return explained(error)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


@lru_cache(maxsize=1)
def scheme() -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of stages 1 to 11, of the step and of its two error estimates, and their number and places.

    Zeros are left out. Each row of the second array holds a count, then places. The error estimates have those of the
    step.
    """
    rows = [*_tableau.A, _tableau.B, _tableau.E3, _tableau.E5]
    weights, places = np.zeros((15, 12)), np.zeros((13, 13), dtype=np.int64)
    for s, row in enumerate(rows):
        at = np.flatnonzero(rows[min(s, 12)])
        weights[s, : len(at)] = row[at]
        if s <= 12:
            places[s, 0], places[s, 1 : len(at) + 1] = len(at), at
    assert places[12, 0] == 8
    assert not any(np.delete(E, places[12, 1:9]).any() for E in rows[13:])
    return weights, places


def _matrices(objective: Any) -> list[Array]:
    """Return the matrices of a built-in objective, in the order of `layout`."""
    if _KINDS[type(objective)] == QUADRATIC:
        F, H = objective.factors
        return [A for A in (F, H, None if H is None else H.T, objective.minimizer) if A is not None]
    return [objective._X, objective._Y, objective._lengths]


def layout(field: GradientField, rtol: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Return `spec` and `data` of `_kernels` for a problem, and the length of `work`."""
    from linflow.dynamics import _kernels as k  # noqa: PLC0415 - numba is slow to import

    objective: Any = field.objective
    widths, depth = field.network.widths, field.network.depth
    n, m = widths[0], widths[-1]
    spec = [0] * k.HEADER
    kind = spec[k.KIND] = _KINDS[type(objective)]
    sides = [a * b for a, b in pairwise(widths)]
    spec[k.DEPTH], spec[k.ROWS], spec[k.COLUMNS] = depth, n, m
    spec[k.SIZE], spec[k.BY_COLUMNS] = sum(sides), int(m <= n)
    left = right = 0
    at = k.MATRICES
    if kind == QUADRATIC:
        left, right = (0 if A is None else A.shape[side] for side, A in enumerate(objective.factors))
        places = [k.F_AT] * (left > 0) + [k.H_AT, k.HT_AT] * (right > 0) + [k.STAR_AT]
    else:
        left = objective._X.shape[0]
        places = [k.F_AT, k.H_AT, k.LENGTHS_AT]
    spec[k.LEFT], spec[k.RIGHT] = left, right
    matrices = _matrices(objective)
    for place, A in zip(places, matrices, strict=True):
        spec[place] = at
        at += A.size
    star = objective.minimizer_size if kind == QUADRATIC else 0.0
    numbers = (field.network.scale, objective.smoothness, star, rtol, 0.0)
    data = np.concatenate([numbers, *(np.asarray(A).ravel() for A in matrices)])
    r, largest = min(n, m), min(n, m) * max(widths)
    parts = (n * m, n * m, (left or n) * m, (left or n) * max(m, right), largest, largest, 5 * largest)
    *starts, end = accumulate(parts, initial=0)
    spec[k.PRODUCT_AT : k.PRODUCT_AT + 7], spec[k.JET_SIZE] = starts, largest
    spec += [*widths, *accumulate(sides, initial=0), *accumulate((r * h for h in widths[:-1]), initial=end)]
    return np.array(spec, dtype=np.int64), data, end + r * sum(widths)


def _lines(*counts: int) -> list[np.ndarray]:
    """Return arrays of zeros that begin with a line of the cache, so that few vectors of them lie in two lines."""
    lengths = [-(-count // LINE) * LINE for count in counts]
    room = np.zeros(sum(lengths) + LINE - 1)
    begin = -(room.__array_interface__["data"][0] // room.itemsize) % LINE
    starts = accumulate(lengths, initial=begin)
    return [room[start : start + count] for start, count in zip(starts, counts, strict=False)]


class StepBlock:
    """The accepted steps of a block, in columns.

    Attributes:
        t, gap, speed, curvature: a number of each step, as lists.
        y: the weights that each step leads to, as rows.
    """

    def __init__(self, numbers: np.ndarray, y: np.ndarray):
        self.t, self.gap, self.speed, self.curvature = numbers.T.tolist()
        self.y = y

    def __len__(self) -> int:
        return len(self.t)

    def __iter__(self) -> Iterator[Step]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, i: int) -> Step:
        # A row alone would keep all of them in memory.
        return Step(self.t[i], Point(self.y[i].copy(), None, self.gap[i], self.speed[i]), self.curvature[i])


class CompiledMarch:
    """The state of an integration, advanced many steps at a time; see `March` for its attributes."""

    def __init__(self, field: GradientField, rtol: float, block: int = BLOCK):
        from linflow.dynamics import _kernels, _march  # noqa: PLC0415 - numba is slow to import

        self.field = field
        self._at = _march
        self.programs = self._advance, self._reach = _march.programs()
        spec, data, room = layout(field, rtol)
        size = int(spec[_kernels.SIZE])
        y, self._slopes, self._new, work = _lines(size, (_march.STAGES + 1) * size, size, room)
        np.concatenate([np.asarray(W).ravel() for W in field.network.weights], out=y)
        data[_kernels.FIRST_SIZE] = norm(y)
        # Few enough steps that Ctrl-C takes effect within a fraction of a second.
        products = len(y) * min(field.network.shape)
        self._most = max(1, min(block, BLOCK_BYTES // (8 * len(y)), BLOCK_PRODUCTS // products))
        self._y = y
        self._numbers, self._counts = np.zeros(_march.NUMBERS), np.zeros(_march.COUNTS, dtype=np.int64)
        self._state = (spec, data, *scheme(), y, self._slopes, work, self._new, self._numbers, self._counts)
        self.rtol, self.stiffness, self._review = rtol, Stiffness(field), REVIEW
        self.accepted = self.rejected = 0
        self.reached = self.reach(0.0)
        self.start = self._move(0.0)
        self.h, self.taken, self.before = initial_step(self.start.point), 0.0, self.start.point.gap

    @property
    def t(self) -> float:
        """Time reached."""
        return float(self._numbers[self._at.T])

    @property
    def point(self) -> Point:
        """The current point of the march."""
        gap, speed = float(self._numbers[self._at.GAP]), float(self._numbers[self._at.SPEED])
        return Point(self._y.copy(), self._slopes[: len(self._y)].copy(), gap, speed)

    def advance(self, stop: float, target: float, attempts: int) -> tuple[Event, StepBlock]:
        """Attempt steps until one needs attention or the block is full."""
        at, numbers, counts = self._at, self._numbers, self._counts
        if self.accepted >= self._review:
            self._review = self.accepted + REVIEW
            point = self.point
            self.h = self.stiffness.review(point, self.h, lambda h: allowed_error(self.field, point, h, self.rtol))
            numbers[at.RADIUS] = self.stiffness.radius
        numbers[at.H], numbers[at.STOP], numbers[at.TARGET] = self.h, stop, target
        counts[at.ATTEMPTS] = min(attempts, 2**62)  # as many as it can count
        room = min(self._most, self._review - self.accepted)
        steps, kept = np.empty((room, 4)), np.empty((room, len(self._y)))
        event = Event(self._advance(*self._state, steps, kept))
        done, now = counts.tolist(), numbers.tolist()
        self.accepted += (accepted := done[at.ACCEPTED])
        self.rejected += done[at.REJECTED]
        self.field.evaluations += done[at.EVALUATIONS]
        self.h, self.before, self.taken = now[at.H], now[at.BEFORE], now[at.TAKEN]
        self.stiffness.radius = now[at.RADIUS]
        self.may_rest = event is Event.LOOK
        if event is Event.CROSSED:
            self.reached, numbers[at.NEW_CURVATURE] = self._candidate(), math.nan
        if accepted < room / 2:  # an array of which rows are held is held as a whole
            kept = kept[:accepted].copy()
        return event, StepBlock(steps[:accepted], kept[:accepted])

    def reach(self, h: float) -> Point:
        """Return where a step of length h leads, without taking it."""
        self._reach(*self._state, h)
        self.field.evaluations += int(self._counts[self._at.EVALUATIONS])
        self.taken, self.reached = h, self._candidate()
        return self.reached

    def accept(self, stop: float) -> Step:
        """Take the step tried last."""
        if math.isnan(self._numbers[self._at.NEW_CURVATURE]):  # not computed on the way past the target
            self.reach(self.taken)
        self.accepted += 1
        return self._move(stop if self.t + self.taken >= stop else self.t + self.taken)

    def _candidate(self) -> Point:
        gap, speed = float(self._numbers[self._at.NEW_GAP]), float(self._numbers[self._at.NEW_SPEED])
        return Point(self._new, self._slopes[-len(self._y) :], gap, speed)

    def _move(self, t: float) -> Step:
        at, numbers = self._at, self._numbers
        self._y[:], self._slopes[: len(self._y)] = self._new, self._slopes[-len(self._y) :]
        numbers[at.T], numbers[at.GAP], numbers[at.SPEED] = t, numbers[at.NEW_GAP], numbers[at.NEW_SPEED]
        self.may_rest = bool(self._counts[at.MAY_REST])
        return Step(t, self.point, float(numbers[at.NEW_CURVATURE]))
