"""Bounds that use the product: against their twins, against λ_min(T), and against the bounds they contain."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linflow as lf
from linflow.bounds import Invariants, product_aware, two_layers
from tests.random_networks import FAMILIES, draw_weights, networks
from tests.reference import bounds as twin
from tests.reference.algebra import least_tangent_eigenvalue, product, sigma


def _case(rng, layers=(2, 6), square=False):
    n, m = (int(x) for x in rng.integers(1, 5, 2))
    m = n if square else m
    widths = (n, *(int(h) for h in rng.integers(min(n, m), 7, rng.integers(*layers) - 1)), m)
    weights = draw_weights(widths, FAMILIES[rng.integers(len(FAMILIES))], int(rng.integers(2**31)))
    Ds = lf.imbalance_matrices(weights)
    return weights, Ds, n, m, np.linalg.svd(product(weights), compute_uv=False)


def _sides(n, m, s):
    """σ_n and σ_m of an n×m matrix with singular values s; the one past min(n, m) is 0."""
    return (s[-1] if n <= m else 0.0), (s[-1] if m <= n else 0.0)


def test_deep_product_against_its_twin():
    rng = np.random.default_rng(0)
    for _ in range(150):
        weights, Ds, n, m, s = _case(rng)
        if s[-1] < 1e-6 * s[0]:  # the twin searches a grid, which says nothing of products at rounding
            continue
        rounding = 1e-13 * float(lf.TangentOperator(weights).greatest_eigenvalue())
        expected = twin.deep_product(Ds, n, m, *_sides(n, m, s), lf.bounds.norms(Ds, s[0]))
        found = float(lf.bounds.deep_product(Ds, n, m, s[-1], s[0]))
        # The library holds the falling branch of |λ + κ| fixed, to be monotone: at most what the twin says, and
        # equal where that branch does not matter, as in most draws; the bracket and the margins taken cost 1e-11.
        assert found <= expected * (1 + 1e-9) + rounding
        assert found >= 0.4 * expected - rounding


@given(network=networks())
def test_never_above_the_truth_and_never_below_what_it_replaces(network):
    T = lf.TangentOperator(network)
    least, size = float(T.least_eigenvalue()), float(T.greatest_eigenvalue())
    rows = {row.name: float(row.value) for row in lf.bounds.table(network) if row.applies}
    # 1e-9 of the size of T: eigenvalues, squares and products of five layers round at some 1e-13 of it.
    assert max(rows.values()) <= least + 1e-9 * size
    inv = Invariants.of(network)
    combined = network.scale**2 * float(product_aware.THEOREM.evaluate(inv))
    assert combined >= rows["any depth, imbalance only"] * (1 - 1e-9) - 1e-12 * size
    if network.depth == 2:
        assert combined >= rows["two layers"] * (1 - 1e-9) - 1e-12 * size
        assert combined <= rows["two layers"] * (1 + 1e-9) + 1e-12 * size


@given(
    squares=st.lists(st.floats(0.01, 9.0), min_size=2, max_size=6),
    known=st.booleans(),
)
def test_scalars_are_exact(squares, known):
    known = known or len(squares) > 2  # from three layers on, rounding of D leaves a term for the norms to multiply
    w = np.sqrt(np.array(squares))
    Ds = [np.array([[a - b]]) for a, b in itertools.pairwise(squares)]
    p = float(np.prod(w))
    found = float(lf.bounds.deep_product(Ds, 1, 1, p, p if known else np.inf))
    exact = lf.bounds.scalar_exact([float(D[0, 0]) for D in Ds], p)
    assert found == pytest.approx(exact, rel=1e-9)  # a bracket of 2e-13 in log c, over six layers


def test_homogeneous_square_layers_are_exact():
    net = lf.init.imbalanced((3, 3, 3, 3, 3), [0.5, -1.0, 0.2], np.diag([2.0, 1.0, 0.3]), rng=0)
    Ds, s = lf.imbalance_matrices(net), np.linalg.svd(net.product(), compute_uv=False)
    found = float(lf.bounds.deep_product(Ds, 3, 3, s[-1], s[0]))
    # λ_min(T) to 1e-7: the imbalances of the computed weights spread by rounding, which the fourth power of c feels.
    assert found == pytest.approx(float(lf.TangentOperator(net).least_eigenvalue()), rel=1e-7)


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
@pytest.mark.parametrize("shape", [(3, 3), (3, 2), (2, 3)])
def test_tends_to_the_balanced_bound(depth, shape):
    widths = (shape[0], *[3] * (depth - 1), shape[1])
    Y = np.random.default_rng(0).standard_normal(shape)
    net = lf.init.balanced(widths, Y, rng=0)
    s = np.linalg.svd(Y, compute_uv=False)
    found = float(lf.bounds.deep_product(lf.imbalance_matrices(net), *shape, s[-1], s[0]))
    assert found == pytest.approx(lf.bounds.balanced(depth, *shape, s[-1]), rel=1e-6)  # D = 0 to rounding only


def test_grows_with_sigma_min_and_takes_several_at_once():
    rng = np.random.default_rng(3)
    for _ in range(40):
        _, Ds, n, m, s = _case(rng, layers=(3, 6))
        least = s[-1] * np.linspace(0, 1, 9)
        found = lf.bounds.deep_product(Ds, n, m, least, s[0])
        assert found.shape == (9,)
        assert (np.diff(found) >= -1e-9 * found.max()).all()
        one_by_one = [float(lf.bounds.deep_product(Ds, n, m, x, s[0])) for x in least]
        # The search stops when all have converged, so their last digits differ.
        np.testing.assert_allclose(found, one_by_one, rtol=1e-10, atol=1e-12 * found.max())
        assert found[0] == pytest.approx(float(lf.bounds.deep(Ds, n, m)), rel=1e-12, abs=1e-12)
        unknown = float(lf.bounds.deep_product(Ds, n, m, s[-1]))
        assert unknown <= found[-1] * (1 + 1e-9)  # knowing ‖W‖ can only help


def test_square_two_layers_against_its_twin_and_the_truth():
    rng = np.random.default_rng(1)
    gains = []
    for _ in range(300):
        weights, Ds, n, _, s = _case(rng, layers=(2, 3), square=True)
        if s[-1] <= 1e-4 * s[0]:  # the twin's search wants a moderate range
            continue
        following = s[-2] if n > 1 else np.inf
        found = float(lf.bounds.two_layer_square(Ds[0], n, s[-1], following))
        assert found == pytest.approx(twin.two_layer_square(Ds[0], n, s[-1], following), rel=1e-7)  # its grid
        assert found <= least_tangent_eigenvalue(weights) * (1 + 1e-9)
        simple = float(lf.bounds.two_layer(Ds[0], n, n, s[-1], s[-1]))
        assert found >= simple * (1 - 1e-12)
        gains.append(found / simple)
    assert np.quantile(gains, 0.9) > 2  # far above where σ_{n−1} ≫ σ_n


def test_product_of_the_outer_eigenvalues():
    # The lemma itself, c_1 c_2 ≥ P, and that it is attained: near aligned weights come within 1e-4.
    rng = np.random.default_rng(2)
    closest = np.inf
    for k in range(4000):
        n = int(rng.integers(2, 5))
        h = n + int(rng.integers(0, 3))
        A, B = rng.standard_normal((n, h)), rng.standard_normal((h, n))
        if k % 2:
            B = A.T + 10.0 ** rng.uniform(-4, 0) * B
        e = np.linalg.eigvalsh(A.T @ A - B @ B.T)
        s, r = (x**2 for x in np.linalg.svd(A @ B, compute_uv=False)[[-1, -2]])
        w = (0.5 * (e[-1] - e[0])) ** 2
        P = 2 * s * r / (s + r + w + np.sqrt((s + r + w) ** 2 - 4 * s * r))
        P = P if w >= P else min(P, max(w, s * r / (s + r)))
        both = sigma(A, n) ** 2 * sigma(B, n) ** 2
        assert both >= P * (1 - 1e-7)  # r and s differ by up to 1e8, and P is made of their difference
        closest = min(closest, both / P)
    assert closest < 1 + 1e-3


def test_bad_arguments():
    D = np.diag([1.0, -1.0])
    with pytest.raises(ValueError, match="exchanged"):
        lf.bounds.two_layer_square(D, 2, 2.0, 1.0)
    with pytest.raises(ValueError, match="0 ≤ σ_min ≤ σ_max"):
        lf.bounds.deep_product([D], 2, 2, 2.0, 1.0)


def test_the_square_theorem_says_why_it_does_not_apply():
    names = {row.name: row.reason for row in lf.bounds.table([np.ones((2, 3)), np.ones((3, 1))])}
    assert names[two_layers.SQUARE.name] == "the product is 2×1, not square"
    assert "two layers" in names[product_aware.THEOREM.name]


@pytest.mark.parametrize("ratio", [1e3, 1e5, 1e7, 1e9, 1e15])
def test_sizes_far_apart_do_not_round_upwards(ratio):
    # w² = (x, x + B, x): caps and floors are differences of numbers B times as large as themselves.
    x, B = 1.0 / ratio, 1.0
    Ds, w = [np.array([[-B]]), np.array([[B]])], x * math.sqrt(x + B)
    truth = 2 * x * (x + B) + x * x
    for largest in (w, np.inf):
        assert float(lf.bounds.deep_product(Ds, 1, 1, w, largest)) <= truth * (1 + 1e-12)
    caps = lf.bounds.norms(Ds, w)
    assert all(cap >= square * (1 - 1e-15) for cap, square in zip(caps, (x, x + B, x), strict=True))


@pytest.mark.parametrize(
    "weights",
    [[5e-4 * np.eye(2)] * 50, [3e-4 * np.ones((1, 1))] * 50, [1e-60 * np.eye(2)] * 3, [1e-16 * np.eye(2)] * 10],
    ids=["50 layers", "50 scalars", "tiny", "10 tiny"],
)
def test_products_that_leave_float64_are_not_rounded_upwards(weights):
    L, size = len(weights), float(weights[0][0, 0])
    log_truth = math.log(L) + (2 * L - 2) * math.log(size)
    for row in lf.bounds.table(weights):
        value = float(row.value)
        # 5e-324 is the least number there is; a bound of 0 is always right.
        assert value <= 5e-324 or math.log(value) <= log_truth + 1e-9, row.name
