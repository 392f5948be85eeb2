"""Guarantees for losses with an exponential tail: the gap falls like 1/t.

The hard margin and the imbalance set the pace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from linflow import bounds
from linflow.certificates._base import Guarantee
from linflow.certificates.setting import Setting
from linflow.model.classification import ExponentialTail


@dataclass(frozen=True)
class TailCurve:
    """The decay that `‖∇f‖ ≥ γ·(…)` and `λ_min(T) ≥ α` imply: `ℓ(0)/(1 + γ²αℓ(0)t)` for the exponential loss."""

    objective: ExponentialTail
    first: float
    alpha: float
    rate: float = 0.0

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        return self.objective.tail_gap(self.first, t, self.alpha)

    def time(self, gap: float) -> float:
        """Return when the bound comes down to `gap`."""
        return 0.0 if gap >= self.first else self.objective.tail_time(self.first, gap, self.alpha)

    def rate_at(self, gap: float) -> float:
        """Return `α (γψ(gap))²/gap`, which falls to 0 with the gap."""
        return self.alpha * self.objective.tail_constant(gap) ** 2 * gap


def exponential_tail(setting: Setting) -> list[Guarantee]:
    """Return the guarantee for an objective with an exponential tail; an empty list for any other objective.

    There is no minimiser and no margin. `λ_min(T) ≥ α(D)` follows from the imbalance alone, which the flow conserves.

    Source: docs/tails.md; `‖∇f‖ ≥ γf` with the hard margin γ as in Soudry et al. 2018.
    """
    objective, gap, c = setting.objective, setting.gap, setting.scale
    if not isinstance(objective, ExponentialTail):
        return []
    if setting.depth == 1:
        alpha, name = c**2, "one layer"
    else:
        rows = [row for row in bounds.evaluate(setting.invariants.at(0.0, math.inf), c) if row.applies]
        best = max(rows, key=lambda row: float(row.value))
        alpha, name = float(best.value), best.name
    reason = ""
    if not math.isfinite(gap):
        reason = "the loss at the start is not finite; shrink the weights"
    elif alpha <= 0:
        reason = "no bound on λ_min(T) from the imbalance alone; imbalance the start more (there is no margin here)"
    return [
        setting.guarantee(
            name=f"exponential tail, {name}",
            source="linflow, docs/tails.md",
            citation=("linflow", "soudry2018"),
            reason=reason,
            curve=None if reason else TailCurve(objective, gap, alpha),
            facts={"hard margin": objective.hard_margin, "α": alpha},
        )
    ]
