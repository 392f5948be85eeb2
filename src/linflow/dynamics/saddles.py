"""Whether a run that came to rest above the minimum is at a saddle, and how steep the way out is."""

from __future__ import annotations

import numpy as np

from linflow._support.arrays import from_numpy, to_numpy
from linflow.dynamics.field import GradientField, Point

MOST_WEIGHTS = 200
"""Weights up to which the Hessian of the loss is formed."""


def saddle_note(field: GradientField, point: Point) -> str | None:
    """Return that a stationary point is a saddle, with the least eigenvalue of `∇²L`; None where it is not certain.

    For convex f and hidden widths of at least min(n, m) every local minimum of the loss is a global one (Laurent and
    von Brecht 2018), so a stationary point with a loss above f* is a saddle. At the origin the least eigenvalue is
    `−c σ_1(∇f(0))` for two layers and 0 for more.
    """
    f, network = field.objective, field.network_at(point.y)
    convex = f.derived or f.strong_convexity > 0
    if not convex or not network.overparametrized or not point.gap > f.rounding(network):
        return None
    text = f"at a saddle: the loss is {point.gap:.3g} above f*, and for a convex f in full width no minimum is"
    if point.y.shape[0] > MOST_WEIGHTS:
        return text
    weights, rows = field.unflatten(point.y), np.eye(point.y.shape[0])
    moved = [
        to_numpy(field.flatten(field._slope_derivative(weights, field.unflatten(from_numpy(row, point.y)))))
        for row in rows
    ]
    H = -np.array(moved)
    least = float(np.linalg.eigvalsh((H + H.T) / 2)[0])
    return f"{text} (least eigenvalue of its Hessian {0.0 if abs(least) < 1e-300 else least:.3g})"
