"""Sweeps: hundreds of thousands of experiments over a grid. Each gets one row; none is lost or computed twice."""

from typing import Any

import lazy_loader as _lazy

from linflow._support.extras import explained as _explained

_loaded, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "cells": ["run_cell"],
        "driver": ["Stopped", "Summary", "run_sweep", "sweep"],
        "grid": ["Grid"],
        "grid_file": ["read_grid"],
        "reading": ["plot_sweep", "read_results"],
        "page": ["write_report"],
        "status": ["Status", "sweep_status"],
    },
)


def __getattr__(name: str) -> Any:
    """Return a public name; if a package for the tables of sweeps is missing, say what to install."""
    try:
        return _loaded(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"sweeps need more: {_explained(error)}") from error
