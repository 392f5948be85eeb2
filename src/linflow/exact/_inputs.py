"""Checks of times and numbers, and conversion of results to arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linflow._support.arrays import Array, from_numpy, is_array, to_numpy, unmasked


def instants(t: Any) -> np.ndarray:
    """Check the times: a non-negative number (returned as a 0-d array) or a sequence of them (1-d)."""
    t = unmasked(t, "t")
    try:
        times = to_numpy(t)
    except (TypeError, ValueError) as error:
        raise TypeError(f"t is {t!r}; a non-negative number or a sequence of them is needed.") from error
    if times.ndim > 1:
        raise ValueError(f"t has {times.ndim} dimensions (shape {times.shape}); flatten it with t.reshape(-1).")
    bad = times[~((times >= 0) & np.isfinite(times))]
    if bad.size:
        raise ValueError(f"t holds {bad.flat[0]:g}; times are finite and start at 0.")
    return times


def number(x: Any, name: str) -> float:
    """Check a finite real number."""
    try:
        value = float(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {x!r}; a real number is needed.") from error
    if not math.isfinite(value):
        raise ValueError(f"{name} is {x!r}; a finite number is needed.")
    return value


def scalars(values: np.ndarray, t: Any) -> Any:
    """Return a float for a 0-d array, and otherwise an array of the kind of `t` (NumPy for a list)."""
    if values.ndim == 0:
        return float(values)
    return from_numpy(values, t) if is_array(t) else values


def matrices(products: np.ndarray, times: np.ndarray, like: Array) -> Array:
    """Return products (one for each time) in the kind of `like`, without the time axis when t is one number."""
    return from_numpy(products[0] if times.ndim == 0 else products, like)
