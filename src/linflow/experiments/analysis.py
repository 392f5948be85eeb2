"""The analysis of an experiment: its certificate, its run, their comparison, and what holds the run back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from linflow._support.fractions import FRACTIONS
from linflow.advice.diagnosis import Finding, findings
from linflow.certificates import Certificate, Check
from linflow.certificates.checking import steps_taken
from linflow.dynamics import Interrupted, Result, Trajectory
from linflow.experiments.building import network_of
from linflow.experiments.schema import Experiment
from linflow.experiments.setup import Setup
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.verified import DescentEnclosure, Enclosure


@dataclass(frozen=True, repr=False)
class Analysis:
    """The results of `linflow analyze`.

    Attributes:
        setup: what was asked, also as `experiment`, `objective` and `network`.
        certificate, run, check: what was promised, what happened, and the comparison of the two. `check` is None
            if Ctrl-C came first.
        findings: what the user should know, most important first.
        proof: the verified run; if it is None, `proof_reason` says why.
    """

    setup: Setup
    certificate: Certificate
    run: Trajectory
    check: Check | None = None
    findings: tuple[Finding, ...] = ()
    proof: Enclosure | DescentEnclosure | None = None
    proof_reason: str = ""

    @property
    def experiment(self) -> Experiment:
        """The settings."""
        return self.setup.experiment

    @property
    def objective(self) -> Objective:
        """The objective that was minimised."""
        return self.setup.objective

    @property
    def network(self) -> Network:
        """The first weights."""
        return self.setup.network

    @property
    def proved(self) -> bool:
        """Whether a verified run reached the target, or the time limit."""
        return self.proof is not None and self.proof.result in ("target proved", "time limit reached")

    @property
    def passed(self) -> bool:
        """Whether something is certified or proved, the run did what it was asked to, and it kept the certificate."""
        kept = self.check is not None and self.check.holds
        return kept and (self.certificate.best is not None or self.proved) and self.run.result.ok

    @property
    def verdict(self) -> str:
        """The verdict of `passed`, in words."""
        if self.check is None:
            interrupted = self.run.result is Result.INTERRUPTED
            return "stopped during the run" if interrupted else "stopped before the run was checked"
        ended = "" if self.run.result.ok else f", but ended early: {self.run.result.value}"
        if self.certificate.best is None:
            return f"proved by a verified run{ended}" if self.proved else "nothing is certified for this start"
        if not self.check.holds:
            return "the run broke the certificate"
        return f"the run kept the certificate{ended}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, identical to the last bit whenever the experiment is repeated."""
        return {
            **self.experiment.echo(),
            "certificate": self.certificate.to_dict(),
            "run": run_summary(self.run),
            "check": None if self.check is None else self.check.to_dict(),
            "proof": {"reason": self.proof_reason} if self.proof is None else self.proof.to_dict(),
            "findings": [{"kind": f.kind, "text": f.text, "numbers": f.numbers} for f in self.findings],
        }

    def __repr__(self) -> str:
        count = len(self.findings)
        return f"Analysis({self.verdict}; {count} finding{'s' * (count != 1)}; {self.certificate!r}, {self.run!r})"


class AnalysisInterrupted(Interrupted):
    """Raised on Ctrl-C during the run of an analysis; `analysis` holds what was done."""

    def __init__(self, analysis: Analysis):
        super().__init__(analysis.run)
        self.analysis = analysis


def run_summary(run: Trajectory) -> dict[str, Any]:
    """Return how a run went, as plain data without wall times."""
    return {
        "algorithm": run.algorithm,
        "optimizer": run.optimizer.to_dict(),
        "result": run.result.value,
        "t": float(run.t[-1]),
        "steps": run.stats.steps,
        "evaluations": run.stats.evaluations,
        "step_size": run.step_size,
        "initial_gap": float(run.gap[0]),
        "final_gap": float(run.gap[-1]),
        "times": {f"{x:g}": float(t) for x, t in zip(FRACTIONS, run.time_to(FRACTIONS), strict=True)},
        "steps_to": None if run.algorithm == "flow" else {f"{x:g}": steps_taken(run, x) for x in FRACTIONS},
        "notes": list(run.notes),
    }


def started(experiment: Experiment, progress: Callable[[float], None] | None = None) -> Analysis:
    """Certify and run, without comparing the two yet.

    Raises:
        ValueError: the run has layer rates, decay, momentum, friction or mini-batches.
        AnalysisInterrupted: Ctrl-C was pressed during the run.
    """
    setup = Setup.of(experiment)
    if not setup.optimizer.plain:
        raise ValueError(
            f"an analysis is of the plain flow or descent, and this has {setup.optimizer}: its proof and its advice "
            "would be about another algorithm. Use linflow certify and linflow simulate, or leave the options out."
        )
    certificate = setup.certify()
    try:
        return Analysis(setup, certificate, setup.run(progress=progress))
    except Interrupted as stop:
        raise AnalysisInterrupted(Analysis(setup, certificate, stop.run)) from None


def finished(begun: Analysis, progress: Callable[[float], None] | None = None) -> Analysis:
    """Compare the run with the certificate, prove what can be proved, and add the findings."""
    experiment = begun.experiment

    def redraw(factor: int) -> Network:
        return network_of(experiment, begun.objective, wider=factor)

    check = begun.certificate.check(begun.run)
    proof, reason = begun.setup.prove(progress)
    again = redraw if experiment.start.weights is None else None
    found = findings(begun.certificate, begun.run, experiment.flow.until, again, proof)
    return replace(begun, check=check, findings=found, proof=proof, proof_reason=reason)


def analyse(experiment: Experiment, progress: Callable[[float], None] | None = None) -> Analysis:
    """Certify, run, compare, and return the analysis with its findings."""
    return finished(started(experiment, progress))


def stopped(begun: Analysis) -> Analysis:
    """Return an analysis that Ctrl-C stopped, in a form that can be saved at once."""
    return replace(begun, run=unchecked(begun.run))


def unchecked(run: Trajectory) -> Trajectory:
    """Return a run that can be saved at once: unless the error of a flow is already known, it is set to NaN.

    Otherwise the error would be estimated on first use, by a second run that takes about as long as the first.
    """
    if run.algorithm != "flow" or run.stats.estimated:
        return run
    return replace(run, stats=replace(run.stats, _estimate=math.nan))
