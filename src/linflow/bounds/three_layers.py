"""Three layers: the bound Δ* from the two imbalances (Min, Vidal & Mallada 2023)."""

from __future__ import annotations

from typing import Any

from linflow._support import checks
from linflow._support.arrays import Array, namespace
from linflow._support.words import plural
from linflow.bounds._base import Invariants, Spectrum, Theorem, spectrum


def three_layer(D1: Any, D2: Any, n: int, m: int) -> Array:
    """Lower bound `Δ*` on `λ_min(T)` of three layers, from the imbalances alone.

    Let `D_21 = −D_1`, `D_23 = D_2`, `D̄_h = diag{max(λ_i(D_21), λ_i(D_23), 0)}_{i≤h}` (−∞ for i beyond the size) and
    `A ∧_r B = diag{min(λ_i(A), λ_{i+1−r}(B))}` (`λ_j = +∞` for j ≤ 0). Then

    `Δ* = ½(Δ_21^(2) + Δ_21²) + Δ_21 Δ_23 + ½(Δ_23^(2) + Δ_23²)`, where `Δ_21 = tr D̄_{h1} − tr(D̄_{h1} ∧_n D_21)`,
    `Δ_21^(2) = tr D̄_{h1}² − tr(D̄_{h1} ∧_n D_21)²`, and `Δ_23`, `Δ_23^(2)` are the same with h2, m and D_23.

    Args:
        D1: `W_1ᵀW_1 − W_2W_2ᵀ`, shape `(h1, h1)`, or its eigenvalues.
        D2: `W_2ᵀW_2 − W_3W_3ᵀ`, shape `(h2, h2)`, or its eigenvalues.
        n: rows of the product.
        m: columns of the product.

    Returns:
        A 0-d float64 array of the kind of D1.

    Raises:
        ValueError: D1 or D2 is not symmetric or not finite.

    Source: Min, Vidal & Mallada 2023, Theorem 2.

    Example:
        >>> import numpy as np, linflow as lf
        >>> D1, D2 = np.array([[-2.0]]), np.array([[3.0]])
        >>> float(lf.bounds.three_layer(D1, D2, 1, 1))  # offsets (1, 3, 0): exact at w = 0
        3.0
    """
    Ds = [spectrum(D1, "D1"), spectrum(D2, "D2")]
    return THEOREM.evaluate(Invariants.given(Ds, checks.count(n, "n"), checks.count(m, "m")))


def _three_layer(D1: Spectrum, D2: Spectrum, n: int, m: int) -> Array:
    D21, D23 = D1.negated(), D2
    first, first_squares = _deficit(D21, D23, n)
    last, last_squares = _deficit(D23, D21, m)
    return 0.5 * (first_squares + first**2) + first * last + 0.5 * (last_squares + last**2)


def _deficit(own: Spectrum, other: Spectrum, r: int) -> tuple[Array, Array]:
    """Return `tr D̄ − tr(D̄ ∧_r D)` and `tr D̄² − tr(D̄ ∧_r D)²` for `D = own`, h = its size."""
    xp = namespace(own.lower, other.lower)
    h, common = own.size, min(own.size, other.size)
    if h < r:
        return own.zero, own.zero
    # The deficit grows with D̄, so D̄ uses lower ends. It falls as the shifted spectrum grows, which uses upper ends.
    joint = xp.where(own.lower[:common] > other.lower[:common], own.lower[:common], other.lower[:common])
    joint = xp.concat([joint, own.lower[common:]])
    joint = xp.where(joint > 0, joint, joint * 0.0)
    # The minimum leaves the entries before the r-th unchanged, so they cancel in both differences.
    joint, shifted = joint[r - 1 :], own.upper[: h - r + 1]
    least = xp.where(joint < shifted, joint, shifted)
    return xp.sum(joint - least), xp.sum((joint - least) * (joint + least))


def _hypothesis(inv: Invariants) -> str | None:
    return None if inv.depth == 3 else f"the network has {plural(inv.depth, 'layer')}, not 3"


def _evaluate(inv: Invariants) -> Array:
    return _three_layer(inv.spectra[0], inv.spectra[1], inv.n, inv.m)


THEOREM = Theorem(
    "three layers, Δ*",
    "Min, Vidal & Mallada 2023, Theorem 2",
    "min2023",
    "lower",
    _hypothesis,
    _evaluate,
)
