"""What is certain about the imbalances along a flow, before it is run."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from linflow._support.arrays import norm
from linflow.certificates.heavy_ball import drift_cap
from linflow.model.network import Network
from linflow.model.optimizer import Optimizer
from linflow.model.spectrum import signed_gram


@dataclass(frozen=True)
class ImbalanceGuarantee:
    """A statement on the imbalances of a flow at every time.

    With layer rates the imbalances are those of `W_l/√ρ_l`.

    Attributes:
        statement: the law, in words.
        size: `max_l ‖D_l(0)‖_F`.
        decay: `D_l(t) = e^{−decay·t} D_l(0)` exactly; 0 if no decay is known.
        drift: a cap on `‖D_l(t) − D_l(0)‖_F` at all times; 0 if the law is exact.
        friction: a of a heavy-ball flow, else 0.
    """

    statement: str
    size: float
    decay: float = 0.0
    drift: float = 0.0
    friction: float = 0.0

    def change_at(self, t: float) -> float:
        """Return an upper bound on `max_l ‖D_l(t) − D_l(0)‖_F`; it is attained if the law is exact."""
        if self.friction:
            return -math.expm1(-self.friction * t) * self.drift
        return -math.expm1(-self.decay * t) * self.size

    def size_at(self, t: float) -> float:
        """Return an upper bound on `max_l ‖D_l(t)‖_F`; it is attained if the law is exact."""
        return self.size + self.change_at(t) if self.friction else math.exp(-self.decay * t) * self.size


def imbalance_guarantee(optimizer: Optimizer, network: Network, gap: float) -> ImbalanceGuarantee | None:
    """Return what is certain about the imbalances of a flow; None for one layer, or if nothing is known in advance.

    Args:
        optimizer: of the flow.
        network: the start, in the coordinates of the optimizer.
        gap: the loss gap of the start.

    Source: this library, docs/optimisers.md.
    """
    if network.depth == 1:
        return None
    size = max(norm(signed_gram([(1.0, A.T), (-1.0, B)])) for A, B in itertools.pairwise(network.weights))
    decays = set(optimizer.decays(network.depth))
    if optimizer.friction is not None:
        if optimizer.weight_decay:
            return None
        drift = drift_cap(gap, optimizer.friction)
        words = f"‖D_l(t) − D_l(0)‖ ≤ 2ℓ(0)/a² = {drift:.4g} for every l"
        return ImbalanceGuarantee(words, size, drift=drift, friction=optimizer.friction)
    if optimizer.weight_decay == 0:
        return ImbalanceGuarantee("D_l is constant for every l", size)
    if len(decays) > 1:
        return None
    (kappa,) = decays
    return ImbalanceGuarantee(f"D_l(t) = e^(−{2 * kappa:g}t) D_l(0) for every l", size, decay=2 * kappa)
