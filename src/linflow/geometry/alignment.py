"""How far a network is aligned with the spectrum that it learns first, and its layers with each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, to_numpy
from linflow.model.fitting import fitted
from linflow.model.network import Network
from linflow.model.objectives import Objective


@dataclass(frozen=True)
class SpectralAlignment:
    """Sines of the principal angles between subspaces of leading singular vectors, greatest first.

    Attributes:
        left: between the left ones of the product and of `−∇f(0)`, shape `(rank,)`.
        right: between the right ones, shape `(rank,)`.
        between: the greatest sine between the right ones of `W_l` and the left ones of `W_{l+1}`, shape `(L−1,)`;
            NaN where a layer has no r leading vectors.
        rank: how many singular vectors are leading.
    """

    left: Array
    right: Array
    between: Array
    rank: int

    @property
    def sine(self) -> float:
        """The greatest sine between the product and `−∇f(0)`: 0 is aligned, 1 is orthogonal."""
        return max(float(self.left[0]), float(self.right[0]))

    def __repr__(self) -> str:
        return f"SpectralAlignment(rank {self.rank}, sine {self.sine:.4g})"


def alignment(objective: Objective, network: Network | Sequence[Any], rank: int = 1) -> SpectralAlignment:
    """Return how far the product is aligned with `−∇f(0)`, whose singular vectors a small start learns first.

    While the weights are small, `∇f(W) ≈ ∇f(0)`. The flow of two layers is then linear, and the leading singular
    vectors of `−∇f(0)` (of Y, for matrix factorization) grow fastest: a small start is a power method. Let `U_r` be
    the r leading left singular vectors of one matrix and `Û_r` those of the other. The sines are the singular values
    of `(I − U_r U_rᵀ) Û_r`.

    Args:
        objective: f.
        network: a `Network` or its weights, such as `run.network_at(t)`.
        rank: r, the number of leading singular vectors.

    Returns:
        A `SpectralAlignment`, with arrays of the kind of the weights.

    Raises:
        ValueError: the r-th singular value of the product or of `−∇f(0)` equals the next one to rounding, so the r
            leading vectors are not determined.

    Source: Stöger & Soltanolkotabi (NeurIPS 2021); for layers with each other Ji & Telgarsky (ICLR 2019).

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
        >>> run = lf.gradient_flow(f, lf.init.small((2, 2, 2), 1e-4, rng=0), until=0.5)
        >>> lf.alignment(f, run.start), lf.alignment(f, run.final)
        (SpectralAlignment(rank 1, sine 0.9712), SpectralAlignment(rank 1, sine 0.003962))
    """
    net = fitted(objective, network)
    rank = checks.count(rank, "rank")
    most = min(*net.shape, *net.widths)
    if rank > most:
        raise ValueError(f"rank is {rank}; this network has products of rank {most} at most.")
    product = net.product()
    first = _leading(to_numpy(objective.gradient(0.0 * product)), rank, "−∇f(0)", "")
    now = _leading(to_numpy(product), rank, "the product", "; run the flow for a while, or ask for another rank")
    pairs = []
    for A, B in itertools.pairwise(net.weights):
        try:
            right, left = (_leading(to_numpy(W), rank, "a layer", "") for W in (A, B))
            pairs.append(_sines(right[1], left[0])[0])
        except ValueError:
            pairs.append(np.nan)
    left, right = (_sines(a, b) for a, b in zip(first, now, strict=True))
    like = net.weights[0]
    return SpectralAlignment(from_numpy(left, like), from_numpy(right, like), from_numpy(np.array(pairs), like), rank)


def _leading(A: np.ndarray, rank: int, what: str, then: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading left and right singular vectors of A."""
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    following = s[rank] if rank < len(s) else 0.0
    if not s[rank - 1] - following > 8 * EPS * s[0]:  # about the rounding of a singular value
        raise ValueError(
            f"the singular value {rank} of {what} is {s[rank - 1]:.3g}, and the next one is {following:.3g}: "
            f"which vectors lead is not determined{then or '; ask for another rank'}."
        )
    return U[:, :rank], Vt[:rank].T


def _sines(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return the sines of the principal angles between the spans of orthonormal columns, greatest first."""
    return np.linalg.svd(B - A @ (A.T @ B), compute_uv=False)
