"""What every verified flow offers: bounds of its loss gap at every time, and of the times at which it falls."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import unmasked
from linflow._support.deprecation import renamed_arguments
from linflow.certificates import Check, Guarantee
from linflow.certificates.checking import Promise
from linflow.verified.checking import check_flow
from linflow.verified.march import EnclosureStep, reached
from linflow.verified.rounding import UP

BISECTIONS = 60
"""Number of times a step is halved to find a time. This reaches the last digit."""

SECANTS = 20
"""Largest number of steps of the secant method that look for a time before it is bisected."""

Bounds = tuple[Any, Any]
"""Lower and upper bounds: two numbers for one time, two arrays for several."""


class EnclosedFlow:
    """A computed proof of where an exact gradient flow is, step by step.

    A subclass bounds the gap at one time, and says what holds for ever after.
    """

    start: Any
    steps: tuple[EnclosureStep, ...]
    first: tuple[float, float]
    result: str
    reason: str
    notes: tuple[str, ...]

    @cached_property
    def radius(self) -> np.ndarray:
        """Upper bounds of the distance to the path up to the times `t`."""
        raise NotImplementedError

    @cached_property
    def _after(self) -> tuple[Guarantee | None, str]:
        raise NotImplementedError

    def _gap(self, t: float) -> tuple[float, float]:
        raise NotImplementedError

    def against(self, certificate: Promise) -> Check:
        """Check every guarantee against the proof, without tolerance, like `certificate.check(enclosure)`."""
        return check_flow(certificate, self)

    @cached_property
    def t(self) -> np.ndarray:
        """The time 0 and the end of every step. These times are exact."""
        return np.array([0.0, *(step.t + step.length for step in self.steps)])

    @property
    def exponent(self) -> float:
        """Upper bound of `∫ m`. A disturbance of the start grows at most by the exponential of this number."""
        return float(sum(step.exponent for step in self.steps))

    @property
    def end(self) -> float:
        """The time up to which the flow is enclosed."""
        return float(self.t[-1])

    @property
    def certificate(self) -> Guarantee | None:
        """A guarantee for all times after `end`, with time counted from `end`, or None if nothing is proved."""
        return self._after[0]

    @property
    def certificate_reason(self) -> str:
        """Why there is no `certificate`; empty if there is one."""
        return self._after[1]

    def gap_bounds(self, t: Any) -> Bounds:
        """Return bounds of the loss gap `L − f*` at a time or times.

        Raises:
            ValueError: a time is negative or beyond `end`.
        """
        return self._each(t, self._gap)

    @renamed_arguments(fraction="until")
    def time_bounds(self, until: Any) -> tuple[Any, Any]:
        """Return bounds of the time at which the gap falls to `until` of the first, or `(lo, inf)` if unknown.

        Args:
            until: fraction in (0, 1), or a sequence of them.

        Example:
            >>> import numpy as np, linflow as lf
            >>> enc = lf.enclose(lf.MatrixFactorization(np.array([[1.0]])), [[[0.5]]], until=1e-3)
            >>> lo, hi = enc.time_bounds(0.01)
            >>> bool(lo < np.log(10) < hi), bool(hi / lo - 1 < 1e-11)
            (True, True)
        """
        if np.ndim(until):
            pairs = [self.time_bounds(x) for x in unmasked(until, "until")]
            return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])
        until = checks.fraction(until, "until")
        above = until * self.first[1] * UP  # while the gap is above this it is above the target
        below = until * self.first[0] * (1 - 1e-12)
        low = high = None
        for step in self.steps:
            if low is None and step.gap[0] <= above:
                low, _ = self._switch(step, lambda t: self._gap(t)[0] > above, lambda t: self._gap(t)[0] / above)
            if step.gap[1] <= below:
                # Not `>`, because NaN proves nothing.
                _, high = self._switch(
                    step, lambda t: not self._gap(t)[1] <= below, lambda t: self._gap(t)[1] / below
                )
                break
        return (self.end if low is None else low), (math.inf if high is None else high)

    def _step(self, t: float) -> EnclosureStep:
        if not t <= self.end:
            raise ValueError(f"t is {t:g}, but the flow is enclosed up to t = {self.end:.6g} only.")
        if not self.steps:
            raise ValueError("nothing is enclosed: the proof ended before its first step, and `reason` says why.")
        return self.steps[max(int(np.searchsorted(self.t, t)) - 1, 0)]

    def _each(self, t: Any, bounds: Callable[[float], tuple[Any, Any]]) -> Bounds:
        if np.ndim(t):
            pairs = [bounds(checks.positive(x, "t", allow_zero=True)) for x in unmasked(t, "t")]
            return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])
        return bounds(checks.positive(t, "t", allow_zero=True))

    def _switch(
        self, step: EnclosureStep, early: Callable[[float], bool], ratio: Callable[[float], float] | None = None
    ) -> tuple[float, float]:
        """Return, by bisection, a time at which `early` holds and the next time at which it does not.

        If no such time was found, the start or the end of the step takes its place. A ratio that falls to 1 there
        saves most of the bisections. Nothing rests on it.
        """
        low, high = step.t, step.t + step.length
        if ratio is not None:
            low, high = _near(root_of(ratio, low, high), low, high, early)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            if not low < middle < high:
                break
            low, high = (middle, high) if early(middle) else (low, middle)
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """Return the proved results as plain data."""
        return {
            "result": self.result,
            "reason": self.reason,
            "end": self.end,
            "steps": len(self.steps),
            "radius": float(self.radius[-1]),
            "exponent": self.exponent,
            "first_gap": list(self.first),
            "last_gap": list(self.steps[-1].gap if self.steps else self.first),
            "time_to": reached(self.time_bounds),
            "widths": list(self.start.widths),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        gap = self.steps[-1].gap[1] / self.first[0] if self.steps and self.first[0] > 0 else 1.0
        return (
            f"Enclosure({self.result}, t = {self.end:.6g}, {gap:.3g} of the initial gap, radius "
            f"{float(self.radius[-1]):.2g})"
        )


def root_of(ratio: Callable[[float], float], low: float, high: float) -> float:
    """Return about the time between two others at which a falling ratio is 1, by the Illinois method.

    The result may be anything: whoever uses it checks it.
    """

    def height(t: float) -> float:
        value = ratio(t)
        return min(math.log(value), 700.0) if value > 0 else -700.0

    above, below = height(low), height(high)
    t, side = 0.5 * (low + high), 0
    for _ in range(SECANTS):
        if not above > 0 > below:
            break
        t = low + (high - low) * (above / (above - below))
        if not low < t < high:
            break
        here = height(t)
        if abs(here) < 1e-13:  # rounding
            break
        if here > 0:
            low, above, below, side = t, here, 0.5 * below if side == 1 else below, 1
        else:
            high, below, above, side = t, here, 0.5 * above if side == -1 else above, -1
    return min(max(t, low), high)


def _near(t: float, low: float, high: float, early: Callable[[float], bool]) -> tuple[float, float]:
    """Return times around t, close to it if may be, between which `early` ends; low and high count without a look."""
    width = 4 * math.ulp(high)
    while width < high - low:
        a, b = max(low, t - width), min(high, t + width)
        if (a == low or early(a)) and (b == high or not early(b)):
            return a, b
        width *= 16
    return low, high
