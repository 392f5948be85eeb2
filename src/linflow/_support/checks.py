"""Input checks. Each error says what was given, what is needed and how to fix it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, cast

import numpy as np

from linflow._support.arrays import Array, is_array, is_plain, namespace, to_float64, unmasked
from linflow._support.memory import check_weights
from linflow._support.words import kind_of

_WITHOUT_NUMBERS = {
    "is_nested": ("nested", "its parts one by one"),
    "is_meta": ("meta", "the numbers themselves, from a device that holds them"),
    "is_quantized": ("quantized", "x.dequantize()"),
}
"""Tensors of PyTorch that look like arrays, by the attribute that tells them, with what to do."""


def matrix(x: Any, name: str, shape: tuple[int | None, int | None] | None = None) -> tuple[Array, str | None]:
    """Check a real, finite, non-empty matrix and promote it to float64.

    Args:
        x: an array of any kind, or nested lists (read as NumPy).
        name: what to call it in an error.
        shape: the shape needed; a side that is None may have any length.

    Returns:
        The float64 array, and a description of the promotion (None if the array was float64 already).
    """
    if shape is None and is_plain(x) and x.ndim == 2 and x.size > 0 and np.isfinite(x).all():  # at once
        return x, None
    x = unmasked(x, name)
    for attribute, (what, way) in _WITHOUT_NUMBERS.items():
        if getattr(x, attribute, False) is True:
            raise TypeError(f"{name} is a {what} tensor; a dense array is needed: pass {way}.")
    if hasattr(x, "todense") or "sparse" in str(getattr(x, "layout", "")):
        dense = "to_dense" if hasattr(x, "to_dense") else "toarray"
        raise TypeError(f"{name} is a sparse {type(x).__name__}; a dense array is needed: pass x.{dense}().")
    if not is_array(x):
        given = kind_of(x)
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"{name} is ragged: its rows differ in length; a 2-D array is needed.") from error
        if x.dtype == object:
            raise TypeError(f"{name} is {given}{' of objects' * (given != 'None')}; a real 2-D array is needed.")
    if x.ndim != 2:
        hint = " Write a vector as a matrix with one column: v.reshape(-1, 1)." if x.ndim == 1 else ""
        raise ValueError(
            f"{name} has {x.ndim} dimension{'s' * (x.ndim != 1)} (shape {tuple(x.shape)}); a matrix is needed.{hint}"
        )
    if 0 in x.shape:
        raise ValueError(f"{name} is empty (shape {tuple(x.shape)}); every side must be at least 1.")
    x, note = to_float64(x, name)
    xp = namespace(x)
    if not bool(xp.all(xp.isfinite(x))):
        bad = int(xp.sum(xp.astype(~xp.isfinite(x), xp.int64)))
        raise ValueError(
            f"{name} holds {bad} NaN or infinite entr{'y' if bad == 1 else 'ies'} of {x.shape[0] * x.shape[1]}; "
            "remove or impute them first."
        )
    if shape is not None and any(need is not None and need != got for need, got in zip(shape, x.shape, strict=True)):
        needed = "×".join("any" if side is None else str(side) for side in shape)
        raise ValueError(f"{name} is {x.shape[0]}×{x.shape[1]}; {needed} is needed.")
    return x, note


def number(x: Any, name: str, need: str = "a number") -> float:
    """Check a finite real number. Strings and truth values are refused, although `float` accepts them."""
    if isinstance(x, (str, bytes, bool, np.bool_)):
        raise TypeError(f"{name} is {x!r}; {need} is needed.")
    try:
        value = float(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {x!r}; {need} is needed.") from error
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{name} is {x!r}; {need}, finite, is needed.")
    return value


def positive(x: Any, name: str, *, allow_zero: bool = False) -> float:
    """Check a real number that must be positive (or non-negative)."""
    need = "a non-negative number" if allow_zero else "a positive number"
    value = number(x, name, need)
    if not (value >= 0 if allow_zero else value > 0):
        raise ValueError(f"{name} is {x!r}; {need}, finite, is needed.")
    return value


def fraction(
    x: Any, name: str, what: str = "the fraction of the initial loss gap to reach", example: str = "1e-6"
) -> float:
    """Check a number strictly between 0 and 1; an error calls it `what`."""
    value = positive(x, name)
    if value >= 1:
        raise ValueError(f"{name} is {x!r}; it is {what} and must lie in (0, 1), such as {example}.")
    return value


def count(x: Any, name: str, least: int = 1) -> int:
    """Check a whole number of at least `least`."""
    # An int can be too large for a float.
    good = isinstance(x, int) or (isinstance(x, Real) and float(x).is_integer())
    if isinstance(x, bool) or not good:
        raise TypeError(f"{name} is {x!r}; a whole number of at least {least} is needed.")
    if x < least:
        raise ValueError(f"{name} is {x!r}; at least {least} is needed.")
    return int(cast("Any", x))  # also converts another Real, such as 3.0


def generator(rng: Any) -> np.random.Generator:
    """Return the generator that a seed or a generator stands for."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        message = f"rng is {rng!r}; a seed, a whole number of at least 0, or a numpy.random.Generator is needed."
        raise type(error)(message) from None


def numbers(x: Any, name: str) -> np.ndarray:
    """Return a number or a sequence of numbers as a NumPy array of float64.

    Raises:
        ValueError: entries are masked, or rows differ in length.
        TypeError: an entry is not a number.
    """
    return np.asarray(unmasked(x, name), dtype=np.float64)


def each(function: Callable[[Any], float], x: Any, name: str) -> Any:
    """Apply a function to a number, or to each number of a sequence; a sequence gives an array of its shape.

    >>> each(abs, -1.0, "x"), each(abs, [-1, 2], "x")
    (1.0, array([1., 2.]))
    """
    if np.ndim(x) == 0:
        return function(x)
    return np.array([each(function, one, name) for one in unmasked(x, name)], dtype=np.float64)


def widths(x: Any) -> tuple[int, ...]:
    """Check the widths (h_0, …, h_L) of a network, and check that its weights fit in memory."""
    if isinstance(x, (str, bytes)) or not isinstance(x, Sequence):
        raise TypeError(f"widths is {x!r}; a sequence (n, h_1, …, m) is needed, such as (20, 30, 5).")
    if len(x) < 2:
        raise ValueError(f"widths is {tuple(x)}; at least (n, m) is needed, such as (20, 30, 5).")
    checked = tuple(count(h, f"widths[{i}]") for i, h in enumerate(x))
    check_weights(checked)
    return checked


def differing_texts(a: float, b: float, digits: int = 3) -> tuple[str, str]:
    """Return two numbers as texts that differ if the numbers differ.

    The texts get more digits than `digits` if they would be the same otherwise.

    >>> differing_texts(2.08, 3.41), differing_texts(1.246e-07, 1.2457e-07), differing_texts(2.0, 2.0)
    (('2.08', '3.41'), ('1.246e-07', '1.2457e-07'), ('2', '2'))
    """
    while digits < 17 and a != b and float(f"{a:.{digits}g}") == float(f"{b:.{digits}g}"):
        digits += 1
    return f"{a:.{digits}g}", f"{b:.{digits}g}"


def choice(x: Any, name: str, known: Sequence[str]) -> str:
    """Check that a name is in a short list."""
    if x not in known:
        raise ValueError(f"{name} is {x!r}; one of {', '.join(map(repr, known))} is needed.")
    return x
