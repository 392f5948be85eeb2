"""Two layers whose imbalance is a multiple of the identity: a matrix Riccati equation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, Array, to_numpy
from linflow.exact._inputs import instants, matrices
from linflow.model.network import Network

_TOLERANCE = 1e-10


def lambda_balanced(Y: Any, W1: Any, W2: Any, t: Any, *, scale: float = 1.0) -> Array:
    """Return the product `W(t)` of the flow on `½‖Y − c·W_1W_2‖_F²` when `W_1ᵀW_1 − W_2W_2ᵀ = λI`.

    `Z = √c [W_1; W_2ᵀ]` satisfies `Ż = FZ − ½ ZZᵀZ` in the time `ct`, `F = [[cλ/2 I, Y], [Yᵀ, −cλ/2 I]]`, so that

    `ZZᵀ(t) = e^{Fct} Z_0 [I + Z_0ᵀ (∫_0^{ct} e^{2Fs} ds) Z_0]^{−1} Z_0ᵀ e^{Fct}`,

    and W is its upper right block. The formula is evaluated in the eigenvectors of F, with columns scaled so that
    only decaying exponentials occur. Any time is therefore safe.

    Args:
        Y: target, shape `(n, m)`.
        W1: first layer, shape `(n, h)`.
        W2: second layer, shape `(h, m)`.
        t: time or times.
        scale: the output scale `c`.

    Returns:
        Shape `(n, m)`, or `(len(t), n, m)` for a sequence, of the kind of the weights. The error is at the level of
        rounding of `‖Z‖²`. The part of the start along an eigenvector of F counts as 0 if it is below 4ε‖Z_0‖.

    Raises:
        ValueError: shapes that do not fit, or an imbalance that is not a multiple of the identity.

    Source: Fukumizu (1998); Braun et al. (NeurIPS 2022); Dominé et al. (2024); n ≠ m and every λ: this library.

    Example:
        >>> import numpy as np, linflow as lf
        >>> from linflow.exact import lambda_balanced
        >>> W1, W2 = lf.init.imbalanced((2, 2, 2), 3.0, np.eye(2), rng=0).weights
        >>> lambda_balanced(np.diag([2.0, 1.0]), W1, W2, [0.0, 10.0]).round(9) + 0.0
        array([[[1., 0.],
                [0., 1.]],
               [[2., 0.],
                [0., 1.]]])
    """
    net, times = Network([W1, W2], scale), instants(t)
    (n, m), c = net.shape, net.scale
    target = to_numpy(checks.matrix(Y, "Y", (n, m))[0])
    A, B = (to_numpy(W) for W in net.weights)
    lam = _multiple_of_identity(A, B)
    F = np.block([[0.5 * c * lam * np.eye(n), target], [target.T, -0.5 * c * lam * np.eye(m)]])
    f, V = np.linalg.eigh(F)
    f, V = f[::-1], V[:, ::-1]
    rotated, pivots = echelon(V.T @ (math.sqrt(c) * np.vstack([A, B.T])))
    products = [_product(f, V, rotated, pivots, n, c * s) for s in np.atleast_1d(times)]
    return matrices(np.reshape(products, (len(products), n, m)), times, net.weights[0])


def _multiple_of_identity(A: np.ndarray, B: np.ndarray) -> float:
    """Return λ with `AᵀA − BBᵀ = λI`, or raise ValueError."""
    h = A.shape[1]
    D = A.T @ A - B @ B.T
    lam = float(np.trace(D)) / h
    off, size = float(np.linalg.norm(D - lam * np.eye(h))), float(np.sum(A * A) + np.sum(B * B))
    if off > _TOLERANCE * size:
        raise ValueError(
            f"W_1ᵀW_1 − W_2W_2ᵀ is not a multiple of the identity: it differs from {lam:.4g}·I by {off:.3g} "
            f"({off / size:.2g} of ‖W_1‖² + ‖W_2‖², where {_TOLERANCE:g} is rounding). Draw the weights with "
            "lf.init.imbalanced((n, h, m), λ) and h = min(n, m), or integrate with lf.gradient_flow."
        )
    return lam


def echelon(A: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return `A Q` in column echelon form (Q orthogonal, zero columns dropped) and each column's pivot row.

    A column begins at its pivot. The pivot row grows fastest, so its growth can be divided out of the column.
    """
    A = A.copy()
    floor, pivots = 4 * EPS * float(np.linalg.norm(A)), []
    for row in range(A.shape[0]):
        j = len(pivots)
        if j == A.shape[1]:
            break
        x = A[row, j:].copy()
        size = float(np.linalg.norm(x))
        if size > floor:
            x[0] += math.copysign(size, x[0])
            A[:, j:] -= np.outer(A[:, j:] @ x, (2 / (x @ x)) * x)
            pivots.append(row)
            j += 1
        A[row, j:] = 0.0
    return A[:, : len(pivots)], pivots


def _product(f: np.ndarray, V: np.ndarray, A: np.ndarray, pivots: list[int], n: int, t: float) -> np.ndarray:
    """Return the upper right block of `ZZᵀ(t)`."""
    half = factor(f, V, A, pivots, t)
    return half[:, :n].T @ half[:, n:]


def factor(f: np.ndarray, V: np.ndarray, A: np.ndarray, pivots: list[int], t: float) -> np.ndarray:
    """Return H with `HᵀH = ZZᵀ(t)`, for `F = V diag(f) Vᵀ` and the echelon form A of `VᵀZ_0`.

    `I + Z_0ᵀ(∫ e^{2Fs})Z_0 = I + Aᵀ diag(g) A` with `g = h e^{2f⁺t}`, `h = ∫_0^t e^{−2|f|s} ds`. The columns of both
    it and `e^{ft} A` are multiplied by `e^{−f⁺t}` at the pivot, which does not change ZZᵀ.
    """
    grown = np.maximum(f, 0.0)
    at_pivot = grown[pivots]
    with np.errstate(under="ignore"):
        shrunk = np.exp(-at_pivot * t)
        ratio = np.exp(np.minimum(grown[:, None] - at_pivot, 0.0) * t)
        x = 2 * np.abs(f) * t
        h = np.where(x > 1e-15, -np.expm1(-x) / np.maximum(2 * np.abs(f), 1e-300), t)
        _, R = np.linalg.qr(np.vstack([np.diag(shrunk), np.sqrt(h)[:, None] * ratio * A]))
        moved = V @ (np.exp(np.minimum(f, 0.0) * t)[:, None] * ratio * A)
    return np.linalg.solve(R.T, moved.T)
