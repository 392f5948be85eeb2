"""The gap from the best rank that the widths allow, against exact singular values."""

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow.verified import rank_gap
from linflow.verified.rank_gap import above, rank_floor
from linflow.verified.rounding import UP, U


def trailing(Y, r):
    """Return `½ Σ_{i>r} σ_i²` to 40 digits."""
    with mpmath.workdps(40):
        M = mpmath.matrix([[mpmath.mpf(float(x)) for x in row] for row in Y])
        values = sorted(mpmath.eigsy(M * M.T, eigvals_only=True), reverse=True)
        return sum(values[r:]) / 2


@pytest.mark.parametrize("r", [1, 2])
def test_the_floor_holds_the_exact_one_and_the_gap_falls_to_it(r):
    Y = np.random.default_rng(3).standard_normal((3, 4))
    f, net = lf.MatrixFactorization(Y), lf.init.gaussian((3, r, 4), rng=1)
    enc = lf.enclose(f, net, t_max=0.5)
    low, high = enc.rank_floor
    true = trailing(Y, r)
    assert low <= true <= high and high / low < 1 + 1e-11
    gap, less = enc.gap_bounds([0.0, 0.5]), enc.rank_gap_bounds([0.0, 0.5])
    for k in range(2):
        assert less[0][k] <= float(gap[1][k] - true) and less[1][k] >= float(gap[0][k] - true) - 1e-15
        assert less[1][k] - less[0][k] <= (gap[1][k] - gap[0][k]) + 1e-11 * gap[1][k]
    assert less[1][1] < less[1][0] and enc.rank_gap_bounds(0.5)[1] == less[1][1]


@pytest.mark.parametrize("r", [1, 2])
def test_a_descent_has_the_same_floor_and_falls_to_it(r):
    Y = np.random.default_rng(3).standard_normal((3, 4))
    f, net = lf.MatrixFactorization(Y), lf.init.gaussian((3, r, 4), rng=1)
    enc = lf.enclose(f, net, algorithm="descent", step_size=0.05, steps=60)
    assert enc.rank_floor == lf.enclose(f, net, t_max=0.1).rank_floor
    true, (low, high), (less, more) = trailing(Y, r), enc.gap_bounds([0, 60]), enc.rank_gap_bounds([0, 60])
    for k in range(2):
        assert less[k] <= float(high[k] - true) and more[k] >= float(low[k] - true) - 1e-15
        assert 0 <= more[k] - less[k] <= (high[k] - low[k]) + 1e-11 * high[k]
    assert more[1] < 0.1 * more[0] and enc.rank_gap_bounds(60) == (less[1], more[1])
    X = lf.LinearRegression(np.eye(3) + 0.1, np.ones((3, 2)))
    with pytest.raises(ValueError, match="the least loss of rank 1 is known for MatrixFactorization"):
        lf.enclose(
            X, lf.init.gaussian((3, 1, 2), rng=0), algorithm="descent", step_size=0.1, steps=1
        ).rank_gap_bounds(0)


def test_the_gap_from_a_floor_is_rounded_outwards():
    # 1 − 10⁻¹² is taken from the lower end, and less than 1 − 10⁻¹² from the upper one.
    low, high = above((1.0, 1.0), 3.0, 3.0)
    assert 3.0 - UP - 1e-15 <= low < 2.0 < 2.0 + 1e-12 < high <= (2.0 + 1e-12) * UP + 3 * U + 1e-15
    low, high = above((1.0, 2.0), np.array([0.5, 5.0]), np.array([0.75, 5.0]))
    assert low.tolist() == [0.0, 5.0 - 2.0 * UP] and high[0] == 0.75 * U and 4.0 < high[1] < 4.0 + 1e-11


def test_at_the_best_rank_nothing_is_left():
    f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
    enc = lf.enclose(f, [np.array([[np.sqrt(3.0)], [0.0]]), np.array([[np.sqrt(3.0), 0.0]])], t_max=0.1)
    low, high = enc.rank_gap_bounds(0.1)
    # Three allowances of 10⁻¹² of a gap of ½.
    assert low == 0.0 < high < 2e-12 and enc.gap_bounds(0.1)[0] > 0.4


def test_without_a_bottleneck_it_is_the_gap():
    f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
    enc = lf.enclose(f, lf.init.gaussian((2, 3, 2), rng=0), t_max=0.1)
    assert enc.rank_floor == (0.0, 0.0)
    np.testing.assert_allclose(enc.rank_gap_bounds(0.1), enc.gap_bounds(0.1), rtol=1e-11)


def test_other_objectives_have_no_floor_of_a_rank():
    X, Y = np.eye(3) + 0.1, np.ones((3, 2))
    enc = lf.enclose(lf.LinearRegression(X, Y), lf.init.gaussian((3, 1, 2), rng=0), t_max=0.1)
    with pytest.raises(ValueError, match="the least loss of rank 1 is known for MatrixFactorization"):
        enc.rank_gap_bounds(0.1)


def test_the_floor_is_rounded_outwards(monkeypatch):
    """`½ Σ_{i>r} σ_i²` of bounds 2 and 3 of the last value; the sum of a few squares is off by less than 10⁻¹²."""
    bounds = np.array([9.0, 2.0]), np.array([9.0, 3.0])
    monkeypatch.setattr(rank_gap, "singular_value_bounds", lambda Y: bounds)
    net = lf.Network([np.ones((2, 1)), np.ones((1, 2))])
    assert rank_floor(lf.MatrixFactorization(np.eye(2)), net) == (2.0 * (1 - 1e-12), 4.5 * UP)
