"""Sweeps on a Dask cluster: the same numbers, and nothing lost when workers or the scheduler are killed."""

import json
import os
import random
import subprocess
import sys
import uuid
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from linflow.sweeps import read_grid, read_results, run_sweep
from linflow.sweeps.engine import DaskEngine
from tests.sweeps.test_kill import CELLS, ENV, compare, gate, place, rerun, rows_in, started, told
from tests.sweeps.test_sweep import Y, grid_of, same
from tests.waiting import PATIENCE, waited

__all__ = ["gate", "place"]
pytest.importorskip("distributed", reason="a sweep on a cluster needs distributed: pip install 'linflow[sweep]'")
QUIET = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}


class Cluster:
    """A scheduler and workers, each a process."""

    def __init__(self, folder, workers, env):
        self.file = folder / f"scheduler-{uuid.uuid4()}.json"
        self.quiet = {
            "env": {**env, **QUIET},
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            "cwd": folder,
        }
        self.scheduler = self.dask("scheduler", "--port", "0", "--no-dashboard")
        self.workers = [self.worker() for _ in range(workers)]
        self.address = waited(self.found)

    def found(self):
        """Return the address of the scheduler, once it has written it down."""
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads(self.file.read_text())["address"]
        return None

    def dask(self, *options):
        command = [sys.executable, "-m", "dask", *options, "--scheduler-file", str(self.file)]
        return subprocess.Popen(command, **self.quiet)

    def worker(self):
        return self.dask(
            "worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", "--death-timeout", f"{PATIENCE:g}"
        )

    def replace(self, i):
        """Kill a worker, and start another."""
        self.workers[i].kill()
        self.workers[i].wait()
        self.workers[i] = self.worker()

    def close(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextmanager
def cluster(folder, workers=2, env=ENV):
    made = Cluster(folder, workers, env)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_a_cluster_gives_the_numbers_of_this_machine(place):
    with cluster(place) as dask:
        assert started(place, "cluster", "--scheduler", dask.address).wait(PATIENCE) == 0
        compare(place, "cluster")
        # A folder that was begun here goes on there.
        (place / "grid-half.toml").write_text((place / "grid.toml").read_text().replace("seeds = 300", "seeds = 50"))
        run_sweep(read_grid(place / "grid-half.toml"), place / "moved", workers=2)
        assert rows_in(place, "moved") == 200
        rerun(place, "moved", "--scheduler", dask.address)


@pytest.mark.slow
def test_workers_of_a_cluster_are_killed(place, gate):
    rng = random.Random(4)
    gate.open_to(5)  # it cannot end meanwhile
    with cluster(place, env=gate.env) as dask:
        sweep = started(place, "killed", "--scheduler", dask.address)
        for _ in range(8):
            i = rng.randrange(2)
            waited(lambda i=i: gate.begun(dask.workers[i].pid) or sweep.poll() is not None)
            assert sweep.poll() is None
            dask.replace(i)
        gate.open()
        assert sweep.wait(PATIENCE) in (0, 1)
        assert read_results(place / "killed").num_rows == CELLS
        rerun(place, "killed", "--scheduler", dask.address)


@pytest.mark.slow
def test_a_cluster_without_workers_is_waited_for(place):
    with cluster(place, workers=0) as dask:
        sweep = started(place, "nobody", "--scheduler", dask.address, stderr=subprocess.PIPE, text=True)
        line = sweep.stderr.readline()
        assert f"0 of {CELLS} cells" in line
        assert "waiting for workers" in line
        dask.workers = [dask.worker()]
        assert sweep.wait(PATIENCE) == 0
        sweep.stderr.close()
        compare(place, "nobody")


@pytest.mark.slow
def test_the_scheduler_is_killed(place, gate):
    kept = 0
    for kill in range(1, 4):
        gate.open_to(10 * kill)  # at most 40 cells more, and one at least
        with cluster(place, env=gate.env) as dask:
            sweep = started(place, "headless", "--scheduler", dask.address, stderr=subprocess.PIPE, text=True)
            waited(lambda kept=kept, sweep=sweep: rows_in(place, "headless") > kept or sweep.poll() is not None)
            dask.scheduler.kill()
            _, err = sweep.communicate(timeout=PATIENCE)
        assert sweep.returncode == 2, err
        assert len(told(err)) == 1, err
        assert "is gone" in told(err)[0] or "no Dask scheduler" in told(err)[0]
        assert "Traceback" not in err
        assert kept < rows_in(place, "headless") < CELLS
        kept = rows_in(place, "headless")
    rerun(place, "headless")


@pytest.mark.slow
def test_the_sweep_on_a_cluster_is_killed(place, gate):
    kept = 0
    with cluster(place, env=gate.env) as dask:
        for kill in range(1, 3):
            gate.open_to(10 * kill)
            sweep = started(place, "gone", "--scheduler", dask.address)
            waited(lambda kept=kept, sweep=sweep: rows_in(place, "gone") > kept or sweep.poll() is not None)
            sweep.kill()
            sweep.wait(PATIENCE)
            kept = rows_in(place, "gone")
        assert [worker.poll() for worker in dask.workers] == [None, None]  # the cluster goes on
        gate.open()
        rerun(place, "gone", "--scheduler", dask.address)


def test_a_cluster_of_threads_in_this_process(tmp_path):
    from distributed import LocalCluster

    grid = read_grid(grid_of(grid={"seeds": 6}))
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0", scheduler_port=0
    ) as dask:
        summary = run_sweep(grid, tmp_path / "dask", scheduler=dask.scheduler_address)
    assert (summary.computed, summary.failed) == (6, 0)
    run_sweep(grid, tmp_path / "here", workers=1)
    assert same(read_results(tmp_path / "dask"), read_results(tmp_path / "here"))


def test_a_connection_that_breaks_while_it_is_asked_is_a_scheduler_that_is_gone():
    def breaks():
        raise OSError("in <TCP (closed) ConnectionPool.ncores …>: ConnectionResetError")

    engine = DaskEngine.__new__(DaskEngine)
    engine.address, engine._client = "tcp://10.0.0.1:1", SimpleNamespace(status="running", nthreads=breaks)
    with pytest.raises(ConnectionError, match=r"the Dask scheduler at tcp://10\.0\.0\.1:1 is gone"):
        _ = engine.workers
    with pytest.raises(ConnectionError, match="is gone"):
        _ = engine.waiting


def test_no_scheduler_there_is_said(tmp_path):
    import numpy as np

    np.save(tmp_path / "Y.npy", Y)
    (tmp_path / "grid.toml").write_text('[data]\ntarget = "Y.npy"\n[grid]\nwidth = [3]\n')
    (tmp_path / "sitecustomize.py").write_text("from linflow.sweeps import engine\nengine.CONNECT = 0.1\n")
    env = {**ENV, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [ENV.get("PYTHONPATH")])])}
    sweep = started(tmp_path, "out", "--scheduler", "tcp://127.0.0.1:9", stderr=subprocess.PIPE, text=True, env=env)
    _, err = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 2
    assert len(told(err)) == 1
    assert "there is no Dask scheduler at tcp://127.0.0.1:9" in told(err)[0] and "after 0.1 s" in told(err)[0]
    assert "Traceback" not in err
