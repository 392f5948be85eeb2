"""Verified gradient descent: the exact iterates lie within a radius of the computed ones.

`‖e_{k+1}‖ ≤ max(1 + η_k m, η_k M − 1) ‖e_k‖ + r_k`, where `−m ≤ λ(∇²L) ≤ M` between the two iterates and `r_k` is
the rounding of the step. Proof: docs/verified.md, section 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np

from linflow._support.deprecation import renamed_attributes
from linflow._support.fractions import spelled
from linflow._support.words import plural
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import PLAIN, Optimizer
from linflow.verified import compiled
from linflow.verified.enclosed_steps import EnclosedSteps
from linflow.verified.log_norm import greatest
from linflow.verified.march import LARGEST_HESSIAN, PAST_FLOAT64, budget
from linflow.verified.point import expanded, hessian_at, node_at, tube_at
from linflow.verified.problem import AffineGradient
from linflow.verified.rank_gap import above, rank_floor
from linflow.verified.reduction import Narrowed
from linflow.verified.rounding import TINY, UP, U, frobenius, least_eigenvalue

MOVED, LEAST = 0.1, 1e-4
"""The distance to the last Hessian may add this fraction of the exponent of a step, plus this amount."""

StepRule = Callable[[list[np.ndarray], Sequence[float]], float]
"""A rule for the step, given the computed weights and the steps taken so far."""

DIVERGED = 1e6
"""A descent counts as diverged when its gap has grown by this factor."""


@renamed_attributes(network="final")
@dataclass(frozen=True, repr=False)
class DescentEnclosure(EnclosedSteps):
    """A computed proof of where exact gradient descent is after every step.

    Attributes:
        objective: the objective that is minimised.
        start: the network at the start.
        step_size: η, or None for a schedule; `step_sizes` holds every step.
        gaps: lower and upper bounds of the loss gap after 0, 1, … steps, shape `(2, K + 1)`.
        radius: upper bounds of `‖θ_k − θ̃_k‖`, shape `(K + 1,)`, at the reduced width.
        exponent: logarithm of the largest factor by which a disturbance of the start can have grown.
        result: "target proved", "all steps done", "diverged" or "proof ended".
        reason: why the run ended early; empty if it did not.
        weights: the last iterate as computed, at the reduced width.
        hessians: number of Hessians that were needed.
        notes: how the input was converted, and what the gap is measured from.
        scheduled: the steps of a schedule, shape `(K,)`; None for a constant step.
        optimizer: the momentum, if there is one.
    """

    objective: Objective
    start: Network
    step_size: float | None
    gaps: np.ndarray
    radius: np.ndarray
    exponent: float
    result: str
    reason: str
    weights: list[np.ndarray] = field(repr=False)
    narrowed: Narrowed = field(repr=False)
    hessians: int = 0
    notes: tuple[str, ...] = ()
    scheduled: np.ndarray | None = field(default=None, repr=False)
    optimizer: Optimizer = PLAIN

    @property
    def step_sizes(self) -> np.ndarray:
        """The steps `η_k` of the exact descent that is enclosed, shape `(K,)`."""
        if self.scheduled is not None:
            return self.scheduled
        assert self.step_size is not None
        return np.full(self.steps, self.step_size)

    @property
    def t(self) -> np.ndarray:
        """The sum of the first k steps for k = 0, 1, …, shape `(K + 1,)`: without momentum, the time of the flow."""
        if self.scheduled is not None:
            return np.concatenate([[0.0], np.cumsum(self.scheduled)])
        assert self.step_size is not None
        return self.step_size * np.arange(self.steps + 1)

    @cached_property
    def final(self) -> Network:
        """The network of the last iterate as computed."""
        return self.start.with_weights(self.narrowed.expand(self.weights))

    @cached_property
    def rank_floor(self) -> tuple[float, float]:
        """Bounds of the least gap that the widths allow, as for `Enclosure.rank_floor`."""
        return rank_floor(self.objective, self.start)

    def rank_gap_bounds(self, k: Any) -> tuple[Any, Any]:
        """Return bounds of the gap to the least loss at the rank that the widths allow, after k steps.

        With a bottleneck, the loss gap never falls below `rank_floor`; this gap can fall to 0. k is a number or a
        sequence.

        Raises:
            ValueError: as for `Enclosure.rank_floor`, or k exceeds the number of enclosed steps.

        Example:
            >>> import numpy as np, linflow as lf
            >>> net = [np.array([[1.0], [0.5]]), np.array([[1.0, 0.25]])]
            >>> f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
            >>> enc = lf.enclose(f, net, algorithm="descent", step_size=0.1, steps=100)
            >>> [round(x, 6) for x in enc.rank_floor], [round(float(x), 6) for x in enc.rank_gap_bounds(100)]
            ([0.5, 0.5], [0.0, 0.0])
        """
        return above(self.rank_floor, *self.gap_bounds(k))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the proof to a NetCDF file (`.nc`), whole or not at all; `linflow.load(path)` reads it back.

        The loaded proof gives the same answers as this one. It is not proved again, and its `notes` say so.

        Raises:
            ValueError: the objective is given by functions, which a file cannot hold.
            OSError, ImportError: as for `linflow.files.save_run`.
        """
        from linflow.verified.storage.writing import save_enclosure  # noqa: PLC0415 - xarray is slow to import

        save_enclosure(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return the proved results as plain data."""
        optimizer = {} if self.optimizer.plain else {"optimizer": self.optimizer.to_dict()}
        steps = {"step_size": self.step_size, "time": float(self.t[-1]), "hessians": self.hessians}
        sizes = {"widths": list(self.start.widths), "scale": self.start.scale}
        return self.told() | optimizer | steps | sizes

    def __repr__(self) -> str:
        first = float(self.gaps[0, 0])
        gap = float(self.gaps[1, -1]) / first if first > 0 else 1.0
        step = "scheduled steps" if self.step_size is None else f"step {self.step_size:.4g}"
        step += "" if self.optimizer.plain else f", {self.optimizer}"
        return (
            f"DescentEnclosure({self.result}, {step}, {self.steps} steps, {gap:.3g} of the initial gap, "
            f"radius {float(self.radius[-1]):.2g})"
        )


@dataclass(frozen=True)
class _Curvature:
    """Bounds of the spectrum of `∇²L` at one iterate, and the constants of the ball on which they are used."""

    weights: list[np.ndarray]
    least: float
    most: float
    ball: float
    third: float


class StepMarch:
    """State of a verified descent with a step η, or with the steps that a rule returns at the computed iterates."""

    weights: list[np.ndarray]
    gap: tuple[float, float]
    hessians = 0
    trouble = ""

    def __init__(self, problem: Any, weights: list[np.ndarray], scale: float, radius: float, eta: float | StepRule):
        self.problem, self.scale, self.radius = problem, scale, radius
        self.rule: StepRule = eta if callable(eta) else lambda weights, taken: eta
        self.taken: list[float] = []
        self.exponent = 0.0
        self._arrive(weights)
        self.first = self.gap

    def _arrive(self, weights: list[np.ndarray]) -> None:
        """Compute what is known at an iterate, and the gap."""
        raise NotImplementedError

    def growth(self, eta: float) -> float:
        """Return `max(1 + ηm, ηM − 1)` between the exact iterate and the computed one."""
        raise NotImplementedError

    def step(self, eta: float) -> tuple[list[np.ndarray], float]:
        """Return the next iterate, and a bound of the rounding of the step, without that of the sum."""
        raise NotImplementedError

    def advance(self) -> bool:
        """Take a step. Return False if the radius becomes too large (`trouble` says why)."""
        eta = self.rule(self.weights, self.taken)
        growth = self.growth(eta)
        new, rounding = self.step(eta)
        moved = math.hypot(*(float(frobenius(W)) for W in new))
        radius = (self.radius * growth + rounding + U * moved) * UP + TINY
        if math.isnan(radius):  # left undefined by overflow
            radius = math.inf
        if not radius < 1e-3 * (TINY + moved) or not math.isfinite(growth):
            self.trouble = (
                f"the radius of the enclosure, {radius:.2g}, is too large for weights of norm {moved:.3g}; try a "
                "smaller step"
            )
            return False
        self.exponent += max(0.0, math.log(growth))
        self.radius = radius
        self.taken.append(eta)
        self._arrive(new)
        return True


class DescentMarch(StepMarch):
    """State of a verified descent of a quadratic loss."""

    def __init__(
        self,
        problem: AffineGradient,
        weights: list[np.ndarray],
        scale: float,
        radius: float,
        eta: float | StepRule,
        fast: bool = False,
    ):
        self.layout = compiled.layout(problem, weights, scale) if fast else None
        self.size = sum(W.size for W in weights)
        self.loose = 0.0
        self.known: _Curvature | None = None
        super().__init__(problem, weights, scale, radius, eta)

    def _arrive(self, weights: list[np.ndarray]) -> None:
        """Compute the gradient at an iterate, with its rounding, and the gap."""
        self.weights = weights
        self.path = expanded(self.problem, weights, self.scale, self.layout)
        self.tube = tube_at(self.path)
        self.constants = self.tube.constants(self.radius)
        error = (self.path.distance_error + self.constants.motion * self.radius) * UP
        self.gap = self.problem.gap(self.path.distance, error)

    def step(self, eta: float) -> tuple[list[np.ndarray], float]:
        """Return the next iterate, and a bound of the rounding of the step, without that of the sum."""
        # The path's rounding includes that of a product with its unit of time; this unit is 1, and η takes its place.
        new = [series[0] + eta * series[1] for series in self.path.coefficients]
        return new, eta * float(self.path.rounding[0])

    def growth(self, eta: float) -> float:
        """Return `max(1 + ηm, ηM − 1)` on the segment between the exact iterate and the computed one."""
        K, constants = self.problem.smoothness, self.constants
        x, between = node_at(self.path).products
        twist = 0.5 * constants.third * self.radius
        second = (greatest(x * between) + twist) * UP
        most = (K * constants.motion**2 + second) * UP
        if eta * most <= 2 + eta * second:
            spent = eta * second
            allowed = budget(self.size, descent=True)
            if self.size > LARGEST_HESSIAN or self.path.depth == 1 or self.loose + spent <= allowed:
                self.loose += spent
                return (1 + spent) * UP
        elif self.size > LARGEST_HESSIAN:
            return (eta * most - 1) * UP
        known = self._near(eta)
        away = self._distance(known) + 0.5 * self.radius
        m = max(0.0, -known.least + known.third * away) * UP
        M = (known.most + known.third * away) * UP
        return max(1 + eta * m, eta * M - 1) * UP

    def _distance(self, known: _Curvature) -> float:
        squares = sum(float(np.sum((W - V) ** 2)) for W, V in zip(self.weights, known.weights, strict=True))
        return (math.sqrt(squares) * (1 + 1e-12) + 4 * U * self.path.norm()) * UP

    def _near(self, eta: float) -> _Curvature:
        """Return the spectrum of the last Hessian if it is near enough, else that of a new one."""
        known = self.known
        if known is not None:
            away = self._distance(known) + self.radius
            added = eta * known.third * away
            if away <= known.ball and added <= MOVED * eta * max(0.0, -known.least) + LEAST:
                return known
        H, error = hessian_at(self.path)
        least, most = least_eigenvalue(H, error), -least_eigenvalue(-H, error)
        self.hessians += 1
        # The next steps can use this ball. At its edge, the distance alone would use up the allowance.
        ball = 2 * self.radius + (LEAST + MOVED * eta * max(0.0, -least)) / (eta * self.constants.third + TINY)
        ball = min(ball, 0.1 * self.path.norm() + 2 * self.radius)
        third = self.tube.constants(ball).third
        self.known = _Curvature(self.weights, least, most, ball, third)
        return self.known


def enclose_descent(
    march: StepMarch,
    until: float | None,
    steps: int,
    progress: Callable[[float], None] | None,
    iterates: list[list[np.ndarray]] | None = None,
) -> tuple[str, str, np.ndarray, np.ndarray]:
    """Run a verified descent; return its result, the reason, the gaps and the radii.

    If `iterates` is given, the iterates are appended to it.
    """
    gaps, radii = [march.gap], [march.radius]
    target = -math.inf if until is None else until * march.first[0] * (1 - 1e-12)
    result = reason = ""
    while not result:
        if iterates is not None:
            iterates.append(march.weights)
        done = len(radii) - 1
        if march.gap[1] <= target:
            result = "target proved"
        elif not math.isfinite(march.first[1]):
            result, reason = "proof ended", PAST_FLOAT64
        elif until is not None and march.first[0] <= 0:
            result = "proof ended"
            reason = "the start is at the optimum to rounding, so its gap cannot be told from 0"
        elif done >= steps:
            result = "all steps done"
        elif march.gap[0] > DIVERGED * march.first[1]:
            result, reason = (
                "diverged",
                f"the gap has grown by a factor of {march.gap[0] / march.first[1]:.3g}; take a smaller step",
            )
        elif not march.advance():
            result, reason = "proof ended", march.trouble
        else:
            gaps.append(march.gap)
            radii.append(march.radius)
            if progress is not None:
                progress(done / steps)
    if reason:
        reason = f"verified for {plural(len(radii) - 1, 'step')}: {reason}"
    elif result == "all steps done" and until is not None:
        done = plural(steps, "step", "do")
        reason = f"{done} not prove that the gap falls to {spelled(until)} of its initial value; raise steps"
    return result, reason, np.array(gaps).T, np.array(radii)
