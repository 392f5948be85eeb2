"""What a certificate makes of its guarantees, and the comparison with one layer, written out."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates.certificate import _sorted
from linflow.certificates.curves import StepCurve

NET = lf.Network([np.eye(2, 3), np.eye(3)], 0.5)
F = lf.Quadratic(np.diag([1.0, 4.0]), C=np.diag([1.5, 6.0, 0.0])[:2])  # μ = 1, K = 4


def row(name="row", applies=True, times=(1.0, 1.0), rate=0.0, gap=1.0, curve=None, citations=()):
    return SimpleNamespace(
        name=name,
        applies=applies,
        rate=rate,
        curve=curve,
        citations=frozenset(citations),
        source="a theorem",
        reason="",
        time_to={1e-6: times[0], 1e-2: times[1]}.get,
        steps_to={1e-6: 10 * times[0], 1e-2: 10 * times[1]}.get,
        gap_at=lambda t: gap * t,
    )


def of_rows(*rows, **more):
    return replace(lf.certify(F, NET), guarantees=rows, **more)


def faster(rate):
    return SimpleNamespace(rate_at=lambda gap: rate * gap)


def test_the_best_of_all_guarantees_is_promised():
    cert = of_rows(
        row(times=(5.0, 3.0), rate=2.0, gap=4.0, curve=faster(2.0)),
        row(times=(7.0, 2.0), rate=3.0, gap=3.0, curve=faster(1.0)),
        row(times=(math.inf, math.inf), rate=0.0, gap=9.0),
    )
    assert (cert.time_to(1e-6), cert.time_to(1e-2), cert.rate) == (5.0, 2.0, 3.0)
    assert (cert.gap_at(2.0), cert.rate_at(0.5)) == (6.0, 1.0)
    assert cert.loss_at(2.0) == F.minimum + 6.0 and F.minimum < 0
    assert of_rows(row()).rate_at(1.0) == 0.0
    with pytest.raises(TypeError, match="takes no steps"):
        cert.steps_to(1e-6)
    descent = of_rows(row(times=(5.0, 3.0)), row(times=(7.0, 2.0)), algorithm="descent", step_size=0.1)
    assert (descent.steps_to(1e-6), descent.steps_to(1e-2)) == (50.0, 20.0)


def test_what_arrives_is_a_time_or_a_number_of_steps_where_they_are_counted():
    steps, other = StepCurve(1.0, 0.1, 0.5), faster(1.0)
    flow = of_rows(row())
    assert flow.arrival(row(times=(5.0, 3.0), curve=other), 1e-6) == 5.0
    descent = of_rows(row(), algorithm="descent", step_size=0.1)
    assert descent.arrival(row(times=(5.0, 3.0), curve=steps), 1e-6) == 50.0
    assert descent.arrival(row(times=(5.0, 3.0)), 1e-6) == 50.0
    assert math.isnan(descent.arrival(row(curve=other), 1e-6))


@pytest.mark.parametrize(("rate", "words"), [(0.0, "row"), (0.5, "row, rate 0.5")])
def test_a_promise_names_its_rate_where_it_has_one(rate, words):
    cert = of_rows(row(times=(7.0, 2.0), rate=rate))
    assert cert.headline == f"Guaranteed before a run: 1e-6 of the initial loss gap by t = 7 ({words})."
    titles, line = cert.text_tables({"bound": cert.guarantees})[1:]
    assert titles.split() == ["bound", "rate", "time", "to", "1e-6", "source"]
    assert line.split() == ["row", f"{rate:g}", "7", "a", "theorem"]


def test_guarantees_are_ordered_by_their_times_and_those_that_apply_come_first():
    rows = [
        row("late", times=(9.0, 9.0)),
        row("none", applies=False, times=(0.0, 0.0)),
        row("ends", times=(math.inf, 4.0)),
        row("ends sooner", times=(math.inf, 3.0)),
        row("early", times=(5.0, 9.5)),
    ]
    ordered = _sorted(rows)
    assert [g.name for g in ordered] == ["early", "late", "ends sooner", "ends", "none"]
    assert of_rows(*ordered).best.name == "early" and of_rows(rows[1]).best is None
    cited = of_rows(row(citations=["a"]), row(citations=["b"], applies=False)).citations
    assert {"linflow", "a"} <= cited and "b" not in cited


def test_one_layer_instead_has_the_rate_of_the_objective():
    cert = lf.certify(F, NET)
    assert cert.pl_constant == pytest.approx(2.0) and cert.gap == F.gap(NET.product())
    one = cert.baseline
    assert one.applies and one.rate == cert.pl_constant and one.gap_at(0.5) == pytest.approx(cert.gap / math.e)
    plain = lf.Objective(lambda W: 0.0, lambda W: 0 * W, shape=(2, 3), smoothness=1.0, minimum=-1.0)
    assert lf.certify(plain, NET).baseline.reason == "no pl_constant is known for the objective"


def test_one_layer_instead_descends_by_its_factor():
    """`1 − η(1 − ηK/2)γ`, below 2/K."""
    for eta in (0.01, 0.25, 0.4, 0.4999):
        one = lf.certify(F, NET, algorithm="descent", step_size=eta).baseline
        assert one.curve.decrease == pytest.approx(eta * (1 - 2 * eta) * 2, rel=1e-12)
        assert (one.curve.first, one.curve.step_size) == (F.gap(NET.product()), eta)
    assert lf.certify(F, NET, algorithm="descent", step_size=0.5001).baseline.reason == (
        "the step 0.5 is not below 2/K = 0.5"
    )
    K = F.smoothness
    assert not lf.certify(F, NET, algorithm="descent", step_size=2 / K).baseline.applies
    schedule = lf.certify(F, NET, algorithm="descent", schedule=lf.schedules.xu2025(F, NET))
    assert "this certificate is for a schedule" in schedule.baseline.reason


def test_what_a_certificate_is_on_is_asked_for_once():
    for given, words in (
        ({"step_size": 0.1}, "step_size is 0.1, but the flow takes no steps"),
        ({"schedule": lf.schedules.xu2025(F, NET)}, "but the flow takes no steps"),
        ({"algorithm": "descent", "step_size": 0.1, "schedule": lf.schedules.xu2025(F, NET)}, "both step_size = 0.1"),
    ):
        with pytest.raises(ValueError, match=words):
            lf.certify(F, NET, **given)
    cert = lf.certify(F, NET, algorithm="descent", schedule=lf.schedules.constant(0.125))
    assert (cert.step_size, cert.schedule) == (0.125, None)
    cert = lf.certify(F, NET, algorithm="descent", schedule=lf.schedules.xu2025(F, NET))
    assert cert.step_size is None and cert.schedule is not None and cert.algorithm == "descent"
    assert cert.setting.algorithm == "descent" and lf.certify(F, NET).setting.algorithm == "flow"


def test_with_weight_decay_the_loss_with_decay_is_a_ceiling():
    """`f + ½ Σ λ_l ‖W_l‖²` never rises, so the loss stays below what it is at the start."""
    for rates in (None, (1.0, 3.0)):
        cert = lf.certify(F, NET, weight_decay=0.2, layer_rates=rates)
        penalty = 0.5 * 0.2 * sum(float(np.sum(W**2)) for W in NET.weights)
        gap = F.value(NET.product()) - F.minimum
        assert cert.guarantees[0].gap_at(7.0) == pytest.approx((gap + penalty) * (1 + 1e-12), rel=1e-14, abs=0)
