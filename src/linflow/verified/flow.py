"""`lf.enclose`: the verified run of the gradient flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from linflow import _checks
from linflow._arrays import is_numpy, to_numpy
from linflow._threads import one_thread_when_small
from linflow.network import Network
from linflow.objectives import Objective
from linflow.verified.enclosure import Enclosure
from linflow.verified.march import March
from linflow.verified.problem import affine_gradient
from linflow.verified.reduction import narrowed

MARGIN = 0.99
"""Part of the target to which the path goes on, so that its time can be told from both sides."""

USELESS = 0.5
"""Width of the bounds of the gap, relative to the upper one, from which the proof says nothing more."""


def enclose(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    until: float | None = None,
    t_max: float | None = None,
    max_steps: int = 5000,
    progress: Callable[[float], None] | None = None,
) -> Enclosure:
    """Prove by computing where the exact gradient flow goes from this start.

    The flow is followed by Taylor polynomials θ̃, and around them a radius ρ is carried with
    `ρ' ≥ m ρ + ‖θ̃' + ∇L(θ̃)‖`, where m bounds `−λ_min(∇²L)` on all weights within ρ. Then the exact flow exists and
    stays within ρ of θ̃. All rounding is bounded. No condition on the start is needed.

    Args:
        objective: `MatrixFactorization`, `LinearRegression` or `Quadratic`, of NumPy arrays.
        network: a `Network` or its weights.
        until: fraction of the first loss gap to prove; 1e-6 when neither it nor t_max is given.
        t_max: time to stop at.
        max_steps: limit on the steps.
        progress: called with the fraction done after each step.

    Returns:
        An `Enclosure`; where the proof ends early it says how far it reaches and why.

    Raises:
        ValueError, TypeError: arguments that do not fit, or an objective that is not one of these.

    Source: this library, docs/verified.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
        >>> enc = lf.enclose(f, lf.init.gaussian((2, 4, 2), rng=0), until=1e-6)
        >>> low, high = enc.time_bounds(1e-6)
        >>> run = lf.gradient_flow(f, lf.init.gaussian((2, 4, 2), rng=0), until=1e-7)
        >>> enc.result, bool(high / low - 1 < 1e-6), bool(low * (1 - 1e-6) < run.time_to(1e-6) < high * (1 + 1e-6))
        ('target proved', True, True)
    """
    net = Network.of(network).detach()
    objective.check_network(net)
    until = _checks.fraction(until, "until") if until is not None else None if t_max is not None else 1e-6
    end = math.inf if t_max is None else _rounded_up(_checks.positive(t_max, "t_max"))
    max_steps = _checks.count(max_steps, "max_steps")
    problem = affine_gradient(objective)
    weights = [np.ascontiguousarray(W if is_numpy(W) else to_numpy(W), dtype=np.float64) for W in net.weights]
    narrow = narrowed(weights)
    steps = []
    with one_thread_when_small(net), np.errstate(over="ignore", under="ignore", invalid="ignore"):
        march = March(problem, narrow.weights, net.scale, narrow.radius)
        target = -math.inf if until is None else MARGIN * until * march.first[0]
        result = reason = ""
        while not result:
            if march.gap[1] <= target:
                result = "target proved"
            elif until is not None and march.first[0] <= 0:
                result = "proof ended"
                reason = "the first gap cannot be told from 0, as the start is at the optimum to rounding"
            elif march.t >= end:
                result = "time limit reached"
            elif len(steps) >= max_steps:
                result, reason = "step limit reached", f"{max_steps} steps were taken; raise max_steps"
            elif until is not None and march.gap[1] - march.gap[0] > USELESS * march.gap[1] and steps:
                result = "proof ended"
                reason = (
                    f"the radius, {march.radius:.2g}, is too large for tighter bounds of the gap; a disturbance may "
                    f"have grown by e^{march.exponent:.3g}"
                )
            else:
                step = march.advance(end)
                if step is None:
                    result, reason = "proof ended", march.trouble
                else:
                    steps.append(step)
                    if progress is not None:
                        progress(_done(march, until, end))
    if reason:
        gap = march.gap[1] / march.first[0] if march.first[0] > 0 else 1.0
        reason = f"verified to t = {march.t:.6g}, gap {gap:.2g} of the first: {reason}"
    notes = (*objective.notes, *net.notes, *problem.notes)
    return Enclosure(
        objective, net, problem, tuple(steps), march.first, result, reason, narrow, notes, march.hessians
    )


def _rounded_up(t: float) -> float:
    """Return the least number of 24 binary digits that is not below t: sums of such times are exact."""
    mantissa, exponent = math.frexp(t)
    return math.ldexp(math.ceil(math.ldexp(mantissa, 24)), exponent - 24)


def _done(march: March, until: float | None, end: float) -> float:
    """Return the fraction done, by time or by the logarithm of the gap, whichever is further."""
    by_time = march.t / end if math.isfinite(end) else 0.0
    if until is None or not 0 < march.gap[1] < march.first[1]:
        return min(by_time, 1.0)
    return min(1.0, max(by_time, math.log(march.gap[1] / march.first[1]) / math.log(until)))
