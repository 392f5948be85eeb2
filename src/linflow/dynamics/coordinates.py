"""The weights in which a run is computed: scaled for layer rates, then of the smallest width."""

from __future__ import annotations

from dataclasses import dataclass

from linflow.geometry.reduction import Reduction, worthwhile_reduction
from linflow.model.network import Network
from linflow.model.optimizer import Optimizer


@dataclass(frozen=True)
class Coordinates:
    """The coordinates of a run, with the way back.

    Attributes:
        optimizer: gives the scaling `V_l = W_l/√ρ_l`, in which layer rates are 1.
        start: the network as given.
        reduction: of the `V_l`; None if they are not reduced.
        network: the network that the run is computed with.
    """

    optimizer: Optimizer
    start: Network
    reduction: Reduction | None
    network: Network

    @classmethod
    def of(cls, optimizer: Optimizer, start: Network, *, reduce: bool) -> Coordinates:
        """Return the coordinates of a run from this start.

        Weight decay moves what the gradient never moves, so its runs keep their width.
        """
        scaled = optimizer.coordinates(start)
        reduction = worthwhile_reduction(scaled) if reduce and optimizer.weight_decay == 0 else None
        return cls(optimizer, start, reduction, reduction.network if reduction else scaled)

    @property
    def same(self) -> bool:
        """Whether the run is computed with the network as given."""
        return self.reduction is None and not self.optimizer.layer_rates

    def expand(self, network: Network) -> Network:
        """Return the network as given, with the weights that this one of the run stands for."""
        full = self.reduction.expand(network) if self.reduction else network
        return self.optimizer.weights_of(full, self.start.scale)
