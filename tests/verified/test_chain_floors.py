"""Floors from imbalances and product, rounding proved: literal formulas, exact chains, and what is refused."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

import linflow as lf
from linflow.bounds._base import Spectrum
from linflow.model.scalar_chain import chain_root
from linflow.verified import chain_floors as module
from linflow.verified.chain_floors import chain_floors, prefix_products

U = 2.0**-53
DOWN, LOWER = 1 - 1e-12, 1 - 4e-12


def interval(low, high):
    return Spectrum(np.array(low, dtype=float), np.array(high, dtype=float))


def near(x):
    return pytest.approx(x, rel=1e-14, abs=0)


def exactly(weights):
    """`λ_min(T)` of a chain of scalars, a rational."""
    squares = [Fraction(float(w)) ** 2 for w in weights]
    return sum(math.prod(squares[:l] + squares[l + 1 :]) for l in range(len(squares)))


def test_the_factors():
    """A product of a few hundred factors is right to 1e-12 if none is near the least number of float64, 5e-324."""
    assert (module.DOWN, module.LOWER, module.LEAST) == (1 - 1e-12, 1 - 4e-12, 1e-290)


@pytest.mark.parametrize("depth", [2, 3, 5, 9])
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_a_chain_of_scalars_is_bounded_from_below_and_tightly(depth, spread):
    rng = np.random.default_rng(depth)
    for _ in range(40):
        w = np.exp(spread * rng.uniform(-1, 1, depth))
        squares = [Fraction(float(x)) ** 2 for x in w]
        d = [float(a - b) for a, b in itertools.pairwise(squares)]
        room = [2 * U * abs(x) for x in d]
        spectra = [interval([x - r], [x + r]) for x, r in zip(d, room, strict=True)]
        sigma = math.prod(float(x) for x in w) * (1 - 1e-14)
        floor, true = float(chain_floors(spectra, 1, 1, np.array([sigma]))[0]), exactly(w)
        assert floor <= true
        # Squares differ by e^16 at most, and the smallest is known to a few units of the largest.
        assert floor > true * (1 - Fraction(10) ** -7)
        products = prefix_products([x - r for x, r in zip(d, room, strict=True)], np.array([sigma]))[:, 0]
        for l in range(1, depth):
            assert 0 < products[l] <= math.prod(squares[:l])


def test_the_sum_over_the_layers():
    """`Σ_l λ_n(P_{l−1}P_{l−1}ᵀ) λ_m(S_{l+1}ᵀS_{l+1})`, with the larger of both floors on each side."""
    one, two = interval([9.0, 1.0], [10.0, 2.0]), interval([5.0, 3.0], [8.0, 4.0])
    sigma = np.array([0.0, 2.0])
    floors = chain_floors([one, two], 2, 2, sigma)
    left, right = prefix_products([1.0, 3.0], sigma), prefix_products([-8.0, -10.0], sigma)
    # From the imbalances alone: W_1W_1ᵀ is at least 3 + 1, W_2W_2ᵀ at least 3, from the right nothing is known.
    left = np.maximum(left, np.array([[1.0], [4.0], [12.0]]))
    np.testing.assert_allclose(floors, np.sum(left * right[::-1], axis=0) * DOWN, rtol=1e-15)
    assert floors[0] == 12.0 * DOWN and floors[1] > floors[0]
    # The chain has floors of the prefixes of a wide product, and of the suffixes of a tall one.
    wide, tall = chain_floors([one, two], 2, 3, sigma), chain_floors([two.negated(), one.negated()], 3, 2, sigma)
    assert list(wide) == list(tall) == near(left[2] * DOWN)
    assert chain_floors([interval([1.0], [1.0]), two], 2, 2, sigma)[1] == 0.0  # a layer narrower than the product


@pytest.mark.parametrize("d", [[2.0, 1.0], [-1.0, 3.0, 0.5], [0.0, 0.0]])
def test_the_products_of_the_chain(d):
    sigma = np.array([0.5, 1.5, 40.0])
    slack = 8 * U * sum(map(abs, d))
    c = np.array([0.0, *np.cumsum([slack - x for x in d])])
    c -= c.min()
    t = c[:, None] + chain_root(c, sigma) * LOWER
    expected = [np.ones(3), *(np.prod(t[:l], axis=0) * DOWN for l in range(1, len(t)))]
    np.testing.assert_allclose(prefix_products(d, sigma), expected, rtol=1e-15)


def nothing(products):
    return bool((products[0] == 1).all() and (products[1:] == 0).all())


def test_a_root_that_is_too_large_is_refused(monkeypatch):
    d, sigma = [2.0, 1.0], np.array([3.0])
    assert (prefix_products(d, sigma) > 0).all()
    for factor, good in ((1 + 2e-12, True), (1 + 3.5e-12, False)):  # the check leaves 1e-12 for its rounding
        with monkeypatch.context() as patch:
            patch.setattr(module, "chain_root", lambda c, s, factor=factor: chain_root(c, s) * factor)
            assert nothing(prefix_products(d, sigma)) != good


def test_offsets_whose_differences_exceed_an_imbalance_are_refused(monkeypatch):
    d, sigma = [2.0, 1.0], np.array([3.0])
    plain = module.chain_offsets
    monkeypatch.setattr(module, "chain_offsets", lambda x: plain(x) + np.array([4 * U, 0.0, 0.0]))
    assert (prefix_products(d, sigma) > 0).all()  # within the slack
    monkeypatch.setattr(module, "chain_offsets", lambda x: plain(x) + np.array([40 * U, 0.0, 0.0]))
    assert nothing(prefix_products(d, sigma))
    monkeypatch.setattr(module, "chain_offsets", lambda x: plain(x) + np.array([0.0, 40 * U, 0.0]))
    assert nothing(prefix_products(d, sigma))


def test_sums_of_imbalances_need_their_slack():
    """Without it the offsets of these numbers differ by more than one of them."""
    rng = np.random.default_rng(0)
    lost = 0
    for _ in range(200):
        d = [float(x) for x in rng.standard_normal(6)]
        lost += nothing(prefix_products(d, np.array([1.0])))
    assert lost == 0


@pytest.mark.parametrize("sigma", [0.0, 1e-150, 1e200, math.inf])
def test_nothing_is_said_where_numbers_leave_float64(sigma):
    assert nothing(prefix_products([0.0, 0.0], np.array([sigma])))


def test_tiny_floors_count_as_0():
    tiny = [interval([1e-100], [1e-100])] * 4
    # The floors of the layers are 4, 3 and 2 times 1e-100; a product of three is below 1e-290.
    assert module._imbalance_alone(tiny, 1)[:, 0].tolist()[2:] == [near(12e-200), 0.0, 0.0]
    for size, kept in ((1.5e-290, 1.5e-290 * DOWN), (0.9e-290, 0.0)):  # 2x · x, the floors of two layers
        x = math.sqrt(size / 2)
        assert chain_floors([interval([x], [x])] * 2, 1, 1, np.zeros(1))[0] == near(kept)


def test_the_floors_hold_for_matrices_whose_spectra_they_use():
    rng, telling = np.random.default_rng(3), 0
    for k in range(60):
        n, m = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        widths = (n, *(int(h) for h in rng.integers(min(n, m), 6, 1 + k % 3)), m)
        net = (
            lf.init.imbalanced(widths, [3.0] * (len(widths) - 2), std=0.5, rng=rng)
            if k % 2
            else lf.init.gaussian(widths, rng=rng)
        )
        spectra = []
        for A, B in itertools.pairwise(net.weights):
            values = np.linalg.eigvalsh(A.T @ A - B @ B.T)[::-1]
            spectra.append(Spectrum(values - 1e-12, values + 1e-12))
        sigma = np.linalg.svd(net.product(), compute_uv=False)[-1] * (1 - 1e-12)
        floor = chain_floors(spectra, n, m, np.array([sigma]))[0]
        true = np.linalg.eigvalsh(lf.TangentOperator(net).dense())
        assert floor <= true[0] + 1e-12 * true[-1]
        telling += floor > 1e-6 * true[-1]
    assert telling > 30
