"""Gradient descent of a two-layer ReLU network, with its flips and the exact law of its imbalances."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import norm
from linflow.dynamics.trajectory import Result, Stats
from linflow.relu.certificate import regression
from linflow.relu.network import Network
from linflow.relu.pieces import OFF, ON, Field, Pattern
from linflow.relu.trajectory import WORDS, Flip, Trajectory

MOST_FLIPS = 100_000
"""Flips listed; a descent that chatters at a kink has one at every step."""


def gradient_descent(
    X: Any,
    Y: Any,
    network: Any,
    *,
    step_size: float,
    steps: int | None = None,
    until: float | None = None,
) -> Trajectory:
    """Run gradient descent with a constant step on `½‖σ(XU + 1bᵀ)V − Y‖_F²`.

    At `z_ij = 0` the slope is that of `z < 0`, as in PyTorch. Every neuron keeps the exact law
    `D_j⁺ − D_j = η²(‖∂L/∂u_j‖² − ‖∂L/∂v_j‖²)`, `D_j = ‖u_j‖² + b_j² − ‖v_j‖²`, whose sum is `run.imbalance_law`.

    Args:
        X: inputs, shape `(N, d)`.
        Y: targets, shape `(N, m)`, or `(N,)` for one output.
        network: a `relu.Network`; two layers stand for a ReLU without bias.
        step_size: η.
        steps: the largest number of steps; 100 000 if it is not given.
        until: fraction of the initial loss to reach, in (0, 1).

    Returns:
        A `relu.Trajectory`.

    Raises:
        ValueError, TypeError: invalid arguments.

    Source: docs/relu.md, Lemma 4.

    Example:
        >>> import numpy as np
        >>> from linflow import relu
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((6, 12)) / 12**0.5, rng.standard_normal(6)
        >>> net = relu.paired((12, 100, 1), 1.0, rng=0)
        >>> run = relu.gradient_descent(X, Y, net, step_size=0.005, until=1e-2)
        >>> change = relu.imbalance(run.final) - relu.imbalance(net)
        >>> run.result.value, bool(np.abs(change - run.imbalance_law).max() < 1e-12)
        ('target reached', True)
    """
    began = time.perf_counter()
    net = Network.of(network)
    problem = regression(X, Y, net)
    eta = checks.positive(step_size, "step_size")
    most = 100_000 if steps is None else checks.count(steps, "steps")
    target = -1.0 if until is None else checks.fraction(until, "until")
    field = Field(problem, net, net.slope)
    y = field.vector(net.extended, net.V)
    sides = np.where(field.z(y) > 0, ON, OFF)
    point = field.at(y, Pattern(sides, net.slope))
    times, gaps, rates, paths = [0.0], [point.gap], [point.rate], [0.0]
    law, flips, result = np.zeros(net.width), [], Result.STEPS_DONE
    for k in range(1, most + 1):
        law += eta**2 * (np.sum(point.U_dot**2, axis=0) - np.sum(point.V_dot**2, axis=1))
        y = y + eta * field.vector(point.U_dot, point.V_dot, norm(point.residual))
        now = np.where(field.z(y) > 0, ON, OFF)
        for i, j in zip(*np.nonzero(now != sides), strict=True):
            if len(flips) < MOST_FLIPS:
                flips.append(Flip(k * eta, int(j), int(i), WORDS[int(sides[i, j])], WORDS[int(now[i, j])]))
        sides = now
        point = field.at(y, Pattern(sides, net.slope))
        if not np.isfinite(point.gap):
            result = Result.DIVERGED
            break
        times.append(k * eta)
        gaps.append(point.gap)
        rates.append(point.rate)
        paths.append(float(y[-1]))
        if point.gap <= target * gaps[0]:
            result = Result.TARGET
            break
    final = net.with_layers(*field.layers(y)) if result is not Result.DIVERGED else net
    stats = Stats(len(times) - 1, 0, len(times), net.drift(final), time.perf_counter() - began)
    return Trajectory(
        np.array(times),
        np.array(gaps),
        np.array(rates),
        np.array(paths),
        net,
        final,
        tuple(flips),
        result,
        stats,
        problem,
        algorithm="descent",
        step_size=eta,
        until=until,
        imbalance_law=law,
    )
