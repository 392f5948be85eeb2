"""Bounds along a whole gradient descent: caps on drift, norms and curvature, and floors of `λ_min(T)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from linflow._support.arrays import EPS, is_numpy, to_numpy
from linflow._support.words import plural
from linflow.bounds import Invariants, Theorem, any_imbalance, three_layers, two_layers
from linflow.bounds._base import Spectrum
from linflow.bounds.operator_floors import THEOREM as OPERATOR_FLOORS
from linflow.bounds.operator_interval import THEOREM as OPERATOR_INTERVAL
from linflow.certificates.caps import Caps
from linflow.certificates.curves import StepCurve, decayed, steps_to_decay
from linflow.certificates.lazy import Neighbourhood, products_without, spectral_norms
from linflow.certificates.margin import most_of_least
from linflow.certificates.setting import Setting
from linflow.geometry.operator import DENSE_LIMIT, TangentOperator
from linflow.model.network import Network

NO_CAPS = "no bound on the weights along the run is known: it needs μ and W*, or a start near the optimum"

BALLS, CELLS = 64, 8
COUNTED = 2**53
"""Below this, step counts are exact integers. Above it they are rounded, and the rounding is allowed for."""
STRICT = 1 + 1e-9
"""The factor by which every strict inequality must hold; it also covers the rounding of both sides."""


@dataclass(frozen=True, repr=False)
class LevelStepCurve(StepCurve):
    """`ℓ_{k+1} ≤ (1 − d(ℓ_k)) ℓ_k` with a decrease d that depends on the gap.

    `u_{k+1} = max_{y ≤ u_k} (1 − d(y)) y` from `u_0 = ℓ(0)` stays above the gap, because that map increases.

    Attributes:
        decrease: the smallest decrease, kept by every step.
        counts: numbers of steps after which the decrease changes, increasing from 0.
        gaps: `u` after each of these numbers of steps.
        decreases: the decrease from each of them on.
    """

    counts: np.ndarray
    gaps: np.ndarray
    decreases: np.ndarray

    def __repr__(self) -> str:
        least, most = self.decreases.min(), self.decreases.max()
        levels = f"{plural(len(self.counts), 'level')}, decreases {least:.4g} to {most:.4g} a step"
        return f"LevelStepCurve(step {self.step_size:.4g}, {levels})"

    @classmethod
    def of(cls, levels: np.ndarray, decreases: np.ndarray, step_size: float) -> LevelStepCurve:
        """Return the curve that falls by `decreases[k]` in `(levels[k+1], levels[k]]`, and by the last one below."""
        rows: list[tuple[float, float, float]] = []
        follow(levels, decreases, float(levels[0]), 0, None, rows)
        counts, gaps, kept = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
        return cls(float(levels[0]), step_size, float(decreases.min()), counts, gaps, kept)

    @property
    def final_factor(self) -> float:
        """The factor once the gap is below the last level."""
        return float(1 - self.decreases[-1])

    def gap_after(self, k: float) -> float:
        """Return the bound after k steps."""
        k = k if k < COUNTED else k * (1 - 4 * EPS)
        i = int(np.searchsorted(self.counts, k, side="right")) - 1
        return decayed(float(self.gaps[i]), float(self.decreases[i]), k - float(self.counts[i]))

    def steps(self, gap: float) -> float:
        """Return a number of steps after which the gap is at most `gap`; inf if it leaves float64."""
        if gap >= self.first:
            return 0
        i = int(np.searchsorted(-self.gaps, -gap, side="left")) - 1
        try:
            k = int(self.counts[i]) + max(1, steps_to_decay(float(self.gaps[i]), gap, float(self.decreases[i])))
        except OverflowError:
            return math.inf
        if i + 1 < len(self.counts):
            k = min(k, int(self.counts[i + 1]))
        return k if k < COUNTED else math.ceil(k * (1 + 8 * EPS))


def follow(levels: np.ndarray, d: np.ndarray, u: float, t: float, end: int | None, rows: list) -> float:
    """Return u at step `end` from u at step t, with the decrease of each level; append each piece `(t, u, d)`."""
    tops = np.minimum(levels * (1 - d) * (1 + 4 * EPS), levels)
    ahead = np.maximum.accumulate(tops[::-1])[::-1]  # max (1 − d(y)) y from a level on
    while end is None or t < end:
        k = max(int(np.searchsorted(-levels, -u, side="right")) - 1, 0)
        decrease = float(d[k])
        rows.append((t, u, decrease))
        if k == len(levels) - 1 or decrease <= 0:
            return u if end is None or decrease <= 0 else decayed(u, decrease, end - t)
        level = float(levels[k + 1])
        try:
            n = max(1, steps_to_decay(u, level, decrease))
        except OverflowError:
            return u if end is None else decayed(u, decrease, end - t)
        if end is not None and t + n > end:
            return decayed(u, decrease, end - t)
        u, t = min(max(decayed(u, decrease, n), float(ahead[k + 1])), level), t + n
    return u


@dataclass(frozen=True)
class Held:
    """Caps and floors that hold at every step of a descent with one step size.

    Attributes:
        step_size: η.
        drift: δ, cap on `‖D_l(k) − D_l(0)‖`.
        radius: cap on the length of the path in weight space, inf if none is known.
        caps: `‖W_l‖ ≤ caps[l]`, shape `(L,)`.
        betas: caps on the curvature along the steps once the gap is at most each level.
        alphas: floors of `λ_min(T)` while the gap is between each level and the next, and below the last.
    """

    step_size: float
    drift: float
    radius: float
    caps: np.ndarray
    betas: np.ndarray
    alphas: np.ndarray

    def decreases(self, gamma: float | np.ndarray) -> np.ndarray:
        """Return `η(1 − ηβ/2)γα` for each level, lowered for rounding; the factor per step is 1 minus this."""
        eta = self.step_size
        return np.minimum(eta * self.alphas * (1 - eta * self.betas / 2) * gamma / STRICT, 1.0)


class DescentBounds:
    """Caps and floors for a descent that never raises the loss, as functions of the drift of its imbalances.

    Args:
        setting: the objective, with finite smoothness, and the start.
        theorems: the bounds on `λ_min(T)` to use; if omitted, all that stay valid under a drift.
        nearby: whether to use the floors on balls around the start.
    """

    def __init__(
        self,
        setting: Setting,
        theorems: Sequence[Theorem] | None = None,
        *,
        nearby: bool = True,
    ):
        self.setting, seen, net = setting, setting.objective, setting.network
        self.gap, self.K, self.gamma, self.levels = setting.gap, seen.smoothness, setting.gamma, setting.levels
        self.gammas = setting.gammas
        low, following, high = setting.ranges
        noise, c = seen.rounding(net), net.scale
        if not is_numpy(net.weights[0]):
            net = net.restricted([to_numpy(W) for W in net.weights])
        known = setting.invariants if net is setting.network else Invariants.of(net)
        self.network, self.high = net, high / c
        self.slopes = np.sqrt(2 * self.K * (self.levels + noise))  # ‖∇f‖ ≤ sqrt(2Kℓ)
        most = most_of_least(seen, setting.network, self.levels) / c
        self.invariants = known.at(low / c, self.high, following / c, most)
        self.theorems = _robust(net.depth) if theorems is None else list(theorems)
        self.norms, self._lost = spectral_norms(net), math.inf
        around = setting.nearby if nearby and net.depth > 1 and self.gamma > 0 else None
        self._radii, self._floors = _positive_part(around)
        self._chosen = np.unique(np.linspace(0, len(self._radii) - 1, BALLS).astype(int)) if len(self._radii) else []
        roots = np.sqrt(self._floors[self._chosen])
        # No singular value of E ↦ (P_{l−1}ᵀ E S_{l+1}ᵀ)_l moves by more than the bound on the fall of the least.
        ceilings = (math.sqrt(_ceiling(net, self.norms)) + roots[:1] - roots) ** 2
        self.radii = np.append(self._radii[self._chosen], math.inf)  # the last ball is the whole space
        self.floors, self.ceilings = np.append(self._floors[self._chosen], 0.0), np.append(ceilings, math.inf)

    def _reach(self, alpha: float) -> np.ndarray:
        """Return a lower bound on `∫_0^r sqrt(γ max(κ, α))` for each radius, with κ the known floors."""
        rates = np.sqrt(self.gamma * np.maximum(self._floors, alpha))
        return np.concatenate([[0.0], np.cumsum(np.diff(self._radii) * rates[1:])]) / STRICT

    def caps(self, drift: float, high: np.ndarray) -> Caps:
        """Return caps on the norms for all weights within a drift and with `‖W‖/c ≤ high`."""
        return Caps.under(self._spectra(drift, drift), high, STRICT)

    def _spectra(self, fall: Any, rise: Any) -> tuple[Spectrum, ...]:
        """Return spectra that contain all imbalances after a fall and a rise of at most these sizes.

        Falls and rises of shape `(N, 1)` give N spectra at once, of shape `(h, N, 1)`.
        """
        spectra = self.invariants.spectra
        return tuple(Spectrum(np.subtract.outer(D.lower, fall), np.add.outer(D.upper, rise)) for D in spectra)

    def curvature(self, caps: Caps, ceiling: np.ndarray, count: int | None, eta: float) -> np.ndarray:
        """Return `β = K λ_max(T) + sqrt(2Kℓ) c λ_max(C)` on the first levels, for caps on norms.

        `λ_max(T)` is at most `c² Σ_l ‖P_{l−1}‖² ‖S_{l+1}‖²` and at most the ceiling. β does not depend on η here.
        """
        c = self.network.scale
        with np.errstate(over="ignore", invalid="ignore"):
            greatest = np.minimum(c**2 * caps.greatest(), ceiling)
            beta = self.K * greatest + self.slopes[:count] * c * caps.interaction()
            return np.nan_to_num(beta, nan=math.inf, posinf=math.inf) * STRICT

    def alphas(self, drift: float, count: int | None = None) -> np.ndarray:
        """Return floors of `λ_min(T)` on the first levels, for all weights within a drift.

        The search for a step asks for the first levels many times, without the program of the operator interval.
        For two layers, `D` falls by at most `a_2` and rises by at most `a_1`, with `a_l = η² Σ_k ‖G_l‖_F²` and
        `a_1 + a_2` within the drift. The floor is the least over a grid of cells that covers all such `(a_1, a_2)`.
        """
        c2, base = self.network.scale**2, self.invariants
        zero = np.zeros(len(self.levels[:count]))
        if self.network.depth == 1:
            return zero + c2
        fall = rise = drift
        if self.network.depth == 2 and drift > 0:
            cells = np.arange(CELLS)[:, None]
            fall, rise = drift * (cells + 1) / CELLS, drift * (1 - cells / CELLS)
        inv = replace(
            base,
            spectra=self._spectra(fall, rise),
            sigma_min=base.sigma_min[:count],
            sigma_next=base.sigma_next[:count],
            sigma_max=base.sigma_max[:count],
            sigma_min_most=None if base.sigma_min_most is None else base.sigma_min_most[:count],
        )
        best = zero
        for theorem in self.theorems:
            if theorem.hypothesis(inv) is None and (count is None or theorem is not OPERATOR_INTERVAL):
                best = np.maximum(best, c2 * to_numpy(theorem.evaluate(inv)))
        return np.maximum.accumulate(np.min(best.reshape(-1, len(zero)), axis=0))

    def _floor(self, drift: float) -> float:
        """Return the floor at the initial gap. Floors fall as the drift grows, so none is looked for after a 0."""
        floor = 0.0 if drift >= self._lost else float(self.alphas(drift, 1)[0])
        self._lost = self._lost if floor > 0 else min(self._lost, drift)
        return floor

    def _start(self, drift: float, eta: float = 0.0, *, floors: bool = True) -> tuple[np.ndarray, ...]:
        """Return β and α on each ball at the initial gap, and a limit on η: below it the path stays inside.

        A ball of radius r fits if `∫_0^r (1 − ηβ(s)/2) sqrt(γα(s)) ds > 2 sqrt(ℓ)`, with β(s) and α(s) on the ball of
        radius s. The whole space has no limit. Without floors, only its β is computed, and α is 0.
        """
        balls = slice(None) if floors else slice(-1, None)
        caps = self.caps(drift, self.high[:1]).within(self.norms[:, None] + self.radii[balls])
        beta = self.curvature(caps, self.ceilings[balls], 1, eta)
        if not floors:
            return beta, np.zeros(1), np.full(1, math.inf)
        floor, limit = self._floor(drift), np.full(len(self.radii), math.inf)
        if len(self.radii) > 1 and self.gap > 0:
            reach = self._reach(floor)[self._chosen]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                bent = np.cumsum(np.maximum.accumulate(beta[:-1]) * np.diff(reach, prepend=0.0))
                limit[:-1] = np.nan_to_num(2 * (reach - 2 * math.sqrt(self.gap)) / bent, nan=0.0)
        return beta, np.maximum(self.floors, floor), limit

    @np.errstate(over="ignore")
    def at(self, eta: float) -> Held | None:
        """Return what holds at every step of size η, or None if η is not certified. δ is raised to a fixed point."""
        drift, floors = 0.0, len(self.radii) > 1
        for _ in range(300):
            beta, _, limit = self._start(drift, eta, floors=floors)
            slack = 1 - eta * beta / 2
            fits = np.flatnonzero((eta < limit) & (slack > 0))
            if fits.size == 0:
                return None
            j = int(fits[0]) - len(slack)  # −1 is the whole space
            floors = floors and j < -1  # as the drift grows, no further ball fits
            wanted = float(eta * self.gap / slack[j] * STRICT) if self.network.depth > 1 else 0.0
            if wanted <= drift:
                return self._held(eta, drift, j, beta)
            drift = wanted * (1 + 1e-3)
        return None

    def _held(self, eta: float, drift: float, j: int, on_balls: np.ndarray) -> Held:
        caps = self.caps(drift, self.high).within(self.norms[:, None] + self.radii[j])
        betas = np.minimum.accumulate(self.curvature(caps, self.ceilings[j], None, eta))
        alphas = self.alphas(drift)
        if j < -1:
            # The path up to a gap y has ∫ (1 − ηβ/2) sqrt(γα) ≤ 2 (sqrt(ℓ(0)) − sqrt(y)); β is that of the next ball.
            passed = 2 * (math.sqrt(self.levels[0]) - np.sqrt(np.append(self.levels[1:], 0.0)))
            last = int(self._chosen[j + 1])
            beta = np.maximum.accumulate(on_balls[:-1])[np.searchsorted(self._chosen, np.arange(last + 1))]
            gained = np.diff(self._reach(float(alphas[0]))[: last + 1], prepend=0.0) * (1 - eta * beta / 2)
            ends = np.searchsorted(np.cumsum(gained), passed, side="left")
            alphas = np.maximum(alphas, self._floors[np.minimum(ends, last)])
        return Held(eta, drift, float(self.radii[j]), caps.layers[:, 0], betas, alphas)

    def best_at(self, drift: float) -> tuple[tuple[float, float], tuple[float, float], float]:
        """Return the two best steps and the largest step among those that stay within a drift.

        The best steps maximise `η(1 − ηβ/2)α` and `η(1 − ηβ/2)` at the initial gap. Each is paired with its maximum:
        `((maximum, step), (maximum, step), largest)`.
        """
        beta, alpha, limit = self._start(drift)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            largest = np.minimum(np.maximum(limit, 0.0), drift / (self.gap * STRICT + drift * beta / 2))  # below 2/β
            largest = np.nan_to_num(largest, nan=0.0) / STRICT
            eta = np.minimum(1 / beta, largest)
            decrease = np.nan_to_num(eta * (1 - eta * beta / 2))
        i, j = int(np.argmax(decrease * alpha)), int(np.argmax(decrease))
        rate, fall = float(decrease[i] * alpha[i]), float(decrease[j])
        return (rate, float(eta[i])), (fall, float(eta[j])), float(largest.max())

    @cached_property
    def _unit(self) -> float:
        """The unit of the search over drifts: the initial gap over β at the start; 0 if β is not known."""
        beta = float(self._start(0.0)[0].min())
        return self.gap / beta if math.isfinite(beta) and beta > 0 else 0.0

    @cached_property
    def largest(self) -> float:
        """The largest step that is certified not to raise the loss, to within 1 %; 0 if there is none."""
        if self.gap <= 0 or self.network.depth == 1:
            beta = float(self._start(0.0)[0].min())
            return 2 / beta / STRICT if math.isfinite(beta) and beta > 0 else 0.0
        return scan(lambda x: (self.best_at(self._unit * 10.0**x)[2], 0.0))[0] if self._unit else 0.0

    @cached_property
    def best(self) -> float:
        """The step with the smallest factor at the initial gap; 0 if there is none.

        If no factor is below 1, it is the step with the largest certain decrease `η(1 − ηβ/2)‖∇L‖²`.
        """
        if self.gap <= 0 or self.network.depth == 1:
            return self.largest / 2
        if not self._unit:
            return 0.0
        best_at = lru_cache(self.best_at)  # both searches begin with one grid
        rate, eta = scan(lambda x: best_at(self._unit * 10.0**x)[0])
        return eta if rate > 0 else scan(lambda x: best_at(self._unit * 10.0**x)[1])[1]

    def advise(self) -> float:
        """Return the step with the smallest factor at the initial gap that `at` certifies; 0 if there is none."""
        eta = self.best * (1 - 1e-3)
        for _ in range(100):
            if eta == 0 or self.at(eta) is not None:
                return eta
            eta *= 0.98
        return 0.0


def cap_facts(drift: float, radius: float, caps: np.ndarray) -> dict[str, float]:
    """Return the caps of a descent as named numbers, for the facts of a guarantee."""
    facts = {"drift cap": drift} | {f"cap on ‖W_{l}‖": float(cap) for l, cap in enumerate(caps, 1)}
    return facts | ({"path length": radius} if math.isfinite(radius) else {})


def scan(score: Callable[[float], tuple[float, float]]) -> tuple[float, float]:
    """Return the pair with the largest first entry, from a grid refined by golden section around its maximum."""
    grid = np.linspace(-4.0, 3.0, 11)
    found = [score(x) for x in grid]
    i = max(range(len(grid)), key=lambda k: found[k][0])
    a, b = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
    ratio = (math.sqrt(5) - 1) / 2
    x, y = b - ratio * (b - a), a + ratio * (b - a)
    fx, fy = score(x), score(y)
    best = max(found[i], fx, fy)
    for _ in range(8):
        if fx >= fy:
            b, y, fy = y, x, fx
            x = b - ratio * (b - a)
            fx = score(x)
        else:
            a, x, fx = x, y, fy
            y = a + ratio * (b - a)
            fy = score(y)
        best = max(best, fx, fy)
    return best


def _robust(depth: int) -> list[Theorem]:
    """Return the theorems that hold for every imbalance within a drift, except those that others include.

    The theorems on scalars and on unimodal, homogeneous and balanced layers are not used. Their hypotheses or
    allowances cover only rounding, and the first step of a descent violates them.
    """
    if depth == 2:
        return [two_layers.THEOREM, two_layers.SQUARE]
    return [three_layers.THEOREM, any_imbalance.THEOREM, OPERATOR_FLOORS, OPERATOR_INTERVAL]


def _positive_part(around: Neighbourhood | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the radii with positive floors, and the floors; two empty arrays if there are fewer than two."""
    if around is None or np.count_nonzero(around.floors) < 2:
        return np.zeros(0), np.zeros(0)
    some = around.floors > 0
    return around.radii[some], around.floors[some]


def _ceiling(network: Network, norms: np.ndarray) -> float:
    """Return an upper bound on `λ_max(T)`: the eigenvalue itself if it can be computed exactly."""
    n, m = network.shape
    crude = network.scale**2 * sum(float(products_without(norms[:, None], i)[0]) ** 2 for i in range(len(norms)))
    if network.depth > 2 and n * m > DENSE_LIMIT:
        return crude
    return float(TangentOperator(network).greatest_eigenvalue()) + 1e-12 * crude
