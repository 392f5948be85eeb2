"""Compiled paths, tubes and Hessians of verified flows: against exact rationals, and against their plain twins."""

import itertools
import math
from fractions import Fraction

import flint
import numpy as np
import pytest

import linflow as lf
from linflow.verified import compiled, log_norm
from linflow.verified import march as marching
from linflow.verified.compiled import CompiledNode, CompiledPath, CompiledTube, layout
from linflow.verified.hessian import hessian
from linflow.verified.least import CLOSE, least_near
from linflow.verified.log_norm import Node, Tube
from linflow.verified.march import EnclosureMarch
from linflow.verified.problem import AffineGradient, affine_gradient
from linflow.verified.rounding import U
from linflow.verified.taylor import Expansion
from tests.verified.test_curvature import derivatives, split
from tests.verified.test_rounding import hostile
from tests.verified_judge import covers, defect, exact, identity, rational, semidefinite, square

loops = pytest.importorskip("linflow.verified._frame")

WIDTHS = ((2, 3), (1, 1, 1), (3, 4, 2), (5, 4, 6), (2, 3, 2, 2), (1, 1, 1, 1, 1), (2, 2, 1, 3, 2), (4, 5, 3, 4, 2, 3))
KINDS = ("plain", "left", "right", "both", "exact")


def cases(kind, positive=True):
    """Yield problems of a kind with exact `A`, `B`, `R`, weights and an output scale."""
    rng = np.random.default_rng(KINDS.index(kind))
    for widths in WIDTHS:
        n, m = widths[0], widths[-1]
        weights = [rng.random(s) if positive else 0.5 * rng.standard_normal(s) for s in itertools.pairwise(widths)]
        if kind == "plain":
            yield AffineGradient(rng.standard_normal((n, m))), (None, None, None), weights, 0.7
            continue
        errors = (0.0, 0.0) if kind == "exact" else (1e-7, 2e-7)
        f, A, B, R = hostile(rng, (n, m), errors, 1e-7)
        left, right = kind != "right", kind != "left"
        one = (1.0, 0.0)
        norms, lengths, wrong = ((f.norms, f.lengths, f.errors)[i] for i in range(3))
        f = AffineGradient(
            f.V,
            f.A if left else None,
            f.B if right else None,
            (norms[0] if left else one[0], norms[1] if right else one[0]),
            (lengths[0] if left else one[0], lengths[1] if right else one[0]),
            (wrong[0] if left else one[1], wrong[1] if right else one[1]),
            f.residue,
        )
        yield f, (A if left else None, B if right else None, R), weights, 1.3


def laid(problem, weights, scale):
    found = layout(problem, weights, scale)
    assert found is not None
    return found


def root(x):
    return float(flint.arb(x).sqrt().mid())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positive", [True, False])
def test_every_coefficient_of_the_defect_is_within_its_bound(kind, positive):
    """The polynomial as computed, its defect in rational arithmetic: for any order of sums, with or without FMA."""
    below, beyond = [], []
    for problem, (A, B, R), weights, scale in cases(kind, positive):
        if sum(W.size for W in weights) > 40:
            continue
        path = CompiledPath(laid(problem, weights, scale), weights, 0.25, 4)
        assert all(np.array_equal(c[0], W) for c, W in zip(path.coefficients, weights, strict=True))
        given = [None if M is None else exact(M) for M in (A, B, R)]
        found = defect(path.coefficients, scale, 0.25, exact(problem.V), *given)
        sizes = [root(sum((square(layer[k]) for layer in found), flint.fmpq(0))) for k in range(len(found[0]))]
        assert np.all(np.array(sizes[:4]) <= path.rounding)
        assert len(path.defects) >= len(sizes)
        assert np.all(np.array(sizes[4:]) <= path.defects[4 : len(sizes)])
        below.append(max(np.array(sizes[:4]) / path.rounding))
        beyond.append(max(np.array(sizes[4:]) / path.defects[4 : len(sizes)]))
    assert max(below) > 1e-3 and max(beyond) > 0.1  # rounding is there, and norms of products are near


@pytest.mark.parametrize("kind", KINDS)
@np.errstate(over="ignore", invalid="ignore")
def test_paths_are_those_of_their_plain_twin(kind):
    """The same bounds as those which the coarse arithmetic judges, but for the rounding of the bounds themselves."""
    for problem, _, weights, scale in cases(kind, False):
        for order in (1, 4, None):
            plain, fast = (
                Expansion(problem, weights, scale, 2.0**-7, order),
                CompiledPath(laid(problem, weights, scale), weights, 2.0**-7, order),
            )
            p, L = plain.order, plain.depth
            for a, b in zip(plain.coefficients, fast.coefficients, strict=True):
                # An order of sums apart: each coefficient to some roundings of what it is made of.
                np.testing.assert_allclose(b, a, rtol=0, atol=1e-13 * (1 + np.abs(a).max()))
            close = {"rtol": 1e-9, "atol": 0}  # bounds of sums of p² terms, and norms of what differs by rounding
            np.testing.assert_allclose(fast.lengths, plain.lengths, **close)
            np.testing.assert_allclose(fast.rounding, plain.rounding, **close)
            np.testing.assert_allclose(fast.defects[: len(plain.defects)], plain.defects, **close)
            np.testing.assert_allclose(fast.distance, plain.distance, rtol=0, atol=1e-13)
            assert fast.norm() == pytest.approx(plain.norm(), rel=1e-9, abs=0)
            if plain.longest() < 10:  # powers of longer times overflow there
                assert fast.longest() == pytest.approx(plain.longest(), rel=1e-9, abs=0)
            assert fast.distance_error == pytest.approx(plain.distance_error, rel=1e-9, abs=0)
            for s in (0.1, 1.3):
                assert fast.added(s) == pytest.approx(plain.added(s), rel=1e-9, abs=0)
                assert fast.at(s)[1] == pytest.approx(plain.at(s)[1], rel=1e-9, abs=0)
                np.testing.assert_allclose(fast.gap(s), plain.gap(s), rtol=1e-9)
            factors = [
                *((0, l, plain.weights[l]) for l in range(L)),
                *((1, l, plain.prefixes[l]) for l in range(1, L + 1)),
                *((2, l, plain.suffixes[l]) for l in range(2, L + 1)),
                *((3, l, plain.pulled[l]) for l in range(L)),
            ]
            for of, l, factor in factors:
                row = 3 * loops.row_of(fast.layout.spec, of, l)
                for i, name in enumerate(("lengths", "norms", "errors")):
                    np.testing.assert_allclose(fast.bounds[row + i, :p], getattr(factor, name)[:p], **close)


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_a_path_are_within_their_jump(kind):
    for problem, _, weights, scale in cases(kind, False):
        if sum(W.size for W in weights) > 40:
            continue
        path = CompiledPath(laid(problem, weights, scale), weights, 0.25, 6)
        for s in (0.3, 1.7):
            y, jump = path.at(s)
            off = flint.fmpq(0)
            for W, series in zip(path.layout.layers(y), path.coefficients, strict=True):
                value = sum((exact(c) * rational(s) ** k for k, c in enumerate(series)), exact(0 * W))
                off += square(exact(W) - value)
            assert off <= rational(jump) ** 2


@pytest.mark.parametrize("kind", KINDS)
def test_tubes_and_products_are_those_of_their_plain_twin(kind):
    for problem, _, weights, scale in cases(kind, False):
        moved = [W * 1.001 for W in weights]
        one, two = (Expansion(problem, W, scale, 2.0**-7) for W in (weights, moved))
        of = laid(problem, weights, scale)
        fast_one, fast_two = (CompiledPath(of, W, 2.0**-7) for W in (weights, moved))
        nodes, fast = [Node(one), Node(two)], [CompiledNode(fast_one), CompiledNode(fast_two)]
        for a, b in zip(nodes, fast, strict=True):
            for x, y in zip(a.products, b.products, strict=True):
                np.testing.assert_allclose(y, x, rtol=1e-9, atol=1e-12)
        tube, fast_tube = Tube(one, 0.1), CompiledTube(fast[0], 0.1)
        # The largest eigenvalue of a matrix of norms is bounded to 10⁻⁶, from another vector.
        assert fast_tube.sag == pytest.approx(tube.sag, rel=2e-6, abs=0)
        for radius in (0.0, 1e-3):
            constants, found = tube.constants(radius), fast_tube.constants(radius)
            for name in ("motion", "bend", "slope", "third"):
                assert getattr(found, name) == pytest.approx(getattr(constants, name), rel=4e-6, abs=0)
        expected = log_norm.level_two(nodes[0], nodes[1], tube, 1e-9, tube.constants(1e-3))
        got = compiled.level_two(fast[0], fast[1], fast_tube, 1e-9, tube.constants(1e-3))
        assert got == pytest.approx(expected, rel=4e-6, abs=0)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7])
def test_the_largest_eigenvalue_of_a_matrix_of_norms_is_bounded(side):
    curvature = pytest.importorskip("linflow.verified._tube_loops")
    rng = np.random.default_rng(side)
    for trial in range(60):
        C = rng.random((side, side)) ** (1 + trial % 5)
        C = (C + C.T) * (1 - np.eye(side) * (trial % 2)) * (rng.random((side, side)) < 0.8 if trial % 3 == 0 else 1)
        C = np.minimum(C, C.T)
        bound, top = curvature._greatest(C), float(np.linalg.eigvalsh(C)[-1])
        assert top * (1 - 1e-13) <= bound <= top * (1 + 1e-3)  # two blocks of nearly the same eigenvalue
    assert curvature._greatest(np.zeros((side, side))) == 0
    assert curvature._greatest(np.full((side, side), math.nan)) == math.inf or side < 3


def test_bounds_are_compiled_without_liberties_whoever_calls_them():
    """A callee takes over what it does not say: the remainder of a sum is 0 where sums may be reordered."""
    tiles = pytest.importorskip("linflow.dynamics._tiled_products")

    def remainder(a, b):
        return (a + b) - a - b

    for strict, found in ((loops.proved, 2.0**-53), (tiles.jit, 0.0)):
        inner = strict(remainder)
        assert abs(tiles.jit(lambda a, b, inner=inner: inner(a, b))(1.0, 2.0**-53)) == found


def fractions(A):
    return np.array([[Fraction(float(x)) for x in row] for row in A], dtype=object)


def exact_hessian(weights, scale, V, A, B, R):
    """The Hessian in rational arithmetic."""
    W, V = [fractions(w) for w in weights], fractions(V)
    A, B, R = (None if M is None else fractions(M) for M in (A, B, R))
    size = sum(w.size for w in W)
    units = [split(row.astype(object), W) for row in np.eye(size, dtype=int)]
    H = np.zeros((size, size), dtype=object)
    for i, j in itertools.combinations_with_replacement(range(size), 2):
        H[i, j] = H[j, i] = derivatives(W, [units[i], units[j]], Fraction(scale), V, A, B, R)[1]
    return flint.fmpq_mat(size, size, [flint.fmpq(x.numerator, x.denominator) for x in map(Fraction, H.ravel())])


def symmetric(H):
    return np.tril(H) + np.tril(H, -1).T


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_a_hessian_covers_its_distance_to_the_exact_one(kind):
    worst = 0.0
    for problem, given, weights, scale in cases(kind, False):
        if sum(W.size for W in weights) > 14:
            continue
        node = CompiledNode(CompiledPath(laid(problem, weights, scale), weights, 0.25, 1))
        H, error = node.hessian()
        true = exact_hessian(weights, scale, problem.V, *given)
        off = exact(symmetric(H)) - true
        assert covers(error, off)
        worst = max(worst, root(square(off)) / error)
        low, lessened = node.least, symmetric(node.hessian(31 / 32)[0])
        assert semidefinite(true - identity(len(H)) * rational(low))
        assert low >= min(0.0, float(np.linalg.eigvalsh(lessened)[0])) * (1 + 2 * CLOSE) - 1e-4 - 4 * error
    assert worst > (1e-3 if kind in ("plain", "exact") else 0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_hessians_are_those_of_their_plain_twin(kind):
    for problem, _, weights, scale in cases(kind, False):
        plain, error = hessian(Expansion(problem, weights, scale, 0.25, 1), 0.5)
        H, bound = CompiledNode(CompiledPath(laid(problem, weights, scale), weights, 0.25, 1)).hessian(0.5)
        np.testing.assert_allclose(symmetric(H), plain, rtol=0, atol=1e-13 * (1 + np.abs(plain).max()))
        # Blocks on the diagonal are not averaged here, and the identity is not multiplied with.
        assert 0.3 * error <= bound <= 1.5 * error


def test_a_least_eigenvalue_is_proved_whatever_the_vector():
    rng = np.random.default_rng(5)
    for side, low in itertools.product((1, 2, 5, 30), (-3.0, -1e-6, 0.0, 0.5)):
        Q = np.linalg.qr(rng.standard_normal((side, side)))[0]
        values = np.sort(np.concatenate([[low], low + rng.random(side - 1) * rng.choice([1e-3, 3.0])]))
        H = Q @ np.diag(values) @ Q.T
        H = (H + H.T) / 2
        vectors = (np.zeros(0), Q[:, 0].copy(), Q[:, -1].copy(), np.full(side, 1e-200))
        for vector, compiled_too in itertools.product(vectors, (False, True)):
            if compiled_too:
                v = vector.copy() if np.abs(vector).sum() > 0.1 else np.full(side, side**-0.5)
                lower = np.tril(H).ravel()
                bound = compiled.programs().least(lower, side, 1e-9, v, 1e-7, np.empty(side**2))
            else:
                bound, v = least_near(H, 1e-9, vector, 1e-7)
            if side <= 5:
                assert semidefinite(exact(H) - identity(side) * rational(bound + 1e-9))
            assert bound <= values[0] + 1e-13
            # The part CLOSE of the eigenvalue or what is enough, and the margin of the theorem.
            assert bound >= min(0.0, values[0]) * (1 + 2 * CLOSE) - 4e-7 - 1e-9
            assert v.shape in {(side,), vector.shape}
    for wrong in (math.nan, math.inf):
        H = np.eye(3)
        H[2, 0] = wrong
        assert least_near(H, 0.0, np.zeros(0), 1e-7)[0] == -math.inf
        assert compiled.programs().least(H.ravel(), 3, 0.0, np.ones(3), 1e-7, np.empty(9)) == -math.inf


def test_an_upper_half_is_not_read():
    H = np.array([[2.0, 9e9], [-3.0, 1.0]])
    low = float(np.linalg.eigvalsh(H)[0])  # of the lower half
    assert low * (1 + 2 * CLOSE) <= least_near(H, 0.0, np.zeros(0), 1e-9)[0] <= low + 4 * U


@pytest.mark.parametrize("widths", [(2, 3, 2), (3, 3, 3, 3), (1, 1, 1, 1), (4, 2, 3)])
def test_enclosures_are_those_of_the_plain_march(widths):
    rng = np.random.default_rng(7)
    f = lf.MatrixFactorization(rng.standard_normal((widths[0], widths[-1])))
    weights = [0.8 * rng.standard_normal(s) for s in itertools.pairwise(widths)]
    problem = affine_gradient(f)
    for t in (0.05, 0.7):
        marches = [EnclosureMarch(problem, weights, 1.0, 1e-9, fast=fast) for fast in (False, True)]
        assert [march.layout is None for march in marches] == [True, False]
        ends = []
        for march in marches:
            while march.t < t:
                assert march.advance(t) is not None
            ends.append(march)
        assert ends[1].radius == pytest.approx(ends[0].radius, rel=0.1)
        assert ends[1].gap == pytest.approx(ends[0].gap, rel=1e-6)
        assert ends[1].exponent <= ends[0].exponent * 1.05 + 1e-3


def test_the_plain_march_takes_over_where_nothing_compiles(monkeypatch):
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 4, 2), rng=0)
    fast = lf.enclose(f, net, until=1e-3).time_bounds(1e-2)
    monkeypatch.setattr(compiled, "programs", lambda: None)
    march = EnclosureMarch(affine_gradient(f), [np.asarray(W) for W in net.weights], 1.0, fast=True)
    assert march.layout is None and isinstance(march.node, Node)
    low, high = lf.enclose(f, net, until=1e-3).time_bounds(1e-2)
    assert low <= fast[1] and fast[0] <= high


def test_only_arrays_of_float64_and_small_products_are_compiled():
    class Other(np.ndarray):
        pass

    W = [np.ones((2, 2)), np.ones((2, 2))]
    f = AffineGradient(np.ones((2, 2)))
    assert layout(f, W, 1.0) is not None
    assert layout(f, [W[0].view(Other), W[1]], 1.0) is None
    large = [np.ones((100, 100)), np.ones((100, 100))]
    assert layout(AffineGradient(np.ones((100, 100))), large, 1.0) is None
    march = EnclosureMarch(f, W, 1.0, arithmetic=marching.FLOAT64)
    assert march.layout is None


def test_series_are_cut_from_larger_pieces_of_memory(monkeypatch):
    """They do not overlap, and few small ones do not hold on to much."""
    of = laid(AffineGradient(np.eye(2)), [np.eye(2), np.eye(2)], 1.0)
    first = of.fresh(10)
    assert first.shape == (10,) and first.base.size == 640
    second = of.fresh(10)
    assert second.base is first.base and not np.shares_memory(first, second)
    third = of.fresh(621)  # more than is left
    assert third.base is not first.base and third.base.size == 64 * 621 and of.fresh(620).base is third.base
    monkeypatch.setattr(compiled, "LARGE", 100)
    assert of.fresh(64 * 621).base.size == 64 * 621 and of.fresh(50).base.size == 100
    paths = [CompiledPath(of, [np.eye(2) * k, np.eye(2)], 0.25) for k in (1.0, 2.0)]
    assert not np.shares_memory(paths[0].series, paths[1].series)
