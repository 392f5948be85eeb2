"""Which solution a network finds: fully connected, diagonal and circular, predicted before the run and reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog

from linflow.dynamics import Trajectory, gradient_flow
from linflow.exact.limit import PredictedLimit, one_sample_limit, predicted_limit
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.experiments.figures._sweep import seeds_of
from linflow.model.circular import CircularRegression
from linflow.model.coefficients import ChainRegression
from linflow.model.diagonal import DiagonalRegression
from linflow.model.network import Network
from linflow.model.quadratics import LinearRegression
from linflow.plots import COLOURS, figure

X, Y = np.array([[1.0, 2.0]]), np.array([[1.0]])
FIRST = np.array([1.0, -0.4])
"""The last layer over α; the first is α times the identity, so all networks start at the coefficients α² FIRST."""
KINDS = ("fully connected", "diagonal", "circular")
FEW = {"fully connected": (0.2, 0.4), "diagonal": (0.0, 0.5), "circular": (1 / 3, 1 / 3)}
"""The solutions of least norm: ℓ₂, ℓ₁, and ℓ₁ of the spectrum."""
SHADES = {"fully connected": "black", "diagonal": "blue", "circular": "vermillion"}
LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class NetworkBiasSettings(Settings):
    """Sizes of the starts and of the regressions."""

    start: tuple[float, ...] = setting((0.01, 0.5, 1.0), "α of the starts in the plane")
    n: int = setting(4, "the samples of the larger regression")
    d: int = setting(8, "its coefficients, or frequencies", least=3)
    depth: tuple[int, ...] = setting((2, 3), "its depths", least=2)
    alphas: tuple[float, ...] = setting((1e-2, 0.1, 1.0, 10.0), "products of its layers at the start")
    vanishing: float = setting(1e-6, "a smaller product, from which limits are predicted only")
    seeds: int = setting(10, "the draws of the larger regression")
    until: float = setting(1e-12, "where the loss gap of a run ends, relative to its start")

    def __post_init__(self) -> None:
        if self.n > self.d:
            raise ValueError(
                f"n={self.n} samples of d={self.d} coefficients; fewer samples are needed, or one for each."
            )


@dataclass(frozen=True)
class Pair:
    """A run and its prediction.

    Attributes:
        predicted: the prediction.
        reached: the coefficients at the end of the run.
        drift: how far what is conserved moved, over the largest square of a weight.
        rate: the least rate of the run over the predicted one; inf if that is 0.
        level: the largest `t·gap` over `divergence`.
    """

    predicted: PredictedLimit
    reached: np.ndarray
    drift: float
    rate: float
    level: float


@dataclass(frozen=True)
class NetworkBiasData:
    """The paths in the plane, and the larger regressions.

    Attributes:
        settings: the settings.
        paths: by kind, the coefficients along the run from each start.
        planned: by kind, the predicted limits, shape `(starts, 2)`.
        pairs: by kind ("diagonal", "circular"), runs over `[draw][depth][alpha]`.
        sparse: by kind, the solutions of least ℓ₁ norm (of the spectrum), shape `(draws, d)`.
        least: by kind, those of least ℓ₂ norm.
        vanishing: by kind, the limits predicted from the smallest start, shape `(draws, depths, d)`.
    """

    settings: NetworkBiasSettings
    paths: dict[str, list[np.ndarray]]
    planned: dict[str, np.ndarray]
    pairs: dict[str, list[list[list[Pair]]]]
    sparse: dict[str, np.ndarray]
    least: dict[str, np.ndarray]
    vanishing: dict[str, np.ndarray]

    def norms(self, kind: str, points: np.ndarray) -> np.ndarray:
        """Return the ℓ₁ norm of the coefficients, or of their spectrum, along the last axis."""
        seen = np.fft.fft(points, axis=-1) if kind == "circular" else points
        return np.abs(seen).sum(axis=-1)

    def excess(self, kind: str, *, predicted: bool) -> np.ndarray:
        """Return the ℓ₁ norms of the solutions over the least possible, shape `(draws, depths, alphas)`."""
        points = [
            [[each.predicted.coefficients if predicted else each.reached for each in row] for row in draw]
            for draw in self.pairs[kind]
        ]
        return self.norms(kind, np.array(points)) / self.norms(kind, self.sparse[kind])[:, None, None]


def compute(s: NetworkBiasSettings, seed: int, progress: Progress) -> NetworkBiasData:
    """Run the three networks in the plane, and the larger regressions, and predict where they end."""
    paths: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    planned: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for alpha in s.start:
        for kind in KINDS:
            path, limit = _in_the_plane(kind, alpha)
            paths[kind].append(path)
            planned[kind].append(limit)
    pairs: dict[str, list[list[list[Pair]]]] = {kind: [] for kind in KINDS[1:]}
    sparse: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS[1:]}
    least: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS[1:]}
    vanishing: dict[str, list[list[np.ndarray]]] = {kind: [] for kind in KINDS[1:]}
    for i, one in enumerate(seeds_of(s.seeds, seed)):
        progress(0.1 + 0.9 * i / s.seeds, f"draw {i + 1} of {s.seeds}")
        rng = np.random.default_rng(one)
        for kind, found in pairs.items():
            f = _regression(kind, s, rng)
            found.append([[_pair(f, _start(f, depth, a), s.until) for a in s.alphas] for depth in s.depth])
            sparse[kind].append(_sparsest(f))
            least[kind].append(np.asarray(f.coefficients(f.minimizer)))
            limits = [predicted_limit(f, _start(f, depth, s.vanishing)) for depth in s.depth]
            vanishing[kind].append([np.asarray(each.coefficients) for each in limits])
    lists = (planned, sparse, least, vanishing)
    stacked = [{kind: np.array(each) for kind, each in one.items()} for one in lists]
    return NetworkBiasData(s, paths, stacked[0], pairs, *stacked[1:])


def _in_the_plane(kind: str, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the path of the coefficients of two layers from `α I` and `α FIRST`, and the predicted limit."""
    last = alpha * FIRST
    if kind == "fully connected":
        net = Network([alpha * np.eye(2), last[:, None]])
        run = gradient_flow(LinearRegression(X, Y), net, until=1e-14)
        path = [run.network_at(float(t)).product()[:, 0] for t in np.asarray(run.t)]
        return np.array(path), np.asarray(one_sample_limit(X[0], float(Y[0, 0]), net))
    if kind == "diagonal":
        f: ChainRegression = DiagonalRegression(X, Y, signed=False)
        net = Network([alpha * np.eye(2), np.diag(last)])
    else:
        f = CircularRegression(X, Y)
        net = f.start([[alpha, 0.0], last])
    run = gradient_flow(f, net, until=1e-14)
    path = [f.coefficients(run.network_at(float(t))) for t in np.asarray(run.t)]
    return np.array(path), np.asarray(predicted_limit(f, net).coefficients)


def _regression(kind: str, s: NetworkBiasSettings, rng: np.random.Generator) -> ChainRegression:
    """Return a regression on d coefficients, or d frequencies of even rows, of which two are not 0."""
    rows = np.linalg.qr(rng.standard_normal((s.d, s.n)))[0].T
    true = np.zeros(s.d)
    true[rng.permutation(s.d)[:2]] = 1.0, -1.0
    if kind == "diagonal":
        return DiagonalRegression(rows, rows @ true)
    # Even rows of length 2(d − 1) have d frequencies, all of them real and so scalar chains.
    length = 2 * (s.d - 1)
    even = np.fft.irfft(rows, length, axis=1) * np.sqrt(length)
    return CircularRegression(even, even @ np.fft.irfft(true, length))


def _start(f: ChainRegression, depth: int, alpha: float) -> Network:
    """Return equal layers for `u^N − v^N`, and for filters one layer less that is 0."""
    if isinstance(f, DiagonalRegression):
        return f.start(depth, alpha ** (1 / depth))
    size = alpha ** (1 / depth)
    return Network([size * np.eye(f.shape[0])] * (depth - 1) + [np.zeros(f.shape)])


def _pair(f: ChainRegression, net: Network, until: float) -> Pair:
    predicted, run = predicted_limit(f, net), gradient_flow(f, net, until=until, record=("imbalance_drift",))
    t, gap, rate = (np.asarray(each) for each in (run.t, run.gap, run.rate))
    return Pair(
        predicted,
        np.asarray(f.coefficients(run.final)),
        _drift(run),
        float(rate.min() / predicted.rate) if predicted.rate > 0 else np.inf,
        float(np.max(t * gap) / predicted.divergence),
    )


def _drift(run: Trajectory) -> float:
    size = max(float(np.linalg.norm(W, 2)) for W in run.final.weights)
    return float(np.asarray(run.imbalance_drift).max()) / size**2


def _sparsest(f: ChainRegression) -> np.ndarray:
    """Return the solution of least ℓ₁ norm, of the coefficients or of their real spectrum, by linear programming."""
    chains = f.chains(_start(f, 2, 1.0))
    A, basis = chains.inputs, chains.basis
    if not chains.opposite:  # p = p₊ − p₋, and frequencies count as often as they occur
        A, basis = np.hstack([A, -A]), np.hstack([basis, -basis])
    costs = np.ones(A.shape[1]) if chains.opposite else np.tile(chains.costs, 2)
    wanted = np.asarray(f.X @ f.coefficients(f.minimizer))
    U, sizes, Vt = np.linalg.svd(A, full_matrices=False)
    rank = int(np.sum(sizes > 1e-10 * sizes[0]))
    found = linprog(costs, A_eq=Vt[:rank], b_eq=(U[:, :rank].T @ wanted) / sizes[:rank], method="highs")
    return basis @ found.x


def claims(data: NetworkBiasData) -> Iterable[Claim | LeftOut]:
    """State that predictions are met, what is conserved, and which norm small starts minimise."""
    s = data.settings
    ends = {kind: np.array([path[-1] for path in data.paths[kind]]) for kind in KINDS}
    away = [np.abs(ends[kind] - data.planned[kind]).max() for kind in KINDS]
    # The last gap is 10⁻¹⁴ of the first, and a step's relative tolerance 10⁻⁸.
    yield Claim.within(
        "In the plane each of the three networks ends at its predicted solution: distance", away, 0, 1e-5
    )
    every = [each for kind in data.pairs for draw in data.pairs[kind] for row in draw for each in row]
    off = [np.linalg.norm(one.reached - one.predicted.coefficients) / np.linalg.norm(one.reached) for one in every]
    yield Claim.within(
        f"Every run ends at the solution predicted from its start: relative distance, {number(len(every))} runs",
        off, 0, 100 * np.sqrt(s.until) + 1e-5,
    )  # fmt: skip
    yield Claim.within(
        "The duality gap of every prediction, and its distance to the exact minimiser, are rounding",
        [max(one.predicted.gap, one.predicted.distance) for one in every], 0, 1e-9,
    )  # fmt: skip
    yield Claim.within("The imbalance of every coefficient and frequency is conserved: relative change",
                       [one.drift for one in every], 0, 1e-6)  # fmt: skip
    yield Claim.within("The rate known from the start is never above the rate observed: ratio",
                       [one.rate for one in every if np.isfinite(one.rate)], 1 - 1e-6)  # fmt: skip
    yield Claim.within("The gap never exceeds B/t, B from the start: t·gap/B", [one.level for one in every], 0, 1.0)
    yield from about_these(
        s.changes("start", "alphas", "depth", "until", "n", "d", "vanishing"), list(_norm_claims(data, ends))
    )


def _norm_claims(data: NetworkBiasData, ends: dict[str, np.ndarray]) -> Iterable[Claim]:
    """State towards which solutions small and large starts lead."""
    smallest = int(np.argmin(data.settings.start))
    near = [np.linalg.norm(ends[kind][smallest] - FEW[kind]) for kind in KINDS]
    yield Claim.within(
        "The smallest start ends near the least ℓ₂ norm (full), ℓ₁ norm (diagonal), ℓ₁ norm of the spectrum "
        "(circular): distance", near, 0, 0.03,
    )  # fmt: skip
    order = np.argsort(data.settings.alphas)
    for kind, what in (("diagonal", "ℓ₁ norm"), ("circular", "ℓ₁ norm of the spectrum")):
        excess = data.excess(kind, predicted=False)[..., order]
        middle = np.median(excess, axis=0)
        yield Claim.within(
            f"Smaller {kind} starts end at a smaller {what}: ratio of neighbouring medians over the draws",
            middle[:, :-1] / middle[:, 1:],
            0,
            1.0,
        )
        tiny = data.norms(kind, data.vanishing[kind]) / data.norms(kind, data.sparse[kind])[:, None]
        yield Claim.within(
            f"From α = {number(data.settings.vanishing)} the predicted {what} is near the least possible: ratio",
            tiny, 1 - 1e-9, 1.05,
        )  # fmt: skip
    large = [
        np.linalg.norm(draw[0][order[-1]].reached - point) / np.linalg.norm(point)
        for kind in data.pairs
        for draw, point in zip(data.pairs[kind], data.least[kind], strict=True)
    ]
    yield Claim.within("From the largest, two layers end near the least ℓ₂ norm: relative distance", large, 0, 0.2)


def draw(data: NetworkBiasData) -> Any:
    """Draw the paths in the plane, and the ℓ₁ norms over the size of the start."""
    s = data.settings
    fig, axes = figure(9.6, 3.3, ncols=3, width_ratios=(1.15, 1, 1))
    plane = axes[0]
    plane.plot([1.4, -0.6], [-0.2, 0.8], color=COLOURS["orange"], linewidth=3, alpha=0.5)
    for kind in KINDS:
        for i, (path, limit) in enumerate(zip(data.paths[kind], data.planned[kind], strict=True)):
            label = kind if i == 0 else None
            plane.plot(*path.T, color=COLOURS[SHADES[kind]], linestyle=LINES[i % 4], linewidth=1.3, label=label)
            plane.plot(*limit, "o", color=COLOURS[SHADES[kind]], markersize=5, markerfacecolor="none")
    for path in data.paths["diagonal"]:
        plane.plot(*path[0], "o", color=COLOURS["purple"], markersize=4)
    low = min(0.0, *(float(path.min()) for kind in KINDS for path in data.paths[kind])) - 0.06
    high = max(float(path.max()) for kind in KINDS for path in data.paths[kind]) + 0.06
    plane.set(xlim=(low, high), ylim=(low, 0.62), xlabel=r"$\beta_1$", ylabel=r"$\beta_2$")
    plane.set_title(r"One sample, $\beta_1+2\beta_2=1$")
    plane.legend(loc="lower left", fontsize=7)
    for ax, kind in zip(axes[1:], data.pairs, strict=True):
        _draw_norms(ax, data, kind)
    axes[1].set_ylabel("ℓ₁ norm over the least")
    axes[1].set_title(r"Diagonal, $u^N-v^N$")
    axes[2].set_title("Circular: norm of the spectrum")
    axes[1].legend(loc="lower right", fontsize=7, title=f"median of {s.seeds} draws", title_fontsize=7)
    return fig


def _draw_norms(ax: Any, data: NetworkBiasData, kind: str) -> None:
    s = data.settings
    order = np.argsort(s.alphas)
    alphas = np.array(s.alphas)[order]
    for j, depth in enumerate(s.depth):
        colour = COLOURS[("blue", "vermillion", "green", "orange")[j % 4]]
        ends = [np.median(data.excess(kind, predicted=each)[:, j, order], axis=0) for each in (True, False)]
        tiny = data.norms(kind, data.vanishing[kind][:, j]) / data.norms(kind, data.sparse[kind])
        line = [float(np.median(tiny)), *ends[0]]
        ax.semilogx([s.vanishing, *alphas], line, color=colour, label=f"$N={depth}$, predicted")
        ax.semilogx(alphas, ends[1], "o", color=colour, markersize=4, markerfacecolor="none", label="reached")
    plain = data.norms(kind, data.least[kind]) / data.norms(kind, data.sparse[kind])
    ax.axhline(float(np.median(plain)), color=COLOURS["grey"], linewidth=1, linestyle=":")
    place = {"xytext": (0, -3), "textcoords": "offset points", "va": "top"}
    ax.annotate("least ℓ₂ norm", (s.vanishing, float(np.median(plain))), size=7, **place)
    ax.set_xlabel(r"$\alpha$, size of the layers to the $N$")


def tables(data: NetworkBiasData) -> list[Table]:
    """The limits in the plane."""
    rows = [
        (kind, alpha, *map(float, data.planned[kind][i]), *map(float, data.paths[kind][i][-1]))
        for kind in KINDS
        for i, alpha in enumerate(data.settings.start)
    ]
    columns = ["network", "α", "predicted β₁", "β₂", "reached β₁", "β₂"]
    return [Table("Limits for one sample", columns, rows)]


def numbers(data: NetworkBiasData) -> dict[str, Any]:
    """Predicted and reached limits."""
    found = {
        kind: {
            "predicted": [[[one.predicted.coefficients for one in row] for row in draw] for draw in data.pairs[kind]],
            "reached": [[[one.reached for one in row] for row in draw] for draw in data.pairs[kind]],
            "gap": [[[one.predicted.gap for one in row] for row in draw] for draw in data.pairs[kind]],
            "sparse": data.sparse[kind],
        }
        for kind in data.pairs
    }
    return {"alpha": data.settings.alphas, "plane": data.paths, "planned": data.planned, **found}


def setup(data: NetworkBiasData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Plane": "x = (1, 2), y = 1; two layers, α I and α (1, −0.4), so all networks start at the same coefficients "
        f"(purple), α = {', '.join(number(a) for a in s.start)}; open circles are predicted",
        "Diagonal": f"{s.n} orthonormal samples, {s.d} coefficients, two of them ±1; all layers equal",
        "Circular": f"{s.n} even samples with {s.d} frequencies, two of the solution's ±1; filters α^(1/N) δ, and "
        "the last filter 0",
        "Runs": f"the flow, to {number(s.until)} of the initial gap; {s.seeds} draws; depths "
        + ", ".join(map(str, s.depth)),
    }


experiment = PaperFigure(
    "network_bias",
    "Which solution a network finds",
    "One regression, three linear networks that start at the same coefficients. If they start small, the fully "
    "connected one ends near the least ℓ₂ norm, the diagonal one near the least ℓ₁ norm, and the circular one near "
    "the least ℓ₁ norm of the spectrum. `predicted_limit` gives the solution before the run, for any size of the "
    "start, as a convex program with its duality gap.",
    "Yun, Krishnan & Mobahi 2021, figure 1 and theorems 4 to 7; starts of its figure not known exactly",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=NetworkBiasSettings,
    paper="Yun, Krishnan & Mobahi 2021",
)
