"""Three wide layers at random: the bound Δ* over many draws of three initialisations."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow import init as starts
from linflow.certificates import certify
from linflow.dynamics import gradient_flow
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table, number
from linflow.experiments.figures._sweep import complete_claim, delta_claim, delta_star, rows_claim, rows_of
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, bound_against_truth, figure

N, M, WIDTH, DRAWS, UNTIL = 5, 1, 200, 100, 1e-4
NAMES = {"ntk": "NTK", "fan_in": "fan-in", "fan_out": "fan-out"}
PALETTE = dict(zip(NAMES, ("blue", "vermillion", "green"), strict=True))
CHECKED = 3
"""Draws of each initialisation at which the axes are checked."""


def _run(seed: int, progress: Progress) -> Outcome:
    target = np.random.default_rng(seed).standard_normal((N, M))
    seeds = list(range(DRAWS * seed, DRAWS * (seed + 1)))
    grid = {
        "data": {"target": target},
        "start": {"hidden": [WIDTH, WIDTH]},
        "flow": {"until": UNTIL},
        "sweep": {"check": True},
        "grid": {"init": list(NAMES), "seeds": seeds},
    }
    rows = rows_of(grid, progress)
    good = [row for row in rows if row["status"] == "ok"]
    delta = {init: np.array([delta_star(r) for r in good if r["init"] == init]) for init in NAMES}
    certified, least = (np.array([row[name] for row in good]) for name in ("certified_rate", "least_rate"))
    f = MatrixFactorization(target)
    promised = f.pl_constant * np.concatenate(list(delta.values()))
    some = [row for init in NAMES for row in [r for r in good if r["init"] == init][:CHECKED]]
    nets = [getattr(starts, row["init"])((N, WIDTH, WIDTH, M), rng=row["seed"]) for row in some]
    positive = {init: int((values > 0).sum()) for init, values in delta.items()}
    claims = [
        complete_claim(rows, "flow"),
        Claim(
            f"Δ* is positive in each of {DRAWS} draws of each initialisation",
            "; ".join(
                f"{NAMES[init]}: {count}, least {number(delta[init].min())}" for init, count in positive.items()
            ),
            all(count == DRAWS for count in positive.values()),
            tuple(float(values.min()) for values in delta.values()),
        ),
        delta_claim([float(x) for values in delta.values() for x in values[:CHECKED]], nets),
        Claim.same(
            "Drawn as certified rates are those of `certify`",
            [row["certified_rate"] for row in some],
            [certify(f, net).rate for net in nets],
            1e-9,  # the rounding of another process
        ),
        Claim.same(
            "Drawn as observed rates are the least of `gradient_flow`",
            [row["least_rate"] for row in some],
            [float(gradient_flow(f, net, until=UNTIL).rate.min()) for net in nets],
            1e-6,  # the error of the integration
        ),
        Claim.all_below("γΔ* never exceeds the least rate seen along the run", promised, least),
        Claim.all_below("Nor does the best certified rate", certified, least),
        Claim.all_below("γΔ* never exceeds the best certified rate", promised, certified, 1e-12),
        rows_claim(rows, "Every run keeps its certificate at every recorded time"),
    ]

    def draw() -> Any:
        fig, axes = figure(7.2, 3.2, ncols=2, width_ratios=(1, 1.15))
        boxes = axes[0].boxplot(list(delta.values()), widths=0.5, patch_artist=True, whis=(0, 100), showcaps=False)
        for init, box, median in zip(NAMES, boxes["boxes"], boxes["medians"], strict=True):
            colour = COLOURS[PALETTE[init]]
            box.set(facecolor=colour, alpha=0.35, edgecolor=colour, linewidth=0.8)
            median.set(color=colour, linewidth=1.6)
        axes[0].set_xticks(range(1, len(NAMES) + 1), list(NAMES.values()))
        axes[0].tick_params(axis="x", length=0)
        axes[0].set(yscale="log", ylabel=r"bound $\Delta^*$ on $\lambda_{\min}(T)$")
        axes[0].set_title(f"{DRAWS} draws each")
        bound_against_truth(certified, least, [NAMES[row["init"]] for row in good], axes[1])
        axes[1].set(xlabel="least observed rate", ylabel="certified rate")
        axes[1].set_title("Certificate and run")
        return fig

    def spread(values: np.ndarray) -> tuple[float, ...]:
        return tuple(float(x) for x in np.percentile(values, (0, 25, 50, 75, 100)))

    return Outcome(
        claims,
        draw,
        {"delta": delta, "init": [r["init"] for r in good], "certified": certified, "least": least},
        {
            "Objective": f"½‖Y − W₁W₂W₃‖², Y of N(0, 1) entries; γ = {f.pl_constant:g}",
            "Shape": f"{N} × {WIDTH} × {WIDTH} × {M}",
            "Starts": "NTK: N(0, 1) entries, the product over sqrt(m h₁h₂); fan-in and fan-out: variance one over it",
            "Draws": f"{DRAWS} of each, seeds {seeds[0]} to {seeds[-1]}",
            "Runs": f"flow until the loss gap is {number(UNTIL)} of its first",
        },
        [
            Table(
                "The bound Δ* over the draws",
                ["start", "least", "lower quartile", "median", "upper quartile", "greatest"],
                [(NAMES[init], *spread(values)) for init, values in delta.items()],
            ),
            Table(
                "Certified rates over the least observed rate: medians",
                ["start", "γΔ*", "best"],
                [
                    (NAMES[init], *(float(np.median(x[mine] / least[mine])) for x in (promised, certified)))
                    for init in NAMES
                    for mine in [np.array([row["init"] == init for row in good])]
                ],
            ),
        ],
    )


experiment = PaperFigure(
    "box_plot",
    "Three wide layers at random",
    "The bound Δ* on λ_min(T) of three layers, which reads nothing but the imbalances, is positive in every draw of "
    "three common initialisations. Left: its spread over the draws. Right: the best rate that this library certifies "
    "for the same starts, against the least that is seen along the run.",
    "Min, Vidal & Mallada 2023, section 4",
    _run,
    full=True,
)
