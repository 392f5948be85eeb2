"""The errors and bounds of the softmax loss in a verified run, number by number, with a coarse unit of rounding."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow.verified import softmax
from linflow.verified.rounding import frobenius
from linflow.verified.softmax import SoftmaxGradient


@pytest.fixture(params=[False, True])
def problem(request, monkeypatch):
    for name, value in (("U", 1e-3), ("UP", 1.25), ("EXP", 0.02), ("TINY", 1e-3), ("gamma", lambda k: 2e-3 * k)):
        monkeypatch.setattr(softmax, name, value)
    X = np.random.default_rng(0).standard_normal((7, 3)) + 3 * np.eye(3)[[0, 1, 2, 0, 1, 2, 0]]
    f = lf.SoftmaxLoss(X, [0, 1, 2, 0, 1, 2, 0], classes=4, mean=request.param)
    return SoftmaxGradient.over(f, X)


def test_the_allowance_for_exponentials():
    assert SoftmaxGradient.over(lf.SoftmaxLoss(np.eye(2), [0, 1]), np.eye(2)).least == 0.0
    assert softmax.EXP == 32 * 2.0**-53


def test_value_and_gradient_carry_every_error(problem):
    f = problem.objective
    share = 1 / 7 if f.mean else 1.0
    W = np.random.default_rng(1).standard_normal((3, 4))
    losses, p, missed = f.odds(W)
    assert p.shape == (7, 4)
    lengths = frobenius(f.inputs[:, None, :])[:, None]
    moved = (2 * 0.006 + 0.016) * lengths * float(frobenius(W)) * 1.25 + 1e-3
    relative = 2 * np.expm1(moved) + 4 * (2e-3 * (7 + 4 + 4) + 0.02)
    expected = float(np.sum(losses * relative)) * share * 1.25 + 1e-3
    assert problem.value_error(W) == pytest.approx(expected, rel=1e-13, abs=0)
    relative = np.expm1(2 * moved) + 2 * (2e-3 * (4 + 4) + 0.02) + 2e-3 * (7 + 4)
    expected = math.sqrt(2) * float(np.sum(lengths * missed * relative * (1 + relative))) * share * 1.25 + 1e-3
    assert problem.gradient_error(W) == pytest.approx(expected, rel=1e-13, abs=0)


def test_constants_are_raised(problem):
    f = problem.objective
    share, longest = 1 / 7 if f.mean else 1.0, float(frobenius(f.inputs[:, None, :]).max())
    K = 0.5 * problem._norm**2 * share * 1.25
    assert problem.smoothness == pytest.approx(K, rel=1e-14, abs=0)
    assert problem.hessian_lipschitz == pytest.approx(math.sqrt(2) * K * longest * 1.25, rel=1e-14, abs=0)
    assert problem.least == 0.0


def test_slope_and_curvature_around_a_product(problem):
    W = np.random.default_rng(1).standard_normal((3, 4))
    G, off = problem.gradient(W, 0.1)
    slope, value = problem.at(W, 0.1)
    assert slope == pytest.approx((float(frobenius(G)) + off) * 1.25, rel=1e-14, abs=0)
    assert value == problem.gap(W, 0.1)[1]
    K, R = problem.smoothness, float(frobenius(problem.objective.inputs[:, None, :]).max())
    for slope, value in (
        (0.3, 100.0),
        (3.0, 1e-3),
    ):  # the smoothness serves where f is large, the tail where it is small
        high = (value + slope * 0.01 + 0.5 * K * 1e-4) * 1.25
        by_K, by_tail = (slope + K * 0.01) * 1.25, math.sqrt(2) * R * high * 1.25
        assert (by_K < by_tail) == (2 * R * R * high * 1.25 > K) == (value > 1)
        found = problem.around((slope, value), 0.01)
        assert found == pytest.approx((min(by_K, by_tail), min(K, 2 * R * R * high * 1.25)), rel=1e-14, abs=0)
