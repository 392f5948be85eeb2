"""Floors of `λ_min(T)` from the imbalances and the product, for any depth and shape, with all rounding proved.

The chain of scalars below the layers needs the root of a polynomial. The root is computed as usual and then checked:
any x with `Π(x + c_l) ≤ σ²` is at most the root. Proof: docs/verified.md, section 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from linflow.bounds._base import Spectrum
from linflow.bounds.any_imbalance import prefix_floors
from linflow.model.scalar_chain import chain_offsets, chain_root
from linflow.verified.rounding import DOWN, U

LOWER = 1 - 4e-12
"""Factor on a computed root, which is thereby below the exact one by more than the check of it needs."""

LEAST = 1e-290
"""A smaller number counts as 0, so that nothing rounds by more than its share."""


def chain_floors(spectra: Sequence[Spectrum], n: int, m: int, sigma: np.ndarray) -> np.ndarray:
    """Return floors of `λ_min(T)` at scale 1 for all weights with these imbalances and `σ_min(W) ≥ sigma`.

    Args:
        spectra: bounds on the eigenvalues of `D_1, …, D_{L−1}`, with room for the rounding of sums of them.
        n: rows of the product.
        m: columns of the product.
        sigma: lower bounds on the least singular value of the product, shape `(N,)`.
    """
    mirrored = [D.negated() for D in reversed(spectra)]
    left, right = _imbalance_alone(spectra, n), _imbalance_alone(mirrored, m)
    if all(D.size >= min(n, m) for D in spectra):
        if n <= m:
            left = np.maximum(left, prefix_products([float(D.lower[-1]) for D in spectra], sigma))
        if m <= n:
            right = np.maximum(right, prefix_products([float(D.lower[-1]) for D in mirrored], sigma))
    total = np.sum(left * right[::-1], axis=0) * DOWN + 0.0 * sigma
    return np.where(total >= LEAST, total, 0.0)


def _imbalance_alone(spectra: Sequence[Spectrum], n: int) -> np.ndarray:
    """Return floors of `λ_n(P_lP_lᵀ)` from the imbalances alone, shape `(L, 1)`; 0 from the first tiny one on."""
    floors = np.array([float(x) for x in prefix_floors(list(spectra), n)])
    return np.where(np.minimum.accumulate(floors) >= LEAST, floors, 0.0)[:, None]


def prefix_products(d: Sequence[float], sigma: np.ndarray) -> np.ndarray:
    """Return floors of the `p_0 = 1, p_1, …, p_{L−1}` of the scalar chain, shape `(L, N)`.

    They are 0 where the root cannot be checked: `t_l = x + c_l`, `c_l − c_{l+1} ≤ d_l` and `Π t_l ≤ σ²` are what
    makes `t_1 ⋯ t_l` a floor.
    """
    slack = 8 * U * math.fsum(abs(x) for x in d)
    c = chain_offsets([x - slack for x in d])
    none = np.concatenate([np.ones((1, len(sigma))), np.zeros((len(d), len(sigma)))])
    # The offsets are taken as they are in float64. fsum rounds once, so its sign is exact.
    if any(math.fsum([c[l], -c[l + 1], -d[l]]) > 0 for l in range(len(d))):
        return none
    with np.errstate(over="ignore"):
        t = c[:, None] + chain_root(c, sigma)[None, :] * LOWER
        products = np.cumprod(t, axis=0)
        below = np.isfinite(products[-1]) & (products[-1] <= sigma * sigma * DOWN)
    checked = below & (products >= LEAST).all(axis=0)
    return np.where(checked, np.concatenate([none[:1], products[:-1] * DOWN]), none)
