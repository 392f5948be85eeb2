"""What a run of a ReLU network returns: loss, rate, flips, and the weights at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from linflow._support import checks
from linflow._support.words import plural
from linflow.dynamics.trajectory import Result, Stats
from linflow.model.optimizer import PLAIN, Optimizer
from linflow.relu.layers import TwoLayers
from linflow.relu.pieces import OFF, ON, SLIDING
from linflow.relu.problem import Problem

WORDS = {ON: "on", OFF: "off", SLIDING: "sliding"}


@dataclass(frozen=True)
class Flip:
    """A neuron that changed how it stands to a sample.

    Attributes:
        t: when; for descent, the end of the step.
        neuron: index j, from 0.
        sample: index i, from 0.
        before, after: "on" (`z_ij > 0`), "off" (`z_ij ≤ 0`) or "sliding": the flow holds `z_ij` at 0, because on
            either side it is pushed to the other.
    """

    t: float
    neuron: int
    sample: int
    before: str
    after: str


@dataclass(frozen=True, repr=False)
class Trajectory:
    """A run of gradient flow or gradient descent of a two-layer network.

    Attributes:
        t: recorded times, increasing, shape `(k,)`: every accepted step, and every flip.
        gap: losses, shape `(k,)`; the minimum is taken to be 0.
        rate: `‖∇L‖²/L`, shape `(k,)`: for the flow `−L̇/L`, at a flip the smaller of its two one-sided values.
        path: `τ(t) = ∫_0^t ‖R‖` of a flow, `η Σ ‖R_k‖` of a descent, shape `(k,)`.
        start, final: the first and the last network.
        flips: every `Flip`, in order.
        result: how the run ended, an `lf.Result`.
        stats: cost, and the change of all imbalances (an `lf.Stats`).
        problem: the loss.
        algorithm: "flow" or "descent".
        step_size: η of a descent.
        imbalance_law: of a descent, the change of every imbalance that its exact law gives, shape `(h,)`; else None.
        until: the requested fraction of the initial loss, None if none was given.
    """

    t: np.ndarray
    gap: np.ndarray
    rate: np.ndarray
    path: np.ndarray
    start: TwoLayers
    final: TwoLayers
    flips: tuple[Flip, ...]
    result: Result
    stats: Stats
    problem: Problem
    algorithm: str = "flow"
    step_size: float | None = None
    until: float | None = None
    imbalance_law: np.ndarray | None = None
    weights_at: Callable[[float], TwoLayers] | None = field(default=None, compare=False)
    optimizer: ClassVar[Optimizer] = PLAIN

    @property
    def loss(self) -> np.ndarray:
        """The losses, which are the gaps."""
        return self.gap

    @property
    def minimum(self) -> float:
        """0."""
        return self.problem.minimum

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references behind the run."""
        return frozenset({"linflow", "hairer1993"} if self.algorithm == "flow" else {"linflow"})

    def network_at(self, t: float) -> TwoLayers:
        """Return the weights at any time of a flow, integrated from the nearest earlier step.

        Raises:
            ValueError: a time outside the run, or a descent.
        """
        if self.weights_at is None:
            raise ValueError("a descent keeps its first and last weights only: run.start and run.final.")
        t = checks.positive(t, "t", allow_zero=True)
        if t > self.t[-1]:
            raise ValueError(
                f"the run covers t = 0 to {float(self.t[-1])!r} ({self.result.value}); {t!r} lies outside."
            )
        return self.weights_at(t)

    def gap_at(self, t: Any) -> Any:
        """Return the loss at any time or times of a flow, from the weights there; of a descent, after whole steps."""
        if self.weights_at is None:
            return checks.each(self._gap_after, t, "t")
        return checks.each(lambda s: self.problem.loss(self.network_at(s)), t, "t")

    def _gap_after(self, t: float) -> float:
        if not 0 <= t <= self.t[-1]:
            raise ValueError(f"the run covers t = 0 to {float(self.t[-1])!r}; {t!r} lies outside.")
        return float(self.gap[np.searchsorted(self.t, t, side="right") - 1])

    def time_to(self, until: Any) -> Any:
        """Return when the loss first reached the fraction `until` of its start; inf if never.

        For a descent it is the time after that step.
        """
        return checks.each(self._time_to, until, "until")

    def _time_to(self, until: float) -> float:
        level = checks.fraction(until, "until") * float(self.gap[0])
        close = 1 + 1e-9 if self.until is not None and until >= self.until else 1.0
        below = np.flatnonzero(self.gap <= level * close)
        if not below.size:
            return np.inf
        i = int(below[0])
        if i == 0 or self.algorithm == "descent":
            return float(self.t[i])
        low, high = float(self.t[i - 1]), float(self.t[i])

        def above(t: float) -> float:
            return float(np.log(self.gap_at(t) / level))

        # The recorded loss and that of the weights differ by rounding.
        if above(high) >= 0:
            return high
        if above(low) <= 0:
            return low
        return find_root(above, low, high)

    def difference(self, other: Trajectory) -> float:
        """Return the largest difference of the logarithm of the loss to another flow, over the time both cover."""
        end = min(self.t[-1], other.t[-1])
        times = np.unique(np.concatenate([self.t[self.t <= end], other.t[other.t <= end]]))
        with np.errstate(divide="ignore"):
            return float(np.max(np.abs(np.log(self.gap_at(times)) - np.log(other.gap_at(times)))))

    def __repr__(self) -> str:
        return (
            f"Trajectory({self.result.value}; t = {self.t[-1]:.6g}, loss {self.gap[0]:.4g} → {self.gap[-1]:.4g}, "
            f"{plural(self.stats.steps, 'step')}, {plural(len(self.flips), 'flip')})"
        )


def find_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function of time changes its sign between two times, to rounding."""
    from scipy.optimize import brentq  # noqa: PLC0415 - scipy.optimize is slow to import

    root: Any = brentq(function, low, high, xtol=1e-15 * high)
    return float(root)
