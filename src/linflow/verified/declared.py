"""An objective of a user in a verified run: its gradient and its loss gap, from declared constants and errors.

The proofs rest on what is declared: convexity, the smoothness K, the Lipschitz constant H of `∇²f` (for a flow), and
bounds of the rounding of the user's functions. Proofs: docs/verified.md, section 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linflow._support.arrays import Array, from_numpy, to_numpy
from linflow.model.objectives import Error, Objective
from linflow.verified.rounding import UP, U, frobenius, known
from linflow.verified.smooth import ConvexGradient


@dataclass(frozen=True)
class DeclaredGradient(ConvexGradient):
    """The gradient of a convex objective that is given by functions.

    Attributes:
        objective: f, with its declared constants.
        like: an array of the kind that the functions take.
        notes: what a reader must know about the problem.
    """

    objective: Objective
    like: Array
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, objective: Objective, like: Array, algorithm: str) -> DeclaredGradient:
        """Return the gradient of an objective for a flow or a descent.

        Raises:
            ValueError: something is not declared that the proof needs.
        """
        needed = {
            "smoothness=": math.isfinite(objective.smoothness),
            "convex=True": objective.convex,
            "value_error=": objective.value_error is not None,
            "gradient_error=": objective.gradient_error is not None,
            "hessian_lipschitz=": algorithm == "descent" or math.isfinite(objective.hessian_lipschitz),
        }
        missing = [name for name, given in needed.items() if not given]
        if missing:
            raise ValueError(
                f"a verified {algorithm} of a {objective.name} also needs {', '.join(missing)}; declare this in "
                "Objective(…), or use gradient_flow and certify, which do without."
            )
        notes = (
            "proved for the constants and errors that the objective declares; the loss gap is measured from "
            f"{objective.minimum:.17g}",
        )
        return cls(objective, like, notes)

    @cached_property
    def V(self) -> np.ndarray:
        """The matrix from which W is measured: 0."""
        return np.zeros(self.objective.shape)

    @property
    def least(self) -> float:
        """Half of the declared γ, as for a strongly convex objective."""
        return 0.5 * self.objective.pl_constant

    @property
    def smoothness(self) -> float:
        """The declared K."""
        return self.objective.smoothness

    @property
    def hessian_lipschitz(self) -> float:
        """The declared H."""
        return self.objective.hessian_lipschitz

    def value_error(self, W: Array) -> float:
        """Return the declared bound of the rounding of `f(W)`."""
        return self._error(self.objective.value_error, "value_error", W)

    def gradient_error(self, W: Array) -> float:
        """Return the declared bound of the rounding of `∇f(W)`."""
        return self._error(self.objective.gradient_error, "gradient_error", W)

    def gap(self, E: np.ndarray, error: float) -> tuple[float, float]:
        """Return bounds of `f − f*` at all products within `error` of E.

        With d the distance of W to E, `f(W) ≥ f(E) − ‖∇f(E)‖ d` as f is convex, and
        `f(W) ≤ f(E) + ‖∇f(E)‖ d + ½K d²` as it is smooth.
        """
        f, W = self.objective, from_numpy(E, self.like)
        value, off = float(f.value(W)), self.value_error(W)
        G, G_off = self.gradient(E, 0.0)
        moved = (float(frobenius(G)) + float(G_off)) * error * UP
        off = (off + 4 * U * (abs(value) + abs(f.minimum))) * UP
        above = value - f.minimum
        return known(above - (off + moved) * UP, above + (off + moved + self._bend(error)) * UP)

    def _bend(self, error: float) -> float:
        return 0.5 * self.smoothness * error * error * UP

    def gradient(self, W: np.ndarray, off: Any) -> tuple[np.ndarray, Any]:
        """Return the `∇f` computed from W, and a bound of its Frobenius distance to `∇f` at the exact product.

        Args:
            W: the computed product, or a stack of computed products.
            off: upper bound of the Frobenius distance of each W to its exact product.
        """
        if W.ndim == 3:
            parts = [self.gradient(w, e) for w, e in zip(W, np.broadcast_to(off, len(W)), strict=True)]
            return np.stack([G for G, _ in parts]), np.array([error for _, error in parts])
        f, here = self.objective, from_numpy(W, self.like)
        G = np.asarray(to_numpy(f.gradient(here)), dtype=np.float64)
        return G, (self.gradient_error(here) + self.smoothness * off) * UP

    def at(self, W: np.ndarray, error: float) -> float:
        """Return an upper bound of `‖∇f‖_F` at the exact product."""
        G, off = self.gradient(W, error)
        return (float(frobenius(G)) + float(off)) * UP

    def around(self, state: float, moved: float) -> tuple[float, float]:
        """Return upper bounds of `‖∇f‖_F` and `‖∇²f‖` at all products within `moved` of that of `at`."""
        K = self.smoothness
        return (state + K * moved) * UP, K

    def kinked(self, W: np.ndarray, off: np.ndarray, moved: float) -> np.ndarray:
        """Return between which neighbours of a stack of products on a path `∇f` may have a kink: here nowhere.

        Args:
            W: computed products on a path.
            off: upper bounds of their distances to the exact ones.
            moved: upper bound of how far the product moves between two neighbours.
        """
        return np.zeros(len(W) - 1, dtype=bool)

    @staticmethod
    def _error(declared: Error, name: str, W: Array) -> float:
        error = float(declared(W) if callable(declared) else declared or 0.0)
        if not 0 <= error < math.inf:
            raise ValueError(f"{name} gave {error!r}; a number of at least 0 is needed.")
        return error
