"""The layers of a model in training: their parameters, and how these are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from linflow._support import checks
from linflow._support.arrays import from_numpy, to_numpy
from linflow._support.words import kind_of
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

    A bias of the first layer is the last row of `W_1`, for inputs extended by a constant 1. A bias of the last layer
    is added outside the product.

    Attributes:
        parameters: the parameters as stored, leaves of autograd, without biases.
        transposed: whether they are stored as (outputs, inputs), as `nn.Linear` does.
        scale: the output scale c.
        bias: the bias of the first layer; None if it has none.
        outside: the bias of the last of several layers; None if it has none.
    """

    parameters: tuple[Tensor, ...]
    transposed: bool
    scale: float = 1.0
    bias: Tensor | None = None
    outside: Tensor | None = None

    @classmethod
    def of(
        cls,
        model: Any,
        *,
        scale: float = 1.0,
        convention: str = "product",
        frozen: bool = False,
        outside: bool = False,
    ) -> Layers:
        """Return the layers of a model, in the order of application.

        Args:
            model: an `nn.Sequential` or `nn.ModuleList` (also nested, compiled or data-parallel) of `nn.Linear`, of
                which the first may have a bias; a list of such modules; or a list of matrices.
            scale: output scale c of the model.
            convention: how the matrices of a list are stored: "product", each (inputs, outputs), or "torch", each
                (outputs, inputs).
            frozen: whether some layers may be frozen while others are not.
            outside: whether the last of several layers may have a bias.

        Raises:
            TypeError, ValueError: the model is not such a chain of linear layers; the message says what to pass.
        """
        checks.choice(convention, "convention", CONVENTIONS)
        scale = checks.positive(scale, "scale")
        if not isinstance(model, nn.Module) and not isinstance(model, (list, tuple)):
            raise TypeError(
                f"model is {kind_of(model)}; an nn.Sequential of nn.Linear, or a list of layers or of "
                "matrices in the order in which they are applied, is needed."
            )
        if isinstance(model, (list, tuple)) and all(isinstance(W, Tensor) for W in model):
            parameters, transposed, biases = list(model), convention == "torch", [None] * len(model)
        else:
            modules = _linear(model)
            parameters, transposed = [layer.weight for layer in modules], True
            biases = [layer.bias for layer in modules]
        _check(parameters, [b for b in biases if b is not None])
        first, last = (biases or [None])[0], biases[-1] if len(biases) > 1 else None
        layers = cls(tuple(parameters), transposed, scale, first, last)
        _check_biases(biases, outside=outside)
        if first is not None and first.requires_grad != parameters[0].requires_grad:
            which, other = ("bias", "weight") if parameters[0].requires_grad else ("weight", "bias")
            raise ValueError(
                f"the {which} of the first layer is frozen and its {other} is not: the two are one matrix of inputs "
                "extended by 1, which is trained as a whole. Train both or freeze both, or use bias=False."
            )
        if not frozen:
            layers.check_trained()
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
        """The shape `(h_{l-1}, h_l)` of each layer, with the bias of the first as one more row."""
        found = [tuple(p.shape)[::-1] if self.transposed else tuple(p.shape) for p in self.parameters]
        return found if self.bias is None else [(found[0][0] + 1, found[0][1]), *found[1:]]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the product: the parameters, then the bias of the first layer if it has one."""
        return self.parameters if self.bias is None else (*self.parameters, self.bias)

    @property
    def trained(self) -> list[bool]:
        """Whether each layer is trained; if no tensor asks for a gradient, they are plain weights, and all are."""
        asked = [p.requires_grad for p in self.parameters]
        return asked if any(asked) else [True] * len(asked)

    def check_trained(self) -> None:
        """Raise ValueError if some layers are frozen and others are not."""
        if not all(self.trained):
            raise ValueError(_why_frozen(self.trained))

    def oriented(self, tensors: Iterable[Tensor], dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Return tensors shaped like `tensors` of this class as matrices `(h_{l-1}, h_l)`, detached, in `dtype`."""
        given = list(tensors)
        turned = [(X.detach().T if self.transposed else X.detach()).to(dtype) for X in given[: len(self.parameters)]]
        if self.bias is not None:
            turned[0] = torch.cat([turned[0], given[-1].detach().to(dtype)[None, :]])
        return turned

    def check_objective(self, objective: Objective) -> None:
        """Raise ValueError or TypeError unless the objective fits the layers, and say so if a bias is why."""
        net = self.network_for(objective)
        if self.bias is not None and net.shape == (objective.shape[0] + 1, objective.shape[1]):
            raise ValueError(
                "the first layer has a bias, one more row of W_1 for inputs extended by a constant 1, but the "
                f"objective has {objective.shape[0]} inputs without it; use regression(X, Y, bias=True), or append "
                "a column of ones to the inputs."
            )
        objective.check_network(net)

    def weights(self) -> list[Tensor]:
        """Return copies of `W_1, …, W_L` in float64."""
        views = self.oriented(self.tensors)
        return [W.clone() if W.dtype == p.dtype else W for W, p in zip(views, self.parameters, strict=True)]

    def gradients(self, dtype: torch.dtype = torch.float64) -> list[Tensor] | None:
        """Return the `.grad` of each layer, in `dtype`; None if a layer has no gradient."""
        found = [p.grad for p in self.tensors]
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
        matrices = [W if isinstance(W, Tensor) else torch.as_tensor(to_numpy(W)) for W in weights]
        with torch.no_grad():
            if self.bias is not None:
                self.bias.copy_(matrices[0][-1])
                matrices[0] = matrices[0][:-1]
            for p, matrix in zip(self.parameters, matrices, strict=True):
                p.copy_(matrix.T if self.transposed else matrix)


def network(model: Any, *, scale: float = 1.0, convention: str = "product") -> Network:
    """Return the layers of a model as a `Network` in float64, detached, on their device.

    `nn.Linear` stores `W_lᵀ` and applies `x ↦ x W_l`. The network holds `W_1, …, W_L`, so the model is
    `X ↦ c · X W_1 ⋯ W_L`. A bias of the first layer is the last row of `W_1`, and X has a last column of ones
    (`regression(X, Y, bias=True)`).

    Args:
        model: an `nn.Sequential` of `nn.Linear`, possibly nested, or a list of such layers or of matrices, in the
            order of application. Only the first layer may have a bias. Either all layers are trained or all are
            frozen.
        scale: output scale c of the model.
        convention: how the matrices of a list are stored: "product", each (inputs, outputs), or "torch", each
            (outputs, inputs).

    Raises:
        TypeError, ValueError: the model is not such a chain of linear layers; the message says what to pass.

    Example:
        >>> import torch, linflow.torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6, bias=False), torch.nn.Linear(6, 3, bias=False))
        >>> linflow.torch.network(model)
        Network(4×6×3, torch)
        >>> linflow.torch.network(torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3, bias=False)))
        Network(5×6×3, torch)
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
        parts = list(model.named_modules()) if isinstance(model, nn.Module) else []
        hint = (
            " For low-rank adapters take linflow.torch.adapters(model), and linflow.lora for the flow of one."
            if any(name.rpartition(".")[2] == "lora_A" for name, _ in parts)
            else " Pass the nn.Linear layers as a list, in the order in which they are applied."
            if any(isinstance(part, nn.Linear) for _, part in parts)
            else " A product of matrices is what the theory is about."
        )
        raise TypeError(f"{name} is {kind_of(model)}; nn.Linear in an nn.Sequential is needed.{hint}")
    if nn.parameter.is_lazy(model.weight):
        raise ValueError(f"{name} has no weights yet; run the model once on a batch, so that it finds its shape.")
    if not isinstance(model.weight, nn.Parameter):
        raise TypeError(
            f"the weight of {name} is computed (a parametrization), so it does not follow its own gradient; remove "
            "the parametrization."
        )
    return [model]


def _check_biases(biases: Sequence[Tensor | None], *, outside: bool) -> None:
    """Raise ValueError for a bias that is not a row of `W_1`, unless it is the last one and `outside` allows it."""
    last = len(biases)
    for l, b in enumerate(biases[1:], 2):
        if b is None or (l == last and outside):
            continue
        where = f"layer {l} of {last} has a bias, "
        if l < last:
            raise ValueError(
                f"{where}so the model is not a product of matrices: only a bias of the first layer is a row of its "
                "matrix. Use nn.Linear(…, bias=False) there; a bias of the first layer does what it would do."
            )
        raise ValueError(
            f"{where}which is added outside the product. Use nn.Linear(…, bias=False) there and a bias of the first "
            "layer. Or centre the inputs: then the squared loss is a sum of one of the product and one of this bias, "
            'and the weights alone, [layer.weight for layer in …] with convention="torch", are a model of their own.'
        )


def _why_frozen(trained: Sequence[bool]) -> str:
    """Say why a chain with frozen layers is not a network, and what is."""
    frozen = [l for l, free in enumerate(trained, 1) if not free]
    which = "layer " + str(frozen[0]) if len(frozen) == 1 else "layers " + ", ".join(map(str, frozen))
    start = (
        f"{which} of {len(trained)} {'is' if len(frozen) == 1 else 'are'} frozen (requires_grad is False) and the "
    )
    start += "others are not: what holds for a network is for training all its layers. "
    if frozen == list(range(1, len(frozen) + 1)):
        return start + (
            f"Apply the frozen ones to the inputs, as in regression(model[:{len(frozen)}](X), Y), and pass the rest "
            "as the model; or train all layers."
        )
    if frozen == list(range(len(trained) - len(frozen) + 1, len(trained) + 1)):
        return start + (
            "Pass the layers before the frozen ones, whose product is S, with an objective of theirs, as in "
            "lf.Quadratic(XᵀX, SSᵀ, XᵀYSᵀ); or train all layers."
        )
    return (
        start
        + "linflow.torch.audit leaves its term out of T, and Monitor follows such a training; or train all layers."
    )


def _check(parameters: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> None:
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
    if any(p is q or overlap(p, q) for p, q in combinations([*parameters, *biases], 2)):
        raise ValueError(
            "a layer occurs twice (tied weights); its gradient is then the sum of two, and no imbalance is "
            "conserved. Give every layer a weight of its own; for W Wᵀ, lf.TiedLayers is an objective of the one W."
        )
    for b in biases:
        if not isinstance(b, nn.Parameter) or b.is_meta or not b.is_floating_point():
            raise TypeError("a bias is not a floating-point nn.Parameter with values; use nn.Linear as it is made.")
    if len({p.device for p in [*parameters, *biases]}) > 1:
        raise ValueError(f"the layers are on {sorted({str(p.device) for p in parameters})}; one device is needed.")
