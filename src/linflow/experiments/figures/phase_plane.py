"""Two scalar weights: the whole flow in one plane, and what the imbalance does to its speed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from linflow import bounds
from linflow.certificates import certify, margin
from linflow.certificates.checking import OBSERVED_ALLOWANCE
from linflow.dynamics import Result, Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, Progress, Table, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._runs import axis_claims, kept_claim
from linflow.experiments.figures._settings import Settings, setting
from linflow.geometry.imbalance import imbalance_matrices
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

TARGET, REACH, UNTIL = 2.0, 3.2, 1e-10
F = MatrixFactorization(np.array([[TARGET]]))
# The starts drawn in the plane: d = 0 on both sides, d = 3 from three sides, d < 0, and one that grazes the saddle.
DRAWN = ((0.3, 0.3), (-3.0, -3.0), (2.0, -1.0), (-1.8, 0.24**0.5), (3.1, 6.61**0.5))
DRAWN += ((-0.5, 2.2), (0.4, -2.6), (1.6, -1.7))
SADDLE = (1.8, -1.8)
# Instants at which each run takes a step, so that its curve is smooth; geometric, as the speed falls by decades.
STOPS = np.geomspace(1e-3, 20, 80).tolist()
PALETTE = [COLOURS[name] for name in ("blue", "green", "vermillion", "black", "orange", "purple")]


@dataclass(frozen=True)
class PhasePlaneSettings(Settings):
    """Starts in the plane, and the imbalances that are compared at one product."""

    start: tuple[tuple[float, float], ...] = setting(DRAWN, "the drawn starts (u, v)", least=-math.inf)
    seeds: int = setting(20, "the random starts that are checked beside the drawn ones")
    d: tuple[float, ...] = setting((0.0, 1.5, 3.0, 6.0), "the imbalances compared at one product", least=0.0)
    product: float = setting(0.1, "that product uv")


@dataclass(frozen=True)
class PhasePlaneData:
    """The runs from the drawn starts, from random starts, from the line u = −v, and from one product."""

    settings: PhasePlaneSettings
    drawn: list[Trajectory]
    random: list[Trajectory]
    saddle: Trajectory
    race: dict[float, Trajectory]

    @property
    def moving(self) -> list[Trajectory]:
        """All runs except the one to the saddle."""
        return [*self.drawn, *self.random, *self.race.values()]

    @property
    def every(self) -> list[Trajectory]:
        """All runs."""
        return [*self.drawn, *self.random, self.saddle, *self.race.values()]


def weights(d: float, product: float) -> tuple[float, float]:
    """Return `u ≥ |v|` with `u² − v² = d` and the given product, or its mirror image when d < 0."""
    u = math.sqrt((abs(d) + math.hypot(d, 2 * product)) / 2)
    return (u, product / u) if d >= 0 else (product / u, u)


def _flow(start: tuple[float, float], until: float = UNTIL) -> Trajectory:
    u, v = start
    return gradient_flow(F, [np.array([[u]]), np.array([[v]])], until=until, record=("imbalance_drift",), times=STOPS)


def _path(run: Trajectory) -> np.ndarray:
    """Return `(u, v)` at the recorded instants."""
    return np.array([[float(W[0, 0]) for W in run.network_at(t).weights] for t in run.t])


def _imbalance(run: Trajectory) -> float:
    u, v = (float(W[0, 0]) for W in run.start.weights)
    return (u - v) * (u + v)


def _certified(run: Trajectory) -> float:
    return F.pl_constant * bounds.scalar_exact([_imbalance(run)], margin(F, run.start))


def _final(d: float) -> float:
    return F.pl_constant * math.hypot(d, 2 * TARGET)


def _level(d: float, v: np.ndarray) -> np.ndarray:
    """Return the points (u, v) with `u² − v² = d ≥ 0` and u ≥ 0."""
    return np.array([np.sqrt(d + v**2), v])


def exact_gap(t: np.ndarray, d: float, product: float) -> np.ndarray:
    """Return the loss gap at times t in closed form, for a start with `product > 0` and imbalance d.

    With `c = |d|/2`, `r = sqrt(w*² + c²)` and `p, q = w* ± r`, `y = w + sqrt(w² + c²)` follows `ẏ = −(y − p)(y − q)`.
    """
    c, r = abs(d) / 2, math.hypot(TARGET, d / 2)
    p, q, y = TARGET + r, TARGET - r, product + math.hypot(product, d / 2)
    k = (y - p) / (y - q) * np.exp(-2 * r * t)
    # y − p = (p − q) k / (1 − k), and w − w* follows from it without cancellation.
    y, off = (p - q * k) / (1 - k), 2 * r * k / (1 - k)
    return ((1 + c**2 / (y * p)) * off / 2) ** 2 / 2


def compute(s: PhasePlaneSettings, seed: int, progress: Progress) -> PhasePlaneData:
    """Run the flow from every start."""
    drawn = [_flow(start) for start in s.start]
    progress(0.3, "random starts")
    starts = np.random.default_rng(seed).uniform(-REACH, REACH, (s.seeds, 2))
    random = [_flow((float(u), float(v))) for u, v in starts]
    progress(0.7, "the saddle and the race")
    # The saddle leaves a gap of ½w*², so the target is never met and only standstill ends the run.
    return PhasePlaneData(s, drawn, random, _flow(SADDLE), {d: _flow(weights(d, s.product)) for d in s.d})


def claims(data: PhasePlaneData) -> Iterable[Claim]:
    """State what the flow conserves, where it ends, and how fast it goes."""
    yield from _path_claims(data)
    yield Claim.all_below(
        "No instantaneous rate is below γ sqrt(d² + 4·margin²)",
        np.concatenate([np.full(len(run.t), _certified(run)) for run in data.every]),
        np.concatenate([run.rate for run in data.every]),
        OBSERVED_ALLOWANCE,
    )
    race = data.race
    yield from axis_claims(F, race.values())
    yield Claim.same(
        "The dashed lines fall at the certified rate of `certify`",
        [_certified(run) for run in race.values()],
        [certify(F, run.start).rate for run in race.values()],
        1e-9,  # the allowances for rounding that a certificate makes
    )
    yield kept_claim(
        "Every run keeps its certificate, in rate and in loss",
        [certify(F, run.start).check(run) for run in data.every],
    )
    off = max(abs(float(run.rate[-1]) / _final(_imbalance(run)) - 1) for run in data.moving)
    yield Claim.within(
        "The last rate is γ sqrt(d² + 4w*²), to a relative 10⁻⁴ at 10⁻¹⁰ of the initial gap", off, 0, 1e-4
    )
    errors = [np.abs(run.gap / exact_gap(run.t, d, data.settings.product) - 1).max() for d, run in race.items()]
    yield Claim.within("The loss follows the closed form to a relative 10⁻⁶ at every step", errors, 0, 1e-6)
    if len(race) > 1:
        yield from _race_claims(race)


def _path_claims(data: PhasePlaneData) -> Iterable[Claim]:
    """State that runs stay on their level sets, and where they end."""
    every, moving, saddle = data.every, data.moving, data.saddle
    drifts = [float(run.imbalance_drift.max()) for run in every if run.imbalance_drift is not None]
    yield Claim(
        "Every trajectory stays on its level set of u² − v²: the drift is the integration error alone",
        f"at most {number(max(drifts))} along {len(drifts)} runs",
        len(drifts) == len(every) and max(drifts) <= 1e-6,
        max(drifts),
    )
    reached = [run.result is Result.TARGET for run in moving]
    miss = max(abs(float(run.final.product()[0, 0]) / TARGET - 1) for run in moving)
    yield Claim(
        f"Every trajectory that starts off the line u = −v reaches the hyperbola uv = {TARGET:g}",
        f"{sum(reached)} of {len(moving)} runs, off by at most {number(miss)} of w*",
        all(reached) and miss <= 1e-4,
        miss,
    )
    drawn = [(d, point) for d in (0.0, 3.0) for point in _level(d, np.linspace(-REACH, REACH, 7)).T]
    drawn += [(_imbalance(run), point) for run in (*data.drawn, *data.random) for point in _path(run)[::20]]
    found = [float(imbalance_matrices([u.reshape(1, 1), v.reshape(1, 1)])[0][0, 0]) for _, (u, v) in drawn]
    yield Claim.within(
        f"The axes u and v are the weights: `imbalance_matrices` gives d at {number(len(found))} drawn points, error",
        max(abs(x - d) for x, (d, _) in zip(found, drawn, strict=True)),
        0,
        1e-6,  # of the integration, as above
    )
    at = max(abs(float(W[0, 0])) for W in saddle.weights)
    yield Claim(
        "The run from u = −v, the stable manifold of the saddle, ends at the saddle and is reported as stationary",
        f"{saddle.result.name.lower()}, at a distance of {number(at)} from the origin",
        saddle.result is Result.STATIONARY and at <= 1e-6,
        at,
    )


def _race_claims(race: dict[float, Trajectory]) -> Iterable[Claim]:
    """State that, from the same product, a larger imbalance is faster."""
    ordered = [race[d] for d in sorted(race)]
    shared = np.linspace(0, min(float(run.t[-1]) for run in ordered), 101)[1:]
    losses = [run.gap_at(shared) for run in ordered]
    yield Claim.all_below(
        "From the same product, a run with a larger |d| has the smaller loss at every time", losses[1:], losses[:-1]
    )
    times = [run.time_to(1e-6) for run in ordered]
    yield Claim(
        "From the same product, a run with a larger |d| reaches 10⁻⁶ of the initial loss earlier",
        "t = " + ", ".join(f"{number(t)} (d = {d:g})" for d, t in zip(sorted(race), times, strict=True)),
        bool((np.diff(times) < 0).all()),
        tuple(times),
    )


def draw(data: PhasePlaneData) -> Any:
    """Draw the plane on the left, and the losses from one product on the right."""
    fig, (plane, loss) = figure(7.2, 3.7, ncols=2, width_ratios=(1.15, 1))
    _draw_plane(plane, list(map(_path, data.drawn)), _path(data.saddle))
    _draw_loss(loss, data)
    return fig


def _draw_plane(ax: Any, paths: list[np.ndarray], stuck: np.ndarray) -> None:
    axis = np.linspace(-REACH, REACH, 60)
    u, v = np.meshgrid(axis, axis)
    ax.streamplot(
        axis, axis, (TARGET - u * v) * v, (TARGET - u * v) * u,
        color="#DDDDDD", linewidth=0.6, arrowsize=0.6, density=0.9, zorder=0,
    )  # fmt: skip
    branch = np.geomspace(TARGET / REACH, REACH, 100)
    s = np.linspace(-REACH, REACH, 100)
    for sign in (1, -1):
        ax.plot(sign * branch, sign * TARGET / branch, color=COLOURS["black"], linewidth=1.6)
        u, v = _level(3.0, s)
        ax.plot(sign * u, v, "--", color=PALETTE[2], linewidth=0.9)
    ax.plot(s, s, "--", color=PALETTE[0], linewidth=0.9)
    for path in [*paths, stuck]:
        d = path[0, 0] ** 2 - path[0, 1] ** 2
        colour = PALETTE[0] if abs(d) < 1e-9 else PALETTE[2] if abs(d - 3) < 1e-9 else COLOURS["purple"]
        ax.plot(*path.T, color=colour, linewidth=1.8, solid_capstyle="round")
        ax.plot(*path[0], "o", color=colour, markersize=4.5)
    ax.plot(0, 0, "s", color="white", markeredgecolor=COLOURS["black"], markersize=5, zorder=5)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
    for x, y, text, colour in (
        (0.75, 2.85, "$uv=w^*$", COLOURS["black"]),
        (-2.75, -1.95, "$d=0$", PALETTE[0]),
        (1.88, 0.2, "$u^2-v^2=3$", PALETTE[2]),
        (-0.3, 1.75, "$d<0$", COLOURS["purple"]),
        (0.25, -0.12, "saddle", COLOURS["black"]),
        (1.5, -2.3, "$u=-v$", PALETTE[0]),
    ):
        ax.text(x, y, text, color=colour, fontsize=9, bbox=box)
    ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xlabel="$u$", ylabel="$v$", aspect="equal")
    ax.set_title("Trajectories keep $u^2-v^2$")


def _draw_loss(ax: Any, data: PhasePlaneData) -> None:
    end = max(float(run.t[-1]) for run in data.race.values())
    for (d, run), colour in zip(data.race.items(), cycle(PALETTE)):
        ax.semilogy(run.t, run.gap / run.gap[0], color=colour)
        rate = _certified(run)
        stop = min(end, math.log(1 / UNTIL) / rate)
        ax.semilogy((0, stop), (1, math.exp(-rate * stop)), "--", color=colour, linewidth=1)
        place = {"xytext": (-7, 4), "textcoords": "offset points", "ha": "right"}
        ax.annotate(f"$d={d:g}$", (run.t[-1], UNTIL), color=colour, size=8, **place)
    ax.plot([], [], color=COLOURS["grey"], label="flow")
    ax.plot([], [], "--", color=COLOURS["grey"], linewidth=1, label="certified")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.07))
    ax.set(xlabel="time $t$", ylabel="loss over initial loss", xlim=(0, 1.02 * end), ylim=(UNTIL, 2))
    ax.set_title(f"Same start product, $uv={data.settings.product:g}$")


def tables(data: PhasePlaneData) -> list[Table]:
    """Rates and times from one product, a row for each imbalance."""
    columns = ["d", "certified rate", "last rate", "γ sqrt(d² + 4w*²)", "time to 10⁻⁶"]
    rows = [(d, _certified(run), float(run.rate[-1]), _final(d), run.time_to(1e-6)) for d, run in data.race.items()]
    return [Table(f"Starts with the same product, uv = {data.settings.product:g}", columns, rows)]


def numbers(data: PhasePlaneData) -> dict[str, Any]:
    """The drawn trajectories, and the losses from one product."""
    return {
        "trajectories": [{"d": _imbalance(run), "path": _path(run)} for run in data.drawn],
        "stable_manifold": _path(data.saddle),
        "race": {
            f"{d:g}": {"t": run.t, "relative_gap": run.gap / run.gap[0], "certified_rate": _certified(run)}
            for d, run in data.race.items()
        },
    }


def setup(data: PhasePlaneData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Objective": f"½(w* − uv)², w* = {TARGET:g}",
        "Starts": f"{len(s.start)} drawn, {s.seeds} uniform in [−{REACH}, {REACH}]², one on u = −v",
        "Same product": f"uv = {s.product:g} at d = " + ", ".join(f"{d:g}" for d in s.d),
        "Flow": "to 10⁻¹⁰ of the initial loss, relative tolerance 10⁻⁸",
    }


experiment = PaperFigure(
    "phase_plane",
    "The phase plane of two scalar weights",
    "The smallest overparametrized model, f(uv) with two numbers u and v. The flow keeps d = u² − v², so each "
    "trajectory runs along one hyperbola until it meets the solutions uv = w*. The start fixes d, and d sets the "
    "speed: the rate is γ sqrt(d² + 4(uv)²), never below γ|d| even where the product is zero. Only the "
    "balanced line u = −v leads into the saddle.",
    "Talk; Tarmoun, França, Haeffele & Vidal 2021; Min, Vidal & Mallada 2023, Proposition 3",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=PhasePlaneSettings,
    paper="Tarmoun, França, Haeffele & Vidal 2021",
)
