"""Piecewise Hermite interpolation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support.arrays import EPS

COMPARABLE = 0.1
"""A neighbouring interval is used if its length is at least this fraction of that of the interval asked for. Shorter
ones, as after a step that was cut short, only magnify rounding."""
LEVEL = 1e-12
"""A node this little above a level counts as on it, because a run that should end there does so to rounding."""
MOST_STEPS = 100


def interpolate(
    t: np.ndarray,
    nodes: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray | None = None,
    curvatures: np.ndarray | None = None,
) -> np.ndarray:
    """Interpolate at t from value, slope and curvature at up to four nodes around it; linear from values alone.

    The ends of the interval and one node beyond each give a polynomial of degree 11. Its error is of order 12 in the
    step length, a higher order than that of the steps themselves. Rates above 1e154 have curvatures that leave
    float64; the polynomial is then of degree 7.
    """
    if slopes is None or curvatures is None:
        return np.interp(t, nodes, values)
    t = np.asarray(t)
    if len(nodes) == 1:
        return np.full(t.shape, values[0])
    result = np.empty(t.shape)
    i = np.clip(np.searchsorted(nodes, t, side="right") - 1, 0, len(nodes) - 2)
    for some, form in _pieces(i, nodes, _known(values, slopes, curvatures)):
        result[some] = form.at(t[some])
    return result


def first_times(
    levels: np.ndarray,
    nodes: np.ndarray,
    values: np.ndarray,
    slopes: np.ndarray | None = None,
    curvatures: np.ndarray | None = None,
) -> np.ndarray:
    """Return when `interpolate` first falls to each level, to rounding; inf if no node is as low."""
    found = np.full(levels.shape, np.inf)
    low = values <= levels[:, None] + LEVEL
    i = np.argmax(low, axis=1)
    there = low.any(axis=1)
    at_node = there & ((i == 0) | (values[i] >= levels))
    found[at_node] = nodes[i[at_node]]
    between = np.flatnonzero(there & ~at_node)
    if between.size == 0:
        return found
    i, levels = i[between] - 1, levels[between]
    if slopes is None or curvatures is None:
        found[between] = nodes[i] + (nodes[i + 1] - nodes[i]) * (levels - values[i]) / (values[i + 1] - values[i])
        return found
    for some, form in _pieces(i, nodes, _known(values, slopes, curvatures)):
        j = i[some]
        found[between[some]] = form.solve(levels[some], nodes[j], nodes[j + 1], values[j], values[j + 1])
    return found


def _known(values: np.ndarray, slopes: np.ndarray, curvatures: np.ndarray) -> np.ndarray:
    """Return the Taylor coefficients at the nodes, without the curvatures if one has left float64."""
    data = np.stack([values, slopes, curvatures / 2])
    return data if np.isfinite(curvatures).all() else data[:2]


def _pieces(i: np.ndarray, nodes: np.ndarray, data: np.ndarray) -> Iterator[tuple[np.ndarray, NewtonForm]]:
    """Group the intervals i by the size of their windows; yield each group and the polynomials on it."""
    used = np.zeros(len(nodes) - 1, dtype=bool)
    used[i] = True
    intervals, which = np.flatnonzero(used), (np.cumsum(used) - 1)[i]
    first, count = _windows(np.diff(nodes), intervals)
    for size in (2, 3, 4):
        chosen = count == size
        if chosen.any():
            some, own = chosen[which], np.cumsum(chosen) - 1
            places = first[chosen, None] + np.arange(size)
            yield some, NewtonForm.of(nodes[places], data[:, places], own[which[some]])


def _windows(lengths: np.ndarray, i: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first node and the number of nodes for intervals i: those around each, except across short steps."""
    last, own = len(lengths) - 1, lengths[i]
    before = (i > 0) & (lengths[i - 1] >= COMPARABLE * own)
    after = (i < last) & (lengths[np.minimum(i + 1, last)] >= COMPARABLE * own)
    first, count = i - before, 2 + before + after
    if last >= 2:  # at the ends, two nodes on the only side
        window = np.clip(i - 1, 0, last - 2)
        whole = np.min(lengths[window[:, None] + np.arange(3)], axis=1) >= COMPARABLE * own
        first, count = np.where(whole, window, first), np.where(whole, 4, count)
    return first, count


@dataclass(frozen=True)
class NewtonForm:
    """Polynomials `c_0 + (s − z_0)(c_1 + (s − z_1)(c_2 + …))` in `s = (x − first)/length`, one for each place.

    Attributes:
        coefficients, z: shape `(number of coefficients, N)`.
        first, length: shape `(N,)`.
    """

    coefficients: np.ndarray
    z: np.ndarray
    first: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, nodes: np.ndarray, data: np.ndarray, which: np.ndarray) -> NewtonForm:
        """Return the polynomials with the given Taylor coefficients at the given nodes.

        Args:
            nodes: of each polynomial, ascending, shape `(M, k)`.
            data: values, slopes, halves of curvatures and so on, shape `(r, M, k)`.
            which: the polynomial to take at each place, shape `(N,)`.
        """
        order, _, count = data.shape
        first, length = nodes[:, 0], nodes[:, -1] - nodes[:, 0]
        # Of each polynomial a column, as numbers that lie side by side are added up faster.
        z = np.repeat((nodes.T - first) / length, order, axis=0)
        scaled = [np.repeat(d.T * length**p, order, axis=0) for p, d in enumerate(data)]
        total, column = order * count, scaled[0]
        coefficients = np.empty((total, len(nodes)))
        coefficients[0] = column[0]
        for m in range(1, total):  # divided differences; derivatives where nodes coincide
            gap, rise = z[m:] - z[: total - m], column[1:] - column[:-1]
            if m < order:
                same = np.arange(total - m) % order + m < order
                gap[same] = 1.0
                rise[same] = scaled[m][: total - m][same]
            column = np.divide(rise, gap, out=rise)
            coefficients[m] = column[0]
        return cls(*(A.take(which, axis=-1) for A in (coefficients, z, first, length)))

    def at(self, x: np.ndarray) -> np.ndarray:
        """Return the values at x, shape `(N,)`."""
        factors = (x - self.first) / self.length - self.z
        result = self.coefficients[-1].copy()
        for c, factor in zip(self.coefficients[-2::-1], factors[-2::-1], strict=True):
            result *= factor
            result += c
        return result

    def slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return values and slopes at x."""
        s = (x - self.first) / self.length
        result, rise = self.coefficients[-1], np.zeros(len(s))
        for c, z in zip(self.coefficients[-2::-1], self.z[-2::-1], strict=True):
            rise = result + (s - z) * rise
            result = c + (s - z) * result
        return result, rise / self.length

    def solve(self, levels: np.ndarray, a: Any, b: Any, above: np.ndarray, below: np.ndarray) -> np.ndarray:
        """Return where the values fall to the levels between a and b: by Newton, or by halving if that leaves."""
        x = a + (b - a) * (levels - above) / (below - above)
        noise = 4 * EPS * np.maximum(np.abs(above), np.abs(below))
        for _ in range(MOST_STEPS):
            value, rise = self.slope(x)
            miss = value - levels
            a, b = np.where(miss > 0, x, a), np.where(miss > 0, b, x)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = x - miss / rise
            following = np.where((step > a) & (step < b), step, a + 0.5 * (b - a))
            done = (np.abs(miss) <= noise) | (np.abs(following - x) <= 2 * EPS * b)
            if done.all():
                break
            x = np.where(done, x, following)
        return x
