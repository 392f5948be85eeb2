"""`linflow.enclose`: the flow with a proof; there is no tolerance to choose.

The curve is the proved upper bound of the loss at the ends of the steps, so its error is what the proof allows for.
"""

from __future__ import annotations

import numpy as np

import linflow as lf
from benchmarks.problems import Problem
from benchmarks.solvers import Curve


def create(method: str) -> Proof:
    return Proof()


class Proof:
    def prepare(self, problem: Problem, t: np.ndarray) -> None:
        """Run once on two by two, so that whatever is compiled is."""
        lf.enclose(lf.MatrixFactorization(np.eye(2)), [np.eye(2), 0.5 * np.eye(2)], until=0.5)

    def run(self, problem: Problem, t: np.ndarray, tolerance: float) -> Curve:
        """The evaluations are the steps, each with some twenty derivatives."""
        net = lf.Network(list(problem.weights), scale=problem.scale)
        enc = lf.enclose(lf.MatrixFactorization(problem.target), net, until=problem.until)
        if enc.result != "target proved":
            return t, np.full(len(t), np.nan), len(enc.steps)
        highest = np.array([enc.first[1], *(step.gap[1] for step in enc.steps)])
        within, end = enc.t < t[-1], min(float(t[-1]), enc.end)
        last = enc.gap_bounds(end)[1]
        return np.append(enc.t[within], end), np.log(np.append(highest[within], last)), len(enc.steps)
