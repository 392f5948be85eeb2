"""Diagonal networks: the objective against its definition, its constants, and the flow of u and v."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import linflow as lf


@pytest.fixture
def data(rng):
    X = rng.standard_normal((4, 6))
    return X, X @ np.array([2.0, 0, 0, -1.0, 0, 0]) + 0.1 * rng.standard_normal(4)


@pytest.mark.parametrize("signed", [True, False])
def test_value_gradient_and_constants(signed, rng):
    X, y = rng.standard_normal((11, 6)), rng.standard_normal(11)
    f = lf.DiagonalRegression(X, y, signed=signed)
    n = 12 if signed else 6
    assert f.shape == (n, n)
    W, V = rng.standard_normal((2, n, n))
    beta = np.diag(W)[:6] - np.diag(W)[6:] if signed else np.diag(W)
    np.testing.assert_allclose(f.coefficients(W), beta, rtol=1e-15)
    assert f.value(W) == pytest.approx(0.5 * np.sum((y - X @ beta) ** 2), rel=1e-12)
    g = X.T @ (X @ beta - y)
    np.testing.assert_allclose(f.gradient(W), np.diag(np.concatenate([g, -g]) if signed else g), atol=1e-12)
    np.testing.assert_allclose(f.hessian_product(W, V), f.gradient(W + V) - f.gradient(W), atol=1e-12)
    best = np.linalg.lstsq(X, y, rcond=None)[0]
    assert f.minimum == pytest.approx(0.5 * np.sum((y - X @ best) ** 2), rel=1e-12)
    assert f.gap(f.minimizer) < 1e-28 and np.allclose(f.coefficients(f.minimizer), best)
    parts, s = (2 if signed else 1), np.linalg.svd(X)[1]
    assert f.smoothness == pytest.approx(parts * s[0] ** 2, rel=1e-12)
    assert f.pl_constant == pytest.approx(2 * parts * s[5] ** 2, rel=1e-10)
    assert f.strong_convexity == 0
    for _ in range(20):
        W = rng.standard_normal((n, n))
        slope = np.sum(f.gradient(W) ** 2)
        assert f.pl_constant * f.gap(W) <= slope * (1 + 1e-12) and slope <= 2 * f.smoothness * f.gap(W) * (1 + 1e-12)


def test_a_rank_below_the_rows_and_columns(data):
    X, y = data
    f = lf.DiagonalRegression(np.vstack([X, X[:2]]), np.concatenate([y, y[:2]]))
    s = np.linalg.svd(np.vstack([X, X[:2]]))[1]
    assert f.pl_constant == pytest.approx(4 * s[3] ** 2, rel=1e-10) and f.minimum < 1e-25


@pytest.mark.parametrize("depth", [2, 3])
def test_the_flow_is_that_of_u_and_v(data, depth):
    X, y = data
    f, alpha, end = lf.DiagonalRegression(X, y), 0.3, 0.8

    def field(_, z):
        u, v = z[:6], z[6:]
        g = X.T @ (X @ (u**depth - v**depth) - y)
        return np.concatenate([-(u ** (depth - 1)) * g, v ** (depth - 1) * g])

    z = solve_ivp(field, (0.0, end), np.full(12, alpha), method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    run = lf.gradient_flow(f, f.start(depth, alpha), t_max=end)
    # The run's relative tolerance of a step is 1e-8.
    np.testing.assert_allclose(f.coefficients(run.final), z[:6] ** depth - z[6:] ** depth, rtol=0, atol=1e-6)
    for W in run.weights:
        np.testing.assert_allclose(W, np.diag(z), rtol=0, atol=1e-6)


def test_small_starts_find_the_sparse_solution_and_large_ones_the_least_norm():
    """x = (1, 2), y = 1: least ℓ₁ norm at (0, ½), least ℓ₂ norm at (0.2, 0.4)."""
    f = lf.DiagonalRegression([[1.0, 2.0]], [1.0])
    small, large = (f.coefficients(lf.gradient_flow(f, f.start(2, size), until=1e-12).final) for size in (1e-5, 30.0))
    np.testing.assert_allclose(small, [0.0, 0.5], atol=1e-4)
    np.testing.assert_allclose(large, [0.2, 0.4], atol=1e-3)


def test_starts(data):
    f = lf.DiagonalRegression(*data)
    net = f.start(3, 0.5)
    assert net.depth == 3 and all(np.array_equal(W, 0.5 * np.eye(12)) for W in net.weights)
    assert np.array_equal(f.coefficients(net), np.zeros(6))
    assert np.array_equal(f.start(1, list(range(12))).product(), np.diag(np.arange(12.0)))
    with pytest.raises(ValueError, match=r"shape \(3,\); one number, or 12 numbers"):
        f.start(2, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="depth"):
        f.start(0)


def test_what_is_refused(data):
    X, y = data
    with pytest.raises(ValueError, match="X has 4 rows and y has 3"):
        lf.DiagonalRegression(X, y[:3])
    with pytest.raises(ValueError, match="X is zero"):
        lf.DiagonalRegression(0 * X, y)
    assert lf.DiagonalRegression(X, y[:, None]).minimum == lf.DiagonalRegression(X, y).minimum


def test_rounding_is_four_epsilon_of_the_sizes_that_form_the_product(data):
    f, eps = lf.DiagonalRegression(*data), np.finfo(float).eps
    net = f.start(2, 0.5)
    size = 4 * eps * (0.25 * 12 + np.linalg.norm(f.minimizer))  # ‖W_l‖_F² is 12/4
    assert f.rounding(net) == pytest.approx(0.5 * f.smoothness * size**2, rel=1e-14, abs=0)
    assert f.gradient_rounding(net) == pytest.approx(f.smoothness * size, rel=1e-14, abs=0)


def test_certificates_and_descent_take_it(data):
    f = lf.DiagonalRegression(*data)
    net = f.start(2, 0.5)
    assert lf.certify(f, net).gap == pytest.approx(f.gap(net.product()))
    run = lf.gradient_descent(f, net, step_size=0.2 / f.smoothness, steps=50)
    assert run.gap[-1] < run.gap[0] and not run.notes


@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_the_limit_of_two_layers_minimises_a_hyperbolic_entropy(data, alpha):
    """asinh(β/2α²) is in the row space of X: the condition for the least Σ φ(β_i) with φ' = ½ asinh(β/2α²)."""
    X, y = data
    f = lf.DiagonalRegression(X, y)
    beta = f.coefficients(lf.gradient_flow(f, f.start(2, alpha), until=1e-16).final)
    np.testing.assert_allclose(X @ beta, y, atol=1e-6)
    slope = np.arcsinh(beta / (2 * alpha**2))
    P = np.linalg.pinv(X) @ X
    # The condition holds all along the flow; the run's relative tolerance of a step is 1e-8.
    np.testing.assert_allclose(P @ slope, slope, rtol=0, atol=1e-5)


def test_the_rank_allows_for_the_longer_side():
    """Of 1000 samples, a singular value of 100ε of the largest is rounding."""
    X, y = np.zeros((1000, 2)), np.zeros(1000)
    X[0, 0], X[1, 1], y[0], y[1] = 1.0, 100 * np.finfo(float).eps, 1.0, 1.0
    f = lf.DiagonalRegression(X, y)
    assert f.coefficients(f.minimizer).tolist() == [1.0, 0.0] and f.pl_constant == pytest.approx(4.0, rel=1e-12)


def test_sizes_are_one_row():
    with pytest.raises(ValueError, match="one number, or 2 numbers are needed"):
        lf.DiagonalRegression(np.eye(1), [1.0]).start(2, [[1.0, 2.0]])


def test_chains_share_the_output_scale():
    """Each layer has the N-th root of it, and moves at its square."""
    f = lf.DiagonalRegression(np.eye(1), [1.0])
    found = f.chains(lf.Network([np.diag([2.0, 3.0])] * 3, 0.5))
    assert found.speed == pytest.approx(0.5 ** (2 / 3), rel=1e-14)
    np.testing.assert_allclose(found.layers, 0.5 ** (1 / 3) * np.array([[2.0, 3.0]] * 3), rtol=1e-14)
