"""Exponential and logistic loss: certified margins, gradients, the tail guarantees and runs of the flow."""

import itertools
import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linflow as lf
from linflow._support.arrays import from_numpy, norm, to_numpy
from linflow.model.classification import ExponentialLoss, LogisticLoss, hard_margin

EPS = float(np.finfo(float).eps)
LOSSES = (ExponentialLoss, LogisticLoss)
losses = pytest.mark.parametrize("loss", LOSSES)
seeds = st.integers(0, 2**32 - 1)


def separable(rng, N, n, m=1, push=0.3):
    """Random inputs, labels by m random hyperplanes, pushed off the first of them; resampled until separable."""
    while True:
        X = rng.standard_normal((N, n))
        V = rng.standard_normal((n, m))
        Y = np.where(X @ V > 0, 1.0, -1.0)
        X = X + push * np.outer(Y[:, 0], V[:, 0]) / np.linalg.norm(V[:, 0])
        if all(hard_margin(Y[:, j, None] * X)[0] > 1e-3 for j in range(m)):
            return X, Y


# --- the hard margin ---------------------------------------------------------------------------------------------


def brute_margin(Z):
    """The norm of the point of the convex hull of the rows nearest to 0, over all affinely independent subsets."""
    best = np.inf
    for size in range(1, min(len(Z), Z.shape[1] + 1) + 1):
        for subset in itertools.combinations(range(len(Z)), size):
            S = Z[list(subset)]
            bordered = np.block([[S @ S.T, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            if np.linalg.matrix_rank(bordered) <= size:
                continue
            weights = np.linalg.solve(bordered, np.eye(size + 1)[size])[:size]
            if (weights >= -1e-12).all():
                best = min(best, np.linalg.norm(S.T @ weights))
    return best


@settings(max_examples=60)
@given(seed=seeds, N=st.integers(1, 7), n=st.integers(1, 3), whole=st.booleans())
def test_margin_against_enumeration(seed, N, n, whole):
    """Integers bring ties, repeated samples and zeros."""
    rng = np.random.default_rng(seed)
    Z = rng.integers(-2, 4, (N, n)).astype(float) if whole else rng.standard_normal((N, n)) + 0.7
    exact = brute_margin(Z)
    lower, upper, u = hard_margin(Z)
    # The enumeration solves systems with the squares of Z: 1e-7 is the root of their rounding.
    if exact < 1e-7:
        assert lower <= 0 and upper <= 1e-13
        return
    assert lower <= exact * (1 + 1e-9) and upper >= exact * (1 - 1e-9)
    assert 0 <= upper - lower <= 1e-12  # a hundred roundings at the size of the data
    assert np.linalg.norm(u) == pytest.approx(1, abs=4 * EPS)
    assert (Z @ u).min() >= lower


def test_margin_closed_forms():
    assert LogisticLoss([[3.0], [-2.0]], [1, -1]).hard_margin == pytest.approx(2.0, rel=1e-14)
    s = np.array([3.0, 4.0, 12.0])  # orthogonal vectors: γ = (Σ 1/‖z_i‖²)^{−1/2}
    f = ExponentialLoss(np.diag(s), [1, -1, 1])
    assert f.hard_margin == pytest.approx((s**-2.0).sum() ** -0.5, rel=1e-14)
    np.testing.assert_allclose(f.direction[:, 0] * [1, -1, 1], f.hard_margin / s, rtol=1e-13)
    for size in (1e-100, 1e100):  # scaling of the data scales the margin
        scaled = ExponentialLoss(size * np.diag(s), [1, -1, 1])
        assert scaled.hard_margin / size == pytest.approx(f.hard_margin, rel=1e-14)


@pytest.mark.parametrize("g", [1e-3, 1e-6, 1e-9, 1e-12])
def test_small_margins_are_certified_from_both_sides(g, rng):
    X = rng.standard_normal((200, 10))
    X[:, 0] = g * np.sign(X[:, 0])
    f = ExponentialLoss(X, np.sign(X[:, 0]))
    # The hull holds a point with all other coordinates 0, so γ = g; 1e-13 is the rounding of a sum at the size of X.
    assert f.hard_margin <= g <= f.hard_margin + f.margin_gap
    assert f.margin_gap <= 3e-13


def test_margin_of_several_outputs_and_its_attainment(rng):
    """`‖∇f‖/f` comes as close to γ as one likes: the constant is the best possible."""
    X, Y = separable(rng, 12, 4, m=3)
    f = ExponentialLoss(X, Y)
    single = np.array([ExponentialLoss(X, Y[:, j]).hard_margin for j in range(3)])
    np.testing.assert_allclose(f.margins, single, rtol=1e-14)
    assert f.hard_margin == pytest.approx((single**-2).sum() ** -0.5, rel=1e-13)
    assert 0 < f.margin_gap < 1e-13  # the allowances of both sides
    W = np.zeros((4, 3))
    for j in range(3):
        Z, u = Y[:, j, None] * X, f.direction[:, j]
        support = Z @ u < single[j] * (1 + 1e-9)
        weights = np.linalg.lstsq(Z[support].T, u, rcond=None)[0]
        assert (weights > 0).all()
        # e^{−z} on the support in the ratio of the dual weights (sum 1), and f_j = e^{−500} γ_j^{−2}.
        tilt = np.linalg.lstsq(Z[support], -np.log(weights / weights.sum()), rcond=None)[0]
        W[:, j] = tilt + (500 / single[j] + 2 * np.log(single[j]) / single[j]) * u
        assert np.exp(-Z[~support] @ W[:, j]).sum() < 1e-9 * np.exp(-Z[support] @ W[:, j]).sum()
    assert np.linalg.norm(f.gradient(W) / f.value(W)) == pytest.approx(f.hard_margin, rel=1e-6)


def test_the_margin_is_a_bound_in_exact_arithmetic():
    """What the direction attains, computed with fractions, is never below the certified margin."""
    closest = math.inf
    for seed in range(30):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((20, int(rng.integers(2, 12))))
        Y = np.where(X[:, :1] > 0, 1.0, -1.0)
        X[:, 0] = Y[:, 0] * 10.0 ** rng.uniform(-10, 0)  # small margins, where the rounding of ⟨u, x_i⟩ shows
        X = X @ np.linalg.qr(rng.standard_normal((X.shape[1], X.shape[1])))[0]
        f = ExponentialLoss(X, Y)
        u = [Fraction(x) for x in f.direction[:, 0]]
        least = min(sum(Fraction(a) * b for a, b in zip(z, u, strict=True)) for z in Y * X)
        # least/‖u‖ ≥ margin, squared, as the root is not a fraction.
        ratio = least**2 / (Fraction(f.hard_margin) ** 2 * sum(b * b for b in u))
        assert ratio >= 1
        closest = min(closest, float(ratio - 1))
    assert closest < 1e-11  # the allowances are of the order of rounding, (n + 8) ε ‖x_i‖ against γ


def breast_cancer():
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    X = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    return np.hstack([X, np.ones((len(X), 1))]), 2.0 * data.target - 1


def digits(a, b):
    from sklearn.datasets import load_digits

    data = load_digits()
    keep = (data.target == a) | (data.target == b)
    X = data.data[keep]
    return (X - X.mean(axis=0)) / (X.std(axis=0) + (X.std(axis=0) == 0)), np.where(data.target[keep] == a, 1.0, -1.0)


@pytest.mark.parametrize(
    "data", [breast_cancer, lambda: digits(0, 1), lambda: digits(3, 8)], ids=["cancer", "01", "38"]
)
def test_margin_on_real_data_against_another_solver(data):
    from scipy.optimize import minimize

    X, y = data()
    f = LogisticLoss(X, y)
    # Twice the allowance (n + #support + 8) ε max‖x_i‖, with at most n + 1 support vectors, and some for the solver.
    assert f.margin_gap <= 8 * (X.shape[1] + 5) * EPS * np.linalg.norm(X, axis=1).max()
    # Sequential quadratic programming on min ½‖u‖², y_i⟨u, x_i⟩ ≥ s, over the samples nearest to the boundary, with
    # s about the size of the margin so that u is of order one.
    Z, s = y[:, None] * X, 10.0 ** round(math.log10(f.hard_margin))
    near = Z[np.argsort(Z @ f.direction[:, 0])[:100]]
    found = minimize(
        lambda u: 0.5 * u @ u,
        np.zeros(X.shape[1]),
        jac=lambda u: u,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda u: near @ u - s, "jac": lambda _: near},
        options={"ftol": 1e-11, "maxiter": 1000},
    )
    assert found.success
    assert (Z @ found.x).min() > s * (1 - 1e-6)  # all samples are separated, not the nearest alone
    # The solver stops at changes of 1e-11 in ½‖u‖², which is of order one; the constraints lose a few digits.
    assert s / np.linalg.norm(found.x) == pytest.approx(f.hard_margin, rel=1e-6)


def test_margin_against_a_support_vector_machine():
    from sklearn.svm import SVC

    X, y = digits(0, 1)
    X = np.hstack([X, np.ones((len(X), 1))])
    f = ExponentialLoss(X, y)
    # A kernel machine has a free intercept; symmetrised data (z and −z with labels ±1) make it vanish.
    Z = y[:, None] * X
    svm = SVC(kernel="linear", C=1e8, tol=1e-8).fit(np.vstack([Z, -Z]), np.repeat([1, -1], len(Z)))
    # libsvm meets the optimality conditions y_i⟨u, x_i⟩ = 1 to tol = 1e-8, here relaxed by a few hundred.
    assert 1 / np.linalg.norm(svm.coef_) == pytest.approx(f.hard_margin, rel=1e-5)


def test_large_data_take_a_moment_and_stay_certified(rng):
    X = rng.standard_normal((2000, 100))
    f = LogisticLoss(X, np.sign(X @ rng.standard_normal(100)))
    # The allowances of both sides, (n + #support + 8) ε max‖x_i‖ with #support ≤ n + 1, come to about 1.2e-12.
    assert f.hard_margin > 0.01 and f.margin_gap < 4e-12


# --- data that do not fit ----------------------------------------------------------------------------------------


@losses
def test_inseparable_data_are_refused_with_a_way_out(loss):
    X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [1, -1, -1, 1]
    with pytest.raises(
        ValueError, match=r"not linearly separable \(column 0 of y\).*Add features.*minimum="
    ) as error:
        loss(X, y)
    assert "convex combination" in str(error.value)
    with pytest.raises(ValueError, match="column 1 of y"):
        loss([[1.0], [2.0]], [[1, 1], [1, -1]])
    with pytest.raises(ValueError, match="not linearly separable"):
        loss(np.zeros((2, 2)), [1, -1])


@losses
@pytest.mark.parametrize(
    ("X", "y", "match"),
    [
        ([[1.0], [2.0]], [0, 1], r"values 0, 1; only \+1 and −1 are labels. For labels 0 and 1 pass 2\*y − 1"),
        ([[1.0], [2.0]], [1, 3], "values 1, 3; only"),
        ([[1.0], [2.0]], [1, np.nan], "NaN"),
        ([[1.0], [2.0]], ["a", "b"], "labels"),
        ([[1.0], [2.0]], [1, 1, 1], "X has 2 rows and y has 3"),
        ([[1.0], [np.inf]], [1, 1], "infinite"),
        ([1.0, 2.0], [1, 1], "a matrix is needed"),
        ([[1e200]], [1], "rescale"),
        ([[1e-200]], [1], "rescale"),
    ],
)
def test_bad_input_is_named(loss, X, y, match):
    with pytest.raises(ValueError, match=match):
        loss(X, y)


def test_solver_failure_is_said(monkeypatch):
    def fails(*_):
        raise RuntimeError("Maximum number of iterations reached")

    monkeypatch.setattr("scipy.optimize.nnls", fails)
    with pytest.raises(ValueError, match=r"could not be computed.*repeated"):
        LogisticLoss([[1.0]], [1])


@losses
def test_arguments_of_the_guarantees_are_checked(loss):
    f = loss([[1.0]], [1])
    for call in (
        lambda: f.tail_constant(-1.0),
        lambda: f.tail_time(1.0, 0.0, 1.0),
        lambda: f.tail_time(1.0, 0.5, -1.0),
        lambda: f.tail_time(math.inf, 0.5, 1.0),
        lambda: f.tail_gap(1.0, -1.0, 1.0),
        lambda: f.tail_gap(math.nan, 1.0, 1.0),
    ):
        with pytest.raises(ValueError, match="is needed"):
            call()


# --- value, gradient, curvature ----------------------------------------------------------------------------------


def literal(loss, X, Y, W):
    """The definition, sample by sample."""
    phi = (lambda z: math.exp(-z)) if loss is ExponentialLoss else (lambda z: math.log1p(math.exp(-z)))
    N, m = Y.shape
    return sum(phi(Y[i, j] * float(X[i] @ W[:, j])) for i in range(N) for j in range(m))


@losses
@given(seed=seeds, N=st.integers(1, 9), n=st.integers(1, 4), m=st.integers(1, 3))
def test_derivatives(loss, seed, N, n, m):
    rng = np.random.default_rng(seed)
    X, Y = separable(rng, N, n, m)
    f = loss(X, Y)
    W, V = rng.standard_normal((n, m)), rng.standard_normal((n, m))
    assert f.shape == (n, m) and f.derived and f.minimizer is None
    assert (f.minimum, f.strong_convexity, f.pl_constant) == (0.0, 0.0, 0.0)
    assert f.value(W) == f.gap(W) == pytest.approx(literal(loss, X, Y, W), rel=1e-13)
    h = 1e-5
    # Central differences err by h²|f'''|/6 and ε f/h; with R = max‖x_i‖ ‖V‖ the derivatives are at most R^k Σ e^{−z}.
    R = np.linalg.norm(X, axis=1).max() * np.linalg.norm(V)
    size = (f.value(W) + ExponentialLoss(X, Y).value(W)) * (1 + R) ** 4
    slope = (f.value(W + h * V) - f.value(W - h * V)) / (2 * h)
    assert slope == pytest.approx(float((f.gradient(W) * V).sum()), abs=(h**2 + 16 * EPS / h) * size)
    change = (f.gradient(W + h * V) - f.gradient(W - h * V)) / (2 * h)
    np.testing.assert_allclose(f.hessian_product(W, V), change, atol=(h**2 + 16 * EPS / h) * size * (1 + R))
    # Convexity, and smoothness where it is finite; it is attained at W = 0.
    assert ((f.gradient(W) - f.gradient(V)) * (W - V)).sum() >= 0
    if loss is LogisticLoss:
        assert np.linalg.norm(f.gradient(W) - f.gradient(V)) <= f.smoothness * np.linalg.norm(W - V) * (1 + 1e-12)
        top = np.outer(np.linalg.svd(X)[2][0], np.eye(m)[0])
        bent = np.linalg.norm(f.hessian_product(np.zeros((n, m)), top))
        assert bent == pytest.approx(f.smoothness, rel=1e-12)
    else:
        assert f.smoothness == math.inf


@losses
@given(seed=seeds, N=st.integers(1, 12), n=st.integers(1, 4), m=st.integers(1, 3))
def test_the_gradient_is_bounded_by_the_margin(loss, seed, N, n, m):
    """At random products of all sizes, and at the products the bound is nearly attained at."""
    rng = np.random.default_rng(seed)
    f = loss(*separable(rng, N, n, m))
    for size in 10.0 ** rng.uniform(-3, 2, 8):
        W = size * (rng.standard_normal((n, m)) if rng.random() < 0.5 else f.direction) * rng.random(m)
        value, slope = f.value(W), norm(f.gradient(W))
        if not 1e-290 < value < 1e290:
            continue
        # Relative rounding of both sides: that of z, of size 100 ‖x_i‖, enters through e^{−z}.
        allowed = 1 + 1e3 * EPS * size * np.linalg.norm(f._X)
        level = value * (1 + rng.random())
        assert slope * allowed >= f.tail_constant(value) * value
        assert slope * allowed >= f.tail_constant(level) * value
        if loss is LogisticLoss:
            assert slope * allowed >= f.hard_margin * -math.expm1(-value)


def test_logistic_loss_has_no_constant_for_all_levels():
    """‖∇f‖ ≥ γ f fails for the logistic loss; the sum form with 1 − e^{−f} is attained by one sample."""
    f = LogisticLoss([[2.0]], [1])
    W = np.array([[-5.0]])
    assert abs(f.gradient(W)[0, 0]) < f.hard_margin * f.value(W)
    assert abs(f.gradient(W)[0, 0]) == pytest.approx(f.hard_margin * -math.expm1(-f.value(W)), rel=1e-13)
    assert f.tail_constant(1e6) == pytest.approx(2e-6) and f.tail_constant(0.0) == f.hard_margin
    levels = [f.tail_constant(10.0**k) for k in range(-20, 7)]
    assert all(a >= b for a, b in itertools.pairwise(levels))


@losses
def test_no_size_warns(loss):
    """Warnings are errors here: margins far past both ends of float64 give 0 or inf and finite gradients."""
    X, Y = separable(np.random.default_rng(1), 8, 3, 2)
    f = loss(X, Y)
    for size in (-1e307, -1e200, -1e4, -800.0, -700.0, 0.0, 700.0, 800.0, 1e4, 1e200, 1e307):
        W = size * f.direction / f.margins
        value = f.value(W)
        assert value >= 0
        assert np.isfinite(f.gradient(W)).all() and np.isfinite(f.hessian_product(W, W / (abs(size) + 1))).all()
    assert f.value(1e4 * f.direction / f.margins) == 0.0
    W = -1e4 * f.direction / f.margins
    linear = float(np.maximum(-Y * (X @ W), 0).sum())  # log(1 + e^{−z}) is −z to all digits there
    assert f.value(W) == (math.inf if loss is ExponentialLoss else pytest.approx(linear, rel=1e-13))
    # The last number before overflow: the value is finite, and the gradient is right.
    one = ExponentialLoss([[0.5]], [1])
    edge = np.array([[-2 * 709.5]])
    assert one.value(edge - 2) == math.inf and np.isfinite(one.gradient(edge - 2)).all()
    assert one.value(edge) == pytest.approx(math.exp(709.5), rel=1e-13)
    assert one.gradient(edge)[0, 0] == pytest.approx(-0.5 * math.exp(709.5), rel=1e-13)


@losses
def test_small_losses_keep_their_digits(loss):
    f = loss([[1.0]], [1])
    W = np.array([[600.0]])
    assert f.gap(W) == pytest.approx(math.exp(-600), rel=1e-13, abs=0)
    assert f.gradient(W)[0, 0] == pytest.approx(-math.exp(-600), rel=1e-13, abs=0)
    assert f.hessian_product(W, np.ones((1, 1)))[0, 0] == pytest.approx(math.exp(-600), rel=1e-13, abs=0)


@losses
def test_rounding_covers_the_rounding_of_products(loss):
    """Large factors that cancel: gap and gradient move by no more than what is said, and by a part of it."""
    worst = {"gap": 0.0, "gradient": 0.0}
    for seed in range(150):
        rng = np.random.default_rng(seed)
        X, Y = separable(rng, 6, 3, 2)
        f = loss(X, Y)
        big = 10.0 ** rng.uniform(0, 5)
        A, B = rng.standard_normal((3, 2)), rng.standard_normal((2, 2))
        net = lf.Network([np.hstack([big * A, A]), np.vstack([B, -big * B + rng.standard_normal((2, 2)) / 9])])
        exact = net.weights[0].astype(np.longdouble) @ net.weights[1].astype(np.longdouble)
        Z = Y * (X.astype(np.longdouble) @ exact)
        # The extended precision of NumPy computes the literal formulas with 11 more bits.
        value = np.exp(-Z) if loss is ExponentialLoss else np.log1p(np.exp(-Z))
        slope = np.exp(-Z) if loss is ExponentialLoss else 1 / (1 + np.exp(Z))
        G = -(X.T.astype(np.longdouble) @ (Y * slope))
        W = net.product()
        worst["gap"] = max(worst["gap"], float(abs(f.gap(W) - value.sum())) / f.rounding(net))
        off = np.linalg.norm((f.gradient(W) - G).astype(float))
        worst["gradient"] = max(worst["gradient"], off / f.gradient_rounding(net))
    assert all(0.01 < ratio <= 1 for ratio in worst.values()), worst
    nothing = [np.zeros((3, 2)), np.zeros((2, 2))]
    assert f.rounding(lf.Network(nothing)) == 8 * EPS * f.value(np.zeros((3, 2)))


@losses
def test_array_kinds(loss, xp):
    X, Y = separable(np.random.default_rng(3), 9, 3, 2)
    like = xp.asarray(np.zeros(1))
    f, g = loss(X, Y), loss(from_numpy(X, like), from_numpy(Y, like))
    net = lf.init.gaussian((3, 4, 2), rng=0)
    other = lf.Network([from_numpy(W, like) for W in net.weights])
    W = other.product()
    assert g.hard_margin == pytest.approx(f.hard_margin, rel=1e-12)
    assert g.value(W) == pytest.approx(f.value(net.product()), rel=1e-13)
    assert isinstance(g.value(W), float)
    for made, expected in (
        (g.gradient(W), f.gradient(net.product())),
        (g.hessian_product(W, W), f.hessian_product(net.product(), net.product())),
        (g.direction, f.direction),
    ):
        assert type(made) is type(W)
        np.testing.assert_allclose(to_numpy(made), expected, rtol=1e-11, atol=1e-13)
    assert g.rounding(other) == pytest.approx(f.rounding(net), rel=1e-9, abs=0)
    assert g.gradient_rounding(other) == pytest.approx(f.gradient_rounding(net), rel=1e-9, abs=0)
    assert math.isfinite(float(xp.max(xp.abs(g.gradient(-1e4 * W)))))
    run, twin = lf.gradient_flow(g, other, t_max=0.5), lf.gradient_flow(f, net, t_max=0.5)
    assert float(run.gap[-1]) == pytest.approx(twin.gap[-1], rel=1e-7)  # rtol 1e-8 a step, a few steps
    with pytest.raises(TypeError, match="different kinds"):
        lf.gradient_flow(g, net, t_max=0.5)
    assert loss(from_numpy(X, like), Y.tolist()).hard_margin == g.hard_margin  # lists take the kind of X
    with pytest.raises(TypeError, match="different kinds"):
        loss(from_numpy(X, like), Y)


def test_labels_of_any_type_and_form():
    X = np.diag([1.0, 2.0])
    reference = LogisticLoss(X, np.array([[1.0], [-1.0]]))
    for y in ([1, -1], (1.0, -1.0), np.array([1, -1], dtype=np.int8), np.array([1, -1], dtype=np.float32)):
        f = LogisticLoss(X, y)
        assert f.hard_margin == reference.hard_margin and f.shape == (2, 1) and f.notes == ()
    assert "X was promoted" in LogisticLoss(X.astype(np.float32), [1, -1]).notes[0]
    assert repr(reference) == "LogisticLoss(2×1, 2 samples, hard margin=0.8944)"


# --- the guarantees as numbers -----------------------------------------------------------------------------------


def exact_time(loss, gap0, gap):
    """αγ² times the time, from the antiderivative to 400 digits (e^{gap} − 1 loses up to 300 of them)."""
    getcontext().prec = 400
    a, b = Decimal(gap0), Decimal(gap)
    if loss is ExponentialLoss:
        return 1 / b - 1 / a

    def antiderivative(f):
        if f > 3000:
            return f  # log(e^f − 1) = f and 1/(e^f − 1) = 0 to 1300 places
        grown = f.exp() - 1
        return grown.ln() - 1 / grown

    return antiderivative(a) - antiderivative(b)


LEVELS = [1e-300, 1e-200, 1e-20, 1e-3, 0.5, 1.0, 3.0, 40.0, 700.0, 800.0, 1e4, 1e6]
PAIRS = [(a, b) for a in LEVELS for b in LEVELS if b < a]
PAIRS += [(a, a * (1 - d)) for a in LEVELS[1:] for d in (1e-15, 1e-8, 1e-2)]


@losses
def test_time_and_gap_against_many_digits(loss):
    f = loss([[1.0]], [1])  # γ = 1 but for the allowance
    speed = f.hard_margin**2
    for gap0, gap in PAIRS:
        exact = exact_time(loss, gap0, gap) / Decimal(speed)
        t = f.tail_time(gap0, gap, 1.0)
        # Rounded up, by a handful of operations.
        assert Decimal(t) >= exact
        assert Decimal(t) <= exact * (1 + 32 * Decimal(EPS))
        back = f.tail_gap(gap0, t, 1.0)
        # The gap at the time as it stands, right to rounding of the input: where the gap has fallen far from a large
        # gap0, t is near its end and a rounding of t, of size εt, moves the gap by ε t ψ(gap)² ≤ ε t min(gap², 1).
        moved = t * speed * min(gap, 1.0) ** 2 / gap
        assert gap * (1 - 40 * EPS * (1 + moved)) <= back <= gap * (1 + 40 * EPS * (1 + moved))
        # And never below the truth: at the time that belongs to it, an upper bound has passed less than t.
        assert back == gap0 or exact_time(loss, gap0, back) <= Decimal(t) * Decimal(speed)


@losses
def test_ends_of_the_guarantees(loss):
    f = loss([[2.0]], [1])
    assert f.tail_gap(3.0, 0.0, 1.0) == f.tail_gap(3.0, 5.0, 0.0) == 3.0
    assert f.tail_gap(0.0, 5.0, 1.0) == 0.0
    assert f.tail_time(3.0, 3.0, 1.0) == f.tail_time(3.0, 4.0, 0.0) == f.tail_time(0.0, 1.0, 1.0) == 0.0
    assert f.tail_time(3.0, 1.0, 0.0) == math.inf
    assert f.tail_time(1e300, 5e-324, 1e-10) == math.inf
    # Past float64 the bound stays above the truth, here below 1e-608, and does not warn.
    for gap0 in (5e-324, 1e-300, 1.0, 1e6, 1e300):
        assert 0 < f.tail_gap(gap0, 1e300, 1e308) <= min(gap0, 1e-307)
    for t in (1e-300, 1e-20, 1.0, 1e20, 1e300):
        gaps = [f.tail_gap(10.0**k, t, 1.0) for k in range(-300, 301, 10)]
        assert all(0 < a <= b * (1 + 16 * EPS) for a, b in itertools.pairwise(gaps))


@given(gap0=st.floats(1e-12, 1e3), s=st.floats(0, 1e6))
def test_the_logistic_guarantee_is_between_the_crude_one_and_the_exponential(gap0, s):
    f, g = LogisticLoss([[1.0]], [1]), ExponentialLoss([[1.0]], [1])
    sharp = f.tail_gap(gap0, s, 1.0)
    crude = gap0 / (1 + f.tail_constant(gap0) ** 2 * gap0 * s)
    assert g.tail_gap(gap0, s, 1.0) <= sharp * (1 + 64 * EPS * (1 + s))
    assert sharp <= crude * (1 + 64 * EPS * (1 + s))


# --- runs --------------------------------------------------------------------------------------------------------


@losses
@settings(max_examples=12)
@given(seed=seeds, layers=st.integers(1, 3), m=st.integers(1, 2), scale=st.sampled_from([1.0, 0.7]))
def test_the_flow_keeps_below_the_guarantee(loss, seed, layers, m, scale):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    f = loss(*separable(rng, int(rng.integers(1, 15)), n, m))
    widths = (n, *(n + m + 3,) * (layers - 1), m)
    weights = [rng.standard_normal(shape) * rng.uniform(0.3, 1) for shape in itertools.pairwise(widths)]
    if layers == 3:  # peaked in the middle: imbalance enough for a bound without the product
        weights[1] *= 2
    net = lf.Network(weights, scale)
    restricted, seen = f.effective(net)
    alpha = scale**2 if layers == 1 else float(lf.bounds.best(seen, sigma_min=0.0).value)
    run = lf.gradient_flow(f, net, t_max=20.0, max_steps=3000)
    assert run.result in (lf.Result.TIME_LIMIT, lf.Result.STEP_LIMIT)
    assert (np.diff(run.gap) <= 0).all()
    gap0 = run.gap[0]
    for t, gap, rate in zip(run.t, run.gap, run.rate, strict=True):
        # The integrator's own estimate of the error of the gap, and the rounding granted to every observed gap.
        allowed = 1 + run.stats.gap_error + 1e-9
        assert gap <= restricted.tail_gap(gap0, t, alpha) * allowed
        assert rate * allowed >= alpha * restricted.tail_constant(gap) ** 2 * gap
        if 0 < gap < gap0:
            assert t <= restricted.tail_time(gap0, gap, alpha) * allowed**2 + 1e-9


@losses
@pytest.mark.parametrize("layers", [2, 3])
def test_the_guarantee_is_not_empty(loss, layers):
    """On an imbalanced start the bound is within a factor of the run."""
    rng = np.random.default_rng(0)
    f = loss([[1.0, 0.0], [0.0, 1.0]], [1, -1])
    net = lf.init.imbalanced((2, *(6,) * (layers - 1), 1), [2.0] * (layers - 1), np.zeros((2, 1)), rng=rng)
    alpha = float(lf.bounds.best(net, sigma_min=0.0).value)
    assert alpha >= {2: 2.0, 3: 8.0}[layers] * (1 - 1e-9)
    run = lf.gradient_flow(f, net, t_max=100.0)
    bound = f.tail_gap(run.gap[0], 100.0, alpha)
    assert run.gap[-1] <= bound <= 20 * run.gap[-1]


def test_the_one_sample_flow_in_closed_form():
    """One sample, one layer: the guarantees are equalities."""
    for loss in LOSSES:
        f = loss([[2.0]], [1])
        run = lf.gradient_flow(f, [np.array([[-1.5]])], t_max=1e4, times=[0.1, 1.0, 10.0, 1e3])
        for t in (0.1, 1.0, 10.0, 1e3, 1e4):
            # rtol 1e-8 a step, a few dozen steps.
            assert run.gap_at(t) == pytest.approx(f.tail_gap(run.gap[0], t, 1.0), rel=1e-6)
        assert run.time_to(1e-2) == pytest.approx(f.tail_time(run.gap[0], 1e-2 * run.gap[0], 1.0), rel=1e-6)


@losses
def test_the_flow_turns_towards_the_direction_of_largest_margin(loss):
    """The smoothed margin `log(1/f)/‖W‖` never exceeds the hard margin and rises to it, its distance like 1/log t."""
    X, Y = separable(np.random.default_rng(5), 20, 2, push=1.0)
    f = loss(X, Y)
    run = lf.gradient_flow(f, [np.full((2, 1), 0.1)], t_max=1e5, times=[1e1, 1e3])
    products = [run.network_at(t).product() for t in (1e1, 1e3, 1e5)]
    reached = [-math.log(f.value(W)) / np.linalg.norm(W) for W in products]
    assert reached[0] < reached[1] < reached[2] <= f.hard_margin + f.margin_gap
    assert reached[2] > 0.8 * f.hard_margin
    assert float((products[2] * f.direction).sum()) > 0.99 * np.linalg.norm(products[2])


@losses
def test_descent(loss):
    f = loss(*separable(np.random.default_rng(2), 12, 3))
    net = lf.init.gaussian((3, 5, 1), 0.3, rng=0)
    run = lf.gradient_descent(f, net, step_size=1e-3, steps=1000, every=40)
    assert run.result is lf.Result.STEPS_DONE and (np.diff(run.gap) < 0).all()
    assert run.gap_at(0.4) == pytest.approx(lf.gradient_flow(f, net, t_max=0.4).gap[-1], rel=0.05)  # O(η)


def test_descent_that_diverges_says_so():
    """A step of 1e3 throws the exponential loss past float64; it is reported, without a warning."""
    f = ExponentialLoss(np.array([[1.0, 2.0], [3.0, 0.5]]), [1, -1])
    net = lf.init.gaussian((2, 3, 1), rng=0)
    run = lf.gradient_descent(f, net, step_size=1e3, steps=50)
    assert run.result is lf.Result.DIVERGED
    far = lf.Network([np.array([[4e3], [-4e3]]), np.array([[1.0]])])
    assert f.value(far.product()) == math.inf
    for started in (lf.gradient_flow(f, far, t_max=1.0), lf.gradient_descent(f, far, step_size=0.1, steps=3)):
        assert started.result is lf.Result.DIVERGED


@losses
def test_fewer_samples_than_features_are_restricted_to_the_row_space(loss):
    rng = np.random.default_rng(4)
    X, Y = rng.standard_normal((3, 6)), np.sign(rng.standard_normal((3, 2)))
    f = loss(X, Y)
    net = lf.init.gaussian((6, 9, 2), 0.5, rng=rng)
    g, seen = f.effective(net)
    assert g.shape == seen.shape == (3, 2) and g.effective(seen) == (g, seen)
    assert f.shape == (6, 2) and type(g) is loss
    assert g.value(seen.product()) == pytest.approx(f.value(net.product()), rel=1e-13)
    assert f.hard_margin * (1 - 1e-12) <= g.hard_margin < f.hard_margin
    assert g.hard_margin + g.margin_gap == pytest.approx(f.hard_margin + f.margin_gap, rel=1e-14)
    np.testing.assert_allclose(np.linalg.norm(g.direction, axis=0), 1, rtol=1e-12)
    again = loss(g._X, Y)
    assert again.hard_margin == pytest.approx(g.hard_margin, rel=1e-12)
    one, two = lf.gradient_flow(f, net, t_max=3.0), lf.gradient_flow(g, seen, t_max=3.0)
    assert one.gap[-1] == pytest.approx(two.gap[-1], rel=1e-6)
    # The whole network shows no bound (the null space of X is in D_1), the restricted one does.
    alpha = float(lf.bounds.best(seen, sigma_min=0.0).value)
    assert alpha > float(lf.bounds.best(net, sigma_min=0.0).value)
    assert one.gap[-1] <= g.tail_gap(one.gap[0], 3.0, alpha) * (1 + 1e-6)


def test_a_margin_hidden_by_the_numerical_rank_is_not_restricted_away():
    """The one direction that separates is lost to the rank of X: the pair is left whole."""
    rng = np.random.default_rng(0)
    X = np.stack([np.full(2000, 1e-13), np.sign(rng.standard_normal(2000))], axis=1)
    f = ExponentialLoss(X, np.ones(2000))
    assert np.linalg.matrix_rank(X) == 1 and 0.9e-13 < f.hard_margin <= 1e-13
    net = lf.init.gaussian((2, 3, 1), rng=0)
    assert f.effective(net) == (f, net)
