"""An objective and a network that fit together, as every function that takes both needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linflow._support.words import kind_of
from linflow.model.network import Network
from linflow.model.objectives import Objective


def objective_of(objective: Any) -> Objective:
    """Return the objective itself.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective is {kind_of(objective)}; an Objective is needed, such as "
            "linflow.MatrixFactorization(Y). It comes before the network."
        )
    return objective


def fitted(objective: Any, network: Network | Sequence[Any]) -> Network:
    """Return the network, without autograd graphs.

    Raises:
        TypeError, ValueError: there is no objective, no network, or they differ in shape or array kind.
    """
    f = objective_of(objective)
    net = Network.of(network).detach()
    f.check_network(net)
    return net
