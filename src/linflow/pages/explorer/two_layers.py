"""Two layers with a prescribed imbalance: spectrum, rate against the bounds, and the plane of starts."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from linflow import bounds, plots
from linflow.certificates import certify
from linflow.dynamics import gradient_flow
from linflow.geometry.operator import TangentOperator
from linflow.init import with_imbalance
from linflow.model.quadratics import MatrixFactorization
from linflow.pages.explorer.state import Given
from linflow.pages.explorer.view import POINTS, TARGET, View, points


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
    curves: dict[str, list] = {
        "spectrum": sorted(values, reverse=True),
        "plane": _plane(tuple(values), n, m, tuple(targets)),
    }
    if run and cert.gap > 0:
        times = times[times <= run.t[-1]]
        curves["loss"] = points(times, run.gap_at(times) / cert.gap)
        curves["guarantee"] = points(times, np.array([cert.gap_at(t) / cert.gap for t in times]))
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


@lru_cache(maxsize=8)  # neither the part of the target nor a screen that asks again changes it
def _plane(
    values: tuple[float, ...], n: int, m: int, targets: tuple[float, ...], side: int = 17
) -> list[list[float]]:
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
