"""What `make proofs` encloses: random objectives and starts, each with an exact judge of its flow and descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np

import linflow as lf
from tests.loss_judges import HuberFlow, OperatorFlow, SoftmaxFlow, TailFlow, huber_minimum
from tests.losses_campaign import LOSSES as OTHERS
from tests.losses_campaign import start
from tests.verified_judge import TrueFlow, exact, identity

SIDES, ODDS = np.arange(1, 7), np.array([0.2, 0.3, 0.2, 0.14, 0.09, 0.07])
STARTS = ("Gaussian", "NTK", "balanced", "orthogonal", "small")
OBJECTIVES = ("factorization", "regression", "rank-deficient regression", "quadratic")


def _exponential(rng: np.random.Generator, n: int, m: int) -> lf.Objective:
    return _separable(rng, n, m, lf.ExponentialLoss)


def _logistic(rng: np.random.Generator, n: int, m: int) -> lf.Objective:
    return _separable(rng, n, m, lf.LogisticLoss)


def _separable(rng: np.random.Generator, n: int, m: int, loss: Any) -> lf.Objective:
    X = 10 ** rng.uniform(-0.5, 0.5) * rng.standard_normal((int(rng.integers(1, 7)), n))
    return loss(X, np.sign(X @ rng.standard_normal((n, m))))


LOSSES = {"weighted regression" if k == "regression" else k: draw for k, draw in OTHERS.items()}
LOSSES |= {"exponential": _exponential, "logistic": _logistic}


@dataclass(frozen=True)
class Instance:
    """What is enclosed; `judge(origin)` follows it exactly, with its gap measured from a product, or from f*.

    `fast(origin)` does so to some 28 digits, where there is such a judge.
    """

    words: str
    kind: str
    objective: lf.Objective
    network: lf.Network
    judge: Callable[[np.ndarray | None], TrueFlow]
    fast: Callable[[np.ndarray | None], TrueFlow] | None = None


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

    def fast(origin: np.ndarray | None) -> TrueFlow:
        from tests.pair_flow import PairFlow  # compiles for some seconds

        return PairFlow(network.weights, network.scale, C, A, B, V, origin)

    words = (
        f"seed {seed} instance {index}: {kind}, {start}, widths {widths}, scale {network.scale:g}, size {size:.2g}"
    )
    return Instance(
        words,
        kind,
        objective,
        network,
        lambda origin: TrueFlow(network.weights, network.scale, C, A, B, V, origin),
        fast,
    )


def of_other_loss(seed: int, index: int) -> Instance | None:
    """Return the instance of another loss of this number; None if its data are refused, or its minimum is unknown."""
    rng = np.random.default_rng((seed, index, 2))
    kind = str(rng.choice(list(LOSSES)))
    n, m = (int(x) for x in rng.integers(1, 4, 2))
    try:
        f: Any = LOSSES[kind](rng, n, m)
    except ValueError:  # not separable, or without a minimum that can be computed
        return None
    net = start(rng, f)
    judge = _judge(f, net)
    words = f"seed {seed} instance {index}: {kind}, {f!r}, widths {net.widths}, scale {net.scale:g}"
    return None if judge is None else Instance(words, kind, f, net, judge)


def _judge(f: Any, net: lf.Network) -> Callable[[np.ndarray | None], TrueFlow] | None:
    """Return what follows the flow of another loss exactly, or None if its minimum is not found."""
    given = net.weights, net.scale
    if isinstance(f, lf.Completion):
        known, Y = exact(np.diag(np.ravel(f.known))), exact(f.minimizer)
        return lambda origin: OperatorFlow(*given, Y, known, origin=origin)
    if isinstance(f, (lf.Sensing, lf.LinearRegression)):
        x, y = exact(f.X), exact(f.Y if isinstance(f, lf.LinearRegression) else f.y)
        a, c = x.transpose() * x, x.transpose() * y
        kind, v = TrueFlow, solution(a, c)
        if isinstance(f, lf.Sensing):
            kind, c, v = OperatorFlow, *(flint.fmpq_mat(*f.shape, M.entries()) for M in (c, v))
        return lambda origin: kind(*given, c, a, None, v, origin)
    if isinstance(f, lf.SoftmaxLoss):
        return lambda origin: SoftmaxFlow(*given, f.inputs, f.labels[:, 0], f.shape[1], f.mean)
    if isinstance(f, (lf.ExponentialLoss, lf.LogisticLoss)):
        return lambda origin: TailFlow(*given, f._X, f._Y, isinstance(f, lf.LogisticLoss))
    least = huber_minimum(f.X, f.Y, f.delta, f.minimizer)
    return None if least is None else lambda origin: HuberFlow(*given, f.X, f.Y, f.delta, least, origin)
