"""Certificates of flows and descents with other optimizers, and the bound on the excess under weight decay.

Bounds on a run allow the integrator's error, 1e-7 at rtol 1e-8 a step. Formulas agree to 1e-12.
"""

import math

import numpy as np
import pytest

import linflow as lf
from linflow.certificates.heavy_ball import HeavyBallCurve, best_curve, drift_cap, heavy_ball
from linflow.certificates.imbalance_law import imbalance_guarantee
from linflow.certificates.setting import Setting
from linflow.certificates.step_bounds import STRICT, DescentBounds
from linflow.model.optimizer import Optimizer

SLIGHT = 1e-7


@pytest.fixture
def problem(rng):
    X = rng.standard_normal((12, 3)) / 3
    f = lf.LinearRegression(X, X @ rng.standard_normal((3, 2)))
    return f, lf.init.imbalanced((3, 5, 2), 4.0, 0.8 * f.minimizer, rng=rng)


@pytest.mark.parametrize("rates", [(1.0, 4.0), (0.3, 2.0)])
def test_layer_rates_certify_the_scaled_layers(problem, rates):
    f, net = problem
    cert = lf.certify(f, net, layer_rates=rates)
    scaled = Optimizer.of(2, layer_rates=rates).coordinates(net)
    twin = lf.certify(f, scaled)
    for one, other in zip(cert.guarantees, twin.guarantees, strict=True):
        assert (one.name, one.rate, one.reason) == (other.name, other.rate, other.reason)
    assert [row.rate for row in cert.prior] == [row.rate for row in twin.prior]
    assert cert.start is not scaled and (cert.start.weights[0] == net.weights[0]).all()
    run = lf.gradient_flow(f, net, until=1e-6, layer_rates=rates)
    assert cert.check(run).holds and cert.rate > 0
    eta = lf.safe_step_size(f, net, layer_rates=rates)
    assert eta == lf.safe_step_size(f, scaled)
    steps = lf.certify(f, net, algorithm="descent", layer_rates=rates)
    assert steps.step_size == eta
    done = lf.gradient_descent(f, net, step_size=eta, steps=50, layer_rates=rates)
    assert steps.check(done).holds and steps.rate > 0
    rule = lf.schedules.local_smoothness("printed")
    changing = lf.certify(f, net, algorithm="descent", schedule=rule, layer_rates=rates)
    assert changing.check(lf.gradient_descent(f, net, schedule=rule, steps=20, layer_rates=rates)).holds


def test_a_statement_on_one_algorithm_is_not_compared_with_another(problem, tmp_path):
    f, net = problem
    options = [
        {},
        {"layer_rates": (1, 4)},
        {"layer_rates": (1, 2)},
        {"friction": 2.0},
        {"friction": 3.0},
        {"weight_decay": 0.1},
    ]
    certs = [lf.certify(f, net, **one) for one in options]
    for i, one in enumerate(options):
        run = lf.gradient_flow(f, net, t_max=0.3, **one)
        run.save(tmp_path / "run.nc")
        for again in (run, lf.load(tmp_path / "run.nc")):
            for j, cert in enumerate(certs):
                if i == j:
                    assert cert.check(again).holds
                else:
                    with pytest.raises(ValueError, match="says nothing about the other"):
                        cert.check(again)
    plain = lf.certify(f, net, algorithm="descent", step_size=0.01)
    for one in ({"momentum": 0.5}, {"weight_decay": 0.1}, {"batch_size": 4}, {"layer_rates": (1, 2)}):
        run = lf.gradient_descent(f, net, step_size=0.01, steps=5, record="law_error", **one)
        run.save(tmp_path / "run.nc")
        back = lf.load(tmp_path / "run.nc")
        assert back.optimizer == run.optimizer and (back.law_error == run.law_error).all()
        assert repr(back) == repr(run) and str(run.optimizer) in repr(run)
        for again in (run, back):
            with pytest.raises(ValueError, match="says nothing about the other"):
                plain.check(again)
    proof = lf.enclose(f, net, t_max=0.1)
    for cert in certs[1:]:
        with pytest.raises(ValueError, match="the enclosure is of the plain flow"):
            cert.check(proof)
    with pytest.raises(ValueError, match="leave the run out"):
        lf.plots.proof(proof, run=lf.gradient_flow(f, net, t_max=0.1, friction=1.0))
    with pytest.raises(ValueError, match="says nothing about the other"):
        lf.plots.convergence(lf.gradient_flow(f, net, t_max=0.1, friction=1.0), certs[0])


def test_what_is_not_known_is_refused(problem):
    f, net = problem
    for options, message in (
        ({"momentum": 0.9}, "descent with momentum"),
        ({"weight_decay": 0.9}, "descent with weight decay"),
        ({"friction": 0.9}, "descent with friction"),
    ):
        with pytest.raises(ValueError, match=message):
            lf.certify(f, net, algorithm="descent", **options)
    with pytest.raises(ValueError, match="the flow has a friction instead"):
        lf.certify(f, net, momentum=0.9)
    with pytest.raises(ValueError, match="verified runs are of descent with one step for all layers"):
        lf.safe_step_size(f, net, verified=True, layer_rates=(1, 2))
    rigorous = lf.certify(f, net, layer_rates=(1, 4), rigorous=True)
    assert rigorous.best is None and "not for layer rates (1, 4)" in rigorous.guarantees[0].reason
    from linflow.advice.diagnosis import findings

    with pytest.raises(ValueError, match="the findings are about the plain flow"):
        findings(lf.certify(f, net, layer_rates=(1, 4)), None, 1e-6)


def test_without_a_guarantee_the_gap_of_a_descent_has_no_bound(problem):
    f, net = problem
    wild = lf.certify(f, net, algorithm="descent", step_size=10.0)
    assert wild.best is None and wild.gap_at(20.0) == math.inf
    assert lf.certify(f, [np.zeros((3, 5)), np.zeros((5, 2))]).gap_at(1.0) == f.gap(np.zeros((3, 2)))


# --- the heavy ball ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [0.1, 0.5, 0.9])
def test_the_curve_of_a_heavy_ball(s, monkeypatch):
    """The theorem with one share, written out."""
    a, beta, rate = 3.0, 7.0, 0.4
    monkeypatch.setattr("linflow.certificates.heavy_ball.SHARES", np.array([s]))
    found = best_curve(2.0, a, beta, rate)
    eps = 2 * a / (2 * beta + a * a / (2 * s) + (1 - s) * rate)
    assert a - eps * beta - eps * a * a / (4 * s) == pytest.approx(eps * (1 - s) * rate / 2, rel=1e-12)
    e = eps * math.sqrt(beta)
    assert 0 < e < 1
    assert found.rate == pytest.approx(eps * (1 - s) * rate / (1 + e) / STRICT, rel=1e-14)
    assert found.factor == pytest.approx(STRICT / (1 - e), rel=1e-14)
    assert found.gap(0.0) == 2.0 and found.rate_at(1.0) == 0.0
    t = found.time(1e-3)
    assert found.gap(t) == pytest.approx(1e-3, rel=1e-10) and found.time(2.0) == 0.0


def test_the_share_is_the_best_one():
    a, beta, rate = 3.0, 7.0, 0.4
    best = best_curve(1.0, a, beta, rate)
    for s in (0.05, 0.2, 0.5, 0.8):
        eps = 2 * a / (2 * beta + a * a / (2 * s) + (1 - s) * rate)
        e = eps * math.sqrt(beta)
        other = HeavyBallCurve(1.0, eps * (1 - s) * rate / (1 + e), 1 / (1 - e))
        assert best.time(1e-6) <= other.time(1e-6) * (1 + 1e-8)


@pytest.mark.parametrize("widths", [(3, 5, 2), (2, 4, 2), (2, 3, 3, 2), (3, 2)])
@pytest.mark.parametrize("friction", [1.0, 6.0])
def test_a_heavy_ball_keeps_its_guarantee(widths, friction, rng):
    n, m = widths[0], widths[-1]
    X = rng.standard_normal((8, n)) / 2
    f = lf.LinearRegression(X, X @ rng.standard_normal((n, m)))
    near = f.minimizer + 0.1 * rng.standard_normal((n, m))
    net = lf.init.imbalanced(widths, 5.0, near, rng=rng) if len(widths) > 2 else lf.Network([near])
    cert = lf.certify(f, net, friction=friction)
    (row,) = cert.guarantees
    assert row.applies and cert.rate == row.rate > 0
    run = lf.gradient_flow(f, net, t_max=8.0, friction=friction, record="imbalance_drift")
    check = cert.check(run)
    assert check.holds and check.worst_slack == math.inf and "at least inf" not in str(check)
    if cert.imbalance is None:
        assert net.depth == 1
        return
    promised = np.array([cert.imbalance.change_at(float(t)) for t in run.t])
    assert (run.imbalance_drift <= promised * (1 + SLIGHT) + SLIGHT).all()
    assert promised[-1] <= row.facts["drift cap"] == drift_cap(row.gap, friction)
    assert cert.imbalance.size_at(1.0) == cert.imbalance.size + cert.imbalance.change_at(1.0)
    assert "≤ 2ℓ(0)/a²" in str(cert) and "heavy ball" in str(cert)


def test_beta_and_alpha_are_those_at_the_drift(problem):
    f, net = problem
    row = heavy_ball(Setting(f, net), 2.0)
    drift = 2 * f.gap(net.product()) / 4.0
    assert row.facts["drift cap"] == pytest.approx(drift, rel=1e-8)
    bounds = DescentBounds(Setting(f, net), nearby=False)
    assert row.facts["α"] == pytest.approx(float(bounds.alphas(drift * STRICT)[0]), rel=1e-12)
    assert row.facts["α"] < float(bounds.alphas(0.0)[0])
    caps = bounds.caps(drift * STRICT, bounds.high[:1])
    beta = float(bounds.curvature(caps, np.array([math.inf]), 1, 0.0)[0])
    assert row.facts["β"] == pytest.approx(beta, rel=1e-12)
    assert row.curve == best_curve(f.gap(net.product()), 2.0, row.facts["β"], f.pl_constant * row.facts["α"])


def test_alpha_is_that_of_the_largest_gap():
    """A start whose floor comes from the product: it rises as the gap falls, and the gap need not fall."""
    f, net = lf.MatrixFactorization(np.eye(2)), lf.Network([0.9 * np.eye(2)] * 2)
    row = heavy_ball(Setting(f, net), 20.0)
    alphas = DescentBounds(Setting(f, net), nearby=False).alphas(drift_cap(row.gap, 20.0))
    assert row.facts["α"] == alphas[0] < alphas[1]
    small = lf.Network([0.8 * np.eye(2), 0.1 * np.eye(2)])
    row = heavy_ball(Setting(lf.MatrixFactorization(0.09 * np.eye(2)), small), 3.0)
    assert row.applies and 0 < row.facts["α"] < 1


def test_the_cap_on_the_drift_of_a_heavy_ball_is_nearly_reached():
    """A start at rest whose energy goes into one layer: the change of D comes within a tenth of the cap."""
    f = lf.MatrixFactorization([[0.3]])
    net = [np.array([[1.0]]), np.array([[1e-6]])]
    cert = lf.certify(f, net, friction=1.0)
    run = lf.gradient_flow(f, net, t_max=60.0, friction=1.0)
    assert cert.check(run).holds
    assert run.stats.imbalance_drift > 0.9 * cert.imbalance.change_at(float(run.t[-1]))


def test_reasons_without_a_rate(problem):
    f, net = problem
    assert "may drift by" in lf.certify(f, net, friction=0.01).guarantees[0].reason
    at = lf.init.imbalanced((3, 5, 2), 4.0, f.minimizer, rng=0)
    known = lf.Objective(f.value, f.gradient, shape=f.shape, strong_convexity=1e-3, minimizer=f.minimizer)
    assert "no smoothness K" in lf.certify(known, net, friction=1.0).guarantees[0].reason
    loss = lf.LogisticLoss([[3.0, 0.0], [0.0, -4.0]], [1, -1])
    flat = lf.certify(loss, lf.init.gaussian((2, 3, 1), rng=0), friction=1.0)
    assert "no gradient dominance" in flat.guarantees[0].reason
    assert not flat.guarantees[0].applies and flat.prior == () and "heavy ball" in flat.baseline.reason
    assert lf.certify(f, at, friction=1.0).guarantees[0].gap < 1e-20
    there = lf.certify(lf.MatrixFactorization(np.eye(2)), [np.eye(2)] * 2, friction=1.0).guarantees[0]
    assert there.gap == 0.0 and there.reason == "the start is at the minimum"


# --- weight decay --------------------------------------------------------------------------------------------------


def test_the_decay_of_the_imbalance_is_certified(problem):
    f, net = problem
    cert = lf.certify(f, net, weight_decay=0.2)
    run = lf.gradient_flow(f, net, t_max=3.0, weight_decay=0.2, record="imbalance_drift")
    assert cert.check(run).holds and cert.best is None and cert.rate == 0.0
    size = max(np.linalg.norm(D) for D in lf.imbalance_matrices(net))
    for t, drift in zip(run.t, run.imbalance_drift, strict=True):
        assert cert.imbalance.change_at(float(t)) == pytest.approx((1 - math.exp(-0.4 * t)) * size, rel=1e-9, abs=0)
        assert drift == pytest.approx(cert.imbalance.change_at(float(t)), abs=SLIGHT)
    assert cert.imbalance.size_at(3.0) == pytest.approx(math.exp(-1.2) * size, rel=1e-12)
    assert "D_l(t) = e^(−0.4t) D_l(0)" in str(cert)
    # The loss alone may rise, up to what the penalty can give.
    penalty = 0.1 * sum(np.linalg.norm(W) ** 2 for W in net.weights)
    assert cert.gap_at(1.0) == pytest.approx(f.gap(net.product()) + penalty, rel=1e-11)
    near = lf.init.imbalanced((3, 5, 2), 4.0, 0.99 * f.minimizer, rng=0)
    rising, known = lf.gradient_flow(f, near, t_max=1.0, weight_decay=0.2), lf.certify(f, near, weight_decay=0.2)
    assert known.gap < rising.gap.max() < known.gap_at(1.0) and known.gap_at(1.0) > 2 * known.gap
    assert lf.certify(f, net, weight_decay=0.2, layer_rates=(1, 2)).imbalance is None
    assert lf.certify(f, net, weight_decay=0.2, friction=1.0).imbalance is None
    equal = lf.certify(f, net, weight_decay=0.2, layer_rates=(2, 2))
    assert equal.imbalance.decay == pytest.approx(0.8)
    assert equal.check(lf.gradient_flow(f, net, t_max=1.0, weight_decay=0.2, layer_rates=(2, 2))).holds


def test_the_statement_on_the_imbalances_is_about_the_largest_of_them(rng):
    net = lf.Network([a * rng.standard_normal((2, 2)) for a in (3.0, 1.0, 2.0, 2.0)])
    sizes = [float(np.linalg.norm(D)) for D in lf.imbalance_matrices(net)]
    assert min(sizes) < 0.9 * max(sizes)
    for optimizer, words in (
        (Optimizer(), "D_l is constant for every l"),
        (Optimizer.of(4, weight_decay=1.0), "D_l(t) = e^(−2t) D_l(0) for every l"),
    ):
        found = imbalance_guarantee(optimizer, net, 1.0)
        assert found.statement == words and found.size == pytest.approx(max(sizes), rel=1e-12)


def test_an_imbalance_that_breaks_its_statement_is_told(problem):
    from dataclasses import replace

    f, net = problem
    cert = lf.certify(f, net, weight_decay=0.2)
    run = lf.gradient_flow(f, net, t_max=1.0, weight_decay=0.2)
    other = replace(cert, imbalance=replace(cert.imbalance, decay=0.39))
    found = other.check(run).violation
    assert found.guarantee == "imbalance" and found.observed > found.guaranteed
    assert "VIOLATED by 'imbalance'" in str(other.check(run))


def minimum(f, theta, steps=4000):
    """The least value of `f(Z) − f* + θ‖Z‖_*`, by plain proximal steps from 0."""
    Z = np.zeros(f.shape)
    for _ in range(steps):
        U, s, Vt = np.linalg.svd(Z - f.gradient(Z) / f.smoothness, full_matrices=False)
        Z = (U * np.maximum(s - theta / f.smoothness, 0)) @ Vt
    return f.gap(Z) + theta * np.linalg.svd(Z, compute_uv=False).sum()


@pytest.mark.parametrize("seed", range(12))
def test_the_excess_is_bounded_at_any_weights(seed):
    rng = np.random.default_rng(seed)
    n, m, h = (int(x) for x in rng.integers(1, 4, 3))
    N, decay, scale = int(rng.integers(1, 6)), 10 ** rng.uniform(-2, 0.3), float(rng.choice([1.0, 0.5]))
    f = lf.LinearRegression(rng.standard_normal((N, n)), rng.standard_normal((N, m)))
    least = minimum(f, decay / scale)
    start = lf.Network(lf.init.gaussian((n, h, m), rng=rng).weights, scale)
    some = lf.gradient_descent(f, start, step_size=0.02, steps=300, weight_decay=decay).final
    for net in (start, some):
        value = f.gap(net.product()) + decay / 2 * sum(np.linalg.norm(W) ** 2 for W in net.weights)
        for steps in (0, 5, 1000):
            found = lf.optimality_gap(f, net, weight_decay=decay, steps=steps)
            assert found.value == pytest.approx(value, rel=1e-12)
            assert found.lower <= least * (1 + 1e-10)
            assert found.value - least <= found.bound * (1 + 1e-10)
        # The last bound is sharp to its stopping rule.
        assert found.bound <= (value - least) * 1.05 + 1e-7 * value


def test_the_bound_in_the_form_of_the_theorem(rng):
    """At weights with `‖∇f‖ ≤ λ` the bound is at most the penalty plus `⟨∇f, W⟩`, and rounding."""
    f = lf.MatrixFactorization(rng.standard_normal((3, 2)))
    net = lf.gradient_descent(
        f, lf.init.gaussian((3, 3, 2), rng=rng), step_size=0.1, steps=50, weight_decay=0.5
    ).final
    W = net.product()
    G, decay = f.gradient(W), 0.5
    decay = max(decay, float(np.linalg.norm(G, 2)) * (1 + 1e-9))
    found = lf.optimality_gap(f, net, weight_decay=decay, steps=0)
    stated = decay / 2 * sum(np.linalg.norm(V) ** 2 for V in net.weights) + float(np.sum(G * W))
    assert found.gradient <= found.threshold and found.bound <= stated * (1 + 1e-9) + 1e-13
    assert "≤ λ/c" in str(found) and "at most" in str(found)


def test_a_minimum_is_recognised_and_a_saddle_is_not(rng):
    Y = np.diag([3.0, 1.0])
    f, decay = lf.MatrixFactorization(Y), 0.5
    root = np.diag(np.sqrt([2.5, 0.5]))
    found = lf.optimality_gap(f, [root, root], weight_decay=decay)
    assert found.bound < 1e-13 and found.value == pytest.approx(decay * 3.0 + 0.25, rel=1e-14)
    saddle = np.diag(np.sqrt([0.0, 0.5]))  # stationary too: the first mode is off
    found = lf.optimality_gap(f, [saddle, saddle], weight_decay=decay)
    truth = 0.5 * (9.0 + 0.25) + decay * 0.5 - (decay * 3.0 + 0.25)
    assert found.bound == pytest.approx(truth, rel=1e-9) and found.gradient > found.threshold
    zero = lf.optimality_gap(f, [0 * root, 0 * root], weight_decay=3.5)  # so much decay that 0 is best
    assert zero.bound < 1e-13


def test_other_losses_have_the_first_bound(rng):
    X = rng.standard_normal((8, 2))
    f = lf.LogisticLoss(X, np.sign(X @ [1.0, -0.5]))
    net = lf.gradient_descent(
        f, lf.init.gaussian((2, 3, 1), rng=0), step_size=0.1, steps=2000, weight_decay=0.1
    ).final
    found = lf.optimality_gap(f, net, weight_decay=0.1)
    assert 0 <= found.bound < 1e-6 * found.value
    flat = lf.ExponentialLoss(X, np.sign(X @ [1.0, -0.5]))  # no K, so no proximal steps
    one = lf.optimality_gap(flat, net, weight_decay=0.1)
    assert one.steps == 0 and one.bound > 0
    declared = lf.Objective(f.value, f.gradient, shape=f.shape, smoothness=f.smoothness, minimum=0.0, convex=True)
    again = lf.optimality_gap(declared, net, weight_decay=0.1)
    assert again.bound < 1e-6 * again.value


def test_what_has_no_bound_is_refused(problem):
    f, net = problem
    with pytest.raises(ValueError, match="depth 3"):
        lf.optimality_gap(f, lf.init.gaussian((3, 4, 4, 2), rng=0), weight_decay=0.1)
    g = lf.Objective(f.value, f.gradient, shape=f.shape, minimum=0.0)
    with pytest.raises(ValueError, match="not known to be convex"):
        lf.optimality_gap(g, net, weight_decay=0.1)
    with pytest.raises(ValueError, match="weight_decay"):
        lf.optimality_gap(f, net, weight_decay=0.0)
