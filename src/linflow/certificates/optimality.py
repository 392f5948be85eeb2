"""How far weights are from the global minimum of the loss with weight decay, for two layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, norm, to_numpy
from linflow._support.words import shown
from linflow.model.fitting import fitted
from linflow.model.network import Network
from linflow.model.objectives import Objective

PATIENCE = 1e-3
"""The search for a better point ends when its lower bound no longer gains this part of what is left."""
LOOK = 10
"""Proximal steps between two looks at the gain."""


@dataclass(frozen=True)
class OptimalityGap:
    """Bounds on `F = f(c W_1W_2) + (λ/2)(‖W_1‖_F² + ‖W_2‖_F²)` and its global minimum F*, all less f*.

    Attributes:
        value: `F − f*` at the weights.
        lower: a lower bound on `F* − f*`.
        bound: an upper bound on the excess `F − F*`, at least `value − lower`; rounding is allowed for.
        weight_decay: λ.
        gradient: `‖∇f(W)‖` at the weights, in the spectral norm.
        threshold: `λ/c`; at a global minimum the gradient is at most this.
        steps: proximal steps to the point whose lower bound was the best.
    """

    value: float
    lower: float
    bound: float
    weight_decay: float
    gradient: float
    threshold: float
    steps: int

    @shown
    def __str__(self) -> str:
        near = "≤" if self.gradient <= self.threshold else ">"
        return (
            f"the loss with weight decay {self.weight_decay:g} is at most {self.bound:.4g} above its global minimum "
            f"(it is f* + {self.value:.6g}; ‖∇f(W)‖ = {self.gradient:.4g} {near} λ/c = {self.threshold:.4g})"
        )


def optimality_gap(
    objective: Objective, network: Network | Sequence[Any], *, weight_decay: float, steps: int = 1000
) -> OptimalityGap:
    """Bound how far any weights of two layers are from the global minimum of the loss with weight decay.

    The factored loss is not convex; its minimum is at least that of the convex `f(W) + (λ/c)‖W‖_*`, a nuclear norm,
    and the two are the same if the hidden width is at least `min(n, m)`. For any Z with `G = ∇f(Z)`, S with
    `‖S‖ ≤ λ/c` and t in [0, 1] with `t‖G‖ ≤ λ/c`, this minimum less f* is at least
    `f(Z) − f* + ⟨S, Z⟩ − ‖G + S‖_F²/(2μ)` and `t (f(Z) − f* − ⟨G, Z⟩)`. At `Z = W` with `‖∇f(W)‖ ≤ λ/c` the second
    says: the excess is at most `(λ/2)(‖W_1‖² + ‖W_2‖²) + ⟨∇f(W), W⟩`. Proximal steps from W give better Z.

    Args:
        objective: a convex objective: a built-in one, or an `Objective` that declares it.
        network: a `Network` of two layers or its weights, from any algorithm.
        weight_decay: `λ > 0`, as in `torch.optim.SGD(weight_decay=λ)` with the loss f.
        steps: largest number of proximal steps; 0 takes the weights alone. They need a finite smoothness K.

    Returns:
        An `OptimalityGap`; its `bound` is finite for any weights.

    Raises:
        ValueError: other than two layers, or an objective that is not known to be convex.

    Source: this library, docs/optimisers.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f, net = lf.MatrixFactorization(np.diag([3.0, 0.5])), lf.init.gaussian((2, 4, 2), rng=0)
        >>> run = lf.gradient_descent(f, net, step_size=0.05, steps=1000, weight_decay=0.2)
        >>> found = lf.optimality_gap(f, run.final, weight_decay=0.2)
        >>> round(found.value, 6), found.bound < 1e-9  # ½(0.2² + 0.2²) + 0.2 (2.8 + 0.3) is the minimum
        (0.66, True)
    """
    net = fitted(objective, network)
    decay = checks.positive(weight_decay, "weight_decay")
    limit = checks.count(steps, "steps", least=0)
    if net.depth != 2:
        raise ValueError(
            f"the network has depth {net.depth}; the bound is for two layers, where weight decay is the nuclear norm "
            "of the product. For more layers it is not convex, and no bound is known here."
        )
    if not objective.convex:
        raise ValueError(f"the {objective.name} is not known to be convex; declare convex=True if it is.")
    seen, inner = objective.effective(net)
    threshold = decay / net.scale
    with np.errstate(over="ignore", invalid="ignore"):
        penalty = 0.5 * decay * sum(norm(W) ** 2 for W in net.weights)
        value = objective.gap(net.product()) + penalty
        problem = _Convex(seen, inner, threshold)
        lower, at = problem.search(problem.start, value, limit)
        noise = 8 * EPS * abs(value) + objective.rounding(net)
    size = float(np.linalg.norm(to_numpy(objective.gradient(net.product())), 2))
    return OptimalityGap(value, lower, max(value - lower, 0.0) + noise, decay, size, threshold, at)


class _Convex:
    """`f(Z) + θ‖Z‖_*` on the part of the product that f sees, in NumPy."""

    def __init__(self, objective: Objective, network: Network, threshold: float):
        self.f, self.threshold, self.like = objective, threshold, network
        self.start = network.product()
        self.mu, self.K = objective.strong_convexity, objective.smoothness

    def lower(self, Z: Any) -> float:
        """Return the better lower bound at Z, lowered by its rounding; at least 0."""
        f, one = self.f, Network([Z])
        G, Zn = to_numpy(f.gradient(Z)), to_numpy(Z)
        gap, off = f.gap(Z), f.gradient_rounding(one)
        slip = f.rounding(one) + 16 * EPS * abs(gap)
        size = float(np.linalg.norm(Zn))
        largest = float(np.linalg.norm(G, 2)) * (1 + 16 * EPS * max(G.shape)) + off
        t = min(1.0, self.threshold / largest) if largest > 0 else 1.0
        inner = float(np.sum(G * Zn))
        rounded = 16 * EPS * float(np.sum(np.abs(G * Zn))) + off * size
        found = t * (gap - inner - rounded - slip)
        if self.mu > 0:
            S = self._clipped(self.mu * Zn - G)
            away = float(np.linalg.norm(G + S)) + off
            pull = float(np.sum(S * Zn)) - 16 * EPS * float(np.sum(np.abs(S * Zn)))
            found = max(found, gap + pull - away * away * (1 + 16 * EPS) / (2 * self.mu) - slip)
        return max(found, 0.0) if math.isfinite(found) else 0.0

    def _clipped(self, A: np.ndarray) -> np.ndarray:
        """Return A with its singular values cut at the threshold, to rounding below it."""
        U, s, Vt = np.linalg.svd(A, full_matrices=False)
        return (U * np.minimum(s, self.threshold * (1 - 64 * EPS * max(A.shape)))) @ Vt

    def _shrunk(self, A: Any) -> Any:
        """Return A with its singular values lowered by θ/K: the proximal point of a step 1/K."""
        xp = self.like.xp
        U, s, Vt = xp.linalg.svd(A, full_matrices=False)
        return (U * xp.where(s > self.threshold / self.K, s - self.threshold / self.K, 0.0 * s)) @ Vt

    def search(self, Z: Any, value: float, limit: int) -> tuple[float, int]:
        """Return the best lower bound along accelerated proximal steps from Z, and the step at which it was found."""
        best, at = self.lower(Z), 0
        if not (math.isfinite(self.K) and self.K > 0):
            return best, at
        ahead, t, before = Z, 1.0, best
        for k in range(1, limit + 1):
            new = self._shrunk(ahead - self.f.gradient(ahead) / self.K)
            after = 0.5 * (1 + math.sqrt(1 + 4 * t * t))
            ahead, Z, t = new + ((t - 1) / after) * (new - Z), new, after
            if k % LOOK and k > LOOK:
                continue
            if (found := self.lower(Z)) > best:
                best, at = found, k
            if k % LOOK == 0:
                if best - before <= PATIENCE * max(value - best, 0.0) and k > 3 * LOOK:
                    break
                before = best
        return best, at
