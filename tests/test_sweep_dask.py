"""Sweeps on a Dask cluster: the same numbers, and nothing lost when workers or the scheduler are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from linflow.sweeps import read_grid, read_results, run_sweep
from tests.test_sweep import Y, grid_of, same
from tests.test_sweep_kill import CELLS, ENV, children, compare, place, rerun, rows_in, started

__all__ = ["place"]
pytest.importorskip("distributed", reason="a sweep on a cluster needs distributed: pip install linflow[sweep]")
QUIET = {**ENV, "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}


@contextmanager
def cluster(folder, workers=2):
    """A scheduler and workers as processes of their own; yields its address and both."""
    file = folder / f"scheduler-{time.monotonic_ns()}.json"
    quiet = {"env": QUIET, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    dask = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)], **quiet
    )
    options = ["--nthreads", "1", "--nworkers", str(workers), "--no-dashboard", "--death-timeout", "20"]
    nanny = subprocess.Popen([*dask, "worker", "--scheduler-file", str(file), *options], **quiet)
    try:
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
        yield json.loads(file.read_text())["address"], scheduler, nanny
    finally:
        for process in (nanny, scheduler):
            process.terminate()
        for process in (nanny, scheduler):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def computing(nanny):
    """Return the processes of the workers."""
    from tests.test_sweep_kill import python

    return [pid for pid in children(nanny.pid) if python(pid)]


@pytest.mark.slow
def test_a_cluster_gives_the_numbers_of_this_machine(place):
    with cluster(place) as (address, _, _):
        assert started(place, "cluster", "--scheduler", address).wait(120) == 0
        compare(place, "cluster")
        # A folder that was begun here goes on there.
        (place / "grid-half.toml").write_text((place / "grid.toml").read_text().replace("seeds = 150", "seeds = 50"))
        run_sweep(read_grid(place / "grid-half.toml"), place / "moved", workers=2)
        assert rows_in(place, "moved") == 200
        rerun(place, "moved", "--scheduler", address)


@pytest.mark.slow
def test_workers_of_a_cluster_are_killed(place):
    rng = random.Random(4)
    with cluster(place) as (address, _, nanny):
        sweep = started(place, "killed", "--scheduler", address)
        kills = 0
        while sweep.poll() is None:
            time.sleep(rng.uniform(0.5, 2.0))
            pids = computing(nanny) if kills < 8 else []
            if pids:
                os.kill(rng.choice(pids), signal.SIGKILL)
                kills += 1
        assert kills > 2
        assert sweep.returncode in (0, 1)
        assert read_results(place / "killed").num_rows == CELLS
        rerun(place, "killed", "--scheduler", address)


@pytest.mark.slow
def test_the_scheduler_is_killed(place):
    rng = random.Random(5)
    for _ in range(3):
        with cluster(place) as (address, scheduler, _):
            sweep = started(place, "headless", "--scheduler", address, stderr=subprocess.PIPE, text=True)
            time.sleep(rng.uniform(4.0, 7.0))
            scheduler.kill()
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
    with cluster(place) as (address, _, nanny):
        for after in (3.0, 4.0):
            sweep = started(place, "gone", "--scheduler", address)
            time.sleep(after)
            sweep.kill()
            sweep.wait(10)
        assert len(computing(nanny)) == 2  # the cluster goes on
        rerun(place, "gone", "--scheduler", address)


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
