"""Formulas in running text as HTML."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

from linflow._support.words import in_one_line

_SCRIPTS = {
    ord(sign): f"<{tag}>{plain}</{tag}>"
    for tag, signs in (("sup", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"), ("sub", "₋₀₁₂₃₄₅₆₇₈₉"))
    for sign, plain in zip(signs, "−0123456789", strict=True)
}
_WRITTEN_OUT = 5
"""Power of ten up to which a number is written with all its digits."""


def typeset(text: Any) -> Markup:
    """Return text as HTML, with typeset subscripts, superscripts and powers of ten; escape everything else.

    Example:
        >>> from linflow.pages.typesetting import typeset
        >>> print(typeset("γ λ_min(T) falls to 1e-06"))
        γ λ<sub>min</sub>(T) falls to 10<sup>−6</sup>
        >>> print(typeset("‖W_1‖_F < 2.66e+03, σ_{r+1}: 10⁻⁵"))
        ‖W<sub>1</sub>‖<sub>F</sub> &lt; 2660, σ<sub>r+1</sub>: 10<sup>−5</sup>
    """
    text = re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]?\d+)(?![\w.]*\w)", _power, in_one_line(str(text)))
    text = re.sub(r"\bsqrt\(", "√(", text)
    text = re.sub(" ([=≈≤≥]) ", "\u00a0\\1 ", text)  # no line starts with a sign
    html = str(escape(text)).translate(_SCRIPTS).replace("</sup><sup>", "").replace("</sub><sub>", "")
    html = re.sub(r"\^\{([^{}]+)\}", r"<sup>\1</sup>", html)
    html = re.sub(r"_\{([^{}]+)\}", r"<sub>\1</sub>", html)
    html = re.sub(r"(?<=\w)_(min|max|[lL])\b", r"<sub>\1</sub>", html)
    # Only after a single letter or a norm: names of code and files have more before an underscore.
    return Markup(re.sub(r"((?<![\w.])[^\W\d_]|‖)_(\d+|F)(?!\w)", r"\1<sub>\2</sub>", html))


def _power(found: re.Match[str]) -> str:
    digits, exponent = found[1], int(found[2])
    if 0 <= exponent <= _WRITTEN_OUT:
        return f"{float(found[0]):,.0f}".replace(",", "\u202f" if float(found[0]) >= 1e4 else "")
    power = f"10^{{{exponent}}}".replace("-", "−")
    return power if float(digits) == 1 else f"{digits}\u00a0×\u00a0{power}"
