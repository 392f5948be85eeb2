"""`python -m benchmarks`: time every solver on every task, print the table and keep the numbers."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.measure import Cell, Settings, dgemm_peak, floor, measure, whole_process
from benchmarks.problems import TASKS
from benchmarks.reference import cross_check, reference
from benchmarks.solvers import DESCENT_ERROR, SOLVERS
from benchmarks.table import BASE, duration, render, save

RESULTS = Path(__file__).parent / "results"
WHOLE = ("linflow", "dop853")
CUT = {"T6": 40}
"""Problems of a task of many under `--quick`."""


def arguments(argv: Sequence[str] | None, tasks: Sequence[str], solvers: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--tasks", help=f"which, by commas: {','.join(tasks)}")
    parser.add_argument("--solvers", help=f"which, by commas: {','.join(solvers)}")
    parser.add_argument("--error", type=float, default=1e-5, help="error of log ℓ to reach (default 1e-5)")
    parser.add_argument("--budget", type=float, default=None, help="seconds for one solve (default 20, quick 10)")
    parser.add_argument("--quick", action="store_true", help="a few small tasks, few repeats")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the file of results")
    chosen = parser.parse_args(argv)
    for option, known in (("tasks", tasks), ("solvers", solvers)):
        text = getattr(chosen, option)
        names = None if text is None else [name for name in text.split(",") if name]
        unknown = [name for name in names or () if name not in known]
        if unknown or names == []:
            parser.error(f"--{option} names {', '.join(unknown) or 'nothing'}; known are {', '.join(known)}.")
        setattr(chosen, option, names)
    if not 0 < chosen.error < 1:
        parser.error(f"--error is {chosen.error:g}; a number between 0 and 1 is needed.")
    if chosen.budget is not None and not chosen.budget > 0:
        parser.error(f"--budget is {chosen.budget:g}; a positive number of seconds is needed.")
    return chosen


class Progress:
    """One line on a terminal, rewritten; nothing elsewhere."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self.shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


class Bench:
    """One call of the command."""

    def __init__(self, chosen: argparse.Namespace):
        self.quick: bool = chosen.quick
        self.tasks = chosen.tasks or [key for key, task in TASKS.items() if task.quick or not chosen.quick]
        self.solvers = [key for key in SOLVERS if chosen.solvers is None or key in chosen.solvers]
        budget = chosen.budget or (10.0 if chosen.quick else 20.0)
        self.settings = Settings(chosen.error, budget, *((3, 0.3) if chosen.quick else (7, 2.0)))
        self.titles = {key: entry.title for key, entry in SOLVERS.items()}
        self.say = Progress()
        self.peak = dgemm_peak()
        self.cells: list[Cell] = []
        self.checks: dict[str, float] = {}
        self.whole: dict[str, float | None] = {}

    def task(self, key: str) -> None:
        """Time all solvers on one task."""
        task = TASKS[key]
        problems, seeds = task.problems(), task.checked_seeds()
        if self.quick and key in CUT:
            problems, seeds = problems[: CUT[key]], list(range(0, CUT[key], CUT[key] // 4))
        self.say(f"{key}: reference")
        references = {seed: reference(problems[seed], task.reference_rtol, task.plain) for seed in seeds}
        line = f"{key:4} {task.title}"
        if len(problems) < task.seeds:
            line += f" ({len(problems)} of them)"
        if task.cross_check:
            self.checks[key] = max(cross_check(problems[seed], curve) for seed, curve in references.items())
            line += f"; the reference and SciPy at 1e-13 differ by {self.checks[key]:.0e}"
        self.say("")
        print(line, flush=True)
        for name in self.solvers:
            here = f"{key}, {self.titles[name]}"

            def say(text: str, here: str = here) -> None:
                self.say(f"{here}: {text}")

            cell = measure(key, name, SOLVERS[name], problems, references, self.settings, say)
            if name != "proof":  # whose evaluations are steps
                cell.floor = floor(cell, problems[0], self.peak, reduced=name == BASE)
            self.cells.append(cell)

    def whole_processes(self) -> None:
        """Time fresh interpreters at the tolerances that T1 needs."""
        for cell in [cell for cell in self.cells if cell.task == "T1" and cell.solver in WHOLE and cell.tolerance]:
            self.say(f"whole process: {self.titles[cell.solver]}")
            self.whole[cell.solver] = whole_process(cell.solver, cell.tolerance or 0.0, 2 if self.quick else 5)
        self.say("")

    def report(self) -> dict[str, Any]:
        return {
            "environment": environment(),
            "settings": asdict(self.settings),
            "dgemm_flops_per_second": self.peak,
            "cross_checks": self.checks,
            "whole_process_seconds": self.whole,
            "tasks": {key: TASKS[key].title for key in self.tasks},
        }


def main(argv: Sequence[str] | None = None) -> int:
    began = time.perf_counter()
    chosen = arguments(argv, list(TASKS), list(SOLVERS))
    bench = Bench(chosen)
    print(f"Error to reach: {bench.settings.error:g} of log ℓ ({bench.titles['descent']}: {DESCENT_ERROR:g}).\n")
    for key in bench.tasks:
        bench.task(key)
    bench.whole_processes()
    print(f"\n{render(bench.cells, bench.titles)}\n")
    for name, seconds in bench.whole.items():
        print(f"whole process, import included, T1, {bench.titles[name]}: {duration(seconds)}")
    print(f"BLAS: {bench.peak / 1e9:.3g} Gflop/s on one thread; the bench took {time.perf_counter() - began:.0f} s")
    print(f"numbers: {save(chosen.out, bench.report(), bench.cells)}")
    return 0
