"""Watch a run for contradictions of the gradient and the constants a user declared."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from linflow._support.arrays import EPS, Array, detach, from_numpy, namespace, norm
from linflow.dynamics.field import GradientField, Point
from linflow.model.objectives import Objective

SMALLEST = 1e-290
"""Numbers below this approach the lower end of float64, where they lose digits."""
LENGTHS = [10.0**-k for k in range(1, 10)]
"""Step lengths of the directional differences, in units of `(f − f*)/‖∇f‖`, or of the size of W if that fails."""
BENT, OFF, SEEN = 0.05, 0.05, 1e-5
"""Fractions. A difference counts if its forward and backward slopes agree to `BENT`, and if W and the value change by
`SEEN`, far above float32 rounding. A slope is wrong if it is off by more than `OFF` plus the disagreement of the
two."""


class DeclaredConstants:
    """Compares what a user-defined objective declares, its gradient included, with what a run shows.

    Built-in objectives derive their constants and are not watched.
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        self.watching = not objective.derived
        self.found: dict[str, str] = {}
        self._last: tuple[Array, Array] | None = None
        self._steepest = 0.0  # the largest gradient so far; a user's may be a difference of numbers this large

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages on the contradictions found, the first of each kind."""
        return tuple(self.found.values())

    def observe(self, t: float, field: GradientField, point: Point) -> None:
        """Check the product reached at time t, on its own and against the previous one."""
        if not self.watching or not point.finite:
            return
        f = self.objective
        network = field.network_at(point.y)
        W, noise = network.product(), f.rounding(network)
        G = f.gradient(W)
        if self._last is None and (text := misfit(f, W, detach(G))):
            self.found["gradient"] = text
        self._steepest = max(self._steepest, norm(G))
        curvature = f.smoothness if math.isfinite(f.smoothness) else f.pl_constant / 2
        off = 64 * EPS * (self._steepest + curvature * network.magnitude())
        if point.gap < -noise:
            self._note("minimum", t, f.minimum, f"f = {point.gap + f.minimum:.6g} lies below it")
        elif point.gap > max(noise, SMALLEST):
            root = (norm(G) + off) / math.sqrt(point.gap)  # the squared gradient may leave float64
            if root * root < f.pl_constant * (1 - 1e-6):
                self._note("pl_constant", t, f.pl_constant, f"‖∇f‖²/(f − f*) = {root * root:.6g}")
            self._watch_tail(t, W, G, point.gap, off)
        if self._last is not None:
            self._compare(t, W, G, *self._last)
        self._last = (W, G)

    def _watch_tail(self, t: float, W: Array, G: Array, gap: float, off: float) -> None:
        f, size = self.objective, norm(G)
        if f.tail is not None and (size + off) / gap < f.tail.constant * (1 - 1e-6):
            self._note("tail_constant", t, f.tail.constant, f"‖∇f‖/(f − f*) = {(size + off) / gap:.6g}")
        kappa = f.tail_smoothness
        if math.isfinite(kappa) and size > 0:
            bend = norm(f.hessian_product(W, G)) / size
            # The Hessian is a difference of two gradients over a distance of ε^{1/3}.
            if bend > kappa * gap * (1 + 1e-3) + off / EPS ** (1 / 3):
                self._note("tail_smoothness", t, kappa, f"‖∇²f‖/(f − f*) is {bend / gap:.6g} or more")

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


def misfit(objective: Objective, W: Array, G: Array) -> str:
    """Return how the gradient G at W contradicts the value, or an empty string.

    The slope `⟨G, D⟩` is compared with differences of the value along G and two fixed random directions. Only gross
    errors are reported: a wrong sign, a wrong factor or a missing part. At least two step lengths must decide, and
    all that decide must contradict the slope. A kink, rounding or a non-finite value leaves the question undecided.
    """
    size = norm(G)
    if not math.isfinite(size):
        return ""
    others = [from_numpy(D, W) for D in np.random.default_rng(0).standard_normal((2, *W.shape))]
    for D in [D / norm(D) for D in (G, *others) if norm(D) > 0]:
        said = float(detach(namespace(G).sum(G * D)))
        found = list(_slopes(objective, W, D, size, said))
        if len(found) >= 2 and not any(agrees for _, agrees in found):
            seen = found[-1][0]
            times = f", {said / seen:.3g} times that" if seen else ""
            return (
                f"the gradient does not match the value: at the start the value changes by {seen:.4g} per unit of "
                f"length in a direction where the gradient says {said:.4g}{times}; a run follows the gradient, so "
                "correct one of the two"
            )
    return ""


def _slopes(objective: Objective, W: Array, D: Array, size: float, said: float) -> Iterator[tuple[float, bool]]:
    """Yield each slope of the value along D that counts, and whether it agrees; stop at the first that does."""
    value = objective.value(W)
    gap = value - objective.minimum
    unit = gap / size if size > 0 and gap > 0 else max(norm(W), 1.0)
    for h in (unit * length for length in LENGTHS if unit * length > SEEN * norm(W)):
        up, down = objective.value(W + h * D) - value, value - objective.value(W - h * D)
        least, most = min(up, down) / h, max(up, down) / h
        steep = max(abs(least), abs(most))
        clear = min(abs(up), abs(down)) > SEEN * abs(value)
        if not (math.isfinite(steep) and clear and most - least <= BENT * steep):
            continue
        slack = (most - least) + OFF * steep + 1e-3 * size
        agrees = least - slack <= said <= most + slack
        yield (least + most) / 2, agrees
        if agrees:
            return
