"""Laziness over width: how far T moves, how far it is from its limit, and the linearised model beside the real."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow.dynamics import Trajectory, gradient_flow, linearized_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.geometry.laziness import limit_kernel
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

PALETTE = [COLOURS[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky")]


@dataclass(frozen=True)
class LazinessSettings(Settings):
    """Sizes, widths and depths."""

    n: int = setting(10, "the rows of Y")
    m: int = setting(4, "the columns of Y")
    h: tuple[int, ...] = setting((30, 100, 300, 1000), "the hidden widths")
    depth: tuple[int, ...] = setting((2, 3), "the depths whose T is compared with its limit", least=2)
    target: float = setting(3.0, "the norm of Y")
    seeds: int = setting(5, "the draws of each width")
    until: float = setting(1e-6, "the part of the initial gap at which a run ends")

    def __post_init__(self) -> None:
        if len(self.h) < 2:
            raise ValueError("h has one width; two or more are needed, for the slope over the width.")
        if self.until >= 1:
            raise ValueError(f"until={self.until:g}; a fraction below 1 is needed.")


@dataclass(frozen=True)
class Beside:
    """One draw of one width with two layers.

    Attributes:
        real, linear: the flow of the model and of its linearisation.
        change: the largest relative change of T along the flow.
        apart: the largest `‖W(t) − W_lin(t)‖_F/‖W(0) − Y‖_F` at the times compared.
        dense: the relative change of T at the end, from dense matrices.
        closed: the gaps of the linearisation at the times compared, in closed form, beside those of its run.
        floor: `γ λ_min(T(0))`, a rate of the linearisation.
    """

    real: Trajectory
    linear: Trajectory
    change: float
    apart: float
    dense: float
    closed: np.ndarray
    floor: float


@dataclass(frozen=True)
class LazinessData:
    """All draws by width, and the distances of T to its limit by depth and width."""

    settings: LazinessSettings
    runs: dict[int, list[Beside]]
    distances: dict[int, dict[int, np.ndarray]]

    @property
    def every(self) -> list[Beside]:
        """All draws."""
        return [one for some in self.runs.values() for one in some]

    def means(self, measure: str) -> np.ndarray:
        """The mean of a measure over the draws of each width."""
        return np.array([np.mean([getattr(one, measure) for one in some]) for some in self.runs.values()])

    def distance(self, depth: int) -> np.ndarray:
        """The root mean square distance of T to its limit, for each width."""
        return np.array([float(np.sqrt(np.mean(x**2))) for x in self.distances[depth].values()])

    def deviation(self, depth: int) -> np.ndarray:
        """The bound on it, for each width."""
        s = self.settings
        return np.array([limit_kernel((s.n, *[h] * (depth - 1), s.m)).deviation for h in s.h])

    def slope(self, values: np.ndarray) -> float:
        """The slope over the width, both as logarithms."""
        return float(np.polyfit(np.log(self.settings.h), np.log(values), 1)[0])


def compute(s: LazinessSettings, seed: int, progress: Progress) -> LazinessData:
    """Run model and linearisation for every draw, and form T at starts of every depth."""
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((s.n, s.m))
    f = MatrixFactorization(Y * (s.target / np.linalg.norm(Y)))
    runs: dict[int, list[Beside]] = {}
    distances: dict[int, dict[int, np.ndarray]] = {depth: {} for depth in s.depth}
    for i, h in enumerate(s.h):
        progress(i / len(s.h), f"width {h}")
        runs[h] = [_beside(f, init.ntk((s.n, h, s.m), rng=rng), s.until) for _ in range(s.seeds)]
        for depth in s.depth:
            nets = (init.ntk((s.n, *[h] * (depth - 1), s.m), rng=rng) for _ in range(s.seeds))
            distances[depth][h] = np.array([_off_limit(net) for net in nets])
    return LazinessData(s, runs, distances)


def _off_limit(net: Network) -> float:
    """Return `‖T − LI‖_F/‖LI‖_F`."""
    limit = limit_kernel(net.widths).eigenvalue
    T, nm = TangentOperator(net).dense(), net.shape[0] * net.shape[1]
    return float(np.linalg.norm(T - limit * np.eye(nm)) / (limit * nm**0.5))


def _beside(f: MatrixFactorization, net: Network, until: float) -> Beside:
    real = gradient_flow(f, net, until=until, record=("tangent_change",))
    linear = linearized_flow(f, net, until=until)
    T = TangentOperator(net).dense()
    values, vectors = np.linalg.eigh(T)
    first = vectors.T @ (net.product() - f.minimizer).ravel()
    times = np.linspace(0, 1, 7)[1:] * min(float(real.t[-1]), float(linear.t[-1]))
    apart, closed = [], []
    for t in times:
        W = f.minimizer + (vectors @ (np.exp(-values * t) * first)).reshape(f.shape)
        apart.append(float(np.linalg.norm(real.network_at(float(t)).product() - W)))
        closed.append((0.5 * float(np.sum(np.exp(-2 * values * t) * first**2)), float(linear.gap_at(float(t)))))
    end = np.linalg.norm(TangentOperator(real.final).dense() - T) / np.linalg.norm(T)
    change, size = np.asarray(real.tangent_change), float(np.linalg.norm(first))
    return Beside(real, linear, float(change.max()), max(apart) / size, float(end), np.array(closed), 2 * values[0])


def claims(data: LazinessData) -> Iterable[Claim | LeftOut]:
    """State what width does, then what theory promises, then what the axes show."""
    yield from about_these(data.settings.changes(), _of_the_papers(data))
    yield Claim.all_below(
        "The distance of T(0) to its limit is at most the bound, as a root mean square over the draws",
        [data.distance(depth) for depth in data.settings.depth],
        [data.deviation(depth) for depth in data.settings.depth],
        1.0,  # the bound is on the mean over all draws; a few draws scatter
    )
    yield Claim.all_below(
        "The linearised model keeps the rate γ λ_min(T(0)) at every time",
        [one.floor for one in data.every],
        [float(np.min(one.linear.rate)) for one in data.every],
        1e-9,
    )
    closed, run = np.concatenate([one.closed for one in data.every]).T
    yield Claim.same("The linearised model follows e^{−T(0)t}, in closed form", np.log(run), np.log(closed), 1e-5)
    yield Claim.same(
        "The change of T drawn is that of the dense matrices at the end of each run",
        [float(np.asarray(one.real.tangent_change)[-1]) for one in data.every],
        [one.dense for one in data.every],
        1e-9,
    )


def _of_the_papers(data: LazinessData) -> Iterable[Claim]:
    """Claim the orders in the width: ½ for a random T, 1 for what the flow changes."""
    s = data.settings
    for depth in s.depth:
        text = f"The distance of T(0) to its limit falls like h^(−½) at depth {depth}: the fitted slope"
        yield Claim.within(text, data.slope(data.distance(depth)), -0.6, -0.4)
    for name, what in (
        ("change", "The change of T along the run"),
        ("apart", "The distance to the linearised model"),
    ):
        values = data.means(name)
        yield Claim.within(f"{what} falls like 1/h: the fitted slope", data.slope(values), -1.2, -0.8)


def draw(data: LazinessData) -> Any:
    """Draw the orders in the width on the left and losses on the right."""
    fig, (left, right) = figure(8.4, 3.6, ncols=2)
    h = np.asarray(data.settings.h)
    for values, name, colour in (
        (data.means("change"), "change of $T$ along the run", PALETTE[0]),
        (data.means("apart"), "distance to the linearised model", PALETTE[1]),
    ):
        left.loglog(h, values, "o-", color=colour, markersize=3, label=f"{name} ({data.slope(values):.2f})")
    for depth, colour in zip(data.settings.depth, PALETTE[2:], strict=False):
        values = data.distance(depth)
        label = f"$T(0)$ to ${depth}I$, depth {depth} ({data.slope(values):.2f})"
        left.loglog(h, values, "s-", color=colour, markersize=3, label=label)
        left.loglog(h, data.deviation(depth), "--", color=colour, linewidth=1)
    left.set_xlabel("width $h$")
    left.set_ylabel("relative size (slope in brackets)")
    left.set_ylim(None, left.get_ylim()[1] * 12)
    left.legend(loc="upper right", fontsize=8)
    widths = [min(data.runs), sorted(data.runs)[len(data.runs) // 2], max(data.runs)]
    for width, colour in zip(dict.fromkeys(widths), PALETTE, strict=False):
        one = data.runs[width][0]
        for run, form, label in ((one.real, "-", f"$h = {width}$"), (one.linear, ":", None)):
            right.semilogy(run.t, run.gap / run.gap[0], form, color=colour, label=label)
    right.plot([], [], ":", color=COLOURS["grey"], label="linearised")
    right.set_xlabel("time $t$")
    right.set_ylabel("loss gap over the initial gap")
    right.legend(loc="lower left", fontsize=8)
    return fig


def tables(data: LazinessData) -> list[Table]:
    """The measures, a row for each width."""
    depths = data.settings.depth
    columns = [data.means("change"), data.means("apart"), *map(data.distance, depths), *map(data.deviation, depths)]
    names = ["change of T", "to the linearised model"]
    names += [f"T(0) to {L}I" for L in depths] + [f"its bound, depth {L}" for L in depths]
    rows = [(h, *values) for h, *values in zip(data.settings.h, *columns, strict=True)]
    return [Table(f"Means of {data.settings.seeds} draws", ["h", *names], rows)]


def numbers(data: LazinessData) -> dict[str, Any]:
    """The measures over the width."""
    found: dict[str, Any] = {"h": list(data.settings.h)}
    found |= {name: data.means(name) for name in ("change", "apart")}
    return found | {f"distance_{depth}": data.distance(depth) for depth in data.settings.depth}


def setup(data: LazinessData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": f"½‖Y − W₁W₂/√h‖², n = {s.n}, m = {s.m}, ‖Y‖ = {s.target:g}",
        "Widths": ", ".join(map(str, s.h)),
        "Start": "independent N(0, 1) entries",
        "Draws": f"{s.seeds} of each width; the first is drawn",
        "Flow": f"to {s.until:g} of the initial gap, model and linearisation",
    }


experiment = PaperFigure(
    "laziness",
    "Laziness over width",
    "In the NTK scaling a wide model stays nearly linear in its weights: the operator T, its tangent kernel, hardly "
    "moves. At infinite width it is L times the identity. Left: the largest relative change of T along the flow, the "
    "distance of T(0) to its limit with the bound of this library (dashed), and the distance between the model and "
    "its linearisation at the start. Right: both losses.",
    "Jacot, Gabriel & Hongler 2018; Chizat, Oyallon & Bach 2019; Arora et al. 2019 (exact computation)",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=LazinessSettings,
    paper="Jacot et al. 2018, Chizat et al. 2019, Arora et al. 2019",
)
