"""Descent: the law of its imbalances, Lemma 4 at every step, and the certificate of Theorem 3."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow import relu
from linflow.relu import descent as descent_module
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


def flips_between(old, new, t):
    words = {True: "on", False: "off"}
    return [relu.Flip(t, int(j), int(i), words[old[i, j]], words[new[i, j]]) for i, j in np.argwhere(old != new)]


@pytest.mark.parametrize(("until", "result"), [(None, lf.Result.STEPS_DONE), (0.25, lf.Result.TARGET)])
def test_a_descent_is_its_definition(until, result):
    """Every number of a run, in the order of its steps; a neuron of 0 has the slope of `z < 0`."""
    X, Y, net = drawn(2, N=5, d=3, h=8, m=2, s=0.5, bias=True, paired=False)
    U, V = net.extended.copy(), net.V.copy()
    U[:, 0] = 0.0
    run = relu.gradient_descent(X, Y, net.with_layers(U, V), step_size=0.0625, steps=40, until=until)
    Xe, eta, flips, law = np.hstack([X, np.ones((5, 1))]), 0.0625, [], np.zeros(8)
    R = reference.outputs(Xe, U, V, 0.5) - Y
    gaps, rates, paths = [0.5 * np.sum(R**2)], [], [0.0]
    for k in range(1, 41):
        Z = Xe @ U
        a = np.where(Z > 0, 1.0, 0.5)
        dU, dV = Xe.T @ (a * (R @ V.T)), (a * Z).T @ R
        rates.append((np.sum(dU**2) + np.sum(dV**2)) / gaps[-1])
        if until and gaps[-1] <= until * gaps[0]:
            break
        law += eta**2 * (np.sum(dU**2, axis=0) - np.sum(dV**2, axis=1))
        paths.append(paths[-1] + eta * np.linalg.norm(R))
        U, V = U - eta * dU, V - eta * dV
        flips += flips_between(Z > 0, Xe @ U > 0, k * eta)
        R = reference.outputs(Xe, U, V, 0.5) - Y
        gaps.append(0.5 * np.sum(R**2))
    assert len(flips) > 5 and 3 < len(gaps) <= 41 and run.result is result and run.flips == tuple(flips)
    assert run.t.tolist() == [k * eta for k in range(len(gaps))]
    # both sides round some dozens of sums forty times
    for found, literal in ((run.gap, gaps), (run.rate[: len(rates)], rates), (run.path, paths), (run.final.V, V)):
        np.testing.assert_allclose(found, literal, rtol=1e-11, atol=0)
    np.testing.assert_allclose(run.imbalance_law, law, rtol=1e-10, atol=0)
    assert (run.stats.steps, run.stats.rejected, run.stats.evaluations) == (len(gaps) - 1, 0, len(gaps))


def test_a_target_that_is_hit_is_reached():
    """`R = 1`, then 1/2: the loss is a quarter of the first, exactly."""
    run = relu.gradient_descent([[1.0]], [-1.0], relu.Network([[1.0]], [[0.0]]), step_size=0.5, until=0.25)
    assert run.result is lf.Result.TARGET and run.gap.tolist() == [0.5, 0.125] and run.final.V == -0.5


def test_what_a_descent_is_asked_for_and_how_long_it_took(monkeypatch):
    asked, clock = [], iter([10.0, 12.5])

    class Few(descent_module._DescentOnPieces):
        def run(self, most, target):
            asked.append((most, target))
            return super().run(2, target)

    monkeypatch.setattr(descent_module, "_DescentOnPieces", Few)
    monkeypatch.setattr(descent_module.time, "perf_counter", lambda: next(clock))
    X, Y, net = drawn(3)
    run = relu.gradient_descent(X, Y, net, step_size=0.01)
    assert run.stats.seconds == 2.5 and run.stats.steps == 2
    monkeypatch.undo()
    monkeypatch.setattr(descent_module, "_DescentOnPieces", Few)
    relu.gradient_descent(X, Y, net, step_size=0.01, steps=7, until=0.5)
    assert asked == [(100_000, -1.0), (7, 0.5)]


def test_flips_are_listed_up_to_a_number(monkeypatch):
    """A step past a kink that comes back: two flips in every two steps."""
    assert descent_module.MOST_FLIPS == 100_000
    monkeypatch.setattr(descent_module, "MOST_FLIPS", 3)
    X, Y, net = drawn(2, N=5, d=3, h=20, m=2, s=0.5, paired=False)
    few = relu.gradient_descent(X, Y, net, step_size=0.0625, steps=30)
    monkeypatch.undo()
    all_of_them = relu.gradient_descent(X, Y, net, step_size=0.0625, steps=30).flips
    assert len(all_of_them) > 3 and few.flips == all_of_them[:3]


def test_a_path_or_a_loss_alone_may_leave_float64():
    """Dead neurons do not move, but the path of the residual goes on; outputs of 10²⁰⁰ have no square."""
    dead = relu.gradient_descent([[1.0]], [1e150], relu.Network([[-1.0]], [[1.0]]), step_size=1e200, steps=3)
    assert dead.result is lf.Result.DIVERGED and dead.stats.steps == 0 and dead.path.tolist() == [0.0]
    large = relu.gradient_descent([[1.0]], [0.0], relu.Network([[1e100]], [[1e100]]), step_size=1e-250, steps=3)
    assert large.result is lf.Result.DIVERGED and large.stats.steps == 0 and large.path.tolist() == [0.0]


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
