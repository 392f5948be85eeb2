"""The spectrum of the imbalance of a random start: how width opens the gap and closes the spreads."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow import init
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table
from linflow.geometry.imbalance import imbalance_matrices, imbalance_spectrum
from linflow.model.network import Network
from linflow.model.spectrum import ImbalanceSpectrum
from linflow.plots import figure
from linflow.plots import imbalance_spectrum as draw_spectrum

N, M, WIDTHS, DRAWS = 20, 10, (50, 1000), 20
# Limits around what the talk shows, 2.4 / 0.55 and 0.3 / 1.6: a fifth, or the scatter of one draw, to either side.
TALK = {50: ((2.4, 0.5), (0.3, 0.15)), 1000: ((0.55, 0.12), (1.6, 0.15))}


def _start(h: int, rng: np.random.Generator) -> Network:
    """N(0, 1/h) entries in both layers."""
    return init.gaussian((N, h, M), h**-0.5, rng=rng)


def _signs(spectrum: ImbalanceSpectrum) -> tuple[int, int]:
    size = 1e-12 * float(np.abs(spectrum.eigenvalues).max())
    return int((spectrum.eigenvalues > size).sum()), int((spectrum.eigenvalues < -size).sum())


def _axis_claim(drawn: ImbalanceSpectrum, net: Network) -> Claim:
    """Claim that the drawn eigenvalues, spreads and gap are those of the full h×h matrix of the drawn start."""
    full = np.linalg.eigvalsh(imbalance_matrices(net)[0])[::-1]
    named = [*full[:N], *full[-M:], full[0] - full[N - 1], full[-M] - full[-1], full[N - 1] - full[-M]]
    values = np.asarray(drawn.eigenvalues)
    shown = [*values[:N], *values[-M:], drawn.positive_spread, drawn.negative_spread, drawn.spectral_gap]
    text = f"At h = {net.widths[1]} eigenvalues, spreads and gap drawn are those of `imbalance_matrices`, to rounding"
    size = float(np.abs(full).max())
    return Claim.within(f"{text} of the largest", float(np.abs(np.subtract(shown, named)).max()) / size, 0, 1e-13)


def _run(seed: int, progress: Progress) -> Outcome:
    rng = np.random.default_rng(seed)
    draws: dict[int, list[ImbalanceSpectrum]] = {}
    shown: dict[int, Network] = {}
    for i, h in enumerate(WIDTHS):
        nets = [_start(h, rng) for _ in range(DRAWS)]
        draws[h], shown[h] = list(map(imbalance_spectrum, nets)), nets[0]
        progress((i + 0.5) / len(WIDTHS), f"width {h}")
    first = {h: spectra[0] for h, spectra in draws.items()}

    def mean(h: int, name: str) -> float:
        return float(np.mean([getattr(s, name) for s in draws[h]]))

    claims = []
    for h in WIDTHS:
        signs = [_signs(s) for s in draws[h]]
        claims.append(
            Claim(
                f"At h = {h}, D has n = {N} positive and m = {M} negative eigenvalues; the rest are zero",
                " or ".join(f"{plus} and {minus}" for plus, minus in sorted(set(signs))) + f" in {DRAWS} draws",
                all(s == (N, M) for s in signs),
                tuple(float(x) for s in signs for x in s),
            )
        )
        (spread, off_spread), (gap, off_gap) = TALK[h]
        for text, name, about, off in (
            (f"At h = {h} the positive spread is about {spread}", "positive_spread", spread, off_spread),
            (f"At h = {h} the gap is about {gap}", "spectral_gap", gap, off_gap),
        ):
            claims.append(Claim.within(f"{text}, on average", mean(h, name), about - off, about + off))
    narrow, wide = WIDTHS
    claims += [
        Claim.all_below(
            "Width opens the gap",
            [s.spectral_gap for s in draws[narrow]],
            min(s.spectral_gap for s in draws[wide]),
        ),
        Claim.all_below(
            "Width closes the positive spread",
            [s.positive_spread for s in draws[wide]],
            min(s.positive_spread for s in draws[narrow]),
        ),
        *(_axis_claim(first[h], shown[h]) for h in WIDTHS),
    ]

    def draw() -> Any:
        fig, axes = figure(7.2, 3.2, ncols=2, sharey=True)
        for ax, h in zip(axes, WIDTHS, strict=True):
            draw_spectrum(first[h], N, M, ax)
            ax.set_title(f"$h = {h}$")
        axes[1].set_ylabel("")
        return fig

    names = ("positive_spread", "negative_spread", "spectral_gap")
    return Outcome(
        claims,
        draw,
        {
            str(h): {
                "eigenvalues": np.concatenate([s.eigenvalues[:N], s.eigenvalues[-M:]]),
                **{name: [getattr(d, name) for d in draws[h]] for name in names},
                "gap": [d.spectral_gap for d in draws[h]],  # its old name
            }
            for h, s in first.items()
        },
        {
            "Product": f"n = {N}, m = {M}",
            "Widths": ", ".join(map(str, WIDTHS)),
            "Start": "independent N(0, 1/h) entries",
            "Draws": f"{DRAWS} a width; the first is drawn",
        },
        [
            Table(
                f"Spreads and gap, mean of {DRAWS} draws",
                ["h", "positive spread", "negative spread", "gap"],
                [(h, *(mean(h, name) for name in names)) for h in WIDTHS],
            )
        ],
    )


experiment = PaperFigure(
    "spectrum",
    "The spectrum of the imbalance",
    "The imbalance D = W₁ᵀW₁ − W₂W₂ᵀ never changes along the flow, and its spectrum fixes the rate. For a random "
    "start it has n positive and m negative eigenvalues. The gap Δ between the two groups helps, the spreads Δ₊ and "
    "Δ₋ within them hurt. With width the gap opens and the spreads close: a wide random start is strongly and evenly "
    "imbalanced, which is why it trains fast.",
    "Talk; Min, Tarmoun, Vidal & Mallada 2021 (arXiv 2105.06351)",
    _run,
)
