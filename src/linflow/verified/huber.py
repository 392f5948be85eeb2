"""Huber regression in a verified run: proved errors of its value and gradient, and where a path meets its kinks.

Everything is measured from the computed minimiser V, whose residuals and gradient are known with proved errors.
Proofs: docs/losses.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linflow._support.arrays import Array, to_numpy
from linflow.model.huber import Huber
from linflow.model.robust import Piece
from linflow.verified.rounding import DOWN, TINY, UP, U, frobenius, gamma, known, least_eigenvalue
from linflow.verified.rows import RowsGradient

SHARES = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2)
"""Shares of the samples with the smallest residuals among which the gap is proved to be strongly convex."""


@dataclass(frozen=True)
class HuberGradient(RowsGradient):
    """The gradient of a Huber regression, with constants and errors that are proved, not declared."""

    @classmethod
    def over(cls, objective: Huber, like: Array) -> HuberGradient:
        """Return the gradient of an objective."""
        made = cls(objective, like)
        note = (
            "no curvature of the loss around its minimum could be proved: the gap is measured from the computed "
            f"minimum {objective.minimum:.17g}",
        )
        return made if made.proved else cls(objective, like, note)

    @property
    def _loss(self) -> Huber:
        assert isinstance(self.objective, Huber)
        return self.objective

    @cached_property
    def _best(self) -> np.ndarray:
        """The computed minimiser V."""
        return to_numpy(self._loss.minimizer)

    @cached_property
    def _inputs(self) -> np.ndarray:
        return to_numpy(self._loss.X)

    @cached_property
    def _residual(self) -> np.ndarray:
        return self._inputs @ self._best - to_numpy(self._loss.Y)

    @cached_property
    def _residual_error(self) -> np.ndarray:
        """Upper bounds of the errors of the computed residuals at V."""
        columns = frobenius(self._best.T[:, None, :])
        sizes = self._lengths * columns + np.abs(to_numpy(self._loss.Y))
        return gamma(len(self._best) + 2) * sizes * UP + TINY

    @cached_property
    def _slopes(self) -> np.ndarray:
        d = self._loss.delta
        return np.clip(self._residual, -d, d)

    @cached_property
    def _descents(self) -> np.ndarray:
        """Upper bounds of the norm of the gradient at V, one for each column."""
        d, off = self._loss.delta, self._residual_error
        G = self._inputs.T @ self._slopes
        loose = np.abs(self._residual) - off <= d  # beyond, the slope is ±δ exactly
        errors = self._lengths * (gamma(len(self._inputs)) * np.abs(self._slopes) + np.where(loose, off, 0.0))
        return (frobenius(G.T[:, None, :]) + errors.sum(axis=0)) * UP

    @cached_property
    def _away(self) -> float:
        """Upper bound of `‖∇f(V)‖_F`."""
        return float(frobenius(self._descents[None])) * UP

    @cached_property
    def proved(self) -> tuple[tuple[Piece, ...], ...]:
        """Where each column is proved to be strongly convex; empty if that fails for one of them."""
        X = self._inputs[:, np.any(self._inputs != 0, axis=0)]
        slack = self._loss.delta - np.abs(self._residual) - self._residual_error
        slack = slack - 4 * U * self._loss.delta
        found = [_pieces(X, s, self._lengths[:, 0], g) for s, g in zip(slack.T, self._descents, strict=True)]
        return tuple(found) if all(found) else ()

    @cached_property
    def _offset(self) -> float:
        """Upper bound of `f(V) − f*`: `Σ_j g_j²/(2μ_j)`."""
        tops = [max(piece.curvature for piece in pieces) for pieces in self.proved]
        return sum(g * g / (2 * mu) for g, mu in zip(self._descents, tops, strict=True)) * UP if tops else 0.0

    @property
    def smoothness(self) -> float:
        """Upper bound of `K = ‖X‖²`."""
        return self._norm * self._norm * UP

    @property
    def hessian_lipschitz(self) -> float:
        """0: between two kinks f is quadratic. `kinked` says where a path may meet one."""
        return 0.0

    @property
    def least(self) -> float:
        """0: there is no gradient dominance on the whole space."""
        return 0.0

    def dominance(self, gap: float) -> float:
        """Return γ with `‖∇f‖² ≥ γ (f − f*)` wherever the gap is at most `gap`; 0 if none is proved."""
        if not self.proved:
            return 0.0
        here = np.array(gap * UP)
        return min(max(float(piece.dominance(here)) for piece in pieces) for pieces in self.proved) * DOWN

    def _turned(self, W: np.ndarray, off: Any) -> tuple[np.ndarray, ...]:
        """Return what value and gradient at products within `off` of W need; arrays of shape `(…, N, m)`.

        They are the computed `h'(r) − h'(r*)` and the size of its error, r, its distance to `h'(r*)`, the error of
        `X(W − V)`, and the error that only a sample near a kink adds.
        """
        d, E = self._loss.delta, W - self._best
        D = self._inputs @ E
        R, away = self._residual + D, (self._residual - self._slopes) + D
        P = np.where(np.abs(R) <= d, away, np.sign(R) * d - self._slopes)
        moved = gamma(len(self._best) + 2) * frobenius(E) + np.asarray(off)
        e = self._lengths * moved[..., None, None] * UP + TINY
        near = self._residual_error + 4 * U * (np.abs(R) + np.abs(self._residual) + d)
        first, here = np.abs(self._residual), np.abs(R)
        inside = (first + near <= d) & (here + near + e <= d)
        beyond = (first - near > d) & (here - near - e > d) & (np.sign(R) == np.sign(self._residual))
        kink = np.where(inside | beyond, 0.0, near)
        return P, np.where(beyond, 0.0, e + kink) * UP, R, away, np.where(beyond, 0.0, e), kink

    def gap(self, E: np.ndarray, error: float) -> tuple[float, float]:
        """Return bounds of `f − f*` at all products within `error` of E. The sum has no negative terms."""
        d = self._loss.delta
        P, off, R, away, e, kink = self._turned(E, error)
        size = np.abs(P) + off
        with np.errstate(over="ignore"):
            turned = d - np.sign(R) * self._slopes
            parts = np.where(np.abs(R) <= d, 0.5 * away * away, turned * ((np.abs(R) - d) + 0.5 * turned))
            value = float(np.sum(parts))
            D = np.minimum(np.abs(R - self._residual), 1e300)
            slack = np.sum((size + e) * e + kink * (D + kink + size + e))
        room = self._away * (float(frobenius(E - self._best)) + error)
        slack = (float(slack) + room + gamma(P.size + 12) * value) * UP + TINY
        low, high = value - slack, (value + slack + self._offset) * UP
        return known(max(0.0, low) if self.proved else low, high)

    def gradient(self, W: np.ndarray, off: Any) -> tuple[np.ndarray, Any]:
        """Return the `∇f` computed from W, and a bound of its Frobenius distance to `∇f` at the exact product."""
        P, errors, *_ = self._turned(W, 0.0)
        G = self._inputs.T @ P
        rows = np.sqrt(np.sum(P * P, axis=-1)) * UP + TINY
        rounding = gamma(len(self._inputs)) * np.sum(self._lengths[:, 0] * rows, axis=-1)
        error = (self._norm * frobenius(errors) + rounding + self._away + self.smoothness * np.asarray(off)) * UP
        return G, error if W.ndim == 3 else float(error)

    def kinked(self, W: np.ndarray, off: np.ndarray, moved: float) -> np.ndarray:
        """Return whether a residual may become ±δ between each two neighbours of a stack of products.

        Args:
            W: computed products on a path.
            off: upper bounds of their distances to the exact ones.
            moved: upper bound of how far the product moves between two neighbours.
        """
        E, d = W - self._best, self._loss.delta
        R = self._residual + self._inputs @ E
        within = np.asarray(off) + 0.5 * moved + gamma(len(self._best) + 2) * frobenius(E)
        near = self._lengths * within[:, None, None] + self._residual_error
        near = (near + 4 * U * (np.abs(R) + np.abs(self._residual) + d)) * UP
        crossed = np.any(np.abs(np.abs(R) - d) <= near, axis=(1, 2))
        return np.logical_or(crossed[:-1], crossed[1:])


def _pieces(X: np.ndarray, slack: np.ndarray, lengths: np.ndarray, slope: float) -> tuple[Piece, ...]:
    """Return where one column is proved to be strongly convex, from lower bounds of `δ − |r|` at V."""
    found, order = [], np.argsort(-slack, kind="stable")
    for share in SHARES:
        chosen = order[: int(share * np.sum(slack > 0))]
        if len(chosen) < X.shape[1]:
            break
        rows = X[chosen]
        A, size = rows.T @ rows, float(frobenius(rows))
        mu = least_eigenvalue((A + A.T) / 2, gamma(len(rows) + 2) * size * size * UP + TINY) * DOWN
        if mu <= 0:
            continue
        room = slack[chosen] - 2 * lengths[chosen] * (slope / mu) * UP
        if room.min() <= 0:
            continue
        leverage = np.minimum(1.0, lengths[chosen] ** 2 / mu * UP)
        found.append(Piece(mu, float(np.min(room * room / leverage)) / 2 * DOWN))
    return tuple(found)
