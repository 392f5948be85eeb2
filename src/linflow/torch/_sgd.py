"""What `torch.optim.SGD` does to the layers of a model, and why another optimiser follows no law of the imbalance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

SAME = 1e-9
"""Ratios of learning rates that differ by less than this, relatively, are the same."""


class Stack(Protocol):
    """Layers in training: their tensors, and these as matrices `(h_{l-1}, h_l)`."""

    @property
    def parameters(self) -> Sequence[Tensor]: ...
    @property
    def tensors(self) -> Sequence[Tensor]: ...
    @property
    def bias(self) -> Tensor | None: ...
    @property
    def trained(self) -> Sequence[bool]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def widths(self) -> tuple[int, ...]: ...
    def oriented(self, tensors: Iterable[Tensor], dtype: torch.dtype = ...) -> list[Tensor]: ...
    def weights(self) -> list[Tensor]: ...


OPTIONS = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")
"""Options of SGD that a weight and its bias share if they are one matrix."""


@dataclass(frozen=True)
class Sgd:
    """The options of SGD that enter the law of the imbalance.

    Attributes:
        rates: `ρ_l`, the learning rate of each layer over that of the first; empty if they are the same.
        momentum, dampening, nesterov, maximize: as in PyTorch.
    """

    rates: tuple[float, ...] = ()
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    maximize: bool = False

    @classmethod
    def of(cls, optimizer: Any, layers: Stack) -> Sgd:
        """Return the options of an SGD for which `why_no_law` finds no reason; the default if there is none."""
        if optimizer is None or not isinstance(optimizer, torch.optim.SGD):
            return cls()
        group, rates = _groups(optimizer, layers)[0], _rates(optimizer, layers)
        return cls(
            () if all(math.isclose(r, 1.0, rel_tol=SAME) for r in rates) else rates,
            float(group["momentum"]),
            float(group["dampening"]),
            bool(group["nesterov"]),
            bool(group.get("maximize")),
        )

    def alike(self, other: Sgd) -> bool:
        """Whether the ratios of the learning rates are the same; the momentum may change from step to step."""
        if len(self.rates) != len(other.rates):
            return False
        return all(math.isclose(a, b, rel_tol=SAME) for a, b in zip(self.rates, other.rates, strict=True))


def buffers_of(optimizer: Any, layers: Stack, dtype: torch.dtype) -> list[Tensor] | None:
    """Return the momentum buffers of the layers, as matrices `(h_{l-1}, h_l)`; None if there are none yet."""
    if optimizer is None:
        return None
    found = [optimizer.state.get(p, {}).get("momentum_buffer") for p in layers.tensors]
    return None if any(b is None for b in found) else layers.oriented((b for b in found if b is not None), dtype)


def why_no_law(optimizer: Any, layers: Stack) -> str | None:
    """Return why the imbalance follows no law; None if it does: SGD with one momentum on all layers."""
    if not isinstance(optimizer, torch.optim.SGD):
        return f"{type(optimizer).__name__} does not step along the gradient; torch.optim.SGD does"
    seen = set()
    for l, p in enumerate(layers.parameters, 1):
        group = group_of(optimizer, p)
        if group is None or not p.requires_grad:
            why = "frozen (requires_grad is False)" if group is not None else "not trained by the optimizer"
            return f"layer {l} is {why}, so its neighbours change alone"
        seen.add((float(group["momentum"]), float(group["dampening"]), group["nesterov"], group.get("maximize")))
    apart = _why_bias_apart(optimizer, layers)
    if apart or len(seen) > 1:
        return apart or "the layers have different momentum"
    rates = _rates(optimizer, layers)
    if not all(0 < r < math.inf for r in rates):
        return "the learning rate of a layer is 0, so its neighbours change alone"
    decays = _decays(optimizer, layers, rates)
    if not all(math.isclose(k, decays[0], rel_tol=SAME) for k in decays):
        return (
            "the layers have different products of learning rate and weight decay, so the decay does not act on the "
            "imbalance as a whole"
        )
    return None


def _why_bias_apart(optimizer: Any, layers: Stack) -> str | None:
    """Return why the bias of the first layer is not trained as a row of it; None if it is, or if there is none."""
    if layers.bias is None:
        return None
    own, first = group_of(optimizer, layers.bias), group_of(optimizer, layers.parameters[0]) or {}
    if own is None:
        return "the bias of layer 1 is not trained by the optimizer, so it is not a row of its matrix"
    if any(own.get(key) != first.get(key) for key in OPTIONS):
        return "the bias of layer 1 has its own options (learning rate, decay, momentum), not those of its weight"
    return None


def why_not_plain(optimizer: Any, layers: Stack) -> str | None:
    """Return why the steps are not along the gradient of all layers at one rate; None if they are."""
    if why := why_no_law(optimizer, layers):
        return why
    sgd = Sgd.of(optimizer, layers)
    if sgd.momentum != 0:
        return f"the momentum {sgd.momentum:g} moves the weights along earlier gradients"
    return "the layers have different learning rates" if sgd.rates else None


def trained_layers(optimizer: Any, layers: Stack) -> list[bool]:
    """Return whether each layer is trained: it asks for a gradient, and the optimizer holds it at a rate above 0.

    Without an optimizer, or if nothing is trained, as before a warm-up, all layers count as trained.
    """
    groups = [{} if optimizer is None else group_of(optimizer, p) for p in layers.parameters]
    held = [group is not None and float(group.get("lr", 1.0)) != 0 for group in groups]
    found = [free and mine for free, mine in zip(layers.trained, held, strict=True)]
    return found if any(found) else [True] * len(found)


def others(optimizer: Any, layers: Stack) -> bool:
    """Return whether the optimizer trains anything but the layers."""
    own = {id(p) for p in layers.tensors}
    groups = [] if optimizer is None else optimizer.param_groups
    return any(p.requires_grad and id(p) not in own for group in groups for p in group["params"])


def rate_of(optimizer: Any, layers: Stack) -> tuple[float, float]:
    """Return the learning rate and weight decay of the parameter group of the first layer."""
    group = _groups(optimizer, layers)[0]
    return float(group["lr"]), float(group.get("weight_decay", 0.0))


def group_of(optimizer: Any, p: Tensor) -> dict[str, Any] | None:
    """Return the parameter group that holds a tensor; None if there is none."""
    return next((g for g in optimizer.param_groups if any(q is p for q in g["params"])), None)


def _rates(optimizer: Any, layers: Stack) -> tuple[float, ...]:
    """Return the learning rates over that of the first layer; where that is 0, as in a warm-up, the initial ones."""
    groups = _groups(optimizer, layers)
    rates = [float(g["lr"]) for g in groups]
    if not any(rates):
        rates = [float(g.get("initial_lr", 1.0)) for g in groups]
    return tuple(r / rates[0] if rates[0] else math.inf for r in rates)


def _decays(optimizer: Any, layers: Stack, rates: tuple[float, ...]) -> list[float]:
    """Return the weight decays `ρ_lλ_l` of the layers `W_l/√ρ_l`."""
    return [r * float(g["weight_decay"]) for g, r in zip(_groups(optimizer, layers), rates, strict=True)]


def _groups(optimizer: Any, layers: Stack) -> list[dict[str, Any]]:
    """Return the parameter group of each layer; the first one where the optimizer has none for it."""
    return [group_of(optimizer, p) or optimizer.param_groups[0] for p in layers.parameters]
