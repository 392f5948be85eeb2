"""Sparse regression by diagonal networks: `u^N − v^N`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, namespace, to_numpy, unmasked
from linflow.model.coefficients import ChainRegression, Chains, exactly, within
from linflow.model.network import Network


class DiagonalRegression(ChainRegression):
    """Linear regression `½‖y − Xβ‖²` on the diagonal of a product: `β = u^N − v^N`, entry by entry.

    The product W is `2d × 2d`, with the coefficients `β(W) = (W_11, …, W_dd) − (W_{d+1,d+1}, …, W_{2d,2d})`; with
    `signed=False` it is `d × d` and `β(W) = diag(W)`. The gradient is diagonal, so layers that start diagonal stay
    diagonal, and layers that start equal stay equal: `start` gives `W_l = diag(u, v)` for every layer. Its flow is
    `u̇ = −u^{N−1} g`, `v̇ = v^{N−1} g` with `g = Xᵀ(Xβ − y)`; the flow of tied u and v is N times faster.

    Constants: `K = 2σ_max²(X)` and `γ = 4σ_r²(X)` with `r = rank X`, and half of them if `signed=False`. `W*` has the
    least-norm coefficients, half of them in each part.

    Args:
        X: inputs, shape `(N, d)`.
        y: outputs, shape `(N,)` or `(N, 1)`.
        signed: whether β has two parts.

    Raises:
        ValueError: X and y have different numbers of rows, X is zero, or entries are not finite.

    Source: Li, Nguyen, Hegde & Wong (NeurIPS 2021); Yun, Krishnan & Mobahi (ICLR 2021) for one part.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.DiagonalRegression([[1.0, 2.0]], [1.0])
        >>> run = lf.gradient_flow(f, f.start(depth=2, size=1e-4), until=1e-12)
        >>> f.coefficients(run.final).round(3) + 0.0
        array([0. , 0.5])
    """

    name = "diagonal regression objective"
    citations = frozenset({"li2021sparse"})

    def __init__(self, X: Any, y: Any, *, signed: bool = True):
        super().__init__(X, y, 2 if signed else 1)
        beta, d = to_numpy(self._best)[:, 0], self.X.shape[1]
        self.signed, self.shape = bool(signed), (2 * d, 2 * d) if signed else (d, d)
        self.minimizer = from_numpy(np.diag(np.concatenate([beta / 2, -beta / 2]) if signed else beta), self.X)

    def coefficients(self, W: Network | Array) -> Array:
        """Return β, shape `(d,)`, of a network or of a product."""
        product = W.product() if isinstance(W, Network) else unmasked(W, "W")
        diagonal, d = namespace(product).linalg.diagonal(product), self.X.shape[1]
        return diagonal[:d] - diagonal[d:] if self.signed else diagonal

    def start(self, depth: int, size: float | Sequence[float] = 1e-2) -> Network:
        """Return `depth` equal diagonal layers: `β = 0` if there are two parts and one size.

        Args:
            depth: N.
            size: α, one number, or one for each entry of the diagonal.

        Raises:
            ValueError: a depth below 1, or sizes of another number than the diagonal has entries.
        """
        depth, sizes = checks.count(depth, "depth"), checks.numbers(size, "size")
        n = self.shape[0]
        if sizes.ndim > 1 or (sizes.ndim == 1 and len(sizes) != n):
            raise ValueError(f"size has the shape {sizes.shape}; one number, or {n} numbers are needed.")
        layer = from_numpy(np.diag(np.broadcast_to(sizes, (n,)).astype(float)), self.X)
        return Network([layer] * depth)

    def chains(self, network: Network) -> Chains:
        """Return the entries of the diagonals as scalar chains.

        Raises:
            ValueError: a layer is not diagonal.
        """
        layers = [to_numpy(W) for W in network.weights]
        diagonals = [np.diagonal(W) for W in layers]
        within(layers, [np.diag(one) for one in diagonals], "diagonal")
        basis = np.eye(self.X.shape[1])
        if self.signed:
            basis = np.hstack([basis, -basis])
        scale = network.scale ** (1 / network.depth)
        costs = np.ones(basis.shape[1])
        return Chains(scale * np.array(diagonals), to_numpy(self.X) @ basis, costs, basis, scale**2, self.signed)

    def modes(self, network: Network) -> np.ndarray:
        """Return the diagonals of the layers, shape `(L, k)`.

        Raises:
            ValueError: a layer is not exactly diagonal.
        """
        layers = [to_numpy(W) for W in network.weights]
        diagonals = [np.diagonal(W) for W in layers]
        exactly(layers, [np.diag(one) for one in diagonals], "diagonal")
        return np.array(diagonals)

    @property
    def opposite(self) -> bool:
        """Whether β has two parts, whose exposures are opposite."""
        return self.signed

    def _spread(self, g: Array) -> Array:
        """Return the diagonal matrix of g, followed by its negative if there are two parts."""
        column = namespace(g).concat([g, -g]) if self.signed else g
        return column * from_numpy(np.eye(self.shape[0]), self.X)
