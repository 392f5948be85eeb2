"""`linflow.gradient_flow`; the tolerance is its `rtol`."""

from __future__ import annotations

import numpy as np

import linflow as lf
from benchmarks.problems import Problem
from benchmarks.solvers import Curve

STEPS = 10**7


def create(method: str) -> Linflow:
    return Linflow()


class Linflow:
    def prepare(self, problem: Problem, t: np.ndarray) -> None:
        """Run once on two by two, so that whatever is compiled is."""
        lf.gradient_flow(lf.MatrixFactorization(np.eye(2)), [np.eye(2), 0.5 * np.eye(2)], until=0.5)

    def run(self, problem: Problem, t: np.ndarray, tolerance: float) -> Curve:
        net = lf.Network(list(problem.weights), scale=problem.scale)
        f = lf.MatrixFactorization(problem.target)
        run = lf.gradient_flow(f, net, until=problem.until, rtol=tolerance, max_steps=STEPS)
        if run.result is not lf.Result.TARGET:
            return t, np.full(len(t), np.nan), run.stats.evaluations
        every = np.union1d(run.t, t[t <= run.t[-1]])  # at its steps and, as the others, between them
        return every, np.log(run.gap_at(every)), run.stats.evaluations
