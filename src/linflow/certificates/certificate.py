"""All guarantees of a start, best first, and their comparison with a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from linflow._support import checks
from linflow._support.arrays import namespace, norm
from linflow._support.deprecation import renamed_attributes
from linflow._support.digits import number
from linflow._support.fractions import FRACTIONS, SHOWN
from linflow._support.html import block, folded_reasons, never_raising, notes, table
from linflow._support.words import shown
from linflow.certificates._base import Guarantee, finite
from linflow.certificates.curves import Curve, ExponentialCurve, StepCurve
from linflow.certificates.descent import descent_guarantees
from linflow.certificates.exponential import exponential
from linflow.certificates.heavy_ball import heavy_ball
from linflow.certificates.imbalance_law import ImbalanceGuarantee, imbalance_guarantee
from linflow.certificates.low_rank import low_rank
from linflow.certificates.prior import prior_results
from linflow.certificates.promises import Promises
from linflow.certificates.scheduled_descent import schedule_guarantees
from linflow.certificates.setting import Setting
from linflow.certificates.tail import exponential_tail
from linflow.dynamics.descent import Constant
from linflow.model.fitting import fitted
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.optimizer import PLAIN, Optimizer

if TYPE_CHECKING:
    from linflow.dynamics.descent import Schedule

ALGORITHMS = ("flow", "descent")
ALLOWED_FOR = "float64 numbers; their rounding is allowed for, but not proved (rigorous=True proves it)"
"""What the guarantees of a certificate rest on, in words."""


@renamed_attributes(network="start")
@dataclass(frozen=True, repr=False)
class Certificate(Promises):
    """Every guarantee of a start, best first. `print` shows them as a table.

    Attributes:
        guarantees: ordered by the time to 10⁻⁶ of the initial gap, fastest first. Those that do not apply come
            last and say why in `reason`.
        objective: what is minimised.
        start: the network.
        gap: initial loss gap.
        algorithm: "flow" or "descent".
        step_size: η of the descent; None for the flow and for a schedule.
        notes: messages on conversions of the input to float64.
        schedule: the rule for the steps of the descent; None for the flow and for a constant step.
        optimizer: layer rates, weight decay and friction of what is certified. With layer rates, T, γα and the
            imbalances are those of the layers `W_l/√ρ_l`.
        imbalance: what is certain about the imbalances of the flow; None for a descent, whose guarantees name their
            cap on the drift, and if nothing is known.
    """

    guarantees: tuple[Guarantee, ...]
    objective: Objective
    start: Network
    gap: float
    algorithm: str = "flow"
    step_size: float | None = None
    notes: tuple[str, ...] = ()
    schedule: Schedule | None = None
    optimizer: Optimizer = PLAIN
    imbalance: ImbalanceGuarantee | None = None

    @cached_property
    def setting(self) -> Setting:
        """The subject of the guarantees, with the quantities they use: the restricted pair, margins, imbalance, T."""
        return Setting(self.objective, self.optimizer.coordinates(self.start), self.algorithm)

    @property
    def pl_constant(self) -> float:
        """Gradient dominance γ of the objective, below the level of the start."""
        return self.setting.gamma

    @property
    def rests_on(self) -> str:
        """What the guarantees rest on: rounding bounds that are proved, or a reasoned allowance for rounding."""
        return ALLOWED_FOR

    @property
    def stays(self) -> bool:
        """Whether two layers are 0: then the gradient is 0, and the run never leaves its start."""
        weights = self.start.weights
        zero = [not bool(namespace(W).any(W != 0)) for W in weights]
        return self.gap > 0 and self.optimizer.plain and sum(zero) >= 2

    @property
    def prover(self) -> str:
        """The function that can prove the run itself, with its arguments; empty if none can."""
        fits = self.optimizer.plain and 0 < self.gap < math.inf and not self.stays
        return "lf.enclose(objective, network" if fits else ""

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references behind the guarantees that apply, the objective, and the software."""
        applying = (g.citations for g in self.guarantees if g.applies)
        return frozenset({"linflow"}).union(self.objective.citations, *applying)

    def loss_at(self, t: Any) -> Any:
        """Return an upper bound on the loss at a time or times t."""
        return self.objective.minimum + self.gap_at(t)

    @cached_property
    def baseline(self) -> Guarantee:
        """The rate of a single layer with the same product: a comparison, not a statement on this network.

        The flow `Ẇ = −∇f(W)` has the rate γ. Descent with the same step η has the factor `1 − η(1 − ηK/2)γ`.
        """
        setting, eta = self.setting, self.step_size
        gamma, K = setting.gamma, setting.objective.smoothness
        curve: Curve | None = None
        reason = setting.beyond_float64
        if not self.optimizer.only_rates:
            reason = f"it is for the plain gradient, but this certificate is for {self.optimizer}"
        elif gamma == 0:
            reason = "no pl_constant is known for the objective"
        elif reason:
            pass
        elif self.algorithm == "flow":
            curve = ExponentialCurve(self.gap, gamma)
        elif eta is None:
            reason = "it takes one step size, but this certificate is for a schedule"
        elif not eta * K < 2:
            reason = f"the step {eta:.3g} is not below 2/K = {2 / K:.3g}"
        else:
            curve = StepCurve(self.gap, eta, min(1.0, eta * (1 - eta * K / 2) * gamma))
        return setting.guarantee(
            name="one layer instead",
            source="gradient dominance (Polyak 1963)",
            citation=("karimi2016",),
            reason=reason,
            curve=curve,
        )

    @cached_property
    def prior(self) -> tuple[Guarantee, ...]:
        """One row for each published result on this start: its bound, or the reason why it does not apply."""
        if not self.optimizer.only_rates:
            return ()
        return tuple(prior_results(self.setting, self.guarantees, self.step_size))

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as plain data, ready for JSON: infinities become None."""
        return {
            "algorithm": self.algorithm,
            "optimizer": self.optimizer.to_dict(),
            "step_size": None if self.step_size is None else finite(self.step_size),
            "schedule": None if self.schedule is None else repr(self.schedule),
            "widths": list(self.start.widths),
            "scale": self.start.scale,
            "initial_gap": finite(self.gap),
            "pl_constant": self.pl_constant,
            "rate": self.rate,
            "time_to": {f"{x:g}": finite(self.time_to(x)) for x in FRACTIONS},
            "steps_to": (
                None if self.algorithm == "flow" else {f"{x:g}": finite(self.steps_to(x)) for x in FRACTIONS}
            ),
            "guarantees": [g.to_dict() for g in self.guarantees],
            "baseline": self.baseline.to_dict(),
            "prior": [g.to_dict() for g in self.prior],
            "rests_on": self.rests_on,
            "notes": list(self.notes),
        }

    @shown
    def __str__(self) -> str:
        head = f"initial gap {self.gap:.4g}, γ = {self.pl_constant:.4g}"
        if self.step_size is not None:
            head += f", gradient descent with step {self.step_size:.4g}"
        if self.schedule is not None:
            head += f", gradient descent with {self.schedule!r}"
        if not self.optimizer.plain:
            head += f", {self.optimizer}"
            head += "" if self.imbalance is None else f"\nimbalance: {self.imbalance.statement}"
        groups = {"guarantee": self.guarantees, "published result": self.prior, "comparison": (self.baseline,)}
        lines = [self.headline, head, f"rests on {self.rests_on}", *self.notes, *self.text_tables(groups)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return never_raising(_view, self)

    def __repr__(self) -> str:
        name = self.best.name if self.best else "none applies"
        return f"Certificate(rate={self.rate:.4g}, {name})"


def certify(
    objective: Objective,
    network: Network | Sequence[Any],
    *,
    algorithm: str = "flow",
    step_size: float | None = None,
    schedule: Schedule | None = None,
    optimizer: Optimizer = PLAIN,
) -> Certificate:
    """Return every guarantee on the gradient flow, or on gradient descent, from this start, best first.

    `linflow.certify` describes the arguments, and can prove the rounding too; `optimizer` holds its other options.
    """
    algorithm = checks.choice(algorithm, "algorithm", ALGORITHMS)
    net = fitted(objective, network)
    setting = Setting(objective, optimizer.coordinates(net), algorithm)
    notes = (*objective.notes, *net.notes)
    if algorithm == "flow":
        for name, value in (("step_size", step_size), ("schedule", schedule)):
            if value is not None:
                raise ValueError(
                    f'{name} is {value!r}, but the flow takes no steps; say algorithm="descent", or leave it out.'
                )
        law = imbalance_guarantee(optimizer, setting.whole_network, setting.gap)
        found = _on_flow(setting, optimizer)
        return Certificate(
            _sorted(found), objective, net, setting.gap, notes=notes, optimizer=optimizer, imbalance=law
        )
    _refuse_descent(optimizer)
    if schedule is not None:
        if step_size is not None:
            raise ValueError(f"both step_size = {step_size!r} and schedule = {schedule!r} are given; leave one out.")
        if isinstance(schedule, Constant):
            step_size = schedule.step_size
        else:
            found = schedule_guarantees(setting, schedule)
            return Certificate(
                _sorted(found), objective, net, setting.gap, algorithm, None, notes, schedule, optimizer
            )
    eta, found = descent_guarantees(setting, step_size)
    return Certificate(_sorted(found), objective, net, setting.gap, algorithm, eta, notes, optimizer=optimizer)


def _on_flow(setting: Setting, optimizer: Optimizer) -> list[Guarantee]:
    """Return the guarantees on the loss along the flow of an optimizer, in whose coordinates the setting is."""
    if optimizer.weight_decay:
        reason = (
            "with weight decay the loss does not fall to f*; lf.optimality_gap(…, weight_decay=) bounds how far any "
            "weights are from the best value of the loss with decay"
        )
        row = setting.guarantee(
            name="loss", source="linflow, docs/optimisers.md", citation=("linflow",), reason=reason
        )
        # The loss with decay never rises, but the loss alone may.
        decays, layers = optimizer.decays(setting.whole_network.depth), setting.whole_network.weights
        penalty = sum(0.5 * k * norm(V) * norm(V) for k, V in zip(decays, layers, strict=True))
        return [replace(row, ceiling=(setting.gap + penalty) * (1 + 1e-12))]
    if optimizer.friction is not None:
        return [heavy_ball(setting, optimizer.friction)]
    return [*exponential(setting), *exponential_tail(setting), *low_rank(setting)]


def _refuse_descent(optimizer: Optimizer) -> None:
    """Raise ValueError if no guarantee is known for descent with these options."""
    for given, word, way in (
        (optimizer.friction is not None, "friction", "friction= is for the flow"),
        (optimizer.momentum, "momentum", "certify(…, friction=) is about the heavy-ball flow"),
        (optimizer.weight_decay, "weight decay", "lf.optimality_gap bounds the excess of any weights"),
    ):
        if given:
            raise ValueError(
                f"no guarantee on the loss is known for descent with {word}: {way}, and the law of the imbalance is "
                'exact along a run (gradient_descent(…, record="law_error")). Leave it out for plain descent.'
            )


def _sorted(guarantees: Sequence[Guarantee]) -> tuple[Guarantee, ...]:
    """Sort by the time to 10⁻⁶ of the gap, then by the time to 10⁻² for guarantees that never reach 10⁻⁶."""
    return tuple(sorted(guarantees, key=lambda g: (not g.applies, g.time_to(1e-6), g.time_to(1e-2))))


def _view(certificate: Certificate) -> str:
    """Return HTML with the guarantees that apply, best first; the others and their reasons are folded away."""
    applying = [g for g in certificate.guarantees if g.applies]
    rest = [g for g in certificate.guarantees if not g.applies]
    flow = certificate.algorithm == "flow"
    head = f"gradient {certificate.algorithm}, initial gap {certificate.gap:.4g}, γ = {certificate.pl_constant:.4g}"
    if certificate.step_size is not None:
        head += f", step {certificate.step_size:.4g}"
    if certificate.schedule is not None:
        head += f", {certificate.schedule!r}"
    head += "" if certificate.optimizer.plain else f", {certificate.optimizer}"
    body = "<div>no guarantee applies</div>"
    if applying:
        titles = ("guarantee", "rate", *(f"{'time' if flow else 'steps'} to {x}" for x in SHOWN), "source")
        rows = []
        for g in applying:
            arrivals = (number(certificate.arrival(g, float(x))) for x in SHOWN)
            rows.append((g.name, f"{g.rate:.4g}", *arrivals, g.source))
        body = table(titles, rows)
    body += folded_reasons([(g.name, g.reason) for g in rest])
    return block("Certificate", head, body, notes(certificate.notes))
