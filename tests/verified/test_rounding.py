"""Norms, eigenvalues and quadratics of a verified run against exact arithmetic and against arithmetic that errs."""

import contextlib
import itertools
import math
from types import SimpleNamespace

import flint
import numpy as np
import pytest

import linflow as lf
from linflow.verified import problem as problems
from linflow.verified import rounding
from linflow.verified.classification import TailGradient
from linflow.verified.huber import HuberGradient
from linflow.verified.problem import AffineGradient, affine_gradient
from linflow.verified.reduction import narrowed
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, least_eigenvalue, spectral
from linflow.verified.softmax import SoftmaxGradient
from tests.verified_judge import (
    COARSE,
    SIGNS,
    Coarse,
    coarse,
    coarsened,
    covers,
    exact,
    identity,
    length,
    rational,
    semidefinite,
    spectral_covers,
    spectral_norm,
)


def shapes(seed=0):
    """Matrices of many kinds, none too large for exact characteristic polynomials."""
    rng = np.random.default_rng(seed)
    yield "gaussian", rng.standard_normal((5, 4))
    yield "wide", rng.standard_normal((2, 9))
    yield "column", rng.standard_normal((7, 1))
    yield "rank one", np.outer(rng.integers(1, 9, 5), rng.integers(-9, -1, 6)).astype(float)
    yield "orthogonal", np.linalg.qr(rng.standard_normal((6, 6)))[0]
    yield "graded", np.diag(10.0 ** np.arange(-8, 9, 4)) @ rng.standard_normal((5, 5))
    yield "graded both ways", np.diag([1e8, 1.0, 1e-8]) @ rng.standard_normal((3, 3)) @ np.diag([1e-8, 1.0, 1e8])
    yield "tiny", 1e-140 * rng.standard_normal((3, 4))
    yield "vanishing squares", 1e-170 * rng.standard_normal((3, 4))
    yield "huge", 1e149 * rng.standard_normal((3, 3))
    yield "squares near overflow", np.full((4, 4), 3e153)
    yield "Jordan", np.eye(5, k=1) * 1e3 + np.eye(5)
    yield "zero", np.zeros((3, 2))
    yield "one entry", np.pad([[np.pi]], ((1, 2), (0, 3)))


@pytest.mark.parametrize("count", [1, 2, 17, 1000, 10**7])
def test_gamma_is_an_upper_bound_by_its_own_rounding_alone(count):
    true = count * rational(U) / (1 - count * rational(U))
    assert true <= rational(gamma(count)) <= true * (1 + 8 * rational(U))


@pytest.mark.parametrize(("name", "A"), list(shapes()), ids=lambda x: x if isinstance(x, str) else "")
def test_norms_are_proved_upper_bounds_and_tight(name, A):
    M = exact(A)
    bound, top = float(frobenius(A)), spectral(A)
    assert covers(bound, M)
    assert bound <= length(M) * (1 + (A.size + 10) * U) + 2 * TINY
    assert spectral_covers(top, M)
    q = min(A.shape)
    if np.abs(A).max() < 1e150:  # above, squares may leave float64: the Frobenius norm serves
        assert top <= spectral_norm(A) * q ** (1 / 64) * (1 + 1e-6) + 20 * TINY


def test_a_frobenius_norm_covers_what_a_long_sum_loses():
    # Each square, 0.98 · 2⁻⁵⁴, vanishes against the first one wherever they meet in one partial sum.
    for count in (1, 3, 64, 65 * 63):
        A = np.full((1, count), 0.99 * 2.0**-27)
        A[0, 0] = 1.0
        assert covers(float(frobenius(A)), exact(A))
    rng = np.random.default_rng(1)
    for _ in range(300):
        A = rng.standard_normal((1, rng.integers(1, 4)))
        assert covers(float(frobenius(A)), exact(A))
    stack = rng.standard_normal((4, 2, 3))
    assert all(covers(float(x), exact(A)) for x, A in zip(frobenius(stack), stack, strict=True))


@pytest.mark.parametrize("sign", SIGNS)
def test_norms_hold_where_every_operation_errs_as_far_as_it_may(monkeypatch, sign):
    rng = np.random.default_rng(2)
    cases = [
        rng.random((4, 5)),
        np.ones((6, 6)),
        np.outer(np.ones(3), np.arange(1.0, 8)),
        rng.standard_normal((5, 3)),
    ]
    cases += [np.eye(4), np.diag([1.0, 1.0, 1e-3]), np.ones((2, 300)), np.ones((40, 2))]
    with coarse(monkeypatch, sign):
        for A in cases:
            size = float(frobenius(coarsened(A)))
            assert np.linalg.norm(A) <= size * (1 + 1e-14) <= np.linalg.norm(A) * (1 + 2 * Coarse.gamma(A.size + 4))
            top = spectral(coarsened(A))
            assert spectral_norm(A) * (1 - 1e-14) <= top <= spectral_norm(A) * min(A.shape) ** (1 / 64) * 1.001


@pytest.mark.parametrize("sign", SIGNS)
def test_the_way_back_from_a_power_covers_each_squaring(monkeypatch, sign):
    # One direction outgrows the others after two squarings: the power costs nothing, rounding all. There is a second
    # direction, for Frobenius norms, which are sharp at rank one, would hide a missing allowance; so would the
    # allowance for their own rounding.
    monkeypatch.setattr(rounding, "frobenius", lambda A: np.linalg.norm(np.asarray(A)))
    for A in (np.kron(np.diag([1.0, 0.3]), np.ones((50, 50))), np.kron(np.diag([1.0, 0.3]), np.ones((2, 400)))):
        with coarse(monkeypatch, sign):
            top = spectral(coarsened(A))
        assert spectral_norm(A) <= top <= spectral_norm(A) * (1 + Coarse.gamma(4 * sum(A.shape)))


def test_powers_of_a_matrix_that_is_not_symmetric_bound_its_norm():
    """`‖M²‖` can be far below `‖M‖²`; `‖MMᵀ‖` cannot, whatever BLAS returns for the first product."""
    jordan = np.eye(3, k=1)

    class Skewed(np.ndarray):
        first = True

        def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
            plain = getattr(ufunc, method)(*(np.asarray(x) for x in inputs), **kwargs)
            if ufunc is np.matmul and Skewed.first:
                Skewed.first, plain = False, jordan
            return plain.view(Skewed) if isinstance(plain, np.ndarray) else plain

    A = np.eye(3).view(Skewed)
    assert spectral(A) >= spectral_norm(jordan)


def test_a_norm_whose_square_leaves_float64_is_no_smaller_for_it():
    for shape in ((2, 2), (3, 5)):
        A = np.full(shape, np.sqrt(np.finfo(float).max / np.prod(shape)) * (1 - 1e-15))
        with np.errstate(over="ignore", invalid="ignore"):
            assert spectral(A) >= np.linalg.norm(A / 1e150) * (1 - 1e-14) * 1e150


# --- least eigenvalue ----------------------------------------------------------------------------------------------


def symmetric(seed=3):
    rng = np.random.default_rng(seed)
    G = rng.integers(-9, 10, (4, 7)).astype(float)
    yield "singular integer Gram", G.T @ G  # exact, λ_min = 0
    yield "singular Laplacian", 7 * np.eye(7) - np.ones((7, 7))
    yield "all ones", np.ones((8, 8))
    yield "indefinite", np.diag([3.0, -2.0, 1.0]) + np.ones((3, 3))
    yield "tiny margin", np.array([[1.0, 1.0 - 2.0**-52], [1.0 - 2.0**-52, 1.0]])
    yield "just indefinite", np.array([[1.0, 1.0 + 2.0**-52], [1.0 + 2.0**-52, 1.0]])
    yield "graded", np.diag(10.0 ** np.array([-16.0, -8, 0, 8, 16]))
    D = np.diag([1e8, 1.0, 1e-8])
    yield "graded Gram", D @ np.array([[2.0, 1, 1], [1, 2, 1], [1, 1, 2]]) @ D
    yield "Hilbert", 1.0 / (np.arange(9)[:, None] + np.arange(9) + 1)
    yield "exchange", np.eye(12)[::-1].copy()  # the shift makes its trace
    yield "negative", -np.ones((5, 5)) - np.eye(5)
    yield "zero", np.zeros((3, 3))
    yield "one", np.array([[-0.1]])
    yield "tiny", 1e-160 * np.eye(2)
    yield "large", 1e140 * (np.ones((4, 4)) + np.eye(4))


@pytest.mark.parametrize(("name", "A"), list(symmetric()), ids=lambda x: x if isinstance(x, str) else "")
def test_the_least_eigenvalue_is_a_proved_lower_bound_and_near(name, A):
    bound = least_eigenvalue(A)
    assert semidefinite(exact(A) - identity(len(A)) * rational(bound))
    near = float(np.linalg.eigvalsh(A)[0]) - 20 * len(A) ** 2 * U * np.abs(np.diagonal(A)).sum() - 4 * TINY
    assert bound >= near - 20 * len(A) ** 2 * U * max(0.0, -near)


def test_the_least_eigenvalue_subtracts_the_error_and_knows_its_floor():
    A = np.diag([2.0, 3.0])
    bound = least_eigenvalue(A, 0.5)
    assert 1.5 - 1e-12 < bound <= 1.5
    assert semidefinite(exact(A) - identity(2) * (rational(bound) + rational(0.5)))
    assert least_eigenvalue(A, 0.5, floor=1.9) == 1.9
    for unknown in (np.full((2, 2), np.nan), np.array([[1.0, np.nan], [np.nan, 1.0]])):
        with contextlib.suppress(np.linalg.LinAlgError):
            assert least_eigenvalue(unknown, floor=-7.0) == -7.0


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(("name", "A"), list(symmetric()), ids=lambda x: x if isinstance(x, str) else "")
def test_the_least_eigenvalue_trusts_a_factorisation_no_further_than_rump_s_theorem(monkeypatch, sign, name, A):
    # The factorisation completes whenever the backward error that the theorem grants it could explain that, and the
    # guess comes with an error that is not known.
    A = A / (np.abs(A).max() or 1.0)
    true = float(np.linalg.eigvalsh(A)[0])
    trace = np.trace(np.abs(A)) + len(A) * max(0.0, -true)
    unit = Coarse.gamma(len(A) + 1) * max(trace, 1e-9)
    for guess in (1e-9, *np.linspace(-1, 9, 41)):
        with coarse(monkeypatch, sign):
            monkeypatch.setattr(Coarse, "guess", guess * unit)
            bound = least_eigenvalue(coarsened(A), 1e-5)
        assert bound <= true - 1e-5 + 1e-12
        assert bound >= true - 1e-5 - 40 * unit - 1e-8


# --- the affine gradient -------------------------------------------------------------------------------------------


def hostile(rng, sides, errors=(3e-4, 5e-4), residue=2e-4, offset=3e-4):
    """An affine gradient and exact `A`, `B`, `R` that are as far from it as its bounds allow."""

    def one(side, error):
        Q = np.linalg.qr(rng.standard_normal((side, side)))[0]
        A = Q @ np.diag(rng.uniform(0.5, 2.0, side)) @ Q.T
        A = (A + A.T) / 2
        v = np.linalg.eigh(A)[1][:, -1]
        return A, A + error * np.outer(v, v)

    (A, A_true), (B, B_true) = (one(side, error) for side, error in zip(sides, errors, strict=True))
    V, R = rng.standard_normal(sides), rng.standard_normal(sides)
    R *= residue / np.linalg.norm(R)
    problem = AffineGradient(
        V,
        A,
        B,
        tuple(spectral_norm(M) * UP for M in (A_true, B_true)),
        tuple(float(np.linalg.norm(M)) * UP for M in (A_true, B_true)),
        tuple(e * UP for e in errors),
        residue * UP,
        offset,
    )
    return problem, A_true, B_true, R


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("which", ["both", "left", "right", "none"])
def test_the_error_of_a_gradient_covers_rounding_and_what_is_not_exact(monkeypatch, sign, which):
    rng = np.random.default_rng(4)
    sides = (3, 4)
    worst = 0.0
    for errors in ((0.0, 0.0), (3e-5, 0.0), (0.0, 5e-5), (1e-2, 2e-2)):
        with coarse(monkeypatch, sign):
            problem, A, B, _ = hostile(rng, sides, errors)
            left, right = which in ("both", "left"), which in ("both", "right")
            problem = AffineGradient(
                problem.V,
                coarsened(problem.A) if left else None,
                coarsened(problem.B) if right else None,
                (problem.norms[0] if left else 1.0, problem.norms[1] if right else 1.0),
                (problem.lengths[0] if left else 1.0, problem.lengths[1] if right else 1.0),
                (problem.errors[0] if left else 0.0, problem.errors[1] if right else 0.0),
            )
            A, B = A if left else np.eye(3), B if right else np.eye(4)
            top = np.outer(np.linalg.eigh(A)[1][:, -1], np.linalg.eigh(B)[1][:, -1])
            for E in (np.abs(top), top, rng.random(sides), rng.standard_normal(sides)):
                found = np.asarray(problem.apply(coarsened(E)))
                for error in (0.0, 1e-4):
                    off = float(np.linalg.norm(found - A @ (E + np.sign(sign or 1.0) * error * top) @ B))
                    bound = float(problem.error_of(np.linalg.norm(E), error))
                    assert off <= bound * (1 + 1e-9) + 1e-14
                    worst = max(worst, off / bound if bound > 1e-12 else 0.0)
    assert worst > 0.9  # errors of A, B and E are attained together


def quadratic_gap(problem, A, B, R, D):
    return 0.5 * float(np.sum(D * (A @ D @ B))) + float(np.sum(R * D))


@pytest.mark.parametrize("sign", SIGNS)
def test_the_gap_is_bounded_from_both_sides_by_all_that_is_not_exact(monkeypatch, sign):
    rng = np.random.default_rng(5)
    upper, lower = [], []
    for trial in range(60):
        errors, residue = [((0.0, 0.0), 0.0), ((1e-3, 2e-3), 0.0), ((0.0, 0.0), 1e-2)][trial % 3]
        error = [0.0, 1e-3, 0.1][(trial // 3) % 3]
        with coarse(monkeypatch, sign):
            plain, A, B, R = hostile(rng, (3, 2), errors, residue, offset=0.0)
            problem = AffineGradient(
                plain.V,
                coarsened(plain.A),
                coarsened(plain.B),
                plain.norms,
                plain.lengths,
                plain.errors,
                plain.residue,
            )
            top = np.outer(np.linalg.eigh(A)[1][:, -1], np.linalg.eigh(B)[1][:, -1])
            E = [np.zeros((3, 2)), top, rng.standard_normal((3, 2)), np.abs(top)][trial % 4]
            low, high = problem.gap(coarsened(E), error)
        for turn in (
            top,
            -top,
            R / max(np.linalg.norm(R), 1e-300),
            A @ E @ B / max(np.linalg.norm(A @ E @ B), 1e-300),
        ):
            for side in (-1, 1):
                for r in (R, -R, residue * top):
                    f = quadratic_gap(problem, A, B, r, E + side * error * turn)
                    assert low - 1e-14 <= f <= high + 1e-14 or (f < 0 and residue > 0)
                    upper.append(f / high if high > 1e-9 else 0)
                    lower.append((low + 1e-12) / f if f > 1e-9 else 0)
    assert max(upper) > 0.999 and max(lower) > 0.99


def test_the_gap_near_its_least_value_is_its_slack_exactly():
    problem = AffineGradient(np.zeros((1, 1)), residue=0.25, offset=0.125)
    low, high = problem.gap(np.zeros((1, 1)), 0.5)
    assert low == 0.0
    assert high == pytest.approx(0.5 * 0.25 + 0.25 * 0.5 + 0.125, rel=1e-10)
    assert high >= 0.375
    low, high = problem.gap(np.full((1, 1), 4.0), 0.5)
    assert low == pytest.approx(8 - (4 * 0.5 + 0.125 + 0.25 * 4.5), rel=1e-10)
    assert high == pytest.approx(8 + (4 * 0.5 + 0.125 + 0.25 * 4.5) + 0.125, rel=1e-10)
    problem = AffineGradient(np.zeros((1, 1)), np.full((1, 1), 3.0), None, (3.0, 1.0), (3.0, 1.0))
    assert problem.gap(np.zeros((1, 1)), 0.5)[1] == pytest.approx(0.5 * 3 * 0.25, rel=1e-10)


def test_a_gap_against_a_minimiser_of_numerical_rank_may_be_negative():
    # The second singular value, 10⁻²⁰, counts as 0; f falls below f(V) along it all the same.
    X, Y = np.diag([1.0, 1e-20]), np.array([[0.0], [1.0]])
    problem = affine_gradient(lf.LinearRegression(X, Y))
    assert problem.least == 0 and "numerical" in problem.notes[0]
    D = exact(np.array([[0.0], [1.0]]))
    V, x, y = exact(problem.V), exact(X), exact(Y)
    fall = square_of(x * (V + D) - y) - square_of(x * V - y)
    assert fall < 0
    low, high = problem.gap(np.array([[0.0], [1.0]]), 0.0)
    assert rational(low) <= fall / 2 <= rational(high)


def square_of(A):
    return sum((a * a for a in A.entries()), flint.fmpq(0))


def regressions():
    rng = np.random.default_rng(6)
    yield "tall", rng.standard_normal((9, 4)), rng.standard_normal((9, 2))
    yield "wide", rng.standard_normal((3, 6)), rng.standard_normal((3, 2))
    X = rng.standard_normal((8, 5))
    X[:, 2] = 0
    yield "zero column", X, rng.standard_normal((8, 1))
    X = rng.standard_normal((3, 6))
    X[:, [0, 4]] = 0
    yield "wide with zero columns", X, rng.standard_normal((3, 2))
    yield "graded", rng.standard_normal((8, 3)) * np.array([1e3, 1.0, 1e-3]), rng.standard_normal((8, 2))
    yield "square", rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    yield "single", np.array([[3.0]]), np.array([[1.0]])
    yield "integers", rng.integers(-5, 6, (6, 3)), rng.integers(-5, 6, (6, 2))
    yield "far from fitted", rng.standard_normal((9, 2)), 1e8 * rng.standard_normal((9, 2))


def least_nonzero(A):
    values = np.linalg.eigvalsh(A)
    return values[values > 1e-12 * values[-1]][0]


@pytest.mark.parametrize(("name", "X", "Y"), list(regressions()), ids=lambda x: x if isinstance(x, str) else "")
def test_what_is_known_of_a_regression_is_exact(name, X, Y):
    f = lf.LinearRegression(X, Y)
    problem = affine_gradient(f)
    x, y, V, A = exact(X), exact(Y), exact(problem.V), exact(problem.A)
    true = x.transpose() * x
    assert covers(problem.errors[0], A - true) and problem.errors[1] == 0
    assert spectral_covers(problem.norms[0], true) and spectral_covers(problem.norms[0], A)
    assert covers(problem.lengths[0], true) and covers(problem.lengths[0], A)
    R = x.transpose() * (x * V - y)
    assert covers(problem.residue, R)
    least = least_nonzero(np.asarray(X, float).T @ X)
    assert 0.99 * least - 1e-12 * problem.norms[0] <= problem.least <= least * (1 + 1e-9)
    assert problem.full == (X.shape[0] >= X.shape[1] and np.any(X != 0, axis=0).all())
    # f(V) − f* = ½⟨R, A⁺R⟩, from the normal equations in exact arithmetic.
    used = [j for j in range(X.shape[1]) if np.any(X[:, j] != 0)]
    if X.shape[0] >= len(used):
        part = exact(np.asarray(X, float)[:, used])
        rows = flint.fmpq_mat(len(used), R.ncols(), [R[i, j] for i in used for j in range(R.ncols())])
        step = (part.transpose() * part).solve(rows)
        missing = sum((a * b for a, b in zip(rows.entries(), step.entries(), strict=True)), flint.fmpq(0)) / 2
        assert 0 <= missing <= rational(problem.offset)
    # Columns of other scales cost: the residue is bounded by the norm of all of X.
    assert problem.offset <= (1e-24 if name != "graded" else 1e-9) * max(
        1.0, float(np.sum(np.asarray(Y, float) ** 2))
    )


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(("name", "X", "Y"), list(regressions()), ids=lambda x: x if isinstance(x, str) else "")
def test_a_regression_s_bounds_hold_where_every_operation_errs_as_far_as_it_may(monkeypatch, sign, name, X, Y):
    X, Y = np.asarray(X, float), np.asarray(Y, float)
    rng = np.random.default_rng(7)
    V = np.linalg.pinv(X) @ Y
    for shift in (0.0, 1e-1):  # also where V is no minimiser, so that the residue is known to many digits
        W = V + shift * rng.random(V.shape)
        with coarse(monkeypatch, sign):
            given = (problems._numpy(each) for each in (X, Y, W))  # so that they err from here on
            problem = problems.regression_gradient(*given, rank=int(np.linalg.matrix_rank(X)))
        A = X.T @ X
        R = A @ W - X.T @ Y
        assert np.linalg.norm(problem.A - A) <= problem.errors[0]
        assert spectral_norm(A) <= problem.norms[0] and np.linalg.norm(A) <= problem.lengths[0]
        assert np.linalg.norm(R) <= problem.residue * (1 + 1e-9)
        assert problem.least <= least_nonzero(A) * (1 + 1e-9)
        if problem.least > 0:
            assert 0.5 * float(np.sum(R * (np.linalg.pinv(A) @ R))) <= problem.offset * (1 + 1e-6)
            low, high = problem.gap(np.zeros(W.shape), 0.0)
            assert low == 0 and high >= 0.5 * float(np.sum(R * (np.linalg.pinv(A) @ R))) * (1 - 1e-6)


def test_the_residue_of_a_regression_covers_the_rounding_of_each_of_its_products(monkeypatch):
    # Positive data: all errors add up, and each product's share of the bound is seen.
    X, V = np.ones((40, 3)), np.ones((3, 1))
    tiny = 1e-9 * V  # then the difference to Y is rounded, and little else
    for Y, W in ((X @ V, V), (X @ V - 1e-6 * np.ones((40, 1)), V), (0.5 * X @ V, V), (np.ones((40, 1)), tiny)):
        for sign in (-1.0, 1.0, -2.0, 2.0):
            with coarse(monkeypatch, sign):
                problem = problems.regression_gradient(*(problems._numpy(each) for each in (X, Y, W)), rank=1)
            assert np.linalg.norm(X.T @ (X @ W - Y)) <= problem.residue * (1 + 1e-9)


def test_a_regression_of_unproved_rank_says_so():
    X = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])  # rank 2
    problem = affine_gradient(lf.LinearRegression(X, np.ones((4, 1))))
    assert problem.least == 0 and problem.offset == 0 and not problem.full
    assert "numerical" in problem.notes[0]


@pytest.mark.parametrize("B", [None, "given"])
def test_what_is_known_of_a_general_quadratic_is_exact(B):
    rng = np.random.default_rng(8)
    for scale in (1.0, 1e8, 1e-8):
        A = rng.integers(-4, 5, (3, 3)).astype(float)
        A = scale * (A @ A.T + np.eye(3))
        M = None if B is None else np.array([[2.0, 1.0], [1.0, 3.0]]) / scale
        C = rng.standard_normal((3, 2))
        f = lf.Quadratic(A, M, C)
        problem = affine_gradient(f)
        a, b, c, V = exact(A), identity(2) if M is None else exact(M), exact(C), exact(problem.V)
        assert covers(problem.residue, a * V * b - c)
        assert spectral_covers(problem.norms[0], a) and spectral_covers(problem.norms[1], b)
        assert covers(problem.errors[0], a - exact(problem.A))
        least = np.linalg.eigvalsh(A)[0] * (1 if M is None else np.linalg.eigvalsh(M)[0])
        assert least * (1 - 1e-10) <= problem.least <= least * (1 + 1e-14)
        offset = float(flint.arb(rational(problem.offset)).mid())
        assert offset < 1e-25 * problem.norms[0] * problem.norms[1] * np.sum(f.minimizer**2)


@pytest.mark.parametrize("sign", SIGNS)
def test_a_quadratic_s_bounds_hold_where_every_operation_errs_as_far_as_it_may(monkeypatch, sign):
    rng = np.random.default_rng(9)
    for scale in (1.0, 1e4):
        A, B = (np.ones((k, k)) + np.eye(k) for k in (3, 2))
        A, B = A * scale, B / scale
        V = rng.random((3, 2))
        for C in (A @ V @ B, np.abs(rng.standard_normal((3, 2)))):
            with coarse(monkeypatch, sign):
                problem = problems._general(SimpleNamespace(A=A, B=B, C=C, minimizer=V))
            R = A @ V @ B - C
            assert np.linalg.norm(R) <= problem.residue * (1 + 1e-9)
            true = np.linalg.eigvalsh(A)[0] * np.linalg.eigvalsh(B)[0]
            assert true * 0.9 <= problem.least <= true
            f = 0.5 * float(np.sum(R * (np.linalg.inv(A) @ R @ np.linalg.inv(B))))
            assert f <= problem.offset * (1 + 1e-9)
            assert problem.errors[0] >= COARSE * spectral_norm(A) and problem.errors[1] >= COARSE * spectral_norm(B)
            assert problem.error >= problem.errors[0] * spectral_norm(B) + spectral_norm(A) * problem.errors[1]


def test_a_quadratic_that_is_not_proved_definite_is_refused():
    with pytest.raises(ValueError, match="A cannot be proved positive definite"):
        affine_gradient(lf.Quadratic(np.diag([1.0, 0.0]), C=np.array([[1.0], [0.0]])))
    with pytest.raises(ValueError, match="B cannot be proved positive definite"):
        affine_gradient(lf.Quadratic(np.eye(2), np.diag([1.0, 0.0]), C=np.array([[1.0, 0.0], [0.0, 0.0]])))


# --- narrowing -----------------------------------------------------------------------------------------------------


def grams(weights):
    """Return `BᵀB` of the neighbours of every hidden layer: all that the flow of the product depends on."""
    found = []
    for W, Z in itertools.pairwise(weights):
        B = np.concatenate([np.asarray(W).T, np.asarray(Z)], axis=1)
        found.append(exact(B).transpose() * exact(B))
    return found


@pytest.mark.parametrize("widths", [(2, 40, 3), (1, 9, 9, 1), (2, 50, 60, 2), (3, 4, 2), (1, 500, 1)])
def test_narrowed_weights_are_within_their_radius_of_some_with_the_same_gram_matrices(widths):
    rng = np.random.default_rng(10)
    weights = [rng.standard_normal(s) for s in itertools.pairwise(widths)]
    narrow = narrowed(weights)
    assert narrow.radius <= 1e-10  # γ_h ‖Q‖_F² ‖R‖_F
    for W, N in zip(weights, narrow.expand(narrow.weights), strict=True):
        assert np.abs(W - N).max() < 1e-13
    product = weights[0]
    thin = narrow.weights[0]
    for W, N in zip(weights[1:], narrow.weights[1:], strict=True):
        product, thin = product @ W, thin @ N
    assert np.allclose(product, thin, rtol=1e-12, atol=1e-12)
    if len(widths) == 3:
        a, b = widths[0], widths[2]
        assert narrow.weights[0].shape == (a, min(widths[1], a + b))
    if len(widths) == 3 and widths[1] > widths[0] + widths[2]:
        # ‖R'ᵀR' − RᵀR‖ ≤ ρ(2‖R‖ + ρ) is what the radius promises.
        (true,), (found,) = grams(weights), grams(narrow.weights)
        R = np.concatenate([narrow.weights[0].T, narrow.weights[1]], axis=1)
        assert covers(narrow.radius * (2 * spectral_norm(R) * (1 + 1e-9) + narrow.radius), true - found)


@pytest.mark.parametrize("sign", SIGNS)
def test_narrowing_knows_how_far_its_basis_is_from_orthonormal(monkeypatch, sign):
    rng = np.random.default_rng(11)
    W = [rng.standard_normal((2, 12)), rng.standard_normal((12, 3))]
    B = np.concatenate([W[0].T, W[1]], axis=1)
    for tilt, off in ((0.0, 0.0), (1e-3, 0.0), (0.0, 1e-3), (1e-3, 1e-3)):

        def qr(M, tilt=tilt, off=off):
            Q, R = np.linalg.qr(np.asarray(M))
            return (Q * (1 + tilt)).view(Coarse), (R * (1 + off)).view(Coarse)

        with coarse(monkeypatch, sign):
            monkeypatch.setattr(_numpy_of("reduction").linalg, "qr", qr)
            narrow = narrowed([coarsened(w) for w in W])
        R = np.concatenate([np.asarray(narrow.weights[0]).T, np.asarray(narrow.weights[1])], axis=1)
        # The nearest R' with R'ᵀR' = BᵀB: by the orthogonal Procrustes problem.
        root = np.linalg.qr(B)[1]
        u, _, vt = np.linalg.svd(R @ root.T)
        assert np.linalg.norm(R - u @ vt @ root) <= narrow.radius
        assert narrow.radius <= (5 * tilt + abs(tilt + off) + 2e-4) * np.linalg.norm(R) * 1.1


def _numpy_of(name):
    import importlib

    return importlib.import_module(f"linflow.verified.{name}").np


def test_what_is_not_finite_or_does_not_converge_proves_nothing(monkeypatch):
    for bad in (np.nan, np.inf):
        assert least_eigenvalue(np.array([[1.0, bad], [bad, 1.0]])) == -np.inf
        assert least_eigenvalue(np.array([[1.0, bad], [bad, 1.0]]), floor=-3.0) == -3.0

    def fails(A):
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    monkeypatch.setattr(np.linalg, "eigvalsh", fails)
    assert least_eigenvalue(np.eye(2)) == -np.inf


def test_what_overflow_leaves_undefined_is_unknown():
    nan, inf = math.nan, math.inf
    assert rounding.known(nan, nan) == (-inf, inf) and rounding.known(nan, 2.0) == (-inf, 2.0)
    assert rounding.known(1.0, nan) == (1.0, inf) and rounding.known(-1.0, 2.0) == (-1.0, 2.0)


SAMPLES = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    "problem",
    [
        affine_gradient(lf.LinearRegression([[1.0, 1.0], [1.0, 1.0]], [[1.0], [2.0]])),  # of rank 1
        HuberGradient.over(lf.Huber([[1.0, 1.0], [1.0, 1.0]], [[1.0], [2.0]], 1e10), SAMPLES),  # of rank 1
        TailGradient.of(lf.ExponentialLoss(np.eye(2), np.ones((2, 1)))),
        SoftmaxGradient.over(lf.SoftmaxLoss(SAMPLES, [0, 1, 1]), SAMPLES),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_a_gap_past_float64_is_bounded_by_infinity(problem):
    # In each sum, infinity meets its opposite or 0.
    W = np.eye(2) if isinstance(problem, SoftmaxGradient) else np.ones((2, 1))
    with np.errstate(all="ignore"):
        bounds = [problem.gap(size * W, 1.0) for size in (-1e300, 1e150, 1e300)]
    assert not np.isnan(bounds).any()
    assert bounds[-1][0] <= 0 and bounds[-1][1] == math.inf
