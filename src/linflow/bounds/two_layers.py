"""Two layers: imbalance and product together (Min, Tarmoun, Vidal & Mallada 2021)."""

from __future__ import annotations

from typing import Any

from linflow import _checks
from linflow._arrays import Array, namespace
from linflow.bounds._base import Invariants, Spectrum, Theorem, spectrum


def two_layer(D: Any, n: int, m: int, sigma_n: Any, sigma_m: Any) -> Array:
    """Lower bound on `λ_min(T)` of two layers from imbalance and product.

    `½(−Δ₊ + sqrt((Δ₊ + Δ)² + 4σ_m²) − Δ₋ + sqrt((Δ₋ + Δ)² + 4σ_n²))` with the spreads
    `Δ₊ = [λ_1(D)]_+ − [λ_n(D)]_+`, `Δ₋ = [λ_1(−D)]_+ − [λ_m(−D)]_+` and the gap
    `Δ = [λ_n(D)]_+ + [λ_m(−D)]_+`. `Δ₊` goes with `σ_m` and `Δ₋` with `σ_n`; printed forms that exchange them, or use
    `σ_min` in both roots, fail for n ≠ m. Tight for n ≠ m, as far as numerical search shows; a lower bound for n = m.
    It increases with σ.

    Args:
        D: `W_1ᵀW_1 − W_2W_2ᵀ`, shape `(h, h)`, or a 1-D array of its eigenvalues.
        n: rows of the product.
        m: columns of the product.
        sigma_n: `σ_n(W_1W_2)`, which is 0 when n > m, or a lower bound on it.
        sigma_m: `σ_m(W_1W_2)`, which is 0 when m > n, or a lower bound on it.

    Returns:
        A 0-d float64 array of the kind of D.

    Raises:
        ValueError: D not symmetric or not finite, σ negative, or nonzero past min(n, m).

    Source: Min, Tarmoun, Vidal & Mallada, arXiv 2105.06351v2, Proposition 1.

    Example:
        >>> import numpy as np, linflow as lf
        >>> W1, W2 = np.diag([2.0, 0.0]), np.array([[1.0], [0.0]])
        >>> D = W1.T @ W1 - W2 @ W2.T
        >>> float(lf.bounds.two_layer(D, 2, 1, sigma_n=0.0, sigma_m=2.0))  # λ_min(T) = 1
        1.0
    """
    values = spectrum(D)
    n, m = _checks.count(n, "n"), _checks.count(m, "m")
    for value, name, k in ((sigma_n, "sigma_n", n), (sigma_m, "sigma_m", m)):
        size = _checks.positive(value, name, allow_zero=True)
        if size > 0 and k > min(n, m):
            raise ValueError(
                f"{name} is {size:g}, but σ_{k} of a {n}×{m} matrix is 0. σ_n and σ_m differ when n ≠ m; "
                "pass 0 for the one past min(n, m)."
            )
    return _two_layer(values, n, m, sigma_n, sigma_m)


def _two_layer(D: Spectrum, n: int, m: int, sigma_n: Array, sigma_m: Array) -> Array:
    # The bound grows with λ_n(D) and λ_m(−D), and falls as the largest eigenvalues λ_1(±D) grow.
    minus = D.negated()
    positive, negative = D.at_least(n), minus.at_least(m)
    gap = positive + negative
    return 0.5 * (_root(D.at_most() - positive, gap, sigma_m) + _root(minus.at_most() - negative, gap, sigma_n))


def _root(spread: Array, gap: Array, sigma: Array) -> Array:
    """Return `sqrt((s + Δ)² + 4σ²) − s`, without cancellation when the spread is large."""
    xp = namespace(spread)
    root = xp.sqrt((spread + gap) ** 2 + 4 * sigma**2)
    total = root + spread
    safe = xp.where(total > 0, total, total + 1.0)
    return xp.where(total > 0, (gap * (2 * spread + gap) + 4 * sigma**2) / safe, total * 0.0)


def _hypothesis(inv: Invariants) -> str | None:
    return None if inv.depth == 2 else f"the network has {inv.depth} layers, not 2"


def _evaluate(inv: Invariants) -> Array:
    zero = inv.sigma_min * 0.0
    sigma_n = inv.sigma_min if inv.n <= inv.m else zero
    sigma_m = inv.sigma_min if inv.m <= inv.n else zero
    return _two_layer(inv.spectra[0], inv.n, inv.m, sigma_n, sigma_m)


THEOREM = Theorem(
    "two layers",
    "Min, Tarmoun, Vidal & Mallada 2021 (arXiv 2105.06351v2), Prop. 1",
    "min2021",
    "tight",
    _hypothesis,
    _evaluate,
)
