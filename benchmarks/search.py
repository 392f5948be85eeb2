"""The loosest tolerance that reaches an error, found with few runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One run at one tolerance.

    Attributes:
        seconds: wall time.
        error: measured; infinite when the run failed.
        evaluations: of the gradient.
        stopped: why there is nothing more, such as the budget; None for a run that ended.
    """

    tolerance: float
    seconds: float
    error: float = math.inf
    evaluations: int = 0
    stopped: str | None = None


def search(
    ladder: Sequence[float], first: int, error: float, run: Callable[[float], Trial], stops: int = 2
) -> list[Trial]:
    """Try tolerances until a passing one has a failing neighbour on its loose side.

    A jump assumes that the error is proportional to the tolerance, and lands between what is known to fail and what
    is known to pass. A trial that is stopped bars all tighter ones; after `stops` of them the search gives up.
    """
    trials: list[Trial] = []
    fails, passes, barred, at = -1, len(ladder), len(ladder), min(first, len(ladder) - 1)
    while True:
        trial = run(ladder[at])
        trials.append(trial)
        if trial.stopped:
            barred = at
        elif trial.error <= error:
            passes = at
        else:
            fails = at
        last = min(passes, barred)
        if last - fails <= 1 or sum(t.stopped is not None for t in trials) >= stops:
            return trials
        at = _next(ladder, at, trial, error, fails, last)


def _next(ladder: Sequence[float], at: int, trial: Trial, error: float, fails: int, last: int) -> int:
    if trial.stopped or trial.error == 0:
        return (fails + last) // 2
    if not trial.error < math.inf:  # an unstable step, say: how far off is unknown
        return min(at + 3, (at + last) // 2)
    wanted = ladder[at] * error / trial.error
    aim = next((i for i, tolerance in enumerate(ladder) if tolerance <= wanted), len(ladder) - 1)
    return min(max(aim, fails + 1), last - 1)


def best(trials: Sequence[Trial], error: float) -> Trial | None:
    """The fastest trial that reached the error, by evaluations: they do not depend on the load of the machine."""
    passed = [trial for trial in trials if not trial.stopped and trial.error <= error]
    return min(passed, key=lambda trial: trial.evaluations, default=None)
