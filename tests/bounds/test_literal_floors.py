"""Operator floors, as docs/operator_intervals.md has them: the scalar chain by halving at 50 digits.

The floors are lowered by 1e-12 and the chain rounds at a few 1e-15 per layer, so both sides agree to 2e-12.
"""

import math
import sys
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linflow as lf
from linflow.bounds import any_imbalance, operator_floors, product_aware
from linflow.bounds._base import Invariants, Spectrum
from tests.random_networks import draw_weights
from tests.reference import intervals as twin
from tests.reference.algebra import least_tangent_eigenvalue

module = sys.modules["linflow.bounds.operator_floors"]
SAME = 2e-12


def near(x):
    return pytest.approx(x, rel=SAME, abs=0.0)


def exactly(eigenvalues):
    values = np.array(eigenvalues, dtype=float)
    return Spectrum(values, values)


@pytest.mark.parametrize("d", [[0.3], [2.0, -1.0], [-1.0, 3.0, 0.25], [0.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0, 2.0]])
@pytest.mark.parametrize("sigma", [1e-6, 0.3, 1.0, 40.0])
def test_prefix_products_are_those_of_the_scalar_chain(d, sigma):
    found = module.prefix_products([np.float64(x) for x in d], np.float64(sigma))
    t = twin.chain(d, sigma)
    for l, p in enumerate(found):
        exact = float(mpmath.fprod(t[:l]))
        # A sum of imbalances is off by 8ε of all of them: that counts where t is as small as 1e-12 of them.
        assert float(p) == pytest.approx(exact, rel=SAME + 1e-14 * sum(map(abs, d)) / float(min(t)), abs=0.0)
        assert float(p) <= exact or l == 0
    for l, (a, b) in enumerate(pairwise(t)):
        assert float(a - b) == pytest.approx(d[l], abs=1e-14)  # what a chain is


@pytest.mark.parametrize("d", [[-2.0], [1.0, -4.0], [-1.0, 3.0, 0.25]])
def test_imbalances_are_lowered_by_the_rounding_of_their_sums(monkeypatch, d):
    monkeypatch.setattr(module, "EPS", 2.0**-10)
    off = 8 * 2.0**-10 * sum(map(abs, d))
    t = twin.chain([x - off for x in d], 0.7)
    found = module.prefix_products([np.float64(x) for x in d], np.float64(0.7))
    assert [float(x) for x in found] == near([float(mpmath.fprod(t[:l])) for l in range(len(t))])


def test_the_root_is_followed_by_the_equation_of_the_chain():
    def follow(function, root):
        seen.append((function, float(root)))
        return root * 1.5

    seen: list = []
    d, sigma = [2.0, -1.0, 0.5], 0.25
    found = module.prefix_products([np.float64(x) for x in d], np.float64(sigma), follow)
    ((function, root),) = seen
    c = [float(t - min(twin.chain(d, sigma))) for t in twin.chain(d, sigma)]
    for x in (root, 2 * root, 40.0):
        literal = sum(math.log(x + y) for y in c) - 2 * math.log(sigma)
        assert function(np.float64(x)) == pytest.approx(literal, rel=SAME, abs=SAME)  # 0 at the root
    moved = np.cumprod([1.0, *(1.5 * root + y for y in c)])[:-1]
    assert [float(x) for x in found] == near(moved.tolist())
    seen.clear()  # a root of 0 is a constant
    assert float(module.prefix_products([np.float64(x) for x in (-2.0, 1.0)], np.float64(0.0), follow)[1]) == 0.0
    assert not seen
    module.prefix_products([np.float64(0.0)], np.float64(0.5), follow)
    assert [root for _, root in seen] == near([0.5])  # below 1


def test_the_theorem_is_the_function():
    D1, D2 = exactly([1.0, -0.5]), exactly([0.3, -1.0])
    inv = Invariants.given([D1, D2], 2, 2).at(0.1, 3.0)
    value = float(module.THEOREM.evaluate(inv))
    assert value == near(float(module.bound([D1, D2], 2, 2, np.float64(0.1), np.float64(3.0)))) and 0 < value < 0.5
    nothing = [exactly([0.0])] * 2
    assert float(module.THEOREM.evaluate(Invariants.given(nothing, 1, 1).at(0.0, 0.0))) == 0.0
    assert float(module.bound(nothing, 1, 1, np.float64(0.0), np.float64(0.0))) == 0.0


def test_each_end_of_a_spectrum_goes_where_it_makes_the_floor_smaller():
    D1, D2 = (Spectrum(np.array(low), np.array(low) + off) for low, off in (([1.5, 0.2], 0.1), ([0.7, -0.4], 0.2)))
    left, right = module.chain_floors([D1, D2], 2, 2, np.float64(0.8))
    b, a = [0.2, -0.4], [1.6, 0.9]
    t = twin.chain(b, 0.8)
    assert [float(x) for x in left] == near([1.0, float(t[0]), float(t[0] * t[1])])
    t = twin.chain(a, 0.8)
    assert [float(x) for x in right] == near([1.0, float(t[2]), float(t[1] * t[2])])


def test_the_long_side_and_narrow_layers_have_no_floors():
    Ds = [exactly([1.0, 0.5]), exactly([0.5, 0.25])]
    nothing = [1.0, 0.0, 0.0]
    left, right = module.chain_floors(Ds, 3, 2, np.float64(1.0))
    assert [float(x) for x in left] == nothing and float(right[2]) > 0
    left, right = module.chain_floors(Ds, 2, 3, np.float64(1.0))
    assert float(left[2]) > 0 and [float(x) for x in right] == nothing
    assert module.chain_floors([exactly([1.0, 0.5, 0.2]), exactly([0.5, 0.25])], 3, 3, np.float64(1.0)) == (
        nothing,
        nothing,
    )


def test_with_n_above_m_the_bound_is_the_suffix_of_the_chain():
    """`λ_min(T) ≥ t_2 ⋯ t_L(σ_m; λ_max(D_1), …)`: attained by weights that are aligned."""
    t = twin.chain([2.0, 1.0], 1.0)
    found = float(operator_floors([np.array([2.0, 0.5]), np.array([1.0, 0.5])], 3, 2, 1.0))
    assert found == pytest.approx(float(t[1] * t[2]), rel=1e-11)  # 16ε of D on top
    net = lf.init.spectral((3, 2, 2, 2), np.eye(3, 2), np.sqrt([[float(x)] * 2 for x in t]), rng=0)
    assert float(lf.TangentOperator(net).least_eigenvalue()) == pytest.approx(found, rel=1e-9)


def test_the_sum_takes_the_larger_of_all_floors():
    rng = np.random.default_rng(2)
    for _ in range(40):
        weights = draw_weights((2, 3, 3, 2), "gaussian", int(rng.integers(2**31)))
        inv = Invariants.of(lf.Network(weights))
        Ds, least, most = list(inv.spectra), inv.sigma_min, inv.sigma_max
        chains = module.chain_floors(Ds, 2, 2, least)
        old = (
            any_imbalance.prefix_floors(Ds, 2),
            any_imbalance.prefix_floors([D.negated() for D in reversed(Ds)], 2),
        )
        sides = [
            [max(float(x), float(y)) for x, y in zip(a, b, strict=True)] for a, b in zip(chains, old, strict=True)
        ]
        least_sum = sum(x * y for x, y in zip(sides[0], sides[1][::-1], strict=True))
        found = float(module.bound(Ds, 2, 2, least, most))
        assert found >= least_sum * (1 - 1e-11)  # it scales the layers to size 1, which rounds
        assert found >= float(product_aware.bound(Ds, 2, 2, least, most)) * (1 - 1e-11)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 4),
    m=st.integers(1, 4),
    extra=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    family=st.sampled_from(["gaussian", "scaled", "near balanced", "low rank", "orthogonal", "integer"]),
)
def test_no_floor_is_above_what_it_bounds(seed, n, m, extra, family):
    weights = draw_weights((n, *(min(n, m) + k for k in extra), m), family, seed)
    inv = Invariants.of(lf.Network(weights))
    left, right = module.chain_floors(inv.spectra, n, m, inv.sigma_min)
    for l in range(len(weights)):
        P = np.linalg.multi_dot([np.eye(n), np.eye(n), *weights[:l]])
        S = np.linalg.multi_dot([*weights[len(weights) - l :], np.eye(m), np.eye(m)])
        # Squares of singular values round at some 1e-15 of the greatest.
        p, s = np.linalg.svd(P, compute_uv=False), np.linalg.svd(S, compute_uv=False)
        assert float(left[l]) <= (p[n - 1] ** 2 if len(p) == n else 0.0) + 1e-13 * p[0] ** 2
        assert float(right[l]) <= (s[m - 1] ** 2 if len(s) == m else 0.0) + 1e-13 * s[0] ** 2
    T = lf.TangentOperator(weights)
    value = float(operator_floors(lf.imbalance_matrices(weights), n, m, float(inv.sigma_min), float(inv.sigma_max)))
    assert value <= least_tangent_eigenvalue(weights) + 1e-11 * float(T.greatest_eigenvalue())


def test_the_floor_does_not_fall_as_the_product_or_an_imbalance_grows():
    rng = np.random.default_rng(5)
    for _ in range(100):
        d, sigma = rng.normal(size=rng.integers(1, 5)), 10.0 ** rng.uniform(-4, 1)
        more = d + rng.exponential(size=len(d)) * (rng.random(len(d)) < 0.5)
        base, above = (np.array(module.prefix_products(list(x), np.float64(sigma))) for x in (d, more))
        assert (above >= base * (1 - SAME)).all()
        assert (np.array(module.prefix_products(list(d), np.float64(2 * sigma))) >= base * (1 - SAME)).all()


def test_without_a_product_the_floors_are_those_of_the_imbalances():
    """σ = 0: one `t` is 0, the others are sums of imbalances."""
    left, right = module.chain_floors([exactly([3.0]), exactly([2.0])], 1, 1, np.float64(0.0))
    assert [float(x) for x in left] == near([1.0, 5.0, 10.0])
    assert [float(x) for x in right] == pytest.approx([1.0, 0.0, 0.0], abs=1e-13)  # 8ε of the imbalances


def test_several_products_at_once():
    Ds = [exactly([1.0, -0.5]), exactly([0.3, -1.0])]
    sigmas = np.array([0.0, 0.1, 2.0])
    together = module.bound(Ds, 2, 2, sigmas, np.full(3, 3.0))
    alone = [float(module.bound(Ds, 2, 2, np.float64(s), np.float64(3.0))) for s in sigmas]
    assert together.shape == (3,)
    np.testing.assert_allclose(together, alone, rtol=1e-10)  # the searches of `deep_product` end apart
    given = [np.array([1.0, -0.5]), np.array([0.3, -1.0])]
    together = operator_floors(given, 2, 2, sigmas, [3.0, math.inf, math.inf])  # a norm that is not known for some
    alone = [
        float(operator_floors(given, 2, 2, s, top)) for s, top in zip(sigmas, [3.0, math.inf, math.inf], strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-10, atol=1e-13)  # 16ε of the imbalances


def test_two_layers_have_their_own_rows():
    reasons = [module.THEOREM.hypothesis(Invariants.given([exactly([0.0])] * k, 1, 1)) for k in (0, 1, 2, 3)]
    assert reasons[0] == "one layer has no imbalance" and "two layers" in reasons[1] and reasons[2:] == [None, None]


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"0 ≤ σ_min ≤ σ_max is needed"):
        operator_floors([np.eye(2)] * 2, 2, 2, 2.0, 1.0)
