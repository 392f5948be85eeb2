"""The figure of the turning neurons: their paths in the plane of the data, and the loss below its guarantee."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linflow import plots, relu

INSTANTS, FAR = 120, 2.2
"""Instants at which paths are drawn, and how far the longest arrow reaches in the plane of the data."""

COLOURS = {1.0: plots.COLOURS["blue"], -1.0: plots.COLOURS["vermillion"]}
"""The colour of a class."""


def tips(layers: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return where the arrows of neurons end: in their direction, the length `‖u(0)‖ (‖u(t)‖/‖u(0)‖)^p`.

    A small start grows by factors of a thousand. The power p ≤ 1 is the same for all, and shows the longest at `FAR`.

    Args:
        layers: weights along the run, shape `(times, 2, h)`.
        first: the neurons as they are drawn at the start, shape `(2, h)`.
    """
    begin, length = np.linalg.norm(first, axis=0), np.linalg.norm(layers, axis=1)
    growth = length / np.where(length[0] > 0, length[0], 1.0)
    largest, longest = float(growth.max()), float(begin.max())
    power = min(1.0, math.log(max(FAR / longest, 1.0 + 1e-9)) / math.log(largest)) if largest > 1 < FAR else 1.0
    scale = begin * growth**power / np.where(length > 0, length, 1.0)
    return layers * scale[:, None, :]


def figure(
    X: np.ndarray, y: np.ndarray, first: np.ndarray, run: relu.Trajectory, cert: relu.Certificate, t: float
) -> Any:
    """Draw both, and return the axes of the plane."""
    _, axes = plots.figure(7.0, 3.2, ncols=2)
    _plane(axes[0], X, y, first, run, t)
    gap = run.gap / run.gap[0]
    axes[1].semilogy(run.t, gap, color=plots.COLOURS["black"], label="loss")
    if cert.best:
        times = np.linspace(t, run.t[-1], INSTANTS)
        bound = np.array([cert.gap_at(x - t) for x in times]) / run.gap[0]
        axes[1].semilogy(times, bound, "--", color=plots.COLOURS["purple"], label="guaranteed from here")
    at = np.array([flip.t for flip in run.flips])
    if at.size:
        axes[1].plot(at, np.interp(at, run.t, gap), "|", color=plots.COLOURS["grey"], markersize=9, label="a flip")
    axes[1].axvline(t, color=plots.COLOURS["grey"], linewidth=0.8)
    axes[1].set(xlabel="$t$", ylabel="loss / initial loss")
    axes[1].legend(loc="lower left")
    return axes[0]


def _plane(ax: Any, X: np.ndarray, y: np.ndarray, first: np.ndarray, run: relu.Trajectory, t: float) -> None:
    """Draw the samples, the lines on which a neuron flips, and the neurons."""
    times = np.linspace(0.0, run.t[-1], INSTANTS)
    nets = [run.network_at(float(x)) for x in times]
    ends = tips(np.array([net.U for net in [*nets, run.network_at(t)]]), first)
    for x, label in zip(X, y, strict=True):
        if np.any(x):
            ax.axline((0, 0), (-x[1], x[0]), color=plots.COLOURS["grey"], linewidth=0.6, linestyle=":")
        ax.plot(*x, "P" if label > 0 else "X", color=COLOURS[float(label)], markersize=8)
    for j, v in enumerate(run.start.V[:, 0]):
        colour = COLOURS[1.0 if v > 0 else -1.0]
        ax.plot(*ends[:-1, :, j].T, color=colour, linewidth=1.0)
        ax.annotate("", ends[-1, :, j], (0, 0), arrowprops={"arrowstyle": "->", "color": colour})
        ax.plot(*first[:, j], "o", color=colour, markersize=3)
    ax.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    ax.set_title("Samples, and neurons at $t$")
