"""Verified runs against flows and descents of 60 digits, on random starts: `make proofs`.

    python -m tests.proofs --instances 100000 --seed 0 --workers 2

Each instance draws an objective, widths (narrow and wide hidden layers), a start, scales from 1e-3 to 1e3, and flow
or descent. It compares everything that the proof bounds with the judge of `verified_judge`, which shares no code with
the library. Nothing is allowed for rounding, because the bounds include it. Where the judge would take long, it
follows only the first part of the flow. Prints what was compared, how many proofs were sharp and why others ended,
and exits with 1 if any bound was wrong.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import flint
import numpy as np

import linflow as lf
from linflow.verified import DescentEnclosure, Enclosure
from linflow.verified.arithmetic import FLOAT64
from linflow.verified.problem import affine_gradient
from tests.campaign import main
from tests.verified_judge import TrueFlow, _norm, distance, exact, identity, precision

BLOCK = 10
SHARP = 1.001
"""A proof is sharp if the latest time, or number of steps, is at most this times the earliest."""

FRACTIONS = (0.5, 0.1, 1e-2, 1e-4, 1e-6)
SIDES, ODDS = np.arange(1, 7), np.array([0.2, 0.3, 0.2, 0.14, 0.09, 0.07])
STARTS = ("Gaussian", "NTK", "balanced", "orthogonal", "small")
OBJECTIVES = ("factorization", "regression", "rank-deficient regression", "quadratic")
MAX_STEPS = 400
DIGITS = 1e-30
"""What the judge's own singular values and eigenvalues may be off by, relative to the largest."""


# --- what is drawn -------------------------------------------------------------------------------------------------


class Judge(TrueFlow):
    """The exact flow; its gap is measured from the loss of given weights of the product, if there are any."""

    def __init__(self, weights, scale, C, A=None, B=None, V=None, origin=None):
        self.offset = flint.arb(0)
        if origin is not None:  # A is given, B is not
            D = exact(origin) - V
            with precision():
                pairs = zip(D.entries(), (A * D).entries(), strict=True)
                self.offset = flint.arb(sum((a * b for a, b in pairs), flint.fmpq(0))) / 2
        super().__init__(weights, scale, C, A, B, V)

    def gap(self, W):
        with precision():
            return super().gap(W) - self.offset


@dataclass(frozen=True)
class Instance:
    """What is enclosed; `judge(origin)` follows it exactly."""

    words: str
    objective: lf.Objective
    network: lf.Network
    judge: Callable[[np.ndarray | None], Judge]


def solution(A: flint.fmpq_mat, C: flint.fmpq_mat) -> flint.fmpq_mat:
    """Return an exact solution of `A V = C`, whatever the rank of A."""
    n, m = A.nrows(), C.ncols()
    rows = [a + c for a, c in zip(A.tolist(), C.tolist(), strict=True)]
    reduced, rank = flint.fmpq_mat(rows).rref()
    V = [[flint.fmpq(0)] * m for _ in range(n)]
    for i in range(rank):
        pivot = next(j for j in range(n + m) if reduced[i, j] != 0)
        assert pivot < n, "the equations contradict each other"
        V[pivot] = [reduced[i, n + j] for j in range(m)]
    return flint.fmpq_mat(V)


def _objective(rng: np.random.Generator, kind: str, n: int, m: int, size: float):
    """Return an objective whose minimiser is of about this size, and its exact A, B, C and V."""
    if kind == "factorization":
        Y = size * rng.standard_normal((n, m))
        return lf.MatrixFactorization(Y), (None, None, exact(Y), exact(Y))
    if kind == "quadratic":
        A, B = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (n, m))
        A, B = (M @ np.diag(10 ** rng.uniform(-1, 1, len(M))) @ M.T for M in (A, B))
        A, B = (A + A.T) / 2, (B + B.T) / 2
        C = size * rng.standard_normal((n, m))
        a, b, c = exact(A), exact(B), exact(C)
        return lf.Quadratic(A, B, C), (a, b, c, a.solve(c) * b.solve(identity(m)))
    samples, inputs = int(rng.integers(1, 9)), 10.0 ** rng.uniform(-1.5, 1.5)
    if kind == "regression":
        X = inputs * rng.standard_normal((samples, n))
    else:  # a product of small integers is exact, and so is its rank
        rank = int(rng.integers(1, max(min(samples, n), 2)))
        X = rng.integers(-4, 5, (samples, rank)) @ rng.integers(-4, 5, (rank, n)) * 2.0 ** round(math.log2(inputs))
        X[0, 0] += not X.any()
    Y = size * np.linalg.norm(X) * rng.standard_normal((samples, m))
    x, y = exact(X), exact(Y)
    a, c = x.transpose() * x, x.transpose() * y
    return lf.LinearRegression(X, Y), (a, None, c, solution(a, c))


def _start(rng: np.random.Generator, kind: str, widths: Sequence[int], size: float) -> lf.Network:
    """Return a start whose product is of about this size (far below it for small starts)."""
    scale = float(rng.choice([1.0, 1.0, 0.3, 5.0]))
    narrow = min(widths) < min(widths[0], widths[-1])
    if kind == "NTK":
        net = lf.init.ntk(widths, rng=rng)
        scale = net.scale
    elif kind == "balanced" and not narrow:
        net = lf.init.balanced(widths, rng=rng)
    elif kind == "orthogonal":
        net = lf.init.orthogonal(widths, rng=rng)
    else:
        net = lf.init.gaussian(widths, rng=rng)
    factor = max(size / scale, 1e-6) ** (1 / (len(widths) - 1)) * 10.0 ** rng.uniform(-0.4, 0.2)
    factor *= 1e-2 if kind == "small" else 1.0
    if rng.random() < 0.15:  # a start that knows nothing of the target
        factor = 10.0 ** rng.uniform(-1.5, 0.5)
    return lf.Network([factor * W for W in net.weights], scale)


def instance(seed: int, index: int) -> Instance:
    """Return the instance of this number."""
    rng = np.random.default_rng((seed, index))
    depth = int(rng.choice([1, 2, 3, 4, 5], p=[0.04, 0.36, 0.3, 0.18, 0.12]))
    n, m = (int(x) for x in rng.choice(SIDES, 2, p=ODDS))
    least = 1 if rng.random() < 0.25 else min(n, m)
    most = max(least, 2 * n) if rng.random() < 0.3 else least + 2
    widths = (n, *(int(h) for h in rng.integers(least, most + 1, depth - 1)), m)
    kind, start = str(rng.choice(OBJECTIVES)), str(rng.choice(STARTS))
    size = 10.0 ** rng.uniform(-3, 3)
    objective, (A, B, C, V) = _objective(rng, kind, n, m, size)
    network = _start(rng, start, widths, size)
    words = (
        f"seed {seed} instance {index}: {kind}, {start}, widths {widths}, scale {network.scale:g}, size {size:.2g}"
    )
    return Instance(
        words,
        objective,
        network,
        lambda origin: Judge(network.weights, network.scale, C, A, B, V, origin),
    )


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


def judge_flow(enc: Enclosure, true: Judge, ledger: Ledger, rng: np.random.Generator) -> None:
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
            if len(step.lengths[0]) == FLOAT64.order + 1:  # else the step keeps the path rounded to float64
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
        later = enc.end + 1 / rate
        with precision():
            while true.t < flint.arb(later) and len(true.pieces) < 2 * pieces:
                true._advance()
        later = min(later, float(true.t) * (1 - 1e-12))
        if later > enc.end:
            bound = enc.certificate.gap_at(later - enc.end) * (1 + 1e-12)  # of the difference of the times
            ledger.compare("gap for ever", 0.0, true.gap(true.at(later)), bound)


def _spectra(enc: Enclosure, judge: Judge, t: float, ledger: Ledger) -> None:
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


def judge_descent(enc: DescentEnclosure, true: Judge, ledger: Ledger) -> None:
    """Compare a verified descent with the exact one, step by step."""
    iterates = true.descent(enc.step_size, enc.steps)
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
    net, V = drawn.network, np.asarray(drawn.objective.minimizer)
    at_start = float(np.linalg.eigvalsh(lf.TangentOperator(net).dense())[-1])
    at_end = net.depth * net.scale ** (2 / net.depth) * float(np.linalg.norm(V, 2)) ** (2 - 2 / net.depth)
    return drawn.objective.smoothness * max(at_start, at_end)


def one(seed: int, index: int) -> Ledger:
    """Return what one instance gave."""
    drawn, rng = instance(seed, index), np.random.default_rng((seed, index, 1))
    ledger = Ledger(drawn.words)
    until = float(rng.choice(FRACTIONS, p=[0.1, 0.15, 0.25, 0.25, 0.25]))
    ledger.seen["enclosures"] += 1
    if rng.random() < 0.7:
        enc = lf.enclose(drawn.objective, drawn.network, until=until, max_steps=MAX_STEPS)
        kind, bounds = "flow", enc.time_bounds(until)
    else:
        edge = 2 / (_curvature(drawn) + 1e-300)
        eta = edge * float(rng.choice([0.02, 0.1, 0.3, 0.6, 0.9, 1.3]))
        enc = lf.enclose(drawn.objective, drawn.network, algorithm="descent", step_size=eta, until=until, steps=60)
        kind, bounds = "descent", enc.steps_bounds(until)
    ledger.words += f", {kind} to {until:g}"
    ledger.seen[f"{kind}s"] += 1
    ledger.seen[f"{kind}s with the target proved"] += enc.result == "target proved"
    ledger.seen[f"{kind}s with the target proved, sharp"] += enc.result == "target proved" and sharp(bounds)
    ledger.seen[f"{kind}: {ending(enc)}"] += 1
    problem = affine_gradient(drawn.objective)
    true = drawn.judge(None if problem.least > 0 else problem.V)
    if isinstance(enc, DescentEnclosure):
        judge_descent(enc, true, ledger)
    elif enc.steps:
        judge_flow(enc, true, ledger, rng)
    return ledger


# --- the command line ----------------------------------------------------------------------------------------------


def block(seed: int, first: int, count: int) -> tuple[Counter, list[str]]:
    """Return the counts and the violations of some instances."""
    seen, violations = Counter(), []
    for index in range(first, first + count):
        ledger = one(seed, index)
        seen += ledger.seen
        violations += ledger.violations
    return seen, violations


if __name__ == "__main__":
    sys.exit(main("Verified runs against flows and descents of 60 digits.", block, BLOCK, 10_000))
