"""Every bound stays below λ_min(T), is tight where the theorem says so, and agrees with its literal twin."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import linflow as lf
from linflow.bounds import THEOREMS
from linflow.bounds._base import Spectrum
from linflow.bounds.any_imbalance import prefix_floors
from linflow.bounds.operator_interval import THEOREM as OPERATOR_INTERVAL
from tests.random_networks import FAMILIES, draw_weights, networks
from tests.reference import algebra
from tests.reference import bounds as twin

sizes = st.floats(0, 100)


def truth(net):
    """λ_min(T) and the rounding it carries: the eigensolver's ε times λ_max(T)."""
    values = np.linalg.eigvalsh(algebra.tangent_dense(list(net.weights), net.scale))
    return max(values[0], 0.0), 1e-13 * values[-1] + 1e-300


def exact_imbalances(net):
    return [np.asarray(D) for D in lf.imbalance_matrices(net)]


@settings(max_examples=400)
@given(net=networks())
def test_no_bound_exceeds_the_least_eigenvalue(net):
    least, rounding = truth(net)
    for bound in lf.bounds.table(net):
        value = float(bound.value)
        assert 0 <= value <= least + rounding, bound.name
        assert bound.applies or (value == 0 and bound.reason), bound.name


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_bound_exceeds_the_least_eigenvalue_on_many(family):
    """Ten thousand networks in all, with a count of those where a bound says something."""
    rng = np.random.default_rng(FAMILIES.index(family))
    telling = 0
    for k in range(1_250):
        L = rng.integers(2, 6)
        n, m = rng.integers(1, 5, 2)
        widths = (n, *rng.integers(1 if k % 10 == 0 else min(n, m), 7, L - 1), m)
        net = lf.Network(draw_weights(tuple(int(h) for h in widths), family, int(rng.integers(2**63))))
        best = float(lf.bounds.best(net).value)
        least, rounding = truth(net)
        assert best <= least + rounding, (widths, k)
        telling += best > rounding
    assert telling > 600


@given(net=networks(layers=st.just(2)))
def test_two_layers_against_the_twin(net):
    n, m = net.shape
    D, W = exact_imbalances(net)[0], net.product() / net.scale
    args = (n, m, algebra.sigma(W, n), algebra.sigma(W, m))
    got = float(lf.bounds.two_layer(D, *args))
    size = np.abs(D).max() + algebra.spectral_norm(W) + 1e-300
    assert got / size == pytest.approx(twin.two_layer(D, *args) / size, abs=1e-13)


@given(net=networks(layers=st.just(3)))
def test_three_layers_against_the_twin(net):
    D1, D2 = exact_imbalances(net)
    size = (np.abs(D1).max() + np.abs(D2).max()) ** 2 + 1e-300
    got = float(lf.bounds.three_layer(D1, D2, *net.shape))
    # Δ* is quadratic in the eigenvalues and sums over the width.
    assert got / size == pytest.approx(twin.three_layer(D1, D2, *net.shape) / size, abs=1e-12)


@given(net=networks())
def test_any_imbalance_against_the_twin(net):
    Ds = exact_imbalances(net)
    size = max(np.abs(D).max() for D in Ds) ** (net.depth - 1) + 1e-300
    got = float(lf.bounds.deep(Ds, *net.shape))
    assert got / size == pytest.approx(twin.deep(Ds, *net.shape) / size, rel=1e-10, abs=1e-11)


@given(d=st.lists(st.floats(-50, 50), min_size=1, max_size=6), w=sizes)
def test_scalar_against_the_twin(d, w):
    assert lf.bounds.scalar_exact(d, w) == pytest.approx(twin.scalar_exact(d, w), rel=1e-8, abs=1e-12)
    assert lf.bounds.scalar(d, w) == pytest.approx(twin.scalar_closed(d, w), rel=1e-11, abs=1e-300)


@given(w=st.lists(st.floats(-5, 5), min_size=2, max_size=7))
def test_scalar_exact_is_the_eigenvalue(w):
    weights = [np.array([[x]]) for x in w]
    d = [a * a - b * b for a, b in itertools.pairwise(w)]
    least = float(lf.TangentOperator(weights).least_eigenvalue())
    # A bound below the normal numbers, 2.2e-308, becomes 0: in this unit that is a fifth of what is allowed.
    size = max(abs(x) for x in w) ** (2 * len(w) - 2) + 1e-295
    # Cancellation in d: offsets carry ε of the largest square, and α* the sum over L offsets of its slopes.
    assert lf.bounds.scalar_exact(d, math.prod(w)) / size == pytest.approx(least / size, abs=1e-12)


@given(d=st.lists(st.floats(-50, 50), min_size=1, max_size=6), w=sizes, more=st.floats(0, 10))
def test_scalar_bounds_are_ordered_and_increase_with_the_product(d, w, more):
    closed, exact = lf.bounds.scalar(d, w), lf.bounds.scalar_exact(d, w)
    assert closed <= exact * (1 + 1e-12) + 1e-300
    if len(d) == 1:
        assert closed == pytest.approx(exact, rel=1e-12, abs=1e-300)
    assert exact <= lf.bounds.scalar_exact(d, w + more) * (1 + 1e-12)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 4), m=st.integers(1, 4), spread=st.floats(0, 5))
def test_two_layers_attained_when_the_shapes_differ(seed, n, m, spread):
    """For n > m take W_1 = diag(a), W_2 = b e_1-like: weights that attain the bound."""
    assume(n != m)
    rng = np.random.default_rng(seed)
    k, big = min(n, m), max(n, m)
    # One mode per direction; the spare modes sit at the least eigenvalue and the top eigenvalue shares with σ_k.
    w, x = rng.uniform(0.1, 2), rng.uniform(0.0, 1)
    first = np.full(big, x + spread)
    first[k:] = x
    second = np.zeros(big)
    second[:k] = w
    W1, W2 = np.diag(np.sqrt(first + second)), np.diag(np.sqrt(second))[:, :k]
    weights = [W1, W2] if n > m else [W2.T, W1.T]
    net = lf.Network(weights)
    least, rounding = truth(net)
    value = float(lf.bounds.best(net).value)
    assert value <= least + rounding
    # Spare directions at x, product directions with w: λ_min(T) = λ(W_1W_1ᵀ) at the spare ones plus w.
    assert least == pytest.approx(min(x, x + spread + w) + w, rel=1e-12)
    assert value == pytest.approx(least, rel=1e-10, abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 4), L=st.integers(2, 5))
def test_homogeneous_is_exact_for_square_layers(seed, n, L):
    rng = np.random.default_rng(seed)
    d = rng.normal(0, 2, L - 1)
    net = lf.init.imbalanced((n,) * (L + 1), d, rng=rng)
    least, rounding = truth(net)
    value = lf.bounds.homogeneous(d, algebra.sigma(net.product(), n))
    # The chain root carries the rounding of σ_min, ε of the largest singular value.
    assert value == pytest.approx(least, rel=1e-7, abs=100 * rounding)
    assert value >= twin.homogeneous(d.tolist(), n, n, algebra.sigma(net.product(), n)) * (1 - 1e-9) or not _unimodal(
        d
    )


def _unimodal(d):
    return any((d[:p] >= 0).all() and (d[p:] <= 0).all() for p in range(len(d) + 1))


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (1, 3), (1, 1)])
@pytest.mark.parametrize("L", [2, 3, 5])
def test_balanced_is_exact(shape, L, rng):
    n, m = shape
    net = lf.init.balanced((n, *(6,) * (L - 1), m), rng=rng)
    least, rounding = truth(net)
    value = lf.bounds.balanced(L, n, m, algebra.sigma(net.product(), min(n, m)))
    assert value == pytest.approx(least, rel=1e-9, abs=rounding)


@given(net=networks())
def test_layer_norms_are_not_exceeded(net):
    Ds, norm = exact_imbalances(net), algebra.spectral_norm(net.product() / net.scale)
    caps = lf.bounds.norms(Ds, norm)
    sizes = [algebra.spectral_norm(W) ** 2 for W in net.weights]
    for cap, size in zip(caps, sizes, strict=True):
        assert size <= cap + 1e-9 * max(sizes)  # the root of a polynomial of degree L in numbers with ε errors
    for cap, loose in zip(caps, twin.norm_caps(Ds, norm), strict=True):
        assert cap <= loose + 1e-9 * max(sizes)  # never above the form with [λ_max(−D)]_+


@given(net=networks(hidden=st.integers(3, 7)))
@pytest.mark.parametrize("seed", [0])
def test_bounds_do_not_see_a_change_of_basis(net, seed):
    """Orthogonal U, V, Q_l: W_1 → U W_1 Q_1ᵀ, W_l → Q_{l−1} W_l Q_lᵀ, W_L → Q_{L−1} W_L V."""
    rng = np.random.default_rng(seed)
    Q = [np.linalg.qr(rng.standard_normal((h, h)))[0] for h in net.widths]
    turned = net.with_weights([A @ W @ B.T for A, W, B in zip(Q, net.weights, Q[1:], strict=False)])
    _same_table(net, turned)


@given(net=networks())
def test_bounds_do_not_see_the_order_of_the_layers(net):
    """Reversing the layers with a transpose turns D_l into −D_{L−l} and exchanges n and m."""
    _same_table(net, net.with_weights([W.T for W in reversed(net.weights)]))


def _same_table(one, other):
    size = float(lf.TangentOperator(one).greatest_eigenvalue()) + 1e-300
    for a, b in zip(lf.bounds.table(one), lf.bounds.table(other), strict=True):
        if a.applies and b.applies:  # hypotheses on equality may turn at rounding level
            # Root-like bounds may move by the square root of ε where the rank drops.
            near = pytest.approx(float(b.value) / size, rel=_searched(a), abs=1e-7)
            assert float(a.value) / size == near, a.name


def _searched(bound):
    """How far rounding can move a bound by leading its search elsewhere: 2.9 % at most in 4304 draws."""
    return 0.1 if bound.name == OPERATOR_INTERVAL.name else 0.0


@given(net=networks(), c=st.floats(0.1, 10))
def test_bounds_scale_like_t(net, c):
    scaled = lf.Network([c * W for W in net.weights], net.scale)
    for a, b in zip(lf.bounds.table(net), lf.bounds.table(scaled), strict=True):
        if a.applies and b.applies:
            factor = c ** (2 * net.depth - 2)
            size = float(lf.TangentOperator(net).greatest_eigenvalue()) + 1e-300
            near = pytest.approx(float(a.value) / size, rel=_searched(a), abs=1e-7)
            assert float(b.value) / factor / size == near, a.name


@given(net=networks(), low=st.floats(0, 1))
def test_bounds_increase_with_the_product(net, low):
    full = algebra.sigma(net.product(), min(net.shape))
    for a, b in zip(lf.bounds.table(net, low * full), lf.bounds.table(net, full), strict=True):
        assert float(a.value) <= float(b.value) * (1 + 1e-12 + _searched(a)) + 1e-300, a.name


def test_rounding_never_passes_for_imbalance(rng):
    """Balanced weights have D = 0; what is computed is rounding, and no bound may make a rate of it."""
    for widths in ((3, 20, 3), (5, 30, 30, 2), (4, 8, 8, 8, 4)):
        net = lf.init.balanced(widths, 0 * np.ones((widths[0], widths[-1])) + 1.0, rng=rng)  # rank one: σ_min = 0
        assert float(lf.bounds.best(net, 0.0).value) == 0


def test_balanced_only_to_rounding_is_granted_an_allowance():
    """Weights whose imbalance hides below the allowance: the balanced value alone lies above λ_min(T)."""
    h, b = 1000, 1e-3
    d = 0.95 * 16 * 2.0**-52 * h**0.5 * (1 + b * b)
    W1, W2 = np.zeros((3, h)), np.zeros((h, 2))
    W1[0, 0], W1[1, 1], W2[0, 0], W2[1, 1] = 1, math.sqrt(b * b + d), 1, b
    net = lf.Network([W1, W2])
    assert lf.bounds.balanced(2, 3, 2, algebra.sigma(net.product(), 2)) > b * b
    assert float(lf.bounds.best(net).value) <= b * b


@pytest.mark.parametrize("a", [(4.0, 3.0, 0.25), (2.0, 1.0, 0.5)])
def test_floors_are_not_closed_through_a_narrow_layer(a):
    """W_1 = diag(a_1, 1), W_2 = (a_2, 0)ᵀ, W_3 = a_3: u_1 closed through the 1×1 D_2 exceeds λ_2(W_1ᵀW_1)."""
    net = lf.Network([np.diag([a[0], 1.0]), np.array([[a[1]], [0.0]]), np.array([[a[2]]])])
    floors = prefix_floors([Spectrum(D, D) for D in map(_descending, exact_imbalances(net))], 2)
    for P, floor in zip(algebra.prefixes(list(net.weights)), floors, strict=False):
        assert float(floor) <= algebra.lam(P @ P.T, 2) + 1e-12
    assert float(lf.bounds.best(net).value) <= truth(net)[0]


def _descending(D):
    return np.linalg.eigvalsh(D)[::-1]


class TestErrata:
    """The printed forms fail on these weights; the forms used here hold."""

    W1, W2 = np.diag([2.0, 0.0]), np.array([[1.0], [0.0]])

    def test_sigma_n_and_sigma_m_exchanged(self):
        D = self.W1.T @ self.W1 - self.W2 @ self.W2.T
        least = float(lf.TangentOperator([self.W1, self.W2]).least_eigenvalue())
        assert least == 1
        assert twin.printed_two_layer_exchanged(D, 2, 1, 0.0, 2.0) == pytest.approx(2) and least < 2
        assert float(lf.bounds.two_layer(D, 2, 1, sigma_n=0.0, sigma_m=2.0)) == pytest.approx(least)

    def test_sigma_min_in_both_roots(self):
        D = self.W1.T @ self.W1 - self.W2 @ self.W2.T
        assert twin.printed_two_layer_least_sigma(D, 2, 1, 2.0) == pytest.approx(3)
        assert float(lf.bounds.two_layer(D, 2, 1, 0.0, 2.0)) == pytest.approx(1)

    def test_one_half_missing(self):
        D = np.array([[3.0]])
        least = float(lf.TangentOperator([np.array([[2.0]]), np.array([[1.0]])]).least_eigenvalue())
        assert twin.printed_two_layer_without_half(D, 1, 1, 2.0, 2.0) == pytest.approx(2 * least)
        assert float(lf.bounds.two_layer(D, 1, 1, 2.0, 2.0)) == pytest.approx(least)

    def test_balanced_with_factor_depth(self):
        net = lf.Network([np.array([[1.0], [0.0]]), np.array([[1.0]])])
        assert np.linalg.eigvalsh(lf.TangentOperator(net).dense()).tolist() == [1, 2]
        assert twin.printed_balanced(2, 1.0) == 2
        assert lf.bounds.balanced(2, 2, 1, 1.0) == 1
        assert float(lf.bounds.best(net).value) == pytest.approx(1)


class TestKnownCases:
    def test_square_two_layers_need_not_be_tight(self):
        """A 3×3 start where the bound lies far below the truth: a lower bound, not an equality."""
        net = lf.init.gaussian((3, 3, 3), rng=5)
        assert 0 < float(lf.bounds.best(net).value) < 0.9 * truth(net)[0]

    def test_steps_grow_factorially(self):
        for L in range(2, 8):
            d = [0.5] * (L - 1)
            assert lf.bounds.scalar(d, 0.0) == pytest.approx(0.5 ** (L - 1) * math.factorial(L - 1))

    def test_margin_zero_leaves_the_gap(self):
        D = np.diag([3.0, 2.0, -1.0])
        assert float(lf.bounds.two_layer(D, 2, 1, 0.0, 0.0)) == pytest.approx(3)

    def test_every_theorem_is_named_and_cited(self):
        for theorem in THEOREMS:
            assert theorem.name and theorem.source and theorem.citation
            assert theorem.tightness in ("exact", "tight", "lower")

    def test_one_layer_has_no_bound(self):
        with pytest.raises(ValueError, match="single layer"):
            lf.bounds.best([np.ones((2, 2))])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lf.bounds.two_layer(np.array([[0.0, 1.0], [0.0, 0.0]]), 1, 1, 0, 0), "not symmetric"),
        (lambda: lf.bounds.two_layer(np.eye(2), 2, 1, 1.0, 1.0), "σ_2 of a 2×1 matrix is 0"),
        (lambda: lf.bounds.two_layer(np.eye(2), 0, 1, 0.0, 0.0), "n is 0"),
        (lambda: lf.bounds.unimodal([np.diag([1.0, -1.0]), np.eye(2)], 2, 2), "not unimodal"),
        (lambda: lf.bounds.deep([np.array([np.nan])], 1, 1), "non-finite"),
        (lambda: lf.bounds.scalar([np.inf], 1.0), "finite"),
        (lambda: lf.bounds.norms([np.eye(2)], -1.0), "product_norm"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ---------------------------------------------------------------- range of float64


@pytest.mark.parametrize("widths", [(1, 1, 1), (1, 1, 1, 1, 1), (2, 3, 2), (2, 5, 1), (2, 2, 2, 2), (3, 4, 4, 2)])
@pytest.mark.parametrize("kind", ["gaussian", "balanced", "imbalanced"])
def test_no_size_changes_a_bound_but_by_the_power_it_stands_for(widths, kind, rng):
    """Layers times `2^e` have `4^{e(L−1)}` times the T: every theorem follows, in the whole range of float64."""
    L = len(widths) - 1
    if kind == "gaussian":
        net = lf.init.gaussian(widths, rng=rng)
    elif kind == "balanced":
        net = lf.init.balanced(widths, product=np.eye(widths[0], widths[-1]), rng=rng)
    else:
        net = lf.Network([W * 0.5**l for l, W in enumerate(lf.init.gaussian(widths, rng=rng).weights)])
    plain = lf.bounds.table(net)
    for exponent in (-1000, -500, -160, -40, 40, 160, 240, 490):
        e = exponent // max(L, 2)
        scaled = lf.bounds.table(lf.Network([W * 2.0**e for W in net.weights]))
        for before, after in zip(plain, scaled, strict=True):
            assert (after.applies, after.reason == "") == (before.applies, before.reason == "")
            expected, found = float(before.value), float(after.value)
            assert math.isfinite(found)
            if 2 * e * (L - 1) < -1000:
                assert found == 0.0  # nothing is claimed below the normal numbers
            elif 2 * e > -800:  # else squares lose digits, which is allowed for
                # to the rounding of logarithms up to 700, times the powers taken of them
                assert math.ldexp(found, -2 * e * (L - 1)) == pytest.approx(expected, rel=1e-11, abs=0.0)
            else:
                assert math.ldexp(found, -2 * e * (L - 1)) <= expected * (1 + 1e-11)


def test_bounds_of_numbers_hold_in_the_whole_range():
    """Every closed form at sizes whose powers leave float64, against the same one of size 1."""
    bounds = lf.bounds
    s = 2.0**600
    one, three = np.array([[1.0]]), np.diag([3.0, -3.0])
    exact = {"rel": 1e-13, "abs": 0.0}  # the values themselves leave no room for more than their rounding
    for t in (s, 1 / s):
        assert float(bounds.two_layer(t * three, 2, 1, 0.0, t)) == pytest.approx(
            t * float(bounds.two_layer(three, 2, 1, 0.0, 1.0)), **exact
        )
        assert float(bounds.two_layer_square(t * three, 2, 0.1 * t, 2.0 * t)) == pytest.approx(
            t * float(bounds.two_layer_square(three, 2, 0.1, 2.0)), **exact
        )
        assert bounds.scalar([3 * t], 2 * t) == pytest.approx(5 * t, **exact)
        assert bounds.scalar_exact([3 * t], 2 * t) == pytest.approx(5 * t, **exact)
        assert bounds.homogeneous([3 * t], 2 * t) == pytest.approx(5 * t, **exact)
        assert float(bounds.deep([3 * t * one], 1, 1)) == 3 * t
        assert float(bounds.unimodal([3 * t * one], 1, 1)) == 3 * t
    for t in (2.0**500, 2.0**-500):  # three layers: the bound is of the order t²
        Ds = [-2 * t * one, 3 * t * one]
        assert float(bounds.three_layer(*Ds, 1, 1)) == 3 * t * t
        assert float(bounds.deep(Ds, 1, 1)) == 3 * t * t
        assert bounds.scalar_exact([-2 * t, 3 * t], 0.0) == 3 * t * t
        assert bounds.norms([2 * t * one], 1.0)[0] > 0
    # What leaves float64 is the largest number or 0: both lie below it.
    huge, tiny = ([-2 * t * one, 3 * t * one] for t in (1e200, 1e-200))
    for found in (
        bounds.three_layer(*huge, 1, 1),
        bounds.deep(huge, 1, 1),
        bounds.scalar_exact([1e200, 1e200], 1.0),
    ):
        assert float(found) == np.finfo(float).max
    assert bounds.balanced(3, 1, 1, 1e290) == np.finfo(float).max
    for found in (
        bounds.three_layer(*tiny, 1, 1),
        bounds.deep(tiny, 1, 1),
        bounds.scalar_exact([1e-200, 1e-200], 0.0),
    ):
        assert float(found) == 0.0
    with pytest.raises(ValueError, match="close to the limits of float64"):
        bounds.deep([1e301 * one], 1, 1)


def test_the_best_bound_of_large_layers_is_a_number():
    found = lf.bounds.best([1e80 * np.diag([2.0, 1.0]), np.eye(2), np.eye(2)])
    assert 0 <= float(found.value) <= 1e160
    found = lf.bounds.best([1e80 * np.diag([2.0, 1.0]), np.eye(2)])
    assert float(found.value) == pytest.approx(1e160, rel=1e-12)


def test_every_bound_is_a_number_to_float():
    net = lf.Network([np.diag([2.0, 0.0]), np.array([[1.0], [0.0]])])
    (D,) = lf.imbalance_matrices(net)
    value = lf.bounds.two_layer(D, 2, 1, sigma_n=0.0, sigma_m=2.0)
    best, found = lf.bounds.best(net), lf.bounds.optimum(net, starts=2)
    assert float(best) == float(best.value) and float(found) == found.value
    # The bound is attained; allowances for rounding and the search are within 1e-9.
    assert float(value) == pytest.approx(float(best), rel=1e-9, abs=0) == pytest.approx(float(found), rel=1e-9, abs=0)
    assert [float(bound) for bound in lf.bounds.table(net)] == [float(bound.value) for bound in lf.bounds.table(net)]
