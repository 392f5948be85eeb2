"""The form of published results, and the words where they do not apply: the numbers in them are those meant."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates.curves import ExponentialCurve, StepCurve
from linflow.certificates.prior import _rows
from linflow.certificates.setting import Setting

NET = lf.Network([np.eye(2), np.eye(2)])
F = lf.MatrixFactorization(1.5 * np.eye(2))


def on(f=F, net=NET, algorithm="flow"):
    return Setting(f, net, algorithm)


def test_a_row_is_a_rate_a_curve_or_a_reason():
    for outcome in (2, 2.5):
        found = _rows.row(on(), "name", "source", ["key"], outcome, λ=-0.0, other=3)
        assert (found.name, found.source, found.citation, found.reason) == ("name", "source", ("key",), "")
        assert (found.rate, found.gap, found.minimum) == (outcome, F.gap(np.eye(2)), F.minimum)
        assert found.gap_at(0.5) == pytest.approx(found.gap * math.exp(-0.5 * outcome), rel=1e-12)
        assert found.facts == {"λ": 0.0, "other": 3.0} and math.copysign(1.0, found.facts["λ"]) == 1.0
    curve = ExponentialCurve(1.0, 3.0)
    assert _rows.row(on(), "name", "source", [], curve).curve is curve
    assert _rows.row(on(), "name", "source", [], "why").reason == "why"
    # On a descent what is on the flow says nothing, but its rate is told.
    for outcome in (3.0, curve):
        found = _rows.row(on(algorithm="descent"), "name", "source", [], outcome)
        assert not found.applies
        assert found.reason == "it is on the flow (rate 3 there), and this certificate is on descent"
    steps = StepCurve(1.0, 0.1, 0.5)
    assert _rows.row(on(algorithm="descent"), "name", "source", [], steps).curve is steps
    assert _rows.row(on(algorithm="descent"), "name", "source", [], "why").reason == "why"


def test_the_fastest_guarantee_on_a_descent_that_cites_a_result():
    rows = [
        SimpleNamespace(citation=citation, time_to=lambda until, time=time: time if until == 1e-6 else 0.0)
        for citation, time in ((("a", "b"), 3.0), (("b",), 2.0), (("c",), 1.0))
    ]
    descent = on(algorithm="descent")
    assert _rows.on_descent(descent, rows, "b") is rows[1] and _rows.on_descent(descent, rows, "a") is rows[0]
    assert _rows.on_descent(descent, rows, "a", "c") is rows[2] and _rows.on_descent(descent, rows, "d") is None
    assert _rows.on_descent(on(), rows, "b") is None


def test_data_are_white_to_a_few_hundred_roundings():
    def of(spread):
        return on(lf.Quadratic(2 * np.diag([1.0, 1.0 + spread]), C=np.eye(2)))

    assert _rows.not_white(of(0.9e-12)) == "" == _rows.not_white(on()) == _rows.no_squared_loss(on())
    assert "K/μ = 1; whiten" in _rows.not_white(of(1.1e-12))
    assert "here K/μ = 3; whiten" in _rows.not_white(of(2.0))
    other = lf.Objective(lambda W: 1.0, lambda W: W, shape=(2, 2), minimum=0.0)
    assert _rows.not_white(on(other)) == "it is on the squared loss, not on a user-defined objective"
    assert "no gradient dominance is known" in _rows.no_dominance(on(other)) and _rows.no_dominance(on()) == ""


def test_the_bounds_of_the_papers_are_taken_at_their_margin():
    net = lf.Network([0.3 * np.eye(2), 0.3 * np.eye(2)], 0.5)
    setting = on(lf.MatrixFactorization(0.05 * np.eye(2)), net)
    margin = 0.05 - 0.005 * math.sqrt(2)
    assert setting.margin_by_distance == pytest.approx(margin, rel=1e-9)
    inv = setting.invariants.at(setting.margin_by_distance / 0.5, math.inf)
    literal = {b.name: float(b.value) for b in lf.bounds.evaluate(inv, 0.5) if b.applies}
    found = _rows.bounds_at_margin(setting)
    assert found and all(value == pytest.approx(literal[t.name], rel=1e-12, abs=0) for t, value in found)
    # Of two balanced layers: 2σ at the product without its scale, times the square of that.
    assert max(value for _, value in found) == pytest.approx(2 * margin * 0.5, rel=1e-9)
    assert {t.citation for t, _ in found} <= {"min2021", "min2023"}


def test_depths_are_told():
    assert _rows.not_deep(on(), 2) == "" == _rows.not_deep(on(), 1, 2)
    assert _rows.not_deep(on(), 3) == "it is on 3 layers, and the network has 2"
    assert _rows.not_deep(on(), 1, 3) == "it is on 1 or 3 layers, and the network has 2"


def test_why_there_is_no_margin():
    assert _rows.no_margin(on()).startswith("the margin 0.793 is at the level of rounding")  # 1.5 − 0.5·√2
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 2))])
    assert "the hidden width 1 is below" in _rows.no_margin(on(net=narrow))
    dominated = lf.Objective(lambda W: 1.0, lambda W: W, shape=(2, 2), minimum=0.0, pl_constant=1.0)
    assert _rows.no_margin(on(dominated)).startswith("the margin needs μ > 0 and W*")
    for last, words in ((0.9e-14, "as W* has not full rank"), (1.2e-14, "is not below σ_min(W*)")):
        flat = lf.MatrixFactorization(4 * np.diag([1.0, last]))
        assert words in _rows.no_margin(on(flat))
    # sqrt(K/μ) times the distance to W* = diag(2, 3).
    f = lf.Quadratic(np.diag([2.0, 32.0]), C=np.diag([4.0, 96.0]))
    expected = f"sqrt(K/μ) ‖W(0) − W*‖_F = {4 * math.sqrt(1 + 4):.3g} is not below σ_min(W*) = 2;"
    assert expected in _rows.no_margin(on(f))


def test_every_published_result_has_its_row():
    names = [row.name for row in lf.certify(F, NET).prior]
    assert len(names) == len(set(names)) == 16
    for year in (2023, 2025):
        source = next(row.source for row in lf.certify(F, NET).prior if row.name == f"Xu et al. {year}")
        assert str(year) in source
    (one,) = lf.certify(F, lf.Network([np.eye(2)])).prior
    assert not one.applies and "two layers and more" in one.reason
