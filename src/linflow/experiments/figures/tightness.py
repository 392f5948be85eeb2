"""How tight the bounds are: bound, optimum and actual `λ_min(T)` of random starts of many shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from linflow import bounds, init
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network
from linflow.plots import COLOURS, figure

SCALARS = "scalars, L = 3, 4"
TWO_UNEQUAL, TWO_SQUARE = "two layers, n ≠ m", "two layers, n = m"
THREE_UNEQUAL, THREE_SQUARE = "three layers, n ≠ m", "three layers, n = m"
FOUR = "four layers, 2 × 2"
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    SCALARS: ((1, 1, 1, 1), (1, 1, 1, 1, 1)),
    TWO_UNEQUAL: ((3, 4, 2), (2, 3, 4), (4, 4, 2), (1, 3, 3)),
    TWO_SQUARE: ((2, 3, 2), (2, 2, 2), (3, 4, 3), (3, 3, 3)),
    THREE_UNEQUAL: ((2, 3, 2, 3), (3, 3, 3, 2), (2, 3, 3, 1), (1, 2, 2, 3)),
    THREE_SQUARE: ((2, 3, 3, 2), (2, 2, 2, 2), (2, 4, 3, 2), (3, 3, 3, 3)),
    FOUR: ((2, 2, 2, 2, 2),),
}
FAMILIES = ("Gaussian", "scaled layers", "near balanced", "unimodal")
EXCESS, FEASIBLE, EQUAL = 1e-6, 1e-8, 1e-6
LEAST = {TWO_SQUARE: 0.8, THREE_UNEQUAL: 0.9, THREE_SQUARE: 0.8, FOUR: 0.6}  # medians of bound over optimum
NEW = "operator_intervals"  # in the source of each theorem that the second of three bounds leaves out
CENTRED = {"ha": "center", "va": "center"}
FLOOR = 1e-3  # ratios below it share one place in the figure


@dataclass(frozen=True)
class TightnessSettings(Settings):
    """Families, how many starts of each, and how often the optimum is searched for."""

    start: tuple[str, ...] = setting(FAMILIES, "the families of starts", among=FAMILIES)
    seeds: int = setting(3, "the starts of each shape and family, where the bound is not exact")
    exact: int = setting(2, "the starts of each shape and family, where it is exact")
    searches: int = setting(6, "the searches for each optimum")

    def draws(self, kind: str) -> int:
        """The number of starts of each family that a kind has."""
        return self.exact if kind in (SCALARS, TWO_UNEQUAL) else self.seeds


@dataclass(frozen=True)
class MeasuredStart:
    """A start and what was measured on it; the bounds, the optimum and the actual value are of `λ_min(T)`."""

    kind: str
    family: str
    widths: tuple[int, ...]
    published: float
    before: float  # the best bound without operator intervals
    bound: float
    theorem: str
    optimum: float
    attained: float  # by the weights the search returned
    actual: float
    dense: float  # the actual value, by the dense T
    best: float  # the bound, by `bounds.best`
    size: float  # λ_max(T)
    residual: float
    hits: int


def _draw(family: str, widths: tuple[int, ...], rng: np.random.Generator) -> Network:
    if family == "unimodal":
        return _unimodal(widths, rng)
    if family == "near balanced":
        noise = 10.0 ** rng.uniform(-3, -1)
        layers = init.balanced(widths, rng=rng).weights
        return Network([W + noise * rng.standard_normal(W.shape) for W in layers])
    net = init.gaussian(widths, rng=rng)
    return Network([10.0 ** rng.uniform(-0.5, 0.5) * W for W in net.weights]) if family == "scaled layers" else net


def _unimodal(widths: tuple[int, ...], rng: np.random.Generator) -> Network:
    """Return aligned modes whose squares fall up to one layer, the same for all modes, and rise from there."""
    count, target = min(widths[0], widths[-1]), rng.standard_normal((widths[0], widths[-1]))
    heights = np.cumsum(rng.exponential(1.0, (len(widths) - 1, count)), axis=0)
    squares = rng.exponential(0.3, count) + np.abs(heights - heights[rng.integers(len(heights))])
    return init.spectral(widths, target, np.sqrt(squares), rng=rng)


def _measure(
    kind: str, family: str, widths: tuple[int, ...], rng: np.random.Generator, searches: int = 1
) -> MeasuredStart:
    net = _draw(family, widths, rng)
    found = bounds.optimum(net, searches, rng=rng)
    every = [bound for bound in bounds.table(net) if bound.applies]
    published = [float(bound.value) for bound in every if bound.theorem.citation != "linflow"]
    before = [float(bound.value) for bound in every if NEW not in bound.theorem.source]
    best = max(every, key=lambda bound: float(bound.value))
    T = TangentOperator(net)
    return MeasuredStart(
        kind,
        family,
        widths,
        max(published, default=0.0),
        max(before),
        float(best.value),
        best.name,
        found.value - found.rounding,
        float(TangentOperator(found.network).least_eigenvalue()),
        float(T.least_eigenvalue()),
        float(np.linalg.eigvalsh(T.dense())[0]),
        float(bounds.best(net).value),
        float(T.greatest_eigenvalue()),
        found.residual,
        found.hits,
    )


def _column(starts: Sequence[MeasuredStart], name: str) -> np.ndarray:
    return np.array([getattr(start, name) for start in starts], dtype=float)


def _ratio(starts: Sequence[MeasuredStart], name: str, to: str = "optimum") -> np.ndarray:
    return _column(starts, name) / _column(starts, to)


def _of(starts: Sequence[MeasuredStart], *kinds: str) -> list[MeasuredStart]:
    return [start for start in starts if start.kind in kinds]


@dataclass(frozen=True)
class TightnessData:
    """All starts, kind by kind."""

    settings: TightnessSettings
    starts: list[MeasuredStart]


def compute(s: TightnessSettings, seed: int, progress: Progress) -> TightnessData:
    """Bound every start and search for its optimum."""
    rng = np.random.default_rng(seed)
    plan = [
        (kind, family, shapes[(i + k * len(shapes) // 2) % len(shapes)])
        for kind, shapes in SHAPES.items()
        for i, family in enumerate(s.start)
        for k in range(s.draws(kind))
    ]
    starts = []
    for i, (kind, family, widths) in enumerate(plan):
        progress(i / len(plan), kind)
        starts.append(_measure(kind, family, widths, rng, s.searches))
    return TightnessData(s, starts)


def claims(data: TightnessData) -> Iterable[Claim | LeftOut]:
    """State that bound, optimum and actual value are in order, and how much of the optimum is certified."""
    yield from _order_claims(data.starts)
    changes = data.settings.changes("start", "seeds", "exact", "searches")
    for kind, least in LEAST.items():
        yield from about_these(changes, [_rise_claim(kind, _of(data.starts, kind), least)])
    before, after = (int((_column(data.starts, name) > 0).sum()) for name in ("published", "bound"))
    yield Claim(
        "The best bound is positive at every start",
        f"at {after} of {len(data.starts)}; the published ones at {before}",
        after == len(data.starts),
        (before, after),
    )


def _order_claims(starts: Sequence[MeasuredStart]) -> Iterable[Claim]:
    """Claim bound ≤ optimum ≤ actual value, and that each value is what its name says."""
    bound, optimum, size = (_column(starts, name) for name in ("bound", "optimum", "size"))
    yield Claim.within(
        f"No bound exceeds the optimum by more than {number(EXCESS)} of λ_max(T)",
        float(np.max((bound - optimum) / size)),
        high=EXCESS,
    )
    actual, dense = _column(starts, "actual"), _column(starts, "dense")
    yield Claim.within(
        "Drawn as actual value is the least eigenvalue of the dense T: error over λ_max(T)",
        float(np.max(np.abs(actual - dense) / size)),
        0,
        1e-12,  # rounding of two eigensolvers
    )
    yield Claim.same("Drawn as best bound is `bounds.best`", bound, _column(starts, "best"), 1e-12)
    share = _ratio(starts, "optimum", to="actual")
    yield Claim.within("The optimum never exceeds the actual λ_min(T): their ratio", share, 0, 1)
    yield Claim.within(
        "The weights that the search found attain the optimum: error over λ_max(T)",
        float(np.max(np.abs(_column(starts, "attained") - optimum) / size)),
        0,
        1e-12,
    )
    yield Claim.within(
        f"These weights have the imbalances and the product of their start, to a relative {number(FEASIBLE)}",
        float(_column(starts, "residual").max()),
        0,
        FEASIBLE,
    )
    for kind, name, text in (
        (SCALARS, "bound", "Scalars: the bound is the optimum"),
        (TWO_UNEQUAL, "published", "Two layers, n ≠ m: the published bound is the optimum"),
    ):
        error = float(np.abs(_ratio(_of(starts, kind), name) - 1).max())
        yield Claim.within(f"{text}, to a relative {number(EQUAL)}", error, 0, EQUAL)


def _rise_claim(kind: str, chosen: Sequence[MeasuredStart], least: float) -> Claim:
    """Claim that this library raises the median of bound over optimum, to `least` or more."""
    published, before, after = (float(np.median(_ratio(chosen, name))) for name in ("published", "before", "bound"))
    return Claim(
        f"{kind[0].upper()}{kind[1:]}: the median of bound over optimum rises, to {least} or more",
        f"{number(published)} of published bounds, {number(before)} without operator intervals, {number(after)} now; "
        f"{len(chosen)} starts",
        published <= before <= after and published < after and after >= least,
        (published, before, after),
    )


def draw(data: TightnessData) -> Any:
    """Draw bound over optimum by kind, and all three values of each start."""
    fig, axes = figure(7.2, 3.6, ncols=2, width_ratios=(1.1, 1))
    _draw_ratios(axes[0], data.starts)
    _draw_values(axes[1], data.starts)
    return fig


def tables(data: TightnessData) -> list[Table]:
    """Medians of bound over optimum, by kind and by family."""
    columns = ["starts", "published", "no intervals", "now", "least", "bound over actual", "optimum over actual"]
    kinds = {kind: _of(data.starts, kind) for kind in SHAPES}
    loose = _of(data.starts, *LEAST)
    families = {family: [start for start in loose if start.family == family] for family in data.settings.start}
    return [
        Table(
            "Bound over optimum: medians of published ones, of this library without and with operator intervals, and "
            "the least now; medians over the actual value",
            ["kind", *columns],
            [(kind, *_medians(some)) for kind, some in kinds.items()],
        ),
        Table(
            "The same by family, without the two kinds in which the bound is the optimum",
            ["family", *columns],
            [(family, *_medians(some)) for family, some in families.items()],
        ),
    ]


def _medians(chosen: Sequence[MeasuredStart]) -> tuple[float, ...]:
    published, before, bound = (_ratio(chosen, name) for name in ("published", "before", "bound"))
    return (
        len(chosen),
        float(np.median(published)),
        float(np.median(before)),
        float(np.median(bound)),
        float(bound.min()),
        float(np.median(_ratio(chosen, "bound", "actual"))),
        float(np.median(_ratio(chosen, "optimum", "actual"))),
    )


def numbers(data: TightnessData) -> dict[str, Any]:
    """All measured numbers, one column for each."""
    return {field.name: [getattr(start, field.name) for start in data.starts] for field in fields(MeasuredStart)}


def setup(data: TightnessData) -> dict[str, str]:
    """What was drawn and searched, in words."""
    s, starts = data.settings, data.starts
    agreed = int((_column(starts, "hits") > 1).sum())
    return {
        "Shapes": "; ".join(f"{kind}: {', '.join(map(_text, shapes))}" for kind, shapes in SHAPES.items()),
        "Gaussian": "independent N(0, 1) entries",
        "Scaled layers": "the same, each layer times 10^{u}, u uniform on [−½, ½]",
        "Near balanced": "balanced, its product N(0, 1); plus N(0, 10^{2u}) entries, u uniform on [−3, −1]",
        "Unimodal": "aligned singular vectors; the squares of each mode fall up to one layer and rise from there",
        "Starts": f"{len(starts)}: {s.seeds} a kind and family, {s.exact} where the bound is exact",
        "Without operator intervals": "the best of all others: "
        + "; ".join(t.name for t in bounds.THEOREMS if t.citation == "linflow" and NEW not in t.source),
        "Published": "the best of: " + "; ".join(t.name for t in bounds.THEOREMS if t.citation != "linflow"),
        "Optimum": f"the least of {s.searches} searches; two or more agree at {agreed} of {len(starts)} starts",
    }


def _text(widths: Sequence[int]) -> str:
    return "×".join(map(str, widths))


def _draw_ratios(ax: Any, starts: Sequence[MeasuredStart]) -> None:
    below = FLOOR / 10**0.5
    ax.axvspan(FLOOR / 10, FLOOR, color="#EEEEEE", linewidth=0)
    ax.axvline(1, color=COLOURS["black"], linewidth=0.8)
    for i, kind in enumerate(SHAPES):
        for name, shift, marker, colour, text in (
            ("published", -0.28, "s", COLOURS["vermillion"], "published"),
            ("before", 0.0, "^", COLOURS["green"], "without operator intervals"),
            ("bound", 0.28, "o", COLOURS["blue"], "now"),
        ):
            ratio, y = _ratio(_of(starts, kind), name), i + shift
            shown, label = ratio[ratio >= FLOOR], text if i == 0 else None
            ax.plot(shown, [y] * len(shown), marker, color=colour, alpha=0.5, markeredgewidth=0, label=label)
            if len(shown) < len(ratio):
                ax.text(below, y, f"{len(ratio) - len(shown)} of {len(ratio)}", color=colour, size=8, **CENTRED)
            if (median := float(np.median(ratio))) >= FLOOR:
                ax.plot([median] * 2, [y - 0.13, y + 0.13], color=colour, linewidth=1.8)
    ax.plot([], [], "|", color=COLOURS["black"], markersize=9, markeredgewidth=1.8, label="median")
    ax.set(xscale="log", xlim=(FLOOR / 10, 1.25), ylim=(len(SHAPES) - 0.5, -0.5), xlabel="bound over optimum")
    ax.set_xticks([below, 1e-2, 1e-1, 1], ["$<10^{-3}$", "$10^{-2}$", "$10^{-1}$", "$1$"])
    minor = [k * FLOOR * 10**j for j in range(3) for k in range(1, 10)]
    ax.set_xticks(minor, [""] * len(minor), minor=True)
    ax.set_yticks(range(len(SHAPES)), list(map(_label, SHAPES)), linespacing=1.0)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="upper center", bbox_to_anchor=(0.52, 1.0))
    ax.set_title("How much of the optimum is certified")


def _label(kind: str) -> str:
    what, _, sizes = kind.partition(", ")
    sizes = sizes.replace("≠", r"\neq").replace("×", r"\times")
    return f"{what}\n${sizes}$"


def _draw_values(ax: Any, starts: Sequence[MeasuredStart]) -> None:
    actual, optimum, bound = (_column(starts, name) for name in ("actual", "optimum", "bound"))
    ends = 0.5 * actual.min(), 2 * actual.max()
    ax.plot(ends, ends, color=COLOURS["black"], linewidth=0.8, label="actual value")
    ax.vlines(actual, bound, optimum, color=COLOURS["grey"], linewidth=0.6)
    for values, marker, size, colour, text in (
        (optimum, "D", 4.5, COLOURS["orange"], "optimum"),
        (bound, "o", 3.2, COLOURS["blue"], "best bound"),
    ):
        ax.plot(actual, values, marker, color=colour, markersize=size, markeredgewidth=0, label=text)
    ax.set(xscale="log", yscale="log", xlabel=r"actual $\lambda_{\min}(T)$", ylabel="bound and optimum")
    ax.legend(loc="upper left")
    ax.set_title("Bound, optimum and actual value")


experiment = PaperFigure(
    "tightness",
    "How tight the bounds are",
    "A bound on λ_min(T) from the imbalances and the product alone cannot exceed the optimum: the least λ_min(T) of "
    "all weights that share them with the start. Left: the best bound over the optimum, by published theorems alone, "
    "with those of this library but for operator intervals, and with all. Right: bound and optimum against the "
    "actual value. No such bound lies between the optimum and the line. A search finds the optimum; what it finds is "
    "an upper estimate, never a certificate. Where the search misses a lower value, the bounds are tighter than they "
    "look.",
    "This library, docs/theory.md, docs/operator_intervals.md; published bounds of Min et al. 2021 and Min, Vidal & "
    "Mallada 2023",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=TightnessSettings,
)
