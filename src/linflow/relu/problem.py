"""A regression and a start, in units in which their numbers are near 1, with the rounding of what is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from linflow._support.arrays import EPS, norm
from linflow.relu.layers import TwoLayers
from linflow.relu.network import Network

TINY = 1e-290
"""Allowed in every computed pre-activation besides its relative error: products below it lose digits."""
LARGEST = 1e140
"""The largest residual in these units that is looked at: its square and small multiples stay within float64."""


class Problem(Protocol):
    """A loss of the outputs of a network on given inputs."""

    @property
    def X(self) -> np.ndarray: ...  # noqa: D102
    @property
    def Y(self) -> np.ndarray: ...  # noqa: D102
    @property
    def minimum(self) -> float: ...  # noqa: D102
    def value(self, Z: np.ndarray) -> float: ...  # noqa: D102
    def gradient(self, Z: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def loss(self, net: TwoLayers) -> float: ...  # noqa: D102
    def scale(self, gap: float) -> float: ...  # noqa: D102
    def rounding(self, net: TwoLayers) -> float: ...  # noqa: D102


@dataclass(frozen=True, repr=False)
class Regression:
    """`L = ½‖σ(XU)V − Y‖_F²`, the loss as a function of the network.

    Attributes:
        X: inputs without the column of ones, shape `(N, d)`.
        Y: targets, shape `(N, m)`.
        minimum: 0: the gap of a certificate is the loss itself.
        derived: True: nothing about this loss is declared, all of it is known.
        notes: how the data were converted.
    """

    X: np.ndarray
    Y: np.ndarray
    minimum: float = 0.0
    derived: bool = True
    notes: tuple[str, ...] = ()

    def value(self, Z: np.ndarray) -> float:
        """Return the loss of outputs, `½‖Z − Y‖_F²`."""
        size = norm(Z - self.Y)
        return 0.5 * size * size

    def gradient(self, Z: np.ndarray) -> np.ndarray:
        """Return the derivative of the loss by the outputs, the residual `R = Z − Y`."""
        return Z - self.Y

    def loss(self, net: TwoLayers) -> float:
        """Return the loss of a network."""
        return self.value(net.outputs(self.X))

    def scale(self, gap: float) -> float:
        """Return the size of the loss that its rounding is relative to: `‖Y‖²`, or the loss if that is larger."""
        return max(gap, norm(self.Y) ** 2)

    def residual_error(self, net: TwoLayers) -> float:
        """Return a bound on the error of the computed residual, in norm."""
        return norm(net.output_error(self.X) + EPS * np.abs(self.Y))

    def rounding(self, net: TwoLayers) -> float:
        """Return the error of the loss near its minimum: half the square of the error of the residual."""
        error = self.residual_error(net)
        return 0.5 * error * error


@dataclass(frozen=True, repr=False)
class Start:
    """A start of the squared loss in its own units: `X = p X'`, `U = a U'`, `V = a V'`, `Y = p a² Y'`.

    p and a are powers of two, so that nothing is rounded. Then `R = p a² R'`, `H = (p a)² H'`, and the flow is that
    of the primed problem at a time `(p a)²` larger. Every attribute but `problem` and `net` is primed.

    Attributes:
        problem: the regression, as given.
        net: the start, as given.
        X, U, V, Y: the data and weights, the bias included in X and U.
        radius: the weights at the start are known up to this distance; everything below holds for all of them.
    """

    problem: Regression
    net: Network
    X: np.ndarray
    U: np.ndarray
    V: np.ndarray
    Y: np.ndarray
    input_power: int
    weight_power: int
    radius: float = 0.0

    @classmethod
    def of(cls, problem: Regression, net: Network, radius: float = 0.0) -> Start:
        """Return the start in its own units."""
        X, U, V = net.inputs(problem.X), net.extended, net.V
        p, a = _power(np.abs(X).max()), _power(max(np.abs(U).max(), np.abs(V).max()))
        with np.errstate(over="ignore", under="ignore"):
            Y = np.ldexp(np.ldexp(problem.Y, -p), -2 * a)
            own = math.ldexp(radius, -a)
            return cls(problem, net, np.ldexp(X, -p), np.ldexp(U, -a), np.ldexp(V, -a), Y, p, a, own)

    @property
    def slope(self) -> float:
        """The slope of σ left of 0."""
        return self.net.slope

    @property
    def rate_power(self) -> int:
        """H is `2^rate_power` times that of these units."""
        return 2 * (self.input_power + self.weight_power)

    @cached_property
    def unfit(self) -> str:
        """The reason why these numbers cannot be handled in float64, or why no rate can hold; "" if neither is so."""
        if not (np.abs(self.X).max() > 0 and max(np.abs(self.U).max(), np.abs(self.V).max()) > 0):
            return "all inputs, or all weights, are 0: nothing moves"
        empty = np.flatnonzero(~self.X.any(axis=1))
        if empty.size:
            return f"row {empty[0] + 1} of X is 0, where the output is 0 for ever; leave it out, or use a bias"
        if not np.abs(self.Y).max() * math.sqrt(self.Y.size) < LARGEST:
            return "the targets are more than float64 can square beside such weights; rescale them"
        power = 2 * self.input_power + 4 * self.weight_power
        if max(abs(self.rate_power), abs(power)) > 900:
            return f"the loss or the rate is about 2^{power} or 2^{self.rate_power}, past float64; rescale the data"
        return "" if 0 < self.residual < math.inf else "the residual is 0"

    @cached_property
    def z(self) -> np.ndarray:
        """Pre-activations `XU`, shape `(N, h)`."""
        return self.X @ self.U

    @cached_property
    def z_error(self) -> np.ndarray:
        """How far each computed pre-activation may be from its true value."""
        rounding = (len(self.U) + 8) * EPS * (np.abs(self.X) @ np.abs(self.U)) + TINY
        return rounding + self.radius * (1 + (len(self.U) + 8) * EPS) * self.lengths[:, None]

    @cached_property
    def features(self) -> np.ndarray:
        """`Φ = σ(XU)`, shape `(N, h)`; off by at most `z_error`, as σ is 1-Lipschitz."""
        return self.net.activate(self.z)

    @cached_property
    def residual(self) -> float:
        """An upper bound on `‖R‖_F`."""
        R = self.features @ self.V - self.Y
        d, h = self.U.shape
        off = (h + 16) * EPS * (np.abs(self.features) @ np.abs(self.V)) + self.z_error @ np.abs(self.V)
        # The columns of off hold what a change of U alone does; one of V, and of both, is added.
        moved = self.radius * (norm(self.features) + norm(self.z_error))
        return (norm(R) + norm(off + EPS * np.abs(self.Y) + TINY) + moved) * (1 + (R.size + d) * EPS)

    @cached_property
    def lengths(self) -> np.ndarray:
        """`‖x_i‖`, shape `(N,)`, computed."""
        return np.linalg.norm(self.X, axis=1)

    @cached_property
    def cosines(self) -> np.ndarray:
        """`⟨x_i, x_l⟩/(‖x_i‖‖x_l‖)`, shape `(N, N)`: `K` scaled to a unit diagonal, off by `cosine_error`."""
        unit = self.X / self.lengths[:, None]
        C = unit @ unit.T
        np.fill_diagonal(C, 1.0)
        return C

    @cached_property
    def cosine_error(self) -> float:
        """A bound on `|K_il − C_il ‖x_i‖‖x_l‖|/(‖x_i‖‖x_l‖)` for the computed cosines and lengths."""
        return (4 * self.X.shape[1] + 32) * EPS

    @cached_property
    def least_square(self) -> float:
        """A lower bound on `min_i ‖x_i‖²`."""
        return float(self.lengths.min()) ** 2

    @cached_property
    def kernel_ceiling(self) -> np.ndarray:
        """Upper bounds on `|K_il|`, shape `(N, N)`."""
        C = np.minimum(np.abs(self.cosines) + self.cosine_error, 1.0)
        return C * np.outer(self.lengths, self.lengths) * (1 + (self.X.shape[1] + 16) * EPS)

    @cached_property
    def input_norm(self) -> float:
        """An upper bound on `‖X‖`."""
        trace = float(np.sum(self.lengths**2))
        S = self.cosines * np.outer(self.lengths, self.lengths)
        return math.sqrt((float(greatest_ceiling(S)) + self.cosine_error * trace) * (1 + 16 * EPS))

    @cached_property
    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Upper bounds on `‖v_j‖` and `‖φ_j‖`, each of shape `(h,)`."""
        N, m = self.Y.shape
        v = np.linalg.norm(self.V, axis=1) * (1 + (m + 8) * EPS)
        f = np.linalg.norm(np.abs(self.features) + self.z_error, axis=0) * (1 + (N + 8) * EPS)
        return v + self.radius, f  # `z_error` holds what the radius does to the features

    @cached_property
    def twins(self) -> np.ndarray:
        """Neurons that come in pairs with equal `u_j` and opposite `v_j`, exactly, as a mask of shape `(h,)`."""
        found = np.zeros(self.net.width, dtype=bool)
        waiting: dict[tuple[bytes, bytes], list[int]] = {}
        U, V = self.net.extended.T + 0.0, self.net.V + 0.0  # −0 becomes 0
        for j in range(self.net.width) if self.radius == 0 else ():
            u, v = U[j].tobytes(), V[j].tobytes()
            others = waiting.get((u, (0.0 - V[j]).tobytes()))
            if others:
                found[[j, others.pop()]] = True
            else:
                waiting.setdefault((u, v), []).append(j)
        return found

    @cached_property
    def row_space_sizes(self) -> tuple[np.ndarray, float]:
        """Upper bounds on `‖Q u_j‖`, and how far Q is from holding every input: `‖(I − Q)x_i‖ ≤ off · ‖x_i‖`.

        Q is the projector on the row space of X if that is computed to be smaller than the whole, else I (off is 0).
        """
        N, d = self.X.shape
        total = np.linalg.norm(self.U, axis=0) * (1 + (d + 8) * EPS) + self.radius
        if d <= N:
            return total, 0.0
        basis = np.linalg.qr((self.X / self.lengths[:, None]).T)[0]
        error = 16 * d * N * EPS  # of the factors, column by column; the basis is off by as much
        return np.minimum(
            total, np.linalg.norm(basis.T @ self.U, axis=0) * (1 + (d + 8) * EPS) + error * total + self.radius
        ), error


def _power(x: float) -> int:
    """Return the exponent of a power of two near x; 0 for 0."""
    return math.frexp(float(x))[1] if x > 0 else 0


def greatest_ceiling(S: np.ndarray) -> np.ndarray:
    """Return an upper bound on the largest eigenvalue of each symmetric positive semidefinite or nonnegative matrix.

    The largest eigenvalue of a symmetric matrix of order n is computed to within about `n ε` of its norm, which for
    these matrices is that eigenvalue.
    """
    return np.linalg.eigvalsh(S)[..., -1] * (1 + 32 * S.shape[-1] * EPS)


def norm_ceiling(A: np.ndarray) -> float:
    """Return an upper bound on the spectral norm of a nonnegative matrix."""
    A = A if len(A) <= A.shape[1] else A.T
    return math.sqrt(float(greatest_ceiling(A @ A.T)) * (1 + (A.shape[1] + 8) * EPS))
