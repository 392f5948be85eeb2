"""Hidden neurons of a model with a ReLU between two linear layers, and what the gradient flow conserves of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from linflow._support.arrays import to_numpy
from linflow._support.digits import number
from linflow._support.words import plural, shown
from linflow.torch._chain import Chain, transposed
from linflow.torch._runs import parts_of, plain_module
from linflow.torch._state_dict import State
from linflow.torch._training import examined

_number = partial(number, digits=3)


@dataclass(frozen=True, repr=False)
class Neurons:
    """One hidden layer of neurons, `x ↦ σ(x W_1 + b) W_2`, with a ReLU or a leaky ReLU σ.

    For every s > 0 the model is the same with `s (W_1, b)` of one neuron and `W_2/s`. So the gradient flow of any
    loss, of all data or of batches, conserves `‖u_j‖² + b_j² − ‖v_j‖²`, at any depth of the model; a bias of the
    second layer changes nothing. A step of SGD changes it by `η²(‖∂L/∂u_j‖² + (∂L/∂b_j)² − ‖∂L/∂v_j‖²)`.

    Attributes:
        name: made from the names of the two layers.
        sources: the names of their weights.
        widths: `(d, h, m)`, without the bias.
        slope: the slope of σ left of 0.
        imbalance: `‖u_j‖² + b_j² − ‖v_j‖²`, shape `(h,)`, in float64; `u_j` is column j of `W_1`, `v_j` row j of
            `W_2`.
        conserved: whether both layers are trained; otherwise nothing is known.
        notes: what was assumed.

    Source: Du, Hu & Lee 2018, theorem 2.1; docs/relu.md, Lemma 0.
    """

    name: str
    sources: tuple[str, ...]
    widths: tuple[int, int, int]
    slope: float
    imbalance: np.ndarray
    conserved: bool
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as lists and floats, ready for JSON."""
        return {
            "name": self.name,
            "sources": list(self.sources),
            "widths": list(self.widths),
            "slope": self.slope,
            "imbalance": self.imbalance.tolist(),
            "conserved": self.conserved,
            "notes": list(self.notes),
        }

    @shown
    def __str__(self) -> str:
        low, high = (_number(float(x)) for x in (self.imbalance.min(), self.imbalance.max()))
        kept = "conserved by the gradient flow" if self.conserved else "not conserved, as a layer is frozen"
        d, h, m = self.widths
        return f"neurons {self.name}: {plural(h, 'neuron')} ({d}×{h}×{m}), imbalance {low} … {high}, {kept}"

    def __repr__(self) -> str:
        return f"Neurons({self.name!r}, {'×'.join(map(str, self.widths))}, slope {self.slope:g})"


def find_neurons(state: State, skipped: list[tuple[str, str]]) -> Iterator[Neurons]:
    """Yield the hidden layers of neurons of a model, first to last; add what is tied or not finite to `skipped`."""
    slopes: dict[str, float] = {}
    chains = []
    for chain, slope in _pairs(state):
        chains.append(chain)
        slopes[chain.name] = slope
    for chain in examined(chains, state, skipped):
        first, second = (to_numpy(W) for W in chain.weights)
        with np.errstate(over="ignore", invalid="ignore"):
            imbalance = np.sum(first**2, axis=0) - np.sum(second**2, axis=1)
        if not np.isfinite(imbalance).all():
            skipped.append((chain.name, "its weights are not finite, or too large to square"))
            continue
        inputs = state.tensors[chain.sources[0]].shape[1]
        widths = (inputs, *second.shape)
        yield Neurons(
            chain.name, chain.sources, widths, slopes[chain.name], imbalance, all(chain.trained), chain.notes
        )


def _pairs(state: State) -> Iterator[tuple[Chain, float]]:
    """Yield `Linear → ReLU → Linear` in every `nn.Sequential`, as a chain of the two layers, with the slope."""
    if not state.modules:
        return
    from torch import nn  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - only a model needs PyTorch

    inner: set[str] = set()
    for prefix, module in state.modules.items():
        if prefix in inner or not plain_module(module, nn.Sequential):
            continue
        last, slope = "", None
        for full, child in parts_of(prefix, module, nn.Sequential, inner):
            idle = isinstance(child, nn.Dropout) and (child.p == 0 or not child.training)
            if plain_module(child, nn.Linear) and state.matrix(f"{full}.weight") is not None:
                if last and slope is not None:
                    yield _pair(last, full, state), slope
                last, slope = full, None
            elif plain_module(child, nn.ReLU) and slope is None:
                slope = 0.0
            elif plain_module(child, nn.LeakyReLU) and slope is None:
                slope = float(child.negative_slope)  # pyright: ignore[reportArgumentType]
            elif not (isinstance(child, nn.Identity) or idle):
                last, slope = "", None


def _pair(first: str, second: str, state: State) -> Chain:
    sources = f"{first}.weight", f"{second}.weight"
    W, V = (state.tensors[name] for name in sources)
    weights = transposed(W, state.vector(f"{first}.bias")), V.T
    return Chain(f"{first} → {second}", "neurons", weights, sources)
