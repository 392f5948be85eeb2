"""The law of the imbalances under SGD, accumulated along a training run and compared with the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from linflow.torch._sgd import Sgd, Stack
from torch import Tensor

PROBES = 8
"""Largest width for which whole matrices are followed; also the number of vectors for wider layers."""


class ImbalanceLaw:
    """The imbalances that SGD must give, as `Z_l D_l` for fixed matrices `Z_l`.

    Take a step `W ← (1 − ηλ) W − ηG` (SGD with weight decay λ) in which the `G_l` are gradients of one function of
    the product. It turns `D_l` into exactly `(1 − ηλ)² D_l + η² (G_lᵀG_l − G_{l+1}G_{l+1}ᵀ)`, because
    `W_lᵀG_l = G_{l+1}W_{l+1}ᵀ`. This holds for every mini-batch, and for gradients that were clipped together. With
    momentum the buffers b are read, and the law is that of docs/optimisers.md: `R = ⟨W, b⟩` before a step becomes
    `C = μR + 2(1 − τ)λD` with the dampening τ (`2λD` if there was no buffer), D becomes `D − ηC + η²Q(b)`, and R
    becomes `C − 2ηQ(b)`; in Nesterov's form b is replaced by the direction d in the steps. With different learning
    rates the layers are `W_l/√ρ_l`. Only `Z_l D_l` is followed, at the cost of a few vectors. `Z_l` is the identity
    up to a width of `probes`. For wider layers it is `probes`×h with entries N(0, 1/`probes`), so the norms of
    `Z_l A` estimate those of A.
    """

    def __init__(
        self,
        layers: Stack,
        probes: int = PROBES,
        rates: Sequence[float] = (),
        buffers: Sequence[Tensor] | None = None,
    ):
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
        self._roots = [math.sqrt(r) for r in rates]
        self.restart(layers.weights(), buffers)

    def restart(self, weights: Sequence[Tensor], buffers: Sequence[Tensor] | None = None) -> None:
        """Start the law at these weights, with the momentum buffers before the next step."""
        weights = self._down(weights)
        self._first, self._size, self._longest = self._of(weights), 0.0, 1.0
        self._grow(weights)
        self._now, self.steps = [D.clone() for D in self._first], 0
        self._with = None if buffers is None else self._of(weights, [b.to(torch.float64) for b in self._up(buffers)])

    def _down(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        return [W / root for W, root in zip(weights, self._roots, strict=True)] if self._roots else weights

    def _up(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        return [G * root for G, root in zip(gradients, self._roots, strict=True)] if self._roots else gradients

    def _of(self, factors: Sequence[Tensor], others: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return `Z_l (A_lᵀA_l − A_{l+1}A_{l+1}ᵀ)` for `A = factors`, or `Z_l ⟨A, B⟩_l` for `B = others` as well."""
        found = []
        for l, ((A, B), Z) in enumerate(zip(pairwise(factors), self._probes, strict=True)):
            Z = Z if Z is None or Z.dtype == A.dtype else Z.to(A.dtype)  # noqa: PLW2901
            if others is None:
                found.append(A.T @ A - B @ B.T if Z is None else (Z @ A.T) @ A - (Z @ B) @ B.T)
                continue
            C, D = others[l], others[l + 1]
            if Z is None:
                left, right = A.T @ C, B @ D.T
                found.append(left + left.T - right - right.T)
            else:
                found.append((Z @ A.T) @ C + (Z @ C.T) @ A - (Z @ B) @ D.T - (Z @ D) @ B.T)
        return found

    def add(
        self,
        step_size: float,
        decay: float,
        gradients: Sequence[Tensor],
        sgd: Sgd | None = None,
        buffers: Sequence[Tensor] | None = None,
    ) -> None:
        """Add one step to the law.

        Args:
            step_size: the learning rate of the first layer.
            decay: the weight decay, that of the first layer.
            gradients: those of the step.
            sgd: its other options.
            buffers: the momentum buffers after the step; None without momentum.
        """
        self.steps += 1
        if sgd is not None and sgd.momentum != 0 and buffers is not None:
            self._add_momentum(step_size, decay, self._up(gradients), sgd, self._up(buffers))
            return
        kept = (1 - step_size * decay) ** 2
        for D, change in zip(self._now, self._of(self._up(gradients)), strict=True):
            if kept != 1:
                D.mul_(kept)
            D.add_(change, alpha=step_size**2)

    def _add_momentum(
        self, eta: float, kappa: float, gradients: Sequence[Tensor], sgd: Sgd, buffers: Sequence[Tensor]
    ) -> None:
        mu = sgd.momentum
        self._longest = max(self._longest, 1 / (1 - mu) if mu < 1 else math.inf)
        if self._with is None:  # the first buffer is the gradient
            C = [2 * kappa * D for D in self._now]
        else:
            source = 2 * (1 - sgd.dampening) * kappa
            C = [mu * R + source * D for R, D in zip(self._with, self._now, strict=True)]
        if sgd.nesterov:
            sign = -1.0 if sgd.maximize else 1.0
            u = [sign * G + mu * b for G, b in zip(gradients, buffers, strict=True)]  # d without its κW
            squares = [Q + kappa * mu * c + kappa**2 * D for Q, c, D in zip(self._of(u), C, self._now, strict=True)]
            products = [p + kappa * c for p, c in zip(self._of(u, buffers), C, strict=True)]
            P = [2 * kappa * D + mu * c for D, c in zip(self._now, C, strict=True)]
        else:
            squares, P = self._of(buffers), C
            products = [2 * Q for Q in squares]
        self._with = [c - eta * p for c, p in zip(C, products, strict=True)]
        self._now = [D - eta * p + eta**2 * Q for D, p, Q in zip(self._now, P, squares, strict=True)]

    def _grow(self, weights: Sequence[Tensor]) -> None:
        squares = [float(torch.sum(W * W)) for W in weights]
        self._size = max([self._size, *(a + b for a, b in pairwise(squares))])

    def rounding(self, layers: Stack) -> float:
        """Return how far rounding of the stored weights to the layers' dtype can move an imbalance.

        This is `ε (‖W_l‖_F² + ‖W_{l+1}‖_F²)` per step, at the largest weights seen. Rounding within the gradients is
        not included; it is smaller if a step is small compared with the weights. With momentum μ a rounding of the
        buffer goes on in `1/(1 − μ)` steps, and the number is multiplied by this.
        """
        return self._longest * self._size * self.steps * max(torch.finfo(p.dtype).eps for p in layers.parameters)

    def compare(self, weights: Sequence[Tensor]) -> tuple[float, float, float]:
        """Return the norms of the predicted change, the actual change and their difference; each the largest."""
        weights = self._down(weights)
        self._grow(weights)
        now = self._of(weights)
        law = [a - b for a, b in zip(self._now, self._first, strict=True)]
        seen = [a - b for a, b in zip(now, self._first, strict=True)]
        error = [a - b for a, b in zip(now, self._now, strict=True)]
        return _largest(law), _largest(seen), _largest(error)


def _largest(matrices: Sequence[Tensor]) -> float:
    return max((float(torch.linalg.norm(M)) for M in matrices), default=0.0)
