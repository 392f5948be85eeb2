"""Sparse regression by diagonal networks: `u^N − v^N`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, namespace, norm, to_numpy, unmasked
from linflow._support.words import plural
from linflow.model.network import Network
from linflow.model.objectives import Objective


class DiagonalRegression(Objective):
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
    derived = True
    citations = frozenset({"li2021sparse"})

    def __init__(self, X: Any, y: Any, *, signed: bool = True):
        X, note = checks.matrix(X, "X")
        if np.ndim(y) == 1:
            y = y[:, None] if hasattr(y, "shape") else [[each] for each in y]
        y, note_y = checks.matrix(y, "y", (None, 1))
        namespace(X, y)
        if X.shape[0] != y.shape[0]:
            raise ValueError(
                f"X has {plural(X.shape[0], 'row')} and y has {y.shape[0]}; both need one row per sample."
            )
        s = np.linalg.svd(to_numpy(X), compute_uv=False)
        rank = int(np.sum(s > max(X.shape) * EPS * s[0]))
        if rank == 0:
            raise ValueError("X is zero; its columns are the inputs.")
        parts, d = 2 if signed else 1, X.shape[1]
        beta = np.linalg.lstsq(to_numpy(X), to_numpy(y), rcond=max(X.shape) * EPS)[0][:, 0]
        self.X, self.y, self.signed, self.shape = X, y, bool(signed), (parts * d, parts * d)
        self.minimizer = from_numpy(np.diag(np.concatenate([beta / 2, -beta / 2]) if signed else beta), X)
        self._best = from_numpy(beta[:, None], X)
        left_over = norm(y - X @ self._best)
        self.minimum = 0.5 * left_over * left_over
        self.smoothness, self.strong_convexity = parts * float(s[0]) ** 2, 0.0
        self.pl_constant = 2 * parts * float(s[rank - 1]) ** 2
        self.notes = tuple(one for one in (note, note_y) if one)

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

    def value(self, W: Array) -> float:
        """Return `f(W)`."""
        return self.gap(W) + self.minimum

    def gap(self, W: Array) -> float:
        """Return `f(W) − f* = ½‖X(β − β*)‖²`, without cancellation."""
        away = norm(self.X @ (self.coefficients(W)[:, None] - self._best))
        return 0.5 * away * away

    def gradient(self, W: Array) -> Array:
        """Return `∇f(W)`: the diagonal matrix of `XᵀX(β − β*)` and its negative."""
        return self._spread(self.coefficients(W)[:, None] - self._best)

    def hessian_product(self, W: Array, V: Array) -> Array:
        """Return `∇²f[V]`, which does not depend on W."""
        return self._spread(self.coefficients(V)[:, None])

    def _spread(self, away: Array) -> Array:
        """Return the diagonal matrix of `XᵀX away`, followed by its negative if there are two parts."""
        xp = namespace(away)
        g = self.X.T @ (self.X @ away)
        column = xp.concat([g, -g]) if self.signed else g
        return column * from_numpy(np.eye(self.shape[0]), self.X)

    def rounding(self, network: Network) -> float:
        """Return the size below which the gap is rounding: `½K (4ε (c Π‖W_l‖_F + ‖W*‖_F))²`."""
        size = 4 * EPS * (network.magnitude() + norm(self.minimizer))
        return 0.5 * self.smoothness * size * size

    def gradient_rounding(self, network: Network) -> float:
        """Return the size of the rounding in `∇f(W)`: `4εK (c Π‖W_l‖_F + ‖W*‖_F)`."""
        return 4 * EPS * self.smoothness * (network.magnitude() + norm(self.minimizer))
