"""Two-layer networks with a ReLU or a smooth activation: certificates, flows, verified runs, descent, designs."""

from typing import TYPE_CHECKING

from linflow._support.names import missing
from linflow.relu.aligned import aligned_since
from linflow.relu.certificate import Certificate, certify, safe_step_size
from linflow.relu.descent import gradient_descent
from linflow.relu.design import Design, design
from linflow.relu.enclosed_descent import EnclosedDescent
from linflow.relu.enclosure import EnclosedFlip, Enclosure, enclose
from linflow.relu.flow import gradient_flow
from linflow.relu.network import Network, imbalance
from linflow.relu.smooth import SmoothNetwork
from linflow.relu.starts import paired
from linflow.relu.trajectory import Flip, Trajectory

__all__ = [
    "Certificate",
    "Design",
    "EnclosedDescent",
    "EnclosedFlip",
    "Enclosure",
    "Flip",
    "Network",
    "SmoothNetwork",
    "Trajectory",
    "aligned_since",
    "certify",
    "design",
    "enclose",
    "gradient_descent",
    "gradient_flow",
    "imbalance",
    "paired",
    "safe_step_size",
]

if not TYPE_CHECKING:  # type checkers know the names
    __getattr__ = missing(__name__, __all__)
