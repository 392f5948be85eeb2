"""What besides the settings a number depends on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def provenance(seed: int) -> dict[str, Any]:
    """Return what besides the settings the numbers depend on: versions, seed, precision, machine."""
    packages = {}
    for name in ("linflow", "numpy", "scipy", "numba"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "versions": packages,
        "python": platform.python_version(),
        "seed": seed,
        "dtype": "float64",
        "machine": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
