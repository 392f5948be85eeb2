"""Guarantees for gradient descent and step-size schedules, against runs and against literal versions."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest

import linflow as lf
from linflow import schedules
from linflow.certificates.curves import StepCurve, decayed, steps_to_decay
from linflow.certificates.descent import descent_guarantees, safe_step_size
from linflow.certificates.lazy import interaction
from linflow.certificates.published_descent import balanced_descent, two_layer_descent
from linflow.certificates.setting import Setting
from linflow.certificates.step_bounds import DescentBounds, LevelStepCurve
from linflow.dynamics.local_smoothness import local_constant
from linflow.model.classification import ExponentialLoss, LogisticLoss
from linflow.model.scalar_chain import chain_root
from tests.random_networks import FAMILIES, draw_weights
from tests.reference import algebra, certificates
from tests.reference.algebra import spectral_norm

OBJECTIVES = ("factorization", "regression", "deficient", "quadratic", "singular")


def objective_near(kind, W, distance, rng):
    """An objective whose minimiser lies at about this distance from W."""
    n, m = W.shape
    target = W + distance * rng.standard_normal(W.shape) / math.sqrt(n * m)
    if kind == "factorization":
        return lf.MatrixFactorization(target)
    if kind in ("regression", "deficient"):
        X = rng.standard_normal((2 * n, n)) / math.sqrt(2 * n) + np.eye(2 * n, n)
        if kind == "deficient" and n > 1:
            X = X @ np.diag([*[1.0] * (n - 1), 0.0]) @ np.linalg.qr(rng.standard_normal((n, n)))[0]
        return lf.LinearRegression(X, X @ target + 0.3 * rng.standard_normal((2 * n, m)))
    A = rng.standard_normal((n, n)) / 3 + np.eye(n)
    B = rng.standard_normal((m, m)) / 3 + np.eye(m)
    if kind == "singular" and m > 1:
        B[:, 0] = 0.0
    A, B = A.T @ A, B @ B.T
    return lf.Quadratic(A, B, A @ target @ B)


def problem(index):
    rng = np.random.default_rng([51, index])
    depth = index % 4 + 1
    n, m = (int(v) for v in rng.integers(1, 5, 2))
    widths = (n, *(int(v) for v in rng.integers(1 if index % 9 == 0 else min(n, m), 7, depth - 1)), m)
    return problem_of(index, widths, 0.3, rng)


def problem_of(index, widths, far, rng):
    """Family, scale and objective of this index; the target at up to `10^far` of the product's size."""
    weights = draw_weights(widths, FAMILIES[index % len(FAMILIES)], index)
    if index % 3:  # sizes for which a rate is likely
        weights = [W / (spectral_norm(W) or 1.0) * rng.uniform(0.7, 1.5) for W in weights]
    net = lf.Network(weights, [1.0, 0.4, 2.0][index % 7 % 3])
    size = max(spectral_norm(net.product()), 0.1)
    return objective_near(OBJECTIVES[index % 5], net.product(), 10 ** rng.uniform(-2, far) * size, rng), net, rng


def plain_descent(f, net, eta, steps):
    """Weights, gap and gradient at every step, by the plain loop."""
    weights = [W.copy() for W in net.weights]
    for _ in range(steps + 1):
        W = algebra.product(weights, net.scale)
        G = algebra.layer_gradients(f.gradient(W), weights, net.scale)
        yield weights, f.gap(W), G
        weights = [A - eta * g for A, g in zip(weights, G, strict=True)]


def restricted(f, net, weights):
    return f.effective(net.with_weights(weights))[1]


def check_held(f, net, caps, held, steps=32):
    """Every claim of `held` along a run; returns whether a rate below 1 was certified."""
    eta, start = held.step_size, restricted(f, net, net.weights)
    curve = None
    if held.alphas[0] > 0:
        curve = LevelStepCurve.of(caps.levels, held.decreases(caps.gamma), eta)
    first = caps.gap
    # the computed gap is off by its rounding, which enters each comparison of gaps
    noise = 4 * f.rounding(net) + 1e-12 * first
    size = max(spectral_norm(W) for W in net.weights)
    travelled, before = 0.0, None
    for k, (weights, gap, G) in enumerate(plain_descent(f, net, eta, steps)):
        squared = sum(float((g**2).sum()) for g in G)
        if before is not None:
            last_gap, last_squared = before
            level = int(np.searchsorted(-caps.levels, -last_gap, side="right")) - 1
            beta = held.betas[max(level, 0)]
            assert gap <= last_gap - eta * (1 - eta * beta / 2) * last_squared + noise
            travelled += eta * math.sqrt(last_squared)
        before = gap, squared
        if curve is not None:
            assert gap <= curve.gap_after(k) * (1 + 1e-9) + noise
        assert travelled <= held.radius
        if k % 8:
            continue
        now = restricted(f, net, weights)
        for A, B in zip(lf.imbalance_matrices(start), lf.imbalance_matrices(now), strict=True):
            assert spectral_norm(A - B) <= held.drift + 1e-12 * size**2  # rounding of WᵀW
        for W, cap in zip(now.weights, held.caps, strict=True):
            assert spectral_norm(W) <= cap * (1 + 1e-12)
        if gap > noise:
            level = max(int(np.searchsorted(-caps.levels, -gap, side="right")) - 1, 0)
            least = float(lf.TangentOperator(now).least_eigenvalue())
            scale = net.scale**2 * size ** (2 * net.depth - 2)
            assert held.alphas[level] <= least + 1e-12 * scale  # rounding of T
    return curve is not None


@pytest.mark.parametrize("indices", [range(120), pytest.param(range(120, 370), marks=pytest.mark.slow)])
def test_certificates_hold_along_descents(indices):
    certified = rated = near_limit = lazy = 0
    for index in indices:
        f, net, rng = problem(index)
        caps = DescentBounds(Setting(f, net))
        beta = float(caps._start(0.0)[0].min())
        if not (0 < beta < math.inf):
            continue
        if index % 10 == 0:
            eta = 0.995 * caps.largest
            near_limit += 1
        else:
            eta = rng.choice([0.01, 0.05, 0.15, 0.4]) / beta
        held = caps.at(eta)
        if held is None:
            continue
        certified += 1
        rated += check_held(f, net, caps, held)
        lazy += math.isfinite(held.radius)
    count = len(indices)
    assert certified >= 0.8 * count
    assert rated >= 0.5 * count
    assert near_limit >= 0.08 * count
    assert lazy >= 0.13 * count


def ceilings_of(low, high, product_norm):
    """Bounds on `‖P_l‖²` and `‖S_{l+1}‖²`, l = 0 … L, from the ends of the imbalances."""
    sides = []
    for steps in (high, [-x for x in reversed(low)]):
        c = np.concatenate([[0.0], -np.cumsum(steps)])
        c = c - c.min()
        sides.append(np.cumprod([1.0, *(float(chain_root(c, product_norm)) + c)]))
    return sides[0], sides[1][::-1]


def literal_caps(Ds, product_norm, drift):
    """Caps on `‖W_l‖²` of docs/theory.md, by bisection, with every eigenvalue worsened by the drift."""
    low = [np.linalg.eigvalsh(D)[0] - drift for D in Ds]
    high = [np.linalg.eigvalsh(D)[-1] + drift for D in Ds]

    def largest(steps, square=product_norm**2):
        """The largest x with `x Π_l (x + Σ_{k≥l} steps_k)_+ ≤ square`."""

        def value(x):
            return x * math.prod(max(x + sum(steps[l:]), 0.0) for l in range(len(steps)))

        a, b = 0.0, 1.0
        while value(b) <= square:
            b *= 2
        for _ in range(200):
            a, b = ((a + b) / 2, b) if value((a + b) / 2) <= square else (a, (a + b) / 2)
        return b

    caps = [math.inf] * (len(Ds) + 1)
    caps[-1], caps[0] = largest(low), largest([-x for x in reversed(high)])
    # A layer within ends a prefix and begins a suffix, whose norms have ceilings (tests/bounds/test_ceilings.py).
    L = len(Ds) + 1
    p, q = ceilings_of(low, high, product_norm)
    for l in range(1, L - 1):
        caps[l] = min(largest(low[:l], p[l + 1]), largest([-x for x in reversed(high[l:])], q[l]))
    for _ in Ds:  # closed under both rules
        for l in range(len(Ds)):
            caps[l + 1] = min(caps[l + 1], max(0.0, caps[l] - low[l]))
            caps[l] = min(caps[l], max(0.0, caps[l + 1] + high[l]))
    return caps


def literal_beta(Ds, norm_star, gap, mu, K, drift, scale):
    """β of docs/theory.md without balls."""
    size = (norm_star + math.sqrt(2 * gap / mu)) / scale
    omega = [math.sqrt(x) for x in literal_caps(Ds, size, drift)]
    L, low = len(omega), [np.linalg.eigvalsh(D)[0] - drift for D in Ds]
    P, S = (np.sqrt(x) for x in ceilings_of(low, [np.linalg.eigvalsh(D)[-1] + drift for D in Ds], size))
    C = np.zeros((L, L))
    for i, j in combinations(range(L), 2):
        C[i, j] = C[j, i] = P[i] * math.prod(omega[i + 1 : j]) * S[j + 1]
    T = sum((P[l] * S[l + 1]) ** 2 for l in range(L))
    return K * scale**2 * T + math.sqrt(2 * K * gap) * scale * np.linalg.eigvalsh(C)[-1]


def test_against_the_literal_fixed_point():
    compared = 0
    for index in range(80):
        f, net, _ = problem(4 * index + 1 + index % 3)
        if f.strong_convexity == 0 or f.gap(net.product()) < 1e-6:
            continue
        caps = DescentBounds(Setting(f, net), nearby=False)
        Ds = algebra.imbalance_matrices(net.weights)
        numbers = spectral_norm(f.minimizer), caps.gap, f.strong_convexity, f.smoothness
        eta = 0.2 / literal_beta(Ds, *numbers, 0.0, net.scale)
        held = caps.at(eta)
        if held is None:
            continue
        compared += 1
        beta = literal_beta(Ds, *numbers, held.drift, net.scale)
        # allowances for rounding in ‖W‖ and D, and the strictness factor 1e-9 in several places
        assert beta <= held.betas[0] * (1 + 1e-12) and held.betas[0] <= beta * (1 + 1e-6)
        assert eta * caps.gap / (1 - eta * beta / 2) <= held.drift
        # the earlier form looks at norms past the step, so it is never sharper
        assert held.betas[0] <= certificates.descent_beta(Ds, *numbers, eta, held.drift, net.scale)[0] * (1 + 1e-6)
    assert compared >= 40


def test_interaction_is_the_largest_eigenvalue(rng):
    for L in (1, 2, 3, 5):
        x = rng.uniform(0.1, 2, (L, 4))
        for j in range(4):
            C = [[0.0 if a == b else np.prod([x[k, j] for k in range(L) if k not in (a, b)]) for b in range(L)]
                 for a in range(L)]  # fmt: skip
            assert interaction(x)[j] == pytest.approx(np.linalg.eigvalsh(np.array(C))[-1], abs=1e-12)


def test_curve_is_the_worst_sequence():
    levels = np.array([1.0, 0.5, 0.1])
    for factors in ([0.9, 0.6, 0.2], [0.2, 0.6, 0.9], [0.6, 0.95, 0.1], [0.3, 0.01, 0.99]):

        def worst(u, q=tuple(factors)):
            """`max_{y ≤ u} q(y) y`: at u itself, or at the top of a level below."""
            tops = [y * f for y, f in zip(levels, q, strict=True) if y <= u]
            return max([u * (q[0] if u > 0.5 else q[1] if u > 0.1 else q[2]), *tops])

        curve, u = LevelStepCurve.of(levels, 1 - np.array(factors), 0.1), 1.0
        for k in range(20):
            assert curve.gap_after(k) == pytest.approx(u, rel=1e-12, abs=0)
            assert curve.steps(u * (1 + 1e-9)) == k
            u = worst(u)
        assert curve.gap(0.35) == curve.gap_after(3)
        assert curve.rate == pytest.approx(-math.log(max(factors)) / 0.1)
    one = LevelStepCurve.of(levels, np.ones(3), 0.1)
    assert one.steps(1e-9) == 1 and one.gap_after(1) == 0.0


def test_step_curves_agree_when_the_factor_is_constant():
    curve = LevelStepCurve.of(0.7 ** np.arange(40.0), np.full(40, 1 - 0.93), 0.5)
    for fraction in (0.5, 1e-2, 1e-9):
        assert curve.steps(fraction) == math.ceil(math.log(fraction) / math.log(0.93))


TINY_STEPS = [0.3, 1e-3, 1e-6, 1e-8, 1e-10, 1e-13, 1e-16, 1e-19]


@pytest.mark.parametrize("eta", TINY_STEPS)
def test_tiny_steps_are_counted_right(eta):
    """One layer, `ℓ_k = (1 − η)^{2k} ℓ_0`: of a factor as near to 1 as `1 − 2η` only the logarithm counts."""
    cert = lf.certify(lf.MatrixFactorization([[1.0]]), [np.array([[0.5]])], algorithm="descent", step_size=eta)
    with localcontext(prec=60):
        rate = -2 * (1 - Decimal(eta)).ln()
        for fraction in (0.5, 1e-6):
            needed = float(-Decimal(fraction).ln() / rate)
            # Two allowances of a relative 1e-9, for β and α, are all that may be lost, and a step begun.
            assert needed * (1 - 1e-15) <= cert.steps_to(fraction) <= needed * (1 + 3e-9) + 2
            k = cert.steps_to(fraction)
            left = float((-k * rate).exp()) * cert.gap
            assert left <= cert.best.curve.gap_after(k) <= fraction * cert.gap
            assert cert.best.curve.gap_after(k) <= left * (1 + 1e-6) + 2 * eta * cert.gap


@pytest.mark.parametrize("eta", TINY_STEPS)
def test_no_tiny_step_promises_more_than_it_gives(eta):
    """Two scalar layers (1, 1) beside their target: the exact first step, in fractions."""
    target = 1 + 1e-12
    cert = lf.certify(lf.MatrixFactorization([[target]]), 2 * [np.ones((1, 1))], algorithm="descent", step_size=eta)
    residual = 1 - Fraction(target)
    moved = (1 - Fraction(eta) * residual) ** 2 - Fraction(target)
    given_up = 1 - (moved / residual) ** 2
    named = {row.name: row for row in cert.guarantees}
    for name in ("descent, any depth", "two layers, squared loss", "two layers, local constants"):
        assert (1 - 1e-8) * given_up <= Fraction(named[name].curve.decrease) <= given_up, name
    balanced = named["approximately balanced"]
    if eta < 2e-5:  # the theorem allows no more; it promises a quarter, and at η → 0 exactly that
        assert 0.24 * given_up <= Fraction(balanced.curve.decrease) <= given_up


def test_a_fall_is_counted_as_it_is():
    """`decayed` and `steps_to_decay` are each other's inverse, on the safe side of the exact power."""
    for d in (0.5, 0.1, 1e-3, 1e-9, 1e-15, 1e-20, 1e-200):
        for fraction in (0.999999, 0.5, 1e-6, 1e-300):
            k = steps_to_decay(3.0, 3.0 * fraction, d)
            with localcontext(prec=260):
                logarithm = (1 - Decimal(d)).ln()
                exact = 3 * (k * logarithm).exp()
                before = 3 * ((k * (1 - Decimal("1e-12")) - 2) * logarithm).exp()
                assert exact <= Decimal(decayed(3.0, d, k)) <= Decimal(3.0 * fraction)
                assert Decimal(decayed(3.0, d, k)) <= exact * (1 + Decimal("1e-11"))  # 8 ε of an exponent up to 691
                # no more steps than that: the allowance, and one begun
                assert before > Decimal(3.0 * fraction) * (1 - Decimal("1e-13"))
    assert decayed(3.0, 1e-3, 0) == 3.0 and decayed(3.0, 1.0, 1) == 0.0
    assert steps_to_decay(3.0, 3.0, 1e-3) == 0 and steps_to_decay(3.0, 1e-300, 1.0) == 1


def test_times_of_many_tiny_steps_are_whole_numbers_of_them():
    curve = StepCurve(1.0, 1e-15, 1e-14)
    for k in (1, 10**6, 10**13, 10**15):
        assert curve.gap(k * 1e-15) == pytest.approx(curve.gap_after(k), rel=1e-13, abs=0.0)
        # t is right to ε: up to 2^53 that is less than a step
        assert curve.gap(k * 1e-15 * (1 - 4e-16)) >= curve.gap_after(k)


# ---------------------------------------------------------------- safe step


@pytest.mark.parametrize("widths", [(3, 2), (4, 20, 3), (3, 3, 3), (3, 8, 8, 2), (1, 1, 1, 1)])
def test_safe_step_minimises_the_factor(widths):
    net = lf.Network([np.eye(*W.shape) + 0.1 * W for W in draw_weights(widths, "gaussian", 5)])
    f = lf.MatrixFactorization(net.product() * 1.1)
    eta = safe_step_size(f, net)
    caps = DescentBounds(Setting(f, net))

    def decrease(step):
        held = caps.at(step)
        return 0.0 if held is None else float(held.decreases(caps.gamma).min())

    best = max(decrease(step) for step in np.geomspace(0.3, 3, 25) * eta)
    assert decrease(eta) > 0
    assert decrease(eta) >= 0.95 * best  # what the docstring promises
    run = lf.gradient_descent(f, net, step_size=eta, steps=200)
    assert np.all(np.diff(run.gap) <= f.rounding(net))


def test_safe_step_without_a_rate_still_descends():
    net = lf.init.gaussian((3, 4, 3), 0.3, rng=1)
    f = lf.MatrixFactorization(np.diag([1.0, 1.0, 0.0]))  # no margin, no imbalance worth a rate
    eta, rows = descent_guarantees(Setting(f, net), None)
    assert rows[0].reason.startswith("the loss never rises, but no rate is certified")
    assert eta == safe_step_size(f, net)
    run = lf.gradient_descent(f, net, step_size=eta, steps=300)
    assert np.all(np.diff(run.gap) <= 0)
    assert run.gap[-1] < run.gap[0]


def test_no_safe_step_says_what_to_do():
    X = np.array([[1.0, 0.2], [0.5, 1.0]])
    net = lf.init.gaussian((2, 3, 1), rng=0)
    logistic, exponential = LogisticLoss(X, [1, 1]), ExponentialLoss(X, [1, 1])

    def user(f, **constants):
        return lf.Objective(f.value, f.gradient, shape=f.shape, minimum=0.0, **constants)

    with pytest.raises(ValueError, match=r"no step size is certified: no smoothness K .*\n?.*backtracking"):
        safe_step_size(user(exponential), net)
    with pytest.raises(ValueError, match=r"no bound on the weights along the run is known"):
        safe_step_size(user(logistic, smoothness=logistic.smoothness), net)
    for f in (user(exponential), user(logistic, smoothness=logistic.smoothness)):
        eta, rows = descent_guarantees(Setting(f, net), None)
        assert eta > 0 and not any(row.applies for row in rows)
        run = lf.gradient_descent(f, net, step_size=eta, steps=1)
        assert run.gap[1] < run.gap[0]
    with pytest.raises(ValueError, match="needs 2×1"):
        safe_step_size(logistic, [np.eye(3), np.eye(3)])


def test_reasons_name_the_hypothesis():
    f, net = lf.MatrixFactorization(2 * np.eye(2)), lf.Network([np.eye(2), 1.8 * np.eye(2)])

    def reasons(f, net, eta):
        return [row.reason for row in descent_guarantees(Setting(f, net), eta)[1]]

    assert "is too large: at most" in reasons(f, net, 50.0)[0]
    assert "ηK_t < 2" in reasons(f, net, 50.0)[1]
    assert "exceeds" in reasons(f, lf.init.balanced((2, 3, 2), product=1.9 * np.eye(2), rng=0), 0.1)[3]
    assert "not balanced enough" in reasons(f, net, 1e-6)[3]
    assert "deficiency margin" in reasons(f, lf.Network([np.eye(2), -np.eye(2)]), 1e-6)[3]
    deep = lf.Network([np.eye(2)] * 3)
    assert reasons(f, deep, 1e-3)[1] == "the network has 3 layers, not 2"
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 2))])
    assert "hidden width 1 is below" in reasons(f, narrow, 1e-3)[0]
    assert "hidden width 1 is below" in reasons(f, narrow, 1e-3)[3]
    shifted = lf.Objective(
        lambda W: 0.5 * float(((W - np.eye(2)) ** 2).sum()) + 1,
        lambda W: W - np.eye(2),
        shape=(2, 2),
        strong_convexity=1.0,
        smoothness=1.0,
        minimizer=np.eye(2),
    )
    assert reasons(shifted, net, 1e-3)[1] == "the loss is not the squared loss"
    assert "f* is 1, not 0" in reasons(shifted, net, 1e-3)[2]
    stretched = lf.LinearRegression(np.diag([1.0, 2.0]), np.eye(2))
    assert "whiten the data" in reasons(stretched, net, 1e-3)[3]
    unknown = lf.Objective(
        lambda W: float((W**2).sum()),
        lambda W: 2 * W,
        shape=(2, 2),
        strong_convexity=2.0,
        minimizer=np.zeros((2, 2)),
    )
    assert all("smoothness" in r or "whiten" in r for r in reasons(unknown, net, 1e-3))
    with pytest.raises(ValueError, match=r"step_size is 0\.0"):
        descent_guarantees(Setting(f, net), 0.0)


def test_at_the_minimum_nothing_is_left_to_do():
    net = lf.Network([np.eye(2), 2 * np.eye(2)])
    eta, rows = descent_guarantees(Setting(lf.MatrixFactorization(net.product()), net), None)
    assert eta > 0 and rows[0].applies
    assert rows[0].steps_to(1e-6) == 0


# ---------------------------------------------------------------- published results


def test_local_constant_holds_for_one_step_with_constants_one():
    """20 draws of the step and size for each of 150 starts, up to the limit of the lemma."""
    tight = 0.0
    for index in range(150):
        rng = np.random.default_rng([52, index])
        n, m, h = (int(v) for v in rng.integers(1, 5, 3))
        net = lf.Network(draw_weights((n, h, m), FAMILIES[index % len(FAMILIES)], index), rng.choice([1.0, 0.5, 3.0]))
        f = objective_near(OBJECTIVES[index % 5], net.product(), 10 ** rng.uniform(-2, 1.5), rng)
        W, gap = net.product(), f.gap(net.product())
        greatest = float(lf.TangentOperator(net).greatest_eigenvalue())
        G = net.gradient(f.gradient(W))
        squared = sum(float((g**2).sum()) for g in G)
        noise = 4 * f.rounding(net) + 1e-12 * gap
        for eta in 10 ** rng.uniform(-2, 1, 20) / (f.smoothness * greatest + 1e-9):
            Kt = local_constant(f.smoothness, greatest, gap, spectral_norm(W), eta, net.scale)
            assert Kt <= local_constant(f.smoothness, greatest, gap, spectral_norm(W), eta, net.scale, printed=True)
            moved = [A - eta * g for A, g in zip(net.weights, G, strict=True)]
            after = f.gap(algebra.product(moved, net.scale))
            assert after <= gap - eta * (1 - eta * Kt / 2) * squared + noise + 1e-12 * after
            if gap > 0 and squared > 0:
                tight = max(tight, 2 * (after - gap + eta * squared) / (eta**2 * squared * Kt))
    assert tight > 0.9  # the constant is nearly attained, so the test can fail


def test_two_layer_rows_hold_and_ours_is_no_slower():
    applied = 0
    for index in range(30):
        rng = np.random.default_rng([53, index])
        n, m = (int(v) for v in rng.integers(1, 5, 2))
        net = lf.Network(draw_weights((n, 6, m), "gaussian", index))
        f = objective_near(("factorization", "regression")[index % 2], net.product(), 10 ** rng.uniform(-1, 0.3), rng)
        eta = 0.3 * safe_step_size(f, net)
        rows = [row for row in descent_guarantees(Setting(f, net), eta)[1][:3] if row.applies]
        ours = rows[0] if rows else None
        for row in rows[1:]:
            applied += 1
            assert ours is not None and ours.steps_to(1e-6) <= row.steps_to(1e-6)
            for k, (_, gap, _) in enumerate(plain_descent(f, net, eta, 30)):
                assert gap <= row.curve.gap_after(k) * (1 + 1e-9) + 4 * f.rounding(net)
    assert applied >= 15


def test_two_layer_rows_use_the_right_singular_values():
    """Weights of the errata: the printed form with σ_min in both roots would promise three times the rate."""
    net = lf.Network([np.diag([2.0, 0.0]), np.array([[1.0], [0.0]])])
    rows = two_layer_descent(Setting(lf.MatrixFactorization(np.array([[2.0], [1e-3]])), net), 1e-3)
    assert 0 < rows[1].facts["α"] <= 1.0


def test_two_layer_rows_bound_the_printed_constant():
    """Their K_t is `local_constant` at the caps: those of the norms, of `‖W‖` and of the gap."""
    net = lf.Network([W / 3 for W in draw_weights((3, 8, 2), "gaussian", 1)], 0.7)
    f = lf.MatrixFactorization(net.product() + 0.1)
    eta, gap = 0.05, f.gap(net.product())
    facts = two_layer_descent(Setting(f, net), eta)[0].facts
    D = lf.imbalance_matrices(net)
    size = spectral_norm(f.minimizer) + math.sqrt(2 * gap)
    greatest = 0.7**2 * sum(literal_caps(D, size / 0.7, facts["drift cap"]))
    assert facts["K_t"] == pytest.approx(local_constant(1.0, greatest, gap, size, eta, 0.7, printed=True), rel=1e-6)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_approximately_balanced_contraction_at_the_largest_step(depth):
    applied = 0
    for index in range(12):
        rng = np.random.default_rng([54, depth, index])
        n, m = (int(v) for v in rng.integers(1, 4, 2))
        widths = (n, *[max(n, m) + 1] * (depth - 1), m)
        target = rng.standard_normal((n, m)) * 10 ** rng.uniform(-1, 1)
        s = np.linalg.svd(target, compute_uv=False)[-1]
        offset = rng.standard_normal((n, m))
        start = target + 0.9 * rng.uniform() * s * offset / np.linalg.norm(offset)
        scale = [1.0, 0.5][index % 2]
        balanced = lf.init.balanced(widths, product=start / scale, rng=rng)
        net = lf.Network(balanced.weights, scale)
        f = lf.MatrixFactorization(target)
        limit = balanced_descent(Setting(f, net), 1e-30).facts
        # move to the edge of the balance that is allowed
        noise = [rng.standard_normal(W.shape) for W in net.weights]
        size = 0.1 * limit["allowed imbalance"] / max(spectral_norm(W) for W in net.weights)
        net = net.with_weights([W + size * E / np.linalg.norm(E) for W, E in zip(net.weights, noise, strict=True)])
        eta = 0.999 * balanced_descent(Setting(f, net), 1e-30).facts["largest step"]
        row = balanced_descent(Setting(f, net), eta)
        assert row.applies, row.reason
        applied += 1
        promised = -math.log1p(-row.curve.decrease)
        # the promise is tiny; at a thousand times the step the same rate per unit of time is far above rounding
        for times in (1, 1000):
            for (_, gap, _), (_, after, _) in pairwise(plain_descent(f, net, times * eta, 20)):
                assert -math.log(after / gap) >= times * promised - 1e-14  # rounding of the two gaps
    assert applied == 12


# ---------------------------------------------------------------- descent and schedules


class TestSchedules:
    f = lf.MatrixFactorization(np.diag([2.0, 1.0, 0.5]))

    def net(self, depth=2, seed=0):
        return lf.init.gaussian((3, *[5] * (depth - 1), 3), 0.6, rng=seed)

    @pytest.mark.parametrize("depth", [1, 2, 3, 4])
    @pytest.mark.parametrize(
        "rule", [schedules.backtracking(), schedules.local_smoothness(), schedules.local_smoothness("curvature")]
    )
    def test_falls_and_converges(self, depth, rule):
        run = lf.gradient_descent(self.f, self.net(depth), schedule=rule, steps=4000, until=1e-8)
        assert run.result.ok and run.gap[-1] <= 1e-8 * run.gap[0]
        assert np.all(np.diff(run.gap) <= 0)

    @pytest.mark.parametrize("form", ["two layers", "printed"])
    def test_two_layer_forms_fall_and_converge(self, form):
        run = lf.gradient_descent(
            self.f, self.net(), schedule=schedules.local_smoothness(form), steps=4000, until=1e-8
        )
        assert run.result is lf.Result.TARGET
        assert np.all(np.diff(run.gap) <= 0)

    def test_local_step_solves_its_equation(self):
        """`ηK_t(η) = 1`, and `ℓ⁺ ≤ ℓ − (η/2)‖∇L‖²`, for every objective and shape."""
        for index in range(120):
            f, net, _ = problem(index)
            run = lf.gradient_descent(f, net, schedule=schedules.local_smoothness(), steps=1)
            noise = 4 * f.rounding(net) + 1e-12 * run.gap[0]
            if run.gap[0] <= noise:
                continue
            eta = float(run.step_sizes[0])
            assert run.gap[1] <= run.gap[0] - 0.5 * eta * run.rate[0] * run.gap[0] + noise
            if net.depth != 2:
                continue
            W, least = net.product(), None
            greatest = float(lf.TangentOperator(f.effective(net)[1]).greatest_eigenvalue())
            for form, printed in (("two layers", False), ("printed", True)):
                run = lf.gradient_descent(f, net, schedule=schedules.local_smoothness(form), steps=1)
                step = float(run.step_sizes[0])
                Kt = local_constant(
                    f.smoothness, greatest, float(run.gap[0]), spectral_norm(W), step, net.scale, printed=printed
                )
                assert step * Kt == pytest.approx(1, rel=1e-6)  # the root is lowered by 1e-9; polynomial roots
                assert least is None or step <= least
                least = step
            assert eta >= least * (1 - 1e-6)  # along the step is never worse than the worst direction

    def test_the_curvature_makes_the_fall_exact(self):
        """`ℓ⁺ = ℓ − (η/2)‖∇L‖²` for every quadratic objective and shape, by a step that is never the shorter one."""
        seen = 0
        for index in range(120):
            f, net, _ = problem(index)
            if not f.quadratic:
                with pytest.raises(ValueError, match='"curvature" is for quadratic objectives'):
                    lf.gradient_descent(f, net, schedule=schedules.local_smoothness("curvature"), steps=1)
                continue
            run = lf.gradient_descent(f, net, schedule=schedules.local_smoothness("curvature"), steps=1)
            plain = lf.gradient_descent(f, net, schedule=schedules.local_smoothness(), steps=1)
            # Rounding of the gap, and a root that is lowered by 1e-9.
            noise = 4 * f.rounding(net) + 1e-8 * run.gap[0]
            if run.gap[0] <= noise:
                continue
            seen += 1
            eta = float(run.step_sizes[0])
            assert abs(run.gap[1] - (run.gap[0] - 0.5 * eta * run.rate[0] * run.gap[0])) <= noise
            assert eta >= float(plain.step_sizes[0]) * (1 - 1e-6)
        assert seen > 30

    def test_step_form_is_exact_for_one_layer(self):
        f = lf.MatrixFactorization(np.eye(2))
        run = lf.gradient_descent(f, [np.zeros((2, 2))], schedule=schedules.local_smoothness(), steps=1)
        assert run.step_sizes[0] == pytest.approx(1.0)
        assert run.gap[-1] < 1e-15

    def test_growing_steps_beat_the_constant_safe_step(self):
        net = lf.init.ntk((6, 60, 3), rng=0)
        f = lf.MatrixFactorization(0.1 * np.ones((6, 3)))
        eta = safe_step_size(f, net)
        growing = lf.gradient_descent(f, net, schedule=schedules.xu2025(f, net), steps=2000, until=1e-8)
        fixed = lf.gradient_descent(f, net, step_size=eta, steps=2000, until=1e-8)
        assert growing.result is fixed.result is lf.Result.TARGET
        assert growing.stats.steps <= fixed.stats.steps
        assert np.all(np.diff(growing.gap) <= 0)
        local = schedules.local_smoothness("printed")
        last = lf.gradient_descent(f, growing.final, schedule=local, steps=1).step_sizes[0]
        assert growing.step_sizes.max() <= last * (1 + 1e-6)  # 1/K_t grows as the gap falls

    def test_xu2025_is_the_formula(self):
        rule = schedules.xu2025(self.f, self.net(), first=0.02)
        run = lf.gradient_descent(self.f, self.net(), schedule=rule, steps=40)
        local = schedules.local_smoothness("printed")
        net = self.net()
        for t, eta in enumerate(run.step_sizes):
            limit = lf.gradient_descent(self.f, net, schedule=local, steps=1).step_sizes[0]
            assert eta == pytest.approx(min((1 + 0.02**2) ** (t / 2) * 0.02, limit), rel=1e-12, abs=0)
            net = lf.gradient_descent(self.f, net, step_size=float(eta), steps=1).final

    def test_constant_is_the_constant_step(self):
        runs = [
            lf.gradient_descent(self.f, self.net(), step_size=0.05, steps=30),
            lf.gradient_descent(self.f, self.net(), schedule=schedules.constant(0.05), steps=30),
        ]
        np.testing.assert_array_equal(runs[0].gap, runs[1].gap)
        for run in runs:
            assert run.algorithm == "descent" and run.step_size == 0.05
            np.testing.assert_array_equal(run.step_sizes, np.full(30, 0.05))

    def test_time_is_the_sum_of_the_steps(self):
        run = lf.gradient_descent(self.f, self.net(), schedule=schedules.backtracking(), steps=20)
        assert run.step_size is None and len(run.step_sizes) == run.stats.steps == 20
        np.testing.assert_allclose(run.t, np.concatenate([[0], np.cumsum(run.step_sizes)]), rtol=1e-14)
        flow = lf.gradient_flow(self.f, self.net(), t_max=0.1)
        assert flow.algorithm == "flow" and flow.step_size is None and flow.step_sizes is None

    def test_backtracking_keeps_armijo(self):
        run = lf.gradient_descent(
            self.f, self.net(3), schedule=schedules.backtracking(10.0, shrink=0.3, grow=1.5, slope=0.2), steps=50
        )
        fall = run.gap[:-1] - run.gap[1:]
        wanted = 0.2 * run.step_sizes * run.rate[:-1] * run.gap[:-1]
        assert np.all(fall >= wanted * (1 - 1e-12) - 1e-15)

    def test_backtracking_ends_at_rounding(self):
        run = lf.gradient_descent(self.f, self.net(), schedule=schedules.backtracking(), steps=600)
        assert run.gap[-1] < 1e-25
        assert run.step_sizes.min() > 1e-6

    def test_at_a_stationary_point(self):
        for rule in (schedules.backtracking(), schedules.local_smoothness()):
            run = lf.gradient_descent(self.f, [np.zeros((3, 4)), np.zeros((4, 3))], schedule=rule, steps=3)
            assert run.gap[-1] == run.gap[0]

    def test_exponential_loss_backtracks(self):
        f = ExponentialLoss(np.array([[1.0, 0.2], [0.5, 1.0]]), [1, 1])
        run = lf.gradient_descent(f, lf.init.gaussian((2, 3, 1), rng=0), schedule=schedules.backtracking(), steps=200)
        assert np.all(np.diff(run.gap) < 0)
        assert run.gap[-1] < 1e-2 * run.gap[0]

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda f, n: lf.gradient_descent(f, n, steps=3), "neither of step_size and schedule"),
            (
                lambda f, n: lf.gradient_descent(f, n, step_size=0.1, schedule=schedules.constant(0.1), steps=3),
                "both of step_size and schedule",
            ),
            (lambda f, n: schedules.backtracking(shrink=1.0), r"shrink is 1\.0; a number in \(0, 1\)"),
            (lambda f, n: schedules.backtracking(slope=2.0), r"slope is 2\.0"),
            (lambda f, n: schedules.backtracking(grow=0.5), r"grow is 0\.5; a number of at least 1"),
            (lambda f, n: schedules.backtracking(-1.0), "initial is -1"),
            (lambda f, n: schedules.constant(0.0), r"step_size is 0\.0"),
            (lambda f, n: schedules.local_smoothness("other"), "form is 'other'"),
            (lambda f, n: schedules.xu2025(f, [np.eye(3)] * 3), "for two layers, not 3"),
        ],
    )
    def test_wrong_arguments(self, call, words):
        with pytest.raises(ValueError, match=words):
            call(self.f, self.net())

    def test_wrong_schedules(self):
        class Zero:
            def step(self, iterate):
                return 0.0

        with pytest.raises(ValueError, match=r"returned 0\.0 for step 0"):
            lf.gradient_descent(self.f, self.net(), schedule=Zero(), steps=3)
        with pytest.raises(TypeError, match="a method step"):
            lf.gradient_descent(self.f, self.net(), schedule=0.1, steps=3)
        unknown = lf.Objective(
            lambda W: float((W**2).sum()), lambda W: 2 * W, shape=(3, 3), strong_convexity=2.0, minimum=0.0
        )
        with pytest.raises(ValueError, match="no smoothness K"):
            lf.gradient_descent(unknown, self.net(), schedule=schedules.local_smoothness(), steps=3)

    def test_other_arrays(self, xp):
        f, start = lf.MatrixFactorization(xp.asarray(np.eye(3))), self.net()
        net = lf.Network([xp.asarray(W) for W in start.weights])
        plain = lf.MatrixFactorization(np.eye(3))
        assert safe_step_size(f, net) == pytest.approx(safe_step_size(plain, start), rel=1e-6)
        forms = (schedules.local_smoothness(form) for form in ("step", "curvature", "printed"))
        for rule in (schedules.backtracking(), *forms):
            here = lf.gradient_descent(plain, start, schedule=rule, steps=5)
            there = lf.gradient_descent(f, net, schedule=rule, steps=5)
            assert type(there.step_sizes) is type(net.weights[0])
            # the same arithmetic up to the order of sums
            np.testing.assert_allclose(np.array([float(x) for x in there.step_sizes]), here.step_sizes, rtol=1e-6)


class Decaying:
    """A rule of a user, with an attribute of the name that a constant step has."""

    step_size = 0.1

    def step(self, iterate):
        return self.step_size / (1 + iterate.k)


def test_a_rule_with_an_attribute_step_size_is_no_constant_step():
    f, net = lf.MatrixFactorization(np.eye(2)), lf.init.balanced((2, 3, 2), rng=0)
    run = lf.gradient_descent(f, net, schedule=Decaying(), steps=3)
    assert run.step_size is None and run.step_sizes.tolist() == [0.1, 0.1 / 2, 0.1 / 3]
    certificate = lf.certify(f, net, algorithm="descent", schedule=Decaying())
    assert certificate.step_size is None and certificate.best is None
    same = lf.certify(f, net, algorithm="descent", schedule=lf.schedules.constant(0.01))
    assert same.step_size == 0.01 and same.rate == lf.certify(f, net, algorithm="descent", step_size=0.01).rate
