"""Descent on losses with a tail: levels, caps, conditions and counts written out anew, with coarse allowances."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates import step_bounds, tail_descent
from linflow.certificates.setting import Setting
from linflow.certificates.tail_descent import TailDescent, TailStepCurve, steps_of
from linflow.model.tails import LogisticTail, Tail

X, Y = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([1.0, -1.0])  # γ = 2.4, max ‖x‖² = 16
COARSE, EPS = 1.25, 2.0**-8
"""In place of 1 + 1e-9 and of 2⁻⁵²."""


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0)


@pytest.fixture
def coarse(monkeypatch):
    monkeypatch.setattr(tail_descent, "STRICT", COARSE)
    monkeypatch.setattr(tail_descent, "EPS", EPS)


def of(f, weights, scale=1.0):
    return TailDescent(Setting(f, lf.Network(weights, scale), "descent"))


def start(rng, depth):
    return [rng.standard_normal(s) for s in pairwise([2, *[3] * (depth - 1), 1])]


# --- the curve -----------------------------------------------------------------------------------------------------


def test_a_number_of_steps_is_rounded_up(coarse):
    # 1/ℓ grows by 1 in the time 1: from 1 to 1/(1 + t).
    for t, n in ((2.0, 5.0), (1.95, 4.0), (1.98, 5.0), (0.1, 1.0), (0.0, 1.0)):
        assert steps_of(Tail(1.0), 1.0, 1.0, 1 / (1 + t), 0.5) == n
    assert steps_of(Tail(1.0), 1.0, 1.0, 1 / 2.94, 0.5) == 4.0  # 3.94 with the rounding
    assert steps_of(Tail(1.0), 1.0, 1.0, 1 / 32.5, 0.5) == 64.0  # 63.98
    assert steps_of(Tail(1.0), 1.0, 1.0, 1e-200, 1e-200) == math.inf


def test_counts_beyond_float64_are_lowered_and_raised(coarse, monkeypatch):
    monkeypatch.setattr(tail_descent, "COUNTED", 8)
    tail = Tail(1.0)
    curve = TailStepCurve.of(tail, 1.0, np.array([1.0, 0.1, 0.01]), np.array([0.5, 1.0, 2.0]), 0.05)
    # 18 steps lead to the second level: more than can be counted, so the first holds for ever.
    assert curve.counts.tolist() == [0.0] and curve.gaps.tolist() == [1.0] and curve.spans.tolist() == [0.5]
    for k in (0, 1, 5, 7):
        assert curve.gap_after(k) == near(tail.gap(1.0, k * 0.5 * (1 - 4 * EPS), 1.0))
    for k in (8, 30):
        assert curve.gap_after(k) == near(tail.gap(1.0, k * (1 - 4 * EPS) * 0.5 * (1 - 4 * EPS), 1.0))
    # n − 1 half steps: n is 2 (1/ℓ − 1) (1 + 4ε), rounded up.
    assert curve.steps(1.0) == curve.steps(2.0) == 0
    assert curve.steps(1 / 2.25) == 3 and curve.steps(1 / 4.25) == 7
    assert curve.steps(1 / 4.95) == math.ceil(9 * (1 + 8 * EPS)) == 10  # 8.03 is 9
    assert curve.steps(1 / 4.75) == math.ceil(8 * (1 + 8 * EPS)) == 9
    assert curve.steps(1 / 32.5) == 66  # 64 (1 + 8ε)
    assert isinstance(curve.steps(1 / 4.75), int) and isinstance(curve.steps(1 / 2.25), int)
    monkeypatch.setattr(tail_descent, "COUNTED", 19)
    # 18 · (1 + 4ε) is 19: the second level is just not counted; with 20 it is.
    assert TailStepCurve.of(tail, 1.0, np.array([1.0, 0.1]), np.array([0.5, 1.0]), 0.05).counts.tolist() == [0.0]
    monkeypatch.setattr(tail_descent, "COUNTED", 20)
    assert TailStepCurve.of(tail, 1.0, np.array([1.0, 0.1]), np.array([0.5, 1.0]), 0.05).counts.tolist() == [
        0.0,
        19.0,
    ]


def test_levels_follow_each_other(coarse):
    tail = Tail(1.0)
    levels, spans = np.array([1.0, 0.5, 0.45, 0.2, 0.1]), np.array([0.25, 0.5, 1.0, 1.5, 8.0])
    curve = TailStepCurve.of(tail, 1.0, levels, spans, 0.05)
    counts, gaps, kept, u, count, k = [0.0], [1.0], [0.25], 1.0, 0.0, 0
    while k < 4:
        n = steps_of(tail, 1.0, u, levels[k + 1], spans[k])
        u, count = min(tail.gap(u, n * spans[k], 1.0), levels[k + 1]), count + n
        k = max(j for j in range(5) if u <= levels[j])
        counts, gaps, kept = [*counts, count], [*gaps, u], [*kept, spans[k]]
    assert len(counts) == 4  # a step passed a level: at 0.4
    assert curve.counts.tolist() == counts and curve.gaps == near(gaps) and curve.spans.tolist() == kept
    assert curve.first == 1.0 and curve.decrease == 0.0 and curve.step_size == 0.05
    for i, c in enumerate(counts):
        assert curve.gap_after(c) == near(gaps[i])
        if i:  # the steps to a gap of the next level, or just above it, are never more than to that level
            assert curve.steps(gaps[i]) <= c and curve.steps(gaps[i] * (1 + 1e-9)) <= c
    for gap in (0.9, 0.3, 0.15, 0.01):
        i = max(j for j in range(len(gaps)) if gaps[j] > gap)
        n = counts[i] + steps_of(tail, 1.0, gaps[i], gap, kept[i])
        assert curve.steps(gap) == min(n, counts[i + 1] if i + 1 < len(counts) else math.inf)


def test_the_rate_over_a_step(coarse):
    tail = LogisticTail(1.5)
    curve = TailStepCurve.of(tail, 2.0, np.array([4.0, 1.0]), np.array([0.01, 0.02]), 0.05)
    for gap, span in ((4.0, 0.01), (2.0, 0.01), (float(curve.gaps[1]), 0.02), (0.5, 0.02), (8.0, 0.01)):
        fall = span * 2.0 * tail.constant_on(gap) ** 2 * gap
        assert curve.rate_at(gap) == near(-math.log(1 - fall) / 0.05)
    steep = TailStepCurve.of(Tail(1.5), 2.0, np.array([4.0]), np.array([10.0]), 0.05)
    assert steep.rate_at(4.0) == near(-math.log(EPS) / 0.05)


# --- levels and caps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("size", [0.01, 8.0])
def test_levels_are_fine_first_and_reach_far(depth, size, rng):
    f = lf.ExponentialLoss(X, Y)
    weights = start(rng, depth)
    bounds = of(f, [size * weights[0], *weights[1:]])
    first = f.value(lf.Network([size * weights[0], *weights[1:]]).product())
    first += f.rounding(bounds.setting.network)
    u = -np.log(bounds.levels / first)
    end = max(math.log(first), 0.0) + 40 + 8 * depth
    fine = [k / 32 for k in range(64 * depth)]
    coarse = [2 * depth + k / 4 for k in range(math.ceil(4 * (end + 1 - 2 * depth)))]
    np.testing.assert_allclose(u, [*fine, *coarse], rtol=1e-12, atol=1e-13)
    assert bounds.levels[0] == near(first)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("loss", [lf.ExponentialLoss, lf.LogisticLoss])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_caps_on_the_curvature_cell_by_cell(coarse, depth, loss, size, rng):
    """With a last layer that is far larger the sum of the products is below that of equal layers."""
    f, c, q, alpha = loss(X, Y), 0.7, 0.4, 0.3
    weights = start(rng, depth)
    bounds = of(f, [weights[0] / size, *weights[1:-1], size * weights[-1]], c)
    levels, norms = bounds.levels, np.array([np.linalg.norm(W, 2) for W in bounds.setting.network.weights])
    reach = bounds.tail.path(float(levels[0]), levels) * COARSE / (q * math.sqrt(alpha))
    greatest, bent = [], []
    for R in reach:
        w = norms + R
        others = [math.prod(np.delete(w, i)) for i in range(depth)]
        total = (math.sqrt(float((norms**2).sum())) + R) ** 2
        greatest.append(c * c * min(sum(x * x for x in others), depth * (total / depth) ** (depth - 1)))
        C = np.array(
            [[0.0 if i == j else math.prod(np.delete(w, [i, j])) for j in range(depth)] for i in range(depth)]
        )
        bent.append(c * float(np.linalg.eigvalsh(C)[-1]))
    beta = [
        f.smoothness_on(y) * T + f.steepest_on(y) * B
        for y, T, B in zip(levels[:-1], greatest[1:], bent[1:], strict=True)
    ]
    kappa = f.tail_smoothness
    beta.append(levels[-1] * (kappa * greatest[-1] + math.sqrt(2 * kappa) * bent[-1]))
    literal = np.array([max(beta[i:]) for i in range(len(beta))]) * COARSE
    np.testing.assert_allclose(bounds.betas(q, alpha), literal, rtol=1e-9)  # norms are raised by their rounding


def test_one_layer_has_the_curvature_of_its_level(coarse):
    f = lf.LogisticLoss(X, Y)
    bounds = of(f, [np.zeros((2, 1))], 0.5)
    literal = [f.smoothness_on(float(y)) * 0.25 * COARSE for y in bounds.levels]
    np.testing.assert_allclose(bounds.betas(0.5, 0.25), literal, rtol=1e-14)


def test_caps_that_leave_float64_are_infinite(rng):
    bounds = of(lf.ExponentialLoss(X, Y), start(rng, 4))
    assert np.all(bounds.betas(1e-200, 1e-3)[:1] == math.inf)


# --- conditions ----------------------------------------------------------------------------------------------------


def fixed(bounds, beta=2.0, alpha=0.25):
    """The same caps in every ball, so that the search can be followed by hand."""
    asked = []
    bounds.alpha = lambda drift: asked.append(drift) or alpha
    bounds.betas = lambda share, alpha: asked.append((share, alpha)) or np.array([beta, beta / 2])
    return asked


@pytest.mark.parametrize("depth", [1, 2])
def test_share_and_drift_are_found_in_turn(coarse, depth, rng):
    bounds, eta = of(lf.ExponentialLoss(X, Y), start(rng, depth)), 0.125
    first = float(bounds.levels[0])
    asked = fixed(bounds)
    held = bounds.at(eta)
    left = (1 - eta * 2.0 / 2) / COARSE
    share = left * (1 - 1e-3)
    drift = eta * first / share * COARSE * (1 + 1e-3) if depth > 1 else 0.0
    assert held is not None and held.share == near(share) and held.drift == near(drift)
    assert held.step_size == eta and held.alpha == 0.25 and held.betas.tolist() == [2.0, 1.0]
    assert held.spans == near([eta * (1 - eta) / COARSE, eta * (1 - eta / 2) / COARSE])
    # First with no drift and the whole decrease; then with what is left, and last with the drift of that.
    drifts = [0.0, eta * first * COARSE * 1.001, drift] if depth > 1 else [0.0, 0.0]
    assert asked[::2] == near(drifts) and [x[0] for x in asked[1::2]] == near([1.0, *[share] * (len(drifts) - 1)])
    assert {x[1] for x in asked[1::2]} == {0.25}


def test_a_guarantee_tells_the_constants_of_its_step():
    bounds = of(lf.ExponentialLoss(X, Y), [2 * np.eye(2), np.ones((2, 1))])
    eta = bounds.advise()
    held, facts = bounds.at(eta), bounds.guarantee(eta).facts
    assert held is not None and held.betas[0] > held.betas[1]
    assert (facts["α"], facts["β"], facts["drift cap"]) == (held.alpha, held.betas[0], held.drift)


def test_no_step_holds_without_a_floor_or_a_decrease(rng):
    bounds = of(lf.ExponentialLoss(X, Y), start(rng, 2))
    fixed(bounds, alpha=0.0)
    assert bounds.at(0.1) is None
    fixed(bounds, beta=2.0)
    assert bounds.at(1 - 0.9e-6) is None and bounds.at(1.0) is None
    assert bounds.at(1 - 1.2e-6) is not None
    first = float(bounds.levels[0])
    # The drift keeps growing: what is asked last is a number, and there is no step.
    bounds.betas = lambda share, alpha: np.array([2.0])
    bounds.alpha = lambda drift: 1.0 if drift < 0.1 * first else 0.0
    assert bounds.at(0.25) is None


@pytest.mark.parametrize("depth", [1, 2])
def test_the_longest_steps_of_each_share(coarse, depth, rng):
    bounds = of(lf.ExponentialLoss(X, Y), start(rng, depth))
    fixed(bounds, beta=4.0)
    first, drift = float(bounds.levels[0]), 0.3
    found = bounds._steps(drift)
    for q, (score, eta) in zip((0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9), found, strict=True):
        longest = 2 * (1 - q) / 4.0
        longest = min(longest, q * drift / first) if depth > 1 else longest
        assert (score, eta) == near((longest * q * 0.25, longest / COARSE**2))
    bounds.alpha = lambda drift: 0.0
    assert bounds._steps(drift) == [(0.0, 0.0)]


def test_the_scan_is_over_the_drift_in_its_unit(monkeypatch, rng):
    bounds = of(lf.ExponentialLoss(X, Y), start(rng, 2))
    asked = fixed(bounds, beta=4.0)
    unit = float(bounds.levels[0]) / 4.0
    drifts = []
    bounds._steps = lambda drift: drifts.append(drift) or [(drift, 3.0), (2.0 * drift, 1.0), (0.5 * drift, 2.0)]
    monkeypatch.setattr(tail_descent, "scan", lambda score: max(score(-1.0), score(1.0)))
    assert bounds._scan(0) == near((20 * unit, 1.0)) and drifts == near([unit / 10, 10 * unit])
    assert asked[0] == 0.0 and asked[1] == (0.5, 0.25)
    score, eta = bounds._scan(1)
    assert eta == 3.0 and score in (near(10 * unit), near(unit / 10))
    alone = of(lf.ExponentialLoss(X, Y), [np.zeros((2, 1))])
    alone._steps = lambda drift: drifts.append(drift) or [(1.0, 3.0), (2.0, 1.0)]
    assert alone._scan(0) == (2.0, 1.0) and alone._scan(1) == (1.0, 3.0) and drifts[-1] == 0.0


def test_the_step_advised_is_shortened_until_it_holds(rng):
    bounds = of(lf.ExponentialLoss(X, Y), start(rng, 2))
    bounds.__dict__["why"] = ""
    bounds._scan = lambda entry: ((5.0, 0.5), (7.0, 0.9))[entry]
    assert bounds.largest == 0.9
    tried = []
    bounds.at = lambda eta: tried.append(eta) or (None if eta > 0.47 else SimpleNamespace())
    assert bounds.advise() == near(0.5 * 0.999 * 0.98**4) and len(tried) == 5
    bounds.at = lambda eta: None
    assert bounds.advise() == 0.0
    bounds._scan = lambda entry: (0.0, 0.0)
    assert bounds.advise() == 0.0
    none = of(lf.ExponentialLoss(X, Y), start(rng, 2))
    none.__dict__["why"] = "a reason"
    none._scan = none.at = lambda *_: pytest.fail("there is a reason")
    assert none.largest == none.advise() == 0.0
    g = none.guarantee(0.1)
    assert not g.applies and g.reason == "a reason" and set(g.facts) == {"hard margin"}


def test_reasons_at_their_limits():
    f = lf.ExponentialLoss(X, Y)

    def why(weights, levels=None, path=None):
        bounds = of(f, weights)
        if levels is not None:
            bounds.__dict__["levels"] = np.array(levels)
        bounds.__dict__["_path"] = np.array([0.0, 1.0, 1.0 if path is None else path])
        return bounds.why

    good = [2 * np.eye(2), np.ones((2, 1))]
    assert why(good) == why(good, [1.0, 1e-9, 1.1e-300]) == ""
    assert "out of reach" in why(good, [1.0, 1e-9, 0.9e-300]) and "out of reach" in why(good, path=math.inf)
    assert of(f, [0.5 * W for W in good]).alpha(0.0) < 1 and why([0.5 * W for W in good]) == ""
    nothing = lf.Objective(
        lambda W: 0.0, lambda W: 0 * W, shape=(2, 1), minimum=0.0, tail_constant=1.0, smoothness=1.0
    )
    assert of(nothing, [np.zeros((2, 1))]).why == "the loss gap at the start is 0"
    logistic, fitting = lf.LogisticLoss(X, Y), [np.array([[1.0], [-1.0]])]
    assert 0 < of(logistic, fitting).setting.gap < 1 and of(logistic, fitting).why == ""
    assert of(logistic, [np.zeros((2, 3)), np.zeros((3, 1))]).why == tail_descent.NO_FLOOR
    smooth = lf.Objective(f.value, f.gradient, shape=(2, 1), minimum=0.0, tail_constant=0.5, smoothness=99.0)
    assert of(smooth, [np.zeros((2, 1))]).why == ""  # the curvature of one layer is that of f
    assert of(smooth, good).why == tail_descent.NO_CURVATURE


def test_there_are_as_many_floors_as_those_of_descents(rng):
    bounds = of(lf.ExponentialLoss(X, Y), start(rng, 2))
    seen = []
    bounds.__dict__["_bounds"] = SimpleNamespace(
        alphas=lambda drift, count: seen.append((drift, count)) or [0.5, 0.7]
    )
    assert bounds.alpha(0.1) == 0.5 and seen == [(0.1, 1)]
    assert of(lf.ExponentialLoss(X, Y), start(rng, 2))._bounds.__class__ is step_bounds.DescentBounds
