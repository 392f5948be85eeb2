"""How far descent is from the flow: against closed forms, and each part of the bounds by itself."""

import math
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow.verified import comparison
from linflow.verified.rounding import U

# Bounds are sums of a few terms, each rounded once or twice; the factors for that, 1 + 10⁻¹², still show.
FEW = 1e-14


def test_of_one_layer_the_distance_is_that_of_two_powers():
    """`θ_k − Y = (1 − η)^k (θ_0 − Y)` and `θ(kη) − Y = e^{−kη}(θ_0 − Y)`."""
    eta, off = 0.125, 1.5
    gap = lf.flow_descent_gap(lf.MatrixFactorization([[2.0]]), [[[2.0 - off]]], step_size=eta, until=1e-3)
    with mpmath.workdps(40):
        for k, (low, high), flow, descent in zip(gap.k, gap.distance.T, gap.flow.T, gap.descent.T, strict=True):
            of_flow, of_descent = off * mpmath.exp(-k * mpmath.mpf(eta)), off * (1 - mpmath.mpf(eta)) ** int(k)
            assert low <= of_flow - of_descent <= high and high - low < 1e-10
            assert flow[0] <= of_flow**2 / 2 <= flow[1] and descent[0] <= of_descent**2 / 2 <= descent[1]
    assert list(gap.k) == list(range(27))  # (7/8)^{2k} first falls below 10⁻³ at k = 26
    assert np.array_equal(gap.t, gap.k * eta) and gap.step_size == eta
    assert gap.largest == (gap.distance[0].max(), gap.distance[1].max())
    assert np.array_equal(gap.loss_difference, [gap.descent[0] - gap.flow[1], gap.descent[1] - gap.flow[0]])


def compared(
    monkeypatch, *, steps=3, end=10.0, radii=0.0, radius=0.0, speed=0.0, apart=0.0, reasons=("", ""), eta=0.5
):
    """Compare a descent and a flow of which everything is given."""
    at = [[np.array([[3.0 * j]]), np.array([[0.0, 4.0 * j]])] for j in range(steps + 1)]
    descent = SimpleNamespace(
        steps=steps,
        radius=np.full(steps + 1, radii),
        gaps=np.stack([np.arange(steps + 1.0), np.arange(steps + 1.0) + 0.5]),
        reason=reasons[0],
    )
    flow = SimpleNamespace(
        end=end,
        around=lambda t: ([at[round(t / eta)][0] + 3 * apart, at[round(t / eta)][1] - 4 * apart], t, t + 1.0, radius),
        speed=lambda t: speed,
        reason=reasons[1],
    )
    asked = []

    def both(objective, network, eta, until, steps, progress):
        asked.append((eta, until, steps))
        return descent, at, flow

    monkeypatch.setattr(comparison, "descent_and_flow", both)
    found = comparison.flow_descent_gap(None, None, step_size=eta, until=0.25, steps=7)
    assert asked == [(eta, 0.25, 7)]
    return found


def test_the_distance_of_the_paths_is_widened_by_all_that_is_not_known(monkeypatch):
    # ‖(3, 4, 4 of a column)‖: one entry moves by 3, two by 4.
    moved = math.sqrt(9 + 32)
    found = compared(monkeypatch, apart=1.0)
    assert found.distance[1] == pytest.approx(np.full(4, moved * (1 + 1e-12)), rel=FEW, abs=0)
    assert found.distance[0] == pytest.approx(np.full(4, moved * (1 - 1e-12)), rel=FEW, abs=0)
    assert found.flow.tolist() == [[0.0, 0.5, 1.0, 1.5], [1.0, 1.5, 2.0, 2.5]]
    assert found.descent.tolist() == [[0.0, 1.0, 2.0, 3.0], [0.5, 1.5, 2.5, 3.5]]
    # Each radius by itself, where the paths meet: below 0 no distance is.
    for given in ({"radius": 0.25}, {"radii": 0.25}):
        found = compared(monkeypatch, **given)
        assert found.distance[1] == pytest.approx(np.full(4, 0.25 * (1 + 1e-12)), rel=FEW, abs=0)
        assert found.distance[0].tolist() == [0.0] * 4
    # t = kη is rounded, and the flow moves by its speed times that.
    found = compared(monkeypatch, speed=3.0)
    assert found.distance[1] == pytest.approx(2 * U * found.t * 3.0 * (1 + 1e-12), rel=FEW, abs=0)
    found = compared(monkeypatch, apart=1.0, radius=0.25, radii=0.5, speed=1.0 / U)
    off = (0.75 + 2 * found.t) * (1 + 1e-12) + 1e-12 * moved
    assert found.distance[1] == pytest.approx(moved + off, rel=FEW, abs=0)
    assert found.distance[0] == pytest.approx(np.maximum(moved - off, 0.0), rel=1e-13, abs=0)  # a difference


@pytest.mark.parametrize(
    ("end", "last"),
    # η = ½. A flow that ends some 10⁻¹² before a step is at that step, but one that ends later is to be there surely.
    [(10.0, 6), (2.0 * (1 + 1.5e-12), 4), (2.0 * (1 + 5e-13), 3), (1.75, 3), (0.6, 1)],
)
def test_steps_are_compared_as_far_as_both_reach(monkeypatch, end, last):
    found = compared(monkeypatch, steps=6, end=end)
    assert found.k.tolist() == list(range(last + 1))


def test_of_many_steps_two_hundred_are_compared(monkeypatch):
    found = compared(monkeypatch, steps=597, end=1e3)
    assert found.k.tolist() == list(range(0, 598, 3))
    assert len(compared(monkeypatch, steps=199, end=1e3).k) == 200
    assert compared(monkeypatch, steps=1).k.tolist() == [0, 1]


def test_the_reason_is_that_of_the_descent_or_else_of_the_flow(monkeypatch):
    assert compared(monkeypatch, reasons=("a", "b")).reason == "a"
    assert compared(monkeypatch, reasons=("", "b")).reason == "b"
    assert compared(monkeypatch).reason == ""
    for given in ({"steps": 0}, {"end": 0.25}):
        with pytest.raises(ValueError, match=r"nothing could be compared: why\."):
            compared(monkeypatch, reasons=("", "why"), **given)
