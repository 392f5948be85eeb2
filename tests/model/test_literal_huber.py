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
    """‖w − w*‖ ≤ 2 √(2f max(1, r/δ))/σ, r the farthest residual of either kind, f of residuals as off as can be."""
    coarse = 2.0**-8
    monkeypatch.setattr(robust, "_piece", lambda *_: None)
    monkeypatch.setattr(robust, "EPS", coarse)
    X, y, w = np.array([[1.0], [2.0]]), size * np.array([1.0, -1.0]), np.array([0.001])
    fit = HuberFit.of(X, y, w, 0.5, math.sqrt(5.0))
    r, off = X @ w - y, 4 * coarse * (X[:, 0] * 0.001 + np.abs(y))
    slopes = np.clip(r, -0.5, 0.5)
    free = np.abs(r) <= 0.5 + off
    assert free.all() == (size < 1)
    value = sum(0.5 * a * a if a <= 0.5 else 0.5 * a - 0.125 for a in np.abs(r) + off)
    farthest = max(math.sqrt(2 * value), value / 0.5 + 0.25)  # of a small and of a large residual
    away = 2 * math.sqrt(2 * value * max(1.0, farthest / 0.5)) / math.sqrt(5.0)
    slope = abs(float(X[:, 0] @ slopes)) + float(X[:, 0] @ (4 * coarse * np.abs(slopes) + free * off))
    assert fit.slope == pytest.approx(slope, rel=1e-14) and fit.excess == pytest.approx(slope * away, rel=1e-12)
    assert fit.distance == math.inf and fit.pieces == ()


def test_a_fit_with_a_coarse_unit(monkeypatch):
    """Slope, slack and the samples of each piece; one residual is at the threshold but for its rounding."""
    coarse = 2.0**-20
    monkeypatch.setattr(robust, "EPS", coarse)
    rng = np.random.default_rng(7)
    x, half = rng.standard_normal(12), 0.3 * rng.standard_normal(12)
    half[:3] = 1.0, 2.0, 1.0 + 4 * coarse
    X, y, w = np.repeat(x, 2)[:, None], np.stack([half, -half], axis=1).ravel(), np.zeros(1)  # 0 is the minimum
    threshold = (
        1.0 + 4 * coarse
    )  # the slack of the first two is exactly 0; that of the fifth is less than its rounding
    fit = HuberFit.of(X, y, w, threshold, float(np.linalg.norm(X)))
    slope, slacks = (
        abs(sum(x * float(np.clip(-b, -threshold, threshold)) for x, b in zip(X[:, 0], y, strict=True))),
        [],
    )
    for x, b in zip(X[:, 0], y, strict=True):
        off = 4 * coarse * abs(b)
        slope += abs(x) * (4 * coarse * min(abs(b), threshold) + (off if abs(b) <= threshold + off else 0.0))
        slacks.append(threshold - abs(b) - off)
    assert fit.slope == pytest.approx(slope, rel=1e-12)
    assert slacks[0] == slacks[1] == 0 and sum(s > 0 for s in slacks) == 18
    pieces = {}
    for share in robust.SHARES:
        found = _piece(X, np.array(slacks), np.abs(X[:, 0]), slope, int(share * 18))
        if found is not None:
            pieces[round(found.level, 9)] = found
    assert len(fit.pieces) == len(pieces) > 3
    for one, other in zip(fit.pieces, pieces.values(), strict=True):
        assert (one.curvature, one.level) == pytest.approx((other.curvature, other.level), rel=1e-9)
    curvature = max(piece.curvature for piece in fit.pieces)
    assert (fit.distance, fit.excess) == (fit.slope / curvature, fit.slope * fit.slope / curvature)


# --- Newton's method ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_search_ends_where_the_slope_is_0(seed):
    """The minimum of `Σ h(r + td)` over t > 0, in all of its intervals; entries of d may be 0."""
    rng = np.random.default_rng(seed)
    count = 2 + seed
    r, d = 3 * rng.standard_normal(count), rng.standard_normal(count) * 10.0 ** rng.uniform(-1, 1)
    if seed % 3 == 0:
        r = np.append(r, [1.0, 5.0, 0.5])
        d = np.append(d, [0.0, 0.0, 0.0])  # one of them is at a kink
    d = d if np.clip(r, -1, 1) @ d < 0 else -d
    t = robust._searched(r, d, 1.0)
    sizes = np.abs(np.clip(r + t * d, -1, 1) * d)
    assert t > 0 and abs(np.clip(r + t * d, -1, 1) @ d) <= 1e-13 * sizes.sum()  # the sum's rounding


@pytest.mark.parametrize(
    ("r", "d", "t"),
    [
        ([-0.5], [0.25], 2.0),  # no kink before the minimum
        ([-3.0], [1.0], 3.0),  # between the two kinks
        ([-5.0, 5.0], [1.0, 0.0], 5.0),
        ([-4.0, -3.0], [1.0, 2.0], 1.75),  # −1 + 2(2t − 3) = 0
        ([5.0, -5.0], [1.0, 0.1], 0.0),  # ascending and flat: nothing is gained
        ([5.0], [1.0], 0.0),
        ([-2.0, 2.0], [1.0, 1.0], 1.0),  # flat from here to the end
    ],
)
def test_searches_by_hand(r, d, t):
    assert robust._searched(np.array(r), np.array(d), 1.0) == pytest.approx(t, rel=1e-15)


def test_a_step_is_newtons_or_that_of_the_weights():
    X = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 1.5], [2.0, 2.0]])
    g = np.array([0.3, -0.7])
    r = np.array([0.5, -1.0, 4.0, -8.0])  # the second is at the kink: two rows count
    near = X[:2]
    np.testing.assert_allclose(robust._solved(X, r, 1.0, g), np.linalg.solve(near.T @ near, g), rtol=1e-12)
    for r in ([0.5, -2.0, 4.0, -8.0], [-2.0, 0.5, 4.0, 8.0]):  # too few rows: each counts with min(1, δ/|r|)
        weights = np.array([min(1.0, 1.0 / abs(x)) for x in r])
        H = X.T @ (weights[:, None] * X)
        np.testing.assert_allclose(robust._solved(X, np.array(r), 1.0, g), np.linalg.solve(H, g), rtol=1e-12)
    same = np.array([[3.0, 3.0], [3.0, 3.0], [0.0, 1.0]])  # two equal rows are one
    weights = np.array([1.0, 1.0, 0.25])
    H = same.T @ (weights[:, None] * same)
    np.testing.assert_allclose(
        robust._solved(same, np.array([0.5, 0.5, 4.0]), 1.0, g), np.linalg.solve(H, g), rtol=1e-9
    )


@pytest.mark.parametrize(("ratio", "fine"), [(1.1e-10, True), (0.9e-10, False)])
def test_where_no_system_can_be_solved_the_step_is_along_the_gradient(ratio, fine):
    X, g = np.diag([10.0, 10.0 * ratio]), np.array([1.0, 1.0])
    expected = g / np.diag(X) ** 2 if fine else g / 100.0
    np.testing.assert_allclose(robust._solved(X, np.zeros(2), 1.0, g), expected, rtol=1e-12)


ITERATES = [
    [4.0, 3.5, 0.1875, 0.0],  # twice the same slope at values that are alike; then near the minimum, at 1/6
    [9.0, -1.5, 0.5],  # steeper, and much lower: kept
    [5.0, -0.875, 0.875, 0.25, 0.1875],
    [0.5, 6.0, 0.375],  # worse in both: the end
    [0.875, -0.25, 0.125, 0.5, 0.375],
    [-0.875, 0.875, 0.75, 0.625, 0.25],
    [2.0, 2.0, 0.375],
    [4.0, 3.5, 9.0],  # of the values 18, 16.75 and 30.5 the second is lower by more than 18/16: kept
    [4.0, 3.75, 9.0],  # 17.375 is not
]


@pytest.mark.parametrize("iterates", ITERATES, ids=str)
@pytest.mark.parametrize("close", [1e-3, 0.25])
def test_of_all_iterates_the_flattest_is_kept_or_one_that_is_clearly_lower(iterates, close, monkeypatch):
    coarse = 2.0**-7  # clearly lower: by 8ε
    monkeypatch.setattr(robust, "EPS", coarse)
    X, y = np.array([[1.0], [1.0], [1.0], [0.5]]), np.array([0.0, 0.0, 0.0, 10.0])
    rest = iter([*np.diff(iterates), 0.0, 0.0, 0.0])
    monkeypatch.setattr(robust, "_solved", lambda *_: -np.ones(1))
    monkeypatch.setattr(robust, "_searched", lambda *_: next(rest))
    found = robust._newton(X, y, np.array([iterates[0]]), 1.0, close)
    best = least = math.inf
    kept = None
    for w in iterates:
        slopes = [float(np.clip(w * x - b, -1, 1)) for x, b in zip(X[:, 0], y, strict=True)]
        value = sum(abs(s) * (abs(w * x - b) - abs(s) / 2) for s, x, b in zip(slopes, X[:, 0], y, strict=True))
        size = abs(sum(s * x for s, x in zip(slopes, X[:, 0], strict=True)))
        if value >= best and size >= least:
            break
        if size < least or value < best * (1 - 8 * coarse):
            kept, least = w, size
        best = min(best, value)
        if size <= close * sum(abs(s * x) for s, x in zip(slopes, X[:, 0], strict=True)):
            break
    assert found.item() == kept  # the iterates are exact


def test_the_threshold_comes_down_from_the_largest_residual_of_either_sign():
    for side in (1.0, -1.0):
        # Of 0, 0, 0, 0 and 10 within 3: 4w = 3. Of −6.5 and four times 3.5 within 6: 4(w − 3.5) = −6.
        for y, threshold, w in (([0.0] * 4 + [10.0], 3.0, 0.75), ([-6.5] + [3.5] * 4, 6.0, 2.0)):
            found = robust.fitted(np.ones((5, 1)), side * np.array(y), threshold)
            assert found.item() == pytest.approx(side * w, rel=1e-14)


def test_a_loss_of_0_in_float64_may_be_off():
    """At δ = 1e-9 residuals of numbers of size 1e8 are rounding: the computed loss says nothing."""
    X, y, w = np.array([[1e8]]), np.array([1e8]), np.array([1.0])
    fit = HuberFit.of(X, y, w, 1e-9, 1e8)
    true = 1e-9 * 1e-8  # the loss at an exact y that is 1e-8 away, which rounds to this one; its minimum is 0
    assert np.float64(1e8) + 7e-9 == 1e8 and float(huber_of(X @ w - y)) == 0.0
    assert fit.excess > true
    assert fit.slope == pytest.approx(2e-9 * 1e8, rel=1e-12)  # from −δ to δ, whatever the rounding


def huber_of(r):
    return np.sum(robust.huber(r, 1e-9))


def test_a_piece_whose_nearest_sample_leaves_shows_nothing():
    X = np.array([[1.0], [1.0], [1.0]])
    assert _piece(X, np.array([0.5, 0.4, 0.1]), np.ones(3), 0.3, 3) is None  # 0.1 − 2·0.3/3 < 0
    assert _piece(X, np.array([0.5, 0.4, 0.3]), np.ones(3), 0.3, 3) is not None
    assert _piece(X, np.array([0.5, 0.4, 0.0]), np.ones(3), 0.0, 3) is None  # no room at all
    assert _piece(np.full((3, 1), 1e-170), np.ones(3), np.full(3, 1e-170), 0.0, 3) is None  # a square that vanishes


# --- limits of the objective ---------------------------------------------------------------------------------------


def test_data_whose_squares_leave_float64_are_refused():
    assert (huber.LEAST, huber.LARGEST, huber.SOLVED) == (1e-140, 1e140, 1e-6)
    for size in (1e-140, 1e140):
        for X, Y, delta in ((size, 1.0, 1.0), (1.0, size, 1.0), (1.0, size, size)):
            assert lf.Huber([[X]], [[Y]], delta).smoothness == X**2
    for size in (0.99e-140, 1.01e140):
        for X, Y, delta in ((size, 1.0, 1.0), (1.0, size, 1.0), (1.0, 1.0, size)):
            with pytest.raises(ValueError, match="square leaves float64"):
                lf.Huber([[X]], [[Y]], delta)


@pytest.mark.parametrize(("part", "fine"), [(0.99, True), (1.01, False)])
def test_a_minimum_that_is_far_off_is_refused(part, fine, monkeypatch):
    """The excess may be 1e-6 of the loss at 0, and 1e-277 where that is 0."""
    for Y, room in (([[0.5, 3.0]], 1e-6 * (0.125 + 2.5)), ([[0.0, 0.0]], 1e-277)):
        fit = HuberFit(0.0, 0.0, part * room / 2, ())  # of each of the two columns
        monkeypatch.setattr(huber.HuberFit, "of", lambda *_, fit=fit: fit)
        if fine:
            assert lf.Huber([[1.0]], Y).excess == part * room
        else:
            with pytest.raises(ValueError, match="could be computed to"):
                lf.Huber([[1.0]], Y)


@pytest.mark.parametrize(("part", "rank"), [(0.99, 1), (1.01, 2)])
def test_the_rank_of_the_inputs(part, rank, monkeypatch):
    """Singular values above `max(N, n) ε σ_max` count; the least of these goes into the fits."""
    coarse, asked = 2.0**-10, []
    monkeypatch.setattr(huber, "EPS", coarse)
    plain = HuberFit.of
    monkeypatch.setattr(huber.HuberFit, "of", lambda *given: asked.append(given[-1]) or plain(*given))
    X = np.vstack([np.diag([4.0, part * 5 * coarse * 4.0]), np.zeros((3, 2))])
    f = lf.Huber(X, np.ones((5, 1)), 2.0)
    assert f.rank == rank and (f.row_space is None) == (rank == 2)
    assert asked == [pytest.approx(4.0 if rank == 1 else 4.0 * part * 5 * coarse, rel=1e-14)]
    assert f.smoothness == pytest.approx(16.0, rel=1e-14)


def test_the_hessian_counts_a_sample_at_its_kink():
    f = lf.Huber([[1.0], [1.0]], [[0.0], [5.0]], 1.0)
    assert f.hessian_product(np.array([[1.0]]), np.array([[2.0]])).item() == 2.0
    assert f.hessian_product(np.array([[4.0]]), np.array([[2.0]])).item() == 2.0
    assert f.hessian_product(np.array([[4.5]]), np.array([[2.0]])).item() == 2.0
    assert f.hessian_product(np.array([[1.5]]), np.array([[2.0]])).item() == 0.0


def test_the_constants_of_a_start_are_those_of_its_gap_and_rounding(monkeypatch):
    f, net = lf.Huber([[1.0]], [[0.0]]), lf.Network([np.array([[3.0]])])
    monkeypatch.setattr(lf.Huber, "rounding", lambda self, network: 0.5)
    seen, same = f.effective(net)
    assert same is net and seen.pl_constant == float(f.pl_constant_on(2.5 + 0.5)) < float(f.pl_constant_on(2.5))
    f._fits = [
        HuberFit(0.0, 0.0, 0.0, (Piece(3.0, 0.5),)),
        HuberFit(0.0, 0.0, 0.0, (Piece(2.0, 0.5), Piece(1.0, 4.0))),
    ]
    # Of each column the best piece, of all columns the least: min(6·½/2, max(4·½/2, 2)).
    assert float(f.pl_constant_on(2.0)) == pytest.approx(1.5, rel=1e-12)
    assert float(f.pl_constant_on(1.0)) == pytest.approx(2.0, rel=1e-12)  # min(3, max(2, 2))
    f._fits = [HuberFit(0.0, 3.0, 0.0, ()), HuberFit(0.0, math.inf, 0.0, ())]
    f.minimizer = np.array([[2.0]])
    assert f.minimizer_size == 8.0  # nothing is known of the distance


def test_inputs_of_low_rank_are_seen_in_their_row_space():
    X, Y = np.array([[1.0, 1.0], [2.0, 2.0], [-1.0, -1.0]]), np.array([[1.0, 0.0], [1.5, 3.0], [0.25, -1.0]])
    f = lf.Huber(X, Y, 0.5)
    net = lf.init.gaussian((2, 3, 4, 2), rng=0)
    seen, inner = f.effective(net)
    V = f.row_space
    assert seen.shape == (1, 2) and inner.widths == (1, 3, 4, 2) and seen.row_space is None
    np.testing.assert_allclose(inner.weights[0], V.T @ net.weights[0], rtol=1e-14)
    np.testing.assert_array_equal(inner.weights[1], net.weights[1])
    np.testing.assert_allclose(seen.minimizer, V.T @ f.minimizer, rtol=1e-14)
    assert seen.gap(inner.product()) == pytest.approx(f.gap(net.product()), rel=1e-12)
