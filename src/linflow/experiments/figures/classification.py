"""Classification by descent: the certified O(1/k) of exponential and logistic loss beside what is observed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow.certificates import Certificate, safe_step_size
from linflow.certificates.certificate import certify
from linflow.dynamics import Trajectory, gradient_descent
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._runs import kept_claim
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._sweep import seeds_of
from linflow.model.classification import ExponentialLoss, ExponentialTail, LogisticLoss
from linflow.plots import COLOURS, figure
from linflow.schedules import local_smoothness

LOSSES: dict[str, type[ExponentialTail]] = {"exponential": ExponentialLoss, "logistic": LogisticLoss}
SHADES = {"exponential": "vermillion", "logistic": "blue"}
MARKS = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class ClassificationSettings(Settings):
    """The data, the networks and the steps."""

    N: int = setting(12, "the samples", least=2)
    n: int = setting(3, "the inputs")
    margin: float = setting(0.5, "the least distance of a sample to the plane that labels it")
    h: int = setting(8, "the hidden width of two layers")
    depth: tuple[int, ...] = setting((1, 2), "the depths, 1 or 2")
    start: float = setting(1.0, "the imbalance of two layers at the start; one layer starts at 0")
    steps: int = setting(1000, "the steps of a descent", least=10)
    seeds: int = setting(5, "the draws of data and start")

    def __post_init__(self) -> None:
        if max(self.depth) > 2:
            raise ValueError(
                f"depth={max(self.depth)}: the start of this figure has an imbalance for two layers only."
            )


@dataclass(frozen=True)
class Fit:
    """One descent.

    Attributes:
        certificate: with the safe step.
        run: the descent with it.
        growing: the descent by the local curvature.
        reached: the margin of the direction at the end of either, over the hard margin.
    """

    certificate: Certificate
    run: Trajectory
    growing: Trajectory
    reached: tuple[float, float]


@dataclass(frozen=True)
class ClassificationData:
    """The descents, by loss and depth, one for each draw."""

    settings: ClassificationSettings
    fits: dict[tuple[str, int], list[Fit]]


def compute(s: ClassificationSettings, seed: int, progress: Progress) -> ClassificationData:
    """Certify and run every descent."""
    fits: dict[tuple[str, int], list[Fit]] = {(loss, L): [] for loss in LOSSES for L in s.depth}
    for i, one in enumerate(seeds_of(s.seeds, seed)):
        progress(i / s.seeds, f"draw {i + 1} of {s.seeds}")
        rng = np.random.default_rng(one)
        X, y = _separable(s, rng)
        start = init.imbalanced((s.n, s.h, 1), s.start, np.zeros((s.n, 1)), rng=rng)
        for (loss, L), found in fits.items():
            found.append(_fit(LOSSES[loss], X, y, [np.zeros((s.n, 1))] if L == 1 else list(start.weights), s.steps))
    return ClassificationData(s, fits)


def _separable(s: ClassificationSettings, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return samples, each at least `margin` from a plane through 0, and the sides they are on."""
    u = rng.standard_normal(s.n)
    u /= np.linalg.norm(u)
    X = rng.standard_normal((s.N, s.n))
    y = np.where(np.arange(s.N) % 2, 1.0, -1.0)
    away = X @ u
    X += np.outer(y * (s.margin + np.abs(away)) - away, u)
    return X, y[:, None]


def _fit(kind: type[ExponentialTail], X: np.ndarray, y: np.ndarray, weights: list[np.ndarray], steps: int) -> Fit:
    f = kind(X, y)
    eta = safe_step_size(f, weights)
    cert = certify(f, weights, algorithm="descent", step_size=eta)
    run = gradient_descent(f, weights, step_size=eta, steps=steps)
    growing = gradient_descent(f, weights, schedule=local_smoothness(), steps=steps, until=1e-8)
    ends = [one.final.product()[:, 0] for one in (run, growing)]
    margins = [float(np.min(y[:, 0] * (X @ w)) / np.linalg.norm(w) / f.hard_margin) for w in ends]
    return Fit(cert, run, growing, (margins[0], margins[1]))


def claims(data: ClassificationData) -> Iterable[Claim | LeftOut]:
    """State that bounds hold, how the loss falls, and where the direction goes."""
    s = data.settings
    every = [one for fits in data.fits.values() for one in fits]
    applies = [one for one in every if one.certificate.best is not None]
    yield Claim("Every start has a certified step", f"{len(applies)} of {len(every)}", len(applies) == len(every))
    checks = [one.certificate.check(one.run) for fits in data.fits.values() for one in fits[:2] if one in applies]
    yield kept_claim("Two descents of each kind keep their certificates at every step", checks)
    at = np.unique(np.geomspace(1, s.steps, 30).astype(int))
    yield Claim.all_below(
        "Every loss lies under its O(1/k) bound, at 30 steps of each run",
        np.concatenate([np.asarray(one.run.gap)[at] for one in applies]),
        np.concatenate([np.asarray(one.certificate.gap_at(np.asarray(one.run.t)[at])) for one in applies]),
        1e-9,
    )
    yield Claim.within(
        "The hard margin is never exceeded: margin of the direction over it",
        [m for one in every for m in one.reached], high=1 + 1e-9,
    )  # fmt: skip
    yield from about_these(s.changes("N", "n", "margin", "h", "depth", "start", "steps"), list(_shown_claims(data)))


def _slope(run: Trajectory) -> float:
    """Return the slope of log(loss) over log(k), over the last half of the steps."""
    gap = np.asarray(run.gap)
    half = len(gap) // 2
    return float(np.log(gap[-1] / gap[half]) / np.log((len(gap) - 1) / half))


def _shown_claims(data: ClassificationData) -> Iterable[Claim]:
    """State what holds at the settings shown."""
    for (loss, L), fits in data.fits.items():
        yield Claim.within(
            f"{loss.capitalize()} loss, depth {L}: the power of k with which the loss falls over the last half",
            [_slope(one.run) for one in fits], -2.5, -0.3,
        )  # fmt: skip
    for (loss, L), fits in data.fits.items():
        bound = [float(one.certificate.gap_at(float(one.run.t[-1]))) / float(one.run.gap[-1]) for one in fits]
        yield Claim.within(f"{loss.capitalize()} loss, depth {L}: the bound over the last loss", bound, 1.0)
    grown = [float(one.growing.gap[-1]) / float(one.run.gap[-1]) for fits in data.fits.values() for one in fits]
    yield Claim.within("Steps by the local curvature end at a smaller loss: ratio", grown, 0, 0.1)
    better = [np.median([one.reached[1] - one.reached[0] for one in fits]) for fits in data.fits.values()]
    yield Claim.within("and at a direction nearer to the largest margin: median gain", better, 0.0)


def draw(data: ClassificationData) -> Any:
    """Draw losses under their bounds, growing steps, and margins."""
    s = data.settings
    fig, (loss, fast, margin) = figure(9.6, 3.2, ncols=3)
    for (name, L), fits in data.fits.items():
        one, colour, style = fits[0], COLOURS[SHADES[name]], MARKS[(L - 1) % 4]
        k = np.arange(1, len(one.run.gap))
        loss.loglog(k, np.asarray(one.run.gap)[1:], style, color=colour, label=f"{name}, {L} layer{'s' * (L > 1)}")
        if one.certificate.best is not None:
            at = np.unique(np.geomspace(1, k[-1], 60).astype(int))
            bounds = np.asarray(one.certificate.gap_at(np.asarray(one.run.t)[at]))
            loss.loglog(at, bounds, style, color=colour, linewidth=0.8, alpha=0.6)
        fast.semilogy(np.arange(len(one.growing.gap)), np.asarray(one.growing.gap), style, color=colour)
    first = 3 * float(next(iter(data.fits.values()))[0].run.gap[0])
    at = np.array([30.0, s.steps])
    loss.loglog(at, first / at, color=COLOURS["grey"], linewidth=0.8)
    loss.annotate("$1/k$", (at[0], first / at[0]), size=8)
    loss.set(xlabel="step $k$", ylabel="loss")
    loss.set_title("Certified step (thin: bound)")
    loss.legend(loc="lower left", fontsize=7)
    fast.set(xlabel="step", ylabel="loss")
    fast.set_title("Steps by the local curvature")
    for i, ((name, _), fits) in enumerate(data.fits.items()):
        ends = np.array([one.reached for one in fits])
        for j, mark in enumerate(("o", "^")):
            place = np.full(len(ends), i) + 0.2 * j
            margin.plot(place, ends[:, j], mark, color=COLOURS[SHADES[name]], markersize=3.5, alpha=0.6)
    margin.plot([], [], "o", color=COLOURS["grey"], markersize=3.5, label="certified step")
    margin.plot([], [], "^", color=COLOURS["grey"], markersize=3.5, label="local curvature")
    margin.axhline(1.0, color=COLOURS["black"], linewidth=0.8, linestyle="--")
    margin.set_xticks(range(len(data.fits)), [f"{name[:3]}., {L}" for name, L in data.fits])
    margin.set(ylabel="margin over the hard margin", xlabel="loss, layers")
    margin.set_title(f"After {s.steps} steps or fewer")
    margin.legend(loc="lower left", fontsize=7)
    return fig


def tables(data: ClassificationData) -> list[Table]:
    """Medians over the draws."""
    rows = []
    for (name, L), fits in data.fits.items():
        last = np.median([float(one.run.gap[-1]) for one in fits])
        bound = np.median([float(one.certificate.gap_at(float(one.run.t[-1]))) for one in fits])
        step = np.median([float(one.run.step_size or 0) for one in fits])
        margins = np.median([one.reached for one in fits], axis=0)
        rows.append((name, L, *(number(float(x)) for x in (step, last, bound)), *map(float, margins)))
    columns = ["loss", "layers", "certified step", "last loss", "its bound", "margin", "margin, local curvature"]
    return [Table(f"Medians of {data.settings.seeds} draws after {data.settings.steps} steps", columns, rows)]


def numbers(data: ClassificationData) -> dict[str, Any]:
    """Losses, bounds and margins."""
    return {
        f"{name}, {L}": [
            {"gap": one.run.gap, "growing": one.growing.gap, "margin": one.reached, "t": one.run.t} for one in fits
        ]
        for (name, L), fits in data.fits.items()
    }


def setup(data: ClassificationData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Data": f"{s.N} samples of {s.n} inputs, each at least {number(s.margin)} from a plane through 0; the loss "
        "is a sum, not a mean",
        "Start": f"one layer at 0; two layers of width {s.h} with product 0 and imbalance {number(s.start)}",
        "Steps": f"{s.steps} certified steps, or at most as many by `local_smoothness`; {s.seeds} draws",
    }


experiment = PaperFigure(
    "classification",
    "Classification by descent",
    "Exponential and logistic loss have no minimum, and no exponential rate. On separable data the gap falls like "
    "1/k, and a constant is certified before the run, for one layer and for two. Steps that follow the local "
    "curvature reach much smaller losses, and directions of larger margin.",
    "Talk, line on classification; Soudry et al. 2018 and Ji & Telgarsky 2019 for the setting; docs/tails.md",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=ClassificationSettings,
)
