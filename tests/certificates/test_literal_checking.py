"""A certificate set against a run, written out: runs and promises of which every number is given."""

import contextlib
import math
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow._support.arrays import EPS
from linflow.certificates import Violation
from linflow.certificates.curves import StepCurve
from linflow.model.optimizer import PLAIN

checking = import_module("linflow.certificates.checking")
OVER = 1e-9  # what an observed value is granted


def run_of(gap=(4.0, 2.0, 1.0), rate=(8.0, 6.0, 4.0), t=(0.0, 1.0, 2.0), *, error=0.0, times=1.0, **more):
    plain = {"optimizer": PLAIN, "algorithm": "flow"}
    more = plain | {"step_size": None, "step_sizes": None, "final": "end"} | more
    return SimpleNamespace(
        t=np.array(t),
        gap=np.array(gap),
        rate=np.array(rate),
        stats=SimpleNamespace(gap_error=error),
        time_to=lambda until: times,
        **more,
    )


def row(gap_at=lambda t: 9.0, name="row", curve=None, applies=True, gap=4.0):
    return SimpleNamespace(
        name=name,
        gap_at=gap_at,
        gap_after=lambda k: min(gap, curve.gap_after(k)),
        curve=curve,
        applies=applies,
        gap=gap,
    )


def promise(*rows, rate=lambda gap: 0.0, gap=4.0, noise=None, derived=True, minimum=0.0, **more):
    noise = {"start": 0.0, "end": 0.0} if noise is None else noise
    plain = {"optimizer": PLAIN, "imbalance": None, "algorithm": "flow"}
    more = plain | {"step_size": None, "schedule": None} | more
    return SimpleNamespace(
        objective=SimpleNamespace(rounding=noise.get, derived=derived, minimum=minimum),
        start="start",
        gap=gap,
        guarantees=tuple(rows),
        rate_at=rate,
        time_to=lambda until: 10 * until,
        steps_to=lambda until: 1000 * until,
        **more,
    )


def check(certificate, run):
    return checking.check_run(certificate, run)


# --- flows ---------------------------------------------------------------------------------------------------------


def test_the_least_rate_and_the_greatest_gap_over_what_is_promised():
    found = check(promise(row(lambda t: [8.0, 2.0, 4.0][int(t)]), rate=lambda y: 2 * y), run_of())
    assert found.holds and (found.worst_gap, found.worst_slack) == (pytest.approx(1.0, rel=1e-14), 1.0)
    found = check(promise(row(), row(lambda t: 5.0), rate=lambda y: y), run_of())
    assert found.holds and (found.worst_gap, found.worst_slack) == (0.8, 2.0)
    # Where no rate is promised any rate will do, and rows that do not apply promise nothing.
    found = check(promise(row(lambda t: 0.1, applies=False), rate=lambda y: 0.5 if y == 2 else 0.0), run_of())
    assert found.holds and (found.worst_gap, found.worst_slack) == (0.0, 12.0)
    assert check(promise(), run_of(rate=(0.0, 0.0, 0.0))).worst_slack == math.inf
    assert check(promise(rate=lambda y: -1.0), run_of()).worst_slack == math.inf
    # A gap of 0 has no rate, and breaks no promise, not even that of a gap of 0.
    found = check(promise(row(lambda t: [4.0, 2.0, 0.0][int(t)]), rate=lambda y: y), run_of(gap=(4.0, 2.0, 0.0)))
    assert found.holds and found.worst_slack == 2.0
    found = check(promise(row(), gap=0.0), run_of(gap=(0.0, 0.0, 0.0)))
    assert found == checking.Check(True, math.inf, 0.0, None)
    assert not check(promise(row(lambda t: 0.0)), run_of()).holds


def test_the_first_promise_that_is_not_kept_is_told():
    slow, fast = (SimpleNamespace(rate_at=lambda y, r=r: r) for r in (1.0, 12.0))
    rows = (row(curve=slow, name="slow"), row(name="none"), row(curve=fast, name="fast"))
    faint = SimpleNamespace(rate_at=lambda y: 0.5)
    found = check(promise(row(name="none"), row(curve=faint, name="faint"), rate=lambda y: 3 * y), run_of())
    assert found.violation.guarantee == "faint"
    found = check(promise(*rows, rate=lambda y: 3 * y), run_of())
    assert found.violation == Violation("fast", 0.0, "rate", 8.0, 12.0) and not found.holds
    assert found.worst_slack == pytest.approx(2 / 3, rel=1e-14)
    found = check(promise(row(lambda t: [5.0, 1.5, 0.5][int(t)]), rate=lambda y: 0.0), run_of())
    assert found.violation == Violation("row", 1.0, "loss gap", 2.0, 1.5) and found.worst_gap == 2.0
    # Of several the earliest.
    late = row(lambda t: [9.0, 9.0, 0.5][int(t)], name="late")
    early = row(lambda t: [9.0, 1.0, 9.0][int(t)], name="early")
    found = check(promise(late, early, rate=lambda y: 5.0 if y == 1 else 0.0), run_of())
    assert found.violation.guarantee == "early"
    found = check(promise(late, row(name="r"), rate=lambda y: 12.0 if y == 2 else 0.0), run_of())
    assert found.violation == Violation("late", 1.0, "rate", 6.0, 12.0)  # the first of rows that promise no rate


@pytest.mark.parametrize(("error", "granted"), [(0.0, OVER), (1e-3, 1e-3 + OVER), (math.nan, OVER)])
def test_a_value_is_granted_a_billionth_and_the_error_of_the_run(error, granted):
    for part, holds in ((0.99, True), (1.01, False)):
        off = part * granted
        run = run_of(error=error)
        assert check(promise(row(lambda t, off=off: 4.0 / (1 + off))), run).holds is holds
        assert check(promise(row(), rate=lambda y, off=off: 8.0 / (1 - off) if y == 4 else 0.0), run).holds is holds


def test_a_gap_carries_the_rounding_of_a_square():
    """`(sqrt(y) ± 4 sqrt(ρ))²`, with ρ of the larger end."""
    for noise in ({"start": 1e-4, "end": 1e-6}, {"start": 1e-6, "end": 1e-4}):
        root = 4 * 1e-2
        least = (2.0 - root) ** 2
        for part, holds in ((1 - 1e-8, True), (1 - 1e-10, True), (1 + 1e-8, False)):
            bound = row(lambda t, part=part, least=least: least / part if t == 0 else 9.0)
            assert check(promise(bound, noise=noise), run_of()).holds is (holds or part < 1)
        bound = row(lambda t, least=least: least * (1 - 1e-8) if t == 0 else 9.0)
        found = check(promise(bound, noise=noise), run_of())
        assert found.violation == Violation("row", 0.0, "loss gap", 4.0, least * (1 - 1e-8))
        assert found.worst_gap == pytest.approx(1 + 1e-8, rel=1e-12)
    # A rounding past float64 excuses every gap, infinite ones, too.
    past = {"start": math.inf, "end": 0.0}
    assert check(promise(row(lambda t: 0.0), gap=math.inf, noise=past), run_of((math.inf, 2.0, 1.0))).holds
    # A gap that is rounding alone breaks nothing.
    assert check(
        promise(row(lambda t: 0.0), gap=1e-3, noise={"start": 1.0, "end": 0.0}), run_of((1e-3, 1e-4, 1e-5))
    ).holds


def test_what_a_user_s_objective_rounds_is_of_the_size_of_its_values():
    for derived, minimum, gap, expected in (
        (True, 7.0, 4.0, 0.0),
        (False, 7.0, 4.0, 8 * EPS * 11),
        (False, -7.0, 4.0, 8 * EPS * 11),
        (False, 7.0, -4.0, 8 * EPS * 11),
    ):
        certificate = promise(gap=gap, derived=derived, minimum=minimum)
        assert checking._noise(certificate, run_of()) == pytest.approx(expected, rel=1e-14, abs=0)
    certificate = promise(derived=False, noise={"start": 0.5, "end": 0.25})
    assert checking._noise(certificate, run_of()) == 0.5
    assert checking._noise(promise(noise={"start": 0.25, "end": 0.5}), run_of()) == 0.5


def test_a_run_of_another_start_is_refused():
    def begins(gap, noise=0.0, first=4.0):
        run, certificate = run_of((gap, gap / 2, gap / 4)), promise(gap=first, noise={"start": noise, "end": 0.0})
        with contextlib.suppress(ValueError):
            return check(certificate, run).holds
        with pytest.raises(ValueError, match=f"starts at a loss gap of {gap:.6g} and the certificate at {first:.6g}"):
            check(certificate, run)
        return False

    assert [begins(4 * (1 + x)) for x in (0.9e-9, -0.9e-9, 1.1e-9, -1.1e-9)] == [True, True, False, False]
    # Up to 4 sqrt(ρ) in the root.
    root = 4 * math.sqrt(1e-4)
    for sign in (1, -1):
        for part, same in ((0.999, True), (1.001, False)):
            assert begins((2 + sign * part * root) ** 2, 1e-4) is same
    assert begins(0.5e-300, first=1e-300) and not begins(2.5e-300, first=1e-300)
    with pytest.raises(ValueError, match=r"certificate is for the flow and the run is a descent"):
        check(promise(), run_of(algorithm="descent"))


def test_ratios_of_times_are_told_where_the_run_got_there():
    found = check(promise(), run_of(times=2.0))
    assert found.time_ratios == {x: pytest.approx(10 * x / 2.0, rel=1e-14) for x in (1e-2, 1e-4, 1e-6)}
    found = check(promise(), run_of(times=0.5))
    assert found.time_ratios == {x: pytest.approx(10 * x / 0.5, rel=1e-14) for x in (1e-2, 1e-4, 1e-6)}
    assert all(math.isnan(x) for x in check(promise(), run_of(times=math.inf)).time_ratios.values())
    assert set(check(promise(), run_of(times=0.0)).time_ratios.values()) == {math.inf}


# --- descents ------------------------------------------------------------------------------------------------------


def descent(**more):
    return run_of(**({"algorithm": "descent", "step_size": 0.5, "t": (0.0, 0.5, 2.5)} | more))


def of_descent(*rows, **more):
    return promise(*rows, **({"algorithm": "descent", "step_size": 0.5} | more))


def test_the_rate_of_a_descent_is_the_mean_between_two_records():
    rates = [math.log(2) / 0.5, math.log(2) / 2]
    found = check(of_descent(rate=lambda y: {4.0: 1.0, 2.0: 0.25, 1.0: 99.0}[y]), descent())
    assert found.holds and found.worst_slack == pytest.approx(min(rates[0] / 1.0, rates[1] / 0.25), rel=1e-12)
    found = check(of_descent(row(), rate=lambda y: {4.0: 1.0, 2.0: 0.5, 1.0: 99.0}[y]), descent())
    assert found.violation == Violation("row", 2.5, "rate", pytest.approx(rates[1]), 0.5)
    longer = descent(gap=(4.0, 2.0, 1.0, 0.25), rate=(1.0,) * 4, t=(0.0, 0.5, 2.5, 3.0))
    found = check(of_descent(rate=lambda y: {4.0: 1.0, 2.0: 0.25, 1.0: 1.0, 0.25: 9.0}[y]), longer)
    assert found.worst_slack == pytest.approx(min(rates[0], 4 * rates[1], math.log(4) / 0.5), rel=1e-12)
    # As large as rounding lets it be, and any at all where the later gap may be 0.
    noise = 1e-4
    root = 4 * math.sqrt(noise)
    ends = {"start": noise, "end": 0.0}
    found = check(of_descent(rate=lambda y: 1.0 if y == 4 else 0.0, noise=ends), descent())
    first = math.log((2 + root) ** 2 / (math.sqrt(2) - root) ** 2) / 0.5
    assert found.worst_slack == pytest.approx(first, rel=1e-12)
    run = descent(gap=(4.0, 2.0, 1e-3))
    assert check(of_descent(rate=lambda y: 1e9 if y == 2 else 0.0, noise=ends), run).worst_slack == math.inf
    assert check(of_descent(rate=lambda y: 1.0), descent(gap=(4.0, 0.0, 0.0))).worst_slack == math.inf


def test_only_a_record_of_several_steps_may_be_kept_as_the_promise_stands_at_its_end():
    # The last of three records of mean rate log(2)/Δ; promised is as much where the gap is 1, and less at its end.
    for step, last, several in ((0.5, 0.75, False), (0.5, 0.76, True), (2.0, 3.0, False), (2.0, 3.04, True)):
        t = (0.0, step, 2 * step, 2 * step + last)
        rate = math.log(2) / last

        def promised(y, rate=rate):
            return {4.0: 0.0, 2.0: 0.0, 1.0: 1.5 * rate, 0.5: 0.5 * rate}[y]

        run = descent(gap=(4.0, 2.0, 1.0, 0.5), rate=(1.0,) * 4, t=t, step_size=step)
        assert check(of_descent(row(), rate=promised, step_size=step), run).holds is several
    # Each by the promises at its own two ends.
    run = descent(gap=(4.0, 2.0, 1.0, 0.5), rate=(1.0,) * 4, t=(0.0, 1.0, 2.0, 3.0))
    for low in (4.0, 2.0, 1.0):  # no rate keeps 9, which the end of the interval lowers to 0
        found = check(of_descent(row(), rate=lambda y, low=low: 9.0 if y == low else 0.0), run)
        assert found.holds
    found = check(of_descent(row(), rate=lambda y: 9.0 if y in (2.0, 1.0) else 0.0), run)
    assert found.violation.t == 2.0


def test_a_descent_with_another_step_is_refused():
    for part, same in ((0.9e-12, True), (1.1e-12, False)):
        for sign in (1, -1):
            run = descent(step_size=0.5 * (1 + sign * part))
            if same:
                assert check(of_descent(), run).holds
            else:
                with pytest.raises(ValueError, match=r"constant step 0.5 and the run took the step 0.5; certify"):
                    check(of_descent(), run)
    with pytest.raises(ValueError, match=r"constant step 0.5 and the run took steps of a schedule"):
        check(of_descent(), descent(step_size=None))


# --- schedules -----------------------------------------------------------------------------------------------------

F, START = lf.MatrixFactorization(np.array([[2.0]])), lf.Network([np.array([[1.0]]), np.array([[0.5]])])
SIZES = (0.25, 0.5, 0.125, 0.125)
AFTER = np.cumsum((0.0, *SIZES))


def with_schedule(*rows, first=0.25, **more):
    certificate = of_descent(
        *rows, **({"step_size": None, "schedule": SimpleNamespace(step=lambda iterate: first)} | more)
    )
    certificate.objective = F
    certificate.start, certificate.gap = START, F.gap(START.product())
    return certificate


def of_schedule(places=(0, 1, 3), **more):
    first = F.gap(START.product())
    gaps = tuple(first / 2**k for k in range(len(places)))
    given = {"gap": gaps, "rate": (1.0,) * len(places), "t": AFTER[list(places)], "step_sizes": np.array(SIZES)}
    return descent(**(given | {"step_size": None, "final": START} | more))


def test_a_schedule_is_checked_by_the_number_of_steps_done():
    first = F.gap(START.product())
    # Half in one step, and a quarter in three: a factor of ½ and of 1/√2 a step at least.
    for decrease, holds in ((0.29, True), (0.2930, False)):
        rows = [row(None, curve=StepCurve(first, 0.1, decrease), gap=2 * first)]
        certificate = with_schedule(*rows)
        run = of_schedule((0, 1, 3), gap=(first, first / 2, first / 2))
        found = check(certificate, of_schedule((0, 1, 3), gap=(first, first * 0.6, first * (1 - 0.2929) ** 3)))
        assert found.holds is holds
    # Never above the gap of the start, and by time where the curve is another one.
    rows = [row(None, curve=StepCurve(9 * first, 0.1, 1e-9), gap=first)]
    assert check(with_schedule(*rows), of_schedule()).worst_gap == pytest.approx(1.0, rel=1e-12)
    seen = []
    check(with_schedule(row(lambda t: seen.append(t) or 99.0, curve=SimpleNamespace(rate_at=lambda y: 0.0))), run)
    assert seen == [0.0, 0.25, 0.875]
    # Records with a gap of 0 are left out together with their numbers.
    rows = [row(None, curve=StepCurve(first, 0.1, 0.5), gap=first)]
    found = check(with_schedule(*rows), of_schedule((0, 1, 2), gap=(first, 0.0, first / 4)))
    assert found.holds and found.worst_gap == pytest.approx(1.0, rel=1e-9)


def test_ratios_of_a_schedule_are_of_numbers_of_steps():
    found = check(with_schedule(), of_schedule(times=0.75))
    assert found.time_ratios == {x: pytest.approx(1000 * x / 2, rel=1e-14) for x in (1e-2, 1e-4, 1e-6)}
    assert checking.steps_taken(of_schedule(times=0.7), 0.1) == 2.0  # within the second step
    assert checking.steps_taken(of_schedule(times=0.0), 0.1) == 0.0
    assert checking.steps_taken(of_schedule(times=math.inf), 0.1) == math.inf


def test_a_run_of_another_schedule_is_refused():
    for part, same in ((0.9e-9, True), (1.1e-9, False)):
        certificate = with_schedule(first=0.25 * (1 + part))
        if same:
            assert check(certificate, of_schedule()).holds
        else:
            with pytest.raises(ValueError, match=r"whose first step is 0.25, and the run took 0.25; certify"):
                check(certificate, of_schedule())
    with pytest.raises(ValueError, match=r"and the run took 0.25 always; certify"):
        check(with_schedule(), of_schedule(step_size=0.25))
    with pytest.raises(ValueError, match=r"whose first step is 9, and the run took 0.25; certify"):
        check(with_schedule(first=9.0), of_schedule((0, 1), step_sizes=np.array([0.25])))
    # A run without a step is of any schedule.
    run = of_schedule((0,), step_sizes=np.array([]), step_size=0.25)
    assert check(with_schedule(first=9.0), run).holds


# --- imbalance -----------------------------------------------------------------------------------------------------

HEAVY = lf.Optimizer(friction=1.0)


@pytest.mark.parametrize(("error", "part"), [(0.0, OVER), (1e-3, OVER + 2e-3), (math.nan, OVER)])
def test_the_imbalance_at_the_end_is_granted_the_error_of_the_weights(error, part):
    """`2ε Σ‖W_l‖²` over both ends: 1 + 4 + 9 + 16 here."""
    ends = [SimpleNamespace(weights=[a * np.eye(1), b * np.eye(1)]) for a, b in ((1.0, 2.0), (3.0, 4.0))]
    law = SimpleNamespace(change_at=lambda t: {4.0: 0.5}[t])
    for drift, optimizer, holds in (
        (0.5 + 30 * part * 0.999, HEAVY, True),
        (0.5 + 30 * part * 1.001, HEAVY, False),
        (9.0, PLAIN, True),
    ):
        run = run_of(error=error, optimizer=optimizer, nodes=(np.array([0.0, 2.0, 4.0]), np.zeros(3)))
        run.start, run.final, run.stats.imbalance_drift = *ends, drift
        certificate = promise(imbalance=law, optimizer=optimizer)
        certificate.objective.rounding = lambda network: 0.0
        found = check(certificate, run)
        assert found.holds is holds
        if not holds:
            assert found.violation == Violation("imbalance", 4.0, "imbalance", drift, 0.5)
        assert check(promise(optimizer=optimizer), run_of(optimizer=optimizer)).holds  # nothing is said of it


@pytest.mark.parametrize("missing", [(), ("t",), ("gap",), ("rate",), ("stats",)])
def test_a_run_has_times_gaps_rates_and_numbers_of_its_own(missing):
    run = run_of()
    for name in missing:
        delattr(run, name)
    if not missing:
        assert checking.check(promise(), run).holds
    else:
        with pytest.raises(TypeError, match="run is a SimpleNamespace"):
            checking.check(promise(), run)


def test_bounds_after_many_steps_that_underflow_stay_above_zero():
    f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.gaussian((2, 60, 2), rng=0)
    best = lf.certify(f, net, algorithm="descent").best
    found = checking.guaranteed_gaps(best, np.array([0.0, 1.0, 1e9]), np.array([0, 1, 10**6]))
    assert found.tolist() == [best.gap, best.curve.gap_after(1), np.finfo(float).tiny]
    assert [best.gap_after(k) for k in (0, 1, 10**6)] == found.tolist()
    flow = lf.certify(f, net).best  # nothing is said of steps
    assert flow.gap_after(5) == flow.gap
