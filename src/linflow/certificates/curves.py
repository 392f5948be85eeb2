"""Upper bounds on the loss gap as functions of time: what a guarantee promises, in the forms theorems have."""

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


def log_ratio(first: float, gap: float) -> float:
    """Return `log(first/gap)` for `first ≥ gap`, raised by its rounding; inf for a gap of 0."""
    if gap == 0:
        return math.inf
    ratio = first / gap
    return (math.log(ratio) if math.isfinite(ratio) else math.log(first) - math.log(gap)) * (1 + 4 * EPS) + 4 * EPS


def decayed(gap: float, decrease: float, steps: float) -> float:
    """Return `gap · (1 − decrease)^steps`, raised by its rounding, for any decrease in [0, 1] however small.

    `log(1 − d)` is right to a few ε of itself, and so is its product with the number of steps; `e^x` is then to |x|
    times that.
    """
    if steps == 0:
        return gap
    if decrease >= 1:
        return 0.0
    x = -steps * math.log1p(-decrease)
    return min(gap, gap * math.exp(-x) * (1 + 8 * EPS * (4 + x)))


def steps_to_decay(first: float, gap: float, decrease: float) -> int:
    """Return a number of steps after which `first` has fallen to `gap`, as `fallen` has it: the fewest, or one more.

    Raises:
        OverflowError: a decrease of 0, or so small that the number leaves float64.
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
        levels: gaps `y_0 > y_1 > … > y_K`, the first the initial one.
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
        span = log_ratio(float(self.levels[k]), gap)
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
    """`ℓ_{k+1} ≤ (1 − decrease) ℓ_k` for gradient descent with a constant step η; time is `kη`.

    Of a small step the factor `1 − decrease` rounds away what counts, so nothing is worked out from it.
    """

    first: float
    step_size: float
    decrease: float

    @property
    def factor(self) -> float:
        """`1 − decrease`, to rounding."""
        return 1 - self.decrease

    @property
    def rate(self) -> float:
        """`−log(1 − decrease)/η`."""
        return -math.log1p(-self.decrease) / self.step_size if self.decrease < 1 else math.inf

    def gap_after(self, k: float) -> float:
        """Return the bound after k steps."""
        return decayed(self.first, self.decrease, k)

    def steps(self, gap: float) -> float:
        """Return a number of steps after which the gap is at most this; inf where it leaves float64."""
        try:
            return steps_to_decay(self.first, gap, self.decrease)
        except OverflowError:
            return math.inf

    def gap(self, t: float) -> float:
        """Return the bound at time t: after the steps done by then, a whole number to rounding."""
        k = t / self.step_size
        return self.gap_after(math.floor(k + min(1e-9 + 1e-12 * k, 1e-3) + 4 * EPS * k))

    def time(self, gap: float) -> float:
        """Return η times the number of steps."""
        return self.step_size * self.steps(gap)

    def rate_at(self, gap: float) -> float:
        """Return the mean rate over a step, the same for every gap."""
        return self.rate
