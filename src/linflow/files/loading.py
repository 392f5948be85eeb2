"""One function that loads every file that `linflow` has an object for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linflow._support.paths import LIMIT, FileError, PathLike, quote, readable, suffix
from linflow.dynamics.storage.hdf5 import KINDS, read_run
from linflow.dynamics.storage.restoring import trajectory_of
from linflow.files import weights
from linflow.model.network import Network

if TYPE_CHECKING:
    from linflow.dynamics import Trajectory
    from linflow.verified import DescentEnclosure, Enclosure

_BEGINNINGS = {
    b"\x89HDF": (".nc", "a NetCDF-4 file"),
    b"CDF": (".nc", "a NetCDF-3 file"),
    b"PK": (".npz", "a zip archive, as .npz and .pt are"),
    b"PAR1": (".parquet", "a Parquet file"),
    b"\x93NUMPY": (".npy", "a NumPy array"),
}


def load(path: PathLike, *, limit: int = LIMIT) -> Trajectory | Enclosure | DescentEnclosure | Network:
    """Read a run (`.nc`) or the weights of a network (`.npz`, `.safetensors`; `.pt`, `.pth`, `.ckpt`, `.bin`).

    A verified run is returned with every bound that it proves. It is not proved again, and its `notes` say so.

    Args:
        path: the file. Its suffix determines the format.
        limit: the most bytes that the file may decode to.

    Returns:
        A `Trajectory` (`load_run`), an `Enclosure` or `DescentEnclosure`, or a `Network` (`load_weights`).

    Raises:
        FileError: another kind of file, or one that is damaged, hostile or too large.
        OSError: no such file, or no permission to read it.

    Example:
        >>> import os, tempfile, numpy as np, linflow as lf
        >>> from linflow.files import load, save_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "start.safetensors")
        ...     save_weights([np.ones((2, 3)), np.ones((3, 1))], path)
        ...     load(path)
        Network(2×3×1, numpy)
    """
    end = suffix(
        path, (".nc", *weights.READ), "load takes runs and weights (read_matrix and read_table the rest) from"
    )
    file = readable(path)
    with open(file, "rb") as content:
        first = content.read(8)
    for beginning, (usual, kind) in _BEGINNINGS.items():
        if first.startswith(beginning) and usual != end and not (usual == ".npz" and end in weights.TORCH):
            raise FileError(f"{quote(path)} is named {end} and is {kind}; give it the right suffix.")
    if end != ".nc":
        return weights.load_weights(path, limit=limit)
    from linflow.verified.storage import schema  # noqa: PLC0415 - verified runs are slow to import

    source = read_run(path, limit, {**KINDS, schema.KIND: schema.ENCLOSURE})
    if source.told == schema.KIND:
        from linflow.verified.storage.restoring import enclosure_of  # noqa: PLC0415 - likewise

        return enclosure_of(source)
    return trajectory_of(source)
