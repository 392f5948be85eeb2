"""The compiled programs of a verified flow. Once compiled, they are kept on disk."""

from __future__ import annotations

import sys
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from numba import types

from linflow._support import programs as _programs
from linflow.dynamics import _tiled_products as tiles
from linflow.verified import _bound_loops as bounds
from linflow.verified import _chain_loops as chain
from linflow.verified import _elimination_loops as elimination
from linflow.verified import _frame as frame
from linflow.verified import _hessian_loops as hessian
from linflow.verified import _least_loops as least
from linflow.verified import _taylor_loops as taylor
from linflow.verified import _tube_loops as tube
from linflow.verified import hessian as blocks
from linflow.verified import least as shifts
from linflow.verified import rounding
from linflow.verified import taylor as paths


def build() -> list[_programs.Program]:
    """Return the programs and the types of their arguments."""
    kinds: Any = types
    whole, real = kinds.int64, kinds.float64
    ints, row, rows = kinds.Array(whole, 1, "C"), kinds.Array(real, 1, "C"), kinds.Array(real, 2, "C")
    source = _programs.fingerprint(
        sys.modules[__name__],
        tiles,
        frame,
        bounds,
        taylor,
        tube,
        hessian,
        least,
        chain,
        elimination,
        blocks,
        shifts,
        rounding,
        paths,
    )
    pieces = (
        (taylor.expanding, (ints, row, row, real, whole, row, row, rows, rows, row, row, row)),
        (taylor.walking, (ints, whole, row, rows, real, row)),
        (taylor.adding, (rows, row, whole, real)),
        (tube.looking, (ints, whole, row, row, rows, row, rows, rows, row)),
        (tube.enclosing, (ints, row, whole, rows, rows, rows, real, row)),
        (tube.bounding, (ints, row, row, real, row)),
        (tube.by_products, (ints, row, real, real, real, rows, rows)),
        (least.shifting, (row, whole, real, row, real, row)),
        (chain.iterating, (ints, ints, row, row, rows, rows, row)),
        (elimination.eliminating, (ints, ints, row, rows, real)),
        (hessian.assembling, (ints, row, real, row, rows, row, rows, row, row)),
    )
    return [(_programs.kept(make(source)), arguments) for make, arguments in pieces]


@lru_cache(maxsize=1)
def programs() -> Any:
    """Return the programs, each as an attribute under its name."""
    return SimpleNamespace(**{program.__name__: program for program in _programs.loaded(build)})
