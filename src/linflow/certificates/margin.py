"""The margin: how far the product stays from losing rank on its way to the optimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, norm, sigma, singular_values, to_numpy
from linflow.model.fitting import objective_of
from linflow.model.network import Network
from linflow.model.objectives import Objective


def margin(objective: Objective, network: Network | Sequence[Any], form: str = "gap") -> float:
    """Lower bound on `σ_min(W(t))` along the whole flow (and any descent that never increases the loss).

    - `form="distance"`: `[σ_min(W*) − sqrt(K/μ) ‖W(0) − W*‖_F]_+`, the definition of the papers;
    - `form="gap"`: `[σ_min(W*) − sqrt(2ℓ(0)/μ)]_+`. As `ℓ(0) ≤ K/2 ‖W(0) − W*‖²`, it is never smaller,
      up to rounding.

    For a rank-deficient design the margin is that of the restricted problem (`objective.effective`).

    Args:
        objective: what is minimised, with `μ > 0` and a known minimiser.
        network: a `Network` or its weights.
        form: "gap" or "distance".

    Returns:
        The margin; 0 if the first product is too far from W*, or if μ or W* is unknown.

    Source: Min, Vidal & Mallada 2023, section 4 ("distance"); the gap form uses `μ/2 ‖W − W*‖² ≤ ℓ`.

    Example:
        >>> import numpy as np, linflow as lf
        >>> lf.margin(lf.MatrixFactorization(np.eye(2)), [0.9 * np.eye(2), np.eye(2)], form="distance").__round__(6)
        0.858579
    """
    form = checks.choice(form, "form", ("gap", "distance"))
    net = Network.of(network)
    objective_of(objective).check_network(net)
    objective, net = objective.effective(net)
    W = net.product()
    if form == "gap":
        return float(product_range(objective, net, np.array([objective.gap(W)]))[0][0])
    if objective.strong_convexity == 0 or objective.minimizer is None or math.isinf(objective.smoothness):
        return 0.0
    condition = math.sqrt(objective.smoothness / objective.strong_convexity)
    least = float(sigma(objective.minimizer, min(net.shape)))
    return max(0.0, least - condition * (norm(W - objective.minimizer) + _rounding(objective, net)))


def product_range(
    objective: Objective, network: Network, gaps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return bounds on σ_min, the next larger singular value, and `‖W‖`, for every W with a gap of at most `gaps`.

    As `½μ ‖W − W*‖_F² ≤ ℓ` with the μ of each level (`Objective.growth_on`) and singular values are 1-Lipschitz, the
    lower bounds are `[σ_k(W*) − sqrt(2ℓ/μ)]_+` and the upper bound is `‖W*‖ + sqrt(2ℓ/μ)`. They are 0 and inf if μ
    or W* is unknown. The bound on the next larger singular value is inf if there is none. Rounding is subtracted from
    the lower bounds and added to the upper one.

    Args:
        objective: the objective on the space that the network acts in (`objective.effective`).
        network: the weights of the start, whose size determines the rounding.
        gaps: loss gaps, shape `(K,)`.
    """
    none, single = np.full(len(gaps), math.inf), min(network.shape) == 1
    if not _grows(objective, gaps):
        return np.zeros(len(gaps)), none if single else np.zeros(len(gaps)), none
    reach, sigmas = _reach(objective, network, gaps), to_numpy(singular_values(objective.minimizer))
    low = np.maximum(sigmas[-1] - reach, 0.0)
    return low, none if single else np.maximum(sigmas[-2] - reach, 0.0), sigmas[0] + reach


def most_of_least(objective: Objective, network: Network, gaps: np.ndarray) -> np.ndarray:
    """Return upper bounds on σ_min(W) for every W with a gap of at most `gaps`: `σ_min(W*) + sqrt(2ℓ/μ)`, or inf.

    The arguments are those of `product_range`.
    """
    if not _grows(objective, gaps):
        return np.full(len(gaps), math.inf)
    return float(sigma(objective.minimizer, min(network.shape))) + _reach(objective, network, gaps)


def _grows(objective: Objective, gaps: np.ndarray) -> bool:
    """Return whether `f − f* ≥ ½μ‖W − W*‖²` with μ > 0 is known for gaps of at most the first, the largest."""
    return objective.minimizer is not None and float(objective.growth_on(gaps)[0]) > 0


def _reach(objective: Objective, network: Network, gaps: np.ndarray) -> np.ndarray:
    """Return bounds on `‖W − W*‖_F` for loss gaps of at most `gaps`."""
    mu = objective.growth_on(gaps)
    rounding = _rounding(objective, network) + 4 * np.sqrt(2 * objective.rounding(network) / mu)
    with np.errstate(over="ignore"):
        return np.sqrt(2 * np.maximum(gaps, 0.0) / mu) + rounding


def _rounding(objective: Objective, network: Network) -> float:
    """Return a bound on the rounding in W − W*, so that rounding is never taken for a margin."""
    return 16 * EPS * (objective.minimizer_size + network.magnitude())
