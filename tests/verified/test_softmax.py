"""Verified runs of the softmax loss: bounds against long double twins, and proofs against runs."""

import numpy as np
import pytest

import linflow as lf
from linflow.verified.softmax import SoftmaxGradient

WIDE = np.longdouble


def exact(X, labels, W, share):
    """The loss and its gradient in long double, from sums without cancellation."""
    D = X.astype(WIDE) @ W.astype(WIDE)
    D = D - D[np.arange(len(X)), labels][:, None]
    hot = np.eye(W.shape[1])[labels].astype(WIDE)
    top = D.max(axis=1)[:, None]
    e = np.exp(D - top) * (1 - hot)
    rest = e.sum(axis=1)[:, None]
    p = e / (rest + np.exp(-top))
    losses = np.where(top > 0, top + np.log(rest + np.exp(-top)), np.log1p(rest))
    return share * losses.sum(), share * X.astype(WIDE).T @ (p - p.sum(axis=1)[:, None] * hot)


@pytest.fixture
def data(rng):
    X = rng.standard_normal((6, 3)) + 3 * np.vstack([np.eye(3)] * 2)
    return X, np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("mean", [False, True])
def test_bounds_hold_the_exact_loss_and_gradient(data, mean, rng):
    X, labels = data
    f = lf.SoftmaxLoss(X, labels, mean=mean)
    problem, share = SoftmaxGradient.over(f, X), 1 / WIDE(6) if mean else WIDE(1)
    for size in (1e-3, 1.0, 30.0, 300.0):
        for sign in (1, -1):
            W = sign * size * f.direction + 1e-1 * rng.standard_normal((3, 3))
            value, slope = exact(X, labels, W, share)
            low, high = problem.gap(W, 0.0)
            assert low <= value <= high
            assert abs(f.value(W) - value) <= problem.value_error(W) <= 1e-10 * (1 + size) * f.value(W) + 1e-140
            G, error = problem.gradient(W, 0.0)
            assert (
                np.linalg.norm((G - slope).astype(float)) <= error <= 1e-10 * (1 + size) * np.linalg.norm(G) + 1e-140
            )
            for away in (1e-6, 0.3):
                move = rng.standard_normal((3, 3))
                move *= away / np.linalg.norm(move) * (1 - 1e-9)
                near, turned = exact(X, labels, W + move, share)
                low, high = problem.gap(W, away)
                assert low <= near <= high
                G, error = problem.gradient(W, away)
                assert np.linalg.norm((G - turned).astype(float)) <= error
                most, bend = problem.around(problem.at(W, 0.0), away)
                V = rng.standard_normal((3, 3))
                V /= np.linalg.norm(V)
                assert np.linalg.norm(turned.astype(float)) <= most
                assert np.linalg.norm(f.hessian_product(W + move, V)) <= bend * (1 + 1e-12)


@pytest.mark.parametrize("mean", [False, True])
def test_constants(data, mean, rng):
    X, labels = data
    f, share = lf.SoftmaxLoss(X, labels, mean=mean), 1 / 6 if mean else 1.0
    problem = SoftmaxGradient.over(f, X)
    K = 0.5 * np.linalg.norm(X, 2) ** 2 * share
    R = np.linalg.norm(X, axis=1).max()
    assert K * (1 - 1e-14) <= problem.smoothness <= 1.05 * K
    assert np.sqrt(2) * K * R * (1 - 1e-14) <= problem.hessian_lipschitz <= np.sqrt(2) * 1.05 * K * R
    for _ in range(30):
        W, V, D = rng.standard_normal((3, 3, 3))
        change = np.linalg.norm(f.hessian_product(W + 1e-3 * D, V) - f.hessian_product(W, V)) / np.linalg.norm(V)
        assert change <= problem.hessian_lipschitz * 1e-3 * np.linalg.norm(D) * (1 + 1e-6)


def test_proofs_hold_the_runs(data):
    f = lf.SoftmaxLoss(*data, mean=True)
    net = lf.init.imbalanced((3, 5, 3), [1.0], rng=4)
    enc, run = lf.enclose(f, net, until=0.1), lf.gradient_flow(f, net, until=0.05, rtol=1e-11)
    low, high = enc.time_bounds(0.1)
    assert enc.result == "target proved" and high / low < 1.01
    assert low * (1 - 1e-8) < run.time_to(0.1) < high * (1 + 1e-8)
    assert lf.certify(f, net).check(enc).holds and not enc.notes
    down = lf.enclose(f, net, algorithm="descent", step_size=0.05, until=0.2)
    seen = lf.gradient_descent(f, net, step_size=0.05, steps=2000, until=0.2)
    assert down.steps_bounds(0.2) == (round(seen.t[-1] / 0.05),) * 2
