"""How a gap goes down from level to level, piece by piece, with numbers set by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates import step_bounds
from linflow.certificates.setting import Setting
from linflow.certificates.step_bounds import DescentBounds, Held, LevelStepCurve, _positive_part, follow

LEVELS, D = np.array([4.0, 1.0]), np.array([0.5, 0.25])


def near(x):
    return pytest.approx(x, rel=1e-13, abs=0)


def test_a_piece_ends_at_its_end():
    rows = []
    assert follow(LEVELS, D, 4.0, 0, 3, rows) == near(0.75) and [r[0] for r in rows] == [0]
    assert follow(LEVELS, D, 4.0, 3, 3, rows) == 4.0 and len(rows) == 1
    assert follow(LEVELS, D, 0.5, 3, 5, rows) == near(0.5 * 0.75**2) and rows[1:] == [(3, 0.5, 0.25)]
    assert follow(LEVELS, D, 4.0, 3, 4, []) == near(2.0)


def test_a_gap_of_1_is_a_gap_like_others():
    rows = []
    follow(np.array([1.0, 0.25]), D, 1.0, 0, None, rows)
    assert [r[2] for r in rows] == [0.5, 0.25]


def test_a_decrease_too_small_to_count_keeps_the_gap():
    slow = np.array([1e-320, 0.5])
    assert follow(LEVELS, slow, 4.0, 0, None, []) == 4.0 == follow(LEVELS, slow, 4.0, 3, 5, [])


def test_a_level_is_kept_for_one_step_at_least_and_the_first_gap_takes_none():
    curve = LevelStepCurve.of(LEVELS, D, 0.1)
    assert curve.steps(4.0) == 0 and curve.steps(np.nextafter(4.0, 0.0)) == 1


def test_a_step_lowers_a_gap_by_no_more_than_all_of_it():
    held = Held(0.5, 0.0, 1.0, np.ones(2), np.array([1.0, 1.0]), np.array([100.0, 0.001]))
    assert held.decreases(2.0)[0] == 1.0 and held.decreases(2.0)[1] == pytest.approx(0.75e-3, rel=1e-8, abs=0)


def test_two_floors_above_0_are_enough_for_a_ball():
    radii = np.array([0.0, 1.0, 2.0])
    found = _positive_part(SimpleNamespace(radii=radii, floors=np.array([2.0, 1.0, 0.0])))  # pyright: ignore
    assert [list(x) for x in found] == [[0.0, 1.0], [2.0, 1.0]]
    for around in (None, SimpleNamespace(radii=radii, floors=np.array([2.0, 0.0, 0.0]))):
        assert [x.size for x in _positive_part(around)] == [0, 0]  # pyright: ignore


# --- floors within a drift -----------------------------------------------------------------------------------------


class Rule:
    """A theorem that notes what it is asked, and says a number, or one for each imbalance."""

    def __init__(self, value, reason=None):
        self.value, self.asked = value, []
        self.hypothesis = lambda inv: reason

    def evaluate(self, inv):
        self.asked.append([(D.lower[-1], D.upper[0]) for D in inv.spectra])
        return self.value + np.zeros(np.broadcast_shapes(inv.sigma_min.shape, inv.spectra[0].lower.shape[1:]))


def bounds_of(widths, theorems, scale=0.5):
    net = lf.Network(lf.init.gaussian(widths, rng=3).weights, scale)
    return DescentBounds(Setting(lf.MatrixFactorization(net.product() + 0.01), net, "descent"), theorems)


@pytest.mark.parametrize(("widths", "drift"), [((2, 3, 2), 0.25), ((2, 3, 2), 0.0), ((2, 3, 3, 2), 0.25)])
def test_only_two_layers_share_their_drift(widths, drift):
    """Then the cells cover all `(a_1, a_2)`, and the floor is the least over the cells, for each level."""
    shared = len(widths) == 3 and drift > 0
    rule = Rule(2.0 + np.abs(np.arange(step_bounds.CELLS) - 1.0)[:, None] if shared else 2.0)
    bounds = bounds_of(widths, [rule])
    count = 3
    assert bounds.alphas(drift, count).tolist() == [near(0.25 * 2.0)] * count
    known = [(D.lower[-1], D.upper[0]) for D in bounds.invariants.spectra]
    (asked,) = rule.asked
    parts = step_bounds.CELLS if shared else 1
    for (low, high), (least, most) in zip(known, asked, strict=True):
        assert np.shape(least) == np.shape(most) == ((parts, 1) if shared else ())
        for i in range(parts):
            assert np.ravel(least)[i] == low - (drift * (i + 1) / parts if shared else drift)
            assert np.ravel(most)[i] == high + (drift * (1 - i / parts) if shared else drift)


def test_floors_come_from_what_applies(monkeypatch):
    program, other, wrong = Rule(9.0), Rule(2.0), Rule(99.0, "a reason")
    monkeypatch.setattr(step_bounds, "OPERATOR_INTERVAL", program)
    bounds = bounds_of((2, 3, 3, 2), [program, other, wrong])
    assert bounds.alphas(0.1, 1).tolist() == [near(0.5)] and not program.asked and not wrong.asked
    assert bounds.alphas(0.1) == near([0.25 * 9] * len(bounds.levels)) and len(program.asked) == 1


def test_no_floor_is_looked_for_beyond_a_drift_that_has_none():
    """The weights within a drift are among those within a larger one, and 0 bounds every least eigenvalue."""
    rule = Rule(0.0)
    bounds = bounds_of((2, 3, 3, 2), [rule])
    for drift, value, floor, asked in (
        (0.25, 2.0, 0.5, 1),
        (0.5, 0.0, 0.0, 1),
        (0.5, 2.0, 0.0, 0),
        (0.75, 2.0, 0.0, 0),
        (0.375, 2.0, 0.5, 1),
        (0.125, 0.0, 0.0, 1),
        (0.25, 2.0, 0.0, 0),
        (0.0, 2.0, 0.5, 1),
    ):
        rule.value = value
        rule.asked.clear()
        assert bounds._start(drift)[1].min() == near(floor)
        assert len(rule.asked) == asked, drift


def test_balls_have_the_better_of_two_floors():
    bounds = bounds_of((2, 9, 2), [Rule(0.0)])
    assert len(bounds.radii) > 2
    assert bounds.floors.tolist() == [*bounds._floors[bounds._chosen], 0.0]
    for value in (1e9, 0.5 * float(bounds._floors[0]) / 0.25, 0.0):
        bounds.theorems = [Rule(value)]
        alpha = bounds._start(0.1)[1]
        assert alpha == near([max(x, 0.25 * value) for x in bounds.floors])
    beta, alpha, limit = bounds._start(0.1, floors=False)
    assert beta.shape == alpha.shape == limit.shape == (1,) and alpha[0] == 0.0 and limit[0] == math.inf


def test_the_path_inside_a_ball_counts_the_floor_at_the_start():
    bounds = bounds_of((2, 9, 2), [Rule(0.0)])
    asked = []
    original = bounds._reach
    bounds._reach = lambda alpha: asked.append(alpha) or original(alpha)
    bounds.alphas = lambda drift, count=None: np.linspace(0.5, 0.75, len(bounds.levels))
    beta, _, _ = bounds._start(0.0)
    asked.clear()
    bounds._held(1e-3, 0.0, -2, beta)
    assert asked == [0.5]


# --- the search for a step -----------------------------------------------------------------------------------------


def golden(score):
    """The best of a grid, of eight golden sections of what lies beside it, and of all that was asked."""
    grid = np.linspace(-4.0, 3.0, 11)
    found = {float(x): score(float(x)) for x in grid}
    i = int(np.argmax([v[0] for v in found.values()]))
    a, b, ratio = float(grid[max(i - 1, 0)]), float(grid[min(i + 1, 10)]), (math.sqrt(5) - 1) / 2
    x, y = b - ratio * (b - a), a + ratio * (b - a)
    order = [*found, x, y]
    for _ in range(8):
        if score(x)[0] >= score(y)[0]:
            b, y, x = y, x, y - ratio * (y - a)
            order.append(x)
        else:
            a, x, y = x, y, x + ratio * (b - x)
            order.append(y)
    return order


@pytest.mark.parametrize("top", [-3.9, -3.0, -1.23, 0.4, 2.2, 2.95])
def test_a_scan_narrows_down_to_the_largest_value(top):
    def score(x):
        return -((x - top) ** 2), x

    asked: list[float] = []
    best = step_bounds.scan(lambda x: asked.append(float(x)) or score(x))
    np.testing.assert_allclose(asked, golden(score), rtol=1e-12, atol=1e-12)
    assert best == max(score(x) for x in asked) and abs(best[1] - top) < 0.03
