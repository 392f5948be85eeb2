"""Two wide layers under four rules for the step of gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow.experiments.figures._outcome import Claim, Progress, Table, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._starts import STARTS, start
from linflow.experiments.figures._sweep import Row, by_hand, complete_claim, rows_claim, rows_of, seeds_of
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, figure

RULES = {
    "constant": ("constant, safe", "orange"),
    "xu2025": ("schedule of Xu et al.", "vermillion"),
    "backtracking": ("backtracking", "green"),
    "local_smoothness": ("local smoothness", "blue"),
}
TIMES = 5.0
"""Factor by which the rules that look at the local curvature are claimed to need fewer steps."""


@dataclass(frozen=True)
class StepSizesSettings(Settings):
    """Sizes, widths, start, and how many draws of each width."""

    n: int = setting(10, "the rows and columns of X and Y")
    h: tuple[int, ...] = setting((500, 1000, 4000), "the hidden widths")
    start: str = setting("gaussian", "the start", among=STARTS)
    seeds: int = setting(30, "the draws of each width")
    noise: float = setting(0.1, "the standard deviation of the noise in Y")
    until: float = setting(1e-8, "the fraction of the initial loss gap at which a run ends")

    @property
    def shown(self) -> int:
        """The width whose curves are drawn: the middle one."""
        return sorted(self.h)[len(self.h) // 2]


@dataclass(frozen=True)
class StepSizesData:
    """The cells of the sweep: every draw of every width under every rule."""

    settings: StepSizesSettings
    objective: LinearRegression
    rows: list[Row]

    def of(self, rule: str, h: int | None = None) -> list[Row]:
        """The cells of a rule, for one width if it is given."""
        return [row for row in self.rows if row["schedule"] == rule and h in (None, row["hidden"][0])]

    def steps(self, rule: str, h: int | None = None) -> np.ndarray:
        """How many steps each of these cells took; the draws have the same order for every rule."""
        return np.array([row["steps"] for row in self.of(rule, h)])

    def ratio(self, rule: str, to: str) -> np.ndarray:
        """The steps of one rule over those of another, from the same start."""
        return np.concatenate([self.steps(rule, h) / self.steps(to, h) for h in self.settings.h])


def compute(s: StepSizesSettings, seed: int, progress: Progress) -> StepSizesData:
    """Run every rule from every draw of every width."""
    rng = np.random.default_rng(seed)
    X = np.linalg.qr(rng.standard_normal((s.n, s.n)))[0]
    W = rng.standard_normal((s.n, s.n)) / np.sqrt(s.n)
    Y = X @ W + s.noise * rng.standard_normal((s.n, s.n))
    widths: dict[str, Any] = {"hidden": [[h] for h in s.h]}
    if s.start == "gaussian":
        widths["size"] = [h**-0.5 for h in s.h]
    grid = {
        "algorithm": "descent",
        "data": {"x": X, "y": Y},
        "start": {"init": s.start},
        "flow": {"until": s.until},
        "descent": {"steps": 5000},
        "sweep": {"check": True, "curves": 400},
        "grid": {"schedule": list(RULES), "seeds": seeds_of(s.seeds, seed)},
        "zip": [widths],
    }
    return StepSizesData(s, LinearRegression(X, Y), rows_of(grid, progress))


def claims(data: StepSizesData) -> Iterable[Claim]:
    """State what is drawn, what is certified, and how many steps each rule needs."""
    rows = data.rows
    yield complete_claim(rows, "descent")
    for rule in RULES:
        yield _drawn_claim(data.objective, data.of(rule, data.settings.shown)[0], data.settings.start)
    rises = max(float(np.max(np.diff(row["curve_gap"]) / row["curve_gap"][0])) for row in rows)
    yield Claim.within("The loss rises in no step of any run: greatest rise over the initial loss", rises, high=1e-12)
    promised = [row for row in rows if row["schedule"] in ("constant", "xu2025")]
    yield Claim.within(
        "A rate is certified for every constant step and every start of the schedule",
        [row["certified_rate"] for row in promised],
        np.nextafter(0, 1),
    )
    yield rows_claim(promised, "Each of these descents keeps its certificate")
    yield from _steps_claims(data)


def _steps_claims(data: StepSizesData) -> Iterable[Claim]:
    """Compare the numbers of steps that the rules need from the same start."""
    growth = [row["curve_step_size"][-1] / row["curve_step_size"][0] for row in data.of("xu2025")]
    yield Claim.within("The step of the schedule of Xu et al. grows: last over first", growth, 1.0 + 1e-6)
    schedule = data.ratio("xu2025", "constant")
    yield Claim.within("From the same first step it needs no more steps than the constant one: ratio", schedule, 0, 1)
    for rule in ("backtracking", "local_smoothness"):
        yield Claim.within(
            f"{RULES[rule][0].capitalize()} needs at most 1/{number(TIMES)} of the steps of the constant one: ratio",
            data.ratio(rule, "constant"),
            0,
            1 / TIMES,
        )
    local = data.ratio("local_smoothness", "backtracking")
    yield Claim.within("Local smoothness needs no more steps than backtracking: ratio", local, 0, 1)


def _drawn_claim(objective: LinearRegression, row: Row, kind: str = "gaussian") -> Claim:
    """Claim that the curves of a row are the steps and losses of a descent whose steps are taken by hand."""
    h, eta, gap = row["hidden"][0], row["curve_step_size"], np.array(row["curve_gap"])
    net = start(kind, (objective.shape[0], h, objective.shape[1]), row["seed"])
    # The curve must hold every step, not some: its index is the number of steps, which the last axis shows.
    gaps = by_hand(objective, net, eta) if len(eta) == row["steps"] else np.full(len(gap), np.nan)
    return Claim.same(
        f"Steps taken by hand give the losses drawn for {RULES[row['schedule']][0]}, and their number",
        gap / gap[0],
        gaps,
        1e-6,  # rounding of the last gap, which is 10⁻⁸ of the first and the square of what is rounded
    )


def draw(data: StepSizesData) -> Any:
    """Draw losses and steps of one width, and the number of steps over width."""
    fig, axes = figure(7.4, 2.9, ncols=3)
    for rule in RULES:
        _draw_curves(axes[:2], data, rule)
        _draw_steps(axes[2], data, rule)
    shown, until = data.settings.shown, data.settings.until
    axes[0].set(yscale="log", xscale="symlog", xlim=(0, None), ylim=(until, 1.5))
    axes[0].set(xlabel="step", ylabel="loss over initial loss", title=f"Loss, $h = {shown}$")
    axes[1].set(yscale="log", xscale="symlog", xlim=(0, None), xlabel="step")
    axes[1].set(ylabel=r"step size $\eta_t$", title=f"Step size, $h = {shown}$")
    axes[2].set(xscale="log", yscale="log", xlabel="width", ylabel="steps", title=f"Steps to {_power(until)}")
    axes[2].set_xticks(data.settings.h, list(map(str, data.settings.h)))
    axes[2].set_xticks([], minor=True)
    for ax, ticks in ((axes[1], (0.05, 0.1, 0.2, 0.5)), (axes[2], (5, 10, 20, 50, 100))):
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_yticks([], minor=True)
    fig.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def _draw_curves(axes: Any, data: StepSizesData, rule: str) -> None:
    look = {"color": COLOURS[RULES[rule][1]], "linewidth": 0.5, "alpha": 0.5}
    for row in data.of(rule, data.settings.shown):
        gap = np.array(row["curve_gap"])
        axes[0].plot(gap / gap[0], **look)
        axes[1].plot(np.array(row["curve_step_size"]), **look)


def _draw_steps(ax: Any, data: StepSizesData, rule: str) -> None:
    """Draw the median over the draws of each width, and bars from least to greatest."""
    name, colour = RULES[rule]
    steps = [data.steps(rule, h) for h in data.settings.h]
    middle = [np.median(some) for some in steps]
    ends = np.array([[mid - some.min(), some.max() - mid] for mid, some in zip(middle, steps, strict=True)]).T
    look = {"color": COLOURS[colour], "marker": "o", "markersize": 3, "linewidth": 1}
    ax.errorbar(data.settings.h, middle, ends, label=name, **look)


def _power(x: float) -> str:
    mantissa, _, exponent = f"{x:.0e}".partition("e")
    return f"${'' if mantissa == '1' else mantissa + chr(92) + 'cdot'}10^{{{int(exponent)}}}$"


def tables(data: StepSizesData) -> list[Table]:
    """Median and greatest number of steps, a row for each rule."""
    s = data.settings
    rows = []
    for rule, (name, _) in RULES.items():
        steps = [data.steps(rule, h) for h in s.h]
        rows.append((name, *(float(measure(some)) for some in steps for measure in (np.median, np.max))))
    title = f"Steps until the loss is {number(s.until)} of its initial value: median and greatest of {s.seeds} draws"
    return [Table(title, ["rule", *(f"h = {h}, {what}" for h in s.h for what in ("median", "greatest"))], rows)]


def numbers(data: StepSizesData) -> dict[str, Any]:
    """Rule, width, steps, certified and observed rate of each cell."""
    columns = {
        "schedule": "schedule",
        "width": "width",
        "steps": "steps",
        "certified": "certified_rate",
        "rate": "rate",
    }
    return {name: [row[column] for row in data.rows] for name, column in columns.items()}


def setup(data: StepSizesData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    entries = "N(0, 1/h) entries" if s.start == "gaussian" else STARTS[s.start][1]
    return {
        "Objective": f"½‖Y − XW₁W₂‖², {s.n} × {s.n}, X orthogonal, Y = XW + {s.noise:g} N(0, 1)",
        "Starts": f"{entries}, {s.seeds} draws of each width",
        "Constant": "the step that the library advises for this start",
        "Schedule of Xu et al.": "η_t = min((1 + η_0²)^{t/2} η_0, 1/K_t), from the same first step",
        "Backtracking": "Armijo's rule, from 1",
        "Local smoothness": "η_t = 1/K_t of the step itself",
    }


experiment = PaperFigure(
    "step_sizes",
    "Four rules for the step of gradient descent",
    "Two wide layers on a well-conditioned regression, from many draws of each width. A step that is certified "
    "before the run must suit the worst weights that the run may meet. A schedule may let the step grow. Rules that "
    "look at the curvature at the current weights need far fewer steps, at every width.",
    "Xu, Min, Tarmoun, Mallada & Vidal 2025",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=StepSizesSettings,
    paper="Xu, Min, Tarmoun, Mallada & Vidal 2025",
    full=True,
)
