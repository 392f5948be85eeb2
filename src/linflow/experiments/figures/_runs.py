"""Claims about runs that several experiments share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from linflow import bounds
from linflow._support.arrays import to_numpy
from linflow.certificates import Check
from linflow.certificates.checking import OBSERVED_ALLOWANCE
from linflow.dynamics import Trajectory
from linflow.experiments.figures._outcome import Claim, number
from linflow.geometry.operator import TangentOperator
from linflow.model.objectives import Objective


def bounds_along(objective: Objective, run: Trajectory, points: int = 12) -> np.ndarray:
    """Return, at some recorded instants of a flow, γ·(best bound now), γ·λ_min(T) and the instantaneous rate.

    The bounds use the imbalance and singular values of the weights at that instant, so they hold for that instant.
    Each row of the result must increase: bound ≤ γ λ_min(T) ≤ rate.
    """
    t, rate = to_numpy(run.t), to_numpy(run.rate)
    rows = []
    for i in np.unique(np.linspace(0, len(t) - 1, points).astype(int)):
        seen, net = objective.effective(run.network_at(float(t[i])))
        gamma = seen.pl_constant
        least = float(TangentOperator(net).least_eigenvalue())
        rows.append((gamma * float(bounds.best(net).value), gamma * least, rate[i]))
    return np.array(rows)


def bound_claims(along: Sequence[np.ndarray]) -> list[Claim]:
    """Claim that the columns of each result of `bounds_along` increase: bound, γ λ_min(T), rate."""
    bound, least, rate = np.concatenate(along).T
    return [
        Claim.all_below("No bound exceeds γ λ_min(T) at any instant", bound, least, OBSERVED_ALLOWANCE),
        Claim.all_below("γ λ_min(T) never exceeds the instantaneous rate", least, rate, OBSERVED_ALLOWANCE),
    ]


def axis_claims(objective: Objective, runs: Iterable[Trajectory], *, rate: bool = True) -> list[Claim]:
    """Claim that the drawn losses and rates are what the definitions give for the weights at that instant."""
    gaps, rates = [], []
    for run in runs:
        t, recorded = to_numpy(run.t), to_numpy(run.rate)
        first = objective.gap(run.start.product())
        for i in np.unique(np.linspace(0, len(t) - 1, 7).astype(int)):
            net = run.network_at(float(t[i]))
            G = objective.gradient(net.product())
            slope = sum(float(np.sum(to_numpy(g) ** 2)) for g in net.gradient(G))
            rates.append((float(recorded[i]), slope / objective.gap(net.product())))
            between = float(t[i] + t[max(i - 1, 0)]) / 2
            gap = objective.gap(run.network_at(between).product())
            gaps.append((float(run.gap_at(between)) / float(run.gap[0]), gap / first))
    # Between records the loss is interpolated, with an error of 10⁻⁶ at worst. At records both agree to rounding.
    loss = "The loss drawn is f(W) − f* of the weights at that instant, over the initial one"
    found = [Claim.same(loss, [a for a, _ in gaps], [b for _, b in gaps], 1e-5)]
    if rate:
        text = "The rate drawn is ‖∇L‖²/(f(W) − f*) of the weights at that instant"
        found.append(Claim.same(text, [a for a, _ in rates], [b for _, b in rates], 1e-9))
    return found


def kept_claim(text: str, checks: Iterable[Check], and_also: bool = True) -> Claim:
    """Claim that every run kept its certificate, in rate and in loss, and whatever else the text says."""
    return held_claim(text, [(check.holds, check.worst_slack) for check in checks], and_also)


def held_claim(text: str, verdicts: Sequence[tuple[bool | None, float | None]], and_also: bool = True) -> Claim:
    """Claim the same, from whether each run held and its slack; a run that was not checked (None) does not hold."""
    slack = min((slack for _, slack in verdicts if slack is not None), default=math.nan)
    kept = sum(holds is True for holds, _ in verdicts)
    return Claim(
        text,
        f"{kept} of {len(verdicts)} runs; the rate is at least {number(slack, 4)} times the certified one",
        kept == len(verdicts) and and_also,
        slack,
    )
