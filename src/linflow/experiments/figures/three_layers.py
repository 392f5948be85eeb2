"""Gradient descent on three layers against the bound that the imbalances give before the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from linflow.experiments.figures._outcome import Claim, Progress, Table, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._starts import STARTS, start
from linflow.experiments.figures._sweep import (
    Row,
    by_hand,
    complete_claim,
    delta_claim,
    delta_star,
    rows_claim,
    rows_of,
    seeds_of,
)
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

TARGETS = {"n = m = 1": np.array([[-2.0]]), "n = 5, m = 1": np.ones((5, 1))}
PALETTE = ("vermillion", "green", "blue", "orange", "purple", "sky")
GAMMA = MatrixFactorization(np.eye(1)).pl_constant  # the same for every target


@dataclass(frozen=True)
class ThreeLayersSettings(Settings):
    """Widths, start, draws, and the descent."""

    h: tuple[tuple[int, int], ...] = setting(((100, 200), (200, 300), (300, 500)), "the two hidden widths")
    start: str = setting("fan_out", "the start", among=STARTS)
    seeds: int = setting(3, "the draws of each pair of widths")
    eta: float = setting(5e-6, "the step size")
    steps: int = setting(40_000, "the most steps")
    until: float = setting(1e-6, "the fraction of the initial loss gap at which a run ends")


@dataclass(frozen=True)
class Draw:
    """One start on one target: its cell, Δ*, and the curve of its descent."""

    kind: str
    row: Row
    delta: float
    eta: float
    start: Network

    @property
    def rate(self) -> float:
        """The rate γΔ* that the bound promises."""
        return GAMMA * self.delta

    @property
    def steps(self) -> np.ndarray:
        """The recorded steps."""
        return np.array(self.row["curve_t"]) / self.eta

    @property
    def fallen(self) -> np.ndarray:
        """The loss gap over the first one, at these steps."""
        return np.array(self.row["curve_gap"]) / self.row["curve_gap"][0]


@dataclass(frozen=True)
class ThreeLayersData:
    """All draws, target by target."""

    settings: ThreeLayersSettings
    draws: list[Draw]

    def of(self, kind: str, widths: tuple[int, int]) -> list[Draw]:
        """The draws of one target and one pair of widths."""
        return [one for one in self.draws if one.kind == kind and tuple(one.row["hidden"]) == widths]


def compute(s: ThreeLayersSettings, seed: int, progress: Progress) -> ThreeLayersData:
    """Run the descent from every draw, and certify the flow from the same starts for its Δ*."""
    draws, part = [], 1 / len(TARGETS)
    for i, (kind, target) in enumerate(TARGETS.items()):
        base: dict[str, Any] = {
            "data": {"target": target},
            "start": {"init": s.start},
            "grid": {"hidden": list(map(list, s.h)), "seeds": seeds_of(s.seeds, seed)},
        }
        descent = {
            "algorithm": "descent",
            "descent": {"step_size": s.eta, "steps": s.steps},
            "flow": {"until": s.until},
            "sweep": {"check": True, "curves": 400},
        }
        rows = rows_of(base | descent, progress, part * i, part * (i + 0.85))
        # The certificate of the flow from the same starts has Δ* among its guarantees.
        flow = rows_of(base | {"flow": {"until": 0.5}}, progress, part * (i + 0.85), part * (i + 1))
        for row, other in zip(rows, flow, strict=True):
            net = start(s.start, (target.shape[0], *row["hidden"], target.shape[1]), row["seed"])
            draws.append(Draw(kind, row, delta_star(other), s.eta, net))
    return ThreeLayersData(s, draws)


def claims(data: ThreeLayersData) -> Iterable[Claim]:
    """State that Δ* is positive, that every loss lies under its bound, and that certificates are kept."""
    draws = data.draws
    rows, bounds = [one.row for one in draws], np.array([one.delta for one in draws])
    yield complete_claim(rows, "descent")
    yield Claim.within(f"Δ* is positive at all {len(rows)} starts", bounds, np.nextafter(0, 1))
    # The logarithm of the loss over the first one, less that of exp(−γΔ*kη).
    above = max(float(np.max(np.log(one.fallen) + one.rate * one.steps * one.eta)) for one in draws)
    yield Claim(
        "The loss lies under exp(−γΔ*kη) L(0) at every recorded step k: excess of its logarithm",
        f"{number(above)} at most, at {number(sum(len(one.steps) for one in draws))} points",
        above <= 1e-9,
        above,
    )
    least = np.array([row["least_rate"] for row in rows])
    yield Claim.all_below("γΔ* never exceeds the least observed rate", GAMMA * bounds, least)
    yield delta_claim(bounds.tolist(), [one.start for one in draws])
    for kind, target in TARGETS.items():
        yield _drawn_claim(target, next(one for one in draws if one.kind == kind))
    yield rows_claim(rows, "Every descent keeps the certificate for its step size")


def _drawn_claim(target: np.ndarray, one: Draw) -> Claim:
    """Claim that a curve is the loss over the first one at each step, for steps taken by hand."""
    steps = np.rint(one.steps).astype(int)
    gaps = by_hand(MatrixFactorization(target), one.start, [one.eta] * int(steps[-1]))
    # Allow for the rounding of all these steps; the gap is a square, which doubles the rounding of the weights.
    text = f"At {one.kind} the loss drawn is that of steps taken by hand, at the same step"
    return Claim.same(text, one.fallen, gaps[steps], 1e-6)


def draw(data: ThreeLayersData) -> Any:
    """Draw the losses for each target, and the least bound for each pair of widths."""
    fig, axes = figure(7.2, 3.2, ncols=2, sharey=True)
    for ax, kind in zip(axes, TARGETS, strict=True):
        _draw_target(ax, data, kind)
    axes[0].set(ylabel="loss over initial loss")
    key = {"color": COLOURS["black"], "linestyle": (0, (4, 3)), "linewidth": 1.1}
    axes[0].plot([], [], label=r"$e^{-\gamma\Delta^* k\eta}$", **key)
    axes[0].legend(title="widths", loc="upper right")
    return fig


def _draw_target(ax: Any, data: ThreeLayersData, kind: str) -> None:
    decades, end = np.log(10) / data.settings.eta, 1.0  # steps for one decade at rate 1
    for i, (widths, name) in enumerate(zip(data.settings.h, cycle(PALETTE))):
        mine = data.of(kind, widths)
        for one in mine:
            label = f"$({widths[0]}, {widths[1]})$" if one is mine[0] else None
            ax.plot(one.steps, one.fallen, color=COLOURS[name], linewidth=1.1, label=label)
        least = min(one.rate for one in mine)
        if least <= 0:  # no bound to draw
            continue
        steps = np.array([0.0, 7.5 * decades / least])
        bound = np.exp(-least * data.settings.eta * steps)
        ax.plot(steps, bound, color=COLOURS[name], linewidth=1.1, linestyle=(i, (4, 3)))
        end = max(end, 7 * decades / least)
    ax.set(yscale="log", ylim=(data.settings.until, 1.5), xlim=(0, 1.02 * end), xlabel="step", title=kind)


def tables(data: ThreeLayersData) -> list[Table]:
    """Bounds and runs, a row for each target and pair of widths."""
    rows = []
    for kind in TARGETS:
        for widths in data.settings.h:
            mine = data.of(kind, widths)
            rows.append(
                (
                    kind,
                    f"({widths[0]}, {widths[1]})",
                    min(one.delta for one in mine),
                    min(one.rate for one in mine),
                    min(one.row["least_rate"] for one in mine),
                    min(one.row["certified_rate"] for one in mine),
                    max(one.row["steps"] for one in mine),
                )
            )
    columns = ["target", "widths", "Δ*", "γΔ*", "least observed rate", "certified for this η", "steps"]
    return [Table("Bound and run, the least over the draws", columns, rows)]


def numbers(data: ThreeLayersData) -> dict[str, Any]:
    """Δ*, least observed rate and number of steps of each draw."""
    return {
        "kind": [one.kind for one in data.draws],
        "hidden": [one.row["hidden"] for one in data.draws],
        "delta": [one.delta for one in data.draws],
        "least": [one.row["least_rate"] for one in data.draws],
        "steps": [one.row["steps"] for one in data.draws],
    }


def setup(data: ThreeLayersData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": f"½‖Y − W₁W₂W₃‖², γ = {GAMMA:g}; Y = −2 for n = m = 1, ones for n = 5, m = 1",
        "Starts": f"{STARTS[s.start][0]}, {s.seeds} draws of each pair of widths",
        "Descent": f"η = {number(s.eta)}, until the loss is {number(s.until)} of its initial value",
    }


experiment = PaperFigure(
    "three_layers",
    "Gradient descent on three layers",
    "The loss of gradient descent with a small step stays under exp(−γΔ*kη) L(0), where Δ* follows from the "
    "imbalances of the start alone. Solid: the runs. Dashed: the bound of the draw for which it is least.",
    "Min, Vidal & Mallada 2023, section 5",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=ThreeLayersSettings,
    paper="Min, Vidal & Mallada 2023",
    full=True,
)
