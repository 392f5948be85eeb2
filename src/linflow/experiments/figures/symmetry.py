"""The conservation law out of the symmetry: scalars in their plane, matrices along orbits and along runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.linalg import expm

from linflow import init
from linflow.dynamics import Trajectory, gradient_descent, gradient_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.geometry.imbalance import imbalance_matrices
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

SCALAR = MatrixFactorization(np.array([[1.0]]))
STARTS = ((1.9, 0.1), (1.6, -0.4), (0.5, 0.3), (0.2, 1.5), (-0.4, 1.9), (-1.2, 0.5))
ANGLES = np.linspace(-0.8, 0.8, 41)
PALETTE = [COLOURS[name] for name in ("blue", "orange", "green", "purple", "sky")]


@dataclass(frozen=True)
class SymmetrySettings(Settings):
    """Sizes of the matrices, steps and time."""

    n: int = setting(4, "the rows of Y")
    m: int = setting(3, "the columns of Y")
    h: tuple[int, ...] = setting((5, 6), "the hidden widths, one after the other")
    eta: tuple[float, ...] = setting((0.02, 0.01, 0.005), "the step sizes of descent")
    t_max: float = setting(5.0, "the time at which runs end")

    def __post_init__(self) -> None:
        if max(self.eta) > self.t_max:
            raise ValueError(
                f"eta={max(self.eta):g} is larger than t_max={self.t_max:g}; one step or more is needed."
            )


@dataclass(frozen=True)
class SymmetryData:
    """Runs and orbits.

    Attributes:
        settings: the settings.
        scalars: flows of two scalar weights.
        start: the matrices at the start.
        orbit: the loss at `W_l e^{sA}, e^{−sA}W_{l+1}` over s, for each l.
        broken: the loss at `W_1 e^{sA}` with the other layers unchanged.
        slopes: `⟨∇L, (W_lA, −AW_{l+1})⟩` over the size of its parts, for random matrices A and each l.
        flow: the flow from the start, and its relative change of the D_l at its records.
        descents: by step, the descent and the same.
        predicted: by step, the drift after one step, and `η² max ‖G_lᵀG_l − G_{l+1}G_{l+1}ᵀ‖_F`.
    """

    settings: SymmetrySettings
    scalars: list[Trajectory]
    start: Network
    orbit: np.ndarray
    broken: np.ndarray
    slopes: np.ndarray
    flow: tuple[Trajectory, np.ndarray]
    descents: dict[float, tuple[Trajectory, np.ndarray]]
    predicted: list[tuple[float, float]]


def compute(s: SymmetrySettings, seed: int, progress: Progress) -> SymmetryData:
    """Move the start along its orbits, and run flow and descents from it."""
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((s.n, s.m))
    f = MatrixFactorization(Y / np.linalg.norm(Y, 2))
    net = init.fan_in((s.n, *s.h, s.m), rng=rng)
    scalars = [gradient_flow(SCALAR, [np.array([[u]]), np.array([[v]])], until=1e-8) for u, v in STARTS]
    progress(0.3, "orbits")
    orbit, slopes = [], []
    for l, h in enumerate(s.h):
        A = rng.standard_normal((h, h)) / np.sqrt(h)
        orbit.append([f.value(_moved(net, l, expm(a * A), expm(-a * A)).product()) for a in ANGLES])
        slopes += [_slope(f, net, l, rng.standard_normal((h, h))) for _ in range(20)]
    A = rng.standard_normal((s.h[0], s.h[0])) / np.sqrt(s.h[0])
    broken = [f.value(_moved(net, 0, expm(a * A), np.eye(s.h[0])).product()) for a in ANGLES]
    progress(0.6, "runs")
    record = ("imbalance_drift",)
    size = max(float(np.linalg.norm(D)) for D in imbalance_matrices(net))
    flow = gradient_flow(f, net, t_max=s.t_max, record=record)
    descents, predicted = {}, []
    for eta in s.eta:
        run = gradient_descent(f, net, step_size=eta, steps=round(s.t_max / eta), record=record, every=5)
        descents[eta] = run, np.asarray(run.imbalance_drift) / size
        once = gradient_descent(f, net, step_size=eta, steps=1, record=record)
        G = net.gradient(f.gradient(net.product()))
        exact = max(np.linalg.norm(a.T @ a - b @ b.T) for a, b in pairwise(G))
        predicted.append((float(np.asarray(once.imbalance_drift)[-1]), eta**2 * float(exact)))
    kept = flow, np.asarray(flow.imbalance_drift) / size
    return SymmetryData(
        s, scalars, net, np.array(orbit), np.array(broken), np.array(slopes), kept, descents, predicted
    )


def _moved(net: Network, l: int, left: np.ndarray, right: np.ndarray) -> Network:
    weights = list(net.weights)
    weights[l], weights[l + 1] = weights[l] @ left, right @ weights[l + 1]
    return Network(weights)


def _slope(f: MatrixFactorization, net: Network, l: int, A: np.ndarray) -> float:
    """Return the slope of the loss along the orbit of A, over the size of its two parts."""
    G = net.gradient(f.gradient(net.product()))
    parts = float(np.sum(G[l] * (net.weights[l] @ A))), float(np.sum(G[l + 1] * (A @ net.weights[l + 1])))
    return (parts[0] - parts[1]) / max(abs(parts[0]), abs(parts[1]))


def claims(data: SymmetryData) -> Iterable[Claim | LeftOut]:
    """State the symmetry, what follows for the gradient, and what follows for runs."""
    orbit = np.abs(data.orbit / data.orbit[:, [20]] - 1)
    # Along the orbit the layers grow by e^{0.8‖A‖}, a factor of 10 at most, and so does rounding.
    yield Claim.within(
        "The loss is the same all along W_l e^{sA}, e^{−sA}W_{l+1}: largest relative change", orbit.max(), 0, 1e-12
    )
    yield Claim.within(
        "It is not along W₁e^{sA} alone: largest relative change",
        np.abs(data.broken / data.broken[20] - 1).max(),
        1e-3,
    )
    yield Claim.within(
        "The gradient is orthogonal to (W_lA, −AW_{l+1}) for every A: slope over its parts",
        np.abs(data.slopes).max(),
        0,
        1e-10,  # rounding, in units of a part that may be small by chance
    )
    kept = [abs(_difference(run.final) - _difference(run.start)) for run in data.scalars]
    yield Claim.within("Two scalars keep u² − v²: largest change", max(kept), 0, 1e-6)
    yield Claim.within("The flow keeps every D_l: largest relative change", data.flow[1].max(), 0, 1e-6)
    first, exact = zip(*data.predicted, strict=True)
    yield Claim.same("One step of descent changes D_l by η²(G_lᵀG_l − G_{l+1}G_{l+1}ᵀ) exactly", first, exact, 1e-6)
    if len(data.descents) > 1:
        ends = [float(drift[-1]) for _, drift in data.descents.values()]
        slope = float(np.polyfit(np.log(list(data.descents)), np.log(ends), 1)[0])
        yield Claim.within(
            "Over a given time descent changes D_l in proportion to η: the fitted slope", slope, 0.8, 1.2
        )
    else:
        yield LeftOut("Over a given time descent changes D_l in proportion to η", "stated for two steps or more")


def _difference(net: Network) -> float:
    u, v = (float(W[0, 0]) for W in net.weights)
    return u * u - v * v


def draw(data: SymmetryData) -> Any:
    """Draw orbits and flows of scalars, the loss along orbits of matrices, and the change of D along runs."""
    fig, (left, middle, right) = figure(9.6, 3.5, ncols=3)
    grid = np.linspace(-2, 2, 161)
    left.contour(grid, grid, np.outer(grid, grid), levels=[-1.5, -0.5, 0.5, 1.5], colors=COLOURS["grey"],
                 linestyles="dotted", linewidths=1)  # fmt: skip
    left.contour(grid, grid, np.outer(grid, grid), levels=[1.0], colors=COLOURS["black"], linewidths=1.5)
    for run, colour in zip(data.scalars, PALETTE * 2, strict=False):
        path = np.array([[float(W[0, 0]) for W in run.network_at(float(t)).weights] for t in run.t])
        left.plot(path[:, 1], path[:, 0], color=colour)
        left.plot(path[0, 1], path[0, 0], "o", color=colour, markersize=4)
    left.set_aspect("equal")
    left.set_xlabel("$v$")
    left.set_ylabel("$u$")
    left.set_title("flow (lines) across orbits (dots)", fontsize=9)
    for l, values in enumerate(data.orbit):
        label = f"$W_{l + 1}e^{{sA}},\\ e^{{-sA}}W_{l + 2}$"
        middle.plot(ANGLES, values, color=PALETTE[l % 5], linewidth=3 - l % 2, label=label)
    middle.plot(ANGLES, data.broken, "--", color=COLOURS["vermillion"], label="$W_1e^{sA}$ alone")
    middle.set_xlabel("$s$")
    middle.set_ylabel("loss")
    middle.legend(loc="upper left", fontsize=8)
    for (eta, (run, drift)), colour in zip(data.descents.items(), PALETTE, strict=False):
        right.semilogy(run.t[1:], drift[1:], color=colour, label=rf"descent, $\eta = {eta:g}$")
    run, drift = data.flow
    right.semilogy(run.t[1:], np.maximum(drift[1:], 1e-17), color=COLOURS["black"], label="flow")
    right.set_xlabel("time $t$")
    right.set_ylabel(r"$\max_l \|D_l(t) - D_l(0)\|_F$, relative")
    right.legend(loc="center right", fontsize=8)
    return fig


def tables(data: SymmetryData) -> list[Table]:
    """The change of D at the end, a row for each run."""
    rows = [("flow", float(data.flow[1][-1]))]
    rows += [(f"descent, η = {number(eta)}", float(drift[-1])) for eta, (_, drift) in data.descents.items()]
    return [Table(f"Relative change of D at t = {data.settings.t_max:g}", ["run", "change"], rows)]


def numbers(data: SymmetryData) -> dict[str, Any]:
    """The curves."""
    found = {f"{eta:g}": {"t": run.t, "drift": drift} for eta, (run, drift) in data.descents.items()}
    return {"s": ANGLES, "orbit": data.orbit, "broken": data.broken, "descent": found}


def setup(data: SymmetryData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Scalars": "½(1 − uv)²",
        "Matrices": f"½‖Y − W₁⋯W_L‖², widths {'×'.join(map(str, data.start.widths))}, ‖Y‖ = 1, fan-in start",
        "Runs": f"to t = {s.t_max:g}",
    }


experiment = PaperFigure(
    "symmetry",
    "A symmetry and its conservation law",
    "W_l → W_lS, W_{l+1} → S⁻¹W_{l+1} leaves the loss as it is, so the gradient is orthogonal to these orbits, and "
    "the flow keeps D_l = W_lᵀW_l − W_{l+1}W_{l+1}ᵀ. Left: for two scalars, the orbits are hyperbolas uv = const, "
    "and the flow crosses them at right angles along u² − v² = const. Middle: the loss along orbits of matrices. "
    "Right: the flow keeps every D_l to the accuracy of its steps, descent up to the order of its step.",
    "Arora, Cohen & Hazan 2018 (arXiv 1802.06509); Du, Hu & Lee 2018 (arXiv 1806.00900); docs/symmetry.md",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=SymmetrySettings,
    paper="Arora, Cohen & Hazan 2018",
)
