"""The contents of the NetCDF file of a verified run."""

from __future__ import annotations

import re

from linflow.dynamics.storage.schema import ALSO_READ, CHECKED, Kind
from linflow.verified.storage.objectives import NAMES

KIND = "verified run"
"""Value of the attribute `kind` of such a file."""

READ = "read from a file: this is what was proved when it was saved, and it was not proved again"
"""The note added to a verified run that is read from a file."""

PROBLEM = ("norms", "lengths", "errors", "residue", "offset", "least")
"""The numbers of the affine gradient, in file order. The first three are pairs."""

STEPS = {
    "step_t": ("start of the step", "time of the flow"),
    "step_length": ("length of the step", "time of the flow"),
    "step_tau": ("time that the variable of the polynomials counts in", "time of the flow"),
    "step_radius": ("upper bound of the distance of the exact weights to the path", "1"),
    "step_exponent": ("upper bound of the integral of the logarithmic norm", "1"),
}
"""Variables with one number per step of a flow: their meaning and units."""

RESULTS = {
    "flow": ("target proved", "time limit reached", "step limit reached", "proof ended"),
    "descent": ("target proved", "all steps done", "diverged", "proof ended"),
}
"""The results that a verified run of each algorithm can have."""

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
            *(f"objective_{name}" for name in NAMES),
        }
    ),
    re.compile(r"(W[1-9][0-9]*_(start|narrow|series|last)|basis[1-9][0-9]*)"),
    (*CHECKED, "kind", "reason", "objective", "problem_notes"),
    tuple(name for name in ALSO_READ if name != "until"),
)
