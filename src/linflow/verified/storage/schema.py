"""What stands in the NetCDF file of a verified run."""

from __future__ import annotations

import re

from linflow.dynamics.storage.schema import ALSO_READ, CHECKED, Kind
from linflow.model.classification import ExponentialLoss, LogisticLoss
from linflow.model.quadratics import LinearRegression, MatrixFactorization, Quadratic

KIND = "verified run"
"""What the attribute `kind` of such a file says."""

READ = "read from a file: this is what was proved when it was saved, and it was not proved again"
"""The note of a verified run that came from a file."""

OBJECTIVES = {
    "MatrixFactorization": (MatrixFactorization, {"Y": "Y"}),
    "LinearRegression": (LinearRegression, {"X": "X", "Y": "Y"}),
    "Quadratic": (Quadratic, {"A": "A", "B": "B", "C": "C"}),
    "ExponentialLoss": (ExponentialLoss, {"X": "_X", "y": "_Y"}),
    "LogisticLoss": (LogisticLoss, {"X": "_X", "y": "_Y"}),
}
"""Objectives that their data give back: the class, and each of its arguments with the attribute that holds it."""

PROBLEM = ("norms", "lengths", "errors", "residue", "offset", "least")
"""The numbers of the affine gradient, in the order of the file; the first three are pairs."""

STEPS = {
    "step_t": ("start of the step", "time of the flow"),
    "step_length": ("length of the step", "time of the flow"),
    "step_tau": ("time that the variable of the polynomials counts in", "time of the flow"),
    "step_radius": ("upper bound of the distance of the exact weights to the path", "1"),
    "step_exponent": ("upper bound of the integral of the logarithmic norm", "1"),
}
"""One number for each step of a flow."""

RESULTS = {
    "flow": ("target proved", "time limit reached", "step limit reached", "proof ended"),
    "descent": ("target proved", "all steps done", "diverged", "proof ended"),
}

ENCLOSURE = Kind(
    KIND,
    frozenset(
        {
            *STEPS,
            "step_gap",
            "step_constants",
            "step_terms",
            "step_lengths",
            "first_gap",
            "gaps",
            "radius",
            "step_size",
            "step_sizes",
            "exponent",
            "hessians",
            "scale",
            "narrow_radius",
            "problem_V",
            "problem_A",
            "problem_B",
            "problem_numbers",
            "problem_full",
            *(f"objective_{name}" for _, names in OBJECTIVES.values() for name in names),
        }
    ),
    re.compile(r"(W[1-9][0-9]*_(start|narrow|series|last)|basis[1-9][0-9]*)"),
    (*CHECKED, "kind", "reason", "objective", "problem_notes"),
    tuple(name for name in ALSO_READ if name != "until"),
)
