"""The functions of boxes in compiled code, kept on disk."""

from __future__ import annotations

import sys
from typing import Any

from numba import types
from numba.extending import overload, register_jitable

from linflow._support import programs as _programs
from linflow.bounds import _interval_program as plain


@overload(plain.pick)
def _pick(condition, yes, no):
    return lambda condition, yes, no: yes if condition else no


for _function in (
    plain.phi,
    plain.visited,
    plain.share,
    plain.first_entry,
    plain.last_entry,
    plain.slack,
    plain.longest,
    plain.ratio_of_squares,
    plain.least_zeta,
    plain.last_cap,
    plain.cap_by_prefixes,
    plain.spread_caps,
    plain.cap_by_suffixes,
    plain.peak,
    plain.shrink,
    plain.value,
):
    register_jitable(_function)
shrink, value, best_thetas = plain.shrink, plain.value, register_jitable(plain.improved)


def _measuring(source: int) -> Any:
    def measure(low, high, caps, at, data, values):
        _ = source  # a copy on disk belongs to these sources
        numbers, s, group, pool = data
        for i in range(len(at)):
            c = at[i]
            some = shrink(low[:, i], high[:, i], caps[:, i], numbers[c], s[c])
            values[i] = value(high[:, i], caps[:, i], numbers[c], s[c], pool[group[c]]) if some else float("inf")

    return measure


def _improving(source: int) -> Any:
    def improve(high, caps, q, s, thetas):
        _ = source
        return best_thetas(high, caps, q, s, thetas)

    return improve


def build() -> list[_programs.Program]:
    """Return the programs and the types of their arguments."""
    kinds: Any = types
    whole, real = kinds.int64, kinds.float64
    places, row = kinds.Array(whole, 1, "C"), kinds.Array(real, 1, "C")
    rows, blocks = kinds.Array(real, 2, "C"), kinds.Array(real, 3, "C")
    source = _programs.fingerprint(sys.modules[__name__], plain)
    data = kinds.Tuple((blocks, row, places, blocks))
    return [
        (_programs.kept(_measuring(source)), (rows, rows, rows, places, data, row)),
        (_programs.kept(_improving(source)), (row, row, rows, real, row)),
    ]


def programs() -> tuple[Any, Any]:
    """Return the programs `measure` and `improve`."""
    measure, improve = _programs.loaded(build)
    return measure, improve
