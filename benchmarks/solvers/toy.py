"""A solver of one known solution, `log ℓ = −t`, that errs by its tolerance: the tests measure the bench by it.

Its methods fail in the ways that a solver can.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from benchmarks.problems import Problem
from benchmarks.solvers import Curve

TIGHT = 1e-2
"""Below this the toys that can fail do."""


def create(method: str) -> Toy:
    return Toy(method)


class Toy:
    def __init__(self, method: str):
        self.method = method

    def prepare(self, problem: Problem, t: np.ndarray) -> None:
        if self.method == "broken":
            raise ArithmeticError("no\nluck")

    def run(self, problem: Problem, t: np.ndarray, tolerance: float) -> Curve:
        """Err by the tolerance times the scale of the problem."""
        tight = tolerance < TIGHT
        if tight and self.method == "slow":
            threading.Event().wait()  # for ever
        if tight and self.method == "dies":
            raise SystemExit
        wrong = math.nan if self.method == "nan" else tolerance
        return t, -t + wrong * problem.scale, evaluations(tolerance)


def evaluations(tolerance: float) -> int:
    return round(100 / tolerance**0.1)
