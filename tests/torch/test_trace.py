"""Chains found in a forward pass: what multiplies and nothing else, however a model is written."""

import math
import random
from itertools import pairwise

import pytest

from linflow.torch import audit, find_chains

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")
nn, F = torch.nn, torch.nn.functional
torch.manual_seed(0)


def linear(*widths, bias=False):
    return [nn.Linear(a, b, bias=bias, dtype=torch.float64) for a, b in pairwise(widths)]


class Net(nn.Module):
    """Layers by name, and what forward does with them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.call = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.call(self, *args, **kwargs)


def weights(*shapes):
    return nn.ParameterList(nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes)


def fully(names):
    """fc1, fc2, … one after another."""

    def forward(net, x):
        for name in names:
            x = getattr(net, name)(x)
        return x

    return forward


def through(net, x, between=lambda x: x):
    return net.fc2(between(net.fc1(x)))


def listed(net, x):
    for W in net.Ws:
        x = x @ W
    return x


def columns(net, x):
    x = x.T
    for W in net.Ws:
        x = W @ x
    return x.T


a, b, c = linear(4, 5, 3, 2)
nested = nn.Sequential(
    nn.Sequential(*linear(4, 6)), nn.Identity(), nn.Sequential(nn.Sequential(*linear(6, 5, 3)), nn.Dropout(0.0))
)
X = torch.randn(7, 4, dtype=torch.float64)

graph = torch.eye(7, dtype=torch.float64).roll(1, 0).to_sparse()

MODELS = {
    "a sparse graph": (
        Net(lambda net, x: torch.mm(graph, net.fc1(x)) @ net.fc2.weight.T, fc1=a, fc2=b),
        X,
        ("fc1", "fc2"),
    ),
    "fc1, fc2": (Net(fully(["fc1", "fc2", "fc3"]), fc1=a, fc2=b, fc3=c), X, ("fc1", "fc2", "fc3")),
    "nested": (nested, X, ("0.0", "2.0.0", "2.0.1")),
    "encoder, decoder": (
        Net(
            lambda net, x: net.decoder(net.encoder(x)),
            encoder=nn.Sequential(*linear(4, 3, 2)),
            decoder=nn.Sequential(*linear(2, 4)),
        ),
        X,
        ("encoder.0", "encoder.1", "decoder.0"),
    ),
    "parameter list": (Net(listed, Ws=weights((4, 5), (5, 6), (6, 2))), X, ("Ws.0", "Ws.1", "Ws.2")),
    "columns": (Net(columns, Ws=weights((5, 4), (6, 5), (2, 6))), X, ("Ws.0", "Ws.1", "Ws.2")),
    "functional": (
        Net(lambda net, x: F.linear(F.linear(x, net.Ws[0]), net.Ws[1]), Ws=weights((5, 4), (3, 5))),
        X,
        ("Ws.0", "Ws.1"),
    ),
    "product first": (
        Net(lambda net, x: x @ (net.Ws[0] @ net.Ws[1] @ net.Ws[2].T), Ws=weights((4, 5), (5, 6), (3, 6))),
        X,
        ("Ws.0", "Ws.1", "Ws.2"),
    ),
    "factorization": (Net(lambda net: net.U @ net.V.mT, U=weights((4, 2))[0], V=weights((3, 2))[0]), (), ("U", "V")),
    "sequence": (Net(through, fc1=a, fc2=b), torch.randn(2, 3, 4, dtype=torch.float64), ("fc1", "fc2")),
    "rows reshaped": (
        Net(lambda net, x: net.fc2(net.fc1(x.reshape(-1, 4)).view(7, 1, 5)[:, 0]), fc1=a, fc2=b),
        X,
        ("fc1", "fc2"),
    ),
    "batch before": (
        Net(lambda net, x: net.fc2(net.fc1(x).transpose(0, 1)), fc1=a, fc2=b),
        torch.randn(2, 3, 4, dtype=torch.float64),
        ("fc1", "fc2"),
    ),
    "named arguments": (Net(lambda net, *, ids: through(net, ids), fc1=a, fc2=b), {"ids": X}, ("fc1", "fc2")),
    "single head": (
        Net(lambda net, x: net.fc1(x) @ net.fc2(x).mT, fc1=a, fc2=linear(4, 5)[0]),
        X,
        ("fc1", "fc2"),
    ),
    "a width of one": (
        Net(fully(["fc1", "fc2", "fc3"]), **dict(zip(["fc1", "fc2", "fc3"], linear(4, 1, 3, 1), strict=True))),
        X,
        ("fc1", "fc2", "fc3"),
    ),
}


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", MODELS)
def test_a_chain_is_found_however_the_model_is_written(name, grad):
    model, inputs, names = MODELS[name]
    with grad():
        (chain,) = find_chains(model, inputs=inputs).chains
    assert tuple(source.removesuffix(".weight") for source in chain.sources) == names
    product = chain.network().product()
    if name == "factorization":
        expected = model()
    elif name == "single head":
        torch.testing.assert_close(X @ product @ X.T, model(X), rtol=1e-12, atol=1e-12)
        return
    else:
        x = inputs["ids"] if isinstance(inputs, dict) else inputs
        expected = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        x = graph @ x if name == "a sparse graph" else x
        product = x @ product
        product = product.transpose(0, 1) if name == "batch before" else product
    # The same products in another order: rounding of a few factors of order one.
    torch.testing.assert_close(product, expected, rtol=1e-12, atol=1e-12)


def norm(x):
    return F.layer_norm(x, x.shape[-1:])


def without(layer, x):
    with torch.no_grad():
        return layer(x)


class Straight(torch.autograd.Function):
    """The identity, with a gradient that is not its own."""

    @staticmethod
    def forward(ctx, h):
        return h.clone()

    @staticmethod
    def backward(ctx, g):
        return g.sign()


BROKEN = {
    "relu": (lambda net, x: through(net, x, torch.relu), "goes into relu"),
    "in place": (lambda net, x: through(net, x, lambda h: h.relu_()), "goes into relu"),
    "gelu": (lambda net, x: through(net, x, F.gelu), "goes into gelu"),
    "layer norm": (lambda net, x: through(net, x, norm), "goes into layer_norm"),
    "dropout": (lambda net, x: through(net, x, lambda h: F.dropout(h, 0.5)), "goes into dropout"),
    "softmax": (lambda net, x: through(net, x, lambda h: h.softmax(-1)), "goes into softmax"),
    "residual": (lambda net, x: (h := net.fc1(x)).sum() + net.fc2(h), "used 2 times: sum, "),
    "einsum": (lambda net, x: torch.einsum("nd,kd->nk", net.fc1(x), net.fc2.weight), "goes into"),  # not looked into
    "a number of the data": (lambda net, x: through(net, x, lambda h: h * x.norm()), "goes into mul"),
    "entries": (lambda net, x: through(net, x, lambda h: h * torch.arange(5.0).double()), "goes into mul"),
    "a shift": (lambda net, x: through(net, x, lambda h: h + 1.0), "goes into add"),
    "columns exchanged": (lambda net, x: through(net, x, lambda h: h.flip(-1)), "goes into flip"),
    "columns cut": (lambda net, x: through(net, x, lambda h: h.view(-1, 1).view(-1, 5)), "goes into view"),
    "returned": (lambda net, x: (h := net.fc1(x), net.fc2(h)), "used 2 times"),
    "in a result": (lambda net, x: {"codes": [h := net.fc1(x)], "out": net.fc2(h)}, "used 2 times"),
    "twice": (lambda net, x: through(net, x) + through(net, 2 * x), "used 2 times in one pass"),
    "a penalty": (lambda net, x: through(net, x) * net.fc1.weight.norm(), "used 2 times in one pass"),
    "detached": (lambda net, x: through(net, x, torch.Tensor.detach), "goes into detach"),
    "its data": (lambda net, x: net.fc2(net.fc1(x).data), "goes into detach"),
    "without gradient": (lambda net, x: net.fc2(without(net.fc1, x)), "goes into"),
    "a function of its own": (lambda net, x: through(net, x, Straight.apply), "goes into"),
    "power": (lambda net, x: through(net, x, lambda h: h.div(2, rounding_mode="floor")), "goes into div"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_stands_between_ends_a_chain_and_is_named(name):
    forward, why = BROKEN[name]
    found = audit(Net(forward, fc1=a, fc2=b), inputs=X)
    assert not found.chains
    assert why in " ".join(reason for names, reason in found.skipped if "fc1" in names)
    assert "fc1.weight 5×4" in found.reason and "named=" in found.reason and "network(" in found.reason
    assert found.reason in str(found) and found.to_dict()["reason"] == found.reason


def test_rows_of_a_weight_are_not_those_of_the_samples():
    """W_2 S W_1 x with S a choice of rows is no product of W_2 and W_1; x S' W_1 W_2 is."""
    Ws = weights((5, 4), (3, 5))

    def chosen(net, x):
        return net.Ws[1] @ (net.Ws[0] @ x.T)[:1].expand(5, 7)

    assert not find_chains(Net(chosen, Ws=Ws), inputs=X).chains
    assert (
        len(find_chains(Net(lambda net, x: net.fc2(net.fc1(x)[:1].expand(7, 5)), fc1=a, fc2=b), inputs=X).chains) == 1
    )
    square = weights((4, 4), (4, 4))
    tall = Net(lambda net, x: net.Ws[1] @ (net.Ws[0] @ x[:4]).view(1, 4, 4).transpose(0, 1).reshape(4, 4), Ws=square)
    assert not find_chains(tall, inputs=X).chains  # the rows were moved


@pytest.mark.parametrize("how", [torch.Tensor.detach, lambda W: W.data, lambda W: W.detach().T.T])
def test_a_weight_without_its_gradient_is_no_layer(how):
    one = Net(lambda net, x: net.fc2(x @ how(net.fc1.weight).T), fc1=a, fc2=b)
    assert not find_chains(one, inputs=X).chains
    both = Net(lambda net, x: through(net, x) + how(net.fc1.weight).sum(), fc1=a, fc2=b)
    assert not find_chains(both, inputs=X).chains


def test_products_kept_by_the_model_have_another_use():
    def forward(net, x):
        net.hidden = net.fc1(x)
        return net.fc2(net.hidden)

    assert not audit(Net(forward, fc1=a, fc2=b), inputs=X).chains


def test_one_use_is_counted_by_memory_and_not_by_name():
    once = Net(through, fc1=a, fc2=b, alias=a)
    assert not audit(nn.Sequential(*linear(4, 4)), inputs=X).chains
    assert len(find_chains(once, inputs=X).chains) == 1  # two names, one use
    square = linear(4, 4)[0]
    tied = Net(through, fc1=square, fc2=linear(4, 4)[0])
    tied.fc2.weight = nn.Parameter(square.weight.T)
    assert not find_chains(tied, inputs=X).chains
    assert "used 2 times" in find_chains(tied, inputs=X).skipped[0][1]
    assert not find_chains(nn.Sequential(square, square), inputs=X).chains
    loop = Net(lambda net, x: net.fc1(net.fc1(x)), fc1=square)
    assert not find_chains(loop, inputs=X).chains
    whole = torch.randn(5, 4, dtype=torch.float64)
    parts = Net(through, fc1=linear(4, 4)[0], fc2=linear(4, 4)[0])
    parts.fc1.weight, parts.fc2.weight = nn.Parameter(whole[:4]), nn.Parameter(whole[1:])
    assert not find_chains(parts, inputs=X).chains


def test_biases_cut_as_they_do_in_a_sequential():
    layers = linear(4, 5, 3, 2, bias=True)
    net = Net(fully(["fc1", "fc2", "fc3"]), fc1=layers[0], fc2=layers[1], fc3=layers[2])
    traced, known = find_chains(net, inputs=X).chains, find_chains(nn.Sequential(*layers)).chains
    assert [chain.name for chain in traced] == ["fc1 → fc2", "fc2 → fc3"]
    for one, other in zip(traced, known, strict=True):
        assert all(torch.equal(A, B) for A, B in zip(one.weights, other.weights, strict=True))
    added = Net(
        lambda net, x: (x @ net.W + net.b) @ net.V,
        W=weights((4, 5))[0],
        b=nn.Parameter(torch.ones(5).double()),
        V=weights((5, 2))[0],
    )
    (chain,) = find_chains(added, inputs=X).chains
    assert chain.widths == (5, 5, 2)
    extended = torch.cat([X, torch.ones(7, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(extended @ chain.network().product(), added(X), rtol=1e-12, atol=1e-12)  # rounding
    shared = Net(lambda net, x: (x @ net.W + net.b) @ net.V + net.b.sum(), W=added.W, b=added.b, V=added.V)
    assert not find_chains(shared, inputs=X).chains  # the bias has another use


def test_numbers_are_the_scale_of_a_chain():
    def forward(net, x):
        return -(net.fc2(0.5 * net.fc1(x)) / math.sqrt(5)) * 3

    (chain,) = find_chains(Net(forward, fc1=a, fc2=b), inputs=X).chains
    assert chain.scale == pytest.approx(-1.5 / math.sqrt(5), rel=1e-15)
    torch.testing.assert_close(
        X @ chain.network().product(), forward(Net(forward, fc1=a, fc2=b), X), rtol=1e-12, atol=1e-12
    )


def test_a_pass_leaves_the_model_as_it_was():
    model = nn.Sequential(*linear(4, 5), nn.BatchNorm1d(5, dtype=torch.float64), nn.Dropout(), *linear(5, 3, 2))
    before, state = {k: x.clone() for k, x in model.state_dict().items()}, torch.get_rng_state()
    (chain,) = find_chains(model, inputs=X).chains
    assert chain.name == "3 → 4" and model.training
    assert all(torch.equal(before[k], x) for k, x in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())


def test_frozen_layers_and_reports_of_traced_chains():
    model = Net(through, fc1=linear(4, 5)[0].requires_grad_(False), fc2=b)
    (chain,) = audit(model, inputs=X).chains
    assert chain.chain.trained == (False, True) and "as the forward pass has it" in chain.notes
    with pytest.raises(TypeError, match="inputs is for a model"):
        audit(model.state_dict(), inputs=X)


def test_a_pair_of_lora_is_found_once():
    peft = pytest.importorskip("peft", reason="PEFT is not installed (CI has it)")
    config = peft.LoraConfig(target_modules=["0"], r=2, lora_alpha=6)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), config)
    found = find_chains(model, inputs=torch.randn(5, 4)).chains
    assert [chain.kind for chain in found] == ["lora"]
    traced = find_chains(model, inputs=torch.randn(5, 4), kinds=("linear",)).chains
    assert [(chain.scale, chain.sources) for chain in traced] == [(3.0, found[0].sources)]


def test_models_of_transformers_are_traced():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (CI has it)")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=6, n_head=2, n_positions=8, vocab_size=7, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    found = find_chains(model, inputs={"input_ids": torch.arange(5)[None]}, kinds=("linear",))
    assert not found.chains  # a bias, or more, stands after each
    assert any("c_fc" in names for names, _ in found.skipped)


class Program(nn.Module):
    """Random steps on matrices: products with weights, new, old and on either side, sums, functions, moves."""

    def __init__(self, seed):
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.ps, self.steps = nn.ParameterList(), []
        shapes = [(6, 4)]
        for _ in range(rng.randint(3, 9)):
            i = rng.randrange(max(0, len(shapes) - 2), len(shapes))
            n, m = shapes[i]
            kind = rng.choice(
                ["right"] * 6 + ["bias", "left", "left", "old", "function", "move", "move", "turn", "sum", "pair"]
            )
            old = [j for j, p in enumerate(self.ps) if p.ndim == 2 and p.shape[0] == m]
            like = [j for j, shape in enumerate(shapes) if shape == (n, m)]
            fits = [j for j, shape in enumerate(shapes) if shape[0] == m]
            if kind in ("right", "bias", "left"):
                size = rng.choice([1, 3, 4, 5])
                self.ps.append(
                    nn.Parameter(torch.randn((size, n) if kind == "left" else (m, size), dtype=torch.float64))
                )
                j = len(self.ps) - 1
                step, shape = (
                    (i, "left" if kind == "left" else "right", j),
                    (size, m) if kind == "left" else (n, size),
                )
                if kind == "bias":
                    self.ps.append(nn.Parameter(torch.randn(size, dtype=torch.float64)))
                    step = (i, "bias", j)
            elif kind == "turn":
                step, shape = (i, "turn", 0), (m, n)
            elif kind == "old" and old:
                j = rng.choice(old)
                step, shape = (i, "right", j), (n, self.ps[j].shape[1])
            elif kind == "pair" and fits:
                j = rng.choice(fits)
                step, shape = (i, "pair", j), (n, shapes[j][1])
            elif kind == "sum":
                step, shape = (i, "sum", rng.choice(like)), (n, m)
            else:
                kind = "function" if kind == "function" else "move"
                step, shape = (i, kind, rng.randrange(10)), (n, m)
            self.steps.append(step)
            shapes.append(shape)
        self.outputs = [-1, rng.choice([-1, -2])]

    def forward(self, x):
        values = [x]
        for i, kind, j in self.steps:
            h = values[i]
            values.append(
                h @ self.ps[j] if kind == "right"
                else h @ self.ps[j] + self.ps[j + 1] if kind == "bias"
                else self.ps[j] @ h if kind == "left"
                else h.T if kind == "turn"
                else h + values[j] if kind == "sum"
                else h @ values[j] if kind == "pair"
                else FUNCTIONS[j % 5](h) if kind == "function"
                else MOVES[j](h)
            )  # fmt: skip
        return [values[k] for k in self.outputs]


FUNCTIONS = [torch.relu, torch.tanh, F.gelu, torch.Tensor.detach, Straight.apply]
MOVES = [
    lambda h: 2 * h, lambda h: -h / 3, lambda h: h.clone(), lambda h: h.flip(0), lambda h: h[None].reshape(h.shape),
    lambda h: h[:, :], lambda h: h.unsqueeze(1).squeeze(1), lambda h: h.clone().mul_(2),
    lambda h: h.unsqueeze(-1)[..., 0],
    lambda h: h[:1].expand(h.shape),
]  # fmt: skip


def test_gradients_of_random_programs_are_those_of_the_products():
    """`W_lᵀ G_l = G_{l+1} W_{l+1}ᵀ`, which makes D conserved, holds where the loss sees the product alone."""
    count = 0
    for seed in range(400):
        model = Program(seed)
        x = torch.randn(6, 4, dtype=torch.float64)
        loss = sum((y * torch.randn_like(y)).sum() for y in model(x))
        if not loss.requires_grad:
            continue
        slopes = torch.autograd.grad(loss, list(model.ps), allow_unused=True, materialize_grads=True)
        for chain in find_chains(model, inputs=x).chains:
            count += 1
            G = []
            for l, source in enumerate(chain.sources):
                number = int(source.partition(".")[2])
                W, slope = chain.weights[l], slopes[number]
                stored = model.ps[number].detach()
                rows = stored if torch.equal(W[: len(stored)], stored) and W.shape[1] == stored.shape[1] else stored.T
                slope = slope if rows is stored else slope.T
                G.append(slope if len(rows) == len(W) else torch.cat([slope, slopes[number + 1][None]]))
            for l in range(len(G) - 1):
                left, right = chain.weights[l].T @ G[l], G[l + 1] @ chain.weights[l + 1].T
                size = float(torch.linalg.norm(chain.weights[l]) * torch.linalg.norm(G[l]))
                # Rounding of a dozen products, in units of the factors.
                assert float(torch.max(torch.abs(left - right))) <= 1e-11 * size, (seed, chain)
    assert count > 100


# --- without a pass -------------------------------------------------------------------------------------------


def test_nested_sequentials_are_one_chain():
    (chain,) = find_chains(nested).chains
    assert [s.removesuffix(".weight") for s in chain.sources] == ["0.0", "2.0.0", "2.0.1"]
    torch.testing.assert_close(X @ chain.network().product(), nested(X), rtol=1e-12, atol=1e-12)  # rounding


def test_modules_with_a_forward_of_their_own_are_not_trusted():
    class Reversed(nn.Sequential):
        def forward(self, x):
            for layer in reversed(list(self)):
                x = layer(x)
            return x

    class Squared(nn.Linear):
        def forward(self, x):
            return super().forward(x) ** 2

    model = nn.Sequential(*linear(4, 4, 4))
    assert len(find_chains(model).chains) == 1
    assert not find_chains(Reversed(*linear(4, 4, 4))).chains
    assert not find_chains(nn.Sequential(Squared(4, 4, bias=False), *linear(4, 4))).chains
    model[0].forward = lambda x: x.relu()
    assert not find_chains(model).chains


def test_hooks_are_noted_and_seen_in_a_pass():
    model = nn.Sequential(*linear(4, 5, 3))
    assert find_chains(model).chains[0].notes == ()
    model[0].register_forward_hook(lambda module, inputs, output: output.relu())
    assert "hooks" in find_chains(model).chains[0].notes[0]
    assert not find_chains(model, inputs=X).chains


@pytest.mark.parametrize("between", [nn.ReLU(), nn.LayerNorm(5), nn.Dropout(0.5), nn.Tanh()])
def test_what_stands_between_in_a_sequential_is_named(between):
    found = audit(nn.Sequential(*linear(4, 5), between, *linear(5, 3)))
    assert not found.chains and found.skipped[0][0] == "0 → 2"
    assert found.skipped[0][1].startswith(type(between).__name__) and "inputs=" in found.reason


def test_layers_are_named():
    model = Net(fully(["fc1", "fc2", "fc3"]), fc1=a, fc2=b, fc3=c)
    assert "inputs=" in audit(model).reason and "fc1.weight 5×4" in audit(model).reason
    (chain,) = audit(model, named=[["fc1", "fc2.weight", "fc3"]]).chains
    torch.testing.assert_close(X @ chain.chain.network().product(), model(X), rtol=1e-12, atol=1e-12)  # rounding
    assert chain.name == "fc1 → fc3" and "as named" in chain.notes
    assert audit(model, named={"mine": ["fc1", "fc2"]})["mine"].chain.widths == (4, 5, 3)
    named = audit(nested, named={"inner": ["0.0", "2.0.0", "2.0.1"]})
    assert [chain.name for chain in named.chains] == ["inner"]  # not twice
    state = model.state_dict()
    assert audit(state, named=[["fc1", "fc2", "fc3"]])[0].chain.widths == (4, 5, 3, 2)
    matrices = {"U": torch.randn(4, 5), "V": torch.randn(5, 3), "W": torch.randn(3, 3), "Z": torch.randn(3, 3)}
    assert audit(matrices, named=[["U", "V"]])[0].chain.widths == (4, 5, 3)
    assert torch.equal(audit(matrices, named=[["W", "Z"]])[0].chain.weights[0], matrices["W"])
    biased = nn.ModuleDict({str(l): layer for l, layer in enumerate(linear(4, 5, 3, 2, bias=True))})
    found = audit(biased, named={"all": ["0", "1", "2"]})
    assert {chain.name for chain in found.chains} == {"all [1]", "all [2]"} and "bias" in found.skipped[0][1]
    model.fc2.weight = nn.Parameter(torch.randn(3, 5, dtype=torch.float64), requires_grad=False)
    assert audit(model, named=[["fc1", "fc2"]])[0].chain.trained == (True, False)


def test_names_that_are_none_are_refused():
    model = Net(fully(["fc1", "fc2"]), fc1=a, fc2=b)
    with pytest.raises(ValueError, match=r"'fc9' is not a matrix of the model; there are fc1\.weight, fc2\.weight"):
        audit(model, named=[["fc1", "fc9"]])
    with pytest.raises(ValueError, match=r"fc2\.weight 3×5, fc1\.weight 5×4 do not multiply"):
        audit(model, named=[["fc2", "fc1"]])
    with pytest.raises(ValueError, match="two layers at least"):
        audit(model, named=[["fc1"]])
    for wrong in ("fc1", ["fc1", "fc2"], [[1, 2]]):
        with pytest.raises(TypeError, match="a list of chains"):
            audit(model, named=wrong)


@pytest.mark.parametrize("name", ["qkv_proj", "Wqkv", "query_key_value"])
def test_packed_projections_of_no_known_order_are_named(name):
    found = audit({f"h.attn.{name}.weight": torch.randn(12, 4), "h.attn.o_proj.weight": torch.randn(4, 4)}, heads=2)
    assert not found.chains and found.skipped[0][0] == f"h.attn.{name}" and "q_proj.weight" in found.skipped[0][1]


def test_the_reason_of_a_state_dict_says_how_to_name_a_chain():
    state = {"encoder.weight": torch.randn(3, 5), "decoder.weight": torch.randn(5, 3)}
    reason = audit(state).reason
    assert "encoder.weight 3×5, decoder.weight 5×3" in reason and "--chain encoder,decoder" in reason
    assert audit(state, named=[["encoder", "decoder"]]).reason == ""
    assert "no matrix" in audit({}).reason
