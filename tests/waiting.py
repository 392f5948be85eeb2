"""Waiting for what has to happen, however long a machine takes: a test says what it waits for, and never how long."""

import time
from contextlib import contextmanager

PATIENCE = 1800.0
"""Seconds after which something is broken, and not slow. No test that passes comes near."""


def waited(happened, every=0.02):
    """Return what a function returns, as soon as that is true; AssertionError where it never is."""
    began = time.monotonic()
    while not (found := happened()):
        assert time.monotonic() - began < PATIENCE, "it did not happen"
        time.sleep(every)
    return found


@contextmanager
def ended(process):
    """Yield a process that is at its end when the test is, also where that fails: it may wait for something."""
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
