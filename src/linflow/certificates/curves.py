"""Upper bounds on the loss gap as functions of time, in the forms that theorems give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from linflow._support.arrays import EPS
from linflow._support.words import plural


class Curve(Protocol):
    """A non-increasing upper bound on the loss gap.

    Attributes:
        rate: an exponential rate kept at every time; 0 if the decay is slower than exponential.
    """

    @property
    def rate(self) -> float: ...  # noqa: D102

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        ...

    def time(self, gap: float) -> float:
        """Return a time by which the gap is at most `gap`; inf if none is known."""
        ...

    def rate_at(self, gap: float) -> float:
        """Return the rate `−ℓ̇/ℓ` that is kept at this gap; for descent, the mean rate over a step."""
        ...


def log_ratio(first: float, gap: float) -> float:
    """Return `log(first/gap)` for `first ≥ gap`, raised by its rounding; inf for a gap of 0."""
    if gap == 0:
        return math.inf
    ratio = first / gap
    return (math.log(ratio) if math.isfinite(ratio) else math.log(first) - math.log(gap)) * (1 + 4 * EPS) + 4 * EPS


def decayed(gap: float, decrease: float, steps: float) -> float:
    """Return `gap · (1 − decrease)^steps`, raised by its rounding, for any decrease in [0, 1] however small.

    `log(1 − d)` has a relative error of a few ε, and so does its product x with the number of steps. The relative
    error of `e^x` is then |x| times as large.
    """
    if steps == 0:
        return gap
    if decrease >= 1:
        return 0.0
    x = -steps * math.log1p(-decrease)
    return min(gap, gap * math.exp(-x) * (1 + 8 * EPS * (4 + x)))


def steps_to_decay(first: float, gap: float, decrease: float) -> int:
    """Return a number of steps after which `decayed` brings `first` down to `gap`: the fewest, or one more.

    Raises:
        OverflowError: the decrease is 0, or so small that the number of steps leaves float64.
    """
    if gap >= first:
        return 0
    if decrease >= 1:
        return 1
    if decrease <= 0:
        raise OverflowError("no number of steps without a decrease is enough")
    return math.ceil((log_ratio(first, gap) * (1 + 32 * EPS) + 64 * EPS) / -math.log1p(-decrease) * (1 + 4 * EPS))


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
        return 0.0 if gap >= self.first else log_ratio(self.first, gap) / self.rate

    def rate_at(self, gap: float) -> float:
        """Return the rate, the same for every gap."""
        return self.rate


@dataclass(frozen=True, repr=False)
class LevelCurve:
    """An exponential decay whose rate changes at levels of the gap: linear pieces in `(t, log ℓ)`.

    Attributes:
        levels: gaps `y_0 > y_1 > … > y_K`; the first is the initial gap.
        rates: `r_0, …, r_K`: the gap falls at least at rate `r_k` while in `[y_{k+1}, y_k]`; at `r_K` below `y_K`.
    """

    levels: np.ndarray
    rates: np.ndarray

    def __repr__(self) -> str:
        return (
            f"LevelCurve({plural(len(self.levels), 'level')}, rates {self.rates.min():.4g} to {self.rates.max():.4g})"
        )

    @property
    def rate(self) -> float:
        """The smallest of the rates, which is kept at every time."""
        return float(self.rates.min())

    @property
    def final_rate(self) -> float:
        """The rate kept once the gap is below the last level."""
        return float(self.rates[-1])

    @cached_property
    def times(self) -> np.ndarray:
        """The latest time at which each level is reached."""
        with np.errstate(divide="ignore"):  # a rate of 0 takes forever
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
        span = log_ratio(float(self.levels[k]), gap)
        if self.rates[k] == 0:
            return math.inf
        # Raised by the rounding of the time, which matters if a fast rate follows a long slow level.
        return float(self.times[k] + span / self.rates[k]) * (1 + 4 * EPS)

    def rate_at(self, gap: float) -> float:
        """Return the rate of the level that contains the gap; on a border, the slower of the two."""
        ends = np.searchsorted(-self.levels, [-gap * (1 + 1e-9), -gap * (1 - 1e-9)], side="right") - 1
        return float(self.rates[np.maximum(ends, 0)].min())


@dataclass(frozen=True)
class LimitCurve:
    """`ℓ(t) ≤ limit + (ℓ(0) − limit) e^{−speed·t}`: a decay that is not known to go below a limit."""

    first: float
    limit: float
    speed: float

    @property
    def rate(self) -> float:
        """0: the gap itself is not known to decay exponentially."""
        return 0.0

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        x = self.speed * t
        return min(self.first, self.limit + (self.first - self.limit) * math.exp(-x) * (1 + 8 * EPS * (1 + x)))

    def time(self, gap: float) -> float:
        """Return when the bound comes down to `gap`; inf at the limit and below."""
        if gap >= self.first:
            return 0.0
        if gap <= self.limit * (1 + 4 * EPS):
            return math.inf
        return log_ratio(self.first - self.limit, (gap - self.limit) * (1 - 4 * EPS)) / self.speed * (1 + 4 * EPS)

    def rate_at(self, gap: float) -> float:
        """Return `speed · (gap − limit)/gap`; 0 at the limit and below."""
        return self.speed * ((gap - self.limit) / gap) if gap > self.limit else 0.0  # never more than the speed


@dataclass(frozen=True)
class StepCurve:
    """`ℓ_{k+1} ≤ (1 − decrease) ℓ_k` for gradient descent with a constant step η; time is `kη`.

    For a small step, rounding in the factor `1 − decrease` loses the decrease, so the factor is never used.
    """

    first: float
    step_size: float
    decrease: float

    @property
    def factor(self) -> float:
        """The factor `1 − decrease`, up to rounding."""
        return 1 - self.decrease

    @property
    def rate(self) -> float:
        """The rate `−log(1 − decrease)/η`."""
        return -math.log1p(-self.decrease) / self.step_size if self.decrease < 1 else math.inf

    def gap_after(self, k: float) -> float:
        """Return the bound after k steps."""
        return decayed(self.first, self.decrease, k)

    def steps(self, gap: float) -> float:
        """Return a number of steps after which the gap is at most `gap`; inf if it leaves float64."""
        try:
            return steps_to_decay(self.first, gap, self.decrease)
        except OverflowError:
            return math.inf

    def gap(self, t: float) -> float:
        """Return the bound after the whole steps done by time t; rounding in t is allowed for."""
        k = t / self.step_size
        return self.gap_after(math.floor(k + min(1e-9 + 1e-12 * k, 1e-3) + 4 * EPS * k))

    def time(self, gap: float) -> float:
        """Return η times the number of steps."""
        return self.step_size * self.steps(gap)

    def rate_at(self, gap: float) -> float:
        """Return the mean rate over a step, the same for every gap."""
        return self.rate
