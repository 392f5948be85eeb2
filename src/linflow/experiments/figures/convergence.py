"""Loss and instantaneous rate of two-layer runs over width, against their certificates."""

from __future__ import annotations

from typing import Any

import numpy as np

from linflow import init
from linflow.certificates import certify
from linflow.dynamics import gradient_descent, gradient_flow
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table
from linflow.experiments.figures._runs import axis_claims, bound_claims, bounds_along, kept_claim
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, convergence, figure, rate

N, M, WIDTHS, T_MAX, ETA = 20, 5, (30, 100, 300, 1000), 3.0, 2e-4
PALETTE = [COLOURS[name] for name in ("vermillion", "orange", "green", "blue")]
# What the talk shows: log₁₀ of the loss at t = 3, first and last rate, bound; with room for another random draw.
TALK_LOSS = {30: (-3.3, -2.2), 1000: (-5.3, -4.7)}
TALK_RATE = {30: ((4.5, 6.8), (0.6, 1.8)), 1000: ((3.8, 4.3), (3.4, 4.0))}
TALK_BOUND = {30: (0.15, 1.1), 100: (1.5, 2.4), 300: (2.3, 3.1), 1000: (3.0, 3.6)}


def _run(seed: int, progress: Progress) -> Outcome:
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((N, M))
    Y *= 0.1 / np.linalg.norm(Y)
    f = MatrixFactorization(Y)
    steps = round(T_MAX / ETA)
    runs, descents, certificates, in_steps, checks, along = {}, {}, {}, {}, {}, []
    for i, h in enumerate(WIDTHS):
        progress(i / len(WIDTHS), f"width {h}: flow")
        net = init.ntk((N, h, M), rng=rng)
        certificates[h] = certify(f, net)
        runs[h] = gradient_flow(f, net, t_max=T_MAX, times=np.linspace(0, T_MAX, 61)[1:].tolist())
        checks[h] = certificates[h].check(runs[h])
        along.append(bounds_along(f, runs[h]))
        progress((i + 0.3) / len(WIDTHS), f"width {h}: {steps} steps of descent")
        descents[h] = gradient_descent(f, net, step_size=ETA, steps=steps, every=100)
        in_steps[h] = certify(f, net, algorithm="descent", step_size=ETA)

    times = np.linspace(0, T_MAX, 13)

    def fallen(h: int) -> float:
        return float(np.log10(runs[h].gap[-1] / runs[h].gap[0]))

    def off(h: int) -> float:
        """Largest distance of the descent from the flow in log loss, a quantity of order η."""
        curve = runs[h].gap_at(np.minimum(descents[h].t, T_MAX))
        return float(np.abs(np.log(descents[h].gap / curve)).max())

    claims = [
        *(
            Claim.within(f"At h = {h} the loss falls by {-high} to {-low} decades", -fallen(h), -high, -low)
            for h, (low, high) in TALK_LOSS.items()
        ),
        *(
            Claim.within(f"At h = {h} the {name} rate is {low} to {high}", runs[h].rate[at], low, high)
            for h, ends in TALK_RATE.items()
            for name, at, (low, high) in zip(("first", "last"), (0, -1), ends, strict=True)
        ),
        *(
            Claim.within(f"At h = {h} the certified rate is {low} to {high}", certificates[h].rate, low, high)
            for h, (low, high) in TALK_BOUND.items()
        ),
        Claim(
            "Wider is faster: the certified rate and the last rate grow with h",
            ", ".join(f"{certificates[h].rate:.2f} and {runs[h].rate[-1]:.2f}" for h in WIDTHS),
            bool(
                (np.diff([certificates[h].rate for h in WIDTHS]) > 0).all()
                and (np.diff([runs[h].rate[-1] for h in WIDTHS]) > 0).all()
            ),
        ),
        kept_claim("No run is ever slower than certified, in rate or in loss", checks.values()),
        *bound_claims(along),
        *axis_claims(f, runs.values()),
        Claim.all_below(
            "The dashed losses are at most exp(−rate·t), with the certified rates of the table",
            [[certificates[h].gap_at(t) / certificates[h].gap for t in times] for h in WIDTHS],
            [np.exp(-certificates[h].rate * times) for h in WIDTHS],
            1e-12,  # rounding of the exponential
        ),
        kept_claim(
            "No descent of the talk (η = 2·10⁻⁴) is ever slower than its own certificate, drift included",
            [in_steps[h].check(descents[h]) for h in WIDTHS],
        ),
        Claim.within(
            "The descent of the talk (η = 2·10⁻⁴) follows the flow: difference in log loss of order η",
            max(off(h) for h in WIDTHS),
            0,
            100 * ETA,
        ),
    ]

    def draw() -> Any:
        fig, (left, right) = figure(7.2, 3.4, ncols=2)
        for h, colour in zip(WIDTHS, PALETTE, strict=True):
            convergence(runs[h], certificates[h], left, color=colour, label=f"$h = {h}$")
            rate(runs[h], certificates[h], right, color=colour)
        left.plot([], [], "--", color=COLOURS["grey"], linewidth=1, label="certified")
        left.set_ylim(10.0 ** (min(map(fallen, WIDTHS)) - 0.3), 1.5)
        right.set_ylim(0, None)
        left.legend(loc="lower left")
        return fig

    return Outcome(
        claims,
        draw,
        {
            str(h): {"t": run.t, "gap": run.gap, "rate": run.rate, "certified_rate": certificates[h].rate}
            for h, run in runs.items()
        },
        {
            "Objective": "½‖Y − W₁W₂/√h‖²",
            "Product": f"n = {N}, m = {M}, ‖Y‖ = 0.1",
            "Widths": ", ".join(map(str, WIDTHS)),
            "Start": "independent N(0, 1) entries",
            "Flow": f"to t = {T_MAX:g}, relative tolerance 10⁻⁸",
            "Descent": f"{steps} steps of {ETA:g}",
        },
        [
            Table(
                "Guaranteed and observed",
                ["h", "certified rate", "least rate", "last rate", "certified time to 10⁻²", "observed", "ratio"],
                [
                    (
                        h,
                        certificates[h].rate,
                        float(runs[h].rate.min()),
                        float(runs[h].rate[-1]),
                        certificates[h].time_to(1e-2),
                        runs[h].time_to(1e-2),
                        checks[h].time_ratios[1e-2],
                    )
                    for h in WIDTHS
                ],
            )
        ],
    )


experiment = PaperFigure(
    "convergence",
    "Convergence over width",
    "Four widths of the same two-layer model from random starts. Solid: the gradient flow. Dashed: what the start "
    "guarantees before the run. The target is small, so the imbalance alone carries the guarantee; its gap grows "
    "with the width, and with it the rate, certified and observed.",
    "Talk; Min, Tarmoun, Vidal & Mallada 2021 (arXiv 2105.06351), Prop. 1",
    _run,
)
