"""Reads runs back from NetCDF files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from linflow._support.paths import LIMIT, PathLike
from linflow._support.words import listed
from linflow.dynamics.storage import schema as _schema
from linflow.dynamics.storage.hdf5 import RunFile, read_run
from linflow.dynamics.storage.stored_weights import StoredWeights
from linflow.model.network import Network
from linflow.model.optimizer import Optimizer

if TYPE_CHECKING:
    from linflow.dynamics import Stats, Trajectory


def load_run(path: PathLike, *, limit: int = LIMIT) -> Trajectory:
    """Read a run that `save_run` wrote.

    The arrays are NumPy arrays, whatever their kind in the run, and equal to the last bit. `network_at` returns the
    weights at the times at which they were stored.

    Args:
        path: the file, ending in `.nc`.
        limit: largest total size of its variables in bytes; checked before they are decoded.

    Raises:
        FileError: the file is not a run, has another format version, is damaged (by checksum), hostile or too large.
        OSError: the file does not exist or cannot be read.
        ImportError: h5py is not installed.

    Example:
        >>> import os, tempfile, numpy as np, linflow as lf
        >>> from linflow.files import load_run, save_run
        >>> run = lf.gradient_flow(lf.MatrixFactorization(np.eye(2)), [np.eye(2) / 2] * 2, t_max=1.0, engine="plain")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "run.nc")
        ...     save_run(run, path)
        ...     back = load_run(path)
        >>> back.result.value, back.time_to(0.1) == run.time_to(0.1)
        ('time limit reached', True)
    """
    return trajectory_of(read_run(path, limit))


def load_settings(path: PathLike) -> dict[str, Any]:
    """Return the settings saved with a run, `{}` if there are none.

    Args:
        path: the file, ending in `.nc`.

    Raises:
        FileError, OSError, ImportError: as for `load_run`.

    Example:
        >>> import os, tempfile, numpy as np, linflow as lf
        >>> from linflow.files import load_settings, save_run
        >>> run = lf.gradient_descent(lf.MatrixFactorization(np.eye(2)), [np.eye(2) / 2] * 2, step_size=0.1, steps=9)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "run.nc")
        ...     save_run(run, path, settings={"step_size": 0.1, "seed": 7})
        ...     load_settings(path)
        {'step_size': 0.1, 'seed': 7}
    """
    return read_run(path, None).json("settings", dict, {})


def trajectory_of(source: RunFile) -> Trajectory:
    """Return the run that a file holds."""
    from linflow.dynamics import Result, Trajectory  # noqa: PLC0415 - compiled loops are slow to import

    algorithm, ended = source.attributes.get("algorithm"), source.attributes.get("result")
    if algorithm not in ("flow", "descent"):
        raise source.error(f"its algorithm is {algorithm!r}, neither 'flow' nor 'descent'")
    if not isinstance(ended, str) or ended not in Result.__members__:
        raise source.error(f"its result is {ended!r}, none of {listed(Result.__members__, 20)}")
    notes = source.json("notes", list, [])
    if not all(isinstance(note, str) for note in notes):
        raise source.error("its notes are not all text")
    stats = _stats(source)
    scale = float(source.array("scale", ()))
    start, end = _ends(source, scale)
    t = _times(source, "t")
    # Only the last record of a run may lie outside float64.
    records = {name: source.optional(name, t.shape, last_free=True) for name in _schema.RECORDS}
    for name in ("gap", "rate"):
        if records[name] is None:
            raise source.error(f"it has no variable {name!r}")
    optimizer = optimizer_of(source, start.depth)
    step_size = source.optional("step_size", ())
    steps = source.optional("step_sizes", (stats.steps,))
    return Trajectory(
        t=t,
        **records,
        singular_values=source.optional("singular_values", (len(t), min(start.shape)), last_free=True),
        minimum=float(source.array("minimum", ())),
        start=start,
        final=end,
        result=Result[ended],
        stats=stats,
        notes=tuple(notes),
        algorithm=algorithm,
        step_size=None if step_size is None else float(step_size),
        step_sizes=steps,
        until=_until(source),
        nodes=_nodes(source, linear=algorithm == "descent" or optimizer.friction is not None),
        checkpoints=cast(Any, _stored(source, algorithm, start, end, float(t[-1]))),
        optimizer=optimizer,
    )


def optimizer_of(source: RunFile, depth: int) -> Optimizer:
    """Return the optimizer that a file names; the plain one if it names none."""
    told = source.json("optimizer", dict, {})
    try:
        return Optimizer.from_dict(told, depth)
    except (TypeError, ValueError) as error:
        raise source.error(f"its optimizer is not known: {str(error).rstrip('.')}") from error


def _until(source: RunFile) -> float | None:
    until = source.attributes.get("until")
    if until is not None and not (isinstance(until, (int, float)) and 0 < until < 1):
        raise source.error(f"its attribute 'until' is {until!r}, not a fraction in (0, 1)")
    return until


def _stats(source: RunFile) -> Stats:
    from linflow.dynamics import Stats  # noqa: PLC0415 - compiled loops are slow to import

    stored = {name: source.optional(f"stats_{name}", ()) for name in _schema.OPTIONAL_STATS}
    numbers: dict[str, Any] = {name: math.nan if x is None else float(x) for name, x in stored.items()}
    numbers |= {name: float(source.array(f"stats_{name}", ())) for name in _schema.STATS if name not in stored}
    for name in _schema.COUNTS:
        numbers[name] = int(numbers[name])
        if numbers[name] < 0:
            raise source.error(f"it counts {numbers[name]} {name}")
    error = numbers.pop("gap_error")
    return Stats(**numbers, _estimate=error)


def _times(source: RunFile, name: str) -> np.ndarray:
    t = source.array(name, (None,))
    if t.size == 0 or t[0] < 0 or (np.diff(t) < 0).any():
        raise source.error(f"{name!r} is not a sequence of times that grow from 0")
    return t


def _nodes(source: RunFile, *, linear: bool) -> tuple[np.ndarray, ...]:
    t = _times(source, "node_t")
    names = list(_schema.NODES)[1 : 2 if linear else 4]
    return (t, *(source.array(name, t.shape, last_free=True) for name in names))


def _ends(source: RunFile, scale: float) -> tuple[Network, Network]:
    depth = sum(name.endswith("_start") for name in source.arrays)
    first = [source.array(f"W{l}_start", (None, None)) for l in range(1, depth + 1)]
    last = [source.array(f"W{l}_end", W.shape) for l, W in enumerate(first, 1)]
    return _network(source, first, scale), _network(source, last, scale)


def _network(source: RunFile, layers: Sequence[np.ndarray], scale: float) -> Network:
    try:
        return Network(layers, scale)
    except ValueError as error:
        raise source.error(f"its weights do not form a network: {str(error).rstrip('.')}") from error


def _stored(source: RunFile, algorithm: str, start: Network, end: Network, last: float) -> StoredWeights | None:
    if algorithm == "descent":
        return None
    if "path_t" not in source.arrays:
        return StoredWeights([0.0, last], [start, end]) if last > 0 else StoredWeights([last], [end])
    times = _times(source, "path_t")
    layers = [source.array(f"W{l}_path", (len(times), *W.shape)) for l, W in enumerate(start.weights, 1)]
    return StoredWeights(
        times.tolist(), [_network(source, [W[i] for W in layers], start.scale) for i in range(len(times))]
    )
