"""The distance to the least-norm solution: the closed law of scalars, the terms of the bound, and when it is 0.

Flows run at rtol 1e-8 to a gap of 1e-12 of the first; the part of W that the loss sees is then off by 1e-6 of its
start or less, and the rest has the accuracy of the run.
"""

import math
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import linflow as lf
from linflow.bounds import norms

least_norm = import_module("linflow.certificates.least_norm")


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0)


def problem(rng, rank, n, m):
    X = rng.standard_normal((rank, n))
    return lf.LinearRegression(X, rng.standard_normal((rank, m)))


def by_hand(f, net):
    """U_1, U_2, a, b from an SVD of X."""
    rank = np.linalg.matrix_rank(f.X)
    V = np.linalg.svd(f.X)[2][:rank].T
    U_1, U_2 = V.T @ net.weights[0], net.weights[0] - V @ V.T @ net.weights[0]
    return V, U_1, np.linalg.norm(U_2 @ net.weights[1]), np.linalg.norm(U_2 @ U_1.T)


def envelope_sums(f, net):
    """`Σ 2 sqrt(γ)(sqrt(y_k) − sqrt(y_{k+1}))/r_k` and the length of the path."""
    [guarantee] = [g for g in lf.certify(f, net).guarantees if g.name == "envelope"]
    curve: Any = guarantee.curve
    levels, rates = [*curve.levels, 0.0], curve.rates
    falls = [2 * (math.sqrt(y) - math.sqrt(z)) for y, z in pairwise(levels)]
    gamma = f.pl_constant
    integral = sum(math.sqrt(gamma) * fall / r for fall, r in zip(falls, rates, strict=True))
    return integral, sum(fall / math.sqrt(r) for fall, r in zip(falls, rates, strict=True))


def test_two_scalar_layers_follow_the_law_and_the_bound_is_near_it():
    # X = (1, 0): u and v fit y, and the frozen b multiplies v. u² − v² is kept, so v(∞) is known.
    f = lf.LinearRegression(np.array([[1.0, 0.0]]), np.array([[1.0]]))
    u, b, v = 1.0, 0.1, 0.5
    run = lf.gradient_flow(f, [np.array([[u], [b]]), np.array([[v]])], until=1e-14)
    end = math.sqrt((-(u * u - v * v) + math.hypot(u * u - v * v, 2.0)) / 2)
    found = lf.least_norm_distance(f, run)
    # The gap is 1e-14 of ½(½)²: u v is off by 5e-8, and v by less than that.
    assert found.unseen == near(b * end, 1e-7)
    assert found.distance == near(math.hypot(b * end, 5e-8), 1e-7)
    assert found.mixing == near(b * math.hypot(u, v))
    assert not found.exact and found.reason == ""
    # (u, v) turns hyperbolically: v(∞) = v cosh s + u sinh s with s = log((u + v)(∞)/(u + v)(0)).
    s = math.log((end + 1 / end) / (u + v))
    assert end == near(v * math.cosh(s) + u * math.sinh(s))
    assert s <= found.exposure <= 1.02 * s  # the envelope is nearly exact here
    assert b * end <= found.bound <= 1.01 * b * end


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_the_terms_of_the_bound_for_two_layers(rng, scale):
    f = problem(rng, 2, 4, 3)
    net = lf.Network(lf.init.gaussian((4, 40, 3), 0.4, rng=rng).weights, scale)
    V, U_1, a, b = by_hand(f, net)
    integral, path = envelope_sums(f, net)
    found = lf.least_norm_distance(f, net)
    first, kept = np.linalg.svd(U_1)[1][1], math.sqrt(_kept(f, net))
    by_path = path_integral(first, kept, path)
    s = min(scale * integral, by_path)
    assert found.exposure == near(s, 1e-9)  # the floors are lowered by rounding
    assert found.bound == near(scale * (a * math.cosh(s) + b * math.sinh(s)), 1e-9)
    assert found.mixing == near(math.hypot(a, b))
    W = net.product()
    assert found.distance == near(np.linalg.norm(W - np.linalg.pinv(f.X) @ f.Y))
    assert found.unseen == near(np.linalg.norm(W - V @ V.T @ W))


def _kept(f, net):
    """`[λ_r(D_1)]_+` of the layers that the objective sees."""
    seen = f.effective(net)[1]
    return max(np.linalg.eigvalsh(lf.imbalance_matrices(seen)[0])[-seen.shape[0]], 0.0)


def path_integral(first, kept, path, pieces=200_000):
    """`∫_0^R dρ/max(σ − ρ, sqrt(λ))` by the midpoint rule; its error is some 1e-11 where the integrand is smooth."""
    rho = (np.arange(pieces) + 0.5) * path / pieces
    floor = np.maximum(first - rho, kept)
    return math.inf if floor.min() <= 0 else float(np.sum(path / pieces / floor))


def test_the_exposure_along_the_path(rng):
    f = problem(rng, 2, 4, 1)
    net = lf.init.gaussian((4, 40, 1), 0.4, rng=rng)
    setting = least_norm.Setting(f, net)
    first, kept = np.linalg.svd(by_hand(f, net)[1])[1][1], math.sqrt(_kept(f, net))
    assert 0 < kept < first
    for path in (0.1 * (first - kept), 0.9 * (first - kept), first, 3 * first):
        # The midpoint rule is off by the square of its width, and at the kink by as much.
        assert least_norm._along_the_path(setting, path) == near(path_integral(first, kept, path), 1e-8)
    # Without imbalance the floor ends with the path: −log(1 − R/σ).
    wide = lf.LinearRegression(f.X, np.eye(2, 4))
    bare = least_norm.Setting(wide, lf.Network([net.weights[0], 4 * net.weights[0].T]))
    assert _kept(wide, bare.whole_network) == pytest.approx(0, abs=1e-12)
    assert least_norm._along_the_path(bare, 0.5 * first) == near(math.log(2), 1e-9)
    assert least_norm._along_the_path(bare, first) == math.inf
    square = least_norm.Setting(f, lf.Network([net.weights[0][:, :2], net.weights[1][:2]]))
    assert least_norm._along_the_path(square, 1e-3) < math.inf
    narrow = least_norm.Setting(f, lf.init.gaussian((4, 1, 1), rng=rng))
    assert least_norm._along_the_path(narrow, 0.1) == math.inf


@pytest.mark.parametrize("widths", [(4, 40, 2), (4, 300, 40, 2), (3, 200, 60, 30, 1)])
@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_no_run_ends_beyond_its_bound(rng, widths, scale):
    f = problem(rng, 2, widths[0], widths[-1])
    start = lf.init.fan_in(widths, rng=rng)
    W = f.minimizer + 0.01 * rng.standard_normal(f.shape)  # near the solution, so that a deep start is certified
    seen = f.row_space @ f.row_space.T
    last = np.linalg.lstsq(seen @ lf.Network(start.weights[:-1]).product(), seen @ W / scale, rcond=None)[0]
    net = lf.Network([*start.weights[:-1], last], scale)
    run = lf.gradient_flow(f, net, until=1e-10)
    found = lf.least_norm_distance(f, run)
    assert 0 < found.unseen <= found.bound < math.inf
    assert found.unseen == pytest.approx(found.distance, rel=1e-3)
    assert lf.least_norm_distance(f, net).bound == found.bound


def test_the_norm_of_the_later_layers(rng):
    f = problem(rng, 2, 3, 2)
    net = lf.Network(lf.init.gaussian((3, 8, 7, 6, 2), 0.5, rng=rng).weights, 0.3)
    setting = least_norm.Setting(f, net)
    seen = f.effective(net)[1]
    largest, Ds = float(setting.ranges[2][0]) / 0.3, lf.imbalance_matrices(seen)
    by_imbalance = math.sqrt(lf.bounds.ceilings(Ds, *seen.shape, largest).suffixes[2, 0])
    layers = norms(Ds, largest)
    assert by_imbalance < 0.99 * math.sqrt(layers[2] * layers[3])  # less than layer by layer
    last = [np.linalg.norm(W, 2) for W in net.weights[2:]]
    both = np.linalg.norm(net.weights[2] @ net.weights[3], 2)
    for path in (0.0, 0.3, 50.0):
        by_path = both + (last[0] + path) * (last[1] + path) - last[0] * last[1]
        assert least_norm._later_layers(setting, path) == near(min(by_path, by_imbalance), 1e-9)
    assert both < by_imbalance < 50.0
    # A norm computed by LAPACK is raised by 1e-12, some thousand times its rounding.
    assert least_norm._later_layers(setting, 0.0) == near(both * (1 + 1e-12), 2e-14)
    assert least_norm._later_layers(least_norm.Setting(f, lf.init.gaussian((3, 8, 2), rng=rng)), 9.0) == 1.0


def test_the_exposure_is_the_smaller_of_two_bounds(rng, monkeypatch):
    f = problem(rng, 2, 4, 2)
    net = lf.Network(lf.init.gaussian((4, 60, 2), 0.4, rng=rng).weights, 0.7)
    setting = least_norm.Setting(f, net)
    integral, path = envelope_sums(f, net)
    assert not 0.9 < path < 1.1  # or a factor of the path would not be seen
    asked = []
    monkeypatch.setattr(least_norm, "_later_layers", lambda s, length: asked.append(length) or 1.5)
    for along in (1e9, 1e-9):
        monkeypatch.setattr(least_norm, "_along_the_path", lambda s, length, a=along: asked.append(length) or a)
        s, omega, reason = least_norm._exposure(setting)
        assert (omega, reason) == (1.5, "") and s == near(min(along, 0.7 * 1.5 * integral), 1e-9)
    assert asked == [near(path, 1e-9)] * 4
    solved = least_norm.Setting(lf.MatrixFactorization(net.product()), net)
    monkeypatch.setattr(least_norm, "_later_layers", lambda s, length: asked.append(length) or 1.5)
    assert least_norm._exposure(solved) == (0.0, 1.5, "") and asked[-1] == 0.0


def test_the_later_layers_multiply_the_bound(rng, monkeypatch):
    f, net = problem(rng, 2, 4, 2), lf.Network(lf.init.gaussian((4, 9, 5, 2), 0.4, rng=rng).weights, 0.7)
    monkeypatch.setattr(least_norm, "_exposure", lambda setting: (0.5, 3.0, ""))
    a, b = by_hand(f, net)[2:]
    assert lf.least_norm_distance(f, net).bound == near(0.7 * 3 * (a * math.cosh(0.5) + b * math.sinh(0.5)), 1e-9)


def test_rounding_is_added(rng, monkeypatch):
    eps = 2.0**-30  # makes every allowance visible
    monkeypatch.setattr(least_norm, "EPS", eps)
    f = problem(rng, 2, 4, 3)
    mu, K = np.linalg.svd(f.X)[1][[1, 0]] ** 2
    assert K / mu > 1.5
    for first, second in ((0.4, 0.2), (0.2, 0.4)):
        net = lf.Network([first * rng.standard_normal((4, 40)), second * rng.standard_normal((40, 3))], 0.7)
        _, U_1, a, b = by_hand(f, net)
        sizes = [np.linalg.norm(W) for W in net.weights]
        noise = 16 * eps * math.sqrt(40) * math.sqrt(K / mu) * sizes[0] * max(sizes)
        found = lf.least_norm_distance(f, net)
        s = found.exposure
        grown = 0.7 * ((a + noise) * math.cosh(s) + (b + noise) * math.sinh(s))
        assert found.bound == near(grown) and found.bound > (1 + 1e-7) * 0.7 * (a * math.cosh(s) + b * math.sinh(s))
        lowered = np.linalg.svd(U_1)[1][1] - 16 * eps * 2 * sizes[0]  # it has the rounding of the whole layer
        without = lf.Network([net.weights[0], 4 * net.weights[0].T])  # D_1 has no positive eigenvalue
        bare = least_norm.Setting(lf.LinearRegression(f.X, np.eye(2, 4)), without)
        assert least_norm._along_the_path(bare, 0.1 * lowered) == near(-math.log1p(-0.1), 1e-14)
    line = lf.LinearRegression(np.array([[1.0, 0.0]]), np.array([[1.0]]))
    one = lf.Network([np.array([[3.0], [0.25]])], 0.5)
    noise = 16 * eps * math.sqrt(2) * 0.5 * math.hypot(3.0, 0.25)
    assert lf.least_norm_distance(line, one).bound == near(0.125 + noise)
    limit = 2 * 16 * eps * math.sqrt(2) * 1.0  # of the two norms of about 1
    for factor, exact in ((0.99, True), (1.01, False)):
        moved = lf.Network([np.array([[1.0, 0.0], [0.0, factor * limit]]), np.array([[1e-30], [1.0]])])
        assert lf.least_norm_distance(line, moved).exact is exact
        one = lf.Network([np.array([[1.0], [factor * limit / 2]])])
        found = lf.least_norm_distance(line, one)
        # A layer of one column has sqrt(max(2, 1)).
        assert found.exact is exact and found.bound == near(factor * limit / 2 + limit / 2, 1e-9)
    nothing = least_norm.Setting(line, lf.Network([np.array([[1e-9, 0.0], [5.0, 0.0]]), np.zeros((2, 1))]))
    assert least_norm._along_the_path(nothing, 0.5e-9) == math.inf  # the 1e-9 may be rounding of the 5
    rough = least_norm.Setting(line, lf.Network([np.zeros((2, 2)), np.zeros((2, 1))]))
    assert least_norm._along_the_path(rough, 0.0) == math.inf


@pytest.mark.parametrize("widths", [(5, 30, 2), (5, 30, 6, 2)])
def test_orthogonal_parts_stay_so_and_the_limit_is_the_pseudo_inverse(rng, widths):
    f = problem(rng, 3, widths[0], widths[-1])
    net = lf.init.gaussian(widths, 0.4, rng=rng)
    V = f.row_space
    first, second = net.weights[:2]
    both = np.linalg.qr(np.hstack([(V.T @ first).T, second]))[0]
    frozen = (first - V @ V.T @ first) @ (np.eye(widths[1]) - both @ both.T)
    net = lf.Network([V @ V.T @ first + frozen, *net.weights[1:]])
    assert np.linalg.norm(frozen) > 1
    flow = lf.gradient_flow(f, net, until=1e-12)
    descent = lf.gradient_descent(f, net, step_size=1e-2, steps=3000, until=1e-10)
    for run in (flow, descent):
        found = lf.least_norm_distance(f, run)
        assert found.exact
        assert found.mixing < 1e-13 and found.unseen < 1e-12
        assert found.distance <= math.sqrt(2 * run.gap[-1] / f.effective(net)[0].strong_convexity)
    if len(widths) == 3:
        assert lf.least_norm_distance(f, flow).bound < 1e-8
        assert "this run is a descent" in lf.least_norm_distance(f, descent).reason
    # A last digit of the frozen part is not rounding any more.
    moved = lf.Network([net.weights[0] + 1e-9 * np.eye(*first.shape), *net.weights[1:]])
    assert not lf.least_norm_distance(f, moved).exact


def test_one_layer_keeps_what_it_does_not_see(rng):
    f = problem(rng, 2, 4, 3)
    W = rng.standard_normal((4, 3))
    run = lf.gradient_flow(f, lf.Network([W], 0.5), until=1e-12)
    found = lf.least_norm_distance(f, run)
    unseen = np.linalg.norm(W - f.row_space @ f.row_space.T @ W)
    assert found.unseen == near(0.5 * unseen, 1e-9)
    assert found.bound == near(0.5 * unseen) and found.mixing == near(unseen)
    assert not found.exact and found.exposure == 0.0
    assert lf.least_norm_distance(f, [f.row_space @ f.row_space.T @ W]).exact


def test_a_loss_that_sees_all_has_one_minimiser(rng):
    f = problem(rng, 4, 3, 2)
    found = lf.least_norm_distance(f, lf.init.gaussian((3, 5, 2), rng=rng))
    assert found.exact and found.bound == found.mixing == found.unseen == found.exposure == 0.0 < found.distance
    Y = rng.standard_normal((3, 2))
    net = lf.init.gaussian((3, 5, 2), rng=rng)
    found = lf.least_norm_distance(lf.MatrixFactorization(Y), net)
    assert found.exact and found.distance == near(np.linalg.norm(net.product() - Y))


def test_at_the_minimum_nothing_moves(rng):
    f = lf.LinearRegression(np.array([[1.0, 0.0]]), np.array([[0.5]]))
    found = lf.least_norm_distance(f, [np.array([[1.0], [0.25]]), np.array([[0.5]])])
    assert found.exposure == 0.0 and found.bound == near(0.125) and found.distance == near(0.125)


def test_why_there_is_no_bound_and_what_is_refused(rng):
    f = problem(rng, 2, 4, 3)
    far = [0.01 * W for W in lf.init.gaussian((4, 3, 3), rng=rng).weights]
    found = lf.least_norm_distance(f, far)
    assert found.bound == math.inf == found.exposure and "no certificate" in found.reason
    assert math.isfinite(found.mixing) and not found.exact
    half = lf.Quadratic(np.eye(2), np.diag([1.0, 0.0]), np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="B of the quadratic is singular"):
        lf.least_norm_distance(half, lf.init.gaussian((2, 4, 2), rng=rng))
    declared = lf.Objective(
        lambda W: float((W[0] ** 2).sum()), lambda W: 2 * W * [[1], [0]], shape=(2, 1), minimum=0.0
    )
    with pytest.raises(ValueError, match="least-norm solution of this user-defined objective is not known"):
        lf.least_norm_distance(declared, lf.init.gaussian((2, 4, 1), rng=rng))
