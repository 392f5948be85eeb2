"""The gradient in NumPy, on flat weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from benchmarks.problems import Problem, from_right


class Field:
    """`y ↦ −∂L/∂y` on flat weights: products from the narrower side, layers as views, each written once."""

    def __init__(self, problem: Problem):
        self.scale, self.target = problem.scale, problem.target
        self.shapes = [W.shape for W in problem.weights]
        ends = np.cumsum([0] + [W.size for W in problem.weights])
        self.slices = [slice(a, b) for a, b in pairwise(ends)]
        self.from_right = from_right(problem.widths)

    def views(self, y: np.ndarray) -> list[np.ndarray]:
        return [y[part].reshape(shape) for part, shape in zip(self.slices, self.shapes, strict=True)]

    def __call__(self, t: float, y: np.ndarray) -> np.ndarray:
        slope = np.empty_like(y)  # a fresh one: the integrators keep what they are given
        layers, out = self.views(y), self.views(slope)
        (write_from_right if self.from_right else write_from_left)(layers, self.scale, self.target, out)
        return slope

    def log_gap(self, y: np.ndarray) -> float:
        W, *rest = layers = self.views(y)
        if self.from_right:
            W, *rest = reversed(layers)
        for layer in rest:
            W = layer @ W if self.from_right else W @ layer
        R = self.scale * W - self.target
        return float(np.log(0.5 * np.vdot(R, R)))


def write_from_right(layers: list[np.ndarray], scale: float, target: np.ndarray, out: list[np.ndarray]) -> None:
    """Write `−∂L/∂W_l` by `S_l = W_{l+1} ⋯ W_L` and `A_l = −(W_1 ⋯ W_{l−1})ᵀ G`."""
    S = [layers[-1]]
    for W in layers[-2:0:-1]:
        S.append(W @ S[-1])
    A = scale * (target - scale * (layers[0] @ S[-1])) if len(layers) > 1 else scale * (target - scale * S[-1])
    for W, slope in zip(layers[:-1], out[:-1], strict=True):
        np.matmul(A, S.pop().T, out=slope)
        A = W.T @ A
    out[-1][...] = A


def write_from_left(layers: list[np.ndarray], scale: float, target: np.ndarray, out: list[np.ndarray]) -> None:
    """Write `−∂L/∂W_l` by `P_l = W_1 ⋯ W_{l−1}` and `B_l = −G (W_{l+1} ⋯ W_L)ᵀ`."""
    P = [layers[0]]
    for W in layers[1:-1]:
        P.append(P[-1] @ W)
    B = scale * (target - scale * (P[-1] @ layers[-1])) if len(layers) > 1 else scale * (target - scale * P[-1])
    for W, slope in zip(layers[:0:-1], out[:0:-1], strict=True):
        np.matmul(P.pop().T, B, out=slope)
        B = B @ W.T
    out[0][...] = B
