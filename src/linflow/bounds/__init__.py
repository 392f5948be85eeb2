"""Lower bounds on the least eigenvalue of T, one file for each result.

Each bound is a function of the imbalance spectra. Some theorems also use the least singular value of the product.
`table` evaluates every theorem on a network, and `best` returns the largest bound that applies.

The function of a single theorem returns the value of its bound: a float if the arguments are numbers, otherwise a
0-d array of the same kind as the arguments. `best` returns a `Bound`, which knows its theorem, and `table` returns
a list of them. Four functions return something else: `norms` a list of upper bounds on the layers, `ceilings`
upper bounds on prefixes, suffixes and T, `mode_floors` a bound for each mode, and `optimum` an `Optimum`, the result
of a search. `float` of a value, a `Bound` or an `Optimum` is the number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from linflow._support import checks
from linflow._support.arrays import Array
from linflow._support.names import missing
from linflow.bounds import any_imbalance, product_aware, scalar_chain, special_imbalance, three_layers, two_layers
from linflow.bounds._base import Bound, Invariants, Theorem, within_normal
from linflow.bounds._table import BoundTable
from linflow.bounds.any_imbalance import deep
from linflow.bounds.ceilings import Ceilings, ceilings
from linflow.bounds.layer_norms import norms
from linflow.bounds.mode_floors import mode_floors
from linflow.bounds.operator_floors import THEOREM as _OPERATOR_FLOORS
from linflow.bounds.operator_floors import operator_floors
from linflow.bounds.operator_interval import THEOREM as _OPERATOR_INTERVAL
from linflow.bounds.operator_interval import operator_interval
from linflow.bounds.optimum import Optimum, optimum
from linflow.bounds.product_aware import deep_product
from linflow.bounds.scalar_chain import scalar, scalar_exact
from linflow.bounds.special_imbalance import balanced, homogeneous, unimodal
from linflow.bounds.three_layers import three_layer
from linflow.bounds.two_layers import two_layer, two_layer_square
from linflow.model.network import Network

__all__ = [
    "THEOREMS",
    "Bound",
    "BoundTable",
    "Ceilings",
    "Invariants",
    "Optimum",
    "Theorem",
    "balanced",
    "best",
    "ceilings",
    "deep",
    "deep_product",
    "homogeneous",
    "mode_floors",
    "norms",
    "operator_floors",
    "operator_interval",
    "optimum",
    "scalar",
    "scalar_exact",
    "table",
    "three_layer",
    "two_layer",
    "two_layer_square",
    "unimodal",
]

if not TYPE_CHECKING:  # type checkers know the names
    __getattr__ = missing(__name__, __all__)

THEOREMS: tuple[Theorem, ...] = (
    scalar_chain.EXACT,
    scalar_chain.THEOREM,
    two_layers.THEOREM,
    two_layers.SQUARE,
    three_layers.THEOREM,
    special_imbalance.UNIMODAL,
    special_imbalance.HOMOGENEOUS,
    special_imbalance.BALANCED,
    any_imbalance.THEOREM,
    product_aware.THEOREM,
    _OPERATOR_FLOORS,
    _OPERATOR_INTERVAL,
)


def table(network: Network | Sequence[Any], sigma_min: Any = None) -> BoundTable:
    """Evaluate every theorem on a network, in the order of `THEOREMS`.

    Args:
        network: a `Network` or its weights.
        sigma_min: a lower bound on `σ_min` of the product, output scale included. It replaces the network's own
            singular values. Pass the margin to get bounds that hold along the whole flow, not only now.

    Returns:
        A list with one `Bound` for each theorem. Its `value` bounds `λ_min(T)` (output scale included) from below.
        `print` shows the list as a table.

    Example:
        >>> import linflow as lf
        >>> [b.name for b in lf.bounds.table(lf.init.gaussian((3, 5, 2), rng=0)) if b.applies]
        ['two layers', 'any depth, imbalance only']
    """
    net = Network.of(network)
    invariants = Invariants.of(net)
    if sigma_min is not None:
        checks.positive(sigma_min, "sigma_min", allow_zero=True)
        invariants = invariants.at(sigma_min / net.scale, math.inf)
    return evaluate(invariants, net.scale)


def evaluate(invariants: Invariants, scale: float = 1.0) -> BoundTable:
    """Evaluate every theorem on given invariants; values have the shape of `invariants.sigma_min`."""
    return BoundTable(_evaluate(theorem, invariants, scale) for theorem in THEOREMS)


def _evaluate(theorem: Theorem, invariants: Invariants, scale: float) -> Bound:
    reason = theorem.hypothesis(invariants)
    if reason is not None:
        return Bound(theorem, invariants.sigma_min * 0.0, applies=False, reason=reason)
    # Theorems that do not use σ give one value for all σ. T is positive semidefinite, so an allowance that makes the
    # bound negative does no harm: `within_normal` raises it to 0.
    value: Array = scale * theorem.evaluate(invariants) * scale + invariants.sigma_min * 0.0
    return Bound(theorem, within_normal(value), applies=True, reason="")


def best(network: Network | Sequence[Any], sigma_min: Any = None) -> Bound:
    """Return the largest bound that applies; see `table`.

    Raises:
        ValueError: the network has a single layer, so there is no imbalance and `T` is the identity.

    Example:
        >>> import linflow as lf
        >>> lf.bounds.best(lf.init.gaussian((3, 40, 2), rng=0)).name
        'two layers'
    """
    applicable = [bound for bound in table(network, sigma_min) if bound.applies]
    if not applicable:
        raise ValueError("no bound applies to a single layer; T is the identity (times scale²) there.")
    return max(applicable, key=lambda bound: float(bound.value))
