"""`torchdiffeq.odeint`; the tolerance is `rtol` and `atol`."""

from __future__ import annotations

import numpy as np
from torchdiffeq import odeint

import torch
from benchmarks.problems import Problem
from benchmarks.solvers import Curve
from benchmarks.solvers.torch_field import TorchField, TorchSolver


def create(method: str) -> TorchDiffEq:
    return TorchDiffEq(method)


class TorchDiffEq(TorchSolver):
    def __init__(self, method: str):
        self.method = method

    @torch.no_grad()
    def run(self, problem: Problem, t: np.ndarray, tolerance: float) -> Curve:
        field = TorchField(problem)
        times = torch.from_numpy(np.concatenate([[0.0], t]))
        path = odeint(field, field.start(problem), times, rtol=tolerance, atol=tolerance, method=self.method)
        gaps = torch.stack([0.5 * (field.residual(y) ** 2).sum() for y in path[1:]])
        return t, gaps.log().numpy(), field.evaluations
