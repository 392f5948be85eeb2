"""Every statement on ReLU networks against computed flows and descents: `make relu-soundness`.

    python -m tests.relu_soundness --instances 3000 --seed 0 --workers 2

Each instance draws data, a start and a slope from one of the families below, integrates the flow to a ten-thousandth
of its loss, and compares at some of its points, certified or not: how far weights moved, which signs are kept,
the floor of v², and the floor of λ_min(H). Certificates are compared with whole runs: path, loss, rate, flips.
One in 20 is a large plain start, as in docs/relu.md; one in 20 is a tiny start whose verified run is compared with
an independent flow of 30 digits; the others have 1 to 30 samples and 1 to 60 neurons. A block of instances depends on
the seed and its number alone. Prints what was seen, medians included, and exits with 1 if anything was violated.
"""

from __future__ import annotations

import sys
from collections import Counter
from fractions import Fraction

import numpy as np

from linflow import relu
from linflow._support.arrays import EPS
from linflow.relu.floor import Floor
from linflow.relu.movement import Mover
from linflow.relu.problem import Start
from tests.campaign import main
from tests.reference import relu as reference
from tests.relu_enclosed import against_digits

BLOCK = 40
COMPUTED = 1e-6
"""What a point of a run of tolerance 1e-8 may be off by, relative to the motion."""
NEAR = 1e-11
"""A pre-activation below this part of `|x_i|ᵀ|u_j|` in a computed run may be 0 in the exact one."""
POINTS, STEPS = 5, 60
"""Points of a run that are looked at, and the steps of a run that is not plain."""
TELLING = 1.5
"""A bound tells something if it is within this factor of what was seen."""
HOSTILE = ("boundary", "dead", "repeated", "opposite", "zero weights", "zero second layer", "large", "small")


def plain(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, relu.Network]:
    """Return data and a start of docs/relu.md."""
    N, d = int(rng.integers(4, 13)), int(rng.integers(8, 21))
    h, m = 2 * int(np.exp(rng.uniform(*np.log([25, 300])))), int(rng.choice([1, 1, 2, 3]))
    return drawn(rng, N, d, h, m, float(np.exp(rng.uniform(*np.log([0.3, 8])))))


def small(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray, relu.Network]:
    """Return data and a start of any size up to 30 samples and 60 neurons, plain or hostile."""
    N, h, d = (int(np.exp(rng.uniform(0, np.log(most + 1)))) for most in (30, 60, 20))
    X, Y, net = drawn(rng, N, d, h, int(rng.choice([1, 1, 2, 3])), float(np.exp(rng.uniform(*np.log([0.3, 30])))))
    return hostile(rng, kind, X, Y, net)


def drawn(
    rng: np.random.Generator, N: int, d: int, h: int, m: int, size: float
) -> tuple[np.ndarray, np.ndarray, relu.Network]:
    """Return normal data, and a start whose neurons come in pairs or are all drawn."""
    s, bias = float(rng.choice([0, 0, 0.1, 0.3])), bool(rng.random() < 0.25)
    X, Y = rng.standard_normal((N, d)) / np.sqrt(d), rng.standard_normal((N, m))
    return X, Y, pairs_or_not(rng, d, h, m, size, bias=bias, slope=s)


def pairs_or_not(
    rng: np.random.Generator, d: int, h: int, m: int, size: float, *, bias: bool, slope: float
) -> relu.Network:
    """Return a network whose neurons come in pairs, in four of five draws, or are all drawn."""
    if h % 2 == 0 and rng.random() < 0.8:
        return relu.paired((d, h, m), size, bias=bias, slope=slope, rng=rng)
    U, V = rng.standard_normal((d, h)), rng.standard_normal((h, m))
    V *= size / np.linalg.norm(V, axis=1, keepdims=True)
    return relu.Network(U, V, rng.standard_normal(h) if bias else None, slope)


def hostile(
    rng: np.random.Generator, kind: str, X: np.ndarray, Y: np.ndarray, net: relu.Network
) -> tuple[np.ndarray, np.ndarray, relu.Network]:
    """Return data and a start with what the kind says; any other kind changes nothing."""
    U, V, b, (N, h) = net.U.copy(), net.V.copy(), net.bias, (len(X), net.width)
    if kind == "boundary":
        i, some = int(rng.integers(N)), rng.random(h) < 0.3
        U[:, some] -= np.outer(X[i], X[i] @ U[:, some]) / (X[i] @ X[i])
        if b is not None:
            b = np.where(some, 0.0, b)
    elif kind == "dead":
        X, some = np.abs(X), rng.random(h) < 0.4
        U[:, some] = -np.abs(U[:, some])
    elif kind == "repeated" and N > 1:
        X[1] = X[0]
        Y[1] = Y[0] if rng.random() < 0.5 else Y[1]
    elif kind == "opposite" and N > 1:
        X[1] = -X[0]
    elif kind == "zero weights":
        U[:, rng.random(h) < 0.3] = 0.0
        V[rng.random(h) < 0.3] = 0.0
    elif kind == "zero second layer":
        V *= 0.0
    elif kind in ("large", "small"):
        power = float(rng.integers(10, 101)) * (1 if kind == "large" else -1)
        X = X * 10**power
        if rng.random() < 0.5:
            U, V = U * 10 ** (-power / 2), V * 10 ** (-power / 2)
        else:
            Y = Y * 10**power
    return X, Y, relu.Network(U, V, b, net.slope)


def kernel(X: np.ndarray, U: np.ndarray, V: np.ndarray, a: np.ndarray, s: float) -> np.ndarray:
    """Return H, as `reference.H` does, in three products."""
    Z, (N, m) = X @ U, (len(X), V.shape[1])
    features = np.where(Z > 0, Z, s * Z)
    blocks = np.einsum("il,ilkq->iklq", X @ X.T, np.tensordot(a[:, None] * a[None], V[:, :, None] * V[:, None], 1))
    return blocks.reshape(N * m, N * m) + np.kron(features @ features.T, np.eye(m))


def signs(start: Start, U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which pre-activations are positive in the exact flow, and which may be 0.

    At the start the numbers are exact, and so are these answers. Later the weights are computed: a pre-activation
    that is nearly 0 may be 0 in the exact flow, unless it was not at the start and its neuron has not moved so far.
    """
    Z, sizes = start.X @ U, np.abs(start.X) @ np.abs(U)
    near = np.abs(Z) <= NEAR * sizes
    if (U == start.U).all():
        for i, j in zip(*np.nonzero(near), strict=True):
            value = sum(Fraction(x) * Fraction(u) for x, u in zip(start.X[i].tolist(), U[:, j].tolist(), strict=True))
            Z[i, j] = float(np.sign(value))
        return Z > 0, Z == 0
    moved = np.linalg.norm(start.X, axis=1)[:, None] * np.linalg.norm(U - start.U, axis=0) * (1 + COMPUTED)
    return Z > 0, near & (np.abs(start.z) <= moved + 16 * len(U) * EPS * sizes)


def least_eigenvalue(start: Start, U: np.ndarray, V: np.ndarray) -> tuple[float, float]:
    """Return `λ_min(H)` and `λ_max(H)`, for the worst slopes that are found where a pre-activation may be 0.

    The floor is one for all slopes in [s, 1] there. From both ends, `λ_min(H(a))` is lowered: first the eigenvector
    is found, then for each pair at 0 the slope that makes `‖Xᵀ(a_j ∘ R v_j)‖` least.
    """
    on, zero = signs(start, U)
    X, s, best, largest = start.X, start.slope, np.inf, 0.0
    squares = np.sum(X**2, axis=1)
    pairs = [(i, j) for i, j in zip(*np.nonzero(zero), strict=True) if squares[i] > 0]
    for first in (s, 1.0) if pairs else (s,):
        a = np.where(zero, first, np.where(on, 1.0, s))
        for _ in range(3 if pairs else 1):
            values, vectors = np.linalg.eigh(kernel(X, U, V, a, s))
            best, largest = min(best, float(values[0])), max(largest, float(values[-1]))
            pulls = vectors[:, 0].reshape(len(X), -1) @ V.T
            for i, j in pairs:
                pull = pulls[i, j]
                rest = X[i] @ (X.T @ (a[:, j] * pulls[:, j])) - squares[i] * a[i, j] * pull
                if pull != 0:
                    a[i, j] = min(1.0, max(s, -rest / (squares[i] * pull)))
    return best, largest


def against_run(seen: Counter, cert: relu.Certificate, run: relu.Trajectory) -> list[str]:
    """Return what a run did not keep of its certificate."""
    found = cert.check(run)
    seen["instants compared with a certificate"] += len(run.t)
    star = cert.guarantees[0].facts["path τ*"]
    bad = [] if found.holds else [f"certificate: {found.violation}"]
    if run.path[-1] > star * (1 + COMPUTED):
        bad.append(f"path {run.path[-1]} > τ* = {star}")
    if len(run.t) > 1 and set(zip(*np.nonzero(~cert.may_flip), strict=True)) & {
        (f.sample, f.neuron) for f in run.flips
    }:
        bad.append("a pair flipped that may not")
    return bad


def against_points(seen: Counter, start: Start, run: relu.Trajectory) -> list[str]:
    """Return what some points of a run did not keep of the lemmas."""
    bad, floor, mover = [], Floor(start), Mover(start)
    p, a = 2.0**start.input_power, 2.0**start.weight_power
    scale_U, scale_V = np.linalg.norm(start.U) + 1, np.linalg.norm(start.V) + 1
    sides = np.where(start.z > 0, 1, -1).T
    for k in np.unique(np.linspace(0, len(run.t) - 1, POINTS).astype(int)):
        # The path of the run has its own error; the start has none.
        movement = mover.at(float(run.path[k] * p) * (1 + 1e-9))
        if movement is None:
            break
        seen["points"] += 1
        now, off = run.network_at(float(run.t[k])), 1e-9 if k else 1e-13
        U, V = now.extended / a, now.V / a
        moved, far = np.abs(start.X @ (U - start.U)).T, np.linalg.norm(V - start.V, axis=1)
        value, (least, largest) = floor.at(movement), least_eigenvalue(start, U, V)
        seen["floors above 0"] += bool(value > 0)
        seen[f"floors within {TELLING} of λ_min(H)"] += bool(0 < least <= TELLING * value)
        true = least * (1 + (COMPUTED if k else 0)) + off * largest
        for kept, text in (
            ((moved <= movement.moved * (1 + COMPUTED) + off * scale_U).all(), "a pre-activation moved too far"),
            ((far <= movement.second * (1 + COMPUTED) + off * scale_V).all(), "a second layer moved too far"),
            (((start.X @ U).T * sides >= -off * scale_U)[movement.frozen].all(), "a frozen pair flipped"),
            (
                V.shape[1] > 1 or (movement.second_floor <= V[:, 0] ** 2 + off * scale_V**2).all(),
                "v² below its floor",
            ),
            (value <= true, f"floor {value} above λ_min(H) = {true}"),
        ):
            seen["comparisons"] += 1
            if not kept:
                bad.append(f"point {k}: {text}")
    return bad


def against_descent(seen: Counter, X: np.ndarray, Y: np.ndarray, net: relu.Network) -> list[str]:
    """Return what a descent did not keep of its certificate, and of the lemmas for one that is not certified."""
    cert = relu.certify(X, Y, net, algorithm="descent")
    seen["descents"] += 1
    if cert.step_size is None:
        return []
    bad = []
    if cert.rate > 0:
        seen["descents certified"] += 1
        run = relu.gradient_descent(X, Y, net, step_size=cert.step_size, until=1e-4, steps=20_000)
        seen["steps compared"] += run.stats.steps
        seen["flips of descents"] += len(run.flips)
        found = cert.check(run)
        bad += [] if found.holds else [f"descent: {found.violation}"]
        if {(f.sample, f.neuron) for f in run.flips} & set(zip(*np.nonzero(~cert.may_flip), strict=True)):
            bad.append("descent: a pair flipped that may not")
        change = relu.imbalance(run.final) - relu.imbalance(net)
        size = np.sum(net.extended**2) + np.sum(net.V**2)
        if np.abs(change - run.imbalance_law).max() > 1e-15 * size * (10 + run.stats.steps):
            bad.append(f"descent: the law is off by {np.abs(change - run.imbalance_law).max() / size}")
    start = Start.of(cert.objective, net)
    mover, scale_U, scale_V = Mover(start), np.linalg.norm(start.U) + 1, np.linalg.norm(start.V) + 1
    for steps in (1, 4, 16, 64):
        run = relu.gradient_descent(X, Y, net, step_size=2 * cert.step_size, steps=steps)
        movement = mover.at(float(run.path[-1]) * 2.0**start.input_power * (1 + 1e-12))
        if movement is None or not run.gap.max() <= run.gap[0]:
            break
        U, V = run.final.extended / 2.0**start.weight_power, run.final.V / 2.0**start.weight_power
        seen["points of descents"] += 1
        eta = 2 * cert.step_size * 2.0**start.rate_power
        least = movement.squares_floor(
            eta * start.residual * movement.path * movement.kappa * movement.second_size**2
        )
        moved, far = np.abs(start.X @ (U - start.U)).T, np.linalg.norm(V - start.V, axis=1)
        for kept, text in (
            ((moved <= movement.moved * (1 + 1e-9) + 1e-12 * scale_U).all(), "a pre-activation moved too far"),
            ((far <= movement.second * (1 + 1e-9) + 1e-12 * scale_V).all(), "a second layer moved too far"),
            (V.shape[1] > 1 or (least <= V[:, 0] ** 2 + 1e-12 * scale_V**2).all(), "v² below its floor"),
        ):
            seen["comparisons"] += 1
            bad += [] if kept else [f"descent: {text}"]
    return bad


def compare(
    seen: Counter, X: np.ndarray, Y: np.ndarray, net: relu.Network, steps: int
) -> tuple[list[str], relu.Certificate, float]:
    """Return violations in words, the certificate, and the least observed rate."""
    cert = relu.certify(X, Y, net)
    run = relu.gradient_flow(X, Y, net, until=1e-4, max_steps=steps)
    least = float(run.rate.min())
    seen["flows"] += 1
    seen["flips"] += len(run.flips)
    seen["slides"] += sum(f.after == "sliding" for f in run.flips)
    seen["flows that ended early"] += not run.result.ok
    seen[f"telling: certified within {TELLING} of the least rate"] += cert.rate > 0 and least <= TELLING * cert.rate
    bad = against_run(seen, cert, run) if cert.rate > 0 else []
    start = Start.of(cert.objective, net)
    return bad + ([] if start.unfit else against_points(seen, start, run)), cert, least


def against_plain_theorem(
    seen: Counter, X: np.ndarray, Y: np.ndarray, net: relu.Network, rate: float, least: float
) -> list[str]:
    """Count how the two theorems compare with the least rate of a run; return whether Theorem R says more."""
    found = reference.plain_theorem(net.inputs(X), net.extended, net.V, Y)
    seen["one output, ReLU: starts"] += 1
    seen["one output, ReLU: certified"] += rate > 0
    seen["one output, ReLU: Theorem R certifies"] += found > 0
    if found > 0:
        # Counts in hundredths, so that they add up over blocks: medians can be read from them.
        seen[f"R⁺ over least observed, percent {round(100 * rate / least):03d}"] += 1
        seen[f"R over least observed, percent {round(100 * found / least):03d}"] += 1
    return [f"Theorem R has {found}, R⁺ {rate}"] if found > rate * (1 + 1e-3) else []  # the two grids differ


def judged(seen: Counter, rng: np.random.Generator, k: int, kind: str) -> tuple[str, list[str]]:
    """Draw and judge instance k of a block; return what it is, and the violations."""
    if kind == "enclosed":
        X, Y, net = hostile(rng, str(rng.choice(["", *HOSTILE[:6]])), *tiny(rng))
        return f"{net!r}, {len(X)} samples", against_digits(seen, X, Y, net)
    large = kind == "plain"
    X, Y, net = plain(rng) if large else small(rng, kind)
    bad, cert, least = compare(seen, X, Y, net, 1500 if large else STEPS)
    if k in (0, 5):
        bad += against_descent(seen, X, Y, net)
    if large and net.slope == 0 and net.V.shape[1] == 1:
        bad += against_plain_theorem(seen, X, Y, net, cert.rate, least)
    seen[f"{kind}: certified"] += cert.rate > 0
    return f"{net!r}, {len(X)} samples", bad


def tiny(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, relu.Network]:
    """Return data and a start that can be followed to 30 digits."""
    N, h, d = (int(np.exp(rng.uniform(0, np.log(most + 1)))) for most in (3, 3, 2))
    return drawn(rng, N, d, h, int(rng.choice([1, 1, 2])), float(np.exp(rng.uniform(*np.log([0.3, 3])))))


def block(seed: int, first: int, count: int) -> tuple[Counter, list[str]]:
    """Return the counts of some instances, and the violations in words."""
    index = first // BLOCK
    rng = np.random.default_rng((seed, index))
    seen, violations = Counter(), []
    for k, own in enumerate(rng.spawn(count)):
        kind = {0: "plain", 10: "enclosed"}.get(k % 20) or ("usual" if k % 2 else str(own.choice(HOSTILE)))
        seen[f"{kind}: starts"] += 1
        seen["hostile starts"] += kind in HOSTILE
        try:
            what, bad = judged(seen, own, k, kind)
        except Exception as error:  # an instance that fails is reported like a violation
            what, bad = "failed", [repr(error)]
        violations += [f"block {index} instance {k}, {kind}, {what}: {text}" for text in bad]
    return seen, violations


if __name__ == "__main__":
    sys.exit(main("Every statement on ReLU networks against flows.", block, BLOCK, 3000))
