"""Implicit bias: where the flow on an underdetermined regression ends, over width, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow.certificates.least_norm import LeastNormDistance, least_norm_distance
from linflow.dynamics import Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.model.network import Network
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, figure

PALETTE = [COLOURS[name] for name in ("blue", "orange", "green", "purple", "vermillion", "sky")]
CLOSE = 0.08
"""How far a fitted slope may be from ½ − 2a: the scatter of five draws a width."""


@dataclass(frozen=True)
class ImplicitBiasSettings(Settings):
    """Sizes, widths, and the exponents of the variance."""

    n: int = setting(10, "the inputs")
    N: int = setting(5, "the samples, fewer than the inputs")
    m: int = setting(2, "the outputs")
    h: tuple[int, ...] = setting(tuple(50 * 2**k for k in range(9)), "the hidden widths")
    a: tuple[float, ...] = setting((0.5, 0.4, 0.3), "the exponents: entries are N(0, h^(−2a))")
    seeds: int = setting(5, "the draws of each width")
    until: float = setting(1e-12, "the part of the initial gap at which a run ends")

    def __post_init__(self) -> None:
        if self.n <= self.N:
            raise ValueError(
                f"n={self.n} inputs and N={self.N} samples: fewer samples than inputs are needed, or the solution is "
                "unique."
            )
        if len(self.h) < 2:
            raise ValueError("h has one width; two or more are needed, for the slope over the width.")
        if self.until >= 1:
            raise ValueError(f"until={self.until:g}; a fraction below 1 is needed.")


@dataclass(frozen=True)
class ImplicitBiasData:
    """The ends of all runs, and single runs that are drawn.

    Attributes:
        settings: the settings.
        objective: the regression.
        found: by exponent and width, what `least_norm_distance` says of each run.
        shown: by exponent, a run at the middle width.
        orthogonal: a run from a start whose frozen part is orthogonal to the rest.
        scaled: the run of the model with output scale `h^{−1/2}` and N(0, 1) entries, and the one of a = ¼ from the
            same draw.
        pinv: the distances of the shown ends to X⁺Y, from NumPy's pseudo-inverse.
    """

    settings: ImplicitBiasSettings
    objective: LinearRegression
    found: dict[float, dict[int, list[LeastNormDistance]]]
    shown: dict[float, Trajectory]
    orthogonal: Trajectory
    scaled: tuple[Trajectory, Trajectory]
    pinv: list[tuple[float, float]]

    @property
    def middle(self) -> int:
        """The width of the single runs."""
        return _middle(self.settings)

    def means(self, a: float, measure: str = "distance") -> np.ndarray:
        """The geometric mean of a measure over the draws, for each width."""
        rows = [[getattr(one, measure) for one in self.found[a][h]] for h in self.settings.h]
        with np.errstate(divide="ignore"):
            return np.exp(np.log(rows).mean(axis=1))

    def slope(self, a: float) -> float:
        """The slope of the distance over the width, both as logarithms."""
        return float(np.polyfit(np.log(self.settings.h), np.log(self.means(a)), 1)[0])


def _middle(s: ImplicitBiasSettings) -> int:
    return sorted(s.h)[len(s.h) // 2]


def compute(s: ImplicitBiasSettings, seed: int, progress: Progress) -> ImplicitBiasData:
    """Run every draw of each width and exponent, and the single runs."""
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((s.N, s.n)) / s.n**0.5, rng.standard_normal((s.N, s.m))
    f = LinearRegression(X, Y)
    found: dict[float, dict[int, list[LeastNormDistance]]] = {a: {} for a in s.a}
    shown, pinv = {}, []
    solution = np.linalg.pinv(X) @ Y
    for i, h in enumerate(s.h):
        draws = [init.gaussian((s.n, h, s.m), rng=rng) for _ in range(s.seeds)]
        for a in s.a:
            progress((i + 0.5) / (len(s.h) + 1), f"width {h}, a = {a:g}")
            runs = [gradient_flow(f, _times(net, h**-a), until=s.until) for net in draws]
            found[a][h] = [least_norm_distance(f, run) for run in runs]
            if h == _middle(s):
                shown[a] = runs[0]
                away = float(np.linalg.norm(runs[0].final.product() - solution))
                pinv.append((found[a][h][0].distance, away))
    h = _middle(s)
    net = init.gaussian((s.n, h, s.m), rng=rng)
    orthogonal = gradient_flow(f, _orthogonal(f, _times(net, h**-0.5)), until=s.until)
    model = gradient_flow(f, Network(net.weights, h**-0.5), until=s.until)
    quarter = gradient_flow(f, _times(net, h**-0.25), until=s.until)
    return ImplicitBiasData(s, f, found, shown, orthogonal, (model, quarter), pinv)


def _times(net: Network, factor: float) -> Network:
    return Network([factor * W for W in net.weights])


def _orthogonal(f: LinearRegression, net: Network) -> Network:
    """Return the start with the part of U_2 that is orthogonal to the rows of U_1 and the columns of W_2."""
    first, second = net.weights
    seen = f.row_space @ (f.row_space.T @ first)
    basis = np.linalg.qr(np.hstack([seen.T @ f.row_space, second]))[0]
    frozen = first - seen
    return Network([seen + frozen - (frozen @ basis) @ basis.T, second])


def claims(data: ImplicitBiasData) -> Iterable[Claim | LeftOut]:
    """State the slopes of the paper, then what theory promises for every run."""
    s = data.settings
    yield from about_these(s.changes("n", "N", "m", "h", "a", "seeds", "until"), _of_the_paper(data))
    every = [one for by_width in data.found.values() for some in by_width.values() for one in some]
    yield Claim.all_below(
        "The part of W that the loss does not see ends below its bound, known before the run",
        [one.unseen for one in every],
        [one.bound for one in every],
        1e-9,  # the accuracy of the runs
    )
    end = least_norm_distance(data.objective, data.orthogonal)
    mu = data.objective.effective(data.orthogonal.start)[0].strong_convexity
    yield Claim(
        "A start with U₂W₂ = 0 and U₂U₁ᵀ = 0 ends at the least-norm solution: what is left is at most √(2·gap/μ)",
        f"‖W − X⁺Y‖ = {number(end.distance)} at a gap of {number(float(data.orthogonal.gap[-1]))}, "
        f"of which the loss does not see {number(end.unseen, 1)}",
        end.exact and end.distance <= (2 * float(data.orthogonal.gap[-1]) / mu) ** 0.5 * (1 + 1e-6) + 1e-12,
        end.distance,
    )
    model, quarter = data.scaled
    times = np.linspace(0, 1, 40) * min(float(quarter.t[-1]), float(model.t[-1]) / data.middle**0.5)
    yield Claim.same(
        "The model with output scale 1/√h and N(0, 1) entries is that of a = ¼ in the time t/√h",
        np.log(model.gap_at(np.minimum(times * data.middle**0.5, model.t[-1])) / model.gap[0]) - 1,
        np.log(quarter.gap_at(times) / quarter.gap[0]) - 1,
        1e-5,  # two integrations, and interpolation between their steps
    )
    shown, right = zip(*data.pinv, strict=True)
    yield Claim.same("The distances drawn are those to NumPy's pseudo-inverse times Y", shown, right, 1e-9)


def _of_the_paper(data: ImplicitBiasData) -> Iterable[Claim]:
    """Claim that the distance falls like `h^{1/2−2a}`, and that the time to a gap falls like `h^{2a−1}`."""
    for a in data.settings.a:
        slope, order = data.slope(a), 0.5 - 2 * a
        text = f"For a = {a:g} the distance falls like h^{number(order)}: the fitted slope"
        yield Claim.within(text, slope, order - CLOSE, order + CLOSE)
    times = [float(run.time_to(1e-6)) * data.middle ** (1 - 2 * a) for a, run in data.shown.items()]
    yield Claim.within(
        f"At h = {data.middle} the runs differ in time by h^(2a−1): time to 10⁻⁶ times h^(1−2a), over the first",
        np.divide(times, times[0]),
        0.25,
        4.0,
    )


def draw(data: ImplicitBiasData) -> Any:
    """Draw distances over width, distances over the gap, and losses over time."""
    fig, (left, middle, right) = figure(9.6, 3.4, ncols=3)
    h = np.asarray(data.settings.h)
    for a, colour in zip(data.settings.a, PALETTE, strict=False):
        left.loglog(
            h, data.means(a), "o-", color=colour, markersize=3, label=f"$a = {a:g}$: slope {data.slope(a):.3f}"
        )
        left.loglog(h, data.means(a, "bound"), "--", color=colour, linewidth=1)
    left.plot([], [], "--", color=COLOURS["grey"], linewidth=1, label="bound before the run")
    left.set_xlabel("width $h$")
    left.set_ylabel(r"$\|W(\infty) - X^{+}Y\|_F$")
    left.legend(loc="upper right", fontsize=8)
    for run, name, colour in (
        (data.shown[data.settings.a[0]], f"Gaussian, $a = {data.settings.a[0]:g}$", PALETTE[0]),
        (data.orthogonal, "orthogonal parts", COLOURS["vermillion"]),
    ):
        gaps, away = _path(data.objective, run)
        middle.loglog(gaps, away, color=colour, label=name)
    middle.invert_xaxis()
    middle.set_xlabel("loss gap over the initial gap")
    middle.set_ylabel(rf"$\|W(t) - X^{{+}}Y\|_F$, $h = {data.middle}$")
    middle.legend(loc="lower left", fontsize=8)
    for (a, run), colour in zip(data.shown.items(), PALETTE, strict=False):
        right.loglog(run.t[1:], run.gap[1:] / run.gap[0], color=colour, label=f"$a = {a:g}$")
    model = data.scaled[0]
    right.loglog(model.t[1:], model.gap[1:] / model.gap[0], ":", color=COLOURS["black"], label=r"scale $1/\sqrt{h}$")
    right.set_xlabel("time $t$")
    right.set_ylabel("loss gap over the initial gap")
    right.legend(loc="lower left", fontsize=8)
    return fig


def _path(f: LinearRegression, run: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Return gaps over the first and distances to W*, at stored steps of a run."""
    chosen = np.unique(np.linspace(0, len(run.t) - 1, 60).astype(int))
    away = [np.linalg.norm(run.network_at(float(run.t[i])).product() - f.minimizer) for i in chosen]
    return np.asarray(run.gap)[chosen] / run.gap[0], np.array(away)


def tables(data: ImplicitBiasData) -> list[Table]:
    """Distances and bounds, a row for each width."""
    found = []
    for a in data.settings.a:
        columns = [data.means(a, name) for name in ("distance", "bound", "exposure", "mixing")]
        rows = [(h, *values) for h, *values in zip(data.settings.h, *columns, strict=True)]
        title = f"a = {a:g}: geometric means of {data.settings.seeds} draws"
        found.append(Table(title, ["h", "distance", "bound", "exposure s", "mixing"], rows))
    return found


def numbers(data: ImplicitBiasData) -> dict[str, Any]:
    """Distances and bounds by exponent."""
    return {
        f"{a:g}": {"h": list(data.settings.h), "distance": data.means(a), "bound": data.means(a, "bound")}
        for a in data.settings.a
    }


def setup(data: ImplicitBiasData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": f"½‖Y − XW₁W₂‖², {s.N} samples of {s.n} inputs, entries of X N(0, 1/n), of Y N(0, 1)",
        "Widths": ", ".join(map(str, s.h)),
        "Start": "independent N(0, h^(−2a)) entries",
        "Draws": f"{s.seeds} of each width",
        "Flow": f"to {s.until:g} of the initial gap",
    }


experiment = PaperFigure(
    "implicit_bias",
    "Implicit bias: the least-norm solution",
    "Fewer samples than inputs: many W minimise the loss. The part U₂ of W₁ that the data do not see never moves, "
    "but W₂ does, so the limit is the least-norm solution only up to U₂W₂. Wide random starts make it small, like "
    "h^(1/2−2a) for entries N(0, h^(−2a)), and a start with U₂ orthogonal to the rest ends at X⁺Y. Solid: where runs "
    "end. Dashed: what the start guarantees. The exponent a is also a scale of time.",
    "Min, Tarmoun, Vidal & Mallada 2021 (arXiv 2105.06351); the bound with constants is of this library",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=ImplicitBiasSettings,
    paper="Min, Tarmoun, Vidal & Mallada 2021",
)
