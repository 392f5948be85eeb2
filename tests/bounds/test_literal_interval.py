"""The joint program of the operator interval, as docs/operator_intervals.md has it, inequality by inequality.

The numbers of a column come from a twin at 50 digits. Where weights are drawn, the entries of their own Gram matrices
must satisfy each inequality: 1e-9 of the larger side covers the rounding of inverses of matrices of condition 1e6.
"""

import math
import sys

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import linflow as lf
from linflow.bounds import _interval_numbers as numbers
from linflow.bounds import _interval_program as program
from linflow.bounds import _interval_search as search
from linflow.bounds import operator_interval
from linflow.bounds._base import Invariants, Spectrum
from tests.random_networks import draw_weights
from tests.reference import intervals as twin
from tests.reference.algebra import least_tangent_eigenvalue

module = sys.modules["linflow.bounds.operator_interval"]
ROOM = 1e-9
FAMILIES = ["gaussian", "scaled", "near balanced", "orthogonal", "unimodal"]


def network(n, depth, family, seed, extra=()):
    widths = (n, *(n + (extra[l] if l < len(extra) else 0) for l in range(depth - 1)), n)
    return draw_weights(widths, family, seed)


def ends(weights):
    values = [np.linalg.eigvalsh(D) for D in lf.imbalance_matrices(weights)]
    return [float(v[-1]) for v in values], [float(v[0]) for v in values]


class Grams:
    """`X_l` and `Y_l` of square layers in the singular basis of W, and the twin's numbers."""

    def __init__(self, weights):
        W = np.linalg.multi_dot(weights)
        U, self.sigmas, Vt = np.linalg.svd(W)
        assume(self.sigmas[-1] > 1e-3 * self.sigmas[0])
        n, L = len(W), len(weights)
        self.X, self.Y = [], []
        for l in range(L + 1):
            P = U.T @ np.linalg.multi_dot([np.eye(n), np.eye(n), *weights[:l]])
            S = np.linalg.multi_dot([*weights[l:], np.eye(n), np.eye(n)]) @ Vt.T
            self.X.append(P @ P.T)
            self.Y.append(S.T @ S)
        assume(all(np.linalg.cond(A) < 1e6 for A in (*self.X, *self.Y)))
        following = float(self.sigmas[-2]) if n > 1 else None
        self.of = twin.Numbers(*ends(weights), float(self.sigmas[-1]), following, float(self.sigmas[0]))
        self.eta = [float(X[-1, -1]) for X in self.X[1:-1]]
        self.zeta = [float(Y[-1, -1]) for Y in self.Y[1:-1]]


def least(A, size):
    """The least eigenvalue, in units of the size of the terms."""
    return float(np.linalg.eigvalsh(A)[0]) / size


square = given(
    n=st.integers(1, 4), depth=st.integers(2, 5), family=st.sampled_from(FAMILIES), seed=st.integers(0, 2**31)
)


@settings(max_examples=40)
@square
def test_one_step_and_interval(n, depth, family, seed):
    """Lemma 2 and Theorem 1."""
    weights = network(n, depth, family, seed)
    g = Grams(weights)
    a, b = ends(weights)
    for l in range(1, depth):
        X, Y = g.X[l], g.Y[l]
        left, right = X @ np.linalg.inv(g.X[l - 1]) @ X, g.X[l + 1]
        size = np.linalg.norm(left) + np.linalg.norm(right) + max(abs(a[l - 1]), abs(b[l - 1])) * np.linalg.norm(X)
        assert least(right + a[l - 1] * X - left, size) > -ROOM and least(left - right - b[l - 1] * X, size) > -ROOM
        left, right = Y @ np.linalg.inv(g.Y[l + 1]) @ Y, g.Y[l - 1]
        size = np.linalg.norm(left) + np.linalg.norm(right) + max(abs(a[l - 1]), abs(b[l - 1])) * np.linalg.norm(Y)
        assert least(right - b[l - 1] * Y - left, size) > -ROOM
        upper, lower = (np.array([twin.prefixes(d, float(x))[l - 1] for x in g.sigmas]) for d in (a, b))
        for A, low, high in ((X, lower, upper), (Y, g.sigmas**2 / upper, g.sigmas**2 / lower)):
            assert least(A - np.diag(low), np.linalg.norm(high)) > -ROOM
            assert least(np.diag(high) - A, np.linalg.norm(high)) > -ROOM


@settings(max_examples=60)
@example(n=2, depth=5, family="scaled", seed=0)
@square
def test_every_inequality_of_the_program(n, depth, family, seed):
    """(C1), (C2), (B), (B1), (B2) and (D) at weights, and Lemma 2 for the least eigenvalues of the outer layers."""
    weights = network(n, depth, family, seed)
    g = Grams(weights)
    of, D = g.of, depth - 1
    eta, zeta = [1.0, *g.eta, of.s], [of.s, *g.zeta, 1.0]
    for l in range(D):
        assert eta[l + 1] <= twin.phi(of.a[l], eta[l], eta[l + 2]) * (1 + ROOM)
        assert zeta[l + 1] <= twin.phi(-of.b[l], zeta[l + 2], zeta[l]) * (1 + ROOM)
        assert of.s / zeta[l + 1] >= of.reach(l, eta[l + 1]) * (1 - ROOM)
        for A, (low, high, o, k) in zip((g.X[l + 1], g.Y[l + 1]), of.pairs(l, g.zeta[l], g.eta[l]), strict=True):
            assert least(A, 1.0) >= 1 / (low + (high - low) * k) * (1 - ROOM)
            for theta in (0.0, 0.3, 1.0, 5.0, 100.0):
                first = program.first_entry(k, low, high, theta)
                last = float(program.last_entry(k, low, high, o, theta))
                if n > 1 and low > o * (1 + 1e-6) and k > 0:  # as (D) has them; differences divide
                    more = theta * k * (high - low) / (low - o)  # c − 1, which may be far below 1
                    assert first == pytest.approx(1 / (o + (low - o) * (1 + more)), rel=1e-9, abs=0)
                    part = k * (1 + more) / (more + k)
                    assert last == pytest.approx(1 / (o + (high - o) * part), rel=1e-7, abs=0)
                bound = np.diag([first] * (n - 1) + [last])
                assert least(A - bound, max(first * (n > 1), last)) > -1e-7  # differences of inverses, condition 1e6
    after = eta[2]
    assert of.s / zeta[1] >= of.first_reach(eta[1], after) * (1 - ROOM)
    size = zeta[D] ** 2 + abs(of.b[-1]) * zeta[D] + zeta[D - 1]
    apart = of.s / eta[D] - of.low_y[-1]
    # (B2) divides by what a small interval leaves to rounding.
    assert n == 1 or apart < 1e-6 * zeta[D] or of.last_holds(eta[D], zeta[D] * (1 - ROOM), zeta[D - 1]) <= ROOM * size
    for numbers_of, own, inverse in ((of, g.eta, g.zeta), (of.reversed(), g.zeta[::-1], g.eta[::-1])):  # (V), (U)
        for l in range(D):
            assert of.s / inverse[l] >= numbers_of.tied_reach(l, own) * (1 - 1e-6)  # differences, condition 1e6
    if depth > 2:
        assert least(g.X[1], 1.0) >= twin.phi(of.b[0], 1.0, least(g.X[2], 1.0)) * (1 - ROOM)
        assert least(g.Y[D], 1.0) >= twin.phi(-of.a[-1], 1.0, least(g.Y[D - 1], 1.0)) * (1 - ROOM)


@settings(max_examples=60)
@square
def test_the_box_of_a_network_holds_it(n, depth, family, seed):
    """A box of no size at the network's own η: not empty, its caps above the ζ, its value below `λ_min(T)`."""
    weights = network(n, depth, family, seed)
    g = Grams(weights)
    inv = Invariants.of(lf.Network(weights))
    table, s, _ = numbers.table(
        np.array([float(D.upper[0]) for D in inv.spectra]),
        np.array([float(D.lower[-1]) for D in inv.spectra]),
        numbers.cells(inv.spectra, inv.widths, n),
        *(np.array([float(x)]) for x in (inv.sigma_min, inv.sigma_next, inv.sigma_max)),
    )
    q, eta = table[0], np.array(g.eta)
    high, caps = eta * (1 + ROOM), np.empty(depth - 1)
    assert bool(program.shrink(eta * (1 - ROOM), high, caps, q, s[0]))
    assert (caps >= np.array(g.zeta) * (1 - ROOM)).all()
    T = lf.TangentOperator(weights)
    size = float(T.greatest_eigenvalue())
    for theta in (0.2, 1.0, 8.0):
        value = float(program.value(high, caps, q, s[0], np.full((1, 2 * depth - 2), theta)))
        assert value <= least_tangent_eigenvalue(weights) * (1 + 1e-8) + 1e-13 * size
    thetas = np.ones(2 * depth - 2)
    better = program.improved(high, caps, q, float(s[0]), thetas)
    assert better >= program.value(high, caps, q, s[0], np.ones((1, 2 * depth - 2))) * (1 - 1e-12)
    assert better == pytest.approx(float(program.value(high, caps, q, s[0], thetas[None])), rel=1e-9, abs=0)
    assert better <= least_tangent_eigenvalue(weights) * (1 + 1e-8) + 1e-13 * size


@settings(max_examples=60)
@given(
    n=st.integers(1, 4),
    depth=st.integers(2, 5),
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 2**31),
    less=st.sampled_from([1.0, 0.9, 0.3, 0.01]),
    exact=st.booleans(),
)
@example(n=3, depth=4, family="scaled", seed=3, less=0.3, exact=True)
def test_the_program_of_a_smaller_sigma_holds_the_network(n, depth, family, seed, less, exact):
    """Theorem 3: at a lower bound on σ_n, and weaker other numbers, the point `(μ, ν)` of the weights is a point."""
    weights = network(n, depth, family, seed)
    g = Grams(weights)
    a, b = ends(weights)
    room = 1e-9 * np.abs([*a, *b]).max()
    top = float(g.sigmas[0]) * (1.0 if exact else 1.5)
    following = float(g.sigmas[-2]) * max(less, 0.5) if n > 1 else math.inf
    sigma_n = min(float(g.sigmas[-1]) * less, following)
    rows, s, _ = numbers.table(
        np.array(a) + room,
        np.array(b) - room,
        np.array([b]) - room,
        *(np.array([x]) for x in (sigma_n, following, top)),
        np.array([float(g.sigmas[-1]) * (1 + ROOM) if exact else top]),
    )
    q, share = rows[0], float(s[0]) / g.of.s
    eta, zeta = np.array(g.eta) * share, np.array(g.zeta) * share
    assert (eta >= q[program.EDGE] * (1 - ROOM)).all() and (eta <= q[program.MOST] * (1 + ROOM)).all()
    for width in (0.0, 0.1):  # a box around it
        high, caps = np.minimum(eta * (1 + ROOM + width), q[program.MOST] * (1 + ROOM)), np.empty(depth - 1)
        assert bool(program.shrink(eta * (1 - ROOM - width), high, caps, q, s[0]))
        assert (caps >= zeta * (1 - 1e-6)).all() and (high >= eta * (1 - ROOM)).all()
    value = float(program.value(high, caps, q, s[0], np.ones((1, 2 * depth - 2))))
    size = float(lf.TangentOperator(weights).greatest_eigenvalue())
    assert value <= least_tangent_eigenvalue(weights) * (1 + 1e-8) + 1e-13 * size


def test_the_caps_of_the_prefixes_and_suffixes_are_those_of_the_twin():
    """(V) at a point, and (U) after (C2)."""
    rng = np.random.default_rng(12)
    told = 0  # caps that (V) or (U) lowers
    for _ in range(12):
        depth = int(rng.integers(3, 6))
        a, b, sigma_n, following, _ = given_numbers(rng, depth)
        top = following * (1 + 1e-9)  # one σ besides σ_n: the supremum of every ratio is at it
        of = twin.Numbers(a, b, sigma_n, following, top)
        q = numbers.table(a, b, b[None], *(np.array([x]) for x in (sigma_n, following, top, sigma_n)))[0][0]
        share = rng.uniform(0.3, 1) * np.ones(depth - 1) + rng.uniform(-0.05, 0, depth - 1)
        eta = np.array(of.least) ** (1 - share) * np.array(of.most) ** share
        q[[program.SPREAD, program.SPREAD_2]] = math.inf  # (B) says nothing; the ties have their spreads already
        caps = np.empty(depth - 1)
        program.cap_by_prefixes(eta, eta.copy(), caps, q, of.s)
        expected = of.s / np.array([of.tied_reach(l, eta) for l in range(depth - 1)])
        told += int((expected < of.s / np.array(of.least) * 0.99).sum())
        # The spread is rounded up by up to a tenth, see above, and enters (V) as a square root.
        assert (caps >= expected * (1 - 1e-6)).all() and (caps <= expected * 1.06).all()
        program.spread_caps(eta, caps, q, of.s)
        before = np.maximum(caps, of.s / eta)
        found = before.copy()
        program.cap_by_suffixes(eta, eta.copy(), found, q, of.s)
        expected = np.array(of.suffix_caps(eta, before))
        told += int((expected < before * 0.999).sum())
        assert (found >= expected * (1 - 1e-6)).all() and (found <= expected * 1.06).all()
    assert told > 20  # of 60 or so


def test_what_is_left_of_an_inequality_is_taken_from_above():
    assert 0 < program.slack(1.0, 1.0, 2.0, 2.0) < 1e-11  # 2 + 2 = 4
    assert program.slack(-1.0, 2.0, 1.0, 1.0) == pytest.approx(0.0, abs=1e-12)
    assert program.slack(0.5, 2.0, 3.0, 1.0) == pytest.approx(3.0, rel=1e-12)
    assert program.slack(0.5, 2.0, 3.0, 4.0) == 0
    for d in (-3.0, 0.2, 3.0):  # at an end, whatever the sign of d
        values = [(3.0 + d * x - x * x / 2.0) / x**2 for x in np.linspace(0.5, 2.0, 301)]
        found = program.longest(d, 2.0, 3.0, 0.5, 2.0) ** 2
        assert found == pytest.approx(max(*values, 0.0), rel=1e-9, abs=1e-12)
    assert program.least_zeta(2.0, 0.5, 0.1, 3.0) == 0.75 * (1 - 1e-12)
    assert program.least_zeta(2.0, 0.0, 0.1, 3.0) == 0.1 * (1 - 1e-12)


def test_without_a_bound_on_sigma_from_above_nothing_is_tied():
    """(V) and (U) need ŝ; (B1) and (B2) do not."""
    rng = np.random.default_rng(5)
    for depth in (3, 4):
        a, b, sigma_n, following, top = given_numbers(rng, depth)
        sigmas = [np.array([x]) for x in (sigma_n, following, top)]
        known = numbers.table(a, b, b[None], *sigmas)[0][0]
        free = numbers.table(a, b, b[None], *sigmas[:2], np.array([math.inf]))[0][0]
        assert (free[program.SHARE_OF_S] == 0).all() and (free[program.MIRRORED_EDGE] == 0).all()
        assert (free[program.EDGE] == free[program.LEAST]).all()
        loose = known.copy()
        loose[[program.SHARE_OF_S, program.MIRRORED_EDGE]] = 0.0
        eta = np.sqrt(known[program.LEAST] * known[program.MOST])
        caps, simple = np.empty(depth - 1), np.empty(depth - 1)
        program.cap_by_prefixes(eta, eta.copy(), caps, loose, sigma_n**2)
        loose[[program.TIE, program.TIE_2], 1:] *= 1e6
        program.cap_by_prefixes(eta, eta.copy(), simple, loose, sigma_n**2)
        assert (caps == simple).all()
        before = caps.copy()
        program.cap_by_suffixes(eta, eta.copy(), caps, loose, sigma_n**2)
        assert (caps == before).all()


def given_numbers(rng, depth, scale=1.0):
    """Numbers of no network, but in order: a above b, σ_n below σ_{n−1} below ‖W‖."""
    b = rng.normal(size=depth - 1) * scale
    a = b + rng.exponential(size=depth - 1) * scale * rng.choice([0.01, 0.3, 1.0])
    sigma_n = 10.0 ** rng.uniform(-2, 0)
    following = sigma_n * 10.0 ** rng.uniform(0, 1)
    return a, b, sigma_n, following, following * 10.0 ** rng.uniform(0, 1)


def test_the_numbers_of_a_column_are_those_of_the_twin():
    rng = np.random.default_rng(0)
    for _ in range(10):
        a, b, sigma_n, following, top = given_numbers(rng, int(rng.integers(2, 5)))
        of = twin.Numbers(a, b, sigma_n, following, top)
        most = sigma_n + 0.3 * (top - sigma_n)
        rows, s, group = numbers.table(a, b, b[None], *(np.array([x]) for x in (sigma_n, following, top, most)))
        q = rows[0]
        wide = twin.Numbers(a, b, most, None, top)
        assert rows.shape == (1, len(program.ROWS), len(a)) and group.tolist() == [0] and float(s[0]) == of.s
        expected = {
            program.A: of.a,
            program.B: of.b,
            program.LEAST: of.least,
            program.LEAST_2: of.least,
            program.REST: of.rest,
            program.REST_2: of.rest,
            program.MOST: of.most,
            program.CAP: of.low_y,
            program.MIRRORED_REST: of.rest_y,
            program.X_REST: [1 / x for x in of.rest],
            program.X_LEAST: [1 / x for x in of.least],
            program.X_MOST: [1 / x for x in of.top_x],
            program.Y_REST: [1 / x for x in of.rest_y],
            program.Y_LEAST: [1 / x for x in of.low_y],
            program.Y_MOST: [1 / x for x in of.top_y],
            program.SHARE_OF_S: np.full(len(a), (sigma_n / most) ** 2),
            program.EDGE: [(sigma_n / most) ** 2 * x for x in wide.least],
            program.MIRRORED_EDGE: [of.s / x for x in wide.most],
        }
        for row, values in expected.items():
            # Sums of the d are widened by 8ε of all of them, which counts where a t is as small as 1e-3 of them.
            assert q[row] == pytest.approx(values, rel=1e-10, abs=1e-14), row
        spread, rest = q[program.SPREAD], q[program.REST]
        ties = [1.0, *np.sqrt((1 + spread) * rest)[:-1]]
        for row in (program.TIE, program.TIE_2):
            assert q[row] == pytest.approx(ties, rel=1e-12, abs=0)
        mirrored = [*np.sqrt((1 + spread) * q[program.MIRRORED_REST])[1:], 1.0]
        assert q[program.MIRRORED_TIE] == pytest.approx(mirrored, rel=1e-12, abs=0)
        # The twin takes the largest of 30 ratios; the library bounds the curve between 25 nodes.
        assert (q[program.SPREAD] >= np.array(of.spread) * (1 - 1e-9)).all()
        assert (q[program.SPREAD] <= np.array(of.spread) * 1.1 + 0.02).all()


def test_which_way_each_number_is_rounded():
    """The lower chain from below, the upper from above, each with its own end."""
    a, b = np.array([0.7, -0.2]), np.array([0.3, -0.9])
    rows, _, _ = numbers.table(a, b, b[None], np.array([0.5]), np.array([1.0]), np.array([2.0]))
    of = twin.Numbers(a, b, 0.5, 1.0, 2.0)
    q = rows[0]
    assert (q[program.A] > a).all() and (q[program.B] < b).all()
    assert (
        (q[program.LEAST] < of.least).all()
        and (q[program.MOST] > of.most).all()
        and (q[program.REST] < of.rest).all()
    )
    assert (q[program.CAP] < of.low_y).all() and (q[program.MIRRORED_REST] < of.rest_y).all()
    wide = twin.Numbers(a, b, 2.0, 2.0, 2.0)  # σ_n ≤ ‖W‖
    assert (q[program.SHARE_OF_S] < 0.25 / 4).all() and (q[program.EDGE] < np.array(wide.least) / 16).all()
    assert (q[program.MIRRORED_EDGE] < 0.25 / np.array(wide.most)).all()
    assert (
        numbers.table(a, b, b[None], *np.array([[0.5], [1.0], [2.0], [0.5]]))[0][0, program.EDGE] < of.least
    ).all()
    for row, value in ((program.X_MOST, of.top_x), (program.Y_MOST, of.top_y)):
        assert (q[row] < 1 / np.array(value)).all()
    for row, value in ((program.X_LEAST, of.least), (program.Y_LEAST, of.low_y), (program.X_REST, of.rest)):
        assert (q[row] > 1 / np.array(value)).all()


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("unknown", [False, True])
def test_the_ratio_of_two_chains_between_the_nodes(depth, unknown):
    rng = np.random.default_rng(depth)
    for _ in range(8):
        a, b, first, _, last = given_numbers(rng, depth)
        found = numbers.ratio(a, b[None], np.array([first]), np.array([math.inf if unknown else last]))[0, 0]
        sigmas = np.exp(np.linspace(np.log(first), np.log(1e4 if unknown else last), 400))
        t, u = (np.cumprod(numbers.squares(d[None], sigmas)[0], axis=1)[:, :-1] for d in (a, b))
        seen = (t / u).max(axis=0) - 1
        assert (found >= seen * (1 - 1e-9)).all()
        assert (found <= seen * 1.15 + (0.1 if unknown else 0.02)).all()  # an unknown end has its nodes far apart


def test_the_curvature_of_the_ratio():
    """`|e'| ≤ 4/27`, and the derivative of e' by the imbalances: at most 1.25 over the least t."""
    rng = np.random.default_rng(1)

    def shares(t):
        u = 1 / t
        return np.cumsum(u)[:-1] / u.sum()

    for _ in range(200):
        t = 10.0 ** rng.uniform(-2, 2, int(rng.integers(2, 6)))
        d, sigma, h = t[:-1] - t[1:], math.sqrt(np.prod(t)), 1e-4

        def slope(d, sigma=sigma, h=h):
            up, down = (numbers.squares(d[None], np.array(sigma * math.exp(x / 2)))[0] for x in (h, -h))
            return (shares(up) - shares(down)) / (2 * h)

        assert (np.abs(slope(d)) <= 4 / 27 * (1 + 1e-6)).all()
        for j in range(len(d)):
            move = np.zeros(len(d))
            move[j] = 1e-4 * t.min()
            change = (slope(d + move) - slope(d - move)) / (2 * move[j])
            assert (np.abs(change) <= 1.25 / t.min() * 1.01).all()


@settings(max_examples=60)
@given(
    n=st.integers(1, 3),
    extra=st.lists(st.integers(0, 3), min_size=2, max_size=3),
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 2**31),
)
def test_the_reduction_of_a_network_lies_in_a_cell(n, extra, family, seed):
    weights = network(n, len(extra) + 1, family, seed, extra)
    W = np.linalg.multi_dot(weights)
    sigma = np.linalg.svd(W, compute_uv=False)
    assume(sigma[-1] > 1e-6 * sigma[0])
    Q, reduced, P = np.eye(n), [], np.eye(n)
    for A in weights[:-1]:
        P = P @ A
        basis = np.linalg.svd(P, full_matrices=False)[2].T
        reduced.append(Q.T @ A @ basis)
        Q = basis
    reduced.append(Q.T @ weights[-1])
    hats = [np.linalg.eigvalsh(D) for D in lf.imbalance_matrices(reduced)]
    inv = Invariants.of(lf.Network(weights))
    rows = numbers.cells(inv.spectra, inv.widths, n)
    size = 1e-9 * inv.size  # bases of prefixes of condition 1e6
    assert any(all(h[0] >= b - size for h, b in zip(hats, row, strict=True)) for row in rows)
    assert all(h[-1] <= float(D.upper[0]) + size for h, D in zip(hats, inv.spectra, strict=True))
    assert least_tangent_eigenvalue(reduced) <= least_tangent_eigenvalue(weights) * (1 + 1e-7) + 1e-12 * size


def pair_value(a, b, sigma_n, following, top):
    inv = Invariants.given([Spectrum(np.array([x, y]), np.array([x, y])) for x, y in zip(a, b, strict=True)], 2, 2)
    inv = inv.at(sigma_n, top, following)
    sigmas = (np.array([float(x)]) for x in (inv.sigma_min, inv.sigma_next, inv.sigma_max))
    return float(module.joint(inv.spectra, 2, *sigmas)[0])


@pytest.mark.parametrize("depth", [2, 3])
def test_the_search_against_a_grid(depth):
    """The least of the twin's value over a fine grid of η, with (D) left out: at most that, and near it from below.

    (D) can only raise the value, by up to a half in these draws. The grid of 200 (40 × 40) points per case misses the
    least value by a few per cent.
    """
    rng = np.random.default_rng(depth)
    for _ in range(6 if depth == 3 else 12):
        numbers_given = given_numbers(rng, depth)
        of = twin.Numbers(*numbers_given)
        axes = [
            np.exp(np.linspace(np.log(x), np.log(y), 200 if depth == 2 else 30))
            for x, y in zip(of.least, of.most, strict=True)
        ]
        least_seen = math.inf
        for eta in np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, depth - 1):
            zeta = of.largest_zeta([float(x) for x in eta])
            if zeta is not None:
                least_seen = min(least_seen, of.simple_value(eta, zeta))
        found = pair_value(*numbers_given)
        assert found >= least_seen * (0.985 if depth == 2 else 0.9)
        assert found <= least_seen * 1.6


def test_known_floors_of_wide_layers_are_those_of_the_other_bounds():
    """Floors of the `X_l` and `Y_l` in the units of the layers; the sum of (2.1) on a box with them."""
    told = 0
    for seed in range(6):
        weights = network(2, 4, "scaled", seed, (2, 1, 2))
        inv = Invariants.of(lf.Network(weights))
        least_sigma, largest = (np.array([x * float(y) for x in (0.5, 1.0)]) for y in (inv.sigma_min, inv.sigma_max))
        prefixes, suffixes = module._floors(inv.spectra, 2, least_sigma, np.maximum(largest, largest[1]))
        for l in range(1, 4):
            P, S = np.linalg.multi_dot([np.eye(2), *weights[:l]]), np.linalg.multi_dot([*weights[l:], np.eye(2)])
            assert prefixes[l - 1, 1] <= np.linalg.svd(P)[1][1] ** 2 * (1 + 1e-9)
            assert suffixes[l - 1, 1] <= np.linalg.svd(S)[1][1] ** 2 * (1 + 1e-9)
            assert prefixes[l - 1, 0] <= prefixes[l - 1, 1] * (1 + 1e-12)
        total = np.sum(
            np.concatenate([np.ones((1, 2)), prefixes]) * np.concatenate([suffixes, np.ones((1, 2))]), axis=0
        )
        floors = sys.modules["linflow.bounds.operator_floors"].bound(
            list(inv.spectra), 2, 2, least_sigma, np.maximum(largest, largest[1])
        )
        assert total == pytest.approx(floors, rel=1e-9, abs=0)
        q = numbers.table(
            np.array([float(D.upper[0]) for D in inv.spectra]),
            np.array([float(D.lower[-1]) for D in inv.spectra]),
            numbers.cells(inv.spectra, inv.widths, 2),
            least_sigma,
            least_sigma,
            np.maximum(largest, largest[1]),
        )
        rows, s, _ = q
        eta = np.sqrt(rows[1, program.LEAST] * rows[1, program.MOST])
        caps, ones = s[1] / rows[1, program.LEAST], np.ones((1, 6))
        bare = float(program.value(eta, caps, rows[1], s[1], ones))
        numbers.add_floors(rows, prefixes, suffixes)
        assert (rows[1, program.FLOOR] == prefixes[:, 1]).all()
        assert (rows[1, program.MIRRORED_FLOOR] == suffixes[:, 1]).all()
        of, literal, before = rows[1], 0.0, 1.0
        for l in range(3):
            k = (eta[l] / s[1] - of[program.Y_MOST, l]) / (of[program.Y_LEAST, l] - of[program.Y_MOST, l])
            own = 1 / (of[program.Y_REST, l] + (of[program.Y_LEAST, l] - of[program.Y_REST, l]) * min(k, 1.0))
            literal += before * max(own, suffixes[l, 1])
            k = (caps[l] / s[1] - of[program.X_MOST, l]) / (of[program.X_LEAST, l] - of[program.X_MOST, l])
            own = 1 / (of[program.X_REST, l] + (of[program.X_LEAST, l] - of[program.X_REST, l]) * min(k, 1.0))
            before = max(own, prefixes[l, 1])
        found = float(program.value(eta, caps, of, s[1], ones))
        assert found == pytest.approx(max(bare, literal + before), rel=1e-12, abs=0)
        told += found > bare * 1.001
    assert told


def test_scalars_and_homogeneous_imbalances_are_exact_to_the_tolerance():
    for d in ([0.5, -0.3], [2.0, 1.0, -1.5]):
        exact = lf.bounds.scalar_exact(d, 0.7)
        found = float(operator_interval([np.array([x]) for x in d], 1, 0.7, sigma_max=0.7))
        assert exact * (1 - 1e-8) <= found <= exact
        of_two = [np.array([x, x]) for x in d]
        found = float(operator_interval(of_two, 2, 0.7, 0.9, 0.9))
        assert exact * (1 - 1e-6) <= found <= exact * (1 + 1e-9)


@settings(max_examples=80)
@given(
    n=st.integers(1, 4),
    extra=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    family=st.sampled_from([*FAMILIES, "low rank", "integer", "repeated"]),
    seed=st.integers(0, 2**31),
)
def test_never_above_the_truth_nor_below_the_floors(n, extra, family, seed):
    weights = network(n, len(extra) + 1, family, seed, extra)
    inv = Invariants.of(lf.Network(weights))
    sigmas = (np.array([float(x)]) for x in (inv.sigma_min, inv.sigma_next, inv.sigma_max, inv.sigma_min_most))
    size = float(lf.TangentOperator(weights).greatest_eigenvalue())
    found = float(module.joint(inv.spectra, n, *sigmas)[0])
    assert found <= least_tangent_eigenvalue(weights) + 1e-12 * size
    if len(extra) > 1:
        floors = sys.modules["linflow.bounds.operator_floors"].THEOREM.evaluate(inv)
        assert float(module.THEOREM.evaluate(inv)) == found
        Ds = [(D.lower + D.upper) / 2 for D in inv.spectra]
        given = (float(x) for x in (inv.sigma_min, inv.sigma_next, inv.sigma_max))
        given = float(operator_interval(Ds, n, *given, sigma_n_most=float(inv.sigma_min_most)))
        # The given D count as exact: their allowance is smaller. The search ends within 1 %.
        assert given >= max(float(floors), found) * 0.989


def test_compiled_and_plain_searches_are_the_same():
    pytest.importorskip("numba")
    compiled = search.programs()
    assert compiled is not program.PLAIN
    rng = np.random.default_rng(4)
    for depth in (2, 3, 4, 6):
        for wide in (0, 2):
            inv = Invariants.of(
                lf.Network(network(2, depth, "gaussian", int(rng.integers(2**31)), [wide] * (depth - 1)))
            )
            sigmas = [np.array([0.5, 1.0]) * float(x) for x in (inv.sigma_min, inv.sigma_next)]
            sigmas.append(np.full(2, 1.1 * float(inv.sigma_max)))
            both = [module.joint(inv.spectra, 2, *sigmas, run=run) for run in (compiled, program.PLAIN)]
            # The same operations in the same order; exp and sums over θ may round differently.
            np.testing.assert_allclose(both[0], both[1], rtol=1e-9, atol=0)


def test_it_uses_the_two_functions_it_is_given():
    def measure(*args):
        seen.append(len(args[3]))
        program.measure(*args)

    seen = []
    inv = Invariants.of(lf.Network(network(2, 3, "gaussian", 0)))
    sigmas = [np.array([float(x)]) for x in (inv.sigma_min, inv.sigma_next, inv.sigma_max)]
    found = module.joint(inv.spectra, 2, *sigmas, run=program.Programs(measure, program.improved))
    assert seen[0] == 1 and len(seen) > 3
    assert found == module.joint(inv.spectra, 2, *sigmas, run=program.PLAIN)


def test_a_search_that_is_cut_off_is_lower_and_still_a_bound(monkeypatch):
    inv = Invariants.of(lf.Network(network(2, 3, "gaussian", 1)))
    sigmas = [np.array([float(x)]) for x in (inv.sigma_min, inv.sigma_next, inv.sigma_max)]
    full = float(module.joint(inv.spectra, 2, *sigmas)[0])
    monkeypatch.setattr(search, "MOST_BOXES", 10)
    monkeypatch.setattr(search, "SHARE", 10)
    cut = float(module.joint(inv.spectra, 2, *sigmas)[0])
    assert 0 <= cut < full


def test_the_bound_follows_each_argument():
    """Theorem 3: to the tolerance of the search, 1 %."""
    rng = np.random.default_rng(7)
    for _ in range(12):
        a, b, sigma_n, following, top = given_numbers(rng, 3)
        base = pair_value(a, b, sigma_n, following, top)
        assert pair_value(a + 0.2, b, sigma_n, following, top) <= base * 1.011
        assert pair_value(a, b - 0.2, sigma_n, following, top) <= base * 1.011
        assert pair_value(a, b, 0.7 * sigma_n, following, top) <= base * 1.011
        assert pair_value(a, b, sigma_n, max(0.7 * following, sigma_n), top) <= base * 1.011
        assert pair_value(a, b, sigma_n, following, 2 * top) <= base * 1.011
        assert pair_value(a, b, sigma_n, following, math.inf) <= base * 1.011


def test_many_products_share_the_bounds_of_weaker_ones():
    inv = Invariants.of(lf.Network(network(3, 3, "near balanced", 3)))
    shares = np.linspace(0.05, 1, 60)
    levels = [shares * float(x) for x in (inv.sigma_min, inv.sigma_next)]
    several = inv.at(levels[0], np.full(60, float(inv.sigma_max)), levels[1])
    few = module._few(several)
    assert len(few[0]) <= module.LEVELS and few[4].shape == (60,)
    for k, i in enumerate(few[4]):
        assert few[0][i] <= levels[0][k] and few[1][i] <= levels[1][k] and few[2][i] >= float(inv.sigma_max)
    assert few[0].min() == levels[0][0]  # the weakest stands for itself
    together = module.THEOREM.evaluate(several)
    alone = [float(module.THEOREM.evaluate(inv.at(x, float(inv.sigma_max), y))) for x, y in zip(*levels, strict=True)]
    assert together.shape == (60,)
    assert (together <= np.array(alone) * 1.011).all() and together[0] == pytest.approx(alone[0], rel=0.011)
    none = module._few(inv.at(np.zeros(40), np.full(40, 3.0), np.zeros(40)))
    assert len(none[0]) == 40  # nothing to solve


def test_arguments():
    Ds = [np.array([0.1, -0.1])] * 2
    with pytest.raises(ValueError, match=r"0 ≤ σ_n ≤ σ_{n−1} ≤ ‖W‖ is needed"):
        operator_interval(Ds, 2, 1.0, 0.5, 2.0)
    with pytest.raises(ValueError, match="does not apply: for two layers"):
        operator_interval(Ds[:1], 2, 0.5, 1.0, 2.0)
    at_once = operator_interval(Ds, 2, np.array([0.0, 0.5]), np.array([0.5, 1.0]), np.array([1.0, 1.0]))
    assert at_once.shape == (2,) and at_once[1] == pytest.approx(
        float(operator_interval(Ds, 2, 0.5, 1.0, 1.0)), rel=1e-9
    )
    assert float(operator_interval(Ds, 2, 0.5, sigma_max=1.0)) <= at_once[1] * 1.011  # σ_{n−1} unknown
