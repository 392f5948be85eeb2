"""Adapters as networks: the pair `lf.lora` returns is the loss of `W_0 + s·BA`, and shifting keeps the constants."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest

import linflow as lf


def draw(seed=0, n=4, m=3, r=2):
    rng = np.random.default_rng(seed)
    return rng, rng.standard_normal((m, n)), rng.standard_normal((r, n)), rng.standard_normal((m, r))


def objectives(rng, n=4, m=3):
    X, Y = rng.standard_normal((7, n)), rng.standard_normal((7, m))
    A = X.T @ X
    smooth = lf.Objective(
        lambda W: float(np.sum(0.5 * W**2 + np.log(np.cosh(W - 1)))),
        lambda W: W + np.tanh(W - 1),
        shape=(n, m),
        strong_convexity=1.0,
        smoothness=2.0,
    )
    return {
        "factorization": lf.MatrixFactorization(rng.standard_normal((n, m))),
        "regression": lf.LinearRegression(X, Y),
        "few samples": lf.LinearRegression(X[:2], Y[:2]),
        "quadratic": lf.Quadratic(A, np.diag([1.0, 2.0, 3.0]), rng.standard_normal((n, m))),
        "quadratic of lists": lf.Quadratic(A.tolist(), C=rng.standard_normal((n, m)).tolist()),
        "given by functions": smooth,
        "weighted": lf.LinearRegression(X, Y, weights=rng.random(7), ridge=0.3),
        "sensing": lf.Sensing(rng.standard_normal((5, n, m)), rng.standard_normal(5)),
        "completion": lf.Completion(rng.standard_normal((n, m)), rng.random((n, m)) < 0.7),
    }


ALL = ["factorization", "regression", "few samples", "given by functions", "weighted", "sensing", "completion"]


@pytest.mark.parametrize("name", ALL)
def test_the_loss_is_that_of_the_adapted_weight(name):
    rng, W0, A, B = draw()
    f = objectives(rng)[name]
    shifted, net = lf.lora(f, W0, A, B, scaling=2.0)
    adapted = (W0 + 2.0 * B @ A).T
    assert net.widths == (4, 2, 3)
    assert shifted.gap(net.product()) == pytest.approx(f.gap(adapted), rel=1e-12)
    assert shifted.value(net.product()) == pytest.approx(f.value(adapted), rel=1e-12)
    np.testing.assert_allclose(shifted.gradient(net.product()), f.gradient(adapted), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", [*(x for x in ALL if "functions" not in x), "quadratic", "quadratic of lists"])
def test_a_shifted_quadratic_is_of_the_same_class(name):
    rng, W0, _, _ = draw(1)
    f, W = objectives(rng)[name], rng.standard_normal((4, 3))
    shifted = f.shifted(W0.T)
    assert type(shifted) is type(f)
    constants = ("strong_convexity", "smoothness", "pl_constant")
    assert [getattr(shifted, x) for x in constants] == [getattr(f, x) for x in constants]
    assert shifted.gap(W) == pytest.approx(f.gap(W0.T + W), rel=1e-11)
    less = f.value(W0.T) if name.startswith("quadratic") else 0.0
    assert shifted.value(W) == pytest.approx(f.value(W0.T + W) - less, rel=1e-11)


def test_other_objectives_keep_what_is_declared():
    rng, W0, _, _ = draw(2)
    f, W = objectives(rng)["given by functions"], rng.standard_normal((4, 3))
    shifted = f.shifted(W0.T)
    constants = ("strong_convexity", "smoothness", "pl_constant", "minimum", "convex", "shape")
    assert [getattr(shifted, x) for x in constants] == [getattr(f, x) for x in constants]
    np.testing.assert_allclose(shifted.minimizer, f.minimizer - W0.T)
    assert shifted.value(W) == f.value(W0.T + W)
    tail = lf.Objective(
        lambda W: float(np.exp(-W).sum()),
        lambda W: -np.exp(-W),
        shape=(2, 1),
        minimum=0.0,
        tail_constant=0.5**0.5,
        tail_smoothness=1.0,
    )
    moved = tail.shifted(np.ones((2, 1)))
    assert (moved.tail.constant, moved.tail_smoothness, moved.minimizer) == (tail.tail.constant, 1.0, None)


def test_a_shifted_objective_can_be_copied_and_pickled():
    f = lf.LpRegression(np.eye(3), np.ones((3, 2)), p=4)
    shifted, W = f.shifted(np.full((3, 2), 0.5)), np.full((3, 2), 0.25)
    for other in (copy.deepcopy(shifted), pickle.loads(pickle.dumps(shifted))):
        assert other.value(W) == shifted.value(W) == f.value(W + 0.5)


def test_notes_are_kept():
    f = lf.MatrixFactorization(np.ones((2, 2), dtype=np.float32))
    shifted = f.shifted(np.ones((2, 2), dtype=np.float32))
    assert [note.split(":")[0].split(" ")[0] for note in shifted.notes] == ["Y", "W0"]


def test_conversions_of_an_adapter_are_noted():
    small = np.ones((2, 2), dtype=np.float32)
    f, net = lf.lora(lf.MatrixFactorization(np.ones((2, 2))), small, small, small)
    assert [note.split(" ")[0] for note in (*f.notes, *net.notes)] == ["W0", "A", "B"]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_it_is_certified_run_and_proved_at_any_rank(rank):
    rng, W0, _, _ = draw(3)
    f = objectives(rng)["regression"]
    pair = lf.lora(f, W0, 2 * rng.standard_normal((rank, 4)), np.zeros((3, rank)), scaling=2.0)
    cert = lf.certify(*pair)
    run = lf.gradient_flow(*pair, t_max=1.0)
    enc = lf.enclose(*pair, t_max=1.0)
    assert cert.check(run).holds
    assert enc.result == "time limit reached"
    low, high = enc.gap_bounds(1.0)
    assert low * (1 - 1e-8) <= run.gap[-1] <= high * (1 + 1e-8)  # the accuracy of the flow


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"W0": np.ones((4, 3))}, ["W0 is 4×3", "4 inputs and 3 outputs", "3×4", "outputs first"]),
        ({"A": np.ones((4, 2))}, ["A is 4×2", "(rank, 4)", "(3, rank)"]),
        ({"B": np.ones((3, 1))}, ["B is 3×1"]),
        ({"scaling": 0.0}, ["scaling"]),
        ({"W0": np.full((3, 4), np.nan)}, ["W0"]),
    ],
)
def test_what_does_not_fit_is_said(change, words):
    given = {"W0": np.ones((3, 4)), "A": np.ones((2, 4)), "B": np.ones((3, 2)), "scaling": 1.0} | change
    W0, A, B, scaling = given.values()
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        lf.lora(lf.MatrixFactorization(np.ones((4, 3))), W0, A, B, scaling=scaling)
    for word in words:
        assert word in str(caught.value)
