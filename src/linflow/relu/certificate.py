"""Guarantees for the training of a two-layer ReLU network, before any run is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from linflow._support import checks
from linflow._support.fractions import FRACTIONS
from linflow._support.html import block, folded_reasons, never_raising, notes, table
from linflow._support.words import percent, shown
from linflow.certificates._base import Guarantee, finite
from linflow.certificates.curves import Curve
from linflow.certificates.promises import Promises
from linflow.relu.aligned import FORMS, Classification, aligned_phase, labels
from linflow.relu.floor import Floor
from linflow.relu.layers import TwoLayers
from linflow.relu.lazy import Lazy
from linflow.relu.movement import Movement, Mover
from linflow.relu.network import Network, examples
from linflow.relu.path import Path, march
from linflow.relu.problem import Regression, Start
from linflow.relu.smooth import SmoothNetwork
from linflow.relu.steps import Descent, Steps

RESTS_ON = "float64 numbers; their rounding is allowed for, but not proved"
SOURCE = "linflow, docs/relu.md"
LARGER = "enlarge the second layer or the width, or certify again from a later time of a run"


@dataclass(frozen=True, repr=False)
class Certificate(Promises):
    """Every guarantee of a start of a ReLU network, best first. `print` shows them as a table.

    `rate`, `time_to`, `gap_at` and `check` are those of `lf.Certificate`.

    Attributes:
        guarantees: ordered by the time to 10⁻⁶ of the initial loss, fastest first. Those that do not apply come last
            and say why in `reason`.
        objective: the loss.
        start: the network.
        gap: the initial loss; its minimum is taken to be 0.
        algorithm: "flow" or "descent".
        step_size: η of the descent; None for the flow.
        notes: messages on conversions of the input to float64.
        movement: how far each neuron can move along the whole run; None without a certificate.
    """

    guarantees: tuple[Guarantee, ...]
    objective: Regression | Classification
    start: TwoLayers
    gap: float
    algorithm: str = "flow"
    step_size: float | None = None
    notes: tuple[str, ...] = ()
    movement: Movement | None = None

    schedule: None = None

    @property
    def rests_on(self) -> str:
        """What the guarantees rest on."""
        return RESTS_ON

    @property
    def reason(self) -> str:
        """Why no guarantee applies; empty if one does."""
        return "" if self.best else self.guarantees[0].reason

    @property
    def prover(self) -> str:
        """The function that can prove the run itself, with its arguments; empty if none can."""
        known = isinstance(self.objective, Regression) and isinstance(self.start, Network)
        fits = known and 0 < self.gap < math.inf
        return "relu.enclose(X, Y, network" if fits else ""

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references behind the guarantees that apply, and the software."""
        return frozenset({"linflow"}).union(*(g.citations for g in self.guarantees if g.applies))

    @cached_property
    def may_flip(self) -> np.ndarray:
        """Which pairs of a sample and a neuron may change their sign, shape `(N, h)`; all without a certificate."""
        if self.movement is None:
            return np.ones((len(self.objective.X), self.start.width), dtype=bool)
        return ~self.movement.frozen.T

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as plain data, ready for JSON: infinities become None."""
        descent = self.algorithm == "descent"
        return {
            "algorithm": self.algorithm,
            "step_size": None if self.step_size is None else finite(self.step_size),
            "widths": list(self.start.widths),
            **self.start.facts(),
            "bias": self.start.bias is not None,
            "initial_gap": finite(self.gap),
            "rate": self.rate,
            "time_to": {f"{x:g}": finite(self.time_to(x)) for x in FRACTIONS},
            "steps_to": {f"{x:g}": finite(self.steps_to(x)) for x in FRACTIONS} if descent else None,
            "guarantees": [g.to_dict() for g in self.guarantees],
            "rests_on": self.rests_on,
            "notes": list(self.notes),
        }

    @shown
    def __str__(self) -> str:
        step = f", gradient descent with step {self.step_size:.4g}" if self.step_size is not None else ""
        head = f"{self.start!r}, {len(self.objective.X)} samples, initial loss {self.gap:.4g}{step}"
        tables = self.text_tables({"guarantee": self.guarantees})
        return "\n".join([self.headline, head, f"rests on {RESTS_ON}", *self.notes, *tables])

    def _repr_html_(self) -> str:
        return never_raising(_view, self)

    def __repr__(self) -> str:
        return f"Certificate(rate={self.rate:.4g}, {self.best.name if self.best else 'none applies'})"


def certify(
    X: Any,
    Y: Any,
    network: Any,
    *,
    loss: str = "squared",
    algorithm: str = "flow",
    step_size: float | None = None,
) -> Certificate:
    """Return the guarantees on training `½‖σ(XU + 1bᵀ)V − Y‖_F²` from this start.

    *Flow.* While the path `τ = ∫‖R‖dt` of the residual is at most some τ, Lemma 1 bounds how far every neuron moved,
    so that most signs of pre-activations are known, and Theorem 1 gives a floor `λ(τ)` of `λ_min(H)`,
    `−L̇ = ⟨R, H(R)⟩`. *If `∫_0^{τ*} λ dτ ≥ ‖R(0)‖` and `λ(τ*) > 0`, then `τ ≤ τ*` for ever, and the loss falls at
    least at the rate `2λ(τ*)`* (Theorem R⁺). The flow may be any solution in the sense of Filippov.

    *Classification.* If `y_i y_k ⟨x_i, x_k⟩ ≥ 0` for all samples, and every neuron is active on exactly the samples
    of its class, or on none, this stays so, and the loss falls like 1/t (Theorem A). Ask it of any time of a run.

    *Smooth activations.* The same with `√λ(τ) = σ_min(J(0)) − ‖J − J(0)‖` and the Jacobian J (Theorem S).

    *Descent.* The same with what a step of size η may lose (Theorem 3): `‖R_{k+1}‖ ≤ (1 − ηΛ)‖R_k‖` at every step.

    Args:
        X: inputs, shape `(N, d)`.
        Y: targets, shape `(N, m)`, or `(N,)` for one output.
        network: a `relu.Network` or a `relu.SmoothNetwork`; two layers stand for a ReLU without bias.
        loss: "squared"; or, for labels ±1 and one output, "exponential" or "logistic", sums over the samples.
        algorithm: "flow" or "descent".
        step_size: η of the descent; None takes `relu.safe_step_size`.

    Returns:
        A `Certificate`. If nothing can be certified, `reason` says why.

    Raises:
        ValueError, TypeError: invalid arrays, an unknown loss, or a step size for the flow.

    Source: docs/relu.md, Theorems R⁺, 3, S and A.

    Example:
        >>> import numpy as np
        >>> from linflow import relu
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((6, 12)) / 12**0.5, rng.standard_normal(6)
        >>> cert = relu.certify(X, Y, relu.paired((12, 400, 1), 3.0, rng=0))
        >>> cert.rate > 100, int(cert.may_flip.sum()), cert.may_flip.size
        (True, 16, 2400)
    """
    descends = checks.choice(algorithm, "algorithm", ("flow", "descent")) == "descent"
    if step_size is not None and not descends:
        raise ValueError(f'step_size is {step_size!r}, but the flow takes no steps; say algorithm="descent".')
    net = two_layers(network)
    problem = problem_of(X, Y, net, loss)
    if descends and isinstance(problem, Classification):
        raise ValueError(f"the loss {loss!r} is certified for the flow only; leave algorithm out.")
    if isinstance(net, SmoothNetwork) and (descends or isinstance(problem, Classification)):
        what = "a descent" if descends else f"the loss {loss!r}"
        raise ValueError(f"{net!r} is certified for the flow of the squared loss only, not for {what}.")
    with np.errstate(over="ignore", invalid="ignore"):  # what leaves float64 is refused, and the reason says so
        return _certificate(problem, net, descends, step_size)


def _certificate(
    problem: Regression | Classification, net: Network | SmoothNetwork, descends: bool, step_size: float | None
) -> Certificate:
    """Return the guarantees for checked data."""
    gap, said = problem.loss(net), (*problem.notes, *net.notes)
    if isinstance(net, SmoothNetwork):
        assert isinstance(problem, Regression)
        return Certificate((_lazily(problem, net, gap),), problem, net, gap, notes=said)
    if isinstance(problem, Classification):
        reason, tail, facts = aligned_phase(problem, net)
        found = guarantee(gap, "aligned phase", "Theorem A", reason, tail, facts, problem.of_outputs.citations)
        return Certificate((found,), problem, net, gap, notes=said)
    start = Start.of(problem, net)
    if not descends:
        path, movement, reason, facts = follow(start)
        curve = None if path is None else path_curve(path, start)
        found = guarantee(gap, "path of the residual", "Theorem R⁺", reason, curve, facts)
        return Certificate((found,), problem, net, gap, notes=said, movement=movement)
    eta, steps, reason = stepped(start, step_size)
    curve = None if steps is None or eta is None else steps.curve(gap, eta)
    facts = {} if steps is None else {"Λ": math.ldexp(steps.gain, start.rate_power)}
    found = guarantee(gap, "steps of the residual", "Theorem 3", reason, curve, facts)
    movement = None if steps is None else steps.movement
    return Certificate((found,), problem, net, gap, "descent", eta, said, movement)


def stepped(start: Start, step_size: float | None) -> tuple[float | None, Steps | None, str]:
    """Return the step in the units of the data, what is certified of it, and the reason if nothing is."""
    eta = None if step_size is None else checks.positive(step_size, "step_size")
    if start.unfit:
        return eta, None, start.unfit
    descent = Descent(start)
    if eta is None:
        steps = descent.best()
        eta = math.ldexp(steps.step_size, -start.rate_power)
        way = f"nor is any of the shorter ones tried certified; {LARGER}"
    else:
        steps, way = descent.certify(math.ldexp(eta, start.rate_power)), "shorten the step"
    if steps.gain > 0:
        return eta, steps, ""
    return (
        eta,
        None,
        f"with the step {eta:.3g}, only {percent(steps.covered)} of the residual is proved to vanish; {way}",
    )


def safe_step_size(X: Any, Y: Any, network: Any) -> float:
    """Return the step of gradient descent, of a few, with the best certificate: the largest `ηΛ`.

    Args:
        X: inputs, shape `(N, d)`.
        Y: targets, shape `(N, m)`, or `(N,)` for one output.
        network: a `relu.Network`; two layers stand for a ReLU without bias.

    Raises:
        ValueError: no step can be certified; the message says why.

    Source: docs/relu.md, Theorem 3.

    Example:
        >>> import numpy as np
        >>> from linflow import relu
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((6, 12)) / 12**0.5, rng.standard_normal(6)
        >>> net = relu.paired((12, 400, 1), 5.0, rng=0)
        >>> eta = relu.safe_step_size(X, Y, net)
        >>> cert = relu.certify(X, Y, net, algorithm="descent", step_size=eta)
        >>> cert.check(relu.gradient_descent(X, Y, net, step_size=eta, until=1e-6)).holds
        True
    """
    net = Network.of(network)
    start = Start.of(regression(X, Y, net), net)
    eta, steps, reason = stepped(start, None)
    if eta is None or steps is None:
        raise ValueError(f"no step is certified: {reason}.")
    return eta


def two_layers(network: Any) -> Network | SmoothNetwork:
    """Return a network of either kind as it is, and two layers as a ReLU network."""
    return network if isinstance(network, SmoothNetwork) else Network.of(network)


def problem_of(X: Any, Y: Any, net: TwoLayers, loss: str) -> Regression | Classification:
    """Check the data and the name of the loss, and return the problem."""
    if checks.choice(loss, "loss", ("squared", *FORMS)) == "squared":
        return regression(X, Y, net)
    return labels(X, Y, net, loss)


def regression(X: Any, Y: Any, net: TwoLayers) -> Regression:
    """Check the data and return the regression."""
    rows, targets, notes = examples(X, Y, net)
    return Regression(rows, targets, notes=notes)


def guarantee(
    gap: float,
    name: str,
    theorem: str,
    reason: str,
    curve: Curve | None,
    facts: dict[str, float],
    cited: frozenset[str] = frozenset(),
) -> Guarantee:
    """Return a row of the certificate."""
    return Guarantee(
        name=name,
        source=f"{SOURCE}, {theorem}",
        citation=("linflow", "du2018", *sorted(cited)),
        reason=reason,
        curve=curve,
        gap=gap,
        minimum=0.0,
        facts=facts,
    )


def path_curve(path: Path, start: Start) -> Curve:
    """Return the bound on the loss in the units of the data."""
    return path.curve(2.0 ** (2 * start.input_power + 4 * start.weight_power), 2.0**start.rate_power)


def follow(start: Start, way: str = LARGER) -> tuple[Path | None, Movement | None, str, dict[str, float]]:
    """Return the path that closes, the movement at its end, the reason if none closes with a way out, and facts."""
    if start.unfit:
        return None, None, start.unfit, {}
    floor, mover = Floor(start), Mover(start)
    first = mover.at(0.0)
    least = floor.at(first) if first is not None else 0.0
    facts = {"λ_min(H(0)), at least": math.ldexp(least, start.rate_power)}

    def at(tau: float) -> float:
        movement = mover.at(tau)
        return 0.0 if movement is None else floor.at(movement)

    found, reason = closing(at, start.residual, least, mover.reset, way)
    if found is None:
        return None, None, reason, facts
    mover.reset()
    movement = mover.at(float(found.paths[-1]))
    assert movement is not None  # the march came to this path
    facts["path τ*"] = math.ldexp(float(found.paths[-1]), -start.input_power)
    facts["pairs that may flip"] = float((~movement.frozen).sum())
    return found, movement, "", facts


def closing(
    at: Callable[[float], float],
    residual: float,
    least: float,
    reset: Callable[[], None] = lambda: None,
    way: str = LARGER,
) -> tuple[Path | None, str]:
    """Return the path that uses up the residual, or the reason why there is none.

    Args:
        at: a floor of `λ_min(H)` for all paths up to its argument, called with increasing arguments after `reset`.
        residual: an upper bound on `‖R(0)‖`.
        least: the floor at the start.
        reset: called before each march.
        way: what to do if the path does not close.
    """
    if least <= 0:
        return None, "λ_min(H) is 0 at the start, or cannot be told from 0; widen the network"
    found: Path | None = None
    for finer in (1, 4):
        reset()
        found = march(at, residual, residual / least, finer)
        if found.closes or not found.might_close:
            break
    assert found is not None
    if found.closes:
        return found, ""
    part = percent(found.covered)
    return None, f"the floor of λ_min(H) falls to 0 when only {part} of the residual is proved to vanish; {way}"


def _lazily(problem: Regression, net: SmoothNetwork, gap: float) -> Guarantee:
    """Return the row of a smooth network."""
    lazy = Lazy(problem, net)
    path, reason, facts = None, lazy.unfit, {}
    if not reason:
        least = lazy.at(0.0)
        facts = {"λ_min(H(0)), at least": least}
        path, reason = closing(lazy.at, lazy.residual, least)
    curve = None
    if path is not None:
        curve, facts = path.curve(1.0, 1.0), {**facts, "path τ*": float(path.paths[-1])}
    return guarantee(gap, "path of the residual", "Theorem S", reason, curve, facts)


def _view(certificate: Certificate) -> str:
    """Return HTML with the guarantees that apply; the others and their reasons are folded away."""
    applying = [g for g in certificate.guarantees if g.applies]
    body = "<div>no guarantee applies</div>"
    if applying:
        body = table(("guarantee", "rate", "source"), [(g.name, f"{g.rate:.4g}", g.source) for g in applying])
    body += folded_reasons([(g.name, g.reason) for g in certificate.guarantees if not g.applies])
    head = f"gradient {certificate.algorithm}, initial loss {certificate.gap:.4g}"
    return block("Certificate", head, body, notes(certificate.notes))
