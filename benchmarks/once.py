"""One small solve, for the time of a whole process: `python -m benchmarks.once '["linflow", 1e-6]'`."""

from __future__ import annotations

import json
import sys

import numpy as np

from benchmarks.problems import TASKS
from benchmarks.solvers import SOLVERS

END = 42.6
"""Where T1 ends, for a solver that must be told; to three digits, which is all that timing needs."""


def main(name: str, tolerance: float) -> None:
    problem = TASKS["T1"].build(0)
    SOLVERS[name].create().run(problem, np.array([END]), tolerance)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
