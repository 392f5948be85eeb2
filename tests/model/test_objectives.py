"""Objectives: derived constants, minima and the restriction to what a deficient design sees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linflow as lf
from linflow.dynamics.declared import misfit
from tests.reference import algebra

seeds = st.integers(0, 2**32 - 1)


def examples(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 5, 2)
    X, Y = rng.standard_normal((7, n)), rng.standard_normal((7, m))
    A, B = rng.standard_normal((n, n)), rng.standard_normal((m, m))
    low = rng.standard_normal((7, 1)) @ rng.standard_normal((1, n))
    return [
        lf.MatrixFactorization(Y[:n] if n <= 7 else Y),
        lf.LinearRegression(X, Y),
        lf.LinearRegression(low, Y),
        lf.LinearRegression(X[: max(1, n - 1)], Y[: max(1, n - 1)]),
        lf.Quadratic(A @ A.T, B @ B.T, rng.standard_normal((n, m))),
        lf.Quadratic(A @ A.T, C=rng.standard_normal((n, m))),
    ], rng


@given(seed=seeds)
def test_gradients_constants_and_minimum(seed):
    for f, rng in ((f, rng) for fs, rng in [examples(seed)] for f in fs):
        W, V = rng.standard_normal(f.shape), rng.standard_normal(f.shape)
        size = f.smoothness * (1 + np.linalg.norm(f.minimizer)) ** 2 + abs(f.minimum)
        h = 1e-4
        slope = (f.value(W + h * V) - f.value(W - h * V)) / (2 * h)  # exact for a quadratic, up to rounding
        assert slope == pytest.approx(float((f.gradient(W) * V).sum()), abs=1e-9 * size / h * 1e-2)
        assert np.linalg.norm(f.gradient(f.minimizer)) <= 1e-9 * size
        assert f.gap(f.minimizer) == 0
        assert f.gap(W) == pytest.approx(f.value(W) - f.minimum, abs=1e-12 * (size + f.value(W)))
        # PL, strong convexity and smoothness hold; γ ≤ 2K and γ ≥ 2μ always.
        assert (f.gradient(W) ** 2).sum() >= f.pl_constant * f.gap(W) * (1 - 1e-9)
        change = f.gradient(W) - f.gradient(V)
        # The difference of two gradients rounds at the size of K (‖W‖ + ‖V‖ + 2‖W*‖), which may be far above it.
        apart, sizes = np.linalg.norm(W - V), np.linalg.norm(W) + np.linalg.norm(V) + 2 * np.linalg.norm(f.minimizer)
        off = 16 * np.finfo(float).eps * f.smoothness * sizes
        assert (change * (W - V)).sum() >= f.strong_convexity * apart**2 * (1 - 1e-9) - off * apart
        assert np.linalg.norm(change) <= f.smoothness * apart * (1 + 1e-9) + off
        assert 2 * f.strong_convexity <= f.pl_constant <= 2 * f.smoothness * (1 + 1e-12)
        np.testing.assert_allclose(f.hessian_product(W, V), f.gradient(W + V) - f.gradient(W), atol=1e-9 * size)


def test_constants_are_attained(rng):
    X = rng.standard_normal((9, 4))
    f = lf.LinearRegression(X, rng.standard_normal((9, 2)))
    s = np.linalg.svd(X)[1]
    assert f.strong_convexity == pytest.approx(s[-1] ** 2)
    assert f.smoothness == pytest.approx(s[0] ** 2)
    assert f.pl_constant == pytest.approx(2 * s[-1] ** 2)
    np.testing.assert_allclose(f.minimizer, np.linalg.lstsq(X, f_target(f, X), rcond=None)[0], atol=1e-12)


def f_target(f, X):
    return X @ f.minimizer


def test_deficient_regression_is_restricted_to_the_row_space(rng):
    X = rng.standard_normal((9, 3)) @ rng.standard_normal((3, 5))
    Y = rng.standard_normal((9, 2))
    f = lf.LinearRegression(X, Y)
    assert (f.rank, f.strong_convexity) == (3, 0.0)
    assert f.pl_constant == pytest.approx(2 * np.linalg.svd(X)[1][2] ** 2)
    np.testing.assert_allclose(f.minimizer, np.linalg.lstsq(X, Y, rcond=None)[0], atol=1e-10)
    net = lf.init.gaussian((5, 8, 2), 0.3, rng=rng)
    g, seen = f.effective(net)
    assert seen.shape == (3, 2)
    assert g.strong_convexity == pytest.approx(f.pl_constant / 2)
    assert g.smoothness == pytest.approx(f.smoothness)
    assert g.gap(seen.product()) == pytest.approx(f.gap(net.product()))
    # Both follow the same flow; the part of W_1 outside the row space never moves.
    one, two = lf.gradient_flow(f, net, until=1e-4), lf.gradient_flow(g, seen, until=1e-4)
    assert one.t[-1] == pytest.approx(two.t[-1], rel=1e-6)
    null = np.linalg.svd(X)[2][3:]
    np.testing.assert_allclose(null @ one.weights[0], null @ net.weights[0], atol=1e-10)
    drift = lf.imbalance_drift(f.effective(one.final)[1], seen)
    assert drift < 1e-7
    cert = lf.certify(f, net)
    assert cert.check(one).holds


def test_deficient_quadratic_on_both_sides(rng):
    V, U = np.linalg.qr(rng.standard_normal((4, 2)))[0], np.linalg.qr(rng.standard_normal((3, 2)))[0]
    A, B = V @ np.diag([1.0, 2.0]) @ V.T, U @ np.diag([3.0, 0.5]) @ U.T
    C = A @ rng.standard_normal((4, 3)) @ B
    f = lf.Quadratic(A, B, C)
    assert f.pl_constant == pytest.approx(2 * 1.0 * 0.5)
    net = lf.init.gaussian((4, 6, 3), rng=rng)
    g, seen = f.effective(net)
    assert seen.shape == (2, 2)
    assert g.gap(seen.product()) == pytest.approx(f.gap(net.product()))
    assert lf.certify(f, net).check(lf.gradient_flow(f, net, until=1e-4)).holds


def test_minimum_of_a_user_function_is_found(rng):
    A = np.diag([1.0, 30.0])
    f = lf.Objective(
        lambda W: float((np.cosh(A @ (W - 0.3)) - 1).sum()) + 2.0,
        lambda W: A @ np.sinh(A @ (W - 0.3)),
        shape=(2, 2),
        strong_convexity=1.0,
    )
    assert f.minimum == pytest.approx(2.0, abs=1e-12)
    np.testing.assert_allclose(f.minimizer, 0.3, atol=1e-6)


def test_minimum_that_cannot_be_found_is_said():
    with pytest.raises(ValueError, match="value and gradient agree"):
        lf.Objective(lambda W: float((W**2).sum()), lambda W: W + 1.0, shape=(1, 1), strong_convexity=2.0)


@given(seed=seeds)
def test_margin_holds_along_the_flow_and_the_gap_form_is_never_smaller(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 4, 2)
    X = rng.standard_normal((6, n))
    f = lf.LinearRegression(X, X @ rng.standard_normal((n, m)))
    W = f.minimizer + 0.1 * rng.random() * rng.standard_normal((n, m))
    net = lf.init.balanced((n, 4, m), W, rng=rng)
    gap, distance = lf.margin(f, net), lf.margin(f, net, form="distance")
    assert distance <= gap + 1e-12
    run = lf.gradient_flow(f, net, until=1e-3, record=("singular_values",))
    assert (run.singular_values[:, min(n, m) - 1] >= gap - 1e-7).all()


def test_margin_without_a_minimizer_is_zero():
    f = lf.Objective(lambda W: float((W**2).sum()), lambda W: 2 * W, shape=(1, 1), strong_convexity=2.0, minimum=0.0)
    assert lf.margin(f, [np.ones((1, 1)), np.ones((1, 1))]) == 0.0


def test_certificate_reads_well():
    f = lf.MatrixFactorization(np.diag([2.0, 0.2]))
    cert = lf.certify(f, lf.init.balanced((2, 4, 2), 9 * np.eye(2), rng=0))
    assert cert.rate == 0 and cert.best is None and cert.time_to(0.1) == np.inf
    assert "margin is 0: ‖W(0) − W*‖_F = 11.2 is too far for σ_min(W*) = 0.2" in str(cert)
    near = lf.certify(f, lf.init.balanced((2, 4, 2), np.diag([2.0, 0.2]) * 0.99, rng=0))
    assert near.best is not None
    plain = next(g for g in near.guarantees if g.name == "balanced")
    assert plain.time_to(1e-3) == pytest.approx(np.log(1e3) / plain.rate)
    assert plain.loss_at(1.0) == pytest.approx(near.gap * np.exp(-plain.rate))
    assert near.best.name == "envelope" and near.time_to(1e-3) < plain.time_to(1e-3)
    narrow = lf.certify(f, [np.ones((2, 1)), np.ones((1, 2))])
    assert "not overparametrized" in str(narrow)
    one = lf.certify(f, [np.eye(2)])
    assert one.rate == 2


def test_certificate_of_a_rank_deficient_target():
    """σ_min(W*) = 0: only the imbalance can certify, and it does."""
    f = lf.MatrixFactorization(np.diag([1.0, 0.0]))
    net = lf.init.imbalanced((2, 4, 2), 2.0, 0.1 * np.eye(2), rng=0)
    cert = lf.certify(f, net)
    assert cert.rate == pytest.approx(4.0, rel=1e-9)
    assert cert.check(lf.gradient_flow(f, net)).holds
    assert lf.margin(f, net) == 0
    assert algebra.sigma(f.minimizer, 2) == 0


@pytest.mark.parametrize("size", [1e-2, 1e-5, 1e-8, 1e-12])
def test_rounding_never_passes_for_a_margin(size):
    """From tiny starts σ_min(W*) and the distance agree to all digits; their difference is noise."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n, m = rng.integers(1, 4, 2)
        X = rng.standard_normal((5, n))
        f = lf.LinearRegression(X, rng.standard_normal((5, m)))
        net = lf.init.gaussian((n, 4, m), size, rng=rng)
        cert = lf.certify(f, net)
        assert cert.check(lf.gradient_flow(f, net, t_max=0.01)).holds


def test_rounding_of_the_product_is_that_of_its_factors():
    """A product of order one from factors of order 1e5 is right to 1e-6 only, and so is the margin."""
    s = 1e5
    net = lf.Network([np.array([[s, s]]), np.array([[s], [-s + 1 / s]])])
    f = lf.MatrixFactorization([[1.0]])
    assert net.magnitude() == pytest.approx(2 * s * s)
    assert lf.margin(f, net) < 1 - 16 * np.finfo(float).eps * net.magnitude()


def user(value, gradient, minimum=0.0):
    return lf.Objective(value, gradient, shape=(3, 2), minimum=minimum)


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize(
    ("factor", "seen"),
    [(-1.0, "-1 times"), (0.5, "0.5 times"), (2.0, "2 times"), (0.8, "0.8 times"), (0.0, "0 times")],
)
def test_a_wrong_gradient_is_told_at_the_start(factor, seen, size):
    rng = np.random.default_rng(5)
    Y = rng.standard_normal((3, 2))
    f = user(lambda W: 0.5 * float(((W - Y) ** 2).sum()), lambda W: factor * (W - Y))
    W = size * rng.standard_normal((3, 2))
    assert seen in misfit(f, W, f.gradient(W))


def test_a_run_says_that_its_gradient_is_wrong():
    Y = np.diag([2.0, 1.0])
    net = lf.Network([np.eye(2, 3), 0.5 * np.eye(3, 2)])
    for factor in (0.5, 1.0):
        f = lf.Objective(
            lambda W: 0.5 * float(((W - Y) ** 2).sum()),
            lambda W, factor=factor: factor * (W - Y),
            shape=(2, 2),
            strong_convexity=0.5,
            minimum=0.0,
        )
        flow, descent = lf.gradient_flow(f, net, t_max=1.0), lf.gradient_descent(f, net, step_size=0.1, steps=3)
        for run in (flow, descent):
            assert ("the gradient does not match the value" in " ".join(run.notes)) == (factor < 1)


def test_a_gradient_with_a_part_missing_is_told():
    rng = np.random.default_rng(6)
    Y, W = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))

    def value(W):
        return 0.5 * float(((W - Y) ** 2).sum()) + float((W**4).sum())

    wrong = {
        "a term": lambda W: W - Y,
        "a row": lambda W: (W - Y + 4 * W**3) * np.array([[1.0], [1.0], [0.0]]),
        "signs": lambda W: np.abs(W - Y + 4 * W**3),
    }
    for name, gradient in wrong.items():
        f = user(value, gradient)
        assert "does not match" in misfit(f, W, gradient(W)), name
    f = user(value, lambda W: W - Y + 4 * W**3)
    assert misfit(f, W, f.gradient(W)) == ""


def right_ones():
    """Values with their gradients, or subgradients, smooth and not, exact and rounded."""
    rng = np.random.default_rng(7)
    Y, A = rng.standard_normal((3, 2)), rng.standard_normal((30, 3))
    low, wide = Y.astype(np.float32), np.diag([1.0, 1e3, 1e6])
    yield "squares", lambda W: 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y
    yield "ill-conditioned", lambda W: 0.5 * float(((wide @ (W - Y)) ** 2).sum()), lambda W: wide @ wide @ (W - Y)
    yield "quartic", lambda W: float(((W - Y) ** 4).sum()), lambda W: 4 * (W - Y) ** 3
    yield "sixth", lambda W: float(((W - Y) ** 6).sum()), lambda W: 6 * (W - Y) ** 5
    yield "l1", lambda W: float(np.abs(W).sum()), np.sign
    yield "l1 of the residual", lambda W: float(np.abs(W - Y).sum()), lambda W: np.sign(W - Y)
    yield "absolute errors", lambda W: float(np.abs(A @ W).sum()), lambda W: A.T @ np.sign(A @ W)
    yield (
        "largest",
        lambda W: float(np.abs(W - Y).max()),
        lambda W: np.where(np.abs(W - Y) == np.abs(W - Y).max(), np.sign(W - Y), 0.0),
    )
    yield "hinge", lambda W: float(np.maximum(0, 1 - A @ W).sum()), lambda W: -A.T @ (A @ W < 1).astype(float)
    yield (
        "Huber",
        lambda W: float(np.where(np.abs(W) < 1e-3, W**2 / 2e-3, np.abs(W) - 5e-4).sum()),
        lambda W: np.clip(W / 1e-3, -1, 1),
    )
    yield (
        "float32",
        lambda W: float((((W.astype(np.float32) - low) ** 2).sum() / 2).item()),
        lambda W: (W.astype(np.float32) - low).astype(float),
    )
    yield "far offset", lambda W: 1e12 + 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y
    yield "offset", lambda W: 1e4 + 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y
    yield "steep", lambda W: float(np.exp(30 * (W - Y)).sum()), lambda W: 30 * np.exp(30 * (W - Y))
    yield "wave", lambda W: float(np.sin(50 * W).sum()) + 6, lambda W: 50 * np.cos(50 * W)
    yield "root", lambda W: float(np.sqrt(1e-12 + W**2).sum()), lambda W: W / np.sqrt(1e-12 + W**2)
    yield "constant", lambda W: 3.0, lambda W: 0 * W
    yield (
        "barrier",
        lambda W: float(-np.log(np.maximum(4 - (W**2).sum(), 0.0))) + 2,
        lambda W: 2 * W / (4 - (W**2).sum()),
    )


@pytest.mark.parametrize(("value", "gradient"), [pytest.param(*pair, id=name) for name, *pair in right_ones()])
def test_a_right_gradient_raises_no_alarm(value, gradient):
    rng = np.random.default_rng(8)
    f = user(value, gradient)
    starts = [np.zeros((3, 2)), np.eye(3, 2), np.random.default_rng(7).standard_normal((3, 2))]  # kinks, a minimum
    starts += [starts[2] + 10.0 ** -rng.uniform(1, 15) * rng.standard_normal((3, 2)) for _ in range(30)]
    starts += [10.0 ** rng.uniform(-12, 0.2) * rng.standard_normal((3, 2)) for _ in range(60)]
    with np.errstate(all="ignore"):
        for W in starts:
            assert misfit(f, W, gradient(W)) == ""
