"""The training tools on a device that is not the CPU: devices do not mix, and the numbers are the same.

Run by `torch/test_device.py` in a process of its own: PyTorch counts devices at the first derivative.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import linflow as lf

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

import linflow.torch as lt  # noqa: E402 - after the check for PyTorch
from tests.pretended_device import Pretended, pretended_device  # noqa: E402 - after the check for PyTorch
from tests.torch.test_autograd import CASES, target_near  # noqa: E402 - after the check for PyTorch

WIDTHS = [(3, 4, 2), (4, 20, 17, 3), (12, 20, 15, 11), (5, 2, 4)]  # dense, thin probes, iteration, bottleneck


@pytest.fixture
def device():
    with pretended_device() as found:
        yield found


def make(widths, device, dtype=torch.float64):
    rng = np.random.default_rng(0)
    layers = []
    for a, b in pairwise(widths):
        layer = torch.nn.Linear(a, b, bias=False, dtype=dtype, device=device)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(rng.standard_normal((b, a)) / a**0.5))
        layers.append(layer)
    X, Y = (torch.from_numpy(rng.standard_normal((30, k))).to(device, dtype) for k in (widths[0], widths[-1]))
    return torch.nn.Sequential(*layers), X, Y


def train(widths, device, where, **options):
    model, X, Y = make(widths, device)
    f = lt.regression(X, Y, "half")
    if where == "NumPy":
        f = lf.LinearRegression(X.cpu().numpy(), Y.cpu().numpy())
    elif where == "cpu":
        f = lt.regression(X.cpu(), Y.cpu(), "half")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = lt.LocalSmoothnessLR(optimizer, model, f, **options)
    with lt.Monitor(model, optimizer, f, every=2, exact=True, budget=None) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            (0.5 * torch.sum((model(X) - Y) ** 2)).backward()
            optimizer.step()
            scheduler.step()
    assert not [note for note in monitor.notes if "first gradient" in note or "law" in note]
    assert all(p.device == X.device for p in model.parameters())
    return monitor.table()


def test_the_device_is_strict(device):
    x = torch.ones(2, device=device)
    assert isinstance(x, Pretended) and x.device.type == "pretended" and (2 * x).sum().item() == 4
    with pytest.raises(RuntimeError, match="on one device"):
        _ = x + torch.ones(2)
    with pytest.raises(RuntimeError, match="numpy"):
        x.numpy()
    assert not isinstance(x.cpu(), Pretended)


@pytest.mark.parametrize("where", ["same", "cpu", "NumPy"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_training(widths, where, device):
    here, there = train(widths, "cpu", "same"), train(widths, device, where)
    for name, column in here.items():
        # The same operations; other memory layouts, and NumPy's, round otherwise, as five steps amplify.
        if name not in {"law_error", "rounding", "lambda_min_error"}:
            np.testing.assert_allclose(there[name], column, rtol=1e-6, atol=1e-9, err_msg=name)
    assert (there["law_error"][1:] <= there["rounding"][1:]).all()


@pytest.mark.parametrize("rule", ["step", "curvature", "two layers", "printed", "xu2025"])
def test_the_rules_of_the_scheduler(rule, device):
    here, there = (train((3, 4, 2), where, "same", rule=rule) for where in ("cpu", device))
    np.testing.assert_allclose(there["lr"], here["lr"], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_starts(dtype, device):
    here, _, _ = make((3, 5, 2), "cpu", dtype)
    there, _, _ = make((3, 5, 2), device, dtype)
    f = lf.MatrixFactorization(torch.ones(3, 2, dtype=torch.float64, device=device))
    f_here = lf.MatrixFactorization(torch.ones(3, 2, dtype=torch.float64))
    ask = 2.0 if dtype == torch.float64 else 1.0
    for scheme, arguments in (
        ("balanced", ((),)),
        ("imbalanced", ((2.0,),)),
        ("designed", ((f,), (f_here,))),
    ):
        options = {"rate": ask} if scheme == "designed" else {}
        for each, given in ((here, arguments[-1]), (there, arguments[0])):
            lt.init_(each, scheme, *given, generator=torch.Generator().manual_seed(0), **options)
        for p, q in zip(here.parameters(), there.parameters(), strict=True):
            assert q.device.type == "pretended" and q.dtype == dtype
            torch.testing.assert_close(q.cpu(), p, rtol=1e-6, atol=1e-9)
    product = torch.full((3, 2), 0.25, dtype=torch.float64, device=device)
    lt.balanced_(there, product, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lt.network(there).product().cpu(), product.cpu(), rtol=0.02, atol=0.02)


CERTIFIED = list(CASES.values())


@pytest.mark.parametrize("case", range(len(CERTIFIED)))
def test_the_certified_rate_and_its_derivatives(case, device):
    widths, seed, off, _ = CERTIFIED[case]
    network = lf.init.gaussian(widths, rng=seed)
    target = target_near(network, off, seed)
    found = []
    for where in ("cpu", device):
        f = lf.MatrixFactorization(torch.from_numpy(target).to(where))
        weights = [torch.from_numpy(np.array(W)).to(where).requires_grad_() for W in network.weights]
        rate = lt.certified_rate(f, weights)
        assert rate.device.type == torch.device(where).type and rate.dtype == torch.float64
        slopes = torch.autograd.grad(rate, weights)
        assert all(g.device == W.device for g, W in zip(slopes, weights, strict=True))
        found.append([rate.item(), *(g.cpu() for g in slopes)])
    for a, b in zip(*found, strict=True):
        # The same operations.
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-9, atol=1e-12)
