"""Two- and three-layer regression on two real data sets, from four kinds of start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linflow import init
from linflow.certificates import Certificate, certify
from linflow.dynamics import Result, Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._runs import axis_claims, bound_claims, bounds_along, kept_claim
from linflow.experiments.figures._settings import Settings, setting
from linflow.model.network import Network
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, convergence, figure

COMPONENTS = 16
STARTS = {"imbalanced": "blue", "NTK": "vermillion", "small": "green", "balanced": "purple"}

MEANING = {
    "imbalanced": "every d = 2, product N(0, 0.1²)",
    "NTK": "N(0, 1) scaled",
    "small": "N(0, 0.01²)",
    "balanced": "product N(0, 0.3²), its determinant of the same sign as the solution's",
}


@dataclass(frozen=True)
class RealDataSettings(Settings):
    """Widths, depths, starts, and how far the runs go."""

    h_linnerud: int = setting(20, "the hidden width for Linnerud")
    h_digits: int = setting(40, "the hidden width for the digits")
    layers: tuple[int, ...] = setting((2, 3), "the numbers of layers", least=2)
    start: tuple[str, ...] = setting(tuple(STARTS), "the starts", among=STARTS)
    until: float = setting(1e-6, "the fraction of the initial loss gap at which a run ends")


@dataclass(frozen=True)
class StartRun:
    """One start: its certificate, its flow, and the bounds along it."""

    start: str
    certificate: Certificate
    flow: Trajectory
    along: np.ndarray


@dataclass(frozen=True)
class Study:
    """One data set with one depth: the objective, the widths and a run from each start."""

    data: str
    objective: LinearRegression
    settings: RealDataSettings
    widths: tuple[int, ...]
    runs: list[StartRun]

    @property
    def title(self) -> str:
        """The data set and the depth, in words."""
        return f"{self.data}, {len(self.widths) - 1} layers"

    def of(self, name: str) -> StartRun:
        """The run from one start."""
        return next(one for one in self.runs if one.start == name)


def _load(name: str) -> Any:
    """Call a loader of scikit-learn; the data come with the package."""
    try:
        from sklearn import datasets  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError(
            "the real data come with scikit-learn, which is not installed: pip install 'linflow[reproduce]'"
        ) from error
    return getattr(datasets, name)()


def linnerud() -> LinearRegression:
    """Return the regression of 3 physiological measurements on 3 exercises of 20 men, standardised, over √N."""
    data = _load("load_linnerud")
    X, Y = ((A - A.mean(axis=0)) / A.std(axis=0) for A in (data.data, data.target))
    return LinearRegression(X / len(X) ** 0.5, Y / len(Y) ** 0.5)


def handwritten() -> tuple[np.ndarray, np.ndarray]:
    """Return 1797 handwritten digits, images of 8×8 in rows of 64, and which digit each is."""
    data = _load("load_digits")
    return data.data, data.target


def digits() -> LinearRegression:
    """Return the regression of ten one-hot digits on the leading principal components of 1797 8×8 images.

    X and Y have spectral norm 1.
    """
    images, labels = handwritten()
    X, Y = images - images.mean(axis=0), np.eye(10)[labels]
    Y -= Y.mean(axis=0)
    X = X @ np.linalg.svd(X, full_matrices=False)[2][:COMPONENTS].T
    return LinearRegression(X / np.linalg.norm(X, 2), Y / np.linalg.norm(Y, 2))


def starts(objective: LinearRegression, widths: tuple[int, ...], seed: int) -> dict[str, Network]:
    """Return the four starts; the imbalanced one holds its weight in the first layers."""
    return {
        "imbalanced": init.imbalanced(widths, 2.0, std=0.1, rng=seed),
        "NTK": init.ntk(widths, rng=seed),
        "small": init.small(widths, 1e-2, rng=seed),
        "balanced": init.balanced(widths, _facing(objective, 0.3, seed), rng=seed),
    }


def _facing(objective: LinearRegression, std: float, seed: int) -> np.ndarray:
    """Return a N(0, std²) product that, when square, has the sign of the solution's determinant.

    A balanced flow of square products never crosses det W = 0. From the wrong side it ends at a saddle.
    """
    W = np.random.default_rng(seed).normal(0.0, std, objective.shape)
    if W.shape[0] == W.shape[1] and np.linalg.det(W) * np.linalg.det(objective.minimizer) < 0:
        W[:, 0] *= -1
    return W


def compute(s: RealDataSettings, seed: int, progress: Progress) -> list[Study]:
    """Certify and run every start on each data set, with one and with two hidden layers."""
    plan = [(data, load(), h, layers) for data, load, h in _data_sets(s) for layers in s.layers]
    studies = []
    for i, (data, objective, h, layers) in enumerate(plan):
        progress(i / len(plan), f"{data}, {layers} layers")
        studies.append(_study(data, objective, (h,) * (layers - 1), s, seed))
    return studies


def _data_sets(s: RealDataSettings) -> list[tuple[str, Callable[[], LinearRegression], int]]:
    return [("Linnerud", linnerud, s.h_linnerud), ("Digits", digits, s.h_digits)]


def _study(data: str, objective: LinearRegression, hidden: tuple[int, ...], s: RealDataSettings, seed: int) -> Study:
    n, m = objective.shape
    runs = []
    for name, net in starts(objective, (n, *hidden, m), seed).items():
        if name in s.start:
            flow = gradient_flow(objective, net, until=s.until)
            runs.append(StartRun(name, certify(objective, net), flow, bounds_along(objective, flow)))
    return Study(data, objective, s, (n, *hidden, m), runs)


def claims(studies: list[Study]) -> Iterable[Claim | LeftOut]:
    """State that drawn losses are right, that runs end at the solution, and which starts are certified and fast."""
    every = [(study, one) for study in studies for one in study.runs]
    for study in studies:
        for claim in axis_claims(study.objective, [one.flow for one in study.runs], rate=False):
            yield replace(claim, text=f"{study.title}: {claim.text[0].lower()}{claim.text[1:]}")
    times = [(one.certificate, t) for _, one in every for t in np.geomspace(1e-2, one.flow.t[-1], 7)]
    yield Claim.all_below(
        "The dashed losses are at most exp(−rate·t), with the certified rates of the table",
        [certificate.gap_at(float(t)) / certificate.gap for certificate, t in times],
        [np.exp(-certificate.rate * t) for certificate, t in times],
        1e-12,  # rounding of the exponential
    )
    yield from _end_claims(every)
    yield kept_claim(
        "Every run keeps its certificate, in rate and in loss",
        [one.certificate.check(one.flow) for _, one in every],
    )
    yield from bound_claims([one.along for _, one in every])
    yield from _time_claims(studies)
    drifts = [
        one.flow.stats.imbalance_drift / max(np.linalg.norm(W) ** 2 for W in one.flow.weights) for _, one in every
    ]
    yield Claim.within("The flow conserves the imbalance, drift over ‖W_l‖²", drifts, 0, 1e-6)


def _end_claims(every: list[tuple[Study, StartRun]]) -> Iterable[Claim]:
    """Claim that every run reaches its target, near the least-squares solution."""
    reached, until = sum(one.flow.result is Result.TARGET for _, one in every), every[0][0].settings.until
    text = f"Every run reaches {number(until)} of its initial loss gap"
    yield Claim(text, f"{reached} of {len(every)}", reached == len(every))
    distances = []
    for study, one in every:
        W = study.objective.minimizer
        distances.append(np.linalg.norm(one.flow.final.product() - W) / np.linalg.norm(W))
    # The distance left is the square root of the remaining gap times a constant, which is 50 here.
    yield Claim.within("Each ends near the least-squares solution, ‖W − W*‖/‖W*‖", distances, 0, 50 * until**0.5)


def _time_claims(studies: list[Study]) -> Iterable[Claim | LeftOut]:
    """Claim that certified times are kept, and that the imbalanced start is certified and faster than two others."""
    until = studies[0].settings.until
    certified = [one for study in studies for one in study.runs if one.certificate.rate > 0]
    yield Claim.all_below(
        "No run takes longer than its certified time",
        [one.flow.time_to(until) for one in certified],
        [one.certificate.time_to(until) for one in certified],
    )
    kinds, settings = studies[0].settings.start, studies[0].settings
    rates = [study.of("imbalanced").certificate.rate for study in studies if "imbalanced" in kinds]
    if rates:
        yield Claim.within("The imbalanced start is certified on every data set and depth: rate", rates, 1e-3)
    slower = [name for name in ("small", "balanced") if name in kinds and rates]
    if slower:
        found = Claim.all_below(
            f"The imbalanced start is faster than the {' and the '.join(slower)} one, whose runs pass by saddles",
            [study.of("imbalanced").flow.time_to(until) for study in studies for _ in slower],
            [study.of(name).flow.time_to(until) for study in studies for name in slower],
        )
        yield from about_these(settings.changes("h_linnerud", "h_digits", "layers", "until"), [found])


def draw(studies: list[Study]) -> Any:
    """Draw the losses of the four starts, a panel for each data set and depth."""
    columns = len(studies) // 2
    fig, axes = figure(3.6 * columns, 5.2, ncols=columns, nrows=2)
    axes = np.reshape(axes, (2, columns))
    for ax, study in zip(axes.flat, studies, strict=True):
        for one in study.runs:
            convergence(one.flow, one.certificate, ax, color=COLOURS[STARTS[one.start]], label=one.start)
        ends = [float(one.flow.t[-1]) for one in study.runs]
        ax.set(title=study.title, xscale="log", xlim=(min(ends) / 200, max(ends)))
        ax.set_ylim(study.settings.until, 1.6)
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    for ax in axes[0]:
        ax.set_xlabel("")
    axes[0, 0].plot([], [], "--", color=COLOURS["grey"], linewidth=1, label="certified")
    axes[0, 0].legend(loc="lower left")
    return fig


def tables(studies: list[Study]) -> list[Table]:
    """Certified and observed times, a row for each run."""
    rows, until = [], studies[0].settings.until
    for study in studies:
        for one in study.runs:
            best, gamma = one.certificate.best, f"{study.objective.pl_constant:.3g}"
            certified = ("–", "none applies", "–")
            if best:
                certified = (f"{one.certificate.rate:.3g}", best.name, f"{one.certificate.time_to(until):.4g}")
            rows.append((study.title, one.start, gamma, *certified, f"{one.flow.time_to(until):.4g}"))
    columns = ["data", "start", "γ", "certified rate", "by", "certified time", "observed time"]
    return [Table(f"Time to {number(until)} of the initial loss gap", columns, rows)]


def numbers(studies: list[Study]) -> dict[str, Any]:
    """The curves of each run, and what guarantees its rate."""
    return {
        study.title: {
            one.start: {
                "t": one.flow.t,
                "gap": one.flow.gap,
                "rate": one.flow.rate,
                "certified_rate": one.certificate.rate,
                "guarantee": one.certificate.best.name if one.certificate.best else None,
            }
            for one in study.runs
        }
        for study in studies
    }


def setup(studies: list[Study]) -> dict[str, str]:
    """What was run, in words."""
    s = studies[0].settings
    return {
        "Linnerud": f"20 men, 3 exercises to 3 measurements, standardised; hidden width {s.h_linnerud}",
        "Digits": f"1797 images, {COMPONENTS} principal components to 10 classes; hidden width {s.h_digits}",
        "Objective": f"½‖Y − XW₁⋯W_{{L}}‖², L = {', '.join(map(str, s.layers))}",
        "Starts": "; ".join(f"{name}: {MEANING[name]}" for name in s.start),
        "Flow": f"to {number(s.until)} of the initial loss gap",
    }


experiment = PaperFigure(
    "real_data",
    "Real data: the start decides",
    "Multi-output linear regression on two data sets that scikit-learn ships: measurements of 20 men (Linnerud) and "
    "images of handwritten digits. The same problem is solved from four starts. The imbalanced start is certified "
    "and fast. The wide random (NTK) start is certified where its spreads leave a gap. The small start waits at one "
    "saddle after another and learns one mode at a time, and the balanced start is slow: no theorem promises more.",
    "Data: Linnerud and Alpaydin & Kaynak, from scikit-learn",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=RealDataSettings,
)
