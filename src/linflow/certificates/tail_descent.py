"""Guarantees for gradient descent on losses with a tail, such as the exponential one: the gap falls like 1/k."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linflow._support.arrays import EPS
from linflow.certificates._base import Guarantee
from linflow.certificates.curves import StepCurve
from linflow.certificates.lazy import interaction, products_without
from linflow.certificates.setting import NO_SMOOTHNESS, Setting
from linflow.certificates.step_bounds import COUNTED, STRICT, DescentBounds, scan
from linflow.certificates.tail import NO_FLOOR, NOT_FINITE, tail_facts, tail_name
from linflow.model.tails import Tail

NO_CURVATURE = "the weights grow for ever, and no bound on the curvature falls with the gap; declare tail_smoothness="
FINE, COARSE, BELOW = 1 / 32, 1 / 4, 40.0
"""Levels `ℓ(0) e^{−u}`: u in steps of FINE up to 2L, as `e^{−u} u^{2(L−1)}` is largest before it, and of COARSE from
there on, to BELOW more than is needed."""
SHARES = (0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The shares q of the first-order decrease among which a step is looked for."""


@dataclass(frozen=True, repr=False)
class TailStepCurve(StepCurve):
    """`F(ℓ_{k+1}) ≤ F(ℓ_k) − τ αγ²`, `F' = 1/ψ²`: k steps do at least what the flow does in the time of all τ.

    Attributes:
        decrease: 0: no factor is kept by every step.
        tail: the inequality `‖∇f‖ ≥ γψ`.
        alpha: floor of `λ_min(T)`.
        counts: numbers of steps after which τ changes, increasing from 0.
        gaps: bound on the gap after each of these numbers of steps.
        spans: τ from each of them on.
    """

    tail: Tail
    alpha: float
    counts: np.ndarray
    gaps: np.ndarray
    spans: np.ndarray

    def __repr__(self) -> str:
        return f"TailStepCurve(step {self.step_size:.4g}, {self.tail!r}, α={self.alpha:.4g})"

    @classmethod
    def of(cls, tail: Tail, alpha: float, levels: np.ndarray, spans: np.ndarray, step_size: float) -> TailStepCurve:
        """Return the curve with τ = `spans[k]` once the gap is at most `levels[k]`."""
        first = u = float(levels[0])
        rows, count = [], 0.0
        while True:
            k = int(np.searchsorted(-levels, -u, side="right")) - 1
            rows.append((count, u, float(spans[k])))
            if k == len(levels) - 1:
                break
            n = steps_of(tail, alpha, u, float(levels[k + 1]), rows[-1][2])
            if not count + n < COUNTED:
                break
            u = min(tail.gap(u, n * rows[-1][2], alpha), float(levels[k + 1]))
            count += n
        counts, gaps, kept = (np.array(column) for column in zip(*rows, strict=True))
        return cls(first, step_size, 0.0, tail, alpha, counts, gaps, kept)

    def gap_after(self, k: float) -> float:
        """Return the bound after k steps."""
        k = k if k < COUNTED else k * (1 - 4 * EPS)
        i = int(np.searchsorted(self.counts, k, side="right")) - 1
        passed = (k - float(self.counts[i])) * float(self.spans[i]) * (1 - 4 * EPS)
        return self.tail.gap(float(self.gaps[i]), passed, self.alpha)

    def steps(self, gap: float) -> float:
        """Return a number of steps after which the gap is at most `gap`; inf if it leaves float64."""
        if gap >= self.first:
            return 0
        i = int(np.searchsorted(-self.gaps, -gap, side="left")) - 1
        k = float(self.counts[i]) + steps_of(self.tail, self.alpha, float(self.gaps[i]), gap, float(self.spans[i]))
        if i + 1 < len(self.counts):
            k = min(k, float(self.counts[i + 1]))
        return k if math.isinf(k) else math.ceil(k * (1 + 8 * EPS)) if k >= COUNTED else int(k)

    def rate_at(self, gap: float) -> float:
        """Return the mean rate over a step, `−log(1 − τα (γψ(gap))²/gap)/η`, which falls to 0 with the gap."""
        i = max(int(np.searchsorted(-self.gaps, -gap, side="right")) - 1, 0)
        fall = float(self.spans[i]) * self.alpha * self.tail.constant_on(gap) ** 2 * gap
        return -math.log1p(-min(fall, 1 - EPS)) / self.step_size


def steps_of(tail: Tail, alpha: float, first: float, gap: float, span: float) -> float:
    """Return the fewest steps, each worth the time `span` of the flow, from one gap to another; 1 or more."""
    n = tail.time(first, gap, alpha) / span * (1 + 4 * EPS)
    return max(1.0, float(math.ceil(n))) if n < math.inf else math.inf


@dataclass(frozen=True)
class HeldTail:
    """What holds at every step of a descent with one step size.

    Attributes:
        step_size: η.
        share: q, with `1 − ηβ/2 ≥ q` at every step.
        drift: δ, cap on `‖D_l(k) − D_l(0)‖`.
        alpha: floor of `λ_min(T)`.
        betas: caps on the curvature along the steps once the gap is at most each level.
    """

    step_size: float
    share: float
    drift: float
    alpha: float
    betas: np.ndarray

    @property
    def spans(self) -> np.ndarray:
        """The time `η(1 − ηβ/2)` of the flow that a step is worth, at each level."""
        return self.step_size * (1 - self.step_size * self.betas / 2) / STRICT


class TailDescent:
    """Caps and floors for a descent on a loss with a tail, whose weights grow like the logarithm of `1/ℓ`.

    Args:
        setting: the objective, with a tail, and the start.
    """

    def __init__(self, setting: Setting):
        self.setting, tail = setting, setting.objective.tail
        assert tail is not None
        self.tail = tail

    @cached_property
    def why(self) -> str:
        """The reason why nothing is certified from this start with any step; "" if there is none."""
        setting, f = self.setting, self.setting.objective
        known = (
            (math.isfinite(setting.gap), NOT_FINITE),
            (setting.gap > 0, "the loss gap at the start is 0"),
            (not setting.beyond_float64, setting.beyond_float64),
            (math.isfinite(f.smoothness_on(setting.gap)), NO_SMOOTHNESS),
            (setting.depth == 1 or math.isfinite(f.tail_smoothness), NO_CURVATURE),
        )
        for good, reason in known:
            if not good:
                return reason
        if not (self.levels[-1] > 1e-300 and math.isfinite(float(self._path[-1]))):
            return f"the loss gap at the start is {setting.gap:.3g}, out of reach of float64; rescale the data"
        return "" if self.alpha(0.0) > 0 else NO_FLOOR

    @cached_property
    def levels(self) -> np.ndarray:
        """Gaps from that of the start, rounding included, down to where the curvature falls for certain."""
        first = self.setting.gap + self.setting.objective.rounding(self.setting.network)
        change = 2.0 * self.setting.depth
        end = max(math.log(first), 0.0) + BELOW + 4 * change
        return first * np.exp(-np.concatenate([np.arange(0.0, change, FINE), np.arange(change, end + 1, COARSE)]))

    @cached_property
    def _path(self) -> np.ndarray:
        """`∫ dℓ/(γψ(ℓ))` from the start down to each level."""
        return self.tail.path(float(self.levels[0]), self.levels) * STRICT

    @cached_property
    def _constants(self) -> tuple[np.ndarray, np.ndarray]:
        """Curvature and slope of the objective on each level."""
        f = self.setting.objective
        return np.array([f.smoothness_on(y) for y in self.levels]), np.array([f.steepest_on(y) for y in self.levels])

    @cached_property
    def _bounds(self) -> DescentBounds:
        return DescentBounds(self.setting, nearby=False)

    def alpha(self, drift: float) -> float:
        """Return a floor of `λ_min(T)` for all weights within a drift, whatever their product."""
        return float(self._bounds.alphas(drift, 1)[0])

    def betas(self, share: float, alpha: float) -> np.ndarray:
        """Return caps on the curvature along the steps once the gap is at most each level.

        At a gap y the weights are within `R(y) = ∫_y^{ℓ(0)} dℓ/(q sqrt(α) γψ(ℓ))` of the start. There
        `β = K(y) λ_max(T) + G(y) c λ_max(C)`, with K(y) and G(y) the curvature and slope of f on its level.
        """
        (K, G), c, depth, norms = self._constants, self.setting.scale, self.setting.depth, self._bounds.norms
        if depth == 1:
            return K * c * c * STRICT
        reach = self._path / (share * math.sqrt(alpha))
        with np.errstate(over="ignore", invalid="ignore"):
            omega = norms[:, None] + reach
            total = (math.sqrt(float(np.sum(norms**2))) + reach) ** 2  # of the squared norms of all layers
            product = sum(products_without(omega, i) ** 2 for i in range(depth))
            greatest = c * c * np.minimum(product, depth * (total / depth) ** (depth - 1))
            bent = c * interaction(omega)
            # Between two levels: the curvature of f at the upper one, the weights at the lower one. Below the last:
            # κ y λ_max(T) and sqrt(2κ) y c λ_max(C) fall with y.
            kappa, last = self.setting.objective.tail_smoothness, float(self.levels[-1])
            beta = np.append(
                K[:-1] * greatest[1:] + G[:-1] * bent[1:],
                last * (kappa * greatest[-1] + math.sqrt(2 * kappa) * bent[-1]),
            )
        beta = np.nan_to_num(beta, nan=math.inf, posinf=math.inf) * STRICT
        return np.maximum.accumulate(beta[::-1])[::-1]

    def at(self, eta: float) -> HeldTail | None:
        """Return what holds at every step of size η, or None if η is not certified."""
        first, drift, share = float(self.levels[0]), 0.0, 1.0
        for _ in range(300):
            alpha = self.alpha(drift)
            if alpha <= 0:
                return None
            betas = self.betas(share, alpha)
            left = (1 - eta * float(betas[0]) / 2) / STRICT
            wanted = eta * first / share * STRICT if self.setting.depth > 1 else 0.0
            if left >= share and wanted <= drift:
                return HeldTail(eta, share, drift, alpha, betas)
            if left <= 1e-6:
                return None
            share = share if left >= share else left * (1 - 1e-3)
            drift = max(drift, wanted * (1 + 1e-3))
        return None

    def _steps(self, drift: float) -> list[tuple[float, float]]:
        """Return `ηqα` and η for the longest step of each share q that stays within a drift."""
        alpha = self.alpha(drift)
        if alpha <= 0:
            return [(0.0, 0.0)]
        found = []
        for q in SHARES:
            eta = 2 * (1 - q) / float(self.betas(q, alpha)[0])
            if self.setting.depth > 1:
                eta = min(eta, q * drift / float(self.levels[0]))
            found.append((eta * q * alpha, eta / STRICT**2))
        return found

    def _scan(self, entry: int) -> tuple[float, float]:
        """Return the pair of `_steps` with the largest entry, over all drifts."""
        if self.setting.depth == 1:
            return max(self._steps(0.0), key=lambda pair: pair[entry])
        unit = float(self.levels[0]) / float(self.betas(0.5, self.alpha(0.0))[0])

        def score(x: float) -> tuple[float, float]:
            best = max(self._steps(unit * 10.0**x), key=lambda pair: pair[entry])
            return best[entry], best[1 - entry]

        found = scan(score)
        return found[entry], found[1 - entry]

    @cached_property
    def largest(self) -> float:
        """About the largest step that is certified; 0 if there is none."""
        return 0.0 if self.why else self._scan(1)[1]

    def advise(self) -> float:
        """Return the step with the largest certified decrease at the initial gap; 0 if there is none."""
        eta = 0.0 if self.why else self._scan(0)[1] * (1 - 1e-3)
        for _ in range(100):
            if eta == 0 or self.at(eta) is not None:
                return eta
            eta *= 0.98
        return 0.0

    def guarantee(self, eta: float) -> Guarantee:
        """Return the guarantee for descent with the step η, or the reason why there is none."""
        reason, curve, facts, setting = self.why, None, tail_facts(self.setting, self.tail), self.setting
        held = None if reason else self.at(eta)
        if held is not None:
            curve = TailStepCurve.of(self.tail, held.alpha, self.levels, held.spans, eta)
            facts |= {"α": held.alpha, "β": float(held.betas[0]), "drift cap": held.drift}
        elif not reason:
            reason = f"the step {eta:.4g} is too large: about {self.largest:.4g} is certified; take safe_step_size"
        return setting.guarantee(
            name=f"{tail_name(setting)}, descent",
            source="linflow, docs/tails.md",
            citation=("linflow", *sorted(setting.objective.citations)),
            reason=reason,
            curve=curve,
            facts=facts,
        )
