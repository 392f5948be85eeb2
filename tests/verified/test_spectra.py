"""Eigenvalues and singular values with proved bounds, against 50 digits and against arithmetic that errs."""

import mpmath
import numpy as np
import pytest

from linflow.verified import spectra
from linflow.verified.rounding import TINY, UP
from tests.verified_judge import COARSE, Coarse, coarse, coarsened


def shapes(seed=0):
    rng = np.random.default_rng(seed)
    yield "gaussian", rng.standard_normal((5, 4))
    yield "wide", rng.standard_normal((2, 7))
    yield "column", rng.standard_normal((6, 1))
    yield "rank one", np.outer(rng.integers(1, 9, 5), rng.integers(-9, -1, 6)).astype(float)
    yield "orthogonal", np.linalg.qr(rng.standard_normal((6, 6)))[0]
    yield "equal", np.eye(4)
    yield "graded", np.diag(10.0 ** np.arange(-8, 9, 4)) @ rng.standard_normal((5, 5))
    yield "tiny", 1e-140 * rng.standard_normal((3, 4))
    yield "huge", 1e60 * rng.standard_normal((3, 3))
    yield "zero", np.zeros((3, 2))


SHAPES = list(shapes())


def digits(A):
    return mpmath.matrix([[mpmath.mpf(float(x)) for x in row] for row in np.atleast_2d(A)])


def true_eigenvalues(A):
    """Return the eigenvalues, descending, to 50 digits."""
    with mpmath.workdps(50):
        found = mpmath.eigsy(A if isinstance(A, mpmath.matrix) else digits(A), eigvals_only=True)
        return sorted(found, reverse=True)


def inside(low, true, high):
    assert all(a <= x <= b for a, x, b in zip(low, true, high, strict=True)), (low, true, high)


@pytest.mark.parametrize(("name", "A"), SHAPES, ids=lambda x: x if isinstance(x, str) else "")
def test_eigenvalues_lie_within_bounds_that_are_tight_and_in_order(name, A):
    S = A @ A.T - 0.5 * np.diag(np.arange(len(A)))
    S = (S + S.T) / 2
    low, high = spectra.eigenvalue_bounds(S)
    inside(low, true_eigenvalues(S), high)
    assert (np.diff(low) <= 0).all() and (np.diff(high) <= 0).all()
    assert (high - low).max() <= 1e-13 * np.linalg.norm(S) + 3 * TINY


def test_a_known_error_widens_the_bounds_by_itself():
    S = np.diag([2.0, -1.0])
    (low, high), (wide, wider) = spectra.eigenvalue_bounds(S), spectra.eigenvalue_bounds(S, 0.25)
    np.testing.assert_allclose(low - wide, 0.25, rtol=1e-9)
    np.testing.assert_allclose(wider - high, 0.25, rtol=1e-9)


def test_eigenvalues_of_what_is_not_finite_are_anything():
    low, high = spectra.eigenvalue_bounds(np.array([[np.nan, 0.0], [0.0, 1.0]]))
    assert (low == -np.inf).all() and (high == np.inf).all()


def test_a_decomposition_that_is_no_basis_proves_the_norm_alone(monkeypatch):
    S = np.diag([3.0, -4.0])
    monkeypatch.setattr(np.linalg, "eigh", lambda A: (np.array([0.0, 0.0]), np.zeros((2, 2))))
    low, high = spectra.eigenvalue_bounds(S, 0.5)
    assert low == pytest.approx(-5.5) and high == pytest.approx(5.5) and (high >= 5.5).all()


@pytest.mark.parametrize("tilt", [0.0, 0.01, -0.02])
def test_a_wrong_decomposition_makes_the_bounds_wide_never_wrong(tilt, monkeypatch):
    """Nothing is taken on trust: not the order of the eigenvalues, not the basis, not the values."""
    S = np.array([[2.0, 1.0], [1.0, -1.0]])
    true = true_eigenvalues(S)
    values, P = np.linalg.eigh(S)
    wrong = P @ np.diag([1 + tilt, 1 - 0.5 * tilt])
    monkeypatch.setattr(np.linalg, "eigh", lambda A: (values[::-1] + 3 * tilt, wrong[:, ::-1]))
    low, high = spectra.eigenvalue_bounds(S)
    inside(low, true, high)
    assert (high - low).max() < 30 * abs(tilt) + 1e-12  # the residual is some 10 tilts here


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_residual_counts_its_own_rounding(sign, monkeypatch):
    """A computed residual of 0 proves no more than the products that it was made from."""
    S = coarsened([[3.0]])
    with coarse(monkeypatch, sign):
        # What the products come to is taken for the eigenvalue, so that the residual is 0.
        P = coarsened([[1.0]])
        told = np.asarray(P.T @ (S @ P))[0]
        monkeypatch.setattr(spectra.np.linalg, "eigh", lambda A: (told.copy(), P))
        low, high = spectra.eigenvalue_bounds(S)
    assert abs(told[0] - 3.0) > 1.9 * 3 * COARSE  # both products err
    assert low[0] <= 3.0 <= high[0]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_basis_counts_its_own_rounding(sign, monkeypatch):
    """`PᵀP = I` as computed may be off, and a large eigenvalue is then off by as much of itself."""
    a = np.sqrt(1 - sign * Coarse.gamma(1))  # so that a² as computed is 1
    S = coarsened([[3.0]])
    with coarse(monkeypatch, sign):
        P = coarsened([[a]])
        told = np.asarray(P.T @ (S @ P))[0]
        monkeypatch.setattr(spectra.np.linalg, "eigh", lambda A: (told.copy(), P))
        low, high = spectra.eigenvalue_bounds(S)
    assert low[0] <= 3.0 <= high[0]


@pytest.mark.parametrize(("name", "A"), SHAPES, ids=lambda x: x if isinstance(x, str) else "")
def test_singular_values_lie_within_bounds_that_are_tight(name, A):
    low, high = spectra.singular_value_bounds(A)
    with mpmath.workdps(50):
        M = digits(A)
        gram = M * M.T if A.shape[0] <= A.shape[1] else M.T * M
        true = [mpmath.sqrt(max(x, mpmath.mpf(0))) for x in true_eigenvalues(gram)]
    slack = mpmath.mpf(10) ** -20 * (true[0] + mpmath.mpf(10) ** -160)  # roots of eigenvalues of 50 digits
    inside(low, [x + slack if x < slack else x for x in true], high + 1e-180)
    assert (high - low).max() <= 1e-13 * np.linalg.norm(A) + 10 * TINY and (low >= 0).all()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_singular_values_count_the_rounding_of_their_residual(sign, monkeypatch):
    with coarse(monkeypatch, sign):
        W, one = coarsened([[3.0]]), coarsened([[1.0]])
        # s is chosen so that u s vᵀ, as computed, is W.
        s = 3.0 / (1 + sign * COARSE) / (1 + sign * Coarse.gamma(1))
        monkeypatch.setattr(spectra.np.linalg, "svd", lambda A, full_matrices: (one, coarsened([s]), one))
        low, high = spectra.singular_value_bounds(W)
    assert low[0] <= 3.0 <= high[0]


def test_singular_values_of_a_wrong_decomposition_are_wide_never_wrong(monkeypatch):
    W = np.diag([3.0, 1.0])
    u = np.array([[1.0, 0.02], [0.0, 1.0]])
    monkeypatch.setattr(np.linalg, "svd", lambda A, full_matrices: (u, np.array([1.2, 2.9]), np.eye(2)[:, ::-1]))
    low, high = spectra.singular_value_bounds(W)
    assert (low <= [3.0, 1.0]).all() and (high >= [3.0, 1.0]).all()


@pytest.mark.parametrize("widths", [(2, 3, 2), (2, 9, 3), (1, 30, 1), (4, 2, 3), (3, 6, 3), (3, 7, 3)])
def test_imbalances_lie_within_their_bounds(widths):
    a, h, b = widths
    rng = np.random.default_rng(sum(widths))
    A, B = rng.standard_normal((a, h)), rng.standard_normal((h, b))
    low, high = spectra.imbalance_bounds(A, B)
    with mpmath.workdps(50):
        exact = digits(A).T * digits(A) - digits(B) * digits(B).T
        true = true_eigenvalues((exact + exact.T) / 2)
    zero = mpmath.mpf(10) ** -40
    inside(low, [mpmath.mpf(0) if abs(x) < zero else x for x in true], high)
    assert len(low) == h and (high - low).max() < 1e-12 * (np.sum(A**2) + np.sum(B**2))
    if h > a + b:
        assert ((low == 0) & (high == 0)).sum() == h - a - b


@pytest.mark.parametrize("sign", [-1.0, 1.0, 0.0])
@pytest.mark.parametrize("widths", [(2, 3, 2), (1, 7, 2)])
def test_imbalances_count_all_their_rounding(widths, sign, monkeypatch):
    a, h, b = widths
    rng = np.random.default_rng(5)
    A, B = rng.standard_normal((a, h)), rng.standard_normal((h, b))
    true = [float(x) for x in true_eigenvalues(A.T @ A - B @ B.T)]
    with coarse(monkeypatch, sign):
        low, high = spectra.imbalance_bounds(coarsened(A), coarsened(B))
    assert (np.asarray(low) <= np.array(true) + 1e-13).all() and (np.asarray(high) >= np.array(true) - 1e-13).all()


def test_a_balanced_pair_with_an_inexact_basis(monkeypatch):
    """The basis of a wide layer is not trusted: R alone may be far from a factor of BᵀB."""
    A, B = np.array([[2.0, 0.0, 0.0]]), np.array([[0.0], [1.0], [0.0]])
    Q = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    monkeypatch.setattr(np.linalg, "qr", lambda M: (Q, np.diag([1.9, 1.0])))
    low, high = spectra.imbalance_bounds(A, B)
    assert low[0] <= 4.0 <= high[0] and low[-1] <= -1.0 <= high[-1]
    monkeypatch.setattr(np.linalg, "qr", lambda M: (0.5 * Q, np.diag([2.0, 1.0]) / 0.5))
    low, high = spectra.imbalance_bounds(A, B)
    assert low[0] <= 4.0 <= high[0] and low[-1] <= -1.0 <= high[-1]
    assert UP > 1
