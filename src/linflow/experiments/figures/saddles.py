"""Saddles on the way of a small start: the loss, the least eigenvalue of its Hessian, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from linflow import init
from linflow.dynamics import gradient_flow
from linflow.dynamics.landscape import Landscape, Verdict, landscape
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, require_width, setting
from linflow.experiments.figures._sweep import seeds_of
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

PALETTE = [COLOURS[name] for name in ("blue", "vermillion", "green", "purple")]
INSTANTS = 160


@dataclass(frozen=True)
class SaddlesSettings(Settings):
    """The target and the starts."""

    values: tuple[float, ...] = setting((4.0, 2.0, 1.0), "the singular values of the target, all distinct")
    h: int = setting(4, "the hidden width")
    depth: tuple[int, ...] = setting((2, 3), "the depths", least=2)
    size: float = setting(1e-8, "the product of the layers' sizes at the start: entries N(0, size^{2/L})")
    seeds: int = setting(10, "the starts of each depth")
    until: float = setting(1e-8, "the fraction of the initial loss gap at which a run ends")

    def __post_init__(self) -> None:
        require_width(self.h, self.values)


@dataclass(frozen=True)
class Passage:
    """One run.

    Attributes:
        t: instants along it.
        gap: the loss gap there.
        least: the least eigenvalue of the Hessian there.
        learned: how many singular values of the product exceed half of the target's.
        nearest: for each r, the least `‖∇L‖` while r modes are learned, and the least Hessian eigenvalue there.
        end: the landscape at the end.
    """

    t: np.ndarray
    gap: np.ndarray
    least: np.ndarray
    learned: np.ndarray
    nearest: list[tuple[float, float]]
    end: Landscape


@dataclass(frozen=True)
class SaddlesData:
    """The saddles themselves, and the runs past them.

    Attributes:
        settings: the settings.
        points: by depth, `(modes, landscape)` at the products of every set of modes.
        runs: by depth, the runs.
    """

    settings: SaddlesSettings
    points: dict[int, list[tuple[tuple[int, ...], Landscape]]]
    runs: dict[int, list[Passage]]


def compute(s: SaddlesSettings, seed: int, progress: Progress) -> SaddlesData:
    """Judge the critical points, and run from small starts."""
    values = np.sort(s.values)[::-1]
    f = MatrixFactorization(np.diag(values))
    points: dict[int, list[tuple[tuple[int, ...], Landscape]]] = {}
    runs: dict[int, list[Passage]] = {}
    for i, L in enumerate(s.depth):
        points[L], runs[L] = [], []
        for r in range(len(values) + 1):
            for modes in combinations(range(len(values)), r):
                points[L].append((modes, landscape(f, _learned(values, modes, s.h, L))))
        for j, one in enumerate(seeds_of(s.seeds, seed)):
            progress((i + j / s.seeds) / len(s.depth), f"depth {L}, start {j + 1}")
            widths = (len(values), *[s.h] * (L - 1), len(values))
            runs[L].append(_passage(f, init.gaussian(widths, s.size ** (1 / L), rng=one), values, s.until))
    return SaddlesData(s, points, runs)


def _learned(values: np.ndarray, modes: tuple[int, ...], h: int, depth: int) -> Network:
    """Return balanced diagonal layers that have learned these modes and hold nothing else."""
    sizes = np.zeros(len(values))
    sizes[list(modes)] = values[list(modes)] ** (1 / depth)
    widths = [len(values), *[h] * (depth - 1), len(values)]
    layers = [np.zeros((a, b)) for a, b in pairwise(widths)]
    for W in layers:
        W[range(len(values)), range(len(values))] = sizes
    return Network(layers)


def _passage(f: MatrixFactorization, net: Network, values: np.ndarray, until: float) -> Passage:
    run = gradient_flow(f, net, until=until)
    t, every = np.asarray(run.t), []
    for x in t[np.unique(np.linspace(0, len(t) - 1, INSTANTS).astype(int))]:
        here = run.network_at(float(x))
        found = landscape(f, here)
        s = np.linalg.svd(here.product(), compute_uv=False)
        every.append((x, found.gap, found.least, int(np.sum(s > values / 2)), found.gradient))
    at, gap, least, learned, slope = np.array(every, dtype=float).T
    nearest = []
    for r in range(len(values)):
        inside = np.flatnonzero(learned == r)
        best = inside[np.argmin(slope[inside])] if len(inside) else 0
        nearest.append((float(slope[best]) if len(inside) else np.inf, float(least[best])))
    return Passage(at, gap, least, learned, nearest, landscape(f, run.final))


def claims(data: SaddlesData) -> Iterable[Claim | LeftOut]:
    """State which points are saddles of which kind, and what the runs pass."""
    s = data.settings
    values = np.sort(s.values)[::-1]
    for L in s.depth:
        kinds = [(_expected(modes, values, L), found.verdict) for modes, found in data.points[L]]
        right = sum(a is b for a, b in kinds)
        saddles = sum(a is not Verdict.GLOBAL_MINIMUM for a, _ in kinds)
        flat = sum(a is Verdict.FLAT_SADDLE for a, _ in kinds)
        yield Claim(
            f"At {L} layers the verdict on every critical point is that of the theory: {saddles - flat} strict "
            f"saddles, {flat} flat ones, one global minimum",
            f"{right} of {len(kinds)}",
            right == len(kinds),
        )
    if 2 in s.depth:
        leading = [(modes, found) for modes, found in data.points[2] if modes == tuple(range(len(modes)))]
        yield Claim.within(
            "The Hessian of two layers has the least eigenvalue −σ_{r+1} where the r largest modes are learned: "
            "difference",
            [
                abs(float(found.least or 0) + values[len(modes)])
                for modes, found in leading
                if len(modes) < len(values)
            ],
            0, 1e-10 * values[0],
        )  # fmt: skip
    ends = [one.gap[-1] <= 2 * s.until * one.gap[0] for L in s.depth for one in data.runs[L]]
    observed = f"{sum(ends)} of {len(ends)} reach {number(s.until)}"
    yield Claim("No run stays at a saddle", observed, all(ends))
    yield from about_these(s.changes("values", "h", "depth", "size"), list(_run_claims(data, values)))


def _expected(modes: tuple[int, ...], values: np.ndarray, depth: int) -> Verdict:
    """Return the kind of point by Achour, Malgouyres and Gerchinovitz 2024."""
    if len(modes) == len(values):
        return Verdict.GLOBAL_MINIMUM
    leading = modes == tuple(range(len(modes)))
    return Verdict.FLAT_SADDLE if leading and depth > 2 else Verdict.STRICT_SADDLE


def _run_claims(data: SaddlesData, values: np.ndarray) -> Iterable[Claim]:
    """State what the runs from these starts see."""
    for L in data.settings.depth:
        at = np.array([[least for _, least in one.nearest] for one in data.runs[L]])
        if L == 2:
            yield Claim.within(
                "Passing the saddles, two layers see the least eigenvalue −σ_{r+1}: ratio, all starts",
                at / -values, 0.85, 1.05,
            )  # fmt: skip
        else:
            yield Claim.within(
                f"Passing them, {L} layers see a way down that is far less steep: least eigenvalue over −σ_{{r+1}}",
                at / -values, 0, 0.3,
            )  # fmt: skip
    slow = [data.runs[L][0].t[np.argmax(data.runs[L][0].learned >= 1)] for L in data.settings.depth]
    if len(slow) > 1:
        yield Claim.within(
            "So the deeper network leaves the first saddle later: ratio of times", slow[1] / slow[0], 1.0
        )


def draw(data: SaddlesData) -> Any:
    """Draw the loss and the least eigenvalue of the Hessian along one run of each depth."""
    s = data.settings
    values = np.sort(s.values)[::-1]
    fig, axes = figure(9.6, 4.4, nrows=2, ncols=len(s.depth), sharex="col", squeeze=False)
    for j, L in enumerate(s.depth):
        one, (loss, least) = data.runs[L][0], axes[:, j]
        loss.semilogy(one.t, one.gap, color=PALETTE[0])
        least.plot(one.t, one.least, color=PALETTE[1])
        for r in range(len(values)):
            kind = next(found.verdict for modes, found in data.points[L] if modes == tuple(range(r)))
            level = 0.5 * float(np.sum(values[r:] ** 2))
            loss.axhline(level, color=COLOURS["grey"], linewidth=0.7, linestyle=":")
            loss.annotate(f"{r} learned: {kind.value}", (1.0, level), (-2, 2), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", size=7)  # fmt: skip
            if L == 2:
                least.axhline(-values[r], color=COLOURS["grey"], linewidth=0.7, linestyle=":")
                least.annotate(rf"$-\sigma_{r + 1}$", (1.0, -values[r]), (-2, 2), xycoords=("axes fraction", "data"),
                               textcoords="offset points", ha="right", size=7)  # fmt: skip
        loss.set(ylabel="loss", ylim=(1e-4 * one.gap[0], 3 * one.gap[0]))
        loss.set_title(f"{L} layers")
        above = one.t[one.gap > 1e-4 * one.gap[0]]
        end = one.t[min(len(above), len(one.t) - 1)]
        least.set(xlabel="$t$", ylabel=r"least eigenvalue of $\nabla^2L$", xlim=(0, end))
        least.axhline(0, color=COLOURS["black"], linewidth=0.6)
    return fig


def tables(data: SaddlesData) -> list[Table]:
    """The critical points, and what one run saw nearest to them."""
    rows = []
    for L in data.settings.depth:
        for modes, found in data.points[L]:
            names = ", ".join(str(i + 1) for i in modes) or "none"
            rows.append((L, names, found.verdict.value, float(found.gap), number(float(found.least or 0.0))))
    columns = ["depth", "modes learned", "verdict", "loss above f*", "least eigenvalue"]
    return [Table("Critical points with balanced layers", columns, rows)]


def numbers(data: SaddlesData) -> dict[str, Any]:
    """Losses and least eigenvalues along the runs."""
    return {
        f"L = {L}": [{"t": one.t, "gap": one.gap, "least": one.least, "nearest": one.nearest} for one in runs]
        for L, runs in data.runs.items()
    }


def setup(data: SaddlesData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": f"½‖Y − W‖², Y diagonal with singular values {', '.join(number(v) for v in s.values)}",
        "Starts": f"width {s.h}, entries N(0, {number(s.size)}^(2/L)), {s.seeds} of each depth; the first is drawn",
        "Flow": f"to {number(s.until)} of the initial gap",
        "Verdict": "`landscape` at the point with these modes and nothing else",
    }


experiment = PaperFigure(
    "saddles",
    "Saddles on the way",
    "A small start passes a saddle before it learns each mode: plateaus of the loss. Two layers see a strict saddle "
    "each time: the Hessian has the eigenvalue −σ of the mode that is next. With three layers these saddles are "
    "flat, the way down is only seen away from them, and the plateaus are longer. Saddles that miss a larger mode "
    "are strict at any depth.",
    "Achour, Malgouyres & Gerchinovitz 2024; Laurent & von Brecht 2018; talk, line on saddles; docs/landscape.md",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=SaddlesSettings,
    paper="Achour, Malgouyres & Gerchinovitz 2024",
)
