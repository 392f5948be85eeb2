"""Closed forms against the integrator, independent twins, high precision and their own identities."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import hyp2f1

import linflow as lf
from linflow.exact import (
    balanced_end_to_end,
    lambda_balanced,
    learning_times,
    non_overparametrized,
    scalar_balanced,
    scalar_balanced_time,
    spectral,
    two_layer_scalar,
)
from tests.reference import dynamics as twin

TIMES = [0.0, 0.1, 0.5, 1.5]


def integrated(f, net, times=TIMES):
    """Products of the integrated flow at the times; a run may end early only where nothing moves."""
    run = lf.gradient_flow(f, net, t_max=times[-1], times=times[1:-1], rtol=1e-12)
    assert run.t[-1] == times[-1] or run.result is lf.Result.STATIONARY
    return np.stack([run.network_at(min(t, run.t[-1])).product() for t in times])


def frame(rng, rows, columns):
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0]


# --- two scalars ---


def two_layer_decimal(d, s, w0, t):
    """The printed solution in 400 digits, which absorb its cancellation."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 400, -(10**9), 10**9
        d, s, w, t = (Decimal(float(x)) for x in (d, s, w0, t))
        if d == 0:
            if w == 0:
                return 0.0
            sign = 1 if w > 0 else -1
            a, size = sign * s, abs(w)
            if a == 0:
                return float(sign * size / (1 + 2 * size * t))
            return float(sign * a / (1 + (a / size - 1) * (-2 * a * t).exp()))
        c = abs(d) / 2
        r = (s * s + c * c).sqrt()
        p, q, x = (s + r) / c, (s - r) / c, (w + (w * w + c * c).sqrt()) / c
        k = (x - p) / (x - q) * (-2 * r * t).exp()
        x = (p - q * k) / (1 - k)
        return float(c * (x - 1 / x) / 2)


SIZES = st.one_of(st.sampled_from([0.0, 1.0, 1e-30, 1e-90]), st.floats(-12, 3).map(lambda e: 10.0**e))


@settings(max_examples=200)
@given(d=SIZES, s=SIZES, w0=SIZES, t=SIZES, signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
def test_two_layer_scalar_to_rounding(d, s, w0, t, signs):
    d, s, w0 = signs[0] * d, signs[1] * s, signs[2] * w0
    exact = two_layer_decimal(d, s, w0, t)
    # A few roundings, and those of the exponent −2rt, which is at most 745 where the exponential is not 0.
    relative = 1e-15 * (10 + min(2 * t * np.hypot(s, d / 2), 745.0))
    size = abs(exact) if s * w0 >= 0 else max(abs(exact), abs(d))
    assert abs(two_layer_scalar(d, s, w0, t) - exact) <= relative * size + 1e-320  # the last: subnormal numbers


@pytest.mark.parametrize("d", [3.0, -3.0, 0.0, 1e-9])
@pytest.mark.parametrize("s", [1.0, -0.7, 0.0])
@pytest.mark.parametrize("w0", [0.4, -0.4, 0.0])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_two_layer_scalar_is_the_flow(d, s, w0, scale):
    squared = (np.hypot(d, 2 * w0 / scale) + d) / 2
    u = np.sqrt(squared) if squared > 0 else 0.0
    v = w0 / scale / u if u > 1e-3 else np.copysign(np.sqrt(squared - d), w0)
    got = two_layer_scalar(u * u - v * v, s, scale * u * v, TIMES, scale=scale)
    expected = twin.flow(lambda W: W - s, [np.array([[u]]), np.array([[v]])], TIMES, scale)
    # The reference integrates at 1e-12 a step.
    np.testing.assert_allclose(got, [scale * (A @ B).item() for A, B in expected], atol=1e-10)
    if scale == 1 and abs(d) > 1:  # the twin cancels for small d
        np.testing.assert_allclose(got[2], twin.two_layer_scalar(u * u - v * v, s, u * v, 0.5), atol=1e-13)


def test_two_layer_scalar_rate_and_limits():
    d, s = 1.5, 0.8
    near = s - two_layer_scalar(d, s, 0.1, np.array([5.0, 6.0]))
    # The residual falls at 2r (the loss at 4r); both are 1e-4 s and less, read with errors of 1e-16.
    assert np.log(near[0] / near[1]) == pytest.approx(np.sqrt(4 * s**2 + d**2), rel=1e-4)
    assert two_layer_scalar(d, s, -3.0, 1e300) == pytest.approx(s, rel=1e-15)  # a rounding
    assert two_layer_scalar(0.0, 1.0, -0.5, [3.0, 1e300])[1] == 0.0  # u = −v: into the saddle
    assert two_layer_scalar(1e-300, 1.0, -0.5, 1e4) == pytest.approx(1.0, rel=1e-15)  # just past it


# --- balanced scalars ---


def balanced_antiderivative(L, u):
    """`∫ u^{1−L}/(1 − u^L) du` for L ≥ 3 and 0 < u < 1, by the hypergeometric function."""
    return u ** (2 - L) / (2 - L) + u**2 / 2 * hyp2f1(1, 2 / L, 1 + 2 / L, u**L)


@pytest.mark.parametrize("L", [3, 4, 7, 20])
@pytest.mark.parametrize(
    ("s", "w0", "w"), [(1.0, 1e-3, 0.5), (2.5, 1e-9, 2.4), (-0.3, -0.1, -0.25), (1.0, 0.9, 0.99)]
)
def test_balanced_time_is_hypergeometric(L, s, w0, w):
    u0, u1 = abs(w0 / s) ** (1 / L), abs(w / s) ** (1 / L)
    expected = abs(s) ** (2 / L - 2) * (balanced_antiderivative(L, u1) - balanced_antiderivative(L, u0))
    # hyp2f1 next to 1, and the difference of antiderivatives, cost a few digits.
    assert scalar_balanced_time(L, s, w0, w) == pytest.approx(expected, rel=1e-11)


@settings(max_examples=60)
@example(L=1, s=1.0000000000000002, start=0.0, sign=1.0, part=0.75)
@example(L=3, s=1.0, start=0.0, sign=1.0, part=0.5)
@given(
    L=st.integers(1, 12),
    s=st.floats(-2, 2).filter(lambda x: abs(x) > 1e-3),
    start=st.floats(-6, 1),
    sign=st.sampled_from([1.0, -1.0]),
    part=st.floats(0.001, 0.999),
)
def test_balanced_time_and_product_are_inverse(L, s, start, sign, part):
    w0 = sign * 10.0**start
    limit = 0.0 if L > 1 and s * w0 < 0 else s
    w = w0 + part * (limit - w0)
    t = scalar_balanced_time(L, s, w0, w)
    if w == limit:  # by rounding, where w0 is next to it: the flow never gets there
        assert t == (0.0 if w0 == limit else np.inf)
        return
    velocity = L * abs(w) ** (2 - 2 / L) * (s - w)
    # Roundings of w, and of t carried over to w.
    assert abs(scalar_balanced(L, s, w0, t) - w) <= 1e-14 * L * (abs(w) + abs(velocity) * t) + 1e-15 * abs(s - w0)


@pytest.mark.parametrize("L", [1, 2, 3, 5])
@pytest.mark.parametrize(("s", "w0"), [(1.0, 0.2), (1.0, 3.0), (1.0, -0.4), (-0.5, 0.3), (0.0, 0.7), (1.0, 1.0)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_balanced_scalar_is_the_flow(L, s, w0, scale):
    sizes = [np.array([[abs(w0 / scale) ** (1 / L)]])] * L
    weights = [np.sign(w0) * sizes[0], *sizes[1:]]
    expected = [scale * np.prod(w) for w in twin.flow(lambda W: W - s, weights, TIMES, scale)]
    got = scalar_balanced(L, s, w0, TIMES, scale=scale)
    np.testing.assert_allclose(got, expected, atol=1e-10)  # the reference integrates at 1e-12 a step
    assert got[0] == w0


def test_balanced_scalar_at_the_edges():
    for L in (2, 3, 4, 9):
        assert scalar_balanced(L, 1.0, 0.0, 5.0) == 0.0
        falling = scalar_balanced(L, 1.0, -0.5, np.array([0.0, 1.0, 1e3, 1e9]))
        assert (falling <= 0).all() and (np.diff(falling) >= 0).all() and falling[-1] > -1e-4
        assert scalar_balanced(L, 1.0, 1e-3, 1e300) == 1.0
        assert scalar_balanced_time(L, 1.0, 0.5, 1.0) == np.inf
        assert scalar_balanced_time(L, 1.0, 0.5, 0.5) == 0.0
        np.testing.assert_array_equal(scalar_balanced(L, 1.0, 1.0, TIMES), 1.0)
    # s = 0: 1/w^{2−2/L} integrates to w^{−a}/a with a = 2 − 2/L, so w = (w_0^{−a} + aLt)^{−1/a}; rounding.
    assert scalar_balanced(3, 0.0, 0.5, 1e8) == pytest.approx((0.5 ** (-4 / 3) + 4e8) ** -0.75, rel=1e-13, abs=0)


# --- λ-balanced matrices ---


def lambda_balanced_weights(rng, n, m, h, lam):
    b = rng.uniform(0.1, 1.0, h) + max(0.0, -lam)
    hidden = frame(rng, h, h)
    return (frame(rng, n, h) * np.sqrt(b + lam)) @ hidden.T, (hidden * np.sqrt(b)) @ frame(rng, m, h).T


@pytest.mark.parametrize(("n", "m", "h"), [(1, 1, 1), (2, 2, 2), (4, 2, 2), (2, 3, 1), (3, 3, 2), (2, 4, 2)])
@pytest.mark.parametrize("lam", [0.0, 0.8, -0.6])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_lambda_balanced(n, m, h, lam, scale, rng):
    W1, W2 = lambda_balanced_weights(rng, n, m, h, lam)
    Y = rng.standard_normal((n, m))
    got = lambda_balanced(Y, W1, W2, TIMES, scale=scale)
    expected = integrated(lf.MatrixFactorization(Y), lf.Network([W1, W2], scale))
    np.testing.assert_allclose(got, expected, atol=1e-10)  # the integrator runs at 1e-12 a step
    if scale == 1:
        np.testing.assert_allclose(got[1], twin.lambda_balanced(Y, W1, W2, 0.1), atol=1e-10)  # quadrature at 1e-12


def test_lambda_balanced_when_wide_and_balanced(rng):
    """D = 0 lets the hidden layer be wider than both sides."""
    net = lf.init.balanced((3, 8, 2), rng=rng)
    Y = rng.standard_normal((3, 2))
    got = lambda_balanced(Y, *net.weights, TIMES)
    # The integrator runs at 1e-12 a step.
    np.testing.assert_allclose(got, integrated(lf.MatrixFactorization(Y), net), atol=1e-10)
    np.testing.assert_allclose(
        got, balanced_end_to_end(lf.MatrixFactorization(Y), net.product(), 2, TIMES), atol=1e-10
    )


@pytest.mark.parametrize("lam", [0.0, 0.8, -0.6])
def test_lambda_balanced_for_all_times(lam, rng):
    """No overflow; a narrow hidden layer learns the best approximation of its rank."""
    for n, m, h in [(3, 3, 3), (4, 2, 2), (3, 4, 2), (3, 3, 1)]:
        Y = rng.standard_normal((n, m))
        W = lambda_balanced(Y, *lambda_balanced_weights(rng, n, m, h, lam), [1e3, 1e6, 1e300])
        U, s, Vt = np.linalg.svd(Y, full_matrices=False)
        if n == m or lam == 0:
            # Eigenvalue gaps of F are at least 0.02 here: e^{−20} at the first time, nothing at the others.
            np.testing.assert_allclose(W[1:], np.stack([(U[:, :h] * s[:h]) @ Vt[:h]] * 2), atol=1e-12)
        np.testing.assert_allclose(W[1], W[2], atol=1e-12)  # both at the limit: rounding
    np.testing.assert_array_equal(lambda_balanced(np.eye(2), np.zeros((2, 3)), np.zeros((3, 2)), 50.0), 0.0)
    # A mode that starts at exactly 0 stays there, and does not hold up the one after it.
    W = lambda_balanced(np.diag([2.0, 1.0]), np.diag([0.0, 1e-3]), np.diag([0.0, 1e-3]), 1e3)
    np.testing.assert_allclose(W, np.diag([0.0, 1.0]), atol=1e-15)


def test_lambda_balanced_is_two_layer_scalar():
    for lam, s, w0 in [(0.7, 1.0, 0.3), (-2.0, -1.0, 0.3), (0.0, 1.0, 1e-8)]:
        u = np.sqrt((np.hypot(lam, 2 * w0) + lam) / 2)
        got = lambda_balanced([[s]], [[u]], [[w0 / u]], [0.5, 5.0, 500.0])
        # Roundings of ‖Z‖² = O(1); at w_0 = 1e-8 those of Z_0, grown like w_0 itself to O(1).
        np.testing.assert_allclose(got.ravel(), two_layer_scalar(lam, s, w0, [0.5, 5.0, 500.0]), atol=1e-13)


# --- spectral starts ---


@pytest.mark.parametrize("widths", [(3, 3), (2, 4, 3), (3, 4, 2), (3, 4, 5, 3), (1, 1, 1, 1), (4, 3, 5, 4, 3)])
@pytest.mark.parametrize(
    "case", ["generic", "repeated", "zero target", "a zero weight", "two zero weights", "negative"]
)
def test_spectral(widths, case, rng):
    L, n, m = len(widths) - 1, widths[0], widths[-1]
    Y = np.eye(n, m) if case == "repeated" else rng.standard_normal((n, m)) * (case != "zero target")
    w = rng.uniform(0.3, 1.3, (L, min(n, m)))
    if case == "negative":
        w[0] *= -1
    if case == "a zero weight":
        w[L // 2, 0] = 0
    if case == "two zero weights":
        w[0, 0] = w[-1, 0] = 0
    net = lf.Network(lf.init.spectral(widths, Y, w, rng=rng).weights, 1.3)
    got = spectral(net, Y, TIMES)
    # The integrator runs at 1e-12 a step.
    np.testing.assert_allclose(got, integrated(lf.MatrixFactorization(Y), net), atol=1e-10)


@pytest.mark.parametrize("split", [0.0, 1e-14, 1e-11, 1e-8, 1e-3])
def test_spectral_with_modes_alike_in_all_but_the_layers(split, rng):
    """Target and product hardly tell the modes apart; the layers do."""
    w = np.array([[1, 0.5, 2.0, 1], [1, 1, 1, 2], [1, 2, 0.5, 0.5 + split]])
    U, V, Q1, Q2 = frame(rng, 4, 4), frame(rng, 5, 4), frame(rng, 5, 4), frame(rng, 6, 4)
    Y = 2 * U * np.array([1, 1, 1, 1 + split]) @ V.T
    net = lf.Network([U * w[0] @ Q1.T, Q1 * w[1] @ Q2.T, Q2 * w[2] @ V.T])
    # The integrator runs at 1e-12 a step.
    np.testing.assert_allclose(spectral(net, Y, TIMES), integrated(lf.MatrixFactorization(Y), net), atol=1e-10)


def test_spectral_from_starts_of_many_sizes(rng):
    Y = np.diag([3.0, 2.0, 1.0])
    net = lf.init.spectral((3, 4, 4, 3), Y, np.array([1.0, 1e-4, 1e-8]) * np.ones((3, 1)), rng=rng)
    got = spectral(net, Y, TIMES)
    np.testing.assert_allclose(got, integrated(lf.MatrixFactorization(Y), net), atol=1e-10)  # the integrator's
    np.testing.assert_allclose(spectral(net, Y, 1e300), Y, atol=1e-14)  # rounding


@settings(max_examples=40)
@given(L=st.integers(2, 6), seed=st.integers(0, 9999), s=st.sampled_from([0.0, 1e-3, 1.0, 4.0]))
def test_spectral_chain_against_the_flow(L, seed, s):
    """Scalars of any imbalance, tiny and zero weights and both signs: the smallest weight may pass through 0."""
    rng = np.random.default_rng(seed)
    w = rng.choice([1.0, -1.0], L) * 10.0 ** rng.uniform(-3, 0.2, L)
    if seed % 5 == 0:
        w[rng.integers(L)] = 0.0
    if seed % 3 == 0:
        w[1] = w[0]
    net = lf.Network([np.array([[x]]) for x in w])
    expected = [np.prod(now) for now in twin.flow(lambda W: W - s, list(net.weights), TIMES)]
    # The reference integrates at 1e-12 a step.
    np.testing.assert_allclose(spectral(net, [[s]], TIMES).ravel(), expected, atol=1e-10)


CHAINS = [  # weights, target, products at LATE by mpmath: panels of Gauss' rule in 60 digits, inverted
    ((1, 2, 3), 0.0, (5.7186388936589699, 2.477231566689169e-5, 4.4058268832660786e-73, 0.0)),
    ((-1.5, -1.5, -0.09), 0.0, (-0.20147016481846448, -0.016289478889494859, -1.055829888717516e-16, 0.0)),
    (
        (0.9, 0.1, 0.7, 0.6, -2.1),
        0.0,
        (-0.079326861890016728, -0.057376473232975526, -0.0011871868379701492, -6.682941793870945e-79),
    ),
    ((1.25, 0.5, 2.0), 1e-25, (1.2405080192507759, 0.084373879152717584, 1.0753075973889741e-15, 1.0e-25)),
    ((2e-26, 1.25, -2.0), -1e-25, (-5.0311525468830265e-26, -9.7803153318829633e-26, -1.0e-25, -1.0e-25)),
    ((0.5, 0.25, 2.0), 1.0, (0.25094983080836639, 0.76289083079027945, 0.99999999999992529, 1.0)),
    ((-0.01, 0.02, 1.0, 0.5), 1.5, (-9.9812525232338121e-5, -2.6678402579727415e-5, 1.4861895922568734, 1.5)),
    (
        (0.125, 0.125, 1.5),
        0.0,
        (0.023435846445806166, 0.022638931300536058, 0.01569553442259925, 1.0633110838249464e-3),
    ),
    ((1e-14, 1e-14, 2.0), 3.0, (2.0241445777321555e-28, 8.0685758698547024e-26, 2.9999999999522924, 3.0)),
    (
        (1e-9, 0.5),
        0.0,
        (4.99875015623698e-10, 4.412484512922977e-10, 8.688697172522257e-11, 1.339318480904039e-42),
    ),
]
LATE = [1e-3, 0.5, 7.0, 300.0]


@pytest.mark.parametrize(("weights", "target", "products"), CHAINS)
def test_spectral_chains_in_high_precision(weights, target, products):
    net = [np.array([[w]]) for w in weights]
    got = spectral(net, [[target]], [*LATE, 1e300, 0.0]).ravel()
    # Rounding of the exponent, which is below 1000.
    np.testing.assert_allclose(got[:-2], products, rtol=1e-12)
    assert got[-2] == pytest.approx(target, rel=1e-15) and got[-1] == np.prod(weights)
    # One late time among the others changes nothing.
    for t, product in zip(LATE, got[:-2], strict=True):
        assert spectral(net, [[target]], t)[0, 0] == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize("dense", ["nothing", "hidden vectors", "all vectors"])
def test_small_weights_count(dense, rng):
    """A weight of 1e-14 beside one of 1 is learned, late; only where rounding of the layer covers it is it none."""
    Q = [frame(rng, 2, 2) if dense == "all vectors" else np.eye(2) for _ in range(2)]
    middle = np.eye(3, 2) if dense == "nothing" else frame(rng, 3, 2)
    Y = Q[0] * np.array([2.0, 1.0]) @ Q[1].T
    # A dense layer of norm 1 knows its weight of 1e-14 to a few 1e-16, and so the time to some hundredths.
    off = 0.1 if dense == "all vectors" else 1e-12
    for weights in ([[1.0, 1e-14], [1.0, 1e-14]], [[1.0, 1e-14], [1.0, 1.0]], [[1.0, 1.0], [3.0, 1e-14]]):
        w = np.array(weights)
        net = [Q[0] * w[0] @ middle.T, middle * w[1] @ Q[1].T]
        start, apart = float(np.prod(w[:, 1])), abs(float(w[0, 1] ** 2 - w[1, 1] ** 2))
        mode = two_layer_scalar(apart, 1.0, start, LATE)
        got = Q[0][:, 1] @ spectral(net, Y, LATE) @ Q[1][:, 1]
        np.testing.assert_allclose(got[:2], mode[:2], rtol=off, atol=0 if off < 1e-9 else 1e-15)
        np.testing.assert_allclose(got[2:], mode[2:], atol=2 * off)
        half = learning_times(net, Y)[1]
        assert two_layer_scalar(apart, 1.0, start, half) == pytest.approx(0.5, abs=2 * off)
    both = [Q[0] * np.array([1.0, 1e-14]) @ middle.T, middle * np.array([1.0, 1e-14]) @ Q[1].T]
    late = Q[0][:, 1] @ spectral(both, Y, 40.0) @ Q[1][:, 1]
    x = 1e28 * np.exp(-80.0)  # late is 1 / (1 + (s/w_0 − 1) e^{−2st}), to a few roundings of 1
    assert 1 - late == pytest.approx(x / (1 + x), rel=4 * off, abs=1e-15)
    assert learning_times(both, Y)[1] == pytest.approx(14 * np.log(10.0), abs=2 * off)
    # What was 0 when the layers were made is 0: rounding does not set it moving.
    none = [Q[0] * np.array([1.0, 0.0]) @ middle.T, middle * np.array([1.0, 0.0]) @ Q[1].T]
    assert learning_times(none, Y)[1] == np.inf


def test_small_singular_values_of_the_target_count():
    net = [np.diag([1.0, 1e-8]), np.diag([1.0, 1e-8])]
    times = learning_times(net, np.diag([2.0, 1e-14]))
    assert times[1] == pytest.approx(np.log(1e2 - 1) / 2e-14, rel=1e-12)
    net = [np.diag([1.0, 1e-160]), np.diag([1.0, 1.0])]  # whose square is below float64
    assert spectral(net, np.diag([2.0, 1.0]), 1.0)[1, 1] == pytest.approx(two_layer_scalar(1.0, 1.0, 1e-160, 1.0))


@pytest.mark.parametrize("L", [1, 2, 3, 5])
def test_learning_times(L, rng):
    widths = (3, *[4] * (L - 1), 3)
    Y = frame(rng, 3, 3) * np.array([3.0, 1.5, 0.5]) @ frame(rng, 3, 3)
    net = lf.Network(lf.init.spectral(widths, Y, 10.0 ** rng.uniform(-1, -0.5, (L, 3)), rng=rng).weights, 0.7)
    U, s, Vt = np.linalg.svd(Y)
    for fraction in (0.3, 0.5, 0.99):
        times = learning_times(net, Y, fraction)
        for i, t in enumerate(times):
            reached = U[:, i] @ spectral(net, Y, float(t)) @ Vt[i]
            start = U[:, i] @ net.product() @ Vt[i]
            assert (t == 0) == (start >= fraction * s[i])
            assert reached == pytest.approx(max(fraction * s[i], start), rel=1e-11)  # rounding of t, times its slope


def test_learning_times_of_a_small_start():
    """`t_i σ_i / log(1/α) → 1` for L = 2 and `t_i σ_i (L − 2) α^{L−2} → 1` for L = 3, 4, as the next terms say."""
    s = np.array([3.0, 1.0, 0.2])
    Y = np.diag(s)
    for alpha in (1e-2, 1e-4, 1e-6):
        times = learning_times(lf.init.spectral((3, 3, 3), Y, alpha, rng=0), Y)
        exact = (np.log(s / alpha**2 - 1)) / (2 * s)
        np.testing.assert_allclose(times, exact, rtol=1e-9)  # the start is rounded at ε, and α² at ε/α² of itself
        assert (np.abs(times * s / np.log(1 / alpha) - 1) <= np.abs(np.log(s)) / (2 * np.log(1 / alpha)) + 1e-3).all()
        for L in (3, 4):
            times = learning_times(lf.init.spectral((3,) * (L + 1), Y, alpha, rng=0), Y)
            # The rest of the integral, J(u), is of order 1 for each s^{2/L−2}.
            rest = 2 * s ** (2 / L - 2) * s * (L - 2) * alpha ** (L - 2)
            assert (np.abs(times * s * (L - 2) * alpha ** (L - 2) - 1) <= rest).all()
        assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("turned", range(12))
def test_learning_times_of_special_modes(turned):
    # A singular value 0 is some rounding with either sign, whichever the turn and the processor make it.
    rng = np.random.default_rng(turned)
    U, V = (np.linalg.qr(rng.standard_normal((4, 4)))[0] if turned else np.eye(4) for _ in range(2))
    Y = U @ np.diag([2.0, 1.0, 1.0, 0.0]) @ V.T
    w = np.array([[1.0, 0.0, -0.1, 0.5], [1.9, 0.0, 0.1, 0.5], [1.0, 1.0, 0.1, 0.5]])
    times = learning_times(lf.init.spectral((4, 4, 4, 4), Y, w, rng=0), Y)
    assert times[0] == 0 and times[3] == 0  # past its half at the start; nothing to learn
    assert np.isinf(times[1:3]).all()  # stuck at the saddle; on the way into it


# --- flows of the product ---


@pytest.mark.parametrize("L", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(3, 2), (2, 3)])
def test_balanced_end_to_end(L, shape, rng):
    f = lf.LinearRegression(rng.standard_normal((6, shape[0])), rng.standard_normal((6, shape[1])))
    weights = lf.init.balanced((shape[0], *[4] * (L - 1), shape[1]), std=0.5, rng=rng).weights
    net = lf.Network(weights, 0.8)
    got = balanced_end_to_end(f, net.product(), L, TIMES, scale=0.8)
    # The integrator runs at 1e-12 a step; the balance of the weights is rounded.
    np.testing.assert_allclose(got, integrated(f, net), atol=1e-9)
    expected = twin.balanced_end_to_end(f.gradient, net.product(), L, [x * 0.8 ** (2 / L) for x in TIMES])
    np.testing.assert_allclose(got, expected, atol=1e-9)  # the same tolerance there


def test_balanced_end_to_end_keeps_the_order_of_times(rng):
    f = lf.MatrixFactorization(rng.standard_normal((2, 3)))
    W0 = rng.standard_normal((2, 3))
    got = balanced_end_to_end(f, W0, 3, [1.0, 0.0, 0.5, 1.0])
    np.testing.assert_array_equal(got[1], W0)
    np.testing.assert_array_equal(got[0], got[3])
    np.testing.assert_allclose(got[2], balanced_end_to_end(f, W0, 3, 0.5), atol=1e-12)  # steps end elsewhere
    np.testing.assert_array_equal(balanced_end_to_end(f, 0 * W0, 3, 1.0), 0.0)


def test_nothing_moves_from_zero():
    Z, Y = np.zeros((2, 2)), np.eye(2)
    np.testing.assert_array_equal(spectral([Z, Z, Z], Y, [1.0, 9.0]), np.zeros((2, 2, 2)))
    np.testing.assert_array_equal(spectral([Z, Z, Z], Z, [1.0, 9.0]), np.zeros((2, 2, 2)))
    np.testing.assert_array_equal(learning_times([Z, Z], Y), np.inf)


def quadratics(rng):
    A, B = rng.standard_normal((2, 3)), rng.standard_normal((4, 4))
    yield lf.MatrixFactorization(rng.standard_normal((3, 4)))
    yield lf.LinearRegression(rng.standard_normal((5, 3)), rng.standard_normal((5, 4)))
    yield lf.LinearRegression(rng.standard_normal((2, 3)), rng.standard_normal((2, 4)))  # rank-deficient
    yield lf.Quadratic(A.T @ A, B @ B.T, A.T @ A @ rng.standard_normal((3, 4)))  # A singular


def test_non_overparametrized(rng):
    for f in quadratics(rng):
        W0 = rng.standard_normal((3, 4))
        got = non_overparametrized(f, W0, TIMES)
        np.testing.assert_allclose(got, twin.end_to_end(f.gradient, W0, TIMES), atol=1e-10)  # 1e-12 a step
        np.testing.assert_allclose(got, integrated(f, lf.Network([W0])), atol=1e-9)  # likewise
        np.testing.assert_allclose(got, balanced_end_to_end(f, W0, 1, TIMES), atol=1e-10)  # likewise
        gap = [f.gap(W) for W in got]
        assert (gap <= np.exp(-f.pl_constant * np.array(TIMES)) * gap[0] * (1 + 1e-12)).all()  # rounding


def test_non_overparametrized_for_other_objectives(rng):
    Y = rng.standard_normal((2, 2))
    f = lf.Objective(
        lambda W: float(np.sum(np.cosh(W - Y) - 1)),
        lambda W: np.sinh(W - Y),
        shape=(2, 2),
        strong_convexity=1.0,
        minimizer=Y,
    )
    W0 = rng.standard_normal((2, 2))
    # Each entry on its own: tanh(x/2) falls as e^{−t}. The integration is at 1e-13 a step.
    exact = [Y + 2 * np.arctanh(np.tanh((W0 - Y) / 2) * np.exp(-t)) for t in TIMES]
    np.testing.assert_allclose(non_overparametrized(f, W0, TIMES), exact, atol=1e-11)


# --- inputs ---


def test_times_and_array_kinds(xp):
    W = xp.asarray([[0.5, 0.0], [0.0, 0.25]], dtype=xp.float64)
    Y = xp.asarray([[2.0, 0.0], [0.0, 1.0]], dtype=xp.float64)
    f = lf.MatrixFactorization(Y)
    calls = [
        lambda t: lambda_balanced(Y, W, W, t),
        lambda t: spectral([W, W, W], Y, t),
        lambda t: balanced_end_to_end(f, W, 3, t),
        lambda t: non_overparametrized(f, W, t),
    ]
    for call in calls:
        for t, shape in [(0.5, (2, 2)), ([0.5], (1, 2, 2)), ([0.5, 0.0], (2, 2, 2)), ([], (0, 2, 2))]:
            got = call(t)
            assert type(got) is type(W) and got.dtype == xp.float64 and tuple(got.shape) == shape
    assert type(learning_times([W, W], Y)) is type(W)
    times = xp.asarray([0.0, 1.0], dtype=xp.float64)
    assert type(two_layer_scalar(1.0, 1.0, 0.1, times)) is type(W)
    assert type(scalar_balanced(3, 1.0, 0.1, times)) is type(W)
    assert isinstance(two_layer_scalar(1.0, 1.0, 0.1, 1), float) and isinstance(scalar_balanced(3, 1, 0.1, 1), float)


def test_errors_name_the_way_out():
    I = np.eye(2)
    with pytest.raises(ValueError, match="times are finite and start at 0"):
        two_layer_scalar(0.0, 1.0, 0.1, [0.0, -1.0])
    with pytest.raises(ValueError, match="flatten it"):
        spectral([I, I], I, [[1.0]])
    with pytest.raises(TypeError, match="a non-negative number or a sequence"):
        non_overparametrized(lf.MatrixFactorization(I), I, "soon")
    with pytest.raises(ValueError, match="a finite number is needed"):
        scalar_balanced(3, np.nan, 0.1, 1.0)
    with pytest.raises(TypeError, match="a real number is needed"):
        two_layer_scalar(None, 1.0, 0.1, 1.0)
    with pytest.raises(ValueError, match="moves from w0 towards 1"):
        scalar_balanced_time(3, 1.0, 0.5, 0.4)
    with pytest.raises(ValueError, match=r"differs from -?\d.*·I by .* lf.init.imbalanced"):
        lambda_balanced(I, I, np.diag([1.0, 2.0]), 1.0)
    with pytest.raises(ValueError, match=r"not aligned.* by 0\.\d+ of a layer.*lf.init.spectral"):
        spectral(lf.init.gaussian((2, 3, 2), rng=0), I, 1.0)
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        learning_times([I, I], I, 1.0)
    with pytest.raises(ValueError, match="Y is 3×3; 2×2 is needed"):
        spectral([I, I], np.eye(3), 1.0)
    with pytest.raises(ValueError, match="W0 is 3×3"):
        balanced_end_to_end(lf.MatrixFactorization(I), np.eye(3), 2, 1.0)


@pytest.mark.parametrize("where", ["hidden vectors", "layers that mix", "vectors of the target"])
def test_alignment_is_checked_in_every_part(where, rng):
    """A product and a target that look aligned are not enough."""
    U, Q1, Q2, V = (frame(rng, 3, 3) for _ in range(4))
    w = rng.uniform(0.5, 1.0, (3, 3))
    layers = [U * w[0] @ Q1.T, Q1 * w[1] @ Q2.T, Q2 * w[2] @ V.T]
    Y = U * np.array([3.0, 2.0, 1.0]) @ V.T
    spectral(layers, Y, 1.0)
    shear = np.eye(3) + 1e-8 * np.triu(np.ones((3, 3)), 1)
    if where == "hidden vectors":  # leaves the product as it is
        layers = [layers[0] @ shear, np.linalg.solve(shear, layers[1]), layers[2]]
    elif where == "layers that mix":
        layers[1] = layers[1] @ shear
    else:
        Y = Y @ shear
    with pytest.raises(ValueError, match="not aligned"):
        spectral(layers, Y, 1.0)
