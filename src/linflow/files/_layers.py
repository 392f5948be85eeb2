"""From named arrays to the layers of a network: order, orientation, biases."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from linflow._support import checks
from linflow._support.arrays import first_bad, rounding
from linflow._support.paths import FileError, quote
from linflow._support.words import listed, position
from linflow.model.network import Network

CONVENTIONS = ("product", "torch")


def network_from(
    arrays: Mapping[str, np.ndarray],
    path: Path,
    *,
    scale: float | None = None,
    convention: str | None = None,
    layers: Sequence[str] | None = None,
    ordered: bool = False,
    stored: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> Network:
    """Return the network whose layers are the 2-D arrays, in the order given or in that of their numbers.

    Args:
        arrays: the content of the file; a 0-d `scale` is the output scale.
        path: the file, named in errors.
        scale: the output scale, if it is stored elsewhere.
        convention: see `load_weights`.
        layers: the names of the layers, first applied first. If left out, the numbers in the names decide.
        ordered: whether the order of the arrays is meaningful. It is used if the names differ in more than numbers.
        stored: the dtypes in the file, by name, if they differ from those of the arrays.
        notes: further notes on the file.
    """
    if convention is not None:
        checks.choice(convention, "convention", CONVENTIONS)
    arrays = dict(arrays)
    if "scale" in arrays and arrays["scale"].ndim == 0:
        scale = float(arrays.pop("scale"))
    if layers is None:
        _check_rest({name: W for name, W in arrays.items() if W.ndim != 2}, path)
        names, said = _in_order([name for name, W in arrays.items() if W.ndim == 2], ordered, arrays, path)
    else:
        names, said = _chosen(layers, arrays, path)
    notes = (*notes, *said)
    matrices = [arrays[name] for name in names]
    for name, W in zip(names, matrices, strict=True):
        if W.size == 0 or not np.isfinite(W).all():
            found = "is empty" if W.size == 0 else f"is {W[tuple(i := first_bad(W))]} at {position(i)}"
            raise FileError(f"{quote(path)}: {name!r} {found}; finite numbers are needed.")
    torch = _is_torch(names, matrices, convention, path)
    if torch:
        notes = (*notes, f"the layers {listed(names)} were read as those of nn.Linear, each transposed")
        matrices = [W.T for W in matrices]
    small = sorted({(stored or {}).get(name, str(arrays[name].dtype)) for name in names} - {"float64"})
    if small:
        whole = (arrays[name].astype(np.float64) for name in names if arrays[name].dtype.kind in "iu")
        notes = (*notes, f"the layers were promoted from {' and '.join(small)} to float64{rounding(whole)}")
    try:
        network = Network(
            [np.array(W, dtype=np.float64, order="C") for W in matrices], 1.0 if scale is None else scale
        )
    except ValueError as error:
        raise FileError(f"{quote(path)} holds no network: {error}") from error
    network.notes = notes
    return network


def _in_order(
    names: list[str], ordered: bool, arrays: Mapping[str, np.ndarray], path: Path
) -> tuple[list[str], tuple[str, ...]]:
    """Return the names in the order in which the layers are applied, and notes on what was assumed.

    The numbers in the names decide, or else the order of the file.
    """
    if not names:
        raise FileError(f"{quote(path)} holds no matrix; the layers of a network, 2-D arrays W1, W2, …, are needed.")
    numbers = {name: tuple(map(int, re.findall("[0-9]{1,18}", name))) for name in names}
    if len({re.sub("[0-9]+", "0", name) for name in names}) == 1 and len({*numbers.values()}) == len(names):
        return sorted(names, key=numbers.__getitem__), ()
    if ordered:
        return names, (f"the layers were taken in the order of the file: {listed(names)}",)
    shapes = ", ".join(f"{name!r} {'×'.join(map(str, arrays[name].shape))}" for name in names[:8])
    raise FileError(
        f"{quote(path)} holds {shapes}{', …' * (len(names) > 8)}: names that do not say which layer is applied "
        f"first. Name all in that order: layers={names[:2]!r} of load_weights, --layers {','.join(names[:2])} on the "
        "command line, or the other way round."
    )


def _chosen(layers: Sequence[str], arrays: Mapping[str, np.ndarray], path: Path) -> tuple[list[str], tuple[str, ...]]:
    """Check the given names; return them with a note on the arrays that were left out."""
    if isinstance(layers, str) or not all(isinstance(name, str) for name in layers):
        raise TypeError(f"layers is {layers!r}; a list of the names of the layers, first applied first, is needed.")
    names = list(layers)
    there = [name for name, W in arrays.items() if W.ndim == 2]
    wrong = [name for name in names if name not in there]
    if wrong or not names or len({*names}) < len(names):
        found = f"{wrong[0]!r} is not a matrix of {quote(path)}" if wrong else f"layers is {names!r}"
        raise FileError(f"{found}; some of its matrices, each once, are needed: {listed(there)}.")
    stems = {name.rpartition(".")[0] for name in names if name.endswith(".weight")}
    rest = {name: W for name, W in arrays.items() if name not in names}
    _check_rest({name: W for name, W in rest.items() if W.ndim == 1 and name.rpartition(".")[0] in stems}, path)
    left = [name for name, W in rest.items() if np.any(W != 0)]
    return names, (f"not among the layers, and left out: {listed(left)}",) if left else ()


def _check_rest(rest: Mapping[str, np.ndarray], path: Path) -> None:
    """Raise FileError for any array that is not a bias of zero."""
    for name, x in rest.items():
        if x.ndim != 1:
            raise FileError(
                f"{quote(path)}: {name!r} has {x.ndim} dimensions (shape {tuple(x.shape)}); the layers of a network "
                "are matrices. Leave it out of the file."
            )
        if np.any(x != 0):
            raise FileError(
                f"{quote(path)}: {name!r} is a vector of {x.size}, a bias that is not zero; the theory is for layers "
                "without biases. Train with bias=False, or append a 1 to the inputs and the bias to the first layer."
            )


def _is_torch(names: list[str], layers: list[np.ndarray], convention: str | None, path: Path) -> bool:
    """Tell whether the layers are stored as nn.Linear does: (outputs, inputs)."""
    pairs = list(itertools.pairwise(W.shape for W in layers))
    fits = {
        "product": all(left[1] == right[0] for left, right in pairs),
        "torch": all(left[0] == right[1] for left, right in pairs),
    }
    if convention is None:
        usual = "torch" if all(name == "weight" or name.endswith(".weight") for name in names) else "product"
        other = "product" if usual == "torch" else "torch"
        convention = usual if fits[usual] or not fits[other] else other
    if not fits[convention]:
        shapes = ", ".join(f"{name!r} {W.shape[0]}×{W.shape[1]}" for name, W in zip(names[:8], layers, strict=False))
        shapes += ", …" if len(names) > 8 else ""
        need = (
            "the columns of each must be the rows of the next"
            if convention == "product"
            else "the rows of each must be the columns of the next, as nn.Linear stores them"
        )
        order = " → ".join(names[:8]) + " → …" * (len(names) > 8)
        raise FileError(f"{quote(path)} holds {shapes}, which do not chain: {need}, in the order {order}.")
    return convention == "torch"


def decoded_size(shapes: list[tuple[int, ...]]) -> int:
    """Return the size in bytes of arrays of these shapes in float64."""
    return 8 * sum(math.prod(shape) for shape in shapes)
