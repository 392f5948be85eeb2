"""Two-layer networks with a ReLU or a leaky ReLU, and what their gradient flow conserves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, is_array, norm, to_numpy, unmasked
from linflow._support.words import plural
from linflow.geometry.conserved import Conserved
from linflow.model.network import Network as LinearNetwork
from linflow.relu.layers import TwoLayers


class Network(TwoLayers):
    """A two-layer model `Z = σ(X U + 1 bᵀ) V` with `σ(z) = z` for z > 0 and `slope · z` for z ≤ 0.

    Args:
        U: first layer, shape `(d, h)`: one column for each neuron.
        V: second layer, shape `(h, m)`: one row for each neuron.
        bias: `b`, one number for each neuron, shape `(h,)`; None for none. It is trained like U: it is the row of U
            that belongs to an input that is always 1.
        slope: `0 ≤ slope < 1`; 0 is the ReLU.

    Arrays of every kind are copied to NumPy, in float64.

    Raises:
        ValueError: shapes that do not chain, empty or non-finite matrices, or a slope outside [0, 1).
        TypeError: complex arrays.

    Example:
        >>> import numpy as np
        >>> from linflow import relu
        >>> net = relu.Network([[1.0, -1.0]], [[2.0], [3.0]])
        >>> net.outputs([[1.0], [-1.0]])
        array([[2.],
               [3.]])
        >>> net
        Network(1×2×1, slope 0)
    """

    __slots__ = ("slope",)

    slope: float

    def __init__(self, U: Any, V: Any, bias: Any = None, slope: float = 0.0):
        super().__init__(U, V, bias)
        self.slope = checks.positive(slope, "slope", allow_zero=True)
        if self.slope >= 1:
            raise ValueError(f"slope is {slope!r}; it must be below 1. A slope of 1 is linear: use linflow.Network.")

    @classmethod
    def of(
        cls, network: TwoLayers | LinearNetwork | Sequence[Any], *, bias: Any = None, slope: float = 0.0
    ) -> Network:
        """Return `network` itself, or the network with the two layers of a linear one or of a sequence of matrices.

        Raises:
            ValueError: another number of layers, or an output scale that is not 1.
            TypeError: a network with another activation.

        Example:
            >>> import linflow as lf
            >>> from linflow import relu
            >>> relu.Network.of(lf.init.fan_in((4, 30, 2), rng=0), slope=0.1)
            Network(4×30×2, slope 0.1)
        """
        if isinstance(network, Network):
            return network
        if isinstance(network, TwoLayers):
            raise TypeError(f"network is {network!r}; a network with a ReLU or a leaky ReLU is needed here.")
        layers = LinearNetwork.of(network)
        if layers.depth != 2:
            raise ValueError(f"the network has {plural(layers.depth, 'layer')}; two are needed.")
        if layers.scale != 1:
            raise ValueError(
                f"the network has the output scale {layers.scale:g}; 1 is needed. Multiply both layers by its root: "
                "the outputs are the same, and times are multiplied by the scale."
            )
        return cls(*layers.weights, bias=bias, slope=slope)

    def conserved(self, weight_decay: float = 0.0) -> tuple[Conserved, ...]:
        """Return what the gradient flow conserves: `‖u_j‖² + b_j² − ‖v_j‖²`; `linflow.conserved` asks for it.

        With a weight decay λ it falls as `e^{−2λt}`. A neuron that is 0 holds no number.

        Example:
            >>> import linflow as lf
            >>> from linflow import relu
            >>> lf.conserved(relu.Network([[1.0, -1.0]], [[2.0], [3.0]]))
            (Conserved(‖u_j‖² − ‖v_j‖², 2, 2 numbers, constant; u_j → s u_j, v_j → v_j/s, s > 0),)
        """
        alive = int(np.count_nonzero(np.any(self.extended != 0, axis=0) | np.any(self.V != 0, axis=1)))
        scaling = "u_j → s u_j, v_j → v_j/s, s > 0"
        return (Conserved("‖u_j‖² − ‖v_j‖²", imbalance(self), alive, 2 * weight_decay, scaling),)

    def activate(self, Z: np.ndarray) -> np.ndarray:
        """Return `σ(Z)`, entry by entry."""
        return np.where(Z > 0, Z, self.slope * Z)

    def output_error(self, X: np.ndarray) -> np.ndarray:
        """Return how far each computed output may be from its true value.

        With `N × d` inputs and h neurons, `z_ij` is off by at most `(d + 8) ε (|X||U|)_ij`, σ is 1-Lipschitz, and
        the product with V, a sum of h terms, is off by at most `(h + 8) ε` of the sizes of its terms.
        """
        d, h = self.extended.shape
        return ((d + h + 16) * EPS) * ((np.abs(self.inputs(X)) @ np.abs(self.extended)) @ np.abs(self.V))

    def like(self, U: Any, V: Any, bias: Any) -> Self:
        """Return a network with the same slope."""
        return type(self)(U, V, bias, self.slope)

    def drift(self, last: TwoLayers) -> float:
        """Return the Euclidean norm of the change of all imbalances."""
        moved = norm(imbalance(Network.of(last)) - imbalance(self))
        return moved if math.isfinite(moved) else math.inf

    def facts(self) -> dict[str, Any]:
        """Return the slope."""
        return {"slope": self.slope}

    def __repr__(self) -> str:
        bias = "" if self.bias is None else ", bias"
        return f"Network({'×'.join(map(str, self.widths))}, slope {self.slope:g}{bias})"


def imbalance(network: Network | LinearNetwork | Sequence[Any]) -> np.ndarray:
    """Return `‖u_j‖² + b_j² − ‖v_j‖²` of every neuron, shape `(h,)`, which the gradient flow conserves.

    Args:
        network: a `relu.Network`, or two layers.

    What leaves float64 is inf or −inf.

    Source: Du, Hu & Lee 2018, theorem 2.1, for every positively homogeneous activation; docs/relu.md, Lemma 0.

    Example:
        >>> from linflow import relu
        >>> relu.imbalance(relu.Network([[3.0, 1.0]], [[2.0], [1.0]], bias=[0.0, 2.0]))
        array([5., 4.])
    """
    net = Network.of(network)
    U, V = net.extended, net.V
    power = max(0, math.frexp(float(max(np.abs(U).max(), np.abs(V).max())))[1] - 500)
    U, V = np.ldexp(U, -power), np.ldexp(V, -power)  # squares stay within float64; their difference may not
    with np.errstate(over="ignore"):
        return np.ldexp(np.sum(U**2, axis=0) - np.sum(V**2, axis=1), 2 * power)


def examples(X: Any, Y: Any, net: TwoLayers) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Check the data of a network; return inputs `(N, d)`, targets `(N, m)`, and notes on what was converted.

    Y may have the shape `(N,)` for one output.
    """
    rows, said = checks.matrix(X, "X", (None, net.widths[0]))
    values, also = targets(Y, (len(rows), net.widths[2]))
    return to_numpy(rows), values, tuple(note for note in (said, also) if note)


def targets(Y: Any, shape: tuple[int | None, int | None] = (None, None)) -> tuple[np.ndarray, str | None]:
    """Check the targets, where `(N,)` stands for `(N, 1)`; return them, and a note on what was converted."""
    given: Any = unmasked(Y, "Y")
    if hasattr(given, "__len__") and not is_array(given):
        with suppress(ValueError):  # of ragged lists, which are named below
            given = np.asarray(given)
    column = getattr(given, "ndim", 0) == 1
    values, note = checks.matrix(given[:, None] if column else given, "Y", shape)
    return to_numpy(values), note
