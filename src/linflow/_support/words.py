"""Numbers in sentences: "1 cell", "2 cells", and percentages that never round a part up to the whole."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any


def plural(count: float, noun: str, verb: str = "") -> str:
    """Return a count with its noun, such as "1 cell" or "2 cells", followed by the verb if one is given.

    Args:
        count: how many things there are.
        noun: the noun, in the singular.
        verb: the verb, in the plural form, such as "are" or "lie".

    Example:
        >>> plural(1, "cell"), plural(0, "cell"), plural(1, "run", "are"), plural(2, "batch", "lie")
        ('1 cell', '0 cells', '1 run is', '2 batches lie')
    """
    ending = "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    text = f"{count} {noun}{'' if count == 1 else ending}"
    return f"{text} {verb_for(count, verb)}" if verb else text


def kind_of(x: object) -> str:
    """Return what `x` is, with its article, for errors: "an int", "a list", "None".

    Example:
        >>> kind_of(1), kind_of([]), kind_of(None)
        ('an int', 'a list', 'None')
    """
    if x is None:
        return "None"
    name = type(x).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def verb_for(count: float, verb: str) -> str:
    """Return a verb in the singular or plural form that fits a count: "is" or "are", "does" or "do".

    Example:
        >>> verb_for(1, "do"), verb_for(3, "do"), verb_for(1, "have")
        ('does', 'do', 'has')
    """
    if count != 1:
        return verb
    return {"are": "is", "were": "was", "have": "has", "do": "does", "apply": "applies"}.get(verb, verb + "s")


def percent(x: float, digits: int = 0) -> str:
    """Return a fraction as a percentage. A part that is not the whole never becomes 100%, and one above 0 never 0%.

    Example:
        >>> percent(0.25), percent(0.9996), percent(0.9996, 1), percent(1.0), percent(1e-9), percent(0.0)
        ('25%', 'over 99%', 'over 99.9%', '100%', 'under 1%', '0%')
    """
    least = 10.0**-digits
    if not math.isfinite(x) or x in (0.0, 1.0):
        return f"{x:.0%}"
    if 0 < x < 1 and round(100 * x, digits) in (0.0, 100.0):
        return f"under {least:g}%" if x < 0.5 else f"over {100 - least:g}%"
    return f"{x:.{digits}%}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """Return names in quotes; only the first `most` if there are more."""
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def position(index: list[int]) -> str:
    """Return an index in words, counted from 1: "row 2, column 3"."""
    words = ("row", "column") if len(index) <= 2 else ("index",) * len(index)
    return ", ".join(f"{word} {i + 1}" for word, i in zip(words, index, strict=False))


_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""What is not shown but acts: control characters, direction marks, separators of lines, halves of characters."""


def visible(text: str) -> str:
    r"""Return text with every character that a terminal or a page would obey written out; lines and tabs stay.

    Names in files of others can hold such characters. The form is that of JSON, so JSON stays JSON.

    Example:
        >>> print(visible("layer\x1b[2J\u202eeno"))
        layer\u001b[2J\u202eeno
    """
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_one_line(text: str) -> str:
    r"""Return text on one line, as `visible` shows it.

    Example:
        >>> print(in_one_line("a\n  b\x00"))
        a b\u0000
    """
    return visible(re.sub(r"\s*[\n\r\t]\s*", " ", text))


_ASCII = str.maketrans(
    {
        "×": "x", "→": "->", "−": "-", "–": "-", "…": "...", "·": "*", "⋯": "...", "√": "sqrt", "≤": "<=", "≥": ">=",
        "≈": "~", "≠": "!=", "‖": "|", "∞": "inf", "✓": "ok", "✗": "no", "²": "^2", "ᵀ": "^T", "•": "-", "ℓ": "l",
        "\u202f": " ", "\u00a0": " ", "α": "alpha", "γ": "gamma", "δ": "delta", "ε": "eps", "η": "eta", "θ": "theta",
        "κ": "kappa", "λ": "lambda", "μ": "mu", "ρ": "rho", "σ": "sigma", "τ": "tau", "Λ": "Lambda", "Σ": "Sigma",
    }
)  # fmt: skip
"""Signs that other encodings lack, in letters."""


def shown(build: Callable[[Any], str]) -> Callable[[Any], str]:
    """Decorate a `__str__`: names from files cannot act on a terminal, and any terminal can show the text.

    Signs that the encoding of the standard output lacks are written in letters.
    """

    @wraps(build)
    def text(self: Any) -> str:
        return _encodable(visible(build(self)), getattr(sys.stdout, "encoding", None) or "utf-8")

    return text


def _encodable(text: str, encoding: str) -> str:
    r"""Return text in an encoding, with other signs as letters.

    >>> print(_encodable("20×5, σ_min ≥ 10⁻⁶", "ascii"), _encodable("σ ²", "latin-1"))
    20x5, sigma_min >= 10\u207b\u2076 sigma ²
    """
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):  # or the encoding is unknown
        if len(text) > 1:
            return "".join(_encodable(sign, encoding) for sign in text)
        return text.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    return text
