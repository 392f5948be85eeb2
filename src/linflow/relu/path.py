"""From a floor of H along the path to a rate and a curve of the loss (docs/relu.md, Theorem R⁺)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from linflow._support.arrays import EPS
from linflow.certificates.curves import LevelCurve

STEPS, GROWTH = 24, 1.05
"""The grid: STEPS equal parts of the shortest possible path, then parts that grow."""
DOWN = 1 - 64 * EPS
"""Factor that rounds a floor down."""


@dataclass(frozen=True, repr=False)
class Path:
    """A path `τ_0 < τ_1 < …`, from 0 for a flow, with floors of `λ_min(H)`, and what is left of the residual.

    Attributes:
        paths: `τ_0, …, τ_K`.
        floors: `λ_1, …, λ_K`, not increasing: `λ_min(H) ≥ λ_i` while the path is at most `τ_i`.
        left: `ρ_i = ‖R(0)‖ − Σ_{k≤i} λ_k (τ_k − τ_{k−1})`, rounded up; `ρ_K ≤ 0` if it closes.
        residual: the bound on `‖R(0)‖`.
    """

    paths: np.ndarray
    floors: np.ndarray
    left: np.ndarray
    residual: float

    @property
    def closes(self) -> bool:
        """Whether the residual is used up: then the path never exceeds the last `τ`."""
        return bool(self.left[-1] <= 0 and self.floors[-1] > 0)

    @property
    def might_close(self) -> bool:
        """Whether a finer grid might close it: the floor at the left ends of the parts is enough."""
        spans, before = np.diff(self.paths), np.append(self.floors[:1], self.floors[:-1])
        return bool(spans @ before >= self.residual)

    @property
    def covered(self) -> float:
        """The part of the residual that is used up, at most 1."""
        return min(1.0, max(0.0, 1 - float(self.left[-1]) / self.residual))

    def curve(self, scale: float, times: float) -> LevelCurve:
        """Return the bound on the loss: levels `½ρ_i²` times `scale`, and rates `2λ_{i+1}` times `times`."""
        keep = np.flatnonzero(self.left > 0)
        levels = 0.5 * (self.left[keep]) ** 2 * scale
        rates = 2 * self.floors[keep] * times * DOWN
        last = int(np.count_nonzero(levels > 0))  # a square may have left float64
        return LevelCurve(levels[:last], rates[:last])


def march(
    floor: Callable[[float], float], residual: float, shortest: float, finer: int = 1, begin: float = 0.0
) -> Path:
    """Return the floors along a grid of paths, until the residual is used up or no floor is left.

    Args:
        floor: a floor of `λ_min(H)` for all paths up to its argument; it is called with increasing arguments.
        residual: an upper bound on `‖R(0)‖`, positive.
        shortest: the first guess of the path, positive.
        finer: how many times as fine the grid is.
        begin: `τ_0`.
    """
    paths, floors, left = [begin], [], [residual]
    part = shortest / (STEPS * finer)
    while True:
        if paths[-1] - begin > shortest:
            part *= GROWTH ** (1 / finer)
        tau = paths[-1] + part
        value = max(0.0, floor(tau))
        value = min(value, floors[-1]) if floors else value
        used = value * (tau - paths[-1]) * DOWN
        paths.append(tau)
        floors.append(value)
        left.append((left[-1] - used) * (1 + 4 * EPS) if left[-1] > used else left[-1] - used)
        if value <= 0 or left[-1] <= 0:
            return Path(np.array(paths), np.array(floors), np.array(left), residual)
