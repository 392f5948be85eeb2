"""Verified descent of a convex smooth loss that is not quadratic.

`‖e_{k+1}‖ ≤ max(1 + η_k m, η_k M − 1) ‖e_k‖ + r_k` as for quadratic losses. `m = λ_max(C)` by the products of the
layers, and `M = ‖∇²f‖ ‖DW‖² + m` on the ball of the radius around the iterate. Proof: docs/verified.md, section 11.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from linflow.verified.descent import StepRule
from linflow.verified.log_norm import greatest
from linflow.verified.rounding import TINY, UP, U, frobenius
from linflow.verified.smooth import ConvexGradient, ProductTube, cross


class ConvexDescentMarch:
    """State of a verified descent, with the same interface as `DescentMarch`."""

    hessians = 0

    def __init__(
        self, problem: ConvexGradient, weights: list[np.ndarray], scale: float, radius: float, rule: float | StepRule
    ):
        self.problem, self.scale, self.radius = problem, scale, radius
        self.rule: StepRule = rule if callable(rule) else lambda weights, taken: rule
        self.taken: list[float] = []
        self.exponent = 0.0
        self.trouble = ""
        self._arrive(weights)
        self.first = self.gap

    def _arrive(self, weights: list[np.ndarray]) -> None:
        """Compute what is known around an iterate, and the gap."""
        self.weights = weights
        self.tube = ProductTube(self.problem, weights, self.scale)
        self.gap = self.tube.gap(self.radius)

    def advance(self) -> bool:
        """Take a step. Return False if the radius becomes too large (`trouble` says why)."""
        L = len(self.weights)
        eta = self.rule(self.weights, self.taken)
        growth = self.growth(eta)
        _, _, gradients, errors = self.problem.loss_gradient(self.weights, np.zeros(L), self.scale)
        new = [W - eta * g for W, g in zip(self.weights, gradients, strict=True)]
        moved = math.hypot(*(float(frobenius(W)) for W in new)) * UP
        rounding = math.hypot(
            *(float(e) + 2 * U * float(frobenius(g)) for g, e in zip(gradients, errors, strict=True))
        )
        radius = (self.radius * growth + eta * rounding + U * moved) * UP + TINY
        if not radius < 1e-3 * (TINY + moved) or not math.isfinite(growth):
            self.trouble = (
                f"the radius of the enclosure, {radius:.2g}, is too large for weights of norm {moved:.3g}; try a "
                "smaller step"
            )
            return False
        self.exponent += max(0.0, math.log(growth))
        self.radius = radius
        self.taken.append(eta)
        self._arrive(new)
        return True

    def growth(self, eta: float) -> float:
        """Return `max(1 + ηm, ηM − 1)` on the ball of the radius around the iterate."""
        L = len(self.weights)
        _, curvature, motion = self.tube.sizes(self.radius)
        C = np.zeros((L, L))
        if L > 1:
            here = cross(self.problem, [W[None] for W in self.weights], np.zeros((L, 1)), self.scale)
            more = self.tube.moved(self.radius)
            for i, j in itertools.combinations(range(L), 2):
                (x, mid), (x_more, mid_more) = here[i, j], more[i, j]
                C[i, j] = C[j, i] = (x[0] + x_more) * (mid[0] + mid_more) * UP
        m = greatest(C)
        M = (curvature * motion * motion + m) * UP
        return max(1 + eta * m, eta * M - 1) * UP
