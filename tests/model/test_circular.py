"""Circular networks: the objective against its definition, its constants, and the flow of the filters."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import linflow as lf
from linflow.model.circular import circulant


def convolved(filters):
    """Return `w_1 ⊛ ⋯ ⊛ w_L` by the sum that defines it."""
    found = filters[0]
    for w in filters[1:]:
        d = len(w)
        found = np.array([sum(found[i] * w[(k - i) % d] for i in range(d)) for k in range(d)])
    return found


def test_circulants_multiply_as_their_filters_convolve(rng):
    filters = rng.standard_normal((3, 5))
    f = lf.CircularRegression(rng.standard_normal((2, 5)), [1.0, 2.0])
    net = f.start(filters)
    np.testing.assert_allclose(f.coefficients(net), convolved(filters), rtol=0, atol=1e-13)
    np.testing.assert_allclose(net.product(), circulant(convolved(filters)), rtol=0, atol=1e-13)
    for W, w in zip(net.weights, filters, strict=True):
        assert all(W[i, j] == w[(j - i) % 5] for i in range(5) for j in range(5))


def test_value_gradient_and_constants(rng):
    X, y = rng.standard_normal((7, 5)), rng.standard_normal(7)
    f = lf.CircularRegression(X, y)
    W, V = rng.standard_normal((2, 5, 5))
    beta = np.array([np.mean([W[i, (i + k) % 5] for i in range(5)]) for k in range(5)])
    np.testing.assert_allclose(f.coefficients(W), beta, rtol=0, atol=1e-14)
    assert f.value(W) == pytest.approx(0.5 * np.sum((y - X @ beta) ** 2), rel=1e-12)
    np.testing.assert_allclose(f.gradient(W), circulant(X.T @ (X @ beta - y)) / 5, rtol=0, atol=1e-12)
    np.testing.assert_allclose(f.hessian_product(W, V), f.gradient(W + V) - f.gradient(W), rtol=0, atol=1e-12)
    s = np.linalg.svd(X)[1]
    assert f.smoothness == pytest.approx(s[0] ** 2 / 5, rel=1e-12)
    assert f.pl_constant == pytest.approx(2 * s[-1] ** 2 / 5, rel=1e-10)
    best = np.linalg.lstsq(X, y, rcond=None)[0]
    np.testing.assert_allclose(f.minimizer, circulant(best), rtol=0, atol=1e-12)
    for _ in range(20):
        W = rng.standard_normal((5, 5))
        slope = np.sum(f.gradient(W) ** 2)
        assert f.pl_constant * f.gap(W) <= slope * (1 + 1e-12) and slope <= 2 * f.smoothness * f.gap(W) * (1 + 1e-12)


def test_the_flow_is_that_of_the_filters_and_keeps_the_power_of_each_frequency(rng):
    X, y, filters = rng.standard_normal((2, 5)), rng.standard_normal(2), 0.7 * rng.standard_normal((3, 5))
    f, end = lf.CircularRegression(X, y), 2.0

    def loss_slope(_, z):
        w = z.reshape(3, 5)
        hats = np.fft.fft(w)
        g = np.fft.fft(X.T @ (X @ convolved(w) - y))
        others = [np.prod(np.delete(hats, l, 0), 0) for l in range(3)]
        return -np.array([np.fft.ifft(np.conj(o) * g).real for o in others]).ravel()

    z = solve_ivp(loss_slope, (0.0, end / 5), filters.ravel(), method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    run = lf.gradient_flow(f, f.start(filters), t_max=end)
    power = []
    for W, w in zip(run.weights, z.reshape(3, 5), strict=True):
        np.testing.assert_allclose(W, circulant(w), rtol=0, atol=1e-6)  # the run's steps have 1e-8
        power.append(np.abs(np.fft.fft(w)) ** 2)
    before = np.abs(np.fft.fft(filters)) ** 2
    np.testing.assert_allclose(np.diff(power, axis=0), np.diff(before, axis=0), rtol=0, atol=1e-9)
    for l, D in enumerate(lf.imbalance_matrices(f.start(filters))):
        kept = before[l] - before[l + 1]
        np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(D)), np.sort(kept), rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", [2, 4, 5])
def test_chains_of_one_sample_make_predictions_and_coefficients(d, rng):
    f = lf.CircularRegression(rng.standard_normal((1, d)), [1.0])
    filters = np.zeros((2, d))
    filters[:, 0] = 0.8, 0.0
    run = lf.gradient_flow(f, f.start(filters), until=1e-6)
    chains = f.chains(run.final)
    p = np.prod(chains.layers, axis=0)
    np.testing.assert_allclose(chains.basis @ p, f.coefficients(run.final), rtol=0, atol=1e-10)
    np.testing.assert_allclose(chains.inputs @ p, f.X @ f.coefficients(run.final), rtol=0, atol=1e-10)
    assert chains.costs.sum() == pytest.approx(1.0, rel=1e-14)  # every frequency once, over d


def test_frequencies_that_the_data_do_not_see_keep_their_phase(rng):
    X = np.ones((1, 4))  # only frequency 0
    f = lf.CircularRegression(X, [2.0])
    net = f.start(rng.standard_normal((2, 4)))
    found = lf.predicted_limit(f, net)
    run = lf.gradient_flow(f, net, until=1e-13)
    np.testing.assert_allclose(f.coefficients(run.final), found.coefficients, rtol=0, atol=1e-5)
