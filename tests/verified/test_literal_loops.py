"""The compiled loops of verified flows, read by Python under a coarse roundoff, against plain classes and formulas.

The plain classes are written out anew in their own tests. Both sides do the same operations in another order: they
agree to a few hundred roundings of float64.
"""

import itertools
import math
from types import FunctionType, SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba")

from linflow.verified import (
    _bound_loops,
    _chain_loops,
    _elimination_loops,
    _frame,
    _hessian_loops,
    _least_loops,
    _taylor_loops,
    _tube_loops,
    compiled,
    least,
    log_norm,
    rounding,
)
from linflow.verified.compiled import CompiledNode, CompiledPath
from linflow.verified.hessian import Matrix, between, coefficient, first
from linflow.verified.log_norm import times
from linflow.verified.problem import AffineGradient
from linflow.verified.taylor import OF_ROUNDING, Expansion
from tests.verified.test_compiled import KINDS, cases, laid, symmetric
from tests.verified.test_literal_path import coarse, tiny, u, up  # noqa: F401 - the fixture

SAME = 1e-11
"""Some hundred operations of float64, some of which cancel a digit."""


def block_of(A, a, rows, columns):
    return A[a : a + rows * columns].reshape(rows, columns)


def add(factor, A, a, C, c, count):
    C[c : c + count] += factor * A[a : a + count]


def copy(factor, A, a, C, c, count):
    C[c : c + count] = factor * A[a : a + count]


def dot(A, a, B, b, count):
    return float(A[a : a + count] @ B[b : b + count])


def product(A, a, B, b, C, c, rows, inner, columns):
    C[c : c + rows * columns] = (block_of(A, a, rows, inner) @ block_of(B, b, inner, columns)).ravel()


def turned_product(A, a, B, b, C, c, rows, inner, columns):
    C[c : c + rows * columns] = (block_of(A, a, inner, rows).T @ block_of(B, b, inner, columns)).ravel()


def transpose(factor, A, a, C, c, rows, columns):
    C[c : c + rows * columns] = factor * block_of(A, a, rows, columns).T.ravel()


def lessen(A, a, across, B, b, stride, D, C, c, rows, inner, columns):
    for i in range(rows):
        row = slice(c + i * stride, c + i * stride + columns)
        C[row] = D[row] - sum(A[a + p * across + i] * B[b + p * stride :][:columns] for p in range(inner))


def series(A, a, across, down, left, B, b, right, terms, C, c, rows, inner, columns):
    assert rows >= 4 <= columns  # a tile
    total = np.zeros((rows, columns))
    for i in range(terms):
        at = a + i * left + down * np.arange(rows)[:, None] + across * np.arange(inner)
        total += A[at] @ block_of(B, b - i * right, inner, columns)
    C[c : c + rows * columns] = total.ravel()


TILES = {f.__name__: f for f in (add, copy, dot, product, turned_product, transpose, lessen, series)}
COARSE = {"U": u, "UP": up, "TINY": tiny}


def read(module, known):
    """The names of a module, its compiled functions read by Python, with what other modules have of theirs."""
    names = {**vars(module), **{k: v for k, v in known.items() if k in vars(module)}, "noinline": lambda: None}
    own = {}
    for name, value in vars(module).items():
        code = getattr(value, "py_func", None)
        if code is not None and name not in known:
            own[name] = names[name] = FunctionType(code.__code__, names, name, code.__defaults__)
    return names, {**known, **own}


KNOWN = {**TILES, **COARSE, "Place": int}
FRAME, KNOWN = read(_frame, KNOWN)
BOUNDS, KNOWN = read(_bound_loops, KNOWN)
TAYLOR, KNOWN = read(_taylor_loops, KNOWN)
TUBE, KNOWN = read(_tube_loops, KNOWN)
HESSIAN, KNOWN = read(_hessian_loops, KNOWN)
LEAST, KNOWN = read(_least_loops, KNOWN)
CHAIN, _ = read(_chain_loops, TILES)
ELIMINATION, _ = read(_elimination_loops, KNOWN)


def made(names, module, name):
    return FunctionType(vars(module)[name].__code__, names, name)(7)


PROGRAMS = SimpleNamespace(
    expand=made(TAYLOR, _taylor_loops, "expanding"),
    walk=made(TAYLOR, _taylor_loops, "walking"),
    added=made(TAYLOR, _taylor_loops, "adding"),
    look=made(TUBE, _tube_loops, "looking"),
    surround=made(TUBE, _tube_loops, "enclosing"),
    constants=made(TUBE, _tube_loops, "bounding"),
    level_two=made(TUBE, _tube_loops, "by_products"),
    least=made(LEAST, _least_loops, "shifting"),
    krylov=made(CHAIN, _chain_loops, "iterating"),
    lacking=made(ELIMINATION, _elimination_loops, "eliminating"),
    hessian=made(HESSIAN, _hessian_loops, "assembling"),
)


@pytest.fixture(autouse=True)
def by_python(monkeypatch):
    monkeypatch.setattr(compiled, "programs", lambda: PROGRAMS)


def same(found, expected, rtol=SAME, atol=0.0):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def read_path(problem, weights, scale, tau=2.0**-5, order=None):
    return CompiledPath(laid(problem, weights, scale), weights, tau, order)


def small(kind):
    for problem, _, weights, scale in cases(kind, False):
        if max(max(W.shape) for W in weights) <= 4:
            yield problem, weights, scale
    if kind == "plain":  # the last layers are larger than the first
        rng = np.random.default_rng(9)
        for widths in ((1, 2, 3), (1, 1, 2, 4), (2, 3, 3, 3, 2)):
            weights = [0.5 * rng.standard_normal(s) for s in itertools.pairwise(widths)]
            yield AffineGradient(rng.standard_normal((widths[0], widths[-1]))), weights, 0.7


@pytest.mark.parametrize("cauchy", [TAYLOR["cauchy"], _taylor_loops.cauchy], ids=["read", "compiled"])
@pytest.mark.parametrize("turned", [False, True])
def test_cauchy_products_of_all_sides(cauchy, turned):
    rng = np.random.default_rng(12)
    for rows, inner, columns in itertools.product((1, 3, 4, 5), (1, 2, 5), (1, 3, 4, 5, 9)):
        A, B = rng.standard_normal((4, rows, inner)), rng.standard_normal((4, inner, columns))
        left = A.transpose(0, 2, 1) if turned else A
        for k in range(4):
            data = np.concatenate([[9.0], left.ravel()])
            C, work = np.full(rows * columns + 2, 9.0), np.zeros(rows * columns + 1)
            cauchy(turned, data, 1, B.ravel(), 0, k, C, 1, work, 1, rows, inner, columns)
            expected = sum(A[i] @ B[k - i] for i in range(k + 1))
            same(C[1:-1].reshape(rows, columns), expected, atol=1e-13)
            assert C[0] == C[-1] == 9.0


# --- norms ---------------------------------------------------------------------------------------------------------


def test_norms_are_those_of_rounding(coarse):  # noqa: F811
    rng = np.random.default_rng(0)
    work = np.zeros(100)
    for shape in ((1, 4), (4, 1), (2, 3), (3, 2), (3, 3), (4, 2)):
        for size in (1.0, 1e-3, tiny, 1e151):
            A = size * rng.standard_normal(shape)
            length = float(rounding.frobenius(A))
            same(FRAME["frobenius"](A.ravel(), 0, A.size), length)
            found = FRAME["spectral"](A.ravel(), 0, *shape, length, work, 0, 30, 60)
            same(found, rounding.spectral(A))
    for count in (1, 7):
        same(FRAME["gamma"](count), rounding.gamma(count))
    # The product with the inverse of the size overflows nowhere in between.
    A = np.full((2, 2), 0.4e150)
    same(FRAME["spectral"](A.ravel(), 0, 2, 2, float(rounding.frobenius(A)), work, 0, 30, 60), rounding.spectral(A))


# --- paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, 3])
def test_paths_are_those_of_the_plain_class(coarse, kind, order):  # noqa: F811
    for problem, weights, scale in small(kind):
        plain = Expansion(problem, weights, scale, 2.0**-5, order)
        path = read_path(problem, weights, scale, order=order)
        L, p = plain.depth, order
        for a, b in zip(plain.coefficients, path.coefficients, strict=True):
            same(b, a, atol=1e-13)
        same(path.lengths, plain.lengths)
        same(path.rounding, plain.rounding)
        same(path.defects[: len(plain.defects)], plain.defects)
        same(path.distance, plain.distance, atol=1e-14)
        same(path.norm(), plain.norm())
        same(path.distance_error, plain.distance_error)
        same(path.longest(), plain.longest())
        for s in (0.3, 1.7):
            same(path.added(s), plain.added(s))
            same(path.at(s)[1], plain.at(s)[1])
            same(path.at(s)[0], np.concatenate([W.ravel() for W in plain.at(s)[0]]), atol=1e-13)
            same(path.gap(s), plain.gap(s))
        factors = [
            *((0, l, plain.weights[l]) for l in range(L)),
            *((1, l, plain.prefixes[l]) for l in range(1, L + 1)),
            *((2, l, plain.suffixes[l]) for l in range(2, L + 1)),
            *((3, l, plain.pulled[l]) for l in range(L)),
        ]
        for of, l, factor in factors:
            row = 3 * _frame.row_of.py_func(path.layout.spec, of, l)
            for i, name in enumerate(("lengths", "norms", "errors")):
                same(path.bounds[row + i, :p], getattr(factor, name)[:p])
        tails = [
            *((0, l, plain.prefix_norms[l], l * p + 1) for l in range(L)),
            *((1, l, plain.suffix_norms[l], (L + 1 - l) * p + 1) for l in range(2, L + 2)),
            *((2, l, plain.pulled_norms[l], (L + l) * p + 1) for l in range(L)),
        ]
        for of, l, norms, count in tails:
            row = _frame.tail_row.py_func(path.layout.spec, of, l)
            assert len(norms) == count
            same(path.tails[row, :count], norms)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize(("rows", "between", "columns"), [(2, 3, 2), (3, 1, 4), (1, 1, 1), (5, 6, 3), (2, 2, 5)])
def test_a_coefficient_of_a_product_of_series(turned, rows, between, columns):
    rng, k = np.random.default_rng(rows), 2
    A, B = rng.standard_normal((5, rows, between)), rng.standard_normal((7, between, columns))
    given = np.swapaxes(A, 1, 2) if turned else A
    C, work, size = np.ones(3 + rows * columns + 2), np.zeros(rows * columns), between * columns
    TAYLOR["cauchy"](
        turned, given.ravel(), 0, B.ravel(), 2 * size, k, C, 3, work, 0, rows, between, columns
    )  # B begins with the third of the seven
    literal = sum(A[i] @ B[2 + k - i] for i in range(k + 1))
    same(C[3:-2].reshape(rows, columns), literal, atol=1e-14)
    assert C[:3].tolist() == [1.0] * 3 and C[-2:].tolist() == [1.0] * 2


def test_nothing_is_read_before_it_is_written(coarse, monkeypatch):  # noqa: F811
    for problem, weights, scale in small("both"):
        plain = Expansion(problem, weights, scale, 2.0**-5, 3)
        with monkeypatch.context() as patch:
            patch.setattr(np, "empty", lambda shape, *_, **__: np.full(shape, math.nan))
            path = read_path(problem, weights, scale, order=3)
        same(path.defects[: len(plain.defects)], plain.defects)
        same(path.longest(), plain.longest())
        assert np.isfinite(path.series).all() and np.isfinite(path.heads).all()


def test_the_longest_step_is_where_the_truncation_is_its_share(coarse):  # noqa: F811
    def truncation(s):
        return sum(d * s ** (k + 1) / (k + 1) for k, d in enumerate(defects)) * up

    for defects, size in (
        ([0.0, 0.0, 0.5, 2.0], 3.0),
        ([0.0, 0.0, 1e-9, 0.0], 1e9),
        ([0.0] * 4, 1.0),
        ([0.0] * 2, 1.0),
    ):
        for lost in ([0.0, 0.0], [0.25, 0.125], [1e3, 1e2], [1e9, 1.0]):
            allowed, reached = 0.25 * size + tiny, []
            for _ in range(2):
                s = min(1e3, (allowed * 3 / defects[2]) ** (1 / 3)) if len(defects) > 2 and defects[2] > 0 else 1e3
                while truncation(s) > allowed:
                    s *= 0.93
                reached.append(s)
                allowed = 0.25 * (lost[0] * s + lost[1] * s**2 / 2) * up  # a quarter of the rounding
                if allowed == 0:
                    break
            found = BOUNDS["longest"](np.array(defects), len(defects), 2, size, 0.25, np.array(lost))
            same(found, max(reached))
    assert truncation(1.0) == 0 and found == 1e3 and OF_ROUNDING == 0.25
    same(BOUNDS["integral"](np.array([1.0, 2.0, 3.0]), 3, 0.5), (0.5 + 0.25 + 0.125) * up)
    assert _bound_loops.FARTHEST == 1e3
    # Two hundred tries: it is a bound as it is.
    same(BOUNDS["longest"](np.array([1e300]), 1, 2, 1.0, 0.25, np.zeros(2)), 1e3 * 0.93**200)


# --- tubes ---------------------------------------------------------------------------------------------------------


def triples_of(path):
    """`X_ij` and `M_ij` of the plain class as matrices with norms."""
    W = between(path)
    X = {}
    for i, j in itertools.combinations(range(path.depth), 2):
        Q, S = coefficient(path.pulled[i]), first(path.suffixes[j + 2])
        X[i, j] = Q if S is None else Q @ S.T
    return X, W


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_norms_of_a_node(coarse, kind):  # noqa: F811
    for problem, weights, scale in small(kind):
        plain = Expansion(problem, weights, scale, 2.0**-5, 2)
        path = read_path(problem, weights, scale, order=2)
        L, layout, norms = plain.depth, path.layout, CompiledNode(path).norms
        for which, matrices in enumerate(triples_of(plain)):
            for (i, j), A in matrices.items():
                here = i * L + j
                assert norms[which, here] == norms[which, j * L + i]
                if A is None:
                    assert norms[which, here] == 1.0
                    continue
                norm = min(A.norm, rounding.spectral(A.value))
                same(norms[which, here], (norm + A.error) * up)
                same(layout.triples[which * L * L + here], [A.length, norm, A.error])
                at = layout.spec[len(layout.spec) - 2 * L * L + which * L * L + here]
                same(layout.pairs[at : at + A.value.size].reshape(A.value.shape), A.value, atol=1e-14)
        assert all(norms[k, i * L + i] == 0.0 for k in range(2) for i in range(L))


def test_the_triple_of_a_product(coarse):  # noqa: F811
    triple = np.array([3.0, 2.0, 0.25])
    TUBE["multiplied_by"](triple, 5.0, 4.0, 0.5, 6, 1e9)
    lost = rounding.gamma(6) * 3 * 5 + 0.25 * 4.5 + 2 * 0.5
    same(triple, [1e9, (2 * 4 * up + lost) * up, lost * up + tiny])


class Jets:
    """A tube of drawn jets, and the places of each in the flat array."""

    def __init__(self, L, seed):
        rng = np.random.default_rng(seed)
        self.L, self.flat = L, np.zeros(9 * L + 3 + 3 * L * L + 1)
        place = TUBE["place"]
        self.layers, self.before, self.after = (
            [self._put(place(L, kind, l, 0), rng.random(3) + 0.1) for l in range(L)] for kind in range(3)
        )
        self.slope = self._put(place(L, 3, 0, 0), rng.random(3) + 0.1)
        self.mids = {
            (i, j): self._put(place(L, 4, i, j), rng.random(3) + 0.1) for i, j in itertools.combinations(range(L), 2)
        }

    def _put(self, at, jet):
        assert not self.flat[at : at + 3].any()  # no two share a place
        self.flat[at : at + 3] = jet
        return tuple(float(x) for x in jet)

    def wide(self, radius):
        """Each norm on the path plus `Π(x + ρ) − Πx`."""
        x = [layer[0] for layer in self.layers]

        def moved(value, layers):
            return (
                value + max(math.prod(v + radius for v in layers) * up - math.prod(layers) * (1 - 1e-12), 0.0)
            ) * up

        return (
            [moved(self.before[l][0], x[:l]) for l in range(self.L)],
            [moved(self.after[l][0], x[l + 1 :]) for l in range(self.L)],
            {(i, j): moved(mid[0], x[i + 1 : j]) for (i, j), mid in self.mids.items()},
        )


def largest(C):
    return float(np.linalg.eigvalsh(C)[-1])


@pytest.fixture
def exact_eigenvalues(monkeypatch):
    monkeypatch.setitem(TUBE, "_greatest", largest)


def test_jets_are_derivatives_of_series(coarse):  # noqa: F811
    tube = np.zeros(5)
    TUBE["_jet"](np.array([1.0, 2.0, 3.0, 4.0, 9.0]), 4, 0.5, tube, 1)
    assert tube.tolist()[0] == 0.0 and tube[4] == 0.0
    same(tube[1:4], np.array([1 + 1 + 0.75 + 0.5, 2 + 3 + 3, 6 + 12]) * up)
    total = np.zeros(3)
    TUBE["_times"](np.array([0.0, 2.0, 3.0, 5.0]), 1, total, 0)
    assert total.tolist() == [2, 3, 5]
    TUBE["_times"](np.array([0.0, 7.0, 11.0, 13.0]), 1, total, 1)
    assert total.tolist() == [14, 2 * 11 + 3 * 7, 2 * 13 + 2 * 3 * 11 + 5 * 7]


@pytest.mark.parametrize("L", [1, 2, 3, 4])
def test_the_constants_of_a_tube(coarse, exact_eigenvalues, L):  # noqa: F811
    jets, c, K, radius = Jets(L, L), 0.7, 1.5 * 0.8 * up, 0.25
    spec, data = np.array([L, 2, 2, 4, 0, 0, 9]), np.array([c, 1.5, 0.8])
    found = np.zeros(4)
    PROGRAMS.constants(spec, data, jets.flat, radius, found)
    before, after, mids = jets.wide(radius)
    motion = c * math.sqrt(sum((p * s) ** 2 for p, s in zip(before, after, strict=True))) * up
    C, squares = np.zeros((L, L)), 0.0
    for (i, j), mid in mids.items():
        C[i, j] = C[j, i] = before[i] * mid * after[j]
    for k in range(L):
        Q = np.zeros((L, L))
        for i, j in itertools.combinations(set(range(L)) - {k}, 2):
            a, b, d = sorted((i, j, k))
            Q[i, j] = Q[j, i] = before[a] * mids[a, b] * mids[b, d] * after[d]
        squares += largest(Q) ** 2
    bend, twist = c * largest(C), math.sqrt(squares) * up
    slope = (jets.slope[0] + c * K * motion * radius) * up
    same(found, [motion, bend, slope, (3 * K * motion * bend + slope * twist) * up])


@pytest.mark.parametrize("part", ["before", "after", "mids"])
def test_the_product_of_layers_is_lowered_by_its_rounding(monkeypatch, part):
    """`Π(x + ρ) − Πx (1 − 1e-12)` at ρ = 0, next to nothing."""
    monkeypatch.setitem(TUBE, "UP", 1.0)
    jets, wide = Jets(3, 0), np.zeros(15)
    for kind in (1, 2):
        for l in range(3):
            jets.flat[TUBE["place"](3, kind, l, 0)] = 0.0
    for i, j in jets.mids:
        jets.flat[TUBE["place"](3, 4, i, j)] = 0.0
    TUBE["_widened"](3, jets.flat, 0.0, wide)
    x = [layer[0] for layer in jets.layers]
    literal = {
        "before": (wide[:3], [1.0, x[0], x[0] * x[1]]),
        "after": (wide[3:6], [x[1] * x[2], x[2], 1.0]),
        "mids": (wide[6:][[1, 2, 5]], [1.0, x[1], 1.0]),
    }[part]
    same(literal[0], np.array(literal[1]) * 1e-12, rtol=1e-3)  # the last digits of 1 − 1e-12


@pytest.mark.parametrize("L", [1, 2, 3, 4])
def test_a_tube_from_the_series_of_its_norms(coarse, exact_eigenvalues, L):  # noqa: F811
    rng, p, s, c = np.random.default_rng(L), 2, 0.75, 0.7
    spec, data = np.array([L, 2, 2, p, 0, 0, 9]), np.array([c, 1.5, 0.8])
    K = 1.5 * 0.8 * up
    tails, bounds = np.zeros((4 * L + 4, (2 * L - 1) * p + 2)), np.zeros((3 * (5 * L + 3), p + 1))
    row = _frame.tail_row.py_func

    def put(kind, l, count):
        tails[row(spec, kind, l), :count] = rng.random(count) + 0.1
        tails[row(spec, kind, l), count:] = math.nan  # is not read
        return log_norm.jet(tails[row(spec, kind, l), :count], s)

    layers = [put(3, l, p + 1) for l in range(L)]
    before = [put(0, l, l * p + 1) for l in range(L)]
    after = [put(1, l + 2, (L - 1 - l) * p + 1) for l in range(L)]
    pulled = [put(2, l, (L + l) * p + 1) for l in range(L)]
    bounds[1 : 3 * L : 3, 0] = x0 = rng.random(L) * 0.1 + 0.1
    norms = np.zeros((2, L * L))
    norms[1] = 0.01 * rng.random(L * L)  # below what the norms of the layers give
    norms[1, 2:3] = 9.0  # and above it
    jets = np.full(9 * L + 3 + 3 * L * L + 1, math.nan)
    PROGRAMS.surround(spec, data, p, bounds, tails, norms, s, jets)

    def at(kind, i, j=0):
        start = TUBE["place"](L, kind, i, j)
        return jets[start : start + 3]

    for l in range(L):
        same(at(0, l), layers[l])
        same(at(1, l), before[l])
        same(at(2, l), after[l])
    same(at(3, 0), pulled[0])
    mids, D = {}, np.zeros((L, L))
    for i, j in itertools.combinations(range(L), 2):
        if j == i + 1:
            mids[i, j] = (1.0, 0.0, 0.0)
        else:
            most, *rest = times(*layers[i + 1 : j])
            moved = norms[1, i * L + j] + most - math.prod(x0[i + 1 : j]) * (1 - 1e-12)
            mids[i, j] = (min(most, moved * up), *rest)
        same(at(4, i, j), mids[i, j])
        D[i, j] = D[j, i] = times(pulled[i], mids[i, j], after[j])[2]
    turning = [times(a, b) for a, b in zip(before, after, strict=True)]
    moved, bent = (c * c * K * sum(x[k] ** 2 for x in turning) for k in (1, 2))
    same(jets[-1], ((largest(D) + 2 * moved) * s**3 / 12 + 31 * bent * s**5 / 120) * up)


@pytest.mark.parametrize("small_norms", [True, False])
def test_a_product_between_layers_moves_from_its_norm_at_the_start(monkeypatch, small_norms):
    """The lesser of `‖M(0)‖ + Π x(s) − Π x(0) (1 − 1e-12)` and `Π x(s)`."""
    monkeypatch.setitem(TUBE, "UP", 1.0)
    L, p = 3, 1
    spec, data = np.array([L, 2, 2, p, 0, 0, 9]), np.array([1.0, 1.0, 1.0])
    tails, bounds = np.zeros((4 * L + 4, 7)), np.zeros((3 * (5 * L + 3), p + 1))
    tails[_frame.tail_row.py_func(spec, 3, 1), 0] = bounds[4, 0] = 0.5
    norms = np.full((2, L * L), 0.0 if small_norms else 2.0)
    jets = np.zeros(9 * L + 3 + 3 * L * L + 1)
    PROGRAMS.surround(spec, data, p, bounds, tails, norms, 0.5, jets)
    same(jets[TUBE["place"](L, 4, 0, 2)], 0.5e-12 if small_norms else 0.5, rtol=1e-3)


@pytest.mark.parametrize("L", [1, 2, 3, 4])
def test_level_two_of_a_step(coarse, exact_eigenvalues, L):  # noqa: F811
    rng, s, jump, slope = np.random.default_rng(L), 0.75, 0.25, 1.25
    jets = Jets(L, L)
    start, end = np.zeros((2, 2, L * L))
    for i, j in itertools.combinations(range(L), 2):
        start[:, i * L + j], end[:, i * L + j] = rng.random((2, 2)) * 2
    spec = np.array([L, 2, 2, 4, 0, 0, 9])
    found = PROGRAMS.level_two(spec, jets.flat, s, jump, slope, start, end)
    before, after, mids = jets.wide(jump)
    here, there, rest = np.zeros((3, L, L))
    for i, j in itertools.combinations(range(L), 2):
        known = jets.slope[0] * jets.before[i][0] * jets.after[j][0]
        dx = slope * before[i] * after[j] * up - known * (1 - 1e-12)
        dm = mids[i, j] * up - jets.mids[i, j][0] * (1 - 1e-12)
        (xa, ma), (xb, mb) = start[:, i * L + j], end[:, i * L + j]
        xb, mb = (xb + dx) * up, (mb + dm) * up
        x, mid = times(jets.slope, jets.before[i], jets.after[j])[2], jets.mids[i, j][2]
        bend = 0.5 * s * s * (x * max(ma, mb) + mid * max(xa, xb) + 0.25 * s * s * x * mid)
        turn = max(0.0, -(xb - xa) * (mb - ma))
        for matrix, value in ((here, xa * ma), (there, xb * mb), (rest, (turn + bend) * up)):
            matrix[i, j] = matrix[j, i] = value
    literal = (0.5 * (largest(here) + largest(there)) + largest(rest) / 6) * s * up if L > 1 else 0.0
    same(found, literal)


def test_level_two_lowers_what_it_subtracts(monkeypatch):
    """With nothing else: `known (1 − 1e-12)` and `mid (1 − 1e-12)` come off what is equal to them."""
    monkeypatch.setitem(TUBE, "UP", 1.0)
    monkeypatch.setitem(TUBE, "_greatest", largest)
    L = 2
    jets = np.zeros(9 * L + 3 + 3 * L * L + 1)
    place = TUBE["place"]
    for kind, i, j in ((3, 0, 0), (1, 0, 0), (2, 1, 0), (4, 0, 1)):
        jets[place(L, kind, i, j)] = 1.0
    monkeypatch.setitem(TUBE, "_widened", lambda L, tube, radius, wide: wide.fill(1.0))
    zeros, spec = np.zeros((2, 4)), np.array([L, 2, 2, 4, 0, 0, 9])
    found = PROGRAMS.level_two(spec, jets, 1.0, 0.0, 1.0, zeros, zeros)
    # xb = mb = 1e-12: the ends give half of their product, and the turn is not positive.
    same(found, 0.5e-24, rtol=1e-3)


def test_a_matrix_of_norms_by_its_own_formula(coarse):  # noqa: F811
    greatest = TUBE["_greatest"]
    assert greatest(np.array([[3.0]])) == 3.0
    same(greatest(np.array([[3.0, 2.0], [2.0, 5.0]])), (4 + math.sqrt(1 + 4)) * up)
    rng = np.random.default_rng(0)
    for L in (3, 4, 5):
        for _ in range(10):
            C = rng.random((L, L)) ** 3
            C = C + C.T
            assert largest(C) * up * (1 - 1e-12) <= greatest(C) <= largest(C) * up * (1 + 2e-6)
    TUBE["ROUNDS"], rounds = 2, TUBE["ROUNDS"]
    assert all(greatest(C[:k, :k]) >= largest(C[:k, :k]) for k in (3, 4, 5))  # a bound whenever it ends
    star = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert greatest(star) == pytest.approx(1.5 * up, rel=1e-6) and math.sqrt(2) < 1.5  # max (Cv)_i/v_i at (3, 2, 2)
    TUBE["ROUNDS"] = rounds
    assert greatest(np.zeros((3, 3))) == 0.0
    weak = np.array([[0.8, 6e-8, 0.0], [6e-8, 8e-9, 0.0], [0.0, 0.0, 0.0]])  # the vector stays positive: (1, 8e-8, 0)
    assert largest(weak) * up * (1 - 1e-12) <= greatest(weak) <= largest(weak) * up * (1 + 2e-6)
    C[1, 2] = math.nan
    assert greatest(C) == math.inf
    C[1, 2] = math.inf
    assert greatest(C) == math.inf


# --- Hessians ------------------------------------------------------------------------------------------------------


def literal_hessian(path, kept):
    """The Hessian by its blocks, and the error of each from the triples of its factors."""
    problem, c, L = path.problem, path.scale, path.depth
    n, m = problem.V.shape
    shapes = [factor.values.shape[1:] for factor in path.weights]
    ends = np.cumsum([0, *(a * b for a, b in shapes)])

    def factor(given, k, side):
        """A or B, which may be the identity."""
        if given is None:
            A = Matrix(np.eye(side), 0.0, 1.0)
            A.length = math.sqrt(side) * up
            return A
        A = Matrix(given, problem.errors[k], problem.norms[k] + problem.errors[k])
        A.length, A.norm = problem.lengths[k], problem.norms[k] + problem.errors[k]
        return A

    def many(A, B):
        """The triple of a product, whose norm is never above its length."""
        return Matrix(A.value @ B.value, (A @ B).error, (A @ B).norm)

    A, B = factor(problem.A, 0, n), factor(problem.B, 1, m)
    lefts, rights = [], []
    for l in range(L):
        P, S = first(path.prefixes[l]), first(path.suffixes[l + 2])
        if P is None:
            lefts.append(A)
        else:
            lefts.append(P if problem.A is None else turned(P, A, n))
        if S is None:
            rights.append(B)
        else:
            rights.append(S if problem.B is None else S @ B)
    X, M = triples_of(path)
    H, squares = np.zeros((ends[-1], ends[-1])), 0.0
    for i, j in itertools.combinations_with_replacement(range(L), 2):
        a = lefts[j] if i == 0 else turned_by(lefts[j], first(path.prefixes[i]), n)
        b = rights[i] if j == L - 1 else rights_by(rights[i], first(path.suffixes[j + 2]), m)
        part = c * c * kept
        block = part * np.einsum("ac,bd->abcd", a.value, b.value)
        size = a.length * b.length
        error = part * (a.error * (b.length + b.error) + a.length * b.error + 5 * u * size)
        size *= part
        if i < j:
            x, y = X[i, j], M[i, j]
            value = np.eye(shapes[i][1]) if y is None else y.value
            block = block + np.einsum("ad,bc->abcd", x.value, value)
            length, wrong = (math.sqrt(shapes[i][1]) * up, 0.0) if y is None else (y.length, y.error)
            error += x.error * (length + wrong) + x.length * wrong + 4 * u * x.length * length
            size += x.length * length
        error += 2 * u * size
        squares += 2 * error * error
        H[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = block.reshape(ends[i + 1] - ends[i], -1)
    return H, math.sqrt(squares) * up + tiny


def turned(P, A, n):
    """`A P` with the triple of P times that of A."""
    found = Matrix(A.value @ P.value)
    lost = rounding.gamma(n) * P.length * A.length + P.error * (A.norm + A.error) + P.norm * A.error
    found.norm, found.error = min((P.norm * A.norm * up + lost) * up, found.length), lost * up + tiny
    return found


def turned_by(left, P, n):
    """`Pᵀ (A P_j)`."""
    found = Matrix(P.value.T @ left.value)
    lost = rounding.gamma(n) * left.length * P.length + left.error * (P.norm + P.error) + left.norm * P.error
    found.norm, found.error = min((left.norm * P.norm * up + lost) * up, found.length), lost * up + tiny
    return found


def rights_by(right, S, m):
    """`(S_i B) S_jᵀ`."""
    found = Matrix(right.value @ S.value.T)
    lost = rounding.gamma(m) * right.length * S.length + right.error * (S.norm + S.error) + right.norm * S.error
    found.norm, found.error = min((right.norm * S.norm * up + lost) * up, found.length), lost * up + tiny
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_hessian_and_its_error_by_blocks(coarse, kind):  # noqa: F811
    for problem, weights, scale in small(kind):
        plain = Expansion(problem, weights, scale, 2.0**-5, 1)
        node = CompiledNode(read_path(problem, weights, scale, order=1))
        for given, kept in (((), 1.0), ((0.5,), 0.5)):
            H, error = node.hessian(*given)
            literal, bound = literal_hessian(plain, kept)
            same(symmetric(H), symmetric(literal.T), atol=1e-13)
            same(error, bound)


# --- the least eigenvalue ------------------------------------------------------------------------------------------


def literal_least(H, error, v, enough):
    """Trial shifts by Rayleigh quotients and halving, each proved by a factorisation; docs/verified.md."""
    N = len(H)

    def g(count):
        return count * u / (1 - count * u) * (1 + 4 * u)

    lengths = np.abs(np.diag(H)).sum() * (1 + g(N + 4))
    slack = g(N + 1) / (1 - g(N + 1))

    def shift(s):
        return s + (slack * (lengths + N * max(-s, 0.0)) + 4 * u * (lengths + abs(s)) + tiny) * up

    low, high, quotient = -math.inf, math.inf, v @ H @ v
    width = max(0.005 * abs(quotient), enough)
    s = 0.0 if quotient > 0 else quotient - width
    for _ in range(60):
        A = H - shift(s) * np.eye(N)
        if np.linalg.eigvalsh(A)[0] <= 0:
            high, width = s, width * 4
            s = (low + high) / 2 if low > -math.inf else s - width
            continue
        low = s
        if low >= 0:
            break
        for _ in range(2):
            v = np.linalg.solve(A, v)
            v = v / np.linalg.norm(v)
        quotient = v @ H @ v
        width = max(0.005 * abs(low), enough, 4 * (shift(low) - low))
        top = min(quotient, 0.0)
        if min(top, high) - low <= width:
            break
        s = min((low + high) / 2, max(quotient - width / 2, (low + top) / 2), 0.0)
    return low - (error + 4 * u * abs(low)) * up, v


@pytest.mark.parametrize("fine", [True, False])
def test_a_least_eigenvalue_by_trial_shifts(monkeypatch, coarse, fine):  # noqa: F811
    """With a coarse roundoff the margins show; with a fine one the trials."""
    rng = np.random.default_rng(1)
    if fine:
        for name, value in (("u", 2.0**-40), ("up", 1.0), ("tiny", 1e-12)):
            monkeypatch.setitem(globals(), name, value)
        for names in (LEAST, FRAME):
            for name, value in (("U", 2.0**-40), ("UP", 1.0), ("TINY", 1e-12)):
                monkeypatch.setitem(names, name, value)
    for name, value in (("U", u), ("UP", up), ("TINY", tiny), ("KRYLOV", 1)):  # from the vector that is given
        monkeypatch.setattr(least, name, value)
    monkeypatch.setattr(least, "gamma", lambda count: count * u / (1 - count * u) * (1 + 4 * u))
    for trial in range(40):
        N = int(rng.integers(1, 6))
        Q = np.linalg.qr(rng.standard_normal((N, N)))[0]
        H = Q @ np.diag(rng.standard_normal(N) + rng.choice([-1.0, 0.0, 3.0])) @ Q.T
        H = (H + H.T) / 2
        v = rng.standard_normal(N)
        v /= np.linalg.norm(v)
        if trial % 4 == 0:
            v = np.linalg.eigh(H)[1][:, -1].copy()
        expected, vector = literal_least(H, 0.125, v, 1e-3)
        got = v.copy()
        found = PROGRAMS.least(np.tril(H).ravel(), N, 0.125, got, 1e-3, np.zeros(N * N))
        same(found, expected, rtol=1e-9)  # quotients of vectors that are solved for
        plain, turned = least.least_near(np.tril(H), 0.125, v, 1e-3, np.empty((N, N), order="F") if fine else None)
        same(plain, expected, rtol=1e-9)
        if trial % 4:  # from the greatest eigenvector, rounding leads to the least
            same(got, vector, rtol=0, atol=1e-6)
            same(turned, vector, rtol=0, atol=1e-6)
    with np.errstate(invalid="ignore"):
        for wrong, place in itertools.product((math.nan, math.inf, -math.inf), ((0, 0), (2, 0), (2, 1), (2, 2))):
            H = np.eye(3)
            H[place] = wrong
            assert PROGRAMS.least(H.ravel(), 3, 0.0, np.ones(3), 1e-7, np.zeros(9)) == -math.inf


def test_a_first_vector_is_the_best_of_a_krylov_space(monkeypatch):
    rng = np.random.default_rng(2)
    H = rng.standard_normal((8, 8))
    H, v = H + H.T, rng.standard_normal(8)
    for size in (1, 2, 3, 6):
        monkeypatch.setattr(least, "KRYLOV", size)
        Q, _ = np.linalg.qr(np.stack([np.linalg.matrix_power(H, k) @ v for k in range(size)], axis=1))
        values, vectors = np.linalg.eigh(Q.T @ H @ Q)
        quotient, found = least.nearer(H.__matmul__, v)
        same(quotient, values[0], rtol=1e-10)
        same(abs(found @ Q @ vectors[:, 0]), 1.0, rtol=1e-9)  # a unit vector along it
    quotient, _ = least.nearer(np.diag([1.0, 2.0, 3.0]).__matmul__, np.eye(3)[1])  # its space has one dimension
    assert quotient == 2.0
    for wrong in (np.zeros(3), np.full(3, math.inf)):
        assert math.isnan(least.nearer(np.eye(3).__matmul__, wrong)[0])


def test_only_a_vector_of_the_size_and_of_about_length_1_is_a_start(monkeypatch):
    starts = []
    monkeypatch.setattr(least, "nearer", lambda times, v: starts.append(v) or (math.nan, v))
    drawn = np.random.default_rng(0).standard_normal(4)
    for length, known in ((0.5, False), (0.51, True), (1.99, True), (2.0, False)):
        vector = np.array([length, 0.0, 0.0, 0.0])
        assert least.least_near(np.eye(4), 0.0, vector, 1e-7) == (-math.inf, vector)
        assert np.array_equal(starts[-1], vector if known else drawn)
    least.least_near(np.eye(4), 0.0, np.eye(3)[0], 1e-7)
    assert np.array_equal(starts[-1], drawn)
    assert (least.CLOSE, least.KRYLOV, least.TRIALS) == (0.005, 8, 60)


def test_a_factor_with_a_pivot_that_is_not_finite_proves_nothing(monkeypatch):
    blas, lapack = least.libraries()

    def dpotrf(*given, **options):
        factor, info = lapack.dpotrf(*given, **options)
        factor[-1, -1] = math.nan
        return factor, info

    broken = SimpleNamespace(dpotrf=dpotrf, dpotrs=lapack.dpotrs)
    monkeypatch.setattr(least, "libraries", lambda: (blas, broken))
    assert least.least_near(-np.eye(3), 0.0, np.eye(3)[0], 1e-7)[0] == -math.inf
    monkeypatch.setattr(least, "nearer", lambda times, v: (math.inf, v))
    assert least.least_near(-np.eye(3), 0.0, np.eye(3)[0], 1e-7)[0] == -math.inf


def test_a_pivot_is_above_0_and_finite():
    for entry, shift, complete in ((2.0, 1.0, True), (2.0, 2.0, False), (2.0, 3.0, False), (math.inf, 1.0, False)):
        assert LEAST["_factored"](np.array([entry]), 1, shift, np.zeros(1)) == complete


def test_the_compiler_does_not_rearrange_bounds():
    assert FRAME["gamma"](1) > u and _frame.proved(lambda x: x).targetoptions["fastmath"] is False
