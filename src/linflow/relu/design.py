"""The smallest second layer from which training is certified (docs/relu.md, Theorem 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow.relu.certificate import Certificate, certify
from linflow.relu.network import Network, targets
from linflow.relu.starts import paired

RATIO = 2**0.5
"""The grid of sizes: neighbours differ by this factor."""
BEYOND, BELOW = 16.0, 2.0**-6
"""The grid ends at these multiples of the first size, of powers of two, that is certified."""
LARGEST = 2.0**40
"""The largest size tried."""


@dataclass(frozen=True, repr=False)
class Design:
    """A start in pairs with the least certified size of its second layer.

    The sizes that are certified need not be an interval: 0 can be certified where small ones are not. What counts is
    the certificate of the start that is used.

    Attributes:
        start: the network, with `‖v_j‖ = size`.
        size: the least α above which every α of the grid is certified, to 1 %: 0 if all are, and 0 itself; the least
            of the grid if all are but 0.
        certificate: that of the start.
        at_zero: the certificate of the same neurons with the second layer 0.
        sizes, rates: the grid, increasing, and the certified rates there, 0 where there is none.
    """

    start: Network
    size: float
    certificate: Certificate
    at_zero: Certificate
    sizes: np.ndarray
    rates: np.ndarray

    @property
    def rate(self) -> float:
        """The certified rate."""
        return self.certificate.rate

    @property
    def zero_suffices(self) -> bool:
        """Whether the second layer may start at 0."""
        return self.at_zero.rate > 0

    def __repr__(self) -> str:
        zero = "certified" if self.zero_suffices else "not certified"
        return f"Design({self.start!r}, second layer {self.size:.4g}, rate {self.rate:.4g}; second layer 0 {zero})"


def design(
    X: Any,
    Y: Any,
    width: int,
    *,
    rate: float | None = None,
    std: float = 1.0,
    bias: bool = False,
    slope: float = 0.0,
    rng: int | np.random.Generator | None = None,
) -> Design:
    """Return a paired start with the least size α of its second layer from which the flow is certified.

    The output of a paired start is 0 whatever α is, so the initial loss is `½‖Y‖²`; every large enough α is certified
    if the first layer's part of H is positive definite (Theorem 4 (a)). A wide network needs only a small one (b),
    and from some width on none (c).

    Args:
        X: inputs, shape `(N, d)`.
        Y: targets, shape `(N, m)`, or `(N,)` for one output; not all 0.
        width: number of neurons, even.
        rate: the rate that must be certified; None asks for any.
        std: standard deviation of the entries of U and of the bias.
        bias: whether the neurons have a bias.
        slope: slope for negative inputs.
        rng: seed or generator.

    Raises:
        ValueError: nothing is certified at any size, and the message says why; or invalid arguments.

    Source: docs/relu.md, Theorem 4.

    Example:
        >>> import numpy as np
        >>> from linflow import relu
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((3, 6)) / 6**0.5, rng.standard_normal(3)
        >>> made = relu.design(X, Y, 40, rng=0)
        >>> made.certificate.rate > 0, round(made.size, 1), made.zero_suffices
        (True, 0.4, False)
    """
    X, goal = checks.matrix(X, "X")[0], targets(Y)[0]
    if not goal.any():
        raise ValueError("Y is all 0: a paired start has the output 0, so its loss is 0 at once, whatever its size.")
    needed = 0.0 if rate is None else checks.positive(rate, "rate")
    one = paired(
        (X.shape[1], checks.count(width, "width", 2), goal.shape[1]), 1.0, std=std, bias=bias, slope=slope, rng=rng
    )

    def sized(size: float) -> Network:
        return one.with_layers(one.extended, size * one.V)

    def enough(certificate: Certificate) -> bool:
        return certificate.rate > 0 and certificate.rate >= needed

    size = 1.0
    while not enough(found := certify(X, Y, sized(size))):
        size *= 2
        if size > LARGEST:
            raise ValueError(f"no size up to {LARGEST:.3g} is certified: {found.reason}.")
    grid = {s: certify(X, Y, sized(s)) for s in np.geomspace(size, BEYOND * size, _points(BEYOND))}
    while enough(grid[lowest := min(grid)]) and lowest > BELOW * size:
        grid[lowest / RATIO] = certify(X, Y, sized(lowest / RATIO))
    at_zero = certify(X, Y, sized(0.0))
    if enough(grid[min(grid)]) and enough(at_zero):
        grid[0.0] = at_zero
    sizes = np.array(sorted(grid))
    bad = np.flatnonzero([not enough(grid[s]) for s in sizes])
    high = float(sizes[bad[-1] + 1 if bad.size else 0])
    low, best = (float(sizes[bad[-1]]) if bad.size else high), grid[high]
    while high > 1.01 * low:
        middle = float(np.sqrt(low * high))
        tried = certify(X, Y, sized(middle))
        if enough(tried):
            high, best = middle, tried
        else:
            low = middle
    rates = np.array([grid[s].rate for s in sizes])
    return Design(sized(high), high, best, at_zero, sizes, rates)


def _points(ratio: float) -> int:
    """Return how many sizes span a ratio."""
    return 1 + round(np.log(ratio) / np.log(RATIO))
