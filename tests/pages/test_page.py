"""Drawings in pages take the colours of the dark theme where a page is dark."""

import re

import numpy as np
import pytest

import linflow as lf
from linflow import plots
from linflow.pages.templating import dark_colours, environment, recoloured, svg
from linflow.plots.themes import THEMES

LIGHT, DARK = THEMES["light"], THEMES["dark"]


def test_every_colour_of_the_light_theme_is_that_of_the_dark_one():
    pairs = {LIGHT.ink: DARK.ink, LIGHT.paper: DARK.paper, LIGHT.muted: DARK.muted}
    for name, colour in LIGHT.colours.items():
        pairs |= {colour: DARK.colours[name], LIGHT.text(colour): DARK.text(DARK.colours[name])}
    for light, dark in pairs.items():
        assert dark_colours()[light.lower()] == dark.lower()
    known = {colour.lower() for colour in pairs}
    greys = [f"#{x:02x}{x:02x}{x:02x}" for x in range(0x22, 256)]
    shades = [int(dark_colours()[grey][1:3], 16) for grey in greys if grey not in known]
    assert shades == sorted(shades, reverse=True)  # what is nearer to the ink stays so


def test_a_drawing_has_both_colours_and_those_of_images_alone_stay():
    assert recoloured('style="fill: #222222; opacity: 0.5"') == (
        'style="fill: #222222; fill: light-dark(#222222, #e6e6e6); opacity: 0.5"'
    )
    assert recoloured("stroke:#0072B2") == "stroke:#0072B2; stroke: light-dark(#0072b2, #4c9fe0)"
    assert recoloured("fill: none; stroke: #123456") == "fill: none; stroke: #123456"


@pytest.mark.parametrize("name", ["convergence", "rate", "imbalance_spectrum", "phase_plane"])
def test_no_colour_of_a_drawing_is_without_its_other(name):
    if name == "phase_plane":
        ax = plots.phase_plane(lf.MatrixFactorization([[2.0]]))
    else:
        f, net = lf.MatrixFactorization(np.diag([2.0, 1.0])), lf.init.ntk((2, 6, 2), rng=0)
        run = lf.gradient_flow(f, net, until=1e-3)
        draw = {"convergence": plots.convergence, "rate": plots.rate}.get(name)
        ax = plots.imbalance_spectrum(net, layer=1) if draw is None else draw(run, lf.certify(f, net))
    drawing = str(svg(ax, "x"))
    colours = re.findall(r"(?:fill|stroke): ?(#\w{6})", drawing)
    assert colours
    assert len(colours) == drawing.count("light-dark(")


def test_the_card_of_a_drawing_is_dark_only_where_the_drawing_is():
    style = environment().get_template("_style.html.j2").render()
    can = style.index("@supports (color: light-dark(")
    assert style.index("@media screen", can) < style.index(f"--card: {DARK.paper};", can)
    assert f"fill: {DARK.ink};" in style[can:]
