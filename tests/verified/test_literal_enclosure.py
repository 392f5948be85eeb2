"""What a verified flow gives at a time, written out, under a roundoff so coarse that every allowance shows."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.model.network import Network
from linflow.verified import enclosure, march
from linflow.verified.enclosure import Enclosure
from linflow.verified.log_norm import Constants
from linflow.verified.march import EnclosureStep, product_error, rounding_of_value
from linflow.verified.problem import AffineGradient
from linflow.verified.reduction import Narrowed
from linflow.verified.rounding import UP, least_eigenvalue, spectral
from tests.verified.test_literal_path import coarse, drawn, fro, g, near, tiny, u, up

__all__ = ["coarse"]

WIDTHS = [(2, 3, 2), (3, 2), (1, 2, 3, 2), (2, 4, 4, 3)]
START, TAU, LENGTH = 0.5, 0.25, 0.375


def step_of(widths, radius=0.125, gap=(1.0, 2.0), t=START, length=LENGTH):
    """A step of a path of degree 2 with constants of its own."""
    series = tuple(drawn(3, a, b, seed=k) / 4**k for k, (a, b) in enumerate(itertools.pairwise(widths)))
    lengths = np.array([[fro(c) for c in layer] for layer in series])
    return EnclosureStep(t, length, TAU, series, lengths, radius, Constants(3.0, 5.0, 7.0, 11.0), 0.5, gap)


def enclosed(widths, *steps, c=1.5, least=0.5, first=(8.0, 9.0), residue=0.125):
    n, m = widths[0], widths[-1]
    net = lf.Network([drawn(a, b, seed=k) for k, (a, b) in enumerate(itertools.pairwise(widths))], c)
    P, Q = drawn(n, n, seed=1), drawn(m, m, seed=2)
    f = AffineGradient(
        drawn(n, m, seed=9), P @ P.T, Q @ Q.T, (3.0, 5.0), (4.0, 7.0), (0.25, 0.5), residue, 0.0625, least
    )
    narrowed = Narrowed([np.asarray(W) for W in net.weights], [None] * (len(widths) - 2), 0.0625)
    return Enclosure(None, net, f, steps, first, "target proved", "", narrowed)


def weights_at(step, t):
    s = (t - step.t) / step.tau
    errors = []
    for lengths in step.lengths:
        p = len(lengths) - 1
        errors.append(sum(g(4 * p + 2) * abs(s) ** k * x for k, x in enumerate(lengths)) * up + tiny)
    return [sum(c * s**k for k, c in enumerate(series)) for series in step.coefficients], errors


def product_at(step, t):
    """The product of the path's weights and its distance to the exact one's."""
    weights, errors = weights_at(step, t)
    P, error, norm = weights[0], errors[0], spectral(weights[0])
    for W, e in zip(weights[1:], errors[1:], strict=True):
        error = error * (spectral(W) + e) + norm * e + g(len(W)) * fro(P) * fro(W)
        error, P = error * up + tiny, P @ W
        norm = spectral(P)
    return P, error


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_weights_of_a_path_and_their_product(coarse, widths):
    step = step_of(widths)
    for t in (START, 0.6, START + LENGTH):
        (weights, errors), (W, e) = step.at(t), weights_at(step, t)
        assert all(a == pytest.approx(b, rel=1e-12, abs=1e-14) for a, b in zip(weights, W, strict=True))
        assert list(errors) == [near(x) for x in e]
        P, error = product_error(weights, errors)
        Q, expected = product_at(step, t)
        assert pytest.approx(Q, rel=1e-12, abs=1e-14) == P and error == near(expected)
    assert list(rounding_of_value(step.lengths, -0.7)) == list(rounding_of_value(step.lengths, 0.7))


def parts(enc, t):
    """The path's product, the bound of its distance, and how far the weights are off."""
    [step], c = enc.steps, enc.start.scale
    P, error = product_at(step, t)
    moved = step.radius + math.sqrt(sum(e * e for e in weights_at(step, t)[1]))
    return c * P, (c * (error + 2 * u * fro(P)) + 3.0 * step.radius) * up, moved


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_gap_and_the_speed_at_a_time(coarse, widths):
    enc, t = enclosed(widths, step_of(widths)), 0.6
    f, c, (n, m), L = enc.problem, 1.5, (widths[0], widths[-1]), len(widths) - 1
    W, error, moved = parts(enc, t)
    E = W - f.V
    gap = f.gap(E, (error + u * fro(E)) * up)
    assert enc.gap_bounds(t) == tuple(pytest.approx(x, rel=1e-11) for x in gap)

    weights, _ = weights_at(enc.steps[0], t)
    G = c * f.A @ E @ f.B
    squares = 0.0
    for l in range(L):
        left, right = np.eye(n), np.eye(m)
        for k in range(l):
            left = left @ weights[k]
        for k in range(L - 1, l, -1):
            right = weights[k] @ right
        squares += np.sum((left.T @ G @ right.T) ** 2)
    speed = math.sqrt(squares)
    # ∇L moves by (K μ_1² + ‖∇f‖ μ_2) ρ; and what is computed of it goes through so many sums.
    stiffness = f.smoothness * 3.0**2 + 7.0 / c * 5.0
    sides = sum(widths) + 2 * (n + m) + 4 * L
    sizes = [fro(w) for w in weights]
    per = math.hypot(*(c * math.prod(sizes) / x for x in sizes))
    away = c * math.prod(sizes) + fro(f.V)
    rounding = per * (g(2 * sides) * 4.0 * 7.0 * away + f.residue + f.error * away)
    wrong = (stiffness * moved + rounding + g(4 + sum(w.size for w in weights)) * speed) * up
    assert enc._speed(enc.steps[0], t) == (pytest.approx(speed, rel=1e-12), pytest.approx(wrong, rel=1e-11))
    assert enc.speed(t) == pytest.approx((speed + wrong) * up, rel=1e-11)
    weights, low, high, radius = enc.around(t)
    assert (low, high) == enc.gap_bounds(t) and radius == near(moved * up)


@pytest.mark.parametrize("widths", [w for w in WIDTHS if len(w) > 2])
def test_the_operator_and_its_least_eigenvalue_at_a_time(coarse, widths):
    c, n, m, L = 1.5, widths[0], widths[-1], len(widths) - 1
    # A path without errors, so that the rounding of T does not hide them.
    enc, t = enclosed(widths, step_of(widths, radius=2.0**-10)), 0.6
    step = enc.steps[0]
    weights, errors = step.at(t)
    T, error = np.zeros((n * m, n * m)), 0.0
    for l in range(L):
        left, right, others = np.eye(n), np.eye(m), 1.0
        for k in range(L):
            left = left @ weights[k] if k < l else left
            others *= 1.0 if k == l else fro(weights[k]) ** 2
        for k in range(L - 1, l, -1):
            right = weights[k] @ right
        T += c * c * np.kron(left @ left.T, right.T @ right)
        ends = (math.sqrt(n) if l == 0 else 1.0) * (math.sqrt(m) if l == L - 1 else 1.0)
        error += g(2 * L * max(widths) + L + 4) * others * ends
    found, wrong, v = enclosure._operator(weights, c)
    assert found == pytest.approx(T, rel=1e-12, abs=1e-12)
    error = c * c * error * up + 8 * u * fro(T) + tiny
    assert wrong == near(error)
    assert found @ v == pytest.approx(np.linalg.eigvalsh(T)[0] * v, abs=1e-10)

    moved = 5.0 * (step.radius + math.sqrt(sum(e * e for e in errors))) * up
    high = (v @ T @ v + g(2 * n * m + 4) * fro(T)) / (v @ v * (1 - g(n * m + 4))) + error
    assert enc.least_eigenvalue_bounds(t)[1] == pytest.approx((math.sqrt(high) * up + moved) ** 2 * up, rel=1e-11)
    low = least_eigenvalue(found, error)
    below = max(0.0, math.sqrt(max(low, 0.0)) * (1 - 4 * u) - moved) ** 2 * (1 - 4 * u)
    assert enc.least_eigenvalue_bounds(t)[0] == pytest.approx(below, rel=1e-11, abs=0)


def test_a_least_eigenvalue_far_from_0_is_known_less_its_errors(coarse, monkeypatch):
    T, v = np.diag([9.0, 4.0]), np.array([0.5, 2.0])
    monkeypatch.setattr(enclosure, "_operator", lambda weights, scale: (T, 0.25, v))
    monkeypatch.setattr(enclosure, "least_eigenvalue", lambda T, error: 4.0 - error)
    enc = enclosed((2, 1), step_of((2, 1), radius=2.0**-6))
    moved = 5.0 * (2.0**-6 + weights_at(enc.steps[0], 0.6)[1][0]) * up
    low, high = enc.least_eigenvalue_bounds(0.6)
    assert low == near((math.sqrt(3.75) * (1 - 4 * u) - moved) ** 2 * (1 - 4 * u))
    rayleigh = (v @ T @ v + g(8) * fro(T)) / (v @ v * (1 - g(6))) + 0.25
    assert high == near((math.sqrt(rayleigh) * up + moved) ** 2 * up)
    # Below 0 no eigenvalue of T is.
    monkeypatch.setattr(enclosure, "least_eigenvalue", lambda T, error: -1.0)
    monkeypatch.setattr(enclosure, "_operator", lambda weights, scale: (-np.eye(2), 0.0, v))
    assert enc.least_eigenvalue_bounds(0.6) == (0.0, near(moved**2 * up))


def assert_within(low, high, s, off, W, error):
    assert low == pytest.approx(np.maximum(s - off, 0.0), rel=1e-11)
    assert high == pytest.approx(np.minimum(s + off, (fro(W) + error) * up), rel=1e-11)


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_singular_values_at_a_time(coarse, widths):
    enc, t = enclosed(widths, step_of(widths, radius=2.0**-10)), 0.6
    W, error, _ = parts(enc, t)
    U, s, V = np.linalg.svd(W, full_matrices=False)
    k, sized = min(W.shape), ((U.T @ U, fro(U)), (V @ V.T, fro(V)))
    tilted = [fro(Q - np.eye(k)) + g(max(W.shape) + 1) * z * z + u * (z * z + k) for Q, z in sized]
    rest = fro(W - U @ np.diag(s) @ V) + g(k + 2) * fro(U * s) * fro(V) + 2 * u * fro(W)
    off = (rest + s[0] * (tilted[0] + tilted[1] + tilted[0] * tilted[1]) + error) * up + 4 * u * s[0] + tiny
    low, high = enc.singular_value_bounds(t)
    assert_within(low, high, s, off, W, error)
    # Several times at once.
    low, high = enc.singular_value_bounds([t, t])
    assert low.shape == high.shape == (2, k)


def test_what_a_decomposition_misses_widens_its_singular_values(coarse, monkeypatch):
    """`‖uᵀu − I‖` and `‖vᵀv − I‖` multiply the values, and what the product misses is added."""
    enc, t, svd = enclosed((3, 2), step_of((3, 2), radius=2.0**-10)), 0.6, np.linalg.svd
    W, error, _ = parts(enc, t)
    U, s, V = svd(W, full_matrices=False)
    monkeypatch.setattr(np.linalg, "svd", lambda A, full_matrices: (1.25 * U, s, 0.75 * V))
    sizes = (fro(1.25 * U), fro(0.75 * V))
    one, other = (
        fro((x * x - 1) * np.eye(2)) + g(4) * z * z + u * (z * z + 2)
        for x, z in zip((1.25, 0.75), sizes, strict=True)
    )
    rest = fro(W * (1 - 1.25 * 0.75)) + g(4) * fro(1.25 * U * s) * sizes[1] + 2 * u * fro(W)
    off = (rest + s[0] * (one + other + one * other) + error) * up + 4 * u * s[0] + tiny
    low, high = enc.singular_value_bounds(t)
    assert_within(low, high, s, off, W, error)


def test_an_operator_is_symmetric_to_the_last_bit(monkeypatch):
    kron = np.kron
    monkeypatch.setattr(np, "kron", lambda a, b: kron(a, b) + 1e-16 * np.arange(36.0).reshape(6, 6))
    T, _, _ = enclosure._operator([drawn(2, 2), drawn(2, 3)], 1.0)
    assert np.array_equal(T, T.T)


def fixed(monkeypatch, gap, speed, widths=(2, 1)):
    enc = enclosed(widths, step_of(widths))
    monkeypatch.setattr(Enclosure, "_gap", lambda self, t: gap)
    monkeypatch.setattr(Enclosure, "_speed", lambda self, step, t: speed)
    return enc


def test_the_rate_is_the_squared_speed_over_the_gap(coarse, monkeypatch):
    below = 1 - 1e-12
    for gap, speed, bounds in (
        ((2.0, 3.0), (5.0, 1.0), ((4 * below) ** 2 / 3 * below, (6 * up) ** 2 / 2 * up)),
        ((0.25, 0.5), (5.0, 1.0), ((4 * below) ** 2 / 0.5 * below, (6 * up) ** 2 / 0.25 * up)),
        ((0.5, 0.75), (5.0, 6.0), (0.0, (11 * up) ** 2 / 0.5 * up)),
        ((0.0, 3.0), (5.0, 1.0), ((4 * below) ** 2 / 3 * below, math.inf)),
        ((0.0, 0.0), (5.0, 1.0), (0.0, math.inf)),
        ((-1.0, 3.0), (5.0, 1.0), (-math.inf, math.inf)),
    ):
        found = fixed(monkeypatch, gap, speed).rate_bounds(0.6)
        # To a few units: the last digits of 1 − 10⁻¹² count.
        assert found == tuple(pytest.approx(x, rel=1e-14, abs=0) for x in bounds)


# --- times ---------------------------------------------------------------------------------------------------------


def falling(monkeypatch, *steps, first=(8.0, 9.0), spread=1.0):
    """An enclosure whose gap is between 8·2⁻ᵗ over and times the spread."""
    enc = enclosed((2, 1), *steps, first=first)
    monkeypatch.setattr(Enclosure, "_gap", lambda self, t: (8.0 * 2.0**-t / spread, 8.0 * 2.0**-t * spread))
    return enc


def steps_to(*ends, spread=1.0):
    found = []
    for t, end in itertools.pairwise([0.0, *ends]):
        gap = 8.0 * 2.0**-end
        found.append(step_of((2, 1), gap=(gap / spread, gap * spread), t=t, length=end - t))
    return found


def test_a_time_is_where_the_bounds_of_the_gap_pass_the_target(monkeypatch):
    enc = falling(monkeypatch, *steps_to(1.0, 2.0, 4.0, spread=1.5), spread=1.5)
    # Not yet while 8·2⁻ᵗ/1.5 is above a fraction of 9, surely once 1.5·8·2⁻ᵗ is at most that of 8.
    for fraction in (0.45, 0.25, 0.2):
        low, high = enc.time_bounds(fraction)
        assert low == pytest.approx(max(-math.log2(1.5 * fraction * 9 * (1 + 1e-12) / 8), 0.0), abs=1e-13)
        assert high == pytest.approx(-math.log2(fraction * 8 * (1 - 1e-12) / 1.5 / 8), abs=1e-13)
    low, high = enc.time_bounds(0.08)
    assert low < 4.0 and high == math.inf
    assert enc.time_bounds(0.01) == (4.0, math.inf)
    assert falling(monkeypatch).time_bounds(0.5) == (0.0, math.inf)


def test_a_time_is_known_to_the_last_digit_but_never_on_the_wrong_side(monkeypatch):
    """Sums of 10⁻¹² are to be seen: the gap falls by that much from one step to the next."""
    for off, early in ((0.5e-12, True), (1.5e-12, False)):
        # At the end of the first step the gap is as much above the fraction; at the end of the second below.
        target = 0.5 * 8.0
        first = step_of((2, 1), gap=(target * (1 + off), 9.0), t=0.0, length=1.0)
        second = step_of((2, 1), gap=(target * 0.9, 9.0), t=1.0, length=1.0)
        enc = enclosed((2, 1), first, second, first=(8.0, 8.0))
        monkeypatch.setattr(Enclosure, "_gap", lambda self, t: (9.0, 9.0))
        assert enc.time_bounds(0.5)[0] == pytest.approx(1.0 if early else 2.0, rel=1e-15)
        first = step_of((2, 1), gap=(0.0, target * (1 - off)), t=0.0, length=1.0)
        second = step_of((2, 1), gap=(0.0, target * 0.9), t=1.0, length=1.0)
        enc = enclosed((2, 1), first, second, first=(8.0, 8.0))
        assert enc.time_bounds(0.5)[1] == (2.0 if early else 1.0)


def test_a_gap_that_is_the_target_is_there(monkeypatch):
    may, surely = 0.5 * 8.0 * UP, 0.5 * 8.0 * (1 - 1e-12)
    for gap, place, bound in (((may, 9.0), 0, may), ((0.0, surely), 1, surely)):
        enc = enclosed((2, 1), step_of((2, 1), gap=gap, t=1.0, length=1.0), first=(8.0, 8.0))
        # From the start of the step on.
        monkeypatch.setattr(Enclosure, "_gap", lambda self, t, bound=bound: (bound, bound))
        assert enc.time_bounds(0.5)[place] == pytest.approx(1.0, rel=1e-15)


def test_a_bisection_ends_at_neighbours_or_at_the_ends_of_the_step():
    enc, step = enclosed((2, 1)), step_of((2, 1), t=1.0, length=2.0)
    low, high = enc._switch(step, lambda t: t < math.sqrt(2))
    assert low < math.sqrt(2) <= high == np.nextafter(low, 2.0)
    assert enc._switch(step, lambda t: t <= 2.0) == (2.0, np.nextafter(2.0, 3.0))
    calls = []
    low, high = enc._switch(step, lambda t: calls.append(t) or False)
    assert (low, high) == (1.0, np.nextafter(1.0, 2.0)) and calls[:3] == [2.0, 1.5, 1.25]
    low, high = enc._switch(step, lambda t: True)
    assert (low, high) == (np.nextafter(3.0, 1.0), 3.0)
    # From 0 there are a thousand halvings: sixty are made.
    calls.clear()
    assert enc._switch(step_of((2, 1), t=0.0, length=1.0), lambda t: calls.append(t) or False) == (0.0, 2.0**-60)
    assert len(calls) == 60


# --- which step, and what is refused -------------------------------------------------------------------------------


def test_each_time_is_looked_up_in_its_step():
    steps = [step_of((2, 1), t=t, length=1.0, radius=r) for t, r in ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0))]
    enc = enclosed((2, 1), *steps)
    assert list(enc.t) == [0.0, 1.0, 2.0, 3.0] and enc.end == 3.0
    assert list(enc.radius) == [0.0625, 1.0, 2.0, 3.0] and enc.exponent == 1.5
    assert [enc._step(t).radius for t in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)] == [1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    for t in (3.0 + 1e-9, math.nan):
        with pytest.raises(ValueError, match=r"enclosed up to t = 3 only"):
            enc._step(t)
    with pytest.raises(ValueError, match="nothing is enclosed"):
        enclosed((2, 1)).gap_bounds(0.0)
    for method in ("gap_bounds", "rate_bounds", "singular_value_bounds", "least_eigenvalue_bounds"):
        assert getattr(enc, method)(0.0)[0] is not None
        with pytest.raises(ValueError, match=r"t is -1\.0"):
            getattr(enc, method)(-1.0)
    low, high = enc.gap_bounds(np.array([0.0, 1.5]))
    assert (low[1], high[1]) == enc.gap_bounds(1.5) == enc.gap_bounds(np.array(1.5))
    assert enc.network_at(0.0).widths == (2, 1)


def test_an_operator_of_900_entries_is_the_largest(monkeypatch):
    monkeypatch.setattr(Enclosure, "_least", lambda self, t: (1.0, 2.0))
    step = step_of((2, 1))
    for n, m, fine in ((30, 30, True), (53, 17, False)):  # 900 and 901
        enc = dataclasses.replace(enclosed((2, 1), step), start=Network([np.zeros((n, 1)), np.zeros((1, m))]))
        if fine:
            assert enc.least_eigenvalue_bounds(0.6) == (1.0, 2.0)
        else:
            with pytest.raises(ValueError, match="901 entries; λ_min"):
                enc.least_eigenvalue_bounds(0.6)


def test_what_holds_for_ever_starts_from_the_end(coarse, monkeypatch):
    seen = []
    monkeypatch.setattr(enclosure, "ever_after", lambda *given: seen.append(given) or (None, "why"))
    others = [step_of((2, 3, 1), t=t, gap=(5.0, 6.0), radius=0.5) for t in (0.0, 0.25)]
    enc = enclosed((2, 3, 1), *others, step_of((2, 3, 1), gap=(1.0, 2.5)))
    assert enc.certificate is None and enc.certificate_reason == "why"
    [(_, start, reached, radius, gap, gamma)] = seen
    W, errors = weights_at(enc.steps[2], enc.end)
    assert start is enc.start and gap == 2.5
    assert all(np.allclose(a, b) for a, b in zip(reached.weights, W, strict=True))
    assert radius == near((0.125 + math.hypot(*errors)) * up)
    assert gamma == near(2 * 0.5 * (1 - 4 * u))  # of ½⟨E, AEB⟩ ≥ ½ λ ‖E‖²: ‖∇f‖² ≥ 2λ (f − f*)
    assert enclosed((2, 3, 1)).certificate_reason == "nothing is enclosed"


def test_powers_of_ten_that_are_reached_are_told():
    bounds = SimpleNamespace(count=3)
    found = march.reached(lambda fraction: (1.0, 2.0 if fraction >= 10.0**-bounds.count else math.inf))
    assert found == {"1e-01": [1.0, 2.0], "1e-02": [1.0, 2.0], "1e-03": [1.0, 2.0]}
    bounds.count = 20
    assert list(march.reached(lambda fraction: (1.0, 2.0)))[-1] == "1e-12"
