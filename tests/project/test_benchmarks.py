"""The benchmark's own logic on toys: search, error, budget, table. No other solver, and no time, is asserted."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks import bench, table
from benchmarks.environment import THREADS, environment
from benchmarks.measure import Cell, Settings, _time_all, floor, measure
from benchmarks.problems import TASKS, Problem, deep_orthogonal, flops, from_right, gaussian, small_start
from benchmarks.reference import Reference, cross_check, grid, reference
from benchmarks.search import Trial, best, search
from benchmarks.solvers import HALF_DECADES, SOLVERS, Entry
from benchmarks.solvers.linflow_ import Linflow
from benchmarks.solvers.numpy_field import Field
from benchmarks.solvers.proof import Proof
from benchmarks.solvers.toy import TIGHT
from benchmarks.solvers.toy import evaluations as toy_evaluations
from benchmarks.worker import LATE, StoppedError, Worker
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import linflow as lf
from linflow.dynamics.field import GradientField
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
LADDER = tuple(10.0**-k for k in range(10))
SHAPES = [(3, 4), (3, 7, 2), (2, 7, 3), (5, 4, 3, 2), (2, 3, 4, 5), (1, 1, 1), (4, 2, 6, 3, 4)]


def toy(method, ladder=LADDER, first=4, **rest):
    return Entry("toy", "benchmarks.solvers.toy", method, ladder, first, **rest)


def toys(count=1):
    """Problems whose scale is the factor of the error, and the true curve."""
    problems = [Problem((np.ones((1, 1)),), float(i + 1), np.zeros((1, 1)), 0.5) for i in range(count)]
    t = np.linspace(0.0, 2.0, 9)
    return problems, Reference(t[1:], t, -t)


# The search


@given(
    first=st.integers(0, 9),
    power=st.sampled_from([0.3, 1.0, 2.5]),
    factor=st.floats(1e-3, 1e3),
    error=st.floats(1e-9, 0.5),
    wall=st.integers(0, 10),
)
def test_search_finds_what_a_full_scan_does(first, power, factor, error, wall):
    def run(tolerance):
        if LADDER.index(tolerance) >= wall:
            return Trial(tolerance, 1.0, stopped="> 1 s")
        return Trial(tolerance, 1.0, factor * tolerance**power, round(1 / tolerance))

    trials = search(LADDER, first, error, run, stops=len(LADDER))
    assert len({trial.tolerance for trial in trials}) == len(trials) <= len(LADDER)
    scan = [run(tolerance) for tolerance in LADDER]
    assert best(trials, error) == best(scan, error)
    if best(trials, error) is None:  # then the last that could be and the first that could not were tried
        assert {wall - 1, wall} & set(range(10)) <= {LADDER.index(trial.tolerance) for trial in trials}


def test_search_leaps_over_what_the_first_run_tells():
    tried = []

    def run(tolerance):
        tried.append(tolerance)
        return Trial(tolerance, 1.0, 3 * tolerance, 1)

    search(HALF_DECADES, 0, 1e-9, run)
    assert tried == [1e-2, 3.16e-10, 1e-9]


def test_search_gives_up_where_looser_tolerances_take_as_long():
    trials = search(LADDER, 8, 1e-3, lambda tolerance: Trial(tolerance, 1.0, stopped="> 1 s"))
    assert [trial.tolerance for trial in trials] == [LADDER[8], LADDER[3]]
    assert best(trials, 1e-3) is None


def test_search_goes_on_slowly_from_runs_that_failed():
    def run(tolerance):
        return Trial(tolerance, 1.0, math.inf if tolerance > 1e-5 else 1e-9, round(1 / tolerance))

    trials = search(LADDER, 0, 1e-3, run)
    assert [LADDER.index(trial.tolerance) for trial in trials] == [0, 3, 6, 4, 5]


def test_the_loosest_tolerance_may_do():
    trials = search(LADDER, 5, 2.0, lambda tolerance: Trial(tolerance, 1.0, tolerance, round(1 / tolerance)))
    assert best(trials, 2.0).tolerance == 1.0


def test_best_ignores_wrong_and_stopped_trials():
    wrong, right, dear = Trial(1e-1, 1.0, 0.2, 1), Trial(1e-2, 9.0, 0.02, 5), Trial(1e-3, 1.0, 0.002, 9)
    assert best([dear, wrong, right, Trial(1e-4, 0.0, 0.0, 0, "> 1 s")], 0.1) is right
    assert best([wrong], 0.1) is None


# Problems and fields


@pytest.mark.parametrize("widths", SHAPES)
def test_the_field_is_that_of_the_library(widths, rng):
    problem = gaussian(widths, 1e-3, 5)
    net = lf.Network(list(problem.weights), scale=problem.scale)
    f = lf.MatrixFactorization(problem.target)
    field = Field(problem)
    y = rng.standard_normal(problem.size)
    point = GradientField(f, net).at(y)
    # Sums of a few dozen products of numbers of order one.
    np.testing.assert_allclose(field(0.0, y), point.slope, rtol=0, atol=1e-12 * np.linalg.norm(point.slope))
    assert field.log_gap(y) == pytest.approx(
        math.log(point.gap), abs=1e-13 * max(1, abs(math.log(point.gap))) + 1e-12
    )
    assert problem.log_gap(problem.weights) == pytest.approx(math.log(f.gap(net.product())), abs=1e-12)


def test_the_field_returns_a_new_array_each_time():
    problem = gaussian((3, 4, 2), 1e-3, 0)
    field, y = Field(problem), problem.flat()
    first = field(0.0, y)
    kept = first.copy()
    field(0.0, 2 * y)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("widths", [w for w in SHAPES if len(w) > 2])
def test_flops_are_counted_by_hand(widths):
    def count(w):  # products from the right, one by one
        columns, total = w[-1], 0
        for l in range(len(w) - 2):
            total += 2 * w[l] * w[l + 1] * columns  # W_l S_l
            total += 2 * w[l] * w[l + 1] * columns  # W_lᵀ A_l
            total += 2 * w[l] * columns * w[l + 1]  # A_l S_lᵀ
        return total

    assert flops(widths) == min(count(widths), count(widths[::-1]))
    assert from_right(widths) == (count(widths) <= count(widths[::-1]))


def test_problems_are_what_their_titles_say():
    assert TASKS["T1"].build(0).widths == (20, 30, 5)
    for widths in ((20, 30, 5), (10, 100, 100, 10)):
        p = gaussian(widths, 1e-10, 0)
        assert p.scale == pytest.approx(np.prod(widths[1:-1]) ** -0.5)
        assert np.linalg.norm(p.target) == pytest.approx(0.1)
    p = deep_orthogonal(0)
    assert len(p.weights) == 6
    for W in p.weights:
        np.testing.assert_allclose(W.T @ W, 0.25 * np.eye(10), atol=1e-14)  # rounding of a QR
    np.testing.assert_allclose(np.linalg.svd(p.target)[1], np.linspace(1.5, 0.5, 10), atol=1e-14)
    product = np.linalg.multi_dot(p.weights)
    assert np.linalg.slogdet(product)[0] == np.linalg.slogdet(p.target)[0]
    np.testing.assert_allclose(np.linalg.svd(small_start(1e-8, 0).target)[1][:4], [3, 2, 1, 0], atol=1e-14)
    again = TASKS["T3"].build(0)
    np.testing.assert_array_equal(again.flat(), TASKS["T3"].build(0).flat())
    assert TASKS["T6"].checked_seeds()[:2] == [0, 55]
    assert TASKS["T6"].checked_seeds()[-1] == 499


# References and error


def test_the_reference_ends_at_the_target_and_another_solver_agrees():
    problem = gaussian((3, 6, 2), 1e-4, 1)
    curve = reference(problem, 1e-13)
    # The run lands on the target to rounding of the logarithm.
    assert curve.log_gap[-1] - curve.log_gap[0] == pytest.approx(math.log(1e-4), abs=1e-9)
    assert curve.end == curve.nodes[-1]
    assert cross_check(problem, curve) < 1e-8  # both integrate to about 1e-13 a step and know the loss to 1e-12
    field = Field(problem)
    at = np.linspace(0, curve.end, 37)
    run = solve_ivp(field, (0, curve.end), problem.flat(), method="Radau", t_eval=at, rtol=1e-10, atol=1e-12)
    # Radau's cubic between its steps, at its tolerance.
    assert curve.error(run.t, np.array([field.log_gap(y) for y in run.y.T])) < 1e-4


@pytest.mark.parametrize("size", [1, 10**5, 10**9])
def test_the_grid_increases_to_the_end(size):
    t = grid(3.0, size)
    assert t[0] == pytest.approx(3e-4)
    assert t[-1] == 3.0
    assert np.all(np.diff(t) > 0)
    assert 8 <= len(t) <= 160


def test_error_is_the_largest_and_infinite_where_the_run_failed():
    _, curve = toys()
    t = np.linspace(0, 2, 50)
    # The spline of a straight line is that line to rounding.
    assert curve.error(t, -t + 1e-3 * np.sin(t)) == pytest.approx(1e-3 * np.max(np.sin(t)), rel=1e-9)
    assert curve.error(t, np.where(t > 1, np.nan, -t)) == math.inf
    assert curve.error(t[:-5], -t[:-5]) == math.inf
    assert curve.error(t[:0], t[:0]) == math.inf


def test_linflow_is_as_right_as_asked():
    problem = gaussian((3, 6, 2), 1e-4, 1)
    curve = reference(problem, 1e-13)
    errors = []
    for tolerance in (1e-4, 1e-7):
        t, log_gap, evaluations = Linflow().run(problem, curve.t, tolerance)
        assert evaluations > 0
        errors.append(curve.error(t, log_gap))
    # A step errs by at most its tolerance, and there are some tens of steps.
    assert errors[0] < 1e-2
    assert errors[1] < 1e-5


def test_the_proved_curve_is_above_the_flow_and_near_it():
    problem = gaussian((3, 6, 2), 1e-4, 1)
    curve = reference(problem, 1e-13)
    t, log_gap, steps = Proof().run(problem, curve.t, 1.0)
    assert 3 < steps < len(t) + 3 and t[-1] == curve.end and np.all(np.diff(t) > 0)
    assert curve.error(t, log_gap) < 1e-7
    run = lf.gradient_flow(
        lf.MatrixFactorization(problem.target), lf.Network(problem.weights, problem.scale), t_max=1, rtol=1e-13
    )
    early = t <= 1
    assert np.all(log_gap[early] >= np.log(run.gap_at(t[early])) - 1e-11)  # the error of the run


# Measuring, in a worker


def test_measure_finds_the_loosest_tolerance_and_repeats_it():
    problems, curve = toys()
    said = []
    ballast = np.ones(2**26)  # half a gigabyte here is none of the worker's
    cell = measure("T", "toy", toy("good"), problems, {0: curve}, Settings(3e-5, PATIENCE, 2, 0.5), said.append)
    assert (cell.tolerance, cell.note, cell.extrapolated) == (1e-5, None, False)
    assert cell.error == pytest.approx(1e-5, rel=1e-6)
    assert cell.evaluations == toy_evaluations(1e-5)
    assert cell.seconds <= min(trial.seconds for trial in cell.trials if trial.tolerance == 1e-5)
    assert cell.setup > 0
    assert 2**20 < cell.peak < ballast.nbytes
    assert said[0] == "starts"
    assert said[-1] == "is timed"


class Decided(Worker):
    """A worker whose time runs out at the tolerances at which the slow toy never ends, and at no other."""

    def _ask(self, message, budget):
        tolerance, pipe = message[0], self.pipe
        endless = isinstance(tolerance, float) and tolerance < TIGHT
        self.pipe = SimpleNamespace(
            send=pipe.send, recv=pipe.recv, close=pipe.close, poll=lambda _: pipe.poll(0 if endless else PATIENCE)
        )
        try:
            return super()._ask(message, budget)
        finally:
            if self.pipe is not None:
                self.pipe = pipe


def test_a_solve_beyond_its_budget_is_ended_and_looser_ones_are_still_tried(monkeypatch):
    monkeypatch.setattr("benchmarks.measure.Worker", Decided)
    problems, curve = toys()
    cell = measure("T", "toy", toy("slow", first=3), problems, {0: curve}, Settings(1e-5, 0.3, 1, 0.0))
    assert cell.seconds is None
    assert cell.note == f"{LATE}0.3 s"
    assert cell.error == pytest.approx(0.01, rel=1e-6)
    assert [trial.tolerance for trial in cell.trials] == [1e-3, 1e-1, 1e-2]
    assert best(cell.trials, 0.05).tolerance == 1e-2


@pytest.mark.parametrize(
    ("method", "note"),
    [("broken", "ArithmeticError: no"), ("dies", "the process died"), ("nan", "not reached")],
)
def test_a_solver_that_fails_says_how(method, note):
    problems, curve = toys()
    cell = measure("T", "toy", toy(method, LADDER[:4], 3), problems, {0: curve}, Settings(1e-5, PATIENCE, 1, 0.0))
    assert (cell.seconds, cell.note) == (None, note)


def test_many_problems_are_timed_together_and_scaled_where_too_slow():
    problems, curve = toys(5)
    references = {0: curve, 4: curve}
    cell = measure("T", "toy", toy("good"), problems, references, Settings(3e-5, PATIENCE, 1, 0.0))
    assert (cell.tolerance, cell.extrapolated) == (1e-6, False)  # the last problem errs five times as much
    assert cell.error == pytest.approx(5e-6, rel=1e-6)
    assert cell.evaluations == 5 * toy_evaluations(1e-6)
    worker = SimpleNamespace(run=lambda *_: pytest.fail("it would take too long"))
    slow = Cell("T", "toy", 1e-5)
    _time_all(slow, worker, Trial(1e-6, 10.0, 5e-6, 200), 2, 5, Settings(budget=20))
    assert (slow.seconds, slow.evaluations, slow.extrapolated) == (25.0, 500, True)


def test_square_work_space_is_not_tried():
    problem = Problem((np.zeros((200, 100)),), 1.0, np.zeros((200, 100)), 0.5)
    cell = measure("T", "toy", toy("broken", quadratic=True), [problem], {}, Settings())
    assert cell.note == "needs 3 GB"  # 8 · 20000²


def test_a_worker_starts_anew_after_it_was_ended():
    problems, curve = toys()
    worker = Worker(toy("slow"), problems, [curve.t])
    try:
        worker.start()
        with pytest.raises(StoppedError, match=LATE):
            worker.run(1e-4, [0], False, 0.2)
        assert worker.run(1e-1, [0], True, PATIENCE).curves[0][0] == pytest.approx(curve.t)
    finally:
        worker.stop()


def test_a_worker_ends_with_the_process_that_started_it():
    code = """if True:
        import numpy as np
        from benchmarks.problems import Problem
        from benchmarks.solvers import Entry
        from benchmarks.worker import Worker
        problem = Problem((np.ones((1, 1)),), 1.0, np.zeros((1, 1)), 0.5)
        worker = Worker(Entry("toy", "benchmarks.solvers.toy", "slow", (1e-3,), 0), [problem], [np.ones(1)])
        worker.start()
        print(worker.process.pid, flush=True)
        worker.run(1e-3, [0], False, 1e6)
    """
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        try:
            pid = int(parent.stdout.readline())
            parent.kill()
            # The pipe closes when the last that holds it is gone, and the solve of the worker never ends.
            parent.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the worker lives on")


# The table


def cells():
    return [
        Cell("T1", "linflow", 1e-5, 2e-3, 3e-6, 600, 1e-4, setup=1.5, peak=2 * 10**8, floor=4e-4),
        Cell("T1", "dop853", 1e-5, 3e-2, 2e-6, 900, 1e-9, setup=0.5, peak=10**8),
        Cell(
            "T1",
            "descent",
            1e-2,
            note="> 30 s",
            error=0.1,
            trials=[Trial(1.0, 1.0, 0.1, 9), Trial(0.5, 30.0, stopped="> 30 s")],
        ),
        Cell("T6", "dop853", 1e-5, 12.0, math.inf, 9000, extrapolated=True),
        Cell("T6", "lsoda", 1e-5, note="needs 5 GB"),
    ]


def test_the_table_has_ratios_to_linflow_and_says_what_is_missing():
    made = table.rows(cells(), {"dop853": "SciPy DOP853"})
    assert made[0] == ("T1", "linflow", "2.00 ms", "3e-06", "600", "1.00", "1.50 s", "200 MB", "400 µs")
    assert made[1][:6] == ("", "SciPy DOP853", "30.0 ms", "2e-06", "900", "15.0")
    assert made[2][2:6] == ("> 30 s", "1e-01", "–", "> 15000")
    assert made[3][:6] == ("T6", "SciPy DOP853", "~12.0 s", "failed", "~9000", "–")
    assert made[4][2] == "needs 5 GB"


def test_columns_are_aligned():
    lines = table.render(cells(), {}).splitlines()
    assert lines[0].split() == list(table.HEADER)
    rows = [line for line in lines[1:] if not line.startswith("─")]
    assert len(rows) == 5
    assert len(lines) == 8
    end = lines[0].index("error") + len("error")
    assert {row[:end].rstrip()[-1] for row in rows[:3]} <= set("0123456789")
    assert {len(row[:end].rstrip()) for row in rows[:4]} == {end}


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (123.4, "123 s"), (1.0, "1.00 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.50 µs")]
)
def test_durations_have_three_digits(seconds, text):
    assert table.duration(seconds) == text


def test_floor_is_evaluations_times_flops_over_the_peak():
    problem = gaussian((20, 100, 5), 1e-10, 0)
    cell = Cell("T2", "linflow", 1e-5, 1.0, 1e-6, 1000)
    assert floor(cell, problem, 1e9) == pytest.approx(1000 * 6 * 20 * 100 * 5 / 1e9)
    assert floor(cell, problem, 1e9, reduced=True) == pytest.approx(1000 * 6 * 20 * 25 * 5 / 1e9)  # h = n + m
    assert floor(Cell("T1", "linflow", 1e-5), problem, 1e9) is None


def test_the_file_of_results_is_strict_json(tmp_path):
    here = environment()
    path = table.save(tmp_path / "new", {"environment": here}, cells())
    assert table.save(tmp_path / "new", {"environment": here}, cells()) != path
    assert len(list(path.parent.iterdir())) == 2
    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert found["cells"][3]["error"] is None
    assert found["cells"][2]["trials"][1]["stopped"] == "> 30 s"
    assert found["environment"]["versions"]["numpy"] == np.__version__
    assert found["environment"]["threads"] == THREADS
    assert found["environment"]["processor"]


# The command


def test_the_command_runs_a_toy_task_from_end_to_end(tmp_path, capsys, monkeypatch):
    task = TASKS["T1"]
    small = type(task)("a toy", lambda seed: gaussian((3, 4, 2), 1e-3, seed))
    monkeypatch.setattr(bench, "TASKS", {"T0": small})
    assert bench.main(["--solvers", "linflow,dop853", "--quick", "--tasks", "T0", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "a toy; the reference and SciPy at 1e-13 differ by" in text
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [cell["solver"] for cell in found["cells"]] == ["linflow", "dop853"]
    assert all(cell["error"] <= 1e-5 for cell in found["cells"])
    assert found["cells"][0]["floor"] > 0
    assert found["cross_checks"]["T0"] < 1e-8  # as for a reference


@pytest.mark.parametrize(
    "wrong", [["--tasks", "T1,T9"], ["--solvers", "euler"], ["--error", "2"], ["--budget", "0"], ["--tasks", ","]]
)
def test_wrong_arguments_are_named(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.arguments(wrong, list(TASKS), list(SOLVERS))
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err
