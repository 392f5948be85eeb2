"""Two wide layers under four rules for the step of gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow import init
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table, number
from linflow.experiments.figures._sweep import Row, by_hand, complete_claim, rows_claim, rows_of
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, figure

SIDE, WIDTHS, DRAWS, NOISE, UNTIL = 10, (500, 1000, 4000), 30, 0.1, 1e-8
RULES = {
    "constant": ("constant, safe", "orange"),
    "xu2025": ("schedule of Xu et al.", "vermillion"),
    "backtracking": ("backtracking", "green"),
    "local_smoothness": ("local smoothness", "blue"),
}
SHOWN = 1000
"""The width whose curves are drawn."""
TIMES = 5.0
"""How many times fewer steps the rules that look at the local curvature are claimed to need."""


def _drawn_claim(objective: LinearRegression, row: Row) -> Claim:
    """Claim that the curves of a row are the steps and the losses of a descent, by steps taken by hand."""
    h, eta, gap = row["hidden"][0], row["curve_step_size"], np.array(row["curve_gap"])
    net = init.gaussian((SIDE, h, SIDE), h**-0.5, rng=row["seed"])
    # A curve of all steps, not of some: its index is the number of steps, which is the last axis.
    gaps = by_hand(objective, net, eta) if len(eta) == row["steps"] else np.full(len(gap), np.nan)
    return Claim.same(
        f"By hand, the steps drawn of {RULES[row['schedule']][0]} have the losses drawn, and their number",
        gap / gap[0],
        gaps,
        1e-6,  # rounding of the last gap, 10⁻⁸ of the first and a square of what is rounded
    )


def _run(seed: int, progress: Progress) -> Outcome:
    rng = np.random.default_rng(seed)
    X = np.linalg.qr(rng.standard_normal((SIDE, SIDE)))[0]
    W = rng.standard_normal((SIDE, SIDE)) / np.sqrt(SIDE)
    Y = X @ W + NOISE * rng.standard_normal((SIDE, SIDE))
    grid = {
        "algorithm": "descent",
        "data": {"x": X, "y": Y},
        "start": {"init": "gaussian"},
        "flow": {"until": UNTIL},
        "descent": {"steps": 5000},
        "sweep": {"check": True, "curves": 400},
        "grid": {"schedule": list(RULES), "seeds": list(range(DRAWS * seed, DRAWS * (seed + 1)))},
        "zip": [{"hidden": [[h] for h in WIDTHS], "size": [h**-0.5 for h in WIDTHS]}],
    }
    rows = rows_of(grid, progress)
    steps = {
        (rule, h): np.array([r["steps"] for r in rows if r["schedule"] == rule and r["hidden"] == [h]])
        for rule in RULES
        for h in WIDTHS
    }
    promised = [row for row in rows if row["schedule"] in ("constant", "xu2025")]
    rises = max(float(np.max(np.diff(row["curve_gap"]) / row["curve_gap"][0])) for row in rows)
    growth = np.array(
        [row["curve_step_size"][-1] / row["curve_step_size"][0] for row in rows if row["schedule"] == "xu2025"]
    )

    def ratio(rule: str, to: str) -> np.ndarray:
        return np.concatenate([steps[rule, h] / steps[to, h] for h in WIDTHS])

    certified = np.array([row["certified_rate"] for row in promised])
    schedule, constant = ratio("xu2025", "constant"), "the constant one"
    local = ratio("local_smoothness", "backtracking")
    shown = {rule: [r for r in rows if r["schedule"] == rule and r["hidden"] == [SHOWN]] for rule in RULES}
    claims = [
        complete_claim(rows, "descent"),
        *(_drawn_claim(LinearRegression(X, Y), some[0]) for some in shown.values()),
        Claim.within("The loss rises in no step of any run: greatest rise over the first loss", rises, high=1e-12),
        Claim.within(
            "A rate is certified for every constant step and every start of the schedule",
            certified,
            np.nextafter(0, 1),
        ),
        rows_claim(promised, "Each of these descents keeps its certificate"),
        Claim.within("The step of the schedule of Xu et al. grows: last over first", growth, 1.0 + 1e-6),
        Claim.within(f"From the same first step it needs no more steps than {constant}: ratio", schedule, 0, 1),
        *(
            Claim.within(
                f"{RULES[rule][0].capitalize()} needs {number(TIMES)} times fewer steps than {constant}: ratio",
                ratio(rule, "constant"),
                0,
                1 / TIMES,
            )
            for rule in ("backtracking", "local_smoothness")
        ),
        Claim.within("Local smoothness needs no more steps than backtracking: ratio", local, 0, 1),
    ]

    def draw() -> Any:
        fig, axes = figure(7.4, 2.9, ncols=3)
        for rule, (name, colour) in RULES.items():
            for row in shown[rule]:
                gap, eta = np.array(row["curve_gap"]), np.array(row["curve_step_size"])
                axes[0].plot(gap / gap[0], color=COLOURS[colour], linewidth=0.5, alpha=0.5)
                axes[1].plot(eta, color=COLOURS[colour], linewidth=0.5, alpha=0.5)
            middle = [np.median(steps[rule, h]) for h in WIDTHS]
            ends = np.array(
                [[middle[i] - s.min(), s.max() - middle[i]] for i, s in enumerate(steps[rule, h] for h in WIDTHS)]
            ).T
            axes[2].errorbar(
                WIDTHS, middle, ends, color=COLOURS[colour], marker="o", markersize=3, linewidth=1, label=name
            )
        axes[0].set(
            yscale="log",
            xscale="symlog",
            xlim=(0, None),
            ylim=(UNTIL, 1.5),
            xlabel="step",
            ylabel="loss over its first",
        )
        axes[1].set(yscale="log", xscale="symlog", xlim=(0, None), xlabel="step", ylabel=r"step size $\eta_t$")
        axes[0].set_title(f"Loss, $h = {SHOWN}$")
        axes[1].set_title(f"Step size, $h = {SHOWN}$")
        axes[2].set(xscale="log", yscale="log", xlabel="width", ylabel="steps")
        axes[2].set_xticks(WIDTHS, list(map(str, WIDTHS)))
        axes[2].set_xticks([], minor=True)
        for ax, ticks in ((axes[1], (0.05, 0.1, 0.2, 0.5)), (axes[2], (5, 10, 20, 50, 100))):
            ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.set_yticks([], minor=True)
        axes[2].set_title(f"Steps to {UNTIL:.0e}".replace("1e-08", "$10^{-8}$"))
        fig.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return fig

    return Outcome(
        claims,
        draw,
        {
            "schedule": [row["schedule"] for row in rows],
            "width": [row["width"] for row in rows],
            "steps": [row["steps"] for row in rows],
            "certified": [row["certified_rate"] for row in rows],
            "rate": [row["rate"] for row in rows],
        },
        {
            "Objective": f"½‖Y − XW₁W₂‖², {SIDE} × {SIDE}, X orthogonal, Y = XW + {NOISE} N(0, 1)",
            "Starts": f"N(0, 1/h) entries, {DRAWS} draws of each width",
            "Constant": "the step that the library advises for this start",
            "Schedule of Xu et al.": "η_t = min((1 + η_0²)^{t/2} η_0, 1/K_t), from the same first step",
            "Backtracking": "Armijo's rule, from 1",
            "Local smoothness": "η_t = 1/K_t of the step itself",
        },
        [
            Table(
                f"Steps until the loss is {number(UNTIL)} of its first: median and greatest of {DRAWS} draws",
                ["rule", *(f"h = {h}, {what}" for h in WIDTHS for what in ("median", "greatest"))],
                [
                    (name, *(float(f(steps[rule, h])) for h in WIDTHS for f in (np.median, np.max)))
                    for rule, (name, _) in RULES.items()
                ],
            )
        ],
    )


experiment = PaperFigure(
    "step_sizes",
    "Four rules for the step of gradient descent",
    "Two wide layers on a well-conditioned regression, from thirty draws at each of three widths. A step that is "
    "certified before the run must suit the worst weights it may meet; a schedule may let it grow, and rules that "
    "look at the curvature where they are need far fewer steps, whatever the width.",
    "Xu, Min, Tarmoun, Mallada & Vidal 2025",
    _run,
    full=True,
)
