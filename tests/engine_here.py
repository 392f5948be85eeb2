"""An engine of sweeps that computes in the process of the test, for tests of what is in rows and folders."""

import pickle
from collections import deque
from contextlib import contextmanager

import pytest

from linflow.sweeps.cells import run_task


class Here:
    """An engine without processes: it computes each task when it waits for it."""

    workers, waiting = 1, False

    def __init__(self, workers):
        self.notes, self._tasks = [], deque()

    def submit(self, task):
        self._tasks.append(task)

    def wait(self, seconds):
        task = self._tasks.popleft()
        try:
            # As a process has it and answers it.
            answer = pickle.loads(pickle.dumps(run_task(pickle.loads(pickle.dumps(task)))))
        except Exception as error:
            answer = error
        return [(task, answer)]

    def close(self):
        self._tasks.clear()


@contextmanager
def computed_here():
    """Sweeps without processes: each takes a second to start, and rows do not depend on who computes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("linflow.sweeps.driver.LocalEngine", Here)
        yield
