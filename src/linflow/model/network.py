"""The layers of a multi-layer linear model and their products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from linflow._support import checks
from linflow._support.arrays import Array, Namespace, detach, is_plain, namespace, norm
from linflow._support.html import block, never_raising, notes, table
from linflow._support.words import kind_of
from linflow.model.spectrum import ImbalanceSpectrum, signed_gram_eigenvalues

WIDEST = 500
"""The largest hidden width whose imbalance spectrum a notebook shows. Its neighbours can be four times as wide."""


class Network:
    """A multi-layer linear model `W = c · W_1 W_2 ⋯ W_L`.

    Args:
        weights: `L ≥ 1` real matrices from left to right, `W_l` of shape `(h_{l-1}, h_l)`. They can be of any array
            kind, but all of the same kind. Integers and small floats are promoted to float64 (`notes` says so).
        scale: the output scale `c > 0` (1 by default; `1/√h` is the NTK scaling of a two-layer model).

    Raises:
        ValueError: shapes that do not chain, empty or non-finite matrices, or a non-positive scale.
        TypeError: complex arrays, or arrays of different kinds.

    Every function that takes a `Network` also takes a sequence of matrices.

    Example:
        >>> import numpy as np, linflow as lf
        >>> net = lf.Network([np.ones((2, 3)), np.ones((3, 1))], scale=0.5)
        >>> net.widths, net.depth, net.shape
        ((2, 3, 1), 2, (2, 1))
        >>> net.product()
        array([[1.5],
               [1.5]])
    """

    __slots__ = ("notes", "scale", "sizes", "weights")

    weights: tuple[Array, ...]
    scale: float
    notes: tuple[str, ...]
    sizes: tuple[float, ...]
    """`‖W_l‖_F`. For a restricted network, the norms of the original layers, which determine its rounding."""

    def __init__(self, weights: Sequence[Any], scale: float = 1.0):
        if hasattr(weights, "named_modules") or (
            isinstance(weights, (list, tuple)) and any(hasattr(W, "named_modules") for W in weights)
        ):
            raise TypeError(
                "weights is a PyTorch model, or a list of layers of one; linflow.torch.network(model) is its network."
            )
        if isinstance(weights, Network) or not isinstance(weights, Sequence) or isinstance(weights, str):
            raise TypeError(f"weights is {kind_of(weights)}; a list of matrices [W_1, …, W_L] is needed.")
        if len(weights) == 0:
            raise ValueError("weights is empty; at least one matrix is needed.")
        checked = [checks.matrix(W, f"W_{l}") for l, W in enumerate(weights, 1)]
        layers = tuple(W for W, _ in checked)
        namespace(*layers)
        for l, (left, right) in enumerate(itertools.pairwise(layers), 1):
            if left.shape[1] != right.shape[0]:
                raise ValueError(
                    f"W_{l} is {left.shape[0]}×{left.shape[1]} but W_{l + 1} is "
                    f"{right.shape[0]}×{right.shape[1]}: the columns of W_{l} must equal the rows of "
                    f"W_{l + 1}. Layers multiply left to right, W_1 W_2 ⋯ W_L; nn.Linear stores the "
                    "transpose in the opposite order."
                )
        self.weights = layers
        self.scale = checks.positive(scale, "scale")
        self.sizes = tuple(norm(W) for W in layers)
        _check_size(self.sizes, self.scale)
        self.notes = tuple(note for _, note in checked if note)

    @classmethod
    def of(cls, network: Network | Sequence[Any]) -> Network:
        """Return `network` itself, or the network of a sequence of matrices."""
        return network if isinstance(network, Network) else cls(network)

    @property
    def xp(self) -> Namespace:
        """The array namespace of the weights."""
        return namespace(*self.weights)

    @property
    def depth(self) -> int:
        """Number of layers `L`."""
        return len(self.weights)

    @property
    def widths(self) -> tuple[int, ...]:
        """`(h_0, …, h_L)` with `h_0 = n` and `h_L = m`."""
        return (self.weights[0].shape[0], *(W.shape[1] for W in self.weights))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape `(n, m)` of the product."""
        return self.weights[0].shape[0], self.weights[-1].shape[1]

    @property
    def overparametrized(self) -> bool:
        """Whether `min_l h_l ≥ min(n, m)`, so that the product can be any n×m matrix."""
        return min(self.widths) == min(self.shape)

    def product(self) -> Array:
        """Return `W = c · W_1 ⋯ W_L`, shape `(n, m)`."""
        return self.scale * multiply(self.weights)

    def magnitude(self) -> float:
        """Return `c · Π ‖W_l‖_F ≥ ‖W‖_F`, the size to which the rounding of the product is relative."""
        return self.scale * math.prod(self.sizes)

    def prefixes(self) -> list[Array]:
        """Return `[P_0, …, P_{L-1}]` with `P_l = W_1 ⋯ W_l`, without the scale. None stands for `P_0 = I`."""
        return running_products(self.weights)

    def suffixes(self) -> list[Array]:
        """Return `[S_2, …, S_{L+1}]` with `S_l = W_l ⋯ W_L`, without the scale. None stands for `S_{L+1} = I`."""
        return running_suffixes(self.weights)

    def gradient(self, G: Array) -> list[Array]:
        """Return `∂L/∂W_l = c · P_{l-1}ᵀ G S_{l+1}ᵀ` for `G = ∇f(W)`, one matrix per layer."""
        return layer_gradients(self.weights, self.scale * G, self.suffixes())

    def with_weights(self, weights: Sequence[Array]) -> Network:
        """Return a network with the same scale and other weights."""
        alike = type(weights) in (list, tuple) and len(weights) == self.depth
        alike = alike and all(is_plain(W) and W.shape == V.shape for W, V in zip(weights, self.weights, strict=True))
        sizes = tuple(norm(W) for W in weights) if alike else (math.inf,)
        if not math.isfinite(sum(sizes)):
            return Network(weights, self.scale)  # checks everything, and says what is wrong
        _check_size(sizes, self.scale)
        other = Network.__new__(Network)
        other.weights, other.scale, other.sizes, other.notes = tuple(weights), self.scale, sizes, ()
        return other

    def restricted(self, weights: Sequence[Array]) -> Network:
        """Return a network with the given weights, computed from this network, and with the rounding of this one."""
        other = self.with_weights(weights)
        other.sizes = self.sizes
        return other

    def detach(self) -> Network:
        """Return the network without autograd graphs (PyTorch), or the network itself if there are none."""
        weights = [detach(W) for W in self.weights]
        if all(a is b for a, b in zip(weights, self.weights, strict=True)):
            return self
        other = self.with_weights(weights)
        other.notes = self.notes
        return other

    def _repr_html_(self) -> str:
        return never_raising(_view, self)

    def __repr__(self) -> str:
        scale = "" if self.scale == 1 else f", scale={self.scale:.4g}"
        kind = type(self.weights[0]).__module__.split(".")[0]
        return f"Network({'×'.join(map(str, self.widths))}{scale}, {kind})"


def _check_size(norms: Sequence[float], scale: float) -> None:
    """Raise ValueError if squares that every computation needs would leave float64."""
    sizes = [2 * math.log10(max(size, 1e-300)) for size in norms]
    scaling = 2 * math.log10(scale)
    # Each term of T omits one layer, possibly the small one.
    positive = sum(max(size, 0.0) for size in sizes)
    exponent = max(positive, scaling, positive + scaling)
    if exponent > 300:
        raise ValueError(
            f"the weights (or the scale) are too large: their squares multiply to 10^{exponent:.0f}, past float64. "
            "Rescale them."
        )


def multiply(matrices: Sequence[Array]) -> Array:
    """Multiply matrices from the narrower end, which keeps intermediate results small."""
    if matrices[0].shape[0] <= matrices[-1].shape[1]:
        result = matrices[0]
        for W in matrices[1:]:
            result = result @ W
        return result
    result = matrices[-1]
    for W in reversed(matrices[:-1]):
        result = W @ result
    return result


def running_products(weights: Sequence[Array]) -> list[Array]:
    """Return `[None, W_1, W_1 W_2, …, W_1 ⋯ W_{L-1}]`."""
    prefixes: list[Array] = [None]
    for W in weights[:-1]:
        prefixes.append(W if prefixes[-1] is None else prefixes[-1] @ W)
    return prefixes


def running_suffixes(weights: Sequence[Array]) -> list[Array]:
    """Return `[W_2 ⋯ W_L, …, W_L, None]`."""
    suffixes: list[Array] = [None]
    for W in reversed(weights[1:]):
        suffixes.append(W if suffixes[-1] is None else W @ suffixes[-1])
    return suffixes[::-1]


def layer_gradients(weights: Sequence[Array], G: Array, suffixes: Sequence[Array]) -> list[Array]:
    """Return `P_{l-1}ᵀ G S_{l+1}ᵀ` for every layer, computing `P_{l-1}ᵀ G` in one pass from the left."""
    gradients = []
    pulled = G
    for l, S in enumerate(suffixes):
        gradients.append(pulled if S is None else pulled @ S.T)
        if l + 1 < len(weights):
            pulled = weights[l].T @ pulled
    return gradients


def _view(network: Network) -> str:
    """Return the widths, and of each layer shape, norm, and spectral gap and spreads of the imbalance after it."""
    rows = []
    for l, (W, size) in enumerate(zip(network.weights, network.sizes, strict=True), 1):
        rows.append((f"W_{l}", f"{W.shape[0]}×{W.shape[1]}", f"{size:.4g}", *_spectrum_view(network, l)))
    scale = "" if network.scale == 1 else f", scale c = {network.scale:.4g}"
    head = f"{network.depth} layer{'s' * (network.depth > 1)}, {'×'.join(map(str, network.widths))}{scale}"
    if not network.overparametrized:
        head += "; narrower than min(n, m): not every product can be reached"
    titles = ("layer", "shape", "‖W‖_F", "spectral gap Δ of D", "spreads Δ₊, Δ₋")
    return block("Network", head, table(titles, rows), notes(network.notes))


def _spectrum_view(network: Network, l: int) -> tuple[str, str]:
    """Return the spectral gap and the spreads of `D_l` as text, with dashes or a remark if they are not computed."""
    if l == network.depth:
        return "–", "–"
    left, h, right = network.widths[l - 1 : l + 2]
    if h > WIDEST or max(left, right) > 4 * WIDEST:
        return "not computed: wide", "–"
    try:
        A, B = (detach(W) for W in network.weights[l - 1 : l + 1])
        values = signed_gram_eigenvalues([(1.0, A.T), (-1.0, B)])
        found = ImbalanceSpectrum.of(values, *network.shape)
    except Exception:  # LAPACK did not converge, or the device does not support it
        return "not computed", "–"
    return f"{found.spectral_gap:.4g}", f"{found.positive_spread:.4g}, {found.negative_spread:.4g}"
