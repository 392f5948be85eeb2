"""Gradient descent in PyTorch with a constant step, its loss recorded at every step.

The tolerance is the step, as a part of `FEWEST` equal ones to the end of the run.
"""

from __future__ import annotations

import math

import numpy as np

import torch
from benchmarks.problems import Problem
from benchmarks.solvers import Curve
from benchmarks.solvers.torch_field import TorchField, TorchSolver

FEWEST = 250


def create(method: str) -> Descent:
    return Descent()


class Descent(TorchSolver):
    @torch.no_grad()
    def run(self, problem: Problem, t: np.ndarray, tolerance: float) -> Curve:
        field = TorchField(problem)
        y = field.start(problem)
        slope = torch.empty_like(y)
        out = field.views(slope)
        steps = math.ceil(FEWEST / tolerance)
        step = float(t[-1]) / steps
        squares = torch.empty(steps + 1, dtype=y.dtype)
        for k in range(steps):
            R = field.write(y, out).view(-1)
            torch.dot(R, R, out=squares[k])
            y.add_(slope, alpha=step)
        R = field.residual(y).view(-1)
        torch.dot(R, R, out=squares[steps])
        log_gap = (0.5 * squares).log().numpy()
        return step * np.arange(steps + 1), log_gap, steps
