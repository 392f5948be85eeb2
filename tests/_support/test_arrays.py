"""Any array of the standard goes through the same code and comes back as it came."""

import numpy as np
import pytest

import linflow as lf
from linflow._support.arrays import to_numpy


def _as(xp, array):
    return xp.asarray(array.tolist(), dtype=xp.float64)


@pytest.fixture
def data(rng):
    # Small enough that the slow, strict arrays need few steps.
    X, Y = 0.3 * rng.standard_normal((9, 3)), 0.3 * rng.standard_normal((9, 2))
    weights = [0.5 * rng.standard_normal(shape) for shape in ((3, 6), (6, 4), (4, 2))]
    return X, Y, weights


OBJECTIVES = {
    "factorization": lambda c, X, Y: lf.MatrixFactorization(c(Y[:3])),
    "regression": lambda c, X, Y: lf.LinearRegression(c(X), c(Y)),
    "deficient": lambda c, X, Y: lf.LinearRegression(c(X * [1, 1, 0] + 0 * X), c(Y)),
    "quadratic": lambda c, X, Y: lf.Quadratic(c(X.T @ X), c(Y.T @ Y), c(Y[:3])),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("depth", [2, 3])
def test_everything_agrees_with_numpy(xp, name, depth, data):
    X, Y, weights = data
    weights = weights if depth == 3 else [weights[0], weights[1] @ weights[2]]
    theirs = [_as(xp, W) for W in weights]
    kind = type(theirs[0])
    f, g = OBJECTIVES[name](np.asarray, X, Y), OBJECTIVES[name](lambda a: _as(xp, a), X, Y)
    here, there = lf.Network(weights, 0.8), lf.Network(theirs, 0.8)
    for constant in ("strong_convexity", "smoothness", "pl_constant", "minimum"):
        assert getattr(g, constant) == pytest.approx(getattr(f, constant), rel=1e-10)
    _close(lf.TangentOperator(there).dense(), lf.TangentOperator(here).dense(), kind)
    _close(lf.TangentOperator(there).least_eigenvalue(), lf.TangentOperator(here).least_eigenvalue(), kind)
    for D, E in zip(lf.imbalance_matrices(there), lf.imbalance_matrices(here), strict=True):
        _close(D, E, kind)
    for a, b in zip(lf.bounds.table(there), lf.bounds.table(here), strict=True):
        assert a.applies == b.applies
        _close(a.value, b.value, kind)
    assert lf.margin(g, there) == pytest.approx(lf.margin(f, here), abs=1e-12)
    assert lf.certify(g, there).rate == pytest.approx(lf.certify(f, here).rate, rel=1e-9, abs=1e-12)
    record = ("least_eigenvalue", "imbalance_drift", "singular_values")
    one = lf.gradient_flow(g, there, t_max=1.0, record=record, times=[0.5])
    two = lf.gradient_flow(f, here, t_max=1.0, record=record, times=[0.5])
    for a, b in zip(one.weights, two.weights, strict=True):
        _close(a, b, kind, 1e-7)
    for column in ("t", "gap", "rate", "least_eigenvalue", "singular_values"):
        _close(getattr(one, column), getattr(two, column), kind, 1e-6)
    _close(one.gap_at([0.1, 0.4]), two.gap_at([0.1, 0.4]), kind, 1e-6)
    _close(one.network_at(0.5).product(), two.network_at(0.5).product(), kind, 1e-7)
    down = lf.gradient_descent(g, there, step_size=0.01, steps=10)
    _close(down.weights[0], lf.gradient_descent(f, here, step_size=0.01, steps=10).weights[0], kind)


def _close(got, want, kind, atol=1e-10):
    assert isinstance(got, kind)
    want = np.asarray(want)
    np.testing.assert_allclose(to_numpy(got), want, rtol=1e-6, atol=atol * (1 + np.abs(want).max()))


def test_wide_layers_by_the_thin_factorisation(xp, rng):
    weights = [rng.standard_normal((3, 30)), rng.standard_normal((30, 2))]
    spectrum = lf.imbalance_spectrum([_as(xp, W) for W in weights])
    full = np.sort(np.linalg.eigvalsh(lf.imbalance_matrices(weights)[0]))[::-1]
    np.testing.assert_allclose(to_numpy(spectrum.eigenvalues), full, atol=1e-12 * np.abs(full).max())


def test_initialisations_come_in_any_kind(xp):
    like = xp.zeros((1, 1), dtype=xp.float64)
    for make in (lf.init.gaussian, lf.init.ntk, lf.init.orthogonal, lf.init.balanced):
        theirs, ours = make((3, 4, 2), rng=3, like=like), make((3, 4, 2), rng=3)
        assert isinstance(theirs.weights[0], type(like))
        for a, b in zip(theirs.weights, ours.weights, strict=True):
            np.testing.assert_array_equal(to_numpy(a), b)


def test_kinds_do_not_mix(xp, rng):
    f = lf.MatrixFactorization(rng.standard_normal((2, 2)))
    net = [_as(xp, np.eye(2)), _as(xp, np.eye(2))]
    with pytest.raises(TypeError, match="different kinds"):
        lf.gradient_flow(f, net)
    with pytest.raises(TypeError, match="different kinds"):
        lf.Network([np.eye(2), net[0]])


def test_smaller_floats_are_promoted_and_noted(xp):
    net = lf.Network([xp.ones((2, 3), dtype=xp.float32), xp.ones((3, 2), dtype=xp.float64)])
    assert net.weights[0].dtype == xp.float64
    assert net.notes == ("W_1 was promoted from float32 to float64",)


def test_user_defined_objective_in_any_kind(xp):
    Y = xp.asarray([[1.0, 2.0], [0.5, -1.0]], dtype=xp.float64)
    f = lf.Objective(
        lambda W: float(xp.sum((W - Y) ** 2)),
        lambda W: 2 * (W - Y),
        shape=(2, 2),
        strong_convexity=2.0,
        smoothness=2.0,
        like=Y,
    )
    np.testing.assert_allclose(to_numpy(f.minimizer), to_numpy(Y), atol=1e-7)
    run = lf.gradient_flow(f, lf.init.gaussian((2, 4, 2), rng=0, like=Y), until=1e-6)
    assert run.result is lf.Result.TARGET


def test_autograd_is_left_alone():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (CI installs it)")
    weights = [torch.ones(2, 3, dtype=torch.float64, requires_grad=True), torch.ones(3, 2, dtype=torch.float64)]
    f = lf.MatrixFactorization(torch.eye(2, dtype=torch.float64))
    run = lf.gradient_flow(f, weights, t_max=0.1)
    assert not run.weights[0].requires_grad
    value = lf.TangentOperator(weights).greatest_eigenvalue()
    value.backward()
    assert weights[0].grad is not None
    Y = torch.eye(2, dtype=torch.float64, requires_grad=True)
    run = lf.gradient_flow(lf.MatrixFactorization(Y), weights, until=0.5)
    assert run.weights[0].grad_fn is None
