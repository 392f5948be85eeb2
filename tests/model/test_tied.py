"""Tied layers: value, gradient and minimum against their definitions, and runs against the closed form."""

import numpy as np
import pytest

import linflow as lf


def symmetric(rng, values):
    Q = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return (Q * values) @ Q.T


@pytest.mark.parametrize(("values", "width"), [((3.0, 1.0, -2.0), 3), ((3.0, 2.0, 1.0), 2), ((3.0, 2.0, 1.0), 4)])
def test_value_gradient_and_minimum(values, width, rng):
    Y = symmetric(rng, values)
    f = lf.TiedLayers(lf.MatrixFactorization(Y), width)
    X, V = rng.standard_normal((2, 3, width))
    assert f.value(X) == pytest.approx(0.25 * np.sum((Y - X @ X.T) ** 2), rel=1e-12)
    kept = np.sort(np.maximum(values, 0))[::-1][:width]
    lost = np.sum(np.square(values)) - np.sum(kept**2)
    assert f.minimum == pytest.approx(0.25 * lost, rel=1e-12, abs=1e-28)
    assert f.gap(X) == pytest.approx(f.value(X) - f.minimum, rel=1e-12)
    np.testing.assert_allclose(f.gradient(X), (X @ X.T - Y) @ X, rtol=0, atol=1e-12)
    eps = 1e-5
    change = (f.gradient(X + eps * V) - f.gradient(X - eps * V)) / (2 * eps)
    np.testing.assert_allclose(f.hessian_product(X, V), change, rtol=0, atol=1e-7)
    assert lf.gradient_flow(f, [0.5 * X], until=1e-10).result.ok  # the minimum is reached


def test_a_gradient_that_is_not_symmetric_counts_by_its_symmetric_part(rng):
    A, B = rng.standard_normal((2, 3, 3))
    inner = lf.Objective(lambda W: 0.5 * float(np.sum((A @ W - B) ** 2)), lambda W: A.T @ (A @ W - B),
                         shape=(3, 3), minimum=0.0)  # fmt: skip
    f = lf.TiedLayers(inner, 2, minimum=0.0)
    X, V = rng.standard_normal((2, 3, 2))
    eps = 1e-6
    slope = (f.value(X + eps * V) - f.value(X - eps * V)) / (2 * eps)
    assert np.sum(f.gradient(X) * V) == pytest.approx(slope, rel=1e-7)
    assert f.gap(X) == f.value(X)


def test_a_run_keeps_the_tie_where_two_layers_leave_it():
    Y, X = np.diag([2.0, -1.0]), np.array([[0.1, 0.02], [0.03, 0.1]])
    f = lf.MatrixFactorization(Y)
    run = lf.gradient_flow(lf.TiedLayers(f, 2), [X], t_max=60.0, rtol=1e-10)
    last = run.weights[0] @ run.weights[0].T
    np.testing.assert_allclose(last, lf.exact.symmetric(Y, X, 60.0), rtol=0, atol=1e-8)
    for t in (0.5, 2.0, 5.0):
        there = run.network_at(t).weights[0]
        np.testing.assert_allclose(there @ there.T, lf.exact.symmetric(Y, X, t), rtol=0, atol=1e-7)
    # Two layers: a difference of 10⁻¹² grows as e^t and learns −1.
    two = lf.gradient_flow(f, [X, X.T + 1e-12], t_max=60.0).final.product()
    assert abs(two[1, 1] + 1) < 1e-3


def test_certificates_of_the_two_layers_hold(rng):
    Y = symmetric(rng, (3.0, 2.0, 1.0))
    X = np.linalg.cholesky(Y + 0.1 * np.eye(3))  # near enough for a margin
    f = lf.MatrixFactorization(Y)
    cert = lf.certify(f, [X, X.T])
    run = lf.gradient_flow(lf.TiedLayers(f, 3), [X], until=1e-8)
    assert cert.best is not None
    # The loss here is half of f, and the clock is the same.
    assert np.all(2 * run.gap <= cert.gap_at(run.t) * (1 + 1e-7))
    again = lf.gradient_flow(f, [X, X.T], t_max=float(run.t[-1])).final.product()
    np.testing.assert_allclose(run.weights[0] @ run.weights[0].T, again, rtol=0, atol=1e-6)


def test_what_is_refused(rng):
    with pytest.raises(ValueError, match="2×3 matrices"):
        lf.TiedLayers(lf.MatrixFactorization(np.ones((2, 3))), 2)
    with pytest.raises(ValueError, match="give minimum="):
        lf.TiedLayers(lf.LinearRegression(np.eye(2), np.diag([1.0, -1.0])), 2)
    with pytest.raises(ValueError, match="width"):
        lf.TiedLayers(lf.MatrixFactorization(np.eye(2)), 0)


def test_rounding_is_that_of_the_two_layers_and_of_the_sums():
    eps = np.finfo(float).eps
    inner, X = lf.MatrixFactorization(np.diag([2.0, -1.0])), np.array([[1.0, 0.5], [0.2, 0.3]])
    f, net = lf.TiedLayers(inner, 2), lf.Network([X])
    both = lf.Network([X, X.T])
    assert f.rounding(net) == pytest.approx(0.5 * inner.rounding(both) + 4 * eps * np.sum(X**2), rel=1e-13, abs=0)
    slope = np.linalg.norm(inner.gradient(X @ X.T))
    expected = np.linalg.norm(X) * (inner.gradient_rounding(both) + 4 * eps * slope)
    assert f.gradient_rounding(net) == pytest.approx(expected, rel=1e-13, abs=0)


EPS = np.finfo(float).eps


def declared(Y):
    """The factorization of Y, of which only the minimiser is told."""
    return lf.Objective(
        lambda W: 0.5 * float(np.sum((W - Y) ** 2)) + 3.0, lambda W: W - Y, shape=Y.shape, minimum=3.0, minimizer=Y
    )


@pytest.mark.parametrize(("part", "reached"), [(0.99, True), (1.01, False)])
def test_a_minimiser_is_a_square_up_to_its_rounding(part, reached):
    """64ε of the norm of Y, of what Y − Yᵀ and the eigenvalues that no XXᵀ has may be."""
    off = part * 64 * EPS
    skew = np.diag([3.0, 4.0]) + off * 5 / 2**0.5 * np.array([[0.0, 0.5], [-0.5, 0.0]])
    below, above = np.diag([3.0, 4.0, -off * 5]), np.diag([3.0, 4.0, off * 5])
    for Y, width in ((skew, 2), (below, 3), (above, 2)):
        if reached:
            f = lf.TiedLayers(declared(Y), width)
            assert f.minimum == 1.5 and f.gap(2.0 * np.eye(len(Y), width)) > 0
        else:
            with pytest.raises(ValueError, match="give minimum="):
                lf.TiedLayers(declared(Y), width)


def test_constants_and_a_minimum_that_is_given():
    inner, X = lf.MatrixFactorization(np.diag([2.0, -1.0])), np.array([[1.0, 0.5], [0.2, 0.3]])
    f, net, both = lf.TiedLayers(inner, 2, minimum=-0.5), lf.Network([X]), lf.Network([X, X.T])
    assert (f.strong_convexity, f.smoothness, f.pl_constant) == (0.0, np.inf, 0.0)
    assert f.gap(X) == f.value(X) + 0.5
    expected = 0.5 * inner.rounding(both) + 4 * EPS * (0.5 + f.value(X))
    assert f.rounding(net) == pytest.approx(expected, rel=1e-13, abs=0)
    low = lf.Objective(lambda W: inner.value(W) - 50, inner.gradient, shape=(2, 2), minimum=-50.0)
    g = lf.TiedLayers(low, 2, minimum=-25.0)
    expected = 0.5 * low.rounding(both) + 4 * EPS * (25.0 - g.value(X))
    assert g.value(X) < 0 and g.rounding(net) == pytest.approx(expected, rel=1e-13, abs=0)
    plain = lf.TiedLayers(declared(np.diag([2.0, 1.0])), 2)
    assert plain.rounding(net) == 0.5 * plain.objective.rounding(both)
    whole = lf.TiedLayers(lf.MatrixFactorization(np.diag([2.0, 1.0])), 2)
    assert whole.minimum == 0 and whole.rounding(net) == 0.5 * whole.objective.rounding(both)
    assert whole.gap(X) == 0.5 * whole.objective.gap(X @ X.T)
    with pytest.raises(ValueError, match="give minimum="):
        lf.TiedLayers(lf.Objective(inner.value, inner.gradient, shape=(2, 2), minimum=0.0), 2)


def test_the_gap_has_its_digits_near_the_minimum():
    """`¼(q₁ − 2)² + ½q₂ + ¼q₂²` at Q = diag(q) for Y = diag(2, −1)."""
    f = lf.TiedLayers(lf.MatrixFactorization(np.diag([2.0, -1.0])), 2)
    for a, b in ((1.5, 2.0**-30), (1.4375, 0.0), (0.0, 3.0)):
        q = a * a, b * b
        expected = 0.25 * (q[0] - 2) ** 2 + 0.5 * q[1] + 0.25 * q[1] ** 2
        assert f.gap(np.diag([a, b])) == pytest.approx(expected, rel=1e-13, abs=0)
    assert f.gap(np.diag([0.0, 2.0**-40])) - 1.0 < 1e-15


def test_the_slope_of_a_loss_that_is_not_symmetric(rng):
    """`S = ½(G + Gᵀ)` with `G = AXXᵀB − C`, and the same of the change `A(VXᵀ + XVᵀ)B`."""
    A, B = (S @ S.T for S in rng.standard_normal((2, 3, 4)))
    C = rng.standard_normal((3, 3))
    f = lf.TiedLayers(lf.Quadratic(A, B, C), 2, minimum=0.0)
    X, V = rng.standard_normal((2, 3, 2))
    G, H = A @ X @ X.T @ B - C, A @ (V @ X.T + X @ V.T) @ B
    np.testing.assert_allclose(f.gradient(X), 0.5 * (G + G.T) @ X, rtol=1e-11)
    np.testing.assert_allclose(f.hessian_product(X, V), 0.5 * (G + G.T) @ V + 0.5 * (H + H.T) @ X, rtol=1e-11)
