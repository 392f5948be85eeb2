"""A worker process of a sweep. It computes the tasks that arrive on its standard input, and ends when that closes.

The process runs this module, so it imports nothing from the script that starts the sweep, and that script needs no
`__main__` guard. After the line `BEGINS`, the output is pickled: None once the process can compute, then the answer
or the error for each task.
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
    """Compute tasks until the standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that runs the sweep
    # Use copies, so that no child process inherits the pipes and nothing prints to them.
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
    """Receive tasks, also while one is being computed. When the sender is gone, end the process at once."""
    try:
        while True:
            tasks.put(pickle.load(source))  # from the process that started this one
    finally:
        os._exit(1)


def _send(answer: Any, answers: BinaryIO) -> None:
    with suppress(OSError):  # nobody is listening, and this process ends
        answers.write(pickle.dumps(answer))
        answers.flush()


if __name__ == "__main__":
    main()
