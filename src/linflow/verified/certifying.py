"""Every guarantee on a start, with its rounding allowed for or proved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linflow import certificates
from linflow.certificates import Certificate
from linflow.model.network import Network
from linflow.model.objectives import Objective


def certify(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    algorithm: str = "flow",
    step_size: float | None = None,
    schedule: Any = None,
    rigorous: bool = False,
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

    Returns:
        A `Certificate`. Its `rests_on` and its printed form say whether rounding is included.

    Raises:
        ValueError, TypeError: the objective and the network do not fit, a step size or a schedule is given without
            descent, or both are given.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = lf.init.imbalanced((2, 6, 6, 2), [3.0, -3.0], np.eye(2), rng=0)
        >>> cert = lf.certify(lf.MatrixFactorization(np.eye(2)), net)
        >>> cert.best.name, round(cert.rate, 2)
        ('envelope', 20.56)
        >>> proved = lf.certify(lf.MatrixFactorization(np.eye(2)), net, rigorous=True)
        >>> proved.rests_on, round(proved.rate / cert.rate, 6) <= 1
        ('float64 numbers, rounding included and proved', True)
    """
    certificate = certificates.certify(
        objective, network, algorithm=algorithm, step_size=step_size, schedule=schedule
    )
    if not rigorous:
        return certificate
    from linflow.verified.prior import rigorously  # noqa: PLC0415 - most certificates need no verified run

    return rigorously(certificate)
