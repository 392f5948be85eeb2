"""Circular networks: the objective against its definition, its constants, and the flow of the filters."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import linflow as lf
from linflow.model.circular import _phase, circulant
from linflow.model.coefficients import STRUCTURE


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


@pytest.mark.parametrize("d", [4, 5])
def test_chains_with_an_output_scale_and_several_samples(d, rng):
    """Even rows and filters have real spectra: `|ŵ_l|`, one of them with the sign of the product."""
    even = [[0, 1, 2, 1], [0, 1, 2, 2, 1]][d - 4]
    X, filters, scale = rng.standard_normal((3, 3))[:, even], rng.standard_normal((3, 3))[:, even], 1.7
    f = lf.CircularRegression(X, rng.standard_normal(3))
    net = lf.Network(f.start(filters).weights, scale)
    chains, half = f.chains(net), d // 2 + 1
    waves = np.cos(2 * np.pi * np.outer(np.arange(d), np.arange(half)) / d)
    spectra, rows = filters @ waves, X @ waves
    np.testing.assert_allclose(np.abs(chains.layers), scale ** (1 / 3) * np.abs(spectra), rtol=1e-12)
    many = np.array([1.0 if j == 0 or 2 * j == d else 2.0 for j in range(half)]) / d
    phases = np.sign(rows[np.argmax(np.abs(rows), axis=0), np.arange(half)])
    np.testing.assert_allclose(np.prod(chains.layers, axis=0), scale * np.prod(spectra, axis=0) * phases, rtol=1e-12)
    np.testing.assert_allclose(chains.inputs, many * rows * phases, rtol=1e-12)
    np.testing.assert_allclose(chains.costs, many, rtol=1e-15)
    assert chains.speed == pytest.approx(scale ** (2 / 3) / d, rel=1e-15) and not chains.opposite
    np.testing.assert_allclose(chains.basis @ np.prod(chains.layers, axis=0), f.coefficients(net), rtol=0, atol=1e-13)
    np.testing.assert_allclose(f.modes(net), [np.fft.fft(W[0]) for W in net.weights], rtol=1e-15)
    largest = np.argmax(np.abs(spectra), axis=0)
    assert all(np.sum(chains.layers[:, j] < 0) <= 1 for j in range(half))  # the sign is that of the largest layer
    assert all(chains.layers[largest[j], j] * phases[j] * np.prod(spectra[:, j]) > 0 for j in range(half))


@pytest.mark.parametrize("part", [0.9, 1.1])
def test_phases_may_differ_by_rounding(part):
    """`STRUCTURE` of the largest frequency of the data, and of the norms of the filters."""
    odd = np.array([0.0, 1.0, -1.0])  # its spectrum is ∓i√3 at frequency 1
    away = part * STRUCTURE / np.sqrt(3) * odd
    X = np.array([[3.0, 1.0, 1.0], [0.5, 0.25, 0.25]])  # the largest frequency is 5
    shifted = X + np.array([np.zeros(3), 5 * away])
    w = np.array([[1.0, 0.5, 0.5], [2.0, 0.25, 0.25]])
    sizes = np.linalg.norm(w, axis=1)
    # ŵ_1 is ½ at frequency 1, so that of the product moves by half of what w_2 does.
    moved = w + np.array([np.zeros(3), 2 * sizes[0] * sizes[1] * away])
    for data, filters, what in ((shifted, w, "the inputs"), (X, moved, "the product of the filters")):
        f = lf.CircularRegression(data, [1.0, 2.0])
        if part < 1:
            f.chains(f.start(filters))
        else:
            with pytest.raises(ValueError, match=f"at frequency 1 the phases of {what} differ"):
                f.chains(f.start(filters))


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("part", [0.9, 1.1])
def test_a_frequency_that_is_rounding_is_not_seen(part, side):
    X = np.array([[1.0, 1.0, 1.0]]) + part * STRUCTURE * np.array([[2.0, -1.0, -1.0]])  # 3, and 3·part·STRUCTURE
    f = lf.CircularRegression(side * X, [1.0])
    found = f.chains(f.start([[1.0, 0.5, 0.5], [-2.0, 0.25, 0.25]]))
    assert (found.inputs[0, 1] == 0) == (part < 1)
    # The phase is that of the product where nothing is seen, and that of the data elsewhere.
    assert np.prod(found.layers[:, 1]) == pytest.approx(0.5 * 2.25 * (1 if part < 1 else -side), rel=1e-12)


def test_phases():
    assert _phase(np.array([0.0, 0.5j, -3.0])).tolist() == [1.0, 1j, -1.0]


def test_layers_of_another_shape_are_not_circulant(rng):
    f = lf.CircularRegression(rng.standard_normal((1, 3)), [1.0])
    net = lf.Network([rng.standard_normal((3, 4)), rng.standard_normal((4, 3))])
    with pytest.raises(ValueError, match="W_1 is not exactly circulant"):
        f.modes(net)
