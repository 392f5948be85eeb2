"""Gradient descent with a constant step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from linflow import _checks
from linflow.dynamics._threads import one_thread_when_small
from linflow.dynamics.declared import DeclaredConstants
from linflow.dynamics.field import GradientField, Point, prepared
from linflow.dynamics.trajectory import Recorder, Result, Stats, Trajectory, ended_outside
from linflow.imbalance import imbalance_drift
from linflow.network import Network
from linflow.objectives import Objective

DIVERGENCE = 1e12
"""Growth of the loss gap over its start at which a descent counts as diverged."""


def gradient_descent(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    step_size: float,
    steps: int,
    until: float | None = None,
    record: Sequence[str] = ("loss", "rate"),
    every: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Trajectory:
    """Run gradient descent `W_l ← W_l − η ∂L/∂W_l`.

    As η → 0 it follows the flow with an error of order η. It moves the imbalance by
    `η²(G_lᵀG_l − G_{l+1}G_{l+1}ᵀ)` in each step.

    Args:
        objective: what is minimised.
        network: a `Network` or its weights; float32 and integers are computed in float64 and noted.
        step_size: `η > 0`.
        steps: number of steps.
        until: stop at the first step whose loss gap is at most this fraction of the initial one, in (0, 1).
        record: as for `gradient_flow`.
        every: record every so many steps (the first and the last are always recorded).
        progress: called with the fraction done, now and then.

    Returns:
        A `Trajectory` with `t = η · step`. A descent that diverges ends with that result, its records kept; its
        `network` is then the start, as the last weights mean nothing.

    Raises:
        ValueError, TypeError: arguments that do not fit.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.eye(2))
        >>> run = lf.gradient_descent(f, [np.eye(2), 0.5 * np.eye(2)], step_size=0.1, steps=100)
        >>> run.result.value, bool(run.gap[-1] < 1e-10)
        ('all steps done', True)
    """
    began = time.perf_counter()
    net = prepared(objective, network)
    eta = _checks.positive(step_size, "step_size")
    steps, every = _checks.count(steps, "steps"), _checks.count(every, "every")
    fraction = None if until is None else _checks.fraction(until, "until")
    field, declared = GradientField(objective, net), DeclaredConstants(objective)
    recorder = Recorder(field, record)
    with one_thread_when_small(net), np.errstate(over="ignore", invalid="ignore"):
        point = field.at(field.flatten(net.weights))
        first = point.gap
        result, k = Result.STEPS_DONE, 0
        while True:
            ended = _ended(field, point, first, fraction)
            if k % every == 0 or k == steps or ended is not None:
                recorder.add(k * eta, point)
                declared.observe(k * eta, field, point)
            if ended is not None or k == steps:
                result = ended or result
                break
            if progress is not None and k % 100 == 0:
                progress(k / steps)
            point = field.at(point.y + eta * point.slope)
            k += 1
    last = field.network_at(point.y) if result is not Result.DIVERGED else field.network
    drift = imbalance_drift(last, net)
    gaps = np.asarray(recorder.gap)
    return Trajectory(
        **recorder.arrays(),
        minimum=objective.minimum,
        start=net,
        network=last,
        result=result,
        stats=Stats(k, 0, field.evaluations, drift, 0.0, time.perf_counter() - began),
        notes=(*objective.notes, *net.notes, *declared.notes),
        _nodes=(np.asarray(recorder.t), np.log(np.maximum(gaps, 5e-324))),
    )


def _ended(field: GradientField, point: Point, first: float, fraction: float | None) -> Result | None:
    if not point.finite or point.gap <= 0:
        return ended_outside(field, point)
    if point.gap > DIVERGENCE * max(first, 5e-324):
        return Result.DIVERGED
    return Result.TARGET if fraction is not None and point.gap <= fraction * first else None
