"""Engines, which compute tasks: processes of this machine, or an existing Dask cluster."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from subprocess import PIPE
from typing import IO, Any, NoReturn, Protocol, cast

from linflow._support.interpreter import environment, is_python, python
from linflow._support.paths import one_line
from linflow._support.provenance import software
from linflow.sweeps.cells import Answer, Task
from linflow.sweeps.cluster import OtherVersions, check_scheduler, compared, refusal, run_checked
from linflow.sweeps.worker import BEGINS

AHEAD = 2
"""The number of tasks that a worker has, including the one it computes."""
GRACE = 10.0
"""Seconds that a task may take beyond the limits of its cells. Cells check the time themselves when they can."""
CONNECT = 10.0
"""Seconds after which a scheduler that does not answer counts as absent."""
LOGS = ("distributed", "distributed.client")
WORKER = ("-m", "linflow.sweeps.worker")
"""The arguments with which a process is started."""
FALSE_STARTS = 10
"""How many times in a row a process may die before it has begun anything."""


class Died(Exception):  # noqa: N818 - what happened to a task, not a mistake
    """The process that ran a task has died, and the outcome of the task is unknown."""


class Lost(Exception):  # noqa: N818
    """A task was never begun, because its process died before."""


class Late(Exception):  # noqa: N818
    """A task did not finish within the limits of its cells, and was killed."""


class Engine(Protocol):
    """An engine that computes tasks."""

    notes: list[str]
    """Sentences on what differs between the processes and changes no number."""

    @property
    def workers(self) -> int:
        """The number of tasks that can be computed at the same time."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether there are no workers at the moment."""
        ...

    def submit(self, task: Task) -> None:
        """Submit a task for computation."""
        ...

    def wait(self, seconds: float) -> list[tuple[Task, Answer | Exception]]:
        """Return the tasks that have ended since the last call, each with its answer, `Died`, `Lost` or `Late`.

        Wait at most `seconds`.
        """
        ...

    def close(self) -> None:
        """Stop everything that runs, at once."""
        ...


class Worker:
    """A process and the tasks that it was given. It computes the first of them.

    Attributes:
        tasks: the tasks without an answer so far.
        begun: whether the process has started and can compute.
        since: the earliest time at which it can have begun its first task.
        late: the task that took too long, for which the process was killed.
    """

    def __init__(self, news: queue.SimpleQueue[tuple[Worker, Any]]):
        self.tasks: deque[Task] = deque()
        self.begun, self.since = False, 0.0
        self.late: Task | None = None
        self._news, self._given = news, queue.SimpleQueue[Task | None]()
        with _deaf():
            self.process = subprocess.Popen(python(*WORKER), stdin=PIPE, stdout=PIPE, env=environment())
        # One thread writes and one reads, so a process that does not read or does not answer blocks nothing.
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._give, self._listen)]
        for thread in self._threads:
            thread.start()

    def give(self, task: Task) -> None:
        """Add a task to the queue of this process."""
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        self._given.put(task)

    def hear(self, answer: Any) -> list[tuple[Task, Answer | Exception]]:
        """Process a message of the worker, and return the tasks that have ended with it."""
        self.since = time.monotonic()
        if answer is None:
            self.begun = True
            return []
        if isinstance(answer, _Gone):
            return self._lost()
        if isinstance(answer, Exception):
            raise answer
        return [(self.tasks.popleft(), answer)]

    def _lost(self) -> list[tuple[Task, Answer | Exception]]:
        """Return the tasks of a process that has ended."""
        fates: list[Answer | Exception] = [Lost() for _ in self.tasks]
        if self.begun and self.tasks:
            if self.tasks[0] is self.late:
                fates[0] = Late()
            elif self.late is None:  # else it was killed for the task before, and has perhaps not begun this one
                fates[0] = Died()
        return list(zip(self.tasks, fates, strict=True))

    def end_if_late(self) -> None:
        """Kill the process if its task is over its time. The time counts only once the process has started."""
        if not self.tasks or not self.begun or self.late is not None:
            return
        limit = self.tasks[0].time_limit
        if limit is not None and time.monotonic() - self.since > limit * len(self.tasks[0].cells) + GRACE:
            self.late = self.tasks[0]
            self.process.kill()

    def end(self) -> None:
        """Kill the process, whatever it is doing."""
        self.process.kill()
        self._given.put(None)
        self.process.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # data that it has not read
                cast("IO[bytes]", pipe).close()

    def _give(self) -> None:
        pipe = cast("IO[bytes]", self.process.stdin)
        with suppress(OSError):  # the process is gone; the other thread notices
            while (task := self._given.get()) is not None:
                pipe.write(pickle.dumps(task))
                pipe.flush()

    def _listen(self) -> None:
        pipe = cast("IO[bytes]", self.process.stdout)
        with suppress(Exception):  # the process is gone and its output is cut off
            while (line := pipe.readline()) and not line.endswith(BEGINS):
                pass  # skip what Python may print as it starts
            while True:
                self._news.put((self, pickle.load(pipe)))
        self._news.put((self, _Gone()))


class _Gone:
    """The message that stands for a process that has ended."""


class LocalEngine:
    """Processes of this machine. Each has its own tasks, so if one dies, the task that it ran is known."""

    def __init__(self, workers: int | None = None):
        self.notes: list[str] = []
        self._news: queue.SimpleQueue[tuple[Worker, Any]] = queue.SimpleQueue()
        self._workers: list[Worker] = []
        self._false_starts = 0
        if not is_python():
            raise RuntimeError(
                f"a sweep starts processes of Python, and {sys.executable!r} is an application of its own; start the "
                "sweep from a Python, or give the scheduler of a Dask cluster."
            )
        try:
            for _ in range(workers or cores()):
                self._workers.append(Worker(self._news))
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """Number of processes."""
        return len(self._workers)

    @property
    def waiting(self) -> bool:
        """Always False, because a process that dies is replaced."""
        return False

    def submit(self, task: Task) -> None:
        """Give a task to the process with the fewest tasks."""
        min(self._workers, key=lambda one: len(one.tasks)).give(task)

    def wait(self, seconds: float) -> list[tuple[Task, Answer | Exception]]:
        """Return the tasks that have ended. A process that died is replaced."""
        found: list[tuple[Task, Answer | Exception]] = []
        with suppress(queue.Empty):
            worker, said = self._news.get(timeout=seconds)
            while True:
                found += worker.hear(said)
                if isinstance(said, _Gone):
                    self._replace(worker)
                else:
                    self._false_starts = 0
                worker, said = self._news.get_nowait()
        for worker in self._workers:
            worker.end_if_late()
        return found

    def close(self) -> None:
        """Kill the processes."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _replace(self, worker: Worker) -> None:
        worker.end()
        self._false_starts += not worker.begun
        if self._false_starts >= FALSE_STARTS:
            raise ChildProcessError(
                f"processes for the sweep die as they start, {FALSE_STARTS} times in a row; is there memory for "
                f"{self.workers} of them? Try fewer workers."
            )
        self._workers[self._workers.index(worker)] = Worker(self._news)


def cores() -> int:
    """Return the number of cores that this process can use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _deaf() -> Iterator[None]:
    """Keep a new process from receiving Ctrl-C, which is for this one. A new process inherits the blocked signals."""
    mask = getattr(signal, "pthread_sigmask", None)  # not on Windows
    before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else set()
    try:
        yield
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)


class DaskEngine:
    """An existing Dask cluster, whose scheduler assigns tasks to its workers."""

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
        # Dask logs a lost connection at length; here it is reported in one line.
        self._levels = {name: logging.getLogger(name).level for name in LOGS}
        for name in LOGS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            self._client = Client(address, set_as_default=False, timeout=CONNECT)
        except (OSError, ValueError) as error:
            self._speak()
            raise ConnectionError(
                f"there is no Dask scheduler at {address} ({' '.join(str(error).split())}); start one, or leave the "
                "scheduler out to use the cores of this machine."
            ) from None
        self.address = address
        self.notes: list[str] = []
        self._versions = software()
        self._held: deque[Task] = deque()
        self._known: set[str] = set()
        self._tasks: dict[Any, Task] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @property
    def workers(self) -> int:
        """Number of threads of all workers, or 1 while there are none."""
        return max(1, sum(self._threads().values())) if self._alive() else 1

    @property
    def waiting(self) -> bool:
        """Whether the cluster has no workers."""
        return not self._threads()

    def submit(self, task: Task) -> None:
        """Submit a task; the scheduler picks a free worker. It is held back until a worker has been checked."""
        self._held.append(task)
        self._hand_out()

    def _hand_out(self) -> None:
        there = set(self._threads())
        if new := there - self._known:
            if not self._known:
                check_scheduler(self._client, self.address)
            checked, notes = compared(self._client, new, self._versions)
            self._known |= checked
            self.notes += notes
        while self._held and there & self._known:
            task = self._held.popleft()
            future = self._client.submit(run_checked, task, self._versions, pure=False)
            self._tasks[future] = task
            future.add_done_callback(self._ended.put)

    def wait(self, seconds: float) -> list[tuple[Task, Answer | Exception]]:
        """Return the tasks that have ended.

        Raises:
            ConnectionError: the scheduler is gone.
            OSError: a worker cannot run cells, or has other versions.
        """
        from distributed import KilledWorker  # noqa: PLC0415 - an extra

        self._hand_out()
        ended = []
        try:
            ended.append(self._ended.get(timeout=seconds))
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        found: list[tuple[Task, Answer | Exception]] = []
        for future in ended:
            if future.status in ("pending", "lost"):  # the worker that held it is gone; Dask computes it again
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
                if isinstance(error, OtherVersions):
                    raise OSError(refusal(f"of {self.address} that ran a cell", str(error)))
                if not isinstance(error, KilledWorker):
                    raise OSError(
                        f"a worker of {self.address} cannot run cells ({type(error).__name__}: {one_line(error)}); "
                        "it needs the same linflow as this machine."
                    )
                found.append((self._tasks.pop(future), Died()))
            else:
                self._gone()
            future.release()
        if not self._alive():
            self._gone()
        return found

    def close(self) -> None:
        """Cancel the remaining tasks and leave the cluster as it was."""
        try:
            with suppress(OSError):  # the scheduler may go away meanwhile
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
            return cast("dict[str, int]", self._client.nthreads())  # a coroutine only in an asynchronous client
        except OSError:  # the connection broke during the call
            self._gone()

    def _alive(self) -> bool:
        return self._client.status == "running"

    def _gone(self) -> NoReturn:
        raise ConnectionError(
            f"the Dask scheduler at {self.address} is gone; finished cells are kept. Start it "
            "again; the same command then continues the sweep."
        )
