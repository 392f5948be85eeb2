"""Array namespaces and the dtype policy.

The mathematics is written once, against the Python array API standard. It takes NumPy, PyTorch, JAX, CuPy and any
other conforming arrays, and returns arrays of the same kind. Everything is computed in float64, because a
certificate in float32 means nothing. Integers and smaller floats are promoted, and the promotion is noted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import array_api_compat
import array_api_compat.numpy
import numpy as np

Array = Any
"""Any array of the Python array API standard."""

Namespace = Any
"""The module of functions for one kind of array."""

_NUMPY = frozenset((np.ndarray, np.float64))
_EXACT = 2.0**53
"""Below this size float64 holds every whole number."""
EPS = float(np.finfo(np.float64).eps)
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)
"""Below it, numbers of float64 lose digits, and an upper bound may round to 0."""


def namespace(*arrays: Array) -> Namespace:
    """Return the array API namespace shared by `arrays`.

    Raises:
        TypeError: the arrays are of different kinds (say NumPy and PyTorch).
    """
    for a in arrays:
        if type(a) not in _NUMPY or a.dtype.kind != "f":
            break
    else:
        if arrays:
            return array_api_compat.numpy  # at once; the general search takes as long as a small sum
    try:
        return array_api_compat.array_namespace(*arrays)
    except TypeError as error:
        kinds = sorted({f"{type(a).__module__}.{type(a).__name__}" for a in arrays})
        raise TypeError(
            f"arrays of different kinds cannot be combined: got {', '.join(kinds)}. "
            "Convert the objective's data or the weights so that all are of one kind."
        ) from error


def device(array: Array) -> Any:
    """Return the device `array` lives on."""
    return array_api_compat.device(array)


def is_array(x: object) -> bool:
    """Tell whether `x` is an array of a known kind."""
    return array_api_compat.is_array_api_obj(x)


def is_numpy(x: object) -> bool:
    """Tell whether `x` is a NumPy array."""
    return array_api_compat.is_numpy_array(x)


def is_plain(x: object) -> bool:
    """Tell whether `x` is a NumPy array of float64, and of no subclass."""
    return type(x) is np.ndarray and x.dtype == np.float64


def unmasked(x: Any, name: str) -> Any:
    """Return `x` without a mask or NumPy subclass.

    An array of a NumPy subclass (a mask that hides nothing, `numpy.matrix`) becomes a plain array. Any other `x` is
    returned unchanged.

    Raises:
        ValueError: a mask hides entries, of `x` or of a row of a list. The results would be those of other data.
    """
    if isinstance(x, np.ndarray):
        hidden = int(np.ma.count_masked(x)) if isinstance(x, np.ma.MaskedArray) else 0
        if hidden:
            raise ValueError(
                f"{name} hides {hidden} of its {x.size} entries behind a mask, and every entry is needed. Fill them "
                "with numbers (numpy.ma.filled). For the loss of the known entries of a target Y, take "
                "lf.Completion(Y.filled(0), ~Y.mask)."
            )
        return x if type(x) is np.ndarray else np.asarray(x)
    if isinstance(x, (list, tuple)) and any(isinstance(row, (list, tuple, np.ma.MaskedArray)) for row in x):
        return [unmasked(row, name) for row in x]
    if type(x).__name__ == "MaskedTensor":
        raise ValueError(f"{name} is a MaskedTensor, and every entry is needed. Fill it with x.to_tensor(number).")
    return x


def to_float64(array: Array, name: str) -> tuple[Array, str | None]:
    """Promote a real array to float64; the second value describes the promotion, or is None if there was none.

    Raises:
        TypeError: the array is complex or non-numeric, or its library refuses float64.
        ValueError: entries are masked.
    """
    array = unmasked(array, name)
    if is_numpy(array) and not array.dtype.isnative:  # as another processor orders the bytes
        array = array.astype(array.dtype.newbyteorder("="))
    xp = namespace(array)
    if array.dtype == xp.float64:
        return array, None
    given = str(array.dtype).removeprefix("torch.").removeprefix("array_api_strict.")
    kind = given.lower()
    if "complex" in kind:
        raise TypeError(f"{name} is complex ({given}); the theory is for real matrices. Pass a real array.")
    if not any(word in kind for word in ("int", "float")):
        raise TypeError(f"{name} has dtype {given}; a real numeric array is needed, preferably float64.")
    promoted = xp.astype(array, xp.float64)
    if promoted.dtype != xp.float64:
        raise TypeError(
            f"{name} could not be promoted from {given} to float64 and certificates need float64. "
            'With JAX, call jax.config.update("jax_enable_x64", True) first.'
        )
    whole = [] if "float" in kind else [promoted]
    return promoted, f"{name} was promoted from {given} to float64{rounding(whole)}"


def rounding(whole: Iterable[Array]) -> str:
    """Return how a note ends on whole numbers that are now float64: empty if none of them can have been rounded."""
    large = any(bool(namespace(x).any(abs(x) >= _EXACT)) for x in whole)
    return ", which rounds whole numbers beyond 2^53" if large else ""


def detach(array: Array) -> Array:
    """Return the array without its autograd graph, if it has one."""
    return array.detach() if array_api_compat.is_torch_array(array) else array


def to_numpy(array: Array) -> np.ndarray:
    """Copy any array (or sequence of numbers) to a NumPy array of float64."""
    if type(array) in _NUMPY:
        return np.array(array, dtype=np.float64)
    if array_api_compat.is_torch_array(array):
        array = array.detach().cpu().numpy()
    elif array_api_compat.is_cupy_array(array):
        array = array.get()
    return np.array(unmasked(array, "the array"), dtype=np.float64)


def from_numpy(array: np.ndarray | Sequence[float], like: Array) -> Array:
    """Convert NumPy data to the kind and device of `like`."""
    if is_numpy(like):
        return np.asarray(array)
    return namespace(like).asarray(np.asarray(array), device=device(like))


def singular_values(W: Array) -> Array:
    """Return the singular values of a matrix in descending order."""
    return namespace(W).linalg.svdvals(W)


def sigma(W: Array, k: int) -> Array:
    """Return the k-th largest singular value of `W`, or 0 if k > min(n, m)."""
    s = singular_values(W)
    return s[k - 1] if k <= s.shape[0] else s[0] * 0.0


def eigenvalues(A: Array) -> Array:
    """Return the eigenvalues of a symmetric matrix in descending order."""
    xp = namespace(A)
    return xp.flip(xp.linalg.eigvalsh(A))


def maximum(*values: Array) -> Array:
    """Return the elementwise largest of arrays, differentiably."""
    best = values[0]
    for value in values[1:]:
        best = namespace(best).where(value > best, value, best)
    return best


def norm(x: Array) -> float:
    """Return the Euclidean (Frobenius) norm as a Python float, safe from overflow and underflow."""
    if isinstance(x, np.ndarray):  # called a hundred times in a short run
        total = float(np.vdot(x, x))  # unlike dot, without a warning if it leaves float64
        if 1e-290 < total < 1e290:
            return math.sqrt(total)
    x = detach(x)
    xp = namespace(x)
    largest = float(xp.max(xp.abs(x))) if array_api_compat.size(x) else 0.0
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    return largest * float(xp.sqrt(xp.sum((x / largest) ** 2)))


def first_bad(x: np.ndarray) -> list[int]:
    """Return the index of the first entry that is NaN or infinite."""
    return [int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(x))), x.shape)]


def spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` indices from `range(count)`, evenly spread, including the first and the last.

    Example:
        >>> spread(3, 5), spread(10, 4)
        (array([0, 1, 2]), array([0, 3, 6, 9]))
    """
    return np.arange(count) if count <= most else np.unique(np.linspace(0, count - 1, most).round().astype(int))
