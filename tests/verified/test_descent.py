"""Verified descent against exact iterates to 60 digits, and hostile inputs of verified runs."""

import itertools
import math
from fractions import Fraction

import flint
import numpy as np
import pytest

import linflow as lf
from linflow.verified.descent import DescentMarch
from linflow.verified.problem import AffineGradient
from tests.verified.test_flow import factorization, quadratic
from tests.verified_judge import TrueFlow, disturbed, exact, numbers

DESCENTS = {
    "two layers": (lambda: factorization(3, (2, 2, 2)), 0.05),
    "three layers": (lambda: factorization(6, (2, 2, 3, 1)), 0.03),
    "one layer": (lambda: factorization(0, (2, 2), 0.8, 0.5), 0.9),
    "quadratic": (lambda: quadratic(11, (2, 2, 2), 1.3), 0.03),
    "large steps": (lambda: factorization(2, (1, 1, 1), 1.0, 2.0), 0.24),
}


@pytest.mark.parametrize("name", DESCENTS)
def test_exact_iterates_are_within_the_radius_and_their_gaps_within_the_bounds(name):
    draw, eta = DESCENTS[name]
    objective, net, true = draw()
    enc = lf.enclose(objective, net, algorithm="descent", step_size=eta, steps=40)
    assert enc.result == "all steps done" and enc.steps == 40
    iterates = true.descent(eta, 40)
    for k in range(41):
        found = true.gap(iterates[k])
        assert flint.arb(enc.gaps[0, k]) <= found <= flint.arb(enc.gaps[1, k])
    off = math.hypot(*(np.linalg.norm(W - numbers(V)) for W, V in zip(enc.weights, iterates[-1], strict=True)))
    assert off <= enc.radius[-1] + 1e-16 * 10
    assert enc.radius[-1] < 1e-10
    assert enc.gaps[1, -1] - enc.gaps[0, -1] < 1e-6 * enc.gaps[1, -1] + 1e-20
    for fraction in (0.5, 1e-2):
        ratios = [float(true.gap(W)) / float(true.first) for W in iterates]
        first = next((k for k, r in enumerate(ratios) if r <= fraction), None)
        if first is not None:
            assert enc.steps_bounds(fraction) == (first, first)


class Alternating:
    """Steps that go up and down, and read nothing."""

    def step(self, iterate):
        return (0.02, 0.05, 0.01)[iterate.k % 3]


SCHEDULES = {
    "alternating": lambda f, net: Alternating(),
    "backtracking": lambda f, net: lf.schedules.backtracking(),
    "local smoothness": lambda f, net: lf.schedules.local_smoothness(),
    "xu2025": lambda f, net: lf.schedules.xu2025(f, net, first=0.05),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["two layers", "quadratic", "large steps"])
def test_exact_iterates_of_a_schedule_are_within_the_radius(name, schedule):
    """The judge takes the steps that the proof names; a plain run with the same rule takes them too, to rounding."""
    objective, net, true = DESCENTS[name][0]()
    enc = lf.enclose(objective, net, algorithm="descent", schedule=SCHEDULES[schedule](objective, net), steps=25)
    assert enc.steps == 25 == len(enc.step_sizes) and enc.step_size is None and enc.result == "all steps done"
    iterates = true.descent(enc.step_sizes, 25)
    for k in range(26):
        assert flint.arb(enc.gaps[0, k]) <= true.gap(iterates[k]) <= flint.arb(enc.gaps[1, k])
    off = math.hypot(*(np.linalg.norm(W - numbers(V)) for W, V in zip(enc.weights, iterates[-1], strict=True)))
    assert off <= enc.radius[-1] + 1e-16 * 10 and enc.radius[-1] < 1e-10
    run = lf.gradient_descent(objective, net, schedule=SCHEDULES[schedule](objective, net), steps=25)
    # Once the gap is at rounding level, a rule that compares losses may choose another step.
    seen = np.flatnonzero(enc.gaps[0, :-1] > 1e-9 * enc.gaps[0, 0])
    assert len(seen) > 3
    np.testing.assert_allclose(enc.step_sizes[seen], run.step_sizes[seen], rtol=1e-6)


def test_a_schedule_reads_the_weights_of_full_width():
    seen = []

    class Reading:
        def step(self, iterate):
            seen.append((iterate.network, iterate.k, iterate.last))
            return 0.01 * (1 + iterate.k)

    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 9, 2), rng=0)
    enc = lf.enclose(f, net, algorithm="descent", schedule=Reading(), steps=3)
    assert [network.widths for network, *_ in seen] == [(2, 9, 2)] * 3
    assert [(k, last) for _, k, last in seen] == [(0, None), (1, 0.01), (2, 0.02)]
    for W, V in zip(seen[0][0].weights, net.weights, strict=True):
        np.testing.assert_allclose(W, V, rtol=0, atol=1e-14)  # the narrowing rounds
    np.testing.assert_array_equal(enc.step_sizes, [0.01, 0.02, 0.03])
    np.testing.assert_allclose(enc.t, [0, 0.01, 0.03, 0.06], rtol=1e-15)
    run = lf.gradient_descent(f, net, schedule=Reading(), steps=3)
    assert enc.gaps[0, -1] <= run.gap[-1] * (1 + 1e-12) and run.gap[-1] <= enc.gaps[1, -1] * (1 + 1e-12)


def test_a_schedule_that_returns_no_step_is_refused():
    class Zero:
        def step(self, iterate):
            return 0.0

    with pytest.raises(ValueError, match=r"the schedule returned 0\.0 for step 0"):
        lf.enclose(lf.MatrixFactorization(np.eye(2)), [np.eye(2)] * 2, algorithm="descent", schedule=Zero(), steps=3)
    with pytest.raises(TypeError, match="an object with a method step"):
        lf.enclose(lf.MatrixFactorization(np.eye(2)), [np.eye(2)] * 2, algorithm="descent", schedule=0.1)


def test_a_constant_schedule_is_a_constant_step():
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 4, 2), rng=0)
    enc = lf.enclose(f, net, algorithm="descent", schedule=lf.schedules.constant(0.1), until=1e-4)
    same = lf.enclose(f, net, algorithm="descent", step_size=0.1, until=1e-4)
    assert enc.to_dict() == same.to_dict() and enc.step_size == 0.1 and enc.scheduled is None
    assert enc.t[-1] == 0.1 * enc.steps == enc.to_dict()["time"]


@pytest.mark.parametrize("eta", [0.05, 0.3, 0.6, 0.9])
def test_a_disturbance_of_a_descent_stays_within_its_radius(eta):
    """From the edge of a start with a radius, in all directions; small, large and unstable steps."""
    radius, V = 1e-6, 2.0
    f = AffineGradient(np.full((1, 1), V))
    for x, y in ((0.5, 0.5), (1.3, 1.2), (math.sqrt(V), math.sqrt(V))):
        march = DescentMarch(f, [np.full((1, 1), x), np.full((1, 1), y)], 1.0, radius, eta)
        true = disturbed(x, y, radius, f.V)
        paths = [one.descent(eta, 5) for one in true]
        for k in range(6):
            for path, one in zip(paths, true, strict=True):
                off = math.hypot(*(float(w[0, 0]) - W[0, 0] for w, W in zip(path[k], march.weights, strict=True)))
                assert off <= march.radius * (1 + 1e-9)
                assert march.gap[0] <= float(one.gap(path[k])) * (1 + 1e-12) + 1e-30
                assert float(one.gap(path[k])) <= march.gap[1] * (1 + 1e-12)
            if not march.advance():
                break


def test_a_step_of_descent_grants_the_rounding_of_its_gradient_and_of_its_sum():
    f = AffineGradient(np.full((1, 1), 3.0))
    march = DescentMarch(f, [np.full((1, 1), 1.0), np.full((1, 1), 0.3)], 1.0, 0.0, 0.1)
    rounding, growth = 0.1 * float(march.path.rounding[0]), march.growth(0.1)
    new = [series[0] + 0.1 * series[1] for series in march.path.coefficients]
    assert growth >= 1 and march.advance()
    assert march.radius >= rounding + 2.0**-53 * math.hypot(*(float(W[0, 0]) for W in new))
    assert march.radius <= 1e-15
    # Exactly: the iterate against rational arithmetic.
    x, y = (float(W[0, 0]) for W in march.weights)
    for found, (a, b) in ((x, (1.0, 0.3)), (y, (0.3, 1.0))):
        A, B, V, eta = map(Fraction, (a, b, 3.0, 0.1))
        true = A + eta * (V - A * B) * B
        assert abs(float(Fraction(found) - true)) <= march.radius


# --- hostile inputs ------------------------------------------------------------------------------------------------


def enclosed(f, W, **asked):
    enc = lf.enclose(f, W, **asked)
    assert np.all(np.isfinite(enc.radius)) and np.all(np.diff(enc.t) > 0)
    for step in enc.steps:
        assert 0 <= step.gap[0] <= step.gap[1] < math.inf
    assert (enc.reason == "") is (enc.result in ("target proved", "time limit reached"))
    repr(enc), enc.to_dict()
    return enc


def test_a_start_on_a_saddle_stays_there():
    f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
    for widths in ((2, 2, 2), (2, 2, 2, 2)):
        W = [np.zeros(s) for s in itertools.pairwise(widths)]
        enc = enclosed(f, W, t_max=2.0)
        low, high = enc.gap_bounds(enc.end)
        assert enc.end >= 2.0 and low <= 5.0 <= high and high - low < 1e-9
        enc = enclosed(f, W, until=1e-3, max_steps=3)
        assert enc.result in ("step limit reached", "proof ended")


def test_equal_singular_values_and_aligned_starts():
    f = lf.MatrixFactorization(2 * np.eye(3))
    enc = enclosed(f, [np.eye(3) / 2, np.eye(3) / 2], until=1e-6)
    low, high = enc.time_bounds(1e-6)
    assert enc.result == "target proved" and high / low - 1 < 1e-9
    below, above = enc.singular_value_bounds(enc.end)
    assert np.all(above - below < 1e-10)


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e4, 1e8])
def test_units_of_the_data_change_the_clock_alone(scale):
    """`Y → cY`, `W_l → √c W_l` slows or speeds time by c; exact for powers of two, bounded for these."""
    Y, W = np.diag([2.0, 1.0]), [np.array([[0.6, 0.1], [0.2, 0.7]]), np.array([[0.5, -0.1], [0.3, 0.9]])]
    plain = enclosed(lf.MatrixFactorization(Y), W, until=1e-4).time_bounds(1e-3)
    enc = enclosed(lf.MatrixFactorization(scale * Y), [math.sqrt(scale) * w for w in W], until=1e-4)
    assert enc.result == "target proved"
    low, high = enc.time_bounds(1e-3)
    assert low * scale <= plain[1] * (1 + 1e-9) and plain[0] * (1 - 1e-9) <= high * scale
    assert high / low - 1 < 1e-8


def test_layers_of_very_different_size_are_followed_as_far_as_asked():
    enc = enclosed(lf.MatrixFactorization(np.eye(1)), [np.full((1, 1), 1e4), np.full((1, 1), 1e-4 / 2)], until=1e-3)
    # y' = x²(1/x − y)·…: the first layer is all but still, and the gap falls at 2·10⁸.
    low, high = enc.time_bounds(1e-2)
    assert low <= math.log(10) / 1e8 * (1 + 1e-6) and math.log(10) / 1e8 * (1 - 1e-6) <= high
    enc = enclosed(lf.MatrixFactorization(np.eye(1)), [np.full((1, 1), 1e8), np.full((1, 1), 1e-8)], t_max=1e-18)
    assert enc.end >= 1e-18


def test_a_wide_and_a_deep_network_are_enclosed():
    rng = np.random.default_rng(0)
    W = [rng.standard_normal((2, 500)) / math.sqrt(500), rng.standard_normal((500, 1)) / math.sqrt(500)]
    enc = enclosed(lf.MatrixFactorization(np.ones((2, 1))), W, until=1e-3)
    assert enc.result == "target proved" and enc.network_at(enc.end).widths == (2, 500, 1)
    V = [np.full((1, 1), 1.0 + 0.01 * l) for l in range(12)]
    enc = enclosed(lf.MatrixFactorization(np.full((1, 1), 2.0)), V, until=1e-3)
    true = TrueFlow(V, 1.0, exact(np.full((1, 1), 2.0)))
    assert enc.result == "target proved"
    low, high = enc.time_bounds(1e-2)
    assert flint.arb(low) <= true.time_to(flint.arb(1e-2)) <= flint.arb(high)


def test_a_start_at_the_optimum_or_near_it_says_so_or_is_enclosed():
    f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
    W = [np.diag([2.0, 1.0]), np.eye(2)]
    enc = enclosed(f, W, until=1e-3)
    assert enc.result == "proof ended" and "at the optimum to rounding" in enc.reason
    assert enclosed(f, W, t_max=1.0).gap_bounds(1.0)[1] < 1e-24
    enc = enclosed(f, [W[0] + 1e-9, W[1]], until=1e-2)
    assert enc.result in ("target proved", "proof ended") and (enc.end > 0 or enc.reason)


def test_limits_are_kept_and_named():
    f, W = lf.MatrixFactorization(np.eye(2)), [np.eye(2) / 2, np.eye(2)]
    enc = enclosed(f, W, t_max=0.7)
    assert enc.result == "time limit reached" and 0.7 <= enc.end <= 0.7 * (1 + 1e-6)
    enc = enclosed(f, W, max_steps=2)
    assert enc.result == "step limit reached" and len(enc.steps) == 2 and "max_steps" in enc.reason
    assert enc.time_bounds(1e-6) == (enc.end, math.inf)
    with pytest.raises(ValueError, match="enclosed up to"):
        enc.gap_bounds(enc.end * 1.01)
    with pytest.raises(ValueError, match="entries"):
        lf.enclose(
            lf.MatrixFactorization(np.ones((31, 30))), [np.ones((31, 1)), np.ones((1, 30))], max_steps=1
        ).least_eigenvalue_bounds(0.0)


def test_a_proof_that_cannot_go_on_says_how_far_it_reaches():
    # Nearly antisymmetric quadratic: f cannot be followed in pairs, and a disturbance grows by 2⁴⁸.
    f = lf.Quadratic(np.full((1, 1), 1.0 + 2.0**-30), C=np.full((1, 1), 1.0))
    enc = enclosed(f, [np.full((1, 1), 1.0), np.full((1, 1), -1.0 + 2.0**-48)], until=1e-6)
    assert enc.result == "proof ended" and "verified to t =" in enc.reason and enc.end > 1


def test_torch_weights_and_other_objectives():
    torch = pytest.importorskip("torch")
    f = lf.MatrixFactorization(np.eye(2))
    W = [np.eye(2) / 2, np.eye(2)]
    enc = enclosed(f, W, t_max=0.5)
    for kind in (torch.float64, torch.float32):
        given = [torch.tensor(w, dtype=kind) for w in W]
        other = enclosed(lf.MatrixFactorization(torch.eye(2, dtype=kind)), given, t_max=0.5)
        assert other.gap_bounds(0.5) == enc.gap_bounds(0.5)
    declared = lf.Objective(lambda W: float((W**4).sum()), lambda W: 4 * W**3, shape=(2, 2), minimum=0.0)
    with pytest.raises(
        ValueError, match=r"needs smoothness=, convex=True, value_error=, gradient_error=, hessian_lips"
    ):
        lf.enclose(declared, W, until=1e-2)
    with pytest.raises((ValueError, TypeError)):
        lf.enclose(f, [np.ones((3, 2)), np.ones((2, 2))])
    fourth = lf.LpRegression(np.eye(2), np.eye(2), p=4)
    with pytest.raises(
        ValueError, match="a convex Objective that declares its constants and errors, not LpRegression"
    ):
        lf.enclose(fourth, W, until=1e-2)


def test_a_rank_deficient_regression_is_enclosed_and_says_what_its_gap_is_measured_from():
    X = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    enc = lf.enclose(lf.LinearRegression(X, np.ones((3, 1))), [np.eye(2), np.ones((2, 1))], until=1e-4)
    assert enc.result == "target proved" and any("numerical" in note for note in enc.notes)
    assert enc.certificate is None and "γ > 0" in enc.certificate_reason
