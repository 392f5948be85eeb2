"""Verified runs of a model's weights: proofs of where gradient flow or full-batch SGD goes from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from linflow.schedules import Schedule
from linflow.torch._module import Layers
from linflow.torch.smoothness import regression
from linflow.verified import DescentEnclosure, Enclosure
from linflow.verified import enclose as enclose_start


def enclose(
    model: Any,
    X: Any,
    Y: Any,
    *,
    scale: float = 1.0,
    reduction: str = "mean",
    until: float | None = None,
    t_max: float | None = None,
    step_size: float | None = None,
    schedule: Schedule | None = None,
    steps: int | None = None,
    max_steps: int = 5000,
    momentum: float = 0.0,
    nesterov: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Enclosure | DescentEnclosure:
    """Prove where training of a deep linear model on `nn.MSELoss` goes from its current weights.

    The weights and data are read in float64. The proof is about exact arithmetic, so training in float32 differs by
    its own rounding. Without `step_size` and `schedule` the proof is about gradient flow; with one of them, about
    `torch.optim.SGD` on the whole batch with these learning rates.

    Args:
        model: a model that `linflow.torch.network` reads: an `nn.Sequential` of `nn.Linear`, of which only the
            first may have a bias, or a list of layers.
        X: inputs, shape `(N, n)`.
        Y: targets, shape `(N, m)`.
        scale: output scale c of the model.
        reduction: reduction of `nn.MSELoss`: "mean", "sum", or "half" for `½‖Y − XW‖_F²`.
        until: fraction of the initial loss gap to prove; 1e-6 if none of until, t_max and steps is given.
        t_max: time at which the flow stops.
        step_size: learning rate of SGD.
        schedule: a rule for the learning rate, used instead of `step_size`; see `linflow.schedules`.
        steps: largest number of steps of SGD.
        max_steps: limit on the steps of the flow's path.
        momentum: of SGD, which starts without a momentum buffer.
        nesterov: whether SGD uses Nesterov's form of it.
        progress: called with the fraction done after each step.

    Returns:
        An `Enclosure`, or a `DescentEnclosure` for SGD.

    Raises:
        TypeError, ValueError: the model is not a chain of linear layers, or the data do not fit.

    Source: this library, docs/verified.md.

    Example:
        >>> import torch, linflow.torch as lt
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8, bias=False), torch.nn.Linear(8, 1, bias=False))
        >>> X = torch.randn(20, 3)
        >>> proof = lt.enclose(model, X, X.sum(1, keepdim=True), step_size=0.1, until=1e-4)
        >>> low, high = proof.steps_bounds(1e-3)
        >>> proof.result, low == high
        ('target proved', True)
    """
    layers = Layers.of(model, scale=scale)
    objective, net = regression(X, Y, reduction, bias=layers.bias is not None), layers.network()
    run: Any = enclose_start  # its overloads ask for the algorithm by name
    return run(
        objective,
        net,
        until=until,
        t_max=t_max,
        max_steps=max_steps,
        algorithm="flow" if step_size is None and schedule is None else "descent",
        step_size=step_size,
        schedule=schedule,
        steps=steps,
        momentum=momentum,
        nesterov=nesterov,
        progress=progress,
    )
