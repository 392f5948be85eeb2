"""Guarantees for losses with a tail, such as the exponential one: the gap falls like 1/t.

The constant of the tail (for classification, the hard margin) and the imbalance set the pace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from linflow import bounds
from linflow.certificates._base import Guarantee
from linflow.certificates.setting import Setting
from linflow.model.tails import Tail

NOT_FINITE = "the loss at the start is not finite; shrink the weights"
NO_FLOOR = "no bound on λ_min(T) from the imbalance alone; imbalance the start more (there is no margin here)"


@dataclass(frozen=True)
class TailCurve:
    """The decay that `‖∇f‖ ≥ γψ(ℓ)` and `λ_min(T) ≥ α` imply: `ℓ(0)/(1 + γ²αℓ(0)t)` for `ψ(ℓ) = ℓ`."""

    tail: Tail
    first: float
    alpha: float
    rate: float = 0.0

    def gap(self, t: float) -> float:
        """Return the bound at time t."""
        return self.tail.gap(self.first, t, self.alpha)

    def time(self, gap: float) -> float:
        """Return when the bound comes down to `gap`."""
        return 0.0 if gap >= self.first else self.tail.time(self.first, gap, self.alpha)

    def rate_at(self, gap: float) -> float:
        """Return `α (γψ(gap))²/gap`, which falls to 0 with the gap."""
        return self.alpha * self.tail.constant_on(gap) ** 2 * gap


def exponential_tail(setting: Setting) -> list[Guarantee]:
    """Return the guarantee for an objective with a tail; an empty list for any other objective.

    No minimiser and no margin is used. `λ_min(T) ≥ α(D)` follows from the imbalance alone, which the flow conserves.

    Source: docs/tails.md; `‖∇f‖ ≥ γf` with the hard margin γ as in Soudry et al. 2018.
    """
    tail, gap, c = setting.objective.tail, setting.gap, setting.scale
    if tail is None:
        return []
    if setting.depth == 1:
        alpha, name = c**2, "one layer"
    else:
        rows = [row for row in bounds.evaluate(setting.invariants.at(0.0, math.inf), c) if row.applies]
        best = max(rows, key=lambda row: float(row.value))
        alpha, name = float(best.value), best.name
    reason = ""
    if not math.isfinite(gap):
        reason = NOT_FINITE
    elif alpha <= 0:
        reason = NO_FLOOR
    return [
        setting.guarantee(
            name=f"{tail_name(setting)}, {name}",
            source="linflow, docs/tails.md",
            citation=("linflow", *sorted(setting.objective.citations)),
            reason=reason,
            curve=None if reason else TailCurve(tail, gap, alpha),
            facts=tail_facts(setting, tail) | {"α": alpha},
        )
    ]


def tail_name(setting: Setting) -> str:
    """Return what the rows of an objective with a tail are called."""
    return "exponential tail" if hasattr(setting.objective, "hard_margin") else "tail"


def tail_facts(setting: Setting, tail: Tail) -> dict[str, float]:
    """Return the constant of the tail under its name."""
    return {"hard margin" if hasattr(setting.objective, "hard_margin") else "tail constant": tail.constant}
