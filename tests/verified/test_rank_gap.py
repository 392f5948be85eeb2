"""The gap from the best rank that the widths allow, against exact singular values."""

import mpmath
import numpy as np
import pytest

import linflow as lf


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
