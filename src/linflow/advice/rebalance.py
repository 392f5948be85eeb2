"""The same product in layers of another imbalance: balanced ones, or those of a prescription."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow._support.arrays import EPS, from_numpy, is_array, norm, to_numpy
from linflow._support.text_table import text_table
from linflow._support.words import shown
from linflow.certificates import certify, safe_step_size
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.spectrum import signed_gram


@dataclass(frozen=True)
class Standing:
    """What the layers of a product mean for its training.

    Attributes:
        imbalance: `max_l ‖D_l‖_F`; 0 for one layer.
        least, greatest: extreme eigenvalues of T, on what the objective sees if there is one.
        rate: the rate of the loss that is certified; nan without an objective.
        step: the safe step of gradient descent; nan without an objective, and if none is certified.
    """

    imbalance: float
    least: float
    greatest: float
    rate: float = math.nan
    step: float = math.nan

    @property
    def condition(self) -> float:
        """`λ_max(T)/λ_min(T)`, which sets the pace of descent in steps; inf if T is singular."""
        return self.greatest / self.least if self.least > 0 else math.inf

    @classmethod
    def of(cls, network: Network, objective: Objective | None) -> Standing:
        """Return the standing of a network."""
        seen = network if objective is None else objective.effective(network)[1]
        T = TangentOperator(seen)
        D = [norm(signed_gram([(1.0, A.T), (-1.0, B)])) for A, B in itertools.pairwise(network.weights)]
        ends = max(float(T.least_eigenvalue()), 0.0), float(T.greatest_eigenvalue())
        if objective is None:
            return cls(max(D, default=0.0), *ends)
        try:
            step = safe_step_size(objective, network)
        except ValueError:
            step = math.nan
        return cls(max(D, default=0.0), *ends, certify(objective, network).rate, step)


@dataclass(frozen=True)
class Rebalanced:
    """A network with the same product and another imbalance; `print` shows what this does to rate and step.

    Attributes:
        network: the new layers.
        before, after: the `Standing` of the old and the new layers.
        change: `‖new product − old product‖_F` over the size `c Π‖W_l‖_F` of the old layers.
    """

    network: Network
    before: Standing
    after: Standing
    change: float

    @shown
    def __str__(self) -> str:
        names = {
            "imbalance": "largest ‖D_l‖_F",
            "least": "λ_min(T), the rate over γ at these weights",
            "greatest": "λ_max(T)",
            "condition": "λ_max(T)/λ_min(T)",
            "rate": "certified rate of the flow",
            "step": "safe step of descent",
        }
        rows = [("", "before", "after")]
        for name, words in names.items():
            pair = getattr(self.before, name), getattr(self.after, name)
            if not all(map(math.isnan, pair)):
                told = ["–" if math.isnan(x) else f"{x:.4g}" for x in pair]
                rows.append((words, told[0], told[1]))
        table = "\n".join(text_table(rows, "<>>"))
        return f"{table}\nthe product is the same to {self.change:.2g} of the size of the layers"


def rebalance(
    network: Network | Sequence[Any], imbalance: Any = 0, *, objective: Objective | None = None, rng: Any = 0
) -> Rebalanced:
    """Return layers with the same product and all imbalances 0, or the prescribed ones, where such layers exist.

    Balanced layers have the least `Σ‖W_l‖_F²` of all layers with this product. With the singular values of
    `W/c = UΣVᵀ` they are `W_l = Q_{l−1} Σ^{1/L} Q_lᵀ`, `Q_0 = U`, `Q_L = V`. The free bases `Q_l` are chosen from the
    old layers, the orthonormal factor of `W_lᵀQ_{l−1}`, so that layers that are balanced stay as they are.

    A flow keeps its imbalance, so the new layers have another T and train at another pace. Imbalance speeds up the
    flow, and shortens the steps of descent; printing the result shows both.

    Args:
        network: a `Network` or its weights; its output scale is kept.
        imbalance: 0; or a number, or one for each `D_l`, for the homogeneous layers of `init.imbalanced`; or the
            matrix `D_1` of two layers or the list `[D_1, …, D_{L−1}]`, as in `init.with_imbalance`.
        objective: if given, rates and steps are those certified for it.
        rng: seed of what a prescription leaves open.

    Returns:
        A `Rebalanced`.

    Raises:
        ValueError: no such layers exist, or none were found; the message says why.

    Source: Arora, Cohen & Hazan 2018 (balanced layers); this library, docs/optimisers.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> found = lf.rebalance([np.diag([10.0, 2.0]), np.diag([0.4, 0.5])])
        >>> found.network.weights[0].round(12), found.after.imbalance < 1e-13
        (array([[2., 0.],
               [0., 1.]]), True)
        >>> round(found.before.least, 2), round(found.after.least, 2), round(found.after.condition, 2)
        (4.16, 2.0, 4.0)
    """
    net = Network.of(network).detach()
    if objective is not None:
        objective.check_network(net)
    new = net if net.depth == 1 else _layers(net, imbalance, rng)
    off = norm(new.product() - net.product()) / max(net.magnitude(), 5e-324)
    return Rebalanced(new, Standing.of(net, objective), Standing.of(new, objective), off)


def _layers(net: Network, imbalance: Any, rng: Any) -> Network:
    """Return the new layers."""
    numbers = np.ndim(imbalance) == 0 or (not is_array(imbalance) and all(np.ndim(one) == 0 for one in imbalance))
    if not numbers:
        return init.with_imbalance(imbalance, net.product(), scale=net.scale, rng=rng)
    if not np.any(np.asarray(imbalance, dtype=float)):
        return net.with_weights([from_numpy(W, net.weights[0]) for W in _balanced(net)])
    drawn = init.imbalanced(net.widths, imbalance, net.product() / net.scale, rng=rng, like=net.weights[0])
    return Network(drawn.weights, net.scale)


def _balanced(net: Network) -> list[np.ndarray]:
    """Return balanced layers with the product of a network."""
    weights = [to_numpy(W) for W in net.weights]
    U, s, Vt = np.linalg.svd(to_numpy(net.product()) / net.scale, full_matrices=False)
    # Singular values that are rounding of the product would become visible as roots.
    rank = min(int(np.sum(s > 16 * EPS * net.magnitude() / net.scale)), *net.widths)
    if rank == 0:
        return [0.0 * W for W in weights]
    Q, root, layers = U[:, :rank], s[:rank] ** (1 / net.depth), []
    for W in weights[:-1]:
        left, _, right = np.linalg.svd(W.T @ Q, full_matrices=False)
        following = left @ right
        layers.append((Q * root) @ following.T)
        Q = following
    return [*layers, (Q * root) @ Vt[:rank]]
