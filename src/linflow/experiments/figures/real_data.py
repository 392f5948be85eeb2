"""Two real data sets, two- and three-layer regression from four kinds of start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linflow import init
from linflow.certificates import Certificate, certify
from linflow.dynamics import Result, Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table, number
from linflow.experiments.figures._runs import axis_claims, bound_claims, bounds_along, kept_claim
from linflow.model.network import Network
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, convergence, figure

UNTIL, COMPONENTS = 1e-6, 16
STARTS = {"imbalanced": "blue", "NTK": "vermillion", "small": "green", "balanced": "purple"}


@dataclass(frozen=True)
class Study:
    """One data set with one depth: the objective, the widths and a run from each start."""

    data: str
    objective: LinearRegression
    widths: tuple[int, ...]
    runs: dict[str, Trajectory]
    certificates: dict[str, Certificate]
    along: list[np.ndarray]

    @property
    def title(self) -> str:
        """Data set and depth."""
        return f"{self.data}, {len(self.widths) - 1} layers"


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
    """Physiological measurements (3) from exercises (3) of 20 men, standardised, over √N."""
    data = _load("load_linnerud")
    X, Y = ((A - A.mean(axis=0)) / A.std(axis=0) for A in (data.data, data.target))
    return LinearRegression(X / len(X) ** 0.5, Y / len(Y) ** 0.5)


def digits() -> LinearRegression:
    """Ten one-hot digits from the leading principal components of 1797 8×8 images, all of spectral norm 1."""
    data = _load("load_digits")
    X, Y = data.data - data.data.mean(axis=0), np.eye(10)[data.target]
    Y -= Y.mean(axis=0)
    X = X @ np.linalg.svd(X, full_matrices=False)[2][:COMPONENTS].T
    return LinearRegression(X / np.linalg.norm(X, 2), Y / np.linalg.norm(Y, 2))


def starts(objective: LinearRegression, widths: tuple[int, ...], seed: int) -> dict[str, Network]:
    """The four starts; the imbalanced one holds its weight in the first layers."""
    return {
        "imbalanced": init.imbalanced(widths, 2.0, std=0.1, rng=seed),
        "NTK": init.ntk(widths, rng=seed),
        "small": init.small(widths, 1e-2, rng=seed),
        "balanced": init.balanced(widths, _facing(objective, 0.3, seed), rng=seed),
    }


def _facing(objective: LinearRegression, std: float, seed: int) -> np.ndarray:
    """Return a N(0, std²) product that, when square, has the sign of the solution's determinant.

    A balanced flow of square products never crosses det W = 0; from the wrong side it ends at a saddle.
    """
    W = np.random.default_rng(seed).normal(0.0, std, objective.shape)
    if W.shape[0] == W.shape[1] and np.linalg.det(W) * np.linalg.det(objective.minimizer) < 0:
        W[:, 0] *= -1
    return W


def _study(data: str, objective: LinearRegression, hidden: tuple[int, ...], seed: int) -> Study:
    n, m = objective.shape
    widths = (n, *hidden, m)
    runs, certificates, along = {}, {}, []
    for name, net in starts(objective, widths, seed).items():
        certificates[name] = certify(objective, net)
        runs[name] = gradient_flow(objective, net, until=UNTIL)
        along.append(bounds_along(objective, runs[name]))
    return Study(data, objective, widths, runs, certificates, along)


def _run(seed: int, progress: Progress) -> Outcome:
    studies = []
    for data, objective, h in (("Linnerud", linnerud(), 20), ("Digits", digits(), 40)):
        for hidden in ((h,), (h, h)):
            progress(len(studies) / 4, f"{data}, {len(hidden) + 1} layers")
            studies.append(_study(data, objective, hidden, seed))

    every = [(s, name, run, s.certificates[name]) for s in studies for name, run in s.runs.items()]
    checks = [cert.check(run) for _, _, run, cert in every]
    certified = [(cert.time_to(UNTIL), run.time_to(UNTIL)) for _, _, run, cert in every if cert.rate > 0]
    imbalanced = [s.runs["imbalanced"] for s in studies]
    reached = sum(run.result is Result.TARGET for _, _, run, _ in every)
    distances = [
        np.linalg.norm(run.final.product() - s.objective.minimizer) / np.linalg.norm(s.objective.minimizer)
        for s, _, run, _ in every
    ]
    drifts = [run.stats.imbalance_drift / max(np.linalg.norm(W) ** 2 for W in run.weights) for _, _, run, _ in every]
    times = [(cert, cert.gap, t) for _, _, run, cert in every for t in np.geomspace(1e-2, run.t[-1], 7)]
    claims = [
        *(
            replace(claim, text=f"{s.title}: {claim.text[0].lower()}{claim.text[1:]}")
            for s in studies
            for claim in axis_claims(s.objective, s.runs.values(), rate=False)
        ),
        Claim.all_below(
            "The dashed losses are at most exp(−rate·t), with the certified rates of the table",
            [cert.gap_at(float(t)) / gap for cert, gap, t in times],
            [np.exp(-cert.rate * t) for cert, _, t in times],
            1e-12,  # rounding of the exponential
        ),
        Claim(
            f"Every run reaches {number(UNTIL)} of its first loss gap",
            f"{reached} of {len(every)}",
            reached == len(every),
        ),
        Claim.within("Each ends near the least-squares solution, ‖W − W*‖/‖W*‖", distances, 0, 0.05),
        kept_claim("No run is ever slower than certified, in rate or in loss", checks),
        *bound_claims([part for s in studies for part in s.along]),
        Claim.all_below("Each certified time is kept", [b for _, b in certified], [a for a, _ in certified]),
        Claim.within(
            "The imbalanced start is certified on every data set and depth: rate",
            [s.certificates["imbalanced"].rate for s in studies],
            1e-3,
        ),
        Claim.all_below(
            "The imbalanced start is faster than the small and the balanced one, which pass by saddles",
            [run.time_to(UNTIL) for run in imbalanced for _ in range(2)],
            [s.runs[name].time_to(UNTIL) for s in studies for name in ("small", "balanced")],
        ),
        Claim.within("The flow conserves the imbalance, drift over ‖W_l‖²", drifts, 0, 1e-6),
    ]

    def draw() -> Any:
        fig, axes = figure(7.2, 5.2, ncols=2, nrows=2)
        for ax, s in zip(axes.flat, studies, strict=True):
            for name, colour in STARTS.items():
                convergence(s.runs[name], s.certificates[name], ax, color=COLOURS[colour], label=name)
            ends = [run.t[-1] for run in s.runs.values()]
            ax.set(title=s.title, xscale="log", xlim=(min(ends) / 200, max(ends)), ylim=(UNTIL, 1.6))
        for ax in axes[:, 1]:
            ax.set_ylabel("")
        for ax in axes[0]:
            ax.set_xlabel("")
        axes[0, 0].plot([], [], "--", color=COLOURS["grey"], linewidth=1, label="certified")
        axes[0, 0].legend(loc="lower left")
        return fig

    return Outcome(
        claims,
        draw,
        {
            s.title: {
                name: {
                    "t": run.t,
                    "gap": run.gap,
                    "rate": run.rate,
                    "certified_rate": s.certificates[name].rate,
                    "guarantee": s.certificates[name].best.name if s.certificates[name].best else None,
                }
                for name, run in s.runs.items()
            }
            for s in studies
        },
        {
            "Linnerud": "20 men, 3 exercises to 3 measurements, standardised; hidden width 20",
            "Digits": f"1797 images, {COMPONENTS} principal components to 10 classes; hidden width 40",
            "Objective": "½‖Y − XW₁⋯W_{L}‖², L = 2, 3",
            "Starts": "imbalanced: every d = 2, product N(0, 0.1²); NTK: N(0, 1) scaled; small: N(0, 0.01²); "
            "balanced: product N(0, 0.3²), its determinant facing the solution's",
            "Flow": f"to {number(UNTIL)} of the first loss gap",
        },
        [
            Table(
                f"Time to {number(UNTIL)} of the first loss gap",
                ["data", "start", "γ", "certified rate", "by", "certified time", "observed time"],
                [
                    (
                        s.title,
                        name,
                        f"{s.objective.pl_constant:.3g}",
                        f"{cert.rate:.3g}" if cert.best else "–",
                        cert.best.name if cert.best else "none applies",
                        f"{cert.time_to(UNTIL):.4g}" if cert.best else "–",
                        f"{run.time_to(UNTIL):.4g}",
                    )
                    for s, name, run, cert in every
                ],
            )
        ],
    )


experiment = PaperFigure(
    "real_data",
    "Real data: the start decides",
    "Multi-output linear regression on two data sets that scikit-learn ships: measurements of 20 men (Linnerud) and "
    "images of handwritten digits. The same problem is solved from four starts. The imbalanced start is certified "
    "and fast; the wide random (NTK) start is certified where its spreads leave a gap; the small start waits at one "
    "saddle after another, learning one mode at a time, and the balanced start crawls: neither is promised more.",
    "Data: Linnerud and Alpaydin & Kaynak, from scikit-learn",
    _run,
)
