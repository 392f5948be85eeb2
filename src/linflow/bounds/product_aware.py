"""Any depth, any imbalance, with the product: the bound that reduces to the scalar chain and to two layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow import _checks
from linflow._arrays import Array, from_numpy, to_numpy
from linflow.bounds._base import Invariants, Spectrum, Theorem, has_imbalance, maximum, rounded, spectra
from linflow.bounds.any_imbalance import Known, prefix_floors
from linflow.bounds.layer_norms import layer_caps

STEPS, WIDTH = 60, 2e-13
"""Limit on the steps of the search for the logarithm of a floor, and the width of the bracket it ends at."""
SMALLEST, LARGEST = 1e-280, 640.0
"""The least c looked at, and the largest of its logarithm: within float64, with room for a few powers."""
SMALLEST_SIGMA = 1e-100
"""The least σ that anything is claimed from, for layers of size 1: its square is far above all that rounds to 0."""


def deep_product(Ds: Sequence[Any], n: int, m: int, sigma_min: Any, sigma_max: Any = np.inf) -> Array:
    """Lower bound on `λ_min(T)` for any depth and any imbalance, from the imbalances and the product.

    With `c = λ_m(W_LᵀW_L)` and v its eigenvector, the chain `y_{L+1} = v`, `y_l = W_l y_{l+1}` ends in
    `y_1 = Wv`, so `‖y_1‖ ≥ σ_m(W)`. The imbalances bound `‖y_1‖` from above by an increasing function of c, which
    for homogeneous imbalance is the polynomial p of the scalar chain and for two layers `(c − [λ_m(−D)]_+)
    (c + [λ_1(D)]_+)`; its inverse at `σ_m` is a floor for c. The mirror image gives one for `λ_n(W_1W_1ᵀ)`. Layers
    and prefixes get `σ²` over the norms of the rest. All floors are carried along the chain as in `deep`, and
    `λ_min(T) ≥ Σ_l λ_n(P_{l−1}P_{l−1}ᵀ) λ_m(S_{l+1}ᵀS_{l+1})`. Proof: `docs/theory.md`.

    Never below `deep`. Equal to `scalar_exact` for scalars and to `two_layer` for L = 2; increases with `σ_min`.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues.
        n: rows of the product.
        m: columns of the product.
        sigma_min: `σ_min(W)` or a lower bound on it, 0-d or 1-D.
        sigma_max: `‖W‖` or an upper bound on it, likewise; inf when unknown, which costs sharpness from L = 3 on.

    Returns:
        A float64 array of the kind of the Ds and the shape of `sigma_min`.

    Raises:
        ValueError: a D not symmetric or not finite, a negative σ.

    Source: this library, docs/theory.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> Ds = [np.array([[2.0]]), np.array([[1.0]])]  # w² = (4, 2, 1): T = 2·1 + 4·1 + 4·2
        >>> round(float(lf.bounds.deep_product(Ds, 1, 1, sigma_min=8**0.5, sigma_max=8**0.5)), 9)
        14.0
    """
    least, largest = _checks.numbers(sigma_min, "sigma_min"), _checks.numbers(sigma_max, "sigma_max")
    if not (np.all(least >= 0) and np.all(largest >= least)):
        raise ValueError(f"sigma_min is {sigma_min!r} and sigma_max {sigma_max!r}; 0 ≤ σ_min ≤ σ_max is needed.")
    widened = rounded(spectra(Ds), least if np.isinf(largest).any() else largest)
    return _deep_product(widened, _checks.count(n, "n"), _checks.count(m, "m"), least, largest)


def _deep_product(Ds: Sequence[Spectrum], n: int, m: int, least: np.ndarray, largest: np.ndarray) -> Array:
    """Return the bound for spectra that already allow for rounding; with all layers scaled to size 1."""
    L = len(Ds) + 1
    size = max(float(np.max(np.abs(to_numpy(end)))) for D in Ds for end in (D.lower, D.upper))
    known = np.where(np.isfinite(largest), largest, least)
    with np.errstate(divide="ignore"):
        log_size = np.maximum(math.log(size) if size > 0 else -math.inf, np.max(2 / L * np.log(known)))
        if not np.isfinite(log_size):  # all zero
            return Ds[0].zero + 0.0 * from_numpy(np.asarray(least), Ds[0].zero)
        least, largest = (np.exp(np.log(sigma) - L / 2 * log_size) for sigma in (least, largest))
    least = np.where(least > SMALLEST_SIGMA, least, 0.0)
    if not -700 < (L - 1) * log_size < 700:  # the bound itself would leave float64, or lose its digits
        return Ds[0].zero + 0.0 * from_numpy(np.asarray(least), Ds[0].zero)
    factor = math.exp(-log_size)
    scaled = [Spectrum(D.lower * factor, D.upper * factor) for D in Ds]
    return math.exp((L - 1) * log_size) * _of_size_one(scaled, n, m, least, largest)


def _of_size_one(Ds: Sequence[Spectrum], n: int, m: int, least: np.ndarray, largest: np.ndarray) -> Array:
    least, largest = np.broadcast_arrays(least, largest)
    caps = layer_caps(Ds, largest)
    mirrored = [D.negated() for D in reversed(Ds)]
    first = outer_floor(mirrored, n, least, caps[::-1]) if n <= m else np.zeros(least.shape)
    last = outer_floor(Ds, m, least, caps) if m <= n else np.zeros(least.shape)
    like = Ds[0].zero
    # For n = m the least eigenvalues of both outer layers are known to the chains from either end.
    ends = (first, last) if n == m else (first, np.zeros(least.shape))
    left = prefix_floors(Ds, n, _known(ends, least, caps, like) if n <= m else None)
    ends = (last, first) if n == m else (last, np.zeros(least.shape))
    right = prefix_floors(mirrored, m, _known(ends, least, caps[::-1], like) if m <= n else None)
    total = like + 0.0 * from_numpy(least, like)
    for before, after in zip(left, reversed(right), strict=True):
        total = total + before * after
    return total


def _known(ends: tuple[np.ndarray, np.ndarray], least: np.ndarray, caps: np.ndarray, like: Array) -> Known:
    """Return the floors of layers, gains and prefixes that `σ_min` and the caps on the norms give."""
    L = len(caps)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        alone = [_over(least, np.prod(np.delete(caps, l, axis=0), axis=0)) for l in range(L)]
        prefixes = [_over(least, np.prod(caps[l:], axis=0)) for l in range(L)]
    prefixes[0] = np.ones(least.shape)  # P_0 is the identity
    layers = [x.copy() for x in alone]
    layers[0], layers[-1] = np.maximum(layers[0], ends[0]), np.maximum(layers[-1], ends[1])
    kinds = [[from_numpy(x, like) for x in row] for row in (layers, alone, prefixes)]
    return Known(*kinds)


def _over(least: np.ndarray, cap: np.ndarray) -> np.ndarray:
    """Return `σ²/cap`, a little less for its rounding; 0 where σ is 0 or the cap is not finite."""
    usable = (least > 0) & (cap > 0) & np.isfinite(cap)
    return np.where(usable, least**2 / np.where(usable, cap, 1.0) * (1 - 1e-13), 0.0)


def outer_floor(Ds: Sequence[Spectrum], m: int, least: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Return a lower bound on `c = λ_m(W_LᵀW_L)` for each `σ_m(W) ≥ least`: the inverse of `_reach`, from below.

    Args:
        Ds: spectra of `D_1, …, D_{L-1}`.
        m: columns of the product, at most its rows.
        least: lower bounds on `σ_m(W)`.
        caps: upper bounds on `‖W_l‖²`, shape `(L, …)`.
    """
    start = float(to_numpy(Ds[-1].negated().at_least(m)))
    target = 2 * np.log(np.where(least > 0, least, 1.0))
    # The norms of the other layers bound c well away from 0; without them c > 0 is all that is known at first.
    base = np.maximum(_over(least, np.prod(caps[:-1], axis=0)), max(start, SMALLEST))

    def excess(log_c: np.ndarray) -> np.ndarray:
        return _log_reach(Ds, start, np.exp(log_c), base, caps) - target

    low = np.log(base)
    high = np.maximum(np.where(np.isfinite(caps[-1]), np.log(np.maximum(caps[-1], SMALLEST)), 0.0), low + 1)
    f_low, f_high = excess(low), excess(high)
    for _ in range(12):  # without caps the bracket is found by doubling its length
        if (f_high >= 0).all():
            break
        high = np.minimum(np.where(f_high < 0, low + 2 * (high - low), high), LARGEST)
        f_high = excess(high)
    root = _crossing(excess, low, high, f_low, f_high)
    found = np.where(np.exp(root) > 2 * SMALLEST, np.exp(root) * (1 - 1e-12), 0.0)
    return np.where(least > 0, np.maximum(found, start), start)


def _crossing(excess, low: np.ndarray, high: np.ndarray, f_low: np.ndarray, f_high: np.ndarray) -> np.ndarray:
    """Return, from below, where an increasing function changes sign; `low` where it is not negative there.

    Chandrupatla's method: inverse quadratic interpolation where it is safe, halving elsewhere.
    """
    done = (f_low >= 0) | (f_high < 0)  # c may be as small as it is known to be; or no crossing was found
    a, b, fa, fb = low, high, f_low, f_high
    t = np.full(low.shape, 0.5)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for _ in range(STEPS):
            width = np.abs(b - a)
            if np.all((width <= WIDTH) | done):
                break
            edge = np.minimum(0.5, 0.25 * WIDTH / np.where(width > 0, width, 1.0))
            x = a + np.clip(t, edge, 1 - edge) * (b - a)
            fx = excess(x)
            same = (fx < 0) == (fa < 0)
            c, fc = np.where(same, a, b), np.where(same, fa, fb)
            b, fb = np.where(same, b, a), np.where(same, fb, fa)
            a, fa = x, fx
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
            t = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
            t = np.where(smooth & np.isfinite(t), t, 0.5)
    below = np.where(fa < 0, a, np.where(fb < 0, b, low))
    return np.where(done, low, below)


def _log_reach(Ds: Sequence[Spectrum], start: float, c: np.ndarray, base: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Return the logarithm of an upper bound on `‖W_1 ⋯ W_L v‖²`, increasing in `c = λ_m(W_LᵀW_L)`.

    v is a unit eigenvector for c; `c ≥ base ≥ start = [λ_m(−D_{L−1})]_+`. Along the chain `y_l = W_l y_{l+1}`,
    `z_l = W_lᵀ y_l`: `Y` bounds `‖y_l‖²`, `Z` bounds `‖z_l‖`, and `z_l = κ_l y_{l+1} + e_l` with `‖e_l‖ ≤ E`.
    """
    kappa, floor, Y, Z, E = c, base, c, c, np.zeros_like(c)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for l in range(len(Ds) - 1, -1, -1):
            top, bottom = float(Ds[l].upper[0]), float(Ds[l].lower[-1])
            root = np.sqrt(Y)
            carried = np.where(E > 0, np.sqrt(caps[l + 1]) * E, 0.0)
            # |λ + κ| over the spectrum, with the falling branch held at its value for the least κ: monotone in c.
            stretch = np.maximum(np.maximum(top + kappa, -bottom - floor), 0.0)
            z = stretch * root + carried
            y = np.fmin(max(top, 0.0) * Y + Z * Z, root * z)
            y = np.fmin(y, np.maximum(top + kappa, 0.0) * Y + carried * root)
            y = np.fmin(y, caps[l] * Y)
            if l == len(Ds) - 1:
                y = np.fmin(y, np.maximum(c - start, 0.0) * (c + max(top, 0.0)))
            E = 0.5 * (top - bottom) * root + carried
            middle = 0.5 * (top + bottom)
            kappa, floor, Y = kappa + middle, floor + middle, y
            Z = np.fmin(z, np.sqrt(caps[l] * y))
        return np.log(Y)


def _evaluate(inv: Invariants) -> Array:
    return maximum(
        _deep_product(inv.spectra, inv.n, inv.m, to_numpy(inv.sigma_min), to_numpy(inv.sigma_max)),
        inv.sigma_min * 0.0,
    )


def _hypothesis(inv: Invariants) -> str | None:
    if inv.depth < 2:
        return has_imbalance(inv)
    return "for two layers it is Prop. 1 of Min, Tarmoun, Vidal & Mallada 2021" if inv.depth == 2 else None


THEOREM = Theorem(
    "any depth, imbalance and product",
    "linflow, docs/theory.md",
    "linflow",
    "lower",
    _hypothesis,
    _evaluate,
)
