"""Which solution a flow finds: one sample, two inputs, and a line of solutions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linflow import plots
from linflow.certificates.least_norm import LeastNormDistance, least_norm_distance
from linflow.dynamics import gradient_flow
from linflow.init import gaussian
from linflow.model.quadratics import LinearRegression
from linflow.pages.explorer.state import Given
from linflow.pages.explorer.view import View

UNTIL = 1e-9
REACH = 2.5
SHORTEST = 0.2
"""The least length of the sample: the line of solutions of a shorter one is outside the plane."""


def least_norm(given: Given) -> View:
    """Two layers of random entries: where the product ends, beside the solution of least norm."""
    x, y = [given.number(name, -REACH, REACH) for name in ("x1", "x2")], given.number("target", -2, 2)
    h, a, seed = given.count("width", 2, 1000), given.number("exponent", 0, 1), given.count("seed", 0, 9999)
    if math.hypot(*x) < SHORTEST:
        raise ValueError(f"the sample has the length {math.hypot(*x):.3g}; {SHORTEST:g} or more is needed.")
    f = LinearRegression([x], [[y]])
    run = gradient_flow(f, gaussian((2, h, 1), h**-a, rng=seed), until=UNTIL)
    found = least_norm_distance(f, run)
    path = [np.asarray(run.network_at(float(t)).product())[:, 0].tolist() for t in run.t]
    solution = [y * z / math.hypot(*x) ** 2 for z in x]
    code = (
        f"import linflow as lf\n\nf = lf.LinearRegression([{x!r}], [[{y!r}]])\n"
        f"start = lf.init.gaussian((2, {h}, 1), {h}**-{a!r}, rng={seed})\n"
        f"run = lf.gradient_flow(f, start, until={UNTIL:g})\nprint(lf.least_norm_distance(f, run))\n"
    )
    numbers: dict[str, float | None] = {
        "distance": found.distance,
        "bound": found.bound,
        "mixing": found.mixing,
        "exposure": found.exposure,
        "norm": math.hypot(*path[-1]),
        "least norm": math.hypot(*solution),
    }
    words = (
        f"Before the run: the limit is at most {found.bound:.4g} from the solution of least norm."
        if math.isfinite(found.bound)
        else f"No bound before the run: {found.reason}."
    )

    def draw() -> Any:
        return _figure(x, y, np.array(path), np.array(solution), found)

    return View({"path": path, "solution": [solution]}, numbers, words, code, draw)


def _figure(x: list[float], y: float, path: np.ndarray, solution: np.ndarray, found: LeastNormDistance) -> Any:
    """Draw the line of solutions, where the limit must be, and the path of the product."""
    _, ax = plots.figure(3.6, 3.4)
    along = np.array([-x[1], x[0]]) / math.hypot(*x)
    ax.axline(solution, solution + along, color=plots.COLOURS["green"], linewidth=1.2, label="solutions")
    if math.isfinite(found.bound):
        ends = np.array([solution - found.bound * along, solution + found.bound * along])
        ax.plot(*ends.T, color=plots.COLOURS["vermillion"], linewidth=4, alpha=0.4, label="limits not excluded")
    ax.plot(*path.T, color=plots.COLOURS["blue"], label="the product")
    ax.plot(*solution, "o", color=plots.COLOURS["green"], label="least norm")
    ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xlabel="$W_1$", ylabel="$W_2$", aspect="equal")
    ax.set_title(f"$y={y:g}$")
    ax.legend(loc="lower left")
    return ax
