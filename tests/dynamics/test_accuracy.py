"""How right a run is: the loss curve at and between the steps, the time it stops at, and the error it reports."""

import numpy as np
import pytest
from scipy.integrate import DOP853, solve_ivp

import linflow as lf
from linflow.dynamics import _tableau
from linflow.dynamics._hermite import interpolate
from tests.reference.algebra import layer_gradients, product


def _orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def _usual():
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((20, 5))
    return 0.1 * Y / np.linalg.norm(Y), lf.init.ntk((20, 30, 5), rng=rng)


def _deep():
    rng = np.random.default_rng(3)
    W = [0.5 * _orthogonal(rng, 6) for _ in range(5)]
    Y = _orthogonal(rng, 6) @ np.diag(np.linspace(0.5, 1.5, 6)) @ _orthogonal(rng, 6)
    Y[0] *= np.sign(np.linalg.det(Y) * np.prod([np.linalg.det(A) for A in W]))
    return Y, lf.Network(W)


def _small(size):
    rng = np.random.default_rng(5)
    Y = _orthogonal(rng, 8)[:, :3] @ np.diag([3.0, 2.0, 1.0]) @ _orthogonal(rng, 8)[:3]
    return Y, lf.init.gaussian((8, 16, 8), std=size, rng=rng)


def _three_layers():
    rng = np.random.default_rng(7)
    Y = rng.standard_normal((5, 5))
    return 0.1 * Y / np.linalg.norm(Y), lf.init.ntk((5, 30, 30, 5), rng=rng)


def _apart():
    return np.eye(2), lf.Network([1e6 * np.eye(2), 1e-6 * np.array([[1.0, 0.5], [0.0, 1.0]])])


PROBLEMS = {
    "two layers": (_usual, 1e-10),
    "five orthogonal layers": (_deep, 1e-10),
    "three layers": (_three_layers, 1e-10),
    "small start": (lambda: _small(1e-3), 1e-8),
    "tiny start": (lambda: _small(1e-8), 1e-8),  # waits at three saddles
    "layers of sizes apart": (_apart, 1e-10),
}


def _truth(Y, network, t):
    """`log ℓ` at t by SciPy at its tightest tolerance, whose norm does not see the smaller one of two layers."""
    if network.weights[0][0, 0] == 1e6:
        return np.log(0.125) - 2e12 * t  # W_1 moves by 1e-12 of itself
    weights = [np.asarray(W) for W in network.weights]
    cuts = np.cumsum([W.size for W in weights])[:-1]

    def layers(y):
        return [part.reshape(W.shape) for part, W in zip(np.split(y, cuts), weights, strict=True)]

    def field(_, y):
        now = layers(y)
        slopes = layer_gradients(product(now, network.scale) - Y, now, network.scale)
        return -np.concatenate([G.ravel() for G in slopes])

    start = np.concatenate([W.ravel() for W in weights])
    solution = solve_ivp(field, (0, t[-1]), start, "DOP853", t, rtol=3e-14, atol=1e-18)
    return np.log([0.5 * np.sum((product(layers(y), network.scale) - Y) ** 2) for y in solution.y.T])


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_curve_is_right_at_and_between_the_steps(name):
    build, until = PROBLEMS[name]
    Y, network = build()
    f = lf.MatrixFactorization(Y)
    usual = lf.gradient_flow(f, network, until=until)
    t = np.asarray(usual.t)
    t = np.unique(np.concatenate([t[:-1] + np.diff(t) * s for s in np.linspace(0, 1, 5)]))
    truth = _truth(Y, network, t)
    for rtol in (1e-5, 1e-7, 1e-8, 1e-9):
        run = usual if rtol == 1e-8 else lf.gradient_flow(f, network, until=until, rtol=rtol)
        seen = t <= run.t[-1]
        error = np.abs(np.log(run.gap_at(t[seen])) - truth[seen]).max()
        # What is promised of the estimate; 1e-10 is what the reference itself is good for at gaps of 1e-10.
        assert run.stats.gap_error >= 0.5 * error - 1e-10
        assert run.stats.gap_error <= 1000 * error + 1e-9  # it says something
        if rtol <= 1e-8:
            assert error < 1e-6  # what is promised of the default
        # The target is met, to 1e-12 and the rounding of the gap there.
        rounding = 4 * np.sqrt(f.rounding(run.final) / run.gap[-1])
        assert abs(np.log(run.gap[-1] / run.gap[0] / until)) < 2e-12 + rounding


def test_coefficients_are_those_of_scipy():
    for ours, theirs in [
        (_tableau.A, DOP853.A[:12, :12]),
        (_tableau.B, DOP853.B),
        (_tableau.E3, DOP853.E3[:12]),
        (_tableau.E5, DOP853.E5[:12]),
    ]:
        assert np.array_equal(ours, theirs)
    assert DOP853.E3[12] == DOP853.E5[12] == 0  # the slope at the end, which we do not evaluate for the error


def test_interpolation_is_exact_for_polynomials_and_of_order_twelve(rng):
    nodes = np.cumsum(rng.uniform(0.5, 1.5, 9))
    x = np.linspace(nodes[1], nodes[-2], 100)
    p = np.polynomial.Polynomial(rng.standard_normal(12), domain=[nodes[0], nodes[-1]])
    got = interpolate(x, nodes, p(nodes), p.deriv()(nodes), p.deriv(2)(nodes))
    # Divided differences of degree 11 lose three digits or four.
    assert np.abs(got - p(x)).max() < 1e-11 * np.abs(p(x)).max()
    errors = []
    for count in (12, 24):
        t = np.linspace(0, 12, count + 1)
        x = np.linspace(t[1], t[-2], 1000)
        errors.append(np.abs(interpolate(x, t, np.sin(t), np.cos(t), -np.sin(t)) - np.sin(x)).max())
    assert np.log2(errors[0] / errors[1]) > 10


def test_interpolation_ignores_a_neighbour_that_is_too_short():
    t = np.array([0.0, 1.0, 2.0, 2.0 + 1e-9, 3.0])
    noise = 1e-10 * np.array([1, -1, 1, -1, 1])
    x = np.linspace(1, 2, 50)
    got = interpolate(x, t, np.sin(t) + noise, np.cos(t), -np.sin(t))
    # The noise of the values, and the error of degree 8 on steps of length 1.
    assert np.abs(got - np.sin(x)).max() < 1e-6
    assert np.array_equal(interpolate(t, t, np.sin(t), np.cos(t), -np.sin(t))[:3], np.sin(t)[:3])
