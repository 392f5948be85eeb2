"""Small self-contained HTML of networks, bounds, certificates, runs and designs, for notebooks.

Colours are those of the page (`currentColor` and opacity), so that light and dark notebooks can both be read; styles
stand on the elements, so that none reaches the rest of the page. Nothing heavy is computed: no spectrum of T, no
second run, and imbalance spectra of narrow layers only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from linflow._support.arrays import to_numpy
from linflow._support.words import many

if TYPE_CHECKING:
    from linflow.advice.design import Design
    from linflow.bounds import BoundTable
    from linflow.certificates import Certificate
    from linflow.dynamics.trajectory import Trajectory
    from linflow.model.network import Network

FRACTIONS = ("1e-2", "1e-4", "1e-6")
WIDEST = 500
"""The largest hidden width whose imbalance spectrum is computed; its neighbours may be four times as wide."""

_CELL = "padding:0.15em 0.8em 0.15em 0;text-align:left;border:0;background:none;color:inherit;vertical-align:top"
_PLAIN = f'style="{_CELL}"'
_FAINT = "opacity:0.7"
_SIZE = (260, 72)
_POINTS = 200


def network_html(network: Network) -> str:
    """Return the widths, and of each layer the shape, the norm and the gap and spreads of the imbalance after it."""
    rows = []
    for l, (W, size) in enumerate(zip(network.weights, network.sizes, strict=True), 1):
        rows.append((f"W_{l}", f"{W.shape[0]}×{W.shape[1]}", f"{size:.4g}", *_imbalance(network, l)))
    scale = "" if network.scale == 1 else f", scale c = {network.scale:.4g}"
    head = f"{network.depth} layer{'s' * (network.depth > 1)}, {'×'.join(map(str, network.widths))}{scale}"
    if not network.overparametrized:
        head += "; narrower than min(n, m): not every product can be reached"
    titles = ("layer", "shape", "‖W‖_F", "gap Δ of D", "spreads Δ₊, Δ₋")
    return _block("Network", head, _table(titles, rows), _notes(network.notes))


def certificate_html(certificate: Certificate) -> str:
    """Return the guarantees that apply, best first, and the others with their reasons behind a fold."""
    applying = [g for g in certificate.guarantees if g.applies]
    others = [g for g in certificate.guarantees if not g.applies]
    flow = certificate.algorithm == "flow"
    head = f"gradient {certificate.algorithm}, initial gap {certificate.gap:.4g}, γ = {certificate.pl_constant:.4g}"
    if certificate.step_size is not None:
        head += f", step {certificate.step_size:.4g}"
    if certificate.schedule is not None:
        head += f", {certificate.schedule!r}"
    body = "<div>no guarantee applies</div>"
    if applying:
        titles = ("guarantee", "rate", *(f"{'time' if flow else 'steps'} to {x}" for x in FRACTIONS), "source")
        rows = []
        for g in applying:
            soonest = (_number(certificate.soonest(g, float(x))) for x in FRACTIONS)
            rows.append((g.name, f"{g.rate:.4g}", *soonest, g.source))
        body = _table(titles, rows)
    body += _others([(g.name, g.reason) for g in others])
    return _block("Certificate", head, body, _notes(certificate.notes))


def trajectory_html(run: Trajectory) -> str:
    """Return how the run ended, its numbers, and the logarithm of the loss gap against time."""
    t, gap = to_numpy(run.t), to_numpy(run.gap)
    step = "" if run.step_size is None else f", step {run.step_size:.4g}"
    rows = [
        ("time", f"{t[-1]:.4g}"),
        ("loss gap", f"{gap[0]:.4g} → {gap[-1]:.4g}"),
        ("steps", f"{run.stats.steps} ({run.stats.rejected} rejected)"),
        ("imbalance drift", f"{run.stats.imbalance_drift:.2g}"),
        *((f"time to {x}", _number(run.time_to(float(x)))) for x in FRACTIONS),
    ]
    body = _table((), rows) + _sparkline(t, gap)
    return _block("Trajectory", f"gradient {run.algorithm}{step}: {run.result.value}", body, _notes(run.notes))


def bounds_html(table: BoundTable) -> str:
    """Return the bounds that apply, the largest first, and the others with their reasons behind a fold."""
    rows = table.rows()
    count = sum(bound.applies for bound in table)
    body = _table(("bound", "λ_min(T) ≥", "source"), rows[:count]) if count else "<div>no bound applies</div>"
    return _block("Bounds", "on the least eigenvalue of T", body, _others([(a, c) for a, _, c in rows[count:]]))


def design_html(design: Design) -> str:
    """Return what the start was made for, its layers and its certificate."""
    head = f"imbalance λ = {design.imbalance:.4g}, rate {design.rate:.4g}"
    if design.steps is not None:
        head += f", {many(design.steps, 'step')} of {design.step_size:.4g} to {design.fraction:g} of the gap"
    parts = (network_html(design.network), certificate_html(design.certificate))
    return _block("Design", head, f"<div>{escape(design.reason)}</div>", *parts, _notes(design.notes))


def never_raising(build: Callable[[Any], str], shown: Any) -> str:
    """Return `build(shown)`, or the plain `repr` in HTML: a picture must not hide the value of a notebook's cell."""
    try:
        return build(shown)
    except Exception:
        try:
            return f"<pre>{escape(repr(shown))}</pre>"
        except Exception:
            return f"<pre>{escape(type(shown).__name__)}</pre>"


def _imbalance(network: Network, l: int) -> tuple[str, str]:
    """Return gap and spreads of `D_l` in words, dashes where there is none or its matrix is large."""
    if l == network.depth:
        return "–", "–"
    left, h, right = network.widths[l - 1 : l + 2]
    if h > WIDEST or max(left, right) > 4 * WIDEST:
        return "not computed: wide", "–"
    from linflow.geometry.imbalance import imbalance_spectrum  # noqa: PLC0415 - imbalance stands on networks

    try:
        found = imbalance_spectrum(network.detach(), l)
    except Exception:  # LAPACK did not converge, or the device cannot
        return "not computed", "–"
    return f"{found.gap:.4g}", f"{found.positive_spread:.4g}, {found.negative_spread:.4g}"


def _number(x: float) -> str:
    return f"{x:.4g}" if math.isfinite(x) else "–"


def _sparkline(t: np.ndarray, gap: np.ndarray) -> str:
    """Return an SVG path of `log10` of the gap, of what is positive and finite; nothing for fewer than two points."""
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


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table without borders, every cell escaped."""
    head = "".join(f'<th style="{_CELL};{_FAINT}">{escape(title)}</th>' for title in titles)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    body = "".join(
        f'<tr style="background:none">{"".join(f"<td {_PLAIN}>{escape(x)}</td>" for x in row)}</tr>' for row in rows
    )
    return f'<table style="border-collapse:collapse;border:0;margin:0.3em 0">{head}<tbody>{body}</tbody></table>'


def _others(rows: Sequence[tuple[str, str]]) -> str:
    """Return names with why they do not apply, behind a fold; nothing if there are none."""
    if not rows:
        return ""
    many = "1 that does not apply" if len(rows) == 1 else f"{len(rows)} that do not apply"
    return f"<details><summary>{many}</summary>{_table(('name', 'why not'), rows)}</details>"


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<div style="{_FAINT}">{escape(note)}</div>' for note in notes)


def _block(name: str, head: str, *parts: str) -> str:
    return f'<div style="color:inherit"><div><b>{name}</b> {escape(head)}</div>{"".join(parts)}</div>'
