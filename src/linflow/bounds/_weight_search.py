"""Trust-region Newton search over the weights with given imbalances and product."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from linflow._support.arrays import EPS
from linflow.geometry.operator import TangentOperator
from linflow.model.levenberg_marquardt import brought_to
from linflow.model.network import running_products, running_suffixes

FEASIBLE = 1e-11
"""Weights are kept if they violate the constraints by at most this, in their units; most come to 1e-13."""

_TIGHT = 1e-13
_RANK = 1e-7  # relative singular value of the constraints below which they are taken as dependent
_DEPENDENT = 1e-12  # below this, a dependence of the constraints is rounding
_PROJECTION_STEPS = 150


@dataclass(frozen=True)
class Run:
    """The end of a descent; `value` is `λ_min(T)` over `λ_max(T)` of the given weights, 0 if it is only rounding."""

    weights: list[np.ndarray]
    value: float
    converged: bool


class WeightSearch:
    """Minimise `⟨E, T(E)⟩` over unit E and all weights with the imbalances and product of the given weights.

    The unknowns are the weights in units of their layer's size, concatenated into one vector.
    """

    def __init__(self, weights: list[np.ndarray], *, product: bool):
        self.given, self.product = weights, product
        self.shapes = [W.shape for W in weights]
        sizes = [_norm(W) for W in weights]
        # Each constraint is measured in its own size. In units of the largest layers, a small one would be free.
        self.units = [max(s, 1e-100 * max(sizes)) if s > 0 else 1e-2 * max(sizes) for s in sizes]
        self.splits = np.cumsum([W.size for W in weights])[:-1]
        self.imbalance_units = [max(a, b) ** 2 for a, b in itertools.pairwise(self.units)]
        self.product_unit = math.prod(self.units)
        self.size = float(np.linalg.eigvalsh(TangentOperator(weights).dense())[-1])
        self.target = self._constrained(weights)

    # ------------------------------------------------------------ constraints

    def layers(self, x: np.ndarray) -> list[np.ndarray]:
        """Split a vector, or a stack of them, into the weights."""
        parts = np.split(x, self.splits, axis=-1)
        return [
            u * part.reshape(*x.shape[:-1], *shape)
            for u, part, shape in zip(self.units, parts, self.shapes, strict=True)
        ]

    def vector(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vector of unknowns for the given weights."""
        return np.concatenate([W.ravel() / u for u, W in zip(self.units, weights, strict=True)])

    def _constrained(self, weights: list[np.ndarray]) -> np.ndarray:
        """Return the upper triangles of the D_l, then W, each in its unit. Off-diagonal entries count twice."""
        parts = [
            _triangle(A.T @ A - B @ B.T) / u
            for (A, B), u in zip(itertools.pairwise(weights), self.imbalance_units, strict=True)
        ]
        if self.product:
            parts.append((running_products(weights)[-1] @ weights[-1]).ravel() / self.product_unit)
        return np.concatenate(parts)

    def constraints(self, x: np.ndarray) -> np.ndarray:
        """Return the violation of each constraint."""
        return self._constrained(self.layers(x)) - self.target

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """Return the derivative of the constraints."""
        weights = self.layers(x)
        columns = []
        prefixes, suffixes = running_products(weights), running_suffixes(weights)
        for l, (W, u) in enumerate(zip(weights, self.units, strict=True)):
            (a, b), rows = W.shape, []
            for k, unit in enumerate(self.imbalance_units):
                h = weights[k].shape[1]
                block = np.zeros((h, h, a, b))
                if k == l:
                    block = np.einsum("ib,aj->ijab", np.eye(h), W)
                elif k == l - 1:
                    block = -np.einsum("ia,jb->ijab", np.eye(h), W)
                rows.append(_triangle((block + block.swapaxes(0, 1)).transpose(2, 3, 0, 1)).reshape(a * b, -1) / unit)
            if self.product:
                P = np.eye(a) if prefixes[l] is None else prefixes[l]
                S = np.eye(b) if suffixes[l] is None else suffixes[l]
                rows.append(np.kron(P, S.T).T / self.product_unit)
            columns.append(u * np.concatenate(rows, axis=1))
        return np.concatenate(columns).T

    def correct(self, x: np.ndarray, inverse: np.ndarray | None = None, steps: int = 10) -> np.ndarray | None:
        """Bring x onto the constraints by Gauss–Newton steps; return None if they fail.

        A given inverse of the Jacobian at a nearby point is used as long as it makes progress.
        """
        violation = self.constraints(x)
        for _ in range(steps):
            size = _norm(violation)
            if size < _TIGHT:
                break
            step = inverse @ violation if inverse is not None else self._newton(x, violation)
            trial = x - step
            change = self.constraints(trial)
            if _norm(change) > 0.3 * size:
                if inverse is None:
                    break
                inverse = None  # fresh derivatives from here on
                continue
            x, violation = trial, change
        return x if _norm(violation) < FEASIBLE else None

    def polished(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Bring weights as close to the constraints as rounding allows."""
        return self.layers(self._damped(self.vector(weights), EPS))

    def violation(self, weights: Sequence[np.ndarray]) -> float:
        """Return the largest violation of a constraint, in its unit."""
        return float(np.max(np.abs(self.constraints(self.vector(weights)))))

    def sensitivity(self, weights: Sequence[np.ndarray]) -> float:
        """Return how much of `λ_min(T)` can come from the constraint violation and its rounding, to first order."""
        x = self.vector(weights)
        value, E = self.least(x)
        J = self.jacobian(x)
        free = self.gradient(x, E, np.zeros(len(J)), value)[: x.size]
        multipliers = np.linalg.lstsq(J.T, free, rcond=_DEPENDENT)[0]
        return float(np.abs(multipliers) @ (np.abs(self.constraints(x)) + 4 * EPS)) * self.size

    def _newton(self, x: np.ndarray, violation: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(self.jacobian(x), violation, rcond=_RANK)[0]

    def project(self, x: np.ndarray) -> np.ndarray | None:
        """Bring a distant x onto the constraints; return None if the steps stall before they reach them."""
        return self.correct(self._damped(x, FEASIBLE))

    def _damped(self, x: np.ndarray, goal: float) -> np.ndarray:
        """Reduce the violation at x to the goal, or as near as possible, by the Levenberg–Marquardt method."""

        def moved(x: np.ndarray, violation: np.ndarray, damping: float) -> np.ndarray:
            U, s, Vt = np.linalg.svd(self.jacobian(x), full_matrices=False)
            return x - Vt.T @ (s / (s**2 + damping * _norm(violation)) * (U.T @ violation))

        return brought_to(x, self.constraints, _norm, moved, goal=goal, steps=_PROJECTION_STEPS)

    # ------------------------------------------------------------ objective

    def least(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return `λ_min(T)` in its unit, 0 if it is only rounding, and its eigenvector."""
        values, vectors = np.linalg.eigh(TangentOperator(self.layers(x)).dense())
        return positive_least(values) / self.size, vectors[:, 0].reshape(self.shapes[0][0], -1)

    def gradient(self, x: np.ndarray, E: np.ndarray, multipliers: np.ndarray, value: float) -> np.ndarray:
        """Return the gradient in (x, E) of `⟨E, T(E)⟩ − value ‖E‖² − ⟨multipliers, constraints⟩`, T in its unit.

        It is a polynomial in x and E, so stacks of them and complex arguments are allowed.
        """
        weights = self.layers(x)
        L, t = len(weights), _transpose
        P = [np.eye(self.shapes[0][0]) if p is None else p for p in running_products(weights)]
        S = [np.eye(self.shapes[-1][1]) if s is None else s for s in running_suffixes(weights)]
        pulled = [t(p) @ E @ t(s) for p, s in zip(P, S, strict=True)]
        by_prefix = [2 / self.size * (E @ t(S[l]) @ t(pulled[l])) for l in range(L)]
        by_suffix = [2 / self.size * (t(pulled[l]) @ t(P[l]) @ E) for l in range(L)]
        by_E = 2 / self.size * sum(P[l] @ pulled[l] @ S[l] for l in range(L)) - 2 * value * E
        Ds, M = self._unpack(multipliers)
        by_layer = [np.zeros_like(W) for W in weights]
        above = -M
        for l in range(L - 1, -1, -1):
            by_layer[l] = by_layer[l] + t(P[l]) @ above
            above = above @ t(weights[l]) + by_prefix[l]
        below = by_suffix[0]
        for l in range(1, L):
            by_layer[l] = by_layer[l] + below @ t(S[l])
            below = t(weights[l]) @ below + by_suffix[l]
        for l, D in enumerate(Ds):
            by_layer[l] = by_layer[l] - 2 * weights[l] @ D
            by_layer[l + 1] = by_layer[l + 1] + 2 * D @ weights[l + 1]
        parts = [*(u * G for u, G in zip(self.units, by_layer, strict=True)), by_E]
        return np.concatenate([G.reshape(*x.shape[:-1], math.prod(G.shape[-2:])) for G in parts], axis=-1)

    def _unpack(self, multipliers: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the multipliers of the D_l, as symmetric matrices, and of W, with their units included."""
        Ds, at = [], 0
        for (_, h), unit in zip(self.shapes[:-1], self.imbalance_units, strict=True):
            count = h * (h + 1) // 2
            D = np.zeros((h, h))
            D[_upper(h)[:2]] = multipliers[at : at + count] / unit
            off = np.triu(D, 1) / math.sqrt(2)
            Ds.append(np.diag(np.diag(D)) + off + off.T)
            at += count
        shape = self.shapes[0][0], self.shapes[-1][1]
        return Ds, multipliers[at:].reshape(shape) / self.product_unit if self.product else np.zeros(shape)

    # ------------------------------------------------------------ search

    def starts(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the given weights, then endlessly rotated and random ones that do not meet the constraints yet."""
        n, m = self.shapes[0][0], self.shapes[-1][1]
        yield self.vector(self.given)
        for k in itertools.count():
            if k % 2 == 0:
                weights = [_orthogonal(n, rng) @ self.given[0], *self.given[1:]]
                weights[-1] = weights[-1] @ _orthogonal(m, rng)
            else:
                raw = [rng.standard_normal(shape) for shape in self.shapes]
                weights = [u / _norm(V) * V for u, V in zip(self.units, raw, strict=True)]
            yield self.vector(weights)

    def descend(self, start: np.ndarray, steps: int) -> Run | None:
        """Run trust-region Newton along the constraints; return None if the start cannot be brought onto them."""
        x = self.project(start)
        if x is None:
            return None
        value, E = self.least(x)
        radius = 0.3
        for _ in range(steps):
            g, H, basis, inverse = self._model(x, E, value)
            if g.size == 0:  # scalars: the weights are isolated
                return Run(self.layers(x), value, converged=True)
            while True:
                p, promised = _trust_region_step(g, H, radius)
                if promised <= 1e-12 * value + 4 * EPS:
                    return Run(self.layers(x), value, converged=True)
                trial = self.correct(x + basis @ p, inverse)
                least = None if trial is None else self.least(trial)
                gained = -math.inf if least is None else value - least[0]
                if gained > 0.75 * promised:
                    radius = max(radius, 2 * _norm(p))
                elif gained < 0.25 * promised:
                    radius = 0.25 * _norm(p)
                if trial is not None and least is not None and gained > 0.1 * promised:
                    x, (value, E) = trial, least
                    break
                if radius < 1e-10:
                    return Run(self.layers(x), value, converged=False)
        return Run(self.layers(x), value, converged=False)

    def _model(self, x: np.ndarray, E: np.ndarray, value: float) -> tuple[np.ndarray, ...]:
        """Return the gradient and Hessian along the constraints, their basis for x, and the Jacobian's inverse."""
        J = self.jacobian(x)
        U, s, Vt = np.linalg.svd(J)
        rank = int(np.sum(s > _RANK * s[0]))
        inverse = Vt[:rank].T @ (U[:, :rank] / s[:rank]).T
        Z, N, k = Vt[rank:], x.size, x.size - rank
        free = self.gradient(x, E, np.zeros(len(J)), value)
        multipliers = inverse.T @ free[:N]
        normal = np.linalg.svd(E.reshape(1, -1))[2][1:]  # directions in which E can turn
        shift = 1e-30j  # complex-step derivatives of a polynomial are exact to rounding
        turned = np.concatenate([Z, np.zeros((len(normal), N))])
        E_turned = np.concatenate([np.zeros((k, E.size)), normal])
        stack = self.gradient(x + shift * turned, E + shift * E_turned.reshape(-1, *E.shape), multipliers, value)
        full = np.concatenate([turned, E_turned], axis=1)
        H = full @ (np.imag(stack) / 1e-30).T
        return full @ free, H, np.concatenate([Z, np.zeros((len(normal), N))]).T, inverse


def positive_least(values: np.ndarray) -> float:
    """Return the first of the ascending eigenvalues of T; 0 if it is only rounding."""
    return float(values[0]) if values[0] > 16 * EPS * values[-1] else 0.0


def _trust_region_step(g: np.ndarray, H: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
    """Return the minimiser of `⟨g, p⟩ + ½⟨p, Hp⟩` over `‖p‖ ≤ radius`, and how far the minimum lies below 0."""
    values, vectors = np.linalg.eigh(H)
    b = vectors.T @ g
    size = max(abs(values[0]), abs(values[-1]), 1e-300)
    low = max(0.0, -values[0])

    def step(shift: float) -> np.ndarray:
        return -b / np.maximum(values + shift, 1e-14 * size)

    if _norm(step(low)) <= radius:
        q = step(low)
        if values[0] < -1e-12 * size:  # the hard case: continue along negative curvature to the radius
            q[0] = math.copysign(math.sqrt(max(radius**2 - _norm(q[1:]) ** 2, 0.0)), -b[0] or 1.0)
    else:
        high = low + _norm(b) / radius
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if _norm(step(middle)) > radius else (low, middle)
        q = step(high)
    return vectors @ q, -float(b @ q + 0.5 * q @ (values * q))


def _triangle(A: np.ndarray) -> np.ndarray:
    """Return the upper triangles of symmetric matrices (last two axes), in a basis that keeps the norm."""
    rows, columns, factors = _upper(A.shape[-1])
    return A[..., rows, columns] * factors


@functools.cache
def _upper(h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = np.triu_indices(h)
    return rows, columns, np.where(rows == columns, 1.0, math.sqrt(2))


def _transpose(A: np.ndarray) -> np.ndarray:
    return A.swapaxes(-1, -2)


def _orthogonal(k: int, rng: np.random.Generator) -> np.ndarray:
    """Return a uniformly distributed orthogonal matrix, reflections included."""
    Q, R = np.linalg.qr(rng.standard_normal((k, k)))
    return Q * np.where(np.diag(R) < 0, -1.0, 1.0)


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x))
