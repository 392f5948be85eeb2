"""Every certificate as docs/theory.md and docs/descent.md have it, written out anew.

An ε of 2⁻¹⁰ and a large `STRICT` show every allowance for rounding and its direction; the two sides then do the
same few operations, and agree to a few roundings (1e-12).
"""

import math
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.bounds import Invariants, _base, any_imbalance, three_layers, two_layers
from linflow.bounds.ceilings import prefix_ceilings, suffix_ceilings
from linflow.certificates import (
    _base as guarantees,
)
from linflow.certificates import (
    curves,
    envelope,
    exponential,
    lazy,
    published_descent,
    step_bounds,
    tail,
)
from linflow.certificates import scheduled_descent as scheduled
from linflow.certificates.caps import Caps
from linflow.certificates.setting import Setting
from linflow.dynamics.local_smoothness import local_constant
from linflow.geometry import operator

FLOORS = import_module("linflow.bounds.operator_floors").THEOREM
INTERVAL = import_module("linflow.bounds.operator_interval").THEOREM
margin = import_module("linflow.certificates.margin")  # the package has a function of that name
SAME = 1e-12
COARSE = 2.0**-10


def near(x, rel=SAME, abs=0.0):
    return pytest.approx(x, rel=rel, abs=abs)


# --- curves --------------------------------------------------------------------------------------------------------


def test_logarithms_of_ratios_are_raised_by_their_rounding(monkeypatch):
    monkeypatch.setattr(curves, "EPS", COARSE)
    assert curves.log_ratio(8.0, 2.0) == near(math.log(4) * (1 + 4 * COARSE) + 4 * COARSE)
    assert curves.log_ratio(1e300, 1e-300) == near(600 * math.log(10) * (1 + 4 * COARSE) + 4 * COARSE)
    assert curves.log_ratio(1.0, 0.0) == math.inf


def test_a_gap_falls_by_its_factor_raised_by_rounding(monkeypatch):
    monkeypatch.setattr(curves, "EPS", COARSE)
    for d, k in ((0.1, 7), (1e-3, 1000), (0.9, 1)):
        x = -k * math.log1p(-d)
        assert curves.decayed(3.0, d, k) == near(min(3.0, 3.0 * math.exp(-x) * (1 + 8 * COARSE * (4 + x))))
    assert curves.decayed(3.0, 1e-9, 1) == 3.0  # never above the gap
    assert [curves.decayed(3.0, d, k) for d, k in ((0.5, 0), (1.0, 0), (1.0, 1), (1.5, 2))] == [3.0, 3.0, 0.0, 0.0]


def test_steps_down_are_enough_and_no_more_than_rounding_asks(monkeypatch):
    assert [curves.steps_to_decay(1.0, *x) for x in ((1.0, 0.5), (2.0, 0.5), (0.5, 1.0), (0.5, 1.5))] == [0, 0, 1, 1]
    for d in (0.0, -0.1):
        with pytest.raises(OverflowError):
            curves.steps_to_decay(1.0, 0.5, d)
    for d in (0.3, 1e-3, 1e-10):
        for y in (0.5, 1e-9):
            exact = math.log(1 / y) / -math.log1p(-d)
            assert 0 < curves.steps_to_decay(1.0, y, d) - exact <= 1 + 100 * np.finfo(float).eps * exact + 1e-6
    monkeypatch.setattr(curves, "EPS", COARSE)
    ratio = math.log(1e9) * (1 + 4 * COARSE) + 4 * COARSE
    literal = (ratio * (1 + 32 * COARSE) + 64 * COARSE) / -math.log1p(-1e-3) * (1 + 4 * COARSE)
    assert curves.steps_to_decay(1.0, 1e-9, 1e-3) == math.ceil(literal)


def test_an_exponential_falls_at_its_rate():
    curve = curves.ExponentialCurve(3.0, 2.0)
    assert curve.gap(0.5) == near(3 / math.e) and curve.rate_at(1.0) == 2.0 and curve.rate == 2.0
    assert curve.time(1.0) == near(math.log(3) / 2) and curve.time(3.0) == 0.0 and curve.time(4.0) == 0.0


def test_a_curve_of_levels_has_the_rate_of_each(monkeypatch):
    curve = curves.LevelCurve(np.array([4.0, 1.0, 0.25]), np.array([1.0, 2.0, 0.5]))
    first, second = math.log(4), math.log(4) / 2
    np.testing.assert_allclose(curve.times, [0, first, first + second], rtol=SAME)
    assert (curve.rate, curve.final_rate) == (0.5, 0.5)
    assert curves.LevelCurve(np.array([4.0, 1.0]), np.array([1.0, 2.0])).rate == 1.0
    assert curve.gap(0.0) == 4.0 and curve.gap(1.0) == near(4 / math.e) and curve.gap(first) == near(1.0)
    assert curve.gap(first + 0.25) == near(math.exp(-0.5))
    assert curve.gap(first + second + 2) == near(0.25 / math.e)
    assert [curve.time(y) for y in (4.0, 5.0)] == [0.0, 0.0]
    assert curve.time(2.0) == near(math.log(2)) and curve.time(1.0) == near(first)
    assert curve.time(0.5) == near(first + math.log(2) / 2) and curve.time(0.05) == near(
        first + second + math.log(5) / 0.5
    )
    # On a border the slower of the two rates, next to it that of the level.
    assert [curve.rate_at(y) for y in (4.0, 2.0, 1.0, 0.5, 0.25, 0.1)] == [1.0, 1.0, 1.0, 2.0, 0.5, 0.5]
    border = (1.0 * (1 + 2e-9), 1.0 * (1 + 0.5e-9), 1.0 * (1 - 0.5e-9), 1.0 * (1 - 2e-9))
    assert [curve.rate_at(y) for y in border] == [1.0, 1.0, 1.0, 2.0]
    assert [curve.rate_at(y) for y in (1 - 1.5e-9, 1 - 0.9e-9)] == [2.0, 1.0]
    assert [curve.rate_at(0.25 * (1 + x)) for x in (1.5e-9, 0.9e-9)] == [2.0, 0.5]
    assert [curve.rate_at(y) for y in (4.1, 4.0)] == [1.0, 1.0]
    stuck = curves.LevelCurve(np.array([4.0, 1.0]), np.array([1.0, 0.0]))
    assert stuck.time(0.5) == math.inf and stuck.time(1.0) == near(first) and stuck.gap(100.0) == 1.0
    never = curves.LevelCurve(np.array([4.0, 1.0]), np.array([0.0, 1.0]))
    assert never.times[1] == math.inf and never.time(2.0) == math.inf
    monkeypatch.setattr(curves, "EPS", COARSE)
    span = math.log(2) * (1 + 4 * COARSE) + 4 * COARSE
    assert curve.time(0.5) == near((first + span / 2) * (1 + 4 * COARSE))


def test_a_decay_to_a_limit(monkeypatch):
    monkeypatch.setattr(curves, "EPS", COARSE)
    curve, x = curves.LimitCurve(5.0, 1.0, 2.0), 2 * 0.7
    assert curve.gap(0.7) == near(1 + 4 * math.exp(-x) * (1 + 8 * COARSE * (1 + x))) and curve.gap(0.0) == 5.0
    falls = math.log(4 / (1 - 4 * COARSE)) * (1 + 4 * COARSE) + 4 * COARSE
    assert curve.time(2.0) == near(falls / 2 * (1 + 4 * COARSE)) and curve.time(5.0) == 0.0
    assert curve.time(1 + 4 * COARSE) == math.inf > curve.time(1 + 4.01 * COARSE)
    assert curve.rate_at(4.0) == near(1.5) and curve.rate_at(1.0) == 0.0
    assert curves.LimitCurve(5.0, 0.0, 2.0).rate_at(0.0) == curve.rate == 0.0


def test_the_loss_of_a_flow_has_its_gap_for_a_ceiling_and_that_of_a_descent_has_none():
    f, net = lf.MatrixFactorization(np.eye(2)), lf.Network([np.eye(2), 2 * np.eye(2)])
    for algorithm, ceiling in (("flow", 1.0), ("descent", math.inf)):
        found = Setting(f, net, algorithm).guarantee(name="", source="", citation=(), reason="none")
        assert found.gap_at(9.0) == ceiling


def test_a_curve_of_steps_counts_whole_ones(monkeypatch):
    curve = curves.StepCurve(8.0, 0.1, 0.5)
    assert curve.factor == 0.5 and curve.rate == near(math.log(2) / 0.1) and curve.rate_at(1.0) == curve.rate
    assert curves.StepCurve(8.0, 0.1, 1.0).rate == math.inf
    assert curve.gap_after(3) == near(1.0) and curve.steps(8.0) == 0 and curve.steps(1.01) == 3
    assert curve.time(1.01) == near(0.3) and curves.StepCurve(8.0, 0.1, 0.0).steps(1.0) == math.inf
    assert [curve.gap(t) for t in (0.0, 0.0999, 0.1, 0.3, 0.3 - 1e-17, 0.39)] == [
        near(8.0), near(8.0), near(4.0), near(1.0), near(1.0), near(1.0),
    ]  # fmt: skip
    # A time counts as a whole number of steps up to 1e-9 + 1e-12 k, at most 1e-3, and its rounding.
    unit = curves.StepCurve(1.0, 1.0, 1e-4)
    for k, room in ((10, 1e-9 + 1e-11), (10**6, 1e-9 + 1e-6)):
        assert unit.gap(k - 0.9 * room) == unit.gap_after(k) and unit.gap(k - 1.2 * room) == unit.gap_after(k - 1)
    slow = curves.StepCurve(1.0, 1.0, 1e-12)
    k = 2.0**32
    assert slow.gap(k - 0.9e-3) == slow.gap_after(k) and slow.gap(k - 1.3e-3) == slow.gap_after(k - 1)
    monkeypatch.setattr(curves, "EPS", 2.0**-20)
    assert unit.gap(2.0**14 - 0.9 * 2.0**-4) == unit.gap_after(2**14)
    assert unit.gap(2.0**14 - 1.1 * 2.0**-4) == unit.gap_after(2**14 - 1)


# --- envelope ------------------------------------------------------------------------------------------------------


def test_levels_are_even_in_the_root_and_then_geometric():
    levels = envelope.gap_levels(3.0)
    roots = np.sqrt(levels / 3.0)
    np.testing.assert_allclose(roots[:60], np.linspace(1, 0.05, 60), rtol=SAME)
    count = math.ceil(math.log(1e-7 / 0.05) / math.log(0.84))
    np.testing.assert_allclose(roots[59:], 0.05 * 0.84 ** np.arange(count + 1), rtol=SAME)
    assert roots[-1] <= 1e-7 < roots[-2]


class Balls:
    """Floors `1/(1 + R)²` on balls: nearby weights, of which the envelope asks by a path and a fall."""

    def __init__(self):
        self.asked = []

    def floor_and_reach(self, travelled, fall):
        self.asked.append((travelled, fall))
        for radius in np.linspace(0, 4, 401):
            if travelled + 2 * fall * (1 + radius) <= radius:
                return 1 / (1 + radius) ** 2, travelled + 2 * fall * (1 + radius)
        return 0.0, math.inf


def test_the_envelope_follows_path_and_rate_level_by_level():
    levels, gamma = np.array([0.04, 0.01, 0.0025]), 2.5
    for floors in ([0.0, 0.0, 0.0], [0.3, 0.3, 0.9], [0.99, 0.0, 0.0], [2.0, 3.0, 4.0]):
        balls = Balls()
        curve = envelope.envelope(levels, gamma, np.array(floors), balls)
        rates, travelled = [], 0.0
        roots = [math.sqrt(y / gamma) for y in levels] + [0.0]
        for k in range(3):
            fall = roots[k] - roots[k + 1]
            assert balls.asked[k] == (near(travelled), near(fall))
            held, reach = Balls().floor_and_reach(travelled, fall)
            if floors[k] >= held:
                held, reach = floors[k], travelled + 2 * fall / math.sqrt(floors[k])
            rates.append(gamma * held)
            travelled = reach
        np.testing.assert_allclose(curve.rates, rates, rtol=SAME)
        np.testing.assert_array_equal(curve.levels, levels)
    alone = envelope.envelope(levels, gamma, np.array([0.5, 0.0, 2.0]), None)
    np.testing.assert_allclose(alone.rates, [1.25, 0.0, 5.0], rtol=SAME)
    assert envelope.envelope(levels, gamma, np.array([0.0, 1.0, 1.0]), None) is None
    # Once the path is endless no ball is asked for.
    lost = Balls()
    curve = envelope.envelope(np.array([4.0, 3.99, 1e-4]), 1.0, np.array([1.0, 0.0, 0.0]), lost)
    assert curve.rates.tolist() == [1.0, 0.0, 0.0] and len(lost.asked) == 2


# --- the lazy regime -----------------------------------------------------------------------------------------------


def interaction_of(x):
    L = len(x)
    C = np.array(
        [
            [0.0 if i == j else math.prod(x[k] for k in range(L) if k not in (i, j)) for j in range(L)]
            for i in range(L)
        ]
    )
    return float(np.linalg.eigvalsh(C)[-1])


def test_the_interaction_is_the_greatest_eigenvalue_of_products_of_norms(rng):
    for L in (1, 2, 3, 4, 5):
        norms = rng.uniform(0.1, 3.0, (L, 4))
        np.testing.assert_allclose(
            lazy.interaction(norms), [interaction_of(x) for x in norms.T], rtol=SAME, atol=1e-15
        )
    endless = lazy.interaction(np.array([[1.0, math.inf], [1.0, 1.0], [1.0, 1.0]]))
    assert endless[1] == math.inf and endless[0] == near(2.0)
    np.testing.assert_allclose(lazy.products_without(np.array([[2.0], [3.0], [5.0]]), 0), [15.0])
    np.testing.assert_allclose(lazy.products_without(np.array([[2.0], [3.0], [5.0]]), 0, 2), [3.0])


def test_norms_and_the_least_eigenvalue_allow_for_rounding(monkeypatch, rng):
    monkeypatch.setattr(lazy, "EPS", COARSE)
    shapes = ((2, 7), (7, 3), (3, 2))
    net = lf.Network([rng.standard_normal(s) for s in shapes], 0.7)
    norms = lazy.spectral_norms(net)
    literal = [np.linalg.norm(W, 2) * (1 + 16 * COARSE * max(W.shape)) for W in net.weights]
    np.testing.assert_allclose(norms, literal, rtol=SAME)
    monkeypatch.setattr(operator, "EPS", 2.0**-22)
    sizes = [np.linalg.norm(W) for W in net.weights]
    terms = sum(math.prod(sizes[k] for k in range(3) if k != l) ** 2 for l in range(3))
    rounding = 16 * 2.0**-22 * 3 * math.sqrt(7) * 0.49 * terms
    T = np.linalg.eigvalsh(lf.TangentOperator(net).dense())[0]
    assert lazy.least_floor(net) == near(T - rounding, rel=1e-10)
    # Where T is too large to form: Σ λ_n(PPᵀ) λ_m(SᵀS).
    monkeypatch.setattr(lazy, "DENSE_LIMIT", 3)
    W1, W2, W3 = net.weights

    def least(A):
        return np.linalg.eigvalsh(A)[0]

    floor = least(W2 @ W3 @ W3.T @ W2.T) * 0  # S_2ᵀS_2 below
    floor = least((W2 @ W3).T @ (W2 @ W3)) + least(W1 @ W1.T) * least(W3.T @ W3) + least(W1 @ W2 @ W2.T @ W1.T)
    assert lazy.least_floor(net) == near(0.49 * floor - rounding, rel=1e-10)
    monkeypatch.setattr(lazy, "DENSE_LIMIT", 4)
    assert lazy.least_floor(net) == near(T - rounding, rel=1e-10)
    assert lazy.least_floor(lf.Network([np.eye(2)], 0.7)) == near(0.49)
    # The order counts where it is above the widths; two layers are exact whatever the limit.
    monkeypatch.setattr(lazy, "DENSE_LIMIT", 0)
    two = lf.Network([rng.standard_normal((3, 4)), rng.standard_normal((4, 3))])
    terms = sum(np.linalg.norm(W) ** 2 for W in two.weights)
    T = least(two.weights[0] @ two.weights[0].T) + least(two.weights[1].T @ two.weights[1])
    assert lazy.least_floor(two) == near(T - 16 * 2.0**-22 * 2 * 3 * terms, rel=1e-10)
    assert lazy._least(None, 2, left=True) == 1.0
    assert lazy._least(np.ones((3, 2)), 3, left=True) == 0.0 and lazy._least(np.ones((2, 3)), 3, left=False) == 0.0
    assert lazy._least(2 * np.eye(2), 2, left=True) == near(4.0) and lazy._least(
        2 * np.eye(2), 2, left=False
    ) == near(4.0)
    assert lazy._least(np.diag([3.0, 2.0])[:, :2], 2, left=True) == near(4.0)
    assert lazy._least(np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), 2, left=True) == near(4.0)
    assert lazy._least(np.array([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), 2, left=False) == near(4.0)


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((2, 3), (3, 3), (3, 2)), ((1, 2), (2, 2), (2, 2), (2, 1))])
def test_floors_on_balls_are_upper_sums_of_what_the_root_may_fall(rng, shapes):
    net = lf.Network([np.eye(*s) + 0.1 * rng.standard_normal(s) for s in shapes], 0.7)
    around = lazy.Neighbourhood.of(net)
    root, norms = math.sqrt(lazy.least_floor(net)), lazy.spectral_norms(net)
    end = root / (0.7 * interaction_of(norms))
    radii = [(j / 400) ** 2 * end for j in range(401)]
    np.testing.assert_allclose(around.radii, radii, rtol=SAME)
    fallen, literal = 0.0, [root**2]
    for a, b in pairwise(radii):
        fallen += (b - a) * 0.7 * interaction_of(norms + b)  # the slope increases: its value at the outer end
        literal.append(max(root - fallen, 0.0) ** 2)
    np.testing.assert_allclose(around.floors, literal, rtol=1e-11, atol=1e-14)
    exact = np.array(
        [
            root
            - 0.7 * np.trapezoid([interaction_of(norms + s) for s in np.linspace(0, r, 50)], np.linspace(0, r, 50))
            for r in radii[::40]
        ]
    )
    assert np.all(around.floors[::40] <= np.maximum(exact, 0) ** 2 + 1e-6)


def test_where_one_layer_or_nothing_is_there_is_one_ball():
    one = lazy.Neighbourhood.of(lf.Network([np.eye(2)], 0.5))
    assert one.radii.tolist() == [0.0, math.inf] and one.floors.tolist() == [0.25, 0.25]
    none = lazy.Neighbourhood.of(lf.Network([np.zeros((2, 2)), np.zeros((2, 2))]))
    assert none.radii.tolist() == [0.0, 0.0] and none.floors.tolist() == [0.0, 0.0]


def test_a_floor_must_hold_on_the_ball_where_the_path_ends():
    around = lazy.Neighbourhood(np.array([0.0, 1.0, 2.0, 3.0]), np.array([4.0, 1.0, 0.25, 0.0]))
    assert around.floor_and_reach(0.0, 0.5) == (1.0, 1.0)  # 2·0.5/1 = 1 just fits
    assert around.floor_and_reach(0.0, 0.0) == (4.0, 0.0)
    assert around.floor_and_reach(0.5, 0.3) == (0.25, near(0.5 + 0.6 / 0.5))
    assert around.floor_and_reach(0.0, 0.6) == (0.0, math.inf)
    nothing = lazy.Neighbourhood(np.array([0.0, 0.0]), np.array([0.0, 0.0]))
    assert nothing.floor_and_reach(0.0, 0.0) == (0.0, math.inf)


# --- margin --------------------------------------------------------------------------------------------------------


@pytest.fixture
def regression(rng):
    X, Y = rng.standard_normal((6, 2)), rng.standard_normal((6, 3))
    f = lf.LinearRegression(X, Y)
    W = f.minimizer + 0.02 * rng.standard_normal((2, 3))
    u, s, v = np.linalg.svd(W, full_matrices=False)
    return f, lf.Network([2.0 * u * np.sqrt(s), (np.sqrt(s)[:, None] * v)], 0.5)


def test_the_margin_is_its_definition_less_its_rounding(monkeypatch, regression):
    f, net = regression
    eps = 2.0**-20
    monkeypatch.setattr(margin, "EPS", eps)
    mu, K = f.strong_convexity, f.smoothness
    assert mu < 0.9 * K
    W = net.product()
    away = np.linalg.norm(W - f.minimizer)
    sigmas = np.linalg.svd(f.minimizer, compute_uv=False)
    rounding = 16 * eps * (f.minimizer_size + net.magnitude())
    literal = sigmas[-1] - math.sqrt(K / mu) * (away + rounding)
    assert literal > 0 and lf.margin(f, net, "distance") == near(literal)
    gap = f.gap(W)
    off = rounding + 4 * math.sqrt(2 * f.rounding(net) / mu)
    assert lf.margin(f, net) == near(sigmas[-1] - math.sqrt(2 * gap / mu) - off)
    gaps = np.array([gap, gap / 9, 0.0, -1e-20, 100 * gap])
    low, following, high = margin.product_range(f, net, gaps)
    reach = np.sqrt(2 * np.maximum(gaps, 0) / mu) + off
    np.testing.assert_allclose(low, np.maximum(sigmas[1] - reach, 0), rtol=SAME)
    np.testing.assert_allclose(following, np.maximum(sigmas[0] - reach, 0), rtol=SAME)
    np.testing.assert_allclose(high, sigmas[0] + reach, rtol=SAME)
    np.testing.assert_allclose(margin.most_of_least(f, net, gaps), sigmas[1] + reach, rtol=SAME)


def test_the_reach_of_a_gap_grows_by_its_rounding(monkeypatch, regression):
    f, net = regression
    plain = margin._reach(f, net, np.array([0.5]))
    exact, noise = math.sqrt(2 * f.rounding(net) / f.strong_convexity), 1e-6
    monkeypatch.setattr(f, "rounding", lambda net: noise)
    grown = margin._reach(f, net, np.array([0.5]))
    assert grown - plain == near(4 * (math.sqrt(2 * noise / f.strong_convexity) - exact), rel=1e-9)


def test_without_curvature_or_minimiser_there_is_no_margin():
    net = lf.Network([np.eye(2), np.eye(2)])
    value, gradient = (lambda W: float(np.sum(W * W)) / 2), (lambda W: W)
    plain = lf.Objective(value, gradient, shape=(2, 2), pl_constant=2.0, minimum=0.0)
    known = lf.Objective(value, gradient, shape=(2, 2), strong_convexity=1.0, minimum=0.0)
    for f in (plain, known):
        assert lf.margin(f, net) == lf.margin(f, net, "distance") == 0.0
        low, following, high = margin.product_range(f, net, np.ones(2))
        assert low.tolist() == [0, 0] and following.tolist() == [0, 0] and high.tolist() == [math.inf, math.inf]
        assert margin.most_of_least(f, net, np.ones(2)).tolist() == [math.inf, math.inf]
    smooth = lf.Objective(value, gradient, shape=(2, 2), strong_convexity=1.0, smoothness=2.0, minimum=0.0)
    flat = lf.Objective(value, gradient, shape=(2, 2), pl_constant=2.0, smoothness=2.0, minimizer=np.zeros((2, 2)))
    assert lf.margin(smooth, net, "distance") == lf.margin(flat, net, "distance") == 0.0
    endless = lf.Objective(value, gradient, shape=(2, 2), strong_convexity=1.0, minimizer=np.eye(2))
    assert lf.margin(endless, net, "distance") == 0.0
    vector = lf.MatrixFactorization(np.ones((1, 2)))
    row = lf.Network([np.ones((1, 1)), np.ones((1, 2))])
    assert margin.product_range(vector, row, np.zeros(1))[1].tolist() == [math.inf]
    f = lf.Objective(lambda W: 0.0, lambda W: W * 0, shape=(1, 2), pl_constant=2.0, minimum=0.0)
    assert margin.product_range(f, row, np.zeros(1))[1].tolist() == [math.inf]


# --- past float64 --------------------------------------------------------------------------------------------------


def quadratic(gap=1.0, gamma=2.0, K=1.0, minimizer=None, shape=(1, 1)):
    return lf.Objective(
        lambda W: gap, lambda W: W * 0, shape=shape, pl_constant=gamma, smoothness=K, minimum=0.0, minimizer=minimizer
    )  # fmt: skip


def test_what_guarantees_ask_of_a_start(rng):
    weights = [rng.standard_normal(s) for s in ((2, 5), (5, 3), (3, 4), (4, 3))]
    net, Y = lf.Network(weights, 0.5), rng.standard_normal((2, 3))
    setting = Setting(lf.MatrixFactorization(Y), net, "descent")
    assert (setting.n, setting.m, setting.depth, setting.scale, setting.narrowest) == (2, 3, 4, 0.5, 3)
    assert setting.gap == near(0.5 * np.sum((net.product() - Y) ** 2)) and setting.gamma == 2.0
    assert setting.distance == near(np.linalg.norm(net.product() - Y))
    assert setting.least_of_target == near(np.linalg.svd(Y)[1][1])
    assert setting.strongly_convex and setting.too_narrow == ""
    # The largest eigenvalue in size of a D_l, less what may be rounding.
    largest = max(np.abs(np.linalg.eigvalsh(V.T @ V - W @ W.T)).max() for V, W in pairwise(weights))
    for turned in (weights, [W.T for W in weights[::-1]]):
        found = Setting(lf.MatrixFactorization(Y if turned is weights else Y.T), lf.Network(turned)).imbalance
        assert found == near(largest, rel=1e-10) and found < largest
    for large in ([3.0, 1.0, 1.0], [1.0, 1.0, 3.0], [1.0, 3.0, 1.0]):
        sides = lf.Network([np.array([[w]]) for w in large])
        assert Setting(lf.MatrixFactorization(np.eye(1)), sides).imbalance == near(8.0, rel=1e-10)
    assert Setting(lf.MatrixFactorization(Y), lf.Network([Y])).imbalance == 0.0
    assert Setting(lf.MatrixFactorization(np.eye(2)), lf.Network([np.eye(2)] * 2)).imbalance == 0.0
    for constants in ({"pl_constant": 2.0}, {"pl_constant": 2.0, "minimizer": np.zeros((2, 3))}):
        dominated = lf.Objective(lambda W: 1.0, lambda W: W, shape=(2, 3), minimum=0.0, **constants)
        assert not Setting(dominated, net).strongly_convex


def test_numbers_past_float64_are_refused_and_those_within_are_not():
    say = lambda f, net: Setting(f, net).beyond_float64  # noqa: E731
    small = lf.Network([np.ones((1, 1)), np.ones((1, 1))])
    assert say(quadratic(), small) == ""
    assert say(quadratic(gap=0.9e280, gamma=1e-3, K=0.5), small) == "" and "at the start is 1.01e+280" in say(
        quadratic(1.01e280, 1e-3, 1e-3), small
    )
    assert "not a number" in say(quadratic(math.nan), small)
    assert "‖W*‖²" in say(quadratic(minimizer=np.full((1, 1), 1.01e140)), small)
    assert say(quadratic(minimizer=np.full((1, 1), 0.99e140)), small) == ""
    # c² Σ_l Π_{k≠l} ‖W_k‖² times the curvature; 2K(L − f*).
    large = lf.Network([np.full((1, 1), 1e100), np.full((1, 1), 1e30)], 2.0)
    assert say(quadratic(K=2.4e79), large) == "" and "curvature" in say(quadratic(K=2.6e79), large)
    three = lf.Network([np.full((1, 1), 1e40), np.full((1, 1), 1e60), np.full((1, 1), 1e20)], 2.0)
    assert say(quadratic(K=2.4e79), three) == "" and "curvature" in say(quadratic(K=2.6e79), three)
    turned = lf.Network(three.weights[::-1], 2.0)
    assert say(quadratic(K=2.4e79), turned) == "" and "curvature" in say(quadratic(K=2.6e79), turned)
    assert say(quadratic(gap=1e100, K=1e-281, gamma=1e-281), small) == ""
    assert say(quadratic(gap=1e200, K=0.45e80, gamma=1.0), small) == ""
    for sign in (1, -1):
        assert "2K(L − f*)" in say(quadratic(gap=sign * 1e200, K=0.55e80, gamma=1.0), small)
        assert "at the start" in say(quadratic(gap=sign * 1.01e280, gamma=1e-3, K=1e-3), small)
        assert "too small" in say(quadratic(gap=sign * 1e-270, K=0.9e-10, gamma=0.5e-10), small)
    endless = lf.Objective(lambda W: 1.0, lambda W: W, shape=(1, 1), pl_constant=2e0, minimum=0.0)
    assert say(endless, small) == ""
    slow = lf.Objective(lambda W: 1.5e-271, lambda W: W, shape=(1, 1), pl_constant=1e-10, minimum=0.0)
    assert "too small" in say(slow, small)
    assert say(quadratic(gap=1e-280), small) == "" and say(quadratic(gap=2e-280, gamma=0.25, K=0.5), small) == ""
    assert "too small" in say(quadratic(gap=0.99e-280), small) and say(quadratic(gap=1.01e-280), small) == ""
    assert say(quadratic(gap=0.0), small) == "" and "too small" in say(quadratic(gap=-0.99e-280), small)
    assert "too small" in say(quadratic(gap=1e-270, K=0.9e-10, gamma=0.5e-10), small)
    assert say(quadratic(gap=1e-270, K=1.1e-10, gamma=0.5e-10), small) == ""
    # A gap of 0 away from W* has underflowed.
    tiny = lf.Network([np.full((1, 1), 2.0**-250), np.full((1, 1), 2.0**-250)])
    assert "too small" in say(quadratic(gap=0.0, minimizer=np.zeros((1, 1))), tiny)
    assert say(quadratic(gap=0.0, minimizer=np.full((1, 1), 2.0**-500)), tiny) == ""
    assert say(quadratic(gap=0.0, minimizer=np.zeros((1, 1))), lf.Network([np.full((1, 1), 1e-69)] * 2)) == ""


def promised(**words):
    return guarantees.Guarantee(name="a", source="b", citation=(), **words)


def test_a_guarantee_reads_its_curve():
    g = promised(reason="", curve=curves.ExponentialCurve(2.0, 3.0), gap=2.0, minimum=5.0)
    assert g.applies and g.rate == 3.0 and g.time_to(0.1) == near(math.log(10) / 3)
    assert g.gap_at(1.0) == near(2 * math.exp(-3)) and g.loss_at(1.0) == near(5 + 2 * math.exp(-3))
    with pytest.raises(TypeError, match="takes no steps"):
        g.steps_to(0.5)
    none = promised(reason="why", curve=None, gap=2.0, minimum=5.0)
    assert not none.applies and none.rate == 0.0 and none.time_to(0.1) == none.steps_to(0.1) == math.inf
    assert none.gap_at(1.0) == 2.0 and none.loss_at(0.0) == 7.0
    above = promised(reason="", curve=curves.ExponentialCurve(4.0, 1.0), gap=2.0, minimum=0.0)
    assert above.gap_at(0.1) == 2.0
    steps = promised(reason="", curve=curves.StepCurve(2.0, 0.1, 0.5), gap=2.0, minimum=0.0)
    assert steps.steps_to(0.26) == 2
    assert guarantees.finite(math.inf) is None and guarantees.finite(2.0) == 2.0


# --- gradient dominance --------------------------------------------------------------------------------------------


def lazy_start(rng, depth=2):
    shapes = [(2, 3), *[(3, 3)] * (depth - 2), (3, 2)]
    weights = [1.2 * np.eye(*s) + 0.1 * rng.standard_normal(s) for s in shapes]
    product = np.linalg.multi_dot(weights)
    return lf.MatrixFactorization(0.8 * product + 0.03 * rng.standard_normal((2, 2))), lf.Network(weights, 0.8)


@pytest.mark.parametrize("depth", [2, 3])
def test_certificates_on_the_flow_are_gamma_times_the_bounds_at_the_margin(rng, depth):
    f, net = lazy_start(rng, depth)
    gap = f.gap(net.product())
    levels = envelope.gap_levels(gap)
    low, following, high = margin.product_range(f, net, levels)
    most = margin.most_of_least(f, net, levels)
    rows = lf.bounds.evaluate(Invariants.of(net).at(low / 0.8, high / 0.8, following / 0.8, most / 0.8), 0.8)
    found = exponential.exponential(Setting(f, net))
    by_name = {g.name: g for g in found}
    assert [g.name for g in found[:2]] == ["envelope", "lazy regime"]
    for row in rows:
        g = by_name[row.name]
        rate = 2 * float(np.broadcast_to(row.value, levels.shape)[0])
        assert g.rate == near(rate) and g.applies == (rate > 0) and g.gap == gap
        assert g.reason == (row.reason or "" if rate > 0 else g.reason) and (rate > 0 or g.reason)
    best = np.max([np.broadcast_to(row.value, levels.shape) for row in rows], axis=0)
    around = lazy.Neighbourhood.of(net)
    curve = envelope.envelope(levels, 2.0, best, around)
    np.testing.assert_allclose(by_name["envelope"].curve.rates, curve.rates, rtol=SAME)
    assert by_name["envelope"].facts["final rate"] == near(curve.rates[-1])
    alone = envelope.envelope(levels, 2.0, 0 * best, around)
    near_start = by_name["lazy regime"]
    np.testing.assert_allclose(near_start.curve.rates, alone.rates, rtol=SAME)
    roots = np.append(np.sqrt(levels), 0.0)
    assert near_start.facts["radius"] == near(
        sum(2 * (a - b) / math.sqrt(r) for a, b, r in zip(roots, roots[1:], alone.rates, strict=False))
    )
    order = [row.applies for row in sorted(rows, key=lambda row: not row.applies)]
    assert order == [next(r.applies for r in rows if r.name == g.name) for g in found[2:]]


def test_bounds_are_those_of_every_level_of_the_gap(rng):
    margins = set()
    for k in range(12):
        shapes = [(2, 2), (2, 2)] if k % 2 else [(2, 3), (3, 2), (2, 2)]
        net = lf.Network([rng.standard_normal(s) for s in shapes], 0.6)
        product = net.product()
        f = lf.MatrixFactorization(product + rng.choice([0.01, 0.1, 1.0]) * rng.standard_normal((2, 2)))
        levels = envelope.gap_levels(f.gap(product))
        low, following, high = margin.product_range(f, net, levels)
        rows, values, held = exponential.bounds_on(Setting(f, net), levels)
        margins.add((bool(low[0] > 0), bool(low[-1] > 0)))
        assert held == low[0]
        most = margin.most_of_least(f, net, levels)
        literal = lf.bounds.evaluate(Invariants.of(net).at(low / 0.6, high / 0.6, following / 0.6, most / 0.6), 0.6)
        for row in literal:
            every = np.broadcast_to(row.value, levels.shape)
            # Without a margin every level has the bound of the first, which is the least.
            assert values[row.name] == pytest.approx(np.where(low > 0, every, every[0]), rel=1e-10, abs=1e-13)
        assert [row.name for row in rows] == [row.name for row in literal]
    assert {(False, True), (True, True)} <= margins


def test_the_lazy_regime_applies_where_its_envelope_lasts():
    net = lf.Network([np.eye(2), np.eye(2)], 0.8)
    seen = set()
    for k in (1.2, 1.6, 2.0, 3.0, 1000.0):
        f = lf.MatrixFactorization(0.8 * k * np.eye(2) + 0.01)
        levels = envelope.gap_levels(f.gap(net.product()))
        curve = envelope.envelope(levels, 2.0, 0 * levels, lazy.Neighbourhood.of(net))
        row = next(g for g in exponential.exponential(Setting(f, net)) if g.name == "lazy regime")
        lasts = curve is not None and bool(curve.rates[-1] > 0)
        seen.add((curve is not None, lasts))
        assert row.applies == lasts
    assert seen == {(True, True), (True, False), (False, False)}


def test_one_layer_has_the_rate_of_the_objective_times_the_square_of_the_scale():
    f = lf.MatrixFactorization(np.eye(2))
    (one,) = exponential.exponential(Setting(f, lf.Network([np.zeros((2, 2))], 0.5)))
    assert one.rate == near(2 * 0.25) and one.gap == 1.0
    at_minimum = exponential.exponential(Setting(f, lf.Network([np.eye(2), np.eye(2)])))
    assert "envelope" not in [g.name for g in at_minimum]


def test_weights_that_may_move_too_far_are_told_by_how_much(rng):
    f, net = lf.MatrixFactorization(100 * np.eye(2)), lf.Network([np.eye(2), np.eye(2)], 0.8)
    lazy_row = next(g for g in exponential.exponential(Setting(f, net)) if g.name == "lazy regime")
    around = lazy.Neighbourhood.of(net)
    held = sum(
        (b - a) * math.sqrt(2 * k) for a, b, k in zip(around.radii, around.radii[1:], around.floors[1:], strict=False)
    )
    assert not lazy_row.applies
    assert f"2 sqrt(ℓ(0)) = {2 * math.sqrt(f.gap(net.product())):.3g} exceeds" in lazy_row.reason
    assert f"dr = {held:.3g};" in lazy_row.reason


def test_an_envelope_that_ends_says_where(monkeypatch):
    levels = np.array([4.0, 1.0, 0.25])
    setting = Setting(lf.MatrixFactorization(np.eye(2)), lf.Network([np.eye(2), np.eye(2)]))
    curve = curves.LevelCurve(levels, np.array([1.0, 2.0, 0.0]))
    assert (
        exponential._envelope(setting, curve, [], "so").reason
        == "the bounds from the start end when the gap is 0.0625 of its initial value; then so"
    )
    assert exponential._envelope(setting, None, [], "so").reason == "no bound applies at the start: so"
    assert exponential._envelope(setting, curves.LevelCurve(levels, np.ones(3)), [], "so").reason == ""


# --- exponential tails ---------------------------------------------------------------------------------------------


def separable():
    return lf.ExponentialLoss(np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([1.0, -1.0]))


def test_the_tail_of_one_layer_has_the_square_of_the_scale():
    f, gamma = separable(), 2.4
    (g,) = tail.exponential_tail(Setting(f, lf.Network([np.zeros((2, 1))], 0.5)))
    assert g.facts["α"] == near(0.25) and g.facts["hard margin"] == near(gamma, rel=1e-9)
    for t in (0.1, 3.0):
        assert g.curve.gap(t) == near(2 / (1 + gamma**2 * 0.25 * 2 * t), rel=1e-9)
    assert g.curve.time(0.1) == near((1 / 0.1 - 1 / 2) / (gamma**2 * 0.25), rel=1e-9)
    assert g.curve.time(2.0) == g.curve.time(3.0) == 0.0 and g.curve.rate == 0.0
    assert g.curve.rate_at(0.5) == near(0.25 * gamma**2 * 0.5, rel=1e-9) and g.curve.rate_at(0.0) == 0.0
    logistic = lf.LogisticLoss(np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([1.0, -1.0]))
    (h,) = tail.exponential_tail(Setting(logistic, lf.Network([np.zeros((2, 1))], 0.5)))
    # ‖∇f‖ ≥ c(gap) gap, so −ℓ̇/ℓ ≥ α c² gap.
    assert h.curve.rate_at(0.5) == near(0.25 * logistic.tail_constant(0.5) ** 2 * 0.5)


def test_the_tail_of_layers_takes_the_best_bound_of_the_imbalance_alone(rng):
    f = separable()
    net = lf.Network([2 * np.eye(2), np.array([[1.0], [0.5]])], 0.5)
    (g,) = tail.exponential_tail(Setting(f, net))
    D = Invariants.of(net).spectra[0]
    assert g.facts["α"] == near(0.25 * (float(D.lower[1]) + max(-float(D.upper[1]), 0.0))) and g.applies
    apart = 0
    for _ in range(20):
        deep = lf.Network([2 * rng.standard_normal(s) for s in ((2, 3), (3, 3), (3, 1))], 0.5)
        (g,) = tail.exponential_tail(Setting(f, deep))
        rows = lf.bounds.evaluate(Invariants.of(deep).at(0.0, math.inf), 0.5)
        values = [float(row.value) for row in rows if row.applies]
        assert g.facts["α"] == near(max(values))
        apart += max(values) > 1.01 * min(values)
    assert apart > 0
    (none,) = tail.exponential_tail(Setting(f, lf.Network([np.zeros((2, 2)), np.zeros((2, 1))])))
    assert not none.applies and "imbalance alone" in none.reason
    (endless,) = tail.exponential_tail(Setting(f, lf.Network([np.array([[-1e4], [1e4]])])))
    assert not endless.applies and "not finite" in endless.reason
    assert tail.exponential_tail(Setting(lf.MatrixFactorization(np.eye(2)), lf.Network([np.eye(2)]))) == []


def test_a_declared_tail_has_the_row_of_the_exponential_loss():
    f = separable()
    mine = lf.Objective(f.value, f.gradient, shape=f.shape, minimum=0.0, tail_constant=f.hard_margin)
    for net in (lf.Network([np.zeros((2, 1))], 0.5), lf.Network([2 * np.eye(2), np.array([[1.0], [0.5]])], 0.5)):
        (g,), (h,) = tail.exponential_tail(Setting(f, net)), tail.exponential_tail(Setting(mine, net))
        assert h.curve == g.curve and h.curve.rate_at(0.5) == g.curve.rate_at(0.5)
        assert h.name == g.name.removeprefix("exponential ") and g.name.startswith("exponential tail, ")
        assert h.facts == {"tail constant": f.hard_margin, "α": g.facts["α"]}
        assert (h.citations, g.citations) == ({"linflow"}, {"linflow", "soudry2018"})
        assert lf.certify(mine, net).best == h


# --- descent: from decreases to steps ------------------------------------------------------------------------------


def worst(levels, d, u, k):
    """`u_{k+1} = max_{y ≤ u_k} (1 − d(y)) y` after k steps, d constant on `(levels[i+1], levels[i]]`."""
    for _ in range(k):
        best = 0.0
        for i, top in enumerate(levels):
            bottom = levels[i + 1] if i + 1 < len(levels) else 0.0
            if bottom < u or i == len(levels) - 1:
                best = max(best, (1 - d[i]) * min(top, u))
        u = best
    return u


@pytest.mark.parametrize("d", [[0.1, 0.2, 0.4], [0.4, 0.2, 0.1], [0.5, 0.05, 0.5], [0.3, 0.3, 0.3], [0.97, 0.2, 0.9]])
def test_the_curve_of_levels_is_the_worst_sequence_of_gaps(d):
    levels = np.array([4.0, 1.0, 0.3])
    curve = step_bounds.LevelStepCurve.of(levels, np.array(d), 0.1)
    gaps = [worst(levels, d, 4.0, k) for k in range(60)]
    for k, u in enumerate(gaps):
        # A level that is left within a step is left to its border: at most one step more for each.
        assert curve.gap_after(k) >= u * (1 - 1e-12)
        assert curve.gap_after(k + 2) <= u * (1 + 1e-9)
    assert curve.decrease == min(d) and curve.final_factor == near(1 - d[-1]) and curve.first == 4.0
    assert curve.step_size == 0.1
    for y in (3.9, 1.0, 0.99, 0.3, 0.01):
        k = curve.steps(y)
        assert curve.gap_after(k) <= y * (1 + 1e-12) and (curve.gap_after(k - 1) > y * (1 - 1e-9))
    assert curve.steps(4.0) == curve.steps(5.0) == 0


def test_a_gap_that_reaches_a_border_follows_from_the_step_before(monkeypatch):
    rows = []
    levels, d = np.array([4.0, 1.0]), np.array([0.5, 0.25])
    u = step_bounds.follow(levels, d, 4.0, 0, None, rows)
    # 4, 2, a hair above 1, and from there at most what the smaller gaps fall to: ¾ of 1.
    assert [r[2] for r in rows] == [0.5, 0.25] and u == near(0.75, rel=1e-13)
    assert rows[0][:2] == (0, 4.0) and rows[1][0] == 3 and rows[1][1] == u
    for end in (0, 1, 2):
        assert step_bounds.follow(levels, d, 4.0, 0, end, []) == near(4.0 * 0.5**end, rel=1e-13)
    assert step_bounds.follow(levels, d, 4.0, 3, 5, []) == near(1.0, rel=1e-13)
    assert step_bounds.follow(levels, d, 4.0, 0, 5, []) == near(0.75**3, rel=1e-13)
    assert step_bounds.follow(levels, d, 0.5, 3, 5, []) == near(0.5 * 0.75**2, rel=1e-13)
    assert step_bounds.follow(levels, d, 1.0, 0, 2, []) == near(0.75**2, rel=1e-13)
    # A decrease so small that the number of steps leaves float64.
    for end in (None, 10):
        assert step_bounds.follow(levels, np.array([5e-324, 0.5]), 4.0, 0, end, []) == 4.0
    assert step_bounds.follow(levels, np.array([0.5, 0.0]), 4.0, 0, 50, []) == near(1.0, rel=1e-13)
    assert step_bounds.follow(levels, np.array([0.0, 0.5]), 4.0, 0, 50, []) == 4.0
    assert step_bounds.follow(levels, np.array([0.0, 0.5]), 4.0, 0, None, []) == 4.0
    assert step_bounds.follow(levels, d, 0.0, 0, None, []) == 0.0
    monkeypatch.setattr(step_bounds, "EPS", COARSE)
    assert step_bounds.follow(levels, d, 4.0, 0, None, []) == near(0.75 * (1 + 4 * COARSE))
    # One step past the top of a level may land above what a smaller gap lands on.
    jump = step_bounds.follow(levels, np.array([0.99, 0.01]), 4.0, 0, 1, [])
    assert jump == near(0.99 * (1 + 4 * COARSE), rel=1e-12)


def test_numbers_of_steps_past_2_to_the_53_are_raised_by_their_rounding(monkeypatch):
    curve = step_bounds.LevelStepCurve.of(np.array([1.0, 0.5]), np.array([1e-17, 1e-17]), 1.0)
    k = curve.steps(0.25)
    assert k == near(math.log(4) / 1e-17, rel=1e-13) and k > 2**53
    plain = step_bounds.LevelStepCurve.of(np.array([1.0, 0.5]), np.array([1e-15, 1e-15]), 1.0)
    count = plain.steps(0.25)
    monkeypatch.setattr(step_bounds, "EPS", COARSE)
    monkeypatch.setattr(step_bounds, "COUNTED", 2)
    assert plain.steps(0.25) == math.ceil(count * (1 + 8 * COARSE))
    late = float(plain.counts[-1]) * 2
    assert plain.gap_after(late) == curves.decayed(
        float(plain.gaps[-1]), 1e-15, late * (1 - 4 * COARSE) - float(plain.counts[-1])
    )
    monkeypatch.setattr(step_bounds, "COUNTED", late * 1.01)
    assert plain.gap_after(late) == curves.decayed(float(plain.gaps[-1]), 1e-15, late - float(plain.counts[-1]))


# --- descent: what holds along it ----------------------------------------------------------------------------------


class Literal:
    """Caps and floors of docs/descent.md for a network of NumPy weights, with plain loops."""

    def __init__(self, f, net, strict):
        self.f, self.net, self.strict, self.c, self.L = f, net, strict, net.scale, net.depth
        self.gap = f.gap(net.product())
        self.levels = envelope.gap_levels(self.gap)
        self.low, self.following, high = margin.product_range(f, net, self.levels)
        self.high = high / self.c
        self.inv = Invariants.of(net)
        self.norms = lazy.spectral_norms(net)
        around = lazy.Neighbourhood.of(net)
        self.ball_radii, self.ball_floors = around.radii[around.floors > 0], around.floors[around.floors > 0]
        self.chosen = sorted({int(x) for x in np.linspace(0, len(self.ball_radii) - 1, 64)})
        T = np.linalg.eigvalsh(lf.TangentOperator(net).dense())
        crude = self.c**2 * sum(math.prod(self.norms[k] for k in range(self.L) if k != l) ** 2 for l in range(self.L))
        self.greatest, self.known = T[-1] + 1e-12 * crude, {}

    def shifted(self, fall, rise):
        return [_base.Spectrum(D.lower - fall, D.upper + rise) for D in self.inv.spectra]

    def caps(self, drift, k):
        from linflow.bounds.layer_norms import layer_caps

        return np.sqrt(layer_caps(self.shifted(drift, drift), self.high[k])) * self.strict

    def ends(self, omega, drift, k):
        """Caps on ‖P_l‖ and ‖S_{l+1}‖, l = 0 … L: their ceilings, or the product of the caps on the layers."""
        L = self.L
        if (drift, k) not in self.known:
            Ds = self.shifted(drift, drift)
            self.known[drift, k] = prefix_ceilings(Ds, self.high[k]), suffix_ceilings(Ds, self.high[k])
        p, q = self.known[drift, k]
        P = [min(math.sqrt(p[l]) * self.strict**l, math.prod(omega[:l])) for l in range(L + 1)]
        return P, [min(math.sqrt(q[l]) * self.strict ** (L - l), math.prod(omega[l:])) for l in range(L + 1)]

    def beta(self, omega, ceiling, k, drift=None):
        """β of caps on layers; for all weights within a drift, if one is given, with the ceilings."""
        L = self.L
        P = [math.prod(omega[:l]) for l in range(L + 1)]
        S = [math.prod(omega[l:]) for l in range(L + 1)]
        if drift is not None:
            P, S = self.ends(omega, drift, k)
        terms = self.c**2 * sum((P[l] * S[l + 1]) ** 2 for l in range(L))
        C = np.zeros((L, L))
        for i in range(L):
            for j in range(i + 1, L):
                C[i, j] = C[j, i] = P[i] * math.prod(omega[i + 1 : j]) * S[j + 1]
        slope = math.sqrt(2 * self.f.smoothness * (self.levels[k] + self.f.rounding(self.net)))
        turn = np.linalg.eigvalsh(C)[-1]
        return (self.f.smoothness * min(terms, ceiling) + slope * self.c * turn) * self.strict

    def alphas(self, drift, count=None):
        theorems = (
            [two_layers.THEOREM, two_layers.SQUARE]
            if self.L == 2
            else [three_layers.THEOREM, any_imbalance.THEOREM, FLOORS]
        )
        parts = 8 if self.L == 2 and drift > 0 else 1
        found = []
        for k in range(count or len(self.levels)):
            cells = []
            for i in range(parts):
                # a_2 in [i, i + 1]/8 of the drift leaves a_1 ≤ 1 − i/8 of it.
                inv = Invariants(
                    self.inv.widths,
                    tuple(self.shifted(drift * (i + 1) / parts, drift * (1 - i / parts))),
                    np.float64(self.low[k] / self.c),
                    np.float64(self.following[k] / self.c),
                    np.float64(self.high[k]),
                    self.inv.size, self.inv.allowance + drift,
                )  # fmt: skip
                cells.append(
                    max([0.0] + [self.c**2 * float(t.evaluate(inv)) for t in theorems if t.hypothesis(inv) is None])
                )
            found.append(min(cells))
        if count is None and self.L > 2:  # the program is solved for all levels at once
            inv = replace(Invariants.of(self.net), spectra=tuple(self.shifted(drift, drift)))
            most = margin.most_of_least(self.f, self.net, self.levels)
            inv = inv.at(self.low / self.c, self.high, self.following / self.c, most / self.c)
            found = np.maximum(found, self.c**2 * INTERVAL.evaluate(inv))
        return np.maximum.accumulate(found)

    def reach(self, alpha):
        total, found = 0.0, [0.0]
        for j in range(1, len(self.ball_radii)):
            step = self.ball_radii[j] - self.ball_radii[j - 1]
            total += step * math.sqrt(self.f.pl_constant * max(self.ball_floors[j], alpha))
            found.append(total / self.strict)
        return found

    def balls(self):
        """Radius, ceiling of λ_max(T) and place of each ball; the last is the whole space."""
        root = math.sqrt(self.ball_floors[self.chosen[0]])
        rows = [
            (self.ball_radii[j], (math.sqrt(self.greatest) + root - math.sqrt(self.ball_floors[j])) ** 2, j)
            for j in self.chosen
        ]
        return [*rows, (math.inf, math.inf, None)]

    def ball_betas(self, drift):
        """β at the initial gap on each ball and on the whole space."""
        caps = self.caps(drift, 0)
        return [
            self.beta(np.minimum(caps, self.norms + radius), ceiling, 0, drift) for radius, ceiling, _ in self.balls()
        ]

    def gained(self, eta, drift, alpha, betas=None):
        """∫ (1 − ηβ/2) sqrt(γ max(κ, α)) up to each radius, from below: β of the next ball."""
        betas = betas or self.ball_betas(drift)
        reach, total, found, ball = self.reach(alpha), 0.0, [0.0], 0
        for j in range(1, len(reach)):
            while self.chosen[ball] < j:
                ball += 1
            total += (reach[j] - reach[j - 1]) * (1 - eta * betas[ball] / 2)
            found.append(total)
        return found

    def at(self, eta):
        drift = 0.0
        while True:
            floor = self.alphas(drift, 1)[0]
            betas = self.ball_betas(drift)
            gained = self.gained(eta, drift, floor, betas)
            fits = [
                (*ball, 1 - eta * beta / 2)
                for ball, beta in zip(self.balls(), betas, strict=True)
                if eta * beta < 2 and (ball[2] is None or gained[ball[2]] > 2 * math.sqrt(self.gap))
            ]
            if not fits:
                return None
            radius, ceiling, j, slack = fits[0]
            wanted = eta * self.gap / slack * self.strict
            if wanted <= drift:
                return drift, radius, ceiling, j
            drift = wanted * (1 + 1e-3)

    def held(self, eta):
        drift, radius, ceiling, last = self.at(eta)
        omegas = [np.minimum(self.caps(drift, k), self.norms + radius) for k in range(len(self.levels))]
        betas = np.minimum.accumulate([self.beta(omegas[k], ceiling, k, drift) for k in range(len(self.levels))])
        alphas = self.alphas(drift)
        if last is not None:
            gained = self.gained(eta, drift, alphas[0])[: last + 1]
            for k in range(len(alphas)):
                after = self.levels[k + 1] if k + 1 < len(alphas) else 0.0
                passed = 2 * (math.sqrt(self.gap) - math.sqrt(after))
                end = next((j for j, r in enumerate(gained) if r >= passed), last)
                alphas[k] = max(alphas[k], self.ball_floors[min(end, last)])
        return drift, radius, omegas[0], betas, alphas


def descent_start(rng, depth, away=0.05, lean=1.0):
    shapes = [(2, 3), *[(3, 3)] * (depth - 2), (3, 2)]
    weights = [1.5 * np.eye(*s) + 0.1 * rng.standard_normal(s) for s in shapes]
    weights[0], weights[-1] = weights[0] * lean, weights[-1] / lean
    product = 0.8 * np.linalg.multi_dot(weights)
    F = np.diag([1.0, 1.3, 1.1])[:, :2]
    return lf.LinearRegression(F, F @ (product + away * rng.standard_normal((2, 2)))), lf.Network(weights, 0.8)


@pytest.mark.parametrize(
    ("depth", "away", "part", "lean"),
    [
        (2, 0.005, 0.3, 1.0),
        (2, 0.3, 0.6, 1.0),
        (2, 0.3, 0.3, 1.4),
        (2, 0.6, 0.1, 1.2),
        (2, 0.5, 0.3, 1.0),  # the last of the balls
        (2, 0.7, 0.02, 1.0),
        (2, 1.0, 0.3, 1.0),
        (2, 2.0, 0.3, 1.0),
        (3, 0.005, 0.02, 1.0),
        (3, 0.3, 0.25, 1.0),
    ],
)
def test_descent_holds_caps_curvature_and_floors_as_written(monkeypatch, rng, depth, away, part, lean):
    strict = 1.02
    monkeypatch.setattr(step_bounds, "STRICT", strict)
    f, net = descent_start(rng, depth, away, lean)
    literal = Literal(f, net, strict)
    K = f.smoothness
    eta = part / (K * literal.greatest)
    found = step_bounds.DescentBounds(Setting(f, net)).at(eta)
    if literal.at(eta) is None:
        assert found is None
        return
    drift, radius, caps, betas, alphas = literal.held(eta)
    assert found.step_size == eta and found.drift == near(drift, rel=1e-9) and found.radius == near(radius)
    # The drift is found to 1e-9 of itself by both, and moves what depends on it by as much.
    np.testing.assert_allclose(found.caps, caps, rtol=1e-9)
    np.testing.assert_allclose(found.betas, betas, rtol=1e-9)
    np.testing.assert_allclose(found.alphas, alphas, rtol=1e-8)
    decreases = [
        min(eta * a * (1 - eta * b / 2) * f.pl_constant / strict, 1.0) for a, b in zip(alphas, betas, strict=True)
    ]
    np.testing.assert_allclose(found.decreases(f.pl_constant), decreases, rtol=1e-8)


@pytest.mark.parametrize("j", [-3, -2])
def test_in_a_ball_each_level_has_the_floor_where_its_path_ends(monkeypatch, j):
    """Until the gap is y, `∫ (1 − ηβ/2) sqrt(γ max(κ, α)) dr ≤ 2 (sqrt(ℓ) − sqrt(y))` along the path, α of the start.

    β is that of the next ball, and does not fall with the radius. The floor of a later level holds from that level
    on: it must not shorten the path to it.
    """
    found = object.__new__(step_bounds.DescentBounds)
    gamma, eta, betas = 1.0, 0.1, np.array([4.0, 3.0, 2.0])
    radii, floors = np.arange(5.0), np.array([4.0, 1.5, 1.0, 0.6, 0.3])
    found.gamma, found.levels = gamma, np.array([1.44, 0.09, 0.04])
    found._radii, found._floors, found._chosen = radii, floors, np.array([0, 2, 4])
    found.radii, found.norms, found.high = np.array([0.0, 2.0, 4.0, math.inf]), np.ones(2), np.full(3, 9.0)
    found.ceilings = np.full(4, 9.0)
    alphas = np.array([0.5, 1.2, 1.4])
    monkeypatch.setattr(found, "caps", lambda drift, high: Caps.of(np.full((2, 3), 9.0)), raising=False)
    monkeypatch.setattr(found, "curvature", lambda *given: betas, raising=False)
    monkeypatch.setattr(found, "alphas", lambda drift: alphas, raising=False)
    held = found._held(eta, 0.25, j, np.array([2.0, 6.0, 5.0, 50.0]))
    expected = []
    for k, y in enumerate((0.09, 0.04, 0.0)):
        path, reached, place = 2 * (1.2 - math.sqrt(y)), 0.0, 0
        while reached / step_bounds.STRICT < path and place < found._chosen[j + 1]:
            place += 1
            reached += (1 - eta * 6.0 / 2) * math.sqrt(gamma * max(floors[place], alphas[0]))
        expected.append(max(alphas[k], floors[place]))
    assert list(held.alphas) == expected and expected[0] > alphas[0]
    assert (held.drift, held.radius, list(held.betas)) == (0.25, found.radii[j], list(betas))


def test_some_steps_hold_in_a_ball_and_some_in_the_whole_space(rng):
    radii = set()
    for away, part in ((0.005, 0.02), (1.0, 0.02)):
        f, net = descent_start(rng, 2, away)
        found = step_bounds.DescentBounds(Setting(f, net)).at(part / (f.smoothness * Literal(f, net, 1.0).greatest))
        radii.add(math.isfinite(found.radius))
    assert radii == {True, False}


@pytest.mark.parametrize("drift", [1e-3, 0.1, 0.5])
def test_floors_under_a_drift_cover_every_pair_of_rise_and_fall(monkeypatch, rng, drift):
    monkeypatch.setattr(_base, "EPS", 2.0**-24)  # the ends of the spectra are then 1e-5 apart
    f, net = descent_start(rng, 2)
    found = step_bounds.DescentBounds(Setting(f, net))
    np.testing.assert_allclose(found.alphas(drift), Literal(f, net, 1.0).alphas(drift), rtol=SAME)
    np.testing.assert_allclose(found.alphas(drift, 3), Literal(f, net, 1.0).alphas(drift)[:3], rtol=SAME)
    low, high = found.invariants.sigma_min[0], found.invariants.sigma_max[0]
    for a in np.linspace(0, drift, 41):
        spectra = tuple(_base.Spectrum(D.lower - a, D.upper + (drift - a)) for D in found.invariants.spectra)
        inv = Invariants(net.widths, spectra, low, found.invariants.sigma_next[0], high, 0.0, 0.0)
        best = max(float(t.evaluate(inv)) for t in (two_layers.THEOREM, two_layers.SQUARE))
        assert found.alphas(drift)[0] <= 0.64 * best * (1 + 1e-12)


def test_one_layer_descends_with_the_curvature_of_the_objective():
    f = lf.MatrixFactorization(np.eye(2))
    net = lf.Network([np.zeros((2, 2))], 0.5)
    found = step_bounds.DescentBounds(Setting(f, net))
    held = found.at(1.0)
    assert (
        held.drift == 0.0
        and held.betas[0] == near(0.25, rel=1e-8)
        and held.alphas.tolist() == [0.25] * len(held.alphas)
    )
    assert found.caps(0.0, found.high).layers[0][0] == near(float(found.high[0]))
    assert found.largest == near(8.0, rel=1e-8) and found.best == near(4.0, rel=1e-8)
    assert found.advise() == near(4.0 * (1 - 1e-3), rel=1e-8) and found.at(8.1) is None and found.at(7.99) is not None


@pytest.mark.parametrize("depth", [2, 3])
def test_the_best_steps_within_a_drift_are_those_that_keep_it(monkeypatch, rng, depth):
    strict = 1.02
    monkeypatch.setattr(step_bounds, "STRICT", strict)
    for away in (0.005, 0.3):
        f, net = descent_start(rng, depth, away)
        found, literal = step_bounds.DescentBounds(Setting(f, net)), Literal(f, net, strict)
        for drift in (1e-3, 0.05):
            floor, rows = literal.alphas(drift, 1)[0], []
            betas, free, steep = literal.ball_betas(drift), literal.reach(floor), literal.gained(1.0, drift, floor)
            for (_, _, j), beta in zip(literal.balls(), betas, strict=True):
                alpha, limit = max(floor, 0.0 if j is None else literal.ball_floors[j]), math.inf
                if j is not None:
                    bent = (free[j] - steep[j]) or math.inf  # what is gained falls linearly in η
                    limit = max((free[j] - 2 * math.sqrt(literal.gap)) / bent, 0.0)
                most = min(2 / beta, limit, drift / (literal.gap * strict + drift * beta / 2)) / strict
                eta = min(1 / beta, most)
                fall = eta * (1 - eta * beta / 2)
                rows.append((fall * alpha, fall, eta, most))
            (rate, first), (fall, second), largest = found.best_at(drift)
            assert rate == near(max(r[0] for r in rows), rel=1e-10) and fall == near(
                max(r[1] for r in rows), rel=1e-10
            )
            assert first == near(max(rows)[2], rel=1e-10) and second == near(
                max(rows, key=lambda r: r[1])[2], rel=1e-10
            )
            assert largest == near(max(r[3] for r in rows), rel=1e-10)
        unit = literal.gap / min(
            literal.beta(np.minimum(literal.caps(0.0, 0), literal.norms + radius), ceiling, 0, 0.0)
            for radius, ceiling, _ in literal.balls()
        )
        assert found._unit == near(unit, rel=1e-10)
        drifts = found._unit * 10.0 ** np.linspace(-4, 3, 400)
        best = max((found.best_at(float(d))[0] for d in drifts[::8]), default=None)
        assert found.best_at is not None and best[0] <= found.best_at(0)[0][0] + np.inf
        # To 1 %: what a fine grid finds is no more than that above.
        assert found.largest >= 0.99 * max(found.best_at(float(d))[2] for d in drifts[::8])
        chosen = found.advise()
        assert found.at(chosen) is not None and found.at(found.largest * 1.05) is None


def test_at_a_minimum_any_step_below_2_over_the_curvature_holds():
    f = lf.MatrixFactorization(2 * np.eye(2))
    net = lf.Network([2 * np.eye(2), 1 * np.eye(2)])
    found = step_bounds.DescentBounds(Setting(f, net))
    beta = float(found._start(0.0)[0].min())
    assert beta == near(5.0, rel=1e-6)  # K λ_max(T), the slope being rounding
    assert found._start(0.0)[2].tolist() == [math.inf] * len(found.radii)  # a gap of 0 leads nowhere
    assert found.largest == near(2 / beta / step_bounds.STRICT) and found.best == near(found.largest / 2)


@pytest.mark.parametrize(("beta", "inverse"), [(math.inf, 0.0), (0.5, 2.0), (8.0, 0.125), (0.0, 0.0)])
def test_where_the_curvature_is_not_known_no_step_is(monkeypatch, rng, beta, inverse):
    f, net = descent_start(rng, 2)
    still = lf.MatrixFactorization(net.product())  # at the minimum already
    for objective, one in ((f, net), (still, net)):
        found = step_bounds.DescentBounds(Setting(objective, one))
        monkeypatch.setattr(
            found, "_start", lambda drift: (np.array([beta, 2 * beta]) * (1 if drift == 0 else 3), None, None)
        )
        if objective is f:
            assert found._unit == near(found.gap * inverse)
            if inverse == 0.0:
                assert (found.largest, found.best) == (0.0, 0.0)
        else:
            assert found.gap <= 0 and found.largest == near(2 * inverse / step_bounds.STRICT)


def test_the_unit_of_drifts_is_that_of_the_start(rng):
    f, net = descent_start(rng, 2)
    found = step_bounds.DescentBounds(Setting(f, net), nearby=False)
    assert found.radii.tolist() == [math.inf] and found._start(1.0)[0].min() > 1.1 * found._start(0.0)[0].min()
    assert found._unit == near(found.gap / found._start(0.0)[0].min(), rel=SAME)


def test_a_rate_below_1_is_a_rate(monkeypatch, rng):
    f, net = descent_start(rng, 2)
    found = step_bounds.DescentBounds(Setting(f, net))
    scans = iter([(0.5, 0.25), (3.0, 4.0)])
    monkeypatch.setattr(step_bounds, "scan", lambda score: next(scans))
    assert found.best == 0.25


def test_decreases_are_at_most_the_whole_gap():
    held = step_bounds.Held(1.0, 0.0, math.inf, np.ones(2), np.array([0.1, 1.9]), np.array([3.0, 0.5]))
    assert held.decreases(2.0).tolist() == [1.0, near(0.05 * 0.5 * 2, rel=1e-8)]


def test_the_last_ball_is_the_whole_space_and_floors_need_a_constant_above_0_only(rng):
    Y = np.diag([1.0, 0.8])
    net = lf.Network([np.eye(2), 0.99 * Y])
    for factor in (0.4, 1.0):
        found = step_bounds.DescentBounds(Setting(lf.Quadratic(factor * np.eye(2), C=factor * Y), net))
        assert found.gamma == near(2 * factor) and len(found.radii) > 2
        assert (found.radii[-1], found.floors[-1], found.ceilings[-1]) == (math.inf, 0.0, math.inf)


def test_bounds_of_a_descent_of_tensors_are_those_of_arrays(rng):
    torch = pytest.importorskip("torch")
    _, net = descent_start(rng, 2)
    f, g = (lf.MatrixFactorization(kind(1.01 * net.product())) for kind in (np.array, torch.tensor))
    tensors = lf.Network([torch.tensor(W) for W in net.weights], net.scale)
    one, two = (step_bounds.DescentBounds(Setting(*pair)) for pair in ((f, net), (g, tensors)))
    eta = 0.02 / one._start(0.0)[0].min()
    assert all(type(W) is np.ndarray for W in two.network.weights)
    assert two.at(eta).drift == near(one.at(eta).drift, rel=1e-10)
    np.testing.assert_allclose(two.at(eta).betas, one.at(eta).betas, rtol=1e-10)


def test_balls_are_those_with_a_floor_above_0():
    def part(floors):
        around = SimpleNamespace(floors=np.array(floors), radii=np.arange(float(len(floors))))
        return [found.tolist() for found in step_bounds._positive_part(around)]

    assert part([2.0, 1.0, 0.0]) == [[0.0, 1.0], [2.0, 1.0]] and part([2.0, 0.0]) == [[], []]
    assert [found.tolist() for found in step_bounds._positive_part(None)] == [[], []]


def test_the_search_is_over_drifts_in_powers_of_ten(monkeypatch, rng):
    asked, scores = [], []

    def scan(score):
        scores.append(score)
        return (0.0, 0.25) if len(scores) > 1 else (1.0, 0.5)

    monkeypatch.setattr(step_bounds, "scan", scan)
    f, net = descent_start(rng, 2)
    found = step_bounds.DescentBounds(Setting(f, net))
    monkeypatch.setattr(found, "best_at", lambda drift: asked.append(drift) or ((1.0, 2.0), (3.0, 4.0), 5.0))
    unit = found._unit
    assert found.largest == 1.0 and found.best == 0.25  # no rate: the step of the largest decrease
    assert (
        [score(-2.0)[0] for score in scores] == [5.0, 1.0, 3.0]
        and scores[1](1.5) == (1.0, 2.0)
        and scores[2](0.0) == (3.0, 4.0)
    )
    # Once for the largest step, and once for both searches for the best.
    assert asked == near([unit / 100] * 2 + [unit * 10**1.5, unit])


def test_the_advised_step_is_shortened_until_it_holds():
    holds = SimpleNamespace(best=1 / (1 - 1e-3), at=lambda eta: None if eta > 0.9 else eta)
    literal = (1 / (1 - 1e-3)) * (1 - 1e-3)
    while literal > 0.9:
        literal *= 0.98
    assert step_bounds.DescentBounds.advise(holds) == near(literal)
    assert step_bounds.DescentBounds.advise(SimpleNamespace(best=0.0, at=lambda eta: None)) == 0.0
    assert step_bounds.DescentBounds.advise(SimpleNamespace(best=1.0, at=lambda eta: None)) == 0.0
    facts = step_bounds.cap_facts(0.1, 0.2, np.array([3.0, 4.0]))
    assert facts == {"drift cap": 0.1, "cap on ‖W_1‖": 3.0, "cap on ‖W_2‖": 4.0, "path length": 0.2}
    assert "path length" not in step_bounds.cap_facts(0.1, math.inf, np.array([3.0]))
    assert step_bounds.COUNTED == 2**53 and 1 + 0.9e-9 < step_bounds.STRICT < 1 + 1.1e-9


def test_the_ceiling_of_t_is_its_eigenvalue_or_the_sum_of_norms(monkeypatch, rng):
    for depth in (2, 3):
        _, net = descent_start(rng, depth)
        norms = lazy.spectral_norms(net)
        crude = 0.64 * sum(math.prod(norms[k] for k in range(depth) if k != l) ** 2 for l in range(depth))
        T = float(lf.TangentOperator(net).greatest_eigenvalue())
        assert (step_bounds._ceiling(net, norms) - T) / crude == near(1e-12, rel=1e-2)
        monkeypatch.setattr(step_bounds, "DENSE_LIMIT", 3.5)
        assert step_bounds._ceiling(net, norms) == near(crude if depth > 2 else T, rel=1e-11)
        monkeypatch.setattr(step_bounds, "DENSE_LIMIT", 4)
        assert step_bounds._ceiling(net, norms) == near(T, rel=1e-11)


def test_the_scan_finds_a_maximum_and_keeps_the_pair():
    seen = []

    def score(x):
        seen.append(x)
        return -((x - 0.77) ** 2), 10 * x

    best = step_bounds.scan(score)
    ratio = (math.sqrt(5) - 1) / 2
    assert best[0] == near(0, abs=(1.4 * ratio**9) ** 2) and best[1] == near(7.7, abs=14 * ratio**9)
    np.testing.assert_allclose(seen[:11], np.linspace(-4, 3, 11)) and len(seen) == 21
    assert len(seen) == 21
    for peak in (-4.0, 3.0):
        found = step_bounds.scan(lambda x, peak=peak: (-abs(x - peak), x))
        assert found[1] == peak
    np.testing.assert_allclose(
        sorted(seen[11:13]), [-0.5 + (1 - ratio) * 1.4 + 0.7 * 0, -0.5 + ratio * 1.4], atol=0.71
    )


# --- descent: published --------------------------------------------------------------------------------------------


def test_the_local_constant_has_its_four_terms():
    K, T, gap, size, eta, c = 1.5, 2.5, 0.7, 1.3, 0.11, 0.6
    for a, b, printed in ((1, 1, False), (6, 3, True)):
        slope = c * math.sqrt(2 * K * gap)
        literal = K * T + slope + a * c**3 * K**2 * size * gap * eta**2 + b * K * T * slope * eta
        assert local_constant(K, T, gap, size, eta, c, printed=printed) == near(literal)


def test_two_layers_as_published_replace_each_quantity_by_its_cap(rng):
    f, net = descent_start(rng, 2)
    c, K = 0.8, f.smoothness
    bounds = published_descent._TwoLayerBounds(Setting(f, net))
    assert bounds.theorems == [two_layers.THEOREM] and bounds.radii.tolist() == [math.inf]
    eta, omega = 0.03, bounds.caps(0.01, bounds.high).layers
    found = bounds.curvature(Caps.of(omega), np.full(len(bounds.levels), math.inf), None, eta)
    noise = f.rounding(net)
    for k in (0, 5, 70):
        T = c**2 * (omega[0, k] ** 2 + omega[1, k] ** 2)
        literal = local_constant(K, T, bounds.levels[k] + noise, c * bounds.high[k], eta, c, printed=True)
        assert found[k] == near(literal, rel=1e-8)
    held = bounds.at(eta)
    first, second = published_descent.two_layer_descent(Setting(f, net), eta)
    decreases = [
        eta * a * (1 - eta * b / 2) * 2 * f.strong_convexity for a, b in zip(held.alphas, held.betas, strict=True)
    ]
    assert first.curve.decrease == near(decreases[0], rel=1e-8) and first.applies
    assert first.facts == {"K_t": held.betas[0], "α": held.alphas[0], "drift cap": held.drift}
    assert type(first.curve) is curves.StepCurve
    fine = lf.Quadratic(np.eye(2), C=f.minimizer)
    only = published_descent.two_layer_descent(Setting(fine, net), 0.03)
    assert not only[0].applies and not only[1].applies  # the general quadratic has f* ≠ 0
    if abs(f.minimum) < 1e-20:
        np.testing.assert_allclose(second.curve.decreases.max(), max(decreases), rtol=1e-8)


def test_two_layers_as_published_take_the_data_s_convexity_and_say_where_they_come_from(rng):
    """The factor is 1 − 2μη(…): with μ = 4, a wrong power of it shows."""
    Y = np.diag([1.0, 0.8])
    f = lf.LinearRegression(2 * np.eye(2), 2 * Y)
    assert f.strong_convexity == near(4.0)
    net = lf.init.balanced((2, 2, 2), 0.98 * Y, rng=0)
    held = published_descent._TwoLayerBounds(Setting(f, net)).at(0.01)
    first, second = published_descent.two_layer_descent(Setting(f, net), 0.01)
    assert first.curve.decrease == near(0.01 * held.alphas[0] * (1 - 0.01 * held.betas[0] / 2) * 8, rel=1e-8)
    assert first.source == "after Xu et al. 2023 (AISTATS), constants of docs/descent.md"
    assert second.source == "after Xu et al. 2025 (TMLR), constants of docs/descent.md"


def test_two_layers_as_published_need_a_decrease_at_the_first_level(monkeypatch, rng):
    f, net = descent_start(rng, 2)
    held = published_descent._TwoLayerBounds(Setting(f, net)).at(0.03)
    for alphas, applies in (((0.0, 1.0), False), ((1.0, 0.0), True)):
        lower = replace(held, alphas=np.resize(alphas, held.alphas.shape))
        monkeypatch.setattr(published_descent._TwoLayerBounds, "at", lambda self, eta, lower=lower: lower)
        first = published_descent.two_layer_descent(Setting(f, net), 0.03)[0]
        assert first.applies is applies and (applies or "λ_min(T) is 0" in first.reason)


def test_a_minimum_counts_as_0_to_64_roundings(monkeypatch, rng):
    monkeypatch.setattr(published_descent, "EPS", 2.0**-12)
    f, net = descent_start(rng, 2)
    gap = f.gap(net.product())
    for minimum, zero in ((0.99 / 63, True), (1.01 / 63, False), (-0.995 / 64, True), (-1.01 / 64, False)):
        least = minimum * gap
        g = lf.Objective(
            lambda W, least=least: f.gap(W) + least, f.gradient, shape=(2, 2), strong_convexity=f.strong_convexity,
            smoothness=f.smoothness, minimizer=f.minimizer, minimum=least,
        )  # fmt: skip
        second = published_descent.two_layer_descent(Setting(g, net), 0.03)[1]
        assert second.reason.startswith("the minimum f*") != zero and second.applies == zero


def test_balanced_descent_is_theorem_1_of_arora_et_al(rng):
    for L in (2, 3):
        for s in (1.0, 0.5):
            U, V = np.linalg.qr(rng.standard_normal((2, 2)))[0], np.linalg.qr(rng.standard_normal((2, 2)))[0]
            Y = U @ np.diag([1.2, 0.9]) @ V.T
            start = U @ np.diag([1.15, 0.93]) @ V.T
            values = (np.diag([1.15, 0.93]) / s) ** (1 / L)
            layers = [np.diag(np.diag(values))] * L
            layers[0], layers[-1] = U @ layers[0], layers[-1] @ V.T
            layers[0] = layers[0] * (1 + 1e-8)
            net = lf.Network(layers, s)
            f = lf.MatrixFactorization(Y)
            away = np.linalg.norm(net.product() - Y)
            eps = np.finfo(float).eps
            c = 0.9 - away - 16 * eps * (net.magnitude() + np.linalg.norm(Y))
            size = np.linalg.norm(Y)
            unbalanced = s ** (2 / L) * max(np.linalg.norm(A.T @ A - B @ B.T) for A, B in pairwise(layers))
            allowed = c**2 / (256 * L**3 * size ** (2 * (L - 1) / L))
            largest = c ** ((4 * L - 2) / L) / (6144 * L**3 * size ** ((6 * L - 4) / L)) / s ** (2 / L)
            eta = 0.9 * largest
            g = published_descent.balanced_descent(Setting(f, net), eta)
            assert g.applies and g.facts["deficiency margin"] == near(c)
            assert g.facts["largest imbalance"] == near(unbalanced, rel=1e-6)
            assert g.facts["allowed imbalance"] == near(allowed) and g.facts["largest step"] == near(largest)
            decrease = -math.expm1(-eta * s ** (2 / L) * c ** (2 * (L - 1) / L))
            assert g.curve.decrease == near(decrease, rel=2e-9) and g.curve.decrease < decrease
            assert g.curve.decrease == near(
                -math.expm1(-eta * s ** (2 / L) * c ** (2 * (L - 1) / L) * (1 - 1e-9)), rel=1e-12
            )
            assert not published_descent.balanced_descent(Setting(f, net), largest * 1.0001).applies
            np.testing.assert_allclose(start, net.product(), rtol=1e-7)
            # f = ½κ‖W − Φ‖² is the same at the step κη.
            h = published_descent.balanced_descent(Setting(lf.Quadratic(3 * np.eye(2), C=3 * Y), net), eta / 3)
            assert h.applies and h.curve.decrease == near(g.curve.decrease, rel=1e-9)
            assert h.facts["largest step"] == near(largest / 3, rel=1e-9)


def test_balanced_descent_needs_a_margin_and_a_decrease_above_0(monkeypatch):
    Y = np.diag([2.0, 0.3])
    setting = Setting(lf.MatrixFactorization(Y), lf.init.balanced((2, 2, 2), 0.99 * Y, rng=0))
    g = published_descent.balanced_descent(setting, 5e-324)
    assert not g.applies and g.reason == "the decrease it promises per step is below the least number of float64"
    monkeypatch.setattr(published_descent, "EPS", 0.0)
    at_the_limit = Setting(lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.Network([np.diag([1.0, 1.0]), np.eye(2)]))
    assert "deficiency margin is not positive" in published_descent._balanced_reason(at_the_limit, 1e-9, {})


def test_the_margin_of_balanced_descent_allows_for_rounding(monkeypatch):
    monkeypatch.setattr(published_descent, "EPS", 2.0**-12)
    net, Y = lf.Network([np.eye(2), np.eye(2)], 0.9), np.diag([1.0, 0.9])
    facts = {}
    published_descent._balanced_reason(Setting(lf.MatrixFactorization(Y), net), 1e-9, facts)
    wide, Z = lf.Network([np.eye(2), np.eye(2, 3)], 0.9), np.eye(2, 3)
    noted = {}
    published_descent._balanced_reason(Setting(lf.MatrixFactorization(Z), wide), 1e-9, noted)
    away = 0.1 * math.sqrt(2)
    assert noted["deficiency margin"] == near(1 - away - 16 * 2.0**-12 * (0.9 * 2 + math.sqrt(2)))
    for spread, white in ((0.9e-9, True), (1.5e-9, False)):
        uneven = lf.Quadratic(np.diag([1.0, 1 + spread]), C=np.eye(2))
        assert ("whiten" in published_descent._balanced_reason(Setting(uneven, net), 1e-9, {})) != white
    assert facts["deficiency margin"] == near(0.9 - 0.1 - 16 * 2.0**-12 * (0.9 * 2 + np.linalg.norm(Y)))


def halved(f, net, part=2.0):
    """The first of a long step and its halves that lowers the loss by half of what its slope promises."""
    gradients = net.gradient(f.gradient(net.product()))
    gap, squared = f.gap(net.product()), sum(float(np.sum(G * G)) for G in gradients)
    eta = 4 * abs(gap) / squared
    while True:
        new = lf.Network([W - eta * G for W, G in zip(net.weights, gradients, strict=True)], net.scale)
        if f.gap(new.product()) <= gap - eta * squared / part:
            return eta
        eta /= 2


def test_the_step_taken_without_advice_lowers_the_loss_by_half_of_its_slope(rng):
    from linflow.certificates import descent

    told_apart = 0
    for _ in range(20):
        f = lf.MatrixFactorization(3 * rng.standard_normal((2, 2)))
        net = lf.Network([rng.standard_normal((2, 3)), rng.standard_normal((3, 2))], 0.5)
        assert descent._first_accepted(f, net) == near(halved(f, net))
        told_apart += halved(f, net) != halved(f, net, 3.0)
    assert told_apart


def test_a_step_without_advice_is_1_where_no_slope_or_no_gap_scales_it():
    from linflow.certificates import descent

    f, net = lf.MatrixFactorization(3 * np.eye(1)), lf.Network([np.ones((1, 1)), np.ones((1, 1))], 0.5)
    assert descent._first_accepted(f, lf.Network([np.zeros((1, 1)), np.zeros((1, 1))])) == 1.0

    def declared(minimum, slope=1.0):
        """A slope, at a start where the loss is 1."""
        return lf.Objective(
            lambda W: 1 + slope * float(W[0, 0] - 0.5),
            lambda W: np.full((1, 1), slope),
            shape=(1, 1),
            minimum=minimum,
        )

    # At the minimum that was declared, below it, and where the slope is past float64 or all but none.
    assert descent._first_accepted(declared(1.0), net) == 1.0
    assert descent._first_accepted(declared(2.0), net) == near(halved(declared(2.0), net))
    for slope in (1e160, 1e-160):
        assert descent._first_accepted(declared(0.0, slope), net) == 1.0
    # A loss that is above the first wherever it is looked at: 200 steps are.
    seen = []
    rising = lf.Objective(lambda W: 2.0 if seen else 1.0, lambda W: np.ones((1, 1)), shape=(1, 1), minimum=0.0)
    gap = rising.gap
    rising.gap = lambda W: (gap(W), seen.append(W))[0]
    assert descent._first_accepted(rising, net) == 1.0 and len(seen) == 201
    flat = lf.Objective(lambda W: 1.0, lambda W: np.ones((1, 1)), shape=(1, 1), minimum=0.0)
    eta = descent._first_accepted(flat, net)  # the half that is promised is all but nothing
    assert eta == near(halved(flat, net)) and eta * 0.5 / 2 < 1e-15


# --- descent: schedules --------------------------------------------------------------------------------------------


def test_the_growing_step_and_the_pieces_it_is_cut_into():
    rule = scheduled.Rule(0.1, printed=True)
    assert rule.growth == near(0.5 * math.log(1.01)) and rule.at(7) == near(0.1 * 1.01**3.5)
    assert rule.at(1e9) == near(0.1 * math.exp(600)) and scheduled.Rule(math.inf, printed=True).growth == 0.0
    starts = rule.pieces(5.0)
    ratio = max(1.02, 50 ** (1 / 100))
    assert starts[0] == 0 and rule.at(starts[-1]) >= 5.0 > rule.at(starts[-2])
    assert {b - a for a, b in pairwise(starts)} == {math.ceil(math.log(ratio) / rule.growth)}
    fine = rule.pieces(0.2)
    assert {b - a for a, b in pairwise(fine)} == {math.ceil(math.log(1.02) / rule.growth)}
    assert rule.pieces(0.05) == [0] and scheduled.Rule(1e-9, printed=True).pieces(1.0) == [0]
    assert scheduled.Rule(1e-170, printed=True).pieces(1.0) == [0]  # 1e-340 is 0: it does not grow
    assert len(scheduled.Rule(3.0, printed=True).pieces(3.1)) == 2


def test_the_least_sum_of_two_squares_of_norms():
    for a, b, s in (
        (0.0, 0.0, 3.0),
        (6.0, 0.0, 3.0),
        (4.0, 5.0, 3.0),
        (0.0, 7.0, 3.0),
        (0.5, 1.0, 3.0),
        (1.0, 9.0, 3.0),
        (0.0, 0.5, 0.2),
    ):
        grid = np.geomspace(max(a, 1e-3), 1e3, 200_001)
        literal = np.min(grid + np.maximum(b, s * s / grid))
        assert scheduled.least_sum(a, b, s) == near(literal, rel=1e-4)  # of the grid
    assert scheduled.least_sum(0.0, 0.0, 0.0) == 0.0


def test_steps_and_caps_of_a_schedule_are_as_written(monkeypatch, rng):
    strict = 1.02
    for module in (step_bounds, scheduled):
        monkeypatch.setattr(module, "STRICT", strict)
    f, net = descent_start(rng, 2)
    c, K, levels = 0.8, f.smoothness, envelope.gap_levels(f.gap(net.product()))
    for printed, along in ((True, False), (False, False), (False, True)):
        bounds = scheduled.ScheduleBounds(Setting(f, net), scheduled.Rule(1e-3, printed, along))
        literal = Literal(f, net, strict)
        assert bounds.least_size == near(max(0.0, 2 * np.linalg.norm(f.minimizer, 2) / c - literal.high[0]) / strict)
        omega = np.minimum(bounds.caps(0.01, bounds.high).layers, literal.norms[:, None] + 0.3)
        ceiling = 7.0
        found = bounds.roots(Caps.of(omega), np.full(len(levels), ceiling))
        a, b = (6, 3) if printed else (1, 1)
        roots = []
        for k in range(len(levels)):
            slope = c * math.sqrt(2 * K * (levels[k] + f.rounding(net)))
            flat = literal.beta(omega[:, k], ceiling, k)
            size = min(c * omega[0, k] * omega[1, k], c * literal.high[k])
            low, high = 0.0, 1 / flat
            for _ in range(80):
                eta = (low + high) / 2
                Kt = flat + b * (flat - slope) * slope * eta + a * c * K * size * slope**2 / 2 * eta**2
                low, high = (eta, high) if eta * Kt <= 1 else (low, eta)
            roots.append(low)
        np.testing.assert_allclose(found, np.maximum.accumulate(roots) / strict**2, rtol=1e-10)
        # No step exceeds 1/(K λ_max(T)), nor 2/(γα).
        D, drift, radius = literal.inv.spectra[0], 0.05, 0.2
        near_start = [max(x / strict - radius, 0.0) ** 2 for x in literal.norms]
        first = max(float(D.lower[0]) - drift, near_start[0], 0.0)
        second = max(-float(D.upper[-1]) - drift, near_start[1], 0.0)
        for alpha in (1e-3, 50.0):
            below = f.pl_constant * alpha / 2
            if not along:
                below = max(below, K * c**2 * scheduled.least_sum(first, second, bounds.least_size))
            assert bounds.largest_root(drift, radius, alpha) == near(strict**2 / below)
    assert bounds.largest_root(drift, radius, 0.0) == math.inf


def test_a_schedule_is_held_with_drift_path_and_worst_gaps(monkeypatch, rng):
    strict = 1.02
    for module in (step_bounds, scheduled):
        monkeypatch.setattr(module, "STRICT", strict)
    for away in (0.005, 1.0):
        f, net = descent_start(rng, 2, away)
        for first in (1e-2, 1e-4):
            bounds = scheduled.ScheduleBounds(Setting(f, net), scheduled.Rule(first, printed=True))
            held = bounds.held()
            assert held is not None
            literal = Literal(f, net, strict)
            floors = literal.alphas(held.drift)
            reach, last = literal.reach(floors[0]), None
            for _radius, _ceiling, j in literal.balls():
                if j is None or 4 * math.sqrt(literal.gap) * strict < reach[j]:
                    last = j
                    break
            radius = math.inf if last is None else literal.ball_radii[last]
            assert held.radius == near(radius)
            omega = [np.minimum(literal.caps(held.drift, k), literal.norms + radius) for k in (0, 20)]
            np.testing.assert_allclose(held.caps, omega[0], rtol=1e-12)
            alphas = floors.copy()
            if last is not None:
                for k in range(len(alphas)):
                    after = literal.levels[k + 1] if k + 1 < len(alphas) else 0.0
                    passed = 4 * (math.sqrt(literal.gap) - math.sqrt(after))
                    end = next((j for j, r in enumerate(reach) if r >= passed), len(reach))
                    alphas[k] = max(alphas[k], literal.ball_floors[min(end, last)])
            np.testing.assert_allclose(held.alphas, alphas, rtol=1e-12)
            # The worst gaps, and the drift Σ m_t (ℓ_t − ℓ_{t+1}), step by step.
            largest = bounds.largest_root(held.drift, radius, float(alphas.min()))
            gains, rule, d0, curve = f.pl_constant * alphas / strict, bounds.rule, held.roots, held.curve
            for k in (0, 1, 5, 40):
                u = literal.gap
                for t in range(k):
                    eta = np.minimum(rule.at(t) / strict, d0)
                    d = np.minimum(eta * (1 - eta / d0 / 2) * gains, 1.0)
                    u = worst(literal.levels, d, u, 1)
                assert curve.gap_after(k) >= u * (1 - 1e-9)
            assert curve.largest == near(largest) == held.largest and curve.step_size == min(first, held.roots[0])
            slow = np.minimum.accumulate((gains / 2)[::-1])[::-1]
            np.testing.assert_allclose(curve.decay.rates, slow, rtol=1e-12)
            assert curve.rate == near(slow.min()) and curve.rate_at(literal.gap / 7) == near(
                curve.decay.rate_at(literal.gap / 7)
            )
            longest = min(largest, strict * rule.at(3.0 / curve.step_size))
            slowly = literal.gap * math.exp(-curve.rate * max(3.0 - longest, 0.0))
            assert curve.gap(3.0) == near(min(curve.gap_after(math.floor(3.0 / longest * (1 - 1e-12))), slowly))
            y = literal.gap / 100
            log, k = curves.log_ratio(literal.gap, y), curve.steps(y)
            longest = min(largest, strict * rule.at(k))
            assert curve.time(y) == near(min(longest * k, log / curve.rate + longest))
            assert curve.time(literal.gap) == 0.0
            # The drift that the sequence makes is within the cap: m_0 ℓ_0 + Σ (m_t − m_{t−1}) ℓ_t.
            total, before, u = 0.0, 0.0, literal.gap
            for t in range(200):
                top = min(rule.at(t), largest)
                m = min(top / (1 - min(top / held.roots[0], 1.0) / 2), 2 * largest)
                total, before = total + (m - before) * u, m
                eta = np.minimum(rule.at(t) / strict, d0)
                u = worst(literal.levels, np.minimum(eta * (1 - eta / d0 / 2) * gains, 1.0), u, 1)
            assert total <= held.drift * (1 + 1e-9)
            assert held.drift <= strict**2 * 1.001 * 1.05 * (total + 2 * largest * u) + 1e-12
