"""A verified descent written out, under a roundoff so coarse that every allowance shows."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.verified import descent
from linflow.verified.descent import DescentEnclosure, DescentMarch, _Curvature, enclose_descent
from linflow.verified.hessian import hessian
from linflow.verified.log_norm import Constants, Node, Tube, greatest
from linflow.verified.march import budget
from linflow.verified.problem import AffineGradient
from linflow.verified.reduction import Narrowed
from linflow.verified.rounding import UP, least_eigenvalue
from linflow.verified.taylor import Expansion
from tests.verified.test_literal_path import coarse, drawn, fro, near, tiny, u, up

__all__ = ["coarse"]


def march_of(widths, radius=2.0**-20, eta=0.125, size=None, c=0.75):
    n, m = widths[0], widths[-1]
    P, Q = drawn(n, n, seed=1), drawn(m, m, seed=2)
    f = AffineGradient(drawn(n, m, seed=9), P @ P.T, Q @ Q.T, (3.0, 5.0), (4.0, 7.0), (2.0**-20, 0.0), 2.0**-20)
    W = [drawn(a, b, seed=k) for k, (a, b) in enumerate(itertools.pairwise(widths))]
    march = DescentMarch(f, W, c, radius, eta)
    march.size = size or march.size
    return march


@pytest.mark.parametrize("widths", [(2, 3, 2), (2, 2), (2, 3, 3, 2)])
def test_a_start_and_a_step_are_known_with_their_rounding(coarse, monkeypatch, widths):
    radius, eta, growth = 2.0**-9, 0.125, 1.5
    march = march_of(widths, radius, eta)
    assert (march.size, march.exponent, march.loose) == (sum(a * b for a, b in itertools.pairwise(widths)), 0.0, 0.0)
    path = Expansion(march.problem, march.weights, 0.75, 1.0, 1)

    def gap(path, radius):
        motion = Tube(path, 0.0).constants(radius).motion
        return march.problem.gap(path.distance, (path.distance_error + motion * radius) * up)

    assert march.gap == march.first == gap(path, radius)
    monkeypatch.setattr(DescentMarch, "growth", lambda self, eta: growth)
    # Weights so large that the radius, as coarse as it is here, is less than a thousandth of them.
    big = SimpleNamespace(
        coefficients=[np.stack([c[0] * 1e4, c[1]]) for c in path.coefficients], rounding=np.array([2.0**-5])
    )
    march.path = big
    new = [c[0] + eta * c[1] for c in big.coefficients]
    moved = math.sqrt(sum(fro(W) ** 2 for W in new))
    assert march.advance() and march.exponent == near(math.log(growth))
    assert march.radius == near((radius * growth + eta * 2.0**-5 + u * moved) * up + tiny)
    assert all(np.array_equal(a, b) for a, b in zip(march.weights, new, strict=True))
    assert march.gap == gap(Expansion(march.problem, new, 0.75, 1.0, 1), march.radius)


def test_a_rule_is_asked_for_every_step_at_the_computed_weights_and_the_steps_are_kept(coarse, monkeypatch):
    """`θ_{k+1} = θ_k − η_k ∇L(θ_k)`: each step multiplies the gradient, its error and the curvature."""
    asked, steps = [], [0.125, 0.5, 0.25]

    def rule(weights, taken):
        asked.append((weights, list(taken)))
        return steps[len(taken)]

    march = DescentMarch(AffineGradient(np.eye(2) * 4e4), [1e4 * np.eye(2)], 1.0, 2.0**-9, rule)
    grown = []
    monkeypatch.setattr(DescentMarch, "growth", lambda self, eta: grown.append(eta) or 1.0)
    for k, eta in enumerate(steps):
        march.radius = radius = 2.0**-9  # what one step adds, as coarse as it is here, is nearly all that is allowed
        march.path = SimpleNamespace(coefficients=march.path.coefficients, rounding=np.array([2.0**-8]))
        W, slope = march.weights[0], march.path.coefficients[0][1]
        assert march.advance() and asked[k][0][0] is W and asked[k][1] == steps[:k]
        assert np.array_equal(march.weights[0], W + eta * slope)
        assert march.radius == near((radius + eta * 2.0**-8 + u * fro(march.weights[0])) * up + tiny)
    assert march.taken == grown == steps


def test_a_radius_of_a_thousandth_of_the_weights_ends_the_proof(monkeypatch):
    monkeypatch.setattr(DescentMarch, "growth", lambda self, eta: 1.0)
    for radius, goes_on in ((0.9e-3, True), (1.1e-3, False)):
        march = DescentMarch(AffineGradient(np.eye(1)), [np.eye(1)], 1.0, radius, 0.5)
        assert march.advance() is goes_on  # at the target of one layer, where nothing moves
        assert march.radius == pytest.approx(radius, rel=1e-9) and (march.trouble == "") is goes_on
    assert "the radius of the enclosure, 0.0011, is too large for weights of norm 1" in march.trouble
    monkeypatch.setattr(DescentMarch, "growth", lambda self, eta: math.inf)
    march = DescentMarch(AffineGradient(np.eye(1)), [np.eye(1)], 1.0, 0.0, 0.5)
    assert not march.advance()
    monkeypatch.setattr(DescentMarch, "growth", lambda self, eta: 0.5)
    march = DescentMarch(AffineGradient(np.eye(1)), [np.eye(1)], 1.0, 1e-6, 0.5)
    assert march.advance() and march.exponent == 0.0 and march.radius == pytest.approx(0.5e-6, rel=1e-6)


# --- how far a disturbance grows in a step -------------------------------------------------------------------------


def second_order(march):
    """The bound of the second-order part by products, and of the whole: m and M of docs/verified.md, section 8."""
    x, between = Node(march.path).products
    second = (greatest(x * between) + 0.5 * march.constants.third * march.radius) * up
    return second, (march.problem.smoothness * march.constants.motion**2 + second) * up


def curvature(monkeypatch, least=-2.0, most=9.0, third=7.0, away=0.25):
    known = _Curvature([], least, most, 1.0, third)
    monkeypatch.setattr(DescentMarch, "_near", lambda self, eta: known)
    monkeypatch.setattr(DescentMarch, "_distance", lambda self, seen: away if seen is known else None)


def test_a_disturbance_grows_by_the_bound_by_products_while_that_is_cheap(coarse):
    eta = 2.0**-12
    for widths, radius in (((2, 3, 2), 2.0**-20), ((2, 3, 2), 2.0**-6), ((2, 2), 0.5), ((2, 3, 3, 2), 2.0**-10)):
        march = march_of(widths, radius)
        second, most = second_order(march)
        assert eta * most < 2
        assert march.growth(eta) == near((1 + eta * second) * up)
        assert march.loose == pytest.approx(eta * second, rel=1e-12, abs=0)
        march.growth(eta)
        assert march.loose == pytest.approx(2 * eta * second, rel=1e-12, abs=0)


def test_a_disturbance_grows_by_the_hessian_where_the_bound_by_products_is_spent(coarse, monkeypatch):
    curvature(monkeypatch)
    march = march_of((2, 3, 2), 2.0**-6)
    eta = 2.0**-12
    spent = eta * second_order(march)[0]
    away = 0.25 + 0.5 * 2.0**-6
    m, M = (2.0 + 7.0 * away) * up, (9.0 + 7.0 * away) * up
    by_hessian = max(1 + eta * m, eta * M - 1) * up
    for allowed, size in ((0.5, 300), (3.0, 301), (3.0, 1500)):
        assert budget(size, descent=True) == allowed
        for part, cheap in ((1.001, True), (0.999, False)):
            loose = allowed - part * spent
            march.loose, march.size = loose, size
            assert march.growth(eta) == near((1 + spent) * up if cheap else by_hessian)
            assert march.loose == (pytest.approx(loose + spent, rel=1e-12) if cheap else loose)
    # Of more than 1500 weights no Hessian is formed.
    march.loose, march.size = 3.0, 1501
    assert march.growth(eta) == near((1 + spent) * up) and march.loose == pytest.approx(3 + spent, rel=1e-12)
    # One layer has no second order, and needs no Hessian whatever was spent.
    march = march_of((2, 2), 0.5)
    march.loose = 9.0
    assert march.growth(eta) == near(up)


@pytest.mark.parametrize(("least", "most"), [(-2.0, 9.0), (3.0, 9.0), (1.5, 2.0), (-2.0, 900.0), (-300.0, 9.0)])
def test_large_steps_need_the_spectrum_of_the_hessian(coarse, monkeypatch, least, most):
    curvature(monkeypatch, least, most)
    march = march_of((2, 3, 2), 2.0**-6)
    second, whole = second_order(march)
    assert 0.5 * whole > 2 + 0.5 * second
    away = 0.25 + 0.5 * 2.0**-6
    m, M = max(0.0, -least + 7.0 * away) * up, (most + 7.0 * away) * up
    assert march.growth(0.5) == near(max(1 + 0.5 * m, 0.5 * M - 1) * up) and march.loose == 0.0
    # Where that is too large to be formed, the products serve.
    march.size = 1501
    assert march.growth(0.5) == near((0.5 * whole - 1) * up) and march.loose == 0.0
    march.size = 1500
    assert march.growth(0.5) == near(max(1 + 0.5 * m, 0.5 * M - 1) * up)


def test_the_largest_step_that_products_alone_allow(coarse, monkeypatch):
    """`ηM − 1 ≤ 1 + ηm`: up to there a disturbance grows by the least eigenvalue."""
    curvature(monkeypatch)
    march = march_of((2, 3, 2), 2.0**-6)
    second, whole = second_order(march)
    march.size = 1501  # whatever it costs
    edge = 2 / (whole - second)
    for eta, small in ((edge * (1 - 1e-9), True), (edge * (1 + 1e-9), False)):
        march.loose = 0.0
        march.growth(eta)
        assert (march.loose > 0) is small


def test_the_distance_to_the_last_hessian_is_known_with_its_rounding(coarse):
    march = march_of((2, 3, 2))
    there = [W + 0.25 for W in march.weights]
    known = _Curvature(there, 0.0, 1.0, 1.0, 1.0)
    norm = math.sqrt(sum(fro(W) ** 2 for W in march.weights))
    assert march._distance(known) == near((0.25 * math.sqrt(12) * (1 + 1e-12) + 4 * u * norm) * up)


def test_the_distance_of_weights_is_granted_a_part_in_10_to_the_12(monkeypatch):
    march = march_of((2, 3, 2))
    monkeypatch.setattr(descent, "UP", 1.0)
    monkeypatch.setattr(descent, "U", 0.0)
    known = _Curvature([W + 1.0 for W in march.weights], 0.0, 1.0, 1.0, 1.0)
    assert march._distance(known) / math.sqrt(12) - 1 == pytest.approx(1e-12, abs=5e-15)


def test_a_hessian_is_that_of_the_weights_and_its_ball_is_what_the_next_steps_may_use(coarse, monkeypatch):
    march = march_of((2, 3, 2), 2.0**-9)
    H, error = hessian(march.path)
    known = march._near(0.125)
    assert (known.least, known.most) == (least_eigenvalue(H, error), -least_eigenvalue(-H, error))
    assert known.least < 0 < known.most and known.weights is march.weights and march.hessians == 1
    # As far as a tenth of the exponent and 10⁻⁴ go, but no further than a tenth of the weights.
    ball = 2 * march.radius + (1e-4 + 0.1 * 0.125 * -known.least) / (0.125 * march.constants.third + tiny)
    assert ball < 0.1 * march.path.norm() + 2 * march.radius
    assert known.ball == near(ball) and known.third == Tube(march.path, 0.0).constants(known.ball).third
    march.constants = Constants(1.0, 1.0, 1.0, 2.0**-40)
    march.known = None
    assert march._near(0.125).ball == near(0.1 * march.path.norm() + 2 * march.radius) and march.hessians == 2
    # Of a convex point 10⁻⁴ is all.
    monkeypatch.setattr(descent, "least_eigenvalue", lambda H, error: 0.5 if np.trace(H) > 0 else -9.0)
    march.known, march.constants = None, Constants(1.0, 1.0, 1.0, 8.0)
    assert march._near(0.125).ball == near(2 * march.radius + 1e-4 / (1.0 + tiny))


@pytest.mark.parametrize("least", [-2.0, 2.0])
def test_a_hessian_is_used_while_it_is_near(coarse, monkeypatch, least):
    march = march_of((2, 3, 2), 2.0**-14)
    distance = [0.0]
    monkeypatch.setattr(DescentMarch, "_distance", lambda self, known: distance[0])
    allowed = 0.1 * 0.125 * max(0.0, -least) + 1e-4
    # `η Λ_3 (d + ρ)` is at most a tenth of `η m` and 10⁻⁴ …
    third = 2.0
    edge = allowed / (0.125 * third) - march.radius
    for d, near_enough in ((edge * (1 - 1e-9), True), (edge * (1 + 1e-9), False)):
        march.known = known = _Curvature([], least, 9.0, 1e3, third)
        distance[0] = d
        assert (march._near(0.125) is known) is near_enough
    # … and the ball on which Λ_3 holds is not left.
    for d, near_enough in ((0.5 - march.radius, True), (0.5 - march.radius + 1e-9, False)):
        march.known = known = _Curvature([], least, 9.0, 0.5, 1e-9)
        distance[0] = d
        assert (march._near(0.125) is known) is near_enough


# --- the loop ------------------------------------------------------------------------------------------------------


class Scripted:
    """A descent of which every gap is given."""

    def __init__(self, *gaps, first=None, stuck=None):
        self.gaps, self.stuck, self.k = list(gaps), stuck, 0
        self.gap, self.radius, self.weights = self.gaps[0], 0.0, [0]
        self.first, self.trouble = first or self.gap, "it was stuck"

    def advance(self):
        self.k += 1
        if self.stuck == self.k:
            return False
        self.gap = self.gaps[min(self.k, len(self.gaps) - 1)]
        self.radius, self.weights = float(self.k), [self.k]
        return True


def ended(march, until=None, steps=9):
    seen, iterates = [], []
    result, reason, gaps, radii = enclose_descent(march, until, steps, seen.append, iterates)
    assert gaps.shape == (2, len(radii)) and list(radii) == [float(k) for k in range(len(radii))]
    assert [tuple(g) for g in gaps.T] == [march.gaps[min(k, len(march.gaps) - 1)] for k in range(len(radii))]
    assert iterates == [[k] for k in range(len(radii))]
    assert seen == [pytest.approx(min(1.0, k / steps)) for k in range(len(radii) - 1)]
    return result, reason, len(radii) - 1


def test_a_descent_ends_where_its_gap_is_surely_a_fraction_of_the_first():
    assert ended(Scripted((8.0, 9.0), (0.7, 0.81), (0.7, 0.8 * (1 - 2e-12))), until=0.1) == ("target proved", "", 2)
    target = 0.1 * 8.0 * (1 - 1e-12)
    assert enclose_descent(Scripted((8.0, 9.0), (0.5, target), (0.1, 0.1)), 0.1, 9, None)[2].shape == (2, 2)
    low = 0.8 * (1 - 0.8e-12)  # to be sure, it is to be below by 10⁻¹²
    assert ended(Scripted((8.0, 9.0), (0.7, low), (0.1, 0.1)), until=0.1)[2] == 2
    low = 0.8 * (1 - 1.5e-12)
    assert ended(Scripted((8.0, 9.0), (0.7, low), (0.1, 0.1)), until=0.1)[2] == 1


def test_a_descent_ends_at_its_limits():
    falling = [(8.0 / 2**k, 8.0 / 2**k) for k in range(12)]
    assert ended(Scripted(*falling), steps=4) == ("all steps done", "", 4)
    result, reason, steps = ended(Scripted(*falling), until=1e-3, steps=4)
    assert (result, steps) == ("all steps done", 4)
    assert reason == "4 steps do not prove that the gap falls to 0.001 of its initial value; raise steps"
    result, reason, steps = ended(Scripted(*falling, stuck=3))
    assert (result, reason, steps) == ("proof ended", "verified for 2 steps: it was stuck", 2)
    for first in ((0.0, 2.0), (-1.0, 2.0)):
        result, reason, steps = ended(Scripted((0.5, 2.0), first=first), until=0.5)
        assert (result, steps) == ("proof ended", 0) and "at the optimum to rounding" in reason
        assert ended(Scripted((0.5, 2.0), first=first), steps=2) == ("all steps done", "", 2)
    assert ended(Scripted((0.5, 2.0), (0.1, 0.1), first=(0.5, 2.0)), until=0.5)[0] == "target proved"


def test_a_gap_that_is_surely_a_million_times_the_first_diverges():
    result, reason, steps = ended(Scripted((1.0, 2.0), (1.9e6, 3e6), (2.1e6, 3e6)))
    assert (result, steps) == ("diverged", 2)
    assert reason == "verified for 2 steps: the gap has grown by a factor of 1.05e+06; take a smaller step"
    assert ended(Scripted((1.0, 2.0), (2e6, 3e6)), steps=2)[0] == "all steps done"


# --- the proof -----------------------------------------------------------------------------------------------------


def proof(gaps):
    gaps = np.array(gaps).T
    narrowed = Narrowed([np.eye(1)], [], 0.0)
    zero = np.zeros(gaps.shape[1])
    return DescentEnclosure(None, lf.Network([np.eye(1)]), 0.5, gaps, zero, 0.0, "", "", [np.eye(1)], narrowed)


def test_steps_are_counted_to_the_first_that_may_be_and_to_the_first_that_surely_is_there():
    enc = proof([(8.0, 10.0), (5.0, 7.0), (4.9, 4.1), (3.0, 3.9), (1.0, 2.0)])
    # Half of the initial gap is between 4 and 5.
    assert enc.steps == 4 and enc.steps_bounds(0.5) == (1, 3)
    assert enc.steps_bounds(0.05) == (5, math.inf)
    enc.radius[:] = [0.0, 1.0, 2.0, 3.0, 4.0]
    told = enc.told()
    assert (told["radius"], told["first_gap"], told["last_gap"]) == (4.0, [8.0, 10.0], [1.0, 2.0])
    assert proof([(8.0, 8.0), (4.0, 4.0), (1.0, 1.0)]).steps_bounds(0.5) == (1, 2)
    for off, lo, hi in ((0.9e-12, 1, 2), (1.1e-12, 2, 2), (-0.9e-12, 1, 2), (-1.1e-12, 1, 1)):
        gap = 4.0 * (1 + off)
        assert proof([(8.0, 8.0), (gap, gap), (1.0, 1.0)]).steps_bounds(0.5) == (lo, hi)
    assert enc.gap_bounds(2) == (4.9, 4.1) and enc.gap_bounds(4) == (1.0, 2.0)
    low, high = enc.gap_bounds([0, 3])
    assert (low.tolist(), high.tolist()) == ([8.0, 3.0], [10.0, 3.9])
    assert [x.size for x in proof([(8.0, 8.0)]).gap_bounds([])] == [0, 0]
    # At the very numbers a step counts.
    may, surely = 0.5 * 10.0 * UP, 0.5 * 8.0 * (1 - 1e-12)
    assert proof([(8.0, 10.0), (may, may), (surely, surely), (1.0, 1.0)]).steps_bounds(0.5) == (1, 2)
    with pytest.raises(ValueError, match="k is 5, but only 4 steps are enclosed"):
        enc.gap_bounds([1, 5])
    with pytest.raises(ValueError, match="k is -1"):
        enc.gap_bounds(-1)


def test_the_steps_of_a_proof_and_their_sums():
    gaps = [(8.0, 8.0), (4.0, 4.0), (1.0, 1.0)]
    assert proof(gaps).step_sizes.tolist() == [0.5, 0.5] and proof(gaps).t.tolist() == [0.0, 0.5, 1.0]
    enc = dataclasses.replace(proof(gaps), step_size=None, scheduled=np.array([0.25, 2.0]))
    assert enc.step_sizes.tolist() == [0.25, 2.0] and enc.t.tolist() == [0.0, 0.25, 2.25]
    assert enc.to_dict()["time"] == 2.25 and enc.to_dict()["step_size"] is None
    assert "scheduled steps, 2 steps" in repr(enc) and "step 0.5, 2 steps" in repr(proof(gaps))
