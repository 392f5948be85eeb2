"""Between flips a ReLU network is a multi-linear model: its field on one pattern, and what happens at a kink."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from linflow._support.arrays import EPS, norm
from linflow.relu.layers import TwoLayers
from linflow.relu.network import Network
from linflow.relu.problem import Problem
from linflow.relu.smooth import SmoothNetwork

_NONE_HELD = np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty((0, 0))
ON, OFF, SLIDING = 1, -1, 0
"""How a neuron stands to a sample: `z > 0`; `z ≤ 0`; held at `z = 0` by forces from both sides."""
MOST_TOGETHER = 6
"""Up to so many samples at 0 of one neuron, all patterns are tried; beyond, samples are turned one by one."""


@dataclass(frozen=True, repr=False)
class Pattern:
    """How every neuron stands to every sample, `ON`, `OFF` or `SLIDING`, shape `(N, h)`."""

    sides: np.ndarray
    slope: float

    @cached_property
    def slopes(self) -> np.ndarray:
        """`a_ij`: 1, the slope, or 0 where the pair slides, for its z is 0."""
        return np.where(self.sides == ON, 1.0, np.where(self.sides == OFF, self.slope, 0.0))

    @cached_property
    def sliding(self) -> list[tuple[int, np.ndarray]]:
        """Every neuron with sliding samples, and these."""
        held = self.sides == SLIDING
        return [(int(j), np.flatnonzero(held[:, j])) for j in np.flatnonzero(held.any(axis=0))]

    def turned(self, samples: np.ndarray, neuron: int, sides: np.ndarray) -> Pattern:
        """Return the pattern with other sides for some samples of a neuron."""
        changed = self.sides.copy()
        changed[samples, neuron] = sides
        return replace(self, sides=changed)


@dataclass(frozen=True, repr=False)
class PiecePoint:
    """The flow at one instant, on one pattern.

    Attributes:
        gap: the loss.
        residual: `R`, the derivative of the loss by the outputs, shape `(N, m)`.
        forces: `a_ij (R v_j)_i`, shape `(N, h)`; `u̇_j = −Xᵀ forces_j`.
        pulls: `(R v_j)_i`, shape `(N, h)`.
        U_dot, V_dot: the velocities of the layers.
    """

    gap: float
    residual: np.ndarray
    forces: np.ndarray
    pulls: np.ndarray
    U_dot: np.ndarray
    V_dot: np.ndarray

    @property
    def speed(self) -> float:
        """`√(−L̇) = √(‖U̇‖² + ‖V̇‖²)`: squares may leave float64."""
        return math.hypot(norm(self.U_dot), norm(self.V_dot))

    @property
    def rate(self) -> float:
        """`−L̇/L`; inf where the loss is 0."""
        root = self.speed / math.sqrt(self.gap) if self.gap > 0 else math.inf
        return root * root  # a power past float64 would raise


class Field:
    """The gradient flow of a loss of `σ(XU)V` on a given pattern, for the vector `(U, V, τ)`, `τ̇ = ‖R‖`."""

    has_kinks = True

    def __init__(self, problem: Problem, net: TwoLayers, slope: float):
        self.problem, self.slope = problem, slope
        self.X = net.inputs(problem.X)
        self.K = self.X @ self.X.T
        self.shape = self.X.shape[1], net.width, net.V.shape[1]
        self._balancing: dict[bytes, np.ndarray] = {}
        self._last: tuple[Pattern | None, tuple[np.ndarray, np.ndarray, np.ndarray]] = (None, _NONE_HELD)

    def layers(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `U` and `V` of a vector, or of each row of a matrix."""
        d, h, m = self.shape
        return y[..., : d * h].reshape(*y.shape[:-1], d, h), y[..., d * h : -1].reshape(*y.shape[:-1], h, m)

    def vector(self, U: np.ndarray, V: np.ndarray, path: float = 0.0) -> np.ndarray:
        """Return the two layers and the path as one vector."""
        return np.concatenate([U.ravel(), V.ravel(), [path]])

    def z(self, y: np.ndarray) -> np.ndarray:
        """Return the pre-activations `XU` of a vector, or of each row of a matrix."""
        return self.X @ self.layers(y)[0]

    def z_noise(self, y: np.ndarray) -> np.ndarray:
        """Return the rounding of the pre-activations."""
        return (self.shape[0] + 8) * EPS * (np.abs(self.X) @ np.abs(self.layers(y)[0]))

    def at(self, y: np.ndarray, pattern: Pattern) -> PiecePoint:
        """Return the flow at a point. Sliding pairs get the slopes that keep their z at 0."""
        U, V = self.layers(y)
        features, Z, R, pulls, forces = self._acting(U, V, pattern)
        return PiecePoint(self.problem.value(Z), R, forces, pulls, -(self.X.T @ forces), -(features.T @ R))

    def velocity(self, y: np.ndarray, pattern: Pattern) -> np.ndarray:
        """Return `ẏ`."""
        U, V = self.layers(y)
        features, _, R, _, forces = self._acting(U, V, pattern)
        square = float(np.vdot(R, R))  # `norm` is slower, and needed only where squares leave float64
        size = math.sqrt(square) if 1e-290 < square < 1e290 else norm(R)
        return self.vector(-(self.X.T @ forces), -(features.T @ R), size)

    def sliding_forces(
        self, y: np.ndarray, pattern: Pattern
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return samples, neurons, forces f and pulls q of the sliding pairs: `a = f/q` must stay in `[slope, 1]`.

        For each row of a matrix y, f and q have a row.
        """
        samples, neurons, _ = self._held(pattern)
        found = [self._acting(*self.layers(one), pattern)[3:] for one in np.atleast_2d(y)]
        pulls, forces = (np.stack([one[k][samples, neurons] for one in found]) for k in (0, 1))
        return samples, neurons, forces.reshape(*y.shape[:-1], -1), pulls.reshape(*y.shape[:-1], -1)

    def _acting(self, U: np.ndarray, V: np.ndarray, pattern: Pattern) -> tuple[np.ndarray, ...]:
        """Return features, outputs, residual, pulls and forces."""
        slopes = pattern.slopes
        features = slopes * (self.X @ U)
        Z = features @ V
        R = self.problem.gradient(Z)
        pulls = R @ V.T
        forces = slopes * pulls
        samples, neurons, rows = self._held(pattern)
        if len(samples):
            forces[samples, neurons] = np.einsum("pn,np->p", rows, forces[:, neurons])
        return features, Z, R, pulls, forces

    def _held(self, pattern: Pattern) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return samples and neurons of the sliding pairs, and for each the row p of `f_ij = p · f_j`.

        f_j holds the forces on the other samples, and 0 on these; with `f_ij` these keep their z.
        """
        if pattern is not self._last[0]:
            samples, neurons = np.nonzero(pattern.sides == SLIDING)
            rows = np.empty((len(samples), len(self.K)))
            for j, S in pattern.sliding:
                rows[neurons == j] = self._balance(S)
            self._last = pattern, (samples, neurons, rows)
        return self._last[1]

    def _balance(self, S: np.ndarray) -> np.ndarray:
        """Return `−K_SS⁺ K_S·`, which takes the forces on the other samples to those on S that keep their z."""
        key = S.tobytes()
        if key not in self._balancing:
            self._balancing[key] = np.linalg.lstsq(self.K[np.ix_(S, S)], -self.K[S], rcond=None)[0]
        return self._balancing[key]

    def resolve(self, y: np.ndarray, pattern: Pattern, neuron: int, samples: np.ndarray) -> Pattern:
        """Return the pattern in which the flow goes on, for samples of a neuron that are at `z = 0` now.

        With slopes `a ∈ [s, 1]` there, `ż = g − K (a ∘ q)`. A solution has a = 1 where ż > 0, a = s where ż < 0, and
        any a where ż = 0 (Filippov). The pattern with a = s everywhere is taken if it is one, as PyTorch does.
        """
        trial = pattern.turned(samples, neuron, np.full(len(samples), OFF))
        point = self.at(y, trial)
        q, forces = point.pulls[samples, neuron], point.forces[:, neuron].copy()
        forces[samples] = 0.0
        g, K = -self.K[samples] @ forces, self.K[np.ix_(samples, samples)]
        noise = 64 * EPS * (np.abs(self.K[samples]) @ np.abs(point.pulls[:, neuron]))
        if len(samples) <= MOST_TOGETHER:
            tries = itertools.product((OFF, ON, SLIDING), repeat=len(samples))
            for sides in sorted(tries, key=lambda sides: (sides.count(SLIDING), sides.count(ON))):
                if self._consistent(np.array(sides), g, K, q, noise):
                    return pattern.turned(samples, neuron, np.array(sides))
        return pattern.turned(samples, neuron, self._one_by_one(g, K, q, noise))

    def _consistent(self, sides: np.ndarray, g: np.ndarray, K: np.ndarray, q: np.ndarray, noise: np.ndarray) -> bool:
        forces = np.where(sides == ON, q, np.where(sides == OFF, self.slope * q, 0.0))
        slides = sides == SLIDING
        if slides.any():
            balance = np.linalg.lstsq(K[np.ix_(slides, slides)], (g - K @ forces)[slides], rcond=None)[0]
            share = balance * np.sign(q[slides])
            size = np.abs(q[slides])
            if (share < self.slope * size).any() or (share > size).any() or (size == 0).any():
                return False
            forces[slides] = balance
        z_dot = g - K @ forces
        up, down = z_dot >= -noise, z_dot <= noise
        return bool(np.where(sides == ON, up, np.where(sides == OFF, down, up & down)).all())

    def _one_by_one(self, g: np.ndarray, K: np.ndarray, q: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return sides by turning on, one after the other, the sample that is pushed most from OFF to ON."""
        sides = np.full(len(g), OFF)
        for _ in range(len(g)):
            z_dot = g - K @ np.where(sides == ON, q, self.slope * q)
            pushed = np.where((sides == OFF) & (z_dot > noise), z_dot, 0.0)
            if not pushed.any():
                break
            sides[np.argmax(pushed)] = ON
        return sides


class SmoothField(Field):
    """The gradient flow of a loss of `φ(XU)V` with a smooth φ: one piece, whatever the pattern."""

    has_kinks = False

    def __init__(self, problem: Problem, net: SmoothNetwork):
        super().__init__(problem, net, 0.0)
        self.activation = net.activation

    def _acting(self, U: np.ndarray, V: np.ndarray, pattern: Pattern) -> tuple[np.ndarray, ...]:
        """Return features, outputs, residual, pulls and forces."""
        z = self.X @ U
        features = self.activation.value(z)
        Z = features @ V
        R = self.problem.gradient(Z)
        pulls = R @ V.T
        return features, Z, R, pulls, self.activation.slope(z) * pulls


def field_of(problem: Problem, net: Network | SmoothNetwork) -> Field:
    """Return the flow of a network of either kind."""
    return SmoothField(problem, net) if isinstance(net, SmoothNetwork) else Field(problem, net, net.slope)
