"""T: matrix-free against dense, against an independent Jacobian, and its extreme eigenvalues."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linflow as lf
from linflow.geometry.extreme_eigenvalues import extreme
from tests.random_networks import networks
from tests.reference import algebra


@given(net=networks())
def test_dense_is_the_kronecker_sum(net):
    expected = algebra.tangent_dense(list(net.weights), net.scale)
    # Products of a handful of small matrices: rounding is some ε of the largest entry.
    np.testing.assert_allclose(
        lf.TangentOperator(net).dense(), expected, rtol=1e-12, atol=1e-13 * np.abs(expected).max()
    )


@given(net=networks())
def test_apply_agrees_with_dense_one_and_many(net):
    T = lf.TangentOperator(net)
    E = np.random.default_rng(1).standard_normal((3, *net.shape))
    many = T.apply(E)
    dense = np.stack([(T.dense() @ e.ravel()).reshape(net.shape) for e in E])
    size = np.abs(dense).max() + 1e-300
    np.testing.assert_allclose(many / size, dense / size, atol=1e-12)
    np.testing.assert_allclose(T.apply(E[1]) / size, many[1] / size, atol=1e-15)


@given(net=networks())
def test_extreme_eigenvalues(net):
    T = lf.TangentOperator(net)
    values = np.linalg.eigvalsh(T.dense())
    size = values[-1] + 1e-300
    # eigvalsh is backward stable: errors are ε times the largest eigenvalue.
    assert float(T.least_eigenvalue()) / size == pytest.approx(max(values[0], 0) / size, abs=1e-13)
    assert float(T.greatest_eigenvalue()) / size == pytest.approx(values[-1] / size, abs=1e-13)


def test_two_layers_need_no_dense_matrix(rng, monkeypatch):
    net = lf.Network([rng.standard_normal((60, 80)), rng.standard_normal((80, 50))])
    monkeypatch.setattr(lf.TangentOperator, "dense", None)  # would be 3000×3000
    W1, W2 = net.weights
    expected = algebra.lam(W1 @ W1.T, 60) + algebra.lam(W2.T @ W2, 50)
    assert float(lf.TangentOperator(net).least_eigenvalue()) == pytest.approx(expected, rel=1e-10)


def test_one_layer_is_the_identity(rng):
    T = lf.TangentOperator(lf.Network([rng.standard_normal((2, 3))], scale=2.0))
    np.testing.assert_array_equal(T.dense(), 4 * np.eye(6))
    assert float(T.least_eigenvalue()) == float(T.greatest_eigenvalue()) == 4


@pytest.mark.parametrize("widths", [(30, 40, 35, 31), (32, 32, 32, 32), (40, 60, 50, 60, 25)])
def test_iterative_eigenvalues_agree_with_dense(widths, rng):
    assert widths[0] * widths[-1] > 900  # past the dense limit
    net = lf.init.gaussian(widths, 0.3, rng=rng)
    T = lf.TangentOperator(net)
    values = np.linalg.eigvalsh(T.dense())
    # LOBPCG stops at a residual of 1e-10 of the largest; the eigenvalue error is far below for a separated one.
    assert float(T.least_eigenvalue()) == pytest.approx(values[0], abs=1e-12 * values[-1])
    assert float(T.greatest_eigenvalue()) == pytest.approx(values[-1], rel=1e-12)
    for which in ("least", "greatest"):
        found = T.eigenvalue(which)
        assert found.iterations > 0
        # What the bound says, but for rounding of the dense eigenvalues; and that it is of use.
        assert np.abs(values - float(found.value)).min() <= found.error + 1e-13 * values[-1]
        assert found.error <= 2e-10 * values[-1]


@pytest.mark.parametrize("depth", [3, 4])
def test_an_ill_conditioned_operator_is_as_accurate(depth, monkeypatch):
    # h = n: the least eigenvalue is some 1e-7 of the greatest. T = JJᵀ: the singular values of J give it to 1e-12.
    monkeypatch.setattr("linflow.geometry.operator.DENSE_LIMIT", 100)
    net = lf.init.ntk((12,) * (depth + 1), rng=8)
    P, S = net.prefixes(), net.suffixes()
    eye = np.eye(12)
    J = np.hstack([np.kron(eye if A is None else A, (eye if B is None else B).T) for A, B in zip(P, S, strict=True)])
    exact = (net.scale * np.linalg.svd(J, compute_uv=False)[-1]) ** 2
    found = lf.TangentOperator(net).eigenvalue("least")
    assert found.iterations > 0
    assert exact < 3e-6 * float(lf.TangentOperator(net).greatest_eigenvalue())
    # The error of a Rayleigh quotient is the square of the residual over the distance to the next eigenvalue.
    assert float(found.value) == pytest.approx(exact, rel=1e-6)
    assert float(lf.TangentOperator(net).least_eigenvalue()) == float(found.value)


def some_trained(depth, seed):
    trained = np.random.default_rng(seed).random(depth) < 0.5
    trained[seed % depth] = True
    return trained.tolist()


@given(net=networks(), seed=st.integers(0, 10**6))
def test_layers_that_are_not_trained_have_no_term(net, seed):
    trained = some_trained(net.depth, seed)
    T = lf.TangentOperator(net, trained)
    expected = algebra.tangent_dense(list(net.weights), net.scale, trained)
    size = np.abs(expected).max() + 1e-300
    # Rounding of products of a handful of matrices, and of a backward stable eigenvalue problem, in units of T.
    np.testing.assert_allclose(T.dense() / size, expected / size, atol=1e-12)
    values = np.linalg.eigvalsh(expected)
    assert float(T.least_eigenvalue()) / size == pytest.approx(max(values[0], 0) / size, abs=1e-12)
    assert float(T.greatest_eigenvalue()) / size == pytest.approx(values[-1] / size, abs=1e-12)


def test_the_loss_falls_as_the_trained_layers_let_it():
    """−dL/dt is the sum of squares of the trained layers' gradients, and `⟨T ∇f, ∇f⟩` with their terms alone."""
    net = lf.init.gaussian((3, 4, 5, 2), rng=3)
    f = lf.MatrixFactorization(np.random.default_rng(2).standard_normal(net.shape))
    G = f.gradient(net.product())
    gradients = algebra.layer_gradients(G, list(net.weights), net.scale)
    for trained in ([True, False, False], [False, True, False], [False, True, True], [True, False, True]):
        falls = sum(np.sum(g**2) for g, keep in zip(gradients, trained, strict=True) if keep)
        assert np.sum(G * lf.TangentOperator(net, trained).apply(G)) == pytest.approx(falls, rel=1e-12)


@pytest.mark.parametrize("trained", [[False, True, True], [False, True, False], [True, True, False]])
def test_iterative_eigenvalues_without_some_terms(trained, monkeypatch):
    monkeypatch.setattr("linflow.geometry.operator.DENSE_LIMIT", 100)
    net = lf.init.gaussian((12, 16, 16, 12), 0.3, rng=0)
    values = np.linalg.eigvalsh(algebra.tangent_dense(list(net.weights), net.scale, trained))
    T = lf.TangentOperator(net, trained)
    for which, expected in (("least", values[0]), ("greatest", values[-1])):
        assert T.eigenvalue(which).iterations > 0
        # The residual of the iteration, 1e-10 of the greatest, bounds the error.
        assert float(T.eigenvalue(which).value) == pytest.approx(expected, abs=2e-10 * values[-1])
    assert float(T.least_eigenvalue()) >= values[0] * (1 - 1e-6)  # and is counted as found


def test_what_is_trained_is_said_for_each_layer():
    net = lf.init.gaussian((2, 3, 2), rng=0)
    for wrong in ([True], [1, 0], "ab", [True, None]):
        with pytest.raises(ValueError, match="True or False for each of the 2 layers"):
            lf.TangentOperator(net, wrong)
    with pytest.raises(ValueError, match="no layer is trained"):
        lf.TangentOperator(net, [False, False])
    one = lf.TangentOperator([np.eye(2)], [True])
    assert float(one.least_eigenvalue()) == 1.0


def test_error_bounds_hold_without_iteration(rng):
    for widths in [(3, 2), (12, 20, 10), (4, 5, 6, 3)]:
        T = lf.TangentOperator(lf.init.gaussian(widths, rng=rng))
        values = np.linalg.eigvalsh(T.dense())
        for which, expected in (("least", values[0]), ("greatest", values[-1])):
            found = T.eigenvalue(which)
            assert found.iterations == 0
            assert abs(float(found.value) - expected) <= found.error + 1e-14 * values[-1]
            assert found.error <= 1e-12 * values[-1]
    with pytest.raises(ValueError, match="which"):
        T.eigenvalue("smallest")


def test_an_eigenvalue_that_is_not_found_is_an_error(monkeypatch):
    monkeypatch.setattr("linflow.geometry.operator.DENSE_LIMIT", 100)
    monkeypatch.setattr("linflow.geometry.extreme_eigenvalues.ITERATIONS", 3)
    monkeypatch.setattr("linflow.geometry.extreme_eigenvalues.ROUND", 3)
    T = lf.TangentOperator(lf.init.ntk((12, 12, 12, 12), rng=0))
    found = T.eigenvalue("least")
    with pytest.raises(RuntimeError, match=r"least eigenvalue of T \(12×12\) was not found: after \d+ iterations"):
        T.least_eigenvalue()
    values = np.linalg.eigvalsh(T.dense())
    assert values[0] - 1e-12 <= float(found.value) <= values[0] + found.error  # a Rayleigh quotient


@given(net=networks(layers=st.integers(1, 4)))
def test_loss_falls_at_the_rate_t_says(net):
    """dL/dt = −‖∇L‖² = −⟨T ∇f, ∇f⟩, and ∇L is the chain rule's."""
    Y = np.random.default_rng(2).standard_normal(net.shape)
    f = lf.MatrixFactorization(Y)
    G = f.gradient(net.product())
    gradients = net.gradient(G)
    expected = algebra.layer_gradients(G, list(net.weights), net.scale)
    for got, want in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12 * (np.abs(want).max() + 1e-300))
    squared = sum(float((g**2).sum()) for g in gradients)
    quadratic = float((lf.TangentOperator(net).apply(G) * G).sum())
    assert squared == pytest.approx(quadratic, rel=1e-10, abs=1e-12 * (squared + 1e-300))


def test_apply_names_the_shape_it_needs():
    T = lf.TangentOperator([np.ones((2, 3)), np.ones((3, 4))])
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(2, 4\)"):
        T.apply(np.ones((4, 2)))


def test_an_eigenvector_that_no_start_of_the_iteration_has_a_part_in_is_found():
    """The first 20 rows are coupled, the others stand alone: T maps either part of the matrices to itself."""
    n, m = 50, 40  # T is of size 2000
    C = 1.3 * np.eye(n)
    C[:20, :20] = np.linalg.cholesky(np.ones((20, 20)) + 0.01 * np.eye(20))
    layers = [C, 1e-2 * np.linalg.solve(C, np.diag(np.linspace(1, 1.01, n))), np.eye(n, m) * np.linspace(1, 1.02, m)]
    T = lf.TangentOperator(layers)
    found, greatest = T.eigenvalue("greatest"), np.linalg.eigvalsh(T.dense())[-1]
    # Those that stand alone end at 1.76; the coupled ones have 20.8. The iteration ends at a residual of 1e-10.
    assert abs(float(found.value) - greatest) <= 1e-9 * greatest and found.error <= 1e-9 * greatest


@pytest.mark.parametrize("trial", range(8))
def test_the_iteration_finds_both_ends_of_parts_that_are_not_coupled(trial):
    rng = np.random.default_rng(trial)
    n, m, coupled = (int(rng.integers(*ends)) for ends in ((25, 40), (25, 40), (5, 20)))
    A, G = np.diag(rng.uniform(1, 1.2, n)), rng.standard_normal((coupled, coupled))
    B = G @ G.T if trial % 2 else np.ones((coupled, coupled))
    A[:coupled, :coupled] += 10.0 ** rng.uniform(-2, 1) * (B - np.diag(np.diag(B)))
    A += max(1e-3 - np.linalg.eigvalsh(A)[0], 0.0) * np.eye(n)
    right, values = rng.uniform(0, 1e-2, m), np.linalg.eigvalsh(A)
    for largest, value in ((True, values[-1] + right.max()), (False, values[0] + right.min())):
        found, residual, _ = extreme(np.zeros((n, n)), np.diag(right), [(A, np.eye(m))], largest=largest)
        # Within the residual, which is 1e-10 of the size or, of the dense matrix, rounding.
        assert abs(found - value) <= residual + 1e-12 * values[-1] and residual <= 2e-10 * values[-1]
