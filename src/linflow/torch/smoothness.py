"""Learning rates from the curvature at the current weights, for PyTorch's optimisers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.optim.lr_scheduler import LRScheduler

import torch
from linflow import schedules
from linflow._support import checks
from linflow._support.arrays import detach, norm, to_numpy
from linflow.certificates.descent import safe_step_size
from linflow.dynamics.descent import Iterate
from linflow.dynamics.field import GradientField
from linflow.dynamics.local_smoothness import along_the_step
from linflow.dynamics.step_rules import FORMS, check_form
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.quadratics import LinearRegression
from linflow.torch._module import Layers
from linflow.torch._sgd import why_not_plain

RULES = (*FORMS, "xu2025")


@dataclass(frozen=True)
class LocalSmoothness:
    """The loss along the gradient step from the current weights.

    Attributes:
        gap: the loss gap `ℓ = L − f*`.
        speed: the norm of the gradient, `‖∇L‖`.
        constant: `K_t` at the step `1/K_t`.
        step: `1/K_t`, the least η with `η K_t(η) = 1`; the loss falls by at least `½η‖∇L‖²`.
        largest: the least η with `η K_t(η) = 2`; no step up to it raises the loss.
    """

    gap: float
    speed: float
    constant: float
    step: float
    largest: float


def local_smoothness(objective: Objective, network: Network, rule: str | None = None) -> LocalSmoothness:
    """Bound the loss along the next gradient step, at any depth.

    `ℓ⁺ ≤ ℓ − η(1 − ηK_t(η)/2)‖∇L‖²` with `K_t(η) = (2 Σ_{k≥2} η^{k−2} ⟨∇f, M_k⟩ + ⟨V, ∇²f[V]⟩)/‖∇L‖²`,
    `V = Σ_{k≥1} η^{k−1} M_k`, where `W(η) = Σ_k η^k M_k` is the product after the step η. For a quadratic f this is
    an equality, and the largest step is the one at which the loss returns to its current value. For other objectives
    `K ‖V‖²` replaces the second term. Steps are infinite if the gradient is zero, and NaN if K is unknown.

    Args:
        objective: the function to minimise.
        network: the weights.
        rule: "curvature" uses the Hessian, "step" uses K. The default is "curvature" for quadratic objectives, else
            "step".

    Raises:
        ValueError: the rule is unknown, or it is "curvature" and the objective is not quadratic.

    Source: this library, docs/descent.md.

    Example:
        >>> import linflow as lf, torch
        >>> from linflow.torch import local_smoothness
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> f, net = lf.MatrixFactorization(2 * eye), lf.Network([eye, 0.5 * eye])
        >>> at = local_smoothness(f, net)
        >>> bool(0 < at.step < at.largest), at.step >= local_smoothness(f, net, "step").step
        (True, True)
    """
    rule = checks.choice(rule or _best(objective), "rule", ("curvature", "step"))
    field = GradientField(objective, network)
    point = field.at(field.flatten(network.weights))
    if math.isinf(objective.smoothness) or not point.finite:
        return LocalSmoothness(point.gap, point.speed, math.nan, math.nan, math.nan)
    check_form(objective, network.depth, rule)
    if point.speed == 0:
        return LocalSmoothness(point.gap, 0.0, 0.0, math.inf, math.inf)
    step, largest = along_the_step(field, network, point, rule)
    return LocalSmoothness(point.gap, point.speed, 1 / step, step, largest)


def speed_of(objective: Objective, network: Network, trained: Sequence[bool]) -> float:
    """Return the norm of the gradient with respect to the layers that are trained."""
    slopes = network.gradient(detach(objective.gradient(network.product())))
    return math.hypot(*(float(norm(G)) for G, free in zip(slopes, trained, strict=True) if free))


def _best(objective: Objective) -> str:
    return "curvature" if objective.quadratic else "step"


class LocalSmoothnessLR(LRScheduler):
    """A learning-rate scheduler that takes the step `1/K_t` of the curvature at the current weights.

    Each step is the least η with `η K_t(η) = 1`, so `ℓ⁺ ≤ ℓ − (η/2)‖∇L‖²` and the loss never rises. The rules
    differ in `K_t`. "curvature" (any depth) uses the Hessian of a quadratic objective; the inequality is then an
    equality. "step" (any depth) uses the smoothness K instead. "two layers" and "printed" take the worst direction.
    "xu2025" (two layers) is the growing schedule `min((1 + η_0²)^{t/2} η_0, 1/K_t)` with the printed `K_t`. Proofs
    are in docs/descent.md, and docs/torch_training.md compares the speed of the rules. Any rule of
    `linflow.schedules` works too, such as `backtracking()`.

    Call `step()` after `optimizer.step()`, once per step (in Lightning `"interval": "step"`). The guarantees are for
    steps along the gradient of the objective: SGD without momentum or weight decay on the whole data. `K_t` costs a
    few products of the layers with the objective's own matrices, whatever the number of samples.

    Args:
        optimizer: `torch.optim.SGD` without momentum or weight decay, for the layers only.
        model: an `nn.Sequential` of `nn.Linear`, or a list of layers or matrices; see `linflow.torch.network`.
        objective: the function to minimise; `linflow.torch.regression` is `nn.MSELoss`.
        rule: "curvature", "step", "two layers", "printed", "xu2025", or a rule of `linflow.schedules`. The default is
            "curvature" for quadratic objectives, else "step".
        first: `η_0` of "xu2025"; `safe_step_size(objective, network)` if omitted.
        scale: output scale of the model.
        convention: how the matrices of a list are stored, "product" or "torch".
        last_epoch: as in every scheduler of PyTorch.

    Raises:
        ValueError, TypeError: the optimiser does not step along the gradient, the model or objective does not fit,
            a rule for two layers is used with another depth, or the objective has no smoothness.

    At the first step the scheduler warns if the gradient is not that of the objective: another factor (a mean instead
    of a sum) or another direction (mini-batches, another loss). It also warns if the weights changed after it was
    made.

    Source: Xu, Min, Tarmoun, Mallada & Vidal 2025 for two layers; "step" and "curvature" are from this library.

    Example:
        >>> import torch, linflow.torch as lt
        >>> X = torch.eye(3, dtype=torch.float64)
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(3, 3, bias=False).double() for _ in range(2)))
        >>> model = lt.balanced_(model, 0.1 * X, generator=torch.Generator().manual_seed(0))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> scheduler = lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, X))
        >>> for _ in range(30):
        ...     optimizer.zero_grad()
        ...     loss = torch.nn.functional.mse_loss(model(X), X)
        ...     loss.backward()
        ...     optimizer.step()
        ...     scheduler.step()
        >>> loss.item() < 1e-6
        True
    """

    _UNSAVED = ("optimizer", "_layers", "_objective", "_rule", "_compared", "_seen")

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: Any,
        objective: Objective,
        rule: Any = None,
        *,
        first: float | None = None,
        scale: float = 1.0,
        convention: str = "product",
        last_epoch: int = -1,
    ):
        self._layers, self._objective = Layers.of(model, scale=scale, convention=convention), objective
        _check_optimizer(optimizer, self._layers)
        self._layers.check_objective(objective)
        net = self._layers.network_for(objective)
        rule = _best(objective) if rule is None else rule
        if first is not None and rule != "xu2025":
            raise ValueError(f'first is {first!r}, but only the rule "xu2025" has a first step; leave it out.')
        if not callable(getattr(rule, "step", None)):
            form = "printed" if rule == "xu2025" else checks.choice(rule, "rule", RULES)
            check_form(objective, net.depth, form)
            if rule == "xu2025":
                first = safe_step_size(objective, net) if first is None else checks.positive(first, "first")
        self.rule = rule if isinstance(rule, str) else None
        self.first = first
        self._rule = rule
        self._compared = False
        self._seen: Network | None = None
        optimizer.register_step_pre_hook(self._look)
        optimizer.register_step_post_hook(self._compare)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the step for the current weights, one equal entry per parameter group."""
        net = self._layers.network_for(self._objective)
        self._seen = None if self._compared else net
        field = GradientField(self._objective, net)
        last = None if self.last_epoch <= 0 else float(getattr(self, "_last_lr", [0.0])[0]) or None
        iterate = Iterate(field, field.at(field.flatten(net.weights)), max(self.last_epoch, 0), last)
        eta = float(self._made().step(iterate))
        return [eta for _ in self.optimizer.param_groups]

    def _made(self) -> Any:
        if self.rule is None:
            return self._rule
        return schedules.Xu2025(self.first or 0.0) if self.rule == "xu2025" else schedules.local_smoothness(self.rule)

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume: counters, rates and `η_0`, but no model, objective or rule object."""
        return {key: value for key, value in self.__dict__.items() if key not in self._UNSAVED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a `state_dict`.

        Raises:
            ValueError: the state belongs to another rule.
        """
        if state_dict.get("rule", self.rule) != self.rule:
            raise ValueError(
                f"the state is of the rule {state_dict['rule']!r} and the scheduler of {self.rule!r}; make the "
                "scheduler with the same rule."
            )
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in self._UNSAVED})
        self._seen = None  # the weights may have been loaded since

    # The hooks stay registered: removing one while hooks run would disturb the others.
    def _look(self, *_: Any) -> None:
        """Before the first step, warn if the weights are not those for which the step was computed."""
        if self._compared:
            return
        net = self._layers.network_for(self._objective)
        if self._seen is not None and any(
            float(norm(A - B)) > 0 for A, B in zip(net.weights, self._seen.weights, strict=True)
        ):
            warnings.warn(
                "the weights were changed after the scheduler was made, and the first step is not for them; make the "
                "scheduler when the start is set.",
                UserWarning,
                stacklevel=2,
            )
        self._seen = net

    def _compare(self, *_: Any) -> None:
        """After the first step, warn if its gradient was not the objective's; a closure computes it in the step."""
        if self._compared or self._seen is None:
            return
        self._compared = True
        found = gradient_mismatch(self._layers, self._objective, self._seen)
        self._seen = None
        if found:
            warnings.warn(f"{found}, so that the steps 1/K_t do not fit it.", UserWarning, stacklevel=2)


def gradient_mismatch(layers: Layers, objective: Objective, network: Network) -> str:
    """Describe how `.grad` differs from the objective's gradient at these weights; "" if they agree."""
    given = layers.gradients()
    if given is None:
        return ""
    W = network.product()
    slope = detach(objective.gradient(W))
    # At an optimum the model's own gradient is rounding of its products, and of no direction.
    rounding = torch.finfo(layers.parameters[0].dtype).eps * objective.smoothness * norm(W)
    if math.isfinite(rounding) and norm(slope) <= rounding:
        return ""
    wanted = network.gradient(slope)
    a, b = (np.concatenate([to_numpy(G).ravel() for G in gradients]) for gradients in (given, wanted))
    sizes = norm(a), norm(b)
    if not (0 < sizes[0] < math.inf and 0 < sizes[1] < math.inf):
        return ""
    cosine, factor = float((a / sizes[0]) @ (b / sizes[1])), sizes[0] / sizes[1]
    # Rounding in bfloat16 turns a gradient by about 10⁻² at most, which changes the cosine by the square of that.
    if cosine < 0.999:
        return (
            f"the first gradient is not along that of the objective (cosine {cosine:.3g}: mini-batches, another "
            "loss, or clipping by entries)"
        )
    if abs(factor - 1) > 1e-2:
        return (
            f"the first gradient is {factor:.4g} times that of the objective (clipping, or another reduction: "
            "linflow.torch.regression(X, Y, reduction=…) is nn.MSELoss)"
        )
    return ""


def regression(X: torch.Tensor, Y: torch.Tensor, reduction: str = "mean", *, bias: bool = False) -> LinearRegression:
    """Return `nn.MSELoss(reduction)` on the outputs of a linear model as an objective, on the tensors' device.

    `nn.MSELoss()` divides `‖Y − XW‖_F²` by the number of entries of Y. That is `½‖aY − aXW‖_F²` with
    `a = sqrt(2/(N m))`. With `reduction="sum"`, `a = √2`. With `"half"`, `a = 1`: the `½‖Y − XW‖_F²` of the theory.

    Args:
        X: inputs, shape `(N, n)`.
        Y: outputs, shape `(N, m)`.
        reduction: "mean", "sum" or "half".
        bias: append a column of ones to X, for a model whose first layer has a bias (`linflow.torch.network`).

    Raises:
        ValueError, TypeError: as in `LinearRegression`.

    Example:
        >>> import torch, linflow.torch
        >>> X, Y = torch.eye(2), torch.tensor([[1.0], [3.0]])
        >>> f = linflow.torch.regression(X, Y)
        >>> f.value(torch.zeros(2, 1, dtype=torch.float64)), torch.nn.functional.mse_loss(0 * Y, Y).item()
        (5.0, 5.0)
    """
    checks.choice(reduction, "reduction", ("mean", "sum", "half"))
    X, Y = (X.detach().to(torch.float64), Y.detach().to(torch.float64))
    if bias:
        X = torch.cat([X, torch.ones_like(X[:, :1])], dim=1)
    a = {"mean": math.sqrt(2 / max(Y.numel(), 1)), "sum": math.sqrt(2), "half": 1.0}[reduction]
    return LinearRegression(a * X, a * Y)


def _check_optimizer(optimizer: torch.optim.Optimizer, layers: Layers) -> None:
    """Raise an error unless the optimiser takes plain gradient steps on the layers and nothing else."""
    why = why_not_plain(optimizer, layers)
    if why is None:
        groups = optimizer.param_groups
        own = {id(p) for p in layers.tensors}
        if any(group["weight_decay"] != 0 for group in groups):
            why = "weight decay minimises another function"
        elif any(group.get("maximize") for group in groups):
            why = "maximize=True climbs"
        elif any(id(p) not in own for group in groups for p in group["params"]):
            why = "the optimizer holds parameters that are not layers of the model"
    if why is not None:
        raise ValueError(f"1/K_t is for steps along the gradient of the objective, on all layers: {why}.")
