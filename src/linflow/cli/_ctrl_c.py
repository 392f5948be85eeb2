"""Ctrl-C that is not lost. Python discards an exception that is raised inside a callback of a C library."""

import signal
from typing import Any

_asked = False


def remember_ctrl_c() -> None:
    """Record that Ctrl-C was pressed, besides raising KeyboardInterrupt at once as usual."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if it is ignored, as in background
        signal.signal(signal.SIGINT, _heard)


def _heard(number: int, frame: Any) -> None:
    global _asked  # noqa: PLW0603 - signals belong to the whole process
    _asked = True
    raise KeyboardInterrupt


def raise_if_asked(_: float = 0.0) -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed. Commands that run long call this now and then."""
    global _asked  # noqa: PLW0603
    if _asked:
        _asked = False
        raise KeyboardInterrupt
