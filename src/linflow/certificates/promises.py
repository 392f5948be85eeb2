"""What a set of guarantees says together: the best rate, time and gap, and their table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from linflow._support import checks
from linflow._support.deprecation import renamed_arguments
from linflow._support.digits import number
from linflow._support.text_table import text_table, unmet
from linflow._support.words import plural
from linflow.certificates._base import Guarantee
from linflow.certificates.checking import Check, check
from linflow.certificates.curves import LimitCurve, StepCurve
from linflow.certificates.imbalance_law import ImbalanceGuarantee
from linflow.model.optimizer import PLAIN, Optimizer


class Promises:
    """Guarantees on one run, best first.

    Attributes:
        guarantees: ordered by the time to 10⁻⁶ of the initial gap; those that do not apply come last.
        algorithm: "flow" or "descent".
        objective: what is minimised.
        start: the network at the start.
        gap: the loss gap there.
        step_size: the constant step of a descent, or None.
        schedule: the rule for its steps, or None.
        optimizer: layer rates, weight decay and friction of what is certified.
        imbalance: what is certain about the imbalances; None if nothing is.
    """

    guarantees: tuple[Guarantee, ...]
    algorithm: str
    objective: Any
    start: Any
    gap: float
    step_size: float | None
    schedule: Any
    optimizer: Optimizer = PLAIN
    imbalance: ImbalanceGuarantee | None = None

    @property
    def stays(self) -> bool:
        """Whether two layers are 0: then the gradient is 0, and the run never leaves its start."""
        return False

    @property
    def prover(self) -> str:
        """The function that can prove the run itself, with its arguments; empty if none can."""
        return ""

    @property
    def way_out(self) -> str:
        """What can still be proved where nothing is guaranteed, in one sentence; empty if nothing can."""
        if not self.prover:
            return ""
        if self.algorithm == "flow":
            return f"{self.prover}) can prove how long the flow takes."
        step = "schedule=…" if self.step_size is None else f"step_size={self.step_size:.4g}"
        return f'{self.prover}, algorithm="descent", {step}) can prove how many steps it takes.'

    def check(self, run: Any) -> Check:
        """Compare every guarantee with a run from this start, or with a proof of one (`enclose`); see `Check`.

        Raises:
            ValueError: the run or the proof began at another loss gap, or is of another algorithm or step.
            TypeError: it is neither a run nor a proof.
        """
        return check(self, run)

    @property
    def best(self) -> Guarantee | None:
        """The guarantee that is fastest to 10⁻⁶ of the initial gap; None if none applies."""
        first = self.guarantees[0]
        return first if first.applies else None

    @property
    def rate(self) -> float:
        """The best exponential rate guaranteed at every time; 0 if there is none."""
        return max(g.rate for g in self.guarantees)

    @renamed_arguments(fraction="until")
    def time_to(self, until: Any) -> Any:
        """Return a time by which the loss gap is at most `until` times the initial gap; inf if none is known.

        Args:
            until: fraction in (0, 1), or a sequence of them.

        Example:
            >>> import numpy as np, linflow as lf
            >>> cert = lf.certify(lf.MatrixFactorization([[2.0]]), [np.array([[1.0]]), np.array([[1.0]])])
            >>> bool((cert.time_to([1e-2, 1e-4]) == [cert.time_to(1e-2), cert.time_to(1e-4)]).all())
            True
        """
        return checks.each(lambda x: min(g.time_to(x) for g in self.guarantees), until, "until")

    @renamed_arguments(fraction="until")
    def steps_to(self, until: Any) -> Any:
        """Return a number of steps after which the loss gap is at most `until` times the initial gap.

        Args:
            until: fraction in (0, 1), or a sequence of them.
        """
        if self.algorithm == "flow":
            raise TypeError(
                'the certificate is for the flow, which takes no steps; certify with algorithm="descent".'
            )
        return checks.each(lambda x: min(g.steps_to(x) for g in self.guarantees), until, "until")

    @renamed_arguments(fraction="until")
    def arrival(self, guarantee: Guarantee, until: float) -> float:
        """Return the time to a fraction by one guarantee; for descent the steps, nan if it does not count steps."""
        if self.algorithm == "flow":
            return guarantee.time_to(until)
        if guarantee.curve is not None and not isinstance(guarantee.curve, StepCurve):
            return math.nan
        return guarantee.steps_to(until)

    def gap_at(self, t: Any) -> Any:
        """Return an upper bound on the loss gap at a time or times t: the least over all guarantees."""
        return checks.each(lambda x: min(g.gap_at(x) for g in self.guarantees), t, "t")

    def rate_at(self, gap: float) -> float:
        """Return the rate `−ℓ̇/ℓ` guaranteed at the moment when the run from this start has this gap."""
        return max((g.curve.rate_at(gap) for g in self.guarantees if g.curve), default=0.0)

    @property
    def headline(self) -> str:
        """What is guaranteed before a run, in one line."""
        best = self.best
        if best is None:
            still = "Two layers are 0, so the gradient is 0, and the run never leaves its start."
            return f"Nothing is guaranteed before a run. {still if self.stays else self.way_out}".rstrip()
        arrival, flow = self.arrival(best, 1e-6), self.algorithm == "flow"
        if not math.isfinite(arrival):
            return f"Guaranteed before a run: {best.name}{limit(best)}."
        when = f"by t = {number(arrival)}" if flow else f"after {plural(int(arrival), 'step')}"
        rate = f", rate {best.rate:.4g}" if best.rate > 0 else ""
        return f"Guaranteed before a run: 1e-6 of the initial loss gap {when} ({best.name}{rate})."

    def text_tables(self, groups: Mapping[str, Sequence[Guarantee]]) -> list[str]:
        """Return lines of text: a table of what applies for each title, then the others with their reasons."""
        arrival = "time to 1e-6" if self.algorithm == "flow" else "steps to 1e-6"
        lines, rest = [], []
        for title, guarantees in groups.items():
            rows = [
                (g.name, f"{g.rate:.4g}", number(self.arrival(g, 1e-6)), g.source + limit(g))
                for g in guarantees
                if g.applies
            ]
            if rows:
                lines += ["", *text_table([(title, "rate", arrival, "source"), *rows], "<>><")]
            rest += unmet(f"{title}s", [(g.name, g.reason) for g in guarantees if not g.applies])
        return lines + rest


def limit(guarantee: Guarantee) -> str:
    """Return in words to which gap a guarantee holds that ends above the minimum; "" for others."""
    curve = guarantee.curve
    if not isinstance(curve, LimitCurve):
        return ""
    return f"; the gap falls to {curve.limit:.4g}, at rate {curve.speed:.4g}"
