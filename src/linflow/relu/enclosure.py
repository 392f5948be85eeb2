"""The result of a verified flow of a ReLU network, and the function `relu.enclose` that makes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np

from linflow._support import checks
from linflow._support.threads import one_thread_when_small
from linflow.certificates import Guarantee
from linflow.relu.certificate import follow, guarantee, path_curve, regression
from linflow.relu.enclosed_descent import EnclosedDescent
from linflow.relu.network import Network
from linflow.relu.pattern_descent import PatternDescent
from linflow.relu.pattern_march import PatternMarch, Turn
from linflow.relu.pattern_path import Data
from linflow.relu.pieces import ON, SLIDING
from linflow.relu.problem import Start
from linflow.relu.trajectory import WORDS
from linflow.verified.descent import enclose_descent
from linflow.verified.enclosed import EnclosedFlow
from linflow.verified.flow import enclose_flow
from linflow.verified.march import EnclosureStep, rounded_up
from linflow.verified.rounding import UP

STEPS = 100_000
"""Default limit on the steps of a verified descent."""
HALVINGS = 60
"""Number of times an interval is halved to find where a sign becomes certain."""


@dataclass(frozen=True)
class EnclosedFlip:
    """A neuron that changes how it stands to a sample, and the times between which it does.

    Attributes:
        low: up to here the pre-activation has the sign of `before` (since the last flip of the pair).
        high: from here on it has the sign of `after` (until the next); inf if that is not reached.
        neuron: index j, from 0.
        sample: index i, from 0.
        before, after: "on" (`z_ij > 0`), "off" (`z_ij < 0`), or at the end "sliding": held at 0, up to the radius.
        slid: whether the path slid along `z_ij = 0` in between.
    """

    low: float
    high: float
    neuron: int
    sample: int
    before: str
    after: str
    slid: bool = False


@dataclass(frozen=True, repr=False)
class Enclosure(EnclosedFlow):
    """A computed proof of where the exact gradient flow of a ReLU network is: within `radius` of a computed path.

    It holds for every solution in the sense of Filippov, rounding included.

    Attributes:
        data: inputs and targets.
        start: the network at the start.
        steps: the path, step by step.
        first: bounds of the initial loss.
        result: how the run ended: "target proved", "time limit reached", "step limit reached" or "proof ended".
        reason: why the run ended early; empty if it did not.
        turns: where the path changes its pattern.
        notes: how the input was converted.
    """

    data: Data
    start: Network
    steps: tuple[EnclosureStep, ...]
    first: tuple[float, float]
    result: str
    reason: str
    turns: tuple[Turn, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def radius(self) -> np.ndarray:
        """Upper bounds of the distance of the weights, biases included, to the path up to the times `t`."""
        return np.array([0.0, *(step.radius for step in self.steps)])

    @cached_property
    def flips(self) -> tuple[EnclosedFlip, ...]:
        """Every `EnclosedFlip`, ordered by its first time.

        A pair whose sign at the start is hidden by rounding can flip at once; that is not listed.
        """
        pairs: dict[tuple[int, int], list[Turn]] = {}
        for turn in self.turns:
            pairs.setdefault((turn.sample, turn.neuron), []).append(turn)
        found = [flip for turns in pairs.values() for flip in self._flips_of(turns)]
        return tuple(sorted(found, key=lambda flip: (flip.low, flip.neuron, flip.sample)))

    def network_at(self, t: float) -> Network:
        """Return the network on the path at a time, rounded to float64. The exact one is within `radius_at(t)` of it.

        Raises:
            ValueError: the time is negative or beyond `end`.
        """
        t = checks.positive(t, "t", allow_zero=True)
        return self.start.with_layers(*self._step(t).at(t)[0])

    def radius_at(self, t: float) -> float:
        """Return an upper bound of the distance of the weights to those of `network_at(t)`.

        Raises:
            ValueError: the time is negative or beyond `end`.
        """
        step = self._step(checks.positive(t, "t", allow_zero=True))
        return (step.radius + math.hypot(*step.at(t)[1])) * UP

    def to_dict(self) -> dict[str, Any]:
        """Return the proved results as plain data."""
        flips = [
            [f.low, f.high if math.isfinite(f.high) else None, f.neuron, f.sample, f.before, f.after]
            for f in self.flips
        ]
        return super().to_dict() | {"slope": self.start.slope, "bias": self.start.bias is not None, "flips": flips}

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {len(self.flips)} flips)"

    def _gap(self, t: float) -> tuple[float, float]:
        step = self._step(t)
        layers, off = step.at(t)
        return self.data.loss(layers, (float(off[0]), float(off[1])), step.radius)

    @cached_property
    def _after(self) -> tuple[Guarantee | None, str]:
        if not self.steps:
            return None, "nothing is enclosed"
        reached = Start.of(self.data.problem, self.network_at(self.end), self.radius_at(self.end))
        path, _, reason, facts = follow(reached, "try a smaller until, or a later t_max")
        if path is None:
            return None, reason
        facts["radius"] = self.radius_at(self.end)
        curve = path_curve(path, reached)
        return guarantee(self.steps[-1].gap[1], "ever after", "Theorem R⁺ on a ball", "", curve, facts), ""

    def _sign(self, t: float, sample: int, neuron: int, step: EnclosureStep | None = None) -> int:
        """Return 1 or −1 if the pre-activation of a pair surely has this sign at a time, else 0."""
        step = step or self._step(t)
        layers, off = step.at(t)
        z = float(self.data.X[sample] @ layers[0][:, neuron])
        error = float(self.data.preactivation_error(layers[0])[sample, neuron])
        away = abs(z) - (error + float(self.data.lengths[sample]) * (step.radius + float(off[0]))) * UP
        return 0 if not away > 0 else 1 if z > 0 else -1

    def _flips_of(self, turns: list[Turn]) -> list[EnclosedFlip]:
        """Return the flips of one pair: turns of the path that no certain sign separates are one flip."""
        found: list[EnclosedFlip] = []
        first, since = 0, 0.0
        for k, turn in enumerate(turns):
            until = turns[k + 1].t if k + 1 < len(turns) else self.end
            high = math.inf
            if turn.after != SLIDING:
                high = self._certain(turn.t, until, turn)
            if math.isinf(high) and k + 1 < len(turns):
                continue
            opening = turns[first]
            low = max(since, self._certain(opening.t, since, opening))
            slid = any(SLIDING in (one.before, one.after) for one in turns[first : k + 1])
            found.append(
                EnclosedFlip(low, high, turn.neuron, turn.sample, WORDS[opening.before], WORDS[turn.after], slid)
            )
            first, since = k + 1, high
        return found

    def _certain(self, t: float, limit: float, turn: Turn) -> float:
        """Return a time between a turn and a limit, near the turn, at which the sign of its side is certain.

        It is inf after a turn, and the limit before one, if no such time is found.
        """
        later = limit > t
        wanted = 1 if (turn.after if later else turn.before) == ON else -1
        times = self.t[(self.t > t) & (self.t <= limit)] if later else self.t[(self.t < t) & (self.t >= limit)][::-1]
        near, far = t, next((x for x in times if self._sign(x, turn.sample, turn.neuron) == wanted), None)
        if far is None:
            return math.inf if later else limit
        for _ in range(HALVINGS):
            middle = 0.5 * (near + far)
            if middle in (near, far):
                break
            certain = self._sign(middle, turn.sample, turn.neuron) == wanted
            near, far = (near, middle) if certain else (middle, far)
        return float(far)


@overload
def enclose(
    X: Any,
    Y: Any,
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
    X: Any,
    Y: Any,
    network: Network | Sequence[Any],
    *,
    until: float | None = None,
    algorithm: Literal["descent"],
    step_size: float,
    steps: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> EnclosedDescent: ...


def enclose(
    X: Any,
    Y: Any,
    network: Network | Sequence[Any],
    *,
    until: float | None = None,
    t_max: float | None = None,
    max_steps: int = 5000,
    algorithm: str = "flow",
    step_size: float | None = None,
    steps: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Enclosure | EnclosedDescent:
    """Prove, by computation, where gradient flow or descent of `½‖σ(XU + 1bᵀ)V − Y‖_F²` goes from this start.

    Between flips the flow is that of a polynomial, and a Taylor polynomial follows it. A radius ρ around this path
    satisfies `ρ' ≥ m ρ + δ`, where δ bounds the defect of the path, and m bounds `max_j ‖XᵀD_{a_j}R‖₂`, the concave
    part of the loss, for all weights within ρ and all patterns these may have. A flip of sample i and neuron j with
    `(R v_j)_i ≥ 0` costs nothing, and the path may slide along it: there the loss has a convex kink. At the other
    flips two solutions part by a factor of at most `1 + (1 − slope)‖x_i‖²|(R v_j)_i|/ζ`, if the pre-activation
    crosses 0 at a speed of at least ζ. Where this cannot be proved, the proof ends. All rounding is bounded.

    A step of a descent is that of a polynomial, too: `ρ_{k+1} ≥ max(1 + ηm, ηM − 1) ρ_k + r_k`, where M bounds its
    largest curvature and `r_k` the rounding of the step. Flips cost nothing. Where the radius hides on which side of
    0 a pair is, the proof ends.

    Args:
        X: inputs, shape `(N, d)`.
        Y: targets, shape `(N, m)`, or `(N,)` for one output.
        network: a `relu.Network`; two layers stand for a ReLU without bias.
        until: fraction of the initial loss to prove; 1e-6 if neither until nor t_max is given.
        t_max: time at which the flow stops.
        max_steps: limit on the steps of the path.
        algorithm: "flow", or "descent" for gradient descent, with the slope of `z < 0` where `z = 0`.
        step_size: η of the descent.
        steps: largest number of steps of the descent; 100 000 if it is not given.
        progress: called after each step with the fraction done.

    Returns:
        A `relu.Enclosure`, which holds for every solution in the sense of Filippov, or a `relu.EnclosedDescent`. If
        the proof ends early, its `reason` says how far it reaches and why it ended.

    Raises:
        ValueError, TypeError: invalid arrays or arguments.

    Source: this library, docs/relu_verified.md.

    Example:
        >>> import numpy as np
        >>> from linflow import relu
        >>> rng = np.random.default_rng(1)
        >>> X, Y = rng.standard_normal((4, 3)), rng.standard_normal(4)
        >>> net = relu.Network(rng.standard_normal((3, 8)), rng.standard_normal((8, 1)))
        >>> enc = relu.enclose(X, Y, net, until=1e-6)
        >>> low, high = enc.time_bounds(1e-6)
        >>> enc.result, bool(high / low - 1 < 1e-6), len(enc.flips)
        ('target proved', True, 4)
        >>> flip = enc.flips[2]
        >>> flip.neuron, flip.sample, flip.before, flip.after, flip.high - flip.low < 1e-8
        (3, 0, 'off', 'on', True)
        >>> relu.enclose(X, Y, net, algorithm="descent", step_size=0.1, until=1e-2).steps_bounds(1e-2)
        (259, 259)
    """
    net = Network.of(network)
    problem = regression(X, Y, net)
    if checks.choice(algorithm, "algorithm", ("flow", "descent")) == "descent":
        if t_max is not None:
            raise ValueError(f"t_max is {t_max!r}, but descent counts steps; give steps.")
        if step_size is None:
            raise ValueError("descent needs a step: give step_size; relu.safe_step_size finds one.")
        until = checks.fraction(until, "until") if until is not None else None if steps is not None else 1e-6
        most = STEPS if steps is None else checks.count(steps, "steps")
        return _descend(Data(problem, net), checks.positive(step_size, "step_size"), until, most, progress)
    if step_size is not None or steps is not None:
        raise ValueError('step_size and steps are for descent; say algorithm="descent".')
    until = checks.fraction(until, "until") if until is not None else None if t_max is not None else 1e-6
    end = math.inf if t_max is None else checks.positive(t_max, "t_max")
    max_steps = checks.count(max_steps, "max_steps")
    with one_thread_when_small([net.U, net.V]), np.errstate(all="ignore"):
        march = PatternMarch(Data(problem, net))
        result, reason, pieces = enclose_flow(march, until, rounded_up(end), max_steps, progress)
    return Enclosure(
        march.data, net, pieces, march.first, result, reason, tuple(march.turns), (*problem.notes, *net.notes)
    )


def _descend(
    data: Data, eta: float, until: float | None, steps: int, progress: Callable[[float], None] | None
) -> EnclosedDescent:
    """Return the verified descent."""
    net = data.start
    with one_thread_when_small([net.U, net.V]), np.errstate(all="ignore"):
        march = PatternDescent(data, eta)
        result, reason, gaps, radii = enclose_descent(march, until, steps, progress)
    final, flips, notes = net.with_layers(*march.weights), tuple(march.flips), (*data.problem.notes, *net.notes)
    return EnclosedDescent(net, final, eta, gaps, radii, march.exponent, result, reason, flips, notes)
