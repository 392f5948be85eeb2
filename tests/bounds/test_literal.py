"""Every lower bound on λ_min(T) as docs/theory.md has it, written out anew with ends of spectra and allowances.

Spectra whose two ends differ show which end a bound reads; an ε of 2⁻¹⁰ shows every allowance for rounding, which at
2⁻⁵² no comparison could see. Both sides then do the same few operations: they agree to a few roundings (1e-12).
"""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow import bounds
from linflow._support import arrays
from linflow.bounds import (
    _base,
    any_imbalance,
    layer_norms,
    product_aware,
    scalar_chain,
    special_imbalance,
    three_layers,
    two_layers,
)
from linflow.bounds._base import Invariants, Spectrum
from linflow.model import scalar_chain as _chain
from tests.reference.intervals import chain

SAME = 1e-12


def near(x, rel=1e-6, abs=0.0):
    """A relative comparison alone: what is small must be right as well."""
    return pytest.approx(x, rel=rel, abs=abs)


COARSE = 2.0**-10


class Ends:
    """Eigenvalues, each between two numbers, descending."""

    def __init__(self, low, high):
        self.low, self.high, self.h = [float(x) for x in low], [float(x) for x in high], len(low)

    def spectrum(self):
        return Spectrum(np.array(self.low), np.array(self.high))

    def negated(self):
        return Ends([-x for x in reversed(self.high)], [-x for x in reversed(self.low)])

    def least(self, k):
        """A lower bound on [λ_k]_+."""
        return max(self.low[k - 1], 0.0) if k <= self.h else 0.0

    def most(self, k=1):
        return max(self.high[k - 1], 0.0) if k <= self.h else 0.0


def draw(rng, h, spread=1.0, shift=0.0):
    low = np.sort(rng.normal(shift, spread, h))[::-1]
    return Ends(low, low + rng.uniform(0.01, 0.2) * spread)


def invariants(ends, n, m, low=0.0, high=math.inf, following=None, size=0.0, allowance=0.0):
    given = Invariants.given([E.spectrum() for E in ends], n, m).at(low, high, following)
    return replace(given, size=size, allowance=allowance)


def root_of(c, target):
    """The x ≥ 0 with Π(x + c_l) = target, by halving at 40 digits."""
    if target == 0:
        return 0.0
    with mpmath.workdps(40):
        low, high = mpmath.mpf(0), mpmath.mpf(target) + 1
        for _ in range(150):
            middle = (low + high) / 2
            below = mpmath.fprod(middle + k for k in c) < target
            low, high = (middle, high) if below else (low, middle)
        return high


def slope_of(c, x):
    return float(sum(math.prod(x + k for j, k in enumerate(c) if j != i) for i in range(len(c))))


# --- spectra and invariants ----------------------------------------------------------------------------------------


def test_a_spectrum_gives_the_end_that_makes_a_bound_smaller():
    D = Spectrum(np.array([3.0, 1.0, -2.0]), np.array([4.0, 1.5, -1.0]))
    assert [float(D.at_least(k)) for k in (1, 2, 3, 4)] == [3.0, 1.0, 0.0, 0.0]
    assert [float(D.at_most(k)) for k in (1, 2, 3, 4)] == [4.0, 1.5, 0.0, 0.0]
    assert float(D.at_most()) == 4.0
    negated = D.negated()
    assert negated.lower.tolist() == [1.0, -1.5, -4.0] and negated.upper.tolist() == [2.0, -1.0, -3.0]
    assert D.size == 3 and float(D.zero) == 0.0
    twice = D.times(2.0)
    assert twice.lower.tolist() == [6.0, 2.0, -4.0] and twice.upper.tolist() == [8.0, 3.0, -2.0]


@pytest.mark.parametrize(("eps", "tiny"), [(COARSE, 0.0), (0.0, 0.25), (COARSE, 0.25)])
def test_the_invariants_of_a_network_allow_for_rounding_as_written(monkeypatch, rng, eps, tiny):
    monkeypatch.setattr(_base, "EPS", eps)
    monkeypatch.setattr(_base, "SMALLEST_NORMAL", tiny)
    weights = [rng.standard_normal(s) for s in ((2, 6), (6, 5), (5, 3))]
    net = lf.Network(weights, 0.4)
    inv = Invariants.of(net)
    size = max(np.linalg.norm(W) for W in weights) ** 2
    allowance = 16 * math.sqrt(6) * (eps * size + tiny)
    assert inv.size == near(size, rel=SAME) and inv.allowance == near(allowance, rel=SAME)
    for l, D in enumerate(inv.spectra):
        values = np.linalg.eigvalsh(weights[l].T @ weights[l] - weights[l + 1] @ weights[l + 1].T)[::-1]
        np.testing.assert_allclose(D.lower, values - allowance, rtol=SAME, atol=SAME * size)
        np.testing.assert_allclose(D.upper, values + allowance, rtol=SAME, atol=SAME * size)
    sigmas = np.linalg.svd(weights[0] @ weights[1] @ weights[2], compute_uv=False)
    slack = 16 * eps * 3 * math.prod(np.linalg.norm(W) for W in weights)
    assert float(inv.sigma_min) == near(max(sigmas[1] - slack, 0.0), rel=SAME)
    assert float(inv.sigma_next) == near(max(sigmas[0] - slack, 0.0), rel=SAME)
    assert float(inv.sigma_max) == near(sigmas[0] + slack, rel=SAME)
    assert float(inv.sigma_min_most) == near(sigmas[1] + slack, rel=SAME)
    assert inv.widths == (2, 6, 5, 3) and (inv.n, inv.m, inv.depth) == (2, 3, 3)


def test_invariants_of_a_vector_have_no_second_singular_value(rng):
    for shape in ((1, 4), (4, 1)):
        inv = Invariants.of(lf.Network([rng.standard_normal((shape[0], 3)), rng.standard_normal((3, shape[1]))]))
        assert float(inv.sigma_next) == math.inf and 0 < float(inv.sigma_min) < float(inv.sigma_max)


def test_other_singular_values_replace_those_of_the_network():
    inv = Invariants.given([Spectrum(np.zeros(2), np.zeros(2))], 2, 3, 0.5)
    assert (float(inv.sigma_min), float(inv.sigma_next), float(inv.sigma_max)) == (0.5, 0.5, math.inf)
    assert (inv.size, inv.allowance, inv.widths) == (0.0, 0.0, (2, 2, 3))
    assert inv.sigma_min_most is None and inv.times(3).sigma_min_most is None
    inv = inv.at(1.0, 3.0, 2.0, 1.5)
    assert (float(inv.sigma_min), float(inv.sigma_next), float(inv.sigma_max)) == (1.0, 2.0, 3.0)
    assert float(inv.sigma_min_most) == 1.5 and float(inv.times(3).sigma_min_most) == 1.5 * 64
    assert inv.at(1.0, 3.0, 2.0).sigma_min_most is None  # a bound on another product is none on this one
    for n, m, following in ((1, 3, math.inf), (3, 1, math.inf), (1, 1, math.inf), (2, 2, 1.0)):
        assert (
            float(Invariants.given([Spectrum(np.zeros(2), np.zeros(2))], n, m).at(1.0, 1.0).sigma_next) == following
        )
    alone = Invariants.given([], 2, 2, 0.5)
    assert alone.widths == (2, 2) and float(alone.sigma_min) == 0.5


def test_the_allowance_of_a_chain_is_as_written():
    for L, size, allowance in ((2, 3.0, 0.1), (3, 3.0, 0.1), (4, 2.0, 0.01)):
        inv = invariants([Ends([0.0], [0.0])] * (L - 1), 1, 1, size=size, allowance=allowance)
        assert inv.chain_allowance() == near(2 * L**4 * allowance * size ** (L - 2), rel=SAME)


@pytest.mark.parametrize(
    ("largest", "sigma", "L", "e"),
    [
        (2.0**150, 0.0, 2, 75),  # 150 digits to the power 4 are 600
        (2.0**149.9, 0.0, 2, 0),
        (2.0**-150, 0.0, 2, -75),
        (2.0**-149.9, 0.0, 2, 0),
        (2.0**101, 0.0, 3, 51),  # half of 101 rounded up
        (2.0**99, 0.0, 3, 0),
        (1.0, 2.0**150, 3, 50),  # σ^(2/L)
        (1.0, 2.0**149.5, 3, 0),
        (1.0, 2.0**151, 2, 76),
        (0.0, 0.0, 2, 0),
        (0.0, 2.0**-400, 2, -200),
    ],
)
def test_layers_are_brought_to_size_1_where_powers_leave_float64(largest, sigma, L, e):
    for where in ("size", "upper", "lower"):
        low, high = (0.0, largest) if where == "upper" else (-largest, 0.0) if where == "lower" else (0.0, 0.0)
        ends = [Ends([0.0], [0.0])] * (L - 2) + [Ends([low], [high])]
        inv = invariants(ends, 1, 1, sigma, sigma, size=largest if where == "size" else 0.0)
        assert inv.exponent == e, where
    only_max = invariants([Ends([0.0], [0.0])] * (L - 1), 1, 1, 0.0, sigma, size=largest)
    assert only_max.exponent == e


def test_invariants_of_layers_times_a_power_of_two():
    inv = invariants([Ends([1.0], [2.0]), Ends([-1.0], [0.0])], 2, 2, 3.0, 5.0, 4.0, size=7.0, allowance=0.5).times(3)
    assert inv.spectra[0].lower[0] == 64.0 and inv.spectra[0].upper[0] == 128.0 and inv.spectra[1].lower[0] == -64.0
    assert (float(inv.sigma_min), float(inv.sigma_next), float(inv.sigma_max)) == (3 * 512, 4 * 512, 5 * 512)
    assert (inv.size, inv.allowance) == (7 * 64, 32)


@pytest.mark.parametrize("k", [200, -200, 30])
@pytest.mark.parametrize("L", [2, 3, 4])
def test_a_bound_of_any_size_is_that_of_size_1_times_its_power(k, L):
    seen = []

    def formula(inv):
        seen.append(inv)
        return inv.spectra[0].upper[0] ** (L - 1)

    value = _base.at_unit_size(formula, invariants([Ends([0.0], [3.0 * 4.0**k])] * (L - 1), 1, 1))
    digits = math.log2(3) + 2 * k + 0.0
    exact = 2.0 ** (2 * k * (L - 1)) if 2 * k * (L - 1) < 1000 else math.inf
    if exact == math.inf:
        assert value == _base.LARGEST
    elif 2 * k * (L - 1) < -1022:
        assert value == 0.0
    else:
        assert value == 3.0 ** (L - 1) * exact
    moved = abs(digits) * 2 * L >= 600
    assert (0.5 < seen[0].spectra[0].upper[0] <= 4.0) == moved


def test_a_bound_is_a_normal_number_or_0():
    tiny, large = 2.0**-1022, float(np.finfo(float).max)
    values = np.array([tiny, np.nextafter(tiny, 0), 1.0, large, math.inf, -1.0])
    assert _base.within_normal(values).tolist() == [tiny, 0.0, 1.0, large, large, 0.0]


def test_powers_of_two_and_lengths_keep_to_float64():
    assert _base.times_power(np.float64(2.0**-1000), 1900) == 2.0**900
    assert _base.times_power(np.float64(2.0**900), -1900) == 2.0**-1000
    assert _base.times_power(np.float64(1.5), 1) == 3.0 and _base.times_power(np.float64(1.5), 0) == 1.5
    assert _base.times_power(np.float64(2.0**-1000), 2100) == math.inf
    assert [_base._power(e) for e in (3, -3, 1023, 1024, -1074, -1075)] == [
        8,
        0.125,
        2**1023.0,
        2**1023.0,
        5e-324,
        5e-324,
    ]
    for a, b in ((3.0, 4.0), (4.0, 3.0), (3e200, 4e200), (3e-200, 4e-200), (0.0, 2.0), (2.0, 0.0), (0.0, 0.0)):
        assert two_layers._hypot(np.float64(a), np.float64(b)) == near(math.hypot(a, b), rel=4e-16)
    x = [np.array([1.0, 5.0]), np.array([3.0, 2.0]), np.array([2.0, 4.0])]
    assert arrays.maximum(*x).tolist() == [3.0, 5.0]


def test_given_spectra_are_sorted_checked_and_limited():
    assert _base.spectrum(np.array([1.0, 3.0, -2.0])).lower.tolist() == [3.0, 1.0, -2.0]
    D = np.array([[1.0, 2.0], [2.0, -1.0]])
    np.testing.assert_allclose(_base.spectrum(D).upper, [math.sqrt(5), -math.sqrt(5)], rtol=SAME)
    size = np.linalg.norm(D)
    off = np.array([[0.0, 1.0], [0.0, 0.0]])  # adds to D − Dᵀ its own length times √2
    _base.spectrum(D + off * 0.99e-10 * size / math.sqrt(2))
    with pytest.raises(ValueError, match="not symmetric"):
        _base.spectrum(D + off * 1.01e-10 * size / math.sqrt(2))
    # A matrix that is not quite symmetric is taken by its symmetric part.
    np.testing.assert_allclose(
        _base.spectrum(D + off * 5e-11).upper[0], math.sqrt(5) + 5e-11 / math.sqrt(5), rtol=1e-14
    )
    assert _base.spectrum(np.array([1e300])).upper[0] == 1e300
    for values in ([1.01e300], [-1.01e300], [1.0, -1.01e300], [1.01e300, 1.0]):
        with pytest.raises(ValueError, match="too close to the limits"):
            _base.spectrum(np.array(values))
    for bad in (np.array([]), np.array([math.inf]), np.array([1.0, math.nan])):
        with pytest.raises(ValueError, match="finite"):
            _base.spectrum(bad)
    for bad in ((), "ab", np.ones(2)):
        with pytest.raises(TypeError):
            _base.spectra(bad)
    assert [D.lower.tolist() for D in _base.scalar_spectra([2.0, -1.0])] == [[2.0], [-1.0]]
    assert len(_base.scalar_spectra(3.0)) == 1
    with pytest.raises(ValueError, match="D_2 has an eigenvalue"):
        _base.spectra([np.zeros(1), np.array([1.01e300])])
    with pytest.raises(ValueError, match="d_1 has an eigenvalue"):
        _base.scalar_spectra([1.01e300])
    with pytest.raises(ValueError, match="not symmetric"):
        _base.spectrum(np.ones((2, 3)))
    for bad in ([[1.0]], [math.nan], [1.0, math.nan]):
        with pytest.raises(ValueError, match="L − 1 finite"):
            _base.scalar_spectra(bad)


def test_exact_spectra_are_widened_by_the_rounding_of_their_sums(monkeypatch):
    monkeypatch.setattr(_base, "EPS", COARSE)
    Ds = [
        Spectrum(np.array([3.0, -1.0]), np.array([3.0, -1.0])),
        Spectrum(np.array([2.0, -5.0]), np.array([2.0, -5.0])),
    ]
    for product in (8.0, np.array([1.0, 8.0])):
        off = 16 * COARSE * (3 + 5 + 8.0 ** (2 / 3))
        low, high = zip(*((D.lower, D.upper) for D in _base.rounded(Ds, product)), strict=True)
        np.testing.assert_allclose(low, [[3 - off, -1 - off], [2 - off, -5 - off]], rtol=SAME)
        np.testing.assert_allclose(high, [[3 + off, -1 + off], [2 + off, -5 + off]], rtol=SAME)
    # The size is that of the larger end, and each end is moved outwards.
    (found,) = _base.rounded([Spectrum(np.array([-2.0, -3.0]), np.array([-1.0, -2.5]))], 0.0)
    off = 16 * COARSE * 3
    assert found.lower.tolist() == [-2 - off, -3 - off] and found.upper.tolist() == [-1 + off, -2.5 + off]
    (found,) = _base.rounded([Spectrum(np.array([2.0, 1.0]), np.array([4.0, 1.5]))], 0.0)
    assert found.upper[0] == 4 + 16 * COARSE * 4


def test_spectra_in_numpy_keep_both_ends():
    import array_api_strict as strict

    given = Spectrum(strict.asarray([1.0, 0.0]), strict.asarray([2.0, 0.5]))
    (found,) = _base.plain([given])
    assert isinstance(found.lower, np.ndarray) and found.lower.tolist() == [1, 0] and found.upper.tolist() == [2, 0.5]
    same = Spectrum(np.zeros(1), np.ones(1))
    assert _base.plain([same])[0] is same


# --- scalar chains -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "d", [[3.0], [-2.0], [1.0, -4.0], [2.0, 1.0, -5.0, 0.5], [0.0, 0.0], [1e8, 1.0], [1.0, 1e-9]]
)
@pytest.mark.parametrize("w", [0.0, 1e-9, 0.7, 3.0, 1e5])
def test_the_scalar_chain_is_its_polynomial(d, w):
    squares = np.concatenate([[0.0], -np.cumsum(d)])
    c = squares - squares.min()
    np.testing.assert_allclose(_chain.chain_offsets(d), c, rtol=0, atol=0)
    x = root_of(c, mpmath.mpf(w) ** 2)
    assert float(_chain.chain_root(np.array(c), w)) == near(float(x), rel=1e-14, abs=1e-300)
    with mpmath.workdps(40):
        slope = float(sum(mpmath.fprod(x + k for j, k in enumerate(c) if j != i) for i in range(len(c))))
    assert float(_chain.chain_slope(c, float(x))) == near(slope, rel=1e-14)
    assert lf.bounds.scalar_exact(d, w) == near(slope, rel=1e-13)
    closed = math.hypot(math.prod(sorted(c)[1:]), len(c) * w ** (2 - 2 / len(c)))
    assert lf.bounds.scalar(d, w) == near(closed, rel=1e-13) and lf.bounds.scalar(d, -w) == lf.bounds.scalar(d, w)
    assert lf.bounds.homogeneous(d, w) == near(slope, rel=1e-13)


def test_the_root_of_a_chain_at_the_ends_and_for_many_products():
    c = np.array([0.0, 2.0])
    assert _chain.chain_root(c, np.array([0.0, math.inf, 1.0])).tolist()[:2] == [0.0, math.inf]
    assert _chain.chain_log_root(c, 1e-200) == near(-400 * math.log(10) - math.log(2), rel=1e-14)
    assert _chain.chain_log_root(np.zeros(3), 1e-300) == near(-200 * math.log(10), rel=1e-15)
    many = _chain.chain_root(c, np.array([1.0, 3.0]))
    np.testing.assert_allclose(many, [math.sqrt(2) - 1, math.sqrt(10) - 1], rtol=1e-15)
    assert _chain.chain_slope(c, np.array([[1.0, 2.0]])).tolist() == [[4.0, 6.0]]


@pytest.mark.parametrize("widths", [(1, 1, 1), (1, 1, 1, 1)])
def test_scalar_theorems_take_the_middle_of_the_ends_and_their_allowance(widths):
    L = len(widths) - 1
    ends = [Ends([1.0], [1.5]), Ends([-2.0], [-1.8])][: L - 1]
    inv = invariants(ends, 1, 1, 0.9, size=2.0, allowance=1e-3)
    squares = [0.0, -1.25, 0.65][:L]
    c = [s - min(squares) for s in squares]
    allowance = 2 * L**4 * 1e-3 * 2.0 ** (L - 2)
    exact = slope_of(c, float(root_of(c, 0.81)))
    assert float(scalar_chain.EXACT.formula(inv)) == near(exact - allowance, rel=1e-12)
    closed = math.hypot(math.prod(sorted(c)[1:]), L * 0.9 ** (2 - 2 / L))
    assert float(scalar_chain.THEOREM.formula(inv)) == near(closed - allowance, rel=1e-12)
    assert float(special_imbalance.HOMOGENEOUS.formula(inv)) == near(exact - allowance, rel=1e-12)

    for theorem, value in ((scalar_chain.EXACT, exact), (scalar_chain.THEOREM, closed)):
        assert float(theorem.differentiable(inv, inv, lambda _, root: root)) == near(value - allowance, rel=1e-12)


def test_derivatives_of_scalar_theorems_follow_the_root_where_it_is_simple():
    """The slope at the root is w_1² + w_2² = 0.02 here, and 0 at weights of 0, where the root has no derivative."""
    seen = []

    def follow(excess, root):
        seen.append(float(excess(root)))
        return root

    inv = invariants([Ends([0.0], [0.0])], 1, 1, 0.01)
    assert float(scalar_chain.EXACT.differentiable(inv, inv, follow)) == near(0.02)
    assert seen == [near(0.0, abs=1e-17)]
    assert float(scalar_chain.THEOREM.differentiable(inv, inv, follow)) == near(0.02)
    assert float(scalar_chain.EXACT.differentiable(inv.at(0.0, math.inf), inv, follow)) == 0.0
    assert len(seen) == 1


def test_scalar_theorems_are_for_scalars_of_two_layers_at_least():
    for theorem in (scalar_chain.EXACT, scalar_chain.THEOREM):
        for depth, none in ((1, False), (2, True), (3, True)):
            inv = invariants([Ends([0.0], [0.0])] * (depth - 1), 1, 1)
            assert (theorem.hypothesis(inv) is None) == none
        for widths in ((1, 2, 1), (2, 1, 1), (1, 1, 2)):
            assert theorem.hypothesis(replace(invariants([Ends([0.0], [0.0])], 1, 1), widths=widths)) is not None


def test_arguments_of_the_scalar_bounds_are_those_of_a_1_by_1_network():
    inv = scalar_chain._arguments([3.0, 1.0], -2.0)
    assert inv.widths == (1, 1, 1, 1) and float(inv.sigma_min) == 2.0
    assert lf.bounds.scalar([3.0], 0.0) == 3.0


# --- two layers ----------------------------------------------------------------------------------------------------


def halves(E, n, m, sigma_n, sigma_m):
    """Bounds on λ_n(W_1W_1ᵀ), λ_m(W_2ᵀW_2): `½(p − b + sqrt((p + b)² + 4σ²))`, with the worse end of each."""
    N = E.negated()
    p, b = E.least(n), N.most()
    q, a = N.least(m), E.most()
    first = p + 0.5 * (math.hypot(p + b, 2 * sigma_n) - (p + b))
    last = q + 0.5 * (math.hypot(q + a, 2 * sigma_m) - (q + a))
    return first, last


SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)]


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_two_layers_read_the_ends_that_make_the_bound_smaller(rng, n, m):
    for h in (min(n, m), 3, 5):
        for shift in (0.0, 2.0, -2.0):
            E = draw(rng, h, shift=shift)
            sigma = rng.uniform(0.1, 2.0)
            at_n, at_m = (sigma if n <= m else 0.0), (sigma if m <= n else 0.0)
            value = float(two_layers.THEOREM.formula(invariants([E], n, m, sigma)))
            assert value == near(sum(halves(E, n, m, at_n, at_m)), rel=SAME)


def test_two_layers_of_exact_imbalance_are_prop_1_of_the_paper(rng):
    for n, m in SHAPES:
        D = np.sort(rng.standard_normal(4))[::-1]
        s_n, s_m = (1.3 if n <= m else 0.0), (1.3 if m <= n else 0.0)
        plus = max(D[0], 0) - max(D[n - 1], 0)
        minus = max(-D[-1], 0) - max(-D[-m], 0)
        gap = max(D[n - 1], 0) + max(-D[-m], 0)
        literal = 0.5 * (
            -plus + math.sqrt((plus + gap) ** 2 + 4 * s_m**2) - minus + math.sqrt((minus + gap) ** 2 + 4 * s_n**2)
        )
        assert float(lf.bounds.two_layer(D, n, m, s_n, s_m)) == near(literal, rel=SAME)
    with pytest.raises(ValueError, match="sigma_n"):
        lf.bounds.two_layer(D, 3, 2, 1.0, 0.0)
    assert float(two_layers._excess(np.float64(0.0), np.float64(0.0))) == 0.0
    assert float(two_layers._excess(np.float64(1e10), np.float64(1.0))) == near(1e-10, rel=1e-15)


def product_of_least(w2, s, r):
    """P: the smaller root of `P² − (s + r + w²)P + sr`, and for `P > w²` at most `max(w², sr/(s + r))`."""
    with mpmath.workdps(50):
        s, w2 = mpmath.mpf(s), mpmath.mpf(w2)
        if r == math.inf:
            P, mean = s, s
        else:
            r = mpmath.mpf(r)
            half = (s + r + w2) / 2
            P, mean = half - mpmath.sqrt(half**2 - s * r), s * r / (s + r)
        return float(P if w2 >= P else min(P, max(w2, mean)))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_two_square_layers_have_the_least_sum_on_the_curve(rng, n):
    cases = set()
    for _ in range(60):
        scale, shift = 10 ** rng.uniform(-2, 1), rng.choice([0.0, 1.5, -1.5])
        E = draw(rng, n + int(rng.integers(0, 3)), scale, shift)
        sigma = 10 ** rng.uniform(-1, 0.5)
        following = sigma * rng.choice([1.0, 1.5, 30.0]) if n > 1 else math.inf
        first, last = halves(E, n, n, sigma, sigma)
        w = 0.5 * (E.high[0] - E.low[-1])
        P = product_of_least(w * w, sigma**2, following**2)
        larger = max(first, last)
        if first * last >= P:
            literal, case = first + last, "corner"
        elif larger > math.sqrt(P):
            literal, case = larger + P / larger, "edge"
        else:
            literal, case = 2 * math.sqrt(P), "curve"
        cases.add(case)
        value = float(two_layers.SQUARE.formula(invariants([E], n, n, sigma, following=following)))
        assert value == near(literal, rel=1e-11)  # a root of a difference, at worst 1e-12
    assert cases >= ({"edge", "curve"} if n > 1 else {"edge"})


def test_two_square_layers_without_a_product_keep_their_halves():
    E = Ends([3.0, 1.0], [3.5, 1.2])
    for sigma, following in ((0.0, 0.0), (0.0, 1.0), (1e-101, 1e-101)):
        first, last = halves(E, 2, 2, sigma, sigma)
        value = float(two_layers.SQUARE.formula(invariants([E], 2, 2, sigma, following=following)))
        assert value == near(first + last, rel=SAME)
    assert two_layers.SQUARE.hypothesis(invariants([E], 2, 3)) is not None
    assert two_layers.SQUARE.hypothesis(invariants([E], 2, 2)) is None
    for theorem in (two_layers.THEOREM, two_layers.SQUARE):
        assert theorem.hypothesis(invariants([E, E], 2, 2)) is not None
        assert theorem.hypothesis(invariants([], 2, 2)) is not None
    assert two_layers.THEOREM.hypothesis(invariants([E], 2, 3)) is None
    with pytest.raises(ValueError, match="exchanged"):
        lf.bounds.two_layer_square(np.zeros(2), 2, 1.0, 0.9)
    assert float(lf.bounds.two_layer_square(np.zeros(2), 2, 1.0, 1.0)) == near(2.0, rel=SAME)
    assert float(lf.bounds.two_layer_square(np.zeros(1), 1, 1.0, 0.0)) == near(2.0, rel=SAME)
    wide = np.array([3.0, -3.0])
    alone = two_layers.SQUARE.formula(invariants([Ends([3.0, -3.0], [3.0, -3.0])], 1, 1, 0.1))
    assert float(lf.bounds.two_layer_square(wide, 1, 0.1, 0.1)) == near(float(alone), rel=SAME)
    assert float(lf.bounds.two_layer_square(np.zeros(2), 2, 0.0, 0.0)) == 0.0


# --- three layers --------------------------------------------------------------------------------------------------


def deficit(own, other, r):
    """`tr D̄ − tr(D̄ ∧_r D)` and with squares; D̄ from the lower ends, the shifted spectrum from the upper."""
    below = own.low
    bar = [max(below[i], other.low[i] if i < other.h else -math.inf, 0.0) for i in range(own.h)]
    wedge = [min(bar[i], own.high[i + 1 - r] if i + 1 - r >= 0 else math.inf) for i in range(own.h)]
    return sum(bar) - sum(wedge), sum(x * x for x in bar) - sum(x * x for x in wedge)


@pytest.mark.parametrize(("n", "m"), [*SHAPES, (4, 1), (1, 4)])
def test_three_layers_are_theorem_2_with_the_worse_ends(rng, n, m):
    for h1, h2 in ((1, 1), (2, 4), (4, 2), (5, 5)):
        for shift in (0.0, 1.5):
            E1, E2 = draw(rng, h1, shift=-shift), draw(rng, h2, shift=shift)
            N1 = E1.negated()
            a, a2 = deficit(N1, E2, n)
            b, b2 = deficit(E2, N1, m)
            literal = 0.5 * (a2 + a**2) + a * b + 0.5 * (b2 + b**2)
            value = float(three_layers.THEOREM.formula(invariants([E1, E2], n, m)))
            assert value == near(literal, rel=SAME, abs=1e-13)
    for depth, none in ((2, False), (3, True), (4, False)):
        assert (three_layers.THEOREM.hypothesis(invariants([E1] * (depth - 1), 1, 1)) is None) == none


# --- any depth, special imbalance ----------------------------------------------------------------------------------


def test_unimodal_imbalance_is_theorem_3_with_lower_ends_and_its_allowance(rng):
    ups = [Ends([2.0, 1.0], [2.1, 1.3]), Ends([1.5, 0.5, 0.2], [1.7, 0.6, 0.3])]
    downs = [Ends([-0.5, -1.0], [-0.4, -0.7]), Ends([-1.0, -2.0, -4.0], [-0.6, -1.9, -3.0])]
    n, m, allowance, size = 2, 1, 1e-3, 1.2
    for ends, peak in ((ups + downs, 3), (ups, 3), (downs, 1), (ups[:1], 2), (downs[:1], 1)):
        L = len(ends) + 1
        product = 1.0
        for i in range(1, L):
            if i >= peak:
                product *= sum(ends[l - 1].negated().least(m) for l in range(peak, i + 1))
            else:
                product *= sum(ends[l - 1].least(n) for l in range(i, peak))
        inv = invariants(ends, n, m, size=size, allowance=allowance)
        literal = product - 2 * L**4 * allowance * size ** (L - 2)
        assert float(special_imbalance.UNIMODAL.formula(inv)) == near(literal, rel=SAME)
        assert float(special_imbalance.UNIMODAL.differentiable(inv, inv, None)) == near(literal, rel=SAME)
        assert special_imbalance.UNIMODAL.hypothesis(inv) is None
    mixed = invariants([downs[0], ups[0]], n, m)
    assert "not unimodal" in special_imbalance.UNIMODAL.hypothesis(mixed)
    # Zero imbalance fits every peak, and the best is taken.
    zero, up = Ends([0.0], [0.0]), Ends([3.0], [3.0])
    assert float(special_imbalance.UNIMODAL.formula(invariants([up, zero], 1, 1))) == 0.0
    assert special_imbalance._peaks([zero.spectrum(), zero.spectrum()]) == [1, 2, 3]
    # An end that may be 0 leaves both signs open.
    assert special_imbalance._peaks([Ends([-0.1], [0.0]).spectrum()]) == [1, 2]
    assert special_imbalance._peaks([Ends([0.0], [0.1]).spectrum()]) == [1, 2]
    assert special_imbalance._peaks([Ends([0.1], [0.2]).spectrum()]) == [2]
    assert special_imbalance._peaks([Ends([-0.2], [-0.1]).spectrum()]) == [1]
    assert special_imbalance._peaks([Ends([0.5, -0.3], [0.6, -0.2]).spectrum()]) == []
    # The largest eigenvalue decides on ⪯ 0 and the least on ⪰ 0.
    assert special_imbalance._peaks([Ends([1.0, -1.0], [1.0, 0.0]).spectrum()]) == [2]
    assert special_imbalance._peaks([Ends([0.0, -1.0], [1.0, -1.0]).spectrum()]) == [1]


def test_the_sign_of_exact_eigenvalues_is_known_to_256_roundings(monkeypatch):
    monkeypatch.setattr(special_imbalance, "EPS", 2.0**-20)
    edge = 256 * 2.0**-20 * 4
    for big in (4.0, -4.0):
        for small, fine in ((edge, True), (edge * 1.002, False)):
            # The largest eigenvalue of all, at either end, sets the size.
            Ds = [np.array([-small if big > 0 else small, big]), np.array([big / 3])]
            for given in (Ds, Ds[::-1]):
                if fine:
                    lf.bounds.unimodal(given, 1, 1)
                else:
                    with pytest.raises(ValueError, match="not unimodal"):
                        lf.bounds.unimodal(given, 1, 1)


def test_balanced_layers_have_the_power_and_the_factor_of_their_shape():
    for L, n, m in ((2, 2, 2), (3, 2, 3), (4, 3, 3), (3, 3, 1)):
        factor = L if n == m else 1
        assert lf.bounds.balanced(L, n, m, 0.7) == near(factor * 0.7 ** (2 - 2 / L), rel=1e-15)
        assert lf.bounds.balanced(L, n, m, 1e160) == near(
            min(factor * 10 ** (160 * (2 - 2 / L)), 1.797e308), rel=1e-3
        )
        inv = invariants([Ends([0.0] * 3, [0.0] * 3)] * (L - 1), n, m, 0.7, size=1.5, allowance=1e-4)
        literal = factor * 0.7 ** (2 - 2 / L) - 2 * L**4 * 1e-4 * 1.5 ** (L - 2)
        assert float(special_imbalance.BALANCED.formula(inv)) == near(literal, rel=SAME)
    assert lf.bounds.balanced(2, 2, 2, np.array([1.0, 2.0])).tolist() == [2.0, 4.0]
    assert lf.bounds.balanced(5, 1, 1, 1e200) == _base.LARGEST
    assert lf.bounds.balanced(2, 1, 1, 2e150) == near(4e150, rel=1e-14)


def test_hypotheses_on_special_imbalance_hold_up_to_the_ends():
    balanced, same = special_imbalance.BALANCED.hypothesis, special_imbalance.HOMOGENEOUS.hypothesis
    for low, high, fine in (
        ([-1.0], [0.0], True),
        ([0.0], [1.0], True),
        ([0.1], [0.2], False),
        ([-0.2], [-0.1], False),
    ):
        assert (balanced(invariants([Ends([0.0], [0.0]), Ends(low, high)], 1, 1)) is None) == fine
        assert (balanced(invariants([Ends(low, high)], 1, 1)) is None) == fine
    for low, high, fine in (([1.0, 0.5], [1.5, 1.0], True), ([1.0, 0.5], [1.5, 0.9], False)):
        assert (same(invariants([Ends([0.0] * 2, [0.0] * 2), Ends(low, high)], 2, 2)) is None) == fine
    assert "not square" in same(invariants([Ends([0.0], [0.0])], 2, 2))
    for theorem in bounds.THEOREMS:
        assert theorem.hypothesis(invariants([], 2, 2)) is not None
    assert balanced(invariants([Ends([0.0], [0.0])], 1, 1)) is None
    assert same(invariants([Ends([0.0], [0.0])], 1, 1)) is None
    assert any_imbalance.THEOREM.hypothesis(invariants([Ends([0.0], [0.0])], 1, 1)) is None
    assert special_imbalance.UNIMODAL.hypothesis(invariants([Ends([0.0], [0.0])], 1, 1)) is None
    assert [
        product_aware.THEOREM.hypothesis(invariants([Ends([0.0], [0.0])] * k, 1, 1)) is None for k in (1, 2, 3)
    ] == [
        False,
        True,
        True,
    ]


# --- any depth, any imbalance --------------------------------------------------------------------------------------


def floors_of(ends, n, layers=None, gains=None, prefixes=None):
    """Floors of λ_n(P_lP_lᵀ), l = 0 … L − 1, as docs/theory.md carries them, with the worse ends."""
    L = len(ends) + 1
    widths = [E.h for E in ends]
    u = list(layers or [0.0] * L)
    gains, prefixes = gains or [0.0] * L, prefixes or [0.0] * L
    for l, E in enumerate(ends):
        u[l], u[l + 1] = max(u[l], E.least(n)), max(u[l + 1], E.negated().least(n))
    for _ in range(2 * L):
        for l, E in enumerate(ends):
            u[l] = max(u[l], u[l + 1] + E.low[-1])
            u[l + 1] = max(u[l + 1], u[l] - E.high[0])
    g, found = max(u[0], gains[0]), [1.0]
    for l, E in enumerate(ends):
        found.append(max(found[-1] * g, prefixes[l + 1]))
        lost = sum(F.negated().most() for F in ends[: l + 1])
        g = max(gains[l + 1], g - E.high[0], u[l + 1] - lost)
    assert min(widths) >= n
    return found


def literal_deep(ends, n, m):
    def side(ends, r):
        kept = []
        for E in ends:
            if E.h < r:
                break
            kept.append(E)
        found = floors_of(kept, r) if kept else [1.0]
        return found + [0.0] * (len(ends) + 1 - len(found))

    left, right = side(ends, n), side([E.negated() for E in reversed(ends)], m)[::-1]
    return sum(a * b for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("n", "m"), [*SHAPES, (4, 1), (1, 4)])
def test_any_imbalance_is_carried_along_the_chain(rng, n, m):
    for widths in ((3,), (2, 3), (3, 1, 4), (4, 4, 4), (5, 3, 4, 3)):
        for _ in range(6):
            ends = [draw(rng, h, 0.5, rng.choice([-2.0, 0.0, 2.0])) for h in widths]
            value = float(any_imbalance.THEOREM.formula(invariants(ends, n, m)))
            assert value == near(literal_deep(ends, n, m), rel=SAME, abs=1e-13)


def test_floors_known_from_elsewhere_are_carried_on(rng):
    for _ in range(40):
        ends = [draw(rng, 3, 0.5, rng.choice([-2.0, 0.0, 2.0])) for _ in range(3)]
        layers, gains = list(rng.uniform(0, 3, 4)), list(rng.uniform(0, 2, 4))
        prefixes = [np.float64(1.0), *rng.uniform(0, 4, 3)]
        Ds = [E.spectrum() for E in ends]
        found = any_imbalance.prefix_floors(Ds, 2, any_imbalance.Known(layers, gains, prefixes))
        np.testing.assert_allclose(found, floors_of(ends, 2, layers, gains, prefixes), rtol=SAME)


# --- norms and the bound that knows the product --------------------------------------------------------------------


def caps_of(ends, product, inner=None):
    """Bounds on ‖W_l‖²: each from the prefix that it ends and the suffix that it begins, then from its neighbours."""
    if product == math.inf:
        return [math.inf] * (len(ends) + 1)

    def last(ends, square):
        # ‖W_l‖² ≥ x + Σ_{k ≥ l} λ_min(D_k), from the lower ends.
        sums = [0.0]
        for E in reversed(ends):
            sums.append(sums[-1] - E.low[-1])
        top = max(sums)
        return top + float(root_of([top - s for s in sums], square))

    def prefix(l):
        # ‖W_1 ⋯ W_l‖² ≤ t_1 ⋯ t_l with t_k − t_{k+1} = λ_max(D_k), Π t = ‖W‖².
        return mpmath.fprod(chain([E.high[0] for E in ends], product)[:l])

    L, mirrored = len(ends) + 1, [E.negated() for E in reversed(ends)]
    caps = [last(ends[: l - 1], prefix(l)) for l in range(1, L + 1)]
    if not inner:
        return caps_of(mirrored, product, inner=caps)[::-1]
    caps = [min(x, y) for x, y in zip(caps, reversed(inner), strict=True)]
    for _ in range(2 * L):
        for l, E in enumerate(ends):
            caps[l + 1] = min(caps[l + 1], max(caps[l] - E.low[-1], 0.0))
            caps[l] = min(caps[l], max(caps[l + 1] + E.high[0], 0.0))
    return caps


@pytest.mark.parametrize("L", [2, 3, 4, 5])
def test_norms_of_layers_are_capped_by_polynomial_and_neighbours(rng, L):
    for _ in range(8):
        ends = [draw(rng, int(rng.integers(1, 4)), 1.0, rng.choice([-2.0, 0.0, 2.0])) for _ in range(L - 1)]
        product = 10 ** rng.uniform(-1, 1)
        Ds = [E.spectrum() for E in ends]
        np.testing.assert_allclose(layer_norms.layer_caps(Ds, product), caps_of(ends, product), rtol=1e-12)
        assert layer_norms.layer_caps(Ds, np.array([product, math.inf]))[:, 1].tolist() == [math.inf] * L


@pytest.mark.parametrize(
    ("high", "low", "product", "l"),
    [
        ([15.6, 0.4, -1.8], [-2.3, 0.2, -23.2], 2.5, 1),  # W_2 by W_3
        ([16.8, -1.6, 1.9], [0.1, -1.7, -0.4], 0.2, 2),  # W_3 by W_2
        ([25.1, 0.0, -13.0, 2.9], [-0.6, -0.2, -24.3, 2.3], 1.2, 1),  # below 1
        ([46.3, 0.1, -4.3, 4.7], [2.2, -0.1, -4.7, -1.5], 1.3, 2),
        ([99.1, 5.4, 0.4, -2.7], [-1.4, 0.0, -0.1, -15.7], 1.7, 2),
        ([12.0, 35.1, -1.0, 1.2], [8.3, 0.2, -1.3, -0.5], 0.3, 3),
    ],
)
def test_a_neighbour_improves_the_cap_of_a_layer_within(high, low, product, l):
    """By 5 % at least, in either direction; the outer layers have theirs from scalars that attain them."""
    ends = [Ends([a, b], [a, b]) for a, b in zip(high, low, strict=True)]
    found, literal = layer_norms.layer_caps([E.spectrum() for E in ends], product), caps_of(ends, product)
    np.testing.assert_allclose(found, literal, rtol=1e-12)
    a, b = chain(high, product), chain(low, product)
    behind = low[:l][::-1], mpmath.fprod(a[: l + 1])  # x Π (x + Σ λ_min(D)) ≤ ‖P_{l+1}‖²
    ahead = [-x for x in high[l:]], mpmath.fprod(b[l:])
    for steps, square in (behind, ahead):
        assert math.prod(float(found[l]) / 0.95 + s for s in [0.0, *np.cumsum(steps)]) < square
    assert found[0] == near(float(a[0]), rel=1e-12) and found[-1] == near(float(b[-1]), rel=1e-12)


def test_caps_on_norms_allow_for_rounding(monkeypatch):
    monkeypatch.setattr(_base, "EPS", COARSE)
    off = 16 * COARSE * (3 + 4)
    widened = Ends([3 - off], [3 + off])
    np.testing.assert_allclose(lf.bounds.norms([np.array([3.0])], 4.0), caps_of([widened], 4.0), rtol=1e-12)
    with pytest.raises(ValueError, match="product_norm"):
        lf.bounds.norms([np.array([3.0])], -1.0)
    assert lf.bounds.norms([np.array([0.0])], 0.0)[0] == 0.0
    import array_api_strict as strict

    same = lf.bounds.norms([np.array([3.0])], 4.0)
    assert lf.bounds.norms([strict.asarray([3.0])], 4.0) == same
    assert isinstance(layer_norms.layer_caps(_base.spectra([strict.asarray([3.0])]), 4.0), np.ndarray)


def reach_of(ends, m, c, base, caps):
    """The upper bound on ‖W v‖² of docs/theory.md for `c = λ_m(W_LᵀW_L)`, with the worse ends."""
    start = ends[-1].negated().least(m)
    kappa, floor, Y, Z, E = c, base, c, c, 0.0
    for l in range(len(ends) - 1, -1, -1):
        top, bottom = ends[l].high[0], ends[l].low[-1]
        y, carried = math.sqrt(Y), math.sqrt(caps[l + 1]) * E if E > 0 else 0.0
        z = max(top + kappa, -bottom - floor, 0.0) * y + carried
        least = [
            max(top, 0.0) * Y + Z * Z,
            y * z,
            max(top + kappa, 0.0) * Y + carried * y,
            caps[l] * Y,
        ]
        if l == len(ends) - 1:
            least.append(max(c - start, 0.0) * (c + max(top, 0.0)))
        E = 0.5 * (top - bottom) * y + carried
        kappa, floor = kappa + 0.5 * (top + bottom), floor + 0.5 * (top + bottom)
        Y = min(x for x in least if not math.isnan(x))
        cut = math.sqrt(caps[l] * Y)
        Z = z if math.isnan(cut) else min(z, cut) if not math.isnan(z) else cut
    return Y


def outer(ends, m, sigma, caps):
    start = ends[-1].negated().least(m)
    if sigma == 0:
        return start
    others = math.prod(caps[:-1])
    base = max(sigma**2 / others if math.isfinite(others) and others > 0 else 0.0, start, 1e-280)
    if reach_of(ends, m, base, base, caps) >= sigma**2:
        return base if base > 2e-280 else start
    low, high = base, max(caps[-1] if math.isfinite(caps[-1]) else 1.0, 3 * base)
    while reach_of(ends, m, high, base, caps) < sigma**2:
        high *= 4
    for _ in range(200):
        middle = 0.5 * (low + high)
        if reach_of(ends, m, middle, base, caps) < sigma**2:
            low = middle
        else:
            high = middle
    return max(low, start)


@pytest.mark.parametrize("L", [2, 3, 4])
def test_the_reach_of_the_outer_layer_is_as_written(rng, L):
    for _ in range(30):
        ends = [draw(rng, 3, 1.0, rng.choice([-2.0, 0.0, 2.0])) for _ in range(L - 1)]
        caps = rng.uniform(0.5, 6.0, L)
        start = ends[-1].negated().least(2)
        base = start + rng.uniform(0, 0.1)
        c = base + rng.uniform(0, 4.0)
        Ds = [E.spectrum() for E in ends]
        found = product_aware._log_reach(Ds, np.float64(start), np.float64(c), np.float64(base), caps)
        assert math.exp(found) == near(reach_of(ends, 2, c, base, caps), rel=1e-12)


@pytest.mark.parametrize("L", [2, 3, 4])
@pytest.mark.parametrize("known", [True, False])
def test_the_floor_of_the_outer_layer_inverts_its_reach(rng, L, known):
    for _ in range(12):
        ends = [draw(rng, 3, 1.0, rng.choice([-2.0, 0.0, 2.0])) for _ in range(L - 1)]
        sigma = float(10 ** rng.uniform(-2, 0.5))
        caps = np.array(caps_of(ends, sigma * 2) if known else [math.inf] * L)
        Ds = [E.spectrum() for E in ends]
        found = float(product_aware.outer_floor(Ds, 2, np.float64(sigma), caps))
        literal = outer(ends, 2, sigma, caps.tolist())
        # Lowered by 1e-12 for the width of its bracket, and that of the base by 1e-13.
        assert literal * (1 - 2e-12) <= found <= literal * (1 + 1e-13)
        assert float(product_aware.outer_floor(Ds, 2, np.float64(0.0), caps)) == ends[-1].negated().least(2)


def beyond(start):
    """`log(c − start)` less its value at c = 1, in `log c`: as steep as the root is near the start."""
    return lambda x: np.log(np.maximum(np.exp(np.minimum(x, 600.0)) - start, 1e-300) / (1 - start))


REACHES = {
    "a line": lambda x: x,
    "a power": lambda x: 5 * x,
    "a kink up": lambda x: np.where(x < 0, x, 3 * x),
    "a kink down": lambda x: np.where(x < 0, 3 * x, x),
    "kinks beside": lambda x: x + np.maximum(x - 0.1, 0.0) + np.minimum(x + 1e-3, 0.0),
    "a sum of powers": lambda x: np.log(np.exp(np.minimum(x, 600.0)) + 3 * np.exp(0.5 * x)) - math.log(4),
    "beyond a start": beyond(0.5),
    "next to a start": beyond(1 - 1e-6),
    "at a start": beyond(1 - 1e-12),
}


@pytest.mark.parametrize("name", REACHES)
@pytest.mark.parametrize("place", [-90.0, -3.7, 0.1, 12.0])
def test_a_crossing_is_found_from_below_to_its_width(name, place):
    """To 2·10⁻¹³, or the spacing of float64, for logarithms of what grows by powers, in brackets of all lengths."""
    low, high = np.array([-644.0, place - 30, place - 0.3]), np.array([640.0, place + 1.0, place + 1e-3])
    function = lambda x: REACHES[name](x - place)  # noqa: E731
    found = product_aware._crossing(function, low, high, function(low), function(high))
    # The function itself is rounded, by some spacings of its argument.
    off = 8 * np.spacing(abs(place)) + 4 * 2.0**-52
    assert np.all(found <= place + off) and np.all(found >= place - 2e-13 - off)


def test_a_crossing_at_an_end_of_its_bracket():
    excess = lambda x: x - 1.0  # noqa: E731
    ends = np.array([-2.0, 1.0, 2.0, -3.0]), np.array([1.0, 2.0, 3.0, -1.0])
    found = product_aware._crossing(excess, *ends, *map(excess, ends))
    # At the upper end; at the lower end; below the bracket, and beyond it: c is at least its lower end.
    assert found[0] == pytest.approx(1.0, abs=3e-13) and list(found[1:]) == [1.0, 2.0, -3.0]


def test_the_floor_of_an_outer_layer_where_its_search_begins():
    """Without imbalance `c² = σ²`: exactly 1 for σ = 1, where the search begins without caps."""
    D = Spectrum(np.zeros(2), np.zeros(2))
    found = product_aware.outer_floor([D], 2, np.array([1.0, 4.0]), np.full((2, 2), math.inf))
    assert found == pytest.approx([1.0, 4.0], rel=3e-12)
    # Nor does it depend on where it begins: on the cap on the last layer, however far away.
    for cap in (1.0, 3.9, 4.1, 1e3, 1e200):
        assert product_aware.outer_floor([D], 2, np.float64(4.0), np.array([math.inf, cap])) == pytest.approx(
            min(4.0, math.inf), rel=3e-12
        )


def test_nothing_need_be_known_of_the_product():
    net = lf.Network([np.eye(2), 2 * np.eye(2)])
    rows = bounds.table(net, 0.0)
    assert max(float(row.value) for row in rows) == near(3.0)  # of two layers the imbalance alone: |λ(D)|
    assert float(bounds.best(net).value) == near(5.0)
    with pytest.raises(ValueError, match="sigma_min is -1"):
        bounds.table(net, -1.0)


def test_a_sigma_far_below_the_others_says_nothing():
    """At 10⁻¹⁰⁰ of the largest one σ² is all that rounds to 0, whatever the others."""
    zero = np.zeros(2)
    sigma = np.array([1e-120, 1e-90, 1.0])
    found = product_aware.bound([Spectrum(zero, zero)] * 2, 2, 2, sigma, np.full(3, math.inf))
    assert found[0] == 0.0 and found[1:] == pytest.approx([3e-120, 3.0], rel=1e-11)


def literal_product(ends, n, m, low, high):
    """`Σ_l λ_n(P_{l−1}P_{l−1}ᵀ) λ_m(S_{l+1}ᵀS_{l+1})` with every floor of docs/theory.md."""
    L, caps = len(ends) + 1, caps_of(ends, high)
    mirrored = [E.negated() for E in reversed(ends)]
    first = outer(mirrored, n, low, caps[::-1]) if n <= m else 0.0
    last = outer(ends, m, low, caps) if m <= n else 0.0

    def over(cap):
        return low**2 / cap if 0 < cap < math.inf else 0.0

    def side(ends, r, caps, near, far):
        gains = [over(math.prod(caps[:l] + caps[l + 1 :])) for l in range(L)]
        layers = [max(gains[0], near), *gains[1:-1], max(gains[-1], far)]
        return floors_of(ends, r, layers, gains, [1.0, *(over(math.prod(caps[l:])) for l in range(1, L))])

    def plain(ends, r):
        return floors_of(ends, r)

    left = side(ends, n, caps, first, last if n == m else 0.0) if n <= m else plain(ends, n)
    right = side(mirrored, m, caps[::-1], last, first if n == m else 0.0) if m <= n else plain(mirrored, m)
    return sum(a * b for a, b in zip(left, reversed(right), strict=True))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e25])
def test_the_bound_that_knows_the_product_uses_every_floor(rng, n, m, scale):
    for L in (2, 3, 4):
        for _ in range(12 if scale == 1.0 else 2):
            ends = [draw(rng, 3, 1.0, rng.choice([-2.0, 0.0, 2.0])) for _ in range(L - 1)]
            low = float(10 ** rng.uniform(-1, 0.3))
            for high in (2 * low, math.inf):
                literal = literal_product(ends, n, m, low, high)
                inv = invariants(
                    [Ends(np.array(E.low) * scale, np.array(E.high) * scale) for E in ends],
                    n,
                    m,
                    low * scale ** (L / 2),
                    high * scale ** (L / 2),
                )
                value = float(product_aware.THEOREM.formula(inv)) / scale ** (L - 1)
                # Floors are lowered by up to 1e-12 each, and rounding is felt a few times that.
                assert value == near(literal, rel=2e-11, abs=1e-13)


def test_the_bound_that_knows_the_product_says_nothing_past_float64():
    ends = [Ends([1.0], [1.0])] * 2
    for scale, zero in ((1e-160, True), (1e-140, False)):
        inv = invariants([Ends([scale], [scale])] * 2, 1, 1, scale**1.5, scale**1.5)
        assert (float(product_aware.THEOREM.formula(inv)) == 0.0) == zero
    zero = float(product_aware.THEOREM.formula(invariants([Ends([0.0], [0.0])] * 2, 1, 1, 0.0, 0.0)))
    assert zero == 0.0
    # σ below 1e-100 of the size is no σ: what is left is the bound of the imbalance alone.
    alone = literal_deep(ends, 1, 1)
    assert float(product_aware.THEOREM.formula(invariants(ends, 1, 1, 1e-101, 1.0))) == near(alone, rel=1e-12)
    with pytest.raises(ValueError, match="σ_min ≤ σ_max"):
        lf.bounds.deep_product([np.zeros(1)], 1, 1, 1.0, 0.5)
    with pytest.raises(ValueError, match="σ_min ≤ σ_max"):
        lf.bounds.deep_product([np.zeros(1)], 1, 1, -1.0, 0.5)


def test_exact_spectra_are_widened_before_the_product_is_used(monkeypatch):
    monkeypatch.setattr(_base, "EPS", COARSE)
    for low, high, size in ((1.0, 8.0, 8.0), (1.0, math.inf, 1.0)):
        off = 16 * COARSE * (2 + 1 + size ** (2 / 3))
        ends = [Ends([2 - off], [2 + off]), Ends([-1 - off], [-1 + off])]
        value = float(lf.bounds.deep_product([np.array([2.0]), np.array([-1.0])], 1, 1, low, high))
        assert value == near(literal_product(ends, 1, 1, low, high), rel=2e-11)


class Follow:
    """In place of derivatives: notes the function whose root is followed, and moves the root by a hair."""

    def __init__(self):
        self.functions, self.roots = [], []

    def __call__(self, function, root):
        self.functions.append(function)
        self.roots.append(float(root))
        return root * (1 + 1e-6)


def test_roots_are_followed_by_the_equations_that_they_solve(rng):
    ends = [Ends([0.5, -1.0], [0.6, -0.9]), Ends([2.0, -0.5], [2.1, -0.4])]
    Ds = [E.spectrum() for E in ends]
    product, follow = 0.02, Follow()
    caps = layer_norms.layer_caps(Ds, np.float64(product), follow)
    squares = [product**2, product**2]  # and, for the layer between, ‖P_2‖² and ‖S_2‖² with their roots moved
    for k, steps in ((0, [0.6, 2.1]), (1, [0.5, 1.0])):
        sums = np.cumsum([0.0, *steps])
        squares.append(math.prod(follow.roots[k] * (1 + 1e-6) + sums.max() - x for x in sums[:2]))
    each = zip(follow.functions, follow.roots, ([0.6, 2.1], [0.5, 1.0], [1.0], [2.1]), squares, strict=True)
    for function, root, steps, square in each:
        sums = np.cumsum([0.0, *steps])
        offsets = sums.max() - sums
        for x in (root, 2 * root):
            literal = sum(math.log(x + o) for o in offsets) - math.log(square)
            assert function(x) == near(literal, rel=1e-12, abs=1e-11)
        assert abs(function(root)) < 1e-11
    plain = np.array(caps_of(ends, product))
    assert np.all(caps > plain) and caps == near(plain * (1 + 1e-6), rel=2e-6)
    # No root, no derivative. At 0 the prefixes are products of sums of imbalances, which cap the layer between.
    for nothing, count in ((0.0, 2), (math.inf, 0)):
        follow = Follow()
        layer_norms.layer_caps(Ds, np.float64(nothing), follow)
        assert len(follow.roots) == count
    follow, sigma, caps = Follow(), np.float64(0.3), np.array([3.0, 3.0, 3.0])
    start = float(ends[-1].negated().least(1))
    found = float(product_aware.outer_floor(Ds, 1, sigma, caps, follow))
    literal = outer(ends, 1, 0.3, caps.tolist())
    assert len(follow.roots) == 1
    (function,), (root,) = follow.functions, follow.roots
    assert math.exp(root) == near(literal, rel=1e-12)
    base = max(0.09 / 9, start)
    for c in (literal, 2 * literal):
        value = math.log(reach_of(ends, 1, c, base, caps.tolist())) - 2 * math.log(0.3)
        assert float(function(math.log(c))) == near(value, rel=1e-10, abs=1e-11)
    assert found == near(math.exp(root * (1 + 1e-6)), rel=1e-11)
    assert product_aware.outer_floor(Ds, 1, np.float64(0.0), caps, Follow()) == start


def test_many_singular_values_at_once_are_one_at_a_time(rng):
    for L in (2, 3):
        ends = [draw(rng, 3, 1.0, rng.choice([-1.0, 0.0, 1.0])) for _ in range(L - 1)]
        Ds, sigmas = [E.spectrum() for E in ends], np.array([1e-6, 0.1, 3.0, 1e4])
        for most in (math.inf, 2.0):
            caps = np.stack([layer_norms.layer_caps(Ds, most * s) for s in sigmas], axis=1)
            found = product_aware.outer_floor(Ds, 2, sigmas, caps)
            each = [float(product_aware.outer_floor(Ds, 2, s, caps[:, k])) for k, s in enumerate(sigmas)]
            assert found == near(each, rel=2e-12)
            literal = [outer(ends, 2, float(s), caps[:, k].tolist()) for k, s in enumerate(sigmas)]
            assert found == near(literal, rel=3e-12)
    D = [np.array([0.5, -0.2]), np.array([0.1, -0.3])]
    both = lf.bounds.deep_product(D, 1, 2, np.array([0.5, 0.5]), np.array([0.9, math.inf]))
    assert both[0] == near(float(lf.bounds.deep_product(D, 1, 2, 0.5, 0.9)), rel=1e-11)
    assert both[1] == near(float(lf.bounds.deep_product(D, 1, 2, 0.5, math.inf)), rel=1e-11)


def test_a_crossing_is_found_from_below_in_few_evaluations():
    roots = np.array([0.3, 1.7, 2.2, -0.9])
    kinds = [
        (lambda x, r: np.expm1(x - r), 10),
        (lambda x, r: (x - r) + 0.3 * (x - r) ** 3, 10),
        (lambda x, r: np.arctan(3 * (x - r)), 12),
        (lambda x, r: (x - r) ** 3, 60),
        (lambda x, r: np.where(x < r, -1.0, 1e-3), 60),
    ]
    low, high = np.full(4, -1.0), np.full(4, 2.5)
    for function, most in kinds:
        count = []

        def excess(x, function=function, count=count):
            count.append(x)
            return function(x, roots)

        found = product_aware._crossing(excess, low, high, function(low, roots), function(high, roots))
        assert np.all(function(found, roots) <= 0) and np.all(found >= low) and len(count) <= most
        # The bracket ends at 2e-13; a root of multiplicity three is known to the step limit of 60.
        assert np.all(roots - found <= (2.5e-13 if most < 60 or function(low, roots)[0] == -1.0 else 1e-5))
    # Where the function is not negative at first, or negative at last, the beginning is returned.
    start = product_aware._crossing(lambda x: x - roots, low, high, low + 2.0, high - roots)
    assert start.tolist() == low.tolist()
    assert product_aware._crossing(lambda x: x - 9.0, low, high, low - 9.0, high - 9.0).tolist() == low.tolist()
    both = product_aware._crossing(lambda x: x - roots, low, high, np.array([-1.3, 0.0, 0.5, -0.1]), high - roots)
    assert both[1:3].tolist() == [-1.0, -1.0] and both[0] == near(0.3, abs=1e-12)


def test_floors_from_sigma_over_norms_are_lowered_by_their_rounding():
    found = product_aware._over(np.array([0.0, 1.0, 1.0, 3.0]), np.array([1.0, 0.0, math.inf, 2.0]))
    assert found.tolist()[:3] == [0.0, 0.0, 0.0]
    assert found[3] == near(4.5 * (1 - 1e-13), rel=4e-16) and found[3] < 4.5


@pytest.mark.parametrize(
    ("ends", "high", "size"),
    [
        # Nothing is known of λ_min(T) without σ; the largest number sets the size: an end, or ‖W‖^(2/L).
        ([([1e10, -1.0], [1e10, -1.0]), ([1.0, -1.0], [1.0, -1.0])], 1e3, 1e10),
        ([([1.0, -1e10], [1.0, -1e10]), ([1.0, -1.0], [1.0, -1.0])], 1e3, 1e10),
        ([([1.0, -1.0], [1e10, -1.0]), ([1.0, -1.0], [1.0, -1.0])], 1e3, 1e10),
        ([([1.0, -1e10], [1.0, -1.0]), ([1.0, -1.0], [1.0, -1.0])], 1e3, 1e10),
        ([([1.0, -1.0], [1.0, -1.0]), ([1.0, -1.0], [1e10, -1.0])], 1e3, 1e10),
        ([([1.0, -1.0], [1.0, -1.0]), ([1.0, -1.0], [1.0, -1.0])], 1e30, 1e20),
        ([([1e-9, -1e-9], [1e-9, -1e-9]), ([0.0, 0.0], [0.0, 0.0])], 1e-6, 1e-4),
        ([([0.5, -0.5], [0.5, -0.5]), ([0.0, 0.0], [0.0, 0.0])], math.inf, 0.5),
    ],
)
def test_sigma_counts_where_it_is_above_1e_100_for_layers_of_size_1(ends, high, size):
    for part, counts in ((1.5e-100, True), (0.7e-100, False)):
        inv = invariants([Ends(*e) for e in ends], 2, 2, part * size**1.5, high)
        value = float(product_aware.THEOREM.formula(inv))
        assert (value > 0) == counts


def test_bounds_past_float64_are_0():
    for exponent in (349.9, -349.9, 350.1, -350.1):
        D = math.exp(exponent)
        inv = invariants([Ends([D], [D])] * 2, 1, 1, D**1.5, D**1.5)
        assert (float(product_aware.THEOREM.formula(inv)) > 0) == (abs(exponent) < 350)
    several = invariants([Ends([0.0], [0.0])] * 2, 1, 1, np.array([1.0, 8.0]), np.array([1.0, 8.0]))
    assert product_aware.THEOREM.formula(several) == near([3.0, 3 * 8 ** (4 / 3)], rel=1e-10)
    for bad in ((-1.0, 1.0), ([1.0, -1.0], [1.0, 1.0]), ([1.0, 2.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match="σ_min ≤ σ_max"):
            lf.bounds.deep_product([np.zeros(1)], 1, 1, *map(np.array, bad))
    assert float(lf.bounds.deep_product([np.zeros(1)], 1, 1, 0.0, 0.5)) == 0.0
    assert lf.bounds.deep_product([np.zeros(1)], 1, 1, 0.25, 0.25) == near(0.5, rel=1e-10)


@pytest.mark.parametrize("L", [2, 3])
def test_the_search_begins_between_what_is_known_and_the_cap(rng, L):
    ends = [draw(rng, 2, 1.0, -1.0) for _ in range(L - 1)]
    Ds = [E.spectrum() for E in ends]
    start = ends[-1].negated().least(1)
    for caps in ([50.0] * L, [math.inf] * L):
        for target in (-40.0, 0.0, 3.0, 40.0):
            base = np.float64(max(start, 1e-9))
            root, inside = product_aware._root(Ds, np.float64(start), base, np.array(caps), np.array(target))

            def excess(log_c, base=base, caps=caps, target=target):
                return math.log(max(reach_of(ends, 1, math.exp(log_c), float(base), caps), 1e-300)) - target

            if inside:
                assert excess(root) <= 1e-9 < excess(root + 1e-6) + 1e-9 and root >= math.log(base) - 1e-12
            else:
                assert root == near(math.log(base), rel=1e-15)
                assert excess(math.log(base)) >= 0 or (
                    math.isfinite(caps[0]) and excess(max(math.log(caps[-1]), math.log(base) + 1)) < 0
                )


# --- the table -----------------------------------------------------------------------------------------------------


def test_the_table_scales_bounds_and_takes_a_given_sigma(rng):
    net = lf.Network([rng.standard_normal((2, 3)), rng.standard_normal((3, 2))], 0.5)
    E = Invariants.of(net)
    ends = Ends(E.spectra[0].lower, E.spectra[0].upper)
    row = next(b for b in lf.bounds.table(net) if b.name == "two layers")
    assert float(row.value) == near(0.25 * sum(halves(ends, 2, 2, *[float(E.sigma_min)] * 2)), rel=SAME)
    row = next(b for b in lf.bounds.table(net, 0.1) if b.name == "two layers")
    assert float(row.value) == near(0.25 * sum(halves(ends, 2, 2, 0.2, 0.2)), rel=SAME)
    assert float(lf.bounds.best(net).value) == max(float(b.value) for b in lf.bounds.table(net) if b.applies)


@pytest.mark.parametrize("name", ["HOMOGENEOUS", "BALANCED"])
def test_a_hypothesis_that_holds_on_a_null_set_says_so(name):
    """At D = 0 both hold; beside it, at a spread of any size, neither does."""
    theorem = getattr(special_imbalance, name)
    at, beside = Ends([0.0, 0.0], [0.0, 0.0]), Ends([1e-9, 0.0], [1e-9, 0.0])
    assert theorem.hypothesis(invariants([at], 2, 2)) is None
    assert theorem.hypothesis(invariants([beside], 2, 2)) is not None
    assert theorem.null_set
