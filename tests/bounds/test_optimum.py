"""The optimum is feasible, stationary, never below a bound, and equal to what is known exactly."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import linflow as lf
from linflow._support.arrays import EPS
from linflow.bounds._weight_search import WeightSearch, _trust_region_step
from linflow.bounds.optimum import MOST_UNKNOWNS, optimum
from tests.random_networks import draw_weights, networks
from tests.reference import algebra

SHAPES = [
    (2, 2, 1),
    (2, 4, 1),
    (1, 3, 3),
    (1, 4, 3),
    (3, 3, 2),
    (3, 5, 2),
    (4, 4, 2),
    (4, 6, 2),
    (4, 4, 3),
    (4, 5, 3),
]


def spectrum(net):
    return np.linalg.eigvalsh(algebra.tangent_dense([np.asarray(W) for W in net.weights], net.scale))


def gap(weights, others):
    """Largest violation of the constraints, relative to the sizes that `residual` states."""
    sizes = [np.linalg.norm(W) for W in others]
    sizes = [max(s, 1e-100 * max(sizes)) if s > 0 else max(sizes) / 100 for s in sizes]
    D, E = ([A.T @ A - B @ B.T for A, B in itertools.pairwise(Ws)] for Ws in (weights, others))
    W, V = (np.linalg.multi_dot([*Ws, np.eye(Ws[-1].shape[1])]) for Ws in (weights, others))
    parts = [
        np.linalg.norm(A - B) / max(a, b) ** 2 for A, B, (a, b) in zip(D, E, itertools.pairwise(sizes), strict=True)
    ]
    return max(parts), np.linalg.norm(W - V) / math.prod(sizes)


# ---------------------------------------------------------------- against what is known


@given(
    w=st.lists(st.floats(0.1, 5) | st.floats(-5, -0.1), min_size=2, max_size=6),
    scale=st.sampled_from([1.0, 0.3, 4.0]),
)
@settings(max_examples=15)
def test_scalar_weights_are_isolated(w, scale):
    net = lf.Network([np.array([[x]]) for x in w], scale)
    d = [a * a - b * b for a, b in itertools.pairwise(w)]
    found = optimum(net, starts=4)
    assert found.converged
    size = scale**2 * max(abs(x) for x in w) ** (2 * len(w) - 2)
    # Cancellation in d, as in the test of scalar_exact.
    assert found.value / size == pytest.approx(scale**2 * lf.bounds.scalar_exact(d, math.prod(w)) / size, abs=1e-9)


@pytest.mark.parametrize("family", ["gaussian", "scaled", "near balanced"])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_two_layers_attain_the_bound_when_the_shapes_differ(widths, family):
    net = lf.Network(draw_weights(widths, family, 7))
    found = optimum(net, starts=3)
    size = spectrum(net)[-1]
    W = algebra.product(net.weights)
    n, m = net.shape
    bound = lf.bounds.two_layer(
        algebra.imbalance_matrices(net.weights)[0], n, m, algebra.sigma(W, n), algebra.sigma(W, m)
    )
    # The bound's difference of roots loses what rounding of the largest squares takes, at most as a square root.
    assert found.value / size == pytest.approx(float(bound) / size, abs=1e-8)
    assert found.residual < 1e-11


def test_two_layers_of_equal_sides_lie_above_the_bound():
    net = lf.Network(draw_weights((3, 3, 3), "gaussian", 3))
    found = optimum(net, starts=6)
    assert found.hits == found.starts == 6 and found.converged
    assert (
        float(lf.bounds.two_layer(lf.imbalance_matrices(net)[0], 3, 3, *[algebra.sigma(net.product(), 3)] * 2)) < 8e-4
    )
    assert 0.03 < found.value < 0.04
    assert spectrum(net)[0] > 0.3


def plain_search(weights, starts, rng):
    """SLSQP on the problem written out plainly, with numerical derivatives and its own starts."""
    shapes, n, m = [W.shape for W in weights], weights[0].shape[0], weights[-1].shape[1]
    cuts = np.cumsum([a * b for a, b in shapes])

    def split(x):
        parts = np.split(x, cuts)
        return [p.reshape(s) for p, s in zip(parts[:-1], shapes, strict=True)], parts[-1].reshape(n, m)

    def energy(x):
        Ws, E = split(x)
        P, S = algebra.prefixes(Ws), algebra.suffixes(Ws)
        return float(sum(np.sum((P[l].T @ E @ S[l + 1].T) ** 2) for l in range(len(Ws))))

    def violation(x):
        Ws, E = split(x)
        Ds = [(D - D0)[np.triu_indices(len(D))] for D, D0 in zip(algebra.imbalance_matrices(Ws), given, strict=True)]
        return np.concatenate([*Ds, (algebra.product(Ws) - target).ravel(), [np.sum(E * E) - 1]])

    given, target = algebra.imbalance_matrices(weights), algebra.product(weights)
    best = math.inf
    for _ in range(starts):
        U, V = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (n, m))
        start = [U @ weights[0], *weights[1:-1], weights[-1] @ V]
        x = np.concatenate([*(W.ravel() for W in start), rng.standard_normal(n * m) / math.sqrt(n * m)])
        constraint = {"type": "eq", "fun": violation}
        run = minimize(energy, x, method="SLSQP", constraints=constraint, options={"maxiter": 300, "ftol": 1e-12})
        if np.abs(violation(run.x)).max() < 1e-9:
            best = min(best, run.fun)
    return best


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "widths",
    [(2, 2, 2), (1, 2, 2, 2), *(pytest.param(w, marks=slow) for w in [(3, 4, 3), (2, 2, 2, 2), (2, 3, 3, 2)])],
    ids=str,
)
def test_a_general_solver_finds_the_same(widths, rng):
    weights = draw_weights(widths, "gaussian", 11)
    other = plain_search(weights, 2 if len(widths) * widths[0] < 8 else 8, rng)
    found = optimum(weights, starts=8)
    # SLSQP ends where its numerical gradients, good to 1e-8, do.
    assert found.value <= other * (1 + 1e-7)
    assert other == pytest.approx(found.value, rel=1e-4)


@pytest.mark.parametrize("widths", [(3, 3, 3), (2, 3, 3, 2), (3, 2, 2, 2), (2, 2, 2, 2, 2), (1, 2, 2, 3)], ids=str)
def test_balanced_weights(widths):
    net = lf.init.balanced(widths, rng=2)
    value = lf.bounds.balanced(net.depth, *net.shape, algebra.sigma(net.product(), min(net.shape)))
    found = optimum(net, starts=4)
    # D = 0 is met to ε of ‖W_l‖², a square root of which is what spare columns may hold.
    assert found.value == pytest.approx(value, rel=1e-6)


def test_scalars_of_very_different_size_are_isolated_too():
    """Of a small weight beside a large one the imbalance has no digits; the product and the next imbalance do."""
    rng = np.random.default_rng(3)
    draws = [(5.0, 1e-3, 2e-6, 1e-6, 5e-3), *(10 ** rng.uniform(-7, 1, rng.integers(2, 7)) for _ in range(12))]
    for w in draws:
        T = sum(np.prod(np.delete(w, l)) ** 2 for l in range(len(w)))
        found = optimum([np.array([[x]]) for x in w], starts=6)
        # They are the only feasible ones: `16 ε L` is added for the rounding, and no more.
        assert T * (1 - 1e-14) <= found.value <= T * (1 + 1e-12)
        assert found.residual < 1e-11 and found.rounding <= 1e-12 * T
        assert "rounding" not in repr(found)


def test_the_optimum_lies_above_what_is_known_at_any_size():
    """Two layers with n ≠ m attain the bound, whatever the sizes: with ‖T‖ = 10¹⁰ it may not be missed by 10⁻⁵."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        W1, W2 = 1e5 * rng.standard_normal((2, 3)), rng.standard_normal((3, 1))
        W1[1] *= 1e-5
        net = lf.Network([W1, W2])
        found = optimum(net, starts=4)
        assert found.value >= float(lf.bounds.best(net).value)
        assert found.value <= max(spectrum(net)[0], 0) + 2 * found.rounding
        assert 0 < found.rounding <= 1e-11 * spectrum(net)[-1]


def test_a_value_that_rounding_decides_says_so():
    # λ_min(T) = 2 beside λ_max(T) = 2·10¹⁸
    found = optimum([np.diag([1e9, 1.0]), np.diag([1e9, 1.0])], starts=2)
    assert found.value >= 2 and found.rounding > 2
    assert "decided by rounding" in repr(found)


# ---------------------------------------------------------------- properties


small_networks = networks(layers=st.integers(2, 4), side=st.integers(1, 3), hidden=st.integers(1, 4))


@settings(max_examples=15)
@given(net=small_networks)
def test_between_the_bounds_and_the_network(net):
    check_between(net)


@slow
@settings(max_examples=500)
@given(net=small_networks)
def test_between_the_bounds_and_the_network_on_many(net):
    check_between(net)


def check_between(net):
    found = optimum(net, starts=2)
    values = spectrum(net)
    # Rounding of the eigensolver above; below, the weights found violate the constraints by 1e-11 at most, which
    # near singular weights may count as a square root.
    least = found.value - found.rounding
    lost = 2 * EPS * found.rounding  # of the sum, and of its difference here
    assert least <= max(values[0], 0) + 1e-13 * values[-1] + lost
    assert found.value >= float(lf.bounds.best(net).value) - 1e-6 * values[-1]
    again = spectrum(found.network)
    assert least == pytest.approx(max(again[0], 0), rel=0, abs=1e-13 * again[-1] + lost + 1e-300)
    assert found.network.widths == net.widths and found.network.scale == net.scale
    imbalance, product = gap(found.network.weights, net.weights) if values[-1] > 0 else (0, 0)
    # Both residuals round at the size of the weights found, which may be larger than those given.
    norms = [[np.linalg.norm(W) for W in x.weights] for x in (found.network, net)]
    grown = [a / (b or max(norms[1]) / 100) if b > 0 or a > 0 else 1.0 for a, b in zip(*norms, strict=True)]
    rounding = max(1e-13, 1e-15 * max(max(grown) ** 2, math.prod(grown)))
    assert found.residual == pytest.approx(max(imbalance, product), abs=rounding)
    assert found.residual < 1e-10
    assert 1 <= found.hits <= found.starts


@pytest.mark.parametrize("widths", [(2, 3, 1), (2, 2, 2), (1, 2, 2, 2)], ids=str)
def test_symmetries(widths):
    """Reversal of the layers, orthogonal changes of every basis, and the scales change nothing."""
    rng = np.random.default_rng(9)
    weights = draw_weights(widths, "gaussian", 5)
    Q = [np.linalg.qr(rng.standard_normal((h, h)))[0] for h in widths]
    L = len(weights)
    value = optimum(weights, starts=4).value
    same = {
        "reversed": [W.T for W in reversed(weights)],
        "rotated": [A @ W @ B.T for (A, B), W in zip(itertools.pairwise(Q), weights, strict=True)],
        "larger": [10 * W for W in weights],
    }
    for name, others in same.items():
        factor = 100.0 ** (L - 1) if name == "larger" else 1.0
        # Other roundings, other paths, the same minimum.
        assert optimum(others, starts=4).value == pytest.approx(factor * value, rel=1e-8), name
    assert optimum(lf.Network(weights, 0.5), starts=4).value == pytest.approx(value / 4, rel=1e-12)


def test_a_wide_layer_is_reduced_exactly(rng):
    weights = draw_weights((2, 3, 2, 1), "gaussian", 1)
    Q = np.linalg.qr(rng.standard_normal((40, 3)))[0]
    wide = [weights[0] @ Q.T, Q @ weights[1], weights[2]]
    found = optimum(wide, starts=6)
    assert found.network.widths == (2, 40, 2, 1)
    # The width 4 = n + h_2 kept holds one more direction, 0 in these weights, not in all feasible ones.
    assert found.value <= optimum(weights, starts=6).value * (1 + 1e-8)
    assert found.residual < 1e-10


@pytest.mark.parametrize("seed", range(6))
def test_without_the_product(seed):
    widths = [(1, 1, 1, 1), (1, 2, 3, 1), (2, 3, 3, 2), (2, 3, 2, 1), (1, 3, 3, 2), (2, 2, 4, 2)][seed]
    net = lf.Network(draw_weights(widths, "gaussian", seed))
    free, fixed = optimum(net, starts=6, product=False), optimum(net, starts=6)
    size = spectrum(net)[-1]
    D1, D2 = lf.imbalance_matrices(net)
    assert free.value <= fixed.value + 1e-9 * size  # the free minimum includes the other
    bound = float(lf.bounds.three_layer(D1, D2, *net.shape))
    assert free.value >= bound - 1e-9 * size
    # Δ* is attained in every case searched. Where it is 0 the minimum is flat, reached as a square.
    assert free.value == pytest.approx(bound, abs=1e-8 * size)
    imbalance, _ = gap(free.network.weights, net.weights)
    assert free.residual == pytest.approx(imbalance, abs=1e-13)
    if set(widths) == {1}:
        assert free.value == pytest.approx(lf.bounds.scalar_exact([float(D1[0, 0]), float(D2[0, 0])], 0.0), rel=1e-9)


@pytest.mark.parametrize("widths", [(1, 1, 1), (2, 3, 2), (3, 4, 2), (1, 4, 2)], ids=str)
def test_two_layers_without_the_product_reach_the_gap(widths):
    """The positive part of D in W_1, the negative one in W_2: λ_min(T) is the gap, less than which it never is."""
    net = lf.Network(draw_weights(widths, "gaussian", 8))
    found = optimum(net, starts=6, product=False)
    # Where the gap is 0 the minimum is flat, reached as a square.
    assert found.value == pytest.approx(lf.imbalance_spectrum(net).spectral_gap, abs=1e-8 * spectrum(net)[-1])


def test_more_starts_are_never_worse_and_seeds_repeat():
    weights = draw_weights((2, 3, 3, 2), "gaussian", 3)
    few, more = optimum(weights, starts=2), optimum(weights, starts=5)
    assert more.value <= few.value * (1 + 1e-12)
    again = optimum(weights, starts=5, rng=np.random.default_rng(0))
    assert again.value == more.value and again.hits == more.hits
    assert repr(more).startswith("Optimum(0.0598")


# ---------------------------------------------------------------- edges


def test_a_singular_operator_is_the_minimum_already():
    net = lf.Network([np.ones((3, 1)), np.ones((1, 2))])
    found = optimum(net)
    assert found.value == 0 and found.network is net and found.converged
    zero = optimum([np.zeros((2, 2)), np.zeros((2, 2))])
    assert zero.value == 0 and zero.residual == 0


def test_a_single_layer_has_no_freedom():
    assert optimum(lf.Network([np.ones((2, 3))], 0.5)).value == 0.25


def test_refusals():
    with pytest.raises(ValueError, match="makes 500 unknowns"):
        optimum(lf.init.gaussian((10, 20, 10), rng=0))
    assert MOST_UNKNOWNS < 500
    with pytest.raises(ValueError, match="starts is 0"):
        optimum([np.ones((1, 1))] * 2, starts=0)
    with pytest.raises(ValueError, match="columns of W_1"):
        optimum([np.ones((2, 2)), np.ones((3, 2))])


def test_array_kinds(xp):
    weights = draw_weights((2, 3, 1), "gaussian", 2)
    found = optimum([xp.asarray(W) for W in weights], starts=3)
    assert isinstance(found.value, float)
    assert type(found.network.weights[0]) is type(xp.asarray(weights[0]))
    assert found.value == optimum(weights, starts=3).value


# ---------------------------------------------------------------- derivatives and the subproblem


@pytest.mark.parametrize("product", [True, False])
@pytest.mark.parametrize("widths", [(2, 3, 2), (3, 2, 4, 1), (1, 2, 2, 2, 2)], ids=str)
def test_derivatives_against_differences(widths, product, rng):
    search = WeightSearch(draw_weights(widths, "scaled", 6), product=product)
    x = search.vector(search.given) + 0.1 * rng.standard_normal(sum(W.size for W in search.given))
    E, value = rng.standard_normal((widths[0], widths[-1])), 0.3
    multipliers = rng.standard_normal(len(search.target))
    N = x.size

    def lagrangian(z):
        F = z[N:].reshape(E.shape)
        T = lf.TangentOperator(search.layers(z[:N]))
        return np.sum(F * T.apply(F)) / search.size - value * np.sum(F * F) - multipliers @ search.constraints(z[:N])

    z, step = np.concatenate([x, E.ravel()]), 1e-5
    sides = [(z + step * e, z - step * e) for e in np.eye(z.size)]
    differences = [(lagrangian(a) - lagrangian(b)) / (2 * step) for a, b in sides]
    # Central differences: step² times the third derivatives, and ε/step.
    assert search.gradient(x, E, multipliers, value) == pytest.approx(np.array(differences), abs=1e-7)
    columns = [(search.constraints(a[:N]) - search.constraints(b[:N])) / (2 * step) for a, b in sides[:N]]
    assert search.jacobian(x) == pytest.approx(np.array(columns).T, abs=1e-8)
    # A stack gives the rows.
    stack = search.gradient(np.stack([x, 2 * x]), np.stack([E, E]), multipliers, value)
    assert stack[1] == pytest.approx(search.gradient(2 * x, E, multipliers, value), abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 5), radius=st.floats(1e-3, 10), hard=st.booleans())
def test_trust_region_step_is_the_least_in_the_ball(seed, k, radius, hard):
    rng = np.random.default_rng(seed)
    H = rng.standard_normal((k, k))
    H = H + H.T
    g = rng.standard_normal(k)
    if hard:
        v = np.linalg.eigh(H)[1][:, 0]
        g = g - v * (v @ g)
    p, promised = _trust_region_step(g, H, radius)
    assert np.linalg.norm(p) <= radius * (1 + 1e-9)  # bisection ends within 2⁻⁶⁰ of the shift
    points = rng.standard_normal((300, k))
    points *= (radius * rng.random(300) / np.linalg.norm(points, axis=1))[:, None]
    values = points @ g + 0.5 * np.einsum("ki,ij,kj->k", points, H, points)
    size = radius * np.linalg.norm(g) + radius**2 * np.linalg.norm(H)
    assert -promised <= values.min() + 1e-9 * size
