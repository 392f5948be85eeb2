"""Upper bounds on the prefixes and suffixes of the product and on T, from chains of scalars above the layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, SMALLEST_NORMAL, Array, from_numpy, namespace, to_numpy
from linflow._support.words import plural
from linflow.bounds._base import Follow, Spectrum, plain, spectra, times_power
from linflow.model.scalar_chain import chain_log_root


@dataclass(frozen=True, repr=False)
class Ceilings:
    """Upper bounds for all weights with the same imbalances and singular values of the product.

    Attributes:
        prefixes: bounds on `λ_k(P_lP_lᵀ)`, `P_l = W_1 ⋯ W_l`, shape `(L + 1, n)`: row l, column `k − 1`.
        suffixes: bounds on `λ_k(S_{l+1}ᵀS_{l+1})`, `S_{l+1} = W_{l+1} ⋯ W_L`, shape `(L + 1, m)`: row l.
        greatest: a bound on `λ_max(T)`, without the output scale.
    """

    prefixes: np.ndarray
    suffixes: np.ndarray
    greatest: float

    def __repr__(self) -> str:
        return f"Ceilings({plural(len(self.prefixes) - 1, 'layer')}, λ_max(T) ≤ {self.greatest:.6g})"


def ceilings(Ds: Sequence[Any], n: int, m: int, sigmas: Any) -> Ceilings:
    """Upper bounds on every eigenvalue of the prefixes and suffixes, and on `λ_max(T)`.

    For numbers `d` and `σ > 0` let `t_1, …, t_L > 0` be the squares of scalar weights with imbalances `d` and product
    `σ`: `t_l − t_{l+1} = d_l`, `Π t_l = σ²`; at `σ = 0` their limits. With `p_l(σ; d) = t_1 ⋯ t_l`:

    - `λ_k(P_lP_lᵀ) ≤ p_l(σ_k; λ_max(D_1), …, λ_max(D_{L−1}))`,
    - `λ_k(S_{l+1}ᵀS_{l+1}) ≤ (t_{l+1} ⋯ t_L)(σ_k; λ_min(D_1), …, λ_min(D_{L−1}))`,
    - `λ_max(T)` is at most the sum over the layers of the products of the two at `k = 1`.

    `σ_k = 0` if `k > min(n, m)`, and both are 0 if k exceeds the width of a layer within. No width and no rank is
    assumed. The bounds are attained by scalars and by homogeneous imbalance. Proof: `docs/operator_intervals.md`.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues.
        n: rows of the product.
        m: columns of the product.
        sigmas: upper bounds on `σ_1(W) ≥ … ≥ σ_{min(n, m)}(W)`; or one number, an upper bound on all of them.

    Returns:
        A `Ceilings` of NumPy arrays.

    Raises:
        ValueError: a D is not symmetric or not finite; a σ is negative, they increase, or their number is wrong.

    Source: this library, docs/operator_intervals.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> found = lf.bounds.ceilings([np.array([3.0])], 1, 1, 2.0)  # w = (2, 1): attained
        >>> [round(float(x), 9) for x in found.prefixes[:, 0]], round(found.greatest, 9)
        ([1.0, 4.0, 4.0], 5.0)
    """
    given, n, m = plain(spectra(Ds)), checks.count(n, "n"), checks.count(m, "m")
    values = _descending(sigmas, min(n, m))
    top, L = float(values[0]), len(given) + 1
    # Layers of size 1, by a power of two: nothing is rounded and no power leaves float64.
    sizes = [max(abs(float(D.upper[0])), abs(float(D.lower[-1]))) ** 0.5 for D in given]
    logs = [math.log2(size) for size in [*sizes, top ** (1 / L)] if 0 < size < math.inf]
    e = math.ceil(max(logs, default=0.0))
    scaled = [Spectrum(times_power(D.lower, -2 * e), times_power(D.upper, -2 * e)) for D in given]
    sigma = np.where(values > 0, np.maximum(times_power(values, -L * e), SMALLEST_NORMAL), 0.0)
    widths = [n, *(D.size for D in given), m]
    prefixes = _table(prefix_ceilings(scaled, _padded(sigma, n)), widths, e)
    suffixes = _table(suffix_ceilings(scaled, _padded(sigma, m))[::-1], widths[::-1], e)[::-1]
    return Ceilings(prefixes, suffixes, float(greatest(prefixes[:, 0], suffixes[:, 0])))


def prefix_ceilings(Ds: Sequence[Spectrum], sigma: Array, follow: Follow | None = None) -> list[Array]:
    """Return upper bounds on `λ_k(P_lP_lᵀ)`, l = 0 … L, from upper bounds `sigma` on `σ_k(W)`, an array of any shape.

    Args:
        Ds: spectra of `D_1, …, D_{L-1}`.
        sigma: upper bounds on singular values; inf if unknown.
        follow: gives the root of the chain its derivatives. Then sigma is 0-d and of the kind of the spectra.
    """
    return _products([D.upper[0] for D in Ds], sigma, follow)


def suffix_ceilings(Ds: Sequence[Spectrum], sigma: Array, follow: Follow | None = None) -> list[Array]:
    """Return upper bounds on `λ_k(S_{l+1}ᵀS_{l+1})`, l = 0 … L; the arguments are those of `prefix_ceilings`."""
    return _products([-D.lower[-1] for D in reversed(Ds)], sigma, follow)[::-1]


def greatest(prefixes: Array, suffixes: Array) -> Any:
    """Return `Σ_l p_{l−1} q_l`, a bound on `λ_max(T)`, from bounds on the norms of prefixes and suffixes, l = 0 … L.

    Example:
        >>> import numpy as np
        >>> from linflow.bounds.ceilings import greatest
        >>> round(float(greatest(np.array([1.0, 4.0, 4.0]), np.array([4.0, 1.0, 1.0]))), 9)  # w = (2, 1)
        5.0
    """
    with np.errstate(over="ignore"):
        total = sum(prefixes[l] * suffixes[l + 1] for l in range(len(prefixes) - 1))
        return total * (1 + 4 * len(prefixes) * EPS)


def root_above(steps: Sequence[Array], w: Any, follow: Follow | None = None) -> tuple[Array, Array]:
    """Return from above the x with `Π (x − s_l) = w²` above every `s_l`, and every `x − s_l`.

    `s_1 = 0, s_2, …` are the running sums of the steps. x increases in every step and in w. Sums of steps round at
    the size of all of them: those computed are exact for steps that differ by at most `4ε Σ|step|`, so each is first
    raised by twice that. The logarithm of the root carries the rounding of the logarithms of `x − s_l`.

    Example:
        >>> from linflow.bounds.ceilings import root_above
        >>> import numpy as np
        >>> x, factors = root_above([np.float64(3.0)], 2.0)
        >>> round(float(x), 9), np.round(factors, 9).tolist()
        (4.0, [4.0, 1.0])
    """
    xp = namespace(steps[0])
    off = 8 * EPS * sum(abs(step) for step in steps)
    sums = xp.stack(list(itertools.accumulate([steps[0] * 0.0, *(step + off for step in steps)])))
    top = xp.max(sums)
    c = top - sums
    known = to_numpy(c)
    log_x = chain_log_root(known, to_numpy(w))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        largest = np.maximum(np.abs(log_x), np.logaddexp(log_x, np.log(known.max())))
        allowed = 8 * EPS * (len(known) + 2) * (1 + largest)
        x = np.where(log_x > -np.inf, np.maximum(np.exp(log_x + allowed), SMALLEST_NORMAL), 0.0)
    if follow is None or not (x > 0 and np.isfinite(x)):
        x = from_numpy(x, c)
    else:
        x = follow(lambda y: xp.sum(xp.log(y + c)) - 2 * xp.log(w), np.exp(log_x)) * (1 + float(allowed))
    return top + x, xp.stack([x + offset for offset in c])


def _products(d: Sequence[Array], sigma: Array, follow: Follow | None) -> list[Array]:
    """Return `p_0 = 1, p_1, …, p_L` of the scalar chain, from above; they increase in every `d_l` and in σ."""
    _, factors = root_above(d, sigma, follow)
    xp = namespace(factors)
    values = [xp.ones_like(factors[0])]
    with np.errstate(over="ignore", invalid="ignore"):
        for factor in factors:
            raised = values[-1] * factor * (1 + 4 * EPS)
            raised = xp.where(raised > SMALLEST_NORMAL, raised, SMALLEST_NORMAL)
            values.append(xp.where((values[-1] > 0) & (factor > 0), raised, 0.0))
    return values


def _descending(sigmas: Any, count: int) -> np.ndarray:
    """Return the upper bounds on the singular values as an array of length `count`; one number bounds all."""
    values = np.asarray(checks.numbers(sigmas, "sigmas"), dtype=np.float64)
    if values.ndim == 0:
        values = np.full(count, float(values))
    if values.shape != (count,) or not np.all(values >= 0) or np.any(values[1:] > values[:-1]):
        raise ValueError(
            f"sigmas is {sigmas!r}; one number, or {count} upper bounds on σ_1 ≥ … ≥ σ_{count} ≥ 0, is needed."
        )
    return values


def _padded(sigma: np.ndarray, count: int) -> np.ndarray:
    """Return the singular values, followed by zeros up to `count`."""
    return np.concatenate([sigma, np.zeros(count - len(sigma))])


def _table(values: Sequence[Array], widths: Sequence[int], e: int) -> np.ndarray:
    """Return the bounds as rows, for layers of their own size; 0 past the rank that the widths allow."""
    rows = []
    for l, row in enumerate(values):
        raised = np.asarray(times_power(row, 2 * l * e))
        raised = np.where((row > 0) & (raised < SMALLEST_NORMAL), SMALLEST_NORMAL, raised)
        rows.append(np.where(np.arange(len(row)) < min(widths[: l + 1]), raised, 0.0))
    return np.stack(rows)
