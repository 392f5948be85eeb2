"""Caps on the norms of layers, prefixes and suffixes that hold together, and what they say about a descent."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linflow.bounds._base import Spectrum, plain
from linflow.bounds.ceilings import prefix_ceilings, suffix_ceilings
from linflow.bounds.layer_norms import layers_below
from linflow.certificates.lazy import greatest_eigenvalues


@dataclass(frozen=True)
class Caps:
    """Upper bounds on norms, one column for each level or ball.

    Attributes:
        layers: on `‖W_1‖, …, ‖W_L‖`, shape `(L, N)`.
        prefixes: on `‖P_0‖ = 1, ‖P_1‖, …, ‖P_L‖`, shape `(L + 1, N)`.
        suffixes: on `‖S_1‖, …, ‖S_{L+1}‖ = 1`, shape `(L + 1, N)`.
    """

    layers: np.ndarray
    prefixes: np.ndarray
    suffixes: np.ndarray

    @classmethod
    def under(cls, spectra: Sequence[Spectrum], high: np.ndarray, spare: float = 1.0) -> Caps:
        """Return the caps for all weights with imbalances in these intervals and `‖W_1 ⋯ W_L‖ ≤ high`.

        `spare` multiplies every cap on a layer, so that it holds strictly.
        """
        if not spectra:
            return cls.of(high[None, :])
        Ds = plain(spectra)
        prefixes, suffixes = prefix_ceilings(Ds, high), suffix_ceilings(Ds, high)
        layers = np.sqrt(layers_below(Ds, prefixes, suffixes)) * spare
        powers = spare ** np.arange(len(prefixes))[:, None]
        return cls(layers, np.sqrt(np.stack(prefixes)) * powers, np.sqrt(np.stack(suffixes)) * powers[::-1])

    @classmethod
    def of(cls, layers: np.ndarray) -> Caps:
        """Return the caps that follow from those on the layers alone."""
        with np.errstate(over="ignore", invalid="ignore"):
            ones = np.ones_like(layers[:1])
            prefixes = np.cumprod(np.concatenate([ones, layers]), axis=0)
            suffixes = np.cumprod(np.concatenate([ones, layers[::-1]]), axis=0)[::-1]
        return cls(layers, prefixes, suffixes)

    def within(self, norms: np.ndarray) -> Caps:
        """Return the caps if, besides, `‖W_l‖ ≤ norms[l]`, shape `(L, N)`."""
        alone = Caps.of(np.minimum(self.layers, norms))
        return Caps(
            alone.layers, np.minimum(self.prefixes, alone.prefixes), np.minimum(self.suffixes, alone.suffixes)
        )

    def greatest(self) -> np.ndarray:
        """Return `Σ_l ‖P_{l−1}‖² ‖S_{l+1}‖²`, a bound on `λ_max(T)` without the output scale."""
        return (self.prefixes[:-1] ** 2 * self.suffixes[1:] ** 2).sum(axis=0)

    def interaction(self) -> np.ndarray:
        """Return `λ_max(C)`, `C_ij = C_ji = ‖P_{i−1}‖ ‖W_{i+1}‖ ⋯ ‖W_{j−1}‖ ‖S_{j+1}‖` for i < j, `C_ii = 0`."""
        L, count = self.layers.shape
        C = np.zeros((count, L, L))
        for i, j in itertools.combinations(range(L), 2):
            between = np.prod(self.layers[i + 1 : j], axis=0)
            C[:, i, j] = C[:, j, i] = self.prefixes[i] * between * self.suffixes[j + 1]
        return greatest_eigenvalues(C)
