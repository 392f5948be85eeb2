"""Verified descent with momentum: the exact iterates lie within a radius of the computed ones.

`v ← μv + ∇L(θ)`, `θ ← θ − ηv`, or in Nesterov's form `θ ← θ − η(∇L + μv)`, from `v = 0`. The run is computed first.
Then a metric is computed backwards along it (`Metric`), and the radius forwards. Proofs: docs/verified.md, section 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linflow.model.optimizer import Optimizer
from linflow.verified import compiled
from linflow.verified.descent import DIVERGED, StepRule
from linflow.verified.lyapunov import Factors, Metric
from linflow.verified.point import expanded, hessian_at, tube_at
from linflow.verified.problem import AffineGradient
from linflow.verified.rounding import UP, U, frobenius

LARGEST_METRIC = 300
"""Largest number of weights, after the hidden layers are narrowed, for which a metric is computed."""

STORED = 20_000_000
"""Limit on the weights times the steps, as every iterate is kept."""

BALL = 1e-3
"""The constants of an iterate hold on the ball of this fraction of the norm of the weights around it."""

RESTART = 1e60
"""Where the metric grows beyond this, the Euclidean one takes its place."""

BEYOND = 0.5
"""The computed run goes on to this fraction of its target, so that the gap of all exact ones reaches the target."""


@dataclass
class KeptIterate:
    """A computed iterate, and what bounds its gap and the step from it while the radius is at most `ball`.

    Attributes:
        weights: the layers as computed.
        distance: `cW − V` as computed.
        distance_error: bound of its error.
        ball: a radius on which the two constants hold.
        motion: bound of `‖DW‖`.
        third: bound of `‖D³L‖`.
        factors: the numbers of the step from here.
        defect: bound of the rounding of that step, in weights and scaled velocity.
        size: bound of the norm of the Hessian as computed here.
        error: bound of the error of this Hessian.
        heavy: square root of the norm of the metric after that step: the defect counts as many times.
        steady: square root of what the step takes from `‖y‖²_S` for each `‖y‖²`.
        change: factor of the radius if the metric is replaced here.
        least: lower bound of the eigenvalues of the metric in which the iterate is reached.
    """

    weights: list[np.ndarray]
    distance: np.ndarray
    distance_error: float
    ball: float
    motion: float
    third: float
    factors: Factors = field(default_factory=Factors)
    defect: float = math.inf
    size: float = math.inf
    error: float = math.inf
    heavy: float = math.inf
    steady: float = 0.0
    change: float = 1.0
    least: float = 1.0


class MomentumMarch:
    """A verified descent with momentum of a quadratic loss. `advance` goes along a run that is computed at first."""

    trouble = ""

    def __init__(
        self,
        problem: AffineGradient,
        weights: list[np.ndarray],
        scale: float,
        radius: float,
        eta: float | StepRule,
        optimizer: Optimizer,
        until: float | None,
        steps: int,
        progress: Callable[[float], None] | None = None,
        fast: bool = False,
    ):
        self.layout = compiled.layout(problem, weights, scale) if fast else None
        self.problem, self.scale, self.radius = problem, scale, radius
        self.mu, self.nesterov = optimizer.momentum, optimizer.nesterov
        self.rule: StepRule = eta if callable(eta) else lambda weights, taken: eta
        self.width = sum(W.size for W in weights)
        self.path: list[KeptIterate] = []
        self.chosen: list[float] = []
        self.hessians = self.k = 0
        self.exponent = self.growth = 0.0
        self.ended = ""
        if self.width <= LARGEST_METRIC:
            self._run(weights, until, steps, progress)
            norm = self._weigh()
            self.inner, self.growth = radius * math.sqrt(norm) * UP, 0.5 * math.log(norm)
        else:
            self._add(weights)
            self.ended = (
                f"with momentum, a metric for the {self.width} weights and as many velocities is needed, which takes "
                f"too long for more than {LARGEST_METRIC}; take fewer weights, or leave out the momentum"
            )
        self.first = self.gap = self._gap()

    # --- the computed run ---

    def _add(self, weights: list[np.ndarray]) -> Any:
        """Keep an iterate. Return its expansion."""
        path = expanded(self.problem, weights, self.scale, self.layout)
        ball = BALL * path.norm() + 2 * self.radius
        constants = tube_at(path).constants(ball)
        self.path.append(
            KeptIterate(weights, path.distance, path.distance_error, ball, constants.motion, constants.third)
        )
        return path

    def _run(
        self, weights: list[np.ndarray], until: float | None, steps: int, progress: Callable[[float], None] | None
    ) -> None:
        """Compute the run, with a bound of the rounding of each step."""
        velocity, unit = [np.zeros_like(W) for W in weights], 0.0
        path = self._add(weights)
        first = path.gap(path.distance_error)
        target = -math.inf if until is None else BEYOND * until * first[0]
        most = STORED // self.width
        for _ in range(min(steps, most)):
            gap = path.gap(path.distance_error)
            if gap[1] <= target:
                self.ended = "the radius is too large to tell the gap from its target"
                return
            if not gap[0] <= 2 * DIVERGED * first[1]:
                self.ended = "the descent diverges"
                return
            eta = self.rule(weights, self.chosen)
            unit = unit or 2.0 ** round(math.log2(eta))
            weights, velocity, defects = self.stepped(path, velocity, eta)
            here = self.path[-1]
            here.factors = Factors.of(eta, self.mu, self.nesterov, unit)
            here.defect = math.hypot(defects[0], unit * defects[1]) * UP
            self.chosen.append(eta)
            path = self._add(weights)
            if progress is not None:
                progress(len(self.chosen) / steps)
        self.ended = f"every iterate is kept, and {most} of {self.width} weights are the most"

    def stepped(
        self, path: Any, velocity: list[np.ndarray], eta: float
    ) -> tuple[list[np.ndarray], list[np.ndarray], tuple[float, float]]:
        """Return the next weights and velocities, and bounds of the rounding in each."""
        mu, off = self.mu, float(path.rounding[0])
        slopes = [-series[1] for series in path.coefficients]
        new = [mu * v + g for v, g in zip(velocity, slopes, strict=True)]
        error = (off + rounded(mu * length(velocity), length(new))) * UP
        moves, moved = new, error
        if self.nesterov:
            moves = [g + mu * v for v, g in zip(new, slopes, strict=True)]
            moved = (off + mu * error + rounded(mu * length(new), length(moves))) * UP
        weights = [series[0] - eta * u for series, u in zip(path.coefficients, moves, strict=True)]
        turned = (eta * moved + rounded(eta * length(moves), length(weights))) * UP
        return weights, new, (turned, error)

    # --- the metric, backwards ---

    def _weigh(self) -> float:
        """Compute what each step does to the radius in the metric of the steps after it. Return the first norm."""
        metric = Metric.euclidean(self.width)
        norm = metric.norm
        for here in reversed(self.path[:-1]):
            H, here.error = hessian_at(expanded(self.problem, here.weights, self.scale, self.layout))
            here.size, here.heavy = float(frobenius(H)), math.sqrt(norm) * UP
            self.hessians += 1
            metric = metric.before(H, here.factors, norm)
            norm, here.least = metric.norm, metric.least
            here.steady = math.sqrt(max(0.0, here.least)) * (1 - 4 * U)
            if not norm < RESTART or here.steady == 0.0:
                here.change, here.least = math.sqrt(norm) * UP, 1.0
                metric = Metric.euclidean(self.width)
                norm = metric.norm
        return norm

    # --- the radius, forwards ---

    @property
    def weights(self) -> list[np.ndarray]:
        """The iterate that is reached."""
        return self.path[self.k].weights

    @property
    def taken(self) -> list[float]:
        """The steps up to it."""
        return self.chosen[: self.k]

    def _gap(self) -> tuple[float, float]:
        here = self.path[self.k]
        return self.problem.gap(here.distance, (here.distance_error + here.motion * self.radius) * UP)

    def advance(self) -> bool:
        """Take a step. Return False if the proof cannot go on (`trouble` says why)."""
        if self.k == len(self.chosen):
            self.trouble = self.ended
            return False
        here, after = self.path[self.k], self.path[self.k + 1]
        off = here.factors.off(here.size, here.error + 0.5 * here.third * self.radius)
        rise = (here.heavy * off / here.steady * UP) ** 2 if here.steady > 0 else math.inf
        inner = (self.inner * here.change * math.sqrt(1 + rise) + here.heavy * here.defect) * UP
        radius = inner / math.sqrt(after.least) * UP
        if not radius <= after.ball:
            self.trouble = (
                f"the radius of the enclosure, {radius:.2g}, is too large for weights of norm "
                f"{length(after.weights):.3g}; try a smaller step or less momentum"
            )
            return False
        self.growth += math.log(here.change) + 0.5 * math.log1p(rise)
        self.exponent = max(self.exponent, self.growth - 0.5 * math.log(after.least))
        self.k += 1
        self.inner, self.radius = inner, radius
        self.gap = self._gap()
        return True


def length(matrices: list[np.ndarray]) -> float:
    """Return an upper bound of the norm of the layers together."""
    return math.hypot(*(float(frobenius(W)) for W in matrices)) * UP


def rounded(product: float, total: float) -> float:
    """Return a bound of the rounding of `xA + B`, from bounds of `‖xA‖` and of the norm of the computed sum."""
    return U * (product * (1 + U) + total)
