"""Movement, floor, path and steps of ReLU networks with a coarse ε, formula by formula: docs/relu.md, section 9.

Both sides do the same operations on the same numbers, which agree to 1e-11; ε is 2⁻²⁰ in the module that is tested.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from linflow.relu import floor as floor_module
from linflow.relu import movement as movement_module
from linflow.relu import network as network_module
from linflow.relu import path as path_module
from linflow.relu import problem as problem_module
from linflow.relu import steps as steps_module
from linflow.relu.floor import Floor
from linflow.relu.movement import Mover
from linflow.relu.path import Path, march
from linflow.relu.problem import greatest_ceiling, norm_ceiling
from linflow.relu.shadows import Shadows
from linflow.relu.steps import Descent, Steps
from tests.reference import relu as reference
from tests.relu.starts import drawn, started

E = 2.0**-20


def near(x, rel=1e-11):
    return pytest.approx(x, rel=rel, abs=0)


def same(found, literal, rel=1e-11):
    np.testing.assert_allclose(found, literal, rtol=rel, atol=0)


KINDS = [
    {"s": 0.2, "paired": False},
    {"s": 0.0, "N": 6, "d": 3, "h": 20, "paired": False},
    {"s": 0.3, "N": 5, "d": 7, "m": 2, "size": 0.3, "paired": False},
]


@pytest.fixture(params=KINDS, ids=str)
def start(request):
    found = started(*drawn(21, **request.param))
    assert found.cosine_error > 0  # with the fine ε
    return found


# --- the start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [{"N": 5, "d": 4}, {"N": 4, "d": 6}, {"N": 4, "d": 4}, {"N": 3, "d": 9, "size": 0.2}]
)
def test_sizes_of_the_start_with_their_allowances(kind, monkeypatch):
    monkeypatch.setattr(network_module, "EPS", E)
    monkeypatch.setattr(problem_module, "EPS", E)
    start = started(*drawn(29, h=8, s=0.2, m=2, paired=False, **kind))
    (N, d), h = start.X.shape, 8
    lengths, error = np.linalg.norm(start.X, axis=1), (4 * d + 32) * E
    cosines = (start.X @ start.X.T) / np.outer(lengths, lengths)
    ceiling = np.minimum(np.abs(cosines) + error, 1) * np.outer(lengths, lengths)
    same(start.kernel_ceiling, ceiling * (1 + (d + 16) * E))
    square = np.linalg.norm(start.X, 2) ** 2 * (1 + 32 * N * E) + error * np.sum(lengths**2)
    assert start.input_norm == near(math.sqrt(square * (1 + 16 * E)))
    total = np.linalg.norm(start.U, axis=0) * (1 + (d + 8) * E)
    off = 0.0 if d <= N else 16 * d * N * E
    projected = np.linalg.norm(np.linalg.pinv(start.X) @ start.X @ start.U, axis=0) * (1 + (d + 8) * E) + off * total
    sizes, found = start.row_space_sizes
    assert found == off
    same(sizes, total if d <= N else np.minimum(total, projected))
    assert start.least_square == near(lengths.min() ** 2)
    net, Y = start.net, np.abs(start.problem.Y)
    off = (d + h + 16) * E * ((np.abs(start.problem.X) @ np.abs(net.U)) @ np.abs(net.V)) + E * Y
    assert start.problem.residual_error(net) == near(np.linalg.norm(off))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_ceilings_of_eigenvalues_and_norms(shape, monkeypatch):
    monkeypatch.setattr(problem_module, "EPS", E)
    A = np.random.default_rng(3).random(shape)
    few, many = min(shape), max(shape)
    assert float(greatest_ceiling(A @ A.T)) == near(np.linalg.norm(A, 2) ** 2 * (1 + 32 * shape[0] * E))
    literal = np.linalg.norm(A, 2) ** 2 * (1 + 32 * few * E) * (1 + (many + 8) * E)
    assert norm_ceiling(A) == near(math.sqrt(literal))


def test_the_units_of_a_start_are_powers_of_two():
    """`2^(p−1) ≤ max|X| < 2^p`, and so for the larger layer; H is `4^(p + a)` times larger, the loss `4^(p + 2a)`."""
    X, Y = np.array([[0.0, 3.0], [-5.0, 1.0]]), np.array([[-6.0, 1.0], [2.0, 0.0]])
    larger, smaller = np.array([[0.1, -0.3], [0.0, 0.2]]), np.array([[0.01, 0.0], [0.0, 0.02]])
    for U, V, a in ((larger, smaller, -1), (smaller, larger, -1), (larger / 4, smaller, -3)):
        start = problem_module.Start.of(problem_module.Regression(X, Y), network_module.Network(U, V), 0.125)
        assert (start.input_power, start.weight_power, start.rate_power) == (3, a, 2 * (3 + a))
        for found, given, power in ((start.X, X, 3), (start.U, U, a), (start.V, V, a), (start.Y, Y, 3 + 2 * a)):
            np.testing.assert_array_equal(found, np.ldexp(given, -power))
        assert start.radius == math.ldexp(0.125, -a)
    empty = problem_module.Start.of(
        problem_module.Regression(0 * X, Y), network_module.Network(0 * larger, 0 * larger)
    )
    assert (empty.input_power, empty.weight_power) == (0, 0)


def test_the_loss_of_a_regression_and_what_its_rounding_is(monkeypatch):
    monkeypatch.setattr(problem_module, "EPS", E)
    found = problem_module.Regression(np.array([[2.0]]), np.array([[3.0, -4.0]]))
    Z = np.array([[1.0, 2.0]])
    assert found.value(Z) == near(0.5 * (2**2 + 6**2)) and found.gradient(Z).tolist() == [[-2.0, 6.0]]
    assert (found.scale(1.0), found.scale(30.0)) == (25.0, 30.0) and found.minimum == 0.0
    net = network_module.Network([[1.0]], [[0.5, 0.25]])
    error = float(np.linalg.norm(net.output_error(found.X) + E * np.array([[3.0, 4.0]])))
    assert found.residual_error(net) == near(error) and found.rounding(net) == near(0.5 * error**2)


@pytest.mark.parametrize("kind", [{"N": 5, "d": 4}, {"N": 3, "d": 9}])
def test_weights_in_a_ball_with_their_allowances(kind, monkeypatch):
    """What a radius r adds: `r‖x_i‖` to each z, r to each size, and `r (‖Φ‖ + r‖X‖ …)` to the residual."""
    tiny, radius = 1e-3, 0.01
    assert (problem_module.TINY, problem_module.LARGEST) == (1e-290, 1e140)
    for module in (network_module, problem_module):
        monkeypatch.setattr(module, "EPS", E)
    monkeypatch.setattr(problem_module, "TINY", tiny)
    start = replace(started(*drawn(30, h=8, s=0.2, m=2, paired=False, **kind)), radius=radius)
    (N, d), h, m = start.X.shape, 8, 2
    lengths, V = np.linalg.norm(start.X, axis=1), np.abs(start.V)
    off = (d + 8) * E * (np.abs(start.X) @ np.abs(start.U)) + tiny
    off = off + radius * (1 + (d + 8) * E) * lengths[:, None]
    same(start.z_error, off)
    features = np.where(start.z > 0, start.z, 0.2 * start.z)
    each = (h + 16) * E * (np.abs(features) @ V) + off @ V + E * np.abs(start.Y) + tiny
    moved = radius * (np.linalg.norm(features) + np.linalg.norm(off))
    exact = np.linalg.norm(features @ start.V - start.Y) + np.linalg.norm(each) + moved
    assert start.residual == near(exact * (1 + (N * m + d) * E))
    v, f = start.sizes
    same(v, np.linalg.norm(start.V, axis=1) * (1 + (m + 8) * E) + radius)
    same(f, np.linalg.norm(np.abs(features) + off, axis=0) * (1 + (N + 8) * E))
    total = np.linalg.norm(start.U, axis=0) * (1 + (d + 8) * E) + radius
    projected = np.linalg.norm(np.linalg.pinv(start.X) @ start.X @ start.U, axis=0) * (1 + (d + 8) * E)
    same(
        start.row_space_sizes[0], total if d <= N else np.minimum(total, projected + 16 * d * N * E * total + radius)
    )


def test_which_starts_float64_cannot_hold(monkeypatch):
    """Rates and losses up to 2^±900, and targets whose norm is below `LARGEST` at most."""
    X, Y, net = drawn(31)

    def refused(p, a, y=1.0):
        inputs, weights = np.ldexp(X, p), (np.ldexp(net.U, a), np.ldexp(net.V, a))
        return started(inputs, np.ldexp(y * Y, p + 2 * a), network_module.Network(*weights))

    one = refused(0, 0)
    P, A = -one.input_power, -one.weight_power  # with these both powers are 0
    for p, a, fits in (
        (450, 0, True), (451, 0, False), (-450, 0, True), (-451, 0, False),
        (0, 225, True), (0, 226, False), (0, -225, True), (0, -226, False),
        (900, -450, True), (902, -451, False), (-900, 450, True), (-902, 451, False),
        (450, -450, True), (451, -451, False), (-450, 450, True), (-451, 451, False),
    ):  # fmt: skip
        start = refused(P + p, A + a)
        assert (start.rate_power, 2 * start.input_power + 4 * start.weight_power) == (2 * (p + a), 2 * p + 4 * a)
        assert start.unfit == "" if fits else "past float64" in start.unfit, (p, a)
    largest = np.abs(one.Y).max() * math.sqrt(one.Y.size)
    monkeypatch.setattr(problem_module, "LARGEST", largest * (1 + 1e-12))
    assert refused(0, 0).unfit == "" and refused(0, 0, -1.0).unfit == ""
    monkeypatch.setattr(problem_module, "LARGEST", largest)
    assert "rescale" in refused(0, 0).unfit and "rescale" in refused(0, 0, -1.0).unfit


def test_zeros_among_the_numbers_of_a_start_are_no_reason_to_refuse_it():
    X, Y, net = drawn(31, N=3)
    X[0, 1], X[1] = 0.0, -np.abs(X[1])
    U, V = -np.abs(net.U), -np.abs(net.V)
    U[0, 0] = V[0, 0] = 0.0
    for weights in ((U, V), (0 * U, V), (U, 0 * V)):
        assert started(-np.abs(X), Y, network_module.Network(*weights)).unfit == ""
    for other in (started(0 * X, Y, net), started(X, Y, network_module.Network(0 * net.U, 0 * net.V))):
        assert "nothing moves" in other.unfit
    X[2] = 0.0
    assert "row 3 of X is 0" in started(X, Y, net).unfit


# --- movement ------------------------------------------------------------------------------------------------------


def grown(v, f, kappa, path):
    x = math.sqrt(kappa) * path
    up = 1 + (64 + 16 * x) * E
    first, rest = (
        (path, path**2 / 2) if x == 0 else (math.sinh(x) / math.sqrt(kappa), 2 * math.sinh(x / 2) ** 2 / kappa)
    )
    return (v * first + f * rest) * up, (f * first + v * kappa * rest) * up


@pytest.mark.parametrize("tau", [0.02, 0.3, 1.5])
def test_the_movement_with_its_allowances(start, tau, monkeypatch):
    monkeypatch.setattr(movement_module, "EPS", E)
    vars(start)["z_error"] = np.random.default_rng(2).uniform(0.05, 0.15, start.z.shape)
    found = Mover(start).at(tau)
    assert (np.abs(start.z) < start.z_error).any()
    s, (sizes, features), N = start.slope, start.sizes, len(start.X)
    t = np.where(found.active, 1.0, s)
    z, error = start.z.T, start.z_error.T
    for j in range(start.net.width):
        scaled = t[j] * start.lengths
        trace, off = float(scaled @ scaled), start.cosine_error + 8 * E
        kappa = min(
            float(greatest_ceiling(np.outer(scaled, scaled) * start.cosines)) + off * trace, trace * (1 + off)
        )
        assert found.kappa[j] == near(kappa)
        V, eps = grown(sizes[j], features[j], kappa, tau)
        assert found.growth[j] == near(V) and found.second[j] == near(eps)
        assert found.second_size[j] == near((sizes[j] + eps) * (1 + 4 * E))
        for i in range(N):
            row = math.sqrt(sum((t[j, k] * start.kernel_ceiling[k, i]) ** 2 for k in range(N)))
            assert found.moved[j, i] == near(row * (1 + (N + 8) * E) * V * (1 + 4 * E))
            assert found.active[j, i] == (z[j, i] >= -error[j, i] or abs(z[j, i]) - error[j, i] <= found.moved[j, i])
            assert found.frozen[j, i] == (abs(z[j, i]) - error[j, i] > found.moved[j, i])
    bound = np.zeros_like(z)
    for j, i in np.ndindex(*z.shape):
        M, size = found.moved[j, i] + error[j, i], abs(z[j, i])
        if z[j, i] > 0:
            bound[j, i] = M
        else:
            bound[j, i] = s * M if size >= M else max(s * M, s * size + M - size)
    bound += error
    joint = np.linalg.norm(found.kappa * found.growth) * (1 + (len(z) + 8) * E) + np.linalg.norm(error)
    assert found.features_moved == near(min(norm_ceiling(bound), joint) * (1 + 8 * E))
    alone = replace(found, kappa=1e6 * found.kappa)  # the other bound is of no use
    assert alone.features_moved == near(norm_ceiling(bound) * (1 + 8 * E))


TWINS = [{"s": 0.2}, {"N": 6, "d": 3, "h": 20, "m": 2}, {"s": 0.3, "N": 5, "d": 7, "size": 0.3}, {"size": 0.0}]


@pytest.mark.parametrize("kind", TWINS)
@pytest.mark.parametrize("tau", [0.02, 0.3, 1.5])
def test_means_of_twins_with_their_allowances(kind, tau, monkeypatch):
    """Lemma T, entry by entry: `α_j`, the mean of the features where the pair is frozen and where it is free."""
    monkeypatch.setattr(movement_module, "EPS", E)
    start = started(*drawn(27, **kind))
    found, s = Mover(start).at(tau), start.slope
    (sizes, features), z, error, N = start.sizes, start.z.T, start.z_error.T, len(start.X)
    assert start.twins.all() and (tau < 0.1 or not found.frozen.all())
    for j in range(start.net.width):
        eps = found.second[j]
        assert found.mean_second[j] == near(min(eps, max(0.0, eps * (1 + 8 * E) - features[j] * tau)), 1e-9)
        late = (found.growth[j] * (1 + 8 * E) - sizes[j] * tau) / found.growth[j]
        free = np.flatnonzero(~found.frozen[j])
        for i in range(N):
            across = math.sqrt(sum(start.kernel_ceiling[l, i] ** 2 for l in free)) * (1 + (N + 8) * E)
            B = (found.moved[j, i] * min(late, 1.0) + (1 - s) / 2 * across * found.growth[j]) * (1 + 16 * E)
            M = found.moved[j, i] + error[j, i]
            if found.frozen[j, i]:
                literal = B if z[j, i] > 0 else s * B
            else:
                literal = (B + (1 - s) / 2 * max(M - abs(z[j, i]) + B, 0.0)) * (1 + 4 * E)
            assert found._means_moved(found.moved + error)[j, i] == near(literal, 1e-9)
    M = found.moved + error
    own = np.where(z > 0, M, np.maximum(s * M, s * np.abs(z) + M - np.abs(z)))
    bound = np.minimum(own, found._means_moved(M))
    rows = np.minimum(found.kappa * found.growth, np.linalg.norm(bound, axis=1) * (1 + (N + 8) * E))
    joint = np.linalg.norm(rows) * (1 + (len(z) + 8) * E) + np.linalg.norm(error)
    assert found.features_moved == near(min(norm_ceiling(bound + error), joint) * (1 + 8 * E), 1e-9)
    monkeypatch.setattr(movement_module, "norm_ceiling", lambda _: np.inf)
    fresh = Mover(start).at(tau)
    assert fresh.features_moved == near(joint * (1 + 8 * E), 1e-9)


def test_a_ball_of_weights_is_added_to_how_far_they_move():
    X, Y, net = drawn(26, h=6)
    problem = problem_module.Regression(X, Y)
    exact, ball = (Mover(problem_module.Start.of(problem, net, r)).at(0.0) for r in (0.0, 0.25))
    a = 2.0**exact.start.weight_power
    assert not exact.second.any() and (ball.second == 0.25 / a).all()


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("multiplier", [1e-9, 0.2])
def test_what_twins_pay_for_their_means(m, multiplier, monkeypatch):
    """`((1 − s)/2)² δ‖x_i‖²` on the free samples, times v̄² less the weight for one output, else times v̄²."""
    monkeypatch.setattr(floor_module, "EPS", E)
    X, Y, net = drawn(26, N=6, d=3, h=20, s=0.1, m=m)
    more = net.with_layers(np.hstack([net.U, net.U[:, :6:2] + 0.1]), np.vstack([net.V, net.V[:6:2]]))
    start = started(X, Y, more)
    found, movement = Floor(start), Mover(start).at(0.3)
    assert start.twins.tolist() == [True] * 20 + [False] * 3
    weights, literal = movement.mean_squares_floor(0.01) if m == 1 else np.zeros(23), np.zeros(6)
    for j, i in np.argwhere(~movement.frozen):
        if j < 20:
            price = 0.45**2 * multiplier * start.lengths[i] ** 2
            literal[i] += (movement.second_size[j] ** 2 - weights[j]) * price
    assert (literal > 0).any()
    same(found._paid_by_twins(movement, multiplier, 0.01), literal * (1 + (23 + 32) * E))


def test_the_mean_of_squares_of_twins(monkeypatch):
    """The larger of the floor of each alone and `[|v| − α]₊²`."""
    monkeypatch.setattr(movement_module, "EPS", E)
    start = started(*drawn(26, h=20, size=3.0))
    movement = Mover(start).at(0.02)
    rest = np.maximum(np.abs(start.V[:, 0]) * (1 - 4 * E) - movement.mean_second, 0.0) ** 2 * (1 - 8 * E)
    alone = movement.squares_floor(0.01)
    assert (rest > alone).any()
    same(movement.mean_squares_floor(0.01), np.maximum(alone, rest))


def test_which_neurons_are_twins():
    """Equal u with the bias, opposite v, to the last bit; each neuron belongs to one pair only; −0 is 0."""
    U = np.array([[1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 0.0, -0.0]])
    V = np.array([[1.0], [-1.0], [-1.0], [1.0 + 2e-16], [0.0], [-0.0], [3.0], [-3.0]])
    X, Y = np.array([[1.0], [2.0]]), np.ones((2, 1))
    net = network_module.Network(U, V)
    assert started(X, Y, net).twins.tolist() == [True, True, False, False, True, True, True, True]
    tilted = network_module.Network(U, V, bias=[0.0, 1e-300, 0.0, 0, 0, 0, 1, 1])
    assert started(X, Y, tilted).twins.tolist() == [True, False, True, False, True, True, True, True]
    ball = problem_module.Start.of(problem_module.Regression(X, Y), net, 1e-12)
    assert not ball.twins.any()


def test_a_neuron_that_no_sample_moves_grows_with_the_path(monkeypatch):
    monkeypatch.setattr(movement_module, "EPS", E)
    cases = (2.0, 0.0), (2.0, 4.0)
    V, eps = movement_module.grown(np.full(2, 3.0), *np.array(cases).T, 0.5)
    for j, (f, kappa) in enumerate(cases):
        assert (V[j], eps[j]) == tuple(map(near, grown(3.0, f, kappa, 0.5)))


def test_an_eigenvalue_is_at_most_the_trace(monkeypatch):
    """One active sample: the ceiling of the eigenvalue is above it, and the trace is the better bound."""
    monkeypatch.setattr(movement_module, "EPS", E)
    start = started(*drawn(21, **KINDS[1]))
    monkeypatch.setattr(movement_module, "greatest_ceiling", lambda S: 1.5 * np.linalg.eigvalsh(S)[..., -1])
    masks = np.array([np.arange(6) == 2, np.arange(6) < 6])
    one, off = start.lengths[2] ** 2, start.cosine_error + 8 * E
    whole = 1.5 * np.linalg.eigvalsh(start.X @ start.X.T)[-1]
    found, trace = Mover(start)._ceilings(masks), np.sum(start.lengths**2)
    assert found[0] == near(one * (1 + off)) and found[1] == near(min(whole + off * trace, trace * (1 + off)), 1e-9)


def test_ceilings_of_many_patterns_and_a_radius():
    """More patterns than are computed at once; the weights of the second layer are off by the radius, too."""
    start = replace(started(*drawn(21, **KINDS[1])), radius=0.01)
    masks = np.random.default_rng(5).random((1030, 6)) < 0.5
    found = Mover(start)._ceilings(masks)
    for j in (0, 511, 512, 513, 1023, 1024, 1029):
        assert found[j] == near(Mover(start)._ceilings(masks[j : j + 1])[0])
    moved = Mover(start).at(0.3)
    same(moved.second, movement_module.grown(*start.sizes, moved.kappa, 0.3)[1] + 0.01)


def test_some_twins_among_other_neurons_are_seen():
    X, Y, net = drawn(21, N=5, h=20, size=2.0)
    alone = np.random.default_rng(2).standard_normal((6, 1))
    mixed = network_module.Network(np.hstack([net.U, alone]), np.vstack([net.V, [[0.5]]]))
    start, plain = started(X, Y, mixed), started(X, Y, mixed)
    assert start.twins.any() and not start.twins.all()
    vars(plain)["twins"] = np.zeros(21, bool)
    assert Mover(start).at(0.02).features_moved < 0.99 * Mover(plain).at(0.02).features_moved


def test_both_bounds_on_the_change_of_the_features_are_used():
    less = set()
    for tau in (0.02, 1.5):
        for kind in KINDS:
            start = started(*drawn(21, **kind))
            found = Mover(start).at(tau)
            less.add(found.features_moved < 0.99 * np.linalg.norm(found.kappa * found.growth))
    assert less == {True, False}


@pytest.mark.parametrize(("drift", "radius"), [(0.0, 0.0), (0.05, 0.0), (0.0, 0.01)])
def test_the_floor_of_the_second_layer_with_its_allowances(drift, radius, monkeypatch):
    """Both entries of φ: wide data, where Q is not the identity, and tall data; weights known up to a radius."""
    monkeypatch.setattr(movement_module, "EPS", E)
    won = []
    for kind, tau in (
        ({"N": 5}, 0.05),
        ({"N": 6, "d": 3}, 0.05),
        ({"N": 5, "size": 4.0, "paired": False}, 0.2),
        ({"N": 5, "size": 4.0}, 2.0),
    ):
        start = replace(started(*drawn(22, **kind)), radius=radius)
        p, off = start.row_space_sizes
        off *= 1e10  # as if the rows of X left the range of Q
        vars(start)["row_space_sizes"] = p, off
        found = Mover(start).at(tau)
        for j in range(start.net.width):
            v, w = abs(start.V[j, 0]), math.sqrt(found.kappa[j]) * found.growth[j] * (1 + 8 * E)
            total = np.linalg.norm(start.U[:, j]) + radius + w
            leak = 2 * off * max(start.lengths) * math.sqrt(len(start.X)) * found.growth[j] * total
            law = (
                v**2 - p[j] ** 2 + max(p[j] - w, 0) ** 2 - leak - drift - 2 * radius * v - 16 * E * (v**2 + p[j] ** 2)
            )
            alone = max(v * (1 - 4 * E) - found.second[j], 0) ** 2
            # differences of squares
            assert found.squares_floor(drift)[j] == near(max(alone, law) * (1 - 8 * E), rel=1e-9)
            won.append((law > alone and off > 0, law > alone and p[j] > w, law > alone and p[j] < w, alone > law))
    assert np.all(np.any(won, axis=0)) or drift or radius


def test_nothing_is_computed_past_the_farthest_path(monkeypatch):
    start = started(*drawn(21, **KINDS[0]))
    assert movement_module.FARTHEST == 300.0
    mover = Mover(start)
    x = float(np.sqrt(mover.at(0.3).kappa.max())) * 0.3
    monkeypatch.setattr(movement_module, "FARTHEST", x * (1 + 1e-9))
    assert Mover(start).at(0.3) is not None
    monkeypatch.setattr(movement_module, "FARTHEST", x)
    assert Mover(start).at(0.3) is None


# --- shadows -------------------------------------------------------------------------------------------------------


def shadows_of(N, d, s):
    found = started(*drawn(28, N=N, d=d, h=16, s=s, paired=False))
    return found, Shadows(found)


def test_middles_of_more_sets_than_are_computed_at_once():
    _, shadows = shadows_of(9, 4, 0.0)
    masks = (np.arange(1, 301)[:, None] >> np.arange(9)) % 2 == 1
    used = np.full(300, 0.1)
    found = shadows._middles(np.packbits(masks, axis=1), masks, used)
    for j in (0, 255, 256, 257, 299):
        same(found[j], shadows._schur(masks[j : j + 1], used[j : j + 1])[0])


def moved(frozen):
    return SimpleNamespace(frozen=np.array(frozen))


def test_which_multipliers_are_tried():
    """One where nothing is free, or for a ReLU with N ≤ d; for a leaky one the best of orthogonal inputs, too."""
    mixed = np.arange(16 * 5).reshape(16, 5) % 3 > 0
    for N, d, s, tried in (
        (5, 6, 0.0, (1e-9,)),
        (5, 5, 0.0, (1e-9,)),
        (5, 4, 0.0, (1e-9, 0.03, 0.2)),
        (5, 6, 0.2, (1e-9, 0.03, 0.2, 2 * 0.2 / 0.8)),
    ):
        _, shadows = shadows_of(N, d, s)
        assert shadows.choices(moved(mixed)) == tried
        assert shadows.choices(moved(np.ones((16, 5), bool))) == (1e-9,)


@pytest.mark.parametrize("s", [0.0, 0.3])
def test_the_part_of_every_neuron(s):
    """All sixteen sets of free samples of four; with s = 0, more than half of them take the smallest multiplier."""
    start, shadows = shadows_of(4, 7, s)
    free = np.array([[bool(j >> i & 1) for i in range(4)] for j in range(16)])
    K, unit = start.X @ start.X.T, np.outer(start.lengths, start.lengths)
    for multiplier in (0.25, 0.03, 0.25):  # what is kept of one is not taken for the other
        found = shadows.parts(moved(~free), multiplier)
        for j in range(16):
            used = 1e-9 if s == 0 and free[j].sum() > 2 else multiplier
            known = np.where(start.z[:, j] > 0, 1.0, s)
            literal = reference.shadow(K, known, free[j], used, s) / unit
            # with 1e-9 the inverse loses as many digits
            np.testing.assert_allclose(found[j], literal, rtol=0, atol=1e-6 if used == 1e-9 else 1e-12)


# --- the floor -----------------------------------------------------------------------------------------------------


def test_the_form_of_one_output_with_its_allowances(start, monkeypatch):
    monkeypatch.setattr(floor_module, "EPS", E)
    rng = np.random.default_rng(0)
    found, N = Floor(start), len(start.X)
    h, m = start.V.shape
    assert found._gram_error == near((h + 16) * E * np.sum(start.features**2))
    same(found._gram, np.kron(start.features @ start.features.T, np.eye(m)))
    parts, weights = rng.standard_normal((h, N, N)), rng.random(h)
    monkeypatch.setattr(found.shadows, "error", 0.01)
    literal = sum(w * S for w, S in zip(weights, parts, strict=True)) - 0.01 * weights.sum() * np.eye(N)
    same(found._single(parts, weights), literal * np.outer(start.lengths, start.lengths), 1e-9)


@pytest.mark.parametrize(("ratio", "tau"), [(0.25, 0.02), (2.0, 0.02), (0.25, 1.5)])
def test_the_form_of_several_outputs_with_its_allowances(ratio, tau, monkeypatch):
    monkeypatch.setattr(floor_module, "EPS", E)
    start = started(*drawn(23, N=3, h=12, m=2, size=3.0, s=0.1))
    movement, found, rng = Mover(start).at(tau), Floor(start), np.random.default_rng(0)
    assert np.any(ratio * start.sizes[0] < movement.second) == (tau > 1)
    parts = rng.standard_normal((12, 3, 3))
    monkeypatch.setattr(found.shadows, "error", 0.01)
    A, losses, unit = np.zeros((6, 6)), [], 0.0
    scale = np.outer(np.repeat(start.lengths, 2), np.repeat(start.lengths, 2))
    for j in range(12):
        c = min(max(1.0, ratio * start.sizes[0][j] / movement.second[j]), 1e8)
        w = (1 - 1 / c) * (1 - 4 * E)
        A += w * np.kron(parts[j], np.outer(start.V[j], start.V[j]))
        unit += w * start.sizes[0][j] ** 2
        losses.append((c - 1) * movement.second[j] ** 2)
    literal = (A - 0.01 * unit * np.eye(6)) * scale - found._price(movement, np.array(losses)) * np.eye(6)
    same(found._several(parts, movement, movement.second, ratio), literal, 1e-9)


def test_the_price_of_a_second_layer_that_moves(monkeypatch):
    monkeypatch.setattr(floor_module, "EPS", E)
    less = set()
    for s, N, size in ((0.0, 3, 3.0), (0.2, 6, 0.5)):
        start = started(*drawn(24, N=N, h=12, m=2, size=size, s=s, paired=False))
        movement = Mover(start).at(0.02)
        for losses in (np.random.default_rng(0).random(12), *np.eye(12)):
            t = np.where(movement.active, 1.0, s)
            together = start.kernel_ceiling * sum(x * np.outer(a, a) for x, a in zip(losses, t, strict=True))
            apart = max(sum(losses[j] * movement.kappa[j] for j in range(12) if t[j, i] > 0) for i in range(N))
            literal = min(float(greatest_ceiling(together)), apart)
            assert Floor(start)._price(movement, losses) == near(literal * (1 + (12 + 16) * E))
            less.add(apart < 0.99 * float(greatest_ceiling(together)))
            monkeypatch.setattr(floor_module, "greatest_ceiling", lambda S: np.float64(np.inf))
            assert Floor(start)._price(movement, losses) == near(apart * (1 + (12 + 16) * E))
            monkeypatch.setattr(floor_module, "greatest_ceiling", greatest_ceiling)
    assert less == {True, False}


def test_the_part_of_the_second_layer_with_its_allowances(monkeypatch):
    """The value at c, for the first two c that are tried: 1, and where the slope says."""
    monkeypatch.setattr(floor_module, "EPS", E)
    start = started(*drawn(25, N=3, h=30, size=2.0))
    found, gram, rng = Floor(start), start.features @ start.features.T, np.random.default_rng(1)
    rises = 0
    assert floor_module.LARGEST_C == 1e8
    for trial in range(12):
        B = rng.standard_normal((3, 3))
        A = (B + B.T) * 10.0 ** rng.uniform(-2, 1)
        spread = 10.0 ** rng.uniform(-2, 0.5)

        def value(c, A=A, spread=spread):
            values = np.linalg.eigvalsh(A + (1 - 1 / c) * gram)
            off = 32 * 3 * E * max(abs(values[0]), abs(values[-1])) + found._gram_error
            return values[0] - off - (c - 1) * spread**2 * (1 + 16 * E)

        assert found._with_second(A.copy(), None) == near(value(1.0))
        r = np.linalg.eigh(A)[1][:, 0]
        c = math.sqrt(r @ gram @ r) / spread
        for rounds in (1, 2):
            monkeypatch.setattr(floor_module, "ROUNDS", rounds)
            literal = max(value(1.0), value(c)) if rounds == 2 and c > 1 else value(1.0)
            assert found._with_second(A.copy(), spread) == near(literal, rel=1e-9)
        rises += c > 1 and value(c) > value(1.0)
        if trial == 0:  # features that do not move cost nothing: the largest c
            monkeypatch.setattr(floor_module, "ROUNDS", 2)
            top = np.linalg.eigvalsh(A + (1 - 1 / floor_module.LARGEST_C) * gram)
            off = 32 * 3 * E * max(abs(top[0]), abs(top[-1])) + found._gram_error
            assert found._with_second(A.copy(), 0.0) == near(max(value(1.0), top[0] - off))
    assert rises > 2


def test_what_is_subtracted_counts_for_each_sample(monkeypatch):
    for m in (1, 2):
        start = started(*drawn(26, N=3, h=40, m=m, size=4.0))
        found, movement, seen = Floor(start), Mover(start).at(0.005), []
        monkeypatch.setattr(
            found, "_with_second", lambda A, spread, seen=seen: seen.append((A.copy(), spread)) or 1.0
        )
        found.at(movement)
        count = len(seen)
        less = np.array([0.1, 0.2, 0.4])
        assert found.at(movement, less=less, second=False) == 1.0 and len(seen) == 2 * count
        for (A, spread), (B, none) in zip(seen[:count], seen[count:], strict=True):
            np.testing.assert_allclose(A - B, np.diag(np.repeat(less, m)), rtol=0, atol=1e-12)
            assert spread == movement.features_moved and none is None


@pytest.mark.parametrize("paired", [True, False, None])
def test_what_is_tried_for_a_floor(paired, monkeypatch):
    """Every multiplier; twins together, and where they pay more than nearly nothing each neuron alone, too.

    With None one neuron alone is beside the twins.
    """
    X, Y, net = drawn(32, N=6, d=3, h=10, paired=paired is not False)
    if paired is None:
        net = network_module.Network(np.hstack([net.U, net.U[:, :1] + 1]), np.vstack([net.V, [[0.5]]]))
    start = started(X, Y, net)
    found, movement, tried = Floor(start), Mover(start).at(0.3), []
    monkeypatch.setattr(found.shadows, "parts", lambda movement, multiplier: multiplier)
    values = iter(range(1, 100))

    def first(parts, movement, drift, *, together):
        tried.append((parts, together, drift))
        return [np.zeros((6, 6))]

    monkeypatch.setattr(found, "_first", first)
    monkeypatch.setattr(found, "_with_second", lambda A, spread: 0.1 * next(values))
    best = found.at(movement, 0.25)
    alone = [(x, False, 0.25) for x in (1e-9, 0.03, 0.2)]
    both = [(1e-9, True, 0.25), *((x, y, 0.25) for x in (0.03, 0.2) for y in (True, False))]
    assert tried == (alone if paired is False else both) and best == near(0.1 * len(tried))
    monkeypatch.setattr(found, "_with_second", lambda A, spread: -1.0)
    assert found.at(movement) == 0.0


@pytest.mark.parametrize("m", [1, 2])
def test_twins_pay_on_each_sample_what_others_do_not(m, monkeypatch):
    start = started(*drawn(32, N=6, d=3, h=10, m=m))
    found, movement, seen = Floor(start), Mover(start).at(0.3), []
    monkeypatch.setattr(found.shadows, "choices", lambda movement: (0.03,))
    monkeypatch.setattr(found, "_first", lambda *given, together: [np.eye(6 * m)])
    monkeypatch.setattr(found, "_with_second", lambda A, spread: seen.append(1 - A.diagonal()) or 1.0)
    less = np.arange(6) / 4
    found.at(movement, 0.01, less)
    paid = found._paid_by_twins(movement, 0.03, 0.01)
    assert (paid >= 0).all() and paid.max() > 1e-6
    # differences of numbers near 1: the twins together come first
    np.testing.assert_allclose(seen, [np.repeat(less + paid, m), np.repeat(less, m)], rtol=0, atol=1e-14)


def test_the_constants_that_are_tried_for_the_second_layer(monkeypatch):
    """From c = 1: where the slope at the last c says, if that is inside of what is left, else the middle in size."""
    start = started(*drawn(25, N=3, h=30, size=2.0))
    found, gram, rng = Floor(start), start.features @ start.features.T, np.random.default_rng(4)
    eigh, middles, Q = np.linalg.eigh, 0, np.linalg.eigh(gram)[1]
    for trial in range(12):
        B, spread, tried = rng.standard_normal((3, 3)), 10.0 ** rng.uniform(-2, 0.5), []
        A = (B + B.T) * 10.0 ** rng.uniform(-2, 1)
        if trial % 2:  # the least eigenvector turns from the greatest to the least of the gram matrix
            A, spread = (Q * [0.5, 3.0, 0.0]) @ Q.T, 0.1 + 0.05 * trial
        monkeypatch.setattr(np.linalg, "eigh", lambda S, A=A, tried=tried: tried.append(np.trace(S - A)) or eigh(S))
        found._with_second(A, spread)
        monkeypatch.setattr(np.linalg, "eigh", eigh)
        c, low, high, literal = 1.0, 1.0, 1e8, []
        for _ in range(6):
            literal.append((1 - 1 / c) * np.trace(gram))
            r = eigh(A + (1 - 1 / c) * gram)[1][:, 0]
            balanced = math.sqrt(r @ gram @ r) / spread
            low, high = (c, high) if balanced > c else (low, c)
            if low >= high:
                break
            middles += not low < balanced < high
            c = balanced if low < balanced < high else math.sqrt(low * high)
        np.testing.assert_allclose(tried, literal, rtol=1e-9, atol=1e-9)
    assert middles > 5


# --- the path ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("finer", "begin"), [(1, 0.0), (2, 0.5)])
def test_the_march_over_a_grid_of_paths(finer, begin, monkeypatch):
    """24 parts of the shortest path, then parts that grow by 1.05; every floor is lowered, every sum raised."""
    monkeypatch.setattr(path_module, "EPS", E)
    monkeypatch.setattr(path_module, "DOWN", 1 - 2.0**-10)
    asked = []

    def floor(tau):
        asked.append(tau)
        return 2.0 / (1 + tau) + (0.5 if len(asked) == 3 else 0.0)

    found = march(floor, 3.0, 1.5, finer, begin)
    paths, floors, left, part = [begin], [], [3.0], 1.5 / (24 * finer)
    while left[-1] > 0:
        part *= 1.05 ** (1 / finer) if paths[-1] - begin > 1.5 else 1.0
        paths.append(paths[-1] + part)
        value = 2.0 / (1 + paths[-1]) + (0.5 if len(paths) == 4 else 0.0)
        floors.append(min(value, *floors[-1:]) if floors else value)
        rest = left[-1] - floors[-1] * (paths[-1] - paths[-2]) * (1 - 2.0**-10)
        left.append(rest * (1 + 4 * E) if rest > 0 else rest)
    same(asked, paths[1:])
    same(found.paths, paths)
    same(found.floors, floors)
    np.testing.assert_allclose(found.left, left, rtol=1e-10, atol=1e-12)
    assert found.residual == 3.0 and found.closes and found.covered == 1.0 and len(paths) > 24 * finer + 3


def test_a_march_ends_where_no_floor_is_left():
    found = march(lambda tau: 1.0 - tau, 3.0, 1.5)
    lowered = 1 - 64 * 2.0**-52  # of a product of two numbers
    assert lowered == path_module.DOWN
    assert not found.closes and found.floors[-1] == 0.0 < found.floors[-2]
    assert found.covered == near(1 - found.left[-1] / 3.0) and 0 < found.covered < 1
    assert march(lambda tau: -1.0, 3.0, 1.5).floors.tolist() == [0.0]


def path(paths, floors, left, residual=2.0):
    return Path(*(np.array(x) for x in (paths, floors, left)), residual)


def test_what_a_path_says(monkeypatch):
    monkeypatch.setattr(path_module, "DOWN", 1 - 2.0**-10)
    assert path([0, 1, 2], [1.0, 0.5], [2.0, 0.5, 0.0]).closes
    assert not path([0, 1, 2], [1.0, 0.0], [2.0, 0.5, 0.0]).closes
    assert not path([0, 1, 2], [1.0, 0.5], [2.0, 0.5, 0.1]).closes
    assert not path([0, 1, 2, 3], [1.0, 0.5, 0.0], [2.0, 0.5, 0.1, 0.0]).closes
    assert path([0, 1, 2, 3], [1.0, 0.5, 0.1], [2.0, 0.5, 0.1, -0.1]).closes
    assert path([0, 0.5, 1, 2], [1.5, 1.0, 0.25], [2.0, 1.0, 0.8, 0.1]).might_close  # 0.5 · 1.5, 0.5 · 1.5, 1 · 1
    # The floors at the left ends: 1·1 + 1·2 and 1·1 + 1·0.9.
    assert path([0, 1, 3], [1.0, 0.5], [2.0, 1.0, 0.1]).might_close
    assert path([0, 1, 2], [1.0, 0.5], [2.0, 1.0, 0.1]).might_close
    assert not path([0, 1, 1.9], [1.0, 0.5], [2.0, 1.0, 0.1]).might_close
    assert path([0, 1], [1.0], [2.0, -1.0]).covered == 1.0 and path([0, 1], [1.0], [2.0, 3.0]).covered == 0.0
    assert path([0, 1], [1.0], [2.0, 0.5]).covered == 0.75
    curve = path([0, 1, 2, 3], [4.0, 3.0, 2.0], [2.0, 1.0, 0.5, 0.0]).curve(5.0, 7.0)
    same(curve.levels, [10.0, 2.5, 0.625])
    same(curve.rates, np.array([8.0, 6.0, 4.0]) * 7 * (1 - 2.0**-10))
    tiny = path([0, 1, 2], [4.0, 3.0], [2.0, 1e-200, -1.0]).curve(1.0, 1.0)  # its square is 0 in float64
    assert len(tiny.levels) == len(tiny.rates) == 1


# --- descent -------------------------------------------------------------------------------------------------------


@pytest.fixture
def coarse(monkeypatch):
    for name, value in (("EPS", E), ("UP", 1 + 2.0**-10), ("DOWN", 1 - 2.0**-9)):
        monkeypatch.setattr(steps_module, name, value)
    return 1 + 2.0**-10, 1 - 2.0**-9


@pytest.mark.parametrize("kind", [{"s": 0.0}, {"s": 0.2, "m": 2}])
def test_the_curvature_of_steps_with_its_allowances(kind, coarse):
    up, _ = coarse
    start = started(*drawn(27, N=4, d=5, h=12, paired=False, **kind))
    vars(start)["z_error"] = np.full(start.z.shape, 0.01)
    movement = Mover(start).at(0.1)
    t = np.where(movement.active, 1.0, start.slope)
    inner = sum(v**2 * np.outer(a, a) for v, a in zip(movement.second_size, t, strict=True))
    first, second = Descent(start).curvature(movement)
    assert first == near(float(greatest_ceiling(start.kernel_ceiling * inner)) * (1 + 12 * E) * up)
    assert second == near(norm_ceiling(np.abs(start.features) + start.z_error + movement.moved.T) ** 2 * up)


@pytest.mark.parametrize("tau", [0.001, 0.02])
def test_the_gain_of_a_step_with_its_allowances(tau, coarse, monkeypatch):
    up, down = coarse
    start = started(*drawn(7, N=4, d=6, h=80, size=4.0, s=0.1))
    descent, movement, asked = Descent(start), Mover(start).at(tau), []
    monkeypatch.setattr(descent.floor, "at", lambda *given: asked.append(given) or 1e3)
    first, second = descent.curvature(movement)
    beta, free = (first + second) * up, ~movement.frozen
    assert free.any() == (tau == 0.02)
    k, eta = 0.25 if free.any() else 1e-6, 0.1 / beta
    d = (1 - 0.5 * (1 + k) * eta * beta * up) * down
    chatter = np.zeros(4)
    for j in range(80):
        for i in np.flatnonzero(free[j]):
            total = sum(start.kernel_ceiling[i, l] for l in np.flatnonzero(free[j]))
            chatter[i] += 0.9**2 * movement.second_size[j] ** 2 * total
    found = descent.gain(eta, tau)
    ((given, drift, less),) = asked
    assert given.path == tau
    same(less, (0.25 + eta * beta * (1 + 1 / k) / 8) / d * chatter * (1 + (80 + 64) * E))
    same(drift, eta * start.residual * tau * movement.kappa * movement.second_size**2 * up)
    cost = eta * start.input_norm * math.sqrt(first * second) * start.residual * up
    assert found == near(d * 1e3 * down - cost)
    monkeypatch.setattr(descent.floor, "at", lambda *given: 0.0)
    assert descent.gain(eta, tau) == 0.0
    assert descent.gain(2 / beta, tau) == 0.0  # d < 0
    assert descent.gain(eta, 1e6) == 0.0  # the movement is beyond all bounds


def test_what_steps_promise(coarse):
    _, down = coarse
    curve = Steps(0.5, 0.25, None, 1.0).curve(3.0, 0.125)
    shrink = 0.5 * 0.25 * down
    assert curve.first == 3.0 and curve.step_size == 0.125 and curve.decrease == near(shrink * (2 - shrink) * down)


def test_a_step_is_certified_from_the_path_of_one_step_on(coarse, monkeypatch):
    up, _ = coarse
    start = started(*drawn(7, N=4, d=6, h=80, size=4.0))
    descent, asked, marched = Descent(start), [], []

    def gain(eta, tau):
        asked.append((eta, tau))
        return 4.0

    def fake(floor, residual, shortest, begin):
        marched.append((floor(0.75), residual, shortest, begin))
        left = np.array([residual, 0.2, 0.1, marched[0][0] - 4.0])
        return Path(np.array([begin, 0.25, 0.3, 0.5]), np.array([3.5, 3.25, 3.0]), left, residual)

    monkeypatch.setattr(descent, "gain", gain)
    monkeypatch.setattr(steps_module, "march", fake)
    found = descent.certify(1e-3)
    begin = 1e-3 * start.residual * up
    assert asked == [(1e-3, near(begin)), (1e-3, 0.75)]
    assert marched == [(4.0, start.residual, start.residual / 4.0, near(begin))]
    assert (found.step_size, found.gain, found.covered) == (1e-3, 3.0, 1.0) and found.movement.path == 0.5
    monkeypatch.setattr(descent, "gain", lambda eta, tau: 0.0)
    refused = descent.certify(1e-3)
    assert (refused.gain, refused.movement, refused.covered) == (0.0, None, 0.0)
    monkeypatch.setattr(descent, "gain", lambda eta, tau: 0.5)  # certain, but the path does not close

    def ends(floor, residual, shortest, begin):
        return Path(np.array([begin, 0.25]), np.array([0.5]), np.array([residual, 0.25 * residual]), residual)

    monkeypatch.setattr(steps_module, "march", ends)
    refused = descent.certify(1e-3)
    assert (refused.gain, refused.movement, refused.covered) == (0.0, None, 0.75)


def test_the_best_of_a_few_steps(monkeypatch):
    """0.8/β(0) and its halves by √2, fourteen of them, or until the gain is half of the best."""
    start = started(*drawn(7, N=4, d=6, h=80, size=4.0))
    descent = Descent(start)
    raised = 1 + 64 * 2.0**-52
    assert raised == steps_module.UP and (steps_module.FREE, steps_module.NONE_FREE) == (0.25, 1e-6)
    unit = 1 / sum(descent.curvature(Mover(start).at(0.0)))
    for gains, count in (([1.0] * 20, 4), ([2.0**k for k in range(20)], 14), ([0, 0, 0, 1, 5.0, 2.0, 0.1], 6)):
        tried = []

        def certify(eta, tried=tried, gains=gains):
            tried.append(eta)
            return Steps(eta, float(gains[len(tried) - 1]), None, 0.0)

        monkeypatch.setattr(descent, "certify", certify)
        best = descent.best()
        assert len(tried) == count
        same(tried, [0.8 * 2 ** (-k / 2) * unit for k in range(count)])
        assert best.step_size * best.gain == max(e * g for e, g in zip(tried, gains, strict=False))
