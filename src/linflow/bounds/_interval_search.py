"""Branch and bound over the boxes of the joint program, for many problems at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from linflow.bounds._interval_program import EDGE, MOST, PLAIN, ROUNDING, Programs

SHAVED = 1e-10
"""Relative amount by which the result is lowered, for the rounding of a value."""
TOLERANCE, MOST_BOXES, SHARE = 0.01, 4000, 500
"""A box is closed if its value is within this share of the best point. The search ends when it has seen the most
boxes for one or two problems, or a share for each of many."""
CHOICES, POINTS, TOGETHER, FEWEST = 6, 8, 256, 64
"""How many θ a problem keeps; boxes in which points are tried; boxes split in a round, of all and of one problem."""


@lru_cache(maxsize=1)
def programs() -> Programs:
    """Return the compiled functions, or the plain ones if nothing can be compiled."""
    try:
        from linflow.bounds import _interval_loops  # noqa: PLC0415 - numba is slow to import

        return Programs(*_interval_loops.programs())
    except Exception:  # the plain functions give the same numbers, more slowly
        return PLAIN


def least(numbers: np.ndarray, s: np.ndarray, group: np.ndarray, run: Programs | None = None) -> np.ndarray:
    """Return a lower bound on the least value of the program for each problem.

    Args:
        numbers: shape (columns, rows, hidden layers); see `_interval_program.ROWS`.
        s: `σ_n²` of each column.
        group: the problem of each column, from 0. The result of a problem is the least over its columns.
        run: the functions to use; compiled ones by default.
    """
    with np.errstate(all="ignore"):  # a side of a box may be 0, and a square leave float64
        search = _Search(numbers, s, group, programs() if run is None else run)
        while len(search.at):
            search.try_points()
            search.close()
            if search.seen > max(MOST_BOXES * min(len(search.best), 2), SHARE * len(search.best)):
                break
            search.split()
        return search.result()


class _Search:
    """The boxes still open, and what is known of each problem.

    Attributes:
        at: the column of each box.
        low: the least η of each box, one row for each hidden layer.
        high: the largest η.
        values: a lower bound on the value in each box.
        best: the least value at a point that was tried, for each problem.
        lowest: the least value of the boxes that were closed, for each problem.
        seen: number of boxes so far.
    """

    def __init__(self, numbers: np.ndarray, s: np.ndarray, group: np.ndarray, run: Programs):
        self._numbers, self._s, self._group, self._run = numbers, s, group, run
        count, D = int(group.max()) + 1, numbers.shape[2]
        self._pool, self._newest = np.ones((count, CHOICES, 2 * D)), np.zeros(count, dtype=np.int64)
        self.lowest, self.best = np.full(count, np.inf), np.full(count, np.inf)
        low = numbers[:, EDGE].T * (1 - ROUNDING)
        high = np.maximum(numbers[:, MOST].T, low) * (1 + ROUNDING)
        self.seen, self.at = len(s), np.arange(len(s))
        high, _, values = self._look(low, high, self.at)
        self._keep(low, high, values)

    def _look(self, low: np.ndarray, high: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the lowered `high`, the caps and the values of boxes."""
        tops, caps, values = np.array(high, order="C"), np.empty(low.shape), np.empty(len(at))
        data = (self._numbers, self._s, self._group, self._pool)
        self._run.measure(np.ascontiguousarray(low), tops, caps, at, data, values)
        values[np.isnan(values)] = 0.0  # numbers that left float64 say nothing
        return tops, caps, values

    def _keep(self, low: np.ndarray, high: np.ndarray, values: np.ndarray) -> None:
        """Keep the boxes that are not empty, problem by problem, the lowest value first."""
        order = np.lexsort((values, self._group[self.at]))
        order = order[np.isfinite(values[order])]
        self.at, self.values = self.at[order], values[order]
        self.low, self.high = low[:, order], high[:, order]
        own = self._group[self.at]
        self._rank = np.arange(len(own)) - np.searchsorted(own, own)

    def try_points(self) -> None:
        """Lower `best` by the values at two points of each of the lowest boxes, each with its own θ."""
        few = self._rank < POINTS
        low, high = self.low[:, few], self.high[:, few]
        points = np.concatenate([high, np.sqrt(low * high)], axis=1)
        places = np.tile(self.at[few], 2)
        tops, caps, values = self._look(points, points, places)
        own = self._group[places]
        for g in np.flatnonzero(np.bincount(own)):
            mine = np.flatnonzero((own == g) & np.isfinite(values))
            if len(mine) == 0:
                continue
            i = mine[np.argmin(values[mine])]
            thetas, at = np.ones(2 * len(low)), places[i]
            better = self._run.improve(tops[:, i].copy(), caps[:, i].copy(), self._numbers[at], self._s[at], thetas)
            if better > values[i] * 1.001:
                self._newest[g] = 1 + self._newest[g] % (CHOICES - 1)  # the first θ is 1 throughout
                self._pool[g, self._newest[g]] = thetas
            self.best[g] = min(self.best[g], max(better, values[i]))

    def close(self) -> None:
        """Close the boxes whose value is near the best."""
        own = self._group[self.at]
        still = self.values < (1 - TOLERANCE) * self.best[own]
        np.minimum.at(self.lowest, own[~still], self.values[~still])
        self.at, self.values, self._rank = self.at[still], self.values[still], self._rank[still]
        self.low, self.high = self.low[:, still], self.high[:, still]

    def split(self) -> None:
        """Halve the boxes of the lowest values along their longest side, on a logarithmic scale."""
        if not len(self.at):
            return
        problems = np.count_nonzero(np.bincount(self._group[self.at]))
        chosen = self._rank < max(TOGETHER // problems, FEWEST)
        low, high = self.low[:, chosen], self.high[:, chosen]
        widest = np.arange(len(low))[:, None] == np.argmax(np.log(high / low), axis=0)
        middle = np.sqrt(low * high)
        lows = np.concatenate([low, np.where(widest, middle, low)], axis=1)
        highs = np.concatenate([np.where(widest, middle, high), high], axis=1)
        at = np.tile(self.at[chosen], 2)
        highs, _, values = self._look(lows, highs, at)
        self.seen += len(at)
        values = np.maximum(values, np.tile(self.values[chosen], 2))
        self.at = np.concatenate([self.at[~chosen], at])
        self._keep(
            np.concatenate([self.low[:, ~chosen], lows], axis=1),
            np.concatenate([self.high[:, ~chosen], highs], axis=1),
            np.concatenate([self.values[~chosen], values]),
        )

    def result(self) -> np.ndarray:
        """Return the least value of all boxes, for each problem; 0 if there is none."""
        np.minimum.at(self.lowest, self._group[self.at], self.values)
        return np.where(np.isfinite(self.lowest), self.lowest, 0.0) * (1 - SHAVED)
