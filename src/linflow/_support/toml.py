"""TOML: reading files with errors that name the place, writing values, and finding the line of a key."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_toml(path: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """Return the content of a TOML file, and its text.

    Raises:
        ValueError: the file is not TOML; the message names the place.
        OSError: no such file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 (byte {error.start}); a TOML file is needed.") from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}.") from None


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
