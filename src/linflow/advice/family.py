"""The starts from which designs are made: one for each imbalance λ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow import init
from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, to_numpy
from linflow.model.network import Network
from linflow.model.objectives import Objective


class Family:
    """The starts with a given product and `D_{L−1} = λ` (or `D_1 = −λ`) on `min(n, m)` directions, one for each λ."""

    def __init__(
        self, objective: Objective, widths: Sequence[int], product: Any, scale: float, rng: Any, like: Array | None
    ):
        self.objective, self.widths = objective, checks.widths(widths)
        self.scale = checks.positive(scale, "scale")
        self.seed = int(checks.generator(rng).integers(2**63))
        self.like = objective.minimizer if like is None else like
        self.depth = len(self.widths) - 1
        if self.depth == 1:
            raise ValueError("one layer has no imbalance: its rate is γc² from every start. Give a hidden width.")
        n, m = self.widths[0], self.widths[-1]
        W = np.zeros((n, m)) if product is None else to_numpy(checks.matrix(product, "product", (n, m))[0])
        # Find the parts of the outer layers that the objective depends on, by restricting identity matrices.
        whole = Network([self._own(X) for X in (np.eye(n), W, np.eye(m))])
        objective.check_network(whole)
        self.seen, restricted = objective.effective(whole)
        self.left, self.right = to_numpy(restricted.weights[0]).T, to_numpy(restricted.weights[-1])
        self.product = self.left.T @ W @ self.right
        self.notes: tuple[str, ...] = ()
        if np.linalg.norm(self.left @ self.product @ self.right.T - W) > 1e-12 * np.linalg.norm(W):
            self.notes = ("the part of the product that the objective does not see was left out",)
        self.modes = min(self.product.shape)
        narrow = min(self.widths[1:-1])
        if narrow < self.modes:
            raise ValueError(
                f"the hidden width h_{self.widths.index(narrow, 1)} = {narrow} is below min(n, m) = {self.modes}: "
                "T is then singular at all weights, and no start has a certified rate. Widen that layer to at least "
                f"{self.modes}; then every rate is possible."
            )
        self.gap = objective.gap(self._own(self.left @ self.product @ self.right.T))
        if self.seen.pl_constant == 0:
            why = (
                "the loss falls more slowly than any exponential"
                if objective.derived
                else "declare strong_convexity= or pl_constant="
            )
            raise ValueError(f"the objective has no gradient dominance (γ = 0), so no rate is certified: {why}.")

    def _own(self, X: np.ndarray) -> Array:
        return X if self.like is None else from_numpy(X, self.like)

    @property
    def single(self) -> bool:
        """Whether the product is 0. Then one layer is 0 as well."""
        return not self.product.any()

    def at(self, imbalance: float, *, narrow: bool = False) -> Network:
        """Return the start for one λ. With `narrow`, it is narrower, and its spectra differ only in their zeros."""
        rows, columns = self.product.shape
        ends = [0.0] * (self.depth - 1)
        if rows <= columns:
            ends[-1] = imbalance
        else:
            ends[0] = -imbalance
        hidden = [min(h, self.modes + 1) if narrow else h for h in self.widths[1:-1]]
        net = init.imbalanced((rows, *hidden, columns), ends, self.product / self.scale, rng=self.seed)
        weights = list(net.weights)
        weights[0], weights[-1] = self.left @ weights[0], weights[-1] @ self.right.T
        return Network([self._own(W) for W in weights], self.scale)

    def describe(self) -> str:
        """Return a description of the imbalances, in words."""
        rows, columns = self.product.shape
        where = f"D_{self.depth - 1} has the eigenvalue λ" if rows <= columns else "D_1 has the eigenvalue −λ"
        return f"{where} on min(n, m) = {self.modes} directions and all else is balanced, so λ_min(T) ≥ c²λ^{{L−1}}"
