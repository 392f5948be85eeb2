"""Depth: a chain of scalars, certified by the library. The page draws it in closed form."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from linflow import bounds, plots
from linflow.certificates import certify, margin
from linflow.dynamics import gradient_flow
from linflow.model.quadratics import MatrixFactorization
from linflow.pages.explorer.state import Given
from linflow.pages.explorer.view import TARGET, View


def depth(given: Given) -> View:
    """A chain of scalars: its certificate, and the exact rate at the margin."""
    weights, s = given.numbers("layers", -2, 2, (2, 8)), given.number("s", -3, 3)
    f, start = MatrixFactorization(np.array([[s]])), [np.array([[w]]) for w in weights]
    cert = certify(f, start)
    d = [a * a - b * b for a, b in pairwise(weights)]
    code = (
        f"import linflow as lf\n\nf = lf.MatrixFactorization([[{s!r}]])\nstart = [[[w]] for w in {weights!r}]\n"
        f"cert = lf.certify(f, start)\nprint(cert)\n"
        f"run = lf.gradient_flow(f, start, until={TARGET / 10:g})\nlf.plots.convergence(run, cert)\n"
    )
    if not cert.gap > 0:
        return View({}, {}, "The start is optimal.", code, lambda: plots.figure()[1])
    by = cert.time_to(TARGET)
    words = (
        f"Guaranteed by {cert.best.name}: 10⁻⁶ by t = {by:.6g}."
        if cert.best and math.isfinite(by)
        else "Nothing is guaranteed before the run."
    )

    def draw() -> Any:
        return plots.convergence(gradient_flow(f, start, until=TARGET / 10), cert)

    numbers = {
        "guaranteed rate": cert.rate,
        "exact rate at the margin": float(bounds.scalar_exact(d, margin(f, start))),
        "guaranteed by": by,
    }
    return View({}, numbers, words, code, draw)
