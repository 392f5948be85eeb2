"""Provenance: everything besides the settings that a number depends on."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from linflow._support.version import __version__

PACKAGES = ("numpy", "scipy", "numba")
"""The packages, besides linflow, that numbers depend on."""


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on. Do not change the dictionary: it is cached."""
    return {"linflow": __version__, **{name: _version(name) for name in PACKAGES}}


def software(*others: str) -> dict[str, str]:
    """Return `versions()` with the versions of other packages and of Python added."""
    return {**versions(), **{name: _version(name) for name in others}, "python": platform.python_version()}


def machine() -> str:
    """Return the system and the kind of processor."""
    return f"{platform.system()} {platform.machine()}"


def provenance(seed: int) -> dict[str, Any]:
    """Return everything besides the settings that numbers depend on: versions, seed, precision, machine."""
    return {
        "versions": dict(versions()),
        "python": platform.python_version(),
        "seed": seed,
        "dtype": "float64",
        "machine": machine(),
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
