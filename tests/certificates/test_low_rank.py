"""The row "low rank": its two theorems literally, its numbers against a slow twin, and flows against its bound."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.integrate import quad

import linflow as lf
from linflow.certificates import low_rank as module
from linflow.certificates.curves import LimitCurve
from linflow.certificates.low_rank import low_rank
from linflow.certificates.setting import Setting


def adapter(seed, size=3.0, *, exchanged=False, other=0.0, shape=(5, 4), rank=2, samples=9, scaling=1.5):
    """Return a regression and an adapter of this size, one factor of which is 0 or small."""
    rng = np.random.default_rng(seed)
    n, m = shape
    f = lf.LinearRegression(rng.standard_normal((samples, n)), rng.standard_normal((samples, m)))
    A, B = size * rng.standard_normal((rank, n)), other * rng.standard_normal((m, rank))
    if exchanged:
        A, B = other * rng.standard_normal((rank, n)), size * rng.standard_normal((m, rank))
    return lf.lora(f, 0.3 * rng.standard_normal((m, n)), A, B, scaling=scaling)


def only(pair):
    (row,) = low_rank(Setting(*pair))
    return row


def best_of(f, U, c):
    """Return `min_Z f(cUZ) − f*` of a quadratic f by its normal equations."""
    n, m = f.shape
    H = np.stack([f.hessian_product(np.zeros((n, m)), E.reshape(n, m)).ravel() for E in np.eye(n * m)])
    J = c * np.kron(U, np.eye(m))
    z = np.linalg.solve(J.T @ H @ J, J.T @ H @ f.minimizer.ravel())
    away = (J @ z).reshape(n, m) - f.minimizer
    return 0.5 * float(np.sum(away * f.hessian_product(away, away)))


# --- theorem 1 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_falls_by_theorem_1_at_every_moment(seed, exchanged):
    f, net = adapter(seed, 1.0, exchanged=exchanged, other=0.2)
    U0, V0 = net.weights
    D = U0.T @ U0 - V0 @ V0.T
    values = np.linalg.eigvalsh(-D if exchanged else D)
    assert values[0] > 0  # the hypothesis
    for t in (0.0, 0.01, 0.1, 1.0):
        W = lf.gradient_flow(f, net, t_max=t).final if t else net
        (U, V), c, P = W.weights, net.scale, W.product()
        G = f.gradient(P)
        fall = c**2 * (np.sum((G @ V.T) ** 2) + np.sum((U.T @ G) ** 2))
        if exchanged:
            transposed = lf.Quadratic(np.eye(4), f.X.T @ f.X, (f.X.T @ f.Y).T)
            m, least = best_of(transposed, V.T, c), np.linalg.svd(V)[1][-1]
        else:
            m, least = best_of(f, U, c), np.linalg.svd(U)[1][-1]
        assert least**2 >= values[0] * (1 - 1e-9)  # the accuracy of the flow
        assert fall >= 2 * f.strong_convexity * c**2 * values[0] * (f.gap(P) - m) * (1 - 1e-9)


# --- theorem 2 -----------------------------------------------------------------------------------------------------


def literal(f, net, limit):
    """Return the rate and the left side of theorem 2, less f*, at a limit of the gap, by quadrature."""
    (U, V), c, mu, K = net.weights, net.scale, f.strong_convexity, f.smoothness
    sigma = math.sqrt(np.linalg.eigvalsh(U.T @ U - V @ V.T)[0])
    kappa, x0 = c * sigma * math.sqrt(2 * mu), math.sqrt(f.gap(net.product()) - limit)
    n, m = f.shape
    H = np.stack([f.hessian_product(np.zeros((n, m)), E.reshape(n, m)).ravel() for E in np.eye(n * m)])
    J = c * np.kron(U, np.eye(m))
    W = (J @ np.linalg.solve(J.T @ H @ J, J.T @ H @ f.minimizer.ravel())).reshape(n, m)
    G = f.gradient(W)

    def phi(x):
        a = c * math.sqrt(2 * K) * math.sqrt(limit + x * x) * (np.linalg.norm(V, 2) + 2 * (x0 - x) / kappa)
        return 2 * x * a / (a * a + (kappa * x) ** 2) if a < kappa * x else 1 / kappa

    R = quad(phi, 0, x0, limit=400, epsrel=1e-9)[0]
    theta = min(1.0, R / sigma)
    held = f.gap(W) + np.linalg.norm(W @ G.T, "nuc") * theta + 0.5 * K * np.sum(W * W) * theta**2
    return kappa**2, R, held


@pytest.mark.parametrize("other", [0.0, 0.1])
def test_its_numbers_are_those_of_the_theorem(other):
    f, net = adapter(0, 6.0, other=other)
    row = only((f, net))
    squared = np.linalg.eigvalsh(net.weights[0].T @ net.weights[0] - net.weights[1] @ net.weights[1].T)[0]
    start = module._Frame.of(Setting(f, net), first=True).start(float(squared))
    limits = start.floor + np.array([0.01, 0.1, 0.5]) * (start.gap - start.floor)
    for limit, R, held in zip(limits, start.path(limits), start.held(limits), strict=True):
        rate, true_R, true_held = literal(f, net, float(limit))
        assert row.facts["rate to the limit"] == pytest.approx(rate, rel=1e-8, abs=0)  # UP, DOWN and the spectrum
        assert true_R <= R <= 1.05 * true_R  # upper sums of 200 cells
        assert true_held <= held <= 1.05 * true_held
    assert row.facts["best of this layer"] == pytest.approx(best_of(f, net.weights[0], net.scale), rel=1e-8, abs=0)


def test_the_upper_sums_come_down_to_the_integral(monkeypatch):
    f, net = adapter(1, 4.0, other=0.1)
    squared = float(np.linalg.eigvalsh(net.weights[0].T @ net.weights[0] - net.weights[1] @ net.weights[1].T)[0])
    start = module._Frame.of(Setting(f, net), first=True).start(squared)
    limit = start.floor + 0.2 * (start.gap - start.floor)
    found = []
    for cells in (50, 400, 3200):
        monkeypatch.setattr(module, "CELLS", cells)
        found.append(float(start.path(np.array([limit]))[0]))
    true = literal(f, net, limit)[1]
    assert found == sorted(found, reverse=True)
    assert true <= found[-1] <= true * 1.005  # an eighth of the error each time


def test_each_cell_takes_the_ends_that_make_its_part_larger(monkeypatch):
    monkeypatch.setattr(module, "CELLS", 4)
    monkeypatch.setattr(module, "UP", 1.25)
    start = module._Turning(5.0, 1.0, 0.5, 0.7, sigma=2.0, kappa=3.0, pull=1.5, other=0.3, smoothness=2.0)
    limit, found = 2.0, 0.0
    x = [math.sqrt(3.0) * (1 - k / 4) for k in range(5)]
    slow = 0
    for high, low in pairwise(x):
        a = 1.5 * math.sqrt(limit + high**2) * (0.3 + 2 * (x[0] - low) / 3.0) * 1.25
        slow += a < 3.0 * low
        found += (2 * low * a / (a * a + (3.0 * low) ** 2) if a < 3.0 * low else 1 / 3.0) * (high - low)
    assert 0 < slow < 4  # both forms are used
    assert start.path(np.array([limit]))[0] == pytest.approx(found * 1.25, rel=1e-13)
    theta = found * 1.25 / 2.0 * 1.25
    held = (1.0 + 0.5 * theta + 0.5 * 2.0 * (0.7 * theta) ** 2) * 1.25
    assert theta < 1
    assert start.held(np.array([limit]))[0] == pytest.approx(held, rel=1e-13)
    farther = replace(start, sigma=0.1)  # no space turns by more than 1
    assert farther.held(np.array([limit]))[0] == pytest.approx((1.0 + 0.5 + 0.5 * 2.0 * 0.7**2) * 1.25, rel=1e-13)


def test_the_reach_is_the_root_of_the_gap_over_sigma_and_kappa():
    start = module._Turning(5.0, 1.0, 0.5, 0.7, sigma=2.0, kappa=0.25, pull=1.5, other=0.3, smoothness=2.0)
    assert start.reach == math.sqrt(5.0) / 0.5
    assert replace(start, kappa=1e-200, sigma=1e-200).reach == math.inf


def test_the_first_limit_that_is_tried_is_near_the_floor():
    assert (module.CELLS, module.UP, module.DOWN) == (200, 1 + 1e-10, 1 - 1e-10)
    start = module._Turning(5.0, 1.0, 0.0, 0.0, sigma=2.0, kappa=0.25, pull=1.5, other=0.3, smoothness=2.0)
    assert start.limit() == 1.0 + 4.0 / 200**2
    assert replace(start, gap=1.0).limit() is None
    assert replace(start, gap=0.5).limit() is None


def test_each_number_is_rounded_to_the_side_that_makes_the_limit_larger(monkeypatch):
    assert module.UP > 1 > module.DOWN
    for name, value in (("UP", 1.25), ("DOWN", 0.75), ("EPS", 1e-3)):
        monkeypatch.setattr(module, name, value)
    f, net = adapter(1, 4.0, other=0.1)
    monkeypatch.setattr(type(f), "rounding", lambda self, network: 0.125)
    monkeypatch.setattr(type(f), "gradient_rounding", lambda self, network: 0.0625)
    (U, V), c, K = net.weights, net.scale, f.smoothness
    start = module._Frame.of(Setting(f, net), first=True).start(2.0)
    W, off = module._Frame.of(Setting(f, net), first=True).best()
    Z = np.linalg.lstsq(U, W, rcond=None)[0]
    G = f.gradient(W)
    slack = 0.0625 + K * off
    assert off == pytest.approx(4 * 2 * 1e-3 * np.linalg.norm(U) * np.linalg.norm(Z), rel=1e-9)
    size = (np.linalg.norm(W) + off) * 1.25
    expected = {
        "gap": f.gap(net.product()),
        "floor": f.gap(W) * 1.25 + off * (np.linalg.norm(G) + slack) + 0.5 * K * off**2 + 0.125,
        "turned": np.linalg.norm(W @ G.T, "nuc") * 1.25 + off * np.linalg.norm(G) + size * slack,
        "size": size,
        "sigma": math.sqrt(2.0) * 0.75,
        "kappa": c * math.sqrt(2.0) * 0.75 * math.sqrt(2 * f.strong_convexity) * 0.75,
        "pull": c * math.sqrt(2 * K) * 1.25,
        "other": np.linalg.norm(V, 2) * 1.25,
        "smoothness": K,
    }
    for name, value in expected.items():
        assert getattr(start, name) == pytest.approx(value, rel=1e-9), name
    assert start.speed == pytest.approx(expected["kappa"] ** 2 * 0.75, rel=1e-12)


@pytest.mark.parametrize("exchanged", [False, True])
def test_the_best_of_a_layer_is_that_of_the_normal_equations(exchanged):
    """With factors on both sides, neither of which is symmetric."""
    rng = np.random.default_rng(5)
    A, B = (S @ S.T for S in (rng.standard_normal((4, 6)), rng.standard_normal((3, 5))))
    f = lf.Quadratic(A, B, rng.standard_normal((4, 3)))
    U, V = rng.standard_normal((4, 2)), rng.standard_normal((2, 3))
    frame = module._Frame.of(Setting(f, lf.Network([U, V])), first=not exchanged)
    W = frame.best()[0]
    if exchanged:
        mirror = lf.Quadratic(B, A, (A @ f.minimizer @ B).T)
        assert mirror.gap(W) == pytest.approx(best_of(mirror, V.T, 1.0), rel=1e-10, abs=0)
        np.testing.assert_allclose(W, V.T @ np.linalg.lstsq(V.T, W, rcond=None)[0], atol=1e-12)
    else:
        assert f.gap(W) == pytest.approx(best_of(f, U, 1.0), rel=1e-10, abs=0)
        np.testing.assert_allclose(W, U @ np.linalg.lstsq(U, W, rcond=None)[0], atol=1e-12)


@pytest.mark.parametrize(
    ("lower", "upper", "squared"),
    [([6.0, 4.0, 0.5], [7.0, 5.0, 0.75], 0.5), ([-1.0, -6.0, -8.0], [-0.75, -5.0, -7.0], 0.75)],
)
def test_the_spectrum_is_taken_at_its_end_nearer_to_0(lower, upper, squared):
    rng, layers = np.random.default_rng(6), [np.eye(4, 3), np.zeros((3, 5))]
    if lower[0] < 0:
        layers = [np.zeros((4, 3)), np.eye(3, 5)]
    f = lf.MatrixFactorization(0.01 * rng.standard_normal((4, 5)))
    setting = Setting(f, lf.Network(layers, 0.5))
    vars(setting)["invariants"] = SimpleNamespace(
        spectra=[SimpleNamespace(lower=np.array(lower), upper=np.array(upper))]
    )
    (row,) = low_rank(setting)
    expected = module._Frame.of(setting, first=lower[0] > 0).start(squared)
    limits = {"limit": expected.limit(), "rate to the limit": expected.speed, "best of this layer": expected.floor}
    assert row.facts == limits
    assert expected.speed == pytest.approx(0.5**2 * squared * 2, rel=1e-8)  # UP and DOWN


def test_a_spectrum_that_touches_0_is_not_definite():
    f, net = adapter(0)
    for lower, upper in (([1.0, 0.0], [2.0, 1.0]), ([-2.0, -3.0], [0.0, -1.0])):
        setting = Setting(f, net)
        vars(setting)["invariants"] = SimpleNamespace(
            spectra=[SimpleNamespace(lower=np.array(lower), upper=np.array(upper))]
        )
        (row,) = low_rank(setting)
        assert "definite" in row.reason
    U, V = net.weights[0], 0.1 * np.ones((2, 4))
    assert only((lf.MatrixFactorization(U @ V), lf.Network([U, V]))).reason == "the start is at the minimum"


@pytest.mark.parametrize("power", [-508, 508])
def test_a_path_of_extreme_numbers_is_that_of_ordinary_ones(power):
    f, net = adapter(1, 4.0, other=0.1)
    start = module._Frame.of(Setting(f, net), first=True).start(2.0)
    big = 2.0**power  # with κ, a c√(2K) larger by its square, and ‖V(0)‖ smaller, the path is shorter by the factor
    limit = np.array([start.floor + 0.2 * (start.gap - start.floor)])
    shifted = replace(start, kappa=big * start.kappa, pull=big * big * start.pull, other=start.other / big)
    assert shifted.path(limit)[0] * big == pytest.approx(start.path(limit)[0], rel=1e-12, abs=0)


@pytest.mark.parametrize("convexity", [1e-10, 1e-320])
def test_a_rate_that_rounds_to_nothing_is_none(convexity):
    """The square of 1e-163 is 0 in float64, and nothing falls at the rate 0."""
    Y = 1e-6 * np.diag([1.0, 1.0, 0.0])
    f = lf.Objective(
        lambda W: 0.5 * float(np.sum((W - Y) ** 2)),
        lambda W: W - Y,
        shape=(3, 3),
        strong_convexity=convexity,
        smoothness=1.0,
        minimizer=Y,
    )
    row = only((f, lf.Network([1e-3 * np.eye(3, 2), -0.9e-3 * np.eye(2, 3)])))
    assert row.applies == (convexity > 1e-320)
    assert math.isfinite(row.time_to(0.5)) == row.applies


def test_the_limit_is_the_least_that_the_theorem_admits_of_its_grid():
    f, net = adapter(0, 6.0)
    row = only((f, net))
    first, floor, limit = row.gap, row.facts["best of this layer"], row.facts["limit"]
    k = round(module.CELLS * math.sqrt((limit - floor) / (first - floor)))
    assert limit == pytest.approx(floor + (k / module.CELLS) ** 2 * (first - floor), rel=1e-9)
    assert literal(f, net, limit)[2] <= limit
    if k > 1:
        below = floor + ((k - 1) / module.CELLS) ** 2 * (first - floor)
        assert literal(f, net, below)[2] > below * 0.95  # but for the upper sums


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("size", [1.5, 4.0, 20.0])
def test_no_flow_exceeds_it(size, exchanged):
    told = 0
    for seed in range(6):
        pair = adapter(seed, size, exchanged=exchanged, other=0.05 * (seed % 2), rank=1 + seed % 3)
        row = only(pair)
        if not row.applies:
            continue
        told += 1
        run = lf.gradient_flow(*pair, t_max=10 / row.facts["rate to the limit"])
        assert (run.gap <= row.gap_at(run.t) * (1 + 1e-9)).all()  # the accuracy of the flow
        assert lf.certify(*pair).check(run).holds
    assert told >= (3 if size < 2 else 6)


def test_a_large_factor_gives_the_limit_of_the_flow():
    f, net = adapter(3, 60.0)
    cert = lf.certify(f, net)
    end = lf.gradient_flow(f, net, t_max=30 / cert.best.facts["rate to the limit"]).gap[-1]
    assert cert.best.name == "low rank"
    assert end <= cert.best.facts["limit"] <= 1.001 * end


def test_layer_rates_multiply_the_rate():
    f, net = adapter(0, 6.0)
    plain, plus = lf.certify(f, net), lf.certify(f, net, layer_rates=(1.0, 16.0))
    ratio = plus.best.facts["rate to the limit"] / plain.best.facts["rate to the limit"]
    assert ratio == pytest.approx(16, rel=1e-9)
    assert plus.best.facts["limit"] <= plain.best.facts["limit"]


def test_a_rank_deficient_design_is_reduced_to_what_it_sees():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((3, 6))  # rank 3
    f = lf.LinearRegression(X, rng.standard_normal((3, 4)))
    pair = lf.lora(f, np.zeros((4, 6)), 5 * rng.standard_normal((2, 6)), np.zeros((4, 2)))
    row = only(pair)
    run = lf.gradient_flow(*pair, t_max=10 / row.facts["rate to the limit"])
    assert row.applies
    assert (run.gap <= row.gap_at(run.t) * (1 + 1e-9)).all()


def test_an_objective_that_is_not_quadratic():
    def pair(size):
        rng = np.random.default_rng(4)
        Y = rng.standard_normal((4, 3))
        f = lf.Objective(
            lambda W: float(np.sum(0.5 * (W - Y) ** 2 + np.log(np.cosh(W - Y)))),
            lambda W: W - Y + np.tanh(W - Y),
            shape=(4, 3),
            strong_convexity=1.0,
            smoothness=2.0,
            minimizer=Y,
        )
        return lf.lora(f, np.zeros((3, 4)), size * rng.standard_normal((2, 4)), np.zeros((3, 2)))

    row = only(pair(10.0))
    run = lf.gradient_flow(*pair(10.0), t_max=10 / row.facts["rate to the limit"])
    assert row.applies
    assert (run.gap <= row.gap_at(run.t) * (1 + 1e-9)).all()
    U = pair(10.0)[1].weights[0]
    basis = np.linalg.qr(U)[0]
    shifted = pair(10.0)[0]
    projected = shifted.gap(basis @ basis.T @ shifted.minimizer)
    assert row.facts["best of this layer"] == pytest.approx(projected, rel=1e-8)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"other": 3.0}, "definite"),
        ({"size": 0.05}, "may turn too far"),
    ],
)
def test_it_says_why_it_does_not_apply(change, word):
    row = only(adapter(0, **change))
    assert not row.applies
    assert word in row.reason


def test_it_is_for_two_narrow_layers_only():
    f, net = adapter(0)
    assert low_rank(Setting(f, lf.Network([*net.weights, np.eye(4)]))) == []
    assert low_rank(Setting(*adapter(0, rank=4))) == []


def test_it_needs_strong_convexity_and_smoothness():
    Y = np.eye(3)
    for constants in ({"pl_constant": 2.0}, {"strong_convexity": 1.0}):
        f = lf.Objective(
            lambda W: 0.5 * float(np.sum((W - Y) ** 2)), lambda W: W - Y, shape=(3, 3), minimizer=Y, **constants
        )
        row = only((f, lf.Network([np.eye(3)[:, :2], np.zeros((2, 3))])))
        assert "strongly convex" in row.reason


# --- its curve -----------------------------------------------------------------------------------------------------


def test_the_curve_falls_to_its_limit():
    curve = LimitCurve(5.0, 1.0, 2.0)
    assert curve.rate == 0
    assert curve.gap(0.0) == 5.0
    assert curve.gap(0.7) == pytest.approx(1 + 4 * math.exp(-1.4), rel=1e-14)
    assert curve.gap(0.7) > 1 + 4 * math.exp(-1.4)  # raised
    assert curve.time(5.0) == 0
    assert curve.time(2.0) == pytest.approx(math.log(4) / 2, rel=1e-13)
    assert curve.gap(curve.time(2.0)) <= 2.0 * (1 + 1e-14)
    assert curve.time(1.0) == curve.time(0.5) == math.inf
    assert curve.rate_at(2.0) == 1.0
    assert curve.rate_at(1.0) == curve.rate_at(0.5) == 0


def test_the_rate_of_a_curve_stays_within_float64():
    """The product of the speed and the gap leaves float64 sooner than the rate, which is at most the speed."""
    for size in (1e-300, 1.0, 1e300):
        curve = LimitCurve(5 * size, size, 1e200)
        assert curve.rate_at(2 * size) == 5e199
        assert curve.rate_at(5 * size) == pytest.approx(8e199, rel=4e-16, abs=0)  # two roundings
