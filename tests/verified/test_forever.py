"""What holds for all times after a verified run: the floors it rests on, and its rates."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates.envelope import gap_levels
from linflow.certificates.lazy import Neighbourhood
from linflow.verified import forever
from linflow.verified.forever import ever_after, shifted


@pytest.mark.parametrize(
    ("radius", "radii", "floors"),
    [
        # The ball of R around weights that far off lies in the ball of R + radius: floors at the next radius up.
        (1.5, [0.0, 0.5, 1.5], [3.0, 3.0, 2.0]),
        (0.5, [0.0, 0.5, 1.5, 2.5], [4.0, 4.0, 3.0, 2.0]),
        (1.0, [0.0, 0.0, 1.0, 2.0], [4.0, 4.0, 3.0, 2.0]),
        (0.0, [0.0, 0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 4.0, 3.0, 2.0]),
        (3.0, [0.0, 0.0], [2.0, 2.0]),
        (3.5, [0.0], [0.0]),  # further than the largest ball: nothing is known
    ],
)
def test_floors_around_weights_that_are_not_known_exactly(radius, radii, floors):
    found = shifted(Neighbourhood(np.array([0.0, 1.0, 2.0, 3.0]), np.array([5.0, 4.0, 3.0, 2.0])), radius)
    assert (list(found.radii), list(found.floors)) == (radii, floors)


def test_of_one_layer_the_rate_is_that_of_the_objective():
    """`T = c² I`: the gap falls at the rate γc², however far the exact weights are."""
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.Network([np.eye(2)], 1.5)
    later, why = ever_after(f, net, net, 10.0, 0.25, 0.5)
    assert why == "" and later.rate == pytest.approx(0.5 * 1.5**2, rel=1e-14)
    assert later.facts["final rate"] == later.rate and later.facts["radius"] == 10.0
    assert later.gap == 0.25 and later.gap_at(2.0) == pytest.approx(0.25 * math.exp(-2 * later.rate), rel=1e-12)
    assert (later.name, later.source, later.minimum) == ("ever after", "linflow, docs/verified.md", f.minimum)


@pytest.mark.parametrize("reached", [False, True])
def test_the_rate_is_that_of_the_best_bound_at_every_level_or_of_the_weights(monkeypatch, reached):
    """Level by level, `γ` times the largest of the bounds from the imbalance, or the floor near the weights."""
    f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
    start = lf.Network([np.diag([3.0, 2.0]), np.diag([0.5, 0.25])])
    end = lf.Network([np.diag([3.0, 2.0]), np.diag([0.7, 0.5])])
    levels = gap_levels(1e-3)
    first, second = np.linspace(1.0, 3.0, len(levels)), np.linspace(2.0, 1.5, len(levels))
    asked = []
    monkeypatch.setattr(
        forever, "bounds_on", lambda *given: asked.append(given) or ([], {"a": first, "b": second}, 0.0)
    )
    near = Neighbourhood(np.array([0.0, 1.0, 1e3]), np.array([40.0, 30.0, 20.0 if reached else 0.0]))
    monkeypatch.setattr(Neighbourhood, "of", lambda net: near if net.weights[1][0, 0] == 0.7 else None)
    later, why = ever_after(f, start, end, 2.0, 1e-3, 0.5)
    assert why == "" and np.array_equal(asked[0][1], levels) and asked[0][0].network.weights[1][0, 0] == 0.5
    floors = np.full(len(levels), 20.0) if reached else np.maximum(first, second)
    assert later.curve.rates == pytest.approx(0.5 * floors, rel=1e-14)
    assert np.array_equal(later.curve.levels, levels)
    # A rate below 1 is one, too.
    later, _ = ever_after(f, start, end, 2.0, 1e-3, 0.01)
    assert later.rate == pytest.approx(0.01 * floors.min(), rel=1e-14)


@pytest.mark.parametrize(
    ("size", "least", "said"),
    [
        (1.0, 0.0, "λ_min(T) can tend to 0"), (1.0, 1e-13, "tend to 0"), (1.0, 1e-2, "a smaller"),
        (1e-4, 1e-6, "a smaller"),
    ],
)  # fmt: skip
def test_where_the_rate_tends_to_0_no_smaller_target_is_advised(size, least, said):
    """Balanced layers, and a mode of W* that is 0: the mode falls like 1/t, as `σ' = −2σ²`."""
    f = lf.MatrixFactorization(size * np.diag([2.0, least]))
    net = lf.Network([size**0.5 * np.diag([1.4, 0.1])] * 2)
    certificate, why = ever_after(f, net, net, 0.0, 5.0, 1.0)
    assert certificate is None and said in why and ("smaller until" in why) is (said == "a smaller")
    if least == 0.0:
        slow, slower = (lf.gradient_flow(f, net, t_max=t).final.product()[1, 1] for t in (1e2, 1e3))
        assert slow == pytest.approx(0.01 / (1 + 2 * 0.01 * 1e2), rel=1e-4) and slower == pytest.approx(
            slow / 7, rel=1e-3
        )
    # So it is after a verified run; an imbalance gives a floor at every gap.
    enc = lf.enclose(lf.MatrixFactorization(np.diag([2.0, 0.0])), net, until=1e-3)
    assert "from balanced layers it does" in enc.certificate_reason
    apart = lf.Network([np.diag([1.4, 0.1]), np.diag([1.0, 0.5])])
    assert "tend to 0" not in lf.enclose(f, apart, until=1e-3).certificate_reason


def test_a_smaller_target_is_advised_unless_the_floor_can_tend_to_0():
    """It can where no floor is left and σ_min(W*) is at most 10⁻¹² of σ_max(W*) = 2."""
    f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
    for last, least, smaller in ((0.0, 1.99e-12, False), (0.0, 2.01e-12, True), (0.5, 0.0, True)):
        said = forever._way_out(SimpleNamespace(objective=f, least_of_target=least), last)
        assert (said == "try a smaller until") is smaller


def test_where_nothing_is_proved_for_ever_the_reason_is_told(monkeypatch):
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.Network([np.eye(2), np.eye(2)])
    assert ever_after(f, net, net, 0.0, 1e-9, 1.0)[0] is not None
    for gamma in (0.0, -1.0):
        assert ever_after(f, net, net, 0.0, 1e-9, gamma) == (
            None,
            "no gradient dominance γ > 0 could be proved for the objective",
        )
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 2))])
    assert "the hidden width 1 is below min(n, m) = 2" in ever_after(f, narrow, narrow, 0.0, 1e-9, 1.0)[1]
    nothing = Neighbourhood(np.array([0.0]), np.array([0.0]))
    monkeypatch.setattr(Neighbourhood, "of", lambda net: nothing)
    # No floor at the first level, and one that ends later: a rate of 0 promises nothing.
    for place in (0, 5):
        values = np.ones(len(gap_levels(1e-9)))
        values[place] = 0.0
        monkeypatch.setattr(forever, "bounds_on", lambda *given, values=values: ([], {"a": values}, 0.0))
        later, why = ever_after(f, net, net, 0.25, 1e-9, 1.0)
        assert later is None and "neither the imbalance nor the weights reached" in why and "radius 0.25" in why
