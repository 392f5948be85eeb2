"""The result of a verified flow of an exponential or a logistic loss: an `Enclosure` with its own gradient."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from linflow import bounds
from linflow.bounds import Invariants
from linflow.certificates import Guarantee
from linflow.certificates.tail import TailCurve
from linflow.model.classification import ExponentialTail
from linflow.verified.enclosure import Enclosure
from linflow.verified.forever import SOURCE
from linflow.verified.march import EnclosureStep
from linflow.verified.rounding import UP, frobenius, gamma
from linflow.verified.smooth import ConvexGradient


class ConvexEnclosure(Enclosure):
    """An `Enclosure` of a flow whose loss is convex and smooth, but not known to be quadratic."""

    def _speed(self, step: EnclosureStep, t: float) -> tuple[float, float]:
        """Return the computed `‖∇L‖` on the path at time t, and a bound of its distance to that of the exact flow."""
        weights, errors = step.at(t)
        problem = self.problem
        assert isinstance(problem, ConvexGradient)
        _, _, gradients, rounding = problem.loss_gradient(weights, np.zeros(len(weights)), self.start.scale)
        speed = math.hypot(*(float(frobenius(g)) for g in gradients))
        moved = step.radius + math.sqrt(float(np.sum(errors**2)))
        off = math.hypot(*(float(e) for e in rounding)) + step.constants.third * moved
        return speed, (off + gamma(8 + sum(W.size for W in weights)) * speed) * UP


class TailEnclosure(ConvexEnclosure):
    """An `Enclosure` of a flow whose loss falls towards 0, which is its minimum."""

    @cached_property
    def _after(self) -> tuple[Guarantee | None, str]:
        if not self.steps:
            return None, "nothing is enclosed"
        seen, net = self.objective.effective(self.start)
        assert isinstance(seen, ExponentialTail)
        if net.depth == 1:
            alpha, name = net.scale**2, "one layer"
        else:
            rows = [row for row in bounds.evaluate(Invariants.of(net).at(0.0, math.inf), net.scale) if row.applies]
            best = max(rows, key=lambda row: float(row.value))
            alpha, name = float(best.value), best.name
        if alpha <= 0:
            return None, "the imbalance alone proves no λ_min(T) > 0, so nothing is proved after this"
        gap = self.steps[-1].gap[1]
        facts = {"hard margin": seen.hard_margin, "α": alpha, "radius": float(self.radius[-1])}
        curve = TailCurve(seen.tail, gap, alpha)
        after = Guarantee(
            name=f"ever after, {name}",
            source=SOURCE,
            citation=("linflow", "soudry2018"),
            reason="",
            curve=curve,
            gap=gap,
            minimum=0.0,
            facts=facts,
        )
        return after, ""
