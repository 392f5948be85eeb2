"""Random starts by name, for the settings of several figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linflow import init
from linflow.model.network import Network

STARTS = {
    "ntk": ("NTK", "N(0, 1) entries, the product over √(h₁⋯h_{L−1})"),
    "fan_in": ("fan-in", "N(0, 1/(inputs of the layer)) entries"),
    "fan_out": ("fan-out", "N(0, 1/(outputs of the layer)) entries"),
    "gaussian": ("Gaussian", "N(0, 1/h) entries, h the first hidden width"),
    "orthogonal": ("orthogonal", "orthonormal rows or columns"),
}
"""The name of each start, and how its entries are drawn."""


def start(name: str, widths: Sequence[int], rng: int | np.random.Generator) -> Network:
    """Return a start with this name and these widths."""
    if name == "gaussian":
        return init.gaussian(widths, widths[1] ** -0.5, rng=rng)
    return getattr(init, name)(widths, rng=rng)
