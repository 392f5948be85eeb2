"""Operator intervals as docs/operator_intervals.md states them: slow, and at many digits where digits matter."""

from collections.abc import Sequence

import mpmath
import numpy as np


def chain(d: Sequence[float], sigma: float) -> list:
    """`t_1, …, t_L ≥ 0` with `t_l − t_{l+1} = d_l` and `Π t_l = σ²`: Newton's method at 60 digits, from above."""
    with mpmath.workdps(60):
        sums = [mpmath.mpf(0)]
        for step in d:
            sums.append(sums[-1] - mpmath.mpf(step))
        c = [x - min(sums) for x in sums]
        target = mpmath.mpf(sigma) ** 2
        if target == 0:
            return c
        # Π (x + c) ≥ x^k times the product of the L − k largest c, for each k.
        top = sorted(c)
        x = min((target / mpmath.fprod(top[k:])) ** (mpmath.mpf(1) / k) for k in range(1, len(c) + 1) if all(top[k:]))
        for _ in range(500):  # the product is convex in x, so every step stays above the root
            t = [x + y for y in c]
            step = (1 - target / mpmath.fprod(t)) / mpmath.fsum(1 / y for y in t)
            x -= step
            if abs(step) <= x * mpmath.mpf(10) ** -55:
                break
        return [x + y for y in c]


def prefixes(d: Sequence[float], sigma: float) -> list[float]:
    """`p_1, …, p_{L−1}` of the chain."""
    t = chain(d, sigma)
    return [float(mpmath.fprod(t[:l])) for l in range(1, len(t))]


class Numbers:
    """The numbers of section 4 of square layers with `b_l ≤ D_l ≤ a_l`; σ_{n−1} is None for n = 1."""

    def __init__(self, a, b, sigma_n, sigma_next, top):
        self.a, self.b, self.s = list(a), list(b), sigma_n**2
        self.most, self.least = prefixes(a, sigma_n), prefixes(b, sigma_n)
        self.top_x, self.top_y = prefixes(a, top), [top**2 / x for x in prefixes(b, top)]
        self.low_y = [self.s / x for x in self.most]
        self.ties = None
        if sigma_next is None:
            self.spread, self.rest, self.rest_y = [0.0] * len(a), self.top_x, self.top_y
        else:
            self.rest = prefixes(b, sigma_next)
            self.rest_y = [sigma_next**2 / x for x in prefixes(a, sigma_next)]
            sigmas = np.exp(np.linspace(np.log(sigma_next), np.log(top), 30))
            both = [(prefixes(a, float(x)), prefixes(b, float(x))) for x in sigmas]
            self.spread = [max(u[l] / v[l] - 1 for u, v in both) for l in range(len(a))]
            # ties[j][l]: the largest x_j⁺/x_l⁻
            L = len(a) + 1
            above, below = ([[1.0, *p[i], x * x] for p, x in zip(both, sigmas, strict=True)] for i in range(2))
            self.ties = [
                [max(u[j] / v[l] for u, v in zip(above, below, strict=True)) for l in range(L + 1)]
                for j in range(L + 1)
            ]

    def reach(self, l: int, eta: float) -> float:
        """R of (B)."""
        low, high = self.least[l], self.most[l]
        share = (high - eta) / (high - low) if high > low else 0.0
        return low + (eta - low) / (1 + self.spread[l] * min(max(share, 0.0), 1.0))

    def first_reach(self, eta: float, after: float) -> float:
        """The right side of (B1)."""
        d, excess = eta - self.least[0], max(after + self.a[0] * eta - eta**2, 0.0)
        return self.least[0] + (d * d / (d + excess / self.rest[0]) if d > 0 else 0.0)

    def squares_of_v(self, eta) -> list[float]:
        """Upper bounds on `‖v_l‖²` in the metric of `x_l⁻(Σ)⁻¹`, l = 1 … L − 1: (V). 0 for n = 1."""
        around, lengths = [1.0, *eta, self.s], []
        for l in range(1, len(eta) + 1):
            left = around[l + 1] + self.a[l - 1] * around[l] - around[l] ** 2 / around[l - 1]
            lengths.append(np.sqrt(max(left, 0.0)) / around[l])
        if self.ties is None:
            return [0.0] * len(eta)
        L = len(eta) + 1
        return [sum(np.sqrt(self.ties[j - 1][l]) * lengths[j - 1] for j in range(1, l + 1)) ** 2 for l in range(1, L)]

    def tied_reach(self, l: int, eta) -> float:
        """The right side of (V), a lower bound on `1/μ`."""
        d, B = eta[l] - self.least[l], eta[l] ** 2 * self.squares_of_v(eta)[l]
        return self.least[l] + (d * d / (d + B) if d > 0 else 0.0)

    def suffix_caps(self, eta, caps) -> list[float]:
        """The largest ζ that (U) allows at η, layer by layer from the last; the last is not lowered."""
        D, caps, lengths = len(eta), [float(x) for x in caps], [0.0] * len(eta)
        for l in range(D - 1, -1, -1):
            before, after = caps[l - 1] if l else self.s, caps[l + 1] if l < D - 1 else 1.0

            def left(x, l=l, before=before, after=after):
                return max(before - self.b[l] * x - x * x / after, 0.0)

            low = min(self.s / eta[l], caps[l])
            if l < D - 1:
                theta = [np.sqrt(self.ties[l + 1][j + 2]) for j in range(D)]  # x_l⁺/x_{j+1}⁻, layers counted from 1
                first = max(left(x) for x in np.linspace(low, caps[l], 2001))
                B = (caps[l] * sum(theta[j] * lengths[j] for j in range(l + 1, D)) + theta[l] * np.sqrt(first)) ** 2
                p = max(self.s / eta[l] - self.low_y[l], 0.0)
                caps[l] = min(caps[l], self.low_y[l] + (p + np.sqrt(p * p + 4 * p * B)) / 2)
                low = min(low, caps[l])
            lengths[l] = max(np.sqrt(left(x)) / x for x in (low, caps[l]))
        return caps

    def reversed(self) -> "Numbers":
        """The numbers of the reversed layers: `Y_l` is their `X_{L−l}`."""
        other = Numbers.__new__(Numbers)
        other.a, other.b, other.s = [-x for x in self.b[::-1]], [-x for x in self.a[::-1]], self.s
        other.least = self.low_y[::-1]
        other.ties = None
        if self.ties is not None:
            L = len(self.a) + 1  # y_j⁺/y_l⁻ = x_l⁺/x_j⁻, and the suffix l is the prefix L − l
            other.ties = [[self.ties[L - l][L - j] for l in range(L + 1)] for j in range(L + 1)]
        return other

    def last_holds(self, eta: float, zeta: float, before: float) -> float:
        """Left minus right side of (B2)."""
        q, low = self.s / eta, self.low_y[-1]
        term = self.rest_y[-1] * (zeta - q) * (zeta - low) / (q - low) if q > low else 0.0
        return zeta**2 + self.b[-1] * zeta + term - before

    def largest_zeta(self, eta) -> list[float] | None:
        """The largest ζ that (B), (B1), (C2) and (B2) allow at η; None if (C1) or `ζη ≥ s` fails there."""
        D = len(eta)
        around = [1.0, *eta, self.s]
        for l in range(D):
            if eta[l] > phi(self.a[l], around[l], around[l + 2]) * (1 + 1e-12):
                return None
        zeta = [self.s / max(self.reach(l, eta[l]), self.tied_reach(l, eta)) for l in range(D)]
        zeta[0] = min(zeta[0], self.s / self.first_reach(eta[0], around[2]))
        for _ in range(200):
            last = list(zeta)
            for l in range(D):
                before = zeta[l - 1] if l else self.s
                after = zeta[l + 1] if l < D - 1 else 1.0
                zeta[l] = min(zeta[l], phi(-self.b[l], after, before))
            before = zeta[-2] if D > 1 else self.s
            low, high = self.low_y[-1], zeta[-1]
            if self.last_holds(eta[-1], high, before) > 0:
                low = max(low, self.s / eta[-1] * (1 - 1e-9))
                for _ in range(80):
                    middle = (low + high) / 2
                    low, high = (middle, high) if self.last_holds(eta[-1], middle, before) <= 0 else (low, middle)
                zeta[-1] = high
            if zeta == last:  # and so in every further round
                break
        return zeta if all(z >= self.s / e * (1 - 1e-9) for z, e in zip(zeta, eta, strict=True)) else None

    def pairs(self, l: int, zeta: float, eta: float):
        """`(g, h, o, k)` of `X_l` and of `Y_l`."""
        found = []
        for value, rest, low, top in (
            (zeta / self.s, self.rest[l], self.least[l], self.top_x[l]),
            (eta / self.s, self.rest_y[l], self.low_y[l], self.top_y[l]),
        ):
            g, h, o = 1 / rest, 1 / low, 1 / top
            found.append((g, h, o, min(max((value - o) / (h - o), 0.0), 1.0) if h > o else 1.0))
        return found

    def simple_value(self, eta, zeta) -> float:
        """`Σ Λ^X_{l−1} Λ^Y_l`."""
        x, y = [1.0], []
        for l, (e, z) in enumerate(zip(eta, zeta, strict=True)):
            for side, (g, h, _, k) in zip((x, y), self.pairs(l, z, e), strict=True):
                side.append(1 / (g + (h - g) * k))
        return float(sum(u * v for u, v in zip(x, [*y, 1.0], strict=True)))


def phi(d: float, a: float, b: float) -> float:
    """The positive x with `x²/a − dx = b`, by the formula of the quadratic; with its conjugate for d < 0."""
    root = np.sqrt((d * a) ** 2 / 4 + a * b)
    return float(d * a / 2 + root) if d >= 0 else float(a * b / (root - d * a / 2))
