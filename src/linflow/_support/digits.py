"""Numbers as text: plain for tables and terminals, typeset as in print, and sizes in memory."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(x: float | None, digits: int = 4) -> str:
    """Return a number with `digits` significant digits, or a dash if it is None or not finite.

    >>> number(0.123456), number(None), number(float("inf"))
    ('0.1235', '–', '–')
    """
    return "–" if x is None or not math.isfinite(x) else f"{x:.{digits}g}"


def typeset(x: Any, digits: int = 3) -> str:
    """Return a number as it is printed in text, with a true minus sign and a power of ten.

    >>> typeset(0.12345), typeset(-1.5e-7), typeset(1e-5), typeset(20_000)
    ('0.123', '−1.5·10⁻⁷', '10⁻⁵', '20\u202f000')
    """
    if isinstance(x, Integral):
        return f"{int(x):{',' if abs(int(x)) >= 10_000 else ''}}".replace(",", "\u202f").replace("-", "−")
    if not math.isfinite(x):
        return "not a number" if math.isnan(x) else "∞" if x > 0 else "−∞"
    mantissa, _, exponent = f"{x:.{digits}g}".replace("-", "−").partition("e")
    if not exponent:
        return mantissa
    power = "10" + str(int(exponent.replace("−", "-"))).translate(_SUPERSCRIPTS)
    return {"1": "", "−1": "−"}.get(mantissa, f"{mantissa}·") + power


def in_bytes(size: float) -> str:
    """Return a size in the largest unit of which it holds at least one.

    >>> in_bytes(2**31), in_bytes(1000)
    ('2 GiB', '1000 bytes')
    """
    if size >= 2.0**1000:  # a product of widths that no one means
        return "over 10^300 bytes"
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**power:
            return f"{size / 2**power:.4g} {unit}"
    return f"{size:g} bytes"
