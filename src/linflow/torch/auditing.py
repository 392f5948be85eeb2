"""The audit of a model: what the theory says about each of its chains of linear maps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from linflow._support.arrays import Array, norm, to_numpy
from linflow._support.digits import number
from linflow._support.paths import LIMIT, PathLike, readable, suffix
from linflow._support.words import in_one_line, plural, shown
from linflow.geometry.imbalance import imbalance_spectrum
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.model.spectrum import ImbalanceSpectrum, positive_part
from linflow.torch._state_dict import State, configuration
from linflow.torch._tangent import TangentSpectrum, tangent_spectrum
from linflow.torch.chains import Chain, find_chains

ROWS = 40
"""Number of chains shown when an audit is printed."""
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


@dataclass(frozen=True, repr=False)
class Audit:
    """The audit of a model.

    Attributes:
        chains: one `ChainAudit` for each chain, the worst conditioned on its tangent space first.
        skipped: what looked like a chain but is not one, with the reason.
        reason: if there is no chain, what was seen and how to name one.

    An audit is indexed by number or by name. `print` shows a table; `to_dict` and `to_json` give everything.
    """

    chains: tuple[ChainAudit, ...]
    skipped: tuple[tuple[str, str], ...] = field(default=())
    reason: str = ""

    def __len__(self) -> int:
        return len(self.chains)

    def __getitem__(self, key: int | str) -> ChainAudit:
        if isinstance(key, int):
            return self.chains[key]
        found = next((c for c in self.chains if c.name == key), None)
        if found is None:
            raise KeyError(f"no chain is called {key!r}; the names are those of [c.name for c in audit.chains].")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything as lists and floats."""
        return {
            "chains": [c.to_dict() for c in self.chains],
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "reason": self.reason,
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        return f"Audit({plural(len(self.chains), 'chain')}, {len(self.skipped)} skipped)"

    @shown
    def __str__(self) -> str:
        head = ("chain", "kind", "shape", "λ(D)", "balanced", "σ(W)", "λ(T) tangent", "λ(T)", "guarantee")
        rows = [head] + [
            (
                in_one_line(c.name),
                c.chain.kind,
                "×".join(map(str, c.chain.widths)),
                _range(
                    min(float(d.eigenvalues[-1]) for d in c.imbalances),
                    max(float(d.eigenvalues[0]) for d in c.imbalances),
                ),
                f"{min(c.balancedness):.3f}",
                _range(float(c.spectrum.singular_values[-1]), float(c.spectrum.singular_values[0])),
                _number(c.spectrum.least_on_tangent),
                _range(c.spectrum.least, c.spectrum.greatest),
                _guaranteed(c),
            )
            for c in self.chains[:ROWS]
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        if not self.chains:
            lines = [
                "no chain of consecutive linear maps was found" + f": {in_one_line(self.reason)}" * bool(self.reason)
            ]
        if len(self.chains) > ROWS:
            lines.append(f"… and {len(self.chains) - ROWS} more, better conditioned")
        lines += [in_one_line(f"skipped {name}: {reason}") for name, reason in self.skipped[:ROWS]]
        if len(self.skipped) > ROWS:
            lines.append(f"… and {len(self.skipped) - ROWS} more skipped")
        return "\n".join(lines)


def audit(
    model: Any,
    objective: Objective | Mapping[str, Objective] | None = None,
    *,
    inputs: Any = None,
    named: Mapping[str, Sequence[str]] | Sequence[Sequence[str]] | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    scaling: float | None = None,
    config: Mapping[str, Any] | None = None,
) -> Audit:
    """Find the chains of linear maps in a model and report what the theory says about the weights of each.

    The report on a chain has the spectrum, spreads and spectral gap of every imbalance, how balanced the layers are,
    the singular values of the product, and the extreme eigenvalues of T, also on the tangent space if the product
    cannot be every matrix. With an objective it has a safe step size. Nothing of the size of the product is formed,
    unless an inner width is as large.

    Args:
        model: an `nn.Module`, or a mapping of names to tensors or arrays. For a file use `audit_file`.
        objective: an objective for every chain whose product has its shape, or a mapping from chain names to them.
        inputs: a small batch of inputs of the model, to find chains in a forward pass, as in `find_chains`.
        named: chains by the names of their layers, in the order of application, as in `find_chains`.
        heads: number of attention heads, as in `find_chains`.
        kv_heads: number of key and value heads, as in `find_chains`.
        scaling: scaling of LoRA pairs, as in `find_chains`.
        config: configuration of the model, as in `find_chains`.

    Returns:
        An `Audit`. Its arrays have the type and device of the weights, in float64.

    Raises:
        TypeError: the model is neither a model nor a state dict.
        ValueError: named layers do not exist or do not multiply.

    Source: docs/torch_audit.md.

    Example:
        >>> import numpy as np
        >>> from linflow.torch import audit
        >>> found = audit({"0.weight": np.diag([2.0, 1.0]), "1.weight": np.ones((1, 2))})
        >>> found[0], round(found[0].spectrum.least, 12)
        (ChainAudit('0 → 1', 2×2×1, balancedness=0.458), 3.0)
    """
    found = find_chains(
        model, inputs=inputs, named=named, heads=heads, kv_heads=kv_heads, scaling=scaling, config=config
    )
    audits, skipped = [], list(found.skipped)
    for chain in found.chains:
        try:
            network = chain.network() if chain.scale else Network(chain.weights)
        except ValueError as error:  # weights that are not finite, or too large to square
            skipped.append((chain.name, str(error)))
            continue
        audits.append(_audit(chain, network, objective))
    return Audit(tuple(sorted(audits, key=lambda c: -c.condition)), tuple(skipped), found.reason)


def audit_file(
    path: PathLike,
    objective: Objective | Mapping[str, Objective] | None = None,
    *,
    named: Mapping[str, Sequence[str]] | Sequence[Sequence[str]] | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    scaling: float | None = None,
    limit: int = LIMIT,
) -> Audit:
    """Audit the state dict in a `.safetensors`, `.pt`, `.pth`, `.ckpt` or `.bin` file; no code in it is run.

    Numbers of heads and scalings that no tensor holds are read from `config.json` and `adapter_config.json` beside
    the file. A `.pt` file is read by PyTorch's weights-only loader. Tensors that are not weights, such as masks or
    packed four-bit numbers, are passed over and listed in `skipped`. Eight-bit floats are read and multiplied by
    their stored scales.

    Args:
        path: the file.
        objective: objective of the chains, as in `audit`.
        named: chains by the names of their tensors, in the order of application, as in `find_chains`.
        heads: number of attention heads, if `config.json` does not give it.
        kv_heads: number of key and value heads, if the shapes do not determine it.
        scaling: scaling of LoRA pairs, if `adapter_config.json` does not give it.
        limit: largest size of the arrays in float64, in bytes; checked before they are decoded.

    Returns:
        An `Audit` of NumPy arrays.

    Raises:
        linflow.files.FileError: the content is not tensors, damaged, hostile or too large.
        OSError: the file does not exist or cannot be read.
        ImportError: a package that the format needs is not installed.
    """
    from linflow.files.weights import TORCH, read_safetensors, read_torch  # noqa: PLC0415 - only files need them

    end = suffix(path, (".safetensors", *TORCH), "a state dict is read from")
    file = readable(path)
    passed: dict[str, str] = {}
    arrays, stored, _ = (read_safetensors if end == ".safetensors" else read_torch)(file, limit, passed)
    state = State(arrays, configuration(file), stored)
    state.others = passed | state.others
    return audit(state, objective, named=named, heads=heads, kv_heads=kv_heads, scaling=scaling)


def _audit(chain: Chain, network: Network, objective: Objective | Mapping[str, Objective] | None) -> ChainAudit:
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
        return None, "a step is known to be safe where all layers are trained, and some are frozen"
    try:
        return safe_step_size(given, network), ""
    except (TypeError, ValueError) as error:
        return None, str(error)


def _guaranteed(c: ChainAudit) -> str:
    if c.frozen == len(c.chain.weights):
        return "none, frozen"
    return ("full" if c.overparametrized else "in part") + f", {c.frozen} frozen" * bool(c.frozen)


def _range(low: float | None, high: float | None) -> str:
    return f"{_number(low)} … {_number(high)}"
