"""The spectrum of T of a chain with ends much wider than its inner widths, from matrices of the inner size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from linflow._support.arrays import EPS, Array, namespace, singular_values, to_numpy
from linflow._support.number_formats import COMPUTED, FLOAT64, Format
from linflow.geometry.operator import DENSE_LIMIT, UNCONVERGED, TangentOperator
from linflow.model.network import Network, multiply

ITERATIVE_LIMIT = 200 * 200
"""Largest size of the core of T for which eigenvalues are iterated; at this size it takes seconds."""


@dataclass(frozen=True)
class TangentSpectrum:
    """Extreme eigenvalues of T.

    Attributes:
        least: `λ_min(T)` on all of `R^{n×m}`; None if not computed.
        least_on_tangent: the least non-zero eigenvalue, which is the least on the range of T, the tangent space
            `{Σ_l P_{l-1} X_l S_{l+1}}` of the products; None if not computed.
        greatest: `λ_max(T)`; None if not computed.
        singular_values: singular values of the product, descending; only those that the inner widths allow to be
            non-zero.
        ranks: numerical ranks of `P_{L-1}` and of `S_2`.
        reason: why something was not computed; "" if everything was.
    """

    least: float | None
    least_on_tangent: float | None
    greatest: float | None
    singular_values: Array
    ranks: tuple[int, int]
    reason: str = ""

    def scaled(self, c: float) -> TangentSpectrum:
        """Return the spectrum of T after the product is multiplied by c."""
        least, tangent, top = (x and c**2 * x for x in (self.least, self.least_on_tangent, self.greatest))
        return TangentSpectrum(least, tangent, top, abs(c) * self.singular_values, self.ranks, self.reason)


def tangent_spectrum(
    network: Network, *, stored: Format = FLOAT64, trained: Sequence[bool] | None = None
) -> TangentSpectrum:
    """Return the extreme eigenvalues of `T(E) = c² Σ_l P_{l-1}P_{l-1}ᵀ E S_{l+1}ᵀS_{l+1}` without n×n matrices.

    Write `W_1 = U R`, where U has orthonormal columns (n > h_1). Every term of T except the first acts within
    `U R^{k×m}`, and the first is `E ↦ E S_2ᵀS_2`. The other end is similar. So the spectrum is that of the core chain
    `R W_2 ⋯ R'`, together with that of `S_2ᵀS_2` if n > h_1, that of `P_{L-1}P_{L-1}ᵀ` if m > h_{L-1}, and 0 if both
    hold. For two layers it consists of `a_i + b_j`, the sums of the eigenvalues of `W_1W_1ᵀ` and `W_2ᵀW_2`, zeros
    included. If both ranks are below n and m, the least non-zero eigenvalue is then `min(σ_r(W_1)², σ_r(W_2)²)` with
    r the rank of each.

    Args:
        network: two layers or more.
        stored: the format that the weights were once rounded to. Values that this rounding can make out of a zero
            count as zero.
        trained: whether each layer is trained, all of them if omitted. T has no terms for the other layers.

    Returns:
        A `TangentSpectrum`. Its eigenvalues include c², its singular values c.
    """
    weights, scale = network.weights, network.scale
    n, m = network.shape
    core = [_square_root(weights[0]), *weights[1:-1], _square_root(weights[-1].T).T]
    k, p = core[0].shape[0], core[-1].shape[1]
    values = scale * singular_values(multiply(core))
    moves = [stored.moved(W) if stored.relative else 0.0 for W in weights]
    sizes = [float(singular_values(W)[0]) if any(moves) and len(core) > 2 else 1.0 for W in core]
    others = _moved(sizes, moves)
    a, b = (
        _squares(multiply(core[part]), size, others[left], stored)
        for part, left, size in ((slice(None, -1), -1, k), (slice(1, None), 0, p))
    )
    ranks = int(np.count_nonzero(a)), int(np.count_nonzero(b))
    first, *_, last = trained or [True, True]
    a, b = last * a, first * b  # a belongs to the last layer's term, b to the first layer's
    if network.depth == 2:
        sums = _outer_extremes(a, b, n, m)
        least, tangent, greatest = (scale**2 * x for x in sums)
        return TangentSpectrum(least, tangent, greatest, values, ranks)
    rounding = (COMPUTED**2 * bool(stored.relative), sum(x**2 for x in others))
    return _deep(core, trained, a, b, (n, m), scale**2, values, ranks, rounding)


def _square_root(W: Array) -> Array:
    """Return a matrix R with `RᵀR = WᵀW` that has no more rows than columns."""
    return namespace(W).linalg.qr(W).R if W.shape[0] > W.shape[1] else W


def _moved(sizes: Sequence[float], moves: Sequence[float]) -> list[float]:
    """Return how far each product of all factors but one moves, to first order, when those of norms `sizes` do.

    >>> _moved([2.0, 3.0, 5.0], [1.0, 2.0, 3.0])
    [19.0, 11.0, 7.0]
    """

    def up_to(factors: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """Return the norm of each product from the start, and how far it moves."""
        return [*accumulate(factors, lambda x, y: (x[0] * y[0], x[0] * y[1] + x[1] * y[0]), initial=(1.0, 0.0))]

    factors = list(zip(sizes, moves, strict=True))
    before, after = up_to(factors), up_to(reversed(factors))[::-1]
    return [x[0] * y[1] + x[1] * y[0] for x, y in zip(before[:-1], after[1:], strict=True)]


def _squares(W: Array, size: int, moved: float, stored: Format) -> np.ndarray:
    """Return the `size` squared singular values, descending, padded with zeros.

    Values that can be a rounded zero are set to zero.
    """
    s = to_numpy(singular_values(W))
    left = COMPUTED if stored.relative else 0.0
    s[s <= max(max(W.shape) * EPS * s[0], left * s[0], min(moved, s[0] / 2))] = 0.0
    return np.concatenate([s**2, np.zeros(size - len(s))])


def _outer_extremes(a: np.ndarray, b: np.ndarray, n: int, m: int) -> tuple[float, float, float]:
    """Return the least, the least non-zero and the greatest of `a_i + b_j`, with n values of a and m of b."""
    a_least, b_least = (float(x[size - 1]) if len(x) >= size else 0.0 for x, size in ((a, n), (b, m)))
    a_nonzero, b_nonzero = a[a > 0], b[b > 0]
    candidates = [float(a_nonzero[-1]) + b_least] if len(a_nonzero) else []
    candidates += [float(b_nonzero[-1]) + a_least] if len(b_nonzero) else []
    return a_least + b_least, min(candidates, default=0.0), float(a[0] + b[0])


def _deep(
    core: Sequence[Array],
    trained: Sequence[bool] | None,
    a: np.ndarray,
    b: np.ndarray,
    shape: tuple[int, int],
    factor: float,
    values: Array,
    ranks: tuple[int, int],
    rounding: tuple[float, float],
) -> TangentSpectrum:
    k, p = core[0].shape[0], core[-1].shape[1]
    below, beside = shape[0] > k, shape[1] > p  # outside the core T has the spectra of S_2ᵀS_2 and P_{L-1}P_{L-1}ᵀ
    outside = np.concatenate([b if below else [], a if beside else [], [0.0] if below and beside else []])
    if k * p > ITERATIVE_LIMIT:
        why = (
            f"the eigenvalues of T need those of a matrix of order {k}·{p}, past {ITERATIVE_LIMIT}: it would take "
            "minutes; linflow.TangentOperator(chain.network()).eigenvalue() does it"
        )
        return TangentSpectrum(0.0 if below and beside else None, None, None, values, ranks, why)
    T = TangentOperator(core, trained)
    if k * p <= DENSE_LIMIT:
        spectrum = np.linalg.eigvalsh(to_numpy(T.dense()))
        left = max(max(len(spectrum) * EPS, rounding[0]) * spectrum[-1], min(rounding[1], spectrum[-1] / 2))
        spectrum[spectrum <= left] = 0.0
        spectrum = np.concatenate([spectrum, outside])
        return TangentSpectrum(
            factor * float(spectrum.min()),
            factor * float(min(spectrum[spectrum > 0], default=0.0)),
            factor * float(spectrum.max()),
            values,
            ranks,
        )
    top, bottom = T.eigenvalue("greatest"), T.eigenvalue("least")
    size = float(top.value)
    if max(top.error, bottom.error) > UNCONVERGED * size:
        return TangentSpectrum(
            None, None, None, values, ranks, "the iteration for the eigenvalues of T did not converge"
        )
    if float(bottom.value) > max(bottom.error, k * p * EPS * size, rounding[0] * size, rounding[1]):
        spectrum = np.concatenate([[float(bottom.value)], outside])
        tangent = float(spectrum[spectrum > 0].min())
        return TangentSpectrum(factor * float(spectrum.min()), factor * tangent, factor * size, values, ranks)
    why = f"T is singular on its core, {k}×{p}; its least non-zero eigenvalue is found up to {DENSE_LIMIT} entries"
    return TangentSpectrum(0.0, None, factor * size, values, ranks, why)
