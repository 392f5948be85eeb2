"""A monitor of the neurons of a ReLU model in training: their imbalances against the exact law of SGD."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np

import torch
from linflow._support import checks
from linflow._support.words import plural, shown
from linflow.torch._imbalance_law import ImbalanceLaw
from linflow.torch._module import PASSED, unwrapped
from linflow.torch._outlets import Outlets, table_of
from linflow.torch._sgd import OPTIONS, Sgd, buffers_of, group_of, rate_of, why_no_law
from torch import Tensor, nn

NAMES = ("step", "lr", "loss", "drift", "change", "law", "law_error", "rounding")
"""The logged columns, as in `Monitor`, with the imbalances of neurons for those of layers."""


class NeuronMonitor:
    """Follow the imbalance of every hidden neuron of a ReLU model in training and log a row at regular intervals.

    A hidden neuron with the incoming weights u, the bias b and the outgoing weights v has the imbalance
    `d = ‖u‖² + b² − ‖v‖²`. The gradient flow of any loss conserves it, at any depth. A step of SGD with the weight
    decay λ changes it to exactly `(1 − ηλ)² d + η²(‖∂u‖² + (∂b)² − ‖∂v‖²)`, mini-batch or not. With momentum and with
    different learning rates of the layers, the law is that of `Monitor`. It is accumulated at every step.

    Each row holds the step, the learning rate, the loss given to `observe`, the drift (the largest norm over the
    hidden layers of the change of all d), the change that the law makes, its error, and what rounding of the weights
    may do to it. An error above that rounding means that the training is not SGD on the model: entrywise clipping,
    or weights written from outside. If layers are frozen or the optimizer is not SGD, there is no law, and `notes`
    says why.

    Args:
        model: an `nn.Sequential` (also nested, compiled or data-parallel) of `nn.Linear` with `nn.ReLU` or
            `nn.LeakyReLU` between them; idle dropout, `nn.Identity` and `nn.Flatten` are passed over.
        optimizer: the optimiser of the model. Its post-step hook drives the monitor.
        every: steps between rows.
        writer: a `SummaryWriter` or anything with `add_scalar`, or a folder to make one in (needs tensorboard).
        csv: file to write the rows to. A file of an earlier training is replaced; any other file is refused.
        prefix: prefix of the names in TensorBoard.

    Raises:
        TypeError, ValueError: the model is not such a chain.
        FileExistsError: the csv file exists and was not written by a monitor of neurons.
        ImportError: writer is a folder and tensorboard is not installed.

    Source: docs/torch_training.md; Du, Hu & Lee 2018, theorem 2.1.

    Example:
        >>> import torch, linflow.torch as lt
        >>> _ = torch.manual_seed(0)
        >>> X, Y = torch.randn(50, 4), torch.randn(50, 2)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> with lt.NeuronMonitor(model, optimizer, every=20) as monitor:
        ...     for _ in range(40):
        ...         optimizer.zero_grad()
        ...         torch.nn.functional.mse_loss(model(X), Y).backward()
        ...         optimizer.step()
        >>> table = monitor.table()
        >>> table["step"].tolist(), bool((table["law_error"][1:] <= table["rounding"][1:]).all())
        ([0, 20, 40], True)
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 50,
        writer: Any = None,
        csv: str | PathLike[str] | None = None,
        prefix: str = "linflow",
    ):
        self.every = checks.count(every, "every")
        self.steps = 0
        self.notes: list[str] = []
        self.rows: list[dict[str, float]] = []
        self._layers = layers = NeuronLayers.of(model)
        self._optimizer = optimizer
        self._sgd, self._no_law = Sgd.of(optimizer, layers), None
        self._law = NeuronLaw(layers, rates=self._sgd.rates, buffers=buffers_of(optimizer, layers, torch.float64))
        self._check_law()
        self._start = imbalances(layers.weights())
        self._loss, self._lr = math.nan, math.nan
        self._outlets = Outlets(NAMES, csv, writer, prefix, go_on=False)
        self._record()
        self._hook = optimizer.register_step_post_hook(lambda *_: self._step())

    def observe(self, loss: Any) -> None:
        """Set the loss of the next row, a number or a tensor. It is read only if a row is written."""
        self._loss = loss.detach() if isinstance(loss, Tensor) else loss

    def table(self) -> dict[str, np.ndarray]:
        """Return the columns as arrays; NaN stands for an unknown value."""
        found = {name: np.array([row[name] for row in self.rows]) for name in NAMES}
        return found | {"step": found["step"].astype(int)}

    def close(self) -> None:
        """Write the final row, remove the hook and close the file; a second call does nothing."""
        if self._hook is None:
            return
        self._hook.remove()
        self._hook = None
        if self.rows[-1]["step"] != self.steps:
            self._record()
        self._outlets.close()

    def __enter__(self) -> NeuronMonitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_law(self) -> None:
        """Keep and note the reason if the imbalances follow no law."""
        why = why_no_law(self._optimizer, self._layers) or self._layers.why_apart(self._optimizer)
        if not self._sgd.alike(now := Sgd.of(self._optimizer, self._layers)):
            why = why or "the ratio of the learning rates of the layers changed"
        self._sgd = now
        self._no_law = self._no_law or why
        if self._no_law:
            self._note(f"the law of the imbalances is not followed: {self._no_law}")

    def _step(self) -> None:
        self.steps += 1
        self._lr, decay = rate_of(self._optimizer, self._layers)
        self._check_law()
        if self._no_law is None:
            gradients = self._layers.gradients(self._law.dtype)
            if gradients is None:
                self._no_law = "a layer had no gradient when the step was counted"
                self._note(f"the law of the imbalances is not followed: {self._no_law}")
            else:
                buffers = buffers_of(self._optimizer, self._layers, self._law.dtype)
                self._law.add(self._lr, decay, gradients, self._sgd, buffers)
        if self.steps % self.every == 0:
            self._record()

    def _record(self) -> None:
        row: dict[str, float] = dict.fromkeys(NAMES, math.nan)
        row["step"], row["lr"], row["loss"] = float(self.steps), self._lr, float(self._loss)
        weights = self._layers.weights()
        moved = [a - b for a, b in zip(imbalances(weights), self._start, strict=True)]
        row["drift"] = max(float(torch.linalg.norm(d)) for d in moved)
        if self._no_law is None and self._law.steps > 0:
            row["law"], row["change"], row["law_error"] = self._law.compare(weights)
            row["rounding"] = self._law.rounding(self._layers)
            if row["law_error"] > row["rounding"]:
                self._note(
                    "the imbalances moved otherwise than the law says (law_error above rounding): gradients in a "
                    "lower precision than the weights, clipping entry by entry, or weights that were written"
                )
        self.rows.append(row)
        self._outlets.write(row)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @shown
    def __str__(self) -> str:
        return table_of(NAMES, self.rows, self.notes)

    def __repr__(self) -> str:
        hidden = ", ".join(str(h) for h in self._layers.widths[1:-1])
        return f"NeuronMonitor({hidden} neurons, {plural(self.steps, 'step')}, {plural(len(self.rows), 'row')})"


class NeuronLayers:
    """The weights `W_1, …, W_L` of `x ↦ σ(x W_1 + b_1) W_2 + …`, with the bias of each hidden layer as its last row.

    It has what `linflow.torch._sgd` and the law ask of layers.
    """

    bias = None  # of a layer that is one matrix with it: see `why_apart`

    def __init__(self, modules: Sequence[nn.Linear]):
        self.parameters = tuple(m.weight for m in modules)
        self._biases = [m.bias for m in modules[:-1]] + [None]  # that of the last layer is in no imbalance
        self.tensors = (*self.parameters, *(b for b in self._biases if b is not None))
        self.trained = [p.requires_grad for p in self.parameters]
        self.device = self.parameters[0].device
        self.widths = (modules[0].in_features, *(m.out_features for m in modules))

    @classmethod
    def of(cls, model: Any) -> NeuronLayers:
        """Return the layers of a model.

        Raises:
            TypeError, ValueError: other modules, or fewer than two linear layers.
        """
        modules: list[nn.Linear] = []
        between = 0
        for part in _modules(model):
            if isinstance(part, PASSED) or (isinstance(part, nn.Dropout) and (part.p == 0 or not part.training)):
                continue
            if type(part) is nn.Linear and between == len(modules):
                modules.append(part)
            elif type(part) in (nn.ReLU, nn.LeakyReLU) and between == len(modules) - 1:
                between += 1
            else:
                raise TypeError(
                    f"the model has a {type(part).__name__} where nn.Linear and nn.ReLU or nn.LeakyReLU take turns; "
                    "pass the part of the model that has this form. For layers without a ReLU use Monitor."
                )
        if len(modules) < 2 or len(set(map(id, modules))) < len(modules):
            raise ValueError("the model needs two linear layers at least, each used once, with a ReLU between them.")
        return cls(modules)

    def oriented(self, tensors: Iterable[Tensor], dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Return tensors shaped like those of this class as matrices, each with the row of its bias, detached."""
        given = [x.detach().to(dtype) for x in tensors]
        biases = iter(given[len(self.parameters) :])
        return [
            W.T if b is None else torch.cat([W.T, next(biases)[None, :]])
            for b, W in zip(self._biases, given, strict=False)
        ]

    def weights(self) -> list[Tensor]:
        """Return the matrices in float64."""
        return self.oriented(self.tensors)

    def gradients(self, dtype: torch.dtype = torch.float64) -> list[Tensor] | None:
        """Return the gradients as such matrices; None if one is missing."""
        found = [p.grad for p in self.tensors]
        return None if any(g is None for g in found) else self.oriented((g for g in found if g is not None), dtype)

    def why_apart(self, optimizer: Any) -> str | None:
        """Return why a bias of a hidden neuron is not trained with its weights; None if all are."""
        for l, (W, b) in enumerate(zip(self.parameters, self._biases, strict=True), 1):
            if b is None:
                continue
            own, first = group_of(optimizer, b), group_of(optimizer, W) or {}
            if own is None or not b.requires_grad:
                return f"the bias of layer {l} is not trained, and its weight is"
            if any(own.get(key) != first.get(key) for key in OPTIONS):
                return f"the bias of layer {l} has its own options (rate, decay, momentum), not those of its weight"
        return None


class NeuronLaw(ImbalanceLaw):
    """The law of SGD for `d_j`, the diagonal of the law of layers: `⟨u_j, ∂u_j⟩ = ⟨v_j, ∂v_j⟩` for every neuron."""

    def _of(self, factors: Sequence[Tensor], others: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the imbalances of matrices, or their polar form for two sequences of matrices."""
        return imbalances(factors, others)


def imbalances(weights: Sequence[Tensor], others: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Return `‖u_j‖² + b_j² − ‖v_j‖²` of the neurons of each hidden layer, or the polar form for two sequences."""
    times = 1 if others is None else 2
    pairs = zip(pairwise(weights), pairwise(weights if others is None else others), strict=True)
    return [
        times * ((A * C).sum(0) - (B * D)[: A.shape[1]].sum(1))  # the row of B's bias comes after the neurons
        for (A, B), (C, D) in pairs
    ]


def _modules(model: Any) -> Iterable[nn.Module]:
    """Return the modules that a container applies, in order."""
    model = unwrapped(model)
    if not isinstance(model, (nn.Sequential, nn.ModuleList, list, tuple)):
        return [model]
    return [part for child in model for part in _modules(child)]
