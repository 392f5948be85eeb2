"""Verified descent of a convex smooth loss that is not quadratic.

`‖e_{k+1}‖ ≤ max(1 + η_k m, η_k M − 1) ‖e_k‖ + r_k` as for quadratic losses. `m = λ_max(C)` by the products of the
layers, and `M = ‖∇²f‖ ‖DW‖² + m` on the ball of the radius around the iterate. Proof: docs/verified.md, section 11.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from linflow.verified.descent import StepMarch
from linflow.verified.log_norm import greatest
from linflow.verified.rounding import UP, U, frobenius
from linflow.verified.smooth import ProductTube, cross


class ConvexDescentMarch(StepMarch):
    """State of a verified descent of a convex smooth loss."""

    def _arrive(self, weights: list[np.ndarray]) -> None:
        self.weights = weights
        self.tube = ProductTube(self.problem, weights, self.scale)
        self.gap = self.tube.gap(self.radius)
        self.slope = self.problem.loss_gradient(weights, np.zeros(len(weights)), self.scale)

    def step(self, eta: float) -> tuple[list[np.ndarray], float]:
        """Return the next iterate, and a bound of the rounding of the step, without that of the sum."""
        _, _, gradients, errors = self.slope
        new = [W - eta * g for W, g in zip(self.weights, gradients, strict=True)]
        rounding = (float(e) + 2 * U * float(frobenius(g)) for g, e in zip(gradients, errors, strict=True))
        return new, eta * math.hypot(*rounding)

    def growth(self, eta: float) -> float:
        """Return `max(1 + ηm, ηM − 1)` on the ball of the radius around the iterate."""
        L = len(self.weights)
        _, curvature, motion = self.tube.sizes(self.radius)
        C = np.zeros((L, L))
        if L > 1:
            G, G_error, _, _ = self.slope
            here = cross([W[None] for W in self.weights], np.zeros((L, 1)), G[None], G_error)
            more = self.tube.moved(self.radius)
            for i, j in itertools.combinations(range(L), 2):
                (x, mid), (x_more, mid_more) = here[i, j], more[i, j]
                C[i, j] = C[j, i] = (x[0] + x_more) * (mid[0] + mid_more) * UP
        m = greatest(C)
        M = (curvature * motion * motion + m) * UP
        return max(1 + eta * m, eta * M - 1) * UP
