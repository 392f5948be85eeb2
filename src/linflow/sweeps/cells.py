"""Cells: certify, run and measure one experiment, on any worker. A cell that fails also gets a row."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from linflow._support.arrays import spread, to_numpy
from linflow._support.fractions import FRACTIONS
from linflow._support.provenance import software
from linflow._support.threads import one_thread
from linflow._support.version import __version__
from linflow.experiments.unused import unused
from linflow.sweeps.axes import defaults
from linflow.sweeps.grid import PATHS, UNREADABLE, Grid, file_digest
from linflow.sweeps.grid_file import problem
from linflow.sweeps.rows import fraction_columns, setting_columns

if TYPE_CHECKING:
    from linflow.certificates import Certificate
    from linflow.dynamics import Trajectory
    from linflow.experiments.schema import DataSection
    from linflow.experiments.setup import Setup
    from linflow.model.network import Network
    from linflow.model.objectives import Objective

LONGEST = 400
"""The most characters in a reason."""
ENOUGH = 2.0
"""Seconds after which a task begins no more cells, so that rows do not wait for cells that take long."""
SETTLED = 2.0
"""Age in seconds from which the dates of a file show that it has not changed. Some file systems are that coarse."""


@dataclass(frozen=True)
class Cell:
    """One experiment of a sweep.

    Attributes:
        id: hash of everything that its numbers depend on.
        settings: the settings of its experiment, by dotted name.
        digests: hashes of the files that it reads, by path.
    """

    id: str
    settings: dict[str, Any]
    digests: dict[str, str]

    @classmethod
    def of(cls, grid: Grid, index: int) -> Cell:
        """Return the cell of a grid at an index."""
        settings = grid.settings(index)
        return cls(grid.ids[index].decode(), settings, grid.digests(settings))


@dataclass(frozen=True)
class Task:
    """Cells that are computed by one call, with the options of the sweep."""

    cells: tuple[Cell, ...]
    check: bool = False
    verified: bool = False
    rigorous: bool = False
    curves: int = 0
    time_limit: float | None = None


@dataclass(frozen=True)
class Answer:
    """The rows of the first cells of a task, and the seconds that they took. The other cells were not begun."""

    rows: list[dict[str, Any]]
    seconds: float


class _OutOfTime(Exception):  # noqa: N818 - no error
    pass


class _OtherFile(Exception):  # noqa: N818
    """A file is not the one that the id of the cell depends on."""


def run_task(task: Task) -> Answer:
    """Compute the cells of a task one after the other, with one BLAS thread.

    No further cell is begun after `ENOUGH` seconds.
    """
    ready()
    rows, began, seconds = [], time.perf_counter(), 0.0
    options = {name: value for name, value in vars(task).items() if name != "cells"}
    with _one_thread_for_all():
        for cell in task.cells:
            rows.append(run_cell(cell, **options))
            seconds = time.perf_counter() - began
            if seconds > ENOUGH:
                break
    return Answer(rows, seconds)


@lru_cache(maxsize=1)
def ready() -> str:
    """Load everything that a cell needs, so that the time of the first cell does not include it."""
    # Imported only where cells are run.
    from linflow import init  # noqa: PLC0415
    from linflow.experiments.schema import Experiment  # noqa: PLC0415
    from linflow.experiments.setup import Setup  # noqa: PLC0415
    from linflow.model.quadratics import MatrixFactorization  # noqa: PLC0415

    flow = Experiment.model_validate({"flow": {"until": 1e-3}})
    setup = Setup(flow, MatrixFactorization(np.eye(2)), init.gaussian((2, 3, 2), rng=0), {})
    setup.certify().time_to(1e-3)
    setup.run().time_to(FRACTIONS)
    return __version__


def run_cell(
    cell: Cell,
    *,
    check: bool = False,
    verified: bool = False,
    rigorous: bool = False,
    curves: int = 0,
    time_limit: float | None = None,
) -> dict[str, Any]:
    """Certify a start, run it and return its row. If anything goes wrong, the row has failed and gives the reason.

    Args:
        cell: the cell to run.
        check: compare the run with every guarantee at every recorded time.
        verified: prove by verified computation when the target is reached.
        rigorous: certify with the rounding proved, too.
        curves: the most points of the run to keep.
        time_limit: seconds after which the cell fails; checked between certificate and run, and during the run.

    Returns:
        Values by column of `rows.SCHEMA`.
    """
    began = time.perf_counter()
    row = failed(cell, "error", "")
    try:
        row |= _measured(cell, check, verified, rigorous, curves, None if time_limit is None else began + time_limit)
    except _OutOfTime:
        row |= {"failure": "time limit", "reason": f"it took longer than the limit of {time_limit:g} s"}
    except _OtherFile as error:
        row |= {"failure": "file", "reason": explained(error)}
    except OSError as error:  # from a file that was there a moment ago
        known = all(digest != UNREADABLE.format(path) for path, digest in cell.digests.items())
        row |= {"failure": "file" if known else "settings", "reason": explained(error)}
    except (ValueError, TypeError) as error:
        row |= {"failure": "settings", "reason": explained(error)}
    except Exception as error:
        row["reason"] = f"{type(error).__name__}: {explained(error)}"
    return row | {"seconds": time.perf_counter() - began, "finished": time.time()}


def failed(cell: Cell, failure: str, reason: str) -> dict[str, Any]:
    """Return the row of a failed cell: its settings and the reason."""
    settings = {**defaults(), **cell.settings}
    weights = settings.get("start.weights") is not None
    for name in unused(settings["algorithm"], weights=weights, init=str(settings["start.init"])):
        settings.pop(name, None)
    return {
        **setting_columns(settings),
        "id": cell.id,
        "status": "failed",
        "failure": failure,
        "reason": reason,
        "settings": json.dumps(cell.settings, sort_keys=True, ensure_ascii=False, default=str),
        "versions": _versions(),
        "seconds": 0.0,
        "finished": time.time(),
    }


def _measured(
    cell: Cell, check: bool, verified: bool, rigorous: bool, curves: int, deadline: float | None
) -> dict[str, Any]:
    from linflow.sweeps.proofs import proof_columns, rigorous_columns  # noqa: PLC0415 - see `ready`

    setup = prepared(cell.settings, cell.digests)
    objective, network, until = setup.objective, setup.network, setup.experiment.flow.until
    certificate = setup.certify()
    _in_time(deadline)
    run = _run(setup, deadline)
    with np.errstate(over="ignore", invalid="ignore"):  # weights may have diverged
        noise = max(objective.rounding(network), objective.rounding(run.final))
    row = _start(certificate, network) | _promised(certificate, until) | _observed(run, until, noise)
    if row["least_rate"] > 0:
        row["tightness"] = row["certified_rate"] / row["least_rate"]
    if check:
        found = certificate.check(run)
        row |= {"holds": found.holds, "worst_slack": found.worst_slack, "worst_gap": found.worst_gap}
    if verified:
        _in_time(deadline)
        row |= proof_columns(setup)
    if rigorous:
        _in_time(deadline)
        row |= rigorous_columns(setup)
    if curves:
        some = spread(len(run.t), curves)
        row |= {f"curve_{name}": to_numpy(getattr(run, name))[some].tolist() for name in ("t", "gap", "rate")}
        if run.step_sizes is not None:
            row["curve_step_size"] = to_numpy(run.step_sizes)[spread(len(run.step_sizes), curves)].tolist()
    if run.result.ok:
        return row | {"status": "ok", "failure": "", "reason": ""}
    return row | {"failure": "run", "reason": run.result.value}


def prepared(settings: Mapping[str, Any], digests: Mapping[str, str]) -> Setup:
    """Return the experiment of a cell, ready to run.

    Args:
        settings: the settings, by dotted name.
        digests: hashes that its files must have, by path.

    Raises:
        ValueError, TypeError: the settings do not make an experiment, or do not fit the data.
        OSError, _OtherFile: a file cannot be read, or is not the file of the sweep.
    """
    from linflow.experiments.building import network_of, steps_of  # noqa: PLC0415 - see `ready`
    from linflow.experiments.setup import Setup  # noqa: PLC0415

    experiment = problem(settings, "settings")
    read = {str(settings.get(name)) for name in PATHS if name.startswith("data.")}
    data = tuple((path, digest) for path, digest in digests.items() if path in read)
    with _unchanged(digests):
        objective = _objective(experiment.data, data)  # pyright: ignore[reportArgumentType] - frozen, so hashable
        network = network_of(experiment, objective)
    return Setup(experiment, objective, network, steps_of(experiment, objective, network))


def _start(certificate: Certificate, network: Network) -> dict[str, Any]:
    return {
        "n": network.shape[0],
        "m": network.shape[1],
        "width": min(network.widths[1:-1], default=None),
        "depth": network.depth,
        "hidden": list(network.widths[1:-1]),
        "output_scale": network.scale,
        "initial_gap": certificate.gap,
        "pl_constant": certificate.pl_constant,
    }


def _promised(certificate: Certificate, until: float) -> dict[str, Any]:
    times = {
        name: certificate.time_to(x) for name, x in zip(fraction_columns("certified_time"), FRACTIONS, strict=True)
    }
    best = certificate.best
    return {
        "certificate": best.name if best else "",
        "certified_rate": certificate.rate,
        "guarantees": [g.name for g in certificate.guarantees],
        "guaranteed_rates": [g.rate for g in certificate.guarantees],
        **times,
        "certified_time": certificate.time_to(until),
    }


def _observed(run: Trajectory, until: float, noise: float) -> dict[str, Any]:
    t, gap, rate = (to_numpy(x) for x in (run.t, run.gap, run.rate))
    seen = gap > noise  # a gap below rounding has no rate
    last = int(np.flatnonzero(seen)[-1]) if seen.any() else 0
    with np.errstate(divide="ignore", invalid="ignore"):  # the gap may begin at 0 or end at infinity
        mean = float(np.log(gap[0]) - np.log(gap[last])) / t[last] if last else math.nan
    times = run.time_to((*FRACTIONS, until))
    return {
        "result": run.result.value,
        "steps": run.stats.steps,
        "step_size": run.step_size,
        "t_end": float(t[-1]),
        "final_gap": float(gap[-1]),
        "rate": mean,
        "least_rate": float(np.min(rate[seen], initial=math.inf)) if seen.any() else math.nan,
        "final_rate": float(rate[last]),
        **dict(zip(fraction_columns("time"), times[:-1].tolist(), strict=True)),
        "time": float(times[-1]),
        "imbalance_drift": run.stats.imbalance_drift,
        "notes": "; ".join(run.notes),
    }


def _run(setup: Setup, deadline: float | None) -> Trajectory:
    from linflow.dynamics import Interrupted  # noqa: PLC0415 - see `ready`

    every = max(1, setup.experiment.descent.steps // 10_000)
    if deadline is None:
        return setup.run(every=every)
    try:
        return setup.run(every=every, stopped=lambda: time.perf_counter() > deadline)
    except Interrupted:
        _in_time(deadline)
        raise


def _in_time(deadline: float | None) -> None:
    if deadline is not None and time.perf_counter() > deadline:
        raise _OutOfTime


def explained(error: BaseException) -> str:
    """Return the text of an error on one line, cut to `LONGEST` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


@contextmanager
def _unchanged(digests: Mapping[str, str]) -> Iterator[None]:
    """Refuse files that are not those of the sweep.

    They are checked before they are read, and again afterwards because they can change in between.
    """
    _same(digests)
    try:
        yield
    finally:  # runs after an error too: errors in the content of a changed file are not reported
        _same(digests)


def _same(digests: Mapping[str, str]) -> None:
    for path, digest in digests.items():
        if (now := _digest(path)) != digest:
            lost = now == UNREADABLE.format(path)
            where = "it is not readable where the cell runs" if lost else "it changed since the sweep began"
            raise _OtherFile(f"{path} is not the file of this sweep: {where}. Run the sweep again.")


def _digest(path: str) -> str:
    """Return the hash of a file, from the cache if the file has not changed since."""
    try:
        found = os.stat(path)
    except OSError:
        return file_digest(path)
    stamp = (path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    # A file that changed just now can change again within one tick of its file system's clock.
    if time.time() - max(found.st_mtime, found.st_ctime) < SETTLED:
        return file_digest(path)
    return _stamped_digest(*stamp)


@lru_cache(maxsize=64)
def _stamped_digest(path: str, *_stamp: int) -> str:
    return file_digest(path)


@lru_cache(maxsize=8)
def _objective(data: DataSection, digests: tuple[tuple[str, str], ...]) -> Objective:
    """Read the data once for all cells that share them. Data that change while they are read are not kept."""
    from linflow.experiments.building import objective_of  # noqa: PLC0415 - see `ready`

    with _unchanged(dict(digests)):
        return objective_of(data)


@lru_cache(maxsize=1)
def _versions() -> str:
    return ", ".join(f"{name} {number}" for name, number in software().items())


_lock = threading.Lock()
_users: list[Any] = [0, None]


@contextmanager
def _one_thread_for_all() -> Iterator[None]:
    """Limit BLAS to one thread while any thread of this process runs cells.

    With more BLAS threads, rounding happens in another order.
    """
    with _lock:
        if _users[0] == 0:
            _users[1] = one_thread()
            _users[1].__enter__()
        _users[0] += 1
    try:
        yield
    finally:
        with _lock:
            _users[0] -= 1
            if _users[0] == 0:
                _users[1].__exit__(None, None, None)
