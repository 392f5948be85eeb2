"""The views of the explorer: from a state to the numbers of its drawing, the lines of Python, and a figure.

Each view is a function of the state alone. It names the start as the lines of Python do, so both agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from linflow import bounds, plots
from linflow.certificates import certify, safe_step_size
from linflow.dynamics import gradient_descent, gradient_flow
from linflow.geometry.operator import TangentOperator
from linflow.init import with_imbalance
from linflow.model.network import Network
from linflow.model.quadratics import MatrixFactorization
from linflow.pages.explorer.state import Given
from linflow.verified import enclose

TARGET = 1e-6
"""The fraction of the first loss gap that all times and steps refer to."""

STEPS = 300
"""Largest number of steps of a descent. A descent that needs more is shown as far as it got."""

PROVED = 60
"""Largest number of steps of the proof of a descent; each costs a fraction of a millisecond."""

POINTS = 80
"""Points of a curve over time."""


@dataclass(frozen=True)
class View:
    """What a view shows.

    Attributes:
        curves: lists of points by name.
        numbers: the numbers to read, by name. None where there is none.
        words: one sentence about what is seen.
        code: lines of Python that compute the same.
        draw: makes the figure, as matplotlib Axes.
    """

    curves: dict[str, list]
    numbers: dict[str, float | None]
    words: str
    code: str
    draw: Callable[[], Any] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """Return everything but the figure, for JSON."""
        numbers = {name: x if x is not None and math.isfinite(x) else None for name, x in self.numbers.items()}
        return {"curves": self.curves, "numbers": numbers, "words": self.words, "code": self.code}


def _scalars(given: Given) -> tuple[tuple[float, float, float], MatrixFactorization, Network, str]:
    """Return u, v and the target s, the objective, the start, and the lines of Python that make both."""
    u, v, s = given.number("u", -2.5, 2.5), given.number("v", -2.5, 2.5), given.number("s", -3, 3)
    lines = f"import linflow as lf\n\nf = lf.MatrixFactorization([[{s!r}]])\nstart = [[[{u!r}]], [[{v!r}]]]\n"
    return (u, v, s), MatrixFactorization(np.array([[s]])), Network([np.array([[u]]), np.array([[v]])]), lines


def two_weights(given: Given) -> View:
    """A verified run of two weights: bounds of the time from both sides."""
    (u, v, s), f, start, lines = _scalars(given)
    proof = enclose(f, start, until=TARGET, max_steps=400) if s != u * v else None
    low, high = proof.time_bounds(TARGET) if proof else (0.0, 0.0)
    if proof is None:
        words = "The start is optimal."
    elif math.isfinite(high):
        words = f"Proved: the loss is 10⁻⁶ of the first at t = {high:.6g} (± {(high - low) / 2:.1g})."
    else:
        words = f"No proof to 10⁻⁶: {proof.reason}."
    code = f"{lines}print(lf.certify(f, start))\nprint(lf.enclose(f, start, until={TARGET:g}))\n"

    def draw() -> Any:
        return plots.phase_plane(f, gradient_flow(f, start, until=TARGET) if proof else ())

    return View({}, {"proved from": low, "proved by": high}, words, code, draw)


def two_layers(given: Given) -> View:
    """Two layers with a prescribed imbalance: spectrum, rate against the bounds, and the plane of starts."""
    n, m = given.count("n", 1, 6), given.count("m", 1, 6)
    values = given.numbers("eigenvalues", -6, 6, (1, 12))
    targets = given.numbers("targets", 0, 5, (min(n, m), min(n, m)))
    part = given.number("part", -1, 2)
    W = np.zeros((n, m))
    np.fill_diagonal(W, targets)
    f = MatrixFactorization(W)
    start = with_imbalance(np.diag(values), part * W)
    cert = certify(f, start)
    table = {b.name: float(b.value) for b in bounds.table(start) if b.applies}
    truth = float(np.linalg.eigvalsh(TangentOperator(start).dense())[0])
    run = gradient_flow(f, start, until=TARGET / 10) if cert.gap > 0 else None
    seen = run.time_to(TARGET) if run else 0.0
    promised = cert.time_to(TARGET)
    end = seen if math.isfinite(seen) and seen > 0 else 10.0
    times = np.linspace(0.0, 1.3 * end, POINTS)
    curves: dict[str, list] = {"spectrum": sorted(values, reverse=True), "plane": _plane(values, n, m, targets)}
    if run and cert.gap > 0:
        times = times[times <= run.t[-1]]
        curves["loss"] = _points(times, run.gap_at(times) / cert.gap)
        curves["guarantee"] = _points(times, np.array([cert.gap_at(t) / cert.gap for t in times]))
    words = f"Guaranteed by {cert.best.name}." if cert.best else "Nothing is guaranteed: " + _first_reason(cert)
    code = (
        "import numpy as np\nimport linflow as lf\n\n"
        f"target = np.zeros(({n}, {m}))\nnp.fill_diagonal(target, {targets!r})\nf = lf.MatrixFactorization(target)\n"
        f"start = lf.init.with_imbalance(np.diag({values!r}), {part!r} * target)\n"
        f"print(lf.certify(f, start))\nrun = lf.gradient_flow(f, start, until={TARGET / 10:g})\n"
        "lf.plots.convergence(run, lf.certify(f, start))\n"
    )
    numbers = {
        "guaranteed rate": cert.rate,
        "least eigenvalue of T": truth,
        "best bound on it": max(table.values(), default=0.0),
        "guaranteed by": promised,
        "seen at": seen,
    }
    return View(curves, numbers, words, code, lambda: plots.convergence(run, cert) if run else plots.figure()[1])


def _first_reason(cert: Any) -> str:
    return next((g.reason for g in cert.guarantees if not g.applies and g.reason), "no theorem applies") + "."


def _plane(values: list[float], n: int, m: int, targets: list[float], side: int = 17) -> list[list[float]]:
    """Return guaranteed rates over multiples 0 to 2 of D (rows) and parts 0 to 1 of the target (columns)."""
    D, parts = np.array(sorted(values, reverse=True)), np.linspace(0.0, 1.0, side)
    least = min(targets)
    # At a part p of the target, ‖W − W*‖ is (1 − p)‖targets‖, and that much may be lost of σ_min.
    margins = np.maximum(least - (1 - parts) * float(np.linalg.norm(targets)), 0.0)
    known, places = np.unique(margins, return_inverse=True)  # many are 0
    rows = []
    for factor in np.linspace(0.0, 2.0, side):
        rates = [bounds.two_layer(factor * D, n, m, s if n <= m else 0.0, s if m <= n else 0.0) for s in known]
        rows.append((2 * np.array(rates, dtype=float)[places]).tolist())
    return rows


def _points(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    return [[float(a), float(b)] for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]


def descent(given: Given) -> View:
    """Gradient descent of two weights: the steps taken, what is certified, and how far the proof reaches."""
    (u, v, s), f, start, lines = _scalars(given)
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


VIEWS: dict[str, Callable[[Given], View]] = {"two_weights": two_weights, "two_layers": two_layers, "descent": descent}
