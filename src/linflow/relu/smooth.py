"""Two-layer networks with a smooth activation."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS
from linflow.geometry.conserved import Conserved
from linflow.relu.activations import ACTIVATIONS, Activation
from linflow.relu.layers import TwoLayers


class SmoothNetwork(TwoLayers):
    """A two-layer model `Z = φ(X U + 1 bᵀ) V` with a smooth φ.

    Args:
        U: first layer, shape `(d, h)`: one column for each neuron.
        V: second layer, shape `(h, m)`: one row for each neuron.
        bias: `b`, one number for each neuron, shape `(h,)`; None for none. It is trained.
        activation: "tanh", "sigmoid", "softplus" (`log(1 + e^z)`), "gelu" (`z Φ(z)`, not its approximation by tanh)
            or "silu" (`z/(1 + e^{−z})`).

    Arrays of every kind are copied to NumPy, in float64.

    Raises:
        ValueError: shapes that do not chain, empty or non-finite matrices, or an unknown activation.
        TypeError: complex arrays.

    Example:
        >>> from linflow import relu
        >>> net = relu.SmoothNetwork([[1.0, -1.0]], [[2.0], [3.0]], activation="softplus")
        >>> net
        SmoothNetwork(1×2×1, softplus)
        >>> net.outputs([[0.0]]).round(4)
        array([[3.4657]])
    """

    __slots__ = ("activation",)

    activation: Activation

    def __init__(self, U: Any, V: Any, bias: Any = None, activation: str = "tanh"):
        super().__init__(U, V, bias)
        self.activation = ACTIVATIONS[checks.choice(activation, "activation", tuple(ACTIVATIONS))]

    def activate(self, Z: np.ndarray) -> np.ndarray:
        """Return `φ(Z)`, entry by entry."""
        return self.activation.value(Z)

    def preactivation_error(self, X: np.ndarray) -> np.ndarray:
        """Return how far each computed pre-activation may be from its true value, shape `(N, h)`."""
        d = len(self.extended)
        return (d + 8) * EPS * (np.abs(self.inputs(X)) @ np.abs(self.extended))

    def output_error(self, X: np.ndarray) -> np.ndarray:
        """Return how far each computed output may be from its true value.

        An error of a pre-activation is multiplied by the steepest slope at most; φ is computed with an error of its
        own; and a sum of h terms is off by at most `(h + 8) ε` of their sizes.
        """
        z = self.preactivations(X)
        features = self.activation.steepest * self.preactivation_error(X) + self.activation.value_error(z)
        return (features + (self.width + 8) * EPS * np.abs(self.activate(z))) @ np.abs(self.V)

    def like(self, U: Any, V: Any, bias: Any) -> Self:
        """Return a network with the same activation."""
        return type(self)(U, V, bias, self.activation.name)

    def conserved(self, weight_decay: float = 0.0) -> tuple[Conserved, ...]:
        """Return nothing: no conserved quantity of these activations is known; `linflow.conserved` asks for it."""
        return ()

    def drift(self, last: TwoLayers) -> float:
        """Return NaN: nothing is conserved."""
        return math.nan

    def facts(self) -> dict[str, Any]:
        """Return the name of the activation."""
        return {"activation": self.activation.name}

    def __repr__(self) -> str:
        bias = "" if self.bias is None else ", bias"
        return f"SmoothNetwork({'×'.join(map(str, self.widths))}, {self.activation.name}{bias})"
