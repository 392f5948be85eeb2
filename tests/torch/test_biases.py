"""Biases, frozen and tied layers in every entry point: the literal numbers of autograd, or an error that says why."""

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import linflow as lf  # noqa: E402
import linflow.torch as lt  # noqa: E402
from torch import nn  # noqa: E402

WIDTHS = (3, 5, 4, 2)
PLACES = ("first", "middle", "last")
DTYPE = torch.float64


def made(places=(), widths=WIDTHS, seed=0):
    """A chain of layers with biases at the named places, all drawn; no bias is 0."""
    torch.manual_seed(seed)
    last = len(widths) - 2
    name = {0: "first", last: "last"}
    layers = [
        nn.Linear(a, b, bias=name.get(l, "middle") in places, dtype=DTYPE)
        for l, (a, b) in enumerate(itertools.pairwise(widths))
    ]
    for p in (p for layer in layers for p in layer.parameters()):
        nn.init.normal_(p, std=0.5)
    return nn.Sequential(*layers)


def data(n=3, m=2, seed=1, samples=12):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.standard_normal((samples, n)) + 0.3), torch.tensor(rng.standard_normal((samples, m)))


def extended(X):
    return torch.cat([X, torch.ones_like(X[:, :1])], dim=1)


def literal_weights(model):
    """`W_1, …, W_L` with the bias of the first layer as a row, as NumPy arrays."""
    W = [layer.weight.detach().numpy().T.copy() for layer in model]
    b = model[0].bias
    return W if b is None else [np.vstack([W[0], b.detach().numpy()]), *W[1:]]


def literal_tangent(model, X):
    """T on the product, from autograd: `J Jᵀ` with J the Jacobian of the product by all that is trained."""
    parameters = [p for layer in model for p in layer.parameters() if p.requires_grad]
    n, m = X.shape[1], model[-1].out_features
    extra = model[0].bias is not None

    def product():
        W = torch.cat([model[0].weight.T, model[0].bias[None]]) if extra else model[0].weight.T
        for layer in model[1:]:
            W = W @ layer.weight.T
        return W.reshape(-1)

    rows = []
    for i in range((n + extra) * m):
        grads = torch.autograd.grad(product()[i], parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True)]
        rows.append(torch.cat([g.reshape(-1) for g in filled]))
    J = torch.stack(rows)
    return np.linalg.eigvalsh((J @ J.T).numpy())


def imbalances(weights):
    return [A.T @ A - B @ B.T for A, B in itertools.pairwise(weights)]


def everything(model, X, Y):
    """The four entry points on a model, by name; each a function of no arguments."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad] or model.parameters(), lr=0.01)
    bias = model[0].bias is not None
    f = lt.regression(X, Y, bias=bias)
    return {
        "network": lambda: lt.network(model),
        "Monitor": lambda: lt.Monitor(model, optimizer, f),
        "LocalSmoothnessLR": lambda: lt.LocalSmoothnessLR(optimizer, model, f),
        "init_": lambda: lt.init_(model, "designed", f, rate=0.1),
    }


EVERY = [c for k in range(4) for c in itertools.combinations(PLACES, k)]


@pytest.mark.parametrize("places", EVERY, ids=lambda c: "+".join(c) or "none")
def test_biases_in_every_place(places):
    """A bias of the first layer is a row; any other is refused everywhere, with its place and the way out."""
    model, (X, Y) = made(places), data()
    wrong = next((place for place in ("middle", "last") if place in places), None)
    for name, call in everything(model, X, Y).items():
        if wrong is None:
            assert call() is not None, name
            continue
        with pytest.raises(ValueError, match=f"layer {2 if wrong == 'middle' else 3} of 3 has a bias") as error:
            call()
        assert "nn.Linear(…, bias=False)" in str(error.value), name
    if wrong is None:
        model = made(places)
        net = lt.network(model)
        for W, literal in zip(net.weights, literal_weights(model), strict=True):
            np.testing.assert_array_equal(W.numpy(), literal)
        inputs = extended(X) if places else X
        torch.testing.assert_close(inputs @ net.product(), model(X).detach(), rtol=1e-13, atol=1e-13)
        values = literal_tangent(model, X)
        assert float(lf.TangentOperator(net).least_eigenvalue()) == pytest.approx(values[0], rel=1e-9)


def test_the_rows_of_a_monitor_with_a_bias_are_those_of_autograd():
    """Imbalance, law, T, rate and loss, step by step, momentum and weight decay included."""
    for options in ({}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}):
        model, (X, Y) = made(("first",)), data()
        f = lt.regression(X, Y, bias=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, **options)
        start, literal = literal_weights(model), []
        monitor = lt.Monitor(model, optimizer, f, every=1, exact=True, budget=None)
        for _ in range(6):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(X), Y)
            loss.backward()
            gradient = sum(float(torch.sum(p.grad**2)) for p in model.parameters())
            literal.append((loss.item(), gradient, literal_tangent(model, X), literal_weights(model)))
            optimizer.step()
        monitor.close()
        table = monitor.table()
        for k, (loss, gradient, values, weights) in enumerate(literal):
            drift = max(np.linalg.norm(A - B) for A, B in zip(imbalances(weights), imbalances(start), strict=True))
            assert table["loss"][k] == pytest.approx(loss, rel=1e-12)
            assert table["lambda_min"][k] == pytest.approx(values[0], rel=1e-9)
            assert table["lambda_max"][k] == pytest.approx(values[-1], rel=1e-9)
            assert table["pl"][k] == pytest.approx(f.pl_constant * values[0], rel=1e-9)
            assert table["rate"][k] == pytest.approx(gradient / (loss - f.minimum), rel=1e-9)
            assert table["drift"][k] == pytest.approx(drift, rel=1e-9, abs=1e-15)
        assert (table["law_error"][1:] <= table["rounding"][1:]).all()
        assert table["change"][-1] > 100 * table["rounding"][-1]  # so the law says something
        best = np.linalg.lstsq(extended(X).numpy(), Y.numpy(), rcond=None)[0]
        assert f.minimum == pytest.approx(np.mean((extended(X).numpy() @ best - Y.numpy()) ** 2), rel=1e-12)


def test_steps_with_a_bias_are_those_of_the_descent():
    model, (X, Y) = made(("first",)), data()
    f = lt.regression(X, Y, bias=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    net = lt.network(model)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, f)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X), Y)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        scheduler.step()
    run = lf.gradient_descent(f, net, schedule=lf.schedules.local_smoothness("curvature"), steps=7)
    assert losses == pytest.approx([float(x) for x in run.loss], rel=1e-9)
    assert losses == sorted(losses, reverse=True)


def test_certificate_and_proof_with_a_bias_hold_along_training():
    model, (X, Y) = made(("first",), (2, 6, 1)), data(2, 1)
    lt.init_(model, "imbalanced", 2.0, 0.1 * torch.ones(3, 1))
    f = lt.regression(X, Y, bias=True)
    proof = lt.enclose(model, X, Y, step_size=0.05, until=1e-2)
    cert = lf.certify(f, lt.network(model), algorithm="descent", step_size=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    gaps = []
    for _ in range(proof.steps_bounds(1e-2)[1] + 1):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X), Y)
        loss.backward()
        gaps.append(loss.item() - f.minimum)
        optimizer.step()
    assert gaps[-1] <= 1e-2 * gaps[0] < gaps[-2]
    assert all(gap <= cert.gap_at(0.05 * k) * (1 + 1e-9) for k, gap in enumerate(gaps))


@pytest.mark.parametrize("scheme", ["balanced", "imbalanced", "identity", "designed"])
def test_starts_of_a_chain_with_a_bias(scheme):
    model, (X, Y) = made(("first",), (3, 5, 4, 3)), data(3, 3)
    f = lt.regression(X, Y, bias=True)
    arguments = {"imbalanced": (1.5,), "designed": (f,)}.get(scheme, ())
    options = {"designed": {"rate": 0.2}}.get(scheme, {})
    assert lt.init_(model, scheme, *arguments, generator=torch.Generator().manual_seed(0), **options) is model
    D = imbalances(literal_weights(model))
    if scheme == "balanced":
        assert all(np.linalg.norm(each) < 1e-12 for each in D)
    elif scheme == "imbalanced":
        assert np.linalg.eigvalsh(D[0])[-3:] == pytest.approx([1.5] * 3, rel=1e-9)
    elif scheme == "identity":
        assert torch.equal(model[0].weight, torch.eye(5, 3, dtype=DTYPE)) and not model[0].bias.any()
        assert torch.equal(model(X), X)
    else:
        assert lf.certify(f, lt.network(model)).rate >= 0.2


def test_residual_layers_are_plain_layers_at_the_identity():
    """`x + xA` per layer and the plain chain from `I + A` move alike; D and the rate are those of the plain chain."""
    X, _ = data(3, 3)
    Y = X + 0.1 * torch.tensor(np.random.default_rng(3).standard_normal(X.shape))
    plain = lt.init_(made((), (3, 3, 3, 3)), "identity", std=0.05, generator=torch.Generator().manual_seed(2))
    eye = torch.eye(3, dtype=DTYPE)
    blocks = [(layer.weight.detach().T - eye).requires_grad_() for layer in plain]
    f, net = lt.regression(X, Y), lt.network(plain)
    for _ in range(5):
        W = X
        for A in blocks:
            W = W + W @ A
        slopes = torch.autograd.grad(nn.functional.mse_loss(W, Y), blocks)
        blocks = [(A - 0.1 * S).detach().requires_grad_() for A, S in zip(blocks, slopes, strict=True)]
    run = lf.gradient_descent(f, net, step_size=0.1, steps=5)
    for A, W in zip(blocks, run.final.weights, strict=True):
        torch.testing.assert_close(eye + A, W, rtol=1e-12, atol=1e-13)
    balanced = lt.network(lt.init_(made((), (3, 3, 3, 3)), "identity"))
    assert all(not D.any() for D in lf.imbalance_matrices(balanced))
    # The rate of an identity start: γ L m^{2 − 2/L} with the margin m, for a target near I.
    target = eye + 0.1 * torch.tensor(np.random.default_rng(4).standard_normal((3, 3)))
    g = lf.MatrixFactorization(target)
    m = lf.margin(g, balanced, form="distance")
    row = next(row for row in lf.certify(g, balanced).prior if row.name == "Arora et al. 2018")
    assert row.rate == pytest.approx(2 * 3 * m ** (4 / 3), rel=1e-9)
    with pytest.raises(ValueError, match="std"):
        lf.init.identity((2, 2), std=-1.0)


FROZEN = [c for k in range(1, 4) for c in itertools.combinations(range(3), k)]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("frozen", FROZEN, ids=str)
def test_frozen_layers(frozen, biased):
    """Where some layers are frozen, a network is refused with the way out, and the monitor takes T of the rest."""
    model, (X, Y) = made(("first",) if biased else ()), data()
    for l in frozen:
        model[l].requires_grad_(False)
    calls = everything(model, X, Y)
    if len(frozen) == 3:  # nothing is trained: these are weights
        assert lt.network(model).depth == 3
        with pytest.raises(ValueError, match="layer 1 is frozen"):
            calls["LocalSmoothnessLR"]()
        return
    for name in ("network", "LocalSmoothnessLR", "init_"):
        with pytest.raises(ValueError, match="frozen") as error:
            calls[name]()
        way = {(0,): "regression(model[:1](X), Y)", (0, 1): "regression(model[:2](X), Y)", (2,): "lf.Quadratic"}
        way |= {(1, 2): "lf.Quadratic", (1,): "Monitor follows", (0, 2): "Monitor follows"}
        assert way[frozen] in str(error.value)
    f = lt.regression(X, Y, bias=biased)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    monitor = lt.Monitor(model, optimizer, f, every=1, budget=None)
    values = literal_tangent(model, X)
    loss = nn.functional.mse_loss(model(X), Y)
    slopes = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    row = monitor.rows[0]
    # A T that is singular has a least eigenvalue of rounding.
    assert row["lambda_min"] == pytest.approx(values[0], rel=1e-9, abs=1e-12 * values[-1])
    assert row["lambda_max"] == pytest.approx(values[-1], rel=1e-9)
    assert row["pl"] == pytest.approx(f.pl_constant * values[0], rel=1e-9, abs=1e-12 * values[-1] * f.pl_constant)
    assert row["rate"] == pytest.approx(sum(float(torch.sum(S**2)) for S in slopes) / row["gap"], rel=1e-9)
    assert all(math.isnan(row[name]) for name in ("smoothness", "local_step", "safe_step", "law"))
    assert any("frozen" in note or "not trained" in note for note in monitor.notes)


def test_a_layer_at_the_rate_0_is_frozen_and_one_held_by_no_optimizer_too():
    for groups in (lambda p: [{"params": p[:1], "lr": 0.0}, {"params": p[1:]}], lambda p: p[1:]):
        model, (X, Y) = made(), data()
        optimizer = torch.optim.SGD(groups(list(model.parameters())), lr=0.01)
        monitor = lt.Monitor(model, optimizer, lt.regression(X, Y), every=1, budget=None)
        model[0].requires_grad_(False)
        values = literal_tangent(model, X)
        assert monitor.rows[0]["lambda_max"] == pytest.approx(values[-1], rel=1e-9)
        assert math.isnan(monitor.rows[0]["safe_step"])
        assert any("those of the layers that are trained" in note for note in monitor.notes)
    model = made()
    warm = torch.optim.SGD(model.parameters(), lr=0.0)  # before a warm-up: nothing moves yet, and all will
    assert lt.Monitor(model, warm, lt.regression(X, Y)).rows[0]["safe_step"] > 0


def test_what_is_said_of_frozen_layers_at_an_end_is_true():
    """First layers frozen: a chain on their outputs. Last ones: the quadratic of the product before them."""
    X, Y = data()
    for frozen in (0, 2):
        model = made()
        model[frozen].requires_grad_(False)
        loss = nn.functional.mse_loss(model(X), Y)
        slopes = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        a = 2 / Y.numel()
        if frozen == 0:
            f, rest = lt.regression(model[:1](X), Y), model[1:]
        else:
            S = model[2].weight.detach().T
            f, rest = lf.Quadratic(a * X.T @ X, S @ S.T, a * X.T @ Y @ S.T), model[:2]
        net = lt.network(rest)
        G = net.gradient(f.gradient(net.product()))
        for own, literal in zip(G, slopes, strict=True):
            torch.testing.assert_close(own, literal.T, rtol=1e-10, atol=1e-12)


def test_weight_and_bias_are_one_matrix_or_refused():
    X, Y = data()
    f = lt.regression(X, Y, bias=True)
    for which in ("weight", "bias"):
        model = made(("first",))
        getattr(model[0], which).requires_grad_(False)
        for call in everything(model, X, Y).values():
            with pytest.raises(ValueError, match=f"the {which} of the first layer is frozen and its"):
                call()
    model = made(("first",))
    rest = [p for p in model.parameters() if p is not model[0].bias]
    for groups, words in (
        ([{"params": rest}, {"params": [model[0].bias], "lr": 0.5}], "the bias of layer 1 has its own options"),
        ([{"params": rest, "weight_decay": 0.1}, {"params": [model[0].bias]}], "the bias of layer 1 has its own opt"),
        ([{"params": rest}], "the bias of layer 1 is not trained by the optimizer"),
    ):
        optimizer = torch.optim.SGD(groups, lr=0.01)
        with pytest.raises(ValueError, match=words):
            lt.LocalSmoothnessLR(optimizer, model, f)
        monitor = lt.Monitor(model, optimizer, f)
        (note,) = (note for note in monitor.notes if words in note)
        assert "law of the imbalances is not followed" in note and note.endswith("of one rate for all layers")
    own = torch.optim.SGD([{"params": rest}, {"params": [model[0].bias]}], lr=0.01)  # groups alike are one
    assert lt.LocalSmoothnessLR(own, model, f).get_last_lr()[0] > 0


def test_an_objective_without_the_column_of_ones_is_refused():
    X, Y = data()
    model = made(("first",))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    plain = lt.regression(X, Y)
    for call in (
        lambda: lt.Monitor(model, optimizer, plain),
        lambda: lt.LocalSmoothnessLR(optimizer, model, plain),
        lambda: lt.init_(model, "designed", plain, rate=0.1),
    ):
        with pytest.raises(ValueError, match=r"the first layer has a bias.*regression\(X, Y, bias=True\)"):
            call()
    single = nn.Sequential(nn.Linear(3, 2, dtype=DTYPE))  # one layer: its bias is a row, not outside
    assert lt.network(single).widths == (4, 2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_last_bias_leaves_law_and_t_as_they_are(momentum):
    """Without an objective the monitor takes it; centred data make the loss a sum, as the error says."""
    model, (X, Y) = made(("first", "last")), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
    monitor = lt.Monitor(model, optimizer, every=1, exact=True, budget=None)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()
    monitor.close()
    table = monitor.table()
    assert (table["law_error"][1:] <= table["rounding"][1:]).all() and table["change"][-1] > 1e-4
    assert table["lambda_min"][-1] == pytest.approx(literal_tangent(model, X)[0], rel=1e-9)
    with pytest.raises(ValueError, match="added outside the product"):
        lt.Monitor(model, optimizer, lt.regression(X, Y, bias=True))


def test_centred_inputs_split_the_loss_at_a_last_bias():
    X, Y = data()
    X = X - X.mean(dim=0)
    model = made(("last",))
    alone = lt.network([layer.weight for layer in model], convention="torch")
    f = lt.regression(X, Y)
    bias = model[-1].bias.detach()
    own = f.gap(alone.product()) + float(torch.mean((Y.mean(dim=0) - bias) ** 2))
    loss = nn.functional.mse_loss(model(X), Y)
    assert loss.item() - f.minimum + float(torch.mean(Y.mean(dim=0) ** 2)) == pytest.approx(own, rel=1e-12)
    slopes = torch.autograd.grad(loss, [layer.weight for layer in model])
    for G, literal in zip(alone.gradient(f.gradient(alone.product())), slopes, strict=True):
        torch.testing.assert_close(G, literal.T, rtol=1e-10, atol=1e-13)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    weights = [layer.weight for layer in model]
    monitor = lt.Monitor(weights, optimizer, f, convention="torch")
    assert any("also trains parameters that are not layers" in note for note in monitor.notes)
    with pytest.raises(ValueError, match="parameters that are not layers"):
        lt.LocalSmoothnessLR(optimizer, weights, f, convention="torch")


def test_starts_and_rebalancing_leave_a_last_bias():
    model, (X, _) = made(("first", "last")), data()
    bias = model[-1].bias.detach().clone()
    before = model(X).detach()
    lt.rebalance_(model)
    torch.testing.assert_close(model(X), before, rtol=1e-9, atol=1e-12)
    lt.init_(model, "imbalanced", 1.0)
    assert torch.equal(model[-1].bias, bias)
    product = torch.tensor(np.random.default_rng(0).standard_normal((4, 2)))
    lt.balanced_(model, product)
    torch.testing.assert_close(model(X), extended(X) @ product + bias, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("how", ["parameter", "transpose", "bias"])
def test_tied_layers_are_refused_everywhere(how, frozen, biased):
    model, (X, Y) = made(("first",) if biased or how == "bias" else (), (3, 3, 3, 3)), data(3, 3)
    if how == "parameter":
        model[1].weight = model[0].weight
    elif how == "transpose":
        model[2].weight = nn.Parameter(model[1].weight.T)
    else:
        model[0].bias = nn.Parameter(model[1].weight.detach()[0])
    if frozen:
        model[2].requires_grad_(False)
    for call in everything(model, X, Y).values():
        with pytest.raises(ValueError, match=r"a layer occurs twice \(tied weights\).*lf\.TiedLayers"):
            call()


def test_a_bias_in_short_floats_and_another_device_kind():
    model = made(("first",)).to(torch.float32)
    lt.balanced_(model, generator=torch.Generator().manual_seed(0))
    assert model[0].bias.dtype == torch.float32
    assert lt.network(model).weights[0].dtype == DTYPE and lt.network(model).widths == (4, 5, 4, 2)
