"""One step of the Dormand–Prince method of order 8 with its error estimate, on any array.

The coefficients are those of `scipy.integrate.DOP853` (Hairer, Nørsett & Wanner, Solving ODEs I, II.10).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from linflow._arrays import Array, Namespace, from_numpy, namespace, norm

ORDER = 8


@lru_cache(maxsize=1)
def tableau() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return `A` (12×12), `B` (12), and the error weights `E3`, `E5` (12) of the stages."""
    from scipy.integrate import DOP853  # noqa: PLC0415 - scipy.integrate is slow to import

    # The weight of the slope at the end of the step is zero in both error estimates of the scheme.
    return DOP853.A[:12, :12], DOP853.B, DOP853.E3[:12], DOP853.E5[:12]


def step(field: Callable[[Array], Array], y: Array, slope: Array, h: float) -> tuple[Array, float]:
    """Advance `ẏ = field(y)` by h from y, whose slope is known.

    Returns:
        The new vector, and an estimate of the norm of its local error.
    """
    A, B, E3, E5 = tableau()
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
