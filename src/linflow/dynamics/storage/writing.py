"""Writes runs as NetCDF files."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import to_numpy
from linflow._support.paths import LIMIT, PathLike, check_size, import_for, suffix, write_bytes
from linflow._support.provenance import software
from linflow._support.version import __version__
from linflow._support.words import kind_of
from linflow.dynamics.storage import schema as _schema
from linflow.dynamics.storage.stored_weights import StoredWeights
from linflow.model.network import Network

Variables = dict[str, tuple[tuple[str, ...], np.ndarray, str, str]]
"""For each variable name: dimensions, values, long name and units."""


def save_run(run: Any, path: PathLike, *, weights: str = "ends", settings: Mapping[str, Any] | None = None) -> None:
    """Write a run as NetCDF-4, with everything that `load_run` needs to restore it to the last bit.

    Any NetCDF or HDF5 reader can open the file, for example `xarray.open_dataset(path)`. Each variable has a long
    name and units. Arrays of other kinds (PyTorch, JAX) are written as NumPy arrays. The file includes
    `stats.gap_error`, which is computed now if it has not been read before.

    Args:
        run: result of `gradient_flow` or `gradient_descent`.
        path: file to write, ending in `.nc`; an existing file is replaced completely or not at all (`atomic`).
        weights: "ends" stores the first and last weights; "all" also stores those at every stored step of a flow.
        settings: settings of the experiment, stored with the run as JSON; `load_settings` reads them back.

    Raises:
        FileError: another suffix, or a file that would be too large to read back under the default limit.
        ValueError: "all" for a descent, which keeps no weights in between, or settings with an infinity or NaN.
        TypeError: settings that JSON cannot hold.
        OSError: the file cannot be written.
        ImportError: xarray or h5netcdf is not installed.

    Example:
        >>> import os, tempfile, numpy as np, linflow as lf
        >>> from linflow.files import load_run, save_run
        >>> run = lf.gradient_descent(lf.MatrixFactorization(np.eye(2)), [np.eye(2) / 2] * 2, step_size=0.1, steps=9)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "run.nc")
        ...     save_run(run, path, settings={"step_size": 0.1})
        ...     back = load_run(path)
        >>> back.gap_at(0.25) == run.gap_at(0.25)
        True
    """
    need_writers(path)
    write_dataset(to_dataset(run, weights=weights, settings=settings), path)


def need_writers(path: PathLike) -> None:
    """Raise unless a run can be written to the path and the packages that write it are installed."""
    suffix(path, (".nc",), "a run is written as")
    import_for("h5netcdf", path)
    import_for("xarray", path)


def write_dataset(data: Any, path: PathLike) -> None:
    """Write a dataset as NetCDF-4 with the digest of the file at its end."""
    check_size(data.nbytes, LIMIT, path)
    # Otherwise NaN would be marked as a missing value.
    encoding = {name: {"_FillValue": None} for name in data.variables}
    # Built in memory: if the disk fills up, the HDF5 library can crash the interpreter.
    content = data.to_netcdf(None, engine="h5netcdf", encoding=encoding)
    # HDF5 does not read past the end that it has recorded, so readers do not see the seal.
    end = _schema.seal(hashlib.sha256(content).hexdigest())
    write_bytes(path, lambda file: file.writelines([content, end]))


def to_dataset(run: Any, *, weights: str = "ends", settings: Mapping[str, Any] | None = None) -> Any:
    """Return a run as the `xarray.Dataset` that `save_run` writes.

    Args:
        run: result of `gradient_flow` or `gradient_descent`.
        weights: "ends" or "all"; see `save_run`.
        settings: stored as an attribute, in JSON.

    Raises:
        ValueError, TypeError, ImportError: as for `save_run`.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.files import to_dataset
        >>> run = lf.gradient_descent(lf.MatrixFactorization(np.eye(2)), [np.eye(2) / 2] * 2, step_size=0.1, steps=9)
        >>> data = to_dataset(run)
        >>> data.gap.dims, data.gap.attrs["units"], data.W1_start.shape
        (('t',), 'loss', (2, 2))
    """
    checks.choice(weights, "weights", ("ends", "all"))
    variables = {**_records(run), **_scalars(run), **_weights(run, weights == "all")}
    return dataset(variables, _attributes(run, settings), _schema.RUN)


def dataset(variables: Variables, attributes: dict[str, Any], kind: _schema.Kind) -> Any:
    """Return an `xarray.Dataset` of variables and attributes, with its checksum."""
    import xarray  # noqa: PLC0415 - xarray is slow to import

    attributes["checksum"] = _schema.checksum({name: x[1] for name, x in variables.items()}, attributes, kind.checked)
    return xarray.Dataset(
        {
            name: (dimensions, values, {"long_name": meaning, "units": units})
            for name, (dimensions, values, meaning, units) in variables.items()
        },
        attrs=attributes,
    )


def _records(run: Any) -> Variables:
    variables: Variables = {"t": (("t",), to_numpy(run.t), "time", "time of the flow")}
    for name, (meaning, units) in _schema.RECORDS.items():
        values = getattr(run, name)
        if values is not None:
            variables[name] = (("t",), to_numpy(values), meaning, units)
    if run.singular_values is not None:
        meaning = "singular values of the product, descending"
        variables["singular_values"] = (("t", "mode"), to_numpy(run.singular_values), meaning, "1")
    if run.step_sizes is not None:
        meaning = "step sizes of the descent, one for each step"
        variables["step_sizes"] = (("step",), to_numpy(run.step_sizes), meaning, "time of the flow")
    for (name, (meaning, units)), values in zip(_schema.NODES.items(), run.nodes, strict=False):
        variables[name] = (("node",), to_numpy(values), meaning, units)
    return variables


def _scalars(run: Any) -> Variables:
    values: dict[str, Any] = {"minimum": run.minimum, "scale": run.start.scale}
    values |= {f"stats_{name}": getattr(run.stats, name) for name in _schema.STATS}
    if np.isnan(values["stats_gap_error"]):  # not estimated
        del values["stats_gap_error"]
    variables: Variables = {}
    for name, value in values.items():
        kind = np.int64 if name.removeprefix("stats_") in _schema.COUNTS else np.float64
        variables[name] = ((), np.asarray(value, dtype=kind), *_schema.SCALARS[name])
    if run.step_size is not None:
        variables["step_size"] = ((), np.asarray(run.step_size, dtype=np.float64), *_schema.STEP_SIZE)
    return variables


def _weights(run: Any, everything: bool) -> Variables:
    variables: Variables = {}
    for l, (first, last) in enumerate(zip(run.start.weights, run.final.weights, strict=True), 1):
        sides = (f"h{l - 1}", f"h{l}")
        variables[f"W{l}_start"] = (sides, to_numpy(first), f"first weights of layer {l}", "1")
        variables[f"W{l}_end"] = (sides, to_numpy(last), f"last weights of layer {l}", "1")
    if everything:
        times, networks = _path(run)
        variables["path_t"] = (("path",), np.asarray(times), "times at which weights are stored", "time of the flow")
        for l in range(1, run.start.depth + 1):
            layers = np.stack([to_numpy(network.weights[l - 1]) for network in networks])
            sides = ("path", f"h{l - 1}", f"h{l}")
            variables[f"W{l}_path"] = (sides, layers, f"weights of layer {l} along the run", "1")
    return variables


def _path(run: Any) -> tuple[list[float], list[Network]]:
    """Return the times and weights of every stored step, including the last."""
    kept: Any = run.checkpoints
    if kept is None:
        raise ValueError(
            'weights is "all", and a descent keeps the first and the last weights only; leave it at "ends".'
        )
    if isinstance(kept, StoredWeights):
        return kept.times, kept.networks
    times = list(kept.times)
    if 8 * sum(math.prod(W.shape) for W in run.start.weights) * len(times) > LIMIT:
        raise ValueError(
            f'the weights at {len(times)} steps would take more than {LIMIT // 2**30} GiB; save with weights="ends".'
        )
    networks = [kept.gradient.network_at(y) for y in kept.vectors]
    if kept.expand is not None:
        networks = [kept.expand(network) for network in networks]
    end = float(run.nodes[0][-1])
    return (times, networks) if times[-1] == end else ([*times, end], [*networks, run.final])


def _attributes(run: Any, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    attributes = {
        **origin(f"Gradient {run.algorithm} on a multi-layer linear model"),
        "algorithm": run.algorithm,
        "result": run.result.name,
        "result_text": run.result.value,
        "notes": as_json(list(run.notes)),
    }
    if not run.optimizer.plain:
        attributes["optimizer"] = as_json(run.optimizer.to_dict())
    if run.until is not None:
        attributes["until"] = run.until
    if settings is not None:
        attributes["settings"] = _settings(settings)
    return attributes


def origin(title: str) -> dict[str, Any]:
    """Return the attributes that say what a file is, and which software wrote it when and where."""
    return {
        "Conventions": f"linflow-run-{_schema.FORMAT_VERSION}",
        "title": title,
        "source": f"linflow {__version__}",
        "format_version": _schema.FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "python_version": software()["python"],
        "numpy_version": software()["numpy"],
        "dtype": "float64",
    }


def _settings(settings: Mapping[str, Any]) -> str:
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings is {kind_of(settings)}; a dict is needed.")
    try:
        return as_json(dict(settings))
    except ValueError as error:
        raise ValueError(
            f"settings cannot be written as JSON ({error}); write infinities and NaN as None or as text."
        ) from error
    except TypeError as error:
        raise TypeError(
            f"settings cannot be written as JSON ({error}); numbers, text, lists and dicts with text keys are needed."
        ) from error


def as_json(x: Any) -> str:
    """Return plain data as JSON."""
    text = json.dumps(x, ensure_ascii=False, allow_nan=False, default=_plain)
    # A lone surrogate, as in an undecodable file name, is written as a JSON escape.
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\u0000")


def _plain(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return x.tolist()
    raise TypeError(f"{type(x).__name__} is not serializable")
