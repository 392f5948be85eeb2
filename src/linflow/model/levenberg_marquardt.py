"""The Levenberg–Marquardt method: weights are brought to constraints, by steps that are damped where they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

X = TypeVar("X")
V = TypeVar("V")


def brought_to(
    x: X,
    violation: Callable[[X], V],
    size: Callable[[V], float],
    moved: Callable[[X, V, float], X],
    *,
    goal: float,
    steps: int,
) -> X:
    """Return x brought to a violation below the goal, or near it.

    A step that makes the violation smaller is kept, and the damping falls by a factor of 5; else it rises by it.

    Args:
        x: where it begins, of any kind.
        violation: by how much x is off the constraints.
        size: the norm of a violation.
        moved: x, its violation and the damping, to `x − Jᵀ(JJᵀ + damping)⁻¹ violation`.
        goal: the size at which it ends.
        steps: the most steps.

    Example:
        >>> from linflow.model.levenberg_marquardt import brought_to
        >>> root = brought_to(  # x² = 2
        ...     1.0, lambda x: x * x - 2, abs, lambda x, off, damping: x - 2 * x * off / (4 * x * x + damping),
        ...     goal=1e-15, steps=60,
        ... )
        >>> abs(root - 2**0.5) < 1e-12
        True
    """
    off, damping = violation(x), 1e-2
    for _ in range(steps):
        now = size(off)
        if now < goal or damping > 1e8:
            break
        trial = moved(x, off, damping)
        changed = violation(trial)
        if size(changed) < now:
            x, off, damping = trial, changed, damping / 5
        else:
            damping *= 5
    return x
