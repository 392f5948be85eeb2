"""Runs of weights that follow one another, found from modules, names or a traced pass, and the chains they form."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from linflow.torch._chain import Chain, Factor, transposed
from linflow.torch._state_dict import State

_PLACE = re.compile("0|[1-9][0-9]{0,8}")
"""The number of a layer, as PyTorch writes it in a name."""


def linear_chains(
    state: State, inputs: Any, named: Any, skipped: list[tuple[str, str]]
) -> Iterator[tuple[Chain, bool]]:
    """Yield the chains of linear layers, each with whether a forward pass showed that its tensors are used once."""
    own: list[set[str]] = []
    for label, names in _labelled(named):
        run = _named(names, state)
        own.append({factor.name for factor in run})
        parts = list(_cut(run))
        for i, part in enumerate(parts):
            name = (label + f" [{i + 1}]" * (len(parts) > 1)) if label else ""
            yield _chain(part, state, "as named", name), False
        if len(parts) > 1:
            skipped.append((label or _title(run), "a bias within ends a chain, and the next begins there"))
    for run, note in _runs(state, inputs, skipped):
        for part in _cut(run):
            if not any({factor.name for factor in part} <= names for names in own):
                yield _chain(part, state, note), inputs is not None


def _runs(state: State, inputs: Any, skipped: list[tuple[str, str]]) -> Iterable[tuple[list[Factor], str]]:
    if inputs is not None:
        from linflow.torch._trace import traced  # noqa: PLC0415 - only a model needs PyTorch

        runs, reasons = traced(state.model, inputs, state.held)
        skipped += _grouped({name.removesuffix(".weight"): why for name, why in reasons.items()})
        return [(run, "as the forward pass has it") for run in runs]
    return _runs_of_modules(state, skipped) if state.modules else _runs_of_names(state)


def _grouped(reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """Group the names that share a reason."""
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault(why, []).append(name)
    return [
        (", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4), why)
        for why, names in groups.items()
    ]


def _cut(run: Sequence[Factor]) -> Iterator[list[Factor]]:
    """Cut a run at each layer that has a bias and is neither the first nor the last."""
    start = 0
    for i in range(1, len(run)):
        if i == len(run) - 1 or run[i].bias:
            yield list(run[start : i + 1])
            start = i


def _title(run: Sequence[Factor]) -> str:
    first, last = (factor.name.removesuffix(".weight") for factor in (run[0], run[-1]))
    return f"{first} → {last}"


def _chain(run: Sequence[Factor], state: State, note: str, name: str = "") -> Chain:
    first, *_, last = run
    notes = [note] if note else []
    bias = state.vector(first.bias)
    if bias is not None:
        notes.append(f"the bias of {first.name.removesuffix('.weight')} is the last row of W_1")
    if last.bias:
        notes.append(f"the bias of {last.name.removesuffix('.weight')} is outside the product")
    matrices = [state.tensors[factor.name] for factor in run]
    stored = [W if factor.turned else W.T for W, factor in zip(matrices, run, strict=True)]  # (outputs, inputs)
    weights = (transposed(stored[0], bias), *(W.T for W in stored[1:]))
    scale = math.prod(factor.scale for factor in run)
    return Chain(
        name or _title(run), "linear", weights, tuple(factor.name for factor in run), scale, notes=tuple(notes)
    )


def _linear(name: str, state: State) -> Factor:
    bias = f"{name}.bias"
    return Factor(f"{name}.weight", True, bias if state.vector(bias) is not None else "")


def _labelled(named: Any) -> list[tuple[str, list[str]]]:
    """Return the chains named by the caller, with their labels."""
    if named is None:
        return []
    pairs = list(named.items()) if isinstance(named, Mapping) else [("", names) for names in named]
    for _, names in pairs:
        if isinstance(named, str) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"named is {named!r}; a list of chains, each a list of names of layers, first applied first, is "
                'needed, such as [["encoder", "decoder"]].'
            )
        if len(names) < 2:
            raise ValueError(f"named has the chain {list(names)!r}; two layers at least make a chain.")
    return [(str(label), list(names)) for label, names in pairs]


def _named(names: Sequence[str], state: State) -> list[Factor]:
    """Return the run of the layers with these names of modules or tensors."""
    full = []
    for name in names:
        there = [x for x in (name, f"{name}.weight") if state.matrix(x) is not None]
        if not there:
            known = [x for x in state.tensors if state.matrix(x) is not None]
            listed = ", ".join(known[:8]) + ", …" * (len(known) > 8)
            raise ValueError(f"named: {name!r} is not a matrix of the model; there are {listed or 'none'}.")
        full.append(there[0])
    shapes = [tuple(state.tensors[name].shape) for name in full]
    stored = [_stored(name, state) for name in full]
    usual = all(name.endswith("weight") for name in full)
    for otherwise in (usual, not usual):
        turned = [otherwise if known is None else known for known in stored]
        pairs = [shape[::-1] if turn else shape for shape, turn in zip(shapes, turned, strict=True)]
        if all(left[1] == right[0] for left, right in itertools.pairwise(pairs)):
            factors = [Factor(name, turn) for name, turn in zip(full, turned, strict=True)]
            linear = [_linear(factor.name.removesuffix(".weight"), state) for factor in factors]
            return [replace(a, bias=b.bias) for a, b in zip(factors, linear, strict=True)]
    said = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in zip(full, shapes, strict=True))
    raise ValueError(
        f"named: {said} do not multiply in this order; name the layers as they are applied, the first first."
    )


def _stored(name: str, state: State) -> bool | None:
    """Tell whether a module stores its weight as (outputs, inputs); None if unknown."""
    module = state.modules.get(name.removesuffix(".weight"))
    kind = type(module).__name__
    return True if kind == "Linear" else False if kind == "Conv1D" else None


def _runs_of_modules(state: State, skipped: list[tuple[str, str]]) -> Iterator[tuple[list[Factor], str]]:
    from torch import nn  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - only a model needs PyTorch

    inner: set[str] = set()
    broken: dict[str, str] = {}
    for prefix, module in state.modules.items():
        if prefix in inner or not plain_module(module, nn.Sequential):
            continue
        run: list[Factor] = []
        last, between = "", ""
        for full, child in parts_of(prefix, module, nn.Sequential, inner):
            idle = isinstance(child, nn.Dropout) and (child.p == 0 or not child.training)
            if plain_module(child, nn.Linear) and state.matrix(f"{full}.weight") is not None:
                if last and between:
                    broken[f"{last} → {full}"] = f"{between} between"
                run.append(_linear(full, state))
                last, between = full, ""
            elif not (isinstance(child, nn.Identity) or idle):
                if len(run) > 1:
                    yield run, _hooks(run, state)
                training = " in training" * isinstance(child, nn.Dropout)
                run, between = [], between or f"{type(child).__name__}{training}"
        if len(run) > 1:
            yield run, _hooks(run, state)
    skipped += _grouped(broken)


def _hooks(run: Sequence[Factor], state: State) -> str:
    """Return a note if hooks are called between the layers of a run; "" otherwise."""
    names = [factor.name.removesuffix(".weight") for factor in run]
    held = [state.modules.get(name) for name in names]
    hooked = [bool(getattr(module, "_forward_hooks", None)) for module in held[:-1]]
    hooked += [bool(getattr(module, "_forward_pre_hooks", None)) for module in held[1:]]
    return "it has hooks, and what they do to the numbers is not seen; a pass shows it: inputs=" * any(hooked)


def parts_of(prefix: str, module: Any, kind: Any, inner: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the modules that a Sequential applies, nested ones included; add nested Sequentials to `inner`."""
    for name, child in module._modules.items():
        full = f"{prefix}.{name}" if prefix else name
        if plain_module(child, kind):
            inner.add(full)
            yield from parts_of(full, child, kind, inner)
        else:
            yield full, child


def plain_module(module: Any, kind: Any) -> bool:
    """Tell whether a module is of this kind and does not override its `forward`."""
    return isinstance(module, kind) and type(module).forward is kind.forward and "forward" not in vars(module)


def _runs_of_names(state: State) -> Iterator[tuple[list[Factor], str]]:
    """Yield runs of names that end in consecutive numbers, `seq.0.weight`, `seq.1.weight`, and whose shapes chain."""
    groups: dict[str, list[int]] = {}
    for name in state.tensors:
        prefix, _, last = name.removesuffix(".weight").rpartition(".")
        if name.endswith(".weight") and _PLACE.fullmatch(last) and state.matrix(name) is not None:
            groups.setdefault(prefix, []).append(int(last))
    for prefix, numbers in groups.items():
        dot = f"{prefix}." if prefix else ""
        run: list[int] = []
        for number, after in itertools.pairwise([*sorted(numbers), -1]):
            run.append(number)
            here, following = (state.tensors.get(f"{dot}{i}.weight") for i in (number, number + 1))
            if after == number + 1 and here.shape[0] == following.shape[1]:  # type: ignore[union-attr]
                continue
            if len(run) > 1:
                note = "that the layers follow one another is inferred from their names"
                yield [_linear(f"{dot}{i}", state) for i in run], note
            run = []


def reason(state: State, inputs: Any) -> str:
    """Say what was seen when no chain was found, and how to name one."""
    matrices = [name for name in state.tensors if state.matrix(name) is not None]
    if not matrices:
        return "there is no matrix of floating-point numbers in it"
    shown = ", ".join(f"{name} {'×'.join(map(str, state.tensors[name].shape))}" for name in matrices[:8])
    seen = f"{len(matrices)} matri{'x' if len(matrices) == 1 else 'ces'}: {shown}{', …' * (len(matrices) > 8)}."
    pair = [name.removesuffix(".weight") for name in [*matrices, "another"][:2]]
    name_it = f"named=[{pair!r}] (on the command line --chain {','.join(pair)}), the layers as they are applied"
    if not state.modules:
        return (
            f"{seen} Names tell consecutive numbers (0.weight, 1.weight), heads of attention and LoRA pairs, and no "
            f"more. Name a chain: {name_it}; or audit the model with inputs=."
        )
    way = f"name one: {name_it}; or make one: linflow.torch.network([model.…, model.…])"
    if inputs is None:
        return (
            f"{seen} Which of them follow one another is in the code of forward, and not in the modules. Pass "
            f"inputs=, a small batch, and a pass is traced; or {way}."
        )
    return f"{seen} In the forward pass no two of them are multiplied with nothing in between. If some are, {way}."
