"""Weighted and ridge regression: the definition, the constants, batches, and what reduces to what."""

import numpy as np
import pytest

import linflow as lf


@pytest.fixture
def data(rng):
    return rng.standard_normal((7, 3)), rng.standard_normal((7, 2)), rng.uniform(0.1, 3.0, 7)


def loss(X, Y, w, ridge, W):
    return 0.5 * sum(w[i] * np.sum((Y[i] - W.T @ X[i]) ** 2) for i in range(len(X))) + 0.5 * ridge * np.sum(W**2)


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_it_is_its_definition(data, ridge, rng):
    X, Y, w = data
    f = lf.LinearRegression(X, Y, weights=w, ridge=ridge)
    H = X.T @ np.diag(w) @ X + ridge * np.eye(3)
    best = np.linalg.solve(H, X.T @ (w[:, None] * Y))
    np.testing.assert_allclose(f.minimizer, best, rtol=0, atol=1e-12)
    assert f.minimum == pytest.approx(loss(X, Y, w, ridge, best), rel=1e-12, abs=0)
    values = np.linalg.eigvalsh(H)
    assert f.strong_convexity == pytest.approx(values[0], rel=1e-11, abs=0)
    assert f.smoothness == pytest.approx(values[-1], rel=1e-12, abs=0) and f.pl_constant == 2 * f.strong_convexity
    for _ in range(5):
        W, V = rng.standard_normal((2, 3, 2))
        assert f.value(W) == pytest.approx(loss(X, Y, w, ridge, W), rel=1e-12, abs=0)
        np.testing.assert_allclose(f.gradient(W), H @ (W - best), rtol=0, atol=1e-11)
        np.testing.assert_allclose(f.hessian_product(W, V), H @ V, rtol=0, atol=1e-11)


def test_a_ridge_makes_few_samples_strongly_convex(rng):
    X, Y = rng.standard_normal((2, 5)), rng.standard_normal((2, 1))
    assert lf.LinearRegression(X, Y).strong_convexity == 0
    f = lf.LinearRegression(X, Y, ridge=0.3)
    assert f.row_space is None and f.strong_convexity == pytest.approx(0.3, rel=1e-12, abs=0)


def test_weights_of_one_and_zero(data):
    X, Y, _ = data
    plain = lf.LinearRegression(X, Y)
    same = lf.LinearRegression(X, Y, weights=np.ones((7, 1)), ridge=0)
    assert np.array_equal(plain.X, same.X) and plain.minimum == same.minimum
    fewer = lf.LinearRegression(X, Y, weights=[1, 1, 1, 1, 1, 0, 0])
    part = lf.LinearRegression(X[:5], Y[:5])
    np.testing.assert_allclose(fewer.minimizer, part.minimizer, rtol=0, atol=1e-13)


def test_batches_hold_the_whole_ridge_and_average_to_the_gradient(data, rng):
    X, Y, w = data
    f = lf.LinearRegression(X, Y, weights=w, ridge=0.7)
    W, W0 = rng.standard_normal((2, 3, 2))
    for g in (f, f.shifted(W0)):
        assert g.samples == 7
        mean = np.mean([g.batch_gradient(W, np.array([i])) for i in range(7)], axis=0)
        np.testing.assert_allclose(mean, g.gradient(W), rtol=0, atol=1e-12)
    rows = np.array([1, 4])
    part = 3.5 * X[rows].T @ (w[rows, None] * (X[rows] @ W - Y[rows])) + 0.7 * W
    np.testing.assert_allclose(f.batch_gradient(W, rows), part, rtol=0, atol=1e-13)
    assert f.shifted(W0).value(W) == pytest.approx(f.value(W0 + W), rel=1e-12, abs=0)


def test_certificates_and_proofs_take_it(data):
    X, Y, w = data
    f = lf.LinearRegression(X, Y, weights=w, ridge=0.5)
    net = lf.init.ntk((3, 60, 2), rng=0)
    cert, run = lf.certify(f, net), lf.gradient_flow(f, net, until=1e-6)
    assert cert.rate > 0 and cert.check(run).holds
    low, high = lf.enclose(f, net, until=1e-3).time_bounds(1e-3)
    assert low * (1 - 1e-6) < run.time_to(1e-3) < high * (1 + 1e-6)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"weights": [1.0, 2.0]}, r"weights has the shape \(2, 1\); one for each of the 7 samples"),
        ({"weights": [1.0] * 6 + [-2.0]}, "weights holds -2"),
        ({"weights": [1.0] * 6 + [np.nan]}, "weights holds nan"),
        ({"weights": [1.0] * 6 + [np.inf]}, "weights holds inf"),
        ({"weights": [0.0] * 7}, "X is zero"),
        ({"ridge": -1.0}, "ridge is -1.0"),
    ],
)
def test_what_is_refused(data, options, what):
    with pytest.raises(ValueError, match=what):
        lf.LinearRegression(*data[:2], **options)
