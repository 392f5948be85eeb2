"""Time and error of one solver on one task, in a process of its own that is ended when it takes too long."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import linflow as lf
from benchmarks.problems import Problem, flops
from benchmarks.reference import Reference
from benchmarks.search import Trial, best, search
from benchmarks.solvers import Entry
from benchmarks.worker import StoppedError, Worker

WORK_SPACE = 2e9
"""Bytes of work space from which a solver that needs the square of the number of weights is not tried."""
PATIENCE = 300.0
"""Seconds for importing and compiling, at least; what is compiled once for a machine takes the longest."""


@dataclass(frozen=True)
class Settings:
    """How long and how well to measure.

    Attributes:
        error: the largest error of the logarithm of the loss that counts as solved.
        budget: seconds for one solve.
        repeats, repeat_seconds: a solve is repeated until either is reached; its time is the least.
    """

    error: float = 1e-5
    budget: float = 20.0
    repeats: int = 7
    repeat_seconds: float = 2.0


@dataclass
class Cell:
    """One row of the table.

    Attributes:
        seconds: the least time; None when the error was not reached, and `note` says why.
        extrapolated: whether time and evaluations are those of the checked problems, scaled to all.
        setup: seconds for importing and compiling.
        peak: most memory the process held, in bytes.
        floor: seconds that the evaluations would take at the speed of the BLAS.
        trials: the search, for the record.
    """

    task: str
    solver: str
    target: float
    seconds: float | None = None
    error: float | None = None
    evaluations: int | None = None
    tolerance: float | None = None
    extrapolated: bool = False
    note: str | None = None
    setup: float | None = None
    peak: int | None = None
    floor: float | None = None
    trials: list[Trial] = field(default_factory=list)


def measure(
    task: str,
    name: str,
    entry: Entry,
    problems: Sequence[Problem],
    references: dict[int, Reference],
    settings: Settings,
    say: Callable[[str], None] = lambda text: None,
) -> Cell:
    """Search the loosest tolerance that reaches the error, and time it."""
    cell = Cell(task, name, entry.error or settings.error)
    space = 8.0 * max(p.size for p in problems) ** 2
    if entry.quadratic and space > WORK_SPACE:
        cell.note = f"needs {space / 1e9:.0f} GB"
        return cell
    some = next(iter(references.values())).t
    grids = [references[i].t if i in references else some for i in range(len(problems))]
    worker = Worker(entry, problems, grids, max(settings.budget, PATIENCE))
    try:
        say("starts")
        cell.setup = worker.start()
        _fill(cell, worker, entry, references, len(problems), settings, say)
    except StoppedError as error:
        cell.note = str(error)
    finally:
        worker.stop()
    return cell


def _fill(
    cell: Cell,
    worker: Worker,
    entry: Entry,
    references: dict[int, Reference],
    count: int,
    settings: Settings,
    say: Callable[[str], None],
) -> None:
    checked = list(references)

    def attempt(tolerance: float) -> Trial:
        say(f"tolerance {tolerance:.0e}")
        try:
            answer = worker.run(tolerance, checked, True, settings.budget)
        except StoppedError as stopped:
            return Trial(tolerance, settings.budget, stopped=str(stopped))
        cell.peak = answer.peak
        pairs = zip(references.values(), answer.curves, strict=True)
        return Trial(tolerance, answer.seconds, max(c.error(*got) for c, got in pairs), answer.evaluations)

    cell.trials = search(entry.ladder, entry.first, cell.target, attempt)
    chosen = best(cell.trials, cell.target)
    if chosen is None:
        reasons = [trial.stopped for trial in cell.trials if trial.stopped]
        errors = [trial.error for trial in cell.trials if not trial.stopped]
        cell.note = reasons[0] if reasons else "not reached"
        cell.error = min(errors, default=None)
        return
    cell.tolerance, cell.error = chosen.tolerance, chosen.error
    cell.seconds, cell.evaluations = chosen.seconds, chosen.evaluations
    say("is timed")
    if count > len(checked):
        _time_all(cell, worker, chosen, len(checked), count, settings)
        return
    spent = chosen.seconds
    for _ in range(settings.repeats):
        if spent > settings.repeat_seconds:
            break
        try:
            seconds = worker.run(chosen.tolerance, checked, False, settings.budget).seconds
        except StoppedError:
            break
        spent += seconds
        cell.seconds = min(cell.seconds, seconds)


def _time_all(cell: Cell, worker: Worker, chosen: Trial, checked: int, count: int, settings: Settings) -> None:
    """Time all problems once; where that would exceed the budget, scale the time of those checked."""
    factor = count / checked
    if factor * chosen.seconds < settings.budget:
        try:
            answer = worker.run(chosen.tolerance, range(count), False, 2 * settings.budget)
        except StoppedError:
            pass
        else:
            cell.seconds, cell.evaluations = answer.seconds, answer.evaluations
            return
    cell.seconds, cell.evaluations = factor * chosen.seconds, round(factor * chosen.evaluations)
    cell.extrapolated = True


def dgemm_peak(size: int = 768, repeats: int = 12) -> float:
    """Floating-point operations a second of a product of two square matrices, the best of several."""
    A = np.random.default_rng(0).standard_normal((size, size))
    B, C = A.T.copy(), np.empty_like(A)
    least = np.inf
    for _ in range(repeats):
        began = time.perf_counter()
        np.matmul(A, B, out=C)
        least = min(least, time.perf_counter() - began)
    return 2.0 * size**3 / least


def floor(cell: Cell, problem: Problem, peak: float, reduced: bool = False) -> float | None:
    """The seconds that a cell's evaluations would take at `peak` operations a second, in the width it works in."""
    if cell.evaluations is None:
        return None
    widths = lf.reduce_width(list(problem.weights)).network.widths if reduced else problem.widths
    return cell.evaluations * flops(widths) / peak


def whole_process(name: str, tolerance: float, repeats: int) -> float | None:
    """The least wall time of a fresh interpreter that imports a solver and solves T1; None when it fails."""
    command = [sys.executable, "-m", "benchmarks.once", json.dumps([name, tolerance])]
    least = np.inf
    for _ in range(repeats + 1):  # the first fills the caches of the disk
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=Path(__file__).parent.parent, capture_output=True, timeout=300, check=False
        )
        if done.returncode:
            return None
        least = min(least, time.perf_counter() - began)
    return float(least)
