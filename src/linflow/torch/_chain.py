"""Chains of linear maps and their factors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from linflow._support.arrays import Array, namespace
from linflow._support.number_formats import FLOAT64, Format
from linflow._support.text_table import grouped
from linflow._support.words import in_one_line
from linflow.model.network import Network

KINDS = ("linear", "query-key", "value-output", "lora")


@dataclass(frozen=True, repr=False)
class Chain:
    """Consecutive linear maps `c · W_1 W_2 ⋯ W_L`.

    Attributes:
        name: the name of the chain, made from the names of the layers.
        kind: one of `KINDS`.
        weights: `W_1, …, W_L` as views of the given arrays, not yet promoted; `W_l` has shape `(h_{l-1}, h_l)`.
        sources: the names of the tensors, first to last.
        scale: the factor c. It is 1 except for LoRA pairs, where it is their scaling and may be 0 or negative.
        notes: what was assumed.
        trained: whether each layer is trained (a frozen layer has no term in T); empty if unknown.
        stored: the coarsest format in which the weights were stored.
    """

    name: str
    kind: str
    weights: tuple[Array, ...]
    sources: tuple[str, ...]
    scale: float = 1.0
    notes: tuple[str, ...] = ()
    trained: tuple[bool, ...] = ()
    stored: Format = FLOAT64

    def network(self) -> Network:
        """Return the chain as a `Network` in float64, on the device of the weights.

        Its scale is |c|; the sign of c goes into `W_1`.

        Raises:
            ValueError: c is 0, or the weights are not finite or too large.
        """
        if self.scale == 0:
            raise ValueError("the scale is 0, so the product is 0: no network has it. Use Network(chain.weights).")
        first, *rest = self.weights
        return Network([first if self.scale > 0 else -first, *rest], abs(self.scale))

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths `(h_0, …, h_L)`."""
        return (self.weights[0].shape[0], *(W.shape[1] for W in self.weights))

    @property
    def title(self) -> str:
        """The name in one line; a chain that is the whole model has none."""
        return in_one_line(self.name) or "the model"

    def __repr__(self) -> str:
        return f"Chain({self.name!r}, {self.kind}, {'×'.join(map(str, self.widths))})"


@dataclass(frozen=True)
class Factor:
    """A weight in a product.

    Attributes:
        name: the name of the tensor.
        turned: whether its transpose multiplies rows from the right, as with `nn.Linear`; None if unknown.
        bias: name of the vector that is added to the product so far; "" if there is none.
        scale: a number that the product so far is multiplied by.
    """

    name: str
    turned: bool | None = False
    bias: str = ""
    scale: float = 1.0


def transposed(matrix: Array, bias: Array | None = None) -> Array:
    """Return the matrix of `nn.Linear` as (inputs, outputs), with the bias, if any, as the last row."""
    W = matrix.T
    return W if bias is None else namespace(W).concat([W, bias[None, :]], axis=0)


def remarks(chains: Iterable[Chain]) -> list[str]:
    """Return a line for each note on some chains, with the first chain that has it and how many others do."""
    notes = grouped((chain.title, note) for chain in chains for note in chain.notes)
    return [
        in_one_line(f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {note}")
        for note, names in notes.items()
    ]
