"""Networks of the talk and real data: guaranteed before the run, proved by a verified run, and observed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from linflow import init
from linflow.advice.proof_findings import interval
from linflow.certificates import Certificate, certify
from linflow.dynamics import Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures.real_data import digits
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.quadratics import LinearRegression, MatrixFactorization
from linflow.plots import figure, proof
from linflow.verified import Enclosure, enclose


@dataclass(frozen=True)
class VerifiedRunsSettings(Settings):
    """Sizes, widths, and how far the runs go."""

    n: int = setting(20, "the rows of Y of the factorization")
    m: int = setting(5, "the columns of Y of the factorization")
    h: tuple[int, ...] = setting((30, 100, 500, 1000), "the hidden widths of the factorization")
    h_diabetes: int = setting(64, "the width of the hidden layers for diabetes")
    h_digits: int = setting(40, "the hidden width for the digits")
    until: float = setting(1e-6, "the fraction of the initial loss gap at which a run ends")

    @property
    def fractions(self) -> tuple[float, ...]:
        """The fractions of the initial gap whose times are proved."""
        return (self.until ** (1 / 3), self.until ** (2 / 3), self.until)


@dataclass(frozen=True)
class Case:
    """One start with its guarantee, its proof and its run."""

    name: str
    settings: VerifiedRunsSettings
    certificate: Certificate
    enclosure: Enclosure
    run: Trajectory


def _starts(s: VerifiedRunsSettings, seed: int) -> list[tuple[str, Objective, Network]]:
    rng = np.random.default_rng(seed)
    f = MatrixFactorization(rng.standard_normal((s.n, s.m)))
    starts: list[tuple[str, Objective, Network]] = [
        (f"{s.n}×{h}×{s.m}", f, init.gaussian((s.n, h, s.m), h**-0.5, rng=seed)) for h in s.h
    ]
    diabetes, h = _diabetes(), s.h_diabetes
    starts += [
        ("diabetes, 2 layers, NTK", diabetes, init.ntk((10, h, 1), rng=seed)),
        ("diabetes, 2 layers, small", diabetes, init.small((10, h, 1), 1e-2, rng=seed)),
        # Three layers use NTK only: from a small start they stay at a plateau for thousands of steps.
        ("diabetes, 3 layers, NTK", diabetes, init.ntk((10, h, h, 1), rng=seed)),
    ]
    f = digits()
    return [*starts, ("digits, 2 layers, NTK", f, init.ntk((f.shape[0], s.h_digits, f.shape[1]), rng=seed))]


def _diabetes() -> LinearRegression:
    from sklearn.datasets import load_diabetes  # noqa: PLC0415 - an optional package

    data: Any = load_diabetes()
    y = data.target[:, None]
    return LinearRegression(data.data, (y - y.mean()) / y.std())


def compute(s: VerifiedRunsSettings, seed: int, progress: Progress) -> list[Case]:
    """Certify, enclose and run every start."""
    cases, starts = [], _starts(s, seed)
    for i, (name, f, net) in enumerate(starts):
        progress(i / len(starts), name)
        run = gradient_flow(f, net, until=s.until / 10, rtol=1e-10)
        cases.append(Case(name, s, certify(f, net), enclose(f, net, until=s.until), run))
    return cases


def claims(cases: list[Case]) -> Iterable[Claim | LeftOut]:
    """State that every target is proved, between what was guaranteed and what was observed."""
    fractions = cases[0].settings.fractions
    bounds = np.array([case.enclosure.time_bounds(x) for case in cases for x in fractions])
    seen = np.array([case.run.time_to(x) for case in cases for x in fractions])
    before = np.array([case.certificate.time_to(x) for case in cases for x in fractions])
    # Allow for the run's own error; its tolerance is 10⁻¹⁰ a step.
    slack = 1e-7
    drawn = [pair for case in cases for pair in _gaps(case)]
    # The bounds of the gap have the relative width of the last times, 10⁻⁶.
    yield Claim.same("The axis shows the gap of the weights", [y for y, _ in drawn], [y for _, y in drawn], 1e-5)
    yield Claim.within("Every target is proved: latest over earliest time", bounds[:, 1] / bounds[:, 0], 1, 1.001)
    yield Claim.all_below("No observed time is before its proved interval", bounds[:, 0], seen, slack)
    yield Claim.all_below("No observed time is after its proved interval", seen, bounds[:, 1], slack)
    yield Claim.all_below("No proved time is later than the guarantee before the run", bounds[:, 1], before, slack)
    after = [case.enclosure.certificate for case in cases]
    rates = [(g.rate, float(case.run.rate[-1])) for g, case in zip(after, cases, strict=True) if g]
    share = Claim.within("A rate is proved for ever: share of the starts", len(rates) / len(cases), 0.9, 1)
    yield from about_these(cases[0].settings.changes(), [share])
    yield Claim.all_below(
        "No rate proved for ever is above the last observed rate",
        [proved for proved, _ in rates],
        [final for _, final in rates],
        slack,
    )


def _gaps(case: Case) -> list[tuple[float, float]]:
    """Return proved gaps, as drawn, each with the gap of the path's weights at full width."""
    times = [0.0, 0.3 * case.enclosure.end, case.enclosure.end]
    f = case.enclosure.objective
    return [(case.enclosure.gap_bounds(t)[1], f.gap(case.enclosure.network_at(t).product())) for t in times]


def tables(cases: list[Case]) -> list[Table]:
    """Guaranteed, proved and observed times, a row for each start."""
    rows, until = [], cases[0].settings.until
    for case in cases:
        low, high = case.enclosure.time_bounds(until)
        before = case.certificate.time_to(until)
        rows.append(
            (
                case.name,
                number(before) if np.isfinite(before) else "–",
                interval(low, high),
                number(case.run.time_to(until), 10),
                number(case.enclosure.exponent, 2),
                number(case.enclosure.certificate.rate) if case.enclosure.certificate else "–",
            )
        )
    columns = ["start", "guaranteed before", "proved", "observed", "∫m", "rate for ever"]
    return [Table(f"Time to {number(until)} of the initial loss gap", columns, rows)]


def numbers(cases: list[Case]) -> dict[str, Any]:
    """Guaranteed, proved and observed times of every start."""
    fractions = cases[0].settings.fractions
    return {
        "name": [case.name for case in cases],
        "guaranteed": [[case.certificate.time_to(x) for x in fractions] for case in cases],
        "proved": [[list(case.enclosure.time_bounds(x)) for x in fractions] for case in cases],
        "observed": [[case.run.time_to(x) for x in fractions] for case in cases],
        "exponent": [case.enclosure.exponent for case in cases],
    }


def setup(cases: list[Case]) -> dict[str, str]:
    """What was run, in words."""
    s = cases[0].settings
    widths = ", ".join(map(str, s.h))
    return {
        "Factorization": f"½‖Y − W₁W₂‖², {s.n} × {s.m}, Y of N(0, 1) and W of N(0, 1/h) entries, widths {widths}",
        "Diabetes": f"scikit-learn's data, 442 × 10, output scaled to variance 1; hidden layers of {s.h_diabetes}",
        "Digits": "8 × 8 digits on their leading components, inputs and outputs scaled; "
        f"hidden layer of {s.h_digits}",
    }


def draw(cases: list[Case]) -> Figure:
    """Draw one start of each objective: what was guaranteed, proved and observed."""
    firsts = (cases[0].name, "diabetes, 2 layers, NTK", "digits, 2 layers, NTK")
    chosen = [case for case in cases if case.name in firsts]
    fig, axes = figure(7.4, 2.7, ncols=len(chosen))
    for ax, case in zip(axes, chosen, strict=True):
        proof(case.enclosure, case.certificate, case.run, ax)
        ax.set_title(case.name)
    for ax in axes[1:]:
        ax.set_ylabel("")
    handles = {text: line for ax in axes for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return fig


experiment = PaperFigure(
    "verified_runs",
    "Guaranteed before the run, proved by computation, observed",
    "A guarantee from the start alone must hold for the worst flow that the imbalance and the margin allow. A "
    "verified run follows this one flow and bounds, rounding included, how far the exact flow can be from the "
    "computed one. It proves the times to one part in a million, and a rate that holds from its end on.",
    "This library, docs/verified.md",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=VerifiedRunsSettings,
)
