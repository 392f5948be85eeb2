"""Results as plain data that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(x: Any) -> Any:
    """Return arrays and mappings as lists and dictionaries; a number that is not finite becomes None.

    >>> plain({"rate": np.array([1.0, np.inf]), "steps": np.int64(3), "shape": (2, 1)})
    {'rate': [1.0, None], 'steps': 3, 'shape': [2, 1]}
    """
    if isinstance(x, Mapping):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, np.ndarray | np.generic):
        return plain(x.tolist())
    if isinstance(x, list | tuple):
        return [plain(value) for value in x]
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    return x if x is None or isinstance(x, str | int) else str(x)
