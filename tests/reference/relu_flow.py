"""The gradient flow of a two-layer ReLU network to 40 digits, from event to event; it shares no code with linflow.

Between events the weights are Taylor polynomials with numbers of mpmath. An event is a sign that changes, or a slope
of a sliding pair that leaves [s, 1]; its time is found by halving. What follows is found by trying every pattern of
the pairs at 0 against the rule of Filippov.
"""

from __future__ import annotations

import itertools

import mpmath
import numpy as np

ON, OFF, SLIDES = 1, -1, 0
ORDER, DIGITS = 24, 40
CLOSE = mpmath.mpf(10) ** -28
"""Two events that are closer than this are one, and a number below it is 0."""


def exact(A) -> np.ndarray:
    """Return an array of numbers of mpmath, equal to those of an array of floats."""
    return np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])(np.atleast_2d(np.asarray(A, dtype=float)))


class Judge:
    """A flow to 40 digits: `weights(t)`, `loss(t)`, and `events`, tuples (t, neuron, sample, before, after)."""

    def __init__(self, X, Y, U, V, s: float, end: float):
        with mpmath.workdps(DIGITS):
            self.X, self.Y, self.s, self.end = exact(X), exact(Y), mpmath.mpf(s), mpmath.mpf(end)
            self.K = self.X.dot(self.X.T)
            U, V = exact(U), exact(V)
            z = self.X.dot(U)
            self.sides = np.where(np.vectorize(lambda x: x > CLOSE)(z), ON, OFF)
            self.events, self.pieces, t = [], [], mpmath.mpf(0)
            for j in range(U.shape[1]):
                self._resolve(U, V, j, [i for i in range(len(z)) if abs(z[i, j]) <= CLOSE], t)
            while t < self.end:
                U, V, t = self._step(U, V, t)

    def weights(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        with mpmath.workdps(DIGITS):
            t = mpmath.mpf(t)
            start, us, vs = next(piece for piece in reversed(self.pieces) if piece[0] <= t)
            return _value(us, t - start), _value(vs, t - start)

    def loss(self, t: float):
        with mpmath.workdps(DIGITS):
            U, V = self.weights(t)
            z = self.X.dot(U)
            phi = np.vectorize(lambda x: x if x > 0 else self.s * x, otypes=[object])(z)
            return sum(x * x for x in (phi.dot(V) - self.Y).ravel()) / 2

    def _series(self, U, V, order=ORDER):
        a = np.vectorize({ON: mpmath.mpf(1), OFF: self.s, SLIDES: mpmath.mpf(0)}.get, otypes=[object])(self.sides)
        us, vs, phis, rs, qs, forces = [U], [V], [], [], [], []
        for k in range(order):
            phis.append(a * self.X.dot(us[k]))
            r = sum((phis[i].dot(vs[k - i]) for i in range(k + 1)), 0 * self.Y)
            rs.append(r - self.Y if k == 0 else r)
            qs.append(sum(rs[i].dot(vs[k - i].T) for i in range(k + 1)))
            force = a * qs[k]
            for j in range(U.shape[1]):
                S = np.flatnonzero(self.sides[:, j] == SLIDES)
                if len(S):
                    force[S, j] = self._held(S, force[:, j])
            forces.append(force)
            us.append(self.X.T.dot(force) * (mpmath.mpf(-1) / (k + 1)))
            vs.append(sum(phis[i].T.dot(rs[k - i]) for i in range(k + 1)) * (mpmath.mpf(-1) / (k + 1)))
        return us, vs, qs, forces

    def _held(self, S, force):
        """Forces on the samples S that keep them at 0."""
        pushed = [-sum(self.K[i, l] * force[l] for l in range(len(force)) if l not in S) for i in S]
        found = mpmath.lu_solve(mpmath.matrix(self.K[np.ix_(S, S)].tolist()), mpmath.matrix(pushed))
        return np.array([found[i] for i in range(len(S))], dtype=object)

    def _step(self, U, V, t):
        us, vs, qs, forces = self._series(U, V)
        size = max(abs(x) for x in [*us[-1].ravel(), *vs[-1].ravel()]) + mpmath.mpf(10) ** -60
        h = min((mpmath.mpf(10) ** -34 / size) ** (mpmath.mpf(1) / ORDER), self.end - t, mpmath.mpf(1))
        zs = [self.X.dot(u) for u in us]
        watched = []
        for i, j in np.ndindex(*self.sides.shape):
            side = int(self.sides[i, j])
            if side != SLIDES:
                watched.append((i, j, 0, [side * z[i, j] for z in zs]))
            else:
                q, f = [x[i, j] for x in qs], [x[i, j] for x in forces]
                watched.append((i, j, ON, [x - y for x, y in zip(q, f, strict=True)]))
                watched.append((i, j, OFF, [y - self.s * x for x, y in zip(q, f, strict=True)]))
        roots = [(root, i, j, way) for i, j, way, c in watched if (root := _root(c, h)) is not None]
        first = min((root for root, *_ in roots), default=h)
        self.pieces.append((t, us, vs))
        U, V, t = _value(us, first), _value(vs, first), t + first
        now = [(i, j, way) for root, i, j, way in roots if root <= first + CLOSE]
        for j in sorted({j for _, j, _ in now}):
            for i, neuron, way in now:
                if neuron == j and way:
                    self.events.append((t, j, i, SLIDES, way))
                    self.sides[i, j] = way
            crossing = [i for i, neuron, way in now if neuron == j and not way]
            if crossing:
                held = [int(i) for i in np.flatnonzero(self.sides[:, j] == SLIDES)]
                self._resolve(U, V, j, sorted({*crossing, *held}), t)
        return U, V, t

    def _resolve(self, U, V, j, samples, t):
        if not samples:
            return
        before = self.sides[:, j].copy()
        found = None
        for sides in sorted(
            itertools.product((OFF, ON, SLIDES), repeat=len(samples)), key=lambda x: (x.count(SLIDES), x.count(ON))
        ):
            self.sides[samples, j] = sides
            _, _, (qs, *_), (forces, *_) = self._series(U, V, 1)
            speed = -self.K.dot(forces[:, j])
            good = all(
                speed[i] >= -CLOSE if side == ON else speed[i] <= CLOSE if side == OFF else True
                for i, side in zip(samples, sides, strict=True)
            )
            held = [i for i, side in zip(samples, sides, strict=True) if side == SLIDES]
            good &= all(self.s * qs[i, j] - CLOSE <= forces[i, j] <= qs[i, j] + CLOSE for i in held)
            if good:
                found = sides
                break
        assert found is not None, "no pattern goes on"
        self.events += [
            (t, j, i, int(before[i]), int(self.sides[i, j])) for i in samples if before[i] != self.sides[i, j]
        ]


def _value(series, s):
    total = series[-1]
    for x in reversed(series[:-1]):
        total = total * s + x
    return total


def _root(c, h):
    """The first time in (0, h] at which a polynomial falls below 0; one that is 0 at 0 may rise first."""
    parts = 48
    times = [h * k / parts for k in range(parts + 1)]
    below = next((k for k in range(1, parts + 1) if _value(c, times[k]) < -CLOSE), None)
    if below is None:
        return None
    low, high = times[below - 1], times[below]
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (low, middle) if _value(c, middle) < 0 else (middle, high)
    return high
