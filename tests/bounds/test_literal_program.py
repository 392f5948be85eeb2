"""The numbers, the caps and the value of a box of the operator interval, written out anew with a coarse rounding.

Both sides do the same few operations: they agree to a few roundings of the chains (1e-11) or of the sums (1e-12).
"""

import itertools
import math
import sys

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow.bounds import _interval_numbers as numbers
from linflow.bounds import _interval_program as program
from linflow.bounds import _interval_search as search
from linflow.bounds import operator_interval
from linflow.bounds._base import Invariants, Spectrum
from tests.reference.intervals import chain, phi

module = sys.modules["linflow.bounds.operator_interval"]
COARSE = 2.0**-7
A, B, LEAST, SPREAD, REST, MOST = (getattr(program, x) for x in ("A", "B", "LEAST", "SPREAD", "REST", "MOST"))


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0.0)


# --- the functions of a box ----------------------------------------------------------------------------------------


def test_phi_is_the_positive_root_at_any_sizes():
    for d, a, b in itertools.product((0.0, 1.0, -1.0, 1e9, -1e9), (1e-9, 0.25, 4.0), (1e-12, 0.5, 3.0)):
        with mpmath.workdps(100):
            literal = float((mpmath.mpf(d) * a + mpmath.sqrt((mpmath.mpf(d) * a) ** 2 + mpmath.mpf(4) * a * b)) / 2)
        assert float(program.phi(d, a, b)) == near(literal, 1e-15)


def test_the_constants_of_a_box():
    """The operations of a box round at some hundred ε, a tenth of what is left for them."""
    assert len(program.ROWS) == 25 and program.LOOSE == 1e140
    assert (program.ROUNDING, program.CANCELLED) == (1e-12, 1e-13)
    assert program.phi(0.0, 4.0, 1.0) == 2.0


def test_layers_are_visited_there_and_back():
    assert [program.visited(step, 3) for step in range(8)] == [0, 1, 2, 2, 1, 0, 0, 1]


def literal_last_cap(eta, before, b, least, rest, s):
    """The largest ζ = q + y: `(1 + w) y² + (2q + b + rest) y = before − q² − bq`, raised; w of an open interval."""
    q = s / eta
    constant = max(before - q * q - b * q + COARSE / 8 * (before + q * q + abs(b) * q), 0.0)
    known = q - least > 1e-9 * q
    w, slope = (rest / (q - least), 2 * q + b + rest) if known else (0.0, 2 * q + b)
    return (q + max(np.roots([1 + w, slope, -constant]).real)) * (1 + COARSE)


@pytest.fixture
def coarse(monkeypatch):
    monkeypatch.setattr(program, "ROUNDING", COARSE)
    monkeypatch.setattr(program, "CANCELLED", COARSE / 8)


def test_the_last_cap_is_the_root_of_its_quadratic(coarse):
    for eta, before, b, least, rest, s in (
        (1.0, 3.0, 0.5, 0.25, 0.75, 1.0),
        (1.0, 3.0, -4.0, 0.25, 0.5, 1.0),  # a slope below 0
        (1.0, 3.0, -4.0, 1.0, 0.5, 1.0),  # q is the least ζ: the interval is closed
        (1.0, 3.0, 0.5, 1.0 - 1.5e-9, 0.75, 1.0),  # and where it is hardly open
        (0.25, 99.0, 0.5, 4.0 - 1e-9, 0.75, 1.0),
        (1.0, 3.0, 0.5, 1.0 - 5e-10, 0.75, 1.0),
        (1.0, 3.0, -4.0, 0.25, 0.0, 1.0),
        (0.5, 1.0, 0.5, 0.25, 0.75, 1.0),  # before < q²: y = 0
        (2.0, 3.0, 0.5, 0.25, 0.75, 3.0),
        (2.0, 3.0, 0.5, 0.25, 0.75, 0.5),
    ):
        found = float(program.last_cap(eta, before, b, least, rest, s))
        assert found == near(float(literal_last_cap(eta, before, b, least, rest, s)), 1e-9)


def test_the_last_cap_where_all_but_the_imbalance_is_small(monkeypatch):
    """y = constant/slope: the difference of the root and the slope is rounding."""
    monkeypatch.setattr(program, "CANCELLED", 0.0)
    assert program.last_cap(1e30, 1e-20, 0.5, 0.0, 0.0, 1.0) == near(2e-20, 1e-9)


def loose(d, a, b, x):
    """How much (C1) or (C2) lacks to an equality, from above."""
    return max(b + d * x - x * x / a + COARSE / 8 * (b + abs(d) * x + x * x / a), 0.0)


def longest(d, a, b, low, high):
    return max(math.sqrt(loose(d, a, b, x)) / x for x in (low, high))


def squared(length, rest):
    return min(length / math.sqrt(rest), program.LOOSE) ** 2


def caps_by_prefixes(low, high, q, s):
    """(B), (B1) and (V) of both intervals."""
    caps = [math.inf] * len(low)
    for i in range(2):
        size = 0.0
        for l, (a, tie) in enumerate(zip(q[A], q[program.TIE + i], strict=True)):
            before, after, eta = [1.0, *high][l], [*high, s][l + 1], low[l] * (1 - COARSE)
            least, most = q[LEAST + i, l], q[MOST, l]
            above, width = max(eta - least, 0.0), most - least
            part = max((most - eta) / (width if width > 0 else 1.0), 0.0)
            reach = least + above / (1 + q[SPREAD + i, l] * part)
            top = min(max(a / 2 * before, eta), high[l])
            length = min(high[l] * size + tie * math.sqrt(loose(a, before, after, top)), program.LOOSE)
            if l > 0 and not q[program.SHARE_OF_S, l] > 0:
                length = program.LOOSE
            rest = above + squared(length, q[REST + i, l])
            reach = max(reach, least + (above * above / rest if rest > 0 else 0.0))
            size += tie * longest(a, before, after, eta, high[l])
            caps[l] = min(caps[l], s / reach * (1 + COARSE))
    return caps


def caps_by_suffixes(low, high, caps, least_zeta, q, s):
    """(U), from the last layer on."""
    D, size = len(low), 0.0
    for l in reversed(range(D)):
        before, after, b, tie = [s, *caps][l], [*caps, 1.0][l + 1], q[B, l], q[program.MIRRORED_TIE, l]
        known = q[program.SHARE_OF_S, l] > 0
        zeta = min(least_zeta[l], caps[l]) if known else caps[l]
        if l < D - 1:
            top = min(max(-b / 2 * after, zeta), caps[l])
            length = min(caps[l] * size + tie * math.sqrt(loose(-b, after, before, top)), program.LOOSE)
            some, rest = known and q[program.MIRRORED_REST, l] > 0, q[program.MIRRORED_REST, l]
            p = max(s / (low[l] * (1 - COARSE)) - q[program.CAP, l], 0.0)
            more = squared(length if some else program.LOOSE, rest if some else 1.0)
            root = math.sqrt(p) * math.sqrt(p + 4 * more)
            caps[l] = min(caps[l], (q[program.CAP, l] + (p + root) / 2) * (1 + COARSE))
            zeta = min(zeta, caps[l])
        size += tie * longest(-b, after, before, zeta, caps[l])


def literal_shrink(low, high, q, s):
    """(C1), (B), (B1), (V), (C2), (B2) and (U) in the order of the library: layers there and back, twice."""
    D, up = len(low), 1 + COARSE
    there, high = [*range(D)], [float(x) for x in high]
    for l in [*there, *reversed(there)] * 2:
        around = [1.0, *high, s]
        high[l] = min(high[l], phi(q[A, l], around[l], around[l + 2]) * up)
    left = all(h >= x for h, x in zip(high, low, strict=True))
    high = [max(h, float(x)) for h, x in zip(high, low, strict=True)]
    caps = caps_by_prefixes(low, high, q, s)
    for l in [*reversed(there), *there] * 2:
        around = [s, *caps, 1.0]
        caps[l] = min(caps[l], phi(-q[B, l], around[l + 2], around[l]) * up)
        if l == D - 1:
            given = q[B, l], q[program.CAP, l], q[program.MIRRORED_REST, l], s
            caps[l] = min(caps[l], float(literal_last_cap(low[l] * (1 - COARSE), around[l], *given)))
    shares, edges = q[program.SHARE_OF_S], q[program.MIRRORED_EDGE]
    zeta = [max(x * s / h, edge) * (1 - COARSE) for x, h, edge in zip(shares, high, edges, strict=True)]
    caps_by_suffixes(low, high, caps, zeta, q, s)
    return left and all(z >= least for z, least in zip(caps, zeta, strict=True)), high, caps


def draw_box(rng, D):
    """Numbers of about size 1, in order, and a box; the two intervals apart."""
    q = np.zeros((len(program.ROWS), D))
    q[A], s = rng.normal(0.3, 1, D), float(10 ** rng.uniform(-1, 0.5))
    q[B] = q[A] - rng.exponential(0.5, D)
    for i in range(2):
        q[LEAST + i], q[SPREAD + i], q[REST + i] = (
            rng.uniform(0.1, 1, D),
            rng.exponential(1, D),
            rng.uniform(0.5, 3, D),
        )
    q[MOST] = np.maximum(q[LEAST], q[LEAST + 1]) * rng.choice([1.0, 1.5, 3.0], D)
    q[program.CAP], q[program.MIRRORED_REST] = s / q[MOST], rng.uniform(0.1, 2, D)
    for most, least, rest in (
        (program.X_MOST, program.X_LEAST, program.X_REST),
        (program.Y_MOST, program.Y_LEAST, program.Y_REST),
    ):
        q[most] = rng.uniform(0.05, 0.3, D)
        q[rest] = q[most] + rng.exponential(1, D)
        q[least] = q[rest] + rng.exponential(1, D)
    for row in (program.TIE, program.TIE_2, program.MIRRORED_TIE):
        q[row] = rng.uniform(0.1, 1, D)
    q[program.SHARE_OF_S] = rng.uniform(0.3, 1, D) * (rng.random(D) < 0.7)
    q[program.MIRRORED_EDGE] = rng.uniform(0, 1, D)
    low = rng.uniform(0.2, 1.5, D)
    return q, s, low, low * rng.choice([1.0, 1.2, 4.0])


@pytest.mark.parametrize("D", [1, 2, 3])
def test_a_box_is_shrunk_inequality_by_inequality(coarse, D):
    rng, kept, empty = np.random.default_rng(D), 0, 0
    for _ in range(150):
        q, s, low, top = draw_box(rng, D)
        high, caps = top.copy(), np.empty(D)
        left = bool(program.shrink(low, high, caps, q, s))
        expected, highs, literal = literal_shrink(low, top, q, s)
        assert left == expected
        np.testing.assert_allclose(high, highs, rtol=1e-12)
        if left:
            np.testing.assert_allclose(caps, literal, rtol=1e-8)  # roots of quadratics by their companion matrix
        kept, empty = kept + left, empty + (not left)
    assert kept > 10 and empty > 10


@pytest.mark.parametrize("D", [1, 2, 3, 4])
def test_the_ties_of_neighbouring_layers_cap_both_ends(coarse, D):
    """(V) and (U) alone, where (B) says little and `γ` is large, so that they decide."""
    rng, tied, mirrored = np.random.default_rng(D), 0, 0
    for _ in range(100):
        q, s, low, high = draw_box(rng, D)
        q[[SPREAD, SPREAD + 1]] *= 1e3
        q[[REST, REST + 1]] = 10.0 ** rng.uniform(-1, 4, (2, D))
        q[program.MIRRORED_REST] = 10.0 ** rng.uniform(-1, 4, D) * (rng.random(D) < 0.8)
        q[B] = rng.normal(0, 2, D)
        caps = np.empty(D)
        program.cap_by_prefixes(low, high, caps, q, s)
        np.testing.assert_allclose(caps, caps_by_prefixes(low, high, q, s), rtol=1e-12)
        loosened = q.copy()
        loosened[[REST, REST + 1]] = 1e-9
        tied += bool(np.any(caps[1:] < 0.9 * np.array(caps_by_prefixes(low, high, loosened, s))[1:]))
        caps = s / low * 10.0 ** rng.uniform(-0.3, 1.5, D)
        literal, before = caps.tolist(), caps.copy()
        zeta = [
            max(x * s / h, edge) * (1 - COARSE)
            for x, h, edge in zip(q[program.SHARE_OF_S], high, q[program.MIRRORED_EDGE], strict=True)
        ]
        program.cap_by_suffixes(low, high, caps, q, s)
        caps_by_suffixes(low, high, literal, zeta, q, s)
        np.testing.assert_allclose(caps, literal, rtol=1e-12)
        mirrored += bool(np.any(caps < 0.9 * before))
    assert (tied > 10 and mirrored > 20) or D == 1


def test_shares_and_entries():
    assert [float(program.share(x, 3.0, 1.0)) for x in (0.0, 1.0, 1.5, 3.0, 4.0)] == [0.0, 0.0, 0.25, 1.0, 1.0]
    assert [float(program.share(x, 3.0, 3.0)) for x in (0.0, 3.0, 4.0)] == [1.0] * 3
    assert program.first_entry(0.25, 2.0, 5.0, 4.0) == 1 / (2 + 4 * 0.25 * 3)
    # B = 1/(o + (h − o) (g − o + kθ(h − g))/(g − o + θ(h − g)))
    assert program.last_entry(0.25, 2.0, 5.0, 0.5, 4.0) == near(1 / (0.5 + 4.5 * (1.5 + 3) / (1.5 + 12)))
    assert program.last_entry(0.25, 2.0, 2.0, 2.0, 4.0) == 0.5
    assert program.last_entry(0.25, 1.0, 3.0, 1.0, 0.0) == near(1 / 3)


def entries(values, rows, q, s, thetas):
    pairs = []
    for x, rest, least, most, theta in zip(values, *(q[row] for row in rows), thetas, strict=True):
        k = min(max((x / s - most) / (least - most), 0.0), 1.0) if least > most else 1.0
        c = 1 + theta * k * (least - rest) / (rest - most)
        part = k * c / (c - 1 + k) if k > 0 else 1 / (1 + theta * (least - rest) / (rest - most))
        pairs.append((1 / (most + (rest - most) * c), 1 / (most + (least - most) * part)))
    return pairs


def literal_value(high, caps, q, s, thetas):
    """The least of `Σ_l x_{l−1} y_l` over the choices of all first or all last entries, at the best θ."""
    D, best = len(high), 0.0
    for th in thetas:
        X = entries(caps, (program.X_REST, program.X_LEAST, program.X_MOST), q, s, th[:D])
        Y = entries(high, (program.Y_REST, program.Y_LEAST, program.Y_MOST), q, s, th[D:])
        sums = [
            sum(x * y for x, y in zip([1.0, *(p[i] for p in X)], [*(p[j] for p in Y), 1.0], strict=True))
            for i in range(2)
            for j in range(2)
        ]
        best = max(best, min(sums))
    # And the sum of all first entries at θ = 1, or of the floors that are known.
    X = entries(caps, (program.X_REST, program.X_LEAST, program.X_MOST), q, s, [1.0] * D)
    Y = entries(high, (program.Y_REST, program.Y_LEAST, program.Y_MOST), q, s, [1.0] * D)
    x = [1.0, *(max(p[0], f) for p, f in zip(X, q[program.FLOOR], strict=True))]
    y = [*(max(p[0], f) for p, f in zip(Y, q[program.MIRRORED_FLOOR], strict=True)), 1.0]
    return max(best, sum(a * b for a, b in zip(x, y, strict=True)))


@pytest.mark.parametrize("D", [1, 2, 3])
def test_the_value_of_a_box_is_the_least_of_four_sums(D):
    rng = np.random.default_rng(D)
    boxes = [draw_box(rng, D) for _ in range(60)]
    for q, _, _, _ in boxes[::2]:
        q[[program.FLOOR, program.MIRRORED_FLOOR]] = rng.random((2, D)) * 3
    for q, s, caps, high in boxes:
        thetas = 10.0 ** rng.uniform(-1.5, 1.5, (2, 2 * D))
        literal = literal_value(high, caps, q, s, thetas)
        assert float(program.value(high, caps, q, s, thetas)) == near(literal, 1e-11)
        alone = [literal_value(high, caps, q, s, th[None]) for th in thetas]
        assert literal == max(alone)
    # Many boxes at once, of two problems.
    columns, s = np.stack([box[0] for box in boxes]), np.array([box[1] for box in boxes])
    low, high = (np.stack([box[i] for box in boxes], axis=1) for i in (2, 3))
    group, pool, at = np.arange(60) % 2, 10.0 ** rng.uniform(-1, 1, (2, 3, 2 * D)), np.arange(60)[::-1].copy()
    highs, caps, values = high[:, ::-1].copy(), np.empty((D, 60)), np.empty(60)
    program.measure(low[:, ::-1].copy(), highs, caps, at, (columns, s, group, pool), values)
    assert np.isinf(values).any() and np.isfinite(values).any()
    for i, c in enumerate(at):
        own, z = high[:, c].copy(), np.empty(D)
        left = program.shrink(low[:, c], own, z, columns[c], s[c])
        alone = program.value(own, z, columns[c], s[c], pool[group[c]]) if left else math.inf
        np.testing.assert_allclose(highs[:, i], own, rtol=1e-14)
        np.testing.assert_allclose(caps[:, i], z, rtol=1e-14)
        assert values[i] == near(float(alone))


def test_the_peak_of_a_weighted_pair():
    """`first·A + last·B(A)`, B by θ: at least what a fine grid finds, and within the range of A."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        most, k = rng.uniform(0, 0.5), rng.uniform(0.05, 1)
        rest = most + rng.exponential(1) * rng.choice([0.01, 1.0])
        least = rest + rng.exponential(2)
        first, last = 10.0 ** rng.uniform(-3, 1, 2)
        A = np.geomspace(1e-6 / rest, 1 / rest, 2000)
        theta = (1 / A - rest) / (k * (least - rest))
        values = first * A + last * program.last_entry(k, rest, least, most, theta)
        found = program.peak(k, rest, least, most, first, last)
        at = program.last_entry(k, rest, least, most, (1 / found - rest) / (k * (least - rest)))
        assert 1e-6 / rest * (1 - 1e-12) <= found <= 1 / rest
        assert first * found + last * at >= values.max() * (1 - 1e-12)
        inside += 1e-5 < found * rest < 0.999
    assert inside > 20
    assert program.peak(0.5, 2.0, 5.0, 0.5, 0.0, 1.0) == program.peak(0.5, 2.0, 5.0, 0.5, 1e-101, 1.0) == 1e-6 / 2
    assert program.peak(0.5, 2.0, 5.0, 0.5, 1.0, 0.0) == 0.5
    # o = 0, so B is linear in A: the one end or the other.
    for first, last, literal in ((1.0, 0.1, 0.5), (1.0, 1.0, 0.5), (0.1, 1.0, 1e-6 / 2)):
        assert program.peak(0.5, 2.0, 5.0, 0.0, first, last) == literal


@pytest.mark.parametrize(("D", "least"), [(1, 1 - 1e-12), (2, 0.65)])
def test_the_search_for_theta_comes_near_the_best_of_a_grid(D, least):
    """Twelve steps reach the best of two θ; of four they come this near in these boxes."""
    rng, shares = np.random.default_rng(D), []
    axis = 10.0 ** np.linspace(-2.5, 2.5, 41 if D == 1 else 9)
    grid = np.array(list(itertools.product(axis, repeat=2 * D)))
    for _ in range(40):
        q, s, caps, high = draw_box(rng, D)
        thetas = np.ones(2 * D)
        found = program.improved(high, caps, q, s, thetas)
        assert found == near(literal_value(high, caps, q, s, thetas[None]), 1e-9)
        # A row with one number for each of many boxes.
        shares.append(found / program.value(high, caps, q, s, grid.T[None]).max())
    assert min(shares) > least and np.mean(shares) > 0.96


def literal_search(high, caps, q, s):
    """Frank and Wolfe's method: X and Y by turns, each pair to the peak of the weighted sums, by a falling share."""
    D = len(high)
    rows = [(program.X_REST, program.X_LEAST, program.X_MOST), (program.Y_REST, program.Y_LEAST, program.Y_MOST)]
    ends = [tuple(q[row, l] for row in side) for side in rows for l in range(D)]
    ks = [program.share(x / s, h, o) for x, (_, h, o) in zip([*caps, *high], ends, strict=True)]
    pairs = np.array([[program.first_entry(k, g, h, 1.0)] * 2 for k, (g, h, _) in zip(ks, ends, strict=True)])
    tried, best, thetas = np.ones(2 * D), 0.0, np.ones(2 * D)

    def sums(pairs):
        X, Y = np.vstack([[1.0, 1.0], pairs[:D]]), np.vstack([pairs[D:], [1.0, 1.0]])
        return X.T @ Y

    for step in range(12):
        S = sums(pairs)
        if S.min() > best:
            best, thetas = S.min(), tried.copy()
        weights = np.exp(-3 * (1 + step) / S.min() * (S - S.min()))
        for j in range(D) if step % 2 == 0 else range(D, 2 * D):
            slopes = []
            for which in range(2):  # the sums are linear in each entry
                moved = pairs.copy()
                moved[j, which] += 1.0
                slopes.append(float((weights * (sums(moved) - sums(pairs))).sum()))
            g, h, o = ends[j]
            target = program.peak(ks[j], g, h, o, *slopes)
            if ks[j] * (h - g) > 0:
                A = pairs[j, 0] + (target - pairs[j, 0]) * 2 / (3 + step // 2)
                tried[j] = max(1 / A - g, 0.0) / (ks[j] * (h - g))
                pairs[j] = A, program.last_entry(ks[j], g, h, o, tried[j])
    return best, thetas


@pytest.mark.parametrize("D", [1, 2, 3])
def test_the_search_for_theta_step_by_step(D):
    rng = np.random.default_rng(D)
    for trial in range(12):
        q, s, caps, high = draw_box(rng, D)
        if trial == 0:
            caps[0] = 0.0  # k = 0: nothing to choose
        thetas = np.ones(2 * D)
        best, literal = literal_search(high, caps, q, s)
        assert program.improved(high, caps, q, s, thetas) == near(best, 1e-9)
        np.testing.assert_allclose(thetas, literal, rtol=1e-6, atol=1e-9)  # twelve steps pass on their rounding


# --- the numbers of a column ---------------------------------------------------------------------------------------


def products(d, sigma):
    t = chain(d, sigma)
    return np.array([float(mpmath.fprod(t[:l])) for l in range(1, len(t))])


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("known", [True, False])
def test_every_number_of_a_column_with_coarse_allowances(monkeypatch, depth, known):
    eps, shaved = 2.0**-14, 2.0**-10
    monkeypatch.setattr(numbers, "EPS", eps)
    monkeypatch.setattr(numbers, "SHAVED", shaved)
    asked = []
    spreads = np.array([5.0, 9.0, 7.0])  # of the two cells, and of the second interval
    ratio = np.broadcast_to(spreads[:, None, None], (3, 2, depth - 1))
    monkeypatch.setattr(numbers, "ratio", lambda *x: asked.append(x) or ratio)
    rng = np.random.default_rng(depth)
    b = rng.normal(size=depth - 1)
    a, hats = b + rng.exponential(size=depth - 1), b + np.array([[0.1], [-0.1]])
    sigma_n, following = np.array([0.3, 0.7]), np.array([0.6, 0.5])  # the second pair is not in order
    top = np.array([2.0, 3.0]) if known else np.full(2, math.inf)
    rows, s, group = numbers.table(a, b, hats, sigma_n, following, top)
    assert rows.shape == (4, 25, depth - 1) and group.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(s, [0.09, 0.49] * 2, rtol=1e-15)
    up = a + 8 * eps * np.abs(a).sum()
    lows = [x - 8 * eps * np.abs(x).sum() for x in (*hats, b)]
    for column, (i, k) in enumerate(itertools.product(range(2), range(2))):
        sigma, rest, norm, q = sigma_n[k], max(following[k], sigma_n[k]), top[k], rows[column]
        most = products(up, sigma) * (1 + shaved)
        first, second = (np.minimum(products(lows[j], sigma) * (1 - shaved), most) for j in (i, 2))
        rests = [products(lows[j], rest) * (1 - shaved) for j in (i, 2)]
        mirrored = rest**2 / (products(up, rest) * (1 + shaved))
        zero = np.zeros(depth - 1)
        x_most = 1 / (products(up, norm) * (1 + shaved)) if known else zero
        y_most = max(products(lows[j], norm)[0] for j in (i, 2)) if known else 0.0
        ends = [products(lows[j], norm) * (1 - shaved) / norm**2 for j in (i, 2)] if known else [zero, zero]
        y_most = np.maximum(*ends)
        x_rest = np.maximum(1 / np.where(first >= second, *rests), x_most)
        y_rest = np.maximum(1 / mirrored, y_most)
        expected = {
            A: up,
            B: lows[i],
            LEAST: first,
            LEAST + 1: second,
            SPREAD: spreads[i] + zero,
            SPREAD + 1: 7 + zero,
            REST: rests[0],
            REST + 1: rests[1],
            MOST: most,
            program.CAP: sigma**2 / most,
            program.MIRRORED_REST: mirrored,
            program.X_REST: x_rest,
            program.X_LEAST: np.maximum(1 / np.maximum(first, second), x_rest),
            program.X_MOST: x_most,
            program.Y_REST: y_rest,
            program.Y_LEAST: np.maximum(most / sigma**2, y_rest),
            program.Y_MOST: y_most,
            program.TIE: [1.0, *np.sqrt((1 + spreads[i]) * rests[0][:-1])],
            program.TIE_2: [1.0, *np.sqrt(8 * rests[1][:-1])],
            program.MIRRORED_TIE: [*np.sqrt((1 + min(spreads[i], 7)) * mirrored[1:]), 1.0],
            program.FLOOR: zero,
            program.MIRRORED_FLOOR: zero,
        }
        edge, end = np.maximum(first, second), max(norm, sigma)
        part = (sigma / end) ** 2 * (1 - shaved) if known else 0.0
        if known:
            lowest = np.maximum(*(products(lows[j], end) * (1 - shaved) for j in (i, 2)))
            edge = np.minimum(lowest * part, edge)
        expected[program.SHARE_OF_S], expected[program.EDGE] = part + zero, edge
        expected[program.MIRRORED_EDGE] = sigma**2 / (products(up, end) * (1 + shaved)) if known else zero
        for row in program.ROWS:
            np.testing.assert_allclose(q[row], expected[row], rtol=1e-11, err_msg=str(row))
    ((upper, lower, first, last),) = asked
    np.testing.assert_allclose(upper, up, rtol=1e-15)
    np.testing.assert_allclose(lower, lows, rtol=1e-15)
    assert first.tolist() == [0.6, 0.7] and last.tolist() == top.tolist()


def test_an_upper_end_of_the_least_singular_value_moves_the_ends_of_the_boxes_alone():
    given = np.array([0.5, 0.1]), np.array([0.2, -0.3]), np.array([[0.2, -0.3]])
    sigmas = np.array([0.5]), np.array([1.0])
    ends = [program.SHARE_OF_S, program.EDGE, program.MIRRORED_EDGE]
    others = [row for row in program.ROWS if row not in ends]
    far, near_by = (numbers.table(*given, *sigmas, np.array([top]))[0] for top in (4.0, 2.0))
    for most, end in ((2.0, near_by), (6.0, far)):
        found = numbers.table(*given, *sigmas, np.array([4.0]), np.array([most]))[0]
        assert (found[:, others] == far[:, others]).all() and (found[:, ends] == end[:, ends]).all()
    assert (far[:, ends] != near_by[:, ends]).all()


def literal_ratio(a, b, first, last, count, far=1e-3):
    """Three parabolas between each two nodes, their second derivative by the least square of the chains between."""
    L, known = len(a) + 1, math.isfinite(last)
    size = np.abs(a).sum() + np.abs(b).sum()
    end = last if known else max(10 * first, (far * size) ** (L / 2))
    places = [math.expm1(3 * i / count) / math.expm1(3) * 2 * math.log(end / first) for i in range(count + 1)]
    nodes = []
    for tau in places:
        t, u = (np.array([float(x) for x in chain(d, first * math.exp(tau / 2))]) for d in (a, b))
        shares = [np.cumsum(1 / x)[:-1] / (1 / x).sum() for x in (t, u)]
        gain = np.concatenate([[0.0], np.cumsum(a - b)])
        least = np.maximum(u - gain, t - (gain[-1] - gain)).min()
        f = np.cumsum(np.log(t))[:-1] - np.cumsum(np.log(u))[:-1]
        nodes.append((tau, f, shares[0] - shares[1], least))
    total, tops = (a - b).sum(), []
    for (tau, f, slope, least), (tau_2, f_2, slope_2, _) in itertools.pairwise(nodes):
        h = tau_2 - tau
        bend = min(8 / 27, 1.25 * total / least) if least > 0 else 8 / 27
        tops.append(
            np.minimum(
                np.minimum(
                    np.maximum(f, f + slope * h + bend * h * h / 2),
                    np.maximum(f_2, f_2 - slope_2 * h + bend * h * h / 2),
                ),
                np.maximum(f, f_2) + bend * h * h / 8,
            )
        )
    top = np.max(tops, axis=0)
    if not known:
        top = np.maximum(top, L / 4 * total / nodes[-1][3] if nodes[-1][3] > 0 else math.inf)
    return np.expm1(np.maximum(top, 0.0) * (1 + 1e-9) + 4 * 2.0**-10)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("nodes", [1, 3])
def test_the_ratio_of_two_chains_by_its_parabolas(monkeypatch, depth, known, nodes):
    """With few nodes each parabola counts; their number and how they are placed is another test."""
    monkeypatch.setattr(numbers, "SHAVED", 2.0**-10)
    monkeypatch.setattr(numbers, "NODES", nodes)
    monkeypatch.setattr(numbers, "FAR", 1e-3)
    rng = np.random.default_rng(depth)
    for apart in (1e-3, 0.05, 1.0, 0.0):
        b = rng.normal(size=(2, depth - 1))
        a = b.max(axis=0) + rng.exponential(size=depth - 1) * apart
        if not apart and depth == 3:  # of three layers, ratios that are largest between the ends
            a, b = np.array([-0.1, -0.1]), np.array([[-0.2, -0.1], [-0.3, -0.1]])
        firsts = np.array([0.02, 0.2, 0.9, 30.0])
        lasts = np.array([0.4, 40.0, 80.0, 1e4]) if known else np.full(4, math.inf)
        found = numbers.ratio(a, b, firsts, lasts)
        assert found.shape == (2, 4, depth - 1)
        # An unknown end depends on the size of both.
        size = np.abs(b).sum(axis=1)
        for i, k in itertools.product(range(2), range(4)):
            if known or size[i] == size.max():
                literal = literal_ratio(a, b[i], float(firsts[k]), float(lasts[k]), nodes)
                np.testing.assert_allclose(found[i, k], literal, rtol=1e-9)


@pytest.mark.parametrize("known", [True, False])
def test_the_nodes_of_a_ratio(monkeypatch, known):
    monkeypatch.setattr(numbers, "SHAVED", 2.0**-10)
    for a, b in np.array([[[0.7, -0.2], [0.3, -0.9]], [[2.0, 1.0], [-1.0, 1.0]]]):
        for first in (0.1, 1.0):
            last = 5.0 if known else math.inf
            found = numbers.ratio(a, b[None], np.array([first]), np.array([last]))[0, 0]
            np.testing.assert_allclose(found, literal_ratio(a, b, first, last, 24, 1e6), rtol=1e-9)


def test_past_the_last_node_the_ratio_is_bounded_by_all_imbalances(monkeypatch):
    """Five layers that differ at the far end: the first changes by a fifth, and the bound past all nodes by more."""
    monkeypatch.setattr(numbers, "SHAVED", 0.0)
    a, b = np.array([0.0, 0.0, 0.0, 2.0]), np.array([0.0, 0.0, 0.0, 1.0])
    found = numbers.ratio(a, b[None], np.array([1e20]), np.array([math.inf]))[0, 0]
    u = np.array([float(x) for x in chain(b, 1e21)])
    t = np.array([float(x) for x in chain(a, 1e21)])
    least = np.maximum(u - [0, 0, 0, 0, 1], t - [1, 1, 1, 1, 0]).min()
    assert found[0] == near(5 / 4 * 1.0 / least, 1e-6)  # the ratio itself is small, and 1 + 1e-9 is there


def test_the_leak_of_wide_layers():
    """The rows of `cells`, from the two least eigenvalues of each imbalance."""
    D1, D2 = (Spectrum(np.array(x), np.array(x) + 0.1) for x in ([2.0, 1.0, -0.5], [1.0, 0.3, -0.2, -0.4]))
    rows = numbers.cells([D1, D2], (2, 3, 4, 2), 2)
    edges = np.linspace(0, 0.5, numbers.CELLS + 1)
    assert len(rows) == numbers.CELLS == 8
    for row, low, high in zip(rows, edges[:-1], edges[1:], strict=True):
        # h_1 − n = 1 leaks once; D_2 has the least pair −0.2 and −0.4.
        assert row == pytest.approx([max(-0.5, 0.5 + low), max(-0.4 - high, -0.6 - high)], rel=1e-12)
    assert numbers.cells([D1, D2], (3, 3, 4, 3), 3).tolist() == [[-0.5, max(-0.4, -0.6)]]  # h_1 = n: no leak
    D3 = Spectrum(np.array([1.0, 0.4, 0.3]), np.array([1.0, 0.4, 0.3]) + 0.1)
    found = numbers.cells([D1, D3, D1], (2, 3, 3, 3, 2), 2)  # it leaks 0.5, then 0.2
    assert found.tolist() == [pytest.approx([0.5, max(0.3 - 0.5, 0.7 - 0.5), max(-0.5 - 0.2, 0.5 - 0.2)])]
    D4 = Spectrum(np.array([6.0, 5.0, 4.0, -0.4]), np.array([6.0, 5.0, 4.0, -0.4]) + 0.1)
    found = numbers.cells([D1, D4, D1], (2, 5, 4, 3, 2), 2)  # three more columns lose two of the least at most
    assert found[0, 1] == pytest.approx(3.6 - 2 * 0.5)
    deep = numbers.cells([D1, D1, D1], (2, 3, 3, 3, 2), 2)
    assert deep.tolist() == [pytest.approx([0.5, max(-0.5 - 0.5, 0.5 - 0.5), max(-0.5 - 1.0, 0.5 - 1.0)])]


def test_one_row_has_no_rest():
    rows, _, _ = numbers.table(
        np.array([0.5, 0.1]),
        np.array([0.2, -0.3]),
        np.array([[0.2, -0.3]]),
        np.array([0.5]),
        np.array([math.inf]),
        np.array([0.5]),
    )
    q = rows[0]
    assert (q[program.SPREAD] == 0).all() and (q[program.X_REST] == q[program.X_MOST]).all()
    assert (q[program.Y_REST] == q[program.Y_MOST]).all() and (q[program.REST] == 1e250).all()
    assert (q[program.MIRRORED_REST] == 0).all()


# --- the joint program ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """What the program is asked, without a search: the values are 1, 2, …, one for each problem."""
    seen: dict = {"tables": [], "cells": []}

    def table(upper, lower, hats, *sigmas):
        seen["tables"].append((upper.tolist(), lower.tolist(), [x.tolist() for x in sigmas]))
        count = len(sigmas[0])
        return np.full((count, 25, len(upper)), seen.get("fill", 1.0)), sigmas[0] ** 2, np.arange(count)

    def least(rows, squares, groups, run):
        seen.update(all=rows, rows=rows.shape, squares=squares.tolist(), groups=groups.tolist(), run=run)
        return (
            np.arange(1.0, 1 + groups.max() + 1) if seen.get("rising", True) else np.arange(groups.max() + 1.0, 0, -1)
        )

    def cells(Ds, widths, n):
        seen["cells"].append(([(D.lower.tolist(), D.upper.tolist()) for D in Ds], widths, n))
        return np.zeros((1, len(Ds)))

    monkeypatch.setattr(numbers, "table", table)
    monkeypatch.setattr(numbers, "cells", cells)
    monkeypatch.setattr(search, "least", least)
    return seen


def spectrum(low, off):
    return Spectrum(np.array(low), np.array(low) + off)


def test_the_program_reads_both_reductions_and_the_worse_ends(asked):
    D1, D2 = spectrum([2.0, 0.5, -1.0], 0.25), spectrum([1.0, -0.5], 0.125)
    sigmas = np.array([0.5, 0.0, 1e-101, 2.0]), np.array([1.0, 1.0, 1.0, 3.0]), np.array([4.0, 5.0, 6.0, 7.0])
    found = module.joint([D1, D2], 2, *sigmas)
    kept = [[0.5, 2.0], [1.0, 3.0], [4.0, 7.0], [4.0, 7.0]]
    assert asked["tables"] == [([2.25, 1.125], [-1.0, -0.5], kept), ([0.5, 0.75 + 0.25], [-1.125, -2.25], kept)]
    own = [(D.lower.tolist(), D.upper.tolist()) for D in (D1, D2)]
    turned = [(D.lower.tolist(), D.upper.tolist()) for D in (D2.negated(), D1.negated())]
    assert asked["cells"] == [(own, (2, 3, 2, 2), 2), (turned, (2, 2, 3, 2), 2)]
    assert asked["rows"] == (4, 25, 2) and asked["groups"] == [0, 1, 2, 3]
    assert asked["squares"] == [0.25, 4.0] * 2 and asked["run"] is None
    assert found.tolist() == [3.0, 0.0, 0.0, 4.0]  # the better of the two
    asked["rising"] = False
    assert module.joint([D1, D2], 2, *sigmas).tolist() == [4.0, 0.0, 0.0, 3.0]
    asked["tables"].clear()
    assert module.joint([D2, D2], 2, *sigmas).tolist() == [2.0, 0.0, 0.0, 1.0] and len(asked["tables"]) == 1
    asked["fill"] = math.inf
    assert module.joint([D1, D2], 2, *sigmas).tolist() == [0.0] * 4
    original = numbers.table

    def one_is_infinite(*given):
        rows, *rest = original(*given)
        rows[0, 0, 0] = math.inf
        return rows, *rest

    asked["fill"] = 1.0
    numbers.table = one_is_infinite  # undone by the fixture
    assert module.joint([D1, D2], 2, *sigmas).tolist() == [0.0] * 4


def test_products_share_levels_by_their_logarithms():
    """Sixteen products at most, equally far apart; each stands for those above it, to 1/1000 of a level."""
    inv = Invariants.given([spectrum([0.0], 0.0)] * 2, 1, 1)
    distances = np.array([0.0, 0.5, 0.9995, 1.0, 1.00095, 1.0015, 1.9, 2.0, 2.7, 3.0, *range(4, 15)])
    sigmas, largest = np.concatenate([np.exp(3 - 1.5 * distances), [0.0, 1e-101]]), 30.0 + np.arange(23)
    least, following, top, most, index = module._few(inv.at(sigmas, largest, sigmas + 1, sigmas + 2))
    places = [0, 1, 1, 1, 1, 2, 2, 2, 3, 3, *range(4, 15), 15, 15]
    assert index.tolist() == places
    for k in range(16):
        mine = np.array(places) == k
        assert least[k] == sigmas[mine].min() and top[k] == largest[mine].max()
        assert following[k] == (sigmas + 1)[mine].min() and most[k] == (sigmas + 2)[mine].max()
    some = np.linspace(1, 2, 16)
    least, _, _, _, index = module._few(inv.at(some, np.full(16, 3.0), some))
    assert least.tolist() == some.tolist() and index.tolist() == [*range(16)]
    assert len(module._few(inv.at(np.full(20, 0.5), np.full(20, 3.0), np.full(20, 0.5)))[0]) == 1


def test_each_singular_value_must_be_in_order(asked):
    Ds = [np.array([0.5, -0.5])] * 2
    good = np.array([0.5, 0.6]), np.array([1.0, 1.1]), np.array([1.5, 1.6])
    operator_interval(Ds, 2, *good)
    operator_interval(Ds, 2, np.array([0.0, 0.6]), np.array([0.0, 0.6]), np.array([0.0, 0.6]))  # equality is in order
    for k, wrong in ((0, -0.1), (1, 0.4), (2, 1.05)):
        bad = [x.copy() for x in good]
        bad[k][1] = wrong
        with pytest.raises(ValueError, match=r"0 ≤ σ_n ≤ σ_{n−1} ≤ ‖W‖ is needed"):
            operator_interval(Ds, 2, *bad)
    asked["tables"].clear()
    operator_interval([np.array([0.5])] * 2, 1, 0.5, 0.25, 0.75)  # there is no σ_{n−1}
    assert asked["tables"][0][2] == [[0.5], [math.inf], [0.75], [0.75]]
    # An infinite norm says nothing of how the imbalances round.
    asked["tables"].clear()
    operator_interval(Ds, 2, good[0], good[1], np.array([1.5, math.inf]))
    assert np.isfinite(asked["tables"][0][0]).all()
    assert not module.THEOREM.smooth


# --- branch and bound ----------------------------------------------------------------------------------------------


class Valley:
    """A toy program: a box has the least of `s + Σ (log η_l − centre)²` on it; what it is asked is kept."""

    def __init__(self, centre, share=1.0):
        self.centre, self.share, self.boxes, self.points, self.pools, self.better = (
            np.array(centre),
            share,
            [],
            [],
            [],
            0.0,
        )

    def least(self, low, high, s):
        off = np.maximum(np.maximum(np.log(low) - self.centre[:, None], self.centre[:, None] - np.log(high)), 0.0)
        return (s + (off**2).sum(axis=0)) * np.where((low == high).all(axis=0), 1.0, self.share)

    def measure(self, low, high, caps, at, data, values):
        _, s, _, pool = data
        (self.points if (low == high).all() else self.boxes).append((low.copy(), high.copy(), at.copy()))
        self.pools.append(pool.copy())
        caps[:] = high
        values[:] = self.least(low, high, s[at])

    def improve(self, high, caps, q, s, thetas):
        thetas[:] = 10.0 + len(self.points)
        return self.better * float(self.least(high[:, None], high[:, None], s)[0])

    def search(self, rows, s, group):
        run = program.Programs(self.measure, self.improve)
        return search.least(rows, np.array(s), np.array(group), run)


def columns(*ends):
    """Columns of numbers with boxes between these ends."""
    rows = np.zeros((len(ends), 25, len(ends[0][0])))
    for i, (low, high) in enumerate(ends):
        rows[i, program.EDGE], rows[i, MOST] = low, high
    return rows


def test_the_first_boxes_are_the_intervals_widened(monkeypatch):
    monkeypatch.setattr(search, "ROUNDING", COARSE)
    valley = Valley([0.0, 0.0])
    valley.search(columns(([0.5, 0.25], [2.0, 4.0]), ([0.5, 1.0], [3.0, 0.75])), [1.0, 1.5], [0, 1])
    low, high, at = valley.boxes[0]
    np.testing.assert_allclose(low.T, np.array([[0.5, 0.25], [0.5, 1.0]]) * (1 - COARSE), rtol=1e-15)
    # An interval that is empty by rounding is a point.
    np.testing.assert_allclose(high.T, np.array([[2.0, 4.0], [3.0, 1.0 - COARSE]]) * (1 + COARSE), rtol=1e-15)
    assert at.tolist() == [0, 1]


def test_the_least_value_is_found_from_below_within_its_tolerance():
    """A column of a problem that is higher counts for nothing."""
    valley = Valley([0.3, -0.2])
    found = valley.search(columns(*[([0.1, 0.2], [5.0, 4.0])] * 3), [2.0, 1.0, 3.0], [1, 1, 0])
    assert np.all(found <= [3.0, 1.0]) and np.all(found >= np.array([3.0, 1.0]) * 0.9899)
    # Each box is halved along its longest side, in logarithms.
    (lows, highs, _), (low, high, at) = valley.boxes[:2]
    assert set(at) == {1, 2}
    for c in (1, 2):
        mine = np.flatnonzero(at == c)
        k = int(np.argmax(np.log(highs[:, c] / lows[:, c])))
        middle = math.sqrt(lows[k, c] * highs[k, c])
        assert sorted(low[k, mine]) == near([lows[k, c], middle])
        assert sorted(high[k, mine]) == near([middle, highs[k, c]])
        assert low[1 - k, mine] == near([lows[1 - k, c]] * 2) and high[1 - k, mine] == near([highs[1 - k, c]] * 2)
    # Points are the upper corners and the middles.
    low, high, at = valley.points[0]
    assert at.tolist() == [2, 1, 0, 2, 1, 0] or at.tolist() == [2, 0, 1, 2, 0, 1] or len(at) == 6
    for i, c in enumerate(at):
        literal = highs[:, c] if i < 3 else np.sqrt(lows[:, c] * highs[:, c])
        assert low[:, i] == near(literal.tolist()) and high[:, i] == near(literal.tolist())


def test_a_box_is_closed_at_a_hundredth_below_the_best_point():
    for share, rounds in ((0.989, 2), (0.991, 1)):
        valley = Valley([0.0], share)
        valley.search(columns(([1.0], [1.0 + 1e-9])), [1.0], [0])
        assert (len(valley.boxes) > 1) == (rounds > 1)


def test_the_result_is_lowered_and_without_boxes_it_is_0(monkeypatch):
    monkeypatch.setattr(search, "SHAVED", COARSE)
    valley = Valley([0.0])
    valley.least = lambda low, high, s: np.where(s > 2, np.inf, s + 0 * low[0])
    found = valley.search(columns(*[([0.5], [2.0])] * 3), [1.5, 3.0, 2.0], [0, 1, 0])
    assert found.tolist() == [1.5 * (1 - COARSE), 0.0]
    assert len(valley.boxes) == 1  # every box is as low as its points


def test_a_problem_without_a_value_at_its_points_goes_on():
    assert search.SHAVED == 1e-10 and search.TOLERANCE == 0.01
    valley = Valley([0.0])
    valley.least = lambda low, high, s: np.where((s > 2) & (low == high)[0], np.inf, s + 0 * low[0])
    found = valley.search(columns(*[([0.5], [2.0])] * 2), [3.0, 1.0], [0, 1])
    assert found == near([3.0, 1.0], 1e-9)
    assert len(valley.boxes) > 3  # no point lets the first be closed


@pytest.mark.parametrize(("count", "limit"), [(1, 50), (3, 100), (6, 120)])
def test_boxes_are_split_in_rounds_until_there_are_enough(monkeypatch, count, limit):
    for name, value in (("MOST_BOXES", 50), ("SHARE", 20), ("TOGETHER", 8), ("FEWEST", 3), ("POINTS", 2)):
        monkeypatch.setattr(search, name, value)
    valley = Valley([0.0], 0.5)  # no box is ever closed
    found = valley.search(columns(*[([0.5], [2.0])] * count), [1.0] * count, [*range(count)])
    assert found == near([0.5] * count, 1e-9)
    most, seen, rounds, opened = max(8 // count, 3), count, [], 1
    while seen <= limit:
        rounds.append(2 * min(opened, most) * count)
        seen, opened = seen + rounds[-1], opened + min(opened, most)
    assert [len(at) for _, _, at in valley.boxes] == [count, *rounds]
    assert [len(at) for _, _, at in valley.points] == [2 * count, *[4 * count] * len(rounds)]
    # The lowest boxes go first; the others reach 0.74.
    low, high, at = valley.boxes[-1]
    assert valley.least(low, high, np.ones(len(at))).max() < 0.56


def test_better_choices_of_theta_are_kept_in_turn(monkeypatch):
    for name, value in (("MOST_BOXES", 300), ("TOGETHER", 4), ("FEWEST", 1), ("CHOICES", 4)):
        monkeypatch.setattr(search, name, value)
    valley = Valley([0.0], 0.5)
    valley.better = 1.002
    found = valley.search(columns(([0.5], [2.0])), [1.0], [0])
    assert found == near([0.5], 1e-9)
    # Each round finds one, at its own number; the first place keeps 1.
    assert np.all(valley.pools[0] == 1.0)
    for k in range(1, 9):
        pool = valley.pools[2 * k]
        slots = [max((n for n in range(1, k + 1) if (n - 1) % 3 == place), default=None) for place in range(3)]
        assert pool[0, :, 0].tolist() == [1.0, *(1.0 if n is None else 10.0 + n for n in slots)]
    # What is hardly better is not kept.
    for better, kept in ((1.0005, False), (1.0015, True)):
        valley = Valley([0.0], 0.5)
        valley.better = better
        valley.search(columns(([0.5], [2.0])), [1.0], [0])
        assert bool(np.any(valley.pools[-1] != 1.0)) == kept


def test_hypotheses():
    def reason(widths):
        weights = [np.ones(shape) for shape in itertools.pairwise(widths)]
        return module.THEOREM.hypothesis(Invariants.of(lf.Network(weights)))

    assert reason((2, 2)) == "one layer has no imbalance"
    assert reason((2, 3, 3, 1)) == "the product is 2×1, not square"
    assert reason((2, 3, 1, 2)) == "a layer of width 1 is narrower than n = 2"
    assert "two layers" in reason((2, 3, 2)) and reason((2, 3, 2, 2)) is None


def test_floors_of_scalars_are_their_chain():
    d, sigmas = [2.0, -1.0, 0.5], np.array([0.7, 30.0])
    found = module._floors([spectrum([x], 0.0) for x in d], 1, sigmas, sigmas)
    assert found is not None
    for k, sigma in enumerate(sigmas):
        np.testing.assert_allclose(found[0][:, k], products(d, sigma), rtol=1e-9)
        np.testing.assert_allclose(found[1][:, k], sigma**2 / products(d, sigma), rtol=1e-9)
    assert module._floors([spectrum([0.0], 0.0)] * 2, 1, np.zeros(1), np.zeros(1)) is None
    rows = np.zeros((4, 25, 3))
    numbers.add_floors(rows, *found)
    for column, k in enumerate((0, 1, 0, 1)):
        assert rows[column, program.FLOOR].tolist() == found[0][:, k].tolist()
        assert rows[column, program.MIRRORED_FLOOR].tolist() == found[1][:, k].tolist()


def test_wide_layers_bring_their_floors_to_both_reductions(asked, monkeypatch):
    D1, D2 = spectrum([2.0, 0.5, -1.0], 0.25), spectrum([1.0, -0.5], 0.125)
    calls: list = []
    floors = np.array([[3.0], [5.0]]), np.array([[7.0], [11.0]])
    monkeypatch.setattr(module, "_floors", lambda *given: calls.append(given) or floors)
    sigmas = np.array([0.5]), np.array([1.0]), np.array([4.0]), np.array([0.75])
    module.joint([D1, D2], 2, *sigmas)
    assert [x.tolist() for x in calls[0][2:]] == [[0.5], [4.0]]
    assert asked["all"][:, program.FLOOR].tolist() == [[3.0, 5.0], [11.0, 7.0]]
    assert asked["all"][:, program.MIRRORED_FLOOR].tolist() == [[7.0, 11.0], [5.0, 3.0]]
    module.joint([D2, D2], 2, *sigmas)
    assert len(calls) == 1  # nothing is wide


def test_an_upper_end_of_the_least_singular_value_is_in_order():
    Ds = [np.array([0.5, -0.5])] * 2
    with pytest.raises(ValueError, match="sigma_n_most"):
        operator_interval(Ds, 2, np.array([0.5, 0.5]), 1.0, 2.0, sigma_n_most=np.array([0.6, 0.4]))


# --- numbers that leave float64 ----------------------------------------------------------------------------------


def test_a_box_whose_value_is_no_number_says_nothing():
    """Left out as an empty box, it would leave the bound to the other boxes."""

    def measure(low, high, caps, at, data, values):
        caps[:], values[:] = 1.0, np.where(at == 0, np.nan, 5.0)

    numbers = np.ones((2, len(program.ROWS), 1))
    run = search.Programs(measure, lambda *given: np.inf)
    assert search.least(numbers, np.ones(2), np.zeros(2, dtype=np.int64), run).tolist() == [0.0]
    assert search.least(numbers[1:], np.ones(1), np.zeros(1, dtype=np.int64), run).tolist() == [0.0]


@pytest.mark.parametrize("run", [search.PLAIN, search.programs()], ids=["plain", "compiled"])
def test_a_box_with_numbers_that_are_none_is_not_empty(run):
    numbers = np.ones((1, len(program.ROWS), 1))
    numbers[0, program.A] = np.nan
    low, high, caps, values = np.full((1, 1), 0.5), np.ones((1, 1)), np.empty((1, 1)), np.empty(1)
    data = (numbers, np.ones(1), np.zeros(1, dtype=np.int64), np.ones((1, search.CHOICES, 2)))
    with np.errstate(all="ignore"):
        run.measure(low, high, caps, np.zeros(1, dtype=np.int64), data, values)
    assert not np.isposinf(values[0])


@pytest.mark.parametrize("run", [search.PLAIN, search.programs()], ids=["plain", "compiled"])
def test_a_search_warns_of_nothing(run):
    """Sides of boxes may be 0, and squares leave float64; RuntimeWarnings are errors here."""
    numbers = np.full((1, len(program.ROWS), 2), 1e200)
    numbers[0, program.EDGE] = 0.0
    assert np.isfinite(search.least(numbers, np.full(1, 1e-200), np.zeros(1, dtype=np.int64), run)).all()
