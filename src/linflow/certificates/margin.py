"""How far the first product is from losing rank on its way to the optimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from linflow import _checks
from linflow._arrays import EPS, norm, sigma
from linflow.network import Network
from linflow.objectives import Objective


def margin(objective: Objective, network: Network | Sequence[Any], form: str = "gap") -> float:
    """Lower bound on `σ_min(W(t))` along the whole flow (and any descent that never increases the loss).

    - `form="distance"`: `[σ_min(W*) − sqrt(K/μ) ‖W(0) − W*‖_F]_+`, the definition of the papers;
    - `form="gap"`: `[σ_min(W*) − sqrt(2ℓ(0)/μ)]_+` with `ℓ(0) ≤ K/2 ‖W(0) − W*‖²`, so never smaller, rounding apart.

    For a rank-deficient design the margin is that of the restricted problem (`objective.effective`).

    Args:
        objective: with `μ > 0` and a known minimiser.
        network: a `Network` or its weights.
        form: "gap" or "distance".

    Returns:
        The margin; 0 when the first product is too far, and when μ or W* is unknown.

    Source: Min, Vidal & Mallada 2023, section 4 ("distance"); the gap form uses `μ/2 ‖W − W*‖² ≤ ℓ`.

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.margin(lf.MatrixFactorization(np.eye(2)), [0.9 * np.eye(2), np.eye(2)], form="distance").__round__(6)
        0.858579
    """
    form = _checks.choice(form, "form", ("gap", "distance"))
    net = Network.of(network)
    objective.check_network(net)
    objective, net = objective.effective(net)
    if objective.strong_convexity == 0 or objective.minimizer is None:
        return 0.0
    W, mu = net.product(), objective.strong_convexity
    least = float(sigma(objective.minimizer, min(net.shape)))
    # The margin is a difference; what rounding leaves open in either term is taken off, lest it pass for a margin.
    rounding = 16 * EPS * (norm(objective.minimizer) + net.magnitude())
    if form == "gap":
        reach = math.sqrt(2 * max(objective.gap(W), 0.0) / mu)
        rounding += 4 * math.sqrt(2 * objective.rounding(net) / mu)
    elif math.isinf(objective.smoothness):
        return 0.0
    else:
        condition = math.sqrt(objective.smoothness / mu)
        reach, rounding = condition * norm(W - objective.minimizer), condition * rounding
    return max(0.0, least - reach - rounding)
