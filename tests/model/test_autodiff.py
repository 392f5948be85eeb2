"""Objectives of PyTorch and JAX losses: their gradients, what is refused, certificates, runs and proofs."""

import numpy as np
import pytest

import linflow as lf
from linflow.model import autodiff

torch = pytest.importorskip("torch")
Y = torch.tensor([[2.0, 0.3], [-0.4, 1.0]], dtype=torch.float64)


def huber(W):
    return torch.nn.functional.huber_loss(W, Y, reduction="sum", delta=0.7)


def test_the_gradient_is_that_of_the_formula(rng):
    f = lf.autodiff(lambda W: 0.5 * ((W - Y) ** 2).sum(), like=Y, strong_convexity=1.0, smoothness=1.0)
    g = lf.MatrixFactorization(Y)
    W = torch.tensor(rng.standard_normal((2, 2)))
    assert f.value(W) == pytest.approx(g.value(W), rel=1e-14, abs=0)
    assert torch.equal(f.gradient(W), g.gradient(W)) and not f.gradient(W).requires_grad
    assert abs(f.minimum) < 1e-20 and torch.allclose(f.minimizer, Y, atol=1e-10)
    net = lf.Network([torch.tensor(each) for each in lf.init.imbalanced((2, 5, 2), [1.0], rng=3).weights])
    assert lf.certify(f, net).rate == pytest.approx(lf.certify(g, net).rate, rel=1e-9)
    run = lf.gradient_flow(f, net, until=1e-6)
    assert lf.certify(f, net).check(run).holds and not run.notes
    assert run.time_to(1e-6) == pytest.approx(lf.gradient_flow(g, net, until=1e-6).time_to(1e-6), rel=1e-6)


def test_a_parameter_stays_untouched():
    f = lf.autodiff(huber, like=Y, smoothness=1.0, minimum=0.0, convex=True)
    W = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    assert f.gradient(W).tolist() == [[-0.7, -0.3], [0.4, -0.7]] and W.grad is None
    with torch.no_grad():
        assert f.gradient(W).tolist() == [[-0.7, -0.3], [0.4, -0.7]]


def test_proofs_take_declared_errors():
    f = lf.autodiff(huber, like=Y, smoothness=1.0, minimum=0.0, convex=True, value_error=1e-12, gradient_error=1e-12)
    net = [torch.eye(2, dtype=torch.float64)] * 2
    assert lf.enclose(f, net, algorithm="descent", step_size=0.1, until=1e-2).result == "target proved"


def detached(W):
    return (W * W.detach()).sum()


def test_what_is_refused():
    for loss, what in (
        (detached, "the gradient is not that of the loss: along one direction"),
        (lambda W: torch.tensor(float(W.detach().norm())), "cannot be differentiated"),
        (lambda W: (W - Y) ** 2, "cannot be differentiated"),
        (lambda W: (W @ Y[:, :1].T).sum(), "cannot be differentiated"),
        (lambda W: (W / 0).sum(), "the loss or its gradient is not finite"),
    ):
        with pytest.raises(ValueError, match=what):
            lf.autodiff(loss, like=Y, minimum=0.0)
    with pytest.raises(TypeError, match="like is a ndarray; a tensor of PyTorch or an array of JAX"):
        lf.autodiff(huber, like=np.eye(2), minimum=0.0)
    with pytest.raises(TypeError, match="a float64 matrix is needed"):
        lf.autodiff(huber, like=Y.float(), minimum=0.0)
    with pytest.raises(ValueError, match="the minimum f"):
        lf.autodiff(huber, like=Y)


def test_a_gradient_is_compared_at_one_point_along_one_direction():
    """Both from the seed 0, near the matrix that is given; what is off by more than the stated room is refused."""
    like = np.array([[3.0, -5.0], [0.5, 1.0]])
    rng = np.random.default_rng(0)
    point, way = rng.standard_normal((2, 2)), rng.standard_normal((2, 2))
    way /= np.linalg.norm(way)
    start, seen = like + 0.1 * (1 + 5.0) * point, []

    def quadratic(W):
        seen.append(W)
        return 0.5 * float(np.sum(W * W))

    autodiff._check(quadratic, lambda W: W, like)
    for found, step in zip(seen, (0.0, 1e-5, -1e-5), strict=True):
        np.testing.assert_allclose(found, start + step * way, rtol=0, atol=1e-15)
    slope = float(np.sum(start * way))
    for shift, size in ((0.0, 1.0), (0.0, 1e-3), (1e6, 1.0), (-1e6, 1.0)):
        largest = max(abs(size * 0.5 * float(np.sum((start + h * way) ** 2)) + shift) for h in (0.0, 1e-5, -1e-5))
        for part, fine in ((0.9, True), (1.1, False)):
            for side in (1.0, -1.0):
                # told = slope + e with |e| = 1e-4 ‖G‖ + 1e-9 max|f|, for a G along the direction
                away = 1e-9 * largest
                told = size * slope
                for _ in range(60):
                    told = size * slope + side * part * (1e-4 * abs(told) + away)
                G = told * way
                wrong = lambda W, G=G: G  # noqa: E731
                value = lambda W, a=size, b=shift: a * 0.5 * float(np.sum(W * W)) + b  # noqa: E731
                if fine:
                    autodiff._check(value, wrong, like)
                else:
                    with pytest.raises(ValueError, match="along one direction"):
                        autodiff._check(value, wrong, like)


def test_what_is_not_finite_is_refused():
    like = np.eye(2)
    half = iter((0.0, np.nan, 0.0))  # at one of the three points
    for value, G in (
        (lambda W: next(half), np.zeros((2, 2))),
        (lambda W: np.inf, np.zeros((2, 2))),
        (lambda W: 0.0, np.diag([0.0, np.nan])),
    ):
        with pytest.raises(ValueError, match="not finite"):
            autodiff._check(value, lambda W, G=G: G, like)
    for error, said in ((RuntimeError(), "RuntimeError"), (TypeError(" first\nsecond"), "first")):
        with pytest.raises(ValueError, match=f"like the one given: {said}$"):
            autodiff._check(raising(error), lambda W: W, like)


def raising(error):
    def value(W):
        raise error

    return value


def test_what_may_be_like_a_matrix():
    with pytest.raises(TypeError, match="a float64 matrix is needed"):
        lf.autodiff(lambda W: (W * W).sum(), like=Y[0], minimum=0.0)
    f = lf.autodiff(lambda W: (W * W).sum(), like=torch.ones(2, 3, dtype=torch.float64), minimum=0.0)
    assert f.shape == (2, 3)
