"""The loss curves that every solver is measured against."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline

import linflow as lf
from benchmarks.problems import Problem
from benchmarks.solvers.scipy_ import solve

POINTS = (16, 160)
ENTRIES = 2e7
"""A grid has `ENTRIES / (number of weights)` points, within `POINTS`: solvers that return weights must hold them."""
ENGINES = "engine" in inspect.signature(lf.gradient_flow).parameters
"""Whether this linflow has several."""
SHORT = 1e-3
"""Part of its time by which a run to a target, rather than to a time, may end early through its error."""
SUBDIVISION = 8
"""Points of the curve for each step of the reference; the spline is then right to its integration error."""


@dataclass(frozen=True)
class Reference:
    """A loss curve up to where the target is reached.

    Attributes:
        t: the grid of times for those that are told when to report.
        nodes, log_gap: times so close that a cubic spline is exact, and the logarithm of the loss there.
    """

    t: np.ndarray
    nodes: np.ndarray
    log_gap: np.ndarray

    @property
    def end(self) -> float:
        return float(self.t[-1])

    def error(self, t: np.ndarray, log_gap: np.ndarray) -> float:
        """The largest difference from the curve at these times; infinite unless all are numbers up to the end."""
        if len(t) == 0 or t[-1] < (1 - SHORT) * self.end or not np.all(np.isfinite(log_gap)):
            return np.inf
        return float(np.max(np.abs(log_gap - CubicSpline(self.nodes, self.log_gap)(t))))


def grid(end: float, size: int) -> np.ndarray:
    """Times from `10⁻⁴ end` to the end, half of them spread evenly and half evenly in their logarithm."""
    count = int(np.clip(ENTRIES / size, *POINTS)) // 2
    t = np.union1d(np.geomspace(1e-4 * end, end, count), np.linspace(end / count, end, count))
    t = t[t < end * (1 - 1e-9)]
    return np.append(t, end)


def reference(problem: Problem, rtol: float, plain: bool = True) -> Reference:
    """Integrate with linflow at a tight tolerance."""
    engine: dict[str, Any] = {"engine": "plain"} if plain and ENGINES else {}
    net = lf.Network(list(problem.weights), scale=problem.scale)
    run = lf.gradient_flow(
        lf.MatrixFactorization(problem.target), net, until=problem.until, rtol=rtol, max_steps=10**7, **engine
    )
    if run.result is not lf.Result.TARGET:
        raise RuntimeError(f"the reference did not reach its target: {run.result.value}")
    t = np.asarray(run.t)
    parts = np.linspace(0.0, 1.0, SUBDIVISION, endpoint=False)
    nodes = np.unique(np.append((t[:-1, None] + np.diff(t)[:, None] * parts).ravel(), t[-1]))
    return Reference(grid(float(t[-1]), problem.size), nodes, np.log(run.gap_at(nodes)))


def cross_check(problem: Problem, curve: Reference) -> float:
    """The largest difference between the reference and SciPy's DOP853 at 1e-13."""
    t, log_gap, _ = solve(problem, curve.end, "DOP853", 1e-13)
    return curve.error(t, log_gap)
