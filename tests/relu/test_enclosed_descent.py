"""Verified descent of ReLU networks against descent in rational numbers and in 60 digits; the formulas of a step."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from linflow import relu
from linflow.relu.certificate import regression
from linflow.relu.pattern_descent import PatternDescent
from linflow.relu.pattern_path import Data
from tests.reference.relu_flow import drawn
from tests.relu import starts


def exact_descent(X, Y, net, eta, steps, number):
    """Every iterate and its loss and sides, with numbers of a given kind; the slope at 0 is that of z < 0."""
    of = np.vectorize(lambda x: number(float(x)), otypes=[object])
    X, Y, U, V, s, eta = of(net.inputs(X)), of(Y), of(net.extended), of(net.V), number(net.slope), number(eta)
    for _ in range(steps + 1):
        z = X.dot(U)
        on = np.array([[x > 0 for x in row] for row in z])
        a = np.where(on, number(1), s)
        R = (a * z).dot(V) - Y
        yield U, V, sum(r * r for r in R.ravel()) / 2, on
        U, V = U - eta * X.T.dot(a * R.dot(V.T)), V - eta * (a * z).T.dot(R)


def agrees(X, Y, net, eta, steps, number):
    """Compare a verified descent with an exact one: the distance at the end, losses and flips at every step."""
    enc = relu.enclose(X, Y, net, algorithm="descent", step_size=eta, steps=steps)
    assert enc.result == "all steps done" and enc.steps == steps
    before, flips, k = None, [], 0
    for k, (U, V, loss, on) in enumerate(exact_descent(X, Y, net, eta, steps, number)):
        low, high = enc.gap_bounds(k)
        assert number(low) <= loss <= number(high)
        if before is not None:
            flips += [(k, int(j), int(i), bool(on[i, j])) for i, j in zip(*np.nonzero(on != before), strict=True)]
        before = on
        if k == steps:
            pairs = list(
                zip([*U.ravel(), *V.ravel()], [*enc.final.extended.ravel(), *enc.final.V.ravel()], strict=True)
            )
            away = sum((x - number(float(y))) ** 2 for x, y in pairs)
            assert away <= number(float(enc.radius[-1])) ** 2
    assert [(round(f.t / eta), f.neuron, f.sample, f.after == "on") for f in enc.flips] == flips
    return enc


KINDS = {
    "plain": {"h": 4},
    "leaky, bias": {"s": 0.25, "bias": True},
    "two outputs": {"m": 2},
    "repeated": {"kind": "repeated"},
    "opposite": {"kind": "opposite", "s": 0.125},
    "dead": {"kind": "dead"},
    "zeros": {"kind": "zeros"},
    "boundary": {"kind": "boundary"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_descent_in_rational_numbers_is_enclosed(kind):
    X, Y, U, V, b, s = drawn(7, **KINDS[kind])
    agrees(X, Y, relu.Network(U, V, b, s), 0.0625, 3, Fraction)


@pytest.mark.parametrize("kind", KINDS)
def test_descent_in_sixty_digits_is_enclosed(kind):
    X, Y, U, V, b, s = drawn(11, **KINDS[kind])
    with mpmath.workdps(60):
        enc = agrees(X, Y, relu.Network(U, V, b, s), 0.05, 60, mpmath.mpf)
    assert enc.radius[-1] < 1e-11


def test_a_descent_that_chatters_about_a_kink_is_followed():
    X = np.array([[1.0, 0.0], [0.6, 0.8]])
    net = relu.Network([[0.02], [0.5]], [[1.0]])
    with mpmath.workdps(60):
        enc = agrees(X, np.array([[-3.0], [2.0]]), net, 0.01, 60, mpmath.mpf)
    assert len(enc.flips) > 4
    times = [f.t for f in relu.gradient_descent(X, [-3.0, 2.0], net, step_size=0.01, steps=60).flips]
    assert [f.t for f in enc.flips] == times


def test_signs_at_the_start_are_exact():
    """1 + 2⁻⁶⁰ − 1 > 0 and 1 − 1 = 0: in floats both sums are 0, and only the first pair is on."""
    X, U = np.array([[1.0, 2.0**-60, 1.0], [0.0, 1.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 0.0], [-1.0, -1.0]])
    net = relu.Network(U, [[1.0], [1.0]])
    march = PatternDescent(Data(regression(X, [-1.0, 1.0], net), net), 0.1)
    assert np.asarray(march.sides).tolist() == [[1, -1], [1, -1]]
    agrees(X, np.array([[-1.0], [1.0]]), net, 0.125, 1, Fraction)


def test_the_proof_ends_where_the_radius_hides_a_side():
    """x = 1, u = ½, v = 1, y = −½: the residual is 1, and a step of ½ takes u to 0."""
    enc = relu.enclose([[1.0]], [-0.5], relu.Network([[0.5]], [[1.0]]), algorithm="descent", step_size=0.5, steps=9)
    assert enc.result == "proof ended" and enc.steps == 1 and enc.final.U[0, 0] == 0
    assert "verified for 1 step: neuron 0 is so near 0 on sample 0" in enc.reason
    with pytest.raises(ValueError, match="only 1 steps are enclosed"):
        enc.gap_bounds(2)


def hessian(march, U, V, a):
    """The Hessian of `½‖(a ∘ XU)V − Y‖²`, by its formula."""
    data = march.data
    size_U, size = U.size, U.size + V.size
    R = (a * (data.X @ U)) @ V - data.problem.Y
    columns = []
    for e in np.eye(size):
        dU, dV = e[:size_U].reshape(U.shape), e[size_U:].reshape(V.shape)
        dR = (a * (data.X @ dU)) @ V + (a * (data.X @ U)) @ dV
        g = data.X.T @ (a * (dR @ V.T + R @ dV.T)), (a * (data.X @ U)).T @ dR + (a * (data.X @ dU)).T @ R
        columns.append(np.concatenate([part.ravel() for part in g]))
    return np.array(columns)


@pytest.mark.parametrize("kind", [{}, {"m": 2, "s": 0.3}, {"bias": True, "paired": False}])
@pytest.mark.parametrize("eta", [0.01, 0.3, 3.0])
def test_the_growth_of_a_step_holds_on_the_ball_and_is_its_formula(kind, eta, rng):
    X, Y, net = starts.drawn(5, N=4, d=3, h=4, **kind)
    march = PatternDescent(Data(regression(X, Y, net), net), eta)
    U, V = march.weights
    for radius in (0.0, 1e-3, 0.1):
        march.radius = radius
        found = march.growth(eta)
        for _ in range(5):  # as if the pattern were certain: the bound is one for a fixed pattern
            d = rng.standard_normal(U.size + V.size)
            d *= radius / np.linalg.norm(d)
            H = hessian(march, U + d[: U.size].reshape(U.shape), V + d[U.size :].reshape(V.shape), march.slopes)
            assert np.linalg.norm(np.eye(len(H)) - eta * H, 2) <= found * (1 + 1e-12)
        # the formula, with exact norms; the library's are at most 7 per cent above
        X_norm, features = np.linalg.norm(march.data.X, 2), march.slopes * march.z
        moved = math.hypot(X_norm * np.linalg.norm(V), np.linalg.norm(features, 2)) * radius
        moved += 0.5 * X_norm * radius**2
        m = X_norm * moved + max(
            np.linalg.norm(march.data.X.T @ (march.slopes[:, j, None] * march.R), 2) for j in range(net.width)
        )
        rows = (march.slopes * np.sum(V**2, axis=1)) @ march.slopes.T
        first = np.linalg.norm(np.abs(march.data.X @ march.data.X.T) * rows, 2)
        M = (math.sqrt(first + np.linalg.norm(features, 2) ** 2) + X_norm * radius) ** 2 + m
        exact = max(1 + eta * m, eta * M - 1)
        assert exact * (1 - 1e-12) <= found <= exact * 1.07


def test_the_rounding_of_a_step_is_bounded_term_by_term():
    """A step from floats, compared with the same step in rational numbers; the bound is not loose by much."""
    for seed in range(6):
        X, Y, net = starts.drawn(seed, N=3, d=3, h=4, s=0.3 * (seed % 2), m=1 + seed % 2, paired=False)
        march = PatternDescent(Data(regression(X, Y, net), net), 0.1)
        new, rounding = march.step(0.1)
        *_, (U, V, _, _) = exact_descent(X, Y, net, 0.1, 1, Fraction)
        pairs = list(zip([*new[0].ravel(), *new[1].ravel()], [*U.ravel(), *V.ravel()], strict=True))
        away = math.sqrt(sum(float((Fraction(float(x)) - y) ** 2) for x, y in pairs))
        size = math.hypot(*(np.linalg.norm(W) for W in new))
        assert away <= rounding + 2.0**-53 * size < 100 * away


def test_each_error_enters_the_bound_of_the_gradient():
    """The formula of docs/relu_verified.md, section 8, written out."""
    X, Y, net = starts.drawn(3, N=4, d=3, h=6, m=2, s=0.3)
    march = PatternDescent(Data(regression(X, Y, net), net), 0.1)
    u, V, (N, h), m, a = 2.0**-53, np.abs(net.V), march.z.shape, 2, march.slopes
    z = march.data.preactivation_error(net.extended)
    phi = a * z + u * np.abs(march.features)
    R = h * u * np.abs(march.features) @ V + phi @ V + u * np.abs(march.R)
    pushes = a * (R @ V.T + (m + 1) * u * np.abs(march.R) @ V.T)
    first = np.abs(X).T @ (pushes + N * u * a * np.abs(march.R @ net.V.T))
    second = np.abs(march.features).T @ (R + N * u * np.abs(march.R)) + phi.T @ np.abs(march.R)
    assert march.residual_error == pytest.approx(np.linalg.norm(R), rel=1e-9, abs=0)
    assert march.error == pytest.approx(math.hypot(np.linalg.norm(first), np.linalg.norm(second)), rel=1e-9, abs=0)
    gradient = math.hypot(*(np.linalg.norm(g) for g in march.gradients))
    assert march.step(0.1)[1] == pytest.approx(0.1 * (march.error + 2 * u * gradient), rel=1e-9, abs=0)


def test_counts_of_steps_meet_those_of_a_descent_and_the_run_is_plain_data():
    X, Y, net = starts.drawn(1, N=3, d=5, h=20, size=3.0)
    eta = relu.safe_step_size(X, Y, net)
    enc = relu.enclose(X, Y, net, algorithm="descent", step_size=eta, until=1e-4)
    run = relu.gradient_descent(X, Y, net, step_size=eta, until=1e-4)
    assert enc.result == "target proved" and enc.steps_bounds(1e-2) == (round(run.time_to(1e-2) / eta),) * 2
    assert enc.steps == run.stats.steps and enc.t[-1] == enc.steps * eta
    data = enc.to_dict()
    assert data["steps"] == enc.steps and len(data["flips"]) == len(enc.flips) and data["widths"] == [5, 20, 1]
    assert repr(enc).startswith("EnclosedDescent(target proved, step ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"algorithm": "descent"}, "give step_size"),
        ({"algorithm": "descent", "step_size": 0.1, "t_max": 1.0}, "descent counts steps"),
        ({"step_size": 0.1}, 'say algorithm="descent"'),
        ({"steps": 3}, 'say algorithm="descent"'),
        ({"algorithm": "other"}, "algorithm"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, words):
    X, Y, net = starts.drawn(0)
    with pytest.raises(ValueError, match=words):
        relu.enclose(X, Y, net, **arguments)
