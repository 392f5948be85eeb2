"""Guarantees on the flow: curves, lazy regime, envelope, and the check of a run."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linflow as lf
from linflow.certificates.curves import ExponentialCurve, LevelCurve, StepCurve
from linflow.certificates.envelope import envelope, gap_levels
from linflow.certificates.lazy import Neighbourhood, least_floor
from tests.random_networks import networks
from tests.reference import certificates as twin
from tests.reference.algebra import least_tangent_eigenvalue


def _named(cert, name):
    return next(g for g in cert.guarantees if g.name == name)


# ---------------------------------------------------------------- curves


@given(
    levels=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6, unique=True),
    rates=st.lists(st.floats(0.01, 100.0), min_size=6, max_size=6),
    t=st.floats(0, 50),
)
def test_a_level_curve_inverts_and_is_the_sum_of_its_pieces(levels, rates, t):
    y = np.array([2.0, *sorted(levels, reverse=True)])
    curve = LevelCurve(y, np.array(rates[: len(y)]) if len(rates) >= len(y) else np.resize(rates, len(y)))
    expected = twin.envelope_times(y, 1.0, lambda gap: float(curve.rates[int(np.flatnonzero(y == gap)[0])]))
    np.testing.assert_allclose(curve.times, expected, rtol=1e-12)
    gap = curve.gap(t)
    if gap > 1e-300:
        assert curve.time(gap) == pytest.approx(t, rel=1e-9, abs=1e-9)  # exp and log of numbers up to 700
    assert curve.gap(0.0) == 2.0 and curve.time(2.0) == 0.0 == curve.time(3.0)
    assert curve.gap(t) >= curve.gap(t + 1)


def test_a_level_curve_may_end():
    curve = LevelCurve(np.array([1.0, 0.5]), np.array([1.0, 0.0]))
    assert curve.rate == 0 and curve.final_rate == 0
    assert curve.time(0.5) == pytest.approx(math.log(2)) and curve.time(0.4) == math.inf
    assert curve.gap(1e9) == 0.5


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 1 - 1e-9])
def test_steps_are_the_first_that_reach(factor):
    curve = StepCurve(3.0, 0.1, 1 - factor)
    for gap in (2.9, 1.0, 1e-3):
        k = curve.steps(gap)
        assert curve.gap_after(k) <= gap
        assert k == 0 or curve.gap_after(max(k - 2, 0)) > gap
        assert curve.gap(curve.time(gap)) <= gap
    assert curve.steps(3.0) == 0


def test_the_flow_takes_no_steps():
    cert = lf.certify(lf.MatrixFactorization(np.eye(2)), [np.eye(2), 0.5 * np.eye(2)])
    with pytest.raises(TypeError, match="takes no steps"):
        cert.best.steps_to(1e-2)
    with pytest.raises(TypeError, match='algorithm="descent"'):
        cert.steps_to(1e-2)
    with pytest.raises(ValueError, match="takes no steps"):
        lf.certify(lf.MatrixFactorization(np.eye(2)), [np.eye(2)], step_size=0.1)


# ---------------------------------------------------------------- lazy regime


@given(network=networks(layers=st.integers(1, 5)), seed=st.integers(0, 2**32 - 1))
def test_floors_hold_on_the_balls(network, seed):
    nearby, rng = Neighbourhood.of(network), np.random.default_rng(seed)
    assert nearby.radii[0] == 0 and (np.diff(nearby.floors) <= 0).all()
    size = float(lf.TangentOperator(network).greatest_eigenvalue())
    for j in rng.integers(0, len(nearby.radii), 3):
        if not math.isfinite(nearby.radii[j]):
            continue
        move = [rng.standard_normal(W.shape) for W in network.weights]
        length = math.sqrt(sum(float(np.sum(M**2)) for M in move))
        moved = [W + nearby.radii[j] / length * M for W, M in zip(network.weights, move, strict=True)]
        # λ_min(T) of the moved weights, right to some 1e-13 of its size
        assert least_tangent_eigenvalue(moved, network.scale) >= nearby.floors[j] - 1e-10 * size


def test_the_floor_is_sharp_for_two_layers():
    # W_1 and W_2 shrunk along their weakest directions, in proportion to their σ: nothing is lost in the theorem.
    W1, W2 = np.diag([3.0, 1.0]), np.diag([0.5, 2.0])
    nearby = Neighbourhood.of(lf.Network([W1, W2]))
    j = 200
    a, b, r = 1.0, 0.5, float(nearby.radii[j])
    shrink = 1 - r / math.hypot(a, b)
    truth = least_tangent_eigenvalue([np.diag([3.0, a * shrink]), np.diag([b * shrink, 2.0])])
    assert nearby.floors[j] == pytest.approx(truth, rel=1e-6)  # rounding allowances only


def test_least_floor_of_large_models_is_a_floor():
    rng = np.random.default_rng(0)
    net = lf.Network([rng.standard_normal((31, 40)), rng.standard_normal((40, 35)), rng.standard_normal((35, 30))])
    truth = float(np.linalg.eigvalsh(lf.TangentOperator(net).dense())[0])  # nm = 930, above the dense limit
    assert 0 < least_floor(net) <= truth
    narrow = lf.Network([rng.standard_normal((31, 4)), rng.standard_normal((4, 35)), rng.standard_normal((35, 30))])
    assert least_floor(narrow) == 0


@pytest.mark.parametrize("widths", [(3, 400, 2), (2, 300, 300, 2), (1, 200, 200, 200, 2)])
def test_the_lazy_regime_is_certified_and_kept(widths):
    rng = np.random.default_rng(1)
    net = lf.init.ntk(widths, rng=rng)
    f = lf.MatrixFactorization(net.product() + 0.02 * rng.standard_normal((widths[0], widths[-1])))
    cert = lf.certify(f, net)
    lazy = _named(cert, "lazy regime")
    assert lazy.applies
    run = lf.gradient_flow(f, net, until=1e-8)
    path = math.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in zip(run.final.weights, net.weights, strict=True)))
    assert 0 < path <= lazy.facts["radius"]
    check = cert.check(run)
    assert check.holds and check.time_ratios[1e-4] < 3
    # wider than the printed argument, 2 sqrt(ℓ(0)/(γκ(r))) ≤ r for one r: where that holds, so does ours
    radii = np.geomspace(1e-3, 10, 200)
    printed = [r for r in radii if twin.lazy_holds(net.weights, 2.0, cert.gap, r, net.scale)]
    assert not printed or lazy.facts["radius"] <= printed[0]


@given(network=networks(layers=st.integers(2, 4)), distance=st.floats(1e-3, 1.0))
@settings(max_examples=60)
def test_where_the_printed_lazy_condition_holds_so_does_ours(network, distance):
    W = network.product()
    f = lf.MatrixFactorization(W + distance * np.random.default_rng(0).standard_normal(W.shape))
    lazy = _named(lf.certify(f, network), "lazy regime")
    gap = f.gap(W)
    held = [
        r for r in np.geomspace(1e-4, 1e2, 100) if twin.lazy_holds(network.weights, 2.0, gap * 1.01, r, network.scale)
    ]
    assert lazy.applies or not held


def test_a_lazy_start_that_moves_too_far_says_so():
    cert = lf.certify(lf.MatrixFactorization(9 * np.eye(2)), lf.init.gaussian((2, 4, 2), rng=0))
    assert "may move too far" in _named(cert, "lazy regime").reason


# ---------------------------------------------------------------- envelope


@given(network=networks(layers=st.integers(2, 4)), seed=st.integers(0, 2**32 - 1), near=st.booleans())
@settings(max_examples=40)
def test_every_guarantee_is_kept_by_the_flow(network, seed, near):
    W, rng = network.product(), np.random.default_rng(seed)
    noise = rng.standard_normal(W.shape)
    f = lf.MatrixFactorization(W + 0.1 * np.linalg.norm(W) * noise if near else noise)
    cert = lf.certify(f, network)
    run = lf.gradient_flow(f, network, until=1e-6, max_steps=400)
    check = cert.check(run)
    assert check.holds, check.violation
    assert cert.time_to(1e-3) <= min(g.time_to(1e-3) for g in cert.guarantees)


def test_the_envelope_is_never_worse_than_a_single_bound_and_ends_at_the_optimum():
    f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
    net = lf.init.balanced((2, 4, 4, 2), np.diag([1.7, 0.8]), rng=0)
    cert = lf.certify(f, net)
    together = _named(cert, "envelope")
    assert cert.best is together
    for g in cert.guarantees:
        for fraction in (1e-2, 1e-6, 1e-12):
            assert together.time_to(fraction) <= g.time_to(fraction) * (1 + 1e-12)
        assert together.rate >= g.rate * (1 - 1e-12)
    # at the end the margin is that of W*, where the balanced bound is 2·3·1 for n = m (levels reach 1e-14)
    assert together.facts["final rate"] == pytest.approx(6.0, rel=1e-5)
    run = lf.gradient_flow(f, net, until=1e-10)
    assert cert.check(run).holds
    assert run.rate[-1] == pytest.approx(6.0, rel=1e-3)


def test_the_envelope_joins_two_that_do_not_suffice_alone():
    # Near enough for the weights to be lazy at first, too far for a margin; later the margin carries on.
    levels = gap_levels(1.0)
    floors = np.where(levels < 0.7, 1.0, 0.0)
    nearby = Neighbourhood(np.linspace(0, 1.0, 400), np.maximum(1 - np.linspace(0, 1.2, 400), 0) ** 2)
    assert envelope(levels, 1.0, floors, None) is None
    alone = envelope(levels, 1.0, np.zeros(len(levels)), nearby)
    together = envelope(levels, 1.0, floors, nearby)
    assert alone is not None and alone.final_rate == 0
    assert together is not None and together.final_rate == pytest.approx(1.0) and together.rate > 0


def test_gap_levels_cover_fourteen_decades():
    levels = gap_levels(5.0)
    assert levels[0] == 5.0 and levels[-1] <= 5e-14 and (np.diff(levels) < 0).all()


# ---------------------------------------------------------------- exponential tails


@pytest.mark.parametrize("loss", [lf.ExponentialLoss, lf.LogisticLoss])
@pytest.mark.parametrize("widths", [(3, 1), (3, 8, 1), (3, 6, 7, 1)])
def test_exponential_tails_are_certified_and_kept(loss, widths):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 3)) + np.array([1.5, 0, 0])
    y = np.where(X @ np.array([1.0, 0.3, 0.1]) > 0, 1.0, -1.0)
    f = loss(X + 0.4 * y[:, None] * np.array([1.0, 0.3, 0.1]), y)
    net = (
        lf.init.gaussian(widths, std=0.5, rng=1)
        if len(widths) < 4
        else lf.init.imbalanced(widths, [-1.0, -1.0], 0.1 * np.ones((3, 1)), rng=1)
    )
    cert = lf.certify(f, net)
    best = cert.best
    assert best is not None and best.name.startswith("exponential tail") and best.rate == 0 == cert.rate
    assert math.isfinite(best.time_to(1e-3)) and best.facts["hard margin"] > 0
    run = lf.gradient_flow(f, net, t_max=min(30.0, best.time_to(1e-2)))
    check = cert.check(run)
    assert check.holds, check.violation
    assert 1 - 1e-9 <= check.worst_slack < math.inf  # the rate promised at a gap falls with it, and is positive
    # O(1/t): from one time to ten times it the bound falls by ten, once ℓ(0) is forgotten
    far = 1e6 * best.time_to(1e-3)
    assert best.gap_at(far) / best.gap_at(10 * far) == pytest.approx(10, rel=1e-2)
    row = next(g for g in cert.guarantees if g.name == "exponential")
    assert row.reason == "the objective has no gradient dominance: γ = 0"


def test_a_tail_without_imbalance_says_so():
    f = lf.ExponentialLoss(np.array([[1.0], [2.0]]), np.array([1.0, 1.0]))
    cert = lf.certify(f, lf.init.balanced((1, 2, 1), np.array([[0.5]]), rng=0))
    assert cert.best is None and "imbalance the start more" in str(cert)


# ---------------------------------------------------------------- check


def _pair():
    f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
    net = lf.init.imbalanced((2, 5, 2), 1.0, np.diag([1.5, 0.5]), rng=0)
    return lf.certify(f, net), lf.gradient_flow(f, net, until=1e-8)


def test_a_check_reports_slack_and_ratios():
    cert, run = _pair()
    check = cert.check(run)
    assert check.holds and check.violation is None
    assert 1 <= check.worst_slack < 3 and 0.99 < check.worst_gap <= 1 + 1e-9  # equal at the start
    assert set(check.time_ratios) == {1e-2, 1e-4, 1e-6}
    for fraction, ratio in check.time_ratios.items():
        assert ratio == pytest.approx(cert.time_to(fraction) / run.time_to(fraction))
        assert ratio >= 1
    short = lf.gradient_flow(cert.objective, cert.start, until=1e-3)
    assert math.isnan(cert.check(short).time_ratios[1e-6])
    json.dumps(check.to_dict(), allow_nan=False)


@pytest.mark.parametrize("seed", range(15))  # every distance with every depth
def test_a_start_at_a_minimum_or_next_to_it_can_be_checked(seed):
    """All gaps are rounding then, and in the run of a reduced width another one than in the certificate."""
    rng = np.random.default_rng(seed)
    n, m, away = int(rng.integers(1, 4)), int(rng.integers(1, 4)), (0, 1e-16, 1e-15, 1e-14, 1e-12)[seed % 5]
    net = lf.init.gaussian((n, *rng.integers(4, 30, seed % 3).tolist(), m), rng=rng)
    W = net.product() * (1 + away)
    X = rng.standard_normal((max(1, n + 2 - seed % 4), n))
    for f in (lf.MatrixFactorization(W), lf.LinearRegression(X, X @ W)):
        check = lf.certify(f, net).check(lf.gradient_flow(f, net, until=1e-6))
        assert check.holds, check
        step = lf.safe_step_size(f, net)
        certificate = lf.certify(f, net, algorithm="descent", step_size=step)
        assert certificate.check(lf.gradient_descent(f, net, step_size=step, steps=100)).holds
    with pytest.raises(ValueError, match="the run starts at a loss gap"):
        lf.certify(f, net).check(lf.gradient_flow(f, [1.001 * V for V in net.weights], until=0.5))


def test_a_false_guarantee_is_found_with_its_place():
    cert, run = _pair()
    too_fast = replace(cert.best, name="too fast", curve=ExponentialCurve(cert.gap, 3 * cert.rate))
    check = replace(cert, guarantees=(too_fast, *cert.guarantees)).check(run)
    assert not check.holds
    assert check.violation.guarantee == "too fast"
    assert check.violation.quantity == "rate"
    first = next(i for i in range(len(run.t)) if run.rate[i] < 3 * cert.rate * (1 - 1e-6))
    assert check.violation.t == run.t[first] and check.violation.observed == run.rate[first]
    levels = LevelCurve(np.array([cert.gap, cert.gap / 2]), np.array([cert.rate, 50 * cert.rate]))
    check = replace(cert, guarantees=(replace(too_fast, curve=levels),)).check(run)
    i = int(np.flatnonzero(np.asarray(run.t) == check.violation.t)[0])
    assert run.gap[i] <= cert.gap / 2 < run.gap[i - 1]  # the first record on the level whose rate is false


def test_a_run_of_another_start_or_algorithm_is_refused():
    cert, _ = _pair()
    other = lf.gradient_flow(cert.objective, [2 * np.eye(2), np.eye(2)], t_max=0.1)
    with pytest.raises(ValueError, match="starts at a loss gap"):
        cert.check(other)
    descent = lf.gradient_descent(cert.objective, cert.start, step_size=0.01, steps=3)
    with pytest.raises(ValueError, match='algorithm="descent"'):
        cert.check(descent)


def test_a_certificate_is_plain_data():
    cert, _ = _pair()
    data = json.loads(json.dumps(cert.to_dict(), allow_nan=False))
    assert data["rate"] == cert.rate and data["guarantees"][0]["name"] == cert.best.name
    assert {"name", "source", "citation", "applies", "reason", "rate", "time_to"} <= set(data["guarantees"][0])
    assert data["baseline"]["rate"] == 2.0
    bad = lf.certify(lf.MatrixFactorization(np.eye(2)), [np.ones((2, 1)), np.ones((1, 2))])
    assert json.loads(json.dumps(bad.to_dict(), allow_nan=False))["time_to"]["0.01"] is None


def test_the_baseline_is_a_true_statement_on_one_layer():
    f, W = lf.LinearRegression(np.diag([1.0, 2.0, 0.5]), np.eye(3)), np.zeros((3, 3))
    net = lf.Network([np.zeros((3, 4)), np.ones((4, 3))])
    for cert, run in (
        (lf.certify(f, net), lf.gradient_flow(f, [W], until=1e-8)),
        (
            lf.certify(f, net, algorithm="descent", step_size=0.4),
            lf.gradient_descent(f, [W], step_size=0.4, steps=60),
        ),
    ):
        bound = np.array([cert.baseline.gap_at(float(t)) for t in run.t])
        assert (np.asarray(run.gap) <= bound * (1 + 1e-9)).all()
    assert lf.certify(f, net, algorithm="descent", step_size=0.4).baseline.steps_to(1e-3) > 0
    assert "2/K = 0.5" in lf.certify(f, net, algorithm="descent", step_size=0.6).baseline.reason


def test_a_start_at_the_minimum():
    cert = lf.certify(lf.MatrixFactorization(np.eye(2)), [np.eye(2), np.eye(2)])
    assert cert.gap == 0 and cert.gap_at(1.0) == 0 and cert.time_to(1e-6) == 0
    assert "initial gap 0" in str(cert)


# ---------------------------------------------------------------- edges

eye = np.eye(2)
EDGES = {
    "singular target": (np.diag([1.0, 0.0]), lf.init.gaussian((2, 6, 2), rng=0)),
    "singular target, imbalanced": (np.diag([1.0, 0.0]), lf.init.imbalanced((2, 4, 2), 2.0, 0.1 * eye, rng=0)),
    "repeated singular values": (eye, lf.init.balanced((2, 3, 3, 2), 0.9 * eye, rng=0)),
    "repeated imbalance": (eye, lf.init.imbalanced((2, 4, 4, 2), [2.0, -2.0], 0.5 * eye, rng=0)),
    "a zero layer": (eye, lf.Network([np.zeros((2, 3)), np.ones((3, 2))])),
    "two zero layers": (eye, lf.Network([np.zeros((2, 3)), np.zeros((3, 3)), np.ones((3, 2))])),
    "all zero": (eye, lf.Network([np.zeros((2, 3)), np.zeros((3, 2))])),
    "target zero": (np.zeros((2, 2)), lf.init.gaussian((2, 5, 2), rng=0)),
    "narrow": (np.ones((3, 3)), lf.init.gaussian((3, 1, 3), rng=0)),
    "narrow in the middle": (np.ones((2, 2)), lf.init.gaussian((2, 3, 1, 3, 2), rng=0)),
    "1×1": (np.ones((1, 1)), lf.Network([np.array([[2.0]]), np.array([[1.0]]), np.array([[0.3]])])),
    "1×1 of the other sign": (-np.ones((1, 1)), lf.Network([np.array([[2.0]]), np.array([[0.5]])])),
    "tall": (np.ones((50, 1)) / 7, lf.init.gaussian((50, 60, 1), std=0.1, rng=0)),
    "wide": (np.ones((1, 50)) / 7, lf.init.gaussian((1, 4, 3, 50), std=0.3, rng=0)),
    "tiny": (eye, lf.init.gaussian((2, 3, 2), std=1e-9, rng=0)),
    "huge": (1e8 * eye, lf.init.gaussian((2, 3, 2), std=1e4, rng=0)),
    "sizes apart": (eye, lf.Network([1e6 * eye, 1e-6 * np.array([[1.0, 0.5], [0.0, 1.0]])])),
    "at the target": (eye, lf.Network([2 * eye, 0.5 * eye])),
    "scaled": (eye, lf.Network([eye, np.diag([2.0, 0.1])], scale=1e-3)),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name):
    Y, net = EDGES[name]
    f = lf.MatrixFactorization(Y)
    cert = lf.certify(f, net)
    assert not re.search(r"\bnan\b", str(cert))
    assert all(g.applies or g.reason for g in (*cert.guarantees, *cert.prior))
    json.dumps(cert.to_dict(), allow_nan=False)
    run = lf.gradient_flow(f, net, until=1e-6, max_steps=2000)
    check = cert.check(run)
    assert check.holds, check.violation
    least = float(lf.TangentOperator(net).least_eigenvalue())
    for bound in lf.bounds.table(net):
        # a bound may exceed the computed eigenvalue by the rounding of both: 1e-13 of the size of T
        assert float(bound.value) <= least + 1e-13 * float(lf.TangentOperator(net).greatest_eigenvalue())
    steps = lf.certify(f, net, algorithm="descent")
    json.dumps(steps.to_dict(), allow_nan=False)
    descent = lf.gradient_descent(f, net, step_size=steps.step_size, steps=50)
    check = steps.check(descent)
    assert check.holds, check.violation


def test_a_descent_down_to_rounding_is_no_violation():
    X = np.array([[2.364**0.5]])
    f = lf.LinearRegression(X, X * -0.09339678335389891)
    net = lf.Network([np.array([[96.19460952499398]])], 7.0)
    eta = lf.certify(f, net, algorithm="descent").step_size * 0.995
    run = lf.gradient_descent(f, net, step_size=eta, steps=200)
    check = lf.certify(f, net, algorithm="descent", step_size=eta).check(run)
    assert check.holds, check.violation


def test_times_of_level_curves_are_rounded_up():
    curve = LevelCurve(np.array([1.0, 0.5]), np.array([1e-12, 1.0]))
    for gap in (0.4, 1e-3, 1e-6, 1e-12):
        assert curve.gap(curve.time(gap)) <= gap * (1 + 1e-12)


def test_a_large_frozen_part_is_not_certified_beyond_its_rounding():
    # What the objective does not see is 1e9 times what it sees; VᵀW_1 is then known to 1e-7 of itself.
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    X = rng.standard_normal((5, 2)) @ V[:, :2].T
    W1 = V[:, :2] @ rng.standard_normal((2, 3)) * 1e-4 + V[:, 2:] @ rng.standard_normal((2, 3)) * 1e5
    net = lf.Network([W1, 1e-4 * rng.standard_normal((3, 2))])
    f = lf.LinearRegression(X, np.zeros((5, 2)))
    seen, restricted = f.effective(net)
    assert restricted.sizes[0] == pytest.approx(np.linalg.norm(W1))
    assert max(g.rate for g in lf.certify(f, net).guarantees) == 0
    assert seen.pl_constant > 0


def test_a_bound_that_underflows_stays_above_zero():
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 60, 2), rng=0)
    tiny = np.finfo(float).tiny
    flow, descent = lf.certify(f, net), lf.certify(f, net, algorithm="descent")
    assert flow.gap_at(1e6) == descent.gap_at(1e6) == flow.best.gap_at(1e6) == tiny
    late = 700 / flow.best.curve.final_rate  # far down, but in the range of float64
    assert flow.best.gap_at(late) == flow.best.curve.gap(late) > tiny
    small = dataclasses.replace(flow.best, gap=1e-310)  # never above the first gap
    assert small.gap_at(1e6) == 1e-310
