"""Compare guarantees with a run: whether each holds, and how far it is from what happened."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from linflow._support.arrays import EPS, norm, to_numpy
from linflow._support.fractions import FRACTIONS
from linflow._support.words import kind_of, shown
from linflow.certificates._base import Guarantee, finite
from linflow.certificates.curves import StepCurve
from linflow.certificates.imbalance_law import ImbalanceGuarantee
from linflow.model.optimizer import Optimizer, difference

if TYPE_CHECKING:
    from linflow.dynamics.trajectory import Trajectory

OBSERVED_ALLOWANCE = 1e-9
"""Relative rounding allowed in an observed rate and gap before a guarantee counts as violated."""


@dataclass(frozen=True)
class Violation:
    """A guarantee that a run did not keep.

    Attributes:
        guarantee: name of the guarantee.
        t: first recorded time of the violation.
        quantity: "loss gap", "rate" or "imbalance".
        observed: the value in the run.
        guaranteed: the guaranteed value: an upper bound on a gap, a lower bound on a rate.
    """

    guarantee: str
    t: float
    quantity: str
    observed: float
    guaranteed: float


@dataclass(frozen=True, repr=False)
class Check:
    """The result of comparing a certificate with a run.

    Attributes:
        holds: whether the run kept every guarantee at every recorded time.
        worst_slack: smallest ratio of the observed rate to the rate guaranteed at its gap; for descent, the observed
            rate is the mean between two records. If the check holds, it is at least 1, up to rounding. It is inf if
            no rate is guaranteed.
        worst_gap: largest ratio of the observed to the guaranteed loss gap. If the check holds, it is at most 1, up
            to rounding.
        violation: the first violation, or None.
        time_ratios: ratio of the guaranteed to the actual time to 10⁻², 10⁻⁴ and 10⁻⁶ of the initial gap; for a
            schedule, of the numbers of steps. It is nan if the run did not get there, inf if no time is guaranteed.
    """

    holds: bool
    worst_slack: float
    worst_gap: float
    violation: Violation | None
    time_ratios: dict[float, float] = field(default_factory=dict)

    @shown
    def __str__(self) -> str:
        if self.violation is None:
            lines = ["kept at every recorded time"]
            if math.isfinite(self.worst_slack):
                lines = [f"{lines[0]}; observed rate at least {self.worst_slack:.4g} times the guaranteed"]
        else:
            v = self.violation
            lines = [
                f"VIOLATED by {v.guarantee!r} at t = {v.t:.6g}: {v.quantity} {v.observed:.6g}, {v.guaranteed:.6g}"
            ]
        ratios = [f"{ratio:.3g} to reach {x:g}" for x, ratio in self.time_ratios.items() if math.isfinite(ratio)]
        return "\n".join([*lines, *(["guaranteed over actual time: " + ", ".join(ratios)] if ratios else [])])

    def __repr__(self) -> str:
        return f"Check({'; '.join(str(self).splitlines())})"

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain data, ready for JSON: non-finite numbers become None."""
        return {
            "holds": self.holds,
            "worst_slack": finite(self.worst_slack),
            "worst_gap": finite(self.worst_gap),
            "violation": None if self.violation is None else vars(self.violation),
            "time_ratios": {f"{x:g}": finite(ratio) for x, ratio in self.time_ratios.items()},
        }


class Promise(Protocol):
    """The part of a certificate that a check uses; its objective tells the rounding of a network of its kind."""

    @property
    def guarantees(self) -> tuple[Guarantee, ...]: ...  # noqa: D102
    @property
    def objective(self) -> Any: ...  # noqa: D102
    @property
    def start(self) -> Any: ...  # noqa: D102
    @property
    def gap(self) -> float: ...  # noqa: D102
    @property
    def algorithm(self) -> str: ...  # noqa: D102
    @property
    def step_size(self) -> float | None: ...  # noqa: D102
    @property
    def schedule(self) -> Any: ...  # noqa: D102
    @property
    def optimizer(self) -> Optimizer: ...  # noqa: D102
    @property
    def imbalance(self) -> ImbalanceGuarantee | None: ...  # noqa: D102
    def rate_at(self, gap: float) -> float: ...  # noqa: D102
    def time_to(self, until: Any) -> Any: ...  # noqa: D102
    def steps_to(self, until: Any) -> Any: ...  # noqa: D102


@runtime_checkable
class Proof(Protocol):
    """A two-sided bound on the exact flow or descent that can be compared with a certificate."""

    def against(self, certificate: Any) -> Check:
        """Return the check of a certificate against this proof."""
        ...


def check(certificate: Promise, run: Trajectory | Proof) -> Check:
    """Compare every guarantee of a certificate with a run from the same start, or with a proof of one.

    Raises:
        TypeError: `run` is neither.
    """
    if isinstance(run, Proof):
        return run.against(certificate)
    if not all(hasattr(run, name) for name in ("t", "gap", "rate", "stats")):
        raise TypeError(
            f"run is {kind_of(run)}; a run (gradient_flow, gradient_descent) or a proof of one (enclose) is needed."
        )
    return check_run(certificate, run)


def check_run(certificate: Promise, run: Trajectory) -> Check:
    """Compare every guarantee of a certificate with a run from the same start.

    The gap is compared with each curve, for a schedule by the number of steps done. The rate is compared with the
    best rate guaranteed at its gap. Observed values get a relative allowance of `1e-9` plus the integrator's own
    error estimate. A gap y carries the rounding ρ of the objective as a square does, `(sqrt(y) ± 4 sqrt(ρ))²`,
    because it is the residual that rounds: when it is computed, and in the weights with each step. In 6000 starts
    near a minimum, a factor of 2.3 was needed.
    """
    t, gap, rate = (to_numpy(x) for x in (run.t, run.gap, run.rate))
    root = 4 * math.sqrt(_noise(certificate, run))
    _check_pair(certificate, run, root)
    seen = gap > 0  # a gap of zero has no rate
    done = None if certificate.schedule is None else _steps_done(certificate, run)[seen]
    t, gap, rate = t[seen], gap[seen], rate[seen]
    if len(t) == 0:
        return Check(True, math.inf, 0.0, None)
    with np.errstate(over="ignore", invalid="ignore"):  # a rounding past float64 leaves 0 and infinity
        below = np.nan_to_num(np.maximum(np.sqrt(gap) - root, 0.0), nan=0.0)
        least, most = below**2, (np.sqrt(gap) + root) ** 2
    promised = np.array([certificate.rate_at(float(y)) for y in gap])
    if certificate.algorithm == "descent":
        # A promise that falls with the gap, as in a tail, is kept over several steps as it stands at the last.
        eta = certificate.step_size
        several = eta is not None and np.diff(t) > 1.5 * eta
        promised = np.where(several, np.minimum(promised[1:], promised[:-1]), promised[:-1])
        t_end, rate = t[1:], _mean_rate(t, least, most)
    else:
        t_end = t
    slack = np.where(promised > 0, rate / np.where(promised > 0, promised, 1.0), math.inf)
    found = []
    bad = _beyond(1 - slack, run)
    if bad.size:
        i = int(bad[0])
        at = float(gap[i])
        name = max(certificate.guarantees, key=lambda g: g.curve.rate_at(at) if g.curve else -1.0).name
        found.append(Violation(name, float(t_end[i]), "rate", float(rate[i]), float(promised[i])))
    worst = 0.0
    for guarantee in certificate.guarantees:
        if not guarantee.applies:
            continue
        bound = guaranteed_gaps(guarantee, t, done)
        with np.errstate(over="ignore"):  # a bound can have reached 0
            share = least / np.maximum(bound, 5e-324)
        worst = max(worst, float(np.max(share)))
        bad = _beyond(share - 1, run)
        if bad.size:
            i = int(bad[0])
            found.append(Violation(guarantee.name, float(t[i]), "loss gap", float(gap[i]), float(bound[i])))
    found += _imbalance_violation(certificate, run)
    violation = min(found, key=lambda v: v.t) if found else None
    if done is None:
        ratios = {x: _ratio(certificate.time_to(x), run.time_to(x)) for x in FRACTIONS}
    else:
        ratios = {x: _ratio(certificate.steps_to(x), steps_taken(run, x)) for x in FRACTIONS}
    return Check(violation is None, float(np.min(slack, initial=math.inf)), worst, violation, ratios)


def _check_pair(certificate: Promise, run: Trajectory, root: float) -> None:
    """Raise ValueError unless certificate and run are of the same start and the same algorithm."""
    # At a minimum the gap is only rounding, and it differs if the run reduces the width.
    first = float(run.gap[0])
    same = math.isclose(first, certificate.gap, rel_tol=1e-9, abs_tol=1e-300)
    if not (same or abs(math.sqrt(first) - math.sqrt(certificate.gap)) <= root):
        raise ValueError(
            f"the run starts at a loss gap of {first:.6g} and the certificate at {certificate.gap:.6g}; "
            "certify the objective and network that the run began with."
        )
    if run.algorithm != certificate.algorithm:
        raise ValueError(
            f"the certificate is for the {certificate.algorithm} and the run is a {run.algorithm}; certify with "
            f'algorithm="{run.algorithm}".'
        )
    if unlike := difference(certificate.optimizer, run.optimizer, "the certificate", "the run"):
        raise ValueError(f"{unlike}; certify what was run, or run what was certified.")
    check_step(certificate, run.step_size)


def check_step(certificate: Promise, taken: float | None) -> None:
    """Raise ValueError if a certificate is for a constant step and another was taken; None is a schedule."""
    eta = certificate.step_size
    if eta is not None and not (taken is not None and math.isclose(taken, eta, rel_tol=1e-12)):
        other = "steps of a schedule" if taken is None else f"the step {taken:g}"
        raise ValueError(
            f"the certificate is for the constant step {eta:g} and the run took {other}; certify that step, "
            f"or run gradient_descent(…, step_size={eta:g})."
        )


def _imbalance_violation(certificate: Promise, run: Trajectory) -> list[Violation]:
    """Return the violation of the statement on the imbalances at the end of a run, if there is one.

    An error of the integration by a part ε of the weights changes an imbalance by `2ε Σ‖W_l‖²`. ε is taken to be the
    error estimate of the gap, and for plain gradient nothing is compared: the drift of such a run is that error.
    """
    law = certificate.imbalance
    if law is None or run.optimizer.only_rates:
        return []
    t, seen, promised = float(run.nodes[0][-1]), run.stats.imbalance_drift, law.change_at(float(run.nodes[0][-1]))
    error = run.stats.gap_error
    size = sum(norm(W) ** 2 for network in (run.start, run.final) for W in network.weights)
    allowed = (OBSERVED_ALLOWANCE + (0.0 if math.isnan(error) else 2 * error)) * size
    return [Violation("imbalance", t, "imbalance", seen, promised)] if seen > promised + allowed else []


def _beyond(excess: np.ndarray, run: Trajectory) -> np.ndarray:
    """Return the indices at which a relative excess is beyond rounding and the error of the run.

    The error of the run is estimated only if it is needed.
    """
    if not (excess > OBSERVED_ALLOWANCE).any():
        return np.empty(0, dtype=int)
    error = run.stats.gap_error
    # An error that was not estimated excuses nothing.
    return np.flatnonzero(excess > OBSERVED_ALLOWANCE + (0.0 if math.isnan(error) else error))


def guaranteed_gaps(guarantee: Guarantee, t: np.ndarray, done: np.ndarray | None) -> np.ndarray:
    """Return the guaranteed gaps at the times of a run; for changing steps, after the number of steps done."""
    if done is not None and isinstance(guarantee.curve, StepCurve):
        return np.array([guarantee.gap_after(int(k)) for k in done])
    return np.array([guarantee.gap_at(float(s)) for s in t])


def _step_times(run: Trajectory) -> np.ndarray:
    """Return the time after each number of steps, summed in the same way as in the run."""
    assert run.step_sizes is not None
    return np.cumsum(np.concatenate([[0.0], to_numpy(run.step_sizes)]))


def _steps_done(certificate: Promise, run: Trajectory) -> np.ndarray:
    """Return the steps done at each record; raise ValueError if the first step is not that of the schedule."""
    times = _step_times(run)
    if len(times) > 1:
        check_first_step(certificate, float(times[1]), always=run.step_size is not None)
    return np.searchsorted(times, to_numpy(run.t))


def check_first_step(certificate: Promise, taken: float, *, always: bool) -> None:
    """Raise ValueError if a descent took another first step than the schedule of a certificate, or one for ever."""
    from linflow.dynamics.descent import gradient_descent  # noqa: PLC0415 - runs do not depend on certificates

    options = certificate.optimizer.options()
    one = gradient_descent(
        certificate.objective, certificate.start, schedule=certificate.schedule, steps=1, **options
    )
    assert one.step_sizes is not None
    due = float(one.step_sizes[0])
    if always or not math.isclose(taken, due, rel_tol=1e-9):
        raise ValueError(
            f"the certificate is for {certificate.schedule!r}, whose first step is {due:g}, and the run took "
            f"{taken:g}{' always' if always else ''}; certify the schedule or step of the run, or run "
            "gradient_descent(…, schedule=…)."
        )


def steps_taken(run: Trajectory, until: float) -> float:
    """Return the steps a run took to a fraction of its gap, interpolated if not every step was recorded."""
    t = run.time_to(until)
    return float(np.searchsorted(_step_times(run), t)) if math.isfinite(t) else math.inf


def _noise(certificate: Promise, run: Trajectory) -> float:
    """Return the rounding level of the gap along a run: the larger of those at its two ends.

    The rounding inside a user-defined objective is unknown. It is taken to be of the size of the value returned.
    """
    f = certificate.objective
    noise = max(f.rounding(certificate.start), f.rounding(run.final))
    return noise if f.derived else max(noise, 8 * EPS * (abs(certificate.gap) + abs(f.minimum)))


def _mean_rate(t: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Return the largest mean rate of a descent that two neighbouring records allow; inf if the gap is noise."""
    with np.errstate(divide="ignore", over="ignore"):  # steps may be too short for a rate within float64
        return np.where(least[1:] > 0, np.log(most[:-1] / least[1:]) / np.diff(t), math.inf)


def _ratio(guaranteed: float, actual: float) -> float:
    if not math.isfinite(actual):
        return math.nan
    return guaranteed / actual if actual > 0 else math.inf
