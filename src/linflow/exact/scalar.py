"""Scalar weights: two layers with any imbalance, and balanced weights of any depth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linflow._support import checks
from linflow.exact._chain_flow import ScalarChain
from linflow.exact._inputs import instants, number, scalars
from linflow.exact._riccati import riccati


def two_layer_scalar(d: float, target: float, w0: float, t: Any, *, scale: float = 1.0) -> Any:
    """Return the product `w(t) = c·uv` of the flow on `½(s − c·uv)²`, whatever the imbalance.

    `ẇ = c sqrt(c²d² + 4w²) (s − w)`. With `b = c|d|/2`, `r = sqrt(s² + b²)` and `y = w + sqrt(w² + b²)` this is
    `ẏ = 2sy − y² + b²` in the time `ct`, solved by

    `y = (y_0 ((r + s) + (r − s) e) + b² (1 − e)) / ((r − s) + (r + s) e + y_0 (1 − e))`, `e = e^{−2rct}`, and
    `w = (y − b²/y)/2`. The residual `s − w` falls at the rate `2cr`, the loss at `4cr`.

    Args:
        d: imbalance `u² − v²`.
        target: `s`.
        w0: `w(0) = c·u(0)v(0)`.
        t: time or times.
        scale: the output scale `c`.

    Returns:
        A float, or an array of the kind of `t`. It is accurate to a few units in the last place of w and t, for every
        d. If w passes through 0 on its way to a target of the opposite sign, the units are those of `max(|w|, |d|)`.

    Raises:
        ValueError, TypeError: a negative time, or numbers that are not finite.

    Source: Tarmoun, França, Haeffele & Vidal (ICML 2021); `d = 0`: Saxe, McClelland & Ganguli (ICLR 2014).

    Example:
        >>> import linflow as lf
        >>> from linflow.exact import two_layer_scalar
        >>> two_layer_scalar(3.0, 1.0, 2.0, [0.0, 0.1, 1.0]).round(6)  # from u = 2, v = 1
        array([2.      , 1.626241, 1.020296])
    """
    c = checks.positive(scale, "scale")
    d, s, w0, times = number(d, "d"), number(target, "target"), number(w0, "w0"), instants(t)
    return scalars(riccati(c * abs(d) / 2, s, w0, c * times), t)


def scalar_balanced(depth: int, target: float, w0: float, t: Any, *, scale: float = 1.0) -> Any:
    """Return the product `w(t)` of the flow on `½(s − w)²`, `w = c·w_1 ⋯ w_L`, from weights of equal size.

    `ẇ = L c^{2/L} |w|^{2−2/L} (s − w)`. `L = 1`: `s + (w_0 − s) e^{−c²t}`. `L = 2`: `two_layer_scalar` at `d = 0`.
    `L ≥ 3`: the root w of `scalar_balanced_time(L, s, w_0, w) = t`. For `L ≥ 2` zero is a saddle: w stays at 0, and
    if the start and the target have opposite signs, w converges to 0.

    Args:
        depth: `L`, the number of weights.
        target: `s`.
        w0: `w(0)`; every weight has `|w_l| = |w(0)/c|^{1/L}`.
        t: time or times.
        scale: the output scale `c`.

    Returns:
        A float, or an array of the kind of `t`: the exact solution at times that differ from `t` by rounding.

    Raises:
        ValueError, TypeError: a negative time, a depth that is not a whole number, or numbers that are not finite.

    Source: Arora, Cohen & Hazan (ICML 2018), Theorem 1, for scalars; `L = 2`: Saxe et al. (ICLR 2014).

    Example:
        >>> import linflow as lf
        >>> from linflow.exact import scalar_balanced
        >>> scalar_balanced(3, 1.0, 1e-3, [0.0, 5.0, 10.0]).round(6)
        array([0.001   , 0.007929, 0.909427])
    """
    chain, times = _balanced(depth, target, w0, scale), instants(t)
    return scalars(chain.product(times), t)


def scalar_balanced_time(depth: int, target: float, w0: float, w: float, *, scale: float = 1.0) -> float:
    """Return the time at which the balanced scalar flow from `w0` reaches `w`.

    `t = ∫_{w_0}^{w} dω / (L c^{2/L} |ω|^{2−2/L} (s − ω))`: a logarithm for `L = 1` and 2. For `L ≥ 3` and s, w of one
    sign, with `u = |ω/s|^{1/L}`, `c^{2/L} |s|^{2−2/L} t = [J(u) − u^{2−L}/(L − 2)]`, `J' = u/(1 − u^L)`. It is
    computed by Gauss' rule on panels refined towards the limit.

    Args:
        depth: `L`.
        target: `s`.
        w0: where the flow starts.
        w: where it arrives.
        scale: the output scale `c`.

    Returns:
        The time; infinite if `w` is the limit of the flow.

    Raises:
        ValueError: the flow from `w0` does not pass through `w`.

    Example:
        >>> from linflow.exact import scalar_balanced_time
        >>> round(scalar_balanced_time(3, 1.0, 1e-3, 0.5), 6)
        9.144747
    """
    chain, w = _balanced(depth, target, w0, scale), number(w, "w")
    time = chain.time(w)
    if time is None:
        raise ValueError(
            f"the flow from w0 = {w0:g} does not pass through w = {w:g}; it moves from w0 towards {chain.limit:g}."
        )
    return time


def _balanced(depth: int, target: float, w0: float, scale: float) -> ScalarChain:
    L, c = checks.count(depth, "depth"), checks.positive(scale, "scale")
    s, w0 = number(target, "target"), number(w0, "w0")
    return ScalarChain(np.zeros(L), s, math.copysign(abs(w0) ** (1 / L), w0), speed=c ** (2 / L), w0=w0)
