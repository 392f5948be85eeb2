"""The errors of a Huber regression in a verified run, number by number, as docs/losses.md says."""

import itertools
import math
import sys

import numpy as np
import pytest

import linflow as lf
from linflow.model.robust import Piece
from linflow.verified import huber
from linflow.verified.huber import HuberGradient, _pieces
from linflow.verified.rounding import DOWN, TINY, UP, U, frobenius, gamma, least_eigenvalue


@pytest.fixture(params=["fine", "coarse"])
def problem(request, monkeypatch):
    if request.param == "coarse":  # so coarse that no allowance is lost beside another one
        coarse = {"U": 2.0**-17, "UP": 1.25, "DOWN": 0.75, "TINY": 2.0**-10, "gamma": lambda count: count * 2.0**-14}
        for module, name in itertools.product((huber, sys.modules[__name__]), coarse):
            monkeypatch.setattr(module, name, coarse[name])
    rng = np.random.default_rng(1)
    X = rng.standard_normal((8, 2))
    Y = X @ rng.standard_normal((2, 2)) + 0.01 * rng.standard_normal((8, 2))
    Y[0] += 4.0
    return HuberGradient.over(lf.Huber(X, Y, 0.5), X)


def parts(problem):
    f = problem.objective
    lengths = frobenius(f.X[:, None, :])[:, None]
    V = f.minimizer
    R = f.X @ V - f.Y
    near = gamma(4) * (lengths * frobenius(V.T[:, None, :]) + np.abs(f.Y)) * UP + TINY
    return f.X, lengths, V, R, near


def test_the_gradient_at_the_minimiser(problem):
    X, lengths, _, R, near = parts(problem)
    assert np.array_equal(problem._residual_error, near)
    S = np.clip(R, -0.5, 0.5)
    errors = lengths * (gamma(8) * np.abs(S) + np.where(np.abs(R) - near <= 0.5, near, 0.0))
    expected = (frobenius((X.T @ S).T[:, None, :]) + errors.sum(axis=0)) * UP
    assert np.array_equal(problem._descents, expected) and (errors > 0).all() and (np.abs(R[0]) > 1).all()
    assert problem._away == float(frobenius(expected[None])) * UP
    tops = [max(p.curvature for p in pieces) for pieces in problem.proved]
    assert problem._offset == sum(g * g / (2 * mu) for g, mu in zip(expected, tops, strict=True)) * UP > 0


def test_where_a_column_is_strongly_convex(problem):
    X, lengths, _, R, near = parts(problem)
    slack = (0.5 - np.abs(R) - near - 4 * U * 0.5)[:, 0]
    for slope in (problem._descents[0], 0.05):
        found = _pieces(X, slack, lengths[:, 0], slope)
        chosen = np.argsort(-slack, kind="stable")[: int(np.sum(slack > 0))]
        A, size = X[chosen].T @ X[chosen], float(frobenius(X[chosen]))
        mu = least_eigenvalue((A + A.T) / 2, gamma(len(chosen) + 2) * size * size * UP + TINY) * DOWN
        room = slack[chosen] - 2 * lengths[chosen, 0] * (slope / mu) * UP
        leverage = np.minimum(1.0, lengths[chosen, 0] ** 2 / mu * UP)
        assert found[0] == Piece(mu, float(np.min(room * room / leverage)) / 2 * DOWN)
    assert problem.proved[0] == _pieces(X, slack, lengths[:, 0], problem._descents[0])


def test_slopes_are_off_by_what_their_side_of_the_kink_allows(problem):
    X, lengths, V, R0, near = parts(problem)
    W, off = V + np.array([[0.7, 0.0], [0.2, 1e-3]]), 1e-5
    P, errors, R, away, e, kink = problem._turned(W, off)
    D = X @ (W - V)
    S = np.clip(R0, -0.5, 0.5)
    assert np.array_equal(R, R0 + D) and np.array_equal(away, (R0 - S) + D)
    assert np.array_equal(P, np.where(np.abs(R) <= 0.5, away, np.sign(R) * 0.5 - S))
    moved = lengths * (gamma(4) * frobenius(W - V) + off) * UP + TINY
    close = near + 4 * U * (np.abs(R) + np.abs(R0) + 0.5)
    inside = (np.abs(R0) + close <= 0.5) & (np.abs(R) + close + moved <= 0.5)
    beyond = (np.abs(R0) - close > 0.5) & (np.abs(R) - close - moved > 0.5) & (np.sign(R) == np.sign(R0))
    assert inside.any() and beyond.any() and (~inside & ~beyond).any()
    assert np.array_equal(kink, np.where(inside | beyond, 0.0, close))
    assert np.array_equal(e, np.where(beyond, 0.0, moved))
    assert np.array_equal(errors, np.where(beyond, 0.0, moved + kink) * UP)


def test_gap_and_gradient_carry_every_error(problem):
    _, lengths, V, _, _ = parts(problem)
    W, off = V + np.array([[0.7, 0.0], [0.2, 1e-3]]), 1e-5
    P, errors, R, away, e, kink = problem._turned(W, off)
    turned = 0.5 - np.sign(R) * problem._slopes
    terms = np.where(np.abs(R) <= 0.5, 0.5 * away * away, turned * ((np.abs(R) - 0.5) + 0.5 * turned))
    value, size = float(np.sum(terms)), np.abs(P) + errors
    slack = float(np.sum((size + e) * e + kink * (np.abs(R - problem._residual) + kink + size + e)))
    slack += problem._away * (float(frobenius(W - V)) + off)
    slack = (slack + gamma(16 + 12) * value) * UP + TINY
    low, high = problem.gap(W, off)
    assert low == pytest.approx(value - slack, rel=1e-14) and low < value < high
    assert high == pytest.approx((value + slack + problem._offset) * UP, rel=1e-14)
    at_rest = problem.gap(V, 0.0)
    assert at_rest[0] == 0.0 and at_rest[1] >= problem._offset > 0
    P, errors, *_ = problem._turned(W, 0.0)
    rows = np.sqrt(np.sum(P * P, axis=1)) * UP + TINY
    rounding = gamma(8) * float(np.sum(lengths[:, 0] * rows))
    expected = problem._norm * float(frobenius(errors)) + rounding + problem._away
    for given in (0.0, 1e-20):
        _, error = problem.gradient(W, given)
        assert error == pytest.approx((expected + problem.smoothness * given) * UP, rel=1e-14, abs=0)
    assert min(rounding, problem._away) > 1e-3 * expected


def test_a_kink_is_looked_for_within_half_of_the_way():
    f = lf.Huber(np.array([[2.0]]), np.array([[0.0]]), 1.0)
    problem = HuberGradient.over(f, f.X)
    W = np.array([[[0.4]], [[0.1]], [[0.4]]])  # residuals 0.8, 0.2 and 0.8
    for moved, expected in ((0.19, [False, False]), (0.21, [True, True])):
        assert problem.kinked(W, np.zeros(3), moved).tolist() == expected
    assert problem.kinked(W[:2], np.zeros(2), 0.21).tolist() == [True]
    assert problem.kinked(W[1:], np.zeros(2), 0.21).tolist() == [True]
    assert problem.kinked(W[1:2].repeat(2, axis=0), np.zeros(2), 0.21).tolist() == [False]
    edge = math.nextafter(0.5, 0.0)  # its residual is 1 to rounding
    assert problem.kinked(np.array([[[edge]], [[edge]]]), np.zeros(2), 0.0).tolist() == [True]


def test_constants_and_dominance_are_rounded_to_their_side(problem):
    assert problem.smoothness == problem._norm**2 * UP
    assert problem.hessian_lipschitz == problem.least == 0.0
    for gap in (1e-6, 0.1, 100.0):
        each = [max(float(piece.dominance(np.array(gap * UP))) for piece in pieces) for pieces in problem.proved]
        assert problem.dominance(gap) == min(each) * DOWN
    assert each[0] != each[1]


@pytest.mark.parametrize("problem", ["coarse"], indirect=True)
@pytest.mark.parametrize("side", [1, -1])
def test_a_kink_is_as_near_as_all_errors_let_it_be(problem, side):
    f = lf.Huber(np.array([[2.0], [2.0]]), side * np.array([[0.4], [-0.2]]), 1.0)
    problem = HuberGradient.over(f, f.X)
    W, off = side * np.array([[0.35]]), 0.01
    E = W - f.minimizer
    R, R0 = f.X @ W - f.Y, f.X @ f.minimizer - f.Y
    lengths = frobenius(f.X[:, None, :])[:, None]

    def crossed(moved):
        within = off + 0.5 * moved + gamma(3) * float(frobenius(E))
        near = (lengths * within + problem._residual_error + 4 * U * (np.abs(R) + np.abs(R0) + 1.0)) * UP
        return bool((np.abs(np.abs(R) - 1.0) <= near).any())

    low, high = 0.0, 1.0
    assert not crossed(low) and crossed(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if crossed(middle) else (middle, high)
    for moved, expected in ((low * (1 - 1e-12), False), (high * (1 + 1e-12), True)):
        assert problem.kinked(np.stack([W, W]), np.array([off, off]), moved).tolist() == [expected]


def test_inputs_that_are_zero_for_all_samples_are_left_out():
    X = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [1.0, 0.0, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    Y = X @ np.array([[0.5], [0.0], [-1.0]]) + 0.01 * np.array([[1.0], [-1.0], [1.0], [0.5], [-0.5]])
    wide, seen = lf.Huber(X, Y, 0.5), lf.Huber(X[:, [0, 2]], Y, 0.5)
    curvatures = [[piece.curvature for piece in HuberGradient.over(f, f.X).proved[0]] for f in (wide, seen)]
    assert len(curvatures[0]) > 0 and curvatures[0] == pytest.approx(curvatures[1], rel=1e-12)


def test_a_share_with_fewer_samples_than_inputs_ends_the_search():
    X = np.eye(2)
    assert len(_pieces(X, np.array([0.5, 0.4]), np.ones(2), 0.0)) == 1  # as many samples as inputs, of all
    assert _pieces(X, np.array([0.5, -0.4]), np.ones(2), 0.0) == ()
    assert _pieces(X, np.array([0.5, 0.4]), np.ones(2), 100.0) == ()  # the minimum may be where they leave
    assert _pieces(np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([0.5, 0.4]), np.ones(2), 0.0) == ()


@pytest.mark.parametrize("step", [-1.9, -0.35, 0.0, 0.35, 1.9])
def test_each_side_of_a_kink_needs_all_errors(step):
    """δ = 1 and residuals from −2½ to 2½, known to within 0.15, that all move by one step, known to within 0.1."""
    R0 = np.linspace(-2.5, 2.5, 101)[:, None] + 0.003  # at no limit exactly
    f = lf.Huber(np.ones((101, 1)), np.zeros((101, 1)), 1.0)
    problem = HuberGradient.over(f, f.X)
    problem.__dict__.update(_residual=R0, _slopes=np.clip(R0, -1, 1), _residual_error=np.full((101, 1), 0.15))
    problem.__dict__.update(_away=0.0, _offset=0.0, proved=((Piece(1.0, 1.0),),))
    W = f.minimizer + step
    R = R0 + step
    P, errors, _, _, e, kink = problem._turned(W, 0.1)
    parts, slack = 0.0, 0.0
    for i in range(101):
        r0, r = float(R0[i, 0]), float(R[i, 0])
        beyond = abs(r0) - 0.15 > 1 and abs(r) - 0.15 - 0.1 > 1 and r * r0 > 0
        inside = abs(r0) + 0.15 <= 1 and abs(r) + 0.15 + 0.1 <= 1
        moved, near = 0.0 if beyond else 0.1, 0.0 if beyond or inside else 0.15
        assert (e[i, 0], kink[i, 0]) == (pytest.approx(moved, rel=1e-9), pytest.approx(near, rel=1e-9))
        assert errors[i, 0] == pytest.approx(moved + near, rel=1e-9)
        slope, slope0 = max(-1.0, min(1.0, r)), max(-1.0, min(1.0, r0))
        assert P[i, 0] == pytest.approx(slope - slope0, abs=1e-14)
        parts += sum(s * (2 * abs(x) - s) / 2 * sign for x, s, sign in ((r, abs(slope), 1), (r0, abs(slope0), -1)))
        parts -= slope0 * step
        size = abs(slope - slope0) + moved + near
        slack += (size + moved) * moved + near * (abs(step) + near + size + moved)
    low, high = problem.gap(W, 0.1)
    assert high == pytest.approx(parts + slack, rel=1e-9)
    assert low == pytest.approx(max(0.0, parts - slack), rel=1e-9)
