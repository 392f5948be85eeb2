"""Flows of the product alone: balanced layers, and no layers at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, to_numpy
from linflow.exact._inputs import instants, matrices
from linflow.model.objectives import Objective


def balanced_end_to_end(objective: Objective, W0: Any, depth: int, t: Any, *, scale: float = 1.0) -> Array:
    """Return the product `W(t)` of balanced layers, integrated without the layers.

    `Ẇ = −c^{2/L} Σ_{j=1}^{L} [WWᵀ]^{(L−j)/L} ∇f(W) [WᵀW]^{(j−1)/L}`, where a power 0 is the identity. In the singular
    vectors of W, with its singular values padded by zeros, the entry (a, b) of the gradient is multiplied by
    `Σ_j σ_a^{2(L−j)/L} σ_b^{2(j−1)/L}`. The integrator is Dormand–Prince of order 8, with a relative tolerance of
    10⁻¹³ per step.

    Args:
        objective: f.
        W0: `W(0)`, shape `(n, m)`.
        depth: `L`, the number of layers, all wide enough to hold the product.
        t: time or times.
        scale: the output scale `c`.

    Returns:
        Shape `(n, m)`, or `(len(t), n, m)` for a sequence, of the kind of `W0`.

    Raises:
        ValueError: `W0` does not have the objective's shape, or the integration cannot continue.

    Source: Arora, Cohen & Hazan (ICML 2018), Theorem 1.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.exact import balanced_end_to_end
        >>> f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
        >>> balanced_end_to_end(f, 0.1 * np.eye(2), 3, 20.0).round(9) + 0.0
        array([[2., 0.],
               [0., 1.]])
    """
    W0, L, times = _start(objective, W0), checks.count(depth, "depth"), instants(t)
    speed = checks.positive(scale, "scale") ** (2 / L)
    powers = 2 * np.arange(L) / L

    def velocity(W: np.ndarray, G: np.ndarray) -> np.ndarray:
        U, s, Vt = np.linalg.svd(W)
        left, right = (np.concatenate([s, np.zeros(side - len(s))])[:, None] ** powers for side in W.shape)
        return -speed * (U @ ((left[:, ::-1] @ right.T) * (U.T @ G @ Vt.T)) @ Vt)

    return integrate(objective, velocity, W0, times)


def non_overparametrized(objective: Objective, W0: Any, t: Any) -> Array:
    """Return the solution of `Ẇ = −∇f(W)`: the flow without layers, which has rate γ.

    For a quadratic objective `f = f* + ½‖F(W − W*)H‖²`, with `FᵀF = V diag(a) Vᵀ` and `HHᵀ = U diag(b) Uᵀ`, the
    entries of `Vᵀ(W − W*)U` decay as `e^{−a_i b_j t}`, so the solution is exact. Other objectives are integrated as
    in `balanced_end_to_end`.

    Args:
        objective: f.
        W0: `W(0)`, shape `(n, m)`.
        t: time or times.

    Returns:
        Shape `(n, m)`, or `(len(t), n, m)` for a sequence, of the kind of `W0`.

    Raises:
        ValueError: `W0` does not have the objective's shape, or the integration cannot continue.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.exact import non_overparametrized
        >>> f = lf.LinearRegression(np.diag([1.0, 2.0]), np.array([[1.0], [2.0]]))
        >>> non_overparametrized(f, np.zeros((2, 1)), np.log(2.0)).ravel()
        array([0.5   , 0.9375])
    """
    W0, times = _start(objective, W0), instants(t)
    if objective.factors is None:
        return integrate(objective, lambda W, G: -G, W0, times)
    n, m = objective.shape
    F, H = objective.factors
    a, V = _squares(F, n)
    b, U = _squares(None if H is None else H.T, m)
    end = to_numpy(objective.minimizer)
    modes = V.T @ (to_numpy(W0) - end) @ U
    with np.errstate(under="ignore"):
        decay = np.exp(-np.multiply.outer(np.atleast_1d(times), np.outer(a, b)))
    return matrices(end + V @ (modes * decay) @ U.T, times, W0)


def _start(objective: Objective, W0: Any) -> Array:
    W0, _ = checks.matrix(W0, "W0", objective.shape)
    return W0


def _squares(F: Array | None, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues and eigenvectors of `FᵀF`; None stands for the identity."""
    if F is None:
        return np.ones(side), np.eye(side)
    _, s, Vt = np.linalg.svd(to_numpy(F))
    return np.concatenate([s**2, np.zeros(side - len(s))]), Vt.T


def integrate(
    objective: Objective,
    velocity: Callable[[np.ndarray, np.ndarray], np.ndarray],
    W0: Array,
    times: np.ndarray,
) -> Array:
    """Integrate `Ẇ = velocity(W, ∇f(W))`, with a step ending at each time, so nothing is interpolated."""
    from scipy.integrate import solve_ivp  # noqa: PLC0415 - scipy.integrate is slow to import

    start = to_numpy(W0)
    shape = start.shape

    def field(_: float, y: np.ndarray) -> np.ndarray:
        W = y.reshape(shape)
        if not np.all(np.isfinite(y)):  # a trial step that overflowed: it is rejected
            return np.full(y.shape, math.nan)
        return velocity(W, to_numpy(objective.gradient(from_numpy(W, W0)))).ravel()

    instants_, places = np.unique(np.atleast_1d(times), return_inverse=True)
    now, y, found = 0.0, start.ravel(), []
    for instant in instants_:
        if instant > now:
            with np.errstate(over="ignore", invalid="ignore"):
                run = solve_ivp(field, (now, instant), y, method="DOP853", t_eval=[instant], rtol=1e-13, atol=1e-16)
            if not run.success:
                raise ValueError(f"the flow could not be integrated to t = {instant:g}: {run.message}")
            now, y = float(instant), run.y[:, -1]
        found.append(y.reshape(shape))
    return matrices(np.stack(found)[places] if found else np.zeros((0, *shape)), times, W0)
