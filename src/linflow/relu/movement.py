"""How far each neuron can have moved once the residual has travelled a given path (docs/relu.md, Lemma 1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow._support.arrays import EPS
from linflow.relu.problem import Start, greatest_ceiling, norm_ceiling

FARTHEST = 300.0
"""`√κ τ` beyond which nothing is computed: its cosh is 10^130, and no floor is left."""


@dataclass(frozen=True, repr=False)
class Movement:
    """Bounds that hold at every time at which the path `τ(t) = ∫‖R‖` is at most `path`, in the units of the start.

    Attributes:
        start: the start.
        path: τ.
        active: `t_ij = 1`: pairs whose slope may be 1, shape `(h, N)`; elsewhere it is `slope` up to here.
        kappa: `κ_j ≥ λ_max(D_{t_j} K D_{t_j})`, shape `(h,)`.
        growth: `V_j ≥ ∫‖v_j‖ dτ`, shape `(h,)`.
        second: `ε_j ≥ ‖v_j − v_j(0)‖` for the computed `v_j(0)`, shape `(h,)`.
        moved: `M_ij ≥ |x_iᵀ(u_j − u_j(0))|`, shape `(h, N)`.
    """

    start: Start
    path: float
    active: np.ndarray
    kappa: np.ndarray
    growth: np.ndarray
    second: np.ndarray
    moved: np.ndarray

    @cached_property
    def frozen(self) -> np.ndarray:
        """Pairs that keep the sign they have at the start, shape `(h, N)`."""
        z, error = self.start.z.T, self.start.z_error.T
        return np.abs(z) - error > self.moved

    @cached_property
    def second_size(self) -> np.ndarray:
        """`v̄_j ≥ ‖v_j‖`."""
        return (self.start.sizes[0] + self.second) * (1 + 4 * EPS)

    @cached_property
    def second_floor(self) -> np.ndarray:
        """`φ_j ≤ v_j²` for one output (Lemma 3), shape `(h,)`; see `squares_floor`."""
        return self.squares_floor(0.0)

    def squares_floor(self, drift: np.ndarray | float) -> np.ndarray:
        """Return a lower bound on `v_j²` for one output, if `‖Q u_j‖² − v_j²` rises by at most `drift`.

        It is the larger of `[|v_j| − ε_j]_+²` and `v_j² − p² + [p − w]_+²` with `p ≥ ‖Q u_j(0)‖`, `w ≥ √κ_j V_j`;
        the latter falls as p or w grows. If the rows of X leave the range of Q by a part `off`, the conservation law
        is off by at most `2 off · max‖x_i‖ √N V_j (p + w)`.
        """
        start = self.start
        v = np.abs(start.V[:, 0])
        p, off = start.row_space_sizes
        w = np.sqrt(self.kappa) * self.growth * (1 + 8 * EPS)
        total = np.linalg.norm(start.U, axis=0) + start.radius + w
        drift = drift + 2 * start.radius * v
        leak = 2 * off * start.lengths.max() * len(start.X) ** 0.5 * self.growth * total
        by_law = v**2 - p**2 + np.maximum(p - w, 0.0) ** 2 - leak - drift - 16 * EPS * (v**2 + p**2)
        return np.maximum(np.maximum(v * (1 - 4 * EPS) - self.second, 0.0) ** 2, by_law) * (1 - 8 * EPS)

    @cached_property
    def mean_second(self) -> np.ndarray:
        """`α_j = ε_j − ‖φ_j‖ τ ≥ ‖(v_j − v_j')/2 − v_j(0)‖` for twins (Lemma T), `ε_j` for others, shape `(h,)`."""
        start = self.start
        together = np.maximum(0.0, self.second * (1 + 8 * EPS) - start.sizes[1] * self.path)
        return np.where(start.twins, np.minimum(together, self.second), self.second)

    def mean_squares_floor(self, drift: np.ndarray | float) -> np.ndarray:
        """Return a lower bound on `v_j²` for one output, for twins on the mean of both; see `squares_floor`."""
        rest = np.maximum(np.abs(self.start.V[:, 0]) * (1 - 4 * EPS) - self.mean_second, 0.0)
        return np.maximum(self.squares_floor(drift), rest**2 * (1 - 8 * EPS))

    @cached_property
    def features_moved(self) -> float:
        """`Ē ≥ ‖Φ − Φ̂(0)‖`, with `Φ̂(0)` as computed: the smaller of two bounds.

        Twins have the mean of their features in place of each (Lemma T).
        """
        start = self.start
        s, z, error, twins = start.slope, start.z.T, start.z_error.T, start.twins
        M = self.moved + error
        below = np.maximum(s * M, s * np.abs(z) + M - np.abs(z))
        E, each = np.where(z > 0, M, below), self.kappa * self.growth
        if twins.any():
            E[twins] = np.minimum(E, self._means_moved(M))[twins]
            each[twins] = np.minimum(each, np.linalg.norm(E, axis=1) * (1 + (E.shape[1] + 8) * EPS))[twins]
        E = E + error
        joint = np.linalg.norm(each) * (1 + (len(E) + 8) * EPS) + np.linalg.norm(error)
        return min(norm_ceiling(E), float(joint)) * (1 + 8 * EPS)

    def _means_moved(self, M: np.ndarray) -> np.ndarray:
        """Return bounds on how far the mean of the features of twins moves, if each z moves by at most M.

        The mean of z moves by at most `B_ij = ‖D_{t_j}Xx_i‖ (V_j − ‖v_j‖τ) + ½(1 − s) ‖(K_il)_{l free}‖ V_j`.
        """
        start, s, size = self.start, self.start.slope, np.abs(self.start.z.T)
        free = (~self.frozen).astype(float)
        growth = np.maximum(self.growth, 1e-300)
        late = np.clip((growth * (1 + 8 * EPS) - start.sizes[0] * self.path) / growth, 0.0, 1.0)
        across = np.sqrt(free @ start.kernel_ceiling**2) * (1 + (len(start.X) + 8) * EPS)
        B = (self.moved * late[:, None] + 0.5 * (1 - s) * across * growth[:, None]) * (1 + 16 * EPS)
        turned = B + 0.5 * (1 - s) * np.maximum(M - size + B, 0.0)
        return np.where(free > 0, turned * (1 + 4 * EPS), np.where(start.z.T > 0, 1.0, s) * B)


class Mover:
    """Computes movements along increasing paths: the caps of the slopes go on from the last."""

    def __init__(self, start: Start):
        self.start = start
        self.reset()
        self._squares = start.kernel_ceiling**2
        self._known: dict[bytes, float] = {}

    def reset(self) -> None:
        """Go back to the path 0."""
        self.active = self.start.z.T >= -self.start.z_error.T

    def at(self, path: float) -> Movement | None:
        """Return the bounds at a path of at least the last one; None if they are beyond `FARTHEST`."""
        start = self.start
        reach = np.abs(start.z.T) - start.z_error.T
        while True:
            kappa = self._kappas()
            x = np.sqrt(kappa) * path
            if not x.max() < FARTHEST:
                return None
            growth, second = grown(*start.sizes, kappa, path)
            second = second + start.radius
            slopes = np.where(self.active, 1.0, start.slope)
            rows = np.sqrt(slopes**2 @ self._squares) * (1 + (len(start.X) + 8) * EPS)
            moved = rows * growth[:, None] * (1 + 4 * EPS)
            caps = self.active | ~(reach > moved)
            if (caps == self.active).all():
                return Movement(start, path, self.active, kappa, growth, second, moved)
            self.active = caps

    def _kappas(self) -> np.ndarray:
        """Return `κ_j` for the present caps; equal patterns are computed once."""
        patterns, where = np.unique(np.packbits(self.active, axis=1), axis=0, return_inverse=True)
        keys = [pattern.tobytes() for pattern in patterns]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            masks = np.unpackbits(patterns[new], axis=1, count=self.active.shape[1]).astype(bool)
            self._known.update(zip((keys[i] for i in new), self._ceilings(masks), strict=True))
        return np.array([self._known[key] for key in keys])[np.ravel(where)]

    def _ceilings(self, masks: np.ndarray) -> np.ndarray:
        """Return upper bounds on `λ_max(D_t K D_t)`, `t = 1` on each mask and the slope elsewhere.

        K is off by at most `off ‖x_i‖‖x_l‖`, so `D_t K D_t` in norm by at most `off` times its trace.
        """
        start = self.start
        t = np.where(masks, 1.0, start.slope) * start.lengths
        trace = np.sum(t**2, axis=1)
        off = start.cosine_error + 8 * EPS
        found = np.empty(len(masks))
        for first in range(0, len(masks), 512):  # bounds the memory
            part = t[first : first + 512]
            found[first : first + 512] = greatest_ceiling(part[:, :, None] * start.cosines * part[:, None, :])
        return np.minimum(found + off * trace, trace * (1 + off))


def grown(v: np.ndarray, f: np.ndarray, kappa: np.ndarray, path: float) -> tuple[np.ndarray, np.ndarray]:
    """Return `V_j` and `ε_j` of Lemma 1, rounded up.

    `V = ‖v‖ sinh x/√κ + ‖φ‖(cosh x − 1)/κ`, `ε = ‖φ‖ sinh x/√κ + ‖v‖(cosh x − 1)`, `x = √κ τ`. An error `δ` of x
    changes sinh and cosh by at most `δ(1 + x)` of themselves.
    """
    x = np.sqrt(kappa) * path
    first = path * np.where(x > 0, np.sinh(x) / np.where(x > 0, x, 1.0), 1.0)
    half = np.where(x > 0, np.sinh(x / 2) / np.where(x > 0, x / 2, 1.0), 1.0)
    rest = path**2 * half**2 / 2  # (cosh x − 1)/κ
    up = 1 + (64 + 16 * x) * EPS
    return (v * first + f * rest) * up, (f * first + v * kappa * rest) * up
