"""Tied layers X Xᵀ against the flow of X itself, and the sandwich of their eigenvalues."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import linflow as lf
from linflow import exact


def tied_flow(Y, X, t):
    """`Ẋ = (Y − XXᵀ) X`, integrated to 1e-13 a step; the judge is right to 1e-10."""

    def field(_, x):
        A = x.reshape(X.shape)
        return ((Y - A @ A.T) @ A).ravel()

    run = solve_ivp(field, (0.0, t), X.ravel(), method="DOP853", rtol=1e-13, atol=1e-16)
    A = run.y[:, -1].reshape(X.shape)
    return A @ A.T


def instance(rng, n, h, size=0.3):
    Y = rng.standard_normal((n, n))
    return Y + Y.T, size * rng.standard_normal((n, h))


@pytest.mark.parametrize(("n", "h"), [(1, 1), (3, 1), (3, 2), (4, 4), (3, 6)])
def test_the_closed_form_is_the_flow_of_x(rng, n, h):
    Y, X = instance(rng, n, h)
    times = [0.0, 0.3, 1.1]
    found = exact.symmetric(Y, X, times)
    np.testing.assert_allclose(found[0], X @ X.T, atol=1e-14)  # rounding of entries of size 1
    for t, Q in zip(times[1:], found[1:], strict=True):
        np.testing.assert_allclose(Q, tied_flow(Y, X, t), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(exact.symmetric(Y, X, t), Q, rtol=0, atol=1e-15)
        by_product = exact.symmetric_end_to_end(lf.MatrixFactorization(Y), X, t)
        np.testing.assert_allclose(by_product, Q, rtol=1e-9, atol=1e-10)


def test_one_mode_is_the_logistic_curve():
    y, a, t = 1.7, 1e-3, np.linspace(0, 8, 9)
    found = exact.symmetric([[y]], [[a]], t)[:, 0, 0]
    # q = y / (1 + (y/a² − 1) e^{−2yt})
    assert found == pytest.approx(y / (1 + (y / a**2 - 1) * np.exp(-2 * y * t)), rel=1e-13, abs=0)


def test_late_times_are_the_best_positive_part_of_low_rank(rng):
    """h columns learn the h largest positive eigenvalues; the negative ones are never learned."""
    V = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    Y = V @ np.diag([3.0, 2.0, 1.0, -4.0]) @ V.T
    for h, kept in ((2, [3.0, 2.0, 0, 0]), (4, [3.0, 2.0, 1.0, 0])):
        Q = exact.symmetric(Y, 0.1 * rng.standard_normal((4, h)), 1e3)
        np.testing.assert_allclose(Q, V @ np.diag(kept) @ V.T, atol=1e-12)  # rounding of entries of size 3


def test_untied_layers_follow_the_same_flow(rng):
    """While no rounding has grown: with a positive definite Y the untied flow stays where the tied one is."""
    Y, X = instance(rng, 3, 4)
    Y = Y @ Y
    run = lf.gradient_flow(lf.MatrixFactorization(Y), [X, X.T], t_max=1.0, times=[0.4])
    # The run's relative tolerance of a step is 1e-8.
    np.testing.assert_allclose(run.network_at(0.4).product(), exact.symmetric(Y, X, 0.4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n", "h"), [(1, 1), (3, 1), (3, 3), (4, 7)])
@pytest.mark.parametrize("size", [1e-4, 0.2, 2.0])
def test_the_eigenvalues_stay_between_their_bounds(rng, n, h, size):
    for _ in range(10):
        Y, X = instance(rng, n, h, size)
        times = np.linspace(0.0, 3.0, 13)
        low, high = exact.symmetric_bounds(Y, X, times)
        seen = np.linalg.eigvalsh(exact.symmetric(Y, X, times))[:, ::-1]
        room = 1e-13 * np.max(high)  # rounding of the greatest eigenvalue
        assert (low <= seen + room).all() and (seen <= high + room).all()
        assert exact.symmetric_bounds(Y, X, 1.5)[0] == pytest.approx(low[6], rel=1e-15, abs=0)
        if h < n:
            assert (low == 0).all()


def test_bounds_are_attained_by_a_multiple_of_an_orthogonal_start(rng):
    Y, _ = instance(rng, 3, 3)
    a, t = 0.05, 1.3
    X = a * np.linalg.qr(rng.standard_normal((3, 3)))[0]
    low, high = exact.symmetric_bounds(Y, X, t)
    y = np.linalg.eigvalsh(Y)[::-1]
    literal = a**2 * np.exp(2 * y * t) / (1 + a**2 * np.expm1(2 * y * t) / y)
    assert low == pytest.approx(literal, rel=1e-12, abs=0) and high == pytest.approx(literal, rel=1e-12, abs=0)
    assert np.linalg.eigvalsh(exact.symmetric(Y, X, t))[::-1] == pytest.approx(literal, rel=1e-10, abs=1e-15)


def test_end_to_end_uses_the_symmetric_part_of_the_gradient(rng):
    Y, X = instance(rng, 3, 2)
    tilted = Y + np.array([[0, 1.0, 2], [-1, 0, 3], [-2, -3, 0]])
    found = exact.symmetric_end_to_end(lf.MatrixFactorization(tilted), X, 0.7)
    np.testing.assert_allclose(found, exact.symmetric(Y, X, 0.7), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_rounding_of_y_is_taken_out_and_more_is_refused(rng, size):
    tilt = size * 1e-10 * np.array([[0.0, 1.0], [-1.0, 0.0]]) / np.sqrt(2)  # ‖Y − Yᵀ‖ is 2e-10 of ‖Y‖ per unit
    Y = size * np.diag([0.6, 0.8])
    X = rng.standard_normal((2, 2))
    assert np.array_equal(exact.symmetric(Y + 0.49 * tilt, X, 1 / size), exact.symmetric(Y, X, 1 / size))
    with pytest.raises(ValueError, match="not symmetric"):
        exact.symmetric(Y + 0.6 * tilt, X, 1 / size)


def test_a_target_of_zero():
    # q̇ = −2q²
    assert exact.symmetric([[0.0]], [[0.5]], 3.0)[0, 0] == pytest.approx(1 / (1 / 0.25 + 2 * 3.0), rel=1e-14)


def test_what_is_refused(rng):
    with pytest.raises(ValueError, match=r"Y is not symmetric: ‖Y − Yᵀ‖ is 1\.41.*give that"):
        exact.symmetric([[0.0, 1.0], [0.0, 0.0]], np.eye(2), 1.0)
    with pytest.raises(ValueError, match="XXᵀ is square"):
        exact.symmetric_end_to_end(lf.MatrixFactorization(np.ones((2, 3))), np.eye(2), 1.0)
    with pytest.raises(ValueError, match="Y"):
        exact.symmetric_bounds(np.eye(3), np.eye(2), 1.0)
