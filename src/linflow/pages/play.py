"""A page to play with: two weights and scalar chains in closed form, without a server and without a network."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from linflow._support.paths import write_whole
from linflow._support.version import __version__
from linflow.pages.presets import ALONE, FIGURES, PAIRED, around
from linflow.pages.templating import environment

TWO = (
    ("imbalanced", {"u": 2.0, "v": 0.1, "s": 1.0}),
    ("balanced, near the target", {"u": 0.8, "v": 0.8, "s": 1.0}),
    ("small", {"u": 0.05, "v": 0.04, "s": 1.0}),
    ("wrong sign", {"u": 1.2, "v": -0.8, "s": 1.0}),
    ("ends at the saddle", {"u": 1.0, "v": -1.0, "s": 1.0}),
)
"""Starts of two weights, as in the phase plane of the talk."""

DEEP = (
    ("balanced", {"layers": [0.9, 0.9, 0.9], "s": 1.0}),
    ("one layer larger", {"layers": [1.8, 0.7, 0.7], "s": 1.0}),
    ("one layer smaller", {"layers": [1.5, 0.2, 1.5], "s": 1.0}),
    ("all differ", {"layers": [1.7, 1.2, 0.8, 0.3], "s": 1.0}),
    ("deep", {"layers": [1.3, 1.2, 1.1, 1.0, 0.9, 0.8], "s": 1.0}),
)
"""Starts of chains of scalars."""


LAYERS = (
    ("imbalanced", {"n": 2, "m": 2, "eigenvalues": [2.0, 0.5, 0.0, -1.0], "targets": [1.0, 0.5], "part": 0.6}),
    (
        "no margin, spectral gap",
        {"n": 3, "m": 1, "eigenvalues": [3.0, 2.0, 1.5, 0.0, -1.0], "targets": [1.0], "part": 0.0},
    ),
    ("balanced", {"n": 2, "m": 2, "eigenvalues": [0.0, 0.0], "targets": [1.0, 0.9], "part": 0.8}),
    ("wide", {"n": 2, "m": 1, "eigenvalues": [4.0, 3.0, 0.0, 0.0, 0.0, 0.0, -3.5], "targets": [1.0], "part": 0.1}),
)
"""Starts of two layers."""

AROUND = around((1, -1, 1, -1, 1, -1, 1, -1), (15, 65, 110, 150, 195, 245, 290, 335))
SAMPLES = {"x": [1.6, 1.0, -1.4, -0.3], "y": [0.5, 1.5, -0.7, -1.6], "labels": [1, 1, -1, -1]}
NEURONS = (
    ("small start", {**SAMPLES, **AROUND, "size": 1e-3, "loss": "exponential", "at": 0.4}),
    ("tiny start", {**SAMPLES, **AROUND, "size": 1e-6, "loss": "exponential", "at": 0.4}),
    ("large start", {**SAMPLES, **AROUND, "size": 0.7, "loss": "exponential", "at": 0.4}),
    (
        "no correlation",
        {**SAMPLES, "x": [1.6, -1.0, -1.4, 0.9], **AROUND, "size": 1e-3, "loss": "exponential", "at": 0.4},
    ),
    ("regression, large start", PAIRED),
)
"""Neurons and samples in the plane, with labels."""

SAMPLE = {"x1": 1.5, "x2": 0.8, "target": 1.5, "exponent": 0.5, "seed": 0}
NORMS = (
    ("narrow", {**SAMPLE, "width": 4}),
    ("wide", {**SAMPLE, "width": 1000}),
    ("large entries", {**SAMPLE, "width": 50, "exponent": 0.2}),
)
"""Random starts, one sample."""

PROGRAMS = ("mathematics", "drawing", "address", "play")
"""Files of the page, in the order in which they run."""

SERVED = (*PROGRAMS, "asking", "two_layers", "descent", "turning", "neurons", "least_norm", "explore")
"""Those of the explorer."""


@lru_cache(maxsize=2)
def page(served: bool = False) -> str:
    """Return the page, with its programs and its style inside; `served` adds the views of the explorer."""
    folder = files("linflow.pages") / "templates" / "play"
    names = SERVED if served else PROGRAMS
    programs = [Markup((folder / f"{name}.js").read_text(encoding="utf-8")) for name in names]  # of this package
    template = environment().get_template("play.html.j2")
    return template.render(
        two_presets=TWO,
        deep_presets=DEEP,
        layer_presets=LAYERS,
        neuron_presets=NEURONS,
        norm_presets=NORMS,
        figures=[figure for figure in FIGURES if served or figure.view in ALONE],
        version=__version__,
        programs=programs,
        served=served,
    )


def write(path: Path) -> None:
    """Write the page without a server to a file, whole or not at all."""
    write_whole(path, page())
