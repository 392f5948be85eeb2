"""Softmax cross-entropy: the definition, the margin, every constant of its theorem, and its guarantees."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

import linflow as lf
from linflow.model.tails import LogisticTail, MeanTail


def separable(rng, count=9, n=3, m=3):
    while True:
        X, W = rng.standard_normal((count, n)), rng.standard_normal((n, m))
        labels = np.argmax(X @ W, axis=1)
        if len(set(labels)) == m:
            return X, labels


def cross_entropy(X, labels, W):
    scores = X @ W
    return float(np.sum(logsumexp(scores, axis=1) - scores[np.arange(len(X)), labels]))


@pytest.mark.parametrize("mean", [False, True])
def test_it_is_its_definition(mean, rng):
    X, labels = separable(rng)
    f, share = lf.SoftmaxLoss(X, labels, mean=mean), 1 / 9 if mean else 1.0
    for size in (0.1, 1.0, 30.0):
        W, V = size * rng.standard_normal((2, 3, 3))
        assert f.value(W) == pytest.approx(share * cross_entropy(X, labels, W), rel=1e-12, abs=1e-15)
        p = np.exp(X @ W) / np.sum(np.exp(X @ W), axis=1, keepdims=True)
        slope = share * X.T @ (p - np.eye(3)[labels])
        np.testing.assert_allclose(f.gradient(W), slope, rtol=0, atol=1e-13)
        bent = share * X.T @ (p * (X @ V) - p * np.sum(p * (X @ V), axis=1)[:, None])
        np.testing.assert_allclose(f.hessian_product(W, V), bent, rtol=0, atol=1e-12 * (1 + size))
        mean_of_batches = np.mean([f.batch_gradient(W, np.array([i])) for i in range(9)], axis=0)
        np.testing.assert_allclose(mean_of_batches, f.gradient(W), rtol=0, atol=1e-13)
        thirds = np.mean([f.batch_gradient(W, np.arange(i, 9, 3)) for i in range(3)], axis=0)
        np.testing.assert_allclose(thirds, f.gradient(W), rtol=0, atol=1e-13)


def test_small_losses_keep_their_digits(rng):
    f = lf.SoftmaxLoss([[1.0]], [0], classes=3)
    W = np.array([[700.0, 0.0, 10.0]])
    s = math.exp(-700) + math.exp(-690)
    assert f.value(W) == pytest.approx(s, rel=1e-14, abs=0)
    np.testing.assert_allclose(f.gradient(W), [[-s, math.exp(-700), math.exp(-690)]], rtol=1e-14)
    assert f.value(-W) == pytest.approx(700 + math.log1p(math.exp(-10) + math.exp(-700)), rel=1e-15)
    assert f.value(1e4 * -W) == 7e6


def test_the_margin_is_the_largest(rng):
    for _ in range(3):
        X, labels = separable(rng)
        f = lf.SoftmaxLoss(X, labels)
        vectors = np.array(
            [
                np.outer(X[i], np.eye(3)[labels[i]] - np.eye(3)[k]).ravel()
                for i in range(9)
                for k in range(3)
                if k != labels[i]
            ]
        )
        assert np.linalg.norm(f.direction) == pytest.approx(1.0, rel=1e-12)
        attained = (vectors @ np.ravel(f.direction)).min()
        assert f.hard_margin <= attained <= f.hard_margin * (1 + 1e-12) + 1e-14
        assert 0 <= f.margin_gap < 1e-10 * f.hard_margin
        twin = minimize(  # the least vector with all inner products 1 or more has the length 1/γ
            lambda u: 0.5 * u @ u,
            np.ravel(f.direction) / f.hard_margin * 1.5,
            jac=lambda u: u,
            constraints={"type": "ineq", "fun": lambda u, Z=vectors: Z @ u - 1, "jac": lambda u, Z=vectors: Z},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert f.hard_margin == pytest.approx(1 / np.linalg.norm(twin.x), rel=1e-6)


def test_two_classes_are_the_logistic_loss_of_root_two_times_the_inputs(rng):
    X = rng.standard_normal((8, 3))
    y = np.sign(X @ [1.0, 2.0, -1.0])
    f, g = lf.SoftmaxLoss(X, y < 0), lf.LogisticLoss(math.sqrt(2) * X, y)
    assert f.hard_margin == pytest.approx(g.hard_margin, rel=1e-12, abs=0)
    assert f.smoothness == pytest.approx(g.smoothness, rel=1e-13, abs=0)
    assert f.tail_smoothness == pytest.approx(g.tail_smoothness, rel=1e-13, abs=0)
    net = lf.init.imbalanced((3, 6, 2), [1.0], rng=1)
    seen, restricted = f.effective(net)
    assert seen.shape == (3, 1) and seen.value(restricted.product()) == pytest.approx(
        f.value(net.product()), rel=1e-12
    )
    column = f.column_space[:, 0]
    assert g.value(restricted.product() * np.sign(column[0])) == pytest.approx(f.value(net.product()), rel=1e-12)


@pytest.mark.parametrize("mean", [False, True])
def test_every_inequality_holds(mean, rng):
    for k in range(60):
        X, labels = separable(rng, count=4 + k % 4, n=2 + k % 2, m=2 + k % 2)
        f = lf.SoftmaxLoss(X, labels, mean=mean)
        W = f.direction * 10 ** rng.uniform(-2, 2) + 10 ** rng.uniform(-3, 1) * rng.standard_normal(f.shape)
        V = rng.standard_normal(f.shape)
        V /= np.linalg.norm(V)
        value, slope = f.value(W), float(np.linalg.norm(f.gradient(W)))
        if value < 1e-250:
            continue
        N = len(X) if mean else 1
        assert slope >= f.hard_margin * -math.expm1(-N * value) / N * (1 - 1e-12)
        assert slope >= f.tail.constant_on(value * 3) * value * (1 - 1e-12)
        assert slope <= f.steepest_on(value * (1 + 1e-12))
        bend = float(np.linalg.norm(f.hessian_product(W, V)))
        assert bend <= f.smoothness_on(value * (1 + 1e-12)) * (1 + 1e-10)


def test_constants_and_where_they_are_attained():
    X = np.array([[3.0, 4.0]])
    for mean, N in ((False, 1), (True, 2)):
        f = lf.SoftmaxLoss(np.vstack([X, X]), [0, 0], classes=2, mean=mean)
        assert f.smoothness == pytest.approx(0.5 * 50 / N, rel=1e-14) and f.tail_smoothness == pytest.approx(
            50, rel=1e-12
        )
        V = np.outer(X[0], [1, -1]) / np.linalg.norm(np.outer(X[0], [1, -1]))
        assert np.linalg.norm(f.hessian_product(np.zeros((2, 2)), V)) == pytest.approx(f.smoothness, rel=1e-14)
        assert f.steepest_on(1e-6) == pytest.approx(math.sqrt(2) * 5e-6, rel=1e-12)
        assert (
            f.steepest_on(1e6) == pytest.approx(math.sqrt(2 * f.smoothness * 1e6), rel=1e-12)
            and f.steepest_on(0) == 0
        )
        assert f.hard_margin == pytest.approx(5 * math.sqrt(2), rel=1e-12)


def test_the_mean_falls_as_the_sum_does_in_time_over_n():
    whole, part = LogisticTail(0.7), MeanTail(0.7, 5)
    for gap0, alpha in ((1e-3, 2.0), (0.4, 0.1), (30.0, 1.0)):
        for t in (0.0, 1e-2, 1.0, 1e3):
            up = part.gap(gap0, t, alpha)
            assert whole.gap(5 * gap0, t / 5, alpha) / 5 <= up <= whole.gap(5 * gap0, t / 5, alpha) / 5 * (1 + 1e-12)
        for gap in (gap0 / 2, gap0 / 1e6):
            up = part.time(gap0, gap, alpha)
            assert (
                whole.time(5 * gap0, 5 * gap, alpha) * 5
                <= up
                <= whole.time(5 * gap0, 5 * gap, alpha) * 5 * (1 + 1e-11)
            )
        assert part.time(gap0, gap0, alpha) == 0.0 and part.gap(gap0, 0.0, alpha) == gap0
        assert part.constant_on(gap0) == pytest.approx(whole.constant_on(5 * gap0), rel=1e-14, abs=0)
        assert part.constant_on(gap0) < whole.constant_on(5 * gap0)
        np.testing.assert_array_equal(
            part.path(gap0, np.array([gap0 / 9])), whole.path(5 * gap0, np.array([5 * gap0 / 9]))
        )
    # γ(1 − e^{−Ng})/N is what the flow of one sample of the mean attains: ġ = −(γψ(Ng)/N)².
    g, h = 0.4, 1e-7
    after = part.gap(g, h, 1.0)
    assert (g - after) / h == pytest.approx((0.7 * -math.expm1(-5 * g) / 5) ** 2, rel=1e-5)


@pytest.mark.parametrize("mean", [False, True])
def test_flows_and_descents_keep_their_guarantees(mean, rng):
    X, labels = separable(rng)
    f = lf.SoftmaxLoss(X, labels, mean=mean)
    for net in ([np.zeros((3, 3))], lf.init.imbalanced((3, 7, 3), [2.0], rng=3)):
        cert, run = lf.certify(f, net), lf.gradient_flow(f, net, until=1e-2)
        assert cert.best is not None and cert.best.name.startswith("exponential tail") and cert.check(run).holds
        assert cert.best.facts["hard margin"] == pytest.approx(f.hard_margin, rel=1e-12)
        eta = lf.safe_step_size(f, net)
        steps = lf.gradient_descent(f, net, step_size=eta, steps=200)
        assert lf.certify(f, net, algorithm="descent", step_size=eta).check(steps).holds
    run = lf.gradient_descent(f, net, schedule=lf.schedules.local_smoothness(), steps=50)
    assert np.all(np.diff(run.gap) <= 0)


def test_what_f_does_not_see_does_not_move(rng):
    X, labels = separable(rng, n=2)
    X = np.hstack([X, X[:, :1]])  # a direction without inputs
    f = lf.SoftmaxLoss(X, labels)
    net = lf.init.imbalanced((3, 6, 3), [1.0], rng=2)
    seen, restricted = f.effective(net)
    assert seen.shape == (2, 2) and restricted.shape == (2, 2)
    assert seen.hard_margin <= f.hard_margin and seen.hard_margin == pytest.approx(f.hard_margin, rel=1e-12)
    C, V = f.column_space, f.row_space
    np.testing.assert_allclose(C.T @ C, np.eye(2), rtol=0, atol=1e-15)
    np.testing.assert_allclose(C.sum(axis=0), 0, rtol=0, atol=1e-15)
    W, S = net.product(), restricted.product()
    np.testing.assert_allclose(seen.gradient(S), V.T @ f.gradient(W) @ C, rtol=0, atol=1e-13)
    D = rng.standard_normal((2, 2))
    np.testing.assert_allclose(
        seen.hessian_product(S, D), V.T @ f.hessian_product(W, V @ D @ C.T) @ C, rtol=0, atol=1e-13
    )
    assert seen.effective(restricted) == (seen, restricted)
    run = lf.gradient_flow(f, net, t_max=1.0)
    before, after = net.weights[-1].sum(axis=1), run.weights[-1].sum(axis=1)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("X", "labels", "options", "what"),
    [
        (np.eye(2), [0, 1.5], {}, "labels holds 1.5; the classes are the whole numbers"),
        (np.eye(2), [0, -1], {}, "labels holds -1"),
        (np.eye(2), [0, np.nan], {}, "labels holds nan"),
        (np.eye(2), [0], {}, r"X has 2 rows and labels the shape \(1,\)"),
        (np.eye(2), [0, 2], {"classes": 2}, "labels holds 2, but there are 2 classes, 0 to 1"),
        (np.eye(2), [0, 2e6], {}, "number the classes 0, 1, 2"),
        (np.ones((2, 1)), [0, 1], {}, "the data are not separable"),
        (np.zeros((1, 1)), [0], {}, "the data are not separable"),
        (np.ones((3000, 90)), np.zeros(3000), {"classes": 30}, "are too many to certify their margin"),
        (np.full((1, 1), 1e200), [0], {}, "leaves float64"),
    ],
)
def test_what_is_refused(X, labels, options, what):
    with pytest.raises(ValueError, match=what):
        lf.SoftmaxLoss(X, labels, **options)


def test_tensors():
    torch = pytest.importorskip("torch")
    X, labels = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 2])
    W = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for reduction, mean in (("sum", False), ("mean", True)):
        f = lf.SoftmaxLoss(X, labels, mean=mean)
        loss = torch.nn.functional.cross_entropy(X @ W, labels, reduction=reduction)
        assert f.value(W) == pytest.approx(float(loss.detach()), rel=1e-13)
        (slope,) = torch.autograd.grad(loss, W)
        assert torch.allclose(f.gradient(W.detach()), slope, rtol=0, atol=1e-14)
    run = lf.gradient_flow(f, [torch.zeros(3, 3, dtype=torch.float64)], t_max=1.0)
    assert run.final.weights[0].dtype == torch.float64
