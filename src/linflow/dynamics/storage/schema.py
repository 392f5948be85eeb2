"""The schema of a run's NetCDF file: names, meanings, units and checksums."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FORMAT_VERSION = 1
"""Increased when readers of the previous version can no longer read the files."""

RECORDS = {
    "gap": ("loss gap, the loss less its minimum", "loss"),
    "rate": ("instantaneous rate, the squared gradient norm over the loss gap", "1/time"),
    "least_eigenvalue": ("least eigenvalue of the operator T on what the objective sees", "1"),
    "imbalance_drift": ("largest change of an imbalance since the start, Frobenius norm", "1"),
    "tangent_change": ("change of the operator T since the start, Frobenius norm, over T at the start", "1"),
    "law_error": ("largest distance of an imbalance from its exact law, Frobenius norm", "1"),
}
"""One number for each recorded time `t`."""

NODES = {
    "node_t": ("time of an interpolation node", "time of the flow"),
    "node_log_gap": ("logarithm of the loss gap at the node", "1"),
    "node_slope": ("time derivative of the logarithm of the loss gap", "1/time"),
    "node_curvature": ("second time derivative of the logarithm of the loss gap", "1/time^2"),
}
"""What `Trajectory.gap_at` interpolates: all four for a flow (degree 11), the first two for a descent (linear)."""

SCALARS = {
    "minimum": ("minimum of the loss", "loss"),
    "scale": ("output scale c of the product c W_1 ... W_L", "1"),
    "stats_steps": ("accepted steps", "1"),
    "stats_rejected": ("rejected steps", "1"),
    "stats_evaluations": ("evaluations of the gradient", "1"),
    "stats_imbalance_drift": ("largest change of an imbalance over the run, Frobenius norm", "1"),
    "stats_gap_error": ("estimated error of the logarithm of the loss gap, the largest at any time", "1"),
    # "seconds" would make xarray decode it as a duration.
    "stats_seconds": ("wall time of the run", "s"),
}
STEP_SIZE = ("constant step of the descent", "time of the flow")
STATS = tuple(name.removeprefix("stats_") for name in SCALARS if name.startswith("stats_"))
OPTIONAL_STATS = ("gap_error",)
"""Statistics that a file holds only if they were estimated; NaN otherwise."""
COUNTS = ("steps", "rejected", "evaluations")

CHECKED = ("format_version", "algorithm", "result", "notes", "settings", "optimizer")
"""The attributes that the checksum covers. A file of plain flow or descent has no `optimizer`; a reader that does not
know the attribute finds another checksum, and refuses the run instead of taking it for a plain one."""
ALSO_READ = ("source", "checksum", "until")
"""Attributes that the checksum leaves out. `until` was added later; older readers must find the same checksum."""


@dataclass(frozen=True)
class Kind:
    """One kind of run that a file may hold.

    Attributes:
        noun: the word for it in messages.
        variables: the names of its variables.
        layers: a pattern for the names of its layers.
        checked: the attributes that its checksum covers.
        also_read: the attributes that its checksum leaves out.
    """

    noun: str
    variables: frozenset[str]
    layers: re.Pattern[str]
    checked: tuple[str, ...] = CHECKED
    also_read: tuple[str, ...] = ALSO_READ

    def holds(self, name: str) -> bool:
        """Return whether such a file can hold a variable of this name."""
        return name in self.variables or bool(self.layers.fullmatch(name))


RUN = Kind(
    "run",
    frozenset({"t", "path_t", "singular_values", "step_sizes", "step_size", *RECORDS, *NODES, *SCALARS}),
    re.compile(r"W[1-9][0-9]*_(start|end|path)"),
)

SEAL = b"\nlinflow sha256 "
"""Start of the last bytes of a saved file; the hexadecimal digest of all preceding bytes follows."""


def seal(digest: str) -> bytes:
    """Return the bytes that close a file whose content has this SHA-256."""
    return SEAL + digest.encode() + b"\n"


SEALED = len(seal("0" * 64))


def checksum(
    variables: Mapping[str, np.ndarray], attributes: Mapping[str, Any], checked: Iterable[str] = CHECKED
) -> str:
    """Return the SHA-256 of names, shapes and values; it does not depend on the layout of the file."""
    digest = hashlib.sha256()
    for name in sorted(variables):
        x = np.asarray(variables[name])
        x = np.ascontiguousarray(x, dtype="<i8" if x.dtype.kind in "iu" else "<f8")
        digest.update(f"{name}{x.dtype.str}{np.shape(variables[name])};".encode())
        digest.update(x.tobytes())
    for name in checked:
        if name in attributes:
            digest.update(f"{name}={attributes[name]};".encode(errors="surrogatepass"))
    return f"sha256:{digest.hexdigest()}"
