"""Two weights: a proof of where the flow goes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linflow import plots
from linflow.dynamics import gradient_flow
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.pages.explorer.state import Given
from linflow.pages.explorer.view import TARGET, View
from linflow.verified import enclose


def scalars(given: Given) -> tuple[tuple[float, float, float], MatrixFactorization, Network, str]:
    """Return u, v and the target s, the objective, the start, and the lines of Python that make both."""
    u, v, s = given.number("u", -2.5, 2.5), given.number("v", -2.5, 2.5), given.number("s", -3, 3)
    lines = f"import linflow as lf\n\nf = lf.MatrixFactorization([[{s!r}]])\nstart = [[[{u!r}]], [[{v!r}]]]\n"
    return (u, v, s), MatrixFactorization(np.array([[s]])), Network([np.array([[u]]), np.array([[v]])]), lines


def two_weights(given: Given) -> View:
    """A verified run of two weights: bounds of the time from both sides."""
    (u, v, s), f, start, lines = scalars(given)
    proof = enclose(f, start, until=TARGET, max_steps=400) if s != u * v else None
    low, high = proof.time_bounds(TARGET) if proof else (0.0, 0.0)
    if proof is None:
        words = "The start is optimal."
    elif math.isfinite(high):
        words = f"Proved: the loss falls to 10⁻⁶ of its initial value at t = {high:.6g} (± {(high - low) / 2:.1g})."
    else:
        words = f"No proof to 10⁻⁶: {proof.reason}."
    code = f"{lines}print(lf.certify(f, start))\nprint(lf.enclose(f, start, until={TARGET:g}))\n"

    def draw() -> Any:
        return plots.phase_plane(f, gradient_flow(f, start, until=TARGET) if proof else ())

    return View({}, {"proved from": low, "proved by": high}, words, code, draw)
