"""Bounds for any depth and special imbalance: unimodal, homogeneous, balanced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, is_array, maximum, to_numpy
from linflow.bounds._base import (
    LARGEST,
    Follow,
    Invariants,
    Spectrum,
    Theorem,
    at_unit_size,
    has_imbalance,
    scalar_spectra,
    spectra,
)
from linflow.model.scalar_chain import chain_offsets, chain_root, chain_slope


def unimodal(Ds: Sequence[Any], n: int, m: int) -> Array:
    """Lower bound for unimodal imbalance: `D_l ⪰ 0` for `l < l*` and `D_l ⪯ 0` for `l ≥ l*`.

    `λ_min(T) ≥ Π_{i=1}^{L−1} d̃(i)`, `d̃(i) = Σ_{l=l*}^{i} λ_m(−D_l)` for `i ≥ l*` and `Σ_{l=i}^{l*−1} λ_n(D_l)` for
    `i < l*`. If several `l*` fit, the best is used. Eigenvalues of the wrong sign at rounding level
    (256 ε of the largest) count as zero.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues.
        n: rows of the product.
        m: columns of the product.

    Returns:
        A 0-d float64 array of the kind of the Ds.

    Raises:
        ValueError: the imbalance is not unimodal.

    Source: Min, Vidal & Mallada 2023, Theorem 3, equation (18).

    Example:
        >>> import numpy as np, linflow as lf
        >>> Ds = [np.array([[2.0]]), np.array([[1.0]]), np.array([[-4.0]])]
        >>> float(lf.bounds.unimodal(Ds, 1, 1))  # l* = 3, d̃ = (3, 1, 4)
        12.0
    """
    values = spectra(Ds)
    peaks = _peaks(values, 256 * EPS * max(max(abs(float(D.upper[0])), abs(float(D.lower[-1]))) for D in values))
    if not peaks:
        raise ValueError(
            "the imbalance is not unimodal: there is no l* with D_l ⪰ 0 before it and D_l ⪯ 0 from it on. "
            "Use linflow.bounds.deep, which takes any imbalance."
        )
    n, m = checks.count(n, "n"), checks.count(m, "m")
    return at_unit_size(lambda inv: _unimodal(inv.spectra, n, m, peaks), Invariants.given(values, n, m))


def _peaks(Ds: Sequence[Spectrum], allowance: float = 0.0) -> list[int]:
    """Return every `l*` in 1 … L for which the spectra can be unimodal, within the allowed error of eigenvalues."""
    up = [float(D.upper[-1]) >= -allowance for D in Ds]
    down = [float(D.lower[0]) <= allowance for D in Ds]
    return [p + 1 for p in range(len(Ds) + 1) if all(up[:p]) and all(down[p:])]


def _unimodal(Ds: Sequence[Spectrum], n: int, m: int, peaks: Sequence[int]) -> Array:
    def bound(peak: int) -> Array:
        product, total = Ds[0].zero + 1.0, Ds[0].zero
        for D in Ds[peak - 1 :]:
            total = total + D.negated().at_least(m)
            product = product * total
        total = Ds[0].zero
        for D in reversed(Ds[: peak - 1]):
            total = total + D.at_least(n)
            product = product * total
        return product

    return maximum(*(bound(peak) for peak in peaks))


def homogeneous(d: Sequence[float], sigma_min: float) -> float:
    """Least eigenvalue of T for homogeneous imbalance `D_l = d_l I` of square layers (n = m = every h_l).

    Every singular mode is then a scalar chain with the same offsets, and the least singular value gives the
    least eigenvalue exactly: `λ_min(T) = p'(x)`, `p(x) = Π(x + c_l) = σ_min²`. It increases with σ_min. The
    closed form `sqrt((Π d̃)² + (L σ_min^{2−2/L})²)` lies below it.

    Args:
        d: the `L − 1` numbers `d_l`, of any sign.
        sigma_min: `σ_min(W)` or a lower bound on it (the margin).

    Returns:
        The eigenvalue as a float.

    Source: Min, Vidal & Mallada 2023, Theorem 3 (homogeneous case, n = m), sharpened by Proposition 3.

    Example:
        >>> import linflow as lf
        >>> round(lf.bounds.homogeneous([3.0], 2.0), 12)
        5.0
    """
    sigma_min = checks.positive(sigma_min, "sigma_min", allow_zero=True)
    return float(at_unit_size(_homogeneous, Invariants.given(scalar_spectra(d), 1, 1, sigma_min)))


def balanced(depth: int, n: int, m: int, sigma_min: Any) -> Any:
    """Lower bound for balanced weights (every `D_l = 0`): `L σ_min^{2−2/L}` if n = m, `σ_min^{2−2/L}` if n ≠ m.

    For n ≠ m only one term of T is positive definite. The factor L is printed for every shape, but is wrong there.

    Args:
        depth: number of layers L.
        n: rows of the product.
        m: columns of the product.
        sigma_min: `σ_min(W)` or a lower bound on it (the margin).

    Source: Arora et al. 2018; Min, Vidal & Mallada 2023, equation (19), corrected for n ≠ m.

    Example:
        >>> import linflow as lf
        >>> lf.bounds.balanced(2, 2, 1, 1.0), lf.bounds.balanced(2, 2, 2, 1.0)
        (1.0, 2.0)
    """
    factor, power = (depth if n == m else 1), 2 - 2 / depth
    if is_array(sigma_min):
        return factor * sigma_min**power
    root = float(sigma_min) ** (power / 2) if sigma_min > 1e150 else 1.0  # avoids a power that overflows float64
    return factor * sigma_min**power if root == 1.0 else min(factor * root * root, LARGEST)


def _unimodal_hypothesis(inv: Invariants) -> str | None:
    if inv.depth < 2:
        return has_imbalance(inv)
    if _peaks(inv.spectra):
        return None
    return "the imbalance is not unimodal (D_l ⪰ 0 up to some layer, D_l ⪯ 0 from it on)"


def _homogeneous_hypothesis(inv: Invariants) -> str | None:
    if inv.depth < 2:
        return has_imbalance(inv)
    if len(set(inv.widths)) > 1:
        return f"the layers are not square (widths {'×'.join(map(str, inv.widths))})"
    spread = max(float(D.lower[0] - D.upper[-1]) for D in inv.spectra)
    if spread > 0:
        return f"the imbalance is not homogeneous: the eigenvalues of a D_l spread over {spread:.3g}"
    return None


def _balanced_hypothesis(inv: Invariants) -> str | None:
    if inv.depth < 2:
        return has_imbalance(inv)
    largest = max(max(float(D.lower[0]), -float(D.upper[-1])) for D in inv.spectra)
    if largest > 0:
        return f"the weights are not balanced: an eigenvalue of a D_l is {largest:.3g} in size"
    return None


def _homogeneous(inv: Invariants) -> Array:
    c = chain_offsets([float(to_numpy(D.lower + D.upper).mean()) / 2 for D in inv.spectra])
    value = chain_slope(c, chain_root(c, to_numpy(inv.sigma_min))) - inv.chain_allowance()
    return from_numpy(value, inv.sigma_min)


def _unimodal_evaluate(inv: Invariants) -> Array:
    return _unimodal(inv.spectra, inv.n, inv.m, _peaks(inv.spectra)) - inv.chain_allowance()


def _unimodal_differentiable(inv: Invariants, fixed: Invariants, _: Follow) -> Array:
    return _unimodal(inv.spectra, inv.n, inv.m, _peaks(fixed.spectra)) - inv.chain_allowance()


def _balanced_evaluate(inv: Invariants) -> Array:
    return balanced(inv.depth, inv.n, inv.m, inv.sigma_min) - inv.chain_allowance()


UNIMODAL = Theorem(
    "unimodal imbalance",
    "Min, Vidal & Mallada 2023, Theorem 3, eq. (18)",
    "min2023",
    "lower",
    _unimodal_hypothesis,
    _unimodal_evaluate,
    differentiable=_unimodal_differentiable,
)
HOMOGENEOUS = Theorem(
    "homogeneous imbalance",
    "Min, Vidal & Mallada 2023, Theorem 3, n = m",
    "min2023",
    "exact",
    _homogeneous_hypothesis,
    _homogeneous,
    null_set=True,
)
BALANCED = Theorem(
    "balanced",
    "Arora et al. 2018; Min, Vidal & Mallada 2023, eq. (19), corrected for n ≠ m",
    "arora2018",
    "lower",
    _balanced_hypothesis,
    _balanced_evaluate,
    null_set=True,
)
