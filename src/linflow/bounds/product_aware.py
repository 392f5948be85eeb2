"""A bound for any depth and imbalance that uses the product; it reduces to the scalar chain and to two layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, maximum, namespace, to_numpy
from linflow.bounds._base import (
    Follow,
    Invariants,
    Spectrum,
    Theorem,
    has_imbalance,
    plain,
    rounded,
    spectra,
)
from linflow.bounds.any_imbalance import Known, prefix_floors
from linflow.bounds.layer_norms import layer_caps

STEPS, WIDTH = 100, 2e-13
"""The most steps in the search for the logarithm of a floor, and the bracket width at which it ends."""
SMALLEST, LARGEST = 1e-280, 640.0
"""The least c in the search, and the largest logarithm of c: within float64, with room for a few powers."""
SMALLEST_SIGMA = 1e-100
"""The least σ that is used, for layers of size 1. Its square is far above any number that rounds to 0."""


def deep_product(Ds: Sequence[Any], n: int, m: int, sigma_min: Any, sigma_max: Any = np.inf) -> Array:
    """Lower bound on `λ_min(T)` for any depth and any imbalance, from the imbalances and the product.

    With `c = λ_m(W_LᵀW_L)` and v its eigenvector, the chain `y_{L+1} = v`, `y_l = W_l y_{l+1}` ends in
    `y_1 = Wv`, so `‖y_1‖ ≥ σ_m(W)`. The imbalances bound `‖y_1‖` from above by an increasing function of c, which
    for homogeneous imbalance is the polynomial p of the scalar chain and for two layers `(c − [λ_m(−D)]_+)
    (c + [λ_1(D)]_+)`; its inverse at `σ_m` is a floor for c. The mirror image gives a floor for `λ_n(W_1W_1ᵀ)`. Each
    layer and each prefix has the floor `σ²` over the squared norms of the other layers. All floors are carried along
    the chain as in `deep`, and `λ_min(T) ≥ Σ_l λ_n(P_{l−1}P_{l−1}ᵀ) λ_m(S_{l+1}ᵀS_{l+1})`. Proof: `docs/theory.md`.

    The bound is never below `deep`. It equals `scalar_exact` for scalars and `two_layer` for L = 2, and it increases
    with `σ_min`.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues.
        n: rows of the product.
        m: columns of the product.
        sigma_min: `σ_min(W)` or a lower bound on it, 0-d or 1-D.
        sigma_max: `‖W‖` or an upper bound on it, 0-d or 1-D; inf if unknown, which weakens the bound for L ≥ 3.

    Returns:
        A float64 array of the kind of the Ds and the shape of `sigma_min`.

    Raises:
        ValueError: a D is not symmetric or not finite, or a σ is negative.

    Source: this library, docs/theory.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> Ds = [np.array([[2.0]]), np.array([[1.0]])]  # w² = (4, 2, 1): T = 2·1 + 4·1 + 4·2
        >>> round(float(lf.bounds.deep_product(Ds, 1, 1, sigma_min=8**0.5, sigma_max=8**0.5)), 9)
        14.0
    """
    least, largest = given_sigmas(sigma_min, sigma_max)
    widened = rounded(spectra(Ds), least if np.isinf(largest).any() else largest)
    value = bound(plain(widened), checks.count(n, "n"), checks.count(m, "m"), least, largest)
    return from_numpy(value, widened[0].zero)


def given_sigmas(sigma_min: Any, sigma_max: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the two as arrays; raise ValueError unless `0 ≤ σ_min ≤ σ_max`."""
    least, largest = checks.numbers(sigma_min, "sigma_min"), checks.numbers(sigma_max, "sigma_max")
    if not (np.all(least >= 0) and np.all(largest >= least)):
        raise ValueError(f"sigma_min is {sigma_min!r} and sigma_max {sigma_max!r}; 0 ≤ σ_min ≤ σ_max is needed.")
    return least, largest


@dataclass(frozen=True)
class Sides:
    """Floors of every prefix and suffix of the product, for layers scaled to size 1.

    Attributes:
        log_size: logarithm of `‖W_l‖²` of the layers that were scaled.
        spectra: the scaled spectra.
        least: lower bounds on the scaled `σ_min(W)`.
        left: floors of `λ_n(P_{l−1}P_{l−1}ᵀ)`, l = 1 … L.
        right: floors of `λ_m(S_{l+1}ᵀS_{l+1})`, l = L … 1.
    """

    log_size: float
    spectra: list[Spectrum]
    least: Array
    left: list[Array]
    right: list[Array]

    def bound(self) -> Array:
        """Return `Σ_l λ_n(P_{l−1}P_{l−1}ᵀ) λ_m(S_{l+1}ᵀS_{l+1})` in the units of the layers, from below."""
        total = 0.0 * self.least
        for before, after in zip(self.left, reversed(self.right), strict=True):
            total = total + before * after
        return math.exp(len(self.spectra) * self.log_size) * total


def sides(
    Ds: Sequence[Spectrum], n: int, m: int, least: Array, largest: Array, follow: Follow | None = None
) -> Sides | None:
    """Return the floors for spectra that already allow for rounding; None if they are 0 or would leave float64.

    Args:
        Ds: spectra of `D_1, …, D_{L-1}`.
        n: rows of the product.
        m: columns of the product.
        least: lower bounds on `σ_min(W)`, of the kind of the spectra.
        largest: upper bounds on `‖W‖`, of the same kind.
        follow: gives roots their derivatives. It needs a 0-d σ of an array kind that has derivatives.
    """
    L = len(Ds) + 1
    size = max(float(np.max(np.abs(end))) for D in plain(Ds) for end in (D.lower, D.upper))
    known = to_numpy(namespace(least).where(largest < math.inf, largest, least))
    with np.errstate(divide="ignore"):
        log_size = max(math.log(size) if size > 0 else -math.inf, float(np.max(2 / L * np.log(known))))
    # Everything is zero, or the bound itself would leave float64 or lose digits.
    if not -700 < (L - 1) * log_size < 700:
        return None
    least, largest = (sigma * math.exp(-L / 2 * log_size) for sigma in (least, largest))
    least = namespace(least).where(least > SMALLEST_SIGMA, least, 0.0)
    factor = math.exp(-log_size)
    scaled = [Spectrum(D.lower * factor, D.upper * factor) for D in Ds]
    least, largest = namespace(least).broadcast_arrays(least, largest)
    caps, none = layer_caps(scaled, largest, follow), 0.0 * least
    mirrored = [D.negated() for D in reversed(scaled)]
    first = outer_floor(mirrored, n, least, namespace(caps).flip(caps, axis=0), follow) if n <= m else none
    last = outer_floor(scaled, m, least, caps, follow) if m <= n else none
    # For n = m the chain from either end uses the floors of both outer layers.
    ends = (first, last) if n == m else (first, none)
    left = prefix_floors(scaled, n, _known(ends, least, list(caps)) if n <= m else None)
    ends = (last, first) if n == m else (last, none)
    right = prefix_floors(mirrored, m, _known(ends, least, list(caps)[::-1]) if m <= n else None)
    return Sides(log_size, scaled, least, left, right)


def bound(
    Ds: Sequence[Spectrum], n: int, m: int, least: Array, largest: Array, follow: Follow | None = None
) -> Array:
    """Return the bound for spectra that already allow for rounding; the arguments are those of `sides`."""
    found = sides(Ds, n, m, least, largest, follow)
    return Ds[0].zero + 0.0 * least if found is None else found.bound()


def sides_of(inv: Invariants) -> Sides | None:
    """Return the floors of given invariants; they are computed once."""
    least, largest = to_numpy(inv.sigma_min), to_numpy(inv.sigma_max)
    return inv.once("sides", lambda: sides(plain(inv.spectra), inv.n, inv.m, least, largest))


def _known(ends: tuple[Array, Array], least: Array, caps: Sequence[Array]) -> Known:
    """Return the floors of layers, gains and prefixes that `σ_min` and the caps on the norms give."""
    L = len(caps)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        alone = [_over(least, math.prod([*caps[:l], *caps[l + 1 :]])) for l in range(L)]
        prefixes = [1.0 + 0.0 * least, *(_over(least, math.prod(caps[l:])) for l in range(1, L))]  # P_0 = I
    layers = [maximum(alone[0], ends[0]), *alone[1:-1], maximum(alone[-1], ends[1])]
    return Known(layers, alone, prefixes)


def _over(least: Array, cap: Array) -> Array:
    """Return `σ²/cap`, reduced a little for rounding; 0 if σ is 0 or the cap is not finite."""
    xp = namespace(least)
    usable = (least > 0) & (cap > 0) & xp.isfinite(cap)
    return xp.where(usable, least**2 / xp.where(usable, cap, 1.0) * (1 - 1e-13), 0.0)


def outer_floor(Ds: Sequence[Spectrum], m: int, least: Array, caps: Array, follow: Follow | None = None) -> Array:
    """Return a lower bound on `c = λ_m(W_LᵀW_L)` for each `σ_m(W) ≥ least`: the inverse of `_reach`, from below.

    Args:
        Ds: spectra of `D_1, …, D_{L-1}`.
        m: columns of the product, at most its rows.
        least: lower bounds on `σ_m(W)`.
        caps: upper bounds on `‖W_l‖²`, shape `(L, …)`.
        follow: as in `bound`.
    """
    xp = namespace(least)
    start = Ds[-1].negated().at_least(m)
    target = 2 * xp.log(xp.where(least > 0, least, 1.0))
    # The norms of the other layers keep c well away from 0. Without them only c > 0 is known at first.
    base = xp.maximum(_over(least, math.prod(caps[:-1])), xp.maximum(start, SMALLEST))
    if follow is None:
        root, _ = _root(Ds, start, base, caps, target)
    elif not bool(least > 0):
        return start
    else:
        numbers = (to_numpy(x) for x in (start, base, caps, target))
        root, inside = _root(plain(Ds), *numbers)
        # If there is no root, c equals its least known value and takes its derivatives.
        root = (
            follow(lambda log_c: _log_reach(Ds, start, xp.exp(log_c), base, caps) - target, root)
            if inside
            else xp.log(base)
        )
    found = xp.where(xp.exp(root) > 2 * SMALLEST, xp.exp(root) * (1 - 1e-12), 0.0)
    return xp.where(least > 0, xp.maximum(found, start), start)


def _root(
    Ds: Sequence[Spectrum], start: np.ndarray, base: np.ndarray, caps: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithm of c, from below, and whether it is a root rather than the start of the search."""

    def excess(log_c: np.ndarray) -> np.ndarray:
        return _log_reach(Ds, start, np.exp(log_c), base, caps) - target

    low = np.log(base)
    high = np.maximum(np.where(np.isfinite(caps[-1]), np.log(np.maximum(caps[-1], SMALLEST)), 0.0), low + 1)
    f_low, f_high = excess(low), excess(high)
    for _ in range(12):  # without caps, double the bracket until it holds the root
        if (f_high >= 0).all():
            break
        high = np.minimum(np.where(f_high < 0, low + 2 * (high - low), high), LARGEST)
        f_high = excess(high)
    return _crossing(excess, low, high, f_low, f_high), (f_low < 0) & (f_high >= 0)


def _crossing(excess, low: np.ndarray, high: np.ndarray, f_low: np.ndarray, f_high: np.ndarray) -> np.ndarray:
    """Return, from below, the point where an increasing function changes sign; `low` if it is not negative at `low`.

    Chandrupatla's method: inverse quadratic interpolation if it is safe, otherwise halving.
    """
    done = (f_low >= 0) | (f_high < 0)  # c is its least known value, or no crossing was found
    a, b, fa, fb = low, high, f_low, f_high
    t = np.full(low.shape, 0.5)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for _ in range(STEPS):
            width = np.abs(b - a)
            if ((width <= WIDTH) | done).all():
                break
            edge = np.minimum(0.5, 0.25 * WIDTH / np.where(width > 0, width, 1.0))
            x = a + np.minimum(np.maximum(t, edge), 1 - edge) * (b - a)
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


def _log_reach(Ds: Sequence[Spectrum], start: Array, c: Array, base: Array, caps: Array) -> Array:
    """Return the logarithm of an upper bound on `‖W_1 ⋯ W_L v‖²`, increasing in `c = λ_m(W_LᵀW_L)`.

    v is a unit eigenvector for c; `c ≥ base ≥ start = [λ_m(−D_{L−1})]_+`. Along the chain `y_l = W_l y_{l+1}`,
    `z_l = W_lᵀ y_l`: `Y` bounds `‖y_l‖²`, `Z` bounds `‖z_l‖`, and `z_l = κ_l y_{l+1} + e_l` with `‖e_l‖ ≤ E`.
    """
    xp = namespace(c)
    kappa, floor, Y, Z, E = c, base, c, c, 0.0 * c
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for l in range(len(Ds) - 1, -1, -1):
            top, bottom = Ds[l].upper[0], Ds[l].lower[-1]
            positive = xp.maximum(top, 0.0)
            root = xp.sqrt(Y)
            carried = xp.where(E > 0, xp.sqrt(caps[l + 1]) * E, 0.0)
            # |λ + κ| over the spectrum. The falling branch keeps its value at the least κ, so this is monotone in c.
            stretch = xp.maximum(xp.maximum(top + kappa, -bottom - floor), 0.0)
            z = stretch * root + carried
            y = xp.fmin(positive * Y + Z * Z, root * z)
            y = xp.fmin(y, xp.maximum(top + kappa, 0.0) * Y + carried * root)
            y = xp.fmin(y, caps[l] * Y)
            if l == len(Ds) - 1:
                y = xp.fmin(y, xp.maximum(c - start, 0.0) * (c + positive))
            E = 0.5 * (top - bottom) * root + carried
            middle = 0.5 * (top + bottom)
            kappa, floor, Y = kappa + middle, floor + middle, y
            Z = xp.fmin(z, xp.sqrt(caps[l] * y))
        return xp.log(Y)


def _evaluate(inv: Invariants) -> Array:
    found = sides_of(inv)
    value = 0.0 * to_numpy(inv.sigma_min) if found is None else found.bound()
    return from_numpy(np.maximum(value, 0.0), inv.sigma_min)


def _differentiable(inv: Invariants, _: Invariants, follow: Follow) -> Array:
    return bound(inv.spectra, inv.n, inv.m, inv.sigma_min, inv.sigma_max, follow)


def hypothesis(inv: Invariants) -> str | None:
    """Return why the bound does not apply; None if it does."""
    if inv.depth < 2:
        return has_imbalance(inv)
    return "for two layers it is Prop. 1 of Min, Tarmoun, Vidal & Mallada 2021" if inv.depth == 2 else None


THEOREM = Theorem(
    "any depth, imbalance and product",
    "linflow, docs/theory.md",
    "linflow",
    "lower",
    hypothesis,
    _evaluate,
    differentiable=_differentiable,
)
