"""Descent: the law of its imbalances, Lemma 4 at every step, and the certificate of Theorem 3."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow import relu
from linflow.relu.movement import Mover
from linflow.relu.steps import Descent
from tests.reference import relu as reference
from tests.relu.starts import drawn, started

KINDS = [{}, {"m": 2}, {"s": 0.2, "bias": True}, {"N": 5, "d": 3, "s": 0.1}]


@pytest.mark.parametrize("kind", KINDS)
def test_a_certified_step_keeps_its_factor(kind):
    X, Y, net = drawn(1, **{**kind, "N": 3, "d": 6, "h": 80, "size": 6.0})
    cert = relu.certify(X, 0.5 * Y, net, algorithm="descent")
    assert cert.rate > 0 and cert.algorithm == "descent"
    run = relu.gradient_descent(X, 0.5 * Y, net, step_size=cert.step_size, until=1e-6)
    check = cert.check(run)
    assert check.holds and check.worst_slack >= 1
    assert run.stats.steps <= cert.steps_to(1e-6) and run.time_to(1e-6) <= cert.time_to(1e-6)
    assert kind or cert.step_size == relu.safe_step_size(X, 0.5 * Y, net)
    factor = 1 - cert.step_size * cert.guarantees[0].facts["Λ"]
    ratios = np.sqrt(run.gap[1:] / run.gap[:-1])
    assert (ratios <= factor * (1 + 1e-12)).all()


@pytest.mark.parametrize("kind", [*KINDS, {"N": 6, "d": 3, "size": 0.5, "paired": False}])
def test_lemma_4_at_every_step(kind):
    """Movement, signs, the second layer and its floor at iterates of a descent with long steps."""
    X, Y, net = drawn(2, **{"h": 20, **kind})
    start = started(X, Y, net)
    descent = Descent(start)
    eta = 0.5 / sum(descent.curvature(Mover(start).at(0.0)))
    step = math.ldexp(eta, -start.rate_power)
    mover = Mover(start)
    a, p = 2.0**start.weight_power, 2.0**start.input_power
    for steps in (1, 3, 9, 27, 81):
        run = relu.gradient_descent(X, Y, net, step_size=step, steps=steps)
        movement = mover.at(float(run.path[-1]) * p)
        U, V = run.final.extended / a, run.final.V / a
        # the iterates are rounded, by about 1e-15 of the weights a step
        assert (movement.moved + 1e-12 >= np.abs(start.X @ (U - start.U)).T).all()
        assert (np.linalg.norm(V - start.V, axis=1) <= movement.second + 1e-12).all()
        signs = np.sign(start.z).T
        assert ((start.X @ U).T * signs > 0)[movement.frozen].all()
        if V.shape[1] == 1:
            drift = eta * start.residual * movement.path * movement.kappa * movement.second_size**2
            assert (movement.squares_floor(drift) <= V[:, 0] ** 2 + 1e-12).all()


def test_imbalances_follow_their_exact_law():
    X, Y, net = drawn(3, m=2, s=0.1, bias=True, paired=False)
    run = relu.gradient_descent(X, Y, net, step_size=0.02, steps=300)
    change = relu.imbalance(run.final) - relu.imbalance(net)
    assert np.abs(change).max() > 1e-3
    np.testing.assert_allclose(run.imbalance_law, change, rtol=0, atol=1e-13 * 300)


def test_one_step_is_the_gradient():
    X, Y, net = drawn(4, m=2, s=0.1, paired=False)
    run = relu.gradient_descent(X, Y, net, step_size=0.01, steps=1)
    a = reference.slopes(X, net.U, 0.1)
    R = reference.outputs(X, net.U, net.V, 0.1) - Y
    np.testing.assert_allclose(run.final.U, net.U - 0.01 * X.T @ (a * (R @ net.V.T)), rtol=0, atol=1e-14)
    np.testing.assert_allclose(run.final.V, net.V - 0.01 * (a * (X @ net.U)).T @ R, rtol=0, atol=1e-14)
    assert run.path[-1] == pytest.approx(0.01 * np.linalg.norm(R), rel=1e-14, abs=0)
    with pytest.raises(ValueError, match="first and last"):
        run.network_at(0.005)


def test_curvature_bounds_every_jacobian_that_lemma_1_allows():
    """`‖J‖² ≤ β_1` and `‖Φ‖² ≤ β_2` at weights within the bounds, and the parts of Theorem 3, literally."""
    rng = np.random.default_rng(5)
    for s, m in ((0.0, 1), (0.2, 2)):
        start = started(*drawn(6, N=4, d=5, h=12, m=m, s=s, paired=False))
        movement = Mover(start).at(0.1)
        first, second = Descent(start).curvature(movement)
        for _ in range(20):
            U, V = start.U.copy(), start.V.copy()
            for j in range(12):
                r, e = rng.standard_normal(4), rng.standard_normal(m)
                t = np.where(movement.active[j], 1.0, s)
                U[:, j] += start.X.T @ (t * r / np.linalg.norm(r)) * movement.growth[j]
                V[j] += e / np.linalg.norm(e) * movement.second[j]
            a = np.array([[rng.uniform(s, 1) if on else s for on in row] for row in movement.active]).T
            J = np.vstack([np.kron(start.X.T @ np.diag(a[:, j]), V[j][:, None]) for j in range(12)])
            J = J if m == 1 else np.vstack([np.kron(start.X.T @ np.diag(a[:, j]), V[j][None, :]) for j in range(12)])
            assert np.linalg.norm(J, 2) ** 2 <= first
            Z = start.X @ U
            assert np.linalg.norm(np.where(Z > 0, Z, s * Z), 2) ** 2 <= second


def test_gain_is_the_formula_of_theorem_3():
    start = started(*drawn(7, N=4, d=6, h=80, size=4.0))
    descent, movement = Descent(start), Mover(start).at(0.02)
    free = ~movement.frozen
    assert free.any()
    K, vbar = np.abs(start.X @ start.X.T), np.abs(start.V[:, 0]) + movement.second
    t = np.where(movement.active, 1.0, 0.0)
    first = np.linalg.norm(K * sum(v**2 * np.outer(r, r) for v, r in zip(vbar, t, strict=True)), 2)
    second = np.linalg.norm(np.abs(start.features) + movement.moved.T, 2) ** 2
    assert descent.curvature(movement) == pytest.approx((first, second), rel=1e-9)
    eta, k, beta = 0.1 / (first + second), 0.25, first + second
    d = 1 - 0.5 * (1 + k) * eta * beta
    chatter = np.zeros(4)
    for j in range(80):
        for i in np.flatnonzero(free[j]):
            chatter[i] += vbar[j] ** 2 * sum(K[i, l] for l in np.flatnonzero(free[j]))
    less = (0.25 + eta * beta * (1 + 1 / k) / 8) / d * chatter
    drift = eta * start.residual * 0.02 * movement.kappa * vbar**2
    floor = descent.floor.at(movement, drift, less)
    R = np.linalg.norm(start.Y - start.features @ start.V)
    exact = d * floor - eta * np.linalg.norm(start.X, 2) * np.sqrt(first * second) * R
    assert exact > 0
    assert exact * (1 - 1e-9) <= descent.gain(eta, 0.02) <= exact
    assert floor < descent.floor.at(movement)


def test_steps_that_are_too_long_are_refused_with_a_reason():
    X, Y, net = drawn(8, N=3, h=80, size=6.0)
    eta = relu.safe_step_size(X, Y, net)
    long = relu.certify(X, Y, net, algorithm="descent", step_size=20 * eta)
    assert long.rate == 0 and "shorten the step" in long.reason and long.steps_to(0.1) == np.inf
    with pytest.raises(ValueError, match=r"no step is certified: .*nor is any of the shorter ones tried certified"):
        relu.safe_step_size(X, 1e3 * Y, net)
    with pytest.raises(ValueError, match="the flow takes no steps"):
        relu.certify(X, Y, net, step_size=0.1)
    short = relu.certify(X, Y, net, algorithm="descent", step_size=eta / 2)
    with pytest.raises(ValueError, match="constant step"):
        short.check(relu.gradient_descent(X, Y, net, step_size=eta, steps=3))


def test_a_descent_that_diverges_says_so():
    """It ends with the last step whose loss is a number: weights, law and flips are those of this step."""
    X, Y, net = drawn(9, h=40, size=2.0)
    run = relu.gradient_descent(X, Y, net, step_size=10.0, steps=2000)
    assert run.result is lf.Result.DIVERGED and np.isfinite(run.gap).all() and run.gap[-1] > 1e9 * run.gap[0]
    again = relu.gradient_descent(X, Y, net, step_size=10.0, steps=run.stats.steps)
    assert again.result is lf.Result.STEPS_DONE and (again.gap == run.gap).all() and again.flips == run.flips
    assert (again.final.U == run.final.U).all() and (again.imbalance_law == run.imbalance_law).all()
    huge = relu.gradient_descent(1e200 * X, Y, net, step_size=10.0, steps=3)
    assert huge.result is lf.Result.DIVERGED and huge.stats.steps == 0 and (huge.final.U == net.U).all()
