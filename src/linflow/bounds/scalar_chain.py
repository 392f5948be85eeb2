"""Bounds for scalar weights of any depth: the exact rate, and a lower bound in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, detach, from_numpy, namespace, to_numpy
from linflow.bounds._base import Follow, Invariants, Theorem, scalar_spectra
from linflow.model.scalar_chain import chain_offsets, chain_root, chain_slope


def scalar_exact(d: Sequence[float], w: float) -> float:
    """Exact least eigenvalue of T for scalar weights with imbalance `d` and product `w`: `p'(x)`.

    Take offsets `c_l ≥ 0` with `c_l − c_{l+1} = d_l` and `min c = 0`. Then `w_l² = x + c_l`, where `x` is the root of
    `p(x) = Π(x + c_l) = w²`, and `λ_min(T) = p'(x) = Σ_l Π_{k≠l} w_k²`. It increases with `|w|`.

    Args:
        d: the `L − 1` imbalances `w_l² − w_{l+1}²`.
        w: the product `w_1 ⋯ w_L`.

    Returns:
        The eigenvalue as a float, exact up to rounding.

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
    """Closed-form lower bound on `λ_min(T)` for scalar weights: `sqrt((Π_{i≠i*} c_i)² + (L|w|^{2−2/L})²)`.

    `c` are the offsets of `scalar_exact`, and `i*` is the index of the smallest. The bound is exact for `L = 2`.

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


def _with_derivatives(
    function: Callable[[Array, Array, Follow], Array], inv: Invariants, _: Invariants, follow: Follow
) -> Array:
    xp, offsets = namespace(inv.sigma_min), [inv.spectra[0].zero]
    for D in inv.spectra:
        offsets.append(offsets[-1] - (D.lower[0] + D.upper[0]) / 2)
    c = xp.stack(offsets)
    return function(c - xp.min(c), inv.sigma_min, follow) - inv.chain_allowance()


def _exact_followed(c: Array, w: Array, follow: Follow) -> Array:
    """Return the exact value. A multiple root has no derivative and is treated as a constant."""
    xp, known = namespace(c), to_numpy(c)
    root = chain_root(known, to_numpy(w))
    x = follow(lambda x: xp.prod(x + c) - w**2, root) if chain_slope(known, root) > 0 else from_numpy(root, w)
    return xp.sum(xp.stack([xp.prod(xp.concat([c[:l], c[l + 1 :]]) + x) for l in range(len(known))]))


def _closed_followed(c: Array, w: Array, _: Follow) -> Array:
    """Return the closed form. The root of 0 is treated as a constant."""
    xp, L = namespace(c), c.shape[0]
    squares = xp.prod(xp.sort(c)[1:]) ** 2 + (L * w ** (2 - 2 / L)) ** 2
    return xp.sqrt(squares) if float(detach(squares)) > 0 else squares


EXACT = Theorem(
    "scalar chain, exact",
    "from Min, Vidal & Mallada 2023, Prop. 3",
    "min2023",
    "exact",
    _scalar_layers,
    partial(_evaluate, _exact),
    differentiable=partial(_with_derivatives, _exact_followed),
)
THEOREM = Theorem(
    "scalar chain, closed form",
    "Min, Vidal & Mallada 2023, Prop. 3",
    "min2023",
    "lower",
    _scalar_layers,
    partial(_evaluate, _closed),
    differentiable=partial(_with_derivatives, _closed_followed),
)
