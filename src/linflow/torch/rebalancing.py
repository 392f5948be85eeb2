"""Rebalance the layers of a model in place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from linflow.advice.rebalance import Rebalanced, Standing, rebalance
from linflow.model.objectives import Objective
from linflow.torch._module import Layers


def rebalance_(
    model: Any,
    imbalance: Any = 0,
    *,
    objective: Objective | None = None,
    scale: float = 1.0,
    convention: str = "product",
    rng: Any = 0,
) -> Rebalanced:
    """Give a model layers with the same product, hence the same output, and all imbalances 0 or prescribed ones.

    The layers are computed in float64 by `linflow.rebalance` and stored in the dtype of the model, so the output
    changes by rounding in that dtype. The state of an optimiser, such as its momentum, is of the old layers: make a
    new one.

    Args:
        model: an `nn.Sequential` of `nn.Linear`, or a list of layers or matrices; see `linflow.torch.network`.
        imbalance: 0, numbers or matrices, as in `linflow.rebalance`.
        objective: if given, rates and steps are those certified for it.
        scale: output scale of the model.
        convention: how the matrices of a list are stored, "product" or "torch".
        rng: seed of what a prescription leaves open.

    Returns:
        A `Rebalanced`, of the layers as stored; print it.

    Raises:
        ValueError, TypeError: no such layers exist (the model is left as it is), or the model is not a chain of
            linear layers.

    Example:
        >>> import torch, linflow.torch as lt
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6, bias=False), torch.nn.Linear(6, 3, bias=False))
        >>> X = torch.randn(5, 4)
        >>> before = model(X).detach()
        >>> found = lt.rebalance_(model)
        >>> torch.allclose(model(X), before, atol=1e-5), found.after.imbalance < 1e-5 < found.before.imbalance
        (True, True)
    """
    layers = Layers.of(model, scale=scale, convention=convention, outside=objective is None)
    net = layers.network() if objective is None else layers.network_for(objective)
    found = rebalance(net, imbalance, objective=objective, rng=rng)
    layers.write(found.network.weights)
    stored = layers.network() if objective is None else layers.network_for(objective)
    return replace(found, network=layers.network(), after=Standing.of(stored, objective))
