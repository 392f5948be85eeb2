"""The machine and the versions; imports nothing that starts threads."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

THREADS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"),
    "NUMBA_NUM_THREADS": "1",
    "NPROC": "1",  # the pool of XLA
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
}
PACKAGES = ("linflow", "numpy", "scipy", "numba", "diffrax", "jax", "jaxlib", "torchdiffeq", "torch")


def one_thread() -> None:
    """Limit every library to one thread; before any of them is imported."""
    os.environ.update(THREADS)


def environment() -> dict[str, object]:
    """What the results depend on besides the code."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "blas": blas(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads": THREADS,
    }


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the repository, with a + where files differ from it; None without git."""
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    try:
        found = [
            subprocess.run([*git, *rest], capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            for rest in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return found[0] + ("+" if found[1] else "")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def blas() -> str:
    import numpy as np  # noqa: PLC0415 - numpy reads the limits on threads when it is imported

    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{found.get('name')} {found.get('version')}"
