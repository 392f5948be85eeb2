"""Scalar weights, any depth: the rate is known exactly, and in closed form from below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, to_numpy
from linflow.bounds._base import Invariants, Theorem, scalar_spectra
from linflow.model.scalar_chain import chain_offsets, chain_root, chain_slope


def scalar_exact(d: Sequence[float], w: float) -> float:
    """Least eigenvalue of T for scalar weights with imbalance `d` and product `w`: exactly `p'(x)`.

    With offsets `c_l ≥ 0`, `c_l − c_{l+1} = d_l`, `min c = 0`: `w_l² = x + c_l`, `x` the root of
    `p(x) = Π(x + c_l) = w²`, and `λ_min(T) = p'(x) = Σ_l Π_{k≠l} w_k²`. It increases with `|w|`.

    Args:
        d: the `L − 1` imbalances `w_l² − w_{l+1}²`.
        w: the product `w_1 ⋯ w_L`.

    Returns:
        The eigenvalue as a float, to rounding.

    Raises:
        ValueError: non-finite arguments.

    Source: derived from Min, Vidal & Mallada 2023, Proposition 3.

    Example:
        >>> import linflow as lf
        >>> round(lf.bounds.scalar_exact([3.0], 2.0), 12)  # w = (2, 1)
        5.0
    """
    return float(EXACT.evaluate(_arguments(d, w)))


def scalar(d: Sequence[float], w: float) -> float:
    """Closed lower bound on `λ_min(T)` for scalar weights: `sqrt((Π_{i≠i*} c_i)² + (L|w|^{2−2/L})²)`.

    `c` are the offsets of `scalar_exact` and `i*` the smallest. Equal to it for `L = 2`.

    Args:
        d: the `L − 1` imbalances `w_l² − w_{l+1}²`.
        w: the product `w_1 ⋯ w_L`, or a lower bound on its size (the margin).

    Returns:
        The bound as a float.

    Raises:
        ValueError: non-finite arguments.

    Source: Min, Vidal & Mallada 2023, Proposition 3 (with the ½ of its derivation).

    Example:
        >>> import linflow as lf
        >>> lf.bounds.scalar([3.0], 2.0)  # w = (2, 1), λ_min(T) = 5
        5.0
    """
    return float(THEOREM.evaluate(_arguments(d, w)))


def _exact(c: np.ndarray, w: Any) -> np.ndarray:
    return chain_slope(c, chain_root(c, w))


def _closed(c: np.ndarray, w: Any) -> np.ndarray:
    return np.hypot(np.prod(np.sort(c)[1:]), len(c) * np.asarray(w) ** (2 - 2 / len(c)))


def _arguments(d: Sequence[float], w: float) -> Invariants:
    """Check the arguments; return them as exact invariants."""
    return Invariants.given(scalar_spectra(d), 1, 1, checks.positive(abs(float(w)), "|w|", allow_zero=True))


def _scalar_layers(inv: Invariants) -> str | None:
    if inv.depth < 2:
        return "one layer is not overparametrized"
    return None if set(inv.widths) == {1} else f"the widths {inv.widths} are not all 1"


def _evaluate(function: Callable[[np.ndarray, np.ndarray], np.ndarray], inv: Invariants) -> Array:
    c = chain_offsets([(float(D.lower[0]) + float(D.upper[0])) / 2 for D in inv.spectra])
    return from_numpy(function(c, to_numpy(inv.sigma_min)) - inv.chain_allowance(), inv.sigma_min)


EXACT = Theorem(
    "scalar chain, exact",
    "from Min, Vidal & Mallada 2023, Prop. 3",
    "min2023",
    "exact",
    _scalar_layers,
    partial(_evaluate, _exact),
)
THEOREM = Theorem(
    "scalar chain, closed form",
    "Min, Vidal & Mallada 2023, Prop. 3",
    "min2023",
    "lower",
    _scalar_layers,
    partial(_evaluate, _closed),
)
