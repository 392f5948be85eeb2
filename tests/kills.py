"""Sweeps whose processes are killed, put to sleep and short of room, a hundred times: `make kills`.

    python -m tests.kills --kills 100 --seed 0

Real processes get real signals at random moments. After each scene the same command is run again. Then every cell
has one row, with every digit that an undisturbed sweep gives, and nothing is computed twice. Prints what was done.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linflow.sweeps import read_results
from tests.sweeps import test_kill as sweeps
from tests.sweeps.test_dask import cluster
from tests.sweeps.test_kill import CELLS, GRID, Gate, alive, children, compare, rerun, rows_in, started
from tests.waiting import PATIENCE, waited

MINUTE = 60.0
SEEDS = 300
SET_BACK = """
import time
real = time.time
time.time = lambda: real() - 86_400 * (gate / "back").exists()
"""
"""What a process of a sweep whose clock is set back a day runs first, after what it runs at its gate."""


KILLED: Counter[str] = Counter()
"""The kills of each scene, and of the one that runs."""


def _killed(process: subprocess.Popen) -> None:
    """Kill a process that is there."""
    assert process.poll() is None, f"it had ended with {process.returncode}"
    KILLED["now"] += 1
    process.kill()
    process.wait(PATIENCE)


def _workers(process: subprocess.Popen, gate: Gate, begun: bool = False) -> list[int]:
    found = [pid for pid in children(process.pid) if sweeps.python(pid) and alive(pid)]
    return [pid for pid in found if gate.begun(pid) or not begun]


def _grown(place: Path, out: str, kept: int, *processes: subprocess.Popen) -> int:
    waited(lambda: rows_in(place, out) > kept or all(one.poll() is not None for one in processes))
    return rows_in(place, out)


def parent(place: Path, gate: Gate, kills: int, rng: random.Random) -> None:
    """Kill the process that runs the sweep. Its workers do not outlive it, and what is written stays written."""
    kept = 0
    for kill in range(1, kills + 1):
        gate.open_to(SEEDS * kill // (kills + 1))
        sweep = started(place, "parent", "--workers", "2", env=gate.env)
        _grown(place, "parent", kept, sweep)
        time.sleep(rng.uniform(0.0, 0.5))
        own = _workers(sweep, gate)
        _killed(sweep)
        now = rows_in(place, "parent")
        assert now > kept
        kept = now
        waited(lambda own=own: not any(alive(pid) for pid in own))
    rerun(place, "parent")


def workers(place: Path, gate: Gate, kills: int, rng: random.Random) -> None:
    """Kill the processes that compute. Others take their place."""
    gate.open_to(5)
    sweep = started(place, "workers", "--workers", "2", env=gate.env)
    for kill in range(kills):
        # Every other one has begun a cell: ten deaths in a row as they start end a sweep, and should.
        pids: Any = waited(lambda kill=kill: _workers(sweep, gate, kill % 2 == 0) or sweep.poll() is not None)
        assert sweep.poll() is None, "the sweep ended"
        os.kill(rng.choice(pids), signal.SIGKILL)
        KILLED["now"] += 1
    gate.open()
    assert sweep.wait(PATIENCE) in (0, 1)  # a cell that met three deaths has failed; it is tried again
    assert read_results(place / "workers").num_rows == CELLS
    rerun(place, "workers")


def three(place: Path, gate: Gate, kills: int, rng: random.Random) -> None:
    """Kill three sweeps that share a folder, one after the other."""
    rounds, kept = -(-kills // 3), 0
    for turn in range(1, rounds + 1):
        gate.open_to(SEEDS * turn // (rounds + 1))
        sharing = [started(place, "three", "--workers", "1", env=gate.env) for _ in range(3)]
        _grown(place, "three", kept, *sharing)
        rng.shuffle(sharing)
        for sweep in sharing:
            _killed(sweep)
            time.sleep(rng.uniform(0.0, 0.3))
        now = rows_in(place, "three")
        assert kept < now < CELLS
        kept = now
    sharing = [started(place, "three", "--workers", "1") for _ in range(3)]
    assert [sweep.wait(PATIENCE) for sweep in sharing] == [0, 0, 0]
    rerun(place, "three")


def scheduler(place: Path, gate: Gate, kills: int, rng: random.Random) -> None:
    """Kill the scheduler of a Dask cluster. The sweep ends in one line, and goes on with another scheduler."""
    kept = 0
    for kill in range(1, kills + 1):
        gate.open_to(SEEDS * kill // (kills + 1))
        with cluster(place, env=gate.env) as dask:
            pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True}
            sweep = started(place, "scheduler", "--scheduler", dask.address, env=gate.env, **pipes)
            _grown(place, "scheduler", kept, sweep)
            time.sleep(rng.uniform(0.0, 0.3))
            _killed(dask.scheduler)
            _, err = sweep.communicate(timeout=PATIENCE)
        assert sweep.returncode == 2, err
        assert len(sweeps.told(err)) == 1, err
        assert "Traceback" not in err
        now = rows_in(place, "scheduler")
        assert kept < now < CELLS
        kept = now
    rerun(place, "scheduler")


def on_a_cluster(place: Path, gate: Gate, kills: int, rng: random.Random) -> None:
    """Kill the workers of a cluster, and at the end the sweep itself."""
    gate.open_to(5)
    with cluster(place, env=gate.env) as dask:
        sweep = started(place, "cluster", "--scheduler", dask.address, env=gate.env)
        for _ in range(kills - 1):
            i = rng.randrange(2)
            waited(lambda i=i: gate.begun(dask.workers[i].pid) or sweep.poll() is not None)
            assert sweep.poll() is None, "the sweep ended"
            assert dask.workers[i].poll() is None
            dask.replace(i)
            KILLED["now"] += 1
        _killed(sweep)
        assert dask.scheduler.poll() is None
        gate.open()
        assert started(place, "cluster", "--scheduler", dask.address).wait(PATIENCE) in (0, 1)
        assert read_results(place / "cluster").num_rows == CELLS
        rerun(place, "cluster", "--scheduler", dask.address)


def set_back(place: Path, gate: Gate, kills: int, rng: random.Random) -> None:
    """Set the clock back a day while a sweep runs, kill it, and go on with the right time."""
    (gate.folder / "sitecustomize.py").write_text(sweeps.GATED + SET_BACK)
    kept = 0
    for kill in range(1, kills + 1):
        gate.open_to(SEEDS * kill // (kills + 1))
        (gate.folder / "back").unlink(missing_ok=True)
        sweep = started(place, "back", "--workers", "2", env=gate.env)
        _grown(place, "back", kept, sweep)
        (gate.folder / "back").touch()
        time.sleep(rng.uniform(0.5, 1.5))
        _killed(sweep)
        now = rows_in(place, "back")
        assert now > kept
        kept = now
    rerun(place, "back")


def asleep(place: Path, gate: Gate, kills: int, rng: random.Random) -> None:
    """Stop a whole sweep for a minute, as a machine that sleeps, and in another one a worker alone."""
    gate.open_to(10)
    all_of_it, one_of_it = (started(place, f"asleep-{i}", "--workers", "2", env=gate.env) for i in range(2))
    for i, sweep in enumerate((all_of_it, one_of_it)):
        _grown(place, f"asleep-{i}", 0, sweep)
    worker = rng.choice(waited(lambda: _workers(one_of_it, gate, begun=True)))
    os.killpg(all_of_it.pid, signal.SIGSTOP)
    os.kill(worker, signal.SIGSTOP)
    gate.open()
    time.sleep(MINUTE)
    assert (all_of_it.poll(), one_of_it.poll()) == (None, None)
    os.killpg(all_of_it.pid, signal.SIGCONT)
    os.kill(worker, signal.SIGCONT)
    for i, sweep in enumerate((all_of_it, one_of_it)):
        assert sweep.wait(PATIENCE) == 0
        compare(place, f"asleep-{i}")


def full(place: Path, gate: Gate, kills: int, rng: random.Random) -> None:
    """Let the disk run full, and then files that may not grow."""
    sweeps.test_the_disk_is_full(place)
    sweeps.test_files_that_may_not_grow(place)


Scene = Callable[[Path, Gate, int, random.Random], None]
SCENES: tuple[tuple[str, Scene, float], ...] = (
    ("the process that runs the sweep", parent, 0.15),
    ("its workers", workers, 0.35),
    ("three sweeps in one folder", three, 0.18),
    ("the scheduler of a cluster", scheduler, 0.05),
    ("workers of a cluster, and the sweep on it", on_a_cluster, 0.22),
    ("a sweep whose clock was set back a day", set_back, 0.05),
    ("asleep for a minute, twice", asleep, 0.0),
    ("the disk is full, and files may not grow", full, 0.0),
)
"""What is killed, how, and which part of the kills that is."""


def main() -> int:
    """Run the scenes, and print how often each was killed. Return 1 if anything was lost, doubled or different."""
    parser = argparse.ArgumentParser(description="Sweeps whose processes are killed.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began, violations = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "Y.npy", np.random.default_rng(0).normal(size=(20, 5)))
        (place / "grid.toml").write_text(GRID)
        assert started(place, "undisturbed").wait(PATIENCE) == 0
        for number, (name, scene, share) in enumerate(SCENES):
            kills, since = round(share * arguments.kills), time.monotonic()
            (place / f"gate-{number}").mkdir()
            try:
                scene(place, Gate(place / f"gate-{number}"), kills, random.Random(arguments.seed + number))
                ended = "every row once, every digit the same"
            except pytest.skip.Exception as skipped:
                ended = f"skipped: {skipped}"
            except AssertionError as error:
                violations += 1
                ended = f"VIOLATED: {error!s:.500}"
            KILLED[name] = KILLED.pop("now", 0)
            print(f"{name:<45}{KILLED[name]:>4} kills  {time.monotonic() - since:5.0f} s  {ended}", flush=True)
    print(
        f"{KILLED.total()} kills, {violations} violations, {time.monotonic() - began:.0f} s, "
          f"seed {arguments.seed}")  # fmt: skip
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
