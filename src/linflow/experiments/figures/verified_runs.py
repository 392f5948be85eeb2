"""Networks of the talk and real data: guaranteed before the run, proved by a verified run, and observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from linflow import init
from linflow.advice.proof_findings import interval
from linflow.certificates import Certificate, certify
from linflow.dynamics import Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table, number
from linflow.experiments.figures.real_data import digits
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.quadratics import LinearRegression, MatrixFactorization
from linflow.plots import figure, proof
from linflow.verified import Enclosure, enclose

FRACTIONS, UNTIL = (1e-2, 1e-4, 1e-6), 1e-6
WIDTHS = (30, 100, 500, 1000)


@dataclass(frozen=True)
class Case:
    """One start with its guarantee, its proof and its run."""

    name: str
    certificate: Certificate
    enclosure: Enclosure
    run: Trajectory


def _starts(seed: int) -> list[tuple[str, Objective, Network]]:
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((20, 5))
    f = MatrixFactorization(Y)
    starts: list[tuple[str, Objective, Network]] = [
        (f"20×{h}×5", f, init.gaussian((20, h, 5), h**-0.5, rng=seed)) for h in WIDTHS
    ]
    diabetes = _diabetes()
    for hidden in ((64,), (64, 64)):
        for name, start in (("NTK", init.ntk), ("small", None)):
            widths = (10, *hidden, 1)
            if start is None and len(hidden) > 1:
                continue  # plateaus for thousands of steps
            net = start(widths, rng=seed) if start else init.small(widths, 1e-2, rng=seed)
            starts.append((f"diabetes, {len(hidden) + 1} layers, {name}", diabetes, net))
    f = digits()
    starts.append(("digits, 2 layers, NTK", f, init.ntk((f.shape[0], 40, f.shape[1]), rng=seed)))
    return starts


def _diabetes() -> LinearRegression:
    from sklearn.datasets import load_diabetes  # noqa: PLC0415 - an optional package

    data: Any = load_diabetes()
    y = data.target[:, None]
    return LinearRegression(data.data, (y - y.mean()) / y.std())


def _run(seed: int, progress: Progress) -> Outcome:
    cases, starts = [], _starts(seed)
    for i, (name, f, net) in enumerate(starts):
        progress(i / len(starts), name)
        run = gradient_flow(f, net, until=UNTIL / 10, rtol=1e-10)
        cases.append(Case(name, certify(f, net), enclose(f, net, until=UNTIL), run))
    return Outcome(_claims(cases), lambda: _draw(cases), _data(cases), _setup(seed), [_table(cases)])


def _claims(cases: list[Case]) -> list[Claim]:
    bounds = np.array([case.enclosure.time_bounds(x) for case in cases for x in FRACTIONS])
    seen = np.array([case.run.time_to(x) for case in cases for x in FRACTIONS])
    before = np.array([case.certificate.time_to(x) for case in cases for x in FRACTIONS])
    # The run's own error: its tolerance of 10⁻¹⁰ a step.
    slack = 1e-7
    after = [case.enclosure.certificate for case in cases]
    rates = [(g.rate, float(case.run.rate[-1])) for g, case in zip(after, cases, strict=True) if g]
    drawn = [pair for case in cases for pair in _gaps(case)]
    return [
        # The bounds of the gap are as wide as the relative 10⁻⁶ of the last times.
        Claim.same("The axis shows the gap of the weights", [y for y, _ in drawn], [y for _, y in drawn], 1e-5),
        Claim.within("Every target is proved: latest over earliest time", bounds[:, 1] / bounds[:, 0], 1, 1.001),
        Claim.all_below("No observed time is before its proved interval", bounds[:, 0], seen, slack),
        Claim.all_below("No observed time is after its proved interval", seen, bounds[:, 1], slack),
        Claim.all_below("No time proved is later than the guarantee before the run", bounds[:, 1], before, slack),
        Claim.within("Share of the starts for which a rate is proved for ever", len(rates) / len(cases), 0.9, 1),
        Claim.all_below(
            "No rate proved for ever is above the observed final one",
            [proved for proved, _ in rates],
            [final for _, final in rates],
            slack,
        ),
    ]


def _gaps(case: Case) -> list[tuple[float, float]]:
    """Return the proved gaps that are drawn beside those of the path's weights in the full width."""
    times = [0.0, 0.3 * case.enclosure.end, case.enclosure.end]
    f = case.enclosure.objective
    return [(case.enclosure.gap_bounds(t)[1], f.gap(case.enclosure.network_at(t).product())) for t in times]


def _table(cases: list[Case]) -> Table:
    rows = []
    for case in cases:
        low, high = case.enclosure.time_bounds(UNTIL)
        before = case.certificate.time_to(UNTIL)
        rows.append(
            (
                case.name,
                number(before) if np.isfinite(before) else "–",
                interval(low, high),
                number(case.run.time_to(UNTIL), 10),
                number(case.enclosure.exponent, 2),
                number(case.enclosure.certificate.rate) if case.enclosure.certificate else "–",
            )
        )
    columns = ["start", "guaranteed before", "proved", "observed", "∫m", "rate for ever"]
    return Table(f"Time to {number(UNTIL)} of the first loss gap", columns, rows)


def _data(cases: list[Case]) -> dict[str, object]:
    return {
        "name": [case.name for case in cases],
        "guaranteed": [[case.certificate.time_to(x) for x in FRACTIONS] for case in cases],
        "proved": [[list(case.enclosure.time_bounds(x)) for x in FRACTIONS] for case in cases],
        "observed": [[case.run.time_to(x) for x in FRACTIONS] for case in cases],
        "exponent": [case.enclosure.exponent for case in cases],
    }


def _setup(seed: int) -> dict[str, str]:
    return {
        "Factorization": f"½‖Y − W₁W₂‖², 20 × 5, Y and W N(0, 1) and N(0, 1/h), widths {', '.join(map(str, WIDTHS))}",
        "Diabetes": "scikit-learn's data set, 442 × 10, output scaled to variance 1; hidden layers of 64",
        "Digits": "8 × 8 digits on their leading components, inputs and outputs scaled; hidden layer of 40",
        "Seed": str(seed),
    }


def _draw(cases: list[Case]) -> Figure:
    shown = ("20×30×5", "diabetes, 2 layers, NTK", "digits, 2 layers, NTK")
    chosen = [case for case in cases if case.name in shown]
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
    "Guaranteed before the run, proved by computing, observed",
    "A guarantee that looks at the start alone must hold for the worst flow that its imbalance and margin allow. A "
    "verified run follows this one flow and bounds, rounding included, how far the exact flow can be from what was "
    "computed. It proves the times to one part in a million, and from where it ends a rate that holds for ever.",
    "linflow, docs/verified.md",
    _run,
)
