"""Descent on two layers of finite width from general starts: certified and taken steps over width."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow.certificates import Certificate, Guarantee, safe_step_size
from linflow.certificates.certificate import certify
from linflow.dynamics import Trajectory, gradient_descent
from linflow.experiments.figures._axes import label_values
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._runs import kept_claim
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._starts import STARTS, start
from linflow.experiments.figures._sweep import seeds_of
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, figure

PALETTE = [COLOURS[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky")]
ROW = "two layers, squared loss"


@dataclass(frozen=True)
class TwoLayerDescentSettings(Settings):
    """Sizes, widths, starts and steps."""

    n: int = setting(5, "the rows and columns of X and Y")
    h: tuple[int, ...] = setting((20, 100, 500), "the hidden widths")
    start: str = setting("gaussian", "the start", among=STARTS)
    seeds: int = setting(10, "the draws of each width")
    kappa: float = setting(1.5, "the largest over the least singular value of X", least=1.0)
    until: float = setting(1e-8, "the fraction of the initial loss gap at which a run ends")


@dataclass(frozen=True)
class DrawnDescent:
    """One draw: its certificate and its runs.

    Attributes:
        step: the safe step.
        certificate: of descent with it.
        run: that descent.
        again: at some steps of it, the gap over the initial gap, the rate certified from there, and the least rate
            observed from there on; of the first draw alone.
    """

    step: float
    certificate: Certificate
    run: Trajectory
    again: list[tuple[float, float, float]]

    @property
    def published(self) -> Guarantee:
        """The guarantee after Xu et al. 2023."""
        return next(one for one in self.certificate.guarantees if one.name == ROW)


@dataclass(frozen=True)
class TwoLayerDescentData:
    """Every draw of every width, `[width][draw]`."""

    settings: TwoLayerDescentSettings
    objective: LinearRegression
    draws: list[list[DrawnDescent]]

    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return certified steps (published, this library) and taken ones, shape `(widths, draws)`; inf if none."""
        until = self.settings.until
        certified = [
            [
                (
                    float(one.published.steps_to(until)),
                    float(one.certificate.steps_to(until)),
                    one.run.stats.steps,
                )
                for one in row
            ]
            for row in self.draws
        ]
        published, own, taken = np.moveaxis(np.array(certified, dtype=float), -1, 0)
        return published, own, taken


def compute(s: TwoLayerDescentSettings, seed: int, progress: Progress) -> TwoLayerDescentData:
    """Certify and run every draw."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((s.n, s.n)))[0] for _ in range(2))
    X = (U * np.linspace(1.0, s.kappa, s.n)) @ V.T
    f = LinearRegression(X, X @ rng.standard_normal((s.n, s.n)) / np.sqrt(s.n))
    draws = []
    for i, h in enumerate(s.h):
        row = []
        for j, one in enumerate(seeds_of(s.seeds, seed)):
            progress((i + j / s.seeds) / len(s.h), f"width {h}, draw {j + 1}")
            row.append(_descent(f, s, h, one, first=j == 0))
        draws.append(row)
    return TwoLayerDescentData(s, f, draws)


def _descent(f: LinearRegression, s: TwoLayerDescentSettings, h: int, seed: int, *, first: bool) -> DrawnDescent:
    net = start(s.start, (s.n, h, s.n), seed)
    step = safe_step_size(f, net)
    cert = certify(f, net, algorithm="descent", step_size=step)
    limits: dict[str, Any] = {"steps": 100_000, "until": s.until}
    run = gradient_descent(f, net, step_size=step, **limits)
    return DrawnDescent(step, cert, run, _again(f, run, step) if first else [])


def _again(f: LinearRegression, run: Trajectory, step: float) -> list[tuple[float, float, float]]:
    """Return the gap over the initial gap, and the certified and the least rate from there on, at some steps."""
    gap, net, before = np.asarray(run.gap), run.start, 0
    rate = -np.log(gap[1:] / gap[:-1]) / step
    later = np.minimum.accumulate(rate[::-1])[::-1]
    found = []
    for k in np.unique(np.searchsorted(-gap, -gap[0] * np.geomspace(1, gap[-2] / gap[0], 9))):
        if k > before:
            net, before = gradient_descent(f, net, step_size=step, steps=int(k - before)).final, k
        cert = certify(f, net, algorithm="descent", step_size=step)
        row = next(one for one in cert.guarantees if one.name == ROW)
        found.append(
            (float(gap[k] / gap[0]), float(row.rate) if row.applies else 0.0, float(later[min(k, len(later) - 1)]))
        )
    return found


def claims(data: TwoLayerDescentData) -> Iterable[Claim | LeftOut]:
    """State that bounds hold, and what width and growing steps do."""
    s = data.settings
    every = [one for row in data.draws for one in row]
    published, _, taken = data.steps()
    reached = [one.run.result.ok for one in every]
    yield Claim(f"Every descent reaches {number(s.until)}", f"{sum(reached)} of {len(reached)}", all(reached))
    yield kept_claim(
        "Every descent with the safe step keeps its certificate", [one.certificate.check(one.run) for one in every]
    )
    applies = [one for one in every if one.published.applies]
    if applies:
        yield Claim.all_below(
            "Every loss lies under the bound after Xu et al. 2023",
            np.concatenate([np.asarray(one.run.gap) for one in applies]),
            np.concatenate([_bound(one) for one in applies]),
            1e-9,
        )  # fmt: skip
        usable = np.isfinite(published)
        yield Claim.within("Steps it certifies over steps taken", (published / taken)[usable], 1.0)
    else:
        yield LeftOut("Every loss lies under the bound after Xu et al. 2023", "it applies to no draw")
    seen = [row[0].again for row in data.draws]
    yield Claim.all_below(
        "Certified anew at later steps, the rate is never above the rate of those steps",
        np.concatenate([np.array(each)[:, 1] for each in seen]),
        np.concatenate([np.array(each)[:, 2] for each in seen]),
        1e-9,
    )
    yield from about_these(s.changes("n", "h", "start", "kappa", "until"), list(_paper_claims(data)))


def _bound(one: DrawnDescent) -> np.ndarray:
    """Return the gap that the published row promises after every recorded step."""
    return np.asarray(one.published.gap_at(np.asarray(one.run.t)))


def _paper_claims(data: TwoLayerDescentData) -> Iterable[Claim]:
    """State what holds at the settings shown."""
    published, own, taken = data.steps()
    order = np.argsort(data.settings.h)
    ratio = np.median(published / taken, axis=1)[order]
    yield Claim(
        "The bound after Xu et al. 2023 applies to every draw",
        f"{int(np.isfinite(published).sum())} of {published.size}",
        bool(np.isfinite(published).all()),
    )
    yield Claim.within(
        "The wider, the nearer it is: medians of certified over taken steps", ratio[1:] / ratio[:-1], 0, 1
    )
    yield Claim.within(
        "At the largest width it asks for at most 6 times the steps taken", (published / taken)[order[-1]], 1, 6
    )
    yield Claim.within("This library certifies fewer steps: ratio", own / published, 0, 1)
    first, last = (np.array([row[0].again[i][1] for row in data.draws]) for i in (0, -1))
    yield Claim.within("It improves as the loss falls: the rate certified last over the first", last / first, 1.2)


def draw(data: TwoLayerDescentData) -> Any:
    """Draw losses under their bounds, steps over width, and what growing steps save."""
    s = data.settings
    fig, (loss, steps, later) = figure(9.6, 3.2, ncols=3)
    for h, row, colour in zip(s.h, data.draws, PALETTE, strict=False):
        one = row[0]
        k = np.arange(len(one.run.gap))
        loss.loglog(k[1:], np.asarray(one.run.gap)[1:] / one.run.gap[0], color=colour, label=f"$h={h}$")
        if one.published.applies:
            most = min(float(one.published.steps_to(s.until)), 1e6)
            at = np.unique(np.geomspace(1, max(most, 2), 100).astype(int))
            loss.loglog(at, np.asarray(one.published.gap_at(at * one.step)) / one.run.gap[0], "--", color=colour)
    loss.plot([], [], "--", color=COLOURS["grey"], label="bound")
    loss.set(ylim=(s.until, 1.5), xlabel="step", ylabel="loss over initial loss")
    loss.set_title("Descent with the safe step")
    loss.legend(loc="lower left", fontsize=7)
    published, own, taken = data.steps()
    for values, label, colour, mark in (
        (published, "after Xu et al. 2023", "vermillion", "s"),
        (own, "certified here", "blue", "o"),
        (taken, "taken", "black", "."),
    ):
        for i, h in enumerate(s.h):
            steps.loglog(np.full(values.shape[1], h), values[i], mark, color=COLOURS[colour], markersize=4, alpha=0.6,
                         label=label if i == 0 else None)  # fmt: skip
    steps.set(xlabel="width", ylabel="steps")
    label_values(steps, s.h)
    steps.set_title(f"Steps to {number(s.until)}")
    steps.legend(loc="upper right", fontsize=7)
    for row, colour in zip(data.draws, PALETTE, strict=False):
        at, certified, rate = np.array(row[0].again).T
        later.loglog(at, rate, color=colour)
        later.loglog(at, certified, "o--", color=colour, markersize=3)
    later.plot([], [], color=COLOURS["grey"], label="observed, least from there on")
    later.plot([], [], "o--", color=COLOURS["grey"], markersize=3, label="certified anew")
    later.invert_xaxis()
    later.set(xlabel="loss over initial loss", ylabel="rate per unit of time")
    later.set_title("The bound improves as the loss falls")
    later.legend(loc="lower right", fontsize=7)
    return fig


def tables(data: TwoLayerDescentData) -> list[Table]:
    """Medians over the draws of each width."""
    published, own, taken = (np.median(each, axis=1) for each in data.steps())
    rows = [
        (h, float(np.median([one.step for one in row])), float(published[i]), float(own[i]), float(taken[i]))
        for i, (h, row) in enumerate(zip(data.settings.h, data.draws, strict=True))
    ]
    columns = ["width", "safe step", "steps after Xu et al. 2023", "certified here", "taken"]
    return [Table(f"Medians of {data.settings.seeds} draws", columns, rows)]


def numbers(data: TwoLayerDescentData) -> dict[str, Any]:
    """Certified and taken steps, and those of growing steps."""
    published, own, taken = data.steps()
    again = [row[0].again for row in data.draws]
    return {"h": data.settings.h, "published": published, "certified": own, "taken": taken, "again": again}


def setup(data: TwoLayerDescentData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    name, how = STARTS[s.start]
    return {
        "Data": f"{s.n} samples, {s.n} inputs, {s.n} outputs without noise; singular values of X from 1 to "
        f"{number(s.kappa)}",
        "Start": f"{name}: {how}; {s.seeds} draws of each width",
        "Runs": f"to {number(s.until)} of the initial gap; constant safe steps",
    }


experiment = PaperFigure(
    "two_layer_descent",
    "Descent on two layers of finite width",
    "Descent with a finite step on two layers of finite width, from a general start. The guarantee after Xu et al. "
    "2023 holds at every width, and the wider the layers, the fewer steps it asks for beyond those taken. Certified "
    "anew at later steps, it improves as the loss falls.",
    "Xu, Min, Tarmoun, Mallada & Vidal 2023 (AISTATS), section 5; its sizes and caps are not known here, so the caps "
    "are those of docs/descent.md",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=TwoLayerDescentSettings,
    paper="Xu, Min, Tarmoun, Mallada & Vidal 2023",
)
