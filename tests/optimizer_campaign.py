"""The laws and bounds of docs/optimisers.md on random instances: `make optimizers`.

    python -m tests.optimizer_campaign --instances 100000 --seed 0 --workers 2

Each instance is a short descent with random options, against the law of its imbalance, written out. Beside each block
of a thousand, fewer instances are tried of what takes longer: descents by the library against the law; the bounds for
layer rates against a T that is written out; the guarantee of a heavy ball, and its cap on the drift, against an
integration of the flow; `optimality_gap` against the convex problem, solved by proximal steps. Prints what was seen
and exits with 1 if anything was violated.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter

import numpy as np

import linflow as lf
from linflow.certificates.heavy_ball import heavy_ball
from linflow.certificates.setting import Setting
from linflow.model.optimizer import Optimizer
from tests.campaign import main

BLOCK = 1000
LAW = 1e-12
"""Allowed distance from the law, relative to the largest square of the weights: 12 steps round by 1e-15 each."""
COMPUTED = 1e-12
"""What a computed least eigenvalue of order up to 16 may be off by, relative to the greatest."""
INTEGRATED = 1e-6
"""Allowed relative error of the heavy-ball integration: RK4 with 20 steps per unit of the fastest motion."""


@np.errstate(over="ignore", invalid="ignore")
def laws(rng: np.random.Generator, count: int, seen: Counter) -> list[str]:
    """Return the violations of the law along descents of one shape and one kind, all of them together."""
    depth, momentum = int(rng.integers(2, 5)), bool(rng.random() < 0.7)
    nesterov, decays, batched = momentum and rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.5
    widths = [int(h) for h in rng.integers(1, 6, depth + 1)]
    samples = int(rng.integers(2, 9))
    X, Y = (rng.standard_normal((count, samples, k)) for k in (widths[0], widths[-1]))
    X /= np.linalg.norm(X, axis=(1, 2), keepdims=True)
    size = 10 ** rng.uniform(-1, 0, count)[:, None, None]
    W = [size * rng.standard_normal((count, a, b)) for a, b in itertools.pairwise(widths)]
    mu = rng.uniform(0.1, 0.99, count)[:, None, None] * momentum
    # The weights are those of the scaled layers; a decay λ and rates ρ_l are decays ρ_lλ of them.
    kappa = decays * 10 ** rng.uniform(-3, 0, (depth, count, 1, 1)) ** rng.choice([1.0, 0.0], (1, count, 1, 1))

    def form(P, Q):
        found = []
        for (A, B), (C, D) in zip(itertools.pairwise(P), itertools.pairwise(Q), strict=True):
            M = np.swapaxes(A, 1, 2) @ C - B @ np.swapaxes(D, 1, 2)
            found.append(M + np.swapaxes(M, 1, 2))
        return found

    D = [0.5 * M for M in form(W, W)]
    b = C = last = None
    largest = np.max([np.sum(V * V, axis=(1, 2)) for V in W], axis=0)
    for _ in range(12):
        eta = (0.02 * 10 ** rng.uniform(-2, 0, count))[:, None, None]
        rows = rng.integers(samples, size=2) if batched else np.arange(samples)
        R = X[:, rows]
        for V in W:
            R = R @ V
        E = np.swapaxes(X[:, rows], 1, 2) @ (R - Y[:, rows])
        g = []
        for l in range(depth):
            G = E
            for V in W[:l]:
                G = np.swapaxes(V, 1, 2) @ G
            for V in reversed(W[l + 1 :]):
                G = G @ np.swapaxes(V, 1, 2)
            g.append(G + kappa[l] * W[l])
        source = form(W, [k * V for k, V in zip(kappa, W, strict=True)])
        b = g if b is None else [mu * old + new for old, new in zip(b, g, strict=True)]
        d = [new + mu * old for old, new in zip(b, g, strict=True)] if nesterov else b
        C = source if C is None else [mu * (c - x) + s for c, x, s in zip(C, last, source, strict=True)]
        P = [s + mu * c for c, s in zip(C, source, strict=True)] if nesterov else C
        squares = form(d, d)
        D = [M - eta * p + 0.5 * eta * eta * q for M, p, q in zip(D, P, squares, strict=True)]
        last = [eta * x for x in form(d, b)]
        W = [V - eta * step for V, step in zip(W, d, strict=True)]
        largest = np.maximum(largest, np.max([np.sum(V * V, axis=(1, 2)) for V in W], axis=0))
    off = np.max(
        [np.sqrt(np.sum((M - 0.5 * Q) ** 2, axis=(1, 2))) for M, Q in zip(D, form(W, W), strict=True)], axis=0
    )
    finite = np.isfinite(off) & np.isfinite(largest)
    seen["laws"] += int(np.sum(finite))
    seen["laws, diverged"] += int(np.sum(~finite))
    bad = np.flatnonzero(finite & (off > LAW * largest))
    return [f"law {i}, widths {widths}: {off[i]!r} against {largest[i]!r}" for i in bad]


def law(rng: np.random.Generator) -> str:
    """Return what is wrong with the law of the imbalance along one descent; "" if nothing is."""
    depth = int(rng.integers(2, 5))
    widths = [int(h) for h in rng.integers(1, 6, depth + 1)]
    samples = int(rng.integers(2, 9))
    X, Y = rng.standard_normal((samples, widths[0])), rng.standard_normal((samples, widths[-1]))
    f = lf.LinearRegression(X / np.linalg.norm(X, 2), Y)
    net = lf.init.gaussian(widths, 10 ** rng.uniform(-1, 0), rng=rng)
    momentum = float(rng.choice([0.0, rng.uniform(0.1, 0.99)]))
    options = {
        "momentum": momentum,
        "nesterov": bool(momentum) and bool(rng.random() < 0.5),
        "weight_decay": float(rng.choice([0.0, 10 ** rng.uniform(-3, 0)])),
        "layer_rates": 10 ** rng.uniform(-1, 1, depth) if rng.random() < 0.5 else None,
        "batches": [rng.integers(samples, size=2) for _ in range(5)] if rng.random() < 0.5 else None,
    }
    etas = 0.02 * 10 ** rng.uniform(-2, 0, 12)
    schedule = type("Drawn", (), {"step": lambda self, iterate: etas[iterate.k]})()
    run = lf.gradient_descent(f, net, schedule=schedule, steps=12, record="law_error", **options)
    rates = (1.0,) * depth if options["layer_rates"] is None else options["layer_rates"]
    ends = zip([*run.start.weights, *run.final.weights], [*rates, *rates], strict=True)
    size = max(np.linalg.norm(W) ** 2 / r for W, r in ends)
    if run.result is lf.Result.DIVERGED or run.law_error.max() <= LAW * size:
        return ""
    return f"law, widths {widths}, {options}: {run.law_error.max()!r} against {size!r}"


def rates(rng: np.random.Generator) -> str:
    """Return what is wrong with the bounds on T under layer rates."""
    depth = int(rng.integers(2, 4))
    n, m = (int(x) for x in rng.integers(1, 5, 2))
    widths = (n, *(int(h) for h in rng.integers(min(n, m), 6, depth - 1)), m)
    net = lf.Network(lf.init.gaussian(widths, rng=rng).weights, float(rng.choice([1.0, 0.5])))
    given = 10 ** rng.uniform(-1, 1, depth)
    T = np.zeros((n * m, n * m))
    for l in range(depth):
        P, S = np.eye(n), np.eye(m)
        for W in net.weights[:l]:
            P = P @ W
        for W in reversed(net.weights[l + 1 :]):
            S = W @ S
        T += net.scale**2 * given[l] * np.kron(P @ P.T, S.T @ S)
    values = np.linalg.eigvalsh(T)
    least, greatest = float(values[0]), float(values[-1])
    best = max(
        float(bound.value)
        for bound in lf.bounds.table(Optimizer.of(depth, layer_rates=given).coordinates(net))
        if bound.applies
    )
    return "" if best <= least + COMPUTED * greatest else f"rates, widths {widths}, {given}: {best!r} > {least!r}"


class HeavyBalls:
    """Many heavy-ball flows of two layers on `½‖X W_1W_2 − Y‖²`, integrated together."""

    def __init__(self, rng: np.random.Generator, count: int):
        n, m = (int(x) for x in rng.integers(1, 4, 2))
        h = int(rng.integers(min(n, m), 6))
        self.h, X = h, rng.standard_normal((count, n, n))
        U, s, Vt = np.linalg.svd(X)
        self.X = (U * (0.5 + s / s[:, :1])[:, None, :]) @ Vt  # singular values in [½, 3/2]
        imbalance = 10 ** rng.uniform(-0.5, 1.0, count)
        self.starts, self.targets, self.friction = [], [], np.zeros(count)
        for i in range(count):
            product = rng.standard_normal((n, m))
            if h >= max(n, m):
                net = lf.init.imbalanced((n, h, m), float(imbalance[i] * rng.choice([-1, 1])), product, rng=rng)
            else:
                net = lf.init.balanced((n, h, m), rng=rng)
            self.starts.append(net)
            away = 10 ** rng.uniform(-2, 0.3) * rng.standard_normal((n, m))
            self.targets.append(self.X[i] @ (net.product() + away))
            self.friction[i] = 10 ** rng.uniform(-0.3, 1.5)
        self.Y = np.array(self.targets)

    def gap(self, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        """Return the gaps; every X is regular, so f* = 0."""
        R = self.X @ A @ B - self.Y
        return 0.5 * np.sum(R * R, axis=(1, 2))

    def run(self, steps: int):
        """Yield time, gap and weights along the flows, each with its own step of time."""
        A, B = (np.array([net.weights[l] for net in self.starts]) for l in (0, 1))
        norms = np.sum(A * A, axis=(1, 2)) + np.sum(B * B, axis=(1, 2)) + np.sqrt(self.gap(A, B))
        dt = 0.05 / np.maximum(1.5 * np.sqrt(norms + 1), self.friction)
        a, h = self.friction[:, None, None], dt[:, None, None]

        def slope(z):
            A, B, P, Q = z
            G = np.swapaxes(self.X, 1, 2) @ (self.X @ A @ B - self.Y)
            return (P, Q, -G @ np.swapaxes(B, 1, 2) - a * P, -np.swapaxes(A, 1, 2) @ G - a * Q)

        z = (A, B, 0 * A, 0 * B)
        for k in range(steps + 1):
            yield k * dt, self.gap(z[0], z[1]), z[0], z[1]
            k1 = slope(z)
            k2 = slope([x + h / 2 * d for x, d in zip(z, k1, strict=True)])
            k3 = slope([x + h / 2 * d for x, d in zip(z, k2, strict=True)])
            k4 = slope([x + h * d for x, d in zip(z, k3, strict=True)])
            z = tuple(x + h / 6 * (p + 2 * q + 2 * r + s) for x, p, q, r, s in zip(z, k1, k2, k3, k4, strict=True))


def heavy_balls(rng: np.random.Generator, count: int, seen: Counter) -> list[str]:
    """Return the violations among heavy-ball flows of one shape."""
    flows, bad = HeavyBalls(rng, count), []
    rows, caps = [], np.zeros(count)
    for i, net in enumerate(flows.starts):
        f = lf.LinearRegression(flows.X[i], flows.Y[i])
        rows.append(heavy_ball(Setting(f, net), float(flows.friction[i])))
        caps[i] = 2 * rows[-1].gap / flows.friction[i] ** 2
        seen["heavy balls with a rate"] += rows[-1].applies
    applying = np.array([row.applies for row in rows])
    rate = np.array([row.curve.rate if row.curve else 0.0 for row in rows])
    factor = np.array([row.curve.factor if row.curve else math.inf for row in rows])
    first, worst_drift = np.array([row.gap for row in rows]), 0.0
    start = None
    for t, gap, A, B in flows.run(400):
        D = np.swapaxes(A, 1, 2) @ A - B @ np.swapaxes(B, 1, 2)
        start = D if start is None else start
        drift = np.sqrt(np.sum((D - start) ** 2, axis=(1, 2)))
        size = np.sum(A * A, axis=(1, 2)) + np.sum(B * B, axis=(1, 2))
        allowed = caps * -np.expm1(-flows.friction * t)
        beyond = drift > allowed * (1 + INTEGRATED) + 1e-9 * size
        worst_drift = max(worst_drift, float(np.max(drift[allowed > 0] / allowed[allowed > 0], initial=0.0)))
        bound = np.minimum(first, np.where(applying, factor * np.exp(-rate * t) * first, first))
        above = gap > bound * (1 + INTEGRATED) + 1e-14 * first
        bad += [
            f"heavy ball {i}: drift {drift[i]!r} > {allowed[i]!r} at t = {t[i]!r}" for i in np.flatnonzero(beyond)
        ]
        bad += [f"heavy ball {i}: gap {gap[i]!r} > {bound[i]!r} at t = {t[i]!r}" for i in np.flatnonzero(above)]
    seen["blocks whose largest drift was over half of its cap"] += worst_drift > 0.5
    return bad[:5]


def optimality(rng: np.random.Generator, count: int, seen: Counter) -> list[str]:
    """Return the violations among bounds on the excess over the global minimum, for one shape."""
    n, m = (int(x) for x in rng.integers(1, 4, 2))
    h, N = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    X, Y = rng.standard_normal((count, N, n)), rng.standard_normal((count, N, m))
    decay, scale = 10 ** rng.uniform(-2.5, 0.5, count), float(rng.choice([1.0, 0.5, 3.0]))
    A, B = rng.standard_normal((count, n, h)), rng.standard_normal((count, h, m))
    eta = (0.05 / (1 + np.sum(X * X, axis=(1, 2))))[:, None, None]
    lam = decay[:, None, None]
    np.seterr(over="ignore", invalid="ignore")  # some diverge; they are left out
    for _ in range(int(rng.choice([0, 30, 300]))):  # random weights, or some way down
        G = np.swapaxes(X, 1, 2) @ (scale * X @ A @ B - Y) * scale
        A, B = A - eta * (G @ np.swapaxes(B, 1, 2) + lam * A), B - eta * (np.swapaxes(A, 1, 2) @ G + lam * B)
    K, theta = np.linalg.norm(X, 2, axis=(1, 2)) ** 2, decay / scale
    Z = np.zeros((count, n, m))
    for _ in range(400):
        step = Z - np.swapaxes(X, 1, 2) @ (X @ Z - Y) / K[:, None, None]
        U, s, Vt = np.linalg.svd(step, full_matrices=False)
        Z = (U * np.maximum(s - (theta / K)[:, None], 0.0)[:, None, :]) @ Vt
    nuclear, bad = np.linalg.svd(Z, compute_uv=False).sum(axis=1), []
    for i in range(count):
        if not np.isfinite(A[i]).all():
            continue
        f = lf.LinearRegression(X[i], Y[i])
        best = f.gap(Z[i]) + theta[i] * nuclear[i]  # not below the minimum of the convex problem
        steps = 40 if i % 10 == 0 else 0
        found = lf.optimality_gap(f, lf.Network([A[i], B[i]], scale), weight_decay=float(decay[i]), steps=steps)
        seen["excess within 1 % of its bound"] += found.bound <= 1.01 * (found.value - best)
        if found.lower > best * (1 + 1e-12) + 1e-14 or found.bound < found.value - best - 1e-14:
            bad.append(f"optimality {i}, {(n, h, m)}: {found!r}, and {best!r} is attained")
    return bad


def block(seed: int, first: int, count: int) -> tuple[Counter, list[str]]:
    """Return the counts of some instances, and the violations in words."""
    rng, seen, bad = np.random.default_rng((seed, first // BLOCK)), Counter(), []
    shapes = max(1, count // 100)
    for _ in range(shapes):
        bad += laws(rng, count // shapes, seen)
    for _ in range(count // 4):
        bad += [text for text in (law(rng), rates(rng)) if text]
        seen["laws by the library, bounds for layer rates"] += 1
    for _ in range(4):  # shapes
        bad += heavy_balls(rng, count // 16, seen)
        bad += optimality(rng, count // 8, seen)
        seen["heavy balls"] += count // 16
        seen["excesses"] += count // 8
    return seen, [f"block {first // BLOCK}: {text}" for text in bad]


if __name__ == "__main__":
    sys.exit(main("The laws and bounds of optimisers on random instances.", block, BLOCK, 100_000))
