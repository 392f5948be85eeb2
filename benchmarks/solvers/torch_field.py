"""The gradient in PyTorch, on flat weights."""

from __future__ import annotations

import numpy as np

import torch
from benchmarks.problems import Problem, from_right

torch.set_num_threads(1)


class TorchSolver:
    """A solver in PyTorch: whatever PyTorch loads on first use is loaded by one gradient."""

    def prepare(self, problem: Problem, t: np.ndarray) -> None:
        field = TorchField(problem)
        field(0.0, field.start(problem))


class TorchField:
    """`numpy_field.Field` on tensors; `evaluations` counts the calls."""

    def __init__(self, problem: Problem):
        self.scale, self.from_right = problem.scale, from_right(problem.widths)
        self.shapes = [W.shape for W in problem.weights]
        self.sizes = [W.size for W in problem.weights]
        self.target = torch.from_numpy(problem.target)
        self.evaluations = 0

    def views(self, y: torch.Tensor) -> list[torch.Tensor]:
        return [part.view(shape) for part, shape in zip(y.split(self.sizes), self.shapes, strict=True)]

    def start(self, problem: Problem) -> torch.Tensor:
        return torch.from_numpy(problem.flat())

    def residual(self, y: torch.Tensor) -> torch.Tensor:
        layers = self.views(y)
        W, *rest = reversed(layers) if self.from_right else layers
        for layer in rest:
            W = layer @ W if self.from_right else W @ layer
        return self.scale * W - self.target

    def __call__(self, t: object, y: torch.Tensor) -> torch.Tensor:
        self.evaluations += 1
        slope = torch.empty_like(y)
        self.write(y, self.views(slope))
        return slope

    def write(self, y: torch.Tensor, out: list[torch.Tensor]) -> torch.Tensor:
        """Write the slopes of the layers, and return the residual with the other sign."""
        layers = self.views(y)
        right = self.from_right
        chain = layers[::-1] if right else layers
        running = chain[:1]
        for W in chain[1:]:
            running.append(W @ running[-1] if right else running[-1] @ W)
        R = torch.add(self.target, running.pop(), alpha=-self.scale)
        G = self.scale * R
        for W, slope in zip(chain[:0:-1], out if right else out[::-1], strict=False):
            P = running.pop()
            if right:
                torch.mm(G, P.T, out=slope)
                G = W.T @ G
            else:
                torch.mm(P.T, G, out=slope)
                G = G @ W.T
        (out[-1] if right else out[0]).copy_(G)
        return R
