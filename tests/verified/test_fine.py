"""The gradient of a regression in pairs: against rationals, its allowances written out, and a flow that it proves."""

import dataclasses
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow.verified import fine
from linflow.verified.arithmetic import FLOAT64, PAIRS
from linflow.verified.fine import FineGradient, fine_regression, pair, product, total
from linflow.verified.march import EnclosureMarch
from linflow.verified.problem import affine_gradient
from linflow.verified.rounding import U, spectral
from linflow.verified.taylor import Expansion
from tests.verified.test_literal_path import coarse, drawn, fro, g, near, tiny, u, up

__all__ = ["coarse"]


def exactly(A):
    """A matrix, or a matrix of pairs, in rationals."""
    A = A if A.ndim == 3 else pair(A)
    return np.array([[Fraction(float(a)) + Fraction(float(b)) for a, b in row] for row in A], dtype=object)


def size(A):
    return math.sqrt(float(sum(x * x for x in A.ravel())))


@pytest.mark.parametrize(("samples", "inputs", "rank"), [(7, 3, 3), (3, 5, 3), (8, 4, 2), (4, 1, 1)])
@pytest.mark.parametrize("scale", [1.0, 2.0**27, 2.0**-27])
def test_every_error_is_within_its_bound_and_of_the_size_of_pairs(samples, inputs, rank, scale):
    few, mixed = np.round(drawn(samples, rank, seed=1), 3), np.round(8 * drawn(rank, inputs, seed=2))
    X = scale * (few if rank == inputs else np.round(few * 1024) @ mixed)  # of this rank, without rounding
    Y = drawn(samples, 2, seed=3)
    problem = affine_gradient(lf.LinearRegression(X, Y))
    found = problem.fine
    A, V, Xe, Ye = exactly(found.A), exactly(found.V), exactly(X), exactly(Y)
    square, R = Xe.T @ Xe, Xe.T @ (Xe @ V - Ye)
    of_A, of_R = size(X) ** 2, size(X) * (size(X) * size(problem.V) + size(Y))
    assert size(A - square) <= found.error <= 1e-29 * of_A
    assert size(R) <= found.residue <= 1e-28 * of_R < 1e-9 * problem.residue
    # V moved by no more than its rounding, which for X of deficient rank is that of its pseudo-inverse.
    assert size(V - exactly(problem.V)) <= found.shift <= 1e-12 * size(problem.V)
    assert size(square) <= found.length <= size(square) * (1 + 1e-12)
    assert np.linalg.norm(X, 2) ** 2 <= found.norm * (1 + 1e-14) <= 1.05 * np.linalg.norm(X, 2) ** 2
    E = exactly(total(product(found.A, found.V), pair(drawn(inputs, 2, seed=4))))
    rounded = np.array([[(float(x), float(x - Fraction(float(x)))) for x in row] for row in E])
    off = size(exactly(rounded) - E)
    gap = size(exactly(found.apply(rounded)) - square @ E)
    assert gap <= found.error_of(size(E), off) <= 1e-28 * of_A * size(E)


def test_its_allowances(coarse, monkeypatch):
    unit = 2.0**-9
    monkeypatch.setattr(fine, "UNIT", unit)

    def gu(count):
        return count * unit / (1 - count * unit) * (1 + 4 * u)

    def long(A):
        return fro(A[..., 0]) * (1 + 2 * u)

    X, Y, V = drawn(4, 3, seed=1), drawn(4, 2, seed=2), drawn(3, 2, seed=3)
    monkeypatch.setattr(fine, "CORRECTIONS", 0)
    found = fine_regression(X, Y, V)
    r = total(product(pair(X), pair(V)), pair(-Y))
    R = product(pair(X.T.copy()), r)
    missing = gu(4) * fro(X) * long(pair(V)) + unit * long(r)
    assert found.residue == near((long(R) + gu(5) * fro(X) * long(r) + spectral(X) * missing * up) * up + tiny)
    A = found.A[..., 0]
    assert found.error == near(gu(5) * fro(X) ** 2 * up + tiny)
    assert found.norm == near((spectral(A) + 2 * u * fro(A) + found.error) * up)
    assert found.length == near(long(found.A)) and found.shift == near(tiny * (1 + 2 * u) * up + tiny)
    inner = FineGradient(found.V, found.A, 3.0, 5.0, 2.0**-8, 0.0, 0.0)
    assert inner.error_of(7.0, 0.25) == near((3 * 0.25 + (gu(4) * 5 + 2.0**-8) * 7) * up + tiny)
    assert FineGradient(found.V).error_of(7.0, 0.25) == near(0.25 * up + tiny)
    assert fine.length(found.A) == near(long(found.A))
    monkeypatch.setattr(fine, "CORRECTIONS", 1)  # the better V of two, and how far it is
    moved = fine_regression(X, Y, V)
    assert moved.residue < found.residue
    assert moved.shift == near(long(total(moved.V, -pair(V))) * up + tiny)
    assert g(1) > u  # the roundoff is the coarse one


def test_a_worse_correction_is_not_taken(monkeypatch):
    monkeypatch.setattr(np.linalg, "lstsq", lambda A, B, rcond: (np.ones((3, 2)),))
    V = drawn(3, 2, seed=3)
    found = fine_regression(drawn(4, 3, seed=1), drawn(4, 2, seed=2), V)
    assert np.array_equal(found.V, pair(V)) and found.shift < 1e-140


def test_which_gradients_are_known_to_twice_the_digits():
    assert fine.UNIT == 8 * U * U == PAIRS.unit
    Y, X = np.eye(2), drawn(3, 2)
    assert PAIRS.fits(affine_gradient(lf.MatrixFactorization(Y)))
    assert PAIRS.fits(affine_gradient(lf.LinearRegression(X, drawn(3, 2))))
    assert not PAIRS.fits(affine_gradient(lf.Quadratic(np.eye(2), C=Y)))
    # Its rank is that of rounding, so its computed minimiser is none of the exact X.
    few = affine_gradient(lf.LinearRegression(drawn(5, 1) @ drawn(1, 3), drawn(5, 1, seed=7)))
    assert few.fine.residue > 1e-3 * few.residue and not PAIRS.fits(few)
    problem = affine_gradient(lf.MatrixFactorization(Y))
    assert problem.fine == FineGradient(problem.fine.V) and np.array_equal(problem.fine.V, pair(Y))
    assert FLOAT64.gradient(problem) is problem and problem.shift == 0.0


def test_gaps_are_measured_from_the_float64_minimiser():
    """Its distance to that in pairs counts once, in the distance of the product only."""
    problem = affine_gradient(lf.LinearRegression(drawn(4, 3, seed=1), drawn(4, 2, seed=2)))
    given = [drawn(3, 2, seed=3), drawn(2, 2, seed=4)], 0.75, 1.0, 2, PAIRS
    plain = Expansion(problem, *given)
    problem.__dict__["fine"] = dataclasses.replace(problem.fine, shift=0.25)
    moved = Expansion(problem, *given)
    assert moved.distance_error == near(plain.distance_error + 0.25) and 0 < plain.distance_error < 1e-13
    assert np.array_equal(moved.slope.errors, plain.slope.errors)


def test_a_path_in_pairs_stays_within_its_radius_of_a_flow_of_50_digits():
    """Three equal scalar layers: `ẇ = −a w²(w³ − v)` with rational a, v. Time is an integral of w."""
    x, y = np.array([[0.3], [1.1], [-0.7]]), np.array([[0.2], [0.9], [-0.8]])
    march = EnclosureMarch(
        affine_gradient(lf.LinearRegression(x, y)), [np.array([[0.125]])] * 3, 1.0, arithmetic=PAIRS
    )
    while march.gap[0] > 1e-8 * march.first[0]:
        assert march.advance() is not None
    with mpmath.workdps(50):
        a, b = (
            mpmath.fsum(mpmath.mpf(float(p)) * float(q) for p, q in zip(x[:, 0], z[:, 0], strict=True))
            for z in (x, y)
        )
        v = b / a

        def time(w):
            return mpmath.quad(lambda z: 1 / (a * z * z * (v - z**3)), mpmath.linspace(mpmath.mpf("0.125"), w, 12))

        ends = [W[0, 0] for W in (c[0] for c in march.node.path.coefficients)]
        w = mpmath.mpf(float(ends[0][0])) + float(ends[0][1])
        slope = a * w * w * (v - w**3)
        off = abs(time(w) - march.t) * slope  # of each of the three weights, to first order
        assert 0 < off * mpmath.sqrt(3) <= march.radius < 1e-25
        assert abs(v - w**3) > 1e6 * off
    low, high = march.gap
    assert low <= float(a * (w**3 - v) ** 2 / 2) <= high
