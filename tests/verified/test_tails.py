"""Verified flows of exponential and logistic loss, against flows of 40 digits and against exact derivatives."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy.integrate import DOP853

import linflow as lf
from linflow.verified import tail_march
from linflow.verified.classification import TailGradient
from linflow.verified.convex_descent import ConvexDescentMarch
from linflow.verified.smooth import grown
from linflow.verified.tail_march import TailMarch, _Path, taylor

LOSSES = {"exponential": lf.ExponentialLoss, "logistic": lf.LogisticLoss}
X = np.array([[1.5, -0.5], [0.25, 2.0], [-1.0, -1.25], [0.75, 0.5]])
LABELS = np.sign(X @ np.array([1.0, 0.75]))
TWO = np.column_stack([LABELS, np.sign(X @ np.array([0.5, 1.0]))])


def drawn(widths, seed=1, size=0.7):
    rng = np.random.default_rng(seed)
    return [size * rng.standard_normal(shape) for shape in itertools.pairwise(widths)]


CASES = {
    "two layers": (LABELS, (2, 3, 1), 1.0),
    "two outputs, scaled": (TWO, (2, 3, 2), 0.5),
    "three layers": (LABELS, (2, 3, 2, 1), 1.0),
    "one layer": (TWO, (2, 2), 2.0),
}


def case(loss, name):
    y, widths, scale = CASES[name]
    return LOSSES[loss](X, y), lf.Network(drawn(widths), scale)


# --- a flow of 30 digits -----------------------------------------------------------------------------------------


def matrix(A):
    return mpmath.matrix([[mpmath.mpf(float(x)) for x in row] for row in np.atleast_2d(A)])


class Judge:
    """The loss, its gradient and its flow in mpmath, by formulas of its own."""

    def __init__(self, f, net):
        self.X, self.Y = matrix(f._X), matrix(f._Y)
        self.exponential, self.c = isinstance(f, lf.ExponentialLoss), mpmath.mpf(net.scale)
        self.weights = [matrix(W) for W in net.weights]

    def z(self, weights):
        P = weights[0]
        for W in weights[1:]:
            P = P * W
        Z = self.X * P * self.c
        return mpmath.matrix([[self.Y[i, j] * Z[i, j] for j in range(Z.cols)] for i in range(Z.rows)])

    def loss(self, weights):
        phi = (lambda z: mpmath.exp(-z)) if self.exponential else (lambda z: mpmath.log1p(mpmath.exp(-z)))
        return sum(phi(z) for z in self.z(weights))

    def gradients(self, weights):
        Z = self.z(weights)
        slope = (lambda z: -mpmath.exp(-z)) if self.exponential else (lambda z: -1 / (1 + mpmath.exp(z)))
        A = mpmath.matrix([[self.Y[i, j] * slope(Z[i, j]) for j in range(Z.cols)] for i in range(Z.rows)])
        G, found = self.X.T * A * self.c, []
        for l in range(len(weights)):
            g = G
            for W in weights[:l]:
                g = W.T * g
            for W in reversed(weights[l + 1 :]):
                g = g * W.T
            found.append(g)
        return found

    def after(self, t, steps):
        """Follow the flow by a Runge–Kutta method of order 8."""
        A, B = DOP853.A, DOP853.B
        h, weights = mpmath.mpf(t) / steps, self.weights
        for _ in range(steps):
            slopes = []
            for i in range(DOP853.n_stages):
                at = [W.copy() for W in weights]
                for j in range(i):
                    if A[i, j]:
                        at = [W - h * mpmath.mpf(float(A[i, j])) * g for W, g in zip(at, slopes[j], strict=True)]
                slopes.append(self.gradients(at))
            for b, g in zip(B, slopes, strict=True):
                if b:
                    weights = [W - h * mpmath.mpf(float(b)) * s for W, s in zip(weights, g, strict=True)]
        return weights


def radius_of(series):
    """Return about how far a Taylor series converges."""
    last = math.sqrt(sum(float(np.sum(layer[-1] ** 2)) for layer in series))
    return last ** (-1 / (len(series[0]) - 1))


def norm(matrices):
    return mpmath.sqrt(sum(x * x for M in matrices for x in M))


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_exact_flow_is_within_the_radius_and_its_loss_within_the_bounds(loss, name):
    f, net = case(loss, name)
    enc = lf.enclose(f, net, t_max=2.0**-7)
    assert enc.result == "time limit reached"
    with mpmath.workdps(30):
        judge = Judge(f, net)
        for t in (2.0**-7,):
            coarse, fine = judge.after(t, 16), judge.after(t, 32)
            # The method is of order 8, with coefficients of 16 digits: both are seen in the difference.
            known = norm([a - b for a, b in zip(coarse, fine, strict=True)]) + mpmath.mpf(10) ** -15
            weights, low, high, radius = enc.around(t)
            away = norm([a - matrix(W) for a, W in zip(fine, weights, strict=True)])
            assert away <= radius + known and radius < 1e-9 and known < 1e-9
            value = judge.loss(fine)
            slack = 10 * known * value
            assert low - slack <= value <= high + slack and (high - low) < 1e-8 * high
            speed = norm(judge.gradients(fine))
            rate_low, rate_high = enc.rate_bounds(t)
            assert rate_low - 100 * known <= speed**2 / value <= rate_high + 100 * known
            assert rate_high - rate_low < 1e-6 * rate_high


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_defect_is_an_upper_bound_between_the_nodes_too(loss, name):
    f, net = case(loss, name)
    problem, weights = TailGradient.of(f), [*net.weights]
    for order in (6, 20):
        series = taylor(problem, weights, net.scale, 1.0, order)
        s = 0.1 * radius_of(series)
        path = _Path(problem, series, net.scale, 1.0, s)
        assert path.usable
        with mpmath.workdps(30):
            judge, largest = Judge(f, net), mpmath.mpf(0)
            for t in np.linspace(0, s, 13):
                x = mpmath.mpf(float(t))
                at = [
                    sum((matrix(c) * x**k for k, c in enumerate(layer[1:], 1)), matrix(layer[0])) for layer in series
                ]
                speed = [
                    sum((k * matrix(c) * x ** (k - 1) for k, c in enumerate(layer[2:], 2)), matrix(layer[1]))
                    for layer in series
                ]
                largest = max(largest, norm([a + g for a, g in zip(speed, judge.gradients(at), strict=True)]))
        assert largest <= path.defect()
        if order == 6:  # well above rounding it is tight, up to the constant of Lebesgue
            assert path.defect() < 1.05 * tail_march.LEBESGUE * float(largest)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_size_on_the_ellipse_is_an_upper_bound(loss):
    """`‖θ̃' + ∇L‖` at complex times, where the cosine of an imaginary part can make the loss's slope large."""
    f, net = case(loss, "three layers")
    problem = TailGradient.of(f)
    series = taylor(problem, [*net.weights], net.scale, 1.0, 12)
    s = 0.15 * radius_of(series)
    path = _Path(problem, series, net.scale, 1.0, s)
    assert path.usable
    for angle in np.linspace(0, 2 * np.pi, 33):
        w = tail_march.RHO * np.exp(1j * angle)
        x = 0.5 * s * (1 + 0.5 * (w + 1 / w))
        at = [sum(c * x**k for k, c in enumerate(layer)) for layer in series]
        speed = [sum(k * c * x ** (k - 1) for k, c in enumerate(layer) if k) for layer in series]
        z = problem.Y * (problem.X @ (net.scale * np.linalg.multi_dot(at)))
        slope = np.exp(-z) if problem.exponential else 1 / (1 + np.exp(z))
        G = -net.scale * problem.X.T @ (problem.Y * slope)
        assert np.linalg.norm(G) <= path.slope
        total = 0.0
        for l, v in enumerate(speed):
            g = G
            for W in at[:l]:
                g = W.T @ g
            for W in reversed(at[l + 1 :]):
                g = g @ W.T
            total += np.sum(np.abs(v + g) ** 2)
        assert math.sqrt(total) <= path.most


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("radius", [0.0, 0.01, 0.3])
def test_the_exponent_bounds_the_least_eigenvalue_on_the_tube(loss, radius):
    f, net = case(loss, "three layers")
    problem, s = TailGradient.of(f), 0.05
    series = taylor(problem, [*net.weights], net.scale, 1.0, 12)
    path = _Path(problem, series, net.scale, 1.0, s)
    rng, sizes = np.random.default_rng(0), [W.size for W in net.weights]
    ends, shapes = np.cumsum(sizes)[:-1], [W.shape for W in net.weights]

    def slope(y):
        parts = [part.reshape(shape) for part, shape in zip(np.split(y, ends), shapes, strict=True)]
        there = lf.Network(parts, net.scale)
        return np.concatenate([g.ravel() for g in there.gradient(f.gradient(there.product()))])

    least = math.inf
    for t in (0.0, 0.02, s):
        centre = np.concatenate([sum(c * t**k for k, c in enumerate(layer)).ravel() for layer in series])
        for _ in range(12):
            e = rng.standard_normal(len(centre))
            y, h = centre + radius * e / np.linalg.norm(e), 1e-5
            H = np.array([(slope(y + h * d) - slope(y - h * d)) / (2 * h) for d in np.eye(len(y))])
            least = min(least, float(np.linalg.eigvalsh((H + H.T) / 2)[0]))
            # ‖∇²L‖, which bounds how the speed changes within the tube.
            assert np.linalg.norm(H, 2) <= path.constants(radius).third
    assert path.exponent(radius) >= s * -least


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_loss_is_bounded_at_all_weights_near(loss):
    rng = np.random.default_rng(3)
    problem = TailGradient.of(LOSSES[loss](X, TWO))
    W = rng.standard_normal((2, 2))
    for error in (0.0, 1e-10, 0.3):
        low, high = problem.value(W, error)
        with mpmath.workdps(40):
            judge = Judge(LOSSES[loss](X, TWO), lf.Network([W]))
            true = judge.loss([matrix(W)])
            assert low <= true <= high and (error > 0 or high - low < 1e-11 * high)
            for _ in range(20):
                e = rng.standard_normal((2, 2))
                value = judge.loss([matrix(W + error * e / np.linalg.norm(e) * (1 - 1e-12))])
                assert low <= value <= high


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_the_gradient_counts_its_rounding_and_the_distance_of_the_product(loss, size):
    rng = np.random.default_rng(4)
    f = LOSSES[loss](X, TWO)
    problem, W = TailGradient.of(f), size * rng.standard_normal((2, 2))
    for off in (0.0, 1e-9 * size):
        G, error = problem.gradient(W, np.float64(off))
        for _ in range(10):
            e = rng.standard_normal((2, 2))
            with mpmath.workdps(60):
                at = matrix(W) + mpmath.mpf(off) * matrix(e / (np.linalg.norm(e) * (1 + 1e-12)))
                true = Judge(f, lf.Network([W])).gradients([at])[0]
                assert norm([true - matrix(G)]) <= mpmath.mpf(float(error))
        assert float(error) < 1e-10 * (np.linalg.norm(G) + 1e-140) * max(1.0, size) * (1 + 1e6 * (off > 0))


def test_a_wrong_path_has_a_wide_radius_never_a_wrong_one(monkeypatch):
    """Nothing rests on the Taylor series."""
    f, net = case("logistic", "two layers")
    honest = lf.enclose(f, net, t_max=0.25)

    def bent(problem, weights, c, tau, order):
        series = taylor(problem, weights, c, tau, order)
        series[0][1] *= 1 + 1e-6
        return series

    monkeypatch.setattr(tail_march, "taylor", bent)
    enc = lf.enclose(f, net, t_max=0.25)
    assert enc.radius[-1] > 1e3 * honest.radius[-1]
    low, high = enc.gap_bounds(0.25)
    inner = honest.gap_bounds(0.25)
    assert low <= inner[0] and inner[1] <= high


def test_products_move_by_no_more_than_is_said():
    assert grown([2.0, 3.0], [0.5, 0.25]) == pytest.approx(2.5 * 3.25 - 6, rel=1e-11)
    assert grown([2.0, 3.0], [1e-20, 0.0]) == pytest.approx(3e-20, rel=1e-11)
    assert grown([], []) == 0.0


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_flow_is_proved_to_its_target_and_for_ever(loss):
    f = LOSSES[loss](X, LABELS)
    net = lf.init.imbalanced((2, 4, 1), [3.0], 0.1 * np.ones((2, 1)), rng=0)
    enc = lf.enclose(f, net, until=1e-2)
    assert enc.result == "target proved"
    low, high = enc.time_bounds(1e-2)
    seen = lf.gradient_flow(f, net, until=1e-3).time_to(1e-2)
    assert low * (1 - 1e-6) < seen < high * (1 + 1e-6) and high / low < 1 + 1e-6
    after = enc.certificate
    assert after is not None and after.gap == enc.steps[-1].gap[1] and after.gap_at(1e6) < 1e-3 * after.gap
    assert lf.certify(f, net).check(enc).holds


def test_a_wide_layer_is_narrowed():
    f, net = lf.LogisticLoss(X, LABELS), lf.Network(drawn((2, 50, 1), size=0.3))
    enc = lf.enclose(f, net, t_max=0.5)
    assert enc.steps[0].coefficients[0].shape[2] == 3
    seen = lf.gradient_flow(f, net, t_max=1.0).gap_at(0.5)
    low, high = enc.gap_bounds(0.5)
    assert low * (1 - 1e-7) <= seen <= high * (1 + 1e-7)


def test_what_cannot_be_bounded_ends_the_proof_with_a_reason():
    f = lf.ExponentialLoss(X, LABELS)
    net = lf.Network([np.array([[-1e5], [-1e5]]), np.array([[1.0]])])
    enc = lf.enclose(f, net, until=0.5)
    assert enc.result == "proof ended" and enc.reason and not enc.steps


def test_a_step_too_long_for_the_logistic_loss_is_refused():
    problem = TailGradient.of(lf.LogisticLoss(10 * X, LABELS))
    weights = drawn((2, 3, 1))
    series = taylor(problem, weights, 1.0, 1.0, 20)
    assert not _Path(problem, series, 1.0, 1.0, 1.0).usable
    assert _Path(problem, series, 1.0, 1.0, 1e-4).usable


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CASES)
def test_exact_descent_is_within_the_radius_and_its_loss_within_the_bounds(loss, name):
    f, net = case(loss, name)
    enc = lf.enclose(f, net, algorithm="descent", step_size=0.03, steps=30)
    assert enc.result == "all steps done" and enc.steps == 30 and enc.radius[-1] < 1e-12
    with mpmath.workdps(40):
        judge = Judge(f, net)
        weights = judge.weights
        for k in range(31):
            low, high = enc.gap_bounds(k)
            value = judge.loss(weights)
            assert mpmath.mpf(low) <= value <= mpmath.mpf(high) and high - low < 1e-10 * high
            if k < 30:
                weights = [W - mpmath.mpf(0.03) * g for W, g in zip(weights, judge.gradients(weights), strict=True)]
        off = mpmath.sqrt(sum(mpmath.norm(matrix(a) - b) ** 2 for a, b in zip(enc.weights, weights, strict=True)))
        assert off <= enc.radius[-1]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("eta", [0.02, 0.3, 2.0])
def test_a_disturbance_of_a_descent_stays_within_its_radius(loss, eta):
    """From the edge of a start with a radius, in all directions; small, large and unstable steps."""
    f, net = case(loss, "two layers")
    radius, rng = 1e-5, np.random.default_rng(5)
    march = ConvexDescentMarch(TailGradient.of(f), [*net.weights], net.scale, radius, eta)
    off = rng.standard_normal((12, sum(W.size for W in net.weights)))
    ends = np.cumsum([W.size for W in net.weights])[:-1]

    def slopes(weights):
        return net.with_weights(weights).gradient(f.gradient(net.with_weights(weights).product()))

    def parts(v):
        return [p.reshape(W.shape) for p, W in zip(np.split(v, ends), net.weights, strict=True)]

    around = [parts(np.concatenate([W.ravel() for W in net.weights]) + radius * v / np.linalg.norm(v)) for v in off]
    for _ in range(4):
        if not march.advance():
            break
        around = [[W - eta * g for W, g in zip(w, slopes(w), strict=True)] for w in around]
        for w in around:
            away = math.hypot(*(np.linalg.norm(a - b) for a, b in zip(w, march.weights, strict=True)))
            assert away <= march.radius * (1 + 1e-8)
            value = f.value(net.with_weights(w).product())
            assert march.gap[0] * (1 - 1e-12) <= value <= march.gap[1] * (1 + 1e-12)
    assert march.taken or eta > 1


@pytest.mark.parametrize("loss", LOSSES)
def test_a_descent_of_a_tail_is_proved_to_its_target(loss):
    f, net = case(loss, "two layers")
    enc = lf.enclose(f, net, algorithm="descent", step_size=0.1, until=0.05, steps=3000)
    run = lf.gradient_descent(f, net, step_size=0.1, until=0.05, steps=3000)
    assert enc.result == "target proved" and enc.steps_bounds(0.05) == (run.stats.steps, run.stats.steps)
    rule = lf.schedules.backtracking()
    by_rule = lf.enclose(f, net, algorithm="descent", schedule=rule, until=0.05, steps=3000)
    assert by_rule.result == "target proved" and by_rule.steps < enc.steps


@pytest.mark.parametrize("loss", LOSSES)
def test_the_largest_step_and_the_distance_to_the_flow_are_proved_for_tails_too(loss):
    f, net = case(loss, "two layers")
    eta = lf.safe_step_size(f, net, verified=True, until=0.1, steps=300)
    assert eta.enclosure.result == "target proved" and eta.enclosure.step_size == eta
    run = lf.gradient_descent(f, net, step_size=float(eta), until=0.1, steps=300)
    assert eta.enclosure.steps == run.stats.steps
    coarse, fine = (lf.flow_descent_gap(f, net, step_size=step, until=0.3) for step in (4e-3, 2e-3))
    assert 1.9 < coarse.largest[1] / fine.largest[0] < 2.1 and coarse.largest[1] - coarse.largest[0] < 1e-9


@pytest.mark.parametrize("loss", LOSSES)
def test_a_descent_of_a_tail_by_far_too_large_a_step_ends_with_a_reason(loss):
    f, net = case(loss, "three layers")
    for eta in (1e60, 1e200):
        away = lf.Network([*net.weights[:-1], -4 * net.weights[-1]], net.scale)  # most samples on the wrong side
        enc = lf.enclose(f, away, algorithm="descent", step_size=eta, steps=200)
        assert enc.result in ("diverged", "proof ended") and enc.reason, eta


def test_the_march_stops_where_it_is_told():
    f, net = case("exponential", "two layers")
    march = TailMarch(TailGradient.of(f), [*net.weights], net.scale)
    step = march.advance(2.0**-10)
    assert step is not None and march.t == 2.0**-10 and march.advance(2.0**-10) is None
    assert "too short" in march.trouble
