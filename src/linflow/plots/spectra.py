"""Plots of spectra: of the imbalance at the start, and of T and the product along a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from linflow import bounds
from linflow._support import checks
from linflow._support.arrays import singular_values as sigmas
from linflow._support.arrays import to_numpy
from linflow.dynamics import Trajectory
from linflow.geometry.imbalance import imbalance_spectrum as spectrum_of
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network
from linflow.model.spectrum import ImbalanceSpectrum
from linflow.plots._canvas import DASHES, Canvas, canvas, from_zero, label_ends, log_ticks, spread_apart
from linflow.plots.runs import checked, sound

if TYPE_CHECKING:
    from linflow.model.objectives import Objective

ALL_EIGENVALUES = 64
"""Largest size `nm` of T for which all its eigenvalues are drawn."""
REFINED = 200_000
"""Largest number of weights for which a flow is integrated again between its records, for smooth curves."""


def imbalance_spectrum(
    network: Network | Sequence[Any] | ImbalanceSpectrum,
    n: int | None = None,
    m: int | None = None,
    ax: Any = None,
    *,
    layer: int | None = None,
    theme: str | None = None,
) -> Any:
    """Draw the n largest and the m smallest eigenvalues of an imbalance, with its spectral gap and spreads.

    The spectral gap `Δ = [λ_n(D)]_+ + [λ_m(−D)]_+` is the band between the two groups. Brackets beside them show the
    spreads `Δ₊ = [λ_1(D)]_+ − [λ_n(D)]_+` and `Δ₋ = [λ_1(−D)]_+ − [λ_m(−D)]_+`. If there are many eigenvalues between
    the groups, they are not drawn. For two layers, they are zero.

    Args:
        network: A `Network` or its weights; or an `ImbalanceSpectrum`, which also needs n and m.
        n: Number of rows of the product; only for an `ImbalanceSpectrum`.
        m: Number of columns of the product; only for an `ImbalanceSpectrum`.
        ax: Axes to draw on; new ones if not given.
        layer: `l` of the imbalance `D_l`. If not given and there are several, all are drawn side by side, without
            brackets.
        theme: "light" or "dark"; that of the axes if not given.

    Returns:
        The Axes.

    Raises:
        ValueError: the network has a single layer, there is no such layer, n and m are missing for an
            `ImbalanceSpectrum`, or n, m or `layer` is given but already known.

    Example:
        >>> import linflow as lf
        >>> ax = lf.plots.imbalance_spectrum(lf.init.gaussian((4, 30, 3), rng=0))
        >>> len(ax.lines[0].get_xdata()), len(ax.lines[1].get_xdata())
        (4, 3)
    """
    if isinstance(network, ImbalanceSpectrum):
        if n is None or m is None:
            raise ValueError("n and m, the sides of the product, are needed with an ImbalanceSpectrum.")
        if layer is not None:
            raise ValueError(f"layer is {layer!r}, but the ImbalanceSpectrum is of one layer already; leave it out.")
        found, first = [network], None
        n, m = checks.count(n, "n"), checks.count(m, "m")
    else:
        if n is not None or m is not None:
            raise ValueError("n and m follow from the network; leave them out. A layer is chosen by layer=.")
        net = Network.of(network)
        if net.depth == 1:
            raise ValueError("a single layer has no imbalance; two layers or more are needed.")
        (n, m), first = net.shape, 1 if layer is None else layer
        found = [spectrum_of(net, l) for l in (range(1, net.depth) if layer is None else (layer,))]
        first = None if net.depth == 2 else first
    c = canvas(ax, theme, aspect=0.8)
    at, ticks = 0.0, []
    for i, spectrum in enumerate(found):
        name = "D" if first is None else f"D_{{{first + i}}}"
        at, marks = _stems(c, spectrum, n, m, at, name, measured=len(found) == 1)
        ticks += marks
    c.ax.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
    c.ax.tick_params(axis="x", which="minor", bottom=False)
    c.ax.set(xlabel="index", ylabel=f"eigenvalue of ${'D' if first is None else 'D_l'}$" if len(found) > 1 or first
             is None else f"eigenvalue of $D_{{{first}}}$")  # fmt: skip
    return c.ax


def _stems(
    c: Canvas, spectrum: ImbalanceSpectrum, n: int, m: int, at: float, name: str, *, measured: bool
) -> tuple[float, list[tuple[float, str]]]:
    """Draw one spectrum starting at x = at. Return where the next one can begin, and the ticks."""
    values = to_numpy(spectrum.eigenvalues)
    h = len(values)
    tops, lows = min(n, h), min(m, max(h - n, 0))
    middle = values[tops : h - lows]
    full = len(middle) <= max(4, (tops + lows) // 2)
    between = len(middle) if full else 2
    x_top = at + np.arange(1, tops + 1)
    x_low = at + tops + between + np.arange(1, lows + 1)
    for x, y, marker, colour in (
        (x_top, values[:tops], "o", c.colour("blue")),
        (x_low, values[h - lows :], "s", c.colour("vermillion")),
    ):
        c.ax.vlines(x, 0, y, color=colour, linewidth=0.5 * c.line, alpha=0.7, zorder=2)
        c.ax.plot(x, y, marker, color=colour, markersize=0.45 * c.size, zorder=3, label=f"_{name}")
    breaks = [at + 0.4, at + tops + between + lows + 0.6]
    if full and between:
        c.ax.plot(at + tops + np.arange(1, between + 1), middle, ".", color=c.colour("grey"), markersize=0.4 * c.size)
    elif between:
        breaks[1:1] = [at + tops + 0.6, at + tops + 2.4]
        c.ax.plot(
            at + tops + np.array([1.1, 1.5, 1.9]), [0, 0, 0], ".", color=c.theme.ink, markersize=1.5, label="_between"
        )
    for left, right in zip(breaks[::2], breaks[1::2], strict=True):
        c.ax.plot([left, right], [0, 0], color=c.theme.ink, linewidth=0.5, zorder=1, label="_zero")
    end = at + tops + between + lows
    upper, lower = max(values[n - 1] if n <= h else 0.0, 0.0), min(values[h - m] if m <= h else 0.0, 0.0)
    ticks = [(at + 1, "1"), (at + tops, f"{tops}"), (end, f"{h}")]
    ticks = [tick for i, tick in enumerate(ticks) if i == 0 or tick[0] > ticks[i - 1][0] + 0.5]
    if not measured:
        c.ax.fill_between((at + 0.4, end + 0.6), lower, upper, color=c.colour("sky"), alpha=0.25, linewidth=0)
        c.text(
            at + (tops + between + lows + 1) / 2, 1.0, f"${name}$", ha="center", va="bottom",
            transform=c.ax.get_xaxis_transform(), path_effects=[],
        )  # fmt: skip
        return end + 3, ticks
    c.ax.fill_between((at + 0.4, end + 0.6), lower, upper, color=c.colour("sky"), alpha=0.25, linewidth=0, zorder=0)
    _measures(c, spectrum, (max(values[0], 0.0), upper, lower, min(values[-1], 0.0)), end)
    return end + 3, ticks


def _measures(c: Canvas, spectrum: ImbalanceSpectrum, levels: tuple[float, float, float, float], end: float) -> None:
    """Draw brackets for the spreads and the spectral gap, from top to bottom, with their names and values."""
    unit = end / 40
    x = end + 0.6 + 1.2 * unit
    size = max(levels[0], -levels[3])
    plus, gap, minus = (
        _value(x, size) for x in (spectrum.positive_spread, spectrum.spectral_gap, spectrum.negative_spread)
    )
    texts = (
        (rf"$\Delta_{{{{+}}}}={plus}$", levels[0], levels[1], c.colour("blue")),
        (rf"$\Delta={gap}$", levels[1], levels[2], None),
        (rf"$\Delta_{{{{-}}}}={minus}$", levels[2], levels[3], c.colour("vermillion")),
    )
    tall = 1.3 * c.size / 72 / (0.8 * c.ax.get_position().height * c.ax.figure.get_size_inches()[1])
    middles = np.array([(a + b) / 2 for _, a, b, _ in texts])[::-1]
    low, high = c.ax.get_ylim()
    within = (middles - low) / (high - low)
    # Keep half a line from either end, so that no text crosses an axis.
    parts = 0.5 * tall + (1 - tall) * spread_apart((within - 0.5 * tall) / (1 - tall), tall / (1 - tall))
    heights = (low + (high - low) * parts)[::-1]
    for i, ((text, top, bottom, colour), y) in enumerate(zip(texts, heights, strict=True)):
        at = x + (1.5 * unit if i % 2 else 0)  # the gap is offset from the spreads, because they share end points
        shade = c.theme.ink if colour is None else colour
        c.ax.plot([at, at], [top, bottom], "-", color=shade, linewidth=0.6 * c.line, marker="_",
                  markersize=0.6 * c.size, markeredgewidth=0.6 * c.line, label="_measure")  # fmt: skip
        c.text(x + 4 * unit, y, text, colour=colour, va="center", path_effects=[])
    letters = 9 * 0.55 * c.size / 72 / (0.85 * c.ax.get_position().width * c.ax.figure.get_size_inches()[0])
    c.ax.set_xlim(0, (x + 4 * unit) / max(1 - letters, 0.3))


def _value(x: float, size: float) -> str:
    """Return a number as text for a formula, with a power of ten if two decimals do not suit it.

    Numbers far below `size`, the size of the others, are shown as zero.
    """
    if x < 1e-9 * size or 0.01 <= x < 1e5:  # the first case is rounding
        return f"{x:.2f}"
    digits, exponent = f"{x:.1e}".split("e")
    return rf"{digits}\cdot 10^{{{int(exponent)}}}"


def eigenvalues(
    run: Trajectory,
    objective: Objective | None = None,
    ax: Any = None,
    *,
    named: bool | None = None,
    theme: str | None = None,
) -> Any:
    """Draw the eigenvalues of T along a run, and the best lower bound on the least of them, dashed.

    Along a flow, they are computed from the weights at about seventy instants. Up to `nm` = 64 all are drawn, above
    that only the least and the greatest. The bound at an instant is the best one in `bounds.table` for the weights at
    that instant. A descent, or a run read from a file, keeps no weights along the way. For these, only the recorded
    λ_min(T) is drawn.

    Args:
        run: A run of `gradient_flow`, or another run that recorded "least_eigenvalue".
        objective: The minimised objective; that of the flow if not given. It is needed if it depends on only a part
            of the product and the run does not know it.
        ax: Axes to draw on; new ones if not given.
        named: Whether to name curves at their ends, or in a legend if there is no room. If not given, they are named
            on new axes only.
        theme: "light" or "dark"; that of the axes if not given.

    Returns:
        The Axes.

    Raises:
        TypeError: `run` is not a run.
        ValueError: the run keeps no weights along the way and has no record of "least_eigenvalue".

    Example:
        >>> import numpy as np, linflow as lf
        >>> run = lf.gradient_flow(lf.MatrixFactorization(np.eye(2)), lf.init.gaussian((2, 30, 2), rng=0))
        >>> ax = lf.plots.eigenvalues(run)
        >>> least, bound = (line.get_ydata() for line in ax.lines if line.get_label() in ("_least", "_bound"))
        >>> bool((bound <= least * (1 + 1e-9)).all())
        True
    """
    (run,), _ = checked([run] if isinstance(run, Trajectory) else run, None)
    known = run.objective
    if known is None and run.least_eigenvalue is None:
        raise ValueError(
            f"run has no record of the least eigenvalue; pass record=('least_eigenvalue',) to {_maker(run)}."
        )
    c = canvas(ax, theme, named=named)
    ends = []
    if known is None:
        k = sound(run)
        t, least = to_numpy(run.t)[:k], to_numpy(run.least_eigenvalue)[:k]
        c.ax.plot(t, least, color=c.colour("blue"), linewidth=c.line, label="_least")
        ends.append((t[-1], least[-1], r"$\lambda_{\min}(T)$", c.colour("blue")))
        greatest = least.max()
    else:
        t, values, bound = _spectra(run, known if objective is None else objective)
        least, most = values[:, 0], values[:, -1]
        greatest = most.max()
        for inner in values[:, 1:-1].T:
            c.ax.plot(t, inner, color=c.colour("grey"), linewidth=0.4 * c.line, alpha=0.7, label="_inner")
        single = run.start.shape == (1, 1)
        if not single:
            c.ax.plot(t, most, color=c.colour("vermillion"), linewidth=c.line, label="_greatest")
            ends.append((t[-1], most[-1], r"$\lambda_{\max}(T)$", c.colour("vermillion")))
        c.ax.plot(t, least, color=c.colour("blue"), linewidth=c.line, label="_least")
        ends.append((t[-1], least[-1], "$T$" if single else r"$\lambda_{\min}(T)$", c.colour("blue")))
        if bound.max() > 0:
            c.ax.plot(t, bound, linestyle=DASHES, color=c.colour("blue"), linewidth=0.75 * c.line, label="_bound")
            c.ax.fill_between(t, bound, least, color=c.colour("blue"), alpha=0.12, linewidth=0, zorder=0)
            ends.append((t[-1], bound[-1], "bound", c.colour("blue")))
    c.ax.set(
        yscale="log" if 0 < 30 * least.min() < greatest else "linear", xlabel="time $t$", ylabel="eigenvalue of $T$"
    )
    c.ax.margins(x=0)
    if c.own:
        if c.ax.get_yscale() == "log":
            log_ticks(c.ax.yaxis)
        label_ends(c, ends)
    return c.ax


def _spectra(run: Trajectory, objective: Objective) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return instants, the ascending eigenvalues of T there, shape `(N, nm)` or `(N, 2)`, and the lower bounds."""
    steps = to_numpy(run.t)[: sound(run)]
    end = float(steps[-1])
    # The integrator's steps are dense where the weights move fast.
    chosen = steps[np.unique(np.linspace(0, len(steps) - 1, 40).astype(int))]
    times = np.union1d(np.linspace(0, end, 30), chosen)
    rows, lows = [], []
    for t in times:
        _, net = objective.effective(run.network_at(min(float(t), end)))
        T = TangentOperator(net)
        small = net.shape[0] * net.shape[1] <= ALL_EIGENVALUES
        ends = () if small else (float(T.least_eigenvalue()), float(T.greatest_eigenvalue()))
        rows.append(np.linalg.eigvalsh(to_numpy(T.dense())) if small else ends)
        lows.append(float(bounds.best(net).value) if net.depth > 1 else net.scale**2)
    return times, np.array(rows), np.array(lows)


def singular_values(
    run: Trajectory,
    objective: Objective | None = None,
    ax: Any = None,
    *,
    named: bool | None = None,
    theme: str | None = None,
) -> Any:
    """Draw the singular values of the product along a run, and their targets, dashed.

    The curves show the modes as they are learned.

    Args:
        run: A run that recorded "singular_values".
        objective: The minimised objective. The singular values of its minimiser are the targets.
        ax: Axes to draw on; new ones if not given.
        named: Whether to name curves at their ends, or in a legend if there is no room. If not given, they are named
            on new axes only.
        theme: "light" or "dark"; that of the axes if not given.

    Returns:
        The Axes.

    Raises:
        TypeError: `run` is not a run.
        ValueError: the run has no record of "singular_values", or the objective has no known minimiser.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.diag([3.0, 1.0])), lf.init.small((2, 4, 2), rng=0)
        >>> ax = lf.plots.singular_values(lf.gradient_flow(f, net, record=("singular_values",)), f)
        >>> [round(float(line.get_ydata()[-1]), 3) for line in ax.lines if line.get_label().startswith("_mode")]
        [3.0, 1.0]
    """
    (run,), _ = checked([run] if isinstance(run, Trajectory) else run, None)
    if run.singular_values is None:
        raise ValueError(f"run has no record of singular values; pass record=('singular_values',) to {_maker(run)}.")
    if objective is not None and objective.minimizer is None:
        raise ValueError(
            f"the {objective.name} has no known minimiser, so there are no targets; leave objective out."
        )
    c = canvas(ax, theme, named=named)
    t, values = _modes(run)
    count = values.shape[1]
    colours = c.theme.cycle
    if count > len(colours):
        shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, count))
        colours = [to_hex(shade) for shade in shades]
    targets = [] if objective is None else to_numpy(sigmas(objective.minimizer))
    for i, target in enumerate(targets):
        c.ax.axhline(
            target, linestyle=DASHES, color=colours[i], linewidth=0.6 * c.line, alpha=0.8, label=f"_target {i + 1}"
        )
    for i in range(count):
        wide = c.line if count <= len(c.theme.cycle) else 0.6 * c.line
        c.ax.plot(t, values[:, i], color=colours[i], linewidth=wide, label=f"_mode {i + 1}")
    c.ax.set(xlabel="time $t$", ylabel=r"singular value $\sigma_k(W)$")
    from_zero(c, c.ax.lines[-1])
    c.ax.margins(x=0)
    if c.own and count <= len(c.theme.cycle):
        label_ends(c, [(t[-1], values[-1, i], rf"$\sigma_{i + 1}$", colours[i]) for i in range(count)])
    return c.ax


def _maker(run: Trajectory) -> str:
    return "gradient_flow" if run.algorithm == "flow" else "gradient_descent"


def _modes(run: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Return instants and the singular values there: the records, and for a small flow also values between them."""
    k = sound(run)
    t, values = to_numpy(run.t)[:k], to_numpy(run.singular_values)[:k]
    weights = sum(int(W.shape[0] * W.shape[1]) for W in run.start.weights)
    if run.objective is not None and weights <= REFINED and k >= 2:
        more = np.setdiff1d(np.linspace(0, t[-1], 200), t)
        found = np.array([to_numpy(sigmas(run.network_at(float(x)).product())) for x in more])
        order = np.argsort(np.concatenate([t, more]))
        t, values = np.concatenate([t, more])[order], np.concatenate([values, found])[order]
    if len(t) > 2000:
        kept = np.unique(np.searchsorted(t, np.union1d(np.linspace(0, t[-1], 800), np.geomspace(t[1], t[-1], 400))))
        t, values = t[kept], values[kept]
    return t, values
