"""Lower bounds on the rate of every mode of the product, in its singular basis, from chains of scalars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow.bounds._base import plain, rounded, spectra
from linflow.bounds.operator_floors import prefix_products


def mode_floors(Ds: Sequence[Any], n: int, m: int, sigmas: Any) -> np.ndarray:
    """Lower bounds on T in the singular basis of W: T is at least the diagonal operator with these entries.

    With `W = Σ σ_k u_k v_kᵀ` and the prefix products `p_l(σ; d)` of `operator_floors`, the mode `u_i v_jᵀ` has

    - `Σ_l p_{l−1}(σ_i; λ_min(D)) (t_{l+1} ⋯ t_L)(σ_j; λ_max(D))` for n = m,
    - `p_{L−1}(σ_i; λ_min(D))` for n < m and `(t_2 ⋯ t_L)(σ_j; λ_max(D))` for n > m.

    So `⟨E, T(E)⟩ ≥ Σ_ij floors[i, j] ⟨u_i, E v_j⟩²` for every E: directions in which the product is large are fast.
    Proof: `docs/operator_intervals.md`.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues, each of size at least `min(n, m)`.
        n: rows of the product.
        m: columns of the product.
        sigmas: `σ_1(W) ≥ … ≥ σ_{min(n, m)}(W)`, or lower bounds on them.

    Returns:
        The floors, a NumPy array of shape `(n, m)`: row `i − 1`, column `j − 1` for the mode `u_i v_jᵀ`.

    Raises:
        ValueError: a D is not symmetric, not finite or too small; a σ is negative or not finite, they increase, or
            their number is wrong.

    Source: this library, docs/operator_intervals.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.bounds.mode_floors([np.zeros(2)], 2, 2, [4.0, 1.0]).round(6)  # balanced: σ_i + σ_j
        array([[8., 5.],
               [5., 2.]])
    """
    given, n, m = spectra(Ds), checks.count(n, "n"), checks.count(m, "m")
    least, values = min(n, m), np.asarray(checks.numbers(sigmas, "sigmas"), dtype=np.float64)
    if values.shape != (least,) or not np.all((values >= 0) & (values < np.inf)) or np.any(values[1:] > values[:-1]):
        raise ValueError(f"sigmas is {sigmas!r}; {least} finite numbers σ_1 ≥ … ≥ σ_{least} ≥ 0 are needed.")
    narrow = min(D.size for D in given)
    if narrow < least:
        raise ValueError(f"a layer of width {narrow} is narrower than min(n, m) = {least}; widen it.")
    widened = plain(rounded(given, values[0]))
    before = prefix_products([D.lower[-1] for D in widened], values)
    after = prefix_products([-D.upper[0] for D in reversed(widened)], values)
    if n < m:
        return np.repeat(before[-1][:, None], m, axis=1)
    if n > m:
        return np.repeat(after[-1][None, :], n, axis=0)
    return np.sum([x[:, None] * y[None, :] for x, y in zip(before, reversed(after), strict=True)], axis=0)
