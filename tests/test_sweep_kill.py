"""Sweeps whose processes are killed, whose disk is full and which share a folder: nothing is lost, nothing twice."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from linflow.sweeps import read_results, sweep_status
from linflow.sweeps.rows import TIMING
from linflow.sweeps.store import RESULTS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, /proc and mounts are those of Unix")

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
GRID = """
[data]
target = "Y.npy"

[flow]
until = 1e-10

[sweep]
curves = 20

[grid]
width = [20, 30]
init = ["ntk", "fan_in"]
seeds = 300
"""
CELLS = 1200
"""Enough for some five to ten seconds of one process."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a grid, and what a sweep of it gives when nothing happens."""
    folder = tmp_path_factory.mktemp("sweep")
    np.save(folder / "Y.npy", np.random.default_rng(0).normal(size=(20, 5)))
    (folder / "grid.toml").write_text(GRID)
    assert started(folder, "undisturbed").wait(120) == 0
    assert read_results(folder / "undisturbed").num_rows == CELLS
    return folder


def started(place, out, *options, **how):
    """Start a sweep as a user does, in a process group of its own."""
    command = [sys.executable, "-m", "linflow", "sweep", "grid.toml", "--out", str(out), *options]
    return subprocess.Popen(command, cwd=place, env=ENV, stdout=subprocess.DEVNULL, start_new_session=True, **how)


def compare(place, out):
    """Assert that the table is complete, without duplicates, and that of an undisturbed sweep."""
    tables = [read_results(place / name).drop_columns(list(TIMING)) for name in (out, "undisturbed")]
    ids = tables[0]["id"].to_pylist()
    assert len(ids) == len(set(ids)) == CELLS
    assert repr(tables[0].to_pylist()) == repr(tables[1].to_pylist())  # NaN equal to NaN, and every digit
    assert not list((place / out).rglob("*.tmp"))


def rerun(place, out, *options):
    """Run to the end, and again: then there is nothing left to compute."""
    assert started(place, out, *options).wait(120) == 0
    compare(place, out)
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted((place / out / "parts").iterdir())]
    assert started(place, out, *options).wait(60) == 0
    assert before == [(path.name, path.stat().st_mtime_ns) for path in sorted((place / out / "parts").iterdir())]
    compare(place, out)


def rows_in(place, out):
    try:
        return sweep_status(place / out).done
    except FileNotFoundError:
        return 0


def children(pid):
    """Return the processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


def python(pid):
    """Whether a process computes cells, and is not one of the helpers of multiprocessing."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_the_parent_is_killed_again_and_again(place):
    rng = random.Random(1)
    kept = kills = 0
    for _ in range(12):
        sweep = started(place, "parent", "--workers", "2")
        time.sleep(rng.uniform(0.5, 4.0))
        workers = [pid for pid in children(sweep.pid) if python(pid)]
        done = sweep.poll()
        sweep.kill()
        sweep.wait(10)
        now = rows_in(place, "parent")
        assert now >= kept  # what is written stays written
        kept = now
        # Its workers do not outlive it.
        deadline = time.monotonic() + 10
        while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in workers)
        if done is not None:
            break
        kills += 1
    assert kills >= 3
    rerun(place, "parent")


@pytest.mark.slow
def test_workers_are_killed_at_random_moments(place):
    rng = random.Random(2)
    sweep = started(place, "workers", "--workers", "2")
    killed = 0
    while sweep.poll() is None:
        # Long enough that one lives now and then: ten deaths in a row as they start end a sweep, and should.
        time.sleep(rng.uniform(0.05, 5.0))
        pids = [pid for pid in children(sweep.pid) if python(pid)] if killed < 12 else []
        if pids:
            os.kill(rng.choice(pids), signal.SIGKILL)
            killed += 1
    assert killed > 2
    # A cell that was being computed at three deaths has failed; it is tried again.
    assert sweep.returncode in (0, 1)
    assert read_results(place / "workers").num_rows == CELLS
    rerun(place, "workers")


@pytest.mark.slow
def test_two_sweeps_share_a_folder_and_one_is_killed(place):
    first, second = (started(place, "shared", "--workers", "1") for _ in range(2))
    assert (first.wait(120), second.wait(120)) == (0, 0)
    compare(place, "shared")
    parts = sum(table.num_rows for table in map(_part, (place / "shared" / "parts").iterdir()))
    assert parts < 1.6 * CELLS  # they shared the work: neither did it all
    rerun(place, "shared")

    rng = random.Random(3)
    for _ in range(4):
        pair = [started(place, "both", "--workers", "1") for _ in range(2)]
        time.sleep(rng.uniform(1.0, 4.0))
        rng.choice(pair).kill()
        time.sleep(0.5)
        for sweep in pair:
            sweep.kill()
            sweep.wait(10)
    rerun(place, "both")


def _part(path):
    import pyarrow.parquet as pq

    return pq.read_table(path)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(place):
    sweep = started(place, "ctrl-c", "--workers", "2", stderr=subprocess.PIPE, text=True, preexec_fn=_listen)
    deadline = time.monotonic() + 30
    while rows_in(place, "ctrl-c") == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does, to the workers too
    began = time.monotonic()
    _, err = sweep.communicate(timeout=30)
    assert sweep.returncode == 130, err
    assert time.monotonic() - began < 3  # a second is promised; the rest is for a busy machine
    done = rows_in(place, "ctrl-c")
    assert 0 < done < CELLS
    assert f"interrupted; {done} of {CELLS} cells are kept in ctrl-c" in err
    assert "Traceback" not in err
    rerun(place, "ctrl-c")


def _listen():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _small_files():
    # SIGXFSZ would end Python; ignored, the write fails.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


@pytest.mark.slow
def test_files_that_may_not_grow(place):
    sweep = started(place, "small", "--workers", "1", stderr=subprocess.PIPE, text=True, preexec_fn=_small_files)
    _, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 2
    assert "Traceback" not in err
    assert err.count("\n") == 1, err
    assert not (place / "small" / RESULTS).exists()
    rerun(place, "small")


FULL = """
set -e
mount -t tmpfs -o size=200k none full
set +e
"$PYTHON" -m linflow sweep grid.toml --out full --workers 2 2> full-1.txt; echo $? >> full-1.txt
"$PYTHON" -m linflow sweep grid.toml --out full --workers 2 2> full-2.txt; echo $? >> full-2.txt
ls full/parts | wc -l > full-parts.txt
mount -o remount,size=50m full
"$PYTHON" -m linflow sweep grid.toml --out full --workers 2 2> full-3.txt; echo $? >> full-3.txt
cp -r full/. filled
"""


@pytest.mark.slow
def test_the_disk_is_full(place):
    (place / "full").mkdir()
    (place / "filled").mkdir()
    probe = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs none full"]
    if (
        shutil.which("unshare") is None
        or subprocess.run(probe, cwd=place, capture_output=True, check=False).returncode
    ):
        pytest.skip("a tmpfs cannot be mounted here; files that may not grow stand for it")
    subprocess.run([*probe[:-1], FULL], cwd=place, env={**ENV, "PYTHON": sys.executable}, check=True, timeout=200)
    for name in ("full-1.txt", "full-2.txt"):
        text = (place / name).read_text()
        assert text.splitlines()[-1] == "2", text
        assert "No space left on device" in text
        assert "Traceback" not in text
    assert int((place / "full-parts.txt").read_text()) > 0  # what there was room for is there
    assert (place / "full-3.txt").read_text().splitlines()[-1] == "0"
    compare(place, "filled")


def test_ctrl_c_before_anything_is_done_and_a_folder_that_is_none(tmp_path):
    np.save(tmp_path / "Y.npy", np.eye(3))
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "file").touch()
    sweep = started(tmp_path, "file/out", stderr=subprocess.PIPE, text=True)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 2
    assert err.startswith("linflow: ")
    assert err.count("\n") == 1
