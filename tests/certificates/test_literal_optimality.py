"""The bound on the excess under weight decay, written out anew with a coarse rounding: docs/optimisers.md."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates import optimality
from linflow.certificates.optimality import _Convex

EPS = 2.0**-12
"""A rounding that shows every allowance; both sides do the same few operations, which agree to 1e-12."""


def near(x):
    return pytest.approx(x, rel=1e-12, abs=0)


def convex(f, Z, threshold):
    return _Convex(f, lf.Network([Z]), threshold)


def stated(gap, gradient, mu=0.0, K=1.0, rounding=0.0, off=0.0):
    """An objective of which only these numbers are asked."""
    return SimpleNamespace(
        gap=lambda Z: gap,
        gradient=lambda Z: gradient,
        rounding=lambda net: rounding,
        gradient_rounding=lambda net: off,
        strong_convexity=mu,
        smoothness=K,
    )


def literal_lower(gap, G, Z, threshold, mu, rounding, off):
    slip = rounding + 16 * EPS * abs(gap)
    largest = np.linalg.norm(G, 2) * (1 + 16 * EPS * max(G.shape)) + off
    t = min(1.0, threshold / largest)
    first = t * (gap - (G * Z).sum() - 16 * EPS * np.abs(G * Z).sum() - off * np.linalg.norm(Z) - slip)
    second = -math.inf
    if mu > 0:
        U, s, Vt = np.linalg.svd(mu * Z - G, full_matrices=False)
        S = U @ np.diag(np.minimum(s, threshold * (1 - 64 * EPS * max(G.shape)))) @ Vt
        away = np.linalg.norm(G + S) + off
        pull = (S * Z).sum() - 16 * EPS * np.abs(S * Z).sum()
        second = gap + pull - away**2 * (1 + 16 * EPS) / (2 * mu) - slip
    return max(first, second, 0.0), (first, second)


def test_both_lower_bounds_with_every_allowance(monkeypatch):
    monkeypatch.setattr(optimality, "EPS", EPS)
    rng, won = np.random.default_rng(0), []
    for _ in range(200):
        shape = [(3, 2), (2, 3)][rng.integers(2)]
        G, Z = rng.standard_normal(shape), rng.standard_normal(shape)
        gap = float(rng.exponential(4)) * rng.choice([1.0, -0.1])
        mu, threshold = float(rng.choice([0.0, 0.3, 2.0])), float(10 ** rng.uniform(-0.5, 1))
        rounding, off = rng.uniform(0, 0.1, 2)
        found = convex(stated(gap, G, mu, 1.0, rounding, off), Z, threshold).lower(Z)
        literal, both = literal_lower(gap, G, Z, threshold, mu, rounding, off)
        assert found == near(literal)
        won.append((literal == both[0], literal == both[1], gap < 0 < literal))
    assert np.sum(won, axis=0).min() > 5


def test_the_lower_bound_where_there_is_no_gradient_and_where_nothing_is_finite(monkeypatch):
    monkeypatch.setattr(optimality, "EPS", EPS)
    Z = np.ones((2, 2))
    assert convex(stated(1.0, 0 * Z, rounding=0.25), Z, 0.5).lower(Z) == near(1 - 16 * EPS - 0.25)
    assert convex(stated(math.inf, 0 * Z), Z, 0.5).lower(Z) == 0.0


def test_the_bound_is_raised_by_the_rounding_of_the_loss(monkeypatch, rng):
    monkeypatch.setattr(optimality, "EPS", EPS)
    f = lf.MatrixFactorization(rng.standard_normal((3, 2)))
    monkeypatch.setattr(type(f), "rounding", lambda self, net: 0.125)
    found = lf.optimality_gap(f, lf.init.gaussian((3, 4, 2), rng=rng), weight_decay=0.1, steps=0)
    assert found.bound == near(found.value - found.lower + 8 * EPS * found.value + 0.125)


def test_the_search_takes_accelerated_proximal_steps(monkeypatch):
    """With 1/K, θ/K off every singular value, and the momentum of Beck and Teboulle; it looks at 1 … 10, 20, 30 …"""
    rng = np.random.default_rng(1)
    target, Z, K, theta = rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), 0.8, 0.1
    f = stated(0.0, None, K=K)
    f.gradient = lambda W: np.array([[0.8], [0.3], [0.1]]) * (W - target)
    points, ahead, t = [Z], Z, 1.0
    for _ in range(40):
        U, s, Vt = np.linalg.svd(ahead - f.gradient(ahead) / K, full_matrices=False)
        new = U @ np.diag(np.maximum(s - theta / K, 0)) @ Vt
        after = (1 + math.sqrt(1 + 4 * t**2)) / 2
        ahead, t = new + (t - 1) / after * (new - points[-1]), after
        points.append(new)
    for limit, last in ((40, 40), (39, 30), (9, 9), (0, 0)):
        seen = []
        problem = convex(f, Z, theta)
        monkeypatch.setattr(problem, "lower", lambda W, seen=seen: seen.append(W) or float(len(seen)))
        best, at = problem.search(Z, 100.0, limit)
        looked = [k for k in range(limit + 1) if k <= 10 or k % 10 == 0]
        assert (best, at) == (len(looked), last)
        for k, W in zip(looked, seen, strict=True):
            np.testing.assert_allclose(W, points[k], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "gain", "value", "looks"),
    [
        (1.0, 0.0, 1000.0, 14),  # nothing is gained: the fourth look at a multiple of 10 is the last
        (1.0, 0.9, 1000.0, 14),  # less than 1/1000 of what is left
        (1.0, 1.1, 1000.0, 16),
        (500.0, 0.4, 1000.0, 14),
        (500.0, 1.0, 1000.0, 16),
        (5.0, 5e-4, 1.0, 16),  # nothing is left: any gain goes on
    ],
)
def test_the_search_ends_when_little_is_gained(monkeypatch, first, gain, value, looks):
    """`gain` from one look at a multiple of 10 to the next, of six that sixty steps have."""
    Z, calls = np.eye(2), []

    def lower(W):
        calls.append(W)
        return first + gain * max(0, len(calls) - 11)

    problem = convex(stated(0.0, 0 * Z), Z, 0.1)
    monkeypatch.setattr(problem, "lower", lower)
    best, at = problem.search(Z, value, 60)
    assert len(calls) == looks
    assert (best, at) == ((first, 0) if gain == 0 else (first + gain * (looks - 11), 10 * (looks - 10)))


@pytest.mark.parametrize("K", [0.0, math.inf])
def test_without_a_step_size_the_weights_alone_are_looked_at(K):
    Z = np.eye(2)
    assert convex(stated(1.0, 0 * Z, K=K), Z, 0.5).search(Z, 1.0, 50) == (near(1.0), 0)
