"""ReLU networks: what is certified before the run against what the run shows, over width and output scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import relu
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.plots import COLOURS, figure

SHADES = ("blue", "vermillion", "green", "orange")
UNTIL = 1e-4
"""The fraction of the initial loss at which a run ends."""


@dataclass(frozen=True)
class ReluSettings(Settings):
    """The data, and the networks of the grid."""

    n: int = setting(8, "the samples")
    d: int = setting(16, "the inputs")
    width: tuple[int, ...] = setting((50, 200, 800), "the widths, even", least=2)
    alpha: tuple[float, ...] = setting((0.3, 0.8, 2.0, 5.0), "the norms of the rows of V")
    seeds: int = setting(2, "the draws of each network")


@dataclass(frozen=True)
class ReluData:
    """Certificates and runs, with the axes width, α and draw.

    Attributes:
        settings: The settings.
        certified: The certified rates, 0 where there is none.
        observed: The least rate of each run.
        slack: The least ratio of the observed to the guaranteed rate of each run, inf where none is guaranteed.
        flips: The pairs of a sample and a neuron that flipped.
        forbidden: How many of them the certificate excludes.
        shown: The run of the middle width and the first certified α, with its certificate.
    """

    settings: ReluSettings
    certified: np.ndarray
    observed: np.ndarray
    slack: np.ndarray
    flips: np.ndarray
    forbidden: np.ndarray
    shown: tuple[relu.Trajectory, relu.Certificate] | None

    @property
    def share(self) -> np.ndarray:
        """The certified over the observed rate: medians over the draws."""
        return np.median(self.certified / self.observed, axis=2)


def compute(s: ReluSettings, seed: int, progress: Progress) -> ReluData:
    """Certify and run every network of the grid; all of one draw have the same data."""
    shape = len(s.width), len(s.alpha), s.seeds
    certified, observed, slack = (np.zeros(shape) for _ in range(3))
    flips, forbidden = np.zeros(shape, dtype=int), np.zeros(shape, dtype=int)
    shown = None
    for k, (i, j, draw) in enumerate(np.ndindex(shape)):
        progress(k / certified.size, f"width {s.width[i]}, α = {s.alpha[j]:g}")
        rng = np.random.default_rng((seed, draw))
        X, Y = rng.standard_normal((s.n, s.d)) / np.sqrt(s.d), rng.standard_normal(s.n)
        net = relu.paired((s.d, 2 * (s.width[i] // 2), 1), s.alpha[j], rng=rng)
        cert, run = relu.certify(X, Y, net), relu.gradient_flow(X, Y, net, until=UNTIL)
        certified[i, j, draw], observed[i, j, draw] = cert.rate, run.rate.min()
        slack[i, j, draw] = cert.check(run).worst_slack
        moved = {(f.sample, f.neuron) for f in run.flips}
        flips[i, j, draw] = len(moved)
        forbidden[i, j, draw] = sum(not cert.may_flip[pair] for pair in moved)
        if shown is None and cert.rate > 0 and i == len(s.width) // 2:
            shown = run, cert
    return ReluData(s, certified, observed, slack, flips, forbidden, shown)


def claims(data: ReluData) -> Iterable[Claim | LeftOut]:
    """State that certificates hold, and where they are close."""
    s, proved = data.settings, data.certified > 0
    yield Claim.within("Observed over guaranteed rate, at its least on each run", data.slack[proved], low=1.0)
    yield Claim.within("Flips of pairs that the certificate excludes", data.forbidden, high=0)
    order = np.argsort(s.alpha)
    last = np.median((data.certified / data.observed)[:, order[-1]], axis=1)
    paper = [
        Claim.within("With the largest α, certified over observed rate, by width", last, low=0.75),
        Claim.within("Pairs that flipped in certified runs", int(data.flips[proved].sum()), low=1),
        Claim.within(
            "A wider network has no fewer certified starts: difference",
            np.diff(proved.sum(axis=(1, 2))[np.argsort(s.width)]),
            low=0,
        ),
    ]
    yield from about_these(s.changes(), paper)


def draw(data: ReluData) -> Any:
    """Draw the certified part of the observed rate, and the loss of one run below its bound."""
    s = data.settings
    fig, axes = figure(7.0, 3.0, ncols=2)
    order = np.argsort(s.alpha)
    for i, h in enumerate(s.width):
        colour = COLOURS[SHADES[i % len(SHADES)]]
        axes[0].semilogx(np.array(s.alpha)[order], data.share[i, order], "o-", color=colour, label=f"$h={h}$")
    axes[0].set_xticks(s.alpha, [f"{alpha:g}" for alpha in s.alpha])
    axes[0].minorticks_off()
    axes[0].set(ylim=(-0.03, 1.03), xlabel=r"$\Vert v_j\Vert$", ylabel="certified / observed rate")
    axes[0].set_title("How much of the rate is certified")
    axes[0].legend(loc="lower right")
    if data.shown is not None:
        run, cert = data.shown
        t = np.linspace(0.0, run.t[-1], 200)
        axes[1].semilogy(run.t, run.gap, color=COLOURS["blue"], label="loss")
        axes[1].semilogy(t, cert.gap_at(t), "--", color=COLOURS["vermillion"], label="guaranteed before the run")
        at = np.array([f.t for f in run.flips])
        if at.size:
            axes[1].plot(at, np.interp(at, run.t, run.gap), "|", color=COLOURS["black"], markersize=9, label="a flip")
        axes[1].legend(loc="lower left")
    axes[1].set(xlabel="$t$", ylabel="$L$")
    axes[1].set_title("One certified run")
    return fig


def tables(data: ReluData) -> list[Table]:
    """Certified and observed rates, a row for each network."""
    s = data.settings
    rows = [
        (
            h,
            alpha,
            int((data.certified[i, j] > 0).sum()),
            float(np.median(data.certified[i, j])),
            float(np.median(data.observed[i, j])),
            int(data.flips[i, j].sum()),
        )
        for i, h in enumerate(s.width)
        for j, alpha in enumerate(s.alpha)
    ]
    heads = ["width", "α", f"certified of {s.seeds}", "certified rate", "observed rate", "flips"]
    return [Table("ReLU networks, medians", heads, rows)]


def numbers(data: ReluData) -> dict[str, Any]:
    """Rates and flips on the grid."""
    s = data.settings
    return {
        "width": s.width,
        "alpha": s.alpha,
        "certified": data.certified,
        "observed": data.observed,
        "flips": data.flips,
    }


def setup(data: ReluData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Data": f"{s.n} samples of {s.d} inputs, entries N(0, 1/{s.d}); targets N(0, 1)",
        "Start": "neurons in pairs, u ~ N(0, I), v = ±α: the output is 0",
        "Runs": f"the gradient flow of ½‖z − y‖², to {number(UNTIL)} of the initial loss; its least rate is observed",
    }


experiment = PaperFigure(
    "relu",
    "Certified rates of two-layer ReLU networks",
    "A certificate made before the run bounds how far every neuron can move, and so which pre-activations keep their "
    "sign. The rate that follows is compared with that of the gradient flow, over the width and the size of the "
    "second layer. Neurons do flip in certified runs; only pairs that the certificate allows do.",
    "linflow, docs/relu.md",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=ReluSettings,
)
