"""The gradient field of the overparametrized loss on the flat vector of all weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from linflow._support.arrays import EPS, Array, detach, namespace, norm
from linflow.model.fitting import fitted
from linflow.model.network import Network, layer_gradients, multiply, running_products, running_suffixes
from linflow.model.objectives import Objective


class Point(NamedTuple):
    """Loss gap and slope at one vector of weights.

    Attributes:
        y: all weights, flat.
        slope: `−∇L(y)`.
        gap: `L − f*`.
        speed: `‖∇L‖`; along the flow, the loss falls at the square of this rate.
    """

    y: Array
    slope: Array
    gap: float
    speed: float

    @property
    def rate(self) -> float:
        """Instantaneous rate `−L̇/(L − f*) = ‖∇L‖²/(L − f*)`; 0 if the gap is 0."""
        return rate(self.gap, self.speed)

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.gap) and math.isfinite(self.speed)


def rate(gap: float, speed: float) -> float:
    """Return `Point.rate` of this gap and speed."""
    root = speed / math.sqrt(gap) if gap > 0 else 0.0
    return root * root


class GradientField:
    """The map `y ↦ −∇L(y)` and the loss gap, for the weights of one network in a flat vector y."""

    def __init__(self, objective: Objective, network: Network):
        self.objective, self.network = objective, network
        self.xp = network.xp
        self.shapes = [tuple(W.shape) for W in network.weights]
        self.evaluations = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "xp"}  # a module cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.xp = self.network.xp

    def flatten(self, weights: Sequence[Array]) -> Array:
        """Return all weights as one flat vector."""
        return self.xp.concat([self.xp.reshape(W, (-1,)) for W in weights])

    def unflatten(self, y: Array) -> list[Array]:
        """Return the weight matrices that a flat vector holds."""
        weights, start = [], 0
        for rows, columns in self.shapes:
            stop = start + rows * columns
            weights.append(self.xp.reshape(y[start:stop], (rows, columns)))
            start = stop
        return weights

    def network_at(self, y: Array) -> Network:
        """Return the network whose weights a flat vector holds."""
        return self.network.with_weights(self.unflatten(y))

    def __call__(self, y: Array) -> Array:
        """Return `−∇L(y)`."""
        weights = self.unflatten(y)
        suffixes = running_suffixes(weights)
        return self._slope(weights, suffixes, self._product(weights, suffixes))

    def at(self, y: Array) -> Point:
        """Return the loss gap and the slope at y."""
        weights = self.unflatten(y)
        suffixes = running_suffixes(weights)
        W = self._product(weights, suffixes)
        slope = self._slope(weights, suffixes, W)
        return Point(y, slope, self.objective.gap(W), norm(slope))

    def slope_on(self, y: Array, rows: Array) -> Array:
        """Return `−∇L(y)` on some samples, scaled to all of them (`Objective.batch_gradient`)."""
        weights = self.unflatten(y)
        suffixes = running_suffixes(weights)
        self.evaluations += 1
        G = self.objective.batch_gradient(self._product(weights, suffixes), rows)
        return self.flatten(layer_gradients(weights, -self.network.scale * detach(G), suffixes))

    def _product(self, weights: Sequence[Array], suffixes: Sequence[Array]) -> Array:
        W = weights[0] if suffixes[0] is None else weights[0] @ suffixes[0]
        return self.network.scale * W

    def _slope(self, weights: Sequence[Array], suffixes: Sequence[Array], W: Array) -> Array:
        self.evaluations += 1
        G = -self.network.scale * detach(self.objective.gradient(W))
        return self.flatten(layer_gradients(weights, G, suffixes))

    def slope_change(self, y: Array, velocity: Array) -> Array:
        """Return the derivative of `−∇L` at y along a velocity, `−∇²L(y) velocity`."""
        return self.flatten(self._slope_derivative(self.unflatten(y), self.unflatten(velocity)))

    def curvature(self, point: Point) -> float:
        """Return `d²/dt² log(L − f*) = −(d‖∇L‖²/dt / (L − f*) + rate²)`, from the slope's change along itself."""
        change = self.slope_change(point.y, point.slope)
        growth = 2 * float(self.xp.sum(point.slope * change))  # d‖∇L‖²/dt
        return -(growth / point.gap + point.rate * point.rate)

    def _slope_derivative(self, weights: Sequence[Array], rates: Sequence[Array]) -> list[Array]:
        """Return the derivative of `−∂L/∂W_l` when each `W_l` moves at the given rate."""
        c = self.network.scale
        P, S = running_products(weights), running_suffixes(weights)
        dP, dS = _moving_products(weights, rates, P), _moving_suffixes(weights, rates, S)
        W = c * multiply(weights)
        dW = rates[0] if S[0] is None else rates[0] @ S[0] + weights[0] @ dS[0]
        G = -c * detach(self.objective.gradient(W))
        dG = -c * detach(self.objective.hessian_product(W, c * dW))
        changes = []
        for p, dp, s, ds in zip(P, dP, S, dS, strict=True):
            left = dG if p is None else p.T @ dG + dp.T @ G
            total = left if s is None else left @ s.T
            if s is not None:
                total = total + (G if p is None else p.T @ G) @ ds.T
            changes.append(total)
        return changes

    def grain(self, point: Point) -> float:
        """Return `Σ_l ‖W_l‖ ‖∂L/∂W_l‖ / ‖∇L‖ ≤ ‖y‖`, the scale of rounding errors in the weights.

        An error of ε times this scale changes the gap as much as rounding does. If the layers differ in size by
        orders of magnitude, it is far below ε‖y‖.
        """
        pairs = zip(self.unflatten(point.y), self.unflatten(point.slope), strict=True)
        return sum(norm(W) * (norm(part) / point.speed) for W, part in pairs) if point.speed > 0 else 0.0

    def is_stationary(self, point: Point) -> bool:
        """Return whether every layer's gradient is mere rounding, given the norms of the factors that form it."""
        weights = self.unflatten(point.y)
        network = self.network_at(point.y)
        G = self.objective.gradient(network.product())
        noise = self.network.scale * (8 * EPS * norm(G) + self.objective.gradient_rounding(network))
        parts = self.unflatten(point.slope)
        for gradient, P, S in zip(parts, running_products(weights), running_suffixes(weights), strict=True):
            factors = (1.0 if P is None else norm(P)) * (1.0 if S is None else norm(S))
            if norm(gradient) > noise * factors:
                return False
        return True


def _moving_products(weights: Sequence[Array], rates: Sequence[Array], prefixes: Sequence[Array]) -> list[Array]:
    """Return the derivatives of the prefixes."""
    moving: list[Array] = [None]
    for W, dW, P in zip(weights, rates, prefixes, strict=True):
        dP = moving[-1]
        moving.append(dW if P is None else P @ dW if dP is None else dP @ W + P @ dW)
    return moving[:-1]


def _moving_suffixes(weights: Sequence[Array], rates: Sequence[Array], suffixes: Sequence[Array]) -> list[Array]:
    """Return the derivatives of the suffixes."""
    moving: list[Array] = [None]
    for W, dW, S in zip(reversed(weights), reversed(rates), reversed(suffixes), strict=True):
        dS = moving[-1]
        moving.append(dW if S is None else dW @ S if dS is None else W @ dS + dW @ S)
    return moving[:-1][::-1]


def prepared(objective: Objective, network: Network | Sequence[Any]) -> Network:
    """Return the network a run starts from: checked against the objective, without autograd graphs.

    Raises:
        ValueError, TypeError: objective and network do not fit together, or the gradient has the wrong shape or kind.
    """
    net = fitted(objective, network)
    W = net.product()
    G = objective.gradient(W)
    namespace(W, G)
    if tuple(G.shape) != tuple(W.shape):
        raise ValueError(
            f"the gradient has shape {tuple(G.shape)} and the product {tuple(W.shape)}; gradient must return "
            "an array of the shape of its argument."
        )
    return net
