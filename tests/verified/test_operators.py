"""Verified runs of sensing and completion: against long double twins, and against runs."""

import numpy as np
import pytest

import linflow as lf
from linflow.verified.operators import OperatorGradient

WIDE = np.longdouble


def problems(rng):
    Y = rng.standard_normal((3, 2))
    Y[1, 0] = np.nan
    yield lf.Completion(Y)
    yield lf.Completion(np.nan_to_num(Y))
    for count in (3, 9):
        yield lf.Sensing(rng.standard_normal((count, 3, 2)), rng.standard_normal(count))


def exact(f, W):
    """The loss and its gradient at W, in long double."""
    W = W.astype(WIDE)
    if isinstance(f, lf.Completion):
        R = f.known * (W - f.minimizer.astype(WIDE))
        return 0.5 * np.sum(R * R), R
    A, b = f.X.astype(WIDE), f.y[:, 0].astype(WIDE)
    r = A @ W.reshape(-1) - b
    return 0.5 * np.sum(r * r), (A.T @ r).reshape(W.shape)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_gradients_and_gaps_hold_the_exact_ones(size, rng):
    for f in problems(rng):
        problem = OperatorGradient.over(f, np.zeros((3, 2)))
        bottom = min(exact(f, f.minimizer)[0], WIDE(np.inf)) if isinstance(f, lf.Sensing) else WIDE(0)
        W = size * rng.standard_normal((5, 3, 2)) + f.minimizer
        G, errors = problem.gradient(W, np.full(5, 1e-3))
        for k in range(5):
            moved = W[k] + 1e-3 * (move := rng.standard_normal((3, 2))) / (np.linalg.norm(move) * (1 + 1e-9))
            value, slope = exact(f, moved)
            assert float(np.linalg.norm((G[k] - slope).astype(float))) <= errors[k]
            alone, error = problem.gradient(W[k], 1e-3)
            # A column of a product of matrices may round otherwise than the product of the column.
            np.testing.assert_allclose(alone, G[k], rtol=0, atol=1e-14 * (1 + size) * 100)
            assert error == pytest.approx(errors[k], rel=1e-9, abs=0)
            low, high = problem.gap(W[k], 1e-3)
            # The exact minimum is below the loss at the computed minimiser by 10⁻²⁸ or so.
            assert low <= float(value - bottom) + 1e-20 and float(value - bottom) <= high
            tight = problem.gap(W[k], 0.0)
            # Not only valid, but sharp: a few UP of 10⁻¹², and the gradient that rounding leaves at V.
            assert tight[1] - tight[0] <= 1e-11 * tight[1] + 1e-13 * np.sqrt(tight[1])


def test_constants_are_proved_bounds(rng):
    for f in problems(rng):
        problem = OperatorGradient.over(f, np.zeros((3, 2)))
        if isinstance(f, lf.Completion):
            assert problem.smoothness == pytest.approx(1.0, rel=1e-11) and problem.least == 1.0
            continue
        s = np.linalg.svd(f.X, compute_uv=False) ** 2
        assert s[0] * (1 - 1e-14) <= problem.smoothness <= s[0] * 1.1
        assert s[-1] * (1 - 1e-6) <= problem.least <= s[-1] * (1 + 1e-14)


def test_a_mask_alone_moves_nothing_else():
    problem = OperatorGradient.over(lf.Completion([[1.0, np.nan]]), np.zeros((1, 2)))
    G, error = problem.gradient(np.array([[3.0, 5.0]]), 0.5)
    assert G.tolist() == [[2.0, 0.0]] and error == pytest.approx(0.5, rel=1e-9)


def test_proofs_hold_the_runs(rng):
    net = lf.init.imbalanced((3, 7, 2), [1.0], rng=11)
    last, *others = list(problems(rng))[::2]
    for f in (*others, last):
        enc, run = lf.enclose(f, net, until=1e-3), lf.gradient_flow(f, net, until=1e-4, rtol=1e-11)
        low, high = enc.time_bounds(1e-3)
        assert enc.result == "target proved" and high / low < 1.001
        assert low * (1 - 1e-8) < run.time_to(1e-3) < high * (1 + 1e-8)
        assert lf.certify(f, net).check(enc).holds
        assert not any("declare" in note for note in enc.notes)
    down = lf.enclose(last, net, algorithm="descent", step_size=1e-3, until=1e-1)
    seen = lf.gradient_descent(last, net, step_size=1e-3, steps=2000, until=1e-1)
    assert down.steps_bounds(1e-1) == (round(seen.t[-1] / 1e-3),) * 2


def test_small_balanced_starts_are_proved_although_nothing_is_certified(rng):
    f = lf.Completion([[2.0, np.nan], [0.5, 1.0]])
    net = lf.init.balanced((2, 3, 2), std=0.5, rng=2)
    assert lf.certify(f, net).best is None
    assert lf.enclose(f, net, until=1e-2).result == "target proved"
