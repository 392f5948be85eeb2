"""The stabilised method: its order, its stability region, and the bound on the spectrum it relies on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import linflow as lf
from linflow.dynamics import _stabilized as rkc
from linflow.dynamics.field import GradientField
from tests.random_networks import networks


def _final(steps, stages):
    """A nonlinear pair with a known solution: ẏ = −y² from 1, ż = −3z."""

    def field(y):
        return np.array([-(y[0] ** 2), -3 * y[1]])

    y, h = np.array([1.0, 1.0]), 1.0 / steps
    slope, errors = field(y), []
    for _ in range(steps):
        y, slope, error = rkc.step(field, y, slope, h, stages)
        errors.append(error)
    return np.linalg.norm(y - [0.5, np.exp(-3.0)]), sum(errors)


@pytest.mark.parametrize("stages", [2, 3, 5, 12])
def test_order_two(stages):
    fine, coarse = _final(200, stages), _final(100, stages)
    # Regression of the error on h: order 2, to the terms of order 3 at these steps.
    assert np.log2(coarse[0] / fine[0]) == pytest.approx(2, abs=0.1)
    assert np.log2(coarse[1] / fine[1]) == pytest.approx(2, abs=0.1)  # a local error of order 3, summed
    assert 0.3 < fine[1] / fine[0] < 30  # the estimate is of the size of the error


@pytest.mark.parametrize("stages", [2, 3, 7, 20, 60, 200])
def test_stability_on_the_negative_axis(stages):
    h = rkc.longest_step(stages, 1.0)
    assert rkc.stages_for(h * (1 - 1e-12), 1.0) == stages or stages == 2
    for z in np.linspace(0, h, 400):
        y, _, _ = rkc.step(lambda v, z=z: -z * v, np.ones(1), -z * np.ones(1), 1.0, stages)
        assert abs(y[0]) <= 1 + 1e-12  # damped inside, 1 at z = 0


def test_last_slope_is_that_of_the_result():
    def field(v):
        return -(v**3)

    y = np.array([1.0, -2.0])
    new, slope, _ = rkc.step(field, y, field(y), 0.01, 4)
    np.testing.assert_array_equal(slope, field(new))


@given(network=networks())
def test_the_bound_on_the_spectrum_is_above_the_hessian(network):
    rng = np.random.default_rng(0)
    f = lf.MatrixFactorization(rng.standard_normal(network.shape))
    field = GradientField(f, network)
    y = field.flatten(network.weights)
    gradient = np.linalg.norm(f.gradient(network.product()))
    bound = rkc.spectral_radius(network, f.smoothness, gradient)
    size = np.linalg.norm(y)
    H = np.empty((len(y), len(y)))
    h = 1e-5 * max(size, 1e-3)
    for i in range(len(y)):
        e = np.zeros(len(y))
        e[i] = h
        H[:, i] = (field(y - e) - field(y + e)) / (2 * h)
    # Central differences of a polynomial: some h² of the third derivative, and rounding over h.
    assert np.linalg.norm((H + H.T) / 2, 2) <= bound * (1 + 1e-6) + 1e-5 * (1 + bound)


def test_a_stiff_tail_needs_few_evaluations():
    # Two rates 10⁴ apart, the fast one settled: an explicit method of 12 stages would need 20 000 evaluations.
    A = np.diag([1e4, 1.0])
    y = np.array([0.0, 1.0])
    slope, t, used = -A @ y, 0.0, 0
    while t < 1.0 - 1e-12:
        h = min(0.01, 1.0 - t)
        s = rkc.stages_for(h, 1e4)
        y, slope, _ = rkc.step(lambda v: -A @ v, y, slope, h, s)
        t, used = t + h, used + s
    assert abs(y[1] - np.exp(-1.0)) < 1e-5  # order 2 at h = 0.01
    assert used < 2000


def _stiff():
    """Small weights and a target of rank 3: the last decades of the loss take a thousand times as long as others."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((10, 10)))[0] for _ in range(2))
    f = lf.MatrixFactorization(U[:, :3] @ np.diag([3.0, 2.0, 1.0]) @ V[:, :3].T)
    return f, lf.init.gaussian((10, 20, 10), std=2e-3, rng=1)


@pytest.fixture(scope="module")
def never_switched():
    """Runs that stay explicit, which take longest: at a tolerance of 1e-11, and at the usual one."""
    f, net = _stiff()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rkc.Stiffness, "review", lambda self, point, h, allowed: h)
        return [lf.gradient_flow(f, net, until=1e-10, engine="compiled", **how) for how in ({"rtol": 1e-11}, {})]


@pytest.mark.parametrize("engine", ["compiled", "plain"])
def test_a_stiff_tail_is_switched_to_and_right(engine, never_switched):
    f, net = _stiff()
    explicit, usual = never_switched
    switched = lf.gradient_flow(f, net, until=1e-10, engine=engine)
    assert switched.result is explicit.result is lf.Result.TARGET
    assert switched.stats.evaluations < 0.2 * usual.stats.evaluations
    t = np.geomspace(1e-2, float(explicit.t[-1]) * (1 - 1e-6), 200)
    at_steps = np.asarray(switched.t)[np.asarray(switched.t) <= t[-1]]
    error = np.abs(np.log(switched.gap_at(at_steps) / explicit.gap_at(at_steps))).max()
    # The loss curve right to 1e-6 at the default tolerance; what is estimated is of that size.
    assert error < 1e-6
    if engine == "compiled":  # the plain loop would take seconds to run it again
        assert switched.stats.gap_error > 0.5 * error


def test_both_engines_take_the_same_stabilised_steps():
    f, net = _stiff()
    compiled, plain = (lf.gradient_flow(f, net, until=1e-10, engine=engine) for engine in ("compiled", "plain"))
    assert abs(len(compiled.t) - len(plain.t)) <= 0.1 * len(plain.t)  # rounding decides some rejections
    assert compiled.t[-1] == pytest.approx(plain.t[-1], rel=1e-6)


def test_an_objective_without_smoothness_is_left_alone():
    loss = lf.ExponentialLoss(np.array([[1.0, 0.2], [0.5, 1.0]]), np.array([1.0, 1.0]))
    field = GradientField(loss, lf.init.gaussian((2, 3, 1), rng=0))
    point = field.at(field.flatten(field.network.weights))
    assert rkc.Stiffness(field).review(point, 123.0, lambda h: 1.0) == 123.0
