"""Alignment of the product with −∇f(0), and of the layers with each other."""

import math

import numpy as np
import pytest

import linflow as lf


def turned(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def test_the_sines_are_those_of_the_angles_between_the_leading_vectors():
    f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
    # W = U diag(2, 0.5) Vᵀ
    W1, W2 = turned(0.3) @ np.diag([2.0, 0.5]), turned(-1e-9)
    found = lf.alignment(f, [W1, W2])
    assert found.left == pytest.approx([math.sin(0.3)], rel=1e-14)
    assert found.right == pytest.approx([1e-9], rel=1e-6)  # rounding of 1 in the vectors is 1e-7 of 1e-9
    assert found.sine == pytest.approx(math.sin(0.3), rel=1e-14)
    assert lf.alignment(f, [W1.T, W2]).sine == pytest.approx(math.sin(0.3), rel=1e-8)  # on the right
    assert found.rank == 1 and repr(found) == "SpectralAlignment(rank 1, sine 0.2955)"


def test_angles_of_subspaces_are_principal_angles():
    f = lf.MatrixFactorization(np.diag([4.0, 3.0, 2.0, 1.0]))
    # Turn e1 towards e3 by 0.2 and e2 towards e4 by 0.5: the two planes have just these angles.
    Q = np.eye(4)
    Q[np.ix_([0, 2], [0, 2])] = turned(0.2)
    Q[np.ix_([1, 3], [1, 3])] = turned(0.5)
    mixed = np.eye(4)
    mixed[:2, :2] = turned(1.0)  # within the plane: no angle
    found = lf.alignment(f, [Q @ mixed @ np.diag([5.0, 4.0, 0.2, 0.1]), np.eye(4)], rank=2)
    assert found.left == pytest.approx([math.sin(0.5), math.sin(0.2)], rel=1e-13)
    assert found.right == pytest.approx([0.0, 0.0], abs=1e-15)


def test_the_reference_is_the_gradient_at_zero_and_not_the_solution(rng):
    X, Y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    f = lf.LinearRegression(X, Y)
    U, s, Vt = np.linalg.svd(X.T @ Y)
    aligned = lf.alignment(f, [s[0] * U[:, :1] @ Vt[:1], np.eye(2)])
    assert aligned.sine < 1e-14  # rounding of unit vectors
    scaled = lf.alignment(f, lf.Network([1e-9 * U[:, :1] @ Vt[:1], np.eye(2)], scale=3.0))
    assert scaled.sine < 1e-14


def test_layers_with_each_other():
    f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
    A, B, C = np.diag([2.0, 1.0]), turned(0.4) @ np.diag([2.0, 1.0]), np.eye(2)
    found = lf.alignment(f, [A, B, C])
    assert found.between[0] == pytest.approx(math.sin(0.4), rel=1e-14)
    assert np.isnan(found.between[1])  # the identity has no leading vector


@pytest.mark.parametrize("rank", [1, 2])
def test_a_smaller_start_is_aligned_better_when_it_is_half_learned(rank, rng):
    Y = np.linalg.qr(rng.standard_normal((4, 4)))[0] @ np.diag([3.0, 2.0, 0.6, 0.3])
    f = lf.MatrixFactorization(Y)
    left = rng.standard_normal((4, 6)), rng.standard_normal((6, 4))
    sines = []
    for alpha in (1e-2, 1e-4):
        run = lf.gradient_flow(f, [alpha * W for W in left], until=0.3 if rank == 1 else 0.05)
        sines.append(lf.alignment(f, run.final, rank).sine)
    assert sines[1] < 0.5 * sines[0] < 0.25


def test_what_counts_as_equal():
    """Eight ε of the greatest singular value: about what rounding makes of equal ones."""
    eps, f = np.finfo(float).eps, lf.MatrixFactorization(np.diag([3.0, 2.0, 1.0]))
    for apart, rank, s in ((7.5, 1, (1.0, 0.1)), (8.5, 1, (1.0, 0.1)), (50.0, 2, (1e3, 1.0))):
        values = np.array([s[0], s[0] - apart * eps, s[1]] if rank == 1 else [s[0], s[1] + apart * eps, s[1]])
        if apart == 8.5:
            assert lf.alignment(f, [np.diag(values), np.eye(3)], rank).rank == rank
        else:
            with pytest.raises(ValueError, match="not determined"):
                lf.alignment(f, [np.diag(values), np.eye(3)], rank)


def test_what_is_refused():
    f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
    with pytest.raises(ValueError, match="rank is 3; this network has products of rank 2 at most"):
        lf.alignment(f, [np.eye(2), np.eye(2)], 3)
    with pytest.raises(ValueError, match="rank 1 at most"):
        lf.alignment(f, [np.ones((2, 1)), np.ones((1, 2))], 2)
    with pytest.raises(
        ValueError, match=r"singular value 1 of the product is 1, and the next one is 1: .* run the flow"
    ):
        lf.alignment(f, [np.eye(2), np.eye(2)])
    with pytest.raises(ValueError, match=r"of −∇f\(0\) is 1, .*ask for another rank"):
        lf.alignment(lf.MatrixFactorization(np.eye(2)), [np.diag([2.0, 1.0]), np.eye(2)])
    with pytest.raises(ValueError, match="the next one is 0"):
        lf.alignment(f, [np.zeros((2, 2)), np.eye(2)], 2)
    assert lf.alignment(f, [np.eye(2), np.eye(2)], 2).sine < 1e-15  # the whole space
