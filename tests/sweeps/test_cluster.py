"""The versions of a cluster are compared before work is handed out: rows of two versions never mix in one table."""

import pytest

pytest.importorskip("distributed", reason="a sweep on a cluster needs distributed: pip install 'linflow[sweep]'")

from linflow._support.provenance import software
from linflow.sweeps import cluster, engine, read_grid, read_results, run_sweep
from linflow.sweeps.cells import Cell, Task
from linflow.sweeps.cluster import COMPARED, OtherVersions, check_scheduler, compared, run_checked
from tests.sweeps.test_sweep import grid_of

GOOD = {**software(), "python": "3.11.1"}


class Client:
    """A cluster that answers as it is told."""

    def __init__(self, answers, scheduler=None):
        self.answers, self.scheduler = answers, scheduler

    def run(self, function, question, *, workers, on_error):
        assert (function, on_error) == (eval, "return")
        assert eval(question) == software()
        return {worker: self.answers[worker] for worker in workers}

    def run_on_scheduler(self, function, question):
        if self.scheduler:
            raise self.scheduler
        return function(question)


def test_workers_that_are_alike_are_taken():
    answers = {"tcp://a:1": GOOD, "tcp://b:2": {**GOOD, "python": "3.12.0"}, "tcp://c:3": OSError("it is gone")}
    found, notes = compared(Client(answers), answers, GOOD)
    assert found == {"tcp://a:1", "tcp://b:2"}
    assert notes == ["the worker tcp://b:2 runs Python 3.12.0, this machine 3.11.1"]
    assert compared(Client(answers), ["tcp://a:1"], GOOD) == ({"tcp://a:1"}, [])


@pytest.mark.parametrize("name", COMPARED)
def test_a_worker_with_another_version_is_refused(name):
    text = (
        rf"the worker tcp://a:1 was refused: it has {name} 0\.0\.1, and this machine has {GOOD[name]}\. Rows of both"
    )
    with pytest.raises(OSError, match=text):
        compared(Client({"tcp://a:1": {**GOOD, name: "0.0.1"}}), ["tcp://a:1"], GOOD)
    without = {key: version for key, version in GOOD.items() if key != name}
    with pytest.raises(OSError, match=f"it has {name} of an unknown version"):
        compared(Client({"tcp://a:1": without}), ["tcp://a:1"], GOOD)


def test_a_worker_or_scheduler_that_cannot_import_linflow_is_refused():
    """Given work, the worker would end, and the sweep would wait for others for ever."""
    lost = ModuleNotFoundError("No module named 'linflow'")
    with pytest.raises(
        OSError, match=r"the worker tcp://a:1 cannot import linflow .*pip install 'linflow\[sweep\]=="
    ):
        compared(Client({"tcp://a:1": lost}), ["tcp://a:1"], GOOD)
    with pytest.raises(OSError, match=r"the Dask scheduler at tcp://s:1 cannot import linflow"):
        check_scheduler(Client({}, lost), "tcp://s:1")
    check_scheduler(Client({}), "tcp://s:1")


def test_a_worker_that_joins_later_refuses_by_itself(tmp_path):
    grid = read_grid(grid_of(grid={"seeds": 1})).placed(tmp_path)
    task = Task((Cell.of(grid, 0),))
    (row,) = run_checked(task, software()).rows
    assert row["status"] == "ok"
    with pytest.raises(OtherVersions, match=r"it has scipy .*, and this machine has 0\.0\.1"):
        run_checked(task, {**software(), "scipy": "0.0.1"})


def test_a_sweep_on_a_cluster_of_another_version_ends_in_one_line(tmp_path, monkeypatch):
    from distributed import LocalCluster

    grid = read_grid(grid_of(grid={"seeds": 3}))
    kind = {
        "n_workers": 1,
        "threads_per_worker": 1,
        "processes": False,
        "dashboard_address": ":0",
        "scheduler_port": 0,
    }
    with LocalCluster(**kind) as dask:
        with monkeypatch.context() as patch:
            patch.setattr(engine, "software", lambda: {**software(), "numpy": "0.0.1"})
            with pytest.raises(OSError, match=r"was refused: it has numpy .* and this machine has 0\.0\.1"):
                run_sweep(grid, tmp_path / "out", scheduler=dask.scheduler_address)
            # And where the worker was like this machine when it was asked.
            patch.setattr(engine, "compared", lambda client, workers, versions: (set(workers), []))
            with pytest.raises(OSError, match=r"that ran a cell was refused: it has numpy"):
                run_sweep(grid, tmp_path / "out", scheduler=dask.scheduler_address)
        assert not list((tmp_path / "out" / "parts").iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(cluster, "software", lambda: {**software(), "python": "3.99.0"})
            patch.setattr(engine, "software", lambda: {**software(), "python": "3.98.0"})
            summary = run_sweep(grid, tmp_path / "out", scheduler=dask.scheduler_address)
    assert any("runs Python" in note for note in summary.notes)
    assert read_results(tmp_path / "out")["status"].to_pylist() == ["ok"] * 3
