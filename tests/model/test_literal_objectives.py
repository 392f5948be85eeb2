"""Objectives: values, constants, roundings and limits against their formulas, written out anew.

Both sides are a few products of small matrices: they agree to a few roundings (1e-11).
"""

import math

import numpy as np
import pytest

import linflow as lf
from linflow.model import quadratics

EPS = np.finfo(float).eps


def near(x, rel=1e-11, abs=0.0):
    return pytest.approx(x, rel=rel, abs=abs)


def turned(rng, values, rows=None):
    """A symmetric matrix with these eigenvalues, or one of more rows with these singular values."""
    side = len(values)
    Q = np.linalg.qr(rng.standard_normal((side, side)))[0]
    if rows is None:
        return Q * values @ Q.T
    return np.linalg.qr(rng.standard_normal((rows, rows)))[0][:, :side] * values @ Q.T


def check(f, net, value, gradient, hessian, K, mu, gamma, size):
    W = net.product()
    V = np.random.default_rng(1).standard_normal(W.shape)
    assert f.value(W) == near(value(W)) and f.gap(W) == near(value(W) - f.minimum, rel=1e-9)
    np.testing.assert_allclose(f.gradient(W), gradient(W), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(f.hessian_product(W, V), hessian(V), rtol=1e-10, atol=1e-12)
    assert (f.smoothness, f.strong_convexity, f.pl_constant) == (near(K), near(mu), near(gamma))
    assert f.minimizer_size == near(size, rel=1e-9)
    magnitude = net.scale * math.prod(np.linalg.norm(A) for A in net.weights)
    assert f.gradient_rounding(net) == near(4 * EPS * K * (magnitude + size), rel=1e-9)
    assert f.rounding(net) == near(0.5 * K * (4 * EPS * (magnitude + size)) ** 2, rel=1e-9)


def network(rng, n, m):
    return lf.Network([rng.standard_normal((n, 3)), rng.standard_normal((3, m))], 0.7)


def test_a_factorization_is_half_a_square(rng):
    Y = rng.standard_normal((2, 4))
    f, net = lf.MatrixFactorization(Y), network(rng, 2, 4)
    assert f.minimum == 0.0 and np.array_equal(f.minimizer, Y)
    size = np.linalg.norm(Y)
    check(f, net, lambda W: 0.5 * np.sum((W - Y) ** 2), lambda W: W - Y, lambda V: V, 1.0, 1.0, 2.0, size)


@pytest.mark.parametrize("s", [(3.0, 0.5), (3.0, 0.5, 0.0)])
def test_a_regression_has_the_constants_of_its_inputs(rng, s):
    X, Y = turned(rng, np.array(s), 5), rng.standard_normal((5, 2))
    f, net = lf.LinearRegression(X, Y), network(rng, len(s), 2)
    W = np.linalg.pinv(X, rcond=1e-10) @ Y
    R = Y - X @ W
    np.testing.assert_allclose(f.minimizer, W, atol=1e-13)
    assert f.rank == 2 and f.minimum == near(0.5 * np.sum(R * R))
    size = 4 * (np.linalg.norm(W) + np.linalg.norm(R) / 0.5)
    mu = 0.25 if len(s) == 2 else 0.0
    value = lambda W: 0.5 * np.sum((X @ W - Y) ** 2)  # noqa: E731
    check(f, net, value, lambda W: X.T @ (X @ W - Y), lambda V: X.T @ X @ V, 9.0, mu, 0.5, size)
    seen, restricted = f.effective(net)
    if len(s) == 2:
        assert seen is f and restricted is net
        return
    V = np.linalg.svd(X)[2][:2].T
    assert seen.shape == (2, 2) and restricted.widths == (2, 3, 2) and restricted.scale == 0.7
    assert (seen.strong_convexity, seen.smoothness) == (near(0.25), near(9.0)) and seen.minimizer_size == near(size)
    np.testing.assert_allclose(
        np.linalg.svd(restricted.product(), compute_uv=False),
        np.linalg.svd(V.T @ net.product(), compute_uv=False),
        atol=1e-13,
    )
    assert seen.gap(restricted.product()) == near(f.gap(net.product())) and seen.minimum == f.minimum


def test_singular_values_below_rounding_of_the_longer_side_count_as_zero():
    for part, rank in ((0.9, 1), (1.1, 2)):
        X = np.zeros((7, 2))
        X[0, 0], X[1, 1] = 2.0, part * 7 * EPS * 2.0
        assert lf.LinearRegression(X, np.ones((7, 1))).rank == rank
    with pytest.raises(ValueError, match="zero"):
        lf.LinearRegression(np.zeros((3, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="leave float64"):
        lf.LinearRegression(1e160 * np.eye(2), np.ones((2, 1)))
    with pytest.raises(ValueError, match="leave float64"):
        lf.LinearRegression(1e-170 * np.eye(2), 1e-170 * np.ones((2, 1)))
    with pytest.raises(ValueError, match="one row per sample"):
        lf.LinearRegression(np.eye(2), np.ones((3, 1)))
    assert quadratics.SOLVED == 4.0


@pytest.mark.parametrize(
    ("a", "b"), [((4.0, 1.0), (9.0, 2.0, 0.5)), ((4.0, 0.0), (9.0, 2.0, 0.5)), ((4.0, 1.0), (9.0, 0.5, 0.0))]
)
def test_a_quadratic_has_the_constants_of_its_matrices(rng, a, b):
    A, B = turned(rng, np.array(a)), turned(rng, np.array(b))
    C = A @ rng.standard_normal((2, 3)) @ B
    f, net = lf.Quadratic(A, B, C), network(rng, 2, 3)
    W = np.linalg.pinv(A, rcond=1e-10) @ C @ np.linalg.pinv(B, rcond=1e-10)
    np.testing.assert_allclose(f.minimizer, W, atol=1e-11)
    assert f.minimum == near(-0.5 * np.sum(C * W), rel=1e-9)
    least = min(x for x in a if x), min(x for x in b if x)
    kappa = math.sqrt(a[0] / least[0]) * math.sqrt(b[0] / least[1])
    value = lambda W: 0.5 * np.sum(W * (A @ W @ B)) - np.sum(C * W)  # noqa: E731
    mu = min(a) * min(b)
    check(
        f, net, value, lambda W: A @ W @ B - C, lambda V: A @ V @ B, a[0] * b[0], mu, 2 * least[0] * least[1],
        4 * np.linalg.norm(W) * kappa,
    )  # fmt: skip
    seen, restricted = f.effective(net)
    assert (seen is f) == (mu > 0)
    if mu == 0:
        assert seen.strong_convexity == near(least[0] * least[1]) and seen.smoothness == near(a[0] * b[0])
        assert restricted.widths == (sum(x > 0 for x in a), 3, sum(x > 0 for x in b))
        assert seen.gap(restricted.product()) == near(f.gap(net.product()), rel=1e-9)
        assert seen.minimizer_size == near(f.minimizer_size) and seen.minimum == f.minimum


def test_a_quadratic_is_restricted_at_both_ends_of_more_layers(rng):
    f = lf.Quadratic(np.diag([2.0, 0.0]), np.diag([3.0, 1.0, 0.0]), np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    net = lf.Network([rng.standard_normal(s) for s in ((2, 4), (4, 5), (5, 3))], 0.7)
    seen, restricted = f.effective(net)
    assert restricted.widths == (1, 4, 5, 2)
    assert seen.gap(restricted.product()) == near(f.gap(net.product()), rel=1e-9)


def test_quadratics_without_a_linear_or_a_square_part():
    assert not lf.Quadratic(np.eye(2), C=np.zeros((2, 2))).minimizer.any()
    with pytest.raises(ValueError, match="A is zero"):
        lf.Quadratic(np.zeros((2, 2)), C=np.ones((2, 2)))
    for A in (np.diag([-1.0, -5.0]), np.diag([1.0, -5.0]), np.diag([0.0, -5.0])):
        with pytest.raises(ValueError, match="A has the negative eigenvalue -5"):
            lf.Quadratic(A, C=np.ones((2, 2)))
    # A is 1.8e-10 off symmetry, and what counts is half of it in each place.
    W = lf.Quadratic(np.array([[2.0, 1.8e-10], [0.0, 2.0]]), C=np.array([[1.0], [0.0]])).minimizer
    assert W[1, 0] == near(-0.9e-10 / 4, rel=1e-4)
    # A singular value at the rounding of the greatest is not above it.
    assert quadratics._rank(np.array([4.0, 3 * EPS * 4.0]), 3, "A") == 1


def test_limits_of_quadratics(rng):
    one = lf.Quadratic(3 * np.eye(2), C=np.ones((2, 4)))
    assert (one.smoothness, one.strong_convexity, one.pl_constant) == (near(3.0), near(3.0), near(6.0))
    for part, fine in ((0.999, True), (1.001, False)):
        # A part of C that A does not see, of the size of C.
        C = np.zeros((2, 4))
        C[0, 0], C[1, 0] = 5.0, part * 100 * 4 * EPS * 5.0
        bent = np.array([[2.0, 0.0], [0.0, 2.0]])
        bent[0, 1] = part * 1e-10 * np.linalg.norm(bent) / math.sqrt(2)
        least = -part * 10 * 2 * EPS * 7.0
        for make in (
            lambda C=C: lf.Quadratic(np.diag([1.0, 0.0]), C=C),
            lambda bent=bent: lf.Quadratic(bent, C=np.ones((2, 1))),
            lambda least=least: lf.Quadratic(np.diag([7.0, least]), C=np.diag([1.0, 0.0])),
        ):
            if fine:
                make()
            else:
                with pytest.raises(ValueError, match=r"unbounded below|not symmetric"):
                    make()
    skew = np.array([[0.0, 1.0], [-1.0, 0.0]])
    with pytest.raises(ValueError, match="not symmetric"):
        lf.Quadratic(skew, C=np.ones((2, 1)))
    with pytest.raises(ValueError, match="negative eigenvalue"):
        lf.Quadratic(np.diag([1.0, -5.0]), C=np.ones((2, 1)))
    with pytest.raises(ValueError, match="linear term C"):
        lf.Quadratic(np.eye(2))
    # Only the symmetric part counts.
    A = np.array([[2.0, 1e-11], [0.0, 2.0]])
    np.testing.assert_allclose(lf.Quadratic(A, C=np.ones((2, 1))).minimizer, np.full((2, 1), 0.5), rtol=1e-10)
    for side in (2, 5):
        for part, rank in ((0.9, 1), (1.1, 2)):
            values = np.zeros(side)
            values[0], values[1] = 3.0, part * side * EPS * 3.0
            assert (
                lf.Quadratic(np.diag(values), C=np.diag(values))
                .effective(lf.Network([np.eye(side), np.eye(side)]))[1]
                .widths[0]
                == rank
            )


def quartic(**declared):
    """`½‖W‖² + ¼Σw⁴ + 3`, whose minimum is 3 at 0."""
    return lf.Objective(
        lambda W: float(np.sum(W**2) / 2 + np.sum(W**4) / 4 + 3), lambda W: W + W**3, shape=(2, 2), **declared
    )


def test_the_rounding_of_an_objective_follows_its_values(rng):
    net = network(rng, 2, 2)
    W = net.product()
    magnitude = 0.7 * math.prod(np.linalg.norm(A) for A in net.weights)
    for minimum in (-1e3, 3.0):
        f = quartic(strong_convexity=1.0, minimum=minimum)
        G = np.linalg.norm(W + W**3)
        literal = 8 * EPS * max(abs(f.value(W)), abs(minimum)) + 4 * EPS * G * magnitude
        assert f.rounding(net) == near(literal) and f.gradient_rounding(net) == near(4 * EPS * G)
        assert f.gap(W) == near(f.value(W) - minimum) and f.minimizer_size == math.inf
    low = lf.Objective(lambda W: -1e6, lambda W: 0 * W, shape=(2, 2), pl_constant=1.0, minimum=-2e6)
    assert low.rounding(net) == near(8 * EPS * 2e6)
    lower = lf.Objective(lambda W: -3e6, lambda W: 0 * W, shape=(2, 2), pl_constant=1.0, minimum=-2e6)
    assert lower.rounding(net) == near(8 * EPS * 3e6)


def test_constants_that_are_declared(rng):
    f = quartic(strong_convexity=1.0, minimum=3.0)
    assert (f.strong_convexity, f.smoothness, f.pl_constant) == (1.0, math.inf, 2.0)
    f = quartic(pl_constant=1.5, smoothness=9.0, minimum=3.0)
    assert (f.strong_convexity, f.smoothness, f.pl_constant) == (0.0, 9.0, 1.5)
    f = quartic(strong_convexity=1.0, pl_constant=1.5, minimum=3.0)
    assert f.pl_constant == 2.0  # γ ≥ 2μ for every function
    assert quartic(minimum=3.0).pl_constant == 0.0
    quartic(strong_convexity=2.0, smoothness=2.0, pl_constant=4.0, minimum=3.0)
    with pytest.raises(ValueError, match="exceeds smoothness"):
        quartic(strong_convexity=2.1, smoothness=2.0, minimum=3.0)
    with pytest.raises(ValueError, match="exceeds 2·smoothness"):
        quartic(pl_constant=4.1, smoothness=2.0, minimum=3.0)
    with pytest.raises(ValueError, match="finite number"):
        quartic(minimum=math.inf)
    found = quartic(strong_convexity=1.0)
    assert found.minimum == 3.0 and np.abs(found.minimizer).max() < 1e-6
    given = quartic(minimizer=np.zeros((2, 2)))
    assert given.minimum == 3.0 and given.minimizer_size == 0.0
    with pytest.raises(ValueError, match="needs 2×2"):
        given.check_network(network(rng, 2, 3))
    given.check_network(network(rng, 2, 2))


def test_the_second_derivative_is_a_central_difference(rng):
    asked = []
    f = lf.Objective(
        lambda W: 0.0, lambda W: asked.append(W) or W + W**3, shape=(2, 2), strong_convexity=1.0, minimum=0.0
    )
    for size in (0.1, 30.0):
        W, V = size * rng.standard_normal((2, 2)), 5.0 * rng.standard_normal((2, 2))
        step = EPS ** (1 / 3) * max(np.linalg.norm(W), 1.0) / np.linalg.norm(V)
        asked.clear()
        found = f.hessian_product(W, V)
        np.testing.assert_allclose(asked, [W + step * V, W - step * V], rtol=1e-15)
        np.testing.assert_allclose(found, V + 3 * W**2 * V, rtol=1e-8, atol=1e-8)
    assert np.array_equal(f.hessian_product(W, np.zeros((2, 2))), np.zeros((2, 2)))


def test_a_network_is_of_the_kind_of_the_minimizer(monkeypatch):
    from linflow.model import objectives

    asked, net = [], lf.Network([np.ones((2, 2))])
    monkeypatch.setattr(objectives, "namespace", lambda *arrays: asked.append(arrays))
    quartic(strong_convexity=1.0, minimum=3.0).check_network(net)
    assert not asked
    known = quartic(minimizer=np.zeros((2, 2)))
    known.check_network(net)
    assert len(asked) == 1 and asked[0][0] is known.minimizer and asked[0][1] is net.weights[0]


def test_functions_that_cannot_be_pickled_are_left_behind():
    import pickle

    state = quartic(strong_convexity=1.0).__getstate__()
    assert state["_value"] is state["_gradient"]
    with pytest.raises(Exception, match="pickle"):
        state["_value"](np.zeros((2, 2)))
    kept = lf.Objective(np.sum, np.negative, shape=(2, 2), minimum=0.0).__getstate__()
    assert (kept["_value"], kept["_gradient"]) == (np.sum, np.negative)
    again = pickle.loads(pickle.dumps(quartic(strong_convexity=1.0)))
    assert again.minimum == 3.0 and again.strong_convexity == 1.0
    assert "_value" not in lf.MatrixFactorization(np.eye(2)).__getstate__()


def test_a_minimum_at_the_first_guess_is_found():
    f = lf.Objective(lambda W: 0.5 * float(np.sum(W**2)), lambda W: W, shape=(1, 2), strong_convexity=1.0)
    assert f.minimum == 0.0 and not f.minimizer.any()


def test_the_search_for_a_minimum_is_begun_20_times(monkeypatch):
    from types import SimpleNamespace

    import scipy.optimize

    asked = []

    def slowly(function, x, **given):
        asked.append(x)
        return SimpleNamespace(x=(3 * x + 7.0) / 4, fun=function((3 * x + 7.0) / 4)[0])

    monkeypatch.setattr(scipy.optimize, "minimize", slowly)
    value, slope = (lambda W: 0.5 * float(np.sum((W - 7.0) ** 2))), (lambda W: W - 7.0)
    with pytest.raises(ValueError, match="could not be computed"):
        lf.Objective(value, slope, shape=(1, 1), strong_convexity=1.0)
    assert len(asked) == 20 and asked[1] == [1.75]


@pytest.mark.parametrize("f0", [-5.0, -5e6])
def test_a_minimum_is_found_to_a_part_of_the_way_down(monkeypatch, f0):
    from types import SimpleNamespace

    import scipy.optimize

    # Half a square above −5: the gradient that is left, over γ = 2, is twice what the value may be too high by.
    start = np.full((1, 2), 7.0)
    end, asked = {}, []

    def stopped(function, x, **given):
        asked.append((x.shape, given))
        return SimpleNamespace(x=end["x"], fun=function(end["x"])[0])

    monkeypatch.setattr(scipy.optimize, "minimize", stopped)
    first, last = f0 + 49.0, f0
    allowed = 1e-12 * (first - last) + 8 * EPS * abs(last)
    for part, fine in ((0.99, True), (1.01, False)):
        off = math.sqrt(part * allowed * 2)  # of the gradient
        end["x"], asked[:] = start.ravel() + np.array([off, 0.0]), []
        make = lambda: lf.Objective(  # noqa: E731
            lambda W: 0.5 * float(np.sum((W - start) ** 2)) + f0,
            lambda W: W - start,
            shape=(1, 2),
            strong_convexity=1.0,
        )
        if fine:
            assert np.array_equal(make().minimizer.ravel(), end["x"])
        else:
            with pytest.raises(ValueError, match="could not be computed"):
                make()
        # It is begun again while that helps.
        assert len(asked) == 2 and asked[0] == (
            (2,),
            {"jac": True, "method": "BFGS", "options": asked[0][1]["options"]},
        )
        assert asked[0][1]["options"] == {"gtol": 0.0, "maxiter": 500}
    with pytest.raises(ValueError, match="unknown"):
        lf.Objective(lambda W: 0.0, lambda W: W, shape=(1, 1))
