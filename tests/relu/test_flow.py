"""The flow: against steps that know nothing of events, its flips, sliding, and what it conserves."""

import copy
import math
import pickle

import numpy as np
import pytest

import linflow as lf
from linflow import relu
from linflow.relu.pieces import OFF, ON, SLIDING, Field, Pattern
from linflow.relu.problem import Regression
from tests.reference import relu as reference
from tests.relu.starts import drawn


def euler(X, Y, net, t, steps):
    """The weights at t by the midpoint rule with the sign of every pre-activation as it is: order 1 at flips."""
    U, V, s, h = net.extended.copy(), net.V.copy(), net.slope, t / steps
    X = net.inputs(X)

    def speeds(U, V):
        Z = X @ U
        a = np.where(Z > 0, 1.0, s)
        R = (a * Z) @ V - Y
        return -X.T @ (a * (R @ V.T)), -(a * Z).T @ R

    for _ in range(steps):
        dU, dV = speeds(U, V)
        dU, dV = speeds(U + 0.5 * h * dU, V + 0.5 * h * dV)
        U, V = U + h * dU, V + h * dV
    return U, V


@pytest.mark.parametrize(
    "kind",
    [{"h": 20}, {"h": 20, "s": 0.2, "bias": True, "m": 2, "paired": False}, {"N": 6, "d": 3, "h": 20, "size": 0.5}],
)
def test_runs_agree_with_small_steps_across_flips(kind):
    X, Y, net = drawn(1, **kind)
    run = relu.gradient_flow(X, Y, net, t_max=1.0)
    assert run.result is lf.Result.TIME_LIMIT and len(run.flips) > 0
    U, V = euler(X, Y, net, 1.0, 8000)
    # errors of order 1/8000 of the velocity, at flips and while a pair slides
    assert np.abs(run.final.extended - U).max() < 2e-4 and np.abs(run.final.V - V).max() < 2e-4
    assert run.stats.imbalance_drift < 1e-9  # rtol 1e-8, and errors of several steps of either sign


def test_flips_are_where_signs_change():
    X, Y, net = drawn(2, N=6, d=3, h=20, size=0.5)
    run = relu.gradient_flow(X, Y, net, until=1e-3)
    crossings = [f for f in run.flips if {f.before, f.after} == {"on", "off"}]
    assert len(crossings) > 2
    for f in crossings:
        before, at, after = (
            run.network_at(t).preactivations(X)[f.sample, f.neuron] for t in (f.t * (1 - 1e-3), f.t, f.t * (1 + 1e-3))
        )
        assert abs(at) < 1e-9 and (before > 0) == (f.before == "on") and (after > 0) == (f.after == "on")
    assert [f.t for f in run.flips] == sorted(f.t for f in run.flips)


def slider():
    """One neuron; sample 0 pushes it off itself, sample 1 pushes it back through the angle between them."""
    X = np.array([[1.0, 0.0], [0.6, 0.8]])
    return X, np.array([[-3.0], [2.0]]), relu.Network([[0.02], [0.5]], [[1.0]])


def test_a_neuron_slides_along_a_sample_that_both_sides_push_back():
    X, Y, net = slider()
    run = relu.gradient_flow(X, Y, net, t_max=0.3)
    slides = [f for f in run.flips if f.after == "sliding"]
    assert slides and slides[0].sample == 0
    inside = run.network_at(slides[0].t + 0.01)
    assert abs(inside.preactivations(X)[0, 0]) < 1e-12
    U, V = euler(X, Y, net, 0.3, 12_000)
    assert np.abs(run.final.U - U).max() < 3e-4 and np.abs(run.final.V - V).max() < 3e-4


def test_sliding_slopes_balance_and_stay_within_the_interval():
    X, Y, net = slider()
    run = relu.gradient_flow(X, Y, net, t_max=0.3)
    t = next(f.t for f in run.flips if f.after == "sliding") + 0.01
    now = run.network_at(t)
    field = Field(Regression(X, Y), net, net.slope)
    y = field.vector(now.U, now.V)
    pattern = Pattern(np.array([[SLIDING], [ON]]), 0.0)
    _, _, forces, pulls = field.sliding_forces(y, pattern)
    a = forces / pulls
    assert 0 < a[0] < 1
    point = field.at(y, pattern)
    assert abs(X[0] @ point.U_dot[:, 0]) < 1e-14
    assert point.forces[0, 0] == pytest.approx(a[0] * point.pulls[0, 0], rel=1e-12, abs=0)


def test_a_slide_ends_where_it_does_and_not_where_a_polynomial_through_a_pole_says():
    """On this slide a pull falls to near 0, and the slope `f/q` has a pole: the run once chattered, 46 flips long."""
    rng = np.random.default_rng(28)
    N, d, h, m, s = 6, 7, 8, 2, 0.1
    rng.bit_generator.advance(3)  # to a draw with such a slide
    X, Y = rng.standard_normal((N, d)) / d**0.5, rng.standard_normal((N, m))
    net = relu.Network(rng.standard_normal((d, h)), rng.standard_normal((h, m)) / h**0.5, slope=s)
    run, proved = relu.gradient_flow(X, Y, net, t_max=3.0), relu.enclose(X, Y, net, t_max=3.0)
    assert len(run.flips) == len(proved.turns)
    for t in (0.5, 1.0, 2.0, 3.0):
        low, high = proved.gap_bounds(t)
        assert low * (1 - 1e-8) <= run.gap_at(t) <= high * (1 + 1e-8)  # the tolerance of the run is 1e-8 a step


def test_the_rate_is_the_slope_of_the_loss_on_every_piece():
    X, Y, net = drawn(2, N=6, d=3, h=20, size=0.5)
    run = relu.gradient_flow(X, Y, net, until=1e-2)
    assert any(f.after == "sliding" for f in run.flips)
    for k in range(2, len(run.t) - 1, 3):
        t, h = 0.5 * (run.t[k] + run.t[k + 1]), 1e-4 * (run.t[k + 1] - run.t[k])
        now = run.network_at(t)
        slope = math.log(run.gap_at(t - h) / run.gap_at(t + h)) / (2 * h)
        sides = np.where(np.abs(now.preactivations(X)) < 1e-11, SLIDING, np.where(now.preactivations(X) > 0, ON, OFF))
        field = Field(Regression(X, Y), net, net.slope)
        # differences over 1e-4 of a step, of losses with an error of 1e-12 or so
        assert field.at(field.vector(now.U, now.V), Pattern(sides, 0.0)).rate == pytest.approx(slope, rel=1e-4, abs=0)


def test_path_is_the_integral_of_the_residual():
    X, Y, net = drawn(3)
    run = relu.gradient_flow(X, Y, net, t_max=0.5)
    grid = np.linspace(0, 0.5, 501)
    sizes = np.sqrt(2 * run.gap_at(grid))
    # the trapezoidal rule has an error of about (1/500)² of the integral
    assert run.path[-1] == pytest.approx(np.trapezoid(sizes, grid), rel=1e-5, abs=0)


def test_the_target_is_met_and_times_agree():
    X, Y, net = drawn(4, h=40, size=2.0)
    run = relu.gradient_flow(X, Y, net, until=1e-5)
    assert run.result is lf.Result.TARGET
    assert run.gap[-1] == pytest.approx(1e-5 * run.gap[0], rel=1e-10, abs=0)
    assert run.time_to(1e-5) == run.t[-1] and run.time_to(1e-6) == np.inf
    t = run.time_to(1e-2)
    assert run.gap_at(t) == pytest.approx(1e-2 * run.gap[0], rel=1e-9, abs=0)
    assert run.stats.gap_error < 1e-6  # rtol 1e-7 of the second run, a few steps of it


def test_repeated_samples_flip_together():
    X, Y, net = drawn(5, N=4, d=3, h=20, size=0.5)
    X[1], Y[1] = X[0], Y[0]
    run = relu.gradient_flow(X, Y, net, until=1e-3)
    both = [{f.t for f in run.flips if f.sample == i} for i in (0, 1)]
    assert both[0] == both[1]


@pytest.mark.parametrize("s", [0.0, 0.2])
def test_at_zero_the_slope_is_that_of_the_left_where_it_can_be(s):
    """All pre-activations 0, as PyTorch takes them: nothing moves for ReLU, and everything for a leaky one."""
    X, Y, _ = drawn(6, N=3, d=4)
    run = relu.gradient_flow(X, Y, relu.Network(np.zeros((4, 2)), np.ones((2, 1)), slope=s), t_max=0.1)
    if s == 0:
        assert run.result is lf.Result.STATIONARY and not run.flips and run.t[-1] == 0
    else:
        assert run.gap[-1] < run.gap[0]


def test_three_samples_at_zero_are_resolved_together():
    """In the pattern chosen, no sample is pushed against its side."""
    rng = np.random.default_rng(7)
    for _ in range(40):
        X, Y, v = rng.standard_normal((4, 3)), rng.standard_normal((4, 1)), rng.standard_normal((2, 1))
        u = np.linalg.svd(X[:2])[2][2]  # x_0 and x_1 at 0
        field = Field(Regression(X, Y), relu.Network(rng.standard_normal((3, 2)), v), 0.0)
        y = field.vector(np.column_stack([u, rng.standard_normal(3)]), v)
        pattern = Pattern(np.where(field.z(y) > 0, ON, OFF), 0.0)
        found = field.resolve(y, pattern, 0, np.array([0, 1]))
        z_dot = X @ field.at(y, found).U_dot[:, 0]
        for i in (0, 1):
            side = found.sides[i, 0]
            assert z_dot[i] * side >= -1e-12 if side else abs(z_dot[i]) < 1e-12


def test_times_outside_a_run_are_refused():
    X, Y, net = drawn(8)
    run = relu.gradient_flow(X, Y, net, t_max=0.01)
    with pytest.raises(ValueError, match="lies outside"):
        run.network_at(0.02)
    assert repr(run).startswith("Trajectory(time limit reached")


def test_literal_twin_of_outputs_is_used_by_the_loss():
    X, Y, net = drawn(9, m=2, paired=False)
    run = relu.gradient_flow(X, Y, net, t_max=1e-3)
    R = reference.outputs(X, net.U, net.V, 0.0) - Y
    assert run.loss[0] == pytest.approx(0.5 * np.sum(R**2), rel=1e-14, abs=0)


def test_runs_and_certificates_can_be_pickled():
    X, Y, net = drawn(10, h=60, size=3.0)
    run, cert = relu.gradient_flow(X, Y, net, until=1e-2), relu.certify(X, Y, net)
    again, same = pickle.loads(pickle.dumps((run, cert)))
    assert (again.gap == run.gap).all() and again.gap_at(0.5 * run.t[-1]) == run.gap_at(0.5 * run.t[-1])
    assert again.stats.gap_error == run.stats.gap_error and same.rate == cert.rate
    assert copy.deepcopy(cert).check(again).holds


def test_times_at_recorded_levels_are_found_though_losses_round():
    X, Y, net = drawn(11, h=60, size=3.0)
    run = relu.gradient_flow(X, Y, net, until=1e-3)
    for k in range(1, len(run.t)):
        level = float(run.gap[k] / run.gap[0])
        for near in (level, level * (1 - 2e-16), level * (1 + 2e-16)):
            assert run.time_to(min(near, 1 - 1e-16)) == pytest.approx(run.t[k], rel=1e-9, abs=0)


@pytest.mark.parametrize(("p", "a"), [(200, -100), (-200, 50), (-250, 0), (120, 0)])
def test_units_do_not_matter(p, a):
    """Data and weights times powers of two: the same run but for the scale of time."""
    X, Y, net = drawn(12, h=30, size=1.0)
    one = relu.gradient_flow(X, Y, net, until=1e-3)
    P, A = 2.0**p, 2.0**a
    run = relu.gradient_flow(P * X, P * A * A * Y, relu.Network(A * net.U, A * net.V), until=1e-3)
    assert run.result is lf.Result.TARGET and len(run.flips) == len(one.flips)
    # steps differ by the rounding of exponents; both have rtol 1e-8
    assert run.t[-1] * (P * A) ** 2 == pytest.approx(one.t[-1], rel=1e-6, abs=0)
    assert run.path[-1] * P == pytest.approx(one.path[-1], rel=1e-6, abs=0)
    assert run.rate.min() / (P * A) ** 2 == pytest.approx(one.rate.min(), rel=1e-5, abs=0)
    cert = relu.certify(P * X, P * A * A * Y, relu.Network(A * net.U, A * net.V))
    assert cert.check(run).holds


def test_a_start_beyond_float64_says_so():
    X, Y, net = drawn(1, paired=False)
    for data in ((1e200 * X, Y, net), (X, 1e300 * Y, net), (X, Y, relu.Network(1e200 * net.U, 1e200 * net.V))):
        run = relu.gradient_flow(*data, t_max=1.0)
        assert run.result is lf.Result.DIVERGED and run.stats.steps == 0
