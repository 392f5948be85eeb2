"""Loss and instantaneous rate of two-layer runs over width, against their certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
# What the talk shows, with room for another random draw: log₁₀ of the loss at t = 3, first and last rate, bound.
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
    seeds: int = setting(1, "the draws of each width; the first is drawn in the figure")
    t_max: float = setting(3.0, "the time at which the flow ends")
    eta: float = setting(2e-4, "the step size of the descent")

    def __post_init__(self) -> None:
        if self.eta > self.t_max:
            raise ValueError(f"eta={self.eta:g} is larger than t_max={self.t_max:g}; one step or more is needed.")


@dataclass(frozen=True)
class WidthRun:
    """One draw of one width: its flow and its descent from the same start, each with its certificate."""

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
        """Largest distance between descent and flow in log loss, a quantity of order η."""
        curve = self.flow.gap_at(np.minimum(self.descent.t, self.flow.t[-1]))
        return float(np.abs(np.log(self.descent.gap / curve)).max())


@dataclass(frozen=True)
class ConvergenceData:
    """The runs of all widths on one objective."""

    settings: ConvergenceSettings
    objective: MatrixFactorization
    runs: dict[int, list[WidthRun]]  # by width

    @property
    def every(self) -> list[WidthRun]:
        """The runs of all widths."""
        return [one for some in self.runs.values() for one in some]

    @property
    def shown(self) -> list[WidthRun]:
        """The first run of each width."""
        return [some[0] for some in self.runs.values()]

    def median(self, h: int, measure: Callable[[WidthRun], float]) -> float:
        """The median of a measure over the draws of a width."""
        return float(np.median([measure(one) for one in self.runs[h]]))


def compute(s: ConvergenceSettings, seed: int, progress: Progress) -> ConvergenceData:
    """Run flow and descent from every draw of each width."""
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((s.n, s.m))
    Y *= 0.1 / np.linalg.norm(Y)
    f = MatrixFactorization(Y)
    runs: dict[int, list[WidthRun]] = {h: [] for h in s.h}
    for i, h in enumerate(h for h in s.h for _ in range(s.seeds)):
        progress(i / (len(s.h) * s.seeds), f"width {h}")
        runs[h].append(_run(s, f, h, rng))
    return ConvergenceData(s, f, runs)


def _run(s: ConvergenceSettings, f: MatrixFactorization, h: int, rng: np.random.Generator) -> WidthRun:
    net = start(s.start, (s.n, h, s.m), rng)
    certificate = certify(f, net)
    flow = gradient_flow(f, net, t_max=s.t_max, times=np.linspace(0, s.t_max, 61)[1:].tolist())
    descent = gradient_descent(f, net, step_size=s.eta, steps=round(s.t_max / s.eta), every=100)
    in_steps = certify(f, net, algorithm="descent", step_size=s.eta)
    return WidthRun(h, flow, certificate, certificate.check(flow), bounds_along(f, flow), descent, in_steps)


def claims(data: ConvergenceData) -> Iterable[Claim | LeftOut]:
    """State what the talk shows, then what theory promises for every run."""
    every, eta = data.every, number(data.settings.eta)
    yield from about_these(data.settings.changes("n", "m", "start", "t_max"), _of_the_talk(data))
    yield kept_claim("Every run keeps its certificate, in rate and in loss", [one.check for one in every])
    yield from bound_claims([one.along for one in every])
    yield from axis_claims(data.objective, [one.flow for one in every])
    times = np.linspace(0, data.settings.t_max, 13)
    yield Claim.all_below(
        "The dashed losses are at most exp(−rate·t), with the certified rates of the table",
        [[one.certificate.gap_at(t) / one.certificate.gap for t in times] for one in every],
        [np.exp(-one.certificate.rate * times) for one in every],
        1e-12,  # rounding of the exponential
    )
    yield kept_claim(
        f"Every descent (η = {eta}) keeps its own certificate, drift included",
        [one.in_steps.check(one.descent) for one in every],
    )
    yield Claim.within(
        f"The descent (η = {eta}) follows the flow: difference in log loss of order η",
        max(one.distance for one in every),
        0,
        100 * data.settings.eta,
    )


def _of_the_talk(data: ConvergenceData) -> Iterable[Claim]:
    """Claim what the talk shows; for several draws, of the median."""
    for h, (low, high) in TALK_LOSS.items():
        if h in data.runs:
            fallen = -data.median(h, lambda one: one.fallen)
            yield Claim.within(f"At h = {h} the loss falls by {-high} to {-low} decades", fallen, -high, -low)
    for h, ends in TALK_RATE.items():
        for name, rate_of, (low, high) in zip(("first", "last"), (_first, _last), ends, strict=True):
            if h in data.runs:
                yield Claim.within(
                    f"At h = {h} the {name} rate is {low} to {high}", data.median(h, rate_of), low, high
                )
    for h, (low, high) in TALK_BOUND.items():
        if h in data.runs:
            text = f"At h = {h} the certified rate is {low} to {high}"
            yield Claim.within(text, data.median(h, _certified), low, high)
    rates = np.array([(data.median(h, _certified), data.median(h, _last)) for h in sorted(data.runs)])
    yield Claim(
        "The certified rate and the last rate grow with the width",
        ", ".join(f"{certified:.2f} and {last:.2f}" for certified, last in rates),
        bool((np.diff(rates, axis=0) > 0).all()),
    )


def _first(one: WidthRun) -> float:
    return float(one.flow.rate[0])


def _last(one: WidthRun) -> float:
    return float(one.flow.rate[-1])


def _certified(one: WidthRun) -> float:
    return one.certificate.rate


def draw(data: ConvergenceData) -> Any:
    """Draw the losses on the left and the rates on the right."""
    fig, (left, right) = figure(7.2, 3.4, ncols=2)
    for one, colour in zip(data.shown, cycle(PALETTE)):
        convergence(one.flow, one.certificate, left, color=colour, label=f"$h = {one.h}$")
        rate(one.flow, one.certificate, right, color=colour)
    left.plot([], [], "--", color=COLOURS["grey"], linewidth=1, label="certified")
    left.set_ylim(10.0 ** (min(one.fallen for one in data.shown) - 0.3), 1.5)
    right.set_ylim(0, None)
    left.legend(loc="lower left")
    return fig


def tables(data: ConvergenceData) -> list[Table]:
    """Guaranteed and observed values, a row for each width."""
    measures = {
        "certified rate": _certified,
        "least rate": lambda one: one.flow.rate.min(),
        "last rate": _last,
        "certified time to 10⁻²": lambda one: one.certificate.time_to(1e-2),
        "observed": lambda one: one.flow.time_to(1e-2),
        "ratio": lambda one: one.check.time_ratios[1e-2],
    }
    draws = data.settings.seeds
    title = "Guaranteed and observed" + (f", medians of {draws} draws" if draws > 1 else "")
    rows = [(h, *(data.median(h, measure) for measure in measures.values())) for h in data.runs]
    return [Table(title, ["h", *measures], rows)]


def numbers(data: ConvergenceData) -> dict[str, Any]:
    """The curves of each width."""
    return {
        str(one.h): {
            "t": one.flow.t,
            "gap": one.flow.gap,
            "rate": one.flow.rate,
            "certified_rate": one.certificate.rate,
        }
        for one in data.shown
    }


def setup(data: ConvergenceData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": "½‖Y − W₁W₂/√h‖²" if s.start == "ntk" else "½‖Y − W₁W₂‖²",
        "Product": f"n = {s.n}, m = {s.m}, ‖Y‖ = 0.1",
        "Widths": ", ".join(map(str, s.h)),
        "Start": "independent N(0, 1) entries" if s.start == "ntk" else STARTS[s.start][1],
        "Draws": f"{s.seeds} of each width" + ("; the first is drawn" if s.seeds > 1 else ""),
        "Flow": f"to t = {s.t_max:g}, relative tolerance 10⁻⁸",
        "Descent": f"{round(s.t_max / s.eta)} steps of {s.eta:g}",
    }


experiment = PaperFigure(
    "convergence",
    "Convergence over width",
    "Four widths of the same two-layer model from random starts. Solid: the gradient flow. Dashed: what the start "
    "guarantees before the run. The target is small, so the imbalance alone carries the guarantee. Its spectral gap "
    "grows with the width, and so does the rate, certified and observed.",
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
