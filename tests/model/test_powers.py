"""Regression under the p-norm: derivatives, the minimum, and the inequalities that stand in for μ, K and γ."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow.model import powers


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0)


@pytest.fixture(params=[(3, 3), (6, 3), (2, 4)], ids=["square", "tall", "wide"])
def data(request, rng):
    N, n = request.param
    return rng.standard_normal((N, n)), rng.standard_normal((N, 2))


@pytest.mark.parametrize("p", [2, 2.5, 4, 6])
def test_value_and_derivatives(data, rng, p):
    X, Y = data
    f = lf.LpRegression(X, Y, p)
    W, V = rng.standard_normal((2, X.shape[1], 2))
    assert f.value(W) == near(sum(abs(r) ** p for r in (Y - X @ W).ravel()) / p)
    h = 1e-6  # differences are then good to about h² of the third derivative
    slope = (f.value(W + h * V) - f.value(W - h * V)) / (2 * h)
    assert np.sum(f.gradient(W) * V) == near(slope, 1e-7)
    change = (f.gradient(W + h * V) - f.gradient(W - h * V)) / (2 * h)
    np.testing.assert_allclose(f.hessian_product(W, V), change, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("p", [2, 3, 4, 7.5])
def test_the_minimum(data, rng, p):
    X, Y = data
    f = lf.LpRegression(X, Y, p)
    assert f.value(f.minimizer) == pytest.approx(f.minimum, rel=1e-12, abs=1e-14**2)
    # Near the minimum the gradient is of the size of the square root of the gap, 1e-9 of f* or less.
    assert np.linalg.norm(f.gradient(f.minimizer)) < 1e-6
    for _ in range(20):
        W = f.minimizer + 0.1 * rng.standard_normal(f.minimizer.shape)
        assert f.value(W) >= f.minimum
    if X.shape[0] <= X.shape[1]:
        assert f.minimum == 0.0
    if p == 2:
        g = lf.LinearRegression(X, Y)
        assert f.minimum == pytest.approx(g.minimum, rel=1e-12, abs=1e-20)
        np.testing.assert_allclose(f.minimizer, g.minimizer, rtol=1e-10, atol=1e-12)
        assert (f.smoothness, f.pl_constant) == (near(g.smoothness), near(g.pl_constant))
        assert f.strong_convexity == near(g.strong_convexity) if g.strong_convexity else f.strong_convexity == 0
        assert f.dominance == near(f.pl_constant) and f.smoothness_below(3.0) == near(f.smoothness)
    else:
        assert (f.smoothness, f.pl_constant, f.strong_convexity) == (math.inf, 0.0, 0.0)


def test_the_constants_in_closed_form(rng):
    X, Y = np.diag([3.0, 2.0]), rng.standard_normal((2, 1))
    f = lf.LpRegression(X, Y, 4)  # Nm = 2, σ = 2
    assert f.growth == near(0.25 * 2**-1 * 16)
    assert f.dominance == near(4 * (2**-1 * 16) ** (1 / 3))
    assert f.smoothness_below(5.0) == near(3 * 9 * math.sqrt(4 * 5))
    tall = lf.LpRegression(np.vstack([X, np.zeros((1, 2))]), np.vstack([Y, [[1.0]]]), 4)
    assert tall.minimum == near(0.25) and tall.growth == near(0.25 * 3**-1 * 16)
    assert tall.dominance == near(4 / 3 * (0.25 * 16 / 3) ** (1 / 3))
    assert tall.smoothness_below(5.0) == near(3 * 9 * math.sqrt(4 * 5.25))


@pytest.mark.parametrize("p", [2, 3, 4, 6])
def test_the_inequalities_hold(data, rng, p):
    X, Y = data
    f = lf.LpRegression(X, Y, p)
    seen = np.eye(X.shape[1]) if f.row_space is None else f.row_space @ f.row_space.T
    for size in 10.0 ** rng.uniform(-2, 1, 40):
        W = f.minimizer + size * seen @ rng.standard_normal(f.minimizer.shape)
        gap, away = f.gap(W), np.linalg.norm(W - f.minimizer)
        if gap < 1e-7 * f.minimum:  # f* is known to 1e-9 of its size
            continue
        assert gap * 1.02 >= f.growth / p * away**p
        assert np.linalg.norm(f.gradient(W)) ** (p / (p - 1)) * 1.02 >= f.dominance * gap
        V = rng.standard_normal(W.shape)
        assert np.sum(V * f.hessian_product(W, V)) <= f.smoothness_below(gap) * np.sum(V * V) * (1 + 1e-9)


@pytest.mark.parametrize("p", [2, 4])
def test_data_that_fit_have_the_minimum_zero(rng, p):
    X, W = rng.standard_normal((20, 4)), rng.standard_normal((4, 2))
    f = lf.LpRegression(X, X @ W, p)
    assert f.minimum == 0.0
    np.testing.assert_allclose(f.minimizer, W, rtol=1e-12)


def test_the_constants_are_attained_by_scalars():
    # One number: f = (σ^p/p)|w − w*|^p has |f'|^{p/(p−1)} = C f, exactly.
    f = lf.LpRegression(np.array([[3.0]]), np.array([[1.0]]), 5)
    for w in (-2.0, 0.2, 7.0):
        W = np.array([[w]])
        assert abs(f.gradient(W)[0, 0]) ** 1.25 == near(f.dominance * f.value(W))
        assert f.hessian_product(W, np.eye(1))[0, 0] == near(f.smoothness_below(f.value(W)))


def test_what_it_does_not_see_is_left_out(rng):
    X, Y = rng.standard_normal((2, 4)), rng.standard_normal((2, 3))
    f = lf.LpRegression(X, Y, 4)
    net = lf.init.gaussian((4, 5, 3), rng=rng)
    g, seen = f.effective(net)
    assert g.shape == (2, 3) == seen.shape and g.row_space is None
    assert g.gap(seen.product()) == near(f.gap(net.product()))
    np.testing.assert_allclose(g.gradient(seen.product()), f.row_space.T @ f.gradient(net.product()), rtol=1e-10)
    assert f.gradient(net.product()).shape == (4, 3)
    whole = lf.LpRegression(np.eye(2), np.ones((2, 1)), 3)
    narrow = lf.init.gaussian((2, 2, 1), rng=rng)
    assert whole.effective(narrow) == (whole, narrow)
    quadratic = lf.LpRegression(X, Y, 2).effective(net)[0]
    assert quadratic.strong_convexity == near(np.linalg.svd(X)[1][-1] ** 2)


def test_runs_reach_the_minimum(rng):
    f = lf.LpRegression(rng.standard_normal((5, 2)), rng.standard_normal((5, 2)), 4)
    net = lf.init.gaussian((2, 6, 2), 0.5, rng=rng)
    run = lf.gradient_flow(f, net, until=1e-6)
    assert run.result is lf.Result.TARGET
    assert f.gap(run.final.product()) == near(1e-6 * run.gap[0], 1e-3)


@pytest.mark.parametrize("p", [2.0, 3.0, 4.0])
def test_the_dual_bounds_the_minimum_from_below(rng, p):
    # Inputs (1, 1) and targets 0 and 4: w = 2 leaves 2 twice. Any multiple of that residual gives the whole minimum.
    X, y = np.ones((2, 1)), np.array([0.0, 4.0])
    for size in (0.5, 1.0, 2.0):
        assert powers._dual(X, size * np.array([1.0, -1.0]), y, p) == near(2 * 2**p / p)
    assert powers._dual(X, np.array([-1.0, 1.0]), y, p) == 0.0 == powers._dual(X, np.zeros(2), y, p)
    X, y = rng.standard_normal((6, 2)), rng.standard_normal(6)
    least = lf.LpRegression(X, y[:, None], p).minimum
    for _ in range(20):
        assert powers._dual(X, X @ rng.standard_normal(2) - y, y, p) <= least * (1 + 1e-12)


def test_the_minimum_may_be_off_by_a_part_in_1e9_of_it(rng, monkeypatch):
    X, Y = 10 * rng.standard_normal((6, 2)), 10 * rng.standard_normal((6, 1))
    least = lf.LpRegression(X, Y, 4).minimum
    assert least > 10
    monkeypatch.setattr(powers, "_dual", lambda *args: least * (1 - 0.9e-9))
    lf.LpRegression(X, Y, 4)
    monkeypatch.setattr(powers, "_dual", lambda *args: least * (1 - 1.1e-9))
    with pytest.raises(ValueError, match="could not be computed to 1e-09"):
        lf.LpRegression(X, Y, 4)


def test_what_is_refused(rng, monkeypatch):
    X, Y = rng.standard_normal((5, 2)), rng.standard_normal((5, 1))
    for p in (1.9, math.nan, math.inf):
        with pytest.raises(ValueError, match="p"):
            lf.LpRegression(X, Y, p)
    with pytest.raises(ValueError, match="X has 4 rows and Y has 5"):
        lf.LpRegression(X[:4], Y, 4)
    with pytest.raises(ValueError, match="X is zero"):
        lf.LpRegression(0 * X, Y, 4)
    monkeypatch.setattr(powers, "_dual", lambda *args: 0.0)
    with pytest.raises(ValueError, match="could not be computed"):
        lf.LpRegression(X, Y, 4)


def test_the_rank_allows_for_the_longer_side():
    X = np.zeros((1000, 2))
    X[0, 0], X[1, 1] = 1.0, 100 * np.finfo(float).eps
    assert lf.LpRegression(X, np.ones((1000, 1)), 2).rank == 1


def test_growth_counts_every_entry():
    f = lf.LpRegression(np.diag([3.0, 2.0]), np.ones((2, 3)), 4)  # Nm = 6, σ = 2
    assert f.growth == near(2.0**-2 * 6.0**-1 * 2.0**4)
    assert f.smoothness_below(0.0) == 0.0  # the data fit


def test_data_fit_to_rounding(monkeypatch):
    """To 16ε of the longer side and of ‖X‖‖w‖ + ‖y‖: 0.1875 with an ε of 2⁻¹⁰, two samples and w = 3."""
    monkeypatch.setattr(powers, "EPS", 2.0**-10)
    X = np.array([[1.0], [0.0]])
    for off, fits in ((0.18, True), (0.19, False)):
        value, w = powers._minimised(X, np.array([3.0, off]), np.array([3.0]), 4.0)
        assert (value == 0.0) == fits and w == pytest.approx([3.0])
