"""Exact flows and descents, to 60 digits, of losses that are not of the form `½⟨D, A D B⟩`.

Sensing and completion are quadratic in the entries of the product. Softmax, exponential and logistic loss have series
by recursions for the exponential and the quotient. Huber regression is quadratic between the times at which a
residual passes ±δ; each step of its judge ends at the first of them.
"""

from __future__ import annotations

import functools

import flint
import numpy as np

from tests.verified_judge import TrueFlow, exact, numbers, precision, secants

Rows = list[list[flint.arb]]

LOOKS = 64
"""Times within a step at which a residual is compared with ±δ, in float64."""


class OperatorFlow(TrueFlow):
    """`∇f(W) = M (W − V)` on the entries of W row by row, with A for M."""

    def applied(self, D):
        """Return `M D`."""
        n, m = D.nrows(), D.ncols()
        return flint.arb_mat(n, m, (self.A * flint.arb_mat(n * m, 1, D.entries())).entries())


class _DataFlow(TrueFlow):
    """The flow of a loss of the scores `XW`: a subclass gives the series of its derivative in each score."""

    def __init__(self, weights, scale, X, m, **what):
        with precision():
            self.X = flint.arb_mat(exact(X))
            self.turned = self.X.transpose()
        zero = flint.fmpq_mat(self.X.ncols(), m)
        super().__init__(weights, scale, zero, **what)

    def scores(self, P) -> Rows:
        """Return the rows of `XP`."""
        return (self.X * P).tolist()

    def pulled(self, rows: Rows):
        """Return `Xᵀ` times rows."""
        return self.turned * flint.arb_mat(rows)


class SoftmaxFlow(_DataFlow):
    """`f = −Σ_i log p_i(y_i)`, or the mean over the samples."""

    def __init__(self, weights, scale, X, labels, m, mean):
        self.labels = [int(y) for y in labels]
        with precision():
            self.share = 1 / flint.arb(len(labels) if mean else 1)
        super().__init__(weights, scale, X, m)

    def ahead(self, P) -> Rows:
        """Return the scores without that of the right class."""
        return [[x - row[y] for x in row] for row, y in zip(self.scores(P), self.labels, strict=True)]

    def slope(self, P, kept):
        D, e, t, p = (kept.setdefault(name, []) for name in ("D", "e", "t", "p"))
        D.append(self.ahead(self.scale * P[-1]))
        e.append(exponential(D, e))
        t.append([sum(row, flint.arb(0)) for row in e[-1]])
        p.append(quotient(e, t, p))
        hot = 0 if len(P) > 1 else 1
        rows = [[x - hot * (j == y) for j, x in enumerate(row)] for row, y in zip(p[-1], self.labels, strict=True)]
        return self.share * self.pulled(rows)

    def excess(self, P):
        total = flint.arb(0)
        for row, y in zip(self.ahead(P), self.labels, strict=True):
            total += sum((x.exp() for j, x in enumerate(row) if j != y), flint.arb(0)).log1p()
        return (self.share * total).mid()


class TailFlow(_DataFlow):
    """`f = Σ φ(z)` of the margins `z = y⟨w, x⟩`, with `φ(z) = e^{−z}`, or `log(1 + e^{−z})` if it is logistic."""

    def __init__(self, weights, scale, X, Y, logistic):
        self.signs, self.logistic = [[int(y) for y in row] for row in np.asarray(Y).tolist()], logistic
        super().__init__(weights, scale, X, len(self.signs[0]))

    def margins(self, P) -> Rows:
        """Return z."""
        return [[y * x for y, x in zip(*pair, strict=True)] for pair in zip(self.signs, self.scores(P), strict=True)]

    def slope(self, P, kept):
        z, e, t, p = (kept.setdefault(name, []) for name in ("z", "e", "t", "p"))
        z.append([[-x for x in row] for row in self.margins(self.scale * P[-1])])
        e.append(exponential(z, e))
        if self.logistic:  # φ' = −e^{−z}/(1 + e^{−z})
            t.append([[x + (len(P) == 1) for x in row] for row in e[-1]])
            p.append(quotient(e, t, p))
        rows = p[-1] if self.logistic else e[-1]
        pairs = zip(self.signs, rows, strict=True)
        return self.pulled([[-y * x for y, x in zip(*pair, strict=True)] for pair in pairs])

    def excess(self, P):
        parts = [(-x).exp() for row in self.margins(P) for x in row]
        return sum((x.log1p() if self.logistic else x for x in parts), flint.arb(0)).mid()


class HuberFlow(_DataFlow):
    """`f = Σ h(XW − Y)`, with the exact minimum `least`, or the loss at `origin` if one is given."""

    def __init__(self, weights, scale, X, Y, delta, least, origin=None):
        with precision():
            self.Y, self.delta = flint.arb_mat(exact(Y)), flint.arb(float(delta))
            self.least = flint.arb(least)
        super().__init__(weights, scale, X, int(np.shape(Y)[1]), origin=origin)

    def residuals(self, P) -> Rows:
        """Return `XP − Y`."""
        return (self.X * P - self.Y).tolist()

    def side(self, r) -> int:
        """Return 0 for a residual within ±δ, otherwise its sign."""
        return 0 if abs(r) <= self.delta else 1 if r > 0 else -1

    def slope(self, P, kept):
        first = len(P) == 1
        if first:
            R = self.residuals(self.scale * P[-1])
            kept["sides"] = [[self.side(r) for r in row] for row in R]
        else:
            R = self.scores(self.scale * P[-1])
        rows = [
            [
                (flint.arb(side) * self.delta if first else flint.arb(0)) if side else r
                for r, side in zip(*pair, strict=True)
            ]
            for pair in zip(R, kept["sides"], strict=True)
        ]
        return self.pulled(rows)

    def excess(self, P):
        total = -self.least
        for row in self.residuals(P):
            for r in row:
                total += r * r / 2 if self.side(r) == 0 else self.delta * abs(r) - self.delta**2 / 2
        return total.mid()

    def _advance(self):
        super()._advance()
        begin, h, series = self.pieces[-1]
        end = self._first_kink(series, h)
        if end is not None:
            self.pieces[-1] = (begin, end, series)
            self.now, self.t = self._value(series, end), (begin + end).mid()

    def _first_kink(self, series, h):
        """Return a time just after the first at which a residual passes ±δ, or None if none does within the step."""

        def residuals(s):
            return self.residuals(self.product(self._value(series, s)))

        with precision():
            times = [h * k / LOOKS for k in range(1, LOOKS + 1)]
            sides, delta = (
                np.array([[self.side(r) for r in row] for row in residuals(flint.arb(0))]),
                float(self.delta),
            )
        powers = (float(h) * np.arange(1, LOOKS + 1) / LOOKS)[:, None] ** np.arange(len(series[0]))
        layers = [np.tensordot(powers, np.array([numbers(c) for c in w]), 1) for w in series]
        X, Y = numbers(self.X), numbers(self.Y)
        R = float(self.scale) * (X @ functools.reduce(np.matmul, layers)) - Y
        looked = np.where(np.abs(R) <= delta, 0, np.sign(R))
        seen = np.flatnonzero((looked != sides).any(axis=(1, 2)))
        if len(seen) == 0:
            return None
        found = []
        with precision():
            before = times[seen[0] - 1] if seen[0] else flint.arb(0)
            for i, j in np.argwhere(looked[seen[0]] != sides).tolist():
                side, later = int(sides[i, j]), int(looked[seen[0], i, j])

                def height(s, i=i, j=j, side=side, later=later):
                    r = residuals(s)[i][j]
                    return (side * r - self.delta if side else self.delta - later * r).mid()

                found.append(secants(height, before, times[seen[0]])[1])
        return min(found, key=float)


def exponential(D: list[Rows], e: list[Rows]) -> Rows:
    """Return the next coefficient of `exp` of a series, entry by entry: `k e_k = Σ_{a=1}^{k} a D_a e_{k−a}`."""
    k = len(D) - 1
    if k == 0:
        return [[x.exp().mid() for x in row] for row in D[0]]
    found = []
    for i, row in enumerate(D[0]):
        sums = [
            sum((a * D[a][i][j] * e[k - a][i][j] for a in range(1, k + 1)), flint.arb(0)) for j in range(len(row))
        ]
        found.append([(x / k).mid() for x in sums])
    return found


def quotient(e: list[Rows], t: list, p: list[Rows]) -> Rows:
    """Return the next coefficient of `e/t`: `t_0 p_k = e_k − Σ_{a=1}^{k} t_a p_{k−a}`. Rows of t may be numbers."""
    k = len(e) - 1

    def below(a: int, i: int, j: int) -> flint.arb:
        return t[a][i][j] if isinstance(t[a][i], list) else t[a][i]

    return [
        [
            (
                (e[k][i][j] - sum((below(a, i, j) * p[k - a][i][j] for a in range(1, k + 1)), flint.arb(0)))
                / below(0, i, j)
            ).mid()
            for j in range(len(row))
        ]
        for i, row in enumerate(e[0])
    ]


def huber_minimum(X: np.ndarray, Y: np.ndarray, delta: float, near: np.ndarray):
    """Return the exact minimum of a Huber regression, or None if the residuals near it do not tell where it lies.

    The sides of the residuals at `near` give linear equations for each column; their solution is the minimiser if it
    has the same sides, as then its gradient is 0 and f is convex.
    """
    x, y, d = exact(X), exact(Y), flint.fmpq(*map(flint.fmpz, float(delta).as_integer_ratio()))
    N, n, m = x.nrows(), x.ncols(), y.ncols()
    R = X @ near - Y
    total = flint.fmpq(0)
    for j in range(m):
        sides = [0 if abs(r) <= delta else 1 if r > 0 else -1 for r in R[:, j]]
        inner = [i for i in range(N) if sides[i] == 0]
        A, c = flint.fmpq_mat(n, n), flint.fmpq_mat(n, 1)
        for i in range(N):
            row = flint.fmpq_mat(1, n, [x[i, k] for k in range(n)])
            if i in inner:
                A += row.transpose() * row
                c += row.transpose() * y[i, j]
            else:
                c -= row.transpose() * (d * sides[i])
        try:
            w = A.solve(c)
        except ZeroDivisionError:
            return None
        for i in range(N):
            r = sum((x[i, k] * w[k, 0] for k in range(n)), -y[i, j])
            if sides[i] != (0 if abs(r) <= d else 1 if r > 0 else -1):
                return None
            total += r * r / 2 if sides[i] == 0 else d * abs(r) - d * d / 2
    return total
