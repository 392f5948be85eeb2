"""The scalar chain `w_1 w_2 ⋯ w_L`: its conserved offsets and the polynomial that ties them to the product.

Every mode of a homogeneous, spectral or diagonal network is such a chain. With `d_l = w_l² − w_{l+1}²` the
squares are `w_l² = x + c_l`, the offsets `c_l ≥ 0` fixed by the `d_l` with `min c = 0`, and
`p(x) = Π_l (x + c_l) = w²`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def chain_offsets(d: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the offsets `c_1, …, c_L ≥ 0` with `c_l − c_{l+1} = d_l` and `min c = 0`."""
    c = np.concatenate([[0.0], -np.cumsum(np.asarray(d, dtype=np.float64).ravel())])
    return c - c.min()


def chain_root(c: np.ndarray, w: float) -> float:
    """Return the root `x ≥ 0` of `Π(x + c_l) = w²`.

    Newton's method on `s ↦ Σ log(e^s + c_l)`, which is convex with slope in [1, L]: started at the upper bound
    `x ≤ |w|^{2/L}` it falls monotonically to the root, over any range of sizes.
    """
    w = abs(float(w))
    if w == 0.0:
        return 0.0
    level = 2 * math.log(w)
    with np.errstate(divide="ignore"):
        log_c = np.log(c)
    s = level / len(c)
    for _ in range(200):
        terms = np.logaddexp(s, log_c)  # log(x + c), also where x = e^s underflows
        step = (float(np.sum(terms)) - level) / float(np.sum(np.exp(s - terms)))
        s -= step
        if abs(step) <= 1e-16 * max(abs(s), 1.0) or step < 0:
            break
    return math.exp(s)


def chain_slope(c: np.ndarray, x: float) -> float:
    """Return `p'(x) = Σ_l Π_{k≠l} (x + c_k)`, the one eigenvalue of the operator T of the chain."""
    factors = x + np.asarray(c)
    before = np.concatenate([[1.0], np.cumprod(factors)[:-1]])
    after = np.concatenate([np.cumprod(factors[::-1])[::-1][1:], [1.0]])
    return float(np.sum(before * after))
