"""The guarantees of docs/losses.md on random instances, against their own runs: `make losses`.

    python -m tests.losses_campaign --instances 5000 --seed 0 --workers 2

Each instance is one loss (sensing, completion, softmax, Huber, weighted or ridge regression) and one start. The
inequalities are tried at 20 random points, the certificate of the flow against a run, and that of descent with
its safe step against a descent. One in a hundred of each loss is proved by computation, and the proof compared with
the run. Prints what was seen and exits with 1 if anything was violated.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from typing import Any

import numpy as np

import linflow as lf
from linflow._support.arrays import EPS, norm
from tests.campaign import main

BLOCK = 20
CLOSE = 1e-9
"""Allowed relative excess: the inequalities at a point are computed from a few hundred operations."""
RUN = 1e-6
"""Allowed relative distance of a run to its proof: runs have a relative tolerance of 1e-10 here."""


def _sensing(rng: np.random.Generator, n: int, m: int) -> lf.Objective:
    count = int(rng.integers(1, n * m + 3))
    operators = rng.standard_normal((count, n, m)) / np.sqrt(count)
    return lf.Sensing(operators, rng.standard_normal(count))


def _completion(rng: np.random.Generator, n: int, m: int) -> lf.Objective:
    Y = np.where(rng.random((n, m)) < rng.uniform(0, 0.7), np.nan, rng.standard_normal((n, m)))
    Y[rng.integers(n), rng.integers(m)] = rng.standard_normal()
    return lf.Completion(Y)


def _softmax(rng: np.random.Generator, n: int, m: int) -> lf.Objective:
    classes = max(m, 2)
    labels = np.arange(int(rng.integers(classes, 2 * classes + 2))) % classes
    U = rng.standard_normal((classes, n))
    X = U[labels] + 10 ** rng.uniform(-2, -0.5) * rng.standard_normal((len(labels), n))
    return lf.SoftmaxLoss(X, labels, mean=bool(rng.random() < 0.5))


def _huber(rng: np.random.Generator, n: int, m: int) -> lf.Objective:
    count = int(rng.integers(1, 20))
    X = rng.standard_normal((count, n)) / np.sqrt(count)
    X[:, -1] = X[:, 0] if rng.random() < 0.1 else X[:, -1]
    Y = X @ rng.standard_normal((n, m)) + 10 ** rng.uniform(-3, 0) * rng.standard_normal((count, m))
    far = 10 ** rng.uniform(-1, 8 if rng.random() < 0.2 else 1.5)
    Y = np.where(rng.random((count, m)) < rng.uniform(0, 0.4), Y + far * rng.standard_normal((count, m)), Y)
    return lf.Huber(X, Y, 10 ** rng.uniform(-2, 1))


def _regression(rng: np.random.Generator, n: int, m: int) -> lf.Objective:
    count = int(rng.integers(1, 12))
    X, Y = rng.standard_normal((count, n)) / np.sqrt(count), rng.standard_normal((count, m))
    weights = np.append(rng.uniform(0, 2, count - 1) * (rng.random(count - 1) < 0.8), 1.0)
    return lf.LinearRegression(X, Y, weights=weights, ridge=float(rng.choice([0.0, 10 ** rng.uniform(-3, 0)])))


SMALLEST = 1e-290
"""Gaps below this have lost digits: float64 is subnormal below 2e-308."""

LOSSES = {
    "sensing": _sensing,
    "completion": _completion,
    "softmax": _softmax,
    "huber": _huber,
    "regression": _regression,
}


def start(rng: np.random.Generator, f: lf.Objective) -> lf.Network:
    """Return a start of at most three layers, of several kinds, for an objective."""
    n, m = f.shape
    depth = int(rng.choice([1, 2, 2, 2, 3]))
    widths = (n, *(int(h) for h in rng.integers(min(n, m), 6, depth - 1)), m)
    kind = rng.random()
    seed = int(rng.integers(2**31))
    if depth == 1 or kind < 0.3:
        return lf.init.gaussian(widths, 10 ** rng.uniform(-1, 0), rng=seed)
    if kind < 0.7:
        try:
            return lf.init.imbalanced(widths, [0.0] * (depth - 2) + [10 ** rng.uniform(-0.5, 1)], rng=seed)
        except ValueError:  # a hidden layer that is too narrow
            return lf.init.gaussian(widths, rng=seed)
    near = f.minimizer
    if near is None or min(widths) < min(n, m):
        return lf.init.ntk(widths, rng=seed)
    near = near + 10 ** rng.uniform(-3, 0) * rng.standard_normal((n, m))
    U, s, Vt = np.linalg.svd(near, full_matrices=False)
    roots = [s ** (1 / depth)] * depth
    pads = [np.zeros((a, b)) for a, b in itertools.pairwise(widths)]
    for l, (W, root) in enumerate(zip(pads, roots, strict=True)):
        left = U if l == 0 else np.eye(len(s))
        right = Vt if l == depth - 1 else np.eye(len(s))
        core = (left * root) @ right
        W[: core.shape[0], : core.shape[1]] = core
    return lf.Network(pads)


def inequalities(f: Any, rng: np.random.Generator) -> str:
    """Return which inequality fails at a random point; "" if none does."""
    n, m = f.shape
    base = np.zeros((n, m)) if f.minimizer is None else f.minimizer
    W = base + 10 ** rng.uniform(-4, 4) * rng.standard_normal((n, m))
    gap, slack = f.gap(W), f.rounding(lf.Network([W]))
    if 0 < gap < SMALLEST:
        return ""
    G = float(norm(f.gradient(W)))
    gamma = float(f.pl_constant_on(gap))
    if gamma * (gap - slack) > G * G * (1 + CLOSE):
        return f"dominance: {G * G!r} < {gamma!r} · {gap!r}"
    V = rng.standard_normal((n, m))
    V *= 10 ** rng.uniform(-4, 1) / norm(V)
    turned = float(norm(f.gradient(W + V) - f.gradient(W)))
    noise = f.gradient_rounding(lf.Network([W])) + f.gradient_rounding(lf.Network([W + V]))
    if turned > f.smoothness * float(norm(V)) * (1 + CLOSE) + noise:
        return f"smoothness: {turned!r} > {f.smoothness!r} · {norm(V)!r}"
    tail = f.tail
    if tail is not None and gap > 0 and tail.constant_on(gap) * (gap - slack) > G * (1 + CLOSE):
        return f"tail: {G!r} < {tail.constant_on(gap)!r} · {gap!r}"
    seen, inner = f.effective(lf.Network([W]))
    growth = float(seen.growth_on(gap))
    if seen.minimizer is not None and growth > 0:
        # Near the minimum, the difference has fewer digits than the gap.
        away = float(norm(inner.product() - seen.minimizer)) - 4 * EPS * float(norm(seen.minimizer))
        if gap + slack < 0.5 * growth * max(away, 0.0) ** 2 * (1 - CLOSE):
            return f"growth: {gap!r} < ½ · {growth!r} · {away!r}²"
    return ""


def certificates(f: Any, net: lf.Network, seen: Counter, name: str) -> str:
    """Return what is wrong with the certificates of flow and descent; "" if nothing is."""
    cert = lf.certify(f, net)
    run = lf.gradient_flow(f, net, until=1e-3, max_steps=2000)
    check = cert.check(run)
    seen[f"{name}, flows"] += 1
    seen[f"{name}, flows with a guarantee"] += cert.best is not None
    if not check.holds:
        return f"flow: {check}"
    try:
        eta = lf.safe_step_size(f, net)
    except ValueError:
        return ""
    steps = lf.certify(f, net, algorithm="descent", step_size=eta)
    down = lf.gradient_descent(f, net, step_size=eta, steps=300, until=1e-3)
    seen[f"{name}, descents"] += 1
    seen[f"{name}, descents with a guarantee"] += steps.best is not None
    check = steps.check(down)
    return "" if check.holds else f"descent: {check}"


def proofs(f: Any, net: lf.Network, seen: Counter, name: str) -> str:
    """Return where a proof and a run contradict each other; "" if nowhere."""
    enc = lf.enclose(f, net, until=0.5, max_steps=60)
    if not enc.steps:
        return ""
    seen[f"{name}, proofs"] += 1
    run = lf.gradient_flow(f, net, t_max=enc.end, rtol=1e-10)
    low, high = enc.gap_bounds(enc.end)
    gap, slack = float(run.gap[-1]), f.rounding(net)
    first = float(run.gap[0])
    if not low - slack - RUN * first <= gap <= high + slack + RUN * first:
        return f"proof: {gap!r} at t = {enc.end!r}, not in [{low!r}, {high!r}]"
    check = lf.certify(f, net).check(enc)
    return "" if check.holds else f"proof: {check}"


def block(seed: int, first: int, count: int) -> tuple[Counter, list[str]]:
    """Return counts and violations of some instances."""
    seen, violations = Counter(), []
    for index in range(first, first + count):
        rng = np.random.default_rng([seed, index])
        name = list(LOSSES)[index % len(LOSSES)]
        n, m = (int(x) for x in rng.integers(1, 4, 2))
        try:
            f = LOSSES[name](rng, n, m)
        except ValueError:  # not separable, or without a minimum that can be computed
            seen[f"{name}, refused"] += 1
            continue
        net = start(rng, f)
        found = [inequalities(f, rng) for _ in range(20)]
        seen[f"{name}, points"] += len(found)
        found.append(certificates(f, net, seen, name))
        if index % 100 < len(LOSSES):
            found.append(proofs(f, net, seen, name))
        violations += [f"{name} {index}, {f!r}, {net!r}: {text}" for text in found if text]
    return seen, violations


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", block, BLOCK, 5000))
