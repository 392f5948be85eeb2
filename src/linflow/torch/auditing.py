"""The audit of a model: what the theory says about each of its chains of linear maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from linflow._support.arrays import detach
from linflow._support.digits import number
from linflow._support.paths import LIMIT, PathLike, readable, suffix
from linflow._support.text_table import text_table
from linflow._support.words import in_one_line, plural, shown
from linflow.model.network import Network
from linflow.model.objectives import Objective
from linflow.torch._chain import remarks
from linflow.torch._state_dict import State, configuration
from linflow.torch.chain_audit import ChainAudit, chain_audit
from linflow.torch.chains import find_chains
from linflow.torch.neurons import Neurons, find_neurons

if TYPE_CHECKING:
    from linflow.relu import Certificate

ROWS = 40
"""Number of chains shown when an audit is printed."""
_number = partial(number, digits=3)


@dataclass(frozen=True, repr=False)
class Audit:
    """The audit of a model.

    Attributes:
        chains: one `ChainAudit` for each chain, the worst conditioned on its tangent space first.
        skipped: what looked like a chain but is not one, with the reason.
        reason: if there is no chain, what was seen and how to name one.
        neurons: one `Neurons` for each hidden layer with a ReLU between two linear layers of an `nn.Sequential`: what
            the gradient flow conserves of each neuron. No rate is claimed of more than one hidden layer.
        certificate: what `linflow.relu.certify` says of the whole model, if `data` was given.

    An audit is indexed by number or by name. `print` shows a table; `to_dict` and `to_json` give everything.
    """

    chains: tuple[ChainAudit, ...]
    skipped: tuple[tuple[str, str], ...] = field(default=())
    reason: str = ""
    neurons: tuple[Neurons, ...] = ()
    certificate: Certificate | None = None

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
            "neurons": [n.to_dict() for n in self.neurons],
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
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
                c.chain.title,
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
        lines = text_table(rows, "<")
        if not self.chains:
            lines = [
                "no chain of consecutive linear maps was found" + f": {in_one_line(self.reason)}" * bool(self.reason)
            ]
        if len(self.chains) > ROWS:
            lines.append(f"… and {len(self.chains) - ROWS} more, better conditioned")
        lines += remarks(c.chain for c in self.chains if c.chain.kind == "lora")  # their scale is in the table
        lines += [in_one_line(str(neurons)) for neurons in self.neurons[:ROWS]]
        if len(self.neurons) > ROWS:
            lines.append(f"… and {len(self.neurons) - ROWS} more layers of neurons")
        lines += [] if self.certificate is None else str(self.certificate).splitlines()
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
    data: tuple[Any, Any] | None = None,
) -> Audit:
    """Find the chains of linear maps in a model and report what the theory says about the weights of each.

    The report on a chain has the spectrum, spreads and spectral gap of every imbalance, how balanced the layers are,
    the singular values of the product, and the extreme eigenvalues of T, also on the tangent space if the product
    cannot be every matrix. With an objective it has a safe step size. Nothing of the size of the product is formed,
    unless an inner width is as large.

    Of `Linear → ReLU → Linear` it reports the imbalance of each neuron, at any depth.

    Args:
        model: an `nn.Module`, or a mapping of names to tensors or arrays. For a file use `audit_file`.
        objective: an objective for every chain whose product has its shape, or a mapping from chain names to them.
        inputs: a small batch of inputs of the model, to find chains in a forward pass, as in `find_chains`.
        named: chains by the names of their layers, in the order of application, as in `find_chains`.
        heads: number of attention heads, as in `find_chains`.
        kv_heads: number of key and value heads, as in `find_chains`.
        scaling: scaling of LoRA pairs, as in `find_chains`.
        config: configuration of the model, as in `find_chains`.
        data: inputs and targets for a model of two linear layers with a ReLU or a smooth activation between them:
            `linflow.relu.certify` of its squared loss `½‖f(X) − Y‖_F²`, see `relu_network`.

    Returns:
        An `Audit`. Its arrays have the type and device of the weights, in float64.

    Raises:
        TypeError: the model is neither a model nor a state dict.
        ValueError: named layers do not exist or do not multiply, or `data` does not fit the model.

    Source: docs/torch_audit.md.

    Example:
        >>> import numpy as np
        >>> from linflow.torch import audit
        >>> found = audit({"0.weight": np.diag([2.0, 1.0]), "1.weight": np.ones((1, 2))})
        >>> found[0], round(found[0].spectrum.least, 12)
        (ChainAudit('0 → 1', 2×2×1, balancedness=0.458), 3.0)
    """
    state = model if isinstance(model, State) else State(model, config)
    found = find_chains(
        state, inputs=inputs, named=named, heads=heads, kv_heads=kv_heads, scaling=scaling, config=config
    )
    audits, skipped = [], list(found.skipped)
    for chain in found.chains:
        try:
            network = chain.network() if chain.scale else Network(chain.weights)
        except ValueError as error:  # weights that are not finite, or too large to square
            skipped.append((chain.name, str(error)))
            continue
        audits.append(chain_audit(chain, network, objective))
    neurons = tuple(find_neurons(state, skipped))
    ordered = tuple(sorted(audits, key=lambda c: -c.condition))
    return Audit(ordered, tuple(skipped), found.reason, neurons, None if data is None else _certified(model, data))


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


def _certified(model: Any, data: tuple[Any, Any]) -> Certificate:
    """Return the certificate of a two-layer model on its data."""
    from linflow.relu import certify  # noqa: PLC0415 - seldom needed here
    from linflow.torch._relu import relu_network  # noqa: PLC0415 - only a model needs PyTorch

    X, Y = data
    return certify(detach(X), detach(Y), relu_network(model))


def _guaranteed(c: ChainAudit) -> str:
    if c.frozen == len(c.chain.weights):
        return "none, frozen"
    return ("full" if c.overparametrized else "in part") + f", {c.frozen} frozen" * bool(c.frozen)


def _range(low: float | None, high: float | None) -> str:
    return f"{_number(low)} … {_number(high)}"
