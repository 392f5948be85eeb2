"""Initialisations. Each takes the widths `(h_0, …, h_L)` and a seed, and returns a `Network`.

`rng` is a seed or a `numpy.random.Generator`; the same seed gives the same weights on every machine and for
every array kind. `like` is an array whose kind and device the weights take (NumPy by default).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import Array, from_numpy, is_array, to_numpy
from linflow._support.names import missing
from linflow._support.words import kind_of
from linflow.model.network import Network
from linflow.model.prescribed import ACCEPTED, Prescription
from linflow.model.scalar_chain import chain_offsets, chain_root

Seed = int | np.random.Generator | None

if not TYPE_CHECKING:  # type checkers know the names
    __getattr__ = missing(
        __name__,
        (
            "balanced", "fan_in", "fan_out", "gaussian", "identity", "imbalanced", "ntk", "orthogonal", "small",
            "spectral", "with_imbalance",
        ),
        {
            "xavier": "Its variance 2/(rows + columns) lies between those of fan_in and fan_out.",
            "glorot": "Its variance 2/(rows + columns) lies between those of fan_in and fan_out.",
            "kaiming": "Without a nonlinearity it is fan_in.",
            "lecun": "It is fan_in.",
        },
    )  # fmt: skip


def gaussian(widths: Sequence[int], std: float = 1.0, *, rng: Seed = None, like: Array | None = None) -> Network:
    """Independent N(0, std²) entries.

    Example:
        >>> import linflow as lf
        >>> lf.init.gaussian((20, 30, 5), rng=0)
        Network(20×30×5, numpy)
    """
    widths, std = checks.widths(widths), checks.positive(std, "std")
    return _draw(widths, [std] * (len(widths) - 1), rng, like)


def ntk(widths: Sequence[int], *, rng: Seed = None, like: Array | None = None) -> Network:
    """Independent N(0, 1) entries and output scale `1/√(h_1 ⋯ h_{L-1})` (Jacot et al. 2018).

    Example:
        >>> import linflow as lf
        >>> lf.init.ntk((20, 100, 5), rng=0).scale
        0.1
    """
    widths = checks.widths(widths)
    hidden = math.prod(widths[1:-1])
    if hidden > 2**1000:
        raise ValueError("the hidden widths multiply to over 10^300, which the scale is made of; use fewer layers.")
    return _draw(widths, [1.0] * (len(widths) - 1), rng, like, scale=1 / math.sqrt(hidden))


def fan_in(widths: Sequence[int], *, rng: Seed = None, like: Array | None = None) -> Network:
    """Independent N(0, 1/h_{l-1}) entries in `W_l`: the variance is one over the rows.

    Example:
        >>> import linflow as lf
        >>> lf.init.fan_in((5, 200, 200, 1), rng=0)
        Network(5×200×200×1, numpy)
    """
    widths = checks.widths(widths)
    return _draw(widths, [1 / math.sqrt(h) for h in widths[:-1]], rng, like)


def fan_out(widths: Sequence[int], *, rng: Seed = None, like: Array | None = None) -> Network:
    """Independent N(0, 1/h_l) entries in `W_l`: the variance is one over the columns.

    Example:
        >>> import linflow as lf
        >>> lf.init.fan_out((5, 200, 200, 1), rng=0)
        Network(5×200×200×1, numpy)
    """
    widths = checks.widths(widths)
    return _draw(widths, [1 / math.sqrt(h) for h in widths[1:]], rng, like)


def small(widths: Sequence[int], size: float = 1e-3, *, rng: Seed = None, like: Array | None = None) -> Network:
    """Independent N(0, size²) entries with a small `size`: the regime of sequential learning.

    Example:
        >>> import linflow as lf
        >>> lf.init.small((4, 8, 4), 1e-4, rng=0)
        Network(4×8×4, numpy)
    """
    return gaussian(widths, checks.positive(size, "size"), rng=rng, like=like)


def identity(
    widths: Sequence[int], size: float = 1.0, std: float = 0.0, *, rng: Seed = None, like: Array | None = None
) -> Network:
    """Every layer `size` times the identity (its first rows or columns where a layer is not square), plus N(0, std²).

    These are the equal layers from which diagonal and circular networks start, and residual layers: `x + xA_l` is
    the layer `I + A_l`. With std = 0 nothing is drawn, the layers are balanced if all widths are equal, and a
    regression near `W* = I` with the margin m is certified at the rate `γ L m^{2−2/L}`.

    Example:
        >>> import linflow as lf
        >>> lf.init.identity((2, 2, 2), 0.5).weights[1]
        array([[0.5, 0. ],
               [0. , 0.5]])
    """
    widths, size, std = (
        checks.widths(widths),
        checks.positive(size, "size"),
        checks.positive(std, "std", allow_zero=True),
    )
    draw = checks.generator(rng).standard_normal if std else np.zeros
    return _network([size * np.eye(*shape) + std * draw(shape) for shape in itertools.pairwise(widths)], like)


def orthogonal(widths: Sequence[int], gain: float = 1.0, *, rng: Seed = None, like: Array | None = None) -> Network:
    """Uniformly (Haar) distributed semi-orthogonal layers times `gain`.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = lf.init.orthogonal((3, 5, 3), gain=2.0, rng=0)
        >>> bool(np.allclose(net.weights[0] @ net.weights[0].T, 4 * np.eye(3)))
        True
    """
    widths, gain, rng = checks.widths(widths), checks.positive(gain, "gain"), checks.generator(rng)
    layers = []
    for rows, columns in itertools.pairwise(widths):
        Q = _orthonormal(max(rows, columns), min(rows, columns), rng)
        layers.append(gain * (Q if rows >= columns else Q.T))
    return _network(layers, like)


def balanced(
    widths: Sequence[int],
    product: Any = None,
    *,
    std: float = 1.0,
    rng: Seed = None,
    like: Array | None = None,
) -> Network:
    """Balanced weights, `D_l = 0` for every l, with a given (or N(0, std²)) product.

    With `product = U diag(σ) Vᵀ`, the layers are `W_l = Q_{l-1} diag(σ^{1/L}) Q_lᵀ`, where `Q_0 = U` and `Q_L = V`.
    The hidden `Q_l` are drawn uniformly.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = lf.init.balanced((3, 6, 4, 2), product=np.ones((3, 2)), rng=0)
        >>> bool(np.allclose(net.product(), 1)), bool(max(abs(D).max() for D in lf.imbalance_matrices(net)) < 1e-14)
        (True, True)
    """
    return imbalanced(widths, 0.0, product, std=std, rng=rng, like=like)


def imbalanced(
    widths: Sequence[int],
    imbalance: float | Sequence[float],
    product: Any = None,
    *,
    std: float = 1.0,
    rng: Seed = None,
    like: Array | None = None,
) -> Network:
    """Weights with homogeneous imbalance and a given (or N(0, std²)) product.

    Each of the `k = min(n, m)` singular modes of the product is a scalar chain with `w_l² − w_{l+1}² = d_l`:
    `w_l² = x + c_l`, `x` the root of `Π(x + c_l) = σ²`, so `D_l` has the eigenvalue `d_l` on k modes. When n > m
    the `n − m` spare left modes carry `w_l² = [c_l − c_L]_+` up to the first zero (mirrored when n < m), so that
    `λ_min(T)` does not vanish; the product is unchanged.

    Args:
        widths: `(n, h_1, …, m)`; hidden widths are at least `min(n, m)`, or `max(n, m)` where spare modes pass.
        imbalance: `d`, one number for every `D_l`, or one for each of the `L − 1`. Any sign.
        product: `W`, shape `(n, m)`; by default drawn with N(0, std²) entries.
        std: standard deviation of the drawn product.
        rng: seed or generator.
        like: array whose kind and device to take.

    Raises:
        ValueError: hidden widths below `min(n, m)`, a wrong number of imbalances, or a product of the wrong shape.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = lf.init.imbalanced((2, 4, 2), 3.0, product=np.eye(2), rng=0)
        >>> lf.imbalance_spectrum(net).eigenvalues.round(12) + 0.0
        array([3., 3., 0., 0.])
    """
    widths, rng = checks.widths(widths), checks.generator(rng)
    n, m, L = widths[0], widths[-1], len(widths) - 1
    ds = _per_layer(imbalance, L - 1)
    W = rng.normal(0.0, checks.positive(std, "std"), (n, m)) if product is None else product
    W = to_numpy(checks.matrix(W, "product", (n, m))[0])
    offsets = chain_offsets(ds)
    U, sigma, Vt = np.linalg.svd(W, full_matrices=True)
    modes = np.sqrt(np.array([chain_root(offsets, s) + offsets for s in sigma])).T
    return _from_modes(widths, U, Vt.T, modes, offsets, rng, like)


def spectral(
    widths: Sequence[int],
    target: Any,
    values: float | Sequence[float] | Any = 1.0,
    *,
    rng: Seed = None,
    like: Array | None = None,
) -> Network:
    """Spectral initialisation: singular vectors of the product aligned with those of `target`.

    `W_1 = U diag(w_1) Q_1ᵀ`, `W_l = Q_{l-1} diag(w_l) Q_lᵀ`, `W_L = Q_{L-1} diag(w_L) Vᵀ` with `target = U Σ Vᵀ`.
    The flow then keeps all singular vectors and splits into one scalar chain for each mode (Saxe et al. 2014).

    Args:
        widths: `(n, h_1, …, m)`, the hidden ones at least `k = min(n, m)`.
        target: shape `(n, m)`.
        values: the mode weights `w`: one number, one for each layer, or an `(L, k)` array.
        rng: seed or generator for the hidden `Q_l`.
        like: array whose kind and device to take.

    Raises:
        ValueError: hidden widths below `k`, or `values` or `target` of the wrong shape.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = lf.init.spectral((2, 3, 2), np.diag([3.0, 1.0]), 0.1, rng=0)
        >>> np.linalg.svd(net.product())[1].round(12)
        array([0.01, 0.01])
    """
    widths, rng = checks.widths(widths), checks.generator(rng)
    n, m, L = widths[0], widths[-1], len(widths) - 1
    target = to_numpy(checks.matrix(target, "target", (n, m))[0])
    k = min(n, m)
    w = checks.numbers(values, "values")
    if w.ndim == 1 and w.shape == (L,):
        w = w[:, None]
    if w.ndim not in (0, 2) or (w.ndim == 2 and (w.shape[0] != L or w.shape[1] not in (1, k))):
        raise ValueError(
            f"values has shape {w.shape}; one number, {L} numbers (one a layer) or an array of shape "
            f"({L}, {k}) is needed."
        )
    U, _, Vt = np.linalg.svd(target, full_matrices=True)
    return _from_modes(widths, U, Vt.T, np.broadcast_to(w, (L, k)), None, rng, like)


def with_imbalance(D: Any, W: Any, *, scale: float = 1.0, rng: Seed = None) -> Network:
    """Weights with prescribed imbalances and a prescribed product, if such weights exist.

    The weights satisfy `W_lᵀW_l − W_{l+1}W_{l+1}ᵀ = D_l` for every l and `c W_1 ⋯ W_L = W`. Two layers are solved in
    closed form. Their weights exist *if and only if* D has at most n positive and at most m negative eigenvalues and
    `rank W ≤ h`.

    For more layers the same conditions are necessary, with `h_{l−1}` and `h_{l+1}` instead of n and m and the least
    width instead of h. In addition, Weyl's inequalities must leave room for the singular values of every layer. The
    Levenberg–Marquardt method then searches for weights, starting from chains of scalars and from random weights.
    This takes seconds up to widths of about 60, and minutes at 100.

    Args:
        D: `D_1`, symmetric, shape `(h, h)`, for two layers; or the list `[D_1, …, D_{L-1}]` for L.
        W: the product, output scale included, shape `(n, m)`. The weights take its array kind.
        scale: output scale c of the network.
        rng: seed or generator for the search; not used for two layers.

    Returns:
        The network. It meets each `D_l` to `1e-10 max_l ‖W_l‖_F²`. It meets W to `1e-10 ‖W‖_F`, or to `1e-12` times
        the product of the sizes of its layers if that is larger. Both errors are usually near rounding.

    Raises:
        ValueError: D is not symmetric; no such weights exist (the message names the condition that fails); or none
            were found, which for three or more layers does not prove that none exist.

    Source: this library, docs/design.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = lf.init.with_imbalance(np.diag([3.0, 0.0, -1.0]), np.array([[2.0, 0.0], [0.0, 1.0]]))
        >>> lf.imbalance_spectrum(net).eigenvalues.round(12) + 0.0, net.product().round(12) + 0.0
        (array([ 3.,  0., -1.]), array([[2., 0.],
           [0., 1.]]))
        >>> lf.init.with_imbalance(np.eye(3), np.zeros((2, 2)))
        Traceback (most recent call last):
        ValueError: no such weights exist: D_1 has 3 positive eigenvalues, but D_1 ⪯ W_1ᵀW_1 has rank at most n = 2...
    """
    scale = checks.positive(scale, "scale")
    W = checks.matrix(W, "W")[0]
    wanted = Prescription([_symmetric(X, l) for l, X in enumerate(_matrices(D), 1)], to_numpy(W) / scale)
    obstacle = wanted.obstacle()
    if obstacle:
        raise ValueError(f"no such weights exist: {obstacle}.")
    weights, residual = wanted.weights(checks.generator(rng))
    if residual > ACCEPTED:
        raise ValueError(
            f"no weights were found: the search ended {residual:.2g} from the imbalances and product, relatively. No "
            "necessary condition that was tried fails, so there may be some: try another rng, wider layers, or "
            "imbalances and a product of some network."
        )
    return _network(weights, W, scale)


def _draw(widths: Sequence[int], stds: Sequence[float], rng: Seed, like: Array | None, scale: float = 1.0) -> Network:
    rng = checks.generator(rng)
    sides = zip(stds, widths, widths[1:], strict=False)
    return _network([std * rng.standard_normal((rows, columns)) for std, rows, columns in sides], like, scale)


def _network(layers: list[np.ndarray], like: Array | None, scale: float = 1.0) -> Network:
    return Network(layers if like is None else [from_numpy(W, like) for W in layers], scale)


def _orthonormal(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Haar-distributed orthonormal columns: QR with the signs fixed (Mezzadri 2007)."""
    Q, R = np.linalg.qr(rng.standard_normal((rows, columns)))
    return Q * np.where(np.diag(R) < 0, -1.0, 1.0)


def _matrices(D: Any) -> Sequence[Any]:
    """Return the imbalances as a list; a single matrix (an array or nested lists of numbers) gives a list of one."""
    if is_array(D):
        return [D] if D.ndim == 2 else list(D)
    if not isinstance(D, Sequence) or isinstance(D, str) or len(D) == 0:
        raise TypeError(
            f"D is {kind_of(D)} {D!r}; a symmetric matrix, or a list of them [D_1, …, D_{{L-1}}], is needed."
        )
    nested = not is_array(D[0]) and isinstance(D[0], Sequence) and len(D[0]) > 0 and np.ndim(D[0][0]) == 0
    return [D] if nested else D


def _symmetric(D: Any, l: int) -> np.ndarray:
    D = to_numpy(checks.matrix(D, f"D_{l}")[0])
    if D.shape[0] != D.shape[1] or np.linalg.norm(D - D.T) > 1e-10 * np.linalg.norm(D):
        raise ValueError(
            f"D_{l} ({D.shape[0]}×{D.shape[1]}) is not symmetric; W_lᵀW_l − W_{{l+1}}W_{{l+1}}ᵀ always is. "
            "Pass (D + D.T)/2 if the difference is meant to be rounding."
        )
    return (D + D.T) / 2


def _per_layer(imbalance: float | Sequence[float], count: int) -> np.ndarray:
    ds = checks.numbers(imbalance, "imbalance")
    if ds.ndim == 0:
        ds = np.full(count, float(ds))
    if ds.shape != (count,):
        raise ValueError(
            f"imbalance has shape {ds.shape}; one number, or {count} (one for each pair of neighbouring "
            "layers), is needed."
        )
    if not np.all(np.isfinite(ds)):
        raise ValueError("imbalance holds NaN or infinite entries; finite numbers are needed.")
    return ds


def _from_modes(
    widths: tuple[int, ...],
    U: np.ndarray,
    V: np.ndarray,
    modes: np.ndarray,
    offsets: np.ndarray | None,
    rng: np.random.Generator,
    like: Array | None,
) -> Network:
    """Build `W_l = Q_{l-1} diag(w_l) Q_lᵀ` from mode weights (L, k), spare modes filled from the offsets."""
    n, m, L = widths[0], widths[-1], len(widths) - 1
    k, spare = min(n, m), abs(n - m)
    w = np.zeros((L, k + spare))
    w[:, :k] = modes
    if offsets is not None and spare:
        order = range(L) if n > m else range(L - 1, -1, -1)
        end = offsets[order[-1]]
        for l in order:
            if offsets[l] <= end:
                break
            w[l, k:] = math.sqrt(offsets[l] - end)
    bases = [U]
    for l, h in enumerate(widths[1:-1], 1):
        # A hidden layer must hold each mode that enters or leaves it.
        need = k + int(np.count_nonzero((w[l - 1] + w[l])[k:]))
        if h < need:
            raise ValueError(
                f"hidden width h_{l} = {h} is too small: {need} modes pass through it. Widen it to at least {need}."
            )
        bases.append(_orthonormal(h, min(h, k + spare), rng))
    bases.append(V)
    layers = []
    for l in range(L):
        r = min(bases[l].shape[1], bases[l + 1].shape[1], k + spare)
        layers.append((bases[l][:, :r] * w[l, :r]) @ bases[l + 1][:, :r].T)
    return _network(layers, like)
