"""Bounds for two layers, from imbalance and product together (Min, Tarmoun, Vidal & Mallada 2021)."""

from __future__ import annotations

import math
from typing import Any

from linflow._support import checks
from linflow._support.arrays import Array, maximum, namespace
from linflow._support.words import plural
from linflow.bounds._base import Invariants, Spectrum, Theorem, spectrum


def two_layer(D: Any, n: int, m: int, sigma_n: Any, sigma_m: Any) -> Array:
    """Lower bound on `λ_min(T)` of two layers from imbalance and product.

    `½(−Δ₊ + sqrt((Δ₊ + Δ)² + 4σ_m²) − Δ₋ + sqrt((Δ₋ + Δ)² + 4σ_n²))` with the spreads
    `Δ₊ = [λ_1(D)]_+ − [λ_n(D)]_+`, `Δ₋ = [λ_1(−D)]_+ − [λ_m(−D)]_+` and the gap
    `Δ = [λ_n(D)]_+ + [λ_m(−D)]_+`. `Δ₊` belongs with `σ_m` and `Δ₋` with `σ_n`. Printed forms that exchange them, or
    use `σ_min` in both roots, fail for n ≠ m. The bound increases with σ. For n ≠ m it is tight, as far as numerical
    search shows; for n = m it is a lower bound.

    Args:
        D: `W_1ᵀW_1 − W_2W_2ᵀ`, shape `(h, h)`, or a 1-D array of its eigenvalues.
        n: rows of the product.
        m: columns of the product.
        sigma_n: `σ_n(W_1W_2)`, which is 0 when n > m, or a lower bound on it.
        sigma_m: `σ_m(W_1W_2)`, which is 0 when m > n, or a lower bound on it.

    Returns:
        A 0-d float64 array of the kind of D.

    Raises:
        ValueError: D is not symmetric or not finite, or a σ is negative, or nonzero past min(n, m).

    Source: Min, Tarmoun, Vidal & Mallada, arXiv 2105.06351v2, Proposition 1.

    Example:
        >>> import numpy as np, linflow as lf
        >>> W1, W2 = np.diag([2.0, 0.0]), np.array([[1.0], [0.0]])
        >>> D = W1.T @ W1 - W2 @ W2.T
        >>> float(lf.bounds.two_layer(D, 2, 1, sigma_n=0.0, sigma_m=2.0))  # λ_min(T) = 1
        1.0
    """
    values = spectrum(D)
    n, m = checks.count(n, "n"), checks.count(m, "m")
    for value, name, k in ((sigma_n, "sigma_n", n), (sigma_m, "sigma_m", m)):
        size = checks.positive(value, name, allow_zero=True)
        if size > 0 and k > min(n, m):
            raise ValueError(
                f"{name} is {size:g}, but σ_{k} of a {n}×{m} matrix is 0. σ_n and σ_m differ when n ≠ m; "
                "pass 0 for the one past min(n, m)."
            )
    return _two_layer(values, n, m, sigma_n, sigma_m)


def two_layer_square(D: Any, n: int, sigma_n: Any, sigma_next: Any) -> Array:
    """Lower bound on `λ_min(T)` of two layers with n = m, from imbalance and the two least singular values.

    Let `c_1 = λ_n(W_1W_1ᵀ)`, `c_2 = λ_n(W_2ᵀW_2)`, `w = ½(λ_max(D) − λ_min(D))`, `s = σ_n²`, `r = σ_{n−1}²` and
    `P` the smaller root of `P² − (s + r + w²) P + s r`. Then `c_1 c_2 ≥ P` if `P ≤ w²`, and otherwise
    `c_1 c_2 ≥ min(P, max(w², s r/(s + r)))`. The two halves of `two_layer` bound `c_1` and `c_2` separately. The
    result is the least `c_1 + c_2` that satisfies all of these. It is never below `two_layer`, and far above it if
    `σ_{n−1}` is well above `σ_n`. Proof: `docs/theory.md`.

    Args:
        D: `W_1ᵀW_1 − W_2W_2ᵀ`, shape `(h, h)`, or a 1-D array of its eigenvalues.
        n: rows and columns of the product.
        sigma_n: `σ_n(W)` or a lower bound on it.
        sigma_next: `σ_{n−1}(W)` or a lower bound on it; ignored for n = 1.

    Returns:
        A 0-d float64 array of the kind of D.

    Raises:
        ValueError: D is not symmetric or not finite, a σ is negative, or `σ_n > σ_{n−1}`.

    Source: this library, docs/theory.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> D = np.diag([3.0, -3.0])
        >>> round(float(lf.bounds.two_layer(D, 2, 2, 0.1, 0.1)), 4)
        0.0067
        >>> round(float(lf.bounds.two_layer_square(D, 2, 0.1, 2.0)), 4)
        0.1109
    """
    values, n = spectrum(D), checks.count(n, "n")
    least = checks.positive(sigma_n, "sigma_n", allow_zero=True)
    if n > 1 and least > checks.positive(sigma_next, "sigma_next", allow_zero=True):
        raise ValueError(f"sigma_n is {least:g}, above sigma_next = {sigma_next:g}; were the two exchanged?")
    return SQUARE.evaluate(Invariants.given([values], n, n, sigma_n, following=sigma_next if n > 1 else math.inf))


def _two_layer(D: Spectrum, n: int, m: int, sigma_n: Array, sigma_m: Array) -> Array:
    first, last = _halves(D, n, m, sigma_n, sigma_m)
    return first + last


def _halves(D: Spectrum, n: int, m: int, sigma_n: Array, sigma_m: Array) -> tuple[Array, Array]:
    """Return the bounds on `λ_n(W_1W_1ᵀ)` and `λ_m(W_2ᵀW_2)`."""
    # The bounds grow with λ_n(D) and λ_m(−D), and fall as the largest eigenvalues λ_1(±D) grow.
    minus = D.negated()
    positive, negative = D.at_least(n), minus.at_least(m)
    first = positive + _excess(positive + minus.at_most(), sigma_n)
    last = negative + _excess(negative + D.at_most(), sigma_m)
    return first, last


def _excess(spread: Array, sigma: Array) -> Array:
    """Return the root `x ≥ 0` of `x (x + spread) = σ²`, without cancellation when the spread is large."""
    xp = namespace(spread)
    total = spread + _hypot(spread, 2 * sigma)
    safe = xp.where(total > 0, total, total + 1.0)
    return xp.where(total > 0, 2 * sigma * (sigma / safe), total * 0.0)


def _hypot(a: Array, b: Array) -> Array:
    """Return `sqrt(a² + b²)` for a, b ≥ 0, over the whole range of float64; not differentiable at 0."""
    xp = namespace(a, b)
    larger, smaller = maximum(a, b), xp.where(b < a, b, a)
    safe = xp.where(larger > 0, larger, larger + 1.0)
    return larger * xp.sqrt(1 + (smaller / safe) ** 2)


def _square(D: Spectrum, n: int, sigma_n: Array, sigma_next: Array) -> Array:
    xp = namespace(D.lower)
    first, last = _halves(D, n, n, sigma_n, sigma_n)
    half = 0.5 * (D.upper[0] - D.lower[-1])
    # Written in i = 1/r, so that r = inf (n = 1) needs no special case. If r underflows float64, the bound is 0.
    usable = sigma_next > 1e-100
    s = xp.where(usable, sigma_n, sigma_n * 0.0) ** 2
    i = 1 / xp.where(usable, sigma_next, sigma_n * 0.0 + 1.0) ** 2
    w = half**2
    x, y = w * i, s * i
    big = xp.where(x > 1, x, 1.0 + 0.0 * x)  # for a small r, where x² would leave float64
    rest = ((1 - y) / big) ** 2 + 2 * (x / big) * ((1 + y) / big) + (x / big) ** 2
    P = 2 * s / (1 + y + x + big * xp.sqrt(rest))
    other = s / (1 + y)
    other = xp.where(other > w, other, w + 0.0 * other)
    P = xp.where((w >= P) | (other >= P), P, other)
    # The least c_1 + c_2 with c_1 ≥ first, c_2 ≥ last and c_1 c_2 ≥ P.
    larger = maximum(first, last)
    root = xp.sqrt(P)
    safe = xp.where(larger > 0, larger, larger + 1.0)
    on_curve = xp.where(larger > root, larger + P / safe, 2 * root)
    return xp.where(first * last >= P, first + last, on_curve)


def _hypothesis(inv: Invariants) -> str | None:
    return None if inv.depth == 2 else f"the network has {plural(inv.depth, 'layer')}, not 2"


def _square_hypothesis(inv: Invariants) -> str | None:
    if inv.depth != 2:
        return _hypothesis(inv)
    return None if inv.n == inv.m else f"the product is {inv.n}×{inv.m}, not square"


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


def _square_evaluate(inv: Invariants) -> Array:
    return _square(inv.spectra[0], inv.n, inv.sigma_min, inv.sigma_next)


SQUARE = Theorem(
    "two layers, n = m",
    "linflow, docs/theory.md",
    "linflow",
    "lower",
    _square_hypothesis,
    _square_evaluate,
)
