"""`scipy.integrate.solve_ivp` with a gradient written by hand in NumPy; the tolerance is `rtol` and `atol`."""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from benchmarks.problems import Problem
from benchmarks.solvers import Curve
from benchmarks.solvers.numpy_field import Field


def solve(problem: Problem, end: float, method: str, tolerance: float) -> Curve:
    """Integrate to the end, and report at the solver's own steps.

    DOP853's interpolation between them would take a fifth more evaluations and lose one to three digits of the loss.
    """
    field = Field(problem)
    run = solve_ivp(field, (0.0, end), problem.flat(), method=method, rtol=tolerance, atol=tolerance)
    if not run.success:
        return run.t, np.full(len(run.t), np.nan), run.nfev
    return run.t, np.array([field.log_gap(y) for y in run.y.T]), run.nfev


def create(method: str) -> SciPy:
    return SciPy(method)


class SciPy:
    def __init__(self, method: str):
        self.method = method

    def prepare(self, problem: Problem, t: np.ndarray) -> None:
        Field(problem)(0.0, problem.flat())

    def run(self, problem: Problem, t: np.ndarray, tolerance: float) -> Curve:
        return solve(problem, float(t[-1]), self.method, tolerance)
