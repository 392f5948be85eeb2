"""Verified runs of ReLU networks against flows to 40 digits that share no code with the library; hostile starts."""

import json
import math

import mpmath
import numpy as np
import pytest

from linflow import relu
from linflow.relu import pattern_march
from linflow.relu.certificate import regression
from linflow.relu.events import Passing
from linflow.relu.floor import Floor
from linflow.relu.movement import Mover
from linflow.relu.passage import Neuron
from linflow.relu.pattern_march import PatternMarch
from linflow.relu.pattern_path import Data
from linflow.relu.problem import Start
from linflow.verified.flow import enclose_flow
from tests.reference import relu as reference
from tests.reference.relu_flow import CASES, STORED, Judge

FLOWS = json.loads(STORED.read_text(encoding="utf-8"))


def network(name):
    (X, Y, U, V, b, s), end = CASES[name]
    return X, Y, relu.Network(U, V, b, s), end


def distance(net, weights):
    """The distance of a network to weights that are given to 30 digits."""
    found = [float(x) for x in [*net.extended.ravel(), *net.V.ravel()]]
    with mpmath.workdps(40):
        return mpmath.sqrt(sum((mpmath.mpf(x) - mpmath.mpf(y)) ** 2 for x, y in zip(found, weights, strict=True)))


@pytest.mark.parametrize("name", CASES)
def test_the_exact_flow_is_enclosed(name):
    X, Y, net, end = network(name)
    enc, flow = relu.enclose(X, Y, net, t_max=end), FLOWS[name]
    assert enc.result == "time limit reached" and enc.end >= end
    for t, loss, weights in zip(flow["times"], flow["losses"], flow["weights"], strict=True):
        low, high = enc.gap_bounds(t)
        with mpmath.workdps(40):
            assert mpmath.mpf(low) <= mpmath.mpf(loss) <= mpmath.mpf(high)
        assert high <= low * (1 + 1e-7) + 1e-15
        assert distance(enc.network_at(t), weights) <= enc.radius_at(t) <= 1e-9
    # Every event lies in one of the intervals, and each interval has an event: the first turn and the last.
    events = [(mpmath.mpf(t), neuron, sample) for t, neuron, sample, _, _ in flow["events"]]
    for t, neuron, sample in events:
        assert any(f.low <= t <= f.high and (f.neuron, f.sample) == (neuron, sample) for f in enc.flips)
    for f in enc.flips:
        inside = [e for e in events if f.low <= e[0] <= f.high and e[1:] == (f.neuron, f.sample)]
        assert inside
        if not f.slid and math.isfinite(f.high):
            assert f.high - f.low < 1e-8
    assert [(turn.neuron, turn.sample, turn.before, turn.after) for turn in enc.turns] == [
        tuple(event[1:]) for event in flow["events"]
    ]


@pytest.mark.parametrize("name", ["plain", "leaky", "leaky, crossings"])
def test_times_are_bounded_from_both_sides(name):
    X, Y, net, end = network(name)
    enc, flow = relu.enclose(X, Y, net, t_max=end), FLOWS[name]
    first = mpmath.mpf(flow["losses"][0])
    for t, loss in list(zip(flow["times"], flow["losses"], strict=True))[1:-1]:
        low, high = enc.time_bounds(float(mpmath.mpf(loss) / first))
        assert low <= t * (1 + 1e-12) and t * (1 - 1e-12) <= high <= low * (1 + 1e-6)


def test_the_stored_flows_are_those_of_the_judge():
    (X, Y, U, V, _, s), end = CASES["boundary"]
    judge = Judge(X, Y, U, V, s, end)
    with mpmath.workdps(40):
        assert mpmath.almosteq(judge.loss(end), mpmath.mpf(FLOWS["boundary"]["losses"][-1]), 1e-25)


def run_from(X, Y, net, radius, end):
    """A march that begins with a radius."""
    march = PatternMarch(Data(regression(X, Y, net), net))
    march.radius = radius
    result, reason, steps = enclose_flow(march, None, end, 100, None)
    return march, result, reason, steps


def apart(net, changed, X, Y, end):
    """How far two exact flows are apart at the end."""
    a, b = (Judge(X, Y, n.extended, n.V, n.slope, end).weights(end) for n in (net, changed))
    return float(mpmath.sqrt(sum(x * x for p, q in zip(a, b, strict=True) for x in (p - q).ravel())))


def test_a_concave_kink_parts_solutions_by_the_ratio_of_the_speeds_and_a_convex_one_by_nothing():
    """One sample, one neuron: with slope s, the speed changes by the factor 1/s, and so does a small distance."""
    X, Y = np.array([[1.0]]), np.array([[9.0]])
    for s in (0.5, 0.125):
        net = relu.Network([[-0.01]], [[1.0]], None, s)
        end = 0.0012 / s
        march, result, _, _ = run_from(X, Y, net, 1e-7, end)
        assert result == "time limit reached" and [(t.before, t.after) for t in march.turns] == [(-1, 1)]
        seen = apart(net, relu.Network([[-0.01 - 1e-7]], [[1.0]], None, s), X, Y, end)
        assert 0.9 / s < seen / 1e-7 <= march.radius / 1e-7 < 1.1 / s
    net = relu.Network([[0.01]], [[1.0]], None, 0.125)
    march, _, _, _ = run_from(X, -Y, net, 1e-7, 0.005)
    assert [(t.before, t.after) for t in march.turns] == [(1, -1)]
    assert march.radius < 1.1e-7


def test_a_start_from_which_two_solutions_part_is_refused_and_one_that_leaves_0_is_not():
    """Sample 0 of the neuron is at 0 with a negative pull: it is pushed up if on, and down if off."""
    X, Y = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[2.0], [0.0]])
    enc = relu.enclose(X, Y, relu.Network([[0.0], [1.0]], [[1.0]]), until=1e-3)
    assert enc.result == "proof ended" and enc.steps == () and enc.end == 0
    assert "neuron 0 starts at 0 on sample 0" in enc.reason and "two solutions" in enc.reason
    assert "pull (R v_j)_i is -2, the radius 0" in enc.reason and "a small positive slope" in enc.reason
    assert enc.certificate is None and enc.certificate_reason == "nothing is enclosed"
    with pytest.raises(ValueError, match="nothing is enclosed"):
        enc.gap_bounds(0.0)
    # With a slope of 0.75 both sides push up.
    enc = relu.enclose(X, Y, relu.Network([[0.0], [1.0]], [[1.0]], None, 0.75), t_max=0.05)
    assert enc.result == "time limit reached" and enc.network_at(0.05).preactivations(X)[0, 0] > 0


def test_a_dead_neuron_at_0_that_may_wake_ends_the_proof_and_is_named():
    """Off on all samples, at 0 on one: it rests as long as the pull is positive, then it may rest or wake."""
    rng = np.random.default_rng(10)
    X, Y = np.round(rng.standard_normal((3, 2)), 3), np.round(rng.standard_normal((3, 1)), 3)
    net = relu.Network(np.round(rng.standard_normal((2, 3)), 3), np.round(rng.standard_normal((3, 1)), 3))
    enc = relu.enclose(X, Y, net, t_max=4.0)
    assert enc.result == "proof ended" and "neuron 0 is held at 0 on sample 0 and may stay" in enc.reason
    rest = [f for f in enc.flips if (f.neuron, f.sample) == (0, 0)]
    assert len(rest) == 1 and rest[0].high == math.inf and rest[0].after == "off"
    # The pull on the pair is 0 at the end.
    end = enc.network_at(enc.end)
    pull = ((end.outputs(X) - Y) @ end.V.T)[0, 0]
    assert abs(pull) < 1e-9 and abs(end.preactivations(X)[0, 0]) < 1e-12


def test_a_crossing_without_a_proved_speed_names_its_pair_and_time(monkeypatch):
    """The crossing of sample 2 by neuron 3 that the judge's first case has, if no speed were known."""
    X, Y, net, end = network("leaky, crossings")
    whole = relu.enclose(X, Y, net, t_max=end)
    monkeypatch.setattr(Neuron, "speed", lambda *_: 0.0)
    enc = relu.enclose(X, Y, net, t_max=end)
    turn = next(turn for turn in whole.turns if turn.t >= enc.end)
    said = f"neuron {turn.neuron} comes to 0 on sample {turn.sample} at t = {turn.t:.6g} and is not proved to cross"
    assert enc.result == "proof ended" and said in enc.reason


def test_what_never_moves_and_what_leaves_float64_is_said():
    X, Y, net, _ = network("plain")
    zero = relu.Network(0 * net.U, 0 * net.V)
    for kind in ({}, {"algorithm": "descent", "step_size": 0.1}):
        assert "nothing moves" in relu.enclose(X, Y, zero, until=0.5, **kind).reason
        for data in ((1e200 * X, Y, net), (X, 1e250 * Y, net), (X, Y, relu.Network(1e200 * net.U, 1e200 * net.V))):
            enc = relu.enclose(*data, until=0.5, **kind)
            assert enc.result == "proof ended" and "leaves float64; rescale" in enc.reason
    assert "nothing moves" in relu.enclose(0 * X, Y, net, until=0.5).reason


def test_sliding_neighbours_of_a_crossing_are_proved_to_slide(monkeypatch):
    X, Y, net = sliding_start()
    assert relu.enclose(X, Y, net, t_max=1.2).result == "time limit reached"
    monkeypatch.setattr(Neuron, "_settled", lambda self, *_: (np.zeros(len(self.held)), 0.0, 0.0))
    assert relu.enclose(X, Y, net, t_max=1.2).result == "proof ended"


def sliding_start():
    """A start with a concave crossing of a neuron that slides on another sample."""
    rng = np.random.default_rng(18)
    N, d, h = int(rng.integers(3, 9)), int(rng.integers(2, 9)), int(rng.integers(4, 25))
    m, s = int(rng.choice([1, 1, 2])), float(rng.choice([0, 0, 0.1]))
    X, Y = rng.standard_normal((N, d)) / d**0.5, rng.standard_normal((N, m))
    U, V = rng.standard_normal((d, h)), rng.standard_normal((h, m)) / h**0.5
    return X, Y, relu.Network(U, V, None if rng.random() < 0.5 else np.zeros(h), s)


def test_the_result_answers_like_other_enclosures():
    X, Y, net, _ = network("plain")
    done = []
    enc = relu.enclose(X, Y, net, until=1e-2, progress=done.append)
    assert enc.result == "target proved" and enc.reason == "" and done and done[-1] <= 1
    low, high = enc.time_bounds([0.1, 1e-2])
    assert np.all(low <= high) and np.all(high <= low * (1 + 1e-7))
    assert enc.time_bounds(1e-9) == (enc.end, math.inf)
    assert enc.t[0] == 0 and len(enc.t) == len(enc.radius) == len(enc.steps) + 1
    assert [type(x) for x in enc.gap_bounds(enc.t[:2])] == [np.ndarray, np.ndarray]
    data = json.loads(json.dumps(enc.to_dict()))
    assert data["slope"] == 0 and data["bias"] is False and len(data["flips"]) == len(enc.flips)
    assert data["time_to"]["1e-02"] == [low[1], high[1]]
    assert repr(enc).startswith("Enclosure(target proved, t = ") and repr(enc).endswith("3 flips)")
    with pytest.raises(ValueError, match="enclosed up to"):
        enc.network_at(2 * enc.end)
    with pytest.raises(ValueError, match="t is"):
        enc.radius_at(-1.0)
    few = relu.enclose(X, Y, net, max_steps=3)
    assert few.result == "step limit reached" and "raise max_steps" in few.reason and len(few.steps) == 3
    with pytest.raises(ValueError, match="until"):
        relu.enclose(X, Y, net, until=2.0)


def test_the_rate_for_ever_holds_on_a_longer_run():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((4, 8)) / 8**0.5, rng.standard_normal(4)
    net = relu.paired((8, 30, 1), 1.0, rng=0)
    early, late = relu.enclose(X, Y, net, until=1e-3), relu.enclose(X, Y, net, until=1e-8)
    after = early.certificate
    assert after is not None and after.rate > 0 and early.certificate_reason == ""
    for t in np.linspace(early.end, late.end, 9)[1:]:
        assert late.gap_bounds(t)[0] <= after.gap_at(t - early.end)
    assert after.gap_at(late.end - early.end) < 1.5 * late.gap_bounds(late.end)[1]


def balls():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        N, d, h = 4, (7 if seed % 2 else 3), 12
        X, Y = rng.standard_normal((N, d)), rng.standard_normal((N, 1 + seed % 3 // 2))
        yield rng, X, Y, relu.Network(rng.standard_normal((d, h)), rng.standard_normal((h, Y.shape[1])), None, 0.1)


def test_a_start_that_is_known_up_to_a_radius_holds_for_the_whole_ball():
    r = 0.01
    for rng, X, Y, net in balls():
        start = Start.of(regression(X, Y, net), net, r)
        a = 2.0**start.weight_power
        x, scale = 2.0**start.input_power, 2.0**start.weight_power
        U, V = net.U, net.V
        first = Mover(start).at(0.0)
        floor = Floor(start).at(first)
        for _ in range(30):
            i, j = int(rng.integers(len(X))), int(rng.integers(net.width))
            dU, dV = np.zeros_like(U), np.zeros_like(V)
            dU[:, j] = r * X[i] / np.linalg.norm(X[i]) * rng.choice([-1, 1])
            moved = (X @ (U + dU) - X @ U)[i, j] / (x * a)
            assert abs(moved) <= start.z_error[i, j] * (1 + 1e-12)
            dV[j] = r * V[j] / np.linalg.norm(V[j])
            assert np.linalg.norm(V[j] + dV[j]) / a <= start.sizes[0][j] * (1 + 1e-12)
            assert np.linalg.norm(U[:, j] + r * U[:, j] / np.linalg.norm(U[:, j])) / a <= start.row_space_sizes[0][
                j
            ] * (1 + 1e-12) or X.shape[1] > len(X)
            assert first.second[j] >= r / a * (1 - 1e-12)
            if Y.shape[1] == 1:
                assert first.second_floor[j] <= (abs(V[j, 0]) - r) ** 2 / a**2 + 1e-12
            e = [rng.standard_normal(U.shape), rng.standard_normal(V.shape)]
            size = math.hypot(*(float(np.linalg.norm(x)) for x in e)) / r
            U2, V2 = U + e[0] / size, V + e[1] / size
            R = np.where(X @ U2 > 0, X @ U2, net.slope * (X @ U2)) @ V2 - Y
            assert np.linalg.norm(R) / (x * a * a) <= start.residual
            least = np.linalg.eigvalsh(reference.H(X, U2, V2, reference.slopes(X, U2, net.slope), net.slope))[0]
            assert floor * (x * scale) ** 2 <= least * (1 + 1e-9)


def test_a_larger_radius_gives_a_smaller_rate():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((4, 8)) / 8**0.5, rng.standard_normal(4)
    net = relu.paired((8, 60, 1), 2.0, rng=0)
    problem = regression(X, Y, net)
    floors = []
    for r in (0.0, 1e-4, 1e-2):
        start = Start.of(problem, net, r)
        floors.append(Floor(start).at(Mover(start).at(0.0)))
    assert floors[0] > floors[1] > floors[2]


def test_turns_do_not_go_on_for_ever(monkeypatch):
    X, Y, net, _ = network("plain")
    march = PatternMarch(Data(regression(X, Y, net), net))
    event = Passing(0.0, [(0, 0, 0)], np.ones(1), np.ones(1))
    monkeypatch.setattr(pattern_march, "first_event", lambda *_: event)
    monkeypatch.setattr(PatternMarch, "_turn", lambda *_: True)
    assert march.advance() is None and "again and again" in march.trouble
    monkeypatch.setattr(PatternMarch, "_turn", lambda *_: False)
    assert march.advance() is None and "is not clear" in march.trouble
