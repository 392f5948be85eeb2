"""The same product in balanced layers or in layers of a prescribed imbalance.

Products and imbalances are those wanted to rounding: 1e-13 of the size of the layers.
"""

import copy
import math
from dataclasses import astuple

import numpy as np
import pytest

import linflow as lf

ROUND = 1e-13


@pytest.mark.parametrize(
    "widths", [(1, 1, 1), (3, 5, 2), (2, 7, 4), (4, 4, 4, 4), (3, 2, 5, 3), (5, 3, 6, 4, 2), (3, 1, 4)]
)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_balanced_layers_with_the_same_product(widths, scale, rng):
    net = lf.Network(lf.init.gaussian(widths, rng=rng).weights, scale)
    found = lf.rebalance(net)
    size = net.magnitude() / scale
    new = found.network
    assert new.scale == scale and new.widths == net.widths
    np.testing.assert_allclose(new.product(), net.product(), atol=ROUND * net.magnitude())
    assert found.change < ROUND and found.after.imbalance < ROUND * size ** (2 / net.depth)
    assert found.before.imbalance == pytest.approx(
        max(np.linalg.norm(D) for D in lf.imbalance_matrices(net)), rel=1e-12
    )
    # Balanced layers have the least sum of squares, L Σ σ^{2/L}.
    sigma = np.linalg.svd(net.product() / scale, compute_uv=False)
    least = net.depth * np.sum(sigma[: min(widths)] ** (2 / net.depth))
    assert sum(np.linalg.norm(W) ** 2 for W in new.weights) == pytest.approx(least, rel=1e-6)
    again = lf.rebalance(new)
    for W, V in zip(new.weights, again.network.weights, strict=True):
        np.testing.assert_allclose(W, V, atol=1e-12 * np.linalg.norm(W))


def test_a_product_of_low_rank_has_no_layers_of_rounding(rng):
    weights = [
        rng.standard_normal((4, 1)) @ rng.standard_normal((1, 5)),
        *(rng.standard_normal(s) for s in ((5, 5), (5, 3))),
    ]
    new = lf.rebalance(weights).network
    assert all(np.linalg.matrix_rank(W, tol=1e-13) == 1 for W in new.weights)
    zero = lf.rebalance([np.zeros((2, 3)), np.ones((3, 2))]).network
    assert not any(W.any() for W in zero.weights)
    one = lf.rebalance([np.ones((2, 3))])
    assert one.change == 0.0 and one.before.imbalance == 0.0
    np.testing.assert_equal(astuple(one.after), astuple(one.before))  # a NaN is equal to itself


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_values_of_rounding_are_relative_to_the_layers(scale, rng):
    """16ε of the product of their norms, whatever the output scale."""
    unit = 2**0.5 * float(np.finfo(float).eps)  # of norms 1 and √2
    for last, rank in ((1e-9, 2), (16.5 * unit, 2), (15.5 * unit, 1)):
        new = lf.rebalance(lf.Network([np.diag([1.0, last]), np.diag([1.0, 1.0])], scale)).network
        assert np.count_nonzero(np.linalg.svd(new.weights[0], compute_uv=False) > 1e-12) == rank


def test_prescribed_imbalances(rng):
    net = lf.init.gaussian((3, 6, 3), rng=rng)
    found = lf.rebalance(net, 2.5)
    np.testing.assert_allclose(found.network.product(), net.product(), atol=1e-12)
    values = lf.imbalance_spectrum(found.network).eigenvalues
    np.testing.assert_allclose(values, [2.5] * 3 + [0.0] * 3, atol=1e-12)
    D = np.diag([3.0, 0.0, 0.0, 0.0, -1.0, -2.0])
    found = lf.rebalance(lf.Network(net.weights, 0.5), D)
    np.testing.assert_allclose(lf.imbalance_matrices(found.network)[0], D, atol=1e-10)
    np.testing.assert_allclose(found.network.product(), 0.5 * net.product(), atol=1e-10)
    deep = lf.init.gaussian((2, 3, 3, 2), rng=rng)
    found = lf.rebalance(deep, (1.0, -2.0))
    np.testing.assert_allclose(found.network.product(), deep.product(), atol=1e-12)
    for l, d in ((1, 1.0), (2, -2.0)):
        assert sorted(lf.imbalance_spectrum(found.network, l).eigenvalues.round(9), key=abs)[1:] == [d, d]
    again = lf.rebalance(deep, lf.imbalance_matrices(deep))
    np.testing.assert_allclose(again.network.product(), deep.product(), atol=1e-9)
    with pytest.raises(ValueError, match="no such weights exist"):
        lf.rebalance(net, np.eye(6))


def test_rate_and_step_are_told(rng):
    f = lf.LinearRegression(rng.standard_normal((9, 3)) / 3, rng.standard_normal((9, 3)))
    net = lf.init.imbalanced((3, 5, 3), 4.0, 0.9 * f.minimizer, rng=rng)
    found = lf.rebalance(net, objective=f)
    for standing, one in ((found.before, net), (found.after, found.network)):
        values = np.linalg.eigvalsh(lf.TangentOperator(one).dense())
        assert (standing.least, standing.greatest) == pytest.approx((values[0], values[-1]), rel=1e-10)
        assert standing.rate == lf.certify(f, one).rate and standing.step == lf.safe_step_size(f, one)
        assert standing.condition == standing.greatest / standing.least
    assert found.after.rate < found.before.rate
    text = str(found)
    for words in ("largest ‖D_l‖_F", "λ_max(T)/λ_min(T)", "certified rate", "safe step", "the product is the same"):
        assert words in text
    assert "certified" not in str(lf.rebalance(net)) and f"{found.before.rate:.4g}" in text
    plain = lf.rebalance(net).before
    assert math.isnan(plain.rate) and math.isnan(plain.step)
    g = lf.Objective(f.value, f.gradient, shape=f.shape, strong_convexity=1e-3, minimizer=f.minimizer)
    assert math.isnan(lf.rebalance(net, objective=g).before.step)
    with pytest.raises(ValueError, match="product is 3×3"):
        lf.rebalance(net, objective=lf.MatrixFactorization(np.ones((2, 2))))
    narrow = lf.rebalance([np.ones((3, 1)), np.ones((1, 3))])
    assert narrow.after.condition == math.inf


def test_models_of_torch(rng):
    torch = pytest.importorskip("torch")
    import linflow.torch as lt

    for dtype, tol in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 6, bias=False, dtype=dtype), torch.nn.Linear(6, 3, bias=False, dtype=dtype)
        )
        X = torch.tensor(rng.standard_normal((5, 4)), dtype=dtype)
        before, parameters = model(X).detach(), list(model.parameters())
        found = lt.rebalance_(model, objective=lt.regression(X, before))
        assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
        torch.testing.assert_close(model(X), before, atol=10 * tol, rtol=10 * tol)
        assert found.after.imbalance < tol < found.before.imbalance and found.after.step > 0
        W = [p.detach().double().numpy().T for p in parameters]
        np.testing.assert_allclose(W[0].T @ W[0], W[1] @ W[1].T, atol=tol)
        with_bias = torch.nn.Sequential(copy.deepcopy(model[0]), torch.nn.Linear(6, 3, dtype=dtype))
        lt.rebalance_(with_bias)  # the bias of the last layer is beside the product
        with pytest.raises(ValueError, match="added outside the product"):
            lt.rebalance_(with_bias, objective=lt.regression(X, before))
        lt.rebalance_(model, 1.5)
        torch.testing.assert_close(model(X), before, atol=10 * tol, rtol=10 * tol)
        assert float(lf.imbalance_spectrum(lt.network(model)).eigenvalues[0]) == pytest.approx(1.5, rel=tol)
