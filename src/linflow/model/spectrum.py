"""Eigenvalues of signed sums of Gram matrices, and the spectrum of an imbalance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linflow._support.arrays import Array, device, eigenvalues, from_numpy, namespace
from linflow._support.deprecation import renamed_attributes
from linflow._support.words import plural


def signed_gram_eigenvalues(terms: Sequence[tuple[float, Array]]) -> Array:
    """Return the eigenvalues of `Σ s_i A_i A_iᵀ` (h×h), descending, by a QR of `[A_1 A_2 …]` if that is tall."""
    xp, h = namespace(*(A for _, A in terms)), terms[0][1].shape[0]
    nonzero = eigenvalues(signed_gram(terms))
    zeros = xp.zeros(h - nonzero.shape[0], dtype=nonzero.dtype, device=device(nonzero))
    return xp.flip(xp.sort(xp.concat([nonzero, zeros]))) if zeros.shape[0] else nonzero


def signed_gram(terms: Sequence[tuple[float, Array]]) -> Array:
    """Return `Σ s_i A_i A_iᵀ` (h×h), or an r×r matrix with the same nonzero eigenvalues if that is smaller."""
    xp = namespace(*(A for _, A in terms))
    h, r = terms[0][1].shape[0], sum(A.shape[1] for _, A in terms)
    if h <= r:
        return sum(s * (A @ A.T) for s, A in terms)
    R = xp.linalg.qr(xp.concat([A for _, A in terms], axis=1)).R
    signs = from_numpy(np.concatenate([np.full(A.shape[1], s) for s, A in terms]), R)
    return (R * signs) @ R.T


@renamed_attributes(gap="spectral_gap")
@dataclass(frozen=True, repr=False)
class ImbalanceSpectrum:
    """Spectrum of one imbalance matrix, with the three numbers that determine the two-layer rate.

    Attributes:
        eigenvalues: of `D`, descending, length h.
        positive_spread: `Δ₊ = [λ_1(D)]_+ − [λ_n(D)]_+`.
        negative_spread: `Δ₋ = [λ_1(−D)]_+ − [λ_m(−D)]_+`.
        spectral_gap: `Δ = [λ_n(D)]_+ + [λ_m(−D)]_+`.

    Source: Min, Tarmoun, Vidal & Mallada (arXiv 2105.06351), section 3.
    """

    eigenvalues: Array
    positive_spread: float
    negative_spread: float
    spectral_gap: float

    @classmethod
    def of(cls, values: Array, n: int, m: int) -> ImbalanceSpectrum:
        """Return the spectrum with the given eigenvalues, in descending order, of an n×m product."""
        negated = -namespace(values).flip(values)
        top_p, n_th = positive_part(values, 1), positive_part(values, n)
        top_m, m_th = positive_part(negated, 1), positive_part(negated, m)
        # A zero can be −0.0. Adding 0.0 removes its sign, which should not be displayed.
        spreads = float(top_p - n_th) + 0.0, float(top_m - m_th) + 0.0
        return cls(values, *spreads, float(n_th) + float(m_th) + 0.0)

    def __repr__(self) -> str:
        return (
            f"ImbalanceSpectrum(spectral_gap={self.spectral_gap:.4g}, positive_spread={self.positive_spread:.4g}, "
            f"negative_spread={self.negative_spread:.4g}, {plural(self.eigenvalues.shape[0], 'eigenvalue')})"
        )


def positive_part(values: Array, k: int) -> Array:
    """Return `[λ_k]_+` as a 0-d array, from eigenvalues in descending order. It is 0 if k exceeds their number."""
    xp = namespace(values)
    if k > values.shape[0]:
        return values[0] * 0.0
    return xp.where(values[k - 1] > 0, values[k - 1], values[k - 1] * 0.0)
