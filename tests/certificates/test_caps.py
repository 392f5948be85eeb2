"""Caps on layers, prefixes and suffixes: as written, and above the norms of weights and of second derivatives."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given

import linflow as lf
from linflow.bounds import _base
from linflow.bounds.ceilings import prefix_ceilings, suffix_ceilings
from linflow.bounds.layer_norms import layer_caps
from linflow.certificates.caps import Caps
from linflow.certificates.lazy import greatest_eigenvalues
from tests.random_networks import networks
from tests.reference import algebra

SAME = 1e-12
"""Both sides do the same few operations."""


def norms_of(weights):
    """‖W_l‖, ‖P_l‖ and ‖S_{l+1}‖."""
    L = len(weights)
    P = [1.0, *(algebra.spectral_norm(algebra.product(weights[:l])) for l in range(1, L + 1))]
    S = [*(algebra.spectral_norm(algebra.product(weights[l:])) for l in range(L)), 1.0]
    return np.array([algebra.spectral_norm(W) for W in weights]), np.array(P), np.array(S)


@given(net=networks())
def test_caps_are_above_the_norms_of_weights(net):
    inv = lf.bounds.Invariants.of(net)
    caps = Caps.under(inv.spectra, np.array([float(inv.sigma_max), 2 * float(inv.sigma_max)]), 1 + 1e-9)
    layers, P, S = norms_of(net.weights)
    for within in (caps, caps.within(1.1 * layers[:, None] + 1e-9), Caps.of(layers[:, None] * (1 + 1e-9))):
        for found, known in ((within.layers, layers), (within.prefixes, P), (within.suffixes, S)):
            # 1e-150: where every factor is rounding, a product of norms may leave the normal numbers
            assert np.all(known[:, None] <= found * (1 + 1e-12) + 1e-150)
        greatest = float(np.linalg.eigvalsh(lf.TangentOperator(net).dense())[-1]) / net.scale**2
        assert np.all(greatest <= within.greatest() * (1 + 1e-9) + 1e-290)


@pytest.mark.parametrize("widths", [(3, 2), (2, 3, 2), (3, 4, 3, 2), (2, 3, 4, 3, 2), (2, 2, 2, 2, 2, 2)])
def test_the_interaction_bounds_the_second_derivative_of_the_product(rng, widths):
    """‖Σ_{i≠j} P_{i−1} G_i W_{i+1} ⋯ W_{j−1} G_j S_{j+1}‖_F ≤ λ_max(C) Σ ‖G_l‖_F²."""
    for _ in range(30):
        weights = [rng.standard_normal(s) for s in itertools.pairwise(widths)]
        layers, P, S = norms_of(weights)
        caps, L = Caps(layers[:, None], P[:, None], S[:, None]), len(weights)
        bound = caps.interaction()
        C = np.zeros((L, L))
        for i, j in itertools.combinations(range(L), 2):
            C[i, j] = C[j, i] = P[i] * math.prod(layers[i + 1 : j]) * S[j + 1]
        assert bound[0] == pytest.approx(np.linalg.eigvalsh(C)[-1], rel=SAME, abs=1e-15)
        G = [rng.standard_normal(W.shape) for W in weights]
        # W(s) is a polynomial in s: its second derivative at 0 by the coefficient of s².
        coefficients = [np.eye(widths[0]), np.zeros((widths[0],) * 2), np.zeros((widths[0],) * 2)]
        for W, g in zip(weights, G, strict=True):
            zero, one, two = coefficients
            coefficients = [zero @ W, one @ W + zero @ g, two @ W + one @ g]
        second = 2 * np.linalg.norm(coefficients[2])
        assert second <= bound[0] * sum(np.linalg.norm(g) ** 2 for g in G) * (1 + 1e-12)
        assert bound[0] <= Caps.of(layers[:, None]).interaction()[0] * (1 + 1e-12)


def test_caps_are_the_ceilings_and_the_norms_of_layers(rng):
    ends = [(np.sort(rng.standard_normal(3))[::-1], 0.125) for _ in range(3)]
    Ds = [_base.Spectrum(x - off, x + off) for x, off in ends]
    high, spare = np.array([0.5, 2.0, math.inf]), 1.5
    caps = Caps.under(Ds, high, spare)
    np.testing.assert_allclose(caps.layers, 1.5 * np.sqrt(layer_caps(Ds, high)), rtol=SAME)
    for l in range(5):
        np.testing.assert_allclose(caps.prefixes[l], 1.5**l * np.sqrt(prefix_ceilings(Ds, high)[l]), rtol=SAME)
        np.testing.assert_allclose(
            caps.suffixes[l], 1.5 ** (4 - l) * np.sqrt(suffix_ceilings(Ds, high)[l]), rtol=SAME
        )
    near = np.array([[1.0], [0.5], [2.0], [0.25]]) + np.zeros(3)
    ball = caps.within(near)
    np.testing.assert_allclose(ball.layers, np.minimum(caps.layers, near), rtol=SAME)
    for l in range(5):
        ahead, behind = np.prod(ball.layers[:l], axis=0), np.prod(ball.layers[l:], axis=0)
        np.testing.assert_allclose(ball.prefixes[l], np.minimum(caps.prefixes[l], ahead), rtol=SAME)
        np.testing.assert_allclose(ball.suffixes[l], np.minimum(caps.suffixes[l], behind), rtol=SAME)
    literal = sum(ball.prefixes[l] ** 2 * ball.suffixes[l + 1] ** 2 for l in range(4))
    np.testing.assert_allclose(ball.greatest(), literal, rtol=SAME)
    assert caps.greatest()[2] == math.inf and math.isfinite(ball.greatest()[2])


def test_one_layer_has_the_cap_of_the_product():
    caps = Caps.under((), np.array([3.0, 2.0]), 1.5)
    assert caps.layers.tolist() == [[3.0, 2.0]] and caps.greatest().tolist() == [1.0, 1.0]
    assert caps.interaction().tolist() == [0.0, 0.0]


def test_the_greatest_eigenvalue_of_what_is_infinite_is_infinite():
    C = np.ones((2, 3, 3)) - np.eye(3)
    C[1, 0, 1] = C[1, 1, 0] = math.inf
    assert greatest_eigenvalues(C).tolist() == [pytest.approx(2.0), math.inf]
    assert greatest_eigenvalues(7 * (np.ones((1, 2, 2)) - np.eye(2))).tolist() == [7.0]


def test_ceilings_make_the_curvature_smaller_where_layers_are_not_aligned(rng):
    smaller = 0
    for seed in range(10):
        net = lf.init.gaussian((3, 12, 12, 3), rng=seed)
        inv = lf.bounds.Invariants.of(net)
        high = np.array([float(inv.sigma_max)])
        caps = Caps.under(inv.spectra, high)
        alone = Caps.of(np.sqrt(layer_caps(inv.spectra, high)))
        assert caps.greatest()[0] <= alone.greatest()[0] * (1 + 1e-9)
        smaller += caps.greatest()[0] < 0.8 * alone.greatest()[0]
    assert smaller >= 8
