"""The integrator against closed forms, a tight reference, conservation laws and its own order."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linflow as lf
from linflow.dynamics import _dop853
from linflow.dynamics.field import GradientField
from tests.random_networks import networks
from tests.reference import dynamics as twin


def problem(widths, rng, size=1.0):
    Y = rng.standard_normal((widths[0], widths[-1]))
    return lf.MatrixFactorization(size * Y / np.linalg.norm(Y)), lf.init.gaussian(widths, 0.7, rng=rng)


@pytest.mark.parametrize(
    ("u", "v", "target"), [(0.3, 0.2, 1.0), (2.0, 1.0, 0.5), (1.0, 2.0, -1.5), (1.0, -1.0 + 1e-3, 1.0)]
)
def test_scalar_two_layers_against_the_closed_form(u, v, target):
    f = lf.MatrixFactorization([[target]])
    run = lf.gradient_flow(f, [np.array([[u]]), np.array([[v]])], t_max=3.0, times=[0.1, 0.5, 1.0, 2.0])
    for t in (0.1, 0.5, 1.0, 2.0, 3.0):
        exact = twin.two_layer_scalar(u * u - v * v, target, u * v, t)
        # rtol 1e-8 a step, a few dozen steps, sensitivity of order one.
        assert run.network_at(t).product()[0, 0] == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize(("n", "m", "h", "lam"), [(2, 2, 2, 0.5), (3, 2, 2, 0.7), (2, 3, 2, -0.4), (3, 3, 3, 0.0)])
def test_lambda_balanced_against_the_closed_form(n, m, h, lam, rng):
    Y = rng.standard_normal((n, m))
    A = rng.standard_normal((h, h))
    _, s, Vt = np.linalg.svd(A)
    # W_1ᵀW_1 − W_2W_2ᵀ = λI on the hidden side: singular values a² − b² = λ with shared hidden vectors.
    b2 = s**2 + max(0.0, -lam)
    left = np.linalg.qr(rng.standard_normal((n, h)))[0]
    right = np.linalg.qr(rng.standard_normal((m, h)))[0]
    W1, W2 = left * np.sqrt(b2 + lam) @ Vt, (Vt.T * np.sqrt(b2)) @ right.T
    np.testing.assert_allclose(W1.T @ W1 - W2 @ W2.T, lam * np.eye(h), atol=1e-12)
    run = lf.gradient_flow(lf.MatrixFactorization(Y), [W1, W2], t_max=1.0, rtol=1e-12)
    exact = twin.lambda_balanced(Y, W1, W2, 1.0)
    np.testing.assert_allclose(run.final.product(), exact, atol=1e-9)


@pytest.mark.parametrize("widths", [(4, 3), (4, 6, 3), (3, 4, 5, 3), (2, 3, 3, 3, 2)])
def test_against_scipy(widths, rng):
    f, net = problem(widths, rng)
    times = [0.3, 1.0, 4.0]
    run = lf.gradient_flow(f, net, t_max=4.0, times=times)
    expected = twin.flow(f.gradient, list(net.weights), times)
    for t, weights in zip(times, expected, strict=True):
        for got, want in zip(run.network_at(t).weights, weights, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-7)


@settings(max_examples=25)
@given(
    net=networks(layers=st.integers(1, 4), side=st.integers(1, 3), hidden=st.integers(1, 4)), seed=st.integers(0, 99)
)
def test_laws_of_the_flow(net, seed):
    """The loss falls, the imbalance stays, −L̇/ℓ is at least γ λ_min(T), and every certificate holds."""
    f = lf.MatrixFactorization(np.random.default_rng(seed).standard_normal(net.shape))
    run = lf.gradient_flow(f, net, until=1e-4, t_max=3.0, record=("least_eigenvalue",), max_steps=3000)
    assert (np.diff(run.gap) <= 1e-9 * run.gap[:-1] + 1e-25).all()
    size = max(float((W**2).sum()) for W in (*net.weights, *run.weights)) + 1e-300
    assert run.stats.imbalance_drift <= 1e-6 * size  # steps × rtol, with room
    some = run.gap > 0
    assert (2 * run.least_eigenvalue[some] <= run.rate[some] * (1 + 1e-7) + 1e-7 * run.rate.max()).all()
    assert lf.certify(f, net).check(run).holds


def test_order_of_the_step(rng):
    """Observed order by regression over step sizes: 8 globally, hence 9 for one step."""
    f, net = problem((3, 4, 3), rng)
    field = GradientField(f, net)
    y = field.flatten(net.weights)
    sizes, errors = np.array([0.4, 0.2, 0.1]), []
    fine = 32
    for h in sizes:
        exact = y
        for _ in range(fine):
            exact, _ = _dop853.step(field, exact, field(exact), h / fine)
        once, _ = _dop853.step(field, y, field(y), h)
        errors.append(np.linalg.norm(once - exact))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert 8 < slope < 10.5


def test_stops_exactly_at_the_target(rng):
    f, net = problem((4, 6, 3), rng)
    for until in (0.5, 1e-3, 1e-10):
        run = lf.gradient_flow(f, net, until=until)
        assert run.result is lf.Result.TARGET
        assert run.gap[-1] / run.gap[0] == pytest.approx(until, rel=1e-9, abs=0)
        noise = 4 * math.sqrt(run.gap[-1] * f.rounding(net))  # of a square whose root is off by rounding
        assert f.gap(run.final.product()) == pytest.approx(run.gap[-1], rel=1e-12, abs=noise)


@pytest.mark.parametrize(("rtol", "until"), [(1e-8, 1e-10), (1e-4, 1e-3)])
def test_a_target_that_was_reached_has_a_time(rtol, until, tmp_path):
    """The flow lands within its tolerance: half of the runs end a little above the target, and have reached it."""
    above = 0
    for seed in range(12):
        f, net = problem((5, 8, 3), np.random.default_rng(seed))
        run = lf.gradient_flow(f, net, until=until, rtol=rtol)
        assert run.result is lf.Result.TARGET and run.until == until
        above += bool(run.gap[-1] > until * run.gap[0])
        # The last step brings the gap down by far more than the landing may be off.
        assert float(run.t[-2]) < run.time_to(until) <= float(run.t[-1])
        times = run.time_to([1.001 * until, until * (1 + 1e-15), until, until * (1 - 1e-15), 0.999 * until])
        assert (np.diff(times) >= 0).all() and times[3] <= run.t[-1] and times[4] == math.inf
        # What the run did not aim at has not been reached by a hair: another run ends at this time, without a target.
        assert lf.gradient_flow(f, net, t_max=0.9 * float(run.t[-1]), rtol=rtol).time_to(until) == math.inf
    assert above > 1
    run.save(tmp_path / "run.nc")
    assert lf.load(tmp_path / "run.nc").time_to(until) == run.time_to(until)


def test_a_target_between_two_roundings_of_the_gap_has_a_time():
    """Near a minimum the gap has few values; the run lands on one of them, above the target or below."""
    f = lf.MatrixFactorization(np.eye(2))
    for e in (1e-11, 1e-10, 1e-8, 1e-7):
        run = lf.gradient_flow(f, [(1 + e) * np.eye(2), np.eye(2)], until=1e-6)
        assert run.result is lf.Result.TARGET
        assert run.time_to(1e-6) <= run.t[-1]
    run = lf.gradient_flow(f, [(1 + 1e-12) * np.eye(2), np.eye(2)], until=1e-6)
    # The target, 10⁻³⁰, is below the rounding of the gap: nobody can tell whether it was reached.
    assert f.rounding(run.final) > 1e-30 and run.result is lf.Result.ROUNDING
    run = lf.gradient_descent(lf.MatrixFactorization([[2e-155]]), [[[1e-155]]], step_size=0.5, steps=99, until=1e-9)
    assert run.result is not lf.Result.TARGET or run.time_to(1e-9) <= run.t[-1]  # subnormal gaps round by half


@pytest.mark.parametrize("widths", [(5, 8, 3), (3, 5, 5, 3)])
def test_loss_curve_is_right_between_the_steps(widths, rng):
    f, net = problem(widths, rng)
    run = lf.gradient_flow(f, net, until=1e-10)
    tight = lf.gradient_flow(f, net, t_max=float(run.t[-1]), rtol=1e-13)
    t = np.linspace(0, run.t[-1], 400)
    # The promise of the defaults: 1e-6 relative down to 1e-10; interpolation adds a few 1e-6 on the widest steps.
    assert np.abs(np.log(run.gap_at(t) / tight.gap_at(t))).max() < 2e-5
    assert np.abs(np.log(run.gap / tight.gap_at(run.t))).max() < 2e-5
    for s in (0.37, 0.81):
        assert f.gap(run.network_at(s * run.t[-1]).product()) == pytest.approx(
            float(run.gap_at(s * run.t[-1])), rel=2e-5
        )


def test_rate_is_the_slope_of_the_log_loss(rng):
    f, net = problem((4, 6, 3), rng)
    run = lf.gradient_flow(f, net, until=1e-6)
    t, h = 0.5 * run.t[-1], 1e-4
    slope = -(math.log(run.gap_at(t + h)) - math.log(run.gap_at(t - h))) / (2 * h)
    moved = run.network_at(t)
    squared = sum(float((g**2).sum()) for g in moved.gradient(f.gradient(moved.product())))
    assert slope == pytest.approx(squared / f.gap(moved.product()), rel=1e-4)


def test_scale_multiplies_the_rate(rng):
    """f(c·W_1W_2) from weights W follows f(W_1W_2) from √c·W, c times as fast per layer pair."""
    Y = rng.standard_normal((3, 2))
    f = lf.MatrixFactorization(Y)
    net = lf.init.gaussian((3, 5, 2), rng=rng)
    scaled = lf.Network(net.weights, scale=0.25)
    plain = lf.Network([0.5 * W for W in net.weights])
    one = lf.gradient_flow(f, scaled, until=1e-6)
    two = lf.gradient_flow(f, plain, until=1e-6)
    assert one.t[-1] * 0.25 == pytest.approx(two.t[-1], rel=1e-7)
    assert lf.certify(f, scaled).rate == pytest.approx(0.25 * lf.certify(f, plain).rate, rel=1e-9)


def test_change_of_basis_commutes_with_the_flow(rng):
    f, net = problem((3, 5, 3), rng)
    Q = [np.linalg.qr(rng.standard_normal((h, h)))[0] for h in net.widths]
    turned = net.with_weights([A @ W @ B.T for A, W, B in zip(Q, net.weights, Q[1:], strict=False)])
    g = lf.MatrixFactorization(Q[0] @ f.minimizer @ Q[-1].T)
    one, two = lf.gradient_flow(f, net, t_max=2.0), lf.gradient_flow(g, turned, t_max=2.0)
    np.testing.assert_allclose(Q[0] @ one.final.product() @ Q[-1].T, two.final.product(), atol=1e-7)


class TestEndings:
    """A run that cannot reach its target ends with a name and all it computed."""

    f = lf.MatrixFactorization(np.diag([2.0, 1.0]))

    def test_zero_start(self):
        run = lf.gradient_flow(self.f, [np.zeros((2, 3)), np.zeros((3, 2))])
        assert run.result is lf.Result.STATIONARY
        assert not run.result.ok
        assert len(run.t) == 1

    def test_saddle_ahead(self):
        net = lf.init.spectral((2, 4, 2), np.diag([2.0, 1.0]), np.array([[0.5, 0.0], [0.5, 0.0]]), rng=0)
        run = lf.gradient_flow(self.f, net)
        assert run.result is lf.Result.STATIONARY
        assert run.gap[-1] == pytest.approx(0.5, rel=1e-9)
        with pytest.raises(ValueError, match=r"stationary.*lies outside"):  # and no advice that would not help
            run.gap_at(1e6)

    def test_stable_manifold_of_the_saddle(self):
        run = lf.gradient_flow(lf.MatrixFactorization([[2.0]]), [np.array([[1.5]]), np.array([[-1.5]])])
        assert run.result is lf.Result.STATIONARY
        assert abs(run.weights[0][0, 0]) < 1e-6

    def test_at_the_minimum(self):
        start = [np.diag([2.0, 1.0]), np.eye(2)]
        for run in (lf.gradient_flow(self.f, start), lf.gradient_descent(self.f, start, step_size=0.1, steps=3)):
            assert run.result is lf.Result.ROUNDING
            assert run.result.ok
            assert run.gap[-1] == 0

    def test_time_limit(self, rng):
        run = lf.gradient_flow(self.f, lf.init.gaussian((2, 3, 2), rng=rng), until=1e-10, t_max=0.1)
        assert run.result is lf.Result.TIME_LIMIT
        assert run.t[-1] == 0.1

    def test_step_limit(self, rng):
        run = lf.gradient_flow(self.f, lf.init.gaussian((2, 3, 2), rng=rng), max_steps=5)
        assert run.result is lf.Result.STEP_LIMIT
        assert 1 < len(run.t) <= 6

    def test_target_below_rounding(self):
        for seed in range(20):
            run = lf.gradient_flow(self.f, lf.init.gaussian((2, 3, 2), rng=seed), until=1e-60, max_steps=5000)
            # Where a factor is weak in some direction, its gradient is rounding a little before the gap is.
            assert run.result in (lf.Result.ROUNDING, lf.Result.STATIONARY)
            assert run.gap[-1] < 1e-27

    def test_step_underflow(self):
        """No number beyond a wall on the way to the minimum: steps shrink until they move nothing."""

        def inside(W):
            return W.sum() >= 0.7

        f = lf.Objective(
            lambda W: float((W**2).sum()) if inside(W) else float("nan"),
            lambda W: 2 * W if inside(W) else W * np.nan,
            shape=(1, 1),
            minimum=0.0,
        )
        run = lf.gradient_flow(f, [np.array([[1.0]])] * 2, until=1e-6)
        assert run.result is lf.Result.STEP_UNDERFLOW
        assert run.final.product()[0, 0] == pytest.approx(0.7, abs=1e-12)
        assert (np.diff(run.gap) < 0).all()

    def test_gradient_with_a_jump(self):
        """The flow slides along the jump for ever; the limit on steps ends it."""
        f = lf.Objective(
            lambda W: float(np.abs(W - 1).sum() + 1e-3),
            lambda W: np.where(W > 1, 1.0, -1.0) * np.ones_like(W),
            shape=(1, 1),
            minimum=0.0,
        )
        run = lf.gradient_flow(f, [np.array([[0.5]]), np.array([[1.0]])], until=1e-6, max_steps=1000)
        assert run.result is lf.Result.STEP_LIMIT
        assert run.gap[-1] == pytest.approx(1e-3, rel=1e-6)

    def test_plateaus_of_small_starts_are_crossed(self):
        for size in (1e-3, 1e-8):
            run = lf.gradient_flow(self.f, lf.init.small((2, 4, 2), size, rng=0))
            assert run.result is lf.Result.TARGET

    def test_small_start_learns_modes_in_order(self):
        """Each mode rises near t = log(1/α)/σ (vanishing start, two layers)."""
        alpha = 1e-6
        net = lf.init.spectral((2, 2, 2), np.diag([2.0, 1.0]), alpha, rng=0)
        run = lf.gradient_flow(self.f, net, until=1e-8, record=("singular_values",))
        for mode, s in enumerate((2.0, 1.0)):
            rise = np.interp(0.5 * s, run.singular_values[:, mode], run.t)
            assert rise == pytest.approx(math.log(1 / alpha) / s, rel=0.1)

    def test_no_number_at_the_start(self, rng):
        net = lf.init.gaussian((2, 4, 2), rng=rng)
        f = lf.Objective(lambda W: float("nan"), lambda W: W * np.nan, shape=(2, 2), minimum=0.0)
        for run in (lf.gradient_flow(f, net), lf.gradient_descent(f, net, step_size=0.1, steps=5)):
            assert run.result is lf.Result.DIVERGED

    def test_numbers_at_the_edge_of_float64(self, rng):
        huge = lf.Network([1e40 * np.eye(2)] * 3)
        assert lf.gradient_flow(self.f, huge, max_steps=200).result is lf.Result.TARGET
        record = ("singular_values", "imbalance_drift", "least_eigenvalue")
        run = lf.gradient_descent(self.f, huge, step_size=0.1, steps=5, record=record)
        assert run.result is lf.Result.DIVERGED
        deep = [rng.standard_normal((2, 2)) + np.eye(2) for _ in range(10)]
        assert lf.gradient_descent(self.f, deep, step_size=1e8, steps=100).result is lf.Result.DIVERGED
        tiny = [np.array([[1e-160]]), np.array([[2e-160]])]
        assert lf.gradient_flow(lf.MatrixFactorization([[2.0]]), tiny).result is lf.Result.TARGET

    def test_crossing_a_target_at_rounding_level(self):
        """The gap near 1e-19 comes in steps of 1e-6 of itself; none of them is the target."""
        net = [np.array([[-1.5]]), np.array([[1.45]])]
        run = lf.gradient_flow(lf.MatrixFactorization([[2.0]]), net, until=1e-20)
        assert run.result is lf.Result.TARGET
        assert run.stats.steps < 200

    def test_target_at_the_start(self, rng):
        run = lf.gradient_flow(self.f, lf.init.gaussian((2, 4, 2), rng=rng), until=1 - 1e-16)
        assert run.result is lf.Result.TARGET
        assert np.isfinite(run.gap_at(0.0))

    def test_below_a_wrong_minimum(self):
        f = lf.Objective(
            lambda W: float((W.sum() - 1) ** 2),
            lambda W: 2 * (W.sum() - 1) * np.ones((1, 1)),
            shape=(1, 1),
            minimum=0.5,
        )
        run = lf.gradient_descent(f, [np.array([[2.0]])] * 2, step_size=0.01, steps=500)
        assert run.result is lf.Result.BELOW_MINIMUM

    def test_wrong_declaration_is_reported(self, rng):
        Y = np.diag([2.0, 1.0])
        args = (lambda W: 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y)
        net = lf.init.gaussian((2, 3, 2), rng=rng)
        honest = lf.Objective(*args, shape=(2, 2), strong_convexity=1.0, smoothness=1.0, minimizer=Y)
        assert lf.gradient_flow(honest, net).notes == ()
        wrong = lf.Objective(*args, shape=(2, 2), strong_convexity=2.0, smoothness=2.0, minimizer=Y)
        notes = " ".join(lf.gradient_flow(wrong, net).notes)
        assert "strong_convexity 2" in notes and "pl_constant 4" in notes
        flat = lf.Objective(*args, shape=(2, 2), strong_convexity=0.25, smoothness=0.5, minimizer=Y)
        assert "smoothness 0.5" in " ".join(lf.gradient_flow(flat, net).notes)
        high = lf.Objective(*args, shape=(2, 2), strong_convexity=1.0, minimum=0.1)
        for run in (lf.gradient_flow(high, net), lf.gradient_flow(high, net, t_max=50.0)):
            assert "minimum 0.1" in " ".join(run.notes)
        assert run.result is lf.Result.BELOW_MINIMUM


class TestDescent:
    def test_tends_to_the_flow_at_order_eta(self, rng):
        f, net = problem((4, 6, 3), rng)
        end = 1.0
        flow = lf.gradient_flow(f, net, t_max=end, rtol=1e-12).final.product()
        etas = [0.02, 0.01, 0.005]
        errors = []
        for eta in etas:
            run = lf.gradient_descent(f, net, step_size=eta, steps=round(end / eta))
            errors.append(np.linalg.norm(run.final.product() - flow))
        slope = np.polyfit(np.log(etas), np.log(errors), 1)[0]
        assert 0.9 < slope < 1.1

    def test_against_the_plain_loop(self, rng):
        f, net = problem((3, 4, 4, 2), rng)
        run = lf.gradient_descent(f, net, step_size=0.05, steps=20)
        weights = [W.copy() for W in net.weights]
        for _ in range(20):
            G = net.with_weights(weights).gradient(f.gradient(net.with_weights(weights).product()))
            weights = [W - 0.05 * g for W, g in zip(weights, G, strict=True)]
        for got, want in zip(run.weights, weights, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)

    def test_one_step_moves_the_imbalance_by_eta_squared(self, rng):
        f, net = problem((3, 4, 2), rng)
        eta = 0.1
        run = lf.gradient_descent(f, net, step_size=eta, steps=1)
        G = net.gradient(f.gradient(net.product()))
        expected = lf.imbalance_matrices(net)[0] + eta**2 * (G[0].T @ G[0] - G[1] @ G[1].T)
        np.testing.assert_allclose(lf.imbalance_matrices(run.final)[0], expected, atol=1e-13)

    def test_records_stops_and_divergence(self, rng):
        f, net = problem((3, 4, 2), rng)
        run = lf.gradient_descent(f, net, step_size=0.05, steps=1000, every=100, until=1e-3)
        assert run.result is lf.Result.TARGET
        assert run.gap[-1] <= 1e-3 * run.gap[0]
        run = lf.gradient_descent(f, net, step_size=50.0, steps=1000)
        assert run.result is lf.Result.DIVERGED
        assert np.isfinite(run.final.weights[0]).all()

    def test_weights_between_steps_do_not_exist(self, rng):
        f, net = problem((3, 4, 2), rng)
        with pytest.raises(ValueError, match="first and last weights only"):
            lf.gradient_descent(f, net, step_size=0.05, steps=3).network_at(0.1)


def test_checkpoints_keep_a_budget(rng):
    f, net = problem((4, 6, 3), rng)
    run = lf.gradient_flow(f, net, until=1e-8)
    points = run.checkpoints
    points.budget, count = 10 * points.vectors[0].shape[0] * 8, len(points.times)
    assert count > 10
    for t, y in zip(np.linspace(run.t[-1], run.t[-1] + 1, 40), [points.vectors[-1]] * 40, strict=True):
        points.add(float(t), y)
    assert len(points.times) <= 11
    again = run.network_at(0.5 * float(run.t[-1]))
    assert f.gap(again.product()) == pytest.approx(float(run.gap_at(0.5 * float(run.t[-1]))), rel=2e-5, abs=0)


@pytest.mark.parametrize("algorithm", ["flow", "descent"])
def test_times_to_many_fractions_are_those_at_which_the_curve_gets_there(algorithm):
    rng = np.random.default_rng(3)
    objective = lf.MatrixFactorization(rng.normal(size=(5, 3)))
    for start in (lf.init.ntk((5, 9, 3), rng=1), lf.init.small((5, 4, 6, 3), size=0.2, rng=1)):
        if algorithm == "flow":
            run = lf.gradient_flow(objective, start, until=1e-8)
        else:
            run = lf.gradient_descent(objective, start, step_size=0.01, steps=20_000, until=1e-8)
        fractions = np.geomspace(0.9, 1.1e-8, 40)
        times = run.time_to(fractions)
        assert run.time_to(fractions[7]) == times[7]
        # A few roundings of the logarithm, which is below 40.
        np.testing.assert_allclose(run.gap_at(times) / run.gap[0], fractions, rtol=1e-12)
        assert (np.diff(times) > 0).all()
        # Before that, the curve is above: no earlier crossing at any recorded time.
        for fraction, time in zip(fractions, times, strict=True):
            assert (run.gap[run.t < time] > fraction * run.gap[0] * (1 - 1e-11)).all()
        assert run.time_to(1e-30) == np.inf
        assert run.time_to([1e-30, 0.5]).tolist() == [np.inf, run.time_to(0.5)]
