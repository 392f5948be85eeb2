"""Ctrl-C that takes effect between two answers, and never while an answer is being stored."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back, and yield a function that raises it if it was pressed. Pressing it again changes nothing.

    At the end Ctrl-C works as before. If one is still held back then, it is raised, unless something else was raised.
    Nothing is held back in other threads, which do not receive Ctrl-C, or if it is ignored or not handled by Python.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: None
        return
    pressed: list[int] = []

    def heed() -> None:
        if pressed:
            number = pressed.pop()
            pressed.clear()
            before(number, None)

    def note(number: int, _: Any) -> None:
        pressed.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, before)
    heed()
