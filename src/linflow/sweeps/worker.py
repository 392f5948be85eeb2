"""A process of a sweep: it computes the tasks that come through its standard input, and ends with it.

It is started as a module of its own, so that it imports nothing of the script that sweeps, which needs no guard.
After the line `BEGINS` what comes out is pickled: None once it may compute, then the answer to each task, or what
went wrong with it.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from contextlib import suppress
from typing import Any, BinaryIO

from linflow.sweeps.cells import ready, run_task

BEGINS = b"\0 a process of a sweep\n"


def main() -> None:
    """Compute tasks until there are no more to come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that sweeps
    # Copies, which no process that this one starts has, and nothing prints to.
    source, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    with source, answers:
        answers.write(BEGINS)
        tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_follow, args=(source, tasks), daemon=True).start()
        ready()
        _send(None, answers)
        while True:
            try:
                answer = run_task(tasks.get())
            except Exception as error:
                answer = error
            _send(answer, answers)


def _follow(source: BinaryIO, tasks: queue.SimpleQueue[Any]) -> None:
    """Take tasks as they come, also while one is computed; when there is nobody to send any, end at once."""
    try:
        while True:
            tasks.put(pickle.load(source))  # of the process that started this one
    finally:
        os._exit(1)


def _send(answer: Any, answers: BinaryIO) -> None:
    with suppress(OSError):  # there is nobody to hear it, and this process ends
        answers.write(pickle.dumps(answer))
        answers.flush()


if __name__ == "__main__":
    main()
