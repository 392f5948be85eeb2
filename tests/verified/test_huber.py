"""Huber regression in verified runs: errors of the gradient, curvature, kinks on the path, and runs within bounds."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

import linflow as lf
from linflow.verified.declared_march import DeclaredPath
from linflow.verified.huber import HuberGradient


def data(seed=0, N=12, n=2, m=1, size=3.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, n)) / 3
    Y = X @ rng.standard_normal((n, m)) + 0.02 * rng.standard_normal((N, m))
    Y[:2] += size
    return X, Y, rng


def exact(X, Y, d, W):
    """Return value and gradient in exact fractions."""
    (N, n), m, d = X.shape, Y.shape[1], Fraction(d)
    W = [[Fraction(x) for x in row] for row in np.asarray(W)]
    value, G = Fraction(0), [[Fraction(0)] * m for _ in range(n)]
    for i in range(N):
        for j in range(m):
            r = sum((Fraction(X[i, k]) * W[k][j] for k in range(n)), -Fraction(Y[i, j]))
            value += r * r / 2 if abs(r) <= d else d * abs(r) - d * d / 2
            for k in range(n):
                G[k][j] += Fraction(X[i, k]) * max(-d, min(d, r))
    return value, G


@pytest.mark.parametrize("size", [3.0, 1e8])
@pytest.mark.parametrize("delta", [0.05, 1.0])
def test_errors_hold_in_exact_arithmetic(size, delta):
    X, Y, rng = data(1, m=2, size=size)
    f = lf.Huber(X, Y, delta)
    problem = HuberGradient.over(f, X)
    assert problem.proved and not problem.notes
    best, G_best = exact(X, Y, delta, f.minimizer)
    assert math.sqrt(sum(float(g) ** 2 for row in G_best for g in row)) <= problem._away
    for scale in (1e-9, 1e-3, 1.0, 30.0):
        W = f.minimizer + scale * rng.standard_normal((2, 2))
        moved = W + 1e-6 * scale * np.eye(2)
        off = float(np.linalg.norm(moved - W)) * (1 + 1e-12)
        low, high = problem.gap(W, off)
        G, error = problem.gradient(W, off)
        for V in (W, moved):
            value, true = exact(X, Y, delta, V)
            # f* is at most the value at the computed minimiser, and not below that by more than the offset
            assert low <= float(value - best) + problem._offset and float(value - best) <= high
            gap = sum((float(Fraction(a) - b)) ** 2 for a, b in zip(G.ravel(), itertools.chain(*true), strict=True))
            assert math.sqrt(gap) <= error
        assert high - low <= 1e-3 * high or scale < 1e-6
    stack, errors = problem.gradient(np.stack([W, moved]), np.array([0.0, 0.0]))
    assert np.array_equal(stack[0], problem.gradient(W, 0.0)[0]) and errors.shape == (2,)


def test_a_residual_at_a_kink_of_both_sides_is_allowed_for():
    # x = 1, y = 0, δ = 1: at V = 0 and W = 1 the residual is ±δ, and an error e turns the slope by e.
    f = lf.Huber(np.array([[1.0]]), np.array([[0.0]]), 1.0)
    problem = HuberGradient.over(f, f.X)
    for W, off, least in ((0.5, 0.1, 0.1), (1.0, 0.1, 0.1), (2.0, 0.1, 0.0)):
        _, error = problem.gradient(np.array([[W]]), off)
        assert least <= error <= 0.1 * (1 + 1e-9) + 1e-9
    assert problem._turned(np.array([[2.0]]), 0.1)[1].item() >= 0.1  # it is inside at V and beyond at W


def test_curvature_and_level_are_proved():
    X, Y, _ = data(2)
    f = lf.Huber(X, Y, 0.1)
    problem = HuberGradient.over(f, X)
    r = np.abs(X @ f.minimizer - Y)[:, 0]
    order = np.argsort(r)
    free = int(np.sum(r < 0.1))
    expected = []
    for share in (1.0, 0.9, 0.8, 0.6, 0.4, 0.2):
        S = order[: int(share * free)]
        if len(S) < 2:
            break
        mu = np.linalg.eigvalsh(X[S].T @ X[S])[0]
        expected.append((mu, min((0.1 - r[i]) ** 2 / 2 / min(1.0, X[i] @ X[i] / mu) for i in S)))
    found = [(p.curvature, p.level) for p in problem.proved[0]]
    assert np.allclose(found, expected, rtol=1e-9) and all(
        a <= b for a, b in zip(np.ravel(found), np.ravel(expected), strict=True)
    )
    for gap in (1e-6, 1e-2, 1.0):
        assert problem.dominance(gap) == pytest.approx(max(2 * mu * min(1, y / gap) for mu, y in expected), rel=1e-9)
        assert problem.dominance(gap) <= float(f.pl_constant_on(gap)) * (1 + 1e-9)
    tie = lf.Huber(np.ones((4, 1)), np.array([[0.0], [0.0], [10.0], [10.0]]), 1.0)
    unproved = HuberGradient.over(tie, tie.X)
    assert unproved.dominance(1.0) == 0.0 and "no curvature" in unproved.notes[0]
    low, high = unproved.gap(np.array([[-3.0]]), 0.0)
    assert low <= 2 * 2.5 + 2 * 12.5 - 18 <= high < low + 1e-9  # measured from the plateau


def path(f, series, c=1.0):
    """Return the path of given coefficients over a step of length 1 in the unit of time 1."""
    series = [np.pad(np.asarray(W, dtype=float), ((0, 9 - len(W)), (0, 0), (0, 0))) for W in series]
    return DeclaredPath(HuberGradient.over(f, f.X), series, c, 1.0, 1.0)


def test_the_defect_is_bounded_across_a_kink():
    # W(t) = 0.45 + t and f = h(w) with δ = 1: the defect 1 + φ(w) bends at t = 0.55, inside a piece.
    f = lf.Huber(np.array([[1.0]]), np.array([[0.0]]), 1.0)
    p = path(f, [[[[0.45]], [[1.0]]]])
    true = 0.55 * (1.45 + 2) / 2 + 0.45 * 2
    chords = float(np.trapezoid(1 + np.minimum(0.45 + p.times, 1.0), p.times))
    bound, _ = p.defect()
    assert chords < true * (1 - 1e-6) and true <= bound <= true + 5e-3
    assert p.kinked.tolist() == [k in (17, 18) for k in range(32)]  # 0.55 · 32 = 17.6, nearest to 18


def test_a_kink_is_not_missed_and_not_suspected_far_away():
    f = lf.Huber(np.array([[1.0]]), np.array([[0.0]]), 1.0)
    assert not path(f, [[[[0.0]], [[0.9]]]]).kinked.any() and not path(f, [[[[1.1]], [[5.0]]]]).kinked.any()
    there_and_back = path(f, [[[[0.0]], [[4.01]], [[-4.01]]]])  # up to 1.0025 at t = ½, between two times? at one
    assert there_and_back.kinked.any()
    steep = path(f, [[[[0.9]], [[10.0]], [[-10.0]]]])  # through δ and back
    assert steep.kinked[0] and steep.kinked[-1]
    problem = HuberGradient.over(f, f.X)
    W = np.array([[[0.99]], [[0.99]]])
    assert not problem.kinked(W, np.zeros(2), 0.015).any() and problem.kinked(W, np.zeros(2), 0.025).all()
    assert problem.kinked(W, np.array([0.011, 0.0]), 0.0).all()


def test_norms_between_knots_are_bounded_across_a_kink():
    # ‖G‖ rises while the second residual runs to its kink, then falls as the first one comes from its own.
    f = lf.Huber(np.eye(2), np.zeros((2, 1)), 1.0)
    p = path(f, [[[[-1.125], [0.875]], [[1.0], [1.0]]], [[[1.0]], [[0.0]]]])
    x, _ = p.cross[0, 1]
    bend = p.bends[0, 1][0]
    for k, (a, b) in enumerate(zip(p.knots[:-1], p.knots[1:], strict=True)):
        t = np.linspace(a, b, 50)
        G = np.hypot(np.maximum(-1.125 + t, -1.0), np.minimum(0.875 + t, 1.0))
        assert G.max() <= max(x[k], x[k + 1]) + bend
    assert math.hypot(1, 1) > max(x[0], x[1])  # at t = ⅛ no knot sees it


@pytest.mark.parametrize("delta", [0.1, 10.0])
def test_runs_are_within_their_bounds(delta):
    X, Y, _ = data(3)
    f = lf.Huber(X, Y, delta)
    net = lf.init.imbalanced((2, 2, 1), [1.5], rng=0)
    enc = lf.enclose(f, net, until=0.02)
    run = lf.gradient_flow(f, net, until=0.01, rtol=1e-10)
    low, high = enc.time_bounds(0.1)
    assert enc.result == "target proved" and low <= run.time_to(0.1) <= high < low * (1 + 1e-3)
    inner = [np.abs(X @ run.network_at(t).product() - Y) <= delta for t in (0.0, float(enc.end))]
    assert (inner[0] != inner[1]).any() == (delta == 0.1)  # some samples pass ±δ
    t = 0.5 * float(enc.end)
    gap = f.gap(run.network_at(t).product())
    assert enc.gap_bounds(t)[0] * (1 - 1e-9) <= gap <= enc.gap_bounds(t)[1] * (1 + 1e-9)
    lo, hi = enc.rate_bounds(t)
    G = run.network_at(t).gradient(f.gradient(run.network_at(t).product()))
    rate = sum(float(np.sum(g * g)) for g in G) / gap
    assert lo * (1 - 1e-6) <= rate <= hi * (1 + 1e-6)
    assert lf.certify(f, net).check(enc).holds
    after = enc.certificate
    assert after is not None and after.rate > 0
    later = lf.gradient_flow(f, net, until=1e-6)
    ends = enc.steps[-1].gap[1]
    for x in (1e-3, 1e-5):
        assert float(later.time_to(x)) - float(enc.end) <= after.time_to(x * enc.first[0] / ends)
    down = lf.enclose(f, net, algorithm="descent", step_size=0.05, until=1e-4)
    steps = lf.gradient_descent(f, net, step_size=0.05, until=1e-4, steps=2000)
    first, last = down.steps_bounds(1e-3)
    assert first == last == math.ceil(steps.time_to(1e-3) / 0.05 - 1e-9)
