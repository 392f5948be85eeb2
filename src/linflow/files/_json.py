"""Settings and notes as JSON in files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings of an experiment as JSON.

    Raises:
        TypeError: no dict, or something in it that JSON cannot hold.
        ValueError: an infinity or NaN.
    """
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings is a {type(settings).__name__}; a dict is needed.")
    try:
        return text(dict(settings))
    except ValueError as error:
        raise ValueError(
            f"settings cannot be written as JSON ({error}); write infinities and NaN as None or as text."
        ) from error
    except TypeError as error:
        raise TypeError(
            f"settings cannot be written as JSON ({error}); numbers, text, lists and dicts with text keys are needed."
        ) from error


def text(x: Any, indent: int | None = None) -> str:
    """Return anything as JSON, without NaN and infinities; arrays are lists."""
    made = json.dumps(x, ensure_ascii=False, allow_nan=False, default=_plain, indent=indent)
    # A lone surrogate, as undecodable file names hold, is written as JSON's own escape.
    return made.encode("utf-8", "backslashreplace").decode().replace("\0", "\\u0000")


def _plain(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return x.tolist()
    raise TypeError(f"{type(x).__name__} is not serializable")
