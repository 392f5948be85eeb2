"""What the gradients of losses of `XW`, sums over the samples, share in a verified run: the sizes of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow.verified.declared import DeclaredGradient
from linflow.verified.rounding import frobenius, spectral


@dataclass(frozen=True)
class RowsGradient(DeclaredGradient):
    """The gradient of a loss of `XW`, with constants and errors that are proved, not declared."""

    @cached_property
    def _inputs(self) -> np.ndarray:
        """X."""
        raise NotImplementedError

    @cached_property
    def _lengths(self) -> np.ndarray:
        """Upper bounds of `‖x_i‖`, as a column."""
        return frobenius(self._inputs[:, None, :])[:, None]

    @cached_property
    def _norm(self) -> float:
        """An upper bound of `‖X‖`."""
        return spectral(self._inputs)
