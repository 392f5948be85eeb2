"""Optional packages, and the extra of linflow that installs each."""

from __future__ import annotations

EXTRAS = {
    **dict.fromkeys(("numba", "llvmlite"), "fast"),
    **dict.fromkeys(("xarray", "h5netcdf", "h5py", "pyarrow", "safetensors"), "files"),
    **dict.fromkeys(("distributed", "dask"), "sweep"),
    "sklearn": "reproduce",
    "torch": "torch",
    **dict.fromkeys(("tensorboard", "lightning", "pytorch_lightning"), "monitor"),
}
"""The extra that installs each package."""


def install(package: str) -> str:
    """Return the command that installs a package, by the extra of linflow that contains it if there is one.

    Example:
        >>> install("h5py.h5f"), install("peft")
        ("pip install 'linflow[files]'", 'pip install peft')
    """
    package = package.partition(".")[0]
    extra = EXTRAS.get(package)
    return f"pip install 'linflow[{extra}]'" if extra else f"pip install {package}"


def explained(error: ImportError) -> str:
    """Return one line on an import error.

    For a missing package, the line names it and the command that installs it. For any other error, it is the text
    of the error.

    Example:
        >>> explained(ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow"))
        "the package pyarrow is not installed: pip install 'linflow[files]'"
    """
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("linflow"):
        package = error.name.partition(".")[0]
        return f"the package {package} is not installed: {install(package)}"
    return " ".join(str(error).split())
