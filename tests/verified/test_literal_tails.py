"""Verified flows of losses with a tail, written out under a roundoff so coarse that every allowance shows."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.verified import classification, smooth, tail_march
from linflow.verified.classification import TailGradient
from linflow.verified.convex_descent import ConvexDescentMarch
from linflow.verified.log_norm import greatest
from linflow.verified.march import product_error, rounding_of_value
from linflow.verified.rounding import spectral
from linflow.verified.smooth import ConvexGradient, ProductTube
from tests.verified.test_literal_path import coarse, drawn, fro, g, near, tiny, u, up

__all__ = ["coarse"]
X = np.array([[1.0, 0.5], [0.25, -2.0], [-1.0, 1.5]])
Y = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
LOSSES = {"exponential": lf.ExponentialLoss, "logistic": lf.LogisticLoss}


@pytest.fixture(autouse=True)
def exp(coarse, monkeypatch):
    monkeypatch.setattr(classification, "EXP", 32 * u)


@pytest.fixture(params=sorted(LOSSES))
def loss(request):
    return request.param


def problem_of(loss):
    return TailGradient.of(LOSSES[loss](X, Y))


def phi(loss, z):
    return math.exp(-z) if loss == "exponential" else math.log1p(math.exp(-abs(z))) + max(-z, 0.0)


def slope(loss, z):
    return math.exp(-z) if loss == "exponential" else 1 / (1 + math.exp(z))


def lengths():
    return np.array([fro(x) for x in X])


def rounding_of(size):
    """Of each row of Z, for products of norm `size`: an inner product of two terms."""
    return g(2) * lengths() * size * up + tiny


def most(loss, Z, off):
    bound = np.zeros_like(Z)
    for i, j in np.ndindex(Z.shape):
        lowest = Z[i, j] - off[i] - 4 * u * (abs(Z[i, j]) + off[i])
        e = math.exp(-lowest)
        bound[i, j] = (e if loss == "exponential" else min(1.0, e)) * (1 + 32 * u) + tiny
    return bound


def test_the_constants():
    nodes, rho = 32, 4.0
    assert (nodes, rho) == (tail_march.NODES, tail_march.RHO)
    assert 0.5 + 0.25 * (rho + 1 / rho) == tail_march.REACH
    assert 0.5 * (0.5 * (rho + 1 / rho) - 1) == tail_march.APART
    assert near(1 + 2 / math.pi * math.log(nodes)) == tail_march.LEBESGUE


def test_exponentials_may_be_off_by_sixteen_units_in_the_last_place(monkeypatch):
    monkeypatch.undo()
    assert problem_of("exponential").gradient(np.zeros((2, 2)), 0.0)[1] < 1e-12
    assert 16 * np.finfo(np.float64).eps == classification.EXP
    assert math.pi / 2 > classification.LARGEST_TURN == 1.5


def test_norms_that_move():
    assert smooth.product([2.0, 3.0]) == near(6 * up) and smooth.product([]) == near(up)
    assert smooth.grown([2.0, 3.0, 5.0], [0.5, 0.25, 1.0]) == near((2.5 * 3.25 * 6 - 30) * up)
    assert smooth.sides([np.ones((2, 3)), np.ones((3, 4))]) == 2 + 3 + 3 + 4 + 2


def test_the_rounding_and_the_slopes(loss):
    problem = problem_of(loss)
    np.testing.assert_allclose(problem.rounding(3.0), rounding_of(3.0), rtol=1e-12)
    Z = np.array([[0.5, -2.0], [3.0, -0.25], [0.0, 700.0]])
    np.testing.assert_allclose(problem.slopes(Z), [[slope(loss, z) for z in row] for row in Z], rtol=1e-12)
    off = np.array([0.5, 0.125, 0.0])
    np.testing.assert_allclose(problem.most(Z, off), most(loss, Z, off), rtol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("error", [0.0, 0.25])
def test_the_loss(loss, error, sign):
    W = sign * drawn(2, 2)
    Z = Y * (X @ W)
    off = (rounding_of(fro(W)) + lengths() * error) * up
    slack = g(Z.size + 4) + 32 * u + 4 * u
    moved = math.expm1(2 * u * (np.abs(Z).max() + off.max())) * up
    least = sum(phi(loss, Z[i, j] + off[i]) for i, j in np.ndindex(Z.shape))
    largest = sum(phi(loss, Z[i, j] - off[i]) for i, j in np.ndindex(Z.shape))
    low, high = problem_of(loss).value(W, error)
    assert low == near(least * (1 - slack - moved) / up - tiny) and low > 0
    assert high == near(largest * (1 + slack + moved) * up + tiny)


def test_a_loss_past_float64_is_bounded_by_0_from_below():
    low, high = problem_of("exponential").value(np.full((2, 2), 1e4), 0.0)
    assert (low, high) == (0.0, math.inf)


def gradient_error(loss, W, off):
    """Of `∇f` at a product within `off` of the computed W."""
    Z = Y * (X @ W)
    A = np.array([[slope(loss, z) for z in row] for row in Z])
    error = 0.0
    for i in range(len(X)):
        weighted = fro(X[i]) * (math.sqrt(sum(a * a for a in A[i])) * up + tiny)
        moved = fro(X[i]) * off + rounding_of(fro(W))[i]
        error += weighted * (math.expm1(moved * up) * (1 + 32 * u) + 32 * u) + g(len(X) + 1) * weighted
    return -X.T @ (Y * A), error * up * up + tiny


def test_the_gradient(loss):
    W = drawn(2, 2) / 4
    G, error = problem_of(loss).gradient(W, np.float64(0.125))
    literal = gradient_error(loss, W, 0.125)
    np.testing.assert_allclose(G, literal[0], rtol=1e-12)
    assert error == near(literal[1])


def layers_of(depth):
    widths = {1: (2, 2), 2: (2, 3, 2), 3: (2, 3, 4, 2)}[depth]
    return [drawn(a, b, seed=k) / 4 for k, (a, b) in enumerate(itertools.pairwise(widths))]


def moved_product(sizes, errors):
    return math.prod(x + e for x, e in zip(sizes, errors, strict=True)) - math.prod(sizes)


def chain(layers, size):
    P = np.eye(size)
    for W in layers:
        P = P @ W
    return P


def gradients_of(loss, weights, off, c):
    """G, its error, and each layer's gradient with its error."""
    steps = sum(sum(W.shape) for W in weights) + len(weights)
    sizes = [fro(W) for W in weights]
    whole = c * math.prod(sizes) * up
    W_error = (c * moved_product(sizes, off) * up + (g(steps) + 2 * u) * whole) * up
    G, error = gradient_error(loss, c * chain(weights, 2), W_error)
    G, G_error = c * G, c * (error + 2 * u * fro(G)) * up
    found = []
    for l in range(len(weights)):
        gradient = chain(weights[:l], 2).T @ G @ chain(weights[l + 1 :], weights[l].shape[1]).T
        rest = math.prod(sizes[:l] + sizes[l + 1 :]) * up
        more = moved_product(sizes[:l] + sizes[l + 1 :], [*off[:l], *off[l + 1 :]]) * up
        found.append((gradient, (G_error * (rest + more) + fro(G) * (more + g(steps) * rest)) * up))
    return G, G_error, found


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_gradients_of_the_layers(loss, depth):
    weights, off = layers_of(depth), [0.0625, 0.125, 0.25][:depth]
    G, G_error, gradients, errors = problem_of(loss).loss_gradient(weights, np.array(off), 0.5)
    literal = gradients_of(loss, weights, off, 0.5)
    np.testing.assert_allclose(G, literal[0], rtol=1e-11)
    assert G_error == near(literal[1])
    for l in range(depth):
        np.testing.assert_allclose(gradients[l], literal[2][l][0], rtol=1e-11)
        assert errors[l] == near(literal[2][l][1])


def sizes_of(loss, Z, off):
    bound = most(loss, Z, off)
    first = sum(fro(X[i]) * math.sqrt(sum(b * b for b in bound[i])) for i in range(len(X))) * up
    per = [max(row) if loss == "exponential" else min(max(row), 0.25) for row in bound]
    by_rows = sum(fro(X[i]) ** 2 * per[i] for i in range(len(X)))
    return first, min(by_rows, spectral(X) ** 2 * max(per)) * up


@pytest.mark.parametrize("scale", [1.0, 8.0, -2.0])
def test_the_sizes_of_the_derivatives(loss, scale):
    Z, off = scale * np.array([[0.5, -0.25], [0.1, 0.2], [0.3, -0.4]]), np.array([0.5, 0.25, 0.125])
    assert problem_of(loss).sizes(Z, off) == (near(sizes_of(loss, Z, off)[0]), near(sizes_of(loss, Z, off)[1]))


def test_the_curvature_is_the_lesser_of_two_bounds():
    """A row alone with a large slope: the sum is less. All rows alike: the spectral norm is."""
    problem, off = problem_of("exponential"), np.zeros(3)
    alone, alike = np.array([[-5.0, 9.0], [9.0, 9.0], [9.0, 9.0]]), np.zeros((3, 2))
    rows = sum(fro(x) ** 2 for x in X)
    assert problem.sizes(alone, off)[1] < spectral(X) ** 2 * most("exponential", alone, off).max()
    assert problem.sizes(alike, off)[1] < rows * most("exponential", alike, off).max()


# --- one step ------------------------------------------------------------------------------------------------------


C, TAU, S, ORDER = 0.5, 0.25, 0.125, 6


def path_of(loss, depth):
    problem, weights = problem_of(loss), layers_of(depth)
    series = tail_march.taylor(problem, weights, C, TAU, ORDER)
    return tail_march._Path(problem, series, C, TAU, S), series


def bounds_of(loss, series):
    """What is known on the ellipse and on the step."""
    L, weights = len(series), [layer[0] for layer in series]
    sizes = [[fro(c) for c in layer] for layer in series]
    start = [spectral(W) for W in weights]

    def within(length):
        grown = [sum(x * (length * S) ** k for k, x in enumerate(layer) if k) * up for layer in sizes]
        return [(a + b) * up for a, b in zip(start, grown, strict=True)]

    rho = 4.0
    reach = 0.5 + 0.25 * (rho + 1 / rho)
    wide, layers = within(reach), within(1.0)
    P, error = product_error(weights, [0.0] * L)
    W_error = C * (error + 2 * u * fro(P)) * up
    Z = Y * (X @ (C * P))
    Z_error = (rounding_of(fro(C * P)) + lengths() * W_error) * up
    moved = C * (math.prod(wide) * up - math.prod(start) / up)
    slope = C * sizes_of(loss, Z, Z_error + lengths() * moved * up)[0] * up
    speed = [sum(x * k * (reach * S) ** (k - 1) for k, x in enumerate(layer) if k) for layer in sizes]
    others = [math.prod(wide[:l] + wide[l + 1 :]) for l in range(L)]
    largest = (math.hypot(*speed) * up + TAU * slope * math.hypot(*others)) * up
    return {
        "wide": wide, "layers": layers, "start": start, "Z": Z, "Z_error": Z_error, "slope": slope,
        "most": largest, "turn": max(lengths()) * moved * up, "sizes": sizes,
    }  # fmt: skip


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_is_known_around_a_step(loss, depth, monkeypatch):
    path, series = path_of(loss, depth)
    known = bounds_of(loss, series)
    assert path.wide == near(known["wide"]) and path.layers == near(known["layers"])
    np.testing.assert_allclose(path.state[1], known["Z_error"], rtol=1e-12)
    np.testing.assert_allclose(path.state[0], known["Z"], rtol=1e-12)
    assert path.slope == near(known["slope"]) and path.most == near(known["most"])
    assert path.usable == (loss == "exponential" or known["turn"] <= 1.5)
    for limit, usable in ((known["turn"] * (1 + 1e-9), True), (known["turn"] * (1 - 1e-9), loss == "exponential")):
        monkeypatch.setattr(tail_march, "LARGEST_TURN", limit)
        assert path_of(loss, depth)[0].usable == usable
    nodes = [0.5 * S * (1 + math.cos((2 * k + 1) * math.pi / 64)) for k in range(32)]
    np.testing.assert_allclose(path.nodes, sorted(nodes), rtol=1e-12)


def value_at(series, s):
    """The weights of the path, its velocity, and the rounding of both: Horner's rule of a rounded s."""
    weights, velocity, off, rounding = [], [], [], []
    for layer in series:
        weights.append(sum(c * s**k for k, c in enumerate(layer)))
        velocity.append(sum(k * c * s ** (k - 1) for k, c in enumerate(layer) if k))
        off.append(sum(fro(c) * g(2 * k + 1) * s**k for k, c in enumerate(layer)) * up + tiny)
        parts = (fro(c) * k * g(2 * k + 2) * s ** (k - 1) for k, c in enumerate(layer) if k)
        rounding.append(sum(parts) * up + tiny)
    return weights, velocity, off, rounding


@pytest.mark.parametrize("depth", [1, 3])
def test_the_end_of_a_step(loss, depth):
    path, series = path_of(loss, depth)
    weights, jump = path.end()
    literal, _, off, _ = value_at(series, S)
    for W, true in zip(weights, literal, strict=True):
        np.testing.assert_allclose(W, true, rtol=1e-11, atol=1e-13)
    assert jump == near(math.hypot(*off) * up + tiny)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_defect(loss, depth):
    path, series = path_of(loss, depth)
    largest = 0.0
    for s in path.nodes:
        weights, velocity, off, rounding = value_at(series, s)
        _, _, gradients = gradients_of(loss, weights, off, C)
        total = 0.0
        for l in range(depth):
            pull = TAU * gradients[l][0]
            here = fro(velocity[l] + pull) + 3 * u * (fro(velocity[l]) + fro(pull))
            total += (here + rounding[l] + TAU * gradients[l][1] * up) ** 2
        largest = max(largest, math.sqrt(total) * up)
    most_on_ellipse, rho = bounds_of(loss, series)["most"], 4.0
    apart = 0.5 * (0.5 * (rho + 1 / rho) - 1)
    shifted = 8 * u * most_on_ellipse / apart
    between = 4 * most_on_ellipse * rho**-31 / (rho - 1)
    lebesgue = 1 + 2 / math.pi * math.log(32)
    assert path.defect() == pytest.approx(((largest + shifted) * lebesgue + between) * up + tiny, rel=1e-9, abs=0)


def test_values_between_the_nodes_count(loss, monkeypatch):
    """With few nodes, what lies between them is the larger part of the bound."""
    path, _ = path_of(loss, 2)
    before = path.defect()
    monkeypatch.setattr(tail_march, "NODES", 3)
    few = tail_march._Path(path.problem, path.series, C, TAU, S)
    parts = few.defect() - 4 * few.most * 4.0**-2 / 3 * up
    assert few.most == path.most and 0 < parts < before * 1.01 and few.defect() > before


def on_tube(loss, known, radius):
    wide = [x + radius for x in known["layers"]]
    moved = C * (math.prod(wide) * up - math.prod(known["start"]) * (1 - 1e-12))
    slope, curvature = sizes_of(loss, known["Z"], known["Z_error"] + lengths() * moved * up)
    others = [math.prod(wide[:l] + wide[l + 1 :]) for l in range(len(wide))]
    return wide, C * slope * up, curvature, C * math.hypot(*others) * up


@pytest.mark.parametrize("depth", [2, 3])
def test_the_constants_of_a_tube(loss, depth):
    path, series = path_of(loss, depth)
    known, radius = bounds_of(loss, series), 0.0625
    wide, slope, curvature, motion = on_tube(loss, known, radius)
    pairs = np.zeros((depth, depth))
    for i, j in itertools.permutations(range(depth), 2):
        pairs[i, j] = math.prod(wide[k] for k in range(depth) if k not in (i, j)) * up
    bend = C * greatest(pairs) * up
    constants = path.constants(radius)
    assert constants.motion == near(motion) and constants.bend == near(bend)
    assert list(vars(constants).values())[2:] == [near(slope), near((curvature * motion**2 + slope / C * bend) * up)]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_logarithmic_norm(loss, depth):
    path, series = path_of(loss, depth)
    known, radius = bounds_of(loss, series), 0.03125
    if depth == 1:
        assert path.exponent(radius) == 0.0
        return
    _, slope, curvature, motion = on_tube(loss, known, radius)
    times = np.linspace(0.0, S, 33)
    here = []
    for s in times:
        weights, _, off, _ = value_at(series, s)
        G, G_error, _ = gradients_of(loss, weights, off, C)
        steps = sum(sum(W.shape) for W in weights) + depth
        sizes, found = [fro(W) for W in weights], {}
        for i, j in itertools.combinations(range(depth), 2):
            cross = chain(weights[:i], 2).T @ G @ chain(weights[j + 1 :], weights[j].shape[1]).T
            outer, moved = sizes[:i] + sizes[j + 1 :], [*off[:i], *off[j + 1 :]]
            rest, more = math.prod(outer) * up, moved_product(outer, moved) * up
            error = (G_error * (rest + more) + fro(G) * (more + g(steps) * rest)) * up
            middle = 1.0
            if j > i + 1:
                M, M_error = product_error(weights[i + 1 : j], off[i + 1 : j])
                middle = (spectral(M) + M_error) * up
            found[i, j] = (spectral(cross) + error) * up, middle
        here.append(found)
    layers, wide, total = known["layers"], known["wide"], 0.0
    apart = 0.5 * (0.5 * (4 + 0.25) - 1) * S
    for k in range(32):
        bend = 0.25 * ((times[k + 1] - times[k]) * (1 + 8 * u) / apart) ** 2 * up
        bounds = np.zeros((depth, depth))
        for i, j in itertools.combinations(range(depth), 2):
            outer, inner = layers[:i] + layers[j + 1 :], layers[i + 1 : j]
            more = moved_product(outer, [radius] * len(outer)) * up
            x = max(here[k][i, j][0], here[k + 1][i, j][0])
            x += bend * known["slope"] * math.prod(wide[:i] + wide[j + 1 :])
            x += (slope * more + C * curvature * motion * radius * (math.prod(outer) + more)) * up
            middle = max(here[k][i, j][1], here[k + 1][i, j][1])
            middle += bend * (math.prod(wide[i + 1 : j]) if j > i + 1 else 0.0)
            middle += moved_product(inner, [radius] * len(inner)) * up
            bounds[i, j] = bounds[j, i] = x * middle * up
        total += (times[k + 1] - times[k]) * (1 + 4 * u) * greatest(bounds)
    assert path.exponent(radius) == pytest.approx(total * up, rel=1e-9, abs=0)


# --- descent -------------------------------------------------------------------------------------------------------


def known_at(loss, weights):
    start = [spectral(W) for W in weights]
    P, error = product_error(weights, [0.0] * len(weights))
    W_error = C * (error + 2 * u * fro(P)) * up
    Z_error = (rounding_of(fro(C * P)) + lengths() * W_error) * up
    known = {"layers": start, "start": start, "Z": Y * (X @ (C * P)), "Z_error": Z_error}
    return known, C * P, W_error


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("eta", [2.0**-6, 64.0])
def test_how_far_a_disturbance_of_a_descent_grows(loss, depth, eta):
    weights, radius = layers_of(depth), 2.0**-6
    known, W, W_error = known_at(loss, weights)
    march = ConvexDescentMarch(problem_of(loss), weights, C, radius, eta)
    away = moved_product(known["start"], [radius] * depth) * up
    assert march.gap == march.first == march.problem.gap(W, W_error + C * away * up)
    _, slope, curvature, motion = on_tube(loss, known, radius)
    G, G_error, _ = gradients_of(loss, weights, [0.0] * depth, C)
    steps = sum(sum(W.shape) for W in weights) + depth
    sizes, bounds = [fro(W) for W in weights], np.zeros((depth, depth))
    for i, j in itertools.combinations(range(depth), 2):
        here = chain(weights[:i], 2).T @ G @ chain(weights[j + 1 :], weights[j].shape[1]).T
        rest = math.prod(sizes[:i] + sizes[j + 1 :]) * up
        x = (spectral(here) + (G_error * rest + fro(G) * g(steps) * rest) * up) * up
        middle = 1.0
        if j > i + 1:
            M, M_error = product_error(weights[i + 1 : j], [0.0] * (j - i - 1))
            middle = (spectral(M) + M_error) * up
        outer, inner = known["start"][:i] + known["start"][j + 1 :], known["start"][i + 1 : j]
        more = moved_product(outer, [radius] * len(outer)) * up
        x += (slope * more + C * curvature * motion * radius * (math.prod(outer) + more)) * up
        bounds[i, j] = bounds[j, i] = x * (middle + moved_product(inner, [radius] * len(inner)) * up) * up
    m = greatest(bounds)
    M = (curvature * motion**2 + m) * up
    assert march.growth(eta) == pytest.approx(max(1 + eta * m, eta * M - 1) * up, rel=1e-11, abs=0)
    assert bool(eta * M - 1 > 1 + eta * m) is (eta > 1)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_step_of_a_descent(loss, depth, monkeypatch):
    """`ρ_1 = ρ_0 growth + η (e + 2u‖∇L‖) + u‖θ_1‖`, in which e is the error of the gradient."""
    weights, asked = [100 * W for W in layers_of(depth)], []
    problem = problem_of(loss)
    gradients = [np.full(W.shape, 0.5 + l) for l, W in enumerate(weights)]
    errors = [2.0 ** -(7 + l) for l in range(depth)]

    def rule(W, taken):
        asked.append((W, list(taken)))
        return 0.125

    monkeypatch.setattr(ProductTube, "__init__", lambda self, problem, W, c: None)
    monkeypatch.setattr(ProductTube, "gap", lambda self, radius: (1.0, 2.0))
    monkeypatch.setattr(type(problem), "loss_gradient", lambda self, W, off, c: (None, None, gradients, errors))
    monkeypatch.setattr(ConvexDescentMarch, "growth", lambda self, eta: 1.25)
    march = ConvexDescentMarch(problem, weights, C, 2.0**-8, rule)
    new = [W - 0.125 * slope for W, slope in zip(weights, gradients, strict=True)]
    moved = math.hypot(*(fro(W) for W in new))
    rounding = math.hypot(*(e + 2 * u * fro(slope) for slope, e in zip(gradients, errors, strict=True)))
    assert march.advance() and march.radius == near((2.0**-8 * 1.25 + 0.125 * rounding + u * moved) * up + tiny)
    assert march.exponent == near(math.log(1.25)) and march.taken == [0.125] and march.hessians == 0
    assert all(np.array_equal(a, b) for a, b in zip(march.weights, new, strict=True))
    monkeypatch.setattr(ConvexDescentMarch, "growth", lambda self, eta: 0.5)
    march.radius = 2.0**-8
    assert march.advance() and march.exponent == near(math.log(1.25)) and march.taken == [0.125, 0.125]
    assert asked[0][0] is weights and asked[1][0] is not weights and [taken for _, taken in asked] == [[], [0.125]]
    # A radius above a thousandth of the weights proves nothing more.
    march.radius = moved * 2e-3
    assert not march.advance() and "too large for weights of norm" in march.trouble
    monkeypatch.setattr(ConvexDescentMarch, "growth", lambda self, eta: math.inf)
    march.radius = 0.0
    assert not march.advance()


def confirmed(path, radius, added):
    """The tube that holds a step, and the exponent and the radii in it: on the step, and of the rounded weights."""
    rounded = np.linalg.norm(rounding_of_value(path.lengths, path.s)) * up
    added = (radius + added) * up
    reach = 4 * (added + rounded)
    while True:
        exponent = path.tau * path.exponent(reach) * up
        radius = added * math.exp(exponent) * up * up
        after = (radius + path.end()[1]) * up
        if after + rounded <= reach:
            return reach, exponent, radius, after
        reach = 2 * (after + rounded)


def test_a_step_of_the_march(loss):
    """The radius at the end: what was there and what the defect adds, magnified, and the rounding of the weights."""
    problem, weights = problem_of(loss), layers_of(2)
    march = tail_march.TailMarch(problem, weights, C, radius=1e-3)
    series = tail_march.taylor(problem, weights, C, TAU, ORDER)
    path = tail_march._Path(problem, series, C, TAU, S)
    step = march._try(TAU, S, series)
    reach, exponent, radius, after = confirmed(path, 1e-3, path.defect() * S)
    assert step.radius == near(radius) and march.radius == near(after) and march.exponent == near(exponent)
    assert step.exponent == near(exponent) and step.constants.motion == near(path.constants(reach).motion)
    assert march.t == S * TAU == step.length and march.gap == march._gap(march.weights, after)


def test_the_gap_of_the_march_allows_for_the_radius_and_the_rounding_of_the_product(loss):
    problem, weights = problem_of(loss), layers_of(2)
    march = tail_march.TailMarch(problem, weights, C)
    assert march.length == 0.0 and march.first == march.gap == march._gap(weights, 0.0)
    P, error = product_error(weights, [0.0, 0.0])
    moved = smooth.grown([spectral(W) for W in weights], [0.125, 0.125])
    literal = problem.value(C * P, C * (error + 2 * u * fro(P) + moved) * up)
    assert march._gap(weights, 0.125) == (near(literal[0]), near(literal[1]))


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_the_path_follows_the_flow(loss, depth):
    """`dθ/ds = −τ∇L` to the order of the path, at a time so short that the next term is rounding."""
    problem = problem_of(loss)
    weights = [0.5 * drawn(2, *([3] if depth > 1 else [2])), *(0.5 * drawn(3, 3, seed=k) for k in range(depth - 2))]
    weights += [0.5 * drawn(3, 2, seed=9)] * (depth > 1)
    series = tail_march.taylor(problem, weights, C, TAU, 8)
    s = 0.01
    now = [sum(c * s**k for k, c in enumerate(layer)) for layer in series]
    for l, layer in enumerate(series):
        before, after = np.eye(2), np.eye(2)
        for W in now[:l]:
            before = before @ W
        for W in reversed(now[l + 1 :]):
            after = W @ after
        Z = Y * (X @ (C * np.linalg.multi_dot([np.eye(2), *now, np.eye(2)])))
        G = -C * X.T @ (Y * np.array([[slope(loss, z) for z in row] for row in Z]))
        velocity = sum(k * c * s ** (k - 1) for k, c in enumerate(layer) if k)
        np.testing.assert_allclose(velocity, -TAU * before.T @ G @ after.T, atol=1e-12)


def test_the_unit_of_time_is_that_of_the_last_step_or_of_the_speed(loss):
    weights = [0.25 * W for W in layers_of(2)]
    march = tail_march.TailMarch(problem_of(loss), weights, C)
    for length, tau in ((0.3, 0.25), (0.8, 1.0), (3.0, 4.0)):
        march.length = length
        assert march._series()[0] == tau
    march.length = 0.0
    tau, series = march._series()
    speed = math.sqrt(sum(np.sum(layer[1] ** 2) for layer in series)) / tau
    size = math.sqrt(sum(np.sum(W**2) for W in weights))
    assert tau == 2.0 ** round(math.log2(size / speed)) and len(series[0]) == 21


def tried(monkeypatch, march, series, passes=99):
    """The steps, in units of τ, that the march tries with this path."""
    lengths = []

    def attempt(tau, s, series):
        lengths.append(s)
        return "step" if len(lengths) > passes else None

    monkeypatch.setattr(march, "_series", lambda: (TAU, series), raising=False)
    monkeypatch.setattr(march, "_try", attempt, raising=False)
    return march.advance(), lengths


@pytest.mark.parametrize("unit", [0.1, 1.0, 5.0])
def test_the_length_of_a_step_is_that_of_the_last_terms(loss, monkeypatch, unit):
    weights = [unit * W for W in layers_of(2)]
    march, rng = tail_march.TailMarch(problem_of(loss), weights, C), np.random.default_rng(0)
    series = [np.zeros((21, *W.shape)) for W in weights]
    for layer in series:
        layer[19:] = unit * rng.standard_normal(layer[19:].shape)
    sizes = [math.sqrt(sum(np.sum(layer[k] ** 2) for layer in series)) for k in (19, 20)]
    size = math.sqrt(sum(np.sum(W**2) for W in weights))
    first = (1e-16 * size) ** (1 / 20) / max(sizes[0] ** (1 / 19), sizes[1] ** (1 / 20))
    found, lengths = tried(monkeypatch, march, series)
    assert found is None and march.trouble == "no radius was confirmed, however short the step"
    # Each length is rounded down to 20 binary digits, so that times stay exact.
    assert lengths == [pytest.approx(first * 0.7**k, rel=1e-4) for k in range(30)]
    march.trouble = "a reason"
    assert tried(monkeypatch, march, series)[0] is None and march.trouble == "a reason"
    found, lengths = tried(monkeypatch, march, series, passes=2)
    assert found == "step" and len(lengths) == 3
    # Only one of the two last orders is there.
    for k, other in ((19, 20), (20, 19)):
        alone = [layer.copy() for layer in series]
        for layer in alone:
            layer[k] = 0.0
        first = (1e-16 * size) ** (1 / 20) / sizes[other - 19] ** (1 / other)
        assert tried(monkeypatch, march, alone)[1][0] == pytest.approx(first, rel=1e-4)


def test_without_terms_or_weights_a_step_is_the_unit_of_time(loss, monkeypatch):
    march = tail_march.TailMarch(problem_of(loss), layers_of(2), C)
    zero = [np.zeros((21, *W.shape)) for W in march.weights]
    assert tried(monkeypatch, march, zero)[1][0] == 1.0
    march.weights = [0 * W for W in march.weights]
    assert tried(monkeypatch, march, [layer + 1.0 for layer in zero])[1][0] == 1.0
    for layer in (0, 1):
        broken = [c.copy() for c in zero]
        broken[layer][3, 0, 0] = math.inf
        found, lengths = tried(monkeypatch, march, broken)
        assert found is None and lengths == [] and march.trouble == "the derivatives of the flow are past float64"


def test_a_tube_must_hold_what_it_was_computed_for(loss, monkeypatch):
    """A radius that would fit but for the rounding of the end needs a wider tube, twice what was found."""
    march = tail_march.TailMarch(problem_of(loss), layers_of(2), C, radius=1e-3)
    series = tail_march.taylor(march.problem, march.weights, C, TAU, ORDER)
    path = tail_march._Path(march.problem, series, C, TAU, S)
    rounded = np.linalg.norm(rounding_of_value(path.lengths, S)) * up
    added, jump = (1e-3 + path.defect() * S) * up, path.end()[1]
    first = 4 * (added + rounded)
    after = first - 0.5 * rounded
    exponent = math.log((after / up - jump) / (added * up * up))
    asked = []

    def norm(self, reach):
        asked.append(reach)
        return exponent / (TAU * up)

    monkeypatch.setattr(tail_march._Path, "exponent", norm)
    step = march._try(TAU, S, series)
    assert asked == [near(first), near(2 * (after + rounded))] and step is not None
    # A tube that always asks for a hundred times itself is given up.
    march = tail_march.TailMarch(march.problem, layers_of(2), C, radius=1e-3)
    monkeypatch.setattr(
        tail_march._Path, "exponent", lambda self, reach: asked.append(reach) or math.log(100 * reach / added) / TAU
    )
    asked.clear()
    assert march._try(TAU, S, series) is None and len(asked) == 8 and "curvature of the loss" in march.trouble


def test_operations_behind_a_product_of_stacks():
    assert smooth.sides([np.zeros((9, 2, 3)), np.zeros((9, 3, 5))]) == 2 + 3 + 3 + 5 + 2


def test_what_a_product_moves_is_raised_by_the_rounding_of_the_difference(monkeypatch):
    """`Π(x + ρ) − Πx (1 − 1e-12)` at ρ = 0."""
    monkeypatch.setattr(smooth, "UP", 1.0)
    asked = []
    tube = object.__new__(smooth.ProductTube)
    tube.start = tube.layers = [2.0, 3.0]
    tube.c, tube.depth, tube.state = 0.5, 2, None

    class Problem:
        def around(self, state, moved):
            asked.append(moved)
            return 1.0, 1.0

    tube.problem = Problem()
    tube.sizes(0.0)
    assert asked == [pytest.approx(3e-12, rel=1e-3, abs=0)]  # the last digits of 1 − 1e-12


def test_the_widest_piece_counts(loss):
    found = []
    for knots in ([0.0, 0.25, 1.0], [0.0, 0.75, 1.5]):
        path = path_of(loss, 3)[0]
        path.knots = np.array(knots) * path.s
        found.append(path.bends)
    assert found[0] == found[1] and found[0][0, 1][0] > 0


def test_the_dominance_of_a_convex_loss_is_twice_its_least_curvature(coarse):
    assert ConvexGradient.dominance(SimpleNamespace(least=0.25), 3.0) == near(0.5 * (1 - 4 * u))
