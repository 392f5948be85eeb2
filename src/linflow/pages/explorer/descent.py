"""Gradient descent of two weights: the steps taken, what is certified, and how far the proof reaches."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from linflow import plots
from linflow.certificates import certify, safe_step_size
from linflow.dynamics import gradient_descent
from linflow.model.quadratics import MatrixFactorization
from linflow.pages.explorer.state import Given
from linflow.pages.explorer.two_weights import scalars
from linflow.pages.explorer.view import TARGET, View
from linflow.verified import enclose

STEPS = 300
"""Largest number of steps of a descent. A descent that needs more is shown as far as it got."""

PROVED = 60
"""Largest number of steps of the proof of a descent; each costs a fraction of a millisecond."""


def descent(given: Given) -> View:
    """Gradient descent of two weights: the steps taken, what is certified, and how far the proof reaches."""
    (u, v, s), f, start, lines = scalars(given)
    eta = given.number("step", 1e-3, 2)
    code = (
        f"{lines}run = lf.gradient_descent(f, start, step_size={eta!r}, steps={STEPS}, until={TARGET:g})\n"
        f'print(lf.enclose(f, start, algorithm="descent", step_size={eta!r}, until={TARGET:g}))\n'
    )
    if s == u * v:
        return View({}, {}, "The start is optimal.", code, lambda: plots.phase_plane(f))
    path, losses, steps = _descended(u, v, s, eta)
    with np.errstate(all="ignore"):
        proof = enclose(f, start, algorithm="descent", step_size=eta, until=TARGET, steps=PROVED)
    reached = math.isfinite(proof.steps_bounds(TARGET)[1])
    # A disturbance shrinks near the end only below this step: T is u² + v² there.
    edge = 2 / math.hypot(u * u - v * v, 2 * s) if (u * u - v * v, s) != (0.0, 0.0) else math.inf
    words = (
        f"Proved: {proof.steps_bounds(TARGET)[1]} steps to 10⁻⁶."
        if reached
        else f"The proof ends after {proof.steps} steps: {proof.reason}."
    )

    def draw() -> Any:
        run = gradient_descent(f, start, step_size=eta, steps=STEPS, until=TARGET)
        return plots.convergence(run, certify(f, start, algorithm="descent", step_size=eta))

    numbers = {
        "steps taken": steps,
        "steps proved": float(proof.steps_bounds(TARGET)[1]) if reached else None,
        "certified step": _certified_step(u, v, s),
        "edge of stability": edge,
    }
    return View({"path": path, "losses": losses, "proved": [proof.steps]}, numbers, words, code, draw)


@lru_cache(maxsize=64)
def _certified_step(u: float, v: float, s: float) -> float:
    return float(safe_step_size(MatrixFactorization(np.array([[s]])), [np.array([[u]]), np.array([[v]])]))


def _descended(u: float, v: float, s: float, eta: float) -> tuple[list, list, float | None]:
    """Return the iterates and the losses of gradient descent, as parts of the first, and the steps to `TARGET`.

    A run of `gradient_descent` does not keep its iterates, which are drawn here.
    """
    first, path, losses = 0.5 * (s - u * v) ** 2, [], []
    for k in range(STEPS + 1):
        loss = 0.5 * (s - u * v) ** 2 / first
        path.append([u, v])
        losses.append([k, loss])
        if loss <= TARGET:
            return path, losses, k
        if not loss < 1e6:
            break
        g = s - u * v
        u, v = u + eta * g * v, v + eta * g * u
    return path, losses, None
