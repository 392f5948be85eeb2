"""Planes of starts: the phase plane of two scalars, and the map of the norms of two layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from linflow._support import checks
from linflow._support.arrays import from_numpy, singular_values, to_numpy
from linflow.dynamics import Trajectory
from linflow.model.fitting import objective_of
from linflow.model.objectives import Objective
from linflow.plots._canvas import DASHES, MARKERS, Canvas, canvas
from linflow.plots.norm_plane import level_sets, norm_bounds
from linflow.plots.runs import FEW, checked, sound
from linflow.plots.themes import COLOURS


def phase_plane(
    objective: Objective,
    runs: Trajectory | Sequence[Trajectory] = (),
    *,
    reach: float | None = None,
    imbalances: Sequence[float] | None = None,
    ax: Any = None,
    theme: str | None = None,
) -> Any:
    """Draw the plane of two scalar weights: the flow of `f(c·uv)`, its optima, and runs on their hyperbolas.

    The streamlines follow `−∇L`. The thick curve shows the optima `c·uv = w*`. The flow conserves `d = u² − v²`, so
    each run moves along a hyperbola, drawn dashed. Balanced starts, `d = 0`, lie on the diagonals.

    Args:
        objective: An objective on a 1×1 product.
        runs: One or several flows of two 1×1 layers, all with the same output scale c.
        reach: Both axes show −reach to reach. If not given, the axes fit the runs and the optima.
        imbalances: Values of d whose hyperbolas are drawn; those of the runs if not given.
        ax: Axes to draw on; new ones if not given.
        theme: "light" or "dark"; that of the axes if not given.

    Returns:
        The Axes.

    Raises:
        TypeError: `objective` is not an objective, or `runs` are not runs.
        ValueError: the product is larger than 1×1, a run does not have two layers or is a descent, or the scales
            differ.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.array([[2.0]]))
        >>> ax = lf.plots.phase_plane(f, lf.gradient_flow(f, [np.array([[1.5]]), np.array([[-0.5]])]))
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('$u$', '$v$')
    """
    objective = objective_of(objective)
    runs = checked(runs, None)[0] if runs else []
    if tuple(objective.shape) != (1, 1):
        raise ValueError(
            f"the {objective.name} has a {objective.shape[0]}×{objective.shape[1]} product; 1×1 is needed."
        )
    scales = {run.start.scale for run in runs} or {1.0}
    for i, run in enumerate(runs):
        if run.start.widths != (1, 1, 1):
            raise ValueError(f"run {i} is of widths {run.start.widths}; two layers of 1×1 are needed, (1, 1, 1).")
        _flow_only(run, i)
    if len(scales) > 1:
        raise ValueError(f"the runs have output scales {sorted(scales)}; one plane shows one of them.")
    scale = scales.pop()
    target = None if objective.minimizer is None else float(to_numpy(objective.minimizer)[0, 0]) / scale
    paths = [_path(run, lambda net: [float(W[0, 0]) for W in net.weights]) for run in runs]
    if reach is None:
        far = max([1.0, *(np.abs(path).max() for path in paths)])
        reach = 1.12 * max(far, 1.5 * math.sqrt(abs(target or 0.0)))
    reach = checks.positive(reach, "reach")
    c = canvas(ax, theme, aspect=0.97)
    _stream(c, objective, scale, reach)
    starts = [path[0] for path in paths]
    drawn = [(u - v) * (u + v) for u, v in starts] if imbalances is None else list(imbalances)
    for i, d in enumerate(drawn):
        colour = c.theme.cycle[i % 6] if imbalances is None and len(runs) <= FEW else c.colour("grey")
        _level(c, float(d), reach, colour)
    for sign in (1, -1):
        c.ax.plot(
            [-reach, reach], [-sign * reach, sign * reach], ":", color=c.colour("grey"), linewidth=0.7, zorder=1
        )
    if target is not None:
        _optima(c, target, reach, "uv" if scale == 1 else r"c\,uv")
    for i, path in enumerate(paths):
        colour = c.theme.cycle[i % 6] if len(paths) <= FEW else c.colour("blue")
        c.ax.plot(*path.T, color=colour, linewidth=1.3 * c.line, solid_capstyle="round", zorder=4, label=f"_run {i}")
        c.ax.plot(
            *path[0], MARKERS[i % 6 if len(paths) <= FEW else 0], color=colour, markersize=0.6 * c.size,
            markeredgecolor=c.theme.paper, markeredgewidth=0.5, zorder=5,
        )  # fmt: skip
    if target:
        c.ax.plot(0, 0, "s", color=c.theme.paper, markeredgecolor=c.theme.ink, markersize=0.5 * c.size, zorder=5)
    c.ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="$u$", ylabel="$v$", aspect="equal")
    if len(paths) <= FEW:
        _name_starts(c, starts, reach)
    return c.ax


def _stream(c: Canvas, objective: Objective, scale: float, reach: float) -> None:
    """Draw the field `−∇L = −c f'(c·uv)·(v, u)` as streamlines."""
    axis = np.linspace(-reach, reach, 41)
    u, v = np.meshgrid(axis, axis)
    like = np.zeros((1, 1)) if objective.minimizer is None else objective.minimizer
    products, where = np.unique(u * v, return_inverse=True)
    slopes = np.array(
        [float(to_numpy(objective.gradient(from_numpy(np.array([[scale * w]]), like)))[0, 0]) for w in products]
    )
    pull = -scale * slopes[where].reshape(u.shape)
    c.ax.streamplot(
        axis, axis, pull * v, pull * u, color=c.theme.muted, linewidth=0.6, arrowsize=0.6, density=0.8, zorder=0
    )


def _level(c: Canvas, d: float, reach: float, colour: Any) -> None:
    """Draw both branches of `u² − v² = d`."""
    s = np.linspace(-1.2 * reach, 1.2 * reach, 201)
    far = np.sqrt(abs(d) + s**2)
    for sign in (1, -1):
        curve = (sign * far, s) if d >= 0 else (s, sign * far)
        c.ax.plot(*curve, linestyle=DASHES, color=colour, linewidth=0.5 * c.line, alpha=0.8, zorder=1, label="_level")


def _optima(c: Canvas, target: float, reach: float, product: str) -> None:
    """Draw the curve `uv = w*/c`, and its name at the point where it leaves the plane."""
    look = {"color": c.theme.ink, "linewidth": 1.4 * c.line, "zorder": 3}
    if target == 0:
        c.ax.axhline(0, **look)
        c.ax.axvline(0, label="_optima", **look)
        return
    near = abs(target) / (1.2 * reach)
    if near >= 1.2 * reach:
        return
    branch = np.geomspace(near, 1.2 * reach, 200)
    for sign in (1, -1):
        c.ax.plot(sign * branch, target / (sign * branch), label="_optima", **look)
    top = 0.93 * reach
    if abs(target) / top < 0.5 * reach:
        c.text(
            target / top + 0.04 * reach * math.copysign(1, target), top, rf"${product}=w^\ast$", va="center",
            ha="left" if target > 0 else "right", zorder=6,
        )  # fmt: skip


def _name_starts(c: Canvas, starts: Sequence[np.ndarray], reach: float) -> None:
    """Write the imbalance of each run next to its start, on the side away from the centre."""
    for i, (u, v) in enumerate(starts):
        d = (u - v) * (u + v)
        below = v < 0
        c.ax.annotate(
            f"$d={0.0 if abs(d) < 1e-12 else d:.3g}$", (u, v), xytext=(0, -4 if below else 4),
            textcoords="offset points", color=c.theme.text(c.theme.cycle[i % 6]), zorder=7,
            ha="right" if u > 0.75 * reach else "left" if u < -0.75 * reach else "center",
            va="top" if below else "bottom", path_effects=c.halo(), **c.font(),
        )  # fmt: skip


def init_map(
    objective: Objective,
    runs: Trajectory | Sequence[Trajectory] = (),
    *,
    reach: float | None = None,
    threshold: float = 1.0,
    show: str = "regions",
    points: int = 81,
    plane: Mapping[str, np.ndarray] | None = None,
    ax: Any = None,
    theme: str | None = None,
) -> Any:
    """Draw the plane of the norms of two layers, and mark the starts that are certified.

    A point (a, b) stands for the start `W_1 = aUQᵀ`, `W_2 = bQVᵀ`. Here U and V are the singular vectors of the
    minimiser `W* = U diag(σ) Vᵀ`, and Q has orthonormal columns. The product is `ab·UVᵀ`, and the imbalance is
    `a² − b²` on `min(n, m)` modes. A start is certified if the two-layer bound guarantees a rate of at least
    `γ·threshold`. The regions show the starts certified by the imbalance alone and by the margin alone (for n = m).
    The solid line encloses the starts certified by both together.

    Args:
        objective: Strongly convex, with a known minimiser.
        runs: One or several flows of two layers, drawn by the spectral norms of their layers.
        reach: Both axes show 0 to reach; 2.2 times the square root of `‖W*‖` if not given.
        threshold: Guaranteed `λ_min(T)` from which a start counts as certified; 1 is the value without layers.
        show: "regions", or "rate" for the rate of the two-layer bound over γ in colours (`certify` can give more).
        points: Grid points along each axis.
        plane: Bounds at these points from `norm_bounds`; computed if not given.
        ax: Axes to draw on; new ones if not given.
        theme: "light" or "dark"; that of the axes if not given.

    Returns:
        The Axes.

    Raises:
        TypeError: `objective` is not an objective, or `runs` are not runs.
        ValueError: the objective is not strongly convex or has no known minimiser, or a run is not a two-layer flow.

    Source: bound of Min, Tarmoun, Vidal & Mallada, arXiv 2105.06351v2, Proposition 1.

    Example:
        >>> import numpy as np, linflow as lf
        >>> ax = lf.plots.init_map(lf.MatrixFactorization(np.eye(2)), points=21)
        >>> sorted({text.get_text() for text in ax.texts} & {"imbalance", "margin", "neither"})
        ['imbalance', 'margin', 'neither']
    """
    objective = objective_of(objective)
    show = checks.choice(show, "show", ("regions", "rate"))
    points = checks.count(points, "points", 5)
    threshold = checks.positive(threshold, "threshold")
    if objective.strong_convexity == 0 or objective.minimizer is None:
        raise ValueError(
            f"the {objective.name} has no strong convexity or no known minimiser, so no start has a margin; the map "
            "needs both."
        )
    runs = checked(runs, None)[0] if runs else []
    for i, run in enumerate(runs):
        if run.start.depth != 2:
            raise ValueError(f"run {i} has {run.start.depth} layers; the plane is for two.")
        _flow_only(run, i)
    s = to_numpy(singular_values(objective.minimizer))
    paths = [_path(run, lambda net: [float(singular_values(W)[0]) for W in net.weights]) for run in runs]
    if reach is None:
        reach = max([2.2 * math.sqrt(float(s[0])), *(1.08 * float(path.max()) for path in paths)])
    axis = np.linspace(0, checks.positive(reach, "reach"), points)
    c = canvas(ax, theme, aspect=0.95)
    alphas = plane or norm_bounds(objective, axis, axis[:, None])
    if show == "rate":
        _rate_colours(c, axis, alphas["both"])
    else:
        _regions(c, axis, alphas, threshold)
    _levels(c, reach, on_colours=show == "rate")
    for i, path in enumerate(paths):
        colour = c.theme.cycle[(i + 1) % 6] if show == "regions" else COLOURS["vermillion"]
        c.ax.plot(*path.T, color=colour, linewidth=1.2 * c.line, zorder=4, label=f"_run {i}")
        c.ax.plot(
            *path[0], MARKERS[i % 6], color=colour, markersize=0.6 * c.size, markeredgecolor=c.theme.ink,
            markeredgewidth=0.4, zorder=5,
        )  # fmt: skip
    c.ax.set(xlim=(0, reach), ylim=(0, reach), xlabel=r"$\Vert W_1\Vert$", ylabel=r"$\Vert W_2\Vert$", aspect="equal")
    return c.ax


def _regions(c: Canvas, axis: np.ndarray, alphas: Mapping[str, np.ndarray], threshold: float) -> None:
    """Tint the regions certified by imbalance or margin alone, outline the region of both together, and name them."""
    for name, colour, hatch in (("imbalance", "sky", ""), ("margin", "orange", "////")):
        if name in alphas and alphas[name].max() > threshold:
            filled = c.ax.contourf(
                axis, axis, alphas[name], [threshold, np.inf], colors=[c.colour(colour)], alpha=0.4, zorder=0,
                hatches=[hatch],
            )  # fmt: skip
            filled.set(linewidth=0, edgecolor=(*to_rgb(c.colour(colour)), 0.6))
    if alphas["both"].max() > threshold:
        c.ax.contour(axis, axis, alphas["both"], [threshold], colors=c.theme.ink, linewidths=1.1 * c.line, zorder=3)
    certified = {name: alpha >= threshold for name, alpha in alphas.items()}
    alone, margin = certified["imbalance"], certified.get("margin", np.zeros_like(certified["imbalance"]))
    places = [
        (depth, x, y, name)
        for name, mask in (
            ("imbalance", alone & ~margin),
            ("margin", margin & ~alone),
            ("either", alone & margin),
            ("both together", certified["both"] & ~alone & ~margin),
            ("neither", ~certified["both"]),
        )
        for depth, x, y in _middles(axis, mask)
    ]
    high = 1.4 * c.size / 72 / (0.8 * min(c.ax.figure.get_size_inches())) * axis[-1]
    taken = [(0.86 * axis[-1], 0.86 * axis[-1], 3 * high, 3 * high)]  # the label "balanced" along the diagonal
    for _, x, y, name in sorted(places, reverse=True):
        wide = 0.4 * high * len(name)
        if all(abs(x - u) > (wide + w) / 2 or abs(y - v) > (high + h) / 2 for u, v, w, h in taken):
            c.text(x, y, name, ha="center", va="center", zorder=6)
            taken.append((x, y, wide, high))


def _middles(axis: np.ndarray, mask: np.ndarray) -> Iterator[tuple[float, float, float]]:
    """Yield the depth and the coordinates of the middle of each connected part of a region with room for a name."""
    from scipy import ndimage  # noqa: PLC0415 - slow to import, and needed for this figure alone

    parts = np.zeros(mask.shape, dtype=np.int32)
    ndimage.label(mask, output=parts)
    step = axis[1] - axis[0]
    for part in range(1, int(parts.max()) + 1):
        inside = np.pad(parts == part, 1)
        # Text is wider than high, so horizontal distances count for less.
        depth = np.asarray(ndimage.distance_transform_edt(inside, sampling=(2.2, 1)))[1:-1, 1:-1]
        i, j = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth[i, j] * step > 0.045 * axis[-1]:
            yield float(depth[i, j]), float(axis[j]), float(axis[i])


def _rate_colours(c: Canvas, axis: np.ndarray, alpha: np.ndarray) -> None:
    top = float(alpha.max())
    mesh = c.ax.contourf(axis, axis, alpha, np.linspace(0, top, 25), cmap="cividis", zorder=0)
    levels = [x for x in (1, 2, 3, 4, 6, 8) if x < top]
    lines = c.ax.contour(axis, axis, alpha, levels, colors="white", linewidths=0.6 * c.line, zorder=2)
    c.ax.clabel(lines, fmt="%g", fontsize=c.size)
    bar = c.ax.figure.colorbar(mesh, ax=c.ax, aspect=25, shrink=0.9, ticks=MaxNLocator(5, steps=[1, 2, 5, 10]))
    bar.outline.set_visible(False)
    bar.ax.tick_params(
        labelsize=c.size, colors=c.theme.ink, width=0.6, labelfontfamily=c.ax.xaxis.label.get_fontfamily()
    )
    text = r"rate of the two-layer bound over $\gamma$"
    bar.set_label(text, color=c.theme.ink, **{**c.font(), "fontsize": c.size + 1})


def _levels(c: Canvas, reach: float, *, on_colours: bool) -> None:
    """Draw the hyperbolas along which flows move, and the balanced line."""
    colour = "white" if on_colours else c.colour("grey")
    for curve in level_sets(reach).values():
        c.ax.plot(*curve, color=colour, linewidth=0.4 * c.line, alpha=0.7, zorder=1, label="_level")
    c.ax.plot([0, reach], [0, reach], linestyle=DASHES, color=colour, linewidth=0.7 * c.line, zorder=2,
              label="_balanced")  # fmt: skip
    if not on_colours:
        c.text(0.86 * reach, 0.88 * reach, "balanced", rotation=45, rotation_mode="anchor", ha="center", va="bottom")


def _path(run: Trajectory, read: Any) -> np.ndarray:
    """Return what `read` computes from the weights along a flow, shape `(N, 2)`, densely at the beginning."""
    end = float(to_numpy(run.t)[sound(run) - 1])
    times = np.union1d(np.linspace(0, end, 80), np.geomspace(1e-4 * end, end, 80)) if end > 0 else np.zeros(1)
    return np.array([read(run.network_at(min(float(t), end))) for t in times])


def _flow_only(run: Trajectory, i: int) -> None:
    if run.objective is None:
        what = "is a descent" if run.algorithm == "descent" else "was read from a file"
        raise ValueError(f"run {i} {what}, which keeps no weights along the way; a run of gradient_flow is needed.")
