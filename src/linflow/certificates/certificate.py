"""All guarantees of a start, best first, and their comparison with a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from linflow._arrays import to_numpy
from linflow.certificates._base import Guarantee
from linflow.certificates.exponential import exponential
from linflow.network import Network
from linflow.objectives import Objective

if TYPE_CHECKING:
    from linflow.dynamics.trajectory import Trajectory

OBSERVED_ALLOWANCE = 1e-9
"""Relative rounding granted to an observed rate and gap before a guarantee counts as violated."""


@dataclass(frozen=True)
class Check:
    """A guarantee set against a run.

    Attributes:
        holds: whether the observed loss gap and rate respect the guarantee at every recorded time.
        worst_slack: least observed over guaranteed rate along the run; at least 1, to rounding, when it holds.
        violation: the first time it does not hold, or None.
    """

    holds: bool
    worst_slack: float
    violation: float | None


@dataclass(frozen=True, repr=False)
class Certificate:
    """Every guarantee of a start, best first. `print` shows a table.

    Attributes:
        guarantees: sorted by rate; those that do not apply say why in `reason`.
        gap: initial loss gap.
        pl_constant: γ of the objective.
        notes: promotions of the input.
    """

    guarantees: tuple[Guarantee, ...]
    gap: float
    pl_constant: float
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Guarantee | None:
        """The guarantee with the largest rate, None when none applies."""
        first = self.guarantees[0]
        return first if first.applies else None

    @property
    def rate(self) -> float:
        """The best guaranteed exponential rate, 0 when none applies."""
        return self.best.rate if self.best else 0.0

    def time_to(self, fraction: float) -> float:
        """Return a time by which the loss gap is at most `fraction` of the initial one; inf if none is known."""
        return self.guarantees[0].time_to(fraction)

    def check(self, run: Trajectory) -> Check:
        """Set the best rate against a run of the flow from this start.

        Raises:
            ValueError: the run began at another loss gap.
        """
        t, gap, rate = (to_numpy(x) for x in (run.t, run.gap, run.rate))
        if not math.isclose(gap[0], self.gap, rel_tol=1e-9, abs_tol=1e-300):
            raise ValueError(
                f"the run starts at a loss gap of {gap[0]:.6g} and the certificate at {self.gap:.6g}; "
                "certify the objective and network that the run began with."
            )
        if self.rate == 0 or gap[0] == 0:
            return Check(True, math.inf, None)
        # A gap of zero has no rate; the integrator's own error estimate is granted on top of rounding.
        t, gap, slack = t[gap > 0], gap[gap > 0], rate[gap > 0] / self.rate
        allowance = OBSERVED_ALLOWANCE + run.stats.gap_error
        envelope = gap <= gap[0] * np.exp(-self.rate * t) * (1 + allowance)
        good = (slack >= 1 - allowance) & envelope
        first = None if good.all() else float(t[int(np.argmin(good))])
        return Check(first is None, float(slack.min()), first)

    def __str__(self) -> str:
        rows = [("guarantee", "rate", "time to 1e-6", "source or reason")]
        for g in self.guarantees:
            rate, time = (f"{g.rate:.4g}", f"{g.time_to(1e-6):.4g}") if g.applies else ("–", "–")
            rows.append((g.name, rate, time, g.source if g.applies else f"does not apply: {g.reason}"))
        w = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:<{w[0]}}  {b:>{w[1]}}  {c:>{w[2]}}  {d}" for a, b, c, d in rows]
        head = f"initial gap {self.gap:.4g}, γ = {self.pl_constant:.4g}"
        return "\n".join([head, *lines, *self.notes])

    def __repr__(self) -> str:
        name = self.best.name if self.best else "none applies"
        return f"Certificate(rate={self.rate:.4g}, {name})"


def certify(objective: Objective, network: Network | Sequence[Any]) -> Certificate:
    """Return every guarantee on the gradient flow from this start, best first.

    Args:
        objective: what is minimised.
        network: a `Network` or its weights; float32 input is computed in float64.

    Raises:
        ValueError, TypeError: objective and network do not fit.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = lf.init.imbalanced((2, 6, 6, 2), [3.0, -3.0], np.eye(2), rng=0)
        >>> cert = lf.certify(lf.MatrixFactorization(np.eye(2)), net)
        >>> cert.best.name, round(cert.rate, 9)
        ('three layers, Δ*', 18.0)
    """
    net = Network.of(network).detach()
    objective.check_network(net)
    guarantees = sorted(exponential(objective, net), key=lambda g: -g.rate)
    return Certificate(tuple(guarantees), guarantees[0].gap, objective.pl_constant, (*objective.notes, *net.notes))
