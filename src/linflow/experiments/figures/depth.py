"""Scalar chains of any depth: how the imbalance between layers multiplies into the rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from linflow import bounds, init
from linflow.certificates import certify, margin
from linflow.certificates.checking import OBSERVED_ALLOWANCE
from linflow.dynamics import Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table, number
from linflow.experiments.figures._runs import kept_claim
from linflow.geometry.operator import TangentOperator
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

DEPTHS, STEP, PRODUCT, DRAWS = tuple(range(2, 9)), 1.25, 1.0, 40
FLOW_DEPTHS, START, TARGET = (2, 3, 5), 0.4, 1.0
SHOWN = 6  # depth of the chains drawn as bars
F = MatrixFactorization(np.array([[TARGET]]))
ROUNDING = 1e-12


def _imbalances(squares: np.ndarray) -> list[float]:
    """Return `w_l² − w_{l+1}²`."""
    return (-np.diff(squares)).tolist()


def _apart(depth: int, rng: np.random.Generator) -> np.ndarray:
    """Offsets with all others at least a step above the smallest, in random order."""
    return rng.permutation(np.append(0.0, STEP + STEP * rng.exponential(0.5, depth - 1)))


def _steps(depth: int, rng: np.random.Generator) -> np.ndarray:
    """Offsets at least a step apart from each other, in random order."""
    return rng.permutation(np.append(0.0, np.cumsum(STEP * (1 + rng.exponential(0.2, depth - 1)))))


def _curves() -> dict[str, np.ndarray]:
    """Return the bounds over depth for the least offsets each condition allows, at the product `PRODUCT`."""
    equal = [_imbalances(np.append(0.0, np.full(L - 1, STEP))) for L in DEPTHS]
    steps = [_imbalances(STEP * np.arange(L)) for L in DEPTHS]
    return {
        "prior": np.array([STEP ** (L - 1) for L in DEPTHS]),
        "closed": np.array([bounds.scalar(d, PRODUCT) for d in equal]),
        "exact": np.array([bounds.scalar_exact(d, PRODUCT) for d in equal]),
        "factorial": np.array([STEP ** (L - 1) * math.factorial(L - 1) for L in DEPTHS]),
        "steps_closed": np.array([bounds.scalar(d, PRODUCT) for d in steps]),
        "steps_exact": np.array([bounds.scalar_exact(d, PRODUCT) for d in steps]),
    }


def _flow(depth: int, offsets: np.ndarray) -> Trajectory:
    net = init.imbalanced((1,) * (depth + 1), _imbalances(offsets), np.array([[START]]))
    return gradient_flow(F, net)


def _certified(run: Trajectory) -> float:
    squares = np.array([float(W[0, 0]) ** 2 for W in run.start.weights])
    return F.pl_constant * bounds.scalar_exact(_imbalances(squares), margin(F, run.start))


def _claims(curves: dict[str, np.ndarray], runs: list[Trajectory], rng: np.random.Generator) -> Iterable[Claim]:
    draws = [(L, _imbalances(_apart(L, rng)), w) for L in DEPTHS for w in rng.lognormal(0, 1, DRAWS)]
    prior = np.array([*curves["prior"], *(STEP ** (L - 1) for L, _, _ in draws)])
    closed = np.array([*curves["closed"], *(bounds.scalar(d, w) for _, d, w in draws)])
    exact = np.array([*curves["exact"], *(bounds.scalar_exact(d, w) for _, d, w in draws)])
    gain = float((closed / prior).min())
    yield Claim(
        "With all others λ or more above the smallest, the closed bound exceeds λ^{L−1} at every depth",
        f"by a factor of {number(gain)} or more, in {len(prior)} chains",
        gain > 1,
        gain,
    )
    yield Claim.all_below("The closed bound never exceeds the exact α*", closed, exact, ROUNDING)
    two = [_imbalances(_apart(2, rng)) for _ in range(DRAWS)]
    products = rng.lognormal(0, 1, DRAWS)
    off = [abs(bounds.scalar(d, w) / bounds.scalar_exact(d, w) - 1) for d, w in zip(two, products, strict=True)]
    yield Claim.within("At L = 2 the closed bound is exact, to rounding", max(off), 0, ROUNDING)
    stepped = [(L, _imbalances(_steps(L, rng))) for L in DEPTHS for _ in range(DRAWS)]
    yield Claim.all_below(
        "With steps of ε or more, the imbalance alone gives at least ε^{L−1}·(L−1)!",
        [*curves["factorial"], *(STEP ** (L - 1) * math.factorial(L - 1) for L, _ in stepped)],
        [*curves["steps_closed"], *(bounds.scalar(d, 0.0) for _, d in stepped)],
        ROUNDING,
    )
    ratio = curves["steps_exact"][1:] / curves["steps_exact"][:-1]
    yield Claim(
        "With steps of ε, each further layer multiplies α* by more than the one before",
        "by " + ", ".join(map(number, ratio)),
        bool((np.diff(ratio) > 0).all()),
        tuple(ratio),
    )
    yield from _axis_claims(curves)
    misses = []
    for L in DEPTHS:
        for draw in (_apart, _steps):
            # The weights come first, so that nothing of the chain's root is assumed.
            squares = draw(L, rng) + rng.exponential()
            w = np.sqrt(squares) * rng.choice((-1, 1), L)
            least = float(TangentOperator([np.array([[x]]) for x in w]).least_eigenvalue())
            misses.append(abs(bounds.scalar_exact(_imbalances(squares), float(np.prod(w))) / least - 1))
    yield Claim.within(
        f"α* is λ_min(T) of actual weights with that imbalance and product: relative error, {len(misses)} chains",
        max(misses),
        0,
        1e-10,
    )
    yield Claim.all_below(
        f"No run at L = {', '.join(map(str, FLOW_DEPTHS))} is ever slower than γ α* at its margin",
        np.concatenate([np.full(len(run.t), _certified(run)) for run in runs]),
        np.concatenate([run.rate for run in runs]),
        OBSERVED_ALLOWANCE,
    )
    yield kept_claim(
        "Every run respects its certificate, in rate and in loss, to 10⁻¹⁰ of the first loss",
        [certify(F, run.start).check(run) for run in runs],
        and_also=all(run.gap[-1] <= 1.001e-10 * run.gap[0] for run in runs),
    )


def _axis_claims(curves: dict[str, np.ndarray]) -> Iterable[Claim]:
    """Claim that the drawn curves are what they are labelled, on weights with these imbalances and this product."""
    apart, steps = ([1.0] * (L - 1) for L in DEPTHS), (np.arange(1.0, L) for L in DEPTHS)
    nets = {
        name: [
            init.imbalanced((1,) * (len(above) + 2), _imbalances(STEP * np.append(0.0, above)), np.array([[PRODUCT]]))
            for above in offsets
        ]
        for name, offsets in (("exact", apart), ("steps_exact", steps))
    }
    yield Claim.same(
        "Drawn as α* is the least eigenvalue of `TangentOperator` on weights of the title's λ, ε and |w|",
        [curves[name] for name in nets],
        [[float(TangentOperator(net).least_eigenvalue()) for net in some] for some in nets.values()],
        1e-10,  # rounding of the weights, which a product of eight of them multiplies
    )
    closed = [
        {b.name: float(b.value) for b in bounds.table(net)}["scalar chain, closed form"] for net in nets["exact"]
    ]
    yield Claim.same("Drawn as the closed bound is that row of `bounds.table`", curves["closed"], closed, 1e-9)


def _chain_claim(chains: dict[str, np.ndarray]) -> Claim:
    """Claim that the drawn squares are at least as far apart as the drawn λ and ε."""
    least = [float(np.min(chains["apart"][1:] - chains["apart"][0])), float(np.min(np.diff(chains["steps"])))]
    text = "The drawn squares w_l² lie λ or more above the smallest, and ε or more above each other: least distance"
    return Claim.within(text, least, STEP * (1 - ROUNDING))


def _run(seed: int, progress: Progress) -> Outcome:
    rng = np.random.default_rng(seed)
    curves = _curves()
    chains = {"apart": np.sort(_apart(SHOWN, rng)) + 0.6, "steps": np.sort(_steps(SHOWN, rng)) + 0.6}
    runs = []
    for i, L in enumerate(FLOW_DEPTHS):
        progress((i + 1) / (len(FLOW_DEPTHS) + 2), f"depth {L}")
        runs += [_flow(L, draw(L, rng)) for draw in (_apart, _steps)]
    claims = [*_claims(curves, runs, rng), _chain_claim(chains)]
    shown = ("prior", "closed", "exact", "factorial", "steps_exact")

    def draw() -> Any:
        fig, axes = figure(7.2, 3.3, ncols=3, width_ratios=(0.6, 0.6, 1))
        _draw_chains(axes[:2], chains)
        _draw_curves(axes[2], curves)
        return fig

    return Outcome(
        claims,
        draw,
        {"L": DEPTHS, **curves, "squares": chains},
        {
            "Chain": "w = w₁⋯w_L, scalar; the squares w_l² sorted, smallest first",
            "Imbalance": f"λ = ε = {STEP}; the curves take the least squares allowed",
            "Product": f"|w| = {PRODUCT:g}",
            "Claims": f"also on {DRAWS} random chains at each depth",
            "Flow": f"½({TARGET:g} − w)² from w = {START}, to 10⁻¹⁰ of the first loss",
        },
        [
            Table(
                "Bounds over depth",
                ["L", "λ^{L−1}", "closed", "exact α*", "ε^{L−1}(L−1)!", "exact α* with steps"],
                list(zip(DEPTHS, *(curves[name].tolist() for name in shown), strict=True)),
            )
        ],
    )


def _draw_chains(axes: Any, chains: dict[str, np.ndarray]) -> None:
    arrow = {"arrowstyle": "<->", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    titles = (r"Others $\geq\lambda$ above", r"Steps $\geq\varepsilon$")
    colours = (COLOURS["blue"], COLOURS["vermillion"])
    for ax, squares, title, colour in zip(axes, chains.values(), titles, colours, strict=True):
        ax.barh(range(SHOWN), squares, height=0.62, color=colour, alpha=0.75)
        ax.set(yticks=[], title=title, xlabel="$w_l^2$", xlim=(0, None))
        ax.spines["left"].set_visible(False)
    first, steps = chains.values()
    axes[0].plot([first[0] + STEP] * 2, [-0.4, SHOWN - 0.5], ":", color=COLOURS["black"], linewidth=1)
    axes[0].annotate("", (first[0], 0), (first[0] + STEP, 0), arrowprops=arrow)
    axes[0].text(first[0] + STEP + 0.12, 0, r"$\lambda$", va="center")
    for i, (low, _) in enumerate(pairwise(steps)):
        axes[1].annotate("", (low, i), (low + STEP, i), arrowprops=arrow)
        axes[1].text(low + STEP + 0.12, i, r"$\varepsilon$", va="center")
    axes[0].set_ylabel("layers, smallest square first")


def _draw_curves(ax: Any, curves: dict[str, np.ndarray]) -> None:
    blue, red, black = COLOURS["blue"], COLOURS["vermillion"], COLOURS["black"]
    for name, text, form, colour, rise in (
        ("steps_exact", r"$\alpha^\ast$, steps of $\varepsilon$", "o-", red, 0),
        ("factorial", r"$\varepsilon^{L-1}(L-1)!$", "--", red, -13),
        ("exact", r"$\alpha^\ast$, others at $\lambda$", "o-", blue, 5),
        ("closed", "closed bound", "--", blue, -1),
        ("prior", r"$\lambda^{L-1}$", ":", black, -5),
    ):
        ax.semilogy(DEPTHS, curves[name], form, color=colour)
        place = (DEPTHS[-1], curves[name][-1])
        ax.annotate(text, place, (8, rise), textcoords="offset points", color=colour, size=9, va="center")
    ax.set(xlabel="depth $L$", ylabel=r"$\lambda_{\min}(T)$ and its bounds", xticks=DEPTHS)
    ax.set_title(rf"$\lambda=\varepsilon={STEP}$, $|w|={PRODUCT:g}$")


experiment = PaperFigure(
    "depth",
    "Depth multiplies the imbalance",
    "Scalar weights w₁⋯w_L, where the least eigenvalue of T is known exactly. Left: the squared weights; their "
    "differences are conserved. If all others lie λ above the smallest, the rate is at least γλ^{L−1} (Yun et al. "
    "2021), and more with the product term of Proposition 3. If each lies a step ε above the one before, it grows "
    "like ε^{L−1}·(L−1)!: depth speeds up an imbalanced chain faster than any power.",
    "Talk, Proposition 1; Min, Vidal & Mallada 2023, Proposition 3; Yun, Krishnan & Mobahi 2021",
    _run,
)
