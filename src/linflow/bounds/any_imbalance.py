"""A bound for any depth and any imbalance, from the imbalance spectra alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from linflow._support import checks
from linflow._support.arrays import Array, maximum
from linflow.bounds._base import Invariants, Spectrum, Theorem, has_imbalance, spectra


def deep(Ds: Sequence[Any], n: int, m: int) -> Array:
    """Lower bound on `λ_min(T)` for any depth and any imbalance, from the imbalances alone.

    Floors `u_l ≤ λ_n(W_lᵀW_l)` start at `[λ_n(D_l)]_+` and `[λ_n(−D_{l-1})]_+` and are closed under
    `u_l ≥ u_{l+1} + λ_min(D_l)`, `u_{l+1} ≥ u_l − λ_max(D_l)`. Gains along the chain: `g_1 = u_1`,
    `g_{l+1} = max(0, g_l − λ_max(D_l), u_{l+1} − Σ_{k≤l} [λ_max(−D_k)]_+)`; then
    `λ_n(P_lP_lᵀ) ≥ Π_{i≤l} g_i`. The mirror image bounds `λ_m(S_lᵀS_l)`. `λ_min(T)` is at least the sum over the
    layers of the products of the two. Proof: `docs/theory.md`.

    This holds up to the first layer narrower than n (m). Behind it the floor is 0, and its `D_l` and later ones are
    not used, because closing the `u_l` through them would be wrong.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues.
        n: rows of the product.
        m: columns of the product.

    Returns:
        A 0-d float64 array of the kind of the Ds.

    Raises:
        ValueError: a D not symmetric or not finite.

    Source: this library, docs/theory.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> Ds = [np.array([[2.0]]), np.array([[1.0]]), np.array([[-4.0]])]
        >>> float(lf.bounds.deep(Ds, 1, 1))  # offsets (3, 1, 0, 4): exact at w = 0
        12.0
    """
    return THEOREM.evaluate(Invariants.given(spectra(Ds), checks.count(n, "n"), checks.count(m, "m")))


def _deep(Ds: Sequence[Spectrum], n: int, m: int) -> Array:
    left = prefix_floors(Ds, n)
    right = prefix_floors([D.negated() for D in reversed(Ds)], m)[::-1]
    total = Ds[0].zero
    for before, after in zip(left, right, strict=True):
        total = total + before * after
    return total


@dataclass(frozen=True)
class Known:
    """Floors from other arguments, which `prefix_floors` carries along the chain. Each is a list over the layers.

    Attributes:
        layers: floors of `λ_n(W_lᵀW_l)`, l = 1 … L.
        gains: floors of the gain of each layer, `λ_n(P_lP_lᵀ) ≥ gain · λ_n(P_{l−1}P_{l−1}ᵀ)`, l = 1 … L.
        prefixes: floors of `λ_n(P_lP_lᵀ)`, l = 0 … L − 1.
    """

    layers: Sequence[Array]
    gains: Sequence[Array]
    prefixes: Sequence[Array]


def prefix_floors(Ds: Sequence[Spectrum], n: int, known: Known | None = None) -> list[Array]:
    """Return floors of `λ_n(P_lP_lᵀ)` for l = 0 … L − 1 from the spectra of `D_1, …, D_{L-1}`."""
    zero, L = Ds[0].zero, len(Ds) + 1
    narrow = next((l for l, D in enumerate(Ds) if D.size < n), None)
    if narrow is not None:
        # A layer narrower than n cuts the rank of every prefix behind it: σ_n is 0 there, and so is the floor.
        kept = prefix_floors(Ds[:narrow], n) if narrow else [zero + 1.0]
        return kept + [zero] * (L - len(kept))
    known = known or Known([zero] * L, [zero] * L, [zero] * L)
    u = [known.layers[l] for l in range(L)]
    for l, D in enumerate(Ds):
        u[l] = maximum(u[l], D.at_least(n))
        u[l + 1] = maximum(u[l + 1], D.negated().at_least(n))
    for l in range(L - 2, -1, -1):
        u[l] = maximum(u[l], u[l + 1] + Ds[l].lower[-1])
    for l in range(L - 1):
        u[l + 1] = maximum(u[l + 1], u[l] - Ds[l].upper[0])
    gain, lost = maximum(u[0], known.gains[0]), zero
    floors = [zero + 1.0]
    for l, D in enumerate(Ds):
        floors.append(maximum(floors[-1] * gain, known.prefixes[l + 1]))
        lost = lost + D.negated().at_most()
        gain = maximum(known.gains[l + 1], gain - D.upper[0], u[l + 1] - lost)
    return floors


def _evaluate(inv: Invariants) -> Array:
    return _deep(inv.spectra, inv.n, inv.m)


THEOREM = Theorem(
    "any depth, imbalance only",
    "linflow, docs/theory.md",
    "linflow",
    "lower",
    has_imbalance,
    _evaluate,
)
