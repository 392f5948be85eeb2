"""The LoRA pairs of a model or a state dict, with PEFT's names and scalings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from numbers import Real
from typing import Any

from linflow._support import checks
from linflow._support.arrays import Array
from linflow.torch._chain import Chain
from linflow.torch._peft import ALORA, activated, other_adapters, variant
from linflow.torch._state_dict import State

_FIRST = re.compile(
    r"^(?:(?P<layer>.+)\.)?(?P<word>lora_(?:embedding_)?A)(?:\.(?P<adapter>[^.]+?))??(?P<end>\.weight)?$"
)
_WORD = re.compile(r"(?:^|\.)(?P<word>lora_\w+)(?:\.(?P<next>\w+))?")
_OTHER_FACTOR = re.compile(r"(?:^|\.)(?P<word>(?P<stem>lora_(?:embedding_)?)B|lora_(?:down|mid|up))(?=\.|$)")
_FACTORS = {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"}
_STEPS = 300_000
"""The most steps that patterns may take for one layer. Those of a stranger could take for ever."""


def lora_pairs(state: State, scaling: float | None, skipped: list[tuple[str, str]]) -> Iterable[Chain]:
    """Yield `s · Aᵀ Bᵀ` for each adapter; A is (r, inputs), B is (outputs, r), and their update of W is `s B A`.

    A pair counts as `s B A` with A and B trained only if nothing contradicts it. Another method or variant of PEFT,
    other tensors beside the pair, or a rank or shape that does not fit contradict it; such pairs go to `skipped`.
    """
    if scaling is not None:
        scaling = checks.number(scaling, "scaling")
    skipped += [*other_adapters(state), *_lonely(state)]
    pairs = [found for name in state.tensors if (found := _FIRST.match(name))]
    beside = _words_beside(state, pairs)
    stacks: dict[str, list[tuple[int, ...]]] = {}
    for name, x in state.tensors.items():
        if x.ndim == 3:
            stacks.setdefault(_bare(name.rpartition(".")[0]), []).append(tuple(x.shape))
    for found in pairs:
        name, layer, adapter = found[0], found["layer"] or "", found["adapter"] or ""
        partner = _partner(found)
        label = layer + (f" [{adapter}]" if adapter not in {"", "default"} else "")
        A, B = state.matrix(name), state.matrix(partner)
        module = state.holder(name, found["word"])
        why = "" if partner in state.tensors else f"{partner} is missing"
        why = why or variant(state, module, adapter, beside.get((layer, adapter), ()))
        if why or A is None or B is None or A.shape[0] != B.shape[1]:
            skipped.append((label, why or _unfit(state, name, partner)))
            continue
        rank = _rank(state, layer, module, adapter)
        if rank is None:
            blocks = _stacked(stacks.get(_bare(layer), ()), A, B)
        else:
            blocks = _blocks(state, layer, module, A.shape[0], rank)
        if not blocks or (why := _misfit(state, layer, A, B, blocks)):
            other = f"A has {A.shape[0]} rows where the configuration says rank {rank}: it may not be plain LoRA"
            skipped.append((label, why or other))
            continue
        factor, notes = _scaling(state, layer, module, adapter, A.shape[0] // blocks, scaling)
        if activated(state, module, adapter):
            notes.append(ALORA)
        if f"{partner.removesuffix('.weight')}.bias" in state.tensors:
            notes.append("the bias of B is outside the product")
        for label_of, left, right in _split(label, A, B, blocks):
            yield Chain(label_of, "lora", (left.T, right.T), (name, partner), factor, tuple(notes))


def _lonely(state: State) -> Iterable[tuple[str, str]]:
    """Return layers with a `lora_B` but no `lora_A`, or with names of other libraries, each with the reason."""
    found: dict[str, str] = {}
    for name in state.tensors:
        part = _OTHER_FACTOR.search(name)
        if part is not None and not name.endswith(".bias"):
            first = f"{name[: part.end('stem')]}A{name[part.end('word') :]}"
            if part["word"][-1] != "B":
                why = "PEFT has other names: rename lora_down to lora_A and lora_up to lora_B, and pass scaling="
                found.setdefault(name[: part.start()], why)
            elif first not in state.tensors:
                found[name[: part.start()]] = f"{first} is missing"
    return found.items()


def _words_beside(state: State, pairs: Iterable[re.Match[str]]) -> dict[tuple[str, str], list[str]]:
    """Return, by layer and adapter, the words `lora_…` in the names of its tensors, except those of A and B."""
    found: dict[tuple[str, str], list[str]] = {}
    adapters: dict[str, list[str]] = {}
    for pair in pairs:
        layer, adapter = pair["layer"] or "", pair["adapter"] or ""
        adapters.setdefault(layer, []).append(adapter)
        # Arrow has a module but no tensor.
        if (adapter or "default") in getattr(state.holder(pair[0], pair["word"]), "lora_arrow", ()):
            found.setdefault((layer, adapter), []).append("lora_arrow")
    for name in state.tensors:
        part = _WORD.search(name)
        if part is None or part["word"] in _FACTORS or name[: part.start()] not in adapters:
            continue
        layer, owner = name[: part.start()], part["next"] or ""
        for adapter in [owner] if owner in adapters[layer] else adapters[layer]:
            found.setdefault((layer, adapter), []).append(part["word"])
    return found


def _unfit(state: State, name: str, partner: str) -> str:
    shapes = " and ".join(str(tuple(state.tensors[key].shape)) for key in (name, partner))
    return f"A and B have shapes {shapes}: not two matrices of floating-point numbers that multiply"


def _partner(pair: re.Match[str]) -> str:
    return pair[0][: pair.start("word")] + pair["word"][:-1] + "B" + pair[0][pair.end("word") :]


def _misfit(state: State, layer: str, A: Array, B: Array, blocks: int) -> str:
    """Return why the pair cannot be added to the frozen weight; "" if it can or there is no such weight."""
    W = state.tensors.get(f"{layer}.weight" if layer else "weight")
    update = B.shape[0], A.shape[1]
    if W is None or W.ndim != 2 or blocks > 1 or "float" not in str(W.dtype) or sorted(W.shape) == sorted(update):
        return ""
    return f"B A is {update[0]}×{update[1]} and the frozen weight {W.shape[0]}×{W.shape[1]}: it is not plain LoRA"


def _rank(state: State, layer: str, module: Any, adapter: str) -> int | None:
    """Return the rank that the module or the configuration states."""
    ranks = getattr(module, "r", None)
    if isinstance(ranks, Mapping):
        return ranks.get(adapter or "default")
    rank = _by_pattern(state.config, "rank_pattern", layer, state.config.get("r"))
    if rank is None:
        return None
    with _configured():
        return checks.count(rank, "r (or rank_pattern) of the adapter's configuration")


def _blocks(state: State, layer: str, module: Any, rows: int, rank: int) -> int | None:
    """Return how many pairs PEFT has stacked in one, for the experts in a parameter; None if no number fits."""
    if rows == rank:
        return 1
    if rows % rank:
        return None
    if module is not None:
        return rows // rank if getattr(module, "num_experts", 1) == rows // rank else None
    given = state.config.get("target_parameters") or ()
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"target_parameters of the adapter's configuration is {given!r}; a list of names is needed.")  # noqa: TRY004
    targets = [str(target).rpartition(".")[0] for target in given]
    found = any(re.search(rf"(^|\.){re.escape(target)}$", _bare(layer)) for target in targets)
    return rows // rank if found else None


def _stacked(shapes: Iterable[tuple[int, ...]], A: Array, B: Array) -> int:
    """Return how many matrices the layer's parameter holds, if the pair fits one of these shapes; else 1."""
    update = sorted((B.shape[0], A.shape[1]))
    return next((e for e, *sides in shapes if sorted(sides) == update and A.shape[0] % e == 0), 1)


def _bare(layer: str) -> str:
    return re.sub(r"(\.base_layer)+$", "", layer)


def _split(label: str, A: Array, B: Array, blocks: int) -> Iterable[tuple[str, Array, Array]]:
    """Yield the stacked pairs: rows of A are stored expert by expert, columns of B alternate between experts."""
    rank = A.shape[0] // blocks
    for e in range(blocks):
        yield (f"{label} expert {e}" if blocks > 1 else label), A[e * rank : (e + 1) * rank], B[:, e::blocks]


def _scaling(
    state: State, layer: str, module: Any, adapter: str, rank: int, given: float | None
) -> tuple[float, list[str]]:
    """Return the factor s of a pair, and what was assumed."""
    if given is not None:
        return given, []
    value = getattr(module, "scaling", None)
    value = value.get(adapter or "default") if isinstance(value, Mapping) else value
    if isinstance(value, Real) and not isinstance(value, bool):
        return checks.number(value, f"the scaling of {layer}"), []
    alpha = _by_pattern(state.config, "alpha_pattern", layer, state.config.get("lora_alpha"))
    if alpha is None:
        return 1.0, ["its scaling is not known and taken as 1; give scaling=s"]
    with _configured():
        alpha = checks.number(alpha, "lora_alpha (or alpha_pattern) of the adapter's configuration")
    root = state.config.get("use_rslora", False)
    if not isinstance(root, bool | None):
        raise ValueError(f"use_rslora of the adapter's configuration is {root!r}; true or false is needed.")  # noqa: TRY004
    return alpha / (math.sqrt(rank) if root else rank), []


def _by_pattern(config: Mapping[str, Any], key: str, layer: str, otherwise: Any) -> Any:
    """Return the value of the first pattern, a regular expression, that matches the end of the layer's name.

    PEFT reads patterns in the same way.
    """
    patterns, layer = config.get(key) or {}, layer.removeprefix("base_model.model.")
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{key} of the adapter's configuration is {patterns!r}; names with numbers are needed.")  # noqa: TRY004
    if sum(_steps(name, len(layer)) for name in patterns) > _STEPS:
        raise ValueError(
            f"{key} of the adapter's configuration has patterns that take too long; write out the names."
        )
    for name, value in patterns.items():
        if _compiled(name, key).match(layer):
            if value is None:
                raise ValueError(f"{key} of the adapter's configuration has no number for {name!r}.")
            return value
    return otherwise


@lru_cache(maxsize=4096)
def _compiled(name: str, key: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(.*\.)?({name})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"{key} of the adapter's configuration has {name!r}, not a regular expression: {error}."
        ) from error


def _steps(name: str, length: int) -> int:
    """Return more steps than a pattern can take: each repetition multiplies them, and each group with choices."""
    plain = re.sub(r"\\.", "", name)
    if re.search(r"\)[*+{]", plain):  # a repetition within another takes a power of them
        return _STEPS + 1
    repeated, groups = len(re.findall(r"[*+?{]", plain)), min(plain.count("("), 30)
    return max(length, len(name), 1) ** min(1 + repeated, 9) * (1 + plain.count("|")) ** groups


@contextmanager
def _configured() -> Iterator[None]:
    """Turn the error of a wrong type into that of a wrong value, which it is in a file."""
    try:
        yield
    except TypeError as error:
        raise ValueError(str(error)) from None
