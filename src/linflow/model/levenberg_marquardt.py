"""The Levenberg–Marquardt method, which moves weights onto constraints and damps the steps that fail."""

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
    """Return x after it has been moved until its violation is below the goal, or until the steps run out.

    A step that makes the violation smaller is kept, and the damping is divided by 5. Otherwise the step is dropped,
    and the damping is multiplied by 5.

    Args:
        x: the starting point, of any type.
        violation: returns by how much x violates the constraints.
        size: returns the norm of a violation.
        moved: takes x, its violation and the damping; returns `x − Jᵀ(JJᵀ + damping)⁻¹ violation`.
        goal: the iteration ends when the size of the violation is below this.
        steps: the largest number of steps.

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
