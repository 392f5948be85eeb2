"""An experiment from data and start to an answer: certificate, run, one against the other, and what holds it back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linflow import bounds
from linflow._arrays import to_numpy
from linflow.certificates import Certificate, Check, certify, margin, safe_step_size
from linflow.dynamics import Trajectory, gradient_descent, gradient_flow
from linflow.imbalance import imbalance_spectrum
from linflow.network import Network
from linflow.objectives import Objective
from linflow.operator import TangentOperator
from linflow.settings import Experiment

WORTH = 2.0
"""Times the certified rate from which a change is worth naming."""
WIDER = (2, 4, 8)
"""Factors on the hidden widths that are tried."""
SLOW = 0.1
"""Part of the mean rate below which a run stands still."""


@dataclass(frozen=True)
class Finding:
    """One thing to know, in a sentence or two.

    Attributes:
        kind: "rate", "time", "hold", "width", "data", "plateau", "step" or "design".
        text: with every number computed from this experiment.
        numbers: the same numbers for machines.
    """

    kind: str
    text: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """What `linflow analyze` knows.

    Attributes:
        experiment, objective, network: what was asked.
        certificate, run, check: what was promised, what happened, and the two set against each other.
        findings: what to know, most important first.
    """

    experiment: Experiment
    objective: Objective
    network: Network
    certificate: Certificate
    run: Trajectory
    check: Check
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data; the same, to the last bit, whenever the experiment is repeated."""
        return {
            **self.experiment.echo(),
            "certificate": self.certificate.to_dict(),
            "run": run_summary(self.run),
            "check": {
                "holds": self.check.holds,
                "worst_slack": self.check.worst_slack,
                "worst_gap": self.check.worst_gap,
                "time_ratios": {f"{x:g}": ratio for x, ratio in self.check.time_ratios.items()},
            },
            "findings": [{"kind": f.kind, "text": f.text, "numbers": f.numbers} for f in self.findings],
        }

    def text(self) -> str:
        """Return findings, run and certificate for a terminal."""
        findings = [f"• {finding.text}" for finding in self.findings]
        return "\n".join([*findings, "", repr(self.run), str(self.check).rstrip(), "", str(self.certificate)])


def certificate(experiment: Experiment) -> tuple[Objective, Network, Certificate]:
    """Read data and start, and certify."""
    objective = experiment.objective()
    network = experiment.network(objective)
    if experiment.algorithm == "flow":
        return objective, network, certify(objective, network)
    eta = experiment.descent.step_size
    step = None if eta == "safe" else float(eta)
    return objective, network, certify(objective, network, algorithm="descent", step_size=step)


def run_of(
    experiment: Experiment,
    objective: Objective,
    network: Network,
    progress: Callable[[float], None] | None = None,
) -> Trajectory:
    """Run what the experiment asks for."""
    flow, descent = experiment.flow, experiment.descent
    if experiment.algorithm == "flow":
        return gradient_flow(
            objective,
            network,
            until=flow.until,
            t_max=flow.t_max,
            rtol=flow.rtol,
            max_steps=flow.max_steps,
            record=("loss", "rate", *flow.record),
            progress=progress,
        )
    eta = safe_step_size(objective, network) if descent.step_size == "safe" else float(descent.step_size)
    return gradient_descent(
        objective,
        network,
        step_size=eta,
        steps=descent.steps,
        until=flow.until,
        record=("loss", "rate", *flow.record),
        progress=progress,
    )


def run_summary(run: Trajectory) -> dict[str, Any]:
    """Return how a run went, as plain data without wall times."""
    return {
        "algorithm": run.algorithm,
        "result": run.result.value,
        "t": float(run.t[-1]),
        "steps": run.stats.steps,
        "evaluations": run.stats.evaluations,
        "step_size": run.step_size,
        "initial_gap": float(run.gap[0]),
        "final_gap": float(run.gap[-1]),
        "times": {f"{x:g}": run.time_to(x) for x in (1e-2, 1e-4, 1e-6)},
        "notes": list(run.notes),
    }


def analyse(
    experiment: Experiment,
    progress: Callable[[float], None] | None = None,
    run: Trajectory | None = None,
) -> Analysis:
    """Certify, run (unless a run is given), compare, and say what there is to know."""
    objective, network, cert = certificate(experiment)
    run = run or run_of(experiment, objective, network, progress)
    check = cert.check(run)
    findings = [f for find in _FINDERS for f in find(experiment, cert, run)]
    return Analysis(experiment, objective, network, cert, run, check, tuple(findings))


def _rate(experiment: Experiment, cert: Certificate, run: Trajectory) -> Iterator[Finding]:
    best = cert.best
    if best is None:
        yield Finding("rate", "No exponential rate is certified for this start: no bound on it is positive.")
        return
    until = experiment.flow.until
    sure, needed = cert.time_to(until), run.time_to(until)
    unit = "t = " if cert.algorithm == "flow" else "η times steps = "
    text = f"It is certain to reach {until:g} of the first loss gap by {unit}{sure:.4g} ({best.name})"
    if math.isfinite(needed) and needed > 0 and math.isfinite(sure):
        text += f"; the run did at {needed:.4g}, {sure / needed:.2g} times as soon."
    elif math.isfinite(sure):
        text += f"; the run ended before, at {float(run.t[-1]):.4g}."
    else:
        text = f"A rate of {cert.rate:.4g} is certified ({best.name}), but no time to {until:g}."
    yield Finding("rate", text, {"rate": cert.rate, "certified_time": sure, "observed_time": needed})


def _hold(experiment: Experiment, cert: Certificate, run: Trajectory) -> Iterator[Finding]:
    """What the two sources of the rate give: the imbalance and the margin."""
    seen, net = cert.objective.effective(cert.network)
    if net.depth < 2 or seen.pl_constant == 0:
        return
    gamma = seen.pl_constant
    now = gamma * float(TangentOperator(net).least_eigenvalue())
    alone = gamma * float(bounds.best(net, sigma_min=0.0).value)
    safe = margin(cert.objective, cert.network)
    both = gamma * float(bounds.best(net, sigma_min=safe).value) if safe > 0 else alone
    text = f"At the start the rate is at least {now:.3g} (γ λ_min(T))"
    text += (
        f"; of that {both / now:.0%} is sure to last."
        if now > 0
        else ": T is singular there, and nothing can be certified from it."
    )
    if safe > 0:
        text += f" The margin ({safe:.3g}) raises what the imbalance alone gives from {alone:.3g} to {both:.3g}."
    else:
        text += " The start is too far from the optimum for a margin; the imbalance alone must carry the rate."
    numbers = {"at_start": now, "imbalance_alone": alone, "with_margin": both, "margin": safe}
    if net.depth == 2:
        s = imbalance_spectrum(net)
        spread = s.positive_spread + s.negative_spread
        text += f" Imbalance: gap {s.gap:.3g}, spread {spread:.3g}."
        if s.gap < 0.2 * spread:
            text += (
                " The rate is held back by the spread: most of the imbalance is above what the weakest direction has."
            )
        numbers |= {"gap": s.gap, "spread": spread}
    narrow, least = min(net.widths[1:-1]), min(net.shape)
    if narrow < least:
        text += f" A layer of {narrow} units is narrower than the product needs ({least}): T is singular for ever."
    yield Finding("hold", text, numbers)


def _width(experiment: Experiment, cert: Certificate, run: Trajectory) -> Iterator[Finding]:
    """The least of some widths with which the same draw has a rate worth having."""
    if experiment.start.weights is not None or cert.algorithm != "flow":
        return
    for factor in WIDER:
        wide = certify(cert.objective, experiment.network(cert.objective, wider=factor))
        if wide.rate > max(WORTH * cert.rate, 0.0):
            widths = ", ".join(str(factor * h) for h in experiment.start.hidden)
            gain = f"{wide.rate / cert.rate:.2g} times the rate" if cert.rate > 0 else "where there is none now"
            text = f"Hidden widths of {widths} would certify a rate of {wide.rate:.3g}, {gain} (same seed and init)."
            yield Finding("width", text, {"factor": float(factor), "rate": wide.rate})
            return
    yield Finding("width", f"Up to {WIDER[-1]} times the width does not certify {WORTH:g} times the rate.")


def _data(experiment: Experiment, cert: Certificate, run: Trajectory) -> Iterator[Finding]:
    seen, _ = cert.objective.effective(cert.network)
    gamma, K, mu = seen.pl_constant, seen.smoothness, seen.strong_convexity
    if not (gamma > 0 and mu > 0 and math.isfinite(K)) or K / mu < 10:
        return
    text = f"The data are ill-conditioned, K/μ = {K / mu:.3g}: a single layer would have the rate {gamma:.3g} only."
    yield Finding("data", f"{text} Whitened inputs have K/μ = 1.", {"condition": K / mu, "gamma": gamma})


def _plateau(experiment: Experiment, cert: Certificate, run: Trajectory) -> Iterator[Finding]:
    """Whether the loss stood still and then fell again."""
    t, gap, rate = (to_numpy(x) for x in (run.t, run.gap, run.rate))
    if len(t) < 4 or not t[-1] > 0 or not 0 < gap[-1] < gap[0]:
        return
    mean = math.log(gap[0] / gap[-1]) / t[-1]
    grid = np.linspace(0, t[-1], 400)
    slow = np.interp(grid, t, rate) < SLOW * mean
    later = np.flatnonzero(~slow)
    if not slow.any() or not later.size:
        return
    share = float(np.mean(slow[: later[-1]])) if later[-1] else 0.0
    if share < SLOW:
        return
    text = (
        f"For {share:.0%} of the time the loss stands still, at less than a tenth of its mean rate, before it falls:"
    )
    yield Finding(
        "plateau", f"{text} a small or balanced start is near a saddle.", {"share": share, "mean_rate": mean}
    )


def _step(experiment: Experiment, cert: Certificate, run: Trajectory) -> Iterator[Finding]:
    if cert.algorithm != "flow":
        return
    try:
        eta = safe_step_size(cert.objective, cert.network)
        steps = certify(cert.objective, cert.network, algorithm="descent", step_size=eta).steps_to(
            experiment.flow.until
        )
    except ValueError as error:
        yield Finding("step", f"No step of gradient descent is certified: {error}")
        return
    text = f"Gradient descent with the step {eta:.3g} is certain never to raise the loss"
    text += (
        f", and to be there after {int(steps)} steps."
        if math.isfinite(steps)
        else "; no number of steps is certified."
    )
    yield Finding("step", text, {"step_size": eta, "steps": steps})


def _design(experiment: Experiment, cert: Certificate, run: Trajectory) -> Iterator[Finding]:
    """How large a start made for the same rate is."""
    from linflow.starts import design  # noqa: PLC0415 - seldom needed

    if cert.algorithm != "flow" or cert.network.depth < 2 or not cert.rate > 0:
        return
    try:
        made = design(cert.objective, cert.network.widths, rate=cert.rate, scale=cert.network.scale, rng=0)
    except ValueError:
        return
    size, least = (sum(s * s for s in net.sizes) for net in (cert.network, made.network))
    if size < WORTH * least:
        return
    text = f"A start made for this rate (linflow design) has squared weights of {least:.3g} in sum, not {size:.3g}."
    yield Finding("design", text, {"squares": size, "least_squares": least})


_FINDERS = (_rate, _hold, _width, _data, _plateau, _step, _design)
