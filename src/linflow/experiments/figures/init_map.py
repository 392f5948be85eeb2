"""The plane of the norms of two layers: which starts are certified by imbalance, which by margin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import init
from linflow._support.words import percent
from linflow.certificates import Certificate, certify
from linflow.certificates.checking import OBSERVED_ALLOWANCE
from linflow.dynamics import Trajectory, gradient_flow
from linflow.experiments.figures._outcome import Claim, Progress, Table, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._runs import kept_claim
from linflow.experiments.figures._settings import Settings, setting
from linflow.geometry.imbalance import imbalance_spectrum
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.plots import COLOURS, figure
from linflow.plots import init_map as draw_map
from linflow.plots.norm_plane import level_sets, norm_bounds

REACH = 2.2
TICKS = (0, 0.5, 1, 1.5, 2)
EXAMPLES = ((0.2, 0.2), (0.9, 0.9), (1.4, 0.3), (1.3, 0.8), (1.7, 1.6))
# A start counts as certified if it is guaranteed at least γ, the rate of the flow without overparametrization.
THRESHOLD = 1.0

Point = tuple[float, float]


@dataclass(frozen=True)
class InitMapSettings(Settings):
    """Sizes, grid, and the starts from which flows are run."""

    n: int = setting(2, "the rows and columns of Y, the identity")
    h: int = setting(4, "the hidden width")
    grid: int = setting(80, "the grid steps along each axis", least=10)
    seeds: int = setting(20, "the grid points of each region from which a flow is run", least=4)
    start: tuple[Point, ...] = setting(EXAMPLES, "the starts (‖W₁‖, ‖W₂‖) that are drawn and tabulated")

    def __post_init__(self) -> None:
        if self.h < self.n:
            raise ValueError(f"h={self.h}: a width of n = {self.n} or more is needed.")


@dataclass(frozen=True)
class Flow:
    """One start in the plane, its flow and its certificate."""

    start: Point
    promised: Mapping[str, float]  # the bounds of the map on λ_min(T)
    run: Trajectory
    certificate: Certificate

    @property
    def least(self) -> float:
        """The least observed rate."""
        return float(self.run.rate.min())

    @property
    def ends(self) -> list[float]:
        """The norms of the layers at the end."""
        return [float(np.linalg.norm(W, 2)) for W in self.run.weights]


@dataclass(frozen=True)
class InitMapData:
    """The bounds over the plane, and flows from sampled grid points and from the tabulated starts."""

    settings: InitMapSettings
    objective: MatrixFactorization
    axis: np.ndarray
    maps: Mapping[str, np.ndarray]
    sampled: list[Flow]
    examples: list[Flow]
    spectra: list[tuple[float, np.ndarray]]  # a drawn level, and the imbalance of weights on it

    @property
    def regions(self) -> dict[str, np.ndarray]:
        """Which grid points each bound certifies."""
        return {name: alpha >= THRESHOLD for name, alpha in self.maps.items()}


def compute(s: InitMapSettings, seed: int, progress: Progress) -> InitMapData:
    """Compute the bounds over the plane, and run flows from some of its points."""
    rng = np.random.default_rng(seed)
    f, axis = MatrixFactorization(np.eye(s.n)), np.linspace(0, REACH, s.grid + 1)
    maps = norm_bounds(f, axis, axis[:, None])
    progress(0.5, "runs")
    places = _sample({name: alpha >= THRESHOLD for name, alpha in maps.items()}, s.seeds, rng)
    sampled = []
    for k, (i, j) in enumerate(places):
        promised = {name: float(alpha[i, j]) for name, alpha in maps.items()}
        sampled.append(_flow(s, f, (float(axis[j]), float(axis[i])), promised, rng))
        progress(0.5 + 0.4 * (k + 1) / len(places), "runs")
    examples = []
    for a, b in s.start:
        promised = {name: float(alpha) for name, alpha in norm_bounds(f, a, b).items()}
        examples.append(_flow(s, f, (a, b), promised, rng))
    spectra = [
        (d, np.asarray(imbalance_spectrum(_network(s, a, b, rng)).eigenvalues))
        for d, curve in level_sets(REACH).items()
        for a, b in curve[:, ::10].T
    ]
    return InitMapData(s, f, axis, maps, sampled, examples, spectra)


def _sample(regions: Mapping[str, np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw grid points off the axes: up to `count` from each region, and a quarter as many from the rest."""
    chosen = []
    for mask, most in (
        (regions["imbalance"], count),
        (regions["margin"], count),
        (~regions["both"], count // 4),
    ):
        places = np.argwhere(mask[1:, 1:]) + 1
        chosen.append(places[rng.choice(len(places), min(most, len(places)), replace=False)])
    return np.concatenate(chosen)


def _network(s: InitMapSettings, a: float, b: float, rng: np.random.Generator) -> Network:
    return init.spectral((s.n, s.h, s.n), np.eye(s.n), [a, b], rng=rng)


def _flow(
    s: InitMapSettings, f: MatrixFactorization, point: Point, promised: Mapping[str, float], rng: np.random.Generator
) -> Flow:
    net = _network(s, *point, rng)
    run = gradient_flow(f, net, until=1e-8, record=("least_eigenvalue",))
    return Flow(point, promised, run, certify(f, net))


def claims(data: InitMapData) -> Iterable[Claim]:
    """State that the map keeps its promises, that it shows what its labels say, and what its regions are."""
    yield from _promise_claims(data)
    yield from _axis_claims(data)
    yield from _region_claims(data)
    yield _levels_claim(data)
    yield _motion_claim(data.sampled)


def _promise_claims(data: InitMapData) -> Iterable[Claim]:
    """Claim that neither a bound of the map nor a certificate promises more than the run keeps."""
    flows, gamma = data.sampled, data.objective.pl_constant
    yield Claim.all_below(
        f"No guaranteed rate exceeds the least observed rate ({len(flows)} starts of all regions)",
        [gamma * one.promised["both"] for one in flows],
        [one.least for one in flows],
        OBSERVED_ALLOWANCE,
    )
    least = [min(one.run.least_eigenvalue) for one in flows if one.run.least_eigenvalue is not None]
    for name in ("imbalance", "margin"):
        yield Claim.all_below(
            f"The bound from the {name} alone is never above λ_min(T) along those runs",
            [one.promised[name] for one in flows],
            least,
            OBSERVED_ALLOWANCE,
        )
    yield kept_claim(
        "Every run keeps its certificate, in rate and in loss",
        [one.certificate.check(one.run) for one in (*flows, *data.examples)],
    )


def _axis_claims(data: InitMapData) -> Iterable[Claim]:
    """Claim that the map shows the rate that the bounds give on actual weights, over the norms of the layers."""
    flows, gamma = data.sampled, data.objective.pl_constant
    promised = [gamma * one.promised["both"] for one in flows]
    # The map is drawn from the bounds alone; the lazy regime, which the envelope includes, can promise more.
    certified = [
        max(g.rate for g in one.certificate.guarantees if g.name not in ("envelope", "lazy regime")) for one in flows
    ]
    off = max(abs(p - c) / max(c, gamma * 1e-3) for p, c in zip(promised, certified, strict=True))
    yield Claim.within("The map shows the rate that the bounds on the actual weights give: error", off, 0, 1e-9)
    yield Claim.same(
        "The axes ‖W₁‖ and ‖W₂‖ are the spectral norms of the layers",
        [one.start for one in flows],
        [[float(np.linalg.norm(W, 2)) for W in one.run.start.weights] for one in flows],
        1e-12,  # rounding of the singular values
    )
    yield Claim.all_below(
        "No rate of the map exceeds that of `certify`, which the envelope and the lazy regime may raise",
        promised,
        [one.certificate.rate for one in flows],
        1e-9,  # the allowances for rounding that a certificate makes
    )


def _region_claims(data: InitMapData) -> Iterable[Claim]:
    """State how the certified regions compare, and which starts they leave out."""
    maps, regions = data.maps, data.regions
    yield Claim.all_below(
        "At every grid point the bound from both is at least each of the two",
        np.maximum(maps["imbalance"], maps["margin"]),
        maps["both"],
        1e-12,
    )
    shares = {name: float(region.mean()) for name, region in regions.items()}
    each, union = ("imbalance", "margin"), regions["imbalance"] | regions["margin"]
    yield Claim(
        "The union of the two regions is strictly larger than each",
        f"{percent(union.mean(), 1)} of the plane; imbalance {percent(shares['imbalance'], 1)}, "
        f"margin {percent(shares['margin'], 1)}",
        all(float(union.mean()) > shares[name] for name in each),
        (float(union.mean()), *(shares[name] for name in each)),
    )
    extra = float((regions["both"] & ~union).mean())
    yield Claim(
        "The two together certify starts that neither certifies alone, and lose none",
        f"{number(100 * extra)} % of the plane more",
        extra > 0 and not (union & ~regions["both"]).any(),
        extra,
    )
    a, b = np.meshgrid(data.axis, data.axis)
    slow = a**2 + b**2 < THRESHOLD  # the rate at the start is γ(‖W₁‖² + ‖W₂‖²)
    yield Claim(
        "The bound certifies no start whose first rate is below γ, such as those near the origin",
        f"{(regions['both'] & slow).sum()} of {slow.sum()} grid points",
        bool(slow.any() and not (regions["both"] & slow).any()),
    )
    near, far = (float((~regions["both"] & side).mean()) for side in (a * b < 1, a * b > 1))
    yield Claim(
        "Starts are left out on both sides of the optimum: smaller than Y, and balanced and larger",
        f"{percent(near, 1)} of the plane with ‖W₁‖‖W₂‖ < 1, {percent(far, 1)} with ‖W₁‖‖W₂‖ > 1",
        near > 0 and far > 0,
        (near, far),
    )


def _levels_claim(data: InitMapData) -> Claim:
    """Claim that the drawn hyperbolas are level sets of the imbalance of actual weights."""
    n, h = data.settings.n, data.settings.h
    off = [np.abs(seen - np.sort([d] * n + [0.0] * (h - n))[::-1]).max() for d, seen in data.spectra]
    text = f"The hyperbolas are level sets of the imbalance of actual weights ({len(off)} starts): error"
    return Claim.within(text, float(max(off)), 0, 1e-12)


def _motion_claim(flows: Sequence[Flow]) -> Claim:
    """Claim that a run keeps the difference of the squared norms, and ends at the optimum."""
    moved = max(
        abs((u - v) * (u + v) - (a - b) * (a + b)) for (u, v), (a, b) in ((one.ends, one.start) for one in flows)
    )
    met = max(abs(u * v - 1) for u, v in (one.ends for one in flows))
    return Claim(
        "A run moves along its hyperbola and ends where ‖W₁‖‖W₂‖ = 1",
        f"‖W₁‖² − ‖W₂‖² moves by at most {number(moved)}, ‖W₁‖‖W₂‖ ends within {number(met)} of 1",
        moved <= 1e-6 and met <= 1e-3,
        (moved, met),
    )


def draw(data: InitMapData) -> Any:
    """Draw the regions with some runs on the left, and the rate with the sampled starts on the right."""
    fig, (regions, rates) = figure(7.2, 3.7, ncols=2, sharey=True)
    look: dict[str, Any] = {"reach": REACH, "points": len(data.axis), "plane": data.maps, "threshold": THRESHOLD}
    draw_map(data.objective, [one.run for one in data.examples], ax=regions, **look)
    draw_map(data.objective, show="rate", ax=rates, **look)
    product = np.geomspace(1 / REACH, REACH, 100)
    rates.plot(product, 1 / product, "--", color=COLOURS["black"], linewidth=1)
    rates.text(
        0.6, 1.92, r"$W_1W_2=Y$", size=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
    )
    dots = {"color": "white", "markeredgecolor": COLOURS["black"], "markeredgewidth": 0.5, "markersize": 3}
    rates.plot(*np.array([one.start for one in data.sampled]).T, "o", **dots)
    for ax in (regions, rates):
        ax.set(xticks=TICKS, yticks=TICKS)
    rates.set_ylabel("")
    regions.set_title(r"Rate $\gamma$ by imbalance and by margin")
    rates.set_title("Rate by both together")
    return fig


def tables(data: InitMapData) -> list[Table]:
    """Guaranteed and observed rates, a row for each example."""
    names, gamma = list(data.maps), data.objective.pl_constant
    rows = [
        (*one.start, *(gamma * one.promised[name] for name in names), one.certificate.rate, one.least)
        for one in data.examples
    ]
    columns = ["‖W₁‖", "‖W₂‖", *names, "certified", "least observed"]
    return [Table("Guaranteed and observed rates", columns, rows)]


def numbers(data: InitMapData) -> dict[str, Any]:
    """The grid, the bounds over it, and the sampled starts with their least observed rates."""
    return {
        "axis": data.axis,
        "lambda_min_bound": {name: np.round(alpha, 6) for name, alpha in data.maps.items()},
        "sampled": [(*one.start, one.least) for one in data.sampled],
    }


def setup(data: InitMapData) -> dict[str, str]:
    """What was computed and run, in words."""
    s, points = data.settings, len(data.axis)
    return {
        "Objective": f"½‖Y − W₁W₂‖², Y the {s.n}×{s.n} identity",
        "Start": f"W₁ = aQ, W₂ = bQᵀ, Q {s.n}×{s.h} with random orthonormal rows: ‖W₁‖ = a, ‖W₂‖ = b, W₁W₂ = ab·Y",
        "Plane": f"{points} × {points} starts, 0 ≤ a, b ≤ {REACH}",
        "Certified": f"by these bounds a rate of γ = {data.objective.pl_constant:g} or more, that of Ẇ = −∇f(W)",
        "Imbalance alone": "two-layer bound with the margin left out",
        "Margin alone": "bound of the balanced case, 2·margin; valid as the imbalance has no spread",
        "Both together": "two-layer bound with imbalance and margin",
        "Runs": f"{len(data.sampled)} flows from grid points (dots), {len(s.start)} more on the left; to 10⁻⁸ of the "
        "initial loss",
    }


experiment = PaperFigure(
    "init_map",
    "A map of initialisations",
    "Which starts in the plane of ‖W₁‖ and ‖W₂‖ have a guarantee? Unequal norms give imbalance, a product near Y "
    "gives margin. Left: the starts that each of the two certifies to be at least as fast as the flow without "
    "overparametrization. The solid line encloses what both together certify, which is more than either alone. The "
    "flow moves along the hyperbolas. Right: the rate by both together, in the two-layer bound. Small balanced "
    "starts, and large balanced ones far from Y, are left out. The table shows that the envelope and the lazy "
    "regime, which are not in the map, certify some of those too.",
    "Talk; Min, Tarmoun, Vidal & Mallada 2021 (arXiv 2105.06351); Min, Vidal & Mallada 2023",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=InitMapSettings,
    paper="Min, Tarmoun, Vidal & Mallada 2021",
)
