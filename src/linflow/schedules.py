"""Step sizes for gradient descent: rules that `gradient_descent(..., schedule=...)` takes.

A schedule has one method, `step(iterate) -> η`; the iterate holds the weights, the gap, the gradient, the number of
steps done and the last step. Schedules keep no state, so one may serve several runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, detach, sigma, to_numpy
from linflow._support.names import missing
from linflow.certificates.descent import safe_step_size
from linflow.certificates.published_descent import local_constant
from linflow.dynamics.descent import Iterate, Schedule
from linflow.dynamics.field import GradientField, Point
from linflow.geometry.operator import TangentOperator
from linflow.model.network import Network, multiply
from linflow.model.objectives import Objective

__all__ = ["Iterate", "Schedule", "backtracking", "constant", "local_smoothness", "xu2025"]

if not TYPE_CHECKING:  # a checker knows the names
    __getattr__ = missing(__name__, __all__)

FORMS = ("step", "curvature", "two layers", "printed")


@dataclass(frozen=True)
class Constant:
    """The same step always."""

    step_size: float

    def step(self, iterate: Iterate) -> float:
        """Return η."""
        return self.step_size


def constant(step_size: float) -> Constant:
    """Return the schedule of a constant step, the same as `step_size=`.

    Raises:
        ValueError: a step that is not positive.

    Example:
        >>> import linflow as lf
        >>> from linflow import schedules
        >>> schedules.constant(0.1)
        Constant(step_size=0.1)
    """
    return Constant(checks.positive(step_size, "step_size"))


@dataclass(frozen=True)
class Backtracking:
    """Armijo's rule; see `backtracking`."""

    initial: float
    shrink: float
    grow: float
    slope: float

    def step(self, iterate: Iterate) -> float:
        """Return the first step of the sequence that the rule accepts."""
        field, point = iterate.field, iterate.point
        eta = self.initial if iterate.last is None else iterate.last * self.grow
        wanted = self.slope * point.speed * point.speed
        noise = field.objective.rounding(iterate.network)
        for _ in range(1100):  # from the largest float to the smallest in halves, and more
            moved = field.unflatten(point.y + eta * point.slope)
            gap = field.objective.gap(field.network.scale * multiply(moved))
            if gap <= point.gap - eta * wanted or (eta * wanted <= noise and gap <= point.gap + noise):
                break
            if eta * self.shrink == 0:
                break
            eta *= self.shrink
        return eta


def backtracking(initial: float = 1.0, *, shrink: float = 0.5, grow: float = 2.0, slope: float = 0.5) -> Backtracking:
    """Return Armijo's rule: `L(W − η∇L) ≤ L − slope · η‖∇L‖²`.

    Trials start at `initial`, later at `grow` times the last step, and are multiplied by `shrink` until accepted. It
    needs no constant of the objective and one or two evaluations of the loss per step. With `slope = ½` a step is
    accepted as soon as `ηK_t ≤ 1` in `local_smoothness`, so it takes at least `shrink` times that one. Decreases
    below rounding are not asked for.

    Args:
        initial: the first trial, positive.
        shrink: in (0, 1).
        grow: at least 1.
        slope: in (0, 1).

    Raises:
        ValueError: numbers out of range.

    Source: Armijo 1966.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow import schedules
        >>> net = [np.eye(2), 0.1 * np.eye(2)]
        >>> f = lf.MatrixFactorization(np.eye(2))
        >>> run = lf.gradient_descent(f, net, schedule=schedules.backtracking(), steps=100, until=1e-9)
        >>> run.result.value, run.stats.steps < 30
        ('target reached', True)
    """
    if not checks.positive(grow, "grow") >= 1:
        raise ValueError(f"grow is {grow!r}; a number of at least 1 is needed.")
    for value, name in ((shrink, "shrink"), (slope, "slope")):
        if not 0 < checks.positive(value, name) < 1:
            raise ValueError(f"{name} is {value!r}; a number in (0, 1) is needed.")
    return Backtracking(checks.positive(initial, "initial"), float(shrink), float(grow), float(slope))


@dataclass(frozen=True)
class LocalSmoothness:
    """The step `1/K_t` of the curvature at the current weights; see `local_smoothness`."""

    form: str

    def step(self, iterate: Iterate) -> float:
        """Return the least η with `η K_t(η) = 1`."""
        return _local_step(iterate, self.form)


def local_smoothness(form: str = "step") -> LocalSmoothness:
    """Return the rule `η = 1/K_t`, where `ℓ⁺ ≤ ℓ − η(1 − ηK_t/2)‖∇L‖²` holds for the step itself.

    So `ℓ⁺ ≤ ℓ − (η/2)‖∇L‖²`, at any weights: the loss never rises. `K_t` depends on η, and `η K_t(η) = 1` is solved.

    - `"step"`, any depth: the product after a step is `W(η) = Σ_k η^k M_k`, a polynomial, and K-smoothness gives
      `K_t(η) = (2 Σ_{k≥2} η^{k−2} ⟨∇f, M_k⟩ + K ‖Σ_{k≥1} η^{k−1} M_k‖²)/‖∇L‖²`, which follows the direction taken.
    - `"curvature"`, any depth, quadratic objectives: the same with `⟨V, ∇²f[V]⟩` in place of `K ‖V‖²`. The inequality
      is then an equality, the step at least that of "step" from the same weights, and the loss falls by exactly
      `(η/2)‖∇L‖²`; with one layer it is the exact line search.
    - `"two layers"`: `K_t = K λ_max(T) + c sqrt(2Kℓ) + c³K² σ_max(W) ℓ η² + cK λ_max(T) sqrt(2Kℓ) η`, for the worst
      direction at these weights.
    - `"printed"`: the same with the constants 6 and 3 before the last two terms.

    Proofs: docs/descent.md.

    Args:
        form: one of the four.

    Raises:
        ValueError: another form; on use, an objective without smoothness or one that is not quadratic for
            "curvature", or other depths for the last two.

    Source: Xu, Min, Tarmoun, Mallada & Vidal 2025 for two layers; "step" and "curvature" are of this library.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow import schedules
        >>> f, net = lf.MatrixFactorization(np.eye(2)), [np.eye(2), np.eye(2), 0.1 * np.eye(2)]
        >>> run = lf.gradient_descent(f, net, schedule=schedules.local_smoothness(), steps=100, until=1e-9)
        >>> run.result.value, run.stats.steps < 30
        ('target reached', True)
    """
    return LocalSmoothness(checks.choice(form, "form", FORMS))


@dataclass(frozen=True)
class Xu2025:
    """A growing step, at most `1/K_t`; see `xu2025`."""

    first: float

    def step(self, iterate: Iterate) -> float:
        """Return `min((1 + η_0²)^{t/2} η_0, 1/K_t)`."""
        exponent = 0.5 * iterate.k * math.log1p(self.first**2)
        grown = self.first * math.exp(min(exponent, 600.0))
        return min(grown, _local_step(iterate, "printed"))


def xu2025(objective: Objective, network: Network | Sequence[Any], first: float | None = None) -> Xu2025:
    """Return the schedule `η_t = min((1 + η_0²)^{t/2} η_0, 1/K_t)` for two layers.

    `K_t` is that of `local_smoothness("printed")` and `η K_t(η) = 1` is solved exactly, so the loss never rises. The
    growth from `η_0` keeps the imbalance near its start while the loss is large.

    Args:
        objective: what is minimised, with finite smoothness.
        network: the start, two layers.
        first: `η_0`; `safe_step_size(objective, network)` when left out.

    Raises:
        ValueError: not two layers, no smoothness, or no safe step when `first` is left out.

    Source: Xu, Min, Tarmoun, Mallada & Vidal 2025.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow import schedules
        >>> f, net = lf.MatrixFactorization(2 * np.eye(2)), [np.eye(2), 1.8 * np.eye(2)]
        >>> run = lf.gradient_descent(f, net, schedule=schedules.xu2025(f, net), steps=60)
        >>> bool(run.step_sizes[-1] > run.step_sizes[0])
        True
    """
    net = Network.of(network).detach()
    objective.check_network(net)
    check_form(objective, net.depth, "printed")
    eta = safe_step_size(objective, net) if first is None else checks.positive(first, "first")
    return Xu2025(eta)


def check_form(objective: Objective, depth: int, form: str) -> None:
    """Raise unless `K_t` of this form is defined for the objective and the depth."""
    if math.isinf(objective.smoothness):
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
    """Return the least η with `η K_t(η) = 1`; 1/K where the gradient is zero."""
    objective, net, point = iterate.field.objective, iterate.network, iterate.point
    check_form(objective, net.depth, form)
    K = objective.smoothness
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

    # K_t is a polynomial of degree two in η: its coefficients from three values at the natural unit.
    unit = 1 / constant_at(0.0)
    a, b, c = constant_at(0.0), constant_at(unit), constant_at(2 * unit)
    second = (c - 2 * b + a) / 2
    if not math.isfinite(unit * (abs(a) + abs(b) + abs(c))):
        return 1 / K
    return unit * _first_root([unit * a, unit * (b - a - second), unit * second])


def along_the_step(field: GradientField, net: Network, point: Point, form: str = "step") -> tuple[float, float]:
    """Return the least η with `η K_t(η) = 1` and that with `η K_t(η) = 2`, for the product along this very step.

    NaN where the gradient is so small, or the weights so large, that they leave float64 when squared.
    """
    objective, xp, squared = field.objective, net.xp, point.speed * point.speed
    moves = _product_polynomial(net, field.unflatten(point.slope))
    W, moves = moves[0], moves[1:]
    L = len(moves)
    # Where `⟨V, ∇²f[V]⟩` is not known, `K ‖V‖²` stands for it.
    bent = (
        [objective.hessian_product(W, M) for M in moves]
        if form == "curvature"
        else [objective.smoothness * M for M in moves]
    )
    flat, other = (
        xp.stack([xp.reshape(detach(M), (-1,)) for M in group]) for group in ([objective.gradient(W), *moves], bent)
    )
    slopes = to_numpy(flat @ flat[0, :])[1:]
    gram = to_numpy(flat[1:, :] @ other.T)
    # Coefficients of τ ↦ η K_t(η), η = unit · τ.
    coefficients = np.zeros(2 * L - 1)
    with np.errstate(all="ignore"):
        unit = np.float64(squared) / gram[0, 0]
        for k in range(1, L):
            coefficients[k - 1] += 2 * slopes[k] * unit**k / squared
        for i in range(L):
            for j in range(L):
                coefficients[i + j] += gram[i, j] * unit ** (i + j + 1) / squared
    if not (unit > 0 and np.isfinite(coefficients).all()):
        return math.nan, math.nan
    return float(unit * _first_root(list(coefficients))), float(unit * _first_root(list(coefficients / 2)))


def _product_polynomial(net: Network, moves: Sequence[Array]) -> list[Array]:
    """Return `M_0, …, M_L` with `c Π_l (W_l + ηV_l) = Σ_k η^k M_k`, from the narrower end."""
    reverse = net.shape[0] > net.shape[1]
    pairs = list(zip(net.weights, moves, strict=True))
    pairs = pairs[::-1] if reverse else pairs
    W, V = pairs[0]
    terms: list[Array] = [net.scale * W, net.scale * V]
    for W, V in pairs[1:]:
        kept = [W @ M if reverse else M @ W for M in terms]
        moved = [V @ M if reverse else M @ V for M in terms]
        terms = [kept[0], *(a + b for a, b in zip(kept[1:], moved[:-1], strict=True)), moved[-1]]
    return terms


def _first_root(coefficients: Sequence[float]) -> float:
    """Return the least τ > 0 with `τ Σ_k a_k τ^k = 1`, lowered by rounding."""
    polynomial = np.array([-1.0, *coefficients])
    largest = np.abs(polynomial).max()
    while len(polynomial) > 2 and abs(polynomial[-1]) < 1e-300 * largest:
        polynomial = polynomial[:-1]
    roots = np.roots(polynomial[::-1])
    real = roots.real[(np.abs(roots.imag) <= 1e-7 * np.abs(roots)) & (roots.real > 0)]
    if real.size == 0:
        return 1.0
    return float(real.min()) * (1 - 1e-9)
