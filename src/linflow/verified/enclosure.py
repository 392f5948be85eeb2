"""The result of a verified run: bounds of the exact flow at every time, and how far the proof reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np

from linflow._support import checks
from linflow.certificates import Check, Guarantee
from linflow.certificates.checking import Promise
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.verified.checking import check_flow
from linflow.verified.enclosed import Bounds, EnclosedFlow
from linflow.verified.forever import ever_after
from linflow.verified.march import EnclosureStep, product_error
from linflow.verified.problem import AffineGradient
from linflow.verified.rank_gap import above, rank_floor
from linflow.verified.reduction import Narrowed
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, least_eigenvalue
from linflow.verified.spectra import singular_value_bounds

LARGEST_OPERATOR = 900
"""Largest number nm of entries of the product for which the least eigenvalue of T can be enclosed."""


@dataclass(frozen=True, repr=False)
class Enclosure(EnclosedFlow):
    """A computed proof of where the exact gradient flow is: `‖θ(t) − θ̃(t)‖ ≤ radius`.

    Every bound holds for the exact flow of the exact data, rounding included. `docs/verified.md` states the theorem.

    Attributes:
        objective: the objective that is minimised.
        start: the network at the start.
        problem: the affine gradient with its proved errors.
        steps: the path, step by step.
        first: bounds of the initial loss gap.
        result: how the run ended: "target proved", "time limit reached", "step limit reached" or "proof ended".
        reason: why the run ended early; empty if it did not.
        notes: how the input was converted, and what the gap is measured from.
        hessians: number of steps that needed the Hessian.
    """

    objective: Objective
    start: Network
    problem: AffineGradient
    steps: tuple[EnclosureStep, ...]
    first: tuple[float, float]
    result: str
    reason: str
    narrowed: Narrowed = field(repr=False)
    notes: tuple[str, ...] = ()
    hessians: int = 0

    @cached_property
    def radius(self) -> np.ndarray:
        """Upper bounds of `‖θ − θ̃‖` up to the times `t`, at the reduced width. θ̃ is the path before any rounding."""
        return np.array([self.narrowed.radius, *(step.radius for step in self.steps)])

    @cached_property
    def _after(self) -> tuple[Guarantee | None, str]:
        if not self.steps:
            return None, "nothing is enclosed"
        weights, errors = self.steps[-1].at(self.end)
        reached = self.start.with_weights(weights)
        gap, radius = self.steps[-1].gap[1], (float(self.radius[-1]) + math.sqrt(float(np.sum(errors**2)))) * UP
        return ever_after(self.objective, self.start, reached, radius, gap, self.problem.dominance(gap))

    @cached_property
    def rank_floor(self) -> tuple[float, float]:
        """Bounds of the least gap that the widths allow: `½ Σ_{i>r} σ_i(Y)²` for the least width r (Eckart & Young).

        Both are 0 if no hidden layer is narrower than the product.

        Raises:
            ValueError: a hidden layer is narrower than the product, and the objective is not a `MatrixFactorization`.
        """
        return rank_floor(self.objective, self.start)

    def rank_gap_bounds(self, t: Any) -> Bounds:
        """Return bounds of the gap to the least loss at the rank that the widths allow, at a time or times.

        With a bottleneck, the loss gap never falls below `rank_floor`; this gap can fall to 0.

        Raises:
            ValueError: as for `rank_floor`, or a time is negative or beyond `end`.

        Example:
            >>> import numpy as np, linflow as lf
            >>> f = lf.MatrixFactorization(np.diag([3.0, 1.0]))
            >>> enc = lf.enclose(f, [np.array([[1.0], [0.5]]), np.array([[1.0, 0.25]])], t_max=8.0)
            >>> [round(x, 6) for x in enc.rank_floor], [round(float(x), 6) for x in enc.rank_gap_bounds(8.0)]
            ([0.5, 0.5], [0.0, 0.0])
        """
        return self._each(t, lambda t: tuple(map(float, above(self.rank_floor, *self._gap(t)))))

    def rate_bounds(self, t: Any) -> Bounds:
        """Return bounds of the instantaneous rate `−L̇/(L − f*) = ‖∇L‖²/(L − f*)` at a time or times."""
        return self._each(t, self._rate)

    def least_eigenvalue_bounds(self, t: Any) -> Bounds:
        """Return bounds of `λ_min(T)` at a time or times, where T acts on all `n×m` matrices.

        Raises:
            ValueError: the product has more than 900 entries, or a time is negative or beyond `end`.
        """
        n, m = self.start.shape
        if n * m > LARGEST_OPERATOR:
            raise ValueError(f"the product has {n * m} entries; λ_min(T) is enclosed for at most {LARGEST_OPERATOR}.")
        return self._each(t, self._least)

    def singular_value_bounds(self, t: Any) -> Bounds:
        """Return bounds of the singular values of the product, in descending order along the last axis."""
        return self._each(t, self._singular)

    def network_at(self, t: float) -> Network:
        """Return the network on the path at a time, rounded to float64.

        At the reduced width, the exact one is within `around(t)[3]` of it: `radius` and this rounding together.
        """
        weights, _ = self._step(checks.positive(t, "t", allow_zero=True)).at(float(t))
        return self.start.with_weights(self.narrowed.expand(weights))

    def against(self, certificate: Promise) -> Check:
        """Check every guarantee against the proof, without tolerance, like `certificate.check(enclosure)`."""
        return check_flow(certificate, self, lambda t: self.rate_bounds(t)[1])

    def around(self, t: float) -> tuple[list[np.ndarray], float, float, float]:
        """Return the narrow weights of the path at a time, bounds of the gap, and a radius around the weights.

        The radius includes the rounding of these weights to float64.
        """
        step = self._step(t)
        weights, errors = step.at(t)
        return weights, *self._gap(t), (step.radius + math.sqrt(float(np.sum(errors**2)))) * UP

    def speed(self, t: float) -> float:
        """Return an upper bound of `‖∇L‖` at a time."""
        return sum(self._speed(self._step(t), t)) * UP

    def _product(self, step: EnclosureStep, t: float) -> tuple[np.ndarray, float]:
        """Return `c W_1 ⋯ W_L` on the path at time t, and a bound of its distance to that of the exact flow."""
        weights, errors = step.at(t)
        W, error = product_error(weights, errors)
        c = self.start.scale
        error = c * (error + 2 * U * float(frobenius(W)))
        return c * W, (error + step.constants.motion * step.radius) * UP

    def _gap(self, t: float) -> tuple[float, float]:
        W, error = self._product(self._step(t), t)
        E = W - self.problem.V
        return self.problem.gap(E, (error + U * float(frobenius(E))) * UP)

    def _rate(self, t: float) -> tuple[float, float]:
        step = self._step(t)
        low, high = self._gap(t)
        if low < 0:  # only if f* is the loss at a minimiser of numerical rank
            return -math.inf, math.inf
        speed, error = self._speed(step, t)
        top = (speed + error) * UP
        bottom = max(0.0, speed - error) * (1 - 1e-12)
        most = top / low * top * UP if low > 0 else math.inf
        return (bottom / high * bottom * (1 - 1e-12) if high > 0 else 0.0), most

    def _speed(self, step: EnclosureStep, t: float) -> tuple[float, float]:
        """Return the computed `‖∇L‖` on the path at time t, and a bound of its distance to that of the exact flow."""
        weights, errors = step.at(t)
        c, problem, constants = self.start.scale, self.problem, step.constants
        G = c * problem.apply(self._product(step, t)[0] - problem.V)
        net = Network([np.asarray(W) for W in weights])
        computed = net.gradient(G)
        speed = math.sqrt(sum(float(np.sum(g * g)) for g in computed))
        # ‖∇²L‖ ≤ K ‖DW‖² + ‖∇f‖ ‖D²W‖ on the tube.
        stiffness = problem.smoothness * constants.motion**2 + constants.slope / c * constants.bend
        moved = step.radius + math.sqrt(float(np.sum(errors**2)))
        # Each entry of the gradient passes through L + 1 products with inner sides up to the widest, and those of ∇f.
        sides = sum(net.widths) + 2 * sum(problem.V.shape) + 4 * net.depth
        sizes = [float(frobenius(W)) for W in weights]
        others = [c * math.prod(sizes[:l] + sizes[l + 1 :]) for l in range(len(sizes))]
        per = math.hypot(*others)
        away = c * math.prod(sizes) + float(frobenius(problem.V))
        slope = problem.lengths[0] * problem.lengths[1] * away
        rounding = per * (gamma(2 * sides) * slope + problem.residue + problem.error * away)
        return speed, (stiffness * moved + rounding + gamma(4 + sum(W.size for W in weights)) * speed) * UP

    def _least(self, t: float) -> tuple[float, float]:
        step = self._step(t)
        weights, errors = step.at(t)
        T, error, v = _operator(weights, self.start.scale)
        low = least_eigenvalue(T, error)
        size = gamma(2 * T.shape[0] + 4) * float(frobenius(T))
        high = (float(v @ (T @ v)) + size) / (float(v @ v) * (1 - gamma(T.shape[0] + 4))) + error
        moved = step.constants.bend * (step.radius + math.sqrt(float(np.sum(errors**2)))) * UP
        low = max(0.0, math.sqrt(max(low, 0.0)) * (1 - 4 * U) - moved) ** 2 * (1 - 4 * U)
        return low, (math.sqrt(max(high, 0.0)) * UP + moved) ** 2 * UP

    def _singular(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        W, error = self._product(self._step(t), t)
        return singular_value_bounds(W, error)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the proof to a NetCDF file (`.nc`), whole or not at all; `linflow.load(path)` reads it back.

        The loaded proof gives the same answers as this one. It is not proved again, and its `notes` say so.

        Raises:
            ValueError: the objective is given by functions, which a file cannot hold.
            OSError, ImportError: as for `linflow.files.save_run`.

        Example:
            >>> import numpy as np, linflow as lf, pathlib, tempfile
            >>> enc = lf.enclose(lf.MatrixFactorization(np.eye(2)), [np.eye(2), 0.5 * np.eye(2)], until=1e-2)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     enc.save(pathlib.Path(folder) / "proof.nc")
            ...     again = lf.load(pathlib.Path(folder) / "proof.nc")
            >>> again.time_bounds(0.1) == enc.time_bounds(0.1)
            True
        """
        from linflow.verified.storage.writing import save_enclosure  # noqa: PLC0415 - xarray is slow to import

        save_enclosure(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Return the proved results as plain data."""
        return super().to_dict() | {"hessians": self.hessians, "scale": self.start.scale}


def _operator(weights: Sequence[np.ndarray], scale: float) -> tuple[np.ndarray, float, np.ndarray]:
    """Return T as a matrix, a bound of its error, and the computed eigenvector of its least eigenvalue."""
    net = Network([np.asarray(W) for W in weights], scale)
    n, m = net.shape
    T, error = np.zeros((n * m, n * m)), 0.0
    sizes = [float(frobenius(W)) for W in weights]
    depth, widest = len(weights), max(net.widths)
    for l, (P, S) in enumerate(zip(net.prefixes(), net.suffixes(), strict=True)):
        left = np.eye(n) if P is None else P @ P.T
        right = np.eye(m) if S is None else S.T @ S
        T += np.kron(left, right)
        others = math.prod(sizes[:l] + sizes[l + 1 :]) ** 2
        # Every entry passes through at most 2L products with inner sides up to the widest, then a product and a sum.
        error += (
            gamma(2 * depth * widest + depth + 4)
            * others
            * (math.sqrt(n) if P is None else 1.0)
            * (math.sqrt(m) if S is None else 1.0)
        )
    T = scale * scale * (T + T.T) / 2
    error = scale * scale * error * UP + 8 * U * float(frobenius(T)) + TINY
    return T, error, np.linalg.eigh(T)[1][:, 0]
