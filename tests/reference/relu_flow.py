"""The gradient flow of a two-layer ReLU network to 40 digits, from event to event; it shares no code with linflow.

Between events the weights are Taylor polynomials with numbers of mpmath. An event is a sign that changes, or a slope
of a sliding pair that leaves [s, 1]; its time is found by halving. What follows is found by trying every pattern of
the pairs at 0 against the rule of Filippov.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import mpmath
import numpy as np

ON, OFF, SLIDES = 1, -1, 0
STORED = Path(__file__).with_name("relu_flows.json")
ORDER, DIGITS = 24, 40
IDLE = 20
"""Steps without progress after which a flow is given up: more pairs than these do not flip at one time here."""


def exact(A) -> np.ndarray:
    """Return an array of numbers of mpmath, equal to those of an array of floats."""
    return np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])(np.atleast_2d(np.asarray(A, dtype=float)))


class UndecidedError(ArithmeticError):
    """The flow cannot be followed to this many digits."""


class Judge:
    """A flow to 40 digits: `weights(t)`, `loss(t)`, and `events`, tuples (t, neuron, sample, before, after).

    A step is off by 10⁶ units of the last digit. Two events that are closer than `close`, 10¹² units, are one, and a
    number below it is 0. With fewer digits it is faster.
    """

    def __init__(self, X, Y, U, V, s: float, end: float, digits: int = DIGITS):
        self.digits, self.close = digits, mpmath.mpf(10) ** (12 - digits)
        with mpmath.workdps(digits):
            self.X, self.Y, self.s, self.end = exact(X), exact(Y), mpmath.mpf(s), mpmath.mpf(end)
            self.K = self.X.dot(self.X.T)
            U, V = exact(U), exact(V)
            z = self.X.dot(U)
            self.sides = np.where(np.vectorize(lambda x: x > self.close)(z), ON, OFF)
            self.events, self.pieces, t = [], [], mpmath.mpf(0)
            for j in range(U.shape[1]):
                self._resolve(U, V, j, [i for i in range(len(z)) if abs(z[i, j]) <= self.close], t)
            idle = 0
            while t < self.end:
                before = t
                U, V, t = self._step(U, V, t)
                idle = idle + 1 if t - before <= self.close else 0
                if idle > IDLE:
                    raise UndecidedError(f"at {mpmath.nstr(t, 17)} a crossing has no speed to this many digits")

    def weights(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        with mpmath.workdps(self.digits):
            t = mpmath.mpf(t)
            start, us, vs = next(piece for piece in reversed(self.pieces) if piece[0] <= t)
            return _value(us, t - start), _value(vs, t - start)

    def loss(self, t: float):
        with mpmath.workdps(self.digits):
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
        # Both of the last coefficients count: one alone may be 0. A slow flow takes steps longer than 1.
        h = min(self.end - t, max(mpmath.mpf(1), self.end / 64))
        for k in (ORDER - 1, ORDER):
            size = max(abs(x) for x in [*us[k].ravel(), *vs[k].ravel()]) + mpmath.mpf(10) ** -60
            h = min(h, (mpmath.mpf(10) ** (6 - self.digits) / size) ** (mpmath.mpf(1) / k))
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
        roots = [(root, i, j, way) for i, j, way, c in watched if (root := _root(c, h, self.close)) is not None]
        first = min((root for root, *_ in roots), default=h)
        self.pieces.append((t, us, vs))
        U, V, t = _value(us, first), _value(vs, first), t + first
        now = [(i, j, way) for root, i, j, way in roots if root <= first + self.close]
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
                speed[i] >= -self.close if side == ON else speed[i] <= self.close if side == OFF else True
                for i, side in zip(samples, sides, strict=True)
            )
            held = [i for i, side in zip(samples, sides, strict=True) if side == SLIDES]
            good &= all(self.s * qs[i, j] - self.close <= forces[i, j] <= qs[i, j] + self.close for i in held)
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


def _root(c, h, close):
    """The first time in (0, h] at which a polynomial falls below 0; one that is 0 at 0 may rise first."""
    if c[0] > abs(_value([abs(x) for x in c[1:]], h)) * h:
        return None
    parts = 48
    times = [h * k / parts for k in range(parts + 1)]
    below = next((k for k in range(1, parts + 1) if _value(c, times[k]) < -close), None)
    if below is None:
        return None
    low, high = times[below - 1], times[below]
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (low, middle) if _value(c, middle) < 0 else (middle, high)
    return high


def drawn(seed: int, *, N=3, d=2, h=3, m=1, s=0.0, bias=False, kind="") -> tuple:
    """A small start with three digits: X, Y, U, V, bias, slope."""
    rng = np.random.default_rng(seed)
    X, Y = np.round(rng.standard_normal((N, d)), 3), np.round(rng.standard_normal((N, m)), 3)
    U, V = np.round(rng.standard_normal((d, h)), 3), np.round(rng.standard_normal((h, m)), 3)
    b = np.round(rng.standard_normal(h) * 0.3, 3) if bias else None
    if kind == "repeated":
        X[1] = X[0]
    elif kind == "opposite":
        X[1] = -X[0]
    elif kind == "dead":
        X, U[:, 0] = np.abs(X), -np.abs(U[:, 0])
    elif kind == "zeros":
        U[:, 0], V[0], X[2] = 0.0, 0.0, 0.0
    elif kind == "boundary":
        X[0], U[:, 0] = (0.5, 1.0), (1.0, -0.5)
    return X, Y, U, V, b, s


CASES: dict[str, tuple[tuple, float]] = {
    "plain": (drawn(21), 1.8),
    "leaky": (drawn(19, s=0.2), 1.4),
    "leaky, crossings": (drawn(32, s=0.2), 1.0),
    "bias": (drawn(13, h=2, bias=True), 1.0),
    "two outputs": (drawn(26, m=2), 0.7),
    "two outputs, slides": (drawn(29, m=2), 1.3),
    "repeated": (drawn(3, kind="repeated"), 0.8),
    "opposite": (drawn(5, s=0.1, kind="opposite"), 0.8),
    "dead": (drawn(2, kind="dead"), 0.8),
    "zeros": (drawn(12, kind="zeros"), 0.8),
    "boundary": (drawn(1, kind="boundary"), 0.5),
    "boundary, the other way": (drawn(4, kind="boundary"), 0.5),
}
"""Starts, and the time up to which `relu_flows.json` holds their flows."""


def main() -> None:
    """Compute the flows and write them: `python -m tests.reference.relu_flow`."""
    found = {}
    for name, ((X, Y, U, V, b, s), end) in CASES.items():
        inputs = X if b is None else np.hstack([X, np.ones((len(X), 1))])
        judge = Judge(inputs, Y, U if b is None else np.vstack([U, b]), V, s, end)
        times = [end * k / 8 for k in range(9)]
        found[name] = {
            "events": [[mpmath.nstr(e[0], 25), *e[1:]] for e in judge.events],
            "times": times,
            "losses": [mpmath.nstr(judge.loss(t), 30) for t in times],
            "weights": [[mpmath.nstr(x, 30) for layer in judge.weights(t) for x in layer.ravel()] for t in times],
        }
        print(name, len(judge.pieces), "pieces", len(judge.events), "events", flush=True)
        STORED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
