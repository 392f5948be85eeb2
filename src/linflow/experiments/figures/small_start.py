"""Small starts: one mode after the other, how depth delays it, and how the start turns towards the spectrum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow.dynamics import Trajectory, gradient_descent, gradient_flow
from linflow.exact import learning_times, spectral
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.geometry.alignment import alignment
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

SHADES = ("blue", "vermillion", "green", "orange", "purple", "sky", "black")
DONE = 0.9
"""A mode is learned at this part of its singular value, and not yet begun at 1 minus it."""


@dataclass(frozen=True)
class SmallStartSettings(Settings):
    """Target, sizes of the start, depths, and the step of descent."""

    values: tuple[float, ...] = setting((3.0, 1.5, 0.6), "the singular values of the target")
    alpha: float = setting(1e-3, "the size of the start of the runs")
    alphas: tuple[float, ...] = setting((1e-1, 1e-2, 1e-3, 1e-4, 1e-5), "the sizes over which times are compared")
    depth: tuple[int, ...] = setting((2, 3, 4, 5), "the depths", least=2)
    h: int = setting(6, "the hidden width")
    step: float = setting(0.01, "the step of descent")
    seeds: int = setting(3, "the random starts")


@dataclass(frozen=True)
class SmallStartData:
    """Runs, times and sines.

    Attributes:
        settings: The settings.
        flow: The flow of two aligned layers.
        modes: Its modes in closed form, a row for each time.
        descent: Descent from the same start.
        times: When each mode is half learned: by depth, size and mode.
        windows: When two layers have learned the first mode, and when they begin the second: by size.
        sines: The alignment when the first mode is half learned: by draw and size.
    """

    settings: SmallStartSettings
    objective: MatrixFactorization
    flow: Trajectory
    modes: np.ndarray
    descent: Trajectory
    times: np.ndarray
    windows: np.ndarray
    sines: np.ndarray


def compute(s: SmallStartSettings, seed: int, progress: Progress) -> SmallStartData:
    """Run flow and descent from an aligned start, solve all chains, and run flows from random starts."""
    rng = np.random.default_rng(seed)
    values, sizes = np.sort(s.values)[::-1], np.sort(s.alphas)[::-1]
    k = len(values)
    U, V = (np.linalg.qr(rng.standard_normal((k, k)))[0] for _ in range(2))
    Y = (U * values) @ V.T
    f = MatrixFactorization(Y)
    net = init.spectral((k, max(s.h, k), k), Y, s.alpha, rng=seed)
    half = learning_times(net, Y)
    end = 1.4 * float(half[-1])
    flow = gradient_flow(f, net, t_max=end, record=("singular_values",), times=np.linspace(0, end, 60).tolist()[1:])
    progress(0.3, "descent")
    steps = int(np.ceil(end / s.step))
    descent = gradient_descent(f, net, step_size=s.step, steps=steps, record=("singular_values",))
    times = np.array(
        [[learning_times(init.spectral((k,) * (L + 1), Y, a, rng=seed), Y) for a in sizes] for L in s.depth]
    )
    windows = np.array(
        [
            [float(learning_times(init.spectral((k, k, k), Y, a, rng=seed), Y, part)[i]) for i, part in ends]
            for ends in [((0, DONE), (1 % k, 1 - DONE))]
            for a in sizes
        ]
    )
    sines = []
    for i in range(s.seeds):
        progress(0.5 + 0.5 * i / s.seeds, f"start {i + 1}")
        sides = [rng.standard_normal(shape) for shape in ((k, s.h), (s.h, k))]
        sines.append([_sine(f, [a * W for W in sides], values) for a in sizes])
    modes = np.diagonal(U.T @ np.asarray(spectral(net, Y, flow.t)) @ V, axis1=1, axis2=2)
    return SmallStartData(s, f, flow, modes, descent, times, windows, np.array(sines))


def _sine(f: MatrixFactorization, layers: list[np.ndarray], values: np.ndarray) -> float:
    """Return the sine of the alignment when the product has half the first singular value of the target."""
    first = float(np.linalg.norm(layers[0] @ layers[1], 2))
    if first >= values[0] / 2:
        return alignment(f, layers).sine
    # The gap there, if only the first mode is learned; the gap falls all the time, so it is met once.
    rest = float(np.sum(values**2)) - 0.75 * float(values[0] ** 2)
    run = gradient_flow(f, layers, until=0.5 * rest / f.gap(layers[0] @ layers[1]))
    return alignment(f, run.final).sine


def steps_to_half(run: Trajectory, values: np.ndarray) -> np.ndarray:
    """Return the first record at which each singular value is half of that of the target."""
    seen = np.asarray(run.singular_values)
    return np.array([int(np.argmax(seen[:, i] >= value / 2)) for i, value in enumerate(values)])


def _exponents(data: SmallStartData) -> np.ndarray:
    """Return the slope of the last two points of log t over log 1/α, for the first mode, at every depth."""
    times, sizes = data.times[:, -2:, 0], np.sort(data.settings.alphas)[::-1][-2:]
    return np.log(times[:, 1] / times[:, 0]) / np.log(sizes[0] / sizes[1])


def claims(data: SmallStartData) -> Iterable[Claim | LeftOut]:
    """Compare runs, closed forms and laws."""
    s = data.settings
    values, sizes = np.sort(s.values)[::-1], np.sort(s.alphas)[::-1]
    # Relative to the largest singular value; the run's relative tolerance of a step is 10⁻⁸.
    off = np.max(np.abs(np.asarray(data.flow.singular_values) - np.sort(np.abs(data.modes), axis=1)[:, ::-1]))
    yield Claim.within(
        "The flow's singular values are the closed form: greatest difference", off / values[0], 0, 1e-6
    )
    if 2 in s.depth:
        literal = (np.log(values / sizes[:, None] ** 2 - 1)) / (2 * values)
        row = data.times[s.depth.index(2)]
        started = values > 2 * sizes[:, None] ** 2
        text = "Two layers learn half a mode at log(σ/α² − 1)/(2σ)"
        yield Claim.same(text, row[started], literal[started], 1e-10)
    ordered = np.diff(data.times, axis=2)
    yield Claim.within("Larger modes are learned first, at every depth and size: least delay", ordered, 0.0)
    yield from _law_claims(data)
    measured = steps_to_half(data.descent, values) * s.step
    ratio = measured / learning_times(data.flow.start, data.objective.Y)
    paper = [
        Claim.within("Descent learns each mode when the flow does: steps·η over time", ratio, 0.98, 1.02),
        Claim.within("A further layer makes each mode later: ratio of times", data.times[1:] / data.times[:-1], 1.0),
        Claim.within(
            "The time between a mode learned and the next begun grows as the start shrinks: growth",
            np.diff(data.windows[:, 1] - data.windows[:, 0]),
            0.0,
        ),
        Claim.within(
            "A smaller start is better aligned when the first mode is half learned: ratio of sines, every draw",
            data.sines[:, 1:] / data.sines[:, :-1],
            high=1.0,
        ),
    ]
    yield from about_these(s.changes("values", "alpha", "alphas", "depth", "step"), paper)


def _law_claims(data: SmallStartData) -> Iterable[Claim | LeftOut]:
    s = data.settings
    sizes = np.sort(s.alphas)[::-1]
    text = "The time grows as α^{−(L−2)}: fitted exponent less L − 2, at depths 3 and more"
    deep = [(L - 2, slope) for L, slope in zip(s.depth, _exponents(data), strict=True) if L > 2]
    if deep and sizes[-2] <= 1e-3:
        yield Claim.within(text, [slope - law for law, slope in deep], -0.02, 0.02)
    else:
        yield LeftOut(text, "it needs depths above 2 and two sizes of 0.001 or less")
    text = "With two layers it grows as log(1/α)/σ: slope times σ"
    if 2 in s.depth:
        times = data.times[s.depth.index(2)]
        slopes = (times[-1] - times[-2]) / np.log(sizes[-2] / sizes[-1]) * np.sort(s.values)[::-1]
        yield Claim.within(text, slopes, 0.99, 1.01)
    else:
        yield LeftOut(text, "it needs depth 2")


def draw(data: SmallStartData) -> Any:
    """Draw the modes over time and over steps, the times over depth and size, the window, and the alignment."""
    s = data.settings
    values, sizes = np.sort(s.values)[::-1], np.sort(s.alphas)[::-1]
    fig, axes = figure(7.2, 4.6, nrows=2, ncols=3)
    top, bottom = axes
    for i, value in enumerate(values):
        look = {"color": COLOURS[SHADES[i % len(SHADES)]]}
        top[0].plot(data.flow.t, data.modes[:, i], **look)
        end = (float(data.flow.t[-1]), value)
        text = {"textcoords": "offset points", "ha": "right", "size": 8}
        top[0].annotate(rf"$\sigma={value:g}$", end, (0, 4), **text, **look)
        top[0].plot(data.flow.t[::4], np.asarray(data.flow.singular_values)[::4, i], "o", markersize=2.5, **look)
        top[1].plot(np.asarray(data.descent.singular_values)[:, i], **look)
        top[2].semilogy(s.depth, data.times[:, min(2, len(sizes) - 1), i], "o-", markersize=3, **look)
    for place in steps_to_half(data.descent, values):
        top[1].axvline(place, color=COLOURS["black"], linewidth=0.5, linestyle=":")
    top[0].set(xlabel="$t$", ylabel="mode $\\omega_i$", title=f"Flow and closed form, $\\alpha={s.alpha:g}$")
    top[1].set(xlabel="step", ylabel="singular value", title=rf"Descent, $\eta={s.step:g}$")
    top[2].set(xlabel="depth $L$", ylabel="$t$ to half", xticks=s.depth)
    top[2].set_title(rf"Depth, $\alpha={sizes[min(2, len(sizes) - 1)]:g}$")
    for row, L, slope in zip(data.times, s.depth, _exponents(data), strict=True):
        colour = COLOURS[SHADES[s.depth.index(L) % len(SHADES)]]
        bottom[0].loglog(1 / sizes, row[:, 0], "o-", markersize=3, color=colour)
        law = f"$L={L}$" + (rf": $\alpha^{{-{slope:.2f}}}$" if L > 2 else r": $\log$")
        bottom[0].annotate(law, (1 / sizes[-1], row[-1, 0]), (4, 0), textcoords="offset points", size=7, va="center")
    bottom[0].set(xlabel=r"$1/\alpha$", ylabel="$t$ to half, first mode", title="Size of the start")
    bottom[0].set_xlim(None, (1 / sizes[-1]) * 60)
    bottom[1].fill_betweenx(1 / sizes, data.windows[:, 0], data.windows[:, 1], color=COLOURS["sky"], alpha=0.5)
    for column, name in zip(data.windows.T, ("first at 90 %", "second at 10 %"), strict=True):
        bottom[1].plot(column, 1 / sizes, "o-", markersize=3, label=name)
    bottom[1].set(yscale="log", xlabel="$t$", ylabel=r"$1/\alpha$", title="Window of rank one")
    bottom[1].legend(loc="lower right")
    for line in data.sines:
        bottom[2].loglog(1 / sizes, line, "o-", markersize=3, color=COLOURS["blue"], linewidth=0.8)
    bottom[2].set(xlabel=r"$1/\alpha$", ylabel="sine, first mode at half", title="Alignment")
    return fig


def tables(data: SmallStartData) -> list[Table]:
    """Steps and times to half of each mode, and the fitted exponents."""
    s = data.settings
    values = np.sort(s.values)[::-1]
    half = learning_times(data.flow.start, data.objective.Y)
    rows = zip(values.tolist(), steps_to_half(data.descent, values).tolist(), (half / s.step).tolist(), strict=True)
    exponents = zip(s.depth, _exponents(data).tolist(), [L - 2 for L in s.depth], strict=True)
    return [
        Table(f"Steps of {number(s.step)} to half of each mode", ["σ", "descent", "flow, t/η"], list(rows)),
        Table("Exponent of the time over 1/α (two layers: logarithmic)", ["L", "fitted", "L − 2"], list(exponents)),
    ]


def numbers(data: SmallStartData) -> dict[str, Any]:
    """Times, windows and sines."""
    s = data.settings
    return {
        "depth": s.depth,
        "alphas": np.sort(s.alphas)[::-1],
        "times": data.times,
        "windows": data.windows,
        "sines": data.sines,
        "steps": steps_to_half(data.descent, np.sort(s.values)[::-1]),
    }


def setup(data: SmallStartData) -> dict[str, str]:
    """What was computed, in words."""
    s = data.settings
    return {
        "Objective": f"½‖Y − W‖², singular values {', '.join(number(x) for x in s.values)}, random singular vectors",
        "Top": f"two layers aligned with Y, all weights {number(s.alpha)}; half is half of the singular value",
        "Size and depth": "all weights α, aligned with Y, closed form",
        "Alignment": f"α·N(0, 1) entries, hidden width {s.h}, {s.seeds} draws; sine of the angle between the leading "
        "singular vectors of the product and of Y",
    }


experiment = PaperFigure(
    "small_start",
    "Small starts learn one mode after the other",
    "From a small start the modes of the target are learned one after the other, each along a sigmoid. With two "
    "layers, a start of size α costs a time log(1/α)/σ, with L layers α^{−(L−2)}/((L−2)σ). Between two modes there "
    "is a window in which the product has low rank, and it grows as the start shrinks. On its way to the first mode "
    "a random start turns towards the leading singular vectors of the target.",
    "Saxe, McClelland & Ganguli 2014; Gidel, Bach & Lacoste-Julien 2019; Stöger & Soltanolkotabi 2021; Li, Luo & Lyu "
    "2021",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=SmallStartSettings,
    paper="Saxe 2014, Gidel 2019, Stöger 2021, Li 2021",
)
