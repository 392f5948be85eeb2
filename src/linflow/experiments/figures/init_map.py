"""The plane of the norms of two layers: which starts are certified by imbalance, which by margin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.patheffects import withStroke

from linflow import bounds, init
from linflow._support.words import part
from linflow.certificates import certify
from linflow.certificates.checking import OBSERVED_ALLOWANCE
from linflow.dynamics import Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, Outcome, PaperFigure, Progress, Table, number
from linflow.experiments.figures._runs import kept_claim
from linflow.geometry.imbalance import imbalance_spectrum
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure

N, H, GRID, REACH, SAMPLES = 2, 4, 80, 2.2, 20
Y = np.eye(N)
F = MatrixFactorization(Y)
TICKS = (0, 0.5, 1, 1.5, 2)
LEVELS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)  # imbalances whose hyperbolas are drawn
EXAMPLES = ((0.2, 0.2), (0.9, 0.9), (1.4, 0.3), (1.3, 0.8), (1.7, 1.6))
# A start counts as certified where it is guaranteed the rate γ of the flow without overparametrization, or more.
THRESHOLD = 1.0


def _alphas(a: float, b: float) -> dict[str, float]:
    """Return three lower bounds on λ_min(T) along the flow from `U = aQ`, `V = bQ`, `QQᵀ = I`.

    `D = UᵀU − VᵀV = (a² − b²) QᵀQ` has the eigenvalue a² − b² twice and 0 for the rest; its spreads are 0, so
    that the bound of the balanced case holds at any imbalance here.
    """
    d = (a - b) * (a + b)
    D = np.array([d] * N + [0.0] * (H - N))
    held = max(0.0, 1 - abs(1 - a * b) * N**0.5)  # the margin, ‖W − Y‖_F = √n |1 − ab|
    return {
        "imbalance": float(bounds.two_layer(D, N, N, 0.0, 0.0)),
        "margin": float(bounds.balanced(2, N, N, held)),
        "combined": float(bounds.two_layer(D, N, N, held, held)),
    }


def _start(a: float, b: float, rng: np.random.Generator) -> Network:
    return init.spectral((N, H, N), Y, [a, b], rng=rng)


def _run_from(a: float, b: float, rng: np.random.Generator) -> Trajectory:
    return gradient_flow(F, _start(a, b, rng), until=1e-8, record=("least_eigenvalue",))


def _claims(
    axis: np.ndarray,
    maps: Mapping[str, np.ndarray],
    regions: Mapping[str, np.ndarray],
    sampled: list[tuple[float, float]],
    runs: list[Trajectory],
    examples: list[Trajectory],
    rng: np.random.Generator,
) -> Iterable[Claim]:
    gamma = F.pl_constant
    promised = [gamma * _alphas(*point)["combined"] for point in sampled]
    yield Claim.all_below(
        f"No guaranteed rate exceeds the least rate of the actual run ({len(runs)} starts of all regions)",
        promised,
        [run.rate.min() for run in runs],
        OBSERVED_ALLOWANCE,
    )
    least = [min(run.least_eigenvalue) for run in runs if run.least_eigenvalue is not None]
    for name in ("imbalance", "margin"):
        yield Claim.all_below(
            f"The bound from the {name} alone is never above λ_min(T) along those runs",
            [_alphas(*point)[name] for point in sampled],
            least,
            OBSERVED_ALLOWANCE,
        )
    every = [*runs, *examples]
    certificates = [certify(F, run.start) for run in every]
    yield kept_claim(
        "No run is ever slower than certified, in rate or in loss",
        [cert.check(run) for cert, run in zip(certificates, every, strict=True)],
    )
    # The map is drawn from the bounds alone; the lazy regime, which the envelope includes, may promise more.
    rows = [cert.guarantees for cert in certificates[: len(runs)]]
    certified = [max(g.rate for g in found if g.name not in ("envelope", "lazy regime")) for found in rows]
    off = max(abs(p - c) / max(c, gamma * 1e-3) for p, c in zip(promised, certified, strict=True))
    yield Claim.within("The map shows the rate that the bounds on the actual weights give: error", off, 0, 1e-9)
    yield Claim.same(
        "The axes ‖U‖ and ‖V‖ are the spectral norms of the layers",
        sampled,
        [[float(np.linalg.norm(W, 2)) for W in run.start.weights] for run in runs],
        1e-12,  # rounding of the singular values
    )
    yield Claim.all_below(
        "No rate of the map exceeds that of `certify`, which the envelope and the lazy regime may raise",
        promised,
        [cert.rate for cert in certificates[: len(runs)]],
        1e-9,  # the allowances for rounding that a certificate makes
    )
    yield Claim.all_below(
        "At every grid point the combined bound is at least each of the two",
        np.maximum(maps["imbalance"], maps["margin"]),
        maps["combined"],
        1e-12,
    )
    shares = {name: float(region.mean()) for name, region in regions.items()}
    each, union = ("imbalance", "margin"), regions["imbalance"] | regions["margin"]
    gains = [float(union.mean()) - shares[name] for name in each]
    yield Claim(
        "The union of the two regions is strictly larger than each",
        f"{part(union.mean(), 1)} of the plane; imbalance {part(shares['imbalance'], 1)}, "
        f"margin {part(shares['margin'], 1)}",
        min(gains) > 0,
        (float(union.mean()), *(shares[name] for name in each)),
    )
    extra = float((regions["combined"] & ~union).mean())
    yield Claim(
        "The two together certify starts that neither certifies alone, and lose none",
        f"{number(100 * extra)} % of the plane more",
        extra > 0 and not (union & ~regions["combined"]).any(),
        extra,
    )
    a, b = np.meshgrid(axis, axis)
    slow = a**2 + b**2 < THRESHOLD  # the rate at the start is γ(‖U‖² + ‖V‖²)
    yield Claim(
        "The bound certifies no start that begins slower than γ, as those near the origin do",
        f"{(regions['combined'] & slow).sum()} of {slow.sum()} grid points",
        bool(slow.any() and not (regions["combined"] & slow).any()),
    )
    near, far = (float((~regions["combined"] & side).mean()) for side in (a * b < 1, a * b > 1))
    yield Claim(
        "Starts are left out on both sides of the optimum: smaller than Y, and balanced and larger",
        f"{part(near, 1)} of the plane with ‖U‖‖V‖ < 1, {part(far, 1)} with ‖U‖‖V‖ > 1",
        near > 0 and far > 0,
        (near, far),
    )
    seen = []
    for d, curve in _hyperbolas().items():
        for a, b in curve[:, ::10].T:
            values = np.asarray(imbalance_spectrum(_start(a, b, rng)).eigenvalues)
            expected = np.sort([d] * N + [0.0] * (H - N))[::-1]
            seen.append(float(np.abs(values - expected).max()))
    yield Claim.within(
        f"The hyperbolas are level sets of the imbalance of actual weights ({len(seen)} starts): error",
        max(seen),
        0,
        1e-12,
    )
    ends = [[float(np.linalg.norm(W, 2)) for W in run.weights] for run in runs]
    moved = max(
        abs((u - v) * (u + v) - (a - b) * (a + b)) for (u, v), (a, b) in zip(ends, sampled, strict=True)
    )  # fmt: skip
    met = max(abs(u * v - 1) for u, v in ends)
    yield Claim(
        "A run moves along its hyperbola and ends where ‖U‖‖V‖ = 1",
        f"‖U‖² − ‖V‖² moves by at most {number(moved)}, ‖U‖‖V‖ ends within {number(met)} of 1",
        moved <= 1e-6 and met <= 1e-3,
        (moved, met),
    )


def _hyperbolas() -> dict[float, np.ndarray]:
    """Return the points (a, b) with `a² − b² = d` inside the plane, for each drawn d."""
    curves = {}
    for d in LEVELS:
        short = np.linspace(0, np.sqrt(REACH**2 - abs(d)), 61)
        long = np.sqrt(short**2 + abs(d))
        curves[d] = np.array([long, short] if d > 0 else [short, long])
    return curves


def _sample(
    regions: Mapping[str, np.ndarray], axis: np.ndarray, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Draw grid points off the axes: `SAMPLES` of each region, and a quarter as many of what is left."""
    chosen = []
    for mask, count in (
        (regions["imbalance"], SAMPLES),
        (regions["margin"], SAMPLES),
        (~regions["combined"], SAMPLES // 4),
    ):
        places = np.argwhere(mask[1:, 1:]) + 1
        rows = rng.choice(len(places), min(count, len(places)), replace=False)
        chosen += [(float(axis[j]), float(axis[i])) for i, j in places[rows]]
    return chosen


def _run(seed: int, progress: Progress) -> Outcome:
    rng = np.random.default_rng(seed)
    axis = np.linspace(0, REACH, GRID + 1)
    values = []
    for i, b in enumerate(axis):
        values.append([list(_alphas(a, b).values()) for a in axis])
        progress(0.6 * (i + 1) / len(axis), "the plane")
    maps = dict(zip(_alphas(1.0, 1.0), np.moveaxis(np.array(values), -1, 0), strict=True))
    regions = {name: alpha >= THRESHOLD for name, alpha in maps.items()}
    sampled = _sample(regions, axis, rng)
    runs = []
    for i, point in enumerate(sampled):
        runs.append(_run_from(*point, rng))
        progress(0.6 + 0.4 * (i + 1) / len(sampled), "runs")
    rows, examples = [], [_run_from(a, b, rng) for a, b in EXAMPLES]
    for (a, b), run in zip(EXAMPLES, examples, strict=True):
        alphas = _alphas(a, b)
        rate = certify(F, run.start).rate
        rows.append((a, b, *(F.pl_constant * alpha for alpha in alphas.values()), rate, float(run.rate.min())))
    claims = list(_claims(axis, maps, regions, sampled, runs, examples, rng))

    def draw() -> Any:
        fig, axes = figure(7.2, 3.7, ncols=2, sharey=True)
        _draw_regions(axes[0], axis, maps)
        _draw_rates(fig, axes[1], axis, maps["combined"], np.array(sampled))
        for ax in axes:
            ax.set(xlim=(0, REACH), ylim=(0, REACH), xticks=TICKS, yticks=TICKS, xlabel=r"$\|U\|$", aspect="equal")
        axes[0].set_ylabel(r"$\|V\|$")
        return fig

    return Outcome(
        claims,
        draw,
        {
            "axis": axis,
            "lambda_min_bound": {name: np.round(alpha, 6) for name, alpha in maps.items()},
            "sampled": [(*point, float(run.rate.min())) for point, run in zip(sampled, runs, strict=True)],
        },
        {
            "Objective": f"½‖Y − UVᵀ‖², Y the {N}×{N} identity",
            "Start": f"U = aQ, V = bQ, Q {N}×{H} with orthonormal rows (random): ‖U‖ = a, ‖V‖ = b, UVᵀ = ab·Y",
            "Plane": f"{GRID + 1} × {GRID + 1} starts, 0 ≤ a, b ≤ {REACH}",
            "Certified": f"by these bounds a rate of γ = {F.pl_constant:g} or more, that of Ẇ = −∇f(W)",
            "Imbalance alone": "two-layer bound with the margin left out",
            "Margin alone": "bound of the balanced case, 2·margin; valid as the imbalance has no spread",
            "Combined": "two-layer bound with imbalance and margin",
            "Runs": f"{len(runs)} flows from grid points (dots), to 10⁻⁸ of the first loss",
        },
        [Table("Guaranteed and observed rates", ["‖U‖", "‖V‖", *maps, "best of all", "least observed"], rows)],
    )


def _draw_regions(ax: Any, axis: np.ndarray, maps: Mapping[str, np.ndarray]) -> None:
    for name, colour in (("imbalance", COLOURS["sky"]), ("margin", COLOURS["orange"])):
        ax.contourf(axis, axis, maps[name], [THRESHOLD, np.inf], colors=[colour], alpha=0.5)
    for d, curve in _hyperbolas().items():
        ax.plot(*curve, color=COLOURS["grey"], linewidth=0.7)
        if d > 0:
            ax.text(curve[0, 0] + 0.03, 0.04, f"$d={d:g}$", size=7, color="#555555")
    ax.contour(axis, axis, maps["combined"], [THRESHOLD], colors=COLOURS["black"], linewidths=1.3)
    ax.plot((0, REACH), (0, REACH), "--", color=COLOURS["blue"], linewidth=1)
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for x, y, text in (
        (1.5, 0.2, "imbalance"),
        (0.08, 1.6, "imbalance"),
        (0.82, 1.0, "margin"),
        (1.55, 0.58, "either"),
        (0.42, 0.2, "neither"),
        (1.3, 1.22, "neither"),
    ):
        ax.text(x, y, text, size=9, path_effects=halo)
    ax.annotate("both together", (0.57, 1.04), (0.06, 0.7), size=9, arrowprops={"arrowstyle": "-", "linewidth": 0.7})
    ax.text(1.72, 1.8, "balanced", rotation=45, color=COLOURS["blue"], size=9, rotation_mode="anchor")
    ax.set_title(r"Rate $\gamma$ by imbalance and by margin")


def _draw_rates(fig: Any, ax: Any, axis: np.ndarray, alpha: np.ndarray, sampled: np.ndarray) -> None:
    mesh = ax.pcolormesh(axis, axis, alpha, shading="gouraud", cmap="cividis", vmin=0, rasterized=True)
    lines = ax.contour(axis, axis, alpha, [1, 2, 3], colors="white", linewidths=[1.6, 0.8, 0.8])
    ax.clabel(lines, fmt="%g", fontsize=8)
    product = np.geomspace(1 / REACH, REACH, 100)
    ax.plot(product, 1 / product, color=COLOURS["black"], linestyle="--", linewidth=1)
    halo = [withStroke(linewidth=3, foreground="white")]
    ax.text(0.6, 1.92, "$UV^T=Y$", color=COLOURS["black"], size=9, path_effects=halo, zorder=5)
    ax.plot(*sampled.T, "o", color="white", markeredgecolor=COLOURS["black"], markeredgewidth=0.5, markersize=3)
    fig.colorbar(mesh, ax=ax, label=r"rate of the two-layer bound over $\gamma$", shrink=0.9, aspect=25)
    ax.set_title("Rate by both together")


experiment = PaperFigure(
    "init_map",
    "A map of initialisations",
    "Where in the plane of ‖U‖ and ‖V‖ does a start come with a guarantee? Unequal norms are imbalance, a product "
    "near Y is margin. Left: the starts that each of the two certifies to be at least as fast as the flow without "
    "overparametrization; the flow moves along the hyperbolas. Right: the rate by both together, in the two-layer "
    "bound. Together they reach further than either; small balanced starts, and large balanced ones far from Y, are "
    "left out. The envelope and the lazy regime, which this map leaves aside, certify some of those too: the table.",
    "Talk; Min, Tarmoun, Vidal & Mallada 2021 (arXiv 2105.06351); Min, Vidal & Mallada 2023",
    _run,
)
