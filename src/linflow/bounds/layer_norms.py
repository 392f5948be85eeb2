"""Upper bounds on the size of each layer from the size of the product and the imbalances."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, namespace, to_numpy
from linflow.bounds._base import Follow, Spectrum, plain, rounded, spectra
from linflow.model.scalar_chain import chain_root


def norms(Ds: Sequence[Any], product_norm: float) -> list[float]:
    """Upper bounds on `‖W_1‖², …, ‖W_L‖²` (spectral norms) for all weights with these imbalances and `‖W‖`.

    With `x = ‖W_L‖²`: `‖W‖² ≥ x Π_{l<L} (x + Σ_{k=l}^{L−1} λ_min(D_k))_+`, which bounds x from above. The mirror
    image bounds `‖W_1‖²`. The other layers follow from their neighbours by `‖W_l‖² ≤ ‖W_{l+1}‖² + λ_max(D_l)` and
    `‖W_{l+1}‖² ≤ ‖W_l‖² − λ_min(D_l)`. The bounds are attained by scalars. Proof: `docs/theory.md`.

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
    xp = namespace(Ds[0].lower)
    falls = [D.upper[0] for D in Ds]  # λ_max(D_l): how far ‖W_l‖² may exceed ‖W_{l+1}‖²
    rises = [-D.lower[-1] for D in Ds]  # λ_max(−D_l): the reverse
    first, last = (_outer(steps, product_norm, follow) for steps in (falls, rises[::-1]))
    bound = [first, *([math.inf * xp.ones_like(first)] * (len(Ds) - 1)), last]
    for l in range(len(Ds)):
        bound[l + 1] = xp.minimum(bound[l + 1], xp.maximum(bound[l] + rises[l], 0.0))
    for l in range(len(Ds) - 1, -1, -1):
        bound[l] = xp.minimum(bound[l], xp.maximum(bound[l + 1] + falls[l], 0.0))
    return xp.stack(bound)


def _outer(steps: Sequence[Array], product_norm: Any, follow: Follow | None) -> Array:
    """Return the root of `Π (x − s_l) = ‖W‖²` above every `s_l`, the running sums of the steps, starting at 0."""
    xp = namespace(steps[0])
    sums = xp.stack(list(itertools.accumulate([steps[0] * 0.0, *steps])))
    top = xp.max(sums)
    offsets = top - sums
    root = chain_root(to_numpy(offsets), to_numpy(product_norm))
    if follow is not None and root > 0 and np.isfinite(root):
        root = follow(lambda x: xp.sum(xp.log(x + offsets)) - 2 * xp.log(product_norm), root)
    return top + root
