"""Find the tensors of a state dict that hold weights, tell their formats, and read eight-bit weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from linflow._support.arrays import Array, device, namespace
from linflow._support.number_formats import FORMATS, Format, dtype_name

SCALES = ("weight_scale_inv", "weight_scale", "scale_weight")
"""Names that quantisers use for the factors of an eight-bit `weight`; a name with "inv" is a factor, too."""
BLOCK = (128, 128)
"""Rows and columns that share one scale, if no configuration gives them."""
_CODES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")


def formats_of(tensors: Mapping[str, Array], stored: Mapping[str, str]) -> tuple[dict[str, Format], dict[str, str]]:
    """Return the formats of tensors of real floating-point numbers, and for others why they are not weights.

    Args:
        tensors: the tensors by name.
        stored: the dtypes of tensors in the file, by name, if they differ from those of the arrays.

    Indices and counters (64-bit integers) are in neither mapping.
    """
    formats, others = {}, {}
    for name, x in tensors.items():
        kind = stored.get(name) or dtype_name(x.dtype)
        where = str(getattr(x, "device", "")), str(getattr(x, "layout", ""))
        if where[0] == "meta":
            others[name] = "it has a shape and no numbers (device meta)"
        elif "sparse" in where[1]:
            others[name] = "it is sparse: call to_dense() on it"
        elif kind in FORMATS:
            formats[name] = FORMATS[kind]
        elif kind in _CODES and x.ndim >= 2:
            others[name] = f"its {kind} numbers are codes, as of quantised or packed weights, or indices: no weights"
        elif "int" not in kind:
            others[name] = f"it is of dtype {kind}: no weights"
    return formats, others


def eight_bits(tensors: dict[str, Array], formats: dict[str, Format], config: Mapping[str, Any]) -> dict[str, str]:
    """Convert eight-bit weights to float32, times their stored scale; return by name why some cannot be converted."""
    others = {}
    for name, form in list(formats.items()):
        if not form.name.startswith("float8"):
            continue
        xp = namespace(tensors[name])
        x = xp.astype(tensors[name], xp.float32)
        stem = name.removesuffix("weight")
        scale = next((tensors[stem + word] for word in SCALES if stem != name and stem + word in tensors), None)
        if scale is not None:
            scale = xp.astype(scale, xp.float32)
            spread = _spread(scale, tuple(x.shape), config)
            if spread is None:
                shapes = f"{tuple(scale.shape)}, its own {tuple(x.shape)}"
                others[name] = f"its scale has the shape {shapes}: not one for all, for each row or for each block"
                del formats[name]
                continue
            x, formats[name] = x * spread, form.times(float(xp.max(xp.abs(scale))))
        tensors[name] = x
    return others


def _spread(scale: Array, shape: Sequence[int], config: Mapping[str, Any]) -> Array | None:
    """Return the scale in a shape that broadcasts to that of the weight; None if it does not fit."""
    if math.prod(scale.shape) == 1:
        return scale.reshape(())
    if len(shape) != 2:
        return None
    if tuple(scale.shape) in {(shape[0],), (shape[0], 1)}:
        return scale.reshape((-1, 1))
    if scale.ndim != 2:
        return None
    given = (config.get("quantization_config") or {}).get("weight_block_size")
    even = [a // b if b and a % b == 0 else 0 for a, b in zip(shape, scale.shape, strict=True)]
    for block in [given] if given else [BLOCK, even]:
        if all(b and -(-a // b) == s for a, b, s in zip(shape, block, scale.shape, strict=True)):
            xp = namespace(scale)
            for axis, (size, b) in enumerate(zip(shape, block, strict=True)):
                scale = xp.take(scale, xp.arange(size, device=device(scale)) // b, axis=axis)
            return scale
    return None
