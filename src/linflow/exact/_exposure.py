"""Scalar chains under an exposure: products `P_i(s)` of `ẇ_l = Π_{k≠l} w_k`, in the time s, and the inverse."""

from __future__ import annotations

import numpy as np

from linflow.model.scalar_chain import chain_root, chain_slope

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
_ROUNDS, _STEP = 200, 3.0
# Products may overflow beyond the times at which chains of three layers or more end; that is what is asked for.
_quiet = np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore")


class ExposedChains:
    """Scalar chains `w_i = Π_l w_{l,i}` whose weights move by `dw_l/ds = Π_{k≠l} w_k`.

    `w_l² − w_k²` is constant, so with offsets `0 = c_1 ≤ c_2 ≤ …` and the signed least weight v,
    `w = v Π_{l≥2} sqrt(v² + c_l)` and `dv/ds = Π_{l≥2} sqrt(v² + c_l)`. With `v = √c_2 sinh ξ`, or `v = ±e^ξ` if
    `c_2 = 0`, `ds/dξ = ±1/Π_{l≥3} sqrt(v² + c_l)`: constant for two layers, and for more analytic in the strip
    `|Im ξ| < π/2`, where Gauss' rule with 20 nodes on panels of length 1 is accurate to rounding.

    Chains with two weights that are 0 never move.

    Args:
        layers: the weights, shape `(L, k)`.
    """

    def __init__(self, layers: np.ndarray):
        sizes, signs = np.abs(layers), np.where(layers < 0, -1.0, 1.0)
        least, columns = np.argmin(sizes, axis=0), np.arange(layers.shape[1])
        smallest = sizes[least, columns]
        self.depth = len(layers)
        self.offsets = np.sort((sizes - smallest) * (sizes + smallest), axis=0).T
        # A zero counts as positive, so that its product has the sign in which it will grow at s > 0.
        self._v0 = np.where(smallest > 0, np.prod(signs, axis=0), 1.0) * smallest
        self.start = np.prod(layers, axis=0)
        self._kappa = np.sqrt(self.offsets[:, 1]) if self.depth > 1 else np.zeros(0)
        self.stuck = (self._kappa == 0) & (self._v0 == 0) if self.depth > 1 else np.zeros(len(columns), bool)
        self._xi0 = self._coordinate(self._v0) if self.depth > 1 else self._v0
        if self.depth > 2:
            self._locate()

    @_quiet
    def _locate(self) -> None:
        """Find the exposures at the ends: weights e^{±40} times those of the start, or e^{−100} times."""
        largest = np.log(np.maximum(np.sqrt(self.offsets[:, -1]), np.abs(self._v0)))
        largest = np.where(self.stuck, 0.0, largest - np.where(self._kappa > 0, np.log(self._kappa), 0.0))
        self._high = largest + 40.0  # |ξ| is at most log 2 above the logarithm at the start
        self._low = np.where(self._kappa > 0, -largest - 40.0, self._xi0 - 100.0)
        self._ends = self._exposures(self._low), self._exposures(self._high)

    @_quiet
    def _coordinate(self, v: np.ndarray) -> np.ndarray:
        """Return ξ of the least weight; NaN where no exposure leads to it."""
        k = self._kappa
        side = np.where(np.sign(v) == np.sign(self._v0), np.log(np.abs(v)), np.nan)
        return np.where(self.stuck, 0.0, np.where(k > 0, np.arcsinh(v / np.where(k > 0, k, 1.0)), side))

    def _least(self, xi: np.ndarray) -> np.ndarray:
        return np.where(self._kappa > 0, self._kappa * np.sinh(xi), np.sign(self._v0) * np.exp(xi))

    def _products(self, xi: np.ndarray) -> np.ndarray:
        v = self._least(xi)
        return v * np.prod(np.sqrt(v[:, None] ** 2 + self.offsets[:, 1:]), axis=1)

    def _speeds(self, xi: np.ndarray) -> np.ndarray:
        """Return `ds/dξ` at coordinates of shape (k, …)."""
        v = self._least(xi.reshape(len(xi), -1).T).T
        direction = np.where(self._kappa > 0, 1.0, np.sign(self._v0))[:, None]
        found = direction / np.prod(np.sqrt(v[..., None] ** 2 + self.offsets[:, None, 2:]), axis=-1)
        return found.reshape(xi.shape)

    def _exposures(self, xi: np.ndarray) -> np.ndarray:
        """Return s at the coordinates ξ."""
        length = np.where(np.isfinite(xi), xi - self._xi0, np.nan)
        if self.depth == 2:
            return self._speeds(xi) * length
        panels = max(1, int(np.ceil(np.nanmax(np.abs(length), initial=0.0))))
        inside = (np.arange(panels)[:, None] + _NODES).ravel() / panels
        speeds = self._speeds(self._xi0[:, None] + length[:, None] * inside)
        return length / panels * (speeds @ np.tile(_WEIGHTS, panels))

    @_quiet
    def slope(self, w: np.ndarray) -> np.ndarray:
        """Return `T = dw/ds` at products w."""
        if self.depth == 1:
            return np.ones_like(w)
        found = chain_slope(self.offsets, chain_root(self.offsets, w))
        return np.where(self.stuck, 0.0, np.where(np.isinf(w), np.inf, found))

    @_quiet
    def exposure(self, w: np.ndarray) -> np.ndarray:
        """Return s at which the products are w; NaN where they never are."""
        if self.depth == 1:
            return w - self.start
        v = np.copysign(np.sqrt(chain_root(self.offsets, w)), w)
        found = self._exposures(np.where(self.stuck, self._xi0, self._coordinate(v)))
        return np.where(self.stuck, np.where(w == 0, 0.0, np.nan), found)

    @_quiet
    def product(self, s: np.ndarray) -> np.ndarray:
        """Return the products at exposures s; ±inf from the s on at which the chain is infinite."""
        if self.depth == 1:
            return self.start + s
        if self.depth == 2:
            return np.where(self.stuck, 0.0, self._products(self._xi0 + self._speeds(self._xi0) * s))
        rising = np.where(self._kappa > 0, 1.0, np.sign(self._v0))
        beyond, before = rising * s >= rising * self._ends[1], rising * s <= rising * self._ends[0]
        low, high, xi = self._low, self._high, self._xi0
        for _ in range(_ROUNDS):
            excess = rising * (self._exposures(xi) - s)
            low, high = np.where(excess <= 0, xi, low), np.where(excess >= 0, xi, high)
            # Short steps need few panels, and far out Newton's are too long.
            new = xi + np.clip(-excess / np.abs(self._speeds(xi)), -_STEP, _STEP)
            new = np.where((new >= low) & (new <= high), new, (low + high) / 2)
            done = np.abs(new - xi) <= 1e-9  # the next step would be of the order of its square
            xi = np.where(beyond | before | self.stuck, self._xi0, new)
            if np.all(done | beyond | before | self.stuck):
                break
        w = self._products(xi)
        w = np.where(beyond, np.where(self._kappa > 0, np.inf, np.sign(self._v0) * np.inf), w)
        w = np.where(before, np.where(self._kappa > 0, -np.inf, 0.0), w)
        return np.where(self.stuck, 0.0, w)
