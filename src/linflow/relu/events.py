"""Where the path of a verified flow changes its pattern. Nothing here is trusted: the march checks what follows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from linflow.relu.pattern_path import Data, PatternPath, clear_side
from linflow.relu.pieces import OFF, ON, SLIDING, Pattern

GRID = np.linspace(0.0, 1.0, 65)
"""Times of a step at which the signs of pre-activations are looked at."""
HALVINGS = 60
"""Number of times an interval is halved to find a root."""
SLACK = 1e-13
"""Part of a pull by which the force of a sliding pair may be outside its range."""


class Passing(NamedTuple):
    """A change of the pattern: its time, and the pairs `(sample, neuron, way)`.

    The way out of sliding is ON or OFF; it is 0 for a pair that reaches 0. `speeds` are those of the pre-activations.
    """

    t: float
    pairs: list[tuple[int, int, int]]
    pulls: np.ndarray
    speeds: np.ndarray


def first_event(path: PatternPath, t: float, s: float) -> Passing | None:
    """Return the first time in a step of scaled length s at which pairs leave their sides, or None."""
    found: list[tuple[float, float, tuple[int, int, int], float, float]] = []
    side, k = clear_side(path.pattern), np.arange(path.order + 1)
    powers = (s * GRID)[:, None] ** k
    size = np.sum(np.abs(path.z[1:]) * (s ** k[1:])[:, None, None], axis=0)
    noise = 4 * np.sum(path.z_error * (s**k)[:, None, None], axis=0)
    may = (side != 0) & (side * path.z[0] < size) & ~path.data.void
    for i, j in zip(*np.nonzero(may), strict=True):
        series = side[i, j] * path.z[:, i, j]
        series[0] += 0.5 * noise[i, j]
        root = _first_root(series, powers, s, 0.5 * noise[i, j])
        if root is not None:
            speed = float(_derivative(series) @ root ** k[:-1])
            found.append(
                (root, noise[i, j] / max(abs(speed), 1e-300), (int(i), int(j), 0), *_at(path, i, j, root, speed))
            )
    for i, j in zip(*np.nonzero(path.pattern.sides == SLIDING), strict=True):
        f, q = path.forces[:, i, j], path.pulls[:, i, j]
        allowed = SLACK * float(np.abs(q[0])) + 1e-300
        for way, room in ((ON, q - f), (OFF, f - path.data.slope * q)):
            root = _first_root(room, powers[:, :-1], s, allowed)
            if root is not None:
                found.append((root, 0.0, (int(i), int(j), way), *_at(path, i, j, root, 0.0)))
    if not found:
        return None
    first = min(one[0] for one in found)
    close = 4 * np.spacing(t + first * path.tau) / path.tau
    together = [one for one in found if one[0] <= first + max(close, one[1] if math.isfinite(one[1]) else 0.0)]
    at = t + first * path.tau
    return Passing(
        at, [one[2] for one in together], np.array([x[3] for x in together]), np.array([x[4] for x in together])
    )


def moved_on(data: Data, layers: list[np.ndarray], pattern: Pattern, pairs: list[tuple[int, int, int]]) -> Pattern:
    """Return the pattern in which the flow goes on after an event."""
    field = data.field
    y = field.vector(layers[0], layers[1])
    for j in sorted({j for _, j, _ in pairs}):
        crossing = []
        for i, neuron, way in pairs:
            if neuron == j and way:
                pattern = pattern.turned(np.array([i]), j, np.array([way]))
            elif neuron == j:
                crossing.append(i)
        if crossing:
            held = np.flatnonzero(pattern.sides[:, j] == SLIDING)
            pattern = field.resolve(y, pattern, j, np.union1d(np.array(crossing, dtype=int), held))
    return pattern


def _at(path: PatternPath, i: int, j: int, s: float, speed: float) -> tuple[float, float]:
    """Return the pull on a pair, and the speed of its pre-activation in real time."""
    return float(path.pulls[:, i, j] @ s ** np.arange(path.order)), abs(speed) / path.tau


def _derivative(series: np.ndarray) -> np.ndarray:
    return series[1:] * np.arange(1, len(series))


def _first_root(series: np.ndarray, powers: np.ndarray, s: float, allowed: float) -> float | None:
    """Return the first time in `[0, s]` at which a polynomial falls below 0 and then further; else None."""
    below = np.flatnonzero(powers @ series < -allowed)
    if not below.size:
        return None
    k = int(below[0])
    low, high = (s * GRID[k - 1], s * GRID[k]) if k else (0.0, 0.0)
    powers_of = np.arange(len(series))
    if float(series @ low**powers_of) < 0:
        return low
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if float(series @ middle**powers_of) < 0:
            high = middle
        else:
            low = middle
    return high
