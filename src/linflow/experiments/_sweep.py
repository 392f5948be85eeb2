"""What the experiments that are sweeps share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from linflow.experiments._base import Claim, Progress, number
from linflow.experiments._runs import held_claim
from linflow.sweeps.driver import sweep
from linflow.sweeps.status import Status

Row = Mapping[str, Any]


def rows_of(grid: Mapping[str, Any], progress: Progress, first: float = 0.0, last: float = 1.0) -> list[Row]:
    """Run a grid on all cores and return its rows; progress goes from `first` to `last`."""

    def watch(status: Status) -> None:
        progress(first + (last - first) * status.done / status.total, f"{status.done} of {status.total} cells")

    progress(first, "a sweep")
    return sweep(grid, progress=watch).to_pylist()


def guaranteed(row: Row, name: str) -> float:
    """Return the rate of one guarantee of a cell, 0 where it does not apply."""
    return float(dict(zip(row["guarantees"], row["guaranteed_rates"], strict=True))[name])


def complete_claim(rows: Sequence[Row], what: str) -> Claim:
    """Claim that every cell ran to its end."""
    good = sum(row["status"] == "ok" for row in rows)
    reasons = {row["reason"] for row in rows if row["status"] != "ok"}
    return Claim(
        f"Every {what} reaches its target",
        f"{number(good)} of {number(len(rows))}" + "".join(f"; {reason}" for reason in sorted(reasons)),
        good == len(rows),
        good,
    )


def rows_claim(rows: Sequence[Row], text: str) -> Claim:
    """Claim that every run kept its certificate at every recorded time."""
    return held_claim(text, [(row["holds"], row["worst_slack"]) for row in rows])
