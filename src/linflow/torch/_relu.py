"""A PyTorch model of two linear layers with a ReLU between them, as a network of `linflow.relu`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from linflow import relu
from linflow._support.arrays import to_numpy
from linflow.torch._module import PASSED, WRAPPERS
from torch import nn


def relu_network(model: Any) -> relu.Network:
    """Return a copy in float64 of `Linear → ReLU → Linear`, the second layer without bias.

    `lf.relu` takes the loss `½‖R‖_F²`. `nn.MSELoss` is `2/(N m)` times that for N samples and m outputs: SGD with the
    rate lr is descent with the step `2 lr/(N m)`.

    Args:
        model: an `nn.Sequential` of `nn.Linear`, `nn.ReLU` or `nn.LeakyReLU`, and `nn.Linear(…, bias=False)`; nested,
            compiled and data-parallel ones are unwrapped, `nn.Flatten` and `nn.Identity` are passed over.

    Raises:
        TypeError: other modules, or another order.
        ValueError: a bias of the second layer, or a slope outside [0, 1).

    Example:
        >>> import torch
        >>> import linflow.torch as lt
        >>> from torch import nn
        >>> lt.relu_network(nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 2, bias=False)))
        Network(4×30×2, slope 0, bias)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; an nn.Sequential of Linear, ReLU, Linear is needed.")
    parts = list(_parts(model))
    kinds = " → ".join(type(part).__name__ for part in parts) or "nothing"
    if len(parts) != 3 or not (
        isinstance(parts[0], nn.Linear)
        and isinstance(parts[1], (nn.ReLU, nn.LeakyReLU))
        and isinstance(parts[2], nn.Linear)
    ):
        raise TypeError(f"the model is {kinds}; Linear → ReLU (or LeakyReLU) → Linear is needed.")
    first, between, second = parts
    if second.bias is not None:
        raise ValueError(
            "the second layer has a bias, of which the theorems do not speak; use bias=False. A fixed bias can be "
            "subtracted from the targets instead."
        )
    slope = float(between.negative_slope) if isinstance(between, nn.LeakyReLU) else 0.0
    bias = None if first.bias is None else to_numpy(first.bias)
    return relu.Network(to_numpy(first.weight).T, to_numpy(second.weight).T, bias, slope)


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """Return the modules of a chain in order, without those that change nothing."""
    while isinstance(model, WRAPPERS) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, WRAPPERS) else model._orig_mod  # pyright: ignore
    if isinstance(model, nn.Sequential):
        for child in model:
            yield from _parts(child)
    elif not isinstance(model, PASSED):
        yield model
