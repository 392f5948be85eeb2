"""Guarantees for gradient descent with the schedule of Xu et al. 2025, and with steps `1/K_t`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from linflow._support import checks
from linflow._support.arrays import EPS, norm, sigma
from linflow._support.words import plural
from linflow.certificates._base import Guarantee
from linflow.certificates.caps import Caps
from linflow.certificates.curves import LevelCurve, log_ratio
from linflow.certificates.setting import NO_MARGIN, NO_SMOOTHNESS, Setting, too_narrow
from linflow.certificates.step_bounds import (
    NO_CAPS,
    STRICT,
    DescentBounds,
    LevelStepCurve,
    cap_facts,
    follow,
)
from linflow.dynamics.step_rules import Backtracking, LocalSmoothnessSchedule, Xu2025, growth

if TYPE_CHECKING:
    from linflow.dynamics.descent import Schedule

PIECES, FINEST, FAR = 100, 1.02, 2**53
"""The growth of the step is cut into PIECES pieces, each of ratio at least FINEST, up to step FAR."""

GROWING, LOCAL = "Xu et al. 2025, its schedule", "steps 1/K_t"


@dataclass(frozen=True)
class Rule:
    """A schedule in the form that a guarantee uses: the step is `min((1 + η_0²)^{t/2} η_0, 1/K_t)`.

    Attributes:
        first: η_0; inf for steps `1/K_t`.
        printed: whether `K_t` has the printed constants 6 and 3; otherwise they are 1 and 1.
        along: whether `K_t` is that of the step itself. It is never above the one of Lemma 2, but has no floor.
    """

    first: float
    printed: bool
    along: bool = False

    @cached_property
    def growth(self) -> float:
        """The logarithm of the factor by which the cap on the step grows each time."""
        return growth(self.first) if math.isfinite(self.first) else 0.0

    def at(self, t: float) -> float:
        """Return `(1 + η_0²)^{t/2} η_0`."""
        return self.first * math.exp(min(t * self.growth, 600.0))

    def pieces(self, end: float) -> list[int]:
        """Return step counts, from 0 on, between which the cap grows little, until the cap is at least `end`."""
        ratio = math.log(max(FINEST, (max(end, self.first) / self.first) ** (1 / PIECES)))
        starts = [0]
        while self.growth > 0 and self.at(starts[-1]) < end:
            t = starts[-1] + math.ceil(min(ratio / self.growth, FAR))
            if t >= FAR:
                break
            starts.append(t)
        return starts


@dataclass(frozen=True)
class ScheduleCurve(LevelStepCurve):
    """`ℓ_{k+1} ≤ q_k(ℓ_k) ℓ_k` for changing steps, `q = 1 − d`; `u_{k+1} = max_{y ≤ u_k} q_k(y) y` stays above ℓ.

    Attributes:
        step_size: the smallest step.
        largest: a cap on every step.
        rule: the schedule, whose growth caps the first steps.
        decay: a floor of the mean rate over a step, as a function of the gap before it.
    """

    largest: float
    rule: Rule
    decay: LevelCurve

    @property
    def rate(self) -> float:
        """The least mean rate over a step."""
        return self.decay.rate

    def rate_at(self, gap: float) -> float:
        """Return a floor of the mean rate over a step from this gap, and over all later steps."""
        return self.decay.rate_at(gap)

    def gap(self, t: float) -> float:
        """Return the bound at time t, the sum of the steps so far."""
        longest = self._longest(t / self.step_size)
        steps = math.floor(t / longest * (1 - 1e-12))
        return min(self.gap_after(steps), self.first * math.exp(-self.rate * max(t - longest, 0.0)))

    def time(self, gap: float) -> float:
        """Return a time (a sum of steps) by which the gap is at most `gap`."""
        if gap >= self.first:
            return 0.0
        steps = self.steps(gap)
        longest = self._longest(steps)
        return min(longest * steps, log_ratio(self.first, gap) / self.rate + longest)

    def _longest(self, steps: float) -> float:
        """Return a cap on each of this many first steps."""
        return min(self.largest, self.rule.at(steps) * STRICT)


@dataclass(frozen=True)
class HeldSchedule:
    """Caps and floors that hold at every step of a descent with a schedule.

    Attributes:
        drift: δ, cap on `‖D(t) − D(0)‖`.
        radius: cap on the length of the path in weight space, inf if none is known.
        caps: `‖W_l‖ ≤ caps[l]`, shape `(2,)`.
        roots: floors of the least η with `ηK_t(η) = 1` once the gap is at most each level.
        largest: cap on every step.
        alphas: floors of `λ_min(T)` while the gap is between each level and the next, and below the last.
        curve: the guarantee; None if no decrease is certain.
    """

    drift: float
    radius: float
    caps: np.ndarray
    roots: np.ndarray
    largest: float
    alphas: np.ndarray
    curve: ScheduleCurve | None


class ScheduleBounds(DescentBounds):
    """The caps and floors for two layers with `η_t K_t ≤ 1`, for which no step can raise the loss."""

    def __init__(self, setting: Setting, rule: Rule):
        super().__init__(setting)
        self.rule = rule
        self.least_size = 0.0
        if setting.strongly_convex:
            # ‖W‖ ≥ ‖W*‖ − ‖W − W*‖, and the cap on ‖W‖ is ‖W*‖ plus that distance.
            size = float(sigma(setting.objective.minimizer, 1))
            self.least_size = max(0.0, 2 * size / setting.scale - float(self.high[0])) / STRICT
        # K_t uses ‖W‖ of the whole product, including the part that the objective does not see.
        network = setting.whole_network
        self.whole = network is setting.network
        pairs = zip(network.weights, setting.network.weights, strict=True)
        self.unseen = np.array([max(norm(A) ** 2 - norm(B) ** 2, 0.0) + 64 * EPS * norm(A) ** 2 for A, B in pairs])

    def roots(self, caps: Caps, ceiling: np.ndarray) -> np.ndarray:
        """Return floors of the least η with `ηK_t(η) = 1` on the levels: the root with every quantity capped."""
        c, K = self.network.scale, self.K
        a, b = (6.0, 3.0) if self.rule.printed else (1.0, 1.0)
        slope = c * self.slopes
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            full = caps.layers if self.whole else np.sqrt(caps.layers**2 + self.unseen[:, None])
            if self.rule.along and not self.whole:  # that K_t includes the motion of the unseen part
                caps, ceiling = Caps.of(full), np.full(len(self.levels), math.inf)
            flat = self.curvature(caps, ceiling, None, 0.0)
            size = c * np.prod(full, axis=0)
            size = np.minimum(size, c * self.high) if self.whole else size
            linear, square = b * (flat - slope) * slope, a * c * K * size * slope**2 / 2
            low, high = np.zeros(len(flat)), 1 / flat
            for _ in range(60):
                eta = (low + high) / 2
                fits = eta * (flat + eta * (linear + eta * square)) <= 1
                low, high = np.where(fits, eta, low), np.where(fits, high, eta)
        return np.maximum.accumulate(np.nan_to_num(low)) / STRICT**2  # the schedule lowers its root by 1e-9

    def largest_root(self, drift: float, radius: float, alpha: float) -> float:
        """Return a cap on every η with `ηK_t(η) = 1`: the smaller of `1/(K λ_max(T))` and `2/(γα)`.

        The second is a cap because the gap cannot fall below 0.
        """
        below = self.gamma * alpha / 2
        if not self.rule.along:
            D = self.invariants.spectra[0]
            near = np.maximum(self.norms / STRICT - radius, 0.0) ** 2
            first = max(float(D.lower[0]) - drift, float(near[0]), 0.0)
            second = max(-float(D.upper[-1]) - drift, float(near[1]), 0.0)
            below = max(below, self.K * self.network.scale**2 * least_sum(first, second, self.least_size))
        return STRICT**2 / below if below > 0 else math.inf

    def held(self) -> HeldSchedule | None:
        """Return what holds along the descent, or None if no drift is certain. δ is raised to a fixed point."""
        drift, hopeless = 0.0, 1e6 * (float(np.sum(self.norms**2)) + self.gap)  # every floor is 0 long before this
        for _ in range(300):
            found, wanted = self._within(drift)
            if found is None or wanted <= drift:
                return found
            if wanted > hopeless:
                return None
            drift = wanted * (1 + 1e-3)
        return None

    def _within(self, drift: float) -> tuple[HeldSchedule | None, float]:
        """Return what holds while the drift is at most δ, and a bound on the drift that follows from it."""
        floors = self.alphas(drift)
        reach = self._reach(float(floors[0]))
        fits = np.flatnonzero(4 * math.sqrt(max(self.gap, 0.0)) * STRICT < reach[self._chosen])
        j = int(fits[0]) - len(self.radii) if fits.size else -1
        radius = float(self.radii[j])
        caps = self.caps(drift, self.high).within(self.norms[:, None] + radius)
        roots, alphas = self.roots(caps, self.ceilings[j]), floors
        if roots[0] == 0:
            return None, math.inf
        if j < -1:
            # The path up to a gap y has ∫ sqrt(γα) ≤ 4 (sqrt(ℓ(0)) − sqrt(y)).
            left = np.sqrt(np.append(self.levels[1:], 0.0))
            ends = np.searchsorted(reach, 4 * (math.sqrt(self.levels[0]) - left), side="left")
            alphas = np.maximum(floors, self._floors[ends])
        largest = self.largest_root(drift, radius, float(alphas.min()))
        curve, wanted = self._curve(roots, alphas, largest)
        return HeldSchedule(drift, radius, caps.layers[:, 0], roots, largest, alphas, curve), wanted * STRICT

    def _curve(self, roots: np.ndarray, alphas: np.ndarray, largest: float) -> tuple[ScheduleCurve | None, float]:
        """Return the curve of the worst sequence of gaps, and the bound on the drift along it.

        The drift is at most `Σ m_t (ℓ_t − ℓ_{t+1}) = m_0 ℓ_0 + Σ (m_t − m_{t−1}) ℓ_t` with
        `m_t ≥ η_t/(1 − η_tκ_t/2)`, which does not decrease.
        """
        rule, gains = self.rule, self.gamma * alphas / STRICT
        starts = rule.pieces(max(largest, float(roots[-1]))) if math.isfinite(rule.first) else [0]
        u, drift, before, least, rows, d = float(self.levels[0]), 0.0, 0.0, 1.0, [], np.zeros(1)
        for i, start in enumerate(starts):
            last = i == len(starts) - 1
            top = math.inf if last else rule.at(starts[i + 1] - 1) * STRICT
            reach = 2 * largest if top >= largest else top / (1 - min(top / roots[0], 1.0) / 2)
            # at a gap of 0 nothing drifts, whatever the steps
            drift += (reach - before) * u if u > 0 else 0.0
            before = reach
            eta = np.minimum(rule.at(start) / STRICT, roots)
            d = np.minimum(eta * (1 - (0.5 if rule.along else eta / roots / 2)) * gains, 1.0)
            least = min(least, float(d.min()))
            u = follow(self.levels, d, u, start, None if last else starts[i + 1], rows)
        if d.min() <= 0:
            return None, drift
        counts, gaps, kept = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
        slowest = np.minimum.accumulate((gains / 2)[::-1])[::-1]
        decay = LevelCurve(self.levels, slowest)
        shortest = min(rule.first, float(roots[0]))
        return ScheduleCurve(float(self.levels[0]), shortest, least, counts, gaps, kept, largest, rule, decay), drift


def least_sum(a: float, b: float, s: float) -> float:
    """Return the least `x + y` with `x ≥ a`, `y ≥ b` and `xy ≥ s²`.

    `λ_max(T) = c²(‖W_1‖² + ‖W_2‖²)` for two layers, and `‖W_1‖‖W_2‖ ≥ ‖W‖/c`.

    Example:
        >>> from linflow.certificates.scheduled_descent import least_sum
        >>> least_sum(0.0, 0.0, 3.0), least_sum(6.0, 0.0, 3.0), least_sum(4.0, 5.0, 3.0)
        (6.0, 7.5, 9.0)
    """
    if a * b >= s * s:
        return a + b
    x = max(a, min(s, s * s / b if b > 0 else math.inf))
    return x + s * s / x


def schedule_guarantees(setting: Setting, schedule: Schedule) -> list[Guarantee]:
    """Return the guarantee on gradient descent with a schedule, and rows that say why the others do not apply.

    It is proved for two layers with `schedules.xu2025`, `η_t = min((1 + η_0²)^{t/2} η_0, 1/K_t)`, and with
    `local_smoothness`. As `η_tK_t ≤ 1`, no step raises the loss, whatever the weights:
    `ℓ_{t+1} ≤ ℓ_t − ½η_t‖∇L_t‖²`. With caps on every step, on the drift and on `K_t`, the factor of a step at each
    level of the gap is `1 − η(1 − ηK̄/2)γα`, `η = min((1 + η_0²)^{t/2} η_0, 1/K̄)`.

    Args:
        setting: objective and start.
        schedule: a rule of `linflow.schedules`.

    Raises:
        TypeError: `schedule` is not a schedule.

    Source: after Xu, Min, Tarmoun, Mallada & Vidal 2025; a-priori caps and proof of this library, docs/descent.md.
    """
    if not callable(getattr(schedule, "step", None)):
        raise TypeError(
            f"schedule is {schedule!r}; a rule of linflow.schedules is needed, such as "
            "linflow.schedules.xu2025(objective, network)."
        )
    rule, why = _rule(schedule)
    why = why or _why_not(setting)
    curve, facts = None, {}
    if rule is not None and not why:
        held = ScheduleBounds(setting, rule).held()
        if held is None:
            why = _no_cap(setting, rule)
        else:
            curve, facts = held.curve, _facts(rule, held)
            why = "" if curve else _no_rate(setting, held)
    ours = setting.guarantee(
        name=LOCAL if rule and math.isinf(rule.first) else GROWING,
        source="after Xu et al. 2025 (TMLR), a-priori caps of docs/descent.md",
        citation=("xu2025", "linflow"),
        reason=why,
        curve=curve,
        facts=facts,
    )
    rest = "it is for a constant step, but this certificate is for a schedule; certify with step_size="
    others = (
        ("descent, any depth", "linflow, docs/descent.md", "linflow"),
        ("two layers, squared loss", "after Xu et al. 2023 (AISTATS)", "xu2023"),
        ("approximately balanced", "Arora et al. 2018a, Theorem 1", "arora2019convergence"),
    )
    return [ours, *(setting.guarantee(name=n, source=s, citation=(key,), reason=rest) for n, s, key in others)]


def _rule(schedule: Schedule) -> tuple[Rule | None, str]:
    """Return the rule of a schedule, or None and the reason why there is no guarantee for it."""
    if isinstance(schedule, Xu2025):
        return Rule(checks.positive(schedule.first, "first"), printed=True), ""
    if isinstance(schedule, LocalSmoothnessSchedule) and schedule.form != "curvature":
        return Rule(math.inf, schedule.form == "printed", along=schedule.form == "step"), ""
    known = "certify schedules.xu2025(objective, network), local_smoothness() or a constant step"
    if isinstance(schedule, LocalSmoothnessSchedule):
        return None, f"nothing is proved in advance for steps by the curvature; {known}"
    if isinstance(schedule, Backtracking):
        return None, f"nothing is proved in advance for a backtracking search; {known}"
    return None, f"nothing is known about the schedule {schedule!r}; {known}"


def _why_not(setting: Setting) -> str:
    if setting.depth != 2:
        return f"the network has {plural(setting.depth, 'layer')}, not 2"
    if setting.gamma == 0 and setting.objective.tail is not None:
        return "steps that grow as the loss falls let the imbalance drift without end; certify a constant step"
    if math.isinf(setting.whole_objective.smoothness):
        return NO_SMOOTHNESS
    if setting.gamma == 0:
        return "no strong convexity μ is known for the objective; declare strong_convexity= or pl_constant="
    return too_narrow(setting.whole_network) or setting.beyond_float64


def _no_cap(setting: Setting, rule: Rule) -> str:
    if not setting.strongly_convex:
        return NO_CAPS
    smaller = "take a smaller first step in xu2025" + (", s" if math.isfinite(rule.first) else "; s")
    return f"no bound on the drift of the imbalance is certified: {smaller}tart nearer to W*, or imbalance it more"


def _facts(rule: Rule, held: HeldSchedule) -> dict[str, float]:
    facts = {} if math.isinf(rule.first) else {"η_0": rule.first}
    facts |= {"K_t": 1 / float(held.roots[0]), "final K_t": 1 / float(held.roots[-1]), "largest step": held.largest}
    facts |= {"α": float(held.alphas.min()), **cap_facts(held.drift, held.radius, held.caps)}
    if held.curve is not None:
        facts |= {"factor": held.curve.factor, "final factor": held.curve.final_factor}
    return facts


def _no_rate(setting: Setting, held: HeldSchedule) -> str:
    """Return the reason why the loss is known not to rise, but no rate is certified."""
    head = "the loss never rises, but no rate is certified: "
    if setting.too_narrow:  # in the directions that the objective sees, a subset
        return head + setting.too_narrow
    if held.alphas.min() > 0:
        return head + "the decrease it promises per step is below rounding"
    if setting.objective.minimizer is None:
        return head + NO_MARGIN
    return head + (
        f"the bound on λ_min(T) is 0 when imbalances may drift by {held.drift:.3g} and ‖W(0) − W*‖_F = "
        f"{setting.distance:.3g}; start nearer, or imbalance the start more"
    )
