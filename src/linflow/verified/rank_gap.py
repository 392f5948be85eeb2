"""The least loss that the widths allow, and the gap from it: factorizations with a bottleneck (Eckart & Young)."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow._support.arrays import to_numpy
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.quadratics import MatrixFactorization
from linflow.verified.rounding import UP, U
from linflow.verified.spectra import singular_value_bounds


def rank_floor(objective: Objective, network: Network) -> tuple[float, float]:
    """Return bounds of `½ Σ_{i>r} σ_i(Y)²` for the least width r; both are 0 if r is not below that of the product.

    Raises:
        ValueError: a hidden layer is narrower than the product, and the objective is not a `MatrixFactorization`.
    """
    r = min(network.widths)
    if r == min(network.shape):
        return 0.0, 0.0
    if not isinstance(objective, MatrixFactorization):
        raise ValueError(  # noqa: TRY004 - of the right type, but of another kind
            f"the least loss of rank {r} is known for MatrixFactorization, not for a "
            f"{type(objective).__name__}; use gap_bounds, which measures from the minimum over all ranks."
        )
    low, high = singular_value_bounds(np.asarray(to_numpy(objective.Y), dtype=np.float64))
    return 0.5 * float(np.sum(low[r:] ** 2)) * (1 - 1e-12), 0.5 * float(np.sum(high[r:] ** 2)) * UP


def above(floor: tuple[float, float], low: Any, high: Any) -> tuple[Any, Any]:
    """Return bounds of a gap less a floor, from bounds of both; the gaps may be arrays."""
    least, most = floor
    return np.maximum(0.0, low - most * UP), np.maximum(0.0, high - least * (1 - 1e-12)) * UP + U * high
