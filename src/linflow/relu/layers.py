"""Two layers with an activation between them: shapes, inputs and outputs, whatever the activation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np

from linflow._support import checks
from linflow._support.arrays import to_numpy


class TwoLayers(ABC):
    """A model `Z = σ(X U + 1 bᵀ) V`.

    Attributes:
        U: first layer, shape `(d, h)`.
        V: second layer, shape `(h, m)`.
        bias: `b`, shape `(h,)`, or None.
        notes: what was converted.
    """

    __slots__ = ("U", "V", "bias", "notes")

    U: np.ndarray
    V: np.ndarray
    bias: np.ndarray | None
    notes: tuple[str, ...]

    def __init__(self, U: Any, V: Any, bias: Any = None):
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
        self.notes = tuple(note for note in (said, also) if note)

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

    def outputs(self, X: Any) -> np.ndarray:
        """Return `σ(X U + 1 bᵀ) V`, shape `(N, m)`."""
        return self.activate(self.preactivations(X)) @ self.V

    def with_layers(self, extended: np.ndarray, V: np.ndarray) -> Self:
        """Return a network of the same kind with other weights; `extended` has the bias as its last row."""
        return self.like(extended, V, None) if self.bias is None else self.like(extended[:-1], V, extended[-1])

    @abstractmethod
    def activate(self, Z: np.ndarray) -> np.ndarray:
        """Return `σ(Z)`, entry by entry."""

    @abstractmethod
    def output_error(self, X: np.ndarray) -> np.ndarray:
        """Return how far each computed output may be from its true value, shape `(N, m)`."""

    @abstractmethod
    def like(self, U: Any, V: Any, bias: Any) -> Self:
        """Return a network with the same activation."""

    @abstractmethod
    def drift(self, last: TwoLayers) -> float:
        """Return how far the conserved numbers of `last` are from those of this network; NaN if there are none."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return the activation as plain data."""
