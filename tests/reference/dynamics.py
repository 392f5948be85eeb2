"""Gradient flow and descent on `f(c · W_1 ⋯ W_L)`, and the flows that have closed forms."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.integrate import quad_vec, solve_ivp
from scipy.linalg import expm

from .algebra import Matrix, layer_gradients, product

Gradient = Callable[[Matrix], Matrix]


def _integrate(field: Callable[[Matrix], Matrix], start: Matrix, t_eval: Sequence[float]) -> list[Matrix]:
    """DOP853 at rtol 1e-12, atol 1e-14 from t = 0; the flat states at t_eval (increasing, t ≥ 0)."""
    times = np.asarray(t_eval, dtype=float)
    if times[-1] == 0:
        return [start.copy() for _ in times]
    with np.errstate(over="ignore", invalid="ignore"):  # a trial step may overflow; it is rejected
        solution = solve_ivp(
            lambda t, y: field(y),
            (0.0, float(times[-1])),
            start,
            method="DOP853",
            t_eval=times,
            rtol=1e-12,
            atol=1e-14,
        )
    if not solution.success:
        raise RuntimeError(solution.message)
    return list(solution.y.T)


def _pack(weights: Sequence[Matrix]) -> Matrix:
    return np.concatenate([W.reshape(-1) for W in weights])


def _unpack(flat: Matrix, like: Sequence[Matrix]) -> list[Matrix]:
    result, start = [], 0
    for W in like:
        result.append(flat[start : start + W.size].reshape(W.shape).copy())
        start += W.size
    return result


def flow(
    f_grad: Gradient, weights: Sequence[Matrix], t_eval: Sequence[float], scale: float = 1.0
) -> list[list[Matrix]]:
    """Gradient flow `Ẇ_l = −∂L/∂W_l`: the weights at each time of t_eval."""

    def field(flat: Matrix) -> Matrix:
        current = _unpack(flat, weights)
        return -_pack(layer_gradients(f_grad(product(current, scale)), current, scale))

    return [_unpack(flat, weights) for flat in _integrate(field, _pack(weights), t_eval)]


def descent(
    f_grad: Gradient, weights: Sequence[Matrix], step_sizes: Sequence[float], scale: float = 1.0
) -> list[list[Matrix]]:
    """Gradient descent `W_l ← W_l − η_k ∂L/∂W_l`: the weights before the first step and after each."""
    history = [[W.copy() for W in weights]]
    for eta in step_sizes:
        current = history[-1]
        gradients = layer_gradients(f_grad(product(current, scale)), current, scale)
        history.append([W - eta * G for W, G in zip(current, gradients, strict=True)])
    return history


def two_layer_scalar(d: float, s: float, w0: float, t: float) -> float:
    """Product `w(t) = u v` of the flow on `½(s − uv)²` with `d = u² − v²` (Tarmoun et al. 2021).

    d ≠ 0: `c = |d|/2`, `r = sqrt(s² + c²)`, `p, q = (s ± r)/c`, `w = c(x − 1/x)/2`, `x = (p − qk)/(1 − k)`,
    `k(t) = (x_0 − p)/(x_0 − q) · e^{−2rt}`. The residual falls at rate 2r, the loss at 4r.
    d = 0 (Saxe et al. 2014): `w = s / (1 + (s/w_0 − 1) e^{−2st})` for w_0 > 0 and its limits for s = 0, w_0 ≤ 0.
    """
    if d == 0:
        if w0 == 0:
            return 0.0
        sign = 1.0 if w0 > 0 else -1.0
        target = sign * s
        if target == 0:
            return w0 / (1 + 2 * abs(w0) * t)
        decay = np.exp(-2 * target * t)
        return float(sign * target / (1 + (target / abs(w0) - 1) * decay))
    c = abs(d) / 2
    r = np.hypot(s, c)
    p, q = (s + r) / c, (s - r) / c
    x0 = w0 / c + np.hypot(w0 / c, 1.0)
    k = (x0 - p) / (x0 - q) * np.exp(-2 * r * t)
    x = (p - q * k) / (1 - k)
    return float(c * (x - 1 / x) / 2)


def lambda_balanced(Y: Matrix, W1: Matrix, W2: Matrix, t: float) -> Matrix:
    """Product W(t) of the flow on `½‖Y − W_1W_2‖²` from `W_1ᵀW_1 − W_2W_2ᵀ = λI` (Fukumizu; Braun et al. 2022).

    `Z = [W_1; W_2ᵀ]`, `F = [[λ/2 I, Y], [Yᵀ, −λ/2 I]]`; the upper right block of
    `ZZᵀ(t) = e^{Ft} Z_0 [I + Z_0ᵀ (∫_0^t e^{2Fs} ds) Z_0]^{−1} Z_0ᵀ e^{Ft}`.
    """
    n, m, h = W1.shape[0], W2.shape[1], W1.shape[1]
    D = W1.T @ W1 - W2 @ W2.T
    lam = float(np.trace(D) / h)
    size = max(1.0, float(np.abs(W1).max()), float(np.abs(W2).max())) ** 2
    if np.abs(D - lam * np.eye(h)).max() > 1e-10 * size:
        raise ValueError("the imbalance is not a multiple of the identity")
    Z0 = np.vstack([W1, W2.T])
    F = np.block([[lam / 2 * np.eye(n), Y], [Y.T, -lam / 2 * np.eye(m)]])
    integral = np.zeros(F.shape)
    if t > 0:  # an integral that is 0 never meets a relative tolerance
        integral, _ = quad_vec(lambda s: expm(2 * s * F), 0.0, t, epsabs=0.0, epsrel=1e-12)
    left = expm(F * t) @ Z0
    ZZ = left @ np.linalg.solve(np.eye(h) + Z0.T @ integral @ Z0, left.T)
    return ZZ[:n, n:]


def balanced_end_to_end(f_grad: Gradient, W0: Matrix, depth: int, t_eval: Sequence[float]) -> list[Matrix]:
    """Flow of the product of a balanced network (Arora et al. 2018b): the products at t_eval.

    `Ẇ = −Σ_j [WWᵀ]^{(L−j)/L} ∇f(W) [WᵀW]^{(j−1)/L}`. Powers come from the singular values of W, so directions
    outside its range are exactly 0, and a power 0 is the identity, singular or not.
    """

    def power(U: Matrix, s: Matrix, exponent: float) -> Matrix:
        if exponent == 0:
            return np.eye(U.shape[0])
        full = np.zeros(U.shape[0])
        full[: len(s)] = s ** (2 * exponent)
        return U @ np.diag(full) @ U.T

    def field(flat: Matrix) -> Matrix:
        W = flat.reshape(W0.shape)
        U, s, Vt = np.linalg.svd(W)
        G = f_grad(W)
        velocity = np.zeros(W.shape)
        for j in range(1, depth + 1):
            velocity -= power(U, s, (depth - j) / depth) @ G @ power(Vt.T, s, (j - 1) / depth)
        return velocity.reshape(-1)

    return [flat.reshape(W0.shape).copy() for flat in _integrate(field, W0.reshape(-1), t_eval)]


def end_to_end(f_grad: Gradient, W0: Matrix, t_eval: Sequence[float]) -> list[Matrix]:
    """The flow `Ẇ = −∇f(W)` of the model without overparametrization."""
    flats = _integrate(lambda flat: -f_grad(flat.reshape(W0.shape)).reshape(-1), W0.reshape(-1), t_eval)
    return [flat.reshape(W0.shape).copy() for flat in flats]
