"""The direction of each step of a descent with momentum and weight decay, and the law of the imbalance under it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from linflow._support.arrays import Array, norm
from linflow.dynamics.field import GradientField, Point
from linflow.model.optimizer import Optimizer, layer_vector


class Motion:
    """The direction u of a step `y ← y + ηu`, as `torch.optim.SGD` makes it.

    With the slope `s = −∇L − κy`, `v ← μv + s` (at the first step `v = s`), and `u = v`, or `u = s + μv` in the form
    of Nesterov. κ is the weight decay of each layer.

    Attributes:
        v: the velocity; None before the first step, and without momentum.
    """

    def __init__(self, optimizer: Optimizer, field: GradientField):
        self.momentum, self.nesterov = optimizer.momentum, optimizer.nesterov
        self.decays = optimizer.decays(field.network.depth)
        self._kappa = layer_vector(self.decays, field.network.weights, field.xp) if optimizer.weight_decay else None
        self.v: Array | None = None

    def __call__(self, y: Array, slope: Array) -> Array:
        """Return u for the slope `−∇L` of the samples of this step."""
        s = slope if self._kappa is None else slope - self._kappa * y
        if self.momentum == 0:
            return s
        v = s if self.v is None else self.momentum * self.v + s
        self.v = v
        return s + self.momentum * v if self.nesterov else v


class MotionLaw:
    """The imbalances that the steps of a `Motion` must give, by the exact law of docs/optimisers.md.

    With `⟨X, Y⟩_l = X_lᵀY_l + Y_lᵀX_l − X_{l+1}Y_{l+1}ᵀ − Y_{l+1}X_{l+1}ᵀ` and `Q(X) = ½⟨X, X⟩`, a step turns D into
    `D + ηP + η²Q(u)`. Here `P = C − 2E` in Nesterov's form with `C ← μC`, otherwise `P = C`;
    `C ← μ(C + η'⟨u', v'⟩) − 2E` with the step before, `C = −2E` at the first, and
    `E = κ_lW_lᵀW_l − κ_{l+1}W_{l+1}W_{l+1}ᵀ`, which is `κD` if all κ are equal. No `W_lᵀG_l` occurs.
    """

    def __init__(self, motion: Motion, field: GradientField):
        self.motion, self.field = motion, field
        self.D = quadratic(field.network.weights)
        self._before: tuple[Sequence[Array], Sequence[Array]] | None = None  # C and η'⟨u', v'⟩ of the step before

    def advance(self, eta: float, y: Array, u: Array) -> None:
        """Follow the step from y along u."""
        mu, kappas = self.motion.momentum, self.motion.decays
        if len(set(kappas)) == 1:
            source = [-2 * kappas[0] * D for D in self.D]
        else:
            weights = self.field.unflatten(y)
            source = [
                -2 * (a * (A.T @ A) - b * (B @ B.T))
                for (A, B), (a, b) in zip(itertools.pairwise(weights), itertools.pairwise(kappas), strict=True)
            ]
        C = source
        if self._before is not None:
            C = [mu * (c + d) + e for c, d, e in zip(*self._before, source, strict=True)]
        slope = [mu * c + e for c, e in zip(C, source, strict=True)] if self.motion.nesterov else C
        layers = self.field.unflatten(u)
        changes = quadratic(layers)
        if self.motion.v is not None:
            v = self.field.unflatten(self.motion.v)
            self._before = C, [eta * x for x in bracket(layers, v)]
        self.D = [D + eta * p + eta * eta * q for D, p, q in zip(self.D, slope, changes, strict=True)]

    def error(self, t: float, point: Point) -> float:
        """Return `max_l ‖D_l − D_l by the law‖_F` at these weights."""
        now = quadratic(self.field.unflatten(point.y))
        return max((norm(D - law) for D, law in zip(now, self.D, strict=True)), default=0.0)


def quadratic(layers: Sequence[Array]) -> list[Array]:
    """Return `Q(X)_l = X_lᵀX_l − X_{l+1}X_{l+1}ᵀ`."""
    return [A.T @ A - B @ B.T for A, B in itertools.pairwise(layers)]


def bracket(layers: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    """Return `⟨X, Y⟩_l = X_lᵀY_l + Y_lᵀX_l − X_{l+1}Y_{l+1}ᵀ − Y_{l+1}X_{l+1}ᵀ`."""
    found = []
    for (A, B), (C, D) in zip(itertools.pairwise(layers), itertools.pairwise(others), strict=True):
        left, right = A.T @ C, B @ D.T
        found.append(left + left.T - right - right.T)
    return found
