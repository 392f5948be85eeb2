"""Sensing and completion: the objectives against their definitions, their constants, and what is certified."""

import numpy as np
import pytest

import linflow as lf

EPS = np.finfo(float).eps


def measured(A, W):
    return np.array([np.sum(a * W) for a in A])


@pytest.mark.parametrize("count", [1, 5, 6, 20])
def test_sensing_is_its_definition_with_the_constants_of_its_operators(count, rng):
    A, b = rng.standard_normal((count, 3, 2)), rng.standard_normal(count)
    f, rank = lf.Sensing(A, b), min(count, 6)
    s = np.linalg.svd(A.reshape(count, 6), compute_uv=False)
    assert f.smoothness == pytest.approx(s[0] ** 2, rel=1e-12, abs=0)
    assert f.pl_constant == pytest.approx(2 * s[rank - 1] ** 2, rel=1e-9, abs=0)
    assert f.strong_convexity == (f.pl_constant / 2 if rank == 6 else 0.0)
    best = np.linalg.lstsq(A.reshape(count, 6), b, rcond=None)[0]
    np.testing.assert_allclose(f.minimizer, best.reshape(3, 2), rtol=0, atol=1e-12)
    for _ in range(10):
        W, V = rng.standard_normal((2, 3, 2))
        r = measured(A, W) - b
        assert f.value(W) == pytest.approx(0.5 * np.sum(r**2), rel=1e-11, abs=0)
        np.testing.assert_allclose(f.gradient(W), np.tensordot(r, A, 1), rtol=0, atol=1e-11)
        np.testing.assert_allclose(f.hessian_product(W, V), np.tensordot(measured(A, V), A, 1), rtol=0, atol=1e-11)
        slope = np.sum(f.gradient(W) ** 2)
        assert f.pl_constant * f.gap(W) * (1 - 1e-10) <= slope <= 2 * f.smoothness * f.gap(W) * (1 + 1e-12)


def test_the_gradient_dominance_of_sensing_is_attained(rng):
    A = rng.standard_normal((4, 3, 2))
    f = lf.Sensing(A, np.zeros(4))
    least = np.linalg.svd(A.reshape(4, 6))[2][3].reshape(3, 2)
    assert np.sum(f.gradient(least) ** 2) == pytest.approx(f.pl_constant * f.gap(least), rel=1e-10, abs=0)


def test_operators_that_repeat_have_the_rank_of_the_different_ones(rng):
    A = rng.standard_normal((2, 3, 2))
    f = lf.Sensing([*A, A[0]], [1.0, 2.0, 1.0])
    s = np.linalg.svd(np.stack([*A, A[0]]).reshape(3, 6), compute_uv=False)
    assert f.rank == 2 and f.pl_constant == pytest.approx(2 * s[1] ** 2, rel=1e-10, abs=0)


def test_a_linear_operator_is_its_matrix(rng):
    from scipy.sparse.linalg import aslinearoperator

    A, b = rng.standard_normal((5, 6)), rng.standard_normal(5)
    f, g = lf.Sensing(aslinearoperator(A), b, shape=(2, 3)), lf.Sensing(A.reshape(5, 2, 3), b)
    W = rng.standard_normal((2, 3))
    assert f.shape == (2, 3) and f.value(W) == g.value(W) and np.array_equal(f.gradient(W), g.gradient(W))
    with pytest.raises(ValueError, match=r"give shape=\(n, m\)"):
        lf.Sensing(aslinearoperator(A), b)
    with pytest.raises(ValueError, match=r"operators has the shape \(5, 6\); \(p, 4\) is needed for 2×2"):
        lf.Sensing(aslinearoperator(A), b, shape=(2, 2))


def test_entries_row_by_row_need_the_shape(rng):
    A, b, W = rng.standard_normal((5, 3, 2)), rng.standard_normal(5), rng.standard_normal((3, 2))
    f, g = lf.Sensing(A.reshape(5, 6), b, shape=(3, 2)), lf.Sensing(A, b)
    assert f.shape == lf.Sensing(A, b, shape=(3, 2)).shape == (3, 2) and f.value(W) == g.value(W)
    with pytest.raises(ValueError, match="leave shape out"):
        lf.Sensing(A, b, shape=(2, 3))
    with pytest.raises(ValueError, match="operators"):
        lf.Sensing(A.reshape(5, 6), b, shape=(2, 2))


@pytest.mark.parametrize(
    ("operators", "b", "what"),
    [
        (np.ones((2, 3)), [1.0, 2.0], r"operators have the shape \(2, 3\); \(p, n, m\)"),
        (np.ones((2, 3, 1)), [1.0], "there are 2 operators and 1 measurements"),
        (np.zeros((1, 3, 1)), [1.0], "all operators are zero"),
        ([[[1.0]], [[1.0, 2.0]]], [1.0, 2.0], "of one shape"),
        (np.full((1, 2, 2), np.nan), [1.0], "NaN or infinite"),
    ],
)
def test_what_sensing_refuses(operators, b, what):
    with pytest.raises(ValueError, match=what):
        lf.Sensing(operators, b)


def test_a_completion_is_its_definition(rng):
    Y = rng.standard_normal((4, 3))
    known = rng.random((4, 3)) < 0.6
    f = lf.Completion(Y, known)
    W, V = rng.standard_normal((2, 4, 3))
    assert f.value(W) == pytest.approx(0.5 * np.sum((W - Y)[known] ** 2), rel=1e-14, abs=0)
    np.testing.assert_array_equal(f.gradient(W), np.where(known, W - Y, 0.0))
    np.testing.assert_array_equal(f.hessian_product(W, V), np.where(known, V, 0.0))
    assert (f.smoothness, f.pl_constant, f.strong_convexity, f.minimum) == (1.0, 2.0, 0.0, 0.0)
    assert np.sum(f.gradient(W) ** 2) == pytest.approx(2 * f.gap(W), rel=1e-14, abs=0)  # γ is attained everywhere
    A = np.stack([np.eye(12)[k].reshape(4, 3) for k in np.flatnonzero(known)])
    twin = lf.Sensing(A, Y[known])
    assert twin.value(W) == pytest.approx(f.value(W), rel=1e-12, abs=0) and twin.pl_constant == pytest.approx(2.0)


def test_missing_entries_are_nan_masked_or_said(rng):
    Y = rng.standard_normal((3, 4))
    known = np.array([[1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]], dtype=bool)
    with_nan = np.where(known, Y, np.nan)
    W = rng.standard_normal((3, 4))
    forms = (
        lf.Completion(with_nan),
        lf.Completion(np.ma.masked_array(Y, ~known)),
        lf.Completion(Y, known.astype(float)),
        lf.Completion(with_nan, known.tolist()),
    )
    assert len({f.value(W) for f in forms}) == 1 and all(np.array_equal(f.known, known) for f in forms)
    assert lf.Completion(np.arange(4).reshape(2, 2)).strong_convexity == 1.0
    fewer = known.copy()
    fewer[0, 0] = False
    assert lf.Completion(with_nan, fewer).known.sum() == known.sum() - 1
    with pytest.raises(ValueError, match="mask calls an entry known that is missing"):
        lf.Completion(with_nan, np.ones((3, 4)))
    with pytest.raises(ValueError, match="no entry is known"):
        lf.Completion(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match=r"not an array of True and False of shape \(3, 4\)"):
        lf.Completion(Y, np.ones((4, 3)))
    with pytest.raises(ValueError, match="not an array of True and False"):
        lf.Completion(Y, 2 * known)
    with pytest.raises(ValueError, match="NaN or infinite"):
        lf.Completion([[np.inf, 1.0]])


def test_tensors(rng):
    torch = pytest.importorskip("torch")
    Y = torch.tensor([[1.0, float("nan")], [3.0, 4.0]], dtype=torch.float64)
    net = [torch.eye(2, dtype=torch.float64)] * 2
    f = lf.Completion(Y)
    assert f.value(torch.zeros(2, 2, dtype=torch.float64)) == 13.0
    assert lf.gradient_flow(f, net, t_max=0.1).final.weights[0].dtype == torch.float64
    f = lf.Sensing([torch.eye(2, dtype=torch.float64)], torch.ones(1, dtype=torch.float64))
    assert lf.gradient_flow(f, net, t_max=0.1).gap[-1] < f.gap(torch.eye(2, dtype=torch.float64))


def test_without_all_entries_there_is_no_margin_but_the_imbalance_certifies(rng):
    Y = rng.standard_normal((4, 3))
    Y[1, 2] = np.nan
    f = lf.Completion(Y)
    near = [np.hstack([np.eye(4), np.zeros((4, 2))]), np.vstack([f.minimizer, np.zeros((2, 3))])]
    net = lf.init.imbalanced((4, 9, 3), [1.5], rng=7)
    cert = lf.certify(f, net)
    rows = {g.name: g for g in cert.guarantees}
    D = np.linalg.eigvalsh(lf.imbalance_matrices(net)[0])
    floor = max(D[-4], 0.0) + max(-D[2], 0.0)
    # 10⁻⁹ for the rounding of D that the bound allows for.
    assert rows["two layers"].rate == pytest.approx(2 * floor, rel=1e-9, abs=0)
    assert cert.check(lf.gradient_flow(f, net)).holds
    balanced = [np.eye(4, 3), np.eye(3)]
    reasons = [g.reason for g in lf.certify(f, balanced).guarantees if g.name == "two layers"]
    assert reasons == ["the bound on λ_min(T) is 0 from the imbalance alone, and the margin needs μ and W*"]
    assert lf.certify(lf.Completion(np.eye(3)), balanced[1:] * 2).rate >= 0  # with all entries μ = 1, as always
    assert lf.certify(f, near).objective is f


def test_rounding_is_four_epsilon_of_the_sizes(rng):
    f = lf.Completion([[1.0, np.nan], [2.0, 2.0]])
    net = lf.Network([2 * np.eye(2), np.eye(2)])
    size = 4 * EPS * (np.linalg.norm(2 * np.eye(2)) * np.linalg.norm(np.eye(2)) + 3.0)
    assert f.gradient_rounding(net) == pytest.approx(size, rel=1e-14, abs=0)
    assert f.rounding(net) == pytest.approx(0.5 * size**2, rel=1e-14, abs=0)


def test_descent_and_copies_take_them(rng):
    import copy
    import pickle

    for f in (
        lf.Completion([[1.0, np.nan], [2.0, 2.0]]),
        lf.Sensing(rng.standard_normal((3, 2, 2)), [1.0, 2.0, 3.0]),
    ):
        net = lf.init.ntk((2, 900, 2), rng=3)  # so wide that it stays near its start
        eta = lf.safe_step_size(f, net)
        run = lf.gradient_descent(f, net, step_size=eta, steps=20)
        assert lf.certify(f, net, algorithm="descent", step_size=eta).check(run).holds
        W = rng.standard_normal((2, 2))
        assert pickle.loads(pickle.dumps(f)).value(W) == copy.deepcopy(f).value(W) == f.value(W)


def test_rows_and_columns_without_a_known_entry_are_left_out():
    Y = np.array([[1.0, np.nan, 2.0], [np.nan, np.nan, np.nan], [3.0, np.nan, -1.0], [np.nan] * 3])
    f = lf.Completion(Y)
    net = lf.init.imbalanced((4, 6, 3), [1.0], rng=1)
    seen, inner = f.effective(net)
    assert seen.shape == inner.shape == (2, 2) and seen.strong_convexity == 1.0  # all that is left is known
    assert np.array_equal(seen.minimizer, [[1.0, 2.0], [3.0, -1.0]])
    W = net.product()
    assert np.allclose(inner.product(), W[np.ix_([0, 2], [0, 2])], atol=1e-15)
    assert seen.gap(inner.product()) == pytest.approx(f.gap(W), rel=1e-14)
    # the rest never moves, and the same flow has a rate, with the margin of a factorization
    run = lf.gradient_flow(f, net, until=1e-6)
    first, last = run.final.weights
    assert np.array_equal(first[[1, 3]], net.weights[0][[1, 3]]) and np.array_equal(last[:, 1], net.weights[1][:, 1])
    cert = lf.certify(f, net)
    assert cert.rate > 0 and cert.check(run).holds
    twin = lf.certify(lf.MatrixFactorization(np.array([[1.0, 2.0], [3.0, -1.0]])), inner)
    assert cert.rate == pytest.approx(twin.rate, rel=1e-12)
    assert np.allclose(f.row_space, np.eye(4)[:, [0, 2]]) and np.allclose(f.column_space, np.eye(3)[:, [0, 2]])
    assert lf.Completion(Y[:1, :1]).effective(net)[1] is net
    enc = lf.enclose(f, net, until=1e-3)
    assert enc.result == "target proved" and cert.check(enc).holds and enc.certificate is not None
    conserved = lf.conserved(net, f)
    assert lf.conserved(run.final, f) is not None and conserved is not None


def test_only_rows_or_only_columns_can_be_empty():
    for Y in ([[1.0, 2.0], [np.nan, np.nan]], [[1.0, np.nan], [2.0, np.nan]]):
        f = lf.Completion(np.array(Y))
        net = lf.init.imbalanced((2, 5, 2), [1.0], rng=2)
        seen, inner = f.effective(net)
        assert (
            seen.shape == inner.shape and sorted(seen.shape) == [1, 2] and (f.row_space is None) == (Y[1][0] == 2.0)
        )
        assert lf.certify(f, net).check(lf.gradient_flow(f, net, until=1e-6)).holds
        assert (lf.certify(f, net, algorithm="descent").step_size or 0.0) > 0
