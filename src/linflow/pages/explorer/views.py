"""The views of the explorer by name."""

from __future__ import annotations

from collections.abc import Callable

from linflow.pages.explorer.depth import depth
from linflow.pages.explorer.descent import descent
from linflow.pages.explorer.least_norm import least_norm
from linflow.pages.explorer.neurons import neurons
from linflow.pages.explorer.state import Given
from linflow.pages.explorer.two_layers import two_layers
from linflow.pages.explorer.two_weights import two_weights
from linflow.pages.explorer.view import View

VIEWS: dict[str, Callable[[Given], View]] = {
    "two_weights": two_weights,
    "depth": depth,
    "two_layers": two_layers,
    "descent": descent,
    "neurons": neurons,
    "least_norm": least_norm,
}
