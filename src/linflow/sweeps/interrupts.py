"""Ctrl-C that is heard between two answers, and never while one is being kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back, and yield what raises it, where it was pressed. Pressing it again changes nothing.

    At the end it is heard as before, and so is one that was held back until then, unless something else was raised.
    Nothing is held back in other threads, which hear none, or where it is ignored or not for Python to hear.
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
