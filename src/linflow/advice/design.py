"""Starts designed for a certificate: for a rate of the flow, or for few steps of gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from linflow import init
from linflow._support import checks
from linflow._support.arrays import Array
from linflow._support.deprecation import renamed_arguments, renamed_attributes
from linflow._support.fractions import spelled
from linflow._support.html import never_raising
from linflow._support.words import shown
from linflow.advice._view import view
from linflow.advice.family import Family
from linflow.certificates import Certificate, Check, certify
from linflow.certificates.certificate import ALGORITHMS
from linflow.certificates.setting import NO_SMOOTHNESS, Setting
from linflow.certificates.step_bounds import DescentBounds, LevelStepCurve
from linflow.dynamics import gradient_descent, gradient_flow
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.verified import Enclosure
from linflow.verified.attempt import attempt

SLACK = 0.01
"""A design can exceed the fewest steps by this fraction. The last percent would need arbitrarily large weights."""

_GROW, _CLOSE, _FAR = 4.0, 1.05, 20  # of the search: ratio of imbalances on its grid and at its end; size of the grid
_RETRIES = 10
_TUNED = 1.5  # in experiments, a better step size saved a tenth of the steps, or a few steps if there were few
_NEARBY = (1.05, 1.1, 1.15, 0.95, 1.2, 1.3, 0.9, 1.4)  # factors on the safe step; larger steps are mostly better


@renamed_attributes(network="start", fraction="until")
@dataclass(frozen=True, repr=False)
class Design:
    """A start designed for a certificate. `print` shows the start and its certificate.

    Attributes:
        start: the network.
        certificate: the result of `certify` for exactly these weights.
        imbalance: λ, the only positive eigenvalue of `D_{L−1}` (of `−D_1`, if the product has fewer columns than
            rows), on `min(n, m)` directions; all other imbalances are 0.
        until: fraction of the initial gap up to which steps are counted and `confirm` runs.
        least_steps: no constant step size of a descent can be certified to need fewer steps; None for the flow.
        reason: why the start has this certificate, in words.
        notes: further remarks.
        proof: the verified run of a design with `verified=True`.
    """

    start: Network
    certificate: Certificate
    imbalance: float
    until: float
    least_steps: int | None
    reason: str
    notes: tuple[str, ...] = ()
    proof: Enclosure | None = None

    @property
    def rate(self) -> float:
        """The exponential rate certified at every time (for a descent, per unit of `step_size · steps`).

        With a `proof`, it is the mean rate until the gap is proved to be at most `until` times the initial one.
        """
        if self.proof is not None:
            return math.log(1 / self.until) / self.proof.time_bounds(self.until)[1]
        return self.certificate.rate

    @property
    def step_size(self) -> float | None:
        """η of the descent; None for the flow."""
        return self.certificate.step_size

    @property
    def steps(self) -> int | None:
        """Number of steps that certify a gap of at most `until` times the initial one; None for the flow."""
        return None if self.least_steps is None else int(self.certificate.steps_to(self.until))

    def confirm(self, until: float | None = None) -> Check:
        """Run from the start until the gap is at most `until` times the initial one, and check the certificate.

        If `until` is omitted, that of the design is used. A descent takes at most the certified number of `steps`.
        """
        until = self.until if until is None else checks.fraction(until, "until")
        objective = self.certificate.objective
        if self.steps is None:
            run = gradient_flow(objective, self.start, until=until)
        else:
            steps = max(1, self.steps)
            run = gradient_descent(objective, self.start, step_size=self.step_size, steps=steps, until=until)
        return self.certificate.check(run)

    def to_dict(self) -> dict[str, Any]:
        """Return the design as plain data, ready for JSON."""
        return {
            "widths": list(self.start.widths),
            "scale": self.start.scale,
            "imbalance": self.imbalance,
            "algorithm": self.certificate.algorithm,
            "rate": self.rate,
            "until": self.until,
            "fraction": self.until,
            "step_size": self.step_size,
            "steps": self.steps,
            "least_steps": self.least_steps,
            "reason": self.reason,
            "notes": list(self.notes),
            "certificate": self.certificate.to_dict(),
            "proof": None if self.proof is None else self.proof.to_dict(),
        }

    @shown
    def __str__(self) -> str:
        return "\n".join([repr(self), self.reason, *self.notes, str(self.certificate)])

    def _repr_html_(self) -> str:
        return never_raising(view, self)

    def __repr__(self) -> str:
        what = (
            f"rate={self.rate:.4g}" if self.steps is None else f"steps={self.steps}, step_size={self.step_size:.4g}"
        )
        return f"Design({self.start!r}, λ={self.imbalance:.4g}, {what})"


@renamed_arguments(fraction="until")
def design(
    objective: Objective,
    widths: Sequence[int],
    *,
    rate: float | None = None,
    algorithm: str = "flow",
    steps: int | None = None,
    until: float = 1e-6,
    product: Any = None,
    scale: float = 1.0,
    rng: init.Seed = None,
    like: Array | None = None,
    verified: bool = False,
) -> Design:
    """Return a start with a certified rate of at least `rate` for the flow, or with few certified steps of descent.

    On `k = min(n, m)` directions, every layer but one is `√λ` times orthonormal. The last layer (the first, if
    `m < n`) is zero. So the product is 0, `D_{L−1} = λ` on k directions, every other imbalance is 0, and T is
    `c² λ^{L−1}` times the identity. Then `λ_min(T) ≥ c² λ^{L−1}` along the whole flow, for any minimiser. For another
    product, the modes are scalar chains with the same imbalances.

    *Flow.* λ is the least one for which the certified rate is at least `rate`. For product 0, `λ^{L−1} = rate/(γc²)`
    to rounding. For two layers, no other start with the certified rate `rate` has a smaller `Σ‖W_l‖_F²`.

    *Descent.* As λ grows, every step comes closer to `W ← W − (1/K) ∇f`. No certificate with a constant step promises
    a better factor than `1 − γ/(2K)` per step. With `steps=`, λ is the least one that certifies at most that many
    steps to `until`. Otherwise the design needs the fewest steps possible, to 1 %. η is chosen together with λ.

    *Verified.* With `verified`, λ is the least one, to 5 %, for which a verified run (`enclose`) proves that the flow
    brings the gap down to `until` by the time `log(1/until)/rate`. A run sees how the product itself speeds up the
    flow, so this λ is smaller, often by a factor of 100. It is at least 10⁻⁶ of the λ that the certificate needs.

    The minimiser enters only the certificate (through the initial loss, the constants and the margin), never the
    weights.

    Args:
        objective: the objective to minimise, with γ > 0. A descent also needs a finite K.
        widths: `(n, h_1, …, m)` for two layers or more, with hidden widths at least `min(n, m)`. For a rank-deficient
            objective, its rank replaces n.
        rate: exponential rate of the flow to certify.
        algorithm: "flow" or "descent" (gradient descent with a constant step).
        steps: number of steps of a descent to certify.
        until: fraction of the initial loss gap up to which steps are counted.
        product: the product of the start, output scale included; 0 if not given. The part that the objective does not
            depend on is dropped.
        scale: output scale c.
        rng: seed or generator for the hidden bases.
        like: array whose kind and device the weights get; the objective's minimiser if not given.
        verified: whether to design by verified runs of the flow instead of by the certificate.

    Raises:
        ValueError: the request is impossible (the error says what is possible), or an argument belongs to the other
            algorithm.

    Source: this library, docs/design.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> found = lf.design(lf.MatrixFactorization(np.ones((3, 2))), (3, 4, 2), rate=5.0, rng=0)
        >>> found, found.confirm().holds
        (Design(Network(3×4×2, numpy), λ=2.5, rate=5), True)
        >>> lf.design(lf.MatrixFactorization(np.ones((3, 2))), (3, 4, 2), algorithm="descent", steps=10, rng=0).steps
        10
        >>> proved = lf.design(lf.MatrixFactorization(np.ones((3, 2))), (3, 4, 2), rate=5.0, rng=0, verified=True)
        >>> proved.rate >= 5.0, proved.imbalance < found.imbalance
        (True, True)
    """
    algorithm = checks.choice(algorithm, "algorithm", ALGORITHMS)
    until = checks.fraction(until, "until")
    family = Family(objective, widths, product, scale, rng, like)
    if algorithm == "flow":
        if steps is not None:
            raise ValueError(f'steps is {steps!r}, but the flow takes no steps; say algorithm="descent".')
        if rate is None:
            raise ValueError(
                "rate is needed. Any rate of the flow is possible with enough imbalance; to reach the fraction ε by "
                "time t, give rate = log(1/ε)/t."
            )
        rate = checks.positive(rate, "rate")
        return _proved(family, rate, until) if verified else _for_rate(family, rate, until)
    if verified:
        raise ValueError(
            "verified designs are for the flow; design the descent without verified=True, then find its largest "
            "proved step with linflow.safe_step_size(f, start, verified=True)."
        )
    if rate is not None:
        raise ValueError(
            f"rate is {rate!r}, but a descent is designed for its number of steps; give steps= instead, or "
            "neither for the fewest."
        )
    return _for_steps(family, None if steps is None else checks.count(steps, "steps"), until)


def _for_rate(family: Family, rate: float, until: float) -> Design:
    objective = family.objective

    def enough(imbalance: float) -> bool:
        return certify(objective, family.at(imbalance, narrow=True)).rate >= rate

    needed = (rate / (family.seen.pl_constant * family.scale**2)) ** (1 / (family.depth - 1))
    imbalance = needed
    if not family.single:  # the margin can provide part of the rate, or all of it
        imbalance = 0.0 if enough(0.0) else _least(enough, needed * 2.0**-20, needed, 1 + 1e-6)
    network = family.at(imbalance)
    certificate, growth = certify(objective, network), 1e-14
    while certificate.rate < rate:  # make up for rounding
        if growth > 1e-2:
            raise ValueError(
                f"the rate {rate:.6g} could not be certified: rounding lowers it to {certificate.rate:.6g}. Ask "
                "for a lower rate."
            )
        imbalance, growth = max(imbalance, needed * 1e-6) * (1 + growth), 2 * growth
        network = family.at(imbalance)
        certificate = certify(objective, network)
    reason = f"{family.describe()}, and the rate is γ times that"
    if imbalance < needed * (1 - 1e-6):
        reason = f"{family.describe()}; the margin of the product carries the rest of the rate"
    return Design(network, certificate, imbalance, until, None, reason, (*family.notes, *objective.notes))


def _proved(family: Family, rate: float, until: float) -> Design:
    """Return the start of least λ from which the flow is proved to reach `until` by the time `log(1/until)/rate`."""
    objective, end = family.objective, math.log(1 / until) / rate
    proofs: dict[float, Enclosure] = {}

    def enough(imbalance: float) -> bool:
        # The path goes on past the target, so that its time is known from both sides.
        proof = attempt(objective, family.at(imbalance), until=until, t_max=1.05 * end)[0]
        if not isinstance(proof, Enclosure) or proof.time_bounds(until)[1] > end:
            return False
        proofs[imbalance] = proof
        return True

    most = (rate / (family.seen.pl_constant * family.scale**2)) ** (1 / (family.depth - 1))
    if not family.single and enough(0.0):
        imbalance = 0.0
    elif enough(most):
        imbalance = _least(enough, most * 2.0**-20, most, _CLOSE)
    else:
        raise ValueError(
            f"no verified run proves the rate {rate:g} to {spelled(until)}, not even with the imbalance {most:.4g}; "
            "take a larger until, or leave out verified=True."
        )
    network = family.at(imbalance)
    reason = f"{family.describe()}; a verified run from here reaches {spelled(until)} of the initial gap in time"
    certificate, notes = certify(objective, network), (*family.notes, *objective.notes)
    return Design(network, certificate, imbalance, until, None, reason, notes, proofs[imbalance])


def _for_steps(family: Family, steps: int | None, until: float) -> Design:
    objective, seen = family.objective, family.seen
    if math.isinf(seen.smoothness):
        raise ValueError(f"no step size is certified: {NO_SMOOTHNESS}.")
    factor = 1 - seen.pl_constant / (2 * seen.smoothness)
    least = math.ceil(math.log(until) / math.log(factor)) if factor > 0 else 1
    if steps is not None and steps < least:
        raise ValueError(
            f"steps is {steps}, but a certified step takes at most γ/(2K) = {1 - factor:.3g} of the gap, so "
            f"{spelled(until)} needs at least {least} steps. Ask for {least} or more, or precondition the objective."
        )
    target = math.floor(least * (1 + SLACK)) if steps is None else steps

    def count(imbalance: float, *, narrow: bool = True) -> tuple[float, float]:
        setting = Setting(objective, family.at(imbalance, narrow=narrow), "descent")
        return _fewest(DescentBounds(setting), until, target)

    def certified(imbalance: float) -> tuple[Network, Certificate, float]:
        """Return the start, its certificate and its steps at full width, where the rounding allowances differ."""
        network = family.at(imbalance)
        eta = count(imbalance, narrow=False)[1]
        certificate = certify(objective, network, algorithm="descent", step_size=eta or None)
        return network, certificate, certificate.steps_to(until)

    imbalance, best = _smallest(count, target, _unit(family), balanced=not family.single)
    network, certificate, reached = certified(imbalance)
    for _ in range(_RETRIES):
        if reached <= best:
            break
        imbalance = max(imbalance * _CLOSE, _unit(family) * 1e-3)
        network, certificate, reached = certified(imbalance)
    if not math.isfinite(reached) or (steps is not None and reached > steps):
        why = f"the fewest certified are {best:g}" if math.isfinite(best) else "no number of steps is certified"
        what = "a descent" if steps is None else f"a descent of {steps} steps"
        raise ValueError(
            f"{what} to {spelled(until)} could not be certified: {why}. Take a larger fraction, or start at a "
            "product nearer to the minimiser."
        )
    reason = (
        f"{family.describe()}; as λ grows, each step comes closer to a step of 1/K on the objective itself, "
        f"which needs at least {least} steps"
    )
    return Design(network, certificate, imbalance, until, least, reason, (*family.notes, *objective.notes))


def _unit(family: Family) -> float:
    """Return the imbalance at which the layers are as large as the distance that they have to move."""
    way = math.sqrt(4 * max(family.gap, 0.0) / family.seen.pl_constant) / family.scale
    return way ** (2 / family.depth) or 1.0


def _smallest(
    count: Callable[[float], tuple[float, float]], target: float, unit: float, *, balanced: bool
) -> tuple[float, float]:
    """Return the least λ that needs at most `target` steps (or else the fewest steps), and that number of steps."""
    if balanced and (first := count(0.0)[0]) <= target:
        return 0.0, first
    found = {k: count(unit * _GROW**k)[0] for k in (-1, 0)}
    while min(found) > -_FAR and found[min(found)] <= target:
        found[min(found) - 1] = count(unit * _GROW ** (min(found) - 1))[0]
    while max(found) < _FAR and found[max(found)] > target:
        found[max(found) + 1] = count(unit * _GROW ** (max(found) + 1))[0]
    target = max(target, min(found.values()))
    high = unit * _GROW ** min(k for k, steps in found.items() if steps <= target)
    if math.isfinite(target):
        high = _least(lambda x: count(x)[0] <= target, high / _GROW, high, _CLOSE)
    return high, target


def _least(holds: Callable[[float], bool], low: float, high: float, close: float) -> float:
    """Return the least x at which `holds` is true, by bisection up to the factor `close`. It is true at `high`."""
    while high > low * close:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _fewest(bounds: DescentBounds, until: float, target: float) -> tuple[float, float]:
    """Return the fewest certified steps found to a fraction of the gap, and their step size; (inf, 0) if none.

    The step size is tuned only as long as this decides whether the number of steps is at most `target`.
    """
    safe = bounds.advise()
    if safe == 0 or bounds.gap <= 0:
        return (0 if safe else math.inf), safe

    def score(eta: float) -> tuple[float, float, float]:
        """Return the number of steps to the fraction, the gap after them, and η."""
        held = bounds.at(eta)
        decreases = None if held is None else held.decreases(bounds.gamma)
        if decreases is None or decreases.min() <= 0:
            return math.inf, math.inf, eta
        curve = LevelStepCurve.of(bounds.levels, decreases, eta)
        steps = curve.steps(until * bounds.gap)
        return steps, curve.gap_after(steps), eta

    held = bounds.at(safe)
    assert held is not None  # `advise` returns what `at` certifies
    best = score(safe)
    # 1/β gives the least factor. β falls with the gap, and the drift it costs grows with η.
    for eta in (1 / float(held.betas[0]), 1 / float(held.betas[-1]), *(safe * x for x in _NEARBY)):
        if best[0] <= target or best[0] > _TUNED * target + 2:
            break
        best = min(best, score(eta))
    return (best[0], best[2]) if math.isfinite(best[0]) else (math.inf, safe)
