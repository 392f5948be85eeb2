"""Imbalance `D_l = W_lᵀW_l − W_{l+1}W_{l+1}ᵀ`, conserved by the gradient flow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, device, eigenvalues, from_numpy, namespace, norm
from linflow._support.words import many
from linflow.model.network import Network


def imbalance_matrices(network: Network | Sequence[Any]) -> list[Array]:
    """Return `[D_1, …, D_{L-1}]`, `D_l = W_lᵀW_l − W_{l+1}W_{l+1}ᵀ` of shape `(h_l, h_l)`.

    Source: Arora et al. 2018; Du, Hu & Lee 2018 (conservation).

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.imbalance_matrices([np.array([[2.0]]), np.array([[1.0]])])
        [array([[3.]])]
    """
    weights = Network.of(network).weights
    return [A.T @ A - B @ B.T for A, B in itertools.pairwise(weights)]


def imbalance_eigenvalues(network: Network | Sequence[Any], layer: int = 1) -> Array:
    """Return the `h_l` eigenvalues of `D_l`, descending, without forming an h×h matrix when `h_l` is large.

    `D_l` has rank at most `r = h_{l-1} + h_{l+1}`. With the QR factorisation `[W_lᵀ W_{l+1}] = QR` its nonzero
    eigenvalues are those of the r×r matrix `R diag(I, −I) Rᵀ`; the other `h_l − r` are exactly zero.
    """
    weights = Network.of(network).weights
    layer = checks.count(layer, "layer")
    if layer >= len(weights):
        raise ValueError(
            f"layer is {layer}, but {many(len(weights), 'layer', 'have')} imbalances D_1 to "
            f"D_{len(weights) - 1} only."
        )
    A, B = weights[layer - 1].T, weights[layer]
    return signed_gram_eigenvalues([(1.0, A), (-1.0, B)])


def signed_gram_eigenvalues(terms: Sequence[tuple[float, Array]]) -> Array:
    """Return the eigenvalues, descending, of `Σ s_i A_i A_iᵀ` (h×h) by a QR of `[A_1 A_2 …]` when that is thin."""
    xp, h = namespace(*(A for _, A in terms)), terms[0][1].shape[0]
    nonzero = eigenvalues(_signed_gram(terms))
    zeros = xp.zeros(h - nonzero.shape[0], dtype=nonzero.dtype, device=device(nonzero))
    return xp.flip(xp.sort(xp.concat([nonzero, zeros]))) if zeros.shape[0] else nonzero


def _signed_gram(terms: Sequence[tuple[float, Array]]) -> Array:
    """Return `Σ s_i A_i A_iᵀ` (h×h), or where that is smaller an r×r matrix of the same nonzero eigenvalues."""
    xp = namespace(*(A for _, A in terms))
    h, r = terms[0][1].shape[0], sum(A.shape[1] for _, A in terms)
    if h <= r:
        return sum(s * (A @ A.T) for s, A in terms)
    R = xp.linalg.qr(xp.concat([A for _, A in terms], axis=1)).R
    signs = from_numpy(np.concatenate([np.full(A.shape[1], s) for s, A in terms]), R)
    return (R * signs) @ R.T


@dataclass(frozen=True, repr=False)
class ImbalanceSpectrum:
    """Spectrum of one imbalance matrix with the three numbers that fix the two-layer rate.

    Attributes:
        eigenvalues: of `D`, descending, length h.
        positive_spread: `Δ₊ = [λ_1(D)]_+ − [λ_n(D)]_+`.
        negative_spread: `Δ₋ = [λ_1(−D)]_+ − [λ_m(−D)]_+`.
        gap: `Δ = [λ_n(D)]_+ + [λ_m(−D)]_+`.

    Source: Min, Tarmoun, Vidal & Mallada (arXiv 2105.06351), section 3.
    """

    eigenvalues: Array
    positive_spread: float
    negative_spread: float
    gap: float

    def __repr__(self) -> str:
        return (
            f"ImbalanceSpectrum(gap={self.gap:.4g}, positive_spread={self.positive_spread:.4g}, "
            f"negative_spread={self.negative_spread:.4g}, {many(self.eigenvalues.shape[0], 'eigenvalue')})"
        )


def imbalance_spectrum(network: Network | Sequence[Any], layer: int = 1) -> ImbalanceSpectrum:
    """Return eigenvalues, spreads and gap of `D_layer`, with n and m the sides of the product.

    Args:
        network: a `Network` or its weights, at least two layers.
        layer: `l` in `1 … L − 1`.

    Raises:
        ValueError: no such layer.

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.imbalance_spectrum([np.diag([2.0, 1.0]), np.zeros((2, 2))])
        ImbalanceSpectrum(gap=1, positive_spread=3, negative_spread=0, 2 eigenvalues)
    """
    net = Network.of(network)
    values = imbalance_eigenvalues(net, layer)
    n, m = net.shape
    negated = -namespace(values).flip(values)
    top_p, n_th = positive_part(values, 1), positive_part(values, n)
    top_m, m_th = positive_part(negated, 1), positive_part(negated, m)
    # A part that is 0 may have a sign, which nothing that is shown should.
    spreads = float(top_p - n_th) + 0.0, float(top_m - m_th) + 0.0
    return ImbalanceSpectrum(values, *spreads, float(n_th) + float(m_th) + 0.0)


def positive_part(values: Array, k: int) -> Array:
    """Return `[λ_k]_+` from eigenvalues in descending order, 0 past the size, as a 0-d array."""
    xp = namespace(values)
    if k > values.shape[0]:
        return values[0] * 0.0
    return xp.where(values[k - 1] > 0, values[k - 1], values[k - 1] * 0.0)


def imbalance_drift(network: Network | Sequence[Any], reference: Network | Sequence[Any]) -> float:
    """Return `max_l ‖D_l − D_l(reference)‖_F`, to rounding, without forming h×h matrices when h is large.

    Example:
        >>> import numpy as np, linflow as lf
        >>> float(lf.imbalance_drift([np.ones((1, 1)) * 2, np.ones((1, 1))], [np.ones((1, 1))] * 2))
        3.0
    """
    now, start = Network.of(network).weights, Network.of(reference).weights
    drift = 0.0
    for l in range(len(now) - 1):
        change = _signed_gram([(1.0, now[l].T), (-1.0, now[l + 1]), (-1.0, start[l].T), (1.0, start[l + 1])])
        drift = max(drift, norm(change))
    return drift
