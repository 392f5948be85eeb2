"""Imbalance `D_l = W_lᵀW_l − W_{l+1}W_{l+1}ᵀ`, which the gradient flow conserves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from linflow._support import checks
from linflow._support.arrays import Array, norm
from linflow._support.words import plural
from linflow.model.network import Network
from linflow.model.spectrum import ImbalanceSpectrum, signed_gram, signed_gram_eigenvalues


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
    """Return the `h_l` eigenvalues of `D_l`, descending, without forming an h×h matrix if `h_l` is large.

    `D_l` has rank at most `r = h_{l-1} + h_{l+1}`. With the QR factorisation `[W_lᵀ W_{l+1}] = QR`, its nonzero
    eigenvalues are those of the r×r matrix `R diag(I, −I) Rᵀ`. The other `h_l − r` eigenvalues are exactly zero.
    """
    weights = Network.of(network).weights
    layer = checks.count(layer, "layer")
    if layer >= len(weights):
        raise ValueError(
            f"layer is {layer}, but {plural(len(weights), 'layer', 'have')} imbalances D_1 to "
            f"D_{len(weights) - 1} only."
        )
    A, B = weights[layer - 1].T, weights[layer]
    return signed_gram_eigenvalues([(1.0, A), (-1.0, B)])


def imbalance_spectrum(network: Network | Sequence[Any], layer: int = 1) -> ImbalanceSpectrum:
    """Return the eigenvalues, spreads and spectral gap of `D_layer`.

    Args:
        network: a `Network` or its weights, with at least two layers.
        layer: `l` in `1 … L − 1`.

    Raises:
        ValueError: there is no such layer.

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.imbalance_spectrum([np.diag([2.0, 1.0]), np.zeros((2, 2))])
        ImbalanceSpectrum(spectral_gap=1, positive_spread=3, negative_spread=0, 2 eigenvalues)
    """
    net = Network.of(network)
    return ImbalanceSpectrum.of(imbalance_eigenvalues(net, layer), *net.shape)


def imbalance_drift(network: Network | Sequence[Any], reference: Network | Sequence[Any]) -> float:
    """Return `max_l ‖D_l − D_l(reference)‖_F`, to rounding, without forming h×h matrices if h is large.

    Example:
        >>> import numpy as np, linflow as lf
        >>> float(lf.imbalance_drift([np.ones((1, 1)) * 2, np.ones((1, 1))], [np.ones((1, 1))] * 2))
        3.0
    """
    now, start = Network.of(network).weights, Network.of(reference).weights
    drift = 0.0
    for l in range(len(now) - 1):
        change = signed_gram([(1.0, now[l].T), (-1.0, now[l + 1]), (-1.0, start[l].T), (1.0, start[l + 1])])
        drift = max(drift, norm(change))
    return drift
