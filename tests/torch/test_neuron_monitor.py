"""The monitor of neurons: the exact law of SGD in all its forms, and what breaks it."""

import csv
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

import linflow.torch as lt  # noqa: E402 - after the check for PyTorch

nn = torch.nn


def deep(bias=True, dtype=torch.float64):
    torch.manual_seed(3)
    inner = nn.Sequential(nn.ReLU(), nn.Linear(7, 6, bias=bias), nn.LeakyReLU(0.2), nn.Dropout(0.0))
    return nn.Sequential(nn.Linear(5, 7, bias=bias), inner, nn.Identity(), nn.Linear(6, 3, bias=bias)).to(dtype)


def linears(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def literal(model):
    """The imbalances, neuron by neuron, layer by layer."""
    return [
        [
            sum(w.item() ** 2 for w in a.weight[j])
            + (a.bias[j].item() ** 2 if a.bias is not None else 0.0)
            - sum(w.item() ** 2 for w in b.weight[:, j])
            for j in range(a.out_features)
        ]
        for a, b in itertools.pairwise(linears(model))
    ]


def train(model, optimizer, steps=30, *, between=lambda: None, **options):
    X, Y = torch.randn(9, 5, dtype=model[0].weight.dtype), torch.randn(9, 3, dtype=model[0].weight.dtype)
    with lt.NeuronMonitor(model, optimizer, every=10, **options) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = ((model(X) - Y) ** 2).mean()
            loss.backward()
            between()
            optimizer.step()
            monitor.observe(loss)
    return monitor


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05},
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
        {"maximize": True, "lr": 0.01},
    ],
    ids=str,
)
def test_every_form_of_sgd_follows_its_law(options, bias):
    model = deep(bias)
    before = literal(model)
    monitor = train(model, torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options}))
    table = monitor.table()
    assert table["step"].tolist() == [0, 10, 20, 30] and monitor.notes == []
    assert (table["law_error"][1:] <= table["rounding"][1:]).all()
    assert (table["rounding"][1:] < 1e-10).all()
    moved = max(np.linalg.norm(np.subtract(a, b)) for a, b in zip(literal(model), before, strict=True))
    assert table["drift"][-1] == pytest.approx(moved, rel=1e-9, abs=0)  # differences of sums of a dozen squares
    assert table["law"][-1] == pytest.approx(moved, rel=1e-9, abs=0)
    assert table["change"][-1] == pytest.approx(moved, rel=1e-9, abs=0)
    assert moved > 1e-5
    assert np.isfinite(table["loss"][1:]).all() and (table["lr"][1:] == options.get("lr", 0.1)).all()


def test_one_step_of_sgd_literally():
    """`(1 − ηλ)² d + η²(‖∂u‖² + (∂b)² − ‖∂v‖²)`."""
    eta, decay = 0.2, 0.3
    model = deep()
    before = literal(model)
    sgd = torch.optim.SGD(model.parameters(), lr=eta, weight_decay=decay)
    train(model, sgd, 1)
    for (a, b), old, new in zip(itertools.pairwise(linears(model)), before, literal(model), strict=True):
        push = (a.weight.grad**2).sum(1) + a.bias.grad**2 - (b.weight.grad**2).sum(0)
        expected = (1 - eta * decay) ** 2 * np.array(old) + eta**2 * push.numpy()
        np.testing.assert_allclose(new, expected, rtol=0, atol=1e-14)  # of numbers of size 1


def test_different_rates_follow_the_law_of_scaled_layers():
    model = deep(False)
    a, b, c = linears(model)
    groups = [{"params": a.parameters()}, {"params": b.parameters(), "lr": 0.3}, {"params": c.parameters()}]
    monitor = train(model, torch.optim.SGD(groups, lr=0.1, momentum=0.5))
    table = monitor.table()
    assert (table["law_error"][1:] <= table["rounding"][1:]).all() and table["law"][-1] > 1e-4


def test_rates_whose_ratio_changes_end_the_law():
    model = deep(False)
    a, b, c = linears(model)
    groups = [{"params": [*a.parameters(), *b.parameters()]}, {"params": c.parameters()}]
    sgd = torch.optim.SGD(groups, lr=0.1)

    def slower():
        sgd.param_groups[1]["lr"] *= 0.9

    monitor = train(model, sgd, between=slower)
    assert monitor.notes == [
        "the law of the imbalances is not followed: the ratio of the learning rates of the layers changed"
    ]
    assert np.isnan(monitor.table()["law"]).all()


def test_a_law_of_one_step_is_shown_and_a_missing_gradient_ends_it():
    model = deep()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with lt.NeuronMonitor(model, sgd, every=1) as monitor:
        model(torch.ones(1, 5, dtype=torch.float64)).sum().backward()
        sgd.step()
        assert monitor.table()["law"][1] > 0
        model[0].weight.grad = None
        sgd.step()
    assert "a layer had no gradient" in monitor.notes[0] and np.isnan(monitor.table()["law"][2])
    assert monitor._layers.widths == (5, 7, 6, 3)


def test_float32_stays_within_its_rounding():
    model = deep(dtype=torch.float32)
    table = train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)).table()
    assert (table["law_error"][1:] <= table["rounding"][1:]).all() and table["rounding"][-1] < 1e-1


def test_clipping_entry_by_entry_and_written_weights_are_seen():
    model = deep()

    def clip():
        nn.utils.clip_grad_value_(model.parameters(), 1e-3)

    table = train(model, torch.optim.SGD(model.parameters(), lr=0.1), between=clip)
    assert "law_error above rounding" in table.notes[0]
    model = deep()

    def written():
        with torch.no_grad():
            model[0].weight[0, 0] += 1e-3

    assert train(model, torch.optim.SGD(model.parameters(), lr=0.1), between=written).notes
    whole = deep()  # clipping of the whole gradient is a shorter step

    def together():
        nn.utils.clip_grad_norm_(whole.parameters(), 1e-2)

    assert train(whole, torch.optim.SGD(whole.parameters(), lr=0.1), between=together).notes == []


@pytest.mark.parametrize(
    ("prepare", "text"),
    [
        (lambda m: torch.optim.Adam(m.parameters()), "Adam does not step along the gradient"),
        (lambda m: torch.optim.SGD(m[0].parameters(), lr=0.1), "layer 2 is not trained by the optimizer"),
        (lambda m: torch.optim.SGD([p for p in m.parameters() if p.ndim == 2], lr=0.1), "bias of layer 1 is not"),
        (
            lambda m: torch.optim.SGD(
                [
                    {"params": [p for p in m.parameters() if p.ndim == d], "weight_decay": w}
                    for d, w in ((2, 0.1), (1, 0))
                ],
                lr=0.1,
            ),
            "bias of layer 1 has its own options",
        ),
    ],
)
def test_what_has_no_law_says_why(prepare, text):
    model = deep()
    monitor = train(model, prepare(model))
    assert text in monitor.notes[0]
    table = monitor.table()
    assert np.isnan(table["law"]).all() and (table["drift"][1:] > 0).all()


def test_a_bias_of_the_last_layer_may_be_frozen():
    model = deep()
    model[-1].bias.requires_grad_(False)
    monitor = train(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
    table = monitor.table()
    assert monitor.notes == [] and (table["law_error"][1:] <= table["rounding"][1:]).all()


def test_rows_go_into_a_file_and_a_foreign_file_is_left_alone(tmp_path):
    model, path, seen = deep(), tmp_path / "rows.csv", []

    class Writer:
        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

    monitor = train(model, torch.optim.SGD(model.parameters(), lr=0.1), 25, csv=path, writer=Writer(), prefix="a")
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["step"] for row in rows] == ["0", "10", "20", "25"]
    assert float(rows[-1]["drift"]) == monitor.table()["drift"][-1]
    assert all(float(row["lr"]) == 0.1 for row in rows[1:])
    assert np.isnan(monitor.table()["law"][0])  # nothing was predicted yet
    assert ("a/drift", monitor.table()["drift"][1], 10) in seen and ("a/lr", 0.1, 10) in seen
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 5, csv=path)  # an earlier training is replaced
    assert [line.partition(",")[0] for line in path.read_text(encoding="utf-8").splitlines()] == ["step", "0", "5"]
    monitor.close()  # a second time
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(FileExistsError):
        lt.NeuronMonitor(model, torch.optim.SGD(model.parameters(), lr=0.1), csv=path)
    assert path.read_text(encoding="utf-8") == "a,b\n1,2\n"
    assert repr(monitor) == "NeuronMonitor(7, 6 neurons, 25 steps, 4 rows)"
    head, *lines = str(monitor).splitlines()
    assert head.split() == ["step", "lr", "loss", "drift", "change", "law", "law_error", "rounding"]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), "has a Linear where.*use Monitor"),
        (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), "has a Tanh where"),
        (nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.ReLU(), nn.Linear(3, 2)), "has a Dropout where"),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "two linear layers at least"),
        (nn.Sequential(*[nn.Linear(2, 2), nn.ReLU()] * 2), "each used once"),
        (nn.ReLU(), "has a ReLU where"),
    ],
    ids=str,
)
def test_other_models_are_refused(model, text):
    with pytest.raises((TypeError, ValueError), match=text):
        lt.NeuronMonitor(model, torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
