"""Guarantees before a run with all rounding proved: the result of `certify(…, rigorous=True)`.

Every number behind a guarantee is bounded from the safe side. Residuals bound the eigenvalues of the imbalances and
the singular values. γ, the initial loss gap and λ_min(T) of the start have proved bounds. The formulas that follow
are evaluated with allowances that cover their rounding. Proofs: docs/verified.md, section 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from linflow import bounds
from linflow._support.arrays import is_numpy, to_numpy
from linflow.bounds import Bound, Invariants
from linflow.bounds._base import Spectrum
from linflow.certificates import Certificate, Guarantee
from linflow.certificates.curves import LevelCurve
from linflow.certificates.envelope import envelope, gap_levels
from linflow.certificates.lazy import GRID, Neighbourhood
from linflow.model.network import Network
from linflow.verified.chain_floors import DOWN, LEAST, chain_floors
from linflow.verified.enclosure import LARGEST_OPERATOR, _operator
from linflow.verified.log_norm import greatest
from linflow.verified.march import product_error
from linflow.verified.problem import AffineGradient, affine_gradient
from linflow.verified.rounding import TINY, UP, U, frobenius, gamma, least_eigenvalue, spectral
from linflow.verified.spectra import imbalance_bounds, singular_value_bounds

SURE = 1 - 1e-11
"""Factor for rates and radii. It covers the rounding of their comparison and summation over the gap levels."""

INCLUDED = "float64 numbers, rounding included and proved"
NOT_PROVED = "its rounding is not proved; call certify without rigorous=True for it"
DESCENT = 'rounding is proved for the flow only; lf.enclose(…, algorithm="descent") proves one run of descent'

PROVED = ("two layers", "two layers, n = m", "three layers, Δ*", "any depth, imbalance only")
"""Theorems whose formulas are evaluated with their rounding bounded, besides operator floors."""


@dataclass(frozen=True, repr=False)
class RigorousCertificate(Certificate):
    """A certificate whose guarantees hold for the exact numbers, rounding included.

    Attributes:
        gamma: proved lower bound of the gradient dominance γ.
    """

    gamma: float = 0.0

    @property
    def pl_constant(self) -> float:
        """Proved lower bound of the gradient dominance γ."""
        return self.gamma

    @property
    def rests_on(self) -> str:
        """What the guarantees rest on."""
        return INCLUDED

    @property
    def baseline(self) -> Guarantee:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model without overparametrization. It does not apply here, because its rounding is not proved."""
        return _without(super().baseline, NOT_PROVED)

    @property
    def prior(self) -> tuple[Guarantee, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The guarantees of published results. None applies here, because their rounding is not proved."""
        return tuple(_without(row, NOT_PROVED) for row in super().prior)


@dataclass(frozen=True, repr=False)
class SureCurve(LevelCurve):
    """A decay that starts at an upper bound of the initial gap. Its times refer to fractions of a lower bound.

    Attributes:
        known: lower bound of the initial gap divided by the upper bound; 0 if no lower bound is known.
    """

    known: float = 0.0

    def time(self, gap: float) -> float:
        """Return a time by which the gap is at most `gap`, and at most this fraction of any possible initial gap."""
        return super().time(gap * self.known) if gap < self.levels[0] else 0.0


def rigorously(certificate: Certificate) -> RigorousCertificate:
    """Return the certificate with all rounding proved. A guarantee that does not hold then states its reason."""
    gamma_, gap, reason = 0.0, certificate.gap, DESCENT if certificate.algorithm == "descent" else ""
    if not certificate.optimizer.plain:
        reason = reason or f"rounding is proved for the plain flow only, not for {certificate.optimizer}"
    found = list(certificate.guarantees)
    try:
        problem = affine_gradient(certificate.objective)
    except ValueError:
        reason = reason or "only guarantees for quadratic objectives are offered with rounding proved"
    else:
        gamma_ = 2 * problem.least * (1 - 4 * U)
        if not problem.full:
            reason = reason or "the objective could not be proved to be strongly convex, rounding included"
        if not reason:
            start = _Start.of(problem, certificate.start)
            gap, found = start.gap[1], [start.proved(g, gamma_) for g in found]
    if reason:
        found = [_without(g, reason) for g in found]
    order = sorted(found, key=lambda g: (not g.applies, g.time_to(1e-6), g.time_to(1e-2)))
    return RigorousCertificate(
        tuple(order),
        certificate.objective,
        certificate.start,
        gap,
        certificate.algorithm,
        certificate.step_size,
        certificate.notes,
        certificate.schedule,
        certificate.optimizer,
        gamma=gamma_,
    )


def _without(guarantee: Guarantee, reason: str) -> Guarantee:
    """Return a guarantee as one that does not apply. If it did not apply before, it keeps its reason."""
    return replace(guarantee, curve=None, reason=reason if guarantee.applies else guarantee.reason, facts={})


@dataclass(frozen=True)
class _Start:
    """A start, with proved bounds of the numbers behind its guarantees.

    Attributes:
        weights: the layers.
        scale: output scale c.
        gap: bounds of the initial loss gap; the upper one is rounded up once more.
        levels: gaps; the first is the upper bound of the initial gap.
        floors: lower bounds of `λ_min(T)` at each level, by the name of the theorem.
        nearby: floors of `λ_min(T)` on balls around the start.
    """

    weights: list[np.ndarray]
    scale: float
    gap: tuple[float, float]
    levels: np.ndarray
    floors: dict[str, np.ndarray]
    nearby: Neighbourhood

    @classmethod
    def of(cls, problem: AffineGradient, network: Network) -> _Start:
        weights = [np.ascontiguousarray(W if is_numpy(W) else to_numpy(W), dtype=np.float64) for W in network.weights]
        c = network.scale
        W, error = product_error(weights, [0.0] * len(weights))
        off = (c * (error + 2 * U * float(frobenius(W))) + U * float(frobenius(c * W - problem.V))) * UP
        low, high = problem.gap(c * W - problem.V, off)
        high *= UP  # so that the rounding of a bound at any time stays below it
        levels = gap_levels(high) if high > 0 else np.zeros(1)
        floors = _floors(_invariants(levels, problem, weights, c), weights, c) if len(weights) > 1 else {}
        return cls(weights, c, (low, high), levels, floors, neighbourhood(weights, c))

    def proved(self, guarantee: Guarantee, gamma_: float) -> Guarantee:
        """Return the guarantee with all rounding proved, or one that does not apply, with the reason."""
        name = guarantee.name
        if name == "one layer":
            floors, nearby = np.full(len(self.levels), self.scale * self.scale * (1 - 4 * U)), None
        elif name in self.floors:
            floors, nearby = np.full(len(self.levels), self.floors[name][0]), None
        elif name == "envelope":
            floors, nearby = np.max([np.zeros(len(self.levels)), *self.floors.values()], axis=0), self.nearby
        elif name == "lazy regime":
            floors, nearby = np.zeros(len(self.levels)), self.nearby
        else:
            return _without(guarantee, NOT_PROVED)
        # A theorem whose hypothesis does not hold has no floors.
        if not guarantee.applies:
            return _without(guarantee, guarantee.reason)
        curve = envelope(self.levels, gamma_, floors, nearby) if gamma_ > 0 and self.gap[1] > 0 else None
        if curve is None or curve.rate <= 0:
            return _without(guarantee, "with its rounding proved it gives no rate that is kept for ever")
        known = max(0.0, self.gap[0] / self.gap[1] * DOWN)
        sure = SureCurve(curve.levels, curve.rates * SURE, known)
        facts = {"final rate": sure.final_rate} if name == "envelope" else {}
        return replace(guarantee, curve=sure, gap=self.gap[1], facts=facts)


def _invariants(levels: np.ndarray, problem: AffineGradient, weights: list[np.ndarray], c: float) -> Invariants:
    """Return bounds on imbalances and singular values of all weights of the run with a gap of at most each level."""
    ends = [imbalance_bounds(A, B) for A, B in pairwise(weights)]
    # The floors of the formulas are sums of a few of these. Their rounding is subtracted here.
    largest = max(float(max(abs(low[-1]), abs(high[0]), TINY)) for low, high in ends)
    room = (16 * len(weights) ** 2 + 64) * U * largest * UP
    spectra = tuple(Spectrum(low - room, high + room) for low, high in ends)
    # ½μ‖W − W*‖² ≤ ℓ, and the exact W* is within ‖R‖/μ of the computed one.
    mu = problem.least
    s_low, s_high = singular_value_bounds(problem.V, problem.residue / mu * UP)
    reach = np.sqrt(2 * levels / mu) * UP
    low, high = np.maximum(s_low[-1] - reach, 0.0) * DOWN / c, (s_high[0] + reach) * UP / c
    following = np.maximum(s_low[-2] - reach, 0.0) * DOWN / c if len(s_low) > 1 else np.full(len(levels), math.inf)
    size = max(float(frobenius(W)) for W in weights) ** 2
    widths = (weights[0].shape[0], *(W.shape[1] for W in weights))
    return Invariants(widths, spectra, low[-1], low[-1], high[0], size, room).at(low, high, following)


def _floors(invariants: Invariants, weights: list[np.ndarray], c: float) -> dict[str, np.ndarray]:
    """Return floors of `λ_min(T)` at each level, by the name of the theorem."""
    rows = [row for row in bounds.evaluate(invariants, c) if row.name in PROVED and row.applies]
    floors = {row.name: _lowered(row, weights, c) for row in rows}
    if invariants.depth > 2:
        sigma = np.asarray(invariants.sigma_min)
        chains = chain_floors(invariants.spectra, invariants.n, invariants.m, sigma)
        floors["any depth, operator floors"] = chains * c * c * DOWN
    return floors


def _lowered(row: Bound, weights: list[np.ndarray], c: float) -> np.ndarray:
    """Return the value of a bound minus the rounding of its formula."""
    value = to_numpy(row.value) * DOWN
    if row.name == "three layers, Δ*":  # the one formula that subtracts squares
        hidden = max(W.shape[1] for W in weights[:-1])
        size = sum(float(frobenius(W)) ** 2 for W in weights)
        value = value - 100 * (hidden + 8) * hidden * hidden * U * (c * size) ** 2
    return np.where(value >= LEAST * c * c, value, 0.0)


def neighbourhood(weights: list[np.ndarray], c: float) -> Neighbourhood:
    """Return the `Neighbourhood` of these weights: floors of `λ_min(T)` on balls around them, rounding included."""
    root = math.sqrt(least_of_operator(weights, c)) * DOWN
    norms = np.array([spectral(W) for W in weights])
    slope = c * _interaction(norms)
    if root == 0.0 or not slope > 0.0:
        end = math.inf if len(weights) == 1 else 0.0
        return Neighbourhood(np.array([0.0, end]), np.array([root**2, root**2]) * DOWN)
    radii = (np.arange(GRID + 1) / GRID) ** 2 * (root / slope)
    slopes = np.array([c * _interaction(norms + r) for r in radii[1:]])
    change = np.concatenate([[0.0], np.cumsum(np.diff(radii) * slopes)]) * UP
    return Neighbourhood(radii * SURE, np.maximum(root - change, 0.0) ** 2 * DOWN)


def least_of_operator(weights: list[np.ndarray], c: float) -> float:
    """Return a proved lower bound of `λ_min(T)` of these weights.

    It bounds the eigenvalue itself for one and two layers, and if T has at most 900 rows. Otherwise it uses
    `Σ λ_n(PPᵀ) λ_m(SᵀS)`.
    """
    n, m = weights[0].shape[0], weights[-1].shape[1]
    if len(weights) == 1:
        return c * c * (1 - 4 * U)
    if len(weights) == 2:
        return max(0.0, (_least(weights[0]) + _least(weights[1].T)) * c * c * DOWN)
    if n * m <= LARGEST_OPERATOR:
        T, error, _ = _operator(weights, c)
        return max(0.0, least_eigenvalue(T, error))
    total = 0.0
    for l in range(len(weights)):
        before = _least(*weights[:l]) if l else 1.0
        after = _least(*(W.T for W in reversed(weights[l + 1 :]))) if l + 1 < len(weights) else 1.0
        total += before * after
    return total * c * c * DOWN


def _least(*factors: np.ndarray) -> float:
    """Return a lower bound of `λ_min(PPᵀ)`, at least 0, for the product P of the factors."""
    P, error = product_error(list(factors), [0.0] * len(factors))
    if P.shape[0] > P.shape[1]:
        return 0.0
    length = float(frobenius(P))
    gram = P @ P.T
    off = gamma(P.shape[1] + 2) * length * length + error * (2 * length + error)
    return max(0.0, least_eigenvalue((gram + gram.T) / 2, off * UP + TINY))


def _interaction(norms: np.ndarray) -> float:
    """Return an upper bound of `λ_max(C)`, `C_ij = Π_{k≠i,j} x_k` with zero diagonal."""
    L = len(norms)
    C = np.zeros((L, L))
    for i in range(L):
        for j in range(i):
            C[i, j] = C[j, i] = math.prod(norms[k] for k in range(L) if k not in (i, j))
    return greatest(C) * UP
