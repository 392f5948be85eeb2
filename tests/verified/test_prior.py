"""Guarantees before a run with all rounding proved: near the others, below the truth, honest about the rest."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow.certificates.envelope import envelope, gap_levels
from linflow.certificates.lazy import Neighbourhood
from linflow.verified import prior
from linflow.verified.problem import AffineGradient, affine_gradient
from linflow.verified.rounding import UP, U
from tests.verified_judge import SIGNS, coarse, coarsened

RNG = np.random.default_rng(7)
X, Y = RNG.standard_normal((12, 3)), RNG.standard_normal((12, 2))
SQUARE = np.diag([3.0, 2.0, 1.0])


def near(f, widths, size, rng):
    """A start near the optimum, with imbalance: rates and margins are all positive."""
    return lf.Network(lf.init.imbalanced(widths, [size] * (len(widths) - 2), 0.97 * f.minimizer, rng=rng).weights)


FACTOR = lf.MatrixFactorization(SQUARE)
REGRESSION = lf.LinearRegression(X, Y)
GENERAL = lf.Quadratic(np.diag([1.0, 2.0, 3.0]), np.array([[2.0, 0.5], [0.5, 1.0]]), RNG.standard_normal((3, 2)))
CASES = {
    "square": (FACTOR, near(FACTOR, (3, 5, 3), 2.0, 1)),
    "regression": (REGRESSION, lf.init.ntk((3, 300, 2), rng=2)),
    "scaled": (REGRESSION, lf.Network(lf.init.ntk((3, 40, 2), rng=2).weights, 3.0)),
    "three layers": (FACTOR, near(FACTOR, (3, 6, 6, 3), 3.0, 0)),
    "four layers": (FACTOR, near(FACTOR, (3, 6, 5, 6, 3), 2.0, 0)),
    "quadratic": (GENERAL, near(GENERAL, (3, 5, 2), 2.0, 3)),
    "one layer": (REGRESSION, lf.Network([RNG.standard_normal((3, 2))], 0.7)),
}


@pytest.fixture(params=sorted(CASES), scope="module")
def case(request):
    f, net = CASES[request.param]
    return lf.certify(f, net), lf.certify(f, net, rigorous=True), f, net


def test_what_is_proved_is_a_little_below_what_is_computed(case):
    plain, sure, _, net = case
    by_name = {g.name: g for g in plain.guarantees}
    applying = [g for g in sure.guarantees if g.applies]
    without_product = ("envelope", "any depth, operator floors")
    assert applying and sure.best is not None
    for g in applying:
        other = by_name[g.name]
        # The formula of three layers subtracts squares, so its allowance is not relative. Operator floors, and with
        # them the envelope of three layers and more, do without the bound from imbalance and product.
        loose = 1e-4 if "Δ*" in g.name else 5e-2 if net.depth > 2 and g.name in without_product else 1e-9
        # The balls of three layers and more are on a grid of their own, which may fit a little better.
        grid = 1e-3 if net.depth > 2 and g.name in ("envelope", "lazy regime") else 0.0
        assert other.rate * (1 - loose - grid) < g.rate < other.rate * (1 + grid)
        assert 1 - grid < g.time_to(1e-6) / other.time_to(1e-6) < 1 + loose + grid
        assert 1 < g.gap / other.gap < 1 + 1e-10 and g.source == other.source
        assert g.facts == {} or g.facts["final rate"] < other.facts["final rate"] * (1 + grid)


def test_it_says_what_it_rests_on(case):
    plain, sure, _, _ = case
    assert sure.rests_on == "float64 numbers, rounding included and proved" == sure.to_dict()["rests_on"]
    assert str(sure).splitlines()[2] == f"rests on {sure.rests_on}"
    assert "allowed for, but not proved" in plain.rests_on and plain.rests_on in str(plain)
    assert sure.pl_constant < plain.pl_constant and sure.pl_constant / plain.pl_constant > 1 - 1e-9
    assert sure.baseline.reason == prior.NOT_PROVED
    assert not any(row.applies for row in sure.prior) and len(sure.prior) == len(plain.prior)


def test_no_proof_by_computing_breaks_it(case):
    _, sure, f, net = case
    enc = lf.enclose(f, net, until=1e-4)
    found = sure.check(enc)
    assert found.holds and found.worst_gap <= 1
    for fraction in (1e-1, 1e-3):
        assert sure.time_to(fraction) >= enc.time_bounds(fraction)[0]


def test_every_row_is_there_and_one_that_is_not_proved_says_so(case):
    plain, sure, _, _ = case
    assert sorted(g.name for g in plain.guarantees) == sorted(g.name for g in sure.guarantees)
    reasons = {g.name: g.reason for g in sure.guarantees}
    for g in plain.guarantees:
        if not g.applies:
            assert reasons[g.name] == g.reason
        elif g.name in ("unimodal imbalance", "any depth, imbalance and product", "operator interval, n = m"):
            assert reasons[g.name] == prior.NOT_PROVED


def test_descent_and_other_objectives_are_refused_in_words():
    f, net = CASES["square"]
    sure = lf.certify(f, net, algorithm="descent", rigorous=True)
    assert sure.best is None and (sure.step_size or 0) > 0
    assert any("lf.enclose" in g.reason for g in sure.guarantees)
    tail = lf.ExponentialLoss([[3.0, 0.0], [0.0, -4.0]], [1, -1])
    sure = lf.certify(tail, lf.init.imbalanced((2, 4, 1), [3.0], np.ones((2, 1)), rng=0), rigorous=True)
    assert sure.best is None and "only guarantees for quadratic objectives" in sure.guarantees[0].reason
    flat = lf.LinearRegression(X[:2], Y[:2])
    sure = lf.certify(flat, lf.init.ntk((3, 40, 2), rng=2), rigorous=True)
    assert sure.best is None and any("strongly convex" in g.reason for g in sure.guarantees)


def test_arguments_are_checked_as_without_it():
    f, net = CASES["square"]
    with pytest.raises(ValueError, match="the flow takes no steps"):
        lf.certify(f, net, step_size=0.1, rigorous=True)


def true_least(weights, c):
    """Return `λ_min(T)` to 40 digits."""
    with mpmath.workdps(40):
        M = [mpmath.matrix([[mpmath.mpf(float(x)) for x in row] for row in np.asarray(W)]) for W in weights]
        n, m = M[0].rows, M[-1].cols
        T = mpmath.zeros(n * m)
        for l in range(len(M)):
            P, S = mpmath.eye(n), mpmath.eye(m)
            for A in M[:l]:
                P = P * A
            for A in reversed(M[l + 1 :]):
                S = A * S
            left, right = P * P.T, S.T * S
            for i, j, k, q in itertools.product(range(n), range(n), range(m), range(m)):
                T[i * m + k, j * m + q] += mpmath.mpf(c) ** 2 * left[i, j] * right[k, q]
        return min(mpmath.eigsy(T, eigvals_only=True)) if n * m > 1 else T[0, 0]


WIDTHS = [(2, 3), (2, 3, 2), (3, 4, 2), (2, 3, 3, 2), (1, 2, 2, 2)]


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_least_eigenvalue_of_the_start_is_proved_and_tight(widths):
    rng = np.random.default_rng(len(widths))
    weights = [rng.standard_normal(shape) for shape in itertools.pairwise(widths)]
    true = true_least(weights, 1.5)
    found = prior.least_of_operator(weights, 1.5)
    assert found <= true and found >= float(true) * (1 - 1e-11)  # DOWN and the rounding of 6×6


@pytest.mark.parametrize("limit", [900, 1])
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("widths", WIDTHS[1:])
def test_the_least_eigenvalue_of_the_start_counts_all_rounding(widths, sign, limit, monkeypatch):
    monkeypatch.setattr(prior, "LARGEST_OPERATOR", limit)  # the products of the two sides, above it
    rng = np.random.default_rng(len(widths))
    weights = [np.eye(*shape) + 0.1 * rng.standard_normal(shape) for shape in itertools.pairwise(widths)]
    true = float(true_least(weights, 0.7))
    with coarse(monkeypatch, sign):
        found = prior.least_of_operator([coarsened(W) for W in weights], 0.7)
    assert float(found) <= true


@pytest.mark.parametrize("widths", WIDTHS)
def test_floors_hold_on_their_balls(widths):
    rng = np.random.default_rng(9)
    weights = [2 * np.eye(*shape) + 0.3 * rng.standard_normal(shape) for shape in itertools.pairwise(widths)]
    found = prior.neighbourhood(weights, 1.2)
    if len(weights) == 1:
        assert math.isinf(found.radii[-1]) and found.floors[0] == pytest.approx(1.44) and found.floors[0] < 1.44
        return
    for j in (0, 100, 250, 399):
        for _ in range(3):
            e = [rng.standard_normal(W.shape) for W in weights]
            size = math.sqrt(sum(float(np.sum(d * d)) for d in e))
            moved = [W + found.radii[j] / size * d for W, d in zip(weights, e, strict=True)]
            assert found.floors[j] <= true_least(moved, 1.2)


def test_floors_are_those_of_the_other_certificate_and_smaller():
    _, net = CASES["three layers"]
    plain, sure = Neighbourhood.of(net), prior.neighbourhood([*net.weights], net.scale)
    assert len(plain.radii) == len(sure.radii)
    np.testing.assert_allclose(sure.radii, plain.radii, rtol=1e-2)  # their norms are bounds, up to q^{1/64} larger
    assert sure.floors[0] < plain.floors[0] * (1 + 1e-12)


def test_radii_and_rates_leave_room_for_what_is_rounded_later(monkeypatch):
    """What is compared, summed and divided after this, on some 150 levels, rounds by less than 10⁻¹¹ of itself."""
    f, net = CASES["three layers"]
    start = prior._Start.of(affine_gradient(f), net)
    root = math.sqrt(prior.least_of_operator([*net.weights], 1.0)) * prior.DOWN
    first = 1.0 * prior._interaction(np.array([prior.spectral(W) for W in net.weights]))
    assert start.nearby.radii[-1] == root / first * (1 - 1e-11)
    row = next(g for g in lf.certify(f, net).guarantees if g.name == "envelope")
    floors = np.max(list(start.floors.values()), axis=0)
    curve: Any = envelope(start.levels, 2.0, floors, start.nearby)
    found: Any = start.proved(row, 2.0).curve
    assert (found.rates == curve.rates * (1 - 1e-11)).all()


def test_the_first_gap_is_bounded_from_both_sides():
    Y = np.array([[0.1, 0.7]])
    W = np.array([[1 / 3, 0.2]])
    start = prior._Start.of(affine_gradient(lf.MatrixFactorization(Y)), lf.Network([W], 1 / 3))
    with mpmath.workdps(50):
        c = mpmath.mpf(1 / 3)
        true = sum((c * mpmath.mpf(w) - mpmath.mpf(y)) ** 2 for w, y in zip(W[0], Y[0], strict=True)) / 2
    low, high = start.gap
    assert (
        low <= true
        and true * (1 + mpmath.mpf("1e-12")) <= high * (1 + mpmath.mpf("1e-15"))
        and high / low < 1 + 1e-11
    )
    assert (start.levels == gap_levels(high)).all()


def test_times_are_to_parts_of_the_least_first_gap():
    curve = prior.SureCurve(np.array([2.0, 1.0]), np.array([1.0, 1.0]), 0.5)
    assert curve.time(2.0) == 0.0 and curve.time(1.0) == pytest.approx(math.log(4), rel=1e-12)
    assert math.isinf(prior.SureCurve(np.array([2.0, 1.0]), np.array([1.0, 1.0])).time(1.0))


def seen(problem, weights, c, levels):
    """Return what the theorems are told."""
    return prior._invariants(levels, problem, weights, c)


def test_the_theorems_are_told_of_all_that_is_not_known():
    """Singular values of the exact minimiser, at all weights with the gap, and imbalances with room for sums."""
    V, weights = np.diag([5.0, 3.0]), [np.diag([2.0, 1.0]), np.diag([1.0, 1.0])]
    problem = AffineGradient(V, residue=0.25, least=0.5)
    found = seen(problem, weights, 2.0, np.array([0.25, 0.01]))
    reach = np.sqrt(2 * np.array([0.25, 0.01]) / 0.5) + 0.5  # ‖R‖/μ
    for told, true in (
        (found.sigma_min, (3 - reach) / 2),
        (found.sigma_next, (5 - reach) / 2),
        (-found.sigma_max, -(5 + reach) / 2),
    ):
        assert (told < true).all()
        np.testing.assert_allclose(told, true, rtol=1e-11)
    D, room = found.spectra[0], (16 * 4 + 64) * U * 3
    assert (D.lower < np.array([3.0, 0.0]) - room).all() and (D.upper > np.array([3.0, 0.0]) + room).all()
    assert (D.upper - D.lower < 4 * room).all()


def test_a_vector_has_no_second_singular_value():
    found = seen(AffineGradient(np.array([[5.0], [0.0]])), [np.eye(2), np.ones((2, 1))], 1.0, np.ones(1))
    assert math.isinf(found.sigma_next[0]) and found.sigma_min[0] == pytest.approx(5 - math.sqrt(2))


def test_the_formula_that_subtracts_squares_is_granted_its_rounding():
    def row(name) -> Any:
        return SimpleNamespace(name=name, value=np.array([5.0]))

    weights = [np.eye(2) * 3, np.eye(2), np.eye(2)]
    size = 18 + 2 + 2
    room = 100 * (2 + 8) * 4 * U * (0.5 * size) ** 2
    assert prior._lowered(row("three layers, Δ*"), weights, 0.5) == pytest.approx(5.0 - room, rel=3e-12, abs=0)
    assert 5.0 - prior._lowered(row("three layers, Δ*"), weights, 0.5) >= room
    assert prior._lowered(row("two layers"), weights, 0.5) == 5.0 * (1 - 1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_the_interaction_of_layers_is_an_upper_bound(depth):
    norms = np.random.default_rng(depth).uniform(0.5, 2.0, depth)
    C = np.array(
        [
            [0.0 if i == j else math.prod(norms[k] for k in range(depth) if k not in (i, j)) for j in range(depth)]
            for i in range(depth)
        ]
    )
    true = float(np.linalg.eigvalsh(C)[-1])
    assert true * (1 - 1e-14) <= prior._interaction(norms) <= true * (1 + 1e-6) and UP > 1
