"""Independent judges of verified runs: exact rational matrices, a coarse arithmetic that errs as far as it may, and
a flow at 60 digits.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import operator
from types import SimpleNamespace

import flint
import numpy as np

from linflow.verified import arithmetic

NAMES = (
    "arithmetic",
    "descent",
    "enclosure",
    "flow",
    "hessian",
    "log_norm",
    "lyapunov",
    "march",
    "momentum",
    "prior",
    "problem",
    "reduction",
    "rounding",
    "spectra",
    "taylor",
)
MODULES = tuple(importlib.import_module(f"linflow.verified.{name}") for name in NAMES)
COARSE = 2.0**-20
SIGNS = (-1.0, 1.0, -2.0, 2.0, 0.0)


# --- exact rational arithmetic -------------------------------------------------------------------------------------


def rational(x: float) -> flint.fmpq:
    return flint.fmpq(*map(flint.fmpz, float(x).as_integer_ratio()))


def exact(A: np.ndarray) -> flint.fmpq_mat:
    A = np.atleast_2d(np.asarray(A))
    return flint.fmpq_mat(*A.shape, [rational(x) for x in A.ravel()])


def identity(side: int) -> flint.fmpq_mat:
    return flint.fmpq_mat(side, side, [int(i == j) for i in range(side) for j in range(side)])


def square(A: flint.fmpq_mat) -> flint.fmpq:
    """Return `‖A‖_F²`."""
    return sum((x * x for x in A.entries()), flint.fmpq(0))


def length(A: flint.fmpq_mat) -> float:
    """Return `‖A‖_F` to double precision, whatever its size."""
    return float(flint.arb(square(A)).sqrt().mid())


def covers(bound: float, A: flint.fmpq_mat) -> bool:
    """Tell whether `‖A‖_F ≤ bound`, exactly."""
    return bound >= 0 and square(A) <= rational(bound) ** 2


def semidefinite(A: flint.fmpq_mat) -> bool:
    """Tell whether a symmetric matrix is positive semidefinite, by the signs of its characteristic polynomial."""
    assert A.transpose() == A
    coefficients = list(A.charpoly().coeffs())
    side = A.nrows()
    return all(c * (-1) ** (side - k) >= 0 for k, c in enumerate(coefficients))


def spectral_covers(bound: float, A: flint.fmpq_mat) -> bool:
    """Tell whether `‖A‖₂ ≤ bound`, exactly."""
    M = A * A.transpose() if A.nrows() <= A.ncols() else A.transpose() * A
    return semidefinite(identity(M.nrows()) * rational(bound) ** 2 - M)


def spectral_norm(A: np.ndarray) -> float:
    return float(np.linalg.svd(np.asarray(A), compute_uv=False)[0])


def series_product(A, B, times=operator.mul) -> list:
    full = [None] * (len(A) + len(B) - 1)
    for i, a in enumerate(A):
        for j, b in enumerate(B):
            full[i + j] = times(a, b) if full[i + j] is None else full[i + j] + times(a, b)
    return full


def defect(coefficients, scale, tau, target, A=None, B=None, residue=None) -> list[list]:
    """Return the series of `θ' + τ∇L(θ)`, layer by layer, of polynomials with these coefficients, exactly."""
    W = [[w if isinstance(w, flint.fmpq_mat) else exact(w) for w in series] for series in coefficients]
    L, c = len(W), rational(scale)
    P = W[0]
    for series in W[1:]:
        P = series_product(P, series)
    E = [c * x for x in P]
    E[0] = E[0] - target
    G = E if A is None else [A * x for x in E]
    G = G if B is None else [x * B for x in G]
    if residue is not None:
        G[0] = G[0] + residue
    G = [c * x for x in G]
    found = []
    for l in range(L):
        g = G
        for series in W[:l]:
            g = series_product([w.transpose() for w in series], g)
        for series in reversed(W[l + 1 :]):
            g = series_product(g, [w.transpose() for w in series])
        g = [rational(tau) * x for x in g]
        for k in range(1, len(W[l])):
            g[k - 1] = g[k - 1] + k * W[l][k]
        found.append(g)
    return found


# --- arithmetic that errs as far as the standard model allows ------------------------------------------------------


def _power_of_two(x) -> bool:
    return np.ndim(x) == 0 and x != 0 and abs(math.frexp(float(x))[0]) == 0.5


class Coarse(np.ndarray):
    """Arrays whose every operation errs by all that `|δ| ≤ 2⁻²⁰` allows: down (sign −1), up, to 0 (−2), from 0, or by
    the toss of a seeded coin (0).

    With the unit of rounding that large, what a bound leaves out is far above float64, which so serves as the judge.
    """

    sign = -1.0
    operations = 0
    guess = 1e-9  # error of eigenvalues that are not proved

    @staticmethod
    def gamma(count: int) -> float:
        return count * COARSE / (1 - count * COARSE)

    @classmethod
    def moved(cls, value, off):
        cls.operations += 1
        sign = cls.sign
        if abs(sign) == 2.0:
            sign = sign / 2 * np.sign(value)
        elif sign == 0.0:
            sign = np.random.default_rng(cls.operations).choice([-1.0, 1.0], size=np.shape(value))
        value = value + sign * off
        return value.view(cls) if isinstance(value, np.ndarray) else float(value)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        x = [np.asarray(a) if isinstance(a, Coarse) else a for a in inputs]
        plain = getattr(ufunc, method)(*x, **kwargs)
        off = 0.0
        if ufunc is np.matmul:
            off = self.gamma(np.shape(x[0])[-1]) * np.matmul(np.abs(x[0]), np.abs(x[1]))
        elif method == "reduce" and ufunc is np.add:
            sizes = np.add.reduce(np.abs(x[0]), **kwargs)
            off = self.gamma(max(1, np.size(x[0]) // max(1, np.size(sizes))) - 1) * sizes
        elif method == "__call__" and ufunc in (np.multiply, np.divide, np.add, np.subtract):
            off = COARSE * np.abs(plain)
            scaled = ufunc in (np.multiply, np.divide) and any(_power_of_two(a) for a in x)
            still = ufunc in (np.add, np.subtract) and any(not np.any(a) for a in x)
            off = 0.0 if scaled or still else off
        result = self.moved(plain, off) if np.asarray(plain).dtype == float else plain
        if out is not None:
            np.asarray(out[0])[...] = result
            return out[0]
        return result

    def __array_function__(self, func, types, args, kwargs):
        def strip(a):
            if isinstance(a, Coarse):
                return np.asarray(a)
            return type(a)(strip(x) for x in a) if type(a) in (list, tuple) else a

        plain = func(*strip(args), **kwargs)
        if func is np.einsum:
            a, b = (np.abs(np.asarray(x)) for x in args[1:])
            count = a.shape[-1] * a.shape[-2] if "..." in args[0] else 1
            moved = self.moved(plain, self.gamma(count) * np.einsum(args[0], a, b))
            return np.asarray(moved) if "..." in args[0] else moved  # norms go on in float64
        if func is np.kron:
            return self.moved(plain, COARSE * np.abs(plain))
        if func is np.sum:
            return np.add.reduce(args[0], axis=kwargs.get("axis", None))
        if isinstance(plain, tuple):
            return tuple(x.view(Coarse) if isinstance(x, np.ndarray) else x for x in plain)
        return plain.view(Coarse) if isinstance(plain, np.ndarray) else plain


def _cholesky(B):
    """Complete wherever a factorisation may, as `λ_min ≥ −γ/(1 − γ) tr` alone follows from its completion."""
    side = len(B)
    slack = Coarse.gamma(side + 1) / (1 - Coarse.gamma(side + 1))
    if np.linalg.eigvalsh(B)[0] < -0.999 * slack * np.trace(B):
        raise np.linalg.LinAlgError
    return np.eye(side)


class _Numpy:
    """NumPy whose new arrays are coarse."""

    def __init__(self):
        self.linalg = SimpleNamespace(
            eigvalsh=lambda A: np.linalg.eigvalsh(np.asarray(A)) + Coarse.guess,
            cholesky=lambda A: _cholesky(np.asarray(A)),
            **{name: getattr(np.linalg, name) for name in ("LinAlgError", "eigh", "svd", "qr", "norm")},
        )

    def __getattr__(self, name):
        return getattr(np, name)

    def zeros(self, *args):
        return np.zeros(*args).view(Coarse)

    def eye(self, *args):
        return np.eye(*args).view(Coarse)

    def ascontiguousarray(self, A, dtype=None):
        return np.ascontiguousarray(A, dtype=dtype).view(Coarse)


@contextlib.contextmanager
def coarse(monkeypatch, sign: float):
    """Let the verified code compute with a unit roundoff of 2⁻²⁰ and all errors as large as can be."""
    with monkeypatch.context() as patch:
        patch.setattr(Coarse, "sign", sign)
        patch.setattr(Coarse, "operations", 0)
        patch.setattr(arithmetic.Float64, "unit", COARSE)
        for module in MODULES:
            if hasattr(module, "U"):
                patch.setattr(module, "U", COARSE)
            if hasattr(module, "np"):
                patch.setattr(module, "np", _Numpy())
        yield Coarse


def coarsened(A) -> Coarse:
    return np.array(A, dtype=float).view(Coarse)


# --- the exact flow and descent, to 60 digits ----------------------------------------------------------------------

BITS = 230
ORDER = 40


@contextlib.contextmanager
def precision():
    before, flint.ctx.prec = flint.ctx.prec, BITS
    try:
        yield
    finally:
        flint.ctx.prec = before


def _balls(A) -> flint.arb_mat:
    return flint.arb_mat(exact(A))


def _norm(A) -> flint.arb:
    return sum((x * x for x in A.entries()), flint.arb(0)).sqrt()


class TrueFlow:
    """The flow by Taylor's method of order 40 with 230 bits: each step is short enough for 10⁻³⁶.

    `∇f(W) = A W B − C` in exact rationals, and `V` a minimiser. The gap is measured from the loss at `origin`, if one
    is given. A subclass for another loss has its own `slope` and `excess`.
    """

    def __init__(self, weights, scale, C, A=None, B=None, V=None, origin=None):
        with precision():
            self.scale = flint.arb(float(scale))
            self.A, self.B = (None if M is None else flint.arb_mat(M) for M in (A, B))
            self.C = flint.arb_mat(C)
            self.V = flint.arb_mat(C if V is None else V)
            self.start = [_balls(W) for W in weights]
            self.pieces = []
            self.t, self.now = flint.arb(0), self.start
            self.floor = flint.arb(0) if origin is None else self.excess(_balls(origin))
        self.first = self.gap(self.start)

    def force(self, W):
        """Return the negative gradients of one set of weights."""
        return [x[0] for x in self._expansion(W, 1)]

    def _expansion(self, W, order):
        L, c = len(W), self.scale
        W = [[w] for w in W]
        P, Q, S = ([[] for _ in range(L + 2)] for _ in range(3))
        gradients = [[] for _ in range(L)]

        def cauchy(x, y, k):
            total = x[0] * y[k]
            for i in range(1, k + 1):
                total += x[i] * y[k - i]
            return total.mid()

        turned, kept = [[w[0].transpose()] for w in W], {}
        for k in range(order):
            for l in range(L):
                P[l].append(W[0][k] if l == 0 else cauchy(P[l - 1], W[l], k))
            for l in range(L - 1, 0, -1):  # transposed products of the layers from l on
                S[l].append(turned[l][k] if l == L - 1 else cauchy(S[l + 1], turned[l], k))
            G = self.slope(P[L - 1], kept) * -c
            for l in range(L):
                Q[l].append(G.mid() if l == 0 else cauchy(turned[l - 1], Q[l - 1], k))
                gradients[l].append(Q[l][k] if l == L - 1 else cauchy(Q[l], S[l + 1], k))
                if order > 1:
                    W[l].append((gradients[l][k] / (k + 1)).mid())
                    turned[l].append(W[l][k + 1].transpose())
        return W if order > 1 else gradients

    def applied(self, D):
        """Return `A D B`."""
        D = D if self.A is None else self.A * D
        return D if self.B is None else D * self.B

    def slope(self, P, kept):
        """Return the last known coefficient of `∇f` for the series of the product `W_1 ⋯ W_L`, without its scale.

        `kept` is a dictionary for what the next call needs; it is empty at the start of a series.
        """
        G = self.applied(self.scale * P[-1])
        return G if len(P) > 1 else G - self.C

    def excess(self, P) -> flint.arb:
        """Return `f − f* = ½⟨D, A D B⟩` of a product."""
        D = P - self.V
        pairs = zip(D.entries(), self.applied(D).entries(), strict=True)
        return sum((a * b for a, b in pairs), flint.arb(0)).mid() / 2

    def _advance(self):
        series = self._expansion(self.now, ORDER)
        size = float(sum(float(_norm(w[0])) for w in series)) + 1e-300
        last = [sum(float(_norm(w[k])) for w in series) / size for k in (ORDER - 1, ORDER)]
        radii = [(1e-36 / a) ** (1 / k) for a, k in zip(last, (ORDER - 1, ORDER), strict=True) if a > 0]
        h = flint.arb(min([*radii, 1e6]) * 0.9)
        self.pieces.append((self.t, h, series))
        self.now = self._value(series, h)
        self.t = (self.t + h).mid()

    def _value(self, series, s):
        found = []
        for w in series:
            total = w[-1]
            for c in reversed(w[:-1]):
                total = (total * s + c).mid()
            found.append(total)
        return found

    def at(self, t):
        """Return the weights at a time, a float or a ball."""
        with precision():
            t = flint.arb(t)
            while self.t < t:
                self._advance()
            for begin, _, series in reversed(self.pieces):
                if begin <= t:
                    return self._value(series, t - begin)
            return self.start

    def product(self, W):
        with precision():
            P = W[0]
            for w in W[1:]:
                P = P * w
            return (self.scale * P).mid()

    def gap(self, W) -> flint.arb:
        """Return the loss gap."""
        with precision():
            return self.excess(self.product(W)) - self.floor

    def rate(self, W) -> flint.arb:
        with precision():
            return sum((_norm(g) ** 2 for g in self.force(W)), flint.arb(0)) / self.gap(W)

    def time_to(self, fraction) -> flint.arb:
        """Return the time at which the gap is `fraction` of the first, to some 35 digits."""
        with precision():
            target = self.first * flint.arb(fraction)
            while self.gap(self.now) > target:
                self._advance()
            begin, h, series = next(p for p in self.pieces if self.gap(self._value(p[2], p[1])) <= target)

            def height(s):
                return (self.gap(self._value(series, s)) - target).mid()

            low, high = secants(height, flint.arb(0), h)
            for _ in range(140):
                if high - low <= h * flint.arb(2) ** -124:
                    break
                middle = ((low + high) / 2).mid()
                low, high = (middle, high) if height(middle) > 0 else (low, middle)
            return begin + low

    def descent(self, eta, steps, momentum=0.0, nesterov=False):
        """Return the iterates of exact gradient descent with a constant step, or with one step each."""
        with precision():
            found, mu = [self.start], flint.arb(momentum)
            v = [0 * w for w in self.start]
            for step in np.broadcast_to(eta, steps).tolist():
                force = self.force(found[-1])
                v = [(mu * a + g).mid() for a, g in zip(v, force, strict=True)]
                u = [g + mu * a for a, g in zip(v, force, strict=True)] if nesterov else v
                found.append([(w + flint.arb(step) * a).mid() for w, a in zip(found[-1], u, strict=True)])
            return found


def disturbed(x: float, y: float, radius: float, V) -> list[TrueFlow]:
    """Return flows of two scalar layers that start at eight points of a circle around (x, y)."""
    return [
        TrueFlow(
            [np.full((1, 1), x + radius * math.cos(a)), np.full((1, 1), y + radius * math.sin(a))], 1.0, exact(V)
        )
        for a in np.linspace(0, 2 * math.pi, 8, endpoint=False) + math.pi / 4
    ]


def secants(height, low, high):
    """Return times, at most `2⁻¹²⁴` of the way apart if the Illinois method finds them, between which a height falls
    through 0.
    """
    way, above, below, last = high - low, height(low), height(high), None
    a, b, side = low, high, 0
    for _ in range(40):
        if not (above > 0 >= below):
            break
        s = (a + (b - a) * above / (above - below)).mid()
        if last is not None and abs(s - last) < way * flint.arb(2) ** -125:
            ends = [(s + sign * way * flint.arb(2) ** -125).mid() for sign in (-1, 1)]
            inside = low < ends[0] and ends[1] < high
            return ends if inside and height(ends[0]) > 0 >= height(ends[1]) else (a, b)
        here, last = height(s), s
        if here > 0:
            a, above, below, side = s, here, below / 2 if side == 1 else below, 1
        else:
            b, below, above, side = s, here, above / 2 if side == -1 else above, -1
    return a, b


def numbers(A) -> np.ndarray:
    """Return a matrix of balls in double precision."""
    return np.array([[float(x) for x in row] for row in A.tolist()])


def distance(weights, coefficients, s) -> float:
    """Return the distance of weights to the exact value of a path's polynomials at the ball s."""
    with precision():
        total = flint.arb(0)
        for W, series in zip(weights, coefficients, strict=True):
            value = _balls(series[-1])
            for c in series[-2::-1]:
                value = value * s + _balls(c)
            total += _norm(W - value) ** 2
        return float(total.sqrt().upper())
