"""Verified runs of PyTorch models, against PyTorch's own training."""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import linflow as lf  # noqa: E402
import linflow.torch as lt  # noqa: E402


def model_and_data(dtype, widths=(4, 9, 6, 2), seed=0):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(a, b, bias=False, dtype=dtype) for a, b in pairwise(widths)]
    X = torch.randn(30, widths[0], dtype=dtype)
    return torch.nn.Sequential(*layers), X, X @ torch.randn(widths[0], widths[-1], dtype=dtype)


def trained(model, X, Y, rate, steps, reduction):
    loss_of, optimizer = torch.nn.MSELoss(reduction=reduction), torch.optim.SGD(model.parameters(), lr=rate)
    losses = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = loss_of(model(X), Y)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return np.array(losses)


@pytest.mark.parametrize(("reduction", "rate"), [("mean", 0.1), ("sum", 0.1 / 60)])
def test_sgd_in_float64_stays_within_the_proved_gaps(reduction, rate):
    model, X, Y = model_and_data(torch.float64)
    proof = lt.enclose(model, X, Y, step_size=rate, until=1e-4, reduction=reduction)
    losses = trained(model, X, Y, rate, proof.steps, reduction)
    low, high = proof.gaps
    slack = 1e-10 * losses  # rounding of PyTorch's own steps; the minimum of these data is 0
    assert (losses >= low - slack).all()
    assert (losses <= high + slack).all()
    assert proof.steps_bounds(1e-3) == (np.argmax(losses <= 1e-3 * losses[0]),) * 2


def test_a_schedule_gives_the_rates_of_sgd():
    model, X, Y = model_and_data(torch.float64)
    proof = lt.enclose(model, X, Y, schedule=lf.schedules.local_smoothness("curvature"), until=1e-4)
    assert proof.result == "target proved"
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for rate in proof.step_sizes[: proof.steps]:
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()
    low, high = proof.gaps
    last = torch.nn.functional.mse_loss(model(X), Y).item()
    slack = 1e-10 * high[0]  # rounding of PyTorch's own steps; the minimum of these data is 0
    assert low[-1] - slack <= last <= high[-1] + slack


@pytest.mark.parametrize(
    "given", [{"steps": 10}, {"step_size": 0.1, "t_max": 1.0}, {"step_size": 0.1, "schedule": lf.schedules.constant}]
)
def test_arguments_of_the_other_algorithm_are_refused(given):
    model, X, Y = model_and_data(torch.float64)
    given = {name: value(0.1) if callable(value) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=r"steps|t_max|schedule"):
        lt.enclose(model, X, Y, **given)


def test_weights_of_float32_are_read_in_float64_and_the_flow_is_proved():
    model, X, Y = model_and_data(torch.float32)
    proof = lt.enclose(model, X, Y, until=1e-4)
    assert proof.result == "target proved"
    low, high = proof.time_bounds(1e-3)
    assert high / low - 1 < 1e-8
    # SGD with short steps follows the flow, to first order in the step.
    rate = low / 4000
    losses = trained(model.double(), X.double(), Y.double(), rate, 4000, "mean")
    assert losses[-1] / losses[0] == pytest.approx(1e-3, rel=0.01)


def test_a_model_that_is_no_chain_of_linear_layers_is_refused():
    model, X, Y = model_and_data(torch.float64)
    model.append(torch.nn.ReLU())
    with pytest.raises((TypeError, ValueError), match="ReLU"):
        lt.enclose(model, X, Y)


def test_the_largest_proved_step_is_found_for_tensors_too():
    model, X, Y = model_and_data(torch.float64, widths=(3, 5, 1))
    step = lf.safe_step_size(lt.regression(X, Y), lt.network(model), verified=True, until=1e-3)
    assert step.enclosure.result == "target proved"
    # The edge at the end of the descent is what a step may not pass for long.
    assert 0 < step < 1.5 * max(step.edge)
