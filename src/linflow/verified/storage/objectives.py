"""The objectives that a file of a verified run can hold: the matrices of each, and how it is made from them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linflow._support.arrays import to_numpy
from linflow.model.classification import ExponentialLoss, ExponentialTail, LogisticLoss
from linflow.model.huber import Huber
from linflow.model.objectives import Objective
from linflow.model.quadratics import LinearRegression, MatrixFactorization, Quadratic
from linflow.model.sensing import Completion, Sensing
from linflow.model.softmax import SoftmaxLoss
from linflow.verified.classification import TailGradient
from linflow.verified.huber import HuberGradient
from linflow.verified.operators import OperatorGradient
from linflow.verified.softmax import SoftmaxGradient


@dataclass(frozen=True)
class Stored:
    """How an objective is kept in a file.

    Attributes:
        kind: its class.
        parts: the name of each matrix, and the function that takes it from the objective; None leaves it out.
        make: takes the matrices by name, and returns the objective.
        gradient: takes the objective and an array of its kind, and returns its gradient with proved errors; None if
            the file holds that too.
    """

    kind: type[Objective]
    parts: dict[str, Callable[[Any], Any]]
    make: Callable[..., Objective]
    gradient: Callable[[Any, Any], Any] | None = None


def _of(name: str) -> Callable[[Any], Any]:
    return lambda f: getattr(f, name)


def _row(*names: str) -> Callable[[Any], Any]:
    """Return the function that takes numbers of an objective as one row."""
    return lambda f: np.array([[float(getattr(f, name)) for name in names]])


def _samples(f: Any) -> Any:
    """Return the number of samples of a regression, if rows of a ridge stand below them."""
    return None if f.samples == len(f.X) else np.array([[float(f.samples)]])


def _whole(x: Any, name: str, least: int = 1) -> int:
    if x is None or x.size != 1 or not x.item().is_integer() or x.item() < least:
        raise ValueError(f"{name} is not a whole number of at least {least}")
    return int(x.item())


def _single(x: Any, name: str) -> float:
    if x is None or x.size != 1:
        raise ValueError(f"{name} is not a single number")
    return float(x.item())


def _regression(X: Any, Y: Any, samples: Any = None) -> LinearRegression:
    made = LinearRegression(X, Y)
    if samples is not None:
        made.samples = _whole(samples, "samples")
        if made.samples > len(made.X):
            raise ValueError(f"there are {len(made.X)} rows, fewer than {made.samples} samples")
    return made


def _sensing(A: Any, b: Any, shape: Any) -> Sensing:
    if shape is None or shape.shape != (1, 2):
        raise ValueError("shape is not two numbers")
    n, m = (_whole(x, "shape") for x in shape[0])
    return Sensing(A, b, shape=(n, m))


def _completion(Y: Any, known: Any) -> Completion:
    return Completion(Y, known)


def _softmax(X: Any, labels: Any, classes: Any, mean: Any) -> SoftmaxLoss:
    return SoftmaxLoss(X, labels, classes=_whole(classes, "classes", 2), mean=bool(_whole(mean, "mean", 0)))


def _tail(f: ExponentialTail, like: Any) -> Any:
    return TailGradient.of(f)


_STORED = (
    Stored(MatrixFactorization, {"Y": _of("Y")}, MatrixFactorization),
    Stored(LinearRegression, {"X": _of("X"), "Y": _of("Y"), "samples": _samples}, _regression),
    Stored(Quadratic, {"A": _of("A"), "B": _of("B"), "C": _of("C")}, Quadratic),
    Stored(ExponentialLoss, {"X": _of("_X"), "y": _of("_Y")}, ExponentialLoss, _tail),
    Stored(LogisticLoss, {"X": _of("_X"), "y": _of("_Y")}, LogisticLoss, _tail),
    Stored(
        Sensing,
        {"A": _of("X"), "b": _of("y"), "shape": lambda f: np.array([f.shape], dtype=np.float64)},
        _sensing,
        OperatorGradient.over,
    ),
    Stored(
        Completion,
        {"Y": _of("minimizer"), "known": _of("known")},
        _completion,
        OperatorGradient.over,
    ),
    Stored(
        SoftmaxLoss,
        {
            "X": _of("inputs"),
            "labels": _of("labels"),
            "classes": lambda f: [[float(f.shape[1])]],
            "mean": _row("mean"),
        },
        _softmax,
        SoftmaxGradient.over,
    ),
    Stored(
        Huber,
        {"X": _of("X"), "Y": _of("Y"), "delta": _row("delta")},
        lambda X, Y, delta: Huber(X, Y, _single(delta, "delta")),
        HuberGradient.over,
    ),
)

OBJECTIVES = {stored.kind.__name__: stored for stored in _STORED}
"""Each objective that can be restored from data, by the name of its class."""

NAMES = frozenset(name for stored in _STORED for name in stored.parts)
"""The names of all their matrices."""


def matrices(objective: Objective) -> dict[str, np.ndarray]:
    """Return the matrices of an objective by name.

    Raises:
        ValueError: it is of no class that a file can hold.
    """
    stored = OBJECTIVES.get(type(objective).__name__)
    if stored is None or stored.kind is not type(objective):
        raise ValueError(
            f"a verified run of a {type(objective).__name__} cannot be saved, as a file cannot hold its functions; "
            f"keep what to_dict() returns. Verified runs of {', '.join(OBJECTIVES)} can be saved."
        )
    found = {name: part(objective) for name, part in stored.parts.items()}
    return {name: np.asarray(to_numpy(value), dtype=np.float64) for name, value in found.items() if value is not None}
