"""Neurons of a ReLU network that turn: the flow from a start, its flips, and what is certified at any time of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from linflow import plots, relu
from linflow.pages.explorer.neurons_figure import figure
from linflow.pages.explorer.state import Given
from linflow.pages.explorer.view import POINTS, View, points
from linflow.relu.aligned import aligned_since

LOSSES = ("exponential", "logistic", "squared")
UNTIL, END, ACCURACY, STEPS = 0.02, 40.0, 1e-5, 400
"""A run ends at this fraction of the initial loss, at this time, or after so many steps; its relative tolerance."""

REACH = 2.4
"""The data and the directions of the neurons lie in a square of this half side."""


@dataclass(frozen=True)
class PlaneStart:
    """Data in the plane and neurons, hashable.

    Attributes:
        X: the coordinates of each sample.
        y: the labels.
        U: the coordinates of each neuron, before they are multiplied by the size.
        signs: the signs of the second layer.
        size: what multiplies both layers; `|v_j| = ‖u_j‖`.
        loss: the name of the loss.
    """

    X: tuple[tuple[float, float], ...]
    y: tuple[float, ...]
    U: tuple[tuple[float, float], ...]
    signs: tuple[float, ...]
    size: float
    loss: str

    @classmethod
    def of(cls, given: Given) -> PlaneStart:
        """Check a state."""
        X = given.numbers("x", -REACH, REACH, (1, 6)), given.numbers("y", -REACH, REACH, (1, 6))
        U = given.numbers("a", -REACH, REACH, (1, 10)), given.numbers("b", -REACH, REACH, (1, 10))
        labels, signs = given.signs("labels", len(X[0])), given.signs("signs", len(U[0]))
        if len(X[1]) != len(X[0]) or len(U[1]) != len(U[0]):
            raise ValueError("x and y, and a and b, must have the same length.")
        rows = [tuple(zip(*pair, strict=True)) for pair in (X, U)]
        size = given.number("size", 1e-6, 1)
        return cls(rows[0], tuple(labels), rows[1], tuple(signs), size, given.choice("loss", LOSSES))

    @property
    def inputs(self) -> np.ndarray:
        """The samples, shape `(N, 2)`."""
        return np.array(self.X)

    @property
    def labels(self) -> np.ndarray:
        """The labels, shape `(N,)`."""
        return np.array(self.y)

    @property
    def network(self) -> relu.Network:
        """The start: small and balanced."""
        U = np.array(self.U).T
        V = np.array(self.signs) * np.linalg.norm(U, axis=0)
        return relu.Network(self.size * U, self.size * V[:, None])

    @property
    def code(self) -> str:
        """The lines of Python that make the start and run from it."""
        X, U = ([list(row) for row in rows] for rows in (self.X, zip(*self.U, strict=True)))
        return (
            "import numpy as np\nfrom linflow import relu\n\n"
            f"X, y = np.array({X!r}), np.array({list(self.y)!r})\n"
            f"U = np.array({U!r})  # a column for each neuron\n"
            f"v = np.array({list(self.signs)!r}) * np.linalg.norm(U, axis=0)\n"
            f"start = relu.Network({self.size!r} * U, {self.size!r} * v[:, None])\n"
            f'run = relu.gradient_flow(X, y, start, loss="{self.loss}", until={UNTIL}, t_max={END}, rtol={ACCURACY}, '
            f"max_steps={STEPS})\n"
            "print(run)\n"
        )


@lru_cache(maxsize=16)
def run_from(start: PlaneStart) -> relu.Trajectory:
    """Return the run; a slider of the time asks for the same one again and again."""
    return relu.gradient_flow(
        start.inputs,
        start.labels,
        start.network,
        loss=start.loss,
        until=UNTIL,
        t_max=END,
        rtol=ACCURACY,
        max_steps=STEPS,
    )


@lru_cache(maxsize=16)
def aligned_from(start: PlaneStart) -> float:
    """Return the time from which Theorem A holds; inf if it does not within the run."""
    return aligned_since(run_from(start))


@lru_cache(maxsize=16)
def weights(start: PlaneStart) -> list[list[float]]:
    """Return rows of the time, the loss and `u_1, v_1, u_2, …`, for a page that cannot follow what slides."""
    run = run_from(start)
    nets = [run.network_at(float(t)) for t in run.t]
    return [
        [float(t), float(gap), *np.vstack([net.U, net.V.T]).T.ravel().tolist()]
        for t, gap, net in zip(run.t, run.gap, nets, strict=True)
    ]


def certified(start: PlaneStart, t: float) -> relu.Certificate:
    """Return the certificate of the weights at a time of the run."""
    return relu.certify(start.inputs, start.labels, run_from(start).network_at(t), loss=start.loss)


def neurons(given: Given) -> View:
    """The turning neurons: flips, the loss, and what is certified from a chosen time on."""
    start, at = PlaneStart.of(given), given.number("at", 0, 1)
    run = run_from(start)
    t, first = at * float(run.t[-1]), float(run.gap[0])
    if first == 0:
        return View({}, {}, "The start is optimal.", start.code, lambda: plots.figure()[1])
    cert, aligned = certified(start, t), aligned_from(start)
    curves: dict[str, list] = {
        "loss": points(run.t, run.gap / first),
        "flips": [[flip.t, flip.neuron, flip.sample, flip.before, flip.after] for flip in run.flips],
    }
    if any(flip.after == "sliding" for flip in run.flips):
        curves["weights"] = weights(start)
    if cert.best:
        times = np.linspace(t, max(float(run.t[-1]), t + 1e-9), POINTS)
        curves["guarantee"] = points(times, np.array([cert.gap_at(x - t) / first for x in times]))
    K = start.inputs @ start.inputs.T * np.outer(start.labels, start.labels)
    now = int(np.searchsorted(run.t, t, side="right")) - 1
    by = t if cert.gap <= UNTIL * first else t + cert.time_to(UNTIL * first / cert.gap)
    numbers = {
        "time": t,
        "loss now": cert.gap / first,
        "flips so far": sum(flip.t <= t for flip in run.flips),
        "flips": len(run.flips),
        "aligned from": aligned,
        "guaranteed by": by,
        "seen at": float(run.time_to(UNTIL)),
        "rate now": float(run.rate[now]),
        "guaranteed rate": cert.rate_at(cert.gap) if cert.best else 0.0,
        "least correlation": float(K.min()),
    }
    code = (
        f"{start.code}cert = relu.certify(X, y, run.network_at({at!r} * run.t[-1]), "
        f'loss="{start.loss}")\nprint(cert)\n'
    )

    def draw() -> Any:
        return figure(start.inputs, start.labels, np.array(start.U).T, run, cert, t)

    return View(curves, numbers, _words(start, cert, aligned), code, draw)


def _words(start: PlaneStart, cert: relu.Certificate, aligned: float) -> str:
    if cert.best and start.loss == "squared":
        most = int(cert.may_flip.sum())
        return f"Certified from this time on: the rate is {cert.rate:.4g} at least, and {most} pairs may flip."
    if cert.best:
        return (
            "Certified from this time on: no neuron flips any more, and the loss falls at least like 1/t (Theorem A)."
        )
    later = f" Theorem A holds from t = {aligned:.4g} on." if math.isfinite(aligned) else ""
    return f"Not certified at this time: {cert.reason}.{later}"
