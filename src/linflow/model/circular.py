"""Regression by circular convolutions: linear convolutional networks with filters of full length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, to_numpy, unmasked
from linflow.model.coefficients import STRUCTURE, ChainRegression, Chains, exactly, within
from linflow.model.network import Network


class CircularRegression(ChainRegression):
    """Linear regression `½‖y − Xβ‖²` on a circular convolution of filters, `β = w_1 ⊛ ⋯ ⊛ w_L`.

    A filter w of length d is the circulant matrix `W_ij = w_{(j−i) mod d}`; circulants multiply as their filters
    convolve, and the product W has the coefficients `β(W)_k = (1/d) Σ_i W_{i,(i+k) mod d}`. The gradient is
    circulant, so layers that start circulant stay so. `start` makes them. Their flow is that of the filters,
    `ẇ_l = −∂f/∂w_l`, d times slower.

    With the discrete Fourier transform `ŵ`, `β̂ = Πŵ_l` frequency by frequency, and the flow conserves
    `|ŵ_l|² − |ŵ_{l+1}|²` at each, the eigenvalues of `D_l`.

    Constants: `K = σ_max²(X)/d` and `γ = 2σ_r²(X)/d` with `r = rank X`. `W*` is the circulant of the least-norm
    coefficients.

    Args:
        X: inputs, shape `(N, d)`.
        y: outputs, shape `(N,)` or `(N, 1)`.

    Raises:
        ValueError: X and y have different numbers of rows, X is zero, or entries are not finite.

    Source: Yun, Krishnan & Mobahi (ICLR 2021), section 3; the constants are of this library
        (docs/small_starts.md).

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.CircularRegression([[1.0, 2.0]], [1.0])
        >>> run = lf.gradient_flow(f, f.start([[0.01, 0.0], [0.0, 0.0]]), until=1e-12)
        >>> f.coefficients(run.final).round(2)  # the sparsest spectrum: β₁ = β₂
        array([0.33, 0.33])
    """

    name = "circular regression objective"
    citations = frozenset({"yun2021"})

    def __init__(self, X: Any, y: Any):
        X, _ = checks.matrix(X, "X")
        d = X.shape[1]
        super().__init__(X, y, 1 / d)
        self.shape = (d, d)
        self.minimizer = from_numpy(circulant(to_numpy(self._best)[:, 0]), self.X)
        rows = np.zeros((d, d, d))
        for k in range(d):
            rows[k, np.arange(d), (np.arange(d) + k) % d] = 1 / d
        self._mean = from_numpy(rows.reshape(d, d * d), self.X)

    def coefficients(self, W: Network | Array) -> Array:
        """Return β, shape `(d,)`, of a network or of a product."""
        product = W.product() if isinstance(W, Network) else unmasked(W, "W")
        return self._mean @ product.reshape(-1)

    def start(self, filters: Sequence[Any] | Array) -> Network:
        """Return the circulant layers of these filters, each of length d.

        Raises:
            ValueError: filters of another length, or none.
        """
        rows, _ = checks.matrix(filters, "filters", (None, self.shape[0]))
        return Network([from_numpy(circulant(to_numpy(row)), self.X) for row in rows])

    def chains(self, network: Network) -> Chains:
        """Return the spectra of the filters as real scalar chains, one for each frequency 0, …, ⌊d/2⌋.

        Frequency j is real if the phases of `x̂_j` are the same up to a sign for all rows of X, as they are for one
        row, for even rows and for `d = 2`, and if that of `Πŵ_l` is too.

        Raises:
            ValueError: a layer is not circulant, or a frequency is not real.
        """
        d, layers = self.shape[0], [to_numpy(W) for W in network.weights]
        filters = [to_numpy(self.coefficients(W)) for W in network.weights]
        within(layers, [circulant(one) for one in filters], "circulant")
        half = d // 2 + 1
        spectra, rows = np.fft.fft(np.array(filters))[:, :half], np.fft.fft(to_numpy(self.X))[:, :half]
        sizes, product = np.abs(spectra), np.prod(spectra, axis=0)
        largest = rows[np.argmax(np.abs(rows), axis=0), np.arange(half)]
        unseen = np.abs(largest) <= STRUCTURE * np.abs(rows).max()
        phases = _phase(np.where(unseen, product, largest))
        seen, product = np.where(unseen, 0.0, rows * np.conj(phases)), product * np.conj(phases)
        size = np.prod(np.linalg.norm(filters, axis=1))
        for what, part, all_of_it in (
            ("the inputs", seen, np.abs(rows).max()),
            ("the product of the filters", product[None], size),
        ):
            off = np.abs(np.imag(part)).max(axis=0) > STRUCTURE * all_of_it
            if off.any():
                raise ValueError(
                    f"at frequency {int(np.argmax(off))} the phases of {what} differ, so the flow is not a scalar "
                    "chain; the limit is known for one sample, for even inputs and filters, and for d = 2."
                )
        signs = np.ones_like(sizes)
        signs[np.argmax(sizes, axis=0), np.arange(half)] = np.where(np.real(product) < 0, -1.0, 1.0)
        many = np.where((np.arange(half) == 0) | (2 * np.arange(half) == d), 1.0, 2.0) / d
        waves = np.exp(2j * np.pi * np.outer(np.arange(d), np.arange(half)) / d)
        basis = many * (waves * phases).real
        scale = network.scale ** (1 / network.depth)
        return Chains(scale * signs * sizes, many * np.real(seen), many, basis, scale**2 / d)

    def modes(self, network: Network) -> np.ndarray:
        """Return the spectra of the filters, complex, shape `(L, d)`.

        Raises:
            ValueError: a layer is not exactly circulant.
        """
        layers = [to_numpy(W) for W in network.weights]
        square = [W[0] if W.shape == self.shape else np.zeros(self.shape[0]) for W in layers]
        exactly(layers, [circulant(one) for one in square], "circulant")
        return np.fft.fft(np.array(square))

    def _spread(self, g: Array) -> Array:
        """Return the circulant matrix of g over d."""
        return (self._mean.T @ g[:, 0]).reshape(self.shape)


def circulant(w: np.ndarray) -> np.ndarray:
    """Return the matrix `W_ij = w_{(j−i) mod d}` of a filter."""
    d = len(w)
    return w[(np.arange(d)[None, :] - np.arange(d)[:, None]) % d]


def _phase(z: np.ndarray) -> np.ndarray:
    size = np.abs(z)
    return np.where(size > 0, z / np.where(size > 0, size, 1.0), 1.0)
