"""Theorem A: once every neuron has chosen its class, the loss falls like 1/t, half by half."""

import numpy as np
import pytest

import linflow as lf
from linflow import relu
from linflow.relu.aligned import SumCurve


def chosen(seed=0, h=8, classes=2, size=0.4):
    """Data with acute angles within and obtuse ones between classes, and neurons that have chosen, some dead."""
    rng = np.random.default_rng(seed)
    y = np.array([1.0, 1, 1, -1, -1]) if classes == 2 else np.ones(5)
    X = y[:, None] * (np.array([1.0, 1.0, 1.0]) + 0.3 * rng.standard_normal((5, 3)))
    v = size * rng.uniform(0.5, 1, h) * np.where(np.arange(h) % 2 == 0, 1, -1)
    U = np.sign(v) * (0.3 * np.ones((3, 1)) + 0.05 * rng.standard_normal((3, h)))
    if classes == 1:
        U[:, v < 0] = -np.abs(U[:, v < 0])
    return X, y, relu.Network(U, v[:, None])


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
@pytest.mark.parametrize("classes", [1, 2])
def test_the_guarantee_holds_along_the_flow(loss, classes):
    for seed in range(3):
        X, y, net = chosen(seed, classes=classes)
        cert = relu.certify(X, y, net, loss=loss)
        assert cert.best is not None and cert.reason == ""
        run = relu.gradient_flow(X, y, net, t_max=50.0, loss=loss)
        check = cert.check(run)
        assert check.holds and check.worst_slack >= 1 and not run.flips
        t = run.time_to(0.1)
        assert t <= cert.time_to(0.1) < np.inf and cert.gap_at(cert.time_to(0.1)) <= 0.1 * cert.gap * (1 + 1e-9)
        # dead neurons and opposite classes see nothing of each other: signs stay as they were
        kept = (run.final.preactivations(X) > 0) == (net.preactivations(X) > 0)
        assert kept.all()


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_each_half_is_a_linear_model_of_two_layers(loss):
    X, y, net = chosen(4)
    cert = relu.certify(X, y, net, loss=loss)
    objective = {"exponential": lf.ExponentialLoss, "logistic": lf.LogisticLoss}[loss]
    total, linear = 0.0, 0.0
    for sign in (1, -1):
        rows, v = y == sign, net.V[:, 0]
        neurons = v * sign > 0
        half = objective(X[rows], y[rows])
        layers = lf.Network([net.U[:, neurons], net.V[neurons]])
        total += half.gap(layers.product())
        linear += half.tail_gap(half.gap(layers.product()), 3.0, float(np.sum(v[neurons] ** 2)))
        run = lf.gradient_flow(half, layers, t_max=3.0)
        assert cert.guarantees[0].facts[f"hard margin, {'positive' if sign > 0 else 'negative'}"] == half.hard_margin
        here = relu.gradient_flow(X, y, net, t_max=3.0, loss=loss).final
        np.testing.assert_allclose(here.U[:, neurons], run.final.weights[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(here.V[neurons], run.final.weights[1], rtol=0, atol=1e-6)
    assert cert.gap == pytest.approx(total, rel=1e-12, abs=0)
    assert cert.gap_at(3.0) == pytest.approx(linear, rel=1e-9, abs=0)


def test_which_hypothesis_fails_is_said():
    X, y, net = chosen(5)
    turned = X.copy()
    turned[1] = -turned[1]
    assert "y_i y_k" in relu.certify(turned, y, net, loss="logistic").reason
    mixed = relu.Network(net.U * np.where(np.arange(8) == 0, -1, 1), net.V)
    assert "1 of 8 neurons" in relu.certify(X, y, mixed, loss="logistic").reason
    none = relu.Network(np.where(net.V[:, 0] > 0, -1, 1) * np.abs(net.U), np.abs(net.V))
    assert relu.certify(X, y, none, loss="logistic").rate == 0
    leaky = relu.Network(net.U, net.V, slope=0.1)
    assert "slope" in relu.certify(X, y, leaky, loss="logistic").reason
    positive = relu.Network(net.U[:, ::2], net.V[::2])
    assert "no neuron is active on the negative samples" in relu.certify(X, y, positive, loss="exponential").reason
    with pytest.raises(ValueError, match="labels other than"):
        relu.certify(X, 2 * y, net, loss="logistic")
    with pytest.raises(ValueError, match="the flow only"):
        relu.certify(X, y, net, loss="logistic", algorithm="descent")
    with pytest.raises(ValueError, match="for one"):
        relu.certify(X, y, relu.paired((3, 4, 2), rng=0), loss="logistic")


def test_signs_within_rounding_are_not_taken_for_granted():
    """A pre-activation or a product of samples that could have either sign is refused; exact zeros are not."""
    X, y = np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([1.0, -1.0])
    net = relu.Network(np.array([[1.0, 0.0], [0.0, -1.0]]), [[1.0], [-1.0]])
    assert relu.certify(X, y, net, loss="logistic").best is not None  # orthogonal by disjoint supports
    tilted = np.array([[1.0, 1e-17], [0.0, -1.0]])
    assert relu.certify(tilted, y, net, loss="logistic").best is not None
    close = np.array([[1.0, 1.0], [1.0 + 1e-16, -1.0]])
    assert "not certain" in relu.certify(close, y, relu.Network(close.T, [[1.0], [-1.0]]), loss="logistic").reason
    almost = relu.Network(np.array([[1.0, 1e-30], [0.0, -1.0]]), [[1.0], [-1.0]])
    assert "neurons" in relu.certify(X, y, almost, loss="logistic").reason


def test_rate_of_a_sum_is_that_of_its_worst_split():
    parts = []
    for margin, alpha in ((0.7, 2.0), (0.3, 1.5)):
        half = lf.ExponentialLoss([[margin]], [1.0])
        parts.append(
            type(relu.certify(*chosen(6), loss="exponential").guarantees[0].curve.parts[0])(half.tail, 1.0, alpha)
        )
    curve = SumCurve(tuple(parts))
    c = [2.0 * 0.7**2, 1.5 * 0.3**2]
    split = np.linspace(0, 1, 10_001)
    assert curve.rate_at(0.5) == pytest.approx(
        np.min(c[0] * (0.5 * split) ** 2 + c[1] * (0.5 * (1 - split)) ** 2) / 0.5, rel=1e-6
    )
    assert curve.gap(curve.time(0.2)) <= 0.2 * (1 + 1e-12) and curve.time(2.5) == 0.0
    assert curve.gap(0.999 * curve.time(0.2)) > 0.2


def test_a_product_that_underflows_to_0_has_no_sign():
    """⟨x_1, x_2⟩ = −10⁻³⁴⁰, then z = 10⁻³⁴⁰ on the other class: both are 0 in float64, and neither is allowed."""
    t = 1e-170
    X, one = np.array([[1.0, 0.0, t], [0.0, 1.0, -t]]), relu.Network([[1.0], [1.0], [0.0]], [[1.0]])
    cert = relu.certify(X, [1.0, 1.0], one, loss="logistic")
    assert "samples 1 and 2" in cert.reason
    assert relu.certify(np.abs(X) * (t != X), [1.0, 1.0], one, loss="logistic").best is not None
    X, Y = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, t]]), [1.0, -1.0]
    reasons = [
        relu.certify(
            X, Y, relu.Network([[1.0, -1.0], [0.0, 1.0], [last, 0.0]], [[1.0], [-1.0]]), loss="logistic"
        ).reason
        for last in (t, 0.0)
    ]
    assert "active on samples of both classes" in reasons[0] and reasons[1] == ""


def test_the_sizes_of_data_and_weights_do_not_matter():
    X, y, net = chosen(2)
    for p, a in ((400, -300), (-400, 300)):
        scaled = relu.Network(np.ldexp(net.U, a), net.V)
        reason = relu.certify(np.ldexp(X, p), y, scaled, loss="logistic").reason
        assert "not certain" not in reason and "neuron" not in reason
