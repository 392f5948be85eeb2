"""Rows: the columns that are kept for each cell, and their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from linflow._support.fractions import FRACTIONS

TIMING = ("seconds", "finished")
"""Columns that differ between runs: the seconds that a cell took, and when it was finished (UTC, since 1970)."""
FAILURES = ("", "settings", "run", "time limit", "died", "error", "file")
"""The values of the column `failure`."""
_F, _I, _S = pa.float64(), pa.int64(), pa.string()
_FS, _IS, _SS = pa.list_(_F), pa.list_(_I), pa.list_(_S)


def fraction_columns(what: str) -> list[str]:
    """Return the names of the columns with a number for each fraction, such as `time_1e-2`."""
    return [f"{what}_{x:.0e}".replace("-0", "-") for x in FRACTIONS]


SCHEMA = pa.schema(
    [
        ("id", _S), ("status", _S), ("failure", _S), ("reason", _S),
        # Settings.
        ("algorithm", _S), ("objective", _S), ("x", _S), ("y", _S), ("target", _S), ("weights", _S),
        ("init", _S), ("hidden", _IS), ("size", _F), ("multiplier", _F), ("seed", _I),
        ("until", _F), ("t_max", _F), ("rtol", _F), ("max_steps", _I),
        ("max_descent_steps", _I), ("schedule", _S), ("settings", _S),
        # The start.
        ("n", _I), ("m", _I), ("width", _I), ("depth", _I), ("output_scale", _F),
        ("initial_gap", _F), ("pl_constant", _F),
        # The certificate.
        ("certificate", _S), ("certified_rate", _F), *((name, _F) for name in fraction_columns("certified_time")),
        ("certified_time", _F), ("guarantees", _SS), ("guaranteed_rates", _FS),
        # The run.
        ("result", _S), ("steps", _I), ("step_size", _F), ("t_end", _F), ("final_gap", _F), ("rate", _F),
        ("least_rate", _F), ("final_rate", _F), *((name, _F) for name in fraction_columns("time")), ("time", _F),
        ("imbalance_drift", _F), ("tightness", _F),
        # The check, if it is requested.
        ("holds", pa.bool_()), ("worst_slack", _F), ("worst_gap", _F),
        # The verified run, if it is requested.
        ("proof", _S), ("proved_earliest", _F), ("proved_latest", _F), ("proved_rate", _F),
        # The certificate with its rounding proved, if it is requested.
        ("rigorous_certificate", _S), ("rigorous_rate", _F), ("rigorous_time", _F),
        # Curves, if they are requested.
        ("curve_t", _FS), ("curve_gap", _FS), ("curve_rate", _FS), ("curve_step_size", _FS),
        ("notes", _S), ("versions", _S), ("seconds", _F), ("finished", _F),
    ]
)  # fmt: skip
"""The columns of a table of results; docs/sweeps.md describes each."""

SETTINGS = {
    "algorithm": "algorithm",
    "descent.steps": "max_descent_steps",
    "descent.schedule": "schedule",
    **{f"data.{key}": key for key in ("x", "y", "target", "objective")},
    **{f"start.{key}": key for key in ("init", "hidden", "size", "multiplier", "seed", "weights")},
    **{f"flow.{key}": key for key in ("until", "t_max", "rtol", "max_steps")},
}
"""The column of each setting. Settings that are missing here are only in the column `settings`."""


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table of the schema. A column that a row lacks is a missing value."""
    return pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names} for row in rows], SCHEMA)


def setting_columns(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by column. A value of a wrong type becomes None; the column `settings` has it unchanged."""
    found: dict[str, Any] = {}
    for name, column in SETTINGS.items():
        value, kind = settings.get(name), SCHEMA.field(column).type
        try:
            found[column] = pa.scalar(str(value) if kind == _S and value is not None else value, kind).as_py()
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            found[column] = None
    return found
