"""Low-rank adapters as a two-layer network: `f(W_0 + s·BA)` is an objective of the product `BA`."""

from __future__ import annotations

from typing import Any

from linflow._support import checks
from linflow.model.network import Network
from linflow.model.objectives import Objective


def lora(objective: Objective, W0: Any, A: Any, B: Any, *, scaling: float = 1.0) -> tuple[Objective, Network]:
    """Return the objective and the network of fine-tuning a frozen weight by a low-rank adapter.

    An adapter replaces the weight `W_0` of a linear layer by `W_0 + s·BA` and trains A and B. All three are given as
    PyTorch and PEFT store them, so that the layer maps x to `(W_0 + s·BA)x`. The objective is a function of the
    transpose, of shape (inputs, outputs), as `LinearRegression(X, Y)` is with samples in rows. So the network has the
    layers `Aᵀ` and `Bᵀ` and the output scale s, and its objective is `P ↦ f(W_0ᵀ + P)`.

    The result is certified, run, enclosed and drawn like any other pair. If `r ≥ min(n, m)`, the adapter can become
    any matrix. If it is smaller, the row "low rank" of the certificate says how far the gap is sure to fall.
    For the steps of LoRA+, in which B learns faster, give `layer_rates=(1, ratio)`.

    Args:
        objective: f, of shape (inputs, outputs).
        W0: the frozen weight, shape (outputs, inputs); `layer.weight`.
        A: shape (rank, inputs); `lora_A.weight`.
        B: shape (outputs, rank); `lora_B.weight`.
        scaling: s, which is `lora_alpha / r` in PEFT.

    Returns:
        `(shifted objective, network)`.

    Raises:
        ValueError: the shapes do not fit together.

    Source: Hu et al. 2022 (arXiv 2106.09685); docs/lora.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> rng = np.random.default_rng(0)
        >>> X, Y, W0 = rng.standard_normal((20, 4)), rng.standard_normal((20, 3)), np.zeros((3, 4))
        >>> A, B = rng.uniform(-0.5, 0.5, (2, 4)), np.zeros((3, 2))
        >>> f, net = lf.lora(lf.LinearRegression(X, Y), W0, A, B, scaling=2.0)
        >>> net.widths, net.scale, f
        ((4, 2, 3), 2.0, LinearRegression(4×3, μ=8.651, K=29.65, γ=17.3))
    """
    n, m = objective.shape
    W0, note = checks.matrix(W0, "W0")
    if tuple(W0.shape) != (m, n):
        raise ValueError(
            f"W0 is {W0.shape[0]}×{W0.shape[1]}, but the objective is of {n} inputs and {m} outputs, so that a "
            f"weight of shape {m}×{n} is needed (outputs first, as torch.nn.Linear stores it)."
        )
    (A, of_A), (B, of_B) = checks.matrix(A, "A"), checks.matrix(B, "B")
    if A.shape[1] != n or B.shape[0] != m or A.shape[0] != B.shape[1]:
        raise ValueError(
            f"A is {A.shape[0]}×{A.shape[1]} and B is {B.shape[0]}×{B.shape[1]}; A of shape (rank, {n}) and B of "
            f"shape ({m}, rank) are needed, as PEFT stores them."
        )
    shifted, network = objective.shifted(W0.T), Network([A.T, B.T], checks.positive(scaling, "scaling"))
    shifted.notes += (note,) if note else ()
    network.notes = tuple(one for one in (of_A, of_B) if one)
    return shifted, network
