"""Hessian, constants of a tube and logarithmic norm of a verified flow, against derivatives of another kind."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from linflow.verified.elimination import least_curvature
from linflow.verified.hessian import Matrix, between, cross, hessian
from linflow.verified.log_norm import Constants, Node, Tube, greatest, jet, level_three, level_two, times
from linflow.verified.problem import AffineGradient
from linflow.verified.rounding import U
from linflow.verified.taylor import Expansion
from tests.verified.test_rounding import hostile
from tests.verified_judge import (
    SIGNS,
    coarse,
    coarsened,
    exact,
    identity,
    length,
    rational,
    semidefinite,
    spectral_norm,
)

# --- derivatives by nilpotent numbers: an independent judge ------------------------------------------------------
# A quantity is a dict from sets of directions to its coefficient; a direction occurs at most once.


def lifted(weights, directions):
    found = []
    for l, W in enumerate(weights):
        terms = {frozenset(): W}
        for d, direction in enumerate(directions):
            terms[frozenset([d])] = direction[l]
        found.append(terms)
    return found


def multiplied(x, y):
    total = {}
    for a, u in x.items():
        for b, v in y.items():
            if not a & b:
                total[a | b] = total.get(a | b, 0) + u @ v
    return total


def derivatives(weights, directions, scale, V, A=None, B=None, R=None):
    """Return the product's and the loss' derivative along all directions at once."""
    layers = lifted(weights, directions)
    P = layers[0]
    for layer in layers[1:]:
        P = multiplied(P, layer)
    D = {key: scale * x for key, x in P.items()}
    D[frozenset()] = D[frozenset()] - V
    G = {key: x if A is None else A @ x for key, x in D.items()}
    G = {key: x if B is None else x @ B for key, x in G.items()}
    whole = frozenset(range(len(directions)))
    loss = sum((D[a] * G[whole - a]).sum() for a in D if whole - a in G) / 2
    if R is not None and whole in D:
        loss += (R * D[whole]).sum()
    return D.get(whole, 0 * V), loss, G[frozenset()] if R is None else G[frozenset()] + R


def split(vector, weights):
    sizes = np.cumsum([0, *(W.size for W in weights)])
    return [vector[a:b].reshape(W.shape) for a, b, W in zip(sizes[:-1], sizes[1:], weights, strict=True)]


def second_derivative(weights, scale, V, A=None, B=None, R=None):
    N = sum(W.size for W in weights)
    units = [split(row, weights) for row in np.eye(N)]
    H = np.zeros((N, N))
    for i, j in itertools.combinations_with_replacement(range(N), 2):
        H[i, j] = H[j, i] = derivatives(weights, [units[i], units[j]], scale, V, A, B, R)[1]
    return H


def drawn(widths, rng, positive=False):
    return [(rng.random if positive else rng.standard_normal)(s) for s in itertools.pairwise(widths)]


SHAPES = [(2, 3), (2, 1, 2), (1, 2, 2), (2, 2, 2, 1), (1, 1, 1, 1, 1), (1, 2, 1, 2)]


@pytest.mark.parametrize("widths", SHAPES)
def test_the_hessian_of_integers_is_exact(widths):
    rng = np.random.default_rng(0)
    weights = [rng.integers(-4, 5, s).astype(float) for s in itertools.pairwise(widths)]
    n, m = widths[0], widths[-1]
    V = rng.integers(-4, 5, (n, m)).astype(float)
    A, B = (rng.integers(-3, 4, (k, k)).astype(float) for k in (n, m))
    A, B = A @ A.T + np.eye(n), B @ B.T + np.eye(m)
    for scale, a, b in ((1.0, None, None), (2.0, A, B), (0.5, A, None), (1.0, None, B)):
        norms = tuple(1.0 if M is None else spectral_norm(M) * (1 + 1e-12) for M in (a, b))
        lengths = tuple(1.0 if M is None else np.linalg.norm(M) * (1 + 1e-12) for M in (a, b))
        path = Expansion(AffineGradient(V, a, b, norms, lengths), weights, scale, 0.5, 2)
        H, error = hessian(path)
        assert np.array_equal(H, second_derivative(weights, scale, V, a, b))
        product = scale * (np.linalg.multi_dot(weights) if len(weights) > 1 else weights[0])
        first = second_derivative(weights, scale, product, a, b)  # nothing else is left where the gradient is 0
        assert np.array_equal(hessian(path, 0.75)[0], H - first / 4)
        assert 0 <= error <= 500 * U * max(1.0, np.linalg.norm(H)) * (1 + np.linalg.norm(V)) * 50


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("kind", ["plain", "quadratic", "small B", "rough B"])
def test_the_error_of_a_hessian_holds_where_every_operation_errs_as_far_as_it_may(monkeypatch, sign, kind):
    rng = np.random.default_rng(1)
    worst = 0.0
    for widths, positive in itertools.product(SHAPES, (True, False)):
        n, m = widths[0], widths[-1]
        weights = drawn(widths, rng, positive)
        scale, A, B, R = 0.7, None, None, None
        with coarse(monkeypatch, sign):
            problem = AffineGradient(rng.random((n, m)))
            if kind != "plain":
                errors = {"small B": (3e-3, 1e-6), "rough B": (1e-9, 3e-3)}.get(kind, (1e-6, 1e-6))
                problem, A, B, R = hostile(rng, (n, m), errors, 1e-6)
                shrink = 1e-3 if kind == "small B" else 1.0
                B = B * shrink
                problem = AffineGradient(
                    problem.V,
                    coarsened(problem.A),
                    coarsened(problem.B * shrink),
                    (problem.norms[0], problem.norms[1] * shrink),
                    (problem.lengths[0], problem.lengths[1] * shrink),
                    (problem.errors[0], problem.errors[1] * shrink),
                    problem.residue,
                )
            path = Expansion(problem, [coarsened(W) for W in weights], scale, 0.5, 1)
            H, error = hessian(path)
        off = np.linalg.norm(np.asarray(H) - second_derivative(weights, scale, problem.V, A, B, R))
        assert off <= error
        worst = max(worst, off / error)
    assert worst > (0.2 if sign else 0.03)


@pytest.mark.parametrize("sign", SIGNS)
def test_products_within_a_hessian_cover_their_errors(monkeypatch, sign):
    rng = np.random.default_rng(2)
    worst = []
    for a, b in ((0.0, 0.0), (1e-2, 0.0), (0.0, 1e-2), (0.7, 0.7)):
        for A, B in (
            (np.ones((1, 8)), np.ones((8, 1))),
            (np.ones((3, 3)), np.ones((3, 3))),
            (rng.random((2, 3)), rng.random((3, 2))),
        ):
            with coarse(monkeypatch, sign):
                left, right = (Matrix(coarsened(M), e, spectral_norm(M)) for M, e in ((A, a), (B, b)))
                product = left @ right
                found = np.asarray(product.value)
            off = 0.0
            for side in (-1, 1):
                moved = []
                for M, e in ((A, a), (B, b)):
                    u, _, vt = np.linalg.svd(M)
                    moved.append(M + side * e * np.outer(u[:, 0], vt[0]))
                off = max(off, np.linalg.norm(found - moved[0] @ moved[1]))
            assert off <= product.error
            assert (
                spectral_norm(found) <= product.norm * (1 + 1e-12) and np.linalg.norm(found) <= product.length * 1.001
            )
            worst.append(off / product.error)
            turned = product.T
            assert (turned.error, turned.norm, turned.length) == (product.error, product.norm, product.length)
    assert max(worst) > 0.9


def test_the_least_curvature_is_a_lower_bound_with_31_of_32_parts_of_the_first_part():
    # The Hessian of dyadic weights is exact in float64; its least eigenvalue is judged by exact arithmetic.
    rng = np.random.default_rng(3)
    for widths in ((1, 1, 1), (2, 2, 1), (1, 1, 1, 1), (2, 1, 2)):
        weights = [rng.integers(-8, 9, s) / 4 for s in itertools.pairwise(widths)]
        V = rng.integers(-8, 9, (widths[0], widths[-1])) / 2
        product = np.linalg.multi_dot(weights)
        first = second_derivative(weights, 1.0, product)  # nothing else is left where the gradient is 0
        H = second_derivative(weights, 1.0, V) - first / 32
        low = least_curvature(Expansion(AffineGradient(V), weights, 1.0, 0.5, 1))
        assert semidefinite(exact(H) - identity(len(H)) * rational(low))
        assert low >= np.linalg.eigvalsh(H)[0] - 1e-11
    # x = y = 1/2, V = 1: the eigenvalues are (31/32)/2 − 3/4 and 3/4.
    low = least_curvature(Expansion(AffineGradient(np.ones((1, 1))), [np.full((1, 1), 0.5)] * 2, 1.0, 0.5, 1))
    assert -0.265625 - 1e-13 < low <= -0.265625


def test_the_hessian_of_a_saddle_is_the_target_alone():
    V = np.array([[3.0, 0.0], [0.0, 1.0]])
    path = Expansion(AffineGradient(V), [np.zeros((2, 2)), np.zeros((2, 2))], 1.0, 1.0)
    assert -3 - 1e-12 < least_curvature(path) <= -3


# --- the constants of a tube ---------------------------------------------------------------------------------------


def at(path, s):
    return [sum(np.asarray(c) * s**k for k, c in enumerate(series)) for series in path.coefficients]


def direction(rng, weights):
    v = rng.standard_normal(sum(W.size for W in weights))
    return split(v / np.linalg.norm(v), weights)


def stepped(weights, v, by):
    return [W + by * d for W, d in zip(weights, v, strict=True)]


@pytest.mark.parametrize("widths", [(2, 2, 2), (2, 3, 2, 2), (1, 2, 2, 1, 2)])
def test_the_constants_bound_all_derivatives_on_the_tube(widths):
    rng = np.random.default_rng(4)
    n, m = widths[0], widths[-1]
    for scale, radius, s in ((1.0, 0.0, 0.5), (0.6, 0.3, 1.0), (1.5, 0.05, 0.0)):
        problem, A, B, _ = hostile(rng, (n, m), (0.0, 0.0), 0.0)
        V = problem.V
        path = Expansion(problem, drawn(widths, rng), scale, 0.0625, 6)
        found = Tube(path, s).constants(radius)
        for _ in range(60):
            center = at(path, s * rng.random())
            point = stepped(center, direction(rng, center), radius)
            u, v, w = (direction(rng, center) for _ in range(3))
            assert np.linalg.norm(derivatives(point, [u], scale, V, A, B)[0]) <= found.motion
            assert np.linalg.norm(derivatives(point, [u, v], scale, V, A, B)[0]) <= found.bend
            gradient = derivatives(point, [u], scale, V, A, B)[2]
            assert scale * np.linalg.norm(gradient) <= found.slope
            assert abs(derivatives(point, [u, v, w], scale, V, A, B)[1]) <= found.third
            assert abs(derivatives(point, [u, u, u], scale, V, A, B)[1]) <= found.third


def chain(depth, value=1.0, target=1.0, scale=1.0, K=1.0):
    """Scalar layers of one value: all norms of products are attained together."""
    A = None if K == 1.0 else np.full((1, 1), K)
    f = AffineGradient(np.full((1, 1), target), A, None, (K, 1.0), (K, 1.0))
    return Expansion(f, [np.full((1, 1), value)] * depth, scale, 2.0**-12, 1)


@pytest.mark.parametrize(("depth", "scale", "K"), [(2, 1.0, 1.0), (3, 2.0, 3.0), (5, 0.5, 2.0), (12, 1.0, 1.0)])
def test_the_constants_are_attained_by_aligned_layers(depth, scale, K):
    L, x = depth, 1.25
    path = chain(L, x, scale * x**L, scale, K)  # ∇f = 0
    found = Tube(path, 0.0).constants(0.0)
    motion, bend = scale * x ** (L - 1) * math.sqrt(L), scale * x ** (L - 2) * (L - 1)
    assert found.motion == pytest.approx(motion, rel=1e-9) and found.motion >= motion * (1 - 1e-15)
    assert found.bend == pytest.approx(bend, rel=1e-9) and found.bend >= bend * (1 - 1e-15)
    assert found.slope < 1e-12 * scale * K * x**L
    v = [np.full((1, 1), 1 / math.sqrt(L))] * L
    weights = [np.full((1, 1), x)] * L
    V = np.full((1, 1), scale * x**L)
    third = derivatives(weights, [v, v, v], scale, V, np.full((1, 1), K))[1]
    assert third * (1 - 1e-12) <= found.third <= third * (1 + 1e-9)  # 3 K motion bend, attained
    # A far target: the other part of the third derivative.
    far = Tube(chain(L, x, 1e5, scale, K), 0.0).constants(0.0)
    V = np.full((1, 1), 1e5)
    slope = scale * K * abs(1e5 - scale * x**L)
    assert far.slope == pytest.approx(slope, rel=1e-9) and far.slope >= slope * (1 - 1e-15)
    third = abs(derivatives(weights, [v, v, v], scale, V, np.full((1, 1), K))[1])
    assert third <= far.third
    if L > 2:
        # All ones with a zero diagonal, L − 1 of them: λ_max = L − 2 for each of the L layers.
        twist = x ** (L - 3) * (L - 2) * math.sqrt(L)
        assert far.third == pytest.approx(3 * K * motion * bend + slope * twist, rel=1e-9)
        assert third >= 0.64 * far.third  # (L − 1)/L of it


def test_the_constants_grow_with_the_radius_as_the_layers_may():
    for radius in (0.01, 0.1):
        # All of the radius in the first layer: 1 + ρ there, and the derivative along the second.
        path = Expansion(
            AffineGradient(np.full((1, 1), 3.0)), [np.full((1, 1), 1.0), np.full((1, 1), 0.0)], 2.0, 1.0, 1
        )
        found = Tube(path, 0.0).constants(radius)
        assert 2 * (1 + radius) <= found.motion <= 2 * (1 + 2 * radius)
        # c∇f = 2(2xy − 3): along the second layer it grows by 4ρ; c K motion ρ covers it.
        assert 2 * (3 + 2 * radius) <= found.slope <= 2 * (3 + 2 * radius * (1 + 2 * radius)) * (1 + 1e-9)
        # Three layers: the norms before, after and between each grow with their own layers.
        path = Expansion(
            AffineGradient(np.full((1, 1), 3.0)), [np.full((1, 1), v) for v in (1.0, 0.0, 0.0)], 1.0, 1.0, 1
        )
        assert Tube(path, 0.0).constants(radius).bend >= 1 + radius  # D²W along layers 2, 3
        path = Expansion(
            AffineGradient(np.full((1, 1), 3.0)), [np.full((1, 1), v) for v in (0.0, 1.0, 0.0)], 1.0, 1.0, 1
        )
        assert Tube(path, 0.0).constants(radius).bend >= 1 + radius
        path = Expansion(
            AffineGradient(np.full((1, 1), 3.0)), [np.full((1, 1), v) for v in (0.0, 0.0, 1.0)], 1.0, 1.0, 1
        )
        assert Tube(path, 0.0).constants(radius).bend >= 1 + radius


def test_the_products_on_a_tube_are_bounded_and_attained_by_aligned_layers():
    path = chain(4, 1.5, 0.0)
    for radius in (0.0, 0.2):
        before, after, mids = Tube(path, 0.0).widened(radius)
        top = 1.5 + radius
        assert before == pytest.approx([1, top, top**2, top**3], rel=1e-9)
        assert after == pytest.approx([top**3, top**2, top, 1], rel=1e-9)
        assert {k: v for k, v in mids.items() if k[1] > k[0] + 1} == pytest.approx(
            {(0, 2): top, (1, 3): top, (0, 3): top**2}, rel=1e-9
        )
        assert all(v == pytest.approx(1.0) for (i, j), v in mids.items() if j == i + 1)


def test_products_of_a_moving_path_are_bounded_over_the_whole_step():
    rng = np.random.default_rng(5)
    for widths in ((2, 3, 2, 2), (1, 2, 2, 3, 1)):
        path = Expansion(
            AffineGradient(rng.standard_normal((widths[0], widths[-1]))), drawn(widths, rng), 1.0, 0.125, 8
        )
        tube = Tube(path, 1.0)
        L = path.depth
        for s in np.linspace(0, 1, 9):
            W = at(path, s)
            for l in range(L):
                P, S = np.eye(widths[0]), np.eye(widths[-1])
                for w in W[:l]:
                    P = P @ w
                for w in reversed(W[l + 1 :]):
                    S = w @ S
                assert spectral_norm(P) <= tube.before[l][0] and spectral_norm(S) <= tube.after[l][0]
            for (i, j), jets in tube.mids.items():
                M = np.eye(W[i].shape[1])
                for w in W[i + 1 : j]:
                    M = M @ w
                assert spectral_norm(M) <= jets[0] * (1 + 1e-14)


# --- jets and the sag of the Hessian -------------------------------------------------------------------------------


def test_jets_are_values_and_derivatives_rounded_up():
    a, b, s = np.array([1.0, 2.0, 3.0, 0.5]), np.array([2.0, 0.0, 1.0]), 0.75

    def exactly(p):
        p = np.polynomial.Polynomial(p)
        return [q(s) for q in (p, p.deriv(), p.deriv(2))]

    for found, true in ((jet(a, s), exactly(a)), (times(jet(a, s), jet(b, s)), exactly(np.convolve(a, b)))):
        assert all(y <= x <= y * (1 + 1e-11) for x, y in zip(found, true, strict=True))
    found = times(jet(a, s), jet(b, s), jet(b, s))
    assert found == pytest.approx(exactly(np.convolve(a, np.convolve(b, b))), rel=1e-11)
    assert jet(np.array([4.0]), 2.0) == pytest.approx((4.0, 0.0, 0.0))


@pytest.mark.parametrize("widths", [(1, 1), (1, 1, 1), (2, 2, 2), (1, 1, 1, 1), (2, 1, 2, 1)])
def test_the_hessian_sags_below_its_chord_by_no_more_than_is_bounded(widths):
    """By the largest eigenvalue of the chord less the Hessian, where the chord has 31/32 of the first part."""
    rng = np.random.default_rng(6)
    tightest = 0.0
    for scale, K in ((1.0, 1.0), (2.0, 3.0), (0.5, 1.0)):
        for trial in range(4):
            weights = drawn(widths, rng, positive=trial % 2 == 0)
            n, m = widths[0], widths[-1]
            A = K * np.eye(n)
            V = 5 * np.ones((n, m)) if trial % 2 == 0 else rng.standard_normal((n, m))
            f = AffineGradient(V, A, None, (K, 1.0), (K * math.sqrt(n), 1.0))
            s, points = (0.5, 1.0)[trial // 2], 16
            path = Expansion(f, weights, scale, 0.0625, 6)

            def hessians(x, V=V, A=A, scale=scale, path=path):
                W = at(path, x)
                product = scale * np.linalg.multi_dot(W) if len(W) > 1 else scale * W[0]
                first = second_derivative(W, scale, product, A)  # where the gradient vanishes, nothing else is left
                return second_derivative(W, scale, V, A), first

            chord = [H - first / 32 for H, first in (hessians(0.0), hessians(s))]
            below = [0.0]
            for k in range(1, points):
                x = k / points
                off = (1 - x) * chord[0] + x * chord[1] - hessians(x * s)[0]
                below.append(max(0.0, float(np.linalg.eigvalsh(off)[-1])))
            found, bound = sum(below) * s / points, Tube(path, s).sag  # the trapezium, from below for a concave arc
            assert found <= bound * (1 + 1e-4) + 1e-12
            tightest = max(tightest, found / bound if bound else 0)
    assert tightest > 0.2 or widths == (1, 1)


# --- the logarithmic norm ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7])
def test_the_largest_eigenvalue_of_a_nonnegative_matrix_is_bounded_and_tight(side):
    rng = np.random.default_rng(8)
    cases = [rng.random((side, side)), np.ones((side, side)), np.eye(side), np.zeros((side, side))]
    cases += [np.ones((side, side)) - np.eye(side), 1e-200 * rng.random((side, side)), 1e150 * np.ones((side, side))]
    path = np.diag(np.arange(1.0, side), 1)
    cases += [path, np.diag(10.0 ** -(np.arange(0.0, side) ** 2)), 10.0 ** rng.uniform(-12, 0, (side, side))]
    for C in [(M + M.T) / 2 for M in cases]:
        bound, size = greatest(C), float(C.max()) or 1.0
        assert semidefinite(identity(side) * (rational(bound) / rational(size)) - exact(C) * (1 / rational(size)))
        assert bound <= np.linalg.eigvalsh(C)[-1] * (1 + 1e-5) + 1e-7 * size
    assert not greatest(np.full((side, side), np.nan)) <= 1e300
    assert not greatest(np.full((side, side), np.inf)) <= 1e300


def node(least):
    return SimpleNamespace(least=least)


def test_level_three_is_attained_by_a_parabola():
    # −λ_min = m_a + (m_b − m_a)σ/s + ½H₂σ(s − σ): no sharper bound is possible from these data.
    for s, ends, H2 in ((1.0, (0.0, 0.0), 1.0), (0.5, (2.0, 0.5), 0.0), (2.0, (1.0, 3.0), 0.25)):
        x = np.linspace(0, s, 20001)
        m = ends[0] + (ends[1] - ends[0]) * x / s + 0.5 * H2 * x * (s - x)
        true = float(np.trapezoid(m, x))
        found = level_three(
            node(-ends[0]), node(-ends[1]), SimpleNamespace(s=s, sag=H2 * s**3 / 12), 0.0, Constants(0, 0, 0, 7.0)
        )
        assert true * (1 - 1e-8) <= found <= true * (1 + 1e-8)
    # Positive curvature at the ends counts as none; the jump moves the end by third · jump.
    tube = SimpleNamespace(s=1.0, sag=0.0)
    assert level_three(node(5.0), node(5.0), tube, 0.0, Constants(0, 0, 0, 0)) == 0
    assert level_three(node(5.0), node(-1.0), tube, 0.0, Constants(0, 0, 0, 0)) == pytest.approx(0.5)
    assert level_three(node(-1.0), node(5.0), tube, 0.0, Constants(0, 0, 0, 0)) == pytest.approx(0.5)
    assert level_three(node(0.0), node(0.0), tube, 0.5, Constants(0, 0, 0, 8.0)) == pytest.approx(2.0)


def stub(s, L, x_second, m_second, moved=(0.0, 0.0)):
    """A tube of which only pair (0, L − 1) matters."""
    pair = dict.fromkeys(itertools.combinations(range(L), 2), (0.0, 0.0, 0.0))
    pair[0, L - 1] = (0.0, 0.0, m_second)
    one, none = (1.0, 0.0, 0.0), np.zeros((L, L))
    shift = [none.copy(), none.copy()]
    for target, value in zip(shift, moved, strict=True):
        target[0, L - 1] = target[L - 1, 0] = value
    return SimpleNamespace(
        s=s,
        path=SimpleNamespace(depth=L),
        slope=(0.0, 0.0, x_second),
        before=[one] * L,
        after=[one] * L,
        mids=pair,
        moved=lambda jump, constants: tuple(shift),
    )


def products(L, x, m):
    X, M = np.zeros((L, L)), np.zeros((L, L))
    X[0, -1] = X[-1, 0] = x
    M[0, -1] = M[-1, 0] = m
    return SimpleNamespace(products=(X, M))


@pytest.mark.parametrize("L", [2, 3])
def test_level_two_is_attained_by_parabolas_and_by_norms_that_cross(L):
    cases = [
        ((1.0, 2.0), (1.0, 1.0), 0.5, 0.0),
        ((2.0, 2.0), (3.0, 1.0), 0.0, 0.0),
        ((1.0, 0.0), (0.0, 1.0), 0.0, 0.0),
    ]
    cases += [((1.0, 1.0), (2.0, 2.0), 0.0, 0.7), ((3.0, 1.0), (1.0, 2.0), 0.0, 0.0)]
    for s in (0.5, 2.0):
        t = np.linspace(0, s, 20001)
        y = t / s
        for x, m, x2, m2 in cases:
            X = x[0] + (x[1] - x[0]) * y + 0.5 * x2 * t * (s - t)
            M = m[0] + (m[1] - m[0]) * y + 0.5 * m2 * t * (s - t)
            true = float(np.trapezoid(X * M, t))
            found = level_two(products(L, x[0], m[0]), products(L, x[1], m[1]), stub(s, L, x2, m2), 0.0, None)
            assert true * (1 - 1e-7) <= found <= true * (1 + 1e-7)
        # Both bent: the product of the bends too.
        for x2, m2 in ((1.0, 1.0), (20.0, 30.0)):
            X, M = (1 + 0.5 * z * t * (s - t) for z in (x2, m2))
            true = float(np.trapezoid(X * M, t))
            found = level_two(products(L, 1, 1), products(L, 1, 1), stub(s, L, x2, m2), 0.0, None)
            assert true <= found <= 3 * true
    # Rising together costs nothing below the chord; the end may have moved.
    found = level_two(products(L, 0, 0), products(L, 1, 1), stub(1.0, L, 0, 0), 0.0, None)
    assert found == pytest.approx(0.5)
    found = level_two(products(L, 0, 0), products(L, 1, 1), stub(1.0, L, 0, 0, (1.0, 2.0)), 0.0, None)
    assert found == pytest.approx(0.5 * 2 * 3)


def test_norms_at_a_node_are_those_of_the_products():
    rng = np.random.default_rng(9)
    widths = (2, 3, 2, 2)
    f = AffineGradient(rng.standard_normal((2, 2)))
    W = drawn(widths, rng)
    path = Expansion(f, W, 0.8, 0.5, 2)
    x, m = Node(path).products
    G = 0.8 * (0.8 * W[0] @ W[1] @ W[2] - f.V)
    true = {(0, 1): G @ W[2].T, (0, 2): G, (1, 2): W[0].T @ G}
    for (i, j), X in true.items():
        assert spectral_norm(X) <= x[i, j] == x[j, i] <= spectral_norm(X) * 1.02
        assert length(exact(np.asarray(cross(path)[i, j].value) - X)) < 1e-13
    assert m[0, 1] == m[1, 2] == 1.0
    assert spectral_norm(W[1]) <= m[0, 2] <= spectral_norm(W[1]) * 1.02
    assert between(path)[0, 1] is None


def test_norms_move_with_a_jump_no_further_than_told():
    rng = np.random.default_rng(10)
    for widths in ((2, 2, 2), (1, 1, 1, 1), (2, 3, 2, 2)):
        n, m = widths[0], widths[-1]
        f = AffineGradient(rng.standard_normal((n, m)))
        path = Expansion(f, drawn(widths, rng), 0.8, 0.0625, 5)
        tube = Tube(path, 0.5)
        for jump in (1e-3, 0.1):
            dx, dm = tube.moved(jump, tube.constants(jump))
            W = at(path, 0.5)
            before = [Node(Expansion(f, W, 0.8, 1.0, 1)).products]
            for _ in range(40):
                V = stepped(W, direction(rng, W), jump)
                x, mid = Node(Expansion(f, V, 0.8, 1.0, 1)).products
                slack = 0.02  # the norms are bounds, to a few per cent of what moves little
                assert np.all(x - before[0][0] <= dx + slack * (dx + jump) + 1e-9)
                assert np.all(mid - before[0][1] <= dm + slack * (dm + jump) + 1e-9)
    # Attained by aligned layers: x y at 1, the first moved by the jump.
    path = Expansion(AffineGradient(np.full((1, 1), 9.0)), [np.ones((1, 1))] * 4, 1.0, 1.0, 1)
    tube = Tube(path, 0.0)
    dx, dm = tube.moved(0.01, tube.constants(0.01))
    assert dm[0, 2] == pytest.approx(0.01, rel=1e-6) and dm[0, 3] == pytest.approx(1.01**2 - 1, rel=1e-6)
    assert dm[0, 1] <= 1e-11
    # X_23 = P_2ᵀ c∇f: (8 + 2 · 0.01 …) 1.01² − 8 at least along the first two layers.
    assert dx[2, 3] >= 8 * (1.01**2 - 1)


def log_norm_by_products(weights, scale, V):
    L = len(weights)
    n, m = V.shape
    P, S = [np.eye(n)], [np.eye(m)]
    for W in weights:
        P.append(P[-1] @ W)
    for W in reversed(weights):
        S.append(W @ S[-1])
    S = S[::-1]
    G = scale * (scale * P[-1] - V)
    C = np.zeros((L, L))
    for i, j in itertools.combinations(range(L), 2):
        M = np.eye(weights[i].shape[1])
        for W in weights[i + 1 : j]:
            M = M @ W
        C[i, j] = C[j, i] = spectral_norm(P[i].T @ G @ S[j + 1].T) * spectral_norm(M)
    return float(np.linalg.eigvalsh(C)[-1])


@pytest.mark.parametrize("widths", [(2, 2, 2), (1, 1, 1, 1), (2, 3, 2, 2), (2, 2, 2, 2, 2)])
def test_both_levels_bound_the_integral_over_a_real_step(widths):
    rng = np.random.default_rng(11)
    below_chord, ratios_two, ratios_three = [], [], []
    for trial in range(6):
        n, m = widths[0], widths[-1]
        scale = (1.0, 0.7)[trial % 2]
        f = AffineGradient(3 * rng.standard_normal((n, m)))
        tau = 2.0**-3
        path = Expansion(f, drawn(widths, rng), scale, tau, 12)
        s = min(0.6 * path.longest(), 1.0)
        weights, jump = path.at(s)
        start, end, tube = Node(path), Node(Expansion(f, weights, scale, tau, 12)), Tube(path, s)
        constants = tube.constants(jump)
        two, three = (tau * level(start, end, tube, jump, constants) for level in (level_two, level_three))
        grid = np.linspace(0, s, 33)
        m_two = np.array([log_norm_by_products(at(path, x), scale, f.V) for x in grid])
        m_three = np.array(
            [max(0.0, -np.linalg.eigvalsh(second_derivative(at(path, x), scale, f.V))[0]) for x in grid[::4]]
        )
        # Sums from below, by minima of neighbours, cannot exceed the integral of either by much.
        low_two = tau * float(np.sum(np.minimum(m_two[1:], m_two[:-1])) * (grid[1] - grid[0]))
        low_three = tau * float(np.sum(np.minimum(m_three[1:], m_three[:-1])) * (grid[4] - grid[0]))
        simpson = [1, *[4, 2] * 3, 4, 1]
        mean_three = tau * float(np.dot(simpson, m_three) * (grid[4] - grid[0]) / 3)
        assert low_two <= two and low_three <= three
        assert mean_three <= three * (1 + 1e-6) + 1e-9
        assert float(np.max(m_three)) <= float(np.max(m_two)) * (1 + 1e-9)
        mean_two = tau * float(np.trapezoid(m_two, grid))
        assert mean_two <= two * (1 + 1e-6)
        ratios_two.append(two / mean_two)
        ratios_three.append((three + 1e-9) / (mean_three + 1e-9))
        chord = 0.5 * tau * s * (m_three[0] + m_three[-1])
        below_chord.append(chord < mean_three * (1 - 1e-9))
    assert min(ratios_two) < 1.2 and min(ratios_three) < 1.5
