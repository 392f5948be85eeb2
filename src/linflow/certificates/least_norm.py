"""Implicit bias: how far the limit of a flow on an underdetermined regression is from the least-norm solution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support.arrays import EPS, norm, sigma
from linflow.bounds._base import plain
from linflow.bounds.ceilings import suffix_ceilings
from linflow.certificates.curves import LevelCurve
from linflow.certificates.exponential import exponential
from linflow.certificates.lazy import spectral_norms
from linflow.certificates.setting import Setting
from linflow.dynamics import Trajectory
from linflow.model.fitting import fitted
from linflow.model.network import Network, multiply
from linflow.model.objectives import Objective


@dataclass(frozen=True)
class LeastNormDistance:
    """The distance to the least-norm solution `W*`, and what the start says about the limit.

    Attributes:
        distance: `‖W − W*‖_F` of the weights given, or at the end of the run given.
        unseen: `‖(I − VVᵀ) W‖_F` of the same weights: the part of the distance that the loss does not see.
        mixing: `‖U_2 [U_1ᵀ, W_2]‖_F` of the start, with `U_1 = VᵀW_1` and `U_2 = (I − VVᵀ) W_1` (for one layer,
            `‖U_2‖_F`). If it is 0, every limit that minimises the loss is W*.
        exact: whether the mixing is 0 to rounding.
        exposure: an upper bound on `s = c ∫_0^∞ ‖∇f(W) (W_3⋯W_L)ᵀ‖ dt`; inf if no certificate gives one.
        bound: an upper bound on `‖W(∞) − W*‖_F`, known before the run; inf if there is none.
        reason: why there is no bound; empty if there is one.
    """

    distance: float
    unseen: float
    mixing: float
    exact: bool
    exposure: float
    bound: float
    reason: str = ""


def least_norm_distance(objective: Objective, network: Network | Sequence[Any] | Trajectory) -> LeastNormDistance:
    """Return how far weights, or the end of a run, are from the least-norm solution, and a bound for the limit.

    If X has rank `r < n`, many W minimise the loss, and `W* = X⁺Y` has the least norm among them. With the
    orthonormal basis V (n×r) of the row space of X, `U_1 = VᵀW_1` moves, and `U_2 = (I − VVᵀ) W_1` never does.
    The limit of the flow is W* exactly if `U_2 W_2⋯W_L` tends to 0. With `a = ‖U_2W_2‖_F` and `b = ‖U_2U_1ᵀ‖_F` of
    the start, and s the `exposure`,

        `‖W(∞) − W*‖_F ≤ c ω (a cosh s + b sinh s)`,

    where ω is an upper bound on `‖W_3⋯W_L‖` along the flow (1 for two layers). The exposure follows from the levels
    and rates of the envelope of `certify`.
    If `a = b = 0`, the flow keeps `U_2W_2 = 0` and ends at W*. Independent N(0, 1/h) entries have a and b of order
    `h^{−1/2}` and an exposure of order 1, so the distance falls like `h^{−1/2}`.

    Rounding of V and of the products is added to a and b.

    Args:
        objective: a `LinearRegression` or a `Quadratic` with B definite. If f sees the whole product, W* is its only
            minimiser.
        network: a `Network`, its weights, or a run, of which the start gives the bound and the end the distance.

    Raises:
        ValueError: f is not strictly convex on the part of the product that it sees, or it does not see all columns.

    Source: Min, Tarmoun, Vidal & Mallada 2021, for two layers of Gaussian entries; the bound with these constants,
    for any depth, is of this library (docs/theory.md, section 11).

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.LinearRegression(np.array([[1.0, 0.0]]), np.array([[1.0]]))
        >>> net = [np.array([[1.0], [0.1]]), np.array([[0.5]])]
        >>> run = lf.gradient_flow(f, net, until=1e-12)
        >>> found = lf.least_norm_distance(f, run)
        >>> found.exact, round(found.distance, 4), round(found.bound, 4)
        (False, 0.0832, 0.0834)
        >>> lf.least_norm_distance(f, [np.array([[1.0], [0.0]]), np.array([[0.5]])]).exact
        True
    """
    run = network if isinstance(network, Trajectory) else None
    net = network.start if isinstance(network, Trajectory) else network
    start = fitted(objective, net)
    last = start if run is None else run.final
    setting = Setting(objective, start)
    _check(setting)
    distance, unseen = norm(last.product() - objective.minimizer), norm(_frozen(objective, last.product()))
    if start.depth == 1:
        bound = norm(_frozen(objective, start.product()))
        noise = _noise(setting) * start.scale * start.sizes[0]
        return LeastNormDistance(distance, unseen, bound / start.scale, bound <= noise, 0.0, bound + noise)
    a, b, noise = _mixing(setting)
    mixing = math.hypot(a, b)
    if objective.row_space is None:
        return LeastNormDistance(distance, unseen, 0.0, True, 0.0, 0.0)
    exact = mixing <= 2 * noise
    exposure, omega, reason = _exposure(setting)
    if run is not None and not reason and not (run.algorithm == "flow" and run.optimizer.plain):
        what = "a descent" if run.algorithm == "descent" else f"a flow with {run.optimizer}"
        exposure, reason = math.inf, f"the bound is for the flow, and this run is {what}; its start gives the bound"
    if reason:
        return LeastNormDistance(distance, unseen, mixing, exact, math.inf, math.inf, reason)
    with np.errstate(over="ignore"):
        grown = (a + noise) * np.cosh(exposure) + (b + noise) * np.sinh(exposure)
    return LeastNormDistance(distance, unseen, mixing, exact, exposure, float(start.scale * omega * grown))


def _check(setting: Setting) -> None:
    """Raise unless the objective has one minimiser of least norm that the flow can be compared with."""
    if setting.network.shape[1] != setting.whole_network.shape[1]:
        raise ValueError(
            "the matrix B of the quadratic is singular, so f does not see all columns of W; give the transposed "
            "problem, or a definite B."
        )
    if not setting.strongly_convex:
        raise ValueError(
            f"the least-norm solution of this {setting.objective.name} is not known: it needs strong convexity on "
            "the part of the product that f sees, and the minimiser; use LinearRegression(X, Y) or "
            "Quadratic(A, C=C), or declare strong_convexity= and minimizer=."
        )


def _frozen(objective: Objective, W: Any) -> Any:
    """Return `(I − VVᵀ) W`, 0 if the objective sees all rows."""
    V = objective.row_space
    return 0.0 * W if V is None else W - V @ (V.T @ W)


def _noise(setting: Setting) -> float:
    """Return the relative rounding of a projection on the row space: 16ε of its condition number and size."""
    f = setting.objective
    return 16 * EPS * math.sqrt(max(setting.whole_network.widths)) * math.sqrt(f.smoothness / f.strong_convexity)


def _mixing(setting: Setting) -> tuple[float, float, float]:
    """Return `‖U_2W_2‖_F`, `‖U_2U_1ᵀ‖_F` and the rounding of either."""
    net, f = setting.whole_network, setting.whole_objective
    U_2 = _frozen(f, net.weights[0])
    noise = _noise(setting) * net.sizes[0] * max(net.sizes[0], net.sizes[1])
    return norm(U_2 @ net.weights[1]), norm(U_2 @ setting.network.weights[0].T), noise


def _exposure(setting: Setting) -> tuple[float, float, str]:
    """Return a bound s on `c ∫ ‖∇f(W) (W_3⋯W_L)ᵀ‖ dt`, a bound ω on `‖W_3⋯W_L‖`, and the reason if there is none.

    The envelope gives levels y_k and rates r_k. While the gap is in `[y_{k+1}, y_k]`, `λ_min(T) ≥ r_k/γ`.

    - As `‖∇f‖² ≥ γℓ`, `−d sqrt(ℓ)/dt ≥ λ_min(T) ‖∇f‖²/(2 sqrt(ℓ)) ≥ (r_k/(2 sqrt(γ))) ‖∇f‖`, which bounds the
      integral of `‖∇f‖`.
    - The path of all weights has at most the length `R = Σ_k 2 (sqrt(y_k) − sqrt(y_{k+1}))/sqrt(r_k)`, and
      `‖∂L/∂W_2‖ ≥ σ_r(U_1) c ‖∇f(W) (W_3⋯W_L)ᵀ‖`. At the length ρ of the path,
      `σ_r(U_1) ≥ max(σ_r(U_1(0)) − ρ, sqrt([λ_r(D_1)]_+))`.
    """
    if setting.gap <= 0:
        return 0.0, _later_layers(setting, 0.0), ""
    found = exponential(setting)[0]
    curve = found.curve
    if not isinstance(curve, LevelCurve):
        return math.inf, math.inf, f"no certificate bounds how long the flow takes: {found.reason}"
    roots = np.sqrt(np.append(curve.levels, 0.0))
    falls = 2 * (roots[:-1] - roots[1:])
    integral = math.sqrt(setting.gamma) * float(np.sum(falls / curve.rates))
    path = float(np.sum(falls / np.sqrt(curve.rates)))
    omega = _later_layers(setting, path)
    return min(setting.scale * omega * integral, _along_the_path(setting, path)), omega, ""


def _along_the_path(setting: Setting, path: float) -> float:
    """Return `∫_0^R dρ/max(σ_r(U_1) − ρ, sqrt([λ_r(D_1)]_+))`, inf if the path may end where this floor is 0."""
    first = setting.network.weights[0]
    rows = first.shape[0]
    if rows > first.shape[1]:
        return math.inf
    at_start = max(float(sigma(first, rows)) - 16 * EPS * rows * setting.network.sizes[0], 0.0)
    kept = math.sqrt(float(setting.invariants.spectra[0].at_least(rows)))
    while_near = min(path, max(at_start - kept, 0.0))
    later = path - while_near
    if while_near >= at_start:
        return math.inf
    return -math.log1p(-while_near / at_start) + (later / kept if later > 0 else 0.0)


def _later_layers(setting: Setting, path: float) -> float:
    """Return an upper bound on `‖W_3⋯W_L‖` along the flow: from its start and the path, or from the imbalance."""
    if setting.depth == 2:
        return 1.0
    sizes = spectral_norms(setting.network)[2:]
    moved = float(np.prod(sizes + path) - np.prod(sizes))
    from_start = float(sigma(multiply(setting.network.weights[2:]), 1)) * (1 + 1e-12) + moved
    largest = float(setting.ranges[2][0]) / setting.scale
    return min(from_start, math.sqrt(float(suffix_ceilings(plain(setting.invariants.spectra), largest)[2])))
