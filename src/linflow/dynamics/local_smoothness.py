"""The smoothness `K_t` of the loss along one step of gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from linflow._support.arrays import Array, detach, to_numpy
from linflow.dynamics.field import GradientField, Point
from linflow.model.network import Network
from linflow.model.objectives import Objective


def local_constant(
    K: float, greatest: float, gap: float, size: float, eta: float, scale: float = 1.0, *, printed: bool = False
) -> float:
    """Return `K_t` with `ℓ⁺ ≤ ℓ − η(1 − ηK_t/2)‖∇L‖²` for one step η of a two-layer model.

    `K_t = K λ_max(T) + c sqrt(2Kℓ) + a c³K² σ_max(W) ℓ η² + b c K λ_max(T) sqrt(2Kℓ) η` with `a = b = 1`; the paper
    prints `a = 6` and `b = 3`. Proof: docs/descent.md.

    Args:
        K: smoothness of f.
        greatest: `λ_max(T)`, output scale included.
        gap: ℓ.
        size: `σ_max(W)`.
        eta: η.
        scale: the output scale c.
        printed: use the constants printed in the paper, which are larger than needed.

    Source: Xu, Min, Tarmoun, Mallada & Vidal 2025, with a, b, the scale c and the proof from this library.

    Example:
        >>> from linflow.dynamics.local_smoothness import local_constant
        >>> local_constant(1.0, 2.0, 0.5, 1.0, 0.1), local_constant(1.0, 2.0, 0.5, 1.0, 0.1, printed=True)
        (3.205, 3.63)
    """
    a, b = (6.0, 3.0) if printed else (1.0, 1.0)
    slope = scale * math.sqrt(2 * K * gap)
    return K * greatest + slope + a * scale**3 * K * K * size * gap * eta * eta + b * K * greatest * slope * eta


def smoothness_now(objective: Objective, gap: float) -> float:
    """Return the smoothness of f that a step from this gap meets if it does not raise the loss.

    For exponential and logistic loss it falls with the gap. They are convex: while `ℓ(η) ≤ ℓ`, the segment from W to
    `W(η)` lies in the level set.
    """
    falls = objective.derived and objective.tail is not None
    # The gap is rounded by less than this unless the product is far larger than a loss of its size allows.
    return objective.smoothness_on(max(gap, 0.0) * (1 + 1e-9)) if falls else objective.smoothness


def along_the_step(field: GradientField, net: Network, point: Point, form: str = "step") -> tuple[float, float]:
    """Return the smallest η with `η K_t(η) = 1` and that with `η K_t(η) = 2`, for the product along this step.

    NaN if the gradient is so small, or the weights so large, that their squares leave the range of float64.
    """
    objective, xp, squared = field.objective, net.xp, point.speed * point.speed
    moves = _product_polynomial(net, field.unflatten(point.slope))
    W, moves = moves[0], moves[1:]
    L = len(moves)
    # If `⟨V, ∇²f[V]⟩` is unknown, `K ‖V‖²` replaces it.
    bent = (
        [objective.hessian_product(W, M) for M in moves]
        if form == "curvature"
        else [smoothness_now(objective, point.gap) * M for M in moves]
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
    return float(unit * first_root(list(coefficients))), float(unit * first_root(list(coefficients / 2)))


def _product_polynomial(net: Network, moves: Sequence[Array]) -> list[Array]:
    """Return `M_0, …, M_L` with `c Π_l (W_l + ηV_l) = Σ_k η^k M_k`, multiplied from the narrower end."""
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


def first_root(coefficients: Sequence[float]) -> float:
    """Return the smallest τ > 0 with `τ Σ_k a_k τ^k = 1`, lowered to allow for rounding."""
    polynomial = np.array([-1.0, *coefficients])
    largest = np.abs(polynomial).max()
    while len(polynomial) > 2 and abs(polynomial[-1]) < 1e-300 * largest:
        polynomial = polynomial[:-1]
    roots = np.roots(polynomial[::-1])
    real = roots.real[(np.abs(roots.imag) <= 1e-7 * np.abs(roots)) & (roots.real > 0)]
    if real.size == 0:
        return 1.0
    return float(real.min()) * (1 - 1e-9)
