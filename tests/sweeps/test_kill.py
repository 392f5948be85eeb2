"""Sweeps whose processes are killed, whose disk is full and which share a folder: nothing is lost, nothing twice."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from linflow.sweeps import read_results, sweep_status
from linflow.sweeps.rows import TIMING
from linflow.sweeps.store import RESULTS
from tests.waiting import PATIENCE, waited

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
seeds = 300
width = [20, 30]
init = ["ntk", "fan_in"]
"""
CELLS = 1200
"""Enough for some five to ten seconds of one process."""
PER_SEED = 4
GATED = """
import os, time
from pathlib import Path

from linflow.sweeps import cells

gate, run = Path(os.environ["LINFLOW_GATE"]), cells.run_cell


def gated(cell, **options):
    (gate / f"begun-{os.getpid()}").touch()
    while (gate / "seeds").exists() and cell.settings["start.seed"] >= len((gate / "seeds").read_bytes()):
        time.sleep(0.01)
    return run(cell, **options)


cells.run_cell = gated
"""
"""What every process of a gated sweep runs first: cells wait at their gate, however fast the machine is."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a grid, and what a sweep of it gives when nothing happens."""
    folder = tmp_path_factory.mktemp("sweep")
    np.save(folder / "Y.npy", np.random.default_rng(0).normal(size=(20, 5)))
    (folder / "grid.toml").write_text(GRID)
    assert started(folder, "undisturbed").wait(PATIENCE) == 0
    assert read_results(folder / "undisturbed").num_rows == CELLS
    return folder


def started(place, out, *options, **how):
    """Start a sweep as a user does, in a process group of its own."""
    command = [sys.executable, "-m", "linflow", "sweep", "grid.toml", "--out", str(out), *options]
    how = {"env": ENV, **how}
    return subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, start_new_session=True, **how)


class Gate:
    """A gate before each cell: of so many seeds it is open, and for the others shut."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "sitecustomize.py").write_text(GATED)
        python_path = os.pathsep.join([str(folder), *filter(None, [ENV.get("PYTHONPATH")])])
        self.env = {**ENV, "LINFLOW_GATE": str(folder), "PYTHONPATH": python_path}

    def open_to(self, seeds):
        """Let cells of so many seeds pass."""
        with open(self.folder / "seeds", "ab") as file:  # only longer, so that nobody meets half a file
            file.write(b"." * (seeds - file.tell()))

    def open(self):
        """Let all cells pass."""
        with suppress(FileNotFoundError):
            (self.folder / "seeds").unlink()

    def begun(self, pid):
        """Whether a process has begun a cell."""
        return (self.folder / f"begun-{pid}").exists()


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path)


def compare(place, out):
    """Assert that the table is complete, without duplicates, and that of an undisturbed sweep."""
    tables = [read_results(place / name).drop_columns(list(TIMING)) for name in (out, "undisturbed")]
    ids = tables[0]["id"].to_pylist()
    assert len(ids) == len(set(ids)) == CELLS
    assert repr(tables[0].to_pylist()) == repr(tables[1].to_pylist())  # NaN equal to NaN, and every digit
    assert not list((place / out).rglob("*.tmp"))


def rerun(place, out, *options):
    """Run to the end, and again: then there is nothing left to compute."""
    assert started(place, out, *options).wait(PATIENCE) == 0
    compare(place, out)
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted((place / out / "parts").iterdir())]
    assert started(place, out, *options).wait(PATIENCE) == 0
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
    """Whether a process computes cells."""
    try:
        return b"linflow.sweeps.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_the_parent_is_killed_again_and_again(place, gate):
    rng = random.Random(1)
    kept = 0
    for kill in range(1, 5):
        gate.open_to(10 * kill)  # at most 40 cells more, and one at least
        sweep = started(place, "parent", "--workers", "2", env=gate.env)
        waited(lambda sweep=sweep, kept=kept: rows_in(place, "parent") > kept or sweep.poll() is not None)
        time.sleep(rng.uniform(0.0, 1.0))  # at whatever moment
        workers = [pid for pid in children(sweep.pid) if python(pid)]
        assert sweep.poll() is None
        sweep.kill()
        sweep.wait(PATIENCE)
        now = rows_in(place, "parent")
        assert now > kept  # what is written stays written
        kept = now
        waited(lambda workers=workers: not any(alive(pid) for pid in workers))  # they do not outlive it
    rerun(place, "parent")


@pytest.mark.slow
def test_workers_are_killed_at_random_moments(place, gate):
    rng = random.Random(2)
    gate.open_to(5)  # it cannot end meanwhile
    sweep = started(place, "workers", "--workers", "2", env=gate.env)

    def there(begun):
        return [pid for pid in children(sweep.pid) if python(pid) and alive(pid) and (gate.begun(pid) or not begun)]

    for kill in range(12):
        # Every other one has begun a cell: ten deaths in a row as they start end a sweep, and should.
        pids = waited(lambda kill=kill: there(begun=kill % 2 == 0) or sweep.poll() is not None)
        assert sweep.poll() is None
        os.kill(rng.choice(pids), signal.SIGKILL)
    gate.open()
    # A cell that was being computed at three deaths has failed; it is tried again.
    assert sweep.wait(PATIENCE) in (0, 1)
    assert read_results(place / "workers").num_rows == CELLS
    rerun(place, "workers")


@pytest.mark.slow
def test_two_sweeps_share_a_folder_and_one_is_killed(place, gate):
    first, second = (started(place, "shared", "--workers", "1") for _ in range(2))
    assert (first.wait(PATIENCE), second.wait(PATIENCE)) == (0, 0)
    compare(place, "shared")
    rerun(place, "shared")

    rng, kept = random.Random(3), 0
    for kill in range(1, 4):
        gate.open_to(10 * kill)
        pair = [started(place, "both", "--workers", "1", env=gate.env) for _ in range(2)]
        waited(lambda kept=kept: rows_in(place, "both") > kept)
        rng.choice(pair).kill()
        time.sleep(rng.uniform(0.0, 1.0))
        for sweep in pair:
            sweep.kill()
            sweep.wait(PATIENCE)
        kept = rows_in(place, "both")
        assert kept < CELLS
    rerun(place, "both")


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(place, gate):
    gate.open_to(10)  # and shut for the rest: it ends without waiting for any cell
    pipes = {"stderr": subprocess.PIPE, "text": True}
    sweep = started(place, "ctrl-c", "--workers", "2", env=gate.env, preexec_fn=_listen, **pipes)
    waited(lambda: rows_in(place, "ctrl-c") > 0 or sweep.poll() is not None)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does, to the workers too
    _, err = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 130, err
    done = rows_in(place, "ctrl-c")
    assert 0 < done <= 10 * PER_SEED
    assert f"interrupted; {done} of {CELLS} cells are kept in ctrl-c" in err
    assert "Traceback" not in err
    rerun(place, "ctrl-c")


def _listen():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def told(err):
    """Return the lines that say what went wrong; progress may be told before, of a slow machine."""
    return [line for line in err.splitlines() if line.startswith("linflow: ")]


def _small_files():
    # SIGXFSZ would end Python; ignored, the write fails.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


@pytest.mark.slow
def test_files_that_may_not_grow(place):
    sweep = started(place, "small", "--workers", "1", stderr=subprocess.PIPE, text=True, preexec_fn=_small_files)
    _, err = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 2
    assert "Traceback" not in err
    assert len(told(err)) == 1, err
    assert not (place / "small" / RESULTS).exists()
    rerun(place, "small")


FULL = """
set -e
mount -t tmpfs -o size=200k none full
"$PYTHON" -m linflow sweep few.toml --out full --workers 1
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
    # Four cells, for which there is room in as many parts as may be.
    (place / "few.toml").write_text(GRID.replace("seeds = 300", "seeds = 1"))
    probe = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs none full"]
    if (
        shutil.which("unshare") is None
        or subprocess.run(probe, cwd=place, capture_output=True, check=False).returncode
    ):
        pytest.skip("a tmpfs cannot be mounted here; files that may not grow stand for it")
    subprocess.run(
        [*probe[:-1], FULL], cwd=place, env={**ENV, "PYTHON": sys.executable}, check=True, timeout=PATIENCE
    )
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
    _, err = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 2
    assert err.startswith("linflow: ")
    assert err.count("\n") == 1
