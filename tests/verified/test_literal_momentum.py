"""A verified descent with momentum written out, under a roundoff so coarse that every allowance shows."""

import math

import numpy as np
import pytest

from linflow.model.optimizer import Optimizer
from linflow.verified import lyapunov, momentum
from linflow.verified.hessian import hessian
from linflow.verified.log_norm import Tube
from linflow.verified.lyapunov import Factors, Metric
from linflow.verified.momentum import MomentumMarch, length, rounded
from linflow.verified.problem import AffineGradient
from linflow.verified.taylor import Expansion
from tests.verified.test_literal_path import coarse, drawn, fro, g, near, tiny, u, up

__all__ = ["coarse"]


def march_of(mu=0.5, nesterov=False, radius=0.0, eta=0.125, until=None, steps=3, size=1e3, target=1e6):
    """Three steps from weights so large that the radius, as coarse as it is here, is small beside them."""
    f, W = AffineGradient(target * np.eye(2)), [size * np.eye(2), size * np.eye(2)]
    return MomentumMarch(f, W, 1.0, radius, eta, Optimizer(momentum=mu, nesterov=nesterov), until, steps)


# --- the metric ----------------------------------------------------------------------------------------------------


def test_the_factors_of_a_step_and_how_far_they_are_off(coarse):
    assert Factors.of(0.5, 0.25, False, 4.0) == Factors(0.5, 0.5 * 0.25 / 4, 4.0, 0.25)
    assert Factors.of(0.5, 0.25, True, 4.0) == Factors(0.5 * 1.25, 0.5 * 0.25**2 / 4, 4.0, 0.25)
    found = Factors(0.5, 0.75, 4.0, 0.25).off(3.0, 0.125)
    assert found == near((math.hypot(0.5, 4.0) * up * 0.125 + 4 * u * (0.5 * (3.0 + 0.125) + 0.75)) * up)


def test_the_metric_before_a_step_is_written_with_its_error(coarse):
    S, H, factors = drawn(6, 6, seed=1), drawn(3, 3, seed=2), Factors(0.5, 0.75, 4.0, 0.25)
    S, H = S @ S.T, H + H.T
    metric = Metric(S[:3, :3], S[:3, 3:], S[3:, 3:])
    for norm, floor in ((2.0, 1.0), (1e9, 1e3)):
        new = metric.before(H, factors, norm)
        one = np.eye(3)
        M = np.block([[one - 0.5 * H, -0.75 * one], [4.0 * H, 0.25 * one]])
        expected = M.T @ S @ M + floor * np.eye(6)
        np.testing.assert_allclose(np.block([[new.A, new.B], [new.B.T, new.C]]), expected, rtol=1e-10)
        assert new.floor == pytest.approx(floor, rel=1e-12)
        A, B, C, h = fro(metric.A), fro(metric.B), fro(metric.C), fro(H)
        kept, turned = 1 + 0.5 * h, 4.0 * h
        size = kept**2 * A + 2 * kept * turned * B + turned**2 * C
        size += kept * (0.75 * A + 0.25 * B) + turned * (0.75 * B + 0.25 * C)
        size += 0.75**2 * A + 2 * 0.75 * 0.25 * B + 0.25**2 * C
        assert new.error == near(g(2 * 3 + 16) * (size + floor) * up + tiny)
        assert new.least == near(floor - new.error - 4 * u * floor)


def test_the_norm_of_a_metric_is_its_largest_sum_of_a_row_or_its_length(coarse):
    A, B, C = np.diag([1.0, -5.0]), np.array([[0.0, 2.0], [0.5, 0.0]]), np.eye(2)
    rows = 5.5 * (1 + g(2 * 2 + 2)) + tiny  # the second: 0 + 5 and 0.5 + 0
    assert Metric(A, B, C).norm == near(rows)
    C = np.diag([4.0, 3.0])  # the last two: 0.5 + 4 and 2 + 3, and 5.5 still
    assert Metric(A, B, C).norm == near(rows)
    assert Metric(A, B, 4 * C).norm == near(16.5 * (1 + g(6)) + tiny)
    full = np.ones((2, 2))
    assert Metric(full, 0 * full, 0 * full).norm == near(
        min(2 * (1 + g(6)), math.sqrt(fro(full) ** 2 + 3 * tiny**2) * up) + tiny
    )
    spread = np.array([[0.0, 1.0], [1.0, 0.0]])
    flat = Metric(0 * full, np.array([[1.0, 1.0], [0.0, 0.0]]), 0 * full)  # its length is 2, its rows are 2 and 1
    assert flat.norm == near(
        min(2 * (1 + g(6)), math.sqrt(2 * fro(flat.B) ** 2 + 2 * fro(0 * full) ** 2) * up) + tiny
    )
    assert Metric(spread, 0 * full, 0 * full).norm == near(1 + g(6) + tiny)
    one = np.eye(2)  # signs do not matter: the sums are 2 + 4 and 4 + 8
    assert Metric(-2 * one, -4 * one, -8 * one).norm == near(12 * (1 + g(6)) + tiny)
    assert Metric(-8 * one, -4 * one, -2 * one).norm == near(12 * (1 + g(6)) + tiny)
    A, B, C = np.array([[3.0, -3.0], [-3.0, 0.0]]), np.array([[1.0, -1.0], [0.0, 0.0]]), np.eye(2)
    assert Metric(A, B, C).norm == near(math.sqrt(fro(A) ** 2 + 2 * fro(B) ** 2 + fro(C) ** 2) * up + tiny)


def test_the_spread_of_the_metric():
    assert lyapunov.SPREAD == 1e-6


# --- the run -------------------------------------------------------------------------------------------------------


def test_the_length_of_layers_and_the_rounding_of_a_sum(coarse):
    W = [drawn(2, 3), drawn(3, 1)]
    assert length(W) == near(math.hypot(fro(W[0]), fro(W[1])) * up)
    assert rounded(3.0, 5.0) == near(u * (3.0 * (1 + u) + 5.0))
    assert (momentum.BALL, momentum.BEYOND, momentum.RESTART) == (1e-3, 0.5, 1e60)
    assert (momentum.LARGEST_METRIC, momentum.STORED) == (300, 20_000_000)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_is_written_with_its_rounding(coarse, nesterov):
    march = march_of(0.5, nesterov)
    W, V = [drawn(2, 2), drawn(2, 2, seed=1)], [drawn(2, 2, seed=2), drawn(2, 2, seed=3)]
    path = Expansion(march.problem, W, 1.0, 1.0, 1)
    slope = [-series[1] for series in path.coefficients]
    new, velocity, (turned, error) = march.stepped(path, V, 0.125)
    v = [0.5 * a + s for a, s in zip(V, slope, strict=True)]
    off = float(path.rounding[0])
    grown = (off + u * (0.5 * length(V) * (1 + u) + length(v))) * up
    moves, moved = v, grown
    if nesterov:
        moves = [s + 0.5 * a for a, s in zip(v, slope, strict=True)]
        moved = (off + 0.5 * grown + u * (0.5 * length(v) * (1 + u) + length(moves))) * up
    after = [w - 0.125 * m for w, m in zip(W, moves, strict=True)]
    assert error == near(grown)
    assert turned == near((0.125 * moved + u * (0.125 * length(moves) * (1 + u) + length(after))) * up)
    for found, expected in zip((*new, *velocity), (*after, *v), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_every_iterate_is_kept_with_its_ball_its_constants_and_its_defect(coarse):
    march = march_of(radius=2.0**-9, eta=0.3)
    assert march.chosen == [0.3] * 3 and len(march.path) == 4 and march.hessians == 3
    V = [np.zeros((2, 2))] * 2
    for here in march.path[:-1]:
        path = Expansion(march.problem, here.weights, 1.0, 1.0, 1)
        ball = 1e-3 * path.norm() + 2 * 2.0**-9
        constants = Tube(path, 0.0).constants(ball)
        assert (here.ball, here.motion, here.third) == (near(ball), near(constants.motion), near(constants.third))
        assert here.distance_error == path.distance_error and np.array_equal(here.distance, path.distance)
        assert here.factors == Factors.of(0.3, 0.5, False, 0.25)  # 2^round(log₂ 0.3)
        _, V, (turned, error) = march.stepped(path, V, 0.3)
        assert here.defect == near(math.hypot(turned, 0.25 * error) * up)
        H, off = hessian(path)
        assert (here.size, here.error) == (near(fro(H)), off)


@pytest.mark.parametrize(("size", "target", "known"), [(1e3, 1e6, False), (1.0, 2.0, True)])
def test_each_step_has_the_metric_of_the_steps_after_it(coarse, size, target, known):
    march = march_of(size=size, target=target)
    metric = Metric.euclidean(8)
    for here in march.path[-2::-1]:
        assert here.heavy == near(math.sqrt(metric.norm) * up)
        H, _ = hessian(Expansion(march.problem, here.weights, 1.0, 1.0, 1))
        metric = metric.before(H, here.factors, metric.norm)
        assert (metric.least > 0) is known
        assert here.steady == near(math.sqrt(max(0.0, metric.least)) * (1 - 4 * u))
        assert (here.least, here.change) == (
            (metric.least, 1.0) if known else (1.0, near(math.sqrt(metric.norm) * up))
        )
        metric = metric if known else Metric.euclidean(8)
    assert march.path[-1].least == 1.0


@pytest.mark.parametrize(("part", "kept"), [(1.0, False), (1 + 1e-9, True)])
def test_a_metric_that_has_grown_to_its_limit_is_replaced(coarse, monkeypatch, part, kept):
    plain = march_of(size=1.0, target=2.0, steps=2)
    limit = (plain.path[0].heavy / up) ** 2  # of the metric before the last step
    monkeypatch.setattr(momentum, "RESTART", part * float(Metric.euclidean(8).norm))
    # The identity is no metric that has grown; that of one step earlier, at the limit or below it, is.
    hessians = [hessian(Expansion(plain.problem, here.weights, 1.0, 1.0, 1))[0] for here in plain.path[:2]]
    metric = Metric.euclidean(8).before(hessians[1], plain.path[1].factors, Metric.euclidean(8).norm)
    assert metric.norm == near(limit)
    monkeypatch.setattr(momentum, "RESTART", part * metric.norm)
    found = march_of(size=1.0, target=2.0, steps=2).path[1]
    assert (found.least, found.change) == ((metric.least, 1.0) if kept else (1.0, near(math.sqrt(limit) * up)))


@pytest.mark.parametrize(("radius", "change"), [(0.0, 1.0), (0.25, 1.0), (0.25, 2.0)])
def test_a_step_of_the_radius_is_written_out(coarse, radius, change):
    march = march_of(radius=radius)
    here, after = march.path[:2]
    march.inner = inner = 0.5
    march.growth = growth = 0.75
    here.factors, here.size, here.error, here.third = Factors(0.5, 0.75, 4.0, 0.25), 3.0, 2.0**-6, 0.125
    here.heavy, here.steady, here.defect, here.change, after.least, after.ball = 1.5, 0.5, 2.0**-5, change, 0.25, 9.0
    off = here.factors.off(3.0, 2.0**-6 + 0.5 * 0.125 * radius)
    rise = (1.5 * off / 0.5 * up) ** 2
    assert march.advance() and march.k == 1
    inner = (inner * change * math.sqrt(1 + rise) + 1.5 * 2.0**-5) * up
    assert march.inner == near(inner) and march.radius == near(inner / 0.5 * up)
    growth += math.log(change) + 0.5 * math.log1p(rise)
    assert march.growth == near(growth) and march.exponent == near(growth - 0.5 * math.log(0.25))
    error = (after.distance_error + after.motion * march.radius) * up
    assert march.gap == march.problem.gap(after.distance, error)
    assert march.weights is after.weights and march.taken == [0.125]


def test_a_start_with_a_radius_counts_in_the_first_metric(coarse, monkeypatch):
    monkeypatch.setattr(MomentumMarch, "_weigh", lambda self: 9.0)
    march = march_of(radius=0.25)
    assert march.inner == near(0.25 * 3.0 * up) and march.growth == near(math.log(3.0))
    error = (march.path[0].distance_error + march.path[0].motion * 0.25) * up
    assert march.gap == march.first == march.problem.gap(march.path[0].distance, error)


def test_a_radius_beyond_the_ball_ends_the_proof():
    given = {"radius": 1e-9, "size": 2.0, "target": 3.0}
    march = march_of(**given)
    march.path[1].ball = math.inf
    assert march.advance()
    radius = march.radius
    for part, goes_on in ((1 - 1e-12, False), (1.0, True)):
        march = march_of(**given)
        march.path[1].ball = part * radius
        assert march.advance() is goes_on and ("is too large for weights of norm" in march.trouble) is not goes_on
    march = march_of(**given)
    march.path[0].steady = 0.0
    assert not march.advance() and "inf" in march.trouble


def test_the_run_goes_on_to_half_of_its_target_and_then_the_proof_has_no_more_steps():
    march = march_of(until=0.5, eta=0.01, steps=100, size=1.0, target=2.0)
    gaps = gaps_of(march)
    assert gaps[-1][1] <= 0.25 * gaps[0][0] < gaps[-2][1]
    while march.advance():
        pass
    assert march.k == len(march.chosen) and march.trouble == "the radius is too large to tell the gap from its target"


def gaps_of(march):
    return [march.problem.gap(here.distance, here.distance_error) for here in march.path]


@pytest.mark.parametrize(("part", "steps"), [(1 - 1e-9, 4), (1 + 1e-9, 3)])
def test_the_run_ends_where_its_gap_is_surely_half_of_its_target(coarse, part, steps):
    given = {"eta": 0.01, "size": 1.0, "target": 3.0}
    gaps = gaps_of(march_of(**given))
    march = march_of(**given, steps=6, until=part * gaps[3][1] / (0.5 * gaps[0][0]))
    assert len(march.chosen) == steps


@pytest.mark.parametrize(("part", "steps"), [(1 - 1e-9, 2), (1 + 1e-9, 3)])
def test_the_run_ends_where_its_gap_is_surely_twice_what_counts_as_diverged(coarse, monkeypatch, part, steps):
    given = {"eta": 3.0, "size": 2.0, "target": 5.0}
    gaps = gaps_of(march_of(**given))
    assert 0 < gaps[0][1] < gaps[1][0] < gaps[2][0]
    monkeypatch.setattr(momentum, "DIVERGED", part * gaps[2][0] / (2 * gaps[0][1]))
    assert len(march_of(**given).chosen) == steps


def test_a_start_is_not_disturbed_and_what_is_done_is_told():
    done = []
    f, W = AffineGradient(3.0 * np.eye(2)), [np.eye(2), np.eye(2)]
    march = MomentumMarch(f, W, 1.0, 0.0, 0.01, Optimizer(momentum=0.5), None, 4, done.append)
    assert done == [0.25, 0.5, 0.75, 1.0] and march.exponent == 0.0


def test_a_metric_is_made_up_to_a_number_of_weights(monkeypatch):
    for limit, ended in ((8, False), (7, True)):
        monkeypatch.setattr(momentum, "LARGEST_METRIC", limit)
        assert ("a metric for the 8 weights" in march_of(size=1.0, target=2.0).ended) is ended


def test_a_run_that_diverges_is_computed_to_twice_the_growth_that_counts():
    march = march_of(eta=3.0, steps=100, size=2.0, target=3.0)
    gaps = gaps_of(march)
    assert gaps[-1][0] > 2e6 * gaps[0][1] >= gaps[-2][0] and march.ended == "the descent diverges"
