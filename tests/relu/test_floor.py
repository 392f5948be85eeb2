"""Movement and floor against the literal twins, and against every H that they speak of."""

import numpy as np
import pytest

from linflow.relu.floor import RATIOS, Floor
from linflow.relu.movement import Mover
from linflow.relu.shadows import SMALLEST, Shadows
from tests.reference import relu as reference
from tests.relu.starts import drawn, started

KINDS = [
    {"s": 0.0},
    {"s": 0.3},
    {"s": 0.0, "bias": True, "paired": False},
    {"s": 0.0, "N": 7, "d": 3, "h": 24, "size": 4.0},
    {"s": 0.1, "N": 6, "d": 4, "h": 20, "size": 0.2},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [0.0, 0.03, 0.3, 2.0])
def test_movement_is_the_least_fixed_point(kind, tau):
    start = started(*drawn(3, **kind))
    found = Mover(start).at(tau)
    assert found is not None
    for j in range(start.net.width):
        twin = reference.movement(start.X, start.U[:, j], start.V[j], start.slope, tau)
        assert (found.active[j] == (twin["t"] == 1)).all() and (found.frozen[j] == twin["frozen"]).all()
        # allowances are about 1e-13 of each number; they are upward
        for value, exact in (
            (found.kappa[j], twin["kappa"]),
            (found.growth[j], twin["V"]),
            (found.second[j], twin["eps"]),
            (found.moved[j], twin["M"]),
        ):
            np.testing.assert_allclose(value, exact, rtol=1e-11, atol=1e-14)
            assert np.all(value >= np.asarray(exact) * (1 - 4e-16))
        if start.V.shape[1] == 1:
            least = reference.second_floor(start.X, start.U[:, j], start.V[j, 0], twin)
            size = start.V[j, 0] ** 2 + np.sum(start.U[:, j] ** 2)
            # a difference of squares, less an allowance of 1e-11 of them
            assert least - 1e-10 * size * (1 + tau) <= found.second_floor[j] <= least + 4e-16 * size
            drifted = reference.second_floor(start.X, start.U[:, j], start.V[j, 0], twin, drift=0.1)
            assert abs(found.squares_floor(0.1)[j] - drifted) <= 1e-10 * size * (1 + tau)
    spread = reference.features_spread(start.X, start.U, start.V, start.slope, tau)
    assert found.features_moved == pytest.approx(spread, rel=1e-9, abs=1e-13)
    for j in np.flatnonzero(start.twins):
        alpha = reference.twin_means(start.X, start.U[:, j], start.V[j], start.slope, tau)[0]
        assert alpha - 1e-15 <= found.mean_second[j] <= alpha + 1e-11 * found.second[j] + 1e-14


def test_caps_go_on_from_the_last_path():
    start = started(*drawn(4, h=30, size=0.5))
    mover = Mover(start)
    steps = [mover.at(tau) for tau in (0.1, 0.4, 1.0)]
    for tau, step in zip((0.1, 0.4, 1.0), steps, strict=True):
        alone = Mover(start).at(tau)
        assert (alone.active == step.active).all() and (alone.moved == step.moved).all()


def test_ceilings_of_many_patterns_are_those_of_each():
    mover = Mover(started(*drawn(4)))
    masks = np.random.default_rng(0).random((1025, 4)) < 0.5
    each = [mover._ceilings(mask[None])[0] for mask in masks[[0, 511, 512, 513, 1024]]]
    assert mover._ceilings(masks)[[0, 511, 512, 513, 1024]].tolist() == each


@pytest.mark.parametrize("s", [0.0, 0.4])
@pytest.mark.parametrize("delta", [SMALLEST, 0.2, 3.0])
def test_shadows_are_below_every_slope(s, delta):
    """`D_a K D_a ⪰ S(Δ)` for every a that agrees where the neuron is frozen, at corners and inside of the box."""
    rng = np.random.default_rng(5)
    start = started(*drawn(6, N=5, d=4, h=12, s=s))
    shadows = Shadows(start)
    movement = Mover(start).at(0.5)
    parts = shadows.parts(movement, delta)
    K, lengths = start.X @ start.X.T, start.lengths
    known = np.where(start.z > 0, 1.0, s)
    assert (~movement.frozen).any(axis=1).sum() > 3
    for j in range(12):
        free = ~movement.frozen[j]
        used = SMALLEST if s == 0 and 2 * free.sum() > 5 else delta
        S = parts[j] * np.outer(lengths, lengths)
        np.testing.assert_allclose(S, reference.shadow(K, known[:, j], free, used, s), rtol=0, atol=1e-7 * K.max())
        for _ in range(20):
            a = np.where(free, rng.choice([s, 1.0, rng.uniform(s, 1)], 5), known[:, j])
            least = np.linalg.eigvalsh(np.diag(a) @ K @ np.diag(a) - S)[0]
            assert least >= -shadows.error * np.trace(K)


def test_the_principal_block_alone_would_be_no_floor():
    """Two equal samples, one of them free: K_FF is 1, but the form vanishes at (1, −1) when both are on."""
    K = np.ones((2, 2))
    assert np.array([1, -1]) @ K @ np.array([1, -1]) == 0 < K[0, 0]
    S = reference.shadow(K, np.array([1.0, 0.0]), np.array([False, True]), 1e-9, 0.0)
    assert abs(S[0, 0]) < 1e-8


@pytest.mark.parametrize("kind", [*KINDS[:3], {"s": 0.0, "h": 40, "size": 3.0}, {"s": 0.0, "h": 40, "size": 0.0}])
@pytest.mark.parametrize("tau", [0.0, 0.02, 0.1])
def test_one_output_floor_is_the_twins(kind, tau):
    start = started(*drawn(7, **kind))
    floor = Floor(start)
    value = floor.at(Mover(start).at(tau))
    deltas = list(floor.shadows.choices(Mover(start).at(tau)))
    twin = reference.one_output_floor(start.X, start.U, start.V, start.slope, tau, deltas)
    size = np.linalg.eigvalsh(reference.H(start.X, start.U, start.V, reference.slopes(start.X, start.U, 0), 0))[-1]
    # the library stops its search for c after six steps; SMALLEST costs 1e-9
    assert 0.99 * twin - 1e-8 * size <= value <= twin + 1e-9 * size


@pytest.mark.parametrize("kind", [{"m": 2}, {"m": 3, "s": 0.3}, {"m": 2, "N": 5, "d": 3, "bias": True}])
@pytest.mark.parametrize("tau", [0.005, 0.03])
def test_several_outputs_floor_is_the_twins(kind, tau):
    start = started(*drawn(12, **{"N": 3, "h": 30, "size": 3.0, **kind}))
    floor, movement = Floor(start), Mover(start).at(tau)
    value = floor.at(movement)
    deltas = list(floor.shadows.choices(movement))
    twin = reference.several_outputs_floor(start.X, start.U, start.V, start.slope, tau, deltas, RATIOS)
    assert twin > 0 or tau > 0.01
    size = np.linalg.eigvalsh(reference.H(start.X, start.U, start.V, reference.slopes(start.X, start.U, 0), 0))[-1]
    # as for one output
    assert 0.99 * twin - 1e-8 * size <= value <= twin + 1e-9 * size


def test_floor_at_the_start_is_the_least_eigenvalue():
    for m in (1, 2):
        start = started(*drawn(8, h=60, m=m, s=0.1, paired=False))
        H = reference.H(start.X, start.U, start.V, reference.slopes(start.X, start.U, 0.1), 0.1)
        # c is at most 1e8, and the second layer does not move at path 0
        assert Floor(start).at(Mover(start).at(0.0)) == pytest.approx(np.linalg.eigvalsh(H)[0], rel=1e-6)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("s", [0.0, 0.2])
def test_floor_is_below_H_of_every_network_that_lemma_1_allows(m, s):
    """Random weights within the bounds of Lemma 1, each with slopes of its signs: λ_min(H) is above the floor."""
    rng = np.random.default_rng([m, 10 * int(s > 0)])
    telling = 0
    for seed in range(8):
        start = started(*drawn([9, seed], N=3, d=5, h=16, m=m, s=s, size=2.0, paired=False))
        floor = Floor(start)
        for tau in (0.01, 0.05):
            movement = Mover(start).at(tau)
            value = floor.at(movement)
            telling += value > 0
            for _ in range(10):
                U, V = start.U.copy(), start.V.copy()
                for j in range(16):  # a path of length τ: forces of the size of the residual, on allowed slopes
                    t = np.where(movement.active[j], 1.0, s)
                    r = rng.standard_normal(3)
                    U[:, j] -= (
                        start.X.T @ (t * r / np.linalg.norm(r)) * movement.growth[j] * rng.choice([1.0, rng.random()])
                    )
                    e = rng.standard_normal(m)
                    V[j] += e / np.linalg.norm(e) * movement.second[j] * rng.choice([1.0, rng.random()])
                if m == 1:
                    V[:, 0] = np.sign(V[:, 0]) * np.sqrt(np.maximum(V[:, 0] ** 2, movement.second_floor))
                H = reference.H(start.X, U, V, reference.slopes(start.X, U, s), s)
                assert value <= np.linalg.eigvalsh(H)[0] * (1 + 1e-9)
    assert telling > 4


def driven(start, forces, tau, steps):
    """Weights after steps with any residuals P of the same size: `U − XᵀD_aPV`, `V − ΦᵀP`, sum of sizes τ."""
    U, V = start.U, start.V
    for k in range(steps):
        Z = start.X @ U
        a, P = np.where(Z > 0, 1.0, start.slope), forces(U, V, k)
        P = P / np.linalg.norm(P) * tau / steps
        U, V = U - start.X.T @ (a * (P @ V.T)), V - (a * Z).T @ P
    return U, V


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("s", [0.0, 0.2])
def test_twins_keep_what_lemma_t_says_whatever_drives_them(m, s):
    """Lemmas 1, 4 and T use of the residual its path alone: any other force, and any number of steps, will do."""
    rng, telling, nearest = np.random.default_rng([m, int(10 * s)]), 0, np.zeros(3)
    for seed in range(8):
        start = started(*drawn([31, seed], N=4, d=5, h=16, m=m, s=s, size=[0.3, 2.0][seed % 2]))
        floor, tau = Floor(start), float(np.exp(rng.uniform(-6, -1)))
        movement, z, fixed = Mover(start).at(tau), start.z.T, rng.standard_normal((4, m))
        value, M = floor.at(movement), movement.moved
        own = np.where(z > 0, M, np.maximum(s * M, s * np.abs(z) + M - np.abs(z)))
        bound = np.minimum(own, movement._means_moved(M))

        def weakest(U, V, k, start=start):
            a = reference.slopes(start.X, U, s)
            return np.linalg.eigh(reference.H(start.X, U, V, a, s))[1][:, 0].reshape(4, m)

        for forces, steps in ((lambda *_, P=fixed: P, 1), (lambda *_, P=-fixed: P, 20), (weakest, 6)):
            U, V = driven(start, forces, tau, steps)
            Z = start.X @ U
            H = reference.H(start.X, U, V, np.where(Z > 0, 1.0, s), s)
            assert value <= np.linalg.eigvalsh(H)[0] * (1 + 1e-9) + 1e-12
            telling += value > 0
            half = np.linalg.norm((V[::2] - V[1::2]) / 2 - start.V[::2], axis=1)
            features = np.where(Z > 0, Z, s * Z).T
            means = np.abs((features[::2] + features[1::2]) / 2 - start.features.T[::2])
            assert (half <= movement.mean_second[::2] + 1e-14).all() and (means <= bound[::2] + 1e-14).all()
            nearest[0] = max(nearest[0], np.max(half / (movement.mean_second[::2] + 1e-12)))
            nearest[1] = max(nearest[1], np.max((means / (bound[::2] + 1e-12))[movement.frozen[::2]], initial=0))
            nearest[2] = max(nearest[2], np.max((means / (bound[::2] + 1e-12))[~movement.frozen[::2]], initial=0))
    assert telling > 5 and (nearest > [0.25, 0.5, 0.1]).all()


def test_several_outputs_without_a_second_layer_part():
    """`second=False` leaves out ΦΦᵀ: the floor does not rise, and is below the first layers' part of H."""
    start = started(*drawn(11, N=3, h=40, m=2, size=2.0))
    floor, movement = Floor(start), Mover(start).at(0.01)
    without = floor.at(movement, second=False)
    a = reference.slopes(start.X, start.U, 0.0)
    first = reference.H(start.X, start.U, start.V, a, 0.0) - np.kron(start.features @ start.features.T, np.eye(2))
    assert 0 < without <= min(floor.at(movement), np.linalg.eigvalsh(first)[0])
