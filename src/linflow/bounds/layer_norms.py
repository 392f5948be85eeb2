"""Upper bounds on the size of each layer from the size of the product and the imbalances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow import _checks
from linflow._chain import chain_root
from linflow.bounds._base import Spectrum, rounded, spectra


def norms(Ds: Sequence[Any], product_norm: float) -> list[float]:
    """Upper bounds on `‖W_1‖², …, ‖W_L‖²` (spectral norms) for all weights with these imbalances and `‖W‖`.

    With `x = ‖W_L‖²`: `‖W‖² ≥ x Π_{l<L} (x + Σ_{k=l}^{L−1} λ_min(D_k))_+`, which bounds x from above; mirrored for
    `‖W_1‖²`. Neighbours follow from `‖W_l‖² ≤ ‖W_{l+1}‖² + λ_max(D_l)` and `‖W_{l+1}‖² ≤ ‖W_l‖² − λ_min(D_l)`.
    Proof: `docs/theory.md`. Attained by scalars.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues.
        product_norm: `‖W_1 ⋯ W_L‖`, or an upper bound on it.

    Returns:
        L floats.

    Raises:
        ValueError: a D not symmetric or not finite, or a negative norm.

    Source: this library, docs/theory.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> [round(x, 12) for x in lf.bounds.norms([np.array([[3.0]])], 2.0)]  # w = (2, 1): attained
        [4.0, 1.0]
    """
    product_norm = _checks.positive(product_norm, "product_norm", allow_zero=True)
    return [float(x) for x in layer_caps(rounded(spectra(Ds), product_norm), product_norm)]


def layer_caps(Ds: Sequence[Spectrum], product_norm: np.ndarray | float) -> np.ndarray:
    """Return the upper bounds for each `product_norm`, shape `(L, …)`; inf for an infinite one."""
    falls = np.array([float(D.upper[0]) for D in Ds])  # λ_max(D_l): how far ‖W_l‖² may exceed ‖W_{l+1}‖²
    rises = np.array([-float(D.lower[-1]) for D in Ds])  # λ_max(−D_l): the other way round
    bound = np.full((len(Ds) + 1, *np.shape(product_norm)), np.inf)
    bound[-1] = _outer(rises[::-1], product_norm)
    bound[0] = _outer(falls, product_norm)
    for l in range(len(Ds)):
        bound[l + 1] = np.minimum(bound[l + 1], np.maximum(0.0, bound[l] + rises[l]))
    for l in range(len(Ds) - 1, -1, -1):
        bound[l] = np.minimum(bound[l], np.maximum(0.0, bound[l + 1] + falls[l]))
    return bound


def _outer(steps: np.ndarray, product_norm: np.ndarray | float) -> np.ndarray:
    """Return the root of `Π (x − s_l) = ‖W‖²` above all s, the running sums of the steps from 0."""
    sums = np.concatenate([[0.0], np.cumsum(steps)])
    top = float(sums.max())
    return top + chain_root(top - sums, product_norm)
