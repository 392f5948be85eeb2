"""Depth speeds up the flow of imbalanced layers; the largest stable step of descent shrinks by as much."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow.dynamics import Trajectory, gradient_descent, gradient_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

FAMILIES = {
    "balanced": ("balanced", "black"),
    "apart": (r"others $\geq\lambda$ above", "blue"),
    "steps": (r"steps $\geq\varepsilon$", "vermillion"),
}
GRID = np.linspace(0.4, 2.0, 9)
"""The steps that are tried from the start, times the greatest eigenvalue of T where the flow ends."""
NEAR = np.linspace(1.5, 2.3, 9)
"""The steps that are tried from near that end; at a minimum 2 is the limit."""
STEPS = 100


@dataclass(frozen=True)
class ExplodingSettings(Settings):
    """Depths, the offsets of the squares, target and start."""

    depth: tuple[int, ...] = setting((2, 3, 4, 5, 6), "the depths", least=2)
    step: float = setting(1.25, "λ and ε, between the squared singular values of the layers")
    values: tuple[float, ...] = setting((1.0, 0.5), "the singular values of the target")
    start: float = setting(0.3, "the singular values of the product at the start")
    until: float = setting(1e-6, "the fraction of the initial loss to reach")


@dataclass(frozen=True)
class Compared:
    """The flow and the descents from one start.

    Attributes:
        flow: The flow, to the target.
        least: `λ_min(T)` where it ends.
        greatest: `λ_max(T)` there.
        largest: The largest step tried at which descent from near that end comes back.
        best: The step that needs the fewest steps from the start.
        steps: How many.
    """

    flow: Trajectory
    least: float
    greatest: float
    largest: float
    best: float
    steps: int


@dataclass(frozen=True)
class ExplodingData:
    """The chains of each family, by depth."""

    settings: ExplodingSettings
    chains: dict[str, list[Compared]]

    def of(self, family: str, name: str) -> np.ndarray:
        """One number of each chain of a family."""
        return np.array([getattr(chain, name) for chain in self.chains[family]], float)

    def times(self, family: str) -> np.ndarray:
        """The times that the flows of a family take."""
        return np.array([float(chain.flow.t[-1]) for chain in self.chains[family]])


def offsets(family: str, depth: int, step: float) -> np.ndarray:
    """Return how far the squared singular values of each layer lie above those of the smallest."""
    if family == "balanced":
        return np.zeros(depth)
    return step * (np.minimum(np.arange(depth), 1.0) if family == "apart" else np.arange(depth))


def compute(s: ExplodingSettings, seed: int, progress: Progress) -> ExplodingData:
    """Run the flow and descents for every family and depth."""
    chains: dict[str, list[Compared]] = {name: [] for name in FAMILIES}
    n, rng = len(s.values), np.random.default_rng(seed)
    f = MatrixFactorization(np.diag(s.values))
    U, _, Vt = np.linalg.svd(np.eye(n) + 0.2 * rng.standard_normal((n, n)))
    start = s.start * U @ Vt  # near the identity, but no entry of W is spared
    for i, L in enumerate(s.depth):
        for j, family in enumerate(FAMILIES):
            progress((3 * i + j) / (3 * len(s.depth)), f"depth {L}")
            imbalances = (-np.diff(offsets(family, L, s.step))).tolist()
            net = init.imbalanced((n,) * (L + 1), imbalances, start, rng=seed)
            chains[family].append(_chain(f, net, s.until, rng))
    return ExplodingData(s, chains)


def _chain(f: MatrixFactorization, net: Network, until: float, rng: np.random.Generator) -> Compared:
    flow = gradient_flow(f, net, until=until)
    T = TangentOperator(flow.final)
    least, greatest = float(T.least_eigenvalue()), float(T.greatest_eigenvalue())
    counts = []
    for eta in GRID / greatest:
        run = gradient_descent(f, net, step_size=eta, steps=STEPS, until=until, reduce=False)
        counts.append(len(run.t) - 1 if run.gap[-1] <= until * run.gap[0] else STEPS)
    end = gradient_flow(f, flow.final, until=1e-12)
    near = [W + 1e-7 * rng.standard_normal(W.shape) for W in end.weights]
    stable = [eta for eta in NEAR / greatest if _comes_back(f, near, eta)]
    return Compared(
        flow, least, greatest, max(stable, default=0.0), float(GRID[np.argmin(counts)] / greatest), min(counts)
    )


def _comes_back(f: MatrixFactorization, near: list[np.ndarray], eta: float) -> bool:
    """Return whether descent lowers the loss; so few steps from so near, an unstable one cannot find other layers."""
    run = gradient_descent(f, near, step_size=eta, steps=40, reduce=False)
    return bool(run.gap[-1] < run.gap[0])


def claims(data: ExplodingData) -> Iterable[Claim | LeftOut]:
    """State what the flow gains, what the step loses, and what remains."""
    s = data.settings
    powers = [s.step ** (L - 1) for L in s.depth]
    factorials = [s.step ** (L - 1) * math.factorial(L - 1) for L in s.depth]
    yield Claim.all_below("λ_min(T) at the end is at least λ^{L−1}", powers, data.of("apart", "least"), 1e-9)
    text = "With steps of ε it is at least ε^{L−1}(L−1)!"
    yield Claim.all_below(text, factorials, data.of("steps", "least"), 1e-9)
    whole = np.concatenate([data.of(name, "largest") * data.of(name, "greatest") for name in FAMILIES])
    text = "Near a minimum descent is stable up to 2/λ_max(T): largest step tried times λ_max(T)"
    # The steps tried are 0.1/λ_max(T) apart, and T differs a little between near the minimum and at it.
    yield Claim.within(text, whole, 1.9 - 1e-2, 2.0 + 1e-2)
    gain, shrink = (data.of("steps", name) for name in ("least", "largest"))
    ends = [data.of("steps", name)[[0, -1]] for name in ("least", "largest", "steps")]
    times, kappa = data.times("steps"), data.of("steps", "greatest") / gain
    paper = [
        Claim.within("With steps of ε each layer shortens the flow's time: ratio", times[1:] / times[:-1], high=0.5),
        Claim.within("The largest stable step falls as well: ratio", shrink[1:] / shrink[:-1], high=0.8),
        Claim(
            "From the shallowest to the deepest the time falls a hundredfold, the number of best steps not by half",
            f"time {number(times[0] / times[-1])} times shorter, {number(ends[2][0])} steps and {number(ends[2][1])}",
            times[0] / times[-1] >= 100 and ends[2][1] >= 0.5 * ends[2][0],
            times[0] / times[-1],
        ),
        Claim.within("The condition number of T falls to 1: ratio", kappa[1:] / kappa[:-1], 0, 1),
        Claim.within(
            "Of balanced layers the condition number grows with depth, and the steps do: ratio of steps",
            data.of("balanced", "steps")[1:] / data.of("balanced", "steps")[:-1],
            1.0,
        ),
    ]
    yield from about_these(s.changes(), paper)


def draw(data: ExplodingData) -> Any:
    """Draw the eigenvalues of T, the largest stable steps, and times beside steps, over depth."""
    s = data.settings
    fig, axes = figure(7.2, 2.9, ncols=3)
    for family, (text, name) in FAMILIES.items():
        look = {"color": COLOURS[name], "markersize": 3}
        axes[0].semilogy(s.depth, data.of(family, "least"), "o-", **look, label=text)
        axes[1].semilogy(s.depth, data.of(family, "largest"), "o", **look)
        axes[1].semilogy(s.depth, 2 / data.of(family, "greatest"), "-", **look)
        axes[2].semilogy(s.depth, data.of(family, "steps"), "s--", **look)
        axes[2].semilogy(s.depth, data.times(family), "o-", **look)
    powers = np.array([s.step ** (L - 1) for L in s.depth])
    axes[0].semilogy(s.depth, powers, ":", color=COLOURS["blue"])
    factorials = [math.factorial(L - 1) for L in s.depth]
    axes[0].semilogy(s.depth, powers * factorials, ":", color=COLOURS["vermillion"])
    axes[0].set(title="Rate of the flow", ylabel=r"$\lambda_{\min}(T)$ at the end")
    axes[1].set(title="Largest stable step", ylabel=r"$\eta$ (line: $2/\lambda_{\max}(T)$)")
    axes[2].set(title="To the target", ylabel="time (line), steps (dashes)")
    for ax in axes:
        ax.set(xlabel="depth $L$", xticks=s.depth)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def tables(data: ExplodingData) -> list[Table]:
    """Rate, step, time and number of steps, a row for each family and depth."""
    columns = ["layers", "L", "λ_min(T)", "λ_max(T)", "largest step", "time", "best steps"]
    rows = [
        (name, L, chain.least, chain.greatest, chain.largest, float(chain.flow.t[-1]), chain.steps)
        for name, chains in data.chains.items()
        for L, chain in zip(data.settings.depth, chains, strict=True)
    ]
    return [Table(f"To {number(data.settings.until)} of the initial loss", columns, rows)]


def numbers(data: ExplodingData) -> dict[str, Any]:
    """The numbers of every chain."""
    names = ("least", "greatest", "largest", "best", "steps")
    return {
        "depth": data.settings.depth,
        **{f"{family} {name}": data.of(family, name) for family in FAMILIES for name in names},
        **{f"{family} time": data.times(family) for family in FAMILIES},
    }


def setup(data: ExplodingData) -> dict[str, str]:
    """What was computed, in words."""
    s = data.settings
    return {
        "Objective": f"½‖Y − W‖², Y = diag({', '.join(number(x) for x in s.values)}), from W = {number(s.start)}·I",
        "Layers": f"D_l a multiple of the identity; λ = ε = {number(s.step)}",
        "Descent": f"best of {len(GRID)} constant steps up to 2/λ_max(T)",
        "Stable": "forty steps from near the flow's end lower the loss",
    }


experiment = PaperFigure(
    "exploding",
    "What depth gives the flow, descent pays back",
    "The flow of imbalanced layers speeds up with depth like λ^{L−1}, or even ε^{L−1}(L−1)!. The gradients grow by "
    "as much, and the largest step at which descent is stable shrinks as 2/λ_max(T). So the time falls, but not the "
    "number of steps: that depends on the condition number of T alone. What remains of the acceleration is that an "
    "imbalance brings this number nearer to 1, while depth without imbalance makes it worse.",
    "Talk, remark on exploding gradients",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=ExplodingSettings,
    paper="Min, Vidal & Mallada 2023",
)
