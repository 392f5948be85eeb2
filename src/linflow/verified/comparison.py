"""The distance of gradient descent from gradient flow: both are enclosed, then compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import spread
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.verified.rounding import UP, U
from linflow.verified.run import descent_and_flow

POINTS = 200
"""Largest number of steps, evenly spread, at which the two are compared."""


@dataclass(frozen=True, repr=False)
class FlowDescentGap:
    """Bounds of the distance of the exact descent `θ_k` to the exact flow `θ(kη)` from the same start.

    Attributes:
        step_size: η.
        k: the compared steps, shape `(K,)`.
        t: `kη`.
        distance: lower and upper bounds of `‖θ_k − θ(kη)‖`, shape `(2, K)`.
        flow: bounds of the loss gap of the flow at `kη`, shape `(2, K)`.
        descent: bounds of the loss gap of the descent after k steps, shape `(2, K)`.
        reason: why the comparison ends early; empty if it does not.
    """

    step_size: float
    k: np.ndarray
    t: np.ndarray
    distance: np.ndarray
    flow: np.ndarray
    descent: np.ndarray
    reason: str = ""

    @property
    def largest(self) -> tuple[float, float]:
        """Bounds of the largest distance over the compared steps."""
        return float(self.distance[0].max()), float(self.distance[1].max())

    @property
    def loss_difference(self) -> np.ndarray:
        """Bounds of `f(descent) − f(flow)`, shape `(2, K)`."""
        return np.stack([self.descent[0] - self.flow[1], self.descent[1] - self.flow[0]])

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return {
            "step_size": self.step_size,
            "k": self.k.tolist(),
            "t": self.t.tolist(),
            "distance": self.distance.tolist(),
            "flow_gap": self.flow.tolist(),
            "descent_gap": self.descent.tolist(),
            "reason": self.reason,
        }

    def __repr__(self) -> str:
        low, high = self.largest
        return (
            f"FlowDescentGap(step {self.step_size:.4g}, {self.k[-1]} steps, largest distance {low:.4g} to {high:.4g})"
        )


def flow_descent_gap(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    step_size: float,
    until: float = 1e-4,
    steps: int = 20_000,
    progress: Callable[[float], None] | None = None,
) -> FlowDescentGap:
    """Bound the distance of gradient descent to gradient flow, which is of order η, along a whole run.

    Both are enclosed (`enclose`) in the same coordinates. The distance of the two paths, minus and plus the two
    radii, therefore bounds `‖θ_k − θ(kη)‖`. The loss gaps have bounds of their own.

    Args:
        objective: an objective that `enclose` takes.
        network: a `Network` or its weights.
        step_size: η of the descent.
        until: fraction of the initial loss gap at which the descent ends.
        steps: largest number of steps of the descent.
        progress: called with the fraction done.

    Returns:
        A `FlowDescentGap` at up to 200 evenly spread steps.

    Raises:
        ValueError: the arguments do not fit together, or not one step could be enclosed.

    Source: this library, docs/verified.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 4, 2), rng=0)
        >>> coarse, fine = (lf.flow_descent_gap(f, net, step_size=eta) for eta in (2e-3, 1e-3))
        >>> round(coarse.largest[1] / fine.largest[0], 1)  # of first order in the step
        2.0
    """
    eta = checks.positive(step_size, "step_size")
    until, steps = checks.fraction(until, "until"), checks.count(steps, "steps")
    descent, iterates, flow = descent_and_flow(objective, network, eta, until, steps, progress)
    last = min(descent.steps, math.floor(flow.end / eta * (1 - 1e-12)))
    if last < 1:
        raise ValueError(f"nothing could be compared: {descent.reason or flow.reason}.")
    k = spread(last + 1, POINTS)
    distances, flows = [], []
    for j in k:
        t = float(j) * eta
        weights, low, high, radius = flow.around(t)
        moved = math.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in zip(weights, iterates[j], strict=True)))
        # The product kη is rounded. The flow moves by its speed times this rounding.
        off = (radius + float(descent.radius[j]) + 2 * U * t * flow.speed(t)) * UP + 1e-12 * moved
        distances.append((max(0.0, moved - off), moved + off))
        flows.append((low, high))
    return FlowDescentGap(
        eta, k, k * eta, np.array(distances).T, np.array(flows).T, descent.gaps[:, k], descent.reason or flow.reason
    )
