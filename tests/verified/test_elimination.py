"""The least eigenvalue of a Hessian by eliminating layers: against exact rationals, and against literal formulas."""

import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import flint
import numpy as np
import pytest

import linflow as lf
from linflow.verified import compiled as loops
from linflow.verified import elimination, rounding
from linflow.verified.compiled import CompiledNode, CompiledPath
from linflow.verified.elimination import (
    HessianChain,
    best_cost,
    chain_cost,
    dense_cost,
    least_curvature,
    least_of_chain,
    rest_of,
)
from linflow.verified.hessian import Matrix, hessian
from linflow.verified.least import CLOSE
from linflow.verified.problem import AffineGradient
from linflow.verified.taylor import Expansion
from tests.verified.test_compiled import KINDS, cases, exact_hessian, fractions, laid, root
from tests.verified.test_literal_loops import ELIMINATION, PROGRAMS
from tests.verified.test_literal_path import g as coarse_gamma
from tests.verified.test_literal_path import tiny, up
from tests.verified.test_literal_path import u as coarse_unit
from tests.verified_judge import covers, identity, rational, semidefinite, square

pytest.importorskip("linflow.verified._frame")

WAYS = ("last", "first")
BY_LAPACK, BY_LOOPS = False, True
UP, TINY = 1.25, 1e-3  # large enough to see


def chains(kind, most=14, kept=1.0):
    """Yield chains of small networks, both ways, with what is needed for an exact Hessian."""
    for problem, given, weights, scale in cases(kind, False):
        if len(weights) < 2 or sum(W.size for W in weights) > most:
            continue
        node = CompiledNode(CompiledPath(laid(problem, weights, scale), weights, 0.25, 1))
        for way in WAYS:
            node.path.layout.way = way
            yield node.chain(kept), node, (weights, scale, problem.V, *given), way


def turned(weights, way):
    """The places of a chain's weights in a vector of all weights of the network."""
    size = sum(W.size for W in weights)
    parts = np.split(np.arange(size), np.cumsum([W.size for W in weights])[:-1])
    parts = [part.reshape(W.shape) for part, W in zip(parts, weights, strict=True)]
    return np.concatenate([part.ravel() for part in parts] if way == "last" else [p.T.ravel() for p in parts[::-1]])


def exact_form(chain):
    """The Hessian of the computed parts in rational arithmetic, from its definition."""
    W, P, N = ([fractions(F.value) for F in parts] for parts in (chain.weights, chain.before, chain.pulled))
    sides = chain.weights[0].value.shape[0], chain.weights[-1].value.shape[1]
    A, B = (
        np.eye(n, dtype=int).astype(object) if F is None else fractions(F.value)
        for n, F in zip(sides, (chain.left, chain.right), strict=True)
    )
    factor = Fraction(chain.factor)
    ends = np.cumsum([0, *(w.size for w in W)])
    one = np.eye(chain.size, dtype=int).astype(object)
    columns = []  # the states X_0 … X_L for each unit vector, and its layers
    for unit in one:
        layers = [unit[a:b].reshape(w.shape) for a, b, w in zip(ends[:-1], ends[1:], W, strict=True)]
        X = [np.zeros((sides[0], W[0].shape[0]), dtype=int).astype(object)]
        for w, p, V in zip(W, P, layers, strict=True):
            X.append(X[-1] @ w + p @ V)
        columns.append((layers, X))
    H = np.zeros((chain.size, chain.size), dtype=object)
    for i, j in itertools.combinations_with_replacement(range(chain.size), 2):
        (U, X), (V, Y) = columns[i], columns[j]
        total = factor * np.sum((A @ X[-1] @ B) * Y[-1] + (A @ Y[-1] @ B) * X[-1]) / 2
        for k in range(len(W)):
            total += np.sum((X[k] @ V[k] + Y[k] @ U[k]) * N[k])
        H[i, j] = H[j, i] = Fraction(total)
    return flint.fmpq_mat(
        chain.size, chain.size, [flint.fmpq(x.numerator, x.denominator) for x in map(Fraction, H.ravel())]
    )


def rounded(form):
    """An exact matrix in float64."""
    return np.array([[float(Fraction(int(x.p), int(x.q))) for x in row] for row in form.table()])


def exact_order(true, order):
    size = len(order)
    return flint.fmpq_mat(size, size, [true[int(i), int(j)] for i in order for j in order])


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_a_chain_covers_its_distance_to_the_exact_hessian(kind):
    worst = 0.0
    for chain, _, given, way in chains(kind):
        true = exact_order(exact_hessian(*given), turned(given[0], way))
        off = exact_form(chain) - true
        assert covers(chain.error, off)
        worst = max(worst, root(square(off)) / chain.error)
    assert worst > (1e-3 if kind in ("plain", "exact") else 0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_holds_for_the_exact_hessian_and_is_close(kind, monkeypatch):
    for chain, node, given, way in chains(kind):
        true = exact_hessian(*given)
        low, v = least_of_chain(chain, np.zeros(0), 1e-9)
        assert semidefinite(true - identity(chain.size) * rational(low))
        form = exact_form(chain)
        H = rounded(form)
        least = float(np.linalg.eigvalsh(H)[0])
        assert low >= min(0.0, least) * (1 + 2 * CLOSE) - 2e-9 - 4 * chain.error
        if least < 0:
            assert v @ H @ v / (v @ v) <= least * (1 - 2 * CLOSE)
        assert node.least <= 0  # of the compiled node, by this way, with a part of the first term left out
        monkeypatch.setattr(elimination, "best_cost", lambda widths, way=way: (0.0, way))
        plain = least_curvature(Expansion(node.path.problem, given[0], given[1], 0.25, 1))
        assert plain == pytest.approx(node.least, rel=3 * CLOSE, abs=3e-4 + 4 * chain.error)  # ENOUGH over τ
        H, error = hessian(Expansion(node.path.problem, given[0], given[1], 0.25, 1), 31 / 32)
        assert plain <= float(np.linalg.eigvalsh(H)[0]) + error + 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_products_with_a_chain_are_those_with_the_hessian(kind):
    rng = np.random.default_rng(3)
    for chain, node, given, way in chains(kind, most=1000, kept=0.75):
        H, _ = hessian(Expansion(node.path.problem, given[0], given[1], 0.25, 1), 0.75)
        order = turned(given[0], way)
        H = H[np.ix_(order, order)]
        v = rng.standard_normal(chain.size)
        np.testing.assert_allclose(chain.times(v), H @ v, rtol=0, atol=1e-12 * (1 + np.abs(H).max()))
        for most in (1, 3, 7):  # the same Krylov spaces in compiled loops
            plain, one = chain.nearer(v, most)
            quick, other = chain.nearer(v, most, node.path.layout.programs)
            assert quick == pytest.approx(plain, rel=1e-9, abs=1e-9)
            np.testing.assert_allclose(np.abs(one @ other), 1.0, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_of_a_krylov_space(kind):
    """Read by Python, where a place beyond the end of an array is an error, and one never written to is NaN."""
    rng = np.random.default_rng(9)
    for chain, *_ in chains(kind, 60):
        start, most = 3.0 * rng.standard_normal(chain.size), min(4, chain.size)
        rows, images, v = [], [], start
        for _ in range(most):
            rows.append(v / np.linalg.norm(v))
            v = chain.times(rows[-1])
            images.append(v)
            for _ in range(2):
                for row in rows:
                    v = v - (row @ v) * row
        V, H = np.full((2, most, chain.size), math.nan)
        given = []
        chain.nearer(start, most, SimpleNamespace(krylov=lambda *parts, given=given: given.append(parts) or 0))
        room = np.full(len(given[0][-1]), math.nan)
        assert PROGRAMS.krylov(chain.widths, chain.sides, chain.parts, start.copy(), V, H, room) == most
        np.testing.assert_allclose(V, rows, rtol=0, atol=1e-8)
        np.testing.assert_allclose(H, images, rtol=0, atol=1e-8 * (1 + np.abs(images).max()))
    many = chain.size + 1  # nothing is left after all directions, but rounding, and then a column of zeros
    V, H = np.zeros((2, many, chain.size))
    given = chain.widths, chain.sides, chain.parts, start, V, H, room
    with np.errstate(all="ignore"):
        assert PROGRAMS.krylov(*given[:3], np.full(chain.size, 1e200), *given[4:]) == 0
        assert PROGRAMS.krylov(*given[:3], np.full(chain.size, 1e-160), *given[4:]) == 0
        assert PROGRAMS.krylov(*given[:2], chain.parts * 1e160, start.copy(), *given[4:]) == 0  # its image overflows


def test_a_krylov_space_ends_where_it_is_invariant_or_not_finite():
    (chain, node, *_), *_ = chains("plain")
    programs = node.path.layout.programs
    for wrong in (np.zeros(chain.size), np.full(chain.size, math.inf), np.full(chain.size, 1e200)):
        with np.errstate(all="ignore"):
            assert math.isnan(chain.nearer(wrong, 5)[0]) == math.isnan(chain.nearer(wrong, 5, programs)[0])
    assert math.isnan(chain.nearer(np.zeros(chain.size), 5, programs)[0])
    count = programs.krylov(
        chain.widths,
        chain.sides,
        np.zeros_like(chain.parts),  # the matrix 0
        np.ones(chain.size),
        np.empty((5, chain.size)),
        np.empty((5, chain.size)),
        np.empty(10_000),
    )
    assert count == 1


@pytest.mark.parametrize("by", [BY_LAPACK, BY_LOOPS])
@pytest.mark.parametrize("kind", ["plain", "both"])
def test_an_elimination_that_runs_to_completion_proves_its_shift(kind, by):
    """Just around the least eigenvalue, where only the allowances for rounding decide."""
    rng = np.random.default_rng(4)
    proved, programs = 0, loops.programs() if by else None
    for chain, _, _, _ in chains(kind, most=12):
        form = exact_form(chain)
        H = rounded(form)
        least = float(np.linalg.eigvalsh(H)[0])
        for scale in (1e-16, 1e-15, 1e-14, 1e-12, 1e-9):
            shift = -least + scale * float(rng.standard_normal()) * (1 + abs(least))
            lacking = chain.lacking(shift, programs)
            if lacking is None:
                assert shift < -least + 1e-12 * (1 + abs(least))
                continue
            proved += 1
            assert 0 < lacking < 1e-10
            assert semidefinite(form + identity(chain.size) * (rational(shift) + rational(lacking)))
        assert chain.lacking(-least - 0.01, programs) is None
    assert proved >= 4  # about half of the shifts are on the right side; rounding decides some


def coarsened(monkeypatch, u=2.0**-20):
    """Make every allowance for rounding large enough to see."""
    for name, value in (("U", u), ("UP", UP), ("TINY", TINY)):
        monkeypatch.setattr(elimination, name, value)
    monkeypatch.setattr(rounding, "TINY", TINY)  # of Frobenius norms
    for module in (elimination, rounding):
        monkeypatch.setattr(module, "gamma", lambda count: count * u / (1 - count * u))
    return u, lambda count: count * u / (1 - count * u)


def mirrored(A, half):
    """A symmetric matrix from one half of A."""
    return half(A) + half(A).T - np.diag(np.diag(A))


def literal_lacking(chain, shift, u, g, up=UP, tiny=TINY, loops=False):
    """The allowances of docs/verified.md, section 5, with every matrix written out.

    LAPACK reads the lower half of R. Compiled loops read the upper halves of R and of Z.
    """
    A = np.eye(len(chain.weights[0].value)) if chain.left is None else chain.left.value
    B = np.eye(chain.weights[-1].value.shape[1]) if chain.right is None else chain.right.value
    length = lambda M: math.sqrt(float(np.sum(M * M))) * (1 + g(M.size + 4)) + tiny  # noqa: E731

    def lowered(S, lost):
        return S - ((lost + 2 * u * (lost + np.abs(np.diag(S)).max())) * up + tiny) * np.eye(len(S))

    Pi = lowered(chain.factor * np.kron(A, B), g(4) * chain.factor * length(A) * length(B))
    worst, n = 0.0, len(A)
    for j in range(len(chain.weights) - 1, 0, -1):
        P, W, N = chain.before[j], chain.weights[j], chain.pulled[j]
        rows, columns = W.value.shape
        left, right = np.kron(P.value, np.eye(columns)), np.kron(np.eye(n), W.value.T)
        R = mirrored(left.T @ Pi @ left, np.triu if loops else np.tril) + shift * np.eye(rows * columns)
        E = np.einsum("kp,ab->kbap", np.eye(rows), N.value).reshape(rows * columns, n * rows)
        Y, Z = left.T @ Pi @ right + E, right.T @ Pi @ right
        Z = mirrored(Z, np.triu) if loops else Z
        T = np.linalg.solve(np.linalg.cholesky(R), Y)
        high, wide, most = np.trace(R) / (1 - g(rows * columns + 1)), length(T), g(rows * columns + 2)
        products = 3 * g(2 * max(n, columns) + 2) * length(Pi)
        symmetry, sums = 2 * length(Pi - Pi.T), g(6) * length(Pi)
        inhomogeneous = g(6) * math.sqrt(rows) * N.length
        ratio = math.sqrt(high) / wide
        of_layer = (products + symmetry + sums) * P.length**2 + g(6) * math.sqrt(rows * columns) * shift
        of_layer += inhomogeneous * ratio + 2 * most * high
        of_state = (products + symmetry + sums) * W.length**2 + inhomogeneous / ratio + 2 * most * wide**2
        Pi, worst = lowered(Z - T.T @ T, of_state), max(worst, of_layer)
    side = len(Pi)
    R = Pi + shift * np.eye(side)
    np.linalg.cholesky(R)
    lost = length(Pi - Pi.T) + u * (length(Pi) + shift * side)
    lost += g(side + 1) * np.trace(R) / (1 - g(side + 1))
    return max(worst, lost) * up + tiny


@pytest.mark.parametrize("askew", [0.0, 1e-3])
def test_every_allowance_of_an_elimination(monkeypatch, askew):
    found = list(itertools.chain(chains("plain", 60), chains("both", 60)))
    u, g = coarsened(monkeypatch)
    rng = np.random.default_rng(5)
    last = 0
    for given, *_ in found:
        # A and B need not be symmetric to the last bit.
        left, right = (
            F if F is None else Matrix(F.value + askew * rng.standard_normal(F.value.shape), F.error, F.norm)
            for F in (given.left, given.right)
        )
        chain = HessianChain(given.weights, given.before, given.pulled, left, right, given.factor)
        for shift in (30.0, 300.0):
            expected = literal_lacking(chain, shift, u, g)
            assert chain.lacking(shift) == pytest.approx(expected, rel=1e-9, abs=0)
            last += len(chain.weights) == 2
    assert last


@pytest.mark.parametrize("askew", [0.0, 1e-3])
def test_every_allowance_of_an_elimination_in_loops(monkeypatch, askew):
    # What is not written yet is no number, so that nobody reads it.
    monkeypatch.setitem(ELIMINATION, "np", SimpleNamespace(empty=lambda count: np.full(count, math.nan)))
    rng, pairs = np.random.default_rng(5), 0
    for given, *_ in itertools.chain(
        chains("plain", 60), chains("both", 60), chains("left", 60), chains("right", 60)
    ):
        left, right = (
            F if F is None else Matrix(F.value + askew * rng.standard_normal(F.value.shape), F.error, F.norm)
            for F in (given.left, given.right)
        )
        chain = HessianChain(given.weights, given.before, given.pulled, left, right, given.factor)
        for shift in (300.0, 3000.0):
            expected = literal_lacking(chain, shift, coarse_unit, coarse_gamma, up, tiny, loops=True)
            found = PROGRAMS.lacking(chain.widths, chain.sides, chain.parts, chain.lengths, shift)
            assert found == pytest.approx(expected, rel=1e-9, abs=0)
            pairs += len(chain.weights) == 2
    assert pairs


@pytest.mark.parametrize("kind", KINDS)
def test_an_elimination_in_loops_is_that_by_lapack(kind):
    sizes = set()
    for chain, node, *_ in chains(kind, most=1000):
        programs, high = node.path.layout.programs, 2 * (1 + abs(node.least))
        for shift in (high, 10 * high):
            assert chain.lacking(shift, programs) == pytest.approx(chain.lacking(shift), rel=1e-3)
        sizes |= {W.value.size for W in chain.weights[1:]}
    assert min(sizes) < 4 and max(sizes) > 16  # fewer than a tile has rows, and several tiles


def test_loops_eliminate_small_layers_and_lapack_large_ones():
    (chain, *_), *_ = chains("plain")
    given = []
    programs = SimpleNamespace(lacking=lambda *parts: given.append(parts) or 7.0)
    assert chain.lacking(2.5, programs) == 7.0
    assert given[0][0] is chain.widths and given[0][1] is chain.sides and given[0][2] is chain.parts
    lengths = [[F.length for F in layer] for layer in zip(chain.weights, chain.before, chain.pulled, strict=True)]
    assert np.array_equal(given[0][3], lengths) and given[0][4] == 2.5
    assert chain.lacking(2.5, SimpleNamespace(lacking=lambda *parts: 0.0)) == 0.0
    assert chain.lacking(2.5, SimpleNamespace(lacking=lambda *parts: -1.0)) is None
    # The largest side is that of a layer, or of what is left of the product after one.
    for widths, largest in (
        ((1, 20, 20), 400),
        ((1, 21, 20), 420),
        ((20, 1, 20), 400),
        ((20, 1, 21), 420),
        ((1, 401, 1), 401),
        ((20, 21, 1), 420),
    ):
        W = [Matrix(np.ones(shape)) for shape in itertools.pairwise(widths)]
        n = widths[0]
        P, N = [Matrix(np.eye(n)), W[0]], [Matrix(np.ones((n, w))) for w in widths[1:]]
        chain = HessianChain(W, P, N, None, None, 1.0)
        given.clear()
        assert chain.largest == largest
        found = chain.lacking(1e3, programs)
        assert (found == 7.0) == (largest == 400) == bool(given) and found is not None


def test_a_pivot_of_an_elimination_in_loops_is_positive_and_finite():
    for pivot, complete in ((4.0, True), (0.0, False), (-1.0, False), (math.inf, False), (math.nan, False)):
        for place in (0, 1):
            R = np.eye(2)
            R[place, place] = pivot
            F, T = np.zeros(4), np.zeros(2)
            assert ELIMINATION["_factorised"](R.ravel(), np.array([6.0, 8.0]), F, T, 2, 1) == complete


def test_the_length_of_an_identity_and_of_a_matrix():
    parts = np.array([9.0, 1.0, 2.0, -2.0, 4.0])
    for given, length in ((True, 5.0), (False, math.sqrt(2))):
        expected = length * (1 + coarse_gamma(8)) + tiny
        assert ELIMINATION["_length"](parts, 1, 2, given) == pytest.approx(expected, rel=1e-12, abs=0)


def test_an_elimination_in_loops_that_fails_returns_minus_one(monkeypatch):
    chain = next(chain for chain, *_ in chains("plain", 60) if len(chain.weights) == 3)
    given = chain.widths, chain.sides, chain.parts, chain.lengths
    assert PROGRAMS.lacking(*given, 3000.0) > 0
    assert PROGRAMS.lacking(*given, -3000.0) == -1
    large = chain.parts.copy()
    large[0] = 1e200  # the square of the form leaves float64
    with np.errstate(all="ignore"):
        assert PROGRAMS.lacking(*given[:2], large, chain.lengths, 3000.0) == -1
        large = chain.parts.copy()
        large[-chain.pulled[-1].value.size :] = 1e200  # N of the last layer, so the square of T does
        assert PROGRAMS.lacking(*given[:2], large, chain.lengths, 3000.0) == -1
    factorised = ELIMINATION["_factorised"]
    for failing in range(3):  # two layers, and the first one
        calls = itertools.count()
        monkeypatch.setitem(
            ELIMINATION,
            "_factorised",
            lambda *a, calls=calls, failing=failing: factorised(*a) and next(calls) != failing,
        )
        assert PROGRAMS.lacking(*given, 3000.0) == -1


@pytest.mark.parametrize("by", [BY_LAPACK, BY_LOOPS])
def test_half_of_what_is_not_symmetric_is_paid_for(by):
    """The form of a matrix that is not symmetric is that of its symmetric half."""
    rng, programs = np.random.default_rng(6), loops.programs() if by else None
    for given, *_ in chains("left", most=12):
        left, right = (
            F and Matrix(F.value + 1e-3 * rng.standard_normal(F.value.shape)) for F in (given.left, given.right)
        )
        chain = HessianChain(given.weights, given.before, given.pulled, left, right, given.factor)
        form = exact_form(chain)
        H = rounded(form)
        least = float(np.linalg.eigvalsh(H)[0])
        for shift in -least + 1e-3 * rng.standard_normal(6):
            lacking = chain.lacking(float(shift), programs)
            if lacking is not None:
                assert semidefinite(form + identity(chain.size) * (rational(float(shift)) + rational(lacking)))


def literal_error(chain, u):
    """Differences of products, factor by factor."""

    def product(*factors):
        sizes = [F.norm + F.error for F in factors]
        whole = math.prod(sizes)
        return whole, sum(F.error * math.prod(sizes[:k] + sizes[k + 1 :]) for k, F in enumerate(factors))

    L, W, P, N = len(chain.weights), chain.weights, chain.before, chain.pulled
    ends = [product(P[i], *W[i + 1 :]) for i in range(L)]
    length, off = (math.sqrt(sum(end[k] ** 2 for end in ends)) for k in (0, 1))
    second = sum(product(P[i], *W[i + 1 : j], N[j])[1] ** 2 for i in range(L) for j in range(i + 1, L))
    sides = [F for F in (chain.left, chain.right) if F is not None]
    smooth, changed = product(*sides) if sides else (1.0, 0.0)
    kept = (changed + 4 * u * smooth) * length**2 + 2 * smooth * length * off
    return (chain.factor * kept + math.sqrt(2 * second)) * UP + TINY


def test_the_error_of_a_chain_is_the_sum_of_its_parts(monkeypatch):
    u, _ = coarsened(monkeypatch)
    for kind in KINDS:
        for chain, *_ in chains(kind, 1000, 0.5):
            rng = np.random.default_rng(7)
            for F in {id(F): F for F in (*chain.weights, *chain.before, *chain.pulled)}.values():
                F.error = float(rng.random())  # large enough to see
            assert chain.error == pytest.approx(literal_error(chain, u), rel=1e-9, abs=0)


def test_the_cheapest_way_is_taken():
    layer, state, after = 3 * 4, 2 * 3, 2 * 4
    expected = layer**3 / 6 + layer * state * (layer + state) / 2
    expected += 3 * (2 * after**2 + 2 * layer * after + state * after)  # rows of P and W are 3 long
    layer, state, after = 4 * 5, 2 * 4, 2 * 5
    expected += layer**3 / 6 + layer * state * (layer + state) / 2
    expected += 4 * (2 * after**2 + 2 * layer * after + state * after)
    assert chain_cost((2, 3, 4, 5)) == pytest.approx(expected + 6**3 / 6)
    assert dense_cost((2, 3, 4, 5)) == pytest.approx((6 + 12 + 20) ** 3 / 6)
    assert best_cost((2, 3, 4, 5)) == (dense_cost((2, 3, 4, 5)), "dense")
    assert best_cost((10,) * 7) == (chain_cost((10,) * 7) + 4e6, "last")
    assert best_cost((20, 9, 14, 12, 10))[1] == "first" and best_cost((10, 12, 14, 9, 20))[1] == "last"
    assert best_cost((20, 9, 14, 12, 10))[0] == chain_cost((10, 12, 14, 9, 20)) + 4e6
    assert best_cost((6, 8, 8, 5))[1] == "dense"  # in NumPy
    assert best_cost((6, 8, 8, 5), compiled=True) == (chain_cost((5, 8, 8, 6)) + 1.5e5, "first")
    assert laid(AffineGradient(np.zeros((6, 5))), [np.zeros(s) for s in ((6, 8), (8, 8), (8, 5))], 1.0).way == "first"
    assert best_cost((5,) * 5, compiled=True)[1] == "dense"


class Scripted:
    """A chain whose least eigenvalue is known, and whose quotients are given."""

    def __init__(self, least, quotients, size=4, error=0.25, rounding=0.125):
        self.least, self.quotients, self.size, self.error, self.rounding = (
            least,
            list(quotients),
            size,
            error,
            rounding,
        )
        self.starts, self.shifts = [], []

    def nearer(self, v, most, programs=None):
        self.starts.append((v, most, programs))
        return (self.quotients.pop(0) if len(self.quotients) > 1 else self.quotients[0]), np.full(self.size, 7.0)

    def lacking(self, shift, programs=None):
        self.shifts.append(shift)
        self.given = programs
        return self.rounding if -shift < self.least else None


def test_shifts_are_tried_until_one_is_close():
    u = 2.0**-53
    chain = Scripted(-1.001, [-1.0])
    low, v = least_of_chain(chain, np.zeros(0), 1e-3, "programs")
    assert chain.shifts == [1.005] and v[0] == 7.0 and chain.given == "programs"
    assert low == pytest.approx(-1.005 - 0.375 - 4 * u * 1.005, rel=2e-12, abs=0)
    drawn = np.random.default_rng(0).standard_normal(4)
    assert np.array_equal(chain.starts[0][0], drawn) and chain.starts[0][1:] == (14, "programs")
    vector = np.array([1.0, 2.0, 3.0, 4.0])  # the last eigenvector, and a part of a random vector
    chain = Scripted(-1.001, [-1.0])
    least_of_chain(chain, vector, 1e-3)
    np.testing.assert_allclose(chain.starts[0][0], vector + 0.03 / 2 * drawn, rtol=1e-15)
    # Too high at first: a longer search finds the eigenvalue.
    chain = Scripted(-2.001, [-1.0, -2.0])
    low, _ = least_of_chain(chain, vector, 1e-3)
    assert chain.shifts == [1.005, 2.01] and chain.starts[1][1] == 40 and chain.starts[1][0][0] == 7.0
    assert low == pytest.approx(-2.01 - 0.375, rel=1e-12)
    # The quotients stay too high: shifts go down, then halve what is left.
    chain = Scripted(-2.1, [-1.0])
    low, _ = least_of_chain(chain, vector, 1e-3)
    expected = [1.005, 1.005 + 0.5025]
    expected.append(expected[1] * 1.5)  # completes at −2.261
    np.testing.assert_allclose(chain.shifts[:3], expected, rtol=1e-12)
    assert chain.shifts[3] == pytest.approx((expected[1] + expected[2]) / 2) and chain.shifts[3] < 2.1
    assert chain.shifts[4] == pytest.approx((chain.shifts[2] + chain.shifts[3]) / 2)
    assert -2.1 - 0.375 - 1.6 * 0.005 <= low <= -2.1
    # The eigenvalue is 0: no shift at first, then what is enough.
    chain = Scripted(1e-9, [0.5])
    assert least_of_chain(chain, vector, 1e-3)[0] == pytest.approx(-0.375) and chain.shifts == [0.0]
    chain = Scripted(-1e-9, [0.5])
    least_of_chain(chain, vector, 1e-3)
    np.testing.assert_allclose(chain.shifts[:2], [0.0, 0.01], rtol=1e-12)  # 4 widths of 0.005 · 0.5
    # A quotient that is not known, an error that is not, and shifts that never suffice.
    for chain in (Scripted(-1.0, [math.nan]), Scripted(-1.0, [-1.0], error=math.inf), Scripted(-math.inf, [-1.0])):
        low, v = least_of_chain(chain, vector, 1e-3)
        assert low == -math.inf
        assert len(chain.shifts) in (0, 60) and (chain.shifts or v is vector)


def test_the_allowances_of_a_bound(monkeypatch):
    u, _ = coarsened(monkeypatch)
    low, _ = least_of_chain(Scripted(-1.001, [-1.0]), np.zeros(0), 1e-3)
    assert low == pytest.approx(-1.005 - (0.125 + 0.25 + 4 * u * 1.005) * UP, rel=1e-12, abs=0)


def test_the_rest_of_an_elimination(monkeypatch):
    u, g = coarsened(monkeypatch)
    Pi, shift = np.array([[1.0, 0.5], [0.25, 2.0]]), 0.125
    length = math.sqrt(1 + 0.25 + 0.0625 + 4) * (1 + g(8)) + TINY
    askew = math.sqrt(2 * 0.0625) * (1 + g(8)) + TINY
    expected = askew + u * (length + shift * 2) + g(3) * 3.25 / (1 - g(3))
    assert rest_of(Pi, shift) == pytest.approx(expected, rel=1e-12, abs=0)
    assert rest_of(-Pi, shift) is None and rest_of(np.diag([1.0, -0.5]), shift) is None


@pytest.mark.parametrize("call", [0, 1])
def test_a_factorisation_that_fails_ends_an_elimination(monkeypatch, call):
    """As soon as LAPACK says so, or an entry of its diagonal is not finite."""
    blas, lapack = elimination.libraries()
    chain = next(chain for chain, *_ in chains("plain", 20) if len(chain.weights) == 2 and chain.size > 2)

    def broken(breaks):
        calls = itertools.count()

        def dpotrf(*given, **options):
            factor, info = lapack.dpotrf(*given, **options)
            return breaks(factor, info) if next(calls) == call else (factor, info)

        monkeypatch.setattr(elimination, "libraries", lambda: (blas, SimpleNamespace(dpotrf=dpotrf)))
        return chain.lacking(100.0)

    def spoilt(value):
        def breaks(factor, info):
            factor[-1, -1] = value
            return factor, info

        return breaks

    assert broken(lambda factor, info: (factor, info)) is not None
    assert broken(lambda factor, info: (factor, 1)) is None
    assert broken(spoilt(math.nan)) is None and broken(spoilt(math.inf)) is None


def test_a_chain_has_the_parts_of_its_problem(monkeypatch):
    problem = SimpleNamespace(A=np.eye(2), B=np.eye(3), norms=(0.5, 0.75), errors=(0.125, 0.25))
    W = [Matrix(np.ones((2, 4))), Matrix(np.full((4, 5), 2.0)), Matrix(np.full((5, 3), 3.0))]
    P, S = [Matrix(np.ones((2, 4))), Matrix(np.ones((2, 5)))], [Matrix(np.ones((4, 3))), Matrix(np.ones((5, 3)))]
    Q, given = [Matrix(np.ones((rows, 3))) for rows in (2, 4, 5)], []
    for way in WAYS:
        chain = HessianChain.of(problem, 0.5, W, P, S, Q, way)
        sides = (chain.left, chain.right)[:: 1 if way == "last" else -1]
        assert [(F.norm, F.error) for F in sides] == [(0.5, 0.125), (0.75, 0.25)] and chain.factor == 0.5
        widths = [2, 4, 5, 3][:: 1 if way == "last" else -1]
        assert chain.widths.tolist() == widths and chain.size == 8 + 20 + 15
        assert [F.value.shape for F in chain.before] == [(widths[0], h) for h in widths[:-1]]
        assert [F.value.shape for F in chain.pulled] == [(widths[0], h) for h in widths[1:]]
        # Room for all states, two matrices as wide as the widest of them, and one layer.
        chain.nearer(np.ones(43), 100, SimpleNamespace(krylov=lambda *parts: given.append(parts) or 0))
        *_, V, H, room = given[-1]
        assert V.shape == H.shape == (43, 43)
        assert len(room) == widths[0] * sum(widths[:-1]) + 2 * widths[0] * max(widths[1:]) + 20
        assert np.array_equal(given[-1][3], np.ones(43))


def test_what_is_enough_is_told_per_unit_of_the_path(monkeypatch):
    weights, asked = [np.eye(2), np.eye(2)], []
    monkeypatch.setattr(elimination, "best_cost", lambda widths: (0.0, "last"))
    monkeypatch.setattr(
        elimination, "least_of_chain", lambda chain, v, enough: asked.append((v.size, enough)) or (-7.0, v)
    )
    path = Expansion(AffineGradient(np.eye(2)), weights, 1.0, 0.25, 1)
    assert least_curvature(path) == -7.0 and asked == [(0, 1e-5 / 0.25)]


@pytest.mark.parametrize("by", [BY_LAPACK, BY_LOOPS])
def test_nothing_is_proved_where_numbers_leave_float64(by):
    programs = loops.programs() if by else None
    for chain, *_ in chains("plain"):
        for wrong in (math.nan, math.inf, 1e160):
            parts = [Matrix(F.value.copy(), 0.0, F.norm) for F in chain.weights]
            parts[-1].value[0, 0] = wrong
            parts[-1].length = float(np.abs(parts[-1].value).sum())
            with np.errstate(all="ignore"):
                wrong_chain = HessianChain(parts, chain.before, chain.pulled, None, None, chain.factor)
                found = wrong_chain.lacking(1.0, programs)
            assert found is None or not found < math.inf


@pytest.mark.parametrize("fast", [True, False])
def test_a_flow_is_proved_by_elimination_as_by_whole_hessians(monkeypatch, fast):
    rng = np.random.default_rng(8)
    weights = [0.5 * np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(3)]
    sign = np.sign(np.linalg.det(weights[0] @ weights[1] @ weights[2]))
    f = lf.MatrixFactorization(np.diag([1.2, 1.0, 0.8 * sign]))
    if not fast:
        monkeypatch.setattr("linflow.verified.compiled.programs", lambda: None)
    dense = lf.enclose(f, weights, until=1e-4)
    assert dense.hessians > 5
    for way in WAYS:
        for place in ("linflow.verified.elimination.best_cost", "linflow.verified.compiled.best_cost"):
            monkeypatch.setattr(place, lambda widths, *, compiled=False, way=way: (0.0, way))
        found = lf.enclose(f, weights, until=1e-4)
        assert found.hessians == dense.hessians and found.exponent == pytest.approx(dense.exponent, rel=2 * CLOSE)
        np.testing.assert_allclose(found.time_bounds(1e-4), dense.time_bounds(1e-4), rtol=1e-9)
