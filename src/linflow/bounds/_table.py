"""The bounds of a network, displayed as a table."""

from __future__ import annotations

from linflow._support.arrays import to_numpy
from linflow._support.html import block, folded_reasons, never_raising, table
from linflow._support.text_table import text_table, unmet
from linflow.bounds._base import Bound


class BoundTable(list[Bound]):
    """A list with one `Bound` for each theorem, displayed as a table."""

    def __repr__(self) -> str:
        rows, count = self.rows(), sum(bound.applies for bound in self)
        lines = (
            text_table([("bound", "λ_min(T) ≥", "source"), *rows[:count]], "<><") if count else ["no bound applies"]
        )
        return "\n".join([*lines, *unmet("bounds", [(a, c) for a, _, c in rows[count:]])])

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (name, value, source or reason) of each bound; those that apply come first, the largest on top."""
        first = sorted(self, key=lambda b: (not b.applies, -float(to_numpy(b.value).max())))
        return [(b.name, b.text, b.source if b.applies else b.reason) for b in first]

    def _repr_html_(self) -> str:
        return never_raising(_view, self)


def _view(bounds: BoundTable) -> str:
    """Return HTML with the bounds that apply, the largest first; the others and their reasons are folded away."""
    rows = bounds.rows()
    count = sum(bound.applies for bound in bounds)
    body = table(("bound", "λ_min(T) ≥", "source"), rows[:count]) if count else "<div>no bound applies</div>"
    return block("Bounds", "on the least eigenvalue of T", body, folded_reasons([(a, c) for a, _, c in rows[count:]]))
