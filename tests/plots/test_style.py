"""The style of the figures: themes, sizes, axes made and given, and files."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from linflow import plots
from linflow._support import paths
from tests.waiting import PATIENCE

# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(colour):
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        rgb, 0, 1
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a, b):
    light = sorted(float(linear(c) @ (0.2126, 0.7152, 0.0722)) for c in (a, b))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("name", plots.THEMES)
def test_colours_differ_for_every_eye(name, kind):
    theme = plots.THEMES[name]
    seen = [lab(BLINDNESS[kind] @ linear(colour)) for colour in theme.cycle[:6]]
    # A difference of 10 in CIELAB is seen at a glance; 2 is just noticeable. Markers and dashes tell the rest.
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 10


@pytest.mark.parametrize("name", plots.THEMES)
def test_text_is_readable(name):
    theme = plots.THEMES[name]
    assert contrast(theme.ink, theme.paper) > 7
    # WCAG 2.1 asks 7 of text at its best and 4.5 of any; curves, which are larger, are also marked and named.
    assert min(contrast(theme.text(colour), theme.paper) for colour in theme.cycle) > 4.5
    assert min(contrast(colour, theme.paper) for colour in theme.cycle) > 2


def test_themes_name_the_same_colours():
    assert set(plots.THEMES["dark"].colours) == set(plots.COLOURS) == set(plots.THEMES["light"].colours)


@pytest.mark.parametrize(("width", "inches", "label"), [("column", 3.4, 8), ("text", 6.9, 8), (5.0, 5.0, 10)])
def test_sizes(width, inches, label):
    fig, ax = plots.figure(width, aspect=0.8)
    assert tuple(fig.get_size_inches()) == pytest.approx((inches, 0.8 * inches))
    assert ax.xaxis.label.get_fontsize() == label
    ax.plot([1, 2], [1, 2])
    fig.draw_without_rendering()
    assert {text.get_fontsize() for text in (*ax.get_xticklabels(), *ax.get_yticklabels())} == {label - 1}


def test_ticks_made_later_keep_the_style(monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "xtick.labelsize", 33.0)
    monkeypatch.setitem(matplotlib.rcParams, "font.family", ["DejaVu Sans Mono"])
    _, ax = plots.figure("column", theme="dark")
    ax.set(xscale="log", xlim=(1e-3, 1e3))
    label = ax.get_xticklabels()[-1]
    assert (label.get_fontsize(), label.get_fontfamily()[0]) == (7, "STIXGeneral")
    assert label.get_color() == plots.THEMES["dark"].ink


def test_style_of_a_theme_leaves_no_trace():
    before = dict(matplotlib.rcParams)
    with plots.style("dark", 8):
        assert matplotlib.rcParams["axes.facecolor"] == plots.THEMES["dark"].paper
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["xtick.labelsize"]) == (8, 7)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: plots.figure("page"), ValueError, "'column', 'text'"),
        (lambda: plots.figure(-1.0), ValueError, "positive"),
        (lambda: plots.figure(theme="sepia"), ValueError, "'light', 'dark'"),
        (lambda: plots.style("sepia").__enter__(), ValueError, "'light', 'dark'"),
        (lambda: plots.bound_against_truth([1.0], [1.0], ax=Figure()), TypeError, "ax is a Figure; Axes are needed"),
        (lambda: plots.bound_against_truth([1.0], [1.0], theme="sepia"), ValueError, "'light', 'dark'"),
    ],
)
def test_errors_say_what_is_needed(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_given_axes_keep_their_theme_and_fonts():
    _, dark = plots.figure("column", theme="dark")
    ax = plots.bound_against_truth([3.0], [1.0], ax=dark)
    assert ax is dark
    diagonal = next(line for line in ax.lines if line.get_label() == "_diagonal")
    assert diagonal.get_color() == plots.THEMES["dark"].ink
    foreign = Figure(facecolor="white").subplots()
    foreign.xaxis.label.set(fontsize=14, fontfamily="DejaVu Serif")
    foreign.patch.set_alpha(0)
    (note,) = plots.bound_against_truth([3.0], [1.0], ax=foreign).texts
    assert (note.get_fontsize(), note.get_fontfamily()) == (13, ["DejaVu Serif"])
    assert foreign.figure.get_facecolor() == (1, 1, 1, 1)


def test_a_named_theme_dresses_given_axes():
    ax = Figure().subplots()
    plots.bound_against_truth([0.5], [1.0], ax=ax, theme="dark")
    theme = plots.THEMES["dark"]
    assert ax.get_facecolor()[:3] == ax.figure.get_facecolor()[:3] == to_rgb(theme.paper)
    assert ax.xaxis.label.get_color() == ax.get_xticklabels()[0].get_color() == theme.ink


def test_pyplot_is_never_imported():
    code = (
        "import sys, numpy as np, linflow as lf\n"
        "f = lf.MatrixFactorization(np.eye(2)); net = lf.init.gaussian((2, 9, 2), rng=0)\n"
        "run = lf.gradient_flow(f, net, until=1e-3); lf.plots.convergence(run, lf.certify(f, net))\n"
        "lf.plots.imbalance_spectrum(net); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


# ---------------------------------------------------------------- files


def drawn(theme="light", count=50):
    truth = np.geomspace(1e-3, 1, count)
    ax = plots.bound_against_truth(truth * np.linspace(0.1, 0.99, count), truth, theme=theme)
    ax.set_title(r"$\lambda_{\min}(T)$ and $\ell$")
    return ax


def test_pdf_embeds_truetype_and_is_reproducible(tmp_path):
    ax = drawn()
    with matplotlib.rc_context({"pdf.fonttype": 3, "pdf.compression": 0}):
        first = plots.save(ax, tmp_path / "a.pdf", title="Bounds").read_bytes()
        assert plots.save(ax.figure, str(tmp_path / "b.PDF"), title="Bounds").read_bytes() == first
        assert matplotlib.rcParams["pdf.fonttype"] == 3
    assert b"/FontFile2" in first and b"/CIDFontType2" in first
    assert b"/Type3" not in first
    assert b"/Title (Bounds)" in first and b"linflow" in first and b"/CreationDate" not in first
    assert len(first) < 200_000


def test_thousands_of_points_stay_small(tmp_path):
    assert plots.save(drawn(count=20_000), tmp_path / "many.svg").stat().st_size < 200_000


def test_svg_text_is_editable_or_outlines(tmp_path):
    ax = drawn()
    text = plots.save(ax, tmp_path / "a.svg").read_text()
    assert ">true value<" in text and "<dc:date>" not in text
    assert ">true value<" not in plots.save(ax, tmp_path / "a.svg", editable=False).read_text()


def test_png_has_the_colour_of_the_theme(tmp_path):
    path = plots.save(drawn("dark"), tmp_path / "a.png", dpi=50)
    pixel = matplotlib.image.imread(path)[0, 0, :3]
    assert pixel == pytest.approx(to_rgb(plots.THEMES["dark"].paper), abs=1 / 255)  # eight bits a channel


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = plots.save(drawn(), tmp_path / "a.png", dpi=30)
    before = path.read_bytes()

    def half(temporary, flags):
        os.truncate(temporary, temporary.stat().st_size // 2)
        raise OSError("disk full")

    monkeypatch.setattr(paths, "_sync", half)
    with pytest.raises(OSError, match="disk full"):
        plots.save(drawn(), path, dpi=40)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("thing", "name", "error", "text"),
    [
        ("nothing", "a.pdf", TypeError, "figure is a str; a Figure"),
        (None, "a.bmp", ValueError, "ends in .pdf, .svg or .png"),
        (None, "missing/a.pdf", FileNotFoundError, "create it first"),
    ],
)
def test_save_says_what_is_needed(thing, name, error, text, tmp_path):
    with pytest.raises(error, match=re.escape(text)):
        plots.save(drawn() if thing is None else thing, tmp_path / name)


# ---------------------------------------------------------------- the guide


def test_the_images_and_functions_of_the_guide_exist():
    path = Path(__file__).parents[2] / "docs" / "plots.md"
    text = path.read_text(encoding="utf-8")
    images = re.findall(r"\]\((images/[^)]+)\)", text)
    assert len(images) == 2 and all((path.parent / name).stat().st_size < 100_000 for name in images)
    assert all(hasattr(plots, name) for name in re.findall(r"^\| `(\w+)\(", text, re.MULTILINE))
