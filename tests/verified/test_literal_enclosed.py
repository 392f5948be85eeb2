"""What a verified flow says of times and gaps, from steps whose gap is an exponential that is known."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from linflow.verified import enclosed
from linflow.verified.enclosed import EnclosedFlow
from linflow.verified.rounding import UP

WIDE = 1e-3


def plain(**what: Any) -> Any:
    return SimpleNamespace(**what)


class Exponential(EnclosedFlow):
    """A gap between `e^{−t}(1 ∓ 10⁻³)`, in steps of the length ¾."""

    start = plain(widths=(2, 3))
    result, reason, notes = "target proved", "", ("a note",)
    radius = np.array([0.0, 1e-9, 2e-9])  # type: ignore[assignment]
    _after = ("a certificate", "why")  # type: ignore[assignment]

    steps: Any

    def __init__(self, count=8, length=0.75):
        self.first = self._gap(0.0)
        ends = [length * (k + 1) for k in range(count)]
        self.steps = tuple(plain(t=end - length, length=length, exponent=0.125, gap=self._gap(end)) for end in ends)

    def _gap(self, t):
        return math.exp(-t) * (1 - WIDE), math.exp(-t) * (1 + WIDE)


def test_times_are_those_at_which_either_bound_falls_to_the_target():
    flow = Exponential()
    above = 0.1 * (1 + WIDE) * UP  # while the lower bound is above this, the gap is above the target
    below = 0.1 * (1 - WIDE) * (1 - 1e-12)
    low, high = flow.time_bounds(0.1)
    assert low == pytest.approx(math.log((1 - WIDE) / above), rel=1e-14, abs=0)
    assert high == pytest.approx(math.log((1 + WIDE) / below), rel=1e-14, abs=0)
    assert flow._gap(low)[0] > above and flow._gap(high)[1] <= below  # each on its own side
    lows, highs = flow.time_bounds([0.1, 0.1, 0.5])
    assert lows[:2].tolist() == [low, low] and highs[:2].tolist() == [high, high] and highs[2] < low


def test_what_no_step_reaches_is_unknown():
    flow = Exponential(2)  # up to e^{−3/2} = 0.223…
    assert flow.time_bounds(0.1) == (1.5, math.inf)
    edge = flow.steps[-1].gap[0] / (1 + WIDE) / UP * (1 + 1e-9)
    low, high = flow.time_bounds(edge)  # the lower bound falls to it, the upper one does not
    assert low == pytest.approx(1.5, rel=1e-8) and low < 1.5 and high == math.inf
    assert Exponential(0).time_bounds(0.1) == (0.0, math.inf)


def test_a_gap_that_is_no_number_proves_nothing():
    flow = Exponential(2)
    for step in flow.steps:
        step.gap = (math.nan, math.nan)
    assert flow.time_bounds(0.5) == (1.5, math.inf)
    flow: Any = Exponential(1, 2.0)
    flow._gap = lambda t: (math.exp(-t), math.nan if t < 1.5 else math.exp(-t))
    assert flow.time_bounds(0.5)[1] == pytest.approx(1.5, rel=1e-15)


def test_a_bound_at_the_end_of_a_step_is_found_in_that_step():
    flow: Any = Exponential(2)
    above = 0.5 * flow.first[1] * UP
    below = 0.5 * flow.first[0] * (1 - 1e-12)
    flow.steps[0].gap = (above, below)
    asked = []
    flow._switch = lambda step, early, ratio: asked.append(step.t) or (step.t, step.t + step.length)
    assert flow.time_bounds(0.5) == (0.0, 0.75) and asked == [0.0, 0.0]


def test_a_switch_ends_at_neighbouring_numbers():
    flow = Exponential()
    step = plain(t=0.0, length=1.0)
    low, high = flow._switch(step, lambda t: t < 0.3)
    assert low < 0.3 <= high == np.nextafter(low, 1.0)
    assert flow._switch(step, lambda t: True)[1] == 1.0 and flow._switch(step, lambda t: False)[0] == 0.0


def test_times_are_found_by_secants_and_are_those_of_the_bisection(monkeypatch):
    flow, calls = Exponential(), []
    gap = flow._gap
    monkeypatch.setattr(flow, "_gap", lambda t: calls.append(t) or gap(t), raising=False)
    found = flow.time_bounds(0.1)
    assert len(calls) <= 24  # two bisections take more than a hundred
    monkeypatch.setattr(enclosed, "root_of", lambda ratio, low, high: low)
    assert flow.time_bounds(0.1) == found
    # Whatever the secants say, a bisection makes up for it.
    for wrong in (0.0, 1.7, 2.25, 1e9):
        monkeypatch.setattr(enclosed, "root_of", lambda ratio, low, high, wrong=wrong: min(max(wrong, low), high))
        assert flow.time_bounds(0.1) == found


def test_secants_find_where_a_ratio_is_one():
    calls: list[float] = []
    root = enclosed.root_of(lambda t: calls.append(t) or math.exp(40 * (0.25 - t)), 0.0, 1.0)
    assert root == pytest.approx(0.25, rel=1e-15) and len(calls) <= 4  # a line, in the logarithm
    calls.clear()
    root = enclosed.root_of(lambda t: calls.append(t) or (1.25 - t) ** 9, 0.0, 1.0)
    assert root == pytest.approx(0.25, rel=1e-14) and len(calls) <= 14
    root = enclosed.root_of(lambda t: (0.25 / t) ** 7 if t > 0 else math.inf, 1e-9, 1.0)
    assert root == pytest.approx(0.25, rel=1e-14)
    assert enclosed.root_of(lambda t: 0.5, 0.0, 1.0) == enclosed.root_of(lambda t: 2.0, 0.0, 1.0) == 0.5
    assert enclosed.root_of(lambda t: math.nan, 0.0, 1.0) == 0.5
    for ratio in (lambda t: 1.0 - 2 * t, lambda t: math.inf if t < 0.3 else 0.0, lambda t: 2.0 if t < 0.3 else 0.1):
        assert 0.0 <= enclosed.root_of(ratio, 0.0, 1.0) <= 1.0
    # A ratio of no finite size, or of none.
    assert enclosed.root_of(lambda t: math.inf if t < 0.3 else -1.0, 0.0, 1.0) == pytest.approx(0.3, abs=1e-5)
    calls.clear()
    enclosed.root_of(lambda t: calls.append(t) or (2.0 if t < math.pi / 10 else 0.1), 0.0, 1.0)
    assert len(calls) == 2 + enclosed.SECANTS == 22


def test_times_around_a_root_are_looked_at_or_are_ends():
    seen: list[float] = []

    def early(t: float) -> bool:
        seen.append(t)
        return t < 0.3

    low, high = enclosed._near(0.3, 0.0, 1.0, early)
    assert high - low <= 8 * math.ulp(1.0) and seen == [low, high] and low < 0.3 <= high
    seen.clear()
    low, high = enclosed._near(0.3 + 1e-10, 0.0, 1.0, early)  # it is looked for farther away
    assert low < 0.3 <= high and high - low < 1e-7 and low in seen and high in seen
    # The ends need no look: the caller knows them.
    assert enclosed._near(0.0, 0.0, 1.0, lambda t: t < 1e-300)[0] == 0.0
    assert enclosed._near(1.0, 0.0, 1.0, lambda t: True)[1] == 1.0
    assert enclosed._near(0.5, 0.0, 1.0, lambda t: t > 0.5) == (0.0, 1.0)  # nowhere is it early before it is not


def test_steps_and_their_sums():
    flow = Exponential(3)
    assert flow.t.tolist() == [0.0, 0.75, 1.5, 2.25] and flow.end == 2.25 and flow.exponent == 0.375
    assert (flow.certificate, flow.certificate_reason) == ("a certificate", "why")
    found = [flow._step(t).t for t in (0.0, 0.1, 0.75, 0.8, 1.5, 2.25)]
    assert found == [0.0, 0.0, 0.0, 0.75, 0.75, 1.5]  # the end of a step belongs to it
    for t in (2.3, math.nan):
        with pytest.raises(ValueError, match=r"enclosed up to t = 2\.25 only"):
            flow._step(t)
    with pytest.raises(ValueError, match="nothing is enclosed"):
        Exponential(0)._step(0.0)


def test_gaps_at_a_time_or_at_several():
    flow = Exponential(3)
    assert flow.gap_bounds(0.0) == flow._gap(0.0)
    low, high = flow.gap_bounds([0.0, 1.0])
    assert low.tolist() == [flow._gap(0.0)[0], flow._gap(1.0)[0]]
    assert high.tolist() == [flow._gap(0.0)[1], flow._gap(1.0)[1]]
    for t in (-1.0, [0.0, -1.0]):
        with pytest.raises(ValueError, match="t"):
            flow.gap_bounds(t)


def test_what_is_told_as_plain_data():
    flow = Exponential(3)
    told = flow.to_dict()
    assert told["radius"] == 2e-9 and told["steps"] == 3 and told["widths"] == [2, 3] and told["notes"] == ["a note"]
    assert told["first_gap"] == list(flow._gap(0.0)) and told["last_gap"] == list(flow._gap(2.25))
    assert told["time_to"] == {} and list(Exponential(4).to_dict()["time_to"]) == ["1e-01"]
    assert Exponential(0).to_dict()["last_gap"] == list(flow._gap(0.0))
    assert enclosed.BISECTIONS == 60
