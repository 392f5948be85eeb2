"""What a verified descent knows at one point: expansion, tube, node and Hessian, compiled where that is faster."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow.verified import compiled
from linflow.verified.hessian import hessian
from linflow.verified.log_norm import Node, Tube
from linflow.verified.problem import AffineGradient
from linflow.verified.taylor import Expansion


def expanded(
    problem: AffineGradient, weights: list[np.ndarray], scale: float, layout: compiled.Layout | None = None
) -> Any:
    """Return the expansion of degree 1, in the unit of time 1, or its compiled equivalent."""
    if layout is None:
        return Expansion(problem, weights, scale, 1.0, 1)
    return compiled.CompiledPath(layout, weights, 1.0, 1)


def node_at(path: Any) -> Any:
    """Return the logarithmic norm at the start of an expansion."""
    return compiled.CompiledNode(path) if isinstance(path, compiled.CompiledPath) else Node(path)


def tube_at(path: Any) -> Any:
    """Return the tube around the start of an expansion."""
    return compiled.CompiledTube(node_at(path), 0.0) if isinstance(path, compiled.CompiledPath) else Tube(path, 0.0)


def hessian_at(path: Any) -> tuple[np.ndarray, float]:
    """Return `∇²L` at the start of an expansion and a bound of the norm of its error."""
    if not isinstance(path, compiled.CompiledPath):
        return hessian(path)
    half, error = compiled.CompiledNode(path).hessian()
    return np.tril(half) + np.tril(half, -1).T, error
