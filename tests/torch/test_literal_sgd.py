"""What SGD does to the layers, option by option, and each reason why their imbalance follows no law."""

import math

import pytest

torch = pytest.importorskip("torch")
from linflow.torch import _sgd  # noqa: E402
from linflow.torch._sgd import Sgd  # noqa: E402


class Layers:
    """Three scalar layers, and what `_sgd` asks of them."""

    def __init__(self, bias=False):
        self.parameters = [torch.nn.Parameter(torch.ones(1, 1)) for _ in range(3)]
        self.bias = torch.nn.Parameter(torch.ones(1)) if bias else None
        self.tensors = [*self.parameters, *([self.bias] if bias else [])]
        self.trained = [True] * 3

    def oriented(self, tensors, dtype):
        return [b.to(dtype) for b in tensors]

    def groups(self, *options):
        """A parameter group for each layer, the last layer first; the bias is beside its weight."""
        first = [self.parameters[0]] + ([] if self.bias is None else [self.bias])
        params = [first, *([p] for p in self.parameters[1:])]
        return [{"params": ps, **o} for ps, o in zip(params, options, strict=True)][::-1]


def sgd(layers, *options, **rest):
    return torch.optim.SGD(layers.groups(*options), **rest)


def rates(*values):
    return [{"lr": value} for value in values]


def test_the_options_are_those_of_the_group_of_the_first_layer():
    layers = Layers()
    options = {"momentum": 0.9, "nesterov": True}, {"momentum": 0.1}, {"momentum": 0.2}
    assert Sgd.of(sgd(layers, *options, lr=0.1), layers) == Sgd(momentum=0.9, nesterov=True)
    options = {"momentum": 0.5, "dampening": 0.25, "maximize": True}, {}, {}
    assert Sgd.of(sgd(layers, *options, lr=0.1), layers) == Sgd(momentum=0.5, dampening=0.25, maximize=True)
    rest = [{"params": [p], "momentum": m} for p, m in zip(layers.parameters[1:], (0.7, 0.5), strict=True)]
    without = torch.optim.SGD(rest, lr=0.1)  # the first group, where the layer has none
    assert Sgd.of(without, layers).momentum == 0.7
    assert _sgd.rate_of(torch.optim.SGD([{**g, "lr": g["momentum"]} for g in rest]), layers) == (0.7, 0.0)
    assert Sgd.of(torch.optim.Adam(layers.parameters), layers) == Sgd() == Sgd.of(None, layers)


def test_ratios_of_learning_rates():
    layers = Layers()
    apart = sgd(layers, *rates(0.25, 0.5, 0.125), weight_decay=0.5)
    assert Sgd.of(apart, layers).rates == (1.0, 2.0, 0.5) and _sgd.rate_of(apart, layers) == (0.25, 0.5)
    assert Sgd.of(sgd(layers, *rates(0.25, 0.25, 0.5)), layers).rates == (1.0, 1.0, 2.0)
    for part, same in ((0.9, True), (1.1, False)):
        near = sgd(layers, *rates(1.0, 1.0 + part * 1e-9, 1.0))
        assert (Sgd.of(near, layers).rates == ()) == same
        assert Sgd((1.0, 2.0)).alike(Sgd((1.0, 2.0 * (1 + part * 1e-9)))) == same
        decays = sgd(layers, {}, {}, {"weight_decay": 0.5 * (1 + part * 1e-9)}, lr=0.1, weight_decay=0.5)
        assert (_sgd.why_no_law(decays, layers) is None) == same
    assert not Sgd((1.0, 2.0)).alike(Sgd()) and not Sgd((1.0, 2.0)).alike(Sgd((1.0, 3.0)))
    assert Sgd((1.0, 2.0), momentum=0.5).alike(Sgd((1.0, 2.0)))


def test_where_all_rates_are_0_the_initial_ones_count():
    layers = Layers()
    warm = sgd(layers, *({"lr": 0.0, "initial_lr": x} for x in (0.1, 0.4, 0.1)))
    assert Sgd.of(warm, layers).rates == pytest.approx((1.0, 4.0, 1.0))
    assert _sgd.why_no_law(warm, layers) is None
    assert Sgd.of(sgd(layers, *rates(0.0, 0.0, 0.0)), layers).rates == ()
    for some in (sgd(layers, *rates(0.0, 0.1, 0.1)), sgd(layers, *rates(0.1, 0.1, 0.0))):
        for group in some.param_groups:
            group["initial_lr"] = 0.1
        assert "rate of a layer is 0" in _sgd.why_no_law(some, layers)


def test_decays_are_those_of_the_scaled_layers():
    layers = Layers()
    alike = [{"lr": 0.1, "weight_decay": 0.4}, {"lr": 0.2, "weight_decay": 0.2}, {"lr": 0.4, "weight_decay": 0.1}]
    assert _sgd.why_no_law(sgd(layers, *alike), layers) is None
    alike[2]["weight_decay"] = 0.2
    assert "different products" in _sgd.why_no_law(sgd(layers, *alike), layers)


@pytest.mark.parametrize("option", [{"momentum": 0.5}, {"dampening": 0.5}, {"maximize": True}])
def test_one_momentum_for_all_layers(option):
    layers = Layers()
    assert _sgd.why_no_law(sgd(layers, option, option, option, lr=0.1), layers) is None
    assert "different momentum" in _sgd.why_no_law(sgd(layers, {}, {}, option, lr=0.1), layers)


@pytest.mark.parametrize("option", [{"lr": 0.2}, {"weight_decay": 0.1}, {"momentum": 0.5}, {"maximize": True}])
def test_a_bias_is_a_row_of_the_first_layer_if_it_is_trained_alike(option):
    layers = Layers(bias=True)
    assert _sgd.why_no_law(sgd(layers, {}, {}, {}, lr=0.1), layers) is None
    apart = torch.optim.SGD([{"params": layers.parameters}, {"params": [layers.bias], **option}], lr=0.1)
    assert "bias of layer 1 has its own options" in _sgd.why_no_law(apart, layers)
    without = torch.optim.SGD(layers.parameters, lr=0.1)
    beside = [{"params": [layers.parameters[0], layers.bias], **option}, {"params": layers.parameters[1:]}]
    assert "bias" not in (_sgd.why_no_law(torch.optim.SGD(beside, lr=0.1), layers) or "")  # like its own layer
    assert "bias of layer 1 is not trained" in _sgd.why_no_law(without, layers)


def test_buffers_are_there_once_all_layers_have_one():
    layers = Layers()
    assert _sgd.buffers_of(None, layers, torch.float64) is None
    optimizer = sgd(layers, {}, {}, {}, lr=0.1, momentum=0.9)
    assert _sgd.buffers_of(optimizer, layers, torch.float64) is None
    for k, p in enumerate(layers.parameters):
        assert _sgd.buffers_of(optimizer, layers, torch.float64) is None
        optimizer.state[p]["momentum_buffer"] = torch.full((1, 1), float(k))
    found = _sgd.buffers_of(optimizer, layers, torch.float64)
    assert [b.item() for b in found] == [0.0, 1.0, 2.0] and found[0].dtype == torch.float64


def test_which_layers_are_trained():
    layers = Layers()
    first, second, third = layers.parameters
    assert _sgd.trained_layers(None, layers) == [True] * 3
    assert _sgd.trained_layers(sgd(layers, *rates(0.1, 0.0, 2.0)), layers) == [True, False, True]
    assert _sgd.trained_layers(torch.optim.SGD([first, third], lr=0.1), layers) == [True, False, True]
    layers.trained = [False, True, True]
    assert _sgd.trained_layers(torch.optim.SGD([first, third], lr=0.1), layers) == [False, False, True]
    assert _sgd.trained_layers(None, layers) == layers.trained
    assert _sgd.trained_layers(sgd(layers, *rates(0.0, 0.0, 0.0)), layers) == [True] * 3  # as before a warm-up
    assert second.requires_grad


def test_what_else_is_trained():
    layers, more = Layers(), torch.nn.Parameter(torch.ones(2))
    assert not _sgd.others(None, layers)
    assert not _sgd.others(sgd(layers, {}, {}, {}, lr=0.1), layers)
    optimizer = torch.optim.SGD([*layers.parameters, more], lr=0.1)
    assert _sgd.others(optimizer, layers)
    more.requires_grad_(False)
    assert not _sgd.others(optimizer, layers)


def test_steps_that_are_not_plain():
    layers = Layers()
    assert _sgd.why_not_plain(sgd(layers, {}, {}, {}, lr=0.1), layers) is None
    assert "momentum 0.01" in _sgd.why_not_plain(sgd(layers, {}, {}, {}, lr=0.1, momentum=0.01), layers)
    assert "different learning rates" in _sgd.why_not_plain(sgd(layers, *rates(0.1, 0.1, 0.2)), layers)
    assert "rate of a layer is 0" in _sgd.why_not_plain(sgd(layers, *rates(0.1, 0.0, 0.2)), layers)
    assert math.isinf(_sgd._rates(sgd(layers, *rates(0.0, 0.1, 0.2)), layers)[1])
