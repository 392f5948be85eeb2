"""ReLU models of PyTorch: the same outputs, the same steps as SGD, and what is refused."""

import numpy as np
import pytest

from linflow import relu

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

import linflow.torch as lt  # noqa: E402 - after the check for PyTorch

nn = torch.nn


@pytest.mark.parametrize("between", [nn.ReLU(), nn.LeakyReLU(0.2)])
@pytest.mark.parametrize("bias", [False, True])
def test_descent_takes_the_steps_of_sgd(between, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12, bias=bias), nn.Sequential(between, nn.Linear(12, 2, bias=False))).double()
    X, Y = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    if not bias:
        with torch.no_grad():
            model[0].weight[:3] = 0.0  # all pre-activations 0: the convention at the kink
    net = lt.relu_network(model)
    np.testing.assert_allclose(net.outputs(X.numpy()), model(X).detach().numpy(), rtol=1e-12, atol=1e-14)
    run = relu.gradient_descent(X.numpy(), Y.numpy(), net, step_size=2 * 0.05 / 14, steps=40)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(40):
        sgd.zero_grad()
        nn.MSELoss()(model(X), Y).backward()
        sgd.step()
    after = lt.relu_network(model)
    # 40 steps, each rounded
    np.testing.assert_allclose(run.final.extended, after.extended, rtol=0, atol=1e-13)
    np.testing.assert_allclose(run.final.V, after.V, rtol=0, atol=1e-13)


@pytest.mark.parametrize("between", [nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.GELU(), nn.SiLU()])
def test_smooth_activations_have_the_outputs_and_the_gradient_of_pytorch(between):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 9), between, nn.Linear(9, 2, bias=False)).double()
    X = 3 * torch.randn(7, 5, dtype=torch.float64)
    net = lt.relu_network(model)
    np.testing.assert_allclose(net.outputs(X.numpy()), model(X).detach().numpy(), rtol=1e-12, atol=1e-14)
    Z = model[0](X).detach().requires_grad_()
    between(Z).sum().backward()
    np.testing.assert_allclose(net.activation.slope(Z.detach().numpy()), Z.grad.numpy(), rtol=1e-12, atol=1e-14)
    assert bool(net.notes) == isinstance(between, nn.Softplus)
    if net.notes:
        assert net.notes == ("nn.Softplus returns z itself above 20: less by at most 2e-09",)


def test_float32_weights_are_read_exactly():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Identity(), nn.Linear(4, 1, bias=False))
    net = lt.relu_network(model)
    assert (model[1].weight.detach().double().numpy() == net.U.T).all() and net.slope == 0.0
    assert (net.bias == model[1].bias.detach().double().numpy()).all()


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), "Linear → Linear"),
        (nn.Sequential(nn.Linear(3, 4), nn.Tanhshrink(), nn.Linear(4, 1)), "Tanhshrink.*LeakyReLU, Tanh, Sigmoid"),
        (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), "bias=False"),
        (nn.Sequential(nn.Linear(3, 4), nn.GELU("tanh"), nn.Linear(4, 1, bias=False)), "approximate"),
        (nn.Sequential(nn.Linear(3, 4), nn.Softplus(2.0), nn.Linear(4, 1, bias=False)), "β = 2"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), "bias=False"),
        (nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(1.5), nn.Linear(4, 1, bias=False)), "slope"),
        (nn.Sequential(), "nothing"),
        ([nn.Linear(3, 4)], "list"),
    ],
)
def test_other_models_are_refused(model, text):
    with pytest.raises((TypeError, ValueError), match=text):
        lt.relu_network(model)
