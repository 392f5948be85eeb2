"""Regression on coefficients that are a linear function of the product: sensing, diagonal and circular networks."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, namespace, norm, to_numpy
from linflow._support.words import plural
from linflow.model.network import Network
from linflow.model.objectives import Objective

STRUCTURE = 1e-10
"""Relative size of the part of a layer outside the structure that counts as rounding."""


@dataclass(frozen=True)
class Chains:
    """A network that is nothing but scalar chains `p_i = Π_l w_{l,i}`, and a regression on their products.

    Attributes:
        layers: the weights, shape `(L, k)`.
        inputs: A, shape `(N, k)`: the predictions are `A p`.
        costs: `c_i > 0`: each chain moves by `ẇ_{l,i} = −κ Π_{k≠l} w_{k,i} (Aᵀ(Ap − y))_i / c_i`.
        basis: shape `(d, k)`: the coefficients are `basis @ p`.
        speed: κ, one number.
        opposite: whether the second half of A is the negative of the first.
    """

    layers: np.ndarray
    inputs: np.ndarray
    costs: np.ndarray
    basis: np.ndarray
    speed: float
    opposite: bool = False


class CoefficientRegression(Objective):
    """Regression `½‖y − Xβ(W)‖²` on `β(W) = B vec(W)`, with `B Bᵀ = I/t`.

    Constants: `K = σ_max²(X)/t` and `γ = 2σ_r²(X)/t`, r the rank of X. Subclasses give `coefficients` and its
    transpose `_spread`.
    """

    derived = True
    convex = True

    def __init__(self, X: Any, y: Any, parts: float):
        """Check the data; `parts` is `1/t`, and `shape` is set."""
        X, note = checks.matrix(X, "X")
        if np.ndim(y) == 1:
            y = y[:, None] if hasattr(y, "shape") else [[each] for each in y]
        y, note_y = checks.matrix(y, "y", (None, 1))
        namespace(X, y)
        if X.shape[0] != y.shape[0]:
            raise ValueError(
                f"X has {plural(X.shape[0], 'row')} and y has {y.shape[0]}; both need one row per sample."
            )
        s = np.linalg.svd(to_numpy(X), compute_uv=False)
        rank = int(np.sum(s > max(X.shape) * EPS * s[0]))
        if rank == 0:
            raise ValueError("X is zero; its columns are the inputs.")
        beta = np.linalg.lstsq(to_numpy(X), to_numpy(y), rcond=max(X.shape) * EPS)[0]
        self.X, self.y, self.rank = X, y, rank
        self._best = from_numpy(beta, X)
        left_over = norm(y - X @ self._best)
        self.minimum = 0.5 * left_over * left_over
        self.smoothness, self.strong_convexity = parts * float(s[0]) ** 2, 0.0
        self.pl_constant = 2 * parts * float(s[rank - 1]) ** 2
        self.notes = tuple(one for one in (note, note_y) if one)

    @abstractmethod
    def coefficients(self, W: Network | Array) -> Array:
        """Return β, shape `(d,)`, of a network or of a product."""

    @abstractmethod
    def _spread(self, g: Array) -> Array:
        """Return the gradient in W, from that in β, a column."""

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        return self.gap(W) + self.minimum

    def gap(self, W: Array) -> float:
        """Return `f(W) − f* = ½‖X(β − β*)‖²`, without cancellation."""
        away = norm(self.X @ (self.coefficients(W)[:, None] - self._best))
        return 0.5 * away * away

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W)`, from `XᵀX(β − β*)`."""
        return self._spread(self.X.T @ (self.X @ (self.coefficients(W)[:, None] - self._best)))

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f[V]`, which does not depend on W."""
        return self._spread(self.X.T @ (self.X @ self.coefficients(V)[:, None]))

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding: `½K (4ε (c Π‖W_l‖_F + ‖W*‖_F))²`."""
        size = 4 * EPS * (network.magnitude() + norm(self.minimizer))
        return 0.5 * self.smoothness * size * size

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `∇f(W)`: `4εK (c Π‖W_l‖_F + ‖W*‖_F)`."""
        return 4 * EPS * self.smoothness * (network.magnitude() + norm(self.minimizer))


class ChainRegression(CoefficientRegression):
    """Regression on coefficients of layers of a structure that the flow keeps, such as diagonal ones.

    Subclasses give the scalar chains of such layers.
    """

    @abstractmethod
    def chains(self, network: Network) -> Chains:
        """Return the scalar chains of a network; ValueError if it is not made of them."""

    @abstractmethod
    def modes(self, network: Network) -> np.ndarray:
        """Return the weights of the chains that the layers are, shape `(L, k)`: diagonals, or spectra of filters.

        Raises:
            ValueError: a layer does not have the structure exactly. Rounding may grow along a flow, so what the
                structure conserves holds for exact layers only, such as those of `start`.
        """

    @property
    def opposite(self) -> bool:
        """Whether the second half of the chains have the exposures of the first, negated."""
        return False


def within(layers: list[np.ndarray], structured: list[np.ndarray], what: str) -> None:
    """Raise ValueError unless each layer is its structured part, to rounding."""
    for l, (W, S) in enumerate(zip(layers, structured, strict=True), 1):
        if W.shape != S.shape or np.linalg.norm(W - S) > STRUCTURE * np.linalg.norm(W):
            raise ValueError(f"W_{l} is not {what}; the chains of the flow are known for {what} layers only.")


def exactly(layers: list[np.ndarray], structured: list[np.ndarray], what: str) -> None:
    """Raise ValueError unless each layer is its structured part, to the last bit."""
    for l, (W, S) in enumerate(zip(layers, structured, strict=True), 1):
        if not np.array_equal(W, S):
            away = "" if W.shape != S.shape else f": an entry is {np.abs(W - S).max():.2g} away"
            raise ValueError(f"W_{l} is not exactly {what}{away}; start() makes layers that are")
