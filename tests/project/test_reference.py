"""The slow reference twins agree with each other and with the theorems they state.

Tolerances: an imbalance carries a rounding error of about 1e-16 · max‖W_l‖², hence a bound one of about
1e-16 · max‖W_l‖^{2(L−1)}; comparisons allow 1e-10 of that unit. Integrated flows run at rtol 1e-12 and are compared
to 1e-8.
"""

import itertools

import numpy as np
import pytest

from tests.reference import algebra, bounds, certificates, dynamics
from tests.reference.algebra import lam, sigma, spectral_norm

SLACK = 1e-10
SHAPES_2 = [(n, h, m) for n in range(1, 5) for m in range(1, 5) for h in (min(n, m), max(n, m), 6)]


def orthogonal(rng, size):
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def random_dims(rng, depth, least_width=None):
    """n, m in 1..4 and widths from min(n, m) to 6."""
    n, m = (int(v) for v in rng.integers(1, 5, 2))
    low = min(n, m) if least_width is None else least_width
    return [n, *(int(v) for v in rng.integers(low, 7, depth - 1)), m]


def random_weights(rng, dims, kind):
    shapes = list(itertools.pairwise(dims))
    scale = 10 ** rng.uniform(-3, 1)
    if kind == "gaussian":
        return [scale * rng.standard_normal(s) for s in shapes]
    if kind == "imbalanced":
        return [10 ** rng.uniform(-3, 1) * rng.standard_normal(s) for s in shapes]
    if kind == "integer":
        return [rng.integers(-2, 3, s).astype(float) for s in shapes]
    if kind == "rank one":
        return [scale * np.outer(rng.standard_normal(a), rng.standard_normal(b)) for a, b in shapes]
    if kind == "zero layer":
        weights = [scale * rng.standard_normal(s) for s in shapes]
        weights[int(rng.integers(len(weights)))] *= 0
        return weights
    if kind == "fan out":
        return [rng.standard_normal((a, b)) / np.sqrt(b) for a, b in shapes]
    if kind == "aligned":
        weights = []
        for a, b in shapes:
            W = np.zeros((a, b))
            k = min(a, b)
            W[range(k), range(k)] = rng.choice([0.0, 0.5, 1.0, 1.0, 2.0], k)
            weights.append(scale * W)
        return weights
    weights = balanced_weights(rng, dims, scale * np.sort(rng.uniform(0.2, 1, min(dims)))[::-1])
    if kind == "near balanced":
        noise = scale * 10 ** rng.uniform(-6, -1)
        weights = [W + noise * rng.standard_normal(W.shape) for W in weights]
    return weights


KINDS = [
    *("gaussian", "imbalanced", "integer", "rank one", "zero layer"),
    *("fan out", "aligned", "balanced", "near balanced"),
]


def balanced_weights(rng, dims, values, squares=None):
    """Layers with shared singular vectors; layer l has singular values `sqrt(values² + squares[l])`."""
    bases = [orthogonal(rng, d) for d in dims]
    weights = []
    for l in range(len(dims) - 1):
        W = np.zeros((dims[l], dims[l + 1]))
        extra = 0.0 if squares is None else squares[l]
        W[range(len(values)), range(len(values))] = np.sqrt(np.asarray(values) ** 2 + extra)
        weights.append(bases[l] @ W @ bases[l + 1].T)
    return weights


def unimodal_weights(rng, dims, turn):
    """`D_l ⪰ 0` before layer `turn` and `D_l ⪯ 0` from it on."""
    L = len(dims) - 1
    weights = [rng.standard_normal((dims[l], dims[l + 1])) for l in range(L)]

    def contraction(a, b):
        C = rng.standard_normal((a, b))
        return rng.choice([1.0, 0.7, 0.2]) * C / spectral_norm(C)

    for l in range(L - 2, turn - 1, -1):
        weights[l] = contraction(dims[l], dims[l + 2]) @ weights[l + 1].T
    for l in range(1, turn - 1):
        weights[l] = weights[l - 1].T @ contraction(dims[l - 1], dims[l + 1])
    i = turn - 1
    if i == 0:
        weights[0] = contraction(dims[0], dims[2]) @ weights[1].T
    elif i == L - 1:
        weights[i] = weights[i - 1].T @ contraction(dims[i - 1], dims[i + 1])
    else:
        size = max(spectral_norm(weights[i - 1]), spectral_norm(weights[i + 1]))
        C = contraction(dims[i - 1], dims[i + 2]) / size
        weights[i] = weights[i - 1].T @ C @ weights[i + 1].T
    return weights


def instances(seed, count, depths, least_width=None):
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        dims = random_dims(rng, int(rng.choice(depths)), least_width)
        yield random_weights(rng, dims, KINDS[index % len(KINDS)])


def unit(weights):
    """The size of `‖T‖`-like quantities, for rounding: `max‖W_l‖^{2(L−1)}`."""
    return max(spectral_norm(W) for W in weights) ** (2 * len(weights) - 2)


def safe_sigma(weights, k):
    """σ_k of the product, lowered by the rounding error of the product: a root of a rounding error is not small."""
    return max(0.0, sigma(algebra.product(weights), k) - 1e-13 * max(map(spectral_norm, weights)) ** len(weights))


# ---------------------------------------------------------------- algebra


def test_tangent_kronecker_numerical_and_apply_agree():
    for weights in instances(1, 120, [1, 2, 3, 4], least_width=1):
        scale = 0.7
        T = algebra.tangent_dense(weights, scale)
        size = scale**2 * unit(weights) * len(weights) * T.shape[0]
        np.testing.assert_allclose(algebra.tangent_numerical(weights, scale), T, rtol=0, atol=1e-13 * size)
        E = np.random.default_rng(0).standard_normal((weights[0].shape[0], weights[-1].shape[1]))
        applied = algebra.tangent_apply(E, weights, scale).reshape(-1)
        np.testing.assert_allclose(applied, T @ E.reshape(-1), rtol=0, atol=1e-12 * size)


def test_prefixes_and_suffixes_meet_in_the_product():
    for weights in instances(2, 30, [1, 2, 3, 4, 5], least_width=1):
        P, S = algebra.prefixes(weights), algebra.suffixes(weights)
        assert len(P) == len(S) == len(weights) + 1
        for p, s in zip(P, S, strict=True):
            np.testing.assert_allclose(p @ s, algebra.product(weights), atol=1e-12 * unit(weights) + 1e-12, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_gradients_are_the_derivative(depth, scale):
    rng = np.random.default_rng(depth)
    weights = [rng.standard_normal(s) for s in zip([2, 3, 4, 3][:depth], [*[3, 4, 3][: depth - 1], 2], strict=True)]
    Y = rng.standard_normal((2, 2))
    W = algebra.product(weights, scale)
    exact = algebra.layer_gradients(np.sinh(W - Y), weights, scale)
    numerical = algebra.layer_gradients_numerical(lambda V: float(np.cosh(V - Y).sum()), weights, scale)
    for a, b in zip(exact, numerical, strict=True):
        # central differences: error step² · third derivative, about 1e-10 relative
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(a).max())


def test_loss_falls_at_the_rate_of_the_tangent_operator():
    """`dL/dt = −‖∇L‖² = −⟨T∇f, ∇f⟩`, and `‖∇L‖² ≥ γ λ_min(T) ℓ`."""
    for weights in instances(3, 100, [1, 2, 3, 4], least_width=1):
        rng = np.random.default_rng(5)
        W = algebra.product(weights, 1.3)
        G = W - rng.standard_normal(W.shape)
        squared = sum(float((g**2).sum()) for g in algebra.layer_gradients(G, weights, 1.3))
        pairing = float((G * algebra.tangent_apply(G, weights, 1.3)).sum())
        assert squared == pytest.approx(pairing, rel=1e-10, abs=1e-12 * unit(weights))
        least = algebra.least_tangent_eigenvalue(weights, 1.3)
        assert squared >= 2 * least * 0.5 * (G**2).sum() - SLACK * unit(weights) * (G**2).sum()


def test_imbalance_moves_by_the_squared_step():
    """`D_l⁺ = D_l + η²(G_lᵀG_l − G_{l+1}G_{l+1}ᵀ)`."""
    for weights in instances(4, 60, [2, 3, 4], least_width=1):
        Y = np.ones((weights[0].shape[0], weights[-1].shape[1]))
        history = dynamics.descent(lambda W, Y=Y: W - Y, weights, [0.1])
        G = algebra.layer_gradients(algebra.product(weights) - Y, weights)
        size = max(spectral_norm(W) for W in [*history[0], *history[1]]) ** 2
        before, after = map(algebra.imbalance_matrices, history)
        for l, (D, D_next) in enumerate(zip(before, after, strict=True)):
            predicted = D + 0.01 * (G[l].T @ G[l] - G[l + 1] @ G[l + 1].T)
            np.testing.assert_allclose(D_next, predicted, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize(("n", "h", "m"), [*SHAPES_2, (4, 1, 4), (2, 1, 3)])
def test_two_layers_least_eigenvalue_is_a_sum(n, h, m):
    """`λ_min(T) = λ_n(W_1W_1ᵀ) + λ_m(W_2ᵀW_2)`."""
    rng = np.random.default_rng([n, h, m])
    for kind in KINDS:
        A, B = random_weights(rng, [n, h, m], kind)
        expected = lam(A @ A.T, n) + lam(B.T @ B, m)
        assert algebra.least_tangent_eigenvalue([A, B]) == pytest.approx(expected, abs=1e-12 * unit([A, B]))


# ---------------------------------------------------------------- bounds never exceed the truth


@pytest.mark.parametrize(("n", "h", "m"), SHAPES_2)
def test_two_layer_bound(n, h, m):
    for index in range(45):
        rng = np.random.default_rng([n, h, m, index])
        weights = random_weights(rng, [n, h, m], KINDS[index % len(KINDS)])
        (D,) = algebra.imbalance_matrices(weights)
        W = algebra.product(weights)
        alpha = bounds.two_layer(D, n, m, sigma(W, n), sigma(W, m))
        assert alpha <= algebra.least_tangent_eigenvalue(weights) + SLACK * unit(weights)
        plus, minus, gap = bounds.two_layer_terms(D, n, m)
        half = bounds.printed_two_layer_without_half(D, n, m, sigma(W, n), sigma(W, m)) / 2
        assert alpha == pytest.approx(half, rel=1e-9, abs=SLACK * unit(weights))
        assert min(plus, minus) >= -1e-15 * unit(weights)
        assert alpha >= gap - SLACK * unit(weights)


def test_two_layer_bound_with_drift_holds_for_every_near_imbalance():
    for weights in instances(6, 150, [2]):
        rng = np.random.default_rng(1)
        (D,) = algebra.imbalance_matrices(weights)
        n, m = weights[0].shape[0], weights[1].shape[1]
        W = algebra.product(weights)
        S = rng.standard_normal(D.shape)
        delta = 0.2 * spectral_norm(D)
        worst = bounds.two_layer(D, n, m, sigma(W, n), sigma(W, m), drift=delta)
        moved = D + delta * (S + S.T) / max(spectral_norm(S + S.T), 1e-300)
        assert worst <= bounds.two_layer(moved, n, m, sigma(W, n), sigma(W, m)) + SLACK * unit(weights)


def test_three_layer_bounds():
    positive = {"three_layer": 0, "product_aware": 0}
    for weights in instances(7, 700, [3]):
        D1, D2 = algebra.imbalance_matrices(weights)
        n, m = weights[0].shape[0], weights[2].shape[1]
        least, tol = algebra.least_tangent_eigenvalue(weights), SLACK * unit(weights)
        star = bounds.three_layer(D1, D2, n, m)
        norm = spectral_norm(algebra.product(weights)) * (1 + 1e-12) + 1e-13 * unit(weights) ** 0.75
        aware = bounds.product_aware_three_layer(D1, D2, n, m, safe_sigma(weights, n), safe_sigma(weights, m), norm)
        assert star <= least + tol
        assert aware <= least + 10 * tol
        assert bounds.deep([D1, D2], n, m) <= least + tol
        mirrored = bounds.three_layer(-D2, -D1, m, n)
        assert star == pytest.approx(mirrored, rel=1e-9, abs=tol)
        positive["three_layer"] += star > tol
        positive["product_aware"] += aware > tol
    assert positive["three_layer"] > 100  # the comparison is not vacuous
    assert positive["product_aware"] > 300


def test_three_layer_bound_with_drift_holds_for_every_near_imbalance():
    for weights in instances(8, 150, [3]):
        rng = np.random.default_rng(1)
        Ds = algebra.imbalance_matrices(weights)
        n, m = weights[0].shape[0], weights[2].shape[1]
        delta = 0.05 * max(map(spectral_norm, Ds))
        moved = []
        for D in Ds:
            S = rng.standard_normal(D.shape)
            moved.append(D + delta * (S + S.T) / max(spectral_norm(S + S.T), 1e-300))
        tol = SLACK * unit(weights)
        assert bounds.three_layer(*Ds, n, m, drift=delta) <= bounds.three_layer(*moved, n, m) + tol
        assert bounds.deep(Ds, n, m, drift=delta) <= bounds.deep(moved, n, m) + tol


def test_product_floors_and_ceilings_of_three_layers():
    for weights in instances(9, 400, [3], least_width=1):
        D1, D2 = algebra.imbalance_matrices(weights)
        W, P, S = algebra.product(weights), algebra.prefixes(weights), algebra.suffixes(weights)
        n, m = W.shape
        tol = 1e-10 * max(map(spectral_norm, weights)) ** 6
        last, first = sigma(weights[2], m) ** 2, sigma(weights[0], n) ** 2
        p, s = sigma(P[2], n) ** 2, sigma(S[1], m) ** 2
        assert sigma(W, m) ** 2 <= bounds.last_layer_ceiling(D1, D2, last) + tol
        assert sigma(W, n) ** 2 <= bounds.last_layer_ceiling(-D2, -D1, first) + tol
        assert sigma(W, n) ** 2 <= bounds.prefix_ceiling(D1, D2, p) + tol
        assert sigma(W, m) ** 2 <= bounds.prefix_ceiling(-D2, -D1, s) + tol
        low_n, low_m, one = safe_sigma(weights, n), safe_sigma(weights, m), max(map(spectral_norm, weights))
        assert bounds.last_layer_floor(D1, D2, low_m) <= last + 1e-9 * one**2
        assert bounds.first_layer_floor(D1, D2, low_n) <= first + 1e-9 * one**2
        assert bounds.prefix_floor(D1, D2, low_n) <= p + 1e-9 * one**4
        assert bounds.suffix_floor(D1, D2, low_m) <= s + 1e-9 * one**4


def test_product_aware_sum_tends_to_the_balanced_value():
    for n, m in [(2, 2), (3, 2), (2, 4)]:
        rng = np.random.default_rng([n, m])
        weights = balanced_weights(rng, [n, 4, 5, m], [1.3, 0.8])
        Ds = algebra.imbalance_matrices(weights)
        W = algebra.product(weights)
        aware = bounds.product_aware_three_layer(*Ds, n, m, sigma(W, n), sigma(W, m), spectral_norm(W))
        # D is rounding (1e-16); the floors then differ from the limit by about its square root at most
        assert aware == pytest.approx(bounds.balanced(3, n, m, sigma(W, 2)), rel=1e-6)


def test_deep_bound_and_its_floors_at_every_width():
    positive = 0
    for weights in instances(10, 500, [2, 3, 4, 5], least_width=1):
        Ds = algebra.imbalance_matrices(weights)
        n, m, one = weights[0].shape[0], weights[-1].shape[1], max(map(spectral_norm, weights))
        P, S = algebra.prefixes(weights), algebra.suffixes(weights)
        for l, floor in enumerate(bounds.layer_floors(Ds, n)):
            assert floor <= sigma(weights[l], n) ** 2 + SLACK * one**2
        for l, floor in enumerate(bounds.prefix_floors(Ds, n)):
            assert floor <= lam(P[l] @ P[l].T, n) + SLACK * one ** (2 * l)
        for l, floor in enumerate(bounds.suffix_floors(Ds, m), start=1):
            assert floor <= lam(S[l].T @ S[l], m) + SLACK * one ** (2 * (len(weights) - l))
        value = bounds.deep(Ds, n, m)
        assert value <= algebra.least_tangent_eigenvalue(weights) + SLACK * unit(weights)
        positive += value > SLACK * unit(weights)
    assert positive > 50


def test_layer_floors_do_not_pass_through_a_narrow_width():
    """`u_1 ≥ u_2 + λ_min(D_1)` and so on compare second eigenvalues: a width of 1 has none to pass on."""
    weights = [np.diag([2.0, 1.0]), np.array([[1.0], [0.0]]), np.array([[0.5]])]
    u = bounds.layer_floors(algebra.imbalance_matrices(weights), 2)
    assert u[0] <= 1.0  # closing through λ_min(D_2) = 3/4 would say 7/4 where λ_2(W_1ᵀW_1) = 1
    assert u[1:] == [0.0, 0.0]


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_unimodal_bound(depth):
    positive = 0
    for index in range(180):
        rng = np.random.default_rng([11, depth, index])
        turn = index % depth + 1
        dims = random_dims(rng, depth)
        if index % 3 == 0:
            dims[-1] = dims[0]
            dims[1:-1] = [max(d, dims[0]) for d in dims[1:-1]]
        weights = unimodal_weights(rng, dims, turn)
        Ds = algebra.imbalance_matrices(weights)
        assert turn in bounds.unimodal_turns(Ds, 1e-12 * unit(weights) + 1e-12)
        value = bounds.unimodal(Ds, dims[0], dims[-1], turn)
        assert value <= algebra.least_tangent_eigenvalue(weights) + SLACK * unit(weights)
        positive += value > SLACK * unit(weights)
        if depth == 3:
            assert value <= bounds.three_layer(*Ds, dims[0], dims[-1]) + SLACK * unit(weights)
    assert positive > 20


def test_norm_caps():
    for weights in instances(12, 400, [2, 3, 4, 5], least_width=1):
        Ds = algebra.imbalance_matrices(weights)
        one = max(map(spectral_norm, weights))
        norm = spectral_norm(algebra.product(weights))
        tol = SLACK * one ** (2 * len(weights))
        assert bounds.norm_inequality(Ds, spectral_norm(weights[-1]) ** 2) <= norm**2 + tol
        caps = bounds.norm_caps(Ds, norm + 1e-14 * one ** len(weights))
        wider = bounds.norm_caps(Ds, norm + 1e-14 * one ** len(weights), drift=0.1 * one**2)
        for W, cap, more in zip(weights, caps, wider, strict=True):
            assert spectral_norm(W) ** 2 <= cap + 1e-8 * one**2
            assert more >= cap


# ---------------------------------------------------------------- cases where a bound is the truth


def scalar_draw(rng):
    depth = int(rng.integers(2, 7))
    w = 10 ** rng.uniform(-3, 1, depth) * rng.choice([-1, 1], depth)
    if rng.random() < 0.3:
        w = rng.choice([0.0, 0.5, 1.0, 2.0], depth)
    return w, w[:-1] ** 2 - w[1:] ** 2


def test_scalar_value_is_exact_and_the_closed_form_below_it():
    for index in range(1000):
        w, d = scalar_draw(np.random.default_rng([13, index]))
        weights = [np.array([[v]]) for v in w]
        size = unit(weights)
        exact, closed = bounds.scalar_exact(d, np.prod(w)), bounds.scalar_closed(d, np.prod(w))
        assert exact == pytest.approx(algebra.least_tangent_eigenvalue(weights), rel=1e-9, abs=1e-10 * size)
        assert closed <= exact + SLACK * size
        assert bounds.scalar_exact(d, 0.9 * np.prod(w)) <= exact + SLACK * size  # increasing in |w|
        assert bounds.scalar_closed(d, 0.9 * np.prod(w)) <= closed + SLACK * size
        if len(w) == 2:
            assert closed == pytest.approx(exact, rel=1e-9, abs=SLACK * size)
            D = np.array([[d[0]]])
            two = bounds.two_layer(D, 1, 1, abs(np.prod(w)), abs(np.prod(w)))
            assert two == pytest.approx(exact, rel=1e-9, abs=SLACK * size)
        if len(w) == 3:
            assert bounds.three_layer(*(np.array([[x]]) for x in d), 1, 1) <= exact + SLACK * size


def test_scalar_steps_give_a_factorial():
    """Sorted squares at least ε apart: `α* ≥ ε^{L−1}(L−1)!`; all others λ above the least: `λ^{L−1}`."""
    for L in range(2, 7):
        assert bounds.scalar_closed([-0.5] * (L - 1), 0.0) == pytest.approx(0.5 ** (L - 1) * np.prod(range(1, L)))
        assert bounds.scalar_closed([-0.7] + [0.0] * (L - 2), 0.0) == pytest.approx(0.7 ** (L - 1))
    # neighbouring layers ε apart do not suffice: up and down again gives ε² at most
    assert bounds.scalar_exact([0.5, -0.5], 0.0) == pytest.approx(0.25)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 2), (3, 3), (2, 1), (1, 3), (3, 2), (2, 4)])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_balanced_value_is_exact(n, m, depth):
    for index in range(5):
        rng = np.random.default_rng([n, m, depth, index])
        k = min(n, m)
        widths = [int(v) for v in rng.integers(k, 6, depth - 1)]
        weights = balanced_weights(rng, [n, *widths, m], np.sort(rng.uniform(0.2, 2, k))[::-1])
        value = bounds.balanced(depth, n, m, sigma(algebra.product(weights), k))
        assert algebra.least_tangent_eigenvalue(weights) == pytest.approx(value, rel=1e-9, abs=0)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_homogeneous_value_is_exact_whatever_the_signs(depth):
    for index in range(40):
        rng = np.random.default_rng([14, depth, index])
        n = int(rng.integers(1, 5))
        squares = rng.choice([0.0, 0.3, 1.0, 2.0], depth)
        weights = balanced_weights(rng, [n] * (depth + 1), rng.uniform(0.05, 1.5, n), squares)
        d = squares[:-1] - squares[1:]
        for step, D in zip(d, algebra.imbalance_matrices(weights), strict=True):
            np.testing.assert_allclose(D, step * np.eye(n), atol=1e-12)
        least = algebra.least_tangent_eigenvalue(weights)
        s = sigma(algebra.product(weights), n)
        assert bounds.homogeneous_exact(d, n, n, s) == pytest.approx(least, rel=1e-8)
        assert bounds.homogeneous(d, n, n, s) <= least * (1 + 1e-10)
    with pytest.raises(ValueError, match="n = m"):
        bounds.homogeneous([1.0], 2, 1, 0.0)


@pytest.mark.parametrize(("n", "m"), [(3, 2), (4, 1), (2, 3)])
def test_two_layer_bound_is_attained(n, m):
    """Aligned layers whose least mode carries λ_1(D): the bound is λ_min(T)."""
    k, h = min(n, m), max(n, m)
    s = np.linspace(1.5, 0.4, k)
    d = np.linspace(0.5, 1.1, k) * (1 if n > m else -1)
    first = np.sqrt((d + np.sqrt(d**2 + 4 * s**2)) / 2)
    A, B = np.zeros((n, h)), np.zeros((h, m))
    A[range(k), range(k)], B[range(k), range(k)] = first, s / first
    if n > m:
        A[range(k, n), range(k, n)] = 0.6
    else:
        B[range(k, m), range(k, m)] = 0.6
    (D,) = algebra.imbalance_matrices([A, B])
    W = algebra.product([A, B])
    value = bounds.two_layer(D, n, m, sigma(W, n), sigma(W, m))
    assert value == pytest.approx(algebra.least_tangent_eigenvalue([A, B]), rel=1e-10)


# ---------------------------------------------------------------- forms as printed that fail


def test_printed_two_layer_forms_fail_where_the_correct_form_is_exact():
    weights = [np.diag([2.0, 0.0]), np.array([[1.0], [0.0]])]
    (D,) = algebra.imbalance_matrices(weights)
    W = algebra.product(weights)
    sn, sm = sigma(W, 2), sigma(W, 1)
    assert algebra.least_tangent_eigenvalue(weights) == pytest.approx(1.0)
    assert bounds.two_layer(D, 2, 1, sn, sm) == pytest.approx(1.0)
    assert bounds.printed_two_layer_exchanged(D, 2, 1, sn, sm) == pytest.approx(2.0)
    assert bounds.printed_two_layer_least_sigma(D, 2, 1, sigma(W, min(W.shape))) == pytest.approx(3.0)


def test_printed_form_without_the_half_is_twice_the_scalar_value():
    u, v = 1.7, 0.4
    weights = [np.array([[u]]), np.array([[v]])]
    (D,) = algebra.imbalance_matrices(weights)
    assert algebra.least_tangent_eigenvalue(weights) == pytest.approx(u * u + v * v)
    assert bounds.two_layer(D, 1, 1, u * v, u * v) == pytest.approx(u * u + v * v)
    assert bounds.printed_two_layer_without_half(D, 1, 1, u * v, u * v) == pytest.approx(2 * (u * u + v * v))


def test_printed_balanced_form_fails_for_rectangular_products():
    weights = [np.array([[1.0], [0.0]]), np.array([[1.0]])]
    assert algebra.imbalance_matrices(weights)[0] == 0
    np.testing.assert_allclose(np.linalg.eigvalsh(algebra.tangent_dense(weights)), [1, 2])
    assert bounds.balanced(2, 2, 1, 1.0) == 1
    assert bounds.printed_balanced(2, 1.0) == 2


# ---------------------------------------------------------------- flows


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_flow_conserves_the_imbalance_and_lowers_the_loss(depth):
    rng = np.random.default_rng(depth)
    dims = [3, *[4, 2, 5][: depth - 1], 2]
    weights = [0.7 * rng.standard_normal(s) for s in itertools.pairwise(dims)]
    Y = rng.standard_normal((3, 2))
    run = dynamics.flow(lambda W: W - Y, weights, [0, 0.1, 0.5, 2.0], scale=0.8)
    losses = [0.5 * np.sum((algebra.product(W, 0.8) - Y) ** 2) for W in run]
    assert all(b < a for a, b in itertools.pairwise(losses))
    np.testing.assert_array_equal(run[0][0], weights[0])
    for later in run:
        for D, E in zip(algebra.imbalance_matrices(weights), algebra.imbalance_matrices(later), strict=True):
            np.testing.assert_allclose(E, D, atol=1e-10)


def test_small_descent_steps_follow_the_flow():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((2, 3)), rng.standard_normal((3, 2))]
    Y = rng.standard_normal((2, 2))
    target = dynamics.flow(lambda W: W - Y, weights, [0.2])[0][0]
    errors = []
    for steps in (50, 100):
        reached = dynamics.descent(lambda W: W - Y, weights, [0.2 / steps] * steps)[-1][0]
        errors.append(np.abs(reached - target).max())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)  # first order


@pytest.mark.parametrize("s", [1.3, -0.6, 0.0])
@pytest.mark.parametrize(("u", "v"), [(1.5, 0.2), (0.1, -0.9), (-1.0, 0.5), (0.6, 0.6), (0.6, -0.6), (0.0, 0.8)])
def test_two_layer_scalar_solution(u, v, s):
    times = [0.0, 0.3, 1.0, 4.0]
    run = dynamics.flow(lambda W: W - s, [np.array([[u]]), np.array([[v]])], times)
    for t, (A, B) in zip(times, run, strict=True):
        assert dynamics.two_layer_scalar(u * u - v * v, s, u * v, t) == pytest.approx((A * B).item(), abs=1e-8)


def test_scalar_solution_ends_at_the_rate_of_the_tangent_operator():
    """The residual falls at `sqrt(4s² + d²) = λ_min(T)` at the minimum; the loss, its square, twice as fast."""
    d, s = 0.7, 0.9
    e = [abs(dynamics.two_layer_scalar(d, s, 0.1, t) - s) for t in (5.0, 6.0)]
    assert np.log(e[0] / e[1]) == pytest.approx(np.hypot(2 * s, d), rel=1e-3)


@pytest.mark.parametrize(
    ("n", "h", "m", "level"), [(2, 2, 2, 0.5), (3, 2, 2, 0.7), (2, 2, 3, -0.4), (3, 4, 3, 0), (1, 1, 3, 1.2)]
)
def test_lambda_balanced_solution(n, h, m, level):
    rng = np.random.default_rng([n, h, m])
    k = min(n, h, m)
    weights = balanced_weights(rng, [n, h, m], rng.uniform(0.1, 1, k), [max(level, 0), max(-level, 0)])
    Y = rng.standard_normal((n, m))
    times = [0.0, 0.2, 1.0, 3.0]
    for t, now in zip(times, dynamics.flow(lambda W: W - Y, weights, times), strict=True):
        exact = dynamics.lambda_balanced(Y, *weights, t)
        np.testing.assert_allclose(exact, algebra.product(now), atol=1e-8)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 2), (1, 3)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_balanced_end_to_end_flow(depth, n, m):
    rng = np.random.default_rng([depth, n, m])
    weights = balanced_weights(rng, [n, *[4] * (depth - 1), m], rng.uniform(0.6, 1.2, min(n, m)))
    if depth == 1:
        weights = [rng.standard_normal((n, m))]
    # a target near the start keeps the product of full rank, where the fractional powers are smooth
    W0 = algebra.product(weights)
    Y = 1.3 * W0 + 0.1 * rng.standard_normal((n, m))
    times = [0.0, 0.3, 1.0]
    full = dynamics.flow(lambda W: W - Y, weights, times)
    reduced = dynamics.balanced_end_to_end(lambda W: W - Y, W0, depth, times)
    for W, now in zip(reduced, full, strict=True):
        np.testing.assert_allclose(W, algebra.product(now), atol=1e-8)
    if depth == 1:
        for W, V in zip(dynamics.end_to_end(lambda W: W - Y, W0, times), reduced, strict=True):
            np.testing.assert_allclose(V, W, atol=1e-10)


# ---------------------------------------------------------------- certificates


def two_layer_alpha(D, W_star, mu):
    """α(y): the two-layer bound on all products with loss gap at most y."""
    n, m = W_star.shape

    def alpha(y, drift=0.0):
        sigma_n = certificates.margin_from_gap(W_star, y, mu, n)
        return bounds.two_layer(D, n, m, sigma_n, certificates.margin_from_gap(W_star, y, mu, m), drift)

    return alpha


def test_margin_rate_and_envelope_hold_along_flows():
    positive = 0
    for index in range(25):
        rng = np.random.default_rng([15, index])
        n, m = (int(v) for v in rng.integers(1, 4, 2))
        weights = random_weights(rng, [n, 4, m], "gaussian" if index % 2 else "near balanced")
        weights = [W / spectral_norm(W) for W in weights]
        Y = algebra.product(weights) + 0.1 * rng.standard_normal((n, m))
        times = np.linspace(0, 3, 7)
        run = dynamics.flow(lambda W, Y=Y: W - Y, weights, times)
        gaps = [0.5 * np.sum((algebra.product(W) - Y) ** 2) for W in run]
        alpha = two_layer_alpha(algebra.imbalance_matrices(weights)[0], Y, 1.0)
        levels = [gaps[0] * 10 ** (-k / 10) for k in range(100)]
        reach = certificates.envelope_times(levels, 2.0, alpha)
        floor = certificates.margin_from_gap(Y, gaps[0], 1.0)
        assert floor == pytest.approx(certificates.margin(Y, algebra.product(weights), 1.0, 1.0))
        positive += alpha(gaps[0]) > 0
        for t, gap, W in zip(times, gaps, run, strict=True):
            assert gap <= certificates.exponential(2.0, alpha(gaps[0]), gaps[0], t) * (1 + 1e-8) + 1e-20
            allowed = levels[max(k for k in range(100) if reach[k] <= t)]
            assert gap <= allowed * (1 + 1e-8) + 1e-20
            assert sigma(algebra.product(W), min(n, m)) >= floor - 1e-9
        for level, t in zip(levels, reach, strict=True):
            slow = certificates.exponential_time(2.0, alpha(gaps[0]), gaps[0], level)
            assert t <= slow * (1 + 1e-9)
    assert positive >= 10


def test_exponential_tail_holds_for_the_exponential_loss():
    """`f = Σ_i exp(−y_i⟨w, x_i⟩)` has `‖∇f‖ ≥ γf` with γ the margin of any unit separator."""
    rng = np.random.default_rng(0)
    u = np.array([1.0, 0.0])
    X = rng.standard_normal((6, 2))
    X[:, 0] = np.sign(X[:, 0]) * (np.abs(X[:, 0]) + 0.5)
    Z = np.sign(X @ u)[:, None] * X
    gamma = float((Z @ u).min())
    weights = [np.diag([1.5, 1.2]), np.array([[0.1], [0.2]])]
    (D,) = algebra.imbalance_matrices(weights)
    alpha = bounds.two_layer(D, 2, 1, 0.0, 0.0)
    assert alpha > 0
    times = np.linspace(0, 5, 11)
    run = dynamics.flow(lambda W: -Z.T @ np.exp(-Z @ W), weights, times)
    gaps = [float(np.exp(-Z @ algebra.product(W)).sum()) for W in run]
    for t, gap in zip(times, gaps, strict=True):
        assert gap <= certificates.exponential_tail(gamma, alpha, gaps[0], t) * (1 + 1e-9)


def test_lazy_floor_and_certificate():
    held = 0
    for index in range(40):
        rng = np.random.default_rng([16, index])
        depth = int(rng.integers(2, 5))
        dims = random_dims(rng, depth)
        weights = random_weights(rng, dims, "gaussian")
        scale = 0.5
        r = 0.05 * max(map(spectral_norm, weights))
        kappa = certificates.lazy_floor(weights, r, scale)
        for _ in range(5):
            step = [rng.standard_normal(W.shape) for W in weights]
            size = np.sqrt(sum((s**2).sum() for s in step))
            moved = [W + r * s / size for W, s in zip(weights, step, strict=True)]
            assert kappa <= algebra.least_tangent_eigenvalue(moved, scale) + SLACK * unit(moved)
        if kappa <= 1e-5 * unit(weights):  # the run would last for ages and tell nothing
            continue
        gap = 0.9 * r**2 * 2.0 * kappa / 4
        offset = rng.standard_normal((dims[0], dims[-1]))
        W0 = algebra.product(weights, scale)
        Y = W0 + np.sqrt(2 * gap) * offset / np.linalg.norm(offset)
        assert certificates.lazy_holds(weights, 2.0, gap, r, scale)
        assert not certificates.lazy_holds(weights, 2.0, 2 * gap, r, scale)
        held += 1
        times = [0.0, 0.5 / kappa, 1.5 / kappa]
        for t, now in zip(times, dynamics.flow(lambda W, Y=Y: W - Y, weights, times, scale), strict=True):
            moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(now, weights, strict=True)))
            assert moved <= r
            now_gap = 0.5 * np.sum((algebra.product(now, scale) - Y) ** 2)
            assert now_gap <= gap * np.exp(-2 * kappa * t) * (1 + 1e-7)
    assert held >= 10


def test_descent_certificate_holds_along_descent():
    certified = 0
    for index in range(60):
        rng = np.random.default_rng([17, index])
        depth = int(rng.integers(2, 5))
        dims = random_dims(rng, depth)
        weights = [W / spectral_norm(W) for W in random_weights(rng, dims, "gaussian")]
        scale = float(rng.choice([1.0, 0.5]))
        W0 = algebra.product(weights, scale)
        Y = W0 + 0.2 * rng.standard_normal(W0.shape)
        gap = 0.5 * np.sum((W0 - Y) ** 2)
        Ds = algebra.imbalance_matrices(weights)
        eta = 10 ** rng.uniform(-3, -0.5)
        cert = certificates.descent_certificate(Ds, spectral_norm(Y), gap, 1.0, 1.0, eta, scale)
        if cert is None:
            continue
        certified += 1
        assert eta * gap / (1 - eta * cert.beta / 2) <= cert.drift
        alpha = 0.0
        if depth == 2:
            alpha = scale**2 * two_layer_alpha(Ds[0], Y / scale, scale**2)(gap, cert.drift)
        history = dynamics.descent(lambda W, Y=Y: W - Y, weights, [eta] * 40, scale)
        for a, b in itertools.pairwise(history):
            R = algebra.product(a, scale) - Y
            before, after = 0.5 * np.sum(R**2), 0.5 * np.sum((algebra.product(b, scale) - Y) ** 2)
            squared = sum((G**2).sum() for G in algebra.layer_gradients(R, a, scale))
            assert after <= before - eta * (1 - eta * cert.beta / 2) * squared + 1e-13
            assert after <= cert.factor(2.0, alpha) * before + 1e-13
            for D, E in zip(Ds, algebra.imbalance_matrices(b), strict=True):
                assert spectral_norm(E - D) <= cert.drift + 1e-13
            for W, cap in zip(b, cert.norm_caps, strict=True):
                assert spectral_norm(W) <= cap + 1e-9
    assert certified >= 20
    assert certificates.descent_certificate([np.zeros((1, 1))], 1.0, 1.0, 1.0, 1.0, 10.0) is None
