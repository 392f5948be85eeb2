"""Where a polynomial of a step, known by its values at eight times, first falls below 0."""

from __future__ import annotations

import numpy as np

NODES = 0.5 - 0.5 * np.cos(np.pi * np.arange(8) / 7)
"""Chebyshev points of a step. Its dense output has degree 7: the values there determine it."""
TOGETHER = 1e-10
"""Roots that are closer than this part of a step are one event."""
CELLS, ROUNDS = 64, 9
"""Cells in which a sign is looked for, and how often the one that has it is cut into as many: to `64⁻¹⁰ < 2⁻⁵³`."""
_SIGNS = np.array([0.5, -1, 1, -1, 1, -1, 1, -0.5])


def interpolation(theta: np.ndarray) -> np.ndarray:
    """Return the matrix, shape `(k, 8)`, that takes values at `NODES` to those of their polynomial at `theta`.

    It is the barycentric formula.
    """
    gaps = theta[:, None] - NODES
    exact = gaps == 0
    weights = _SIGNS / np.where(exact, 1.0, gaps)
    weights /= weights.sum(axis=1, keepdims=True)
    at_node = exact.any(axis=1)
    weights[at_node] = exact[at_node]
    return weights


_PARTS = np.linspace(0.0, 1.0, CELLS + 1)
_ON_PARTS = interpolation(_PARTS)


def first_roots(values: np.ndarray) -> np.ndarray:
    """Return for each column the first θ in [0, 1] at which its polynomial goes below 0; inf if it does not.

    It is also inf for a column whose root is more than a cell later than the first of all.

    Args:
        values: at `NODES`, shape `(8, k)`.
    """
    below = _ON_PARTS @ values < 0
    found = np.full(values.shape[1], np.inf)
    cells = np.where(below.any(axis=0), np.argmax(below, axis=0), CELLS + 2)
    for k in np.flatnonzero(cells <= cells.min(initial=CELLS) + 1):
        found[k] = _refined(values[:, k], int(cells[k]))
    return found


def _refined(values: np.ndarray, cell: int) -> float:
    """Return the first root in the cell that ends at a part; 0 if the polynomial is below 0 from the start."""
    if cell == 0:
        return 0.0
    low, high = _PARTS[cell - 1], _PARTS[cell]
    for _ in range(ROUNDS):
        theta = low + _PARTS[1:] * (high - low)
        k = int(np.argmax(np.append(interpolation(theta[:-1]) @ values < 0, True)))
        low, high = theta[k - 1] if k else low, theta[k]
    return float(high)
