"""The solvers, one module each. A module is imported only in the process that uses it.

A solver is made for a method, `prepare`d once for a problem and a grid of times (what it compiles is timed there),
and then `run` at a tolerance. The run ends with the grid and returns times, the logarithm of the loss at them, and
the evaluations of the gradient it took. A solver that shows its own steps reports at those too.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.problems import Problem

Curve = tuple[np.ndarray, np.ndarray, int]


class Solver(Protocol):
    """What a module's `create` returns."""

    def prepare(self, problem: Problem, t: np.ndarray) -> None: ...

    def run(self, problem: Problem, t: np.ndarray, tolerance: float) -> Curve: ...


@dataclass(frozen=True)
class Entry:
    """Where a solver is, and the tolerances to try from the loosest to the tightest.

    Attributes:
        ladder: the tolerances.
        first: index of the one to try first.
        error: the error to reach, where it is not that of the others.
        quadratic: whether its work space is the square of the number of weights.
    """

    title: str
    module: str
    method: str
    ladder: tuple[float, ...]
    first: int
    error: float | None = None
    quadratic: bool = False

    def create(self) -> Solver:
        return importlib.import_module(self.module).create(self.method)


HALF_DECADES = tuple(float(f"{10 ** (-k / 2):.3g}") for k in range(4, 27))
"""1e-2 to 1e-13."""
HALVINGS = tuple(0.5**k for k in range(25))
DESCENT_ERROR, PROOF_ERROR = 0.01, 1.0
"""A descent ends short of the error that the others reach. A proof has no tolerance; its error is what it gives."""

SOLVERS = {
    "linflow": Entry("linflow", "benchmarks.solvers.linflow_", "", HALF_DECADES, 8),
    "proof": Entry("linflow, proved", "benchmarks.solvers.proof", "", (1.0,), 0, PROOF_ERROR),
    "dop853": Entry("SciPy DOP853", "benchmarks.solvers.scipy_", "DOP853", HALF_DECADES, 14),
    "lsoda": Entry("SciPy LSODA", "benchmarks.solvers.scipy_", "LSODA", HALF_DECADES, 16, quadratic=True),
    "tsit5": Entry("diffrax Tsit5", "benchmarks.solvers.diffrax_", "Tsit5", HALF_DECADES, 15),
    "dopri8": Entry("diffrax Dopri8", "benchmarks.solvers.diffrax_", "Dopri8", HALF_DECADES, 14),
    "torchdiffeq": Entry("torchdiffeq dopri5", "benchmarks.solvers.torchdiffeq_", "dopri5", HALF_DECADES, 15),
    "descent": Entry("PyTorch descent", "benchmarks.solvers.descent", "", HALVINGS, 3, DESCENT_ERROR),
}
