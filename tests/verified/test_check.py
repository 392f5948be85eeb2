"""Certificates set against proofs."""

from dataclasses import replace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates.curves import ExponentialCurve


def proved(seed=0, widths=(3, 6, 2)):
    f, net = (
        lf.MatrixFactorization(np.random.default_rng(seed).normal(size=(3, 2))),
        lf.init.gaussian(widths, rng=seed),
    )
    return f, net, lf.certify(f, net), lf.enclose(f, net, until=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_proof_keeps_every_guarantee_and_says_how_late_it_is(seed):
    f, net, cert, enc = proved(seed)
    check = cert.check(enc)
    seen = cert.check(lf.gradient_flow(f, net, until=1e-5, rtol=1e-10))
    assert check.holds
    assert check.worst_gap <= 1
    assert check.worst_slack >= 1
    for fraction in (1e-2, 1e-4):
        assert check.time_ratios[fraction] == pytest.approx(
            seen.time_ratios[fraction], rel=1e-6
        )  # the run's own error
    assert np.isnan(check.time_ratios[1e-6])  # the proof ends before


def test_a_curve_that_is_one_part_in_a_million_too_good_is_a_violation():
    _, _, cert, enc = proved()
    # The steepest exponential that is above the flow at every time compared.
    best = min(np.log(enc.first[0] / enc.gap_bounds(t)[1]) / t for t in enc.t[1:])
    for factor, holds in ((1 - 1e-6, True), (1 + 1e-6, False)):
        row = replace(cert.guarantees[0], curve=ExponentialCurve(cert.gap, factor * best), reason="")
        check = replace(cert, guarantees=(row,)).check(enc)
        assert (check.violation is None or check.violation.quantity == "rate") is holds


def test_a_promised_rate_above_the_proved_one_is_a_violation():
    _, _, cert, enc = proved()
    least = float(enc.rate_bounds(enc.t)[1].min())
    for factor, holds in ((1 - 1e-6, True), (1 + 1e-6, False)):
        row = replace(cert.guarantees[0], curve=ExponentialCurve(cert.gap * 1e3, factor * least), reason="")
        assert replace(cert, guarantees=(row,)).check(enc).holds is holds


def test_a_proof_of_another_start_or_algorithm_is_refused():
    f, net, _, enc = proved()
    other = lf.certify(f, lf.init.gaussian((3, 6, 2), rng=9))
    with pytest.raises(ValueError, match="certify the objective and network that were enclosed"):
        other.check(enc)
    descent = lf.certify(f, net, algorithm="descent", step_size=1e-3)
    with pytest.raises(ValueError, match="enclosure is of the flow"):
        descent.check(enc)


def test_a_gap_that_is_no_number_is_no_proof(monkeypatch):
    _, _, _, enc = proved()
    low, high = enc.time_bounds(1e-3)
    step = next(step for step in enc.steps if step.t < high <= step.t + step.length)
    monkeypatch.setattr(lf.Enclosure, "_gap", lambda self, t: (np.nan, np.nan))
    earliest, latest = enc.time_bounds(1e-3)
    assert earliest == step.t <= low
    assert latest == step.t + step.length >= high
