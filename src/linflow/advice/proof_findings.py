"""Findings on what a verified run proves, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator

from linflow._support.fractions import spelled
from linflow._support.words import plural
from linflow.advice.finding import Finding
from linflow.advice.step_findings import counted
from linflow.certificates import Certificate
from linflow.verified import DescentEnclosure, Enclosure


def proved(proof: Enclosure | DescentEnclosure | None, cert: Certificate, until: float) -> Iterator[Finding]:
    """Yield a finding on when the target is proved to be reached, and on the rate proved for all later times."""
    if isinstance(proof, Enclosure):
        yield _of_flow(proof, cert, until)
    elif isinstance(proof, DescentEnclosure):
        yield _of_descent(proof, cert, until)


def _of_flow(proof: Enclosure, cert: Certificate, until: float) -> Finding:
    low, high = proof.time_bounds(until)
    after, before = proof.certificate, cert.time_to(until)
    if not math.isfinite(high):
        text = f"Proved to t = {proof.end:.6g}: {proof.reason or proof.result}."
        return Finding("proof", text, {"end": proof.end, "exponent": proof.exponent})
    text = f"Proved: the loss gap reaches {spelled(until)} of its initial value at t = {interval(low, high)}"
    numbers = {"earliest": low, "latest": high}
    if after is not None:
        text += f", and falls at a rate of at least {after.rate:.3g} at all later times"
        numbers["rate_for_ever"] = after.rate
    return _with_before(text, numbers, before, f"by t = {before:.4g}")


def _of_descent(proof: DescentEnclosure, cert: Certificate, until: float) -> Finding:
    low, high = proof.steps_bounds(until)
    if not math.isfinite(high):
        text = f"Proved for {plural(proof.steps, 'step')}: {proof.reason or proof.result}."
        return Finding("proof", text, {"steps": float(proof.steps), "exponent": proof.exponent})
    number = f"exactly {plural(int(high), 'step')}" if low == high else f"{int(low)} to {plural(int(high), 'step')}"
    text = f"Proved: the loss gap reaches {spelled(until)} of its initial value after {number}"
    before = cert.steps_to(until)
    return _with_before(text, {"fewest": float(low), "most": float(high)}, before, f"within {counted(before)}")


def _with_before(text: str, numbers: dict[str, float], before: float, promised: str) -> Finding:
    """Return the finding with a sentence on what was guaranteed before any run."""
    if math.isfinite(before):
        return Finding("proof", f"{text}. Guaranteed before any run: {promised}.", {**numbers, "before": before})
    return Finding("proof", f"{text}. Before any run nothing is guaranteed.", numbers)


def interval(low: float, high: float) -> str:
    """Return an interval as text: its middle and half its width, rounded so that the text contains the interval.

    >>> interval(73.344206, 73.344209), interval(2.0, 2.0)
    ('73.34421 (± 5e-06)', '2')
    """
    digits, middle, half = 2, math.nan, math.inf
    while half > 2 * (high - low) and digits < 16:
        digits += 1
        middle = float(f"{0.5 * (low + high):.{digits}g}")
        half = max(high - middle, middle - low)
    if half <= 0:
        return f"{middle:g}"
    exponent = math.floor(math.log10(half))
    width = math.ceil(half / 10.0**exponent) * 10.0**exponent
    return f"{0.5 * (low + high):.{digits}g} (± {width:.1g})"
