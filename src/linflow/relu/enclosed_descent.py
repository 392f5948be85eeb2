"""The result of a verified descent of a ReLU network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linflow.relu.network import Network
from linflow.relu.trajectory import Flip
from linflow.verified.enclosed_steps import EnclosedSteps


@dataclass(frozen=True, repr=False)
class EnclosedDescent(EnclosedSteps):
    """A computed proof of where exact gradient descent of a ReLU network is after every step, rounding included.

    At `z_ij = 0` the slope is that of `z < 0`, as in PyTorch and `relu.gradient_descent`. `gap_bounds(k)` bounds the
    loss after k steps, `steps_bounds(until)` the number of steps to a fraction of the first.

    Attributes:
        start: the network at the start.
        final: the last iterate as computed; the exact one is within `radius[-1]` of it.
        step_size: η.
        gaps: lower and upper bounds of the loss after 0, 1, … steps, shape `(2, K + 1)`.
        radius: upper bounds of the distance of the exact iterates to the computed ones, biases included, `(K + 1,)`.
        exponent: logarithm of the largest factor by which a disturbance of the start can have grown.
        result: "target proved", "all steps done", "diverged" or "proof ended".
        reason: why the run ended early; empty if it did not.
        flips: every flip of the exact descent, a `Flip` whose `t` is the end of its step.
        notes: how the input was converted.
    """

    start: Network
    final: Network
    step_size: float
    gaps: np.ndarray
    radius: np.ndarray
    exponent: float
    result: str
    reason: str
    flips: tuple[Flip, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def t(self) -> np.ndarray:
        """The time of the flow after k steps, `kη`, shape `(K + 1,)`."""
        return self.step_size * np.arange(self.steps + 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the proved results as plain data."""
        flips = [[round(f.t / self.step_size), f.neuron, f.sample, f.before, f.after] for f in self.flips]
        start = {"widths": list(self.start.widths), "slope": self.start.slope, "bias": self.start.bias is not None}
        return self.told() | start | {"step_size": self.step_size, "flips": flips}

    def __repr__(self) -> str:
        first = float(self.gaps[0, 0])
        gap = float(self.gaps[1, -1]) / first if first > 0 else math.inf
        return (
            f"EnclosedDescent({self.result}, step {self.step_size:.4g}, {self.steps} steps, {gap:.3g} of the first "
            f"gap, radius {float(self.radius[-1]):.2g}, {len(self.flips)} flips)"
        )
