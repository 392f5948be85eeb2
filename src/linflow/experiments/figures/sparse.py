"""Sparse regression by diagonal networks: when to stop, and which solution a start chooses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow.dynamics import Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._sweep import seeds_of
from linflow.model.diagonal import DiagonalRegression
from linflow.plots import COLOURS, figure

SHADES = ("blue", "vermillion", "green", "orange")
NEAR = 1.2
"""The early-stopping window: the error is at most this factor above the least one."""


@dataclass(frozen=True)
class SparseSettings(Settings):
    """The regression, its depths, and the starts of the plane."""

    n: int = setting(12, "the samples")
    d: int = setting(18, "the coefficients")
    support: int = setting(2, "how many coefficients are not 0")
    noise: float = setting(0.1, "the standard deviation of the noise")
    depth: tuple[int, ...] = setting((2, 3), "the depths", least=2)
    alpha: float = setting(1e-3, "u^N and v^N at the start, at every depth")
    start: tuple[float, ...] = setting((1e-3, 0.3, 1.0, 10.0), "α of the starts in the plane")
    seeds: int = setting(10, "the draws of the regression")


@dataclass(frozen=True)
class SparseData:
    """Runs of each depth, and of each start in the plane.

    Attributes:
        settings: The settings.
        runs: The flow of each depth, of the first draw.
        errors: Its distance to the true coefficients over their norm, at its records.
        found: By draw and depth: the least and the last error, and the first and the last time of the window.
        plane: The paths of the coefficients in the plane, one for each start.
        off: How far `asinh(β/2α²)` at their ends is from the row space of X, over its norm.
    """

    settings: SparseSettings
    runs: list[Trajectory]
    errors: list[np.ndarray]
    found: np.ndarray
    plane: list[np.ndarray]
    off: np.ndarray


def window(run: Trajectory, error: np.ndarray) -> tuple[float, float]:
    """Return the first and the last time at which the error is near its least."""
    near = np.flatnonzero(error <= NEAR * error.min())
    t = np.asarray(run.t)
    return float(t[near[0]]), float(t[near[-1]])


def compute(s: SparseSettings, seed: int, progress: Progress) -> SparseData:
    """Run the flow at every depth, and in the plane from every start."""
    draws = []
    for i, one in enumerate(seeds_of(s.seeds, seed)):
        progress(i / (s.seeds + 1), f"draw {i + 1} of {s.seeds}")
        draws.append(_runs(s, one))
    found = [
        [(e.min(), e[-1], *window(run, e)) for run, e in zip(runs, errors, strict=True)] for runs, errors in draws
    ]
    progress(s.seeds / (s.seeds + 1), "the plane")
    flat = DiagonalRegression([[1.0, 2.0]], [1.0])
    plane, off = [], []
    direction = np.array([1.0, 2.0]) / np.sqrt(5.0)
    for alpha in s.start:
        run = gradient_flow(flat, flat.start(2, alpha), until=1e-14)
        plane.append(np.array([flat.coefficients(run.network_at(float(t))) for t in np.asarray(run.t)]))
        slope = np.arcsinh(plane[-1][-1] / (2 * alpha**2))
        off.append(np.linalg.norm(slope - direction * (direction @ slope)) / np.linalg.norm(slope))
    runs, errors = draws[0]
    return SparseData(s, runs, errors, np.array(found), plane, np.array(off))


def _runs(s: SparseSettings, seed: int) -> tuple[list[Trajectory], list[np.ndarray]]:
    """Return the flow of each depth on one regression, and the error of its coefficients."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((s.n, s.d)) / np.sqrt(s.n)
    true = np.zeros(s.d)
    true[: s.support] = np.where(np.arange(s.support) % 2, -1.0, 1.0)
    f = DiagonalRegression(X, X @ true + s.noise * rng.standard_normal(s.n) / np.sqrt(s.n))
    runs, errors = [], []
    for N in s.depth:
        run = gradient_flow(f, f.start(N, s.alpha ** (1 / N)), until=1e-4, rtol=1e-5)
        seen = [f.coefficients(run.network_at(float(t))) for t in np.asarray(run.t)]
        runs.append(run)
        errors.append(np.linalg.norm(np.array(seen) - true, axis=1) / np.linalg.norm(true))
    return runs, errors


def claims(data: SparseData) -> Iterable[Claim | LeftOut]:
    """State which solutions are found, and how early stopping helps."""
    s = data.settings
    # The condition holds along the flow; a step's relative tolerance is 10⁻⁸.
    text = "The limit of two layers has asinh(β/2α²) in the row space of X: part outside"
    yield Claim.within(text, data.off, high=1e-6)
    ends = np.array([path[-1] for path in data.plane])[np.argsort(s.start)]
    yield Claim.within("Every path of the plane ends on β₁ + 2β₂ = 1", np.abs(ends @ [1.0, 2.0] - 1), high=1e-6)
    yield Claim.within(
        "The larger the start, the smaller the ℓ₂ norm of the end", np.diff(np.sum(ends**2, 1)), high=0.0
    )
    least, last = data.found[..., 0], data.found[..., 1]
    early = (least <= 0.95 * last).mean(axis=0)
    deeper = least[:, 1:] / least[:, :-1]
    paper = [
        Claim.within(
            "A start of 0.001 ends at the least ℓ₁ norm, (0, ½): distance",
            np.linalg.norm(ends[0] - [0, 0.5]),
            high=1e-2,
        ),
        Claim.within(
            "A start of 10 ends at the least ℓ₂ norm, (0.2, 0.4): distance",
            np.linalg.norm(ends[-1] - [0.2, 0.4]),
            high=1e-2,
        ),
        Claim.within(
            "Stopping early, the error is less than at the end: median ratio", np.median(least / last, 0), high=0.8
        ),
        Claim.within("It is less by 5 % or more in this share of the draws, at each depth", early, 0.8),
        Claim.within("A further layer lowers the least error: median ratio", np.median(deeper, axis=0), high=0.9),
        Claim.within("It lowers it in this share of the draws", (deeper < 1).mean(axis=0), 0.9),
    ]
    changed = s.changes("n", "d", "support", "noise", "depth", "alpha", "start")
    yield from about_these(changed, paper)


def draw(data: SparseData) -> Any:
    """Draw the error over time at every depth, and the paths in the plane."""
    s = data.settings
    fig, axes = figure(7.0, 3.0, ncols=2)
    for i, (N, run) in enumerate(zip(s.depth, data.runs, strict=True)):
        colour = COLOURS[SHADES[i % len(SHADES)]]
        t, (begin, end) = np.asarray(run.t), window(run, data.errors[i])
        axes[0].loglog(t[1:] / begin, data.errors[i][1:], color=colour, label=f"$N={N}$")
        axes[0].axvspan(1.0, end / begin, ymax=0.05 * (i + 1), color=colour, alpha=0.25)
    axes[0].set(xlim=(0.1, None), xlabel="$t$ over the first time of the window", ylabel="error")
    axes[0].set_title(r"Sparse regression by $u^N-v^N$")
    axes[0].legend(loc="upper right")
    axes[1].plot([1.0, 0.0], [0.0, 0.5], ":", color=COLOURS["black"], linewidth=1)
    for i, (alpha, path) in enumerate(zip(s.start, data.plane, strict=True)):
        axes[1].plot(*path.T, color=COLOURS[SHADES[i % len(SHADES)]], label=rf"$\alpha={alpha:g}$")
        axes[1].plot(*path[-1], "o", markersize=4, color=COLOURS[SHADES[i % len(SHADES)]])
    axes[1].set(xlim=(-0.02, 0.42), ylim=(0, 0.56), xlabel=r"$\beta_1$", ylabel=r"$\beta_2$")
    axes[1].set_title(r"Which solution of $\beta_1+2\beta_2=1$")
    axes[1].legend(loc="lower right")
    return fig


def tables(data: SparseData) -> list[Table]:
    """Least and last errors and the window: medians over the draws, a row for each depth."""
    middle = np.median(data.found, axis=0)
    ratio = np.median(data.found[..., 3] / data.found[..., 2], axis=0)
    rows = [(N, *map(float, middle[i]), float(ratio[i])) for i, N in enumerate(data.settings.depth)]
    columns = ["N", "least", "at the end", "window from", "to", "to over from"]
    return [Table(f"Error of the coefficients, medians of {data.settings.seeds} draws", columns, rows)]


def numbers(data: SparseData) -> dict[str, Any]:
    """Errors over time, and the ends of the paths."""
    runs = zip(data.settings.depth, data.runs, data.errors, strict=True)
    found = {f"N = {N}": {"t": run.t, "error": e} for N, run, e in runs}
    return {
        **found,
        "draws": data.found,
        "alpha": data.settings.start,
        "ends": np.array([path[-1] for path in data.plane]),
    }


def setup(data: SparseData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Regression": f"{s.n} samples, {s.d} coefficients, {s.support} of them ±1, noise {number(s.noise)}; "
        f"{s.seeds} draws, of which the first is drawn",
        "Start": f"all entries of u and v at {number(s.alpha)}^{{1/N}}; the flow, to 10⁻⁴ of the initial loss gap",
        "Plane": "x = (1, 2), y = 1, two layers, all entries of u and v at α",
        "Window": f"where the error is at most {number(NEAR)} times its least",
    }


experiment = PaperFigure(
    "sparse",
    "Diagonal networks find sparse solutions",
    "Sparse regression by diagonal networks u^N − v^N with noise: the flow first finds the few large coefficients "
    "and fits the noise later, so stopping early helps in most draws, at either depth. Without noise a small "
    "start ends at the solution of least ℓ₁ norm, a large one at that of least ℓ₂ norm.",
    "Li, Nguyen, Hegde & Wong 2021; Yun, Krishnan & Mobahi 2021",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=SparseSettings,
    paper="Li, Nguyen, Hegde & Wong 2021",
)
