"""Floors of every prefix and suffix of the product, from the chain of scalars below it: any depth and shape."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, maximum, namespace, to_numpy
from linflow.bounds import product_aware
from linflow.bounds._base import Follow, Invariants, Spectrum, Theorem, plain, rounded, spectra
from linflow.model.scalar_chain import chain_root

SHAVED = 1e-12
"""Relative amount by which a floor is lowered; the root of the chain and the products round at a tenth of it."""


def operator_floors(Ds: Sequence[Any], n: int, m: int, sigma_min: Any, sigma_max: Any = np.inf) -> Array:
    """Lower bound on `λ_min(T)` for any depth, imbalance and shape, from chains of scalars below the layers.

    For numbers `d` and `σ > 0` let `t_1, …, t_L > 0` be the squares of scalar weights with imbalances `d` and product
    `σ`: `t_l − t_{l+1} = d_l`, `Π t_l = σ²`; and `p_l(σ; d) = t_1 ⋯ t_l`. If all widths are at least `min(n, m)`:

    - `λ_n(P_lP_lᵀ) ≥ p_l(σ_n; λ_min(D_1), …, λ_min(D_{L−1}))` for n ≤ m,
    - `λ_m(S_{l+1}ᵀS_{l+1}) ≥ σ_m²/p_l(σ_m; λ_max(D_1), …, λ_max(D_{L−1}))` for m ≤ n.

    The floors of `deep_product` are used where they are larger, and
    `λ_min(T) ≥ Σ_l λ_n(P_{l−1}P_{l−1}ᵀ) λ_m(S_{l+1}ᵀS_{l+1})`. The bound is never below `deep_product`, and it does
    not fall as σ_min grows. Proof: `docs/operator_intervals.md`.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues.
        n: rows of the product.
        m: columns of the product.
        sigma_min: `σ_min(W)` or a lower bound on it, 0-d or 1-D.
        sigma_max: `‖W‖` or an upper bound on it, 0-d or 1-D; inf if unknown. Only `deep_product` uses it.

    Returns:
        A float64 array of the kind of the Ds and the shape of `sigma_min`.

    Raises:
        ValueError: a D is not symmetric or not finite, or a σ is negative.

    Source: this library, docs/operator_intervals.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> Ds = [np.array([2.0, 0.5]), np.array([1.0, 0.5])]  # two hidden layers of width 2 with these eigenvalues
        >>> round(float(lf.bounds.operator_floors(Ds, 3, 2, sigma_min=1.0)), 6)  # t_2 t_3 at d = (2, 1)
        0.307979
    """
    least, largest = product_aware.given_sigmas(sigma_min, sigma_max)
    widened = rounded(spectra(Ds), least if np.isinf(largest).any() else largest)
    value = bound(plain(widened), checks.count(n, "n"), checks.count(m, "m"), least, largest)
    return from_numpy(value, widened[0].zero)


def bound(
    Ds: Sequence[Spectrum], n: int, m: int, least: Array, largest: Array, follow: Follow | None = None
) -> Array:
    """Return the bound for spectra that already allow for rounding; arguments as in `product_aware.bound`."""
    found = product_aware.sides(Ds, n, m, least, largest, follow)
    return Ds[0].zero + 0.0 * least if found is None else raised(found, n, m, follow).bound()


def raised(sides: product_aware.Sides, n: int, m: int, follow: Follow | None = None) -> product_aware.Sides:
    """Return the floors with those of the chains where these are larger."""
    chains = chain_floors(sides.spectra, n, m, sides.least, follow)
    left, right = (
        [maximum(a, b) for a, b in zip(*both, strict=True)]
        for both in zip((sides.left, sides.right), chains, strict=True)
    )
    return replace(sides, left=left, right=right)


def chain_floors(
    Ds: Sequence[Spectrum], n: int, m: int, least: Array, follow: Follow | None = None
) -> tuple[list[Array], list[Array]]:
    """Return floors of `λ_n(P_lP_lᵀ)` and, from the other end, of `λ_m(S_{l+1}ᵀS_{l+1})`: L of each.

    Args:
        Ds: spectra of `D_1, …, D_{L-1}`.
        n: rows of the product.
        m: columns of the product.
        least: lower bounds on `σ_min(W)`, for layers of about size 1.
        follow: as in `product_aware.bound`.

    Returns:
        The floors of `P_0P_0ᵀ, …, P_{L−1}P_{L−1}ᵀ`, and those of `S_{L+1}ᵀS_{L+1}, …, S_2ᵀS_2`. They are 0 where the
        theorem has nothing to say: behind a narrow layer, and on the side that is longer.
    """
    L, none = len(Ds) + 1, 0.0 * least
    nothing = [none + 1.0, *[none] * (L - 1)]
    if any(D.size < min(n, m) for D in Ds):
        return nothing, nothing
    left = prefix_products([D.lower[-1] for D in Ds], least, follow) if n <= m else nothing
    right = prefix_products([-D.upper[0] for D in reversed(Ds)], least, follow) if m <= n else nothing
    return left, right


def prefix_products(d: Sequence[Array], sigma: Array, follow: Follow | None = None) -> list[Array]:
    """Return `p_0 = 1, p_1, …, p_{L−1}` of the scalar chain, from below; they increase in every `d_l` and in σ.

    Sums of the d round at the size of all of them. The chain computed is the exact one of imbalances that differ by
    at most `4ε Σ|d_l|`, so each is first lowered by twice that.
    """
    xp = namespace(d[0])
    off = 8 * EPS * sum(abs(x) for x in d)
    sums = xp.stack(list(itertools.accumulate([d[0] * 0.0, *(off - x for x in d)])))
    c = sums - xp.min(sums)
    root = chain_root(to_numpy(c), to_numpy(sigma))
    x = sigma * 0.0 + root if follow is None else _followed(c, sigma, root, follow)
    values = [0.0 * x + 1.0]
    for l in range(len(d)):
        values.append(values[-1] * (x + c[l]))
    return [values[0], *(value * (1 - SHAVED) for value in values[1:])]


def _followed(c: Array, sigma: Array, root: np.ndarray, follow: Follow) -> Array:
    """Return the root with derivatives; a root of 0 is a constant."""
    if not root > 0:
        return from_numpy(np.asarray(root), sigma)
    xp = namespace(c)
    return follow(lambda x: xp.sum(xp.log(x + c)) - 2 * xp.log(sigma), root)


def _evaluate(inv: Invariants) -> Array:
    found = product_aware.sides_of(inv)
    value = 0.0 * to_numpy(inv.sigma_min) if found is None else raised(found, inv.n, inv.m).bound()
    return from_numpy(value, inv.sigma_min)


def _differentiable(inv: Invariants, _: Invariants, follow: Follow) -> Array:
    return bound(inv.spectra, inv.n, inv.m, inv.sigma_min, inv.sigma_max, follow)


THEOREM = Theorem(
    "any depth, operator floors",
    "linflow, docs/operator_intervals.md",
    "linflow",
    "lower",
    product_aware.hypothesis,
    _evaluate,
    differentiable=_differentiable,
)
