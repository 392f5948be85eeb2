"""Published results on descent: two scalar layers up to the edge, alternating descent, adapters, and limits."""

import math
from decimal import Decimal, localcontext
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates.prior import descents
from linflow.certificates.setting import Setting
from linflow.certificates.step_bounds import LevelStepCurve

EDGE = "Beneventano & Woodworth 2025"


def scalar(target, a, b, mu=1.0, c=1.0):
    """Return `½μ(w − w*)²` and the layers 1×h and h×1."""
    X = np.array([[math.sqrt(mu)]])
    return lf.LinearRegression(X, X * target), lf.Network([np.atleast_2d(a), np.atleast_2d(b).T], c)


def row_of(f, net, step):
    return descents.beneventano2025(Setting(f, net, "descent" if step is not None else "flow"), step)


def drawn(rng):
    """Return a random pair with its target, the output scale, μ and a step; the steps crowd at the edge."""
    h, c, mu = int(rng.integers(1, 4)), float(rng.choice([1.0, 0.5, 2.0])), float(rng.choice([1.0, 4.0, 0.25]))
    target = float(rng.choice([0, 1, -1, 2.0]) * rng.random())
    a, b = (10 ** rng.uniform(-1.5, 1) * rng.standard_normal(h) for _ in range(2))
    if rng.random() < 0.6:
        b *= (target + rng.uniform(-0.5, 0.5)) / (c * float(a @ b))
    f, net = scalar(target, a, b, mu, c)
    target = float(f.minimizer[0, 0])
    Q = c * np.linalg.norm(a + b) * np.linalg.norm(a - b)
    sharp = c * mu * math.hypot(2 * target, Q)
    return f, net, target, mu, c, sharp, rng.uniform(*((0.02, 2.1) if rng.random() < 0.5 else (1.7, 2.02))) / sharp


def exact_gaps(a, b, target, mu, c, step, steps):
    """Yield the gaps of descent in 60 digits, by the definition."""
    with localcontext() as context:
        context.prec = 60
        A, B = ([Decimal(float(x)) for x in W.ravel()] for W in (a, b))
        T, M, C, S = map(Decimal, (target, mu, c, step))
        for _ in range(steps + 1):
            error = C * sum(x * y for x, y in zip(A, B, strict=True)) - T
            yield M * error * error / 2
            slope = S * C * M * error
            A, B = (
                [x - slope * y for x, y in zip(A, B, strict=True)],
                [y - slope * x for x, y in zip(A, B, strict=True)],
            )


def test_no_descent_of_two_scalar_layers_exceeds_its_bound():
    rng, applied, edge = np.random.default_rng(7), 0, 0
    for _ in range(150):
        f, net, target, mu, c, sharp, step = drawn(rng)
        row = row_of(f, net, step)
        if not row.applies:
            continue
        applied, edge = applied + 1, edge + (step * sharp > 1.8)
        a, b = net.weights
        gaps = list(exact_gaps(a, b, target, mu, c, step, 60))
        first = max(Decimal(1), gaps[0] / Decimal(row.gap))  # the first gap is itself rounded
        for k, gap in enumerate(gaps[1:], 1):
            # 60 digits carry errors down to 10⁻⁵⁸, and gaps down to 10⁻⁹⁰ to all digits that count.
            assert gap < Decimal("1e-90") or gap <= Decimal(row.gap_at(k * step)) * first
    assert applied > 80 and edge > 20


def test_the_three_numbers_of_a_step():
    """The recursion behind the theorem: error, imbalance and norm after one step, for vectors and any sign."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        a, b = rng.standard_normal((2, 3))
        target, s = rng.standard_normal(), 0.3 * rng.random()
        w, e = float(a @ b), float(a @ b) - target
        norm2 = float(a @ a + b @ b)
        Q = np.linalg.norm(a + b) * np.linalg.norm(a - b)
        assert norm2 == pytest.approx(math.hypot(2 * w, Q), rel=1e-12)
        a, b = a - s * e * b, b - s * e * a
        assert float(a @ b) - target == pytest.approx(e * (1 - s * norm2 + s * s * e * w), rel=1e-9, abs=1e-14)
        after = np.linalg.norm(a + b) * np.linalg.norm(a - b)
        assert after == pytest.approx(abs(1 - (s * e) ** 2) * Q, rel=1e-9)


def test_the_sharpness_is_that_of_the_minimum_of_the_flow():
    f, net = scalar(1.5, [2.0, -0.3], [0.4, 0.7], mu=2.25, c=0.5)
    row = row_of(f, net, 0.01)
    end = lf.gradient_flow(f, net, until=1e-20).final
    a, b = (W.ravel() for W in end.weights)
    jacobian = 0.5 * np.concatenate([b, a])  # of the product; the Hessian at a minimum is μ times its square
    assert row.facts["sharpness"] == pytest.approx(2.25 * float(jacobian @ jacobian), rel=1e-8)
    assert row.facts["edge"] == pytest.approx(2 / row.facts["sharpness"], rel=1e-15)
    assert row.facts["imbalance"] == pytest.approx(0.5 * np.hypot(2.4, 0.4) * np.hypot(1.6, 1.0), rel=1e-12)


def rho(t, Q, s, x, kept):
    """ρ of docs/published.md, written out."""
    least = math.sqrt(4 * max(abs(t) - x, 0.0) ** 2 + (kept * Q) ** 2)
    return max(1 - s * (1 - s * x / 2) * least, s * math.sqrt(4 * (abs(t) + x) ** 2 + Q**2) - 1)


@pytest.mark.parametrize("s", [0.02, 0.2, 0.44])  # the first or the second of the two decides
@pytest.mark.parametrize("t", [1.0, -1.0, 0.1])
def test_the_bound_is_the_formula(t, s):
    """The factors of the first and the last level, and what the imbalance keeps, from docs/published.md."""
    a, b = 2.0, 0.9 * t / 2.0
    f, net = scalar(t, [a], [b])
    row = row_of(f, net, s)
    e, Q = abs(a * b - t), abs(a * a - b * b)
    assert isinstance(row.curve, LevelStepCurve)
    kept = 1.0
    for _ in range(200):
        kept = 1 - (s * e) ** 2 / (1 - rho(t, Q, s, e, kept) ** 2)
    # What the imbalance keeps is found from below, to 10⁻⁶, and a decrease is lowered by 10⁻⁹ for rounding.
    first = 1 - rho(t, Q, s, e, kept) ** 2
    assert row.curve.decrease == pytest.approx(first, rel=3e-6, abs=0)
    assert row.curve.decrease < first * (1 - 5e-10)
    last = 1 - rho(t, Q, s, e * float(lf.certify(f, net).setting.levels[-1] / row.gap) ** 0.5, kept) ** 2
    assert row.curve.decreases[-1] == pytest.approx(last, rel=3e-6, abs=0)
    pair = descents._Pair.of(Setting(f, net, "descent"))
    theta = pair._kept(s)
    assert theta <= 1 - (s * pair.error) ** 2 / (1 - pair._factor(s, pair.error, theta) ** 2)  # the induction closes
    assert theta == pytest.approx(kept, rel=3e-6, abs=0)


def test_the_factors_of_a_step_with_their_rounding(monkeypatch):
    e = 2.0**-10
    monkeypatch.setattr(descents, "EPS", e)
    pair = descents._Pair(0.5, 1.0, 0.75, 1.0)
    for s, x, kept in ((0.1, 0.5, 0.5), (0.1, 2.0, 1.0), (0.8, 0.5, 0.5)):
        least = math.hypot(2 * max(1.0 - x, 0.0), kept * 0.75) * (1 - 8 * e)
        most = s * math.hypot(2 * (1.0 + x), 0.75) * (1 + 8 * e)
        expected = max(1 - s * least * (1 - s * x / 2), most - 1)
        assert pair._factor(s, x, kept) == pytest.approx(expected, rel=1e-12, abs=0)
        assert (most - 1 == expected) is (s == 0.8)


def test_each_level_has_the_factor_of_its_errors(monkeypatch):
    """The error on a level is √(level/first) of the first, raised by its rounding, and 10⁻⁹ of a decrease is left."""
    monkeypatch.setattr(descents, "EPS", 2.0**-10)
    pair, asked = descents._Pair(0.5, 1.0, 0.75, 1.0), []
    monkeypatch.setattr(pair, "_kept", lambda s: 0.25)
    monkeypatch.setattr(pair, "_factor", lambda s, x, kept: asked.append((s, x, kept)) or 0.5 + x / 2)
    levels = np.array([4.0, 1.0, 0.25])
    curve = pair.curve(SimpleNamespace(levels=levels), 0.125)
    errors = [0.5, 0.25 * (1 + 4 * 2.0**-10), 0.125 * (1 + 4 * 2.0**-10)]
    np.testing.assert_allclose(asked, [(0.125, x, 0.25) for x in errors], rtol=1e-14)
    decreases = [(1 - (0.5 + x / 2) ** 2) * (1 - 1e-9) for x in errors]
    np.testing.assert_allclose(curve.decreases, decreases, rtol=1e-13)


def test_nothing_is_kept_of_an_imbalance_whose_steps_do_not_shrink_the_error(monkeypatch):
    pair = descents._Pair(0.5, 1.0, 0.75, 1.0)
    monkeypatch.setattr(pair, "_factor", lambda s, x, kept: 0.5 if kept == 1 else 1.0)
    assert pair._kept(0.5) == 0.0
    monkeypatch.setattr(pair, "_factor", lambda s, x, kept: 0.5)
    left = 1 - (0.5 * 0.5) ** 2 / 0.75 * (1 + 1e-12)
    assert pair._kept(0.5) == pytest.approx(left * (1 - 1e-6), rel=1e-14, abs=0)
    monkeypatch.setattr(pair, "_factor", lambda s, x, kept: 0.999)
    assert pair._kept(0.5) == 0.0  # 0.0625/(1 − 0.999²) is more than 1
    # What is left stays below what is tried: 1 − 0.0025/(1 − ρ²) = 0.99 θ, sixty times.
    monkeypatch.setattr(pair, "_factor", lambda s, x, kept: math.sqrt(1 - 0.0025 / (1 - 0.99 * kept)))
    assert pair._kept(0.1) == 0.0
    tried = []

    def never_quite(s, x, kept):  # 0.999 of what is tried is left
        tried.append(kept)
        return math.sqrt(1 - (s * x) ** 2 / (1 - 0.999 * kept))

    monkeypatch.setattr(pair, "_factor", never_quite)
    assert pair._kept(0.02) == 0.0 and len(tried) == 60
    assert descents._Pair(0.0, 1.0, 0.75, 1.0)._kept(0.1) == 1.0


def test_rounding_of_the_first_error_is_allowed_for():
    f, net = lf.MatrixFactorization([[2.0]]), scalar(2.0, [1.0, 1.0], [1.5, 0.5])[1]  # w = 2 exactly
    eps = np.finfo(float).eps
    size = math.sqrt(2.0) * math.sqrt(2.5)
    assert descents._Pair.of(Setting(f, net, "descent")).error == pytest.approx(
        16 * eps * (size + 2.0), rel=1e-12, abs=0
    )


@pytest.mark.parametrize("part", [0.5, 1.0, 1.9, 1.99])
def test_it_reaches_the_edge(part):
    f, net = scalar(1.0, [2.0], [0.5001])
    sharp = row_of(f, net, None).facts["sharpness"]
    row = row_of(f, net, part / sharp)
    # Near the minimum the error shrinks by |1 − ηλ|, and the first error is 10⁻⁴ of w*.
    assert isinstance(row.curve, LevelStepCurve)
    assert row.curve.final_factor == pytest.approx((1 - part) ** 2, rel=1e-2, abs=1e-3)
    past = row_of(f, net, 2.001 / sharp)
    assert not past.applies and "is too large for it (the sharpness where the flow ends allows" in past.reason


def test_why_it_does_not_apply():
    f, net = scalar(1.0, [3.0], [3.0])
    assert row_of(f, net, 0.2).reason == "the step 0.2 is too large for it: η times the error 8 is not below 1"
    assert row_of(f, net, None).reason == descents.FOR_DESCENT
    just = descents._Pair(8.0, 1.0, 0.75, 1.0).curve(SimpleNamespace(levels=np.ones(1)), 0.125)
    assert just == "the step 0.125 is too large for it: η times the error 8 is not below 1"
    wide = lf.MatrixFactorization(np.eye(2))
    assert "the product is 2×2" in row_of(wide, lf.init.gaussian((2, 3, 2), rng=0), 0.1).reason
    deep = row_of(lf.MatrixFactorization(np.eye(1)), lf.init.gaussian((1, 1, 1, 1), rng=0), 0.1)
    assert deep.reason == "it is for 2 layers, but the network has 3"
    flat, balanced = scalar(0.0, [1e-3], [1e-3])
    assert "the imbalance and w* are 0" in row_of(flat, balanced, 0.1).reason
    schedule = lf.certify(f, net, algorithm="descent", schedule=lf.schedules.xu2025(f, net, 0.001))
    found = next(row for row in schedule.prior if row.name == EDGE)
    assert found.reason == "it is for a constant step, but this certificate is for a schedule"


def test_the_certificate_passes_its_step():
    f, net = scalar(1.0, [2.0], [0.4])
    cert = lf.certify(f, net, algorithm="descent", step_size=0.2)
    row = next(row for row in cert.prior if row.name == EDGE)
    assert row.applies and row.gap_at(1.0) == row_of(f, net, 0.2).gap_at(1.0) > 0
    assert row.citation == ("beneventano2025", "linflow")
    run = lf.gradient_descent(f, net, step_size=0.2, steps=40)
    assert np.all(run.gap - f.rounding(run.final) <= row.gap_at(run.t) * (1 + 1e-9))  # rounding of the steps


def test_a_start_at_the_minimum():
    f, net = scalar(1.0, [2.0], [0.5])
    row = row_of(f, net, 0.1)
    assert row.gap_at(0.3) <= row.gap


def factorization(kappa, rng, n=12, m=9, rank=3):
    U, V = (np.linalg.qr(rng.standard_normal((k, rank)))[0] for k in (n, m))
    return (U * np.geomspace(1.0, 1 / kappa, rank)) @ V.T


def alternating(A, X, Y, step, until=1e-4, most=200_000):
    """Return the steps of alternating descent on `½‖XY − A‖²` to `until` of the first error, and X at the end."""
    first = np.linalg.norm(X @ Y - A)
    for k in range(most):
        if np.linalg.norm(X @ Y - A) <= until * first:
            return k, X
        X = X - step * (X @ Y - A) @ Y.T
        Y = Y - step * X.T @ (X @ Y - A)
    raise AssertionError("it did not arrive")


def test_alternating_descent_takes_steps_of_the_order_that_is_promised():
    rng, d = np.random.default_rng(3), 6
    taken = {}
    for kappa in (2.0, 4.0, 8.0):
        A = factorization(kappa, rng)
        X, Y = A @ rng.standard_normal((9, d)) / math.sqrt(d), 1e-3 * rng.standard_normal((d, 9))
        row = descents.ward2023(Setting(lf.MatrixFactorization(A), lf.Network([X, Y]), "descent"))
        assert not row.applies and "alternating descent" in row.reason and descents.UNREAD in row.reason
        assert row.facts["κ"] == pytest.approx(kappa, rel=1e-9) and row.facts["rank"] == 3
        assert row.facts["off the range"] < 1e-12
        step = 0.5 / max(np.linalg.norm(X, 2) ** 2, 1.0)
        taken[kappa], end = alternating(A, X, Y, step)
        # The first factor stays in the range of A, whatever the unit.
        for unit in (1e-8, 1.0):
            f = lf.MatrixFactorization(unit * A)
            assert descents._off_range(Setting(f, lf.Network([end, Y])))["off the range"] < 1e-12
    for kappa in (2.0, 4.0):  # twice κ asks for four times the steps at most; the draws differ by a small factor
        assert taken[2 * kappa] / taken[kappa] < 3 * 4
    outside = descents.ward2023(Setting(lf.MatrixFactorization(A), lf.init.gaussian((12, d, 9), rng=0), "descent"))
    U = np.linalg.svd(A)[0][:, 3:]
    W = lf.init.gaussian((12, d, 9), rng=0).weights[0]
    assert outside.facts["off the range"] == pytest.approx(np.linalg.norm(U.T @ W) / np.linalg.norm(W), rel=1e-9)


def test_a_large_and_a_zero_factor():
    rng, d, kappa = np.random.default_rng(5), 5, 3.0
    A = factorization(kappa, rng)
    f = lf.MatrixFactorization(A)
    net = lf.Network([A @ rng.standard_normal((9, d)), np.zeros((d, 9))])
    for algorithm in ("flow", "descent"):
        row = descents.xu2024(Setting(f, net, algorithm))
        assert not row.applies and descents.UNREAD in row.reason and "no layer here is 0" not in row.reason
        assert row.facts["steps of order"] == pytest.approx((d / (d - 3 + 1) * kappa) ** 2, rel=1e-9)
        assert row.facts["smaller layer"] == 0
    drawn_at_random = descents.xu2024(Setting(f, lf.init.gaussian((12, d, 9), rng=0)))
    assert "no layer here is 0 (the smaller has norm" in drawn_at_random.reason
    narrow = descents.xu2024(Setting(f, lf.init.gaussian((12, 2, 9), rng=0)))
    assert narrow.reason == "it needs a width of at least the rank of W*: the width is 2, the rank 3; widen it"
    equal = descents.xu2024(Setting(f, lf.init.gaussian((12, 3, 9), rng=0)))
    assert equal.facts["steps of order"] == pytest.approx((3 * kappa) ** 2, rel=1e-9)
    X = np.diag([1.0, 2.0])
    assert "whitened data" in descents.xu2024(Setting(lf.LinearRegression(X, X), lf.init.gaussian((2, 2, 2)))).reason
    nothing = descents.xu2024(Setting(lf.MatrixFactorization(0 * A), net))
    assert nothing.reason == "W* = 0, so there is nothing to learn"


@pytest.mark.parametrize(("part", "rank"), [(1.5e-12, 2), (0.5e-12, 1)])
def test_singular_values_below_a_part_of_the_largest_count_as_0(part, rank):
    net = lf.Network([np.array([[3.0, 0.0], [0.0, 4.0]]), np.eye(2)])  # as wide as the rank, or wider by one
    setting = Setting(lf.MatrixFactorization(4 * np.diag([1.0, part])), net)
    facts = descents.xu2024(setting).facts
    kappa = 1 / part if rank == 2 else 1.0
    assert facts["rank"] == rank and facts["κ"] == pytest.approx(kappa, rel=1e-3)  # a part of 1e-12 has few digits
    assert facts["steps of order"] == pytest.approx((2 / (3 - rank) * facts["κ"]) ** 2, rel=1e-12)
    assert descents._off_range(setting)["off the range"] == pytest.approx(0.8 * (rank == 1), rel=1e-12, abs=0)
    assert "it is for alternating descent" in descents.ward2023(setting).reason
    zero = Setting(setting.objective, lf.Network([0 * net.weights[0], net.weights[1]]))
    assert descents._off_range(zero)["off the range"] == 0.0


def test_results_without_a_bound_on_the_loss():
    f, net = lf.MatrixFactorization(np.diag([3.0, 1.0])), lf.init.gaussian((2, 3, 2), rng=0)
    limit = descents.nguegnang2021(Setting(f, net, "descent"))
    assert (
        "for two layers a global minimum from almost every start" in limit.reason and descents.UNREAD in limit.reason
    )
    deep = descents.nguegnang2021(Setting(f, lf.init.gaussian((2, 3, 3, 2), rng=0), "descent"))
    assert "for three layers or more a minimum over the matrices of some rank" in deep.reason
    assert descents.nguegnang2021(Setting(f, net)).reason == descents.FOR_DESCENT
    adapter = descents.mu2025(Setting(f, net, "descent"))
    assert "it bounds the least gradient norm" in adapter.reason and descents.UNREAD in adapter.reason
    assert adapter.facts["size of the pair"] == pytest.approx(
        sum(float(np.sum(W**2)) for W in net.weights), rel=1e-12
    )
    assert descents.mu2025(Setting(f, net)).reason == descents.FOR_DESCENT
    assert not any(row.applies for row in (limit, deep, adapter))
    tails = lf.ExponentialLoss(np.eye(2), np.array([1.0, -1.0]))
    two = descents.mu2025(Setting(tails, lf.init.gaussian((2, 3, 1), rng=0), "descent"))
    assert "no smoothness K is known" in two.reason


def test_small_steps_end_at_a_global_minimum_of_two_layers():
    """What Nguegnang, Rauhut & Terstiege say of two layers, on random starts."""
    rng = np.random.default_rng(0)
    for seed in range(5):
        f, net = lf.MatrixFactorization(rng.standard_normal((3, 2))), lf.init.gaussian((3, 2, 2), rng=seed)
        assert lf.gradient_descent(f, net, step_size=0.02, steps=20_000, until=1e-6).result.ok
