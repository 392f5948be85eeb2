"""The layers of a model in training: their parameters, and how these are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from linflow._support import checks
from linflow._support.arrays import from_numpy, to_numpy
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.torch._training import overlap
from torch import Tensor, nn

CONVENTIONS = ("product", "torch")
PASSED = (nn.Identity, nn.Flatten)
"""Modules between the layers that do not change a matrix of rows."""
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True)
class Layers:
    """The parameters `W_1, …, W_L` of `x ↦ c · x W_1 W_2 ⋯ W_L`, in the order of application.

    Attributes:
        parameters: the parameters as stored, leaves of autograd.
        transposed: whether they are stored as (outputs, inputs), as `nn.Linear` does.
        scale: the output scale c.
    """

    parameters: tuple[Tensor, ...]
    transposed: bool
    scale: float = 1.0

    @classmethod
    def of(cls, model: Any, *, scale: float = 1.0, convention: str = "product") -> Layers:
        """Return the layers of a model, in the order of application.

        Args:
            model: an `nn.Sequential` or `nn.ModuleList` (also nested, compiled or data-parallel) of bias-free
                `nn.Linear`; a list of such modules; or a list of matrices.
            scale: output scale c of the model.
            convention: how the matrices of a list are stored: "product", each (inputs, outputs), or "torch", each
                (outputs, inputs).

        Raises:
            TypeError, ValueError: the model is not a chain of bias-free linear layers; the message says what to pass.
        """
        checks.choice(convention, "convention", CONVENTIONS)
        scale = checks.positive(scale, "scale")
        if not isinstance(model, nn.Module) and not isinstance(model, (list, tuple)):
            raise TypeError(
                f"model is a {type(model).__name__}; an nn.Sequential of bias-free nn.Linear, or a list of layers or "
                "of matrices in the order in which they are applied, is needed."
            )
        if isinstance(model, (list, tuple)) and all(isinstance(W, Tensor) for W in model):
            parameters, transposed = list(model), convention == "torch"
        else:
            parameters, transposed = [layer.weight for layer in _linear(model)], True
        _check(parameters)
        layers = cls(tuple(parameters), transposed, scale)
        # Raises if the shapes do not chain. The values are not checked: those of torch.empty can be anything.
        Network([torch.zeros((), dtype=torch.float64).expand(shape) for shape in layers.shapes], scale)
        return layers

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.parameters[0].device

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths `(h_0, …, h_L)`."""
        return (self.shapes[0][0], *(columns for _, columns in self.shapes))

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape `(h_{l-1}, h_l)` of each layer."""
        return [tuple(p.shape)[::-1] if self.transposed else tuple(p.shape) for p in self.parameters]

    def oriented(self, tensors: Iterable[Tensor], dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Return tensors shaped like the parameters as matrices `(h_{l-1}, h_l)`, detached, in `dtype`."""
        turned = (X.detach().T if self.transposed else X.detach() for X in tensors)
        return [X.to(dtype) for X in turned]

    def weights(self) -> list[Tensor]:
        """Return copies of `W_1, …, W_L` in float64."""
        return [W.clone() if W.dtype == p.dtype else W for W, p in zip(self._views(), self.parameters, strict=True)]

    def _views(self) -> list[Tensor]:
        return self.oriented(self.parameters)

    def gradients(self, dtype: torch.dtype = torch.float64) -> list[Tensor] | None:
        """Return the `.grad` of each layer, in `dtype`; None if a layer has no gradient."""
        found = [p.grad for p in self.parameters]
        return None if any(g is None for g in found) else self.oriented((g for g in found if g is not None), dtype)

    def network(self) -> Network:
        """Return the layers as a `Network` in float64, on their device.

        Raises:
            ValueError: some entries are not finite.
        """
        return Network(self.weights(), self.scale)

    def network_for(self, objective: Objective) -> Network:
        """Return the layers as a `Network` with the array type and device of the objective's data."""
        like = objective.minimizer
        if like is None:
            return self.network()
        if isinstance(like, Tensor):
            return Network([W.to(like.device) for W in self.weights()], self.scale)
        return Network([from_numpy(to_numpy(W), like) for W in self.weights()], self.scale)

    def write(self, weights: Sequence[Any]) -> None:
        """Copy matrices `(h_{l-1}, h_l)` into the parameters, in place, in their dtype and on their device."""
        with torch.no_grad():
            for p, W in zip(self.parameters, weights, strict=True):
                matrix = W if isinstance(W, Tensor) else torch.as_tensor(to_numpy(W))
                p.copy_(matrix.T if self.transposed else matrix)


def network(model: Any, *, scale: float = 1.0, convention: str = "product") -> Network:
    """Return the layers of a model as a `Network` in float64, detached, on their device.

    `nn.Linear` stores `W_lᵀ` and applies `x ↦ x W_l`. The network holds `W_1, …, W_L`, so the model is
    `X ↦ c · X W_1 ⋯ W_L`.

    Args:
        model: an `nn.Sequential` of bias-free `nn.Linear`, possibly nested, or a list of such layers or of matrices,
            in the order of application.
        scale: output scale c of the model.
        convention: how the matrices of a list are stored: "product", each (inputs, outputs), or "torch", each
            (outputs, inputs).

    Raises:
        TypeError, ValueError: the model is not a chain of bias-free linear layers; the message says what to pass.

    Example:
        >>> import torch, linflow.torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6, bias=False), torch.nn.Linear(6, 3, bias=False))
        >>> linflow.torch.network(model)
        Network(4×6×3, torch)
    """
    return Layers.of(model, scale=scale, convention=convention).network()


def unwrapped(model: Any) -> Any:
    """Return the module inside the wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while isinstance(model, nn.Module):
        inner = model.module if isinstance(model, WRAPPERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def _linear(model: Any, name: str = "model") -> list[nn.Linear]:
    """Return the linear layers of a container, in order."""
    model = unwrapped(model)
    if isinstance(model, (nn.Sequential, nn.ModuleList, list, tuple)):
        return [layer for i, part in enumerate(model) for layer in _linear(part, f"{name}[{i}]")]
    if isinstance(model, PASSED):
        return []
    if isinstance(model, nn.Dropout):
        if model.p > 0 and model.training:
            raise ValueError(
                f"{name} is a Dropout(p={model.p:g}) in training: what is trained is then not a function of the "
                "product. Leave it out, or set p=0 (weight decay regularises as well)."
            )
        return []
    if not isinstance(model, nn.Linear):
        hint = (
            " Pass the nn.Linear layers as a list, in the order in which they are applied."
            if isinstance(model, nn.Module) and any(isinstance(part, nn.Linear) for part in model.modules())
            else " A product of matrices is what the theory is about."
        )
        raise TypeError(
            f"{name} is a {type(model).__name__}; bias-free nn.Linear in an nn.Sequential is needed.{hint}"
        )
    if model.bias is not None:
        raise ValueError(
            f"{name} has a bias, and the theory is for products of matrices: nn.Linear(…, bias=False). With centred "
            "data none is needed."
        )
    if nn.parameter.is_lazy(model.weight):
        raise ValueError(f"{name} has no weights yet; run the model once on a batch, so that it finds its shape.")
    if not isinstance(model.weight, nn.Parameter):
        raise TypeError(
            f"the weight of {name} is computed (a parametrization), so it does not follow its own gradient; remove "
            "the parametrization."
        )
    return [model]


def _check(parameters: Sequence[Tensor]) -> None:
    if not parameters:
        raise ValueError("model has no nn.Linear layer; at least one is needed.")
    for l, p in enumerate(parameters, 1):
        if not p.is_floating_point():
            raise TypeError(f"layer {l} has dtype {p.dtype}; a floating-point tensor is needed.")
        if p.ndim != 2:
            raise ValueError(f"layer {l} has shape {tuple(p.shape)}; a matrix is needed.")
        if p.is_meta:
            raise ValueError(f"layer {l} is on the meta device and has no values; materialise the model first.")
    # A view of another layer's memory, such as `decoder.weight = Parameter(encoder.weight.T)`, is tied, too.
    if any(p is q or overlap(p, q) for p, q in combinations(parameters, 2)):
        raise ValueError(
            "a layer occurs twice (tied weights); its gradient is then the sum of two, and no imbalance is "
            "conserved. Give every layer a weight of its own."
        )
    if len({p.device for p in parameters}) > 1:
        raise ValueError(f"the layers are on {sorted({str(p.device) for p in parameters})}; one device is needed.")
