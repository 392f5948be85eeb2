"""Verified descent with momentum against exact iterates, and its metric against exact rational matrices."""

import math
from fractions import Fraction

import flint
import numpy as np
import pytest

import linflow as lf
from linflow.model.optimizer import Optimizer
from linflow.verified.lyapunov import Factors, Metric
from linflow.verified.momentum import MomentumMarch
from linflow.verified.problem import AffineGradient
from linflow.verified.taylor import Expansion
from tests.verified.test_descent import DESCENTS, Alternating
from tests.verified.test_flow import factorization, regression
from tests.verified_judge import (
    COARSE,
    SIGNS,
    Coarse,
    coarse,
    coarsened,
    disturbed,
    exact,
    numbers,
    rational,
)

FRACTIONS = (1e-2, 1e-4, 1e-6)


def march_of(problem, W, radius, eta, mu, nesterov, until=None, steps=5):
    return MomentumMarch(problem, W, 1.0, radius, eta, Optimizer(momentum=mu, nesterov=nesterov), until, steps)


# --- the exact descent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mu", "nesterov"), [(0.5, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("name", DESCENTS)
def test_exact_iterates_are_within_the_radius_and_their_gaps_within_the_bounds(name, mu, nesterov):
    draw, eta = DESCENTS[name]
    objective, net, true = draw()
    eta = 0.5 * eta if nesterov else eta  # large steps in Nesterov's form diverge
    enc = lf.enclose(objective, net, algorithm="descent", step_size=eta, steps=60, momentum=mu, nesterov=nesterov)
    assert enc.result == "all steps done" and enc.steps == 60 == enc.hessians
    iterates = true.descent(eta, 60, mu, nesterov)
    for k in range(61):
        assert flint.arb(enc.gaps[0, k]) <= true.gap(iterates[k]) <= flint.arb(enc.gaps[1, k])
    off = math.hypot(*(np.linalg.norm(W - numbers(V)) for W, V in zip(enc.weights, iterates[-1], strict=True)))
    assert off <= enc.radius[-1] + 1e-16 * 10
    assert enc.radius[-1] < 1e-8
    run = lf.gradient_descent(objective, net, step_size=eta, steps=60, momentum=mu, nesterov=nesterov)
    middle = enc.gaps.mean(axis=0)
    np.testing.assert_allclose(run.gap, middle, rtol=0, atol=1e-9 * middle[0])
    assert repr(enc).count("momentum") == 1 and enc.optimizer == run.optimizer == Optimizer.from_dict(
        enc.to_dict()["optimizer"], net.depth
    )


def test_four_steps_in_exact_rationals():
    rng = np.random.default_rng(5)
    Y, W = rng.standard_normal((2, 2)), [rng.standard_normal((2, 2)) for _ in range(2)]
    eta, mu = 0.1, 0.75
    for nesterov in (False, True):
        true, v = [exact(w) for w in W], [exact(0 * w) for w in W]
        for _ in range(4):
            E = true[0] * true[1] - exact(Y)
            slope = [E * true[1].transpose(), true[0].transpose() * E]
            v = [rational(mu) * a + g for a, g in zip(v, slope, strict=True)]
            u = [g + rational(mu) * a for a, g in zip(v, slope, strict=True)] if nesterov else v
            true = [w - rational(eta) * a for w, a in zip(true, u, strict=True)]
        enc = lf.enclose(
            lf.MatrixFactorization(Y), W, algorithm="descent", step_size=eta, steps=4, momentum=mu, nesterov=nesterov
        )
        square = sum(x * x for w, t in zip(enc.weights, true, strict=True) for x in (exact(w) - t).entries())
        assert square <= rational(enc.radius[-1]) ** 2
        assert enc.radius[-1] < 3e-14


STARTS = {
    "two layers": lambda: factorization(3, (2, 3, 2)),
    "three layers": lambda: factorization(6, (2, 2, 3, 1)),
    "regression": lambda: regression([[1.0, 2.0], [0.5, -1.0], [2.0, 0.25]], 1, (2, 3, 2)),
}


@pytest.mark.parametrize(
    ("mu", "nesterov", "part"),
    [(0.5, False, 0.3), (0.5, False, 0.8), (0.9, False, 0.3), (0.9, True, 0.3), (0.9, True, 0.6)],
)
@pytest.mark.parametrize("name", STARTS)
def test_the_proved_number_of_steps_is_the_exact_one(name, mu, nesterov, part):
    """At steps up to a large part of the edge of stability, at the sharpest point of the run."""
    objective, net, true = STARTS[name]()
    edge = 2 * (1 + mu) / (1 + 2 * mu) if nesterov else 2 * (1 + mu)
    slow = lf.gradient_descent(objective, net, step_size=0.01, steps=3000, until=1e-6)
    top = max(
        objective.smoothness * float(np.linalg.eigvalsh(lf.TangentOperator(n).dense())[-1]) for n in (net, slow.final)
    )
    eta = part * edge / top
    enc = lf.enclose(
        objective, net, algorithm="descent", step_size=eta, until=1e-6, momentum=mu, nesterov=nesterov, steps=2000
    )
    assert enc.result == "target proved"
    gaps = [true.gap(W) for W in true.descent(eta, enc.steps, mu, nesterov)]
    for fraction in FRACTIONS:
        first = next(k for k, gap in enumerate(gaps) if gap <= gaps[0] * flint.arb(fraction))
        assert enc.steps_bounds(fraction) == (first, first)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("eta", [0.05, 0.3, 0.9, 1.4])
def test_a_disturbance_of_a_descent_stays_within_its_radius(eta, nesterov):
    """From the edge of a start with a radius, in all directions; small, large and unstable steps."""
    radius, V, mu = 1e-9, 2.0, 0.6
    f = AffineGradient(np.full((1, 1), V))
    for x, y in ((0.5, 0.5), (1.3, 1.2), (math.sqrt(V), math.sqrt(V))):
        given = radius * (1 + 1e-6)  # the disturbed starts are rounded
        march = march_of(f, [np.full((1, 1), x), np.full((1, 1), y)], given, eta, mu, nesterov)
        true = disturbed(x, y, radius, f.V)
        paths = [one.descent(eta, 5, mu, nesterov) for one in true]
        most = 0.0
        for k in range(6):
            for path, one in zip(paths, true, strict=True):
                off = math.hypot(*(float(w[0, 0]) - W[0, 0] for w, W in zip(path[k], march.weights, strict=True)))
                most = max(most, off)
                assert off <= march.radius * (1 + 1e-9)
                assert off <= radius * math.exp(march.exponent) * (1 + 1e-3) + 1e-14
                assert march.gap[0] <= float(one.gap(path[k])) * (1 + 1e-12) + 1e-30
                assert float(one.gap(path[k])) <= march.gap[1] * (1 + 1e-12)
            if not march.advance():
                break
        assert march.k >= 3 and (eta > 0.3 or march.radius < 30 * most)


def test_the_iterates_of_a_schedule_are_within_the_radius():
    objective, net, true = factorization(3, (2, 2, 2))
    enc = lf.enclose(objective, net, algorithm="descent", schedule=Alternating(), steps=30, momentum=0.8)
    iterates = true.descent(enc.step_sizes, 30, 0.8)
    assert list(enc.step_sizes[:4]) == [0.02, 0.05, 0.01, 0.02] and enc.result == "all steps done"
    for k in range(31):
        assert flint.arb(enc.gaps[0, k]) <= true.gap(iterates[k]) <= flint.arb(enc.gaps[1, k])
    assert enc.radius[-1] < 1e-11


# --- the metric ----------------------------------------------------------------------------------------------------


def drawn(seed, side):
    """A metric after some steps with a Hessian, and what it was made from."""
    rng = np.random.default_rng(seed)
    H = rng.standard_normal((side, side))
    H, factors = (H + H.T) / 2, Factors.of(0.7, 0.8, seed % 2 == 1, 0.5)
    metric = Metric.euclidean(side)
    for _ in range(seed % 3 + 1):
        metric = metric.before(H, factors, metric.norm)
    return metric, H, factors


def whole(metric, kind=exact):
    return kind(np.block([[metric.A, metric.B], [metric.B.T, metric.C]]))


def step_matrix(a, b, c, mu, H):
    """`[[I − aH, −bI], [cH, μI]]` in rationals."""
    side = H.nrows()
    rows = [[(i == j) - a * H[i, j] for j in range(side)] + [-b * (i == j) for j in range(side)] for i in range(side)]
    rows += [[c * H[i, j] for j in range(side)] + [mu * (i == j) for j in range(side)] for i in range(side)]
    return flint.fmpq_mat([[flint.fmpq(x) for x in row] for row in rows])


def off_equation(metric, H, factors):
    """Return `‖S − MᵀS'M − ωI‖_F` of the metric one step before, exactly, and that metric."""
    new = metric.before(H, factors, metric.norm)
    M = step_matrix(*(rational(x) for x in (factors.a, factors.b, factors.c, factors.mu)), exact(H))
    rest = whole(new) - M.transpose() * whole(metric) * M
    for i in range(rest.nrows()):
        rest[i, i] = rest[i, i] - rational(new.floor)
    return math.sqrt(float(Fraction(int(s.p), int(s.q)))) if (s := sum(x * x for x in rest.entries())) else 0.0, new


@pytest.mark.parametrize("seed", range(6))
def test_the_metric_solves_its_equation_within_its_error(seed):
    off, new = off_equation(*drawn(seed, 3))
    assert 0 < off <= new.error < 1e-10
    np.testing.assert_array_equal(new.A, new.A.T)
    np.testing.assert_array_equal(new.C, new.C.T)
    values = np.linalg.eigvalsh(whole(new, np.array))
    assert 0.999 < new.least <= values[0] and values[-1] <= new.norm <= 4 * values[-1]


@pytest.mark.parametrize("sign", SIGNS)
def test_the_error_of_the_metric_covers_arithmetic_that_errs_as_far_as_it_may(monkeypatch, sign):
    metric, H, factors = drawn(2, 3)
    least = Metric.euclidean(3), H, factors
    with coarse(monkeypatch, sign):
        for before, matrix, numbers_of_step in ((metric, H, factors), least):
            given = Metric(*(coarsened(X) for X in (before.A, before.B, before.C)))
            new = given.before(coarsened(matrix), numbers_of_step, float(metric.norm))
            a, b, c, mu = numbers_of_step.a, numbers_of_step.b, numbers_of_step.c, numbers_of_step.mu
            one = np.eye(3)
            M = np.block([[one - a * matrix, -b * one], [c * matrix, mu * one]])
            off = np.linalg.norm(whole(new, np.asarray) - M.T @ whole(before, np.asarray) @ M - new.floor * np.eye(6))
            assert Coarse.operations > 0 and COARSE < off <= new.error
            assert np.linalg.norm(whole(new, np.asarray), 2) <= new.norm


@pytest.mark.parametrize("seed", range(4))
def test_no_disturbed_step_makes_an_error_grow_by_more_than_it_is_said_to(seed):
    """`‖M̄y‖_{S'} ≤ √(1 + ‖S'‖d²/κ) ‖y‖_S` for every y, by the largest generalised eigenvalue; and it is near that."""
    metric, H, factors = drawn(seed, 4)
    rng = np.random.default_rng(seed)
    new, one = metric.before(H, factors, metric.norm), np.eye(4)
    S, after = whole(new, np.array), whole(metric, np.array)
    closest = 0.0
    for size in (0.0, 0.01, 0.3):
        for _ in range(20):
            D = rng.standard_normal((4, 4))
            D = (D + D.T) / np.linalg.norm(D + D.T, 2) * size
            M = np.block([[one - factors.a * (H + D), -factors.b * one], [factors.c * (H + D), factors.mu * one]])
            root = np.linalg.inv(np.linalg.cholesky(S))
            grown = np.linalg.eigvalsh(root @ M.T @ after @ M @ root.T)[-1]
            d = factors.off(np.linalg.norm(H, 2), size)
            assert d >= np.linalg.norm(np.block([[factors.a * D, 0 * D], [factors.c * D, 0 * D]]), 2)
            bound = 1 + metric.norm * d * d / new.least
            assert grown <= bound * (1 + 1e-12)
            closest = max(closest, grown / bound)
    assert closest > 0.5


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_factors_are_those_of_the_step_within_four_units(nesterov):
    unit = rational(2.0**-53)
    worst = 0
    for eta in (0.1, 0.3, 1 / 3, 0.7, 1.9):
        for mu in (0.1, 0.37, 0.9, 1 - 2.0**-53):
            found = Factors.of(eta, mu, nesterov, 0.25)
            e, m = rational(eta), rational(mu)
            a, b = (e * (1 + m), e * m * m * 4) if nesterov else (e, e * m * 4)
            for x, y in ((found.a, a), (found.b, b)):
                assert abs(rational(x) - y) <= 4 * unit * abs(rational(x))
                worst = max(worst, abs(rational(x) / y - 1) / unit)
            assert (found.c, found.mu) == (0.25, mu)
    assert worst > 0


# --- the rounding of a step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("sign", SIGNS)
def test_a_step_grants_its_rounding_in_arithmetic_that_errs_as_far_as_it_may(monkeypatch, sign, nesterov):
    rng = np.random.default_rng(3)
    Y, W, V = rng.standard_normal((2, 2)), rng.standard_normal((2, 2, 2)), rng.standard_normal((2, 2, 2))
    eta, mu = 0.3, 0.7
    E = W[0] @ W[1] - Y
    slope = [E @ W[1].T, W[0].T @ E]
    v = [mu * a + g for a, g in zip(V, slope, strict=True)]
    u = [g + mu * a for a, g in zip(v, slope, strict=True)] if nesterov else v
    march = march_of(AffineGradient(Y), list(W), 0.0, eta, mu, nesterov, steps=1)
    with coarse(monkeypatch, sign):
        path = Expansion(AffineGradient(coarsened(Y)), [coarsened(w) for w in W], 1.0, 1.0, 1)
        new, velocity, (turned, error) = march.stepped(path, [coarsened(x) for x in V], eta)
    off = math.hypot(*(np.linalg.norm(np.asarray(x) - a) for x, a in zip(velocity, v, strict=True)))
    assert off <= error < 1000 * COARSE
    off = math.hypot(*(np.linalg.norm(np.asarray(x) - (w - eta * a)) for x, w, a in zip(new, W, u, strict=True)))
    assert off <= turned < 1000 * COARSE


# --- what is refused -----------------------------------------------------------------------------------------------


def test_more_weights_than_a_metric_is_made_for_are_refused_with_the_reason():
    f, net = lf.MatrixFactorization(2 * np.eye(13)), [np.eye(13), np.eye(13)]
    enc = lf.enclose(f, net, algorithm="descent", step_size=0.1, momentum=0.5, until=0.1)
    assert (enc.result, enc.steps, enc.hessians) == ("proof ended", 0, 0)
    assert "a metric for the 338 weights" in enc.reason and "more than 300" in enc.reason
    assert enc.steps_bounds(0.1) == (1, math.inf)
    wide = lf.init.gaussian((2, 300, 2), rng=0)  # 16 weights after the hidden layer is narrowed
    enc = lf.enclose(
        lf.MatrixFactorization(np.eye(2)), wide, algorithm="descent", step_size=0.001, momentum=0.5, steps=3
    )
    assert enc.result == "all steps done" and enc.radius[0] > 0


def test_a_diverging_descent_is_followed_until_it_counts_as_diverged():
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 4, 2), rng=0)
    enc = lf.enclose(f, net, algorithm="descent", step_size=3.0, momentum=0.9, until=1e-3)
    assert enc.result == "diverged" and "take a smaller step" in enc.reason


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"momentum": 0.5}, "momentum is 0.5, an argument of the descent"),
        ({"nesterov": True}, "nesterov is True, an argument of the descent"),
        ({"algorithm": "descent", "step_size": 0.1, "momentum": 1.0}, r"momentum is 1\.0; a number in \[0, 1\)"),
        ({"algorithm": "descent", "step_size": 0.1, "nesterov": True}, "nesterov is True, but the momentum is 0"),
    ],
)
def test_a_momentum_that_makes_no_sense_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        lf.enclose(lf.MatrixFactorization(np.eye(2)), [np.eye(2)] * 2, **given)


def test_an_objective_that_is_not_quadratic_is_refused():
    f = lf.SoftmaxLoss(np.eye(2), [0, 1])
    with pytest.raises(ValueError, match=r"momentum is 0\.5, which is proved for .*, not for SoftmaxLoss"):
        lf.enclose(f, [np.eye(2), np.eye(2)], algorithm="descent", step_size=0.1, momentum=0.5, until=0.5)


def test_a_run_longer_than_is_kept_ends_with_the_reason(monkeypatch):
    monkeypatch.setattr("linflow.verified.momentum.STORED", 100)
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 4, 2), rng=0)
    enc = lf.enclose(f, net, algorithm="descent", step_size=0.01, momentum=0.5, until=1e-6)
    assert enc.steps == 6 and "every iterate is kept, and 6 of 16 weights are the most" in enc.reason


def test_where_the_metric_is_replaced_the_radius_is_changed(monkeypatch):
    """With a metric that is begun anew at every step, the proof still holds, with a larger radius in the end."""
    objective, net, true = factorization(3, (2, 2, 2))
    options = {"algorithm": "descent", "step_size": 0.05, "steps": 8, "momentum": 0.5}
    usual = lf.enclose(objective, net, **options)
    monkeypatch.setattr("linflow.verified.momentum.RESTART", 1.0)
    enc = lf.enclose(objective, net, **options)
    assert enc.result == "all steps done" and enc.radius[-1] > 3 * usual.radius[-1]
    iterates = true.descent(0.05, 8, 0.5)
    for k in range(9):
        assert flint.arb(enc.gaps[0, k]) <= true.gap(iterates[k]) <= flint.arb(enc.gaps[1, k])
    assert enc.exponent > usual.exponent
