"""Figures in one style: readable in print and on screen, in light and dark, and by colour-blind readers.

Every function takes Axes, or makes its own, and returns them. Nothing here imports pyplot, shows a window or changes
``matplotlib.rcParams``. Observed curves are solid, and guarantees are dashed.
"""

from typing import TYPE_CHECKING

from linflow._support.names import missing
from linflow.plots.planes import init_map, phase_plane
from linflow.plots.proofs import proof
from linflow.plots.runs import convergence, rate
from linflow.plots.saving import rasterize_large, save
from linflow.plots.scatter import bound_against_truth
from linflow.plots.spectra import eigenvalues, imbalance_spectrum, singular_values
from linflow.plots.themes import COLOURS, THEMES, Theme, figure, style

__all__ = [
    "COLOURS",
    "THEMES",
    "Theme",
    "bound_against_truth",
    "convergence",
    "eigenvalues",
    "figure",
    "imbalance_spectrum",
    "init_map",
    "phase_plane",
    "proof",
    "rasterize_large",
    "rate",
    "save",
    "singular_values",
    "style",
]

if not TYPE_CHECKING:  # type checkers already know the names
    __getattr__ = missing(__name__, __all__)
