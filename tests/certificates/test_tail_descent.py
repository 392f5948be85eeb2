"""Descent on losses with a tail: the formulas by hand, and what is certified against runs."""

import itertools
import math

import numpy as np
import pytest

import linflow as lf
from linflow.certificates import tail_descent
from linflow.certificates.setting import Setting
from linflow.certificates.step_bounds import DescentBounds
from linflow.certificates.tail_descent import TailDescent, TailStepCurve
from linflow.model.tails import LogisticTail, Tail

X, Y = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([1.0, -1.0])  # γ = 2.4, max ‖x‖² = 16


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0)


def of(f, weights, scale=1.0):
    return TailDescent(Setting(f, lf.Network(weights, scale), "descent"))


def user(f, **constants):
    """The same function, with the constants that a user declares."""
    return lf.Objective(f.value, f.gradient, shape=f.shape, minimum=0.0, **constants)


# --- the curve -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [Tail(1.5), LogisticTail(1.5)])
def test_each_step_is_worth_its_time_of_the_flow(tail):
    curve = TailStepCurve.of(tail, 2.0, np.array([4.0, 1.0, 0.25]), np.array([0.01, 0.02, 0.04]), 0.05)
    u, level, k = 4.0, 0, 0
    spans, ends = [0.01, 0.02, 0.04], [1.0, 0.25, 0.0]
    for k in range(1, 400):
        u = tail.gap(u, spans[level], 2.0)
        # A level that is left within a step is left to its border: at most a step more for each of the two.
        assert curve.gap_after(k) >= u * (1 - 1e-12) and curve.gap_after(k + 2) <= u * (1 + 1e-12)
        level += u <= ends[level]
    assert level == 2 and curve.gap_after(0) == 4.0 and curve.rate == 0.0 and curve.factor == 1.0
    for y in (3.9, 1.0, 0.9, 0.25, 1e-3, 1e-9):
        k = curve.steps(y)
        before = curve.gap_after(max(k - 2, 0))
        assert isinstance(k, int) and curve.gap_after(k) <= y * (1 + 1e-12) < before * (1 + 1e-9)
        assert curve.time(y) == k * 0.05
    assert curve.steps(4.0) == curve.steps(5.0) == 0 and math.isinf(curve.steps(5e-324))
    assert repr(curve) == f"TailStepCurve(step 0.05, {tail!r}, α=2)"


def test_the_rate_of_a_step_is_that_of_its_decrease():
    curve = TailStepCurve.of(Tail(1.5), 2.0, np.array([4.0, 1.0]), np.array([0.01, 0.02]), 0.05)
    # ℓ⁺ ≤ ℓ − τ αγ² ℓ²
    assert curve.rate_at(2.0) == near(-math.log(1 - 0.01 * 2 * 2.25 * 2) / 0.05)
    assert curve.rate_at(0.5) == near(-math.log(1 - 0.02 * 2 * 2.25 * 0.5) / 0.05)
    assert curve.rate_at(1e9) == near(-math.log(2.0**-52) / 0.05) and curve.rate_at(0.0) == 0.0
    logistic = TailStepCurve.of(LogisticTail(1.5), 2.0, np.array([4.0]), np.array([0.01]), 0.05)
    assert logistic.rate_at(2.0) == near(-math.log(1 - 0.01 * 2 * 2.25 * (1 - math.exp(-2)) ** 2 / 2) / 0.05)


def test_steps_are_whole_and_at_least_one():
    # 1/ℓ grows by αγ²τ = 0.5 a step.
    assert tail_descent.steps_of(Tail(1.0), 1.0, 1.0, 0.5, 0.5) == 3.0  # 2, and the rounding
    assert tail_descent.steps_of(Tail(1.0), 1.0, 1.0, 0.45, 0.5) == 3.0
    assert tail_descent.steps_of(Tail(1.0), 1.0, 1.0, 1.0, 0.5) == 1.0
    assert tail_descent.steps_of(Tail(1.0), 0.0, 1.0, 0.5, 0.5) == math.inf


# --- caps ----------------------------------------------------------------------------------------------------------


def test_one_layer_has_the_curvature_of_its_level():
    f = lf.ExponentialLoss(X, Y)
    bounds = of(f, [np.zeros((2, 1))], 0.5)
    assert bounds.why == "" and bounds.levels[0] == near(2.0) and bounds.levels[0] >= 2.0
    betas = bounds.betas(0.5, 0.25)
    np.testing.assert_allclose(betas, 16 * 0.25 * bounds.levels, rtol=1e-8)  # STRICT is 1e-9
    assert bounds.alpha(0.0) == 0.25
    held = bounds.at(0.1)  # β = 8: 1 − ηβ/2 is 0.6
    assert held.share <= 0.6 <= held.share * 1.01 and held.drift == 0.0 and held.alpha == 0.25
    assert held.spans[0] == near(0.1 * 0.6, rel=1e-8) and held.spans[-1] == near(0.1, rel=1e-8)
    assert bounds.at(0.2499).share > 0 and bounds.at(0.2501) is None
    assert bounds.advise() == near(0.125, rel=2e-3) and bounds.largest == near(0.95 * 0.25, rel=1e-6)
    # 1/ℓ grows by τ αγ² at each step, at least.
    g = bounds.guarantee(0.1)
    assert g.curve.gap_after(10) <= 1 / (0.5 + 10 * 0.06 * 0.25 * 2.4**2) * (1 + 1e-8)
    assert g.curve.gap_after(10) >= 1 / (0.5 + 10 * 0.1 * 0.25 * 2.4**2)
    assert g.facts == {"hard margin": f.hard_margin, "α": 0.25, "β": near(8.0, rel=1e-8), "drift cap": 0.0}
    assert g.name == "exponential tail, descent" and g.citations == {"linflow", "soudry2018"}


@pytest.mark.parametrize("loss", [lf.ExponentialLoss, lf.LogisticLoss])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_curvature_is_the_largest_along_the_path(loss, depth, rng):
    f, c, q, alpha = loss(X, Y), 0.7, 0.4, 0.3
    shapes = [(2, 3), *[(3, 3)] * (depth - 2), (3, 1)]
    bounds = of(f, [rng.standard_normal(s) for s in shapes], c)
    norms = [float(np.linalg.norm(W, 2)) for W in bounds.setting.network.weights]
    first = bounds.setting.gap

    def psi_path(y):
        if loss is lf.ExponentialLoss:
            return math.log(first / y)
        return math.log(math.expm1(first) / math.expm1(y))

    def b(y):
        R = psi_path(y) / (q * math.sqrt(alpha) * f.hard_margin)
        w = [x + R for x in norms]
        total = (math.sqrt(sum(x * x for x in norms)) + R) ** 2
        greatest = min(
            sum(math.prod(w[:l] + w[l + 1 :]) ** 2 for l in range(depth)), depth * (total / depth) ** (depth - 1)
        )
        C = np.array(
            [[0.0 if i == j else math.prod(w[k] for k in range(depth) if k not in (i, j)) for j in range(depth)]
             for i in range(depth)]
        )  # fmt: skip
        K = min(16 * y, f.smoothness)
        G = min(4 * y, math.sqrt(2 * f.smoothness * y))
        return K * c**2 * greatest + G * c * float(np.linalg.eigvalsh(C)[-1])

    betas = bounds.betas(q, alpha)
    fine = first * np.exp(-np.linspace(0.0, 80.0, 4001))
    values = np.array([b(y) for y in fine])
    for i in (0, 1, 40, 130, 280, len(betas) - 1):
        below = values[fine <= bounds.levels[i] * (1 + 1e-12)]
        most = float(below.max(initial=b(bounds.levels[i])))
        # From above; a cell has a ratio of e^{1/32} at first and of e^{1/4} further down.
        assert most * (1 - 1e-9) <= betas[i] <= most * (1.05 if i == 0 else 1.4 if i < len(betas) - 1 else 2.0)
    assert (np.diff(betas) <= 0).all() and betas[-1] < 1e-9 * betas[0]


def test_the_curvature_below_the_last_level_still_falls():
    """From `u ≥ p (1 + y)` on, `e^{−u} ω^p` falls, with p = 2(L − 1) and `ω' ≤ (1 + y) ω/u`."""
    for depth in (2, 3, 5):
        shapes = [(2, 3), *[(3, 3)] * (depth - 2), (3, 1)]
        for size in (0.1, 10.0):
            bounds = of(lf.LogisticLoss(X, Y), [size * np.eye(*s) for s in shapes])
            last = float(bounds.levels[-1])
            assert last <= 1 and math.log(bounds.levels[0] / last) >= 2 * (depth - 1) * (1 + last)


def test_the_floor_is_that_of_descents_without_a_margin(rng):
    f = lf.ExponentialLoss(X, Y)
    bounds = of(f, [rng.standard_normal((2, 3)), rng.standard_normal((3, 1))], 0.5)
    for drift in (0.0, 0.1, 1.0):
        assert bounds.alpha(drift) == DescentBounds(bounds.setting).alphas(drift, 1)[0]
    assert bounds.alpha(0.0) > bounds.alpha(0.1) > bounds.alpha(10.0) == 0.0


def test_what_holds_satisfies_its_conditions(rng):
    found = 0
    for _ in range(5):
        f = lf.ExponentialLoss(X, Y)
        bounds = of(f, [2 * rng.standard_normal((2, 3)), 0.1 * rng.standard_normal((3, 1))])
        for part in (0.3, 0.99, 1.5):
            eta = part * bounds.largest
            held = bounds.at(eta)
            if held is None:
                assert part > 0.9
                continue
            found += 1
            assert held.alpha == bounds.alpha(held.drift) > 0
            np.testing.assert_array_equal(held.betas, bounds.betas(held.share, held.alpha))
            assert 1 - eta * held.betas[0] / 2 > held.share > 0 and eta * bounds.levels[0] / held.share < held.drift
            np.testing.assert_allclose(held.spans, eta * (1 - eta * held.betas / 2), rtol=1e-8)
        assert bounds.at(10 * bounds.largest) is None
        eta = bounds.advise()
        held, best = bounds.at(eta), 0.0
        for other in np.geomspace(eta / 30, bounds.largest, 25):
            there = bounds.at(other)
            best = max(best, 0.0 if there is None else other * there.share * there.alpha)
        assert eta * held.share * held.alpha > 0.9 * best  # a scan over the drift, and eight shares
    assert found > 7


# --- why there is none ---------------------------------------------------------------------------------------------


def test_reasons():
    f, deep = lf.ExponentialLoss(X, Y), [2 * np.eye(2), np.ones((2, 1))]
    assert "imbalance the start more" in of(f, [np.zeros((2, 2)), np.zeros((2, 1))]).why
    assert "not finite" in of(f, [np.array([[-1e4], [1e4]])]).why
    assert "declare smoothness=" in of(user(f, tail_constant=2.4), [np.zeros((2, 1))]).why
    assert "declare tail_smoothness=" in of(user(f, tail_constant=2.4, smoothness=9.0), deep).why
    assert "too small for float64" in of(f, [np.array([[660 / 3], [-660 / 4]])]).why
    assert "out of reach of float64" in of(f, [np.array([[643 / 3], [-643 / 4]])]).why
    for bounds in (of(user(f, tail_constant=2.4, smoothness=99.0), [np.zeros((2, 1))]), of(f, deep)):
        assert bounds.why == ""
        g = bounds.guarantee(1e9)
        assert not g.applies and g.reason.startswith("the step 1e+09 is too large: about ")
    with pytest.raises(ValueError, match="no step size is certified: no bound on λ_min"):
        lf.safe_step_size(f, [np.zeros((2, 2)), np.zeros((2, 1))])


def test_a_declared_tail_is_certified_like_the_loss():
    f, deep = lf.ExponentialLoss(X, Y), [2 * np.eye(2), np.array([[1.0], [0.5]])]
    mine = user(f, tail_constant=f.hard_margin, tail_smoothness=f.tail_smoothness)
    ours, theirs = of(mine, deep), of(f, deep)
    # ‖∇f‖ ≤ sqrt(2κ) y instead of sqrt(κ) y
    assert 0.8 * theirs.advise() < ours.advise() <= theirs.advise() * 1.001
    assert ours.guarantee(1e-3).name == "tail, descent" and "tail constant" in ours.guarantee(1e-3).facts
    eta = lf.safe_step_size(mine, deep)
    assert eta == ours.advise()
    best = lf.certify(mine, deep, algorithm="descent").best
    assert best.steps_to([0.1, 1e-6]).tolist() == ours.guarantee(eta).steps_to([0.1, 1e-6]).tolist()


def test_dominance_comes_first_where_it_is_known():
    Z = np.eye(2)
    both = lf.Objective(
        lambda W: 0.5 * float(((W - Z) ** 2).sum()), lambda W: W - Z, shape=(2, 2), minimizer=Z, minimum=0.0,
        strong_convexity=1.0, smoothness=1.0, tail_constant=0.1,
    )  # fmt: skip
    net = [np.eye(2), 0.9 * np.eye(2)]
    # The minimiser is declared here and exact there, so the allowance for its rounding differs.
    assert lf.safe_step_size(both, net) == near(lf.safe_step_size(lf.MatrixFactorization(Z), net), rel=1e-6)
    names = {g.name for g in lf.certify(both, net, algorithm="descent").guarantees}
    assert {"descent, any depth", "tail, descent"} <= names


# --- against runs --------------------------------------------------------------------------------------------------


def draw(rng):
    """Return a separable problem, and a start of one to four layers with an imbalance."""
    n, m, depth = int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(1, 5))
    U = rng.standard_normal((n, m))
    A = rng.standard_normal((int(rng.integers(1, 9)), n)) * rng.choice([0.3, 1.0, 3.0])
    labels = np.where(A @ U > 0, 1.0, -1.0)
    widths = (n, *rng.integers(max(n, m), 7, depth - 1).tolist(), m)
    sizes = rng.choice([0.2, 0.7, 2.0], depth)
    weights = [s * rng.standard_normal(w) for s, w in zip(sizes, itertools.pairwise(widths), strict=True)]
    return A, labels, lf.Network(weights, float(rng.choice([0.5, 1.0, 2.0])))


@pytest.mark.parametrize("loss", [lf.ExponentialLoss, lf.LogisticLoss])
@pytest.mark.parametrize("part", [0.5, 0.999])
def test_no_step_of_a_run_breaks_what_is_certified(loss, part):
    rng, tried, kept = np.random.default_rng(7), 0, 0
    while tried < 25:
        A, labels, net = draw(rng)
        try:
            f = loss(A, labels)
        except ValueError:
            continue
        tried += 1
        bounds = of(f, net.weights, net.scale)
        if bounds.why:
            continue
        eta = part * bounds.largest
        held = bounds.at(eta)
        if held is None:
            continue
        kept += 1
        D = lf.imbalance_matrices(net)
        tail, path, weights = bounds.tail, 0.0, list(net.weights)
        levels, gap = bounds.levels, f.value(net.product())
        curve = bounds.guarantee(eta).curve
        for k in range(40):
            here = net.with_weights(weights)
            G = here.gradient(f.gradient(here.product()))
            squared = sum(float(np.sum(g * g)) for g in G)
            beta = held.betas[max(int(np.searchsorted(-levels, -gap, side="right")) - 1, 0)]
            assert gap <= curve.gap_after(k) * (1 + 1e-9)
            assert squared >= held.alpha * (tail.constant_on(gap) * gap) ** 2 * (1 - 1e-9)
            reach = float(tail.path(levels[0], np.array([gap]))[0]) / (held.share * math.sqrt(held.alpha))
            assert bounds.setting.depth == 1 or path <= reach * (1 + 1e-9) + 1e-12
            drifts = zip(lf.imbalance_matrices(here), D, strict=True)
            assert all(np.linalg.norm(a - b, 2) <= held.drift * (1 + 1e-9) + 1e-14 for a, b in drifts)
            weights = [W - eta * g for W, g in zip(weights, G, strict=True)]
            after = f.value(net.with_weights(weights).product())
            # The rounding of the gap is relative to it.
            assert after <= gap - eta * (1 - eta * beta / 2) * squared + 1e-12 * gap
            path, gap = path + eta * math.sqrt(squared), after
    assert kept >= 8


@pytest.mark.parametrize("loss", [lf.ExponentialLoss, lf.LogisticLoss])
@pytest.mark.parametrize("widths", [(3, 1), (3, 8, 1)])
def test_descent_is_certified_and_kept(loss, widths, rng):
    Z = rng.standard_normal((12, 3)) + np.array([2.0, 0.0, 0.0])
    y = np.where(Z[:, 0] > 0, 1.0, -1.0)
    f, net = loss(Z, y), lf.init.gaussian(widths, std=0.5, rng=1)
    eta = lf.safe_step_size(f, net)
    cert = lf.certify(f, net, algorithm="descent")
    assert cert.step_size == eta and cert.best.name == "exponential tail, descent" and cert.rate == 0
    assert "steps to 1e-6" in str(cert) and math.isfinite(cert.steps_to(1e-6))
    for every in (1, 7):
        check = cert.check(lf.gradient_descent(f, net, step_size=eta, steps=200, every=every))
        assert check.holds, check.violation
        assert 1 - 1e-9 <= check.worst_slack < math.inf
    # O(1/k): ten times the steps for a tenth of the gap, once the start is forgotten
    assert cert.steps_to(1e-9) / cert.steps_to(1e-8) == pytest.approx(10, rel=1e-2)


# --- the step of the current weights -------------------------------------------------------------------------------


def test_the_local_step_of_one_layer_is_that_of_the_level():
    f, net = lf.ExponentialLoss(X, Y), lf.Network([np.zeros((2, 1))], 0.5)
    run = lf.gradient_descent(f, net, schedule=lf.schedules.local_smoothness(), steps=5)
    np.testing.assert_allclose(run.step_sizes, 1 / (0.25 * 16 * run.gap[:-1]), rtol=1e-7)


@pytest.mark.parametrize("loss", [lf.ExponentialLoss, lf.LogisticLoss])
@pytest.mark.parametrize("form", ["step", "two layers", "printed"])
def test_the_local_step_lowers_the_loss_by_half_of_the_first_order(loss, form):
    rng, seen = np.random.default_rng(3), 0
    while seen < 12:
        A, labels, net = draw(rng)
        if form != "step" and net.depth != 2:
            continue
        try:
            f = loss(A, labels)
        except ValueError:
            continue
        seen += 1
        run = lf.gradient_descent(f, net, schedule=lf.schedules.local_smoothness(form), steps=30)
        fall = 0.5 * run.step_sizes * (run.rate * run.gap)[:-1]
        assert (run.gap[1:] <= run.gap[:-1] - fall * (1 - 1e-8) + 1e-12 * run.gap[:-1]).all()
    assert run.gap[-1] < run.gap[0]
