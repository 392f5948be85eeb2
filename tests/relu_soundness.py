"""Every statement on ReLU networks against computed flows and descents: `make relu-soundness`.

    python -m tests.relu_soundness --instances 3000 --seed 0 --workers 2

Each instance draws data, a start and a slope from one of the families below, integrates the flow to a ten-thousandth
of its loss, and compares at nine of its points, certified or not: how far weights moved, which signs are kept,
the floor of v², and the floor of λ_min(H). Certificates are compared with whole runs: path, loss, rate, flips.
Prints what was seen, medians included, and exits with 1 if anything was violated.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np

from linflow import relu
from linflow.relu.floor import Floor
from linflow.relu.movement import Mover
from linflow.relu.problem import Start
from tests.campaign import main
from tests.reference import relu as reference

BLOCK = 25
COMPUTED = 1e-6
"""What a point of a run of tolerance 1e-8 may be off by, relative to the motion."""
HOSTILE = ("plain", "boundary", "dead", "repeated", "opposite", "zero weights", "zero second layer", "large", "small")


def instance(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray, relu.Network]:
    """Return data and a start: those of docs/relu.md for "plain"; smaller and degenerate ones for the others."""
    plain = kind == "plain"
    N, d = (
        int(rng.integers(4, 13) if plain else rng.integers(2, 7)),
        int(rng.integers(8, 21) if plain else rng.integers(2, 9)),
    )
    most = 300 if plain else 60
    h, m = 2 * int(np.exp(rng.uniform(*np.log([5 if not plain else 25, most])))), int(rng.choice([1, 1, 2, 3]))
    s, bias, size = (
        float(rng.choice([0, 0, 0.1, 0.3])),
        bool(rng.random() < 0.25),
        float(np.exp(rng.uniform(*np.log([0.3, 8])))),
    )
    X, Y = rng.standard_normal((N, d)) / np.sqrt(d), rng.standard_normal((N, m))
    net = relu.paired((d, h, m), size, bias=bias, slope=s, rng=rng)
    U, V, b = net.U.copy(), net.V.copy(), net.bias
    if rng.random() < 0.2:
        U = rng.standard_normal(U.shape)
        V = rng.standard_normal(V.shape)
        V *= size / np.linalg.norm(V, axis=1, keepdims=True)
    if kind == "boundary":
        i, some = int(rng.integers(N)), rng.random(h) < 0.3
        U[:, some] -= np.outer(X[i], X[i] @ U[:, some]) / (X[i] @ X[i])
        if b is not None:
            b = np.where(some, 0.0, b)
    elif kind == "dead":
        X = np.abs(X)
        U[:, rng.random(h) < 0.4] *= np.where(rng.random() < 0.5, -1, 1)
        some = rng.random(h) < 0.4
        U[:, some] = -np.abs(U[:, some])
    elif kind == "repeated":
        X[1] = X[0]
        Y[1] = Y[0] if rng.random() < 0.5 else Y[1]
    elif kind == "opposite":
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
    return X, Y, relu.Network(U, V, b, s)


def kernel(X: np.ndarray, U: np.ndarray, V: np.ndarray, a: np.ndarray, s: float) -> np.ndarray:
    """Return H, as `reference.H` does, in three products."""
    Z, (N, m) = X @ U, (len(X), V.shape[1])
    features = np.where(Z > 0, Z, s * Z)
    blocks = np.einsum("il,ilkq->iklq", X @ X.T, np.tensordot(a[:, None] * a[None], V[:, :, None] * V[:, None], 1))
    return blocks.reshape(N * m, N * m) + np.kron(features @ features.T, np.eye(m))


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
    """Return what nine points of a run did not keep of the lemmas."""
    bad, floor, mover = [], Floor(start), Mover(start)
    p, a, s = 2.0**start.input_power, 2.0**start.weight_power, start.slope
    scale_U, scale_V = np.linalg.norm(start.U) + 1, np.linalg.norm(start.V) + 1
    signs = np.where(start.z > 0, 1, -1).T
    for k in np.unique(np.linspace(0, len(run.t) - 1, 9).astype(int)):
        # The path of the run has its own error.
        movement = mover.at(float(run.path[k] * p) * (1 + 1e-9))
        if movement is None:
            break
        seen["points"] += 1
        now = run.network_at(float(run.t[k]))
        U, V = now.extended / a, now.V / a
        moved, far = np.abs(start.X @ (U - start.U)).T, np.linalg.norm(V - start.V, axis=1)
        value, true = floor.at(movement), np.inf
        sizes = np.abs(start.X) @ np.abs(U)
        for zero in (0.0, 1e-11):  # pairs at 0 may count as either
            a_now = np.where(start.X @ U - zero * sizes > 0, 1.0, s)
            values = np.linalg.eigvalsh(kernel(start.X, U, V, a_now, s))
            true = min(true, values[0] * (1 + COMPUTED) + 1e-9 * values[-1])
        for kept, text in (
            ((moved <= movement.moved * (1 + COMPUTED) + 1e-9 * scale_U).all(), "a pre-activation moved too far"),
            ((far <= movement.second * (1 + COMPUTED) + 1e-9 * scale_V).all(), "a second layer moved too far"),
            (((start.X @ U).T * signs >= -1e-9 * scale_U)[movement.frozen].all(), "a frozen pair flipped"),
            (
                V.shape[1] > 1 or (movement.second_floor <= V[:, 0] ** 2 + 1e-9 * scale_V**2).all(),
                "v² below its floor",
            ),
            (value <= true, f"floor {value} above λ_min(H) = {true}"),
        ):
            seen["comparisons"] += 1
            if not kept:
                bad.append(text)
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
    seen: Counter, X: np.ndarray, Y: np.ndarray, net: relu.Network
) -> tuple[list[str], relu.Certificate, float]:
    """Return violations in words, the certificate, and the least observed rate."""
    cert = relu.certify(X, Y, net)
    run = relu.gradient_flow(X, Y, net, until=1e-4, max_steps=1500)
    seen["flows"] += 1
    seen["flips"] += len(run.flips)
    seen["slides"] += sum(f.after == "sliding" for f in run.flips)
    seen["flows that ended early"] += not run.result.ok
    bad = against_run(seen, cert, run) if cert.rate > 0 else []
    if seen["flows"] % 8 == 0:
        bad += against_descent(seen, X, Y, net)
    start = Start.of(cert.objective, net)
    return bad + ([] if start.unfit else against_points(seen, start, run)), cert, float(run.rate.min())


def block(seed: int, first: int, count: int) -> tuple[Counter, list[str]]:
    """Return the counts of some instances, and the violations in words."""
    index = first // BLOCK
    rng = np.random.default_rng((seed, index))
    seen, violations = Counter(), []
    for k in range(count):
        kind = "plain" if k % 2 == 0 else HOSTILE[int(rng.integers(len(HOSTILE)))]
        X, Y, net = instance(rng, kind)
        where = f"block {index} instance {k}, {kind}, {net!r}, {len(X)} samples"
        try:
            bad, cert, least = compare(seen, X, Y, net)
        except Exception as error:  # an instance that fails is reported like a violation
            violations.append(f"{where}: failed: {error!r}")
            continue
        violations += [f"{where}: {text}" for text in bad]
        seen[f"{kind}: starts"] += 1
        seen[f"{kind}: certified"] += cert.rate > 0
        if kind == "plain" and net.slope == 0 and net.V.shape[1] == 1:
            plain = reference.plain_theorem(net.inputs(X), net.extended, net.V, Y)
            seen["one output, ReLU: starts"] += 1
            seen["one output, ReLU: certified"] += cert.rate > 0
            seen["one output, ReLU: Theorem R certifies"] += plain > 0
            if plain > cert.rate * (1 + 1e-3):  # the two grids differ
                violations.append(f"{where}: Theorem R has {plain}, R⁺ {cert.rate}")
            if plain > 0:
                # Counts in hundredths, so that they add up over blocks: medians can be read from them.
                seen[f"R⁺ over least observed, percent {round(100 * cert.rate / least):03d}"] += 1
                seen[f"R over least observed, percent {round(100 * plain / least):03d}"] += 1
    return seen, violations


if __name__ == "__main__":
    sys.exit(main("Every statement on ReLU networks against flows.", block, BLOCK, 3000))
