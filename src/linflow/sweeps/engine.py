"""Engines: where tasks are computed. Processes of this machine, or a Dask cluster that there is already."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from typing import Any, NoReturn, Protocol, cast

from linflow.sweeps.cells import Answer, Task, ready, run_task

AHEAD = 2
"""Tasks that a worker has, the one it computes included."""
GRACE = 10.0
"""Seconds that a task may take beyond the limits of its cells, which look at the time themselves where they can."""
LOGS = ("distributed", "distributed.client")
FALSE_STARTS = 10
"""Times in a row that a process may die before it has begun anything."""


class Died(Exception):  # noqa: N818 - what happened to a task, not a mistake
    """The process that ran a task is no more, and nothing of the task is known."""


class Lost(Exception):  # noqa: N818
    """A task has not begun, and will not: its process died before."""


class Late(Exception):  # noqa: N818
    """A task did not end by itself within the limits of its cells, and was ended."""


class Engine(Protocol):
    """Where tasks are computed."""

    @property
    def workers(self) -> int:
        """Tasks that can be computed at the same time."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether there is nobody to compute anything just now."""
        ...

    def submit(self, task: Task) -> None:
        """Have a task computed."""
        ...

    def wait(self, seconds: float) -> list[tuple[Task, Answer | Exception]]:
        """Return the tasks that have ended since, with their answers, `Died` or `Lost`; wait so long at most."""
        ...

    def close(self) -> None:
        """End everything that runs, at once."""
        ...


@dataclass
class _Slot:
    """A process, and what it has been given; the first is what it computes."""

    pool: ProcessPoolExecutor
    started: Future[Any]
    tasks: dict[Future[Answer], Task] = field(default_factory=dict)
    since: float = 0.0
    begun: bool = False
    late: bool = False

    def end_if_late(self) -> None:
        """Kill the process where its task is over its time."""
        future, task = next(iter(self.tasks.items()), (None, None))
        if future is None or task is None or task.time_limit is None or self.late or future.done():
            return
        if not self.begun:  # its time does not run before the process does
            self.begun, self.since = self.started.done(), time.monotonic()
            return
        if time.monotonic() - self.since > task.time_limit * len(task.cells) + GRACE:
            self.late = True
            for process in _processes(self.pool):
                process.kill()


class LocalEngine:
    """Processes of this machine, one pool each, so that a death is that of one task, which is known."""

    def __init__(self, workers: int | None = None):
        self._slots: list[_Slot] = []
        self._false_starts = 0
        count = workers or cores()
        if multiprocessing.current_process().daemon:
            raise RuntimeError(
                "a sweep starts processes, which a daemonic process, such as one of multiprocessing.Pool, may not; "
                "start it from another, or give the scheduler of a Dask cluster."
            )
        try:
            for _ in range(count):
                self._slots.append(_slot())
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """Number of processes."""
        return len(self._slots)

    @property
    def waiting(self) -> bool:
        """Never: a process that dies is replaced."""
        return False

    def processes(self) -> list[int]:
        """Return the ids of the processes."""
        return [process.pid for slot in self._slots for process in _processes(slot.pool)]

    def submit(self, task: Task) -> None:
        """Give a task to the process that has least to do."""
        slot = min(self._slots, key=lambda one: len(one.tasks))
        if not slot.tasks:
            slot.since = time.monotonic()
        try:
            with _apart():
                slot.tasks[slot.pool.submit(run_task, task)] = task
        except BrokenProcessPool:  # found dead before `wait` did
            slot.tasks[_failed(Lost())] = task

    def wait(self, seconds: float) -> list[tuple[Task, Answer | Exception]]:
        """Return what has ended; a process that died is replaced."""
        wait([future for slot in self._slots for future in slot.tasks], seconds, FIRST_COMPLETED)
        found: list[tuple[Task, Answer | Exception]] = []
        for i, slot in enumerate(self._slots):
            broken, first = False, True
            slot.end_if_late()
            for future in [f for f in slot.tasks if f.done()]:
                task, error = slot.tasks.pop(future), future.exception()
                if error is None:
                    self._false_starts = 0
                    slot.since = time.monotonic()
                    found.append((task, future.result()))
                elif isinstance(error, (BrokenProcessPool, Lost)):
                    begun = slot.started.done() and slot.started.exception() is None
                    own = first and begun and not isinstance(error, Lost)
                    found.append((task, (Late() if slot.late else Died()) if own else Lost()))
                    first, broken = False, True
                else:
                    raise error
            if broken:
                found += [(task, Lost()) for task in slot.tasks.values()]
                self._replace(i)
        return found

    def close(self) -> None:
        """Kill the processes."""
        for slot in self._slots:
            _end(slot.pool)
        self._slots = []

    def _replace(self, i: int) -> None:
        slot = self._slots[i]
        if not slot.started.done() or slot.started.exception() is not None:
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS:
                raise ChildProcessError(
                    f"processes for the sweep die as they start, {FALSE_STARTS} times in a row; is there memory for "
                    f"{self.workers} of them? Try fewer workers."
                )
        _end(slot.pool)
        self._slots[i] = _slot()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _slot() -> _Slot:
    # Not forked: threads of this process, such as those of BLAS, would be missing in the child.
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)
    with _apart():
        return _Slot(pool, pool.submit(ready))


def _end(pool: ProcessPoolExecutor) -> None:
    for process in _processes(pool):
        process.kill()
    pool.shutdown(wait=True, cancel_futures=True)


def _processes(pool: ProcessPoolExecutor) -> list[Any]:
    # There is no public way to them before Python 3.14.
    return list((pool._processes or {}).values())


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _begin() -> None:
    """Set a process up: Ctrl-C is for its parent, and when that is gone, so is it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


_one_at_a_time = threading.Lock()


@contextmanager
def _apart() -> Iterator[None]:
    """Keep a new process from importing the script that is running, and from hearing Ctrl-C.

    Nothing of the script is needed, and it may sweep; Ctrl-C is for this one. What is blocked here stays so there.
    """
    with _one_at_a_time:  # or the second would put back what the first put there
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        mask = getattr(signal, "pthread_sigmask", None)  # not on Windows
        before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else set()
        try:
            yield
        finally:
            sys.modules["__main__"] = main
            if mask:
                mask(signal.SIG_SETMASK, before)


class DaskEngine:
    """A Dask cluster that there is already; its scheduler says which worker computes what."""

    def __init__(self, address: str):
        try:
            from distributed import Client  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ImportError(
                f"a sweep on {address} needs distributed, which cannot be imported ({error}): "
                "pip install 'linflow[sweep]'"
            ) from error
        if not isinstance(address, str) or not re.fullmatch(r"(tcp|tls|ucx|ws|wss|inproc)://.+", address):
            raise ValueError(f"the scheduler is {address!r}; an address such as tcp://10.0.0.1:8786 is needed.")
        # What it logs of a connection that is lost is said here in one line.
        self._levels = {name: logging.getLogger(name).level for name in LOGS}
        for name in LOGS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            self._client = Client(address, set_as_default=False, timeout=10)
        except (OSError, ValueError) as error:
            self._speak()
            raise ConnectionError(
                f"there is no Dask scheduler at {address} ({' '.join(str(error).split())}); start one, or leave the "
                "scheduler out to use the cores of this machine."
            ) from None
        self.address = address
        self._tasks: dict[Any, Task] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @property
    def workers(self) -> int:
        """Number of threads of all workers, one at least while none has come."""
        return max(1, sum(self._threads().values())) if self._alive() else 1

    @property
    def waiting(self) -> bool:
        """Whether the cluster has no workers."""
        return not self._threads()

    def submit(self, task: Task) -> None:
        """Have a task computed by whichever worker is free."""
        future = self._client.submit(run_task, task, pure=False)
        self._tasks[future] = task
        future.add_done_callback(self._ended.put)

    def wait(self, seconds: float) -> list[tuple[Task, Answer | Exception]]:
        """Return what has ended; ConnectionError where the scheduler has."""
        from distributed import KilledWorker  # noqa: PLC0415 - an extra

        ended = []
        try:
            ended.append(self._ended.get(timeout=seconds))
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        found: list[tuple[Task, Answer | Exception]] = []
        for future in ended:
            if future.status in ("pending", "lost"):  # the worker that held it has gone since; it is computed again
                future.add_done_callback(self._ended.put)
                continue
            if future.status == "finished":
                try:
                    answer = future.result(timeout=10)
                except Exception:  # as above, seen later
                    answer = Lost() if self._alive() else self._gone()
                found.append((self._tasks.pop(future), answer))
            elif future.status == "error":
                error = future.exception()
                if not isinstance(error, KilledWorker):
                    raise RuntimeError(
                        f"a worker of {self.address} cannot run cells ({type(error).__name__}: {error}); it needs "
                        "the same linflow as this machine."
                    )
                found.append((self._tasks.pop(future), Died()))
            else:
                self._gone()
            future.release()
        if not self._alive():
            self._gone()
        return found

    def close(self) -> None:
        """Withdraw what has not been computed and leave the cluster as it was."""
        try:
            with suppress(OSError):  # a scheduler that goes just now
                if self._alive():
                    self._client.cancel(list(self._tasks), force=True)
        finally:
            self._client.close(timeout=2)
            self._speak()

    def _speak(self) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    def _threads(self) -> dict[str, int]:
        try:
            return cast("dict[str, int]", self._client.nthreads())  # a coroutine in an asynchronous client only
        except OSError:  # asked while the connection broke
            self._gone()

    def _alive(self) -> bool:
        return self._client.status == "running"

    def _gone(self) -> NoReturn:
        raise ConnectionError(
            f"the Dask scheduler at {self.address} is gone; what was done is kept, and the same command goes on from "
            "there when there is one again."
        )
