"""What the softmax loss allows for, number by number: its constants, the margin that is kept, and rounding."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow._support.arrays import EPS
from linflow.model import softmax
from linflow.model.classification import hard_margin
from linflow.model.tails import UP


@pytest.fixture
def data(rng):
    return rng.standard_normal((7, 3)) + 3 * np.eye(3)[[0, 1, 2, 0, 1, 2, 0]], np.array([0, 1, 2, 0, 1, 2, 0])


@pytest.mark.parametrize("mean", [False, True])
def test_rounding_of_value_and_gradient(data, mean, rng):
    X, labels = data
    f, share = lf.SoftmaxLoss(X, labels, mean=mean), 1 / 7 if mean else 1.0
    A, B = rng.standard_normal((2, 3, 3))
    net = lf.Network([A, B], scale=1.5)
    size = 1.5 * float(np.linalg.norm(A) * np.linalg.norm(B))
    losses, _, missed = f.odds(net.product())
    x = np.linalg.norm(X, axis=1)[:, None]
    expected = share * 8 * EPS * (float(losses.sum()) + float(np.sum(missed * x)) * size)
    assert f.rounding(net) == pytest.approx(expected, rel=1e-13, abs=0)
    expected = share * 8 * EPS * float(np.sum(missed * (x + x**2 * size)))
    assert f.gradient_rounding(net) == pytest.approx(expected, rel=1e-13, abs=0)


def test_constants_are_raised_for_rounding(data):
    X, labels = data
    f = lf.SoftmaxLoss(X, labels)
    longest = float(np.linalg.norm(X, axis=1).max()) * (1 + (3 + 8) * EPS)
    assert f.tail_smoothness == 2 * longest * longest
    for gap in (1e-6, 1e6):
        bounds = math.sqrt(2) * longest * gap, math.sqrt(2 * f.smoothness) * math.sqrt(gap)
        assert f.steepest_on(gap) == min(bounds) * UP
    differences = np.array(
        [
            np.outer(x, np.eye(3)[c] - np.eye(3)[k]).ravel()
            for x, c in zip(X, labels, strict=True)
            for k in range(3)
            if k != c
        ]
    )
    lower, upper, U = hard_margin(differences)
    assert (f.hard_margin, f.margin_gap) == (lower / UP, upper * UP - lower / UP)
    assert np.array_equal(f.direction, U.reshape(3, 3))
    assert f.samples == 7 and f.inputs is f._X and f.labels.tolist() == labels[:, None].tolist()


def test_the_margin_of_the_coordinates_seen_is_lowered(data):
    X, labels = data
    wide = np.hstack([X, X[:, :1]])  # of rank 3
    f = lf.SoftmaxLoss(wide, labels)
    top = float(np.linalg.svd(wide)[1][0])
    assert f._cut == pytest.approx(math.sqrt(2) * 7 * EPS * top, rel=1e-13, abs=0)
    net = lf.init.imbalanced((4, 6, 3), [1.0], rng=2)
    f._cut = 1e-3 * f.hard_margin
    seen, _ = f.effective(net)
    kept = f.hard_margin * (1 - 16 * 3 * EPS)
    assert seen.hard_margin == kept - f._cut and seen.margin_gap == f.margin_gap + f._cut
    f._cut = f.hard_margin  # a space that rounding may have made is kept whole
    whole, inner = f.effective(net)
    assert whole.hard_margin == kept and whole.margin_gap == f.margin_gap
    assert whole.shape == inner.shape == (4, 2) and whole.column_space is None


def test_what_counts_as_a_class():
    f = lf.SoftmaxLoss(np.eye(2), [0, 0])
    assert f.shape == (2, 2)  # never one class alone
    assert lf.SoftmaxLoss(np.eye(2), [[0], [1]], classes=5).shape == (2, 5)
    with pytest.raises(ValueError, match="labels the shape"):
        lf.SoftmaxLoss(np.eye(2), [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="labels the shape"):
        lf.SoftmaxLoss(np.eye(2), [[0, 1]])
    with pytest.raises(ValueError, match="number the classes"):
        softmax._classes(np.array([1e6 + 1]), 1, None)
    assert softmax._classes(np.array([1e6]), 1, None).tolist() == [10**6]


def test_how_many_numbers_the_margin_may_take(monkeypatch):
    assert softmax.LARGEST == 20_000_000
    X = np.eye(3)[:, :2]
    monkeypatch.setattr(softmax, "LARGEST", 3 * 3 * 2 * 4)  # samples × (classes − 1) × inputs × classes
    assert softmax._differences(X, np.array([0, 1, 2]), 4).shape == (9, 8)
    monkeypatch.setattr(softmax, "LARGEST", 3 * 3 * 2 * 4 - 1)
    with pytest.raises(ValueError, match="too many"):
        softmax._differences(X, np.array([0, 1, 2]), 4)


def test_the_hessian_of_a_certain_sample_keeps_its_digits():
    """`p(1 − p)(v_k − v_y)(e_k − e_y)` with p = e^{−40}: moves are measured from the right class."""
    f = lf.SoftmaxLoss(np.eye(2), [0, 1])
    p = math.exp(-40) / (1 + math.exp(-40))
    found = f.hessian_product(40 * np.eye(2), np.array([[3.0, 5.0], [7.0, 0.5]]))
    np.testing.assert_allclose(found, p * np.array([[-2.0, 2.0], [6.5, -6.5]]), rtol=1e-14)


def test_coordinates_that_are_seen_of_three_layers(data):
    X, labels = data
    f = lf.SoftmaxLoss(X, labels)
    net = lf.init.gaussian((3, 5, 4, 3), rng=1)
    seen, inner = f.effective(net)
    assert inner.widths == (3, 5, 4, 2) and seen.value(inner.product()) == pytest.approx(f.value(net.product()))
    np.testing.assert_array_equal(inner.weights[1], net.weights[1])
    np.testing.assert_allclose(inner.weights[2], net.weights[2] @ f.column_space, rtol=1e-14)
