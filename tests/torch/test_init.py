"""The in-place initialisers: what they promise of the weights as the model stores them, and torch's conventions."""

from __future__ import annotations

import math
import types
from itertools import pairwise

import numpy as np
import pytest

import linflow as lf

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

import linflow.torch as lt  # noqa: E402 - after the check for PyTorch

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is present")),
]


def make_model(widths, dtype=torch.float32, device="cpu"):
    return torch.nn.Sequential(
        *(torch.nn.Linear(a, b, bias=False, dtype=dtype, device=device) for a, b in pairwise(widths))
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def as_stored(model):
    """`W_1, …, W_L` by the definition of `nn.Linear`: `x ↦ x weightᵀ`."""
    return [layer.weight.detach().cpu().double().numpy().T for layer in model]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 5, 2), (2, 4, 4, 3), (4, 4, 4, 4)])
@pytest.mark.parametrize("imbalance", [0.0, 1.5, -2.0])
def test_imbalance_and_product(widths, imbalance, dtype, device):
    n, m = widths[0], widths[-1]
    widths = (n, *(h + abs(n - m) for h in widths[1:-1]), m)  # room for the spare modes
    W = np.random.default_rng(1).standard_normal((n, m))
    model = make_model(widths, dtype, device)
    parameters = list(model.parameters())
    assert lt.imbalanced_(model, imbalance, W, generator=seeded()) is model
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
    assert all(p.requires_grad and p.is_leaf and p.dtype == dtype for p in parameters)
    expected = lf.init.imbalanced(widths, imbalance, W, rng=int(torch.randint(2**62, (), generator=seeded())))
    weights = as_stored(model)
    size = max(np.linalg.norm(A) for A in expected.weights)
    eps = torch.finfo(dtype).eps
    for A, B in zip(weights, expected.weights, strict=True):
        assert np.linalg.norm(A - B) <= eps * size  # half a unit for each entry
    # The model computes x ↦ x W; products of up to three matrices, each off by eps, in an arithmetic of the dtype.
    out = model(torch.eye(n, dtype=dtype, device=device)).detach().cpu().double().numpy()
    assert np.linalg.norm(out - W) <= 20 * eps * size ** len(weights)
    k = min(n, m)
    for A, B in pairwise(weights):
        values = np.linalg.eigvalsh(A.T @ A - B @ B.T)
        near = np.sort(np.abs(values - imbalance))[:k]
        assert (near <= 10 * eps * size**2).all()


def test_balanced():
    model = lt.balanced_(make_model((3, 6, 4, 2), torch.float64), generator=seeded())
    # Products of matrices of size one.
    assert all(np.linalg.norm(A.T @ A - B @ B.T) < 1e-13 for A, B in pairwise(as_stored(model)))
    drawn = [
        np.prod(as_stored(lt.balanced_(make_model((1, 1, 1)), std=3.0, generator=seeded(k)))) for k in range(400)
    ]
    # 400 draws of variance 9: five standard deviations of its estimate are 9 · 5 · sqrt(2/400).
    assert abs(np.mean(np.square(drawn)) - 9) <= 9 * 5 * np.sqrt(2 / 400)


def test_generators():
    def weights(**options):
        return torch.cat([p.detach().flatten() for p in lt.balanced_(make_model((3, 5, 3)), **options).parameters()])

    torch.manual_seed(3)
    first = weights()
    assert not torch.equal(weights(), first)
    torch.manual_seed(3)
    assert torch.equal(weights(), first)
    state = torch.random.get_rng_state()
    a, b = weights(generator=seeded(5)), weights(generator=seeded(5))
    assert torch.equal(a, b) and not torch.equal(a, weights(generator=seeded(6)))
    torch.manual_seed(4)
    make_model((3, 5, 3))
    assert not torch.equal(state, torch.random.get_rng_state())
    generator = seeded(5)
    weights(generator=generator)
    assert not torch.equal(weights(generator=generator), a)  # the generator moves on


def test_lists_conventions_and_scale():
    W = np.random.default_rng(0).standard_normal((2, 3))
    product = [torch.full((2, 4), math.nan), torch.full((4, 3), math.inf)]  # as torch.empty may leave them
    assert lt.balanced_(product, W, scale=0.5, generator=seeded()) is product
    stored = [torch.empty(4, 2), torch.empty(3, 4)]
    lt.balanced_(stored, W, scale=0.5, convention="torch", generator=seeded())
    for A, B in zip(product, stored, strict=True):
        assert torch.equal(A.T, B)
    # float32 products of matrices of size 2.
    np.testing.assert_allclose(0.5 * (product[0] @ product[1]).numpy(), W, atol=1e-5)
    layers = list(make_model((2, 4, 3)))
    lt.balanced_(layers, W, scale=0.5, generator=seeded())
    assert torch.equal(layers[0].weight, stored[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("widths", [(3, 4, 2), (2, 5, 4, 3), (3, 3, 3, 3)])
def test_a_designed_rate_is_certified_for_the_weights_as_stored(widths, dtype):
    rng = np.random.default_rng(0)
    f = lf.MatrixFactorization(torch.as_tensor(rng.standard_normal((widths[0], widths[-1]))))
    model = make_model(widths, dtype)
    assert lt.designed_(model, f, rate=3.0, generator=seeded()) is model
    rate = lf.certify(f, lt.network(model)).rate
    # Not less than asked, and more only by what rounding asks for, as the rate is near linear in the weights.
    assert 3.0 <= rate <= 3.0 * (1 + 1e4 * torch.finfo(dtype).eps)


def test_a_designed_descent_takes_its_steps():
    rng = np.random.default_rng(0)
    X, Y = torch.as_tensor(rng.standard_normal((20, 3))), torch.as_tensor(rng.standard_normal((20, 2)))
    f, model = lt.regression(X, Y), make_model((3, 6, 2))
    lt.designed_(model, f, algorithm="descent", steps=200, until=1e-4, generator=seeded())
    certificate = lf.certify(f, lt.network(model), algorithm="descent")
    optimizer = torch.optim.SGD(model.parameters(), lr=certificate.step_size)
    gaps = []
    for _ in range(201):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(X.float()), Y.float())
        loss.backward()
        optimizer.step()
        gaps.append(f.gap(lt.network(model).product()))
    assert gaps[-1] <= 1e-4 * gaps[0]
    lt.designed_(model, f, algorithm="descent", until=1e-2, generator=seeded())
    assert np.isfinite(lf.certify(f, lt.network(model), algorithm="descent").steps_to(1e-2))


def test_what_cannot_be_designed_leaves_the_weights(monkeypatch):
    f = lf.MatrixFactorization(torch.ones(3, 3, dtype=torch.float64))
    model = make_model((3, 2, 3))
    kept = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="below min"):
        lt.designed_(model, f, rate=1.0)
    with pytest.raises(ValueError, match="rate is needed"):
        lt.designed_(make_model((3, 3, 3)), f)
    # A dtype so coarse that nothing is certified of the rounded weights.
    coarse = make_model((3, 5, 3), torch.bfloat16)
    before = [p.detach().clone() for p in coarse.parameters()]
    monkeypatch.setattr("linflow.torch.initialize._RETRIES", 2)  # all are alike here
    nothing = types.SimpleNamespace(rate=0.25, steps_to=lambda fraction: 99.0)
    monkeypatch.setattr("linflow.torch.initialize._certified", lambda found, layers: nothing)
    with pytest.raises(ValueError, match=r"rounded to torch\.bfloat16 the start certifies 99 steps only"):
        lt.designed_(coarse, f, algorithm="descent", steps=40)
    with pytest.raises(ValueError, match=r"the rate 0\.25 only"):
        lt.designed_(coarse, f, rate=1.0)
    for p, q in zip([*model.parameters(), *coarse.parameters()], [*kept, *before], strict=True):
        assert torch.equal(p, q)


def test_schemes_by_name():
    a = lt.init_(make_model((3, 5, 2)), "imbalanced", 2.0, generator=seeded())
    b = lt.imbalanced_(make_model((3, 5, 2)), 2.0, generator=seeded())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    with pytest.raises(ValueError, match="scheme is 'kaiming'"):
        lt.init_(a, "kaiming")
    with pytest.raises(ValueError, match="has a bias"):
        lt.init_(torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3))))
    with pytest.raises(ValueError, match="too small"):
        lt.balanced_(make_model((3, 2, 3)))


def test_a_rate_that_is_no_number_is_refused_by_name():
    f = lf.MatrixFactorization(torch.ones(3, 3, dtype=torch.float64))
    with pytest.raises((TypeError, ValueError), match="rate is 'fast'"):
        lt.designed_(make_model((3, 3, 3)), f, rate="fast")
    with pytest.raises((TypeError, ValueError), match="steps is 'few'"):
        lt.designed_(make_model((3, 3, 3)), f, algorithm="descent", steps="few")
