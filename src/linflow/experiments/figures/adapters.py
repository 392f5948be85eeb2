"""Low-rank adapters: the limit and the rate certified before the run, over the size of A and the ratio of LoRA+."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support.arrays import to_numpy
from linflow.certificates import Guarantee
from linflow.dynamics import gradient_flow
from linflow.experiments.figures._axes import label_values
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._sweep import seeds_of
from linflow.model.lora import lora
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, figure
from linflow.verified import certify

SHADES = ("black", "blue", "vermillion", "green", "purple", "orange")


@dataclass(frozen=True)
class AdapterSettings(Settings):
    """The layer, the adapter, and its starts."""

    n: int = setting(6, "the inputs")
    m: int = setting(5, "the outputs")
    r: int = setting(2, "the rank of the adapter, below inputs and outputs")
    kappa: float = setting(1.4, "the largest over the least singular value of X", least=1.0)
    start: tuple[float, ...] = setting((2.0, 4.0, 8.0, 16.0, 32.0), "the sizes of A; B is 0")
    ratio: tuple[float, ...] = setting((1.0, 4.0, 16.0), "the rates of B over that of A")
    size: float = setting(8.0, "the size of A of the runs over the ratio")
    seeds: int = setting(3, "the draws of target and A")

    def __post_init__(self) -> None:
        if self.r >= min(self.n, self.m):
            raise ValueError(
                f"r={self.r} is not below min(n, m) = {min(self.n, self.m)}, so nothing is out of reach."
            )


@dataclass(frozen=True)
class Tuned:
    """One flow of an adapter.

    Attributes:
        row: the guarantee "low rank".
        t, gap, bound: the times of the steps, the gap of the run, and what is guaranteed.
        best: `m(t)`, the least gap that the range of A allows at each time, by least squares.
        fall: `−L̇` at each time, as the run records it.
        slope: the same from the weights, `ρ_A‖∂L/∂A‖² + ρ_B‖∂L/∂B‖²`.
        named: `2μ ρ_B σ_r(A)²` at the start.
    """

    row: Guarantee
    t: np.ndarray
    gap: np.ndarray
    bound: np.ndarray
    best: np.ndarray
    fall: np.ndarray
    slope: np.ndarray
    named: float

    @property
    def limit(self) -> float:
        """The certified limit; NaN if there is none."""
        return self.row.facts.get("limit", np.nan)

    @property
    def speed(self) -> float:
        """The certified rate to the limit; NaN if there is none."""
        return self.row.facts.get("rate to the limit", np.nan)

    @property
    def observed(self) -> float:
        """The least `−L̇/(L − m(t))` while the gap is well above m(t)."""
        above = self.gap - self.best > 1e-6 * self.gap[0]
        return float(np.min(self.fall[above] / (self.gap - self.best)[above]))


@dataclass(frozen=True)
class AdapterData:
    """Runs by draw over the size of A, and by draw over the ratio of the rates."""

    settings: AdapterSettings
    sizes: list[list[Tuned]]
    ratios: list[list[Tuned]]


def compute(s: AdapterSettings, seed: int, progress: Progress) -> AdapterData:
    """Certify and run every adapter; all of one draw have the same target and direction of A."""
    sizes, ratios = [], []
    for i, one in enumerate(seeds_of(s.seeds, seed)):
        progress(i / s.seeds, f"draw {i + 1} of {s.seeds}")
        rng = np.random.default_rng(one)
        U, V = (np.linalg.qr(rng.standard_normal((s.n, s.n)))[0] for _ in range(2))
        X = (U * np.linspace(1.0, s.kappa, s.n)) @ V.T
        f = LinearRegression(X, X @ rng.standard_normal((s.n, s.m)))
        W0, A = 0.1 * rng.standard_normal((s.m, s.n)), rng.standard_normal((s.r, s.n)) / np.sqrt(s.n)
        sizes.append([_tuned(f, W0, a * A, 1.0) for a in s.start])
        ratios.append([_tuned(f, W0, s.size * A, ratio) for ratio in s.ratio])
    return AdapterData(s, sizes, ratios)


def _tuned(f: Objective, W0: np.ndarray, A: np.ndarray, ratio: float) -> Tuned:
    shifted, net = lora(f, W0, A, np.zeros((W0.shape[0], A.shape[0])))
    rates = (1.0, ratio)
    cert = certify(shifted, net, layer_rates=rates)
    row = next(one for one in cert.guarantees if one.name == "low rank")
    named = 2 * shifted.strong_convexity * ratio * float(np.linalg.svd(A)[1][-1]) ** 2
    end = 16.0 / named
    run = gradient_flow(shifted, net, t_max=end, layer_rates=rates)
    t = np.asarray(run.t)
    nets = [run.network_at(float(x)) for x in t]
    gap = np.array([shifted.gap(one.product()) for one in nets])
    best = np.array([_best(shifted, one) for one in nets])
    slope = np.array([_slope(shifted, one, rates) for one in nets])
    fall = np.asarray(run.rate) * np.asarray(run.gap)
    return Tuned(row, t, gap, np.asarray(row.gap_at(t)), best, fall, slope, named)


def _best(f: Objective, net: Network) -> float:
    """Return the least gap of `f(c U Z)` over Z, by least squares."""
    U, F = to_numpy(net.weights[0]), to_numpy(f.factors[0])  # pyright: ignore[reportOptionalSubscript]
    target = to_numpy(f.minimizer)
    Z = np.linalg.lstsq(F @ U, F @ target, rcond=None)[0]
    return f.gap(U @ Z)


def _slope(f: Objective, net: Network, rates: tuple[float, float]) -> float:
    slopes = net.gradient(f.gradient(net.product()))
    return sum(rho * float(np.sum(to_numpy(G) ** 2)) for rho, G in zip(rates, slopes, strict=True))


def claims(data: AdapterData) -> Iterable[Claim | LeftOut]:
    """State that limit and rate hold, and that the axes show what they say."""
    s = data.settings
    runs = [one for draws in (*data.sizes, *data.ratios) for one in draws]
    certified = [one for one in runs if one.row.applies]
    if not certified:
        yield LeftOut("Every gap lies under its bound", "no start is certified; make A larger")
        return
    yield Claim.all_below(
        "Every gap lies under its bound, at every step",
        np.concatenate([one.gap for one in certified]), np.concatenate([one.bound for one in certified]), 1e-6,
    )  # fmt: skip
    yield Claim.all_below(
        "What the range of A allows never rises above the certified limit",
        np.concatenate([one.best for one in certified]),
        np.concatenate([np.full(len(one.t), one.limit) for one in certified]), 1e-9,
    )  # fmt: skip
    yield Claim.all_below(
        "The certified rate is at most −L̇/(L − m), at its least on each run",
        [one.speed for one in certified], [one.observed for one in certified], 1e-6,
    )  # fmt: skip
    yield Claim.same(
        "The certified rate drawn is 2μ σ_r(A)² times the rate of B",
        [one.speed for one in certified], [one.named for one in certified], 1e-6,
    )  # fmt: skip
    yield Claim.same(
        "−L̇ drawn is ρ_A‖∂L/∂A‖² + ρ_B‖∂L/∂B‖² of the weights at that time",
        np.concatenate([one.fall for one in runs]), np.concatenate([one.slope for one in runs]), 1e-6,
    )  # fmt: skip
    yield from about_these(s.changes(), list(_shown_claims(data)))


def _shown_claims(data: AdapterData) -> Iterable[Claim]:
    """State what holds at the settings shown."""
    s = data.settings
    applies = [one.row.applies for draws in (*data.sizes, *data.ratios) for one in draws]
    yield Claim("Every start is certified", f"{sum(applies)} of {len(applies)}", all(applies))
    order = np.argsort(s.start)
    limit = np.array([[one.limit / one.gap[0] for one in draws] for draws in data.sizes])[:, order]
    allowed = np.array([[one.best[0] / one.gap[0] for one in draws] for draws in data.sizes])[:, order]
    end = np.array([[one.gap[-1] / one.gap[0] for one in draws] for draws in data.sizes])[:, order]
    yield Claim.within("A larger A, a nearer limit: certified less what A allows, of the initial gap, changes by",
                       np.diff(limit - allowed, axis=1), high=0.0)  # fmt: skip
    yield Claim.within(
        "With the largest A, certified limit over the gap at the end", limit[:, -1] / end[:, -1], 1, 1.1
    )
    yield Claim.within("With the smallest A the flow ends below what its start allows: ratio",
                       end[:, 0] / allowed[:, 0], 0, 0.9)  # fmt: skip
    gain = [draws[-1].observed / draws[0].observed for draws in data.ratios]
    yield Claim.within(
        f"B {number(s.ratio[-1] / s.ratio[0])} times as fast: the least observed rate, ratio", gain, 1.0
    )


def draw(data: AdapterData) -> Any:
    """Draw one run under its bound, limits over the size of A, and rates over the ratio."""
    s = data.settings
    fig, (run, limit, rate) = figure(9.6, 3.2, ncols=3)
    one = data.sizes[0][len(s.start) // 2]
    first = one.gap[0]
    run.plot(one.t, one.gap / first, color=COLOURS["blue"], label="gap")
    run.plot(one.t, one.best / first, color=COLOURS["green"], label="best for the range of $A$")
    run.plot(one.t, one.bound / first, "--", color=COLOURS["vermillion"], label="guaranteed")
    run.axhline(one.limit / first, color=COLOURS["vermillion"], linewidth=0.7, linestyle=":", label="certified limit")
    run.set(xlabel="$t$", ylabel="gap over initial gap", ylim=(0, 1.02))
    run.set_title(f"Rank {s.r}, size of $A$ {number(s.start[len(s.start) // 2])}")
    run.legend(loc="upper right", fontsize=6.5)
    order = np.argsort(s.start)
    sizes = np.array(s.start)[order]
    for i, draws in enumerate(data.sizes):
        for values, colour, style, label in (
            ([one.limit / one.gap[0] for one in draws], "vermillion", "s--", "certified limit"),
            ([one.best[0] / one.gap[0] for one in draws], "green", ":", "best at the start"),
            ([one.gap[-1] / one.gap[0] for one in draws], "blue", "o-", "end of the flow"),
        ):
            limit.semilogx(sizes, np.array(values)[order], style, color=COLOURS[colour], markersize=3.5, alpha=0.6,
                           label=label if i == 0 else None)  # fmt: skip
    label_values(limit, sizes)
    limit.set(xlabel="size of $A$", ylabel="gap over initial gap", ylim=(0, 1.02))
    limit.set_title("How far the gap falls")
    limit.legend(loc="lower right", fontsize=6.5)
    order = np.argsort(s.ratio)
    ratio = np.array(s.ratio)[order]
    for i, draws in enumerate(data.ratios):
        colour = COLOURS[SHADES[i % len(SHADES)]]
        rate.loglog(ratio, [draws[j].observed for j in order], "o-", color=colour, markersize=3.5,
                    label="observed, least" if i == 0 else None)  # fmt: skip
        rate.loglog(ratio, [draws[j].speed for j in order], "--", color=colour,
                    label="certified" if i == 0 else None)  # fmt: skip
    label_values(rate, ratio)
    rate.set(xlabel="rate of $B$ over that of $A$ (LoRA+)", ylabel=r"$-\dot{L}/(L - m)$")
    rate.set_title("How fast it falls there")
    rate.legend(loc="upper left", fontsize=7)
    return fig


def tables(data: AdapterData) -> list[Table]:
    """Limits over the size of A, medians over the draws."""
    rows = []
    for j, size in enumerate(data.settings.start):
        ones = [draws[j] for draws in data.sizes]
        parts = np.median([(one.limit, one.best[0], one.gap[-1]) / one.gap[0] for one in ones], axis=0)
        rows.append((float(size), *map(float, parts), float(np.median([one.speed for one in ones]))))
    columns = ["size of A", "certified limit", "best at the start", "end of the flow", "certified rate"]
    return [Table(f"Gaps over the initial gap, medians of {data.settings.seeds} draws", columns, rows)]


def numbers(data: AdapterData) -> dict[str, Any]:
    """Runs, bounds, limits and rates."""

    def of(one: Tuned) -> dict[str, Any]:
        return {
            "t": one.t,
            "gap": one.gap,
            "bound": one.bound,
            "best": one.best,
            "limit": one.limit,
            "rate": one.speed,
            "observed": one.observed,
        }

    return {
        "start": data.settings.start,
        "sizes": [[of(one) for one in draws] for draws in data.sizes],
        "ratio": data.settings.ratio,
        "ratios": [[of(one) for one in draws] for draws in data.ratios],
    }


def setup(data: AdapterData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Layer": f"{s.n} inputs and {s.m} outputs, squared loss; singular values of X from 1 to {number(s.kappa)}",
        "Adapter": f"rank {s.r}, scaling 1; A = size × N(0, 1/{s.n}), B = 0; {s.seeds} draws",
        "Runs": "the gradient flow, to 16 over its certified rate; rates over the ratio with A of size "
        f"{number(s.size)}",
    }


experiment = PaperFigure(
    "adapters",
    "Low-rank adapters: where they end and how fast",
    "An adapter of low rank cannot reach the optimum. Before the run a certificate says to which gap it is sure to "
    "fall, and at which rate: that of the range of A, which hardly turns if A is large. A larger learning rate for B "
    "(LoRA+) makes it faster and turns A less.",
    "linflow, docs/lora.md; Hu et al. 2022 for LoRA, Hayou, Ghosh & Yu 2024 for LoRA+",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=AdapterSettings,
    paper="Optimisers, losses and adapters",
)
