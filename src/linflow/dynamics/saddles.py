"""Checks whether a run that rests above the minimum is at a saddle, and how steep the way out is."""

from __future__ import annotations

import numpy as np

from linflow._support.arrays import from_numpy, norm, to_numpy
from linflow.dynamics.field import GradientField
from linflow.model.network import Network
from linflow.model.objectives import Objective

MOST_WEIGHTS = 200
"""Largest number of weights for which the Hessian of the loss is formed."""


def saddle_note(f: Objective, network: Network) -> str | None:
    """Return a note that stationary weights are a saddle, with the least eigenvalue of `∇²L`; None if uncertain.

    For convex f and hidden widths of at least min(n, m) every local minimum of the loss is a global one (Laurent and
    von Brecht 2018), so a stationary point with a loss above f* is a saddle. If `∇f(W)` itself is rounding, W may
    just as well be a minimum, in a direction that f hardly sees. At the origin the least eigenvalue is
    `−c σ_1(∇f(0))` for two layers and 0 for more.

    Args:
        f: the objective.
        network: the weights at full width; a reduced network has fewer ways out.
    """
    W = network.product()
    gap, convex = f.gap(W), f.derived or f.strong_convexity > 0
    if not convex or not network.overparametrized or not gap > f.rounding(network):
        return None
    if not norm(f.gradient(W)) > f.gradient_rounding(network):
        return None
    text = f"at a saddle: the loss is {gap:.3g} above f*, and for a convex f in full width no minimum is"
    field = GradientField(f, network)
    y = field.flatten(network.weights)
    if y.shape[0] > MOST_WEIGHTS:
        return text
    moved = [
        to_numpy(field.flatten(field._slope_derivative(network.weights, field.unflatten(from_numpy(row, y)))))
        for row in np.eye(y.shape[0])
    ]
    H = -np.array(moved)
    least = float(np.linalg.eigvalsh((H + H.T) / 2)[0])
    return f"{text} (least eigenvalue of its Hessian {0.0 if abs(least) < 1e-300 else least:.3g})"
