"""A process that solves, and is ended when it takes too long; it imports nothing but its own solver."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.problems import Problem
from benchmarks.solvers import Entry, Solver

LATE = "> "
"""How the reason begins when the time ran out."""


@dataclass(frozen=True)
class Answer:
    """What solving some problems took, and where wanted the curves.

    Attributes:
        seconds, evaluations: in all.
        peak: most memory the process has held, in bytes.
        curves: times and logarithms of the loss.
    """

    seconds: float
    evaluations: int
    peak: int
    curves: list[tuple[np.ndarray, np.ndarray]]


class StoppedError(Exception):
    """A worker gave no answer; the message says why."""


class Worker:
    """A process that holds one solver and its problems; one that exceeds its time is ended and started anew."""

    def __init__(
        self, entry: Entry, problems: Sequence[Problem], grids: Sequence[np.ndarray], patience: float = 300.0
    ):
        """Allow `patience` seconds for importing and compiling."""
        self.arguments = (entry, list(problems), list(grids))
        self.patience = patience
        self.process: Any = None
        self.pipe: Any = None

    def start(self) -> float:
        """Start the process and return the seconds that importing and compiling took."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        return self._ask(self.arguments, self.patience)

    def run(self, tolerance: float, which: Sequence[int], curves: bool, budget: float) -> Answer:
        """Solve some of the problems."""
        if self.process is None:
            self.start()
        return self._ask((tolerance, list(which), curves), budget)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = self.pipe = None

    def _ask(self, message: Any, budget: float) -> Any:
        try:
            self.pipe.send(message)
            good, answer = self.pipe.recv() if self.pipe.poll(budget) else (False, f"{LATE}{budget:g} s")
        except (EOFError, OSError):
            good, answer = False, "the process died"  # killed by the system, for want of memory perhaps
        if not good:
            self.stop()
            raise StoppedError(answer)
        return answer


def _serve(pipe: Connection) -> None:
    """The other end of a `Worker`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        entry, problems, grids = pipe.recv()
        began = time.perf_counter()
        solver = entry.create()
        solver.prepare(problems[0], grids[0])
        pipe.send((True, time.perf_counter() - began))
        while True:
            pipe.send((True, _solve(solver, problems, grids, *pipe.recv())))
    except EOFError:  # the other end has gone
        return
    except Exception as error:  # whatever a solver does must show in its row, and not end the others
        lines = str(error).splitlines() or [""]
        pipe.send((False, f"{type(error).__name__}: {lines[0]}"))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, also in the middle of a solve."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _solve(
    solver: Solver, problems: list[Problem], grids: list[np.ndarray], tolerance: float, which: list[int], keep: bool
) -> Answer:
    seconds, evaluations, curves = 0.0, 0, []
    for i in which:
        began = time.perf_counter()
        t, log_gap, count = solver.run(problems[i], grids[i], tolerance)
        seconds += time.perf_counter() - began
        evaluations += count
        if keep:
            curves.append((np.asarray(t), np.asarray(log_gap)))
    return Answer(seconds, evaluations, peak_memory(), curves)


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux `ru_maxrss` begins at that of the parent
        line = next(x for x in status.read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
