"""What besides the settings a number depends on."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of the packages on which numbers depend; not to be changed."""
    found = {}
    for name in ("linflow", "numpy", "scipy", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def provenance(seed: int) -> dict[str, Any]:
    """Return what besides the settings the numbers depend on: versions, seed, precision, machine."""
    return {
        "versions": dict(versions()),
        "python": platform.python_version(),
        "seed": seed,
        "dtype": "float64",
        "machine": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
