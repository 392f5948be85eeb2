"""The audit of one chain of linear maps: its imbalances, the operator T, and what is guaranteed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from linflow._support.arrays import Array, norm, to_numpy
from linflow._support.digits import number
from linflow._support.words import in_one_line, shown
from linflow.geometry.imbalance import imbalance_spectrum
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.spectrum import ImbalanceSpectrum, positive_part
from linflow.torch._chain import Chain
from linflow.torch._tangent import TangentSpectrum, tangent_spectrum

_number = partial(number, digits=3)


@dataclass(frozen=True, repr=False)
class ChainAudit:
    """The audit of one chain.

    Attributes:
        chain: the chain: its name, kind, weights, sources, scale and notes.
        imbalances: eigenvalues, spreads and spectral gap of `D_1, …, D_{L-1}`.
        balancedness: `1 − ‖D_l‖_F / (‖W_lᵀW_l‖_F + ‖W_{l+1}W_{l+1}ᵀ‖_F)` for each l; 1 for balanced layers, 0 if only
            one of the two layers is non-zero.
        spectrum: the extreme eigenvalues of T, and the singular values of the product.
        floors: for two layers, `[λ_k(D)]_+` and `[λ_{k'}(−D)]_+` with `k = min(n, h)`, `k' = min(m, h)`. They are
            lower bounds on `σ_k(W_1)²` and `σ_{k'}(W_2)²` at all times of the flow. None for more layers, or if a
            layer is frozen.
        step_size: `safe_step_size` of the objective; None if there is none, with the reason in `step_reason`.

    T has a term for each trained layer. If no layer is trained, T is that of training all layers.
    """

    chain: Chain
    imbalances: tuple[ImbalanceSpectrum, ...]
    balancedness: tuple[float, ...]
    spectrum: TangentSpectrum
    floors: tuple[float, float] | None
    step_size: float | None
    step_reason: str
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the chain."""
        return self.chain.name

    @property
    def overparametrized(self) -> bool:
        """Whether no inner width is below `min(n, m)`; the full guarantee needs this."""
        widths = self.chain.widths
        return min(widths) == min(widths[0], widths[-1])

    @property
    def frozen(self) -> int:
        """Number of layers that are not trained (`requires_grad` is False)."""
        return self.chain.trained.count(False)

    @property
    def condition(self) -> float:
        """`λ_max(T)` over the least eigenvalue on the tangent space; inf if the latter is 0 or either is unknown."""
        least, greatest = self.spectrum.least_on_tangent, self.spectrum.greatest
        return greatest / least if least and greatest is not None else math.inf

    @property
    def guarantee(self) -> str:
        """The part of the guarantee on the rate that applies, in one sentence."""
        layers = len(self.chain.weights)
        if self.frozen == layers:
            return "none: all layers are frozen, and the product does not move; T is that of training them all"
        without = f"; T is without the terms of {self.frozen} of {layers} layers, which are frozen" * bool(
            self.frozen
        )
        if self.overparametrized:
            return f"full: λ_min(T) bounds the decrease of the loss for every gradient of the product{without}"
        r = min(self.chain.widths)
        floors = ", and the floors of the layers hold at all times of the flow" * (self.floors is not None)
        return (
            f"in part: the product has rank at most {r}, below min(n, m), so T is 0 on gradients outside the tangent "
            "space and no rate of the loss follows; the part of the gradient within it decreases the loss at least "
            f"at the least eigenvalue there{floors}{without}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as lists and floats, ready for JSON."""
        spectrum = self.spectrum
        return {
            "name": self.name,
            "kind": self.chain.kind,
            "sources": list(self.chain.sources),
            "widths": list(self.chain.widths),
            "scale": self.chain.scale,
            "imbalances": [
                {
                    "eigenvalues": to_numpy(d.eigenvalues).tolist(),
                    "positive_spread": d.positive_spread,
                    "negative_spread": d.negative_spread,
                    "spectral_gap": d.spectral_gap,
                    "gap": d.spectral_gap,
                    "balancedness": balanced,
                }
                for d, balanced in zip(self.imbalances, self.balancedness, strict=True)
            ],
            "singular_values": to_numpy(spectrum.singular_values).tolist(),
            "ranks": list(spectrum.ranks),
            "least_eigenvalue": spectrum.least,
            "least_on_tangent": spectrum.least_on_tangent,
            "greatest_eigenvalue": spectrum.greatest,
            "floors": None if self.floors is None else list(self.floors),
            "overparametrized": self.overparametrized,
            "trained": list(self.chain.trained) or [True] * len(self.chain.weights),
            "guarantee": self.guarantee,
            "step_size": self.step_size,
            "step_reason": self.step_reason,
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.chain.widths))
        return f"ChainAudit({self.name!r}, {shape}, balancedness={min(self.balancedness):.3g})"

    @shown
    def __str__(self) -> str:
        s, d = self.spectrum, self.imbalances
        lines = [repr(self.chain)]
        for l, (D, balanced) in enumerate(zip(d, self.balancedness, strict=True), 1):
            lines.append(
                f"  D_{l}: eigenvalues {_number(float(D.eigenvalues[-1]))} to {_number(float(D.eigenvalues[0]))}, "
                f"spectral gap {_number(D.spectral_gap)}, spreads {_number(D.positive_spread)} and "
                f"{_number(D.negative_spread)}, balancedness {balanced:.3f}"
            )
        values = s.singular_values
        lines += [
            f"  product: σ from {_number(float(values[0]))} to {_number(float(values[-1]))} ({values.shape[0]})",
            f"  T: λ from {_number(s.least)} (on the tangent space {_number(s.least_on_tangent)}) "
            f"to {_number(s.greatest)}" + (f"; {s.reason}" if s.reason else ""),
        ]
        if self.floors is not None:
            lines.append(f"  floors of the layers: {_number(self.floors[0])} and {_number(self.floors[1])}")
        lines.append(f"  guarantee: {self.guarantee}")
        if self.step_size is not None or self.step_reason:
            lines.append(
                f"  step size: {_number(self.step_size)}" + f" ({self.step_reason})" * bool(self.step_reason)
            )
        return "\n".join([*lines, *(f"  note: {in_one_line(note)}" for note in self.notes)])


def chain_audit(chain: Chain, network: Network, objective: Objective | Mapping[str, Objective] | None) -> ChainAudit:
    """Return the audit of a chain, whose weights are those of the network."""
    imbalances = tuple(imbalance_spectrum(network, l) for l in range(1, network.depth))
    balanced = tuple(balancedness(D.eigenvalues, *network.weights[l : l + 2]) for l, D in enumerate(imbalances))
    floors = None
    all_trained = all(chain.trained)
    if network.depth == 2 and all_trained:
        n, h, m = network.widths
        values = imbalances[0].eigenvalues
        negated = -network.xp.flip(values)
        floors = (
            float(positive_part(values, min(n, h))) + 0.0,
            float(positive_part(negated, min(m, h))) + 0.0,
        )  # no -0
    step, reason = _step_size(chain, network, objective)
    some = None if all_trained or not any(chain.trained) else chain.trained
    spectrum = tangent_spectrum(network, stored=chain.stored, trained=some)
    if not chain.scale:
        spectrum = spectrum.scaled(0)
    # One note per chain, not one per layer.
    kind = chain.stored.name
    notes = (*chain.notes, *([f"the weights were promoted from {kind} to float64"] if chain.stored.relative else []))
    return ChainAudit(chain, imbalances, balanced, spectrum, floors, step, reason, notes)


def balancedness(eigenvalues: Array, left: Array, right: Array) -> float:
    """Return `1 − ‖D‖_F / (‖WᵀW‖_F + ‖VVᵀ‖_F)` from the eigenvalues of `D = WᵀW − VVᵀ`; 1 if all are 0."""
    whole = _gram_norm(left) + _gram_norm(right)
    return max(1 - norm(eigenvalues) / whole, 0.0) if whole else 1.0


def _gram_norm(W: Array) -> float:
    """Return `‖WᵀW‖_F = ‖WWᵀ‖_F`."""
    return norm(W @ W.T if W.shape[0] < W.shape[1] else W.T @ W)


def _step_size(
    chain: Chain, network: Network, objective: Objective | Mapping[str, Objective] | None
) -> tuple[float | None, str]:
    from linflow.certificates import safe_step_size  # noqa: PLC0415 - seldom needed here

    given = objective.get(chain.name) if isinstance(objective, Mapping) else objective
    if given is None:
        return None, ""
    if not chain.scale:
        return None, "the scale is 0: no step changes the product"
    if not all(chain.trained):
        return None, "a step is known to be safe only if all layers are trained, and some are frozen"
    try:
        return safe_step_size(given, network), ""
    except (TypeError, ValueError) as error:
        return None, str(error)
