"""What a Huber regression allows for, number by number: pieces, the level of the gap, and rounding."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow._support.arrays import EPS
from linflow.certificates.envelope import envelope
from linflow.certificates.margin import product_range
from linflow.model import huber, robust
from linflow.model.robust import HuberFit, Piece, _piece


def test_a_piece_allows_for_the_slope_and_for_rounding():
    X = np.random.default_rng(0).standard_normal((9, 2))
    slack, lengths = np.linspace(1.0, 0.2, 9), np.linalg.norm(X, axis=1)
    for slope in (0.0, 0.05):
        found = _piece(X, slack, lengths, slope, 6)
        U, s, _ = np.linalg.svd(X[:6], full_matrices=False)
        curvature = (s[1] - 16 * 9 * EPS * s[0]) ** 2
        room = slack[:6] - 2 * lengths[:6] * (slope / curvature)
        leverage = np.sum(U * U, axis=1) * (1 + 32 * EPS) + 16 * EPS
        assert found == Piece(curvature, float(np.min(room * room / leverage)) / 2 / (1 + 8 * EPS))
    assert _piece(X, slack, lengths, 100.0, 6) is None and _piece(X, slack, lengths, 0.0, 1) is None


def test_residuals_are_off_by_the_rounding_of_large_data():
    X, w = np.array([[1.0], [1.0], [2.0]]), np.array([1e9])
    y = X[:, 0] * 1e9 + np.array([0.25, -0.25, 0.0])
    fit = HuberFit.of(X, y, w, 1.0, 6**0.5)
    off = 4 * EPS * (X[:, 0] * 1e9 + np.abs(y))
    assert off.min() > 1e-7
    slope = abs(float(X[:, 0] @ (X[:, 0] * 1e9 - y))) + float(X[:, 0] @ (4 * EPS * np.abs(X[:, 0] * 1e9 - y) + off))
    assert fit.slope == pytest.approx(slope, rel=1e-12)
    expected = _piece(X, 1.0 - np.abs(X[:, 0] * 1e9 - y) - off, X[:, 0], fit.slope, 3)
    assert fit.pieces[0] == expected and fit.distance == fit.slope / max(p.curvature for p in fit.pieces)


def test_the_excess_of_the_minimum_counts_as_gap():
    f = lf.Huber([[1.0]], [[0.0]])
    f.excess = 1.0
    assert float(f.pl_constant_on(0.0)) == pytest.approx(1.0, rel=1e-12)  # 2 min(1, ½/1)


def test_rounding_of_gap_and_gradient():
    f = lf.Huber([[2.0]], [[3.0]], 1.0)
    excess = f.excess
    assert f.minimizer.item() == 1.5 and excess < 1e-28
    near, far = lf.Network([np.array([[1.6]])]), lf.Network([np.array([[3.0]])])
    e, turned = 4 * EPS * 2 * (1.6 + 1.5), 2 * (1.6 - 1.5)
    gap = 0.5 * turned**2
    assert f.rounding(near) == pytest.approx(8 * EPS * gap + turned * e + 0.5 * e * e + excess, rel=1e-12, abs=0)
    assert f.gradient_rounding(near) == pytest.approx(2 * 4 * EPS * turned + 2 * e, rel=1e-12, abs=0)
    e, kink = 4 * EPS * 2 * (3.0 + 1.5), 4 * EPS * (2 * 1.5 + 3)
    assert f.rounding(far) == pytest.approx(8 * EPS * 2.5 + e + 0.5 * e * e + 3 * kink + excess, rel=1e-12, abs=0)
    assert f.gradient_rounding(far) == pytest.approx(2 * 4 * EPS + 2 * e + 2 * kink, rel=1e-12, abs=0)


def test_rounding_with_a_coarse_unit(monkeypatch):
    """Of 40 samples and two outputs, with each of the three limits of what a kink may change."""
    rng, coarse = np.random.default_rng(3), 2.0**-4
    X = rng.standard_normal((40, 2))
    Y = X @ rng.standard_normal((2, 2)) + 0.3 * rng.standard_normal((40, 2))
    f = lf.Huber(X, Y, 0.2)
    V, f.excess = f.minimizer, 2.0**-5
    monkeypatch.setattr(huber, "EPS", coarse)
    seen = set()
    for size in (1e-3, 0.3, 30.0):
        A = V + size * rng.standard_normal((2, 2))
        net = lf.Network([A, 0.5 * np.eye(2)], scale=2.0)
        x = np.linalg.norm(X, axis=1)[:, None]
        e = 4 * coarse * x * (2.0 * np.linalg.norm(A) * 0.5 * np.sqrt(2) + np.linalg.norm(V))
        R0, D = X @ V - Y, X @ (A - V)
        turned = np.clip(R0 + D, -0.2, 0.2) - np.clip(R0, -0.2, 0.2)
        limits = np.stack(np.broadcast_arrays(4 * coarse * (x * np.linalg.norm(V) + np.abs(Y)), np.abs(D), 0.4))
        crossed = (np.abs(R0) <= 0.2) != (np.abs(R0 + D) <= 0.2)
        seen |= set(np.argmin(limits, axis=0)[crossed].tolist())
        kinks = np.where(crossed, limits.min(axis=0), 0.0)
        expected = 8 * coarse * f.gap(A) + np.sum(np.abs(turned) * e) + np.sum(e * e) + np.sum(kinks * np.abs(D))
        assert f.rounding(net) == pytest.approx(expected + 2.0**-5, rel=1e-12, abs=0)
        direct = 4 * coarse * np.sum(x[:, 0] * np.linalg.norm(turned, axis=1))
        expected = direct + np.sqrt(2 * f.smoothness) * np.linalg.norm(e)
        expected += np.sqrt(f.smoothness) * np.linalg.norm(kinks)
        assert f.gradient_rounding(net) == pytest.approx(expected, rel=1e-12, abs=0)
    assert seen == {0, 1, 2}
    away = math.hypot(*(fit.distance for fit in f._fits))
    assert f.minimizer_size == pytest.approx(4 * np.linalg.norm(V) + away / coarse, rel=1e-14, abs=0)


def test_levels_are_raised_by_rounding_and_by_the_excess(monkeypatch):
    f = lf.Huber([[1.0]], [[0.0]])
    monkeypatch.setattr(huber, "EPS", 2.0**-6)
    f.excess = 1.0
    assert float(f.pl_constant_on(2.0)) == pytest.approx(2 * 0.5 / (2.0 * 1.125 + 1.0), rel=1e-12)
    assert float(f.pl_constant_on(-5.0)) == pytest.approx(2 * 0.5 / 1.0, rel=1e-12)


def test_an_envelope_takes_the_dominance_of_each_level():
    levels, gammas, floors = np.array([9.0, 4.0, 1.0]), np.array([0.5, 1.0, 2.0]), np.array([1.0, 3.0, 2.0])
    curve = envelope(levels, gammas, floors, None)
    assert curve is not None and curve.rates.tolist() == [0.5, 3.0, 4.0]
    one = envelope(levels, 2.0, floors, None)
    assert one is not None and one.rates.tolist() == [2.0, 6.0, 4.0]

    class Nearby:
        def __init__(self):
            self.seen = []

        def floor_and_reach(self, travelled, fall):
            self.seen.append((travelled, fall))
            return 5.0, travelled + fall

    nearby = Nearby()
    curve = envelope(levels, gammas, floors, nearby)  # type: ignore[arg-type]
    falls = [(3 - 2) / 0.5**0.5, 2 - 1, (1 - 0) / 2**0.5]
    assert curve is not None and curve.rates.tolist() == [2.5, 5.0, 10.0]
    assert np.allclose(
        nearby.seen, [(0, falls[0]), (falls[0], falls[1]), (falls[0] + falls[1], falls[2])], rtol=1e-14
    )


def test_the_range_of_the_product_uses_the_growth_of_each_level():
    f = lf.Huber(np.eye(2), np.array([[3.0, 0.0], [0.0, 2.0]]), 0.1)
    net = lf.Network([f.minimizer])
    gaps = np.array([0.02, 0.005, 1e-6])
    low, _, high = product_range(f, net, gaps)
    reach = np.sqrt(2 * gaps / f.growth_on(gaps))
    assert np.allclose(low, 2.0 - reach, atol=1e-12) and np.allclose(high, 3.0 + reach, atol=1e-12)
    assert f.growth_on(gaps)[0] < 0.99 * f.growth_on(gaps)[2]


def test_growth_and_dominance_are_rounded_down(monkeypatch):
    monkeypatch.setattr(robust, "EPS", 2.0**-6)
    piece, gap = Piece(3.0, 0.5), np.array([0.25, 2.0])
    assert piece.dominance(gap) == pytest.approx(6.0 * np.array([1.0, 0.25]) / 1.125, rel=1e-14)
    assert piece.growth(gap) == pytest.approx(12.0 * np.array([1 / 4, 0.25 / 1.25**2]) / 1.125, rel=1e-14)
    assert robust.SHARES == (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@pytest.mark.parametrize("size", [0.01, 10.0])
def test_without_a_piece_the_excess_is_the_slope_over_the_farthest_minimiser(size, monkeypatch):
    """‖w − w*‖ ≤ 2 √(2f max(1, r/δ))/σ with r the farthest residual of either kind."""
    monkeypatch.setattr(robust, "_piece", lambda *_: None)
    X, y, w = np.array([[1.0], [2.0]]), size * np.array([1.0, -1.0]), np.array([0.001])
    fit = HuberFit.of(X, y, w, 0.5, math.sqrt(5.0))
    r = X @ w - y
    slopes = np.clip(r, -0.5, 0.5)
    free = np.abs(r) <= 0.5
    assert free.all() == (size < 1)
    value = float(np.sum(np.abs(slopes) * (np.abs(r) - np.abs(slopes) / 2)))
    farthest = max(math.sqrt(2 * value), value / 0.5 + 0.25)
    away = 2 * math.sqrt(2 * value * max(1.0, farthest / 0.5)) / math.sqrt(5.0)
    off = 4 * EPS * (X[:, 0] * 0.001 + np.abs(y))
    slope = abs(float(X[:, 0] @ slopes)) + float(X[:, 0] @ (4 * EPS * np.abs(slopes) + free * off))
    assert fit.slope == pytest.approx(slope, rel=1e-14) and fit.excess == pytest.approx(slope * away, rel=1e-12)
    assert fit.distance == math.inf and fit.pieces == ()


def test_a_piece_whose_nearest_sample_leaves_shows_nothing():
    X = np.array([[1.0], [1.0], [1.0]])
    assert _piece(X, np.array([0.5, 0.4, 0.1]), np.ones(3), 0.3, 3) is None  # 0.1 − 2·0.3/3 < 0
    assert _piece(X, np.array([0.5, 0.4, 0.3]), np.ones(3), 0.3, 3) is not None
    assert _piece(np.full((3, 1), 1e-170), np.ones(3), np.full(3, 1e-170), 0.0, 3) is None  # a square that vanishes
