"""How sharp verified flows are, in tables: `make proof-tables TABLE=gaussian`.

    python -m tests.proof_tables gaussian --first 0 --count 100

Each row gives, at three parts of the initial loss gap, the latest certified time over the earliest. The actual time
lies between the two, so this ratio bounds that of the certified over the actual time. `docs/verified.md` shows the
tables.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from benchmarks.problems import TASKS, orthonormal

import linflow as lf
from linflow.experiments.figures.real_data import digits
from linflow.experiments.figures.verified_runs import _diabetes
from linflow.verified.steps import _edge
from tests.proofs import ending

FRACTIONS = (1e-2, 1e-4, 1e-6)
SHARP = 1.0002
Start = tuple[str, lf.Objective, lf.Network]


def gaussian(index: int) -> Iterator[Start]:
    """A shape to 6×6, hidden widths from min(n, m) to 6, target and weights of N(0, 1) entries."""
    rng = np.random.default_rng((16, index))
    L, n, m = 2 + index % 4, int(rng.integers(1, 7)), int(rng.integers(1, 7))
    widths = (n, *(int(h) for h in rng.integers(min(n, m), 7, L - 1)), m)
    f = lf.MatrixFactorization(rng.standard_normal((n, m)))
    yield f"{L} layers, {'×'.join(map(str, widths))}", f, lf.init.gaussian(widths, rng=rng)


def small(index: int) -> Iterator[Start]:
    """6×8×8×5 from small starts."""
    for size in (1e-2, 1e-3):
        rng = np.random.default_rng((17, index))
        f = lf.MatrixFactorization(rng.standard_normal((6, 5)))
        yield f"6×8×8×5 from {size:g}, seed {index}", f, lf.init.small((6, 8, 8, 5), size, rng=rng)


def orthogonal(index: int) -> Iterator[Start]:
    """Six orthogonal 10×10 layers; they are balanced, so the target's determinant has the sign of the start's."""
    problem = TASKS["T4"].build(index)
    net = lf.Network(list(problem.weights), problem.scale)
    yield f"six orthogonal 10×10, seed {index}", lf.MatrixFactorization(problem.target), net
    rng = np.random.default_rng((18, index))
    net = lf.Network([orthonormal(rng, 10) for _ in range(6)])
    Y = rng.standard_normal((10, 10))
    Y[0] *= np.sign(np.linalg.det(Y)) * np.sign(np.linalg.det(net.product()))
    yield f"six orthogonal 10×10, Gaussian target, seed {index}", lf.MatrixFactorization(Y), net


def benchmark(index: int) -> Iterator[Start]:
    """T1 to T5 of docs/benchmarks.md."""
    for task in ("T1", "T2", "T3", "T4", "T5"):
        problem = TASKS[task].build(index)
        net = lf.Network(list(problem.weights), problem.scale)
        yield task, lf.MatrixFactorization(problem.target), net


def real(index: int) -> Iterator[Start]:
    """Diabetes and digits, two and three layers, five starts."""
    for name, f, h in (("diabetes", _diabetes(), 64), ("digits", digits(), 40)):
        for L in (2, 3):
            widths = (f.shape[0], *[h] * (L - 1), f.shape[1])
            starts = {
                "NTK": lambda w: lf.init.ntk(w, rng=index),
                "fan-in": lambda w: lf.init.fan_in(w, rng=index),
                "balanced": lambda w: lf.init.balanced(w, std=0.1, rng=index),
                "imbalanced": lambda w: lf.init.imbalanced(w, 2.0, std=0.1, rng=index),
                "small": lambda w: lf.init.small(w, 1e-2, rng=index),
            }
            for start, draw in starts.items():
                try:
                    yield f"{name}, {L} layers, {start}", f, draw(widths)
                except ValueError as error:
                    print(f"{name}, {L} layers, {start}: left out ({error})", flush=True)


def momentum(index: int) -> Iterator[Start]:
    """Descents with momentum: Gaussian starts of at most 300 weights, diabetes and digits with two layers."""
    for first in range(3 * index, 3 * index + 3):
        yield from gaussian(first)
    f = _diabetes()
    yield "diabetes 10×16×1, NTK", f, lf.init.ntk((10, 16, 1), rng=index)
    yield "digits 16×10×10, NTK", digits(), lf.init.ntk((16, 10, 10), rng=index)


SECTIONS = {f.__name__: f for f in (gaussian, small, orthogonal, benchmark, real, momentum)}
MOMENTA = ((0.5, False), (0.9, False), (0.9, True))
PARTS = (0.125, 0.3, 0.5, 0.8)


def row(start: Start, max_steps: int, later: bool) -> Counter:
    """Print the row of a start, and return what it counts for."""
    name, f, net = start
    enc = lf.enclose(f, net, until=FRACTIONS[-1], max_steps=max_steps)
    bounds = [enc.time_bounds(x) for x in FRACTIONS]
    ratios = [high / low if low > 0 else math.inf for low, high in bounds]
    proved, seen = enc.result == "target proved", Counter(starts=1)
    seen["proved"] += proved
    seen["sharp"] += proved and ratios[-1] <= SHARP
    seen[ending(enc)] += not proved
    seen["rate for ever"] += proved and enc.certificate is not None
    words = ", ".join(f"{r - 1:.1e}" for r in ratios)
    rate = ""
    if later and proved:
        end = lf.enclose(f, net, until=1e-10, max_steps=max_steps)
        if end.result == "target proved":
            true = 2 * end.least_eigenvalue_bounds(end.end)[1]
            share = end.certificate.rate / true if end.certificate else 0.0
            seen["proved to 1e-10"] += 1
            seen["rate for ever at least 0.9 of the true one at 1e-10"] += share >= 0.9
            rate = f"; rate for ever {share:.4f} of the true one at 1e-10"
    why = "" if proved else f"; {enc.reason}"
    after = "yes" if enc.certificate is not None else "no"
    print(
        f"{name}: ratio − 1 = {words}; {len(enc.steps)} steps, ∫m = {enc.exponent:.3g}, {enc.hessians} Hessians; "
        f"for ever: {after}{rate}{why}",
        flush=True,
    )
    return seen


def descents(start: Start, max_steps: int) -> Counter:
    """Print a row for each momentum and step: certified steps beside those of a plain run, at three fractions.

    The steps are parts of the edge of stability of the largest curvature at the start and after a slow run.
    """
    name, f, net = start
    edge = 2 / _edge(f, net)
    slow = lf.gradient_descent(f, net, step_size=0.3 / edge, steps=100_000, until=1e-4, every=100_000)
    top = max(edge, 2 / _edge(f, slow.final))
    seen = Counter(starts=1)
    for (mu, nesterov), part in itertools.product(MOMENTA, PARTS):
        eta = part * 2 * (1 + mu) / ((1 + 2 * mu) if nesterov else 1) / top
        options = {"step_size": eta, "momentum": mu, "nesterov": nesterov, "until": FRACTIONS[-1], "steps": max_steps}
        enc = lf.enclose(f, net, algorithm="descent", **options)
        run = lf.gradient_descent(f, net, **options)
        taken = [int(k[0]) if len(k := np.flatnonzero(run.gap <= x * run.gap[0])) else -1 for x in FRACTIONS]
        bounds = [enc.steps_bounds(x) for x in FRACTIONS]
        exact = all(b == (k, k) for b, k in zip(bounds, taken, strict=True))
        seen["descents"] += 1
        seen["the plain run reached it"] += taken[-1] >= 0
        seen["proved, each number of steps that of the plain run"] += exact
        seen[f"{ending(enc)}; the plain run {'reached' if taken[-1] >= 0 else 'did not reach'} it"] += not exact
        print(
            f"{name}: {enc.optimizer}, {part:g} of the edge: certified {bounds}, run {taken}; radius "
            f"{enc.radius[-1]:.1e}, exponent {enc.exponent:.3g}; {enc.reason}",
            flush=True,
        )
    return seen


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="How sharp verified flows are.")
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=5000)
    arguments = parser.parse_args()
    total = Counter()
    for index in range(arguments.first, arguments.first + arguments.count):
        for start in SECTIONS[arguments.section](index):
            if arguments.section == "momentum":
                total += descents(start, arguments.max_steps)
            else:
                total += row(start, arguments.max_steps, arguments.section == "gaussian")
    for name, count in total.items():
        print(f"{name}  {count}")


if __name__ == "__main__":
    main()
