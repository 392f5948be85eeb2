"""How often `1/K_t` needs more steps than the best constant step, found afterwards by a search for each problem.

    python benchmarks/step_rules.py [--draws 12] [--seed 0]

Random regressions of up to six inputs and outputs, of condition numbers from 1 to 30, two to four layers. The starts:
`gaussian`, entries N(0, 1), large; `fan-in`, N(0, 1/inputs), as `nn.Linear` nearly; `imbalanced`, homogeneous; and
`balanced`. The best constant is the least number of steps over 25 sizes in a range of 100, refined twice about the
best.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import numpy as np

import linflow as lf

TARGETS, LIMIT = (1e-2, 1e-4, 1e-6), 3000
STARTS, DEPTHS, RULES = ("gaussian", "fan-in", "imbalanced", "balanced"), (2, 3, 4), ("step", "curvature")


def problem(kind: str, depth: int, rng: np.random.Generator) -> tuple[lf.LinearRegression, lf.Network]:
    n, m = (int(k) for k in rng.integers(1, 7, 2))
    hidden = [max(n, m) + abs(n - m) + int(rng.integers(0, 5)) for _ in range(depth - 1)]
    widths = (n, *hidden, m)
    U, V = (np.linalg.qr(rng.standard_normal((k, n)))[0] for k in (20, n))
    X = U * np.geomspace(1, 10 ** -rng.uniform(0, 0.75), n) @ V  # K/μ up to 30
    f = lf.LinearRegression(X, X @ rng.standard_normal((n, m)) + 0.1 * rng.standard_normal((20, m)))
    product, seed = 0.3 * rng.standard_normal((n, m)), int(rng.integers(2**31))
    if kind == "gaussian":
        return f, lf.init.gaussian(widths, rng=seed)
    if kind == "fan-in":
        return f, lf.Network([rng.standard_normal(shape) / shape[0] ** 0.5 for shape in pairwise(widths)])
    imbalance = float(rng.uniform(0.3, 3)) if kind == "imbalanced" else 0.0
    return f, lf.init.imbalanced(widths, imbalance, product, rng=seed)


def count(f, net, target: float, limit: int, **options) -> float:
    run = lf.gradient_descent(f, net, steps=limit, until=target, every=limit, reduce=False, **options)
    return run.stats.steps if run.result is lf.Result.TARGET else np.inf


def best_constant(f, net, target: float, about: float) -> float:
    best, sizes = np.inf, about * np.geomspace(0.1, 10, 25)
    for width in (1.08, 1.015, 1.0):
        found = []
        for eta in sizes:
            found.append(count(f, net, target, int(min(best, LIMIT)), step_size=float(eta)))
            best = min(best, found[-1])
        eta = sizes[int(np.argmin(found))]
        sizes = eta * np.linspace(1 / width**2, width**2, 13)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng = np.random.default_rng(chosen.seed)
    print(
        f"{'start':<11}{'layers':>7}{'target':>8}",
        *(f"{rule + ': more':>17}{'median':>8}{'worst':>7}" for rule in RULES),
    )
    for kind in STARTS:
        for depth in DEPTHS:
            ratios: dict[tuple[float, str], list[float]] = {(t, rule): [] for t in TARGETS for rule in RULES}
            for _ in range(chosen.draws):
                f, net = problem(kind, depth, rng)
                rules = {rule: lf.schedules.local_smoothness(rule) for rule in RULES}
                about = lf.gradient_descent(f, net, schedule=rules["curvature"], steps=50, reduce=False)
                for target in TARGETS:
                    best = best_constant(f, net, target, float(np.median(about.step_sizes)))
                    for rule, schedule in rules.items():
                        steps = count(f, net, target, LIMIT, schedule=schedule)
                        if min(steps, best) < np.inf:
                            ratios[target, rule].append(steps / best)
            for target in TARGETS:
                cells = []
                for rule in RULES:
                    x = np.array(ratios[target, rule])
                    cells.append(f"{f'{(x > 1).sum()} of {len(x)}':>17}{np.median(x):8.2f}{x.max():7.2f}")
                print(f"{kind:<11}{depth:>7}{target:>8.0e}", *cells, flush=True)


if __name__ == "__main__":
    main()
