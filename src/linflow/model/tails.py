"""The decay of a loss whose gradient is at least `γ ψ(f − f*)`: like 1/t, not exponential."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS

_MAX = float(np.finfo(np.float64).max)
UP = 1 + 8 * EPS
"""Factor that rounds a closed-form guarantee up. It covers the rounding of a handful of operations."""


@dataclass(frozen=True)
class Tail:
    """The inequality `‖∇f(W)‖_F ≥ γ (f(W) − f*)`, and what it says of a flow and its path.

    Attributes:
        constant: γ, positive.

    Source: docs/tails.md.
    """

    constant: float

    def constant_on(self, gap0: float) -> float:
        """Return c with `‖∇f(W)‖_F ≥ c (f(W) − f*)` for every W with `f(W) − f* ≤ gap0`: here γ itself.

        Args:
            gap0: level of the loss gap, not negative.
        """
        checks.positive(gap0, "gap0", allow_zero=True)
        return self.constant

    def time(self, gap0: float, gap: float, alpha: float) -> float:
        """Return a time within which the flow reduces the loss gap from `gap0` to `gap`, if `λ_min(T) ≥ alpha`.

        It is rounded up: 0 if `gap ≥ gap0`, inf if `alpha` is 0 or the time exceeds float64.

        Args:
            gap0: loss gap at time 0, not negative.
            gap: loss gap to reach, positive.
            alpha: lower bound on `λ_min(T)` along the flow, not negative.
        """
        gap0 = checks.positive(gap0, "gap0", allow_zero=True)
        gap = checks.positive(gap, "gap")
        speed = self._speed(alpha)
        if gap >= gap0:
            return 0.0
        return self._scaled_time(gap0, gap) / speed * UP if speed > 0 else math.inf

    def gap(self, gap0: float, t: float, alpha: float) -> float:
        """Return an upper bound on the loss gap of the flow at time `t`, if `λ_min(T) ≥ alpha` up to then.

        This is the inverse of `time`, rounded up. It is at most `gap0`.

        Args:
            gap0: loss gap at time 0, not negative.
            t: time, not negative.
            alpha: lower bound on `λ_min(T)` along the flow, not negative.
        """
        gap0 = checks.positive(gap0, "gap0", allow_zero=True)
        # A time beyond float64 is replaced by an eighth of the largest number. The bound stays above the true one.
        s = min(self._speed(alpha) * checks.positive(t, "t", allow_zero=True), _MAX / 8)
        return gap0 if s == 0 or gap0 == 0 else min(gap0, self._gap_after(gap0, s) * UP)

    def path(self, gap0: float, gaps: np.ndarray) -> np.ndarray:
        """Return `∫ dℓ/(γψ(ℓ))` from `gap0` down to each gap: for `λ_min(T) ≥ 1`, the longest path of the flow.

        Args:
            gap0: loss gap at time 0, positive.
            gaps: loss gaps of at most `gap0`, positive.
        """
        return np.log(gap0 / gaps) / self.constant

    def _speed(self, alpha: float) -> float:
        return checks.positive(alpha, "alpha", allow_zero=True) * self.constant * self.constant

    def _scaled_time(self, gap0: float, gap: float) -> float:
        """Return the time from gap0 down to gap, multiplied by `αγ²`: `∫ dℓ/ψ(ℓ)²`."""
        return (gap0 - gap) / gap0 / gap

    def _gap_after(self, gap0: float, s: float) -> float:
        """Return the gap at the time t with `αγ²t = s`."""
        return gap0 / (1 + s * gap0) if gap0 < 1 else 1 / (1 / gap0 + s)


class LogisticTail(Tail):
    """The inequality `‖∇f(W)‖_F ≥ γ (1 − e^{−(f(W) − f*)})` of the logistic loss, and what it says of a flow."""

    def constant_on(self, gap0: float) -> float:
        """Return `γ (1 − e^{−gap0})/gap0`, which tends to γ as the level falls."""
        gap0 = checks.positive(gap0, "gap0", allow_zero=True)
        return self.constant * (-math.expm1(-gap0) / gap0 / UP if gap0 > 0 else 1.0)

    def path(self, gap0: float, gaps: np.ndarray) -> np.ndarray:
        """Return `(log(e^gap0 − 1) − log(e^gap − 1))/γ` for each gap."""
        return (gap0 - gaps + np.log(np.expm1(-gap0) / np.expm1(-gaps))) / self.constant

    def _scaled_time(self, gap0: float, gap: float) -> float:
        # F(gap0) − F(gap) as a sum of positive terms. No term is a difference of nearly equal numbers.
        fall = gap0 - gap
        q = math.expm1(-fall) / math.expm1(-gap) * math.exp(-gap)
        return fall + math.log1p(q) - q / math.expm1(-gap0)

    def _gap_after(self, gap0: float, s: float) -> float:
        from scipy.special import wrightomega  # noqa: PLC0415 - scipy.special is slow to import

        # v = 1/(e^f − 1) solves v + log v = s + v_0 + log v_0, and f = log(1 + 1/v).
        missing = -math.expm1(-gap0)
        v0, log_v0 = min(math.exp(-gap0) / missing, _MAX / 8), -gap0 - math.log(missing)
        z = s + v0 + log_v0 - 4 * EPS * (s + v0 + abs(log_v0))
        v = float(wrightomega(z))
        return math.log1p(1 / v) if v > 1 else v - z + math.log1p(v)


@dataclass(frozen=True)
class MeanTail(Tail):
    """The inequality `‖∇g(W)‖_F ≥ γ (1 − e^{−Ng(W)})/N` of a mean `g = f/N`, where f has that of `LogisticTail`.

    Along the flow of g, `h = Ng` falls like f along its own flow at the time `t/N`.

    Attributes:
        constant: γ.
        samples: N.
    """

    samples: int = 1

    @property
    def _whole(self) -> LogisticTail:
        return LogisticTail(self.constant)

    def constant_on(self, gap0: float) -> float:
        """Return `γ (1 − e^{−N gap0})/(N gap0)`."""
        return self._whole.constant_on(self.samples * gap0) / UP

    def time(self, gap0: float, gap: float, alpha: float) -> float:
        """Return N times the time of the sum, from N times the gaps; rounded up."""
        N = self.samples
        return self._whole.time(N * gap0 * UP, N * gap / UP, alpha) * N * UP if gap < gap0 else 0.0

    def gap(self, gap0: float, t: float, alpha: float) -> float:
        """Return the gap of the sum at the time t/N over N; rounded up."""
        N = self.samples
        return min(gap0, self._whole.gap(N * gap0 * UP, t / N / UP, alpha) / N * UP)

    def path(self, gap0: float, gaps: np.ndarray) -> np.ndarray:
        """Return the path of the sum between N times the gaps."""
        return self._whole.path(self.samples * gap0, self.samples * gaps)
