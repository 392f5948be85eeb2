"""Rows of text whose columns align, and lists of what does not apply, grouped by the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def text_table(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    r"""Return lines of text with two spaces between the columns.

    Args:
        rows: the texts, one for each column.
        sides: the side of each column, "<" for left or ">" for right; one sign alone is for all.

    Example:
        >>> print(*text_table([("bound", "value", "source"), ("longer", "1.5", "here")], "<><"), sep="\n")
        bound   value  source
        longer    1.5  here
    """
    columns = list(zip(*rows, strict=True))
    sides = sides * len(columns) if len(sides) == 1 else sides
    forms = [f"{side}{max(map(len, column))}" for side, column in zip(sides, columns, strict=True)]
    return ["  ".join(map(format, row, forms)).rstrip() for row in rows]


def grouped(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names that have the same reason, by reason; each reason keeps the place of its first name."""
    names: dict[str, list[str]] = {}
    for name, reason in rows:
        names.setdefault(reason, []).append(name)
    return names


def by_reason(rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Join the names that have the same reason; each reason keeps the place of its first name.

    Example:
        >>> by_reason([("a", "too narrow"), ("b, c", "too deep"), ("d", "too narrow")])
        [('a; d', 'too narrow'), ('b, c', 'too deep')]
    """
    return [("; ".join(same), reason) for reason, same in grouped(rows).items()]


def unmet(what: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    r"""Return lines that name what does not apply, and why; none if there are no rows.

    Example:
        >>> print(*unmet("bounds", [("a", "too narrow"), ("b", "too narrow")]), sep="\n")
        <BLANKLINE>
        bounds that do not apply, and why:
          a; b: too narrow
    """
    if not rows:
        return []
    return ["", f"{what} that do not apply, and why:", *(f"  {names}: {why}" for names, why in by_reason(rows))]
