"""Neurons between two linear layers: which are found, their imbalances, the law of SGD, and the certificate."""

import itertools
import json

import numpy as np
import pytest

from linflow import relu

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

import linflow.torch as lt  # noqa: E402 - after the check for PyTorch

nn = torch.nn


def deep(bias=True):
    torch.manual_seed(0)
    inner = nn.Sequential(nn.ReLU(), nn.Identity(), nn.Linear(7, 6, bias=bias), nn.LeakyReLU(0.2))
    return nn.Sequential(nn.Linear(5, 7, bias=bias), inner, nn.Dropout(0.0), nn.Linear(6, 3, bias=bias)).double()


def literal(model, bias=True):
    """Neuron by neuron, from the modules."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for first, second in itertools.pairwise(layers):
        yield [
            sum(w.item() ** 2 for w in first.weight[j])
            + (first.bias[j].item() ** 2 if bias else 0.0)
            - sum(w.item() ** 2 for w in second.weight[:, j])
            for j in range(first.out_features)
        ]


@pytest.mark.parametrize("bias", [True, False])
def test_every_hidden_layer_is_found_with_its_imbalances(bias):
    model = deep(bias)
    found = lt.audit(model).neurons
    assert [(n.name, n.widths, n.slope, n.conserved) for n in found] == [
        ("0 → 1.2", (5, 7, 6), 0.0, True),
        ("1.2 → 3", (7, 6, 3), 0.2, True),
    ]
    for one, values in zip(found, literal(model, bias), strict=True):
        np.testing.assert_allclose(one.imbalance, values, rtol=0, atol=1e-14)  # sums of a dozen squares below 1


def test_sgd_changes_them_by_the_law_and_small_steps_hardly():
    """Second order in the step: the flow conserves them. Ten times as many steps of a tenth change them a tenth."""
    change = {}
    for lr, steps in ((1e-3, 40), (1e-4, 400)):
        model = deep()
        X, Y = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
        first = [n.imbalance for n in lt.audit(model).neurons]
        law = [np.zeros_like(d) for d in first]
        sgd = torch.optim.SGD(model.parameters(), lr=lr)
        layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
        for _ in range(steps):
            sgd.zero_grad()
            ((model(X) - Y) ** 4).sum().backward()  # any loss
            for l, (a, b) in enumerate(itertools.pairwise(layers)):
                law[l] += lr**2 * ((a.weight.grad**2).sum(1) + a.bias.grad**2 - (b.weight.grad**2).sum(0)).numpy()
            sgd.step()
        now = [n.imbalance for n in lt.audit(model).neurons]
        moved = np.concatenate([a - b for a, b in zip(now, first, strict=True)])
        np.testing.assert_allclose(moved, np.concatenate(law), rtol=0, atol=1e-12)  # 400 steps, each rounded
        change[lr] = np.abs(moved).max()
    assert change[1e-3] > 1e-6
    assert 5 < change[1e-3] / change[1e-4] < 20


def test_what_is_frozen_tied_or_not_finite_is_told():
    model = deep()
    model[0].bias.requires_grad_(False)
    frozen, other = lt.audit(model).neurons
    assert not frozen.conserved and other.conserved
    assert "not conserved, as a layer is frozen" in str(frozen)
    assert any("frozen" in note and "0.weight" in note for note in frozen.notes)
    square = nn.Linear(4, 4)
    found = lt.audit(nn.Sequential(square, nn.ReLU(), square))
    assert found.neurons == ()
    assert any("tied" in reason for _, reason in found.skipped)
    model = deep()
    with torch.no_grad():
        model[0].weight[0, 0] = 1e200
    found = lt.audit(model)
    assert [n.name for n in found.neurons] == ["1.2 → 3"]
    assert ("0 → 1.2", "its weights are not finite, or too large to square") in found.skipped


class Other(nn.ReLU):
    def forward(self, x):
        return x**2


@pytest.mark.parametrize(
    "between",
    [
        [nn.Tanh()],
        [nn.ReLU(), nn.LayerNorm(3)],
        [nn.Dropout(0.5), nn.ReLU()],
        [nn.ReLU(), nn.Tanh()],
        [nn.ReLU(), nn.LeakyReLU(0.3)],
        [Other()],
        [],
    ],
    ids=str,
)
def test_other_modules_between_are_no_neurons(between):
    assert lt.audit(nn.Sequential(nn.Linear(2, 3), *between, nn.Linear(3, 2)).train()).neurons == ()


def test_neurons_of_a_nested_part_are_found_once():
    inner = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    assert [n.name for n in lt.audit(nn.Sequential(inner, nn.Tanh())).neurons] == ["0.0 → 0.2"]
    named = nn.ModuleDict({"a": inner, "b": nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))})
    assert [n.name for n in lt.audit(named).neurons] == ["a.0 → a.2", "b.0 → b.2"]


def test_a_table_of_vectors_is_no_layer():
    assert lt.audit(nn.Sequential(nn.Embedding(4, 3), nn.ReLU(), nn.Linear(3, 2))).neurons == ()


def test_numbers_are_shown_with_three_digits():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        net[0].weight[0, 0], net[2].weight[0, 0] = 1.23456**0.5, 0.0
    assert "imbalance 1.23 … 1.23" in str(lt.audit(net).neurons[0])


def test_a_state_dict_has_no_neurons_as_it_does_not_say_what_is_between():
    assert lt.audit(deep().state_dict()).neurons == ()


def test_the_certificate_of_two_layers_on_data():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 600), nn.ReLU(), nn.Linear(600, 1, bias=False)).double()
    with torch.no_grad():
        model[2].weight.mul_(60)
    X, Y = torch.randn(4, 8, dtype=torch.float64), torch.randn(4, dtype=torch.float64, requires_grad=True)
    found = lt.audit(model, data=(X, Y))
    cert = relu.certify(X.numpy(), Y.detach().numpy(), lt.relu_network(model))
    assert found.certificate.rate == cert.rate > 0
    assert "Theorem R⁺" in str(found)
    read = json.loads(found.to_json())
    assert read["certificate"]["rate"] == cert.rate
    assert read["neurons"][0]["imbalance"] == found.neurons[0].imbalance.tolist()
    assert repr(found.neurons[0]) == "Neurons('0 → 2', 8×600×1, slope 0)"
    smooth = nn.Sequential(model[0], nn.GELU(), model[2])
    assert lt.audit(smooth, data=(X, Y)).certificate.to_dict()["activation"] == "gelu"
    with pytest.raises(TypeError, match="Linear → ReLU"):
        lt.audit(deep(), data=(X, Y))
