"""Sensing and completion in a verified run: their gradient with proved errors, entry by entry of the product.

On the entries of W, row by row, sensing is a linear regression with one output, and completion a diagonal one. Both
keep the bounds of `AffineGradient`; only the way to the second-order part of `∇²L` is that of a declared objective.
Proofs: docs/verified.md, sections 5 and 12, and docs/losses.md, section 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linflow._support.arrays import Array, to_numpy
from linflow.model.sensing import Completion, Sensing
from linflow.verified.declared import DeclaredGradient
from linflow.verified.problem import AffineGradient, regression_gradient
from linflow.verified.rounding import UP, U, frobenius


@dataclass(frozen=True)
class MaskedGradient(AffineGradient):
    """The gradient of a completion on columns of entries: it takes the known ones, exactly.

    Attributes:
        known: 1 where an entry is known, else 0; one column.
    """

    known: np.ndarray = field(kw_only=True)

    def apply(self, E: np.ndarray) -> np.ndarray:
        """Return the known entries of E."""
        return self.known * E


@dataclass(frozen=True)
class OperatorGradient(DeclaredGradient):
    """The gradient of sensing or completion.

    Attributes:
        affine: the gradient on the entries of W, as one column.
    """

    affine: AffineGradient = field(kw_only=True)

    @classmethod
    def over(cls, objective: Sensing | Completion, like: Array) -> OperatorGradient:
        """Return the gradient of an objective, with constants and errors that are proved, not declared."""
        if isinstance(objective, Completion):
            known = to_numpy(objective.known).reshape(-1, 1)
            full = bool(known.all())
            V = to_numpy(objective.minimizer).reshape(-1, 1)
            return cls(objective, like, affine=MaskedGradient(V, full=full, known=known))
        X, y = to_numpy(objective.X), to_numpy(objective.y)
        V = to_numpy(objective.minimizer).reshape(-1, 1)
        affine = regression_gradient(X, y, V, objective.rank)
        return cls(objective, like, affine.notes, affine=affine)

    @property
    def least(self) -> float:
        """Lower bound of the least nonzero eigenvalue of `∇²f`; 0 if none was proved."""
        return self.affine.least

    @property
    def smoothness(self) -> float:
        """Upper bound of K."""
        return self.affine.smoothness

    def _away(self, W: np.ndarray) -> np.ndarray:
        """Return the computed `W − V` of one or more products, as columns."""
        return W.reshape(-1, W.shape[-2] * W.shape[-1]).T - self.affine.V

    def gap(self, E: np.ndarray, error: float) -> tuple[float, float]:
        """Return bounds of `f − f*` at all products within `error` of E."""
        away = self._away(E)
        return self.affine.gap(away, (error + U * float(frobenius(away))) * UP)

    def gradient(self, W: np.ndarray, off: Any) -> tuple[np.ndarray, Any]:
        """Return the `∇f` computed from W, and a bound of its Frobenius distance to `∇f` at the exact product."""
        away = self._away(W)
        lengths = frobenius(away.T[:, None, :])
        errors = np.asarray(self.affine.error_of(lengths, np.asarray(off) + U * lengths * UP)) + self.affine.residue
        G = self.affine.apply(away).T.reshape(W.shape)
        return G, (errors * UP if W.ndim == 3 else float(errors[0]) * UP)
