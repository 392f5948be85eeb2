"""TOML: reading files with errors that name the place, writing values, and finding the line of a key."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from linflow._support.digits import in_bytes
from linflow._support.paths import readable
from linflow._support.words import visible

LIMIT = 2**24
"""The most bytes of a TOML file. Parsed, it can take thirty times as much."""
DEEPEST = 32
"""The most names in a dotted key, and the most brackets open at one place. The parser takes their square."""
_PIECES = re.compile(
    r"""(\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')|\#[^\n]*|([^"'\#]+)""", re.DOTALL
)
"""A string (the first group), a comment, or what is between (the second). It ends where a string is not closed."""
_DOTTED = re.compile(rf"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){{{DEEPEST}}}")


def read_toml(path: str | os.PathLike[str], *, links: bool = True) -> tuple[dict[str, Any], str]:
    """Return the content of a TOML file, and its text.

    Args:
        path: the file.
        links: whether the path may be a symbolic link.

    Raises:
        ValueError: the file is not TOML; the message names the place. Or it is too large, or nested too deep.
        OSError: no such file, or not a regular file.
    """
    file = readable(path, links=links, empty=True)
    if (size := file.stat().st_size) > LIMIT:
        raise ValueError(f"{path} has {in_bytes(size)}; a TOML file of at most {in_bytes(LIMIT)} is needed.")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 (byte {error.start}); a TOML file is needed.") from None
    if (line := _too_deep(text)) is not None:
        raise ValueError(
            f"{path}, line {line}: there are more than {DEEPEST} names in a dotted key, or brackets in one another; "
            "nothing that linflow reads is nested so deep."
        )
    try:
        return tomllib.loads(text), text
    except ValueError as error:  # not TOML, or an integer of thousands of digits
        raise ValueError(f"{path} is not TOML: {visible(str(error))}.") from None


def _too_deep(text: str) -> int | None:
    """Return the line in which a text is nested too deep, or None. The text is not parsed."""
    pieces, at = [], 0
    while found := _PIECES.match(text, at):
        at = found.end()
        # A string may be a name in a dotted key. Its lines are kept for the count.
        pieces.append(found[2] or ("s" + "\n" * found[1].count("\n") if found[1] else ""))
    plain = "".join(pieces)
    if dotted := _DOTTED.search(plain):
        return 1 + plain.count("\n", 0, dotted.start())
    depth = 0
    for mark in re.finditer(r"[\[\]{}]", plain):
        depth = max(0, depth + (1 if mark[0] in "[{" else -1))
        if depth > DEEPEST:
            return 1 + plain.count("\n", 0, mark.start())
    return None


def toml_value(value: Any) -> str:
    """Return a value as it is written in a TOML file.

    Example:
        >>> from linflow._support.toml import toml_value
        >>> print(toml_value({"log": (1, 2.5e-9, "é")}))
        { log = [1, 2.5e-09, "é"] }
    """
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(str(value) if isinstance(value, os.PathLike) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # JSON allows this character unescaped, TOML does not


def line_of(text: str, names: list[str]) -> int | None:
    """Return the line number of a key, or that of its section if the key has no line (None if neither is found)."""
    section, found = "", None
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*([^\]]+?)\s*\]", line)
        if header:
            section = header[1]
            if names and section == names[0] and found is None:
                found = number
            continue
        key = re.match(r"\s*\"?([\w.-]+)\"?\s*=", line)
        if (
            key
            and names
            and [*section.split("."), key[1]] == ["" if len(names) == 1 else names[0], names[min(1, len(names) - 1)]]
        ):
            return number
        if key and not section and key[1] == ".".join(names[:2]):
            return number
        if key and not section and len(names) > 1 and key[1] == names[0]:  # an inline table is on one line
            return number
    return found
