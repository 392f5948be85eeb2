"""From a lower bound α on `λ_min(T)` to guarantees on the loss gap `ℓ = L − f*`.

μ, K: strong convexity and smoothness of f; γ: gradient dominance `‖∇f‖_F² ≥ γ (f − f*)`, for instance 2μ.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .algebra import Matrix, least_tangent_eigenvalue, pos, sigma, spectral_norm
from .bounds import norm_caps


def margin(W_star: Matrix, W0: Matrix, mu: float, K: float, k: int | None = None) -> float:
    """`σ_k(W(t)) ≥ [σ_k(W*) − sqrt(K/μ) ‖W(0) − W*‖_F]_+`, for k = min(n, m) unless given."""
    k = min(W_star.shape) if k is None else k
    return pos(sigma(W_star, k) - np.sqrt(K / mu) * np.linalg.norm(W0 - W_star))


def margin_from_gap(W_star: Matrix, gap: float, mu: float, k: int | None = None) -> float:
    """`σ_k(W(t)) ≥ [σ_k(W*) − sqrt(2ℓ/μ)]_+`: never below the margin from the distance."""
    k = min(W_star.shape) if k is None else k
    return pos(sigma(W_star, k) - np.sqrt(2 * gap / mu))


def exponential(gamma: float, alpha: float, gap0: float, t: float) -> float:
    """`ℓ(t) ≤ e^{−γαt} ℓ(0)` when `λ_min(T) ≥ α` along the flow."""
    return float(np.exp(-gamma * alpha * t) * gap0)


def exponential_time(gamma: float, alpha: float, gap0: float, gap: float) -> float:
    """Time by which the exponential guarantee has come down to `gap`: `log(ℓ(0)/ε) / (γα)`."""
    if gap >= gap0:
        return 0.0
    return np.inf if alpha <= 0 else float(np.log(gap0 / gap) / (gamma * alpha))


def envelope_times(levels: Sequence[float], gamma: float, alpha: Callable[[float], float]) -> list[float]:
    """Times `t_k` by which the gap is at most `levels[k]`, for `ℓ(0) = y_0 > y_1 > …`.

    `t_k = Σ_{i<k} log(y_i/y_{i+1}) / (γ α(y_i))`, where `α(y)` bounds `λ_min(T)` on all weights with gap at most y:
    each step is charged at the rate of its larger gap.
    """
    times = [0.0]
    for upper, lower in itertools.pairwise(levels):
        times.append(times[-1] + exponential_time(gamma, alpha(upper), upper, lower))
    return times


def exponential_tail(gamma: float, alpha: float, gap0: float, t: float) -> float:
    """`ℓ(t) ≤ ℓ(0) / (1 + γ²αℓ(0)t)` when `‖∇f‖_F ≥ γ (f − f*)` and `λ_min(T) ≥ α`."""
    return gap0 / (1 + gamma**2 * alpha * gap0 * t)


def lazy_floor(weights: Sequence[Matrix], r: float, scale: float = 1.0) -> float:
    """κ(r), a lower bound on `λ_min(T)` over all weights within r (Euclidean) of these.

    `κ(r) = (sqrt(λ_min(T)) − c sqrt(Σ_l (Π_{i≠l}(‖W_i‖ + r) − Π_{i≠l}‖W_i‖)²))_+²`.
    """
    norms = [spectral_norm(W) for W in weights]
    L = len(weights)
    change = 0.0
    for l in range(L):
        far = np.prod([norms[i] + r for i in range(L) if i != l])
        near = np.prod([norms[i] for i in range(L) if i != l])
        change += float(far - near) ** 2
    return pos(np.sqrt(pos(least_tangent_eigenvalue(weights, scale))) - scale * np.sqrt(change)) ** 2


def lazy_holds(weights: Sequence[Matrix], gamma: float, gap0: float, r: float, scale: float = 1.0) -> bool:
    """Whether `2 sqrt(ℓ(0)/(γκ(r))) ≤ r`: the flow then moves at most r and its rate is at least γκ(r)."""
    kappa = lazy_floor(weights, r, scale)
    return kappa > 0 and 2 * np.sqrt(gap0 / (gamma * kappa)) <= r


@dataclass(frozen=True)
class DescentCertificate:
    """For every step k: `ℓ_{k+1} ≤ ℓ_k − η(1 − ηβ/2)‖∇L_k‖²` and `‖D_l(k) − D_l(0)‖ ≤ δ`."""

    step_size: float
    drift: float
    beta: float
    norm_caps: list[float]

    def factor(self, gamma: float, alpha: float) -> float:
        """`ℓ_{k+1} ≤ (1 − η(1 − ηβ/2)γα) ℓ_k`, α a bound valid for every imbalance within δ."""
        return 1 - self.step_size * (1 - self.step_size * self.beta / 2) * gamma * alpha


def descent_beta(
    Ds: Sequence[Matrix],
    norm_star: float,
    gap0: float,
    mu: float,
    K: float,
    eta: float,
    drift: float,
    scale: float = 1.0,
) -> tuple[float, list[float]]:
    """`(β, ω)`: the bound on the Hessian of L along each descent step, and the caps `ω_l ≥ ‖W_l‖` it rests on.

    `r_0 = sqrt(2ℓ(0)/μ)`, `B = ‖W*‖ + r_0`; ω from the norm caps at `‖W‖ ≤ B` and the drift;
    `g_l = c Π_{i≠l} ω_i sqrt(2Kℓ(0))`, `ω̄_l = ω_l + ηg_l`, `ΔW = c Σ_l ηg_l Π_{i≠l} ω̄_i`;
    `β = K c² Σ_l Π_{i≠l} ω̄_i² + K(r_0 + ΔW) λ_max(C)`, `C_ij = c Π_{k≠i,j} ω̄_k`, zero diagonal.
    """
    L = len(Ds) + 1
    r0 = np.sqrt(2 * gap0 / mu)
    omega = [float(np.sqrt(x)) for x in norm_caps(Ds, (norm_star + r0) / scale, drift)]

    def others(values: Sequence[float], *skip: int) -> float:
        return scale * float(np.prod([values[i] for i in range(L) if i not in skip]))

    g = [others(omega, l) * np.sqrt(2 * K * gap0) for l in range(L)]
    reach = [omega[l] + eta * g[l] for l in range(L)]
    moved = sum(eta * g[l] * others(reach, l) for l in range(L))
    C = np.array([[0.0 if i == j else others(reach, i, j) for j in range(L)] for i in range(L)])
    first = K * sum(others(reach, l) ** 2 for l in range(L))
    second = K * (r0 + moved) * float(np.linalg.eigvalsh(C)[-1])
    return first + second, omega


def descent_certificate(
    Ds: Sequence[Matrix],
    norm_star: float,
    gap0: float,
    mu: float,
    K: float,
    eta: float,
    scale: float = 1.0,
) -> DescentCertificate | None:
    """Certificate for gradient descent of any depth at step η, or None where `ηβ ≥ 2` or no drift cap is found.

    δ is raised from 0 until `ηℓ(0)/(1 − ηβ(δ)/2) ≤ δ`.
    """
    drift = 0.0
    for _ in range(200):
        beta, omega = descent_beta(Ds, norm_star, gap0, mu, K, eta, drift, scale)
        if eta * beta >= 2:
            return None
        needed = eta * gap0 / (1 - eta * beta / 2)
        if needed <= drift:
            return DescentCertificate(eta, drift, beta, omega)
        drift = needed * (1 + 1e-9)
    return None
