"""The objectives that experiment files and the command line know: how each is made, and what its heading says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from linflow.model.circular import CircularRegression
from linflow.model.classification import ExponentialLoss, LogisticLoss
from linflow.model.diagonal import DiagonalRegression
from linflow.model.huber import Huber
from linflow.model.objectives import Objective
from linflow.model.powers import LpRegression
from linflow.model.quadratics import LinearRegression, MatrixFactorization
from linflow.model.sensing import Completion, Sensing
from linflow.model.softmax import SoftmaxLoss

POWER = 4.0
"""The power p of the objective `powers` if none is given."""


@dataclass(frozen=True)
class Form:
    """An objective by its name in files.

    Attributes:
        make: takes the target, or X and y, and those of the options that are given.
        phrase: what a heading says of it, if it is not the squared loss of the product.
        options: the keys of the section `data` that it uses besides its data.
        needs: those of the options that must be given, and why.
        target: whether its data are a target, not X and y.
    """

    make: Callable[..., Objective]
    phrase: str = ""
    options: tuple[str, ...] = ()
    needs: tuple[tuple[str, str], ...] = ()
    target: bool = False


def _completion(Y: Any, *, missing: str) -> Objective:
    return Completion(Y)


def _regression(X: Any, Y: Any, *, sample_weights: Any = None, ridge: float = 0.0) -> Objective:
    return LinearRegression(X, Y, weights=sample_weights, ridge=ridge)


def _powers(X: Any, Y: Any, *, p: float = POWER) -> Objective:
    return LpRegression(X, Y, p)


FORMS: dict[str, Form] = {
    "factorization": Form(MatrixFactorization, target=True),
    "completion": Form(
        _completion,
        " on its known entries",
        ("missing",),
        (("missing", "what stands for a missing entry; give --missing nan or --missing empty"),),
        target=True,
    ),
    "regression": Form(_regression, options=("sample_weights", "ridge")),
    "sensing": Form(
        Sensing,
        " as measurements of the product",
        ("shape",),
        (("shape", "the rows and columns of the product; give --shape 3,2"),),
    ),
    "huber": Form(Huber, ", by the Huber loss", ("delta",)),
    "logistic": Form(LogisticLoss, ", by logistic loss"),
    "softmax": Form(SoftmaxLoss, ", by softmax cross-entropy", ("mean",)),
    "exponential": Form(ExponentialLoss, ", by exponential loss"),
    "powers": Form(_powers, " in the p-norm", ("p",)),
    "diagonal": Form(DiagonalRegression, " by the diagonal of the product"),
    "circular": Form(CircularRegression, " by a circular convolution"),
}
"""Each objective by its name. A new one is a class and an entry here (and its name in `schema.Kind`)."""

OPTIONS = tuple(dict.fromkeys(key for form in FORMS.values() for key in form.options))
"""The keys of the section `data` that only some objectives use."""


def options_of(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an objective that are given.

    Raises:
        ValueError: one is given that it does not use, or one is missing that it needs.
    """
    form = FORMS[kind]
    found = {key: value for key, value in given.items() if value is not None}
    for key, value in found.items():
        if key not in form.options:
            users = " or ".join(name for name, other in FORMS.items() if key in other.options)
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            raise ValueError(
                f"{key} is {shown}, but {kind} does not use it; leave it out, or use --objective {users}."
            )
    for key, why in form.needs:
        if key not in found:
            raise ValueError(f"{kind} needs {key}: {why}.")
    return found
