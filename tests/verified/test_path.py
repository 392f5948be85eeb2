"""The Taylor path of a verified flow: its defect, its products and its rounding, against exact arithmetic."""

import itertools
import math
import operator

import flint
import numpy as np
import pytest

from linflow.verified.arithmetic import FLOAT64
from linflow.verified.march import EnclosureStep, product_error, rounding_of_value
from linflow.verified.problem import AffineGradient
from linflow.verified.rounding import TINY, UP, U, gamma
from linflow.verified.taylor import Expansion, MatrixSeries, extended, integral, multiplied, sum_of
from tests.verified.test_rounding import hostile
from tests.verified_judge import (
    COARSE,
    SIGNS,
    coarse,
    coarsened,
    defect,
    exact,
    rational,
    series_product,
    spectral_norm,
    square,
)

ORDER, TRUNCATION = FLOAT64.order, FLOAT64.truncation


def root(x: flint.fmpq) -> float:
    return float(flint.arb(x).sqrt().mid())


def networks(rng, positive):
    draw = rng.random if positive else rng.standard_normal
    for widths in ((2, 3), (2, 1, 3), (3, 4, 2), (2, 3, 2, 2), (1, 1, 1, 1), (2, 2, 1, 3, 2)):
        yield [draw(s) for s in itertools.pairwise(widths)]


def plain(rng, n, m):
    return AffineGradient(rng.random((n, m))), None, None, None


def ratios(path, found) -> tuple[list, list]:
    """Return defect over bound, below the order and from it on."""
    p, sizes = path.order, []
    for k in range(len(found[0])):
        sizes.append(root(sum((square(layer[k]) for layer in found), flint.fmpq(0))))
    assert len(path.defects) >= len(sizes)
    below = [size / bound for size, bound in zip(sizes[:p], path.rounding, strict=True)]
    beyond = [size / max(bound, 1e-300) for size, bound in zip(sizes[p:], path.defects[p : len(sizes)], strict=True)]
    return below, beyond


@pytest.mark.parametrize("positive", [True, False])
def test_every_coefficient_of_the_defect_is_within_its_bound(positive):
    rng = np.random.default_rng(0)
    for trial, weights in enumerate(networks(rng, positive)):
        n, m = weights[0].shape[0], weights[-1].shape[1]
        f = AffineGradient(rng.standard_normal((n, m)))
        for tau, scale, order in ((0.25, 1.0, 5), (0.3, 0.7, 3)):
            path = Expansion(f, weights, scale, tau, order)
            below, beyond = ratios(path, defect(path.coefficients, scale, tau, exact(f.V)))
            assert max(below) <= 1 and max(beyond) <= 1, trial
            assert max(below) > 1e-3  # rounding is there
            # Products of norms: at most some factor for each of the products of a gradient.
            assert max(beyond) > (0.1 if positive else 0.03)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("kind", ["plain", "quadratic"])
def test_every_bound_holds_where_every_operation_errs_as_far_as_it_may(monkeypatch, sign, kind):
    rng = np.random.default_rng(1)
    worst_below, worst_beyond = 0.0, 0.0
    for positive in (True, False):
        for weights in networks(rng, positive):
            n, m = weights[0].shape[0], weights[-1].shape[1]
            with coarse(monkeypatch, sign):
                problem, A, B, R = (
                    hostile(rng, (n, m), (1e-5, 2e-5), 1e-5) if kind == "quadratic" else plain(rng, n, m)
                )
                if kind == "quadratic":
                    problem = AffineGradient(
                        problem.V,
                        coarsened(problem.A),
                        coarsened(problem.B),
                        problem.norms,
                        problem.lengths,
                        problem.errors,
                        problem.residue,
                    )
                scale, tau, p = 0.7, 0.3, 4
                path = Expansion(problem, [coarsened(w) for w in weights], scale, tau, p)
                check_factors(path, weights, problem, scale, A, B, R)
            given = [None if M is None else exact(M) for M in (A, B, R)]
            below, beyond = ratios(path, defect(path.coefficients, scale, tau, exact(problem.V), *given))
            assert max(below) <= 1 and max(beyond) <= 1
            worst_below, worst_beyond = max(worst_below, *below), max(worst_beyond, *beyond)
    # Telling: where all errors add up half of the bound is attained.
    assert worst_beyond > 0.8
    assert worst_below > (0.4 if sign else 0.15)


def check_factors(path, weights, problem, scale, A, B, R):
    """Every product's series against its exact one: errors, norms of all degrees."""
    L, p = len(weights), path.order
    W = [[np.array(w) for w in np.asarray(series)] for series in path.coefficients]

    def times(x, y):
        return series_product(x, y, operator.matmul)

    def near(factor, series):
        for k in range(p):
            assert np.linalg.norm(np.asarray(factor.values[k]) - series[k]) <= factor.errors[k] * (1 + 1e-9) + 1e-15
            assert spectral_norm(series[k]) <= factor.exact_norms()[k] * (1 + 1e-9)
            assert np.linalg.norm(series[k]) <= factor.exact_lengths()[k] * (1 + 1e-9)

    def bounded(norms, series, norm=spectral_norm):
        assert len(norms) >= len(series)
        assert all(norm(x) <= bound * (1 + 1e-9) for x, bound in zip(series, norms, strict=False))

    P = W[0]
    for l in range(2, L + 1):
        P = times(P, W[l - 1])
        near(path.prefixes[l], P)
        bounded(path.prefix_norms[l], P)
    S = W[-1]
    for l in range(L - 1, 1, -1):
        S = times(W[l - 1], S)
        near(path.suffixes[l], S)
        bounded(path.suffix_norms[l], S)
    E = [scale * x for x in P]
    E[0] = E[0] - problem.V
    assert np.linalg.norm(np.asarray(path.distance) - E[0]) <= path.distance_error
    G = E if A is None else [A @ x for x in E]
    G = G if B is None else [x @ B for x in G]
    if R is not None:
        G[0] = G[0] + R
    G = [scale * x for x in G]
    near(path.slope, G)
    bounded(path.slope_norms, G, np.linalg.norm)
    Q = G
    for l in range(L):
        if l:
            Q = times([w.T for w in W[l - 1]], Q)
            near(path.pulled[l], Q)
        bounded(path.pulled_norms[l], Q, np.linalg.norm)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_distance_to_the_target_covers_the_scale_and_the_difference(monkeypatch, sign):
    for scale, V in ((1.0, -np.ones((2, 2))), (0.7, np.zeros((2, 2))), (0.7, -np.ones((2, 2)))):
        with coarse(monkeypatch, sign):
            path = Expansion(AffineGradient(V), [coarsened(np.ones((2, 2)))], scale, 0.5, 2)
        off = np.linalg.norm(np.asarray(path.distance) - (scale * np.ones((2, 2)) - V))
        assert 0.3 * path.distance_error < off <= path.distance_error


@pytest.mark.parametrize("sign", [-2.0, 2.0])
def test_the_gradient_of_a_single_layer_covers_each_rounding(monkeypatch, sign):
    # f's own products, the scale, the step's: one dominates in turn.
    n = 60
    for A, scale in ((np.ones((n, n)) / n, 1.0), (None, 0.7)):
        with coarse(monkeypatch, sign):
            f = AffineGradient(
                np.zeros((n, 2)), None if A is None else coarsened(A), None, (1.0 + 1e-9, 1.0), (1.0 + 1e-9, 1.0)
            )
            path = Expansion(f, [coarsened(np.ones((n, 2)))], scale, 0.3, 3)
        found = defect(path.coefficients, scale, 0.3, exact(f.V), None if A is None else exact(A))
        below, _ = ratios(path, found)
        assert 0.25 < max(below) <= 1


def test_the_residue_moves_the_gradient_of_the_first_coefficient_alone():
    weights = [np.full((1, 1), 2.0), np.full((1, 1), 3.0)]
    for scale in (1.0, 4.0):
        still, moved = (
            Expansion(AffineGradient(np.full((1, 1), 6.0), residue=r), weights, scale, 0.5, 3) for r in (0.0, 1e-3)
        )
        # τ c ‖R‖ ‖(S_2, P_1)‖, and the errors that it carries through later coefficients' products.
        assert moved.rounding[0] == pytest.approx(0.5 * scale * 1e-3 * math.hypot(2, 3), rel=1e-6)
        assert still.rounding[0] < 1e-12
        assert moved.slope.errors[0] == pytest.approx(scale * 1e-3, rel=1e-6)
        assert np.all(moved.slope.errors[1:] == still.slope.errors[1:])


def test_errors_of_a_product_include_the_product_of_errors():
    # A and B computed as 0, and 1 in truth.
    factor = MatrixSeries(np.zeros((1, 1, 1)), np.ones(1))
    found = multiplied(np.zeros((1, 1, 1)), factor, factor, np.array([gamma(2)]), 0.0)
    assert found.errors[0] >= 1
    one = MatrixSeries(np.ones((1, 1, 1)), np.array([0.5]))
    found = multiplied(np.ones((1, 1, 1)), one, one, np.array([gamma(2)]), 0.0)
    assert 1.25 <= found.errors[0] <= 1.25 * (1 + 1e-9)


def test_the_defect_grants_two_roundings_to_each_coefficient():
    rng = np.random.default_rng(8)
    path = Expansion(AffineGradient(np.eye(2)), [rng.random((2, 2)), rng.random((2, 2))], 1.0, 0.3, 6)
    for k in range(6):
        parts = [
            0.3 * g.errors[k] + 2 * U * (k + 1) * np.linalg.norm(c[k + 1])
            for g, c in zip(path.gradients, path.coefficients, strict=True)
        ]
        assert path.rounding[k] >= np.linalg.norm(parts)


# --- integrals and lengths of steps --------------------------------------------------------------------------------


def test_an_integral_of_a_series_is_an_upper_bound():
    rng = np.random.default_rng(2)
    for s in (0.3, 1.0, 1.7, 1e-3):
        series = rng.random(20)
        true = sum((rational(a) * rational(s) ** (k + 1) / (k + 1) for k, a in enumerate(series)), flint.fmpq(0))
        assert true <= rational(integral(series, s)) <= true * rational(1 + 1e-11)


def test_what_a_step_adds_is_truncation_and_rounding():
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal((2, 3)), rng.standard_normal((3, 2))]
    path = Expansion(AffineGradient(np.eye(2)), weights, 1.0, 0.125)
    for s in (0.5, 2.0):
        lost = sum(a * s ** (k + 1) / (k + 1) for k, a in enumerate(path.defects))
        rounded = sum(a * s ** (k + 1) / (k + 1) for k, a in enumerate(path.rounding))
        assert lost + rounded <= path.added(s) * (1 + 1e-15) <= (lost + rounded) * (1 + 1e-11)
        assert path.truncation(s) == pytest.approx(lost, rel=1e-11)
    s = path.longest()
    assert path.truncation(s) <= TRUNCATION * path.norm() * UP < path.truncation(1.2 * s)
    assert path.order == ORDER and len(path.rounding) == ORDER
    assert np.all(path.defects[:ORDER] == 0)


def test_extended_and_added_series_lose_no_term():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0])
    full = np.array([1.0, 3.0, 5.0, 3.0])
    assert np.allclose(extended(np.array([9.0, 0.5]), a, b), [1.0, 0.5, 5.0, 3.0], rtol=1e-11)
    assert np.all(extended(np.array([9.0, 9.0]), a, b) >= full)
    assert sum_of(a, np.ones(5)).tolist() == [2.0, 3.0, 4.0, 1.0, 1.0]
    assert sum_of(np.ones(5), a).tolist() == [2.0, 3.0, 4.0, 1.0, 1.0]


# --- values of the path --------------------------------------------------------------------------------------------


def value(series, s):
    return sum(np.asarray(c) * s**k for k, c in enumerate(series))


def value_exactly(series, s: flint.fmpq):
    total = exact(np.zeros(series[0].shape))
    for k, c in enumerate(series):
        total += exact(c) * s**k
    return total


@pytest.mark.parametrize("sign", SIGNS)
def test_the_jump_covers_the_rounding_of_the_end_of_a_step(monkeypatch, sign):
    rng = np.random.default_rng(4)
    worst = 0.0
    for weights in (
        [rng.random((2, 2)), rng.random((2, 2))],
        [np.ones((1, 1)), np.ones((1, 1))],
        [5 * np.ones((2, 1)), np.ones((1, 3))],
    ):
        with coarse(monkeypatch, sign):
            n, m = weights[0].shape[0], weights[-1].shape[1]
            path = Expansion(AffineGradient(9 * np.ones((n, m))), [coarsened(w) for w in weights], 1.0, 0.1, 9)
            for s in (0.3, 0.9, 1.7):
                found, jump = path.at(s)
                off = math.hypot(
                    *(
                        np.linalg.norm(np.asarray(W) - value(series, s))
                        for W, series in zip(found, path.coefficients, strict=True)
                    )
                )
                assert off <= jump
                worst = max(worst, off / jump)
    assert worst > (0.8 if sign else 0.1)


def test_the_jump_of_a_high_coefficient_is_that_of_its_products_and_sums(monkeypatch):
    # A constant far below the last coefficients: their k products and k + 1 sums are all that errs.
    with coarse(monkeypatch, -1.0):
        path = Expansion(AffineGradient(np.ones((1, 1))), [coarsened([[1.0]])], 1.0, 0.5, 6)
        path.coefficients[0][:] = np.array([0.0, 0, 0, 1e-30, 0, 1.0, 1.0]).reshape(-1, 1, 1)
        path.weights[0].lengths[:] = [0, 0, 0, 0, 0, 1.0, 1.0]
        found, jump = path.at(1.3)
        off = abs(float(np.asarray(found[0])[0, 0]) - 1.3**5 - 1.3**6)
        assert 0.4 * jump < off <= jump


@pytest.mark.parametrize("sign", SIGNS)
def test_values_within_a_step_cover_rounding_and_that_of_the_time(monkeypatch, sign):
    rng = np.random.default_rng(5)
    order = 6
    for series in (rng.random((order + 1, 2, 2)), np.eye(order + 1)[:, :, None][:, -1:] * np.ones((1, 1, 1))):
        with coarse(monkeypatch, sign):
            lengths = np.array([[np.linalg.norm(c) for c in series]])
            step = EnclosureStep(0.0, 2.0, 1.0, (coarsened(series),), lengths, 0.0, None, 0.0, (0.0, 0.0))
            for s in (0.7, 1.9):
                (found,), (error,) = step.at(s)
                for moved in (s * (1 - 2 * COARSE), s * (1 + 2 * COARSE)):
                    assert np.linalg.norm(np.asarray(found) - value(series, moved)) <= error * (1 + 1e-5)
                assert error <= 30 * COARSE * sum(lengths[0, k] * s**k for k in range(order + 1))


def test_values_at_inexact_times_are_within_their_error_of_the_exact_polynomial():
    rng = np.random.default_rng(6)
    series = rng.standard_normal((ORDER + 1, 2, 2))
    lengths = np.array([[np.linalg.norm(c) * (1 + 1e-14) for c in series]])
    step = EnclosureStep(0.1, 0.5, 0.5, (series,), lengths, 0.0, None, 0.0, (0.0, 0.0))
    for t in (0.1, 0.2, 0.3, 1 / 3, 0.6):
        (found,), (error,) = step.at(t)
        s = (rational(t) - rational(0.1)) / rational(0.5)
        assert root(square(exact(found) - value_exactly(series, s))) <= error
    assert np.all(rounding_of_value(lengths, 0.0) >= gamma(4 * ORDER + 1) * lengths[0, 0])


@pytest.mark.parametrize("sign", SIGNS)
def test_the_error_of_a_product_covers_rounding_and_the_errors_of_the_layers(monkeypatch, sign):
    rng = np.random.default_rng(7)
    worst = []
    for errors in ((0.0, 0.0, 0.0), (1e-2, 0.0, 0.0), (0.0, 0.0, 1e-2), (0.5, 0.5, 0.5)):
        for shapes in (((2, 3), (3, 3), (3, 2)), ((1, 1), (1, 1), (1, 1)), ((1, 30), (30, 30), (30, 1))):
            for aligned in (True, False):
                W = [np.ones(s) if aligned else rng.standard_normal(s) for s in shapes]
                with coarse(monkeypatch, sign):
                    found, bound = product_error([coarsened(w) for w in W], errors)
                # Each layer's error along its own leading direction.
                off = 0.0
                for side in (-1, 1):
                    moved = []
                    for w, e in zip(W, errors, strict=True):
                        u, _, vt = np.linalg.svd(w)
                        moved.append(w + side * e * np.outer(u[:, 0], vt[0]))
                    off = max(off, np.linalg.norm(np.asarray(found) - np.linalg.multi_dot(moved)))
                assert off <= bound * (1 + 1e-9)
                if aligned:
                    worst.append(off / bound)
    assert max(worst) > 0.9 and min(worst) > (0.2 if sign else 0.0)
    assert product_error([np.eye(1)] * 3, (0.0, 0.0, 0.0))[1] <= 6 * U + 3 * TINY
