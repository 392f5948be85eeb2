"""The singular modes that a target and a network share, found and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from linflow._arrays import norm, to_numpy
from linflow.network import Network, multiply

_TOLERANCE = 1e-10
_ZERO = 1e-13
_MIX = 0.7390851332151607
"""Weight of the product against the target in the matrix whose singular vectors are taken; no special value."""


@dataclass(frozen=True)
class Modes:
    """Shared singular modes, in the order of the target's singular values.

    Attributes:
        U: left singular vectors, shape `(n, r)`.
        V: right singular vectors, shape `(m, r)`.
        target: singular values of the target, length r.
        weights: of the layers in each mode, shape `(L, r)`: non-negative but for the last layer's.
    """

    U: np.ndarray
    V: np.ndarray
    target: np.ndarray
    weights: np.ndarray


def shared_modes(network: Network, Y: np.ndarray) -> Modes:
    """Return the modes with `W_l = Q_{l−1} diag(w_l) Q_lᵀ`, `Q_0 = U`, `Q_L = V`, `Y = U Σ Vᵀ`.

    Modes in which target and product are both 0 do not move and are left out. Weights below `1e-13 ‖W_l‖_F` count as
    0, and singular values of the target below `1e-13 ‖Y‖_F`. Where two weights of a mode are 0 the hidden vectors
    between them are unknown; that mode does not move either.

    Raises:
        ValueError: the network has no such form to `1e-10`, relative to each layer.
    """
    layers = [to_numpy(W) for W in network.weights]
    product = multiply(layers)
    U, V = _joint_vectors(layers, _unit(Y), _unit(product))
    target = np.sum(U * (Y @ V), axis=0)
    V, target = np.where(target < 0, -V, V), np.abs(target)
    target[target <= _ZERO * norm(Y)] = 0.0
    order = np.argsort(-target, kind="stable")
    U, V, target = U[:, order], V[:, order], target[order]
    weights, off = _chain(layers, U, V)
    magnitude = math.prod(norm(W) for W in layers)
    off = max(
        off,
        _ratio(Y - (U * target) @ V.T, norm(Y)),
        _ratio(product - (U * np.prod(weights, axis=0)) @ V.T, magnitude),
    )
    if not off <= _TOLERANCE:
        raise ValueError(
            "the network is not aligned with the singular vectors of Y: it differs from an aligned one by "
            f"{off:.2g} of a layer's size, where {_TOLERANCE:g} is rounding. Start from "
            "lf.init.spectral(widths, Y, values), or integrate with lf.gradient_flow."
        )
    return Modes(U, V, target, weights)


def _joint_vectors(layers: list[np.ndarray], Y: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors that make Y, the product W and the layers diagonal.

    The singular vectors of a mix of Y and W do, up to rotations among modes in which the mix has equal singular
    values. Those are fixed by what the layers do to them.
    """
    U, s, Vt = np.linalg.svd(Y + _MIX * W, full_matrices=False)
    r = int(np.sum(s > _ZERO * max(1.0, float(s[0]))))
    U, V = U[:, :r], Vt[:r].T
    symmetric, left, right = [U.T @ Y @ V, U.T @ W @ V], U, V
    for first, last in zip(layers[:-1], layers[:0:-1], strict=True):
        left, right = first.T @ left, last @ right
        symmetric += [_unit(left.T @ left), _unit(right.T @ right)]
    rotation = _diagonalise(np.stack([(A + A.T) / 2 for A in symmetric])) if r else np.eye(0)
    return U @ rotation, V @ rotation


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
            angle = 0.5 * math.atan2(off, on + math.hypot(on, off))
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
    """Return the weights of every mode, and by how much of its size a layer differs from them."""
    L, r = len(layers), U.shape[1]
    sizes = [norm(W) for W in layers]
    weights = np.zeros((L, r))
    frames = [U, *(np.zeros((W.shape[1], r)) for W in layers[:-1]), V]
    alive = np.arange(r)
    for l in range(L - 1):
        alive = _carry(layers[l].T, frames[l], frames[l + 1], weights[l], alive, _ZERO * sizes[l])
    last = np.sum(frames[-2] * (layers[-1] @ V), axis=0)
    weights[-1, alive] = last[alive]
    broken = np.setdiff1d(np.arange(r), alive)  # a weight is 0: reach its other side from the right
    moving = np.ones(r, dtype=bool)
    for i in broken:
        zero = int(np.argmin(weights[:-1, i] != 0))
        for l in range(L - 1, zero, -1):
            if not _carry(layers[l], frames[l + 1], frames[l], weights[l], np.array([i]), _ZERO * sizes[l]).size:
                moving[i] = False
                break
    weights[:, ~moving] = 0.0
    frames = [Q[:, moving] for Q in frames]
    off = max((norm(Q.T @ Q - np.eye(Q.shape[1])) for Q in frames), default=0.0)
    for W, w, before, after, size in zip(layers, weights[:, moving], frames, frames[1:], sizes, strict=False):
        off = max(off, _ratio(W @ after - before * w, size), _ratio(W.T @ before - after * w, size))
    return weights, off


def _carry(
    W: np.ndarray, before: np.ndarray, after: np.ndarray, w: np.ndarray, modes: np.ndarray, floor: float
) -> np.ndarray:
    """Fill `after` and w for the modes by `W before = after diag(w)`; return those whose weight is not 0.

    The columns are made orthonormal from the largest down: a small one is freed of the rounding of the others.
    """
    images = W @ before[:, modes]
    norms = np.linalg.norm(images, axis=0)
    order = np.argsort(-norms, kind="stable")
    order = order[norms[order] > floor][: W.shape[0]]
    Q, R = np.linalg.qr(images[:, order])
    signs = np.where(np.diag(R) < 0, -1.0, 1.0)
    kept = modes[order]
    after[:, kept], w[kept] = Q * signs, np.abs(np.diag(R))
    return kept


def _unit(A: np.ndarray) -> np.ndarray:
    size = norm(A)
    return A / size if size > 0 else A


def _ratio(A: np.ndarray, size: float) -> float:
    return norm(A) / size if size > 0 else 0.0
