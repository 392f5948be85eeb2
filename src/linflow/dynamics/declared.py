"""Watch a run for contradictions of the constants a user declared."""

from __future__ import annotations

import math

from linflow._arrays import EPS, Array, namespace, norm
from linflow.dynamics.field import GradientField, Point
from linflow.objectives import Objective

SMALLEST = 1e-290
"""Numbers below it come near the end of float64, where they lose their digits."""


class DeclaredConstants:
    """Compares `μ`, `K` and `γ` of a user-defined objective with what each step of a run shows.

    Built-in objectives derive their constants and are not watched.
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        self.watching = not objective.derived
        self.found: dict[str, str] = {}
        self._last: tuple[Array, Array] | None = None
        self._steepest = 0.0  # the largest gradient so far: a user's may be a difference of numbers of that size

    @property
    def notes(self) -> tuple[str, ...]:
        """The contradictions in words, the first of each kind."""
        return tuple(self.found.values())

    def observe(self, t: float, field: GradientField, point: Point) -> None:
        """Test the product reached at time t, alone and against the one before."""
        if not self.watching or not point.finite:
            return
        f = self.objective
        network = field.network_at(point.y)
        W, noise = network.product(), f.rounding(network)
        G = f.gradient(W)
        self._steepest = max(self._steepest, norm(G))
        curvature = f.smoothness if math.isfinite(f.smoothness) else f.pl_constant / 2
        off = 64 * EPS * (self._steepest + curvature * network.magnitude())
        if point.gap < -noise:
            self._note("minimum", t, f.minimum, f"f = {point.gap + f.minimum:.6g} lies below it")
        elif point.gap > max(noise, SMALLEST):
            root = (norm(G) + off) / math.sqrt(point.gap)  # a square of the gradient may leave float64
            if root * root < f.pl_constant * (1 - 1e-6):
                self._note("pl_constant", t, f.pl_constant, f"‖∇f‖²/(f − f*) = {root * root:.6g}")
        if self._last is not None:
            self._compare(t, W, G, *self._last)
        self._last = (W, G)

    def _compare(self, t: float, W: Array, G: Array, V: Array, H: Array) -> None:
        f = self.objective
        move, change = W - V, G - H
        distance = norm(move)
        if distance <= max(1e-7 * norm(W), SMALLEST):  # the difference of two gradients would be rounding
            return
        slope = float(namespace(move).sum((move / distance) * (change / distance)))
        steepness = norm(change) / distance
        off = 64 * EPS * self._steepest / distance  # the rounding of both gradients
        if slope < f.strong_convexity * (1 - 1e-6) - off:
            self._note("strong_convexity", t, f.strong_convexity, f"the curvature {slope:.6g} is smaller")
        if math.isfinite(f.smoothness) and steepness > f.smoothness * (1 + 1e-6) + off:
            self._note("smoothness", t, f.smoothness, f"‖Δ∇f‖/‖ΔW‖ = {steepness:.6g} is larger")

    def _note(self, name: str, t: float, declared: float, seen: str) -> None:
        text = f"declared {name} {declared:.6g} is contradicted at t = {t:.6g}: {seen}"
        self.found.setdefault(name, text + "; guarantees that use it do not hold")
