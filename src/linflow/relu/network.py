"""Two-layer networks with a ReLU or a leaky ReLU, and what their gradient flow conserves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import norm, to_numpy
from linflow.geometry.conserved import Conserved
from linflow.model.network import Network as LinearNetwork


class Network:
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

    __slots__ = ("U", "V", "bias", "notes", "slope")

    U: np.ndarray
    V: np.ndarray
    bias: np.ndarray | None
    slope: float
    notes: tuple[str, ...]

    def __init__(self, U: Any, V: Any, bias: Any = None, slope: float = 0.0):
        (first, said), (second, also) = checks.matrix(U, "U"), checks.matrix(V, "V")
        self.U, self.V = to_numpy(first), to_numpy(second)
        if self.U.shape[1] != self.V.shape[0]:
            raise ValueError(
                f"U is {self.U.shape[0]}×{self.U.shape[1]} but V is {self.V.shape[0]}×{self.V.shape[1]}: U needs a "
                "column, and V a row, for each neuron. nn.Linear stores the transposes."
            )
        self.bias = None
        if bias is not None:
            self.bias = to_numpy(checks.matrix(np.reshape(to_numpy(bias), (1, -1)), "bias", (1, self.width))[0])[0]
        self.slope = checks.positive(slope, "slope", allow_zero=True)
        if self.slope >= 1:
            raise ValueError(f"slope is {slope!r}; it must be below 1. A slope of 1 is linear: use linflow.Network.")
        self.notes = tuple(note for note in (said, also) if note)

    @classmethod
    def of(cls, network: Network | LinearNetwork | Sequence[Any], *, bias: Any = None, slope: float = 0.0) -> Network:
        """Return `network` itself, or the network with the two layers of a linear one or of a sequence of matrices.

        Raises:
            ValueError: another number of layers, or an output scale that is not 1.

        Example:
            >>> import linflow as lf
            >>> from linflow import relu
            >>> relu.Network.of(lf.init.fan_in((4, 30, 2), rng=0), slope=0.1)
            Network(4×30×2, slope 0.1)
        """
        if isinstance(network, Network):
            return network
        layers = LinearNetwork.of(network)
        if layers.depth != 2:
            raise ValueError(f"the network has {layers.depth} layers; two are needed.")
        if layers.scale != 1:
            raise ValueError(
                f"the network has the output scale {layers.scale:g}; 1 is needed. Multiply both layers by its root: "
                "the outputs are the same, and times are multiplied by the scale."
            )
        return cls(*layers.weights, bias=bias, slope=slope)

    @property
    def width(self) -> int:
        """Number of neurons h."""
        return self.U.shape[1]

    @property
    def widths(self) -> tuple[int, int, int]:
        """`(d, h, m)`."""
        return self.U.shape[0], self.width, self.V.shape[1]

    @property
    def extended(self) -> np.ndarray:
        """U, with the bias as a last row if there is one, shape `(d, h)` or `(d + 1, h)`."""
        return self.U if self.bias is None else np.vstack([self.U, self.bias])

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

    def inputs(self, X: Any) -> np.ndarray:
        """Return X as an array, with a last column of ones if there is a bias.

        Args:
            X: one input in each row, shape `(N, d)`.

        Raises:
            ValueError: X is not a finite matrix with d columns.
        """
        rows = to_numpy(checks.matrix(X, "X", (None, self.U.shape[0]))[0])
        return rows if self.bias is None else np.hstack([rows, np.ones((len(rows), 1))])

    def preactivations(self, X: Any) -> np.ndarray:
        """Return `X U + 1 bᵀ`, shape `(N, h)`."""
        return self.inputs(X) @ self.extended

    def activate(self, Z: np.ndarray) -> np.ndarray:
        """Return `σ(Z)`, entry by entry."""
        return np.where(Z > 0, Z, self.slope * Z)

    def outputs(self, X: Any) -> np.ndarray:
        """Return `σ(X U + 1 bᵀ) V`, shape `(N, m)`."""
        return self.activate(self.preactivations(X)) @ self.V

    def with_layers(self, extended: np.ndarray, V: np.ndarray) -> Network:
        """Return a network with the same slope and other weights; `extended` has the bias as its last row."""
        split = extended if self.bias is None else extended[:-1]
        return Network(split, V, None if self.bias is None else extended[-1], self.slope)

    def __repr__(self) -> str:
        bias = "" if self.bias is None else ", bias"
        return f"Network({'×'.join(map(str, self.widths))}, slope {self.slope:g}{bias})"


def imbalance(network: Network | LinearNetwork | Sequence[Any]) -> np.ndarray:
    """Return `‖u_j‖² + b_j² − ‖v_j‖²` of every neuron, shape `(h,)`, which the gradient flow conserves.

    Args:
        network: a `relu.Network`, or two layers.

    Source: Du, Hu & Lee 2018, theorem 2.1, for every positively homogeneous activation; docs/relu.md, Lemma 0.

    Example:
        >>> from linflow import relu
        >>> relu.imbalance(relu.Network([[3.0, 1.0]], [[2.0], [1.0]], bias=[0.0, 2.0]))
        array([5., 4.])
    """
    net = Network.of(network)
    return np.sum(net.extended**2, axis=0) - np.sum(net.V**2, axis=1)


def targets(Y: Any, rows: int, outputs: int) -> np.ndarray:
    """Check the targets: shape `(N, m)`, or `(N,)` for one output."""
    given = np.asarray(to_numpy(Y))
    if given.ndim == 1:
        given = given[:, None]
    return to_numpy(checks.matrix(given, "Y", (rows, outputs))[0])


def drift(first: Network, last: Network) -> float:
    """Return the Euclidean norm of the change of all imbalances."""
    moved = norm(imbalance(last) - imbalance(first))
    return moved if math.isfinite(moved) else math.inf
