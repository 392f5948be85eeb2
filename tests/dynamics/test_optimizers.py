"""Runs with layer rates, weight decay, momentum, friction and mini-batches, against literal twins.

Tolerances: a step rounds weights of size 1 by about 1e-16, so 60 steps differ by less than 1e-13 and imbalances of
size 10 by less than 1e-13. Flows run at rtol 1e-10 a step and are compared with an integration at 1e-12 to 1e-7.
"""

import itertools

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import linflow as lf
from linflow.dynamics.field import GradientField
from linflow.dynamics.motion import Motion, MotionLaw
from linflow.model.optimizer import Batches, Optimizer, difference

RATES = (1.0, 4.0, 0.3)
CASES = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.8, "nesterov": True},
    {"weight_decay": 0.2},
    {"layer_rates": RATES},
    {"momentum": 0.7, "weight_decay": 0.2},
    {"momentum": 0.7, "weight_decay": 0.2, "nesterov": True},
    {"momentum": 0.7, "weight_decay": 0.2, "layer_rates": RATES},
    {"momentum": 0.7, "weight_decay": 0.2, "layer_rates": RATES, "nesterov": True},
    {"momentum": 0.7, "weight_decay": 0.2, "layer_rates": (1.0, 4.0, 4.0)},
]


@pytest.fixture
def problem(rng):
    X, Y = rng.standard_normal((12, 3)) / 3, rng.standard_normal((12, 2))
    net = lf.init.gaussian((3, 5, 4, 2), std=0.5, rng=rng)
    return lf.LinearRegression(X, Y), lf.Network(net.weights, 1.5)


def gradients(f, weights, scale, rows):
    """The gradient of `N/|B| Σ_{i∈B} ½‖y_i − x_iW‖²` in every layer, one product at a time."""
    X, Y = f.X[rows], f.Y[rows]
    G = len(f.X) / len(X) * X.T @ (scale * X @ np.linalg.multi_dot(weights) - Y)
    found = []
    for l in range(len(weights)):
        left, right = np.eye(len(G)), np.eye(G.shape[1])
        for W in weights[:l]:
            left = left @ W
        for W in reversed(weights[l + 1 :]):
            right = W @ right
        found.append(scale * left.T @ G @ right.T)
    return found


def sgd(f, net, etas, batches, momentum=0.0, nesterov=False, weight_decay=0.0, layer_rates=None):
    """The steps of torch.optim.SGD, as its documentation writes them."""
    weights, buffers = [W.copy() for W in net.weights], None
    rates = layer_rates or [1.0] * net.depth
    for eta, rows in zip(etas, batches, strict=False):
        g = [G + weight_decay * W for G, W in zip(gradients(f, weights, net.scale, rows), weights, strict=True)]
        buffers = g if buffers is None else [momentum * b + one for b, one in zip(buffers, g, strict=True)]
        step = [one + momentum * b for one, b in zip(g, buffers, strict=True)] if nesterov else buffers
        step = g if momentum == 0 else step
        weights = [W - eta * r * d for W, r, d in zip(weights, rates, step, strict=True)]
    return weights


class Jumping:
    """A schedule whose steps change by factors."""

    def step(self, iterate):
        return 0.004 * (1 + iterate.k % 3)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_steps_and_the_law_of_the_imbalance(problem, options, rng):
    f, net = problem
    given = [rng.choice(12, 5, replace=False) for _ in range(7)]
    for schedule, batches in itertools.product((None, Jumping()), (None, given)):
        steps = {"step_size": 0.01} if schedule is None else {"schedule": schedule}
        run = lf.gradient_descent(f, net, steps=60, record=("law_error",), batches=batches, **steps, **options)
        assert run.result is lf.Result.STEPS_DONE
        rows = itertools.cycle([np.arange(12)] if batches is None else batches)
        twin = sgd(f, net, run.step_sizes, rows, **options)
        for W, V in zip(run.final.weights, twin, strict=True):
            np.testing.assert_allclose(W, V, atol=1e-13)
        assert run.law_error.max() < 1e-13 and run.stats.imbalance_drift > 1e-3
        assert run.optimizer == Optimizer.of(3, batches=Batches.of(batches, None, None), **options)


def test_a_law_that_does_not_fit_is_off_by_its_worst_layer(problem):
    f, net = problem
    field = GradientField(f, net)
    motion = Motion(Optimizer.of(3), field)
    law, y = MotionLaw(motion, field), field.flatten(net.weights)
    u = motion(y, 0 * y)
    assert motion.v is None and (u == 0).all()  # no velocity is kept
    assert law.error(0.0, field.at(y)) == 0
    law.D = [D + size * np.eye(len(D)) for D, size in zip(law.D, (3.0, 0.5), strict=True)]
    assert law.error(0.0, field.at(y)) == pytest.approx(3.0 * np.sqrt(5), rel=1e-14)
    one = GradientField(f, lf.Network([net.product()]))
    law = MotionLaw(Motion(Optimizer.of(1), one), one)
    assert law.error(0.0, one.at(one.flatten(one.network.weights))) == 0.0  # no two layers


def test_the_law_in_the_form_of_the_documentation(problem):
    """`D⁺ − D = μ (η/η')(D − D' + η'²B') − 2ηλD + η²B`, with B that of the buffer, for changing steps."""
    f, net = problem
    mu, decay = 0.6, 0.3
    etas = 0.01 * (1 + np.arange(12) % 3)
    imbalances, squares, buffers, weights = [], [], None, [W.copy() for W in net.weights]

    def of(layers):
        return layers[0].T @ layers[0] - layers[1] @ layers[1].T

    for eta in etas:
        g = [G + decay * W for G, W in zip(gradients(f, weights, net.scale, np.arange(12)), weights, strict=True)]
        buffers = g if buffers is None else [mu * b + one for b, one in zip(buffers, g, strict=True)]
        imbalances.append(of(weights))
        squares.append(of(buffers))
        weights = [W - eta * b for W, b in zip(weights, buffers, strict=True)]
    imbalances.append(of(weights))
    for k in range(1, len(etas)):
        before, D, after = imbalances[k - 1 : k + 2]
        change = mu * etas[k] / etas[k - 1] * (D - before + etas[k - 1] ** 2 * squares[k - 1])
        change += -2 * etas[k] * decay * D + etas[k] ** 2 * squares[k]
        np.testing.assert_allclose(after - D, change, atol=1e-13)


def test_drawn_batches_are_epochs_without_repetition(problem):
    f, net = problem
    draws = Batches.of(None, 5, 3).draws(12)
    epoch = [next(draws) for _ in range(3)]
    assert [len(rows) for rows in epoch] == [5, 5, 2] and sorted(np.concatenate(epoch)) == list(range(12))
    runs = [lf.gradient_descent(f, net, step_size=0.01, steps=9, batch_size=5, seed=s) for s in (3, 3, 4)]
    assert (runs[0].gap == runs[1].gap).all() and (runs[0].gap != runs[2].gap).any()
    again = Batches.of(None, 5, 3).draws(12)
    twin = sgd(f, net, [0.01] * 9, again)
    np.testing.assert_allclose(runs[0].final.weights[1], twin[1], atol=1e-13)
    assert any("no rate is claimed" in note for note in runs[0].notes)
    # The mean over the batches of an epoch, weighted by size, is the whole gradient.
    W = net.product()
    mean = sum(len(rows) / 12 * f.batch_gradient(W, rows) for rows in epoch)
    np.testing.assert_allclose(mean, f.gradient(W), atol=1e-12)


@pytest.mark.parametrize("loss", [lf.LogisticLoss, lf.ExponentialLoss])
def test_batches_of_a_classification(loss, rng):
    X = rng.standard_normal((8, 2))
    f = loss(X, np.sign(X @ [1.0, -0.5]))
    W = rng.standard_normal((2, 1))
    parts = [np.array([0, 3, 4]), np.array([1, 2, 5, 6, 7])]
    mean = sum(len(rows) / 8 * f.batch_gradient(W, rows) for rows in parts)
    np.testing.assert_allclose(mean, f.gradient(W), rtol=1e-12)
    run = lf.gradient_descent(f, lf.init.gaussian((2, 3, 1), rng=0), step_size=0.01, steps=6, batches=parts, every=3)
    assert len(run.t) == 3 and len(run.step_sizes) == 6
    last = lf.gradient_descent(f, lf.init.gaussian((2, 3, 1), rng=0), step_size=0.01, steps=5, batches=parts, every=3)
    np.testing.assert_allclose(last.t, [0.0, 0.03, 0.05], rtol=1e-14)


@pytest.mark.parametrize(
    "options",
    [
        {"layer_rates": RATES},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "layer_rates": RATES},
        {"friction": 1.0},
        {"friction": 0.4, "layer_rates": RATES},
        {"friction": 0.4, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_flows(problem, options):
    f, net = problem
    run = lf.gradient_flow(f, net, t_max=2.0, times=(0.7,), rtol=1e-10, **options)
    rates = options.get("layer_rates", (1.0,) * 3)
    decay, a = options.get("weight_decay", 0.0), options.get("friction")
    ends = np.cumsum([W.size for W in net.weights])

    def force(y):
        weights = [part.reshape(W.shape) for part, W in zip(np.split(y, ends[:-1]), net.weights, strict=True)]
        found = gradients(f, weights, net.scale, np.arange(12))
        return np.concatenate([-(r * (G + decay * W)).ravel() for r, G, W in zip(rates, found, weights, strict=True)])

    y, count = np.concatenate([W.ravel() for W in net.weights]), ends[-1]
    first = y if a is None else np.concatenate([y, 0 * y])
    slope = (
        (lambda t, z: force(z))
        if a is None
        else (lambda t, z: np.concatenate([z[count:], force(z[:count]) - a * z[count:]]))
    )
    twin = solve_ivp(slope, (0, 2.0), first, "DOP853", t_eval=[0.7, 2.0], rtol=1e-12, atol=1e-14).y[:count]
    for k, found in enumerate((run.network_at(0.7), run.final)):
        np.testing.assert_allclose(np.concatenate([W.ravel() for W in found.weights]), twin[:, k], atol=1e-7)
    assert run.stats.gap_error < 1e-6 and found.scale == net.scale
    between = run.network_at(1.1).product()
    if a is None:  # the gap between the steps is that of the weights there
        assert run.gap_at(1.1) == pytest.approx(f.gap(between), rel=1e-6)


def test_the_imbalance_of_a_flow_with_decay_falls_exactly(problem):
    f, net = problem
    run = lf.gradient_flow(f, net, t_max=2.0, weight_decay=0.3, record="law_error")
    assert run.law_error.max() < 1e-8 < run.stats.imbalance_drift  # the integrator's tolerance
    for D, first in zip(lf.imbalance_matrices(run.final), lf.imbalance_matrices(net), strict=True):
        np.testing.assert_allclose(D, np.exp(-0.6 * 2.0) * first, atol=1e-8)
    plain = lf.gradient_flow(f, net, t_max=1.0, record="law_error")
    assert plain.law_error.max() < 1e-8
    for bad in ({"friction": 1.0}, {"weight_decay": 0.1, "layer_rates": RATES}):
        with pytest.raises(ValueError, match="no law in closed form"):
            lf.gradient_flow(f, net, t_max=1.0, record="law_error", **bad)


def test_a_flow_with_decay_ends_where_it_stands_still(problem):
    f, net = problem
    run = lf.gradient_flow(f, net, weight_decay=0.3)
    assert run.result is lf.Result.STATIONARY and "leave the weight decay out" in run.notes[-1]
    G = run.final.gradient(f.gradient(run.final.product()))
    for one, W in zip(G, run.final.weights, strict=True):
        np.testing.assert_allclose(one, -0.3 * W, atol=1e-10)


def test_a_heavy_ball_overshoots_and_arrives(problem):
    f, net = problem
    run = lf.gradient_flow(f, net, until=1e-6, friction=0.5)
    assert run.result is lf.Result.TARGET and (np.diff(run.gap) > 0).any()
    one = lf.gradient_flow(lf.MatrixFactorization([[1.0]]), [np.array([[3.0]])], t_max=4.0, friction=0.5)
    w = np.sqrt(1 - 0.0625)  # ẅ + ½ẇ + w = 1 has this solution
    away = 2 * np.exp(-0.25 * one.t) * (np.cos(w * one.t) + 0.25 / w * np.sin(w * one.t))
    np.testing.assert_allclose(one.gap, 0.5 * away**2, atol=1e-7)


def test_runs_with_layer_rates_are_plain_runs_of_scaled_layers(problem):
    f, net = problem
    rates = (4.0, 16.0, 0.25)  # their roots are exact
    scaled = Optimizer.of(3, layer_rates=rates).coordinates(net)
    assert scaled.scale == 1.5 * 2 * 4 * 0.5 and (scaled.weights[1] == net.weights[1] / 4).all()
    run = lf.gradient_flow(f, net, until=1e-4, layer_rates=rates, record=("least_eigenvalue", "imbalance_drift"))
    twin = lf.gradient_flow(f, scaled, until=1e-4, record=("least_eigenvalue", "imbalance_drift"))
    for name in ("t", "gap", "rate", "least_eigenvalue", "imbalance_drift"):
        np.testing.assert_array_equal(getattr(run, name), getattr(twin, name))
    np.testing.assert_array_equal(run.final.weights[1], 4 * twin.final.weights[1])
    plain = lf.gradient_flow(f, net, until=1e-2, layer_rates=(1, 1, 1))
    assert plain.optimizer.plain and (plain.gap == lf.gradient_flow(f, net, until=1e-2).gap).all()


def test_wide_layers_are_reduced_except_under_decay(rng):
    f, net = lf.MatrixFactorization(rng.standard_normal((3, 2))), lf.init.gaussian((3, 300, 2), 0.05, rng=rng)
    for options in ({"momentum": 0.8}, {"layer_rates": (1, 4)}, {"weight_decay": 0.5}):
        narrow, full = (
            lf.gradient_descent(f, net, step_size=0.02, steps=30, reduce=way, **options) for way in (True, False)
        )
        for A, B in zip(narrow.final.weights, full.final.weights, strict=True):
            np.testing.assert_allclose(A, B, atol=1e-13)
    flow = lf.gradient_flow(f, net, t_max=0.5, weight_decay=0.5)
    np.testing.assert_allclose(
        lf.imbalance_matrices(flow.final)[0], np.exp(-0.5) * lf.imbalance_matrices(net)[0], atol=1e-8
    )


def test_mini_batches_compute_the_whole_loss_where_it_is_recorded_only(problem):
    f, net = problem
    run = lf.gradient_descent(f, net, step_size=0.01, steps=20, batch_size=4, every=10, momentum=0.5)
    assert len(run.t) == 3 and run.stats.evaluations == 20 + 3
    stopped = lf.gradient_descent(f, net, step_size=0.02, steps=4000, batch_size=4, every=50, until=0.5)
    assert stopped.result is lf.Result.TARGET and stopped.stats.steps % 50 == 0
    every = lf.gradient_descent(f, net, schedule=lf.schedules.constant(0.01), steps=5, batch_size=12)
    np.testing.assert_allclose(every.gap, lf.gradient_descent(f, net, step_size=0.01, steps=5).gap, rtol=1e-12)


def test_an_interrupted_run_with_batches_keeps_its_last_weights(problem):
    f, net = problem
    calls = iter([False, True])
    with pytest.raises(lf.Interrupted) as stop:
        lf.gradient_descent(f, net, step_size=0.01, steps=500, batch_size=4, every=300, stopped=lambda: next(calls))
    run = stop.value.run
    assert run.stats.steps == 100 and len(run.t) == 2 and run.gap[-1] == f.gap(run.final.product())
    with pytest.raises(lf.Interrupted) as stop:
        lf.gradient_flow(f, net, friction=1.0, stopped=lambda: True)
    assert stop.value.run.result is lf.Result.INTERRUPTED and len(stop.value.run.t) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer_rates": (1, 2)}, ValueError, "one positive number for each of the 3 layers"),
        ({"layer_rates": (1, 2, 0)}, ValueError, "layer_rates"),
        ({"momentum": 1.0}, ValueError, r"a number in \[0, 1\)"),
        ({"momentum": -0.1}, ValueError, "momentum"),
        ({"nesterov": True}, ValueError, "the momentum is 0"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay"),
        ({"batch_size": 13}, ValueError, "only 12 samples"),
        ({"batches": [[0, 12]]}, ValueError, "index 12"),
        ({"batches": []}, ValueError, "at least one batch"),
        ({"batches": [[0.5]]}, ValueError, r"batches\[0\]"),
        ({"batches": [[0]], "batch_size": 2}, ValueError, "leave one out"),
        ({"batches": [[0]], "seed": 2}, ValueError, "batches are given"),
        ({"seed": 2}, ValueError, "no batches are drawn"),
    ],
)
def test_options_that_are_refused(problem, options, error, message):
    f, net = problem
    with pytest.raises(error, match=message):
        lf.gradient_descent(f, net, step_size=0.01, steps=2, **options)


def test_options_that_fit_nothing(problem):
    f, net = problem
    target = lf.MatrixFactorization(np.ones((3, 2)))
    with pytest.raises(ValueError, match="not known as a sum over samples"):
        lf.gradient_descent(target, net, step_size=0.01, steps=2, batch_size=2)
    with pytest.raises(ValueError, match="cannot run this: friction 1"):
        lf.gradient_flow(f, net, friction=1.0, engine="compiled")
    with pytest.raises(ValueError, match="friction"):
        lf.gradient_flow(f, net, friction=0.0)


def test_an_optimizer_in_words_and_as_data():
    full = Optimizer.of(
        2, layer_rates=(1, 4), weight_decay=0.1, momentum=0.9, nesterov=True, batches=Batches.of(None, 32, 7)
    )
    words = "layer rates (1, 4), Nesterov momentum 0.9, weight decay 0.1, mini-batches of 32 (seed 7)"
    assert str(full) == words and Optimizer.from_dict(full.to_dict(), 2) == full
    heavy = Optimizer.of(2, friction=2.0)
    assert str(heavy) == "friction 2 (heavy ball)" and Optimizer.from_dict(heavy.to_dict(), 2) == heavy
    given = Optimizer.of(2, batches=Batches.of([[0, 1], [2]], None, None))
    assert str(given) == "2 given mini-batches" and given.to_dict() == {"batches": 2}
    assert Optimizer().plain and str(Optimizer()) == "" and Optimizer.of(2, layer_rates=(1, 1)).plain
    assert Optimizer.of(2, layer_rates=(1, 4)).only_rates and not heavy.only_rates
    assert difference(full, full, "a", "b") == ""
    assert "for the plain gradient and b has friction 2" in difference(Optimizer(), heavy, "a", "b")
    with pytest.raises(TypeError):
        Optimizer.from_dict({"colour": 1}, 2)
    assert Optimizer.of(2, layer_rates=(1, 4), weight_decay=0.5).decays(2) == (0.5, 2.0)


def test_runs_are_pickled_and_copied(problem):
    import pickle

    f, net = problem
    run = lf.gradient_flow(f, net, t_max=0.5, friction=1.0, layer_rates=RATES)
    again = pickle.loads(pickle.dumps(run))
    assert again.optimizer == run.optimizer
    np.testing.assert_array_equal(again.network_at(0.2).weights[0], run.network_at(0.2).weights[0])


def test_what_batches_hold_is_checked_and_drawn_from_seed_0():
    assert Batches.of(None, 4, None) == Batches(4, 0) and Batches.of(None, 4, 3) == Batches(4, 3)
    with pytest.raises(ValueError, match="holds the index 9, and there are 5 samples"):
        next(Batches.of([[0, 9], [1]], None, None).draws(5))
    for rows in ([-1, 2], [2, -1], [[0]], [], [0.5]):
        with pytest.raises(ValueError, match="a list of sample indices, from 0 on"):
            Batches.of([[0], rows], None, None)
