"""Ctrl-C in a sweep, once and again, and cells that take long: no row that has come is lost, or waits for another.

The engine is a pretended one and so are the clocks, where one matters: what happens when is said here.
"""

import errno
import signal
import threading
from types import SimpleNamespace

import pytest

from linflow.sweeps import cells, driver, read_grid, read_results, store, sweep_status
from linflow.sweeps.cells import Answer, Cell, Task, run_task
from linflow.sweeps.driver import Stopped, run_sweep
from linflow.sweeps.interrupts import held_back
from linflow.sweeps.store import Store
from linflow.sweeps.work import Work
from tests.sweeps.test_sweep import grid_of


@pytest.fixture
def terminal():
    """Ctrl-C is heard, as on a terminal: it may be ignored where the suite runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Clock:
    """A clock that stands still but where it is set."""

    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now


class Scripted:
    """An engine of one process, of which each wait is a step of a script: a function of the engine."""

    workers, waiting = 1, False

    def __init__(self, *script):
        self.script, self.tasks, self.closed, self.notes = list(script), [], 0, []

    def submit(self, task):
        self.tasks.append(task)

    def wait(self, seconds):
        step = self.script.pop(0) if self.script else Scripted.answer
        return step(self) or []

    def answer(self):
        """Compute what was given first."""
        task = self.tasks.pop(0)
        return [(task, run_task(task))]

    def close(self):
        self.closed += 1


def swept(monkeypatch, folder, *script, grid=None):
    engine = Scripted(*script)
    monkeypatch.setattr(driver, "_engine", lambda *_: engine)
    try:
        return engine, run_sweep(read_grid(grid or grid_of()), folder, workers=1)
    finally:
        assert engine.closed == 1


def press(*_):
    signal.raise_signal(signal.SIGINT)


def test_rows_are_written_while_the_next_cell_takes_long(tmp_path, monkeypatch):
    clock, seen = Clock(), []
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=clock, time=clock))

    def later(seconds):
        def step(_):
            clock.now += seconds
            seen.append(sweep_status(tmp_path).done)

        return step

    # The row has come, and nothing comes after it: it is written when it is time and no answer is needed for that.
    swept(monkeypatch, tmp_path, Scripted.answer, later(0.5), later(store.SOON), later(1.0))
    assert seen == [0, 0, 1]


def test_ctrl_c_while_an_answer_is_kept_loses_no_row(tmp_path, monkeypatch, terminal):
    def both(engine):
        press()
        found = engine.answer()
        press()
        return found

    write = store.write_table

    def pressed(*words):
        press()
        write(*words)
        press()

    monkeypatch.setattr(store, "write_table", pressed)
    with pytest.raises(Stopped, match="interrupted; 2 of 6 cells are kept"):
        swept(monkeypatch, tmp_path, Scripted.answer, both)
    assert sweep_status(tmp_path).done == read_results(tmp_path).num_rows == 2
    monkeypatch.undo()
    assert run_sweep(read_grid(grid_of()), tmp_path, workers=1).computed == 4


@pytest.mark.parametrize("where", ["submit", "close", "next", "look"])
def test_ctrl_c_anywhere_else_in_the_loop_loses_no_row(where, tmp_path, monkeypatch, terminal):
    owner = Work if where in ("next", "look") else Scripted
    method, calls = getattr(owner, where), []

    def pressed(self, *words):
        calls.append(where)
        if where == "close" or len(calls) == 4:
            press()
            press()
        return method(self, *words)

    monkeypatch.setattr(owner, where, pressed)
    with pytest.raises(Stopped) as caught:
        swept(monkeypatch, tmp_path)
    done = sweep_status(tmp_path).done
    assert done > 0
    assert caught.value.kept.startswith(f"interrupted; {done} of 6 cells are kept")


def test_rows_are_written_where_the_disk_was_full_for_a_moment(tmp_path, monkeypatch):
    """What has come is tried again as the sweep ends, and what ended it is told."""
    write, calls = store.write_table, []

    def full_once(*words):
        calls.append(words)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*words)

    monkeypatch.setattr(store, "write_table", full_once)
    with pytest.raises(OSError, match="there is no room left"):
        swept(monkeypatch, tmp_path)
    assert sweep_status(tmp_path).done == 6


def test_ctrl_c_is_held_back_and_heard_once(terminal):
    def twice():
        with held_back() as heed:
            heed()
            press()
            press()
            heed()

    def untold():
        with held_back():
            press()

    def other():
        with held_back():
            press()
            raise KeyError

    for run, expected in ((twice, KeyboardInterrupt), (untold, KeyboardInterrupt), (other, KeyError)):
        with pytest.raises(expected):
            run()
        with held_back() as heed:
            heed()  # it is gone
    with pytest.raises(KeyboardInterrupt):
        press()  # as before


def test_ctrl_c_that_is_ignored_or_not_for_this_thread_is_left_alone(terminal):
    handlers = []

    def elsewhere():
        with held_back() as heed:
            handlers.append(signal.getsignal(signal.SIGINT))
            heed()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held_back() as heed:
        press()
        heed()


def test_a_handler_of_the_user_hears_it_between_two_answers(tmp_path, monkeypatch, terminal):
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(sweep_status(tmp_path).done))
    engine, summary = swept(monkeypatch, tmp_path, press, press)
    assert (len(heard), summary.computed, engine.tasks) == (2, 6, [])


def test_a_task_that_takes_long_hands_over_what_it_has(tmp_path, monkeypatch):
    clock = Clock()
    seconds = iter([0.1, cells.ENOUGH, 50.0])
    run = cells.run_cell

    def slow(cell, **options):
        clock.now += next(seconds)
        return run(cell, **options)

    monkeypatch.setattr(cells, "time", SimpleNamespace(perf_counter=clock, time=clock))
    monkeypatch.setattr(cells, "run_cell", slow)
    grid = read_grid(grid_of()).placed(tmp_path)
    work = Work(grid, Store(tmp_path), None, retry=False, place=0)
    task = Task(tuple(Cell.of(grid, i) for i in range(5)))
    first = run_task(task)
    assert [row["id"] for row in first.rows] == [cell.id for cell in task.cells[:2]]
    assert first.seconds == pytest.approx(0.1 + cells.ENOUGH, rel=1e-6)  # the clock stands at 1e9
    # The others are given again, one at a time now, and before what was never given.
    work._given[:5] = True
    work.answer(task, first)
    assert (work.missing, work.computed) == (4, 2)
    work._each = 100.0
    given = [work.next(1).cells for _ in range(4)]
    assert given == [(Cell.of(grid, i),) for i in (2, 3, 4, 5)]
    assert work.next(1) is None


def test_a_sweep_of_cells_that_take_long_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "ENOUGH", 0.0)  # every task hands over after one cell
    monkeypatch.setattr("linflow.sweeps.work.AIM", 1e9)  # and has all that there are
    engine, summary = swept(monkeypatch, tmp_path, grid=grid_of(grid={"seeds": 12}))
    assert (summary.computed, summary.failed, engine.tasks) == (12, 0, [])
    assert read_results(tmp_path)["seed"].to_pylist() == list(range(12))


def test_a_row_has_the_times_of_the_clocks(tmp_path, monkeypatch):
    clock = Clock()

    def run(setup, deadline):
        clock.now += 7.5
        return setup.run()

    monkeypatch.setattr(cells, "time", SimpleNamespace(perf_counter=lambda: clock.now, time=lambda: clock.now + 1.0))
    monkeypatch.setattr(cells, "_run", run)
    row = cells.run_cell(Cell.of(read_grid(grid_of()).placed(tmp_path), 0))
    assert (row["status"], row["seconds"], row["finished"]) == ("ok", 7.5, 1e9 + 8.5)


@pytest.mark.parametrize("algorithm", ["flow", "descent"])
def test_the_time_limit_is_looked_at_during_a_run(algorithm, tmp_path, monkeypatch):
    ticks = iter(range(10**9))
    monkeypatch.setattr(cells, "time", SimpleNamespace(perf_counter=lambda: next(ticks), time=lambda: 0.0))
    grid = read_grid({**grid_of(), "algorithm": algorithm}).placed(tmp_path)
    # Each look at the clock is a second: begun at 0, looked at after the certificate at 1, and then in the run.
    row = cells.run_cell(Cell.of(grid, 0), time_limit=1.5)
    assert (row["failure"], row["reason"]) == ("time limit", "it took longer than the limit of 1.5 s")
    ticks = iter(range(10**9))
    assert cells.run_cell(Cell.of(grid, 0), time_limit=1e12)["status"] == "ok"
    assert isinstance(run_task(Task((Cell.of(grid, 0),))), Answer)
