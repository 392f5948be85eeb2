"""A preset of the page for each figure of the talk: a view, and the state in which it shows the same, smaller."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

ALONE = ("two_weights", "depth")
"""The views of the page without a server."""


@dataclass(frozen=True)
class Preset:
    """The state of a view that belongs to a figure.

    Attributes:
        figure: the name of the figure, for `linflow reproduce`.
        title: its title.
        view: the view.
        state: the state of the view.
    """

    figure: str
    title: str
    view: str
    state: dict[str, Any]


def around(signs: tuple[int, ...], degrees: tuple[float, ...], length: float = 1.0) -> dict[str, list[float]]:
    """Return neurons of one length in some directions."""
    a = [round(length * math.cos(math.radians(x)), 3) for x in degrees]
    b = [round(length * math.sin(math.radians(x)), 3) for x in degrees]
    return {"a": a, "b": b, "signs": list(signs)}


PAIRED = {
    "x": [1.2, -0.5],
    "y": [0.6, 1.3],
    "labels": [1, -1],
    **around((1, -1) * 4, (15, 15, 105, 105, 195, 195, 285, 285), 1.5),
    "size": 1.0,
    "loss": "squared",
    "at": 0.0,
}
"""A large paired start of a regression: its first output is 0, and its rate is certified before the run."""

FIGURES: tuple[Preset, ...] = (
    Preset("phase_plane", "The phase plane of two scalar weights", "two_weights", {"u": 2.0, "v": -1.0, "s": 2.0}),
    Preset("symmetry", "A symmetry and its conservation law", "two_weights", {"u": 1.9, "v": 0.1, "s": 1.0}),
    Preset(
        "verified_runs",
        "Guaranteed before the run, proved by computation, observed",
        "two_weights",
        {"u": 0.6, "v": 0.3, "s": 1.5},
    ),
    Preset(  # n = m = 3, all modes alike, D = 2I
        "one_and_two_layers",
        "One layer against two",
        "two_layers",
        {"n": 3, "m": 3, "eigenvalues": [2.0, 2.0, 2.0, 0.0, 0.0, 0.0], "targets": [1.0] * 3, "part": 0.01},
    ),
    Preset(  # the first draw of n = 4, h = 12, m = 2
        "spectrum",
        "The spectrum of the imbalance",
        "two_layers",
        {
            "n": 4,
            "m": 2,
            "eigenvalues": [1.2944, 0.9672, 0.45, 0.1836, *[0.0] * 6, -0.8385, -1.1348],
            "targets": [1.0, 0.5],
            "part": 0.0,
        },
    ),
    Preset(  # the draw of n = 4, h = 12, m = 2, with the scale of the product in the eigenvalues
        "convergence",
        "Convergence over width",
        "two_layers",
        {
            "n": 4,
            "m": 2,
            "eigenvalues": [1.49412, 0.80492, 0.51766, 0.33785, *[0.0] * 6, -0.79409, -1.24076],
            "targets": [0.3, 0.2],
            "part": 0.0,
        },
    ),
    Preset(  # the start with the norms 1.4 and 0.3
        "init_map",
        "A map of initialisations",
        "two_layers",
        {"n": 2, "m": 2, "eigenvalues": [1.87, 1.87, 0.0, 0.0], "targets": [1.0, 1.0], "part": 0.42},
    ),
    Preset(
        "small_start",
        "Small starts learn one mode after the other",
        "two_layers",
        {"n": 3, "m": 3, "eigenvalues": [0.0] * 6, "targets": [3.0, 1.5, 0.6], "part": 1e-3},
    ),
    Preset(  # squares that are 1.25 apart from the least, and the product 1 at the margin
        "depth",
        "Depth multiplies the imbalance",
        "depth",
        {"layers": [0.614430121924787, 1.2757446353908404, 1.2757446353908404], "s": 2.0},
    ),
    Preset(  # squares in steps of 1.25, and the product 0.3
        "exploding",
        "What depth gives the flow, descent pays back",
        "depth",
        {
            "layers": [1.9384517310334566, 1.583538794455824, 1.1214254828327221, 0.08714994863224998],
            "s": 1.0,
        },
    ),
    Preset(  # a draw of n = h = m = 1: Δ* is the rate of the imbalance alone
        "box_plot",
        "Three wide layers at random",
        "depth",
        {"layers": [-0.6517911526116896, -0.17471729232577715, 1.6637239913911968], "s": 0.1257302210933933},
    ),
    Preset(  # the draw of both widths 1, for Y = −2
        "three_layers",
        "Gradient descent on three layers",
        "depth",
        {"layers": [-0.8019314252534474, -1.324358995628145, -0.24836162209524854], "s": -2.0},
    ),
    Preset(
        "step_sizes",
        "Four rules for the step of gradient descent",
        "descent",
        {"u": 1.5, "v": 1.2, "s": 1.0, "step": 0.13},
    ),
    Preset(
        "two_layer_descent",
        "Descent on two layers of finite width",
        "descent",
        {"u": 2.0, "v": 0.2, "s": 1.0, "step": 0.05},
    ),
    Preset(
        "implicit_bias",
        "Implicit bias: the least-norm solution",
        "least_norm",
        {"x1": 1.5, "x2": 0.8, "target": 1.5, "width": 400, "exponent": 0.5, "seed": 0},
    ),
    Preset("relu", "Certified rates of two-layer ReLU networks", "neurons", PAIRED),
)
"""In the order of the page."""
