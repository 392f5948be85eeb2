"""Numbers at the ends of float64, and at the level of rounding: what is said is a number and right, or a reason."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

import linflow as lf
from linflow import schedules
from linflow.certificates.descent import safe_step_size

# The session turns warnings into errors, so every call here is a test of their absence too.


def rows_of(cert):
    return [*cert.guarantees, *cert.prior]


def check_numbers(cert):
    """No rate or time is NaN, no rate is infinite, nothing is reached at once, and the certificate can be written."""
    for row in rows_of(cert):
        assert 0 <= row.rate < math.inf, row.name
        assert row.applies or row.reason, row.name
        for fraction in (0.5, 1e-6):
            assert row.time_to(fraction) > 0 or cert.gap == 0, row.name
        assert not math.isnan(row.gap_at(1.0)), row.name
    json.dumps(cert.to_dict(), allow_nan=False)
    str(cert)


def certificates_of(f, net, eta):
    yield lf.certify(f, net)
    yield lf.certify(f, net, algorithm="descent")
    yield lf.certify(f, net, algorithm="descent", step_size=eta)
    yield lf.certify(f, net, algorithm="descent", schedule=schedules.local_smoothness())


def test_two_layers_whose_squares_leave_float64():
    """T = 2·10¹⁶⁰ + 2·10⁻⁶: the gap falls at twice that."""
    cert = lf.certify(lf.MatrixFactorization([[1.0]]), [[[1e80, 1e80]], [[1e-3], [1e-3]]])
    check_numbers(cert)
    for row in rows_of(cert):
        if row.applies:
            # Rounding allowances and no more; the lazy regime has its radii, 400 of them, to go.
            assert row.rate == pytest.approx(4e160, rel=1e-4 if "Chizat" in row.source else 1e-9)
            assert row.time_to(1e-6) == pytest.approx(math.log(1e6) / 4e160, rel=1e-4, abs=0.0)
    assert {"envelope", "two layers, n = m", "Tarmoun et al. 2021"} <= {r.name for r in rows_of(cert) if r.applies}
    assert cert.time_to(1e-6) == pytest.approx(3.4538776e-160, rel=1e-7, abs=0.0)


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e145, 1e-145])
def test_a_target_whose_square_leaves_float64_gets_a_reason(size):
    f, net = lf.MatrixFactorization([[size]]), [np.array([[min(math.sqrt(size), 1.0) / 2]])] * 2
    for cert in certificates_of(f, net, 0.1):
        check_numbers(cert)
        if size in (1e200, 1e-200):
            assert cert.best is None and cert.time_to(1e-6) == math.inf and cert.rate == 0
            assert all("float64" in row.reason or "for a schedule" in row.reason for row in rows_of(cert))
            assert "float64" in cert.baseline.reason or cert.schedule
    if size in (1e200, 1e-200):
        with pytest.raises(ValueError, match="float64"):
            safe_step_size(f, net)
    run = lf.gradient_flow(f, net, t_max=1.0, engine="plain")
    assert run.result.value
    assert lf.margin(f, net) >= 0 and lf.margin(f, net, form="distance") >= 0


def test_random_sizes_over_the_whole_range(rng):
    for _ in range(12):
        L = int(rng.integers(1, 5))
        widths = [int(h) for h in rng.integers(1, 4, L + 1)]
        weights = [rng.standard_normal((a, b)) * 10.0 ** rng.integers(-130, 130) for a, b in pairwise(widths)]
        try:
            net = lf.Network(weights, 10.0 ** rng.integers(-60, 60))
        except ValueError:  # the squares of the layers leave float64
            continue
        W = net.product()
        Y = 1.01 * W if rng.random() < 0.5 else rng.standard_normal(W.shape) * 10.0 ** rng.integers(-220, 220)
        scale = 10.0 ** rng.integers(-120, 120)
        for f in (lf.MatrixFactorization(Y), lf.LinearRegression(scale * np.eye(widths[0]), Y)):
            for cert in certificates_of(f, net, 10.0 ** rng.integers(-200, 200)):
                check_numbers(cert)
            assert 0 <= lf.margin(f, net) < math.inf
        if L > 1:
            assert 0 <= float(lf.bounds.best(net).value) < math.inf


@pytest.mark.parametrize("power", [-140, -60, 60, 140])
def test_a_certificate_follows_the_size_of_its_problem(power, rng):
    """Layers times s and the target times `s^L` are the same problem in the time `t/s^{2L−2}`."""
    for widths in ((2, 1), (2, 3, 2), (1, 2, 1), (2, 2, 2, 1), (1, 1, 1, 1, 1)):
        L = len(widths) - 1
        s = 2.0 ** (power // L)
        weights = [np.eye(a, b) + 0.2 * rng.standard_normal((a, b)) for a, b in pairwise(widths)]
        Y, fast = 1.05 * lf.Network(weights).product(), s ** (2 * L - 2)
        small = lf.MatrixFactorization(Y), lf.Network(weights)
        large = lf.MatrixFactorization(s**L * Y), lf.Network([s * W for W in weights])
        for options, scaled in (
            ({}, {}),
            ({"algorithm": "descent", "step_size": 3e-3}, {"algorithm": "descent", "step_size": 3e-3 / fast}),
        ):
            pair = lf.certify(*small, **options), lf.certify(*large, **scaled)
            for one, other in zip(*map(rows_of, pair), strict=True):
                # A search for a root in log c, of numbers up to 10⁴², ends within 1e-13 times their logarithm.
                assert other.rate == pytest.approx(one.rate * fast, rel=1e-9, abs=0.0), one.name
                assert other.time_to(1e-4) * fast == pytest.approx(one.time_to(1e-4), rel=1e-7, abs=0.0), one.name


# ---------------------------------------------------------------- rounding


def exact_minimiser(X, Y):
    """The least-squares solution of two columns in fractions, by the normal equations."""
    X, y = [[Fraction(float(x)) for x in row] for row in X], [Fraction(float(v)) for v in Y[:, 0]]
    (a, b), (_, d) = ([sum(r[i] * r[j] for r in X) for j in range(2)] for i in range(2))
    p, q = (sum(r[i] * v for r, v in zip(X, y, strict=True)) for i in range(2))
    return [(d * p - b * q) / (a * d - b * b), (a * q - b * p) / (a * d - b * b)], X


@pytest.mark.parametrize("residual", [0.0, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("condition", [1.0, 2.0, 1e3, 1e6])
def test_the_rounding_of_a_regression_counts_its_residual(residual, condition):
    """At the computed minimiser the true gap, in fractions, is the rounding of the gap anywhere near it."""
    largest = 0.0
    for seed in range(8):
        rng = np.random.default_rng([seed, int(condition)])
        X, _ = np.linalg.qr(rng.standard_normal((20, 2)))
        Q, _ = np.linalg.qr(rng.standard_normal((2, 2)))
        X = X * [1.0, 1 / condition] @ Q
        Y = X @ rng.standard_normal((2, 1)) + residual * rng.standard_normal((20, 1))
        f = lf.LinearRegression(X, Y)
        W, rows = exact_minimiser(X, Y)
        off = [Fraction(float(x)) - w for x, w in zip(f.minimizer[:, 0], W, strict=True)]
        gap = float(sum((r[0] * off[0] + r[1] * off[1]) ** 2 for r in rows) / 2)
        net = lf.Network([f.minimizer])
        assert gap <= f.rounding(net)
        largest = max(largest, gap / f.rounding(net))
    # In size a three-hundredth of what is allowed, or more, is needed: it is rounding, not a refusal to say.
    assert largest > 1e-5


def test_a_run_that_ends_in_the_rounding_of_its_data_says_so():
    """Entries of 10⁸ leave the minimum of `½‖Y − XW‖²` right to 10⁻¹⁶ only."""
    rng = np.random.default_rng(1)
    X, _ = np.linalg.qr(rng.standard_normal((20, 2)))
    Y = 1e8 * rng.standard_normal((20, 1))
    Y = Y - X @ (X.T @ Y) + X @ np.array([[1.0], [2.0]])
    f = lf.LinearRegression(X * [1.0, 0.5], Y)
    net = lf.Network([np.eye(2), 0.5 * f.minimizer])
    assert 1e-17 < f.rounding(net) < 1e-11
    run = lf.gradient_flow(f, net, until=1e-25)
    assert run.result is lf.Result.ROUNDING
    W, rows = exact_minimiser(X * [1.0, 0.5], Y)
    off = [Fraction(float(x)) - w for x, w in zip(run.final.product()[:, 0], W, strict=True)]
    true = float(sum((r[0] * off[0] + r[1] * off[1]) ** 2 for r in rows) / 2)
    # The residuals differ by at most the root of the rounding.
    assert abs(math.sqrt(2 * true) - math.sqrt(2 * run.gap[-1])) <= math.sqrt(2 * f.rounding(run.final))
    good = lf.gradient_flow(f, net, until=1e-3)
    assert good.result is lf.Result.TARGET


@pytest.mark.parametrize("engine", ["plain", "compiled"])
def test_no_flow_reaches_a_target_below_rounding(engine):
    f = lf.MatrixFactorization([[1.0]])
    for start in (0.5, 0.3, 0.77):
        net = lf.Network([np.array([[start]]), np.array([[1.0]])])
        for until in (1e-28, 1e-30, 2e-30, 1e-31, 1e-33):
            run = lf.gradient_flow(f, net, until=until, engine=engine)
            target = until * f.gap(net.product())
            if run.result is lf.Result.TARGET:
                assert target > f.rounding(run.final)
                # the residual of a product near 1 comes in steps of ε/2, and moves by two of each layer
                assert abs(math.sqrt(2 * run.gap[-1]) - math.sqrt(2 * target)) <= 2 * np.finfo(float).eps
            else:
                assert run.result is lf.Result.ROUNDING
        assert lf.gradient_flow(f, net, until=1e-31, engine=engine).result is lf.Result.ROUNDING


def test_no_descent_reaches_a_target_below_rounding():
    f, net = lf.MatrixFactorization([[1.0]]), lf.Network([np.array([[0.5]]), np.array([[1.0]])])
    run = lf.gradient_descent(f, net, step_size=0.1, steps=2000, until=1e-25)
    assert run.result is lf.Result.TARGET and run.gap[-1] <= 1e-25 * run.gap[0]
    run = lf.gradient_descent(f, net, step_size=0.1, steps=2000, until=1e-30)
    assert run.result is lf.Result.ROUNDING
    assert run.gap[-1] <= f.rounding(run.final)


# ---------------------------------------------------------------- declared constants, of any size


def declared(Y, constant=1.0):
    Y = np.asarray(Y)
    return lf.Objective(
        lambda W: 0.5 * float(((W - Y) ** 2).sum()),
        lambda W: W - Y,
        shape=Y.shape,
        strong_convexity=constant,
        smoothness=constant,
        minimizer=Y,
        minimum=0.0,
    )


@pytest.mark.parametrize("power", [0, -3, -5, -8, -10, -20, -60, -90, -120, -150, 40, 70])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_right_constants_are_never_contradicted(power, depth):
    """The squares of what moves leave float64, and the difference of two gradients of order one is their rounding."""
    power = min(power, 75 // depth)  # or the squares of the gradient leave float64
    net = lf.Network(depth * [np.array([[10.0**power]])])
    for Y in ([[1.0]], 2 * net.product()):
        f = declared(Y)
        assert lf.gradient_descent(f, net, step_size=0.1, steps=20).notes == ()
        assert lf.gradient_descent(f, net, schedule=schedules.backtracking(), steps=20).notes == ()
        assert lf.gradient_descent(f, net, schedule=schedules.local_smoothness(), steps=20).notes == ()
        assert lf.gradient_flow(f, net, t_max=1.0, max_steps=100).notes == ()


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e-60, 1e30])
def test_wrong_constants_are_contradicted_at_any_size(size):
    net = lf.Network([np.array([[size]]), np.array([[1.0]])])
    for constant, named in ((2.0, "strong_convexity"), (0.5, "smoothness")):
        run = lf.gradient_descent(
            declared([[3 * size]], constant), net, step_size=1e-3 / max(size, 1.0) ** 2, steps=20
        )
        assert any(f"declared {named} {constant:g} is contradicted" in note for note in run.notes)


def test_steps_of_large_layers_are_numbers():
    f, net = lf.MatrixFactorization([[1.0]]), lf.Network(2 * [np.array([[1e60]])])
    for rule in (schedules.local_smoothness("two layers"), schedules.xu2025(f, net, 0.1)):
        run = lf.gradient_descent(f, net, schedule=rule, steps=3)
        assert np.all(run.step_sizes > 0) and np.all(np.isfinite(run.step_sizes))


# ---------------------------------------------------------------- saddles


def resting_runs(f, weights):
    """A flow and two descents that stay where they are."""
    yield lf.gradient_flow(f, weights, t_max=1.0)
    yield lf.gradient_descent(f, weights, step_size=0.1, steps=3)
    yield lf.gradient_descent(f, weights, schedule=schedules.backtracking(), steps=3)


@pytest.mark.parametrize(("depth", "least"), [(2, -3.0), (3, 0.0)])
def test_a_stationary_start_at_the_origin_is_a_saddle(depth, least):
    f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
    runs = list(resting_runs(f, depth * [np.zeros((2, 2))]))
    assert [run.result for run in runs] == [lf.Result.STATIONARY, lf.Result.STEPS_DONE, lf.Result.STEPS_DONE]
    for run in runs:
        (note,) = run.notes
        assert note.startswith("at a saddle: the loss is 5 above f*")
        assert note.endswith(f"(least eigenvalue of its Hessian {least:.3g})")
    for narrow in resting_runs(f, [np.zeros((2, 1)), np.zeros((1, 2))]):
        (note,) = narrow.notes  # the best of rank one has a gap too, but there is a way down
        assert note.startswith("at a saddle: the loss is 5 above f*")
        assert note.endswith("(least eigenvalue of its Hessian -3)")
    for best in resting_runs(f, [np.array([[3.0], [0.0]]), np.array([[1.0, 0.0]])]):
        assert best.notes == ()
    moves = lf.gradient_descent(f, [np.eye(2), 0.5 * np.eye(2)], step_size=1e-3, steps=3)
    assert moves.notes == ()


@pytest.mark.parametrize("second", [0.0, 0.7])
def test_a_saddle_is_judged_in_the_full_width(second):
    # Target diag(1, 3), product diag(1, 0): every unit whose weights are 0 has the way out −σ_1(∇f) = −3. A reduction
    # sets those units aside: with the 0.7, two units are left, and the steepest way out of theirs is −2.91.
    first, last = np.zeros((2, 400)), np.zeros((400, 2))
    first[0, 0] = last[0, 0] = 1.0
    last[1, 0] = second
    f = lf.MatrixFactorization(np.diag([1.0, 3.0]))
    for run in resting_runs(f, [first, last]):
        (note,) = run.notes
        assert note.startswith("at a saddle: the loss is 4.5 above f*") and "eigenvalue" not in note  # 1600 weights
    for run in resting_runs(f, [first[:, :40], last[:40]]):
        assert run.notes[0].endswith("(least eigenvalue of its Hessian -3)")


def test_a_gradient_of_f_that_is_rounding_shows_no_saddle():
    # γ = 1e-18: ∇f(W) = (0, −1e-18) is rounding beside ε, and W may be a minimum; the gap 5e-19 alone says nothing.
    X = np.diag([1.0, 1e-9])
    f = lf.LinearRegression(X, X @ np.ones((2, 1)))
    net = lf.Network([np.array([[1.0], [0.0]]), np.array([[1.0]])])
    assert f.gap(net.product()) > f.rounding(net) and f.gradient_rounding(net) > 1e-16
    for run in resting_runs(f, net):
        assert run.notes == ()
