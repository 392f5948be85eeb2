"""What the campaign takes for true where a pre-activation is 0, or nearly: just what the theorem says."""

from collections import Counter

import numpy as np

from linflow import relu
from linflow.relu.floor import Floor
from linflow.relu.movement import Mover
from linflow.relu.problem import Regression, Start
from tests.relu_enclosed import against_digits
from tests.relu_sharp import measured
from tests.relu_soundness import block, kernel, least_eigenvalue, signs


def started(X, Y, U, V, s=0.0):
    return Start.of(Regression(np.asarray(X), np.asarray(Y)), relu.Network(U, V, slope=s))


def test_a_sign_that_is_certain_at_the_start_is_kept_however_small_the_number():
    """z = 2⁻⁵⁰ is 8 units of the last digit: surely positive, and the floor for no path at all counts it as on."""
    X, U = np.eye(2), np.array([[2.0**-50, 1.0], [1.0, 1.0]])
    start = started(X, [[1.0], [1.0]], U, [[3.0], [0.125]])
    on, zero = signs(start, start.U)
    assert on.all() and not zero.any()
    least, largest = least_eigenvalue(start, start.U, start.V)
    value = Floor(start).at(Mover(start).at(0.0))
    off = kernel(start.X, start.U, start.V, np.array([[0.0, 1.0], [1.0, 1.0]]), 0.0)
    assert np.linalg.eigvalsh(off)[0] < value <= least + 1e-13 * largest  # with it off, the floor would look wrong


def test_signs_at_the_start_are_those_of_exact_sums():
    """The sum 1 + 2⁻⁶⁰ − 1 is 0 in floats, in this order; a sum that is 0 is on neither side."""
    X = np.array([[1.0, 2.0**-60, 1.0]])
    start = started(X, [[1.0]], np.array([[1.0, 1.0, -1.0], [1.0, 0.0, -1.0], [-1.0, -1.0, 1.0]]), np.ones((3, 1)))
    on, zero = signs(start, start.U)
    assert on.tolist() == [[True, False, False]] and zero.tolist() == [[False, True, False]]


def test_a_pair_that_came_to_0_may_have_any_slope_and_one_that_cannot_be_there_has_its_own(rng):
    X, Y = rng.standard_normal((3, 4)), rng.standard_normal((3, 1))
    U, V = rng.standard_normal((4, 5)), rng.standard_normal((5, 1))
    start = started(X, Y, U, V)
    now = start.U.copy()
    now[:, 2] -= X[1] * (X[1] @ now[:, 2]) / (X[1] @ X[1])
    _, zero = signs(start, now)
    assert np.argwhere(zero).tolist() == [[1, 2]]
    still = started(X, Y, now + 1e-14 * X[1][:, None], V)  # near 0 from the start, and nothing moved but by rounding
    assert not signs(still, still.U * (1 + 2.0**-52))[1].any()


def test_the_worst_slope_can_be_inside_the_interval_and_is_found():
    """Sample 0 is at 0 of neuron 0, whose force on sample 1 opposes that on sample 0."""
    X = np.array([[1.0, 0.0], [-0.8, 0.6]])
    start = started(X, np.ones((2, 1)), [[0.0, 0.05, -0.1], [1.0, 0.15, 0.0]], [[3.0], [3.0], [3.0]])
    (on, zero), (least, _) = signs(start, start.U), least_eigenvalue(start, start.U, start.V)
    assert np.argwhere(zero).tolist() == [[0, 0]]
    slopes = [np.where(zero, a, np.where(on, 1.0, 0.0)) for a in np.linspace(0, 1, 101)]
    seen = [np.linalg.eigvalsh(kernel(start.X, start.U, start.V, a, 0.0))[0] for a in slopes]
    # Three rounds come close to the least; the ends are far from it.
    assert min(seen) * (1 - 1e-3) <= least <= min(seen) * (1 + 1e-2) < 0.9 * min(seen[0], seen[-1])


def test_a_block_depends_on_the_seed_and_its_number_alone_and_finds_nothing():
    """The instance that an earlier judge took for a violation is of this family: a neuron at the boundary."""
    first, bad = block(5, 40, 4)
    assert bad == [] and first["comparisons"] > 30 and first == block(5, 40, 4)[0]


def test_a_flow_that_the_judge_cannot_follow_is_counted_and_not_waited_for():
    """Two neurons of opposite signs on two opposite samples: a pre-activation comes to 0 without speed."""
    x, u, v, w = 0.9216526704873955, 0.257920556394405, 0.38779975974425657, 0.5097304818863788
    X = np.array([[-x], [x]])
    Y = np.array([[-0.3388603025103046, -0.11567310046364192], [-2.2523667515711074, -0.035371160120215156]])
    seen = Counter()
    assert against_digits(seen, X, Y, relu.Network([[u, u]], [[v, w], [-v, -w]], slope=0.1)) == []
    assert seen["enclosed: not followed by the judge"] == 1 and seen["enclosed: comparisons"] == 0


def test_what_the_table_of_sharpness_is_made_of():
    """One start of docs/relu.md, "How sharp", on which both theorems apply, and one of several outputs."""
    rate, plain, least = next(one for one in (measured(11, i, 1) for i in range(20)) if one[1] > 0)
    assert plain < rate < least and measured(11, 0, 2)[1] == 0
