"""Sweeps on a Dask cluster: the same numbers, and nothing lost when workers or the scheduler are killed."""

import json
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from linflow.sweeps import read_grid, read_results, run_sweep
from linflow.sweeps.engine import DaskEngine
from tests.test_sweep import Y, grid_of, same
from tests.test_sweep_kill import CELLS, ENV, compare, place, rerun, rows_in, started

__all__ = ["place"]
pytest.importorskip("distributed", reason="a sweep on a cluster needs distributed: pip install linflow[sweep]")
QUIET = {**ENV, "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}


class Cluster:
    """A scheduler and workers, each a process."""

    def __init__(self, folder, workers):
        self.file = folder / f"scheduler-{time.monotonic_ns()}.json"
        self.quiet = {"env": QUIET, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        self.scheduler = self.dask("scheduler", "--port", "0", "--no-dashboard")
        self.workers = [self.worker() for _ in range(workers)]
        deadline = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
        self.address = json.loads(self.file.read_text())["address"]

    def dask(self, *options):
        command = [sys.executable, "-m", "dask", *options, "--scheduler-file", str(self.file)]
        return subprocess.Popen(command, **self.quiet)

    def worker(self):
        return self.dask("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", "--death-timeout", "20")

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
def cluster(folder, workers=2):
    made = Cluster(folder, workers)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_a_cluster_gives_the_numbers_of_this_machine(place):
    with cluster(place) as dask:
        assert started(place, "cluster", "--scheduler", dask.address).wait(120) == 0
        compare(place, "cluster")
        # A folder that was begun here goes on there.
        (place / "grid-half.toml").write_text((place / "grid.toml").read_text().replace("seeds = 300", "seeds = 50"))
        run_sweep(read_grid(place / "grid-half.toml"), place / "moved", workers=2)
        assert rows_in(place, "moved") == 200
        rerun(place, "moved", "--scheduler", dask.address)


@pytest.mark.slow
def test_workers_of_a_cluster_are_killed(place):
    rng = random.Random(4)
    with cluster(place) as dask:
        sweep = started(place, "killed", "--scheduler", dask.address)
        kills = 0
        while sweep.poll() is None:
            time.sleep(rng.uniform(0.5, 2.0))
            if kills < 8:
                dask.replace(rng.randrange(2))
                kills += 1
        assert kills > 2
        assert sweep.returncode in (0, 1)
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
        assert sweep.wait(120) == 0
        sweep.stderr.close()
        compare(place, "nobody")


@pytest.mark.slow
def test_the_scheduler_is_killed(place):
    rng = random.Random(5)
    for _ in range(3):
        with cluster(place) as dask:
            sweep = started(place, "headless", "--scheduler", dask.address, stderr=subprocess.PIPE, text=True)
            time.sleep(rng.uniform(4.0, 7.0))
            dask.scheduler.kill()
            _, err = sweep.communicate(timeout=60)
            if sweep.returncode == 0:
                break  # it was done before
            assert sweep.returncode == 2, err
            said = [line for line in err.splitlines() if line.startswith("linflow: ")]
            assert len(said) == 1, err
            assert "is gone" in said[0] or "no Dask scheduler" in said[0]
            assert "Traceback" not in err
    assert rows_in(place, "headless") > 0
    rerun(place, "headless")


@pytest.mark.slow
def test_the_sweep_on_a_cluster_is_killed(place):
    with cluster(place) as dask:
        for after in (3.0, 4.0):
            sweep = started(place, "gone", "--scheduler", dask.address)
            time.sleep(after)
            sweep.kill()
            sweep.wait(10)
        assert [worker.poll() for worker in dask.workers] == [None, None]  # the cluster goes on
        rerun(place, "gone", "--scheduler", dask.address)


def test_a_cluster_of_threads_in_this_process(tmp_path):
    from distributed import LocalCluster

    grid = read_grid(grid_of(grid={"seeds": 6}))
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, scheduler_port=0
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
    sweep = started(tmp_path, "out", "--scheduler", "tcp://127.0.0.1:9", stderr=subprocess.PIPE, text=True)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 2
    said = [line for line in err.splitlines() if line.startswith("linflow: ")]
    assert len(said) == 1
    assert "there is no Dask scheduler at tcp://127.0.0.1:9" in said[0]
    assert "Traceback" not in err
