"""Step-size rules for gradient descent, for use as `gradient_descent(..., schedule=...)`.

A schedule has one method, `step(iterate) -> η`; the iterate holds the weights, the gap, the gradient, the number of
steps done and the last step. Schedules keep no state, so one schedule can serve several runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from linflow._support import checks
from linflow._support.names import missing
from linflow.certificates.descent import safe_step_size
from linflow.dynamics.descent import Constant, Iterate, Schedule
from linflow.dynamics.step_rules import FORMS, Backtracking, LocalSmoothnessSchedule, Xu2025, check_form
from linflow.model.fitting import fitted
from linflow.model.network import Network
from linflow.model.objectives import Objective

__all__ = ["Iterate", "Schedule", "backtracking", "constant", "local_smoothness", "xu2025"]

if not TYPE_CHECKING:  # type checkers know the names
    __getattr__ = missing(__name__, __all__)


def constant(step_size: float) -> Constant:
    """Return a schedule with a constant step, equivalent to `step_size=`.

    Raises:
        ValueError: a step that is not positive.

    Example:
        >>> import linflow as lf
        >>> from linflow import schedules
        >>> schedules.constant(0.1)
        Constant(step_size=0.1)
    """
    return Constant(checks.positive(step_size, "step_size"))


def backtracking(initial: float = 1.0, *, shrink: float = 0.5, grow: float = 2.0, slope: float = 0.5) -> Backtracking:
    """Return Armijo's rule: `L(W − η∇L) ≤ L − slope · η‖∇L‖²`.

    The first trial is `initial`; later trials start at `grow` times the last step. A trial is multiplied by `shrink`
    until it is accepted. The rule needs no constants of the objective, and one or two evaluations of the loss per
    step. With `slope = ½`, a step is accepted as soon as `ηK_t ≤ 1` (see `local_smoothness`), so it is at least
    `shrink` times the step of that rule. Decreases below rounding are not required.

    Args:
        initial: the first trial step, positive.
        shrink: factor after a rejected trial, in (0, 1).
        grow: factor from the last step to the next trial, at least 1.
        slope: required part of the first-order decrease, in (0, 1).

    Raises:
        ValueError: numbers out of range.

    Source: Armijo 1966.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow import schedules
        >>> net = [np.eye(2), 0.1 * np.eye(2)]
        >>> f = lf.MatrixFactorization(np.eye(2))
        >>> run = lf.gradient_descent(f, net, schedule=schedules.backtracking(), steps=100, until=1e-9)
        >>> run.result.value, run.stats.steps < 30
        ('target reached', True)
    """
    if not checks.positive(grow, "grow") >= 1:
        raise ValueError(f"grow is {grow!r}; a number of at least 1 is needed.")
    for value, name in ((shrink, "shrink"), (slope, "slope")):
        if not 0 < checks.positive(value, name) < 1:
            raise ValueError(f"{name} is {value!r}; a number in (0, 1) is needed.")
    return Backtracking(checks.positive(initial, "initial"), float(shrink), float(grow), float(slope))


def local_smoothness(form: str = "step") -> LocalSmoothnessSchedule:
    """Return the rule `η = 1/K_t`, where `ℓ⁺ ≤ ℓ − η(1 − ηK_t/2)‖∇L‖²` holds for the step itself.

    Hence `ℓ⁺ ≤ ℓ − (η/2)‖∇L‖²` at any weights, and the loss never rises. `K_t` depends on η, so the rule solves
    `η K_t(η) = 1`.

    - `"step"`, any depth: the product after a step is `W(η) = Σ_k η^k M_k`, a polynomial, and K-smoothness gives
      `K_t(η) = (2 Σ_{k≥2} η^{k−2} ⟨∇f, M_k⟩ + K ‖Σ_{k≥1} η^{k−1} M_k‖²)/‖∇L‖²`, which follows the direction taken.
    - `"curvature"`, any depth, quadratic objectives: the same with `⟨V, ∇²f[V]⟩` in place of `K ‖V‖²`. The inequality
      is then an equality, and the loss falls by exactly `(η/2)‖∇L‖²`. The step is at least that of "step" from the
      same weights. With one layer it is exact line search.
    - `"two layers"`: `K_t = K λ_max(T) + c sqrt(2Kℓ) + c³K² σ_max(W) ℓ η² + cK λ_max(T) sqrt(2Kℓ) η`, for the worst
      direction at these weights.
    - `"printed"`: the same with the constants 6 and 3 before the last two terms.

    For exponential and logistic loss K is that of the level set at the current gap, `min(K, ℓ max_i ‖x_i‖²)`. The
    steps then grow as the loss falls (docs/tails.md).

    Proofs: docs/descent.md.

    Args:
        form: one of the four names above.

    Raises:
        ValueError: an unknown form. On use: an objective without smoothness, a non-quadratic objective for
            "curvature", or a depth other than two for the last two forms.

    Source: Xu, Min, Tarmoun, Mallada & Vidal 2025 for two layers; "step" and "curvature" are from this library.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow import schedules
        >>> f, net = lf.MatrixFactorization(np.eye(2)), [np.eye(2), np.eye(2), 0.1 * np.eye(2)]
        >>> run = lf.gradient_descent(f, net, schedule=schedules.local_smoothness(), steps=100, until=1e-9)
        >>> run.result.value, run.stats.steps < 30
        ('target reached', True)
    """
    return LocalSmoothnessSchedule(checks.choice(form, "form", FORMS))


def xu2025(objective: Objective, network: Network | Sequence[Any], first: float | None = None) -> Xu2025:
    """Return the schedule `η_t = min((1 + η_0²)^{t/2} η_0, 1/K_t)` for two layers.

    `K_t` is that of `local_smoothness("printed")` and `η K_t(η) = 1` is solved exactly, so the loss never rises. The
    growth from `η_0` keeps the imbalance near its start while the loss is large.

    Args:
        objective: the objective to minimise, with finite smoothness.
        network: the initial network, with two layers.
        first: `η_0`; `safe_step_size(objective, network)` by default.

    Raises:
        ValueError: the network does not have two layers, the objective has no smoothness, or `first` is omitted and
            there is no safe step.

    Source: Xu, Min, Tarmoun, Mallada & Vidal 2025.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow import schedules
        >>> f, net = lf.MatrixFactorization(2 * np.eye(2)), [np.eye(2), 1.8 * np.eye(2)]
        >>> run = lf.gradient_descent(f, net, schedule=schedules.xu2025(f, net), steps=60)
        >>> bool(run.step_sizes[-1] > run.step_sizes[0])
        True
    """
    net = fitted(objective, network)
    check_form(objective, net.depth, "printed")
    eta = safe_step_size(objective, net) if first is None else checks.positive(first, "first")
    return Xu2025(eta)
