"""Weights of prescribed imbalance and product, and starts made for a certificate."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linflow as lf
from linflow.model import prescribed as _prescribed
from linflow.model.prescribed import Prescription
from tests.random_networks import networks
from tests.reference import algebra

ACCEPTED = 1e-10  # what `with_imbalance` promises of the residual


def orthogonal(k, rng):
    return np.linalg.qr(rng.standard_normal((k, k)))[0]


def with_spectrum(d, rng):
    Q = orthogonal(len(d), rng)
    D = Q * d @ Q.T
    return (D + D.T) / 2


def check_weights(net, Ds, W, tolerance=ACCEPTED):
    """The imbalances and the product, formed explicitly."""
    weights = [np.asarray(A) for A in net.weights]
    size = max(np.linalg.norm(A) for A in weights) ** 2
    for (A, B), D in zip(pairwise(weights), Ds, strict=True):
        assert np.linalg.norm(A.T @ A - B @ B.T - D) <= tolerance * size
    factors = net.scale * math.prod(np.linalg.norm(A) for A in weights)
    error = np.linalg.norm(algebra.product(weights, net.scale) - W)
    assert error <= tolerance * max(np.linalg.norm(W), 1e-2 * factors)


def least_violation(Ds, W, widths, rng, starts=4):
    """A slow twin: the least distance to the constraints that a general-purpose solver finds."""
    from scipy.optimize import least_squares

    ends = np.cumsum([a * b for a, b in pairwise(widths)])[:-1]

    def off(x):
        weights = [part.reshape(s) for part, s in zip(np.split(x, ends), pairwise(widths), strict=True)]
        parts = [(A.T @ A - B @ B.T - D).ravel() for (A, B), D in zip(pairwise(weights), Ds, strict=True)]
        return np.concatenate([*parts, (algebra.product(weights) - W).ravel()])

    size = sum(a * b for a, b in pairwise(widths))
    found = [least_squares(off, rng.standard_normal(size), method="trf", max_nfev=60) for _ in range(starts)]
    return math.sqrt(2 * min(run.cost for run in found))


# --------------------------------------------------------------------------- two layers


@st.composite
def prescriptions(draw):
    """D and W of two layers that meet the three conditions, with zeros, repeated values and far sizes."""
    n, m, h = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 9))
    p = draw(st.integers(0, min(n, h)))
    q = draw(st.integers(0, min(m, h - p)))
    r = draw(st.integers(0, min(n, m, h)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d = np.concatenate([rng.uniform(0.1, 1, p), -rng.uniform(0.1, 1, q), np.zeros(h - p - q)])
    d *= 10.0 ** draw(st.integers(-4, 4))
    if draw(st.booleans()):
        d = np.sign(d) * np.max(np.abs(d), initial=0.0)
    W = rng.standard_normal((n, r)) @ rng.standard_normal((r, m)) * 10.0 ** draw(st.integers(-4, 4))
    return with_spectrum(d, rng), W


@given(prescriptions(), st.sampled_from([1.0, 0.3, 7.0]))
@settings(max_examples=100)
def test_two_layers_exist_under_the_three_conditions(DW, scale):
    D, W = DW
    net = lf.init.with_imbalance(D, W, scale=scale)
    assert net.scale == scale
    # A closed form: what is left is the rounding of eigenvectors and of a product of three factors.
    check_weights(net, [D], W, 2e-13)


@given(networks(layers=st.just(2)))
@settings(max_examples=100)
def test_two_layers_of_any_network_are_found_again(net):
    Ds = lf.imbalance_matrices(net)
    check_weights(lf.init.with_imbalance(Ds[0], net.product(), scale=net.scale), Ds, net.product(), 2e-12)


def test_two_layers_have_the_norm_of_the_closed_form(rng):
    """`Σ‖W_l‖_F² = Σ_i sqrt((λ_i + μ_i)² + 4σ_i²)`: as many modes as eigenvalues of either sign."""
    sigma, plus, minus = np.array([3.0, 1.0, 0.0]), np.array([2.0, 1.0, 0.5]), np.array([4.0, 0.3, 0.2])
    # negative eigenvalues go to the last modes first, the largest of them to mode 3
    D = with_spectrum(np.concatenate([plus, -minus]), rng)
    W = orthogonal(3, rng) * sigma @ orthogonal(3, rng)
    net = lf.init.with_imbalance(D, W)
    total = sum(np.linalg.norm(A) ** 2 for A in net.weights)
    expected = np.sum(np.hypot(plus + minus[::-1], 2 * sigma))
    assert total == pytest.approx(expected, rel=1e-12)  # rounding of an eigendecomposition


@pytest.mark.parametrize(
    ("d", "W", "words"),
    [
        ([1.0, 2.0, 3.0], np.zeros((2, 4)), "3 positive eigenvalues, but D_1 ⪯ W_1ᵀW_1 has rank at most n = 2"),
        ([-1.0, -2.0, 0.0], np.ones((3, 1)), "2 negative eigenvalues, but −D_1 ⪯ W_2W_2ᵀ has rank at most m = 1"),
        ([1.0, -1.0], np.eye(3), "rank 3, but every product of the layers has rank at most h_1 = 2"),
    ],
)
def test_two_layers_impossible_says_why_and_is(d, W, words, rng):
    D = with_spectrum(np.array(d), rng)
    with pytest.raises(ValueError, match="no such weights exist") as error:
        lf.init.with_imbalance(D, W)
    assert words in str(error.value)
    widths = (W.shape[0], len(d), W.shape[1])
    # Each case is at a distance of at least 1 from the possible ones: λ_3(D), λ_2(−D) and σ_3(W).
    assert least_violation([D], W, widths, rng) > 0.5


def test_conditions_are_those_of_a_general_solver(rng):
    """On draws that may or may not be possible, the verdict is that of the slow twin."""
    verdicts = []
    for _ in range(24):
        n, h, m = (int(x) for x in rng.integers(1, 4, 3))
        D = with_spectrum(rng.integers(-2, 3, h).astype(float), rng)
        W = np.diag(rng.integers(0, 3, max(n, m)).astype(float))[:n, :m]
        least = least_violation([D], W, (n, h, m), rng)
        possible = not Prescription([D], W).obstacle()
        # The data are whole numbers: what is impossible is off by 1/2 or so, what is possible by rounding, or the
        # slow convergence to a singular solution.
        assert (least < 1e-3) if possible else (least > 0.1)
        verdicts.append(possible)
    assert min(sum(verdicts), len(verdicts) - sum(verdicts)) >= 4


def test_what_counts_is_spectra(rng):
    """Other bases of the hidden layer and of the ends give the same norms, rotated weights and the same T."""
    D, W = with_spectrum(np.array([2.0, 1.0, 0.0, -1.0]), rng), rng.standard_normal((3, 2))
    Q, U, V = orthogonal(4, rng), orthogonal(3, rng), orthogonal(2, rng)
    a, b = lf.init.with_imbalance(D, W), lf.init.with_imbalance(Q @ D @ Q.T, U @ W @ V)
    for A, B in zip(a.weights, b.weights, strict=True):
        np.testing.assert_allclose(np.linalg.svd(A)[1], np.linalg.svd(B)[1], atol=1e-12)  # rounding
    spectra = [np.linalg.eigvalsh(lf.TangentOperator(net).dense()) for net in (a, b)]
    np.testing.assert_allclose(*spectra, atol=1e-12)  # rounding


def test_eigenvalues_at_rounding_level_do_not_count():
    net = lf.init.gaussian((2, 6, 1), rng=0)
    D = lf.imbalance_matrices(net)[0] + 1e-15 * np.eye(6)
    check_weights(lf.init.with_imbalance(D, net.product()), [D], net.product())


# --------------------------------------------------------------------------- more layers


@given(networks(layers=st.integers(3, 5)))
@settings(max_examples=100)
def test_no_network_is_called_impossible(net):
    W = net.product() / net.scale
    assert Prescription([np.asarray(D) for D in lf.imbalance_matrices(net)], np.asarray(W)).obstacle() == ""


def test_deep_weights_are_found(rng):
    """Imbalances of one random network, the product of another; widths without a bottleneck of 1."""
    for k in range(9):
        depth = 3 + k % 3
        widths = tuple(int(x) for x in rng.integers(2, 6, depth + 1))
        Ds = lf.imbalance_matrices(lf.init.gaussian(widths, rng=rng))
        W = lf.init.gaussian(widths, 0.7, rng=rng).product()
        check_weights(lf.init.with_imbalance(Ds, W, scale=2.0, rng=rng), Ds, W)


def test_deep_closed_forms_need_no_search(rng, monkeypatch):
    """Chains of scalars are met as they are: balanced, homogeneous and one-sided imbalance."""
    monkeypatch.setattr(_prescribed, "_STARTS", 0)
    W = rng.standard_normal((4, 2))
    for ends in ([0.0, 0.0], [2.0, -1.0], [-3.0, 0.0]):
        given_net = lf.init.imbalanced((4, 5, 4, 2), ends, W, rng=rng)
        Ds = lf.imbalance_matrices(given_net)
        check_weights(lf.init.with_imbalance(Ds, W), Ds, W, 1e-12)  # rounding of four factors


def test_wide_layers_are_solved_without_a_factorisation(rng):
    widths = (3, 24, 24, 24, 3)
    Ds = lf.imbalance_matrices(lf.init.fan_out(widths, rng=rng))
    W = rng.standard_normal((3, 3))
    assert sum(D.size for D in Ds) > _prescribed._DENSE
    check_weights(lf.init.with_imbalance(Ds, W, rng=0), Ds, W)


def test_weyl_tells_what_inertia_does_not(rng):
    """`W_2W_2ᵀ` of rank one at most from the left, of eigenvalues 1 at least from the right."""
    Ds, W = [np.zeros((2, 2)), np.eye(2)], np.ones((1, 1))
    with pytest.raises(ValueError, match=r"no such weights exist.*σ_2²\(W_2\) ≥ 1 and ≤ 0 at once"):
        lf.init.with_imbalance(Ds, W)
    assert least_violation(Ds, W, (1, 2, 2, 1), rng) > 0.1  # far from 0


def test_a_search_that_fails_says_so(rng, monkeypatch):
    monkeypatch.setattr(_prescribed, "_STARTS", 0)
    Ds = lf.imbalance_matrices(lf.init.gaussian((2, 5, 5, 2), rng=rng))
    with pytest.raises(ValueError, match="no weights were found"):
        lf.init.with_imbalance(Ds, np.eye(2))


def test_with_imbalance_checks_its_input():
    with pytest.raises(ValueError, match="D_1 \\(2×2\\) is not symmetric"):
        lf.init.with_imbalance([[0.0, 1.0], [0.0, 0.0]], np.eye(2))
    with pytest.raises(ValueError, match="D_2 \\(1×2\\) is not symmetric"):
        lf.init.with_imbalance([np.eye(2), np.ones((1, 2))], np.eye(2))
    with pytest.raises(TypeError, match="a list of them"):
        lf.init.with_imbalance([], np.eye(2))
    with pytest.raises(TypeError, match="a list of them"):
        lf.init.with_imbalance(2.0, np.eye(2))


def test_with_imbalance_reads_nested_lists_and_stacks():
    one = lf.init.with_imbalance([[1.0, 0.0], [0.0, -1.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert one.widths == (2, 2, 2)
    assert lf.init.with_imbalance(np.zeros((2, 3, 3)), np.eye(2)).widths == (2, 3, 3, 2)
    assert lf.init.with_imbalance([[[3.0]], [[1.0]]], [[0.5]]).depth == 3


def test_with_imbalance_keeps_the_array_kind(xp):
    W = xp.asarray([[1.0, 0.0], [0.0, 0.5]], dtype=xp.float64)
    net = lf.init.with_imbalance(xp.asarray([[1.0, 0.0], [0.0, -1.0]], dtype=xp.float64), W)
    assert type(net.weights[0]) is type(W)


def test_zero_asks_for_zero():
    net = lf.init.with_imbalance(np.zeros((3, 3)), np.zeros((2, 2)))
    assert all(not W.any() for W in net.weights)


# --------------------------------------------------------------------------- a rate of the flow


def objective_of(kind, n, m, rng):
    if kind == "factorization":
        return lf.MatrixFactorization(rng.standard_normal((n, m)))
    if kind == "deficient":
        X = rng.standard_normal((3 * n, max(1, n - 1))) @ rng.standard_normal((max(1, n - 1), n))
        return lf.LinearRegression(X, rng.standard_normal((3 * n, m)))
    if kind == "regression":
        return lf.LinearRegression(rng.standard_normal((3 * n, n)), rng.standard_normal((3 * n, m)))
    B = np.diag([*np.linspace(1, 2, m - 1), 0.0]) if m > 1 else np.eye(1)
    A = np.diag(np.linspace(1, 3, n))
    return lf.Quadratic(A, B, A @ rng.standard_normal((n, m)) @ B)


KINDS = ("factorization", "regression", "deficient", "quadratic")


def test_designed_rates_are_certified_and_kept(rng):
    for k in range(16):
        L = 2 + k % 3
        n, m = (int(x) for x in rng.integers(1, 6, 2))
        f = objective_of(KINDS[k % 4], n, m, rng)
        widths = (n, *(int(x) for x in rng.integers(min(n, m), 8, L - 1)), m)
        rate, scale = 10.0 ** rng.uniform(-2, 2), float(rng.choice([1.0, 0.3, 4.0]))
        found = lf.design(f, widths, rate=rate, scale=scale, rng=rng)
        assert found.certificate.rate == lf.certify(f, found.start).rate
        # no more than rounding is put on top
        assert rate <= found.rate <= rate * (1 + 1e-9)
        assert found.start.widths == widths and found.start.scale == scale
        assert not found.start.product().any()
        assert found.confirm().holds
        seen, net = f.effective(found.start)
        modes = min(net.shape)
        total = sum(np.linalg.norm(W) ** 2 for W in found.start.weights)
        alpha = rate / (seen.pl_constant * scale**2)
        # (L − 1) min(n, m) λ, λ^{L−1} = α; the rounding above once more
        assert total == pytest.approx((L - 1) * modes * alpha ** (1 / (L - 1)), rel=1e-9)


@given(networks(layers=st.just(2)), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_no_two_layers_of_less_norm_have_the_rate(net, seed):
    """`Σ‖W_l‖_F² ≥ min(n, m) · rate/(γc²)` for every start; a design attains it (the test above)."""
    f = objective_of("regression", *net.shape, np.random.default_rng(seed))
    rate = lf.certify(f, net).rate
    total = sum(np.linalg.norm(W) ** 2 for W in net.weights)
    assert total * (1 + 1e-12) >= min(net.shape) * rate / (f.pl_constant * net.scale**2)  # rounding


def test_the_minimiser_does_not_enter_the_weights(rng):
    Y = rng.standard_normal((2, 4, 3))
    a, b = (lf.design(lf.MatrixFactorization(y), (4, 5, 3), rate=2.0, rng=3).start for y in Y)
    for A, B in zip(a.weights, b.weights, strict=True):
        np.testing.assert_array_equal(A, B)


def test_the_margin_saves_imbalance(rng):
    f = lf.MatrixFactorization(orthogonal(3, rng))
    far, near = (lf.design(f, (3, 4, 3), rate=4.0, product=a * f.minimizer, rng=0) for a in (0.0, 0.9))
    assert near.imbalance < 0.95 * far.imbalance
    assert near.rate >= 4.0 and near.confirm().holds
    np.testing.assert_allclose(near.start.product(), 0.9 * f.minimizer, atol=1e-12)  # rounding
    balanced = lf.design(f, (3, 4, 3), rate=1.0, product=0.9 * f.minimizer, rng=0)
    assert balanced.imbalance == 0.0 and balanced.rate >= 1.0
    assert "margin" in near.reason
    # least of the family: a little less is not enough
    less = lf.init.imbalanced((3, 4, 3), 0.999 * near.imbalance, 0.9 * f.minimizer, rng=0)
    assert lf.certify(f, less).rate < 4.0


def test_what_is_not_seen_of_a_product_is_left_out():
    f = lf.LinearRegression(np.diag([1.0, 1.0, 0.0]), np.ones((3, 2)))
    found = lf.design(f, (3, 2, 2), rate=1.0, product=np.ones((3, 2)), rng=0)
    assert found.notes == ("the part of the product that the objective does not see was left out",)
    np.testing.assert_allclose(found.start.product(), [[1, 1], [1, 1], [0, 0]], atol=1e-12)  # rounding


def test_extreme_rates():
    f = lf.MatrixFactorization(np.eye(2))
    for rate in (1e-30, 1e30):
        assert rate <= lf.design(f, (2, 3, 2, 2), rate=rate, rng=0).rate <= rate * (1 + 1e-9)  # rounding


# --------------------------------------------------------------------------- steps of descent


def certified(f, net):
    """Certified steps from a start that was not made for it."""
    return lf.certify(f, net, algorithm="descent").steps_to(1e-6)


@pytest.mark.parametrize(
    ("kind", "widths"),
    [
        ("regression", (4, 6, 3)),
        ("deficient", (3, 4, 5)),
        pytest.param("regression", (2, 3, 3, 2), marks=pytest.mark.slow),
        ("factorization", (2, 9, 3)),
    ],
)
def test_designed_descents_are_the_fewest_and_kept(kind, widths, rng):
    f = objective_of(kind, widths[0], widths[-1], rng)
    found = lf.design(f, widths, algorithm="descent", rng=0)
    assert found.steps == lf.certify(f, found.start, algorithm="descent", step_size=found.step_size).steps_to(1e-6)
    seen = f.effective(found.start)[0]
    factor = 1 - seen.pl_constant / (2 * seen.smoothness)
    least = math.ceil(math.log(1e-6) / math.log(factor)) if factor > 0 else 1
    assert found.least_steps == least <= found.steps <= 1.01 * least
    run = lf.gradient_descent(f, found.start, step_size=found.step_size, steps=found.steps)
    assert run.gap[-1] <= 1e-6 * run.gap[0]
    assert found.certificate.check(run).holds
    assert found.confirm().holds
    others = [lf.init.ntk(widths, rng=rng), lf.init.balanced(widths, 0.9 * f.minimizer, rng=rng)]
    if len(widths) == 3:
        others += [
            lf.init.gaussian(widths, 1 / math.sqrt(max(widths)), rng=rng),
            lf.init.fan_out(widths, rng=rng),
            lf.init.imbalanced(widths, 3.0, np.zeros((widths[0], widths[-1])), rng=rng)
            if widths[0] <= widths[-1]
            else lf.init.orthogonal(widths, 3.0, rng=rng),
        ]
    assert all(found.steps <= certified(f, net) for net in others)


@given(networks(layers=st.integers(1, 3), side=st.integers(1, 3)), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_no_start_has_fewer_certified_steps(net, seed):
    """A certified step takes at most γ/(2K) of the gap, from any start."""
    f = objective_of("regression", *net.shape, np.random.default_rng(seed))
    if f.gap(net.product()) > 0:
        factor = 1 - f.pl_constant / (2 * f.smoothness)
        least = math.log(1e-6) / math.log(factor) if factor > 1e-12 else 1.0
        # the certified factor is raised by 1e-9 of its distance from 1, and logarithms round
        assert certified(f, net) >= math.floor(least * (1 - 1e-8))


def test_steps_asked_for_are_had_with_the_least_imbalance(rng):
    f = lf.LinearRegression(rng.standard_normal((12, 4)), rng.standard_normal((12, 3)))
    few, many = (lf.design(f, (4, 6, 3), algorithm="descent", steps=n, rng=0) for n in (150, 1500))
    assert few.steps <= 150 and 1300 <= many.steps <= 1500  # λ to 5 %, and η not always the best
    assert many.imbalance < few.imbalance / 4
    assert few.confirm().holds and many.confirm(1e-3).holds
    less = lf.init.imbalanced((4, 6, 3), -0.85 * many.imbalance, np.zeros((4, 3)), rng=0)
    assert certified(f, less) > 1500
    loose = lf.design(f, (4, 6, 3), algorithm="descent", steps=150, until=1e-3, rng=0)
    assert loose.imbalance < few.imbalance and loose.steps <= 150


def test_descents_from_a_given_product(rng):
    f = lf.MatrixFactorization(orthogonal(2, rng))
    found = lf.design(f, (2, 3, 2), algorithm="descent", steps=40, product=0.8 * f.minimizer, rng=0)
    assert found.steps <= 40 and found.confirm().holds
    np.testing.assert_allclose(found.start.product(), 0.8 * f.minimizer, atol=1e-12)  # rounding
    done = lf.design(f, (2, 3, 2), algorithm="descent", product=f.minimizer, rng=0)
    assert done.steps in (0, 1)  # the gap is 0, or rounding


def test_a_descent_without_a_minimiser():
    """A declared γ alone: the balls around the start carry the certificate."""
    Y = np.array([[1.0, 0.5], [0.2, 0.8]])
    f = lf.Objective(
        lambda W: 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y, shape=(2, 2), smoothness=1.0, pl_constant=2.0,
        minimum=0.0,
    )  # fmt: skip
    found = lf.design(f, (2, 3, 2), algorithm="descent", steps=20, rng=0)
    assert found.steps <= 20 and found.confirm().holds


# --------------------------------------------------------------------------- what cannot be had, and forms


def test_what_cannot_be_had_says_why(rng):
    f = lf.MatrixFactorization(np.ones((4, 3)))
    X, y = rng.standard_normal((12, 4)), rng.standard_normal((12, 3))
    cases = [
        ({"widths": (4, 2, 3), "rate": 1.0}, "h_1 = 2 is below min.n, m. = 3.*Widen that layer to at least 3"),
        ({"widths": (4, 3), "rate": 1.0}, "one layer has no imbalance"),
        ({"widths": (4, 5, 3)}, "rate is needed"),
        ({"widths": (4, 5, 3), "rate": -1.0}, "rate is -1.0; a positive number"),
        ({"widths": (4, 5, 3), "rate": 1.0, "steps": 5}, "the flow takes no steps"),
        ({"widths": (4, 5, 3), "rate": 1.0, "algorithm": "descent"}, "give steps= instead"),
        ({"widths": (3, 5, 4), "rate": 1.0}, "the widths must begin with 4"),
        ({"widths": (4, 5, 3), "rate": 1.0, "algorithm": "newton"}, "algorithm is 'newton'"),
        ({"widths": (4, 5, 3), "rate": 1.0, "product": np.eye(2)}, "product is 2×2; 4×3 is needed"),
    ]
    for arguments, words in cases:
        with pytest.raises(ValueError, match=words):
            lf.design(f, **arguments)
    g = lf.LinearRegression(X, y)
    with pytest.raises(ValueError, match=r"steps is 3, but a certified step takes at most γ/\(2K\).*Ask for \d+"):
        lf.design(g, (4, 5, 3), algorithm="descent", steps=3)
    tail = lf.ExponentialLoss(np.array([[1.0, 0.2], [-1.0, 0.3]]), np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"no gradient dominance.*more slowly than any exponential"):
        lf.design(tail, (2, 3, 1), rate=1.0)
    rough = lf.Objective(
        lambda W: float((W**2).sum()), lambda W: 2 * W, shape=(2, 2), strong_convexity=2.0, minimizer=np.zeros((2, 2))
    )
    with pytest.raises(ValueError, match="declare smoothness="):
        lf.design(rough, (2, 2, 2), algorithm="descent")


def test_a_narrow_layer_leaves_no_rate(rng):
    """The reason of the error above: T is singular."""
    for widths in ((4, 2, 3), (4, 5, 2, 3), (3, 1, 6, 4)):
        T = algebra.tangent_dense(lf.init.gaussian(widths, rng=rng).weights)
        assert np.linalg.eigvalsh(T)[0] < 1e-12 * np.linalg.eigvalsh(T)[-1]  # rounding


def test_the_array_kind_of_the_objective_is_kept(xp):
    f = lf.MatrixFactorization(xp.asarray([[1.0, 0.0], [0.0, 2.0]], dtype=xp.float64))
    found = lf.design(f, (2, 3, 2), rate=2.0, rng=0)
    assert type(found.start.weights[0]) is type(f.minimizer)
    assert found.confirm(1e-3).holds


def test_designs_print_and_serialise():
    f = lf.MatrixFactorization(np.ones((3, 2)))
    flow = lf.design(f, (3, 4, 2), rate=4.0, rng=0)
    descent = lf.design(f, (3, 4, 2), algorithm="descent", steps=30, rng=0)
    assert flow.steps is None and flow.step_size is None and flow.least_steps is None
    assert repr(flow) == "Design(Network(3×4×2, numpy), λ=2, rate=4)"
    assert "−λ" in str(flow) and "envelope" in str(flow)
    assert json.loads(json.dumps(descent.to_dict()))["steps"] == descent.steps <= 30
    assert json.loads(json.dumps(flow.to_dict()))["steps"] is None
