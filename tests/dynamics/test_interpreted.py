"""The compiled loops, read by Python: every function of theirs against NumPy and the plain loop, written out anew.

The functions are taken from the modules and run as they stand, without the compiler; tiles, which are written for it,
are replaced by sums. Tolerances are sums of a few dozen terms in another order, where nothing else is said.
"""

import math
from itertools import pairwise
from types import FunctionType

import numpy as np
import pytest

pytest.importorskip("numba")

import linflow as lf
from linflow.dynamics import _compiled, _kernels, _march, _stabilized, _stepping, _tiled_products
from linflow.dynamics.field import GradientField
from linflow.model.classification import ExponentialLoss, LogisticLoss

RTOL = 1e-8
SAME = 1e-12


def near(x, rel=SAME, abs=0.0):
    return pytest.approx(x, rel=rel, abs=abs)


def tile(rows, vectors):
    def sums(A, a, across, down, B, b, stride, C, c, count, second, third):
        for r in range(rows):
            for j in (0, second, third)[:vectors]:
                for v in range(4):
                    terms = (A[a + r * down + p * across] * B[b + p * stride + j + v] for p in range(count))
                    C[c + r * stride + j + v] = sum(terms)

    return sums


def tile_less(rows, vectors):
    def sums(A, a, across, down, B, b, stride, C, c, count, second, third, D):
        found = D.copy()
        tile(rows, vectors)(A, a, across, down, B, b, stride, found, c, count, second, third)
        for r in range(rows):
            for j in (0, second, third)[:vectors]:
                at = slice(c + r * stride + j, c + r * stride + j + 4)
                C[at] = D[at] - found[at]

    return sums


def tile_of_series(rows, vectors):
    def sums(A, a, across, down, B, b, stride, C, c, count, second, third, terms, left, right):
        total, found = np.zeros(len(C)), np.zeros(len(C))
        for i in range(terms):
            tile(rows, vectors)(
                A, a + i * left, across, down, B, b - i * right, stride, found, c, count, second, third
            )
            total += found
        for r in range(rows):
            for j in (0, second, third)[:vectors]:
                at = slice(c + r * stride + j, c + r * stride + j + 4)
                C[at] = total[at]

    return sums


def strip(vectors):
    def sums(y, d, K, size, weights, places, count, h, out):
        for i in range(d, d + 4 * vectors):
            out[i] = y[i] + sum(h * weights[p] * K[places[p] * size + i] for p in range(count))

    return sums


def turn(factor, A, a, down, C, c, over):
    for i in range(4):
        for j in range(4):
            C[c + j * over + i] = factor * A[a + i * down + j]


INTRINSICS = {
    **{"_three": tile(4, 3), "_two": tile(4, 2), "_one": tile(4, 1)},
    **{"_three_less": tile_less(4, 3), "_two_less": tile_less(4, 2), "_one_less": tile_less(4, 1)},
    **{f"_{name}_in_series": tile_of_series(4, k) for k, name in ((3, "three"), (2, "two"), (1, "one"))},
    **{"_strip": strip(8), "_short_strip": strip(1), "_turn": turn},
}


def plain(module, **given):
    """The names of a module, its compiled functions replaced by what they were made of."""
    names = {**vars(module), **given, "noinline": lambda: None}
    for name, value in vars(module).items():
        if name not in given and (code := getattr(value, "py_func", None)) is not None:
            names[name] = FunctionType(code.__code__, names, name, code.__defaults__)
    return names


TILES = plain(_tiled_products, **INTRINSICS)
ARITHMETIC = {name: TILES[name] for name in ("add", "copy", "dot", "product", "transpose", "turned_product")}
KERNELS = plain(_kernels, **ARITHMETIC)
FROM_KERNELS = {name: KERNELS[name] for name in ("curvature", "evaluate", "grain", "may_rest", "norm", "rounding")}
MARCH = plain(_march, **{name: TILES[name] for name in ("add", "combine", "copy")}, **FROM_KERNELS)


def made(name):
    source = vars(_march)[name]
    return FunctionType(source.__code__, MARCH, name)(7)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    for names, module in ((TILES, _tiled_products), (KERNELS, _kernels), (MARCH, _march)):
        names.update({name: value for name, value in vars(module).items() if isinstance(value, (int, float))})
    monkeypatch.setattr(_march, "programs", lambda: (made("_advancing"), made("_reaching")))
    with np.errstate(all="ignore"):
        yield


def objective(kind, n, m, rng):
    if kind == "factorization":
        return lf.MatrixFactorization(rng.standard_normal((n, m)))
    if kind == "regression":
        return lf.LinearRegression(rng.standard_normal((2 * n + 1, n)), rng.standard_normal((2 * n + 1, m)))
    if kind == "quadratic":
        A, B = (np.eye(k) + G @ G.T for k, G in ((n, rng.standard_normal((n, n))), (m, rng.standard_normal((m, m)))))
        return lf.Quadratic(A, B, rng.standard_normal((n, m)))
    if kind == "deficient":  # one direction is seen
        return lf.LinearRegression(np.ones((3, 1)) * rng.standard_normal((1, n)), rng.standard_normal((3, m)))
    if kind == "right":
        return lf.Quadratic(np.eye(n), np.diag([2.0] * (m - 1) + [0.0]), np.zeros((n, m)))
    if kind == "left":  # one row is seen, and every column
        v = rng.standard_normal((1, n))
        return lf.Quadratic(v.T @ v, np.diag(np.arange(1.0, m + 1)), v.T @ rng.standard_normal((1, m)))
    X = rng.standard_normal((n + 2, n))
    Y = np.sign(X @ rng.standard_normal((n, m)))
    return {"exponential": ExponentialLoss, "logistic": LogisticLoss}[kind](X, Y)


CASES = [
    ("factorization", (2, 3, 4)), ("factorization", (5, 6, 4)), ("factorization", (3, 2)),
    ("factorization", (1, 2, 1)), ("factorization", (2, 3, 2, 3, 2)), ("regression", (2, 4, 3)),
    ("regression", (5, 3, 2, 4)),
    ("regression", (4, 4, 4, 4)), ("quadratic", (2, 3, 4)), ("quadratic", (4, 5, 3)), ("right", (3, 3, 2)),
    ("exponential", (2, 3, 1)), ("exponential", (3, 2, 2, 2)), ("logistic", (3, 4, 1)), ("logistic", (2, 2, 3)),
    ("regression", (1, 3, 2)), ("deficient", (3, 4, 2)), ("left", (3, 4, 2)), ("factorization", (2, 3, 3, 2, 4)),
    ("factorization", (3, 2, 4, 3, 2)),
]  # fmt: skip


def problem(kind, widths, size=0.6, scale=0.7):
    rng = np.random.default_rng(sum(widths) + len(kind))
    f = objective(kind, widths[0], widths[-1], rng)
    return f, lf.Network([size * rng.standard_normal(shape) for shape in pairwise(widths)], scale)


@pytest.mark.parametrize(("kind", "widths"), CASES)
def test_values_slopes_curvatures_and_steps_are_those_of_the_plain_loop(kind, widths):
    f, net = problem(kind, widths)
    field = GradientField(f, net)
    one, two = _compiled.CompiledMarch(field, RTOL), _stepping.PlainMarch(field, RTOL)
    assert one.h == near(two.h, rel=1e-11) and (one.t, one.taken, one.accepted, one.rejected) == (0.0, 0.0, 0, 0)
    for h in (0.0, 0.3 / two.point.speed):
        p, q = (one.start.point, two.start.point) if h == 0 else (one.reach(h), two.reach(h))
        np.testing.assert_allclose(p.y, q.y, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(p.slope, q.slope, rtol=1e-10, atol=1e-13 * (1 + q.speed))
        assert (p.gap, p.speed) == (near(q.gap, rel=1e-11), near(q.speed, rel=1e-11))
        bend = field.curvature(q)
        found = one.start.curvature if h == 0 else one._numbers[_march.NEW_CURVATURE]
        assert found == near(bend, rel=1e-9, abs=1e-11 * q.rate**2)  # a difference of two numbers of that size
    # What is accepted is where the step led.
    at = one.reached.y.copy()
    step = one.accept(9.0)
    assert step.t == 0.3 / two.point.speed == one.t and step.curvature == found and one.accepted == 1
    assert np.array_equal(step.point.y, at) and np.array_equal(one.point.y, at) and one.point.gap == p.gap
    one.reach(0.3)
    stop = float(np.nextafter(one.t + 0.3, 0.0))  # what leads past a stop by rounding ends there
    assert one.accept(stop).t == stop == one.t


@pytest.mark.parametrize(("kind", "widths"), CASES)
def test_nothing_is_read_before_it_is_written(kind, widths):
    f, net = problem(kind, widths)
    field = GradientField(f, net)
    one, point = _compiled.CompiledMarch(field, RTOL, 1), field.at(field.flatten(net.weights))
    spec, data, _, _, y, K, work, _ = one._state[:8]
    work[:] = math.nan
    gap = KERNELS["evaluate"](spec, data, y, work, K, 0)
    assert gap == near(point.gap) and K[: len(y)] == near(point.slope, rel=1e-10, abs=1e-13)
    rate = point.speed**2 / gap
    bend = KERNELS["curvature"](spec, data, y, K, work, gap, rate)
    assert bend == near(field.curvature(point), rel=1e-9, abs=1e-11 * rate**2)


def test_arrays_of_the_march_begin_with_a_line_of_the_cache(monkeypatch):
    whole, line = np.zeros(500), 64
    for begin in range(8):  # wherever the memory begins
        with monkeypatch.context() as patch:
            patch.setattr(np, "zeros", lambda count, begin=begin: whole[begin : begin + count])
            one, two = _compiled._lines(18, 16)
        assert (one.size, two.size) == (18, 16) and one.ctypes.data % line == 0
        assert two.ctypes.data == one.ctypes.data + 3 * line
    f, net = problem("factorization", (2, 3, 4))
    y, slopes, work, new = _compiled.CompiledMarch(GradientField(f, net), RTOL, 1)._state[4:8]
    assert y.size == new.size == 18 and slopes.size == 13 * 18
    assert [A.ctypes.data % line for A in (y, slopes, work, new)] == [0] * 4


@pytest.mark.parametrize(("kind", "widths"), CASES)
def test_the_parts_of_the_work_lie_side_by_side(kind, widths):
    f, net = problem(kind, widths)
    spec, data, room = _compiled.layout(GradientField(f, net), RTOL)
    n, m, r = widths[0], widths[-1], min(widths[0], widths[-1])
    seen, right = int(spec[_kernels.LEFT]) or n, int(spec[_kernels.RIGHT])
    largest = r * max(widths)
    sizes = [n * m, n * m, seen * m, seen * max(m, right), largest, largest, 5 * largest]
    places = spec[_kernels.PRODUCT_AT : _kernels.PRODUCT_AT + 7].tolist()
    assert places == [sum(sizes[:k]) for k in range(7)] and spec[_kernels.JET_SIZE] == largest
    chain = spec[_kernels.HEADER + 2 * len(widths) :].tolist()
    assert chain == [sum(sizes) + r * sum(widths[:k]) for k in range(len(widths))]
    assert room == sum(sizes) + r * sum(widths)
    star = f.minimizer_size if f.quadratic else 0.0
    assert data[:5].tolist() == [net.scale, f.smoothness, star, RTOL, 0.0]


def test_the_second_derivative_keeps_the_factor_of_large_losses():
    """`⟨V, ∇²f[V]⟩ = Σ e^{−z}(XV)²` with margins near −690, where the loss is near the largest float."""
    X = np.array([[1.0, 0.2], [0.9, -0.3], [1.1, 0.1]])
    f, net = ExponentialLoss(X, np.ones((3, 1))), lf.Network([np.eye(2), np.array([[-620.0], [10.0]])])
    one = _compiled.CompiledMarch(GradientField(f, net), RTOL, 1)
    spec, data, _, _, y, K, work, _ = one._state[:8]
    KERNELS["evaluate"](spec, data, y, work, K, 0)
    V, at = np.array([0.7, -0.4]), int(spec[_kernels.JET_AT])
    work[at : at + 2] = V
    literal = float(np.sum(np.exp(-(X @ net.product())[:, 0]) * (X @ V) ** 2))
    assert KERNELS["_hessian_form"](spec, data, work, at, at + 2) == near(literal, rel=1e-10)


def test_a_curvature_that_has_vanished_is_0_whatever_the_speed():
    """With margins near −1e130, `φ''` is 0, and the speed of the product has a square beyond float64."""
    f, net = LogisticLoss(np.array([[1.0]]), np.ones((1, 1))), lf.Network([np.array([[-1e65]]), np.array([[1e65]])])
    field = GradientField(f, net)
    point = field.at(field.flatten(net.weights))
    one = _compiled.CompiledMarch(field, RTOL, 1)
    spec, data, _, _, y, K, work, _ = one._state[:8]
    KERNELS["evaluate"](spec, data, y, work, K, 0)
    at = int(spec[_kernels.JET_AT])
    work[at] = 1e200
    assert KERNELS["_hessian_form"](spec, data, work, at, at + 1) == 0.0
    assert one.start.curvature == near(field.curvature(point), rel=1e-9)


def test_the_curvature_of_a_gap_of_0_is_0():
    f, net = problem("factorization", (2, 3, 2))
    one = _compiled.CompiledMarch(GradientField(f, net), RTOL, 1)
    spec, data, _, _, y, K, work, _ = one._state[:8]
    assert MARCH["_curved"](spec, data, y, K, work, 0.0, np.float64(1.0)) == 0.0


@pytest.mark.parametrize(("radius", "most"), [(0.0, 1e9), (0.5, 2.0), (40.0, 0.025)])
def test_a_trial_is_no_longer_than_its_stages_reach(monkeypatch, radius, most):
    f, net = problem("factorization", (2, 3, 2))
    one, tried = _compiled.CompiledMarch(GradientField(f, net), RTOL, 1), []
    monkeypatch.setitem(MARCH, "_attempt", lambda *given: tried.append(given[-1]) or (False, 1.0))
    one._numbers[_march.RADIUS], one.h = radius, 1e9
    one.advance(1e12, 0.0, 1)
    assert tried == [near(most * (_march.LONGEST if radius > 0 else 1.0))]


def test_more_attempts_than_can_be_counted_are_as_many_as_can():
    f, net = problem("factorization", (2, 3, 2))
    one = _compiled.CompiledMarch(GradientField(f, net), RTOL, 1)
    one.advance(0.0, 0.0, 10**30)
    assert one._counts[one._at.ATTEMPTS] == 2**62


@pytest.mark.parametrize("radius", [0.0, 40.0])
@pytest.mark.parametrize(("kind", "widths"), [CASES[0], CASES[6], CASES[8], CASES[12], CASES[14]])
def test_attempts_are_those_of_the_plain_loop(kind, widths, radius):
    f, net = problem(kind, widths)
    field = GradientField(f, net)
    one, two = _compiled.CompiledMarch(field, RTOL, 1), _stepping.PlainMarch(field, RTOL)
    for march in (one, two):
        march.stiffness.radius = radius
    one._numbers[_march.RADIUS] = radius
    begun, stop = field.evaluations, 2.0
    lengths = {3: 30.0, 4: 20.0, 8: 1e-3, 11: 50.0}
    for k in range(14):
        if k in lengths:
            one.h = two.h = lengths[k] * two.h if radius == 0 else lengths[k] * 0.01
        if k == 9:
            stop = two.t + 0.25 * two.h
        counts = []
        for march in (one, two):
            before = field.evaluations
            event, steps = march.advance(stop, 0.0, 1)
            counts.append(field.evaluations - before)
            assert event is not _stepping.Event.CROSSED and len(steps) in (0, 1)
        if radius == 0:
            assert counts[0] == counts[1]
        assert (one.accepted, one.rejected) == (two.accepted, two.rejected)
        assert one.t == near(two.t, rel=1e-7) and one.h == near(two.h, rel=2e-3)  # the error estimate cancels
        assert one.stiffness.radius == two.stiffness.radius
        # From the same place on, so that differences do not add up.
        one._y[:], one.h = two.point.y, two.h
        one._numbers[[_march.T, _march.GAP, _march.SPEED, _march.H]] = two.t, two.point.gap, two.point.speed, two.h
        one._slopes[: len(one._y)] = two.point.slope
    assert two.rejected >= 2 and two.accepted >= 5 and begun >= 2


@pytest.mark.parametrize("unit", [1.0, 1e-70, 1e70])
def test_errors_of_steps_are_those_of_the_plain_step(rng, unit):
    # Slopes of size unit³: their squares leave float64.
    f, net = problem("factorization", (2, 3, 2))
    f, net = lf.MatrixFactorization(unit**2 * f.minimizer), lf.Network([unit * W for W in net.weights], net.scale)
    field = GradientField(f, net)
    one, point = _compiled.CompiledMarch(field, RTOL, 1), field.at(field.flatten(net.weights))
    spec, data, weights, places, y, K, work, new = one._state[:8]
    h = 1.0 / unit**2
    found = MARCH["_step"](spec, data, weights, places, y, K, work, new, h, point.speed)
    shrunk, twin = (
        lf.MatrixFactorization(f.minimizer / unit**2),
        lf.Network([W / unit for W in net.weights], net.scale),
    )
    small = GradientField(shrunk, twin)
    start = small.at(small.flatten(twin.weights))
    end, error = _stepping._step(small, start, 1.0, 0.0)
    assert found == near(unit * error, rel=1e-3)  # the weights of the estimate cancel
    np.testing.assert_allclose(new, unit * end, rtol=1e-12, atol=1e-14 * unit)
    assert MARCH["_step"](spec, data, weights, places, 0 * y, 0 * K, work, new, h, 1.0) == 0.0


def test_a_stabilised_step_is_that_of_the_plain_loop():
    f, net = problem("regression", (3, 4, 2))
    field = GradientField(f, net)
    one, point = _compiled.CompiledMarch(field, RTOL, 1), field.at(field.flatten(net.weights))
    spec, data, _, _, y, K, work, new = one._state[:8]
    size = len(y)
    for h, radius in ((1e-3, 30.0), (0.05, 30.0), (0.2, 60.0), (0.1, 0.5)):
        stages = _stabilized.stages_for(h, radius)
        end, _, error = _stabilized.step(field, point.y, point.slope, h, stages)
        assert MARCH["_stabilized_step"](spec, data, y, K, work, new, h, radius) == stages - 1
        np.testing.assert_allclose(new, end, rtol=1e-11, atol=1e-13)
        KERNELS["evaluate"](spec, data, new, work, K, 12 * size)
        assert MARCH["_difference"](y, K, size, new, h) == near(error, rel=1e-6)
        one._numbers[_march.RADIUS] = radius
        before = field.evaluations
        led = one.reach(h)
        np.testing.assert_allclose(led.y, end, rtol=1e-11, atol=1e-13)
        assert field.evaluations == before + stages


def test_ends_of_an_advance():
    f, net = problem("factorization", (2, 3, 2))
    field = GradientField(f, net)

    def march():
        return _compiled.CompiledMarch(field, RTOL, 4)

    one = march()
    event, steps = one.advance(9.0, 0.0, 2)
    assert event is _stepping.Event.PAUSE and len(steps) == 2 and one.accepted == 2
    event, steps = one.advance(9.0, 0.0, 100)  # the block is full
    assert event is _stepping.Event.PAUSE and len(steps) == 4 and one.accepted == 6 and one.t == steps[-1].t
    assert [s.point.gap for s in steps] == sorted((s.point.gap for s in steps), reverse=True)
    assert one.before == steps[-2].point.gap
    for step in steps:
        assert step.curvature == near(field.curvature(field.at(step.point.y)), rel=1e-8)
        assert step.point.gap == near(field.at(step.point.y).gap) and step.point.speed == near(
            field.at(step.point.y).speed
        )
    # The array of a block that is half full is given away, and of others only what is full.
    for many, room in ((1, 1), (2, 4), (3, 4)):
        other = march()
        _, steps = other.advance(9.0, 0.0, many)
        assert len(steps) == many and steps.y.base.shape[0] == room
        assert all(step.point.y.base is None for step in steps) and np.array_equal(steps[-1].point.y, other.point.y)
    stop = one.t + 0.5 * one.h
    event, steps = one.advance(stop, 0.0, 100)
    assert event is _stepping.Event.LOOK and one.t == stop and len(steps) == 1
    at = one.point.y.copy()
    event, steps = one.advance(9.0, one.point.gap * 0.999, 100)
    assert event is _stepping.Event.CROSSED and not len(steps) and np.array_equal(one.point.y, at)
    assert one.reached.gap <= 0.999 * one.point.gap
    gap = one.reached.gap
    assert one.accept(9.0).point.gap == gap == one.point.gap
    # Steps so long that they are rejected until they would move nothing.
    one = march()
    one.rtol = one._state[1][_kernels.RTOL] = 1e-300
    event = _stepping.Event.PAUSE
    while event is _stepping.Event.PAUSE and one.rejected < 400:
        event, steps = one.advance(9.0, 0.0, 1)
        assert one.accepted == 0 or steps
        if one.accepted:
            break
    late = march()
    late._numbers[_march.T], late.h = 1e30, 1e3  # a time to which no rejected step adds anything
    event, _ = late.advance(2e30, 0.0, 1)
    assert event is _stepping.Event.UNDERFLOW and late.h > 0


@pytest.mark.parametrize(("kind", "widths"), CASES)
def test_rounding_grain_and_rest_are_those_of_the_objective(kind, widths):
    f, net = problem(kind, widths)
    field = GradientField(f, net)
    one, point = _compiled.CompiledMarch(field, RTOL, 1), field.at(field.flatten(net.weights))
    spec, data, _, _, y, K, work, _ = one._state[:8]
    KERNELS["evaluate"](spec, data, y, work, K, 0)
    level, noise, magnitude = KERNELS["rounding"](spec, data, y, work, point.gap)
    assert level == near(f.rounding(net), rel=1e-10) and noise == near(f.gradient_rounding(net), rel=1e-10)
    assert magnitude == near(net.scale * math.prod(np.linalg.norm(W) for W in net.weights))
    assert KERNELS["grain"](spec, y, K, point.speed) == near(field.grain(point)) and one.start.point.speed > 0
    assert KERNELS["grain"](spec, y, K, 0.0) == 0.0

    def rests(slope, gap=point.gap, y=y):
        return bool(KERNELS["may_rest"](spec, data, y, slope, work, gap))

    # Of the losses of margins a part of the level, 8ε of it, follows the gap.
    fixed = level if f.quadratic else level - 8 * EPS * point.gap
    assert not rests(K) and rests(K, gap=0.99 * fixed) and not rests(K, gap=1.01 * fixed)
    G = np.linalg.norm(f.gradient(net.product()))
    still = 2 * (f.gradient_rounding(net) + 8 * EPS * G) * magnitude
    for l, W in enumerate(net.weights):
        for part, rest in ((0.99, True), (1.01, False)):
            slopes = [np.zeros_like(V) for V in net.weights]
            slopes[l].flat[-1] = part * still / np.linalg.norm(W)
            assert rests(field.flatten(slopes)) == rest


EPS = np.finfo(float).eps


def test_weights_that_have_collapsed_rest():
    f, net = problem("factorization", (2, 3, 2))
    net.weights[0][0, 0] = 5.0
    field = GradientField(f, net)
    one = _compiled.CompiledMarch(field, RTOL, 1)
    spec, data, _, _, y, K, work, _ = one._state[:8]
    assert data[_kernels.FIRST_SIZE] == near(np.linalg.norm(y))
    for part, rest in ((0.9, True), (1.1, False)):
        small = part * EPS**2 * y
        gap = KERNELS["evaluate"](spec, data, small, work, K, 0)
        assert bool(KERNELS["may_rest"](spec, data, small, 1e300 * K[: len(y)], work, gap)) == rest


@pytest.mark.parametrize("loss", [ExponentialLoss, LogisticLoss])
@pytest.mark.parametrize("size", [1.0, 8.0, -7.6, -9.0, -40.0, -1e60])
def test_margins_that_leave_float64_are_those_of_the_objective(loss, size):
    X = np.array([[1.0, 0.2], [0.9, -0.3], [1.1, 0.1]])
    f = loss(X, np.ones((3, 1)))
    net = lf.Network([9.0 * np.eye(2), size * np.array([[9.0], [0.5]])])
    field = GradientField(f, net)
    one, point = _compiled.CompiledMarch(field, RTOL, 1), field.at(field.flatten(net.weights))
    assert one.start.point.gap == near(point.gap, rel=1e-11)
    np.testing.assert_allclose(one.start.point.slope, point.slope, rtol=1e-11)
    if point.gap > 0 and math.isfinite(point.gap) and point.rate < 1e150:
        assert one.start.curvature == near(field.curvature(point), rel=1e-9, abs=1e-11 * point.rate**2)
    spec, data, _, _, y, K, work, _ = one._state[:8]
    KERNELS["evaluate"](spec, data, y, work, K, 0)
    level, noise, _ = KERNELS["rounding"](spec, data, y, work, point.gap)
    assert level == near(f.rounding(net), rel=1e-9) and noise == near(f.gradient_rounding(net), rel=1e-9)


def test_margins_are_kept_within_1e300():
    X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    f, net = LogisticLoss(X, np.array([[1.0], [-1.0], [1.0]])), lf.Network([np.eye(2), np.ones((2, 1))])
    one = _compiled.CompiledMarch(GradientField(f, net), RTOL, 1)
    spec, data, _, _, _, _, work, _ = one._state[:8]
    for W, margins in (([-1e305, 1e305], [-1e300, -1e300, 0.0]), ([2.0, 1e301], [2.0, -1e300, 1e300])):
        work[spec[_kernels.PRODUCT_AT] : spec[_kernels.PRODUCT_AT] + 2] = W
        assert KERNELS["_margins"](spec, data, work) == (3, 0.0)
        assert work[spec[_kernels.FIRST_AT] : spec[_kernels.FIRST_AT] + 3].tolist() == margins


def test_derivatives_of_the_losses():
    derivative = KERNELS["_derivative"]
    for z in (-30.0, -0.5, 0.0, 0.7, 40.0):
        assert [derivative(_kernels.EXPONENTIAL, z, k, 0.0) for k in range(3)] == [near(math.exp(-z))] * 3
        assert derivative(_kernels.EXPONENTIAL, z, 1, 2.0) == near(math.exp(-z - 2))
        s = 1 / (1 + math.exp(z))
        literal = [math.log1p(math.exp(-z)), s, math.exp(z) / (1 + math.exp(z)) ** 2]
        assert [derivative(_kernels.LOGISTIC, z, k, 0.0) for k in range(3)] == near(literal, rel=1e-11)
    sized = KERNELS["_sized"]
    assert sized(2.0, 0.0) == 2.0 and sized(2.0, 3.0) == near(2 * math.exp(3)) and sized(0.5, 709.7) < math.inf
    assert sized(1.0, 709.79) == math.inf and sized(1e-10, 709.79) == math.inf


def test_norms_are_safe():
    norm = KERNELS["norm"]
    x = np.array([9.0, 3.0, -4.0, 9.0])
    for unit in (1.0, 1e-150, 1e150, 1e-99, 1e99, 1e101, 1e-101, 1e-205, 1e205):
        assert norm(unit * x, 1, 3) == norm(-unit * np.abs(x), 1, 3) == near(5 * unit, rel=1e-15)
    assert norm(0 * x, 0, 4) == 0.0 and norm(x, 2, 2) == 0.0
    for bad in (math.inf, -math.inf, math.nan):
        assert norm(np.array([1.0, bad]), 0, 2) == math.inf


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
def test_products_of_all_sides(rng, n):
    for k in (1, 2, 5):
        for m in (1, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 21):
            A, B = rng.standard_normal((n, k)), rng.standard_normal((k, m))
            for name, left in (("product", A), ("turned_product", A.T)):
                data, out = np.concatenate([[7.0], left.ravel(), [7.0], B.ravel()]), np.full(n * m + 3, 9.0)
                TILES[name](data, 1, data, 2 + n * k, out, 2, n, k, m)
                np.testing.assert_allclose(out[2:-1].reshape(n, m), A @ B, rtol=1e-13, atol=1e-14)
                assert out[0] == out[1] == out[-1] == 9.0
    for m in (1, 2, 4, 5, 9):
        A, out = rng.standard_normal((n, m)), np.full(n * m + 3, 9.0)
        TILES["transpose"](0.5, np.concatenate([[7.0], A.ravel()]), 1, out, 2, n, m)
        assert np.array_equal(out[2:-1].reshape(m, n), 0.5 * A.T) and out[0] == out[1] == out[-1] == 9.0


@pytest.mark.parametrize("lessen", [TILES["lessen"], _tiled_products.lessen], ids=["read", "compiled"])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_matrix_less_a_product(rng, n, lessen):
    """Rows of A lie 6 entries apart, those of the others 23, and what is between and around them stays."""
    for k in (0, 1, 2, 5):
        for m in (1, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 21):
            A, B, D = (
                rng.standard_normal((k + 1, 6)),
                rng.standard_normal((k + 1, 23)),
                rng.standard_normal((n + 1, 23)),
            )
            out = np.full(D.shape, 9.0)
            left, right = np.concatenate([[7.0], A.ravel()]), np.concatenate([[7.0, 7.0], B.ravel()])
            flat = out.ravel()
            lessen(left, 2, 6, right, 2, 23, D.ravel(), flat, 1, n, k, m)
            expected = np.full(D.shape, 9.0)
            expected[:n, 1 : m + 1] = D[:n, 1 : m + 1] - A[:k, 1 : n + 1].T @ B[:k, :m]
            np.testing.assert_allclose(flat.reshape(D.shape), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("series", [TILES["series"], _tiled_products.series], ids=["read", "compiled"])
@pytest.mark.parametrize("n", [4, 5, 8, 9])
def test_a_sum_of_products(rng, n, series):
    for k, terms in ((1, 1), (2, 3), (5, 2)):
        for m in (4, 5, 7, 8, 9, 12, 13, 16, 17, 21):
            A, B = rng.standard_normal((terms, n, k)), rng.standard_normal((terms, k, m))
            expected = sum(X @ Y for X, Y in zip(A, B[::-1], strict=True))
            for left, down, across in ((A, k, 1), (A.transpose(0, 2, 1), 1, n)):
                data, out = np.concatenate([[7.0], left.ravel(), [7.0], B.ravel()]), np.full(n * m + 3, 9.0)
                last = 2 + A.size + (terms - 1) * k * m
                series(data, 1, across, down, n * k, data, last, k * m, terms, out, 2, n, k, m)
                np.testing.assert_allclose(out[2:-1].reshape(n, m), expected, rtol=1e-12, atol=1e-13)
                assert out[0] == out[1] == out[-1] == 9.0


@pytest.mark.parametrize("size", [1, 3, 4, 5, 31, 32, 33, 37, 64, 101])
def test_stages_are_combined_at_every_size(rng, size):
    places = np.array([0, 2, 3, 5, 6, 8, 9, 11])
    y, K, weights = rng.standard_normal(size), rng.standard_normal(12 * size), rng.standard_normal(8)
    for count in (1, 2, 3, 8):
        right = y + 0.3 * weights[:count] @ K.reshape(12, size)[places[:count]]
        for combine in (TILES["combine"], _tiled_products.combine):  # read by Python, and compiled
            if combine is TILES["combine"] or count == 3:
                out = np.full(size + 1, math.nan)
                combine(y, K, size, weights, places, count, 0.3, out)
                assert out[:-1] == near(right, abs=1e-15) and math.isnan(out[-1])


def test_sums_of_vectors(rng):
    A, B = rng.standard_normal(6), rng.standard_normal(7)
    C = B.copy()
    TILES["add"](0.5, A, 1, C, 3, 4)
    assert C.tolist() == [*B[:3], *(B[3:] + 0.5 * A[1:5])]
    TILES["copy"](0.5, A, 1, C, 2, 3)
    assert C.tolist() == [*B[:2], *(0.5 * A[1:4]), *(B[5:] + 0.5 * A[3:5])]
    assert TILES["dot"](A, 1, B, 2, 4) == near(float(A[1:5] @ B[2:6]))


def attempted(one, h, **replaced):
    """What `_attempt` says of a step of length h, some functions of the march replaced."""
    spec, data, weights, places, y, K, work, new, numbers, counts = one._state
    names = {**MARCH, **replaced}
    attempt = FunctionType(MARCH["_attempt"].__code__, names, "attempt")
    counts[_march.EVALUATIONS] = 0
    found = attempt(spec, data, weights, places, y, K, work, new, numbers, counts, float(np.linalg.norm(y)), h)
    return found, int(counts[_march.EVALUATIONS])


@pytest.mark.parametrize("size", [0.6, 20.0])
@pytest.mark.parametrize("radius", [0.0, 0.5, 50.0])
def test_a_trial_is_judged_as_in_the_plain_loop(size, radius):
    f, net = problem("regression", (3, 4, 2), size)
    field = GradientField(f, net)
    one, point = _compiled.CompiledMarch(field, 1e-4, 1), field.at(field.flatten(net.weights))
    one._numbers[_march.RADIUS] = radius
    still = {"evaluate": lambda *a: point.gap}
    for h in (1e-17, 1e-15, 1e-12, 1e-4, 1.0):
        allowed = _stepping.allowed_error(field, point, h, 1e-4, radius)
        for part in (0.5, 1.5):
            error = part * allowed
            replaced = {
                "_step": lambda *a, error=error: error, "_difference": lambda *a, error=error: error,
                "_stabilized_step": lambda *a: 6, **still,
            }  # fmt: skip
            (usable, ratio), evaluations = attempted(one, h, **replaced)
            assert usable == (part < 1) and ratio == near(part, rel=1e-10)
            assert evaluations == (7 if radius else 11 + (part < 1))
    small = {"_step": lambda *a: 0.0, "_difference": lambda *a: 0.0, "_stabilized_step": lambda *a: 6}
    noise = f.rounding(net)
    for gap, fine in (
        (point.gap * (1 + 0.9e-10), True), (point.gap * (1 + 1.2e-10), point.gap * 1.2e-10 < noise),
        (math.inf, False),
    ):  # fmt: skip
        (usable, ratio), _ = attempted(one, 1e-4, evaluate=lambda *a, gap=gap: gap, **small)
        assert usable == fine and ratio == (0.0 if fine else 1e3)
    # A gap that rose by more than 1e-10 of itself may have done so by its rounding.
    rises = point.gap * (1 + 2e-10)
    for level, fine in ((3e-10 * point.gap, True), (1e-10 * point.gap, False)):
        replaced = {"evaluate": lambda *a: rises, "rounding": lambda *a, level=level: (level, 0.0, 0.0), **small}
        assert attempted(one, 1e-4, **replaced)[0][0] == fine

    def steep(spec, data, y, work, out, o):
        out[o : o + len(y)] = math.inf
        return point.gap

    assert attempted(one, 1e-4, evaluate=steep, **small)[0] == (False, 1e3)
    broken = {**small, "_step": lambda *a: math.nan, "_difference": lambda *a: math.nan}
    assert attempted(one, 1e-4, **still, **broken)[0] == (False, 1e16)


def test_a_long_stabilised_step_may_err_by_the_grain_of_all_it_adds_up():
    f, net = problem("regression", (3, 4, 2))
    field = GradientField(f, net)
    one, point = _compiled.CompiledMarch(field, 1e-17, 1), field.at(field.flatten(net.weights))
    one._numbers[_march.RADIUS] = 50.0
    allowed = _stepping.allowed_error(field, point, 1.0, 1e-17, 50.0)
    assert allowed == near(50 * 4 * EPS * field.grain(point))
    (usable, ratio), _ = attempted(
        one, 1.0, evaluate=lambda *a: point.gap, _difference=lambda *a: 0.5 * allowed, _stabilized_step=lambda *a: 6
    )
    assert usable and ratio == near(0.5)


def advancing(one, **replaced):
    """The march with some functions of its loop replaced."""
    names = {**MARCH, **replaced}
    source = vars(_march)["_advancing"]
    one._advance = FunctionType(source.__code__, names, "advance")(7)
    return one


def test_steps_that_are_rejected_shrink_and_end():
    refuses = {"_attempt": lambda *a: (False, 2.0)}
    for radius, factors in ((0.0, (8, 8)), (3.0, (3, 3)), (1e-3, (3, 8))):  # the last gives its method up
        f, net = problem("factorization", (2, 3, 2))
        one = advancing(_compiled.CompiledMarch(GradientField(f, net), RTOL, 4), **refuses)
        one.stiffness.radius = one._numbers[_march.RADIUS] = radius
        one.h = 0.5
        event, _ = one.advance(9.0, 0.0, 2)
        literal = 0.5 * math.prod(0.9 * 2 ** (-1 / p) for p in factors)
        assert event is _stepping.Event.PAUSE and one.h == near(literal) and one.rejected == 2
        assert one.stiffness.radius == (radius if radius != 1e-3 else 0.0)
    for size in (0.6, 60.0):
        f, net = problem("factorization", (2, 3, 2), size)
        field = GradientField(f, net)
        one = advancing(_compiled.CompiledMarch(field, RTOL, 4), _attempt=lambda *a: (False, 1e30))
        assert one.advance(9.0, 0.0, 999)[0] is _stepping.Event.UNDERFLOW
        moved = one.h * one.point.speed
        assert moved <= EPS * field.grain(one.point) < 5.01 * moved


def test_steps_that_stall_are_looked_at():
    f, net = problem("factorization", (2, 3, 2))
    for fall, speed, rests, event in (
        (0.995, 1.0, True, "LOOK"), (0.985, 1.0, True, "PAUSE"), (0.995, 1.0, False, "PAUSE"),
        (0.5, 0.0, True, "LOOK"), (0.0, 1.0, False, "LOOK"),
    ):  # fmt: skip
        one = _compiled.CompiledMarch(GradientField(f, net), RTOL, 4)

        def attempt(spec, data, w, p, y, K, work, new, numbers, counts, length, h, fall=fall, speed=speed):
            numbers[_march.TAKEN], numbers[_march.NEW_GAP] = h, fall * numbers[_march.GAP]
            numbers[_march.NEW_SPEED] = speed
            return True, 0.01

        advancing(one, _attempt=attempt, may_rest=lambda *a, rests=rests: rests, _curved=lambda *a: 0.0)
        h = one.h
        found, steps = one.advance(9.0, -1.0, 1)
        assert found.name == event and len(steps) == 1 and one.h == near(h * 0.9 * 0.01 ** (-1 / 8))


def test_a_gap_on_the_target_has_reached_it_and_lengths_are_those_of_all_weights():
    f, net = problem("factorization", (2, 3, 2))
    one, lengths = _compiled.CompiledMarch(GradientField(f, net), RTOL, 4), []

    def attempt(spec, data, w, p, y, K, work, new, numbers, counts, length, h):
        lengths.append(length)
        new[:] = np.arange(3.0, 3.0 + len(new)) * (1 + len(lengths))
        numbers[_march.TAKEN], numbers[_march.NEW_GAP] = h, 0.5 * numbers[_march.GAP]
        numbers[_march.NEW_SPEED] = 1.0
        return True, 0.01

    advancing(one, _attempt=attempt, may_rest=lambda *a: False, _curved=lambda *a: 0.0)
    event, steps = one.advance(9.0, 0.25 * one.point.gap, 9)
    assert event is _stepping.Event.CROSSED and len(steps) == 1
    assert lengths == [
        near(np.linalg.norm(one.field.flatten(net.weights))),
        near(2 * np.linalg.norm(np.arange(3, 15))),
    ]


def test_steps_are_reviewed_after_so_many_and_a_look_may_be_at_rest(monkeypatch):
    monkeypatch.setattr(_compiled, "REVIEW", 3)
    f, net = problem("factorization", (2, 3, 2))
    one, reviewed = _compiled.CompiledMarch(GradientField(f, net), RTOL, 8), []

    def review(point, h, allowed):
        reviewed.append((one.accepted, point.gap, allowed(h)))
        return 0.5 * h

    monkeypatch.setattr(one.stiffness, "review", review)
    for accepted in (3, 6, 9):
        h, gap, y = one.h, one.point.gap, one.point.y
        event, _ = one.advance(1e9, 0.0, 99)
        assert event is _stepping.Event.PAUSE and one.accepted == accepted and not one.may_rest
        if accepted > 3:
            allowed = _stepping.allowed_error(one.field, one.field.at(y), h, RTOL, 0.0)
            assert reviewed[-1] == (accepted - 3, gap, near(allowed, rel=1e-9))
    assert len(reviewed) == 2
    event, _ = one.advance(one.t + 0.1 * one.h, 0.0, 99)
    assert event is _stepping.Event.LOOK and one.may_rest


def test_evaluations_of_a_reach_are_counted():
    f, net = problem("factorization", (2, 3, 2))
    field = GradientField(f, net)
    one = _compiled.CompiledMarch(field, RTOL, 1)
    for radius, h, count in ((0.0, 0.0, 1), (0.0, 0.1, 12), (40.0, 0.0, 1)):
        before, one._numbers[_march.RADIUS] = field.evaluations, radius
        one.reach(h)
        assert field.evaluations == before + count


def test_blocks_are_so_long_and_problems_so_large(monkeypatch):
    f, net = problem("factorization", (5, 6, 4))
    field = GradientField(f, net)
    assert (_compiled.BLAS_FROM, _compiled.BLOCK) == (2_000_000, 128)
    assert (_compiled.BLOCK_BYTES, _compiled.BLOCK_PRODUCTS) == (2**22, 3 * 10**7)
    monkeypatch.setattr(_compiled, "BLAS_FROM", 30 * 4)
    assert _compiled.large(field)
    monkeypatch.setattr(_compiled, "BLAS_FROM", 30 * 4 + 1)
    assert not _compiled.large(field)
    # The largest product of two layers is that with the narrower end.
    narrow = GradientField(*problem("factorization", (3, 6, 4)))
    for size, many in ((24 * 3, True), (24 * 3 + 1, False)):
        monkeypatch.setattr(_compiled, "BLAS_FROM", size)
        assert _compiled.large(narrow) == many
    assert _compiled.CompiledMarch(field, RTOL)._most == 128
    monkeypatch.setattr(_compiled, "BLOCK_BYTES", 8 * 54 * 7 + 5)
    assert _compiled.CompiledMarch(field, RTOL)._most == 7
    monkeypatch.setattr(_compiled, "BLOCK_PRODUCTS", 54 * 4 * 3 + 5)
    assert _compiled.CompiledMarch(field, RTOL)._most == 3
    monkeypatch.setattr(_compiled, "BLOCK_PRODUCTS", 1)
    assert _compiled.CompiledMarch(field, RTOL)._most == 1

    class Other(lf.MatrixFactorization):
        pass

    assert _compiled.why_not_compiled(field) is None
    assert "Other" in _compiled.why_not_compiled(GradientField(Other(f.minimizer), net))
    short = lf.Network(net.weights)
    short.weights = [W.astype(np.float32) for W in net.weights]
    assert "float64" in _compiled.why_not_compiled(GradientField(f, short))
