"""Certificates set against proofs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates import Violation
from linflow.certificates.curves import ExponentialCurve
from linflow.verified.checking import check_flow, check_steps


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


def given(t=(0.0, 1.0, 2.0), low=(4.0, 2.0, 1.0), high=(4.0, 3.0, 1.5), rates=(8.0, 6.0, 4.0), times=(1.0, 2.0)):
    """A proof of which every bound is given."""
    t = np.array(t)
    of = {float(x): k for k, x in enumerate(t)}

    def at(values):
        return lambda s: np.array([values[of[float(x)]] for x in s])

    return SimpleNamespace(
        first=(low[0], high[0]),
        t=t,
        gap_bounds=lambda s: (at(low)(s), at(high)(s)),
        rate_bounds=lambda s: (np.full(len(s), -1.0), at(rates)(s)),
        time_bounds=lambda fraction: times,
    )


def promised(*curves, gap=4.0, rate=lambda gap: 0.0, time=10.0):
    rows = [SimpleNamespace(name=f"row {k}", applies=True, gap_at=curve) for k, curve in enumerate(curves)]
    return SimpleNamespace(
        algorithm="flow",
        optimizer=lf.Optimizer(),
        gap=gap,
        guarantees=rows,
        rate_at=rate,
        time_to=lambda fraction: time * fraction,
    )


def checked(certificate, proof):
    return check_flow(certificate, proof, lambda t: proof.rate_bounds(t)[1])


def test_the_gap_kept_least_well_is_told_over_all_rows_and_times():
    # Observed at least 4, 2, 1: over the promises 1, ½, ½ and 0.8, 0.8, 1.
    rows = (lambda t: [4.0, 4.0, 2.0][int(t)], lambda t: [5.0, 2.5, 1.0][int(t)])
    check = checked(promised(*rows), given())
    assert check.holds and check.worst_gap == 1.0 and check.worst_slack == np.inf  # no rate is promised
    assert checked(promised(rows[0], lambda t: 10.0), given()).worst_gap == 1.0
    assert checked(promised(lambda t: 10.0, lambda t: 8.0), given()).worst_gap == 0.5
    assert checked(promised(), given()).worst_gap == 0.0
    # A gap that may be 0 keeps every promise, that of 0 as well; a row that does not apply promises nothing.
    check = checked(promised(lambda t: [8.0, 8.0, 0.0][int(t)]), given(low=(4.0, 2.0, 0.0)))
    assert check.holds and check.worst_gap == 0.5
    check = checked(promised(lambda t: 1.0 - 0.5 * t), given(low=(0.5, 0.25, 0.0), high=(4.0, 3.0, 1.0)))
    assert check.holds and check.worst_gap == 0.5
    check = checked(promised(lambda t: 0.0), given(low=(0.0, 0.0, 0.0)))
    assert check.holds and check.worst_gap == 0.0
    certificate = promised(lambda t: 1.0)
    certificate.guarantees[0].applies = False
    assert checked(certificate, given()).holds


def test_the_first_promise_that_is_broken_is_told():
    rows = (lambda t: [4.0, 1.5, 0.75][int(t)], lambda t: [3.0, 1.0, 0.5][int(t)])
    check = checked(promised(*rows, rate=lambda y: 100.0), given())
    assert check.violation == Violation("row 0", 1.0, "loss gap", 2.0, 1.5) and check.worst_gap == 2.0
    # Rates: 8, 6, 4 at most where the gap is at most 4, 3, 1.5. Promised are 2y: kept at equality.
    check = checked(promised(rate=lambda y: 2 * y), given())
    assert check.holds and check.worst_slack == 1.0
    check = checked(promised(rate=lambda y: 2.5 * y), given())
    assert check.violation == Violation("rate", 0.0, "rate", 8.0, 10.0) and check.worst_slack == 0.8
    # What is not bounded breaks nothing, and no promise is kept by any rate; one below 1 is a promise as well.
    check = checked(promised(rate=lambda y: 0.5), given(rates=(np.inf, 1.0, 2.0)))
    assert check.holds and check.worst_slack == 2.0
    check = checked(promised(rate=lambda y: 8.0), given(rates=(np.inf, 10.0, 16.0)))
    assert check.holds and check.worst_slack == 1.25
    check = checked(promised(rate=lambda y: 0.0), given(rates=(0.0, 0.0, 0.0)))
    assert check.holds and check.worst_slack == np.inf


def test_a_start_is_that_of_the_proof_to_nine_digits():
    for gap in (4 * (1 - 0.9e-9), 4 * (1 + 0.9e-9)):
        assert checked(promised(gap=gap), given()).holds
    for gap in (4 * (1 - 1.1e-9), 4 * (1 + 1.1e-9)):
        with pytest.raises(ValueError, match="certify the objective and network that were enclosed"):
            checked(promised(gap=gap), given())
    for low, high in ((4 / (1 - 1e-9), 9.0), (1.0, 4 / (1 + 1e-9))):
        edge = low * (1 - 1e-9) if high == 9.0 else high * (1 + 1e-9)
        assert checked(promised(gap=edge), given(low=(low, 1.0, 1.0), high=(high, 3.0, 3.0))).holds


@pytest.mark.parametrize(("count", "compared"), [(199, 199), (200, 200), (201, 200), (598, 200)])
def test_two_hundred_times_are_compared_from_the_first_to_the_last(count, compared):
    t, seen = np.arange(float(count)), []
    proof = given(t, np.full(count, 4.0), np.full(count, 4.0), np.full(count, 1.0))
    checked(promised(lambda t: seen.append(t) or 5.0), proof)
    assert len(seen) == compared and (seen[0], seen[-1]) == (0.0, count - 1.0)
    if count == 598:
        assert seen == list(range(0, 598, 3))


def test_times_are_compared_where_both_are_known():
    assert checked(promised(), given(times=(0.5, 2.0))).time_ratios[1e-2] == pytest.approx(0.2, rel=1e-15)
    for times in ((0.5, np.inf), (0.0, 2.0)):
        assert all(np.isnan(x) for x in checked(promised(), given(times=times)).time_ratios.values())


def descent(seed=0, **kind):
    f = lf.MatrixFactorization(np.random.default_rng(seed).normal(size=(3, 2)))
    net = lf.init.imbalanced((3, 6, 2), 2.0, 0.3 * f.minimizer, rng=seed)
    eta = float(lf.safe_step_size(f, net))
    kind = kind or {"step_size": eta}
    return f, net, lf.certify(f, net, algorithm="descent", **kind), kind


@pytest.mark.parametrize("seed", range(3))
def test_a_proof_of_descent_keeps_every_guarantee_and_says_how_late_it_is(seed):
    f, net, cert, kind = descent(seed)
    enc = lf.enclose(f, net, algorithm="descent", until=1e-5, **kind)
    check = cert.check(enc)
    assert check.holds and cert.rate > 0
    assert check.worst_gap <= 1 and 1 <= check.worst_slack < np.inf
    for fraction in (1e-2, 1e-4):
        low, high = enc.steps_bounds(fraction)
        assert low == high and check.time_ratios[fraction] == cert.steps_to(fraction) / low
    assert np.isnan(check.time_ratios[1e-6])  # the proof ends before
    seen = cert.check(lf.gradient_descent(f, net, steps=enc.steps, **kind))
    assert check.worst_slack == pytest.approx(seen.worst_slack, rel=1e-6)  # the allowance of a run


def test_a_proof_of_a_schedule_is_compared_step_by_step():
    f, net, _, _ = descent()
    rule = lf.schedules.xu2025(f, net)
    cert = lf.certify(f, net, algorithm="descent", schedule=rule)
    enc = lf.enclose(f, net, algorithm="descent", schedule=rule, until=1e-3)
    check = cert.check(enc)
    assert check.holds and cert.best is not None and check.worst_gap <= 1
    assert check.time_ratios[1e-2] == cert.steps_to(1e-2) / enc.steps_bounds(1e-2)[0]
    other = lf.enclose(f, net, algorithm="descent", step_size=1e-3, steps=1)
    with pytest.raises(ValueError, match=r"took 0\.001 always; certify the schedule"):
        cert.check(other)
    none = lf.enclose(f, net, algorithm="descent", schedule=rule, until=0.999999, steps=1)
    assert none.steps == 1 and cert.check(none).holds
    with pytest.raises(ValueError, match="whose first step is"):
        cert.check(lf.enclose(f, net, algorithm="descent", schedule=lf.schedules.backtracking(0.5), steps=3))


def test_a_proof_of_another_descent_is_refused():
    f, net, cert, kind = descent()
    enc = lf.enclose(f, net, algorithm="descent", steps=3, **kind)
    with pytest.raises(ValueError, match="the enclosure is of descent"):
        lf.certify(f, net).check(enc)
    with pytest.raises(ValueError, match="for the constant step"):
        cert.check(lf.enclose(f, net, algorithm="descent", steps=3, step_size=1e-3))
    with pytest.raises(ValueError, match="took steps of a schedule"):
        cert.check(lf.enclose(f, net, algorithm="descent", steps=3, schedule=lf.schedules.backtracking(0.5)))
    with pytest.raises(ValueError, match=r"the proof has momentum 0\.5"):
        cert.check(lf.enclose(f, net, algorithm="descent", steps=3, momentum=0.5, **kind))
    with pytest.raises(ValueError, match="certify the objective and network that were enclosed"):
        cert.check(lf.enclose(f, [1.1 * W for W in net.weights], algorithm="descent", steps=3, **kind))


@pytest.mark.parametrize(("what", "said"), [(None, "None"), ([1.0], "a list"), (3, "an int"), ("run", "a str")])
def test_what_is_neither_a_run_nor_a_proof_is_refused(what, said):
    _, _, cert, _ = proved()
    with pytest.raises(TypeError, match=f"run is {said}; a run .* or a proof of one"):
        cert.check(what)


def stepped(low=(4.0, 2.0, 1.0), high=(4.0, 3.0, 1.5), eta=0.5, until=(2, 2)):
    """A proof of two steps of which every bound is given."""
    return SimpleNamespace(
        step_size=eta,
        optimizer=lf.Optimizer(),
        t=eta * np.arange(len(low)),
        gap_bounds=lambda k: (np.array(low)[k], np.array(high)[k]),
        steps_bounds=lambda fraction: until,
    )


def promised_steps(*curves, eta=0.5, rate=lambda gap: 0.0):
    certificate = promised(*curves, rate=rate)
    certificate.algorithm, certificate.step_size, certificate.schedule = "descent", eta, None
    certificate.steps_to = lambda fraction: 100 * fraction
    return certificate


def test_the_rate_of_a_proved_step_is_that_of_its_farthest_gaps():
    # From at most 4 to at least 2 in ½, and from at most 3 to at least 1.
    rates = 2 * np.log([2.0, 3.0])
    for part, slack in ((lambda y: rates[0], 1.0), (lambda y: y / 4 * rates[1], 4 * rates[0] / rates[1] / 4)):
        check = check_steps(promised_steps(rate=part), stepped())
        assert check.worst_slack == pytest.approx(slack, rel=1e-15)
    check = check_steps(promised_steps(rate=lambda y: 2.0 if y > 3 else 0.1), stepped())
    assert check.violation == Violation("rate", 0.0, "rate", pytest.approx(rates[0], rel=1e-15), 2.0)
    check = check_steps(promised_steps(rate=lambda y: 3.0 if y == 3 else 0.1), stepped())
    assert check.violation == Violation("rate", 0.5, "rate", pytest.approx(rates[1], rel=1e-15), 3.0)
    # A gap that may be 0 has any rate.
    assert check_steps(promised_steps(rate=lambda y: 1e9), stepped(low=(4.0, 0.0, 0.0))).worst_slack == np.inf


def test_the_gaps_of_proved_steps_are_compared_at_their_times():
    check = check_steps(promised_steps(lambda t: [4.0, 2.0, 0.5][round(2 * t)]), stepped())
    assert check.violation == Violation("row 0", 1.0, "loss gap", 1.0, 0.5) and check.worst_gap == 2.0
    assert check.time_ratios == {x: 100 * x / 2 for x in (1e-2, 1e-4, 1e-6)}
    assert np.isnan(check_steps(promised_steps(), stepped(until=(2, np.inf))).time_ratios[1e-2])
    assert np.isnan(check_steps(promised_steps(), stepped(until=(0, 2))).time_ratios[1e-2])


def test_a_proof_without_a_step_is_one_of_any_schedule():
    certificate = promised_steps(eta=None)
    certificate.schedule = lf.schedules.backtracking(0.5)
    assert check_steps(certificate, stepped(low=(4.0,), high=(4.0,), until=(1, np.inf))).holds


def test_of_many_steps_some_are_looked_at_each_alone():
    # Two in three steps halve the gap, the third leaves it.
    gaps = 4.0 * 0.5 ** np.array([k - k // 3 for k in range(401)])
    check = check_steps(promised_steps(rate=lambda y: 1.0), stepped(low=gaps, high=gaps))
    k = np.unique(np.linspace(0, 400, 200).round().astype(int))[:-1]
    rates = np.log(gaps[k] / gaps[k + 1]) / 0.5
    assert check.worst_slack == rates.min() == 0.0  # over more than one step, none has the rate 0
    first = int(k[np.argmin(rates)])
    assert check.violation == Violation("rate", 0.5 * first, "rate", 0.0, 1.0)
