"""Learning rates from the curvature at the current weights, for PyTorch's optimisers."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from linflow import _checks, schedules
from linflow._arrays import detach, to_numpy
from linflow.certificates.descent import safe_step_size
from linflow.dynamics.descent import Iterate
from linflow.dynamics.field import GradientField, Point
from linflow.network import Network
from linflow.objectives import Objective
from linflow.quadratics import LinearRegression, _Quadratic
from linflow.torch._law import why_no_law
from linflow.torch._module import Layers

RULES = (*schedules.FORMS, "xu2025", "curvature")


@dataclass(frozen=True)
class LocalSmoothness:
    """The loss along the gradient step from the current weights.

    Attributes:
        gap: `ℓ = L − f*`.
        speed: `‖∇L‖`.
        constant: `K_t` at the step `1/K_t`.
        step: `1/K_t`, the least η with `η K_t(η) = 1`; the loss falls by `½η‖∇L‖²` at least.
        largest: the least η with `η K_t(η) = 2`, below which the loss is certain to fall.
    """

    gap: float
    speed: float
    constant: float
    step: float
    largest: float


def local_smoothness(objective: Objective, network: Network) -> LocalSmoothness:
    """Return what K-smoothness of the objective says of the next step, at any depth.

    `K_t(η) = (2 Σ_{k≥2} η^{k−2} ⟨∇f, M_k⟩ + K ‖Σ_{k≥1} η^{k−1} M_k‖²)/‖∇L‖²`, where `W(η) = Σ_k η^k M_k` is the
    product after the step η, satisfies `ℓ⁺ ≤ ℓ − η(1 − ηK_t/2)‖∇L‖²`. Infinite steps where the gradient is zero, NaN
    where K is unknown.

    Args:
        objective: what is minimised.
        network: the weights.

    Source: this library, docs/descent.md.

    Example:
        >>> import linflow as lf, torch
        >>> from linflow.torch.smoothness import local_smoothness
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> at = local_smoothness(lf.MatrixFactorization(2 * eye), lf.Network([eye, 0.5 * eye]))
        >>> bool(0 < at.step < at.largest)
        True
    """
    field = GradientField(objective, network)
    point = field.at(field.flatten(network.weights))
    K = objective.smoothness
    if math.isinf(K) or not point.finite:
        return LocalSmoothness(point.gap, point.speed, math.nan, math.nan, math.nan)
    if point.speed == 0:
        return LocalSmoothness(point.gap, 0.0, 0.0, math.inf, math.inf)
    unit, coefficients = _polynomial(field, network, point)
    if not (
        unit > 0 and np.isfinite(coefficients).all()
    ):  # weights so large, or a slope so small, as to leave float64
        return LocalSmoothness(point.gap, point.speed, math.nan, math.nan, math.nan)
    step = unit * schedules._first_root(list(coefficients))
    largest = unit * schedules._first_root(list(coefficients / 2))
    return LocalSmoothness(point.gap, point.speed, 1 / step, step, largest)


@dataclass(frozen=True)
class Curvature:
    """The step `1/K_t` with the Hessian of a quadratic objective in place of K.

    `ℓ⁺ = ℓ − η(1 − ηK_t(η)/2)‖∇L‖²` is then an equality, and `ℓ⁺ = ℓ − ½η‖∇L‖²` at `η K_t(η) = 1`; the first part of
    docs/descent.md on any depth holds word for word, with `⟨M, ∇²f[M]⟩ ≤ K ‖M‖²`.
    """

    def step(self, iterate: Iterate) -> float:
        """Return the least η with `η K_t(η) = 1`; 1/K where the gradient is zero."""
        if iterate.point.speed == 0 or not iterate.point.finite:
            return 1 / iterate.field.objective.smoothness
        unit, coefficients = _polynomial(iterate.field, iterate.network, iterate.point, hessian=True)
        return unit * schedules._first_root(list(coefficients))


def _polynomial(
    field: GradientField, network: Network, point: Point, *, hessian: bool = False
) -> tuple[float, np.ndarray]:
    """Return a unit of η and the coefficients of `τ ↦ η K_t(η)`, `η = unit · τ`, without the constant."""
    objective, xp, squared = field.objective, network.xp, point.speed * point.speed
    moves = schedules._product_polynomial(network, field.unflatten(point.slope))
    W, moves = moves[0], moves[1:]
    L = len(moves)
    turned = (
        [objective.hessian_product(W, M) for M in moves] if hessian else [objective.smoothness * M for M in moves]
    )
    flat, other = (
        xp.stack([xp.reshape(detach(M), (-1,)) for M in group]) for group in ([objective.gradient(W), *moves], turned)
    )
    slopes = to_numpy(flat @ flat[0])[1:]
    gram = to_numpy(flat[1:] @ other.T)
    coefficients = np.zeros(2 * L - 1)
    with np.errstate(all="ignore"):
        unit = np.float64(squared) / gram[0, 0]
        for k in range(1, L):
            coefficients[k - 1] += 2 * slopes[k] * unit**k / squared
        for i in range(L):
            for j in range(L):
                coefficients[i + j] += gram[i, j] * unit ** (i + j + 1) / squared
    return float(unit), coefficients


class LocalSmoothnessLR(LRScheduler):
    """A learning-rate scheduler that takes the step `1/K_t` of the curvature at the current weights.

    Each step is the least η with `η K_t(η) = 1`, so that `ℓ⁺ ≤ ℓ − (η/2)‖∇L‖²` and the loss never rises: at any depth
    with `rule="step"`. `"two layers"` and `"printed"` are for the worst direction, and `"xu2025"` is the growing
    schedule `min((1 + η_0²)^{t/2} η_0, 1/K_t)` with the printed `K_t`, all three for two layers; proofs in
    docs/descent.md. `"curvature"` is "step" with the Hessian of a quadratic objective in place of K: the loss falls
    by `(η/2)‖∇L‖²` exactly. Any rule of `linflow.schedules` will do too, such as `backtracking()`.

    Call `step()` after `optimizer.step()`, once per step. The statements are on steps along the gradient of the
    objective: SGD without momentum or weight decay on the whole data. `K_t` costs a few products of the layers with
    the objective's own matrices, whatever the number of samples.

    Args:
        optimizer: `torch.optim.SGD` without momentum and weight decay, on the layers alone.
        model: an `nn.Sequential` of bias-free `nn.Linear`, or a list of layers or matrices (`linflow.torch.network`).
        objective: what is minimised; `linflow.torch.regression` is `nn.MSELoss`.
        rule: "step", "curvature", "two layers", "printed", "xu2025", or a rule of `linflow.schedules`.
        first: `η_0` of "xu2025"; `safe_step_size(objective, network)` when left out.
        scale: output scale of the model.
        convention: of a list of matrices, "product" or "torch".
        last_epoch: as in every scheduler of PyTorch.

    Raises:
        ValueError, TypeError: an optimiser that does not step along the gradient; a model or objective that does not
            fit; a rule for two layers with others, or an objective without smoothness.

    A gradient that is the objective's times another factor (a mean for a sum) is warned of at the first step.

    Source: Xu, Min, Tarmoun, Mallada & Vidal 2025 for two layers; "step" is of this library.

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

    _UNSAVED = ("optimizer", "_layers", "_objective", "_rule", "_compared")

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: Any,
        objective: Objective,
        rule: Any = "step",
        *,
        first: float | None = None,
        scale: float = 1.0,
        convention: str = "product",
        last_epoch: int = -1,
    ):
        self._layers, self._objective = Layers.of(model, scale=scale, convention=convention), objective
        _check_optimizer(optimizer, self._layers)
        net = self._layers.network_for(objective)
        objective.check_network(net)
        if first is not None and rule != "xu2025":
            raise ValueError(f'first is {first!r}, but only the rule "xu2025" has a first step; leave it out.')
        if not callable(getattr(rule, "step", None)):
            form = {"xu2025": "printed", "curvature": "step"}.get(_checks.choice(rule, "rule", RULES), rule)
            schedules._check_form(objective, net.depth, form)
            if rule == "curvature" and not isinstance(objective, _Quadratic):
                raise ValueError(
                    f'the rule "curvature" is for quadratic objectives, and this is a {objective.name}; use "step".'
                )
            if rule == "xu2025":
                first = safe_step_size(objective, net) if first is None else _checks.positive(first, "first")
        self.rule = rule if isinstance(rule, str) else None
        self.first = first
        self._rule = rule
        self._compared = False
        optimizer.register_step_pre_hook(self._compare_gradients)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the step for the current weights, the same for every group."""
        net = self._layers.network_for(self._objective)
        field = GradientField(self._objective, net)
        last = None if self.last_epoch <= 0 else float(getattr(self, "_last_lr", [0.0])[0]) or None
        iterate = Iterate(field, field.at(field.flatten(net.weights)), max(self.last_epoch, 0), last)
        eta = float(self._made().step(iterate))
        return [eta for _ in self.optimizer.param_groups]

    def _made(self) -> Any:
        if self.rule is None:
            return self._rule
        if self.rule == "xu2025":
            return schedules.Xu2025(self.first or 0.0)
        return Curvature() if self.rule == "curvature" else schedules.local_smoothness(self.rule)

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on: counters, rates and `η_0`; no model, objective or rule object."""
        return {key: value for key, value in self.__dict__.items() if key not in self._UNSAVED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: it is of another rule.
        """
        if state_dict.get("rule", self.rule) != self.rule:
            raise ValueError(
                f"the state is of the rule {state_dict['rule']!r} and the scheduler of {self.rule!r}; make the "
                "scheduler with the same rule."
            )
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in self._UNSAVED})

    def _compare_gradients(self, *_: Any) -> None:
        """Warn, at the first step, where the gradient is the objective's times another factor."""
        if self._compared:  # removing the hook here would disturb others that run beside it
            return
        self._compared = True
        factor = gradient_factor(self._layers, self._objective)
        if factor is not None:
            warnings.warn(
                f"the gradient is {factor:.4g} times that of the objective, so that the steps 1/K_t do not fit it. "
                "linflow.torch.regression(X, Y, reduction=…) is the objective of nn.MSELoss.",
                UserWarning,
                stacklevel=2,
            )


def gradient_factor(layers: Layers, objective: Objective) -> float | None:
    """Return the factor where `.grad` is the objective's gradient times one that is not 1; None where not."""
    given = layers.gradients()
    if given is None:
        return None
    net = layers.network_for(objective)
    wanted = net.gradient(detach(objective.gradient(net.product())))
    a, b = (np.concatenate([to_numpy(G).ravel() for G in gradients]) for gradients in (given, wanted))
    dot, square = float(a @ b), float(b @ b)
    parallel = square > 0 and dot > 0.999 * math.sqrt(square * float(a @ a))
    return dot / square if parallel and abs(dot / square - 1) > 1e-2 else None


def regression(X: torch.Tensor, Y: torch.Tensor, reduction: str = "mean") -> LinearRegression:
    """Return the objective that `nn.MSELoss(reduction)` on the outputs of a linear model is, on the tensors' device.

    `nn.MSELoss()` divides `‖Y − XW‖_F²` by the number of entries of Y: `½‖aY − aXW‖_F²` with `a = sqrt(2/(N m))`;
    with `reduction="sum"`, `a = √2`, and with `"half"`, the `½‖Y − XW‖_F²` of the theory, `a = 1`.

    Args:
        X: inputs, shape `(N, n)`.
        Y: outputs, shape `(N, m)`.
        reduction: "mean", "sum" or "half".

    Raises:
        ValueError, TypeError: as `LinearRegression`.

    Example:
        >>> import torch, linflow.torch
        >>> X, Y = torch.eye(2), torch.tensor([[1.0], [3.0]])
        >>> f = linflow.torch.regression(X, Y)
        >>> f.value(torch.zeros(2, 1, dtype=torch.float64)), torch.nn.functional.mse_loss(0 * Y, Y).item()
        (5.0, 5.0)
    """
    _checks.choice(reduction, "reduction", ("mean", "sum", "half"))
    X, Y = (X.detach().to(torch.float64), Y.detach().to(torch.float64))
    a = {"mean": math.sqrt(2 / max(Y.numel(), 1)), "sum": math.sqrt(2), "half": 1.0}[reduction]
    return LinearRegression(a * X, a * Y)


def _check_optimizer(optimizer: torch.optim.Optimizer, layers: Layers) -> None:
    """Raise unless the optimiser takes plain gradient steps on the layers and nothing else."""
    why = why_no_law(optimizer, layers)
    if why is None:
        groups = optimizer.param_groups
        own = {id(p) for p in layers.parameters}
        if any(group["weight_decay"] != 0 for group in groups):
            why = "weight decay minimises another function"
        elif any(group.get("maximize") for group in groups):
            why = "maximize=True climbs"
        elif any(id(p) not in own for group in groups for p in group["params"]):
            why = "the optimizer holds parameters that are not layers of the model"
    if why is not None:
        raise ValueError(f"1/K_t is for steps along the gradient of the objective, on all layers: {why}.")
