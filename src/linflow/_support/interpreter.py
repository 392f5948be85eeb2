"""Another process of this Python, which finds the same modules and imports nothing of the script that runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def is_python() -> bool:
    """Whether the program that runs is a Python, and no application with one inside."""
    return not getattr(sys, "frozen", False) and "python" in Path(sys.executable or "").name.lower()


def python(*words: str) -> list[str]:
    """Return the command that starts it with these words, such as `-m linflow`."""
    return [sys.executable, "-P", *words]


def environment() -> dict[str, str]:
    """Return its environment: this one, with the places where modules are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(place or os.getcwd() for place in sys.path)}
