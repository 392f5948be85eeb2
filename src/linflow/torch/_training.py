"""Find which layers of a chain are frozen, and which share memory with other tensors."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from linflow._support.arrays import Array, is_numpy, namespace, to_numpy
from linflow.torch._state_dict import State

WITH_BIAS = {"linear": (0,), "neurons": (0,), "query-key": (0, 1), "value-output": (0,)}
"""Layers of a chain that include the bias of their projection, by the kind of the chain."""


def examined(
    chains: Iterable[Any], state: State, skipped: list[tuple[str, str]], *, counted: bool = False
) -> Iterable[Any]:
    """Yield the chains with their trained layers marked; chains with tied layers go to `skipped`.

    If a tensor is used as two layers, or also elsewhere in the model, its gradient is a sum of two. The product then
    moves by an operator other than T, and no imbalance is conserved.

    Args:
        chains: the chains, each a `Chain`.
        state: the model or state dict in which they were found.
        skipped: list to which names and reasons are added.
        counted: whether each tensor is known to be used once, however many names it has.
    """
    shared = _shared(state)
    if counted:  # equal memory is one tensor with several names; only partial overlaps count
        shared = {a: b for a, b in shared.items() if _memory(state.tensors[a]) != _memory(state.tensors[b])}
    alike = _alike(state)
    for chain in chains:
        sources = [source.partition("[")[0] for source in chain.sources]
        tied = next(((name, shared[name]) for name in sources if name in shared), None)
        if tied is not None:
            skipped.append((chain.name, _tied(*tied, inside=tied[1] in sources, model=bool(state.modules))))
            continue
        trained = tuple(_is_trained(chain, l, name, state) for l, name in enumerate(sources))
        notes = list(chain.notes)
        if not all(trained):
            which = ", ".join(name for name, free in zip(chain.sources, trained, strict=True) if not free)
            notes.append(f"frozen (requires_grad is False): {which}")
        notes += _equals(sources, alike, state)
        yield replace(chain, trained=trained, notes=tuple(notes))


def _tied(name: str, other: str, *, inside: bool, model: bool) -> str:
    if inside:
        return f"{name} and {other} are one tensor (tied): its gradient is a sum of two, and T is another operator"
    way = "; if it is used only once, pass inputs= so that a forward pass shows it" * model
    return f"{name} is {other} as well (tied): it may be trained by uses outside the chain{way}"


def _is_trained(chain: Any, layer: int, name: str, state: State) -> bool:
    """Tell whether all of a layer is trained, including a bias that is a row of it."""
    parts = [name]
    if layer in WITH_BIAS.get(chain.kind, ()):
        stem = name.removesuffix("weight")
        prefix = name.rpartition(".")[0]
        parts += [f"{stem}bias", f"{prefix}.in_proj_bias" if prefix else "in_proj_bias"]
    return not any(part in state.frozen for part in parts)


def _shared(state: State) -> dict[str, str]:
    """Return, for each tensor that shares memory with another one, the name of one such tensor."""
    held = {name: place for name, x in state.tensors.items() if (place := _memory(x)) is not None}
    places = sorted((_device(state.tensors[name]), *place, name) for name, place in held.items())
    found: dict[str, str] = {}
    last, until = "", ("", 0)
    for where, _, end, name in places:
        if last and overlap(state.tensors[last], state.tensors[name]):
            found.setdefault(name, last)
            found.setdefault(last, name)
        if (where, end) > until:
            last, until = name, (where, end)
    return found


def _device(x: Array) -> str:
    return "cpu" if is_numpy(x) else str(x.device)


def _memory(x: Array) -> tuple[int, int] | None:
    """Return the first address of an array and the one after its last; None if it has no address."""
    if 0 in x.shape or x.ndim == 0:
        return None
    if is_numpy(x):
        start, strides, item = x.__array_interface__["data"][0], [s // x.itemsize for s in x.strides], x.itemsize
    elif hasattr(x, "data_ptr") and str(getattr(x, "layout", "")) == "torch.strided" and x.data_ptr():
        start, strides, item = x.data_ptr(), x.stride(), x.element_size()
    else:
        return None
    reach = [(size - 1) * stride for size, stride in zip(x.shape, strides, strict=True)]
    return start + item * sum(r for r in reach if r < 0), start + item * (sum(r for r in reach if r > 0) + 1)


def overlap(a: Array, b: Array) -> bool:
    """Tell whether arrays share an entry; interleaved arrays do not, unless they begin at the same address."""
    ranges = [_memory(x) or (0, 0) for x in (a, b)]
    if _device(a) != _device(b) or max(start for start, _ in ranges) >= min(end for _, end in ranges):
        return False
    items = [x.itemsize if is_numpy(x) else x.element_size() for x in (a, b)]
    sizes = [math.prod(x.shape) * item for x, item in zip((a, b), items, strict=True)]
    dense = all(end - start == size for (start, end), size in zip(ranges, sizes, strict=True))
    return dense or ranges[0][0] == ranges[1][0]


def _alike(state: State) -> dict[str, list[str]]:
    """Return the names of all matrices that hold the numbers of another, transposed or not, each with its group."""
    first: dict[tuple, list[str]] = {}
    for name in state.tensors:
        W = state.matrix(name)
        if W is not None and not getattr(W, "is_meta", False):
            first.setdefault((W.shape[0] * W.shape[1], float(W[0, 0]), float(W[-1, -1])), []).append(name)
    groups: dict[tuple, list[str]] = {}
    for name in itertools.chain.from_iterable(names for names in first.values() if len(names) > 1):
        groups.setdefault(_content(state.matrix(name)), []).append(name)
    return {name: names for names in groups.values() if len(names) > 1 for name in names}


def _content(W: Array) -> tuple:
    """Return the shape and a hash of a matrix, which transposing keeps."""
    numbers = to_numpy(W).astype(np.float64) + 0.0  # -0 is 0
    return (*sorted(W.shape), min(hashlib.sha256(x.tobytes()).digest() for x in (numbers, numbers.T)))


def _equals(sources: Sequence[str], alike: dict[str, list[str]], state: State) -> Iterable[str]:
    """Yield a note for each tensor equal to a layer, except for constants and multiples of the identity."""
    place = {name: l for l, name in enumerate(dict.fromkeys(sources))}
    told: set[str] = set()
    for name in place:
        if name in told or name not in alike:
            continue
        told.update(alike[name])
        W = state.matrix(name)
        if W is None or namespace(W).all((W[0, 0] == W) | (W[0, -1] == W)):
            continue
        for other in sorted(alike[name], key=lambda one: place.get(one, len(place)))[1:]:
            yield f"{name} and {other} hold the same numbers: if they are one parameter, this does not apply"
