"""What a verified run of a ReLU network says of its flips, written out on runs of simple numbers."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from linflow import relu
from linflow.relu import enclosure
from linflow.relu.enclosure import EnclosedFlip, Enclosure
from linflow.relu.pattern_march import Turn
from linflow.relu.pieces import OFF, ON, SLIDING
from tests.verified.test_literal_path import coarse, near, up

__all__ = ["coarse"]


def self_of(**given) -> Any:
    return SimpleNamespace(**given)


def step_of(z, radius=0.5, off=(0.125, 0.25)):
    """A step with the radius ½ at whose every time one pre-activation is z, for an input of length 2."""
    return SimpleNamespace(radius=radius, at=lambda t: ([np.array([[0.0, z / 2]]), np.ones((2, 1))], np.array(off)))


def test_when_a_sign_is_certain(coarse):
    data = self_of(
        X=np.array([[0.0], [2.0]]),
        lengths=np.array([9.0, 2.0]),
        preactivation_error=lambda layer: np.array([[9.0, 9.0], [9.0, 0.25 * (layer.shape == (1, 2))]]),
    )
    for radius in (0.5, 2.0**-4):
        edge = (0.25 + 2.0 * (radius + 0.125)) * up
        for part, sign in ((1 + 1e-9, 1), (1.0, 0), (1 - 1e-9, 0)):
            for way in (1, -1):
                step = step_of(way * part * edge, radius)
                assert Enclosure._sign(self_of(data=data, _step=lambda t, step=step: step), 1.0, 1, 1) == way * sign
                assert Enclosure._sign(self_of(data=data), 1.0, 1, 1, step) == way * sign
    assert Enclosure._sign(self_of(data=data), 1.0, 1, 1, step_of(math.nan)) == 0


def test_the_radius_and_the_gap_at_a_time(coarse):
    step = step_of(1.0, off=(3.0, 4.0))
    run = self_of(_step=lambda t: step, data=self_of(loss=lambda *given: given))
    assert Enclosure.radius_at(run, 1.0) == Enclosure.radius_at(run, 0.0) == near((0.5 + 5.0) * up)
    layers, off, radius = Enclosure._gap(run, 1.0)
    assert off == (3.0, 4.0) and radius == 0.5 and layers[0][0, 1] == 0.5
    run.start = relu.Network(np.zeros((1, 2)), np.zeros((2, 1)), slope=0.25)
    found = Enclosure.network_at(run, 0.0)
    assert found.slope == 0.25 and found.U.tolist() == [[0.0, 0.5]] and found.V.tolist() == [[1.0], [1.0]]
    given: Any = Enclosure(run.data, run.start, (self_of(radius=0.5), self_of(radius=0.75)), (1.0, 1.0), "", "")  # pyright: ignore[reportArgumentType]
    assert given.radius.tolist() == [0.0, 0.5, 0.75]


@pytest.mark.parametrize(("side", "sign"), [(ON, 1), (OFF, -1)])
def test_the_time_at_which_a_side_is_certain(side, sign):
    """After a turn at 1 the sign is certain from 2.3 on; before one at 4 it was certain up to 2.3."""
    times = np.arange(7.0)

    def run(certain):
        return self_of(t=times, _sign=lambda t, i, j: sign * certain(t) if (i, j) == (5, 7) else 0)

    after = Turn(1.0, 7, 5, -side, side)
    found = Enclosure._certain(run(lambda t: t >= 2.3), 1.0, 6.0, after)
    assert 2.3 <= found <= 2.3 * (1 + 4e-16)
    assert Enclosure._certain(run(lambda t: t >= 2.3), 1.0, 3.0, after) == found  # the limit itself counts
    assert Enclosure._certain(run(lambda t: t >= 2.3), 1.0, 2.9, after) == math.inf
    assert Enclosure._certain(run(lambda t: -1 if t >= 2.3 else 0), 1.0, 6.0, after) == math.inf
    assert Enclosure._certain(run(lambda t: t > 1.0), 1.0, 6.0, after) == np.nextafter(1.0, 2.0)
    before = Turn(4.0, 7, 5, side, -side)
    found = Enclosure._certain(run(lambda t: t <= 2.3), 4.0, 0.5, before)
    assert 2.3 * (1 - 4e-16) <= found <= 2.3
    assert Enclosure._certain(run(lambda t: t <= 2.3), 4.0, 2.0, before) == found
    assert Enclosure._certain(run(lambda t: t <= 2.3), 4.0, 2.1, before) == 2.1  # no time of a step is between
    assert Enclosure._certain(run(lambda t: t < 4.0), 4.0, 0.5, before) == np.nextafter(4.0, 0.0)
    # From the nearest time of a step on, not from the first, between which the sign may be lost.
    twice = Enclosure._certain(run(lambda t: t <= 1.2 or 2.5 <= t <= 3.3), 4.0, 0.0, before)
    assert 3.3 * (1 - 4e-16) <= twice <= 3.3
    assert enclosure.HALVINGS == 60


def flips(turns, certain, end=9.0):
    """The flips of one pair, and what was asked; `certain` goes by the time of a turn, and before or after it."""
    asked = []

    def known(t, limit, turn):
        asked.append((t, limit, turn.t))
        return certain[t, limit > t]

    return Enclosure._flips_of(self_of(_certain=known, end=end), [Turn(t, 7, 5, a, b) for t, a, b in turns]), asked


def test_the_flips_of_a_pair():
    one = EnclosedFlip(0.9, 1.1, 7, 5, "off", "on")
    found, asked = flips([(1.0, OFF, ON)], {(1.0, True): 1.1, (1.0, False): 0.9})
    assert found == [one] and asked == [(1.0, 9.0, 1.0), (1.0, 0.0, 1.0)]
    # Two flips: each lies after the other, and is looked for between its neighbours.
    certain = {(1.0, True): 1.1, (1.0, False): 0.9, (2.0, True): 2.2, (2.0, False): 1.8}
    found, asked = flips([(1.0, OFF, ON), (2.0, ON, OFF)], certain)
    assert found == [one, EnclosedFlip(1.8, 2.2, 7, 5, "on", "off")]
    assert asked == [(1.0, 2.0, 1.0), (1.0, 0.0, 1.0), (2.0, 9.0, 2.0), (2.0, 1.1, 2.0)]
    found, _ = flips([(1.0, OFF, ON), (2.0, ON, OFF)], certain | {(2.0, False): 1.0})
    assert found[1].low == 1.1  # not before the end of the first
    # Turns that no certain sign separates are one.
    found, asked = flips([(1.0, OFF, ON), (2.0, ON, OFF)], certain | {(1.0, True): math.inf})
    assert found == [EnclosedFlip(0.9, 2.2, 7, 5, "off", "off")]
    # A pair that slides has no sign; the flip ends where it leaves, or not at all.
    slides = [(1.0, OFF, SLIDING), (2.0, SLIDING, ON)]
    found, asked = flips(slides, certain)
    assert found == [EnclosedFlip(0.9, 2.2, 7, 5, "off", "on", True)] and asked == [(2.0, 9.0, 2.0), (1.0, 0.0, 1.0)]
    found, _ = flips(slides[:1], certain)
    assert found == [EnclosedFlip(0.9, math.inf, 7, 5, "off", "sliding", True)]
    three = [*slides, (3.0, ON, OFF)]
    found, asked = flips(three, certain | {(3.0, True): math.inf, (3.0, False): 2.9})
    assert found[1] == EnclosedFlip(2.9, math.inf, 7, 5, "on", "off", False) and asked[-1] == (3.0, 2.2, 3.0)


def test_what_is_promised_after_a_run(monkeypatch):
    """The guarantee begins at the last loss, from the network that is reached with its radius."""
    told = []
    problem, path, net = self_of(), self_of(), self_of()
    steps = tuple(self_of(gap=(k, 10.0 * k)) for k in (1, 2, 3))
    run = self_of(
        steps=steps, data=self_of(problem=problem), end=7.0, network_at=lambda t: (net, t), radius_at=lambda t: t / 8
    )
    start = self_of(of=lambda *given: (told.append(given), "reached")[1])
    monkeypatch.setattr(enclosure, "Start", start)
    monkeypatch.setattr(enclosure, "follow", lambda reached, way: (told.append(reached), (path, 0, "", {"a": 1}))[1])
    monkeypatch.setattr(enclosure, "path_curve", lambda *given: (told.append(given), "curve")[1])
    monkeypatch.setattr(enclosure, "guarantee", lambda *given: given)
    found, reason = Enclosure._after.func(run)
    assert told == [(problem, (net, 7.0), 7.0 / 8), "reached", (path, "reached")] and reason == ""
    assert found[0] == 30.0 and found[-2:] == ("curve", {"a": 1, "radius": 7.0 / 8})
    monkeypatch.setattr(enclosure, "follow", lambda reached, way: (None, 0, f"no floor; {way}", {}))
    assert Enclosure._after.func(run) == (None, "no floor; try a smaller until, or a later t_max")
    assert Enclosure._after.func(self_of(steps=())) == (None, "nothing is enclosed")


def test_a_flip_slides_if_one_of_its_turns_does():
    certain = {(1.0, True): 1.1, (1.0, False): 0.9, (2.0, True): 2.2, (2.0, False): 1.8, (3.0, True): 3.3}
    turns = [(1.0, OFF, ON), (2.0, ON, SLIDING), (3.0, SLIDING, OFF)]
    found, _ = flips(turns, certain)
    assert [(f.before, f.after, f.slid) for f in found] == [("off", "on", False), ("on", "off", True)]
    found, _ = flips(turns, certain | {(1.0, True): math.inf})
    assert [(f.before, f.after, f.slid) for f in found] == [("off", "off", True)]


class StopError(Exception):
    """Ends a call where its arguments are known."""


def test_the_arguments_of_a_verified_run(monkeypatch):
    def stop(*given):
        raise StopError(*given)

    monkeypatch.setattr(enclosure, "enclose_flow", stop)
    monkeypatch.setattr(enclosure, "_descend", stop)
    X, Y, net = [[1.0]], [2.0], relu.Network([[1.0]], [[1.0]])

    def asked(**given):
        with pytest.raises(StopError) as found:
            relu.enclose(X, Y, net, **given)
        return found.value.args[1:-1]

    assert asked() == (1e-6, math.inf, 5000) and asked(t_max=2.0) == (None, 2.0, 5000)
    assert asked(until=0.25, max_steps=7) == (0.25, math.inf, 7) and asked(until=0.25, t_max=2.0) == (0.25, 2.0, 5000)
    descent = {"algorithm": "descent", "step_size": 0.125}
    assert asked(**descent) == (0.125, 1e-6, 100_000) and asked(**descent, steps=5) == (0.125, None, 5)
    assert asked(**descent, until=0.25) == (0.125, 0.25, 100_000)
    assert asked(**descent, until=0.25, steps=5) == (0.125, 0.25, 5)
    for given, words in (
        ({"algorithm": "descent"}, "give step_size"), ({**descent, "t_max": 1.0}, "descent counts steps"),
        ({"step_size": 0.1}, "are for descent"), ({"steps": 3}, "are for descent"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            relu.enclose(X, Y, net, **given)


def test_all_flips_are_in_the_order_of_their_first_times():
    turns = [
        Turn(t, neuron, sample, OFF, ON) for t, neuron, sample in ((3.0, 1, 0), (1.0, 2, 0), (1.0, 0, 1), (1.0, 0, 0))
    ]
    asked = []

    def of_pair(turns):
        asked.append([turn.t for turn in turns])
        return [EnclosedFlip(turn.t, 9.0, turn.neuron, turn.sample, "off", "on") for turn in turns]

    again = Turn(4.0, 2, 0, ON, OFF)
    found = Enclosure.flips.func(self_of(turns=(*turns, again), _flips_of=of_pair))
    assert [(f.low, f.neuron, f.sample) for f in found] == [(1, 0, 0), (1, 0, 1), (1, 2, 0), (3, 1, 0), (4, 2, 0)]
    assert asked == [[3.0], [1.0, 4.0], [1.0], [1.0]]
