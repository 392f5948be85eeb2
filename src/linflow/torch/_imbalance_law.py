"""The law of the imbalances under descent, accumulated along a training run and compared with the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from linflow.torch._module import Layers
from torch import Tensor

PROBES = 8
"""Largest width for which whole matrices are followed; also the number of vectors for wider layers."""


class ImbalanceLaw:
    """The imbalances that descent must give, as `Z_l D_l` for fixed matrices `Z_l`.

    Take a step `W ← (1 − ηλ) W − ηG` (SGD with weight decay λ) in which the `G_l` are gradients of one function of
    the product. It turns `D_l` into exactly `(1 − ηλ)² D_l + η² (G_lᵀG_l − G_{l+1}G_{l+1}ᵀ)`, because
    `W_lᵀG_l = G_{l+1}W_{l+1}ᵀ`. This holds for every mini-batch, and for gradients that were clipped together. Only
    `Z_l D_l` is followed, at the cost of a few vectors. `Z_l` is the identity up to a width of `probes`. For wider
    layers it is `probes`×h with entries N(0, 1/`probes`), so the norms of `Z_l A` estimate those of A.
    """

    def __init__(self, layers: Layers, probes: int = PROBES):
        generator = torch.Generator().manual_seed(20230724)
        self._probes = [
            None
            if h <= probes
            else (torch.randn(probes, h, generator=generator, dtype=torch.float64) / math.sqrt(probes)).to(
                layers.device
            )
            for h in layers.widths[1:-1]
        ]
        self.exact = all(Z is None for Z in self._probes)
        # The law is a sum of squares of gradients: float32 is enough for gradients in float32 or a shorter format.
        wide = any(p.dtype == torch.float64 for p in layers.parameters)
        self.dtype = torch.float64 if wide else torch.float32
        self.restart(layers.weights())

    def restart(self, weights: Sequence[Tensor]) -> None:
        """Start the law at these weights."""
        self._first, self._size = self._of(weights), 0.0
        self._grow(weights)
        self._now, self.steps = [D.clone() for D in self._first], 0

    def _of(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """Return `Z_l (A_lᵀA_l − A_{l+1}A_{l+1}ᵀ)` for `A = factors`."""
        found = []
        for (A, B), Z in zip(pairwise(factors), self._probes, strict=True):
            if Z is None:
                found.append(A.T @ A - B @ B.T)
            else:
                Z = Z if Z.dtype == A.dtype else Z.to(A.dtype)  # noqa: PLW2901
                found.append((Z @ A.T) @ A - (Z @ B) @ B.T)
        return found

    def add(self, step_size: float, decay: float, gradients: Sequence[Tensor]) -> None:
        """Add one step to the law."""
        kept = (1 - step_size * decay) ** 2
        for D, change in zip(self._now, self._of(gradients), strict=True):
            if kept != 1:
                D.mul_(kept)
            D.add_(change, alpha=step_size**2)
        self.steps += 1

    def _grow(self, weights: Sequence[Tensor]) -> None:
        squares = [float(torch.sum(W * W)) for W in weights]
        self._size = max([self._size, *(a + b for a, b in pairwise(squares))])

    def rounding(self, layers: Layers) -> float:
        """Return how far rounding of the stored weights to the layers' dtype can move an imbalance.

        This is `ε (‖W_l‖_F² + ‖W_{l+1}‖_F²)` per step, at the largest weights seen. Rounding within the gradients is
        not included; it is smaller if a step is small compared with the weights.
        """
        return self._size * self.steps * max(torch.finfo(p.dtype).eps for p in layers.parameters)

    def compare(self, weights: Sequence[Tensor]) -> tuple[float, float, float]:
        """Return the norms of the predicted change, the actual change and their difference; each the largest."""
        self._grow(weights)
        now = self._of(weights)
        law = [a - b for a, b in zip(self._now, self._first, strict=True)]
        seen = [a - b for a, b in zip(now, self._first, strict=True)]
        error = [a - b for a, b in zip(now, self._now, strict=True)]
        return _largest(law), _largest(seen), _largest(error)


def why_no_law(optimizer: Any, layers: Layers) -> str | None:
    """Return why the law does not hold; None if it holds: SGD without momentum, at one rate for all layers."""
    if not isinstance(optimizer, torch.optim.SGD):
        return f"{type(optimizer).__name__} does not step along the gradient; torch.optim.SGD does"
    rates = set()
    for l, p in enumerate(layers.parameters, 1):
        group = next((g for g in optimizer.param_groups if any(q is p for q in g["params"])), None)
        if group is None or not p.requires_grad:
            why = "frozen (requires_grad is False)" if group is not None else "not trained by the optimizer"
            return f"layer {l} is {why}, so its neighbours change alone"
        if group["momentum"] != 0:
            return f"the momentum {group['momentum']:g} moves the weights along earlier gradients"
        rates.add((float(group["lr"]), float(group["weight_decay"])))
    if len(rates) > 1:
        return "the layers have different learning rates or weight decay"
    return None


def rate_of(optimizer: Any, layers: Layers) -> tuple[float, float]:
    """Return the learning rate and weight decay of the parameter group of the first layer."""
    first = layers.parameters[0]
    groups = optimizer.param_groups
    group = next((g for g in groups if any(q is first for q in g["params"])), groups[0])
    return float(group["lr"]), float(group.get("weight_decay", 0.0))


def _largest(matrices: Sequence[Tensor]) -> float:
    return max((float(torch.linalg.norm(M)) for M in matrices), default=0.0)
