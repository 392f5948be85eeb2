"""Greedy low-rank learning against the best approximations of each rank, and against the flow from a small start."""

import numpy as np
import pytest

import linflow as lf


def spectrum(rng, n, m, values):
    U, V = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (n, m))
    return (U[:, : len(values)] * values) @ V[:, : len(values)].T


def truncated(Y, r):
    U, s, Vt = np.linalg.svd(Y)
    return (U[:, :r] * s[:r]) @ Vt[:r]


def completion(Y, known):
    return lf.Objective(
        lambda W: 0.5 * float((known * (W - Y) ** 2).sum()), lambda W: known * (W - Y),
        shape=Y.shape, smoothness=1.0, minimum=0.0,
    )  # fmt: skip


def test_each_phase_of_factorization_ends_at_the_best_product_of_its_rank(rng):
    Y = spectrum(rng, 4, 5, [3.0, 2.0, 1.2, 0.5])
    found = lf.greedy_low_rank(lf.MatrixFactorization(Y))
    assert [one.rank for one in found.phases] == [1, 2, 3, 4]
    assert [one.slope for one in found.phases] == pytest.approx([3.0, 2.0, 1.2, 0.5], rel=1e-5)  # at rest to 1e-6
    for r, phase in enumerate(found.phases, 1):
        assert phase.settled and phase.final.widths == (4, r, 5)
        np.testing.assert_allclose(phase.product, truncated(Y, r), atol=2e-5)  # the gradient rests at 1e-6 of 3·‖y‖
        rest = 0.5 * float(np.sum(np.linalg.svd(Y)[1][r:] ** 2))
        assert found.gaps[r] == pytest.approx(rest, rel=1e-9, abs=1e-9)
    assert found.first == found.gaps[0] == pytest.approx(0.5 * float(np.sum(Y**2)), rel=1e-14)
    assert found.gaps[-1] <= 1e-10 * found.first


def test_a_rank_is_asked_for_or_found(rng):
    Y = spectrum(rng, 4, 4, [2.0, 1.0])
    f = lf.MatrixFactorization(Y)
    assert len(lf.greedy_low_rank(f, 1).phases) == 1
    found = lf.greedy_low_rank(f)
    assert len(found.phases) == 2 and found.slope < 1e-4
    # A target with negative eigenvalues has the same phases: two layers learn singular values.
    assert lf.greedy_low_rank(lf.MatrixFactorization(np.diag([-2.0, 1.0])), 1).gaps[1] == pytest.approx(0.5, rel=1e-8)


def test_the_unmeasured_part_of_a_regression_ends_learning(rng):
    """f* > 0 and a rank below min(n, m): the slope ends it."""
    X = rng.standard_normal((9, 3)) @ np.diag([1.0, 1.0, 0.5])
    Y = X @ spectrum(rng, 3, 2, [2.0]) + 0.0
    found = lf.greedy_low_rank(lf.LinearRegression(X, Y), until=1e-14)
    assert len(found.phases) == 1 and found.phases[0].settled


def alternating(Y, known, r, rng):
    """The best completion of rank r, by alternating least squares from many starts: a slow independent twin."""
    best = np.inf
    for _ in range(20):
        A, B = rng.standard_normal((Y.shape[0], r)), np.zeros((r, Y.shape[1]))
        for _ in range(1000):
            for j in range(Y.shape[1]):
                rows = known[:, j] > 0
                B[:, j] = np.linalg.lstsq(A[rows], Y[rows, j], rcond=None)[0]
            for i in range(Y.shape[0]):
                columns = known[i] > 0
                A[i] = np.linalg.lstsq(B[:, columns].T, Y[i, columns], rcond=None)[0]
        best = min(best, 0.5 * float((known * (A @ B - Y) ** 2).sum()))
    return best


def test_completion_passes_the_best_rank_one_completion(rng):
    """The first saddle is a rank-one optimum; the flow from a small start passes near it, the nearer the smaller."""
    Y = spectrum(rng, 4, 4, [3.0, 1.5, 0.5])
    known = np.ones((4, 4))
    known[0, 1] = known[2, 3] = known[3, 0] = 0.0
    f = completion(Y, known)
    found = lf.greedy_low_rank(f, 1)
    plateau = found.gaps[1]
    assert plateau == pytest.approx(alternating(Y, known, 1, rng), rel=1e-7)
    off = []
    for alpha in (1e-2, 1e-4):
        start = [alpha * rng.standard_normal((4, 4)), alpha * rng.standard_normal((4, 4))]
        run = lf.gradient_flow(f, start, until=0.05)
        W = [run.network_at(float(t)).product() for t in run.t]
        off.append(min(float(np.linalg.norm(one - found.phases[0].product)) for one in W))
    assert off[1] < 0.5 * off[0] < 0.5


@pytest.mark.parametrize("c", [1e-3, 1e3])
@pytest.mark.parametrize("size", [1e-4, 0.5])
def test_units_do_not_matter(c, size):
    Y = c * np.diag([3.0, 2.0, 1.0, 0.0])
    found = lf.greedy_low_rank(lf.MatrixFactorization(Y), size=size)
    assert [gap / c**2 for gap in found.gaps] == pytest.approx([7.0, 2.5, 0.5, 0.0], rel=1e-9, abs=7e-10)
    value, slope = lambda W: 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y
    low = lf.Objective(value, slope, shape=(4, 4), minimum=-(c**2))
    assert len(lf.greedy_low_rank(low).phases) == 3  # the slope ends it


def test_how_a_phase_begins_and_how_long_its_pieces_are():
    f = lf.MatrixFactorization(np.diag([4.0, 2.0]))
    found = lf.greedy_low_rank(f, 2, size=0.5, rest=1e-8, until=1e-15)
    first, second = found.phases
    left, right = first.runs[0].start.weights
    np.testing.assert_allclose(np.abs(left), [[1.0], [0.0]], atol=1e-15)  # 0.5·√4
    np.testing.assert_allclose(left, right.T, atol=1e-15)
    assert np.linalg.norm(second.runs[0].start.weights[0][:, 1]) == pytest.approx(1.0, rel=1e-14)
    np.testing.assert_allclose(second.runs[0].start.weights[0][:, :1], first.final.weights[0], rtol=0)
    for phase, slope in ((first, 4.0), (second, 2.0)):
        piece = 3 * np.log(2.0) / slope  # e^{slope·t} is 2³ there
        whole = [float(run.t[-1]) for run in phase.runs]
        assert len(whole) >= 3 and whole[:3] == pytest.approx([piece, piece, 2 * piece], rel=1e-5)


@pytest.mark.parametrize("rest", [1e-2, 1e-5])
def test_where_a_phase_ends(rest):
    """‖∇L‖ ≤ rest·σ_1·‖(W_1, W_2)‖, and not before."""
    (phase,) = lf.greedy_low_rank(lf.MatrixFactorization([[9.0]]), size=0.5, rest=rest, until=1e-14).phases

    def slope(net):
        a, b = (float(W[0, 0]) for W in net.weights)
        return abs(9.0 - a * b), rest * 9.0

    steps = [slope(run.final) for run in phase.runs]  # ‖∇L‖ = |9 − ab|·‖(a, b)‖ for one weight each
    assert all(g > most for g, most in steps[:-1]) and steps[-1][0] <= steps[-1][1] and len(steps) > 1


def test_learning_ends_at_the_gap_or_at_the_slope():
    f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
    assert len(lf.greedy_low_rank(f, until=0.11).phases) == 1  # 0.5 of 5
    assert len(lf.greedy_low_rank(f, until=0.09).phases) == 2
    Y = np.diag([3.0, 1.0, 0.0])
    low = lf.Objective(lambda W: 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y, shape=(3, 3), minimum=-1.0)
    found = lf.greedy_low_rank(low)
    assert len(found.phases) == 2 and found.gaps[-1] == pytest.approx(1.0) and found.slope <= 3e-6


def test_the_table():
    text = str(lf.greedy_low_rank(lf.MatrixFactorization(np.diag([2.0, 1.0]))))
    assert text.splitlines()[0].split() == ["rank", "slope", "at", "its", "saddle", "gap", "at", "its", "end"]
    assert text.splitlines()[1].split() == ["0", "2.5"]
    assert text.splitlines()[2].split()[:2] == ["1", "2"] and "rest" not in text


def test_a_phase_that_does_not_end_says_so():
    """A gradient that turns: no potential, and no rest."""
    f = lf.Objective(
        lambda W: 1.0 + 0.0 * float(W[0, 0]), lambda W: np.array([[-1.0]]), shape=(1, 1), minimum=0.0, smoothness=1.0
    )
    found = lf.greedy_low_rank(f)
    assert not found.phases[0].settled and "(not at rest)" in str(found)


def test_what_is_refused():
    f = lf.MatrixFactorization(np.eye(2))
    with pytest.raises(ValueError, match="rank is 3; products of shape 2×2 have rank 2 at most"):
        lf.greedy_low_rank(f, 3)
    with pytest.raises(ValueError, match="rank is 2; products of shape 1×2 have rank 1 at most"):
        lf.greedy_low_rank(lf.MatrixFactorization(np.ones((1, 2))), 2)
    with pytest.raises(ValueError, match=r"∇f\(0\) is 0"):
        lf.greedy_low_rank(lf.MatrixFactorization(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="size"):
        lf.greedy_low_rank(f, size=2.0)


def test_it_ends_where_the_slope_is_small_beside_the_first():
    found = lf.greedy_low_rank(lf.MatrixFactorization(np.diag([4.0, 0.3])), rest=0.1, until=1e-3)
    assert len(found.phases) == 1 and found.slope == pytest.approx(0.3, rel=1e-3)
