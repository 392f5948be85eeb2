"""Smooth activations: values, slopes, and the range of the slope over an interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from linflow._support.arrays import EPS

ERROR = 16 * EPS
"""The error of a computed slope, and of a value relative to `|φ(z)| + min(1, |z|)`."""

END = 40.0
"""Beyond, every `φ'` is within 10⁻¹⁶ of its limit."""
SILU_TURN = 2.399357280515468
"""The root of `z tanh(z/2) = 2`, where `φ'' = σ'(z)(2 − z tanh(z/2))` of SiLU changes its sign."""

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, repr=False)
class Activation:
    """A smooth function φ whose slope rises and falls between a few known points.

    Attributes:
        name: its name.
        value: `φ`, entry by entry.
        slope: `φ'`, entry by entry.
        turns: where `φ''` changes its sign. Between neighbours, and beyond the last, `φ'` is monotone.
    """

    name: str
    value: Function
    slope: Function
    turns: tuple[float, ...]

    def slopes(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return bounds from below and above of `φ'` on each interval `[low, high]`.

        A monotone function has its extremes at the ends; those of `φ'` are at `low`, `high` or a turn between them.
        """
        least, greatest = self.slope(low), self.slope(high)
        least, greatest = np.minimum(least, greatest), np.maximum(least, greatest)
        for turn in self.turns:
            there = self.slope(np.clip(turn, low, high))
            least, greatest = np.minimum(least, there), np.maximum(greatest, there)
        return least - ERROR, greatest + ERROR

    def value_error(self, z: np.ndarray) -> np.ndarray:
        """Return how far the computed `φ(z)` may be from the true value at the same z."""
        return ERROR * (np.abs(self.value(z)) + np.minimum(1.0, np.abs(z)))

    @property
    def steepest(self) -> float:
        """An upper bound on `|φ'|` anywhere."""
        least, greatest = self.slopes(np.array(-END), np.array(END))
        return float(max(-least, greatest))


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _tanh_slope(z: np.ndarray) -> np.ndarray:
    """Return `1/cosh² z`: at large z, `1 − tanh² z` would be 0."""
    small = np.exp(-2 * np.abs(z))
    return 4 * small / (1 + small) ** 2


def _sigmoid_slope(z: np.ndarray) -> np.ndarray:
    return special.expit(z) * special.expit(-z)


def _gelu_slope(z: np.ndarray) -> np.ndarray:
    return special.ndtr(z) + z * _density(z)


def _silu_slope(z: np.ndarray) -> np.ndarray:
    return special.expit(z) + z * _sigmoid_slope(z)


ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("tanh", np.tanh, _tanh_slope, (0.0,)),
        Activation("sigmoid", special.expit, _sigmoid_slope, (0.0,)),
        Activation("softplus", lambda z: np.logaddexp(0.0, z), special.expit, ()),
        Activation("gelu", lambda z: z * special.ndtr(z), _gelu_slope, (-math.sqrt(2), math.sqrt(2))),
        Activation("silu", lambda z: z * special.expit(z), _silu_slope, (-SILU_TURN, SILU_TURN)),
    )
}
"""The activations, by name: `tanh z`, `1/(1 + e^{−z})`, `log(1 + e^z)`, `z Φ(z)` with the normal distribution
function Φ, and `z/(1 + e^{−z})`."""
