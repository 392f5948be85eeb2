"""The operator interval: a bound near the optimum for square products of any depth, from a program in few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, to_numpy
from linflow.bounds import _interval_numbers as numbers
from linflow.bounds import _interval_search as search
from linflow.bounds import product_aware
from linflow.bounds._base import Invariants, Spectrum, Theorem, has_imbalance, plain, rounded, spectra
from linflow.bounds.operator_floors import THEOREM as FLOORS
from linflow.bounds.operator_floors import raised
from linflow.bounds.product_aware import SMALLEST_SIGMA

LEVELS = 16
"""The most products for which the program is solved at once; more of them share the bound of a weaker one."""


def operator_interval(
    Ds: Sequence[Any],
    n: int,
    sigma_n: Any,
    sigma_next: Any = None,
    sigma_max: Any = math.inf,
    *,
    sigma_n_most: Any = None,
) -> Array:
    """Lower bound on `λ_min(T)` for `n × n` products of any depth: the joint program of the operator interval.

    In the Löwner order `x_l⁻(WWᵀ) ⪯ P_lP_lᵀ ⪯ x_l⁺(WWᵀ)`, where `x_l∓(σ) = p_l(σ; d)` are the prefix products of the
    scalar chains with imbalances `d_l = λ_min(D_l)` and `d_l = λ_max(D_l)`. So the last diagonal entries of
    `P_lP_lᵀ` and of its inverse, in the singular basis of W, are confined to a small set. The least value of a lower
    bound on `λ_min(T)` over this set is found by branch and bound, from below: boxes within 1 % of it are not split.
    `operator_floors` is used where it is larger. All widths must be at least n.

    Lower bounds may take the place of σ_n, σ_{n−1} and λ_min(D_l), and upper bounds that of λ_max(D_l) and ‖W‖. So
    what holds along a flow serves as well: the margins `[σ_k(W*) − sqrt(2ℓ/μ)]_+` for `σ_k(W)`, k = n, n − 1, and
    `‖W*‖ + sqrt(2ℓ/μ)` for `‖W‖`. The bound is larger if σ_n is known from both sides. Proof:
    `docs/operator_intervals.md`.

    Args:
        Ds: `[D_1, …, D_{L-1}]`, matrices or 1-D arrays of eigenvalues. The extreme eigenvalues are used, and for
            layers wider than n the two least and the two largest.
        n: rows and columns of the product.
        sigma_n: `σ_n(W)` or a lower bound on it, 0-d or 1-D.
        sigma_next: `σ_{n−1}(W)` or a lower bound on it, of the same shape; `sigma_n` if None. Ignored for n = 1.
        sigma_max: `‖W‖` or an upper bound on it, of the same shape; inf if unknown.
        sigma_n_most: an upper bound on `σ_n(W)`, of the same shape; `sigma_n` itself if that is exact. `sigma_max`
            if None.

    Returns:
        A float64 array of the kind of the Ds and the shape of `sigma_n`.

    Raises:
        ValueError: a D is not symmetric or not finite, a σ is negative, or they are not in order.

    Source: this library, docs/operator_intervals.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> Ds = [np.array([0.1, -0.1])] * 2
        >>> round(float(lf.bounds.operator_interval(Ds, 2, 0.5, 1.0, 1.0)), 3)  # 1.191 if D = 0
        1.126
        >>> round(float(lf.bounds.deep_product(Ds, 2, 2, 0.5, 1.0)), 3)
        0.752
    """
    n = checks.count(n, "n")
    least, largest = checks.numbers(sigma_n, "sigma_n"), checks.numbers(sigma_max, "sigma_max")
    following = least if sigma_next is None else checks.numbers(sigma_next, "sigma_next")
    following = following if n > 1 else math.inf + 0.0 * least
    if not (np.all(least >= 0) and np.all(following >= least) and np.all(largest >= (following if n > 1 else least))):
        raise ValueError(
            f"sigma_n is {sigma_n!r}, sigma_next {sigma_next!r} and sigma_max {sigma_max!r}; "
            "0 ≤ σ_n ≤ σ_{n−1} ≤ ‖W‖ is needed."
        )
    most = largest if sigma_n_most is None else checks.numbers(sigma_n_most, "sigma_n_most")
    if not np.all(most >= least):
        raise ValueError(f"sigma_n_most is {sigma_n_most!r}; an upper bound on σ_n, at least {sigma_n!r}, is needed.")
    widened = rounded(spectra(Ds), least if np.isinf(largest).any() else largest)
    inv = Invariants.given(plain(widened), n, n).at(least, largest, following, most)
    if reason := _hypothesis(inv):
        raise ValueError(f"the bound does not apply: {reason}; linflow.bounds.best chooses one that does.")
    return from_numpy(np.maximum(THEOREM.evaluate(inv), FLOORS.evaluate(inv)), widened[0].zero)


def joint(
    Ds: Sequence[Spectrum],
    n: int,
    least: np.ndarray,
    following: np.ndarray,
    largest: np.ndarray,
    most: np.ndarray | None = None,
    run: search.Programs | None = None,
) -> np.ndarray:
    """Return the bound of the joint program alone, for spectra that allow for rounding; 0 where it says nothing.

    Args:
        Ds: spectra of `D_1, …, D_{L-1}`, of NumPy arrays, at least n eigenvalues each.
        n: rows and columns of the product.
        least: lower bounds on `σ_n(W)`, for layers of about size 1; 1-D.
        following: lower bounds on `σ_{n−1}(W)`, inf for n = 1.
        largest: upper bounds on `‖W‖`.
        most: upper bounds on `σ_n(W)`; `largest` if None.
        run: the functions that look at boxes; compiled ones by default.
    """
    found = np.zeros(least.shape)
    some = least > SMALLEST_SIGMA
    if not some.any():
        return found
    sigmas = least[some], following[some], largest[some], (largest if most is None else most)[some]
    widths = (n, *(D.size for D in Ds), n)
    tables, floors = [], _floors(Ds, n, *sigmas[::2]) if max(widths) > n else None
    for each, sides in ((list(Ds), widths), ([D.negated() for D in reversed(Ds)], widths[::-1])):
        upper = np.array([float(D.upper[0]) for D in each])
        lower = np.array([float(D.lower[-1]) for D in each])
        tables.append(numbers.table(upper, lower, numbers.cells(each, sides, n), *sigmas))
        if floors is not None:
            numbers.add_floors(tables[-1][0], *floors)
            floors = floors[1][::-1], floors[0][::-1]
        if max(widths) == n:  # nothing leaks: both reductions are the network itself
            break
    groups = [group + len(sigmas[0]) * i for i, (_, _, group) in enumerate(tables)]
    rows, squares = (np.concatenate([one[i] for one in tables]) for i in range(2))
    if np.isfinite(rows).all():
        values = search.least(rows, squares, np.concatenate(groups), run)
        found[some] = values.reshape(len(tables), -1).max(axis=0)
    return found


def _floors(Ds: Sequence[Spectrum], n: int, least: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Return floors of `λ_min(X_l)` and `λ_min(Y_l)`, l = 1 … L − 1, as `operator_floors` has them; shape (D, M)."""
    found = product_aware.sides(Ds, n, n, least, largest)
    if found is None:
        return None
    found = raised(found, n, n)
    sizes = np.exp(found.log_size * np.arange(1, len(Ds) + 1))[:, None]
    prefixes, suffixes = (np.stack([0.0 * least + x for x in side[1:]]) * sizes for side in (found.left, found.right))
    return prefixes, suffixes[::-1]


def _few(inv: Invariants) -> tuple[np.ndarray, ...]:
    """Return at most `LEVELS` sets of four σ, 1-D, and for each product the index of a set that is not stronger."""
    most = inv.sigma_max if inv.sigma_min_most is None else inv.sigma_min_most
    given = (np.ravel(to_numpy(x)) for x in (inv.sigma_min, inv.sigma_next, inv.sigma_max, most))
    least, following, largest, most = np.broadcast_arrays(*given)
    index = np.arange(len(least))
    positive = least > SMALLEST_SIGMA
    if len(least) > LEVELS and positive.any():
        logs = np.log(np.where(positive, least, 1.0))
        first, last = logs[positive].min(), logs[positive].max()
        place = np.ceil((last - logs) / max((last - first) / (LEVELS - 2), 1e-9) - 1e-3)
        _, index = np.unique(np.where(positive, place, LEVELS), return_inverse=True)
        parts = [index == i for i in range(int(index.max()) + 1)]
        least, following = (np.array([x[part].min() for part in parts]) for x in (least, following))
        largest, most = (np.array([x[part].max() for part in parts]) for x in (largest, most))
    return least, following, largest, most, index


def _evaluate(inv: Invariants) -> Array:
    least, following, largest, most, index = _few(inv)
    found = joint(plain(inv.spectra), inv.n, least, following, largest, most)[index]
    return from_numpy(found.reshape(to_numpy(inv.sigma_min).shape), inv.sigma_min)


def _hypothesis(inv: Invariants) -> str | None:
    if inv.depth < 2:
        return has_imbalance(inv)
    if inv.n != inv.m:
        return f"the product is {inv.n}×{inv.m}, not square"
    narrow = min(inv.widths)
    if narrow < inv.n:
        return f"a layer of width {narrow} is narrower than n = {inv.n}"
    return "for two layers there are bounds in closed form" if inv.depth == 2 else None


THEOREM = Theorem(
    "operator interval, n = m",
    "linflow, docs/operator_intervals.md",
    "linflow",
    "lower",
    _hypothesis,
    _evaluate,
    smooth=False,
)
