"""The linearised model: `Ẇ = −T(0)∇f(W)` has a closed solution for the squared loss.

Flows run at rtol 1e-8 a step; their products are compared to 1e-7.
"""

import pickle

import numpy as np
import pytest
from scipy.linalg import expm

import linflow as lf
from linflow.dynamics import linearized


def near(x, rel=1e-7, abs=0.0):
    return pytest.approx(x, rel=rel, abs=abs)


def nets(rng):
    yield lf.Network([rng.standard_normal((4, 3))], 0.7)
    yield lf.Network(lf.init.gaussian((4, 5, 3), 0.6, rng=rng).weights, 0.7)
    yield lf.Network(lf.init.gaussian((4, 6, 5, 3), 0.6, rng=rng).weights, 0.7)


def test_the_solution_is_an_exponential_of_the_first_operator(rng):
    X, Y = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    f = lf.LinearRegression(X, Y)
    for net in nets(rng):
        run = lf.linearized_flow(f, net, t_max=0.3, times=[0.1])
        T, H = lf.TangentOperator(net).dense(), np.kron(X.T @ X, np.eye(3))
        away = (net.product() - f.minimizer).ravel()
        for t in (0.1, 0.3):
            W = f.minimizer + (expm(-t * T @ H) @ away).reshape(4, 3)
            np.testing.assert_allclose(run.network_at(t).product(), W, rtol=1e-7, atol=1e-8)
            assert run.gap_at(t) == near(f.gap(W), 1e-6)
        np.testing.assert_allclose(run.final.product(), W, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(run.start.product(), net.product())
        G = f.gradient(net.product()).ravel()
        assert run.rate[0] == near(G @ T @ G / f.gap(net.product()), 1e-12)


def test_the_root_squares_to_the_operator(rng):
    f = lf.MatrixFactorization(rng.standard_normal((4, 3)))
    E, V = rng.standard_normal((2, 4, 3))
    for net in nets(rng):
        g = linearized._Linearized(f, net)
        assert g.strong_convexity == 0.0 == g.pl_constant  # T may be singular
        T = lf.TangentOperator(net)
        np.testing.assert_allclose(g.root(g.root(E)), T.apply(E), rtol=1e-12, atol=1e-13)
        W = net.product() + g.root(V - g.origin)
        assert np.linalg.norm(g.origin) == near(np.linalg.norm([np.linalg.norm(A) for A in net.weights]), 1e-12)
        assert g.value(V) == near(f.value(W), 1e-12) and g.gap(V) == near(f.gap(W), 1e-12)
        np.testing.assert_allclose(g.gradient(V), g.root(f.gradient(W)), rtol=1e-12)
        np.testing.assert_allclose(g.hessian_product(V, E), T.apply(E) if f.smoothness == 1 else 0, rtol=1e-10)
        one = lf.Network([W])
        assert g.rounding(lf.Network([V])) == near(f.rounding(one), 1e-12)
        greatest = float(T.greatest_eigenvalue()) ** 0.5
        assert g.gradient_rounding(lf.Network([V])) == near(greatest * f.gradient_rounding(one), 1e-9)


def test_a_wide_model_stays_near_its_linearisation(rng):
    f = lf.MatrixFactorization(rng.standard_normal((4, 2)))
    away = []
    for h in (100, 10_000):
        net = lf.init.ntk((4, h, 2), rng=1)
        linear, real = lf.linearized_flow(f, net, t_max=2.0), lf.gradient_flow(f, net, t_max=2.0)
        away.append(np.linalg.norm(linear.network_at(1.0).product() - real.network_at(1.0).product()))
    assert away[1] < 0.2 * away[0]  # of order h^{-1/2}: a tenth, with room for one draw


def test_runs_end_as_those_of_the_model(rng):
    f = lf.MatrixFactorization(rng.standard_normal((4, 2)))
    run = lf.linearized_flow(f, lf.init.ntk((4, 30, 2), rng=1), until=1e-6)
    assert run.result is lf.Result.TARGET and run.gap[-1] == near(1e-6 * run.gap[0], 1e-9)
    assert f.gap(run.final.product()) == near(run.gap[-1], 1e-9)
    again = pickle.loads(pickle.dumps(run))
    np.testing.assert_allclose(again.network_at(0.1).product(), run.network_at(0.1).product())
    assert run.stats.gap_error < 1e-6
    rounded = lf.linearized_flow(f, [W.astype(np.float32) for W in lf.init.ntk((4, 30, 2), rng=1).weights], t_max=0.1)
    assert any("float" in note for note in rounded.notes)


def test_what_is_too_large_is_refused(monkeypatch, rng):
    f = lf.MatrixFactorization(np.ones((3, 2)))
    monkeypatch.setattr(linearized, "LARGEST", 6)
    lf.linearized_flow(f, lf.init.ntk((3, 4, 4, 2), rng=1), t_max=0.1)
    monkeypatch.setattr(linearized, "LARGEST", 5)
    lf.linearized_flow(f, lf.init.ntk((3, 4, 2), rng=1), t_max=0.1)  # two layers need no dense matrix
    with pytest.raises(ValueError, match="nm = 6 is above 5"):
        lf.linearized_flow(f, lf.init.ntk((3, 4, 4, 2), rng=1), t_max=0.1)


def test_a_singular_operator_leaves_what_it_cannot_move():
    f = lf.MatrixFactorization(np.ones((2, 2)))
    run = lf.linearized_flow(f, [np.diag([1.0, 0.0]), np.diag([1.0, 0.0])], t_max=50.0)
    np.testing.assert_allclose(run.final.product(), [[1, 1], [1, 0]], atol=1e-9)
