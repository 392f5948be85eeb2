"""Guarantees with all rounding proved, written out under a roundoff so coarse that every allowance shows."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates.envelope import gap_levels
from linflow.certificates.lazy import GRID
from linflow.verified import prior
from linflow.verified.problem import AffineGradient, affine_gradient
from tests.verified.test_literal_path import coarse, drawn, fro, g, near, tiny, u, up

__all__ = ["coarse"]
FRESH = prior.DOWN, prior.SURE
down, sure = 1 - 2.0**-7, 1 - 2.0**-6


@pytest.fixture(autouse=True)
def factors(coarse, monkeypatch):
    monkeypatch.setattr(prior, "DOWN", down)
    monkeypatch.setattr(prior, "SURE", sure)


def test_the_factors():
    """A formula of a few hundred operations is right to 1e-12, and a sum over some hundred levels to 1e-11."""
    assert FRESH == (1 - 1e-12, 1 - 1e-11)


def test_the_interaction_of_layers():
    a, b, c = 2.0, 3.0, 0.5
    C = np.array([[0, c, b], [c, 0, a], [b, a, 0.0]])
    assert prior._interaction(np.array([a, b, c])) == near(prior.greatest(C) * up)
    assert prior._interaction(np.array([a, b])) == near(prior.greatest(np.array([[0, 1], [1, 0.0]])) * up)


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 2)], [(2, 3), (3, 4)], [(1, 3), (3, 2)]])
def test_the_least_eigenvalue_of_a_gram_matrix(monkeypatch, shapes):
    asked = {}

    def least(A, error):
        asked.update(A=A, error=error)
        return 0.75 - error

    monkeypatch.setattr(prior, "least_eigenvalue", least)
    monkeypatch.setattr(prior, "product_error", lambda factors, errors: (np.linalg.multi_dot([*factors, I]), 0.125))
    layers = [drawn(*shape, seed=k) / 8 for k, shape in enumerate(shapes)]
    I = np.eye(shapes[-1][1])
    P = np.linalg.multi_dot([*layers, I])
    error = (g(P.shape[1] + 2) * fro(P) ** 2 + 0.125 * (2 * fro(P) + 0.125)) * up + tiny
    assert prior._least(*layers) == near(max(0.0, 0.75 - error))
    assert asked["error"] == near(error)
    np.testing.assert_allclose(asked["A"], P @ P.T, rtol=1e-12)
    monkeypatch.setattr(prior, "least_eigenvalue", lambda A, error: -1.0)
    assert prior._least(*layers) == 0.0


def test_a_tall_product_has_a_singular_gram_matrix(monkeypatch):
    monkeypatch.setattr(prior, "least_eigenvalue", lambda A, error: 5.0)
    assert prior._least(drawn(3, 2)) == 0.0 and prior._least(drawn(2, 2)) == 5.0


def test_the_least_eigenvalue_of_the_operator(monkeypatch):
    c = 3.0
    seen = []

    def least(*factors):
        seen.append([f.shape for f in factors])
        return float(len(seen))

    monkeypatch.setattr(prior, "_least", least)
    assert prior.least_of_operator([drawn(2, 2)], c) == near(9 * (1 - 4 * u)) and not seen
    assert prior.least_of_operator([drawn(2, 3), drawn(3, 4)], c) == near((1 + 2) * 9 * down)
    assert seen == [[(2, 3)], [(4, 3)]]
    # Three layers by sums of products: Σ_l λ_n(P_{l−1}P_{l−1}ᵀ) λ_m(S_{l+1}ᵀS_{l+1}), from the mirrored suffixes.
    seen.clear()
    monkeypatch.setattr(prior, "LARGEST_OPERATOR", 7)
    layers = [drawn(2, 3), drawn(3, 5), drawn(5, 4)]
    assert prior.least_of_operator(layers, c) == near((1.0 * 1 + 2 * 3 + 4 * 1.0) * 9 * down)
    assert seen == [[(4, 5), (5, 3)], [(2, 3)], [(4, 5)], [(2, 3), (3, 5)]]
    # And of the matrix itself where it is small.
    monkeypatch.setattr(prior, "LARGEST_OPERATOR", 8)
    monkeypatch.setattr(prior, "_operator", lambda weights, scale: (np.eye(2) * scale, 0.5, None))
    monkeypatch.setattr(prior, "least_eigenvalue", lambda T, error: float(T[0, 0]) - 2 * error)
    assert prior.least_of_operator(layers, c) == near(2.0) and prior.least_of_operator(layers, 0.5) == 0.0


def test_floors_near_a_start(monkeypatch):
    monkeypatch.setattr(prior, "least_of_operator", lambda weights, c: 4.0)
    monkeypatch.setattr(prior, "spectral", lambda W: float(W[0, 0]))
    layers, c = [np.full((1, 1), 2.0), np.full((1, 1), 3.0), np.full((1, 1), 0.5)], 0.25
    near_start = prior.neighbourhood(layers, c)

    def slope(r):
        return c * prior._interaction(np.array([2.0 + r, 3.0 + r, 0.5 + r]))

    root = 2 * down
    radii = [(k / GRID) ** 2 * root / slope(0.0) for k in range(GRID + 1)]
    change, floors = 0.0, [root**2 * down]
    for before, after in itertools.pairwise(radii):
        change += (after - before) * slope(after)  # an upper sum
        floors.append(max(root - change * up, 0.0) ** 2 * down)
    np.testing.assert_allclose(near_start.radii, [r * sure for r in radii], rtol=1e-12)
    np.testing.assert_allclose(near_start.floors, floors, rtol=1e-9, atol=1e-12)
    assert near_start.floors[-1] == 0.0 < near_start.floors[GRID // 2]


def test_floors_where_nothing_or_all_is_known(monkeypatch):
    monkeypatch.setattr(prior, "least_of_operator", lambda weights, c: 0.0)
    nothing = prior.neighbourhood([np.eye(2), np.eye(2)], 1.0)
    assert list(nothing.radii) == [0.0, 0.0] and list(nothing.floors) == [0.0, 0.0]
    monkeypatch.setattr(prior, "least_of_operator", lambda weights, c: 4.0)
    everywhere = prior.neighbourhood([np.eye(2)], 1.0)
    assert list(everywhere.radii) == [0.0, math.inf] and list(everywhere.floors) == near([4 * down**3] * 2)


@pytest.mark.parametrize("first", [(0.5, 2.0), (0.0, 0.0)])
def test_the_gap_at_a_start(monkeypatch, first):
    asked = {}

    def gap(self, D, error):
        asked.update(D=D, error=error)
        return first

    monkeypatch.setattr(AffineGradient, "gap", gap)
    monkeypatch.setattr(prior, "product_error", lambda weights, errors: (np.full((1, 1), 8.0), 0.25))
    f, c = lf.MatrixFactorization(np.full((1, 1), 3.0)), 2.0
    problem = affine_gradient(f)
    start = prior._Start.of(problem, lf.Network([np.full((1, 1), 8.0)], c))
    D = np.full((1, 1), 2 * 8.0 - 3)
    off = (c * (0.25 + 2 * u * fro(np.full((1, 1), 8.0))) + u * fro(D)) * up
    assert asked["error"] == near(off) and asked["D"] == near(13.0)
    assert start.gap == (first[0], first[1] * up)
    expected = gap_levels(first[1] * up) if first[1] > 0 else [0.0]
    np.testing.assert_array_equal(start.levels, expected)
    assert start.floors == {}


def invariants_of(monkeypatch, levels, problem, weights, c):
    """Return what the bounds are asked on: the arguments of `Invariants`, and of `at`."""
    asked = []

    class Recorded:
        def __init__(self, *arguments):
            asked.append(arguments)

        def at(self, *ranges):
            asked.append(ranges)
            return self

    monkeypatch.setattr(prior, "Invariants", Recorded)
    prior._invariants(levels, problem, weights, c)
    return asked


def test_what_the_bounds_are_asked_on(monkeypatch):
    ends = {
        2: (np.array([5.0, -9.0]), np.array([6.0, -8.0])),
        3: (np.array([1.0, 0.5, -12.0]), np.array([2.0, 1.0, 0.5])),
    }
    monkeypatch.setattr(prior, "imbalance_bounds", lambda A, B: ends[A.shape[1]])
    monkeypatch.setattr(
        prior, "singular_value_bounds", lambda V, error: (np.array([7.0, 6.0]) - error, np.array([7.5, 6.5]))
    )
    layers = [np.full((2, 2), 0.5), np.full((2, 3), 1.0), np.full((3, 2), 2.0)]
    problem, c, levels = SimpleNamespace(least=0.5, residue=0.25, V=np.eye(2)), 2.0, np.array([64.0, 1.0])
    (widths, spectra, *rest), (low, high, following) = invariants_of(monkeypatch, levels, problem, layers, c)
    # No end of an imbalance is larger in size than 12; a formula of L layers takes its sums from these.
    room = (16 * 3**2 + 64) * u * 12.0 * up
    assert widths == (2, 2, 3, 2)
    for spectrum, (a, b) in zip(spectra, ends.values(), strict=True):
        np.testing.assert_allclose(spectrum.lower, a - room, rtol=1e-12)
        np.testing.assert_allclose(spectrum.upper, b + room, rtol=1e-12)
    residue = 0.25 / 0.5 * up
    reach = [math.sqrt(2 * y / 0.5) * up for y in levels]
    assert list(low) == near([max(6.0 - residue - r, 0.0) * down / c for r in reach])
    assert list(following) == near([max(7.0 - residue - r, 0.0) * down / c for r in reach])
    assert list(high) == near([(7.5 + r) * up / c for r in reach])
    size = max(fro(W) for W in layers) ** 2
    assert rest == [near(low[-1]), near(low[-1]), near(high[0]), near(size), near(room)]
    assert low[0] < low[1] and high[0] > high[1]


def test_a_product_of_rank_one_has_no_second_singular_value(monkeypatch):
    layers = [np.full((1, 2), 0.5), np.full((2, 1), 1.0)]
    problem = affine_gradient(lf.MatrixFactorization(np.full((1, 1), 30.0)))
    _, (_, _, following) = invariants_of(monkeypatch, np.array([1.0, 0.5]), problem, layers, 1.0)
    assert (following == math.inf).all() and len(following) == 2


@pytest.mark.parametrize("depth", [2, 3])
def test_the_floors_at_the_levels(monkeypatch, depth):
    """Rows that are proved and apply, less their rounding; the chains are another row from three layers on."""
    value = np.array([4.0, 0.5])
    rows = [
        SimpleNamespace(name="two layers", applies=True, value=value),
        SimpleNamespace(name="two layers, n = m", applies=False, value=value),
        SimpleNamespace(name="unimodal imbalance", applies=True, value=value),
    ]
    invariants = SimpleNamespace(depth=depth, spectra="spectra", n=2, m=3, sigma_min=np.array([0.25, 0.5]))
    asked = []
    monkeypatch.setattr(prior.bounds, "evaluate", lambda invariants, c: rows)
    monkeypatch.setattr(prior, "chain_floors", lambda *given: asked.append(given) or np.array([1.0, 2.0]))
    found = prior._floors(invariants, [np.eye(2)], 3.0)
    chains = {"any depth, operator floors": [near(9 * down), near(18 * down)]} if depth == 3 else {}
    expected = {"two layers": [near(4 * down), near(0.5 * down)], **chains}
    assert {name: list(floors) for name, floors in found.items()} == expected
    assert all(given[:3] == ("spectra", 2, 3) and list(given[3]) == [0.25, 0.5] for given in asked)


def test_a_tiny_bound_counts_as_0():
    c = 2.0**400  # a bound of 1e-300 rounds to a few digits before it is multiplied by c²
    row = SimpleNamespace(name="two layers", value=np.array([1e-289, 1e-291]) * c * c)
    assert list(prior._lowered(row, [np.eye(2)], c)) == [near(1e-289 * c * c * down), 0.0]


def test_a_bound_less_its_rounding():
    layers, c = [np.full((2, 3), 1.0), np.full((3, 5), 0.5), np.full((5, 2), 2.0)], 0.125
    plain = SimpleNamespace(name="two layers", value=np.array([4.0, 0.5, -1.0]))
    assert list(prior._lowered(plain, layers, c)) == near([4 * down, 0.5 * down, 0.0])
    squares = SimpleNamespace(name="three layers, Δ*", value=np.array([4e6, 1.0]))
    size = sum(fro(W) ** 2 for W in layers)
    room = 100 * (5 + 8) * 5**2 * u * (c * size) ** 2
    assert list(prior._lowered(squares, layers, c)) == near([4e6 * down - room, 0.0])


NEARBY = SimpleNamespace(radii=np.zeros(2), floors=np.zeros(2))
FLOORS = {"two layers": np.array([3.0, 4.0]), "any depth, imbalance only": np.array([5.0, 1.0])}


@pytest.fixture
def asked(monkeypatch):
    """What `envelope` is asked; its answer has the rate `asked["rate"]`, or is None."""
    seen = {"rate": 0.5, "calls": 0}

    def envelope(levels, gamma, floors, nearby):
        seen.update(levels=levels, gamma=gamma, floors=list(floors), nearby=nearby, calls=seen["calls"] + 1)
        rate = seen["rate"]
        return None if rate is None else SimpleNamespace(levels=levels, rates=np.array([rate, 8.0]), rate=rate)

    monkeypatch.setattr(prior, "envelope", envelope)
    return seen


def proved(name, gap=(0.5, 2.0), gamma=0.25, **changes):
    f, net = lf.MatrixFactorization(np.eye(2)), lf.init.imbalanced((2, 6, 2), [3.0], np.eye(2), rng=0)
    guarantee = replace(lf.certify(f, net).best, name=name, **changes)
    return prior._Start([np.eye(2)], 2.0, gap, np.array([2.0, 1.0]), FLOORS, NEARBY).proved(guarantee, gamma)


@pytest.mark.parametrize(
    ("name", "floors", "nearby"),
    [
        ("one layer", [4 * (1 - 4 * u)] * 2, None),
        ("two layers", [3.0, 3.0], None),
        ("envelope", [5.0, 4.0], NEARBY),
        ("lazy regime", [0.0, 0.0], NEARBY),
    ],
)
def test_the_floors_of_each_guarantee(asked, name, floors, nearby):
    found = proved(name)
    assert found.applies and asked["floors"] == near(floors) and asked["nearby"] is nearby and asked["gamma"] == 0.25
    assert found.gap == 2.0 and list(found.curve.rates) == near([0.5 * sure, 8 * sure])
    assert found.curve.known == near(0.5 / 2.0 * down)
    assert set(found.facts) == ({"final rate"} if name == "envelope" else set())


def test_a_first_gap_without_a_lower_bound_is_not_known(asked):
    assert proved("two layers", gap=(-1.0, 2.0)).curve.known == 0.0


@pytest.mark.parametrize(
    ("changes", "rate", "calls"),
    [
        ({"gamma": 0.0}, 0.5, 0),
        ({"gap": (0.0, 0.0)}, 0.5, 0),
        ({}, None, 1),
        ({}, 0.0, 1),
    ],
)
def test_no_rate_is_no_guarantee(asked, changes, rate, calls):
    asked["rate"] = rate
    found = proved("two layers", **changes)
    assert not found.applies and "no rate that is kept for ever" in found.reason and asked["calls"] == calls


def test_other_rows_do_not_apply(asked):
    assert proved("unimodal imbalance").reason == prior.NOT_PROVED
    assert proved("two layers", curve=None, reason="a layer is missing").reason == "a layer is missing"
    assert asked["calls"] == 0


def test_the_rows_of_a_rigorous_certificate(monkeypatch):
    """The rows that apply come first, sorted by the time to 1e-6 and then to 1e-2; γ is less by its rounding."""
    times = {"late": (9.0, 1.0), "slow": (5.0, 4.0), "fast": (5.0, 2.0), "none": (1.0, 0.0)}

    def row(name):
        at = dict(zip((1e-6, 1e-2), times[name], strict=True))
        return SimpleNamespace(name=name, applies=name != "none", time_to=at.__getitem__)

    f, net = lf.MatrixFactorization(np.eye(2)), [np.eye(2), np.eye(2)]
    certificate = replace(lf.certify(f, net), guarantees=tuple(map(row, times)))
    start = SimpleNamespace(gap=(1.0, 2.0), proved=lambda g, gamma: g)
    monkeypatch.setattr(prior._Start, "of", classmethod(lambda cls, problem, network: start))
    found = prior.rigorously(certificate)
    assert [g.name for g in found.guarantees] == ["fast", "slow", "late", "none"] and found.gap == 2.0
    assert found.gamma == near(2 * affine_gradient(f).least * (1 - 4 * u))


def test_a_loss_that_is_not_quadratic_has_no_proved_dominance():
    f = lf.LogisticLoss(np.eye(2), np.array([1.0, -1.0]))
    found = prior.rigorously(lf.certify(f, [np.eye(2), np.ones((2, 1))]))
    assert found.gamma == 0.0 and found.best is None
