"""The logarithmic norm of a verified flow written out, under a roundoff so coarse that every allowance shows."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from linflow.verified import log_norm
from linflow.verified.hessian import between, cross, hessian
from linflow.verified.log_norm import Constants, Node, Tube, greatest, jet, level_three, level_two, times
from linflow.verified.rounding import least_eigenvalue, spectral
from tests.verified.test_literal_path import FLOAT64, PATHS, coarse, drawn, near, path_of, up

__all__ = ["coarse"]


@pytest.fixture
def fine(monkeypatch):
    """Without any rounding but 10⁻¹², which the products of computed norms are granted where they are subtracted."""
    monkeypatch.setattr(log_norm, "UP", 1.0)


def of_series(norms, s):
    """`Σ a_k s^k` and its derivatives."""
    rising = [
        sum(a * s**k for k, a in enumerate(norms)),
        sum(k * a * s ** (k - 1) for k, a in enumerate(norms) if k > 0),
        sum(k * (k - 1) * a * s ** (k - 2) for k, a in enumerate(norms) if k > 1),
    ]
    return tuple(x * up for x in rising)


def leibniz(*jets):
    """The value and two derivatives of a product."""
    places = range(len(jets))

    def product(*orders):
        return math.prod(jets[k][orders.count(k)] for k in places)

    first = sum(product(i) for i in places)
    second = sum(product(i, j) for i in places for j in places)
    return product() * up, first * up, second * up


def eigenvalue(C):
    return np.linalg.eigvalsh(C)[-1]


def test_the_greatest_eigenvalue_of_a_matrix_without_negative_entries(coarse, monkeypatch):
    C = np.abs(drawn(4, 4)) + 0.1
    C = C + C.T
    # By Collatz and Wielandt, at the eigenvector plus 10⁻⁹.
    eigh = np.linalg.eigh
    for A in (C, 1e-3 * C):
        v = np.abs(eigh(A)[1][:, -1]) + 1e-9
        for sign in (1, -1):
            monkeypatch.setattr(np.linalg, "eigh", lambda A, sign=sign: (None, sign * eigh(A)[1]))
            assert greatest(A) == near(max(A @ v / v) * up)
        assert greatest(A) >= eigenvalue(A) * up * (1 - 1e-12)
    assert greatest(np.array([[5.0]])) == 5.0
    for a, b, c in ((1.0, 2.0, 3.0), (0.0, 2.0, 0.0), (3.0, 0.0, 1.0)):
        two = np.array([[a, b], [b, c]])
        assert greatest(two) == near(eigenvalue(two) * up)
    # Where there is nothing to decompose, nothing is.
    monkeypatch.setattr(np.linalg, "eigh", None)
    assert greatest(np.zeros((3, 3))) == 0.0
    assert greatest(np.diag([1.0, math.inf, 2.0])) == math.inf and greatest(np.full((3, 3), math.nan)) == math.inf


def test_jets_and_their_products(coarse):
    norms = np.array([3.0, 2.0, 5.0, 7.0])
    for s in (0.0, 0.5, 2.0):
        assert jet(norms, s) == tuple(near(x) if x else 0.0 for x in of_series(norms, s))
    jets = [(2.0, 3.0, 5.0), (7.0, 11.0, 13.0), (17.0, 19.0, 23.0)]
    for count in (1, 2, 3):
        assert times(*jets[:count]) == tuple(near(x) for x in leibniz(*jets[:count]))


def tubes(widths, c, arithmetic, s=0.3):
    path = path_of(widths, c, arithmetic)
    return path, Tube(path, s)


@pytest.mark.parametrize(("widths", "c", "arithmetic"), PATHS)
def test_a_tube_is_made_of_the_norms_of_all_products(coarse, widths, c, arithmetic):
    s, (path, tube) = 0.3, tubes(widths, c, arithmetic)
    L, K, one = len(widths) - 1, path.problem.smoothness, (1.0, 0.0, 0.0)
    pairs = list(itertools.combinations(range(L), 2))
    layers = [of_series(x.norms, s) for x in path.weights]
    before = [of_series(path.prefix_norms[l], s) if l else one for l in range(L)]
    after = [of_series(path.suffix_norms[l + 2], s) if l < L - 1 else one for l in range(L)]
    slope = of_series(path.slope_norms, s)
    pulled = [of_series(norms, s) for norms in path.pulled_norms]
    for found, expected in (
        (tube.layers, layers),
        (tube.before, before),
        (tube.after, after),
        ([tube.slope], [slope]),
        (tube.pulled, pulled),
    ):
        assert found == [tuple(near(x) for x in jets) for jets in expected]
    mids, at_start = {}, between(path)
    for i, j in pairs:
        if j == i + 1:
            mids[i, j] = one
            continue
        v, d, dd = leibniz(*layers[i + 1 : j])
        start = (spectral(at_start[i, j].value) + at_start[i, j].error) * up
        moved = start + v - math.prod(x.norms[0] for x in path.weights[i + 1 : j]) * (1 - 1e-12)
        mids[i, j] = (min(v, moved * up), d, dd)
    assert tube.mids == {k: tuple(near(x) for x in jets) for k, jets in mids.items()}
    # s³/12 (Q₂ + 2J₁²) + (1/ε − 1) s⁵/120 J₂², where 1 − ε = 31/32 of the first part is kept.
    D = np.zeros((L, L))
    for i, j in pairs:
        D[i, j] = D[j, i] = leibniz(pulled[i], mids[i, j], after[j])[2]
    turning = [leibniz(p, q) for p, q in zip(before, after, strict=True)]
    moved, bent = (c * c * K * sum(x[k] ** 2 for x in turning) for k in (1, 2))
    assert tube.sag == near(((greatest(D) + 2 * moved) * s**3 / 12 + 31 * bent * s**5 / 120) * up)

    radius = 0.25
    x = [v for v, _, _ in layers]

    def wide(value, places):
        grown = math.prod(x[k] + radius for k in places) * up - math.prod(x[k] for k in places) * (1 - 1e-12)
        return (value + grown) * up

    p = [wide(before[l][0], range(l)) for l in range(L)]
    q = [wide(after[l][0], range(l + 1, L)) for l in range(L)]
    m = {(i, j): wide(mids[i, j][0], range(i + 1, j)) for i, j in pairs}
    found = tube.widened(radius)
    assert found == ([near(v) for v in p], [near(v) for v in q], {k: near(v) for k, v in m.items()})
    # μ_1, μ_2, c‖∇f‖ and Λ_3 of docs/verified.md, section 4.
    motion = c * math.sqrt(sum((a * b) ** 2 for a, b in zip(p, q, strict=True))) * up
    C, squares = np.zeros((L, L)), 0.0
    for i, j in pairs:
        C[i, j] = C[j, i] = p[i] * m[i, j] * q[j]
    for k in range(L):
        Q = np.zeros((L, L))
        for i, j in pairs:
            if k not in (i, j):
                a, b, d = sorted((i, j, k))
                Q[i, j] = Q[j, i] = p[a] * m[a, b] * m[b, d] * q[d]
        squares += greatest(Q) ** 2
    bend, twist = c * greatest(C), math.sqrt(squares) * up
    wider = (slope[0] + c * K * motion * radius) * up
    third = (3 * K * motion * bend + wider * twist) * up
    constants = tube.constants(radius)
    assert (constants.motion, constants.slope) == (near(motion), near(wider))
    assert (constants.bend, constants.third) == tuple(near(v) if v else 0.0 for v in (bend, third))


@pytest.mark.parametrize(("widths", "c", "arithmetic"), PATHS)
def test_norms_at_a_jump_s_distance_are_those_of_the_tube_less_those_of_the_path(coarse, widths, c, arithmetic):
    _, tube = tubes(widths, c, arithmetic)
    p, q, m = tube.widened(0.25)
    constants = tube.constants(0.25)
    x, of_mids = tube.moved(0.25, constants)
    for i, j in itertools.combinations(range(len(widths) - 1), 2):
        here = tube.slope[0] * tube.before[i][0] * tube.after[j][0]
        assert x[i, j] == x[j, i] == near(constants.slope * p[i] * q[j] * up - here * (1 - 1e-12))
        assert of_mids[i, j] == of_mids[j, i]
        assert of_mids[i, j] == pytest.approx(m[i, j] * up - tube.mids[i, j][0] * (1 - 1e-12), rel=1e-11)
    assert not x.diagonal().any() and not of_mids.diagonal().any()


def test_what_is_subtracted_is_granted_a_part_in_10_to_the_12(fine):
    tube = object.__new__(Tube)
    tube.layers = [(2.0, 0, 0), (3.0, 0, 0), (5.0, 0, 0)]
    tube.before = tube.after = [(0.0, 0, 0)] * 3
    tube.__dict__["mids"] = {(0, 1): (0.0, 0, 0), (0, 2): (0.0, 0, 0), (1, 2): (0.0, 0, 0)}
    before, after, mids = tube.widened(0.0)
    some = pytest.approx(1e-12, rel=1e-2, abs=0)  # differences of numbers of size 1, rounded to 10⁻¹⁶
    assert [b / x for b, x in zip(before, (1, 2, 6), strict=True)] == [some] * 3
    assert [b / x for b, x in zip(after, (15, 5, 1), strict=True)] == [some] * 3
    assert [mids[k] / x for k, x in (((0, 1), 1), ((0, 2), 3), ((1, 2), 1))] == [some] * 3
    tube.path, tube.slope = SimpleNamespace(depth=3), (1.0, 0, 0)
    tube.before = tube.after = [(1.0, 0, 0)] * 3
    tube.__dict__["mids"] = dict.fromkeys(mids, (1.0, 0, 0))
    tube.widened = lambda jump: ([1.0] * 3, [1.0] * 3, dict.fromkeys(mids, 1.0))
    x, m = tube.moved(0.0, Constants(0, 0, 1.0, 0))
    assert [*x[np.triu_indices(3, 1)], *m[np.triu_indices(3, 1)]] == [some] * 6
    # Products between layers that are less than those of the norms.
    path, tube = tubes((2, 3, 3, 2), 1.0, FLOAT64, s=0.0)
    start = spectral(between(path)[0, 2].value) + between(path)[0, 2].error
    assert start == pytest.approx(tube.layers[1][0], rel=1e-6)
    tube = Tube(path_of((2, 3, 4, 3, 2), 1.0, FLOAT64), 0.0)
    M = between(tube.path)[0, 3]
    start, product = spectral(M.value) + M.error, tube.layers[1][0] * tube.layers[2][0]
    assert (tube.mids[0, 3][0] - start) / product == some and start < 0.99 * product


@pytest.mark.parametrize(("widths", "c", "arithmetic"), PATHS)
def test_norms_at_a_node_and_the_least_curvature(coarse, widths, c, arithmetic):
    path = path_of(widths, c, arithmetic)
    node, L = Node(path), len(widths) - 1
    x, m = np.zeros((L, L)), np.zeros((L, L))
    for (i, j), X in cross(path).items():
        x[i, j] = x[j, i] = (spectral(X.value) + X.error) * up
    for (i, j), M in between(path).items():
        m[i, j] = m[j, i] = 1.0 if M is None else (spectral(M.value) + M.error) * up
    for found, expected in zip(node.products, (x, m), strict=True):
        assert found == near(expected) if L > 1 else not found.any()
    assert node.least == least_eigenvalue(*hessian(path, 31 / 32))


@pytest.mark.parametrize("L", [2, 3])
@pytest.mark.parametrize("grows", [1, -1])
def test_the_bound_by_products_is_a_trapezium_and_its_remainders(coarse, L, grows):
    """Of two chords, and of the parabolas that may lie between them and the norms."""
    pairs, rng, c = list(itertools.combinations(range(L), 2)), np.random.default_rng(5), Constants(0, 0, 0, 0)

    def symmetric():
        A = np.zeros((L, L))
        for i, j in pairs:
            A[i, j] = A[j, i] = rng.uniform(1, 2)
        return A

    xa, xb, ma, mb, dx, dm = (symmetric() for _ in range(6))
    mb = ma + grows * np.abs(mb) * (np.ones((L, L)) - np.eye(L))
    s, jump = 0.5, 0.125
    jets = [tuple(rng.uniform(1, 2, 3)) for _ in range(3 * L + len(pairs) + 1)]
    tube = SimpleNamespace(
        path=SimpleNamespace(depth=L),
        s=s,
        slope=jets[0],
        before=jets[1 : L + 1],
        after=jets[L + 1 : 2 * L + 1],
        mids=dict(zip(pairs, jets[2 * L + 1 :], strict=False)),
        moved=lambda j, k: (dx, dm) if (j, k) == (jump, c) else None,
    )
    xb_wide, mb_wide = (xb + dx) * up, (mb + dm) * up
    remainder = np.zeros((L, L))
    for i, j in pairs:
        bent = leibniz(tube.slope, tube.before[i], tube.after[j])[2]
        mid = tube.mids[i, j][2]
        most_x, most_m = max(xa[i, j], xb_wide[i, j]), max(ma[i, j], mb_wide[i, j])
        bend = 0.5 * s**2 * (bent * most_m + mid * most_x + 0.25 * s**2 * bent * mid)
        turn = max(0.0, -(xb_wide[i, j] - xa[i, j]) * (mb_wide[i, j] - ma[i, j]))
        remainder[i, j] = remainder[j, i] = (turn + bend) * up
    ends = greatest(xa * ma) + greatest(xb_wide * mb_wide)
    found = level_two(SimpleNamespace(products=(xa, ma)), SimpleNamespace(products=(xb, mb)), tube, jump, c)
    assert found == near((0.5 * ends + greatest(remainder) / 6) * s * up)


def test_one_layer_has_no_second_order(coarse):
    zero = np.zeros((1, 1))
    tube = SimpleNamespace(path=SimpleNamespace(depth=1), s=0.5, moved=lambda j, k: (zero, zero))
    node = SimpleNamespace(products=(zero, zero))
    assert level_two(node, node, tube, 0.0, Constants(0, 0, 0, 0)) == 0.0


@pytest.mark.parametrize(("a", "b"), [(-3.0, -2.0), (3.0, -2.0), (-3.0, 2.0), (3.0, 2.0)])
def test_the_bound_by_the_hessian_is_a_trapezium_and_its_sag(coarse, a, b):
    s, jump, third, sag = 0.5, 0.125, 7.0, 11.0
    tube = SimpleNamespace(s=s, sag=sag)
    found = level_three(SimpleNamespace(least=a), SimpleNamespace(least=b), tube, jump, Constants(0, 0, 0, third))
    ends = max(0.0, -a) + max(0.0, -b) + third * jump
    assert found == near((0.5 * ends * s + sag) * up)
