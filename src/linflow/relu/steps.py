"""Gradient descent with a constant step: how much every step is sure to gain (docs/relu.md, Theorem 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linflow._support.arrays import EPS
from linflow.certificates.curves import StepCurve
from linflow.relu.floor import Floor
from linflow.relu.movement import Movement, Mover
from linflow.relu.path import DOWN, march
from linflow.relu.problem import Start, greatest_ceiling, norm_ceiling

UP = 1 + 64 * EPS
"""Factor that rounds a product of bounds up."""
FREE, NONE_FREE = 0.25, 1e-6
"""The constant k of Theorem 3: where pairs may flip, and where none may."""
FIRST, FACTOR, TRIES = 0.8, 2.0**-0.5, 14
"""Steps tried, in units of `1/β(0)`: FIRST times powers of FACTOR."""


@dataclass(frozen=True, repr=False)
class Steps:
    """What is certified of descent with one step size, in the units of the start.

    Attributes:
        step_size: η.
        gain: Λ(τ*): `‖R_{k+1}‖ ≤ (1 − ηΛ)‖R_k‖` for every k; 0 if nothing is certified.
        movement: Lemma 1 at τ*, which holds at every step.
        covered: the part of the residual that is used up, at most 1.
    """

    step_size: float
    gain: float
    movement: Movement | None
    covered: float

    def curve(self, gap: float, step_size: float) -> StepCurve:
        """Return the bound on the loss, for a step size in the units of the data."""
        shrink = self.step_size * self.gain * DOWN
        return StepCurve(gap, step_size, shrink * (2 - shrink) * DOWN)


class Descent:
    """Certifies steps for one start."""

    def __init__(self, start: Start):
        self.start, self.floor, self.mover = start, Floor(start), Mover(start)

    def curvature(self, movement: Movement) -> tuple[float, float]:
        """Return `β_1 ≥ ‖J‖²` and `β_2 ≥ ‖Φ‖²` for all paths up to that of the movement."""
        start = self.start
        caps = np.where(movement.active, 1.0, start.slope)
        squares = movement.second_size**2
        first = greatest_ceiling(start.kernel_ceiling * ((caps.T * squares) @ caps)) * (1 + len(squares) * EPS)
        second = norm_ceiling(np.abs(start.features) + start.z_error + movement.moved.T) ** 2
        return float(first) * UP, second * UP

    def gain(self, step_size: float, path: float) -> float:
        """Return Λ at a path, not smaller than the last one asked for: 0 if it is not positive.

        With `β = β_1 + β_2`, `d = 1 − ½(1 + k)ηβ`: d times the floor of H, less what pairs that flip within a step
        may cost, less `η‖X‖ √(β_1 β_2) ‖R(0)‖`.
        """
        movement = self.mover.at(path)
        if movement is None:
            return 0.0
        start, eta, residual = self.start, step_size, self.start.residual
        first, second = self.curvature(movement)
        beta, free = (first + second) * UP, (~movement.frozen).astype(float)
        k = FREE if free.any() else NONE_FREE
        d = (1 - 0.5 * (1 + k) * eta * beta * UP) * DOWN
        if d <= 0:
            return 0.0
        chatter = (1 - start.slope) ** 2 * (movement.second_size**2 @ ((free @ start.kernel_ceiling) * free))
        less = (0.25 + eta * beta * (1 + 1 / k) / 8) / d * chatter * (1 + (len(free) + 64) * EPS)
        drift = eta * residual * path * movement.kappa * movement.second_size**2 * UP
        floor = self.floor.at(movement, drift, less)
        return max(0.0, d * floor * DOWN - eta * start.input_norm * math.sqrt(first * second) * residual * UP)

    def certify(self, step_size: float) -> Steps:
        """Return what is certified of a step size."""
        eta, residual = step_size, self.start.residual
        begin = eta * residual * UP
        self.mover.reset()
        first = self.gain(eta, begin)
        if first <= 0:
            return Steps(eta, 0.0, None, 0.0)
        self.mover.reset()
        path = march(lambda tau: self.gain(eta, tau), residual, residual / first, begin=begin)
        if not path.closes:
            return Steps(eta, 0.0, None, path.covered)
        self.mover.reset()
        return Steps(eta, float(path.floors[-1]), self.mover.at(float(path.paths[-1])), 1.0)

    def best(self) -> Steps:
        """Return the step with the largest certified gain `ηΛ` of a few."""
        self.mover.reset()
        movement = self.mover.at(0.0)
        assert movement is not None
        unit = 1 / sum(self.curvature(movement))
        found = [self.certify(FIRST * unit)]
        for k in range(1, TRIES):
            found.append(self.certify(FIRST * FACTOR**k * unit))
            gains = [one.step_size * one.gain for one in found]
            if gains[-1] < 0.5 * max(gains):  # it falls from here on
                break
        return max(found, key=lambda one: one.step_size * one.gain)
