"""Loss and instantaneous rate of two-layer runs over width, against their certificates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from linflow.certificates import Certificate, Check, certify
from linflow.dynamics import Trajectory, gradient_descent, gradient_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._runs import axis_claims, bound_claims, bounds_along, kept_claim
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._starts import STARTS, start
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, convergence, figure, rate

PALETTE = [COLOURS[name] for name in ("vermillion", "orange", "green", "blue", "purple", "sky")]
# What the talk shows: log₁₀ of the loss at t = 3, first and last rate, bound; with room for another random draw.
TALK_LOSS = {30: (-3.3, -2.2), 1000: (-5.3, -4.7)}
TALK_RATE = {30: ((4.5, 6.8), (0.6, 1.8)), 1000: ((3.8, 4.3), (3.4, 4.0))}
TALK_BOUND = {30: (0.15, 1.1), 100: (1.5, 2.4), 300: (2.3, 3.1), 1000: (3.0, 3.6)}


@dataclass(frozen=True)
class ConvergenceSettings(Settings):
    """Sizes, widths, start, and how far the runs go."""

    n: int = setting(20, "the rows of Y")
    m: int = setting(5, "the columns of Y")
    h: tuple[int, ...] = setting((30, 100, 300, 1000), "the hidden widths")
    start: str = setting("ntk", "the start", among=STARTS)
    t_max: float = setting(3.0, "the time at which the flow ends")
    eta: float = setting(2e-4, "the step size of the descent")


@dataclass(frozen=True)
class WidthRun:
    """One width: its flow and its descent from the same start, each with its certificate."""

    h: int
    flow: Trajectory
    certificate: Certificate
    check: Check
    along: np.ndarray
    descent: Trajectory
    in_steps: Certificate

    @property
    def fallen(self) -> float:
        """log₁₀ of the last loss gap over the first."""
        return float(np.log10(self.flow.gap[-1] / self.flow.gap[0]))

    @property
    def distance(self) -> float:
        """Largest distance of the descent from the flow in log loss, a quantity of order η."""
        curve = self.flow.gap_at(np.minimum(self.descent.t, self.flow.t[-1]))
        return float(np.abs(np.log(self.descent.gap / curve)).max())


@dataclass(frozen=True)
class ConvergenceData:
    """The runs of all widths on one objective."""

    settings: ConvergenceSettings
    objective: MatrixFactorization
    widths: list[WidthRun]


def compute(s: ConvergenceSettings, seed: int, progress: Progress) -> ConvergenceData:
    """Run flow and descent from one start of each width."""
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((s.n, s.m))
    Y *= 0.1 / np.linalg.norm(Y)
    f = MatrixFactorization(Y)
    steps = round(s.t_max / s.eta)
    widths = []
    for i, h in enumerate(s.h):
        progress(i / len(s.h), f"width {h}: flow")
        net = start(s.start, (s.n, h, s.m), rng)
        certificate = certify(f, net)
        flow = gradient_flow(f, net, t_max=s.t_max, times=np.linspace(0, s.t_max, 61)[1:].tolist())
        progress((i + 0.3) / len(s.h), f"width {h}: {steps} steps of descent")
        descent = gradient_descent(f, net, step_size=s.eta, steps=steps, every=100)
        in_steps = certify(f, net, algorithm="descent", step_size=s.eta)
        check, along = certificate.check(flow), bounds_along(f, flow)
        widths.append(WidthRun(h, flow, certificate, check, along, descent, in_steps))
    return ConvergenceData(s, f, widths)


def claims(data: ConvergenceData) -> Iterable[Claim | LeftOut]:
    """State what the talk shows, then what theory promises of every run."""
    widths, eta = data.widths, number(data.settings.eta)
    yield from about_these(data.settings.changes("n", "m", "start", "t_max"), _of_the_talk(widths))
    rates = np.array([(one.certificate.rate, one.flow.rate[-1]) for one in sorted(widths, key=lambda one: one.h)])
    yield Claim(
        "The certified rate and the last rate grow with the width",
        ", ".join(f"{certified:.2f} and {last:.2f}" for certified, last in rates),
        bool((np.diff(rates, axis=0) > 0).all()),
    )
    yield kept_claim("Every run keeps its certificate, in rate and in loss", [one.check for one in widths])
    yield from bound_claims([one.along for one in widths])
    yield from axis_claims(data.objective, [one.flow for one in widths])
    times = np.linspace(0, data.settings.t_max, 13)
    yield Claim.all_below(
        "The dashed losses are at most exp(−rate·t), with the certified rates of the table",
        [[one.certificate.gap_at(t) / one.certificate.gap for t in times] for one in widths],
        [np.exp(-one.certificate.rate * times) for one in widths],
        1e-12,  # rounding of the exponential
    )
    yield kept_claim(
        f"Every descent (η = {eta}) keeps its own certificate, drift included",
        [one.in_steps.check(one.descent) for one in widths],
    )
    yield Claim.within(
        f"The descent (η = {eta}) follows the flow: difference in log loss of order η",
        max(one.distance for one in widths),
        0,
        100 * data.settings.eta,
    )


def _of_the_talk(widths: Iterable[WidthRun]) -> Iterable[Claim]:
    by_width = {one.h: one for one in widths}
    for h, (low, high) in TALK_LOSS.items():
        if h in by_width:
            yield Claim.within(
                f"At h = {h} the loss falls by {-high} to {-low} decades", -by_width[h].fallen, -high, -low
            )
    for h, ends in TALK_RATE.items():
        for name, at, (low, high) in zip(("first", "last"), (0, -1), ends, strict=True):
            if h in by_width:
                text = f"At h = {h} the {name} rate is {low} to {high}"
                yield Claim.within(text, by_width[h].flow.rate[at], low, high)
    for h, (low, high) in TALK_BOUND.items():
        if h in by_width:
            text = f"At h = {h} the certified rate is {low} to {high}"
            yield Claim.within(text, by_width[h].certificate.rate, low, high)


def draw(data: ConvergenceData) -> Any:
    """Draw the losses on the left and the rates on the right."""
    fig, (left, right) = figure(7.2, 3.4, ncols=2)
    for one, colour in zip(data.widths, cycle(PALETTE)):
        convergence(one.flow, one.certificate, left, color=colour, label=f"$h = {one.h}$")
        rate(one.flow, one.certificate, right, color=colour)
    left.plot([], [], "--", color=COLOURS["grey"], linewidth=1, label="certified")
    left.set_ylim(10.0 ** (min(one.fallen for one in data.widths) - 0.3), 1.5)
    right.set_ylim(0, None)
    left.legend(loc="lower left")
    return fig


def tables(data: ConvergenceData) -> list[Table]:
    """Guaranteed and observed, a row for each width."""
    columns = ["h", "certified rate", "least rate", "last rate", "certified time to 10⁻²", "observed", "ratio"]
    return [
        Table(
            "Guaranteed and observed",
            columns,
            [
                (
                    one.h,
                    one.certificate.rate,
                    float(one.flow.rate.min()),
                    float(one.flow.rate[-1]),
                    one.certificate.time_to(1e-2),
                    one.flow.time_to(1e-2),
                    one.check.time_ratios[1e-2],
                )
                for one in data.widths
            ],
        )
    ]


def numbers(data: ConvergenceData) -> dict[str, Any]:
    """The curves of each width."""
    return {
        str(one.h): {
            "t": one.flow.t,
            "gap": one.flow.gap,
            "rate": one.flow.rate,
            "certified_rate": one.certificate.rate,
        }
        for one in data.widths
    }


def setup(data: ConvergenceData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": "½‖Y − W₁W₂/√h‖²" if s.start == "ntk" else "½‖Y − W₁W₂‖²",
        "Product": f"n = {s.n}, m = {s.m}, ‖Y‖ = 0.1",
        "Widths": ", ".join(map(str, s.h)),
        "Start": "independent N(0, 1) entries" if s.start == "ntk" else STARTS[s.start][1],
        "Flow": f"to t = {s.t_max:g}, relative tolerance 10⁻⁸",
        "Descent": f"{round(s.t_max / s.eta)} steps of {s.eta:g}",
    }


experiment = PaperFigure(
    "convergence",
    "Convergence over width",
    "Four widths of the same two-layer model from random starts. Solid: the gradient flow. Dashed: what the start "
    "guarantees before the run. The target is small, so the imbalance alone carries the guarantee; its gap grows "
    "with the width, and with it the rate, certified and observed.",
    "Talk; Min, Tarmoun, Vidal & Mallada 2021 (arXiv 2105.06351), Prop. 1",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=ConvergenceSettings,
    paper="Min, Tarmoun, Vidal & Mallada 2021",
)
