"""How a gap goes down from level to level, piece by piece, with numbers set by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from linflow.certificates.step_bounds import Held, LevelStepCurve, _positive_part, follow

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
