"""Huber regression: its formula, its minimum, what each level of the gap is sure of, and hostile data."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

import linflow as lf
from linflow.model.robust import HuberFit, Piece, fitted, huber


def literal(X, Y, d, W):
    """Return value and gradient, sample by sample."""
    value, G = 0.0, np.zeros_like(W)
    for i in range(len(X)):
        for j in range(Y.shape[1]):
            r = float(X[i] @ W[:, j]) - Y[i, j]
            value += 0.5 * r * r if abs(r) <= d else d * abs(r) - 0.5 * d * d
            G[:, j] += X[i] * max(-d, min(d, r))
    return value, G


def data(seed, N=20, n=3, m=2, outliers=4, size=30.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, n))
    Y = X @ rng.standard_normal((n, m)) + 0.1 * rng.standard_normal((N, m))
    Y[:outliers] += size * rng.choice([-1.0, 1.0], (outliers, m))
    return X, Y, rng


@pytest.mark.parametrize("delta", [0.01, 0.3, 5.0, 1e3])
def test_value_and_gradient_are_those_of_the_formula(delta):
    X, Y, rng = data(0)
    f = lf.Huber(X, Y, delta)
    for _ in range(5):
        W = 10 ** rng.uniform(-2, 2) * rng.standard_normal((3, 2))
        value, G = literal(X, Y, delta, W)
        assert f.value(W) == pytest.approx(value, rel=1e-12, abs=0)
        assert np.abs(f.gradient(W) - G).max() <= 1e-11 * (np.abs(X).sum() * delta + np.abs(G).max())
        V, t = rng.standard_normal((3, 2)), 1e-7
        slope = (f.gradient(W + t * V) - f.gradient(W - t * V)) / (2 * t)
        away = np.abs(np.abs(X @ W - Y) - delta)
        if away.min() > 1e-5:  # no kink between the two
            assert np.allclose(f.hessian_product(W, V), slope, rtol=1e-5, atol=1e-6)


def test_the_minimum_is_that_of_another_solver():
    for seed, delta in ((1, 0.05), (2, 0.5), (3, 20.0)):
        X, Y, _ = data(seed)
        f = lf.Huber(X, Y, delta)

        def both(w, X=X, Y=Y, delta=delta):
            value, G = literal(X, Y, delta, w.reshape(3, 2))
            return value, G.ravel()

        found = minimize(both, np.zeros(6), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-10})
        assert f.minimum <= found.fun * (1 + 1e-12) and f.minimum == pytest.approx(found.fun, rel=1e-9)
        assert f.excess <= 1e-20 * f.minimum and np.abs(f.gradient(f.minimizer)).max() == 0.0
        assert np.abs(literal(X, Y, delta, f.minimizer)[1]).max() <= 1e-12 * np.abs(X).sum() * delta


def test_without_outliers_it_is_the_linear_regression():
    X, Y, _ = data(4, outliers=0)
    f, g = lf.Huber(X, Y, 100.0), lf.LinearRegression(X, Y)
    assert f.minimum == pytest.approx(g.minimum, rel=1e-12) and np.allclose(f.minimizer, g.minimizer, atol=1e-13)
    assert f.smoothness == pytest.approx(g.smoothness, rel=1e-14)
    assert float(f.pl_constant_on(1.0)) == pytest.approx(g.pl_constant, rel=1e-12)
    assert float(f.growth_on(1.0)) == pytest.approx(g.strong_convexity, rel=1e-12)
    assert float(f.pl_constant_on(1e6)) < 0.1 * g.pl_constant


def test_an_outlier_of_any_size_costs_no_digits():
    X, Y, rng = data(5, size=10.0)
    f, g = lf.Huber(X, Y, 0.5), lf.Huber(X, np.where(np.abs(Y) > 5, Y * 1e7, Y), 0.5)
    W = f.minimizer + 1e-4 * rng.standard_normal((3, 2))
    signs = np.sign(X @ W - Y)
    assert (np.abs(Y) > 5).any() and (signs == np.sign(X @ f.minimizer - Y)).all()
    assert np.abs(g.minimizer - f.minimizer).max() <= 1e-14
    assert g.gap(W) == pytest.approx(f.gap(W), rel=1e-9, abs=0)
    assert g.rounding(lf.Network([W])) <= 1e-10 * g.gap(W)


def test_pieces_are_those_of_their_formula():
    X, Y, _ = data(6, m=1)
    f = lf.Huber(X, Y, 0.4)
    r = np.abs(X @ f.minimizer - Y)[:, 0]
    order = np.argsort(r)
    best_gamma, best_mu = {}, {}
    for gap in (1e-4, 0.05, 1.0, 50.0):
        gammas, growths = [], []
        for share in (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
            S = order[: int(share * np.sum(r < 0.4))]
            if len(S) < 3:
                continue
            H = X[S].T @ X[S]
            mu = np.linalg.eigvalsh(H)[0]
            level = min((0.4 - r[i]) ** 2 / (2 * X[i] @ np.linalg.solve(H, X[i])) for i in S)
            s = min(1.0, level / gap)
            gammas.append(2 * mu * s)
            growths.append(4 * mu * s / (1 + s) ** 2)
        best_gamma[gap], best_mu[gap] = max(gammas), max(growths)
    for gap, gamma in best_gamma.items():
        assert float(f.pl_constant_on(gap)) == pytest.approx(gamma, rel=1e-9, abs=0)
        assert float(f.growth_on(gap)) == pytest.approx(best_mu[gap], rel=1e-9, abs=0)
        assert float(f.pl_constant_on(gap)) <= gamma and float(f.growth_on(gap)) <= best_mu[gap]


def test_a_piece_in_one_dimension_is_exact():
    # f = h(w) with δ = 1: quadratic up to the gap ½, then linear: ‖∇f‖² = 2 min(gap, ½).
    f = lf.Huber([[1.0]], [[0.0]])
    gaps = np.array([1e-6, 0.5, 2.0, 100.0])
    assert np.allclose(f.pl_constant_on(gaps), [2.0, 2.0, 0.5, 0.01], rtol=1e-12)
    assert np.allclose(Piece(1.0, 0.5).growth(gaps), [1.0, 1.0, 4 * 0.25 / 1.25**2, 4 * 0.005 / 1.005**2], rtol=1e-12)
    # the gap w − ½ at w = 2.5: ½μw² with μ = 0.64
    assert 0.5 * float(f.growth_on(2.0)) * 2.5**2 == pytest.approx(2.0, rel=1e-12)


def test_dominance_and_growth_hold_at_every_distance():
    rng = np.random.default_rng(7)
    closest = math.inf
    for _ in range(60):
        N, n, m = (int(x) for x in rng.integers((1, 1, 1), (25, 4, 3)))
        X = rng.standard_normal((N, n))
        X = np.round(2 * X) if rng.random() < 0.3 else X
        Y = X @ rng.standard_normal((n, m)) + 10 ** rng.uniform(-3, 1) * rng.standard_normal((N, m))
        Y = np.where(rng.random((N, m)) < 0.3, Y + 10 ** rng.uniform(0, 5), Y)
        if not X.any():
            continue
        f = lf.Huber(X, Y, 10 ** rng.uniform(-2, 1))
        V = np.eye(n) if f.row_space is None else f.row_space
        for size in 10 ** rng.uniform(-3, 4, 6):
            E = V @ rng.standard_normal((V.shape[1], m))
            W = f.minimizer + size * E
            gap, slack = f.gap(W), f.rounding(lf.Network([W]))
            G = float(np.linalg.norm(f.gradient(W)))
            assert float(f.pl_constant_on(gap)) * (gap - slack) * (1 - 1e-9) <= G**2
            assert gap + slack >= 0.5 * float(f.growth_on(gap)) * float(np.sum((size * E) ** 2)) * (1 - 1e-9)
            if gap > 1e3 * slack and f.pl_constant_on(gap) > 0:
                closest = min(closest, G**2 / (float(f.pl_constant_on(gap)) * gap))
    assert closest < 1.01  # the bound is attained: in one dimension, and where all is quadratic


def test_a_minimum_that_is_off_lowers_what_is_claimed():
    X, Y, _ = data(8, m=1)
    w = fitted(X, Y[:, 0], 0.4)
    least = float(np.linalg.svd(X)[1][-1])
    exact, off = (HuberFit.of(X, Y[:, 0], v, 0.4, least) for v in (w, w + 1e-3))
    true = float(np.sum(huber(X @ (w + 1e-3) - Y[:, 0], 0.4)) - np.sum(huber(X @ w - Y[:, 0], 0.4)))
    assert off.excess >= true > 1e3 * exact.excess and off.distance >= np.linalg.norm(w - (w + 1e-3))
    assert max(p.level for p in off.pieces) < max(p.level for p in exact.pieces)


def test_ties_of_outliers_have_no_constant():
    f = lf.Huber(np.ones((4, 1)), np.array([[0.0], [0.0], [10.0], [10.0]]), 1.0)
    assert f.minimum == pytest.approx(18.0) and float(f.pl_constant_on(1.0)) == float(f.growth_on(1.0)) == 0.0
    net = lf.init.imbalanced((1, 3, 1), [2.0], rng=0)
    cert = lf.certify(f, net)
    assert cert.rate == 0 and cert.best is None
    assert lf.gradient_flow(f, net, until=1e-3).result is lf.Result.TARGET


def test_certificates_hold_far_out_and_close():
    X, Y, _ = data(9, size=100.0)
    f = lf.Huber(X / 4, Y / 4, 0.2)
    net = lf.init.imbalanced((3, 6, 2), [2.0], rng=1)
    cert, run = lf.certify(f, net), lf.gradient_flow(f, net, until=1e-8)
    assert cert.check(run).holds and cert.best is not None and cert.best.name == "envelope"
    assert cert.pl_constant == float(f.pl_constant_on(f.gap(net.product()) + f.rounding(net)))
    # linear at first: the envelope's last rate is that of the quadratic, far above the first
    last = cert.best.facts["final rate"]
    assert last > 3 * cert.best.rate and last >= 0.9 * 2.0 * float(f.pl_constant_on(0.0))
    alone = lf.certify(f, [net.product()])
    assert alone.best is not None and alone.best.name == "one layer" and alone.time_to(1e-6) < math.inf
    assert alone.check(lf.gradient_flow(f, [net.product()], until=1e-8)).holds
    eta = lf.safe_step_size(f, net)
    steps = lf.certify(f, net, algorithm="descent", step_size=eta)
    down = lf.gradient_descent(f, net, step_size=eta, steps=4000, until=1e-6)
    assert steps.check(down).holds and 0 < steps.steps_to(1e-6) < math.inf


def test_a_start_with_a_small_gap_has_a_margin():
    X, Y, rng = data(10, n=2)
    f = lf.Huber(X, Y, 0.5)
    near = lf.init.balanced((2, 2, 2), rng=0)
    U, s, Vt = np.linalg.svd(f.minimizer + 1e-3 * rng.standard_normal((2, 2)))
    near = near.with_weights([U * np.sqrt(s), np.sqrt(s)[:, None] * Vt])
    margin, least = lf.margin(f, near), float(np.linalg.svd(f.minimizer)[1][-1])
    gap = f.gap(near.product())
    assert margin == pytest.approx(least - math.sqrt(2 * gap / float(f.growth_on(gap))), rel=1e-6)
    cert = lf.certify(f, near)
    assert cert.rate > 0 and cert.check(lf.gradient_flow(f, near, until=1e-8)).holds
    assert lf.margin(f, near, form="distance") == 0.0  # the papers' form needs strong convexity everywhere


def test_inputs_of_low_rank_are_reduced():
    X, Y, _ = data(11)
    X = np.hstack([X, X[:, :1] + X[:, 1:2]])
    f = lf.Huber(X, Y, 0.3)
    assert f.rank == 3 and f.row_space.shape == (4, 3)
    net = lf.init.imbalanced((4, 6, 2), [2.0], rng=0)
    seen, inner = f.effective(net)
    assert seen.shape == (3, 2) and inner.shape == (3, 2)
    assert seen.gap(inner.product()) == pytest.approx(f.gap(net.product()), rel=1e-12)
    assert lf.certify(f, net).check(lf.gradient_flow(f, net, until=1e-6)).holds


def test_batches_and_shifts():
    X, Y, rng = data(12)
    f, W, W0 = lf.Huber(X, Y, 0.3), rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    parts = [f.batch_gradient(W, np.arange(k, 20, 4)) for k in range(4)]
    assert np.allclose(np.mean(parts, axis=0), f.gradient(W), atol=1e-12)
    moved = f.shifted(W0)
    assert isinstance(moved, lf.Huber) and moved.value(W) == pytest.approx(f.value(W0 + W), rel=1e-12)


@pytest.mark.parametrize(
    ("X", "Y", "delta", "message"),
    [
        (np.eye(2), np.eye(2), 0.0, "delta is 0"),
        (np.eye(2), np.eye(2), -1.0, "delta is -1"),
        (np.eye(2), np.eye(2), np.nan, "delta is nan"),
        (np.eye(2), np.eye(2), np.inf, "delta is inf"),
        (np.eye(2), np.eye(2), "one", "delta is 'one'"),
        (np.eye(2), np.eye(2), 1e-200, "square leaves float64"),
        (np.eye(2), np.full((2, 1), 1e200), 1.0, "square leaves float64"),
        (np.zeros((2, 2)), np.eye(2), 1.0, "X is zero"),
        (np.eye(3), np.eye(2), 1.0, "3 rows and Y has 2"),
        (np.eye(2), np.array([[np.nan], [1.0]]), 1.0, "NaN or infinite"),
    ],
)
def test_what_cannot_be_is_refused(X, Y, delta, message):
    with pytest.raises((ValueError, TypeError), match=message):
        lf.Huber(X, Y, delta)


def test_outliers_of_a_hundred_million():
    X, Y, _ = data(13, size=1e8)
    f = lf.Huber(X, Y, 1.0)
    net = lf.init.imbalanced((3, 5, 2), [3.0], rng=2)
    cert, run = lf.certify(f, net), lf.gradient_flow(f, net, until=1e-6)
    assert cert.rate > 0 and cert.check(run).holds
    assert f.excess < 1e-6


def test_torch_tensors_stay_tensors():
    torch = pytest.importorskip("torch")
    X, Y, _ = data(14)
    f, g = lf.Huber(torch.tensor(X), torch.tensor(Y), 0.3), lf.Huber(X, Y, 0.3)
    W = np.arange(6.0).reshape(3, 2)
    assert isinstance(f.gradient(torch.tensor(W)), torch.Tensor)
    assert f.value(torch.tensor(W)) == pytest.approx(g.value(W), rel=1e-14)
    ours = torch.nn.HuberLoss(reduction="sum", delta=0.3)(torch.tensor(X @ W), torch.tensor(Y))
    assert f.value(torch.tensor(W)) == pytest.approx(float(ours), rel=1e-12)
    net = lf.Network([torch.tensor(W), torch.eye(2, dtype=torch.float64)])
    assert lf.certify(f, net).gap == pytest.approx(g.gap(W), rel=1e-12)
