"""The certified rate as a tensor: equal to the certificate's, and with the derivatives of difference quotients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linflow as lf
from linflow.bounds import THEOREMS, scalar_chain
from tests.random_networks import networks

torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")

import linflow.torch as lt  # noqa: E402 - after the check for PyTorch
from linflow.torch import certified  # noqa: E402

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is present")),
]
BOUNDS = {theorem.name for theorem in THEOREMS if theorem.smooth}


def tensors(network, device="cpu"):
    return [torch.as_tensor(np.array(W), device=device).requires_grad_() for W in network.weights]


def target_near(network, off, seed):
    W = network.product()
    E = np.random.default_rng(seed).standard_normal(W.shape)
    return W + off * np.linalg.svd(W)[1].min() * E / np.linalg.norm(E)


@given(networks(), st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 3.0]))
@settings(max_examples=25)
def test_the_rate_is_that_of_the_best_bound_of_the_certificate(network, seed, off):
    f = lf.MatrixFactorization(torch.as_tensor(target_near(network, off, seed)))
    weights = tensors(network)
    rate = lt.certified_rate(f, lf.Network(weights, network.scale))
    certificate = lf.certify(f, lf.Network([W.detach() for W in weights], network.scale))
    rows = [g.rate for g in certificate.guarantees if g.name in BOUNDS]
    # The margin is computed by two formulas that differ by rounding of W, which the inverse of a bound may amplify.
    assert abs(rate.item() - max(rows)) <= 1e-9 * max(rows) + 1e-12 * f.gap(f.minimizer * 0)
    assert rate.item() <= certificate.rate * (1 + 1e-9) + 1e-12 * f.gap(f.minimizer * 0)
    assert rate.shape == () and rate.dtype == torch.float64


CASES = {
    "two layers": ((3, 6, 2), 0, 0.3, "two layers"),
    "two layers, square": ((3, 4, 3), 1, 0.1, "two layers, n = m"),
    "three layers": ((2, 7, 6, 1), 5, 3.0, None),
    "product": ((2, 3, 3, 2), 3, 0.05, "any depth, operator floors"),
    "four layers": ((2, 3, 4, 3, 2), 4, 0.05, None),
    "scalars": ((1, 1, 1, 1), 2, 0.3, None),
}


def drawn(case, device):
    """Return the objective, the weights and the best bound of a case."""
    widths, seed, off, name = CASES[case]
    network = lf.init.gaussian(widths, rng=seed)
    f = lf.MatrixFactorization(torch.as_tensor(target_near(network, off, seed), device=device))
    return f, tensors(network, device), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_derivatives(case, device):
    f, weights, name = drawn(case, device)
    if name is not None:
        rows = lf.certify(f, lf.Network(weights)).guarantees
        assert max((g for g in rows if g.name in BOUNDS), key=lambda g: g.rate).name == name
    rate = lt.certified_rate(f, weights)
    assert rate.device == weights[0].device and rate.item() > 0
    # Rates of order one; the second-order error of a difference quotient of step 1e-6, and 1e-13/1e-6 of noise.
    torch.autograd.gradcheck(lambda *W: lt.certified_rate(f, W), weights, eps=1e-6, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_a_rate_without_derivatives_is_the_same(case, device):
    f, weights, _ = drawn(case, device)
    rate, fixed = lt.certified_rate(f, weights), lt.certified_rate(f, [W.detach() for W in weights])
    with torch.no_grad():
        assert torch.equal(lt.certified_rate(f, weights), fixed)
    assert rate.requires_grad and not fixed.requires_grad
    assert (fixed.dtype, fixed.shape, fixed.device) == (torch.float64, (), weights[0].device)
    # Two formulas, as above.
    assert fixed.item() == pytest.approx(rate.item(), rel=1e-9, abs=0)


ALONE = {
    "scalar chain, exact": ((1, 1, 1, 1), 1.0),
    "scalar chain, closed form": ((1, 1, 1, 1), 1.0),
    "two layers": ((4, 6, 3), 1.0),
    "two layers, n = m": ((3, 4, 3), 1.0),
    "three layers, Δ*": ((2, 7, 6, 1), 3.0),
    "unimodal imbalance": ((2, 2, 2), 10.0),
    "any depth, imbalance only": ((2, 2, 2), 10.0),
    "any depth, imbalance and product": ((2, 3, 4, 2), 1.0),
    "any depth, operator floors": ((2, 3, 4, 2), 1.0),
}


@pytest.mark.parametrize("name", ALONE)
def test_derivatives_of_each_bound(name, monkeypatch):
    """Each bound as if it were the only one, on weights where it is positive; the first layer is made larger."""
    widths, first = ALONE[name]
    (theorem,) = (theorem for theorem in THEOREMS if theorem.name == name)
    monkeypatch.setattr(certified, "THEOREMS", (theorem,))
    network = lf.init.gaussian(widths, rng=6)
    network = lf.Network([first * network.weights[0], *network.weights[1:]])
    f = lf.MatrixFactorization(torch.as_tensor(target_near(network, 0.05, 6)))
    weights = tensors(network)
    rate = lt.certified_rate(f, weights)
    assert rate.item() > 0
    (row,) = (g for g in lf.certify(f, lf.Network(weights)).guarantees if g.name == name)
    assert abs(rate.item() - row.rate) <= 1e-9 * row.rate
    slopes = torch.autograd.grad(rate, weights)
    assert max(float(torch.max(torch.abs(g))) for g in slopes) > 0
    scale = max(1.0, rate.item())  # as above, relative to the rate
    torch.autograd.gradcheck(lambda *W: lt.certified_rate(f, W) / scale, weights, eps=1e-6, atol=2e-6, rtol=1e-5)


def differences(rate, weights):
    """Central differences in units of each entry, extrapolated once, with how far those of a layer may be off."""
    for l, W in enumerate(weights):
        coarse, fine = torch.zeros_like(W), torch.zeros_like(W)
        for quotients, step in ((coarse, 1e-4), (fine, 5e-5)):
            for at in np.ndindex(*W.shape):
                ends = [[V.detach().clone() for V in weights] for _ in range(2)]
                ends[0][l][at] *= 1 + step
                ends[1][l][at] *= 1 - step
                quotients[at] = (rate(ends[0]).item() - rate(ends[1]).item()) / (2 * step)
        yield (4 * fine - coarse) / 3, float(torch.max(torch.abs(fine - coarse)))


UNEQUAL = [[[1.0, 0.2], [0.1, 0.9]], [[330.0, 90.0], [0.0, 240.0]], [[0.7], [0.4]]]


def test_derivatives_where_layers_differ_in_size():
    weights = [torch.tensor(W, dtype=torch.float64, requires_grad=True) for W in UNEQUAL]
    f = lf.MatrixFactorization(1.05 * (weights[0] @ weights[1] @ weights[2]).detach())
    slopes = torch.autograd.grad(lt.certified_rate(f, weights), weights)
    # Difference quotients of steps 1e-4 and 1e-5 agree in these digits, 4.16160275 and 4.16160363.
    assert float(slopes[0][0, 0]) == pytest.approx(4.16160364, abs=1e-7)


@pytest.mark.parametrize("sizes", [(1, 300, 1, 1), (1e-3, 1, 50, 1), (20, 0.1, 0.1, 20), (1, 1, 1, 1e3)])
@pytest.mark.parametrize("name", ALONE)
def test_derivatives_of_each_bound_where_layers_differ_in_size(name, sizes, monkeypatch):
    widths = (2, 2, 3, 2) if ALONE[name][0] == (2, 3, 4, 2) else ALONE[name][0]  # fewer entries, as many layers
    (theorem,) = (theorem for theorem in THEOREMS if theorem.name == name)
    monkeypatch.setattr(certified, "THEOREMS", (theorem,))
    network = lf.init.gaussian(widths, rng=6)
    network = lf.Network([size * W for size, W in zip(sizes, network.weights, strict=False)])
    f = lf.MatrixFactorization(torch.as_tensor(target_near(network, 0.05, 6)))
    weights = tensors(network)
    rate = lt.certified_rate(f, weights)
    slopes = torch.autograd.grad(rate, weights)
    if rate.item() == 0:
        assert all(torch.equal(g, torch.zeros_like(g)) for g in slopes)
        return
    largest, close = 0.0, 0.0
    quotients = differences(lambda W: lt.certified_rate(f, W), weights)
    for W, slope, (quotient, noise) in zip(weights, slopes, quotients, strict=True):
        relative = slope * W.detach()
        # Quotients of steps 1e-4 and 5e-5 differ by their rounding, that of eigenvalues of large layers, and by the
        # square of the step; ten times that is the worst of some dozen entries on any processor. What is taken off
        # the rate for rounding, up to 1e-7 of it, counts as constant.
        assert float(torch.max(torch.abs(relative - quotient))) <= 1e-6 * rate.item() + 10 * noise
        if float(torch.max(torch.abs(relative))) > largest:
            largest, close = float(torch.max(torch.abs(relative))), noise
    assert close <= 1e-2 * largest  # the comparison says something


def test_derivatives_under_a_blind_objective_and_a_scale():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((10, 2)) @ rng.standard_normal((2, 4))
    network = lf.init.gaussian((4, 7, 2), rng=1)
    Y = X @ (0.5 * network.product()) + 0.05 * rng.standard_normal((10, 2))
    f = lf.LinearRegression(torch.as_tensor(X), torch.as_tensor(Y))
    weights = tensors(network)
    assert lt.certified_rate(f, lf.Network(weights, 0.5)).item() > 0
    # As above, for rates up to ten.
    torch.autograd.gradcheck(
        lambda *W: lt.certified_rate(f, lf.Network(W, 0.5)), weights, eps=1e-6, atol=2e-5, rtol=1e-5
    )


@pytest.mark.parametrize("widths", [(3, 4, 2), (2, 3, 3, 2), (1, 2, 2, 1)])
def test_the_operator_is_differentiable(widths):
    weights = tensors(lf.init.gaussian(widths, rng=0))
    for end in ("least", "greatest"):
        # Eigenvalues of order ten.
        torch.autograd.gradcheck(
            lambda *W, end=end: lf.TangentOperator(W).eigenvalue(end).value, weights, eps=1e-6, atol=1e-5, rtol=1e-5
        )


def test_the_user_defined_objective():
    Y = torch.as_tensor(np.random.default_rng(0).standard_normal((3, 2)))
    f = lf.Objective(
        lambda W: 0.5 * float(((W - Y) ** 2).sum()),
        lambda W: W - Y,
        shape=(3, 2),
        strong_convexity=1.0,
        smoothness=1.0,
        minimizer=Y,
    )
    weights = tensors(lf.init.gaussian((3, 9, 2), rng=0))
    a, b = lt.certified_rate(f, weights), lt.certified_rate(lf.MatrixFactorization(Y), weights)
    slopes = zip(torch.autograd.grad(a, weights), torch.autograd.grad(b, weights), strict=True)
    assert abs(a.item() - b.item()) <= 1e-9 * b.item()  # another allowance for rounding
    for A, B in slopes:
        torch.testing.assert_close(A, B, rtol=1e-6, atol=1e-9)


def test_edges():
    one = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    f = lf.MatrixFactorization(torch.eye(2, dtype=torch.float64))
    assert lt.certified_rate(f, [one]).item() == 2.0
    zero = [torch.zeros(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    rate = lt.certified_rate(f, zero)
    rate.backward()
    assert rate.item() == 0.0 and all(torch.equal(W.grad, torch.zeros_like(W)) for W in zero)
    # At the minimiser itself the gap is 0, and its square root has no derivative to spoil the rest.
    weights = [torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64)).requires_grad_() for _ in range(2)]
    f = lf.MatrixFactorization((weights[0] @ weights[1]).detach())
    slopes = torch.autograd.grad(lt.certified_rate(f, weights), weights)
    assert all(bool(torch.isfinite(g).all()) for g in slopes)
    with pytest.raises(TypeError, match="tensors are needed"):
        lt.certified_rate(f, [np.eye(2), np.eye(2)])
    with pytest.raises(ValueError, match="2×2"):
        lt.certified_rate(f, [torch.ones(2, 3), torch.ones(3, 3)])


def test_repeated_eigenvalues_give_a_finite_derivative_that_is_not_claimed():
    """At the kink of a spread the derivatives from both sides differ; what comes back is finite."""
    f = lf.MatrixFactorization(torch.zeros(3, 2, dtype=torch.float64) + 0.3)
    W = torch.tensor([[1.0, 0.2], [0.1, 0.8], [0.3, 0.1]], dtype=torch.float64)
    network = lf.init.imbalanced((3, 6, 2), 1.0, W, rng=0, like=W)
    away = torch.zeros(3, 6, dtype=torch.float64)
    away[0, 0] = 1.0
    weights = [A.requires_grad_() for A in network.weights]
    rate = lt.certified_rate(f, weights)
    assert rate.item() > 0
    slopes = torch.autograd.grad(rate, weights)
    assert all(bool(torch.isfinite(g).all()) for g in slopes)

    def moved(t):
        return lt.certified_rate(f, [weights[0].detach() + t * away, weights[1].detach()]).item()

    right, left = ((moved(t) - rate.item()) / t for t in (1e-5, -1e-5))
    assert abs(right - left) > 0.01  # a kink, and no derivative to claim


@pytest.mark.parametrize("depth", [2, 3])
def test_the_closed_form_of_scalars_has_finite_derivatives_at_a_product_of_zero(depth):
    """sqrt((Π c_i)² + (L w^{2−2/L})²) is 0 there if two offsets are the smallest: its root has no derivative."""
    w = torch.zeros((), dtype=torch.float64, requires_grad=True)
    c = torch.zeros(depth, dtype=torch.float64, requires_grad=True)
    value = scalar_chain._closed_followed(c, w, None)
    assert value.item() == 0.0
    assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(value, [c, w]))


def test_a_bound_on_a_null_set_warns_that_it_has_no_derivative(monkeypatch):
    W = 0.8 * torch.eye(2, dtype=torch.float64) + 0.1
    f = lf.MatrixFactorization(1.01 * W)
    # Beside balanced and homogeneous layers other bounds say as much, and have a derivative.
    for widths, imbalance in (((2, 3, 2), 0.0), ((2, 3, 3, 2), 0.0), ((2, 2, 2), 0.2), ((2, 2, 2, 2), 0.2)):
        weights = [A.requires_grad_() for A in lf.init.imbalanced(widths, imbalance, W, rng=0, like=W).weights]
        rate = lt.certified_rate(f, weights)
        rows = [g.rate for g in lf.certify(f, [A.detach() for A in weights]).guarantees if g.name in BOUNDS]
        # The same value by two theorems, with allowances for rounding of their own.
        assert abs(rate.item() - max(rows)) <= 1e-9 * max(rows)
        assert max(float(torch.linalg.norm(g)) for g in torch.autograd.grad(rate, weights)) > 0.01
    monkeypatch.setattr(certified, "THEOREMS", [theorem for theorem in THEOREMS if theorem.null_set])
    with pytest.warns(UserWarning, match=r"homogeneous.*perturb the weights"):
        rate = lt.certified_rate(f, weights)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(rate, weights))
    with torch.no_grad():
        assert lt.certified_rate(f, weights).item() == rate.item()  # nothing is asked for, nothing is said


@pytest.mark.parametrize("seed", range(3))
def test_a_start_is_improved_by_climbing(seed):
    """Gradient ascent at constant size; what it gains the certificate and the flow confirm."""
    f = lf.MatrixFactorization(0.5 * torch.eye(3, dtype=torch.float64))
    network = lf.init.gaussian((3, 8, 3), 0.6, rng=seed)
    weights, size = tensors(network), sum(np.linalg.norm(W) ** 2 for W in network.weights)
    first = lf.certify(f, lf.Network(weights)).rate
    for k in range(60):
        slopes = torch.autograd.grad(lt.certified_rate(f, weights), weights)
        length = sum(float(torch.sum(g**2)) for g in slopes) ** 0.5
        with torch.no_grad():
            moved = [W + 0.1 / (1 + k / 10) * g / length for W, g in zip(weights, slopes, strict=True)]
            shrink = (size / sum(float(torch.sum(W**2)) for W in moved)) ** 0.5
        weights = [(shrink * W).requires_grad_() for W in moved]
    certificate = lf.certify(f, lf.Network(weights))
    assert certificate.rate >= 1.5 * first > 0
    run = lf.gradient_flow(f, lf.Network(weights), until=1e-6)
    assert certificate.check(run).holds
