"""One step of a verified flow: how its parts add up to the radius, and the pairs of float64 for more digits."""

import itertools
import math
from types import SimpleNamespace

import flint
import numpy as np
import pytest

import linflow as lf
from linflow.verified import _pairs, arithmetic, march
from linflow.verified.arithmetic import FIRST_PAIRS, FLOAT64, PAIRS
from linflow.verified.log_norm import Constants, Tube
from linflow.verified.march import BITS, EnclosureMarch, next_time
from linflow.verified.problem import AffineGradient, affine_gradient
from linflow.verified.rounding import UP, U, gamma
from linflow.verified.taylor import Expansion
from tests.verified_judge import (
    TrueFlow,
    defect,
    exact,
    precision,
    rational,
    square,
)


def scalars(x=1.0, y=0.5, V=2.0, radius=0.0, arithmetic=FLOAT64):
    f = AffineGradient(np.full((1, 1), V))
    return EnclosureMarch(f, [np.full((1, 1), x), np.full((1, 1), y)], 1.0, radius, arithmetic=arithmetic)


def tube(added, norm=1.0):
    return SimpleNamespace(s=1.0, path=SimpleNamespace(added=lambda s: added, norm=lambda: norm))


def test_the_radius_solves_its_equation():
    """`ρ' = m ρ + ½ Λ ρ_1 ρ + δ` with m, Λ constant: `ρ_1 = (ρ_0 + ∫δ) exp(∫m + ½ Λ ρ_1 h)`, attained."""
    state = scalars(radius=3e-4)
    for exponent, third, length, added in ((0.0, 0.0, 1.0, 1e-4), (1.5, 0.0, 2.0, 0.0), (0.5, 40.0, 0.5, 2e-4)):
        found = state._closed(tube(added), Constants(0, 0, 0, third), exponent, length)
        start = 3e-4 + added
        right = start * math.exp(exponent + 0.5 * third * found * length)
        assert right <= found <= right * (1 + 1e-3)
    # No solution: Λ h (ρ_0 + ∫δ) is too large.
    assert state._closed(tube(1e-3), Constants(0, 0, 0, 1e4), 0.5, 1.0) is None
    assert "too large for the curvature" in state.trouble
    assert state._closed(tube(0.0), Constants(0, 0, 0, 0), 301.0, 1.0) is None
    for wrong in (math.nan, math.inf):
        assert state._closed(tube(wrong), Constants(0, 0, 0, 1.0), 0.1, 1.0) is None
        assert state._closed(tube(0.0), Constants(0, 0, 0, wrong), 0.1, 1.0) is None
        assert state._closed(tube(0.0), Constants(0, 0, 0, 1.0), wrong, 1.0) is None


@pytest.mark.parametrize("level", ["two", "three"])
def test_a_step_s_radius_is_made_of_all_its_parts(monkeypatch, level):
    """The step's own numbers, recomputed: the radius before, the defect, the exponent, the jump."""
    monkeypatch.setattr(EnclosureMarch, "_level", lambda self, tube: 2 if level == "two" else 3)
    state = scalars(1.5, 0.25, 2.0, radius=1e-6)
    for _ in range(4):
        before, path = state.radius, state.node.path
        step = state.advance()
        assert step is not None
        s = step.length / path.tau
        added, (_, jump) = path.added(s), path.at(s)
        assert jump > 0 and added > 0
        low = (before + added) * math.exp(step.exponent + 0.5 * step.constants.third * step.radius * step.length)
        # The step's constants are those of the tube that it was closed on.
        assert low * (1 - 1e-14) <= step.radius <= low * 1.01
        assert step.radius + jump <= state.radius <= (step.radius + jump) * (1 + 1e-9)
        reach = Tube(path, s).constants(state.radius + jump)
        for name in ("motion", "bend", "slope", "third"):
            assert getattr(reach, name) <= getattr(step.constants, name)


def test_the_exponent_of_a_step_is_in_time(monkeypatch):
    # x = y: λ_min = 3w − V while w = x² < V/2, and w' = 2w(V − w): ∫(V − 3w)dt over w, up to w = V/3.
    monkeypatch.setattr(EnclosureMarch, "_level", lambda self, tube: 3)
    state = scalars(0.5, 0.5, 2.0)
    while state.t < 1.0:
        assert state.advance(1.0)
    grown = 0.5 * math.log((2 / 3) / 0.25) + math.log((4 / 3) / 1.75)
    assert grown <= state.exponent <= grown * 1.3 + 0.02


def test_a_disturbance_of_the_start_stays_within_the_radius():
    """A start with a radius: the exact flow from its edge, in the direction that grows most."""
    radius = 1e-5
    f = affine_gradient(lf.MatrixFactorization(np.full((1, 1), 2.0)))
    state = EnclosureMarch(f, [np.full((1, 1), 0.5), np.full((1, 1), 0.5)], 1.0, radius)
    first = state.first
    edge = radius / math.sqrt(2)
    true = [
        TrueFlow([np.full((1, 1), 0.5 + a), np.full((1, 1), 0.5 + b)], 1.0, exact(np.full((1, 1), 2.0)))
        for a, b in ((edge, -edge), (edge, edge), (-edge, -edge), (radius, 0.0))
    ]
    for one in true:
        assert first[0] <= float(one.first) <= first[1]
    assert first[1] - first[0] <= 2 * 1.75 * 0.5 * math.sqrt(2) * radius * 1.01
    reached = 0.0
    for _ in range(12):
        step = state.advance()
        for one in true:
            W = one.at(step.t + step.length)
            ends = [float(p.values[0, 0, 0]) for p in state.node.path.weights]
            off = math.hypot(*(float(w[0, 0]) - x for w, x in zip(W, ends, strict=True)))
            assert off <= state.radius
            reached = max(reached, off / state.radius)
            assert state.gap[0] <= float(one.gap(W)) <= state.gap[1]
    assert reached > 0.5


def test_the_constants_of_a_step_hold_on_a_tube_that_holds_the_radius(monkeypatch):
    # A first guess of the tube that is far too small must not be believed.
    real = Expansion.added
    monkeypatch.setattr(Expansion, "added", lambda self, s: 1e-30 if reaching[0] else real(self, s))
    reaching = [False]
    state = scalars(1.0, 0.5, 2.0, radius=1e-4)
    seen = []
    constants = Tube.constants

    def spied(self, radius):
        seen.append(radius)
        return constants(self, radius)

    monkeypatch.setattr(Tube, "constants", spied)
    monkeypatch.setattr(march, "level_two", lambda *a: 12.0 / a[2].path.tau)  # e¹² times as large
    monkeypatch.setattr(EnclosureMarch, "_level", lambda self, tube: 2)
    step = state._try(Tube(state.node.path, 0.25), 2)
    assert step is None or max(seen) >= step.radius
    state = scalars(1.0, 0.5, 2.0, radius=1e-9)
    step = state._try(Tube(state.node.path, 0.25), 2)
    assert step is not None and max(seen) >= step.radius > 1e-9 * math.exp(11.9)


def test_times_are_sums_without_rounding():
    rng = np.random.default_rng(0)
    for t in (0.0, 0.5, 1e-3 * 2.0**-10, 3.0):
        for length in (*rng.random(20), 1e-9, 1e9, 2.0**-40 * 1.3):
            after = next_time(t, length, math.inf)
            if after is None:
                continue
            exactly = rational(after) - rational(t)
            assert exactly == rational(after - t) and after > t
            assert exactly <= rational(length * (1 + 2.0**-BITS)) + rational(math.ulp(after))
    assert next_time(1.0 + U * 2, 2.0**-60, math.inf) is None
    assert next_time(2.0**-52 * 1.5, 1.0, math.inf) is None  # their sum has more than 53 digits
    assert next_time(0.25, 8.0, 0.5) == 0.5


def test_the_first_unit_of_time_suits_starts_of_all_scales():
    for x, y, V in ((1e8, 1e-8, 2.0), (1e-8, 1e-8, 1.0), (1.0, 1.0, 1.0 + 1e-14), (1e4, 1e4, 1.0), (1.0, 1.0, 1.0)):
        with np.errstate(all="ignore"):
            state = scalars(x, y, V)
            assert np.isfinite(state.node.path.defects).all()
            assert math.frexp(state.node.path.tau)[0] == 0.5
            assert state.advance() is not None


# --- pairs of float64 ----------------------------------------------------------------------------------------------


def pair(x):
    """The nearest pair of a rational."""
    high = float(int(x.p) / int(x.q)) if abs(x.p) < 10**300 else float(x.p / x.q)
    rest = x - rational(high)
    return high, float(int(rest.p) / int(rest.q))


def drawn(rng, count):
    high = rng.standard_normal(count) * 10.0 ** rng.integers(-20, 20, count)
    low = high * U * rng.uniform(-1, 1, count)
    high, low = high + low, low - ((high + low) - high)
    return np.stack([high, low], axis=-1)


def total(p):
    return rational(float(p[0])) + rational(float(p[1]))


@pytest.fixture(params=["compiled", "as written"])
def loops(request, monkeypatch):
    if request.param == "as written":
        for name, function in list(vars(_pairs).items()):
            if hasattr(function, "py_func"):
                monkeypatch.setattr(_pairs, name, function.py_func)


def test_sums_and_products_leave_their_exact_remainders(loops):
    rng = np.random.default_rng(5)
    A, B = ((rng.standard_normal(300) * 10.0 ** rng.integers(-20, 20, 300)).tolist() for _ in range(2))
    for a, b in [
        *zip(A, B, strict=True),
        (1.0, -1.0),
        (0.0, 3.0),
        (1 + 2 * U, 1 - U),
        (2.0**53, 1.0),
        (1.0, 2.0**53),
    ]:
        exactly = {
            _pairs._sum: rational(a) + rational(b),
            _pairs._product: rational(a) * rational(b),
            _pairs._quick: rational(a) + rational(b),
        }
        for function, true in exactly.items():
            large, small = sorted((a, b), key=abs, reverse=True) if function is _pairs._quick else (a, b)
            head, rest = function(large, small)
            assert rational(head) + rational(rest) == true and abs(rest) <= U * abs(head)


def test_pairs_err_no_further_than_the_unit_that_is_claimed(loops):
    rng = np.random.default_rng(1)
    A, B = drawn(rng, 400), drawn(rng, 400)
    B[::2, 0] = A[::2, 0] * (-1 + 1e-9 * rng.standard_normal(200))  # sums that cancel, but for what is left over
    B[::2, 1] = B[::2, 0] * U * rng.uniform(-0.5, 0.5, 200)
    unit, worst = rational(PAIRS.unit), 0.0
    sums = PAIRS.plus(A[:, None], B[:, None])[:, 0]
    for a, b, s in zip(A, B, sums, strict=True):
        true = total(a) + total(b)
        assert abs(total(s) - true) <= unit * abs(true)
    for factor in (0.7, -1 / 3, 1e-9, 3.0):
        for found, true in (
            (PAIRS.times(A[:, None], factor)[:, 0], [total(a) * rational(factor) for a in A]),
            (PAIRS.over(A[:, None], 7)[:, 0], [total(a) / 7 for a in A]),
            (PAIRS.over(A[:, None], 29)[:, 0], [total(a) / 29 for a in A]),
        ):
            for x, y in zip(found, true, strict=True):
                assert abs(total(x) - y) <= unit * abs(y)
                assert abs(float(x[1])) <= U * abs(float(x[0]))
    out = np.empty((1, 1, 2))
    for a, b in zip(A, B, strict=True):
        _pairs.cauchy(a.reshape(1, 1, 1, 2), b.reshape(1, 1, 1, 2), 0, out)
        true = total(a) * total(b)
        error = abs(total(out[0, 0]) - true)
        assert error <= unit * abs(true)
        worst = max(worst, float(flint.arb(error / (unit * abs(true)))))
    assert worst > 0.1


@pytest.mark.parametrize("columns", [2, _pairs.LANES + 1])
def test_cauchy_products_of_pairs_err_no_further_than_their_number_of_operations(loops, columns):
    rng = np.random.default_rng(2)
    A, B = drawn(rng, 4 * 6).reshape(4, 2, 3, 2), drawn(rng, 4 * 3 * columns).reshape(4, 3, columns, 2)
    for k in range(4):
        out = PAIRS.cauchy(A, B, k)
        bound = rational(gamma(arithmetic.terms(3, k), PAIRS.unit))
        for i in range(2):
            for j in range(columns):
                terms = [total(A[r, i, q]) * total(B[k - r, q, j]) for r in range(k + 1) for q in range(3)]
                error = abs(total(out[i, j]) - sum(terms, flint.fmpq(0)))
                assert error <= bound * sum((abs(x) for x in terms), flint.fmpq(0))
        assert arithmetic.terms(3, k) >= 3 * (k + 1)


def test_other_operations_of_pairs_are_what_they_say(loops):
    rng = np.random.default_rng(3)
    A, V = drawn(rng, 6).reshape(2, 3, 2), rng.standard_normal((2, 3))
    difference = PAIRS.minus(A, PAIRS.start(V))
    for a, v, d in zip(A.reshape(-1, 2), V.ravel(), difference.reshape(-1, 2), strict=True):
        true = total(a) - rational(v)
        assert abs(total(d) - true) <= rational(PAIRS.unit) * abs(true)
    assert np.array_equal(PAIRS.high(PAIRS.start(V)), V) and PAIRS.start(A) is A
    assert np.array_equal(PAIRS.turned(A[None])[0], A.transpose(1, 0, 2))
    assert PAIRS.gradient(AffineGradient(V)).apply(A) is A
    assert PAIRS.fits(AffineGradient(V))
    assert not PAIRS.fits(AffineGradient(V, np.eye(2))) and not PAIRS.fits(AffineGradient(V, None, np.eye(3)))
    assert not PAIRS.fits(AffineGradient(V, residue=1e-20))


def test_degrees_and_truncations_of_pairs():
    """The truncation is that of float64, less what an error can grow by before it matters."""
    assert (PAIRS.order, PAIRS.truncation) == (34, 1e-31) and (FIRST_PAIRS.order, FIRST_PAIRS.truncation) == (
        24,
        1e-22,
    )
    assert FIRST_PAIRS.unit == PAIRS.unit and FIRST_PAIRS.rest == PAIRS.rest == U
    assert arithmetic.FINE == 1e-8 and arithmetic.DEGREES == (20, 40, 60) and arithmetic.LOW.order == 16


def test_pairs_need_numba(monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setattr(arithmetic, "loops", missing)
    assert not PAIRS.fits(AffineGradient(np.eye(2)))


def merged(series):
    return [exact(c[..., 0]) + exact(c[..., 1]) for c in series]


def test_a_path_in_pairs_has_a_defect_within_its_bounds():
    rng = np.random.default_rng(4)
    for widths in ((1, 1, 1), (2, 2, 2), (1, 2, 1, 1)):
        W = [rng.standard_normal((a, b)) for a, b in itertools.pairwise(widths)]
        f = AffineGradient(rng.standard_normal((widths[0], widths[-1])))
        path = Expansion(f, W, 0.7, 0.25, 5, PAIRS)
        found = defect([merged(c) for c in path.coefficients], 0.7, 0.25, exact(f.V))
        size = max(1.0, *(float(factor.lengths.max()) for factor in path.weights))
        for k in range(len(found[0])):
            off = sum((square(layer[k]) for layer in found), flint.fmpq(0))
            bound = path.rounding[k] if k < 5 else path.defects[k]
            assert off <= rational(float(bound)) ** 2
            if k < 5:
                assert bound < 1e-28 * size**6
        # What is float64 is within its rest of the pairs.
        for factor, series in zip(path.weights, path.coefficients, strict=True):
            for k, c in enumerate(merged(series)):
                assert square(c) <= rational(float(factor.lengths[k])) ** 2
                assert (
                    square(c - exact(factor.values[k])) <= (rational(factor.rest) * rational(factor.lengths[k])) ** 2
                )
        P = exact(W[0])
        for w in W[1:]:
            P = P * exact(w)
        E = rational(0.7) * P - exact(f.V)
        assert square(E - exact(path.distance)) <= rational(path.distance_error) ** 2
        weights, jump = path.at(0.3)
        off = flint.fmpq(0)
        for w, series in zip(weights, path.coefficients, strict=True):
            value = exact(np.zeros(w.shape[:2]))
            for k, c in enumerate(merged(series)):
                value += c * rational(0.3) ** k
            off += square(exact(w[..., 0]) + exact(w[..., 1]) - value)
        assert off <= rational(jump) ** 2 and jump < 1e-29


def test_the_rest_of_a_pair_is_part_of_all_norms_and_errors():
    values = np.full((1, 1, 1), 3.0)
    from linflow.verified.hessian import coefficient
    from linflow.verified.taylor import MatrixSeries

    factor = MatrixSeries(values, np.array([0.25]), 0.125)
    assert factor.lengths[0] >= 3 * 1.125 and factor.norms[0] >= 3 * 1.125
    assert coefficient(factor).error >= 0.25 + 0.125 * 3
    assert MatrixSeries(values).lengths[0] <= 3 * (1 + 1e-14)


@pytest.mark.parametrize("fast", [True, False])
def test_a_path_in_pairs_goes_on_in_float64_from_the_time_that_is_given(fast):
    """Its weights are rounded to float64, which the radius pays for."""
    rng = np.random.default_rng(6)
    weights = [rng.standard_normal((2, 3)), rng.standard_normal((3, 2))]
    given = AffineGradient(np.eye(2)), weights, 0.7, 0.125
    ahead = EnclosureMarch(*given, arithmetic=FIRST_PAIRS, fast=fast)
    first = ahead.advance()
    march = EnclosureMarch(*given, arithmetic=FIRST_PAIRS, fast=fast, coarse_from=ahead.t)
    assert march.advance().length == first.length
    pairs, radius = march.node.path, march.radius
    assert march.arithmetic is FIRST_PAIRS and march.layout is None and (march.t, radius) == (ahead.t, ahead.radius)
    step = march.advance()
    assert march.arithmetic is FLOAT64 and (march.layout is not None) == fast
    assert step.lengths.shape[1] == FLOAT64.order + 1 and step.t == first.length
    low = 0.0
    for start, series in zip(step.coefficients, pairs.coefficients, strict=True):
        assert np.array_equal(start[0], series[0][..., 0])
        low += float(np.sum(series[0][..., 1] ** 2))
    assert 0 < low <= (U * pairs.norm()) ** 2
    again = EnclosureMarch(*given[:3], (radius + U * pairs.norm()) * UP, fast=fast)
    again.node = again._node(again._path([series[0] for series in step.coefficients], pairs.tau))
    expected = again.advance()
    assert expected.radius == step.radius and again.radius == march.radius
    node = march.node
    march.advance()
    assert node is not march.node and march.arithmetic is FLOAT64 and march.coarse_from == math.inf


def test_a_start_that_magnifies_is_proved_in_pairs_and_holds_the_exact_flow():
    # Nearly antisymmetric: x = −y(1 − ε) decays towards the saddle, leaves it by ε, and so magnifies by 1/ε.
    W = [np.full((1, 1), 1.0), np.full((1, 1), -1.0 + 2.0**-30)]
    f = lf.MatrixFactorization(np.full((1, 1), 1.0))
    enc = lf.enclose(f, W, until=1e-4)
    assert enc.result == "target proved" and enc.exponent > 15
    true = TrueFlow(W, 1.0, exact(np.full((1, 1), 1.0)))
    low, high = enc.time_bounds(1e-3)
    with precision():
        assert flint.arb(low) <= true.time_to(flint.arb(1e-3)) <= flint.arb(high)
    assert high / low - 1 < 1e-5
    for t in np.linspace(0, enc.end, 9):
        low, high = enc.gap_bounds(t)
        assert flint.arb(low) <= true.gap(true.at(t)) <= flint.arb(high)
