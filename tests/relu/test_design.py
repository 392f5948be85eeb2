"""Designed starts, and the explicit size of Theorem 4."""

import numpy as np
import pytest

from linflow import relu
from tests.reference import relu as reference
from tests.relu.starts import drawn


def test_every_size_of_the_grid_above_the_design_is_certified():
    X, Y, _ = drawn(1, N=3, d=8)
    made = relu.design(X, Y, 20, rng=0)
    assert made.rate > 0 and (made.rates[made.sizes >= made.size] > 0).all()
    assert (made.sizes >= made.size).sum() >= 8
    np.testing.assert_allclose(np.linalg.norm(made.start.V, axis=1), made.size, rtol=1e-14)
    below = relu.Network(made.start.U, made.start.V / 1.02)
    assert relu.certify(X, Y, below).rate == 0
    assert relu.gradient_flow(X, Y, made.start, until=1e-3).time_to(1e-3) <= made.certificate.time_to(1e-3)
    again = relu.design(X, Y, 20, rng=0)
    assert again.size == made.size and "second layer" in repr(made)


def test_a_rate_is_reached_with_a_larger_second_layer():
    X, Y, _ = drawn(2, N=2, d=6)
    any_rate = relu.design(X, Y, 20, rng=0)
    made = relu.design(X, Y, 20, rate=8 * any_rate.rate, rng=0)
    assert made.rate >= 8 * any_rate.rate and made.size > any_rate.size


def test_wide_networks_can_start_with_a_second_layer_of_zero():
    X, Y, _ = drawn(3, N=3, d=8)
    made = relu.design(X, 0.3 * Y, 200, rng=0)
    assert made.zero_suffices and made.at_zero.rate > 0 and not made.at_zero.start.V.any()
    assert made.size == 0 and made.start.V.any() == np.False_ and made.rate == made.at_zero.rate


def test_where_H_is_singular_there_is_no_size():
    X, Y, _ = drawn(4, N=3, d=6)
    X[1] = X[0]
    with pytest.raises(ValueError, match="cannot be told from 0"):
        relu.design(X, Y, 40, rng=0)


def test_explicit_size_of_theorem_4_is_certified_without_flips():
    for seed in range(3):
        X, Y, net = drawn([5, seed], N=3, d=8, h=60)
        size = reference.explicit_size(X, net.U, Y)
        start = relu.Network(net.U, size * net.V)
        cert = relu.certify(X, Y, start)
        a = reference.slopes(X, net.U, 0.0)
        mu = np.linalg.eigvalsh(a @ a.T * (X @ X.T))[0]
        # the rate of the loss is twice λ ≥ α²μ/2
        assert cert.rate >= size**2 * mu and not cert.may_flip.any()
