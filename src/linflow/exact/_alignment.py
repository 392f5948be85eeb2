"""The singular modes that a target and a network share, found and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linflow._support.arrays import EPS, norm, to_numpy
from linflow.model.network import Network, multiply

_TOLERANCE = 1e-10
_NOISE = 32 * EPS
"""A number `qᵀWp` counts as rounding below this fraction of `‖|W||p|‖`, the size of the terms that form `Wp`. In
random orthonormal frames, the rounding of a 0 reached ε/2, and that of a 0 in Y reached 8ε. If W is diagonal, nothing
is rounded and every weight counts."""
_MIX = 0.7390851332151607
"""Weight of the product relative to the target in the mix whose singular vectors are taken; an arbitrary value."""


@dataclass(frozen=True)
class Modes:
    """Shared singular modes, in the order of the target's singular values.

    Attributes:
        U: left singular vectors, shape `(n, r)`.
        V: right singular vectors, shape `(m, r)`.
        target: singular values of the target, length r.
        weights: weights of the layers in each mode, shape `(L, r)`; only the sign of their product has a meaning.
    """

    U: np.ndarray
    V: np.ndarray
    target: np.ndarray
    weights: np.ndarray


def shared_modes(network: Network, Y: np.ndarray) -> Modes:
    """Return the modes with `W_l = Q_{l−1} diag(w_l) Q_lᵀ`, `Q_0 = U`, `Q_L = V`, `Y = U Σ Vᵀ`.

    Modes in which target and product are both 0 do not move and are left out. A weight or a singular value of the
    target counts as 0 if it is below `32ε` times the size of the terms that form it (`_NOISE`). If two weights of a
    mode are 0, the hidden vectors between them are unknown; such a mode does not move either.

    Raises:
        ValueError: the network does not have this form to `1e-10`, relative to each layer.
    """
    layers = [to_numpy(W) for W in network.weights]
    product, entries = multiply(layers), multiply([np.abs(W) for W in layers])
    U, V = _joint_vectors(layers, Y, product, entries)
    target = np.sum(U * (Y @ V), axis=0)
    V, target = np.where(target < 0, -V, V), np.abs(target)
    target[target <= _rounding(Y, V)] = 0.0
    order = np.argsort(-target, kind="stable")
    U, V, target = U[:, order], V[:, order], target[order]
    weights, off = _chain(layers, U, V)
    off = max(
        off,
        _ratio(Y - (U * target) @ V.T, norm(Y)),
        _ratio(product - (U * np.prod(weights, axis=0)) @ V.T, math.prod(norm(W) for W in layers)),
    )
    if not off <= _TOLERANCE:
        raise ValueError(
            "the network is not aligned with the singular vectors of Y: it differs from an aligned one by "
            f"{off:.2g} of a layer's size, where {_TOLERANCE:g} is rounding. Start from "
            "lf.init.spectral(widths, Y, values), or integrate with lf.gradient_flow."
        )
    return Modes(U, V, target, weights)


def _joint_vectors(
    layers: list[np.ndarray], Y: np.ndarray, W: np.ndarray, entries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors that diagonalise Y, the product W and the layers.

    The singular vectors of a mix of Y and W do this, up to rotations among modes in which the mix has equal singular
    values. The action of the layers fixes these rotations. `entries` is the product of the layers' absolute values.
    """
    Y, W, entries = _unit(Y), *(A / (norm(entries) or 1.0) for A in (W, entries))  # a product of rounding stays one
    U, s, Vt = np.linalg.svd(Y + _MIX * W, full_matrices=False)
    made_of = np.abs(Y) + _MIX * entries
    seen = s > _rounding(made_of, Vt.T)
    r, U, V = int(seen.sum()), U[:, seen], Vt[seen].T
    symmetric, left, right = [U.T @ Y @ V, U.T @ W @ V], U, V
    for first, last in zip(layers[:-1], layers[:0:-1], strict=True):
        left, right = first.T @ left, last @ right
        symmetric += [_unit(left.T @ left), _unit(right.T @ right)]
    rotation = _diagonalise(np.stack([(A + A.T) / 2 for A in symmetric])) if r else np.eye(0)
    return _clean(U @ rotation), _clean(V @ rotation)


def _diagonalise(A: np.ndarray) -> np.ndarray:
    """Return the rotation that best diagonalises all symmetric A[i] (Jacobi; Cardoso & Souloumiac 1996)."""
    A, r = A.copy(), A.shape[1]
    rotation = np.eye(r)
    for _ in range(30):
        turned = False
        # Pairs whose coupling is above rounding; modes that are already right have none.
        coupled = np.argwhere(np.triu(np.max(np.abs(A), axis=0), 1) > 1e-15)
        for p, q in coupled:
            difference, coupling = A[:, p, p] - A[:, q, q], 2 * A[:, p, q]
            on, off = difference @ difference - coupling @ coupling, 2 * (difference @ coupling)
            angle = 0.25 * math.atan2(off, on)
            if abs(angle) < 1e-15:
                continue
            turned = True
            turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            A[:, :, [p, q]] = A[:, :, [p, q]] @ turn
            A[:, [p, q], :] = turn.T @ A[:, [p, q], :]
            rotation[:, [p, q]] = rotation[:, [p, q]] @ turn
        if not turned:
            break
    return rotation


def _chain(layers: list[np.ndarray], U: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights of every mode, and the largest deviation of a layer from them, relative to its size.

    The hidden vectors are carried from both ends. Beyond a small weight they are known to few digits, and beyond a 0
    not at all. Each is taken from the end that determines it better.
    """
    L, r = len(layers), U.shape[1]
    left, right = [(U, np.zeros(r))], [(V, np.zeros(r))]
    for W in layers[:-1]:
        left.append(_carry(W.T, *left[-1]))
    for W in layers[:0:-1]:
        right.append(_carry(W, *right[-1]))
    hidden, doubts = [], [np.zeros(r)]
    for (Q, doubt), (P, other) in zip(left[1:], right[:0:-1], strict=True):
        hidden.append(np.where(doubt <= other, Q, P))
        doubts.append(np.minimum(doubt, other))
    doubts.append(np.zeros(r))
    moving = np.isfinite(np.max(doubts, axis=0))
    doubts, weights = [doubt[moving] for doubt in doubts], np.zeros((L, r))
    hidden = [_orthonormal(Q[:, moving], doubt) for Q, doubt in zip(hidden, doubts[1:-1], strict=True)]
    frames = [U[:, moving], *hidden, V[:, moving]]
    off = max(norm(Q.T @ Q - np.eye(Q.shape[1])) for Q in frames)
    for l, W in enumerate(layers):
        before, after = frames[l], frames[l + 1]
        w = np.sum(before * (W @ after), axis=0)
        weights[l, moving] = w = np.where(np.abs(w) > _rounding(W, after), w, 0.0)
        # A vector that is known to some digits cannot test the layer to more.
        allowed = norm(W) * np.maximum(1.0, np.maximum(doubts[l], doubts[l + 1]) / _TOLERANCE)
        if norm(W) > 0:
            off = max(off, norm((W @ after - before * w) / allowed), norm((W.T @ before - after * w) / allowed))
    return weights, off


def _orthonormal(Q: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """Orthonormalise the columns, if there is room for them, each against those that are known better."""
    if Q.shape[1] > Q.shape[0]:
        return Q
    order, V = np.argsort(doubt, kind="stable"), np.empty_like(Q)
    V[:, order] = np.linalg.qr(Q[:, order]).Q
    return V


def _carry(W: np.ndarray, Q: np.ndarray, doubt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors of the columns of `W Q`, and their possible errors; inf where `W Q` is rounding.

    The columns are orthonormalised from the largest on, which frees a small one of the rounding of the others.
    """
    images, noise = W @ Q, _rounding(W, Q)
    carried, doubts = np.zeros_like(images), np.full(Q.shape[1], np.inf)
    sizes = _lengths(images)
    kept = np.flatnonzero((sizes > noise) & np.isfinite(doubt))
    kept = kept[np.argsort(-sizes[kept], kind="stable")][: W.shape[0]]
    while kept.size:
        vectors, R = np.linalg.qr(images[:, kept])
        own = np.diag(R)
        sure = np.abs(own) > noise[kept]
        if sure.all():
            carried[:, kept] = vectors
            doubts[kept] = doubt[kept] + noise[kept] / np.abs(own)
            break
        kept = kept[sure]  # the others are mere rounding and must not affect those after them
    return carried, doubts


def _rounding(W: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Return the size of the rounding in each column of `W Q`."""
    return _NOISE * _lengths(np.abs(W) @ np.abs(Q))


def _lengths(A: np.ndarray) -> np.ndarray:
    """Return the norms of the columns, safe from underflow."""
    largest = np.max(np.abs(A), axis=0)
    return largest * np.linalg.norm(A / np.where(largest > 0, largest, 1.0), axis=0)


def _clean(Q: np.ndarray) -> np.ndarray:
    """Set entries of unit vectors that are rounding to 0, so that they pick exact values from a diagonal matrix."""
    return np.where(np.abs(Q) > 8 * EPS, Q, 0.0)


def _unit(A: np.ndarray) -> np.ndarray:
    size = norm(A)
    return A / size if size > 0 else A


def _ratio(A: np.ndarray, size: float) -> float:
    return norm(A) / size if size > 0 else 0.0
