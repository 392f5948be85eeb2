"""Flows with weight decay or friction written out: their field, steps, ends and the estimate of their error."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import linflow as lf
from linflow._support.arrays import EPS
from linflow.dynamics import other_flows
from linflow.dynamics._stepping import MOTION, grow, shrink
from linflow.dynamics.coordinates import Coordinates
from linflow.dynamics.ending import Result, Stats
from linflow.dynamics.other_flows import FlowState, Limits, OtherField, _March, _MotionLoop
from linflow.model.optimizer import Optimizer

KINDS = {
    "decay": {"weight_decay": 0.25},
    "friction": {"friction": 0.5},
    "both": {"weight_decay": 0.25, "friction": 0.5},
    "rates": {"weight_decay": 0.25, "layer_rates": (1.0, 4.0)},
}


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0)


def objective(seed=0):
    return lf.MatrixFactorization(np.random.default_rng(seed).standard_normal((3, 2)))


def coordinates_of(seed=1, **options):
    rng = np.random.default_rng(seed)
    net = lf.Network([rng.standard_normal((3, 2)), rng.standard_normal((2, 2))])
    return Coordinates.of(Optimizer.of(2, **options), net, reduce=True)


def field_of(**options):
    coordinates = coordinates_of(**options)
    return OtherField(objective(), coordinates.network, coordinates.optimizer)


def literal(field, z):
    """ż, the total and the steepness, layer by layer. The decay of the scaled layer l is `ρ_l κ`."""
    (A, B), f, c = field.network_at(z).weights, field.objective, field.inner.network.scale
    G = f.gradient(c * A @ B)
    slope = -c * np.concatenate([(G @ B.T).ravel(), (A.T @ G).ravel()])
    kappa = np.zeros(10) if field.kappa is None else np.concatenate([np.full(6, 0.25), np.full(4, field.kappa[-1])])
    y, p = z[:10], z[10:]
    force = slope - kappa * y
    total = f.gap(c * A @ B) + 0.5 * sum(k * x * x for k, x in zip(kappa, y, strict=True)) + 0.5 * sum(p * p)
    if field.friction is None:
        return force, total, np.linalg.norm(force), slope
    rate = np.concatenate([p, force - 0.5 * p])
    return rate, total, math.hypot(np.linalg.norm(force), np.linalg.norm(p)), slope


@pytest.mark.parametrize("kind", KINDS)
def test_the_equations_of_a_flow(kind):
    field = field_of(**KINDS[kind])
    z = field.first()
    weights = field.inner.network.weights
    np.testing.assert_array_equal(z[:10], np.concatenate([W.ravel() for W in weights]))
    assert len(z) == (10 if field.friction is None else 20) and not z[10:].any()
    z = z + 0.1 * np.random.default_rng(2).standard_normal(len(z))
    rate, total, steepness, slope = literal(field, z)
    state = field.at(z)
    np.testing.assert_allclose(field(z), rate, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(state.rate, field(z))
    np.testing.assert_allclose(state.point.slope, slope, rtol=1e-12, atol=1e-14)
    assert (state.total, state.steepness) == (near(total), near(steepness)) and state.z is z
    if kind == "rates":
        assert list(field.kappa) == [0.25] * 6 + [1.0] * 4


@pytest.mark.parametrize("kind", ["decay", "rates"])
def test_the_bends_of_the_loss_are_its_derivatives(kind):
    field = field_of(**KINDS[kind])
    z = field.first()
    first, second = field.bend(field.at(z))

    def slope_of_log(z):
        state = field.at(z)
        return -float(state.point.slope @ state.rate) / state.point.gap

    assert first == near(slope_of_log(z))
    h = 1e-5
    change = (slope_of_log(z + h * field(z)) - slope_of_log(z - h * field(z))) / (2 * h)
    assert second == near(change, 1e-7)  # differences over 1e-5
    moved = (math.log(field.at(field.further(1e-12, z, h)).point.gap) - math.log(field.at(z).point.gap)) / h
    assert first == near(moved, 1e-3)
    close = OtherField(
        lf.MatrixFactorization(field.network_at(z).product() + 0.1),
        field.network_at(z),
        Optimizer.of(2, weight_decay=0.25),
    )
    state = close.at(close.first())
    assert 0 < state.point.gap < 1
    assert close.bend(state)[0] == near(-float(state.point.slope @ state.rate) / state.point.gap)
    still = field.at(z)
    none = FlowState(z, still.rate, SimpleNamespace(gap=0.0, slope=still.point.slope), 1.0, 1.0)  # pyright: ignore[reportArgumentType]
    assert field.bend(none) == (0.0, 0.0)


@pytest.mark.parametrize("kind", ["decay", "friction"])
def test_the_state_after_a_duration_is_that_of_many_small_steps(kind):
    field = field_of(**KINDS[kind])
    z = field.first()
    found = field.further(1e-10, z, 0.3)
    for _ in range(300):
        half = z + 0.0005 * field(z)
        z = z + 0.001 * field(half)
    # the midpoint rule has an error of about 1e-6 · 0.3 of the third derivative
    np.testing.assert_allclose(found, z, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(field.further(1e-10, z, 0.0), z)


def state_of(z=(3.0, 4.0), rate=(0.6, 0.8), total=2.0, steepness=0.5) -> Any:
    return FlowState(np.array(z), np.array(rate), SimpleNamespace(gap=1.0), total, steepness)  # pyright: ignore[reportArgumentType]


def march_of(state=None, rtol=1e-3, friction=None) -> Any:
    field: Any = SimpleNamespace(friction=friction)
    return _March(field, state or state_of(), rtol)


def test_the_first_step_and_rest():
    assert march_of().h == near(0.01 * 5.0 / 1.0, 1e-15)
    assert march_of(friction=0.125).h == march_of().h and march_of(friction=4.0).h == 0.01 / 4.0
    for state in (state_of(rate=(0.0, 0.0)), state_of(z=(0.0, 0.0))):
        assert march_of(state).h == 1.0
    assert march_of(state_of(z=(0.3, 0.4))).h == near(0.005, 1e-15)
    march = march_of(state_of(rate=(1.2, 1.6)))
    march.h = 64 * EPS * 5.0 / 2.0
    assert march.resting
    march.h *= 1 + 1e-12
    assert not march.resting and (march.t, march.accepted, march.rejected) == (0.0, 0, 0)


@pytest.mark.parametrize(
    ("total", "steepness", "h", "expected"),
    [
        (2.0, 0.5, 0.5, 1e-3 * 4.0),  # the total over its slope
        (9.0, 0.5, 9.0, 1e-3 * 5.0),  # the size
        (9.0, 0.0, 9.0, 1e-3 * 5.0),
        (9.0, 0.5, 0.01, MOTION * 1e-3 * 0.01),  # the motion, at a speed of 1
        (1e-30, 0.5, 0.01, 4 * EPS * 5.0),
    ],
)
def test_the_error_that_is_allowed_in_a_step(total, steepness, h, expected):
    assert march_of(state_of(total=total, steepness=steepness))._allowed(h) == near(expected)


def test_by_how_much_an_error_can_raise_the_total():
    found = march_of(state_of(total=2.0, steepness=0.5))._slack(0.125)
    assert found == near(1e-10 * 2.0 + 2 * 0.125 * (0.5 + 0.5 * (0.125 * 0.5 / 2.0)))
    assert march_of(state_of(total=0.0, steepness=0.0))._slack(0.125) == 0.0
    empty = march_of(state_of(z=(0.0, 0.0), rate=(0.0, 0.0), total=0.0, steepness=0.0))
    assert empty._allowed(1.0) == 5e-324


def advancing(monkeypatch, errors, totals, h=1.0, stop=10.0, t=None, rate=(0.6, 0.8)):
    """A march of steps whose errors and totals are given, and the lengths that were tried."""
    march, tried = march_of(state_of(rate=rate)), []
    march.t = t or march.t
    march.h, march.field = h, SimpleNamespace(friction=None)
    errors, totals = iter(errors), iter(totals)

    def step(field, z, rate, length):
        tried.append(length)
        return z + length * rate, next(errors) * march._allowed(length)

    def at(z):
        return state_of(z=z, total=next(totals))

    march.field.at = at
    monkeypatch.setattr(other_flows._dop853, "step", step)
    return march, tried, march.advance(stop)


def test_a_step_that_is_accurate_and_does_not_rise_is_accepted(monkeypatch):
    march, tried, done = advancing(monkeypatch, [1.0], [2.0])
    assert done and tried == [1.0] and (march.t, march.accepted, march.rejected) == (1.0, 1, 0)
    assert march.h == near(grow(1.0)) and march.state.z.tolist() == [3.6, 4.8]
    march, tried, _ = advancing(monkeypatch, [0.5], [2.0], stop=0.25)  # cut at the stop: the length is kept
    assert tried == [0.25] and march.t == 0.25 and march.h == near(max(1.0, 0.25 * grow(0.5)))
    march, tried, _ = advancing(monkeypatch, [0.5], [2.0], stop=0.9, t=0.2)
    assert 0.2 + (0.9 - 0.2) != 0.9 == march.t  # it is there to the last digit
    march, tried, _ = advancing(monkeypatch, [1e-9], [2.0], stop=0.5)
    assert march.h == near(0.5 * grow(1e-9)) and march.h > 1


def test_a_step_that_is_not_accurate_or_rises_is_tried_again(monkeypatch):
    march, tried, _ = advancing(monkeypatch, [2.0, 0.5], [2.0])
    assert tried == [1.0, near(shrink(2.0))] and (march.accepted, march.rejected) == (1, 1)
    march, tried, _ = advancing(monkeypatch, [math.inf, 0.5], [2.0])
    assert tried == [1.0, 0.2]
    slack = march_of()._slack(march_of()._allowed(1.0))
    march, tried, _ = advancing(monkeypatch, [0.5, 0.5], [2.0 + slack * (1 + 1e-6), 2.0])
    assert tried == [1.0, 0.2] and march.rejected == 1
    march, tried, _ = advancing(monkeypatch, [0.5], [2.0 + slack * (1 - 1e-6)])
    assert tried == [1.0]
    march, tried, _ = advancing(monkeypatch, [0.5, 0.5], [math.nan, 2.0])
    assert tried == [1.0, 0.2]


def test_where_no_step_is_short_enough(monkeypatch):
    march, tried, done = advancing(monkeypatch, [math.inf] * 99, [])
    # EPS² of the size of 5, at a speed of 1, where t is 0
    assert not done and 5 * EPS * EPS / 5 < tried[-1] <= 5 * EPS * EPS * 5 and march.t == 0.0
    _, tried, _ = advancing(monkeypatch, [math.inf] * 99, [], rate=(600.0, 800.0))
    assert 5e-3 * EPS * EPS < tried[-1] <= 5e-3 * EPS * EPS * 5
    monkeypatch.setattr(_March, "__init__", _late(_March.__init__))
    march, tried, done = advancing(monkeypatch, [math.inf] * 99, [], stop=1e9)
    assert not done and tried[-1] * 0.2 <= math.ulp(1e8) < 4 * tried[-1]


def _late(init):
    def begun(self, field, state, rtol):
        init(self, field, state, rtol)
        self.t = 1e8

    return begun


def loop_of(end=5.0, until=None, stops=(), max_steps=1000, rtol=1e-6, **options):
    limits = Limits(until, end, tuple(stops), rtol, max_steps)
    return _MotionLoop(objective(), coordinates_of(**options), limits, ())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_of_a_state(kind):
    loop = loop_of(**KINDS[kind])
    state = loop.march.state
    node = loop.nodes[0]
    assert node[:2] == (0.0, near(math.log(state.point.gap)))
    assert node[2:] == (() if loop.field.friction is not None else loop.field.bend(state))
    assert loop.first == state.point.gap and loop.checkpoints.network_at(0.0).weights[0].shape == (3, 2)
    law = loop._law()
    assert (law is None) == (kind != "decay")
    if law is not None:
        A, B = loop.field.inner.network.weights
        D = A.T @ A - B @ B.T
        assert law(0.3, state.point) == near(np.linalg.norm(D) * (1 - math.exp(-2 * 0.25 * 0.3)))


def test_the_law_of_several_imbalances_is_off_by_the_worst():
    rng = np.random.default_rng(3)
    for widths in ((3, 2, 4, 2), (3, 2)):
        weights = [rng.standard_normal(shape) for shape in itertools.pairwise(widths)]
        coordinates = Coordinates.of(Optimizer.of(len(weights), weight_decay=0.25), lf.Network(weights), reduce=True)
        loop = _MotionLoop(objective(), coordinates, Limits(None, 1.0, (), 1e-6, 9), ())
        Ds = [A.T @ A - B @ B.T for A, B in itertools.pairwise(weights)]
        sizes = [np.linalg.norm(D) * (1 - math.exp(-2 * 0.25 * 0.3)) for D in Ds]
        law = loop._law()
        assert law is not None and law(0.3, loop.march.state.point) == near(max(sizes, default=0.0))


def test_how_a_flow_ends():
    loop = loop_of(until=0.125, weight_decay=0.25)
    march: Any = SimpleNamespace(t=0.0, resting=False)
    point: Any = SimpleNamespace(finite=True, gap=1.0)
    loop.march, loop.first = march, 8.0
    z = loop.field.first()

    def ended(gap=2.0, total=3.0, t=0.0, resting=False, finite=True):
        point.gap, point.finite, march.t, march.resting = gap, finite, t, resting
        march.state = FlowState(z, z, point, total, 1.0)
        return loop._ended()

    assert ended() is None
    assert ended(gap=1.0) is Result.TARGET and ended(gap=1.0 + 1e-12) is None
    assert ended(t=5.0) is Result.TIME_LIMIT and ended(t=4.99) is None
    rounding = loop.field.objective.rounding(loop.field.network_at(z))
    assert ended(total=rounding) is Result.ROUNDING and ended(total=rounding * (1 + 1e-12)) is None
    assert ended(resting=True) is Result.STATIONARY
    point.slope, point.y = z, z
    assert ended(gap=math.nan, finite=False) is Result.DIVERGED
    loop.limits = Limits(None, 5.0, (), 1e-6, 9)
    assert ended(gap=1e-9) is None
    assert ended(gap=0.0) not in (None, Result.TARGET)
    ball = loop_of(friction=0.5)
    ball.march = march
    march.state = FlowState(ball.field.first(), z, point, 3.0, 1.0)  # its gap is 0, and it goes on
    march.resting = False
    assert ball._ended() is None


def test_stops_steps_and_progress():
    done: list[float] = []
    loop = loop_of(end=0.5, stops=(0.1, 0.2), weight_decay=0.25)
    assert loop.run(done.append, lambda: False) is Result.TIME_LIMIT
    times = [node[0] for node in loop.nodes]
    assert {0.0, 0.1, 0.2, 0.5} <= set(times) and done[-1] == 1.0 and done[0] == times[1] / 0.5
    assert len(times) == loop.march.accepted + 1
    short = loop_of(max_steps=3, weight_decay=0.25)
    assert short.run(None, lambda: False) is Result.STEP_LIMIT and short.march.accepted + short.march.rejected == 3
    refused = loop_of(max_steps=3, weight_decay=0.25)
    refused.march.rejected = 3
    assert refused.run(None, lambda: False) is Result.STEP_LIMIT and refused.march.accepted == 0
    assert loop_of(weight_decay=0.25).run(None, lambda: True) is Result.INTERRUPTED
    assert len(loop_of(weight_decay=0.25).nodes) == 1


@pytest.mark.parametrize("kind", ["decay", "both", "rates", "friction"])
def test_the_run_and_the_estimate_of_its_error(kind):
    loop = loop_of(end=1.0, rtol=1e-5, **KINDS[kind])
    result = loop.run(None, lambda: False)
    run = loop.trajectory(result)
    assert run.result is Result.TIME_LIMIT and run.start is loop.coordinates.start
    assert run.stats.steps == loop.march.accepted and run.stats.rejected == loop.march.rejected
    noted = any("leave the weight decay out" in note for note in run.notes)
    assert noted == (kind != "friction") and run.minimum == 0.0
    if kind == "rates":
        np.testing.assert_array_equal(run.final.weights[1], 2 * loop.field.network_at(loop.march.state.z).weights[1])
        np.testing.assert_array_equal(run.network_at(1.0).weights[1], run.final.weights[1])
    gaps, z, t = np.exp([node[1] for node in loop.nodes]), loop.field.first(), 0.0
    exact, totals = [], []
    for node in loop.nodes:
        z, t = (loop.field.further(1e-11, z, node[0] - t) if node[0] > t else z), node[0]
        state = loop.field.at(z)
        exact.append(state.point.gap)
        totals.append(state.total)
    scale = np.maximum(gaps, totals if loop.field.friction is not None else exact)
    seen = float(np.max(np.abs(gaps - exact) / scale))
    # the second run has an error of a hundredth
    assert run.stats.gap_error == near(seen, 0.2) and seen > 0
    assert other_flows._error(objective(), loop.coordinates, loop.limits, (0.0,), gaps[:1]) == 0.0
    times = [node[0] for node in loop.nodes[:2]]
    for factor in (0.5, 1.5):  # a gap that is too small is as wrong as one that is too large
        off = np.array([exact[0], factor * exact[1]])
        whole = max(off[1], totals[1] if loop.field.friction is not None else exact[1])
        found = other_flows._error(objective(), loop.coordinates, loop.limits, times, off)
        assert found == near(0.5 * exact[1] / whole, 1e-3)
    assert 0 <= run.stats.seconds < 1e4  # a duration, not a time of day


# --- how a run ends and in which coordinates it is computed --------------------------------------------------------


def test_which_ends_are_what_was_asked_and_which_errors_are_known():
    assert {r for r in Result if r.ok} == {Result.TARGET, Result.TIME_LIMIT, Result.STEPS_DONE, Result.ROUNDING}
    asked = []
    stats = Stats(1, 2, 3, 0.5, 0.25, lambda: (asked.append(1), 0.125)[1])
    assert not stats.estimated and stats.gap_error == stats.gap_error == 0.125 and asked == [1] and stats.estimated
    known = Stats(1, 2, 3, 0.5, 0.25)
    assert known.estimated and known.gap_error == 0.0
    assert Stats(1, 2, 3, 0.5, 0.25, 0.75).gap_error == 0.75


def test_the_coordinates_of_a_run():
    rng = np.random.default_rng(0)
    wide = lf.init.gaussian((3, 300, 2), 0.05, rng=rng)
    narrow = Coordinates.of(Optimizer.of(2), wide, reduce=True)
    assert narrow.reduction is not None and narrow.network.widths[1] < 300 and not narrow.same
    assert narrow.network is narrow.reduction.network
    for made in (
        Coordinates.of(Optimizer.of(2), wide, reduce=False),
        Coordinates.of(Optimizer.of(2, weight_decay=0.5), wide, reduce=True),
    ):
        assert made.reduction is None and made.same and made.network is made.start is wide
    rated = Coordinates.of(Optimizer.of(2, layer_rates=(1.0, 4.0)), wide, reduce=False)
    assert not rated.same and rated.reduction is None
    np.testing.assert_array_equal(rated.network.weights[1], wide.weights[1] / 2)
    for made in (narrow, rated, Coordinates.of(Optimizer.of(2, layer_rates=(1.0, 4.0)), wide, reduce=True)):
        for found, given in zip(made.expand(made.network).weights, wide.weights, strict=True):
            np.testing.assert_allclose(found, given, rtol=0, atol=1e-15)
        assert made.expand(made.network).scale == 1.0
