"""The notebook view of a design."""

from html import escape
from typing import Any

from linflow._support.fractions import spelled
from linflow._support.html import block, notes
from linflow._support.words import plural


def view(design: Any) -> str:
    """Return the HTML of a design: the reason for its start, its layers and its certificate."""
    head = f"imbalance λ = {design.imbalance:.4g}, rate {design.rate:.4g}"
    if design.steps is not None:
        head += f", {plural(design.steps, 'step')} of {design.step_size:.4g} to {spelled(design.until)} of the gap"
    parts = (f"<div>{escape(design.reason)}</div>", design.start._repr_html_(), design.certificate._repr_html_())
    return block("Design", head, *parts, notes(design.notes))
