"""The number formats in which weights are stored, and how far rounding to them can move a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linflow._support.arrays import Array, namespace

COMPUTED = 8 * 2.0**-23
"""The size of a singular value that should be 0, relative to the greatest, in a matrix computed in float32."""


@dataclass(frozen=True)
class Format:
    """A floating-point format whose neighbouring numbers are at most `max(relative·|x|, absolute)` apart."""

    name: str
    relative: float
    absolute: float

    def moved(self, W: Array) -> float:
        """Return the spectral norm of the rounding error that W can contain.

        The estimate is `u (max_i ‖row i‖ + max_j ‖column j‖)` for independent errors `|e_ij| ≤ u |w_ij|`,
        `u = relative/2`, and likewise for the absolute errors. It is √3 times the leading term of Bandeira and van
        Handel (2016), Theorem 1.1.
        """
        xp = namespace(W)
        rows, columns = (math.sqrt(float(xp.max(xp.sum(W * W, axis=axis)))) for axis in (1, 0))
        return (self.relative * (rows + columns) + self.absolute * sum(map(math.sqrt, W.shape))) / 2

    def times(self, factor: float) -> Format:
        """Return the format of numbers that were stored in this one and then multiplied by at most `factor`."""
        return replace(self, absolute=self.absolute * factor)


FLOAT64 = Format("float64", 0.0, 0.0)
"""The format of every computation. Its own rounding is counted there, so it is 0 here."""
FORMATS = {
    name: Format(name, 2.0 ** (1 - digits), 2.0**least)
    for name, digits, least in (
        ("float32", 24, -149),
        ("float16", 11, -24),
        ("bfloat16", 8, -133),
        ("float8_e4m3fn", 4, -9),
        ("float8_e4m3fnuz", 4, -10),
        ("float8_e5m2", 3, -16),
        ("float8_e5m2fnuz", 3, -17),
    )
} | dict.fromkeys(("float64", "float96", "float128", "longdouble"), FLOAT64)
"""The formats by name. `digits` counts the leading one; `least` is the exponent of the least number above 0."""


def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype of any array library, such as "bfloat16"."""
    return str(dtype).rpartition(".")[2].lower()


def coarsest(formats: Iterable[Format]) -> Format:
    """Return a format that rounds at least as much as each of several, in relative and in absolute terms."""
    formats = list(formats)
    found = max(formats, key=lambda f: f.relative, default=FLOAT64)
    return replace(found, absolute=max((f.absolute for f in formats), default=0.0))


def decoded(codes: np.ndarray, name: str) -> np.ndarray:
    """Decode bytes in an eight-bit format to float32, exactly."""
    if name == "float8_e5m2":  # the upper half of a float16
        return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    mantissa = FORMATS[name].relative
    bits = round(-math.log2(mantissa))
    code = np.arange(256)
    exponent, rest = (code & 127) >> bits, code & (2**bits - 1)
    size = np.where(exponent > 0, (2**bits + rest) * 2.0 ** (exponent - 1), rest) * FORMATS[name].absolute
    values = np.where(code > 127, -size, size)
    values[[128] if name.endswith("uz") else [127, 255]] = np.nan
    return values.astype(np.float32)[codes]
