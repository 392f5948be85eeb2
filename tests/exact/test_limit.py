"""The predicted limit of diagonal and circular networks: against integration, a literal program, and runs."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.optimize import minimize

import linflow as lf
from linflow.exact import chain_rate, limit
from linflow.exact._exposure import ExposedChains


def moved(layers, s):
    """Integrate `dw_l/dσ = s Π_{k≠l} w_k` over [0, 1]."""

    def field(_, z):
        W = z.reshape(layers.shape)
        return (s * np.array([np.prod(np.delete(W, l, 0), 0) for l in range(len(W))])).ravel()

    return (
        solve_ivp(field, (0, 1), layers.ravel(), method="DOP853", rtol=1e-12, atol=1e-15)
        .y[:, -1]
        .reshape(layers.shape)
    )


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["any", "equal", "zero", "two equal"])
def test_products_and_exposures_are_those_of_the_flow_of_the_chain(depth, kind, rng):
    layers = rng.standard_normal((depth, 5)) * 10 ** rng.uniform(-2, 0.0, 5)
    if kind == "equal":
        layers[:] = layers[0]
    if kind == "zero":
        layers[-1] = 0
    if kind == "two equal":
        layers[-1] = -layers[0]
    s = rng.uniform(-0.2, 0.2, 5)  # the largest chains would end at about 1
    end = moved(layers, s)
    w = np.prod(end, axis=0)
    chains = ExposedChains(layers)
    np.testing.assert_allclose(chains.product(s), w, rtol=1e-9, atol=1e-13)  # the twin's tolerance
    slopes = sum(np.prod(np.delete(end, l, 0), 0) ** 2 for l in range(depth))
    # Rounding of w, and of the coordinate ξ of up to 5, changes s by this much.
    error = 1e-13 + 64 * np.finfo(float).eps * np.abs(w) / np.maximum(slopes, 1e-300)
    assert np.all(np.abs(chains.exposure(chains.product(s)) - s)[slopes > 0] <= error[slopes > 0])
    np.testing.assert_allclose(chains.slope(w), slopes, rtol=1e-8, atol=1e-13)


def test_chains_that_end_and_chains_that_never_move():
    chains = ExposedChains(np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 2.0]]))
    # v̇ = v² from 1 ends at s = 1; from v = −1, s < 0 drives it away.
    assert chains.product(np.array([2.0, -2.0, 5.0])).tolist() == [np.inf, -np.inf, 0.0]
    np.testing.assert_allclose(chains.product(np.array([0.5, -0.5, 0.0])), [8.0, -8.0, 0.0], rtol=1e-13)
    assert np.isnan(chains.exposure(np.array([-1.0, 1.0, 1.0]))).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_products_of_weights_of_all_sizes_up_to_the_end_of_the_chain(sign):
    """`v = k sinh(arcsinh(v₀/k) + Cs)` while v ≪ C; the chain ends at `s = (log(4C/k) − arcsinh(v₀/k))/C`."""
    v0, C = sign * 1e-23, 1e30
    chains = ExposedChains(np.array([[v0], [1e-20], [C]]))
    k = 1e-20 * np.sqrt(1 - 1e-6)  # the offset of the second weight is the difference of squares
    for x in (75.0, -75.0, 5.0):
        v = k * np.sinh(np.arcsinh(v0 / k) + x)
        assert chains.product(np.array([x / C])).item() == pytest.approx(v * np.hypot(v, k) * C, rel=1e-9, abs=0)
    end, start = np.log(4 * C / k), np.arcsinh(v0 / k)
    for side in (1.0, -1.0):
        inside, outside = (
            chains.product(np.array([(side * (end + past) - start) / C])).item() for past in (-1.5, 1.5)
        )
        assert np.isfinite(inside) and np.sign(inside) == side and outside == side * np.inf


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_products_of_chains_that_fall_for_ever(sign):
    """Of two equal least weights: `v = ±C/sinh(arcsinh(C/|v₀|) ∓ Cs)`; at e^{−100} of the start nothing is left."""
    C = np.sqrt(4 - 0.25)
    chains = ExposedChains(np.array([[sign * 0.5], [0.5], [2.0]]))
    for x, rel in ((-60.0, 1e-9), (-5.0, 1e-12), (0.1, 1e-12)):
        v = C / np.sinh(np.arcsinh(C / 0.5) - x)
        found = chains.product(np.array([sign * x / C])).item()
        assert found == pytest.approx(sign * v * v * np.hypot(v, C), rel=rel, abs=0)
    assert chains.product(np.array([sign * -150.0 / C])).item() == 0.0


def test_exposures_far_from_the_start():
    """`s = ∫ dv/Π sqrt(v² + c_l)`, of one chain, from either side."""
    chains = ExposedChains(np.array([[0.5], [1.0], [2.0], [0.75]]))
    c = [0.75**2 - 0.25, 0.75, 3.75]
    for v in (-300.0, -2.0, 40.0):
        w = v * np.prod([np.sqrt(v * v + each) for each in c])
        s = quad(
            lambda v: 1 / np.prod([np.sqrt(v * v + each) for each in c]), 0.5, v, epsabs=0, epsrel=1e-12, limit=200
        )
        assert chains.exposure(np.array([w])).item() == pytest.approx(s[0], rel=1e-10, abs=0)


@pytest.mark.parametrize(
    ("layers", "s"),
    [
        ([-0.9924906, -0.9924906, 1.0863137, 0.7561671, -0.9477783], 1.96474267),
        ([14.8303363, -19.1454276, 25.1334320, -23.6823273, 21.6358744], -0.000217114543),
        (
            [
                -0.0007820962347972423,
                -0.0003121664765328205,
                -0.0004190097923053174,
                -0.0005967785344001238,
                0.0004109835852241545,
            ],
            -16254279158.28014,
        ),  # where a point outside of the bracket, or none, would not do
        ([0.1724425, 0.1950866, 0.2213107, 0.1254138, -0.1956261], 292.298286),
    ],
)
def test_where_newtons_steps_alone_go_round_the_bracket_is_halved(layers, s):
    chains = ExposedChains(np.array(layers)[:, None])
    assert chains.exposure(chains.product(np.array([s]))).item() == pytest.approx(s, rel=1e-13, abs=0)


@pytest.mark.parametrize("depth", [2, 3])
def test_two_weights_of_0_stay(depth):
    chains = ExposedChains(np.array([[0.0], [0.0], [1.0]][:depth]))
    assert chains.stuck.all() and chains.product(np.array([5.0])).item() == 0.0
    assert chains.slope(np.zeros(1)).item() == 0.0 and chains.exposure(np.zeros(1)).item() == 0.0


def entropy(X, y, alpha, tall):
    """Minimise `Σ φ(β)`, `φ' = ½ asinh(β/2α²)`, among the solutions, over coordinates of the kernel."""
    first = np.linalg.lstsq(X, y, rcond=None)[0]
    K = np.linalg.svd(X)[2][len(X) :].T
    a = 2 * alpha**2

    def value(z):
        b = first + K @ z
        u = np.arcsinh(b / a)
        return float(np.sum(b * u - np.hypot(b, a))), K.T @ u

    return first + K @ minimize(value, np.zeros(K.shape[1]), jac=True, method="BFGS", options={"gtol": tall}).x


@pytest.mark.parametrize("alpha", [0.01, 0.3, 3.0])
def test_two_equal_layers_minimise_a_hyperbolic_entropy(alpha, rng):
    X = rng.standard_normal((3, 6))
    y = X @ [1.0, -1, 0, 0, 0, 0] + 0.1 * rng.standard_normal(3)
    f = lf.DiagonalRegression(X, y)
    found = lf.predicted_limit(f, f.start(2, alpha))
    np.testing.assert_allclose(found.coefficients, entropy(X, y, alpha, 1e-9), rtol=0, atol=1e-6)
    assert found.gap < 1e-20 and found.distance < 1e-9


def starts(rng, kind, depth):
    if kind == "circular, one sample":
        f = lf.CircularRegression(rng.standard_normal((1, 5)), [1.3])
        filters = np.zeros((depth, 5))
        filters[:, 0] = rng.uniform(0.3, 1.0, depth)
        filters[-1] = 0
        return f, f.start(filters)
    if kind == "circular, even":
        rows = rng.standard_normal((2, 4))[:, [0, 1, 2, 3, 2, 1]]
        f = lf.CircularRegression(rows, rng.standard_normal(2))
        return f, f.start(0.6 * rng.standard_normal((depth, 4))[:, [0, 1, 2, 3, 2, 1]])
    if kind == "circular, two":
        f = lf.CircularRegression(rng.standard_normal((1, 2)), [0.7])
        return f, f.start(rng.standard_normal((depth, 2)))
    X = rng.standard_normal((2, 4))
    f = lf.DiagonalRegression(X, rng.standard_normal(2), signed=kind == "signed")
    if kind == "signed":
        return f, f.start(depth, 0.5)
    return f, lf.Network([np.diag(w) for w in 0.7 * rng.standard_normal((depth, 4))], scale=1.7)


KINDS = ["signed", "unequal", "circular, one sample", "circular, even", "circular, two"]


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_flow_ends_there_as_fast_as_said(kind, depth, rng):
    f, net = starts(rng, kind, depth)
    found = lf.predicted_limit(f, net)
    run = lf.gradient_flow(f, net, until=1e-12)
    # The last gap leaves 10⁻⁶ of the distance; a step's relative tolerance is 10⁻⁸.
    np.testing.assert_allclose(f.coefficients(run.final), found.coefficients, rtol=0, atol=2e-5)
    np.testing.assert_allclose(f.X @ found.coefficients, f.X @ f.coefficients(f.minimizer), rtol=0, atol=1e-12)
    assert found.gap < 1e-20 and found.distance < 1e-10
    assert run.rate.min() >= found.rate * (1 - 1e-7)  # of the rate observed, as for certificates
    assert np.all(run.gap[1:] * run.t[1:] <= found.divergence * (1 + 1e-7))
    chains = f.chains(run.final)
    np.testing.assert_allclose(
        chains.layers[:-1] ** 2 - chains.layers[1:] ** 2,
        found.imbalances * net.scale ** (2 / net.depth),
        rtol=0,
        atol=1e-6,
    )


def test_the_rate_is_that_of_the_least_chain():
    f = lf.CircularRegression([[1.0, 2.0]], [1.0])
    found = lf.predicted_limit(f, f.start([[0.5, 0.0], [0.0, 0.0]]))
    # γ = 2·5/2 and T = 0.25 + 0 at the start, the least of all time.
    assert found.rate == pytest.approx(5 * 0.25, rel=1e-8, abs=0) and found.rate < 5 * 0.25
    f = lf.DiagonalRegression([[1.0, 2.0]], [1.0])
    found = lf.predicted_limit(f, f.start(2, 0.3))
    # γ = 4·5, and the mean of 2u² and 2v² is least at u = v = α.
    assert found.rate == pytest.approx(20 * 2 * 0.09, rel=2e-6, abs=0) and found.rate < 20 * 2 * 0.09


def test_least_values_of_convex_functions_are_bounded_from_below():
    centres = np.array([0.0, 30.0, -200.0])
    low = chain_rate._least_convex(lambda s: np.cosh(s - centres) + 0.01 * s, 3)
    shift = np.arcsinh(-0.01)
    exact = np.cosh(shift) + 0.01 * (centres + shift)
    positive = exact > 0
    assert np.all(low[positive] <= exact[positive]) and np.all(low[positive] >= exact[positive] * (1 - 1e-5))


def test_the_distance_bounds_the_error_of_a_wrong_solution(rng):
    f, net = starts(rng, "unequal", 3)
    chains = f.chains(net)
    flow = ExposedChains(chains.layers)
    right = lf.predicted_limit(f, net)
    kernel = np.linalg.svd(chains.inputs)[2][2:].T
    for size in (1e-6, 1e-3, 3e-2):
        away = kernel @ rng.standard_normal(2)
        wrong = right.products + size * away / np.linalg.norm(away)
        off = flow.exposure(wrong) - right.exposure
        bound = limit._distance(flow, chains.basis, chains.costs, wrong, off)
        assert size <= bound <= 100 * size  # at most the condition number of T
        gap = np.sum(off * (wrong - right.products))
        assert gap > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_divergence_is_half_a_symmetric_one(kind, rng):
    """`B = ½ Σ c_i s_i (p_i − p_i(0))`, over the speed of the flow: `D(p, p_0) + D(p_0, p)` is that sum."""
    f, net = starts(rng, kind, 3)
    found, chains = lf.predicted_limit(f, net), f.chains(net)
    moved = found.products - np.prod(chains.layers, axis=0)
    literal = 0.5 * sum(c * s * x for c, s, x in zip(chains.costs, found.exposure, moved, strict=True)) / chains.speed
    assert found.divergence == pytest.approx(literal, rel=1e-12, abs=0) and literal > 0


@np.errstate(over="ignore", invalid="ignore")  # where no bound holds, the slopes leave float64
def test_the_distance_takes_the_steepest_chain_within_its_own_reach(rng):
    """`‖basis diag(√(T/c))‖ √(Σ c T off²)` with T at least the slope of each chain wherever the bound lets it be."""
    flow, rounds, ends = SimpleNamespace(slope=lambda w: 1 + w**2), set(), set()
    for _ in range(40):
        p, off, c = rng.standard_normal(3), 0.15 * rng.standard_normal(3), rng.uniform(0.3, 3, 3)
        basis, slope = rng.standard_normal((2, 3)), 2 * (1 + p**2)
        for rest in range(60, 0, -1):
            radius = np.sqrt(np.sum(c * slope * off**2))
            reach = radius * np.sqrt(slope / c)
            largest = np.array([1 + (abs(x) + r) ** 2 for x, r in zip(p, reach, strict=True)])
            if not np.isfinite(radius) or (largest <= slope).all():
                rounds.add(min(60 - rest, 2))
                break
            slope = np.where(largest <= slope, slope, 2 * largest)
        finite = np.isfinite(radius)
        literal = np.linalg.norm(basis @ np.diag(np.sqrt(slope / c)), 2) * radius if finite else np.inf
        ends.add(bool(finite))
        assert limit._distance(flow, basis, c, p, off) == pytest.approx(literal, rel=1e-12, abs=0)
    assert rounds == {0, 1, 2} and ends == {True, False}


@pytest.mark.parametrize("unit", [1e-5, 1e5])
def test_the_limit_in_other_units(unit, rng):
    """From weights u times as large, coefficients are u² times as large, whatever the unit of X."""
    X, y = rng.standard_normal((2, 4)), rng.standard_normal(2)
    f, g = lf.DiagonalRegression(X, y), lf.DiagonalRegression(unit**2 * X, unit**4 * y)
    one, other = lf.predicted_limit(f, f.start(2, 0.5)), lf.predicted_limit(g, g.start(2, 0.5 * unit))
    np.testing.assert_allclose(other.coefficients, unit**2 * one.coefficients, rtol=1e-10, atol=0)


def test_what_has_no_known_limit(rng):
    f = lf.CircularRegression(rng.standard_normal((2, 5)), [1.0, 2.0])
    with pytest.raises(ValueError, match="phases of the inputs differ"):
        lf.predicted_limit(f, f.start(np.eye(5)[:2]))
    f = lf.CircularRegression(rng.standard_normal((1, 5)), [1.0])
    with pytest.raises(ValueError, match="phases of the product of the filters differ"):
        lf.predicted_limit(f, f.start(rng.standard_normal((2, 5))))
    with pytest.raises(ValueError, match="W_1 is not circulant"):
        lf.predicted_limit(f, [rng.standard_normal((5, 5)), np.eye(5)])
    g = lf.DiagonalRegression([[1.0, 2.0]], [-1.0], signed=False)
    with pytest.raises(ValueError, match="W_2 is not diagonal"):
        lf.predicted_limit(g, [np.eye(2), np.ones((2, 2))])
    with pytest.raises(ValueError, match="no products that the flow can reach fit the data"):
        lf.predicted_limit(g, g.start(2, 0.5))  # β > 0 for ever
    with pytest.raises(ValueError, match="no products that the flow can reach fit the data"):
        lf.predicted_limit(g, [np.zeros((2, 2))] * 2)  # nothing moves
    with pytest.raises(TypeError, match="has no known limit"):
        lf.predicted_limit(lf.MatrixFactorization(np.eye(2)), [np.eye(2), np.eye(2)])


@pytest.mark.parametrize(("h", "scale"), [(1, 1.0), (2, 0.5), (6, 1.3)])
def test_one_sample_through_two_full_layers(h, scale, rng):
    x, y = rng.standard_normal(4), -1.7
    net = lf.Network([0.6 * rng.standard_normal((4, h)), 0.6 * rng.standard_normal((h, 1))], scale=scale)
    run = lf.gradient_flow(lf.LinearRegression(x[None, :], np.array([[y]])), net, until=1e-14)
    # A step's relative tolerance is 10⁻⁸, and the last gap leaves 10⁻⁷.
    np.testing.assert_allclose(lf.exact.one_sample_limit(x, y, net), run.final.product()[:, 0], rtol=0, atol=2e-6)


def test_one_sample_that_has_no_limit():
    x = [1.0, 0.0]
    with pytest.raises(ValueError, match="p = ±w at the start"):
        lf.exact.one_sample_limit(x, 1.0, [np.array([[1.0], [2.0]]), np.array([[-1.0]])])
    with pytest.raises(ValueError, match="two layers with one output"):
        lf.exact.one_sample_limit(x, 1.0, [np.ones((2, 2)), np.ones((2, 2))])
    with pytest.raises(ValueError, match="x is zero"):
        lf.exact.one_sample_limit([0.0, 0.0], 1.0, [np.ones((2, 2)), np.ones((2, 1))])


def test_a_complex_frequency_has_no_potential():
    """Two exposures with the same ends lead a complex chain to different products: no φ has φ' = s."""
    u, v = np.array([1.0 + 0j, 0.0j]), 1e-2

    def step(z, s):
        return np.array([z[0] + np.conj(z[1]) * s, z[1] + np.conj(z[0]) * s])

    ends = []
    for order in ((1.0, 1j), (1j, 1.0)):
        z = u.copy()
        for direction in order:
            for _ in range(100):
                z = step(z, v * direction)
        ends.append(z[0] * z[1])
    assert abs(ends[0] - ends[1]) > 0.5


def test_the_least_slope_allows_for_the_rounding_of_a_transform(monkeypatch):
    monkeypatch.setattr(chain_rate, "EPS", 2.0**-14)
    layers = np.array([[2.0, 3.0, 2.5, 2.0], [0.5, 0.1, 0.2, 0.3]])
    off = 64 * 2.0**-14 * (1 + 2) * float(np.sum(layers**2))
    expected = 4.0 - 0.25 - off  # 2² − ½² is the least difference
    assert chain_rate.least_slope(layers, opposite=False) == pytest.approx(expected, rel=1e-8, abs=0)
    assert 0 < off < 1 and chain_rate.least_slope(0.1 * np.ones((2, 4)), opposite=False) == 0.0


def test_the_least_slope_of_opposite_chains_is_that_of_the_least_pair():
    """From α in both, ½(2u² + 2v²) is least at the start: 2α²."""
    assert (chain_rate._SLACK, chain_rate._NEAR) == (1e-9, 1e-6)
    layers = np.array([[0.5, 2.0, 0.5, 2.0]] * 2)
    found = chain_rate.least_slope(layers, opposite=True)
    assert found == pytest.approx(0.5, rel=3e-6, abs=0) and found <= 0.5


def test_lines_through_the_middle_bound_a_skew_convex_function():
    """max(−x, 9x): between −1 and 1 the lines through 0 leave no more than 2f(0) − max f(±1)."""
    seen = []

    def skew(x):
        seen.append(float(x[0]))
        return 10.0 + np.where(x < 0, -0.5 * x, 9.0 * x)

    low = chain_rate._least_convex(skew, 1)
    assert 10.0 * (1 - chain_rate._NEAR) <= low[0] <= 10.0
    assert 9.0 * max(x for x in seen[-3:]) <= 10.0 * chain_rate._NEAR  # no wider than the steeper side lets it be


@pytest.mark.parametrize("slack", [0.25, 0.5])
def test_the_least_slope_is_the_least_product_of_offsets(slack, monkeypatch):
    monkeypatch.setattr(chain_rate, "_SLACK", slack)
    layers = np.array([[3.0, 1.0, 2j], [-2.0, 4.0, -3.0], [1j, 2.0, 4.0]])
    products = [(4 - 1) * (9 - 1), (4 - 1) * (16 - 1), (9 - 4) * (16 - 4)]
    assert chain_rate.least_slope(layers, opposite=False) == pytest.approx(min(products) * (1 - slack), rel=1e-11)
    # Two layers: T = ½(a + b)²e^{2s} + ½(a − b)²e^{−2s} and, of the opposite chain (c, d), the same at −s.
    (a, c), (b, d) = pair = np.array([[1.0, 0.3], [0.2, 0.9]])
    least = 0.5 * np.sqrt(((a + b) ** 2 + (c - d) ** 2) * ((a - b) ** 2 + (c + d) ** 2))
    found = chain_rate.least_slope(pair, opposite=True)
    assert least * (1 - slack) * (1 - 1e-6) <= found <= least * (1 - slack) * (1 + 1e-12)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_three_points_walk_to_the_minimum_and_close_in(side, monkeypatch):
    """|x − 5| + 1 and |x − 3| + 1, until both bounds, `2f(middle) − f(end)`, are at least three quarters."""
    monkeypatch.setattr(chain_rate, "_NEAR", 0.25)
    seen = []

    def function(x):
        seen.append(side * x)
        return np.abs(side * x - np.array([5.0, 3.0])) + 1

    assert chain_rate._least_convex(function, 2).tolist() == [0.75, 0.9375]
    triples = list(zip(*[iter(seen)] * 3, strict=True))
    for k, path in enumerate(
        (
            [(0, 1), (1, 2), (3, 4), (3, 2), (5, 4), (5, 2), (5, 1), (5, 0.5), (5, 0.25)],
            [(0, 1), (1, 2), (3, 4), (3, 2), (3, 1), (3, 0.5), (3, 0.25), (3, 0.125), (3, 0.0625)],
        )
    ):
        assert [(float(m[k]), abs(float(r[k] - m[k]))) for _, m, r in triples] == path
        assert all(abs(m[k] - a[k]) == abs(r[k] - m[k]) for a, m, r in triples)
    assert chain_rate._least_convex(lambda x: np.abs(x) - 5, 1).tolist() == [0.0]  # no slope is negative
    # Of one that falls for ever nothing is known but that.
    assert chain_rate._least_convex(lambda x: np.where(x < 0, 1 - x, 1 / (1 + np.abs(x))), 1).tolist() == [0.0]


@pytest.mark.parametrize("kind", ["unequal", "circular, even"])
def test_the_numbers_of_a_limit_that_is_not_quite_met(kind, rng, monkeypatch):
    """From an exposure that is a hundredth off: what meets the data, its gap, and what the flow conserves."""
    f, net = starts(rng, kind, 3)
    chains, plain = f.chains(net), limit._followed

    def followed(layers, V, wanted, c):
        nu = 1.01 * plain(layers, V, wanted, c)[0]
        return nu, ExposedChains(layers).product(V.T @ nu / c)

    monkeypatch.setattr(limit, "_followed", followed)
    found, flow = lf.predicted_limit(f, net), ExposedChains(chains.layers)
    np.testing.assert_allclose(chains.inputs @ found.products, f.X @ f.coefficients(f.minimizer), rtol=1e-12)
    p, off = flow.product(found.exposure), flow.exposure(found.products) - found.exposure
    gap = sum(abs(c * (a - b) * s) for c, a, b, s in zip(chains.costs, found.products, p, off, strict=True))
    assert found.gap == pytest.approx(gap, rel=1e-6, abs=0) and gap > 1e-9
    monkeypatch.undo()
    right = lf.predicted_limit(f, net)
    np.testing.assert_allclose(found.exposure, 1.01 * right.exposure, rtol=1e-8)
    np.testing.assert_allclose(flow.exposure(right.products), right.exposure, rtol=0, atol=1e-12)
    own = [np.diag(W) for W in net.weights] if kind == "unequal" else np.abs(np.fft.fft([W[0] for W in net.weights]))
    for found_l, a, b in zip(right.imbalances, own[:-1], own[1:], strict=True):
        np.testing.assert_allclose(found_l, (a**2 - b**2)[: len(found_l)], rtol=1e-9, atol=1e-13)
    if kind == "unequal":
        squares = np.sort(np.square(own), axis=0)
        least = np.min(np.prod(squares[1:] - squares[:1], axis=0))
        assert right.rate == pytest.approx(1.7**2 * f.pl_constant * least, rel=1e-7)
    monkeypatch.setattr(ExposedChains, "exposure", lambda self, w: np.where(np.arange(len(w)) == 1, np.nan, 0.0))
    assert lf.predicted_limit(f, net).gap == np.inf == lf.predicted_limit(f, net).distance


@pytest.mark.parametrize("kind", KINDS)
def test_newtons_method_takes_few_rounds(kind, rng, monkeypatch):
    f, net = starts(rng, kind, 3)
    monkeypatch.setattr(limit, "_ROUNDS", 7)  # 4 or 5 are needed
    assert lf.predicted_limit(f, net).gap < 1e-20


@pytest.mark.parametrize(("part", "rank"), [(0.9, 1), (1.1, 2)])
def test_the_rank_of_the_inputs_of_chains(part, rank, monkeypatch):
    coarse, seen = 2.0**-10, []
    monkeypatch.setattr(limit, "EPS", coarse)
    X = np.zeros((2, 4))
    X[0, 0], X[1, 1] = 3.0, part * 4 * coarse * 3.0
    f = lf.DiagonalRegression(X, X @ np.ones(4), signed=False)
    monkeypatch.setattr(
        limit, "_followed", lambda layers, V, wanted, c: seen.append(wanted) or (0 * wanted, np.ones(4))
    )
    lf.predicted_limit(f, f.start(2, 1.0))
    assert len(seen[0]) == rank and np.allclose(np.abs(seen[0]), 1.0)


@pytest.mark.parametrize(("part", "fine"), [(0.9, False), (1.1, True)])
def test_sides_that_are_nearly_the_same(part, fine):
    w = 10.0 - part * 20e-12  # ‖p − w‖ is 1e-12 of ‖p + w‖ and part of it
    for net in ([np.array([[10.0]]), np.array([[w]])], [np.array([[w]]), np.array([[-10.0]])]):
        if fine:
            assert lf.exact.one_sample_limit([1.0], 3.0, net).item() == pytest.approx(3.0, rel=1e-12)
        else:
            with pytest.raises(ValueError, match="p = ±w"):
                lf.exact.one_sample_limit([1.0], 3.0, net)
