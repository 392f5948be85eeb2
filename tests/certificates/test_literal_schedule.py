"""Each formula of a schedule's certificate alone, with numbers set by hand: docs/descent.md, written out anew.

A `STRICT` of 1.25 shows every allowance and its direction; sums and products of such numbers are exact, or agree to a
few roundings.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import linflow as lf
from linflow.bounds._base import Spectrum
from linflow.certificates import curves, step_bounds
from linflow.certificates import scheduled_descent as scheduled
from linflow.certificates.caps import Caps
from linflow.certificates.setting import Setting

STRICT = 1.25
GROWING = scheduled.Rule(0.1, printed=True)


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0)


@pytest.fixture
def bounds(monkeypatch):
    """Bounds without a start: each test sets what the formula reads."""
    for module in (step_bounds, scheduled):
        monkeypatch.setattr(module, "STRICT", STRICT)
    found = object.__new__(scheduled.ScheduleBounds)
    found.rule, found.gamma, found.K, found.gap = GROWING, 2.0, 3.0, 1.0
    return found


def test_pieces_end_where_the_cap_reaches_the_end():
    assert GROWING.pieces(0.1) == [0]
    steep = scheduled.Rule(3.0, printed=True)  # a step grows by more than a piece may
    assert steep.pieces(3.0 * 10**1.5) == [0, 1, 2, 3]


def curve_of(rule, largest, rate=1e-6, step_size=0.1):
    one = np.array([1.0])
    decay = curves.LevelCurve(one, np.array([rate]))
    return scheduled.ScheduleCurve(1.0, step_size, 0.5, np.zeros(1), one, one / 2, largest, rule, decay)


def test_whole_steps_of_the_largest_size_are_done_by_a_time():
    curve = curve_of(scheduled.Rule(math.inf, printed=True), 0.5)
    assert curve.gap(3.0) == near(0.5**5)  # the sixth step may end a rounding later
    assert curve.gap(3.0 * (1 + 1.5e-12)) == near(0.5**6)
    assert curve.gap(0.0) == 1.0 == curve.gap(0.4)
    fast = curve_of(scheduled.Rule(math.inf, printed=True), 0.5, rate=10.0)
    assert fast.gap(3.0) == near(math.exp(-25.0))
    assert (fast.time(1.0), fast.time(2.0)) == (0.0, 0.0)
    assert fast.time(0.25) == near((math.log(4) / 10) + 0.5)
    assert curve.time(0.25) == 0.5 * curve.steps(0.25)


def test_the_first_steps_of_a_growing_schedule_are_capped_by_its_growth(monkeypatch):
    monkeypatch.setattr(scheduled, "STRICT", STRICT)
    curve = curve_of(GROWING, 50.0)
    k = curve.steps(2.0**-5)
    assert curve.time(2.0**-5) == near(k * GROWING.at(k) * STRICT)
    longest = GROWING.at(20) * STRICT  # 2/0.1: no more steps fit into a time of 2
    assert curve.gap(2.0) == near(0.5 ** math.floor(2.0 / longest * (1 - 1e-12))) and curve.gap(2.0) < 0.01
    assert curve_of(GROWING, 5.0).time(1e-300) == 5.0 * curve.steps(1e-300)
    fast = curve_of(GROWING, 50.0, rate=10.0)
    assert fast.time(2.0**-5) == near(math.log(32) / 10 + GROWING.at(k) * STRICT)
    assert fast.gap(2.0) == near(math.exp(-10.0 * (2.0 - longest)))


def test_steps_too_many_to_count_grow_to_the_largest():
    """A step of 1e-9 is all but constant for 2⁵³ steps, and 1e22 of them it does not stay so small."""
    rule = scheduled.Rule(1e-9, printed=True)
    assert rule.pieces(0.5) == [0]
    one = np.array([1.0])
    decay = curves.LevelCurve(one, np.array([0.5e-12]))
    curve = scheduled.ScheduleCurve(1.0, 1e-9, 1e-21, np.zeros(1), one, one * 1e-21, 0.5, rule, decay)
    assert curve.steps(1e-4) > 2**53 and rule.at(curve.steps(1e-4)) > 0.5
    # Steps near 1/K lower the gap at half the rate of small ones, and these come to be near it.
    assert curve.time(1e-4) == near(math.log(1e4) / 0.5e-12)
    assert curve.gap(1e13) == near(math.exp(-0.5e-12 * (1e13 - 0.5)))


def test_without_strong_convexity_no_product_is_known_to_be_large():
    target = np.eye(2)
    kept = {"shape": (2, 2), "minimizer": target, "minimum": 0.0, "smoothness": 1.0}
    value, slope = (lambda W: 0.5 * float(((W - target) ** 2).sum())), (lambda W: W - target)
    net = lf.Network([np.eye(2), 0.9 * np.eye(2)])
    for known, least in (("pl_constant", 0.0), ("strong_convexity", 0.8)):
        words: dict[str, Any] = kept | {known: 1.0}
        f = lf.Objective(value, slope, **words)
        found = scheduled.ScheduleBounds(Setting(f, net), GROWING)
        assert found.least_size == pytest.approx(least, rel=0.2, abs=0)


def test_roots_of_a_flat_objective_exceed_1():
    f = lf.MatrixFactorization(0.01 * np.eye(2))
    found = scheduled.ScheduleBounds(Setting(f, lf.Network([0.1 * np.eye(2)] * 2)), GROWING)
    omega = Caps.of(np.full((2, len(found.levels)), 0.1))
    ceiling = np.full(len(found.levels), 0.01)
    flat = found.curvature(omega, ceiling, None, 0.0)
    assert found.gap < 1e-30 and np.all(flat < 0.02)
    # At the minimum `K_t` is `K λ_max(T)`, up to the rounding of the gap.
    np.testing.assert_allclose(found.roots(omega, ceiling), 1 / flat, rtol=1e-6)


@pytest.mark.parametrize("along", [False, True])
def test_what_is_not_seen_adds_to_the_layers(bounds, along):
    """`K_t` has the size of the whole product; that of the step itself has the curvature of all the weights, too."""
    bounds.network = lf.Network([np.eye(1), np.eye(1)], 0.5)
    bounds.levels, bounds.slopes, bounds.high = np.array([1.0, 0.25]), np.array([2.0, 1.0]), np.full(2, 0.1)
    bounds.whole, bounds.unseen = False, np.array([3.0, 5.0])
    bounds.rule = scheduled.Rule(math.inf, printed=False, along=along)
    seen, ceiling = np.array([[1.0, 0.5], [2.0, 1.0]]), np.full(2, 0.1)
    full, slope = np.sqrt(seen**2 + np.array([[3.0], [5.0]])), 0.5 * bounds.slopes
    own = (Caps.of(full), np.full(2, math.inf)) if along else (Caps.of(seen), ceiling)
    flat, eta = bounds.curvature(*own, None, 0.0), bounds.roots(Caps.of(seen), ceiling) * STRICT**2
    K_t = flat + (flat - slope) * slope * eta + 0.5 * 3 * (0.5 * full[0] * full[1]) * slope**2 / 2 * eta**2
    np.testing.assert_allclose(eta * K_t, 1.0, rtol=1e-12)


def test_the_largest_step_takes_the_ends_of_the_spectrum_that_make_it_longer(bounds):
    bounds.network = lf.Network([np.eye(1), np.eye(1)], 0.5)
    bounds.least_size = 0.0
    bounds.norms = np.array([1.0, 1.0])

    D = Spectrum(np.array([4.0, -1.0, -8.0]), np.array([5.0, 1.0, -7.0]))
    bounds.invariants = SimpleNamespace(spectra=(D,))
    # max(4 − 1, 0) + max(7 − 1, 0), in K c² (x + y)
    assert bounds.largest_root(1.0, 0.0, 0.0) == near(STRICT**2 / (3 * 0.25 * (3 + 6)))
    bounds.norms = np.array([10.0, 5.0])
    # (10/1.25 − 2)² and (5/1.25 − 2)² = 4, below 7 − 1
    assert bounds.largest_root(1.0, 2.0, 0.0) == near(STRICT**2 / (3 * 0.25 * (36 + 6)))
    assert bounds.largest_root(20.0, 2.0, 0.0) == near(STRICT**2 / (3 * 0.25 * (36 + 4)))
    # Far from the start, and after so much drift, only the product keeps the layers from 0: x + y ≥ 2s.
    bounds.norms, bounds.least_size = np.array([1.0, 1.0]), 0.5
    assert bounds.largest_root(20.0, 5.0, 0.0) == near(STRICT**2 / (3 * 0.25 * 2 * 0.5))


def test_a_drift_is_raised_until_it_holds_or_is_hopeless(bounds, monkeypatch):
    bounds.norms, bounds.gap = np.array([3.0, 4.0]), 5.0
    tried = []

    def within(wanted):
        def of(drift):
            tried.append(drift)
            return f"held at {drift}", wanted(drift)

        tried.clear()
        monkeypatch.setattr(bounds, "_within", of, raising=False)
        return bounds.held()

    limit = 1e6 * (9 + 16 + 5)
    for wanted in (1.0, 0.99 * limit, limit):
        assert within(lambda drift, w=wanted: w) == f"held at {wanted * 1.001}" and tried == [0.0, wanted * 1.001]
    assert within(lambda drift: 1.01 * limit) is None and tried == [0.0]
    assert within(lambda drift: drift) == "held at 0.0"
    assert within(lambda drift: drift + 1.0) is None and len(tried) == 300


@pytest.mark.parametrize(
    ("reach", "j"),
    [
        ([1.0, 2.0, 3.0, 3.5, 5.1], -2),
        ([1.0, 3.0, 5.1, 5.2, 5.3], -3),
        ([1.0, 2.0, 5.0, 5.05, 5.1], -2),
        ([1.0, 2.0, 3.0, 4.0, 5.0], -1),
    ],
)
def test_the_smallest_ball_that_the_path_does_not_leave(bounds, monkeypatch, reach, j):
    """`4 sqrt(ℓ(0)) < Ψ(r)`, here `4 · 1 · 1.25 = 5`; each level has the floor where its path ends."""
    bounds.levels, bounds.norms, bounds.high = np.array([1.0, 0.25, 0.04]), np.ones(2), np.full(3, 9.0)
    bounds._floors, bounds._chosen = np.array([9.0, 8.0, 7.0, 6.0, 5.0]), np.array([0, 2, 4])
    bounds.radii, bounds.ceilings = np.array([0.5, 2.0, 4.0, math.inf]), np.array([7.0, 8.0, 9.0, math.inf])
    floors, roots = np.array([0.5, 0.6, 8.5]), np.array([0.1, 0.2, 0.3])
    asked = {}

    def keep(name, value):
        def of(*given):
            asked[name] = given
            return value

        monkeypatch.setattr(bounds, name, of, raising=False)

    given = {"alphas": floors, "_reach": np.array(reach), "caps": Caps.of(np.full((2, 3), 2.75)), "roots": roots}
    for name, value in (given | {"largest_root": 0.7, "_curve": (None, 0.375)}).items():
        keep(name, value)
    held, wanted = bounds._within(0.25)
    radius = bounds.radii[j]
    assert wanted == 0.375 * STRICT and (held.drift, held.radius, held.largest) == (0.25, radius, 0.7)
    assert held.roots is roots and list(held.caps) == [min(2.75, 1 + radius)] * 2
    assert asked["alphas"] == (0.25,) and asked["_reach"] == (0.5,) and asked["caps"] == (0.25, bounds.high)
    assert np.all(asked["roots"][0].layers == min(2.75, 1 + radius)) and asked["roots"][1] == bounds.ceilings[j]
    expected = list(floors)
    if j < -1:
        for k, y in enumerate((0.25, 0.04, 0.0)):
            expected[k] = max(floors[k], bounds._floors[sum(x < 4 * (1 - math.sqrt(y)) for x in reach)])
    assert list(held.alphas) == expected
    assert asked["largest_root"] == (0.25, radius, min(expected))
    bounds.gap = 0.25  # half the path: 4 · 0.5 · 1.25
    assert bounds._within(0.25)[0].radius == bounds.radii[sum(reach[k] <= 2.5 for k in (0, 2, 4))]
    bounds.gap = -1e-9  # a gap that is 0 to rounding takes no path
    assert bounds._within(0.25)[0].radius == bounds.radii[0]
    keep("roots", np.array([0.0, 0.2, 0.3]))
    assert bounds._within(0.25) == (None, math.inf)


@pytest.mark.parametrize("largest", [0.3, 3.0])
def test_the_drift_is_the_sum_of_what_longer_steps_may_do(bounds, largest):
    """`m_0 ℓ_0 + Σ (m_t − m_{t−1}) ℓ_t`, piece by piece: `m` of the last step of a piece, the gap at its start."""
    bounds.levels = levels = np.array([1.0, 0.5, 0.25])
    roots, alphas = np.array([0.4, 0.6, 0.8]), np.array([0.05, 0.07, 0.1])
    curve, drift = bounds._curve(roots, alphas, largest)
    starts = GROWING.pieces(max(largest, 0.8))
    expected, before, u, rows, decreases = 0.0, 0.0, 1.0, [], []
    for i, start in enumerate(starts):
        following = starts[i + 1] if i + 1 < len(starts) else None
        m = 2 * largest
        if following is not None and (top := GROWING.at(following - 1) * STRICT) < largest:
            m = top / (1 - min(top / 0.4, 1.0) / 2)
        expected, before = expected + (m - before) * u, m
        eta = np.minimum(GROWING.at(start) / STRICT, roots)
        decreases.append(eta * (1 - eta / roots / 2) * 2.0 * alphas / STRICT)
        u = step_bounds.follow(levels, decreases[-1], u, start, following, rows)
    assert drift == near(expected)
    assert curve.decrease == near(min(d.min() for d in decreases)) and curve.largest == largest
    assert (curve.step_size, curve.rule) == (0.1, GROWING) and len(curve.counts) == len(rows)
    np.testing.assert_allclose(curve.decay.rates, 2.0 * alphas / STRICT / 2, rtol=1e-15)
    fixed = scheduled.Rule(math.inf, printed=True)
    bounds.rule = fixed
    curve, drift = bounds._curve(roots, alphas, largest)
    assert drift == near(2 * largest) and curve.step_size == 0.4


def test_a_step_lowers_the_gap_by_no_more_than_all_of_it(bounds):
    bounds.levels, bounds.rule = np.array([1.0]), scheduled.Rule(math.inf, printed=False)
    curve, _ = bounds._curve(np.array([0.5]), np.array([100.0]), 0.5)
    assert curve.decrease == 1.0 == curve.decreases[-1] and curve.gap_after(1) == 0.0
    bounds.rule = scheduled.Rule(math.inf, printed=False, along=True)  # at the step itself ηK_t = 1
    assert bounds._curve(np.array([0.5]), np.array([0.5]), 0.5)[0].decrease == near(0.5 * 0.5 * 2.0 * 0.5 / STRICT)


def test_a_level_without_a_decrease_leaves_no_curve(bounds):
    bounds.levels, bounds.rule = np.array([1.0, 0.25]), scheduled.Rule(math.inf, printed=False)
    assert bounds._curve(np.array([0.5, 0.5]), np.array([0.0, 0.1]), 0.5)[0] is None


def test_nothing_drifts_without_a_gap_however_long_the_steps(bounds):
    bounds.levels, bounds.rule = np.array([0.0]), scheduled.Rule(math.inf, printed=False)
    assert bounds._curve(np.array([0.5]), np.array([0.0]), math.inf) == (None, 0.0)
