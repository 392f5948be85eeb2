"""Small self-contained HTML for notebooks: tables, folds and a curve. Every class draws itself with these.

Colours are those of the page (`currentColor` and opacity), so the output is readable in light and dark notebooks.
Styles are set on the elements, so they do not affect the rest of the page. Nothing heavy is computed: no spectrum of
T, no second run, and imbalance spectra of narrow layers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from linflow._support.text_table import by_reason

_CELL = "padding:0.15em 0.8em 0.15em 0;text-align:left;border:0;background:none;color:inherit;vertical-align:top"
_PLAIN = f'style="{_CELL}"'
_FAINT = "opacity:0.7"
_SIZE = (260, 72)
_POINTS = 200


def never_raising(build: Callable[[Any], str], shown: Any) -> str:
    """Return `build(shown)`, or the plain `repr` in HTML if that fails.

    An error in a picture must not hide the value of a notebook cell.
    """
    try:
        return build(shown)
    except Exception:
        try:
            return f"<pre>{escape(repr(shown))}</pre>"
        except Exception:
            return f"<pre>{escape(type(shown).__name__)}</pre>"


def sparkline(t: np.ndarray, gap: np.ndarray) -> str:
    """Return an SVG curve of `log10` of the gap against time, with its label.

    Only points with a positive and finite gap are drawn. The text is empty if there are fewer than two.
    """
    keep = np.isfinite(t) & np.isfinite(gap) & (gap > 0)
    t, level = t[keep], np.log10(gap[keep])
    if t.size < 2 or not t[-1] > t[0]:
        return ""
    chosen = np.unique(np.searchsorted(t, np.linspace(t[0], t[-1], _POINTS)).clip(0, t.size - 1))
    t, level = t[chosen], level[chosen]
    width, height = _SIZE
    low, high = float(level.min()), float(level.max())
    x = 2 + (width - 4) * (t - t[0]) / (t[-1] - t[0])
    y = 2 + (height - 4) * (high - level) / max(high - low, 1e-12)
    path = "M" + " L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    label = f"log10 of the loss gap, from {level[0]:.1f} to {level[-1]:.1f}, against time up to {t[-1]:.4g}"
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'style="display:block;margin-top:0.4em">'
        f'<path d="M1,0 V{height - 1} H{width}" fill="none" stroke="currentColor" stroke-opacity="0.3"/>'
        f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
        f'<div style="{_FAINT};font-size:85%">{label}</div>'
    )


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table without borders; the text of every cell is escaped."""
    head = "".join(f'<th style="{_CELL};{_FAINT}">{escape(title)}</th>' for title in titles)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    body = "".join(
        f'<tr style="background:none">{"".join(f"<td {_PLAIN}>{escape(x)}</td>" for x in row)}</tr>' for row in rows
    )
    return f'<table style="border-collapse:collapse;border:0;margin:0.3em 0">{head}<tbody>{body}</tbody></table>'


def folded_reasons(rows: Sequence[tuple[str, str]]) -> str:
    """Return a folded table of names and why each does not apply, or an empty text if there are no rows."""
    if not rows:
        return ""
    many = "1 that does not apply" if len(rows) == 1 else f"{len(rows)} that do not apply"
    return f"<details><summary>{many}</summary>{table(('name', 'why it does not apply'), by_reason(rows))}</details>"


def notes(lines: Sequence[str]) -> str:
    """Return notes in faint text, one on each line."""
    return "".join(f'<div style="{_FAINT}">{escape(note)}</div>' for note in lines)


def block(name: str, head: str, *parts: str) -> str:
    """Return a block: one line with a name in bold and a heading, then the parts."""
    return f'<div style="color:inherit"><div><b>{name}</b> {escape(head)}</div>{"".join(parts)}</div>'
