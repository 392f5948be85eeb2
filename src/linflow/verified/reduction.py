"""Narrower weights with the same flow, and how far they are from exact ones.

A hidden layer wider than the sum of its neighbours moves in the range of `B = [W_lᵀ W_{l+1}]`. The motion of the
product depends on `BᵀB` alone. If `B ≈ QR` with nearly orthonormal Q and `φ ≥ ‖QᵀQ − I‖₂`, then some `R'` within
`‖B − QR‖_F + φ‖R‖_F` of R satisfies `R'ᵀR' = BᵀB` exactly (docs/verified.md, section 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linflow.geometry._orthonormal import tall_qr
from linflow.verified.rounding import TINY, UP, frobenius, gamma


@dataclass(frozen=True)
class Narrowed:
    """Weights of the least widths, the bases of the hidden layers, and a radius.

    Attributes:
        weights: `Q_{l−1}ᵀ W_l Q_l`, as computed.
        bases: `Q_1 … Q_{L−1}`; None stands for the identity.
        radius: some exact weights with the same product at all times lie within this distance of `weights`.
    """

    weights: list[np.ndarray]
    bases: list[np.ndarray | None]
    radius: float

    def expand(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the weights at the full widths."""
        full = []
        for l, V in enumerate(weights):
            left = self.bases[l - 1] if l > 0 else None
            right = self.bases[l] if l < len(self.bases) else None
            W = V if left is None else left @ V
            full.append(W if right is None else W @ right.T)
        return full


def narrowed(weights: Sequence[np.ndarray]) -> Narrowed:
    """Return the weights with every hidden layer narrowed to at most the sum of its neighbours' widths."""
    weights, radius = list(weights), 0.0
    bases: list[np.ndarray | None] = [None] * (len(weights) - 1)
    for l in range(len(weights) - 1):
        left, right = weights[l].shape[0], weights[l + 1].shape[1]
        if weights[l].shape[1] <= left + right:
            continue
        B = np.concatenate([weights[l].T, weights[l + 1]], axis=1)
        Q, R = tall_qr(B)
        k = Q.shape[1]
        phi = float(frobenius(Q.T @ Q - np.eye(k))) + gamma(Q.shape[0] + 2) * float(frobenius(Q)) ** 2
        missing = float(frobenius(B - Q @ R)) + gamma(k + 2) * float(frobenius(Q)) * float(frobenius(R))
        radius = (radius + missing + phi * float(frobenius(R))) * UP + TINY
        weights[l], weights[l + 1] = np.ascontiguousarray(R[:, :left].T), np.ascontiguousarray(R[:, left:])
        bases[l] = Q
    return Narrowed(weights, bases, radius)
