"""One step of the Dormand–Prince method of order 8 with its error estimate, on any array."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linflow._arrays import Array, Namespace, from_numpy, namespace, norm
from linflow.dynamics._tableau import E3, E5, A, B

ORDER = 8


def step(field: Callable[[Array], Array], y: Array, slope: Array, h: float) -> tuple[Array, float]:
    """Advance `ẏ = field(y)` by h from y, whose slope is known.

    Returns:
        The new vector, and an estimate of the norm of its local error.
    """
    xp = namespace(y)
    stages = [slope]
    for i in range(1, 12):
        stages.append(field(y + h * _combine(xp, A[i, :i], stages)))
    K = xp.stack(stages)
    new = y + h * (from_numpy(B, y) @ K)
    fifth, third = norm(from_numpy(E5, y) @ K), norm(from_numpy(E3, y) @ K)
    if fifth == 0.0:
        return new, 0.0
    return new, abs(h) * fifth * (fifth / float(np.hypot(fifth, 0.1 * third)))


def _combine(xp: Namespace, coefficients: np.ndarray, stages: list[Array]) -> Array:
    total = None
    for a, k in zip(coefficients, stages, strict=True):
        if a != 0.0:
            total = float(a) * k if total is None else total + float(a) * k
    return total
