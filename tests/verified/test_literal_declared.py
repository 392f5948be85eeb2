"""Verified runs of declared objectives, written out under a roundoff so coarse that every allowance shows."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.verified import declared_march
from linflow.verified.declared import DeclaredGradient
from linflow.verified.declared_march import DeclaredMarch, DeclaredPath
from linflow.verified.log_norm import greatest
from linflow.verified.march import product_error, time_exponent
from linflow.verified.rounding import spectral
from linflow.verified.smooth import ProductTube, cross
from tests.verified.test_literal_path import coarse, drawn, fro, near, tiny, u, up
from tests.verified.test_literal_tails import confirmed, value_at

__all__ = ["coarse"]
K, H, VALUE, SLOPE, LEAST = 3.0, 0.75, 2.0**-6, 2.0**-7, -0.5
C, TAU, S = 0.5, 0.25, 0.125


def objective():
    return lf.Objective(
        lambda W: float(np.sum(np.sin(W))), np.cos, shape=(2, 2), minimum=LEAST, smoothness=K, convex=True,
        hessian_lipschitz=H, value_error=VALUE, gradient_error=lambda W: SLOPE * float(np.abs(W).max()),
    )  # fmt: skip


@pytest.fixture
def problem(coarse):
    return DeclaredGradient.of(objective(), np.eye(2), "flow")


def test_half_of_what_is_declared_and_errors_of_0():
    constants = {"minimum": 0.0, "smoothness": K, "convex": True, "hessian_lipschitz": H}
    errors = {"value_error": 0.0, "gradient_error": 0.0}
    f = lf.Objective(lambda W: 1.0, lambda W: 0.0 * W, shape=(2, 2), pl_constant=0.75, **constants, **errors)
    given = DeclaredGradient.of(f, np.eye(2), "flow")
    assert given.least == 0.375 and given._error(0.0, "value_error", np.eye(2)) == 0.0


@pytest.mark.parametrize("error", [0.0, 0.25])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_loss(problem, error, sign):
    W = sign * drawn(2, 2)
    value = float(np.sum(np.sin(W)))
    slope = fro(np.cos(W)) + SLOPE * np.abs(W).max() * up
    moved = slope * error * up
    off = (VALUE + 4 * u * (abs(value) + abs(LEAST))) * up
    low, high = problem.gap(W, error)
    assert low == near(value - LEAST - (off + moved) * up)
    assert high == near(value - LEAST + (off + moved + 0.5 * K * error**2 * up) * up)


def test_the_gradient(problem):
    stack, off = drawn(3, 2, 2), np.array([0.5, 0.125, 0.25])
    for W, e in zip(stack, off, strict=True):
        G, error = problem.gradient(W, e)
        np.testing.assert_array_equal(G, np.cos(W))
        assert error == near((SLOPE * np.abs(W).max() + K * e) * up)
        assert problem.at(W, e) == near((fro(np.cos(W)) + error) * up)
    G, errors = problem.gradient(stack, off)
    np.testing.assert_array_equal(G, np.cos(stack))
    assert [problem.gradient(W, e)[1] for W, e in zip(stack, off, strict=True)] == list(errors)
    assert problem.around(2.0, 0.25) == (near((2.0 + K * 0.25) * up), K)
    assert problem.least == 0.0 and not problem.V.any() and problem.V.shape == (2, 2)


# --- one step ------------------------------------------------------------------------------------------------------


def layers_of(depth):
    widths = {1: (2, 2), 2: (2, 3, 2), 3: (2, 3, 4, 2)}[depth]
    return [drawn(9, a, b, seed=k) / 4 for k, (a, b) in enumerate(itertools.pairwise(widths))]


def path_of(problem, depth):
    series = layers_of(depth)
    return DeclaredPath(problem, series, C, TAU, S), series


def jet_of(layer):
    """Bounds of the size of a layer and of its first two derivatives on the step."""
    sizes = [spectral(layer[0]), *(fro(c) for c in layer[1:])]
    value = sum(x * S**k for k, x in enumerate(sizes)) * up
    first = sum(k * x * S ** (k - 1) for k, x in enumerate(sizes) if k) * up
    return value, first, sum(k * (k - 1) * x * S ** (k - 2) for k, x in enumerate(sizes) if k > 1) * up


def leibniz(*jets):
    """Of a product: all ways to take one or two derivatives."""
    value = math.prod(j[0] for j in jets)
    first = sum(j[1] * math.prod(o[0] for o in jets if o is not j) for j in jets)
    second = sum(j[2] * math.prod(o[0] for o in jets if o is not j) for j in jets)
    for a, b in itertools.permutations(jets, 2):
        second += a[1] * b[1] * math.prod(o[0] for o in jets if o is not a and o is not b)
    return value * up, first * up, second * up


def slope_of(problem, series):
    jets = [jet_of(layer) for layer in series]
    tube = ProductTube(problem, [layer[0] for layer in series], C)
    moved = C * (math.prod(j[0] for j in jets) * up - math.prod(spectral(layer[0]) for layer in series) * (1 - 1e-12))
    size = C * (tube.state + K * moved) * up * up
    _, first, second = leibniz((C, 0.0, 0.0), *jets)
    return size, C * K * first * up, C * (H * first**2 + K * second) * up


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_how_fast_the_gradient_turns(problem, depth):
    path, series = path_of(problem, depth)
    jets = [jet_of(layer) for layer in series]
    assert [list(j) for j in path.jets] == [near(list(j)) for j in jets] and path.layers == near([j[0] for j in jets])
    assert list(path.slope) == near(list(slope_of(problem, series)))
    squares = 0.0
    for l, layer in enumerate(series):
        third = sum(k * (k - 1) * (k - 2) * fro(c) * S ** (k - 3) for k, c in enumerate(layer) if k > 2)
        squares += (third + TAU * leibniz(slope_of(problem, series), *(jets[:l] + jets[l + 1 :]))[2]) ** 2
    assert path.second_derivative() == near(math.sqrt(squares) * up * up)
    squares = 0.0
    for l, layer in enumerate(series):
        second = sum(k * (k - 1) * fro(c) * S ** (k - 2) for k, c in enumerate(layer) if k > 1)
        squares += (second + TAU * leibniz(slope_of(problem, series), *(jets[:l] + jets[l + 1 :]))[1]) ** 2
    assert path.first_derivative() == near(math.sqrt(squares) * up * up)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_kinks_are_looked_for_and_count_by_the_first_derivative(problem, depth):
    """A piece of length Δ with a kink adds Δ²/4 times it, the integral of `min(s, Δ − s)`."""
    path, series = path_of(problem, depth)
    plain, asked, kinks = path.defect()[0], [], np.arange(32) % 11 == 0
    path.problem = SimpleNamespace(kinked=lambda W, off, moved: asked.append((W, moved)) or kinks)
    del path.kinked
    assert path.kinked.sum() == 3
    W, moved = asked[0]
    assert moved == near(leibniz((C, 0.0, 0.0), *(jet_of(layer) for layer in series))[1] * (S / 32) * up)
    for k in (0, 20, 32):
        layers = value_at(series, k * S / 32)[0]
        np.testing.assert_allclose(W[k], C * np.linalg.multi_dot([*layers, np.eye(2)]), rtol=1e-11, atol=1e-13)
    path.problem = problem
    assert path.defect()[0] - plain == pytest.approx(3 * (S / 32) ** 2 / 4 * path.first_derivative() * up, rel=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_defect(problem, depth):
    path, series = path_of(problem, depth)
    sizes, errors_at = [], np.zeros((33, depth))
    for i, s in enumerate(np.arange(33) * S / 32):
        weights, velocity, off, rounding = value_at(series, s)
        _, _, gradients, errors = problem.loss_gradient(weights, np.array(off), C)
        total = 0.0
        for l in range(depth):
            pull = TAU * gradients[l]
            errors_at[i, l] = rounding[l] + TAU * errors[l] * up + 3 * u * (fro(velocity[l]) + fro(pull))
            total += (fro(velocity[l] + pull) + errors_at[i, l]) ** 2
        sizes.append(math.sqrt(total) * up)
    width = S / 32
    ends = sum(0.5 * (a + b) * width for a, b in itertools.pairwise(sizes))
    added, fixed = path.defect()
    literal = (ends + S * width**2 / 12 * path.second_derivative()) * up + tiny
    assert added == pytest.approx(literal, rel=1e-9, abs=0)
    assert fixed == pytest.approx(S * errors_at.max(axis=0).sum(), rel=1e-9)
    assert path.way() == near(S * math.hypot(*(fro(layer[1]) for layer in series)))
    weights, jump = path.end()
    literal, _, off, _ = value_at(series, S)
    for W, true in zip(weights, literal, strict=True):
        np.testing.assert_allclose(W, true, rtol=1e-11, atol=1e-13)
    assert jump == near(math.hypot(*off) * up + tiny)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_logarithmic_norm(problem, depth):
    path, series = path_of(problem, depth)
    radius = 0.03125
    if depth == 1:
        assert path.exponent(radius) == 0.0
        return
    jets, here, width = [jet_of(layer) for layer in series], [], S / 4
    for s in (0.0, S / 4, S / 2, 0.75 * S, S):
        weights, _, off, _ = value_at(series, s)
        G, G_error, _, _ = problem.loss_gradient(weights, np.array(off), C)
        found = cross([W[None] for W in weights], np.array(off)[:, None], G[None], G_error)
        here.append({pair: (x[0], mid[0]) for pair, (x, mid) in found.items()})
    more, total = path.moved(radius), 0.0
    for a, b in itertools.pairwise(here):
        bounds = np.zeros((depth, depth))
        for i, j in itertools.combinations(range(depth), 2):
            bend = leibniz(slope_of(problem, series), *jets[:i], *jets[j + 1 :])[2]
            x = max(a[i, j][0], b[i, j][0]) + width**2 / 8 * bend + more[i, j][0]
            bend = leibniz(*jets[i + 1 : j])[2] if j > i + 1 else 0.0
            middle = max(a[i, j][1], b[i, j][1]) + width**2 / 8 * bend + more[i, j][1]
            bounds[i, j] = bounds[j, i] = x * middle * up
        total += width * greatest(bounds)
    assert path.exponent(radius) == pytest.approx(total * up, rel=1e-9, abs=0)


def test_a_step_of_the_march(problem):
    """The radius at the end: what was there and what the defect adds, magnified, and the rounding of the weights."""
    path, _ = path_of(problem, 2)
    march = DeclaredMarch(problem, [layer[0] for layer in path.series], C, radius=1e-3)
    P, error = product_error(march.weights, [0.0, 0.0])
    sizes = [spectral(W) for W in march.weights]
    away = (math.prod(x + 1e-3 for x in sizes) - math.prod(sizes)) * up
    W_error = C * (error + 2 * u * fro(P)) * up
    assert march.gap == march.first == tuple(near(x) for x in problem.gap(C * P, W_error + C * away * up))
    step = march._confirmed(path, 2.0**-9)
    reach, exponent, radius, after = confirmed(path, 1e-3, 2.0**-9)
    assert step.radius == near(radius) and march.radius == near(after) and march.exponent == near(exponent)
    assert step.exponent == near(exponent) and step.constants == path.constants(reach)
    assert march.t == S * TAU == step.length and march.gap == march._gap(march.weights, after) == step.gap


def test_tubes_are_widened_until_one_holds_and_a_steep_step_is_given_up(problem, monkeypatch):
    path, _ = path_of(problem, 2)
    asked, exponents = [], iter([8.0, 20.0, 0.0])
    monkeypatch.setattr(DeclaredPath, "exponent", lambda self, radius: asked.append(radius) or next(exponents) / TAU)
    march = DeclaredMarch(problem, [layer[0] for layer in path.series], C, radius=1e-3)
    assert march._confirmed(path, 2.0**-9) is not None and len(asked) == 3 and asked == sorted(asked)
    growing = itertools.count(1)
    monkeypatch.setattr(DeclaredPath, "exponent", lambda self, radius: 20.0 * next(growing) / TAU)
    assert march._confirmed(path, 2.0**-9) is None and "is too large for the curvature" in march.trouble
    assert next(growing) == 9  # of eight tubes
    monkeypatch.setattr(DeclaredPath, "exponent", lambda self, radius: 301.0 / TAU / up)
    assert march._confirmed(path, 2.0**-9) is None and "would multiply the radius by e^301" in march.trouble


def test_the_path_is_that_of_the_flow_at_eight_times():
    """`θ̃' = −τ∇L(θ̃)` at Chebyshev's points, without the coarse unit."""
    f = lf.Objective(
        lambda W: 0.5 * float(np.sum(W * W)), lambda W: W, shape=(2, 2), minimum=0.0, smoothness=1.0, convex=True,
        hessian_lipschitz=0.0, value_error=0.0, gradient_error=0.0,
    )  # fmt: skip
    problem, weights = DeclaredGradient.of(f, np.eye(2), "flow"), [drawn(2, 3), drawn(3, 2)]
    march = DeclaredMarch(problem, weights, 1.0, accuracy=1e-10)
    series = march._series(TAU, S)
    times = 0.5 * S * (1 - np.cos(np.pi * np.arange(8) / 7))
    path = DeclaredPath(problem, series, 1.0, TAU, S)
    at, velocity = path.at(times)[0], path.velocity(times)[0]
    slopes = problem.loss_gradient(at, np.zeros((2, 8)), 1.0)[2]
    for v, slope, W, k in zip(velocity, slopes, weights, series, strict=True):
        np.testing.assert_allclose(v, -TAU * slope, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(k[0], W)
    assert march._series(1e4, 1e4) is None


@pytest.mark.parametrize(("part", "grows"), [(0.0, 2.0), (0.1, 2.0), (0.81, 1.0), (1.9, 0.9 / math.sqrt(1.9))])
def test_the_length_of_a_step_follows_its_defect(problem, monkeypatch, part, grows):
    march = DeclaredMarch(problem, [layer[0] for layer in layers_of(2)], C, accuracy=1.0)
    march.length = 2.0**-4
    monkeypatch.setattr(DeclaredMarch, "_series", lambda self, tau, s: layers_of(2))
    monkeypatch.setattr(DeclaredPath, "way", lambda self: 8.0)
    monkeypatch.setattr(DeclaredPath, "defect", lambda self: (3.0 + part * march.accuracy * 8.0, 3.0))
    monkeypatch.setattr(DeclaredMarch, "_confirmed", lambda self, path, added: (path.s * path.tau, added))
    length, added = march.advance()
    assert length == 2.0**-4 and added == pytest.approx(3.0 + part * march.accuracy * 8.0)
    assert march.length == pytest.approx(2.0**-4 * grows, rel=1e-3)


def test_a_step_whose_defect_is_too_large_is_shortened(problem, monkeypatch):
    lengths = []
    march = DeclaredMarch(problem, [layer[0] for layer in layers_of(2)], C)
    march.length = 1.0
    monkeypatch.setattr(DeclaredMarch, "_series", lambda self, tau, s: layers_of(2))
    monkeypatch.setattr(DeclaredPath, "way", lambda self: 1.0)
    monkeypatch.setattr(DeclaredPath, "defect", lambda self: (lengths.append(self.s * self.tau) or 1.0, 0.0))
    assert march.advance() is None and march.trouble == "no radius was confirmed, however short the step"
    assert lengths[:4] == [1.0, 0.25, 0.0625, 0.015625] and len(lengths) <= 30


# --- the length of a step and its path -----------------------------------------------------------------------------


def march_of(problem, **given):
    return DeclaredMarch(problem, [layer[0] for layer in layers_of(2)], C, **given)


def test_the_first_step_is_a_32nd_of_the_time_of_the_weights(problem):
    march = march_of(problem)
    gradients = problem.loss_gradient(march.weights, np.zeros(2), C)[2]
    size, speed = (math.hypot(*(np.linalg.norm(x) for x in of)) for of in (march.weights, gradients))
    assert march.length == 2.0 ** (time_exponent(size, speed) - 5)


def stepped(problem, monkeypatch, parts, confirmed, way=8.0, found=None):
    """What `_series` and the lengths were, for defects of these parts and steps that are confirmed or not."""
    march, asked, lengths = march_of(problem, accuracy=1.0), [], []
    march.length = 3.0
    series, parts, confirmed = iter(found or [True] * 9), iter(parts), iter(confirmed)

    def ask(self, tau, s):
        asked.append((tau, s))
        return layers_of(2) if next(series) else None

    def defect(self):
        return 3.0 + next(parts) * (march.accuracy * way + tiny), 3.0

    def confirm(self, path, added):
        lengths.append(march.length)
        return (path, added) if next(confirmed) else None

    monkeypatch.setattr(DeclaredMarch, "_series", ask)
    monkeypatch.setattr(DeclaredPath, "way", lambda self: way)
    monkeypatch.setattr(DeclaredPath, "defect", defect)
    monkeypatch.setattr(DeclaredMarch, "_confirmed", confirm)
    assert march.advance() is not None
    return asked, lengths


def test_steps_are_shortened_and_lengthened(problem, monkeypatch):
    asked, lengths = stepped(problem, monkeypatch, [0.81], [True])
    assert asked == [(4.0, 0.75)] and lengths == near([3.0])  # the unit is a power of two
    asked, lengths = stepped(problem, monkeypatch, [2.5, 0.81], [True])
    after = 3.0 * 0.9 / math.sqrt(2.5)
    assert asked[0] == (4.0, 0.75) and asked[1] == pytest.approx((2.0, after / 2), rel=1e-5)  # times are rounded
    assert lengths == pytest.approx([after], rel=1e-5)
    asked, _ = stepped(problem, monkeypatch, [0.0, 0.0], [False, True])
    assert asked == [(4.0, 0.75), (2.0, 0.75)]
    asked, _ = stepped(problem, monkeypatch, [0.0], [True], found=[False, True])
    assert asked == [(4.0, 0.75), (2.0, 0.75)]
    _, lengths = stepped(problem, monkeypatch, [0.5], [True], way=0.0)
    assert lengths == [pytest.approx(3.0 * 0.9 / math.sqrt(0.5), rel=1e-6)]  # 3 + tiny/2 has its last digits


def literal_series(problem, weights, tau, s, accuracy):
    """Sweeps of `k ← −τ × (coefficients of the polynomial through the slopes at eight times)`, until they settle."""
    times = 0.5 * s * (1 - np.cos(np.pi * np.arange(8) / 7))
    ks, last = [np.zeros((8, *W.shape)) for W in weights], math.inf
    for sweep in range(1, 17):
        at = [
            W + sum(k[j] * times[:, None, None] ** (j + 1) for j in range(8))
            for W, k in zip(weights, ks, strict=True)
        ]
        slopes = problem.loss_gradient(at, np.zeros((len(weights), 8)), C)[2]
        new = []
        for slope in slopes:
            fitted = np.linalg.solve(times[:, None] ** np.arange(8), slope.reshape(8, -1))
            new.append(-tau * fitted.reshape(slope.shape) / np.arange(1, 9)[:, None, None])
        powers = s ** np.arange(8.0)[:, None, None]
        change = max(float((abs(a - b) * powers).max()) for a, b in zip(new, ks, strict=True))
        ks, size = new, max(float(abs(k[0]).max()) for k in new)
        if change <= 0.01 * accuracy * size and change <= last:
            return ks, sweep
        last = change
    return None, 16


@pytest.mark.parametrize("scales", [(1.0, 0.05), (0.05, 1.0), (-1.0, 0.05), (0.05, -1.0), (4.0, 5.0)])
@pytest.mark.parametrize("accuracy", [1e-1, 1e-3, 1e-5])
def test_sweeps_settle_where_they_change_little(monkeypatch, scales, accuracy):
    assert (declared_march.DEGREE, declared_march.SWEEPS) == (8, 16)
    assert (declared_march.PIECES, declared_march.COARSE) == (32, 8)
    problem = DeclaredGradient.of(objective(), np.eye(2), "flow")
    weights = [x * layer[0] for x, layer in zip(scales, layers_of(2), strict=True)]
    tau, s = 0.5, 1.5
    literal, sweeps = literal_series(problem, weights, tau, s, accuracy)
    march, calls = DeclaredMarch(problem, weights, C, accuracy=accuracy), []
    original = DeclaredGradient.loss_gradient
    monkeypatch.setattr(
        DeclaredGradient, "loss_gradient", lambda self, *given: calls.append(1) or original(self, *given)
    )
    found = march._series(tau, s)
    assert found is not None and len(calls) == sweeps
    for k, layer in zip(literal, found, strict=True):
        np.testing.assert_allclose(layer[1:], k, rtol=1e-9, atol=1e-10)


def test_slopes_at_eight_times_give_a_polynomial():
    times, matrix = declared_march._collocation.__wrapped__()  # not those of an earlier test
    assert times.tolist() == near([0.5 - 0.5 * math.cos(math.pi * k / 7) for k in range(8)])
    slope = drawn(8)
    values = np.polynomial.polynomial.polyval(times, slope)
    np.testing.assert_allclose(matrix @ values, slope / np.arange(1, 9), rtol=1e-9, atol=1e-9)


def test_sweeps_that_do_not_settle_or_leave_float64_are_given_up(monkeypatch):
    march = march_of(DeclaredGradient.of(objective(), np.eye(2), "flow"))
    shapes, calls, value = [(8, *W.shape) for W in march.weights], [], itertools.count(1.0)

    def slopes(*given):
        calls.append(1)
        return None, None, [np.full(shape, next(value)) for shape in shapes], None

    monkeypatch.setattr(DeclaredGradient, "loss_gradient", slopes)
    assert march._series(0.5, 1.0) is None and len(calls) == 16
    for wrong in range(2):

        def partly(*given, wrong=wrong):
            calls.append(1)
            found = [np.ones(shape) for shape in shapes]
            found[wrong][:, 0, 0] = math.nan
            return None, None, found, None

        calls.clear()
        monkeypatch.setattr(DeclaredGradient, "loss_gradient", partly)
        assert march._series(0.5, 1.0) is None and len(calls) == 1
