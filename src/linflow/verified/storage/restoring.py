"""Reading verified runs from NetCDF files."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from linflow._support.paths import LIMIT, PathLike
from linflow._support.words import listed
from linflow.dynamics.storage.hdf5 import RunFile, read_run
from linflow.dynamics.storage.restoring import optimizer_of
from linflow.model.classification import ExponentialTail
from linflow.model.network import Network
from linflow.verified.descent import DescentEnclosure
from linflow.verified.enclosure import Enclosure
from linflow.verified.log_norm import Constants
from linflow.verified.march import EnclosureStep
from linflow.verified.problem import AffineGradient
from linflow.verified.reduction import Narrowed
from linflow.verified.storage.objectives import OBJECTIVES
from linflow.verified.storage.schema import ENCLOSURE, KIND, PROBLEM, READ, RESULTS, STEPS
from linflow.verified.tail_enclosure import ConvexEnclosure, TailEnclosure


def load_enclosure(path: PathLike, *, limit: int = LIMIT) -> Enclosure | DescentEnclosure:
    """Read a verified run that `save` wrote.

    Nothing is proved again: the file states what was proved when it was saved. `notes` says so.

    Args:
        path: the file, ending in `.nc`.
        limit: largest number of bytes that its variables may take.

    Raises:
        FileError: the file is not a verified run, has another version of the format, or is damaged, hostile or too
            large.
        OSError: the file does not exist or cannot be read.
        ImportError: h5py is not installed.
    """
    return enclosure_of(read_run(path, limit, {KIND: ENCLOSURE}))


def enclosure_of(source: RunFile) -> Enclosure | DescentEnclosure:
    """Return the verified run that a file holds."""
    if source.kind is not ENCLOSURE:
        raise source.error("it holds no verified run")
    algorithm, result = source.attributes.get("algorithm"), source.attributes.get("result")
    if algorithm not in RESULTS:
        raise source.error(f"its algorithm is {algorithm!r}, neither 'flow' nor 'descent'")
    if result not in RESULTS[algorithm]:
        raise source.error(f"its result is {result!r}, none of {listed(RESULTS[algorithm])}")
    reason = str(source.attributes.get("reason", ""))
    notes = (*_notes(source, "notes"), READ)
    objective, (start, narrowed) = _objective(source), _weights(source)
    hessians = _count(source, "hessians")
    try:
        objective.check_network(start)
    except (ValueError, TypeError) as error:
        raise source.error(str(error).rstrip(".")) from error
    if algorithm == "descent":
        return _descent(source, objective, start, narrowed, str(result), reason, hessians, notes)
    gradient = OBJECTIVES[type(objective).__name__].gradient
    problem: Any = _problem(source, start.shape) if gradient is None else gradient(objective, start.weights[0])
    first = source.array("first_gap", (1, 2), last_free=True)[0]
    bounds = (float(first[0]), float(first[1]))
    steps = _steps(source, narrowed)
    tail = TailEnclosure if isinstance(objective, ExponentialTail) else ConvexEnclosure
    kind = Enclosure if gradient is None else tail
    return kind(objective, start, problem, steps, bounds, str(result), reason, narrowed, notes, hessians)


def _descent(
    source: RunFile,
    objective: Any,
    start: Network,
    narrowed: Narrowed,
    result: str,
    reason: str,
    hessians: int,
    notes: tuple[str, ...],
) -> DescentEnclosure:
    gaps = source.array("gaps", (None, 2), last_free=True)
    radius = source.array("radius", (len(gaps),), last_free=True)
    if not len(gaps):
        raise source.error("it holds no bounds of the gap")
    _not_negative(source, "radius", radius[:-1])
    weights = [source.array(f"W{l}_last", W.shape) for l, W in enumerate(narrowed.weights, 1)]
    exponent, eta = float(source.array("exponent", ())), source.optional("step_size", ())
    taken = source.optional("step_sizes", (len(radius) - 1,))
    if (eta is None) == (taken is None):
        raise source.error("it needs a step size or the steps of a schedule, not both")
    if taken is not None and not ((taken > 0) & np.isfinite(taken)).all():
        raise source.error("a step of the schedule is not a positive number")
    return DescentEnclosure(
        objective,
        start,
        None if eta is None else float(eta),
        gaps.T,
        radius,
        exponent,
        result,
        reason,
        weights,
        narrowed,
        hessians,
        notes,
        taken,
        optimizer_of(source, start.depth),
    )


def _notes(source: RunFile, name: str) -> tuple[str, ...]:
    notes = source.json(name, list, [])
    if not all(isinstance(note, str) for note in notes):
        raise source.error(f"its {name} are not all text")
    return tuple(notes)


def _count(source: RunFile, name: str) -> int:
    value = float(source.array(name, ()))
    if value < 0 or value != int(value):
        raise source.error(f"its {name} is {value:g}, not a count")
    return int(value)


def _not_negative(source: RunFile, name: str, values: np.ndarray) -> None:
    if (values < 0).any():
        raise source.error(f"{name!r} has a value below 0")


def _objective(source: RunFile) -> Any:
    name = source.attributes.get("objective")
    if name not in OBJECTIVES:
        raise source.error(f"its objective is {name!r}, none of {listed(OBJECTIVES)}")
    stored = OBJECTIVES[name]
    data = {key: source.optional(f"objective_{key}", (None, None)) for key in stored.parts}
    try:
        return stored.make(**data)
    except (ValueError, TypeError) as error:
        raise source.error(f"its objective cannot be made: {str(error).rstrip('.')}") from error


def _weights(source: RunFile) -> tuple[Network, Narrowed]:
    depth = sum(name.endswith("_start") for name in source.arrays)
    full = [source.array(f"W{l}_start", (None, None)) for l in range(1, depth + 1)]
    try:
        start = Network(full, float(source.array("scale", ())))
    except ValueError as error:
        raise source.error(f"its weights do not form a network: {str(error).rstrip('.')}") from error
    bases = [source.optional(f"basis{l}", (start.widths[l], None)) for l in range(1, depth)]
    inner = [side if Q is None else Q.shape[1] for side, Q in zip(start.widths[1:-1], bases, strict=True)]
    sides = [start.widths[0], *inner, start.widths[-1]]
    narrow = [source.array(f"W{l}_narrow", shape) for l, shape in enumerate(pairwise(sides), 1)]
    radius = source.array("narrow_radius", ())
    _not_negative(source, "narrow_radius", radius)
    return start, Narrowed(narrow, bases, float(radius))


def _problem(source: RunFile, shape: tuple[int, int]) -> AffineGradient:
    n, m = shape
    V, A, B = (
        source.array("problem_V", shape),
        *(source.optional(f"problem_{name}", (side, side)) for name, side in (("A", n), ("B", m))),
    )
    numbers = source.array("problem_numbers", (9,)).tolist()
    _not_negative(source, "problem_numbers", np.array(numbers))
    pairs = {name: (numbers[2 * i], numbers[2 * i + 1]) for i, name in enumerate(PROBLEM[:3])}
    single = dict(zip(PROBLEM[3:], numbers[6:], strict=True))
    full = bool(source.array("problem_full", ()))
    return AffineGradient(V, A, B, **pairs, **single, full=full, notes=_notes(source, "problem_notes"))


def _steps(source: RunFile, narrowed: Narrowed) -> tuple[EnclosureStep, ...]:
    if "step_t" not in source.arrays:
        return ()
    depth, t = len(narrowed.weights), source.array("step_t", (None,))
    columns = {name: source.array(name, t.shape) for name in STEPS}
    for name, values in columns.items():
        _not_negative(source, name, values)
    length, tau = columns["step_length"], columns["step_tau"]
    if t[0] != 0 or (t[:-1] + length[:-1] != t[1:]).any() or not (length > 0).all() or not (tau > 0).all():
        raise source.error("its steps do not follow one another from t = 0")
    gaps = source.array("step_gap", (len(t), 2), last_free=True)
    constants = source.array("step_constants", (len(t), 4))
    _not_negative(source, "step_constants", constants)
    terms = source.array("step_terms", t.shape)
    if (terms < 1).any() or (terms != np.floor(terms)).any() or not math.isfinite(float(terms.sum())):
        raise source.error("a step does not have a whole number of coefficients")
    ends = np.concatenate([[0], np.cumsum(terms)]).astype(int)
    lengths = source.array("step_lengths", (int(ends[-1]), depth))
    _not_negative(source, "step_lengths", lengths)
    series = [source.array(f"W{l}_series", (int(ends[-1]), *W.shape)) for l, W in enumerate(narrowed.weights, 1)]
    return tuple(
        EnclosureStep(
            float(t[k]),
            float(length[k]),
            float(tau[k]),
            tuple(np.ascontiguousarray(W[a:b]) for W in series),
            np.ascontiguousarray(lengths[a:b].T),
            float(columns["step_radius"][k]),
            Constants(*(float(x) for x in constants[k])),
            float(columns["step_exponent"][k]),
            (float(gaps[k, 0]), float(gaps[k, 1])),
        )
        for k, (a, b) in enumerate(pairwise(ends))
    )
