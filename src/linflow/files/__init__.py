"""Files: runs as NetCDF, weights as npz and safetensors, matrices and tables as CSV and Parquet.

Nothing is ever unpickled. A file is checked before it is decoded, and it is written atomically.
"""

from typing import TYPE_CHECKING

from linflow._support.names import missing
from linflow._support.paths import LIMIT, FileError, atomic
from linflow.dynamics.storage.restoring import load_run, load_settings
from linflow.dynamics.storage.writing import save_run, to_dataset
from linflow.files.loading import load
from linflow.files.matrices import read_matrix
from linflow.files.tables import read_table, write_table
from linflow.files.weights import load_weights, save_weights

__all__ = [
    "LIMIT",
    "FileError",
    "atomic",
    "load",
    "load_run",
    "load_settings",
    "load_weights",
    "read_matrix",
    "read_table",
    "save_run",
    "save_weights",
    "to_dataset",
    "write_table",
]

if not TYPE_CHECKING:  # a type checker knows the names
    __getattr__ = missing(__name__, __all__)
