"""The monitor of training against literal twins: the law, the operator, the safe step, and what is written."""

from __future__ import annotations

import csv
import sys
import types
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import linflow as lf
from linflow import schedules
from linflow.dynamics.descent import Iterate
from linflow.dynamics.field import GradientField

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

import linflow.torch as lt  # noqa: E402 - after the check for PyTorch
from linflow.torch import monitor as monitor_module  # noqa: E402
from linflow.torch._extremes import Extremes  # noqa: E402
from linflow.torch._module import Layers  # noqa: E402
from tests.reference.algebra import tangent_dense  # noqa: E402
from tests.waiting import PATIENCE  # noqa: E402

EPS = np.finfo(float).eps
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is present")),
]


def make_model(widths, seed=0, dtype=torch.float64, device="cpu", size=1.0):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for a, b in pairwise(widths):
        layer = torch.nn.Linear(a, b, bias=False, dtype=dtype, device=device)
        with torch.no_grad():
            layer.weight.copy_(size * torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5)
        layers.append(layer)
    return torch.nn.Sequential(*layers)


def make_data(n, m, count=30, seed=0, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(seed + 100)
    X = torch.randn(count, n, generator=generator, dtype=torch.float64)
    Y = torch.randn(count, m, generator=generator, dtype=torch.float64)
    return X.to(device, dtype), Y.to(device, dtype)


def take_step(model, optimizer, X, Y, sign=1.0):
    optimizer.zero_grad()
    loss = sign * torch.nn.functional.mse_loss(model(X), Y)
    loss.backward()
    optimizer.step()
    return loss


def imbalances(model):
    """The imbalances by their definition, with `W_l = weightᵀ`."""
    W = [layer.weight.detach().double().cpu().numpy().T for layer in model]
    return [A.T @ A - B @ B.T for A, B in pairwise(W)]


@given(
    st.lists(st.integers(1, 7), min_size=3, max_size=5),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
)
@settings(max_examples=20)
def test_the_law_holds_to_rounding_on_mini_batches_with_decay(widths, seed, decay, maximize):
    model, (X, Y) = make_model(widths, seed), make_data(widths[0], widths[-1], seed=seed)
    lr = 0.05
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=decay, maximize=maximize)
    first, law, at = imbalances(model), None, np.random.default_rng(seed)
    size = 1.0
    with lt.Monitor(model, optimizer, every=7, exact=True, budget=None) as monitor:
        for _ in range(14):
            rows = at.choice(len(X), 8, replace=False)
            before = imbalances(model)
            take_step(model, optimizer, X[rows], Y[rows], -1.0 if maximize else 1.0)
            # The twin: each step by the formula, with matrices.
            G = [layer.weight.grad.numpy().T for layer in model]
            norms = [(float(torch.norm(p.detach())), lr * float(torch.norm(p.grad))) for p in model.parameters()]
            size = max([size, *((w + g) ** 2 for w, g in norms)])
            # A descent that diverges leaves float64: a gradient of four layers grows with the seventh power of them.
            assume(size < 1e30)
            kept = (1 - lr * decay) ** 2
            expected = [kept * D + lr**2 * (A.T @ A - B @ B.T) for D, (A, B) in zip(before, pairwise(G), strict=True)]
            for D, E in zip(imbalances(model), expected, strict=True):
                # Roundings of W, of the gradient (30 sums and four products) and of the squares of both.
                assert np.linalg.norm(D - E) <= 100 * EPS * size
        law = [D - D0 for D, D0 in zip(imbalances(model), first, strict=True)]
    table = monitor.table()
    assert table["step"].tolist() == [0, 7, 14]
    drift = max((np.linalg.norm(D) for D in law), default=0.0)
    # 14 steps, each a few roundings of the size of ‖W‖².
    assert table["law_error"][-1] <= 14 * 100 * EPS * size
    for name in ("drift", "change", "law"):
        assert abs(table[name][-1] - drift) <= 14 * 100 * EPS * size


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exact", [True, False])
def test_the_law_of_wide_layers_is_followed_in_a_few_vectors(exact, device):
    widths = (6, 40, 30, 5)
    model = make_model(widths, dtype=torch.float32, device=device)
    X, Y = make_data(6, 5, dtype=torch.float32, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    first = imbalances(model)
    with lt.Monitor(model, optimizer, every=5, exact=exact, budget=None, probes=16) as monitor:
        for k in range(20):
            if k == 19:
                before = imbalances(model)
            take_step(model, optimizer, X, Y)
    table = monitor.table()
    seen = [D - E for D, E in zip(imbalances(model), first if exact else before, strict=True)]
    change = max(np.linalg.norm(D) for D in seen)
    assert (table["law_error"][1:] <= table["rounding"][1:]).all()
    # 16 random vectors estimate a norm to 1/sqrt(2·16) = 18 % for rank one; four such deviations.
    assert 0.3 * change <= table["change"][-1] <= 1.7 * change
    # Far above rounding, so that the comparison says something.
    assert table["law"][1] > 3 * table["law_error"][1]


@pytest.mark.parametrize("cheat", ["writes", "clips"])
def test_what_is_not_descent_shows(cheat):
    model, (X, Y) = make_model((4, 9, 3)), make_data(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lt.Monitor(model, optimizer, every=4, exact=True, budget=None) as monitor:
        for k in range(8):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(X), Y).backward()
            if cheat == "clips" and k == 5:
                torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)
            optimizer.step()
            if cheat == "writes" and k == 5:
                with torch.no_grad():
                    model[0].weight *= 1.001
    error, rounding = monitor.table()["law_error"], monitor.table()["rounding"]
    assert error[1] <= rounding[1]
    assert error[2] > 1e6 * rounding[2]


def test_gradients_clipped_together_keep_the_law():
    model, (X, Y) = make_model((4, 9, 3)), make_data(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lt.Monitor(model, optimizer, every=4, exact=True, budget=None) as monitor:
        for _ in range(8):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(X), Y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    assert (monitor.table()["law_error"][1:] <= monitor.table()["rounding"][1:]).all()


def test_optimisers_without_the_law_are_named():
    cases = [
        (torch.optim.Adam, "Adam does not step along the gradient"),
        (torch.optim.AdamW, "AdamW does not step along the gradient"),
        (torch.optim.RMSprop, "RMSprop does not step along the gradient"),
        (
            lambda p: torch.optim.SGD([{"params": p[:1], "momentum": 0.1}, {"params": p[1:]}], lr=0.2),
            "the layers have different momentum",
        ),
        (lambda p: torch.optim.SGD(p[:1], lr=0.1), "layer 2 is not trained by the optimizer"),
        (torch.optim.LBFGS, "LBFGS does not step along the gradient"),
    ]
    for make, words in cases:
        model, (X, Y) = make_model((3, 4, 2)), make_data(3, 2)
        optimizer = make(list(model.parameters()))
        f = lt.regression(X, Y)

        def closure(model=model, optimizer=optimizer, X=X, Y=Y):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(X), Y)
            loss.backward()
            return loss

        with lt.Monitor(model, optimizer, f, every=1, exact=True, budget=None) as monitor:
            optimizer.step(closure)
        (note,) = (note for note in monitor.notes if words in note)
        left = "computed" if "not trained" in words else "of its steps"
        assert f"smoothness, local_step and safe_step are not {left}" in note
        assert not any("first gradient" in note for note in monitor.notes)
        assert np.isnan(monitor.table()["law"]).all() and np.isfinite(monitor.table()["drift"]).all()


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(0, 10**6), st.sampled_from([0.3, 1.0, 3.0]))
@settings(max_examples=30)
def test_a_row_against_dense_twins(widths, seed, size):
    model, (X, Y) = make_model(widths, seed, size=size), make_data(widths[0], widths[-1], seed=seed)
    f = lt.regression(X, Y)
    row = lt.Monitor(model, None, f).rows[0]
    weights = [layer.weight.detach().numpy().T for layer in model]
    values = np.linalg.eigvalsh(tangent_dense(weights))
    # Eigenvalues of a symmetric matrix of order 25 at most, from products of at most five factors.
    rounding = 1e4 * EPS * max(values[-1], 1e-300)
    assert abs(row["lambda_max"] - values[-1]) <= rounding
    assert abs(row["lambda_min"] - values[0]) <= rounding
    assert abs(row["pl"] - f.pl_constant * row["lambda_min"]) <= 1e-12 * abs(row["pl"])
    loss = torch.nn.functional.mse_loss(model(X), Y)
    loss.backward()
    speed = sum(float(torch.sum(p.grad**2)) for p in model.parameters())
    # Sums of a few hundred squares.
    assert abs(row["loss"] - loss.item()) <= 1e-12 * loss.item()
    assert abs(row["rate"] * row["gap"] - speed) <= 1e-9 * speed + 1e-20
    assert row["rate"] >= row["pl"] - f.pl_constant * rounding
    assert row["rate"] <= 2 * f.smoothness * (values[-1] + rounding)


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=5),
    st.integers(0, 10**6),
    st.sampled_from([0.3, 1.0, 3.0]),
    st.sampled_from(["step", "curvature"]),
)
@settings(max_examples=60)
def test_no_step_up_to_the_safe_one_raises_the_loss(widths, seed, size, rule):
    model, (X, Y) = make_model(widths, seed, size=size), make_data(widths[0], widths[-1], seed=seed)
    f, net = lt.regression(X, Y), lt.network(model)
    at = lt.local_smoothness(f, net, rule)
    field = GradientField(f, net)
    point = field.at(field.flatten(net.weights))
    scheduled = schedules.local_smoothness(rule).step(Iterate(field, point, 0, None))
    # Both are roots of one polynomial of degree up to 9, found from the same coefficients.
    assert abs(at.step - scheduled) <= 1e-6 * scheduled
    assert 0 < at.step < at.largest
    for part in (0.01, 0.3, 0.7, 0.95, 1.0):
        eta = part * at.largest
        gap = field.at(point.y + eta * point.slope).gap
        # Rounding of a loss of this size.
        assert gap <= at.gap + 1e-12 * (at.gap + f.minimum)
    gap = field.at(point.y + at.step * point.slope).gap
    assert gap <= at.gap - 0.5 * at.step * at.speed**2 + 1e-12 * (at.gap + f.minimum)


@pytest.mark.parametrize("widths", [(12, 20, 15, 11), (11, 14, 14, 14, 12), (13, 13, 13, 13)])
def test_extreme_eigenvalues_are_followed(widths):
    model = make_model(widths)
    values = np.linalg.eigvalsh(tangent_dense([layer.weight.detach().numpy().T for layer in model]))
    follow, net = Extremes(), lt.network(model)
    rounding = 1e3 * EPS * values[-1]
    for _ in range(20):
        least, greatest, error = follow(net)
        # A Rayleigh quotient lies between the extreme eigenvalues, and an eigenvalue within its residual.
        assert values[0] - rounding <= least
        assert greatest <= values[-1] + rounding
        assert np.abs(values - least).min() <= error + rounding
    # It stops at a residual of 10⁻³ of the value; that of the value itself is of second order in it.
    assert abs(least - values[0]) <= 1e-3 * values[0]
    assert abs(greatest - values[-1]) <= 1e-3 * values[-1]


def test_a_bottleneck_and_a_blind_objective():
    model, (X, Y) = make_model((5, 2, 4)), make_data(5, 4)
    monitor = lt.Monitor(model, None, lt.regression(X, Y))
    assert monitor.rows[0]["lambda_min"] == 0
    assert any("below min(n, m) = 4" in note for note in monitor.notes)
    # A design of rank 2 sees two rows of W_1 only; γ and T are those of what it sees.
    X = X[:, :2] @ torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = make_model((5, 6, 4))
    f = lt.regression(X, Y)
    row = lt.Monitor(model, None, f).rows[0]
    seen, net = f.effective(lt.network(model))
    expected = np.linalg.eigvalsh(tangent_dense([W.numpy() for W in net.weights]))[0]
    assert abs(row["lambda_min"] - expected) <= 1e-12 * expected
    assert abs(row["pl"] - seen.pl_constant * expected) <= 1e-12 * row["pl"]
    assert row["rate"] >= row["pl"] > 0


def test_numpy_objectives_and_matrices():
    model, (X, Y) = make_model((3, 5, 2)), make_data(3, 2)
    a = lt.Monitor(model, None, lt.regression(X, Y, "half")).rows[0]
    b = lt.Monitor(model, None, lf.LinearRegression(X.numpy(), Y.numpy())).rows[0]
    weights = [layer.weight for layer in model]
    c = lt.Monitor(weights, None, lt.regression(X, Y, "half"), convention="torch").rows[0]
    d = lt.Monitor([W.detach().T for W in weights], None, lt.regression(X, Y, "half")).rows[0]
    for other in (b, c, d):
        # The same numbers by other libraries, and from other memory layouts.
        np.testing.assert_allclose(list(other.values()), list(a.values()), rtol=1e-10, atol=1e-12)


def test_files_and_writers(tmp_path):
    model, (X, Y) = make_model((3, 5, 2)), make_data(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    writer = types.SimpleNamespace(add_scalar=lambda *args: seen.append(args))
    path = tmp_path / "run.csv"
    monitor = lt.Monitor(model, optimizer, every=2, csv=path, writer=writer, budget=None)
    for _ in range(5):
        monitor.observe(take_step(model, optimizer, X, Y))
    assert len(path.read_text().splitlines()) == 1 + 3  # rows come as they are made
    monitor.close()
    monitor.close()
    take_step(model, optimizer, X, Y)
    table = monitor.table()
    assert table["step"].tolist() == [0, 2, 4, 5] and monitor.steps == 5
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, column in table.items():
        np.testing.assert_array_equal([float(row[name]) for row in rows], column)
    assert ("linflow/drift", table["drift"][1], 2) in seen
    assert all(np.isfinite(value) for _, value, _ in seen)
    assert np.isfinite(table["loss"][1:]).all()
    assert str(monitor).splitlines()[0].split()[0] == "step"
    with pytest.raises(TypeError, match="writer is an int"):
        lt.Monitor(model, None, writer=3)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (CI installs it)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, (X, Y) = make_model((3, 5, 2)), make_data(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lt.Monitor(model, optimizer, lt.regression(X, Y), every=2, writer=tmp_path, budget=None) as monitor:
        for _ in range(4):
            take_step(model, optimizer, X, Y)
    events = EventAccumulator(str(tmp_path)).Reload()
    written = [(event.step, event.value) for event in events.Scalars("linflow/lambda_min")]
    # TensorBoard stores float32.
    np.testing.assert_allclose(written, list(zip([0, 2, 4], monitor.table()["lambda_min"], strict=True)), rtol=1e-6)


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        lt.Monitor(make_model((2, 2, 2)), None, writer=tmp_path)


@pytest.mark.parametrize("budget", [0.05, 0.2])
def test_rows_are_put_off_to_keep_the_budget(monkeypatch, budget):
    now = [0.0]
    monkeypatch.setattr(monitor_module.time, "perf_counter", lambda: now[0])
    model, (X, Y) = make_model((3, 4, 2)), make_data(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    record = lt.Monitor._record

    def slow(self):
        now[0] += 1.0
        record(self)

    monkeypatch.setattr(lt.Monitor, "_record", slow)
    monitor = lt.Monitor(model, optimizer, every=10, budget=budget)
    for _ in range(1000):
        now[0] += 0.1
        take_step(model, optimizer, X, Y)
    rows = len(monitor.rows)
    # 1 s a row, 1 s for ten steps.
    assert monitor.overhead <= budget
    assert rows >= 0.7 * budget * now[0]
    assert (monitor.table()["step"] % 10 == 0).all()


def test_steps_counted_by_hand():
    model, (X, Y) = make_model((3, 4, 2)), make_data(3, 2)
    with lt.Monitor(model, None, every=2, exact=True, budget=None) as monitor:
        for _ in range(4):
            model.zero_grad()
            torch.nn.functional.mse_loss(model(X), Y).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(0.1 * p.grad)
            monitor.step(lr=0.1)
    table = monitor.table()
    assert (table["law_error"][1:] <= table["rounding"][1:]).all() and (table["law"][1:] > 0).all()
    assert table["lr"][-1] == 0.1


def test_a_training_that_diverges_is_logged_to_its_end():
    model, (X, Y) = make_model((3, 4, 2), size=3.0), make_data(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    with lt.Monitor(model, optimizer, lt.regression(X, Y), every=1, budget=None) as monitor:
        for _ in range(12):
            take_step(model, optimizer, X, Y)
    assert len(monitor.rows) == 13
    assert np.isnan(monitor.table()["drift"][-1])
    assert any("after 12 steps" in note for note in monitor.notes)


def test_what_fails_in_a_row_does_not_end_the_training(monkeypatch):
    def fails(self, network, trained):
        raise torch.linalg.LinAlgError("linalg.eigh: it did not converge\nat all")

    monkeypatch.setattr(Extremes, "__call__", fails)
    model, (X, Y) = make_model((3, 4, 2)), make_data(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lt.Monitor(model, optimizer, lt.regression(X, Y), every=1, budget=None) as monitor:
        take_step(model, optimizer, X, Y)
    assert "after 1 step: linalg.eigh: it did not converge" in monitor.notes
    assert np.isnan(monitor.table()["lambda_min"]).all() and np.isfinite(monitor.table()["drift"]).all()


def test_weights_of_any_size_that_float64_holds():
    model, (X, Y) = make_model((3, 4, 2), size=1e60), make_data(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with lt.Monitor(model, optimizer, lt.regression(X, Y), every=1, budget=None) as monitor:
        take_step(model, optimizer, X, Y)
    assert len(monitor.rows) == 2 and np.isfinite(monitor.table()["drift"][0])


def test_a_gradient_of_another_loss_is_noted():
    model, (X, Y) = make_model((3, 4, 2)), make_data(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    cases = (
        ("mean", len(X), None),
        ("half", len(X), "the first gradient is 0.033"),
        ("mean", 3, "not along that of the objective"),
    )
    for reduction, rows, words in cases:
        with lt.Monitor(model, optimizer, lt.regression(X, Y, reduction)) as monitor:
            take_step(model, optimizer, X[:rows], Y[:rows])
        assert any("first gradient" in note for note in monitor.notes) is (words is not None)
        assert words is None or words in monitor.notes[0]


def test_frozen_layers_and_weight_decay_are_noted():
    model, (X, Y) = make_model((3, 4, 2)), make_data(3, 2)
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lt.Monitor(model, optimizer, lt.regression(X, Y), every=1, budget=None) as monitor:
        take_step(model, optimizer, X, Y)
    assert any("layer 1 is frozen (requires_grad is False)" in note for note in monitor.notes)
    assert any("lambda_max, pl and rate are those of the layers that are trained" in note for note in monitor.notes)
    model = make_model((3, 4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    with lt.Monitor(model, optimizer, lt.regression(X, Y), every=1, budget=None) as monitor:
        take_step(model, optimizer, X, Y)
    assert ["weight decay 0.01" in note for note in monitor.notes] == [True]
    assert (monitor.table()["law_error"][1:] <= monitor.table()["rounding"][1:]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_training_in_short_floats(dtype):
    model, (X, Y) = make_model((6, 9, 8, 4), dtype=dtype), make_data(6, 4, dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lt.Monitor(model, optimizer, lt.regression(X, Y), every=5, exact=True, budget=None) as monitor:
        for _ in range(40):
            take_step(model, optimizer, X, Y)
    table = monitor.table()
    assert not monitor.notes
    assert (table["law_error"][1:] <= table["rounding"][1:]).all()
    assert all(p.dtype == dtype for p in model.parameters())
    # The loss as float64 sees it falls, by much more than rounding of the weights may change it.
    assert table["gap"][-1] < 0.5 * table["gap"][0]


@pytest.mark.parametrize("kind", ["scaler", "autocast"])
def test_mixed_precision(kind):
    """A scaler undoes its factor before the step; gradients in bfloat16 break the law by more than float32 rounds."""
    model, (X, Y) = make_model((6, 9, 8, 4), dtype=torch.float32), make_data(6, 4, dtype=torch.float32)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
    with lt.Monitor(model, optimizer, lt.regression(X, Y), every=5, exact=True, budget=None) as monitor:
        for _ in range(10):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
                loss = torch.nn.functional.mse_loss(model(X), Y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert ["under autocast" in note for note in monitor.notes] == [True] * (kind == "autocast")


def test_accumulated_gradients_are_one_step():
    model, (X, Y) = make_model((3, 4, 2)), make_data(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with lt.Monitor(model, optimizer, lt.regression(X, Y), every=1, exact=True, budget=None) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            for part in range(3):
                rows = slice(10 * part, 10 * part + 10)
                (torch.nn.functional.mse_loss(model(X[rows]), Y[rows]) / 3).backward()
            optimizer.step()
    assert not monitor.notes and monitor.steps == 3
    assert (monitor.table()["law_error"][1:] <= monitor.table()["rounding"][1:]).all()


def test_a_note_says_where_the_law_is_broken():
    model, (X, Y) = make_model((4, 9, 3)), make_data(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lt.Monitor(model, optimizer, every=2, budget=None) as monitor:
        for k in range(8):
            take_step(model, optimizer, X, Y)
            if k % 2:
                with torch.no_grad():
                    model[0].weight *= 1.001  # after the row: seen at no step
    assert not monitor.notes
    with lt.Monitor(model, optimizer, every=2, budget=None, exact=True) as monitor:
        for _ in range(8):
            take_step(model, optimizer, X, Y)
            with torch.no_grad():
                model[0].weight *= 1.001
    assert ["up to step 2 the imbalances moved by" in note for note in monitor.notes] == [True]


def test_a_training_taken_up_again_counts_on(tmp_path):
    model, (X, Y) = make_model((3, 4, 2)), make_data(3, 2)
    optimizer, path = torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "run.csv"
    for done in (0, 4):
        with lt.Monitor(model, optimizer, every=2, csv=path, budget=None, done=done) as monitor:
            for _ in range(4):
                take_step(model, optimizer, X, Y)
    assert monitor.table()["step"].tolist() == [4, 6, 8]
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 2, 4, 6, 8]  # nothing lost, nothing twice
    with pytest.raises(ValueError, match="done is -1"):
        lt.Monitor(model, None, done=-1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch.compile's own imports
def test_wrapped_and_compiled_models():
    model = make_model((3, 4, 2))
    weights = [p.data_ptr() for p in model.parameters()]
    compiled = torch.compile(model)  # nothing is compiled until it runs
    for wrapped in (
        compiled,
        torch.nn.DataParallel(model),
        torch.nn.DataParallel(compiled),
        [torch.compile(model[0]), model[1]],
    ):
        assert [p.data_ptr() for p in Layers.of(wrapped).parameters] == weights


@pytest.mark.parametrize("part", [0.0, 1e-5])
def test_at_an_optimum_no_direction_is_asked_of_a_gradient_that_is_rounding(part):
    """In float32, whose ε is 1.2·10⁻⁷; 10⁻⁵ of the weights away the gradient of another loss is seen."""
    rng = np.random.default_rng(3)
    X, Y = (torch.as_tensor(rng.standard_normal((40, k)), dtype=torch.float32) for k in (5, 3))
    W = torch.linalg.lstsq(X.double(), Y.double()).solution * (1 + part)
    model = torch.nn.Sequential(torch.nn.Linear(5, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(W.T)
        model[1].weight.copy_(torch.eye(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lt.Monitor(model, optimizer, lt.regression(X, Y)) as monitor:
        torch.nn.functional.mse_loss(model(X), Y, reduction="mean" if part == 0 else "sum").backward()
        optimizer.step()
    assert any("first gradient" in note for note in monitor.notes) is (part > 0)


def test_models_that_are_no_chain():
    Linear, Sequential = torch.nn.Linear, torch.nn.Sequential
    tied, shared = Linear(3, 3, bias=False), Linear(3, 3, bias=False)
    shared.weight = torch.nn.Parameter(tied.weight.detach().T)

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = Linear(2, 2, bias=False)

    class Adapted(Own):
        def __init__(self):
            super().__init__()
            self.lora_A, self.lora_B = Linear(2, 1, bias=False), Linear(1, 2, bias=False)

    cases = [
        (Sequential(Linear(2, 3), Linear(3, 2)), ValueError, "has a bias"),
        (Sequential(Linear(2, 3, bias=False), torch.nn.ReLU()), TypeError, r"model\[1\] is a ReLU"),
        (Own(), TypeError, "Pass the nn.Linear layers as a list"),
        (Adapted(), TypeError, r"take linflow.torch.adapters\(model\), and linflow.lora"),
        (Sequential(tied, tied), ValueError, "tied"),
        (Sequential(tied, shared), ValueError, "tied"),
        (
            Sequential(tied, torch.nn.Dropout(0.5), Linear(3, 3, bias=False)),
            ValueError,
            r"a Dropout\(p=0.5\) in trai",
        ),
        (Sequential(torch.nn.Conv2d(1, 2, 3)), TypeError, r"model\[0\] is a Conv2d"),
        (Sequential(torch.nn.LazyLinear(3, bias=False)), ValueError, "has no weights yet"),
        (Sequential(Linear(2, 2, bias=False, device="meta")), ValueError, "meta device"),
        (Sequential(Linear(2, 3, bias=False), Linear(4, 2, bias=False)), ValueError, "columns of W_1"),
        (Sequential(), ValueError, "no nn.Linear"),
        ([torch.ones(2)], ValueError, "a matrix is needed"),
        ([torch.ones(2, 2, dtype=torch.int64)], TypeError, "floating-point"),
        ("model", TypeError, "model is a str"),
    ]
    for model, error, words in cases:
        with pytest.raises(error, match=words):
            Layers.of(model)
    with pytest.raises(ValueError, match="3×2"):
        lt.Monitor(make_model((3, 4, 2)), None, lf.MatrixFactorization(torch.ones(2, 2, dtype=torch.float64)))
    with pytest.raises(ValueError, match="budget is 1; it is the rows' part of time and must lie in"):
        lt.Monitor(make_model((3, 4, 2)), None, budget=1)
    nested = Sequential(Sequential(Linear(2, 3, bias=False)), torch.nn.Identity(), Linear(3, 1, bias=False))
    assert Layers.of(nested).widths == (2, 3, 1)


def test_the_callback_in_a_loop_like_lightnings(monkeypatch):
    # A package of the same interface: the callback asks no more of Lightning than a base class and these calls.
    fake = types.ModuleType("lightning.pytorch")
    fake.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", fake)
    from linflow.torch import lightning as wrapper

    callback_class = wrapper._define()
    assert issubclass(callback_class, fake.Callback)
    model, (X, Y) = make_model((3, 4, 2)), make_data(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logged = []
    logger = types.SimpleNamespace(log_metrics=lambda values, step: logged.append((step, values)))
    trainer = types.SimpleNamespace(optimizers=[optimizer], loggers=[logger])
    module = types.SimpleNamespace(model=model)
    callback = callback_class(lt.regression(X, Y), every=2, budget=None)
    callback.on_train_start(trainer, module)
    for k in range(5):
        callback.on_train_batch_end(trainer, module, {"loss": take_step(model, optimizer, X, Y)}, None, k)
    callback.on_train_end(trainer, module)
    assert [step for step, _ in logged] == [0, 2, 4, 5]
    assert logged[1][1]["linflow/lambda_min"] == callback.monitor.table()["lambda_min"][1]


def test_without_lightning(monkeypatch):
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    from linflow.torch import lightning as wrapper

    with pytest.raises(ImportError, match="pip install lightning"):
        wrapper._callback_class()


@pytest.mark.slow
def test_the_callback_under_lightning(tmp_path):
    script = """
import sys, warnings
warnings.simplefilter("ignore")  # of Lightning's own, on a small loader
import torch, pytorch_lightning as pl, linflow.torch as lt
X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(3)))
    def training_step(self, batch, k):
        return torch.nn.functional.mse_loss(self.model(batch[0]), batch[0])
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        if not whole:
            return optimizer
        scheduler = lt.LocalSmoothnessLR(optimizer, self.model, f)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

whole = False
f = lt.regression(X, X)
callback = lt.MonitorCallback(lt.regression(X, X), every=5, exact=True, budget=None)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=8)
logger = pl.loggers.CSVLogger(sys.argv[1])
trainer = pl.Trainer(max_epochs=5, accelerator="cpu", logger=logger, callbacks=[callback],
                     enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
trainer.fit(Module(), loader)
table = callback.monitor.table()
assert table["step"].tolist() == [0, 5, 10, 15, 20], table["step"]
assert (table["law_error"][1:] <= table["rounding"][1:]).all()
assert any("mini-batches" in note for note in callback.monitor.notes), callback.monitor.notes

# The scheduler on all data, broken off after 6 steps and taken up again from the checkpoint: the same steps.
whole = True
def train(epochs, folder=None, resume=None):
    torch.manual_seed(0)
    callback = lt.MonitorCallback(f, every=1, budget=None)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=32)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[callback],
                         enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    warnings.simplefilter("error", UserWarning)  # of the scheduler: the gradient is that of the objective
    warnings.filterwarnings("ignore", module="(pytorch_)?lightning")
    trainer.fit(Module(), loader, ckpt_path=resume)
    if folder:
        trainer.save_checkpoint(folder + "/half.ckpt")
    table = callback.monitor.table()
    assert not callback.monitor.notes, callback.monitor.notes
    assert (table["law_error"][2:] <= table["rounding"][2:]).all()
    return dict(zip(table["step"].tolist(), zip(table["lr"].tolist(), table["loss"].tolist())))
straight = train(12)
train(6, sys.argv[1])
again = train(12, resume=sys.argv[1] + "/half.ckpt")
assert list(again) == list(range(6, 13)), list(again)
assert all(again[k] == straight[k] for k in range(7, 13)), (again, straight)
losses = [loss for _, loss in straight.values()]
assert all(a > b for a, b in zip(losses, losses[1:]))
"""
    pytest.importorskip("torchmetrics", reason="Lightning is not installed (CI installs it)")
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    written = list(tmp_path.rglob("metrics.csv"))
    assert len(written) == 1 and "linflow/law_error" in written[0].read_text().splitlines()[0]
