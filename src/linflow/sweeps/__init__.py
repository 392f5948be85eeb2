"""Sweeps: hundreds of thousands of experiments over a grid, one row each, none lost and none computed twice."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
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
