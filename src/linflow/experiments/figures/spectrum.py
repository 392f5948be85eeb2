"""The spectrum of the imbalance of a random start: how width opens the gap and closes the spreads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._starts import STARTS, start
from linflow.geometry.imbalance import imbalance_matrices, imbalance_spectrum
from linflow.model.network import Network
from linflow.model.spectrum import ImbalanceSpectrum
from linflow.plots import figure
from linflow.plots import imbalance_spectrum as draw_spectrum

# What the talk shows (2.4 / 0.55 and 0.3 / 1.6), with a fifth, or the scatter of one draw, to either side.
TALK = {50: ((2.4, 0.5), (0.3, 0.15)), 1000: ((0.55, 0.12), (1.6, 0.15))}
MEASURES = ("positive_spread", "negative_spread", "spectral_gap")


@dataclass(frozen=True)
class SpectrumSettings(Settings):
    """Sizes, widths, start, and how many draws of each width."""

    n: int = setting(20, "the rows of the product")
    m: int = setting(10, "the columns of the product")
    h: tuple[int, ...] = setting((50, 1000), "the hidden widths")
    start: str = setting("gaussian", "the start", among=STARTS)
    seeds: int = setting(20, "the draws of each width")

    def __post_init__(self) -> None:
        if min(self.h) < self.n + self.m:
            raise ValueError(
                f"h={min(self.h)}: widths of n + m = {self.n + self.m} or more are needed; then D has n "
                "positive and m negative eigenvalues."
            )


@dataclass(frozen=True)
class WidthSpectra:
    """One width: the spectrum of each draw, and the network whose spectrum is drawn."""

    h: int
    draws: list[ImbalanceSpectrum]
    shown: Network

    def mean(self, name: str) -> float:
        """The mean of a spread, or of the gap, over the draws."""
        return float(np.mean(self.all(name)))

    def all(self, name: str) -> list[float]:
        """A spread, or the gap, of each draw."""
        return [getattr(one, name) for one in self.draws]


@dataclass(frozen=True)
class SpectrumData:
    """The spectra of all widths."""

    settings: SpectrumSettings
    widths: list[WidthSpectra]


def compute(s: SpectrumSettings, seed: int, progress: Progress) -> SpectrumData:
    """Draw starts of each width and take the spectra of their imbalances."""
    rng = np.random.default_rng(seed)
    widths = []
    for i, h in enumerate(s.h):
        nets = [start(s.start, (s.n, h, s.m), rng) for _ in range(s.seeds)]
        widths.append(WidthSpectra(h, list(map(imbalance_spectrum, nets)), nets[0]))
        progress((i + 0.5) / len(s.h), f"width {h}")
    return SpectrumData(s, widths)


def claims(data: SpectrumData) -> Iterable[Claim | LeftOut]:
    """State the signs of the eigenvalues, what the talk shows, and what width does."""
    n, m = data.settings.n, data.settings.m
    for one in data.widths:
        yield _signs_claim(one, n, m)
        if one.h in TALK:
            yield from about_these(data.settings.changes("n", "m", "start"), _of_the_talk(one))
    for narrow, wide in pairwise(sorted(data.widths, key=lambda one: one.h)):
        yield from about_these(data.settings.changes("start"), _width_claims(narrow, wide))
    for one in data.widths:
        yield _axis_claim(one, n, m)


def _width_claims(narrow: WidthSpectra, wide: WidthSpectra) -> Iterable[Claim]:
    at = f" from h = {narrow.h} to {wide.h}"
    yield Claim.all_below(f"Width opens the gap{at}", narrow.all("spectral_gap"), min(wide.all("spectral_gap")))
    spreads = wide.all("positive_spread"), min(narrow.all("positive_spread"))
    yield Claim.all_below(f"Width closes the positive spread{at}", *spreads)


def _of_the_talk(one: WidthSpectra) -> Iterable[Claim]:
    for name, (about, off) in zip(("positive_spread", "spectral_gap"), TALK[one.h], strict=True):
        text = f"At h = {one.h} the {name.replace('_', ' ')} is about {about}, on average"
        yield Claim.within(text, one.mean(name), about - off, about + off)


def _signs_claim(one: WidthSpectra, n: int, m: int) -> Claim:
    """Claim that D has n positive and m negative eigenvalues, in every draw."""
    signs = [_signs(spectrum) for spectrum in one.draws]
    return Claim(
        f"At h = {one.h}, D has n = {n} positive and m = {m} negative eigenvalues; the rest are zero",
        " or ".join(f"{plus} and {minus}" for plus, minus in sorted(set(signs))) + f" in {len(signs)} draws",
        all(pair == (n, m) for pair in signs),
        tuple(float(x) for pair in signs for x in pair),
    )


def _signs(spectrum: ImbalanceSpectrum) -> tuple[int, int]:
    size = 1e-12 * float(np.abs(spectrum.eigenvalues).max())
    return int((spectrum.eigenvalues > size).sum()), int((spectrum.eigenvalues < -size).sum())


def _axis_claim(one: WidthSpectra, n: int, m: int) -> Claim:
    """Claim that the drawn eigenvalues, spreads and gap are those of the full h×h matrix of the drawn start."""
    drawn, full = one.draws[0], np.linalg.eigvalsh(imbalance_matrices(one.shown)[0])[::-1]
    named = [*full[:n], *full[-m:], full[0] - full[n - 1], full[-m] - full[-1], full[n - 1] - full[-m]]
    values = np.asarray(drawn.eigenvalues)
    shown = [*values[:n], *values[-m:], drawn.positive_spread, drawn.negative_spread, drawn.spectral_gap]
    text = f"At h = {one.h} eigenvalues, spreads and gap drawn are those of `imbalance_matrices`, to rounding"
    size = float(np.abs(full).max())
    return Claim.within(f"{text} of the largest", float(np.abs(np.subtract(shown, named)).max()) / size, 0, 1e-13)


def draw(data: SpectrumData) -> Any:
    """Draw the spectrum of the first draw of each width."""
    fig, axes = figure(
        7.2 if len(data.widths) < 3 else 3.3 * len(data.widths), 3.2, ncols=len(data.widths), sharey=True
    )
    for ax, one in zip(np.atleast_1d(axes), data.widths, strict=True):
        draw_spectrum(one.draws[0], data.settings.n, data.settings.m, ax)
        ax.set_title(f"$h = {one.h}$")
        if one is not data.widths[0]:
            ax.set_ylabel("")
    return fig


def tables(data: SpectrumData) -> list[Table]:
    """Spreads and gap, a row for each width."""
    rows = [(one.h, *map(one.mean, MEASURES)) for one in data.widths]
    title = f"Spreads and gap, mean of {data.settings.seeds} draws"
    return [Table(title, ["h", *(name.replace("_", " ") for name in MEASURES)], rows)]


def numbers(data: SpectrumData) -> dict[str, Any]:
    """The drawn eigenvalues, and the spreads and the gap of every draw."""
    n, m = data.settings.n, data.settings.m
    found = {}
    for one in data.widths:
        values = one.draws[0].eigenvalues
        found[str(one.h)] = {
            "eigenvalues": np.concatenate([values[:n], values[-m:]]),
            **{name: one.all(name) for name in MEASURES},
            "gap": one.all("spectral_gap"),  # its old name
        }
    return found


def setup(data: SpectrumData) -> dict[str, str]:
    """What was drawn, in words."""
    s = data.settings
    return {
        "Product": f"n = {s.n}, m = {s.m}",
        "Widths": ", ".join(map(str, s.h)),
        "Start": "independent N(0, 1/h) entries" if s.start == "gaussian" else STARTS[s.start][1],
        "Draws": f"{s.seeds} a width; the first is drawn",
    }


experiment = PaperFigure(
    "spectrum",
    "The spectrum of the imbalance",
    "The imbalance D = W₁ᵀW₁ − W₂W₂ᵀ never changes along the flow, and its spectrum fixes the rate. For a random "
    "start it has n positive and m negative eigenvalues. The gap Δ between the two groups helps, the spreads Δ₊ and "
    "Δ₋ within them hurt. With width the gap opens and the spreads close: a wide random start is strongly and evenly "
    "imbalanced, which is why it trains fast.",
    "Talk; Min, Tarmoun, Vidal & Mallada 2021 (arXiv 2105.06351)",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=SpectrumSettings,
    paper="Min, Tarmoun, Vidal & Mallada 2021",
)
