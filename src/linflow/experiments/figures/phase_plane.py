"""Two scalar weights: the whole flow in one plane, and what the imbalance does to its speed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from linflow import bounds
from linflow.certificates import certify, margin
from linflow.certificates.checking import OBSERVED_ALLOWANCE
from linflow.dynamics import Result, Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table, number
from linflow.experiments.figures._runs import axis_claims, kept_claim
from linflow.geometry.imbalance import imbalance_matrices
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

TARGET, REACH, UNTIL, RANDOM = 2.0, 3.2, 1e-10, 20
F = MatrixFactorization(np.array([[TARGET]]))
# The starts drawn in the plane: d = 0 on both sides, d = 3 from three sides, d < 0, and one that grazes the saddle.
DRAWN = ((0.3, 0.3), (-3.0, -3.0), (2.0, -1.0), (-1.8, 0.24**0.5), (3.1, 6.61**0.5))
DRAWN += ((-0.5, 2.2), (0.4, -2.6), (1.6, -1.7))
SADDLE = (1.8, -1.8)
PRODUCT, IMBALANCES = 0.1, (0.0, 1.5, 3.0, 6.0)
# Instants at which a run is stepped on, so that its curve is smooth; geometric, as the speed falls by decades.
STOPS = np.geomspace(1e-3, 20, 80).tolist()
PALETTE = [COLOURS[name] for name in ("blue", "green", "vermillion", "black")]


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


def _claims(runs: list[Trajectory], saddle: Trajectory, race: dict[float, Trajectory]) -> Iterable[Claim]:
    every = [*runs, saddle, *race.values()]
    moving = [*runs, *race.values()]
    drifts = [float(run.imbalance_drift.max()) for run in every if run.imbalance_drift is not None]
    misses = [abs(float(run.final.product()[0, 0]) / TARGET - 1) for run in moving]
    yield Claim(
        "Every trajectory stays on its level set of u² − v²: the drift is the integration error alone",
        f"at most {number(max(drifts))} along {len(drifts)} runs",
        len(drifts) == len(every) and max(drifts) <= 1e-6,
        max(drifts),
    )
    yield Claim(
        f"Every trajectory that starts off the line u = −v reaches the hyperbola uv = {TARGET:g}",
        f"{sum(run.result is Result.TARGET for run in moving)} of {len(moving)} runs, off by at most "
        f"{number(max(misses))} of w*",
        all(run.result is Result.TARGET for run in moving) and max(misses) <= 1e-4,
        max(misses),
    )
    drawn = [(d, point) for d in (0.0, 3.0) for point in _level(d, np.linspace(-REACH, REACH, 7)).T]
    drawn += [(_imbalance(run), point) for run in runs for point in _path(run)[::20]]
    found = [float(imbalance_matrices([u.reshape(1, 1), v.reshape(1, 1)])[0][0, 0]) for _, (u, v) in drawn]
    yield Claim.within(
        f"The axes u and v are the weights: `imbalance_matrices` gives d at {number(len(found))} drawn points, error",
        max(abs(x - d) for x, (d, _) in zip(found, drawn, strict=True)),
        0,
        1e-6,  # of the integration, as above
    )
    at = max(abs(float(W[0, 0])) for W in saddle.weights)
    yield Claim(
        "The one started on u = −v, the stable manifold of the saddle, ends as stationary at the saddle",
        f"{saddle.result.name.lower()}, at a distance of {number(at)} from the origin",
        saddle.result is Result.STATIONARY and at <= 1e-6,
        at,
    )
    yield Claim.all_below(
        "No instantaneous rate is below γ sqrt(d² + 4·margin²)",
        np.concatenate([np.full(len(run.t), _certified(run)) for run in every]),
        np.concatenate([run.rate for run in every]),
        OBSERVED_ALLOWANCE,
    )
    yield from axis_claims(F, race.values())
    yield Claim.same(
        "The dashed lines fall at the certified rate of `certify`",
        [_certified(run) for run in race.values()],
        [certify(F, run.start).rate for run in race.values()],
        1e-9,  # the allowances for rounding that a certificate makes
    )
    yield kept_claim(
        "Every run respects its certificate, in rate and in loss",
        [certify(F, run.start).check(run) for run in every],
    )
    off = max(abs(float(run.rate[-1]) / _final(_imbalance(run)) - 1) for run in moving)
    yield Claim.within(
        "The last rate is γ sqrt(d² + 4w*²), to a relative 10⁻⁴ at a gap of 10⁻¹⁰ of the first", off, 0, 1e-4
    )
    errors = [np.abs(run.gap / exact_gap(run.t, d, PRODUCT) - 1).max() for d, run in race.items()]
    yield Claim.within("The loss follows the closed form to a relative 10⁻⁶ at every step", errors, 0, 1e-6)
    ordered = [race[d] for d in sorted(race)]
    shared = np.linspace(0, min(float(run.t[-1]) for run in ordered), 101)[1:]
    losses = [run.gap_at(shared) for run in ordered]
    yield Claim.all_below(
        "From the same product, the loss of a larger |d| is the smaller one at every time", losses[1:], losses[:-1]
    )
    times = [race[d].time_to(1e-6) for d in sorted(race)]
    yield Claim(
        "From the same product, a larger |d| reaches 10⁻⁶ of the first loss sooner",
        "t = " + ", ".join(f"{number(t)} (d = {d:g})" for d, t in zip(sorted(race), times, strict=True)),
        bool((np.diff(times) < 0).all()),
        tuple(times),
    )


def _run(seed: int, progress: Progress) -> Outcome:
    rng = np.random.default_rng(seed)
    drawn = [_flow(start) for start in DRAWN]
    progress(0.3, "random starts")
    random = [_flow(tuple(start)) for start in rng.uniform(-REACH, REACH, (RANDOM, 2))]
    progress(0.7, "the saddle and the race")
    # The saddle leaves a gap of ½w*², so the target is never met and only standstill ends the run.
    saddle = _flow(SADDLE)
    race = {d: _flow(weights(d, PRODUCT)) for d in IMBALANCES}
    paths, stuck = [_path(run) for run in drawn], _path(saddle)
    curves = {d: (run.t, run.gap / run.gap[0]) for d, run in race.items()}
    rates = {d: _certified(run) for d, run in race.items()}

    def draw() -> Any:
        fig, (plane, loss) = figure(7.2, 3.7, ncols=2, width_ratios=(1.15, 1))
        _draw_plane(plane, paths, stuck)
        _draw_loss(loss, curves, rates)
        return fig

    return Outcome(
        list(_claims([*drawn, *random], saddle, race)),
        draw,
        {
            "trajectories": [{"d": _imbalance(run), "path": path} for run, path in zip(drawn, paths, strict=True)],
            "stable_manifold": stuck,
            "race": {
                f"{d:g}": {"t": t, "relative_gap": gap, "certified_rate": rates[d]} for d, (t, gap) in curves.items()
            },
        },
        {
            "Objective": f"½(w* − uv)², w* = {TARGET:g}",
            "Starts": f"{len(DRAWN)} drawn, {RANDOM} uniform in [−{REACH}, {REACH}]², one on u = −v",
            "Same product": f"uv = {PRODUCT} at d = " + ", ".join(f"{d:g}" for d in IMBALANCES),
            "Flow": "to 10⁻¹⁰ of the first loss, relative tolerance 10⁻⁸",
        },
        [
            Table(
                f"Starts with the same product, uv = {PRODUCT}",
                ["d", "certified rate", "last rate", "γ sqrt(d² + 4w*²)", "time to 10⁻⁶"],
                [(d, rates[d], float(run.rate[-1]), _final(d), run.time_to(1e-6)) for d, run in race.items()],
            )
        ],
    )


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


def _draw_loss(ax: Any, curves: dict[float, tuple[np.ndarray, np.ndarray]], rates: dict[float, float]) -> None:
    end = max(float(t[-1]) for t, _ in curves.values())
    bottom = UNTIL
    for (d, (t, gap)), colour in zip(curves.items(), PALETTE, strict=True):
        ax.semilogy(t, gap, color=colour)
        stop = min(end, math.log(1 / bottom) / rates[d])
        ax.semilogy((0, stop), (1, math.exp(-rates[d] * stop)), "--", color=colour, linewidth=1)
        place = {"xytext": (-7, 4), "textcoords": "offset points", "ha": "right"}
        ax.annotate(f"$d={d:g}$", (t[-1], bottom), color=colour, size=8, **place)
    ax.plot([], [], color=COLOURS["grey"], label="flow")
    ax.plot([], [], "--", color=COLOURS["grey"], linewidth=1, label="certified")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.07))
    ax.set(xlabel="time $t$", ylabel="loss over its start", xlim=(0, 1.02 * end), ylim=(bottom, 2))
    ax.set_title(f"Same start product, $uv={PRODUCT}$")


experiment = PaperFigure(
    "phase_plane",
    "The phase plane of two scalar weights",
    "The smallest overparametrized model, f(uv) with two numbers u and v. The flow keeps d = u² − v², so that each "
    "trajectory runs along one hyperbola until it meets the solutions uv = w*. The imbalance d that the start fixes "
    "sets the speed: the rate is γ sqrt(d² + 4(uv)²), never below γ|d| even where the product is zero. Only the "
    "balanced line u = −v leads into the saddle.",
    "Talk; Tarmoun, França, Haeffele & Vidal 2021; Min, Vidal & Mallada 2023, Proposition 3",
    _run,
)
