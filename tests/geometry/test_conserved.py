"""What the flow conserves: values, counts as ranks of derivatives, and the laws along runs at rtol 1e-8 a step."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import linflow as lf


def derivative_rank(net, value):
    """The rank of the derivative of `value(weights)`, a quadratic or linear map, by exact differences."""
    columns = []
    for l, W in enumerate(net.weights):
        for entry in np.ndindex(*W.shape):
            step = np.zeros(W.shape)
            step[entry] = 0.5
            up, down = ([*net.weights[:l], W + s * step, *net.weights[l + 1 :]] for s in (1, -1))
            columns.append((value(up) - value(down)).ravel())  # the second order cancels
    return np.linalg.matrix_rank(np.array(columns), tol=1e-9)


@pytest.mark.parametrize("widths", [(1, 1, 1), (2, 3, 2), (2, 7, 2), (1, 4, 1), (3, 2, 4), (2, 3, 4, 2)])
def test_values_and_counts(rng, widths):
    net = lf.init.gaussian(widths, rng=rng)
    found = lf.conserved(net)
    assert [one.name for one in found] == [f"D_{l}" for l in range(1, net.depth)]
    for l, one in enumerate(found):
        np.testing.assert_array_equal(one.value, lf.imbalance_matrices(net)[l])
        assert one.count == derivative_rank(net, lambda weights, l=l: lf.imbalance_matrices(weights)[l])
        assert one.decay == 0.0 and one.symmetry == f"W_{l + 1} → W_{l + 1} S, W_{l + 2} → S⁻¹ W_{l + 2}"


def test_what_an_objective_does_not_see_is_frozen(rng):
    f = lf.LinearRegression(rng.standard_normal((2, 5)), rng.standard_normal((2, 3)))
    net = lf.init.gaussian((5, 4, 3), 0.5, rng=rng)
    *_, frozen = lf.conserved(net, f)
    P = np.eye(5) - np.linalg.pinv(f.X) @ f.X
    assert (frozen.name, frozen.decay) == ("frozen rows of W_1", 0.0)
    np.testing.assert_allclose(frozen.value, P @ net.weights[0], atol=1e-14)
    assert frozen.count == derivative_rank(net, lambda weights: P @ weights[0]) == 12
    run = lf.gradient_flow(f, net, until=1e-6)
    np.testing.assert_allclose(lf.conserved(run.final, f)[1].value, frozen.value, atol=1e-13)
    q = lf.Quadratic(np.eye(3), np.diag([2.0, 1.0, 0.0]), np.array([[1.0, 2.0, 0.0]] * 3))
    net = lf.init.gaussian((3, 4, 5, 3), 0.5, rng=rng)
    *_, frozen = lf.conserved(net, q)
    assert frozen.name == "frozen columns of W_3" and frozen.symmetry == "W_3 → W_3 + Z (I − UUᵀ)"
    right = np.diag([0.0, 0.0, 1.0])
    np.testing.assert_allclose(frozen.value, net.weights[2] @ right, atol=1e-14)
    assert frozen.count == derivative_rank(net, lambda weights: weights[2] @ right) == 5
    assert len(lf.conserved(net, lf.MatrixFactorization(np.eye(3)))) == 2


def test_weight_decay_lets_them_fall(rng):
    decay, end = 0.3, 1.5
    f = lf.LinearRegression(rng.standard_normal((1, 2)), rng.standard_normal((1, 2)))
    net = lf.init.gaussian((2, 3, 2), rng=rng)

    def slope(t, y):
        weights = [y[:6].reshape(2, 3), y[6:].reshape(3, 2)]
        G = f.gradient(weights[0] @ weights[1])
        parts = G @ weights[1].T, weights[0].T @ G
        return -np.concatenate([(g + decay * W).ravel() for g, W in zip(parts, weights, strict=True)])

    y = solve_ivp(slope, (0, end), np.concatenate([W.ravel() for W in net.weights]), rtol=1e-11, atol=1e-12).y[:, -1]
    last = [y[:6].reshape(2, 3), y[6:].reshape(3, 2)]
    for one, then in zip(
        lf.conserved(net, f, weight_decay=decay), lf.conserved(last, f, weight_decay=decay), strict=True
    ):
        np.testing.assert_allclose(np.exp(one.decay * end) * then.value, one.value, atol=1e-8)
    assert "falls as e^(−0.6t)" in repr(lf.conserved(net, weight_decay=decay)[0])


def test_what_does_not_fit(rng):
    with pytest.raises(ValueError, match="weight_decay"):
        lf.conserved(lf.init.gaussian((2, 3, 2), rng=rng), weight_decay=-1.0)
    with pytest.raises(ValueError, match="product is 2×2"):
        lf.conserved(lf.init.gaussian((2, 3, 2), rng=rng), lf.MatrixFactorization(np.ones((3, 2))))
    assert lf.conserved([np.eye(2)]) == ()


def test_layer_rates_and_friction(rng):
    f = lf.LinearRegression(rng.standard_normal((1, 2)), rng.standard_normal((1, 2)))
    net, rates = lf.init.gaussian((2, 3, 2), rng=rng), (1.0, 5.0)
    first, frozen = lf.conserved(net, f, layer_rates=rates)
    A, B = net.weights
    np.testing.assert_allclose(first.value, A.T @ A - B @ B.T / 5, atol=1e-14)
    run = lf.gradient_flow(f, net, t_max=1.0, layer_rates=rates)
    last, _ = lf.conserved(run.final, f, layer_rates=rates)
    np.testing.assert_allclose(last.value, first.value, atol=1e-8)
    assert [one.name for one in lf.conserved(net, f, layer_rates=rates, weight_decay=0.1)] == [frozen.name]
    equal = lf.conserved(net, layer_rates=(2, 2), weight_decay=0.1)
    assert [one.decay for one in equal] == [0.4]
    spin, still = lf.conserved(net, f, friction=0.5)
    assert (spin.name, spin.decay, still.name) == ("angular momentum 1", 0.5, "frozen rows of W_1")
    assert spin.count == 3 and not spin.value.any() and spin.symmetry.endswith("S orthogonal")
    # It stays 0 along a heavy ball from rest, whose imbalance changes; rates by central differences of 1e-4.
    times = (0.7 - 1e-4, 0.7, 0.7 + 1e-4)
    run = lf.gradient_flow(f, net, t_max=1.0, friction=0.5, times=times, rtol=1e-10)
    before, now, after = (run.network_at(t).weights for t in times)
    V = [(b - a) / 2e-4 for a, b in zip(before, after, strict=True)]
    M = now[0].T @ V[0] - V[1] @ now[1].T
    np.testing.assert_allclose(M, M.T, atol=1e-6)
    assert np.abs(M).max() > 1e-2 and run.stats.imbalance_drift > 1e-2


@pytest.mark.parametrize("widths", [(1, 1, 1), (2, 3, 2), (2, 7, 2), (1, 4, 1), (3, 2, 4), (1, 5, 2)])
def test_the_numbers_of_an_angular_momentum(rng, widths):
    """The rank of `V ↦ M − Mᵀ`, `M = W_1ᵀV_1 − V_2W_2ᵀ`: S moves only what some weight sees."""
    A, B = lf.init.gaussian(widths, rng=rng).weights

    def momentum(velocities):
        M = A.T @ velocities[0] - velocities[1] @ B.T
        return M - M.T

    (spin,) = lf.conserved([A, B], friction=0.5)
    assert spin.count == derivative_rank(lf.init.gaussian(widths, rng=rng), momentum)


@pytest.mark.parametrize("bias", [None, [0.3, -0.2, 0.0]])
def test_a_relu_network_keeps_one_number_for_each_neuron(bias):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((5, 2)), rng.standard_normal((5, 1))
    U, V = rng.standard_normal((2, 3)), rng.standard_normal((3, 1))
    U[:, 2], V[2] = 0.0, 0.0  # this one holds no number
    net = lf.relu.Network(U, V, bias)
    (first,) = lf.conserved(net)
    (last,) = lf.conserved(lf.relu.gradient_flow(X, Y, net, t_max=1.0).final)
    b = np.zeros(3) if bias is None else np.array(bias)
    np.testing.assert_allclose(first.value, np.sum(U**2, axis=0) + b**2 - np.sum(V**2, axis=1), rtol=1e-14)
    np.testing.assert_allclose(last.value, first.value, atol=1e-7)  # the accuracy of the flow
    assert (first.count, first.decay) == (2, 0.0)
    assert lf.conserved(net, weight_decay=0.25)[0].decay == 0.5


@pytest.mark.parametrize("option", [{"layer_rates": (1.0, 2.0)}, {"friction": 1.0}])
def test_options_of_linear_networks_are_refused_for_relu_ones(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is for linear networks"):
        lf.conserved(lf.relu.paired((2, 4, 1), rng=0), **option)
