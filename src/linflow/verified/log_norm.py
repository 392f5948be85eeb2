"""Upper bounds of the logarithmic norm of the flow, `−λ_min(∇²L)`, on a tube around the path of one step.

With `p_i = ‖P_{i−1}‖₂`, `s_i = ‖S_{i+1}‖₂`, `M_ij` the product of the layers between i and j, and `g = ‖c∇f‖`:
the second-order part of `∇²L` is at most `λ_max(C)`, `C_ij = ‖P_{i−1}ᵀ c∇f S_{j+1}ᵀ‖₂ ‖M_ij‖₂` (level 2).
`−λ_min(∇²L)` itself is bounded at the ends of a piece, and between them through its second derivative (level 3).
Proofs: docs/verified.md, section 4.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow.verified.elimination import least_curvature
from linflow.verified.hessian import KEPT, between, cross
from linflow.verified.rounding import UP, spectral
from linflow.verified.taylor import Expansion

Jet = tuple[float, float, float]
"""Upper bounds of a norm and of its first two derivatives in scaled time, over a step."""


def greatest(C: np.ndarray) -> float:
    """Return an upper bound of `λ_max` of a symmetric matrix without negative entries.

    `λ_max ≤ max_i (Cv)_i/v_i` for every positive v (Collatz, Wielandt); here v is nearly the last eigenvector.
    """
    if len(C) == 1:
        return float(C[0, 0])
    if len(C) == 2:
        a, b, c = float(C[0, 0]), float(C[0, 1]), float(C[1, 1])
        return (0.5 * (a + c + math.hypot(a - c, 2 * b))) * UP
    top = float(C.max())
    if not 0.0 < top < math.inf:
        return 0.0 if top == 0.0 else math.inf
    v = np.abs(np.linalg.eigh(C)[1][:, -1]) + 1e-9
    return float(((C @ v) / v).max()) * UP


def jet(norms: np.ndarray, s: float) -> Jet:
    """Return `Σ a_k s^k` and its first two derivatives in s, rounded up."""
    k = np.arange(len(norms))
    with np.errstate(under="ignore"):
        powers = s**k
        value = float(np.sum(norms * powers))
        first = float(np.sum((k * norms)[1:] * powers[:-1]))
        second = float(np.sum((k * (k - 1) * norms)[2:] * powers[:-2]))
    return value * UP, first * UP, second * UP


def times(*jets: Jet) -> Jet:
    """Return the jet of a product, by Leibniz' rule."""
    v, d, dd = 1.0, 0.0, 0.0
    for a, b, c in jets:
        v, d, dd = v * a, v * b + d * a, v * c + 2 * d * b + dd * a
    return v * UP, d * UP, dd * UP


@dataclass
class Node:
    """The logarithmic norm at the start of a step, which is the end of the step before it up to a jump."""

    path: Expansion

    @cached_property
    def products(self) -> tuple[np.ndarray, np.ndarray]:
        """`‖X_ij‖₂` and `‖M_ij‖₂` (from level 2), symmetric with zero diagonal."""
        L = self.path.depth
        x, m = np.zeros((L, L)), np.zeros((L, L))
        for (i, j), X in cross(self.path).items():
            x[i, j] = x[j, i] = (spectral(X.value) + X.error) * UP
        for (i, j), M in between(self.path).items():
            m[i, j] = m[j, i] = 1.0 if M is None else (spectral(M.value) + M.error) * UP
        return x, m

    @cached_property
    def least(self) -> float:
        """A proved lower bound of `λ_min` of the Hessian here, with KEPT of its first part (level 3)."""
        return least_curvature(self.path)


class Tube:
    """Bounds over a step of scaled length s, and on all weights within a radius of the path."""

    def __init__(self, path: Expansion, s: float):
        self.path, self.s = path, s
        L = path.depth
        self.layers = [jet(factor.norms, s) for factor in path.weights]
        one = (1.0, 0.0, 0.0)
        self.before = [one if l == 0 else jet(path.prefix_norms[l], s) for l in range(L)]
        self.after = [one if l == L - 1 else jet(path.suffix_norms[l + 2], s) for l in range(L)]
        self.slope = jet(path.slope_norms, s)
        self.pulled = [jet(norms, s) for norms in path.pulled_norms]

    @cached_property
    def mids(self) -> dict[tuple[int, int], Jet]:
        """Jets of `‖M_ij‖₂`: derivatives from the norms of the layers, values from the products at the start."""
        found = {}
        x0 = [float(factor.norms[0]) for factor in self.path.weights]
        for (i, j), M in between(self.path).items():
            if M is None:
                found[i, j] = (1.0, 0.0, 0.0)
                continue
            jets = times(*self.layers[i + 1 : j])
            start = (spectral(M.value) + M.error) * UP
            moved = start + jets[0] - math.prod(x0[i + 1 : j]) * (1 - 1e-12)
            found[i, j] = (min(jets[0], moved * UP), jets[1], jets[2])
        return found

    @cached_property
    def sag(self) -> float:
        """Upper bound of `∫_0^s` of how far `∇²L` can lie below the chord of the Hessians at its ends (level 3)."""
        L, c, K, s = self.path.depth, self.path.scale, self.path.problem.smoothness, self.s
        D = np.zeros((L, L))
        for i, j in itertools.combinations(range(L), 2):
            D[i, j] = D[j, i] = times(self.pulled[i], self.mids[i, j], self.after[j])[2]
        rows = [times(before, after) for before, after in zip(self.before, self.after, strict=True)]
        moved, bent = (c * c * K * sum(row[k] ** 2 for row in rows) for k in (1, 2))
        return ((greatest(D) + 2 * moved) * s**3 / 12 + KEPT / (1 - KEPT) * bent * s**5 / 120) * UP

    def widened(self, radius: float) -> tuple[list[float], list[float], dict[tuple[int, int], float]]:
        """Return the norms of the products on the tube: each is its norm on the path plus `Π(x + ρ) − Πx`."""
        x = [layer[0] for layer in self.layers]
        L = len(x)

        def wide(value: float, layers: list[float]) -> float:
            grown = math.prod(v + radius for v in layers) * UP - math.prod(layers) * (1 - 1e-12)
            return (value + max(grown, 0.0)) * UP

        before = [wide(self.before[l][0], x[:l]) for l in range(L)]
        after = [wide(self.after[l][0], x[l + 1 :]) for l in range(L)]
        mids = {(i, j): wide(mid[0], x[i + 1 : j]) for (i, j), mid in self.mids.items()}
        return before, after, mids

    def constants(self, radius: float) -> Constants:
        """Return the Lipschitz constants of the product and its derivatives on the tube."""
        before, after, mids = self.widened(radius)
        L, c, K = self.path.depth, self.path.scale, self.path.problem.smoothness
        motion = c * math.sqrt(sum((p * s) ** 2 for p, s in zip(before, after, strict=True))) * UP
        C = np.zeros((L, L))
        for (i, j), mid in mids.items():
            C[i, j] = C[j, i] = before[i] * mid * after[j]
        bend = c * greatest(C)
        squares = 0.0
        for k in range(L):
            Q = np.zeros((L, L))
            for i, j in itertools.combinations(range(L), 2):
                if k in (i, j):
                    continue
                a, b, d = sorted((i, j, k))
                Q[i, j] = Q[j, i] = before[a] * mids[a, b] * mids[b, d] * after[d]
            squares += greatest(Q) ** 2
        twist = math.sqrt(squares) * UP
        slope = (self.slope[0] + c * K * motion * radius) * UP  # c ‖∇f‖_F on the tube
        third = (3 * K * motion * bend + slope * twist) * UP
        return Constants(motion, bend, slope, third)

    def moved(self, jump: float, constants: Constants) -> tuple[np.ndarray, np.ndarray]:
        """Return how far `‖X_ij‖` and `‖M_ij‖` can change if the weights move by `jump` from the path."""
        L, wide = self.path.depth, constants
        before, after, mids = self.widened(jump)
        x, m = np.zeros((L, L)), np.zeros((L, L))
        for i, j in itertools.combinations(range(L), 2):
            here = self.slope[0] * self.before[i][0] * self.after[j][0]
            x[i, j] = x[j, i] = wide.slope * before[i] * after[j] * UP - here * (1 - 1e-12)
            m[i, j] = m[j, i] = mids[i, j] * UP - self.mids[i, j][0] * (1 - 1e-12)
        return x, m


@dataclass(frozen=True)
class Constants:
    """Bounds on a tube, in real time: `‖DW‖ ≤ motion`, `‖D²W‖ ≤ bend`, `c‖∇f‖_F ≤ slope`, `‖D³L‖ ≤ third`."""

    motion: float
    bend: float
    slope: float
    third: float


def level_two(start: Node, end: Node, tube: Tube, jump: float, constants: Constants) -> float:
    """Return an upper bound of `∫ m ds` over the step from the products alone.

    The end of the step is within `jump` of `end`, the start of the next step. The constants hold on that tube.
    """
    (xa, ma), (xb, mb) = start.products, end.products
    dx, dm = tube.moved(jump, constants)
    xb, mb = (xb + dx) * UP, (mb + dm) * UP
    L, s = tube.path.depth, tube.s
    if L == 1:
        return 0.0
    remainder = np.zeros((L, L))
    for i, j in itertools.combinations(range(L), 2):
        x = times(tube.slope, tube.before[i], tube.after[j])
        mid = tube.mids[i, j]
        most_x, most_m = max(xa[i, j], xb[i, j]), max(ma[i, j], mb[i, j])  # on the straight lines between the ends
        bend = 0.5 * s * s * (x[2] * most_m + mid[2] * most_x + 0.25 * s * s * x[2] * mid[2])
        turn = max(0.0, -(xb[i, j] - xa[i, j]) * (mb[i, j] - ma[i, j]))
        remainder[i, j] = remainder[j, i] = (turn + bend) * UP
    ends = greatest(xa * ma) + greatest(xb * mb)
    return (0.5 * ends + greatest(remainder) / 6) * s * UP


def level_three(start: Node, end: Node, tube: Tube, jump: float, constants: Constants) -> float:
    """Return an upper bound of `∫ m ds` over the step from the Hessians at its ends and the sag between them.

    The end of the step is within `jump` of `end`, the start of the next step. The constants hold on that tube.
    """
    s = tube.s
    ends = max(0.0, -start.least) + max(0.0, -end.least) + constants.third * jump
    return (0.5 * ends * s + tube.sag) * UP
