"""Imbalance under momentum, weight decay, mini-batches and friction: the exact laws beside runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow._support.arrays import norm, to_numpy
from linflow.dynamics import Trajectory, gradient_descent, gradient_flow
from linflow.experiments.figures._axes import label_values
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._sweep import seeds_of
from linflow.geometry.imbalance import imbalance_matrices
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, figure
from linflow.verified import certify

SHADES = {
    "gradient descent": "black",
    "momentum": "blue",
    "Nesterov": "sky",
    "momentum, decay": "vermillion",
    "mini-batches": "green",
}


@dataclass(frozen=True)
class OptimizerSettings(Settings):
    """The data, the network, and the options of the optimizers."""

    n: int = setting(4, "the inputs")
    m: int = setting(3, "the outputs")
    N: int = setting(20, "the samples", least=2)
    h: int = setting(6, "the hidden width of two layers")
    eta: float = setting(0.02, "the step")
    momentum: float = setting(0.9, "the momentum, below 1")
    decay: float = setting(0.05, "the weight decay")
    batch: int = setting(5, "the samples of a mini-batch")
    steps: int = setting(150, "the steps of a descent", least=10)
    friction: tuple[float, ...] = setting((0.5, 1.0, 2.0, 4.0, 8.0), "the frictions of the heavy-ball flow")
    seeds: int = setting(2, "the draws of data and start")

    def __post_init__(self) -> None:
        if not self.momentum < 1:
            raise ValueError(f"momentum={self.momentum:g} is not below 1.")
        if self.batch > self.N:
            raise ValueError(f"batch={self.batch} is more than the N={self.N} samples.")

    def options(self, seed: int) -> dict[str, dict[str, Any]]:
        """Return the options of `gradient_descent`, by the names of the curves."""
        rng = np.random.default_rng(seed)
        batches = [rng.choice(self.N, self.batch, replace=False) for _ in range(self.steps)]
        mu = self.momentum
        return {
            "gradient descent": {},
            "momentum": {"momentum": mu},
            "Nesterov": {"momentum": mu, "nesterov": True},
            "momentum, decay": {"momentum": mu, "weight_decay": self.decay},
            "mini-batches": {"momentum": mu, "batches": batches},
        }


@dataclass(frozen=True)
class Followed:
    """One descent: its run, and by the definition alone the drift of D and its distance to the law, by step."""

    run: Trajectory
    drift: np.ndarray
    off: np.ndarray


@dataclass(frozen=True)
class OptimizerData:
    """Descents by draw and name, flows with weight decay by draw, and heavy balls by draw and friction.

    Attributes:
        decayed: times and `‖D(t)‖_F/‖D(0)‖_F`, for each draw.
        drifts: the largest `‖D(t) − D(0)‖_F` of a heavy ball and its cap, shape `(draws, frictions, 2)`.
        gaps: the initial loss gaps.
    """

    settings: OptimizerSettings
    descents: list[dict[str, Followed]]
    decayed: list[tuple[np.ndarray, np.ndarray]]
    drifts: np.ndarray
    gaps: np.ndarray


def compute(s: OptimizerSettings, seed: int, progress: Progress) -> OptimizerData:
    """Run every optimizer from every draw."""
    descents, decayed, gaps = [], [], []
    drifts = np.zeros((s.seeds, len(s.friction), 2))
    for i, one in enumerate(seeds_of(s.seeds, seed)):
        progress(i / s.seeds, f"draw {i + 1} of {s.seeds}")
        rng = np.random.default_rng(one)
        X, Y = rng.standard_normal((s.N, s.n)), rng.standard_normal((s.N, s.m))
        f = LinearRegression(X / math.sqrt(s.N), Y / math.sqrt(s.N))
        net = init.gaussian((s.n, s.h, s.m), 0.6, rng=rng)
        gaps.append(f.gap(net.product()))
        descents.append({name: _follow(f, net, s, options) for name, options in s.options(one).items()})
        flow = gradient_flow(f, net, t_max=2.0 / s.decay, weight_decay=s.decay)
        t = np.linspace(0.0, float(flow.t[-1]), 25)
        sizes = np.array([norm(imbalance_matrices(flow.network_at(x))[0]) for x in t])
        decayed.append((t, sizes / norm(imbalance_matrices(net)[0])))
        for j, a in enumerate(s.friction):
            run = gradient_flow(f, net, t_max=15.0, friction=a, record=("imbalance_drift",))
            law = certify(f, net, friction=a).imbalance
            drifts[i, j] = float(np.asarray(run.imbalance_drift).max()), math.nan if law is None else law.drift
    return OptimizerData(s, descents, decayed, drifts, np.array(gaps))


def _follow(f: Objective, net: Network, s: OptimizerSettings, options: dict[str, Any]) -> Followed:
    run = gradient_descent(f, net, step_size=s.eta, steps=s.steps, record=("imbalance_drift", "law_error"), **options)
    return Followed(run, *_by_hand(f, net, s, options))


def _cross(X: Sequence[np.ndarray], Y: Sequence[np.ndarray]) -> np.ndarray:
    """Return `⟨X, Y⟩` of docs/optimisers.md for two layers."""
    return X[0].T @ Y[0] + Y[0].T @ X[0] - X[1] @ Y[1].T - Y[1] @ X[1].T


def _by_hand(f: Objective, net: Network, s: OptimizerSettings, options: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """Return the drift of D and its distance to the law after each step, from the formulas of docs/optimisers.md."""
    mu, kappa, batches = (options.get(key) for key in ("momentum", "weight_decay", "batches"))
    mu, kappa, nesterov, eta = mu or 0.0, kappa or 0.0, options.get("nesterov", False), s.eta
    W = [to_numpy(w).copy() for w in net.weights]
    first = law = 0.5 * _cross(W, W)
    buffer, C, drift, off = None, None, [0.0], [0.0]
    for k in range(s.steps):
        at = net.with_weights(W)
        slope = f.gradient(at.product()) if batches is None else f.batch_gradient(at.product(), batches[k])
        g = [to_numpy(G) + kappa * w for G, w in zip(at.gradient(slope), W, strict=True)]
        b = g if buffer is None else [mu * old + new for old, new in zip(buffer, g, strict=True)]
        d = [x + mu * y for x, y in zip(g, b, strict=True)] if nesterov else b
        C = 2 * kappa * law + (0.0 if C is None else mu * C)
        P = 2 * kappa * law + mu * C if nesterov else C
        law = law - eta * P + eta**2 * 0.5 * _cross(d, d)
        C, buffer = C - eta * _cross(d, b), b
        W = [w - eta * x for w, x in zip(W, d, strict=True)]
        now = 0.5 * _cross(W, W)
        drift.append(norm(now - first))
        off.append(norm(now - law))
    return np.array(drift), np.array(off)


def claims(data: OptimizerData) -> Iterable[Claim | LeftOut]:
    """State that the laws hold, and that the axes show what they say."""
    s = data.settings
    every = [one for descents in data.descents for one in descents.values()]
    yield Claim.same(
        "The drift drawn is ‖D(k) − D(0)‖_F of a descent written out by the definition",
        np.concatenate([np.asarray(one.run.imbalance_drift)[1:] for one in every]),
        np.concatenate([one.drift[1:] for one in every]), 1e-6,
    )  # fmt: skip
    yield Claim.within(
        "D follows the law of docs/optimisers.md, written out: distance over the largest drift",
        [float(one.off.max() / one.drift.max()) for one in every], 0, 1e-10,
    )  # fmt: skip
    yield Claim.within(
        "and so it does in the library (`law_error`): distance over the largest drift",
        [float(np.asarray(one.run.law_error).max() / one.drift.max()) for one in every], 0, 1e-10,
    )  # fmt: skip
    t = np.concatenate([t for t, _ in data.decayed])
    yield Claim.same(
        "With weight decay the flow has ‖D(t)‖_F = e^{−2λt} ‖D(0)‖_F, whatever the loss",
        np.concatenate([sizes for _, sizes in data.decayed]), np.exp(-2 * s.decay * t), 1e-5,
    )  # fmt: skip
    caps = 2 * data.gaps[:, None] / np.array(s.friction) ** 2
    yield Claim.same("The cap drawn is 2ℓ(0)/a²", data.drifts[:, :, 1], caps, 1e-6)  # it is raised by rounding
    yield Claim.all_below("No heavy ball drifts farther than its cap", data.drifts[:, :, 0], data.drifts[:, :, 1])
    yield from about_these(s.changes(), list(_shown_claims(data)))


def _shown_claims(data: OptimizerData) -> Iterable[Claim]:
    """State what holds at the settings shown."""
    plain, fast, less = (
        np.array([descents[name].drift.max() for descents in data.descents])
        for name in ("gradient descent", "momentum", "momentum, decay")
    )
    yield Claim.within("Momentum moves the imbalance more than plain steps: largest drift, ratio", fast / plain, 2.0)
    yield Claim.within("Weight decay moves it more than momentum alone: ratio", less / fast, 1.0)
    order = np.argsort(data.settings.friction)
    used = (data.drifts[:, :, 0] / data.drifts[:, :, 1])[:, order]
    yield Claim.within("The largest part of the cap that a heavy ball uses", used.max(), 0.0, 1.0)
    falls = np.diff(data.drifts[:, order, 0], axis=1)
    yield Claim.within("More friction, less drift: difference", falls, high=0.0)


def draw(data: OptimizerData) -> Any:
    """Draw drifts and their law, the decay of D, and heavy balls under their cap."""
    s = data.settings
    fig, (steps, decay, ball) = figure(9.6, 3.2, ncols=3)
    k = np.arange(s.steps + 1)
    for name, one in data.descents[0].items():
        steps.semilogy(k[1:], one.drift[1:], color=COLOURS[SHADES[name]], label=name)
        steps.semilogy(k[1:], np.maximum(one.off[1:], 1e-18), ":", color=COLOURS[SHADES[name]], linewidth=0.9)
    steps.plot([], [], ":", color=COLOURS["grey"], label="distance to the law")
    steps.set(xlabel="step $k$", ylabel=r"$\Vert D(k) - D(0)\Vert_F$", ylim=(1e-18, 1e3))
    steps.set_title("Descent: the law is exact")
    steps.legend(loc="center right", fontsize=6.5)
    for i, (at, sizes) in enumerate(data.decayed):
        decay.semilogy(at, sizes, "o", color=COLOURS["vermillion"], markersize=3, alpha=0.5,
                       label="runs" if i == 0 else None)  # fmt: skip
    t = data.decayed[0][0]
    decay.semilogy(t, np.exp(-2 * s.decay * t), color=COLOURS["black"], label=r"$e^{-2\lambda t}$")
    decay.set(xlabel="$t$", ylabel=r"$\Vert D(t)\Vert_F/\Vert D(0)\Vert_F$")
    decay.set_title("Flow with weight decay")
    decay.legend(loc="upper right", fontsize=7)
    order = np.argsort(s.friction)
    a = np.array(s.friction)[order]
    for i in range(len(data.drifts)):
        ball.loglog(a, data.drifts[i, order, 0], "o-", color=COLOURS["blue"], markersize=3, alpha=0.7,
                    label="largest on the run" if i == 0 else None)  # fmt: skip
        ball.loglog(a, data.drifts[i, order, 1], "--", color=COLOURS["black"], linewidth=0.9,
                    label=r"cap $2\ell(0)/a^2$" if i == 0 else None)  # fmt: skip
    label_values(ball, a)
    ball.set(xlabel="friction $a$", ylabel=r"$\Vert D(t) - D(0)\Vert_F$")
    ball.set_title("Heavy-ball flow")
    ball.legend(loc="lower left", fontsize=7)
    return fig


def tables(data: OptimizerData) -> list[Table]:
    """Drifts and distances to the law, medians over the draws."""
    rows = [
        (
            name,
            float(np.median([descents[name].drift.max() for descents in data.descents])),
            float(np.median([descents[name].off.max() for descents in data.descents])),
        )
        for name in data.descents[0]
    ]
    return [Table(f"Medians of {data.settings.seeds} draws", ["steps", "largest drift", "distance to the law"], rows)]


def numbers(data: OptimizerData) -> dict[str, Any]:
    """Drifts, distances to the law, and caps."""
    return {
        "descents": [
            {name: {"drift": one.drift, "off": one.off} for name, one in descents.items()}
            for descents in data.descents
        ],
        "decayed": [{"t": t, "size": sizes} for t, sizes in data.decayed],
        "friction": data.settings.friction,
        "heavy_ball": data.drifts,
    }


def setup(data: OptimizerData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Data": f"{s.N} samples of {s.n} inputs and {s.m} outputs, N(0, 1/{s.N}); the squared loss",
        "Start": f"two layers of width {s.h}, entries N(0, 0.36); {s.seeds} draws",
        "Steps": f"{s.steps} steps of {number(s.eta)}, momentum {number(s.momentum)}, decay {number(s.decay)}, "
        f"mini-batches of {s.batch}",
        "Flows": f"weight decay {number(s.decay)}; heavy balls from rest, to t = 15",
    }


experiment = PaperFigure(
    "optimizers",
    "What optimizers do to the imbalance",
    "Gradient flow keeps the imbalance. Momentum, weight decay and mini-batches move it, but by an exact law, which "
    "needs no weights after the first. Under weight decay the flow forgets it at the rate 2λ, whatever the loss, and "
    "a heavy ball moves it by at most 2ℓ(0)/a².",
    "linflow, docs/optimisers.md",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=OptimizerSettings,
    paper="Optimisers, losses and adapters",
)
