"""Audits of layers that are frozen or tied: T has the terms of what is trained, and of a sum of gradients none."""

import json
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")
import linflow as lf  # noqa: E402
from linflow.torch import audit, audit_file, find_chains, network  # noqa: E402

nn = torch.nn


def linear(W, **kind):
    layer = nn.Linear(*W.shape, bias=False, dtype=torch.float64, **kind)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(W).T)
    return layer


def falls(model, G):
    """The sum of squares of all gradients, where `∇f` of the product is G: what `−dL/dt` is."""
    (model(torch.eye(G.shape[0], dtype=torch.float64)) * G).sum().backward()
    return sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)


def test_a_frozen_layer_has_no_term():
    model = nn.Sequential(linear(0.01 * np.eye(2)), linear(2 * np.eye(2)))
    model[0].weight.requires_grad_(False)
    (chain,) = audit(model).chains
    G = torch.eye(2, dtype=torch.float64)
    assert chain.spectrum.least == pytest.approx(1e-4, rel=1e-12)  # W_2 alone moves: T(E) = W_1W_1ᵀE
    assert falls(model, G) == pytest.approx(chain.spectrum.least * float(G.square().sum()), rel=1e-12)
    assert chain.chain.trained == (False, True) and chain.frozen == 1
    assert "frozen (requires_grad is False): 0.weight" in chain.notes
    assert "without the terms of 1 of 2 layers" in chain.guarantee and chain.floors is None
    assert json.loads(audit(model).to_json())["chains"][0]["trained"] == [False, True]
    assert str(audit(model)).splitlines()[1].endswith("full, 1 frozen")
    objective = lf.MatrixFactorization(torch.eye(2, dtype=torch.float64))
    assert audit(model, objective)[0].step_size is None and "frozen" in audit(model, objective)[0].step_reason


@pytest.mark.parametrize("widths", [(4, 5, 3), (3, 4, 5, 2), (5, 2, 2, 4), (2, 3, 3, 3, 2)])
def test_the_loss_falls_at_the_rate_that_is_reported(widths, rng):
    for at in range(2 ** (len(widths) - 1) - 1):
        frozen = [l for l in range(len(widths) - 1) if at >> l & 1]
        model = nn.Sequential(*(linear(rng.standard_normal(shape)) for shape in pairwise(widths)))
        for l in frozen:
            model[l].requires_grad_(False)
        (chain,) = audit(model).chains
        assert [l for l, free in enumerate(chain.chain.trained) if not free] == frozen
        G = torch.as_tensor(rng.standard_normal((widths[0], widths[-1])))
        squares = float(G.square().sum())
        found = falls(model, G)
        assert chain.spectrum.least * squares <= found * (1 + 1e-12) + 1e-12  # rounding of a few dozen products
        assert found <= chain.spectrum.greatest * squares * (1 + 1e-12)


def test_layers_that_are_all_frozen_promise_nothing():
    model = nn.Sequential(linear(np.eye(2)), linear(2 * np.eye(2))).requires_grad_(False)
    (chain,) = audit(model).chains
    assert chain.guarantee.startswith("none: all layers are frozen")
    assert chain.spectrum.least == pytest.approx(5.0)  # of training them all, as is said
    assert str(audit(model)).splitlines()[1].endswith("none, frozen")


def test_a_frozen_bias_freezes_the_layer_that_it_is_a_row_of():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    model[1].bias.requires_grad_(False)  # outside the product
    assert find_chains(model).chains[0].trained == (False, True)
    attention = nn.MultiheadAttention(4, 2)
    assert all(chain.trained == (True, True) for chain in find_chains(attention).chains)
    attention.in_proj_bias.requires_grad_(False)
    kinds = {chain.kind: chain.trained for chain in find_chains(attention).chains}
    assert kinds == {"query-key": (False, False), "value-output": (False, True)}


def test_a_state_dict_knows_what_is_frozen_only_where_gradients_are_asked_for():
    model = nn.Sequential(linear(np.eye(2)), linear(np.eye(2)))
    model[0].weight.requires_grad_(False)
    assert find_chains(model.state_dict(keep_vars=True)).chains[0].trained == (False, True)
    assert find_chains(dict(model.named_parameters())).chains[0].trained == (False, True)
    assert find_chains(model.state_dict()).chains[0].trained == (True, True)
    model[0].weight = None
    del model[0].weight
    model[0].register_buffer("weight", torch.eye(2, dtype=torch.float64))  # a buffer is not trained either
    assert find_chains(model).chains[0].trained == (False, True)


def tied(how):
    first, second = linear(np.diag([1.0, -1.0])), linear(np.diag([1.0, -1.0]))
    if how == "parameter":
        second.weight = first.weight
    elif how == "transpose":
        second.weight = nn.Parameter(first.weight.T)
    elif how == "part":
        whole = torch.zeros(3, 2, dtype=torch.float64)
        first.weight, second.weight = nn.Parameter(whole[:2]), nn.Parameter(whole[1:])
    elif how == "module":
        second = first
    return nn.Sequential(first, second)


@pytest.mark.parametrize("how", ["parameter", "transpose", "part"])
def test_tied_layers_are_no_chain(how):
    """W_1 = diag(1, −1) = W_2: at ∇f = [[0, 1], [1, 0]] the gradient of W_1 is the sum of two that cancel."""
    model = tied(how)
    found = audit(model)
    assert not found.chains
    assert found.skipped[0][0] == "0 → 1" and "one tensor (tied)" in found.skipped[0][1]
    assert audit(model.state_dict()).skipped == found.skipped
    if how == "parameter":
        assert falls(model, torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)) == 0.0


@pytest.mark.parametrize("how", ["parameter", "transpose", "part", "module"])
def test_tied_layers_are_no_network(how):
    with pytest.raises(ValueError, match="a layer occurs twice"):
        network(tied(how))


def test_a_layer_that_stands_elsewhere_too_is_tied():
    model = nn.Sequential(linear(np.eye(2)), linear(np.eye(2)), nn.ReLU(), linear(np.eye(2)))
    model[3].weight = model[1].weight
    assert "1.weight is 3.weight as well (tied)" in dict(audit(model).skipped)["0 → 1"]
    one = tied("module")
    assert not audit(one).chains
    state = {"0.weight": torch.eye(2), "1.weight": torch.eye(2)}
    assert audit(state | {"emb.weight": state["0.weight"]}).skipped[0][0] == "0 → 1"
    arrays = {"0.weight": np.eye(2), "1.weight": np.eye(2)}
    assert audit(arrays | {"1.weight": arrays["0.weight"]}).skipped and audit(arrays).chains


def test_layers_beside_one_another_in_memory_are_not_tied():
    flat = torch.zeros(40, dtype=torch.float64)
    wide = torch.randn(4, 8, dtype=torch.float64)
    for first, second in (
        (flat[:16].view(4, 4), flat[16:32].view(4, 4)),
        (wide[:, :4], wide[:, 4:]),
        tuple(torch.randn(4, 8).T.contiguous().T.split(4, dim=1)),
    ):
        state = {"0.weight": first, "1.weight": second}
        assert len(audit(state).chains) == len(audit({k: x.numpy() for k, x in state.items()}).chains) == 1
    attention = nn.MultiheadAttention(4, 2)  # heads are parts of one tensor
    assert len(audit(attention).chains) == 4


def test_tied_layers_of_a_file(tmp_path):
    model = tied("transpose")
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert "one tensor (tied)" in audit_file(tmp_path / "m.pt").skipped[0][1]
    save = pytest.importorskip("safetensors.torch").save_file
    save(
        {name: x.detach().clone().contiguous() for name, x in model.state_dict().items()}, tmp_path / "m.safetensors"
    )
    (chain,) = audit_file(tmp_path / "m.safetensors").chains  # the file does not say that they are one
    assert "0.weight and 1.weight hold the same numbers" in " ".join(chain.notes)


def test_equal_constants_are_not_worth_a_note():
    for W in (np.eye(3), np.zeros((3, 3)), 2 * np.ones((3, 3))):
        assert not audit({"0.weight": W, "1.weight": W.copy()})[0].notes[1:]
