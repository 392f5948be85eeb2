"""Symmetric factorization: two tied layers `X Xᵀ`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, to_numpy
from linflow.exact._inputs import instants, matrices
from linflow.exact._riccati import riccati
from linflow.exact.reduced import integrate
from linflow.exact.two_layers import echelon, factor
from linflow.model.objectives import Objective

_TOLERANCE = 1e-10


def symmetric(Y: Any, X: Any, t: Any) -> Array:
    """Return the product `Q(t) = X Xᵀ` of tied layers on `¼‖Y − XXᵀ‖_F²`, whose flow is `Ẋ = (Y − XXᵀ) X`.

    `Q̇ = YQ + QY − 2Q²`, so that

    `Q(t) = e^{Yt} X_0 [I + 2 X_0ᵀ (∫_0^t e^{2Ys} ds) X_0]^{−1} X_0ᵀ e^{Yt}`.

    Y may have negative eigenvalues. Two layers `[X, Xᵀ]` that are not tied follow the same flow in exact arithmetic,
    and every certificate of theirs holds for it; but if Y has negative eigenvalues, rounding makes a run leave it.

    Args:
        Y: symmetric target, shape `(n, n)`.
        X: the start `X(0)`, shape `(n, h)`, any h.
        t: time or times.

    Returns:
        Shape `(n, n)`, or `(len(t), n, n)` for a sequence, of the kind of X. The error is at the level of rounding of
        `‖X‖²`. The part of the start along an eigenvector of Y counts as 0 if it is below 4ε‖X_0‖.

    Raises:
        ValueError: Y is not symmetric, or the shapes do not fit.

    Source: Min & Vidal (2025); Tarmoun et al. (ICML 2021).

    Example:
        >>> import numpy as np
        >>> from linflow.exact import symmetric
        >>> [np.diag(Q).round(4).tolist() for Q in symmetric(np.diag([2.0, -1.0]), 0.1 * np.eye(2), [1.0, 20.0])]
        [[0.4306, 0.0013], [2.0, 0.0]]
    """
    target, start, like, times = *_inputs(Y, X), instants(t)
    f, V = np.linalg.eigh(target)
    f, V = f[::-1], V[:, ::-1]
    rotated, pivots = echelon(V.T @ (math.sqrt(2) * start))
    halves = [factor(f, V, rotated, pivots, s) for s in np.atleast_1d(times)]
    products = [0.5 * (half.T @ half) for half in halves]
    return matrices(np.reshape(products, (len(products), *target.shape)), times, like)


def symmetric_end_to_end(objective: Objective, X: Any, t: Any) -> Array:
    """Return the product `Q(t) = X Xᵀ` of tied layers for any objective, integrated without X.

    The loss `½ f(XXᵀ)` has the flow `Ẋ = −S X` with the symmetric part `S = ½(∇f + ∇fᵀ)` of the gradient, and so
    `Q̇ = −(SQ + QS)`: the product does not depend on how X is chosen. The integrator is that of
    `balanced_end_to_end`.

    Args:
        objective: f, of square matrices.
        X: the start `X(0)`, shape `(n, h)`, any h.
        t: time or times.

    Returns:
        Shape `(n, n)`, or `(len(t), n, n)` for a sequence, of the kind of X.

    Raises:
        ValueError: X does not have n rows, f is not about square matrices, or the integration cannot continue.

    Source: Li, Luo & Lyu (ICLR 2021), section 3.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.exact import symmetric_end_to_end
        >>> f = lf.MatrixFactorization(np.diag([2.0, -1.0]))
        >>> symmetric_end_to_end(f, 0.1 * np.eye(2), 1.0).round(4)
        array([[0.4306, 0.    ],
               [0.    , 0.0013]])
    """
    n, m = objective.shape
    if n != m:
        raise ValueError(f"the objective is about {n}×{m} matrices; XXᵀ is square, so give an n×n objective.")
    X, times = checks.matrix(X, "X", (n, None))[0], instants(t)

    def velocity(Q: np.ndarray, G: np.ndarray) -> np.ndarray:
        moved = 0.5 * (G + G.T) @ Q
        return -(moved + moved.T)

    return integrate(objective, velocity, X @ X.T, times)


def symmetric_bounds(Y: Any, X: Any, t: Any) -> tuple[Array, Array]:
    """Return bounds of the eigenvalues of `Q(t) = X Xᵀ` on `¼‖Y − XXᵀ‖_F²`, from the start alone.

    Let `a ≤ b` be the least and the greatest eigenvalue of `X_0X_0ᵀ`, and `r_i(t; a)` the solution of
    `ṙ = 2r(y_i − r)`, `r(0) = a`, for the i-th eigenvalue `y_i` of Y. Then `r_i(t; a) ≤ λ_i(Q(t)) ≤ r_i(t; b)` at
    every time: the eigenvalues are learned one after the other, whatever the directions of the start (docs/exact.md).

    Args:
        Y: symmetric target, shape `(n, n)`.
        X: the start `X(0)`, shape `(n, h)`. With `h < n` the lower bounds are 0.
        t: time or times.

    Returns:
        Lower and upper bounds, greatest eigenvalue first: shape `(n,)`, or `(len(t), n)` for a sequence.

    Raises:
        ValueError: Y is not symmetric, or the shapes do not fit.

    Source: this library; closed form of Min & Vidal (2025).

    Example:
        >>> import numpy as np
        >>> from linflow.exact import symmetric_bounds
        >>> low, high = symmetric_bounds(np.diag([2.0, 1.0]), np.diag([0.1, 0.2]), 2.0)
        >>> low.round(3), high.round(3)
        (array([1.875, 0.355]), array([1.968, 0.695]))
    """
    target, start, like, times = *_inputs(Y, X), instants(t)
    y = np.linalg.eigvalsh(target)[::-1]
    sizes = np.linalg.svd(start, compute_uv=False)
    least = sizes[-1] ** 2 if start.shape[1] >= start.shape[0] else 0.0
    low, high = (
        np.stack([riccati(0.0, float(each), float(a), np.atleast_1d(times)) for each in y], axis=1)
        for a in (least, sizes[0] ** 2)
    )
    shape = (*times.shape, len(y))
    return from_numpy(low.reshape(shape), like), from_numpy(high.reshape(shape), like)


def _inputs(Y: Any, X: Any) -> tuple[np.ndarray, np.ndarray, Array]:
    """Return target and start in NumPy, and the start as it was given."""
    X, _ = checks.matrix(X, "X")
    n = X.shape[0]
    target = to_numpy(checks.matrix(Y, "Y", (n, n))[0])
    off = float(np.linalg.norm(target - target.T))
    if off > _TOLERANCE * float(np.linalg.norm(target)):
        raise ValueError(
            f"Y is not symmetric: ‖Y − Yᵀ‖ is {off:.3g}. The loss depends only on (Y + Yᵀ)/2, up to a constant; "
            "give that."
        )
    return 0.5 * (target + target.T), to_numpy(X), X
