"""Three wide layers at random: the bound Δ* over many draws of three initialisations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from linflow.certificates import certify
from linflow.dynamics import gradient_flow
from linflow.experiments.figures._outcome import Claim, Progress, Table, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._starts import STARTS, start
from linflow.experiments.figures._sweep import (
    Row,
    complete_claim,
    delta_claim,
    delta_star,
    rows_claim,
    rows_of,
    seeds_of,
)
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, bound_against_truth, figure

PALETTE = ("blue", "vermillion", "green", "purple", "orange")
CHECKED = 3
"""Draws of each initialisation at which the axes are checked."""


@dataclass(frozen=True)
class BoxPlotSettings(Settings):
    """Sizes, starts, and how many draws of each."""

    n: int = setting(5, "the rows of Y")
    m: int = setting(1, "the columns of Y")
    h: int = setting(200, "the width of both hidden layers")
    start: tuple[str, ...] = setting(("ntk", "fan_in", "fan_out"), "the starts", among=STARTS)
    seeds: int = setting(100, "the draws of each start")
    until: float = setting(1e-4, "the fraction of the initial loss gap at which a run ends")


@dataclass(frozen=True)
class BoxPlotData:
    """The cells of the sweep, in the order of the starts."""

    settings: BoxPlotSettings
    objective: MatrixFactorization
    seeds: list[int]
    rows: list[Row]

    @property
    def good(self) -> list[Row]:
        """The cells that ran to their end."""
        return [row for row in self.rows if row["status"] == "ok"]

    def of(self, name: str) -> list[Row]:
        """The good cells of one start."""
        return [row for row in self.good if row["init"] == name]

    @property
    def delta(self) -> dict[str, np.ndarray]:
        """Δ* of each draw, by start."""
        return {name: np.array([delta_star(row) for row in self.of(name)]) for name in self.settings.start}

    def column(self, name: str, rows: Iterable[Row] | None = None) -> np.ndarray:
        """One column of these cells, or by default of all good cells."""
        return np.array([row[name] for row in (self.good if rows is None else rows)])

    def network(self, row: Row) -> Network:
        """The start of a cell."""
        s = self.settings
        return start(row["init"], (s.n, s.h, s.h, s.m), row["seed"])


def compute(s: BoxPlotSettings, seed: int, progress: Progress) -> BoxPlotData:
    """Certify and run every draw of every start."""
    target = np.random.default_rng(seed).standard_normal((s.n, s.m))
    seeds = seeds_of(s.seeds, seed)
    grid = {
        "data": {"target": target},
        "start": {"hidden": [s.h, s.h]},
        "flow": {"until": s.until},
        "sweep": {"check": True},
        "grid": {"init": list(s.start), "seeds": seeds},
    }
    return BoxPlotData(s, MatrixFactorization(target), seeds, rows_of(grid, progress))


def claims(data: BoxPlotData) -> Iterable[Claim]:
    """State that Δ* is positive, that the axes show what their labels say, and that every certificate is kept."""
    draws, delta = data.settings.seeds, data.delta
    least = {name: float(values.min(initial=np.inf)) for name, values in delta.items()}
    positive = {name: int((values > 0).sum()) for name, values in delta.items()}
    yield complete_claim(data.rows, "flow")
    yield Claim(
        f"Δ* is positive in each of {draws} draws of each initialisation",
        "; ".join(f"{STARTS[name][0]}: {positive[name]}, least {number(least[name])}" for name in delta),
        all(count == draws for count in positive.values()),
        tuple(least.values()),
    )
    yield from _axis_claims(data)
    promised = data.objective.pl_constant * np.concatenate(list(delta.values()))
    certified, seen = data.column("certified_rate"), data.column("least_rate")
    yield Claim.all_below("γΔ* never exceeds the least observed rate", promised, seen)
    yield Claim.all_below("The certified rate never exceeds the least observed rate", certified, seen)
    yield Claim.all_below("γΔ* never exceeds the certified rate", promised, certified, 1e-12)
    yield rows_claim(data.rows, "Every run keeps its certificate at every recorded time")


def _axis_claims(data: BoxPlotData) -> Iterable[Claim]:
    """Claim that the drawn values are those of the functions they are named after, for a few draws of each start."""
    some = [row for name in data.settings.start for row in data.of(name)[:CHECKED]]
    nets = [data.network(row) for row in some]
    yield delta_claim([delta_star(row) for row in some], nets)
    yield Claim.same(
        "Drawn as certified rates are those of `certify`",
        [row["certified_rate"] for row in some],
        [certify(data.objective, net).rate for net in nets],
        1e-9,  # the rounding of another process
    )
    until = data.settings.until
    yield Claim.same(
        "Drawn as observed rates are the least of `gradient_flow`",
        [row["least_rate"] for row in some],
        [float(gradient_flow(data.objective, net, until=until).rate.min()) for net in nets],
        1e-6,  # the error of the integration
    )


def draw(data: BoxPlotData) -> Any:
    """Draw the spread of Δ* on the left, certified against observed rates on the right."""
    names = [STARTS[name][0] for name in data.settings.start]
    fig, axes = figure(7.2, 3.2, ncols=2, width_ratios=(1, 1.15))
    boxes = axes[0].boxplot(list(data.delta.values()), widths=0.5, patch_artist=True, whis=(0, 100), showcaps=False)
    for colour, box, median in zip(cycle(PALETTE), boxes["boxes"], boxes["medians"]):
        box.set(facecolor=COLOURS[colour], alpha=0.35, edgecolor=COLOURS[colour], linewidth=0.8)
        median.set(color=COLOURS[colour], linewidth=1.6)
    axes[0].set_xticks(range(1, len(names) + 1), names)
    axes[0].tick_params(axis="x", length=0)
    axes[0].set(yscale="log", ylabel=r"bound $\Delta^*$ on $\lambda_{\min}(T)$")
    axes[0].set_title(f"{data.settings.seeds} draws each")
    groups = [STARTS[row["init"]][0] for row in data.good]
    bound_against_truth(data.column("certified_rate"), data.column("least_rate"), groups, axes[1])
    axes[1].set(xlabel="least observed rate", ylabel="certified rate")
    axes[1].set_title("Certificate and run")
    return fig


def tables(data: BoxPlotData) -> list[Table]:
    """Δ* over the draws, and medians of the certified over the observed rates."""
    delta, gamma = data.delta, data.objective.pl_constant
    spread = {name: np.percentile(values, (0, 25, 50, 75, 100)).tolist() for name, values in delta.items()}
    medians = []
    for name, values in delta.items():
        seen, certified = (data.column(key, data.of(name)) for key in ("least_rate", "certified_rate"))
        shares = (float(np.median(rate / seen)) for rate in (gamma * values, certified))
        medians.append((STARTS[name][0], *shares))
    quartiles = ["start", "least", "lower quartile", "median", "upper quartile", "greatest"]
    return [
        Table("The bound Δ* over the draws", quartiles, [(STARTS[name][0], *row) for name, row in spread.items()]),
        Table("Rates over the least observed rate: medians", ["start", "γΔ*", "certified"], medians),
    ]


def numbers(data: BoxPlotData) -> dict[str, Any]:
    """Δ*, certified and observed rates of each draw."""
    return {
        "delta": data.delta,
        "init": [row["init"] for row in data.good],
        "certified": data.column("certified_rate"),
        "least": data.column("least_rate"),
    }


def setup(data: BoxPlotData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": f"½‖Y − W₁W₂W₃‖², Y of N(0, 1) entries; γ = {data.objective.pl_constant:g}",
        "Shape": f"{s.n} × {s.h} × {s.h} × {s.m}",
        "Starts": "; ".join(f"{STARTS[name][0]}: {STARTS[name][1]}" for name in s.start),
        "Draws": f"{s.seeds} of each, seeds {data.seeds[0]} to {data.seeds[-1]}",
        "Runs": f"flow until the loss gap is {number(s.until)} of its initial value",
    }


experiment = PaperFigure(
    "box_plot",
    "Three wide layers at random",
    "The bound Δ* on λ_min(T) of three layers depends on the imbalances alone. It is positive in every draw of three "
    "common initialisations. Left: its spread over the draws. Right: the best rate that this library certifies for "
    "the same starts, against the least observed rate.",
    "Min, Vidal & Mallada 2023, section 4",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=BoxPlotSettings,
    paper="Min, Vidal & Mallada 2023",
    full=True,
)
