"""The quantities that the gradient flow of a multi-layer linear model conserves, each from a symmetry of the loss."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, detach, to_numpy
from linflow._support.words import plural
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import Optimizer


@dataclass(frozen=True)
class Conserved:
    """One conserved quantity.

    Attributes:
        name: "D_1", …, or "frozen rows of W_1", "frozen columns of W_L"; for a heavy ball "angular momentum 1", ….
        value: its value at the weights given, a matrix.
        count: how many independent numbers it holds: the rank of its derivative at these weights.
        decay: `e^{decay·t}` times the value is constant; 0 without weight decay.
        symmetry: the change of the weights that leaves the loss as it is.
    """

    name: str
    value: Array
    count: int
    decay: float
    symmetry: str

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.value.shape))
        law = "constant" if self.decay == 0 else f"falls as e^(−{self.decay:g}t)"
        return f"Conserved({self.name}, {shape}, {plural(self.count, 'number')}, {law}; {self.symmetry})"


def conserved(
    network: Network | Sequence[Any],
    objective: Objective | None = None,
    *,
    weight_decay: float = 0.0,
    layer_rates: Sequence[float] | None = None,
    friction: float | None = None,
) -> tuple[Conserved, ...]:
    """Return what the gradient flow from these weights conserves, with the symmetry that each quantity comes from.

    - `W_l → W_lS`, `W_{l+1} → S^{-1}W_{l+1}` leaves the product as it is, for every invertible S. Hence the gradient
      is orthogonal to `(W_lA, −AW_{l+1})` for every A, and with symmetric A the imbalance
      `D_l = W_lᵀW_l − W_{l+1}W_{l+1}ᵀ` is constant. It holds `h(h+1)/2 − (h−r)(h−r+1)/2` independent numbers, with r
      the rank of `[W_lᵀ W_{l+1}]`.
    - If the objective does not see some rows (a regression with dependent inputs), `W_1 → W_1 + (I − VVᵀ)Z` leaves
      the loss as it is, and `(I − VVᵀ) W_1` is constant. The same holds for columns of `W_L` if a `Quadratic` has a
      singular B.
    - With weight decay, `L + (λ/2) Σ‖W_l‖_F²`, the decay keeps only the orthogonal symmetries. The quantities follow
      `Ḋ_l = −2λD_l`, and frozen parts fall as `e^{−λt}`.
    - With layer rates, `Ẇ_l = −ρ_l ∂L/∂W_l`, the imbalance that is constant is that of the layers `W_l/√ρ_l`:
      `W_lᵀW_l/ρ_l − W_{l+1}W_{l+1}ᵀ/ρ_{l+1}`. With weight decay it follows a law of its own only if all `ρ_lλ` are
      equal, and is left out otherwise.
    - A heavy ball, `Ẅ_l + aẆ_l = −∂L/∂W_l`, conserves no imbalance. The rotations among the S give the angular
      momentum `M_l − M_lᵀ`, `M_l = W_lᵀẆ_l − Ẇ_{l+1}W_{l+1}ᵀ`, which falls as `e^{−at}`, from 0 if it starts at rest.

    - A `linflow.relu.Network` keeps one number for each neuron, by `u_j → s u_j`, `v_j → v_j/s` with `s > 0`.

    For descent, the law of the imbalance with momentum, decay, rates and mini-batches is in docs/optimisers.md.

    Args:
        network: a `Network` or its weights, or a `linflow.relu.Network`.
        objective: what is minimised; if omitted, one that sees the whole product.
        weight_decay: `λ ≥ 0`.
        layer_rates: `ρ_1, …, ρ_L`, as in `gradient_flow`.
        friction: a of a heavy ball.

    Returns:
        A tuple with one entry for each quantity. Different `D_l` can share numbers: their counts are not added up.

    Raises:
        ValueError: the network does not fit the objective, or the weight decay is negative.

    Source: Noether's theorem in the form of docs/symmetry.md; Arora, Cohen & Hazan 2018, Du, Hu & Lee 2018.

    Example:
        >>> import numpy as np, linflow as lf
        >>> for one in lf.conserved([np.array([[2.0]]), np.array([[1.0]])]):
        ...     print(one, one.value)
        Conserved(D_1, 1×1, 1 number, constant; W_1 → W_1 S, W_2 → S⁻¹ W_2) [[3.]]
        >>> f = lf.LinearRegression(np.array([[1.0, 0.0]]), np.array([[1.0]]))
        >>> [one.name for one in lf.conserved([np.ones((2, 3)), np.ones((3, 1))], f)]
        ['D_1', 'frozen rows of W_1']
    """
    own: Any = getattr(network, "conserved", None)  # of a network that is not linear
    if own is not None:
        given = {"objective": objective, "layer_rates": layer_rates, "friction": friction}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{', '.join(wrong)} is for linear networks; leave it out, or use linflow.Network.")
        return own(checks.positive(weight_decay, "weight_decay", allow_zero=True))
    net = Network.of(network)
    optimizer = Optimizer.of(net.depth, weight_decay=weight_decay, layer_rates=layer_rates, friction=friction)
    decays = optimizer.decays(net.depth)
    found = []
    for l, (A, B) in enumerate(itertools.pairwise(optimizer.coordinates(net).weights), 1):
        both = np.hstack([to_numpy(detach(A)).T, to_numpy(detach(B))])
        h, rank = both.shape[0], int(np.linalg.matrix_rank(both))
        moved = f"W_{l} → W_{l} S, W_{l + 1} → S⁻¹ W_{l + 1}"
        D = A.T @ A - B @ B.T
        if friction is not None:
            count = h * (h - 1) // 2 - (h - rank) * (h - rank - 1) // 2
            found.append(
                Conserved(
                    f"angular momentum {l}", 0.0 * D, count, optimizer.friction or 0.0, f"{moved}, S orthogonal"
                )
            )
        elif decays[l - 1] == decays[l]:
            count = h * (h + 1) // 2 - (h - rank) * (h - rank + 1) // 2
            found.append(Conserved(f"D_{l}", D, count, 2 * decays[l], moved))
    if objective is not None and (friction is None or not optimizer.weight_decay):
        found += _frozen(net, objective, decays)
    return tuple(found)


def _frozen(net: Network, objective: Objective, decays: Sequence[float]) -> list[Conserved]:
    """Return the parts of the outer layers that the objective does not see."""
    found = []
    objective.check_network(net)
    first, last = net.weights[0], net.weights[-1]
    V, U = objective.row_space, getattr(objective, "column_space", None)
    if V is not None:
        count = (V.shape[0] - V.shape[1]) * first.shape[1]
        symmetry = "W_1 → W_1 + (I − VVᵀ) Z"
        found.append(Conserved("frozen rows of W_1", first - V @ (V.T @ first), count, decays[0], symmetry))
    if U is not None:
        count = (U.shape[0] - U.shape[1]) * last.shape[0]
        name, symmetry = f"frozen columns of W_{net.depth}", f"W_{net.depth} → W_{net.depth} + Z (I − UUᵀ)"
        found.append(Conserved(name, last - (last @ U) @ U.T, count, decays[-1], symmetry))
    return found
