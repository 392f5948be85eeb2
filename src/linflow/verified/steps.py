"""The largest step size with which gradient descent is proved to reach its target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from linflow import certificates
from linflow._support import checks
from linflow._support.arrays import from_numpy, to_numpy
from linflow._support.fractions import spelled
from linflow.dynamics import Result, gradient_descent
from linflow.dynamics.field import GradientField
from linflow.model.fitting import fitted
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import Optimizer
from linflow.verified.descent import DescentEnclosure
from linflow.verified.run import enclose

PRECISION = 1.03
"""The search ends when a failing step is at most this factor above a proved step."""

TRIALS = 60
"""Largest number of step sizes that are tried."""


class VerifiedStep(float):
    """A step size η, as a float, with the proof that descent with this step reaches its target.

    Attributes:
        enclosure: the verified descent with this step.
        edge: `2/λ_max(∇²L)` at the start and at the end of the descent.
    """

    enclosure: DescentEnclosure
    edge: tuple[float, float]

    def converging(self, steps: int = 10_000) -> float:
        """Return the largest step size, to 3 %, with which such a descent, only run, reaches the gap in `steps`."""
        enc = self.enclosure
        until = min(max(float(enc.gaps[1, -1] / enc.gaps[0, 0]), 1e-300), 0.99)

        def reaches(eta: float) -> bool:
            told = {"steps": steps, "until": until, "every": steps} | enc.optimizer.options()
            run = gradient_descent(enc.objective, enc.start, step_size=eta, **told)
            return run.result is Result.TARGET

        return _largest(reaches, float(self), PRECISION)


def safe_step_size(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    verified: bool = False,
    until: float = 1e-6,
    steps: int = 20_000,
    progress: Callable[[float], None] | None = None,
    layer_rates: Sequence[float] | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> float:
    """Return a certified step size of gradient descent, or with `verified` the largest step proved by computation.

    Without `verified`, the step is certified before any run: caps on the drift of the imbalances and on the curvature
    of the loss give the step with the least certified factor (docs/descent.md). It is cautious, often by a factor of
    100. With `verified`, the whole descent is enclosed (`enclose`) for every step that is tried. The result is the
    largest step, to 3 %, that is proved to bring the gap down to `until` of the first. With momentum the gap may rise
    at times, so a step above one that fails may be proved again; the search ends just below one that fails.

    Args:
        objective: the objective that is minimised. Its smoothness K must be finite. With `verified`, it must be one
            that `enclose` takes.
        network: a `Network` or its weights.
        verified: whether to search for the largest step that can be proved.
        until: fraction of the initial gap that the verified descent must reach.
        steps: limit on the steps of each descent that is tried.
        progress: called with the fraction of the search that is done.
        layer_rates: `ρ_1, …, ρ_L`, for the descent in which layer l takes the step `ηρ_l`; not with `verified`.
        momentum: `μ` in [0, 1) of the descent, with `verified` only; see `enclose` for the objectives it takes.
        nesterov: whether to use Nesterov's form.

    Returns:
        The step η. With `verified`, it is a `VerifiedStep` that holds its proof.

    Raises:
        ValueError: no step can be certified. The message gives the reason and says what to use instead.

    Source: this library, docs/descent.md and docs/verified.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(2 * np.eye(2)), [np.eye(2), 1.5 * np.eye(2)]
        >>> before = lf.safe_step_size(f, net)
        >>> proved = lf.safe_step_size(f, net, verified=True)
        >>> bool(before < 0.5 * proved), proved.enclosure.result
        (True, 'target proved')
        >>> heavy = lf.safe_step_size(f, net, verified=True, momentum=0.5, until=1e-2, steps=100)
        >>> bool(heavy > 1.2 * proved), heavy.enclosure.optimizer.momentum
        (True, 0.5)
    """
    start = fitted(objective, network)
    optimizer = Optimizer.of(start.depth, layer_rates=layer_rates, momentum=momentum, nesterov=nesterov)
    if not verified:
        return certificates.safe_step_size(objective, start, optimizer)
    if optimizer.layer_rates:
        raise ValueError(
            f"verified runs are of descent with one step for all layers, not with {optimizer}; leave out "
            "verified=True."
        )
    until, steps = checks.fraction(until, "until"), checks.count(steps, "steps")
    found: dict[float, DescentEnclosure] = {}

    def proved(eta: float) -> bool:
        told = {"step_size": eta, "until": until, "steps": steps} | optimizer.options()
        enc = enclose(objective, network, algorithm="descent", **told)
        if enc.result == "target proved":
            found[eta] = enc
        if progress is not None:
            progress(min(0.99, len(found) / 20))
        return enc.result == "target proved"

    first = _edge(objective, start)
    eta = _largest(proved, first, PRECISION)
    if not eta:
        raise ValueError(
            f"no step size up to {first:.3g} is proved to reach {spelled(until)} of the initial gap within {steps} "
            "steps. Raise steps or until, or leave out verified=True."
        )
    step = VerifiedStep(eta)
    step.enclosure = found[eta]
    ends = zip(step.enclosure.final.weights, start.weights, strict=True)
    last = start.with_weights([from_numpy(to_numpy(W), like) for W, like in ends])
    step.edge = (first, _edge(objective, last))
    return step


def _edge(objective: Objective, network: Network) -> float:
    """Return an estimate of `2/λ_max(∇²L)`, by power iteration on gradient differences. It is not a bound."""
    field = GradientField(objective, network)

    def slope(y: np.ndarray) -> np.ndarray:
        return -to_numpy(field(from_numpy(y, network.weights[0])))

    y = to_numpy(field.flatten(network.weights))
    v = np.random.default_rng(0).normal(size=y.size)
    h, top = 1e-6 * (float(np.linalg.norm(y)) or 1.0), 1.0
    for _ in range(60):
        v = v / np.linalg.norm(v)
        v = (slope(y + h * v) - slope(y - h * v)) / (2 * h)
        top = float(np.linalg.norm(v))
        if top == 0.0:
            return 1.0
    return 2 / top


def _largest(works: Callable[[float], bool], first: float, precision: float) -> float:
    """Return the largest number for which `works` is true, to a factor `precision`, or 0 if none is found."""
    low, high, eta = 0.0, math.inf, first
    for _ in range(TRIALS):
        if works(eta):
            low = eta
            eta = math.sqrt(low * high) if math.isfinite(high) else 1.5 * eta
        else:
            high = eta
            eta = math.sqrt(low * high) if low else eta / 2
        if (low and high / low <= precision) or eta < 1e-9 * first:
            break
    return low
