"""Every guarantee on a start, with its rounding allowed for or proved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linflow import certificates
from linflow.certificates import Certificate
from linflow.model.fitting import fitted
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import Optimizer


def certify(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    algorithm: str = "flow",
    step_size: float | None = None,
    schedule: Any = None,
    rigorous: bool = False,
    layer_rates: Sequence[float] | None = None,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    friction: float | None = None,
) -> Certificate:
    """Return every guarantee on the gradient flow, or on gradient descent, from this start, best first.

    Without `rigorous`, a margin allows for the rounding of the float64 numbers. That margin is reasoned, not proved.
    With `rigorous`, nothing is taken on trust: eigenvalues and singular values have proved error bounds, and a
    guarantee holds for the exact flow of the exact data. A guarantee whose rounding cannot be proved does not apply,
    and its reason says so.

    Args:
        objective: the objective that is minimised.
        network: a `Network` or its weights; float32 input is computed in float64.
        algorithm: "flow", or "descent" for gradient descent with a constant step or a schedule.
        step_size: η of the descent; `safe_step_size(objective, network)` if left out.
        schedule: a rule of `linflow.schedules`, instead of `step_size`. Guarantees are known for `xu2025` and
            `local_smoothness` on two layers; `constant` is the same as `step_size`.
        rigorous: whether to prove all rounding. This requires the flow of a strongly convex quadratic objective
            (`MatrixFactorization`, `LinearRegression`, `Quadratic`).
        layer_rates: `ρ_1, …, ρ_L`, for the flow or the descent in which layer l has the rate `ρ_l`. Every guarantee
            applies, to the layers `W_l/√ρ_l`.
        weight_decay: λ of a flow with weight decay. What is certified is the decay of the imbalance
            (`Certificate.imbalance`); the loss does not fall to f*, and `optimality_gap` bounds its excess.
        momentum: for a descent with momentum no guarantee is known; anything but 0 is refused.
        friction: a of the heavy-ball flow `Ẅ_l + aẆ_l = −ρ_l ∂L/∂W_l` from rest.

    Returns:
        A `Certificate`. Its `rests_on` and its printed form say whether rounding is included.

    Raises:
        ValueError, TypeError: the objective and the network do not fit, a step size or a schedule is given without
            descent, or both are given, or nothing is known for the options.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = lf.init.imbalanced((2, 6, 6, 2), [3.0, -3.0], np.eye(2), rng=0)
        >>> cert = lf.certify(lf.MatrixFactorization(np.eye(2)), net)
        >>> cert.best.name, round(cert.rate, 2)
        ('envelope', 20.56)
        >>> proved = lf.certify(lf.MatrixFactorization(np.eye(2)), net, rigorous=True)
        >>> proved.rests_on, round(proved.rate / cert.rate, 6) <= 1
        ('float64 numbers, rounding included and proved', True)
        >>> faster = lf.certify(lf.MatrixFactorization(np.eye(2)), net, layer_rates=(1, 16, 1))
        >>> round(faster.rate / cert.rate, 1)
        15.1
    """
    net = fitted(objective, network)
    optimizer = Optimizer.of(
        net.depth, layer_rates=layer_rates, weight_decay=weight_decay, momentum=momentum, friction=friction
    )
    if optimizer.momentum and algorithm == "flow":
        raise ValueError(
            f"momentum is {momentum!r}, but the flow has a friction instead: certify(…, friction=a) is about "
            'Ẅ_l + aẆ_l = −∂L/∂W_l. For descent say algorithm="descent".'
        )
    certificate = certificates.certify(
        objective, net, algorithm=algorithm, step_size=step_size, schedule=schedule, optimizer=optimizer
    )
    if not rigorous:
        return certificate
    from linflow.verified.prior import rigorously  # noqa: PLC0415 - most certificates need no verified run

    return rigorously(certificate)
