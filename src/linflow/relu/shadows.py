"""A neuron whose slope is unknown on some samples: what is left of its part of H (docs/relu.md, Lemma 2)."""

from __future__ import annotations

import numpy as np

from linflow._support.arrays import EPS
from linflow.relu.movement import Movement
from linflow.relu.problem import Start

SMALLEST = 1e-9
"""The multiplier that stands for δ → 0: it costs `((1 − s)/2)² δ` of a neuron, and keeps Cholesky factors stable."""
MULTIPLIERS = (0.03, 0.2)
"""The other multipliers tried, `Δ = δ diag(K)` on the free samples."""


class Shadows:
    """Computes `S(Δ) = D_ā (K − K_{·G}(K_GG + Δ)⁻¹K_{G·}) D_ā − ((1 − s)/2)² Δ_G` for the neurons of a start.

    Everything is scaled to a unit diagonal of K: `S = D_ℓ S' D_ℓ` with the lengths ℓ of the inputs, and
    `Δ = δ D_ℓ²`. The middle matrix depends on the free samples G alone, and is kept.
    """

    def __init__(self, start: Start):
        self.start = start
        N, d = start.X.shape
        n, h, s = N * start.Y.shape[1], start.net.width, start.slope
        self.error = 8 * (n + 2) * (n + d + h + 16) * EPS
        """Subtracted for each unit of weight. With `K = D_ℓ C D_ℓ`, C is off by `(4d + 32)ε` an entry; a Schur
        complement by Cholesky is that of a matrix off by `N(N + 1)ε` in norm, and `D_a` cannot enlarge this; a sum
        over h neurons rounds by hε. The same bound holds in norm for matrices of order N m."""
        best_alone = (2 * s / (1 - s),) if s > 0 else ()  # the best for orthogonal inputs: S' = s² there
        self.multipliers = (SMALLEST, *MULTIPLIERS, *best_alone)
        self._known: dict[tuple[bytes, float], np.ndarray] = {}

    def choices(self, movement: Movement) -> tuple[float, ...]:
        """Return the multipliers worth trying: one, if no neuron has a free sample, or for a ReLU with N ≤ d."""
        N, d = self.start.X.shape
        few = movement.frozen.all() or (self.start.slope == 0 and d >= N)
        return self.multipliers[:1] if few else self.multipliers

    def multipliers_used(self, free: np.ndarray, multiplier: float) -> np.ndarray:
        """Return the multiplier of each neuron with these free samples.

        With s = 0, neurons that are free on more than half of the samples only ever profit from δ → 0.
        """
        most = (self.start.slope == 0) & (2 * free.sum(axis=1) > free.shape[1])
        return np.where(most, SMALLEST, multiplier)

    def prices(self, movement: Movement, multiplier: float) -> np.ndarray:
        """Return `((1 − s)/2)² Δ` of every neuron, which its part has lost, in units of `D_ℓ²`, shape `(h, N)`."""
        free = ~movement.frozen
        return ((1 - self.start.slope) / 2) ** 2 * self.multipliers_used(free, multiplier)[:, None] * free

    def parts(self, movement: Movement, multiplier: float) -> np.ndarray:
        """Return `S'_j` of every neuron, shape `(h, N, N)`."""
        s, free = self.start.slope, ~movement.frozen
        known = np.where(self.start.z.T > 0, 1.0, s)
        slopes = np.where(free, (1 + s) / 2, known)
        patterns, where = np.unique(np.packbits(free, axis=1), axis=0, return_inverse=True)
        masks = np.unpackbits(patterns, axis=1, count=free.shape[1]).astype(bool)
        used = self.multipliers_used(masks, multiplier)
        middles = self._middles(patterns, masks, used)
        middles[:, range(masks.shape[1]), range(masks.shape[1])] -= ((1 - s) / (1 + s)) ** 2 * used[:, None] * masks
        return slopes[:, :, None] * middles[np.ravel(where)] * slopes[:, None, :]

    def _middles(self, patterns: np.ndarray, masks: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Return `C − C_{·G}(C_GG + δI)⁻¹C_{G·}` for each set of free samples, shape `(sets, N, N)`."""
        keys = [(pattern.tobytes(), float(delta)) for pattern, delta in zip(patterns, used, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        for first in range(0, len(new), 256):  # bounds the memory
            some = new[first : first + 256]
            for i, middle in zip(some, self._schur(masks[some], used[some]), strict=True):
                self._known[keys[i]] = middle
        return np.stack([self._known[key] for key in keys])

    def _schur(self, masks: np.ndarray, used: np.ndarray) -> np.ndarray:
        C, E = self.start.cosines, masks.astype(float)
        # Rows that are not free are replaced by those of the identity, so that all factors have the same order.
        inner = E[:, :, None] * C * E[:, None, :]
        inner[:, range(len(C)), range(len(C))] += np.where(masks, used[:, None], 1.0)
        W = np.linalg.solve(np.linalg.cholesky(inner), E[:, :, None] * C)
        return C - np.swapaxes(W, 1, 2) @ W
