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
    assert "second layer" in repr(made)


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
    with pytest.raises(ValueError, match="Y is all 0"):
        relu.design(X, 0 * Y, 40)
    with pytest.raises(TypeError, match="Y is None"):
        relu.design(X, None, 40)


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


def test_neurons_near_a_kink_need_not_be_counted():
    """Theorem 4 (b) on given data: the first size and path of a grid for which `½α²(μ − κν)τ ≥ ‖Y‖`."""
    for seed in (1, 3):
        X, Y, net = drawn([7, seed], N=3, d=8, h=400)
        cases = ((a, t) for a in np.geomspace(0.1, 10, 40) for t in np.geomspace(1e-3, 1, 60))
        found = ((a, t, *reference.without_the_near_ones(X, net.U, a, t)) for a, t in cases)
        size, _, floor, near = next(one for one in found if one[2] * one[1] >= np.linalg.norm(Y))
        assert near > 10 and size < 0.1 * reference.explicit_size(X, net.U, Y)
        assert relu.certify(X, Y, relu.Network(net.U, size * net.V)).rate >= 2 * floor


@pytest.mark.parametrize("h", [20_000, 200_000])
def test_the_size_that_is_needed_falls_with_the_width(h):
    """Theorem 4 (b) for wide networks: at its least α the conditions hold, and λ is 1 to 2.5 times α²hμ_∞/4."""
    X, Y, _ = drawn([9, 0], N=3, d=8)
    K, y, kappa = X @ X.T, np.linalg.norm(Y), np.linalg.norm(X, 2) ** 2
    lengths = np.sqrt(K.diagonal())
    together = (np.pi - np.arccos(np.clip(K / np.outer(lengths, lengths), -1, 1))) / (2 * np.pi)  # E[a_i a_l]
    mu, shares = np.linalg.eigvalsh(together * K)[0], np.sum(np.linalg.norm(K, axis=1) / lengths)
    U = relu.paired((8, h, 1), rng=0).U
    f = np.linalg.norm(np.maximum(X @ U, 0), axis=0).max()
    size = max((34 * f * y / (mu * h)) ** (1 / 3), 11 * kappa * shares * y / (mu**2 * h))
    floor, near = reference.without_the_near_ones(X, U, size, 4 * y / (size**2 * h * mu))
    assert near > 0 and 1 <= floor / (size**2 * h * mu / 4) < 2.5
    assert size < 1.1 * (34 * f * y / (mu * h)) ** (1 / 3)  # the cube root is what counts


@pytest.mark.parametrize(("m", "s", "paired"), [(1, 0.0, True), (2, 0.2, False)])
def test_a_second_layer_of_zero_at_the_explicit_size_of_the_targets(m, s, paired):
    """Theorem 4 (c) with equality: α = 0, and for pairs α at the size at which both terms are equal."""
    X, Y, net = drawn([8, 0], N=3, d=8, h=200, m=m, s=s, paired=paired)
    Z = X @ net.U
    features = np.where(Z > 0, Z, s * Z)
    g, kappa = np.linalg.eigvalsh(features @ features.T)[0], np.linalg.norm(X, 2) ** 2
    part = 17.6 * kappa * np.linalg.norm(features)
    for share in (1.0, 0.5) if paired else (1.0,):
        y = np.sqrt(share * g**2.5 / part)
        size = (1 - share) * g**1.5 / (9.5 * np.sqrt(200) * kappa * y)
        start = relu.Network(net.U, size * net.V, slope=s)
        assert relu.certify(X, y * Y / np.linalg.norm(Y), start).rate >= g / 2
