"""Exact width reduction: hidden directions that never move are removed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, from_numpy, norm, to_numpy
from linflow.geometry._orthonormal import tall_qr
from linflow.model.network import Network

REDUCE_FROM, SEARCH_FROM = 1000, 3000
"""Number of weights from which a run looks for a narrower network: the first if the widths alone make it narrower,
the second if its structure might. Below these, the search costs about as much as it saves."""

_ROUNDING = 16 * EPS
"""Fraction of a layer's norm below which a new direction counts as rounding."""

_CHANGE = 64 * EPS
"""Largest allowed change of a layer, relative to its norm. Changes up to 16 ε were observed for structure that
appears late."""

_DISTINCT = 1e-8
"""A vector counts as independent if its distance from the earlier vectors' span exceeds this part of its length."""

_SWEEPS = 2
"""Number of sweeps over the layers after which weights with independent directions count as unstructured."""

_Bases = list[np.ndarray | None]
"""`Q_l` for l = 1 … L − 1, with None for the identity."""


@dataclass(frozen=True, repr=False)
class Reduction:
    """A network and an equivalent narrower one, for any objective.

    Let `Q_l` be orthonormal bases of invariant subspaces (`Q_0 = I`, `Q_L = I`). The layers are
    `W_l = Q_{l-1} V_l Q_lᵀ + F_l`. The `V_l` follow the same flow, and the same descent at any step sizes. The `F_l`
    never move.

    Attributes:
        network: the layers `V_l = Q_{l-1}ᵀ W_l Q_l`, with the output scale of the original.
        widths: the widths of the original, `(h_0, …, h_L)`.
        bases: `Q_l` for l = 1 … L − 1, shape `(h_l, k_l)`; None for the identity. If a subspace is zero, its layer
            keeps one unit that never moves: the weights are zero, and the basis is a column of zeros.
        frozen: `F_l` for l = 1 … L; None for zero, as the first and last always are.
        error: `max_l ‖W_l − Q_{l-1} V_l Q_lᵀ − F_l‖_F / ‖W_l‖_F`, a few ε. The reduction is exact for weights this
            close to the original.

    Source: this library, docs/reduction.md.
    """

    network: Network
    widths: tuple[int, ...]
    bases: tuple[Array | None, ...]
    frozen: tuple[Array | None, ...]
    error: float

    @property
    def identity(self) -> bool:
        """Whether the network was not reduced, so that `network` is the original."""
        return all(Q is None for Q in self.bases)

    def expand(self, network: Network | Sequence[Any]) -> Network:
        """Return the full network for reduced weights, `Q_{l-1} V_l Q_lᵀ + F_l`.

        Args:
            network: a `Network` (its scale is kept) or weights, with the widths of `self.network`.

        Raises:
            ValueError: the widths differ from those of `self.network`.
        """
        net = network if isinstance(network, Network) else self.network.with_weights(network)
        if net.widths != self.network.widths:
            raise ValueError(
                f"the network has widths {net.widths}; those of the reduced one, {self.network.widths}, are needed "
                f"(it is expanded to {self.widths})."
            )
        if self.identity:
            return net
        return net.with_weights(expanded(net.weights, self.bases, self.frozen))

    def expand_sequence(self, networks: Sequence[Network | Sequence[Any]]) -> list[Network]:
        """Return the full networks for several reduced ones, such as those along a run."""
        return [self.expand(network) for network in networks]

    def __repr__(self) -> str:
        full, reduced = ("×".join(map(str, widths)) for widths in (self.widths, self.network.widths))
        return f"Reduction({full}, identity)" if self.identity else f"Reduction({full} → {reduced})"


def reduce_width(network: Network | Sequence[Any], *, gain: float = 1.25, thorough: bool = False) -> Reduction:
    """Return the network restricted to the hidden directions that can move, and the map back to the full network.

    Let `U_l ⊇ W_lᵀ U_{l-1} + W_{l+1} U_{l+1}` be the smallest such subspaces with `U_0 = R^n` and `U_L = R^m`. They
    contain every gradient `∂L/∂W_l`, for any objective, and continue to do so as the weights move. Let `Q_l` be
    orthonormal bases of them. The layers `Q_{l-1}ᵀ W_l Q_l` have the same product W, loss, flow, descents and
    operator T as the original. The part of `W_l` outside the subspaces never moves. The first and the last layer have
    no such part.

    Three things make a layer narrower:

    - units that are not connected to an input or output;
    - a width above `h_{l-1} + h_{l+1}`, because the range of `[W_lᵀ W_{l+1}]` contains `U_l`;
    - structure in the weights, such as orthogonal, low-rank or balanced layers.

    Directions that are only rounding are ignored.

    Args:
        network: a `Network` or its weights.
        gain: least factor, at least 1, by which the number of weights must fall. The search for structure ends once
            this factor is out of reach.
        thorough: whether to search to the end. By default the search stops if the first directions found are
            independent, as in weights without structure. It can then miss structure that appears late: layers of
            low rank, but above about `2(n + m)`.

    Returns:
        A `Reduction`, which is the identity if the gain is not reached.

    Raises:
        ValueError: the gain is below 1.

    Source: this library, docs/reduction.md. For two layers the reduced width is at most `n + m`.

    Example:
        >>> import linflow as lf
        >>> lf.reduce_width(lf.init.gaussian((20, 1000, 5), rng=0))
        Reduction(20×1000×5 → 20×25×5)
        >>> reduction = lf.reduce_width(lf.init.orthogonal((3, 100, 100, 2), rng=0))
        >>> reduction.network
        Network(3×5×5×2, numpy)
        >>> reduction.expand(reduction.network)
        Network(3×100×100×2, numpy)
    """
    net = Network.of(network)
    gain = checks.positive(gain, "gain")
    if gain < 1:
        raise ValueError(f"gain is {gain:g}; a factor of at least 1 is needed, such as 2 for half the weights.")
    unchanged = Reduction(net, net.widths, (None,) * (net.depth - 1), (None,) * net.depth, 0.0)
    if net.depth == 1:
        return unchanged
    sizes = [norm(W) or 1.0 for W in net.weights]
    unit = [to_numpy(W) / size for W, size in zip(net.weights, sizes, strict=True)]
    bases = _connected(unit)
    for narrower in (lambda layers: cut(layers, gain), lambda layers: _structure(layers, gain, thorough)):
        found = narrower(projected(unit, bases))
        bases = [_composed(Q, V) for Q, V in zip(bases, found, strict=True)]
    narrow = projected(unit, bases)
    widths = tuple(_widths(narrow))
    if widths == net.widths or weights_in(net.widths) < gain * weights_in(widths):
        return unchanged
    frozen = [_outside(W, P, Q) for W, (P, Q) in zip(unit, itertools.pairwise([None, *bases, None]), strict=True)]
    again = expanded(narrow, bases, frozen)
    error = max(float(np.linalg.norm(V - W)) for V, W in zip(again, unit, strict=True))
    if error > _CHANGE:
        return unchanged
    like = net.weights[0]
    Qs = tuple(None if Q is None else from_numpy(Q, like) for Q in bases)
    Fs = tuple(None if F is None else from_numpy(F * size, like) for F, size in zip(frozen, sizes, strict=True))
    return Reduction(net.with_weights(projected(net.weights, Qs)), net.widths, Qs, Fs, error)


def _connected(layers: list[np.ndarray]) -> _Bases:
    """Return the columns of the identity that belong to units connected to an input or output by nonzero weights."""
    patterns = [W != 0 for W in layers]
    if all(pattern.all() for pattern in patterns):
        return [None] * (len(layers) - 1)
    reached = [np.zeros(W.shape[0], dtype=bool) for W in layers]
    reached[0] = ~reached[0]
    reached.append(np.ones(layers[-1].shape[1], dtype=bool))
    again = True
    while again:
        again = False
        for l in (*range(1, len(layers)), *range(len(layers) - 2, 0, -1)):
            if reached[l].all():
                continue
            now = reached[l] | (reached[l - 1] @ patterns[l - 1]) | (patterns[l] @ reached[l + 1])
            again = again or bool(np.any(now != reached[l]))
            reached[l] = now
    return [None if used.all() else _column(np.eye(len(used))[:, used]) for used in reached[1:-1]]


def cut(layers: list[np.ndarray], gain: float = 1.0) -> _Bases:
    """Return an orthonormal basis of a space that contains the range of `[W_lᵀ W_{l+1}]`, or None, for each layer.

    A layer has a basis if it has more units than this matrix has columns. All are None if the number of weights does
    not fall by the factor `gain`.

    Two adjacent layers are never both wider than the sum of their neighbours. So one pass, in any order, is enough.
    """
    widths = _widths(layers)
    most = [a + b for a, b in zip(widths, widths[2:], strict=False)]
    least = [widths[0], *map(min, widths[1:-1], most), widths[-1]]
    if weights_in(widths) < gain * weights_in(least):
        return [None] * len(most)
    return [
        tall_qr(np.concatenate([A.T, B], axis=1))[0] if A.shape[1] > k else None
        for (A, B), k in zip(itertools.pairwise(layers), most, strict=True)
    ]


def _composed(Q: np.ndarray | None, V: np.ndarray | None) -> np.ndarray | None:
    return V if Q is None else Q if V is None else Q @ V


def worthwhile_reduction(network: Network) -> Reduction | None:
    """Return the reduction of the network, or None if the network is too small or the reduction gains nothing."""
    widths = network.widths
    wide = any(h > a + b for a, h, b in zip(widths, widths[1:], widths[2:], strict=False))
    if weights_in(widths) < (REDUCE_FROM if wide else SEARCH_FROM):
        return None
    reduction = reduce_width(network)
    return None if reduction.identity else reduction


def projected(weights: Sequence[Array], bases: Sequence[Array | None]) -> list[Array]:
    """Return `Q_{l-1}ᵀ W_l Q_l`."""
    layers = []
    for W, (P, Q) in zip(weights, itertools.pairwise([None, *bases, None]), strict=True):
        V = W if P is None else P.T @ W
        layers.append(V if Q is None else V @ Q)
    return layers


def expanded(weights: Sequence[Array], bases: Sequence[Array | None], frozen: Sequence[Array | None]) -> list[Array]:
    """Return `Q_{l-1} V_l Q_lᵀ + F_l`."""
    layers = []
    for V, (P, Q), F in zip(weights, itertools.pairwise([None, *bases, None]), frozen, strict=True):
        W = V if Q is None else V @ Q.T
        W = W if P is None else P @ W
        layers.append(W if F is None else W + F)
    return layers


def _outside(W: np.ndarray, P: np.ndarray | None, Q: np.ndarray | None) -> np.ndarray | None:
    """Return `(I − PPᵀ) W (I − QQᵀ)` of a layer of norm 1, or None if it is rounding or a basis spans the space."""
    if P is None or Q is None:
        return None
    F = W - P @ (P.T @ W)
    F = F - (F @ Q) @ Q.T
    return F if np.linalg.norm(F) > _ROUNDING else None


def _widths(layers: list[np.ndarray]) -> list[int]:
    return [*(W.shape[0] for W in layers), layers[-1].shape[1]]


def weights_in(widths: Sequence[int]) -> int:
    """Return the number of weights of a network."""
    return sum(a * b for a, b in itertools.pairwise(widths))


def _column(Q: np.ndarray) -> np.ndarray:
    """Return Q, or one column of zeros if Q has no columns, because every layer needs at least one unit."""
    return Q if Q.shape[1] else np.zeros((Q.shape[0], 1))


def _structure(layers: list[np.ndarray], gain: float, thorough: bool) -> _Bases:
    """Return orthonormal bases of the `U_l`, or None for all if the number of weights does not fall by `gain`."""
    widths = _widths(layers)
    most = weights_in(widths) / gain
    nothing: _Bases = [None] * (len(layers) - 1)
    # If each dimension were at least this, the gain would be out of reach.
    enough = [min(h, math.floor(h / math.sqrt(gain)) + 1) for h in widths[1:-1]]
    if not thorough and _independent(layers, enough):
        return nothing
    spans = _grown(layers, _orthonormal_part, lambda spans: weights_in([V.shape[1] for V in spans]) > most)
    if weights_in([max(V.shape[1], 1) for V in spans]) > most:
        return nothing
    return [None if V.shape[0] == V.shape[1] else _column(V) for V in spans[1:-1]]


def _independent(layers: list[np.ndarray], enough: list[int]) -> bool:
    """Return whether the first directions in the `U_l` are independent. If so, all later ones probably are too.

    The directions are the images of inputs and outputs under short products of layers, in the order they are found.
    At most `enough` of them are checked in each layer.
    """
    spans = _grown(
        layers,
        _as_they_come,
        lambda spans: all(V.shape[1] >= k for V, k in zip(spans[1:-1], enough, strict=True)),
        _SWEEPS,
    )
    for V, k in zip(spans[1:-1], enough, strict=True):
        lengths = np.linalg.norm(V[:, :k], axis=0)
        apart = np.abs(np.diag(np.linalg.qr(V[:, :k], mode="r")))
        if np.any(apart <= _DISTINCT * lengths):
            return False
    return True


def _grown(
    layers: list[np.ndarray],
    part: Callable[[np.ndarray, np.ndarray], np.ndarray],
    done: Callable[[list[np.ndarray]], bool],
    sweeps: int | None = None,
) -> list[np.ndarray]:
    """Return matrices whose columns span the `U_l`, l = 0 … L, or a part of them if `done` or `sweeps` stops it.

    `part(V, X)` returns the columns to add to V for new vectors X. Sweeps to the right and back map every column once
    through each of its two layers.
    """
    L = len(layers)
    spans = [np.empty((W.shape[0], 0)) for W in layers]
    spans[0] = np.eye(layers[0].shape[0])
    spans.append(np.eye(layers[-1].shape[1]))
    right, left = [0] * (L + 1), [0] * (L + 1)  # numbers of columns already mapped on
    for _ in itertools.count() if sweeps is None else range(sweeps):
        grew = False
        for l in (*range(1, L), *range(L - 2, 0, -1)):
            images = []
            if right[l - 1] < spans[l - 1].shape[1]:
                images.append(layers[l - 1].T @ spans[l - 1][:, right[l - 1] :])
                right[l - 1] = spans[l - 1].shape[1]
            if left[l + 1] < spans[l + 1].shape[1]:
                images.append(layers[l] @ spans[l + 1][:, left[l + 1] :])
                left[l + 1] = spans[l + 1].shape[1]
            if not images or spans[l].shape[0] == spans[l].shape[1]:
                continue
            new = part(spans[l], images[0] if len(images) == 1 else np.concatenate(images, axis=1))
            if new.shape[1]:
                spans[l] = np.concatenate([spans[l], new], axis=1)
                grew = True
                if done(spans):
                    return spans
        if not grew:
            break
    return spans


def _as_they_come(V: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return the first columns of X, as many as V can still take."""
    return X[:, : V.shape[0] - V.shape[1]]


def _orthonormal_part(V: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the part of X orthogonal to V, ignoring rounding in layers of norm 1."""
    Q, R = np.linalg.qr(X - V @ (V.T @ X))
    U, s, _ = np.linalg.svd(R)
    # A short remainder is orthogonal to V only after it is scaled to length 1 and projected again.
    new = Q @ U[:, : int(np.count_nonzero(s > _ROUNDING))][:, : V.shape[0] - V.shape[1]]
    return np.linalg.qr(new - V @ (V.T @ new)).Q
