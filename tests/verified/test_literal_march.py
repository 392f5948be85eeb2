"""A step of a verified flow written out, under a roundoff so coarse that every allowance shows."""

import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from linflow.verified import march
from linflow.verified.arithmetic import FLOAT64, PAIRS
from linflow.verified.log_norm import Constants, Node, Tube, greatest
from linflow.verified.march import EnclosureMarch, budget, next_time, rounded_up, rounding_of_value
from linflow.verified.problem import AffineGradient
from linflow.verified.taylor import Expansion
from tests.verified.test_literal_path import coarse, drawn, near, up

__all__ = ["coarse"]


def march_of(widths=(2, 3, 2), radius=2.0**-20, c=0.75):
    n, m = widths[0], widths[-1]
    P, Q = drawn(n, n, seed=1), drawn(m, m, seed=2)
    f = AffineGradient(drawn(n, m, seed=9), P @ P.T, Q @ Q.T, (3.0, 5.0), (4.0, 7.0), (2.0**-20, 0.0), 2.0**-20)
    return EnclosureMarch(f, [drawn(a, b, seed=k) for k, (a, b) in enumerate(itertools.pairwise(widths))], c, radius)


def test_the_first_gap_is_known_with_the_radius_of_the_start(coarse):
    for radius in (0.0, 2.0**-3):
        state = march_of(radius=radius)
        path = state.node.path
        motion = Tube(path, 0.0).constants(radius).motion
        gap = state.problem.gap(path.distance, (path.distance_error + motion * radius) * up)
        assert state.gap == state.first == gap and state.size == 12
        assert (state.t, state.exponent, state.loose, state.hessians) == (0.0, 0.0, 0.0, 0)


def test_what_the_bound_by_products_may_add_in_all():
    sizes = (1, 300, 301, 1500, 1501, 10**6)
    assert [budget(size) for size in sizes] == [0.5, 0.5, 1.0, 1.0, 8.0, 8.0]
    assert [budget(size, descent=True) for size in sizes] == [0.5, 0.5, 3.0, 3.0, 8.0, 8.0]


# --- the unit of time ----------------------------------------------------------------------------------------------


def units(monkeypatch, norm, speed, longest, finite=None):
    """The units tried for a first path: of weights of that norm and speed, longest steps by unit."""
    tried = []

    class Path:
        def __init__(self, problem, weights, scale, tau, order=None, arithmetic=FLOAT64):
            if order is not None:
                assert (order, tau) == (1, 1.0)
            else:
                assert arithmetic is PAIRS
                tried.append(tau)
            self.tau, self.depth = tau, 1
            moved = speed / math.sqrt(2)
            self.coefficients = [np.stack([np.eye(1), moved * np.eye(1)])] * 2
            self.defects = np.array([1.0, 1.0 if finite is None or tau <= finite else math.inf])

        def norm(self):
            return norm

        def longest(self):
            return longest(self.tau)

    with monkeypatch.context() as patch:
        patch.setattr(march, "Expansion", Path)
        state = object.__new__(EnclosureMarch)
        state.problem, state.weights, state.scale, state.arithmetic = None, [], 1.0, PAIRS
        assert state._first_path().tau == tried[-1]
    return [math.log2(tau) for tau in tried]


def test_the_unit_of_time_is_that_in_which_the_longest_step_is_about_1(monkeypatch):
    # First ‖θ‖/‖∇L‖, to a power of two.
    assert units(monkeypatch, 8.0, 2.0, lambda tau: 1.0) == [2.0]
    assert units(monkeypatch, 11.0, 1.0, lambda tau: 1.0) == [3.0] and units(
        monkeypatch, 12.0, 1.0, lambda tau: 1.0
    ) == [4.0]
    assert units(monkeypatch, 8.0, 0.0, lambda tau: 1.0) == [0.0]  # at rest
    assert units(monkeypatch, 1e200, 1.0, lambda tau: 1.0) == [round(math.log2(1e100))]
    assert units(monkeypatch, 1e-200, 1.0, lambda tau: 1.0) == [round(math.log2(1e-100))]
    # Then by the longest step, where that is not between ¼ and 8 of it.
    for length in (0.25, 8.0):
        assert units(monkeypatch, 1.0, 1.0, lambda tau, length=length: length / tau) == [0.0]
    assert units(monkeypatch, 1.0, 1.0, lambda tau: 0.24 / tau) == [0.0, -2.0]
    assert units(monkeypatch, 1.0, 1.0, lambda tau: 8.1 / tau) == [0.0, 3.0]
    assert units(monkeypatch, 1.0, 1.0, lambda tau: 2.0**-20 / tau) == [0.0, -20.0]
    # A path that stands still takes the longest step in any unit, and one that overflows none.
    assert units(monkeypatch, 1.0, 1.0, lambda tau: 1e3) == [0.0]
    assert units(monkeypatch, 1.0, 1.0, lambda tau: 999.0 if tau == 1 else 1.0) == [0.0, 10.0]
    assert units(monkeypatch, 1.0, 1.0, lambda tau: 1.0, finite=2.0**-17) == [0.0, -8.0, -16.0, -24.0]
    assert len(units(monkeypatch, 1.0, 1.0, lambda tau: 16.0)) == 100


# --- how long a step is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "length"), [(0.0, 0.7), (0.5, 1e-3), (3.0, 5.3)])
def test_the_length_of_a_step_has_twenty_digits(t, length):
    mantissa, exponent = math.frexp(length)
    assert next_time(t, length, math.inf) == t + math.floor(mantissa * 2**20) / 2**20 * 2.0**exponent
    # An end that is given is kept if its distance is a number of float64, and no step ends there otherwise.
    end = t + length / 2
    kept = Fraction(end - t) == Fraction(end) - Fraction(t)
    assert next_time(t, length, end) == (end if kept else None)
    assert next_time(1.0, 0.5, 1.0) is None and next_time(1.0, 0.5, 0.5) is None


def tried(monkeypatch, levels, coarse_until=0, fails=0, length=8.0):
    """The scaled lengths that a step is tried with."""
    state, seen = object.__new__(EnclosureMarch), []
    state.t, state.trouble = 16.0, ""
    state.node = SimpleNamespace(path=SimpleNamespace(longest=lambda: length, tau=0.25))

    def attempt(self, tube, level):
        seen.append(tube.s)
        return "step" if len(seen) > fails else None

    asked = []
    monkeypatch.setattr(march, "Tube", lambda path, s: SimpleNamespace(path=path, s=s))
    monkeypatch.setattr(EnclosureMarch, "_level", lambda self, tube: levels)
    monkeypatch.setattr(
        EnclosureMarch,
        "_shorter",
        lambda self, tube: asked.append(tube.s) or (0.8 if len(asked) <= coarse_until else 1),
    )
    monkeypatch.setattr(EnclosureMarch, "_try", attempt)
    return state.advance(), seen, asked, state


def test_a_step_that_is_not_confirmed_is_halved_and_one_that_is_too_coarse_shortened(monkeypatch):
    assert tried(monkeypatch, 2)[:3] == ("step", [8.0], [])
    assert tried(monkeypatch, 2, fails=3)[:3] == ("step", [8.0, 4.0, 2.0, 1.0], [])
    step, seen, asked, _ = tried(monkeypatch, 3, coarse_until=2)
    assert step == "step" and asked == pytest.approx([8.0, 6.4, 5.12], rel=1e-5) and seen == asked[-1:]
    step, seen, _, state = tried(monkeypatch, 2, fails=99)
    assert step is None and len(seen) == 40 and state.trouble == "no radius was confirmed, however short the step"
    state.trouble = "it was the curvature"
    assert state.advance() is None and state.trouble == "it was the curvature"
    _, seen, _, state = tried(monkeypatch, 2, length=0.0)
    assert not seen and state.trouble == "the step is too short to change the time reached"


def test_the_bound_by_products_is_used_while_it_is_cheap_or_within_its_budget(monkeypatch):
    state = march_of()
    state.node = SimpleNamespace(products=(np.array([[0.0, 4.0], [4.0, 0.0]]), np.array([[0.0, 0.5], [0.5, 0.0]])))

    def level(spent, loose=0.0, size=12, curved=True):
        state.size, state.loose, state.curved = size, loose, curved
        return state._level(SimpleNamespace(path=SimpleNamespace(tau=0.25), s=spent / (2.0 * 0.25)))

    assert greatest(state.node.products[0] * state.node.products[1]) == pytest.approx(2.0, rel=1e-11)
    assert [level(0.499), level(0.501)] == [2, 3]
    assert [level(0.1, 0.399), level(0.1, 0.401)] == [2, 3]
    assert [level(0.999, size=301), level(1.001, size=301), level(0.501, size=300)] == [2, 3, 3]
    assert [level(0.99e-4, 9.0), level(1.01e-4, 9.0)] == [2, 3]
    assert [level(1.001, size=1500), level(7.999, size=1501), level(8.001, size=1501)] == [3, 2, 3]
    assert level(9.0, curved=False) == 2
    # Of the step that is tried now, not of the one before.
    state.node = SimpleNamespace(products=(np.array([[0.0, 8.0], [8.0, 0.0]]), np.array([[0.0, 0.5], [0.5, 0.0]])))
    assert [level(0.249), level(0.251)] == [2, 3]


def test_an_end_is_rounded_up_to_24_digits():
    for t in (1.0, 0.1, 2 / 3, 1e-300, 123456789.0, 2.0**24 + 1, 1.0 + 2.0**-23, 1.0 + 2.0**-24):
        up_to = rounded_up(t)
        mantissa, _ = math.frexp(up_to)
        assert t <= up_to < t * (1 + 2.0**-22) and mantissa * 2**24 == int(mantissa * 2**24)
    assert rounded_up(1.0 + 2.0**-23) == 1.0 + 2.0**-23 and rounded_up(math.inf) == math.inf


def test_the_hessian_is_used_where_it_costs_no_more_than_one_of_1500_weights(monkeypatch):
    weights = [np.eye(2, 3), np.eye(3), np.eye(3, 4)]
    for cost, curved in ((1500**3 / 6, True), (1500**3 / 6 + 1, False)):
        monkeypatch.setattr(march, "best_cost", lambda widths, cost=cost: (cost + (widths != [2, 3, 3, 4]), "dense"))
        assert EnclosureMarch(AffineGradient(np.ones((2, 4))), weights, 1.0).curved == curved
    monkeypatch.setattr(march, "best_cost", lambda widths: (0.0, "dense"))
    for layers in (1, 2):  # one layer is convex
        assert EnclosureMarch(AffineGradient(np.eye(2)), [np.eye(2)] * layers, 1.0).curved == (layers == 2)


@pytest.mark.parametrize(("least", "m"), [(-2.0, 2.0), (2.0, 0.0)])
def test_a_step_is_shortened_where_the_sag_adds_too_much_to_the_exponent(least, m):
    state, tau, s = march_of(), 0.25, 0.5
    state.node = SimpleNamespace(least=least)
    edge = (0.15 * tau * s * m + 3e-4) / tau
    for sag, shorter in (
        (0.0, 1.0),
        (edge * (1 - 1e-9), 1.0),
        (edge * (1 + 1e-9), 0.98),
        (edge * 1.96, 0.7),
        (edge * 4, 0.5),
        (math.inf, 0.5),
    ):
        found = state._shorter(SimpleNamespace(path=SimpleNamespace(tau=tau), s=s, sag=sag))
        assert found == pytest.approx(shorter, rel=1e-8, abs=0)


# --- the radius ----------------------------------------------------------------------------------------------------


def tube(added=0.0, norm=1.0):
    return SimpleNamespace(
        s=0.5, path=SimpleNamespace(added=lambda s: added if s == 0.5 else None, norm=lambda: norm)
    )


def test_a_radius_without_curvature_is_what_is_there_times_what_it_grows(coarse, monkeypatch):
    state = march_of(radius=2.0**-4)
    for added, exponent in ((0.0, 0.0), (2.0**-5, 0.0), (2.0**-3, 1.5)):
        found = state._closed(tube(added), Constants(0, 0, 0, 0.0), exponent, 2.0)
        assert found == near((2.0**-4 + added) * math.exp(exponent) * up * up)


@pytest.mark.parametrize(("third", "exponent"), [(0.5, 0.0), (4.0, 0.25), (12.0, 0.0)])
def test_a_radius_is_found_by_sweeps(coarse, third, exponent):
    """From a guess, ρ = (ρ_0 + ∫δ) exp(∫m + ½Λ_3 ρ̂ h) until it is at most the guess; each next guess is beyond it."""
    state, length, there = march_of(radius=2.0**-6), 2.0, 2.0**-6 + 2.0**-7
    guess = there * math.exp(exponent) * (1 + 1e-6)
    radius, sweeps = math.inf, 0
    while radius > guess:
        if sweeps:
            guess = radius * (1 + 1e-9) + (radius - guess)
        radius = there * math.exp(exponent + 0.5 * third * guess * length) * up * up
        sweeps += 1
    assert 1 < sweeps < 20
    assert state._closed(tube(2.0**-7), Constants(0, 0, 0, third), exponent, length) == near(radius)


def test_a_radius_that_is_too_large_is_none():
    state = march_of(radius=0.0)
    flat = Constants(0, 0, 0, 0.0)
    # Beyond a thousand times what the weights are, and 1.
    assert state._closed(tube(1999.0), flat, 0.0, 1.0) == pytest.approx(1999.0)
    assert state._closed(tube(2001.0), flat, 0.0, 1.0) is None
    assert state._closed(tube(2001.0, norm=1.1), flat, 0.0, 1.0) == pytest.approx(2001.0)
    assert "too large for the curvature" in state.trouble
    # A growth of e³⁰⁰ is as much as is looked at, of the exponent and with the curvature.
    assert state._closed(tube(1e-140), flat, 300.0, 1.0) == pytest.approx(1e-140 * math.exp(300.0))
    assert state._closed(tube(1e-140), flat, 300.1, 1.0) is None and "by e^300 in one step" in state.trouble
    bend = 0.5 * 1e-140 * math.exp(299.9)
    assert state._closed(tube(1e-140), Constants(0, 0, 0, 0.08 / bend), 299.9, 1.0) is not None
    state.trouble = ""
    assert state._closed(tube(1e-140), Constants(0, 0, 0, 0.11 / bend), 299.9, 1.0) is None and state.trouble

    class Asked:
        count = 0

        @property
        def third(self):
            Asked.count += 1
            return math.nan

    assert state._closed(tube(1.0), Asked(), 0.0, 1.0) is None and Asked.count == 30


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("tries", [1, 2, 3, 8, 9])
def test_a_step_is_closed_on_a_tube_that_holds_its_radius(coarse, monkeypatch, level, tries):
    """Each tube is twice as wide as what the last one gave, with the rounding of values; eight are tried."""
    state = march_of(radius=2.0**-8)
    node, s = state.node, 0.25
    path, tau = node.path, node.path.tau
    over = Tube(path, s)
    jump, added = path.at(s)[1], path.added(s)
    lengths = np.array([x.lengths for x in path.weights])
    rounded = float(np.linalg.norm(rounding_of_value(lengths, s))) * up
    reaches, radii = [4 * (2.0**-8 + added + rounded)], []
    for k in range(tries):
        # What is given back holds on the last tube, and just not on those before.
        over_reach = k < tries - 1
        radius = (reaches[-1] * (1 + 1e-9 if over_reach else 1 - 1e-9) - rounded) / up - jump
        radii.append(radius)
        reaches.append(2 * ((radius + jump) * up + rounded))
    asked, closed = [], iter(radii)
    constants = Tube.constants
    bound = 0.125

    def spied(self, reach):
        asked.append(reach)
        return constants(self, reach)

    def by(start, end, tube, moved, given):
        assert (start, moved) == (node, jump) and isinstance(end, Node)
        assert given == constants(tube, asked[-1])
        return bound

    monkeypatch.setattr(Tube, "constants", spied)
    monkeypatch.setattr(march, "level_two" if level == 2 else "level_three", by)
    seen = []
    monkeypatch.setattr(
        EnclosureMarch,
        "_closed",
        lambda self, tube, k, exponent, length: seen.append((exponent, length)) or next(closed),
    )
    state.loose = 1.0
    step = state._try(over, level)
    assert asked == [near(x) for x in reaches[: min(tries, 8)]]
    exponent, length = tau * bound * up, s * tau
    assert seen == [(near(exponent), length)] * min(tries, 8)
    if tries > 8:
        assert step is None and state.t == 0.0
        return
    after = (radii[-1] + jump) * up
    assert (step.t, step.length, step.tau) == (0.0, length, tau) and step.radius == radii[-1]
    assert step.exponent == near(exponent) and np.array_equal(step.lengths, lengths)
    assert all(np.array_equal(a, b.values) for a, b in zip(step.coefficients, path.weights, strict=True))
    assert step.constants == constants(over, asked[-1])
    assert (state.t, state.radius, state.exponent) == (length, near(after), near(exponent))
    assert (state.hessians, state.loose) == (int(level == 3), near(1.0 + (exponent if level == 2 else 0.0)))
    new = Expansion(state.problem, path.at(s)[0], 0.75, 2.0 ** round(math.log2(length)))
    assert state.node.path.tau == new.tau
    error = (new.distance_error + step.constants.motion * after) * up
    assert state.gap == step.gap == tuple(near(x) for x in state.problem.gap(new.distance, error))


def test_a_step_without_a_radius_is_none(monkeypatch):
    state = march_of()
    monkeypatch.setattr(EnclosureMarch, "_closed", lambda self, *given: None)
    assert state._try(Tube(state.node.path, 0.25), 2) is None and state.t == 0.0
