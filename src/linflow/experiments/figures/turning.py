"""Small starts of ReLU networks: neurons turn to one class each, and from then on the rest is proved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow import relu
from linflow.experiments.figures._outcome import Claim, LeftOut, Progress, Table, about_these, number
from linflow.experiments.figures._paper_figure import PaperFigure
from linflow.experiments.figures._settings import Settings, setting
from linflow.plots import COLOURS, figure
from linflow.relu.aligned import aligned_since

LOSS = "exponential"
PLANE = np.array([-0.5, 0.1, 0.6, np.pi - 0.4, np.pi + 0.2, np.pi + 0.5])
"""Angles of the six samples in the plane, the first three of class 1."""
UNTIL = 0.05
"""The fraction of the initial loss at which a run ends."""


@dataclass(frozen=True)
class TurningSettings(Settings):
    """The starts, and how many images there are."""

    size: tuple[float, ...] = setting((1e-3, 1e-5), "the norms of the rows of V, in the plane")
    h: int = setting(20, "the neurons in the plane", least=2)
    images: int = setting(8, "the images of each digit", least=1)
    h_digits: int = setting(12, "the neurons for the images", least=2)


@dataclass(frozen=True)
class Turned:
    """One run from a small start.

    Attributes:
        name: The data and the start.
        X, y: The samples and their classes.
        run: The flow.
        when: The first time at which Theorem A holds; inf if it never does.
        certificates: Those of that time and of the time at which the loss has halved, each with its time.
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    run: relu.Trajectory
    when: float
    certificates: list[tuple[float, relu.Certificate]]

    def angles(self, t: np.ndarray) -> np.ndarray:
        """Return the directions of all neurons in the plane, continuous in time, in radians, shape `(times, h)`."""
        U = np.stack([self.run.network_at(float(s)).U for s in t])
        return np.unwrap(np.arctan2(U[:, 1], U[:, 0]), axis=0)

    def slack(self) -> np.ndarray:
        """Return the guaranteed over the observed loss at recorded times after each certificate's."""
        found = []
        for start, cert in self.certificates:
            later = self.run.t >= start
            found.append(np.asarray(cert.gap_at(self.run.t[later] - start)) / self.run.gap[later])
        return np.concatenate(found)


@dataclass(frozen=True)
class TurningData:
    """The runs in the plane, one for each size, and that on images."""

    settings: TurningSettings
    plane: list[Turned]
    digits: Turned

    @property
    def all(self) -> list[Turned]:
        """Every run."""
        return [*self.plane, self.digits]


def small(d: int, h: int, size: float, rng: np.random.Generator) -> relu.Network:
    """Return a balanced start: `‖u_j‖ = |v_j|`, and v_j of either sign."""
    U = rng.standard_normal((d, h))
    U *= size / np.linalg.norm(U, axis=0)
    return relu.Network(U, size * rng.choice([-1.0, 1.0], (h, 1)))


def two_digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of centred 8×8 images of 0 and 1, whose products with their classes are all positive.

    The images are taken in the order of the data set, each if it fits those before.
    """
    from linflow.experiments.figures.real_data import handwritten  # noqa: PLC0415 - needs an optional dependency

    images, labels = handwritten()
    chosen = labels < 2
    X, y = images[chosen] - images[chosen].mean(axis=0), np.where(labels[chosen] == 1, 1.0, -1.0)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    kept: list[int] = []
    for i in range(len(X)):
        fits = (y[i] * y[kept] * (X[kept] @ X[i]) > 0).all()
        if fits and np.sum(y[kept] == y[i]) < count:
            kept.append(i)
    return X[kept], y[kept]


def follow(name: str, X: np.ndarray, y: np.ndarray, net: relu.Network) -> Turned:
    """Run a start and certify it from the time at which it is aligned, and from half of its loss on."""
    run = relu.gradient_flow(X, y, net, loss=LOSS, until=UNTIL)
    when = aligned_since(run) * (1 + 1e-9)  # just after a flip, where signs are certain
    times = [t for t in (when, max(when, float(run.time_to(0.5)))) if np.isfinite(t)]
    return Turned(name, X, y, run, when, [(t, relu.certify(X, y, run.network_at(t), loss=LOSS)) for t in times])


def compute(s: TurningSettings, seed: int, progress: Progress) -> TurningData:
    """Run every start; those in the plane differ in their size only."""
    plane = np.stack([np.cos(PLANE), np.sin(PLANE)], axis=1), np.repeat([1.0, -1.0], 3)
    found = []
    for k, size in enumerate(s.size):
        progress(k / (len(s.size) + 1), f"size {size:g}")
        found.append(follow(f"plane, {size:g}", *plane, small(2, s.h, size, np.random.default_rng(seed))))
    progress(len(s.size) / (len(s.size) + 1), "images")
    X, y = two_digits(s.images)
    net = small(X.shape[1], s.h_digits, min(s.size), np.random.default_rng(seed))
    return TurningData(s, found, follow("images of 0 and 1", X, y, net))


def claims(data: TurningData) -> Iterable[Claim | LeftOut]:
    """State when neurons turn, and what is certified from then on."""
    products = [(one.y[:, None] * (one.X @ one.X.T) * one.y).min() for one in data.all]
    yield Claim.within("Least y_i y_k ⟨x_i, x_k⟩ of any two samples of one data set", products, low=0)
    yield Claim.within("Guaranteed over observed loss", np.concatenate([one.slack() for one in data.all]), low=1)
    late = [sum(flip.t > one.when for flip in one.run.flips) for one in data.all]
    yield Claim.within("Flips after the time from which Theorem A proves the rest", late, high=0)
    t = np.linspace(0.0, min(one.run.t[-1] for one in data.plane), 40)
    shown = data.plane[-1].angles(t)
    U = np.stack([data.plane[-1].run.network_at(float(s)).U for s in t])
    yield Claim.same(
        "The axis shows the directions of the neurons: cosines of the angles",
        np.cos(shown),
        U[:, 0] / np.linalg.norm(U, axis=1),
        1e-6,  # of cosines, which rounding changes where they are near 0
    )
    turned = [one.run.gap_at(one.when) / one.run.gap[0] if np.isfinite(one.when) else np.nan for one in data.all]
    order = np.argsort(data.settings.size)
    when = np.array([one.when for one in data.plane])[order]
    ends = np.array([one.run.t[-1] for one in data.plane])[order]
    paper = [
        Claim.within("Loss over the initial loss when all neurons have turned", turned, low=0.9),
        Claim.within("Time of turning over that of the smallest start", when[1:] / when[0], low=0.98, high=1.02),
        Claim.within("Time of learning over that of the smallest start", ends[1:] / ends[0], high=0.9),
    ]
    yield from about_these(data.settings.changes(), paper)


def draw(data: TurningData) -> Any:
    """Draw the directions of the neurons in the plane, and every loss below its bounds."""
    fig, axes = figure(7.0, 3.0, ncols=2)
    one = data.plane[int(np.argmin(data.settings.size))]
    end = 2 * one.when if np.isfinite(one.when) else one.run.t[-1]
    t = np.linspace(0.0, min(end, one.run.t[-1]), 160)
    for angle, v in zip(one.angles(t).T, one.run.start.V[:, 0], strict=True):
        axes[0].plot(t, np.degrees(angle), color=COLOURS["blue" if v > 0 else "vermillion"], linewidth=0.9)
    axes[0].axvline(one.when, color=COLOURS["black"], linestyle=":", linewidth=1)
    for label, colour in (("$v_j > 0$", "blue"), ("$v_j < 0$", "vermillion")):
        axes[0].plot([], [], color=COLOURS[colour], label=label)
    axes[0].set(xlabel="$t$", ylabel="direction of $u_j$ in degrees")
    axes[0].set_title("Neurons turn before the loss falls")
    axes[0].legend(loc="upper right", bbox_to_anchor=(1.0, 0.86))
    for k, turned in enumerate(data.all):
        colour = COLOURS[("blue", "vermillion", "green", "orange")[k % 4]]
        axes[1].semilogy(turned.run.t, turned.run.gap / turned.run.gap[0], color=colour, label=turned.name)
        for start, cert in turned.certificates[-1:]:
            s = np.linspace(0.0, turned.run.t[-1] - start, 60)
            axes[1].semilogy(start + s, np.asarray(cert.gap_at(s)) / turned.run.gap[0], "--", color=colour)
    axes[1].plot([], [], "--", color=COLOURS["black"], label="proved from half on")
    axes[1].set(xlabel="$t$", ylabel="$L/L(0)$", ylim=(0.08 * UNTIL, 1.6))
    axes[1].set_title("Losses, and bounds by Theorem A")
    axes[1].legend(loc="lower left")
    return fig


def tables(data: TurningData) -> list[Table]:
    """Times, and classes of the neurons, a row for each run."""
    rows = []
    for one in data.all:
        active = one.run.final.preactivations(one.X) > 0
        rows.append((
            one.name,
            one.when,
            float(one.run.t[-1]),
            int((active[one.y > 0].all(axis=0) & ~active[one.y < 0].any(axis=0)).sum()),
            int((active[one.y < 0].all(axis=0) & ~active[one.y > 0].any(axis=0)).sum()),
            int((~active.any(axis=0)).sum()),
        ))  # fmt: skip
    heads = ["data", "aligned at", "done at", "neurons of class 1", "of class −1", "dead"]
    return [Table("Small starts", heads, rows)]


def numbers(data: TurningData) -> dict[str, Any]:
    """Times and losses."""
    return {
        one.name: {"aligned": one.when, "t": one.run.t, "loss": one.run.gap, "flips": len(one.run.flips)}
        for one in data.all
    }


def setup(data: TurningData) -> dict[str, str]:
    """What was run, in words."""
    s = data.settings
    return {
        "Data": f"six unit vectors in the plane, three of each class; {s.images} images of 0 and of 1, centred, "
        "of norm 1, chosen in the order of the data set so that every product with the classes is positive",
        "Start": "balanced: ‖u_j‖ = |v_j|, directions and signs at random",
        "Runs": f"the gradient flow of the sum of exp(−y z), to {number(UNTIL)} of the initial loss",
    }


experiment = PaperFigure(
    "turning",
    "Neurons of a small start turn before the loss falls",
    "Where every product y_i y_k ⟨x_i, x_k⟩ is positive, the neurons of a small start turn to one class each or die, "
    "in a time that does not depend on the size of the start. From then on Theorem A proves that the loss falls like "
    "1/t for ever. The smaller the start, the longer the wait that follows.",
    "Min, Mallada & Vidal 2024; linflow, docs/relu.md",
    compute=compute,
    claims=claims,
    draw=draw,
    numbers=numbers,
    setup=setup,
    tables=tables,
    settings=TurningSettings,
    paper="Min, Mallada & Vidal 2024",
)
