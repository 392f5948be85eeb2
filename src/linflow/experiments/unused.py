"""Settings that an algorithm or a start does not use. They are refused, not ignored, with advice on what to do."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, tuple[str, float]] = {
    "gaussian": ("std", 1.0),
    "orthogonal": ("gain", 1.0),
    "balanced": ("std", 1.0),
    "imbalanced": ("imbalance", 1.0),
    "spectral": ("values", 1.0),
    "small": ("size", 1e-3),
    "identity": ("size", 1.0),
}
"""Initialisation → its own name for `start.size`, and the default; an initialisation without a size is not listed."""

UNUSED: dict[str, dict[str, str]] = {
    "flow": {
        "descent.step_size": "a flow takes no steps of a set size; leave it out, or choose algorithm descent",
        "descent.schedule": "a flow takes no steps of a set size; leave it out, or choose algorithm descent",
        "descent.steps": "a flow takes as many steps as it needs; leave it out, or choose algorithm descent",
        "optimizer.momentum": "a flow has a friction instead (--friction); leave it out, or choose algorithm descent",
        "optimizer.nesterov": "a flow has a friction instead (--friction); leave it out, or choose algorithm descent",
        "optimizer.batch_size": "a flow uses all samples; leave it out, or choose algorithm descent",
        "optimizer.batch_seed": "a flow uses all samples; leave it out, or choose algorithm descent",
        "design.steps": "a flow is designed for a rate; leave it out, or choose algorithm descent",
    },
    "descent": {
        "flow.t_max": "a descent ends after descent.steps (--steps); leave it out, or choose algorithm flow",
        "flow.rtol": "a descent has no tolerance; leave it out, or choose algorithm flow",
        "flow.max_steps": "a descent ends after descent.steps (--steps); leave it out, or choose algorithm flow",
        "optimizer.friction": "a descent has a momentum instead (--momentum); leave it out, or choose algorithm flow",
        "design.rate": "a descent is designed for design.steps (--within); leave it out, or choose algorithm flow",
    },
    "weights": dict.fromkeys(
        ("start.init", "start.hidden", "start.size", "start.multiplier", "start.seed"),
        "the weights are read from a file; leave it out, or start.weights (--weights)",
    ),
    "drawn": {"start.layers": "no weights are read from a file; leave it out, or give start.weights (--weights)"},
    "no size": {"start.size": "this start has no size; leave it out, or use gaussian"},
}
"""Keys that an algorithm or a start does not use, and what to do."""


def unused(algorithm: Any, *, weights: bool | None = None, init: str | None = None) -> dict[str, str]:
    """Return the keys that are not used, and why. An unknown algorithm adds none, as it is itself refused.

    Args:
        algorithm: "flow" or "descent"; None if it is neither.
        weights: whether the weights are read from a file, if that is known.
        init: how the weights are drawn otherwise, if that is known.
    """
    found = dict(UNUSED[algorithm]) if algorithm in ("flow", "descent") else {}
    if weights is not None:
        found |= UNUSED["weights" if weights else "drawn"]
    if not weights and init is not None and init not in SIZES:
        found |= {key: why.replace("this start", init) for key, why in UNUSED["no size"].items()}
    return found
