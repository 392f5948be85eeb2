"""Softmax cross-entropy under its 1/t guarantee, and matrix completion at the rate of its imbalance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow._support.arrays import to_numpy
from linflow.certificates import Certificate
from linflow.certificates.certificate import certify
from linflow.dynamics import Trajectory, gradient_flow
from linflow.experiments.figures._axes import label_values
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._runs import kept_claim
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._sweep import seeds_of
from linflow.geometry.imbalance import imbalance_matrices
from linflow.model.network import Network
from linflow.model.sensing import Completion
from linflow.model.softmax import SoftmaxLoss
from linflow.plots import COLOURS, figure

KINDS = {"sum": "blue", "mean": "vermillion"}
SHADES = ("green", "purple", "orange", "sky")
AT = 40
"""Times at which a loss is compared with its bound."""


@dataclass(frozen=True)
class LossSettings(Settings):
    """The data of both losses, and the networks."""

    N: int = setting(12, "the samples of the classification", least=3)
    n: int = setting(3, "the inputs of the classification")
    classes: int = setting(3, "the classes", least=2)
    margin: float = setting(1.0, "how far the samples of a class are moved towards its mean")
    h: int = setting(8, "the hidden width")
    start: float = setting(2.0, "the imbalance of the classification at the start")
    t_max: float = setting(1000.0, "the time at which its flow ends")
    rows: int = setting(5, "the rows of the matrix that is completed")
    columns: int = setting(4, "its columns")
    known: tuple[float, ...] = setting((0.4, 0.7, 1.0), "the shares of entries that are known, up to 1")
    imbalance: tuple[float, ...] = setting((0.5, 1.0, 2.0, 4.0), "the imbalances of the completion")
    until: float = setting(1e-6, "the fraction of the initial loss gap at which a completion ends")
    seeds: int = setting(3, "the draws of data and start")

    def __post_init__(self) -> None:
        if max(self.known) > 1:
            raise ValueError(f"known={max(self.known):g} is more than 1, all entries.")
        if self.h < max(self.classes, self.n, self.rows, self.columns):
            raise ValueError(f"h={self.h} is below a number of inputs or outputs; the imbalance needs as many.")


@dataclass(frozen=True)
class SoftmaxRun:
    """One flow of the softmax loss: samples, labels, certificate, and gaps and bounds at `AT` times."""

    X: np.ndarray
    labels: np.ndarray
    mean: bool
    certificate: Certificate
    run: Trajectory
    t: np.ndarray
    gap: np.ndarray
    bound: np.ndarray


@dataclass(frozen=True)
class Completed:
    """One flow of a completion: its certificate and run, the certified rate and the mean observed one."""

    certificate: Certificate
    run: Trajectory
    certified: float
    observed: float


@dataclass(frozen=True)
class LossData:
    """Softmax flows by draw and kind, completions with the axes draw, share and imbalance."""

    settings: LossSettings
    fits: list[dict[str, SoftmaxRun]]
    completed: list[list[list[Completed]]]


def compute(s: LossSettings, seed: int, progress: Progress) -> LossData:
    """Certify and run everything."""
    fits, completed = [], []
    for i, one in enumerate(seeds_of(s.seeds, seed)):
        progress(i / s.seeds, f"draw {i + 1} of {s.seeds}")
        rng = np.random.default_rng(one)
        labels = np.arange(s.N) % s.classes
        means = np.linalg.qr(rng.standard_normal((max(s.n, s.classes), s.classes)))[0][: s.n].T
        X = rng.standard_normal((s.N, s.n)) * 0.3 + (1 + s.margin) * means[labels]
        start = init.imbalanced((s.n, s.h, s.classes), s.start, np.zeros((s.n, s.classes)), rng=rng)
        fits.append({kind: _fit(X, labels, kind == "mean", start, s.t_max) for kind in KINDS})
        Y, ranks = rng.standard_normal((s.rows, s.columns)), rng.permutation(s.rows * s.columns)
        completed.append(
            [
                [
                    _complete(s, Y, (ranks < max(1, round(share * Y.size))).reshape(Y.shape), d, one)
                    for d in s.imbalance
                ]
                for share in s.known
            ]
        )
    return LossData(s, fits, completed)


def _fit(X: np.ndarray, labels: np.ndarray, mean: bool, start: Network, t_max: float) -> SoftmaxRun:
    f = SoftmaxLoss(X, labels, mean=mean)
    cert, run = certify(f, start), gradient_flow(f, start, t_max=t_max)
    t = np.geomspace(1e-2, t_max, AT)
    return SoftmaxRun(
        X, labels, mean, cert, run, t, np.array([float(run.gap_at(x)) for x in t]), np.asarray(cert.gap_at(t))
    )


def _complete(s: LossSettings, Y: np.ndarray, known: np.ndarray, d: float, seed: int) -> Completed:
    f, net = Completion(Y, known), init.imbalanced((s.rows, s.h, s.columns), d, 0 * Y, rng=seed)
    cert, run = certify(f, net), gradient_flow(f, net, until=s.until)
    row = next(one for one in cert.guarantees if one.name == "two layers")
    return Completed(cert, run, row.rate, float(np.log(run.gap[0] / run.gap[-1]) / run.t[-1]))


def claims(data: LossData) -> Iterable[Claim | LeftOut]:
    """State that the bounds hold, and that the axes show what they say."""
    s = data.settings
    fits = [one for draws in data.fits for one in draws.values()]
    certified = [one for one in fits if one.certificate.best is not None]
    yield Claim("Every softmax loss has a guarantee", f"{len(certified)} of {len(fits)}", len(certified) == len(fits))
    yield kept_claim("Every flow of a softmax loss keeps it", [one.certificate.check(one.run) for one in certified])
    yield Claim.all_below(
        f"Every softmax loss lies under its bound, at {AT} times",
        np.concatenate([one.gap for one in fits]), np.concatenate([one.bound for one in fits]), 1e-6,
    )  # fmt: skip
    shown, named = zip(*(_definition(one) for one in fits), strict=True)
    yield Claim.same("The softmax loss drawn is −Σ log p of the weights at that time", shown, named, 1e-6)
    runs = [one for draws in data.completed for shares in draws for one in shares]
    yield kept_claim("Every completion keeps its certificate", [one.certificate.check(one.run) for one in runs])
    yield Claim.all_below(
        "The certified rate is at most the mean one of the run, log(ℓ(0)/ℓ)/t",
        [one.certified for one in runs], [one.observed for one in runs], 1e-6,
    )  # fmt: skip
    yield Claim.same(
        "The certified rate drawn is 2([λ_n(D)]₊ + [λ_m(−D)]₊), however few entries are known",
        [one.certified for one in runs], [_rate(one) for one in runs], 1e-9,
    )  # fmt: skip
    yield from about_these(s.changes(), list(_shown_claims(data)))


def _definition(one: SoftmaxRun) -> tuple[float, float]:
    """Return the drawn loss at the middle time, and that of the definition."""
    i = AT // 2
    scores = one.X @ to_numpy(one.run.network_at(float(one.t[i])).product())
    top = scores.max(axis=1)
    right = scores[np.arange(len(one.labels)), one.labels]
    losses = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top - right
    return float(one.gap[i]), float(np.mean(losses) if one.mean else np.sum(losses))


def _rate(one: Completed) -> float:
    n, m = one.run.start.shape
    D = to_numpy(imbalance_matrices(one.run.start)[0])
    up, down = np.sort(np.linalg.eigvalsh(D))[::-1], np.sort(np.linalg.eigvalsh(-D))[::-1]
    return 2 * (max(float(up[n - 1]), 0.0) + max(float(down[m - 1]), 0.0))


def _shown_claims(data: LossData) -> Iterable[Claim]:
    """State what holds at the settings shown."""
    for kind in KINDS:
        last = [draws[kind].t[-1] * draws[kind].gap[-1] for draws in data.fits]
        early = [draws[kind].t[AT // 2] * draws[kind].gap[AT // 2] for draws in data.fits]
        yield Claim.within(f"{kind.capitalize()}: t times the loss, from the middle on, changes by a factor",
                           np.array(last) / np.array(early), 0.1, 20)  # fmt: skip
        loose = [draws[kind].bound[-1] / draws[kind].gap[-1] for draws in data.fits]
        yield Claim.within(f"{kind.capitalize()}: the bound over the last loss", loose, 1.0, 100.0)
    tight = [one.observed / one.certified for draws in data.completed for shares in draws for one in shares]
    yield Claim.within("Completion: the mean rate over the certified one", tight, 1.0, 10.0)


def draw(data: LossData) -> Any:
    """Draw softmax losses under their bounds, and rates of completions over the imbalance."""
    s = data.settings
    fig, (loss, rate) = figure(7.6, 3.2, ncols=2)
    for kind, colour in KINDS.items():
        for i, draws in enumerate(data.fits):
            one = draws[kind]
            loss.loglog(one.t, one.gap, color=COLOURS[colour], alpha=0.7, label=kind if i == 0 else None)
            loss.loglog(one.t, one.bound, "--", color=COLOURS[colour], linewidth=0.8, alpha=0.6)
    loss.plot([], [], "--", color=COLOURS["grey"], label="guaranteed before the run")
    loss.set(xlabel="$t$", ylabel="softmax loss")
    loss.set_title("Classification: the loss falls like $1/t$")
    loss.legend(loc="lower left", fontsize=7)
    order = np.argsort(s.imbalance)
    d = np.array(s.imbalance)[order]
    for j, share in enumerate(s.known):
        for i, draws in enumerate(data.completed):
            rate.loglog(d, [draws[j][k].observed for k in order], "o", color=COLOURS[SHADES[j % 4]], markersize=4,
                        alpha=0.6, label=f"run, {100 * share:.0f} % known" if i == 0 else None)  # fmt: skip
    rate.loglog(d, [data.completed[0][0][k].certified for k in order], color=COLOURS["black"], label="certified")
    label_values(rate, d)
    rate.set(xlabel="imbalance at the start", ylabel="rate (of a run: its mean)")
    rate.set_title("Completion: the rate of the imbalance")
    rate.legend(loc="upper left", fontsize=7)
    return fig


def tables(data: LossData) -> list[Table]:
    """Rates of the completions, medians over the draws."""
    s = data.settings
    rows = [
        (
            f"{100 * share:.0f} %",
            float(d),
            float(np.median([draws[j][k].certified for draws in data.completed])),
            float(np.median([draws[j][k].observed for draws in data.completed])),
        )
        for j, share in enumerate(s.known)
        for k, d in enumerate(s.imbalance)
    ]
    return [
        Table(f"Completion, medians of {s.seeds} draws", ["known", "imbalance", "certified", "mean of the run"], rows)
    ]


def numbers(data: LossData) -> dict[str, Any]:
    """Losses, bounds and rates."""
    return {
        "softmax": [
            {kind: {"t": one.t, "loss": one.gap, "bound": one.bound} for kind, one in draws.items()}
            for draws in data.fits
        ],
        "completion": [
            [[{"certified": one.certified, "observed": one.observed} for one in shares] for shares in draws]
            for draws in data.completed
        ],
    }


def setup(data: LossData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Classification": f"{s.N} samples of {s.n} inputs in {s.classes} classes around orthogonal means; the flow "
        f"to t = {number(s.t_max)}",
        "Completion": f"{s.rows}×{s.columns} matrices with entries N(0, 1); to {number(s.until)} of the initial gap",
        "Start": f"two layers of width {s.h} with product 0; the classification with imbalance {number(s.start)}; "
        f"{s.seeds} draws",
    }


experiment = PaperFigure(
    "losses",
    "Classes and missing entries",
    "The guarantees need no squared loss of everything. Softmax cross-entropy on separable classes falls like 1/t, "
    "with a constant that is certified before the run. The training loss of matrix completion falls at the rate of "
    "the imbalance, however few entries are known; nothing is said about the entries that are not.",
    "linflow, docs/losses.md",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=LossSettings,
    paper="Optimisers, losses and adapters",
)
