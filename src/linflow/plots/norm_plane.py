"""Data for the map of the norms of two layers: the bounds at each start, and the curves along which flows move."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from linflow import bounds
from linflow._support.arrays import from_numpy, to_numpy
from linflow.certificates.margin import product_range
from linflow.model.network import Network
from linflow.model.objectives import Objective


def norm_bounds(objective: Objective, a: ArrayLike, b: ArrayLike) -> dict[str, np.ndarray]:
    """Return lower bounds on `λ_min(T)` along the flow from each start (a, b) of `lf.plots.init_map`.

    With W* = U diag(σ) Vᵀ, the start has the product `ab·UVᵀ`. Its imbalance has the eigenvalue a² − b² on
    `min(n, m)` modes and 0 on the others.

    Args:
        objective: Strongly convex, with a known minimiser.
        a: Norms of the first layer.
        b: Norms of the second layer, in a shape that broadcasts with that of `a`.

    Returns:
        The bounds by name: "imbalance" from the imbalance alone; "both" from imbalance and margin together; and, for
        n = m, "margin" from the margin alone. Each has the broadcast shape of `a` and `b`.
    """
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    n, m = objective.shape
    held = _held(objective, a * b)
    imbalance, both = np.zeros_like(held), np.zeros_like(held)
    seen: dict[tuple[float, float], tuple[float, float]] = {}
    for i in np.ndindex(held.shape):
        u, v, least = float(a[i]), float(b[i]), float(held[i])
        key = (max(u, v), min(u, v)) if n == m else (u, v)  # for n = m, the two layers are interchangeable
        if key not in seen:
            D = np.array([(u - v) * (u + v)] * min(n, m) + [0.0] * (n + m - min(n, m)))
            sigmas = least if n <= m else 0.0, least if m <= n else 0.0
            seen[key] = float(bounds.two_layer(D, n, m, 0.0, 0.0)), float(bounds.two_layer(D, n, m, *sigmas))
        imbalance[i], both[i] = seen[key]
    found = {"imbalance": imbalance, "both": both}
    # Spreads are 0 only for n = m. Only then does the balanced bound hold at every imbalance of the plane.
    return {**found, "margin": np.asarray(bounds.balanced(2, n, m, held))} if n == m else found


def _held(objective: Objective, products: np.ndarray) -> np.ndarray:
    """Return the margin of each start: a lower bound on the least singular value of its product along the flow."""
    n, _ = objective.shape
    U, _, Vt = np.linalg.svd(to_numpy(objective.minimizer), full_matrices=False)
    E = from_numpy(U @ Vt, objective.minimizer)
    small = Network([from_numpy(np.eye(n), objective.minimizer), E])  # its size fixes the rounding of a margin
    distinct, where = np.unique(products.round(14), return_inverse=True)
    gaps = np.array([objective.gap(float(p) * E) for p in distinct])
    return product_range(objective, small, gaps)[0][where].reshape(products.shape)


def level_sets(reach: float) -> dict[float, np.ndarray]:
    """Return, for each d whose curve is drawn, the points (a, b) with a² − b² = d inside the map, shape `(2, N)`."""
    curves = {}
    for d in np.array([0.15, 0.4, 0.75]) * reach**2:
        short = np.linspace(0, math.sqrt(reach**2 - d), 60)
        long = np.sqrt(short**2 + d)
        curves[float(d)], curves[-float(d)] = np.array([long, short]), np.array([short, long])
    return curves
