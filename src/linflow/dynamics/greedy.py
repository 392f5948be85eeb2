"""Greedy low-rank learning: what the flow of two layers does from a vanishing start, as an algorithm."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, namespace, norm, to_numpy
from linflow._support.words import shown
from linflow.dynamics.field import GradientField
from linflow.dynamics.flow import gradient_flow
from linflow.dynamics.trajectory import Trajectory
from linflow.model.network import Network
from linflow.model.objectives import Objective

ROUNDS = 40
"""How often a phase is lengthened, to twice its time each, before it counts as not ending."""


@dataclass(frozen=True)
class Phase:
    """One phase of greedy low-rank learning: the flow of layers of width r from a saddle of rank r − 1.

    Attributes:
        rank: r, the width of the layers.
        slope: `σ_1(∇f(W))` at the saddle where the phase begins; the new direction grows as `e^{slope·t}`.
        gap: `f(W) − f*` at its end.
        settled: whether the flow came to rest.
        runs: the flow of the phase, in one piece or several.
    """

    rank: int
    slope: float
    gap: float
    settled: bool
    runs: tuple[Trajectory, ...] = field(repr=False)

    @property
    def final(self) -> Network:
        """The network at the end of the phase."""
        return self.runs[-1].final

    @property
    def product(self) -> Array:
        """The product at the end of the phase."""
        return self.final.product()


@dataclass(frozen=True)
class GreedyLowRank:
    """The phases of greedy low-rank learning; `print` shows a table.

    Attributes:
        phases: one `Phase` for each rank, from 1 on.
        slope: `σ_1(∇f(W))` at the end of the last phase: 0 at the minimum of a convex f.
        first: the gap at W = 0.
    """

    phases: tuple[Phase, ...]
    slope: float
    first: float

    @property
    def gaps(self) -> list[float]:
        """The gap at W = 0 and at the end of each phase."""
        return [self.first, *(phase.gap for phase in self.phases)]

    @shown
    def __str__(self) -> str:
        lines = ["rank   slope at its saddle   gap at its end", f"   0                         {self.first:.6g}"]
        for one in self.phases:
            lines.append(f"{one.rank:4}   {one.slope:<22.6g}{one.gap:.6g}{'' if one.settled else '   (not at rest)'}")
        return "\n".join(lines)


def greedy_low_rank(
    objective: Objective,
    rank: int | None = None,
    *,
    size: float = 1e-4,
    until: float = 1e-10,
    rest: float = 1e-6,
    rtol: float = 1e-8,
) -> GreedyLowRank:
    """Minimise `f(W_1W_2)` by greedy low-rank learning (GLRL): add one rank at a time, each from a saddle.

    At `W = 0`, and later where the flow of layers of width r − 1 came to rest, let u, v be the leading singular
    vectors of `−∇f(W)`. The layers get one column `size·√s·u` and one row `size·√s·vᵀ` more, with
    `s = σ_1(∇f(0))`, and follow the flow until it rests. As its start goes to 0, an ordinary flow passes the same
    points: the paper proves it for `XXᵀ` if `σ_1(∇f)` is simple at each of them (docs/small_starts.md).

    Args:
        objective: f.
        rank: number of phases; all that change the product if not given.
        size: how far a phase begins from its saddle, relative to `√σ_1(∇f(0))`.
        until: the fraction of the gap at W = 0 at which learning ends.
        rest: a phase ends where `‖∇L‖_F ≤ rest · σ_1(∇f(0)) · ‖(W_1, W_2)‖_F`. Learning also ends where
            `σ_1(∇f(W)) ≤ rest · σ_1(∇f(0))`: nothing is left to grow.
        rtol: relative tolerance of one step of the flow.

    Returns:
        A `GreedyLowRank` with its phases.

    Raises:
        ValueError: `∇f(0)` is 0, so W = 0 is already stationary without a direction out, or invalid arguments.

    Source: Li, Luo & Lyu (ICLR 2021), algorithm 1, there for `XXᵀ`.

    Example:
        >>> import numpy as np, linflow as lf
        >>> found = lf.greedy_low_rank(lf.MatrixFactorization(np.diag([3.0, 2.0, 1.0])), 2)
        >>> [round(gap, 6) for gap in found.gaps]
        [7.0, 2.5, 0.5]
    """
    n, m = objective.shape
    most = min(n, m)
    rank = most if rank is None else checks.count(rank, "rank")
    if rank > most:
        raise ValueError(f"rank is {rank}; products of shape {n}×{m} have rank {most} at most.")
    size = checks.fraction(size, "size", "the distance of a start from its saddle, relative to the weights", "1e-4")
    until = checks.fraction(until, "until")
    rest = checks.fraction(rest, "rest", "how small the gradient is where a phase ends", "1e-6")
    W = _zero(objective)
    first, layers = objective.gap(W), None
    u, first_slope, v = _leading(objective, W)
    if first_slope == 0:
        raise ValueError("∇f(0) is 0: no direction grows from W = 0. Shift W, or give another objective.")
    slope, phases = first_slope, []
    for r in range(1, rank + 1):
        step = size * math.sqrt(first_slope)
        layers = _wider(layers, step * u, step * v, W)
        runs, settled = _until_rest(objective, layers, slope, size, rest * first_slope, until * first, rtol)
        layers, W = runs[-1].final.weights, runs[-1].final.product()
        phases.append(Phase(r, slope, objective.gap(W), settled, tuple(runs)))
        u, slope, v = _leading(objective, W)
        if phases[-1].gap <= until * first or slope <= rest * first_slope:
            break
    return GreedyLowRank(tuple(phases), slope, first)


def _zero(objective: Objective) -> Array:
    like = objective.minimizer
    return from_numpy(np.zeros(objective.shape), like) if like is not None else np.zeros(objective.shape)


def _leading(objective: Objective, W: Array) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the leading singular triple of `−∇f(W)`."""
    U, s, Vt = np.linalg.svd(-to_numpy(objective.gradient(W)), full_matrices=False)
    return U[:, 0], float(s[0]), Vt[0]


def _wider(layers: tuple[Array, ...] | None, u: np.ndarray, v: np.ndarray, like: Array) -> tuple[Array, ...]:
    """Return the layers with one column and one row more."""
    column, row = from_numpy(u[:, None], like), from_numpy(v[None, :], like)
    if layers is None:
        return column, row
    xp = namespace(like)
    return xp.concat([layers[0], column], axis=1), xp.concat([layers[1], row], axis=0)


def _until_rest(
    objective: Objective,
    layers: tuple[Array, ...],
    slope: float,
    size: float,
    steepest: float,
    enough: float,
    rtol: float,
) -> tuple[list[Trajectory], bool]:
    """Run the flow until the gradient is at most `steepest · ‖y‖` or the gap is `enough`.

    The first piece lasts until the new direction, left to itself, has grown by `size^{−3}`: it has left the saddle,
    whose gradient is small too. Each later piece makes the time twice as long.
    """
    t, runs = 3 * math.log(1 / size) / slope, []
    for _ in range(ROUNDS):
        run = gradient_flow(objective, layers, t_max=t, rtol=rtol)
        runs.append(run)
        layers = run.final.weights
        gradient = GradientField(objective, run.final)
        point = gradient.at(gradient.flatten(layers))
        if point.gap <= enough or point.speed <= steepest * norm(point.y):
            return runs, True
        if float(run.t[-1]) < t:  # it cannot go on
            break
        t = sum(float(one.t[-1]) for one in runs)
    return runs, False
