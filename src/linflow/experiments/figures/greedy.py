"""Greedy low-rank learning beside the flow from a small start, and the bounds of tied layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow.dynamics import Trajectory, gradient_flow
from linflow.dynamics.greedy import GreedyLowRank, greedy_low_rank
from linflow.exact import symmetric, symmetric_bounds
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._sweep import seeds_of
from linflow.model.sensing import Completion
from linflow.plots import COLOURS, figure

SHADES = ("blue", "vermillion", "green", "orange")


@dataclass(frozen=True)
class GreedySettings(Settings):
    """Size and rank of the matrix, what is known of it, and the sizes of the starts."""

    n: int = setting(6, "the rows and columns")
    values: tuple[float, ...] = setting(
        (6.0, 2.0, 0.7), "the singular values of the matrix, and of the target of XXᵀ"
    )
    known: float = setting(0.8, "the part of the entries that is known")
    alphas: tuple[float, ...] = setting((1e-1, 1e-3, 1e-6), "the sizes of the start")
    seeds: int = setting(3, "the random starts of XXᵀ at each size")
    draws: int = setting(10, "the draws of the completion and of its starts")


@dataclass(frozen=True)
class GreedyData:
    """The phases, the flows and the eigenvalues of tied layers.

    Attributes:
        settings: The settings.
        phases: Greedy low-rank learning of the completion.
        flows: The flow from each size of the start.
        passed: The least distance of each flow to the end of each phase, over the norm of that end.
        best: The best loss of rank one, by alternating least squares.
        every: `passed` of every draw.
        first: The loss at the end of the first phase over the best of rank one, of every draw.
        t: Times of the tied layers, a row for each size.
        seen: Their eigenvalues: by size, draw, time and mode.
        low: The lower bounds.
        high: The upper bounds.
    """

    settings: GreedySettings
    phases: GreedyLowRank
    flows: list[Trajectory]
    passed: np.ndarray
    best: float
    every: np.ndarray
    first: np.ndarray
    t: np.ndarray
    seen: np.ndarray
    low: np.ndarray
    high: np.ndarray


def compute(s: GreedySettings, seed: int, progress: Progress) -> GreedyData:
    """Learn completions phase by phase and by flows, and solve tied layers."""
    values = np.sort(s.values)[::-1][: s.n]
    draws = []
    for i, one in enumerate(seeds_of(s.draws, seed)):
        progress(0.9 * i / s.draws, f"draw {i + 1} of {s.draws}")
        draws.append(_completed(s, values, np.random.default_rng(one)))
    phases, flows, passed, best, rng = draws[0]
    every = np.array([each[2] for each in draws])
    first = np.array([each[0].gaps[1] / each[3] for each in draws])
    sizes = np.sort(s.alphas)[::-1]
    return GreedyData(s, phases, flows, passed, best, every, first, *_tied(s, values, sizes, rng))


def _completed(
    s: GreedySettings, values: np.ndarray, rng: np.random.Generator
) -> tuple[GreedyLowRank, list[Trajectory], np.ndarray, float, np.random.Generator]:
    """Return the phases and flows of one completion, how near they pass, and the best loss of rank one."""
    U, V = (np.linalg.qr(rng.standard_normal((s.n, s.n)))[0][:, : len(values)] for _ in range(2))
    Y, known = (U * values) @ V.T, _mask(s, rng)
    f, sizes = Completion(Y, known), np.sort(s.alphas)[::-1]
    phases = greedy_low_rank(f, len(values), rest=1e-5)
    sides = [rng.standard_normal((s.n, s.n)) / np.sqrt(s.n) for _ in range(2)]
    flows, passed = [], []
    for alpha in sizes:
        flows.append(gradient_flow(f, [alpha * W for W in sides], until=1e-6))
        passed.append([_nearest(flows[-1], np.asarray(one.product)) for one in phases.phases])
    return phases, flows, np.array(passed), _rank_one(Y, known, rng), rng


def _mask(s: GreedySettings, rng: np.random.Generator) -> np.ndarray:
    """Return which entries are known: a random part, and a band, so that each row and column has some."""
    known = rng.random((s.n, s.n)) < s.known
    return (known | np.eye(s.n, dtype=bool) | np.roll(np.eye(s.n, dtype=bool), 1, axis=1)).astype(float)


def _nearest(run: Trajectory, W: np.ndarray) -> float:
    away = (np.linalg.norm(run.network_at(float(t)).product() - W) for t in np.asarray(run.t))
    return float(min(away) / np.linalg.norm(W))


def _rank_one(Y: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> float:
    """Return the least loss of rank one that alternating least squares finds from ten starts."""
    best = np.inf
    for _ in range(10):
        a, b = rng.standard_normal(Y.shape)[:, 0], np.zeros(Y.shape[1])
        for _ in range(500):
            b = (known * Y).T @ a / (known.T @ a**2)
            a = (known * Y) @ b / (known @ b**2)
        best = min(best, 0.5 * float(np.sum(known * (np.outer(a, b) - Y) ** 2)))
    return best


def _tied(
    s: GreedySettings, values: np.ndarray, sizes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return times, eigenvalues and their bounds for each size of the start of XXᵀ."""
    k = len(values)
    Q = np.linalg.qr(rng.standard_normal((k, k)))[0]
    Y = (Q * values) @ Q.T
    starts = [rng.standard_normal((k, 2 * k)) / np.sqrt(2 * k) for _ in range(s.seeds)]
    times, seen, bounds = [], [], []
    for alpha in sizes:
        t = np.linspace(0.0, 1.5 * (np.log(values[0] / alpha**2) + 2) / (2 * values[-1]), 120)
        times.append(t)
        seen.append([np.linalg.eigvalsh(symmetric(Y, alpha * X, t))[:, ::-1] for X in starts])
        bounds.append([symmetric_bounds(Y, alpha * X, t) for X in starts])
    limits = np.array(bounds)
    return np.array(times), np.array(seen), limits[:, :, 0], limits[:, :, 1]


def claims(data: GreedyData) -> Iterable[Claim | LeftOut]:
    """State where the phases end, what the flow passes, and that the eigenvalues keep their bounds."""
    s, phases = data.settings, data.phases
    gaps = np.array(phases.gaps)
    yield Claim(
        "Every phase comes to rest",
        f"{sum(one.settled for one in phases.phases)} of {len(phases.phases)}",
        all(one.settled for one in phases.phases),
    )
    yield Claim.within("Each phase lowers the loss: ratio", gaps[1:] / gaps[:-1], high=1.0)
    room = 1e-12 * np.max(data.high)  # rounding of the greatest eigenvalue
    yield Claim.within(
        "The eigenvalues of XXᵀ stay between bounds known from the start: least room",
        [np.min(data.seen - data.low) + room, np.min(data.high - data.seen) + room],
        0.0,
    )
    nearest = np.median(data.every[:, -1], axis=0)
    nearer = float((data.every[:, 1:, :-1] < data.every[:, :-1, :-1]).all(axis=(1, 2)).mean())
    paper = [
        Claim.within(
            "The first phase ends at the best completion of rank one, in every draw: ratio of losses",
            data.first,
            1 - 1e-6,
            1 + 1e-6,
        ),
        Claim.within(
            "From the smallest start the flow passes the end of the first phase nearer than from the largest, in "
            "every draw: ratio of distances",
            data.every[:, -1, 0] / data.every[:, 0, 0],
            high=1.0,
        ),
        Claim.within("Each smaller start passes nearer to the end of every phase: share of the draws", nearer, 0.8),
        Claim.within("From the smallest start the flow passes each within 5 %: medians", nearest, high=0.05),
    ]
    yield from about_these(s.changes("n", "values", "known", "alphas"), paper)


def draw(data: GreedyData) -> Any:
    """Draw the losses with the levels of the phases, the distances to their ends, and the eigenvalues of XXᵀ."""
    s = data.settings
    sizes = np.sort(s.alphas)[::-1]
    ranks = [one.rank for one in data.phases.phases]
    lowest = 0.3 * max(data.phases.gaps[-2], 1e-4 * data.phases.first)
    end = max(float(np.append(run.t[run.gap <= lowest], run.t[-1])[0]) for run in data.flows)
    fig, axes = figure(7.2, 2.8, ncols=3)
    for i, (alpha, run) in enumerate(zip(sizes, data.flows, strict=True)):
        colour = COLOURS[SHADES[i % len(SHADES)]]
        axes[0].plot(run.t, run.gap, color=colour, label=rf"$\alpha=10^{{{np.log10(alpha):.2g}}}$")
        axes[1].semilogy(ranks, data.passed[i], "o-", markersize=3, color=colour)
    for r, gap in enumerate(data.phases.gaps[1:-1], 1):
        axes[0].axhline(gap, color=COLOURS["black"], linewidth=0.6, linestyle=":")
        axes[0].annotate(f"rank {r}", (1.0, gap), (-2, 2), xycoords=("axes fraction", "data"),
                         textcoords="offset points", ha="right", size=7)  # fmt: skip
    axes[0].set(yscale="log", ylim=(lowest, 1.5 * data.phases.first), xlim=(0, end), xlabel="$t$", ylabel="loss")
    axes[0].set_title("Completion")
    axes[0].legend(loc="upper right")
    axes[1].set(xlabel="rank of the phase", ylabel="least relative distance", title="How near the flow passes")
    axes[1].set_xticks(ranks)
    for i in range(data.seen.shape[3]):
        colour = COLOURS[SHADES[i % len(SHADES)]]
        axes[2].fill_between(data.t[-1], data.low[-1, 0, :, i], data.high[-1, 0, :, i], color=colour, alpha=0.25)
        axes[2].plot(data.t[-1], data.seen[-1, 0, :, i], color=colour)
    axes[2].set(xlabel="$t$", ylabel="eigenvalues of $XX^{\\top}$")
    axes[2].set_title(rf"Tied layers, $\alpha=10^{{{np.log10(sizes[-1]):.2g}}}$")
    return fig


def tables(data: GreedyData) -> list[Table]:
    """The phases, and how near each flow passes."""
    sizes = np.sort(data.settings.alphas)[::-1]
    rows = [
        (one.rank, one.slope, one.gap, *column)
        for one, column in zip(data.phases.phases, data.passed.T.tolist(), strict=True)
    ]
    columns = ["rank", "slope at its saddle", "loss at its end", *(f"distance, α = {number(a)}" for a in sizes)]
    return [
        Table(
            "Phases of greedy low-rank learning, and the least relative distance of each flow, first draw",
            columns,
            rows,
        )
    ]


def numbers(data: GreedyData) -> dict[str, Any]:
    """Losses of the phases, distances, and the eigenvalues with their bounds."""
    return {
        "losses": data.phases.gaps,
        "passed": data.passed,
        "passed, every draw": data.every,
        "best of rank one": data.best,
        "t": data.t,
        "eigenvalues": data.seen,
        "lower": data.low,
        "upper": data.high,
    }


def setup(data: GreedyData) -> dict[str, str]:
    """What was computed, in words."""
    s = data.settings
    values = ", ".join(number(x) for x in s.values)
    return {
        "Completion": f"½ Σ over known entries of (Y − W)², {s.n} × {s.n}, singular values {values}, "
        f"{number(100 * s.known)} % of the entries known; {s.draws} draws, of which the first is drawn",
        "Flows": "two layers, α·N(0, 1/n) entries, full width, to 10⁻⁶ of the initial loss",
        "Tied layers": f"¼‖Y − XXᵀ‖², eigenvalues {values}, X of twice the width, {s.seeds} draws of each size; "
        "one is drawn, with its bounds shaded",
    }


experiment = PaperFigure(
    "greedy",
    "Rank by rank",
    "Greedy low-rank learning adds one rank at a time and follows the flow until it rests. The flow of two layers "
    "from a small start passes the same points, nearer the smaller the start: its loss has plateaus at the same "
    "levels. For tied layers the eigenvalues of XXᵀ are known in closed form, and they stay between two curves that "
    "follow from the size of the start alone.",
    "Li, Luo & Lyu 2021, algorithm 1; Min & Vidal 2025",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=GreedySettings,
    paper="Saxe 2014, Gidel 2019, Stöger 2021, Li 2021",
)
