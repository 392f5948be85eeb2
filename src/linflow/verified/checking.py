"""Checking a certificate against a proof. No tolerance is needed, because the bounds hold for the exact flow."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from linflow._support.fractions import FRACTIONS
from linflow.certificates import Certificate, Check, Violation

POINTS = 200
"""Largest number of times, evenly spread over the steps, at which the two are compared."""


class Bounded(Protocol):
    """A flow with bounds from both sides, such as an `Enclosure`."""

    @property
    def first(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def t(self) -> Any: ...  # noqa: D102
    def gap_bounds(self, t: Any) -> tuple[Any, Any]: ...  # noqa: D102
    def rate_bounds(self, t: Any) -> tuple[Any, Any]: ...  # noqa: D102
    def time_bounds(self, until: Any) -> tuple[Any, Any]: ...  # noqa: D102


def check_proof(certificate: Certificate, enclosure: Bounded) -> Check:
    """Check every guarantee of a certificate on the flow against a proof from the same start.

    A guarantee is broken if its curve is below the proved lower bound of the gap, or if the best promised rate is
    above the proved upper bound of the rate. There is no tolerance for rounding or integration.
    """
    if certificate.algorithm != "flow":
        raise ValueError(
            "the certificate is for descent, but the enclosure is of the flow; call certify without algorithm=, or "
            'call enclose with algorithm="descent".'
        )
    if not certificate.optimizer.plain:
        raise ValueError(
            f"the certificate is for {certificate.optimizer}, but the enclosure is of the plain flow; a statement on "
            "one says nothing about the other."
        )
    low, high = enclosure.first
    if not low * (1 - 1e-9) <= certificate.gap <= high * (1 + 1e-9):
        raise ValueError(
            f"the proof starts at a loss gap of {high:.6g}, but the certificate at {certificate.gap:.6g}; certify "
            "the objective and network that were enclosed."
        )
    t = enclosure.t
    if len(t) > POINTS:
        t = t[np.unique(np.linspace(0, len(t) - 1, POINTS).round().astype(int))]
    (gap_low, gap_high), rate_high = enclosure.gap_bounds(t), enclosure.rate_bounds(t)[1]
    violation, worst_gap = None, 0.0
    for guarantee in certificate.guarantees:
        if not guarantee.applies:
            continue
        promised = np.array([guarantee.gap_at(float(x)) for x in t])
        with np.errstate(divide="ignore", invalid="ignore"):
            worst_gap = max(worst_gap, float(np.nanmax(np.where(gap_low > 0, gap_low / promised, 0.0))))
        broken = np.flatnonzero(gap_low > promised)
        if len(broken) and violation is None:
            k = int(broken[0])
            violation = Violation(guarantee.name, float(t[k]), "loss gap", float(gap_low[k]), float(promised[k]))
    worst_slack = math.inf
    for k, x in enumerate(t):
        # The exact gap is at most the upper bound, and the promised rate only grows as the gap falls.
        promised = certificate.rate_at(float(gap_high[k]))
        if promised <= 0 or not math.isfinite(rate_high[k]):
            continue
        worst_slack = min(worst_slack, float(rate_high[k]) / promised)
        if rate_high[k] < promised and violation is None:
            violation = Violation("rate", float(x), "rate", float(rate_high[k]), promised)
    ratios = {}
    for fraction in FRACTIONS:
        earliest, latest = enclosure.time_bounds(fraction)
        known = math.isfinite(latest) and earliest > 0
        ratios[fraction] = certificate.time_to(fraction) / earliest if known else math.nan
    return Check(violation is None, worst_slack, worst_gap, violation, ratios)
