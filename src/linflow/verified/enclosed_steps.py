"""What every verified descent offers: bounds of its loss gap after every step, and of the steps until it falls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import unmasked
from linflow._support.deprecation import renamed_arguments
from linflow.certificates import Check
from linflow.certificates.checking import Promise
from linflow.model.optimizer import PLAIN, Optimizer
from linflow.verified.checking import check_steps
from linflow.verified.march import reached
from linflow.verified.rounding import UP


class EnclosedSteps:
    """A computed proof of where exact gradient descent is, step by step."""

    gaps: np.ndarray
    radius: np.ndarray
    exponent: float
    result: str
    reason: str
    notes: tuple[str, ...]
    step_size: Any
    optimizer: Optimizer = PLAIN

    @property
    def t(self) -> np.ndarray:
        """The sum of the first k steps."""
        raise NotImplementedError

    def against(self, certificate: Promise) -> Check:
        """Check every guarantee against the proof, without tolerance, like `certificate.check(enclosure)`."""
        return check_steps(certificate, self)

    @property
    def steps(self) -> int:
        """Number of enclosed steps."""
        return len(self.radius) - 1

    def gap_bounds(self, k: Any) -> tuple[Any, Any]:
        """Return bounds of the loss gap after k steps, where k is a number or a sequence.

        Raises:
            ValueError: k exceeds the number of enclosed steps.
        """
        several = np.ndim(k) > 0
        index = np.array([checks.count(j, "k", 0) for j in (unmasked(k, "k") if several else [k])], dtype=int)
        if index.max(initial=0) > self.steps:
            raise ValueError(f"k is {index.max()}, but only {self.steps} steps are enclosed.")
        low, high = self.gaps[:, index]
        return (low, high) if several else (float(low[0]), float(high[0]))

    @renamed_arguments(fraction="until")
    def steps_bounds(self, until: Any) -> tuple[Any, Any]:
        """Return bounds of the number of steps after which the gap is first at most `until` of the first one.

        The result is `(lo, inf)` if the run does not prove that the gap gets there.

        Args:
            until: fraction in (0, 1), or a sequence of them.
        """
        if np.ndim(until):
            pairs = [self.steps_bounds(x) for x in unmasked(until, "until")]
            return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])
        until = checks.fraction(until, "until")
        above = self.gaps[0] <= until * self.gaps[1, 0] * UP
        below = self.gaps[1] <= until * self.gaps[0, 0] * (1 - 1e-12)
        low = int(np.argmax(above)) if above.any() else self.steps + 1
        return low, int(np.argmax(below)) if below.any() else math.inf

    def told(self) -> dict[str, Any]:
        """Return what every such proof shows of itself as plain data."""
        return {
            "result": self.result,
            "reason": self.reason,
            "steps": self.steps,
            "radius": float(self.radius[-1]),
            "exponent": self.exponent,
            "first_gap": [float(x) for x in self.gaps[:, 0]],
            "last_gap": [float(x) for x in self.gaps[:, -1]],
            "steps_to": reached(self.steps_bounds),
            "notes": list(self.notes),
        }
