"""The matrix products of attention: query–key and value–output, head by head."""

from __future__ import annotations

from collections.abc import Iterable

from linflow._support.arrays import Array, namespace
from linflow.torch._chain import Chain, transposed
from linflow.torch._state_dict import State

SEPARATE = (
    ("q_proj", "k_proj", "v_proj", ("o_proj", "out_proj", "dense")),
    ("query", "key", "value", ("../output.dense", "out_proj", "dense")),
    ("q_lin", "k_lin", "v_lin", ("out_lin",)),
    ("to_q", "to_k", "to_v", ("to_out.0", "to_out")),
    ("wq", "wk", "wv", ("wo",)),
    ("q", "k", "v", ("o", "proj", "out")),
)
"""Names that libraries use for the projections of queries, keys, values and outputs."""
PACKED = ("query_key_value", "qkv_proj", "Wqkv", "wqkv", "attn_qkv", "to_qkv")
"""Names of a single matrix with queries, keys and values, whose order differs between models."""
PACKED_REASON = (
    "the order of queries, keys and values within it, and of heads, differs between models: give its parts, a state "
    "dict of q_proj.weight, k_proj.weight, v_proj.weight and o_proj.weight, and heads="
)
ROTARY = ("q_proj", "wq")
"""Names used by models that can rotate queries and keys by their position."""
NORMS = (("q_norm", "k_norm"), ("q_layernorm", "k_layernorm"), ("norm_q", "norm_k"))

Layer = tuple[str, Array, Array | None]
"""Name, matrix of shape (outputs, inputs), and bias."""


def attention_products(
    state: State, heads: int | None, kv_heads: int | None, skipped: list[tuple[str, str]]
) -> Iterable[Chain]:
    """Yield `W_Q W_Kᵀ` and `W_V W_O` of every head, or of heads that share a key, each as a chain of two layers."""
    done: set[str] = set()
    for name in list(state.tensors):
        for prefix, q, k, v, o in _layers_at(name, state, skipped):
            if prefix in done:
                continue
            done.add(prefix)
            label = prefix or "attention"
            split = _heads(state, prefix, q[1].shape[0], k[1].shape[0], heads, kv_heads)
            if isinstance(split, str):
                skipped.append((label, split))
                continue
            why = _not_a_product(state, prefix)
            if why:
                skipped.append((f"{label} query-key", why))
            else:
                yield from _query_key(label, q, k, *split)
            if o is not None and _fits(v, o, *split[:2]):
                yield from _value_output(label, v, o, *split[:2])


def _layers_at(name: str, state: State, skipped: list[tuple[str, str]]) -> Iterable[tuple]:
    """Yield (prefix, Q, K, V, O or None) if `name` is the first tensor of an attention layer."""
    stem = name.removesuffix(".weight")
    prefix, _, last = stem.rpartition(".")
    dot = f"{prefix}." if prefix else ""
    if last in PACKED and state.matrix(name) is not None:
        skipped.append((stem, PACKED_REASON))
    elif last in {"in_proj_weight", "q_proj_weight"}:  # of nn.MultiheadAttention
        bias = state.vector(f"{dot}in_proj_bias")
        fused = state.matrix(f"{dot}in_proj_weight")
        parts = [state.matrix(f"{dot}{x}_proj_weight") for x in "qkv"] if fused is None else _thirds(fused)
        if all(W is not None for W in parts):
            biases = [None] * 3 if bias is None else _thirds(bias)
            sources = [f"{dot}{x}_proj_weight" if fused is None else f"{name}[{x}]" for x in "qkv"]
            yield prefix, *zip(sources, parts, biases, strict=True), _layer(state, f"{dot}out_proj")
    elif last in {"qkv", "c_attn"}:
        fused, bias = state.matrix(f"{stem}.weight"), state.vector(f"{stem}.bias")
        if fused is not None:
            # The Conv1D of GPT-2 stores (inputs, outputs); others use the name for an nn.Linear.
            conv = last == "c_attn" and fused.shape[1] == 3 * fused.shape[0]
            output = "c_proj" if last == "c_attn" else "proj"
            fused = fused.T if conv else fused
            if fused.shape[0] == 3 * fused.shape[1]:
                biases = [None] * 3 if bias is None else _thirds(bias)
                parts = zip([f"{name}[{x}]" for x in "qkv"], _thirds(fused), biases, strict=True)
                yield prefix, *parts, _layer(state, f"{dot}{output}", turned=conv)
    elif name.endswith(".weight"):
        for q, k, v, outputs in SEPARATE:
            layers = [_layer(state, dot + x) for x in (q, k, v)] if last == q else [None]
            if all(layer is not None for layer in layers):
                found = (_layer(state, _beside(prefix, x)) for x in outputs)
                yield prefix, *layers, next((o for o in found if o is not None), None)
                return


def _beside(prefix: str, name: str) -> str:
    if name.startswith("../"):
        prefix, name = prefix.rpartition(".")[0], name.removeprefix("../")
    return f"{prefix}.{name}" if prefix else name


def _layer(state: State, name: str, *, turned: bool = False) -> Layer | None:
    W = state.matrix(f"{name}.weight")
    return None if W is None else (f"{name}.weight", W.T if turned else W, state.vector(f"{name}.bias"))


def _thirds(x: Array) -> list[Array]:
    third = x.shape[0] // 3
    return [x[i * third : (i + 1) * third] for i in range(3)]


def _heads(
    state: State, prefix: str, q_size: int, k_size: int, heads: int | None, kv_heads: int | None
) -> tuple[int, int, int] | str:
    """Return the number of query heads, of key heads and the width of a head, or why they are unknown."""
    heads = heads or state.attribute(
        prefix, "num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "num_attn_heads"
    )
    size = state.attribute(prefix, "head_dim", "attention_head_size", "dim_head")
    if heads is None and size:
        heads = q_size // size
    if heads is None:
        return "the number of heads is in neither the names nor the shapes: pass heads="
    if q_size % heads:
        return f"its {q_size} query outputs are not divided by {heads} heads: pass heads="
    size = q_size // heads
    kv_heads = kv_heads or (k_size // size if k_size % size == 0 else 0)
    if kv_heads * size != k_size or heads % kv_heads:
        return f"{k_size} key outputs do not fit {heads} heads of width {size}: pass kv_heads="
    return heads, kv_heads, size


def _not_a_product(state: State, prefix: str) -> str:
    dot = f"{prefix}." if prefix else ""
    for pair in NORMS:
        if any(f"{dot}{name}.weight" in state.tensors for name in pair):
            return f"{pair[0]} and {pair[1]} normalise queries and keys before they multiply"
    return ""


def _fits(v: Layer, o: Layer, heads: int, kv_heads: int) -> bool:
    return v[1].shape[0] % kv_heads == 0 and o[1].shape[1] == heads * (v[1].shape[0] // kv_heads)


def _query_key(label: str, q: Layer, k: Layer, heads: int, kv_heads: int, size: int) -> Iterable[Chain]:
    notes = []
    if q[2] is not None:
        notes.append("the bias of query is the last row of W_1" + " of each head" * (heads > kv_heads))
    if k[2] is not None:
        notes.append("the bias of key is the last column of W_2")
    if q[0].rpartition(".")[0].rpartition(".")[2] in ROTARY:
        notes.append("where rotary embeddings turn queries and keys, this is the product at distance 0")
    for group, which, note in _groups(heads, kv_heads):
        W_1 = _concat([_rows(q, head, size) for head in group], axis=0)
        W_2 = _rows(k, group[0] * kv_heads // heads, size).T
        yield Chain(f"{label} query-key {which}", "query-key", (W_1, W_2), (q[0], k[0]), notes=(*notes, *note))


def _value_output(label: str, v: Layer, o: Layer, heads: int, kv_heads: int) -> Iterable[Chain]:
    notes = ["the bias of value is the last row of W_1"] if v[2] is not None else []
    size = v[1].shape[0] // kv_heads
    for group, which, note in _groups(heads, kv_heads):
        W_1 = _rows(v, group[0] * kv_heads // heads, size)
        W_2 = _concat([o[1][:, head * size : (head + 1) * size].T for head in group], axis=1)
        yield Chain(f"{label} value-output {which}", "value-output", (W_1, W_2), (v[0], o[0]), notes=(*notes, *note))


def _groups(heads: int, kv_heads: int) -> Iterable[tuple[range, str, tuple[str, ...]]]:
    """Yield the query heads that share a key and value head, with their label and a note.

    The loss depends on all their products together. These form one product: the stacked queries times the key, or the
    value times the outputs side by side. The flow conserves the imbalance of this product.
    """
    each = heads // kv_heads
    for first in range(0, heads, each):
        if each == 1:
            yield range(first, first + 1), str(first), ()
        else:
            note = f"the {each} query heads that share a key and value head are stacked: one product"
            yield range(first, first + each), f"{first}-{first + each - 1}", (note,)


def _rows(layer: Layer, head: int, size: int) -> Array:
    """Return one head of a projection as (inputs, width)."""
    _, W, bias = layer
    part = slice(head * size, (head + 1) * size)
    return transposed(W[part], None if bias is None else bias[part])


def _concat(parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else namespace(*parts).concat(parts, axis=axis)
