"""The flow of one scalar chain `w_1 ⋯ w_L` with any imbalance: time as an integral, and its inverse."""

from __future__ import annotations

import math

import numpy as np

from linflow.exact._riccati import riccati
from linflow.model.scalar_chain import chain_log_root

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
_CHUNK = 64


# At the ends of the float range a time may be infinite or a weight 0; the bracketing copes with both.
_quiet = np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore")


class ScalarChain:
    """The flow of `w = w_1 ⋯ w_L` on `½(s − w)²`, in terms of the signed weight v of least size.

    With the offsets `0 = c_1 ≤ c_2 ≤ …`, `w = v sqrt(v² + c_2) ρ`, `ρ = Π_{l≥3} sqrt(v² + c_l)`, and
    `v̇ = (w/v)(s − w)`. With `ξ = asinh(v/√c_2)` if `c_2 > 0`, and `ξ = log|v|` otherwise, this becomes
    `ξ̇ = ±ρ (s − w)`. The time is the integral of `1/(ρ |s − w|)`, which is analytic in a strip around the real axis,
    except for a simple pole at the limit.

    The pole lies at a distance δ. In a coordinate z, δ decreases by `1/L` per unit until it is `1/L`, and then by a
    factor e per unit. Gauss' rule on unit panels of z is accurate to rounding.

    Args:
        offsets: `c_l ≥ 0` in any order; the least is 0.
        target: `s`.
        v0: the weight of least size, with the sign of the product.
        speed: factor on the time.
        w0: the product, if it is known more accurately than from `v0`.
    """

    def __init__(self, offsets: np.ndarray, target: float, v0: float, speed: float = 1.0, w0: float | None = None):
        c = np.sort(offsets)
        self.depth, self.speed = len(c), speed
        self.sign = -1.0 if target < 0 or (target == 0 and v0 < 0) else 1.0
        self._c, self._s, self._v0 = c, abs(target), self.sign * v0
        self._w0 = float(self._product(np.asarray(self._v0))) if w0 is None else self.sign * w0
        self._kappa = math.sqrt(c[1]) if self.depth > 1 else 0.0
        if self.depth > 1:
            self._locate()

    @_quiet
    def _locate(self) -> None:
        """Place start and limit on the ξ axis."""
        k, v0 = self._kappa, self._v0
        self._side = 1.0 if v0 >= 0 else -1.0
        self._end = 0.0 if k == 0 and v0 <= 0 else self._least_weight(self._s)
        self.fixed = v0 == self._end or self._w0 == self._s
        if self.fixed:
            return
        self._pole = self._xi(self._end)
        self._start = self._xi(v0)
        self._direction = math.copysign(1.0, self._s - self._w0)
        self._b = 1 / self.depth
        self._z0 = 0.0 if math.isinf(self._pole) else self._coordinate(self._start, self._w0)
        # Beyond the last z the product is its limit to rounding (of the limit, or of the smallest number if it is 0).
        self._z_last = 745.0 * self.depth if math.isinf(self._pole) else 45.0 if self._s > 0 else 745.0
        if k > 0 and self._s > 0:  # a limit far below κ has that accuracy only within a part of itself
            self._z_last += max(0.0, math.log(self._b / self._pole))

    @property
    def start(self) -> float:
        """The product at t = 0."""
        return self.sign * self._w0

    @property
    def limit(self) -> float:
        """The product as t → ∞."""
        stuck = self.depth > 1 and self._kappa == 0 and self._v0 <= 0
        return 0.0 if stuck else self.sign * self._s

    @_quiet
    def product(self, t: np.ndarray) -> np.ndarray:
        """Return `w(t)` at non-negative times."""
        t = self.speed * t
        if self.depth == 1:
            w = self._w0 + (self._s - self._w0) * -np.expm1(-t)
            w = np.where(t > 1, self._s + (self._w0 - self._s) * np.exp(-t), w)
        elif self.depth == 2:
            w = riccati(self._c[1] / 2, self._s, self._w0, t)
        elif self.fixed:
            w = np.full(t.shape, self._w0)
        else:
            w = np.where(t == 0, self._w0, self._invert(np.atleast_1d(t)).reshape(t.shape))
        return self.sign * w

    @_quiet
    def time(self, w: float) -> float | None:
        """Return the first time at which the product is w; None if it never is."""
        w, w0, limit = self.sign * w, self._w0, self.sign * self.limit
        if w == w0:
            return 0.0
        if not min(w0, limit) <= w <= max(w0, limit):
            return None
        if w == limit:
            return math.inf
        if self.depth == 1:
            return math.log1p((w - w0) / (self._s - w)) / self.speed
        v = math.copysign(self._least_weight(w), w)
        xi = self._xi(v)
        z = (self._start - xi) / self._b if math.isinf(self._pole) else self._coordinate(xi, w)
        if z <= self._z0:
            return 0.0
        edges = self._edges(self._z0, z)
        return float(np.sum(self._panels(edges[:-1], edges[1:]))) / self.speed

    def _least_weight(self, w: float) -> float:
        """Return the size of v at the product w; its square may underflow."""
        return math.exp(0.5 * float(chain_log_root(self._c, w)))

    def _xi(self, v: float) -> float:
        if self._kappa > 0:
            return math.asinh(v / self._kappa)
        return math.log(abs(v)) if v != 0 else -math.inf

    def _coordinate(self, xi: float, w: float) -> float:
        """Return z at ξ, where the product is w; near the pole from `s − w`, which has more digits than δ."""
        delta = abs(self._pole - xi)
        if delta >= self._b:
            return 1 - delta / self._b
        z = math.log(self._b / delta) if delta > 0 else 36.0
        if self._s in (0.0, w):
            return z
        for _ in range(50):  # s − w falls almost as δ = e^{−z}/L does
            residual = float(self._state(np.asarray(z))[2])
            change = math.log(residual / (self._s - w)) if residual / (self._s - w) > 0 else 0.0
            z = max(z + change, 0.0)
            if abs(change) < 1e-15:
                break
        return z

    def _product(self, v: np.ndarray) -> np.ndarray:
        return v * np.prod(np.sqrt(v[..., None] ** 2 + self._c[1:]), axis=-1)  # roots first, or it underflows

    def _state(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `dt/dz`, w and `s − w` at the coordinates z."""
        k, b = self._kappa, self._b
        if math.isinf(self._pole):
            step, v = b, self._side * np.exp(self._start - b * z)
            w = self._product(v)
            residual = self._s - w
        else:
            delta = np.where(z < 0, b * (1 - z), b * np.exp(-np.maximum(z, 0.0)))
            step, sign = np.where(z < 0, b, delta), self._direction
            xi = self._pole - sign * delta
            if k > 0:
                v = k * np.sinh(xi)
                change = -2 * sign * k * np.cosh(self._pole - sign * delta / 2) * np.sinh(delta / 2)
            else:
                v, change = np.exp(xi), self._end * np.expm1(-sign * delta)
            w = self._product(v)
            if self._s == 0:  # both v and the step tend to 0, and would underflow
                to_zero = np.where(delta > 1e-100, step / (k * np.sinh(np.maximum(delta, 1e-100))), 1 / k)
                return to_zero * np.sqrt(v * v + k * k) / np.prod(v[..., None] ** 2 + self._c[1:], axis=-1), w, -w
            residual = self._s - w
            # Near the pole s − w cancels; there it follows from v − v_end.
            near = np.abs(change) <= 0.25 * self._end
            if near.any():
                ratio = change / self._end  # whose square, and that of v_end, may underflow
                squares = (ratio * (1 + v / self._end))[..., None] / (1 + self._c / self._end / self._end)
                logarithm = 0.5 * np.sum(np.log1p(np.where(near[..., None], squares, 0.0)), axis=-1)
                residual = np.where(near, -self._s * np.expm1(logarithm), residual)
                w = np.where(near, self._s - residual, w)
        rho = np.prod(np.sqrt(v[..., None] ** 2 + self._c[2:]), axis=-1)
        return step / (rho * np.abs(residual)), w, residual

    def _panels(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return the time spent between the coordinates start and end, at most 1 apart."""
        length = end - start
        speeds, _, _ = self._state(start[..., None] + length[..., None] * _NODES)
        return np.where(length > 0, length * (speeds @ _WEIGHTS), 0.0)

    def _edges(self, start: float, end: float) -> np.ndarray:
        inner = np.arange(math.floor(start) + 1, math.ceil(end))
        return np.concatenate([[start], inner, [end]])

    def _table(self, t_max: float) -> tuple[np.ndarray, np.ndarray]:
        """Return panel edges and the times at them, until t_max or the last coordinate."""
        edges, times = [np.array([self._z0])], [np.array([0.0])]
        while times[-1][-1] <= t_max and edges[-1][-1] < self._z_last:
            start = edges[-1][-1]
            new = self._edges(start, math.floor(start) + _CHUNK)
            times.append(times[-1][-1] + np.cumsum(self._panels(new[:-1], new[1:])))
            edges.append(new[1:])
        return np.concatenate(edges), np.concatenate(times)

    def _invert(self, t: np.ndarray) -> np.ndarray:
        """Invert the times by Newton's method inside their panels, kept in the bracket by bisection."""
        if t.size == 0:
            return t
        edges, times = self._table(float(t.max()))
        w = np.full(t.shape, self.sign * self.limit)
        inside = t < times[-1]
        t = t[inside]
        panel = np.searchsorted(times, t, side="right") - 1
        start, low, high = edges[panel], edges[panel], edges[panel + 1]
        wanted = t - times[panel]
        z = start + (high - start) * (wanted / (times[panel + 1] - times[panel]))
        for _ in range(100):
            excess = self._panels(start, z) - wanted
            low, high = np.where(excess <= 0, z, low), np.where(excess >= 0, z, high)
            new = z - excess / self._state(z)[0]
            new = np.where((new >= low) & (new <= high), new, (low + high) / 2)
            done = np.abs(new - z) <= 4e-16 * np.maximum(np.abs(z), 1.0)
            z = new
            if done.all():
                break
        w[inside] = self._state(z)[1]
        return w
