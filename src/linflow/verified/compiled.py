"""Paths, nodes and tubes of a verified flow in compiled code: `Expansion`, `Node` and `Tube` for float64.

The numbers agree with those of the plain classes up to rounding. The same proofs cover both (docs/verified.md,
section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from linflow.verified.arithmetic import FLOAT64
from linflow.verified.elimination import HessianChain, best_cost, least_of_chain
from linflow.verified.hessian import KEPT, Matrix
from linflow.verified.least import ENOUGH, least_near
from linflow.verified.log_norm import Constants
from linflow.verified.problem import AffineGradient

BLAS_FROM = 500_000
"""From this many multiplications in one matrix product, BLAS is faster, and so are the plain classes."""

LAPACK_FROM = 100
"""Matrices with a longer side than this are factorised by LAPACK."""


LARGE, SEVERAL = 2**20, 64
"""The most numbers, and the most series, in the pieces of memory that series are cut from."""


@lru_cache(maxsize=1)
def programs() -> Any:
    """Return the compiled programs, or None if nothing can be compiled. They are kept on disk for later runs."""
    try:
        from linflow.verified import _loops  # noqa: PLC0415 - numba is slow to import

        return _loops.programs()
    except Exception:  # the plain classes give the same numbers, more slowly
        return None


def layout(
    problem: AffineGradient, weights: Sequence[np.ndarray], scale: float, order: int = FLOAT64.order
) -> Layout | None:
    """Return the layout of a problem for compiled code, or None if plain code should be used."""
    matrices = [M for M in (problem.V, problem.A, problem.B, *weights) if M is not None]
    if any(type(M) is not np.ndarray or M.dtype != np.float64 for M in matrices):
        return None
    widths = (*(W.shape[0] for W in weights), weights[-1].shape[1])
    most = max(a * b for a, b in pairwise(widths)) * min(widths[0], widths[-1])
    if max(most, widths[0] ** 2 * widths[-1], widths[0] * widths[-1] ** 2) >= BLAS_FROM or programs() is None:
        return None
    return Layout(problem, widths, scale, order)


class Layout:
    """The layout of a problem in flat arrays, with work space. One march at a time can use it."""

    def __init__(self, problem: AffineGradient, widths: tuple[int, ...], scale: float, order: int):
        from linflow.verified import _frame as k  # noqa: PLC0415 - numba is slow to import

        self.problem, self.widths, self.scale, self.programs, self.at = problem, widths, scale, programs(), k
        self.order = order
        L = self.depth = len(widths) - 1
        n, m, p = widths[0], widths[-1], order
        sides = [a * b for a, b in pairwise(widths)]
        self.size, self.ends = sum(sides), np.cumsum([0, *sides])
        blocks = np.zeros((k.OTHERS + 1, L + 3), dtype=np.int64)
        blocks[k.WIDTHS, : L + 1], blocks[k.LAYERS, : L + 1] = widths, self.ends
        room = heads = 0
        for l in range(1, L + 1):
            blocks[k.P_AT, l], blocks[k.P_HEAD, l] = room, heads
            room, heads = room + p * n * widths[l], heads + n * widths[l]
        for l in range(2, L + 1):
            size = widths[l - 1] * m
            blocks[k.S_AT, l], blocks[k.T_AT, l], blocks[k.S_HEAD, l] = room, room + p * size, heads
            room, heads = room + 2 * p * size, heads + size
        for l in range(L):
            blocks[k.Q_AT, l], blocks[k.Q_HEAD, l] = room, heads
            room, heads = room + p * widths[l] * m, heads + widths[l] * m
        blocks[k.OTHERS, k.DISTANCE] = heads
        self.heads = heads + n * m
        square = max(widths) ** 2
        blocks[k.OTHERS, [k.FIRST, k.SECOND, k.THIRD]] = room + square * np.arange(3)
        places, pairs = np.zeros((2, L, L), dtype=np.int64), 0
        for i in range(L):
            for j in range(i + 1, L):
                places[0, i, j], pairs = pairs, pairs + widths[i] * widths[j + 1]
                places[1, i, j], pairs = pairs, pairs + widths[i + 1] * widths[j]
        header = (L, n, m, p, problem.A is not None, problem.B is not None, self.size)
        self.spec = np.concatenate([header, blocks.ravel(), places.ravel()]).astype(np.int64)
        numbers = (scale, *problem.norms, *problem.lengths, *problem.errors, problem.residue, FLOAT64.truncation)
        given = [M.ravel() for M in (problem.A, problem.B, problem.V) if M is not None]
        self.data = np.concatenate([numbers, *given])
        self.work, self.pairs = np.zeros(room + 3 * square), np.zeros(pairs)
        self.triples, self.tails = np.zeros((2 * L * L, 3)), np.zeros((4 * L + 4, (2 * L - 1) * p + 2))
        spread = n * sum(widths[:-1]) + m * sum(widths[1:]) + m * max(widths) + 3 * square
        self.room, self.vector, self.rest = np.zeros(spread), np.zeros(0), np.empty(0)
        _, self.way = best_cost(widths, compiled=True)

    @cached_property
    def square(self) -> np.ndarray:
        """Work space for a Hessian."""
        return np.zeros((self.size, self.size))

    @cached_property
    def factor(self) -> np.ndarray:
        """Work space for a factor of a Hessian."""
        return np.zeros(self.size**2)

    def fresh(self, count: int) -> np.ndarray:
        """Return an uninitialised array. It is cut from a larger piece of memory, which comes in fewer pages."""
        if count > self.rest.size:
            self.rest = np.empty(max(count, min(SEVERAL * count, LARGE)))
        found, self.rest = self.rest[:count], self.rest[count:]
        return found

    def flat(self, weights: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Return weights as one vector."""
        return weights if isinstance(weights, np.ndarray) else np.concatenate([W.ravel() for W in weights])

    def layers(self, y: np.ndarray, count: int = 0) -> list[np.ndarray]:
        """Return the layers stored in a vector, or their series if `count` coefficients of each are stored."""
        sides = list(pairwise(self.widths))
        if not count:
            return [y[a:b].reshape(s) for a, b, s in zip(self.ends[:-1], self.ends[1:], sides, strict=True)]
        ends = count * self.ends
        return [y[a:b].reshape(count, *s) for a, b, s in zip(ends[:-1], ends[1:], sides, strict=True)]


class CompiledPath:
    """The path over one step from given weights, with all its bounds: see `Expansion`."""

    def __init__(
        self, layout: Layout, weights: Sequence[np.ndarray] | np.ndarray, tau: float, order: int | None = None
    ):
        k = layout.at
        self.layout, self.problem, self.scale, self.tau, self.depth = (
            layout,
            layout.problem,
            layout.scale,
            tau,
            layout.depth,
        )
        p = self.order = layout.order if order is None else order
        self.y = layout.flat(weights)
        self.series, self.heads = layout.fresh((p + 1) * layout.size), np.empty(layout.heads)
        self.bounds, self.rounding = np.empty((3 * (5 * self.depth + 3), p + 1)), np.empty(p)
        self.tails = np.empty((4 * self.depth + 4, (2 * self.depth - 1) * p + 2))
        self.numbers = np.empty(k.NUMBERS + 1)
        layout.programs.expand(
            layout.spec,
            layout.data,
            self.y,
            tau,
            p,
            self.series,
            self.heads,
            self.bounds,
            self.tails,
            self.rounding,
            self.numbers,
            layout.work,
        )
        self._norm, self._longest = float(self.numbers[k.REACH]), float(self.numbers[k.LONGEST_STEP])
        self.distance_error = float(self.numbers[k.OFF_ERROR])

    @property
    def coefficients(self) -> list[np.ndarray]:
        """The layers' series."""
        return self.layout.layers(self.series, self.order + 1)

    @property
    def values(self) -> tuple[np.ndarray, ...]:
        """The layers' series."""
        return tuple(self.coefficients)

    @property
    def lengths(self) -> np.ndarray:
        """Upper bounds of the Frobenius norms of the layers' coefficients, one row per layer."""
        return self.bounds[: 3 * self.depth : 3].copy()

    @property
    def defects(self) -> np.ndarray:
        """Bounds of the coefficients of the defect from degree p on."""
        return self.tails[-1, :-1]

    @property
    def distance(self) -> np.ndarray:
        """`c P_L − V` as computed."""
        return self.heads[-self.problem.V.size :].reshape(self.problem.V.shape)

    def norm(self) -> float:
        """Return `‖θ_0‖_F`."""
        return self._norm

    def longest(self) -> float:
        """Return the scaled time over which the truncation stays below its share of `‖θ‖`."""
        return self._longest

    def added(self, s: float) -> float:
        """Return a bound of `∫_0^s ‖θ̃' + τ∇L(θ̃)‖`: truncation and rounding."""
        return self.layout.programs.added(self.tails, self.rounding, self.order, s)

    def at(self, s: float) -> tuple[np.ndarray, float]:
        """Return the rounded weights of the path at s, and a bound of their distance to the polynomial."""
        y = np.empty(self.layout.size)
        jump = self.layout.programs.walk(self.layout.spec, self.order, self.series, self.bounds, s, y)
        return y, jump

    def gap(self, error: float) -> tuple[float, float]:
        """Return bounds of the loss gap for every product within `error` of the product at the start."""
        k = self.layout.at
        _, length, value, slope = self.numbers[[k.OFF_ERROR, k.OFF, k.VALUE, k.SLOPE]].tolist()
        return self.problem.gap_from(0.5 * value, length, slope, self.problem.V.size, error)


class CompiledNode:
    """The logarithmic norm at the start of a step: see `Node`."""

    def __init__(self, path: CompiledPath):
        self.path = path

    @cached_property
    def norms(self) -> np.ndarray:
        """`‖X_ij‖₂` and `‖M_ij‖₂` as flat arrays."""
        path, of = self.path, self.path.layout
        norms = np.empty((2, of.depth**2))
        of.programs.look(
            of.spec, path.order, path.series, path.heads, path.bounds, of.pairs, of.triples, norms, of.work
        )
        return norms

    @cached_property
    def products(self) -> tuple[np.ndarray, np.ndarray]:
        """`‖X_ij‖₂` and `‖M_ij‖₂`, symmetric with zero diagonal."""
        x, m = self.norms.reshape(2, self.path.depth, self.path.depth)
        return x, m

    def hessian(self, kept: float = 1.0) -> tuple[np.ndarray, float]:
        """Return the lower half of `∇²L` here, with `kept` of its first part, and a bound of its error.

        The next Hessian of the march overwrites the array.
        """
        path, of = self.path, self.path.layout
        norms, H = np.empty((2, of.depth**2)), of.square
        parts = (path.heads, path.bounds, of.pairs, of.triples)
        of.programs.look(of.spec, path.order, path.series, *parts, norms, of.work)
        return H, of.programs.hessian(of.spec, of.data, kept, *parts, H.ravel(), of.room)

    def chain(self, kept: float) -> HessianChain:
        """Return the parts of `∇²L` here, with `kept` of its first part."""
        path, of, k = self.path, self.path.layout, self.path.layout.at
        L, n, m, widths = of.depth, of.widths[0], of.widths[-1], of.widths
        bounds = path.bounds[:, 0].tolist()

        def known(value: np.ndarray, row: int) -> Matrix:
            return Matrix(value, bounds[3 * row + k.ERROR], bounds[3 * row + k.NORM], bounds[3 * row + k.LENGTH])

        def head(which: int, kind: int, l: int, rows: int, columns: int) -> Matrix:
            at = of.spec[k.block(of.spec, which) + l]
            return known(path.heads[at : at + rows * columns].reshape(rows, columns), k.row_of(of.spec, kind, l))

        W = [known(w[0], l) for l, w in enumerate(path.coefficients)]
        P = [head(k.P_HEAD, 1, l, n, widths[l]) for l in range(1, L)]
        S = [head(k.S_HEAD, 2, l, widths[l - 1], m) for l in range(2, L + 1)]
        Q = [head(k.Q_HEAD, 3, l, widths[l], m) for l in range(L)]
        return HessianChain.of(of.problem, of.scale**2 * kept, W, P, S, Q, of.way)

    @cached_property
    def least(self) -> float:
        """A proved lower bound of `min(0, λ_min)` of the Hessian here, with KEPT of its first part."""
        of = self.path.layout
        enough = ENOUGH / self.path.tau
        if of.way != "dense":
            found, of.vector = least_of_chain(self.chain(KEPT), of.vector, enough, of.programs)
            return found
        H, error = self.hessian(KEPT)
        if of.size <= LAPACK_FROM:
            if not 0.5 < np.linalg.norm(of.vector) < 2:
                of.vector = np.full(of.size, of.size**-0.5)
            return of.programs.least(H.ravel(), of.size, error, of.vector, enough, of.factor)
        found, of.vector = least_near(H, error, of.vector, enough, of.factor.reshape(H.shape).T)
        return found


class CompiledTube:
    """Bounds over a step of scaled length s, and on all weights within a radius of the path: see `Tube`."""

    def __init__(self, node: CompiledNode, s: float):
        path = self.path = node.path
        of, self.s = path.layout, s
        self.jets = np.empty(9 * of.depth + 3 + 3 * of.depth**2 + 1)
        of.programs.surround(of.spec, of.data, path.order, path.bounds, path.tails, node.norms, s, self.jets)
        self.sag = float(self.jets[-1])

    def constants(self, radius: float) -> Constants:
        """Return the Lipschitz constants of the product and its derivatives on the tube."""
        of, found = self.path.layout, np.empty(4)
        of.programs.constants(of.spec, of.data, self.jets, radius, found)
        return Constants(*found.tolist())


def level_two(start: CompiledNode, end: CompiledNode, tube: CompiledTube, jump: float, constants: Constants) -> float:
    """Return an upper bound of `∫ m ds` over the step from the products alone: see `log_norm.level_two`."""
    of = tube.path.layout
    return of.programs.level_two(of.spec, tube.jets, tube.s, jump, constants.slope, start.norms, end.norms)
