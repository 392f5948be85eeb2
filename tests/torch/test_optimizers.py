"""Descents against torch.optim.SGD itself, to 1e-12."""

import itertools

import numpy as np
import pytest

import linflow as lf

torch = pytest.importorskip("torch")

CASES = [
    {"momentum": 0.8},
    {"momentum": 0.8, "nesterov": True},
    {"weight_decay": 0.2},
    {"layer_rates": (1.0, 4.0, 0.3)},
    {"momentum": 0.7, "weight_decay": 0.2, "layer_rates": (1.0, 4.0, 0.3), "nesterov": True},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("batched", [False, True])
def test_the_steps_are_those_of_sgd(options, batched, rng):
    X, Y = rng.standard_normal((12, 3)) / 3, rng.standard_normal((12, 2))
    net = lf.init.gaussian((3, 5, 4, 2), std=0.5, rng=rng)
    batches = [rng.choice(12, 5, replace=False) for _ in range(7)] if batched else None
    run = lf.gradient_descent(
        lf.LinearRegression(X, Y), net, step_size=0.01, steps=100, batches=batches, record="law_error", **options
    )
    layers = [torch.tensor(W.copy(), requires_grad=True) for W in net.weights]
    rates = options.get("layer_rates", (1.0, 1.0, 1.0))
    groups = [{"params": [W], "lr": 0.01 * rate} for W, rate in zip(layers, rates, strict=True)]
    rest = {key: value for key, value in options.items() if key != "layer_rates"}
    sgd = torch.optim.SGD(groups, **rest)
    for rows in itertools.islice(itertools.cycle(batches or [np.arange(12)]), 100):
        sgd.zero_grad()
        error = torch.tensor(Y[rows]) - torch.tensor(X[rows]) @ torch.linalg.multi_dot(layers)
        (0.5 * 12 / len(rows) * (error**2).sum()).backward()
        sgd.step()
    for W, V in zip(layers, run.final.weights, strict=True):
        np.testing.assert_allclose(W.detach().numpy(), V, atol=1e-12)
    assert run.law_error.max() < 1e-12 < run.stats.imbalance_drift
    like = [torch.tensor(W) for W in net.weights]
    tensors = lf.gradient_descent(
        lf.LinearRegression(torch.tensor(X), torch.tensor(Y)),
        like,
        step_size=0.01,
        steps=100,
        batches=batches,
        **options,
    )
    np.testing.assert_allclose(tensors.final.weights[0].numpy(), run.final.weights[0], atol=1e-12)
    flow = {key: value for key, value in options.items() if key in ("layer_rates", "weight_decay")}
    one = lf.gradient_flow(
        lf.LinearRegression(torch.tensor(X), torch.tensor(Y)), like, t_max=0.2, friction=1.0, **flow
    )
    two = lf.gradient_flow(lf.LinearRegression(X, Y), net, t_max=0.2, friction=1.0, **flow)
    np.testing.assert_allclose(one.final.weights[1].numpy(), two.final.weights[1], atol=1e-10)
