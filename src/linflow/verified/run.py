"""The function `lf.enclose`: a verified run of gradient flow or gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from linflow._support import checks
from linflow._support.arrays import from_numpy, is_numpy, to_numpy
from linflow._support.threads import one_thread_when_small
from linflow.dynamics.descent import Iterate, Schedule, constant_step, scheduled_step
from linflow.dynamics.field import GradientField
from linflow.model.classification import ExponentialTail
from linflow.model.fitting import fitted
from linflow.model.huber import Huber
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import PLAIN, Optimizer
from linflow.model.sensing import Completion, Sensing
from linflow.model.softmax import SoftmaxLoss
from linflow.verified.arithmetic import FIRST_PAIRS, FLOAT64, PAIRS, Arithmetic
from linflow.verified.classification import TailGradient
from linflow.verified.convex_descent import ConvexDescentMarch
from linflow.verified.convex_march import ConvexMarch
from linflow.verified.declared import DeclaredGradient
from linflow.verified.declared_march import ACCURACY, DeclaredMarch
from linflow.verified.descent import DescentEnclosure, DescentMarch, StepRule, enclose_descent
from linflow.verified.enclosure import Enclosure
from linflow.verified.flow import enclose_flow
from linflow.verified.huber import HuberGradient
from linflow.verified.march import EnclosureMarch, rounded_up
from linflow.verified.momentum import MomentumMarch
from linflow.verified.operators import OperatorGradient
from linflow.verified.problem import AffineGradient, affine_gradient
from linflow.verified.reduction import Narrowed, narrowed
from linflow.verified.smooth import ConvexGradient
from linflow.verified.softmax import SoftmaxGradient
from linflow.verified.tail_enclosure import ConvexEnclosure, TailEnclosure
from linflow.verified.tail_march import TailMarch

DIGITS = 8
"""A proof with a larger exponent than this that ends early, or is loose, is tried again with twice the digits."""

LOOSE, DEEP, LOOSE_DEEP = 2e-4, 1e-6, 2e-3
"""A proof is loose if the bounds of the time of its target are farther apart than 2·10⁻⁴, relative to the upper one;
below 10⁻⁶ of the first gap, than 2·10⁻³."""

SPARE, UNKNOWN = 60, 3e7
"""A path is in pairs until a disturbance of its start has grown by 60 times the factor by which a proof in float64
is too loose, as later steps add larger errors. Where such a proof ended early, the whole number is 3·10⁷."""

SHARP = 0.5
"""Such a path is kept where it is no looser than this part of what is loose."""

STEPS = 100_000
"""Default limit on the steps of a verified descent."""


@overload
def enclose(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    until: float | None = None,
    t_max: float | None = None,
    max_steps: int = 5000,
    algorithm: Literal["flow"] = "flow",
    progress: Callable[[float], None] | None = None,
) -> Enclosure: ...


@overload
def enclose(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    until: float | None = None,
    algorithm: Literal["descent"],
    step_size: float | None = None,
    schedule: Schedule | None = None,
    steps: int | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    progress: Callable[[float], None] | None = None,
) -> DescentEnclosure: ...


def enclose(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    until: float | None = None,
    t_max: float | None = None,
    max_steps: int = 5000,
    algorithm: str = "flow",
    step_size: float | None = None,
    schedule: Schedule | None = None,
    steps: int | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Enclosure | DescentEnclosure:
    """Prove, by computation, where exact gradient flow or exact gradient descent goes from this start.

    Taylor polynomials θ̃ follow the flow. Around them, a radius ρ satisfies `ρ' ≥ m ρ + ‖θ̃' + ∇L(θ̃)‖`, where m
    bounds `−λ_min(∇²L)` at all weights within ρ. Then the exact flow exists and stays within ρ of θ̃. For a descent
    with steps `η_k`, the radius satisfies `ρ_{k+1} ≥ max(1 + η_k m, η_k M − 1) ρ_k + r_k`, where `M ≥ λ_max(∇²L)` and
    `r_k` bounds the rounding of the step. All rounding is bounded. The start need not satisfy any condition.

    A schedule chooses each step from the computed weights. The proof is about exact descent with these steps, which
    are in `step_sizes`.

    With momentum the run is computed first, then a metric backwards along it, in which no step magnifies an error.
    This takes a quadratic objective and at most 300 weights after the hidden layers are narrowed.

    Args:
        objective: `MatrixFactorization`, `LinearRegression`, `Quadratic`, `Sensing`, `Completion`,
            `Huber`, `ExponentialLoss`, `LogisticLoss`, `SoftmaxLoss`, or a convex `Objective` that declares its
            smoothness and errors, and for a flow `hessian_lipschitz`.
        network: a `Network` or its weights.
        until: fraction of the initial loss gap to prove; 1e-6 if until, t_max and steps are all left out.
        t_max: time at which the flow stops.
        max_steps: limit on the steps of the flow's path.
        algorithm: "flow", or "descent" for gradient descent.
        step_size: a constant step η of the descent.
        schedule: a rule for the step, used instead of `step_size`; see `linflow.schedules`.
        steps: largest number of steps of the descent; 100 000 if left out.
        momentum: `μ` in [0, 1) of the descent, `v ← μv + ∇L`, `θ ← θ − ηv` from `v = 0`, as in `torch.optim.SGD`.
        nesterov: whether to use Nesterov's form, `θ ← θ − η(∇L + μv)`.
        progress: called after each step with the fraction done.

    Returns:
        An `Enclosure` for the flow, a `DescentEnclosure` for a descent. If the proof ends early, its `reason` says
        how far it reaches and why it ended.

    Raises:
        ValueError, TypeError: the arguments do not fit together, or the objective does not declare what a proof
            needs, or it is not quadratic and there is a momentum.

    Source: this library, docs/verified.md.

    Example:
        >>> import numpy as np, linflow as lf
        >>> f = lf.MatrixFactorization(np.diag([2.0, 1.0]))
        >>> net = lf.init.gaussian((2, 4, 2), rng=0)
        >>> enc = lf.enclose(f, net, until=1e-6)
        >>> low, high = enc.time_bounds(1e-6)
        >>> seen = lf.gradient_flow(f, net, until=1e-7).time_to(1e-6)
        >>> enc.result, bool(high / low - 1 < 1e-6), bool(low * (1 - 1e-6) < seen < high * (1 + 1e-6))
        ('target proved', True, True)
        >>> lf.enclose(f, net, algorithm="descent", step_size=0.1, until=1e-6).steps_bounds(1e-4)
        (14, 14)
        >>> rule = lf.schedules.backtracking()
        >>> lf.enclose(f, net, algorithm="descent", schedule=rule, until=1e-6).steps_bounds(1e-4)
        (7, 7)
        >>> heavy = lf.enclose(f, net, algorithm="descent", step_size=0.1, momentum=0.5, until=1e-6)
        >>> heavy.steps_bounds(1e-4)
        (12, 12)
    """
    algorithm = checks.choice(algorithm, "algorithm", ("flow", "descent"))
    of_descent = {"step_size": step_size, "schedule": schedule, "steps": steps, "momentum": momentum or None}
    _refuse(algorithm, {"t_max": t_max}, of_descent | {"nesterov": nesterov or None})
    until = checks.fraction(until, "until") if until is not None else None if t_max or steps else 1e-6
    begin = _Beginning.of(objective, network, algorithm)
    if algorithm == "flow":
        end = math.inf if t_max is None else checks.positive(t_max, "t_max")
        return begin.flow(until, end, checks.count(max_steps, "max_steps"), progress)
    eta = constant_step(step_size, schedule) or begin.rule(schedule)
    steps = STEPS if steps is None else checks.count(steps, "steps")
    optimizer = Optimizer.of(begin.network.depth, momentum=momentum, nesterov=nesterov)
    return begin.descent(eta, until, steps, progress, optimizer=optimizer)


def descent_and_flow(
    objective: Objective,
    network: Network | Sequence[Any],
    eta: float,
    until: float,
    steps: int,
    progress: Callable[[float], None] | None,
) -> tuple[DescentEnclosure, list[list[np.ndarray]], Enclosure]:
    """Return a verified descent with its iterates, and the verified flow over the same time and coordinates."""
    begin = _Beginning.of(objective, network, "flow")
    iterates: list[list[np.ndarray]] = []
    descent = begin.descent(eta, until, steps, progress, iterates)
    return descent, iterates, begin.flow(None, max(descent.steps, 1) * eta * (1 + 1e-9), 5000, progress)


@dataclass(frozen=True)
class _Beginning:
    """A prepared start: its gradient with proved errors, its narrow weights and its notes."""

    objective: Objective
    network: Network
    problem: AffineGradient | ConvexGradient
    narrow: Narrowed
    notes: tuple[str, ...]

    @classmethod
    def of(cls, objective: Objective, network: Network | Sequence[Any], algorithm: str) -> _Beginning:
        net = fitted(objective, network)
        if isinstance(objective, ExponentialTail):
            problem: AffineGradient | ConvexGradient = TailGradient.of(objective)
        elif isinstance(objective, (Sensing, Completion)):
            problem = OperatorGradient.over(objective, net.weights[0])
        elif isinstance(objective, SoftmaxLoss):
            problem = SoftmaxGradient.over(objective, net.weights[0])
        elif isinstance(objective, Huber):
            problem = HuberGradient.over(objective, net.weights[0])
        elif objective.derived:
            problem = affine_gradient(objective)
        else:
            problem = DeclaredGradient.of(objective, net.weights[0], algorithm)
        weights = [np.ascontiguousarray(W if is_numpy(W) else to_numpy(W), dtype=np.float64) for W in net.weights]
        return cls(objective, net, problem, narrowed(weights), (*objective.notes, *net.notes, *problem.notes))

    def _march(
        self, until: float | None, arithmetic: Arithmetic, finer: float = 1.0, coarse_from: float = math.inf
    ) -> EnclosureMarch | ConvexMarch:
        problem, narrow, scale = self.problem, self.narrow, self.network.scale
        if isinstance(problem, TailGradient):
            return TailMarch(problem, narrow.weights, scale, narrow.radius)
        if isinstance(problem, DeclaredGradient):
            accuracy = finer * ACCURACY * math.sqrt(1e-6 if until is None else until)
            return DeclaredMarch(problem, narrow.weights, scale, narrow.radius, accuracy=accuracy)
        assert isinstance(problem, AffineGradient)
        given: Any = problem, narrow.weights, scale, narrow.radius
        return EnclosureMarch(*given, arithmetic=arithmetic, fast=True, coarse_from=coarse_from)

    def flow(
        self, until: float | None, end: float, max_steps: int, progress: Callable[[float], None] | None
    ) -> Enclosure:
        with one_thread_when_small(self.narrow.weights), np.errstate(over="ignore", under="ignore", invalid="ignore"):
            march = self._march(until, FLOAT64)
            found = self._proof(march, until, end, max_steps, progress)
            magnified = march.exponent > DIGITS and self.narrow.radius == 0 and _poor(found, until)
            if magnified and isinstance(self.problem, AffineGradient) and PAIRS.fits(self.problem):
                found = self._in_pairs(found, until, end, max_steps, progress)
            elif found.result == "proof ended" and isinstance(march, DeclaredMarch) and march.t > 0:
                # The radius grew by this factor, so the defect must be as much smaller.
                march = self._march(until, FLOAT64, math.exp(-march.exponent - 1))
                found = self._proof(march, until, end, max_steps, progress)
        return found

    def _in_pairs(
        self,
        found: Enclosure,
        until: float | None,
        end: float,
        max_steps: int,
        progress: Callable[[float], None] | None,
    ) -> Enclosure:
        """Return a better proof than that in float64, from a path that is in pairs at first, or all the way."""
        for arithmetic, coarse_from in ((FIRST_PAIRS, _coarse_from(found, until)), (PAIRS, math.inf)):
            if arithmetic is PAIRS or coarse_from < math.inf:
                march = self._march(until, arithmetic, coarse_from=coarse_from)
                again = self._proof(march, until, end, max_steps, progress)
                if found.result in ("proof ended", again.result):
                    found = again
                if not _poor(again, until, SHARP):
                    break
        return found

    def _proof(
        self,
        march: EnclosureMarch | ConvexMarch,
        until: float | None,
        end: float,
        max_steps: int,
        progress: Callable[[float], None] | None,
    ) -> Enclosure:
        """Return the proof that a march leads to."""
        result, reason, path = enclose_flow(march, until, rounded_up(end), max_steps, progress)
        kind: Any = Enclosure if isinstance(self.problem, AffineGradient) else ConvexEnclosure
        kind = TailEnclosure if isinstance(self.problem, TailGradient) else kind
        return kind(
            self.objective,
            self.network,
            self.problem,
            path,
            march.first,
            result,
            reason,
            self.narrow,
            self.notes,
            march.hessians,
        )

    def rule(self, schedule: Schedule | None) -> StepRule:
        """Return a schedule as a rule for the narrow weights. It reads the weights of full width."""
        field, first = GradientField(self.objective, self.network), self.network.weights[0]

        def step(weights: list[np.ndarray], taken: Sequence[float]) -> float:
            full = self.network.with_weights([from_numpy(W, first) for W in self.narrow.expand(weights)])
            point = field.at(field.flatten(full.weights))
            return scheduled_step(schedule, Iterate(field, point, len(taken), taken[-1] if taken else None))

        return step

    def descent(
        self,
        eta: float | StepRule,
        until: float | None,
        steps: int,
        progress: Callable[[float], None] | None,
        iterates: list[list[np.ndarray]] | None = None,
        optimizer: Optimizer = PLAIN,
    ) -> DescentEnclosure:
        given: Any = self.problem, self.narrow.weights, self.network.scale, self.narrow.radius, eta
        if optimizer.momentum and not isinstance(self.problem, AffineGradient):
            raise ValueError(
                f"momentum is {optimizer.momentum!r}, which is proved for MatrixFactorization, LinearRegression and "
                f"Quadratic, not for {type(self.objective).__name__}; leave it out."
            )
        with one_thread_when_small(self.narrow.weights), np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if optimizer.momentum:
                told: Any = {"optimizer": optimizer, "until": until, "steps": steps, "progress": progress}
                march: Any = MomentumMarch(*given, **told, fast=True)
                progress = None  # all the work is done
            else:
                quadratic = isinstance(self.problem, AffineGradient)
                march = DescentMarch(*given, fast=True) if quadratic else ConvexDescentMarch(*given)
            result, reason, gaps, radii = enclose_descent(march, until, steps, progress, iterates)
        return DescentEnclosure(
            self.objective,
            self.network,
            None if callable(eta) else eta,
            gaps,
            radii,
            march.exponent,
            result,
            reason,
            march.weights,
            self.narrow,
            march.hessians,
            self.notes,
            np.array(march.taken) if callable(eta) else None,
            optimizer,
        )


def _refuse(algorithm: str, of_flow: dict[str, Any], of_descent: dict[str, Any]) -> None:
    """Raise a ValueError for arguments of the other algorithm."""
    wrong = of_descent if algorithm == "flow" else of_flow
    for name, value in wrong.items():
        if value is not None:
            other = "descent" if algorithm == "flow" else "flow"
            raise ValueError(f'{name} is {value!r}, an argument of the {other}; omit it or say algorithm="{other}".')


def _loose(until: float) -> float:
    """Return how far apart, relative to the upper one, the bounds of the time of a target may be."""
    return LOOSE if until >= DEEP else LOOSE_DEEP


def _coarse_from(found: Enclosure, until: float | None) -> float:
    """Return the time from which float64 is enough after a path in pairs, judged by a proof in float64."""
    spare, spent = UNKNOWN, 0.0
    if found.result == "target proved" and until is not None:
        low, high = found.time_bounds(until)
        spare = SPARE * (high - low) / (_loose(until) * high)
    for step in found.steps:
        spent += step.exponent
        if spent >= math.log(spare):
            return step.t + step.length
    return math.inf


def _poor(found: Enclosure, until: float | None, part: float = 1.0) -> bool:
    """Return whether a proof ended early, or bounds its time no better than this part of what is loose."""
    if found.result != "target proved" or until is None:
        return found.result == "proof ended"
    loose = part * _loose(until)
    if len(found.steps) > 1:
        before, last = found.steps[-2:]
        wide, known = (1 - step.gap[0] / step.gap[1] if step.gap[1] > 0 else 0.0 for step in (before, last))
        if 0 < last.gap[1] < before.gap[1]:
            # As long as the upper bound of the gap takes, at the pace of the last step, to fall to the lower one.
            fall = math.log(before.gap[1] / last.gap[1])
            share = min(max(math.log(before.gap[1] / (until * found.first[1])) / fall, 0.0), 1.0)
            if wide ** (1 - share) * known**share * last.length <= loose * found.end * fall:
                return False
        elif known == 0:
            return False
    low, high = found.time_bounds(until)
    return high - low > loose * high
