"""The singular modes that a target and a network share, found and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linflow._support.arrays import EPS, norm, to_numpy
from linflow.model.network import Network, multiply

_TOLERANCE = 1e-10
_NOISE = 32 * EPS
"""Part of `‖|W||p|‖`, the size of what makes up `Wp`, below which a number `qᵀWp` is rounding. In random orthonormal
frames that of a 0 came to ε/2, of a 0 in Y to 8ε. Where W is diagonal nothing is rounded, and every weight counts."""
_MIX = 0.7390851332151607
"""Weight of the product against the target in the matrix whose singular vectors are taken; no special value."""


@dataclass(frozen=True)
class Modes:
    """Shared singular modes, in the order of the target's singular values.

    Attributes:
        U: left singular vectors, shape `(n, r)`.
        V: right singular vectors, shape `(m, r)`.
        target: singular values of the target, length r.
        weights: of the layers in each mode, shape `(L, r)`; of their signs only that of the product says anything.
    """

    U: np.ndarray
    V: np.ndarray
    target: np.ndarray
    weights: np.ndarray


def shared_modes(network: Network, Y: np.ndarray) -> Modes:
    """Return the modes with `W_l = Q_{l−1} diag(w_l) Q_lᵀ`, `Q_0 = U`, `Q_L = V`, `Y = U Σ Vᵀ`.

    Modes in which target and product are both 0 do not move and are left out. A weight, and a singular value of the
    target, counts as 0 where it is below `32ε` of what its matrix makes it of (`_NOISE`). Where two weights of a mode
    are 0 the hidden vectors between them are unknown; that mode does not move either.

    Raises:
        ValueError: the network has no such form to `1e-10`, relative to each layer.
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
    """Return the vectors that make Y, the product W (of layers with such entries) and the layers diagonal.

    The singular vectors of a mix of Y and W do, up to rotations among modes in which the mix has equal singular
    values. Those are fixed by what the layers do to them.
    """
    Y, W, entries = _unit(Y), *(A / (norm(entries) or 1.0) for A in (W, entries))  # a product of rounding stays that
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
    """Return the rotation that makes all symmetric A[i] as diagonal as can be (Jacobi; Cardoso & Souloumiac 1996)."""
    A, r = A.copy(), A.shape[1]
    rotation = np.eye(r)
    for _ in range(30):
        turned = False
        # Pairs whose coupling is above rounding; for modes that are already right there is none.
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
    """Return the weights of every mode, and by how much of its size a layer differs from them.

    The hidden vectors are carried from both ends; past a small weight they are known to few digits, past a 0 not at
    all. Each is taken from the end from which it is known better.
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
        # What is known of a vector to some digits cannot be held against the layer to more.
        allowed = norm(W) * np.maximum(1.0, np.maximum(doubts[l], doubts[l + 1]) / _TOLERANCE)
        if norm(W) > 0:
            off = max(off, norm((W @ after - before * w) / allowed), norm((W.T @ before - after * w) / allowed))
    return weights, off


def _orthonormal(Q: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """Return the columns made orthonormal, if there is room for them: each freed of those known better."""
    if Q.shape[1] > Q.shape[0]:
        return Q
    order, V = np.argsort(doubt, kind="stable"), np.empty_like(Q)
    V[:, order] = np.linalg.qr(Q[:, order]).Q
    return V


def _carry(W: np.ndarray, Q: np.ndarray, doubt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors of `W Q`, column by column, and how far off they may be; inf where `W Q` is rounding.

    The columns are made orthonormal from the largest on: a small one is freed of the rounding of the others.
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
        kept = kept[sure]  # the others are made of rounding, and must not bend those after them
    return carried, doubts


def _rounding(W: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Return what rounding leaves open of `W Q`, for each column."""
    return _NOISE * _lengths(np.abs(W) @ np.abs(Q))


def _lengths(A: np.ndarray) -> np.ndarray:
    """Return the norms of the columns, safe from underflow."""
    largest = np.max(np.abs(A), axis=0)
    return largest * np.linalg.norm(A / np.where(largest > 0, largest, 1.0), axis=0)


def _clean(Q: np.ndarray) -> np.ndarray:
    """Return unit vectors without entries that are rounding: what they pick out of a diagonal matrix stays exact."""
    return np.where(np.abs(Q) > 8 * EPS, Q, 0.0)


def _unit(A: np.ndarray) -> np.ndarray:
    size = norm(A)
    return A / size if size > 0 else A


def _ratio(A: np.ndarray, size: float) -> float:
    return norm(A) / size if size > 0 else 0.0
