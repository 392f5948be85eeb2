"""Findings on the number and the size of the steps of gradient descent, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from linflow._support import checks
from linflow._support.fractions import spelled
from linflow.advice.finding import Finding, times
from linflow.certificates import Certificate, certify, safe_step_size
from linflow.certificates.checking import steps_taken
from linflow.dynamics import Trajectory
from linflow.model.network import Network

SAME = 0.01
"""Step sizes with a smaller relative difference count as the same advice."""


def descent_of(cert: Certificate, network: Network | None = None) -> Certificate:
    """Return the certificate of gradient descent with the best constant step, from the same start or from another."""
    return certify(cert.objective, cert.start if network is None else network, algorithm="descent")


def counted(steps: float) -> str:
    """Return a number of steps in words.

    >>> counted(1), counted(75147), counted(3.2e14)
    ('1 step', '75,147 steps', '3.2e+14 steps')
    """
    return "1 step" if steps == 1 else f"{steps:,.0f} steps" if steps < 1e9 else f"{steps:.3g} steps"


def way(cert: Certificate) -> str:
    """Return the step sizes of a descent, in words: the constant step, or the schedule."""
    return f"of {cert.step_size:.4g}" if cert.step_size is not None else f"by {cert.schedule!r}"


def rate_in_steps(cert: Certificate, name: str, run: Trajectory | None, until: float) -> Finding:
    """Return a finding on how many steps a descent is guaranteed to need for the target, and how many it took."""
    sure, numbers = cert.steps_to(until), {"rate": cert.rate}
    if cert.step_size is not None:
        numbers["step_size"] = cert.step_size
    if not math.isfinite(sure):
        text = f"A bound is certified for steps {way(cert)} ({name}), but no number of steps to {spelled(until)}."
        return Finding("rate", text, numbers)
    numbers["certified_steps"] = float(sure)
    text = f"Descent is guaranteed to reach {spelled(until)} of the initial loss gap in {counted(sure)} {way(cert)}"
    text += f" ({name})"
    if run is None:
        return Finding("rate", f"{text}.", numbers)
    needed = steps_taken(run, until)
    if math.isfinite(needed):
        text += f"; the run took {counted(needed)}"
        numbers["observed_steps"] = needed
        if needed > 0:
            text += f". The guaranteed number is {times(sure / needed)} times as large"
            numbers["step_ratio"] = sure / needed
    else:
        numbers["left"] = float(run.gap[-1]) / float(run.gap[0])
        text += f"; the run ended before that, after {counted(run.stats.steps)}"
        text += f", with {numbers['left']:.3g} of the gap left"
    return Finding("rate", f"{text}.", numbers)


def on_steps(new: Certificate, old: Certificate, until: float) -> tuple[str, dict[str, float]]:
    """Return how another start changes the certified steps of gradient descent, in words and numbers.

    Both are empty if no number of steps is certified for either start.

    Args:
        new: certificate of descent from the other start.
        old: certificate of descent from this start.
        until: fraction of the initial loss gap.
    """
    then, now = new.steps_to(until), old.steps_to(until)
    numbers = {name: float(x) for name, x in (("steps", then), ("steps_now", now)) if math.isfinite(x)}
    if not numbers:
        return "", {}
    if math.isinf(then):
        return f" For gradient descent no number of steps would be certified, instead of {now:,.0f} now.", numbers
    if math.isinf(now):
        return f" For gradient descent {counted(then)} would be certified, instead of none now.", numbers
    if then == now:
        return f" Gradient descent gains nothing: {counted(now)} would be certified, as now.", numbers
    if min(then, now) == 0:  # a start that is already at the target
        return f" For gradient descent {counted(then)} would be certified, instead of {now:,.0f} now.", numbers
    verb = "gains" if then < now else "loses"
    ratio = times(now / then if then < now else then / now)
    much = f"{verb} a factor of {ratio}" if ratio != "1" else f"{verb} almost nothing"
    return f" Gradient descent {much}: {counted(then)} would be certified, instead of {now:,.0f} now.", numbers


def fewest(descent: Certificate, until: float, worth: float) -> Iterator[Finding]:
    """Yield a finding if a start designed for descent would be certified to need far fewer steps.

    No certificate for a constant step promises a better factor than `1 − γ/(2K)` per step (`linflow.design`).
    """
    gamma, K = descent.objective.pl_constant, descent.objective.smoothness
    now = descent.steps_to(until)
    if not 0 < gamma < 2 * K or math.isinf(K):  # with γ = 2K, one step can be enough
        return
    least = math.ceil(math.log(until) / math.log1p(-gamma / (2 * K)))
    if now < worth * least:
        return
    here = f"{now:,.0f} are" if math.isfinite(now) else "no number is"
    text = f"No constant step can be certified to reach the target in fewer than {least:,} steps"
    numbers = {"least_steps": float(least)} | ({"steps_now": float(now)} if math.isfinite(now) else {})
    text += f"; from this start {here} certified. linflow design --algorithm descent makes a start that comes close."
    yield Finding("design", text, numbers)


def step(cert: Certificate, descent: Certificate, until: float) -> Iterator[Finding]:
    """Yield a finding on the certified step of gradient descent and what limits it."""
    facts = next((g.facts for g in descent.guarantees if "β" in g.facts), {})
    try:
        # What holds along a descent is known only of the certified step.
        eta = descent.step_size if facts and descent.step_size else safe_step_size(cert.objective, cert.start)
    except ValueError as error:
        text = str(error)
        yield Finding("step", f"For gradient descent, {text[0].lower()}{text[1:]}")
        return
    steps, numbers = descent.steps_to(until), {"step_size": eta}
    if math.isfinite(steps):
        numbers["steps"] = float(steps)
    if cert.algorithm == "descent":
        if cert.step_size is None or math.isclose(cert.step_size, eta, rel_tol=SAME):
            return
        word = "longer" if cert.step_size > eta else "shorter"
        taken, best = checks.differing_texts(cert.step_size, eta)
        text = f"The step {taken} is {word} than the certified best, {best} (safe_step_size)"
        if math.isfinite(steps):
            text += f", which is guaranteed to reach the target in {counted(steps)}"
        yield Finding("step", text + ".", numbers | {"taken": cert.step_size})
        return
    text = f"Gradient descent with the step {eta:.3g} is guaranteed never to raise the loss"
    if math.isfinite(steps):
        text += f", and to reach {spelled(until)} of the gap in {counted(steps)}"
    seen = cert.setting.objective
    K = seen.smoothness if seen.tail is None else seen.smoothness_on(cert.gap)
    curvature = K * float(cert.setting.tangent.eigenvalue("greatest").value)
    if facts and curvature > 0:
        text += (
            f". This step is limited by the curvature that the run may meet, at most {facts['β']:.3g}; at the start "
            f"it is {curvature:.3g} (K λ_max(T))"
        )
        numbers |= {"curvature_cap": facts["β"], "curvature_at_start": curvature}
    yield Finding("step", text + ".", numbers)
