"""Step rules, interpolation and gradients of the dynamics against their formulas, written out anew.

Tolerances are a few roundings (1e-12) where both sides do the same operations, and said where they are not.
"""

import math
from itertools import pairwise
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow import schedules
from linflow.dynamics import (
    _dop853,
    _hermite,
    _stabilized,
    _stepping,
    local_smoothness,
    saddles,
    step_rules,
    trajectory,
)
from linflow.dynamics import descent as descent_module
from linflow.dynamics.descent import Iterate
from linflow.dynamics.field import GradientField, Point
from linflow.model.network import multiply

SAME = 1e-12


def near(x, rel=SAME, abs=0.0):
    return pytest.approx(x, rel=rel, abs=abs)


# --- interpolation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "degree"), [(2, 5), (3, 8), (4, 11), (6, 11)])
def test_interpolation_is_exact_for_polynomials_of_its_degree(rng, count, degree):
    p = np.polynomial.Polynomial(rng.standard_normal(degree + 1))
    nodes = np.sort(rng.uniform(-1, 1, count))
    nodes = np.linspace(-1, 1, count) + 0.02 * rng.uniform(-1, 1, count)
    t = np.linspace(nodes[0], nodes[-1], 37)
    found = _hermite.interpolate(t, nodes, p(nodes), p.deriv()(nodes), p.deriv(2)(nodes))
    np.testing.assert_allclose(found, p(t), atol=1e-9)  # differences of order 11 magnify rounding
    if degree < 11:
        q = p + np.polynomial.Polynomial.basis(degree + 1)
        found = _hermite.interpolate(t, nodes, q(nodes), q.deriv()(nodes), q.deriv(2)(nodes))
        assert np.abs(found - q(t)).max() > 1e-8
    assert _hermite.interpolate(np.array([0.3]), nodes[:1], np.array([2.0]), np.zeros(1), np.zeros(1)).tolist() == [
        2.0
    ]
    # Without curvatures it is linear, whether or not slopes are known.
    for slopes in (None, p.deriv()(nodes)):
        linear = _hermite.interpolate(t, nodes, p(nodes), slopes)
        assert linear.tolist() == np.interp(t, nodes, p(nodes)).tolist()


def test_each_time_is_interpolated_in_its_own_interval():
    """The two intervals have windows of two and three nodes, whose polynomials differ."""
    nodes, t = np.array([0.0, 1.0, 1.05]), np.array([0.5, 1.02])
    data = np.stack([np.sin(5 * nodes), 5 * np.cos(5 * nodes), -12.5 * np.sin(5 * nodes)])
    found = _hermite.interpolate(t, nodes, data[0], data[1], 2 * data[2])
    for k, count in ((0, 2), (1, 3)):
        form = _hermite.NewtonForm.of(nodes[None, :count], data[:, None, :count], np.zeros(1, dtype=int))
        assert found[k] == form.at(t[k : k + 1])[0]


def test_interpolation_without_curvatures_that_left_float64(rng):
    """Of degree 7 from values and slopes at four nodes; the curve is that of a rate of 1e198."""
    p, unit = np.polynomial.Polynomial(rng.standard_normal(8)), 1e-198
    nodes, t = np.linspace(-1, 1, 4), np.linspace(-1, 1, 37)
    data = p(nodes), p.deriv()(nodes) / unit, np.full(4, math.inf)
    np.testing.assert_allclose(_hermite.interpolate(unit * t, unit * nodes, *data), p(t), rtol=1e-9, atol=1e-10)
    falls = [-nodes, np.full(4, -1 / unit), np.array([0.0, math.inf, 0.0, 0.0])]
    assert _hermite.first_times(np.array([0.2]), unit * nodes, *falls) == near([-0.2 * unit])


def test_interpolation_is_local():
    nodes = np.linspace(0.0, 10.0, 11)
    t = np.linspace(0.0, 10.0, 87)
    found = _hermite.interpolate(t, nodes, np.exp(-nodes), -np.exp(-nodes), np.exp(-nodes))
    # 12 conditions on four nodes: |f⁽¹²⁾| max Π (t − x_i)³/12! is below 2e-7 of the largest value in the window.
    assert np.all(np.abs(found - np.exp(-t)) <= 2e-7 * np.exp(-np.maximum(np.floor(t) - 2, 0.0)))


def test_a_neighbour_much_shorter_than_the_interval_is_left_out():
    def windows(lengths):
        found = []
        for unit in (1.0, 2.0**10, 2.0**-10):
            first, count = _hermite._windows(unit * np.array(lengths, dtype=float), np.arange(len(lengths)))
            found.append(list(zip(first.tolist(), count.tolist(), strict=True)))
        assert found[0] == found[1] == found[2]
        return found[0]

    assert windows([1.0]) == [(0, 2)] and windows([1.0, 1.0]) == [(0, 3), (0, 3)]
    assert windows([1.0, 0.1]) == [(0, 3), (0, 3)] and windows([1.0, 0.099]) == [(0, 2), (0, 3)]
    assert windows([1.0, 1.0, 1.0]) == [(0, 4)] * 3
    assert windows([1.0, 1.0, 1.0, 1.0]) == [(0, 4), (0, 4), (1, 4), (1, 4)]
    # A short third interval: those that it is comparable with use it, the others do without.
    assert windows([1.0, 1.0, 0.05]) == [(0, 3), (0, 3), (0, 4)]
    assert windows([0.05, 1.0, 1.0]) == [(0, 4), (1, 3), (1, 3)]
    assert windows([1.0, 0.05, 1.0]) == [(0, 2), (0, 4), (2, 2)]
    assert windows([1.0, 1.0, 1.0, 0.05]) == [(0, 4), (0, 4), (1, 3), (1, 4)]
    assert windows([1.0, 0.1, 1.0]) == [(0, 4)] * 3 and windows([0.1, 1.0]) == [(0, 3), (0, 3)]


def test_the_newton_form_has_value_and_slope(rng):
    p = np.polynomial.Polynomial(rng.standard_normal(6))
    nodes = np.array([[0.5, 2.0]])
    data = np.stack([p(nodes), p.deriv()(nodes), p.deriv(2)(nodes) / 2])
    form = _hermite.NewtonForm.of(nodes, data, np.zeros(3, dtype=int))
    x = np.array([0.5, 1.1, 2.0])
    value, slope = form.slope(x)
    np.testing.assert_allclose(value, p(x), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(slope, p.deriv()(x), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(form.at(x), value, rtol=1e-14)


def test_first_times_solve_the_interpolant():
    nodes = np.array([0.0, 1.0, 2.0, 3.0])
    falls = lambda t: 3.0 - t**2  # noqa: E731
    data = falls(nodes), -2 * nodes, np.full(4, -2.0)
    levels = np.array([3.0, 2.0, 1.0, -5.0, -6.0, -7.0, 4.0])
    found = _hermite.first_times(levels, nodes, *data)
    literal = [0.0, 1.0, math.sqrt(2), math.sqrt(8), 3.0, math.inf, 0.0]
    assert found == near(literal, rel=1e-14)
    linear = _hermite.first_times(levels, nodes, data[0])
    assert linear == near([0.0, 1.0, 1 + 1 / 3, 2 + 4 / 5, 3.0, math.inf, 0.0], rel=1e-14)
    # A node counts as on a level to 1e-12 above it, and the first of several counts.
    values = np.array([2.0, 1.0, 1.5, 0.5])
    at = _hermite.first_times(np.array([1.0 - 0.9e-12, 1.0 - 1.2e-12, 0.75]), nodes, values)
    assert at[0] == 1.0 and 2 < at[1] < 3 and at[2] == near(2.75)


def test_a_level_is_solved_for_between_the_nodes_around_it(monkeypatch):
    nodes = np.array([0.0, 1.0, 2.0, 3.0])
    values, slopes, bends = 3.0 - nodes**2, -2 * nodes, np.full(4, -2.0)
    asked = []
    monkeypatch.setattr(
        _hermite.NewtonForm, "solve", lambda self, *args: asked.extend(x.tolist() for x in args) or args[0]
    )
    _hermite.first_times(np.array([1.0, -3.0]), nodes, values, slopes, bends)
    assert asked == [[1.0, -3.0], [1.0, 2.0], [2.0, 3.0], [2.0, -1.0], [-1.0, -6.0]]
    assert _hermite.first_times(np.array([2.5]), nodes, values, slopes).tolist() == [0.5]


def test_solving_ends_at_the_level_where_newton_leaves_the_bracket():
    # A flat start throws Newton out: x³ at its inflection.
    nodes = np.array([-1.0, 1.0])
    values, slopes, bends = -(nodes**3), -3 * nodes**2, -6 * nodes
    for level in (-0.5, 1e-3, 0.9):
        (found,) = _hermite.first_times(np.array([level]), nodes, values, slopes, bends)
        assert found == near(-math.copysign(abs(level) ** (1 / 3), level), rel=1e-12)


def test_solving_stays_in_the_bracket_and_is_quick(monkeypatch):
    asked, plain = [], _hermite.NewtonForm.slope

    def slope(self, x):
        asked.append(x.copy())
        return plain(self, x)

    monkeypatch.setattr(_hermite.NewtonForm, "slope", slope)
    kinds = [
        (lambda x: math.exp(-x), lambda x: -math.exp(-x), lambda x: math.exp(-x), 6),
        (lambda x: -((x - 1.4) ** 3), lambda x: -3 * (x - 1.4) ** 2, lambda x: -6 * (x - 1.4), 60),
        (lambda x: -(x**9) / 40, lambda x: -9 * x**8 / 40, lambda x: -72 * x**7 / 40, 25),
        (
            lambda x: 2.0 - math.tanh(4 * (x - 1.5)),
            lambda x: -4 / math.cosh(4 * (x - 1.5)) ** 2,
            lambda x: 32 * math.tanh(4 * (x - 1.5)) / math.cosh(4 * (x - 1.5)) ** 2,
            12,
        ),
    ]
    for value, rise, bend, most in kinds:
        nodes = np.array([1.0, 2.0])
        data = [np.array([g(x) for x in nodes]) for g in (value, rise, bend)]
        share = np.array([0.05, 0.3, 0.5, 0.95])
        levels = data[0][0] + share * (data[0][1] - data[0][0])
        asked.clear()
        found = _hermite.first_times(levels, nodes, *data)
        np.testing.assert_allclose(_hermite.interpolate(found, nodes, *data), levels, rtol=1e-13, atol=1e-14)
        assert len(asked) <= most and all(np.all((x >= 1.0) & (x <= 2.0)) for x in asked)
        # The first guess is where a straight line meets the level.
        np.testing.assert_allclose(asked[0], 1 + share, rtol=1e-14)


# --- gradients -----------------------------------------------------------------------------------------------------


def start(rng, depth=3, scale=0.7):
    shapes = [(2, 3), *[(3, 3)] * (depth - 2), (3, 2)] if depth > 1 else [(2, 2)]
    net = lf.Network([0.5 * rng.standard_normal(s) for s in shapes], scale)
    return lf.LinearRegression(rng.standard_normal((5, 2)), rng.standard_normal((5, 2))), net


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_slope_and_curvature_are_derivatives_of_the_gap(rng, depth):
    f, net = start(rng, depth)
    field = GradientField(f, net)
    y = field.flatten(net.weights)
    point = field.at(y)
    assert point.gap == near(f.gap(net.product())) and field.evaluations == 1
    literal = np.concatenate([-G.ravel() for G in net.gradient(f.gradient(net.product()))])
    np.testing.assert_allclose(point.slope, literal, rtol=SAME, atol=1e-13)
    np.testing.assert_allclose(field(y), literal, rtol=SAME, atol=1e-13)
    assert point.speed == near(np.linalg.norm(literal)) and point.rate == near(np.sum(literal**2) / point.gap)

    def gap(x):
        return f.gap(field.network_at(x).product())

    h = 1e-5
    for i in (0, len(y) // 2, len(y) - 1):
        e = np.eye(len(y))[i] * h
        assert -(gap(y + e) - gap(y - e)) / (2 * h) == near(point.slope[i], rel=1e-6, abs=1e-8)
    # log ℓ along the flow: its second derivative is −(rate)˙, and the rate at y ± h ẏ shows it to O(h²).
    after, before = field.at(y + h * point.slope), field.at(y - h * point.slope)
    assert field.curvature(point) == near(-(after.rate - before.rate) / (2 * h), rel=1e-5)
    np.testing.assert_allclose(np.concatenate([W.ravel() for W in field.unflatten(y)]), y)
    parts = zip(field.unflatten(y), field.unflatten(point.slope), strict=True)
    assert field.grain(point) == near(sum(np.linalg.norm(W) * np.linalg.norm(G) for W, G in parts) / point.speed)


def test_a_point_is_stationary_where_every_gradient_is_rounding(rng):
    f, net = start(rng, 3)
    field = GradientField(f, net)
    y = field.flatten(net.weights)
    point = field.at(y)
    G = f.gradient(net.product())
    eps = np.finfo(float).eps
    noise = net.scale * (8 * eps * np.linalg.norm(G) + f.gradient_rounding(net))
    parts = [
        np.linalg.norm(A if A is not None else 1.0) * np.linalg.norm(B if B is not None else 1.0)
        for A, B in zip(net.prefixes(), net.suffixes(), strict=True)
    ]
    for k in range(3):
        for factor, still in ((0.99, True), (1.01, False)):
            slopes = [np.zeros_like(W) for W in net.weights]
            slopes[k].flat[0] = factor * noise * parts[k]
            slope = field.flatten(slopes)
            assert field.is_stationary(Point(y, slope, 1.0, float(np.linalg.norm(slope)))) == still
    assert field.is_stationary(Point(y, 0 * point.slope, 1.0, 0.0))
    assert field.grain(Point(y, 1e-3 * point.slope, 1.0, 1e-3 * point.speed)) == near(field.grain(point))
    assert (
        Point(y, y, 0.0, 1.0).rate == 0.0
        and not Point(y, y, math.nan, 1.0).finite
        and not Point(y, y, 1.0, math.inf).finite
    )
    assert field.grain(Point(y, 0 * y, 1.0, 0.0)) == 0.0


# --- descent -------------------------------------------------------------------------------------------------------


def test_descent_takes_its_steps_and_records_what_it_says():
    f, net = lf.MatrixFactorization(np.array([[2.0]])), [np.array([[1.0]]), np.array([[0.5]])]
    run = lf.gradient_descent(f, net, step_size=0.1, steps=7, every=3, reduce=False)
    u, v, gaps = 1.0, 0.5, []
    for _ in range(8):
        gaps.append(0.5 * (u * v - 2) ** 2)
        u, v = u - 0.1 * (u * v - 2) * v, v - 0.1 * (u * v - 2) * u
    assert run.t == near([0.0, 0.3, 0.6, 0.7]) and run.gap == near([gaps[k] for k in (0, 3, 6, 7)])
    assert run.step_sizes == near([0.1] * 7) and run.step_size == 0.1 and run.result.value == "all steps done"
    assert float(run.t[-1]) == 7 * 0.1
    until = lf.gradient_descent(f, net, step_size=0.1, steps=99, until=gaps[5] / gaps[0] * 1.0000001)
    assert until.stats.steps == 5 and until.result.value == "target reached"
    rule = SimpleNamespace(
        step=lambda iterate: 0.1 / (1 + iterate.k) if iterate.last is None or iterate.last > 0.02 else 0.01
    )
    run = lf.gradient_descent(f, net, schedule=rule, steps=3)
    assert run.step_sizes == near([0.1, 0.05, 0.1 / 3]) and float(run.t[-1]) == near(0.15 + 0.1 / 3)
    assert run.step_size is None
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="schedule returned"):
            lf.gradient_descent(f, net, schedule=SimpleNamespace(step=lambda iterate, bad=bad: bad), steps=1)
    for given in ({}, {"step_size": 0.1, "schedule": rule}):
        with pytest.raises(ValueError, match="give one"):
            lf.gradient_descent(f, net, steps=1, **given)
    fast = lf.gradient_descent(f, net, step_size=10.0, steps=99)
    assert fast.result.value == "diverged" or "diverge" in fast.result.value
    assert fast.gap[-1] > 1e12 * fast.gap[0] >= fast.gap[-2] and fast.final.weights[0][0, 0] == 1.0


def test_a_wide_descent_is_reduced_where_its_steps_are_the_same_there(rng):
    f = lf.MatrixFactorization(np.eye(2))
    two = lf.Network([0.1 * rng.standard_normal((2, 300)), 0.1 * rng.standard_normal((300, 2))])
    three = lf.Network([0.1 * rng.standard_normal(s) for s in ((2, 300), (300, 300), (300, 2))])
    seen = []
    rule = SimpleNamespace(step=lambda iterate: seen.append(iterate.network.widths) or 0.1)
    for net, reduced in ((two, True), (three, False)):
        for reduce in (True, False):
            seen.clear()
            run = lf.gradient_descent(f, net, schedule=rule, steps=2, reduce=reduce)
            assert (seen[0][1] < 300) == (reduced and reduce) and run.final.widths == net.widths
            plain = lf.gradient_descent(f, net, step_size=0.1, steps=2, reduce=not reduce)
            np.testing.assert_allclose(run.gap, plain.gap, rtol=1e-12)
            assert run.stats.rejected == 0 and run.stats.steps == 2
    told = []
    lf.gradient_descent(f, two, step_size=0.01, steps=250, progress=told.append)
    assert told == [0.0, 0.4, 0.8]


def test_an_end_of_a_descent_is_told_by_its_gap():
    f, net = lf.MatrixFactorization(np.eye(1)), lf.Network([np.eye(1), np.eye(1) * 0.5])
    field = GradientField(f, net)
    y = field.flatten(net.weights)
    noise = f.rounding(net)

    def ended(gap, first=1.0, until=None):
        found = descent_module._ended(field, Point(y, y, gap, 1.0), first, until)
        return found and found.name

    assert ended(1e12) is None and ended(1.01e12) == "DIVERGED" and ended(2.1e12, 2.0) == "DIVERGED"
    assert ended(0.1, until=0.1) == "TARGET" and ended(0.11, until=0.1) is None and ended(0.2, 2.0, 0.1) == "TARGET"
    assert ended(noise, until=0.1) == "ROUNDING" and ended(1.01 * noise, until=0.1) == "TARGET"
    assert ended(noise / 2) is None and ended(math.inf) == "DIVERGED"
    assert ended(math.nan) == "DIVERGED" and ended(0.0) == "ROUNDING" and ended(-2 * noise) == "BELOW_MINIMUM"


# --- schedules -----------------------------------------------------------------------------------------------------


def iterate(f, net, k=0, last=None):
    field = GradientField(f, net)
    return Iterate(field, field.at(field.flatten(net.weights)), k, last)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("form", ["step", "curvature"])
def test_the_local_step_solves_its_equation(rng, depth, form):
    f, net = start(rng, depth)
    at = iterate(f, net)
    eta = schedules.local_smoothness(form).step(at)
    W, G = net.product(), f.gradient(net.product())
    gradients = net.gradient(G)
    squared = sum(np.sum(g * g) for g in gradients)
    # W(η) as a polynomial, from its values at 2L + 2 points.
    xs = eta * np.linspace(0, 1.5, depth + 1)
    values = [
        net.with_weights([A - x * g for A, g in zip(net.weights, gradients, strict=True)]).product().ravel()
        for x in xs
    ]
    M = np.linalg.solve(np.vander(xs / eta, increasing=True), np.array(values)).reshape(-1, *W.shape)
    M = [m / eta**k for k, m in enumerate(M)]
    V = sum(eta ** (k - 1) * M[k] for k in range(1, depth + 1))
    bent = np.sum(V * f.hessian_product(W, V)) if form == "curvature" else f.smoothness * np.sum(V * V)
    K = (2 * sum(eta ** (k - 2) * np.sum(G * M[k]) for k in range(2, depth + 1)) + bent) / squared
    assert eta * K == near(1.0, rel=1e-8)  # lowered by 1e-9, and the polynomial is found to 1e-10
    assert eta < 1 / K * (1 + 1e-9)


@pytest.mark.parametrize(("form", "a", "b"), [("two layers", 1, 1), ("printed", 6, 3)])
def test_the_local_step_of_two_layers_is_that_of_the_worst_direction(rng, form, a, b):
    f, net = start(rng, 2)
    eta = schedules.local_smoothness(form).step(iterate(f, net))
    c, K, gap = net.scale, f.smoothness, f.gap(net.product())
    T = np.linalg.eigvalsh(lf.TangentOperator(net).dense())[-1]
    size, slope = np.linalg.norm(net.product(), 2), c * math.sqrt(2 * K * gap)
    Kt = K * T + slope + a * c**3 * K**2 * size * gap * eta**2 + b * K * T * slope * eta
    assert eta * Kt == near(1.0, rel=3e-9) and eta * Kt < 1
    grown = schedules.Xu2025(1e-3)
    assert grown.step(iterate(f, net, k=10)) == near(1e-3 * (1 + 1e-6) ** 5)
    far = grown.step(iterate(f, net, k=10**9))
    assert far == near(schedules.local_smoothness("printed").step(iterate(f, net)))


def test_steps_without_a_gradient_or_within_overflow(monkeypatch, rng):
    f, net = lf.Quadratic(4 * np.eye(1), C=4 * np.eye(1)), lf.Network([np.eye(1), np.eye(1)])
    for form in ("step", "curvature", "two layers", "printed"):
        assert schedules.local_smoothness(form).step(iterate(f, net)) == 0.25  # 1/K
        at = iterate(f, lf.Network([2 * np.eye(1), np.eye(1)]))
        broken = Iterate(at.field, Point(at.point.y, at.point.slope, math.inf, at.point.speed), 0, None)
        assert schedules.local_smoothness(form).step(broken) == 0.25
    monkeypatch.setattr(step_rules, "along_the_step", lambda *a: (math.nan, math.nan))
    assert schedules.local_smoothness().step(at) == 0.25
    monkeypatch.undo()
    # The step with η K_t(η) = 2 comes beside that with 1: the loss is then as it was.
    g, deep = start(rng, 3)
    field = GradientField(g, deep)
    point = field.at(field.flatten(deep.weights))
    half, whole = local_smoothness.along_the_step(field, deep, point, "curvature")
    assert half < whole
    assert g.gap(field.network_at(point.y + whole * point.slope).product()) == near(point.gap, rel=1e-6)
    fallen = point.gap - 0.5 * half * point.speed**2
    assert g.gap(field.network_at(point.y + half * point.slope).product()) == near(fallen, rel=1e-6)
    # Decreases below rounding are not asked for.
    noisy = iterate(*start(rng, 2))
    monkeypatch.setattr(noisy.field.objective, "rounding", lambda net: 1e6)
    assert schedules.backtracking(1e-6, slope=0.999999).step(noisy) == 1e-6
    for coefficients, root in (
        ([2.0], 0.5),
        ([1.0, 1.0], (math.sqrt(5) - 1) / 2),
        ([0.0, 4.0], 0.5),
        ([-1.0], 1.0),
        ([1.0, -1.0], 1.0),
    ):
        assert local_smoothness.first_root(coefficients) == near(
            root * (1 - 1e-9) if coefficients not in ([-1.0], [1.0, -1.0]) else 1.0
        )
    assert local_smoothness.first_root([3.0, -2.0]) == near(0.5 * (1 - 1e-9))  # −1 + 3τ − 2τ² has ½ and 1
    assert local_smoothness.first_root([2.0, 1e-301]) == near(0.5 * (1 - 1e-9))
    assert local_smoothness.first_root([2.0, 0.0, 0.0]) == near(0.5 * (1 - 1e-9))
    assert local_smoothness.first_root([0.0, 0.0, 8.0]) == near(0.5 * (1 - 1e-9))
    # −1 + τ − ½τ² + τ³ (…): the pair of complex roots is passed over.
    assert local_smoothness.first_root([1.0, -0.9, 1.0]) == near(
        float(np.min([r.real for r in np.roots([1, -0.9, 1, -1]) if abs(r.imag) < 1e-9])) * (1 - 1e-9)
    )
    moving = local_smoothness._product_polynomial(
        lf.Network([2 * np.eye(1), 3 * np.eye(1)], 0.5), [np.eye(1) * 5, np.eye(1) * 7]
    )
    assert [float(m[0, 0]) for m in moving] == near([3.0, 0.5 * (15 + 14), 17.5])


def test_backtracking_takes_the_first_step_that_armijo_accepts():
    f, net = lf.MatrixFactorization(np.array([[3.0]])), lf.Network([np.ones((1, 1)), np.ones((1, 1))], 0.5)
    G = 0.5 * (0.5 - 3.0)
    gap, squared = 0.5 * 2.5**2, 2 * G * G
    for slope, shrink, grow, last in ((0.5, 0.5, 2.0, None), (0.9, 0.7, 3.0, None), (0.3, 0.5, 2.0, 0.8)):
        eta = 4.0 if last is None else grow * last
        while 0.5 * (0.5 * (1 - eta * G) ** 2 - 3) ** 2 > gap - slope * eta * squared:
            eta *= shrink
        rule = schedules.backtracking(4.0, shrink=shrink, grow=grow, slope=slope)
        assert rule.step(iterate(f, net, last=last)) == near(eta)
    for bad in ({"shrink": 1.0}, {"slope": 1.0}, {"grow": 0.99}, {"shrink": 0.0}):
        with pytest.raises(ValueError, match="is needed"):
            schedules.backtracking(**bad)
    assert schedules.backtracking(grow=1.0).grow == 1.0


# --- the stabilised method -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [2, 3, 5, 12, 250])
def test_the_stabilised_method_has_the_coefficients_of_its_paper(s):
    with mpmath.workdps(40):
        e = mpmath.mpf(2) / 13
        w0 = 1 + e / s**2

        def T(j, order=0):
            return (
                mpmath.diff(lambda x: mpmath.cos(j * mpmath.acos(x)), w0, order).real
                if order
                else mpmath.cosh(j * mpmath.acosh(w0))
            )

        t = [mpmath.mpf(1), w0]
        d, dd = [mpmath.mpf(0), mpmath.mpf(1)], [mpmath.mpf(0), mpmath.mpf(0)]
        for j in range(2, s + 1):  # T_j' = jU_{j−1} and its derivative, by the recurrences
            t.append(2 * w0 * t[-1] - t[-2])
            d.append(2 * t[j - 1] + 2 * w0 * d[-1] - d[-2])
            dd.append(4 * d[j - 1] + 2 * w0 * dd[-1] - dd[-2])
        assert abs(t[s] - T(s)) < mpmath.mpf(10) ** -25
        w1 = d[s] / dd[s]
        b = [None, None, *(dd[j] / d[j] ** 2 for j in range(2, s + 1))]
        b[0] = b[1] = b[2]
        mu, nu, mu_t, gamma_t = _stabilized.coefficients(s)
        assert mu_t[1] == near(float(b[1] * w1))
        for j in range(2, s + 1):
            assert mu[j] == near(float(2 * b[j] * w0 / b[j - 1])) and nu[j] == near(float(-b[j] / b[j - 2]))
            assert mu_t[j] == near(float(2 * b[j] * w1 / b[j - 1]))
            assert gamma_t[j] == near(float(-(1 - b[j - 1] * t[j - 1]) * mu_t[j]), abs=1e-15)


def test_a_stabilised_step_is_of_second_order_and_stable_over_its_length():
    for s in (2, 5, 20):
        radius = 1.0
        h = _stabilized.longest_step(s, radius)
        assert h == near(((s - 1) ** 2 - 1) / 1.54) and _stabilized.stages_for(h * 0.999, radius) <= max(s, 2)
        for z in np.linspace(0, h, 50):
            y, _, _ = _stabilized.step(lambda y, z=z: -z * y, np.full(1, 2.0), -z * np.full(1, 2.0), 1.0, s)
            assert abs(float(y[0])) <= 2.0
        errors = [
            abs(
                float(_stabilized.step(lambda y: -y, np.full(1, 2.0), -np.full(1, 2.0), x, s)[0][0])
                - 2 * math.exp(-x)
            )
            for x in (0.02, 0.01)
        ]
        assert 7 < errors[0] / errors[1] < 9  # order 3 of a step
    y, slope, error = _stabilized.step(lambda y: -y * y, np.array([1.0, 2.0]), -np.array([1.0, 4.0]), 0.1, 3)
    np.testing.assert_allclose(slope, -y * y)
    assert error == near(np.linalg.norm(0.8 * (np.array([1.0, 2.0]) - y) + 0.04 * (np.array([-1.0, -4.0]) + slope)))
    assert [_stabilized.stages_for(h, 2.0) for h in (1e-9, 1.0, 10.0)] == [3, 4, 7]
    assert _stabilized.longest_step(5, 0.0) == math.inf and _stabilized.longest_step(5, 2.0) == near(15 / 3.08)
    assert (_stabilized.ORDER, _stabilized.STRICTER, _stabilized.NEGLIGIBLE, _stabilized.LIMIT) == (3, 0.1, 1e-3, 5.0)
    assert (_stabilized.DAMPING, _stabilized.MOST_STAGES, _dop853.ORDER) == (2 / 13, 250, 8)


def test_the_method_is_chosen_by_what_a_unit_of_time_costs(monkeypatch, rng):
    f, net = start(rng, 2)
    field = GradientField(f, net)
    point = field.at(field.flatten(net.weights))
    stiff = _stabilized.Stiffness(field)
    steepness = np.linalg.norm(f.gradient(net.product()))
    radius = 1.05 * _stabilized.spectral_radius(net, f.smoothness, steepness)
    outcome, trials = {}, []

    def step(field, y, slope, h, stages):
        trials.append((h, stages))
        return y, slope, outcome["error"]

    monkeypatch.setattr(_stabilized, "step", step)

    def allowed(h):
        return 1e-3 * h

    # In use: it stays while a unit of time costs fewer stages than steps of order 8 at their limit.
    for h in np.geomspace(0.1, 100, 60) / radius:
        stiff.radius = 1.0
        found, stages = stiff.review(point, h, allowed), max(2, 1 + math.ceil(math.sqrt(1 + 1.54 * h * radius)))
        if stages / h <= 12 * radius / 5:
            assert found == h and stiff.radius == near(radius)
        else:
            assert found == near(5 / radius) and stiff.radius == 0.0
    # A step that may have no error at all is not taken by the stabilised method.
    stiff.radius, outcome["error"] = 0.0, 1.0
    assert stiff.review(point, 50 / radius, lambda h: 0.0) == 50 / radius
    assert stiff.radius == 0.0
    # Not in use: tried where the step is near the limit of stability, by the length that its error allows.
    longest = (249**2 - 1) / (1.54 * radius)
    for h in (2.9 / radius, 3.1 / radius, 50 / radius, 5000 / radius):
        for error in (*np.geomspace(1e-12, 1e2, 99), math.inf):
            stiff.radius, outcome["error"] = 0.0, error
            trials.clear()
            found = stiff.review(point, h, allowed)
            if h * radius <= 3.0:
                assert found == h and not trials
                continue
            trial = min(8 * h, longest)
            assert trials == [(near(trial), max(2, 1 + math.ceil(math.sqrt(1 + 1.54 * trial * radius))))]
            factor = min(0.8 * (0.1 * allowed(trial) / error) ** (1 / 3), 100.0)
            length = min(trial * factor, longest) if math.isfinite(error) else trial / 8
            stages = max(2, 1 + math.ceil(math.sqrt(1 + 1.54 * length * radius)))
            if stages / length < 0.6 * 12 / h:
                assert found == near(length) and stiff.radius == near(radius)
            else:
                assert found == h and stiff.radius == 0.0
    # At rest nothing is tried.
    outcome["error"], stiff.radius = 1e-12, 0.0
    trials.clear()
    assert stiff.review(Point(point.y, point.slope, 1.0, 0.0), 50 / radius, allowed) == 50 / radius and not trials
    assert stiff.review(Point(point.y, point.slope, 1.0, 1.0), 50 / radius, allowed) != 50 / radius and trials
    asked = []
    endless = lf.Objective(
        f.value, lambda W: asked.append(W) or f.gradient(W), shape=f.shape, pl_constant=1.0, minimum=0.0
    )
    stiff = _stabilized.Stiffness(GradientField(endless, net))
    asked.clear()
    assert not stiff.possible and stiff.review(point, 50 / radius, allowed) == 50 / radius and not asked


def test_a_descent_has_diverged_at_1e12_times_its_first_gap(rng):
    f, net = start(rng, 2)
    field = GradientField(f, net)
    y = field.flatten(net.weights)
    for factor, ended in ((0.9e12, None), (1.1e12, lf.Result.DIVERGED)):
        assert descent_module._ended(field, Point(y, y, 2.0 * factor, 1.0), 2.0, None) is ended


def test_the_smoothness_of_a_step_is_that_of_the_level_with_its_rounding(monkeypatch):
    """It falls with the gap where a tail is known and the loss is one of the library's."""
    X, Y = np.array([[1.0, 0.2], [0.9, -0.3]]), np.ones((2, 1))
    asked = []
    for f in (lf.LogisticLoss(X, Y), lf.ExponentialLoss(X, Y)):
        monkeypatch.setattr(type(f), "smoothness_on", lambda self, gap: asked.append(gap) or 7.0)
        assert local_smoothness.smoothness_now(f, 0.5) == local_smoothness.smoothness_now(f, -1e-20) == 7.0
        assert asked[-2:] == [0.5 * (1 + 1e-9), 0.0]
    f = lf.MatrixFactorization(np.eye(2))
    assert local_smoothness.smoothness_now(f, 0.5) == f.smoothness


@pytest.mark.parametrize("size", [1e-35, 1e-90])
def test_a_step_whose_polynomial_leaves_float64_has_no_root(size):
    """At 1e-35 the first coefficient is finite and others are not; at 1e-90 the unit of the step is not."""
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.Network([size * np.eye(2)] * 3)
    field = GradientField(f, net)
    found = local_smoothness.along_the_step(field, net, field.at(field.flatten(net.weights)))
    assert all(math.isnan(eta) for eta in found)


def test_the_spectral_radius_bounds_the_hessian_by_norms(rng):
    for depth in (2, 3, 4):
        _, net = start(rng, depth)
        x = [np.linalg.norm(W, 2) for W in net.weights]
        T = 0.49 * sum(math.prod(x[k] for k in range(depth) if k != l) ** 2 for l in range(depth))
        rows = [
            sum(math.prod(x[k] for k in range(depth) if k not in (i, j)) for j in range(depth) if j != i)
            for i in range(depth)
        ]
        assert _stabilized.spectral_radius(net, 1.3, 2.1) == near(1.3 * T + 2.1 * 0.7 * max(rows))


# --- steps of the flow ---------------------------------------------------------------------------------------------


def test_a_step_of_order_8_is_that_of_scipy(rng):
    from scipy.integrate import DOP853

    A = rng.standard_normal((4, 4))
    y = rng.standard_normal(4)
    field = lambda y: A @ np.sin(y)  # noqa: E731
    h = 1.0
    solver = DOP853(lambda t, y: field(y), 0.0, y, 10.0, first_step=h, rtol=1e3, atol=1e3)
    solver.step()
    new, error = _dop853.step(field, y, field(y), h)
    np.testing.assert_allclose(new, solver.y, rtol=1e-14, atol=1e-14)
    fifth, third = solver.K.T @ DOP853.E5, solver.K.T @ DOP853.E3
    literal = h * np.sum(fifth**2) / math.sqrt(np.sum(fifth**2) + 0.01 * np.sum(third**2))
    assert error == near(literal, rel=1e-9)  # the weights of the errors cancel to 1e-3 of their size
    assert _dop853.step(lambda y: 0 * y, y, 0 * y, h)[1] == 0.0
    back, same = _dop853.step(field, y, field(y), -h)
    assert same > 0 and not np.allclose(back, new)
    import array_api_strict as strict

    other, estimate = _dop853.step(
        lambda y: strict.asarray(field(np.asarray(y))), strict.asarray(y), strict.asarray(field(y)), h
    )
    np.testing.assert_allclose(np.asarray(other), new, rtol=1e-13)
    assert estimate == near(error, rel=1e-6)


def test_allowed_errors_and_factors_of_steps_are_as_written(rng):
    f, net = start(rng, 2)
    field = GradientField(f, net)
    point = field.at(field.flatten(net.weights))
    size, speed, eps = np.linalg.norm(point.y), point.speed, np.finfo(float).eps
    for rtol in (1e-3, 1e-9):
        for h in (1e-9, 1e-3, 1.0, 1e4):
            for radius in (0.0, 50.0):
                motion = (1e-2 if radius else 10 * rtol) * h * speed
                allowed, most = min(rtol * size, rtol * point.gap / speed, motion), 4 * eps
                if radius:
                    allowed, most = 0.1 * allowed, max(1.0, h * radius) * most
                if allowed < most * size:
                    allowed = max(allowed, most * field.grain(point))
                assert _stepping.allowed_error(field, point, h, rtol, radius) == near(max(allowed, 5e-324))
    assert [_stepping.shrink(x) for x in (1.5, 1e20)] == [near(0.9 * 1.5 ** (-1 / 8)), 0.2]
    assert _stepping.shrink(2.0, 3) == near(0.9 * 2 ** (-1 / 3))
    assert [_stepping.grow(x) for x in (0.5, 0.0)] == [near(0.9 * 0.5 ** (-1 / 8)), 10.0]
    assert _stepping.grow(0.5, 3) == near(0.9 * 0.5 ** (-1 / 3)) and _stepping.grow(1e-16, 100) == near(
        0.9 * 10**0.16
    )
    first = _stepping.initial_step(point)
    assert first == near(0.01 * min(size / speed, point.gap / speed**2))
    still = Point(point.y, point.slope, point.gap, 0.0)
    assert _stepping.initial_step(still) == 1.0
    assert _stepping.initial_step(Point(point.y, point.slope, 0.0, 2.0)) == near(0.01 * size / 2)
    slow = Point(1e-3 * point.y, point.slope, 4.0, 2.0)
    assert _stepping.initial_step(slow) == near(0.01 * min(1e-3 * size / 2, 1.0))


def test_a_trial_is_judged_by_error_and_rise(monkeypatch, rng):
    f, net = start(rng, 2)
    field = GradientField(f, net)
    point = field.at(field.flatten(net.weights))
    tolerated = _stepping.allowed_error(field, point, 0.1, 1e-6)
    outcome = {}
    monkeypatch.setattr(_stepping, "_step", lambda *a: outcome["step"])

    def judged(y, error):
        outcome["step"] = y, error
        with np.errstate(all="ignore"):
            new, ratio = _stepping.attempt(field, point, 0.1, 1e-6)
        return new is not None, ratio

    assert judged(point.y, 0.5 * tolerated) == (True, near(0.5)) and judged(point.y, 1.5 * tolerated) == (
        False,
        near(1.5),
    )
    assert judged(point.y, math.nan) == (False, 1e16) and judged(point.y * math.inf, 0.0) == (False, 1e3)
    assert judged(point.y, tolerated)[0]
    up = -point.slope / point.speed**2 * point.gap
    assert judged(point.y + 0.9e-10 * up, 0.0)[0] and judged(point.y + 1.2e-10 * up, 0.0) == (False, 1e3)
    low = Point(point.y, point.slope, point.gap, point.speed)
    monkeypatch.setattr(f, "rounding", lambda net: low.gap)
    assert judged(point.y + 1.2e-10 * up, 0.0)[0]


def test_a_last_step_is_shortened_to_the_target():
    decay = lambda h: SimpleNamespace(gap=math.exp(-2 * h) * (1 + h * h), rate=2 - 2 * h / (1 + h * h))  # noqa: E731

    class March:
        def __init__(self):
            self.point, self.taken, self.reached, self.tried = decay(0.0), 1.0, decay(1.0), 0

        def reach(self, h):
            self.taken, self.reached, self.tried = h, decay(h), self.tried + 1
            return self.reached

    for target in (0.9, 0.5, 0.28):
        march = March()
        assert _stepping.shorten(march, target, 1e-9)
        assert march.reached.gap == near(target, rel=2e-12) and march.tried <= 8
    assert not _stepping.shorten(March(), 1.0, 1e-9)
    tries = [(0.0, 1.0, 2.0), (1.0, -1.5, 3.0)]
    # The inverse Hermite cubic x(v): x(1) = 0, x' = −½; x(−1.5) = 1, x' = −⅓.
    from scipy.interpolate import CubicHermiteSpline

    cubic = CubicHermiteSpline([-1.5, 1.0], [1.0, 0.0], [-1 / 3, -1 / 2])
    assert _stepping._inverse(tries) == near(float(cubic(0.0)))
    assert math.isnan(_stepping._inverse([(0.0, 1.0, 0.0), (1.0, -1.0, 1.0)]))
    assert math.isnan(_stepping._inverse([(0.0, 1.0, 1.0), (1.0, 1.0, 1.0)]))


def march(monkeypatch, outcomes):
    """A march on ½(2 − uv)² whose attempts have the given outcomes: an error over the tolerance each."""
    f, net = lf.MatrixFactorization(np.array([[2.0]])), lf.Network([np.array([[1.0]]), np.array([[0.5]])])
    field, tried = GradientField(f, net), []

    def attempt(field, point, h, rtol, radius=0.0):
        ratio = outcomes.pop(0)
        tried.append((h, radius))
        return (None if ratio > 1 else field.at(point.y + h * point.slope)), ratio

    monkeypatch.setattr(_stepping, "attempt", attempt)
    return _stepping.PlainMarch(field, 1e-6), tried


def test_a_march_grows_shrinks_and_holds_its_step(monkeypatch):
    walk, tried = march(monkeypatch, [0.5, 2.0, 0.01, 0.01, 0.3, 0.3])
    assert (walk.t, walk.taken, walk.accepted, walk.rejected) == (0.0, 0.0, 0, 0) and walk.start.t == 0.0
    first = walk.start.point
    h = 0.01 * min(np.linalg.norm(first.y) / first.speed, first.gap / first.speed**2)
    assert (
        walk.h == near(h) and walk.start.curvature == near(walk.field.curvature(first)) and walk.before == first.gap
    )
    event, (step,) = walk.advance(9.0, 0.0, 5)
    assert event.name == "LOOK" and tried == [(near(h), 0.0)] and step.t == walk.t == near(h) and walk.accepted == 1
    assert walk.before == first.gap > step.point.gap and step.curvature == near(walk.field.curvature(step.point))
    grown = h * 0.9 * 0.5 ** (-1 / 8)
    assert walk.h == near(grown)
    event, none = walk.advance(9.0, 0.0, 5)  # rejected
    assert event.name == "PAUSE" and none == [] and walk.h == near(grown * 0.9 * 2 ** (-1 / 8)) and walk.rejected == 1
    held = walk.h
    walk.advance(9.0, 0.0, 5)  # the next does not grow at once
    assert walk.h == near(held) and walk.t == near(h + held)
    walk.advance(9.0, 0.0, 5)
    longer = held * 0.9 * 0.01 ** (-1 / 8)
    assert walk.h == near(longer)
    stop = walk.t + 0.1 * longer  # a step cut short does not shrink h, and ends at the stop itself
    walk.advance(stop, 0.0, 5)
    assert tried[-1][0] == near(0.1 * longer, rel=1e-9) and walk.t == stop and walk.h == near(longer)
    event, none = walk.advance(9.0, walk.point.gap * 0.9999, 5)
    assert event.name == "CROSSED" and none == [] and walk.accepted == 4 and walk.taken == near(longer)
    assert walk.reach(0.5 * walk.taken).gap > walk.reached.gap * 0 and walk.taken == near(0.5 * longer)


def test_a_march_ends_where_no_step_moves_anything(monkeypatch):
    walk, _ = march(monkeypatch, [1e30] * 100)
    events = []
    while not events or events[-1].name == "PAUSE":
        before = walk.h
        events.append(walk.advance(9.0, 0.0, 1)[0])
        assert walk.h == near(0.2 * before)
    grain = walk.field.grain(walk.point)
    moved = walk.h * walk.point.speed
    assert events[-1].name == "UNDERFLOW" and moved <= np.finfo(float).eps * grain < 5.01 * moved


def test_a_march_reviews_its_method_and_gives_up_a_stabilised_one(monkeypatch):
    walk, tried = march(monkeypatch, [0.9] * 70 + [3.0] * 10)
    reviews = []

    def review(point, h, allowed):
        reviews.append((walk.accepted, allowed(2.0)))
        walk.stiffness.radius = 0.5
        return h

    monkeypatch.setattr(walk.stiffness, "review", review)
    walk.h = 1e-3
    for _ in range(65):
        walk.advance(9.0, 0.0, 1)
    assert [k for k, _ in reviews] == [64] and reviews[0][1] == near(
        _stepping.allowed_error(walk.field, walk.reached, 2.0, 1e-6), rel=0.1
    )
    assert tried[-1][1] == 0.5 and walk._review == 128
    before = walk.h
    while walk.h * 0.5 >= _stabilized.NEGLIGIBLE and walk.stiffness.radius:
        walk.advance(9.0, 0.0, 1)
    h = walk.h
    walk.h = 1e-3  # its product with the radius is below what the method is worth
    walk.stiffness.radius = 0.5
    for _ in range(6):
        walk.advance(9.0, 0.0, 1)
    assert walk.stiffness.radius == 0.0 and before > 0 and h > 0


def test_advancing_without_records_follows_the_flow():
    f, net = lf.MatrixFactorization(np.array([[2.0]])), lf.Network([np.array([[1.0]]), np.array([[0.5]])])
    field = GradientField(f, net)
    y = field.flatten(net.weights)
    for t in (0.1, 0.7, 2.0):
        u, v = _stepping.advance(field, y, t, 1e-10)
        assert u * v == near(lf.exact.two_layer_scalar(0.75, 2.0, 0.5, t), rel=1e-8)
    still = field.flatten([np.zeros((1, 1)), np.zeros((1, 1))])
    assert _stepping.advance(field, still, 1.0, 1e-10).tolist() == [0.0, 0.0]
    assert (_stepping.REVIEW, _stepping.MOTION, _stepping.LANDED) == (64, 10.0, 1e-3)


# --- limits and choices of the steps -------------------------------------------------------------------------------


def test_steps_of_the_march_at_any_radius(monkeypatch, rng):
    f, net = start(rng, 2)
    net = lf.Network([8 * W for W in net.weights], net.scale)
    field = GradientField(f, net)
    point = field.at(field.flatten(net.weights))
    size, eps = np.linalg.norm(point.y), np.finfo(float).eps
    grain = field.grain(point)
    for radius in (0.0, 0.5, 3.0):
        rate = (0.1 * 1e-2 if radius else 10 * 1e-4) * point.speed
        for part in (0.5, 1.5):  # of the least error that the floor lets through
            h = part * 4 * eps * grain / rate
            assert _stepping.allowed_error(field, point, h, 1e-4, radius) == near(4 * eps * grain * max(part, 1.0))
        h = 4 * eps * 1.01 * size / rate
        assert _stepping.allowed_error(field, point, h, 1e-4, radius) == near(rate * h)
        y, error = _stepping._step(field, point, 0.01, radius)
        if radius:
            stages = _stabilized.stages_for(0.01, radius)
            end, _, other = _stabilized.step(field, point.y, point.slope, 0.01, stages)
        else:
            end, other = _dop853.step(field, point.y, point.slope, 0.01)
        assert np.array_equal(y, end) and error == other
    walk, _ = march(monkeypatch, [2.0, 0.01])
    walk.stiffness.radius, walk.h = 0.5, 1.0
    walk.advance(9.0, 0.0, 1)
    assert walk.h == near(0.9 * 2 ** (-1 / 3)) and walk.stiffness.radius == 0.5
    walk, _ = march(monkeypatch, [0.01])
    h = walk.h
    walk.advance(9.0, 0.0, 1)
    assert walk.h == near(h * 0.9 * 0.01 ** (-1 / 8))  # the first step may make the next longer
    walk, _ = march(monkeypatch, [1e30])
    walk.t, walk.h = 1e30, 1e3
    assert walk.advance(2e30, 0.0, 1)[0].name == "UNDERFLOW"  # five times shorter, it adds nothing to the time
    walk, _ = march(monkeypatch, [0.5, 0.5])
    h = walk.h
    gap = walk.field.at(walk.point.y + h * walk.point.slope).gap
    assert walk.advance(9.0, gap, 1)[0].name == "CROSSED"


def test_large_weights_underflow_at_their_own_grain(monkeypatch):
    f, net = lf.MatrixFactorization(np.array([[2.0]])), lf.Network([np.array([[60.0]]), np.array([[50.0]])])
    field = GradientField(f, net)
    walk = _stepping.PlainMarch(field, 1e-6)
    monkeypatch.setattr(_stepping, "attempt", lambda *a: (None, 1e30))
    while walk.advance(9.0, 0.0, 1)[0].name == "PAUSE":
        pass
    moved = walk.h * walk.point.speed
    assert moved <= np.finfo(float).eps * field.grain(walk.point) < 5.01 * moved


def test_the_start_of_a_march_at_gaps_below_one_and_at_none():
    f = lf.MatrixFactorization(np.array([[2.0]]))
    for v, gap in ((1.0, 0.5), (2.0, 0.0)):
        field = GradientField(f, lf.Network([np.array([[1.0]]), np.array([[v]])]))
        walk = _stepping.PlainMarch(field, 1e-6)
        assert walk.point.gap == gap
        assert walk.start.curvature == (field.curvature(walk.point) if gap else 0.0)
    y = np.array([30.0, 40.0])
    assert _stepping.initial_step(Point(y, y, 0.25, 2.0)) == near(0.01 * 0.25 / 4)


class Script:
    """A march on which the logarithm of the gap, less that of the target 1, is what is written at each try."""

    def __init__(self, begin, end, tries, length=1.0, rate=2.0):
        self.rate, self.asked, self.tries = rate, [], tries
        self.point, self.taken, self.reached = self.made(begin), length, self.made(end)

    def made(self, excess):
        return SimpleNamespace(gap=math.exp(excess), rate=self.rate)

    def reach(self, h):
        self.asked.append(h)
        excess = self.tries(h) if callable(self.tries) else self.tries.pop(0)
        self.taken, self.reached = h, self.made(excess)
        return self.reached


def test_a_target_is_met_to_a_thousandth_of_rtol():
    for rtol, meets in ((1e-3, 1e-6), (1e-9, 1e-12), (1e-15, 1e-12)):
        walk = Script(1.0, -1.0, [1.5 * meets, 0.6 * meets, 0.0, 0.0])
        assert _stepping.shorten(walk, 1.0, rtol) and len(walk.asked) == 2 and walk.taken == walk.asked[1]
    walk = Script(1.0, -1.0, [])
    assert _stepping.shorten(walk, math.exp(-1.0), 1e-9) and walk.asked == [] and walk.taken == 1.0
    assert not _stepping.shorten(Script(-1e-3, -1.0, []), 1.0, 1e-9)


def test_tries_of_a_last_step_follow_the_interpolant_or_halve():
    ends = [(0.0, 1.0, 2.0), (1.0, -1.0, 2.0)]
    first = _stepping._inverse(ends)
    # It falls by less than half: the next is in the middle of the bracket, the one after follows again.
    walk = Script(1.0, -1.0, [-0.8, 0.1, 0.01, 0.0])
    _stepping.shorten(walk, 1.0, 1e-9)
    second = 0.5 * first
    third = _stepping._inverse([ends[1], (first, -0.8, 2.0), (second, 0.1, 2.0)])
    assert walk.asked[:2] == near([first, second])
    assert walk.asked[2] == near(third if second < third < first else 0.5 * (first + second))
    # It falls well, from below as from above.
    for sign in (1, -1):
        walk = Script(1.0, -1.0, [0.1 * sign, 0.01 * sign, 0.0])
        _stepping.shorten(walk, 1.0, 1e-9)
        guess = _stepping._inverse([*ends, (first, 0.1 * sign, 2.0)])
        low, high = (first, 1.0) if sign > 0 else (0.0, first)
        assert walk.asked[:2] == near([first, guess if low < guess < high else 0.5 * (low + high)])
        assert low < guess < high


def test_a_last_step_ends_at_rounding_of_the_gap():
    # Below 1e-9 what does not fall by half is rounding; the best try is taken again if it was not the last.
    walk = Script(1.0, -1.0, [-0.8e-9, -0.9e-9, 0.0])
    assert _stepping.shorten(walk, 1.0, 1e-15)
    assert len(walk.asked) == 3 and walk.asked[2] == walk.taken == walk.asked[0]
    walk = Script(1.0, -1.0, [-0.9e-9, -0.8e-9, 0.0])
    assert _stepping.shorten(walk, 1.0, 1e-15) and len(walk.asked) == 2 and walk.taken == walk.asked[1]
    walk = Script(1.0, -1.0, [-1.9e-9, -1.8e-9, -0.3e-9, 0.0])
    assert _stepping.shorten(walk, 1.0, 1e-15) and len(walk.asked) == 4
    # A gap that jumps past its target: the bracket is halved to four roundings of the step.
    for length in (1e-3, 1e3):
        jump = length / 3
        walk = Script(1.0, -1.0, lambda h, jump=jump: 1.0 if h < jump else -1.0, length)
        assert _stepping.shorten(walk, 1.0, 1e-9) and 45 <= len(walk.asked) <= 60
        nearest = min(abs(h - jump) for h in walk.asked)
        assert nearest <= 4 * np.finfo(float).eps * length


def test_inverse_interpolation_is_exact_for_inverse_polynomials():
    # x(v) of degree 5, falling: three tries give it back.
    x = np.polynomial.Polynomial([0.3, -1.0, 0.1, -0.2, 0.05, -0.01])
    tries = [(x(v), v, -1 / x.deriv()(v)) for v in (0.4, -0.3, -0.9)]
    assert all(0 < rate < 1.2 for _, _, rate in tries)
    assert _stepping._inverse(tries) == near(0.3, rel=1e-12)


def test_advancing_gives_up_where_steps_are_rounding(monkeypatch):
    f, net = lf.MatrixFactorization(np.array([[2.0]])), lf.Network([np.array([[1.0]]), np.array([[0.5]])])
    field, asked = GradientField(f, net), []
    y = field.flatten(net.weights)
    monkeypatch.setattr(_stepping, "attempt", lambda field, point, h, rtol: asked.append(h) or (None, 1e30))
    for duration in (1e-3, 1e3):
        asked.clear()
        assert np.array_equal(_stepping.advance(field, y, duration, 1e-10), y)
        # Fifths of the duration, down to four roundings of it.
        assert len(asked) == math.ceil(-math.log(4 * np.finfo(float).eps) / math.log(5))


def test_backtracking_ends_where_nothing_is_accepted_and_grants_rounding(monkeypatch, rng):
    f, net = start(rng, 2)
    at = iterate(f, net)
    wanted = 0.999999 * at.point.speed**2
    for eta in (1e-4, 1e-5):
        for part, grants in ((1.1, True), (0.9, False)):
            monkeypatch.setattr(at.field.objective, "rounding", lambda net, part=part, eta=eta: part * eta * wanted)
            rule = schedules.backtracking(eta, slope=0.999999)
            assert (rule.step(at) == eta) == grants, (eta, part)
    monkeypatch.setattr(at.field.objective, "rounding", lambda net: 0.0)
    monkeypatch.setattr(at.field.objective, "gap", lambda W: math.nan)
    assert 0 < schedules.backtracking(1.0).step(at) < 1e-300
    # A step a thousand million times shorter is found in parts of a hundredth as well.
    steep = iterate(lf.MatrixFactorization(np.array([[1e5]])), lf.Network([1e4 * np.eye(1), 1e4 * np.eye(1)]))
    eta = schedules.backtracking(1e3, shrink=0.99).step(steep)
    G = 1e8 - 1e5
    assert 0.5 * (1e8 * (1 - eta * G) ** 2 - 1e5) ** 2 <= 0.5 * G**2 - 0.5 * eta * 2e8 * G**2


def test_forms_that_an_objective_does_not_have_are_refused():
    X = np.array([[1.0, 0.2], [0.9, -0.3]])
    f = lf.LogisticLoss(X, np.ones((2, 1)))
    step_rules.check_form(f, 3, "step")
    with pytest.raises(ValueError, match="quadratic objectives"):
        step_rules.check_form(f, 3, "curvature")
    g = lf.Quadratic(4 * np.eye(1), C=4 * np.eye(1))
    assert schedules.Xu2025(1e-3).step(iterate(g, lf.Network([np.eye(1), 0.5 * np.eye(1)]), k=10**12)) < 1


@pytest.mark.parametrize(("form", "a", "b"), [("two layers", 1, 1), ("printed", 6, 3)])
def test_the_local_step_of_two_layers_at_a_small_gap(form, a, b):
    f, net = lf.MatrixFactorization(np.diag([1.0, 0.4])), lf.Network([np.eye(2), np.diag([0.9, 0.5])])
    eta, gap = schedules.local_smoothness(form).step(iterate(f, net)), 0.5 * 0.02
    slope, T = math.sqrt(2 * gap), 1.0 + 0.9**2
    assert eta * (T + slope + a * 0.9 * gap * eta**2 + b * T * slope * eta) == near(1.0, rel=3e-9)
    # Numbers past float64: 1/K is what is left.
    g = lf.Quadratic(4 * np.eye(1), C=4 * np.eye(1))
    with np.errstate(over="ignore", invalid="ignore"):
        assert (
            schedules.local_smoothness(form).step(iterate(g, lf.Network([1e74 * np.eye(1), 1e74 * np.eye(1)])))
            == 0.25
        )


# --- what is kept of a run -----------------------------------------------------------------------------------------


def flow(**options):
    f = lf.MatrixFactorization(np.array([[2.0]]))
    return f, lf.gradient_flow(f, [np.array([[1.0]]), np.array([[0.5]])], engine="plain", **options)


def test_a_run_is_read_at_its_ends_and_between():
    f, run = flow(t_max=0.7, record=("loss", "rate"))
    w = lf.exact.two_layer_scalar(0.75, 2.0, 0.5, [0.0, 0.3, 0.7])
    gaps = 0.5 * (2 - w) ** 2
    assert run.gap_at([0.0, 0.3, 0.7]).tolist() == near(gaps, rel=1e-6) and run.gap_at([]).shape == (0,)
    assert isinstance(run.gap_at(0.3), float) and run.gap_at(0.3) == near(gaps[1], rel=1e-6)
    for outside in (-1e-9, 0.7000001, [0.1, 0.8], [-0.1, 0.1], math.nan):
        with pytest.raises(ValueError, match=r"outside|finite|number"):
            run.gap_at(outside)
    assert run.loss == near(run.gap) and run.loss_at(0.3) == run.gap_at(0.3)
    for t in (0.0, 0.3, float(run.t[1]), 0.7):
        product = float(run.network_at(t).product()[0, 0])
        assert product == near(float(lf.exact.two_layer_scalar(0.75, 2.0, 0.5, t)), rel=1e-7)
    with pytest.raises(ValueError, match="outside"):
        run.network_at(0.71)
    descent = lf.gradient_descent(f, run.start, step_size=0.1, steps=2)
    with pytest.raises(ValueError, match="first and last"):
        descent.network_at(0.0)
    assert "hairer1993" in run.citations and "hairer1993" not in descent.citations
    g = lf.Objective(lambda W: f.value(W) + 3.0, f.gradient, shape=(1, 1), strong_convexity=1.0, minimum=3.0)
    above = lf.gradient_descent(g, run.start, step_size=0.1, steps=2)
    assert above.loss == near(above.gap + 3.0) and above.loss_at(0.1) == near(above.gap_at(0.1) + 3.0)


def test_times_to_fractions_of_the_first_gap():
    _, run = flow(until=1e-3)
    end = float(run.t[-1])
    assert run.result is lf.Result.TARGET and run.time_to(1e-3) == end
    assert run.time_to(1e-3 * (1 - 0.5e-12)) == end and run.time_to(1e-3 * (1 - 3e-12)) == math.inf
    for fraction in (0.5, 0.01):
        t = run.time_to(fraction)
        w = float(lf.exact.two_layer_scalar(0.75, 2.0, 0.5, t))
        assert 0.5 * (2 - w) ** 2 == near(fraction * 0.5 * 1.5**2, rel=1e-6)
    both = run.time_to([0.5, 0.01])
    assert both.shape == (2,) and both.tolist() == [run.time_to(0.5), run.time_to(0.01)]
    _, short = flow(t_max=0.1, until=1e-3)
    assert short.time_to(1e-3) == math.inf
    still = lf.gradient_descent(lf.MatrixFactorization(np.eye(1)), [np.eye(1), np.eye(1)], step_size=0.1, steps=2)
    assert still.gap[0] == 0.0 and still.time_to(0.5) == 0.0 and still.time_to([0.5, 0.1]).tolist() == [0.0, 0.0]


def test_the_difference_of_two_runs_is_looked_for_between_steps_as_well():
    from linflow.dynamics.trajectory import difference

    own = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, -1.0, -2.0, -9.0])
    other = np.array([0.0, 0.5, 3.0]), np.array([0.0, -1.5, -3.0])
    # At 0, 0.5, 3 of the other and 0.5, 1.5, 3 of the own: differences 0, 1, 2.5, 0.6.
    literal = max(abs(np.interp(t, *own) - np.interp(t, *other)) for t in (0.0, 0.5, 1.5, 3.0))
    assert difference(own, other) == near(float(literal)) and literal == 2.5
    between = np.array([0.0, 2.0]), np.array([0.0, 0.0])
    peak = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.0, 4.0, 0.0, 99.0])
    assert difference(between, peak) == 4.0 and difference(peak, between) == 2.0  # at ½ and 1½; after 2 nothing


def test_a_run_that_leaves_the_minimum_behind_says_how():
    from linflow.dynamics.trajectory import ended_outside

    f, run = flow(t_max=0.1)
    field = GradientField(f, run.start)
    y = field.flatten(run.start.weights)
    noise = f.rounding(run.start)
    for gap, name in ((0.0, "ROUNDING"), (-0.9 * noise, "ROUNDING"), (-1.1 * noise, "BELOW_MINIMUM")):
        assert ended_outside(field, Point(y, y, gap, 1.0)).name == name
    assert ended_outside(field, Point(y, y, math.nan, 1.0)).name == "DIVERGED"
    ends = {"TARGET", "TIME_LIMIT", "STEPS_DONE", "ROUNDING"}
    assert all(result.ok == (result.name in ends) for result in lf.Result)


def test_weights_are_kept_within_a_budget():
    from linflow.dynamics.trajectory import Checkpoints

    f, run = flow(t_max=0.1)
    field = GradientField(f, run.start)
    y = field.flatten(run.start.weights)
    kept = Checkpoints(field, 1e-9, budget=8 * 2 * 4)  # four vectors of two numbers
    times = []
    for k in range(12):
        kept.add(0.1 * k, (1 + k) * y)
        times.append(list(kept.times))
    step = [0.1 * k for k in range(12)]
    assert times[3] == step[:4] and times[4] == step[0:5:2] and times[5] == step[0:5:2] and times[6] == step[0:7:2]
    assert times[8] == step[0:9:4] and times[11] == step[0:9:4]
    assert [float(v[0]) for v in kept.vectors] == [1.0, 5.0, 9.0]
    tight = Checkpoints(field, 1e-9, budget=1)
    for k in range(3):
        tight.add(0.1 * k, y)
    assert tight.times == step[0:3:2]  # two always, at first
    # At a stored time the weights are those stored, between them integrated from the one before.
    assert np.array_equal(field.flatten(kept.network_at(0.1 * 4).weights), 5 * y)
    between = kept.network_at(0.1 * 4 + 0.05)
    literal = _stepping.advance(field, 5 * y, 0.1 * 4 + 0.05 - 0.1 * 4, 1e-9)
    np.testing.assert_allclose(field.flatten(between.weights), literal, rtol=1e-14)


@pytest.mark.parametrize("vectors", [1, 2, 4, 5, 6, 7, 30, 31])
def test_blocks_of_weights_are_kept_as_if_one_by_one(vectors):
    from linflow.dynamics.trajectory import Checkpoints

    f, run = flow(t_max=0.1)
    field = GradientField(f, run.start)
    blocks = [np.arange(2.0 * many).reshape(many, 2) + many for many in (6, 1, 9, 14)]
    one, whole = (Checkpoints(field, 1e-9, budget=8 * 2 * vectors) for _ in range(2))
    for k, rows in enumerate(blocks):
        times = [k + 0.01 * i for i in range(len(rows))]
        before = len(whole.times)
        whole.extend(times, rows)
        for t, y in zip(times, rows, strict=True):
            one.add(t, y)
        assert whole.times == one.times and np.array_equal(whole.vectors, one.vectors)
        # While every step is kept, so is the block itself. Rows of which others are dropped are copied, or nothing
        # would leave the memory.
        fits = whole._stride == 1
        assert all((y.base is rows if fits else y.base is None) for y in whole.vectors[before if fits else 0 :])
    assert len(whole.vectors) <= max(vectors, 2) and (whole._stride == 1) == (vectors >= 30)
    whole.cut(1.0)
    assert whole.times == [t for t in one.times if t <= 1.0] and len(whole.vectors) == len(whole.times)
    one.vectors.pop()
    one.cut(9.0)
    assert len(one.times) == len(one.vectors)


def test_what_is_recorded_is_what_is_asked_for():
    from linflow.dynamics.trajectory import Recorder

    f = lf.MatrixFactorization(np.array([[2.0, 0.5, 0.1], [0.3, 1.0, 0.2]]))
    net = lf.Network([np.array([[1.0, 0.2], [0.0, 0.8]]), np.array([[0.5, 0.1, 0.0], [0.2, 0.6, 0.3]])])
    moved = lf.Network([1.1 * W for W in net.weights])
    field = GradientField(f, net)
    recorder = Recorder(field, ("least_eigenvalue", "imbalance_drift", "tangent_change", "singular_values"))
    for t, now in ((0.0, net), (0.5, moved)):
        recorder.add(t, field.at(field.flatten(now.weights)))
    found = recorder.arrays()
    assert found["t"].tolist() == [0.0, 0.5] and found["gap"] == near([f.gap(n.product()) for n in (net, moved)])
    least = [np.linalg.eigvalsh(lf.TangentOperator(n).dense())[0] for n in (net, moved)]
    assert found["least_eigenvalue"] == near(least, rel=1e-9)
    D = net.weights[0].T @ net.weights[0] - net.weights[1] @ net.weights[1].T
    assert found["imbalance_drift"] == near([0.0, 0.21 * np.linalg.norm(D)], rel=1e-9)
    assert found["tangent_change"] == near([0.0, 0.21], rel=1e-12)
    np.testing.assert_allclose(found["singular_values"][1], np.linalg.svd(moved.product(), compute_uv=False))
    recorder.add(0.7, Point(field.flatten(net.weights), field.flatten(net.weights), math.inf, 1.0))
    blank = recorder.arrays()
    assert blank["singular_values"].shape == (3, 2) and np.isnan(blank["singular_values"][2]).all()
    assert np.isnan(blank["least_eigenvalue"][2]) and np.isnan(blank["imbalance_drift"][2])
    assert np.isnan(blank["tangent_change"][2])
    recorder.cut(0.5)
    assert recorder.t == [0.0, 0.5] and all(len(column) == 2 for column in recorder.extra.values())
    recorder.rate.pop()
    recorder.cut(9.0)
    assert recorder.t == [0.0] and len(recorder.gap) == 1
    plain = Recorder(field, ("loss", "rate"))
    plain.add(0.0, field.at(field.flatten(net.weights)))
    assert set(plain.arrays()) == {"t", "gap", "rate"}
    first = plain.rate[0]
    plain.extend([1.0, 2.0], [4.0, 0.0], [6.0, 1.0])
    assert plain.t == [0.0, 1.0, 2.0] and plain.gap[1:] == [4.0, 0.0] and plain.rate == [first, 9.0, 0.0]
    one = Recorder(field, ("imbalance_drift",))
    one.add(0.0, field.at(field.flatten(net.weights)))
    assert set(one.arrays()) == {"t", "gap", "rate", "imbalance_drift"} and len(one.arrays()["imbalance_drift"]) == 1


def test_roots_of_steps_at_any_size_and_where_they_meet():
    # −(τ/r − 1)²: a double root, which rounding makes a pair beside the axis.
    for r in (1e-4, 1.0, 1e4):
        assert local_smoothness.first_root([2 / r, -1 / r**2]) == near(r * (1 - 1e-9), rel=1e-7)
        # (τ/r − 3)((τ/r − 1)² + off²): crosses at 3r, and comes so near the axis at r that it counts from 1e-7 on.
        for off, root in ((0.6e-7, 1.0), (1.6e-7, 3.0), (1e-3, 3.0)):
            b = 1 + off**2
            coefficients = [(b + 6) / r, -5 / r**2, 1 / r**3]
            found = local_smoothness.first_root([x / (3 * b) for x in coefficients])
            assert found == near(root * r * (1 - 1e-9), rel=1e-6)
    f, net = start(np.random.default_rng(0), 2)
    at = iterate(f, net)
    for size in (1e-170, 1e200):
        point = Point(at.point.y, size * at.point.slope, at.point.gap, size * at.point.speed)
        with np.errstate(all="ignore"):
            found = local_smoothness.along_the_step(at.field, net, point)
        assert all(math.isnan(x) for x in found)


def test_an_interrupted_descent_keeps_what_it_has_done(monkeypatch):
    f, net = lf.MatrixFactorization(np.array([[2.0]])), [np.array([[1.0]]), np.array([[0.5]])]

    def stops(at):
        def step(iterate):
            if iterate.k == at:
                raise KeyboardInterrupt
            return 0.1

        return SimpleNamespace(step=step)

    whole = lf.gradient_descent(f, net, step_size=0.1, steps=3)
    for at, kept in ((0, [0]), (2, [0, 2]), (3, [0, 2, 3])):  # every second is recorded, and the last
        with pytest.raises(lf.Interrupted) as caught:
            lf.gradient_descent(f, net, schedule=stops(at), steps=9, every=2)
        run = caught.value.run
        assert run.result is lf.Result.INTERRUPTED and run.t == near([0.1 * k for k in kept])
        assert run.gap == near([whole.gap[k] for k in kept]) and run.stats.steps == at == len(run.step_sizes)
    clock = iter([5.0, 7.0])
    monkeypatch.setattr(descent_module.time, "perf_counter", lambda: next(clock))
    assert lf.gradient_descent(f, net, step_size=0.1, steps=1).stats.seconds == 2.0
    monkeypatch.undo()
    for given, word in (({}, "neither"), ({"step_size": 0.1, "schedule": stops(0)}, "both")):
        with pytest.raises(ValueError, match=word):
            lf.gradient_descent(f, net, steps=1, **given)


def test_a_saddle_is_said_where_it_is_certain():
    Y = np.diag([3.0, 1.0])
    zero = [np.zeros((2, 2)), np.zeros((2, 2))]

    def user(**declared):
        return lf.Objective(
            lambda W: 0.25 * float(np.sum((W - Y) ** 2)),
            lambda W: 0.5 * (W - Y),
            shape=(2, 2),
            minimum=0.0,
            **declared,
        )

    blind = lf.LinearRegression(np.array([[1.0, 0.0]]), np.array([[3.0, 1.0]]))  # convex, and not strongly
    for f, said in (
        (lf.MatrixFactorization(Y), "5"), (blind, "5"), (user(strong_convexity=0.5), "2.5"),
        (user(pl_constant=1.0), "2.5"), (user(), "2.5"),  # a negative eigenvalue needs no convexity
    ):  # fmt: skip
        note = saddles.saddle_note(f, lf.Network(zero))
        assert note.startswith(f"at a saddle: the loss is {said} above f*")
    flat = [np.zeros((2, 2))] * 3
    for f, said in ((lf.MatrixFactorization(Y), "5"), (user(strong_convexity=0.5), "2.5"), (user(), None)):
        note = saddles.saddle_note(f, lf.Network(flat))
        assert (note is None) if said is None else note.startswith(f"at a saddle: the loss is {said} above f*")
    assert saddles.saddle_note(lf.MatrixFactorization(Y), lf.Network([np.eye(2), Y])) is None  # the minimum
    narrow = [np.zeros((2, 1)), np.zeros((1, 2))]
    found = saddles.saddle_note(lf.MatrixFactorization(Y), lf.Network(narrow))
    assert (
        found == "at a saddle: the loss is 5 above f*, and its Hessian has a direction of negative curvature "
        "(least eigenvalue of its Hessian -3)"
    )
    # The Hessian is formed up to 200 weights.
    assert saddles.MOST_WEIGHTS == 200
    for widths, formed in (((2, 50, 2), True), ((1, 67, 2), False)):
        weights = [np.zeros(s) for s in ((widths[0], widths[1]), (widths[1], widths[2]))]
        note = saddles.saddle_note(lf.MatrixFactorization(Y[: widths[0]]), lf.Network(weights))
        assert ("eigenvalue of its Hessian -3)" in note) == formed


def test_the_steepest_way_out_of_a_saddle_is_that_of_the_hessian(rng):
    f, net = start(rng, 3)  # any weights: the number is that of the Hessian there
    field = GradientField(f, net)
    y = field.flatten(net.weights)
    h = 1e-5
    H = np.array([-(field(y + h * e) - field(y - h * e)) / (2 * h) for e in np.eye(len(y))])
    least = np.linalg.eigvalsh((H + H.T) / 2)[0]
    found = float(saddles.saddle_note(f, net).rsplit(" ", 1)[1].rstrip(")"))
    assert least < -0.1 and found == near(least, rel=6e-3)  # three digits are said


@pytest.mark.parametrize("widths", [(3, 4, 2), (2, 3, 4), (4, 2, 3, 2), (2, 2)])
def test_the_product_along_a_step_is_a_polynomial(rng, widths):
    weights, moves = ([rng.standard_normal(s) for s in pairwise(widths)] for _ in range(2))
    M = local_smoothness._product_polynomial(lf.Network(weights, 0.7), moves)
    assert len(M) == len(weights) + 1
    for eta in (0.0, 0.3, -2.0):
        literal = 0.7 * multiply([W + eta * V for W, V in zip(weights, moves, strict=True)])
        np.testing.assert_allclose(sum(eta**k * m for k, m in enumerate(M)), literal, rtol=1e-11, atol=1e-12)
    # What is nothing beside the rest is left out: 1/1e-310 is past float64.
    assert local_smoothness.first_root([2.0, 1e-310]) == near(0.5 * (1 - 1e-9))


# --- trajectories --------------------------------------------------------------------------------------------------


def test_a_run_that_ends_just_above_its_target_has_reached_it():
    """The last gap of a flow is at its target to 1e-9; so are fractions that a rounding of 1e-12 takes for it."""
    target, unit = 1e-3, trajectory.LEVEL
    nodes = np.array([0.0, 2.0]), np.array([0.0, math.log(target) + 1e-9])
    asked = [target, target * (1 - 0.5 * unit), target * (1 - 2 * unit), 0.5]
    for result, until, ends in (
        (lf.Result.TARGET, target, True), (lf.Result.TARGET, None, False), (lf.Result.TIME_LIMIT, target, False),
    ):  # fmt: skip
        run = SimpleNamespace(gap=[1.0], result=result, until=until, nodes=nodes)
        found = trajectory.Trajectory.time_to(run, asked)
        literal = 2 * math.log(0.5) / nodes[1][-1]
        assert found.tolist() == [2.0 if ends else math.inf, 2.0 if ends else math.inf, math.inf, near(literal)]


def test_an_error_is_estimated_when_it_was_asked_for():
    stats = trajectory.Stats(1, 0, 1, 0.0, 0.0, lambda: 0.5)
    assert not stats.estimated and stats.gap_error == 0.5 and stats.estimated
    assert trajectory.Stats(1, 0, 1, 0.0, 0.0, 0.25).estimated


def test_curves_are_compared_at_the_steps_of_one_and_halfway_between_those_of_the_other():
    line = np.array([0.0, 6.0]), np.array([0.0, 1.0])
    bent = np.array([0.0, 2.0, 6.0]), np.array([0.0, 0.0, 1.0])
    assert trajectory.difference(bent, line) == near(1 / 6)
    assert trajectory.difference(line, bent) == near(1 / 3)
    ahead = np.array([0.0, 3.0]), np.array([0.0, 2.0])
    assert trajectory.difference(ahead, line) == near(0.75)  # at 1.5; at 6 the other has ended
