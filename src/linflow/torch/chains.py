"""Chains of consecutive linear maps in a model: runs of `nn.Linear`, attention products, LoRA pairs.

As in the rest of the library, a chain is written from left to right with `W_l` of shape (inputs, outputs): the
layers compute `x ↦ x W_1 W_2 ⋯`. `nn.Linear` stores the transpose, and a formula such as `B A` is read from right to
left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from linflow._support import checks
from linflow.torch._chain import KINDS, Chain
from linflow.torch._state_dict import State, natural


@dataclass(frozen=True)
class Found:
    """The chains of a model, sorted by name.

    `skipped` lists what looked like a chain but is not one, with the reason. If there is no chain, `reason` says what
    was seen and how to name one.
    """

    chains: tuple[Chain, ...]
    skipped: tuple[tuple[str, str], ...]
    reason: str = ""


def find_chains(
    model: Any,
    *,
    inputs: Any = None,
    named: Mapping[str, Sequence[str]] | Sequence[Sequence[str]] | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    scaling: float | None = None,
    config: Mapping[str, Any] | None = None,
    kinds: Sequence[str] = KINDS,
) -> Found:
    """Find the chains of consecutive linear maps of a model or a state dict.

    The following chains are found:

    - With `inputs`, matrices that a forward pass multiplies, however the model is written. Only reshaping of the rows
      and multiplication by numbers may come between them, and each product must be used for nothing else.
    - Without `inputs`, `nn.Sequential` of `nn.Linear`, also nested, with only `nn.Identity` and idle dropout between
      the layers. In a state dict the modules between are unknown, so names with consecutive numbers are taken:
      `0.weight, 1.weight, …`.
    - The chains in `named`.
    - For each attention head, the query–key product `W_Q W_Kᵀ` and the value–output product `W_V W_O`. They come from
      `in_proj_weight` of `nn.MultiheadAttention`, from separate projections with the usual names, or from fused ones
      (`qkv`, `c_attn`). Query heads that share a key and value head are stacked: their products are one.
    - The pairs `lora_A`, `lora_B` of PEFT with their scaling.

    A bias of the first layer is exactly one more row of `W_1`, for an input extended by a constant 1. A bias of the
    key is one more column of `W_2`. A bias of the last layer stays outside the product. Any other bias ends a chain.

    `trained` lists which layers are not frozen (`requires_grad`). Layers that share memory with another tensor of
    the model are tied, and their chains are skipped. Two tensors that hold the same numbers only give a note.

    Args:
        model: an `nn.Module`, or a mapping of names to tensors or arrays.
        inputs: a small batch of inputs of the model: its only argument, a tuple of arguments (`()` for none) or a
            mapping of named arguments. One pass is run, in the model's current mode; buffers and random numbers are
            restored.
        named: chains by the names of their layers (`"encoder"` or `"encoder.weight"`), in the order of application. A
            mapping gives names to the chains. It is not checked that nothing comes between the layers.
        heads: number of attention heads; taken from the modules or `config` if omitted.
        kv_heads: number of key and value heads; taken from the shapes if omitted.
        scaling: the factor of every LoRA pair; if omitted, taken from the modules or `config`, else 1.
        config: the configuration of the model or the adapter, as in `config.json` and `adapter_config.json`.
        kinds: the `KINDS` to look for.

    Returns:
        `Found`, with `chains`, `skipped` and `reason`.

    Raises:
        TypeError: the model is neither a model nor a state dict, or inputs are given for a state dict.
        ValueError: a kind is unknown, or named layers do not exist or do not multiply.

    Example:
        >>> import numpy as np
        >>> from linflow.torch import find_chains
        >>> state = {"0.weight": np.ones((5, 3)), "1.weight": np.ones((2, 5)), "3.weight": np.ones((4, 2))}
        >>> find_chains(state).chains
        (Chain('0 → 1', linear, 3×5×2),)
    """
    from linflow.torch._adapters import lora_pairs  # noqa: PLC0415 - imported only if asked for
    from linflow.torch._attention import attention_products  # noqa: PLC0415 - imported only if asked for
    from linflow.torch._runs import linear_chains, reason  # noqa: PLC0415 - imported only if asked for
    from linflow.torch._training import examined  # noqa: PLC0415 - only this function needs it

    state = model if isinstance(model, State) else State(model, config)
    for kind in kinds:
        checks.choice(kind, "kind", KINDS)
    if inputs is not None and not state.modules:
        raise TypeError(
            "inputs is for a model, whose forward pass is run; a state dict has none. Name chains: named=."
        )
    skipped: list[tuple[str, str]] = []
    chains: list[Chain] = []
    once: list[Chain] = []
    if "linear" in kinds:
        for chain, traced in linear_chains(state, inputs, named, skipped):
            (once if traced else chains).append(chain)
    if "query-key" in kinds or "value-output" in kinds:
        chains += (c for c in attention_products(state, heads, kv_heads, skipped) if c.kind in kinds)
    if "lora" in kinds:
        chains += lora_pairs(state, scaling, skipped)
    known = [set(chain.sources) for chain in chains]
    once = [chain for chain in once if set(chain.sources) not in known]  # a LoRA pair is one such product, too
    if set(kinds) != {"lora"}:
        skipped += state.others.items()
    chains, once = ([replace(chain, stored=state.stored(chain.sources)) for chain in some] for some in (chains, once))
    chains = [*examined(chains, state, skipped), *examined(once, state, skipped, counted=True)]
    found = tuple(sorted(chains, key=lambda c: natural(c.name)))
    return Found(found, tuple(skipped), "" if found else reason(state, inputs))
