"""The decay of a loss with a tail, and the curvature on its levels, stated by hand."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow.model import classification, tails
from linflow.model.tails import UP, LogisticTail, Tail


def near(x, rel=1e-14):  # the formulas take a handful of operations
    return pytest.approx(x, rel=rel, abs=0)


def declared(**constants):
    """`Σ e^{−W_ij}` of two entries: `‖∇f‖ ≥ f/√2` and `‖∇²f‖ ≤ f`."""
    return lf.Objective(
        lambda W: float(np.exp(-W).sum()), lambda W: -np.exp(-W), shape=(2, 1), minimum=0.0, **constants
    )


# --- the decay -----------------------------------------------------------------------------------------------------


def test_the_inverse_gap_grows_by_the_constant_squared():
    tail = Tail(1.5)
    for gap0, s in ((0.5, 3.0), (4.0, 3.0), (1.0, 0.25)):
        assert tail.gap(gap0, s, 2.0) == near(1 / (1 / gap0 + 2 * 2.25 * s))
        assert tail.gap(gap0, s, 2.0) >= 1 / (1 / gap0 + 2 * 2.25 * s)
    assert tail.time(4.0, 0.5, 2.0) == near((1 / 0.5 - 1 / 4) / (2 * 2.25))
    assert tail.time(4.0, 4.0, 2.0) == tail.time(4.0, 5.0, 0.0) == 0.0 and tail.time(4.0, 1.0, 0.0) == math.inf
    assert tail.gap(4.0, 0.0, 2.0) == tail.gap(4.0, 3.0, 0.0) == 4.0 and tail.gap(0.0, 3.0, 2.0) == 0.0
    assert tail.constant_on(0.0) == tail.constant_on(7.0) == 1.5


def test_the_logistic_gap_satisfies_its_equation():
    tail = LogisticTail(1.5)

    def F(x):
        return math.log(math.expm1(x)) - 1 / math.expm1(x)

    assert tail.time(4.0, 0.5, 2.0) == near((F(4.0) - F(0.5)) / (2 * 2.25), rel=1e-13)
    for gap0, t in ((4.0, 0.3), (0.2, 5.0)):
        after = tail.gap(gap0, t, 2.0)
        assert F(after) == near(F(gap0) - 2 * 2.25 * t, rel=1e-12)
    assert tail.constant_on(4.0) == near(1.5 * (1 - math.exp(-4)) / 4) and tail.constant_on(0.0) == 1.5
    assert tail.constant_on(1e-300) == near(1.5)


def test_starts_and_times_at_the_ends_of_float64():
    assert Tail(1.0).time(0.0, 0.5, 1.0) == 0.0 and Tail(1.0).time(4.0, 4.0, 0.0) == 0.0
    assert Tail(1.0).gap(4.0, 0.5, 2.0) == near(1 / 1.25)  # αγ²t = 1
    assert LogisticTail(1.0).gap(0.0, 3.0, 2.0) == 0.0
    # αγ²t = 1e310: the gap is 1e-310, and never 0.
    assert Tail(1.0).gap(1.0, 1e308, 100.0) >= 1e-310


def test_paths_are_integrals_of_the_inverse_slope():
    gaps = np.array([4.0, 0.5, 1e-3])
    np.testing.assert_allclose(Tail(1.5).path(4.0, gaps), np.log(4.0 / gaps) / 1.5, rtol=1e-14, atol=1e-15)
    literal = [(math.log(math.expm1(4.0)) - math.log(math.expm1(x))) / 1.5 for x in gaps]
    np.testing.assert_allclose(LogisticTail(1.5).path(4.0, gaps), literal, rtol=1e-13, atol=1e-15)


def test_the_logistic_time_is_shortened_by_its_rounding(monkeypatch):
    monkeypatch.setattr(tails, "EPS", 2.0**-8)
    for gap0, s in ((4.0, 3.0), (0.2, 5.0), (4.0, 60.0), (0.05, 0.5)):
        v0 = 1 / math.expm1(gap0)
        z = s + v0 + math.log(v0) - 4 * 2.0**-8 * (s + v0 + abs(math.log(v0)))
        low, high = 1e-12, 1e6
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if middle + math.log(middle) < z else (low, middle)
        assert LogisticTail(1.0).gap(gap0, s, 1.0) == near(min(math.log1p(1 / low), gap0), rel=1e-12)


def test_results_are_rounded_up():
    # A power of two and its parts are exact, so what is above the true value is the allowance.
    assert UP == 1 + 8 * 2.0**-52
    assert Tail(1.0).gap(0.5, 2.0, 1.0) == 0.25 * UP and Tail(1.0).time(1.0, 0.5, 1.0) == UP
    assert LogisticTail(1.0).constant_on(math.log(2)) < 0.5 / math.log(2)


@pytest.mark.parametrize("form", [Tail, LogisticTail])
def test_levels_times_and_speeds_are_checked(form):
    for call in (
        lambda: form(1.0).constant_on(-1.0),
        lambda: form(1.0).time(1.0, 0.0, 1.0),
        lambda: form(1.0).time(-1.0, 0.5, 1.0),
        lambda: form(1.0).gap(1.0, -1.0, 1.0),
        lambda: form(1.0).gap(1.0, 1.0, -1.0),
        lambda: form(1.0).gap(-1.0, 1.0, 1.0),
    ):
        with pytest.raises(ValueError, match=r"a (non-negative|positive) number"):
            call()


# --- declared ------------------------------------------------------------------------------------------------------


def test_a_mean_is_the_sum_with_every_number_rounded_up(monkeypatch):
    """`g = f/5`: gaps and times of f are five times those of g, and what is given to it is rounded as it counts."""
    monkeypatch.setattr(tails, "UP", 1.25)
    given = []
    for name in ("time", "gap", "constant_on"):
        monkeypatch.setattr(LogisticTail, name, lambda self, *numbers: given.append(numbers) or 3.0)
    g = tails.MeanTail(0.7, 5)
    assert g.time(2.0, 0.5, 4.0) == near(3 * 5 * 1.25) and given[-1] == near((5 * 2 * 1.25, 5 * 0.5 / 1.25, 4.0))
    assert g.time(2.0, 2.0, 4.0) == 0.0
    assert g.gap(9.0, 10.0, 4.0) == near(3 / 5 * 1.25) and given[-1] == near((5 * 9 * 1.25, 10 / 5 / 1.25, 4.0))
    assert g.gap(0.5, 10.0, 4.0) == 0.5
    assert g.constant_on(2.0) == near(3 / 1.25) and given[-1] == (10.0,)


def test_a_declared_tail_is_kept():
    f = declared(tail_constant=0.5, tail_smoothness=2.0)
    assert isinstance(f.tail, Tail) and f.tail == Tail(0.5) and f.tail_smoothness == 2.0
    assert repr(f).endswith("γ=0, tail γ=0.5)") and f.pl_constant == 0.0
    plain = declared(smoothness=3.0)
    assert plain.tail is None and plain.tail_smoothness == math.inf and repr(plain).endswith("γ=0)")


@pytest.mark.parametrize("name", ["tail_constant", "tail_smoothness"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_constants_of_a_tail_are_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; a positive number"):
        declared(**{name: value})


def test_constants_of_a_tail_fit_together():
    with pytest.raises(ValueError, match=r"tail_constant 2.1 has a square above 2·tail_smoothness = 4;"):
        declared(tail_constant=2.1, tail_smoothness=2.0)
    assert declared(tail_constant=1.9, tail_smoothness=2.0).tail == Tail(1.9)
    assert declared(tail_constant=2.0, tail_smoothness=2.0).tail == Tail(2.0)  # equality may be
    assert declared(tail_constant=0.5, tail_smoothness=0.3).tail == Tail(0.5)
    with pytest.raises(ValueError, match="needs minimum="):
        lf.Objective(lambda W: 0.0, lambda W: W, shape=(1, 1), tail_constant=1.0)


# --- curvature and slope on a level --------------------------------------------------------------------------------


def test_curvature_and_slope_on_a_level_follow_the_declared_constants():
    f = declared(smoothness=3.0, tail_smoothness=2.0)
    assert f.smoothness_on(0.5) == near(1.0) and f.smoothness_on(0.5) >= 1.0 and f.smoothness_on(4.0) == 3.0
    assert f.steepest_on(0.5) == near(1.0) and f.steepest_on(0.5) > 1.0  # sqrt(2·1·0.5)
    assert f.steepest_on(6.0) == near(6.0)  # sqrt(2·3·6)
    for level in (0.0, -1e-9):
        assert f.smoothness_on(level) == f.steepest_on(level) == 0.0
    assert declared().smoothness_on(1.0) == math.inf and declared().steepest_on(0.0) == 0.0


def test_curvature_and_slope_on_a_level_of_classification():
    X, y = np.array([[3.0, 0.0], [0.0, -4.0]]), np.array([1.0, -1.0])
    f, g = lf.ExponentialLoss(X, y), lf.LogisticLoss(X, y)
    for h in (f, g):
        assert h.smoothness_on(0.125) == near(2.0) and h.smoothness_on(0.125) >= 2.0
        assert h.steepest_on(0.125) == near(0.5) and h.steepest_on(0.125) >= 0.5
        assert h.smoothness_on(0.0) == h.steepest_on(0.0) == 0.0
    assert f.smoothness_on(10.0) == near(160.0) and f.steepest_on(10.0) == near(40.0)
    assert g.smoothness_on(10.0) == 4.0 and g.steepest_on(8.0) == near(8.0)  # K = 16/4, sqrt(2·4·8)
    assert g.steepest_on(8.0) >= 8.0 and g.strong_convexity == g.pl_constant == 0.0


def test_the_longest_sample_is_raised_by_its_rounding(monkeypatch):
    monkeypatch.setattr(classification, "EPS", 2.0**-10)
    f = lf.ExponentialLoss(np.array([[3.0, 0.0], [0.0, -4.0]]), np.array([1.0, -1.0]))
    assert f.tail_smoothness == near((4 * (1 + 10 * 2.0**-10)) ** 2)


@pytest.mark.parametrize("loss", [lf.ExponentialLoss, lf.LogisticLoss])
@pytest.mark.parametrize("outputs", [1, 3])
def test_no_weights_exceed_the_curvature_and_slope_of_their_level(loss, outputs, rng):
    X, U = rng.standard_normal((7, 4)), rng.standard_normal((4, outputs))
    f, sharpest = loss(X, np.sign(X @ U)), 0.0
    for _ in range(300):
        W = 3 * rng.standard_normal(f.shape)
        level = f.value(W)
        H = np.array([f.hessian_product(W, V.reshape(f.shape)).ravel() for V in np.eye(W.size)])
        bend = float(np.linalg.eigvalsh(H)[-1]) / f.smoothness_on(level)
        slope = float(np.linalg.norm(f.gradient(W))) / f.steepest_on(level)
        assert max(bend, slope) <= 1 + 1e-12  # the rounding of the eigenvalue
        sharpest = max(sharpest, min(bend, slope))
    assert sharpest > 0.3  # one sample carries the loss: both are nearly reached
