"""A floor of the least eigenvalue of H at every path up to a given one (docs/relu.md, Theorem 1)."""

from __future__ import annotations

import math

import numpy as np

from linflow._support.arrays import EPS
from linflow.relu.movement import Movement
from linflow.relu.problem import Start, greatest_ceiling
from linflow.relu.shadows import SMALLEST, Shadows

ROUNDS = 6
"""Steps of the search for the best constant c of the second layer's part."""
RATIOS = (0.25, 0.5, 1.0, 2.0)
"""The ratios θ tried in `c_j = θ ‖v_j‖/ε_j`, for several outputs."""
LARGEST_C = 1e8
"""A constant c beyond which `1 − 1/c` gains nothing."""


class Floor:
    """Computes floors of `λ_min(H)` for a start: each call gives one for all paths up to that of a movement.

    Rounding is allowed for in the direction that lowers them: see `Shadows.error`, and the docs.
    """

    def __init__(self, start: Start):
        self.start, self.shadows = start, Shadows(start)
        h, m = start.V.shape
        gram = start.features @ start.features.T
        self._gram = gram if m == 1 else np.kron(gram, np.eye(m))
        self._gram_error = (h + 16) * EPS * float(np.sum(start.features**2))

    def at(
        self,
        movement: Movement,
        drift: np.ndarray | float = 0.0,
        less: np.ndarray | float = 0.0,
        *,
        second: bool = True,
    ) -> float:
        """Return a floor of `λ_min(H)`, at least 0, for all paths up to that of the movement.

        Args:
            movement: the bounds of Lemma 1.
            drift: how much `‖u_j‖² − v_j²` may have risen, for gradient descent; used for one output.
            less: what is subtracted from H for each sample, a number or shape `(N,)`, not negative.
            second: whether the part `ΦΦᵀ` of the second layer counts.
        """
        best, twins, m = 0.0, bool(self.start.twins.any()), self.start.V.shape[1]
        for multiplier in self.shadows.choices(movement):
            parts = self.shadows.parts(movement, multiplier)
            # What twins pay for their means is nearly nothing for δ → 0; else each neuron alone may be better.
            for together in (True, False) if twins and multiplier > SMALLEST else (twins,):
                paid = np.broadcast_to(less, len(self.start.X))
                if together:
                    paid = paid + self._paid_by_twins(movement, multiplier, drift)
                for A in self._first(parts, movement, drift, together=together):
                    A[np.diag_indices(len(A))] -= np.repeat(paid, m)
                    best = max(best, self._with_second(A, movement.features_moved if second else None))
        return best

    def _first(
        self, parts: np.ndarray, movement: Movement, drift: np.ndarray | float, *, together: bool
    ) -> list[np.ndarray]:
        """Return lower bounds on `Σ_j D_{a_j}KD_{a_j} ⊗ v_jv_jᵀ`, with twins taken together or each neuron alone."""
        if self.start.V.shape[1] == 1:
            weights = movement.mean_squares_floor if together else movement.squares_floor
            return [self._single(parts, weights(drift))]
        second = movement.mean_second if together else movement.second
        return [self._several(parts, movement, second, ratio) for ratio in RATIOS]

    def _paid_by_twins(self, movement: Movement, multiplier: float, drift: np.ndarray | float) -> np.ndarray:
        """Return what the means of twins cost on each sample: `((1 − s)/2)² Δ` for v̄² instead of their weight."""
        start, weights = self.start, movement.second_size**2
        if start.V.shape[1] == 1:
            weights = weights - movement.mean_squares_floor(drift)
        prices = self.shadows.prices(movement, multiplier)
        return (weights * start.twins) @ prices * start.lengths**2 * (1 + (len(weights) + 32) * EPS)

    def _single(self, parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return a lower bound on `Σ_j v_j² D_{a_j}KD_{a_j}` for one output, with `weights ≤ v_j²`."""
        A = np.tensordot(weights, parts, 1)
        A[range(len(A)), range(len(A))] -= self.shadows.error * weights.sum()
        return A * np.outer(self.start.lengths, self.start.lengths)

    def _several(self, parts: np.ndarray, movement: Movement, second: np.ndarray, ratio: float) -> np.ndarray:
        """Return a lower bound on `Σ_j D_{a_j}KD_{a_j} ⊗ v_jv_jᵀ`, if `second` bounds how far each v_j moved."""
        V, (sizes, _), (N, m) = self.start.V, self.start.sizes, self.start.Y.shape
        moves = second > 0
        with np.errstate(over="ignore"):
            c = np.clip(np.where(moves, ratio * sizes / np.where(moves, second, 1.0), np.inf), 1.0, LARGEST_C)
        w = (1 - 1 / c) * (1 - 4 * EPS)
        outer = V[:, :, None] * V[:, None, :] * w[:, None, None]
        A = np.tensordot(parts, outer, (0, 0)) if len(V) else np.zeros((N, N, m, m))
        A = np.swapaxes(A, 1, 2).reshape(N * m, N * m)
        A[range(N * m), range(N * m)] -= self.shadows.error * float(w @ sizes**2)
        lengths = np.repeat(self.start.lengths, m)
        A *= np.outer(lengths, lengths)
        A[range(N * m), range(N * m)] -= self._price(movement, (c - 1) * second**2)
        return A

    def _price(self, movement: Movement, losses: np.ndarray) -> float:
        """Return the smaller of two upper bounds on `Σ_j losses_j ‖X ᵀD_{a_j}‖²` as a form in R."""
        caps = np.where(movement.active, 1.0, self.start.slope)
        together = greatest_ceiling(self.start.kernel_ceiling * ((caps.T * losses) @ caps))
        apart = np.max((losses * movement.kappa) @ (caps > 0))
        return min(float(together), float(apart)) * (1 + (len(losses) + 16) * EPS)

    def _with_second(self, A: np.ndarray, spread: float | None) -> float:
        """Return `max_c λ_min(A + [(1 − 1/c) Φ̂Φ̂ᵀ − (c − 1)Ē² I] ⊗ I)`, less its rounding; c = 1 is tried first.

        It is concave as a function of 1/c, and has the slope `⟨r, Φ̂Φ̂ᵀr⟩/c² − Ē²` in c at an eigenvector r.
        """
        best, c, low, high = -math.inf, 1.0, 1.0, LARGEST_C
        for _ in range(1 if spread is None else ROUNDS):
            values, vectors = np.linalg.eigh(A + (1 - 1 / c) * self._gram)
            off = 32 * len(A) * EPS * max(abs(values[0]), abs(values[-1])) + self._gram_error
            paid = 0.0 if spread is None else (c - 1) * spread**2 * (1 + 16 * EPS)
            best = max(best, float(values[0]) - off - paid)
            r = vectors[:, 0]
            rise = math.sqrt(max(0.0, float(r @ self._gram @ r)))
            balanced = rise / spread if spread else math.inf
            low, high = (c, high) if balanced > c else (low, c)
            if high <= 1 or low >= high:
                break
            c = balanced if low < balanced < high else high if math.isinf(balanced) else math.sqrt(low * high)
        return best
