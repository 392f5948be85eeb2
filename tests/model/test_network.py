"""Networks, initialisations and imbalance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linflow as lf
from linflow.model.scalar_chain import chain_offsets, chain_root
from tests.random_networks import networks
from tests.reference import algebra


@given(net=networks(layers=st.integers(1, 5)))
def test_products_and_imbalance(net):
    weights = list(net.weights)
    size = np.prod([np.linalg.norm(W) for W in weights]) + 1e-300
    np.testing.assert_allclose(net.product() / size, algebra.product(weights, net.scale) / size, atol=1e-13)
    for D, E in zip(lf.imbalance_matrices(net), algebra.imbalance_matrices(weights), strict=True):
        np.testing.assert_allclose(D, E, atol=1e-13 * (np.abs(E).max() + 1))


@given(net=networks(hidden=st.integers(1, 12)))
def test_imbalance_spectrum(net):
    for l, D in enumerate(algebra.imbalance_matrices(list(net.weights)), 1):
        spectrum = lf.imbalance_spectrum(net, l)
        size = max(np.linalg.norm(W) for W in net.weights) ** 2 + 1e-300
        np.testing.assert_allclose(spectrum.eigenvalues / size, np.linalg.eigvalsh(D)[::-1] / size, atol=1e-13)
        n, m = net.shape
        plus = [max(algebra.lam(D, k), 0) if k <= len(D) else 0.0 for k in (1, n)]
        minus = [max(algebra.lam(-D, k), 0) if k <= len(D) else 0.0 for k in (1, m)]
        assert spectrum.positive_spread / size == pytest.approx((plus[0] - plus[1]) / size, abs=1e-13)
        assert spectrum.negative_spread / size == pytest.approx((minus[0] - minus[1]) / size, abs=1e-13)
        assert spectrum.spectral_gap / size == pytest.approx((plus[1] + minus[1]) / size, abs=1e-13)


def test_wide_layers_are_never_squared():
    """With 200 000 hidden units an h×h matrix would take 320 gigabytes."""
    h = 200_000
    net = lf.init.ntk((2, h, 1), rng=0)
    spectrum = lf.imbalance_spectrum(net)
    assert (spectrum.eigenvalues != 0).sum() == 3
    assert lf.certify(lf.MatrixFactorization(np.ones((2, 1))), net).rate > 0
    assert lf.imbalance_drift(net, net) == pytest.approx(0, abs=1e-9)


def test_drift_to_rounding(rng):
    net = lf.init.gaussian((3, 50, 2), rng=rng)
    moved = net.with_weights([net.weights[0] + 1e-9, net.weights[1]])
    D, E = lf.imbalance_matrices(net)[0], lf.imbalance_matrices(moved)[0]
    assert lf.imbalance_drift(moved, net) == pytest.approx(np.linalg.norm(D - E), rel=1e-4)


def test_other_weights_are_refused_like_those_of_a_new_network(rng):
    net = lf.Network([rng.standard_normal((3, 4)), rng.standard_normal((4, 2))], scale=0.5)
    A, B = net.weights
    for weights in (
        [2 * A, B],
        (B.T, A.T),
        [A],
        [A[:2], B],
        [A.astype(np.float32), B],
        [A[::-1], 0 * B],
        [1e-200 * A, B],
    ):
        other, new = net.with_weights(weights), lf.Network(weights, 0.5)
        assert (other.sizes, other.scale, other.notes, other.widths) == (new.sizes, 0.5, new.notes, new.widths)
        assert type(other.weights) is tuple
        assert all(
            np.array_equal(V, W) and V.dtype == W.dtype for V, W in zip(other.weights, new.weights, strict=True)
        )
    bad = np.where(A[0, 0] == A, np.nan, A)
    for weights in ([A, A], [bad, B], [A, np.inf * B], [1e160 * A, B], [1e200 * A, B], [A + 1j, B], [], [A, B, B]):
        said = []
        for made in (net.with_weights, lambda layers: lf.Network(layers, 0.5)):
            with pytest.raises((ValueError, TypeError)) as refused:
                made(weights)
            said.append((refused.type, str(refused.value)))
        assert said[0] == said[1]
    with pytest.raises(TypeError, match="a list of matrices"):
        net.with_weights(np.ones((2, 3, 4)))  # pyright: ignore[reportArgumentType]
    assert type(net.with_weights([A.view(type("Other", (np.ndarray,), {})), B]).weights[0]) is np.ndarray


@given(d=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), w=st.floats(1e-200, 1e60))
def test_chain_root(d, w):
    c = chain_offsets(d)
    x = chain_root(c, w)
    assert c.min() == 0 and x >= 0
    if x > 1e-300:  # below, x itself is at the edge of the numbers there are
        assert np.log(x + c).sum() == pytest.approx(2 * np.log(w), rel=1e-12, abs=1e-11)


class TestInit:
    @pytest.mark.parametrize(
        "make",
        [
            lf.init.gaussian,
            lf.init.ntk,
            lf.init.fan_in,
            lf.init.fan_out,
            lf.init.orthogonal,
            lf.init.balanced,
            lf.init.small,
        ],
    )
    def test_seeded(self, make):
        one, two, other = make((3, 5, 4, 2), rng=1), make((3, 5, 4, 2), rng=1), make((3, 5, 4, 2), rng=2)
        assert one.widths == (3, 5, 4, 2)
        for a, b, c in zip(one.weights, two.weights, other.weights, strict=True):
            np.testing.assert_array_equal(a, b)
            assert (a != c).any()

    @pytest.mark.parametrize(
        ("make", "stds"),
        [
            (lf.init.gaussian, (1, 1, 1)),
            (lf.init.ntk, (1, 1, 1)),
            (lf.init.fan_in, (50**-0.5, 90**-0.5, 80**-0.5)),
            (lf.init.fan_out, (90**-0.5, 80**-0.5, 70**-0.5)),
            (lf.init.small, (1e-3, 1e-3, 1e-3)),
        ],
    )
    def test_variances(self, make, stds):
        net = make((50, 90, 80, 70), rng=0)
        for W, std in zip(net.weights, stds, strict=True):
            assert W.std() == pytest.approx(std, rel=0.05)  # thousands of entries: five sigma is 0.05
            assert W.mean() == pytest.approx(0, abs=5 * std / W.size**0.5)
        assert net.scale == pytest.approx((90 * 80) ** -0.5 if make is lf.init.ntk else 1.0)

    @pytest.mark.parametrize("widths", [(3, 3), (2, 5, 3), (4, 6, 5, 2), (1, 1, 1)])
    def test_orthogonal(self, widths):
        for W in lf.init.orthogonal(widths, gain=0.5, rng=0).weights:
            gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
            np.testing.assert_allclose(gram, 0.25 * np.eye(len(gram)), atol=1e-14)

    @pytest.mark.parametrize("widths", [(3, 3), (2, 5, 3), (4, 6, 5, 2), (3, 3, 3), (1, 1, 1)])
    def test_balanced(self, widths, rng):
        W = rng.standard_normal((widths[0], widths[-1]))
        net = lf.init.balanced(widths, W, rng=rng)
        np.testing.assert_allclose(net.product(), W, atol=1e-13)
        for D in lf.imbalance_matrices(net):
            np.testing.assert_allclose(D, 0, atol=1e-13)

    @pytest.mark.parametrize(
        ("widths", "d"),
        [((3, 5, 3), [1.5]), ((3, 5, 3), [-1.5]), ((5, 6, 2), [2.0]), ((2, 6, 5), [-2.0]), ((4, 7, 6, 2), [1.0, 0.5]),
         ((3, 4, 4, 4, 3), [1.0, -2.0, 0.5]), ((5, 6, 2), [-1.0])],
    )  # fmt: skip
    def test_imbalanced(self, widths, d, rng):
        W = rng.standard_normal((widths[0], widths[-1]))
        net = lf.init.imbalanced(widths, d, W, rng=rng)
        np.testing.assert_allclose(net.product(), W, atol=1e-12)
        k = min(widths[0], widths[-1])
        for l, value in enumerate(d, 1):
            values = lf.imbalance_spectrum(net, l).eigenvalues
            assert np.isclose(values, value, atol=1e-12).sum() >= k
        if len(d) == 1 and (widths[0] - widths[-1]) * d[0] >= 0:
            assert float(lf.TangentOperator(net).least_eigenvalue()) >= abs(d[0]) - 1e-12

    def test_spectral_keeps_the_singular_vectors(self, rng):
        Y = rng.standard_normal((4, 3))
        net = lf.init.spectral(
            (4, 5, 6, 3), Y, np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.2, 0.2]]), rng=rng
        )
        U, _, Vt = np.linalg.svd(Y)
        core = U[:, :3].T @ net.product() @ Vt.T
        np.testing.assert_allclose(core, np.diag([0.006, 0.008, 0.006]), atol=1e-14)
        run = lf.gradient_flow(lf.MatrixFactorization(Y), net, t_max=5.0)
        core = U[:, :3].T @ run.final.product() @ Vt.T
        np.testing.assert_allclose(core, np.diag(np.diag(core)), atol=1e-10)


def test_every_public_name_imports():
    for name in lf.__all__:
        assert getattr(lf, name) is not None


def test_names_of_the_contract():
    names = (
        "MatrixFactorization LinearRegression Quadratic Objective Network init imbalance_matrices imbalance_spectrum "
    )
    names += "TangentOperator bounds margin certify gradient_flow gradient_descent plots"
    assert set(names.split()) <= set(lf.__all__)
