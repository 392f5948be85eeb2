"""Spectral initialisation: one scalar chain for each singular mode, and when it is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, to_numpy
from linflow.exact._alignment import Modes, shared_modes
from linflow.exact._chain_flow import ScalarChain
from linflow.exact._inputs import instants, matrices
from linflow.model.network import Network


def spectral(network: Network | Sequence[Any], Y: Any, t: Any) -> Array:
    """Return the product `W(t)` of the flow on `½‖Y − W‖_F²` from layers aligned with `Y = U Σ Vᵀ`.

    For `W_l = Q_{l−1} diag(w_l) Q_lᵀ`, `Q_0 = U`, `Q_L = V` the singular vectors never move, and
    `W(t) = U diag(ω_i(t)) Vᵀ`. Each `ω = c w_1 ⋯ w_L` is a separate scalar chain, with any imbalance. `L = 1`:
    `ω = s + (ω_0 − s) e^{−c²t}`. `L = 2`: `two_layer_scalar`. `L ≥ 3` (for `c = 1`): with v the signed weight of
    least size and `w_l² = v² + c_l`, `v̇ = (ω/v)(s − ω)`, so the time is an integral over v. Gauss' rule computes it,
    and it is then inverted.

    A weight counts as 0 if it is below `32ε` times the size of the entries of its layer that form it; in a diagonal
    layer no weight does (docs/exact.md).

    Args:
        network: a `Network` or its weights.
        Y: target, shape `(n, m)`.
        t: time or times.

    Returns:
        Shape `(n, m)`, or `(len(t), n, m)` for a sequence, of the kind of the weights.

    Raises:
        ValueError: the network is not aligned with Y; `lf.init.spectral` makes one that is.

    Source: Saxe, McClelland & Ganguli (ICLR 2014); Gidel, Bach & Lacoste-Julien (NeurIPS 2019).

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.exact import spectral
        >>> Y = np.diag([3.0, 1.0])
        >>> spectral(lf.init.spectral((2, 3, 4, 2), Y, 0.2, rng=0), Y, 2.0).round(4) + 0.0
        array([[2.996 , 0.    ],
               [0.    , 0.0358]])
    """
    net, times = Network.of(network).detach(), instants(t)
    modes = shared_modes(net, to_numpy(checks.matrix(Y, "Y", net.shape)[0]))
    values = [chain.product(np.atleast_1d(times)) for chain in _chains(modes, net.scale)]
    products = modes.U @ (np.reshape(values, (len(values), times.size)).T[:, :, None] * modes.V.T)
    return matrices(products, times, net.weights[0])


def learning_times(network: Network | Sequence[Any], Y: Any, fraction: float = 0.5) -> Array:
    """Return when each singular mode of the target is learned: when `ω_i(t)` first reaches `fraction · σ_i(Y)`.

    From a small start, the modes are learned one after the other. If all weights start at α, then as α → 0,
    `t_i ≈ log(1/α)/σ_i` for `L = 2` and `t_i ≈ α^{2−L}/((L − 2) σ_i)` for `L ≥ 3`. The latter is later for layers
    that are not aligned.

    Args:
        network: a `Network` or its weights, aligned with Y (see `spectral`).
        Y: target, shape `(n, m)`.
        fraction: in (0, 1).

    Returns:
        `min(n, m)` times in the order of the singular values of Y, of the kind of the weights: 0 if the start is
        already past the fraction, infinite if a mode is never learned.

    Raises:
        ValueError: the network is not aligned with Y, or the fraction is not in (0, 1).

    Source: Gidel, Bach & Lacoste-Julien (NeurIPS 2019).

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.exact import learning_times
        >>> Y = np.diag([3.0, 1.0])
        >>> learning_times(lf.init.spectral((2, 3, 2), Y, 1e-3, rng=0), Y).round(3)
        array([2.486, 6.908])
    """
    net = Network.of(network).detach()
    fraction = checks.fraction(fraction, "fraction", "the part of each singular value to reach", "0.5")
    modes = shared_modes(net, to_numpy(checks.matrix(Y, "Y", net.shape)[0]))
    times = np.zeros(min(net.shape))  # an omitted mode has nothing to learn
    for i, (chain, s) in enumerate(zip(_chains(modes, net.scale), modes.target, strict=True)):
        if s > 0 and chain.start < fraction * s:  # for a target of 0 the sign of the start means nothing
            reached = chain.time(fraction * s)
            times[i] = np.inf if reached is None else reached
    return from_numpy(times, net.weights[0])


def _chains(modes: Modes, scale: float) -> list[ScalarChain]:
    """Return the flow of every mode, with the output scale turned into larger weights and a faster clock.

    With `a = c^{1/L}` the weights `a w_l` have the product `ω` and follow the flow of scale 1 in the time `a² t`.
    """
    L = len(modes.weights)
    a = scale ** (1 / L)
    chains = []
    for w, s in zip(a * modes.weights.T, modes.target, strict=True):
        sizes = np.abs(w)
        least = float(sizes.min())
        offsets = (sizes - least) * (sizes + least)
        offsets[offsets <= 1e-14 * sizes**2] = 0.0  # weights that agree to rounding count as equal
        product = float(np.prod(w))
        chains.append(ScalarChain(offsets, float(s), -least if product < 0 else least, a * a, product))
    return chains
