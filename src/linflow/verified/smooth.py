"""The parts of a verified run that hold for every convex smooth loss.

These are products of layers with their errors, the gradients of the layers, and the second-order part of `∇²L` on a
tube. Proofs: docs/verified.md, sections 4 and 11.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from linflow.verified.log_norm import Constants, greatest
from linflow.verified.march import product_error
from linflow.verified.rounding import UP, U, frobenius, gamma, spectral


class ConvexGradient:
    """A convex loss f of the product: its gradient and values with proved errors."""

    notes: tuple[str, ...]
    least = 0.0

    def gap(self, E: np.ndarray, error: float) -> tuple[float, float]:
        """Return bounds of the loss gap at all products within `error` of E in Frobenius norm."""
        raise NotImplementedError

    def gradient(self, W: np.ndarray, off: Any) -> tuple[np.ndarray, Any]:
        """Return the `∇f` computed from W, and a bound of its Frobenius distance to `∇f` at the exact product.

        Args:
            W: the computed product, or a stack of computed products.
            off: upper bound of the Frobenius distance of each W to its exact product.
        """
        raise NotImplementedError

    def at(self, W: np.ndarray, error: float) -> Any:
        """Return what `around` needs to know of a product within `error` of W."""
        raise NotImplementedError

    def around(self, state: Any, moved: float) -> tuple[float, float]:
        """Return upper bounds of `‖∇f‖_F` and `‖∇²f‖` at all products within `moved` of that of `at`."""
        raise NotImplementedError

    def dominance(self, gap: float) -> float:
        """Return a proved γ with `‖∇f‖² ≥ γ (f − f*)` wherever the gap is at most `gap`: 2 `least`; 0 if none."""
        return 2 * self.least * (1 - 4 * U)

    def loss_gradient(
        self, weights: list[np.ndarray], off: np.ndarray, c: float
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Return the computed `G = c∇f(cW_1 ⋯ W_L)` and `∇_l L = P_{l−1}ᵀ G S_{l+1}ᵀ`, each with its error.

        Args:
            weights: the layers, or stacks of layers.
            off: upper bounds of the distances of the exact layers to `weights`, shape `(L, …)`.
            c: output scale.

        Returns:
            G, its error, the gradients and their errors. Errors are in the Frobenius norm.
        """
        P, S = products(weights)
        sizes = [frobenius(W) for W in weights]
        G, error = self.gradient(c * P[-1], whole_error(weights, off, c))
        G, G_error = c * G, c * (error + 2 * U * frobenius(G)) * UP
        length, gradients, errors = frobenius(G), [], []
        for l in range(len(weights)):
            part = G if l == 0 else np.swapaxes(P[l - 1], -1, -2) @ G
            gradients.append(part if l == len(weights) - 1 else part @ np.swapaxes(S[l + 1], -1, -2))
            others, moved = sizes[:l] + sizes[l + 1 :], np.delete(off, l, axis=0)
            rest, more = product(others), grown(others, moved)
            errors.append((G_error * (rest + more) + length * (more + gamma(sides(weights)) * rest)) * UP)
        return G, G_error, gradients, errors


def products(weights: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return `W_1 ⋯ W_l` and `W_l ⋯ W_L` for every l."""
    P = list(itertools.accumulate(weights, np.matmul))
    S = list(itertools.accumulate(reversed(weights), lambda after, W: W @ after))[::-1]
    return P, S


def whole_error(weights: list[np.ndarray], off: np.ndarray, c: float) -> Any:
    """Return a bound of the Frobenius distance of the computed `cW_1 ⋯ W_L` to that of layers within `off`."""
    sizes = [frobenius(W) for W in weights]
    return (c * grown(sizes, off) + (gamma(sides(weights)) + 2 * U) * (c * product(sizes))) * UP


def sides(weights: list[np.ndarray]) -> int:
    """Return an upper bound of the number of operations behind each entry of a product of layers."""
    return sum(W.shape[-2] + W.shape[-1] for W in weights) + len(weights)


def product(sizes: list) -> Any:
    """Return the product of norms, or 1 if there are none."""
    return math.prod(sizes, start=1.0) * UP


def grown(sizes: list, errors: Any) -> Any:
    """Return a bound of how far a product moves if its factors, of norms `sizes`, move by `errors`.

    The bound is `Π(x + e) − Πx`. It is summed over the first factor that moves, so that small errors are not lost.
    """
    total, before = 0.0, 1.0
    for k, (x, e) in enumerate(zip(sizes, errors, strict=True)):
        after = math.prod((v + d for v, d in zip(sizes[k + 1 :], errors[k + 1 :], strict=True)), start=1.0)
        total = total + before * e * after
        before = before * x
    return total * UP


def cross(
    weights: list[np.ndarray], off: np.ndarray, G: np.ndarray, G_error: Any
) -> dict[tuple[int, int], tuple[list[float], list[float]]]:
    """Return upper bounds of `‖P_{i−1}ᵀ G S_{j+1}ᵀ‖₂` and `‖W_{i+1} ⋯ W_{j−1}‖₂` for each of a stack.

    `G = c∇f` and its error are those of `ConvexGradient.loss_gradient`.
    """
    P, S = products(weights)
    sizes, length, found = [frobenius(W) for W in weights], frobenius(G), {}
    for i, j in itertools.combinations(range(len(weights)), 2):
        X = G if i == 0 else np.swapaxes(P[i - 1], 1, 2) @ G
        X = X if j == len(weights) - 1 else X @ np.swapaxes(S[j + 1], 1, 2)
        outer, moved = sizes[:i] + sizes[j + 1 :], np.concatenate([off[:i], off[j + 1 :]])
        rest, more = product(outer), grown(outer, moved)
        error = (G_error * (rest + more) + length * (more + gamma(sides(weights)) * rest)) * UP
        x = [(spectral(x) + float(e)) * UP for x, e in zip(X, error + np.zeros(len(X)), strict=True)]
        mid = [1.0] * len(x)
        if j > i + 1:
            inner = [product_error([W[k] for W in weights[i + 1 : j]], off[i + 1 : j, k]) for k in range(len(x))]
            mid = [(spectral(M) + error) * UP for M, error in inner]
        found[i, j] = (x, mid)
    return found


class ProductTube:
    """Weights, the layers of a path that starts there, and bounds on the tube around this path.

    Attributes:
        start: upper bounds of `‖W_l‖₂` at these weights.
        layers: upper bounds of `‖W_l‖₂` on the path.
        W, W_error: the computed product and a bound of its distance to the exact one.
        state: what the problem knows of the product.
    """

    def __init__(self, problem: Any, weights: list[np.ndarray], c: float):
        self.problem, self.c, self.depth = problem, c, len(weights)
        self.start = self.layers = [spectral(W) for W in weights]
        P, error = product_error(weights, [0.0] * self.depth)
        self.W, self.W_error = c * P, c * (error + 2 * U * float(frobenius(P))) * UP
        self.state = problem.at(self.W, self.W_error)

    def gap(self, radius: float) -> tuple[float, float]:
        """Return bounds of the loss gap at all weights within the radius of the start."""
        away = grown(self.start, [radius] * self.depth)
        return self.problem.gap(self.W, self.W_error + self.c * away * UP)

    def moved(self, radius: float) -> dict[tuple[int, int], tuple[float, float]]:
        """Return how far each of the two factors can move within the radius of the path."""
        x, L, c = self.layers, self.depth, self.c
        slope, curvature, motion = self.sizes(radius)
        found = {}
        for i, j in itertools.combinations(range(L), 2):
            outer = x[:i] + x[j + 1 :]
            more = grown(outer, [radius] * len(outer))
            # The gradient on the tube moves by at most K c ‖DW‖ ρ.
            turned = c * curvature * motion * radius * (math.prod(outer) + more)
            inner = x[i + 1 : j]
            found[i, j] = ((slope * more + turned) * UP, grown(inner, [radius] * len(inner)))
        return found

    def sizes(self, radius: float) -> tuple[float, float, float]:
        """Return upper bounds of `c‖∇f‖_F`, `‖∇²f‖` and `‖DW‖` on the tube."""
        x, c = self.layers, self.c
        wide = [v + radius for v in x]
        moved = c * (math.prod(wide) * UP - math.prod(self.start) * (1 - 1e-12))
        slope, curvature = self.problem.around(self.state, moved)
        others = [math.prod(wide[:l] + wide[l + 1 :]) for l in range(self.depth)]
        return c * slope * UP, curvature, c * math.sqrt(sum(y * y for y in others)) * UP

    def constants(self, radius: float) -> Constants:
        """Return the Lipschitz constants on the tube. The field `third` holds a bound of `‖∇²L‖` instead."""
        wide, L = [v + radius for v in self.layers], self.depth
        slope, curvature, motion = self.sizes(radius)
        C = np.zeros((L, L))
        for i, j in itertools.combinations(range(L), 2):
            C[i, j] = C[j, i] = math.prod(wide[k] for k in range(L) if k not in (i, j)) * UP
        bend = self.c * greatest(C) * UP
        return Constants(motion, bend, slope, (curvature * motion**2 + slope / self.c * bend) * UP)
