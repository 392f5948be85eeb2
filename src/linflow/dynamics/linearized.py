"""The flow of the model linearised at its start, beside which the flow of the model itself can be laid."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support.arrays import Array, namespace
from linflow.dynamics.field import prepared
from linflow.dynamics.flow import gradient_flow
from linflow.dynamics.trajectory import Checkpoints, Trajectory
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network
from linflow.model.objectives import Objective

LARGEST = 3000
"""Largest nm for three layers or more, where the square root of T needs its dense matrix: some seconds."""


def linearized_flow(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    until: float | None = None,
    t_max: float | None = None,
    times: Sequence[float] = (),
    rtol: float = 1e-8,
    max_steps: int = 100_000,
) -> Trajectory:
    """Integrate the gradient flow of the linearised model `W(θ_0) + DW(θ_0)[θ − θ_0]`, θ all weights.

    Its product follows `Ẇ = −T(0) ∇f(W)` with the operator T of the start, which never changes. In the lazy regime
    the model itself stays near it; `record=("tangent_change",)` of `gradient_flow` measures how far T moves.

    The integrator, its tolerances and the ways to end are those of `gradient_flow`, on V with
    `W = W_0 + T(0)^{1/2} (V − V_0)`, `V̇ = −T(0)^{1/2} ∇f(W)`, which is a gradient flow.

    Args:
        objective: the objective f.
        network: a `Network` or its weights, at which the model is linearised.
        until: fraction of the initial loss gap to reach, as for `gradient_flow`.
        t_max: time to stop at.
        times: times at which a step must end exactly.
        rtol: relative tolerance of one step.
        max_steps: limit on the number of accepted and rejected steps together.

    Returns:
        A `Trajectory` whose networks have one layer, the product W of the linearised model.

    Raises:
        ValueError: for three layers or more, nm is above 3000; or as for `gradient_flow`.

    Source: Jacot, Gabriel & Hongler 2018; Chizat, Oyallon & Bach 2019.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.array([[2.0]])), [np.array([[1.0]]), np.array([[1.0]])]
        >>> linear = lf.linearized_flow(f, net, t_max=1.0)  # T(0) = 2, so 2 − w falls as e^{−2t}
        >>> float(linear.final.product()[0, 0].round(9)), float(2 - np.exp(-2.0).round(9))
        (1.864664717, 1.864664717)
    """
    net = prepared(objective, network)
    linear = _Linearized(objective, net)
    options = {"t_max": t_max, "times": times, "rtol": rtol, "max_steps": max_steps}
    run = gradient_flow(linear, [linear.origin], until=until, engine="plain", **options)
    kept = run.checkpoints
    assert isinstance(kept, Checkpoints)
    kept.expand = linear.model_at
    ends = (linear.model_at(run.start), linear.model_at(run.final))
    return dataclasses.replace(run, start=ends[0], final=ends[1], notes=(*net.notes, *run.notes))


class _Linearized(Objective):
    """`g(V) = f(W_0 + T^{1/2} (V − V_0))` on `R^{n×m}`, whose gradient flow moves the product W by `−T ∇f(W)`.

    V moves as far as the weights of the linearised model do. `V_0` has the size of these weights, so that the
    integrator's tolerance is that of the model itself.
    """

    name = "linearised objective"

    def __init__(self, objective: Objective, network: Network):
        self.inner, self.first = objective, network.product()
        self.shape = network.shape
        self.strong_convexity, self.smoothness, self.pl_constant = 0.0, float("inf"), 0.0
        size = math.hypot(*network.sizes) / math.sqrt(math.prod(self.shape))
        self.origin = 0.0 * self.first + size
        self.minimum, self.minimizer, self.notes = objective.minimum, None, objective.notes
        self._values, self._left, self._right = _decomposition(network)

    def root(self, E: Array) -> Array:
        """Return `T^{1/2} E`."""
        with np.errstate(over="ignore", invalid="ignore"):  # a flow that leaves float64 ends and says so
            if self._right is None:
                n, m = self.shape
                flat = namespace(E).reshape(E, (n * m,))
                return namespace(E).reshape(self._left @ (self._values * (self._left.T @ flat)), (n, m))
            return self._left @ (self._values * (self._left.T @ E @ self._right)) @ self._right.T

    def product(self, V: Array) -> Array:
        """Return `W = W_0 + T^{1/2} (V − V_0)`."""
        return self.first + self.root(V - self.origin)

    def model_at(self, network: Network) -> Network:
        """Return the network of one layer W that belongs to the network of one layer V."""
        return Network([self.product(network.weights[0])])

    def value(self, W: Array) -> float:
        """Return `g(V)`."""
        return self.inner.value(self.product(W))

    def gap(self, W: Array) -> float:
        """Return `g(V) − f*`."""
        return self.inner.gap(self.product(W))

    def gradient(self, W: Array) -> Array:
        """Return `T^{1/2} ∇f(W)`."""
        return self.root(self.inner.gradient(self.product(W)))

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `T^{1/2} ∇²f(W)[T^{1/2} V]`."""
        return self.root(self.inner.hessian_product(self.product(W), self.root(V)))

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding, that of f at W."""
        return self.inner.rounding(self.model_at(network))

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in the gradient."""
        xp = namespace(self._values)
        return float(xp.max(self._values)) * self.inner.gradient_rounding(self.model_at(network))


def _decomposition(network: Network) -> tuple[Array, Array, Array | None]:
    """Return the square roots of the eigenvalues of T and its eigenvectors: two factors, or one dense matrix."""
    xp, (n, m), c = network.xp, network.shape, network.scale
    if network.depth <= 2:
        if network.depth == 1:
            gram = 0.5 * xp.eye(n, dtype=xp.float64), 0.5 * xp.eye(m, dtype=xp.float64)
        else:
            gram = network.weights[0] @ network.weights[0].T, network.weights[1].T @ network.weights[1]
        (a, left), (b, right) = (xp.linalg.eigh(G) for G in gram)
        return c * _root(xp, a[:, None] + b[None, :]), left, right
    if n * m > LARGEST:
        raise ValueError(
            f"nm = {n * m} is above {LARGEST}: for {network.depth} layers the square root of T needs a dense matrix "
            "of that size. Use fewer outputs, or two layers."
        )
    values, vectors = xp.linalg.eigh(TangentOperator(network).dense())
    return _root(xp, values), vectors, None


def _root(xp: Any, values: Array) -> Array:
    """Return square roots; eigenvalues that rounding made negative count as 0."""
    return xp.sqrt(xp.where(values > 0, values, 0.0 * values))
