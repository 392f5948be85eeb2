"""Implicit acceleration: the best constant step over depth, and the end-to-end dynamics beside the layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow.dynamics import Result, Trajectory, gradient_descent, gradient_flow
from linflow.exact import balanced_end_to_end
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.model.network import Network
from linflow.model.powers import LpRegression
from linflow.plots import COLOURS, figure

PALETTE = [COLOURS[name] for name in ("black", "blue", "vermillion", "green", "purple")]
FINER = 1.06
"""The ratio of neighbouring steps of the grid, about the best of a coarser one."""


@dataclass(frozen=True)
class ImplicitAccelerationSettings(Settings):
    """The powers, the depths, the targets, and the start."""

    p: tuple[float, ...] = setting((2.0, 4.0), "the powers of the loss", least=2.0)
    depth: tuple[int, ...] = setting((1, 2, 3), "the depths")
    y: tuple[float, ...] = setting((3.0, 1.0), "the targets, one for each input")
    x: tuple[float, ...] = setting((1.0, 0.5), "the sizes of the inputs")
    start: float = setting(0.1, "the norm of the first product")
    until: float = setting(1e-4, "the part of the initial gap that counts as solved")
    steps: int = setting(400, "the largest number of steps")
    seeds: int = setting(1, "the draws of the hidden layers")

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} numbers and y has {len(self.y)}; one of each for every input.")
        if self.until >= 1:
            raise ValueError(f"until={self.until:g}; a fraction below 1 is needed.")


@dataclass(frozen=True)
class Depth:
    """One depth and one power.

    Attributes:
        tried: steps η and how many of them reach the target; `steps + 1` if they do not.
        best: the best of them.
        run: the descent with the best step.
        dominance: the least of `‖∇f‖^{p/(p−1)}/(C gap)` along the run.
    """

    tried: np.ndarray
    best: tuple[float, int]
    run: Trajectory
    dominance: float


@dataclass(frozen=True)
class ImplicitAccelerationData:
    """All depths by power, and the flows of layers and of the product alone.

    Attributes:
        settings: the settings.
        found: by power and depth.
        t: the times of the flows.
        layers, alone: by depth, the products of the layers' flow and of the end-to-end flow, for the last power.
        apart: by step η, the distance of the descent of two layers from that of the end-to-end rule at equal times.
    """

    settings: ImplicitAccelerationSettings
    found: dict[float, dict[int, Depth]]
    t: np.ndarray
    layers: dict[int, np.ndarray]
    alone: dict[int, np.ndarray]
    apart: dict[float, float]


def compute(s: ImplicitAccelerationSettings, seed: int, progress: Progress) -> ImplicitAccelerationData:
    """Search the best step for every power and depth, and run both flows."""
    Y = np.array(s.y)[:, None]
    nets = {depth: _start(s, depth, seed) for depth in s.depth}
    found: dict[float, dict[int, Depth]] = {}
    for i, p in enumerate(s.p):
        f = LpRegression(np.diag(s.x), Y, p)
        found[p] = {}
        for depth, net in nets.items():
            progress(i / len(s.p), f"p = {p:g}, depth {depth}")
            found[p][depth] = _search(f, net, s)
    f = LpRegression(np.diag(s.x), Y, s.p[-1])
    end = 6.0 / max(s.y) ** (s.p[-1] - 2)
    t = np.linspace(0, end, 31)
    layers, alone = {}, {}
    for depth, net in nets.items():
        run = gradient_flow(f, net, t_max=end, times=t[1:].tolist(), engine="plain")
        layers[depth] = np.array([run.network_at(float(x)).product() for x in t])
        alone[depth] = np.asarray(balanced_end_to_end(f, net.product(), depth, t))
    two = _start(s, 2, seed)
    apart = {eta: _apart(f, two, eta, end / 3) for eta in (end / 300, end / 600, end / 1200)}
    return ImplicitAccelerationData(s, found, t, layers, alone, apart)


def _start(s: ImplicitAccelerationSettings, depth: int, seed: int) -> Network:
    """Return balanced layers with the product `start·(1, …, 1)ᵀ/√n`."""
    n = len(s.y)
    W = np.full((n, 1), s.start / n**0.5)
    return init.balanced((n, *[n] * (depth - 1), 1), W, rng=seed) if depth > 1 else Network([W])


def _search(f: LpRegression, net: Network, s: ImplicitAccelerationSettings) -> Depth:
    """Return the step with the fewest steps to the target: on a coarse grid, then on a fine one about its best."""
    unit = 1 / f.smoothness_below(f.gap(net.product()))
    tried: dict[float, int] = {}

    def count(eta: float) -> int:
        if eta not in tried:
            run = gradient_descent(f, net, step_size=eta, steps=s.steps, until=s.until, every=s.steps)
            tried[eta] = run.stats.steps if run.result is Result.TARGET else s.steps + 1
        return tried[eta]

    coarse = unit * 2.0 ** np.arange(-3, 9.5, 0.5)
    best = min(coarse.tolist(), key=count)
    best = min((best * FINER ** np.arange(-6, 7)).tolist(), key=count)
    run = gradient_descent(f, net, step_size=best, steps=s.steps, until=s.until)
    ratios = []
    W = [np.array(V) for V in net.weights]
    for _ in range(run.stats.steps):
        product = Network(W).product()
        G = f.gradient(product)
        ratios.append(float(np.linalg.norm(G)) ** (f.p / (f.p - 1)) / (f.dominance * f.gap(product)))
        W = [V - best * g for V, g in zip(W, Network(W).gradient(G), strict=True)]
    table = np.array(sorted(tried.items()), dtype=float)
    return Depth(table, (best, tried[best]), run, min(ratios))


def _apart(f: LpRegression, net: Network, eta: float, end: float) -> float:
    """Return the distance between layers and the end-to-end rule for one output, after descents to a time.

    The rule is `W ← W − η ‖W‖^{2−2/L} (∇f + (L − 1) Pr_W ∇f)`, `Pr_W` the projection on the line of W.
    """
    steps, W, L = round(end / eta), net.product(), net.depth
    for _ in range(steps):
        G, size = f.gradient(W), float(np.linalg.norm(W))
        W = W - eta * size ** (2 - 2 / L) * (G + (L - 1) * W * float(np.sum(W * G)) / size**2)
    run = gradient_descent(f, net, step_size=eta, steps=steps, every=steps)
    return float(np.linalg.norm(run.final.product() - W))


def claims(data: ImplicitAccelerationData) -> Iterable[Claim | LeftOut]:
    """State what the paper shows, then what theory promises."""
    yield from about_these(data.settings.changes(), _of_the_paper(data))
    off = max(float(np.abs(data.layers[L] - data.alone[L]).max()) for L in data.layers)
    yield Claim.within("The product of balanced layers follows the end-to-end flow: largest difference", off, 0, 1e-6)
    slope = float(np.polyfit(np.log(list(data.apart)), np.log(list(data.apart.values())), 1)[0])
    yield Claim.within(
        "Descent on the layers follows the end-to-end rule up to the order of η: the fitted slope", slope, 0.8, 1.3
    )
    ratios = [one.dominance for by_depth in data.found.values() for one in by_depth.values()]
    yield Claim.within("‖∇f‖^{p/(p−1)} is at least C (f − f*) at every step: least ratio", min(ratios), 1 - 1e-9)


def _of_the_paper(data: ImplicitAccelerationData) -> Iterable[Claim]:
    steps = {p: {L: one.best[1] for L, one in by_depth.items()} for p, by_depth in data.found.items()}
    words = {p: ", ".join(f"{count} at depth {L}" for L, count in some.items()) for p, some in steps.items()}
    if not {2.0, 4.0} <= steps.keys() or not {1, 2, 3} <= set(data.settings.depth):
        return  # the statements name these
    fewest = min(steps[2.0].values()) == steps[2.0][1]
    yield Claim("For p = 2 depth does not help: one layer needs the fewest steps", words[2.0], fewest)
    yield Claim(
        "For p = 4 depth helps: two and three layers need fewer steps than one, each with its best step",
        words[4.0],
        max(steps[4.0][2], steps[4.0][3]) < steps[4.0][1],
    )


def draw(data: ImplicitAccelerationData) -> Any:
    """Draw losses at the best steps for each power, and the two flows."""
    fig, axes = figure(3.2 * (len(data.found) + 1), 3.4, ncols=len(data.found) + 1)
    for ax, (p, by_depth) in zip(axes, data.found.items(), strict=False):
        for (L, one), colour in zip(by_depth.items(), PALETTE, strict=False):
            label = f"depth {L}: {one.best[1]} steps, $\\eta = {one.best[0]:.2g}$"
            ax.semilogy(np.arange(len(one.run.gap)), one.run.gap / one.run.gap[0], color=colour, label=label)
        ax.set_title(f"$p = {p:g}$", fontsize=9)
        ax.set_xlabel("steps")
        ax.legend(loc="upper right", fontsize=8)
        ax.set_ylim(None, 300)
    axes[0].set_ylabel("loss gap over the initial gap")
    for (L, layers), colour in zip(data.layers.items(), PALETTE, strict=False):
        for i in range(layers.shape[1]):
            axes[-1].plot(data.t, layers[:, i, 0], color=colour, label=f"depth {L}" if i == 0 else None)
            axes[-1].plot(data.t, data.alone[L][:, i, 0], ".", color=colour, markersize=4)
    axes[-1].plot([], [], ".", color=COLOURS["grey"], label="end-to-end flow")
    axes[-1].set_title(f"entries of $W$, flow, $p = {data.settings.p[-1]:g}$", fontsize=9)
    axes[-1].set_xlabel("time $t$")
    axes[-1].legend(loc="best", fontsize=8)
    return fig


def tables(data: ImplicitAccelerationData) -> list[Table]:
    """The best steps, a row for each power and depth."""
    rows = [(p, L, *one.best) for p, by_depth in data.found.items() for L, one in by_depth.items()]
    return [Table("The best constant step", ["p", "depth", "η", "steps"], rows)]


def numbers(data: ImplicitAccelerationData) -> dict[str, Any]:
    """The steps tried."""
    return {f"{p:g}": {str(L): one.tried for L, one in some.items()} for p, some in data.found.items()}


def setup(data: ImplicitAccelerationData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": "(1/p) Σᵢ|yᵢ − xᵢwᵢ|^p",
        "Data": f"x = ({', '.join(f'{x:g}' for x in s.x)}), y = ({', '.join(f'{y:g}' for y in s.y)})",
        "Start": f"balanced, all entries of the product equal, norm {s.start:g}",
        "Step": f"the best of a grid of ratio {FINER:g}, to reach {s.until:g} of the initial gap",
    }


experiment = PaperFigure(
    "implicit_acceleration",
    "Implicit acceleration by depth",
    "A regression whose targets differ in size. Under the p-norm with p = 4 the large residual limits the step of "
    "one layer, and the small one then crawls. Depth scales the step with the size of the product: its best "
    "constant step needs fewer steps. Under the squared loss depth only costs. Right: the product of balanced layers "
    "follows a flow of its own, without the layers.",
    "Arora, Cohen & Hazan 2018 (arXiv 1802.06509), Theorem 1 and section 6",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=ImplicitAccelerationSettings,
    paper="Arora, Cohen & Hazan 2018",
)
