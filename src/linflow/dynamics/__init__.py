"""Runs: gradient flow and gradient descent, and what they record."""

from linflow.dynamics.descent import gradient_descent
from linflow.dynamics.flow import gradient_flow
from linflow.dynamics.many import Failure, gradient_flow_many
from linflow.dynamics.trajectory import Interrupted, Result, Stats, Trajectory

__all__ = [
    "Failure",
    "Interrupted",
    "Result",
    "Stats",
    "Trajectory",
    "gradient_descent",
    "gradient_flow",
    "gradient_flow_many",
]
