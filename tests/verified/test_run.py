"""How a verified run ends, and within which limits it is made."""

import importlib
import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.verified import run
from linflow.verified.arithmetic import FIRST_PAIRS, FLOAT64, PAIRS
from linflow.verified.declared_march import ACCURACY
from linflow.verified.flow import _done, enclose_flow
from linflow.verified.march import rounded_up
from linflow.verified.run import descent_and_flow
from tests.verified.test_declared import declared

attempts = importlib.import_module("linflow.verified.attempt")  # the name is the function's, too
F = lf.MatrixFactorization(np.array([[2.0]]))
NET = lf.Network([np.array([[1.0]]), np.array([[0.5]])])


class Scripted:
    """A march of which every gap is given: one time unit a step."""

    def __init__(self, *gaps, first=None, stuck=None):
        self.gaps, self.stuck, self.t = list(gaps), stuck, 0.0
        self.gap = self.gaps[0]
        self.first = first or self.gap
        self.radius, self.exponent, self.trouble = 0.25, 3.0, "it was stuck"
        self.ends, self.hurried = [], []

    def hurry(self, factor):
        self.hurried.append(factor)

    def advance(self, end):
        self.ends.append(end)
        k = int(self.t) + 1
        if self.stuck == k:
            return None
        self.t, self.gap = float(k), self.gaps[min(k, len(self.gaps) - 1)]
        return f"step {k}"


def ended(march, until=None, end=math.inf, max_steps=9):
    seen = []
    result, reason, steps = enclose_flow(march, until, end, max_steps, seen.append)
    assert len(steps) == len(seen) and steps == tuple(f"step {k + 1}" for k in range(len(steps)))
    return result, reason, len(steps)


def test_a_flow_ends_past_its_target_so_that_its_time_is_bounded_from_both_sides():
    # 0.1 of the least that the initial gap may be, less a hundredth of it.
    assert ended(Scripted((8.0, 9.0), (0.8, 0.8), (0.79, 0.792)), until=0.1) == ("target proved", "", 2)
    assert ended(Scripted((8.0, 9.0), (0.79, 0.7921), (0.5, 0.5)), until=0.1) == ("target proved", "", 2)
    assert ended(Scripted((8.0, 9.0), (0.5, 0.5)), until=0.1) == ("target proved", "", 1)


def test_the_pace_is_looked_at_sixteen_times():
    falling = [(8.0 / 2**k, 8.0 / 2**k) for k in range(40)]
    march = Scripted(*falling)
    ended(march, until=2.0**-40, max_steps=32)  # a part has two steps
    rest = [(40 - k + math.log2(1 / 0.99)) / 2 for k in range(2, 33, 2)]  # in parts
    expected = [1.5 * 2 * x / max(1, 32 - k) for x, k in zip(rest, range(2, 33, 2), strict=True)]
    assert march.hurried == pytest.approx(expected, rel=1e-12, abs=0)
    # The end of the time may be nearer, and without a target it alone counts.
    for until in (2.0**-40, None):
        march = Scripted(*falling)
        ended(march, until=until, end=7.0, max_steps=16)
        assert march.hurried == [1.5 * (7 - k) / (16 - k) for k in range(1, 8)]
    # Where the gap does not fall, it never gets there. One step is a part if there are few.
    march = Scripted((8.0, 8.0), (8.0, 8.0), (9.0, 9.0), (4.0, 4.0))
    ended(march, until=1e-3, max_steps=3)
    assert march.hurried[:2] == [math.inf] * 2 and math.isfinite(march.hurried[2])
    march = Scripted((8.0, 8.0), (8.0, math.nan), (math.nan, math.nan), (4.0, 4.0))
    ended(march, until=1e-3, max_steps=3)
    assert march.hurried[:2] == [math.inf] * 2


def test_a_flow_ends_at_its_limits():
    falling = [(8.0 / 2**k, 8.0 / 2**k) for k in range(12)]
    march = Scripted(*falling)
    assert ended(march, end=3.0) == ("time limit reached", "", 3) and march.ends == [3.0] * 3
    result, reason, steps = ended(Scripted(*falling), max_steps=4)
    assert (result, steps) == ("step limit reached", 4)
    assert reason == "verified to t = 4, gap 0.062 of the initial one: 4 steps were taken; raise max_steps"
    for first in ((8.0, 9.0), (0.5, 9.0)):
        result, reason, steps = ended(Scripted(*falling, stuck=3, first=first))
        assert reason == f"verified to t = 2, gap {2 / first[0]:.2g} of the initial one: it was stuck"
    result, reason, steps = ended(Scripted(*falling, stuck=3))
    assert (result, steps) == ("proof ended", 2)
    assert reason == "verified to t = 2, gap 0.25 of the initial one: it was stuck"
    # A first gap that may be 0 has no fractions. Without a target that is no reason to stop.
    for first in ((0.0, 2.0), (-1.0, 2.0)):
        result, reason, steps = ended(Scripted((0.5, 2.0), first=first), until=0.5)
        assert (result, steps) == ("proof ended", 0) and "at the optimum to rounding" in reason
        assert reason.startswith("verified to t = 0, gap 1 of the initial one")
        assert ended(Scripted((0.5, 2.0), first=first), end=2.0) == ("time limit reached", "", 2)
    assert ended(Scripted((0.5, 2.0), (0.1, 0.1), first=(0.5, 2.0)), until=0.5)[0] == "target proved"


def test_a_flow_ends_where_its_bounds_are_too_far_apart():
    # Of the upper bound, the half is still of use; of the initial gap more is, and without a target everything.
    assert ended(Scripted((1.0, 8.0), (2.0, 4.0), (0.09, 0.09)), until=0.1) == ("target proved", "", 2)
    result, reason, steps = ended(Scripted((1.0, 8.0), (1.99, 4.0), (0.09, 0.09)), until=0.1)
    assert (result, steps) == ("proof ended", 1)
    assert "the radius, 0.25, is too large" in reason and "grown by e^3" in reason
    assert ended(Scripted((1.0, 8.0), (0.0, 4.0)), end=2.0) == ("time limit reached", "", 2)


@pytest.mark.parametrize(
    ("t", "gap", "until", "end", "fraction"),
    [
        (3.0, 4.0, None, 12.0, 0.25),
        (3.0, 4.0, None, math.inf, 0.0),
        (13.0, 4.0, None, 12.0, 1.0),
        (0.0, 0.08, 1e-4, math.inf, 0.5),  # of the upper bounds, in their logarithms
        (3.0, 0.08, 1e-4, 12.0, 0.5),
        (9.0, 0.08, 1e-4, 12.0, 0.75),
        (0.0, 8e-8, 1e-4, math.inf, 1.0),
        (3.0, 8.0, 1e-4, 12.0, 0.25),
        (3.0, 9.0, 1e-4, 12.0, 0.25),
        (3.0, 0.0, 1e-4, 12.0, 0.25),
    ],
)
def test_what_is_done_is_told_by_time_or_by_the_gap(t, gap, until, end, fraction):
    march = SimpleNamespace(t=t, gap=(gap / 2, gap), first=(4.0, 8.0))
    assert _done(march, until, end) == pytest.approx(fraction, rel=1e-14)


# --- lf.enclose ----------------------------------------------------------------------------------------------------


def test_times_are_rounded_up_to_24_digits():
    for t in (1.0, 0.7, 1e-30, 3e7 + 0.5, 2.0**24 - 1, 2.0**24 + 1):
        found = rounded_up(t)
        digits = math.frexp(found)[0] * 2**24
        assert t <= found <= t * (1 + 2.0**-23) and digits == int(digits)
    assert rounded_up(1.0) == 1.0 and rounded_up(2.0**24 - 1) == 2.0**24 - 1
    assert rounded_up(1 + 2.0**-30) == 1 + 2.0**-23 and rounded_up(math.inf) == math.inf


@pytest.fixture
def asked(monkeypatch):
    """What the loops are asked for: of a flow (until, end, max_steps), of a descent (until, steps)."""
    seen = []

    def of_flow(march, until, end, max_steps, progress):
        seen.append((until, end, max_steps))
        return "step limit reached", "", ()

    def of_descent(march, until, steps, progress, iterates=None):
        seen.append((until, steps))
        if iterates is not None:
            iterates.append(march.weights)
        return "all steps done", "", np.zeros((2, 6)), np.zeros(6)

    monkeypatch.setattr(run, "enclose_flow", of_flow)
    monkeypatch.setattr(run, "enclose_descent", of_descent)
    return seen


def test_what_is_not_given_is_a_millionth_or_no_target_where_time_or_steps_are(asked):
    for given, expected in (
        ({}, (1e-6, math.inf, 5000)),
        ({"until": 0.1}, (0.1, math.inf, 5000)),
        ({"t_max": 3.0}, (None, 3.0, 5000)),
        ({"t_max": 3.0, "until": 0.1, "max_steps": 7}, (0.1, 3.0, 7)),
        ({"t_max": 0.7}, (None, rounded_up(0.7), 5000)),
        ({"algorithm": "descent", "step_size": 0.1}, (1e-6, 100_000)),
        ({"algorithm": "descent", "step_size": 0.1, "steps": 7}, (None, 7)),
        ({"algorithm": "descent", "step_size": 0.1, "steps": 7, "until": 0.1}, (0.1, 7)),
    ):
        lf.enclose(F, NET, **given)
        assert asked.pop() == expected and not asked


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"algorithm": "flow", "step_size": 0.1}, "step_size is 0.1, an argument of the descent"),
        (
            {"algorithm": "flow", "steps": 3},
            'steps is 3, an argument of the descent; omit it or say algorithm="descent"',
        ),
        ({"algorithm": "descent", "step_size": 0.1, "t_max": 2.0}, "t_max is 2.0, an argument of the flow"),
        ({"algorithm": "descent"}, "neither of step_size and schedule given"),
        (
            {"algorithm": "descent", "step_size": 0.1, "schedule": lf.schedules.backtracking()},
            "both of step_size and",
        ),
        ({"schedule": lf.schedules.backtracking()}, "an argument of the descent"),
    ],
)
def test_arguments_of_the_other_algorithm_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        lf.enclose(F, NET, **given)


@pytest.mark.parametrize(
    ("result", "exponent", "tried"),
    [("proof ended", 8.5, 2), ("proof ended", 8.0, 1), ("proof ended", 7.5, 1), ("target proved", 8.5, 1)],
)
def test_a_proof_that_magnifies_by_more_than_eight_is_tried_again_with_twice_the_digits(
    monkeypatch, result, exponent, tried
):
    """By e⁸ and more; and only where the gradient has no error of its own and the start is exact."""
    seen = []

    def ends(march, *given):
        seen.append((march.arithmetic, march.radius, given[:3]))
        march.exponent = exponent
        return result, "", ()

    monkeypatch.setattr(run, "enclose_flow", ends)
    lf.enclose(F, NET, until=0.1, t_max=0.7, max_steps=3)
    assert [x[0] for x in seen] == [FLOAT64, PAIRS][:tried]
    assert all(x[1:] == (0.0, (0.1, rounded_up(0.7), 3)) for x in seen)
    seen.clear()
    lf.enclose(lf.LinearRegression(np.eye(1) / 4, np.eye(1)), NET)
    assert [x[0] for x in seen] == [FLOAT64, PAIRS][:tried]
    seen.clear()
    lf.enclose(lf.Quadratic(np.eye(1), C=np.eye(1)), NET)
    lf.enclose(F, [np.ones((1, 3)) / 4, np.ones((3, 1))])  # narrowed: its radius is above 0
    assert [x[0] for x in seen] == [FLOAT64] * 2 and seen[1][1] > 0


def ending(monkeypatch, result, gaps, length=1.0, bounds=(8.0, 8.0)):
    """Let every run end so, with these bounds of the gap at the ends of its last steps; collect what is asked for."""
    seen, asked = [], []

    def ends(march, *given):
        seen.append(march.arithmetic)
        march.exponent = 8.5
        return result, "", tuple(SimpleNamespace(gap=gap, length=length, exponent=0.0) for gap in gaps)

    monkeypatch.setattr(run, "enclose_flow", ends)
    monkeypatch.setattr(run.Enclosure, "end", 8.0)
    monkeypatch.setattr(run.Enclosure, "time_bounds", lambda self, until: asked.append(until) or bounds)
    lf.enclose(F, NET, until=0.1)
    return seen, asked


@pytest.mark.parametrize(
    ("result", "bounds", "tried"),
    [
        ("target proved", (7.9983, 8.0), 2),
        ("target proved", (7.9985, 8.0), 1),
        ("step limit reached", (7.9983, 8.0), 1),
    ],
)
def test_a_loose_proof_is_tried_again_with_twice_the_digits(monkeypatch, result, bounds, tried):
    """Where the bounds of the time of its target are more than 2·10⁻⁴ of it apart."""
    # Without steps, with one, and without a pace.
    for gaps in ((), [(1.0, 2.0)], [(1.9999, 2.0), (1.9999, 2.0)], [(1.0, 2.0), (1.0, 3.0)]):
        seen, asked = ending(monkeypatch, result, gaps, bounds=bounds)
        assert seen == [FLOAT64, PAIRS][:tried]
        # Of the proof in float64, twice if there is another one, and of that.
        assert asked == [0.1] * ((3 if tried == 2 else 1) if result == "target proved" else 0)


def test_a_time_is_loose_by_more_below_a_millionth():
    steps = [SimpleNamespace(gap=(1.0, 4.0), length=0.5)]
    for until, loose in ((1e-2, 2e-4), (1e-6, 2e-4), (0.99e-6, 2e-3), (1e-10, 2e-3)):
        assert run._loose(until) == loose
        for part, share in ((1.0, 1.0), (0.5, 0.5)):
            for factor in (0.999, 1.001):
                times = 8.0 * (1 - factor * share * loose), 8.0
                found = SimpleNamespace(
                    result="target proved", steps=steps, time_bounds=lambda until, times=times: times
                )
                assert run._poor(found, until, part) == (factor > 1)
                assert run._poor(found, until) == (factor > 1 and part == 1)


@pytest.mark.parametrize(
    ("result", "bounds", "until", "factor"),
    [
        ("target proved", (7.0, 8.0), 0.1, 60 * 0.125 / 2e-4),  # as loose as this
        ("target proved", (7.9, 8.0), 0.1, 60 * 0.0125 / 2e-4),
        ("proof ended", (7.0, 8.0), 0.1, 3e7),
        ("target proved", (7.0, 8.0), None, 3e7),
        ("target proved", (7.0, 8.0), 1e-7, 60 * 0.125 / 2e-3),
    ],
)
def test_a_path_is_in_pairs_until_a_disturbance_has_grown_enough(result, bounds, until, factor):
    """By 60 times the factor by which a proof in float64 is too loose."""
    for share, place in ((0.999, 2), (1.001, 1), (2.1, 0)):  # of the growth over two steps
        part = share * math.log(factor) / 2
        steps = [SimpleNamespace(t=t, length=0.5, exponent=part) for t in (0.0, 0.5, 1.0)]
        found = SimpleNamespace(result=result, time_bounds=lambda until: bounds, steps=steps)
        assert run._coarse_from(found, until) == 0.5 * (place + 1)
    few = SimpleNamespace(result=result, time_bounds=lambda until: bounds, steps=steps[:0])
    assert run._coarse_from(few, until) == math.inf


@pytest.mark.parametrize("enough", [False, True])
@pytest.mark.parametrize("early", ["proof ended", "target proved"])
def test_pairs_are_used_for_a_part_of_a_path_first(monkeypatch, enough, early):
    """Then for all of it, if that is not enough. What the proof in float64 reached is not given up."""
    seen, asked = [], []

    def ends(march, *given):
        seen.append((march.arithmetic, march.coarse_from))
        march.exponent = 8.5
        result = early if len(seen) == 1 or enough else "proof ended"
        return result, f"run {len(seen)}", (SimpleNamespace(t=0.25, length=0.5, exponent=20.0, gap=(1.0, 2.0)),)

    def poor(found, until, part=1.0):
        asked.append((len(seen), part))
        return not (enough and len(seen) == 2)

    monkeypatch.setattr(run, "enclose_flow", ends)
    monkeypatch.setattr(run, "_poor", poor)
    monkeypatch.setattr(run.Enclosure, "time_bounds", lambda self, until: (7.0, 8.0))
    found = lf.enclose(F, NET, until=0.1)
    assert seen == [(FLOAT64, math.inf), (FIRST_PAIRS, 0.75), (PAIRS, math.inf)][: 2 if enough else 3]
    assert (
        asked == [(1, 1.0), (2, 0.5), (3, 0.5)][: len(seen)]
    )  # a path in pairs must be sharper than that in float64
    better = f"run {len(seen)}" if enough or early == "proof ended" else "run 1"
    assert found.reason == better


def test_the_time_of_a_target_is_not_asked_for_where_its_gap_is_known_well_enough(monkeypatch):
    """At its pace, a gap that falls by log 2 in the last step, 0.5 long, loses 1.6·10⁻³ log 2 in 8·10⁻⁴."""
    part = 2e-4 * 8 * math.log(2) / 0.5
    for factor, known in ((1 - 1e-9, True), (1 + 1e-9, False)):
        gaps = [(0.39, 0.4), (0.2 * (1 - factor * part), 0.2)]
        for before in ([], [(0.9, 0.9)]):
            seen, asked = ending(monkeypatch, "target proved", before + gaps, length=0.5)
            assert seen == [FLOAT64] and asked == ([] if known else [0.1])
    assert ending(monkeypatch, "target proved", [(1.0, 2.0), (0.0, 0.0)]) == ([FLOAT64], [])


@pytest.mark.parametrize("share", [-0.5, 0.0, 0.25, 1.0, 1.5])
def test_how_well_a_time_is_known_follows_from_the_gaps_around_the_target(share):
    """Their bounds are 10⁻³ apart before the last step, 4·10⁻³ after it, and between as the logarithm has fallen."""
    wide = 1e-3 * 4 ** min(max(share, 0.0), 1.0)
    until = 1e-2 * 16**-share / 4  # of 4; the gap falls from 10⁻² to a sixteenth of it
    for factor, poor in ((1 - 1e-9, True), (1 + 1e-9, False)):
        length = 0.5
        end = wide * length / (2e-4 * math.log(16)) * factor
        steps = [
            SimpleNamespace(gap=((1 - x) * gap, gap), length=length) for x, gap in ((1e-3, 1e-2), (4e-3, 1e-2 / 16))
        ]
        found = SimpleNamespace(
            result="target proved", steps=steps, end=end, first=(2.0, 4.0), time_bounds=lambda until: (7.0, 8.0)
        )
        assert run._poor(found, until) == poor


@pytest.mark.parametrize(
    ("result", "t", "tried"), [("proof ended", 0.25, 2), ("proof ended", 0.0, 1), ("target proved", 0.25, 1)]
)
def test_a_defect_is_made_smaller_by_as_much_as_the_radius_grew(monkeypatch, result, t, tried):
    """And by e more; only of declared objectives, and only where there was a first step."""
    f, seen = declared(lf.MatrixFactorization(np.ones((1, 1)))), []

    def ends(march, *given):
        seen.append(march.accuracy)
        march.t, march.exponent = t, 2.0
        return result, "", ()

    monkeypatch.setattr(run, "enclose_flow", ends)
    lf.enclose(f, NET, until=0.25)
    accuracy = ACCURACY * 0.5
    assert seen == pytest.approx([accuracy, accuracy * math.exp(-3.0)][:tried], rel=1e-14)


def test_a_loose_proof_is_kept_if_more_digits_take_too_many_steps(monkeypatch):
    ends = [("target proved", "proved", ()), ("step limit reached", "too short", ())]

    def ended(march, *given):
        march.exponent, march.gap = 8.5, (1.0, 2.0)
        return ends.pop(0)

    monkeypatch.setattr(run, "enclose_flow", ended)
    monkeypatch.setattr(run.Enclosure, "time_bounds", lambda self, until: (1.0, 2.0))
    enc = lf.enclose(F, NET, until=0.1)
    assert not ends and (enc.result, enc.reason) == ("target proved", "proved")


def test_a_descent_and_a_flow_are_enclosed_over_one_time(asked):
    descent_and_flow(F, NET, 0.25 / (1 + 1.5e-9), 0.1, 9, None)
    assert asked == [(0.1, 9), (None, 1.25, 5000)]  # 10⁻⁹ longer than five steps, but not more, and rounded up
    asked.clear()
    descent, iterates, enc = descent_and_flow(F, NET, 0.25, 0.1, 9, None)
    assert asked == [(0.1, 9), (None, rounded_up(5 * 0.25 * (1 + 1e-9)), 5000)]
    assert descent.steps == 5 and len(iterates) == 1 and enc.result == "step limit reached"


def test_a_descent_without_a_step_is_compared_over_the_time_of_one(monkeypatch, asked):
    monkeypatch.setattr(run, "enclose_descent", lambda *given: ("proof ended", "", np.zeros((2, 1)), np.zeros(1)))
    descent_and_flow(F, NET, 0.25, 0.1, 9, None)
    assert asked == [(None, rounded_up(0.25 * (1 + 1e-9)), 5000)]


# --- a proof within a budget ----------------------------------------------------------------------------------------


@pytest.fixture
def enclosed(monkeypatch):
    seen = []
    monkeypatch.setattr(attempts, "enclose", lambda f, net, **given: seen.append(given) or "proof")
    return seen


def wide(rows, inner):
    """A network of that many weights in each of two layers, of which the shapes alone are looked at."""
    return SimpleNamespace(weights=[SimpleNamespace(shape=(rows, inner)), SimpleNamespace(shape=(inner, rows))])


def test_an_attempt_at_a_flow_keeps_within_its_memory(enclosed):
    thousands = wide(1, 1500)  # 3000 weights: 2000 steps of 6 000 000
    for net, given, steps in (
        (NET, {}, 2000),
        (NET, {"max_steps": 7}, 7),
        (thousands, {"max_steps": 5000}, 2000),
        (thousands, {"max_steps": 1}, 1),
        (wide(1000, 3000), {}, 1),
        (SimpleNamespace(weights=[SimpleNamespace(shape=(1, 1))]), {"max_steps": 7_000_000}, 6_000_000),
    ):
        assert attempts.attempt(F, net, until=0.1, t_max=3.0, **given) == ("proof", "")
        assert enclosed.pop() == {"until": 0.1, "t_max": 3.0, "max_steps": steps, "progress": None}
    assert attempts.attempt(F, wide(1000, 3001), until=0.1) == (None, "6002000 weights are too many for a proof")
    assert attempts.attempt(F, NET, until=0.1, max_steps=0) == (None, "no steps were allowed for it")
    assert not enclosed


def test_an_attempt_at_a_descent_keeps_within_its_work(enclosed):
    many = wide(1, 60_000)  # 120 000 weights: 10 000 steps of 1.2·10⁹
    for net, given, steps in (
        (NET, {}, 4000),
        (NET, {"max_steps": 7}, 14),
        (NET, {"steps": 7}, 7),
        (NET, {"max_steps": 100_000}, 100_000),
        (many, {"max_steps": 100_000}, 10_000),
        (
            SimpleNamespace(weights=[SimpleNamespace(shape=(1, 1))]),
            {"max_steps": 10**9, "steps": 2 * 10**9},
            1_200_000_000,
        ),
    ):
        assert attempts.attempt(F, net, until=0.1, step_size=0.5, **given) == ("proof", "")
        expected = {"algorithm": "descent", "until": 0.1, "steps": steps, "progress": None}
        expected |= {"step_size": 0.5, "schedule": None}
        assert enclosed.pop() == expected
    rule = lf.schedules.backtracking()
    assert attempts.attempt(F, NET, until=0.1, schedule=rule) == ("proof", "")
    expected = {"algorithm": "descent", "until": 0.1, "steps": 4000, "progress": None, "step_size": None}
    assert enclosed.pop() == expected | {"schedule": rule}


def test_an_attempt_that_cannot_be_made_says_why(monkeypatch):
    def refuses(*args, **given):
        raise ValueError("it is not one of these.")

    monkeypatch.setattr(attempts, "enclose", refuses)
    assert attempts.attempt(F, NET, until=0.1) == (None, "it is not one of these")


@pytest.mark.parametrize(("until", "finer", "part"), [(None, 1.0, 1e-3), (1e-4, 0.5, 0.5e-2)])
def test_a_declared_flow_is_as_accurate_as_the_root_of_its_target(monkeypatch, until, finer, part):
    monkeypatch.setattr(run, "DeclaredMarch", lambda *given, accuracy: accuracy)
    problem, narrow = object.__new__(run.DeclaredGradient), SimpleNamespace(weights=[], radius=0.0)
    begun = run._Beginning(None, SimpleNamespace(scale=1.0), problem, narrow, ())
    assert begun._march(until, run.FLOAT64, finer) == pytest.approx(part * run.ACCURACY, rel=1e-14, abs=0)
