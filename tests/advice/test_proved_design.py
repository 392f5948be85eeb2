"""Designs by verified runs: the least imbalance from which the flow is proved to be in time."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow.advice import design as module

F = lf.MatrixFactorization(np.diag([3.0, 2.0, 1.0]))


@pytest.mark.parametrize("widths", [(3, 5, 3), (3, 5, 4, 3)])
def test_a_proved_design_is_in_time_and_needs_less_imbalance_than_the_certificate(widths):
    rate, until = 2.0, 1e-4
    by_certificate = lf.design(F, widths, rate=rate, until=until, rng=0)
    found = lf.design(F, widths, rate=rate, until=until, rng=0, verified=True)
    latest = found.proof.time_bounds(until)[1]
    assert latest <= math.log(1 / until) / rate and found.rate == math.log(1 / until) / latest >= rate
    assert 0 < found.imbalance < by_certificate.imbalance / 5
    # The judge: a plain run, to its tolerance.
    seen = lf.gradient_flow(F, found.start, until=until, rtol=1e-10).time_to(until)
    assert seen == pytest.approx(latest, rel=1e-4)
    # It is the least to 5 %: with less, the flow comes too late.
    less = lf.init.imbalanced(widths, [0.0] * (len(widths) - 3) + [0.94 * found.imbalance], np.zeros((3, 3)), rng=0)
    assert lf.gradient_flow(F, less, until=until).time_to(until) > math.log(1 / until) / rate
    assert found.certificate.rate < rate and found.confirm().holds
    told = found.to_dict()
    assert told["proof"]["result"] and told["rate"] == found.rate and by_certificate.to_dict()["proof"] is None
    assert "a verified run from here reaches 0.0001 of the initial gap in time" in str(found)


def test_a_start_that_is_fast_enough_needs_no_imbalance():
    found = lf.design(F, (3, 4, 3), rate=0.5, until=1e-3, product=0.5 * np.eye(3), rng=0, verified=True)
    assert found.imbalance == 0.0 and found.rate > 0.5


def test_what_no_run_proves_and_what_is_no_flow_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"verified designs are for the flow; .*linflow\.safe_step_size"):
        lf.design(F, (3, 4, 3), algorithm="descent", verified=True)
    monkeypatch.setattr(module, "attempt", lambda *args, **given: (None, "it was not tried"))
    with pytest.raises(
        ValueError, match=r"no verified run proves the rate 2 to 1e-6, not even with the imbalance 1; "
    ):
        lf.design(F, (3, 4, 3), rate=2.0, verified=True)
