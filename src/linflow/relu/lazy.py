"""A floor of the least eigenvalue of H along the path, for smooth activations (docs/relu.md, section 11).

`H = JJᵀ` with the Jacobian J of the outputs. While the path is at most τ no neuron has moved far, so neither has J:
`√λ_min(H) ≥ σ_min(J(0)) − ‖J − J(0)‖`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow._support.arrays import EPS, norm
from linflow.relu.activations import ERROR
from linflow.relu.movement import FARTHEST, grown
from linflow.relu.problem import Regression, greatest_ceiling, norm_ceiling
from linflow.relu.smooth import SmoothNetwork

ROUNDS = 3
"""How often the bounds of the slopes are computed anew from the movement that they allow."""
LARGEST = 1e30
"""The largest entry of the inputs, the weights and the targets: the square of the residual stays within float64."""
TINY, ROOT, SMALLEST = 1e-290, 1e-150, 1e-260
"""Allowed for products below float64 and for roots of such squares; eigenvalues below SMALLEST count as 0."""


@dataclass(frozen=True, repr=False)
class Lazy:
    """The start of a smooth network, and what is known while the path is short. All bounds allow for rounding.

    Attributes:
        problem: the regression.
        net: the start.
    """

    problem: Regression
    net: SmoothNetwork

    @cached_property
    def unfit(self) -> str:
        """The reason why no rate can hold, or why float64 cannot tell; "" if neither is so."""
        parts = self.X, self.net.extended, self.net.V, self.problem.Y
        if not max(float(np.abs(part).max()) for part in parts) < LARGEST:
            return f"a number is above {LARGEST:g}: products of these leave float64; rescale the data"
        if not (self.X.any() and self.net.V.size):
            return "all inputs are 0"
        return "" if self.residual > 0 else "the residual is 0"

    @cached_property
    def X(self) -> np.ndarray:
        """The inputs, with the column of ones of a bias."""
        return self.net.inputs(self.problem.X)

    @cached_property
    def z(self) -> np.ndarray:
        """Pre-activations, shape `(N, h)`."""
        return self.X @ self.net.extended

    @cached_property
    def z_error(self) -> np.ndarray:
        """How far each may be from its true value."""
        return self.net.preactivation_error(self.problem.X) + TINY

    @cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """`Φ = φ(XU)` as computed, and bounds on its error."""
        activation = self.net.activation
        return activation.value(self.z), activation.steepest * self.z_error + activation.value_error(self.z) + TINY

    @cached_property
    def slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """`A = φ'(XU)` as computed, and upper bounds on `|A|`."""
        least, greatest = self.net.activation.slopes(self.z - self.z_error, self.z + self.z_error)
        return self.net.activation.slope(self.z), np.maximum(greatest, -least)

    @cached_property
    def kernel(self) -> np.ndarray:
        """Upper bounds on `|K_il|`, `K = XXᵀ`, shape `(N, N)`."""
        lengths = np.linalg.norm(self.X, axis=1)
        return np.abs(self.X @ self.X.T) + (self.X.shape[1] + 16) * EPS * np.outer(lengths, lengths) + TINY

    @cached_property
    def input_square(self) -> float:
        """An upper bound on `‖X‖²`."""
        return norm_ceiling_squared(self.X)

    @cached_property
    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Upper bounds on `‖v_j‖` and `‖φ_j‖`, each of shape `(h,)`."""
        features, error = self.features
        v = np.linalg.norm(self.net.V, axis=1) * (1 + (self.net.V.shape[1] + 8) * EPS) + ROOT
        return v, np.linalg.norm(np.abs(features) + error, axis=0) * (1 + (len(features) + 8) * EPS)

    @cached_property
    def residual(self) -> float:
        """An upper bound on `‖R‖_F`."""
        R = self.problem.gradient(self.net.outputs(self.problem.X))
        return (norm(R) + self.problem.residual_error(self.net)) * (1 + (R.size + 8) * EPS)

    @cached_property
    def first(self) -> float:
        """A lower bound on `σ_min` of the Jacobian that the computed Φ and A give, at least 0.

        `H = ΦΦᵀ ⊗ I + Σ_j D_{a_j}KD_{a_j} ⊗ v_jv_jᵀ`. Entry by entry the rounding is at most that of sums of `h + d`
        terms of sizes `√(H_pp H_qq)`; so it is a small part of the trace, in norm.
        """
        (features, _), (slopes, _), V = self.features, self.slopes, self.net.V
        (N, h), m, d = features.shape, V.shape[1], self.X.shape[1]
        rows = (slopes[:, None, :] * V.T).reshape(N * m, h)
        H = (rows @ rows.T).reshape(N, m, N, m) * (self.X @ self.X.T)[:, None, :, None]
        H[:, range(m), :, range(m)] += features @ features.T
        values = np.linalg.eigvalsh(H.reshape(N * m, N * m))
        off = (h + d + 32) * EPS * float(np.trace(H.reshape(N * m, N * m))) + 32 * N * m * EPS * values[-1]
        return math.sqrt(max(0.0, float(values[0]) - off - SMALLEST)) * (1 - 4 * EPS)

    def at(self, path: float) -> float:
        """Return a floor of `λ_min(H)`, at least 0, for all paths up to `path`."""
        moved = self.moved(path)
        if moved is None:
            return 0.0
        lost = math.hypot(*self.change(*moved)) * (1 + 4 * EPS)
        return max(0.0, self.first - lost) ** 2 * (1 - 4 * EPS)

    def moved(self, path: float) -> tuple[np.ndarray, ...] | None:
        """Return `c`, `M`, `κ`, `V` and `ε` of Lemma S at a path; None if they are beyond `FARTHEST`.

        The first bound of the slopes is that of φ' anywhere. Each round bounds them over the interval in which z is
        known to be by the bounds before; so every round is valid.
        """
        caps = np.full(self.z.shape, self.net.activation.steepest)
        known: tuple[np.ndarray, ...] | None = None
        for _ in range(ROUNDS):
            steep = np.max(caps, axis=0)
            rows = np.max(caps * (self.kernel @ caps), axis=0)
            kappa = np.minimum(steep**2 * self.input_square, rows) * (1 + (len(caps) + 16) * EPS) + TINY
            if not np.sqrt(kappa.max()) * path < FARTHEST:
                return known
            growth, second = grown(*self.sizes, kappa, path)
            reach = np.sqrt(self.kernel**2 @ caps**2) * (1 + (len(caps) + 16) * EPS) + ROOT
            moved = reach * growth * (1 + 4 * EPS)
            known = caps, moved, kappa, growth, second
            least, greatest = self.net.activation.slopes(self.z - self.z_error - moved, self.z + self.z_error + moved)
            caps = np.minimum(caps, np.maximum(greatest, -least))
        return known

    def change(
        self, caps: np.ndarray, moved: np.ndarray, kappa: np.ndarray, growth: np.ndarray, second: np.ndarray
    ) -> tuple[float, float]:
        """Return bounds on the change of the two parts of the Jacobian, of V and of U, from the computed ones."""
        features_error, (slopes, steep) = self.features[1], self.slopes
        E = caps * moved * (1 + 8 * EPS) + features_error
        joint = norm(kappa * growth) * (1 + (len(growth) + 8) * EPS) + norm(features_error)
        of_second = min(norm_ceiling(E), joint) * (1 + 8 * EPS)

        reach = self.z_error + moved
        least, greatest = self.net.activation.slopes(self.z - reach, self.z + reach)
        turned = np.maximum(greatest - slopes, slopes - least) + ERROR
        B = (turned * (self.sizes[0] + second) + steep * second) * (1 + 16 * EPS)
        together = float(greatest_ceiling((B @ B.T) * self.kernel))
        apart = self.input_square * float(np.max(np.sum(B**2, axis=1)))
        of_first = math.sqrt(min(together, apart) * (1 + (B.shape[1] + 16) * EPS))
        return of_second, of_first


def norm_ceiling_squared(A: np.ndarray) -> float:
    """Return an upper bound on `‖A‖²`: the greatest eigenvalue of the smaller Gram matrix, with its rounding."""
    A = A if len(A) <= A.shape[1] else A.T
    gram = A @ A.T
    return float(np.linalg.eigvalsh(gram)[-1]) + (A.shape[1] + 32 * len(A) + 16) * EPS * float(np.trace(gram))
