"""The scalar chain `w_1 w_2 ⋯ w_L`: its conserved offsets and the polynomial that relates them to the product.

Every mode of a homogeneous, spectral or diagonal network is such a chain. Let `d_l = w_l² − w_{l+1}²`. Then
`w_l² = x + c_l`, where the `d_l` and `min c = 0` determine the offsets `c_l ≥ 0`. The product w satisfies
`p(x) = Π_l (x + c_l) = w²`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def chain_offsets(d: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the offsets `c_1, …, c_L ≥ 0` with `c_l − c_{l+1} = d_l` and `min c = 0`, along the last axis."""
    sums = np.cumsum(np.asarray(d, dtype=np.float64), axis=-1)
    c = np.concatenate([np.zeros((*sums.shape[:-1], 1)), -sums], axis=-1)
    return c - c.min(axis=-1, keepdims=True)


def chain_root(c: np.ndarray, w: np.ndarray | float) -> np.ndarray:
    """Return the root `x ≥ 0` of `Π(x + c_l) = w²` for each w, or inf for an infinite w."""
    with np.errstate(over="ignore"):
        return np.exp(chain_log_root(c, w))


def chain_log_root(c: np.ndarray, w: np.ndarray | float) -> np.ndarray:
    """Return the logarithm of the root `x ≥ 0` of `Π(x + c_l) = w²`, even if the root itself underflows.

    The method is Newton's on `s ↦ Σ log(e^s + c_l)`, which is convex with slope in [1, L]. Started at the upper bound
    `x ≤ |w|^{2/L}`, it decreases monotonically to the root, over any range of sizes.
    """
    with np.errstate(divide="ignore"):
        level = 2 * np.log(np.abs(np.asarray(w, dtype=np.float64)))
        log_c = np.log(c)
    usable = np.isfinite(level)
    target = np.where(usable, level, 0.0)
    s = target / np.asarray(c).shape[-1]
    for _ in range(200):
        terms = np.logaddexp(s[..., None], log_c)  # log(x + c), even if x = e^s underflows
        excess, slope = np.add.reduce(terms, axis=-1) - target, np.add.reduce(np.exp(s[..., None] - terms), axis=-1)
        step = np.maximum(excess / slope, 0.0)  # from above, every step goes down, except for rounding at the end
        s = s - step
        if ((step <= 4e-16 * np.maximum(np.abs(s), 1.0)) | ~usable).all():
            break
    return np.where(usable, s, level)  # −inf and inf stay as they are


def chain_slope(c: np.ndarray, x: np.ndarray | float) -> np.ndarray:
    """Return `p'(x) = Σ_l Π_{k≠l} (x + c_k)` for each x. It is the only eigenvalue of the operator T of the chain."""
    factors = np.asarray(x)[..., None] + np.asarray(c)
    one = np.ones_like(factors[..., :1])
    before = np.concatenate([one, np.cumprod(factors, axis=-1)[..., :-1]], axis=-1)
    after = np.concatenate([np.cumprod(factors[..., ::-1], axis=-1)[..., ::-1][..., 1:], one], axis=-1)
    return (before * after).sum(axis=-1)
