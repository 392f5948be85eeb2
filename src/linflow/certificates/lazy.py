"""The lazy regime: weights that need not move far nearly keep their initial T, whatever their imbalance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow._support.arrays import EPS, singular_values, to_numpy
from linflow.geometry.operator import DENSE_LIMIT, TangentOperator, tangent_rounding
from linflow.model.network import Network

GRID = 400


@dataclass(frozen=True)
class Neighbourhood:
    """Floors of `λ_min(T)` on balls around a start: `T ≥ floors[j]` for all weights within `radii[j]` of it.

    `E ↦ (c P_{l−1}ᵀ E S_{l+1}ᵀ)_l` has the least singular value `sqrt(λ_min(T))`. Weights at Euclidean distance R
    change it by at most `c ∫_0^R λ_max(C(s)) ds`, `C_ij(s) = Π_{k≠i,j} (‖W_k‖ + s)` with zero diagonal, and singular
    values are 1-Lipschitz: `κ(R) = [sqrt(λ_min(T(0))) − c ∫_0^R λ_max(C(s)) ds]_+²`. The integral is replaced by its
    upper sums on the radii. Proof: `docs/theory.md`.

    Attributes:
        radii: increasing from 0 to a radius at which the floor is 0 (inf for one layer).
        floors: κ at the radii, falling from `λ_min(T(0))`.
    """

    radii: np.ndarray
    floors: np.ndarray

    @classmethod
    def of(cls, network: Network) -> Neighbourhood:
        """Return the floors around a network, at 400 radii that are densest near 0."""
        c, root = network.scale, math.sqrt(least_floor(network))
        norms = spectral_norms(network)
        slope = c * interaction(norms[:, None])[0]
        if root == 0.0 or not slope > 0.0:  # one layer (T is constant), or all zero (no floor)
            end = math.inf if len(norms) == 1 else 0.0
            return cls(np.array([0.0, end]), np.array([root**2, root**2]))
        radii = (np.arange(GRID + 1) / GRID) ** 2 * (root / slope)
        slopes = c * interaction(norms[:, None] + radii)
        change = np.concatenate([[0.0], np.cumsum(np.diff(radii) * slopes[1:])])
        return cls(radii, np.maximum(root - change, 0.0) ** 2)

    def floor_and_reach(self, travelled: float, fall: float) -> tuple[float, float]:
        """Return a floor `a` of λ_min(T) kept while `sqrt(γ)·sqrt(ℓ)` falls by `fall`, and the path length then.

        Under `λ_min(T) ≥ a` the fall takes a path of at most `2 fall / sqrt(a)` (Łojasiewicz, in units where γ = 1).
        The floor must hold on the ball that contains the path. Returns `(0, inf)` if no ball is large enough.
        """
        needed = travelled + 2 * fall / self._roots
        enough = needed <= self.radii[: len(needed)]
        j = int(enough.argmax()) if enough.size else 0
        if not enough.size or not enough[j]:
            return 0.0, math.inf
        return float(self.floors[j]), float(needed[j])

    @cached_property
    def _roots(self) -> np.ndarray:
        """The square roots of the positive floors, which come first."""
        return np.sqrt(self.floors[: np.count_nonzero(self.floors > 0)])


def least_floor(network: Network) -> float:
    """Return a lower bound on `λ_min(T)` at exactly these weights, with rounding allowed for.

    It is the eigenvalue itself if T is small enough to form or has at most two terms. Otherwise it is the smaller
    `Σ λ_n(P P ᵀ) λ_m(SᵀS)`.
    """
    n, m = network.shape
    if network.depth <= 2 or n * m <= DENSE_LIMIT:
        value = float(TangentOperator(network).least_eigenvalue())
    else:
        value = network.scale**2 * sum(
            _least(P, n, left=True) * _least(S, m, left=False)
            for P, S in zip(network.prefixes(), network.suffixes(), strict=True)
        )
    return max(0.0, value - tangent_rounding(network))


def _least(factor, side: int, *, left: bool) -> float:
    """Return the least eigenvalue of `P Pᵀ` (or `SᵀS`), 1 for an empty product."""
    if factor is None:
        return 1.0
    if factor.shape[0 if left else 1] > factor.shape[1 if left else 0]:
        return 0.0
    return float(to_numpy(singular_values(factor))[side - 1]) ** 2


def spectral_norms(network: Network) -> np.ndarray:
    """Return upper bounds on `‖W_1‖, …, ‖W_L‖`: the computed norms, raised by their rounding."""
    return np.array([float(singular_values(W)[0]) * (1 + 16 * EPS * max(W.shape)) for W in network.weights])


def interaction(norms: np.ndarray) -> np.ndarray:
    """Return `λ_max(C)`, `C_ij = Π_{k≠i,j} x_k` with zero diagonal, for each column x of `norms`."""
    L, count = norms.shape
    C = np.zeros((count, L, L))
    for i in range(L):
        for j in range(i):
            C[:, i, j] = C[:, j, i] = products_without(norms, i, j)
    return greatest_eigenvalues(C)


def greatest_eigenvalues(C: np.ndarray) -> np.ndarray:
    """Return the greatest eigenvalue of each symmetric matrix, non-negative with zero diagonal; inf if not finite."""
    count, L, _ = C.shape
    if L <= 2:
        return C[:, 0, -1]
    found = np.full(count, math.inf)
    finite = np.isfinite(C).all(axis=(1, 2))
    found[finite] = np.linalg.eigvalsh(C[finite])[:, -1]
    return found


def products_without(norms: np.ndarray, *skipped: int) -> np.ndarray:
    """Return the product over all rows except the skipped ones, for each column."""
    return np.prod(np.delete(norms, skipped, axis=0), axis=0)
