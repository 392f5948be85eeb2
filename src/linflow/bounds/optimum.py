"""Search for the target of the lower bounds: the least `λ_min(T)` among weights of given imbalances and product."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, from_numpy, norm, to_numpy
from linflow._support.threads import one_thread
from linflow.bounds._weight_search import Run, WeightSearch, positive_least
from linflow.geometry.operator import TangentOperator, tangent_rounding
from linflow.geometry.reduction import cut, expanded, projected
from linflow.model.network import Network, multiply

MOST_UNKNOWNS = 300
"""Largest number of unknowns (weights and entries of E) that `optimum` accepts. A step costs the cube of it."""

EXACT = 1e-14
"""Largest violation of a constraint, relative to its own size, that counts as rounding.

If the constraints are dependent, or nearly so, weights with a larger violation can be far from all weights that meet
the constraints, and have a smaller `λ_min(T)`.
"""

_NEAR = 1e-7  # relative distance within which two runs found the same value
_FIRST, _MORE, _FEW = 60, 300, 4  # steps of every run, more steps for the best few, and how many those are


@dataclass(frozen=True)
class Optimum:
    """The least `λ_min(T)` found by `optimum`: an upper estimate of the minimum, never a certificate.

    Attributes:
        value: `λ_min(T)` of `network`, output scale included, plus `rounding`. It is never below the minimum, to
            first order in the residual.
        residual: how far `network` violates the constraints: the largest of `‖D_l − D_l⁰‖_F` relative to
            `max(‖W_l‖_F², ‖W_{l+1}‖_F²)` and, unless the product is free, `‖W − W⁰‖_F` relative to
            `c Π ‖W_l‖_F`. The norms are those of the given weights.
        network: the weights found, with the widths and the array kind of the given network.
        starts: number of starts, including the given network.
        hits: number of starts that ended within a relative 1e-7 of the value. If there are few, use more starts.
        converged: whether the run that found the value ended at a stationary point.
        rounding: the part of the value that allows for rounding in T and for the effect of the residual. If it is
            a hundredth of the value or more, rounding decides the value, and `repr` says so.
    """

    value: float
    residual: float
    network: Network
    starts: int
    hits: int
    converged: bool
    rounding: float = 0.0

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        state = "" if self.converged else ", not converged"
        if self.rounding >= 0.01 * self.value > 0:
            state += f", decided by rounding (of {self.rounding:.2g})"
        return f"Optimum({self.value:.6g}, residual={self.residual:.1g}, hits={self.hits}/{self.starts}{state})"


def optimum(
    network: Network | Sequence[Any], starts: int = 24, *, product: bool = True, rng: int | np.random.Generator = 0
) -> Optimum:
    """Search for `α*(D, W) = min λ_min(T)` over all weights with the imbalances and the product of a network.

    `α*` lies above every lower bound that uses only the imbalances and the product, so it shows how much a bound
    loses. The problem is not convex: the value is an upper estimate of `α*`, never a certificate. It holds for the
    weights returned; other weights may have a smaller value.

    `λ_min(T)` is the least of `⟨E, T(E)⟩` over `‖E‖_F = 1`, so minimising over the weights and E together is a
    smooth problem. From every start a trust-region Newton method moves along the constraints, with the exact Hessian
    of the Lagrangian, and Gauss–Newton steps bring it back to them. A result counts only if it meets every constraint
    to rounding, relative to the constraint's own size. The first start is the network itself. The others alternate
    between the network with its outer layers rotated, which keeps the imbalances, and random weights.

    Args:
        network: a `Network` or its weights. The search is meant for small ones: n, m and the widths up to about 5.
        starts: number of starts.
        product: whether the product is fixed; if False, the search covers all products.
        rng: seed, or a NumPy generator; the same seed gives the same result.

    Returns:
        An `Optimum`. Its value is at most `λ_min(T)` of the given network.

    Raises:
        ValueError: the weights and E have more than `MOST_UNKNOWNS` entries, even after the exact reduction of
            widths above `h_{l-1} + h_{l+1}`.

    Source: this library, docs/theory.md.

    Example:
        >>> import linflow as lf
        >>> net = lf.init.gaussian((2, 3, 1), rng=0)
        >>> found = optimum(net, starts=4)
        >>> abs(found.value - float(lf.bounds.best(net).value)) < 1e-9  # two layers, n ≠ m: the bound is attained
        True
    """
    net = Network.of(network).detach()
    starts = checks.count(starts, "starts")
    rng = checks.generator(rng)
    if net.depth == 1:
        return Optimum(net.scale**2, 0.0, net, 1, 1, converged=True)
    full = [to_numpy(W) for W in net.weights]
    # D_l lives in the range of [W_lᵀ W_{l+1}]. The range for any feasible weights can be rotated into this one
    # without changing D_l, so the cut loses nothing.
    bases = cut(full)
    weights = projected(full, bases)
    unknowns = sum(W.size for W in weights) + net.shape[0] * net.shape[1]
    if unknowns > MOST_UNKNOWNS:
        raise ValueError(
            f"{net!r} makes {unknowns} unknowns, the weights (widths reduced) and nm; optimum takes at most "
            f"{MOST_UNKNOWNS}. At this size use linflow.bounds.best, a lower bound."
        )
    given = float(TangentOperator(full).least_eigenvalue())
    if positive_least(np.linalg.eigvalsh(TangentOperator(weights).dense())) == 0:  # no value is lower
        off = tangent_rounding(net) if net.overparametrized else 0.0  # T of a narrow layer is singular
        return Optimum(net.scale**2 * max(given, 0.0) + off, 0.0, net, 1, 1, converged=True, rounding=off)
    with one_thread():  # the matrices are small and many
        search = WeightSearch(weights, product=product)
        runs = [search.descend(start, _FIRST) for start in itertools.islice(search.starts(rng), starts)]
        found = sorted((run for run in runs if run is not None), key=lambda run: run.value)
        for k, run in enumerate(found[:_FEW]):
            if not run.converged:
                found[k] = search.descend(search.vector(run.weights), _MORE) or run
    kept = _Candidate(full, max(given, 0.0), tangent_rounding(Network(full)), None)
    for run in sorted(found, key=lambda run: run.value):
        if run.value * search.size >= kept.value:  # equal, to rounding, to the given weights
            break
        inner = search.polished(run.weights)
        if search.violation(inner) > EXACT:
            continue
        layers = expanded(inner, bases, [None] * net.depth)
        value, off = float(TangentOperator(layers).least_eigenvalue()), tangent_rounding(Network(layers))
        candidate = _Candidate(layers, max(value, 0.0), off + search.sensitivity(inner), run)
        kept = min(kept, candidate, key=lambda one: one.value + one.rounding)
    level = kept.value / search.size if kept.run is None else kept.run.value
    near = [run for run in found if abs(run.value - level) <= level * _NEAR + 16 * EPS]
    result = net.with_weights([from_numpy(W, like) for W, like in zip(kept.layers, net.weights, strict=True)])
    rounding = net.scale**2 * kept.rounding
    return Optimum(
        net.scale**2 * kept.value + rounding,
        _residual(kept.layers, full, search),
        result,
        starts,
        max(1, len(near)),
        any(run.converged for run in near),
        rounding,
    )


@dataclass(frozen=True)
class _Candidate:
    """Weights on the constraints, their `λ_min(T)` and its rounding, and the run that found them."""

    layers: list[np.ndarray]
    value: float
    rounding: float
    run: Run | None


def _residual(weights: list[np.ndarray], given: list[np.ndarray], search: WeightSearch) -> float:
    """Return the largest relative violation of the constraints, at full width; see `Optimum`."""
    parts = [
        norm((A.T @ A - B @ B.T) - (C.T @ C - D @ D.T)) / unit
        for (A, B), (C, D), unit in zip(
            itertools.pairwise(weights), itertools.pairwise(given), search.imbalance_units, strict=True
        )
    ]
    if search.product:
        parts.append(norm(multiply(weights) - multiply(given)) / search.product_unit)
    return max(parts)
