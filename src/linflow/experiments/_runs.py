"""What several experiments ask of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linflow import bounds
from linflow._arrays import to_numpy
from linflow.dynamics import Trajectory
from linflow.objectives import Objective
from linflow.operator import TangentOperator


def bounds_along(objective: Objective, run: Trajectory, points: int = 12) -> np.ndarray:
    """Return, at some recorded instants of a flow, γ·(best bound now), γ·λ_min(T) and the instantaneous rate.

    The bounds read the imbalance and singular values of the weights at that instant, so they hold for that instant;
    each row of the result must increase: bound ≤ γ λ_min(T) ≤ rate.
    """
    t, rate = to_numpy(run.t), to_numpy(run.rate)
    rows = []
    for i in np.unique(np.linspace(0, len(t) - 1, points).astype(int)):
        seen, net = objective.effective(run.network_at(float(t[i])))
        gamma = seen.pl_constant
        least = float(TangentOperator(net).least_eigenvalue())
        rows.append((gamma * float(bounds.best(net).value), gamma * least, rate[i]))
    return np.array(rows)


def stack(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the columns of several results of `bounds_along`, end to end."""
    bound, least, rate = np.concatenate(parts).T
    return bound, least, rate
