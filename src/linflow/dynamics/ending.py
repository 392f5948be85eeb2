"""How a run ended, and what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class Result(StrEnum):
    """How a run ended."""

    TARGET = "target reached"
    TIME_LIMIT = "time limit reached"
    STEPS_DONE = "all steps done"
    STATIONARY = "stationary: the gradient is zero to rounding, at a saddle or a minimum"
    ROUNDING = "rounding level reached: the loss gap cannot fall further in float64"
    STEP_LIMIT = "step limit reached"
    STEP_UNDERFLOW = "step size underflow: the tolerance cannot be met"
    BELOW_MINIMUM = "the loss fell below the declared minimum"
    DIVERGED = "diverged: the loss grew without bound or is not finite"
    INTERRUPTED = "interrupted from the keyboard"

    @property
    def ok(self) -> bool:
        """Whether the run did what was asked."""
        return self in (Result.TARGET, Result.TIME_LIMIT, Result.STEPS_DONE, Result.ROUNDING)


@dataclass(frozen=True)
class Stats:
    """Cost and quality of a run.

    Attributes:
        steps: accepted steps.
        rejected: rejected steps.
        evaluations: evaluations of the gradient.
        imbalance_drift: `max_l ‖D_l(end) − D_l(0)‖_F`; for the flow it is pure integration error.
        seconds: wall time.
    """

    steps: int
    rejected: int
    evaluations: int
    imbalance_drift: float
    seconds: float
    _estimate: Callable[[], float] | float = field(default=0.0, repr=False, compare=False)

    @cached_property
    def gap_error(self) -> float:
        """Estimated error of `log(L − f*)` along a flow, at its largest; 0 for a descent.

        NaN if it was not estimated, as for a run that Ctrl-C ended on the command line.

        The first access runs the flow again with ten times the tolerance and compares the two curves.
        """
        return self._estimate() if callable(self._estimate) else self._estimate

    @property
    def estimated(self) -> bool:
        """Whether `gap_error` is already known, so that reading it needs no second run."""
        return not callable(self._estimate) or "gap_error" in self.__dict__
