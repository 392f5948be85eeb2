"""What the published results look at in a start, and the form of their rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from linflow._support.arrays import norm, sigma
from linflow.bounds import THEOREMS, Invariants, Theorem
from linflow.certificates._base import Guarantee
from linflow.certificates.curves import Curve, ExponentialCurve, StepCurve
from linflow.certificates.margin import margin
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.quadratics import _Quadratic

WHITE = 1e-12
"""Relative spread of the curvatures of a squared loss that still counts as none: a few hundred rounding errors."""


class Start:
    """An objective and a network as the objective sees it, with all that more than one result asks about them.

    Attributes:
        objective, network: restricted to what the objective sees (`Objective.effective`).
        whole: the pair as given.
        guarantees: those of the certificate.
        gap, minimum: loss gap of the start, `f*`.
        gamma: gradient dominance, 0 if unknown.
        n, m, depth, scale: of the restricted network.
    """

    def __init__(self, objective: Objective, network: Network, guarantees: Sequence[Guarantee]):
        self.whole = objective, network
        self.guarantees = tuple(guarantees)
        self.gap, self.minimum = objective.gap(network.product()), objective.minimum
        self.objective, self.network = objective.effective(network)
        self.gamma = self.objective.pl_constant
        (self.n, self.m), self.depth, self.scale = self.network.shape, self.network.depth, self.network.scale

    @cached_property
    def invariants(self) -> Invariants:
        """Imbalance spectra with their rounding, and σ of the product."""
        return Invariants.of(self.network)

    @cached_property
    def margin(self) -> float:
        """The margin of the papers, `[σ_min(W*) − sqrt(K/μ) ‖W(0) − W*‖_F]_+`."""
        return margin(self.objective, self.network, "distance")

    @cached_property
    def bounds(self) -> list[tuple[Theorem, float]]:
        """The bounds on `λ_min(T)` of Min et al. 2021 and 2023 that apply, at the margin."""
        least = self.margin / self.scale
        inv = self.invariants.at(least, math.inf)
        known = [t for t in THEOREMS if t.citation in ("min2021", "min2023") and t.hypothesis(inv) is None]
        return [(t, self.scale**2 * max(0.0, float(t.evaluate(inv)))) for t in known]

    @cached_property
    def imbalance(self) -> float:
        """The largest eigenvalue, in size, of a `D_l`: 0 where it may be rounding."""
        return max((max(float(D.lower[0]), -float(D.upper[-1]), 0.0) for D in self.invariants.spectra), default=0.0)

    @property
    def squared(self) -> bool:
        """Whether the loss is `½‖F (W − W*) H‖² + f*`."""
        return isinstance(self.objective, _Quadratic)

    @property
    def narrowest(self) -> int:
        """The least hidden width."""
        return min(self.network.widths[1:-1])

    def no_squared_loss(self) -> str:
        """Return why a result on the squared loss does not apply, "" if it may."""
        return "" if self.squared else f"it is on the squared loss, not on a {self.objective.name}"

    def not_white(self) -> str:
        """Return why a result on the squared loss with whitened data does not apply, "" if it may."""
        if reason := self.no_squared_loss():
            return reason
        ratio = self.objective.smoothness / self.objective.strong_convexity
        if ratio > 1 + WHITE:
            return f"it is for whitened data, K = μ, and here K/μ = {ratio:.3g}; whiten the inputs"
        return ""

    def not_deep(self, *allowed: int) -> str:
        """Return why a result on this many layers does not apply, "" if it may."""
        if self.depth in allowed:
            return ""
        return f"it is on {' or '.join(map(str, allowed))} layers, and the network has {self.depth}"

    def no_margin(self) -> str:
        """Say in words why the margin gives no rate."""
        f = self.objective
        if not self.network.overparametrized:
            return f"a hidden layer is narrower, {self.narrowest}, than min(n, m) = {min(self.n, self.m)}; widen it"
        if self.margin > 0:
            return f"the margin {self.margin:.3g} is at the level of rounding; start nearer to W*"
        if f.strong_convexity == 0 or f.minimizer is None:
            return "the margin needs μ > 0 and W*; declare strong_convexity= and minimizer="
        least, away = float(sigma(f.minimizer, min(self.n, self.m))), norm(self.network.product() - f.minimizer)
        if least <= 1e-14 * norm(f.minimizer):
            return "the margin is 0, as W* has not full rank"
        return (
            f"the margin is 0: sqrt(K/μ) ‖W(0) − W*‖_F = {(f.smoothness / f.strong_convexity) ** 0.5 * away:.3g} is "
            f"not below σ_min(W*) = {least:.3g}; start nearer to W*"
        )

    def row(
        self,
        name: str,
        source: str,
        citation: Sequence[str],
        outcome: float | Curve | str,
        **facts: Any,
    ) -> Guarantee:
        """Return the row of one result: a rate, another curve, or the reason why there is none."""
        curve, reason = None, ""
        if isinstance(outcome, str):
            reason = outcome
        elif isinstance(outcome, (int, float)):
            curve = ExponentialCurve(self.gap, outcome)
        else:
            curve = outcome
        if curve is not None and self.descent and not isinstance(curve, StepCurve):
            reason = f"it is on the flow (rate {curve.rate:.3g} there), and this certificate is on descent"
            curve = None
        numbers = {key: float(value) + 0.0 for key, value in facts.items()}  # −0 is 0
        return Guarantee(name, source, tuple(citation), reason, curve, self.gap, self.minimum, numbers)

    def on_descent(self, *keys: str) -> Guarantee | None:
        """Return the guarantee of the certificate on descent that cites one of these, the fastest."""
        found = [g for g in self.guarantees if self.descent and set(keys) & set(g.citation)]
        return min(found, key=lambda g: g.time_to(1e-6), default=None)

    @cached_property
    def descent(self) -> bool:
        """Whether the certificate is on gradient descent."""
        return any(isinstance(g.curve, StepCurve) or "descent" in g.name for g in self.guarantees)
