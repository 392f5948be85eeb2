"""Verified runs against flows and descents of 60 digits, on random starts: `make proofs`.

    python -m tests.proofs --instances 100000 --seed 0 --workers 2

Each instance draws an objective, widths (narrow and wide hidden layers), a start, scales from 1e-3 to 1e3, and flow
or descent, with momentum or without. One in five has another loss, and is small: sensing, completion, softmax, Huber,
exponential, logistic, weighted or ridge regression. It compares everything that the proof bounds with the judges of
`verified_judge` and `loss_judges`, which share no code with the library. Nothing is allowed for rounding, because the
bounds include it. Where the judge would take long, it follows only the first part of the flow. Flows of quadratic
losses are followed to 28 digits first (`pair_flow`); the judge of 60 digits decides where these find a bound wrong,
and where the proof itself needed more digits. Prints what was compared, how many proofs were sharp and why others
ended, and exits with 1 if any bound was wrong.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from typing import Any

import flint
import numpy as np

import linflow as lf
from linflow.verified import DescentEnclosure, Enclosure
from linflow.verified.arithmetic import FIRST_PAIRS, PAIRS
from linflow.verified.huber import HuberGradient
from linflow.verified.operators import OperatorGradient
from linflow.verified.problem import affine_gradient
from tests.campaign import main
from tests.proof_instances import Instance, instance, of_other_loss
from tests.verified_judge import TrueFlow, _norm, distance, exact, identity, precision

BLOCK = 10
SHARP = 1.001
"""A proof is sharp if the latest time, or number of steps, is at most this times the earliest."""

FRACTIONS = (0.5, 0.1, 1e-2, 1e-4, 1e-6)
TARGETS = np.array([0.1, 0.15, 0.25, 0.25, 0.25])
"""How often each fraction is the target."""
MAX_STEPS, DESCENT = 400, 60
"""Limits on the steps of a flow and of a descent."""
OTHER, OTHER_TARGETS, OTHER_STEPS = 0.2, np.array([0.5, 0.35, 0.15, 0.0, 0.0]), 40
"""The share of the other losses, their targets, and the limit on their steps: their proofs take longer."""
MOMENTUM, LARGEST = 0.4, 40
"""The share of descents that have momentum, and the most weights, as it takes time with their cube."""
DIGITS = 1e-30
"""What the judge's own singular values and eigenvalues may be off by, relative to the largest."""
LAST = 1e-50
"""What the judge's own gap may be off by, relative to the first; it counts where the gap has fallen to rounding."""

OF_PAIRS = {arithmetic.order + 1 for arithmetic in (PAIRS, FIRST_PAIRS)}
"""Numbers of coefficients of steps whose path has more digits than float64."""


# --- comparisons ---------------------------------------------------------------------------------------------------


class Ledger:
    """Counts comparisons, and keeps the violations in words."""

    def __init__(self, words: str):
        self.words, self.seen, self.violations = words, Counter(), []

    def compare(self, what: str, low: float, true: flint.arb, high: float, slack: float = 0.0) -> None:
        """Note whether `low ≤ true ≤ high`; the slack is the judge's own error."""
        self.seen["comparisons"] += 1
        self.seen[f"comparisons, {what}"] += 1
        with precision():
            inside = flint.arb(low) <= true + slack and true - slack <= flint.arb(high)
        if not inside:
            self.violations.append(f"{self.words}: {what} {true.str(25)} is not in [{low!r}, {high!r}]")


def _eigenvalues(M: flint.arb_mat) -> list[flint.arb]:
    """Return the eigenvalues of a symmetric matrix to some 60 digits, in descending order."""
    values = [z.real.mid() for z in flint.acb_mat(M).eig(algorithm="approx")]
    return sorted(values, key=float, reverse=True)


def _tangent(W: list[flint.arb_mat], scale: flint.arb) -> flint.arb_mat:
    """Return T on the matrices of the product, from its definition."""
    n, m = W[0].nrows(), W[-1].ncols()
    T = flint.arb_mat(n * m, n * m)
    for l in range(len(W)):
        P, S = flint.arb_mat(identity(n)), flint.arb_mat(identity(m))
        for w in W[:l]:
            P = P * w
        for w in reversed(W[l + 1 :]):
            S = w * S
        P, S = P * P.transpose(), S.transpose() * S
        for i in range(n * m):
            for j in range(n * m):
                T[i, j] += scale**2 * P[i // m, j // m] * S[i % m, j % m]
    return T.mid()


def _away(W, coefficients, s) -> flint.arb:
    """Return a little less than the distance of W to the path with these coefficients at s."""
    with precision():
        return flint.arb(distance(W, coefficients, s)) * (1 - flint.arb(2) ** -50)


def judge_flow(enc: Enclosure, true: TrueFlow, ledger: Ledger, rng: np.random.Generator) -> None:
    """Compare a verified flow with the exact one, as far as the judge gets in some seconds."""
    widths = enc.start.widths
    pieces = min(100, max(5, 5000 // (len(widths) * max(widths) ** 3)))
    with precision():
        while true.t < flint.arb(enc.end) and len(true.pieces) < pieces:
            true._advance()
    reached = min(enc.end, float(true.t) * (1 - 1e-12))
    ledger.seen["flows followed to their end"] += reached == enc.end
    ends = enc.t[enc.t <= reached]
    times = {0.0, float(ends[-1]), float(rng.choice(ends)), *(reached * rng.random(3)), reached}
    same = [c.shape[1:] for c in enc.steps[0].coefficients] == [W.shape for W in enc.start.weights]
    ledger.compare("first gap", enc.first[0], true.first, enc.first[1])
    for t in sorted(times):
        W, step = true.at(t), enc._step(t)
        gap = true.gap(W)
        ledger.compare("gap", enc.gap_bounds(t)[0], gap, enc.gap_bounds(t)[1])
        if gap > 0:
            ledger.compare("rate", enc.rate_bounds(t)[0], true.rate(W), enc.rate_bounds(t)[1])
        if same:  # else the path is that of narrower layers
            near = [w[None] for w in enc.around(t)[0]]
            ledger.compare("distance", 0.0, _away(W, near, flint.arb(0)), enc.around(t)[3])
            if len(step.lengths[0]) not in OF_PAIRS:  # else the step keeps the path rounded to float64
                with precision():
                    s = (flint.arb(t) - flint.arb(step.t)) / flint.arb(step.tau)
                ledger.compare("distance", 0.0, _away(W, step.coefficients, s), step.radius)
    for k in {len(ends) - 1, *rng.integers(1, max(len(ends), 2), 3)}:
        if 1 <= k < len(ends):
            gap = enc.steps[k - 1].gap
            ledger.compare("gap", gap[0], true.gap(true.at(float(ends[k]))), gap[1])
    t = float(rng.choice(list(times)))
    _spectra(enc, true, t, ledger)
    for fraction in FRACTIONS:
        with precision():
            known = reached == enc.end or true.gap(true.now) <= true.first * flint.arb(fraction)
            there = true.gap(true.now) <= true.first * flint.arb(fraction)
        if known:
            low, high = enc.time_bounds(fraction)
            ledger.compare("time", low, true.time_to(flint.arb(fraction)) if there else true.t, high)
    if reached == enc.end and enc.certificate is not None:
        rate = enc.certificate.rate
        ledger.compare("rate for ever", rate, true.rate(true.at(enc.end)), math.inf)
        later = enc.end + (1 / rate if rate > 0 else enc.end)
        with precision():
            while true.t < flint.arb(later) and len(true.pieces) < 2 * pieces:
                true._advance()
        later = min(later, float(true.t) * (1 - 1e-12))
        if later > enc.end:
            bound = enc.certificate.gap_at(later - enc.end) * (1 + 1e-12)  # of the difference of the times
            ledger.compare("gap for ever", 0.0, true.gap(true.at(later)), bound, LAST * float(true.first))


def _spectra(enc: Enclosure, judge: TrueFlow, t: float, ledger: Ledger) -> None:
    W = judge.at(t)
    with precision():
        P = judge.product(W)
        P = P if P.nrows() <= P.ncols() else P.transpose()
        values = [abs(x).sqrt() for x in _eigenvalues((P * P.transpose()).mid())]
        size = DIGITS * float(values[0])
    below, above = enc.singular_value_bounds(t)
    for low, value, high in zip(below, values, above, strict=True):
        ledger.compare("singular value", float(low), value, float(high), size)
    if math.prod(enc.start.shape) <= 12:
        with precision():
            values = _eigenvalues(_tangent(W, judge.scale))
        low, high = enc.least_eigenvalue_bounds(t)
        ledger.compare("least eigenvalue", low, values[-1], high, DIGITS * float(values[0]))


def judge_descent(enc: DescentEnclosure, true: TrueFlow, ledger: Ledger) -> None:
    """Compare a verified descent with the exact one, step by step."""
    optimizer = enc.optimizer
    iterates = true.descent(enc.step_size, enc.steps, optimizer.momentum, optimizer.nesterov)
    gaps = [true.gap(W) for W in iterates]
    for k, gap in enumerate(gaps):
        ledger.compare("gap of descent", float(enc.gaps[0, k]), gap, float(enc.gaps[1, k]))
    if [W.shape for W in enc.weights] == [W.shape for W in enc.start.weights]:
        with precision():
            squares = [
                _norm(w - flint.arb_mat(exact(v))) ** 2 for w, v in zip(iterates[-1], enc.weights, strict=True)
            ]
            away = sum(squares, flint.arb(0)).sqrt().mid()
        ledger.compare("distance of descent", 0.0, away, float(enc.radius[-1]))
    for fraction in FRACTIONS:
        with precision():
            below = (k for k, gap in enumerate(gaps) if gap <= gaps[0] * flint.arb(fraction))
            first = next(below, None)
        low, high = enc.steps_bounds(fraction)
        if first is not None:
            ledger.compare("steps", low, flint.arb(first), high)
        else:
            ledger.compare("steps", low, flint.arb(enc.steps + 1), high)


def ending(enc: Enclosure | DescentEnclosure) -> str:
    """Return how a proof ended, without its numbers."""
    reason = re.sub(r"\(.*?\)", "", enc.reason.split(": ", 1)[-1].split(";")[0])
    reason = " ".join(re.sub(r"e?\^?[-+]?\d[\d.]*(e[-+]?\d+)?", "#", reason).split())
    return f"{enc.result}: {reason}" if reason else enc.result


def sharp(bounds: tuple[float, float]) -> bool:
    """Tell whether an interval of times or steps is sharp."""
    return bounds[1] <= SHARP * bounds[0]


def _curvature(drawn: Instance) -> float:
    """Return about the largest eigenvalue of the Hessian at the start, or at the end if that is larger."""
    net, f = drawn.network, drawn.objective
    top = float(np.linalg.eigvalsh(lf.TangentOperator(net).dense())[-1])
    if f.minimizer is not None:
        V = float(np.linalg.norm(np.asarray(f.minimizer), 2))
        top = max(top, net.depth * net.scale ** (2 / net.depth) * V ** (2 - 2 / net.depth))
    K = f.smoothness if math.isfinite(f.smoothness) else f.tail_smoothness * f.value(net.product())
    return K * top


def origin(f: Any) -> np.ndarray | None:
    """Return the product from whose loss the gap is measured, or None if that is the minimum."""
    if f.minimizer is None or isinstance(f, lf.Completion):
        return None
    if isinstance(f, lf.Sensing):
        return None if OperatorGradient.over(f, f.X).least > 0 else f.minimizer
    if isinstance(f, lf.Huber):
        return None if HuberGradient.over(f, f.X).proved else f.minimizer
    problem = affine_gradient(f)
    return None if problem.least > 0 else problem.V


def enclosed(drawn: Instance, until: float, rng: np.random.Generator, other: bool) -> Enclosure | DescentEnclosure:
    """Return the proof of a flow, or of a descent with or without momentum."""
    f, net = drawn.objective, drawn.network
    if rng.random() < 0.7:
        return lf.enclose(f, net, until=until, max_steps=OTHER_STEPS if other else MAX_STEPS)
    eta = 2 / (_curvature(drawn) + 1e-300) * float(rng.choice([0.02, 0.1, 0.3, 0.6, 0.9, 1.3]))
    heavy: dict[str, Any] = {}
    quadratic = isinstance(f, (lf.MatrixFactorization, lf.LinearRegression, lf.Quadratic))
    if quadratic and sum(W.size for W in net.weights) <= LARGEST and rng.random() < MOMENTUM:
        mu, nesterov = float(rng.choice([0.3, 0.5, 0.9])), bool(rng.random() < 0.5)
        eta *= (1 + mu) / ((1 + 2 * mu) if nesterov else 1)
        heavy = {"momentum": mu, "nesterov": nesterov}
    steps = OTHER_STEPS if other else DESCENT
    return lf.enclose(f, net, algorithm="descent", step_size=eta, until=until, steps=steps, **heavy)


def one(seed: int, index: int, fast: bool = False) -> Ledger:
    """Return what one instance gave; with `fast`, by a compiled judge where that is enough."""
    rng = np.random.default_rng((seed, index, 1))
    other = np.random.default_rng((seed, index, 3)).random() < OTHER
    drawn = of_other_loss(seed, index) if other else instance(seed, index)
    if drawn is None:
        ledger = Ledger("refused")
        ledger.seen["data that were refused"] += 1
        return ledger
    ledger = Ledger(drawn.words)
    until = float(rng.choice(FRACTIONS, p=OTHER_TARGETS if other else TARGETS))
    ledger.seen["enclosures"] += 1
    enc = enclosed(drawn, until, rng, other)
    descent = isinstance(enc, DescentEnclosure)
    kind = ("descent" if enc.optimizer.plain else f"descent with {enc.optimizer}") if descent else "flow"
    ledger.words += f", {kind} to {until:g}"
    kind = "momentum descent" if "with" in kind else kind
    bounds = enc.steps_bounds(until) if descent else enc.time_bounds(until)
    for what in (f"{kind}s", f"{drawn.kind}, {kind}s"):
        ledger.seen[what] += 1
        ledger.seen[f"{what} with the target proved"] += enc.result == "target proved"
        ledger.seen[f"{what} with the target proved, sharp"] += enc.result == "target proved" and sharp(bounds)
    ledger.seen[f"{kind}: {ending(enc)}"] += 1
    start = origin(drawn.objective)
    if isinstance(enc, DescentEnclosure):
        judge_descent(enc, drawn.judge(start), ledger)
    elif enc.steps:
        fine = any(len(step.lengths[0]) in OF_PAIRS for step in enc.steps)
        judges = [drawn.fast, drawn.judge] if fast and drawn.fast is not None and not fine else [drawn.judge]
        for judge in judges:
            found = Ledger(ledger.words)
            judge_flow(enc, judge(start), found, np.random.default_rng((seed, index, 4)))
            if not found.violations:
                break
        ledger.seen += found.seen
        ledger.violations += found.violations
    return ledger


# --- the command line ----------------------------------------------------------------------------------------------


def block(seed: int, first: int, count: int) -> tuple[Counter, list[str]]:
    """Return the counts and the violations of some instances."""
    seen, violations = Counter(), []
    for index in range(first, first + count):
        ledger = one(seed, index, fast=True)
        seen += ledger.seen
        violations += ledger.violations
    return seen, violations


if __name__ == "__main__":
    sys.exit(main("Verified runs against flows and descents of 60 digits.", block, BLOCK, 10_000))
