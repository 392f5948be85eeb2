"""One piece of a ReLU flow, what happens at 0, and the events of a verified path, written out."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from linflow import relu
from linflow._support.arrays import EPS
from linflow.dynamics.trajectory import Result
from linflow.relu import events, flow, pieces
from linflow.relu.certificate import regression
from linflow.relu.events import first_event, moved_on
from linflow.relu.flow import _PieceLoop
from linflow.relu.pattern_path import Data
from linflow.relu.pieces import OFF, ON, SLIDING, Field, Pattern, PiecePoint, SmoothField, field_of
from linflow.relu.roots import NODES

near = pytest.approx


def start_of(seed=0, N=4, d=3, h=5, m=2, slope=0.25, bias=True):
    rng = np.random.default_rng(seed)
    b = rng.standard_normal(h) if bias else None
    net = relu.Network(rng.standard_normal((d, h)), rng.standard_normal((h, m)), b, slope)
    return regression(rng.standard_normal((N, d)), rng.standard_normal((N, m)), net), net


def pattern_of(seed=0, N=4, h=5, slope=0.25, slides=True):
    kinds = [ON, OFF, SLIDING] if slides else [ON, OFF]
    return Pattern(np.random.default_rng(seed).choice(kinds, (N, h)), slope)


# --- the field on one pattern --------------------------------------------------------------------------------------


def test_a_pattern_and_its_slopes():
    pattern = Pattern(np.array([[ON, SLIDING], [OFF, ON], [SLIDING, SLIDING]]), 0.25)
    assert pattern.slopes.tolist() == [[1.0, 0.0], [0.25, 1.0], [0.0, 0.0]]
    assert [(j, S.tolist()) for j, S in pattern.sliding] == [(0, [2]), (1, [0, 2])]
    turned = pattern.turned(np.array([0, 2]), 1, np.array([OFF, ON]))
    assert turned.sides.tolist() == [[ON, OFF], [OFF, ON], [SLIDING, ON]] and turned.slope == 0.25
    assert pattern.sides[0, 1] == SLIDING


@pytest.mark.parametrize("bias", [False, True])
def test_the_field_on_a_pattern(bias):
    problem, net = start_of(bias=bias)
    field, pattern = Field(problem, net, 0.25), pattern_of()
    U, V = net.extended, net.V
    y = field.vector(U, V, 7.0)
    assert y[-1] == 7.0 and len(y) == U.size + V.size + 1
    for found, expected in zip(field.layers(np.stack([y, 2 * y])), (U, V), strict=True):
        np.testing.assert_array_equal(found, np.stack([expected, 2 * expected]))
    X = np.hstack([problem.X, np.ones((4, 1))]) if bias else problem.X
    np.testing.assert_allclose(field.z(y), X @ U, rtol=1e-14, atol=1e-15)
    noise = (len(U) + 8) * EPS * (np.abs(X) @ np.abs(U))
    np.testing.assert_allclose(field.z_noise(y), noise, rtol=1e-14, atol=0)

    features = pattern.slopes * (X @ U)
    R = features @ V - problem.Y
    pulls, forces = R @ V.T, pattern.slopes * (R @ V.T)
    samples, neurons = np.nonzero(pattern.sides == SLIDING)
    for j in range(5):
        S = np.flatnonzero(pattern.sides[:, j] == SLIDING)
        if len(S):
            forces[S, j] = -np.linalg.pinv(X[S] @ X[S].T) @ (X[S] @ X.T) @ forces[:, j]
    point = field.at(y, pattern)
    expected = {"residual": R, "pulls": pulls, "forces": forces, "U_dot": -X.T @ forces, "V_dot": -features.T @ R}
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(point, name), value, rtol=1e-11, atol=1e-12)
    assert point.gap == near(0.5 * np.sum(R**2), rel=1e-13, abs=0)
    speed = math.sqrt(np.sum(point.U_dot**2) + np.sum(point.V_dot**2))
    assert point.speed == near(speed, rel=1e-13, abs=0)
    assert point.rate == near(speed**2 / point.gap, rel=1e-13, abs=0)
    size = float(np.linalg.norm(R))
    np.testing.assert_allclose(
        field.velocity(y, pattern), field.vector(point.U_dot, point.V_dot, size), rtol=1e-13, atol=0
    )
    given = field.sliding_forces(np.stack([y, y]), pattern)
    for found, value in zip(
        given, (samples, neurons, forces[samples, neurons], pulls[samples, neurons]), strict=True
    ):
        np.testing.assert_allclose(found, np.stack([value] * 2) if found.ndim == 2 else value, rtol=1e-11, atol=1e-12)
    assert field.sliding_forces(y, pattern)[2].shape == samples.shape
    other = pattern_of(slides=False)
    assert len(field.sliding_forces(y, other)[0]) == 0  # what is kept is that of the last pattern


@pytest.mark.parametrize("power", [-600, 600])
def test_the_length_of_a_residual_whose_square_leaves_float64(power):
    problem, net = start_of(bias=False)
    far = regression(problem.X, np.full((4, 2), 2.0**power), relu.Network(0 * net.U, net.V, None, 0.25))
    field = Field(far, net, 0.25)
    y = field.vector(0 * net.U, net.V)
    assert field.velocity(y, pattern_of(slides=False))[-1] == near(8**0.5 * 2.0**power, rel=1e-14, abs=0)


def test_a_point_without_a_loss_has_an_infinite_rate():
    zero = np.zeros((1, 1))
    assert PiecePoint(0.0, zero, zero, zero, zero, zero).rate == math.inf
    assert PiecePoint(0.5, zero, zero, zero, 3 + zero, 4 + zero).rate == near(50.0, rel=1e-15, abs=0)


def test_the_field_of_a_smooth_network_has_no_pieces():
    problem, net = start_of()
    smooth = relu.SmoothNetwork(net.U, net.V, net.bias, "tanh")
    field = field_of(problem, smooth)
    assert isinstance(field, SmoothField) and not field.has_kinks and field.slope == 0.0
    assert type(field_of(problem, net)) is Field and field_of(problem, net).slope == 0.25
    X = np.hstack([problem.X, np.ones((4, 1))])
    z = X @ net.extended
    R = np.tanh(z) @ net.V - problem.Y
    point = field.at(field.vector(net.extended, net.V), pattern_of())
    np.testing.assert_allclose(point.U_dot, -X.T @ ((1 - np.tanh(z) ** 2) * (R @ net.V.T)), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(point.V_dot, -np.tanh(z).T @ R, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(point.pulls, R @ net.V.T, rtol=1e-12, atol=1e-13)


# --- samples at 0 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "q", "g", "fits"),
    [
        # K = 2, slope ¼, noise ⅛. On: ż = g − 2q is positive, or 0 up to the noise.
        (ON, 3.0, 6.2, True), (ON, 3.0, 5.875, True), (ON, 3.0, 5.87, False), (ON, 3.0, 9.0, True),
        # Off: ż = g − 2q/4 is not above the noise.
        (OFF, 3.0, 1.625, True), (OFF, 3.0, 1.63, False), (OFF, 3.0, -9.0, True),
        # Held at 0 by the force g/2, which is between q/4 and q.
        (SLIDING, 3.0, 1.5, True), (SLIDING, 3.0, 1.49, False), (SLIDING, 3.0, 6.0, True),
        (SLIDING, 3.0, 6.01, False),
        (SLIDING, -3.0, -1.5, True), (SLIDING, -3.0, -1.49, False), (SLIDING, -3.0, -6.0, True),
        (SLIDING, -3.0, -6.01, False), (SLIDING, -3.0, 3.0, False), (SLIDING, 0.0, 0.0, False),
    ],
)  # fmt: skip
def test_which_sides_of_one_sample_solve_the_inclusion(side, q, g, fits):
    field = Field(*start_of(), 0.25)
    given = np.array([side]), np.array([g]), np.array([[2.0]]), np.array([q]), np.array([0.125])
    assert field._consistent(*given) is fits


def test_which_sides_of_two_samples_solve_the_inclusion():
    """Sample 0 on with the force 3, and 1 held at 0 by (g_1 − 3)/2, between ½ and 2: then ż_0 = g_0 − 6 − f_1."""
    field = Field(*start_of(), 0.25)
    K, q, noise = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([3.0, 2.0]), np.full(2, 2.0**-10)
    for g1, f1 in ((4.0, 0.5), (5.5, 1.25), (7.0, 2.0), (3.9, None), (7.1, None)):
        for g0 in (7.2, 8.5):
            fits = f1 is not None and g0 - 6 - f1 > 0
            assert field._consistent(np.array([ON, SLIDING]), np.array([g0, g1]), K, q, noise) is fits
    for forces, fits in (((1.0, 1.0), True), ((1.0, 5.0), False), ((1.0, 0.1), False), ((5.0, 0.1), False)):
        given = np.array([SLIDING, SLIDING]), 2 * np.array(forces), 2 * np.eye(2), q, noise
        assert field._consistent(*given) is fits
    zero = np.array([SLIDING, SLIDING]), np.array([2.0, 0.0]), 2 * np.eye(2), np.array([3.0, 0.0]), noise
    assert not field._consistent(*zero)
    # Without a unique force, that of least norm is taken: 1 each.
    K = np.ones((2, 2))
    assert field._consistent(np.array([SLIDING, SLIDING]), np.array([2.0, 2.0]), K, np.array([3.0, 2.0]), noise)
    assert not field._consistent(np.array([SLIDING, SLIDING]), np.array([2.0, 2.5]), K, np.array([3.0, 2.0]), noise)


def test_samples_are_turned_on_one_by_one_the_most_pushed_first():
    field = Field(*start_of(), 0.25)
    noise = np.full(2, 0.125)
    # off both: ż = (1 − 0.25·(1 + 0.9·1.5), 2 − …); with the second on, the first is pushed back
    K, q = np.array([[1.0, 0.9], [0.9, 1.0]]), np.array([1.0, 1.5])
    assert field._one_by_one(np.array([1.0, 2.0]), K, q, noise).tolist() == [OFF, ON]
    assert field._one_by_one(np.array([3.0, 5.0]), K, q, noise).tolist() == [ON, ON]
    assert field._one_by_one(np.array([-3.0, -5.0]), K, q, noise).tolist() == [OFF, OFF]
    one = np.eye(2)
    single = field._one_by_one(np.array([1.1]), np.eye(1), np.array([4.0]), noise[:1])  # ż = 1.1 − 4/4
    assert single.tolist() == [OFF]
    assert field._one_by_one(np.array([0.375, 0.5]), one, np.ones(2), noise).tolist() == [OFF, ON]  # ż = ⅛ and ¼


def test_what_is_tried_at_a_kink_and_in_which_order(monkeypatch):
    problem, net = start_of(seed=3)
    field, pattern = Field(problem, net, 0.25), pattern_of(slides=False).turned(np.array([3]), 1, np.array([SLIDING]))
    y, S = field.vector(net.extended, net.V), np.array([0, 2])
    seen: list[Any] = []
    monkeypatch.setattr(Field, "_consistent", lambda self, *given: (seen.append(given), False)[1])
    monkeypatch.setattr(Field, "_one_by_one", lambda self, *given: (seen.append(given), np.array([ON, OFF]))[1])
    found = field.resolve(y, pattern, 1, S)
    assert found.sides[[0, 2], 1].tolist() == [ON, OFF]
    np.testing.assert_array_equal(np.delete(found.sides, 1, axis=1), np.delete(pattern.sides, 1, axis=1))
    expected = sorted(
        itertools.product((OFF, ON, SLIDING), repeat=2),
        key=lambda sides: 10 * sum(x == SLIDING for x in sides) + sum(x == ON for x in sides),
    )
    assert [tuple(given[0]) for given in seen[:-1]] == expected and len(seen) == 10
    assert expected[0] == (OFF, OFF) and expected[-1] == (SLIDING, SLIDING)

    point = field.at(y, pattern.turned(S, 1, np.array([OFF, OFF])))
    forces = point.forces[:, 1].copy()
    forces[S] = 0.0
    K = field.X @ field.X.T
    values = -K[S] @ forces, K[np.ix_(S, S)], point.pulls[S, 1], 64 * EPS * (np.abs(K[S]) @ np.abs(point.pulls[:, 1]))
    assert (point.pulls[:, 1] > 0).any() and (point.pulls[:, 1] < 0).any()
    for given in (seen[-1], seen[0][1:]):
        for one, other in zip(given, values, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=0)
    assert pieces.MOST_TOGETHER == 6
    for most, tries in ((2, 9), (1, 0)):
        monkeypatch.setattr(pieces, "MOST_TOGETHER", most)
        seen.clear()
        field.resolve(y, pattern, 1, S)
        assert len(seen) == tries + 1
    monkeypatch.setattr(Field, "_consistent", lambda self, sides, *_: tuple(sides) == (ON, OFF))
    monkeypatch.setattr(pieces, "MOST_TOGETHER", 6)
    assert field.resolve(y, pattern, 1, S).sides[[0, 2], 1].tolist() == [ON, OFF]


# --- events of a verified path -------------------------------------------------------------------------------------


def path_of(z, sides, error=0.0, forces=None, pulls=None, void=None, tau=0.5, slope=0.25) -> Any:
    """What an event reads of a path of degree 2: series of one sample, a column for each neuron."""
    z = np.array(z, dtype=float)[:, None, :]
    shape = z[:2].shape
    return SimpleNamespace(
        pattern=Pattern(np.array([sides]), slope),
        order=2,
        z=z,
        z_error=np.full(z.shape, error),
        forces=np.zeros(shape) if forces is None else np.array(forces, dtype=float)[:, None, :],
        pulls=np.ones(shape) if pulls is None else np.array(pulls, dtype=float)[:, None, :],
        data=SimpleNamespace(void=np.zeros(shape[1:], dtype=bool) if void is None else np.array([void]), slope=slope),
        tau=tau,
    )


def test_the_first_event_is_where_a_pre_activation_reaches_0():
    """z = ¼ − x, and −(½ − x − ½x²) of a pair that is off, whose root is √2 − 1."""
    z = [[0.25, -0.5, 3.0], [-1.0, 1.0, -1.0], [0.0, 0.5, 0.0]]
    found = first_event(path_of(z, [ON, OFF, ON], pulls=[[2.0, 1.0, 1.0], [8.0, 4.0, 1.0]]), 3.0, 1.0)
    assert found is not None and found.pairs == [(0, 0, 0)]
    # roots to rounding of numbers of size 1
    assert found.t == near(3.0 + 0.5 * 0.25, rel=1e-15, abs=0)
    assert found.pulls == near([2.0 + 8.0 * 0.25], rel=1e-14, abs=0) and found.speeds == near([1.0 / 0.5], rel=1e-14)
    later = first_event(path_of(z, [ON, OFF, ON], void=[True, False, False]), 3.0, 1.0)
    root = math.sqrt(2) - 1
    assert later is not None and later.pairs == [(0, 1, 0)]
    assert later.t == near(3.0 + 0.5 * root, rel=1e-15, abs=0)
    assert later.speeds == near([(1.0 + root) / 0.5], rel=1e-14, abs=0)
    assert first_event(path_of(z, [ON, OFF, ON]), 3.0, 0.2) is None
    assert first_event(path_of([[0.0], [1.0], [0.0]], [ON]), 3.0, 0.2) is None
    assert first_event(path_of(z, [SLIDING, OFF, ON], pulls=[[0.0] * 3] * 2), 3.0, 0.2) is None
    # Those that may come there have terms as large as their start: long and short steps, of each degree.
    for series, s, root in (
        ([0.45, -1.0, 0.0], 0.5, 0.45), ([1.9, -1.0, 0.0], 2.0, 1.9), ([8.9, 0.0, -1.0], 3.0, math.sqrt(8.9)),
        ([0.05, 1.0, -9.0], 0.2, (1 + math.sqrt(2.8)) / 18),
    ):  # fmt: skip
        found = first_event(path_of(np.array(series)[:, None], [ON]), 0.0, s)
        assert found is not None and found.t == near(0.5 * root, rel=1e-14, abs=0)


def test_pairs_that_noise_does_not_tell_apart_leave_together():
    """With errors of e the crossing is at half of the noise 4e(1 + s + s²) beyond 0, at the speed 1."""
    for s in (0.5, 1.0, 3.0):
        noise = 4 * 2.0**-20 * (1 + s + s * s)
        for apart, count in ((noise * (1 - 1e-6), 2), (noise * (1 + 1e-6), 1)):
            z = [[1.0, 1.0 + apart], [-4.0, -4.0], [0.0, 0.0]]  # at the speed 4
            found = first_event(path_of(z, [ON, ON], 2.0**-20), 0.0, s)
            assert found is not None and len(found.pairs) == count
            assert found.t == near(0.5 * (1.0 + noise / 2) / 4, rel=1e-14, abs=0)
        for depth, there in ((0.9, False), (1.1, True)):  # of the noise, below 0
            z = [[s * s / 4 - depth * noise], [-s], [1.0]]  # least at s/2
            assert (first_event(path_of(z, [ON], 2.0**-20), 0.0, s) is not None) is there
    # Without noise, times that float64 does not tell apart are one: four units in the last place of t.
    for units, count in ((3.5, 2), (4.5, 1)):
        z = [[0.25, 0.25 + units * math.ulp(2.0**20) / 0.5], [-1.0, -1.0], [0.0, 0.0]]
        found = first_event(path_of(z, [ON, ON]), 2.0**20, 1.0)
        assert found is not None and len(found.pairs) == count
    # A pair whose z stays above 0 by the noise has no event, and one that is nearer may have one.
    for gap, there in ((1e-3, False), (-1e-3, True)):
        z = [[0.25 + gap], [-1.0], [1.0]]  # least at ½, where it is `gap`
        assert (first_event(path_of(z, [ON], 0.0), 0.0, 1.0) is not None) is there


def test_sliding_ends_where_the_force_leaves_its_range():
    """The pull is 1; the force ½ + x reaches 1 at ½, and ½ − x reaches the slope ¼ at ¼."""
    pulls = [[1.0], [0.0]]
    for slope_of_f, root, way in ((1.0, 0.5, ON), (-1.0, 0.25, OFF)):
        path = path_of([[0.0], [0.0], [0.0]], [SLIDING], forces=[[0.5], [slope_of_f]], pulls=pulls)
        found = first_event(path, 0.0, 1.0)
        assert found is not None and found.pairs == [(0, 0, way)] and found.speeds.tolist() == [0.0]
        assert found.t == near(0.5 * root, rel=1e-13, abs=0) and found.pulls.tolist() == [1.0]
    z = [[0.25, 0.0], [-1.0, 0.0], [0.0, 0.0]]
    path = path_of(z, [ON, SLIDING], forces=[[0.0, 0.5], [0.0, 1.0]], pulls=[[1.0, 1.0], [0.0, 0.0]])
    found = first_event(path, 0.0, 1.0)
    assert found is not None and found.pairs == [(0, 0, 0)]  # and not the end of sliding at ½
    # Outside by no more than a small part of the pull at the start, it still slides.
    for outside, there in ((0.9e-13, False), (1.1e-13, True)):
        path = path_of([[0.0]] * 3, [SLIDING], forces=[[-8.0 * (1 + outside)], [0.0]], pulls=[[-8.0], [0.0]])
        path.pulls = -path.pulls
        path.forces = -path.forces
        assert (first_event(path, 0.0, 1.0) is not None) is there
    assert events.SLACK == 1e-13


def test_the_first_root_of_a_polynomial_of_a_step():
    grid = np.linspace(0.0, 1.0, 65)
    np.testing.assert_array_equal(events.GRID, grid)

    def root(series, s=1.0, allowed=0.0):
        series = np.array(series)
        return events._first_root(series, (s * grid)[:, None] ** np.arange(len(series)), s, allowed)

    assert root([0.3, -1.0]) == near(0.3, rel=1e-15, abs=0)
    assert root([0.3, -1.0], 0.5) == near(0.3, rel=1e-15, abs=0) and root([0.3, -1.0], 0.25) is None
    assert root([0.001, -1.0]) == near(0.001, rel=1e-13, abs=0)  # in the first cell
    assert root([-0.125], allowed=0.125) is None and root([-0.125], allowed=0.124) == 0.0
    assert root([0.1, -1.0], allowed=0.5) == 38 / 64  # allowed up to there: 0.1 − 39/64 is the first below −½
    # (x − ¼)(x − ½)(x − ¾) changes its sign three times; below 0 from the start, then up to the first, and again
    assert root([0.09375, -0.6875, 1.5, -1.0]) == near(0.25, rel=1e-14, abs=0)


def test_pairs_move_on_by_their_way_or_are_resolved_together(monkeypatch):
    problem, net = start_of(bias=False)
    data = Data(problem, net)
    pattern = pattern_of(slides=False).turned(np.array([3]), 1, np.array([SLIDING]))
    layers, seen = [net.extended, net.V], []

    def resolve(self, y, pattern, neuron, samples):
        seen.append((y, pattern.sides.copy(), neuron, samples.tolist()))
        return pattern.turned(samples, neuron, np.full(len(samples), ON))

    monkeypatch.setattr(Field, "resolve", resolve)
    found = moved_on(data, layers, pattern, [(2, 1, 0), (0, 4, OFF), (1, 1, ON), (0, 1, 0), (1, 4, ON)])
    expected = pattern.sides.copy()
    expected[1, 1] = ON
    assert [x[2:] for x in seen] == [(1, [0, 2, 3])]
    np.testing.assert_array_equal(seen[0][1], expected)
    np.testing.assert_array_equal(seen[0][0], data.field.vector(*layers))
    expected[[0, 2, 3], 1], expected[0, 4], expected[1, 4] = ON, OFF, ON
    np.testing.assert_array_equal(found.sides, expected)


# --- the flow ------------------------------------------------------------------------------------------------------


def self_of(**given) -> Any:
    return SimpleNamespace(**given)


def test_the_error_that_is_allowed_in_a_step():
    y = np.array([3.0, 4.0, 99.0])  # the last is the path
    for gap, speed, least in ((6.0, 2.0, 3.0), (20.0, 2.0, 5.0), (1.0, 0.0, 5.0)):
        point: Any = SimpleNamespace(gap=gap, speed=speed)
        assert _PieceLoop.tolerance(self_of(rtol=1e-3), y, point) == near(1e-3 * least, rel=1e-15, abs=0)
    point = SimpleNamespace(gap=1e-30, speed=1.0)
    assert _PieceLoop.tolerance(self_of(rtol=1e-3), y, point) == 4 * EPS * 5.0


def test_how_a_flow_ends():
    problem = SimpleNamespace(scale=lambda gap: 8.0 * gap)

    def ended(gap=1.0, speed=1.0, t=0.0, rounding=False, end=5.0):
        loop = self_of(
            point=SimpleNamespace(gap=gap, speed=speed), t=t, end=end, y=np.array([3.0, 4.0, 99.0]), problem=problem
        )
        loop._at_rounding = lambda: rounding
        return _PieceLoop._ended(loop)

    assert ended() is None and ended(t=4.9) is None
    for gap, speed in ((math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)):
        assert ended(gap=gap, speed=speed) is Result.DIVERGED
    assert ended(t=5.0) is Result.TIME_LIMIT
    assert ended(speed=0.0) is Result.STATIONARY
    assert ended(rounding=True) is ended(speed=0.0, rounding=True) is Result.ROUNDING
    edge = 16 * EPS * 8.0 / 5.0
    assert ended(speed=edge) is Result.STATIONARY and ended(speed=edge * (1 + 1e-12)) is None


def test_pairs_that_may_leave_their_side_in_a_step():
    """Beyond 0 at a node, or so near that they may be so between two nodes: by half of a jump."""
    columns = [[4.0, 3.0, 2.0], [1.0, 2.0, 4.5], [-0.5, 1.0, 3.0], [1.0, 1.0, -2.0], [1.0, 1.1, 1.2], [2.0, 4.5, 4.5]]
    columns += [[-0.5] * 3, [0.0] * 3]
    pattern = Pattern(np.array([[ON, OFF, ON, SLIDING, ON, OFF, ON, ON]]), 0.0)
    found = _PieceLoop._may_leave(self_of(pattern=pattern), np.array(columns).T[:, None, :])
    assert found.tolist() == [[False, True, True, False, False, False, True, False]]


def test_events_of_a_step_of_the_flow():
    """Two pre-activations fall through 0; one slides, and its force passes the pull after 0.4 of the step."""
    problem, net = start_of(N=1, d=1, h=3, m=1, bias=False)
    field = Field(problem, net, 0.25)

    def loop_of(sides, z, forces=(0.0, 0.0), pull=1.0):
        def dense(s):
            return np.array([s])

        def values(states):
            x = (states[:, 0] - 2.0) / 4.0
            return np.stack([np.polyval(c[::-1], x) for c in z], axis=1)[:, None, :]

        states = SimpleNamespace(
            has_kinks=True,
            X=-np.abs(field.X),
            slope=0.25,
            layers=lambda y: (-np.ones((1, 3)), None),
            z=values,
            sliding_forces=lambda states, pattern: (
                np.array([0]),
                np.array([2]),
                (forces[0] + forces[1] * (states[:, :1] - 2.0) / 4.0),
                np.polyval(np.atleast_1d(pull)[::-1], (states[:, :1] - 2.0) / 4.0) + np.zeros((len(NODES), 1)),
            ),
        )
        loop = self_of(field=states, t=2.0, y=None, pattern=Pattern(np.array([sides]), 0.25))
        loop._may_leave = lambda signed: _PieceLoop._may_leave(loop, signed)
        return _PieceLoop._first_event(loop, 6.0, dense)

    x = abs(float(field.X[0, 0]))
    zero = 0.5 * flow.AT_ZERO * x
    found = loop_of([ON, OFF, OFF], [(0.3, -1.0), (-0.5, 1.0), (-9.0, 0.0)])
    # a root to rounding of values of size 1
    assert found is not None and found[1] == [(0, 0, 0)] and found[0] == near(2 + 4 * (0.3 + zero), rel=1e-14, abs=0)
    found = loop_of([ON, OFF, OFF], [(0.3, -1.0), (-0.3 - 0.9e-10, 1.0), (-9.0, 0.0)])
    assert found is not None and found[1] == [(0, 0, 0), (0, 1, 0)]
    found = loop_of([ON, OFF, OFF], [(0.3, -1.0), (-0.3 - 1.1e-10, 1.0), (-9.0, 0.0)])
    assert found is not None and found[1] == [(0, 0, 0)]
    still = [(9.0, 0.0), (-9.0, 0.0), (0.0, 0.0)]
    assert loop_of([ON, OFF, OFF], [*still[:2], (-9.0, 0.0)]) is None
    left = flow.LEFT
    for forces, pull, root, way in (
        ((0.6, 1.0), 1.0, 0.4 + left, ON), ((0.75, -1.0), 1.0, 0.5 + left, OFF),
        ((-0.6, -1.0), -1.0, 0.4 + left, ON), ((-0.75, 1.0), -1.0, 0.5 + left, OFF),
        ((1.2, 2.0), 2.0, 0.4 + left, ON), ((0.6, 2.0), (1.0, 1.0), 0.4 + 2 * left, ON),
        ((0.75, -0.75), (1.0, 1.0), 0.5 + 2 * left, OFF),
    ):  # fmt: skip
        found = loop_of([ON, OFF, SLIDING], still, forces, pull)
        assert found is not None and found[1] == [(0, 2, way)]
        assert found[0] == near(2 + 4 * root, rel=1e-13, abs=0)
    assert loop_of([ON, OFF, SLIDING], still, (0.5, 0.1), 1.0) is None
    smooth = self_of(field=SimpleNamespace(has_kinks=False))
    assert _PieceLoop._first_event(smooth, 6.0, lambda s: s) is None


def test_samples_are_put_onto_0_by_the_shortest_change():
    problem, net = start_of(bias=False)
    field = Field(problem, net, 0.25)
    y, S = field.vector(net.U, net.V), np.array([0, 2])
    found = _PieceLoop._onto_zero(self_of(field=field), y, 1, S)
    U, V = field.layers(found)
    rows = problem.X[S]
    np.testing.assert_allclose(U[:, 1], net.U[:, 1] - np.linalg.pinv(rows) @ rows @ net.U[:, 1], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(np.delete(U, 1, axis=1), np.delete(net.U, 1, axis=1))
    np.testing.assert_array_equal(V, net.V)
    assert (y == field.vector(net.U, net.V)).all()


def test_what_is_kept_of_a_run(monkeypatch):
    problem, net = start_of(bias=False)
    loop = _PieceLoop(problem, net, None, 1.0, 1e-8, 100)
    y = loop.y + 1e-3
    loop._keep(0.0, y, True, 0.5)  # a flip at the time that is there already
    assert loop.times == [0.0] and loop.rates == [0.5] and loop.gaps == [loop.point.gap] and len(loop.kept) == 2
    loop._keep(0.0, y, True, 0.75)
    assert loop.rates == [0.5]
    loop._keep(0.25, y, False, 1e-3)
    assert (loop.times, loop.rates[-1], loop.paths[-1], loop.t) == ([0.0, 0.25], 1e-3, y[-1], 0.25)
    assert loop.gaps[-1] == loop.point.gap != loop.point.rate
    loop._keep(0.5, y, False)
    assert loop.rates[-1] == loop.point.rate and [one.flip for one in loop.kept] == [True, True, True, False, False]
    assert loop.kept[-1].t == 0.5 and loop.kept[-1].y is y and loop.kept[-1].pattern is loop.pattern
    monkeypatch.setattr(flow, "BUDGET", 6 * y.nbytes)
    loop._keep(0.6, y, False)
    assert len(loop.kept) == 6
    loop._keep(0.7, y, False)  # beyond the budget: those at even places stay, and flips
    assert [one.t for one in loop.kept] == [0.0, 0.0, 0.0, 0.5, 0.7]
    monkeypatch.setattr(flow, "BUDGET", 0)
    loop.kept = loop.kept[:3]
    loop._keep(0.8, y, False)
    assert len(loop.kept) == 4
    loop._keep(0.9, y, False)
    assert [one.t for one in loop.kept] == [0.0, 0.0, 0.0, 0.9]  # of five every second one, and flips


@pytest.mark.parametrize("far", [1.0, 1e3])
def test_the_start_of_a_run_and_the_tolerances_of_its_steps(far):
    problem, net = start_of(bias=False)
    problem = regression(problem.X, far * problem.Y, net)
    loop = _PieceLoop(problem, net, 1e-2, 1.0, 1e-6, 100)
    point, y = loop.point, loop.y
    size = float(np.linalg.norm(y[:-1]))
    assert loop.target == 1e-2 * point.gap and _PieceLoop(problem, net, None, 1.0, 1e-6, 9).target == -math.inf
    assert loop.unit == 2.0 ** round(math.log2(point.speed / size))
    assert (loop.times, loop.gaps, loop.rates, loop.paths) == ([0.0], [point.gap], [point.rate], [0.0])
    assert loop.steps == loop.evaluations == 0 and loop.kept[0].flip and loop.kept[0].t == 0.0
    assert loop._step(y, 0.0, 1.0) is not None
    allowed = loop.solver[0].atol
    np.testing.assert_allclose(allowed[:-1], loop.tolerance(y, point) / math.sqrt(len(y)), rtol=1e-14, atol=0)
    assert (point.gap / point.speed > size) == (far > 1)
    path = 1e-6 * np.linalg.norm(point.residual) * min(point.gap / point.speed, size) / point.speed
    assert allowed[-1] == near(path, rel=1e-13, abs=0) and loop.steps == 1 and loop.evaluations > 8


def test_the_pattern_of_a_run_at_its_start(monkeypatch):
    asked = []

    def resolve(self, y, pattern, j, S):
        asked.append((j, S.tolist(), pattern.sides.tolist()))
        return pattern

    monkeypatch.setattr(Field, "resolve", resolve)
    net = relu.Network([[0.5, -1.0, 0.0], [0.0, 2.0, 0.0]], np.ones((3, 1)))
    X = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    problem = regression(X, np.ones(3), net)
    loop = _PieceLoop(problem, net, None, 1.0, 1e-8, 100)
    sides = [[ON, OFF, OFF], [OFF, ON, OFF], [OFF, ON, OFF]]
    assert (
        asked == [(0, [1], sides), (2, [0, 1, 2], sides)] and loop.pattern.sides.tolist() == sides and loop.t == 0.0
    )
    asked.clear()
    smooth = relu.SmoothNetwork(net.U, net.V)
    assert _PieceLoop(problem, smooth, None, 1.0, 1e-8, 100).unit > 0 and not asked
    # A unit of time far from 1, in both directions, and where nothing moves.
    for power in (-12, 9):
        fast = relu.Network(net.U, 2.0**power * net.V)
        loop = _PieceLoop(regression(2.0**power * X, 4.0**power * np.ones(3), fast), fast, None, 1.0, 1e-8, 9)
        ratio = loop.point.speed / np.linalg.norm(loop.y[:-1])
        assert loop.unit == 2.0 ** round(math.log2(ratio)) and abs(math.log2(loop.unit)) > 5
    still = relu.Network(np.zeros((2, 3)), np.zeros((3, 1)))
    assert _PieceLoop(regression(X, np.ones(3), still), still, None, 1.0, 1e-8, 9).unit == 1.0
    monkeypatch.setattr(PiecePoint, "speed", math.inf)
    assert _PieceLoop(problem, net, None, 1.0, 1e-8, 9).unit == 1.0


def test_a_step_of_the_flow(monkeypatch):
    problem, net = start_of(seed=2, bias=False)
    fast = relu.Network(net.U, 16 * net.V, None, 0.25)  # a unit of time that is not 1
    calls, velocity = [], Field.velocity
    monkeypatch.setattr(Field, "velocity", lambda self, *given: (calls.append(1), velocity(self, *given))[1])
    loop = _PieceLoop(problem, fast, None, 1.0, 1e-10, 100)
    assert loop.unit > 4
    y, pattern = loop.y, loop.pattern
    size, point, made = np.linalg.norm(y[:-1]), loop.point, loop._solver
    firsts = []
    monkeypatch.setattr(loop, "_solver", lambda *given: (firsts.append(given[1:]), made(*given))[1])
    new, reached, dense = loop._step(y, 0.0, 1.0) or (y, 0.0, None)
    assert firsts[0] == (0.0, 1.0, near(min(0.01 * size, point.gap / point.speed) / point.speed, rel=1e-14))
    solver = loop.solver[0]
    assert loop.evaluations == len(calls) and loop.steps == 1 and 0 < reached < 1
    assert reached == near(solver.t / loop.unit, rel=1e-15) and loop.length == near(
        solver.h_abs / loop.unit, rel=1e-15
    )
    z, h = y, reached / 400
    for _ in range(400):  # the rule of Runge and Kutta, with an error below 1e-11 of the weights here
        k1 = velocity(loop.field, z, pattern)
        k2 = velocity(loop.field, z + 0.5 * h * k1, pattern)
        k3 = velocity(loop.field, z + 0.5 * h * k2, pattern)
        k4 = velocity(loop.field, z + h * k3, pattern)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    np.testing.assert_allclose(new, z, rtol=0, atol=1e-8 * size)
    assert dense is not None
    np.testing.assert_allclose(dense(reached), new, rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose(dense(0.0), y, rtol=0, atol=1e-12 * size)
    # The integrator goes on as long as the weights, the pattern and the end are those that it has.
    loop._keep(reached, new, False)
    loop._step(loop.y, reached, 1.0)
    assert loop.solver[0] is solver and len(firsts) == 1 and loop.evaluations == len(calls)
    length = loop.length
    for change, given in (
        ("weights", (new.copy(), reached, 1.0)), ("end", (solver.y, loop.t, 2.0)), ("pattern", (None, loop.t, 2.0)),
    ):  # fmt: skip
        if change == "pattern":
            loop.pattern = Pattern(pattern.sides.copy(), 0.25)
        before = len(firsts)
        loop._step(loop.solver[0].y if given[0] is None else given[0], *given[1:])
        assert len(firsts) == before + 1, change
    assert firsts[1][2] == near(length, rel=1e-15)
    # To an end that is near: the length of the steps is kept.
    loop.length = 0.5
    end = loop.t + 1e-6
    last = loop._step(new.copy(), loop.t, end)
    assert firsts[-1][2] == near(1e-6, rel=1e-6) and last is not None and last[1] == end and loop.length == 0.5


class Loop:
    """What is made of a loop by the function of a run, and asked of it."""

    made: list[Any]

    def __init__(self, problem, net, until, end, rtol, max_steps):
        self.problem, self.net, self.until, self.end, self.rtol, self.max_steps = problem, net, until, end, rtol, 9
        self.made.append((until, end, rtol, max_steps))

    def run(self):
        return Result.TARGET

    def trajectory(self, result, seconds, error):
        self.made.append((result, seconds, error))
        return SimpleNamespace(difference=lambda other: 0.125, seconds=seconds)


def test_the_arguments_of_a_run_and_of_the_one_that_it_is_compared_with(monkeypatch):
    problem, net = start_of(bias=False)
    monkeypatch.setattr(flow, "_PieceLoop", Loop)
    for given, until, end in (
        ({}, 1e-8, math.inf), ({"t_max": 2.0}, None, 2.0), ({"until": 0.25}, 0.25, math.inf),
        ({"until": 0.25, "t_max": 2.0}, 0.25, 2.0),
    ):  # fmt: skip
        Loop.made = made = []
        run = relu.gradient_flow(problem.X, problem.Y, net, rtol=1e-5, max_steps=7, **given)
        assert made[0] == (until, end, 1e-5, 7) and made[1][0] is Result.TARGET
        assert 0 <= run.seconds < 1e4  # a duration, not a time of day
    for rtol, coarse in ((1e-5, 1e-4), (0.04, 0.4), (0.2, 0.5)):
        Loop.made = made = []
        loop: Any = Loop(problem, net, 0.25, 2.0, rtol, 9)
        assert flow._difference(loop, Result.TIME_LIMIT) == 0.125
        assert made[1] == (0.25, 2.0, near(coarse, rel=1e-15), 9)
        assert [x[:2] for x in made[2:]] == [(Result.TARGET, 0.0), (Result.TIME_LIMIT, 0.0)]
        assert all(math.isnan(x[2]) for x in made[2:])


def test_what_follows_a_step_of_a_run():
    """The state is its own loss; the target is 1. An event at ½ is met at the loss 2, and the step ends at ½."""
    pairs = [(0, 0, 0)]
    for y, event, result, done in (
        (0.5, None, Result.TARGET, [("keep", 0.75, 0.9, False)]),
        (0.5, (0.5, pairs), Result.TIME_LIMIT, [("turn", 0.5, pairs)]),
        (1.5, None, Result.TIME_LIMIT, [("keep", 1.0, 1.5, False)]),
    ):
        told, ends = [], iter([None, Result.TIME_LIMIT])
        loop = self_of(
            steps=0, max_steps=5, y=3.0, t=0.0, end=9.0, target=1.0, pattern=None,
            field=self_of(at=lambda y, pattern: self_of(gap=y)),
            _ended=lambda ends=ends: next(ends),
            _step=lambda *given, y=y: (y, 1.0, lambda s: 2.0),
            _first_event=lambda t, dense, event=event: event,
            _land=lambda t, dense: (0.75, 0.9),
            _keep=lambda *given, told=told: told.append(("keep", *given)),
            _turn=lambda *given, told=told: told.append(("turn", *given)),
        )  # fmt: skip
        assert _PieceLoop.run(loop) is result and told == done
    stuck = self_of(steps=0, max_steps=5, y=3.0, t=0.0, end=9.0, _ended=lambda: None, _step=lambda *given: None)
    for rounding, result in ((True, Result.ROUNDING), (False, Result.STEP_UNDERFLOW)):
        stuck._at_rounding = lambda rounding=rounding: rounding
        assert _PieceLoop.run(stuck) is result
    problem, net = start_of(bias=False)
    loop = _PieceLoop(problem, net, None, math.inf, 1e-8, 2)
    assert loop.run() is Result.STEP_LIMIT and loop.steps >= 2
    assert _PieceLoop.run(self_of(steps=2, max_steps=2)) is Result.STEP_LIMIT
    stats = loop.trajectory(Result.STEP_LIMIT, 0.5, 0.25).stats
    assert (stats.steps, stats.rejected, stats.evaluations, stats.seconds, stats.gap_error) == (
        loop.steps, 0, loop.evaluations, 0.5, 0.25,
    )  # fmt: skip


def test_a_turn_of_a_run():
    """Samples 0 and 1 leave sliding by their ways; 2, and 3 of neuron 4, are resolved with those that are held."""
    sides = np.full((4, 5), OFF)
    sides[0, 1] = sides[3, 1] = sides[1, 4] = SLIDING
    told: list[Any] = []

    def resolve(y, pattern, j, S):
        told.append(("resolve", y, pattern.sides[:, j].tolist(), j, S.tolist()))
        return pattern.turned(S, j, np.full(len(S), ON))

    pattern = Pattern(sides, 0.0)
    loop = self_of(
        y=1.0, t=2.0, pattern=pattern, flips=[],
        field=self_of(at=lambda y, pattern: self_of(rate=y), resolve=resolve),
        _advance=lambda *given: (told.append(("advance", *given)), 3.0)[1],
        _onto_zero=lambda y, j, S: (told.append(("onto", y, j, S.tolist())), y + 1)[1],
        _keep=lambda *given: told.append(("keep", *given)),
    )  # fmt: skip
    _PieceLoop._turn(loop, 2.5, [(3, 4, 0), (0, 1, ON), (2, 1, 0), (1, 4, OFF)])
    assert told == [
        ("advance", 1.0, 2.0, 2.5, pattern),
        ("onto", 3.0, 1, [2, 3]),
        ("resolve", 4.0, [ON, OFF, OFF, SLIDING], 1, [2, 3]),
        ("onto", 4.0, 4, [3]),
        ("resolve", 5.0, [OFF] * 4, 4, [3]),
        ("keep", 2.5, 5.0, True, 3.0),
    ]
    assert [(f.t, f.neuron, f.sample, f.before, f.after) for f in loop.flips] == [
        (2.5, 1, 0, "sliding", "on"),
        (2.5, 4, 1, "sliding", "off"),
        (2.5, 1, 2, "off", "on"),
        (2.5, 1, 3, "sliding", "on"),
        (2.5, 4, 3, "off", "on"),
    ]


def test_the_way_to_a_time_on_one_pattern():
    for length, first in ((None, 1.0), (0.25, 0.25), (5.0, 1.0)):
        told: list[Any] = []
        loop = self_of(pattern="old", length=length, solver="kept")

        def step(y, t, end, loop=loop, told=told):
            told.append((y, t, end, loop.length, loop.pattern))
            return (y + 1, t + 0.5, None) if t < 2.5 else (y + 1, end, None)

        loop._step = step
        assert _PieceLoop._advance(loop, 7.0, 2.0, 3.0, "other") == 9.0  # pyright: ignore[reportArgumentType]
        assert told == [(7.0, 2.0, 3.0, first, "other"), (8.0, 2.5, 3.0, min(first, 0.5), "other")]
        assert (loop.pattern, loop.length, loop.solver) == ("old", length, (None, None))
    loop._step = lambda *given: None
    assert _PieceLoop._advance(loop, 7.0, 2.0, 3.0, "other") == 7.0  # pyright: ignore[reportArgumentType]
    assert _PieceLoop._advance(loop, 7.0, 3.0, 3.0, "other") == 7.0  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("rate", "apart", "rounds"), [(1.0, 1e-3, 2), (4.0, 1e-3, 3), (1.0, 0.9e-6, 1), (1.0, 1.5e-6, 2)]
)
def test_where_the_loss_meets_its_target(rate, apart, rounds):
    """The loss is e^{−s}, the target is met at 1½; the weights of a step are a little later than the dense output."""
    asked = []

    def advance(y, t, at, pattern):
        asked.append(at)
        return at + apart

    loop = self_of(
        t=1.0, y=1.0, rtol=1e-3, target=math.exp(-1.5), pattern=None, _advance=advance,
        field=self_of(at=lambda s, pattern: self_of(gap=math.exp(-s), rate=rate)),
    )  # fmt: skip
    at, y = _PieceLoop._land(loop, 2.0, lambda s: s)
    expected = [1.5]
    for _ in range(rounds - 1):
        expected.append(expected[-1] + (1.5 - expected[-1] - apart) / -rate * -1)
    assert asked == near(expected, rel=1e-9, abs=0)
    assert y == asked[-1] + apart and abs(at - 1.5) <= 2 * apart
    loop.target = math.exp(-2.0005)  # met after the step by its dense output, and in it by the weights
    asked.clear()
    at, _ = _PieceLoop._land(loop, 2.0, lambda s: s)
    assert asked[0] == 2.0 and max(asked) <= 2.0 and at <= 2.0
