"""Starting another process of this Python.

The process finds the same modules. It imports nothing from the script that runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def is_python() -> bool:
    """Tell whether the running program is Python itself, not an application that embeds it."""
    return not getattr(sys, "frozen", False) and "python" in Path(sys.executable or "").name.lower()


def python(*words: str) -> list[str]:
    """Return the command that starts this Python with these arguments, such as `-m linflow`."""
    return [sys.executable, "-P", *words]


def environment() -> dict[str, str]:
    """Return the environment of the new process: the current one, with the module search path added."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(place or os.getcwd() for place in sys.path)}
