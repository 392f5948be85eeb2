"""The bounds of verified ReLU runs written out, with their allowances, under a roundoff so coarse that all show.

Nothing here says that an allowance is enough: other tests do. Here each is exactly what docs/relu_verified.md says.
"""

import math

import numpy as np
import pytest

from linflow import relu
from linflow.relu.certificate import regression
from linflow.relu.pattern_descent import PatternDescent
from linflow.relu.pattern_path import Data, clear_side
from linflow.relu.pattern_tube import PIECES, PatternTube, extremes, inverse_square, pulled_norms
from linflow.relu.pieces import OFF, ON, SLIDING, Pattern
from linflow.verified.rounding import least_eigenvalue, spectral
from tests.relu.test_literal_enclosure import data_of, path_of
from tests.verified.test_literal_path import coarse, drawn, fro, g, near, tiny, u, up

__all__ = ["coarse"]


def activated(z, s):
    return np.where(z > 0, z, s * z)


def lengths_of(stack):
    return np.array([fro(A) for A in stack])


def product(a, b):
    """The convolution of two series."""
    found = np.zeros(len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            found[i + j] += x * y
    return found


def power(s, count):
    return s ** np.arange(count)


# --- the inputs ----------------------------------------------------------------------------------------------------


def test_the_sizes_of_inputs_and_the_pairs_that_stay_at_0(coarse):
    X = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
    net = relu.Network([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    data = Data(regression(X, np.ones((3, 2)), net), net)
    for i in range(3):
        assert data.lengths[i] == near(math.sqrt(sum(x * x for x in X[i])) * (1 + g(2 + 4)) + tiny)
    assert data.norm == spectral(X)
    assert data.void.tolist() == [[False, True, False], [True] * 3, [False, True, False]]
    layer = drawn(2, 3)
    np.testing.assert_allclose(
        data.preactivation_error(layer), g(2 + 1) * (np.abs(X) @ np.abs(layer)) * up + tiny, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("off", [(0.0, 0.0), (0.25, 0.0), (0.0, 0.125)])
def test_the_residual_and_the_loss_within_a_distance(coarse, off):
    data = data_of(3, m=2, s=0.25)
    first, V = drawn(3, 5, seed=1), drawn(5, 2, seed=2)
    z_error = g(3 + 1) * (np.abs(data.X) @ np.abs(first)) * up + tiny
    phi = activated(data.X @ first, 0.25)
    R = phi @ V - data.problem.Y
    moved = (data.norm * off[0] + fro(z_error) + u * fro(phi)) * up
    error = moved * (spectral(V) + off[1]) + spectral(phi) * off[1]
    error += g(5 + 1) * fro(np.abs(phi) @ np.abs(V)) + u * fro(R)
    error = error * up + tiny
    found = data.residual([first, V], off)
    np.testing.assert_allclose(found[0], R, rtol=1e-12, atol=1e-14)
    assert found[1] == near(error)

    # `away` is far above the size at radius 3
    for radius in (0.0, 1e-3, 3.0):
        features = fro(phi) * (1 + g(3 + 4)) + fro(z_error) + data.norm * off[0]
        moved = math.hypot(data.norm * (fro(V) + off[1]), features) * radius + 0.5 * data.norm * radius**2
        size = float(np.linalg.norm(R))
        away = (error + moved + g(R.size + 4) * size) * up
        low = max(0.0, size - away) * (1 - 2 * u)
        high = 0.5 * (size + away) ** 2 * (1 + 8 * u)
        assert data.loss([first, V], off, radius) == (near(0.5 * low * low * (1 - 4 * u)), near(high))


# --- the path ------------------------------------------------------------------------------------------------------


def written(path):
    """`Φ`, `R`, `RVᵀ` of a path: values, and lengths, norms and errors, as the proof has them."""
    data, p, s = path.data, path.order, path.pattern.slopes
    first, second = path.coefficients
    h, m = second.shape[1:]
    F = np.array([s * (data.X @ first[k]) for k in range(p)])
    R = np.array([sum(F[i] @ second[k - i] for i in range(k + 1)) for k in range(p)])
    R[0] -= data.problem.Y
    Q = np.array([sum(R[i] @ second[k - i].T for i in range(k + 1)) for k in range(p)])

    def norms(stack):
        found = lengths_of(stack)
        return np.array([spectral(stack[0]), *found[1:]])

    z_error = np.array([g(first.shape[1] + 1) * (np.abs(data.X) @ np.abs(U)) * up + tiny for U in first])
    f_error = lengths_of(z_error[:p]) * up + u * lengths_of(F) + tiny

    def times(A, a_error, B, inner):
        units = np.array([g(inner + k + 1) for k in range(p)])
        own = product(lengths_of(A), lengths_of(B))[:p] * units
        return (own + product(a_error, norms(B))[:p]) * up + tiny

    r_error = times(F, f_error, second[:p], h)
    r_error[0] += u * fro(R[0])
    q_error = times(R, r_error, second[:p], m)
    own = product(lengths_of(F), lengths_of(R))[:p] * np.array([g(len(data.X) + k + 1) for k in range(p)])
    turned = product(f_error, norms(R) + r_error)[:p] + product(norms(F), r_error)[:p]
    back = (own + turned) * up + tiny
    return (F, f_error), (R, r_error), (Q, q_error), back, norms


@pytest.mark.parametrize(("m", "slides"), [(1, ()), (2, ((0, 1), (2, 1)))])
def test_the_errors_of_a_path_and_its_defect_are_written_out(coarse, m, slides):
    path = path_of(data_of(3, m=m, s=0.25), 0.5, order=3, slides=slides)
    data, p, (first, second) = path.data, 3, path.coefficients
    (F, f_error), (R, r_error), (Q, q_error), back, norms = written(path)
    np.testing.assert_allclose(path.pulls, Q, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(path.pull_error, q_error, rtol=1e-12, atol=0)
    np.testing.assert_allclose(path.z, np.array([data.X @ U for U in first]), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(path.z_error, [data.preactivation_error(U) for U in first], rtol=1e-12, atol=0)

    pushes = path.pattern.slopes * Q
    whole = pushes + path.forces
    for k in range(p):
        np.testing.assert_allclose(first[k + 1], -0.5 / (k + 1) * data.X.T @ whole[k], rtol=1e-12, atol=1e-13)
        back_k = np.sum([F[i].T @ R[k - i] for i in range(k + 1)], axis=0)
        np.testing.assert_allclose(second[k + 1], -0.5 / (k + 1) * back_k, rtol=1e-12, atol=1e-13)
    rounding = np.array([g(4 + 2) * fro(np.abs(data.X).T @ np.abs(w)) for w in whole])
    first_error = data.norm * (q_error + u * lengths_of(pushes) + u * lengths_of(whole)) + rounding
    k = np.arange(1, p + 1)
    squares = (0.5 * first_error + 3 * u * k * lengths_of(first)[1:]) ** 2
    squares += (0.5 * back + 3 * u * k * lengths_of(second)[1:]) ** 2
    np.testing.assert_allclose(path.rounding, np.sqrt(squares) * up + tiny, rtol=1e-12, atol=0)

    def lowered(full, known):
        return np.concatenate([np.minimum(full[: len(known)], known), full[len(known) :]])

    phi = lowered(data.norm * norms(first) * up, (norms(F) + f_error) * up)
    residual = lowered(product(phi, norms(second)) * up, (lengths_of(R) + r_error) * up)
    pulled = lowered(product(residual, norms(second)) * up, (lengths_of(Q) + q_error) * up)
    outer = product(phi, residual) * up
    total = (data.norm * pulled) ** 2 * up
    total[: len(outer)] += outer**2
    defects = 0.5 * np.sqrt(total) * up
    defects[:p] = 0.0
    for found, expected in zip(
        (path.features, path.residual, path.pulled, path.defects), (phi, residual, pulled, defects), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


def test_forces_of_sliding_pairs_balance_all_others():
    """`X_S Xᵀ(a ∘ q + f) = 0` on the sliding samples, and the side of a pair is the sign of its pattern."""
    path = path_of(data_of(3, s=0.25), 0.5, order=3, slides=((0, 1), (2, 1)))
    X, S = path.data.X, [0, 2]
    for k in range(3):
        whole = (path.pattern.slopes * path.pulls[k])[:, 1] + path.forces[k][:, 1]
        assert np.abs(X[S] @ X.T @ whole).max() < 1e-13 * np.abs(whole).max()
        assert not np.delete(path.forces[k], 1, axis=1).any() and not path.forces[k][[1, 3], 1].any()
    assert clear_side(Pattern(np.array([[ON, OFF, SLIDING]]), 0.5)).tolist() == [[1.0, -1.0, 0.0]]


# --- the tube ------------------------------------------------------------------------------------------------------


def bernstein_of(series, low, high):
    """Bernstein coefficients on [low, high], by a change of the variable and the usual conversion."""
    n = len(series) - 1
    changed = [
        sum(series[k] * math.comb(k, j) * low ** (k - j) * (high - low) ** j for k in range(j, n + 1))
        for j in range(n + 1)
    ]
    return [sum(math.comb(i, j) / math.comb(n, j) * changed[j] for j in range(i + 1)) for i in range(n + 1)]


def bounds_on_pieces(series, error, s):
    """Bounds of a polynomial on the pieces of [0, s], with the rounding of 80 operations."""
    off = sum((e + g(80) * abs(c)) * s**k for k, (c, e) in enumerate(zip(series, error, strict=True))) * up
    all_of = [bernstein_of(series, s * i / PIECES, s * (i + 1) / PIECES) for i in range(PIECES)]
    return np.array([min(b) - off for b in all_of]), np.array([max(b) + off for b in all_of])


def test_polynomials_are_bounded_by_bernstein_coefficients(coarse):
    for s in (0.5, 1.5):
        series, error = drawn(4, 2, seed=5), np.abs(drawn(4, 2, seed=6))
        low, high = extremes(series, error, s)
        assert PIECES == 8
        for i in range(2):
            expected = bounds_on_pieces(series[:, i], error[:, i], s)
            np.testing.assert_allclose(low[:, i], expected[0], rtol=1e-11, atol=0)
            np.testing.assert_allclose(high[:, i], expected[1], rtol=1e-11, atol=0)


def test_pre_activations_are_bounded_by_their_terms_if_far_from_0_and_else_by_polynomials(coarse):
    path = path_of(data_of(3, N=6, h=7, s=0.25), 2.0**-4, order=3, slides=((0, 1), (2, 3), (5, 5)))
    path.data.void[4, 3] = True
    path.z[:, 0, 1], path.z[:, 2, 3] = [0.5, -0.25, 0.0, 0.0], [-0.5, 0.25, 0.0, 0.0]  # as if they were off 0
    s = 0.5
    tube, ways = PatternTube(path, s), set()
    for i in range(6):
        for j in range(7):
            z, error = path.z[:, i, j], path.z_error[:, i, j]
            reach = sum(abs(z[k]) * s**k for k in range(1, 4)) * up + sum(error[k] * s**k for k in range(4)) * up
            close = abs(z[0]) <= 1.5 * reach
            ways.add((bool(close), bool(abs(z[0]) <= 3 * reach)))
            low, high = (
                bounds_on_pieces(z, error, s) if close else (np.full(8, z[0] - reach), np.full(8, z[0] + reach))
            )
            side = path.pattern.sides[i, j]
            expected = low if side == ON else -high if side == OFF else -np.maximum(np.abs(low), np.abs(high))
            expected = np.full(8, math.inf) if (i, j) == (4, 3) else expected
            np.testing.assert_allclose(tube.low[:, i, j], expected, rtol=1e-11, atol=1e-14)
    assert ways == {(True, True), (False, True), (False, False)}


def tube_of(m=2, slides=(), s=0.5, order=3, slope=0.25, tau=2.0**-4, exempt=None, seed=3):
    path = path_of(data_of(seed, m=m, s=slope), tau, order=order, slides=slides)
    return PatternTube(path, s, exempt)


def test_the_sizes_on_a_tube(coarse):
    tube = tube_of()
    path, s, k = tube.path, 0.5, np.arange(4)
    for i, factor in enumerate(path.weights):
        assert tube.sizes[i] == near(float(np.sum(factor.norms * s**k)) * up)
    assert tube.features == near(float(np.sum(path.features * power(s, 4))) * up)
    r = path.residual
    assert tube.residual[0] == near(float(np.sum(r * power(s, len(r)))) * up)
    for j in range(5):
        rows = [math.sqrt(sum(x * x for x in path.coefficients[1][i, j])) * (1 + g(2 + 4)) for i in k]
        assert tube.rows[j] == near(sum(row * s**i for i, row in enumerate(rows)) * up + tiny)
    way = sum(math.hypot(path.lengths[0, i], path.lengths[1, i]) * s**i for i in (1, 2, 3))
    assert tube.way == near(way * up)
    pulled = path.pulled
    rest = sum(pulled[i] * s**i for i in range(3, len(pulled))) * up
    for i, j in ((0, 0), (3, 2)):
        low, high = bounds_on_pieces(path.pulls[:, i, j], path.pull_error, s)
        np.testing.assert_allclose(tube.pulls[0][:, i, j], low - rest, rtol=1e-11, atol=0)
        np.testing.assert_allclose(tube.pulls[1][:, i, j], high + rest, rtol=1e-11, atol=0)


@pytest.mark.parametrize("radius", [0.0, 0.25, 2.0])
def test_what_moves_within_a_radius_of_a_tube(coarse, radius):
    tube = tube_of()
    X, (U, V), phi = tube.data.norm, tube.sizes, tube.features
    assert U > 0
    moved = (math.hypot(X * V, phi) * radius + 0.5 * X * radius**2) * up
    assert tube.residual_moved(radius) == near(moved)
    pulls = [(moved * (row + radius) + tube.residual[0] * radius) * up for row in tube.rows]
    assert list(tube.pull_moved(radius)) == [near(p) for p in pulls]
    constants = tube.constants(radius)
    motion = math.hypot(X * (V + radius), phi + X * radius) * up
    slope = (tube.residual[0] + motion * radius) * up
    assert (constants.motion, constants.bend) == (near(motion), near(X))
    assert (constants.slope, constants.third) == (near(slope), near((motion**2 + X * slope) * up))


def test_pairs_near_0_and_those_that_block(coarse):
    tube = tube_of(slides=((0, 1),))
    tube.data.void[3, 4] = True
    for radius in (0.0, 0.01, 0.1, 1.0):
        near_0, moved = tube.near(radius), tube.pull_moved(radius)
        for i in range(4):
            for j in range(5):
                known = tube.low[:, i, j] > tube.data.lengths[i] * radius * up
                assert list(near_0[:, i, j]) == ([False] * 8 if (i, j) == (3, 4) else list(~known))
                concave = tube.pulls[0][:, i, j] < moved[j]
                blocks = bool((near_0[:, i, j] & concave).any()) and (i, j) != (0, 1)
                assert tube.blocking(radius)[i, j] == blocks
    assert tube.blocking(0.1).any()
    tube.exempt = tube.blocking(1.0)
    assert not tube.blocking(1.0).any()
    # at equality a sign is not known, and a pull of 0 is that of a convex kink
    tube.low[:] = tube.data.lengths[:, None] * 0.5 * up
    assert tube.near(0.5).sum() == 8 * 19 and not tube.near(0.4).any()
    tube.exempt = np.zeros((4, 5), dtype=bool)
    tube.__dict__["pulls"] = np.broadcast_to(tube.pull_moved(0.5), (8, 4, 5)), None
    assert not tube.blocking(0.5).any() and tube.blocking(0.6).sum() == 18


@pytest.mark.parametrize("slides", [(), ((1, 2),)])
@pytest.mark.parametrize("beyond", [2.0**-20, 4.0])
def test_the_correction_of_one_pair(coarse, slides, beyond):
    tube = tube_of(slides=slides)
    tube.low[:] = 1e9
    tube.low[:, 1, 2] = -beyond
    tube.path.z[1:, 1, 2] = [0.5, -0.25, 0.125]
    inverse = (1 + g(3 + 4)) / float(np.sum(tube.data.X[1] ** 2))
    z, error = tube.path.z[:, 1, 2], tube.path.z_error[:, 1, 2]
    varied = sum((abs(z[k]) + error[k]) * 0.5**k for k in (1, 2, 3)) * up
    varied = min(varied, 2 * 3 * beyond) if slides else 3 * beyond
    own = math.sqrt(beyond**2 * inverse) * up
    assert tube.adjusted == (near(own * up), near(math.sqrt(inverse * varied**2) * up))


def test_the_correction_of_several_pairs_and_of_those_that_it_might_push_across(coarse):
    """Sample 0 of neuron 0 is beyond 0, and sample 1 so close that the correction might push it there."""
    tube = tube_of()
    lengths = tube.data.lengths
    tube.low[:] = 1e9
    tube.low[3, 0, 0], tube.low[:, 2, 4], tube.low[:, 3, 4] = -0.125, -0.25, -0.5
    alone = 0.125 * math.sqrt(inverse_square(tube.data, np.array([0]))) * up
    both = 0.125 * math.sqrt(inverse_square(tube.data, np.array([0, 1]))) * up
    pair = math.sqrt((0.25**2 + 0.5**2) * inverse_square(tube.data, np.array([2, 3]))) * up
    varied = inverse_square(tube.data, np.array([2, 3])) * (3 * 0.75) ** 2
    for at, own, S in ((1 - 1e-9, both, [0, 1]), (1.0, both, [0, 1]), (1 + 1e-9, alone, [0])):
        tube.__dict__.pop("adjusted", None)
        tube.low[:, 1, 0] = lengths[1] * alone * up * at
        variation = varied + inverse_square(tube.data, np.array(S)) * (3 * 0.125) ** 2
        assert tube.adjusted == (near(math.hypot(own, pair) * up), near(math.sqrt(variation) * up))
    tube.data.void[0, 0] = True
    tube.__dict__.pop("adjusted")
    assert tube.adjusted == (near(pair * up), near(math.sqrt(varied) * up))


def test_a_correction_that_holds_ever_more_pairs_is_infinite(monkeypatch, coarse):
    """Each time one more pair is within the distance that u_j may be moved: three times are allowed."""
    data = data_of(3, N=6, d=6)
    monkeypatch.setattr("linflow.relu.pattern_tube.inverse_square", lambda data, S: 4.0 ** len(S))
    for steps, finite in ((3, True), (4, False)):
        tube = PatternTube(path_of(data, 2.0**-4, order=3), 0.5)
        tube.low[:] = 1e9
        tube.low[:, 0, 0] = -0.125
        for k in range(1, steps + 1):  # the correction is 0.125·2ᵏ·up with k pairs, 1 with the zeroth
            tube.low[:, k, 0] = data.lengths[k] * 0.125 * 2.0**k * up**2 * (1 - 1e-9)
        assert math.isfinite(tube.adjusted[0]) is finite


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [0.0, 0.125])
def test_how_far_forces_are_out_of_their_range(coarse, sign, size):
    tube = tube_of(slides=((1, 2), (3, 0)))
    path, s = tube.path, 0.5
    path.forces *= sign  # out of their range below or above
    tube.__dict__["adjusted"] = (size, 0.0)
    rest = sum(path.pulled[k] * s**k for k in range(3, len(path.pulled))) * up
    total, all_of = 0.0, tube.pull_moved(size)
    for i, j in ((1, 2), (3, 0)):
        f, q, moved = path.forces[:, i, j], path.pulls[:, i, j], all_of[j]
        error = path.pull_error + 2 * u * (np.abs(f) + np.abs(q))
        above = rest - bounds_on_pieces(q - f, error, s)[0]
        below = rest - bounds_on_pieces(f - 0.25 * q, error, s)[0]
        concave = np.maximum(0, rest + moved - bounds_on_pieces(q, error, s)[0])
        outside = np.maximum(0, np.maximum(above, below) + moved) + concave
        total += outside.max() * tube.data.lengths[i]
    assert tube.forced == near(total * path.tau * s * up) and total > 0
    assert tube_of().forced == 0.0


def test_forces_within_their_range_add_nothing(coarse):
    tube = tube_of(slides=((1, 2), (3, 0)))
    tube.__dict__["adjusted"] = (0.0, 0.0)
    for i, j in ((1, 2), (3, 0)):
        tube.path.pulls[:, i, j], tube.path.forces[:, i, j] = [1e5, 0.0, 0.0], [5e4, 0.0, 0.0]
    assert tube.forced == 0.0


def test_the_norms_at_the_ends_of_pieces_are_written_with_their_rounding(coarse):
    for slides in ((), ((1, 2),)):
        tube = tube_of(slides=slides)
        path, data, s = tube.path, tube.data, 0.5
        found, rows = tube.knots
        slopes = np.array(path.pattern.slopes)
        for i, j in slides:
            slopes[i, j] = 0.5 * (1 + 0.25)
        for at in range(9):
            x = s * at / 8
            first, second = (np.sum([c[k] * x**k for k in range(4)], axis=0) for c in path.coefficients)
            off = [sum(path.lengths[i, k] * g(4 * 3 + 2) * s**k for k in range(4)) * up + tiny for i in (0, 1)]
            R = (path.pattern.slopes * (data.X @ first)) @ second - data.problem.Y
            moved = data.norm * off[0] + (1 + 2 * u) * fro(data.preactivation_error(first))
            moved += 2 * u * tube.features * math.sqrt(5)
            sizes = (tube.features + moved) * fro(second) * math.sqrt(5)
            outer = tube.features * off[1] + moved * (tube.sizes[1] + off[1])
            error = (outer + g(5 + 2) * (sizes + fro(data.problem.Y))) * up + tiny
            for i in range(4):
                assert rows[at, i] == near((math.sqrt(sum(r * r for r in R[i])) * (1 + g(2 + 4)) + error) * up)
            rounding = g(4 + 2) * data.norm * math.sqrt(3) * fro(R)
            expected = (pulled_norms(data.X, slopes, R) + (data.norm * error + rounding) * up) * up
            np.testing.assert_allclose(found[at], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("radius", [0.0, 0.02, 3.0])
@pytest.mark.parametrize("exempt", [False, True])
def test_the_exponent_of_a_step_is_written_out(coarse, radius, exempt):
    mask = np.zeros((4, 5), dtype=bool)
    mask[2, 3] = exempt
    tube = tube_of(slides=((1, 2),), exempt=mask)
    (m, rows), path, data, width = tube.knots, tube.path, tube.data, 0.5 / 8
    k = np.arange(len(path.residual))
    second = float(np.sum((k * (k - 1) * path.residual)[2:] * power(0.5, len(k) - 2))) * up
    assert tube.residual[2] == near(second)
    bend, total, known = 0.125 * width**2 * second, 0.0, tube.near(radius)
    for piece in range(8):
        most = []
        for j in range(5):
            extra = 0.0
            for i in range(4):
                if known[piece, i, j] or mask[i, j]:
                    r = max(rows[piece, i], rows[piece + 1, i]) + bend
                    extra += (0.5 if (i, j) == (1, 2) else 1.0) * (1 - 0.25) * data.lengths[i] * r
            most.append(max(m[piece, j], m[piece + 1, j]) + extra)
        if not known[piece].any() and not exempt:
            total += 0.5 * (m[piece].max() + m[piece + 1].max())
        else:
            total += max(most)
        total += data.norm * (bend + tube.residual_moved(radius))
    assert tube.exponent(radius) == near(total * width * path.tau * up)


def test_a_step_on_which_all_signs_are_known_has_the_chord_of_its_norms(coarse):
    tube = tube_of()
    tube.low[:] = 1e9
    m, path = tube.knots[0], tube.path
    bend = 0.125 * (0.5 / 8) ** 2 * tube.residual[2]
    total = sum(0.5 * (m[i].max() + m[i + 1].max()) + tube.data.norm * bend for i in range(8))
    assert tube.exponent(0.0) == near(total * 0.5 / 8 * path.tau * up)


def test_norms_of_pulls_are_spectral_where_they_matter(coarse):
    X, slopes = drawn(4, 3), np.abs(drawn(4, 5, seed=1))
    R = drawn(4, 1, seed=2)
    for j, found in enumerate(pulled_norms(X, slopes, R)):
        assert found == near(float(np.linalg.norm(X.T @ (slopes[:, [j]] * R))) * (1 + g(3 + 4)))
    R, slopes[:, 2] = 2.0**-10 * drawn(4, 2, seed=2), 1e-3
    found = pulled_norms(X, slopes, R)
    products = [X.T @ (slopes[:, [j]] * R) for j in range(5)]
    sharp = [spectral(A) for A in products]
    assert found.max() == near(max(sharp))
    for j in range(5):
        assert found[j] in (near(sharp[j]), near(fro(products[j])))
    assert found[2] > 1.01 * sharp[2]  # it is too small to matter


def test_the_inverse_of_samples_is_written_with_its_rounding(coarse, monkeypatch):
    net = relu.Network(np.ones((3, 1)), np.ones((1, 1)))
    X = np.array([[0.0, 3.0, 4.0], [0.0, -3.0, -4.0], [2.0, 0.5, -1.0]])
    data = Data(regression(X, np.ones(3), net), net)
    assert inverse_square(data, np.array([0, 1])) == near((1 + g(3 + 4)) / 25)
    rows = np.array([[0.0, 3.0, 4.0], [2.0, 0.5, -1.0]])
    least = least_eigenvalue(rows @ rows.T, g(3) * float(np.sum(rows**2)) * up)
    assert least > 0 and inverse_square(data, np.array([0, 1, 2])) == near(1 / least)
    # A sample with one entry, and its opposite.
    one = Data(regression(np.array([[0.0, 2.0, 0.0], [0.0, -2.0, 0.0]]), np.ones(2), net), net)
    assert inverse_square(one, np.array([0, 1])) == near((1 + g(3 + 4)) / 4)
    for least, inverse in ((0.25, 4.0), (0.0, math.inf), (-1.0, math.inf)):
        monkeypatch.setattr("linflow.relu.pattern_tube.least_eigenvalue", lambda gram, error, least=least: least)
        assert inverse_square(data, np.array([0, 1, 2])) == inverse


# --- descent -------------------------------------------------------------------------------------------------------


def descent_of(eta=0.125, radius=0.0, **kind):
    march = PatternDescent(data_of(3, **({"m": 2, "s": 0.25} | kind)), eta)
    march.radius, march.taken = radius, [eta]
    march._arrive(march.weights)
    return march


@pytest.mark.parametrize("radius", [0.0, 0.0625])
def test_a_gradient_on_a_pattern_is_written_with_its_rounding(coarse, radius):
    march = descent_of(radius=radius)
    data, (first, V), (N, h, m) = march.data, march.weights, (4, 5, 2)
    z_error = g(3 + 1) * (np.abs(data.X) @ np.abs(first)) * up + tiny
    a = np.where(data.X @ first > 0, 1.0, 0.25)
    phi = a * (data.X @ first)
    phi_error = a * z_error + u * np.abs(phi)
    R = phi @ V - data.problem.Y
    R_error = g(h) * (np.abs(phi) @ np.abs(V)) + phi_error @ np.abs(V) + u * np.abs(R)
    pushes = a * (R @ V.T)
    pushes_error = a * (R_error @ np.abs(V).T + g(m + 1) * (np.abs(R) @ np.abs(V).T))
    first_error = np.abs(data.X).T @ (pushes_error + g(N) * np.abs(pushes))
    second_error = np.abs(phi).T @ (R_error + g(N) * np.abs(R)) + phi_error.T @ (np.abs(R) + R_error)
    sums = up * (1 + g(2 * (N + h + m) + 16))
    assert march.error == near(math.hypot(fro(first_error), fro(second_error)) * sums + tiny)
    assert march.residual_error == near(fro(R_error) * sums + tiny)
    for found, expected in zip(march.gradients, (data.X.T @ pushes, phi.T @ R), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    assert march.gap == data.loss(march.weights, (0.0, 0.0), radius)
    new, rounding = march.step(0.5)
    size = math.hypot(*(fro(G) for G in march.gradients))
    assert rounding == near(0.5 * (march.error + 2 * u * size))
    for W, G, found in zip(march.weights, march.gradients, new, strict=True):
        np.testing.assert_array_equal(found, W - 0.5 * G)


@pytest.mark.parametrize("eta", [2.0**-10, 2.0])
@pytest.mark.parametrize("radius", [0.0, 0.0625])
def test_the_growth_of_a_step_is_written_out(coarse, eta, radius):
    march = descent_of(radius=radius)
    data, V, N = march.data, march.weights[1], 4
    rounding = g(N + 2) * data.norm * math.sqrt(3) * fro(march.R)
    length = spectral(march.features) + fro(march.slopes * march.z_error) + u * fro(march.features)
    moved = math.hypot(data.norm * fro(V), length) * radius + 0.5 * data.norm * radius**2
    m = max(pulled_norms(data.X, march.slopes, march.R))
    m = (m + rounding + data.norm * (march.residual_error + moved)) * up

    first = march._first_layer()
    motion = math.sqrt(first + length**2) + data.norm * radius
    M = (motion**2 + m) * up
    assert (1 + eta * m > eta * M - 1) == (eta < 1)
    assert march.growth(eta) == near(max(1 + eta * m, eta * M - 1) * up)


@pytest.mark.parametrize("size", [1.0, 2.0**-4, 0.0])
@pytest.mark.parametrize("off", [False, True])
def test_the_curvature_of_the_first_layer_is_bounded_by_powers_of_a_matrix(coarse, size, off):
    march = descent_of()
    data, V, N = march.data, march.weights[1], 4
    V *= size
    if off:
        march.slopes[1] = 0.0
    kernel = (np.abs(data.X @ data.X.T) + g(3) * (np.abs(data.X) @ np.abs(data.X).T)) * up + tiny
    np.testing.assert_allclose(march.kernel, kernel, rtol=1e-12, atol=0)
    A = kernel * ((march.slopes * [sum(v * v for v in row) for row in V]) @ march.slopes.T)
    x = np.ones(N)
    for _ in range(3 if size else 0):
        x = A @ x
        assert (max(x) > 1) == (size == 1.0) and (min(x) == 0) == off
        x = x / max(x) + 1e-3
    assert march._first_layer() == near(max(A @ x / x) * (1 + g(N + 5 + 2 + 16)) * up + tiny)


def test_a_side_is_certain_if_it_is_further_from_0_than_the_radius_reaches(coarse):
    march = descent_of(0.5)
    reach = march.z_error + march.data.lengths[:, None] * 0.0625 * up
    march.radius, march.taken = 0.0625, [0.25, 0.5]
    for part, clear in ((1 - 1e-9, False), (1.0, False), (1 + 1e-9, True)):
        march.z = -reach * up * part
        march.z[0] *= -1
        march._decide()
        assert march.unclear.all() != clear and march.unclear.any() != clear
        sides = np.asarray(march.sides)
        assert (sides[0] == ON).all() and (sides[1:] == OFF).all()
        assert (march.slopes[0] == 1.0).all() and (march.slopes[1:] == 0.25).all()
    march.data.void[2, 3] = True
    march.z = np.zeros((4, 5))
    before = np.array(march.sides)
    march.flips.clear()
    march._decide()
    assert march.unclear.sum() == 19 and not march.unclear[2, 3] and (march.sides == OFF).all()
    assert {(f.sample, f.neuron, f.before, f.after, f.t) for f in march.flips} == {
        (i, j, "on", "off", 1.0) for i, j in zip(*np.nonzero(before == ON), strict=True)
    }
    assert not march.advance() and march.trouble.startswith("neuron 0 is so near 0 on sample 0")


def test_weights_that_are_all_0_are_not_followed(coarse):
    for U, V, rests in (
        ([0.0, 0.0], [0.0, 0.0], True),
        ([1.0, 0.0], [0.0, 0.0], False),
        ([0.0, 0.0], [1.0, 0.0], False),
    ):
        net = relu.Network([U, [0.0, 0.0]], np.array(V)[:, None])
        march = PatternDescent(Data(regression(np.eye(2), [1.0, 1.0], net), net), 0.125)
        march.unclear[:] = False
        assert (not march.advance() and march.trouble == "nothing moves: all weights are 0") is rests
