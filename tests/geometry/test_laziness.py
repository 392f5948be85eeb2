"""The change of T from dense matrices, and the moments of random starts from samples and closed forms."""

import math

import numpy as np
import pytest

import linflow as lf


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0)


@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2), (2, 3, 5, 4), (2, 3, 3, 2, 3)])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_change_is_that_of_the_dense_matrices(rng, widths, scale):
    first, now = (lf.Network(lf.init.gaussian(widths, rng=rng).weights, scale) for _ in range(2))
    T, T_0 = lf.TangentOperator(now).dense(), lf.TangentOperator(first).dense()
    found = lf.tangent_change(now, first)
    if len(widths) == 2:
        assert found == 0.0  # one layer has T = c²I
    else:
        assert found == near(np.linalg.norm(T - T_0) / np.linalg.norm(T_0))
    assert lf.tangent_change(first, first) == 0.0


def test_the_scales_and_the_size_of_the_layers_count(rng):
    first, now = lf.init.gaussian((3, 4, 2), 1e-3, rng=rng), lf.init.gaussian((3, 4, 2), 1e-3, rng=rng)
    first, now = lf.Network(first.weights, 0.3), lf.Network(now.weights, 0.6)
    T, T_0 = lf.TangentOperator(now).dense(), lf.TangentOperator(first).dense()
    assert lf.tangent_change(now, first) == near(np.linalg.norm(T - T_0) / np.linalg.norm(T_0))
    zero = [np.zeros((3, 4)), np.zeros((4, 2))]
    assert lf.tangent_change(now, zero) == math.inf


def test_a_small_change_keeps_its_digits(rng):
    net = lf.init.gaussian((3, 5, 4, 2), rng=rng)
    step = [rng.standard_normal(W.shape) for W in net.weights]

    def moved(size):
        return lf.Network([W + size * V for W, V in zip(net.weights, step, strict=True)])

    # Linear in the step: 1e-9 changes T by about 1e-9, of which float64 keeps 7 digits.
    assert lf.tangent_change(moved(1e-9), net) == near(1e-3 * lf.tangent_change(moved(1e-6), net), 1e-4)


def test_what_cannot_be_compared(rng):
    net = lf.init.gaussian((3, 5, 2), rng=rng)
    with pytest.raises(ValueError, match="have 2 and 3 layers"):
        lf.tangent_change(net, lf.init.gaussian((3, 5, 5, 2), rng=rng))
    with pytest.raises(ValueError, match=r"shape \(3, 2\) and \(2, 2\)"):
        lf.tangent_change(net, lf.init.gaussian((2, 5, 2), rng=rng))
    zero = [np.zeros((3, 5)), np.zeros((5, 2))]
    assert lf.tangent_change(net, zero) == math.inf and lf.tangent_change(zero, zero) == 0.0
    assert lf.tangent_change(lf.init.gaussian((3, 9, 2), rng=rng), net) > 0  # other hidden widths


def test_the_mean_of_the_operator_in_closed_form():
    assert lf.limit_kernel((7, 5, 3, 2)).terms == near((1.0, 1.0, 1.0))
    # c² Σ_l Π_{k<l} s_k²h_k Π_{k>l} s_k²h_{k−1}, written out for three layers.
    s, h = (0.3, 0.5, 0.7), (2, 5, 6, 3)
    found = lf.limit_kernel(h, s, scale=0.4)
    terms = (
        s[1] ** 2 * h[1] * s[2] ** 2 * h[2],
        s[0] ** 2 * h[1] * s[2] ** 2 * h[2],
        s[0] ** 2 * h[1] * s[1] ** 2 * h[2],
    )
    assert found.terms == near(tuple(0.16 * x for x in terms))
    assert found.eigenvalue == near(0.16 * sum(terms))
    assert lf.limit_kernel((4, 9, 2), 1 / 3).terms == lf.limit_kernel((4, 9, 2), [1 / 3, 1 / 3]).terms
    assert lf.limit_kernel((4, 2)) == lf.LimitKernel(1.0, 0.0, (1.0,))
    with pytest.raises(ValueError, match="std has 2 numbers, but there are 3 layers"):
        lf.limit_kernel((2, 3, 3, 2), (1.0, 2.0))


def test_the_deviation_in_closed_form():
    # Two layers: E‖W_1W_1ᵀ/h − I‖_F² = n(n + 1)/h, and the other term has m.
    n, h, m = 4, 30, 3
    by_hand = (math.sqrt(m * n * (n + 1) / h) + math.sqrt(n * m * (m + 1) / h)) / (2 * math.sqrt(n * m))
    assert lf.limit_kernel((n, h, m)).deviation == near(by_hand)
    # Three layers: a_2 = a_1 + (a_1 + a_1')/h_2 with a_1 = n + n(n + 1)/h_1 and a_1' = n² + 2n/h_1.
    h, k = 30, 20
    a, b = n + n * (n + 1) / h, m + m * (m + 1) / k
    a_2, b_2 = a + (a + n * n + 2 * n / h) / k, b + (b + m * m + 2 * m / k) / h
    terms = (n * b_2 - n * m, a * b - n * m, a_2 * m - n * m)
    by_hand = sum(map(math.sqrt, terms)) / (3 * math.sqrt(n * m))
    assert lf.limit_kernel((n, h, k, m)).deviation == near(by_hand)


@pytest.mark.parametrize("widths", [(3, 12, 2), (2, 10, 14, 3)])
def test_samples_have_these_moments(rng, widths):
    draws, found = 4000, lf.limit_kernel(widths)
    nm = widths[0] * widths[-1]
    T = [lf.TangentOperator(lf.init.ntk(widths, rng=rng)).dense() for _ in range(draws)]
    # An entry of the mean has an error of 1/sqrt(4000) of its deviation, below 0.03 here; five of these.
    np.testing.assert_allclose(np.mean(T, axis=0), found.eigenvalue * np.eye(nm), atol=0.15)
    away = math.sqrt(np.mean([np.sum((t - found.eigenvalue * np.eye(nm)) ** 2) for t in T]))
    away /= found.eigenvalue * math.sqrt(nm)
    assert 0.6 * found.deviation < away < 1.02 * found.deviation  # a bound; the mean square has an error of 2 %
