"""The LoRA pairs of a model or a state dict, as PEFT names and scales them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from linflow.torch._state import State
from linflow.torch.chains import Chain

_FIRST = re.compile(
    r"^(?P<layer>.*?)\.?lora_(?P<embedding>embedding_)?A(?:\.(?P<adapter>[^.]+))??(?P<end>\.weight)?$"
)


def lora_pairs(state: State, scaling: float | None, skipped: list[tuple[str, str]]) -> Iterable[Chain]:
    """Yield `s · Aᵀ Bᵀ` for each adapter; A is (r, inputs), B is (outputs, r), their update of W is `s B A`."""
    for name in list(state.tensors):
        found = _FIRST.match(name)
        if found is None:
            continue
        layer, adapter = found["layer"], found["adapter"] or ""
        partner = name[: len(layer)] + name[len(layer) :].replace("lora_A", "lora_B").replace(
            "lora_embedding_A", "lora_embedding_B"
        )
        label = layer + (f" [{adapter}]" if adapter not in {"", "default"} else "")
        A, B = state.matrix(name), state.matrix(partner)
        if A is None or B is None or A.shape[0] != B.shape[1]:
            skipped.append((label, _unfit(state, name, partner)))
            continue
        magnitude = [key for key in state.tensors if key.startswith(f"{layer}.lora_magnitude_vector") and layer]
        if magnitude:
            skipped.append((label, "DoRA divides by the norm of the sum with the frozen weights: not a product"))
            continue
        factor, note = _scaling(state, layer, adapter, A.shape[0], scaling)
        yield Chain(label, "lora", (A.T, B.T), (name, partner), factor, (note,) if note else ())


def _unfit(state: State, name: str, partner: str) -> str:
    if partner not in state.tensors:
        return f"{partner} is missing"
    shapes = " and ".join(str(tuple(state.tensors[key].shape)) for key in (name, partner))
    return f"A and B have shapes {shapes}: not two matrices of floating-point numbers that multiply"


def _scaling(state: State, layer: str, adapter: str, rank: int, given: float | None) -> tuple[float, str]:
    """Return the factor s of a pair, and what was assumed."""
    if given is not None:
        return given, ""
    values = getattr(state.modules.get(layer), "scaling", None)
    if isinstance(values, dict) and values.get(adapter or "default"):
        return float(values[adapter or "default"]), ""
    short = layer.removeprefix("base_model.model.")
    alpha = _by_pattern(state.config.get("alpha_pattern"), short, state.config.get("lora_alpha"))
    if isinstance(alpha, (int, float)) and alpha > 0:
        return alpha / (math.sqrt(rank) if state.config.get("use_rslora") else rank), ""
    return 1.0, "its scaling is not known and taken as 1"


def _by_pattern(patterns: object, layer: str, otherwise: object) -> object:
    """Return the value whose key, a regular expression, matches the end of the name, as PEFT reads it."""
    if isinstance(patterns, dict):
        for key, value in patterns.items():
            try:
                if re.match(rf"(.*\.)?({key})$", layer):
                    return value
            except re.error:
                continue
    return otherwise
