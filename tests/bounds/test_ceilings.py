"""Ceilings on prefixes, suffixes, layers and T: against a twin of 60 digits, against weights, their allowances."""

import itertools
import math
import sys

import mpmath
import numpy as np
import pytest
from hypothesis import given

import linflow as lf
from linflow.bounds import _base
from tests.random_networks import FAMILIES, draw_weights, networks
from tests.reference import algebra
from tests.reference.intervals import chain

module = sys.modules["linflow.bounds.ceilings"]  # the function has the name of its module
COARSE = 2.0**-10
ROUNDED = 1e-13
"""Computed products, imbalances and eigenvalues are off by a few hundred ε at most, relative to the layers."""


def twin(Ds, n, m, sigmas):
    """The three bounds as docs/operator_intervals.md has them."""
    a, b = [float(D[0]) for D in Ds], [float(D[-1]) for D in Ds]
    L, widths = len(Ds) + 1, [n, *(len(D) for D in Ds), m]

    def sigma(k):
        return sigmas[k] if k < len(sigmas) else 0.0

    prefixes = [[mpmath.fprod(chain(a, sigma(k))[:l]) for k in range(n)] for l in range(L + 1)]
    suffixes = [[mpmath.fprod(chain(b, sigma(k))[l:]) for k in range(m)] for l in range(L + 1)]
    greatest = sum(prefixes[l][0] * suffixes[l + 1][0] for l in range(L))
    for l in range(L + 1):
        for k in range(n):
            prefixes[l][k] = prefixes[l][k] if k < min(widths[: l + 1]) else 0
        for k in range(m):
            suffixes[l][k] = suffixes[l][k] if k < min(widths[l:]) else 0
    return np.array(prefixes, dtype=float), np.array(suffixes, dtype=float), float(greatest)


def spectra(net):
    return [np.linalg.eigvalsh(np.asarray(D))[::-1] for D in lf.imbalance_matrices(net)]


def singular_values(net):
    """The singular values of the product, raised by their rounding."""
    values = np.linalg.svd(net.product() / net.scale, compute_uv=False)
    return values + ROUNDED * math.prod(algebra.spectral_norm(W) for W in net.weights)


def ceilings_of(net):
    """The ceilings of a network, with the imbalances and the singular values moved by their rounding."""
    off, (n, m) = ROUNDED * max(algebra.spectral_norm(W) ** 2 for W in net.weights), net.shape
    up, down = (lf.bounds.ceilings([D + s * off for D in spectra(net)], n, m, singular_values(net)) for s in (1, -1))
    return lf.bounds.Ceilings(
        up.prefixes, down.suffixes, float(module.greatest(up.prefixes[:, 0], down.suffixes[:, 0]))
    )


def assert_above(net):
    """Every eigenvalue of every prefix, suffix and of T, and every layer, is below its ceiling."""
    (n, m), weights, L = net.shape, net.weights, net.depth
    found = ceilings_of(net)
    scale = max(algebra.spectral_norm(W) ** 2 for W in weights)
    P = [np.eye(n), *itertools.accumulate(weights, np.matmul)]
    S = [*[x.T for x in itertools.accumulate([W.T for W in reversed(weights)], np.matmul)][::-1], np.eye(m)]
    for l in range(L + 1):
        values, own = np.linalg.eigvalsh(P[l] @ P[l].T)[::-1], ROUNDED * scale**l
        assert np.all(values <= found.prefixes[l] * (1 + ROUNDED) + own)
        values, own = np.linalg.eigvalsh(S[l].T @ S[l])[::-1], ROUNDED * scale ** (L - l)
        assert np.all(values <= found.suffixes[l] * (1 + ROUNDED) + own)
    greatest = float(np.linalg.eigvalsh(lf.TangentOperator(net).dense())[-1]) / net.scale**2
    assert greatest <= found.greatest * (1 + ROUNDED) + ROUNDED * scale ** (L - 1)
    return found, greatest


@given(net=networks())
def test_no_weights_are_above_their_ceilings(net):
    assert_above(net)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("widths", [(4, 40, 3), (2, 1, 3, 2), (5, 9, 9, 9, 4), (3, 2, 5, 2, 6, 3), (1, 30, 30, 1)])
def test_wide_deep_and_narrow_weights_are_below_their_ceilings(family, widths):
    for seed in range(4):
        assert_above(lf.Network(draw_weights(widths, family, seed)))


def climb(net, rng, steps=300):
    """Weights whose T comes closest to its ceiling, by random changes that are kept when they come closer."""

    def share(weights):
        net = lf.Network(weights)
        return float(np.linalg.eigvalsh(lf.TangentOperator(net).dense())[-1]) / ceilings_of(net).greatest

    weights, best, size = [np.array(W) for W in net.weights], 0.0, 0.3
    best = share(weights)
    for _ in range(steps):
        tried = [W + size * rng.standard_normal(W.shape) for W in weights]
        value = share(tried)
        if value > best:
            weights, best = tried, value
        else:
            size = max(size * 0.99, 1e-3)
    return lf.Network(weights), best


@pytest.mark.parametrize("widths", [(2, 2, 2, 2), (2, 3, 2, 3, 2), (1, 3, 2)])
def test_weights_that_strive_for_their_ceiling_do_not_pass_it(rng, widths):
    net, best = climb(lf.init.gaussian(widths, rng=rng), rng)
    assert 0.5 < best <= 1 + 1e-9
    assert_above(net)


def test_scalars_balance_and_homogeneous_imbalance_attain_them(rng):
    for L in range(2, 6):
        w = rng.uniform(0.2, 3.0, L)
        net = lf.Network([np.array([[x]]) for x in w])
        found, greatest = assert_above(net)
        np.testing.assert_allclose(found.prefixes[:, 0], np.cumprod([1.0, *w**2]), rtol=1e-9)
        np.testing.assert_allclose(found.suffixes[:, 0], np.cumprod([1.0, *w[::-1] ** 2])[::-1], rtol=1e-9)
        assert found.greatest == pytest.approx(greatest, rel=1e-9, abs=0)
    for net in (lf.init.balanced((4, 6, 6, 3), rng=rng), lf.init.imbalanced((3, 3, 3), 0.7, rng=rng)):
        found, greatest = assert_above(net)
        assert found.greatest == pytest.approx(greatest, rel=1e-7, abs=0)
        P = net.weights[0] @ net.weights[0].T
        np.testing.assert_allclose(found.prefixes[1][:3], np.linalg.eigvalsh(P)[::-1][:3], rtol=1e-7)


@pytest.mark.parametrize("L", [2, 3, 4, 6])
def test_against_the_twin(rng, L):
    for _ in range(6):
        n, m = (int(x) for x in rng.integers(1, 5, 2))
        Ds = [np.sort(rng.normal(rng.choice([-2, 0, 2]), 1.0, int(rng.integers(1, 5))))[::-1] for _ in range(L - 1)]
        sigmas = np.sort(10 ** rng.uniform(-3, 1, min(n, m)))[::-1]
        if rng.random() < 0.3:
            sigmas[-1] = 0.0
        found, expected = lf.bounds.ceilings(Ds, n, m, sigmas), twin(Ds, n, m, sigmas)
        for value, literal in zip((found.prefixes, found.suffixes, found.greatest), expected, strict=True):
            np.testing.assert_allclose(value, literal, rtol=1e-12, atol=1e-12)  # at σ = 0 a factor is 8ε Σ|d|, not 0
            assert np.all(value >= np.array(literal))


@pytest.mark.parametrize("power", [-600, -300, 2, 300, 600])
def test_sizes_are_those_of_layers_of_size_one(power):
    Ds, sigmas = [np.array([1.5, -0.25]), np.array([0.75, -2.0])], np.array([1.25, 0.5])
    one = lf.bounds.ceilings(Ds, 2, 2, sigmas)
    found = lf.bounds.ceilings([np.ldexp(D, power) for D in Ds], 2, 2, np.ldexp(sigmas, 3 * power // 2))
    with np.errstate(over="ignore", under="ignore"):
        for l in range(4):
            for value, unit in ((found.prefixes[l], one.prefixes[l]), (found.suffixes[3 - l], one.suffixes[3 - l])):
                np.testing.assert_array_equal(value, np.maximum(np.ldexp(unit, power * l), _base.SMALLEST_NORMAL))


def test_one_number_bounds_every_singular_value():
    Ds = [np.array([1.0, -1.0])]
    one, each = lf.bounds.ceilings(Ds, 2, 3, 2.0), lf.bounds.ceilings(Ds, 2, 3, [2.0, 2.0])
    np.testing.assert_array_equal(one.prefixes, each.prefixes)
    np.testing.assert_array_equal(one.suffixes, each.suffixes)
    assert one.greatest == each.greatest
    assert one.suffixes.shape == (3, 3) and one.suffixes[1, 2] < 1e-12 and one.suffixes[0, 2] == 0.0


def test_without_a_norm_there_is_no_ceiling():
    found = lf.bounds.ceilings([np.array([1.0, -1.0])], 2, 2, math.inf)
    assert found.prefixes[0].tolist() == [1.0, 1.0] and found.prefixes[1].tolist() == [math.inf] * 2
    assert found.greatest == math.inf


def test_zero_layers_have_zero_ceilings():
    found = lf.bounds.ceilings([np.zeros(2), np.zeros(2)], 2, 2, 0.0)
    assert found.greatest == 0.0 and not found.prefixes[1:].any() and not found.suffixes[:-1].any()


def test_a_product_of_0_stays_0():
    assert lf.bounds.ceilings([np.array([-1.0])], 1, 1, 0.0).prefixes[:, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("others", [0.0, 1e-200])
def test_a_product_of_layers_of_any_size_is_its_norm(others):
    """‖W_1W_2W_3‖² may leave float64 where ‖W‖² does not."""
    Ds = [np.array([x]) for x in (others, 0.0, 1e110)]
    assert lf.bounds.ceilings(Ds, 1, 1, 1e70).prefixes[4, 0] == pytest.approx(1e140, rel=1e-11, abs=0)


def test_layers_are_scaled_by_the_largest_eigenvalue():
    """Layers of σ alone would leave float64 here: the bound on ‖W‖² = 1 is poor, and finite."""
    Ds = [np.zeros(2)] * 3
    found = lf.bounds.ceilings([*Ds, np.array([1e80, -1e-200])], 2, 2, 1.0)
    assert 1 <= found.prefixes[5, 0] < 1e95 and found.prefixes[4, 0] == math.inf
    found = lf.bounds.ceilings([np.array([1e-200, -1e80]), *Ds], 2, 2, 1.0)
    assert 1 <= found.suffixes[0, 0] < 1e95 and found.suffixes[1, 0] == math.inf


def test_tiny_factors_are_not_rounded_to_0():
    # w² = (1e-200, 1e-200, 1e200): the product of the first two is no number of float64.
    found = lf.bounds.ceilings([np.array([0.0]), np.array([-1e200])], 1, 1, 1e-100)
    assert found.prefixes[2, 0] >= _base.SMALLEST_NORMAL > 0


@pytest.mark.parametrize("sigmas", [-1.0, [1.0, 2.0], [1.0], [1.0, math.nan], [[1.0, 1.0]]])
def test_singular_values_are_checked(sigmas):
    with pytest.raises(ValueError, match="upper bounds on σ_1 ≥ … ≥ σ_2 ≥ 0"):
        lf.bounds.ceilings([np.eye(2)], 2, 2, sigmas)
    with pytest.raises(ValueError, match="upper bounds on σ_1 ≥ … ≥ σ_3 ≥ 0"):
        lf.bounds.ceilings([np.eye(3)], 3, 3, [3.0, 1.0, 2.0])


def test_it_says_what_it_bounds():
    text = repr(lf.bounds.ceilings([np.zeros(2)], 2, 2, 1.0))
    assert text == "Ceilings(2 layers, λ_max(T) ≤ 2)"


def test_every_allowance_is_in_the_upward_direction(monkeypatch):
    """With a coarse ε: the steps are raised by 8ε Σ|d|, the root by its logarithm's rounding, each product by 4ε."""
    monkeypatch.setattr(module, "EPS", COARSE)
    d, w = [0.5, -1.25], 1.75
    off = 8 * COARSE * 1.75
    steps = [x + off for x in d]
    sums = np.array([0.0, steps[0], steps[0] + steps[1]])
    c = sums.max() - sums
    x = float(min(chain(steps, w)))
    raised = math.exp(math.log(x) + 8 * COARSE * 5 * (1 + max(abs(math.log(x)), abs(math.log(x + c.max())))))
    top, factors = module.root_above([np.float64(z) for z in d], w)
    assert float(top) == pytest.approx(raised + sums.max(), rel=1e-12, abs=0)
    np.testing.assert_allclose(factors, raised + c, rtol=1e-12)
    followed, _ = module.root_above([np.float64(z) for z in d], w, lambda function, root: np.float64(root))
    allowed = 8 * COARSE * 5 * (1 + max(abs(math.log(x)), abs(math.log(x + c.max()))))
    assert float(followed) == pytest.approx(x * (1 + allowed) + sums.max(), rel=1e-12, abs=0)
    for tiny in (1e-30, 1e-3):  # the logarithm of the root, or of the largest factor, is the larger
        x = float(min(chain(steps, tiny)))
        raised_tiny = math.exp(math.log(x) + 8 * COARSE * 5 * (1 + max(abs(math.log(x)), abs(math.log(x + c.max())))))
        np.testing.assert_allclose(
            module.root_above([np.float64(z) for z in d], tiny)[1], raised_tiny + c, rtol=1e-12
        )
    Ds = [_base.Spectrum(np.array([z - 0.125]), np.array([z])) for z in d]
    found = module.prefix_ceilings(Ds, np.float64(w))
    literal = np.cumprod([1.0, *((raised + c) * (1 + 4 * COARSE))])
    np.testing.assert_allclose(found, literal, rtol=1e-12)
    mirrored = [_base.Spectrum(np.array([-z]), np.array([0.125 - z])) for z in reversed(d)]
    np.testing.assert_allclose(module.suffix_ceilings(mirrored, np.float64(w))[::-1], literal, rtol=1e-12)
    p, q = np.array([1.0, 2.0, 3.0]), np.array([7.0, 5.0, 1.0])
    assert module.greatest(p, q) == pytest.approx((5.0 + 2.0) * (1 + 12 * COARSE), rel=1e-14, abs=0)
    # 8 (L + 2) ε log-roundings are enough for the root that Newton's method finds.
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    for _ in range(50):
        steps = list(rng.standard_normal(int(rng.integers(1, 8))) * 10.0 ** rng.uniform(-8, 8))
        w = float(10.0 ** rng.uniform(-100, 100))
        found = module.prefix_ceilings([_base.Spectrum(np.array([z]), np.array([z])) for z in steps], np.float64(w))
        assert all(p >= mpmath.fprod(chain(steps, w)[:l]) for l, p in enumerate(found))


# --- norms of the layers within ------------------------------------------------------------------------------------


def test_a_middle_layer_is_capped_by_the_prefix_that_it_ends(rng):
    """x Π_{k<l} (x + Σ_{j=k}^{l−1} b_j)_+ ≤ ‖P_l‖² ≤ p_l(‖W‖; a), and its mirror image."""
    better = 0
    for _ in range(60):
        L = int(rng.integers(3, 6))
        net = lf.init.gaussian(tuple(int(x) for x in rng.integers(1, 6, L + 1)), rng=rng)
        Ds, norm = spectra(net), float(singular_values(net)[0])
        caps = np.array(lf.bounds.norms(Ds, norm))
        squares = np.array([algebra.spectral_norm(W) ** 2 for W in net.weights])
        assert np.all(squares <= caps * (1 + 1e-9))
        a, b = [D[0] for D in Ds], [D[-1] for D in Ds]
        first, last = float(chain(a, norm)[0]), float(chain(b, norm)[-1])
        alone = [min(first - sum(b[:l]), last + sum(a[l:])) for l in range(L)]
        assert np.all(caps <= np.array(alone) * (1 + 1e-9))
        better += bool(np.any(caps < np.array(alone) * 0.99))
        for l in range(1, L - 1):
            x = caps[l]
            for steps, known in (
                (b[:l][::-1], chain(a, norm)[: l + 1]),
                ([-z for z in a[l:]], chain(b, norm)[l:]),
            ):
                factors = x + np.cumsum([0.0, *steps])
                assert factors.min() <= 0 or np.prod(factors) <= float(mpmath.fprod(known)) * (1 + 1e-9)
    assert better >= 30
