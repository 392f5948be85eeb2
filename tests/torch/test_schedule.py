"""The learning-rate scheduler against the library's own descent, and its statements step by step."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest

import linflow as lf
from linflow import schedules

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

import linflow.torch as lt  # noqa: E402 - after the check for PyTorch
from linflow.torch.smoothness import RULES  # noqa: E402

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is present")),
]


def problem(widths, seed=0, *, size=1.0, dtype=torch.float64, device="cpu"):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((20, widths[0])), rng.standard_normal((20, widths[-1]))
    net = lf.Network([size * rng.standard_normal(s) / s[0] ** 0.5 for s in pairwise(widths)])
    model = torch.nn.Sequential(
        *(torch.nn.Linear(a, b, bias=False, dtype=dtype, device=device) for a, b in pairwise(widths))
    )
    with torch.no_grad():
        for layer, W in zip(model, net.weights, strict=True):
            layer.weight.copy_(torch.as_tensor(W.T))
    return net, model, torch.as_tensor(X).to(device, dtype), torch.as_tensor(Y).to(device, dtype)


def train(model, X, Y, optimizer, scheduler, steps):
    rates, losses = [], []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(X), Y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return np.array(rates), np.array(losses)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("widths", "rule"),
    [
        ((4, 6, 3), "step"),
        ((4, 6, 3), "two layers"),
        ((4, 6, 3), "printed"),
        ((4, 6, 3), "xu2025"),
        ((4, 6, 3), "curvature"),
        ((3, 5, 4, 3), "step"),
        ((2, 3, 3, 3, 2), "step"),
        ((1, 1), "step"),
        ((4, 6, 3), schedules.backtracking()),
    ],
)
def test_the_steps_are_those_of_gradient_descent(widths, rule, device):
    net, model, X, Y = problem(widths, device=device)
    f = lt.regression(X, Y)
    g = lf.LinearRegression(np.sqrt(2 / Y.numel()) * X.cpu().numpy(), np.sqrt(2 / Y.numel()) * Y.cpu().numpy())
    schedule = (
        rule
        if not isinstance(rule, str)
        else schedules.xu2025(g, net)
        if rule == "xu2025"
        else schedules.local_smoothness(rule)
    )
    run = lf.gradient_descent(g, net, schedule=schedule, steps=12, reduce=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, f, rule)
    rates, losses = train(model, X, Y, optimizer, scheduler, 12)
    # Two ways of rounding, amplified by twelve steps; first steps of "xu2025" agree to a search's 1e-3 at worst.
    done = len(run.step_sizes)  # a descent ends where the gap is 0
    assert done >= 3
    np.testing.assert_allclose(rates[:done], run.step_sizes, rtol=1e-6)
    np.testing.assert_allclose(losses[:done], run.loss[:-1], rtol=1e-6)
    assert all(isinstance(lr, float) for lr in scheduler.get_last_lr())


@pytest.mark.parametrize("rule", ["step", "curvature"])
@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 5, 4, 3), (2, 6, 2), (4, 2, 4), (2, 3, 3, 3, 2)])
@pytest.mark.parametrize("size", [0.1, 1.0, 4.0])
def test_each_step_lowers_the_loss_by_half_the_step_times_the_square(widths, rule, size):
    _, model, X, Y = problem(widths, seed=3, size=size)
    f = lt.regression(X, Y)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, f, rule)
    for _ in range(25):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(X), Y)
        loss.backward()
        speed = sum(float(torch.sum(p.grad**2)) for p in model.parameters())
        half = 0.5 * optimizer.param_groups[0]["lr"] * speed
        optimizer.step()
        with torch.no_grad():
            fall = loss.item() - torch.nn.functional.mse_loss(model(X), Y).item()
        # Rounding of the loss, and of the root of a polynomial of degree up to 7, which is lowered by 1e-9.
        rounding = 1e-13 * loss.item() + 1e-6 * half
        assert fall >= half - rounding
        if rule == "curvature":
            assert fall <= half + rounding
        scheduler.step()


def test_the_default_rule_is_the_hessian_where_there_is_one():
    _, model, X, Y = problem((4, 6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    assert lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y)).rule == "curvature"
    own = lf.Objective(
        lambda W: float((W**2).sum()), lambda W: 2 * W, shape=(4, 3), strong_convexity=2.0, smoothness=2.0, like=X
    )
    assert lt.LocalSmoothnessLR(optimizer, model, own).rule == "step"


@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 5, 4, 3), (2, 6, 2), (4, 2, 4), (2, 3, 3, 3, 2), (4, 3)])
def test_the_curvature_is_the_first_step_at_which_the_loss_falls_by_half_the_slope(widths):
    """`ℓ(η) ≤ ℓ − ½η‖∇L‖²` up to the step, and the step is at least that with K in place of the Hessian."""
    for seed in range(5):
        net, model, X, Y = problem(widths, seed)
        f = lt.regression(X, Y)
        net = lt.network(model)
        at, plain = lt.local_smoothness(f, net, "curvature"), lt.local_smoothness(f, net, "step")
        assert lt.local_smoothness(f, net) == at
        # Roots of polynomials, lowered by 1e-9.
        assert at.step >= plain.step * (1 - 1e-8) and at.largest >= plain.largest * (1 - 1e-8)
        G = net.gradient(f.gradient(net.product()))

        def gap(eta, f=f, net=net, G=G):
            return f.gap(lf.Network([W - eta * g for W, g in zip(net.weights, G, strict=True)]).product())

        slope = at.speed**2
        rounding = 1e-12 * at.gap
        for part in np.linspace(0.02, 1, 40):
            eta = part * at.step
            assert gap(eta) <= at.gap - 0.5 * eta * slope + rounding
            assert gap(part * at.largest) <= at.gap + rounding
        # Beyond it: by 1e-6 of the step, less than which its root is not known to.
        eta = at.step * (1 + 1e-6)
        assert gap(eta) > at.gap - 0.5 * eta * slope - 1e-12 * at.gap
        assert abs(gap(at.step) - (at.gap - 0.5 * at.step * slope)) <= 1e-7 * at.gap
        assert abs(gap(at.largest) - at.gap) <= 1e-7 * at.gap
        if len(widths) == 2:  # the exact line search of steepest descent
            assert gap(at.step) <= min(gap(at.step * (1 + x)) for x in (-0.01, 0.01))


def test_the_growing_schedule_grows():
    _, model, X, Y = problem((3, 8, 3), size=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y), "xu2025", first=0.02)
    rates, _ = train(model, X, Y, optimizer, scheduler, 5)
    np.testing.assert_allclose(rates, 0.02 * (1 + 0.02**2) ** (np.arange(5) / 2), rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_saved_state_goes_on_with_the_same_steps(rule):
    def made(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        return optimizer, lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y), rule)

    _, model, X, Y = problem((4, 6, 3))
    optimizer, scheduler = made(model)
    train(model, X, Y, optimizer, scheduler, 7)
    file = io.BytesIO()
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file
    )
    rates, losses = train(model, X, Y, optimizer, scheduler, 6)
    file.seek(0)
    saved = torch.load(file, weights_only=True)  # the state is plain data
    _, other, _, _ = problem((4, 6, 3), seed=9)
    other.load_state_dict(saved["model"])
    optimizer, scheduler = made(other)
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    assert scheduler.last_epoch == 7
    again, same = train(other, X, Y, optimizer, scheduler, 6)
    np.testing.assert_array_equal(again, rates)
    np.testing.assert_array_equal(same, losses)


def test_a_state_of_another_rule_is_refused():
    _, model, X, Y = problem((4, 6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    state = lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y), "step").state_dict()
    with pytest.raises(ValueError, match="the state is of the rule 'step'"):
        lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y), "printed").load_state_dict(state)


def test_it_stands_beside_the_schedulers_of_torch():
    _, model, X, Y = problem((4, 6, 3), dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y))
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    assert optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0]
    _, losses = train(model, X, Y, optimizer, scheduler, 200)
    # float32 losses are rounded at 1e-7 of themselves.
    assert (np.diff(losses) <= 3e-7 * losses[0]).all()
    least = lt.regression(X, Y).minimum
    assert losses[-1] - least <= 1e-3 * (losses[0] - least)


@pytest.mark.parametrize("reduction", ["mean", "sum", "half"])
def test_the_objective_is_the_loss_of_torch(reduction):
    _, model, X, Y = problem((4, 6, 3))
    if reduction == "half":
        loss = 0.5 * torch.sum((model(X) - Y) ** 2)
    else:
        loss = torch.nn.functional.mse_loss(model(X), Y, reduction=reduction)
    loss.backward()
    net, f = lt.network(model), lt.regression(X, Y, reduction)
    # Sums of sixty squares.
    assert abs(f.value(net.product()) - loss.item()) <= 1e-13 * loss.item()
    for layer, G in zip(model, net.gradient(f.gradient(net.product())), strict=True):
        torch.testing.assert_close(layer.weight.grad.T, G, rtol=1e-11, atol=1e-13)


def test_a_gradient_of_another_scale_is_warned_of():
    _, model, X, Y = problem((4, 6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y, "sum"))
    with pytest.warns(UserWarning, match=r"the first gradient is 0\.01667 times that of the objective"):
        train(model, X, Y, optimizer, scheduler, 1)
    train(model, X, Y, optimizer, scheduler, 1)  # once is enough


def test_a_gradient_that_a_closure_computes_is_compared_too():
    _, model, X, Y = problem((4, 6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y, "sum"))

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(X), Y)
        loss.backward()
        return loss

    with pytest.warns(UserWarning, match=r"0\.01667 times"):
        optimizer.step(closure)
    scheduler.step()
    optimizer.step(closure)


def test_mini_batches_and_changed_weights_are_warned_of():
    _, model, X, Y = problem((4, 6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y))
    with pytest.warns(UserWarning, match="not along that of the objective .*mini-batches"):
        train(model, X[:3], Y[:3], optimizer, scheduler, 1)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, lt.regression(X, Y))
    lt.balanced_(model, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="weights were changed after the scheduler was made"):
        train(model, X, Y, optimizer, scheduler, 1)


def test_it_follows_a_warm_up_and_stands_in_a_chain():
    """Other schedulers of PyTorch build on the same interface."""
    _, model, X, Y = problem((4, 6, 3), size=0.5)
    f, optimizer = lt.regression(X, Y), torch.optim.SGD(model.parameters(), lr=0.01)
    warm = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 3)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer, [warm, lt.LocalSmoothnessLR(optimizer, model, f)], milestones=[3]
    )
    rates, losses = [], []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        if len(rates) > 3:
            # What the rule says at the very weights.
            assert rates[-1] == pytest.approx(lt.local_smoothness(f, lt.network(model)).step, rel=1e-12)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(X), Y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert rates[:3] == [0.01] * 3 and (np.diff(losses) < 0).all()


def test_a_monitor_beside_it():
    _, model, X, Y = problem((3, 5, 4, 3))
    f, optimizer = lt.regression(X, Y), torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, f)
    with lt.Monitor(model, optimizer, f, every=1, budget=None) as monitor:
        rates, _ = train(model, X, Y, optimizer, scheduler, 6)
    table = monitor.table()
    np.testing.assert_array_equal(table["lr"][1:], rates)
    # Two implementations of one polynomial and its root.
    np.testing.assert_allclose(table["local_step"][:-1], rates, rtol=1e-6)
    assert (np.diff(table["loss"]) < 0).all()
    assert (table["law_error"][1:] <= table["rounding"][1:]).all()


def test_what_does_not_fit_is_refused():
    _, model, X, Y = problem((4, 6, 3))
    f, parameters = lt.regression(X, Y), list(model.parameters())
    more = [*parameters, torch.nn.Parameter(torch.ones(2))]
    for optimizer, words in (
        (torch.optim.Adam(parameters), "Adam does not step along the gradient"),
        (torch.optim.SGD(parameters, lr=1.0, momentum=0.5), "momentum"),
        (torch.optim.SGD(parameters, lr=1.0, weight_decay=0.1), "weight decay"),
        (torch.optim.SGD(parameters, lr=1.0, maximize=True), "climbs"),
        (torch.optim.SGD(more, lr=1.0), "not layers"),
    ):
        with pytest.raises(ValueError, match=words):
            lt.LocalSmoothnessLR(optimizer, model, f)
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    own = lf.Objective(
        lambda W: float((W**2).sum()), lambda W: 2 * W, shape=(4, 3), strong_convexity=2.0, smoothness=2.0, like=X
    )
    free = lf.Objective(lambda W: float((W**2).sum()), lambda W: 2 * W, shape=(4, 3), strong_convexity=2.0, like=X)
    deep = problem((4, 6, 6, 3))[1]
    for arguments, words in (
        ((optimizer, model, f, "fast"), "rule is 'fast'"),
        ((optimizer, model, own, "curvature"), "quadratic"),
        ((optimizer, model, free), "smoothness"),
        ((optimizer, model, lt.regression(X, X)), "4×4"),
        ((torch.optim.SGD(deep.parameters(), lr=1.0), deep, f, "xu2025"), "two layers"),
    ):
        with pytest.raises(ValueError, match=words):
            lt.LocalSmoothnessLR(*arguments)
    with pytest.raises(ValueError, match="only the rule"):
        lt.LocalSmoothnessLR(optimizer, model, f, first=0.1)


@pytest.mark.slow
def test_it_is_as_fast_as_the_best_constant_step_on_the_digits():
    """The example's autoencoder in float64, its data replaced by a triangular factor of the same objective."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed (the test extra has it)")
    clean = datasets.load_digits().data
    clean = clean - clean.mean(axis=0)
    clean /= np.linalg.norm(clean, 2)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).double().numpy()
    noisy = clean + 0.4 / len(clean) ** 0.5 * noise
    R = np.linalg.qr(np.hstack([noisy, clean]))[1]
    X, Y = R[:, :64].copy(), R[:, 64:].copy()
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=False) for a, b in pairwise((64, 96, 96, 64)))).double()
    net = lf.Network([W.numpy().copy() for W in lt.network(model).weights])
    f = lf.LinearRegression(X, Y)
    targets = (1e-2, 1e-3, 1e-4)

    def reached(gaps):
        gaps = np.asarray(gaps) / gaps[0]
        return [int(np.argmax(gaps <= t)) if (gaps <= t).any() else 10**9 for t in targets]

    # The best of examples/deep_linear_autoencoder.py, to which a search in steps of 0.001 adds nothing, at these.
    constants = (0.61, 0.635, 0.65, 0.665, 0.68)
    found = [lf.gradient_descent(f, net, step_size=eta, steps=500, until=1e-4, reduce=False) for eta in constants]
    best = np.min([reached(run.gap) for run in found], axis=0)
    assert best.tolist() == pytest.approx([45, 139, 337], abs=1)  # rounding may move a crossing by a step
    for rule, ahead in (("curvature", (True, True, True)), ("step", (True, False, True))):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        with torch.no_grad():
            for layer, W in zip(model, net.weights, strict=True):
                layer.weight.copy_(torch.as_tensor(W.T))
        tX, tY = torch.as_tensor(X), torch.as_tensor(Y)
        objective = lt.regression(tX, tY, "half")
        scheduler = lt.LocalSmoothnessLR(optimizer, model, objective, rule)
        gaps = []
        for _ in range(best[-1] + 1):
            optimizer.zero_grad()
            loss = 0.5 * torch.sum((model(tX) - tY) ** 2)
            loss.backward()
            optimizer.step()
            scheduler.step()
            gaps.append(loss.item() - objective.minimum)
        assert (np.array(reached(gaps)) <= best).tolist() == list(ahead)
