"""Stateless step-size rules for gradient descent, created by `linflow.schedules`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from linflow._support.arrays import sigma
from linflow.dynamics.descent import Iterate
from linflow.dynamics.local_smoothness import along_the_step, first_root, local_constant, smoothness_now
from linflow.geometry.operator import TangentOperator
from linflow.model.network import multiply
from linflow.model.objectives import Objective

FORMS = ("step", "curvature", "two layers", "printed")
"""Forms of `K_t`."""


@dataclass(frozen=True)
class Backtracking:
    """Armijo's rule; see `backtracking`."""

    initial: float
    shrink: float
    grow: float
    slope: float

    def step(self, iterate: Iterate) -> float:
        """Return the first trial step that the rule accepts."""
        field, point = iterate.field, iterate.point
        eta = self.initial if iterate.last is None else iterate.last * self.grow
        wanted = self.slope * point.speed * point.speed
        noise = field.objective.rounding(iterate.network)
        for _ in range(math.ceil(1500 / -math.log(self.shrink))):  # from the largest float to the smallest, and more
            moved = field.unflatten(point.y + eta * point.slope)
            gap = field.objective.gap(field.network.scale * multiply(moved))
            if gap <= point.gap - eta * wanted or (eta * wanted <= noise and gap <= point.gap + noise):
                break
            if eta * self.shrink == 0:
                break
            eta *= self.shrink
        return eta


@dataclass(frozen=True)
class LocalSmoothnessSchedule:
    """The step `1/K_t` of the curvature at the current weights; see `local_smoothness`."""

    form: str

    def step(self, iterate: Iterate) -> float:
        """Return the smallest η with `η K_t(η) = 1`."""
        return _local_step(iterate, self.form)


@dataclass(frozen=True)
class Xu2025:
    """A growing step, at most `1/K_t`; see `xu2025`."""

    first: float

    def step(self, iterate: Iterate) -> float:
        """Return `min((1 + η_0²)^{t/2} η_0, 1/K_t)`."""
        grown = self.first * math.exp(min(iterate.k * growth(self.first), 600.0))
        return min(grown, _local_step(iterate, "printed"))


def growth(first: float) -> float:
    """Return `½ log(1 + η_0²)`, also if the square leaves float64."""
    return 0.5 * math.log1p(first**2) if first < 1e150 else math.log(first)


def check_form(objective: Objective, depth: int, form: str) -> None:
    """Raise unless `K_t` of this form is defined for the objective and the depth."""
    if math.isinf(smoothness_now(objective, 1.0)):
        raise ValueError(
            "no smoothness K is known for the objective; declare smoothness=, or use schedules.backtracking()."
        )
    if form in {"two layers", "printed"} and depth != 2:
        raise ValueError(f'K_t of the form {form!r} is for two layers, not {depth}; use local_smoothness("step").')
    if form == "curvature" and not objective.quadratic:
        raise ValueError(
            f'K_t of the form "curvature" is for quadratic objectives, and this is a {objective.name}; use '
            'local_smoothness("step").'
        )


def _local_step(iterate: Iterate, form: str) -> float:
    """Return the smallest η with `η K_t(η) = 1`; 1/K if the gradient is zero."""
    objective, net, point = iterate.field.objective, iterate.network, iterate.point
    check_form(objective, net.depth, form)
    K = smoothness_now(objective, point.gap)
    if K == 0.0 or not math.isfinite(K):  # a loss that has left float64 on either side
        return 1.0
    if point.speed == 0.0 or not point.finite:
        return 1 / K
    if form in {"step", "curvature"}:
        eta = along_the_step(iterate.field, net, point, form)[0]
        return eta if math.isfinite(eta) else 1 / K
    printed = form == "printed"
    greatest = float(TangentOperator(objective.effective(net)[1]).greatest_eigenvalue())
    size, gap = float(sigma(net.product(), 1)), max(point.gap, 0.0)

    def constant_at(eta: float) -> float:
        return local_constant(K, greatest, gap, size, eta, net.scale, printed=printed)

    # K_t is a quadratic polynomial in η; three values at the natural unit give its coefficients.
    unit = 1 / constant_at(0.0)
    a, b, c = constant_at(0.0), constant_at(unit), constant_at(2 * unit)
    second = (c - 2 * b + a) / 2
    if not math.isfinite(unit * (abs(a) + abs(b) + abs(c))):
        return 1 / K
    return unit * first_root([unit * a, unit * (b - a - second), unit * second])
