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
from linflow.relu.pieces import OFF, ON, Field, Pattern, PiecePoint
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
        A `relu.Trajectory`. If the loss leaves float64, `result` says "diverged", and the run ends with the last step
        before.

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
    with np.errstate(over="ignore", invalid="ignore"):  # a descent that leaves float64 ends and says so
        loop = _DescentOnPieces(Field(problem, net, net.slope), net, eta)
        result = loop.run(most, target)
        final = net.with_layers(*loop.field.layers(loop.y))
        stats = Stats(len(loop.records) - 1, 0, len(loop.records), net.drift(final), time.perf_counter() - began)
    times, gaps, rates, paths = np.array(loop.records).T
    return Trajectory(
        times,
        gaps,
        rates,
        paths,
        net,
        final,
        tuple(loop.flips),
        result,
        stats,
        problem,
        algorithm="descent",
        step_size=eta,
        until=until,
        imbalance_law=loop.law,
    )


class _DescentOnPieces:
    """One descent: the weights reached, the flips, the law of the imbalances, and for each step its records."""

    def __init__(self, field: Field, net: Network, eta: float):
        self.field, self.slope, self.eta = field, net.slope, eta
        self.y, self.law = field.vector(net.extended, net.V), np.zeros(net.width)
        self.flips: list[Flip] = []
        self.records: list[tuple[float, float, float, float]] = []

    def run(self, most: int, target: float) -> Result:
        """Take steps until the loss is `target` times the first, or no longer a number."""
        y, eta = self.y, self.eta
        sides, point = self._at(y)
        self._keep(0.0, y, point)
        if not self._finite(y, point):
            return Result.DIVERGED
        for k in range(1, most + 1):
            law = self.law + np.sum((eta * point.U_dot) ** 2, axis=0) - np.sum((eta * point.V_dot) ** 2, axis=1)
            y = y + eta * self.field.vector(point.U_dot, point.V_dot, norm(point.residual))
            before, (sides, point) = sides, self._at(y)
            if not self._finite(y, point):
                return Result.DIVERGED
            self.law = law
            for i, j in zip(*np.nonzero(sides != before), strict=True):
                if len(self.flips) < MOST_FLIPS:
                    words = WORDS[int(before[i, j])], WORDS[int(sides[i, j])]
                    self.flips.append(Flip(k * eta, int(j), int(i), *words))
            self._keep(k * eta, y, point)
            if point.gap <= target * self.records[0][1]:
                return Result.TARGET
        return Result.STEPS_DONE

    def _at(self, y: np.ndarray) -> tuple[np.ndarray, PiecePoint]:
        sides = np.where(self.field.z(y) > 0, ON, OFF)
        return sides, self.field.at(y, Pattern(sides, self.slope))

    def _keep(self, t: float, y: np.ndarray, point: PiecePoint) -> None:
        self.y = y
        self.records.append((t, point.gap, point.rate, float(y[-1])))

    @staticmethod
    def _finite(y: np.ndarray, point: PiecePoint) -> bool:
        return bool(np.isfinite(point.gap) and np.isfinite(y).all())
