"""The memory of this machine. Work that cannot fit is refused before memory is allocated."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from linflow._support.digits import in_bytes

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""The files in which Linux states the memory limit of a container."""


@lru_cache(maxsize=1)
def memory() -> float:
    """Return the most bytes that this process can use, or inf if that is not known."""
    found = math.inf
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        found = float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    for name in _LIMITS:
        try:
            found = min(found, float(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # another system, or no limit
            continue
    return found


def check_weights(widths: tuple[int, ...], times: int = 1) -> None:
    """Raise MemoryError if `times` copies of the weights of these widths, in float64, do not fit in memory."""
    need = times * 8 * sum(a * b for a, b in pairwise(widths))
    if need > memory():
        what = f"the weights {'×'.join(map(str, widths))}{' and work on them' * (times > 1)}"
        raise MemoryError(f"{what} take {in_bytes(need)}, and there are {in_bytes(memory())}")
