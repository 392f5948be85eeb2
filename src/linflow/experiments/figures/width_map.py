"""Which widths and depths descent succeeds at from a Gaussian start, and the width that is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from linflow.dynamics import gradient_descent
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.model.network import Network
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, figure

SLACK = 3.0
"""A run succeeds if it needs at most SLACK times the steps of the limit of infinite width."""


@dataclass(frozen=True)
class WidthMapSettings(Settings):
    """Widths, depths, data and how many draws."""

    h: tuple[int, ...] = setting((4, 8, 16, 32, 64, 128), "the hidden widths")
    depth: tuple[int, ...] = setting((2, 4, 8, 16), "the depths", least=2)
    n: int = setting(4, "the inputs")
    m: int = setting(2, "the outputs")
    kappa: float = setting(2.0, "κ, the condition number of XᵀX")
    until: float = setting(1e-3, "the fraction of the initial loss gap to reach")
    seeds: int = setting(10, "the draws of each width and depth")


@dataclass(frozen=True)
class WidthMapData:
    """The number of steps of each draw, by depth and width; infinite where the limit was passed."""

    settings: WidthMapSettings
    steps: np.ndarray

    @property
    def wide(self) -> float:
        """The steps at infinite width: there `T = (L/m) I`, and each step of `m/(3Lσ_max²)` keeps `1 − 1/(3κ)`."""
        s = self.settings
        return math.log(s.until) / (2 * math.log1p(-1 / (3 * s.kappa)))

    @property
    def share(self) -> np.ndarray:
        """The share of draws that succeed, by depth and width."""
        return np.mean(self.steps <= SLACK * self.wide, axis=2)

    def asked(self) -> np.ndarray:
        """The width asked at each depth, `L r κ³ m`, with its constant taken as 1."""
        s = self.settings
        return np.array([L * s.n * s.kappa**3 * s.m for L in s.depth])


def compute(s: WidthMapSettings, seed: int, progress: Progress) -> WidthMapData:
    """Run descent with the step of the paper from every draw."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((4 * s.n, s.n)))[0]
    X = Q * np.sqrt(np.geomspace(1.0, s.kappa, s.n))
    f = LinearRegression(X, X @ rng.standard_normal((s.n, s.m)))
    found = np.full((len(s.depth), len(s.h), s.seeds), math.inf)
    most = math.ceil(SLACK * WidthMapData(s, found).wide)
    for i, L in enumerate(s.depth):
        for j, h in enumerate(s.h):
            progress((i * len(s.h) + j) / (len(s.h) * len(s.depth)), f"depth {L}, width {h}")
            widths = [s.n, *[h] * (L - 1), s.m]
            for k in range(s.seeds):
                layers = [rng.standard_normal(shape) for shape in pairwise(widths)]
                net = Network(layers, math.exp(-0.5 * ((L - 1) * math.log(h) + math.log(s.m))))
                eta = s.m / (3 * L * f.smoothness)
                run = gradient_descent(f, net, step_size=eta, steps=most, until=s.until)
                if run.gap[-1] <= s.until * run.gap[0]:
                    found[i, j, k] = len(run.t) - 1
    return WidthMapData(s, found)


def claims(data: WidthMapData) -> Iterable[Claim | LeftOut]:
    """State where descent succeeds."""
    s, share, asked = data.settings, data.share, data.asked()
    order, deep = np.argsort(s.h), np.argsort(s.depth)
    share = share[np.ix_(deep, order)]
    wide = [share[i, j] for i, L in enumerate(np.sort(s.depth)) for j, h in enumerate(np.sort(s.h))
            if h >= dict(zip(s.depth, asked, strict=True))[L]]  # fmt: skip
    text = "At widths of L r κ³ m and more every draw succeeds: share of draws"
    if wide:
        yield Claim.within(text, wide, 1.0)
    else:
        yield LeftOut(text, "no width is as large")
    first = [float(np.sort(s.h)[np.argmax(row >= 0.9)]) if (row >= 0.9).any() else math.inf for row in share]
    paper = [
        Claim.within("Wider layers succeed more often, within a fifth: least change", np.diff(share, axis=1), -0.2),
        Claim(
            "The least width at which nine of ten draws succeed grows with depth",
            ", ".join(number(h) for h in first),
            bool((np.diff(first) >= 0).all() and first[-1] > first[0]),
        ),
        Claim.within("It is far below L r κ³ m: ratio", np.array(first) / asked[deep], high=0.5),
        Claim.within("The narrowest layers fail at the greatest depth: share", share[-1, 0], high=0.5),
    ]
    yield from about_these(s.changes(), paper)


def draw(data: WidthMapData) -> Any:
    """Draw the share of draws that succeed, with the asked width, and the median number of steps."""
    s = data.settings
    order, deep = np.argsort(s.h), np.argsort(s.depth)
    widths, depths = np.sort(s.h), np.sort(s.depth)
    fig, axes = figure(7.0, 3.0, ncols=2)
    mesh = axes[0].pcolormesh(_edges(widths), _edges(depths), data.share[np.ix_(deep, order)], vmin=0, vmax=1,
                              cmap="cividis")  # fmt: skip
    axes[0].plot(data.asked()[deep], depths, "--", color=COLOURS["vermillion"], label=r"$h = L\,r\,\kappa^3 m$")
    axes[0].set(xlim=(_edges(widths)[0], max(_edges(widths)[-1], 1.3 * data.asked().max())))
    axes[0].set(xscale="log", yscale="log", ylim=_edges(depths)[[0, -1]], xlabel="width $h$", ylabel="depth $L$")
    axes[0].set_yticks(depths, [str(L) for L in depths])
    axes[0].set_yticks([], minor=True)
    axes[0].set_title("Share of draws that succeed")
    axes[0].legend(loc="lower right")
    fig.colorbar(mesh, ax=axes[0])
    for i, name in zip(deep, ("blue", "green", "orange", "vermillion", "purple", "black") * 4, strict=False):
        median = np.median(data.steps[i][order], axis=1)
        axes[1].semilogx(widths, np.where(np.isfinite(median), median, np.nan), "o-", markersize=3,
                         color=COLOURS[name], label=f"$L={s.depth[i]}$")  # fmt: skip
    axes[1].axhline(data.wide, color=COLOURS["black"], linewidth=0.7, linestyle=":")
    axes[1].set(xlabel="width $h$", ylabel="steps, median", title="Dotted: infinite width")
    axes[1].legend(loc="upper right")
    return fig


def _edges(x: np.ndarray) -> np.ndarray:
    """Return cell edges between points on a logarithmic axis."""
    logs = np.log(x)
    if len(logs) == 1:
        return np.exp([logs[0] - 0.5, logs[0] + 0.5])
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middle[0]], middle, [2 * logs[-1] - middle[-1]]]))


def tables(data: WidthMapData) -> list[Table]:
    """The share of draws that succeed, a row for each depth."""
    s = data.settings
    rows = [
        (L, asked, *row) for L, asked, row in zip(s.depth, data.asked().tolist(), data.share.tolist(), strict=True)
    ]
    return [Table("Share of draws that succeed", ["L", "L r κ³ m", *(f"h = {h}" for h in s.h)], rows)]


def numbers(data: WidthMapData) -> dict[str, Any]:
    """Shares and asked widths; steps of a draw that fails are −1."""
    s = data.settings
    steps = np.where(np.isfinite(data.steps), data.steps, -1)
    return {"depth": s.depth, "h": s.h, "share": data.share, "asked": data.asked(), "steps": steps}


def setup(data: WidthMapData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": f"½‖Y − XW‖², {s.n} inputs, {s.m} outputs, κ = {number(s.kappa)}, no noise",
        "Starts": f"N(0, 1) entries, the product over √(h^{{L−1}} m), {s.seeds} draws of each width and depth",
        "Descent": f"η = m/(3Lσ_max²(X)) of the paper, to {number(s.until)} of the initial loss gap",
        "Success": f"at most {number(SLACK)} times the steps of infinite width, {number(data.wide)}",
    }


experiment = PaperFigure(
    "width_map",
    "Deeper networks ask for more width",
    "Descent from a Gaussian start with the step of the paper, over width and depth. If the width grows in "
    "proportion to the depth, descent succeeds as if the width were infinite; narrow deep networks fail. The width "
    "that the theorem asks for, of order L r κ³ m, is drawn with its unnamed constant taken as 1.",
    "Du & Hu 2019",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=WidthMapSettings,
    paper="Du & Hu 2019",
)
