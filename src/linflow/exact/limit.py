"""The limit of the flow of diagonal and circular networks on an underdetermined regression, as a convex program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, to_numpy
from linflow.exact._exposure import ExposedChains
from linflow.exact.chain_rate import least_slope
from linflow.model.coefficients import ChainRegression
from linflow.model.fitting import fitted, objective_of
from linflow.model.network import Network
from linflow.model.objectives import Objective

FACTOR = 3.0
"""From one start of the path to the next, the weights shrink by this factor."""
_ROUNDS, _HALVINGS = 400, 60
_CLOSE = 1e-12
"""Relative residual of the data at which Newton's method ends on the path; at its end it goes on to rounding."""


@dataclass(frozen=True)
class PredictedLimit:
    """The solution that a flow ends at, known from its start, with the error of the prediction.

    Attributes:
        coefficients: β, shape `(d,)`, with `Xβ = y`, or the nearest to it that X allows.
        gap: an upper bound on the duality gap of the program at β, up to rounding.
        distance: an upper bound on the distance of β to the exact minimiser, up to rounding; inf if there is none.
        divergence: B, with `f(t) − f* ≤ B/t` along the flow.
        exposure: the limits of `s_i = −κ ∫(Aᵀ(Ap − y))_i/c_i dt`, one for each chain.
        products: the limits of the products of the chains, of which β is made.
        imbalances: what the flow conserves, `w_{l,i}² − w_{l+1,i}²`, shape `(L − 1, k)`.
        rate: the gap falls at least at this rate, for all time: γ times the least T of a chain.
    """

    coefficients: Array
    gap: float
    distance: float
    divergence: float
    exposure: np.ndarray
    products: np.ndarray
    imbalances: np.ndarray
    rate: float

    def __repr__(self) -> str:
        return (
            f"PredictedLimit({len(self.products)} chains, duality gap {self.gap:.2g}, "
            f"distance {self.distance:.2g}, rate {self.rate:.4g})"
        )


def predicted_limit(objective: Objective, network: Network | Sequence[Any]) -> PredictedLimit:
    """Return the solution at which the flow of a diagonal or circular network ends, without running it.

    Such a network is made of scalar chains with products `p_i`, and `p_i = P_i(s_i)` depends on the exposure
    `s_i = −∫(Aᵀ(Ap − y))_i/c_i dt` alone. `P_i` increases, so the limit minimises the convex function

        `Σ_i c_i φ_i(p_i)`, `φ_i' = P_i^{−1}`, among all p with `Ap = y`,

    because its exposures `(Aᵀν)_i/c_i` satisfy the condition for a minimum. For two layers `φ_i'(b) =
    ½ asinh(2b/|d_i|) + const`, a hyperbolic entropy; for d = 0 and products of one sign, a relative entropy. The dual
    problem is solved by Newton's method, along starts that shrink to the one given. If it has a solution, the flow
    does converge to it (docs/small_starts.md).

    Args:
        objective: a `DiagonalRegression` or `CircularRegression`.
        network: diagonal or circulant layers.

    Raises:
        ValueError: the layers have another form, a frequency of a circular network is not real, or no products that
            the flow can reach fit the data.
        TypeError: another objective.

    Source: Woodworth et al. (COLT 2020) for diagonal layers that are equal; Yun, Krishnan & Mobahi (ICLR 2021),
        theorem 4; for any start, with the error of the prediction, this library (docs/small_starts.md).

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.DiagonalRegression([[1.0, 2.0]], [1.0])
        >>> found = lf.predicted_limit(f, f.start(depth=2, size=0.3))
        >>> found.coefficients.round(4), found.gap < 1e-12
        (array([0.1581, 0.4209]), True)
        >>> run = lf.gradient_flow(f, f.start(depth=2, size=0.3), until=1e-12)
        >>> f.coefficients(run.final).round(4)
        array([0.1581, 0.4209])
    """
    if not isinstance(objective, ChainRegression):
        name = objective_of(objective).name
        raise TypeError(f"{name} has no known limit; DiagonalRegression and CircularRegression have one.")
    net = fitted(objective, network)
    chains = objective.chains(net)
    flow, A, c = ExposedChains(chains.layers), chains.inputs, chains.costs
    y = to_numpy(objective.X @ objective.coefficients(objective.minimizer))
    U, sizes, Vt = np.linalg.svd(A, full_matrices=False)
    rank = int(np.sum(sizes > max(A.shape) * EPS * sizes[0]))
    V, wanted = Vt[:rank], (U[:, :rank].T @ y) / sizes[:rank]
    nu, p = _followed(chains.layers, V, wanted, c)
    s = V.T @ nu / c
    slope = flow.slope(p) / c
    # The step of Newton's method in p: it meets the data, and moves each product by a part of itself.
    solution = p + slope * (V.T @ np.linalg.lstsq((V * slope) @ V.T, wanted - V @ p, rcond=None)[0])
    seen = flow.exposure(solution)
    off = np.where(flow.stuck, 0.0, seen - s)
    gap = float(np.sum(np.abs(c * (solution - p) * off)))
    squares = chains.layers[:-1] ** 2 - chains.layers[1:] ** 2
    return PredictedLimit(
        from_numpy(chains.basis @ solution, objective.X),
        gap if np.isfinite(off).all() else math.inf,
        _distance(flow, chains.basis, c, solution, off),
        0.5 * float(np.sum(c * s * (p - flow.start))) / chains.speed,
        s,
        solution,
        squares / net.scale ** (2 / net.depth),
        net.scale ** (2 / net.depth) * objective.pl_constant * least_slope(chains.layers, opposite=chains.opposite),
    )


def _followed(layers: np.ndarray, V: np.ndarray, wanted: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ν and the products at which `V P(Vᵀν/c) = wanted`, along starts from large ones to the one given."""
    depth = len(layers)
    size = np.abs(layers).max()
    goal = max(float(np.abs(wanted).max()), float(np.finfo(float).tiny)) ** (1 / depth)
    stages = max(0, math.ceil(math.log(goal / size, FACTOR))) if size > 0 else 0
    nu = np.zeros(len(wanted))
    p = np.zeros(layers.shape[1])
    for stage in range(stages, -1, -1):
        nu *= FACTOR ** (depth - 2) if stage < stages else 1.0
        flow = ExposedChains(layers * FACTOR**stage)
        nu, p = _solved(flow, V, wanted, c, nu, last=stage == 0)
    return nu, p


def _solved(
    flow: ExposedChains, V: np.ndarray, wanted: np.ndarray, c: np.ndarray, nu: np.ndarray, *, last: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Solve `V P(Vᵀν/c) = wanted` by Newton's method with halved steps; its matrix is symmetric and positive."""

    def at(nu: np.ndarray) -> tuple[np.ndarray, float]:
        p = flow.product(V.T @ nu / c)
        return p, float(np.linalg.norm(V @ p - wanted)) if np.isfinite(p).all() else math.inf

    p, miss = at(nu)
    if not math.isfinite(miss):
        nu = np.zeros_like(nu)
        p, miss = at(nu)
    size = float(np.linalg.norm(wanted))
    for _ in range(_ROUNDS):
        if miss <= (4 * EPS if last else _CLOSE) * size:
            break
        slope = flow.slope(p) / c
        step = np.linalg.lstsq((V * slope) @ V.T, wanted - V @ p, rcond=None)[0]
        length = 1.0
        for _ in range(_HALVINGS):
            new_p, new_miss = at(nu + length * step)
            if new_miss < miss:
                break
            length /= 2
        else:
            break
        nu, p, miss = nu + length * step, new_p, new_miss
    if miss > 1e-9 * size:
        raise ValueError(
            f"no products that the flow can reach fit the data: the nearest found are {miss / size:.2g} away, "
            "relatively. Products of equal layers keep their sign; use a start with two parts, or unequal layers."
        )
    return nu, p


def _distance(flow: ExposedChains, basis: np.ndarray, c: np.ndarray, p: np.ndarray, off: np.ndarray) -> float:
    """Return a bound on the distance of the coefficients to the minimiser (docs/small_starts.md)."""
    slope = 2 * flow.slope(p)
    for _ in range(_HALVINGS):
        radius = math.sqrt(float(np.sum(c * slope * off**2)))
        if not math.isfinite(radius):
            break
        reach = radius * np.sqrt(slope / c)
        largest = np.maximum(flow.slope(p - reach), flow.slope(p + reach))
        if np.all(largest <= slope):
            return float(np.linalg.norm(basis * np.sqrt(slope / c), 2)) * radius
        slope = np.where(largest <= slope, slope, 2 * largest)
    return math.inf


def one_sample_limit(x: Any, y: float, network: Network | Sequence[Any]) -> Array:
    """Return the product at which the flow of two fully connected layers ends, for one sample and one output.

    With `e = x/‖x‖` and the prediction `c ‖x‖ pᵀw`, `p = W_1ᵀe`, the loss `½(y − c xᵀW_1w)²` moves p and w by
    `dp/ds = w`, `dw/ds = p`, and nothing else: `(I − eeᵀ)W_1` is frozen. So `p = p_0 cosh s + w_0 sinh s`,
    `w = w_0 cosh s + p_0 sinh s`, and s solves `pᵀw = y/(c‖x‖)`: with `a = p_0ᵀw_0` and `b = ½(‖p_0‖² + ‖w_0‖²)`,

        `a cosh 2s + b sinh 2s = y/(c‖x‖)`.

    The limit is `c W_1w`. As the start vanishes it tends to the least-norm solution `x y/‖x‖²`.

    Args:
        x: the input, shape `(n,)`.
        y: the output.
        network: two layers, `n × h` and `h × 1`.

    Returns:
        The product, shape `(n,)`.

    Raises:
        ValueError: shapes that do not fit, x is zero, or `p_0 = ±w_0`, from where the sign of `pᵀw` cannot change.

    Source: Yun, Krishnan & Mobahi (ICLR 2021), section 5, for the limit of small starts; the closed form is of this
        library.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = [0.5 * np.eye(2), np.array([[0.3], [0.1]])]
        >>> lf.exact.one_sample_limit([1.0, 2.0], 1.0, net).round(4)
        array([0.3173, 0.3414])
        >>> f = lf.LinearRegression(np.array([[1.0, 2.0]]), np.array([[1.0]]))
        >>> lf.gradient_flow(f, net, until=1e-12).final.product()[:, 0].round(4)
        array([0.3173, 0.3414])
    """
    net = Network.of(network).detach()
    row = checks.matrix(np.asarray(x, dtype=np.float64)[None, :], "x", (1, net.widths[0]))[0][0]
    target, size = checks.number(y, "y"), float(np.linalg.norm(row))
    if net.depth != 2 or net.widths[-1] != 1:
        raise ValueError(f"the network is {net!r}; two layers with one output are needed.")
    if size == 0:
        raise ValueError("x is zero; the loss does not depend on the weights.")
    W, w = (to_numpy(each) for each in net.weights)
    e, w = row / size, w[:, 0]
    p, wanted = W.T @ e, target / (net.scale * size)
    sides = float(np.linalg.norm(p + w)), float(np.linalg.norm(p - w))
    if min(sides) <= 1e-12 * max(sides):
        raise ValueError("p = ±w at the start, with p = W₁ᵀx/‖x‖; such layers stay so. Change one of the weights.")
    # a cosh θ + b sinh θ = r sinh(θ + log(‖p + w‖/‖p − w‖)), r = ½‖p + w‖‖p − w‖, θ = 2s.
    s = 0.5 * (math.asinh(2 * wanted / (sides[0] * sides[1])) - math.log(sides[0] / sides[1]))
    last = w * math.cosh(s) + p * math.sinh(s)
    frozen = W - np.outer(e, p)
    return from_numpy(net.scale * (frozen @ last + e * wanted), net.weights[0])
