"""Width reduction: the exact dimensions, the way back, and runs that agree with those at full width."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linflow as lf
from linflow._support.arrays import EPS, from_numpy, is_numpy, to_numpy
from linflow.dynamics.field import GradientField
from linflow.geometry import reduction
from linflow.geometry.reduction import reduce_width
from tests.random_networks import networks
from tests.reference import algebra, dynamics

# ------------------------------------------------------------------------------------------ the twin, in fractions


def exact_dimensions(weights):
    """Dimensions of the smallest invariant subspaces of integer weights, in exact arithmetic; at least 1."""
    right = [[[Fraction(int(x)) for x in row] for row in W.T] for W in weights]  # v ↦ W_lᵀ v
    left = [[[Fraction(int(x)) for x in row] for row in W] for W in weights]  # v ↦ W_l v
    L, spans = len(weights), [[] for _ in range(len(weights) + 1)]
    todo = []

    def add(l, v):
        for pivot, b in spans[l]:
            v = [x - v[pivot] * y for x, y in zip(v, b, strict=True)]
        pivot = next((i for i, x in enumerate(v) if x), None)
        if pivot is not None:
            spans[l].append((pivot, [x / v[pivot] for x in v]))
            todo.append((l, spans[l][-1][1]))

    for l, side in ((0, weights[0].shape[0]), (L, weights[-1].shape[1])):
        for i in range(side):
            add(l, [Fraction(int(i == j)) for j in range(side)])
    while todo:
        l, v = todo.pop()
        for k, maps in ((l + 1, right[l] if l < L else None), (l - 1, left[l - 1] if l else None)):
            if maps is not None:
                add(k, [sum(a * x for a, x in zip(row, v, strict=True)) for row in maps])
    return tuple(max(len(span), 1) for span in spans)


def integer_weights(rng):
    widths = (rng.integers(1, 4), *rng.integers(1, 8, rng.integers(1, 5)), rng.integers(1, 4))
    kind = rng.integers(3)
    layers = []
    for a, b in pairwise(widths):
        if kind == 0:
            layers.append(np.round(rng.standard_normal((a, b))))
        elif kind == 1:
            layers.append(np.round(rng.standard_normal((a, 2))) @ np.round(rng.standard_normal((2, b))))
        else:
            layers.append(rng.integers(-2, 3, (a, b)) * (rng.random((a, b)) < 0.3) * 1.0)
    return layers


def test_widths_are_those_of_exact_arithmetic(rng):
    missed = 0
    for _ in range(300):
        weights = integer_weights(rng)
        found, exact = reduce_width(weights, gain=1, thorough=True), exact_dimensions(weights)
        assert all(a >= b for a, b in zip(found.network.widths, exact, strict=True)), weights
        missed += found.network.widths != exact
    # A direction found as the small difference of large ones has rounding of its own; rarely, that is kept as well.
    assert missed <= 1


# ---------------------------------------------------------------------------------------- what the reduction keeps


def frozen_or_zero(reduced, l):
    F = reduced.frozen[l]
    return np.zeros((reduced.widths[l], reduced.widths[l + 1])) if F is None else F


def relative(A, B):
    return np.linalg.norm(A - B) / (np.linalg.norm(B) or 1.0)


@given(net=networks(hidden=st.integers(1, 12)), thorough=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_reduction_keeps_product_gradient_kernel_and_imbalance(net, thorough, seed):
    reduced = reduce_width(net, gain=1, thorough=thorough)
    small = reduced.network
    assert small.scale == net.scale
    assert reduced.widths == net.widths
    assert small.shape == net.shape
    assert all(a <= b for a, b in zip(small.widths, net.widths, strict=True))
    assert reduced.identity == (small.widths == net.widths)
    # Layers change by a few ε, by how many is a matter of the processor; what changes by more than 64 ε is not taken.
    assert reduced.error <= 64 * EPS
    again = reduced.expand(small)
    assert all(relative(A, B) <= 64 * EPS for A, B in zip(again.weights, net.weights, strict=True))
    for Q in reduced.bases:
        if Q is not None and Q.any():
            np.testing.assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), atol=100 * EPS)  # columns orthonormal to rounding
    # The rest are sums of products of at most five layers, each right to some ε.
    size = net.magnitude() or 1.0
    assert np.linalg.norm(small.product() - net.product()) <= 200 * EPS * size
    G = np.random.default_rng(seed).standard_normal(net.shape)
    moved = reduced.expand(small.with_weights(small.gradient(G)))
    sizes = [np.linalg.norm(W) for W in net.weights]
    for l, (got, want) in enumerate(zip(moved.weights, net.gradient(G), strict=True)):
        others = net.scale * np.linalg.norm(G) * math.prod(sizes[:l] + sizes[l + 1 :])
        gradient = got - frozen_or_zero(reduced, l)
        assert np.linalg.norm(gradient - want) <= 200 * EPS * (others + sizes[l])
    T, t = (np.linalg.eigvalsh(algebra.tangent_dense(list(x.weights), x.scale)) for x in (net, small))
    # T is a square of products: where they cancel, that of their rounding is left.
    left = (net.scale * 200 * EPS) ** 2 * sum(math.prod(sizes[:l] + sizes[l + 1 :]) ** 2 for l in range(net.depth))
    np.testing.assert_allclose(t, T, atol=1e-12 * abs(T).max() + left)
    for l, D in enumerate(lf.imbalance_matrices(net)):
        Q = reduced.bases[l]
        spectrum = np.linalg.eigvalsh(lf.imbalance_matrices(small)[l])
        if Q is not None:
            rank = Q.shape[1] if Q.any() else 0
            C = np.linalg.svd(Q)[0][:, rank:]
            F, H = frozen_or_zero(reduced, l), frozen_or_zero(reduced, l + 1)
            rest = np.linalg.eigvalsh(C.T @ (F.T @ F - H @ H.T) @ C) if C.size else []
            spectrum = np.sort([*(spectrum if rank else []), *rest])
        np.testing.assert_allclose(spectrum, np.linalg.eigvalsh(D), atol=1e-12 * max(sizes) ** 2)


@given(
    widths=st.tuples(st.integers(1, 6), st.integers(1, 40), st.integers(1, 6)),
    scale=st.sampled_from([1.0, 0.1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_two_layers_are_never_wider_than_both_sides(widths, scale, seed):
    net = lf.Network(lf.init.gaussian(widths, rng=seed).weights, scale)
    reduced = reduce_width(net, gain=1)
    assert reduced.network.widths == (widths[0], min(widths[1], widths[0] + widths[2]), widths[2])
    assert reduced.frozen == (None, None)
    values, few = (lf.imbalance_spectrum(x).eigenvalues for x in (net, reduced.network))
    padded = np.sort(np.concatenate([few, np.zeros(len(values) - len(few))]))[::-1]
    np.testing.assert_allclose(padded, values, atol=1e-13 * np.abs(values).max() * max(widths))


# ---------------------------------------------------------------------------------------------- predicted widths


def rotated(weights, rng):
    """The same network in other hidden bases."""
    Q = [np.linalg.qr(rng.standard_normal((W.shape[1], W.shape[1])))[0] for W in weights[:-1]]
    Q = [np.eye(weights[0].shape[0]), *Q, np.eye(weights[-1].shape[1])]
    return [P.T @ W @ R for W, (P, R) in zip(weights, pairwise(Q), strict=True)]


def padded(widths, used, rng, coupled):
    """Gaussian layers on the first `used` units; the others are idle, or `coupled` to each other only."""
    weights = []
    for (a, b), (i, j) in zip(pairwise(widths), pairwise(used), strict=True):
        W = np.zeros((a, b))
        W[:i, :j] = rng.standard_normal((i, j))
        if coupled:
            W[i:, j:] = rng.standard_normal((a - i, b - j))
        weights.append(W)
    return weights


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (lambda rng: lf.init.gaussian((20, 1000, 5), rng=rng), (20, 25, 5)),
        (lambda rng: lf.init.gaussian((1, 50, 1), rng=rng), (1, 2, 1)),
        # n + m directions go round a square orthogonal layer without end, and nothing is added.
        (lambda rng: lf.init.orthogonal((4, 60, 60, 3), rng=rng), (4, 7, 7, 3)),
        (lambda rng: lf.init.orthogonal((4, 60, 60, 60, 60, 3), gain=2.0, rng=rng), (4, 7, 7, 7, 7, 3)),
        # Balanced layers of a full-rank product hold its min(n, m) modes and no more.
        (lambda rng: lf.init.balanced((4, 30, 30, 4), rng=rng), (4, 4, 4, 4)),
        (lambda rng: lf.init.balanced((6, 30, 40, 30, 3), rng=rng), (6, 3, 3, 3, 3)),
        (lambda rng: lf.init.imbalanced((4, 30, 30, 30, 4), [1.0, -2.0, 0.5], rng=rng), (4, 4, 4, 4, 4)),
        # A layer of rank r passes on r directions of its own, and takes in those of the outer layer.
        (lambda rng: low_rank((4, 50, 50, 3), 2, rng), (4, 6, 5, 3)),
        (lambda rng: low_rank((4, 50, 60, 3), 9, rng), (4, 13, 12, 3)),
        (lambda rng: padded((3, 40, 40, 2), (3, 9, 8, 2), rng, coupled=False), (3, 9, 8, 2)),
        (lambda rng: padded((3, 40, 40, 40, 2), (3, 9, 8, 8, 2), rng, coupled=True), (3, 9, 8, 8, 2)),
        (lambda rng: rotated(padded((3, 40, 40, 2), (3, 6, 6, 2), rng, coupled=False), rng), (3, 6, 6, 2)),
        (lambda rng: [np.zeros((2, 9)), np.zeros((9, 9)), np.zeros((9, 3))], (2, 1, 1, 3)),
        (lambda rng: [rng.standard_normal((2, 20)), np.zeros((20, 20)), rng.standard_normal((20, 3))], (2, 2, 3, 3)),
        (lambda rng: [np.zeros((2, 9)), rng.standard_normal((9, 9)), np.zeros((9, 3))], (2, 1, 1, 3)),
    ],
)
def test_widths_are_as_predicted(start, expected, rng):
    net = lf.Network.of(start(rng))
    reduced = reduce_width(net)
    assert reduced.network.widths == expected
    again = reduced.expand(reduced.network)
    # 16 ε is what a layer may change by, by design.
    assert all(relative(A, B) <= 16 * EPS for A, B in zip(again.weights, net.weights, strict=True))


def low_rank(widths, rank, rng):
    net = lf.init.gaussian(widths, rng=rng)
    A, B = rng.standard_normal((widths[1], rank)), rng.standard_normal((rank, widths[2]))
    return [net.weights[0], A @ B, net.weights[2]]


def test_structure_that_shows_late_needs_a_thorough_search(rng):
    weights = low_rank((3, 80, 80, 2), 30, rng)
    assert reduce_width(weights).identity
    n, *hidden, m = reduce_width(weights, thorough=True).network.widths
    # The last directions are small differences, with rounding of their own, which may be kept as one more.
    assert (n, m) == (3, 2)
    assert hidden[0] in (33, 34)
    assert hidden[1] in (32, 33)


@pytest.mark.parametrize(
    "widths", [(5, 30, 30, 4), (2, 200, 200, 1), (6, 20, 30, 20, 5), (4, 9, 9, 9, 9, 4), (5, 6, 4)]
)
def test_weights_without_structure_are_left_alone_without_a_search(widths, rng, monkeypatch):
    net = lf.init.gaussian(widths, rng=rng)
    assert reduce_width(net, thorough=True).identity
    monkeypatch.setattr(reduction, "_orthonormal_part", None)  # the search proper is never begun
    found = reduce_width(net)
    assert found.identity
    assert found.network is net
    assert found.expand(net) is net
    assert repr(found) == f"Reduction({'×'.join(map(str, widths))}, identity)"


@pytest.mark.parametrize("size", [1e-9, 1e-12])
def test_small_parts_are_kept(size, rng):
    """What is far below the weights and above rounding is no rounding."""
    A, B = rng.standard_normal((4, 30)), rng.standard_normal((30, 3))
    A[2:] = rng.standard_normal((2, 2)) @ A[:2] + size * A[2:]
    B = A[:2].T @ rng.standard_normal((2, 3))
    B[:, 2] += size * rng.standard_normal(30)
    assert reduce_width([A, B]).network.widths == (4, 5, 3)
    exact = np.round(8 * A[:2])
    again = reduce_width([np.concatenate([exact, exact]), 2 * exact.T])
    assert again.network.widths == (4, 2, 2)
    layers = list(lf.init.orthogonal((3, 40, 40, 2), rng=rng).weights)
    assert reduce_width(layers, thorough=True).network.widths == (3, 5, 5, 2)
    layers[1] = layers[1] + size * rng.standard_normal((40, 40))
    assert reduce_width(layers, thorough=True).identity


def test_layers_of_very_different_sizes(rng):
    layers = [
        c * W
        for c, W in zip((1e-120, 1e100, 1e-30), lf.init.orthogonal((3, 30, 30, 2), rng=rng).weights, strict=True)
    ]
    reduced = reduce_width(lf.Network(layers, 1e10))
    assert reduced.network.widths == (3, 5, 5, 2)
    assert all(
        relative(A / np.abs(B).max(), B / np.abs(B).max()) <= 16 * EPS
        for A, B in zip(reduced.expand(reduced.network).weights, layers, strict=True)
    )


# ------------------------------------------------------------------------------------------------------- the runs


STARTS = {
    "two layers, wide": lambda rng: lf.init.gaussian((4, 40, 3), 0.3, rng=rng),
    "two layers, scaled": lambda rng: lf.init.ntk((4, 1000, 3), rng=rng),
    "orthogonal": lambda rng: lf.init.orthogonal((4, 30, 30, 3), rng=rng),
    "low rank": lambda rng: lf.Network([0.1 * W for W in low_rank((4, 30, 40, 3), 5, rng)], 2.0),
    "cut in the middle": lambda rng: lf.init.gaussian((4, 30, 4, 40, 3), 0.3, rng=rng),
    "coupled idle units": lambda rng: lf.Network(
        [0.5 * W for W in padded((4, 20, 20, 20, 3), (4, 5, 5, 5, 3), rng, coupled=True)]
    ),
}


def smooth_objective(Y):
    """An objective that is not quadratic: Σ log cosh(W − Y)."""
    return lf.Objective(
        lambda W: 0.5 * float(np.log1p(np.sinh(W - Y) ** 2).sum()),
        lambda W: np.tanh(W - Y),
        shape=Y.shape,
        smoothness=1.0,
        minimizer=Y,
        minimum=0.0,
    )


OBJECTIVES = (lf.MatrixFactorization, smooth_objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", STARTS)
def test_flow_is_that_of_the_full_network(name, objective, rng):
    net, f = STARTS[name](rng), objective(rng.standard_normal((4, 3)))
    reduced = reduce_width(net)
    assert not reduced.identity
    small, first = reduced.network, f.gap(net.product())
    for t in (0.02, 0.1):
        (wide,), (narrow,) = (dynamics.flow(f.gradient, list(x.weights), [t], x.scale) for x in (net, small))
        again = reduced.expand(narrow)
        # Two integrations at 10⁻¹² a step, of which there are some tens.
        assert f.gap(again.product()) == pytest.approx(f.gap(net.with_weights(wide).product()), rel=1e-10)
        assert all(relative(A, B) < 1e-10 for A, B in zip(again.weights, wide, strict=True))
    assert f.gap(again.product()) < 0.9 * first


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", STARTS)
def test_descent_is_that_of_the_full_network(name, objective, rng):
    net, f = STARTS[name](rng), objective(rng.standard_normal((4, 3)))
    reduced = reduce_width(net)
    steps = 0.01 + 0.01 * rng.random(200)
    wide, narrow = (dynamics.descent(f.gradient, list(x.weights), steps, x.scale) for x in (net, reduced.network))
    for k in (1, 20, 200):
        # 200 steps add up to some hundred ε.
        assert all(relative(A, B) < 1e-12 for A, B in zip(reduced.expand(narrow[k]).weights, wide[k], strict=True))
    ends = reduced.expand_sequence([narrow[0], narrow[-1]])
    assert lf.imbalance_drift(ends[1], ends[0]) == pytest.approx(lf.imbalance_drift(wide[-1], wide[0]), rel=1e-9)


def test_runs_of_the_library_agree(rng):
    net, f = lf.init.gaussian((4, 40, 3), 0.3, rng=rng), lf.MatrixFactorization(rng.standard_normal((4, 3)))
    runs = [lf.gradient_flow(f, x, until=1e-4, rtol=1e-11) for x in (net, reduce_width(net).network)]
    # Each step is right to 10⁻¹¹ of the gap.
    assert runs[1].t[-1] == pytest.approx(runs[0].t[-1], rel=1e-9)


@pytest.mark.parametrize("widths", [(4, 40, 3), (3, 100, 3), (1, 9, 1)])
def test_two_layer_certificates_are_the_same(widths, rng):
    net = lf.init.gaussian(widths, rng=rng)
    f = lf.MatrixFactorization(net.product() + 0.1 * rng.standard_normal(net.shape))
    full, small = (lf.certify(f, x) for x in (net, reduce_width(net).network))
    assert full.rate > 0
    # The allowances for rounding depend on the width: 16 ε √h ‖W‖² in an eigenvalue of order one.
    assert small.rate == pytest.approx(full.rate, rel=1e-10)
    for fraction in (1e-2, 1e-6):
        assert small.time_to(fraction) == pytest.approx(full.time_to(fraction), rel=1e-10)


@pytest.mark.parametrize("name", STARTS)
def test_bounds_at_the_reduced_width_hold_for_the_original(name, rng):
    net = STARTS[name](rng)
    least = float(lf.TangentOperator(net).least_eigenvalue())
    assert float(lf.bounds.best(reduce_width(net).network).value) <= least * (1 + 1e-10) + 1e-300


# ------------------------------------------------------------------------------------------- arrays, edges, errors


@pytest.mark.parametrize("widths", [(4, 40, 3), (4, 30, 30, 3)])
def test_any_array_kind(xp, widths):
    net = lf.init.orthogonal(widths, rng=0)
    other = lf.Network([from_numpy(W, xp.zeros(1)) for W in net.weights], 0.5)
    reduced, expected = reduce_width(other), reduce_width(lf.Network(net.weights, 0.5))
    assert reduced.network.widths == expected.network.widths
    again = reduced.expand(reduced.network)
    for A, B in zip(again.weights, net.weights, strict=True):
        assert not is_numpy(A)
        assert relative(to_numpy(A), B) <= 16 * EPS  # by design
    for A, B in ((reduced.bases, expected.bases), (reduced.frozen, expected.frozen)):
        assert [x is None for x in A] == [x is None for x in B]
        assert not any(is_numpy(x) for x in A if x is not None)


def test_one_layer_and_scalars():
    assert reduce_width([np.ones((3, 2))]).identity
    assert reduce_width([np.ones((1, 1))] * 4).identity
    dead = reduce_width([np.zeros((1, 2)), np.zeros((2, 1))])
    assert dead.network.widths == (1, 1, 1)
    np.testing.assert_array_equal(dead.expand(dead.network).weights[0], np.zeros((1, 2)))


def test_expand_takes_weights_and_keeps_a_scale(rng):
    reduced = reduce_width(lf.init.gaussian((2, 30, 2), rng=rng))
    weights = [rng.standard_normal((2, 4)), rng.standard_normal((4, 2))]
    expanded = reduced.expand(weights)
    assert expanded.widths == (2, 30, 2)
    np.testing.assert_allclose(expanded.product(), weights[0] @ weights[1], rtol=1e-12, atol=1e-14)
    assert reduced.expand(lf.Network(weights, 3.0)).scale == 3.0
    assert repr(reduced) == "Reduction(2×30×2 → 2×4×2)"


def test_a_gain_out_of_reach_leaves_the_network_alone(rng):
    net = lf.init.gaussian((10, 30, 10), rng=rng)
    assert reduce_width(net, gain=1.5).network.widths == (10, 20, 10)
    assert reduce_width(net, gain=1.6).identity


def test_errors_name_what_is_needed(rng):
    reduced = reduce_width(lf.init.gaussian((2, 30, 2), rng=rng))
    with pytest.raises(ValueError, match=r"\(2, 30, 2\).*\(2, 4, 2\)"):
        reduced.expand(lf.init.gaussian((2, 30, 2), rng=rng))
    with pytest.raises(ValueError, match=r"gain is 0\.5"):
        reduce_width(reduced.network, gain=0.5)


@pytest.mark.parametrize("widths", [(20, 200, 5), (4, 60, 60, 3)])
def test_the_flow_is_integrated_in_less_width(widths):
    rng = np.random.default_rng(0)
    f = lf.MatrixFactorization(rng.standard_normal((widths[0], widths[-1])) / 10)
    net = lf.init.ntk(widths, rng=rng) if len(widths) == 3 else lf.init.orthogonal(widths, 0.8, rng=rng)
    narrow = lf.gradient_flow(f, net, until=1e-8, rtol=1e-10)
    full = lf.gradient_flow(f, net, until=1e-8, rtol=1e-10, reduce=False)
    assert narrow.start is full.start is net or narrow.start.widths == widths
    t = np.linspace(0, float(full.t[-1]) * (1 - 1e-9), 50)
    # The integrations differ in their steps; each is right to some 1e-9 in the logarithm of the gap.
    at = np.asarray(narrow.t)[:-1]
    assert np.abs(np.log(narrow.gap_at(at) / full.gap_at(at))).max() < 1e-7
    for a, b in zip(narrow.network_at(t[20]).weights, full.network_at(t[20]).weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8 * np.linalg.norm(b))
    for a, b in zip(narrow.weights, full.weights, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-8 * np.linalg.norm(b))


@pytest.mark.parametrize("schedule", [None, lf.schedules.local_smoothness()], ids=["constant", "schedule"])
@pytest.mark.parametrize("widths", [(20, 200, 5), (4, 60, 60, 3)])
def test_the_descent_is_run_in_less_width(widths, schedule, monkeypatch):
    rng = np.random.default_rng(0)
    f = lf.MatrixFactorization(rng.standard_normal((widths[0], widths[-1])) / 10)
    net = lf.init.ntk(widths, rng=rng) if len(widths) == 3 else lf.init.orthogonal(widths, 0.8, rng=rng)
    steps = {"step_size": 0.05} if schedule is None else {"schedule": schedule}
    seen = []
    original = GradientField.__init__
    monkeypatch.setattr(
        GradientField, "__init__", lambda self, f, net: (seen.append(net.widths), original(self, f, net))[1]
    )
    # Steps of 1/K_t are at the edge of stability: rounding about doubles with each.
    count = 50 if schedule is None else 10
    narrow = lf.gradient_descent(f, net, steps=count, record=("imbalance_drift",), **steps)
    full = lf.gradient_descent(f, net, steps=count, record=("imbalance_drift",), reduce=False, **steps)
    # A schedule may read the norms of the layers, which a reduction leaves alone for two layers only.
    assert (sum(seen[0]) < sum(widths)) == (schedule is None or len(widths) == 3)
    assert seen[1] == widths
    assert narrow.start.widths == narrow.final.widths == widths
    # Fifty steps of rounding.
    np.testing.assert_allclose(narrow.t, full.t, rtol=1e-12)
    np.testing.assert_allclose(narrow.gap, full.gap, rtol=1e-11)
    np.testing.assert_allclose(narrow.imbalance_drift, full.imbalance_drift, rtol=1e-7, atol=1e-12)
    for a, b in zip(narrow.weights, full.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * np.linalg.norm(b))
