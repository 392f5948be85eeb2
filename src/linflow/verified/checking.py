"""Checking a certificate against a proof. No tolerance is needed, because the bounds hold for the exact run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from linflow._support.arrays import spread
from linflow._support.fractions import FRACTIONS
from linflow.certificates import Check, Violation
from linflow.certificates.checking import Promise, check_first_step, check_step, guaranteed_gaps
from linflow.model.optimizer import Optimizer, difference

POINTS = 200
"""Largest number of times, evenly spread over the steps, at which the two are compared."""


class BoundedFlow(Protocol):
    """A flow with bounds from both sides, such as an `Enclosure`."""

    @property
    def first(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def t(self) -> Any: ...  # noqa: D102
    def gap_bounds(self, t: Any) -> tuple[Any, Any]: ...  # noqa: D102
    def time_bounds(self, until: Any) -> tuple[Any, Any]: ...  # noqa: D102


class BoundedSteps(Protocol):
    """A descent with bounds from both sides, such as a `DescentEnclosure`."""

    @property
    def step_size(self) -> float | None: ...  # noqa: D102
    @property
    def optimizer(self) -> Optimizer: ...  # noqa: D102
    @property
    def t(self) -> Any: ...  # noqa: D102
    def gap_bounds(self, k: Any) -> tuple[Any, Any]: ...  # noqa: D102
    def steps_bounds(self, until: Any) -> tuple[Any, Any]: ...  # noqa: D102


def check_flow(
    certificate: Promise, proof: BoundedFlow, fastest: Callable[[np.ndarray], np.ndarray] | None = None
) -> Check:
    """Check every guarantee of a certificate on the flow against a proof from the same start.

    A guarantee is broken if its curve is below the proved lower bound of the gap, or if the best promised rate is
    above the proved upper bound of the rate. There is no tolerance for rounding or integration.

    Args:
        certificate: what was promised.
        proof: what was proved.
        fastest: the upper bounds of the rate at several times; None compares gaps only.
    """
    same_flow(certificate, proof)
    t = proof.t[spread(len(proof.t), POINTS)]
    low, high = proof.gap_bounds(t)
    worst, violation = _gaps(certificate, t, low, None)
    slack, faster = (math.inf, None) if fastest is None else _rates(certificate, t, high, fastest(t))
    ratios = {x: _late(certificate.time_to(x), *proof.time_bounds(x)) for x in FRACTIONS}
    return _found(violation or faster, slack, worst, ratios)


def same_flow(certificate: Promise, proof: BoundedFlow) -> None:
    """Raise ValueError unless a certificate and a proof are of the plain flow from the same start."""
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
    _same_gap(certificate, *proof.first)


def check_steps(certificate: Promise, proof: BoundedSteps) -> Check:
    """Check every guarantee of a certificate on descent against a proof from the same start, with the same steps.

    The gaps are compared as for the flow. The rate of a step is `log(ℓ_k/ℓ_{k+1})/η_k`, which is at most that of the
    proved upper bound of `ℓ_k` and the lower bound of `ℓ_{k+1}`.
    """
    same_steps(certificate, proof)
    times, k = proof.t, spread(len(proof.t), POINTS)
    low, high = proof.gap_bounds(k)
    worst, violation = _gaps(certificate, times[k], low, None if certificate.schedule is None else k)
    now, following = k[:-1], k[:-1] + 1
    below = proof.gap_bounds(following)[0]
    with np.errstate(divide="ignore", invalid="ignore"):  # a gap that may be 0 has any rate
        rates = np.log(high[:-1] / below) / (times[following] - times[now])
    slack, faster = _rates(certificate, times[now], high[:-1], rates)
    ratios = {x: _late(certificate.steps_to(x), *proof.steps_bounds(x)) for x in FRACTIONS}
    return _found(violation or faster, slack, worst, ratios)


def same_steps(certificate: Promise, proof: BoundedSteps) -> None:
    """Raise ValueError unless a certificate and a proof are of the same descent from the same start."""
    if certificate.algorithm != "descent":
        raise ValueError(
            "the certificate is for the flow, but the enclosure is of descent; call certify with "
            'algorithm="descent" and the same step, or call enclose without algorithm=.'
        )
    if unlike := difference(certificate.optimizer, proof.optimizer, "the certificate", "the proof"):
        raise ValueError(f"{unlike}; certify what was enclosed, or enclose what was certified.")
    _same_gap(certificate, *proof.gap_bounds(0))
    check_step(certificate, proof.step_size)
    if certificate.schedule is not None and len(proof.t) > 1:
        check_first_step(certificate, float(proof.t[1]), always=proof.step_size is not None)


def _found(violation: Violation | None, slack: float, worst: float, ratios: dict[float, float]) -> Check:
    return Check(violation is None, slack, worst, violation, ratios)


def _same_gap(certificate: Promise, low: float, high: float) -> None:
    """Raise ValueError unless certificate and proof are of the same start."""
    if not low * (1 - 1e-9) <= certificate.gap <= high * (1 + 1e-9):
        raise ValueError(
            f"the proof starts at a loss gap of {high:.6g}, but the certificate at {certificate.gap:.6g}; certify "
            "the objective and network that were enclosed."
        )


def _gaps(
    certificate: Promise, t: np.ndarray, low: np.ndarray, done: np.ndarray | None
) -> tuple[float, Violation | None]:
    """Return the largest part of a promised gap that the proved lower bound is, and the first that is above 1."""
    violation, worst = None, 0.0
    for guarantee in certificate.guarantees:
        if not guarantee.applies:
            continue
        promised = guaranteed_gaps(guarantee, t, done)
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = max(worst, float(np.nanmax(np.where(low > 0, low / promised, 0.0))))
        broken = np.flatnonzero(low > promised)
        if len(broken) and violation is None:
            i = int(broken[0])
            violation = Violation(guarantee.name, float(t[i]), "loss gap", float(low[i]), float(promised[i]))
    return worst, violation


def _rates(
    certificate: Promise, t: np.ndarray, high: np.ndarray, rates: np.ndarray
) -> tuple[float, Violation | None]:
    """Return the least ratio of a proved upper bound of the rate to the promised rate, and the first below 1."""
    violation, slack = None, math.inf
    for x, gap, rate in zip(t.tolist(), high.tolist(), rates.tolist(), strict=True):
        # The exact gap is at most the upper bound, and the promised rate only grows as the gap falls.
        promised = certificate.rate_at(gap)
        if promised <= 0 or not math.isfinite(rate):
            continue
        slack = min(slack, rate / promised)
        if rate < promised and violation is None:
            violation = Violation("rate", x, "rate", rate, promised)
    return slack, violation


def _late(promised: float, earliest: float, latest: float) -> float:
    """Return the promised time or number of steps over the proved one; NaN if that is not known."""
    return promised / earliest if math.isfinite(latest) and earliest > 0 else math.nan
