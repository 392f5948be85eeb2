"""The monitor's law of SGD with momentum, weight decay and parameter groups."""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import linflow.torch as lt  # noqa: E402
from linflow.torch._imbalance_law import ImbalanceLaw  # noqa: E402
from linflow.torch._module import Layers  # noqa: E402
from linflow.torch._sgd import Sgd  # noqa: E402

WIDTHS = (4, 6, 12, 3)
RATES = (1.0, 4.0, 0.5)

OPTIONS = [
    {"momentum": 0.9},
    {"momentum": 0.8, "nesterov": True},
    {"momentum": 0.8, "dampening": 0.3},
    {"momentum": 0.9, "weight_decay": 0.2},
    {"momentum": 0.8, "weight_decay": 0.2, "nesterov": True},
    {"momentum": 0.8, "weight_decay": 0.2, "dampening": 0.3},
    {"momentum": 0.5, "weight_decay": 0.2, "maximize": True, "nesterov": True},
]


def make(seed=0, dtype=torch.float64, size=0.5):
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=False, dtype=dtype) for a, b in pairwise(WIDTHS)))
    for layer in model:
        layer.weight.data = size * torch.randn(layer.weight.shape, generator=generator, dtype=dtype)
    X, Y = (torch.randn(20, k, generator=generator, dtype=dtype) for k in (WIDTHS[0], WIDTHS[-1]))
    return model, X, Y


def imbalances(model, rates):
    W = [layer.weight.detach().double().numpy().T / np.sqrt(r) for layer, r in zip(model, rates, strict=True)]
    return [A.T @ A - B @ B.T for A, B in pairwise(W)]


def groups_of(model, rates, options):
    """Parameter groups of which layer l has the rate ρ_l and the decay λ/ρ_l, so that the decays act alike."""
    decay = options.get("weight_decay", 0.0)
    return [
        {"params": layer.parameters(), "lr": 0.003 * r, "weight_decay": decay / r}
        for layer, r in zip(model, rates, strict=True)
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rates", [(1.0,) * 3, RATES], ids=["one rate", "three rates"])
@pytest.mark.parametrize("exact", [True, False])
def test_the_law_holds_for_any_batches_and_schedules(options, rates, exact):
    model, X, Y = make()
    rest = {key: value for key, value in options.items() if key != "weight_decay"}
    optimizer = torch.optim.SGD(groups_of(model, rates, options), lr=0.01, **rest)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (0.0, 1.0, 0.3, 2.0)[k % 4])
    sign, at = (-1.0 if options.get("maximize") else 1.0), np.random.default_rng(1)
    first = imbalances(model, rates)
    with lt.Monitor(model, optimizer, every=4, exact=exact, budget=None, probes=12) as monitor:
        for _ in range(24):
            rows = at.choice(20, 7, replace=False)
            before = imbalances(model, rates)
            optimizer.zero_grad()
            (sign * torch.nn.functional.mse_loss(model(X[rows]), Y[rows])).backward()
            optimizer.step()
            scheduler.step()
    table = monitor.table()
    assert not any("not followed" in note for note in monitor.notes)
    assert (table["law_error"][1:] <= table["rounding"][1:]).all()
    from_where = first if exact else before
    change = max(np.linalg.norm(D - E) for D, E in zip(imbalances(model, rates), from_where, strict=True))
    assert table["change"][-1] == pytest.approx(change, rel=1e-6) and change > 1e-4
    assert table["law"][-1] == pytest.approx(change, rel=1e-6)
    assert any("W_l/√ρ_l, with the rates ρ = (1, 4, 0.5)" in note for note in monitor.notes) == (rates == RATES)


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}])
def test_in_float32_the_law_holds_to_the_stated_rounding(options):
    model, X, Y = make(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, **options)
    with lt.Monitor(model, optimizer, every=10, exact=True, budget=None) as monitor:
        for k in range(60):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(X[k % 3 :: 3]), Y[k % 3 :: 3]).backward()
            optimizer.step()
    table = monitor.table()
    assert (table["law_error"][1:] <= table["rounding"][1:]).all()
    assert table["law"][-1] > 100 * table["law_error"][-1]


def test_a_wrong_momentum_would_be_seen():
    """The law of plain steps, or of another momentum, is far from what momentum does."""
    model, X, Y = make()
    layers = Layers.of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    laws = {mu: ImbalanceLaw(layers, 12) for mu in (0.9, 0.8, 0.0)}
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()
        buffers = [optimizer.state[p]["momentum_buffer"].T for p in model.parameters()]
        for mu, law in laws.items():
            law.add(0.01, 0.0, [p.grad.T for p in model.parameters()], Sgd(momentum=mu), buffers if mu else None)
    errors = {mu: law.compare(layers.weights())[2] for mu, law in laws.items()}
    assert errors[0.9] < 1e-12 and min(errors[0.8], errors[0.0]) > 1e-4
    assert laws[0.9].rounding(layers) == pytest.approx(10 * laws[0.0].rounding(layers), rel=1e-9, abs=0)
    for mu in (1.0, 1.5):  # it goes on in all later steps
        law = ImbalanceLaw(layers, 12)
        law.add(0.01, 0.0, [p.grad.T for p in model.parameters()], Sgd(momentum=mu), buffers)
        law.compare(layers.weights())
        assert law.rounding(layers) == float("inf")


def test_a_resumed_training_starts_from_its_buffers():
    model, X, Y = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()

    for _ in range(5):
        step()
    with lt.Monitor(model, optimizer, every=5, exact=True, budget=None, probes=12, done=5) as monitor:
        for _ in range(10):
            step()
    table = monitor.table()
    assert (table["law_error"][1:] <= table["rounding"][1:]).all() and table["law"][-1] > 1e-3


def test_notes_on_steps_that_are_not_plain():
    model, X, Y = make()
    f = lt.regression(X, Y)
    heavy = lt.Monitor(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), f)
    (note,) = (note for note in heavy.notes if "momentum 0.9" in note)
    assert "smoothness, local_step and safe_step are not of its steps" in note and "not followed" not in note
    heavy.close()
    optimizer = torch.optim.SGD(groups_of(model, RATES, {}), lr=0.01)
    with lt.Monitor(model, optimizer, f, every=1, exact=True, budget=None) as monitor:
        for rate in (0.003, 0.006):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(X), Y).backward()
            optimizer.step()
    assert any("different learning rates" in note for note in monitor.notes)
    assert any("the ratio of the learning rates of the layers changed" in note for note in monitor.notes)
    assert np.isfinite(monitor.table()["law"][1]) and np.isnan(monitor.table()["law"][2])
    for bad in (torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5), optimizer):
        with pytest.raises(ValueError, match=r"momentum|different learning rates"):
            lt.LocalSmoothnessLR(bad, model, f)
