"""Verified runs: rigorous enclosures of gradient flow and gradient descent, computed with all rounding bounded."""

from linflow.verified.attempt import attempt
from linflow.verified.comparison import FlowDescentGap, flow_descent_gap
from linflow.verified.descent import DescentEnclosure
from linflow.verified.enclosure import Enclosure
from linflow.verified.prior import certify
from linflow.verified.run import enclose
from linflow.verified.steps import VerifiedStep, safe_step_size

__all__ = [
    "DescentEnclosure",
    "Enclosure",
    "FlowDescentGap",
    "VerifiedStep",
    "attempt",
    "certify",
    "enclose",
    "flow_descent_gap",
    "safe_step_size",
]
