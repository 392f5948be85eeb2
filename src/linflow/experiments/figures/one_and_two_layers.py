"""One layer against two on a matrix factorization: the imbalance accelerates every mode."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow.certificates import certify
from linflow.dynamics import Trajectory, gradient_flow
from linflow.exact.scalar import two_layer_scalar
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._runs import kept_claim
from linflow.experiments.figures._settings import Settings, require_width, setting
from linflow.experiments.figures._sweep import seeds_of
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

PALETTE = [COLOURS[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky")]
FRACTION = 1e-6


@dataclass(frozen=True)
class OneAndTwoLayersSettings(Settings):
    """The target, the starts and the imbalances."""

    values: tuple[float, ...] = setting((3.0, 1.0, 0.3), "the singular values of the target")
    h: int = setting(6, "the hidden width")
    start: float = setting(
        0.01, "the singular values of the product at the start, the same for one layer and for two"
    )
    imbalance: tuple[float, ...] = setting((0.0, 0.5, 1.0, 2.0, 5.0), "d of the starts, D = d I", least=0.0)
    size: tuple[float, ...] = setting((0.05, 0.2, 0.5, 1.0), "the entries of random starts, N(0, size²)")
    seeds: int = setting(10, "the random starts of each size")

    def __post_init__(self) -> None:
        require_width(self.h, self.values)


@dataclass(frozen=True)
class OneAndTwoLayersData:
    """Runs from one product: of one layer, and of two at each imbalance; and times of random starts.

    Attributes:
        settings: the settings.
        objective: `½‖Y − W‖²`.
        one: one layer.
        two: by imbalance, two layers.
        modes: by imbalance, the singular directions of the product along the run, shape `(times, modes)`.
        exact: the same in closed form.
        random: by draw and size, λ_min of what D says, the time of two layers and that of one, to 10⁻⁶.
    """

    settings: OneAndTwoLayersSettings
    objective: MatrixFactorization
    one: Trajectory
    two: dict[float, Trajectory]
    modes: dict[float, np.ndarray]
    exact: dict[float, np.ndarray]
    random: np.ndarray


def spectral_start(s: OneAndTwoLayersSettings, d: float, U: np.ndarray, V: np.ndarray) -> Network:
    """Return `W_1 = U diag(u) Qᵀ`, `W_2 = Q diag(v) Vᵀ` with `uv = start` and `u² − v² = d` in every mode."""
    k = len(s.values)
    u = math.sqrt((d + math.hypot(d, 2 * s.start)) / 2)
    first, last = np.zeros((k, s.h)), np.zeros((s.h, k))
    first[:, :k], last[:k] = u * U, s.start / u * V.T
    return Network([first, last])


def compute(s: OneAndTwoLayersSettings, seed: int, progress: Progress) -> OneAndTwoLayersData:
    """Run one layer and two from the same product, and both from random products."""
    rng = np.random.default_rng(seed)
    k = len(s.values)
    U, V = (np.linalg.qr(rng.standard_normal((k, k)))[0] for _ in range(2))
    values = np.array(s.values)
    f = MatrixFactorization((U * values) @ V.T)
    one = gradient_flow(f, [s.start * U @ V.T], until=FRACTION / 10)
    two, modes, exact = {}, {}, {}
    for d in s.imbalance:
        run = gradient_flow(f, spectral_start(s, d, U, V), until=FRACTION / 10)
        t = np.asarray(run.t)
        two[d] = run
        modes[d] = np.array([np.diagonal(U.T @ run.network_at(float(x)).product() @ V) for x in t])
        exact[d] = np.array([two_layer_scalar(d, float(y), s.start, t) for y in values]).T
    rows = []
    for i, draw in enumerate(seeds_of(s.seeds, seed)):
        progress(0.3 + 0.7 * i / s.seeds, f"draw {i + 1} of {s.seeds}")
        rows.append([_race(f, s, size, np.random.default_rng([draw, j])) for j, size in enumerate(s.size)])
    return OneAndTwoLayersData(s, f, one, two, modes, exact, np.array(rows))


def _race(f: MatrixFactorization, s: OneAndTwoLayersSettings, size: float, rng: np.random.Generator) -> list[float]:
    """Return the certified rate of two random layers over that of one, and both times to 10⁻⁶."""
    k = len(s.values)
    net = Network([size * rng.standard_normal((k, s.h)), size * rng.standard_normal((s.h, k))])
    run = gradient_flow(f, net, until=FRACTION)
    alone = gradient_flow(f, [net.product()], until=FRACTION)
    return [certify(f, net).rate / f.pl_constant, float(run.time_to(FRACTION)), float(alone.time_to(FRACTION))]


def _times(data: OneAndTwoLayersData) -> np.ndarray:
    return np.array([run.time_to(FRACTION) for run in data.two.values()], dtype=float)


def claims(data: OneAndTwoLayersData) -> Iterable[Claim | LeftOut]:
    """State the closed forms, the rates, and who is faster."""
    s = data.settings
    largest = max(s.values)
    off = max(float(np.abs(data.modes[d] - data.exact[d]).max()) for d in s.imbalance) / largest
    yield Claim.within("Every mode of two layers follows its closed form: relative difference", off, 0, 1e-6)
    residual = (np.asarray(data.one.gap) / float(data.one.gap[0])) / np.exp(-2 * np.asarray(data.one.t))
    yield Claim.within("One layer falls as e^{−2t}, whatever the data: ratio", residual, 1 - 1e-6, 1 + 1e-6)
    final = [2 * math.hypot(d, 2 * min(s.values)) for d in s.imbalance]
    yield Claim.all_below(
        "The rate of two layers is at least 2 sqrt(d² + 4w²) of the slowest mode",
        [2 * math.hypot(d, 2 * min(s.start, *s.values)) for d in s.imbalance],
        [float(np.asarray(data.two[d].rate).min()) for d in s.imbalance],
        1e-6,
    )  # fmt: skip
    yield Claim.within(
        "Its last rate is 2 sqrt(d² + 4σ²) with the slowest mode's σ, within a fifth",
        [float(data.two[d].rate[-1]) / last for d, last in zip(s.imbalance, final, strict=True)],
        0.8 if len(s.values) > 1 else 0.99, 1.2,
    )  # fmt: skip
    if len(s.imbalance) > 1:
        order = np.argsort(s.imbalance)
        yield Claim.within(
            "The larger d, the earlier two layers reach 10⁻⁶: ratio of neighbouring times",
            _times(data)[order][1:] / _times(data)[order][:-1], 0, 1.0,
        )  # fmt: skip
    alone = float(data.one.time_to(FRACTION))
    faster = [alone / t for d, t in zip(s.imbalance, _times(data), strict=True) if d >= 1]
    if faster:
        yield Claim.within("From d = 1 on two layers are at least as fast as one: ratio of times", faster, 1.0)
    yield kept_claim(
        "Every run keeps its certificate", [certify(data.objective, r.start).check(r) for r in data.two.values()]
    )
    yield from about_these(s.changes(), list(_random_claims(data, alone)))


def _random_claims(data: OneAndTwoLayersData, alone: float) -> Iterable[Claim]:
    """State what holds at the settings shown."""
    s = data.settings
    balanced = {d: alone / t for d, t in zip(s.imbalance, _times(data), strict=True)}
    yield Claim.within("Balanced layers (d = 0) are slower than one: ratio of times", balanced[0.0], 0, 1.0)
    ratio = data.random[:, :, 2] / data.random[:, :, 1]
    yield Claim.within(
        "Random layers of the largest size are faster than one from the same product, in every draw: ratio",
        ratio[:, -1], 1.0,
    )  # fmt: skip
    yield Claim.within("Those of the smallest size are slower, in every draw: ratio", ratio[:, 0], 0, 1.0)
    certified = data.random[:, :, 0] > 1
    yield Claim(
        "Wherever the certified bound on λ_min(T) exceeds 1, two layers are faster",
        f"{int(np.sum(certified))} of {certified.size} starts, ratios from "
        f"{number(float(ratio[certified].min())) if certified.any() else 'none'}",
        bool(certified.any() and (ratio[certified] > 1).all()),
    )


def draw(data: OneAndTwoLayersData) -> Any:
    """Draw the losses, the modes, and the ratios of times of random starts."""
    s = data.settings
    fig, (loss, modes, race) = figure(9.6, 3.2, ncols=3)
    end = max(float(data.one.t[-1]), *(float(run.t[-1]) for run in data.two.values()))
    first = float(data.one.gap[0])
    for (d, run), colour in zip(data.two.items(), PALETTE, strict=False):
        loss.semilogy(run.t, np.asarray(run.gap) / first, color=colour, label=f"two layers, $d={d:g}$")
    loss.semilogy(data.one.t, np.asarray(data.one.gap) / first, "--", color=COLOURS["black"], label="one layer")
    loss.set(xlim=(0, min(end, 4 * float(data.one.t[-1]))), ylim=(FRACTION, 1.5), xlabel="$t$")
    loss.set_title("Loss from the same product")
    loss.legend(loc="upper right", fontsize=7)
    for d, style in zip((min(s.imbalance), max(s.imbalance)), ("-", ":"), strict=True):
        t = np.asarray(data.two[d].t)
        for i, colour in zip(range(len(s.values)), PALETTE, strict=False):
            modes.plot(t, data.modes[d][:, i] / s.values[i], style, color=colour,
                       label=rf"$\sigma={s.values[i]:g}$, $d={d:g}$")  # fmt: skip
    t = np.linspace(0, end, 200)
    modes.plot(t, 1 - (1 - s.start / max(s.values)) * np.exp(-t), "--", color=COLOURS["black"], label="one layer")
    modes.set(xlim=(0, min(end, 4 * float(data.one.t[-1]))), xlabel="$t$")
    modes.set_title("Modes over their singular values")
    modes.legend(loc="lower right", fontsize=6)
    ratio = data.random[:, :, 2] / data.random[:, :, 1]
    for j, size in enumerate(s.size):
        race.loglog(np.full(len(ratio), size), ratio[:, j], "o", color=PALETTE[0], markersize=3, alpha=0.6)
    race.axhline(1.0, color=COLOURS["black"], linewidth=0.8, linestyle="--")
    race.set(xlabel="standard deviation of the entries", ylabel="time of one layer over that of two")
    race.set_title("Random starts")
    return fig


def tables(data: OneAndTwoLayersData) -> list[Table]:
    """The times."""
    rows: list[tuple[Any, ...]] = [("one layer", float(data.one.time_to(FRACTION)), float(data.one.rate[-1]))]
    rows += [
        (f"two layers, d = {number(d)}", float(run.time_to(FRACTION)), float(run.rate[-1]))
        for d, run in data.two.items()
    ]
    return [Table("From the same product", ["model", "time to 10⁻⁶", "last rate"], rows)]


def numbers(data: OneAndTwoLayersData) -> dict[str, Any]:
    """The losses, and the times of random starts."""
    found = {f"d = {d:g}": {"t": run.t, "gap": run.gap} for d, run in data.two.items()}
    return {"one layer": {"t": data.one.t, "gap": data.one.gap}, **found, "random": data.random}


def setup(data: OneAndTwoLayersData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": f"½‖Y − W‖², Y square with singular values {', '.join(number(v) for v in s.values)}",
        "Same product": f"all modes at {number(s.start)}; two layers of width {s.h} with u² − v² = d in every mode",
        "Random": f"entries N(0, size²), size {', '.join(number(v) for v in s.size)}, {s.seeds} draws each; one "
        "layer starts at their product",
        "Flow": "to 10⁻⁷ of the initial gap; times are to 10⁻⁶",
    }


experiment = PaperFigure(
    "one_and_two_layers",
    "One layer against two",
    "The same product, learned as one matrix or as two. One layer falls as e^{−2t}. Two layers multiply the rate of "
    "every mode by sqrt(d² + 4w²), d their imbalance: balanced small layers are slower, as they start at a saddle; a "
    "large imbalance accelerates all modes alike, and the small singular values are no longer last.",
    "Tarmoun, França, Haeffele & Vidal 2021, sections 3 and 5; the sizes of its figures are not known here",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=OneAndTwoLayersSettings,
    paper="Tarmoun, França, Haeffele & Vidal 2021",
)
