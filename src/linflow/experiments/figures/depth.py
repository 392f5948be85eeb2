"""Scalar chains of any depth: how the imbalance between layers multiplies into the rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from linflow import bounds, init
from linflow.certificates import certify, margin
from linflow.certificates.checking import OBSERVED_ALLOWANCE
from linflow.dynamics import Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._runs import kept_claim
from linflow.experiments.figures._settings import Settings, setting
from linflow.geometry.operator import TangentOperator
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

START, TARGET = 0.4, 1.0
SHOWN = 6  # depth of the chains drawn as bars
F = MatrixFactorization(np.array([[TARGET]]))
ROUNDING = 1e-12


@dataclass(frozen=True)
class DepthSettings(Settings):
    """Depths, step between the squares, product, and how many random chains."""

    depth: tuple[int, ...] = setting(tuple(range(2, 9)), "the depths of the curves", least=2)
    step: float = setting(1.25, "λ and ε, the step between the squares")
    product: float = setting(1.0, "|w|")
    seeds: int = setting(40, "the random chains of each depth")
    run: tuple[int, ...] = setting((2, 3, 5), "the depths of the flows", least=2)


@dataclass(frozen=True)
class DrawnChains:
    """Random imbalances and products, at which the formulas are compared."""

    apart: list[tuple[int, list[float], float]]  # depth, imbalances and product
    two: list[tuple[list[float], float]]
    stepped: list[tuple[int, list[float]]]
    weights: list[np.ndarray]  # of actual chains


@dataclass(frozen=True)
class DepthData:
    """The curves over depth, the drawn chains, the random ones, and the flows."""

    settings: DepthSettings
    curves: dict[str, np.ndarray]
    shown: dict[str, np.ndarray]
    chains: DrawnChains
    runs: list[Trajectory]


def _imbalances(squares: np.ndarray) -> list[float]:
    """Return `w_l² − w_{l+1}²`."""
    return (-np.diff(squares)).tolist()


def _apart(depth: int, step: float, rng: np.random.Generator) -> np.ndarray:
    """Return offsets in random order, all but the smallest at least a step above it."""
    return rng.permutation(np.append(0.0, step + step * rng.exponential(0.5, depth - 1)))


def _steps(depth: int, step: float, rng: np.random.Generator) -> np.ndarray:
    """Return offsets in random order, each at least a step from every other."""
    return rng.permutation(np.append(0.0, np.cumsum(step * (1 + rng.exponential(0.2, depth - 1)))))


def compute(s: DepthSettings, seed: int, progress: Progress) -> DepthData:
    """Compute the curves, draw random chains, and run flows at some depths."""
    rng = np.random.default_rng(seed)
    shown = {"apart": np.sort(_apart(SHOWN, s.step, rng)) + 0.6, "steps": np.sort(_steps(SHOWN, s.step, rng)) + 0.6}
    runs = []
    for i, L in enumerate(s.run):
        progress((i + 1) / (len(s.run) + 2), f"depth {L}")
        for offsets in (_apart(L, s.step, rng), _steps(L, s.step, rng)):
            net = init.imbalanced((1,) * (L + 1), _imbalances(offsets), np.array([[START]]))
            runs.append(gradient_flow(F, net))
    return DepthData(s, _curves(s), shown, _chains(s, rng), runs)


def _curves(s: DepthSettings) -> dict[str, np.ndarray]:
    """Return the bounds over depth, for the least offsets each condition allows and the product of the settings."""
    equal = [_imbalances(np.append(0.0, np.full(L - 1, s.step))) for L in s.depth]
    steps = [_imbalances(s.step * np.arange(L)) for L in s.depth]
    return {
        "prior": np.array([s.step ** (L - 1) for L in s.depth]),
        "closed": np.array([bounds.scalar(d, s.product) for d in equal]),
        "exact": np.array([bounds.scalar_exact(d, s.product) for d in equal]),
        "factorial": np.array([_factorial(s.step, L) for L in s.depth]),
        "steps_closed": np.array([bounds.scalar(d, s.product) for d in steps]),
        "steps_exact": np.array([bounds.scalar_exact(d, s.product) for d in steps]),
    }


def _factorial(step: float, depth: int) -> float:
    return step ** (depth - 1) * math.factorial(depth - 1)


def _chains(s: DepthSettings, rng: np.random.Generator) -> DrawnChains:
    apart = [(L, _imbalances(_apart(L, s.step, rng)), w) for L in s.depth for w in rng.lognormal(0, 1, s.seeds)]
    two = [_imbalances(_apart(2, s.step, rng)) for _ in range(s.seeds)]
    products = rng.lognormal(0, 1, s.seeds).tolist()
    stepped = [(L, _imbalances(_steps(L, s.step, rng))) for L in s.depth for _ in range(s.seeds)]
    weights = []
    for L in s.depth:
        for offsets in (_apart, _steps):
            # Draw the weights first, so that nothing is assumed about the chain's root.
            squares = offsets(L, s.step, rng) + rng.exponential()
            weights.append(np.sqrt(squares) * rng.choice((-1, 1), L))
    return DrawnChains(apart, list(zip(two, products, strict=True)), stepped, weights)


def claims(data: DepthData) -> Iterable[Claim | LeftOut]:
    """Compare the formulas with each other and with actual weights, then the flows with their certificates."""
    yield from _closed_claims(data)
    yield from _steps_claims(data)
    yield from _axis_claims(data)
    yield _weights_claim(data.chains.weights)
    yield Claim.all_below(
        f"No run at L = {', '.join(map(str, data.settings.run))} is ever slower than γ α* at its margin",
        np.concatenate([np.full(len(run.t), _certified(run)) for run in data.runs]),
        np.concatenate([run.rate for run in data.runs]),
        OBSERVED_ALLOWANCE,
    )
    yield kept_claim(
        "Every run keeps its certificate, in rate and in loss, to 10⁻¹⁰ of the initial loss",
        [certify(F, run.start).check(run) for run in data.runs],
        and_also=all(run.gap[-1] <= 1.001e-10 * run.gap[0] for run in data.runs),
    )
    yield _shown_claim(data.shown, data.settings.step)


def _closed_claims(data: DepthData) -> Iterable[Claim]:
    """Compare the closed bound with λ^{L−1} and with the exact α*."""
    step, curves, apart = data.settings.step, data.curves, data.chains.apart
    prior = np.array([*curves["prior"], *(step ** (L - 1) for L, _, _ in apart)])
    closed = np.array([*curves["closed"], *(bounds.scalar(d, w) for _, d, w in apart)])
    exact = np.array([*curves["exact"], *(bounds.scalar_exact(d, w) for _, d, w in apart)])
    gain = float((closed / prior).min())
    yield Claim(
        "With all others λ or more above the smallest, the closed bound exceeds λ^{L−1} at every depth",
        f"by a factor of {number(gain)} or more, in {len(prior)} chains",
        gain > 1,
        gain,
    )
    yield Claim.all_below("The closed bound never exceeds the exact α*", closed, exact, ROUNDING)
    off = max(abs(bounds.scalar(d, w) / bounds.scalar_exact(d, w) - 1) for d, w in data.chains.two)
    yield Claim.within("At L = 2 the closed bound is exact, to rounding", off, 0, ROUNDING)


def _steps_claims(data: DepthData) -> Iterable[Claim | LeftOut]:
    """State what steps of ε do to the bound from the imbalance alone, and to α*."""
    step, curves, stepped = data.settings.step, data.curves, data.chains.stepped
    yield Claim.all_below(
        "With steps of ε or more, the imbalance alone gives at least ε^{L−1}·(L−1)!",
        [*curves["factorial"], *(_factorial(step, L) for L, _ in stepped)],
        [*curves["steps_closed"], *(bounds.scalar(d, 0.0) for _, d in stepped)],
        ROUNDING,
    )
    exact = curves["steps_exact"][np.argsort(data.settings.depth)]
    ratio = exact[1:] / exact[:-1]
    text = "With steps of ε, each further layer multiplies α* by more than the one before"
    if set(np.diff(sorted(data.settings.depth))) == {1} and len(ratio) > 1:
        growing = bool((np.diff(ratio) > 0).all())
        yield Claim(text, "by " + ", ".join(map(number, ratio)), growing, tuple(ratio))
    else:
        yield LeftOut(text, "it needs three depths or more that follow each other")


def _weights_claim(weights: list[np.ndarray]) -> Claim:
    """Claim that α*, computed from the imbalances and product of actual weights, is their `λ_min(T)`."""
    misses = []
    for w in weights:
        least = float(TangentOperator([np.array([[x]]) for x in w]).least_eigenvalue())
        misses.append(abs(bounds.scalar_exact(_imbalances(w**2), float(np.prod(w))) / least - 1))
    text = "α* is λ_min(T) of actual weights with that imbalance and product: relative error"
    return Claim.within(f"{text}, {len(misses)} chains", max(misses), 0, 1e-10)


def _certified(run: Trajectory) -> float:
    squares = np.array([float(W[0, 0]) ** 2 for W in run.start.weights])
    return F.pl_constant * bounds.scalar_exact(_imbalances(squares), margin(F, run.start))


def _axis_claims(data: DepthData) -> Iterable[Claim]:
    """Claim that the drawn curves are what their labels say, on weights with these imbalances and this product."""
    s, product = data.settings, np.array([[data.settings.product]])
    offsets = {"exact": [[1.0] * (L - 1) for L in s.depth], "steps_exact": [np.arange(1.0, L) for L in s.depth]}
    nets = {
        name: [
            init.imbalanced((1,) * (len(above) + 2), _imbalances(s.step * np.append(0.0, above)), product)
            for above in some
        ]
        for name, some in offsets.items()
    }
    yield Claim.same(
        "Drawn as α* is the least eigenvalue of `TangentOperator` on weights of the title's λ, ε and |w|",
        [data.curves[name] for name in nets],
        [[float(TangentOperator(net).least_eigenvalue()) for net in some] for some in nets.values()],
        1e-10,  # rounding of the weights, multiplied by a product of eight of them
    )
    closed = [
        {b.name: float(b.value) for b in bounds.table(net)}["scalar chain, closed form"] for net in nets["exact"]
    ]
    yield Claim.same("Drawn as the closed bound is that row of `bounds.table`", data.curves["closed"], closed, 1e-9)


def _shown_claim(shown: dict[str, np.ndarray], step: float) -> Claim:
    """Claim that the drawn squares are at least as far apart as the drawn λ and ε."""
    least = [float(np.min(shown["apart"][1:] - shown["apart"][0])), float(np.min(np.diff(shown["steps"])))]
    text = "The drawn squares w_l² lie λ or more above the smallest, and ε or more above each other: least distance"
    return Claim.within(text, least, step * (1 - ROUNDING))


def draw(data: DepthData) -> Any:
    """Draw two chains as bars, and the bounds over depth."""
    fig, axes = figure(7.2, 3.3, ncols=3, width_ratios=(0.6, 0.6, 1))
    _draw_chains(axes[:2], data.shown, data.settings.step)
    _draw_curves(axes[2], data)
    return fig


def _draw_chains(axes: Any, chains: dict[str, np.ndarray], step: float) -> None:
    arrow = {"arrowstyle": "<->", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    titles = (r"Others $\geq\lambda$ above", r"Steps $\geq\varepsilon$")
    colours = (COLOURS["blue"], COLOURS["vermillion"])
    for ax, squares, title, colour in zip(axes, chains.values(), titles, colours, strict=True):
        ax.barh(range(SHOWN), squares, height=0.62, color=colour, alpha=0.75)
        ax.set(yticks=[], title=title, xlabel="$w_l^2$", xlim=(0, None))
        ax.spines["left"].set_visible(False)
    first, steps = chains.values()
    axes[0].plot([first[0] + step] * 2, [-0.4, SHOWN - 0.5], ":", color=COLOURS["black"], linewidth=1)
    axes[0].annotate("", (first[0], 0), (first[0] + step, 0), arrowprops=arrow)
    axes[0].text(first[0] + step + 0.12, 0, r"$\lambda$", va="center")
    for i, (low, _) in enumerate(pairwise(steps)):
        axes[1].annotate("", (low, i), (low + step, i), arrowprops=arrow)
        axes[1].text(low + step + 0.12, i, r"$\varepsilon$", va="center")
    axes[0].set_ylabel("layers, smallest square first")


def _draw_curves(ax: Any, data: DepthData) -> None:
    s, curves = data.settings, data.curves
    blue, red, black = COLOURS["blue"], COLOURS["vermillion"], COLOURS["black"]
    for name, text, form, colour, rise in (
        ("steps_exact", r"$\alpha^\ast$, steps of $\varepsilon$", "o-", red, 0),
        ("factorial", r"$\varepsilon^{L-1}(L-1)!$", "--", red, -13),
        ("exact", r"$\alpha^\ast$, others at $\lambda$", "o-", blue, 5),
        ("closed", "closed bound", "--", blue, -1),
        ("prior", r"$\lambda^{L-1}$", ":", black, -5),
    ):
        ax.semilogy(s.depth, curves[name], form, color=colour)
        place = (s.depth[-1], curves[name][-1])
        ax.annotate(text, place, (8, rise), textcoords="offset points", color=colour, size=9, va="center")
    ax.set(xlabel="depth $L$", ylabel=r"$\lambda_{\min}(T)$ and its bounds", xticks=s.depth)
    ax.set_title(rf"$\lambda=\varepsilon={s.step:g}$, $|w|={s.product:g}$")


def tables(data: DepthData) -> list[Table]:
    """The bounds, a row for each depth."""
    columns = ["L", "λ^{L−1}", "closed", "exact α*", "ε^{L−1}(L−1)!", "exact α* with steps"]
    curves = (data.curves[name].tolist() for name in ("prior", "closed", "exact", "factorial", "steps_exact"))
    return [Table("Bounds over depth", columns, list(zip(data.settings.depth, *curves, strict=True)))]


def numbers(data: DepthData) -> dict[str, Any]:
    """The curves, and the squares of the drawn chains."""
    return {"L": data.settings.depth, **data.curves, "squares": data.shown}


def setup(data: DepthData) -> dict[str, str]:
    """What was computed, in words."""
    s = data.settings
    return {
        "Chain": "w = w₁⋯w_L, scalar; the squares w_l² sorted, smallest first",
        "Imbalance": f"λ = ε = {s.step:g}; the curves use the smallest squares allowed",
        "Product": f"|w| = {s.product:g}",
        "Claims": f"also on {s.seeds} random chains at each depth",
        "Flow": f"½({TARGET:g} − w)² from w = {START}, to 10⁻¹⁰ of the initial loss",
    }


experiment = PaperFigure(
    "depth",
    "Depth multiplies the imbalance",
    "Scalar weights w₁⋯w_L. Here the least eigenvalue of T is known exactly. Left: the squared weights; the flow "
    "conserves their differences. If all others lie λ above the smallest, the rate is at least γλ^{L−1} (Yun et al. "
    "2021), and more with the product term of Proposition 3. If each lies a step ε above the one before, it grows "
    "like ε^{L−1}·(L−1)!: depth speeds up an imbalanced chain faster than any power.",
    "Talk, Proposition 1; Min, Vidal & Mallada 2023, Proposition 3; Yun, Krishnan & Mobahi 2021",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=DepthSettings,
    paper="Min, Vidal & Mallada 2023",
)
