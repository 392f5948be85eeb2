"""Verified runs of objectives that users declare, against flows and descents of many digits."""

import itertools
import math

import flint
import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow.verified import declared_march
from linflow.verified.declared import DeclaredGradient
from linflow.verified.declared_march import DeclaredMarch, DeclaredPath
from tests.verified.test_flow import factorization, quadratic
from tests.verified.test_tails import Judge, matrix, norm
from tests.verified_judge import numbers

Y = np.array([[1.5, -0.5], [0.25, -1.0]])
BEND = 4 / (3 * math.sqrt(3))
"""The largest third derivative of log cosh."""


def cosh(**declared):
    """`Σ log cosh(W − Y)`: convex, `K = 1`, not quadratic."""

    def value(W):
        Z = np.abs(W - Y)
        return float(np.sum(Z + np.log1p(np.exp(-2 * Z)) - math.log(2)))

    known = {
        "shape": Y.shape, "minimizer": Y, "minimum": 0.0, "smoothness": 1.0, "convex": True,
        "hessian_lipschitz": BEND, "value_error": 1e-14, "gradient_error": lambda W: 1e-15,
    }  # fmt: skip
    return lf.Objective(value, lambda W: np.tanh(W - Y), **(known | declared))


def declared(f, **more):
    """A quadratic objective, given as functions."""
    size = float(np.linalg.norm(f.minimizer)) + 10
    known = {
        "shape": f.shape, "minimizer": f.minimizer, "minimum": 0.0, "strong_convexity": f.strong_convexity,
        "smoothness": f.smoothness * (1 + 1e-12), "hessian_lipschitz": 0.0, "value_error": 1e-13 * size**2,
        "gradient_error": 1e-14 * size,
    }  # fmt: skip
    return lf.Objective(f.gap, f.gradient, **(known | more))


class CoshJudge(Judge):
    """The loss and its gradient in mpmath."""

    def __init__(self, net):
        self.Y, self.c = matrix(Y), mpmath.mpf(net.scale)
        self.weights = [matrix(W) for W in net.weights]

    def off(self, weights):
        P = weights[0]
        for W in weights[1:]:
            P = P * W
        return P * self.c - self.Y

    def loss(self, weights):
        return sum(mpmath.log(mpmath.cosh(x)) for x in self.off(weights))

    def gradients(self, weights):
        G, found = self.off(weights).apply(mpmath.tanh) * self.c, []
        for l in range(len(weights)):
            g = G
            for W in weights[:l]:
                g = W.T * g
            for W in reversed(weights[l + 1 :]):
                g = g * W.T
            found.append(g)
        return found


NETS = {
    "one layer": ((2, 2), 1.0),
    "two layers": ((2, 3, 2), 1.0),
    "three layers, scaled": ((2, 3, 2, 2), 0.7),
    "narrowed": ((2, 9, 2), 1.0),
}


def net_of(name, size=0.6):
    widths, scale = NETS[name]
    rng = np.random.default_rng(1)
    return lf.Network([size * rng.standard_normal(s) for s in itertools.pairwise(widths)], scale)


@pytest.mark.parametrize("name", NETS)
def test_the_exact_flow_of_a_loss_that_is_not_quadratic_is_within_the_radius(name):
    net, t = net_of(name), 0.25
    enc = lf.enclose(cosh(), net, t_max=t)
    assert enc.result == "time limit reached" and len(enc.steps) > 2 and enc.radius[-1] < 3e-6
    with mpmath.workdps(30):
        judge = CoshJudge(enc.narrowed and net.with_weights(enc.narrowed.weights))
        coarse, fine = judge.after(t, 8), judge.after(t, 16)
        known = norm([a - b for a, b in zip(coarse, fine, strict=True)]) + mpmath.mpf(10) ** -14
        weights, low, high, radius = enc.around(t)
        assert known < 1e-9 and norm([a - matrix(W) for a, W in zip(fine, weights, strict=True)]) <= radius + known
        value = judge.loss(fine)
        assert low - 10 * known <= value <= high + 10 * known and high - low < 1e-4 * high
        speed = norm(judge.gradients(fine)) ** 2 / value
        rate_low, rate_high = enc.rate_bounds(t)
        assert rate_low - 100 * known <= speed <= rate_high + 100 * known and rate_high - rate_low < 1e-3 * rate_high


@pytest.mark.parametrize("draw", [lambda: factorization(3, (2, 2, 2)), lambda: quadratic(11, (2, 2, 2), 1.3)])
def test_the_flow_of_a_declared_quadratic_is_that_of_the_judge(draw):
    f, net, true = draw()
    enc = lf.enclose(declared(f), net, until=1e-3)
    assert enc.result == "target proved"
    for fraction in (0.5, 0.1, 1e-3):
        low, high = enc.time_bounds(fraction)
        assert flint.arb(low) <= true.time_to(fraction) <= flint.arb(high) and high / low - 1 < 5e-3
    for t in np.linspace(0, enc.end, 6):
        low, high = enc.gap_bounds(float(t))
        assert flint.arb(low) <= true.gap(true.at(float(t))) <= flint.arb(high)
    # What holds for ever rests on the declared strong convexity.
    assert enc.certificate is not None and enc.certificate.rate > 0
    assert "a verified run" not in enc.certificate_reason


def test_the_descent_of_declared_objectives_is_that_of_the_judge():
    f, net, true = factorization(3, (2, 2, 2))
    enc = lf.enclose(declared(f), net, algorithm="descent", step_size=0.05, steps=40)
    iterates = true.descent(0.05, 40)
    for k in range(41):
        assert flint.arb(enc.gaps[0, k]) <= true.gap(iterates[k]) <= flint.arb(enc.gaps[1, k])
    assert enc.radius[-1] < 1e-10 and enc.result == "all steps done"
    net = net_of("two layers")
    enc = lf.enclose(cosh(hessian_lipschitz=None), net, algorithm="descent", step_size=0.1, until=1e-4)
    run = lf.gradient_descent(cosh(), net, step_size=0.1, until=1e-4, steps=2000)
    assert enc.steps_bounds(1e-4) == (run.stats.steps, run.stats.steps)


@pytest.mark.parametrize(
    ("left_out", "algorithm", "said"),
    [
        ({"smoothness": None}, "flow", "needs smoothness="),
        ({"convex": False}, "descent", "a verified descent of a user-defined objective also needs convex=True"),
        ({"value_error": None, "gradient_error": None}, "flow", "needs value_error=, gradient_error=;"),
        (
            {"hessian_lipschitz": None},
            "flow",
            "a verified flow of a user-defined objective also needs hessian_lipsch",
        ),
    ],
)
def test_what_is_not_declared_is_named(left_out, algorithm, said):
    f = cosh(**left_out)
    asked = {"algorithm": algorithm, "step_size": 0.1} if algorithm == "descent" else {}
    with pytest.raises(ValueError, match=said):
        lf.enclose(f, net_of("two layers"), **asked)


def test_strong_convexity_is_convexity_and_what_the_proof_rests_on_is_said():
    f = declared(lf.MatrixFactorization(Y))
    assert f.convex and cosh().convex and not cosh(convex=False).convex and cosh().hessian_lipschitz == BEND
    enc = lf.enclose(f, net_of("two layers"), until=0.5)
    assert any("proved for the constants and errors that the objective declares" in note for note in enc.notes)
    with pytest.raises(ValueError, match="Objective cannot be saved"):
        enc.save("proof.nc")


def test_weights_of_another_kind_are_handed_to_the_functions_as_they_are():
    torch = pytest.importorskip("torch")
    T, seen = torch.tensor(Y), []
    f = lf.Objective(
        lambda W: seen.append(type(W)) or 0.5 * float(((W - T) ** 2).sum()), lambda W: W - T, shape=Y.shape,
        minimizer=T, minimum=0.0, strong_convexity=1.0, smoothness=1.0, hessian_lipschitz=0.0,
        value_error=lambda W: 1e-14 if isinstance(W, torch.Tensor) else math.nan, gradient_error=1e-15,
    )  # fmt: skip
    net = lf.Network([torch.tensor(W) for W in net_of("two layers").weights])
    enc = lf.enclose(f, net, until=0.1)
    same = lf.enclose(declared(lf.MatrixFactorization(Y)), net_of("two layers"), until=0.1)
    assert enc.result == "target proved" and set(seen) == {torch.Tensor}
    assert enc.time_bounds(0.1)[1] == pytest.approx(same.time_bounds(0.1)[1], rel=1e-3)


@pytest.mark.parametrize("error", [-1.0, math.nan, math.inf])
def test_an_error_that_is_none_is_refused(error):
    with pytest.raises(ValueError, match="gradient_error gave"):
        lf.enclose(cosh(gradient_error=lambda W: error), net_of("two layers"), until=0.5)


def test_a_wrong_gradient_error_widens_the_radius_by_what_it_says():
    """A gradient that is off by all that is declared: the exact flow is still within the radius."""
    off = 1e-4
    f, net, true = factorization(3, (2, 2, 2))
    plain = declared(f)
    crooked = lf.Objective(
        plain.value, lambda W: f.gradient(W) + off / 2, shape=f.shape, minimizer=f.minimizer, minimum=0.0,
        strong_convexity=1.0, smoothness=1.0, hessian_lipschitz=0.0, value_error=1e-11, gradient_error=off * 1.001,
    )  # fmt: skip
    enc = lf.enclose(crooked, net, t_max=0.5)
    weights, _, _, radius = enc.around(0.5)
    exact = [numbers(V) for V in true.at(0.5)]
    away = math.hypot(*(np.linalg.norm(W - V) for W, V in zip(weights, exact, strict=True)))
    assert 1e-6 < away <= radius < 1e-3


# --- one step ------------------------------------------------------------------------------------------------------


def path_of(name, s=0.25, tau=0.5):
    problem, net = DeclaredGradient.of(cosh(), Y, "flow"), net_of(name)
    march = DeclaredMarch(problem, [*net.weights], net.scale)
    series = march._series(tau, s)
    assert series is not None
    return problem, DeclaredPath(problem, series, net.scale, tau, s), net


@pytest.mark.parametrize("name", ["one layer", "two layers", "three layers, scaled"])
def test_the_defect_and_its_second_derivative_are_bounded_between_the_times_too(name):
    problem, path, net = path_of(name)
    for series in (path.series, [W + 1e-3 * np.sin(np.arange(W.size)).reshape(W.shape) for W in path.series]):
        path = DeclaredPath(problem, series, net.scale, path.tau, path.s)
        s = np.linspace(0, path.s, 4001)
        weights, velocity = path.at(s)[0], path.velocity(s)[0]
        gradients = problem.loss_gradient(weights, np.zeros((len(weights), len(s))), net.scale)[2]
        g = np.concatenate(
            [(v + path.tau * G).reshape(len(s), -1) for v, G in zip(velocity, gradients, strict=True)], 1
        )
        sizes = np.linalg.norm(g, axis=1)
        mean = float(np.sum(sizes[1:] + sizes[:-1])) / 2 * (s[1] - s[0])
        assert mean <= path.defect()[0] * (1 + 1e-6)
        bend = np.linalg.norm(g[2:] - 2 * g[1:-1] + g[:-2], axis=1).max() / (s[1] - s[0]) ** 2
        assert bend <= path.second_derivative() * (1 + 1e-3) + 1e-6
    # The path follows the flow: what is between the times is nearly all of the bound.
    _, path, _ = path_of(name)
    assert path.defect()[0] < 1.1 * path.s * (path.s / 32) ** 2 / 12 * path.second_derivative() + 1e-6 * path.way()


@pytest.mark.parametrize("name", ["two layers", "three layers, scaled"])
@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.1])
def test_the_exponent_bounds_the_least_eigenvalue_on_the_tube(name, radius):
    _, path, net = path_of(name)
    rng, f, ends = np.random.default_rng(2), cosh(), np.cumsum([W.size for W in net.weights])[:-1]

    def slope(y):
        W = [p.reshape(w.shape) for p, w in zip(np.split(y, ends), net.weights, strict=True)]
        one = lf.Network(W, net.scale)
        return np.concatenate([g.ravel() for g in one.gradient(f.gradient(one.product()))])

    most = []
    for s in np.linspace(0, path.s, 9):
        y = np.concatenate([W[0].ravel() for W in path.at(np.array([s]))[0]])
        away = rng.standard_normal(y.size)
        y = y + radius * away / np.linalg.norm(away)
        H = np.array([(slope(y + 1e-5 * e) - slope(y - 1e-5 * e)) / 2e-5 for e in np.eye(y.size)])
        most.append(max(0.0, -float(np.linalg.eigvalsh((H + H.T) / 2)[0])))
    assert path.s * max(most) * 0.9 <= path.exponent(radius) + 1e-9
    assert float(np.mean(most)) * path.s <= path.exponent(radius) + 1e-9
    assert path.exponent(2 * radius + 1e-3) > path.exponent(radius)


def test_values_of_the_gradient_and_of_the_loss_are_bounded_nearby():
    problem, rng = DeclaredGradient.of(cosh(), Y, "flow"), np.random.default_rng(3)
    for _ in range(50):
        W, off = rng.standard_normal((2, 2)), 10.0 ** rng.uniform(-6, 0)
        low, high = problem.gap(W, off)
        G, error = problem.gradient(W, off)
        slope, K = problem.around(problem.at(W, 0.0), off)
        for _ in range(20):
            V = rng.standard_normal((2, 2))
            V = W + off * V / np.linalg.norm(V)
            assert low <= cosh().value(V) <= high
            exact = np.tanh(V - Y)
            assert np.linalg.norm(exact - G) <= error and np.linalg.norm(exact) <= slope and K == 1.0
        assert high - low <= 2 * (np.linalg.norm(G) + 1e-14) * off + off * off + 1e-12


def test_a_march_ends_with_the_reason():
    net = net_of("two layers")
    enc = lf.enclose(cosh(gradient_error=0.5), net, until=1e-3)
    assert enc.result == "proof ended" and enc.reason
    at_rest = lf.enclose(cosh(), [np.zeros((2, 3)), np.zeros((3, 2))], t_max=1.0)
    assert at_rest.result in ("proof ended", "time limit reached")
    march = DeclaredMarch(DeclaredGradient.of(cosh(), Y, "flow"), [*net.weights], 1.0)
    march.t, march.length = 1.0, 1e-17
    assert march.advance() is None and "too short" in march.trouble
    march = DeclaredMarch(DeclaredGradient.of(cosh(), Y, "flow"), [*net.weights], 1.0)
    assert march.advance(2.0**-12) is not None and march.t == 2.0**-12 and march.advance(2.0**-12) is None


def test_a_proof_that_a_disturbance_ended_is_made_again_with_a_smaller_defect(monkeypatch):
    asked, made = [], declared_march.DeclaredMarch.__post_init__
    monkeypatch.setattr(DeclaredMarch, "__post_init__", lambda self: asked.append(self.accuracy) or made(self))
    rng = np.random.default_rng(1)
    net = lf.Network([0.5 * rng.standard_normal(s) for s in ((2, 2), (2, 2), (2, 2))])
    enc = lf.enclose(declared(lf.MatrixFactorization(Y)), net, until=0.05, max_steps=300)
    assert asked[0] == pytest.approx(3e-4 * math.sqrt(0.05), abs=0)
    assert len(asked) == 1 or (len(asked) == 2 and asked[1] < asked[0] / math.e)
    assert enc.result in ("target proved", "step limit reached")
