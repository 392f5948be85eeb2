"""The numbers of the joint program: chains of scalars at the ends of the spectra, and the reduction of wide layers.

Proofs: `docs/operator_intervals.md`, sections 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from linflow._support.arrays import EPS
from linflow.bounds import _interval_program as program
from linflow.bounds._base import Spectrum
from linflow.bounds.operator_floors import SHAVED
from linflow.model.scalar_chain import chain_offsets, chain_root

NODES, GRADING = 24, 3.0
"""Nodes in `log σ²` on which the ratio of two chains is compared, and how much closer they lie at the lower end."""
CELLS = 8
"""Cells of the leak of the first layer, for three layers."""
CURVATURE = 8 / 27
"""The largest size of the second derivative of `log p_l(σ; a)/p_l(σ; b)` as a function of `log σ²`."""
UNBOUNDED = 1e250
"""Stands for `γ` where there is no other direction, n = 1."""
FAR = 1e6
"""An unknown `‖W‖` is replaced by that of layers whose squares are this much larger than the imbalances."""


def squares(d: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return the squares `t_l` of the scalar chains: d of shape (N, D) and σ of shape (…) give (N, …, L)."""
    c = chain_offsets(d).reshape(len(d), *[1] * np.ndim(sigma), -1)
    return chain_root(c, sigma)[..., None] + c


def widened(d: np.ndarray, up: bool) -> np.ndarray:
    """Return imbalances raised or lowered by the rounding of their sums; see `operator_floors.prefix_products`."""
    off = 8 * EPS * np.abs(d).sum(axis=-1, keepdims=True)
    return d + off if up else d - off


def prefixes(t: np.ndarray) -> np.ndarray:
    """Return `p_1, …, p_{L−1}` of chains."""
    return np.cumprod(t, axis=-1)[..., :-1]


def ratio(upper: np.ndarray, lower: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return upper bounds on `p_l(σ; a)/p_l(σ; b) − 1` over `first ≤ σ ≤ last`, shape (N, M, D).

    f, the logarithm of the ratio as a function of `log σ²`, has the slope `e_l(a) − e_l(b)`, and its second
    derivative is at most M in size: `8/27` or, with t below all squares of the chains between b and a,
    `1.25 Σ(a_l − b_l)/t`. Between two nodes f is at most the largest value of each of three parabolas. Past the last
    node of an unknown end it is at most `L Σ(a_l − b_l)/(4t)`.

    Args:
        upper: a, shape (D,).
        lower: b for N intervals, shape (N, D).
        first: the least σ, shape (M,).
        last: the largest σ, or inf, shape (M,).
    """
    L = len(upper) + 1
    known = np.isfinite(last)
    size = np.abs(upper).sum() + np.abs(lower).sum(axis=1).max()
    end = np.where(known, last, np.maximum(10 * first, (FAR * size) ** (L / 2)))
    grid = np.expm1(GRADING * np.arange(NODES + 1) / NODES) / math.expm1(GRADING)
    tau = 2 * np.log(end / first)[:, None] * grid
    sigma = first[:, None] * np.exp(tau / 2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t, u = squares(upper[None], sigma), squares(lower, sigma)
        f = np.cumsum(np.log(t), -1)[..., :-1] - np.cumsum(np.log(u), -1)[..., :-1]
        slopes = []
        for each in (t, u):
            part = np.cumsum(1 / each, -1)
            slopes.append(part[..., :-1] / part[..., -1:])
    slope = slopes[0] - slopes[1]
    gained = np.concatenate([np.zeros((len(lower), 1)), np.cumsum(upper - lower, axis=1)], axis=1)
    total = gained[:, -1:, None]
    between = np.maximum(u - gained[:, None, None], t - (total[..., None] - gained[:, None, None])).min(axis=-1)
    some = between > 0
    safe = np.where(some, between, 1.0)
    bend = np.where(some, np.minimum(CURVATURE, 1.25 * total / safe), CURVATURE)[:, :, :-1, None]
    step = np.diff(tau, axis=-1)[..., None]
    curve = bend * step**2 / 2
    before, after = f[:, :, :-1], f[:, :, 1:]
    left = np.maximum(before, before + slope[:, :, :-1] * step + curve)
    right = np.maximum(after, after - slope[:, :, 1:] * step + curve)
    chord = np.maximum(before, after) + curve / 4
    top = np.minimum(np.minimum(left, right), chord).max(axis=2)
    beyond = np.where(some[..., -1], L / 4 * total[..., 0] / safe[..., -1], np.inf)[..., None]
    top = np.where(known[:, None], top, np.maximum(top, beyond))
    with np.errstate(over="ignore"):
        return np.expm1(np.maximum(np.nan_to_num(top, nan=np.inf), 0.0) * (1 + 1e-9) + 4 * SHAVED)


def cells(Ds: Sequence[Spectrum], widths: Sequence[int], n: int) -> np.ndarray:
    """Return lower bounds on `λ_min(D̂_l)` of the left reduction, one row for each cell of the leaks."""
    least = [float(D.lower[-1]) for D in Ds]
    pairs = [least[l] + float(D.lower[-2]) if D.size > n else -math.inf for l, D in enumerate(Ds)]
    most = max(-least[0], 0.0) if widths[1] > n else 0.0
    count = CELLS if len(Ds) == 2 and most > 0 and math.isfinite(most) else 1
    edges = most * np.arange(count + 1) / count
    rows = []
    for i in range(count):
        leak, row = 0.0, []
        for l in range(len(Ds)):
            low, high = (edges[i], edges[i + 1]) if l == 0 else (0.0, max(leak - least[l], 0.0))
            if Ds[l].size == n:
                low = high = 0.0
            lost = min(2, widths[l] - n) * leak
            row.append(max(least[l] - leak, pairs[l] - lost + low))
            leak = high
        rows.append(row)
    return np.array(rows)


def table(
    upper: np.ndarray,
    lower: np.ndarray,
    hats: np.ndarray,
    sigma_n: np.ndarray,
    sigma_next: np.ndarray,
    top: np.ndarray,
    sigma_most: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the numbers, the `s` and the groups for `least`: a column for each σ and each cell, a group for each σ.

    Args:
        upper: a, shape (D,).
        lower: b of the layers themselves, shape (D,).
        hats: `b̂` of the cells, shape (N, D).
        sigma_n: lower bounds on `σ_n`, positive, shape (M,).
        sigma_next: lower bounds on `σ_{n−1}`, inf for n = 1.
        top: upper bounds on `‖W‖`, or inf.
        sigma_most: upper bounds on `σ_n`; `top` if None.
    """
    N, M, D = len(hats), len(sigma_n), len(upper)
    a = widened(upper, up=True)
    b = widened(np.concatenate([hats, lower[None]]), up=False)  # the last row is the second interval

    def highest(sigma: np.ndarray) -> np.ndarray:
        return prefixes(squares(a[None], sigma))[0] * (1 + SHAVED)

    def lowest(sigma: np.ndarray) -> np.ndarray:
        return prefixes(squares(b, sigma)) * (1 - SHAVED)

    s, single = sigma_n**2, not np.isfinite(sigma_next).any()
    most = highest(sigma_n)
    below = np.minimum(lowest(sigma_n), most)
    known = np.isfinite(top)[:, None]
    finite = np.where(np.isfinite(top), top, 1.0)
    x_most = np.where(known, 1 / highest(finite), 0.0)
    y_most = np.where(known, lowest(finite) / finite[:, None] ** 2, 0.0)
    if single:  # without γ^Y, (B2) has no last term
        spread, rest, mirrored = np.zeros((N + 1, M, D)), np.full((N + 1, M, D), UNBOUNDED), np.zeros((M, D))
    else:
        following = np.maximum(sigma_next, sigma_n)
        spread, rest = ratio(a, b, following, np.maximum(top, following)), lowest(following)
        mirrored = following[:, None] ** 2 / highest(following)
    rows = np.zeros((N, M, len(program.ROWS), D))
    rows[:, :, program.A], rows[:, :, program.B] = a, b[:N, None]
    for own, second, each in (
        (program.LEAST, program.LEAST_2, below),
        (program.SPREAD, program.SPREAD_2, spread),
        (program.REST, program.REST_2, np.minimum(rest, UNBOUNDED)),
    ):
        rows[:, :, own], rows[:, :, second] = each[:N], each[N:]
    rows[:, :, program.MOST], rows[:, :, program.CAP] = most, s[:, None] / most
    rows[:, :, program.MIRRORED_REST] = mirrored
    better = below[:N] >= below[N:]
    x_rest = x_most if single else np.maximum(1 / np.where(better, rest[:N], rest[N:]), x_most)
    y_most = np.maximum(y_most[:N], y_most[N:])
    y_rest = y_most if single else np.maximum(1 / mirrored, y_most)
    rows[:, :, program.X_MOST], rows[:, :, program.X_REST] = x_most, x_rest
    rows[:, :, program.X_LEAST] = np.maximum(1 / np.where(better, below[:N], below[N:]), x_rest)
    rows[:, :, program.Y_MOST], rows[:, :, program.Y_REST] = y_most, y_rest
    rows[:, :, program.Y_LEAST] = np.maximum(most / s[:, None], y_rest)
    _tie(rows, spread, 0.0 * rest if single else rest, mirrored)
    end = np.maximum(top if sigma_most is None else np.minimum(sigma_most, top), sigma_n)
    known = np.isfinite(end)[:, None]
    end = np.where(known[:, 0], end, 1.0)
    moved = lowest(end) * (s / end**2 * (1 - SHAVED))[:, None]
    below, moved = (np.maximum(each[:N], each[N:]) for each in (below, moved))
    rows[:, :, program.SHARE_OF_S] = np.where(known, (s / end**2 * (1 - SHAVED))[:, None], 0.0)
    rows[:, :, program.EDGE] = np.where(known, np.minimum(moved, below), below)
    rows[:, :, program.MIRRORED_EDGE] = np.where(known, s[:, None] / highest(end), 0.0)
    return rows.reshape(N * M, len(program.ROWS), D), np.tile(s, N), np.tile(np.arange(M), N)


def add_floors(rows: np.ndarray, prefixes: np.ndarray, suffixes: np.ndarray) -> None:
    """Fill the rows of floors: of `λ_min(X_l)` and `λ_min(Y_l)`, shape (D, M) for M triples of σ."""
    each = rows.reshape(-1, prefixes.shape[1], *rows.shape[1:])
    each[:, :, program.FLOOR], each[:, :, program.MIRRORED_FLOOR] = prefixes.T, suffixes.T


def _tie(rows: np.ndarray, spread: np.ndarray, rest: np.ndarray, mirrored: np.ndarray) -> None:
    """Fill the rows κ: the roots of `(1 + ρ)γ` of the layer before, of `(1 + ρ)γ^Y` of the one after, or 1."""
    N, root = len(rows), np.sqrt(1 + spread)
    ties = root * np.sqrt(rest)
    for own, each in ((program.TIE, ties[:N]), (program.TIE_2, ties[N:])):
        rows[:, :, own, 0], rows[:, :, own, 1:] = 1.0, each[:, :, :-1]
    last = np.minimum(root[:N], root[N:]) * np.sqrt(mirrored)
    rows[:, :, program.MIRRORED_TIE, -1], rows[:, :, program.MIRRORED_TIE, :-1] = 1.0, last[:, :, 1:]
