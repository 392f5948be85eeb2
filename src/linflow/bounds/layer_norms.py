"""Upper bounds on the size of each layer from the size of the product and the imbalances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linflow._support import checks
from linflow._support.arrays import Array, namespace
from linflow.bounds._base import Follow, Spectrum, plain, rounded, spectra
from linflow.bounds.ceilings import prefix_ceilings, root_above, suffix_ceilings


def norms(Ds: Sequence[Any], product_norm: float) -> list[float]:
    """Upper bounds on `‖W_1‖², …, ‖W_L‖²` (spectral norms) for all weights with these imbalances and `‖W‖`.

    With `x = ‖W_l‖²`: `‖P_l‖² ≥ x Π_{k<l} (x + Σ_{j=k}^{l−1} λ_min(D_j))_+`, and `ceilings` bounds `‖P_l‖²` from
    above, which bounds x. The mirror image bounds it by `‖S_l‖²`. Neighbours satisfy
    `‖W_l‖² ≤ ‖W_{l+1}‖² + λ_max(D_l)` and `‖W_{l+1}‖² ≤ ‖W_l‖² − λ_min(D_l)`. The bounds are attained by scalars.
    Proof: `docs/theory.md` and, for the layers within, `docs/operator_intervals.md`.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues.
        product_norm: `‖W_1 ⋯ W_L‖`, or an upper bound on it.

    Returns:
        A list of L floats.

    Raises:
        ValueError: a D is not symmetric or not finite, or the norm is negative.

    Source: this library, docs/theory.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> [round(x, 12) for x in lf.bounds.norms([np.array([[3.0]])], 2.0)]  # w = (2, 1): attained
        [4.0, 1.0]
    """
    product_norm = checks.positive(product_norm, "product_norm", allow_zero=True)
    return [float(x) for x in layer_caps(rounded(spectra(Ds), product_norm), product_norm)]


def layer_caps(Ds: Sequence[Spectrum], product_norm: Any, follow: Follow | None = None) -> Array:
    """Return the upper bounds for each `product_norm`, shape `(L, …)`; inf for an infinite norm.

    The result is a NumPy array. With `follow` it has the array kind of the spectra, and derivatives.
    """
    Ds = plain(Ds) if follow is None else Ds
    return layers_below(
        Ds, prefix_ceilings(Ds, product_norm, follow), suffix_ceilings(Ds, product_norm, follow), follow
    )


def layers_below(
    Ds: Sequence[Spectrum], prefixes: Sequence[Array], suffixes: Sequence[Array], follow: Follow | None = None
) -> Array:
    """Return bounds on `‖W_1‖², …, ‖W_L‖²` from bounds on `‖P_l‖²` and `‖S_{l+1}‖²`, l = 0 … L."""
    xp, L = namespace(Ds[0].lower), len(Ds) + 1
    falls = [D.upper[0] for D in Ds]  # λ_max(D_l): how far ‖W_l‖² may exceed ‖W_{l+1}‖²
    rises = [-D.lower[-1] for D in Ds]  # λ_max(−D_l): the reverse
    bound = [prefixes[1]]
    for l in range(1, L - 1):  # W_{l+1} is the last layer of P_{l+1} and the first of S_{l+1}
        behind, _ = root_above(rises[:l][::-1], xp.sqrt(prefixes[l + 1]), follow)
        ahead, _ = root_above(falls[l:], xp.sqrt(suffixes[l]), follow)
        bound.append(xp.minimum(behind, ahead))
    bound.append(suffixes[L - 1])
    # Scalars attain the bounds of the outer layers: no neighbour improves them, nor do they improve a neighbour.
    for l in range(1, L - 2):
        bound[l + 1] = xp.minimum(bound[l + 1], xp.maximum(bound[l] + rises[l], 0.0))
    for l in range(L - 3, 0, -1):
        bound[l] = xp.minimum(bound[l], xp.maximum(bound[l + 1] + falls[l], 0.0))
    return xp.stack(bound)
