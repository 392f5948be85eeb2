"""The figures that ``linflow reproduce`` computes, in the order of the report."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from linflow.experiments.figures._outcome import Claim, LeftOut, Outcome, Progress, Table, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, assigned, setting

__all__ = [
    "EXPERIMENTS",
    "Claim",
    "LeftOut",
    "Outcome",
    "PaperFigure",
    "Progress",
    "Settings",
    "Table",
    "assigned",
    "number",
    "select",
    "setting",
]

# Each module holds one `experiment: PaperFigure`.
MODULES = (
    "phase_plane",
    "one_and_two_layers",
    "symmetry",
    "implicit_acceleration",
    "depth",
    "exploding",
    "spectrum",
    "convergence",
    "implicit_bias",
    "laziness",
    "init_map",
    "tightness",
    "real_data",
    "box_plot",
    "three_layers",
    "two_layer_descent",
    "step_sizes",
    "classification",
    "verified_runs",
    "small_start",
    "saddles",
    "greedy",
    "sparse",
    "network_bias",
    "width_map",
    "balanced_descent",
    "optimizers",
    "other_losses",
    "adapters",
    "relu_rates",
    "turning",
)

EXPERIMENTS: dict[str, PaperFigure]  # filled on first use


def __getattr__(name: str) -> Any:
    if name != "EXPERIMENTS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = (import_module(f"{__name__}.{module}") for module in MODULES)
    globals()[name] = {module.experiment.id: module.experiment for module in modules}
    return globals()[name]


def select(names: Iterable[str] | None = None, *, full: bool = False) -> list[PaperFigure]:
    """Return the experiments with these names, or all; those that take minutes need `full` or their name.

    Raises:
        ValueError: If a name is unknown; the message lists the known names and the nearest one.
    """
    known: dict[str, PaperFigure] = sys.modules[__name__].EXPERIMENTS
    chosen = list(dict.fromkeys(names or (name for name, one in known.items() if full or not one.full)))
    for name in chosen:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f". Did you mean {nearest[0]!r}?" if nearest else "."
            listed = ", ".join(known) or "none"
            raise ValueError(f"there is no figure {name!r}{hint} Known figures: {listed}.")
    return [known[name] for name in chosen]
