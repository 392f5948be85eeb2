"""Upper bounds on the loss gap as functions of time: what a guarantee promises, in the forms theorems have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from linflow._arrays import EPS


class Curve(Protocol):
    """A non-increasing upper bound on the loss gap.

    Attributes:
        rate: an exponential rate kept at every time; 0 when the decay is slower than exponential.
    """

    @property
    def rate(self) -> float: ...  # noqa: D102

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        ...

    def time(self, gap: float) -> float:
        """Return a time by which the gap is at most this; inf if none is known."""
        ...

    def rate_at(self, gap: float) -> float:
        """Return the rate `−ℓ̇/ℓ` that is kept while the gap is this; for descent the mean over a step."""
        ...


@dataclass(frozen=True)
class ExponentialCurve:
    """`ℓ(t) ≤ e^{−rate·t} ℓ(0)`."""

    first: float
    rate: float

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        return self.first * math.exp(-self.rate * t)

    def time(self, gap: float) -> float:
        """Return when the bound comes down to `gap`."""
        return 0.0 if gap >= self.first else math.log(self.first / gap) / self.rate

    def rate_at(self, gap: float) -> float:
        """Return the rate, the same for every gap."""
        return self.rate


@dataclass(frozen=True)
class LevelCurve:
    """An exponential decay whose rate changes at levels of the gap: linear pieces in `(t, log ℓ)`.

    Attributes:
        levels: gaps `y_0 > y_1 > … > y_K`, the first the initial one.
        rates: `r_0, …, r_K`: the gap falls at least at rate `r_k` while in `[y_{k+1}, y_k]`; at `r_K` below `y_K`.
    """

    levels: np.ndarray
    rates: np.ndarray

    @property
    def rate(self) -> float:
        """The least of the rates: it is kept at every time."""
        return float(self.rates.min())

    @property
    def final_rate(self) -> float:
        """The rate kept once the gap is below the last level."""
        return float(self.rates[-1])

    @cached_property
    def times(self) -> np.ndarray:
        """When each level is reached, at the latest."""
        with np.errstate(divide="ignore"):  # a rate of 0 takes for ever
            spans = np.log(self.levels[:-1] / self.levels[1:]) / self.rates[:-1]
        return np.concatenate([[0.0], np.cumsum(spans)])

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        times = self.times
        k = int(np.searchsorted(times, t, side="right")) - 1
        return float(self.levels[k] * math.exp(-self.rates[k] * (t - times[k])))

    def time(self, gap: float) -> float:
        """Return when the bound comes down to `gap`."""
        if gap >= self.levels[0]:
            return 0.0
        k = int(np.searchsorted(-self.levels, -gap, side="left")) - 1
        span = math.log(self.levels[k] / gap)
        if self.rates[k] == 0:
            return math.inf
        # Up by some rounding of the time, which a fast rate after a long slow level would feel.
        return float(self.times[k] + span / self.rates[k]) * (1 + 4 * EPS)

    def rate_at(self, gap: float) -> float:
        """Return the rate of the level the gap is in; of the slower of two where it is on their border."""
        ends = np.searchsorted(-self.levels, [-gap * (1 + 1e-9), -gap * (1 - 1e-9)], side="right") - 1
        return float(self.rates[np.maximum(ends, 0)].min())


@dataclass(frozen=True)
class StepCurve:
    """`ℓ_{k+1} ≤ factor · ℓ_k` for gradient descent with a constant step η; time is `kη`."""

    first: float
    step_size: float
    factor: float

    @property
    def rate(self) -> float:
        """`−log(factor)/η`."""
        return -math.log(self.factor) / self.step_size if self.factor > 0 else math.inf

    def gap_after(self, k: int) -> float:
        """Return the bound after k steps."""
        return self.first * self.factor**k

    def steps(self, gap: float) -> int:
        """Return a number of steps after which the gap is at most this."""
        if gap >= self.first:
            return 0
        k = 1 if self.factor == 0 else math.ceil(math.log(gap / self.first) / math.log(self.factor))
        while self.gap_after(k) > gap:  # the quotient of logarithms may round down
            k += 1
        return k

    def gap(self, t: float) -> float:
        """Return the bound at time t: after the steps done by then, a whole number to rounding."""
        return self.gap_after(math.floor(t / self.step_size * (1 + 1e-12) + 1e-9))

    def time(self, gap: float) -> float:
        """Return η times the number of steps."""
        return self.step_size * self.steps(gap)

    def rate_at(self, gap: float) -> float:
        """Return the mean rate over a step, the same for every gap."""
        return self.rate
