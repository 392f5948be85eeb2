"""Writing verified runs to NetCDF files."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np

from linflow._support.arrays import to_numpy
from linflow._support.paths import PathLike
from linflow.dynamics.storage.writing import Variables, as_json, dataset, need_writers, origin, write_dataset
from linflow.verified.problem import AffineGradient
from linflow.verified.storage.objectives import matrices
from linflow.verified.storage.schema import ENCLOSURE, KIND, PROBLEM, READ, STEPS


def save_enclosure(enclosure: Any, path: PathLike) -> None:
    """Write a verified run to a NetCDF-4 file, with everything that its bounds need after loading.

    Args:
        enclosure: an `Enclosure` or a `DescentEnclosure`.
        path: the file to write, ending in `.nc`. An existing file is replaced, whole or not at all.

    Raises:
        ValueError: the objective is given by functions, which a file cannot hold.
        FileError: the path has another suffix, or the file would be too large to read back under the usual limit.
        OSError: the file cannot be written.
        ImportError: xarray or h5netcdf is not installed.
    """
    need_writers(path)
    flow = hasattr(enclosure, "problem")
    variables = {
        **_objective(enclosure.objective),
        **_weights(enclosure),
        "hessians": ((), np.asarray(enclosure.hessians), "steps that needed the Hessian", "1"),
        **(_flow(enclosure) if flow else _descent(enclosure)),
    }
    algorithm = "flow" if flow else "descent"
    attributes = {
        **origin(f"Verified run of gradient {algorithm} on a multi-layer linear model"),
        "kind": KIND,
        "algorithm": algorithm,
        "result": enclosure.result,
        "reason": enclosure.reason,
        "objective": type(enclosure.objective).__name__,
        "notes": as_json([note for note in enclosure.notes if note != READ]),
    }
    if not flow and not enclosure.optimizer.plain:
        attributes["optimizer"] = as_json(enclosure.optimizer.to_dict())
    if flow:
        attributes["problem_notes"] = as_json(list(enclosure.problem.notes))
    write_dataset(dataset(variables, attributes, ENCLOSURE), path)


def _objective(objective: Any) -> Variables:
    return {
        f"objective_{name}": ((f"rows_{name}", f"columns_{name}"), value, f"{name} of the objective", "1")
        for name, value in matrices(objective).items()
    }


def _weights(enclosure: Any) -> Variables:
    start, narrowed = enclosure.start, enclosure.narrowed
    variables: Variables = {
        "scale": ((), np.asarray(start.scale), "output scale c of the product c W_1 ... W_L", "1"),
        "narrow_radius": ((), np.asarray(narrowed.radius), "distance of exact narrow weights to the computed", "1"),
    }
    for l, (first, narrow) in enumerate(zip(start.weights, narrowed.weights, strict=True), 1):
        variables[f"W{l}_start"] = ((f"h{l - 1}", f"h{l}"), to_numpy(first), f"first weights of layer {l}", "1")
        sides = (f"k{l - 1}", f"k{l}")
        variables[f"W{l}_narrow"] = (sides, narrow, f"first weights of layer {l}, hidden layers narrowed", "1")
    for l, Q in enumerate(narrowed.bases, 1):
        if Q is not None:
            variables[f"basis{l}"] = ((f"h{l}", f"k{l}"), Q, f"basis of the narrowed hidden layer {l}", "1")
    return variables


def _affine(problem: AffineGradient) -> Variables:
    numbers = [np.ravel(getattr(problem, name)) for name in PROBLEM]
    variables: Variables = {
        "problem_V": (("n", "m"), problem.V, "computed minimiser", "1"),
        "problem_numbers": (("number",), np.concatenate(numbers), f"of the gradient: {', '.join(PROBLEM)}", "1"),
        "problem_full": ((), np.asarray(int(problem.full)), "whether the objective is strongly convex", "1"),
    }
    for name in ("A", "B"):
        if getattr(problem, name) is not None:
            sides = (f"side_{name}", f"also_{name}")
            variables[f"problem_{name}"] = (sides, getattr(problem, name), f"{name} of the gradient", "1")
    return variables


def _flow(enclosure: Any) -> Variables:
    problem, steps = enclosure.problem, enclosure.steps
    variables: Variables = _affine(problem) if isinstance(problem, AffineGradient) else {}
    variables["first_gap"] = (("one", "ends"), np.array([enclosure.first]), "bounds of the initial loss gap", "loss")
    if not steps:
        return variables
    for name, (meaning, units) in STEPS.items():
        values = np.array([getattr(step, name.removeprefix("step_")) for step in steps])
        variables[name] = (("step",), values, meaning, units)
    gaps, constants = np.array([step.gap for step in steps]), np.array([astuple(step.constants) for step in steps])
    variables["step_gap"] = (("step", "ends"), gaps, "bounds of the loss gap at the end of the step", "loss")
    variables["step_constants"] = (("step", "constant"), constants, "constants on the tube", "1")
    terms = np.array([step.lengths.shape[1] for step in steps])
    variables["step_terms"] = (("step",), terms, "coefficients of each polynomial of the step", "1")
    lengths = np.concatenate([step.lengths.T for step in steps])
    variables["step_lengths"] = (("term", "layer"), lengths, "upper bounds of the norms of the coefficients", "1")
    for l in range(len(steps[0].coefficients)):
        series = np.concatenate([step.coefficients[l] for step in steps])
        sides = ("term", f"k{l}", f"k{l + 1}")
        variables[f"W{l + 1}_series"] = (sides, series, f"coefficients of the path of layer {l + 1}", "1")
    return variables


def _descent(enclosure: Any) -> Variables:
    variables: Variables = {
        "gaps": (("count", "ends"), enclosure.gaps.T, "bounds of the loss gap after each step", "loss"),
        "radius": (("count",), enclosure.radius, "upper bound of the distance of the exact weights", "1"),
        "exponent": ((), np.asarray(enclosure.exponent), "logarithm of the largest growth of a disturbance", "1"),
    }
    if enclosure.scheduled is None:
        variables["step_size"] = ((), np.asarray(enclosure.step_size), "step of the descent", "time of the flow")
    else:
        variables["step_sizes"] = (("step",), enclosure.scheduled, "steps of the schedule", "time of the flow")
    for l, W in enumerate(enclosure.weights, 1):
        sides = (f"k{l - 1}", f"k{l}")
        variables[f"W{l}_last"] = (sides, W, f"last weights of layer {l} as computed, narrowed", "1")
    return variables
