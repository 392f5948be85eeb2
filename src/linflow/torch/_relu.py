"""A PyTorch model of two linear layers with an activation between them, as a network of `linflow.relu`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from linflow import relu
from linflow._support.arrays import to_numpy
from linflow._support.words import kind_of
from linflow.torch._module import PASSED, WRAPPERS
from torch import nn

SMOOTH: dict[type[nn.Module], str] = {
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
}
"""The smooth activations of PyTorch that are known, and their names in `linflow.relu`."""


def relu_network(model: Any) -> relu.Network | relu.SmoothNetwork:
    """Return a copy in float64 of `Linear → activation → Linear`, the second layer without bias.

    `lf.relu` takes the loss `½‖R‖_F²`. `nn.MSELoss` is `2/(N m)` times that for N samples and m outputs: SGD with the
    rate lr is descent with the step `2 lr/(N m)`.

    Args:
        model: an `nn.Sequential` of `nn.Linear`, an activation, and `nn.Linear(…, bias=False)`; nested, compiled and
            data-parallel ones are unwrapped, `nn.Flatten` and `nn.Identity` are passed over. The activation is
            `nn.ReLU` or `nn.LeakyReLU` for a `relu.Network`; `nn.Tanh`, `nn.Sigmoid`, `nn.Softplus`, `nn.GELU` or
            `nn.SiLU` for a `relu.SmoothNetwork`.

    Raises:
        TypeError: other modules, or another order.
        ValueError: a bias of the second layer, a slope outside [0, 1), an approximate GELU, or a softplus with a β
            other than 1.

    Example:
        >>> import torch
        >>> import linflow.torch as lt
        >>> from torch import nn
        >>> lt.relu_network(nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 2, bias=False)))
        Network(4×30×2, slope 0, bias)
        >>> lt.relu_network(nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 2, bias=False)))
        SmoothNetwork(4×30×2, tanh, bias)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {kind_of(model)}; an nn.Sequential of Linear, ReLU, Linear is needed.")
    parts = list(_parts(model))
    kinds = " → ".join(type(part).__name__ for part in parts) or "nothing"
    if len(parts) != 3 or not (
        isinstance(parts[0], nn.Linear)
        and type(parts[1]) in (nn.ReLU, nn.LeakyReLU, *SMOOTH)
        and isinstance(parts[2], nn.Linear)
    ):
        known = ", ".join(kind.__name__ for kind in SMOOTH)
        raise TypeError(f"the model is {kinds}; Linear → ReLU (or LeakyReLU, {known}) → Linear is needed.")
    first, between, second = parts
    if second.bias is not None:
        raise ValueError(
            "the second layer has a bias, which the theorems do not cover; use bias=False. A fixed bias can be "
            "subtracted from the targets instead."
        )
    U, V = to_numpy(first.weight).T, to_numpy(second.weight).T
    bias = None if first.bias is None else to_numpy(first.bias)
    if isinstance(between, (nn.ReLU, nn.LeakyReLU)):
        return relu.Network(U, V, bias, float(between.negative_slope) if isinstance(between, nn.LeakyReLU) else 0.0)
    net = relu.SmoothNetwork(U, V, bias, SMOOTH[type(between)])
    net.notes += _notes(between)
    return net


def _notes(between: nn.Module) -> tuple[str, ...]:
    """Return how far PyTorch's activation is from the one that is meant. Refuse what is another function."""
    if isinstance(between, nn.GELU) and between.approximate != "none":
        raise ValueError(
            f'the GELU is approximate={between.approximate!r}; the exact one is needed: nn.GELU(approximate="none").'
        )
    if not isinstance(between, nn.Softplus):
        return ()
    if between.beta != 1:
        raise ValueError(f"the softplus has β = {between.beta:g}; 1 is needed: scale the layers instead.")
    off = math.log1p(math.exp(-between.threshold))
    return (f"nn.Softplus returns z itself above {between.threshold:g}: less by at most {off:.1g}",)


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """Return the modules of a chain in order, without those that change nothing."""
    while isinstance(model, WRAPPERS) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, WRAPPERS) else model._orig_mod  # pyright: ignore
    if isinstance(model, nn.Sequential):
        for child in model:
            yield from _parts(child)
    elif not isinstance(model, PASSED):
        yield model
