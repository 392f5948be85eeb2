"""Networks, imbalances and the operator T against sums over indices, written out anew.

Both sides are a few products of small matrices: they agree to a few roundings (1e-12).
"""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow.geometry import extreme_eigenvalues as _iterative
from linflow.geometry import imbalance, operator
from linflow.model import network, scalar_chain, spectrum

SAME = 1e-12


def near(x, rel=1e-6, abs=0.0):
    """A relative comparison alone: what is small must be right as well."""
    return pytest.approx(x, rel=rel, abs=abs)


SHAPES = [((2, 3),), ((2, 3), (3, 4)), ((4, 3), (3, 2)), ((2, 3), (3, 4), (4, 2)), ((3, 2), (2, 4), (4, 3), (3, 2))]


def draw(rng, shapes, scale=0.7):
    return lf.Network([rng.standard_normal(s) for s in shapes], scale)


def times(factors, side):
    """The product of matrices, the identity for none."""
    found = np.eye(side)
    for W in factors:
        found = np.einsum("ij,jk->ik", found, W)
    return found


def literal(net):
    """`c² Σ_l (P_{l−1}P_{l−1}ᵀ) ⊗ (S_{l+1}ᵀS_{l+1})`, entry by entry."""
    n, m = net.shape
    terms = []
    for l in range(net.depth):
        P, S = times(net.weights[:l], n), times(net.weights[l + 1 :], net.weights[l].shape[1])
        terms.append(net.scale**2 * np.einsum("ia,ja,bk,bl->ikjl", P, P, S, S).reshape(n * m, n * m))
    return terms


@pytest.mark.parametrize("shapes", SHAPES)
def test_a_network_is_the_product_of_its_layers(rng, shapes):
    net = draw(rng, shapes)
    n, m = shapes[0][0], shapes[-1][1]
    np.testing.assert_allclose(net.product(), 0.7 * times(net.weights, n), rtol=SAME, atol=1e-13)
    assert net.widths == (*(s[0] for s in shapes), m) and net.shape == (n, m) and net.depth == len(shapes)
    assert net.sizes == near([math.sqrt(np.sum(W**2)) for W in net.weights], rel=SAME)
    assert net.magnitude() == near(0.7 * math.prod(net.sizes), rel=SAME)
    for l, (P, S) in enumerate(zip(net.prefixes(), net.suffixes(), strict=True)):
        assert (P is None) == (l == 0) and (S is None) == (l == net.depth - 1)
        if l:
            np.testing.assert_allclose(P, times(net.weights[:l], n), rtol=SAME, atol=1e-13)
        if l < net.depth - 1:
            np.testing.assert_allclose(S, times(net.weights[l + 1 :], net.widths[l + 1]), rtol=SAME, atol=1e-13)
    G = rng.standard_normal((n, m))
    for l, found in enumerate(net.gradient(G)):
        P, S = times(net.weights[:l], n), times(net.weights[l + 1 :], net.widths[l + 1])
        np.testing.assert_allclose(found, 0.7 * P.T @ G @ S.T, rtol=SAME, atol=1e-12)
    assert net.overparametrized == (min(net.widths) >= min(n, m))
    other = net.with_weights([2 * W for W in net.weights])
    assert other.scale == 0.7 and other.sizes[0] == near(2 * net.sizes[0], rel=SAME)
    assert net.restricted(other.weights).sizes == net.sizes


def test_a_narrow_layer_is_not_overparametrized(rng):
    assert not draw(rng, ((3, 2), (2, 3))).overparametrized and draw(rng, ((2, 2), (2, 3))).overparametrized
    assert draw(rng, ((3, 2), (2, 2))).overparametrized


def test_products_start_at_the_narrower_end(monkeypatch):
    order = []

    class Noted(np.ndarray):
        def __matmul__(self, other):
            order.append((self.shape, other.shape))
            return np.asarray(self).dot(np.asarray(other)).view(Noted)

    def of(*shapes):
        order.clear()
        network.multiply([np.ones(s).view(Noted) for s in shapes])
        return order[0]

    assert of((1, 3), (3, 3), (3, 2)) == ((1, 3), (3, 3))
    assert of((2, 3), (3, 3), (3, 2)) == ((2, 3), (3, 3))
    assert of((3, 3), (3, 3), (3, 2)) == ((3, 3), (3, 2))


@pytest.mark.parametrize(
    ("sizes", "scale", "fits"),
    [
        ((1e75, 1e74), 1.0, True),
        ((1e76, 1e75), 1.0, False),
        ((1e151, 1e-140), 1.0, False),  # a term of T leaves out the small one
        ((1e149, 1e-140), 1.0, True),
        ((1e75, 1e70), 1e6, False),
        ((1e75, 1e70), 1e4, True),
        ((1e-200, 1e-200), 0.9e150, True),
        ((1e-200, 1e-200), 1.1e150, False),
        ((0.0, 1e149), 1.0, True),
    ],
)
def test_weights_whose_squares_leave_float64_are_refused(sizes, scale, fits):
    weights = [np.full((1, 1), size) for size in sizes]
    if fits:
        lf.Network(weights, scale)
    else:
        with pytest.raises(ValueError, match="too large"):
            lf.Network(weights, scale)


# --- imbalance -----------------------------------------------------------------------------------------------------


class Module:
    def named_modules(self):
        return []


def test_what_is_no_list_of_matrices_is_told_what_it_is():
    W = np.ones((1, 1))
    for model in (Module(), [Module(), Module()], [Module(), W], (W, Module())):
        with pytest.raises(TypeError, match=r"linflow\.torch\.network\(model\) is its network"):
            lf.Network(model)
    for other in (lf.Network([W]), "ab", W, 3):
        with pytest.raises(TypeError, match="a list of matrices"):
            lf.Network(other)
    with pytest.raises(ValueError, match="W_2"):
        lf.Network([W, np.array([[math.nan]])])
    with pytest.raises(ValueError, match="W_1 is 1×1 but W_2 is 2×1: the columns of W_1 must equal the rows of W_2"):
        lf.Network([W, np.ones((2, 1))])
    lf.Network([[[1e150]]])
    with pytest.raises(ValueError, match="past float64"):
        lf.Network([[[1.001e150]]])


def test_a_network_is_detached_where_a_layer_has_a_graph(monkeypatch):
    W, V = np.ones((1, 1)), np.ones((1, 1), dtype=np.float32)
    net = lf.Network([W, V])
    assert net.notes and net.detach() is net
    for layer in net.weights:
        monkeypatch.setattr(network, "detach", lambda A, layer=layer: A + 1.0 if A is layer else A)
        other = net.detach()
        assert other is not net and other.notes == net.notes
        assert [float(A[0, 0]) for A in other.weights] == [2.0 if A is layer else 1.0 for A in net.weights]


def test_imbalances_are_the_differences_of_grams(rng):
    for shapes in SHAPES[1:]:
        net = draw(rng, shapes)
        found = lf.imbalance_matrices(net)
        for l, (A, B) in enumerate(pairwise(net.weights), 1):
            D = np.einsum("ki,kj->ij", A, A) - np.einsum("ik,jk->ij", B, B)
            np.testing.assert_allclose(found[l - 1], D, rtol=SAME, atol=1e-12)
            np.testing.assert_allclose(
                imbalance.imbalance_eigenvalues(net, l), np.linalg.eigvalsh(D)[::-1], rtol=SAME, atol=1e-12
            )
            other = draw(rng, shapes)
            spectrum = lf.imbalance_spectrum(net, l)
            v, (n, m) = np.linalg.eigvalsh(D)[::-1], net.shape

            def part(values, k):
                return max(values[k - 1], 0.0) if k <= len(values) else 0.0

            w = -v[::-1]
            assert spectrum.positive_spread == near(part(v, 1) - part(v, n), rel=SAME, abs=1e-12)
            assert spectrum.negative_spread == near(part(w, 1) - part(w, m), rel=SAME, abs=1e-12)
            assert spectrum.spectral_gap == near(part(v, n) + part(w, m), rel=SAME, abs=1e-12)
        change = max(np.linalg.norm(a - b) for a, b in zip(found, lf.imbalance_matrices(other), strict=True))
        assert lf.imbalance_drift(net, other) == near(change, rel=SAME)
        for layer in (0, net.depth):
            with pytest.raises((ValueError, TypeError)):
                imbalance.imbalance_eigenvalues(net, layer)


def test_a_drift_below_1_is_its_size():
    start = [np.array([[1.0]]), np.array([[1.0]]), np.array([[1.0]])]
    now = [np.array([[1.1]]), np.array([[1.0]]), np.array([[1.2]])]
    assert lf.imbalance_drift(now, start) == near(0.44, rel=SAME) and lf.imbalance_drift(start, start) == 0.0


def test_sums_of_grams_have_their_factors_and_their_side(rng):
    A, B = rng.standard_normal((3, 3)), rng.standard_normal((7, 2))
    assert np.array_equal(spectrum.signed_gram([(2.0, A)]), 2.0 * (A @ A.T))  # not smaller by another way
    small = spectrum.signed_gram([(0.25, B), (-3.0, B[:, :1])])
    assert small.shape == (3, 3)
    found, whole = np.linalg.eigvalsh(small), np.linalg.eigvalsh(0.25 * B @ B.T - 3.0 * np.outer(B[:, 0], B[:, 0]))
    np.testing.assert_allclose(found[[0, -1]], whole[[0, -1]], rtol=1e-12)


def test_no_number_of_a_spectrum_is_a_negative_zero():
    for values in ([1.0, -1.0], [-0.0, 0.0], [0.0, -0.0], [-1.0, -1.0], [1.0, 1.0]):
        found = spectrum.ImbalanceSpectrum.of(np.array(values), 2, 2)
        for x in (found.spectral_gap, found.positive_spread, found.negative_spread):
            assert math.copysign(1.0, x) == 1.0, values


def test_wide_imbalances_come_from_a_small_matrix(rng):
    for h in (4, 5, 6, 9):
        A, B = rng.standard_normal((2, h)), rng.standard_normal((h, 3))
        found = imbalance.imbalance_eigenvalues([A, B])
        np.testing.assert_allclose(found, np.linalg.eigvalsh(A.T @ A - B @ B.T)[::-1], atol=1e-12)
        other = [rng.standard_normal((2, h)), rng.standard_normal((h, 3))]
        change = np.linalg.norm(A.T @ A - B @ B.T - other[0].T @ other[0] + other[1] @ other[1].T)
        assert lf.imbalance_drift([A, B], other) == near(change, rel=SAME)
        assert np.count_nonzero(found == 0.0) == max(h - 5, 0)


# --- the operator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", SHAPES)
def test_the_operator_is_its_sum_of_terms(rng, shapes):
    net = draw(rng, shapes)
    T, whole = lf.TangentOperator(net), sum(literal(net))
    n, m = net.shape
    np.testing.assert_allclose(T.dense(), whole, rtol=SAME, atol=1e-12)
    E = rng.standard_normal((2, n, m))
    np.testing.assert_allclose(T.apply(E).reshape(2, -1), E.reshape(2, -1) @ whole, rtol=SAME, atol=1e-11)
    values = np.linalg.eigvalsh(whole)
    assert float(T.least_eigenvalue()) == near(values[0], rel=1e-10, abs=1e-12 * values[-1])
    assert float(T.greatest_eigenvalue()) == near(values[-1], rel=SAME)


@pytest.mark.parametrize("shapes", SHAPES[1:])
def test_terms_of_layers_that_are_not_trained_are_left_out(rng, shapes):
    net = draw(rng, shapes)
    terms = literal(net)
    for kept in np.ndindex(*[2] * net.depth):
        trained = [bool(k) for k in kept]
        if not any(trained):
            with pytest.raises(ValueError, match="no layer is trained"):
                lf.TangentOperator(net, trained)
            continue
        T = lf.TangentOperator(net, trained)
        whole = sum(term for term, keep in zip(terms, trained, strict=True) if keep)
        np.testing.assert_allclose(T.dense(), whole, rtol=SAME, atol=1e-12)
        values = np.linalg.eigvalsh(whole)
        assert float(T.eigenvalue("least").value) == near(values[0], abs=1e-11 * values[-1])
        assert float(T.eigenvalue("greatest").value) == near(values[-1], rel=1e-11)
    for bad in ([True], [1] * net.depth, [True] * (net.depth + 1)):
        with pytest.raises(ValueError, match="True or False"):
            lf.TangentOperator(net, bad)


def test_a_term_that_is_missing_is_a_zero_of_its_side(rng):
    net = draw(rng, ((2, 3), (3, 4)))
    for trained, shapes in (([True, False], ((2, 2), (4, 4))), ([False, True], ((2, 2), (4, 4)))):
        outer = lf.TangentOperator(net, trained)._outer
        assert tuple(A.shape for A in outer) == shapes and [bool(A.any()) for A in outer] == trained[::-1]
    with pytest.raises(ValueError, match="True or False for each of the 2 layers"):
        lf.TangentOperator(net, [True, "no"])


def test_errors_of_eigenvalues_are_their_rounding(monkeypatch, rng):
    monkeypatch.setattr(operator, "EPS", 2.0**-10)
    one = lf.TangentOperator(draw(rng, SHAPES[0])).eigenvalue("least")
    assert (float(one.value), one.error, one.iterations) == (near(0.49), 0.0, 0)
    for shapes, order in ((SHAPES[1], 2 + 4), (SHAPES[2], 4 + 2), (SHAPES[3], 4)):
        net = draw(rng, shapes)
        top = np.linalg.eigvalsh(sum(literal(net)))[-1]
        for which in ("least", "greatest"):
            found = lf.TangentOperator(net).eigenvalue(which)
            assert found.iterations == 0
            assert found.error == near(4 * 2.0**-10 * math.sqrt(order) * top, rel=SAME)
    with pytest.raises(ValueError, match="which"):
        lf.TangentOperator(net).eigenvalue("other")


def test_what_is_computed_from_weights_is_rounded_at_their_size(monkeypatch, rng):
    monkeypatch.setattr(operator, "EPS", 2.0**-10)
    for shapes in (((2, 7), (7, 3), (3, 2)), ((3, 4), (4, 5)), ((4, 2), (2, 2), (2, 3), (3, 4))):
        net = draw(rng, shapes)
        L, (n, m) = net.depth, net.shape
        sizes = [np.linalg.norm(W) for W in net.weights]
        terms = sum(math.prod(sizes[k] for k in range(L) if k != l) ** 2 for l in range(L))
        side = max(n * m, *(W.shape[1] for W in net.weights))
        literal = 16 * 2.0**-10 * L * math.sqrt(side) * 0.49 * terms
        assert operator.tangent_rounding(net) == near(literal, rel=SAME)
    assert operator.tangent_rounding(draw(rng, SHAPES[0])) == 0.0
    assert (operator.DENSE_LIMIT, operator.UNCONVERGED) == (900, 1e-7)


def test_large_operators_are_iterated_in_the_eigenbases_of_the_outer_terms(monkeypatch, rng):
    net = draw(rng, ((6, 7), (7, 8), (8, 7)), 0.3)
    whole = sum(literal(net))
    values = np.linalg.eigvalsh(whole)
    monkeypatch.setattr(operator, "DENSE_LIMIT", 41)
    for which, value in (("least", values[0]), ("greatest", values[-1])):
        found = lf.TangentOperator(net).eigenvalue(which)
        assert found.iterations > 0 and float(found.value) == near(value, rel=1e-6)
        assert abs(float(found.value) - value) <= found.error + 1e-12 * values[-1]
        assert found.error <= 0.09 * _iterative.TOLERANCE / 0.09 * values[-1] * 1.01
    monkeypatch.setattr(operator, "DENSE_LIMIT", 42)
    assert lf.TangentOperator(net).eigenvalue("least").iterations == 0
    # A value that was not found is refused, by its error against the outer terms.
    monkeypatch.setattr(operator, "DENSE_LIMIT", 1)
    P, S = net.weights[0] @ net.weights[1], net.weights[1] @ net.weights[2]
    size = np.linalg.norm(P @ P.T) / math.sqrt(6) + np.linalg.norm(S.T @ S) / math.sqrt(7)
    for part, fine in ((0.99, True), (1.01, False)):
        monkeypatch.setattr(operator, "extreme", lambda *a, part=part, **k: (1.0, part * 1e-7 * size, 5))
        if fine:
            assert float(lf.TangentOperator(net).least_eigenvalue()) == near(0.09)
        else:
            with pytest.raises(RuntimeError, match="was not found"):
                lf.TangentOperator(net).least_eigenvalue()
    middle = lf.TangentOperator(net, [False, True, False])
    A, B = net.weights[0] @ net.weights[0].T, net.weights[2].T @ net.weights[2]
    size = np.linalg.norm(A) * np.linalg.norm(B) / math.sqrt(42)
    for part, fine in ((0.99, True), (1.01, False)):
        monkeypatch.setattr(operator, "extreme", lambda *a, part=part, **k: (1.0, part * 1e-7 * size, 5))
        if fine:
            middle.least_eigenvalue()
        else:
            with pytest.raises(RuntimeError, match="was not found"):
                middle.least_eigenvalue()


def test_the_iteration_is_quick_where_the_outer_terms_say_most(rng):
    left, right = np.diag(np.geomspace(1e-3, 1e3, 20)), np.diag(np.geomspace(2e-3, 1e3, 22))
    G, H = 0.1 * rng.standard_normal((20, 3)), 0.1 * rng.standard_normal((22, 4))
    whole = np.kron(left, np.eye(22)) + np.kron(np.eye(20), right) + np.kron(G @ G.T, H @ H.T)
    found, residual, iterations = _iterative.extreme(left, right, [(G @ G.T, H @ H.T)], largest=False)
    # Unpreconditioned, or preconditioned the wrong way, it takes three times as many and does not end.
    assert iterations <= 40 and residual <= 1e-10 * 2001
    assert found == near(np.linalg.eigvalsh(whole)[0], rel=1e-5)


def test_the_iteration_gives_value_and_residual_of_sums_of_one_and_two_sided_terms(rng):
    left, right = (G @ G.T for G in (rng.standard_normal((6, 9)), rng.standard_normal((8, 11))))
    between = [
        tuple(G @ G.T for G in (0.5 * rng.standard_normal((6, 3)), 0.5 * rng.standard_normal((8, 4))))
        for _ in range(2)
    ]
    whole = np.kron(left, np.eye(8)) + np.kron(np.eye(6), right) + sum(np.kron(A, B) for A, B in between)
    values = np.linalg.eigvalsh(whole)
    for largest, value in ((False, values[0]), (True, values[-1])):
        found, residual, iterations = _iterative.extreme(left, right, between, largest=largest)
        assert found == near(value, rel=1e-8) and residual <= 1e-9 * values[-1] and iterations >= 1


# --- scalar chains -------------------------------------------------------------------------------------------------


def test_offsets_of_a_chain_are_those_of_its_squares():
    for squares in ([3.0, 1.0, 2.5], [0.5, 2.0], [1.0], [2.0, 2.0, 2.0, 0.5]):
        d = [a - b for a, b in pairwise(squares)]
        assert scalar_chain.chain_offsets(d).tolist() == near([s - min(squares) for s in squares], rel=1e-15)


@pytest.mark.parametrize("c", [(0.0,), (0.0, 1.5), (0.0, 0.0, 2.0), (0.3, 0.0, 1.0, 1e-12), (0.0, 1e200, 1e-200)])
def test_roots_of_a_chain_are_right_to_rounding_at_any_size(c):
    found = scalar_chain.chain_log_root(np.array(c), np.array([1e-300, 1e-20, -0.5, 3.0, 1e100]))
    for s, w in zip(found, (1e-300, 1e-20, 0.5, 3.0, 1e100), strict=True):
        with mpmath.workdps(700):
            low, high = mpmath.mpf(-3000), mpmath.mpf(1000)
            for _ in range(80):  # to 1e-20 of the logarithm
                middle = (low + high) / 2
                above = mpmath.fprod(mpmath.exp(middle) + mpmath.mpf(x) for x in c) > mpmath.mpf(w) ** 2
                low, high = (low, middle) if above else (middle, high)
        assert float(s) == pytest.approx(float(high), rel=1e-15, abs=1e-15)
    root = scalar_chain.chain_root(np.array(c), np.array([0.0, 2.0, math.inf]))
    assert root[0] == 0.0 and root[2] == math.inf and float(np.prod(root[1] + np.array(c))) == near(4.0, rel=1e-13)


def test_roots_of_a_table_of_products_are_those_of_each():
    c, w = np.array([0.0, 0.5, 2.0]), np.array([[1e-3, 1.0, 0.0], [7.0, math.inf, 2.0]])
    found = scalar_chain.chain_log_root(c, w)
    for place in np.ndindex(2, 3):
        assert found[place] == scalar_chain.chain_log_root(c, w[place])
    assert found[0, 2] == -math.inf and found[1, 1] == math.inf


def test_the_slope_of_a_chain_is_its_sum_of_products():
    c, xs = np.array([0.0, 1.5, 0.25, 3.0]), np.array([0.0, 0.7, 20.0])
    for x, found in zip(xs, scalar_chain.chain_slope(c, xs), strict=True):
        assert found == near(sum(math.prod(x + np.delete(c, l)) for l in range(4)), rel=1e-14)
    assert scalar_chain.chain_slope(np.array([0.0]), 5.0) == 1.0


def test_the_numbers_of_a_spectrum_are_those_of_its_ends():
    for values, n, m, gap, up, down in (
        ([5.0, 0.5, -0.25, -3.0], 2, 1, 0.5 + 3.0, 4.5, 0.0),
        ([5.0, 0.5, -0.25, -3.0], 1, 2, 5.0 + 0.25, 0.0, 2.75),
        ([5.0, 0.5], 3, 1, 0.0, 5.0, 0.0),
        ([-1.0, -2.0], 1, 2, 1.0, 0.0, 1.0),
        ([2.0], 1, 1, 2.0, 0.0, 0.0),
    ):
        found = spectrum.ImbalanceSpectrum.of(np.array(values), n, m)
        assert (found.spectral_gap, found.positive_spread, found.negative_spread) == (gap, up, down)
        assert all(
            math.copysign(1.0, x) == 1.0 for x in (found.spectral_gap, found.positive_spread, found.negative_spread)
        )
    assert float(spectrum.positive_part(np.array([3.0, 0.5]), 2)) == 0.5
