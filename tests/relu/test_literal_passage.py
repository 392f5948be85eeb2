"""Radii, crossings and the steps of a march written out, with their allowances, under a coarse roundoff.

Nothing here says that an allowance is enough: other tests do. Here each is exactly what docs/relu_verified.md says.
"""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from linflow import relu
from linflow.relu import passage, pattern_march
from linflow.relu.certificate import regression
from linflow.relu.events import Passing
from linflow.relu.passage import Crossing, Grown, Neuron, grown, own_error
from linflow.relu.pattern_march import PatternMarch
from linflow.relu.pattern_path import Data
from linflow.relu.pattern_tube import inverse_square
from linflow.relu.pieces import OFF, ON, SLIDING, Field, Pattern
from linflow.verified.march import time_exponent
from tests.relu.test_literal_enclosure import data_of, neuron_of
from tests.relu.test_literal_pattern import tube_of
from tests.verified.test_literal_path import coarse, drawn, fro, g, near, tiny, u, up

__all__ = ["coarse"]


# --- the radius over a step ----------------------------------------------------------------------------------------


def fake(s=0.5, size=0.125, variation=0.25, forced=0.0625, third=0.75, norm=16.0) -> Any:
    """A tube of simple numbers; its exponent grows with the radius, and it blocks beyond 1024."""
    path = SimpleNamespace(
        norm=lambda: norm, added=lambda s: 0.5 * s, tau=0.25, lengths=np.array([[2.0, 1.0], [4.0, 0.5]])
    )
    return SimpleNamespace(
        path=path,
        s=s,
        adjusted=(size, variation),
        forced=forced,
        exponent=lambda radius: 0.125 + radius / 4096,
        constants=lambda radius: SimpleNamespace(third=third),
        blocking=lambda radius: np.array([[radius > 1024, False]]),
    )


def rounding_of(tube):
    """The rounding of the value of a path of degree 1."""
    return math.hypot(*(g(6) * (row[0] + row[1] * tube.s) * up + tiny for row in tube.path.lengths))


def test_what_a_step_adds_to_a_radius(coarse):
    assert own_error(fake()) == near((0.25 + 2 * 0.125 + 0.25 + 0.0625) * up)


@pytest.mark.parametrize("more", [(0.0, 0.0), (2.0, 0.5)])
def test_a_radius_over_two_steps_is_written_out(coarse, monkeypatch, more):
    monkeypatch.setattr(passage, "ADJUSTED", 1.0)
    tubes, seen = [fake(), fake(s=0.25, size=0.0625)], []

    def crossing(reach, first):
        seen.append((reach, first))
        return more

    found = grown(tubes, 3.0, 0.5, crossing)
    own = sum((0.5 * s + 2 * size + 0.25 + 0.0625) * up for s, size in ((0.5, 0.125), (0.25, 0.0625)))
    base = (3.0 + own + 0.5) * up
    exponent = 2 * (0.125 + found.reach / 4096) * up
    turned = 0.75 * 0.25 * (0.125 * 0.5 + 0.0625 * 0.25)
    assert found.holds and found.exponent == near(exponent + more[1])
    assert found.radius == near((base + turned + more[0]) * math.exp(exponent + more[1]) * up * up + 0.125)
    assert seen[-1] == (found.reach, near((base + turned) * math.exp(exponent) * up * up + 0.125))
    rounded = sum(rounding_of(tube) for tube in tubes) * up
    assert found.reach >= (found.radius + 0.5 + rounded) * up
    assert seen[0][0] == near(1.5 * (base + 0.125 + rounded))
    alone = grown(tubes, 3.0, 0.5)
    if more == (0.0, 0.0):
        assert alone == found


def test_the_end_of_a_step_counts_in_its_tube(coarse, monkeypatch):
    """Each tube but the last was too narrow for the radius with its rounding, and the next is half as wide again."""
    monkeypatch.setattr(passage, "ADJUSTED", 1.0)
    tube, reaches = fake(), []
    tube.blocking = lambda radius: (reaches.append(radius), np.array([[False]]))[1]
    found = grown([tube], 3.0, 2.0, lambda reach, first: (8.0 if len(reaches) < 3 else 7.0, 0.0))
    assert len(reaches) == 2 and found.reach == reaches[-1]
    own = (0.5 * 0.5 + 2 * 0.125 + 0.25 + 0.0625) * up
    base, turned = (3.0 + own + 2.0) * up, 0.75 * 0.125 * 0.5 * 0.25
    first = (base + turned + 8.0) * math.exp((0.125 + reaches[0] / 4096) * up) * up * up + 0.125
    assert reaches[1] == near(1.5 * (first + 2.0 + rounding_of(tube) * up) * up)


def test_radii_that_are_refused(coarse, monkeypatch):
    own = own_error(fake())
    for share, holds in ((own / 16.0 * (1 + 1e-9), True), (own / 16.0 * (1 - 1e-9), False)):
        monkeypatch.setattr(passage, "ADJUSTED", share)
        assert grown([fake()], 3.0, 0.5).holds is holds
    monkeypatch.setattr(passage, "ADJUSTED", 1.0)
    wide = grown([fake()], 2000.0, 0.5)
    assert not wide.holds and wide.blocking is not None and wide.blocking.tolist() == [[True, False]]
    assert (wide.radius, wide.exponent, wide.reach) == (math.inf, 0.0, 0.0)
    blocks = fake()
    blocks.blocking = lambda radius: np.array([[False, True]])
    blocked = grown([fake(), blocks], 3.0, 0.5)
    assert not blocked.holds and blocked.blocking is not None and blocked.blocking.tolist() == [[False, True]]
    for answer in (None, (math.inf, 0.0), (0.0, 300.0), (0.0, 800.0)):
        refused = grown([fake()], 3.0, 0.5, lambda reach, first, answer=answer: answer)
        assert not refused.holds and refused.blocking is None
    huge = fake(norm=1e200)
    huge.exponent, huge.blocking = lambda radius: 0.125, lambda radius: np.array([[False]])
    assert grown([huge], 3.0, 0.5, lambda reach, first: (0.0, 200.0)).holds
    huge.exponent = lambda radius: 400.0
    assert not grown([huge], 3.0, 0.5).holds
    assert not grown([fake()], 3.0, 0.5, lambda reach, first: (1e3 * 17.0, 0.0)).holds


# --- crossings -----------------------------------------------------------------------------------------------------


def crossing_of(pairs=((0, 1), (2, 1), (3, 4)), slides=(), first=True, seed=3):
    """A crossing after a step, or at once, of a network with 4 samples and 5 neurons."""
    mask = np.zeros((4, 5), dtype=bool)
    for i, j in pairs:
        mask[i, j] = True
    before, after = (tube_of(slides=slides, exempt=mask, s=s, seed=seed) for s in (0.5, 0.25))
    layers = [c[0] for c in after.path.coefficients]
    return Crossing([before, after] if first else [after], layers, after.path.pattern, mask)


def test_pulls_at_a_crossing_and_how_far_they_move(coarse):
    crossing = crossing_of()
    data, (first, V) = crossing.data, crossing.layers
    assert crossing.way == near(sum(tube.way for tube in crossing.tubes))
    low = np.minimum(crossing.tubes[0].low.min(axis=0), crossing.tubes[1].low.min(axis=0))
    np.testing.assert_array_equal(crossing.beyond, np.maximum(0, -low))
    z = data.X @ first
    phi = np.where(z > 0, z, 0.25 * z)
    R, error = data.residual([first, V], (0.0, 0.0))
    pulls, moved = crossing._pulls(0.5)
    np.testing.assert_allclose(pulls, R @ V.T, rtol=1e-12, atol=1e-14)
    away, size = (0.5 + crossing.way) * up, fro(R)
    turned = math.hypot(data.norm * fro(V), fro(phi) * up) * away + 0.5 * data.norm * away**2
    for j in range(5):
        row = math.sqrt(sum(v * v for v in V[j])) * up
        expected = (turned + error) * (row + away) + size * away + g(2 + 2) * size * row
        assert moved[j] == near(expected * up + tiny)


def test_how_long_pairs_are_clear_before_they_cross(coarse):
    crossing = crossing_of()
    tube, lengths = crossing.tubes[0], crossing.data.lengths
    tube.low[:] = 1e9
    tube.low[0, 1, 1] = -1.0  # does not cross
    assert crossing._clear_time(0.5) == 0.5 * tube.path.tau * (1 - 1e-12)
    tube.low[5, 2, 1] = lengths[2] * 0.5 * up
    assert crossing._clear_time(0.5) == 5 / 8 * 0.5 * tube.path.tau * (1 - 1e-12)
    tube.low[5, 2, 1] *= 1 + 1e-9
    assert crossing._clear_time(0.5) == 0.5 * tube.path.tau * (1 - 1e-12)
    tube.low[0, 3, 4] = 0.0
    assert crossing._clear_time(0.5) == 0.0
    assert crossing_of(first=False)._clear_time(0.5) == 0.0


def test_what_crossings_cost(coarse, monkeypatch):
    crossing, asked = crossing_of(), []
    crossing.beyond = np.abs(drawn(4, 5))
    for tube, pair in zip(crossing.tubes, ((1, 1), (1, 4)), strict=True):
        tube.low[:] = 1e9
        tube.low[3, *pair] = -1.0  # on one piece of one of the tubes
    speeds = {(0, 1): 0.5, (2, 1): 0.25, (3, 4): 2.0}
    pulls, moved = np.ones((4, 5)), np.full(5, 0.125)
    pulls[0, 1], pulls[2, 1], pulls[3, 4] = -0.5, 0.0625, 0.125  # the last kink is convex
    monkeypatch.setattr(Crossing, "_pulls", lambda self, reach: (asked.append(reach), (pulls, moved))[1])
    monkeypatch.setattr(Crossing, "_clear_time", lambda self, radius: (asked.append(radius), 0.75)[1])
    made = []

    class Known:
        def __init__(self, crossing, j, unknown, pulls, moved):
            self.j = j
            made.append((j, unknown, pulls, moved))

        def speed(self, i, first, time):
            asked.append((i, self.j, first, time))
            return speeds[i, self.j]

    monkeypatch.setattr(passage, "Neuron", Known)
    amount, factor = crossing(0.5, 0.375) or (math.nan, math.nan)
    assert asked == [0.5, 0.375, (0, 1, 0.375, 0.75), (2, 1, 0.375, 0.75)]
    unknown = crossing.pairs.copy()
    unknown[1, [1, 4]] = True
    for j, *given in made:
        for found, expected in zip(given, (unknown[:, j], pulls[:, j], 0.125), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert [m[0] for m in made] == [1, 4]
    lengths, own = crossing.data.lengths, sum(own_error(tube) for tube in crossing.tubes)
    total = growth = 0.0
    for i, concave, speed in ((0, 0.625, 0.5), (2, 0.0625, 0.25)):
        cost = (1 - 0.25) * lengths[i] * concave / speed * up
        total += cost * 2 * (crossing.beyond[i, 1] + lengths[i] * own) * up
        growth += math.log1p(cost * lengths[i]) * up
    assert (amount, factor) == (near(total * up), near(growth * up))
    crossing.tubes[1].sliding[2, 1] = True
    assert crossing(0.5, 0.375) is None
    crossing.tubes[1].sliding[2, 1] = False
    for speed in (0.0, -1.0, math.nan):
        speeds[0, 1] = speed
        assert crossing(0.5, 0.375) is None
    speeds[0, 1] = 1e-3
    assert crossing(0.5, 0.375) is not None


def test_a_neuron_at_a_crossing_and_its_forces(coarse):
    crossing = crossing_of(pairs=((0, 1), (3, 1)), slides=((2, 1), (3, 1)))
    unknown = np.array([True, False, False, True])
    pulls = drawn(4)
    neuron = Neuron(crossing, 1, unknown, pulls, 0.125)
    assert neuron.held.tolist() == [2]  # sample 3 crosses
    np.testing.assert_allclose(neuron.error, 0.125 + g(4 + 3 + 8) * np.abs(pulls), rtol=1e-12, atol=0)
    np.testing.assert_allclose(neuron.K, crossing.data.X @ crossing.data.X.T, rtol=1e-15, atol=0)
    sides = crossing.pattern.sides[:, 1]
    least = [0.25, 1.0 if sides[1] == ON else 0.25, 0.0, 0.25]
    assert neuron.slopes[0].tolist() == least and neuron.slopes[1].tolist() == [1.0, least[1], 0.0, 1.0]
    # Where it does not slide before, the pair is not held.
    crossing.tubes[0] = crossing_of().tubes[0]
    assert Neuron(crossing, 1, unknown, pulls, 0.125).held.tolist() == []


def test_the_least_speed_of_a_crossing_is_written_with_its_error(coarse):
    """Samples 0 and 2 are unknown, and 0 crosses: its own slope is the same in every sum."""
    X, pulls = drawn(4, 3), drawn(4, seed=1)
    for sides in ([ON, ON, OFF, OFF], [OFF, ON, OFF, ON]):
        unknown = [True, False, True, False]
        neuron = neuron_of(X, pulls, sides, slope=0.25, unknown=unknown, moved=0.125)
        lengths, way, speeds = neuron.data.lengths, sides[0], []
        for a0, a2 in itertools.product((0.25, 1.0), repeat=2):
            a = np.where(np.array(sides) == ON, 1.0, 0.25)
            a[[0, 2]] = a0, a2
            speeds.append(-way * X[0] @ (X.T @ (a * pulls)))
        assert neuron.speed(0, 1.0, 0.0) == near(min(speeds) - lengths[0] * sum(lengths) * 0.125 * up)


def settled_neuron(moved=2.0**-10):
    """x_0 crosses; x_1 and x_2 slide, x_3 is on."""
    X = np.array([[1.0, 0.5, 0.0], [0.0, 2.0, 0.0], [0.0, 0.5, 1.0], [-1.0, 1.0, 0.75]])
    pulls = np.array([-1.0, 2.0, 3.0, -1.5])
    return neuron_of(X, pulls, [ON, SLIDING, SLIDING, ON], [1, 2], 0.125, [True, True, True, False], moved)


def settled(neuron, least, most):
    """The forces that keep the held samples at 0, their error, and the speed towards there, as the lemma has them."""
    X, q, S, lengths = neuron.data.X, neuron.pulls, [1, 2], neuron.data.lengths
    inverse = inverse_square(neuron.data, np.array(S))
    middle, half = 0.5 * (least + most), 0.5 * (most - least)
    middle[S] = half[S] = 0.0
    K = X @ X.T
    forces = np.linalg.solve(K[np.ix_(S, S)], -K[S] @ middle)
    spread = half + neuron.error
    spread[S] = g(4 + 4 + 3 + 8) * np.abs(forces)
    missing = np.abs(K[np.ix_(S, S)] @ forces + K[S] @ middle) + lengths[S] * (lengths @ spread)
    off = math.hypot(*missing) * inverse * up
    margin = min(*(q[S] - forces), *(forces - 0.125 * q[S])) - off - 2 * neuron.error[1]
    return forces, off, margin / math.sqrt(inverse)


@pytest.mark.parametrize("last", [-1.5, 1.5, -9.0])
@pytest.mark.parametrize("wrong", [0.0, -0.125])
def test_when_neighbours_surely_slide_is_written_out(coarse, monkeypatch, last, wrong):
    """Also with forces that are below or above their range, and with forces that are computed badly."""
    neuron, solve = settled_neuron(), np.linalg.solve
    lstsq = np.linalg.lstsq
    monkeypatch.setattr(np.linalg, "solve", lambda *given: solve(*given) + wrong)
    monkeypatch.setattr(np.linalg, "lstsq", lambda *given, rcond: [lstsq(*given, rcond=rcond)[0] + wrong])
    least, most = np.array([-1.0, 7.0, 7.0, last]), np.array([-0.125, 8.0, 8.0, last])
    forces, off, closing = settled(neuron, least.copy(), most.copy())
    found = neuron._settled(least, most)
    np.testing.assert_allclose(found[0], forces, rtol=1e-12, atol=0)
    # the computed forces leave a residue of rounding of 1e-16 in `missing`
    assert found[1] == pytest.approx(off, rel=1e-11, abs=0) and found[2] == pytest.approx(closing, rel=1e-10, abs=0)
    case = neuron._with((least, most, neuron.error), found[0], found[1])
    expected = np.array([neuron.error[0], *(off + g(8) * np.abs(forces)), neuron.error[3]])
    np.testing.assert_allclose(case[2], expected, rtol=1e-11, atol=0)
    for part, end in zip(case[:2], (least, most), strict=True):
        np.testing.assert_allclose(part, [end[0], *forces, end[3]], rtol=1e-12, atol=0)
    assert least[1] == 7.0  # the given arrays are not changed
    # No time in which samples that are dependent, or of which there are none, come to rest is known.
    for second in ([0.0, 2.0], [0.0, 4.0]):
        X = np.array([[1.0, -0.5], [0.0, 2.0], second])
        weak = neuron_of(X, np.ones(3), [ON, SLIDING, SLIDING], [1, 2])
        assert weak._settled(np.ones(3), np.ones(3))[2] == 0.0
    assert neuron_of(X, np.ones(3), [ON, ON, ON])._settled(np.ones(3), np.ones(3)) == (near([]), 0.0, 0.0)


@pytest.mark.parametrize("part", [1 - 1e-9, 1 + 1e-9])
def test_the_speed_among_neighbours_that_slide(coarse, part):
    """They come to 0 within `radius/closing`; if that is before the crossing, their forces are known there."""
    neuron = settled_neuron()
    X, pulls, lengths = neuron.data.X, neuron.pulls, neuron.data.lengths
    cases = []
    for a in (0.125, 1.0):
        least = np.array([a, 0.125, 0.125, 1.0]) * pulls
        most = np.array([a, 1.0, 1.0, 1.0]) * pulls
        cases.append((least, most, settled(neuron, least.copy(), most.copy())))
    closing = min(case[2][2] for case in cases)
    assert closing > 0
    speeds = []
    for least, most, (forces, off, _) in cases:
        error, row = neuron.error.copy(), -(X @ X[0])
        if part > 1:
            least[[1, 2]] = most[[1, 2]] = forces
            error[[1, 2]] = off + g(8) * np.abs(forces)
        speeds.append(np.minimum(row * least, row * most).sum() - lengths[0] * (lengths @ error) * up)
    time = 0.5 / closing * up * part
    assert neuron.speed(0, 0.5, time) == pytest.approx(min(speeds), rel=1e-10, abs=0)


# --- the march -----------------------------------------------------------------------------------------------------


def march_of(**kind):
    return PatternMarch(data_of(3, **({"m": 2, "s": 0.25} | kind)))


def test_the_pattern_of_the_start(coarse, monkeypatch):
    """Sums within their rounding are at 0 for the pattern; the flow says where they go."""
    march = march_of()
    data, (first, V) = march.data, march.weights
    z, noise = data.X @ first, data.preactivation_error(first)
    clear = np.abs(z) > noise
    assert clear.any() and (march.pattern.sides[clear] == np.where(z > 0, ON, OFF)[clear]).all()
    assert march.first == march.gap == data.loss([first, V], (0.0, 0.0), 0.0)
    net = relu.Network([[2.0, 0.0], [0.0, 0.0]], [[1.0], [1.0]])
    found = PatternMarch(Data(regression([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [3.0, 1.0, 1.0], net), net))
    # Sample 1 is at 0 and pulled up, where two solutions part: that of the slope left of 0 is taken.
    assert found.pattern.sides.tolist() == [[ON, OFF], [OFF, OFF], [OFF, OFF]]
    asked = []
    monkeypatch.setattr(Field, "resolve", lambda self, y, pattern, j, S: (asked.append((j, S.tolist())), pattern)[1])
    PatternMarch(found.data)
    assert asked == [(0, [1]), (1, [0, 1])]  # sample 2 is 0 for ever
    asked.clear()
    one = relu.Network([[2.0, 0.0], [3.0, 1.0]], [[1.0], [2.0**40]])
    march_one = PatternMarch(Data(regression(np.eye(2), [3.0, 1.0], one), one))
    assert asked == [(1, [0])]
    flow = march_one.data.field
    pace = flow.at(flow.vector(*march_one.weights), march_one.pattern).speed
    assert march_one.tau == 2.0 ** (time_exponent(2.0**40, pace) - 3)
    y = data.field.vector(first, V)
    speed = data.field.at(y, march.pattern).speed
    assert march.tau == 2.0 ** (time_exponent(math.hypot(np.linalg.norm(first), np.linalg.norm(V)), speed) - 3)
    empty = PatternMarch(Data(regression(np.zeros((1, 2)), [1.0], net), net))
    assert empty.advance() is None and empty.trouble == pattern_march.NOTHING
    half = PatternMarch(Data(regression([[1.0, 0.0], [0.0, 0.0]], [1.0, 1.0], net), net))
    half.advance()
    assert half.data.void.any() and half.trouble != pattern_march.NOTHING


def test_the_doubt_about_a_kink_and_the_pairs_that_are_in_doubt(coarse):
    march = march_of()
    path, data, V = march._path(), march.data, march.weights[1]
    rows, size = np.sqrt(np.sum(V**2, axis=1)), path.residual[0]
    for radius in (0.0, 0.25):
        moved = math.hypot(data.norm * path.weights[1].norms[0], path.features[0]) * radius
        doubt = 4 * (moved * rows + size * radius) + 1e-14 * size * rows
        np.testing.assert_allclose(march._doubt(path, radius), doubt, rtol=1e-12, atol=0)
    np.testing.assert_allclose(march._speeds(path), np.abs(path.z[1]) / path.tau, rtol=1e-15, atol=0)
    march.radius = 0.25
    doubt = march._doubt(path, 0.25)
    edge = 2 * data.lengths[:, None] * 0.25 + path.z_error[0]
    path.pulls[0] = doubt * (1 - 1e-9)
    for sign, part in itertools.product((1, -1), (1 - 1e-9, 1.0, 1 + 1e-9)):
        path.z[0] = sign * part * edge
        assert march._doubtful(path).all() == (part <= 1) and march._doubtful(path).any() == (part <= 1)
    path.z[0] = 0.0
    data.void[1, 2] = True
    sides = march.pattern.sides.copy()
    sides[3, 3] = SLIDING
    march.pattern = Pattern(sides, 0.25)
    path.pulls[0, 0, 4] = doubt[4]
    assert march._doubtful(path).sum() == 17 and not march._doubtful(path)[[1, 3, 0], [2, 3, 4]].any()


def test_the_room_before_a_crossing(coarse):
    march = march_of()
    noise = march.data.preactivation_error(march.weights[0])
    pairs, speeds = [(0, 1, 0), (2, 3, 0)], np.array([0.5, 0.125])
    for radius in (0.0, 0.25):
        needs = [
            6 * (march.data.lengths[i] * radius + 4 * noise[i, j]) / v
            for (i, j, _), v in zip(pairs, speeds, strict=True)
        ]
        assert march._room(pairs, speeds, radius) == near(max(needs))
    march.t = 2.0**40
    assert march._room(pairs, speeds * 1e200, 0.0) == 8 * 2.0**-12
    assert march._room(pairs, np.zeros(2), 0.25) > 1e290


def test_the_clearance_after_a_passage(coarse):
    march = march_of()
    tube = tube_of()
    pairs = np.zeros((4, 5), dtype=bool)
    pairs[1, 2] = pairs[0, 3] = True
    tube.side[0, 3] = 0.0  # slides: nothing is asked of it
    z = (march.data.X @ tube.path.at(0.5)[0][0])[1, 2]
    error = march.data.preactivation_error(tube.path.at(0.5)[0][0])[1, 2]
    edge = (tube.side[1, 2] * z - error) / (2 * march.data.lengths[1])
    assert edge > 0
    assert march._clear(tube, pairs, edge * (1 - 1e-9)) and not march._clear(tube, pairs, edge * (1 + 1e-9))
    clear = (tube.side * (march.data.X @ tube.path.at(0.5)[0][0]) > 3 * edge * march.data.lengths[:, None]) & ~pairs
    assert clear.any() and not march._clear(tube, pairs | clear, edge * (1 + 1e-9))


def test_sliding_pairs_are_put_onto_0_and_the_way_there_is_counted(coarse):
    march = march_of()
    sides = march.pattern.sides.copy()
    sides[[0, 2], 1], sides[3, 4] = SLIDING, SLIDING
    march.pattern = Pattern(sides, 0.25)
    weights = [W.copy() for W in march.weights]
    found, moved = march._onto_zero(weights)
    square = 0.0
    for j, S in ((1, [0, 2]), (4, [3])):
        rows, old = march.data.X[S], weights[0][:, j]
        new = old - np.linalg.pinv(rows) @ rows @ old
        np.testing.assert_allclose(found[0][:, j], new, rtol=1e-12, atol=1e-14)
        square += sum((abs(a - b) + u * abs(a)) ** 2 for a, b in zip(new, old, strict=True)) * up + tiny
    assert moved == pytest.approx(math.sqrt(square) * up, rel=1e-11, abs=0)
    np.testing.assert_array_equal(found[0][:, [0, 2, 3]], weights[0][:, [0, 2, 3]])
    assert found[1] is weights[1] and (weights[0] == march.weights[0]).all()


def test_the_end_of_a_step(coarse, monkeypatch):
    march = march_of()
    march.t, march.exponent = 2.0, 0.5
    path = march._path()
    tube = pattern_march.PatternTube(path, 0.25)
    monkeypatch.setattr(PatternMarch, "_onto_zero", lambda self, weights: ([weights[0], 2 * weights[1]], 0.03125))
    step = march._taken(tube, Grown(0.25, 0.75, 0.5))
    weights, jump = path.at(0.25)
    assert march.radius == near((0.25 + jump + 0.03125) * up) and march.exponent == 1.25
    np.testing.assert_array_equal(march.weights[1], 2 * weights[1])
    assert march.gap == step.gap == march.data.loss([weights[0], 2 * weights[1]], (0.0, 0.0), march.radius)
    assert (step.t, step.length, step.tau) == (2.0, 0.25 * path.tau, path.tau) and march.t == 2.0 + step.length
    assert (step.radius, step.exponent, step.constants) == (0.25, 0.75, tube.constants(0.5))
    np.testing.assert_array_equal(step.lengths, path.lengths)
    assert all((a == b).all() for a, b in zip(step.coefficients, path.values, strict=True))


@pytest.mark.parametrize("before", [True, False])
def test_the_steps_of_a_passage(coarse, monkeypatch, before):
    march = march_of()
    march.t, march.exponent = 2.0, 0.5
    path = march._path()
    old, new = pattern_march.PatternTube(path, 0.25), pattern_march.PatternTube(path, 0.125)
    layers = path.at(0.25)[0]
    sides = march.pattern.sides.copy()
    sides[1, 2] *= -1
    was = int(march.pattern.sides[1, 2])
    monkeypatch.setattr(PatternMarch, "_onto_zero", lambda self, weights: (weights, 0.03125))
    start = 2.0 + 0.25 * path.tau if before else 2.0
    jump = 0.0625 if before else 0.0
    first = march._passed([old] if before else [], new, Grown(0.25, 0.75, 0.5), layers, Pattern(sides, 0.25), jump)
    weights, last = path.at(0.125)
    after = (0.25 + jump + last + 0.03125) * up
    assert march.radius == near(after) and march.exponent == 1.25 and (march.pattern.sides == sides).all()
    second = march.advance() if before else first
    assert second is not None and not march.pending
    assert second.t == start and second.length == 0.125 * path.tau and march.t == start + second.length
    assert (second.radius, second.exponent, second.constants) == (0.25, 0.75, new.constants(0.5))
    assert march.gap == second.gap == march.data.loss(weights, (0.0, 0.0), march.radius)
    if before:
        assert (first.t, first.length, first.radius, first.exponent) == (2.0, 0.25 * path.tau, 0.25, 0.0)
        assert first.constants == old.constants(0.5)
        assert first.gap == march.data.loss(layers, (0.0, 0.0), (0.25 + jump) * up)
        assert march.turns == [(start, 2, 1, was, -was)]


def test_the_times_of_steps():
    march = march_of()
    for t in (0.0, 1.0, 1e6):
        march.t = t
        for length, stop in ((0.5, t + 4.0), (0.5, t + 0.6), (0.5, t + 0.3), (0.5, t + 0.5)):
            after = march._next(length, stop)
            assert after is not None and t < after <= stop and after - t <= length
            assert after - t >= 0.5 * min(length, stop - t) * (1 - 1e-6) and t + (after - t) == after
    march.t = 1.0
    assert march._next(0.5, 1.25) == 1.25 and march._next(0.25, 1.25) == 1.25
    assert march._next(0.5, 1.0) is None
    march.t = 0.1  # a step of 1000 would not be exact: one of at most 0.99 t is
    after = march._next(1e3, math.inf)
    assert after is not None and 0.09 < after - 0.1 <= 0.099


def test_a_unit_of_time_in_which_steps_have_about_the_length_1():
    march = march_of()
    for tau in (2.0**-30, 1.0, 2.0**8):
        march.tau = tau
        with np.errstate(all="ignore"):  # coefficients of a far too long step overflow
            path = march._path()
        assert march.tau == path.tau and abs(math.log2(path.longest())) <= 0.5


def test_why_a_march_ends(monkeypatch):
    march = march_of()
    march.radius, mask = 0.25, np.zeros((4, 5), dtype=bool)
    assert march._why(None) == march._why(mask) == "no radius was confirmed, however short the step; it is 0.25"
    mask[1, 2] = True
    at_zero = 1e-12 * float(np.abs(march.data.X[1]) @ np.abs(march.weights[0][:, 2]))
    path = SimpleNamespace(z=np.zeros((3, 4, 5)), pulls=np.multiply.outer([0.5, 7.0, 7.0], np.ones((4, 5))))
    monkeypatch.setattr(PatternMarch, "_path", lambda self: path)
    starts, held = "starts at 0 on sample 1 and is not", "is held at 0 on sample 1 and may stay"
    comes, near_it = "comes to 0 on sample 1 at t = 2 and is not", "comes near 0 on sample 1 and may turn"
    for t, z, found, event in (
        (0.0, [1 - 1e-9, 5.0, 0.0], starts, None),
        (0.0, [1.0, 0.0, 0.0], starts, 2.0),
        (0.0, [-1 - 1e-9, 0.0, 0.0], comes, 2.0),
        (1.0, [0.5, -0.25, 0.25 - 1e-9], held, 2.0),
        (1.0, [0.5, -0.25, 0.25 + 1e-9], near_it, None),
        (1.0, [0.5, -0.75, 0.0], comes, 2.0),
    ):
        march.t, path.z[:, 1, 2] = t, np.array(z) * at_zero
        text = march._not_crossed(1, 2, event)
        assert text.startswith(f"neuron 2 {found} ")
        assert "; its pull (R v_j)_i is 0.5, the radius 0.25: there two solutions can part" in text
        assert event is not None or march._why(mask) == text


def test_a_turn_says_whether_anything_changed(monkeypatch):
    march = march_of()
    event = Passing(0.0, [], np.ones(0), np.ones(0))
    before = march.pattern
    assert march._turn(event) is False and march.pattern is before and march.turns == []
    sides = before.sides.copy()
    sides[1, 2] *= -1
    monkeypatch.setattr(pattern_march, "moved_on", lambda *given: Pattern(sides, 0.25))
    assert march._turn(event) is True and march.pattern.sides is sides
    assert march.turns == [(0.0, 2, 1, -sides[1, 2], sides[1, 2])]


# --- which steps are tried -----------------------------------------------------------------------------------------


def trying(monkeypatch, answers, event_at=None, pull=1.0, way=0, room=0.125, pairs=((0, 1),), radius=0.5):
    """A march from t = 2 on a path of simple numbers, whose radius is confirmed as often as the answers say."""
    march, told = march_of(), []
    march.t, march.radius = 2.0, radius
    path: Any = SimpleNamespace(tau=0.5, added=lambda s: 0.25 * s, norm=lambda: 3e12, at=lambda s: (None, 0.125 + s))
    answers = iter(answers)

    def grown(tubes, *given):
        told.append(("grown", tubes[0].s, *given))
        holds = next(answers)
        return Grown(0.25 if holds else math.inf, 0.0, 0.0, None if holds else np.eye(4, 5, dtype=bool))

    monkeypatch.setattr(pattern_march, "PatternTube", lambda path, s: SimpleNamespace(path=path, s=s))
    monkeypatch.setattr(pattern_march, "grown", grown)
    monkeypatch.setattr(PatternMarch, "_taken", lambda self, tube, found: (told.append(("taken", tube.s)), "step")[1])
    monkeypatch.setattr(PatternMarch, "_turn", lambda self, event: told.append(("turn", event)))
    monkeypatch.setattr(PatternMarch, "_cross", lambda self, *given: (told.append(("cross", *given[1:])), "over")[1])
    monkeypatch.setattr(PatternMarch, "_room", lambda self, *given: (told.append(("room", *given)), room)[1])
    monkeypatch.setattr(PatternMarch, "_doubt", lambda self, path, radius: np.full(5, 0.5))
    event = None
    if event_at is not None:
        where = [(i, j, way) for i, j in pairs]
        pulls = np.array([pull, 9.0])[: len(where)]
        event = Passing(event_at, where, pulls, np.ones(len(where)))
    return march, path, event, told


def test_a_step_is_halved_until_its_radius_is_confirmed(monkeypatch):
    march, path, _, told = trying(monkeypatch, [False, False, True])
    assert march._ahead(path, 1.0, None, math.inf) == "step"
    assert told == [("grown", s, 0.5, 0.125 + s) for s in (1.0, 0.5, 0.25)] + [("taken", 0.25)]
    march, path, _, told = trying(monkeypatch, [True])
    march._ahead(path, 1.0, None, 2.125)  # at most to the end
    assert told[-1] == ("taken", 0.25)
    march, path, _, told = trying(monkeypatch, [False] * 99)
    assert march._ahead(path, 1.0, None, math.inf) is None and march.trouble.startswith("neuron 0 ")
    assert len(told) == pattern_march.SHORTER == 40
    march, path, _, told = trying(monkeypatch, [True])
    assert march._ahead(path, 1.0, None, 2.0) is None and march.trouble == pattern_march.TOO_SHORT and not told


def test_a_step_to_a_convex_kink_ends_there_with_the_turn(monkeypatch):
    """At a pull of the doubt or more, or out of sliding, nothing is kept away from the event."""
    for given in ({"pull": 0.5}, {"pull": -1.0, "way": ON}):
        march, path, event, told = trying(monkeypatch, [True], 2.25, **given)
        march._ahead(path, 1.0, event, math.inf)
        assert [x[0] for x in told] == ["grown", "taken", "turn"] and told[1] == ("taken", 0.5)
    march, path, event, told = trying(monkeypatch, [False, True], 2.25)
    march._ahead(path, 1.0, event, math.inf)
    assert told[-1] == ("taken", 0.25)  # not yet there
    march, path, event, told = trying(monkeypatch, [True], 2.25)
    march._ahead(path, 1.0, event, 2.125)
    assert told[-1] == ("taken", 0.25)


def test_a_step_to_a_kink_that_is_not_surely_convex_ends_before_it(monkeypatch):
    march, path, event, told = trying(monkeypatch, [True], 2.5, pull=0.49, pairs=((0, 1), (2, 3)))
    march._ahead(path, 1.0, event, math.inf)
    radius = 2 * (0.5 + 0.25) + 2e-14 * 3e12
    assert told[0][0] == "room" and told[0][1] == event.pairs and told[0][2] is event.speeds
    assert told[0][3] == near(radius) and told[1] == ("grown", 0.75, 0.5, 0.875) and told[-1] == ("taken", 0.75)
    # If this is refused, it ends four times as far from it, as long as that is less than a tenth of the way.
    for room, steps in (
        (1 / 128, [1 - 1 / 64, 1 - 1 / 16, 0.5 - 1 / 32]),
        (1 / 256, [1 - 1 / 128, 1 - 1 / 32, 31 / 64]),
    ):
        march, path, event, told = trying(monkeypatch, [False, False, True], 2.5, pull=0.0, room=room)
        march._ahead(path, 1.0, event, math.inf)
        assert [x[1] for x in told if x[0] == "grown"] == steps
    # Where there is no time left before it, it is crossed, if it is not beyond the end.
    for room, end, crossed in ((0.5, 9.0, True), (0.5, 2.5, True), (0.5, 2.4, False), (0.4, 9.0, False)):
        march, path, event, told = trying(monkeypatch, [True], 2.5, pull=0.0, room=room)
        found = march._ahead(path, 1.0, event, end)
        assert (found == "over") is crossed or found is None
        assert any(x[0] == "cross" for x in told) is crossed
        if crossed:
            assert told[-1] == ("cross", event, end)


def test_a_crossing_begins_at_the_time_of_its_event(monkeypatch):
    march, path, event, _ = trying(monkeypatch, [], 2.25, pairs=((0, 1), (2, 3)))
    monkeypatch.undo()
    layers, sides = [np.ones(1), np.ones(1)], march.pattern.sides.copy()
    sides[3, 4] *= -1
    told: list[Any] = []
    path.at = lambda s: (told.append(s), (layers, 0.5))[1]
    monkeypatch.setattr(pattern_march, "moved_on", lambda *given: (told.append(given), Pattern(sides, 0.25))[1])
    monkeypatch.setattr(PatternMarch, "_pass", lambda self, *given: (told.append(given), "passed")[1])
    assert march._cross(path, event, 9.0) == "passed"
    assert told[0] == 0.5 and told[1][1:] == (layers, march.pattern, event.pairs)
    path_given, s, given, pattern, crossing, speeds, end = told[2]
    assert (path_given, s, given, end) == (path, 0.5, layers, 9.0) and speeds is event.speeds
    assert pattern.sides is sides
    assert sorted(zip(*np.nonzero(crossing), strict=True)) == [(0, 1), (2, 3), (3, 4)]
    march.t = 2.25
    assert march._cross(path, event, 9.0) is None and march.trouble == pattern_march.TOO_SHORT


@pytest.mark.parametrize("before", [True, False])
def test_a_passage_is_made_wider_until_it_is_confirmed_and_clear(coarse, monkeypatch, before):  # noqa: PLR0915
    march, told = march_of(), []
    march.t, march.radius = 2.0, 0.0625
    old: Any = SimpleNamespace(tau=0.5, at=lambda s: (None, 0.03125)) if before else None
    layers = [np.full(4, 2e12), np.full(9, 1e12)]
    pairs = np.zeros((4, 5), dtype=bool)
    pairs[0, 1] = pairs[2, 3] = True
    sizes = iter([(math.inf, True), (0.25, False), (0.5, True)])
    clear: list[bool] = []

    def path_of(data, pattern, given, tau, order):
        told.append(("path", pattern, given, tau, order))
        return SimpleNamespace(tau=tau, at=lambda s: (None, 0.015625))

    def grown(tubes, radius, jumps, crossing):
        size, fits = next(sizes)
        clear.append(fits)
        told.append(("grown", [t.s for t in tubes], radius, jumps, crossing))
        return Grown(size, 0.0, 0.0)

    monkeypatch.setattr(pattern_march, "PatternPath", path_of)
    monkeypatch.setattr(
        pattern_march, "PatternTube", lambda path, s, pairs: SimpleNamespace(path=path, s=s, pairs=pairs)
    )
    monkeypatch.setattr(pattern_march, "Crossing", lambda *given: SimpleNamespace(given=given, slow=None))
    monkeypatch.setattr(pattern_march, "grown", grown)
    monkeypatch.setattr(PatternMarch, "_room", lambda self, *given: (told.append(("room", *given)), 0.125)[1])
    monkeypatch.setattr(
        PatternMarch, "_clear", lambda self, *given: (told.append(("clear", *given[1:])), clear[-1])[1]
    )
    monkeypatch.setattr(PatternMarch, "_passed", lambda self, *given: (told.append(("passed", *given)), "step")[1])
    pattern = march.pattern
    assert march._pass(old, 0.5, layers, pattern, pairs, np.array([3.0, 2.0]), 99.0) == "step" and march.t == 2.0
    t, jump = (2.25, 0.03125) if before else (2.0, 0.0)
    size = 2e-14 * 5e12
    _, where, speeds, radius = told[0]
    assert where == [(0, 1, 0), (2, 3, 0)] and speeds.tolist() == [2.0, 2.0] and radius == near(0.125 + size)
    paths = [x for x in told if x[0] == "path"]
    rooms = [0.125, 0.5, 2.0]
    assert [x[3] for x in paths] == rooms and all(x[1] is pattern and x[2] is layers and x[4] == 6 for x in paths)
    grows = [x for x in told if x[0] == "grown"]
    jumps = (jump + 0.015625) * up
    for x in grows:
        assert x[1] == ([0.5, 1.0] if before else [1.0]) and x[2] == 0.0625 and x[3] == near(jumps)
        assert [tube.s for tube in x[4].given[0]] == x[1] and x[4].given[1:] == (layers, pattern, pairs)
        assert all(tube.pairs is pairs for tube in x[4].given[0])
    assert [x[2] for x in told if x[0] == "clear"] == near([0.25 + jumps + size, 0.5 + jumps + size])
    _, tubes, tube, found, given, after, at = told[-1]
    assert [x.path for x in tubes] == ([old] if before else []) and tube.path.tau == 2.0 and found.radius == 0.5
    assert given is layers and after is pattern and at == jump
    # It ends at the end of the run, and there by two steps of the room at most.
    told.clear()
    sizes, end = iter([(0.5, True)]), t + 0.0625
    march.t = 2.0
    march._pass(old, 0.5, layers, pattern, pairs, np.array([3.0]), end)
    assert [x[3] for x in told if x[0] == "path"] == [0.0625]
    # What is never confirmed says which pair it was.
    said: list[Any] = []
    monkeypatch.setattr(PatternMarch, "_not_crossed", lambda self, *given: (said.append(given), "slow")[1])
    monkeypatch.setattr(PatternMarch, "_why", lambda self, given: (said.append(given), "blocked")[1])
    for slow, blocking, word in (((2, 3), None, "slow"), (None, None, "blocked"), ((2, 3), np.eye(4, 5), "blocked")):
        monkeypatch.setattr(pattern_march, "Crossing", lambda *given, slow=slow: SimpleNamespace(slow=slow))
        monkeypatch.setattr(pattern_march, "grown", lambda *_, b=blocking: Grown(math.inf, 0.0, 0.0, b))
        march.t = 2.0
        assert march._pass(old, 0.5, layers, pattern, pairs, np.array([3.0]), 99.0) is None
        assert march.trouble == word and march.t == 2.0
        assert said[-1] == (2, 3, t) if word == "slow" else said[-1] is (pairs if blocking is None else blocking)
    told.clear()
    assert march._pass(old, 0.5, layers, pattern, pairs, np.array([3.0]), t) is None
    assert not any(x[0] == "path" for x in told)


def test_how_a_march_goes_on(monkeypatch):
    told: list[Any] = []
    events: list[Any] = []
    doubtful = np.zeros((4, 5), dtype=bool)
    path: Any = SimpleNamespace(longest=lambda: 0.75)
    monkeypatch.setattr(PatternMarch, "_path", lambda self: path)
    monkeypatch.setattr(PatternMarch, "_doubtful", lambda self, path: doubtful)
    monkeypatch.setattr(PatternMarch, "_speeds", lambda self, path: np.arange(20.0).reshape(4, 5))
    monkeypatch.setattr(PatternMarch, "_ahead", lambda self, *given: (told.append(given), "ahead")[1])
    monkeypatch.setattr(PatternMarch, "_pass", lambda self, *given: (told.append(given), "pass")[1])
    monkeypatch.setattr(pattern_march, "first_event", lambda path, t, s: (told.append((t, s)), events.pop(0))[1])
    march = march_of()
    march.t = 2.0
    later, now = (Passing(t, [(1, 2, 0), (3, 4, 0)], np.ones(2), np.ones(2)) for t in (2.5, 2.0))
    for event in (None, later):
        events[:] = [event]
        assert march.advance(9.0) == "ahead" and told[-2:] == [(2.0, 0.75), (path, 0.75, event, 9.0)]
    monkeypatch.setattr(PatternMarch, "_turn", lambda self, event: True)
    events[:] = [now, now, later]
    assert march.advance(9.0) == "ahead" and told[-1] == (path, 0.75, later, 9.0) and not events
    monkeypatch.setattr(PatternMarch, "_turn", lambda self, event: False)
    events[:] = [now]
    assert march.advance(9.0) is None and march.trouble.startswith("neuron 2 is at 0 on sample 1, and how")
    doubtful[0, 1] = doubtful[2, 0] = True
    assert march.advance(9.0) == "pass"
    given = told[-1]
    assert given[:2] == (None, 0.0) and given[2] is march.weights and given[3] is march.pattern
    assert given[4] is doubtful and given[5].tolist() == [1.0, 10.0] and given[6] == 9.0
