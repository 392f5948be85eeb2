"""Gradient descent on three layers against the bound that the imbalances give before the run."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow import init
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table, number
from linflow.experiments.figures._sweep import (
    Row,
    by_hand,
    complete_claim,
    delta_claim,
    delta_star,
    rows_claim,
    rows_of,
)
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

TARGETS = {"n = m = 1": np.array([[-2.0]]), "n = 5, m = 1": np.ones((5, 1))}
WIDTHS, DRAWS, ETA, STEPS, UNTIL = ((100, 200), (200, 300), (300, 500)), 3, 5e-6, 40_000, 1e-6
PALETTE = ("vermillion", "green", "blue")
GAMMA = MatrixFactorization(np.eye(1)).pl_constant  # the same for every target


def _drawn_claim(kind: str, target: np.ndarray, row: Row) -> Claim:
    """Claim that the curve of a row is the loss over its first after so many steps, by steps taken by hand."""
    net = init.fan_out((target.shape[0], *row["hidden"], 1), rng=row["seed"])
    steps = np.rint(np.array(row["curve_t"]) / ETA).astype(int)
    gaps = by_hand(MatrixFactorization(target), net, [ETA] * int(steps[-1]))
    shown = np.array(row["curve_gap"]) / row["curve_gap"][0]
    # Rounding of so many steps; the gap is a square, which doubles that of the weights.
    return Claim.same(
        f"At {kind} the loss drawn is that of steps taken by hand, at the same step", shown, gaps[steps], 1e-6
    )


def _run(seed: int, progress: Progress) -> Outcome:
    rows, delta = [], []
    for i, target in enumerate(TARGETS.values()):
        base: dict[str, Any] = {
            "data": {"target": target},
            "start": {"init": "fan_out"},
            "grid": {"hidden": list(map(list, WIDTHS)), "seeds": list(range(DRAWS * seed, DRAWS * (seed + 1)))},
        }
        descent = {"step_size": ETA, "steps": STEPS}
        run = {
            "algorithm": "descent",
            "descent": descent,
            "flow": {"until": UNTIL},
            "sweep": {"check": True, "curves": 400},
        }
        part = 1 / len(TARGETS)
        rows.append(rows_of(base | run, progress, part * i, part * (i + 0.85)))
        # The certificate of the flow from the same starts has Δ* among its guarantees.
        flow = rows_of(base | {"flow": {"until": 0.5}}, progress, part * (i + 0.85), part * (i + 1))
        delta.append([delta_star(row) for row in flow])
    every = [row for some in rows for row in some]
    bounds = np.array([bound for some in delta for bound in some])
    # log of the loss over its first, and of the bound exp(−γΔ*kη), at every point of every curve.
    fallen = [np.log(np.array(row["curve_gap"]) / row["curve_gap"][0]) for row in every]
    bound = [-GAMMA * rate * np.array(row["curve_t"]) for rate, row in zip(bounds, every, strict=True)]
    above = max(float(np.max(f - b)) for f, b in zip(fallen, bound, strict=True))
    nets = [
        init.fan_out((target.shape[0], *row["hidden"], 1), rng=row["seed"])
        for target, some in zip(TARGETS.values(), rows, strict=True)
        for row in some
    ]
    claims = [
        complete_claim(every, "descent"),
        Claim.within(f"Δ* is positive at all {len(every)} starts", bounds, np.nextafter(0, 1)),
        Claim(
            "The loss lies under exp(−γΔ*kη) L(0) at every recorded step k: excess of its logarithm",
            f"{number(above)} at most, at {number(sum(map(len, fallen)))} points",
            above <= 1e-9,
            above,
        ),
        Claim.all_below(
            "γΔ* never exceeds the least observed rate", GAMMA * bounds, np.array([r["least_rate"] for r in every])
        ),
        delta_claim(bounds.tolist(), nets),
        *(_drawn_claim(kind, target, some[0]) for (kind, target), some in zip(TARGETS.items(), rows, strict=True)),
        rows_claim(every, "Every descent keeps the certificate for its step size"),
    ]

    def draw() -> Any:
        fig, axes = figure(7.2, 3.2, ncols=2, sharey=True)
        for ax, title, some, rates in zip(axes, TARGETS, rows, delta, strict=True):
            for w, (widths, name) in enumerate(zip(WIDTHS, PALETTE, strict=True)):
                mine = [k for k, row in enumerate(some) if tuple(row["hidden"]) == widths]
                for k in mine:
                    steps, gap = np.array(some[k]["curve_t"]) / ETA, np.array(some[k]["curve_gap"])
                    label = f"$({widths[0]}, {widths[1]})$" if k == mine[0] else None
                    ax.plot(steps, gap / gap[0], color=COLOURS[name], linewidth=1.1, label=label)
                k = min(mine, key=lambda one: rates[one])
                steps = np.array([0.0, 7.5 / ETA / (GAMMA * rates[k]) * np.log(10)])
                bound = np.exp(-GAMMA * rates[k] * ETA * steps)
                ax.plot(steps, bound, color=COLOURS[name], linewidth=1.1, linestyle=(w, (4, 3)))
            ax.set(yscale="log", ylim=(UNTIL, 1.5), xlabel="step", title=title)
            ax.set_xlim(0, 1.02 * max(7 * np.log(10) / ETA / (GAMMA * min(rates)), 1))
        axes[0].set(ylabel="loss over its first")
        axes[0].plot(
            [], [], color=COLOURS["black"], linestyle=(0, (4, 3)), linewidth=1.1, label=r"$e^{-\gamma\Delta^* k\eta}$"
        )
        axes[0].legend(title="widths", loc="upper right")
        return fig

    return Outcome(
        claims,
        draw,
        {
            "kind": [kind for kind, some in zip(TARGETS, rows, strict=True) for _ in some],
            "hidden": [row["hidden"] for row in every],
            "delta": bounds,
            "least": [row["least_rate"] for row in every],
            "steps": [row["steps"] for row in every],
        },
        {
            "Objective": f"½‖Y − W₁W₂W₃‖², γ = {GAMMA:g}; Y = −2 for n = m = 1, ones for n = 5, m = 1",
            "Starts": f"fan-out, {DRAWS} draws of each pair of widths",
            "Descent": f"η = {number(ETA)}, until the loss is {number(UNTIL)} of its first",
        },
        [
            Table(
                "Bound and run, the least over the draws",
                ["target", "widths", "Δ*", "γΔ*", "least observed rate", "certified for this η", "steps"],
                [
                    (
                        kind,
                        f"({widths[0]}, {widths[1]})",
                        min(rates[k] for k in mine),
                        GAMMA * min(rates[k] for k in mine),
                        min(some[k]["least_rate"] for k in mine),
                        min(some[k]["certified_rate"] for k in mine),
                        max(some[k]["steps"] for k in mine),
                    )
                    for kind, some, rates in zip(TARGETS, rows, delta, strict=True)
                    for widths in WIDTHS
                    for mine in [[k for k, row in enumerate(some) if tuple(row["hidden"]) == widths]]
                ],
            )
        ],
    )


experiment = PaperFigure(
    "three_layers",
    "Gradient descent on three layers",
    "The loss of gradient descent with a small step stays under exp(−γΔ*kη) L(0), where Δ* is read from the "
    "imbalances of the start alone. Solid: the runs. Broken: the bound, of the draw for which it is least.",
    "Min, Vidal & Mallada 2023, section 5",
    _run,
    full=True,
)
