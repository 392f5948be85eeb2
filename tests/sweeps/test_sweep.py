"""Sweeps: what a row says, that a rerun computes nothing, and that the numbers do not depend on who computes them."""

import errno
import json
import math
import multiprocessing
import os
import queue
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import linflow as lf
from linflow.sweeps import read_grid, read_results, run_sweep, sweep_status
from linflow.sweeps.cells import Answer, Cell, Task, failed, run_cell, run_task
from linflow.sweeps.engine import Died, Late, LocalEngine, Lost, Worker, _Gone
from linflow.sweeps.grid_file import to_toml
from linflow.sweeps.rows import SCHEMA, TIMING, to_table
from linflow.sweeps.status import _rate
from linflow.sweeps.store import Store, running
from linflow.sweeps.work import TRIES, Work, _order
from tests.waiting import waited

Y = np.random.default_rng(5).normal(size=(4, 3))


def grid_of(**parts):
    return {
        "data": {"target": Y},
        "start": {"hidden": [6]},
        "flow": {"until": 1e-4},
        "grid": {"seeds": 3, "init": ["ntk", "fan_in"]},
        **parts,
    }


def same(first: pa.Table, second: pa.Table) -> bool:
    """Whether two tables are equal in all but times and the folder of the data, NaN equal to NaN."""
    columns = [name for name in SCHEMA.names if name not in (*TIMING, "settings", "target")]
    return repr(first.select(columns).to_pylist()) == repr(second.select(columns).to_pylist())


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    table = lf.sweep(grid_of(sweep={"check": True, "curves": 7}), folder, workers=1)
    return folder, table


def test_a_row_says_what_the_library_says(swept):
    _, table = swept
    assert table.schema.equals(SCHEMA)
    for row in table.to_pylist():
        objective = lf.MatrixFactorization(Y)
        network = getattr(lf.init, row["init"])((4, 6, 3), rng=row["seed"])
        certificate = lf.certify(objective, network)
        run = lf.gradient_flow(objective, network, until=1e-4)
        assert (row["status"], row["result"], row["hidden"]) == ("ok", run.result.value, [6])
        assert (row["certified_rate"], row["certificate"]) == (certificate.rate, certificate.best.name)
        assert row["certified_time_1e-2"] == certificate.time_to(1e-2)
        # To rounding and no further: the cell runs with one BLAS thread.
        assert row["time_1e-2"] == pytest.approx(run.time_to(1e-2), rel=1e-12)
        assert row["time"] == pytest.approx(run.time_to(1e-4), rel=1e-12)
        assert row["least_rate"] == pytest.approx(float(run.rate.min()), rel=1e-12)
        assert row["rate"] == pytest.approx(np.log(run.gap[0] / run.gap[-1]) / run.t[-1], rel=1e-12)
        assert row["tightness"] == row["certified_rate"] / row["least_rate"] <= 1
        assert row["holds"] is True
        assert len(row["curve_t"]) == 7
        assert (row["curve_t"][0], row["curve_gap"][-1]) == (0.0, row["final_gap"])
        assert json.loads(row["settings"])["start.seed"] == row["seed"]
        assert f"linflow {lf.__version__}" in row["versions"]
        assert row["seconds"] > 0


def test_a_rerun_computes_nothing_and_a_larger_grid_only_what_is_new(swept, tmp_path, here):
    folder, table = swept
    parts = sorted((folder / "parts").iterdir())
    again = run_sweep(read_grid(grid_of(sweep={"check": True, "curves": 7})), folder, workers=1)
    assert (again.total, again.computed) == (6, 0)
    assert sorted((folder / "parts").iterdir()) == parts
    assert pq.read_table(folder / "results.parquet").equals(table)

    first = run_sweep(read_grid(grid_of()), tmp_path, workers=1)
    more = run_sweep(read_grid(grid_of(grid={"init": ["fan_in", "fan_out", "ntk"], "seeds": 4})), tmp_path, workers=1)
    assert (first.computed, more.total, more.computed) == (6, 12, 6)
    rows = read_results(tmp_path).to_pylist()
    assert [(r["init"], r["seed"]) for r in rows] == [(i, s) for i in ("fan_in", "fan_out", "ntk") for s in range(4)]


def test_the_numbers_do_not_depend_on_workers_batches_or_order(swept, tmp_path, monkeypatch):
    monkeypatch.setattr("linflow.sweeps.cells.ENOUGH", math.inf)  # all cells of one task, however long they take
    _, table = swept
    grid = read_grid(grid_of(sweep={"check": True, "curves": 7}))
    assert same(lf.sweep(grid, tmp_path / "two", workers=2), table)
    placed = grid.placed(tmp_path)
    cells = [Cell.of(placed, i) for i in reversed(range(len(placed)))]
    rows = run_task(Task(tuple(cells), check=True, curves=7)).rows
    assert same(to_table(rows[::-1]), table)


def test_without_a_folder_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = lf.sweep(grid_of(grid={"seeds": 1}), workers=1)
    assert table.num_rows == 1
    assert list(tmp_path.iterdir()) == []


def test_descent_and_depth_and_every_kind_of_data(tmp_path, here):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(12, 4))
    grid = {
        "algorithm": "descent",
        "data": {"x": X, "y": X @ Y},
        "flow": {"until": 1e-2},
        "start": {"init": "balanced"},
        "descent": {"steps": 50_000},
        "grid": {"depth": [2, 3], "width": [5]},
    }
    rows = lf.sweep(grid, tmp_path, workers=1).to_pylist()
    assert [r["depth"] for r in rows] == [2, 3]
    for row in rows:
        assert row["status"] == "ok", row["reason"]
        assert row["step_size"] > 0
        assert row["max_descent_steps"] == 50_000
        assert row["certified_rate"] <= row["least_rate"]


def failing(tmp_path):
    """Return a grid one cell of which is good: a size that the start has not, too large a size, too few steps."""
    np.save(tmp_path / "Y.npy", Y)
    np.save(tmp_path / "bad.npy", np.full((2, 2), np.nan))
    target = str(tmp_path / "Y.npy")
    return {
        "start": {"hidden": [6]},
        "zip": [
            {
                "data.target": [
                    target,
                    target,
                    target,
                    str(tmp_path / "bad.npy"),
                    str(tmp_path / "none.npy"),
                    target,
                ],
                "init": ["gaussian", "ntk", "gaussian", "gaussian", "gaussian", "gaussian"],
                "size": [1.0, 2.0, 1e200, 1.0, 1.0, 1.0],
                "max_steps": [100_000, 100_000, 100_000, 100_000, 100_000, 3],
            }
        ],
    }


def test_a_cell_that_fails_is_a_row_with_its_reason(tmp_path, here):
    summary = run_sweep(read_grid(failing(tmp_path)), tmp_path / "out", workers=1)
    rows = read_results(tmp_path / "out").to_pylist()
    assert [r["status"] for r in rows] == ["ok"] + 5 * ["failed"]
    kinds = [(r["failure"], r["reason"]) for r in rows]
    assert kinds[0] == ("", "")
    for (kind, reason), (expected, words) in zip(
        kinds[1:],
        [
            ("settings", "the start ntk has no size"),
            ("settings", ""),
            ("settings", "bad.npy"),
            ("settings", "none.npy"),
            ("run", "step limit"),
        ],
        strict=True,
    ):
        assert kind == expected, (kind, reason)
        assert reason and words in reason, reason
    assert (summary.total, summary.failed) == (6, 5)
    assert summary.reasons == {"settings": 4, "run": 1}
    assert "5 failed (4 settings, 1 run)" in str(summary)
    # Failed cells are not computed again, but where it is asked for.
    grid = read_grid(failing(tmp_path))
    assert run_sweep(grid, tmp_path / "out", workers=1).computed == 0
    again = run_sweep(grid, tmp_path / "out", workers=1, retry=True)
    assert (again.computed, again.failed) == (5, 5)
    assert read_results(tmp_path / "out").num_rows == 6


def test_a_failed_cell_that_succeeds_when_tried_again_is_good(tmp_path, here):
    np.save(tmp_path / "there.npy", Y)
    paths = [str(tmp_path / "there.npy"), str(tmp_path / "Y.npy")]
    grid = {"start": {"hidden": [3]}, "grid": {"target": paths}}
    assert run_sweep(read_grid(grid), tmp_path / "out", workers=1).failed == 1
    np.save(tmp_path / "Y.npy", 2 * Y)
    assert run_sweep(read_grid(grid), tmp_path / "out", workers=1).failed == 0  # another cell: the file is another
    assert read_results(tmp_path / "out")["status"].to_pylist() == ["ok", "ok"]


def test_a_time_limit_is_a_reason(tmp_path):
    # No machine is as fast as that; one that is very slow ends the process instead, for the same reason.
    summary = run_sweep(read_grid(grid_of(grid={"seeds": 1})), tmp_path, workers=1, time_limit=1e-9)
    (row,) = read_results(tmp_path).to_pylist()
    assert (row["failure"], summary.failed) == ("time limit", 1)
    assert row["reason"] == "it took longer than the limit of 1e-09 s"


class Endless:
    """Cells of which one is in a call that looks at nothing."""

    def __len__(self):
        return 1

    def __iter__(self):
        threading.Event().wait()


def test_a_cell_that_does_not_look_at_the_time_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("linflow.sweeps.engine.GRACE", 0.0)
    engine = LocalEngine(1)
    try:
        engine.submit(Task(Endless(), time_limit=1e-9))
        found = waited(lambda: engine.wait(0.1))
    finally:
        engine.close()
    assert [type(answer) for _, answer in found] == [Late]


def test_what_happens_to_a_task_whose_process_dies(tmp_path):
    grid = read_grid(grid_of(grid={"seeds": 4})).placed(tmp_path)
    work = Work(grid, Store(tmp_path), 7.0, retry=False, place=0)
    cells = [Cell.of(grid, i) for i in range(4)]
    pair = Task(tuple(cells[:2]), time_limit=7.0)
    work.answer(pair, Lost())
    assert work.next(1) is pair  # it had not begun
    work.answer(pair, Died())
    halves = [work.next(1), work.next(1)]
    assert [task.cells for task in halves] == [(cells[0],), (cells[1],)]
    for _ in range(TRIES - 1):
        work.answer(halves[0], Died())
        assert work.next(1) is halves[0]
    assert work.missing == 4
    work.answer(halves[0], Died())
    work.answer(halves[1], Late())
    assert work.missing == 2
    work.store.flush()
    failures = {row["id"]: row["failure"] for table in Store(tmp_path).news() for row in table.to_pylist()}
    assert failures == {cells[0].id: "died", cells[1].id: "time limit"}


def test_parts_that_are_damaged_are_computed_again(swept, tmp_path, here):
    grid = read_grid(grid_of())
    run_sweep(grid, tmp_path, workers=1)
    whole = read_results(tmp_path)
    for path in (tmp_path / "parts").iterdir():
        path.unlink()
    part = tmp_path / "parts" / "part-0.parquet"
    pq.write_table(whole, part, write_page_checksum=True)
    content = part.read_bytes()
    assert run_sweep(grid, tmp_path, workers=1).computed == 0
    for damage in (
        content[: len(content) // 2],
        b"",
        b"PAR1" + np.random.default_rng(7).bytes(200) + b"PAR1",
    ):
        for path in (tmp_path / "parts").iterdir():
            path.unlink()
        part.write_bytes(damage)
        summary = run_sweep(grid, tmp_path, workers=1)
        assert summary.computed == 6
        assert any(part.name in note and "computed again" in note for note in summary.notes)
        assert same(read_results(tmp_path), whole)
    # A bit that flipped is found, or was in no number.
    store = Store(tmp_path)
    found = 0
    for i in range(0, len(content), 97):
        part.write_bytes(content[:i] + bytes([content[i] ^ 0x10]) + content[i + 1 :])
        table = store.read(part.name)
        found += table is None
        assert table is None or same(table, whole), i
    assert found > 100
    # A table of other columns, as another version may have written.
    for path in (tmp_path / "parts").iterdir():
        path.unlink()
    pq.write_table(pa.table({"id": ["x"]}), part)
    summary = run_sweep(grid, tmp_path, workers=1)
    assert summary.computed == 6
    assert any("other columns" in note for note in summary.notes)


def test_data_that_change_while_it_runs_are_no_data_of_this_sweep(tmp_path):
    np.save(tmp_path / "Y.npy", Y)
    grid = read_grid({"data": {"target": str(tmp_path / "Y.npy")}, "start": {"hidden": [3]}})
    cell = Cell.of(grid, 0)
    np.save(tmp_path / "Y.npy", 2 * Y)
    row = run_cell(cell)
    assert row["failure"] == "file"
    assert "changed since the sweep began" in row["reason"]


def test_two_arrays_of_one_file_are_two_cells(tmp_path):
    np.savez(tmp_path / "Y.npz", a=Y, A=2 * Y)
    paths = [str(tmp_path / f"Y.npz:{name}") for name in "aA"]
    grid = read_grid({"start": {"hidden": [3]}, "grid": {"target": paths}})
    assert len(set(grid.ids)) == 2
    rows = [run_cell(Cell.of(grid, i)) for i in range(2)]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert rows[0]["initial_gap"] != rows[1]["initial_gap"]
    np.savez(tmp_path / "Y.npz", a=Y, A=3 * Y)
    assert "changed since the sweep began" in run_cell(Cell.of(grid, 1))["reason"]


@pytest.mark.parametrize("what", ["weights", "data"])
def test_a_file_that_changes_between_two_cells_never_gives_numbers_under_the_id_of_the_old_one(what, tmp_path):
    from linflow.files import save_weights

    np.save(tmp_path / "Y.npy", Y)
    save_weights(lf.init.gaussian((4, 5, 3), rng=0), tmp_path / "w.npz")
    start = {"weights": str(tmp_path / "w.npz")}
    grid = read_grid({"data": {"target": str(tmp_path / "Y.npy")}, "start": start, "grid": {"until": [1e-2, 1e-3]}})
    first = run_cell(Cell.of(grid, 0))
    assert first["status"] == "ok"
    if what == "weights":
        save_weights(lf.init.gaussian((4, 5, 3), rng=1), tmp_path / "w.npz")
    else:
        np.save(tmp_path / "Y.npy", 2 * Y)
        # Other data in between, so many that none is kept that was read before.
        for i in range(12):
            np.save(tmp_path / f"Y{i}.npy", Y + i)
            other = read_grid({"data": {"target": str(tmp_path / f"Y{i}.npy")}, "start": start})
            assert run_cell(Cell.of(other, 0))["status"] == "ok"
    second = run_cell(Cell.of(grid, 1))
    assert second["failure"] == "file"
    assert "changed since the sweep began" in second["reason"]


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, monkeypatch):
    from linflow.experiments import building

    np.save(tmp_path / "Y.npy", Y)
    grid = read_grid({"data": {"target": str(tmp_path / "Y.npy")}, "start": {"hidden": [3]}})
    cell = Cell.of(grid, 0)
    read = building.objective_of

    def late(data):
        np.save(tmp_path / "Y.npy", 3 * Y)
        return read(data)

    monkeypatch.setattr(building, "objective_of", late)
    assert "changed since the sweep began" in run_cell(cell)["reason"]


def test_two_files_that_are_missing_are_two_rows(tmp_path, here):
    np.save(tmp_path / "there.npy", Y)
    paths = [str(tmp_path / name) for name in ("a.npy", "b.npy", "there.npy")]
    run_sweep(read_grid({"start": {"hidden": [3]}, "grid": {"target": paths}}), tmp_path / "out", workers=1)
    rows = read_results(tmp_path / "out").to_pylist()
    assert [r["target"] for r in rows] == paths
    assert all("No such file" in r["reason"] or "npy" in r["reason"] for r in rows[:2])


def test_the_table_of_another_grid_is_not_that_of_this_one(tmp_path, here):
    run_sweep(read_grid(grid_of()), tmp_path, workers=1)
    assert read_results(tmp_path).num_rows == 6
    other = read_grid(grid_of(grid={"seeds": 2, "init": ["fan_out", "ntk"]})).placed(tmp_path)
    (tmp_path / "grid.toml").write_text(to_toml(other))  # a sweep of it has begun, and was killed
    rows = read_results(tmp_path, ["init", "seed"]).to_pylist()
    assert rows == [{"init": "ntk", "seed": 0}, {"init": "ntk", "seed": 1}]  # what both have
    assert sweep_status(tmp_path).done == 2
    # Rows that came since the table was made are in it too.
    run_sweep(other, tmp_path, workers=1)
    (tmp_path / "results.parquet").replace(tmp_path / "old")
    fewer = read_grid(grid_of(grid={"seeds": 1, "init": ["fan_out"]})).placed(tmp_path)
    run_sweep(fewer, tmp_path, workers=1)
    (tmp_path / "grid.toml").write_text(to_toml(other))
    assert read_results(tmp_path).num_rows == 4


def test_a_row_says_only_what_it_used(tmp_path):
    from linflow.files import save_weights

    np.save(tmp_path / "Y.npy", Y)
    save_weights(lf.init.gaussian((4, 5, 3), rng=0), tmp_path / "w.npz")
    data = {"target": str(tmp_path / "Y.npy")}
    grid = read_grid({"data": data, "start": {"weights": str(tmp_path / "w.npz")}})
    row = run_cell(Cell.of(grid, 0))
    assert (row["init"], row["seed"], row["multiplier"], row["hidden"]) == (None, None, None, [5])
    assert (row["schedule"], row["max_descent_steps"], row["rtol"]) == (None, None, 1e-8)
    descent = read_grid({"data": data, "start": {"hidden": [5]}, "algorithm": "descent"})
    row = run_cell(Cell.of(descent, 0))
    assert (row["init"], row["seed"], row["schedule"], row["rtol"]) == ("ntk", 0, "constant", None)


def test_a_cell_that_failed_for_a_file_is_tried_again(tmp_path, here):
    np.save(tmp_path / "Y.npy", Y)
    grid = read_grid({"data": {"target": str(tmp_path / "Y.npy")}, "start": {"hidden": [3]}})
    cell = Cell.of(grid, 0)
    np.save(tmp_path / "Y.npy", 2 * Y)
    store = Store(tmp_path / "out")
    store.add([run_cell(cell)])
    store.flush()
    np.save(tmp_path / "Y.npy", Y)  # as it was
    summary = run_sweep(grid, tmp_path / "out", workers=1)
    assert (summary.computed, summary.failed) == (1, 0)


def test_a_sweep_returns_its_own_rows_whoever_uses_its_folder(tmp_path, here):
    def other(status):
        if status.done == status.total and not status.running:
            lf.sweep(grid_of(grid={"seeds": [7]}), tmp_path, workers=1)

    table = lf.sweep(grid_of(), tmp_path, workers=1, progress=other)
    assert table["seed"].to_pylist() == [0, 0, 1, 1, 2, 2]
    assert read_results(tmp_path)["seed"].to_pylist() == [7]


def test_parts_are_never_replaced_and_what_they_say_last_is_read(tmp_path):
    np.save(tmp_path / "Y.npy", Y)
    grid = read_grid({"data": {"target": str(tmp_path / "Y.npy")}, "start": {"hidden": [3]}})
    cell = Cell.of(grid, 0)
    good, bad = run_cell(cell), failed(cell, "time limit", "too long")
    for first, second in ((good, bad), (bad, good)):
        folder = tmp_path / first["status"]
        for row in (first, second):
            store = Store(folder)
            store.add([row])
            store.flush()
            if row is first:
                (folder / "grid.toml").write_text(to_toml(grid))
                assert store.write_results(grid.ids) == 1
                assert read_results(folder)["status"].to_pylist() == [row["status"]]
        assert len(store.names()) == 2
        assert read_results(folder)["status"].to_pylist() == ["ok"]
        assert sweep_status(folder).failed == 0


def test_the_name_of_a_part_is_a_hash_of_every_value_in_it(swept, tmp_path):
    """So that an altered part is another one, and the one table made of the parts before is not taken for theirs."""
    _, table = swept
    rows = table.to_pylist()

    def name(rows):
        store = Store(tmp_path / "names")
        before = set(store.names())
        store.add(rows)
        store.flush()
        return next(iter(set(store.names()) - before), None)

    assert name(rows) is not None
    assert name(rows) is None  # the same again
    other = {pa.string(): "other", pa.float64(): 0.125, pa.int64(): 77, pa.bool_(): None}
    for field in SCHEMA:
        value = [other[field.type.value_type]] if pa.types.is_list(field.type) else other[field.type]
        assert name([*rows[:-1], {**rows[-1], field.name: value}]) is not None, field.name
    assert name(rows[::-1]) is not None


def test_a_part_that_was_altered_is_read_and_not_what_was_made_of_it_before(tmp_path, here):
    grid = read_grid(grid_of())
    run_sweep(grid, tmp_path, workers=1)
    store = Store(tmp_path)
    rows = [row for name in store.names() for row in store.read(name).to_pylist()]
    for name in store.names():
        (tmp_path / "parts" / name).unlink()
    store.add([{**row, "certified_rate": 1.0} for row in rows])
    store.flush()
    assert read_results(tmp_path)["certified_rate"].to_pylist() == [1.0] * 6


def test_a_folder_of_arrays_can_be_moved(tmp_path, here):
    lf.sweep(grid_of(grid={"seeds": 3, "target": [Y, 2 * Y]}), tmp_path / "1", workers=1)
    for before, after in (("1", "2"), ("2", "3")):  # and again, after a rerun there
        (tmp_path / before).rename(tmp_path / after)
        assert read_results(tmp_path / after).num_rows == 6
        summary = run_sweep(read_grid(tmp_path / after / "grid.toml"), tmp_path / after, workers=1)
        assert (summary.computed, summary.failed) == (0, 0)


def test_a_grid_of_the_user_is_not_overwritten(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text('# mine\n[data]\ntarget = "Y.npy"\n[grid]\nseeds = 2\n')
    with pytest.raises(ValueError, match=r"grid\.toml is not the file of a sweep.*another folder"):
        run_sweep(read_grid(path), tmp_path, workers=1)
    assert path.read_text().startswith("# mine")
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    (tmp_path / "results.parquet").write_text("mine")
    with pytest.raises(ValueError, match=r"results\.parquet does not belong to a sweep.*another folder"):
        run_sweep(read_grid(grid_of()), tmp_path, workers=1)


def test_folders_without_locks_are_not_cleaned(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    Store(tmp_path)
    writing = tmp_path / "parts" / ".linflow-1.tmp"
    writing.touch()
    assert [Store(tmp_path).claim() for _ in range(2)] == [0, 0]
    assert writing.exists()
    assert running(tmp_path) is None


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_sweeps_in_one_folder_begin_where_the_others_are_not(count):
    orders = [list(_order(count, place)) for place in range(9)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    if count == 100:
        assert [order[0] for order in orders] == [0, 99, 50, 25, 75, 12, 37, 62, 87]


def test_two_sweeps_in_one_folder_compute_nothing_twice(tmp_path, monkeypatch):
    """They take turns here, and each sees what the other has written before it goes on."""
    monkeypatch.setattr("linflow.sweeps.work.LOOK", 0.0)
    grid = read_grid(grid_of(grid={"seeds": 20})).placed(tmp_path)
    pair = [Work(grid, Store(tmp_path), None, retry=False, place=place) for place in range(2)]
    given = []
    while any(work.missing for work in pair):
        for work in pair:
            work.look()
            if (task := work.next(1)) is not None:
                given += [cell.id for cell in task.cells]
                work.take([failed(cell, "error", "as an example") for cell in task.cells])
                work.store.flush()
            work.look()
    assert len(given) == len(set(given)) == 20
    assert [work.computed for work in pair] == [10, 10]


def test_places_in_a_folder_are_free_again_when_a_sweep_ends(tmp_path):
    stores = [Store(tmp_path) for _ in range(4)]
    assert [store.claim() for store in stores[:3]] == [0, 1, 2]
    assert running(tmp_path) and running(tmp_path, 2) and not running(tmp_path, 3)
    stores[0].release()
    assert stores[3].claim() == 0
    for store in stores:
        store.release()
    assert running(tmp_path) is False


def test_temporary_files_of_others_are_left(tmp_path, here):
    young, old = tmp_path / ".linflow-1.tmp", tmp_path / ".linflow-2.tmp"
    for path, date in ((young, 2**32), (old, 1)):  # in 2106, and in 1970: however long it takes
        path.touch()
        os.utime(path, (date, date))
    lf.sweep(grid_of(grid={"seeds": 1}), tmp_path, workers=1)
    assert young.exists() and not old.exists()


def test_rows_that_are_lost_while_it_runs_are_no_success(tmp_path, here):
    def loses(status):
        for path in (tmp_path / "parts").iterdir():
            path.unlink()

    store, write = Store(tmp_path), Store.write_results
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write_results", lambda self, ids: (loses(None), write(self, ids))[1])
        with pytest.raises(lf.files.FileError, match=r"the rows of 6 cells are gone .* Run it again"):
            run_sweep(read_grid(grid_of()), tmp_path, workers=1)
    assert store.names() == []
    assert run_sweep(read_grid(grid_of()), tmp_path, workers=1).computed == 6


def test_ctrl_c_says_what_is_kept_whenever_it_comes(tmp_path, monkeypatch, here):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_results", stop)
        with pytest.raises(KeyboardInterrupt) as caught:
            run_sweep(read_grid(grid_of()), tmp_path, workers=1)
    assert caught.value.kept.startswith("interrupted; 6 of 6 cells are kept")
    with monkeypatch.context() as patch:
        patch.setattr("linflow.sweeps.store.write_table", stop)
        with pytest.raises(KeyboardInterrupt) as caught:
            run_sweep(read_grid(grid_of()), tmp_path / "none", workers=1)
    assert caught.value.kept.startswith("interrupted; 0 of 6 cells are kept")
    assert sweep_status(tmp_path / "none").done == 0
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_results", stop)
        with pytest.raises(KeyboardInterrupt, match="nothing is kept"):
            lf.sweep(grid_of(grid={"seeds": 1}), workers=1)


def test_a_full_disk_is_told_with_what_is_kept(tmp_path, monkeypatch, here):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("linflow.sweeps.store.write_table", full)
    with pytest.raises(OSError, match=r"there is no room left for .*out.*the same command then continues"):
        run_sweep(read_grid(grid_of()), tmp_path / "out", workers=1)


@pytest.fixture
def worker(monkeypatch):
    """A process that says nothing: what it would say is told by the test."""
    monkeypatch.setattr("linflow.sweeps.engine.WORKER", ("-c", "import sys; sys.stdin.buffer.read()"))
    found = Worker(queue.SimpleQueue())
    yield found
    found.end()


def test_the_time_of_a_task_does_not_run_before_its_process_does(worker):
    first, second = Task((None,), time_limit=0.0), Task((None,), time_limit=0.0)
    worker.give(first)
    worker.give(second)
    worker.since = -1e9
    worker.end_if_late()
    assert worker.late is None  # it has not started
    assert worker.hear(None) == []
    worker.end_if_late()
    assert worker.late is None  # it has just started
    worker.since = -1e9
    worker.end_if_late()
    assert worker.late is first
    assert [(task, type(fate)) for task, fate in worker.hear(_Gone())] == [(first, Late), (second, Lost)]
    # The answer was on its way when the process was ended: nobody knows whether the next task had begun.
    answer = Answer([], 0.0)
    assert worker.hear(answer) == [(first, answer)]
    assert [type(fate) for _, fate in worker.hear(_Gone())] == [Lost]


def test_what_a_python_prints_as_it_starts_is_passed_over(tmp_path, monkeypatch):
    words = "print('hello', flush=True); from linflow.sweeps.worker import main; main()"
    monkeypatch.setattr("linflow.sweeps.engine.WORKER", ("-c", words))
    assert run_sweep(read_grid(grid_of(grid={"seeds": 1})), tmp_path, workers=1).failed == 0


def test_what_a_dead_process_had_begun_is_known(worker):
    tasks = [Task((None,)) for _ in range(3)]
    for task in tasks:
        worker.give(task)
    assert [type(fate) for _, fate in worker.hear(_Gone())] == [Lost, Lost, Lost]  # it had not started
    worker.hear(None)
    assert [type(fate) for _, fate in worker.hear(_Gone())] == [Died, Lost, Lost]
    with pytest.raises(MemoryError):
        worker.hear(MemoryError())


def test_a_start_at_a_minimum_has_no_rates(tmp_path, here):
    grid = {"data": {"target": np.zeros((2, 2))}, "start": {"init": "gaussian", "size": 1e-300, "hidden": [2]}}
    (row,) = lf.sweep(grid, tmp_path, workers=1).to_pylist()
    assert (row["status"], row["initial_gap"], row["time"], row["time_1e-2"]) == ("ok", 0.0, 0.0, 0.0)
    assert np.isnan(row["least_rate"])
    assert row["tightness"] is None


def test_a_target_that_was_reached_has_a_time(tmp_path, here):
    from linflow.files import save_weights

    np.save(tmp_path / "I.npy", np.eye(2))
    paths = [str(tmp_path / f"w{i}.npz") for i in range(3)]
    for path, e in zip(paths, (1e-12, 1e-8, 1e-7), strict=True):
        save_weights(lf.Network([(1 + e) * np.eye(2), np.eye(2)]), path)
    grid = {"data": {"target": str(tmp_path / "I.npy")}, "grid": {"weights": paths}, "flow": {"until": 1e-6}}
    beyond, *reached = lf.sweep(grid, workers=1).to_pylist()
    # A millionth of 1e-24 is below what rounding leaves of a product of ones, some 1e-32 of its square.
    assert beyond["result"].startswith("rounding level reached") and beyond["time"] == beyond["time_1e-6"] == np.inf
    for row in reached:
        assert row["result"] == "target reached" and row["time"] == row["time_1e-6"] <= row["t_end"]


@pytest.mark.parametrize("step", [10.0, 1e200, 1e300])
def test_a_descent_that_diverges_is_a_run_that_failed(step, tmp_path, here):
    np.save(tmp_path / "Y.npy", Y)
    grid = {"algorithm": "descent", "data": {"target": str(tmp_path / "Y.npy")}, "start": {"hidden": [6]}}
    (row,) = lf.sweep({**grid, "descent": {"step_size": step}}, tmp_path / "out", workers=1).to_pylist()
    assert (row["status"], row["failure"]) == ("failed", "run"), row["reason"]
    assert "diverged" in row["reason"]


def test_status_tells_rates_of_slow_cells_too():
    now = 1e9
    assert _rate(np.array([]), now) == 0
    assert _rate(np.array([now - 1]), now) == 0
    assert _rate(now - 0.5 - 130.0 * np.arange(10), now) == pytest.approx(9 / 1170.5)
    assert _rate(now - 0.1 * np.arange(1, 5000), now) == pytest.approx(10, rel=1e-2)


def test_status_of_a_folder(swept, tmp_path, here):
    folder, _ = swept
    status = sweep_status(folder)
    assert (status.total, status.done, status.failed, status.running, status.remaining) == (6, 6, 0, False, 0.0)
    assert str(status).startswith("6 of 6 cells (100%), 0 failed")
    with pytest.raises(FileNotFoundError, match="not the folder of a sweep"):
        sweep_status(tmp_path)
    # Half of it.
    grid = read_grid(grid_of())
    run_sweep(read_grid(grid_of(grid={"seeds": 3, "init": ["ntk"]})), tmp_path, workers=1)
    (tmp_path / "grid.toml").write_text(to_toml(grid.placed(tmp_path)))
    status = sweep_status(tmp_path)
    assert (status.total, status.done) == (6, 3)
    assert "3 of 6 cells (50%)" in str(status)
    assert "not running" in str(status)


def test_progress_is_told_and_ends_at_the_end(tmp_path, here):
    seen = []
    run_sweep(read_grid(grid_of()), tmp_path, workers=1, progress=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (6, 6, 0)
    assert all(0 <= s.done <= s.total for s in seen)


def test_arguments_that_contradict_each_other(tmp_path):
    with pytest.raises(ValueError, match="leave one out"):
        lf.sweep(grid_of(), tmp_path, workers=2, scheduler="tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match="workers"):
        lf.sweep(grid_of(), tmp_path, workers=0)
    path = Path(tmp_path) / "file"
    path.touch()
    with pytest.raises(OSError, match="file"):
        lf.sweep(grid_of(), path / "out")


def test_what_is_no_grid_no_scheduler_or_no_place_for_processes(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="grid is None; the path of a file, or a dict"):
        lf.sweep(None)
    for address in ("foo://bar", "localhost", 3):
        with pytest.raises(ValueError, match=r"the scheduler is .*; an address such as tcp://"):
            lf.sweep(grid_of(), tmp_path / "out", scheduler=address)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/opt/blender")
        with pytest.raises(RuntimeError, match=r"'/opt/blender' is an application.*scheduler"):
            lf.sweep(grid_of(), tmp_path / "out", workers=1)
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})  # may start processes, too
    assert lf.sweep(grid_of(grid={"seeds": 1}), tmp_path / "out", workers=1).num_rows == 1


def test_processes_that_die_as_they_start_end_a_sweep(tmp_path, monkeypatch):
    from linflow.sweeps import engine

    monkeypatch.setattr(engine, "WORKER", ("-c", "pass"))
    with pytest.raises(ChildProcessError, match="die as they start, 10 times in a row"):
        run_sweep(read_grid(grid_of()), tmp_path, workers=1)


def test_a_proof_of_every_cell_has_its_columns(tmp_path, here):
    given = grid_of(sweep={"verified": True})
    table = lf.sweep(given, tmp_path / "proved", workers=1).to_pylist()
    plain = lf.sweep(grid_of(), tmp_path / "plain", workers=1).to_pylist()
    assert len(table) == len(plain) > 0
    assert not {row["id"] for row in table} & {row["id"] for row in plain}
    for row, without in zip(table, plain, strict=True):
        assert without["proof"] is None and without["proved_latest"] is None
        assert row["time"] == without["time"]
        if row["proof"] == "target proved":
            # The run's own error.
            assert row["proved_earliest"] * (1 - 1e-6) <= row["time"] <= row["proved_latest"] * (1 + 1e-6)
    assert any(row["proof"] == "target proved" and row["proved_rate"] > 0 for row in table)


def test_a_certificate_with_its_rounding_proved_has_its_columns(tmp_path, here):
    table = lf.sweep(grid_of(sweep={"rigorous": True}), tmp_path / "proved", workers=1).to_pylist()
    plain = lf.sweep(grid_of(), tmp_path / "plain", workers=1).to_pylist()
    assert not {row["id"] for row in table} & {row["id"] for row in plain}
    for row, without in zip(table, plain, strict=True):
        assert without["rigorous_certificate"] is None and without["rigorous_time"] is None
        # Proving the rounding costs little, and gains nothing.
        assert row["rigorous_rate"] <= row["certified_rate"] and row["rigorous_time"] >= row["certified_time"]
        assert (
            (row["rigorous_rate"] > 0) is (row["rigorous_certificate"] != "") is math.isfinite(row["rigorous_time"])
        )
    assert any(row["rigorous_rate"] > 0.99 * row["certified_rate"] > 0 for row in table)
