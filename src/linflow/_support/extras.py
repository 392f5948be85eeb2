"""Optional packages: which extra of linflow brings a package that is missing."""

from __future__ import annotations

EXTRAS = {
    **dict.fromkeys(("numba", "llvmlite"), "fast"),
    **dict.fromkeys(("xarray", "h5netcdf", "h5py", "pyarrow", "safetensors"), "files"),
    **dict.fromkeys(("distributed", "dask"), "sweep"),
    "sklearn": "reproduce",
    "torch": "torch",
    **dict.fromkeys(("tensorboard", "lightning", "pytorch_lightning"), "monitor"),
}
"""Package → extra."""


def install(package: str) -> str:
    """Return the command that installs a package, with the extra of linflow that brings it.

    Example:
        >>> install("h5py.h5f"), install("peft")
        ("pip install 'linflow[files]'", 'pip install peft')
    """
    package = package.partition(".")[0]
    extra = EXTRAS.get(package)
    return f"pip install 'linflow[{extra}]'" if extra else f"pip install {package}"


def explained(error: ImportError) -> str:
    """Return one line for a package that is missing: which, and what installs it; of any other error its own text.

    Example:
        >>> explained(ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow"))
        "the package pyarrow is not installed: pip install 'linflow[files]'"
    """
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("linflow"):
        package = error.name.partition(".")[0]
        return f"the package {package} is not installed: {install(package)}"
    return " ".join(str(error).split())
