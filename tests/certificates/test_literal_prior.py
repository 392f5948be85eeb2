"""Rates of published results from the imbalance and the margin, written out anew.

An ε of 2⁻³⁰ makes every allowance for rounding visible; both sides then agree to a few roundings (1e-11).
"""

import math
from importlib import import_module

import numpy as np
import pytest

import linflow as lf
from linflow.bounds import Invariants, _base
from linflow.certificates.prior import _rows, imbalance, modes, regimes
from linflow.certificates.setting import Setting

margin = import_module("linflow.certificates.margin")


def near(x, rel=1e-11, abs=0.0):
    return pytest.approx(x, rel=rel, abs=abs)


@pytest.fixture
def coarse(monkeypatch):
    monkeypatch.setattr(_base, "EPS", 2.0**-30)


def balanced(rng, widths, scale, away=0.05):
    """Balanced layers near their target."""
    n, m = widths[0], widths[-1]
    Y = np.eye(n, m) + 0.1 * rng.standard_normal((n, m))
    W0 = Y + away * rng.standard_normal((n, m))
    net = lf.init.balanced(widths, W0 / scale, rng=1)
    return Y, lf.Network(net.weights, scale)


def chain_allowance(net):
    inv = Invariants.of(net)
    return 2 * net.depth**4 * inv.allowance * inv.size ** (net.depth - 2)


@pytest.mark.parametrize("widths", [(2, 2, 2), (2, 2, 2, 2), (2, 3, 3), (3, 2, 2, 2)])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_balanced_layers_have_the_rate_of_the_end_to_end_flow(coarse, rng, widths, scale):
    Y, net = balanced(rng, widths, scale)
    f = lf.MatrixFactorization(Y)
    start = Setting(f, net)
    c, L = lf.margin(f, net, "distance"), net.depth
    assert start.margin_by_distance == c > 0 and start.imbalance == 0.0
    floor = scale**2 * ((c / scale) ** (2 - 2 / L) - chain_allowance(net))
    row = imbalance.arora2018(start)
    assert row.rate == near(2 * (L if widths[0] == widths[-1] else 1) * floor) and row.facts == {"margin": c}
    second = imbalance.arora2019(start)
    assert second.rate == near(2 * floor)
    size = np.linalg.norm(Y)
    allowed = c**2 / (256 * L**3 * size ** (2 - 2 / L))
    assert second.facts["deficiency margin"] == c and second.facts["δ allowed"] == near(allowed)
    delta = max(
        math.sqrt(sum(max(-a, b) ** 2 for a, b in zip(D.lower, D.upper, strict=True)))
        for D in start.invariants.spectra
    )
    assert second.facts["δ"] == near(scale ** (2 / L) * delta)


def test_a_little_imbalance_is_granted_half_the_rate(rng):
    Y, net = balanced(rng, (2, 2, 2), 0.7)
    net = lf.Network([net.weights[0] * (1 + 1e-7), net.weights[1]], 0.7)
    f = lf.MatrixFactorization(Y)
    start = Setting(f, net)
    c = start.margin_by_distance
    assert start.imbalance > 0
    assert imbalance.arora2019(start).rate == near(0.5 * 2 * 0.7 * c)
    assert "not balanced" in imbalance.arora2018(start).reason
    more = lf.Network([net.weights[0] * 1.1, net.weights[1] / 1.1], 0.7)
    assert "not balanced enough" in imbalance.arora2019(Setting(f, more)).reason
    far = Setting(lf.MatrixFactorization(Y), lf.Network([W * 3 for W in net.weights], 0.7))
    assert far.margin == 0 and "margin is 0" in imbalance.arora2019(far).reason
    assert not imbalance.arora2018(far).applies


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_an_ordered_imbalance_has_the_power_of_its_last(coarse, scale):
    f = lf.MatrixFactorization(np.ones((1, 1)))
    for weights, value in (([3.0, 2.5, 1.0], 2.5**2 - 1), ([1.0, 2.5, 3.0], 2.5**2 - 1), ([3.0, 1.0], 8.0)):
        net = lf.Network([np.array([[w]]) for w in weights], scale)
        L, allowance = len(weights), Invariants.of(net).allowance
        taken = chain_allowance(net) if L > 2 else 0.0
        row = imbalance.yun2021(Setting(f, net))
        assert row.facts["λ"] == near(value - allowance)
        assert row.rate == near(2 * scale**2 * ((value - allowance) ** (L - 1) - taken))
    for weights in ([2.0, 3.0, 2.5], [1.0, 1.0, 1.0]):
        assert not imbalance.yun2021(Setting(f, lf.Network([np.array([[w]]) for w in weights]))).applies
    unordered = lf.Network([np.array([[1.0]]), np.array([[3.0]]), np.array([[1.0]])])
    assert "not ordered" in imbalance.yun2021(Setting(f, unordered)).reason


def test_two_layers_have_the_sum_of_the_two_eigenvalues(coarse, rng):
    for n, m in ((2, 2), (1, 2), (2, 1)):
        for k in (3.0, 1 / 3):
            net = lf.Network([k * rng.standard_normal((n, 4)), rng.standard_normal((4, m)) / k], 0.7)
            D = Invariants.of(net).spectra[0]
            left, right = max(float(D.lower[n - 1]), 0.0), max(-float(D.upper[4 - m]), 0.0)
            row = imbalance.min2021(Setting(lf.MatrixFactorization(np.ones((n, m))), net))
            assert row.rate == near(2 * 0.49 * (left + right)) and row.applies == (left + right > 0)
            assert row.facts == {"λ_r(D)": near(left), "λ_m(−D)": near(right)}


def test_directions_without_data_are_measured(rng):
    X, Y = rng.standard_normal((2, 3)), rng.standard_normal((2, 2))
    f, net = lf.LinearRegression(X, Y), lf.Network([rng.standard_normal((3, 4)), rng.standard_normal((4, 2))])
    V = np.linalg.svd(X, full_matrices=False)[2].T
    W1, W2 = net.weights
    frozen = (np.eye(3) - V @ V.T) @ W1
    literal = math.hypot(np.linalg.norm(V.T @ W1 @ frozen.T), np.linalg.norm(W2.T @ frozen.T))
    row = imbalance.min2021(Setting(f, net))
    assert row.facts["off least norm"] == near(literal, rel=1e-10)


def test_the_best_bound_of_the_paper_at_its_margin(coarse, rng):
    Y, net = balanced(rng, (2, 3, 2), 0.7)
    f = lf.MatrixFactorization(Y)
    start = Setting(f, net)
    inv = Invariants.of(net).at(start.margin_by_distance / 0.7, math.inf)
    rows = [b for b in lf.bounds.evaluate(inv, 0.7) if b.applies and b.theorem.citation in ("min2021", "min2023")]
    assert imbalance.min2023(start).rate == near(2 * max(float(b.value) for b in rows))
    assert [t.name for t, _ in _rows.bounds_at_margin(start)] == [b.name for b in rows]


# --- modes ---------------------------------------------------------------------------------------------------------


def test_the_gap_of_modes_is_their_sum_raised_by_the_slack():
    d, s, w0 = np.array([0.5, -0.2]), np.array([2.0, 1.0]), np.array([0.3, 0.4])
    mu, c, slack = 1.5, 0.7, 1e-3
    first = 0.5 * mu * np.sum((s - w0) ** 2)
    curve = modes.ModeCurve(first, 2, c, mu, d, s, w0, slack, 0.05)
    for t in (0.2, 1.0, 2.5):
        total = 0.0
        for i in range(2):
            w = lf.exact.two_layer_scalar(d[i], s[i], w0[i], mu * (1 - slack) * t, scale=c)
            total += (abs(s[i] - w) + slack * 2.0) ** 2
        literal = min(0.5 * mu * (1 + slack) * total, first * math.exp(-0.05 * t), first)
        assert curve.gap(t) == near(literal)
    assert curve.gap(0.0) <= first and curve.time(first) == 0.0 and curve.rate_at(0.1) == 0.05
    for y in (0.5 * first, 0.05 * first):
        t = curve.time(y)
        assert curve.gap(t) <= y < curve.gap(t * (1 - 2e-7))
    never = modes.ModeCurve(first, 2, c, mu, d, s, w0, slack, 0.0)
    assert never.time(1e-9) == math.inf  # below what the slack leaves
    assert curve.time(1e-9) == near(math.log(first / 1e-9) / 0.05, rel=2e-7)  # to 1e-7, later
    deep = modes.ModeCurve(first, 3, c, mu, 0 * d, s, w0, 0.0, 0.0)
    literal = sum((s[i] - lf.exact.scalar_balanced(3, s[i], w0[i], mu * 0.7, scale=c)) ** 2 for i in range(2))
    assert deep.gap(0.7) == near(min(0.5 * mu * literal, first))


@pytest.mark.parametrize("L", [2, 3])
def test_aligned_layers_have_the_rate_of_their_slowest_mode(L):
    Y = np.diag([2.0, 0.5])
    net = lf.init.spectral((2, *[3] * (L - 1), 2), Y, 0.9, rng=0)
    net = lf.Network(net.weights, 0.7)
    start = Setting(lf.MatrixFactorization(Y), net)
    aligned = modes.aligned_modes(start)
    curve = modes._curve(start, aligned, balanced=True)
    w0 = 0.7 * 0.9**L
    least = [min(w0, s) for s in (2.0, 0.5)]
    floors = [L * 0.7 ** (2 / L) * x ** (2 - 2 / L) for x in least]
    assert curve.rate == near(2 * min(floors) * (1 - curve.slack), rel=1e-9) and curve.w0 == near([w0, w0], rel=1e-9)
    sizes = max(np.linalg.norm(W) for W in net.weights)
    closest, reach = 0.9, max(sizes, (2.0 / 0.7) ** (1 / L))
    assert curve.slack == near(16 * aligned.off * sizes / closest * reach / closest, rel=1e-6)
    row = modes._gidel(start, aligned)
    if L == 2:
        assert row.facts["half of mode 1"] == near(math.log(2.0 / w0 - 1) / (2 * 0.7 * 2.0), rel=1e-9)
        assert row.facts["half of mode 2"] == 0.0


# --- limits --------------------------------------------------------------------------------------------------------


def test_predictions_of_limits_are_as_written(rng):
    X = np.diag([1.0, 2.0])
    f, net = lf.LinearRegression(X, np.eye(2)), lf.Network([rng.standard_normal((2, 5)), rng.standard_normal((5, 2))])
    row = regimes.duhu2019(Setting(f, net))
    assert row.facts == {"κ": near(4.0), "width asked": near(2 * 2 * 4.0**3 * 2), "width": 5.0}
    T = np.linalg.eigvalsh(lf.TangentOperator(net).dense())[0]
    assert regimes.jacot2018(Setting(f, net)).facts["rate if T stayed"] == near(2 * T, rel=1e-9)
    Y, c = np.diag([2.0, 0.5]), 0.7
    for L in (2, 3, 4):
        small = lf.Network(lf.init.spectral((2, *[2] * (L - 1), 2), Y, 1e-3, rng=0).weights, c)
        facts, _ = regimes._vanishing(Setting(lf.MatrixFactorization(Y), small), "a start")
        alpha = c ** (1 / L) * 1e-3
        assert facts["α"] == near(alpha, rel=1e-9) and facts["α relative"] == near(alpha / 2 ** (1 / L), rel=1e-9)
        for name, s in (("first mode", 2.0), ("last mode", 0.5)):
            wait = math.log(2 ** (1 / L) / alpha) if L == 2 else 1e-3 ** (2 - L) / (L - 2)
            literal = wait / (c * s)
            assert facts[name] == near(literal, rel=1e-4)  # the trapezoidal rule of the deep ones
