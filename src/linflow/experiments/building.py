"""Build the objective, the first weights and the steps of an experiment from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linflow import init, schedules
from linflow._support.memory import check_weights
from linflow._support.words import plural
from linflow.certificates import safe_step_size
from linflow.experiments.forms import FORMS, OPTIONS, options_of
from linflow.experiments.schema import DataSection, Experiment
from linflow.experiments.unused import SIZES
from linflow.files import load_weights, read_matrix
from linflow.model.network import Network
from linflow.model.objectives import Objective

WORK = 8
"""Memory that work on two wide layers takes, in multiples of the weights.

It is 5.8 for a flow and 7.9 for a descent of a million units.
"""
MOST_LAYERS = 10_000
"""Work on a start grows with the square of the layers."""


def objective_of(data: DataSection) -> Objective:
    """Read the data and return the objective.

    Raises:
        ValueError: data are missing, contradict each other, or do not fit the kind of objective.
    """
    notes: list[str] = []
    kind = data.objective or (
        "regression" if data.x else "completion" if data.missing is not None else "factorization"
    )
    form = FORMS[kind]
    options = options_of(kind, {key: getattr(data, key) for key in OPTIONS})
    options = {k: read_matrix(v, notes=notes) if isinstance(v, Path) else v for k, v in options.items()}
    if form.target:
        if data.target is None or data.x is not None or data.y is not None:
            raise ValueError(f"a {kind} needs a target, and no x or y: give --target Y.csv.")
        made = form.make(read_matrix(data.target, notes=notes, missing=data.missing), **options)
    elif data.x is None or data.y is None or data.target is not None:
        raise ValueError(f"{kind} needs x and y, and no target: give --x X.csv --y Y.csv.")
    else:
        X, Y = (read_matrix(path, notes=notes) for path in (data.x, data.y))
        if len(X) != len(Y):
            raise ValueError(
                f"{data.x} has {plural(len(X), 'row')} and {data.y} has {len(Y)}; one row for each sample is "
                "needed in both."
            )
        made = form.make(X, Y, **options)
    made.notes = (*made.notes, *notes)
    return made


def network_of(experiment: Experiment, objective: Objective, *, wider: int = 1) -> Network:
    """Draw or read the first weights; drawn hidden layers are `wider` times as wide, for "what if" questions.

    Raises:
        ValueError: hidden widths are missing, or weights and data do not fit.
        MemoryError: the weights, with what a certificate and a run need, would not fit in memory.
    """
    start = experiment.start
    if start.weights is not None:
        if start.hidden or start.size is not None:
            raise ValueError(
                "weights are read from a file, which has their widths and size; leave out hidden and size."
            )
        return load_weights(start.weights, layers=start.layers or None)
    widths = widths_of(experiment, objective, wider)
    check_weights(widths, WORK)
    name, default = SIZES.get(start.init, ("", 0.0))
    if start.size is not None and not name:
        raise ValueError(f"the start {start.init} has no size to set; leave it out, or use gaussian.")
    size: dict[str, Any] = {name: start.size or default} if name else {}
    if start.init == "spectral":  # in the modes of the solution
        if objective.minimizer is None:
            raise ValueError("the start spectral lies along the solution, and this objective has none; use another.")
        size["target"] = objective.minimizer
    drawn = getattr(init, start.init)(widths, rng=start.seed, **size)
    if start.multiplier == 1.0:
        return drawn
    return Network([start.multiplier * W for W in drawn.weights], scale=drawn.scale)


def widths_of(experiment: Experiment, objective: Objective, wider: int = 1) -> tuple[int, ...]:
    """Return the widths of the layers, hidden ones `wider` times as wide.

    Raises:
        ValueError: no hidden widths are given, or too many.
    """
    if not experiment.start.hidden:
        raise ValueError("the start has no hidden widths; give --hidden 64 or --hidden 64,64, or --weights FILE.")
    if len(experiment.start.hidden) >= MOST_LAYERS:
        raise ValueError(
            f"start.hidden has {len(experiment.start.hidden)} widths; fewer than {MOST_LAYERS} layers are needed."
        )
    n, m = objective.shape
    return (n, *(wider * h for h in experiment.start.hidden), m)


def steps_of(experiment: Experiment, objective: Objective, network: Network) -> dict[str, Any]:
    """Return the step of a descent as arguments of `certify` and `gradient_descent`; empty for a flow.

    A given number is the constant step, the first trial of backtracking, or the first step of `xu2025`.

    Raises:
        ValueError: no safe step is known, or the schedule takes no given step or does not fit.
    """
    if experiment.algorithm == "flow":
        return {}
    given, name = experiment.descent.step_size, experiment.descent.schedule
    optimizer = experiment.optimizer.optimizer(network.depth)
    if name == "constant":
        return {"step_size": safe_step_size(objective, network, optimizer) if given == "safe" else float(given)}
    if name == "local_smoothness":
        if given != "safe":
            raise ValueError("local_smoothness computes its own steps; leave out --step-size.")
        return {"schedule": schedules.local_smoothness()}
    first = () if given == "safe" else (float(given),)
    if name == "backtracking":
        return {"schedule": schedules.backtracking(*first)}
    return {"schedule": schedules.xu2025(objective, optimizer.coordinates(network), *first)}
