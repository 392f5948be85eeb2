"""Guarantees for gradient descent with a constant step, and the recommended step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import norm
from linflow.certificates._base import Guarantee
from linflow.certificates.published_descent import balanced_descent, two_layer_descent
from linflow.certificates.setting import NO_MARGIN, NO_SMOOTHNESS, Setting
from linflow.certificates.step_bounds import NO_CAPS, DescentBounds, Held, LevelStepCurve, cap_facts
from linflow.certificates.tail_descent import TailDescent
from linflow.model.fitting import fitted
from linflow.model.network import Network, multiply
from linflow.model.objectives import Objective
from linflow.model.optimizer import PLAIN, Optimizer


def safe_step_size(objective: Objective, network: Network | Sequence[Any], optimizer: Optimizer = PLAIN) -> float:
    """Return the step of gradient descent with the smallest certified factor per step.

    For a step η, caps δ on the drift of the imbalances and β on the curvature of the loss along each step are found
    such that `ℓ_{k+1} ≤ ℓ_k − η(1 − ηβ/2)‖∇L_k‖²` at every step. The factor is `1 − η(1 − ηβ/2)γα`, with α a floor
    of `λ_min(T)` under the drift. η minimises the largest factor of a run, to within 5 % of its distance from 1. If
    no factor below 1 is certified, η is the step with the largest certain decrease `η(1 − ηβ/2)`: the loss never
    rises.

    For a loss with a tail (`ExponentialLoss`, `LogisticLoss`, or an `Objective` with a `tail_constant`) the weights
    grow for ever, but the curvature of the loss falls with its gap. η then maximises the certified `η(1 − ηβ/2)α`,
    under which the gap falls like `1/k` (docs/tails.md).

    β and α are those of the worst weights that the caps allow, so the step is cautious. Compared with the largest
    step for which a run still converged, it was 0.18 and 0.10 of that step on 20×5 with two layers of width 1000 and
    100, 0.03 at width 30, and 0.013 on 10×10 with three layers of width 100.
    `linflow.schedules.local_smoothness` uses the current weights instead.

    Args:
        objective: what is minimised, with finite smoothness K, or with a tail. The caps need μ and W*, or γ.
        network: a `Network` or its weights.
        optimizer: may hold layer rates; the step of layer l is then `ηρ_l`.

    Returns:
        The step η.

    Raises:
        ValueError: no step is certified. The message gives the reason and what to use instead.

    Source: this library, docs/descent.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(2 * np.eye(2))
        >>> eta = lf.safe_step_size(f, [np.eye(2), 1.8 * np.eye(2)])
        >>> run = lf.gradient_descent(f, [np.eye(2), 1.8 * np.eye(2)], step_size=eta, steps=100)
        >>> 0.1 < eta < 0.2, bool(run.gap[-1] < 1e-12)
        (True, True)
    """
    net = fitted(objective, network)
    if not optimizer.only_rates:
        raise ValueError(
            f"no step is certified for descent with {optimizer}, only for the plain one and for layer rates; "
            "give a step size yourself, or for momentum lf.safe_step_size(..., verified=True)."
        )
    setting = Setting(objective, optimizer.coordinates(net), "descent")
    why, bounds, tail = _bounds(setting)
    eta = _advised(bounds, tail)
    if eta == 0:
        why = tail.why if tail and setting.gamma == 0 else why or NO_CAPS
        raise ValueError(
            f"no step size is certified: {why}. Give step_size= yourself, or a schedule that uses the weights: "
            "linflow.schedules.backtracking(), or local_smoothness() if K is known."
        )
    return eta


def descent_guarantees(setting: Setting, step_size: float | None) -> tuple[float, list[Guarantee]]:
    """Return the step size and every guarantee on gradient descent with it.

    Args:
        setting: objective and start.
        step_size: η; `safe_step_size` if None. If that certifies no step, the step that a backtracking search
            accepts at the start, for which nothing is guaranteed.

    Raises:
        ValueError: the step size is not positive.
    """
    why, bounds, tail = _bounds(setting)
    if step_size is not None:
        eta = checks.positive(step_size, "step_size")
    else:
        eta = _advised(bounds, tail) or _first_accepted(setting.whole_objective, setting.whole_network)
    ours = [_any_depth(setting, bounds, eta, why), *([tail.guarantee(eta)] if tail else [])]
    return eta, [*ours, *two_layer_descent(setting, eta), balanced_descent(setting, eta)]


def _bounds(setting: Setting) -> tuple[str, DescentBounds | None, TailDescent | None]:
    """Return why no caps are known, and the caps under gradient dominance and under a tail."""
    why = _unbounded(setting)
    tail = None if setting.objective.tail is None else TailDescent(setting)
    return why, None if why else DescentBounds(setting), tail


def _advised(bounds: DescentBounds | None, tail: TailDescent | None) -> float:
    """Return the recommended step; 0 if none is certified. Dominance, if it is known, gives the better rate."""
    if bounds is not None and (tail is None or bounds.gamma > 0) and (eta := bounds.advise()) > 0:
        return eta
    return tail.advise() if tail is not None else 0.0


def _any_depth(setting: Setting, bounds: DescentBounds | None, eta: float, why: str) -> Guarantee:
    """Return the guarantee of this library; its curve follows the gap level by level."""
    held = bounds.at(eta) if bounds else None
    curve, facts = None, {}
    if bounds is not None and held is not None:
        facts |= {"β": float(held.betas[0]), "α": float(held.alphas.min())}
        facts |= cap_facts(held.drift, held.radius, held.caps)
        decreases = held.decreases(bounds.gammas)
        if decreases.min() > 0:
            curve = LevelStepCurve.of(bounds.levels, decreases, eta)
            facts |= {"factor": curve.factor, "final factor": curve.final_factor}
        else:
            why = _no_rate(setting, held)
    elif bounds is not None:
        largest = bounds.largest
        why = (
            f"the step {eta:.4g} is too large: at most {largest:.4g} is certified; take safe_step_size"
            if largest > 0
            else NO_CAPS
        )
    return setting.guarantee(
        name="descent, any depth",
        source="linflow, docs/descent.md",
        citation=("linflow",),
        reason=why,
        curve=curve,
        facts=facts,
    )


def _unbounded(setting: Setting) -> str:
    """Return the reason why no step can be certified from any start; "" if there is none."""
    return NO_SMOOTHNESS if math.isinf(setting.whole_objective.smoothness) else setting.beyond_float64


def _no_rate(setting: Setting, held: Held) -> str:
    """Return the reason why the loss is known not to rise, but no rate is certified."""
    head = "the loss never rises, but no rate is certified: "
    if setting.gamma == 0 and setting.objective.derived:
        return head + "the objective has no gradient dominance: γ = 0"
    if setting.gamma == 0:
        return head + "no pl_constant is known for the objective; declare strong_convexity= or pl_constant="
    if setting.too_narrow:
        return head + setting.too_narrow
    if setting.objective.minimizer is None:
        return head + NO_MARGIN
    return head + (
        f"the bound on λ_min(T) is 0 when imbalances may drift by {held.drift:.3g} and ‖W(0) − W*‖_F = "
        f"{setting.distance:.3g} (σ_min(W*) = {setting.least_of_target:.3g}); take a smaller step, start nearer, or "
        "imbalance the start more"
    )


@np.errstate(over="ignore", invalid="ignore")
def _first_accepted(objective: Objective, network: Network) -> float:
    """Return a step that lowers the loss by at least half of the first-order prediction; 1 if none is found.

    The search starts with a long step and halves it.
    """
    gradients = network.gradient(objective.gradient(network.product()))
    gap, squared = objective.gap(network.product()), sum(norm(G) * norm(G) for G in gradients)
    eta = 4 * abs(gap) / squared if squared > 0 else 0.0
    if not 0 < eta < math.inf:
        return 1.0
    for _ in range(200):
        moved = [W - eta * G for W, G in zip(network.weights, gradients, strict=True)]
        if objective.gap(network.scale * multiply(moved)) <= gap - eta * squared / 2:
            return eta
        eta /= 2
    return 1.0
