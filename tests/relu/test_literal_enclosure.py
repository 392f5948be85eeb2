"""The parts of a verified run of a ReLU network against exact arithmetic and literal formulas."""

import itertools
import math

import mpmath
import numpy as np
import pytest

from linflow import relu
from linflow.relu import passage as passages
from linflow.relu import pattern_tube as tubes
from linflow.relu.certificate import regression
from linflow.relu.events import moved_on
from linflow.relu.passage import Crossing, Neuron, grown, own_error
from linflow.relu.pattern_path import Data, PatternPath
from linflow.relu.pattern_tube import PIECES, PatternTube, bernstein, extremes, inverse_square
from linflow.relu.pieces import OFF, ON, SLIDING, Pattern
from tests.reference import relu as reference


def data_of(seed, N=4, d=3, h=5, m=1, s=0.0):
    rng = np.random.default_rng(seed)
    net = relu.Network(rng.standard_normal((d, h)), rng.standard_normal((h, m)), None, s)
    return Data(regression(rng.standard_normal((N, d)), rng.standard_normal((N, m)), net), net)


def path_of(data, tau=0.125, order=None, slides=()):
    layers = [np.array(data.start.extended), np.array(data.start.V)]
    sides = np.where(data.X @ layers[0] > 0, ON, OFF)
    for i, j in slides:
        sides[i, j] = SLIDING
        layers[0][:, j] -= data.X[i] * (data.X[i] @ layers[0][:, j]) / (data.X[i] @ data.X[i])
    return PatternPath(data, Pattern(sides, data.slope), layers, tau, order)


def exact_defect(path):
    """The coefficients of `θ̃' + τ∇L` on the pattern, with the path's forces, exact for the computed coefficients."""
    data, mp = path.data, np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])
    X, Y, a = mp(data.X), mp(data.problem.Y), mp(path.pattern.slopes)
    us, vs = ([mp(c) for c in series] for series in path.coefficients)
    forces = [mp(f) for f in path.forces]

    def times(A, B, operation=lambda x, y: x.dot(y)):
        found = [None] * (len(A) + len(B) - 1)
        for i, x in enumerate(A):
            for j, y in enumerate(B):
                found[i + j] = operation(x, y) if found[i + j] is None else found[i + j] + operation(x, y)
        return found

    phi = [a * X.dot(u) for u in us]
    R = times(phi, vs)
    R[0] = R[0] - Y
    Q = times(R, [v.T for v in vs])
    first = [X.T.dot(a * q + (forces[k] if k < len(forces) else 0)) * path.tau for k, q in enumerate(Q)]
    second = [x * path.tau for x in times([f.T for f in phi], R)]
    for k in range(path.order):
        first[k] = first[k] + us[k + 1] * (k + 1)
        second[k] = second[k] + vs[k + 1] * (k + 1)
    return first, second


@pytest.mark.parametrize(
    ("m", "s", "slides"), [(1, 0.0, ()), (2, 0.3, ((0, 1),)), (1, 0.1, ((0, 1), (2, 1), (1, 0)))]
)
def test_the_defect_of_the_path_is_bounded_coefficient_by_coefficient(m, s, slides):
    path = path_of(data_of(3, m=m, s=s), order=6, slides=slides)
    with mpmath.workdps(60):
        parts = list(itertools.zip_longest(*exact_defect(path), fillvalue=None))
        sizes = [float(mpmath.sqrt(sum(x * x for p in part if p is not None for x in p.ravel()))) for part in parts]
    assert all(seen <= bound for seen, bound in zip(sizes[:6], path.rounding, strict=True))
    assert len(path.defects) >= len(sizes)
    ratios = [seen / bound for seen, bound in zip(sizes[6:], path.defects[6:], strict=False)]
    assert max(ratios) <= 1 and max(ratios) > 0.05
    # A slope that is not one of the pattern would be seen.
    scale = np.arange(1, 7) * path.lengths[:, 1:].max(axis=0)
    assert np.all(np.array(sizes[:6]) < 1e-13 * scale) and np.all(path.rounding < 1e-12 * scale)
    # The sliding pairs stay at 0.
    for i, j in slides:
        assert np.all(np.abs(path.z[1:, i, j]) < 1e-13 * path.lengths[0, 1:])


def test_the_rounding_of_every_product_is_allowed_for():
    """Each entry of a product of inner side q errs by at most γ; the bound grows with what it covers."""
    small, large = (path_of(data_of(1, N=4, d=3, h=h), order=4) for h in (3, 60))
    assert np.all(large.rounding > small.rounding)
    for path in (small, large):
        u, size = 2.0**-53, np.linalg.norm(path.data.problem.Y)
        assert path.rounding[0] >= path.tau * 2 * u * size * np.linalg.norm(path.coefficients[1][0]) * 0.1
        layers = [series[0] for series in path.coefficients]
        R, error = path.data.residual(layers, (0.0, 0.0))
        with mpmath.workdps(50):
            X, U, V, Y = (mpmath.matrix(x.tolist()) for x in (path.data.X, *layers, path.data.problem.Y))
            Z = X * U
            phi = Z.apply(lambda x: max(x, 0))
            off = float(mpmath.mnorm(phi * V - Y - mpmath.matrix(R.tolist()), "f"))
        assert off <= error <= 1e-11
        moved = path.data.residual(layers, (1e-3, 1e-3))[1]
        rng = np.random.default_rng(0)
        seen = 0.0
        for _ in range(50):
            dU, dV = rng.standard_normal(layers[0].shape), rng.standard_normal(layers[1].shape)
            changed = relu.Network(
                layers[0] + 1e-3 * dU / np.linalg.norm(dU), layers[1] + 1e-3 * dV / np.linalg.norm(dV), None, 0.0
            )
            seen = max(seen, float(np.linalg.norm(changed.outputs(path.data.X) - path.data.problem.Y - R)))
        assert seen <= moved < 30 * seen


def test_bernstein_coefficients_bound_polynomials_on_every_piece():
    rng = np.random.default_rng(0)
    assert np.all(bernstein(5) >= 0) and np.all(bernstein(5) <= 1)
    assert np.allclose(bernstein(3).sum(axis=2)[:, :, None] * 0 + bernstein(3)[:, :, :1], 1)  # of the constant
    for s in (0.3, 1.0, 2.5):
        series = rng.standard_normal((6, 20)) * s ** -np.arange(6)[:, None]
        low, high = extremes(series, np.zeros(6)[:, None], s)
        for piece in range(PIECES):
            x = s * (piece + np.linspace(0, 1, 200)) / PIECES
            values = (x[:, None] ** np.arange(6)) @ series
            assert np.all(low[piece] <= values.min(axis=0)) and np.all(values.max(axis=0) <= high[piece])
            assert np.all(high[piece] - low[piece] <= 1.3 * (values.max(axis=0) - values.min(axis=0)) + 0.1)
        wide = extremes(series, np.full((6, 1), 1e-3), s)
        assert np.allclose(low - wide[0], 1e-3 * np.sum(s ** np.arange(6)), rtol=1e-9)
        assert np.allclose(wide[1] - high, 1e-3 * np.sum(s ** np.arange(6)), rtol=1e-9)
    # Sharp at a simple root at the end, and at a double one at the start.
    low, _ = extremes(np.array([1.0, -1.0])[:, None], np.zeros((2, 1)), 1.0)
    assert -1e-13 < low[-1, 0] <= 0
    low, _ = extremes(np.array([0.0, 0.0, 1.0])[:, None], np.zeros((3, 1)), 1.0)
    assert -1e-13 < low[0, 0] <= 0
    # The rounding of the coefficients is allowed for.
    assert extremes(np.array([[1.0]]), np.zeros((1, 1)), 1.0)[0][0, 0] < 1.0


def test_what_is_said_of_the_tube_holds_at_its_weights():
    rng = np.random.default_rng(5)
    for seed, m, s in ((0, 1, 0.0), (1, 2, 0.2)):
        data = data_of(seed, m=m, s=s)
        path = path_of(data, 0.02)
        tube = PatternTube(path, min(0.5, path.longest()))
        radius, X, Y = 0.05, data.X, data.problem.Y
        constants, near = tube.constants(radius), tube.near(radius)
        moved, pulls = tube.residual_moved(radius), tube.pull_moved(radius)
        seen = np.zeros(3)
        for _ in range(200):
            piece = int(rng.integers(PIECES))
            x = tube.s * (piece + rng.random()) / PIECES
            U, V = ((x ** np.arange(21)) @ c.reshape(21, -1) for c in path.coefficients)
            U, V = U.reshape(data.start.extended.shape), V.reshape(data.start.V.shape)
            e = [rng.standard_normal(U.shape), rng.standard_normal(V.shape)]
            size = radius / math.hypot(*(float(np.linalg.norm(y)) for y in e))
            U2, V2 = U + size * e[0], V + size * e[1]
            R, R2 = (reference.outputs(X, u, v, s) - Y for u, v in ((U, V), (U2, V2)))
            seen[0] = max(seen[0], np.linalg.norm(R2 - R) / moved)
            seen[1] = max(seen[1], np.max(np.abs(R2 @ V2.T - R @ V.T) / pulls))
            seen[2] = max(seen[2], np.linalg.norm(R2) / constants.slope)
            low, high = tube.pulls
            assert np.all(low[piece] <= R @ V.T) and np.all(high[piece] >= R @ V.T)
            flipped = (X @ U2 > 0) != (path.pattern.sides == ON)
            assert not (flipped & ~near[piece]).any()
            assert np.all(tube.low[piece] <= tube.side * (X @ U) + 1e-12)
            assert np.linalg.norm(V, axis=1) == pytest.approx(np.minimum(np.linalg.norm(V, axis=1), tube.rows))
            a = np.where(X @ U2 > 0, 1.0, s)
            bend = max(np.linalg.norm(X.T @ (a[:, [j]] * R2), 2) for j in range(a.shape[1]))
            assert bend * tube.s * path.tau <= tube.exponent(radius) * 1.5
            J = np.linalg.norm(reference.H(X, U2, V2, a, s), 2)
            assert constants.motion**2 >= J and J + bend <= constants.third
        assert np.all(seen <= 1) and seen[0] > 0.1 and seen[2] > 0.5


def test_the_exponent_is_the_integral_of_the_largest_concave_part():
    for seed, m in ((0, 1), (2, 2)):
        data = data_of(seed, m=m, s=0.1)
        path = path_of(data, 0.02)
        tube = PatternTube(path, min(0.5, path.longest()))
        a, total, parts = path.pattern.slopes, 0.0, 400
        for k in range(parts):
            x = tube.s * (k + 0.5) / parts
            U, V = (((x ** np.arange(21)) @ c.reshape(21, -1)).reshape(c.shape[1:]) for c in path.coefficients)
            R = (a * (data.X @ U)) @ V - data.problem.Y
            total += max(np.linalg.norm(data.X.T @ (a[:, [j]] * R), 2) for j in range(a.shape[1]))
        total *= tube.s * path.tau / parts
        assert total <= tube.exponent(0.0) * (1 + 1e-9) <= 1.2 * total + 1e-12
        # A pair without a known sign adds what its slope may change.
        every = tube.near(1e9)
        assert every[:, :, :].all()
        rows = np.linalg.norm(data.X, axis=1)
        R = np.linalg.norm(
            (a * (data.X @ path.coefficients[0][0])) @ path.coefficients[1][0] - data.problem.Y, axis=1
        )
        exempt = PatternTube(path, tube.s, np.ones(a.shape, dtype=bool))
        more = (exempt.exponent(0.0) - tube.exponent(0.0)) / (tube.s * path.tau)
        assert more >= 0.5 * (1 - data.slope) * float(rows @ R)


@pytest.mark.parametrize("slides", [(), ((1, 2),)])
@pytest.mark.parametrize("radius", [0.0, 1e-2])
def test_the_exponent_with_given_knots(slides, radius):
    """Section 4: chords where signs are known, else ends and `(1 − s)‖x_i‖‖r_i‖`, half of it for a sliding pair."""
    data, rng = data_of(2, m=2, s=0.2), np.random.default_rng(0)
    tube = PatternTube(path_of(data, 0.02, slides=slides), 0.25)
    m, rows = rng.uniform(1, 2, (PIECES + 1, 5)), rng.uniform(0.1, 0.2, (PIECES + 1, 4))
    tube.__dict__["knots"], tube.residual = (m, rows), np.array([1.0, 1.0, 500.0])
    tube.low[:3] = np.inf  # all signs are known on the first three pieces
    width, lengths, total = 0.25 / PIECES, np.linalg.norm(data.X, axis=1), 0.0
    bend = width**2 / 8 * 500.0  # above a chord, of a function whose second derivative is at most 500
    for p in range(PIECES):
        unknown = tube.low[p] <= lengths[:, None] * radius
        share = np.where(tube.sliding, 0.5, 1.0) * 0.8 * unknown
        r = np.maximum(rows[p], rows[p + 1]) + bend
        ends = np.maximum(m[p], m[p + 1]) + (share * (lengths * r)[:, None]).sum(axis=0)
        known = 0.5 * (m[p].max() + m[p + 1].max())
        total += ends.max() if unknown.any() else known
        total += data.norm * (bend + tube.residual_moved(radius))
    assert tube.exponent(radius) == pytest.approx(total * width * 0.02, rel=1e-11, abs=0)  # UP, several times


def test_a_path_beyond_0_is_put_onto_its_side_by_the_shortest_change():
    data = data_of(0)
    path = path_of(data, 0.02)
    tube = PatternTube(path, 0.25)
    assert tube.adjusted == (0.0, 0.0) and tube.forced == 0.0
    sides = path.pattern.sides.copy()
    sides[0, 0] *= -1  # the wrong side: the path is beyond 0 by |z|
    wrong = PatternTube(PatternPath(data, Pattern(sides, 0.0), [c[0] for c in path.coefficients], 0.02), 0.25)
    size, variation = wrong.adjusted
    beyond = -wrong.low[:, 0, 0].min()
    assert beyond > 0 and size >= beyond / np.linalg.norm(data.X[0]) * (1 - 1e-12)
    assert variation >= 20 * size * (1 - 1e-12)
    assert own_error(wrong) >= wrong.path.added(0.25) + 2 * size + variation


@pytest.mark.parametrize("beyond", [1e-22, 1e-4])
@pytest.mark.parametrize("slides", [(), ((1, 2),)])
def test_how_much_the_correction_can_vary(beyond, slides):
    """`p ε` for a pair on one side, `2p ε` or the variation of its z for one that slides, over the length of x."""
    data = data_of(0)
    path = path_of(data, 0.02, slides=slides)
    tube, p = PatternTube(path, 0.25), path.order
    tube.low = np.full(tube.low.shape, 1e3)
    tube.low[:, 1, 2] = -beyond
    terms = np.abs(path.z[1:, 1, 2]) + path.z_error[1:, 1, 2]
    varied = float(np.sum(terms * 0.25 ** np.arange(1, len(path.z))))
    expected = min(varied, 2 * p * beyond) if slides else p * beyond
    length = np.linalg.norm(data.X[1])
    size, variation = tube.adjusted
    assert size == pytest.approx(beyond / length, rel=1e-9, abs=0)
    assert variation == pytest.approx(expected / length, rel=1e-9, abs=0)
    assert (varied < 2 * p * beyond) == (beyond == 1e-4) or not slides


@pytest.mark.parametrize("radius", [1e-3, 2.0])
def test_how_far_residual_and_pulls_move_within_a_radius(radius):
    data = data_of(2, m=2, s=0.2)
    tube = PatternTube(path_of(data, 0.02), 0.25)
    norm, (features, second) = data.norm, (tube.features, tube.sizes[1])
    moved = math.sqrt((norm * second) ** 2 + features**2) * radius + norm * radius**2 / 2
    assert tube.residual_moved(radius) == pytest.approx(moved, rel=1e-11, abs=0)
    expected = moved * (tube.rows + radius) + tube.residual[0] * radius
    np.testing.assert_allclose(tube.pull_moved(radius), expected, rtol=1e-11, atol=0)


def test_the_inverse_of_samples_counts_equal_and_opposite_ones_once():
    net = relu.Network(np.ones((2, 1)), np.ones((1, 1)))
    X = np.array([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0], [3.0, 0.0]])
    data = Data(regression(X, np.ones(4), net), net)
    assert inverse_square(data, np.array([0])) == pytest.approx(1 / 5, rel=1e-12)
    assert inverse_square(data, np.array([0])) >= 1 / 5
    assert inverse_square(data, np.array([0, 1, 2])) == pytest.approx(1 / 5, rel=1e-12)
    both = inverse_square(data, np.array([0, 1, 3]))
    assert 1 / np.linalg.eigvalsh(X[[0, 3]] @ X[[0, 3]].T)[0] <= both * (1 + 1e-12)
    assert both == pytest.approx(1 / np.linalg.eigvalsh(X[[0, 3]] @ X[[0, 3]].T)[0], rel=1e-9)
    dependent = Data(regression(np.array([[1.0, 2.0], [2.0, 4.0]]), np.ones(2), net), net)
    assert inverse_square(dependent, np.array([0, 1])) == math.inf


def test_forces_of_sliding_pairs_are_in_their_range_or_their_distance_is_added():
    data = data_of(4, s=0.1)
    path = path_of(data, 0.02, slides=((1, 2),))
    tube = PatternTube(path, 0.25)
    f, q = path.forces[0, 1, 2], path.pulls[0, 1, 2]
    outside = max(f - q, 0.1 * q - f, 0.0) + max(-q, 0.0)
    seen = outside * np.linalg.norm(data.X[1]) * 0.02 * 0.25
    assert tube.forced >= 0.5 * seen
    for size in (0.0, 0.1):  # of the correction, with which the pulls move
        short = PatternTube(path, 1e-5)  # on which nothing else moves
        short.__dict__["adjusted"] = (size, 0.0)
        moved = short.pull_moved(size)[2]
        distance = max(max(f - q, 0.1 * q - f) + moved, 0.0) + max(-q + moved, 0.0)
        at_once = distance * np.linalg.norm(data.X[1]) * 0.02 * 1e-5
        assert outside > 0 and at_once * (1 - 1e-12) <= short.forced <= at_once * (1 + 1e-3)
    path.forces[:, 1, 2] = 0.5 * path.pulls[:, 1, 2] * np.sign(q)
    inside = PatternTube(path, 0.25)
    assert (inside.forced < 1e-3 * abs(q)) == (q > 0)


def test_a_radius_holds_every_part(monkeypatch):
    path = path_of(data_of(0), 0.02)
    tube = PatternTube(path, 0.25)
    plain = grown([tube], 1e-9, 1e-12)
    assert plain.holds and plain.radius >= (1e-9 + tube.path.added(0.25) + 1e-12) * math.exp(tube.exponent(1e-9))
    assert plain.radius < 1.001 * (1e-9 + 1e-12) * math.exp(tube.exponent(plain.reach)) + 1e-12
    assert plain.reach >= plain.radius + 1e-12
    # Crossings: an amount and a factor; None refuses.
    crossed = grown([tube], 1e-9, 1e-12, lambda reach, first: (1e-9, math.log(2.0)))
    assert crossed.radius == pytest.approx(2 * (plain.radius + 1e-9 * math.exp(plain.exponent)), rel=1e-5)
    assert not grown([tube], 1e-9, 1e-12, lambda reach, first: None).holds
    seen = []
    grown([tube], 1e-9, 1e-12, lambda reach, first: (seen.append((reach, first)), (0.0, 5.0))[1])
    assert all(first <= reach for reach, first in seen[-1:]) and seen[-1][1] < 1.01 * plain.radius
    # The correction counts twice, with its variation, and in Λκh; the forces once.
    changed = PatternTube(path, 0.25)
    changed.__dict__["adjusted"], changed.__dict__["forced"] = (1e-11, 3e-11), 5e-11
    more = grown([changed], 1e-9, 1e-12)
    lipschitz = changed.constants(more.reach).third * 1e-11 * 0.25 * 0.02
    expected = (1e-9 + 1e-12 + 1e-10 + lipschitz) * math.exp(plain.exponent) + 1e-11
    assert more.radius == pytest.approx(expected, rel=1e-4)
    # Too large a correction is refused, and so is a pair that blocks.
    changed.__dict__["adjusted"] = (1e-3, 0.0)
    assert not grown([changed], 1e-9, 1e-12).holds
    monkeypatch.setattr(tubes.PatternTube, "blocking", lambda self, radius: np.eye(4, 5, dtype=bool))
    refused = grown([tube], 1e-9, 1e-12)
    assert not refused.holds and refused.blocking is not None and refused.blocking[0, 0]


def neuron_of(X, pulls, sides, held=(), slope=0.0, unknown=None, moved=0.0):
    """A neuron at a crossing, from its parts."""
    net = relu.Network(np.ones((X.shape[1], 1)), np.ones((1, 1)), None, slope)
    data = Data(regression(X, np.ones(len(X)), net), net)
    neuron = object.__new__(Neuron)
    neuron.data, neuron.sides, neuron.K, neuron.pulls = data, np.array(sides), X @ X.T, np.array(pulls)
    neuron.held, neuron.error = np.array(held, dtype=int), np.full(len(X), moved)
    unknown = np.zeros(len(X), dtype=bool) if unknown is None else np.array(unknown)
    low = np.where(unknown, slope, np.where(neuron.sides == ON, 1.0, np.where(neuron.sides == OFF, slope, 0.0)))
    neuron.slopes = low, np.where(unknown, 1.0, low)
    return neuron


def test_the_speed_of_a_crossing_is_the_least_over_all_unknown_slopes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        X, pulls, slope = rng.standard_normal((4, 3)), rng.standard_normal(4), 0.2
        unknown = np.array([True, False, True, False])
        sides = rng.choice([ON, OFF], 4)
        neuron = neuron_of(X, pulls, sides, slope=slope, unknown=unknown, moved=1e-3)
        way = 1 if sides[0] == ON else -1
        speeds = []
        for a0, a2 in itertools.product((slope, 1.0), repeat=2):
            a = np.where(sides == ON, 1.0, slope)
            a[0], a[2] = a0, a2
            speeds.append(-way * X[0] @ (X.T @ (a * pulls)))
        lengths = np.linalg.norm(X, axis=1)
        assert neuron.speed(0, 1.0, 0.0) == pytest.approx(min(speeds) - 1e-3 * lengths[0] * lengths.sum(), rel=1e-9)


def test_a_neuron_slides_in_every_solution_if_both_sides_push_it_back_for_long_enough():
    """x_0 crosses, x_1 slides. f* keeps x_1ᵀu at 0; the distance to that plane falls at μ‖x_1‖ at least."""
    X = np.array([[1.0, 0.5], [0.0, 2.0], [-1.0, 1.0]])
    pulls, sides = np.array([-1.0, 1.0, -0.6]), [ON, SLIDING, ON]
    neuron = neuron_of(X, pulls, sides, held=[1], unknown=[True, True, False])
    speeds, margins = [], []
    for a in (0.0, 1.0):
        rest = a * pulls[0] * X[0] + pulls[2] * X[2]
        force = -(X[1] @ rest) / 4.0
        margins.append(min(force, pulls[1] - force))
        speeds.append(-X[0] @ (rest + force * X[1]))
    assert min(margins) > 0
    time = 1e-3 / (min(margins) * 2.0)
    assert neuron.speed(0, 1e-3, 1.01 * time) == pytest.approx(min(speeds), rel=1e-9)
    # For a shorter time nothing is known of the slope of x_1.
    loose = min(-X[0] @ (a * pulls[0] * X[0] + b * X[1] + pulls[2] * X[2]) for a in (0.0, 1.0) for b in (0.0, 1.0))
    assert neuron.speed(0, 1e-3, 0.99 * time) == pytest.approx(loose, rel=1e-9)
    # Without a margin neither.
    weak = neuron_of(X, np.array([-1.0, min(0.2, 0.9), -0.6]), sides, held=[1], unknown=[True, True, False])
    assert weak._settled(*[np.array([0.0, 0.0, -0.6])] * 2)[2] < 0
    # Errors of the forces lower the margin.
    less = neuron_of(X, pulls, sides, held=[1], unknown=[True, True, False], moved=1e-2)
    case = [np.array([-1.0, 0.0, -0.6])] * 2
    assert less._settled(*case)[2] < neuron._settled(*case)[2] - 2 * 2e-2
    force = -(X[1] @ (-1.0 * X[0] - 0.6 * X[2])) / 4.0
    off = 2.0 * (np.linalg.norm(X[0]) + np.linalg.norm(X[2])) * 1e-2 / 4.0
    found = less._settled(*case)
    assert found[:2] == (pytest.approx([force], rel=1e-12), pytest.approx(off, rel=1e-9))
    assert found[2] == pytest.approx(2.0 * (min(force, pulls[1] - force) - off - 2e-2), rel=1e-9)


def test_a_crossing_costs_its_negative_pull_over_its_speed(monkeypatch):
    """c = (1 − s)‖x‖[−q]₊/ζ: the factor 1 + c‖x‖, and the amount 2c(ε + ‖x‖ω)."""
    X, Y = np.array([[2.0]]), np.array([[9.0]])
    net = relu.Network([[0.0]], [[1.0]], None, 0.5)
    data = Data(regression(X, Y, net), net)
    pattern = Pattern(np.array([[ON]]), 0.5)
    layers = [np.zeros((1, 1)), np.ones((1, 1))]
    tube = PatternTube(PatternPath(data, pattern, layers, 2.0**-30), 1.0, np.ones((1, 1), dtype=bool))
    crossing = Crossing([tube], layers, pattern, np.ones((1, 1), dtype=bool))
    crossing.beyond = np.full((1, 1), 1e-9)
    amount, factor = crossing(1e-12, 1e-12)
    q, speed = 9.0, 0.5 * 4.0 * 9.0
    cost = 0.5 * 2.0 * q / speed
    assert math.exp(factor) == pytest.approx(1 + cost * 2.0, rel=1e-6)
    assert amount == pytest.approx(2 * cost * (1e-9 + 2.0 * own_error(tube)), rel=1e-5)
    monkeypatch.setattr(passages.Neuron, "speed", lambda *_: 0.0)
    assert crossing(1e-12, 1e-12) is None
    # A convex kink costs nothing, at any speed.
    other = Data(regression(X, -Y, net), net)
    tube = PatternTube(PatternPath(other, pattern, layers, 2.0**-30), 1.0, np.ones((1, 1), dtype=bool))
    assert Crossing([tube], layers, pattern, np.ones((1, 1), dtype=bool))(1e-12, 1e-12) == (0.0, 0.0)


def test_a_kink_is_as_convex_as_the_lemma_says():
    """⟨e, g − ĝ⟩ ≥ −m‖e‖² − (1 − s) Σ [−q]₊‖x‖‖e‖ over the pairs without one sign (Lemma 1)."""
    rng = np.random.default_rng(0)
    seen = 0.0
    for _ in range(120):
        N, d, h, s = 2, 2, 2, float(rng.choice([0.0, 0.3]))
        X, Y = rng.standard_normal((N, d)), 3 * rng.standard_normal((N, 1))
        U, V = rng.standard_normal((d, h)), rng.standard_normal((h, 1))
        e = 10 ** rng.uniform(-4, -1) * np.array([rng.standard_normal((d, h)), np.zeros((d, h))])[0]
        f = 10 ** rng.uniform(-4, -1) * rng.standard_normal((h, 1))
        U -= np.outer(X[0], [X[0] @ U[:, 0] - 1e-3 * rng.standard_normal(), 0.0]) / (X[0] @ X[0])

        def gradient(U, V, X=X, Y=Y, s=s):
            a = reference.slopes(X, U, s)
            R = reference.outputs(X, U, V, s) - Y
            return X.T @ (a * (R @ V.T)), (a * (X @ U)).T @ R

        (g1, g2), (k1, k2) = gradient(U + e, V + f), gradient(U, V)
        left, size = (
            float(np.sum(e * (g1 - k1)) + np.sum(f * (g2 - k2))),
            math.hypot(np.linalg.norm(e), np.linalg.norm(f)),
        )
        mixed = reference.slopes(X, U, s) != reference.slopes(X, U + e, s)
        m = cost = 0.0
        for x in np.linspace(0, 1, 20):
            R = reference.outputs(X, U + x * e, V + x * f, s) - Y
            a = np.where(mixed, 1.0, reference.slopes(X, U, s))
            wide = [
                np.linalg.norm(X.T @ (a[:, [j]] * R), 2)
                + np.sum(mixed[:, j] * np.linalg.norm(X, axis=1) * np.abs(R[:, 0]))
                for j in range(h)
            ]
            m = max(m, *wide)
            q = R @ (V + x * f).T
            cost = max(cost, float(np.sum(mixed * np.maximum(0, -q) * np.linalg.norm(X, axis=1)[:, None])))
        bound = -m * size**2 - (1 - s) * cost * size
        assert left >= bound * 1.05 - 1e-12
        if cost and left < 0:
            seen = max(seen, left / bound)
    assert seen > 0.3


def test_a_pattern_moves_on_as_filippov_says():
    data = data_of(0)
    path = path_of(data)
    layers = [c[0].copy() for c in path.coefficients]
    layers[0][:, 1] -= data.X[2] * (data.X[2] @ layers[0][:, 1]) / (data.X[2] @ data.X[2])
    out = moved_on(data, layers, path.pattern.turned(np.array([2]), 1, np.array([SLIDING])), [(2, 1, ON)])
    assert out.sides[2, 1] == ON
