"""One step of the Dormand–Prince method of order 8 with its error estimate, on any array."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linflow._support.arrays import Array, from_numpy, is_numpy, namespace, norm
from linflow.dynamics._tableau import E3, E5, A, B

ORDER = 8


def step(field: Callable[[Array], Array], y: Array, slope: Array, h: float) -> tuple[Array, float]:
    """Advance `ẏ = field(y)` by h from y, whose slope is known.

    Returns:
        The new vector, and an estimate of the norm of its local error.
    """
    K = _stages(field, y, slope, h)
    new = y + h * (from_numpy(B, y) @ K)
    fifth, third = norm(from_numpy(E5, y) @ K), norm(from_numpy(E3, y) @ K)
    if fifth == 0.0:
        return new, 0.0
    return new, abs(h) * fifth * (fifth / float(np.hypot(fifth, 0.1 * third)))


def _stages(field: Callable[[Array], Array], y: Array, slope: Array, h: float) -> Array:
    """Return the slopes of the stages, shape `(12, N)`."""
    if is_numpy(y):  # large vectors, where every pass over the memory counts
        K = np.empty((12, y.shape[0]))
        K[0] = slope
        for i in range(1, 12):
            used = np.flatnonzero(A[i])
            first = used[1] if len(used) > 1 else 1  # between them and the first stage, weights are zero
            stage = A[i, first:i] @ K[first:i]
            stage += A[i, 0] * K[0]
            stage *= h
            stage += y
            K[i] = field(stage)
        return K
    xp, stages = namespace(y), [slope]
    for i in range(1, 12):
        terms = [float(a) * k for a, k in zip(A[i, :i], stages, strict=True) if a != 0.0]
        stages.append(field(y + h * sum(terms[1:], terms[0])))
    return xp.stack(stages)
