"""The iteration for extreme eigenvalues around its solver: what that is given, and what becomes of its answers."""

import math

import numpy as np
import pytest
import scipy.sparse.linalg

from linflow.geometry import extreme_eigenvalues as iterative

# Diagonal outer terms are their own eigenbases, so that the solver sees the operator itself.
LEFT, RIGHT = np.diag([0.0, 1.0, 2.0, 5.0]), np.diag([0.0, 3.0, 4.0, 6.0, 7.0])
G, H = np.arange(4.0)[:, None], np.array([[0.0], [1.0], [-1.0], [2.0], [1.0]])
BETWEEN = [(G @ G.T, H @ H.T)]
WHOLE = np.kron(LEFT, np.eye(5)) + np.kron(np.eye(4), RIGHT) + np.kron(G @ G.T, H @ H.T)


class Solver:
    """Answers with the given vectors, a number of iterations each, and keeps what it is asked."""

    def __init__(self, monkeypatch, *answers):
        self.answers, self.asked = list(answers), []
        monkeypatch.setattr(scipy.sparse.linalg, "lobpcg", self)

    def __call__(self, apply, vectors, **given):
        self.asked.append((apply, vectors, given))
        values, found, iterations = self.answers.pop(0)
        return np.array(values), found, [0.0] * iterations


def unit(*places, length=1.0):
    """Columns of this length, each along one entry."""
    found = np.zeros((20, len(places)))
    found[list(places), range(len(places))] = length
    return found


def quotient(x):
    """`⟨E, TE⟩/‖E‖²` and `‖TE − θE‖/‖E‖`."""
    theta = float(x @ WHOLE @ x / (x @ x))
    return theta, float(np.linalg.norm(WHOLE @ x - theta * x) / np.linalg.norm(x))


@pytest.mark.parametrize("largest", [False, True])
def test_the_solver_is_given_operator_preconditioner_and_start(monkeypatch, rng, largest):
    solver = Solver(monkeypatch, ([0.0, 1.0], unit(0, 1), iterative.ITERATIONS))
    iterative.extreme(LEFT, RIGHT, BETWEEN, largest=largest)
    (apply, vectors, given), diagonal = solver.asked[0], np.diag(WHOLE)
    size = diagonal.max()
    x = rng.standard_normal((20, 3))
    np.testing.assert_allclose(apply(x), WHOLE @ x, rtol=1e-12, atol=1e-12)
    assert (given["largest"], given["maxiter"]) == (largest, iterative.ROUND)
    assert given["tol"] == iterative.TOLERANCE * size
    if largest:
        assert given["M"] is None
    else:
        # The first entry on the diagonal is 0, and counts as 1e-12 of the greatest.
        expected = x / np.maximum(diagonal, 1e-12 * size)[:, None]
        np.testing.assert_allclose(given["M"](x), expected, rtol=1e-12)
    # A fifth of the size, and the entries where the diagonal is extreme.
    places = np.argsort(diagonal)[-4:] if largest else np.argsort(diagonal)[:4]
    drawn = np.random.default_rng(0).standard_normal((20, 4))
    np.testing.assert_allclose(vectors, unit(*places) + iterative.NOISE * drawn / math.sqrt(20), rtol=1e-12)


def test_no_more_vectors_than_a_block(monkeypatch):
    monkeypatch.setattr(iterative, "BLOCK", 3)
    solver = Solver(monkeypatch, ([0.0], unit(0), iterative.ITERATIONS))
    iterative.extreme(LEFT, RIGHT, BETWEEN, largest=False)
    assert solver.asked[0][1].shape == (20, 3)


def test_a_diagonal_of_zeros_is_inverted_to_something_finite(monkeypatch):
    solver = Solver(monkeypatch, ([0.0], unit(0), iterative.ITERATIONS))
    none = [np.zeros((n, n)) for n in (4, 5)]
    iterative.extreme(*none, [], largest=False)
    assert np.array_equal(solver.asked[0][2]["M"](np.ones((20, 1))), np.full((20, 1), 1 / np.finfo(float).tiny))


def test_value_and_residual_are_those_of_the_extreme_vector(monkeypatch, rng):
    found = 3.0 * rng.standard_normal((20, 2))  # not of length 1
    for largest, column in ((False, 1), (True, 0)):
        Solver(monkeypatch, ([5.0, 2.0], found, iterative.ITERATIONS))
        value, residual, iterations = iterative.extreme(LEFT, RIGHT, BETWEEN, largest=largest)
        assert (value, residual) == pytest.approx(quotient(found[:, column]), rel=1e-12, abs=0)
        assert iterations == iterative.ITERATIONS


def test_rounds_go_on_until_the_residual_is_small_or_the_iterations_are_many(monkeypatch, rng):
    monkeypatch.setattr(iterative, "ITERATIONS", 3 * iterative.ROUND)
    far = rng.standard_normal((20, 1))
    close = unit(0)  # an eigenvector, of the eigenvalue 0
    size = np.diag(WHOLE).max()
    for part, rounds in ((0.99, 1), (1.01, 3)):
        near = close.copy()
        near[1] = part * iterative.TOLERANCE * size / 3.0  # TE is 3 there, beside a 0
        solver = Solver(monkeypatch, *[([0.0], near, iterative.ROUND)] * 3)
        assert iterative.extreme(LEFT, RIGHT, BETWEEN, largest=False)[2] == rounds * iterative.ROUND
        assert len(solver.asked) == rounds
    solver = Solver(monkeypatch, ([1.0], far, iterative.ROUND), ([0.0], close, iterative.ROUND))
    assert iterative.extreme(LEFT, RIGHT, BETWEEN, largest=False) == (0.0, 0.0, 2 * iterative.ROUND)
    assert solver.asked[1][1] is far  # a round begins where the last one ended


def test_the_better_of_two_rounds_is_kept(monkeypatch):
    """The one with the smaller residual, unless the other has gone further than that residual."""
    monkeypatch.setattr(iterative, "ITERATIONS", 2 * iterative.ROUND)
    a, b = unit(1)[:, 0], unit(9)[:, 0]  # 3 and 8 with residuals of 0 and more
    mixed = a + 0.1 * b
    (high, wide), (low, small) = quotient(mixed), quotient(a + 0.01 * b)
    assert small < wide and high - low < wide
    for first, second, largest, expected in (
        (mixed, a + 0.01 * b, False, (low, small)),
        (a + 0.01 * b, mixed, False, (low, small)),
        (a + 0.01 * b, a + 0.011 * b, True, (low, small)),  # further, but by less than the residual
    ):
        Solver(monkeypatch, *(([0.0], x[:, None], iterative.ROUND) for x in (first, second)))
        found = iterative.extreme(LEFT, RIGHT, BETWEEN, largest=largest)
        assert found[:2] == pytest.approx(expected, rel=1e-12, abs=0)
    # Far below (or above) what was found before, a value is taken whatever its residual is.
    low_end, top_end = unit(0)[:, 0] + 0.3 * b, unit(19)[:, 0]
    for largest, second in ((False, low_end), (True, top_end)):
        Solver(monkeypatch, *(([0.0], x[:, None], iterative.ROUND) for x in (a + 0.01 * b, second)))
        found = iterative.extreme(LEFT, RIGHT, BETWEEN, largest=largest)
        assert found[:2] == pytest.approx(quotient(second), rel=1e-12, abs=1e-13) and quotient(second)[1] > small


@pytest.mark.parametrize("largest", [False, True])
def test_where_the_solver_breaks_down_the_dense_matrix_is_used_up_to_its_limit(monkeypatch, largest):
    far = np.ones((20, 1))
    ends = np.linalg.eigvalsh(WHOLE)
    monkeypatch.setattr(iterative, "DENSE", 20)
    Solver(monkeypatch, ([1.0], far, iterative.ROUND), ([1.0], far, 7))
    value, error, iterations = iterative.extreme(LEFT, RIGHT, BETWEEN, largest=largest)
    assert value == pytest.approx(ends[-1 if largest else 0], rel=1e-12, abs=1e-12 * ends[-1])
    assert error == pytest.approx(4 * iterative.EPS * math.sqrt(20) * ends[-1], rel=1e-12, abs=0)
    assert iterations == iterative.ROUND + 7
    # Above it, it is begun anew from random vectors, a few times.
    monkeypatch.setattr(iterative, "DENSE", 19)
    solver = Solver(monkeypatch, *[([1.0], far, 7)] * iterative.STARTS)
    value, residual, iterations = iterative.extreme(LEFT, RIGHT, BETWEEN, largest=largest)
    assert (value, residual) == pytest.approx(quotient(far[:, 0]), rel=1e-12, abs=0)
    assert iterations == 7 * iterative.STARTS and len(solver.asked) == iterative.STARTS
    again = np.random.default_rng(0)
    again.standard_normal((20, 4))
    for _, vectors, _ in solver.asked[1:]:
        assert np.array_equal(vectors, again.standard_normal((20, 1)))
