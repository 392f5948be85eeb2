"""Losses of separable data: formulas and allowances by hand, under a coarse unit where rounding is allowed for."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow.model import classification
from linflow.model.classification import ExponentialLoss, LogisticLoss, _labels, hard_margin

EPS = float(np.finfo(float).eps)
COARSE = 2.0**-10
X = np.array([[3.0, 4.0], [0.5, 1.2], [-5.0, -12.0]])  # of lengths 5, 1.3 and 13
LABELS = np.array([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])


def near(x, rel=1e-13):  # a few sums and products
    return pytest.approx(x, rel=rel, abs=0)


@pytest.fixture(params=[ExponentialLoss, LogisticLoss])
def f(request):
    return request.param(X, LABELS)


def slopes(f, z):
    """`|φ'|` and `φ''`."""
    if isinstance(f, ExponentialLoss):
        return math.exp(-z), math.exp(-z)
    return 1 / (1 + math.exp(z)), math.exp(z) / (1 + math.exp(z)) ** 2


def test_what_is_read_off_the_inputs(f):
    assert list(f._lengths[:, 0]) == near([5.0, 1.3, 13.0]) and f._longest == near(13.0)
    top = np.linalg.norm(X, 2)
    assert f._cut == near(3 * EPS * top)  # three samples of two features
    assert f.row_space is None  # both directions are seen
    assert f.smoothness == (math.inf if isinstance(f, ExponentialLoss) else near(0.25 * top**2))


def test_roundings_follow_the_slopes_and_the_lengths(f, rng):
    net = lf.Network([rng.standard_normal((2, 3)), rng.standard_normal((3, 2))], 0.4)
    Z = LABELS * (X @ net.product())
    magnitude = 0.4 * np.prod([np.linalg.norm(W) for W in net.weights])
    moved, bent = 0.0, 0.0
    for i, j in np.ndindex(3, 2):
        first, second = slopes(f, Z[i, j])
        length = np.linalg.norm(X[i])
        moved += first * length
        bent += second * length**2
    assert f.rounding(net) == near(8 * EPS * f.value(net.product()) + 4 * EPS * magnitude * moved, rel=1e-12)
    assert f.gradient_rounding(net) == near(4 * EPS * (moved + bent * magnitude), rel=1e-12)


def test_a_batch_counts_for_all_samples(f, rng):
    W, rows = rng.standard_normal((2, 2)), np.array([2, 0])
    expected = np.zeros((2, 2))
    for i in rows:
        for j in range(2):
            first, _ = slopes(f, LABELS[i, j] * (X[i] @ W[:, j]))
            expected[:, j] -= 3 / 2 * first * LABELS[i, j] * X[i]
    np.testing.assert_allclose(f.batch_gradient(W, rows), expected, rtol=1e-12)


def test_margins_of_outputs_are_put_together_with_their_rounding(f, monkeypatch):
    monkeypatch.setattr(classification, "UP", 1.25)
    u = np.array([1.0, 0.0])
    f._measure([(1.0, 2.0, u), (3.0, 4.0, -u)])
    assert f.hard_margin == near((1 + 1 / 9) ** -0.5 / 1.25)
    assert f.margin_gap == near((1 / 4 + 1 / 16) ** -0.5 * 1.25 - f.hard_margin)
    assert list(f.margins) == [1.0, 3.0] and np.array_equal(f.direction, [[1.0, -1.0], [0.0, 0.0]])
    f._measure([(1e-110, 1e-109, u)])
    with pytest.raises(ValueError, match="leaves float64 when squared"):
        f._measure([(1e-170, 1e-169, u)])
    with pytest.raises(ValueError, match="column 1 of y"):
        f._measure([(1.0, 2.0, u), (0.0, 1e-3, u)])


def test_what_does_not_fit_into_float64_is_scaled_or_clipped(f, monkeypatch):
    largest = float(np.finfo(float).max)
    assert list(f._scaled(np.array([2.0, -3.0]), 1.0)) == near([2 * math.e, -3 * math.e])
    assert f._sum(np.array([1.0, 2.0]), 1.0) == near(3 * math.e) and f._sum(np.ones(1), 710.0) == math.inf
    monkeypatch.setattr(classification, "UP", 1.25)
    assert list(f._scaled(np.array([1e300, -1e300, 0.0]), 600.0)) == near([largest / 1.25, -largest / 1.25, 0.0])


def test_the_numerical_rank_takes_its_part_of_the_margin(f):
    f.row_space, f._cut = np.array([[0.6], [0.8]]), 0.125
    net = lf.Network([np.ones((2, 3)), np.ones((3, 2))])
    seen, restricted = f.effective(net)
    assert (seen.hard_margin, seen.margin_gap) == (f.hard_margin - 0.125, f.margin_gap + 0.125)
    assert np.array_equal(seen.margins, f.margins - 0.125) and seen.shape == (1, 2) and restricted.widths == (1, 3, 2)
    np.testing.assert_allclose(seen._X, X @ f.row_space)
    f._cut = 1.001 * f.hard_margin
    assert f.effective(net) == (f, net)


def test_exponentials_are_scaled_from_600_on():
    f = ExponentialLoss(X, LABELS)
    for top, s in ((5.0, 0.0), (600.0, 0.0), (600.5, 600.5), (700.0, 700.0), (-3.0, 0.0)):
        Z = np.array([[-top, 2.0 - top]])
        A, scale = f._derivative(Z, 1)
        assert scale == s and list(A[0]) == near([math.exp(top - s), math.exp(top - 2.0 - s)])


@pytest.mark.parametrize(("y", "shown"), [([0, 1, 2, 3], "0, 1, 2, 3;"), ([0, 1, 2, 3, 4], "0, 1, 2, 3, …;")])
def test_wrong_labels_are_shown_up_to_four(y, shown):
    with pytest.raises(ValueError, match=f"y holds the values {shown}"):
        _labels(y, np.ones((len(y), 1)))


def test_bounds_of_the_margin_allow_for_rounding(monkeypatch):
    monkeypatch.setattr(classification, "EPS", COARSE)
    Z = np.array([[-4.0, 3.0], [-8.0, 6.0], [-80.0, 60.0]])  # of lengths 5, 10 and 100, in one direction
    lower, upper, u = hard_margin(Z)
    assert list(u) == near([-0.8, 0.6])
    assert lower == near((5 - (2 + 8) * COARSE * 5) * (1 - 4 * COARSE))
    assert upper == near(5 + (2 + 1 + 8) * COARSE * 100)
    assert hard_margin(np.zeros((2, 3)))[:2] == (0.0, 0.0)


def test_the_margin_is_computed_anew_from_its_support(monkeypatch):
    """The nearest point of the hull is (1, 0), one third of the way; the solver is off, and its support is right."""
    import scipy.optimize

    monkeypatch.setattr(scipy.optimize, "nnls", lambda A, b: (np.array([0.9, 0.1]), 0.0))
    Z = np.array([[1.0, 0.1], [1.0, -0.2]])
    lower, upper, u = hard_margin(Z)
    assert lower == near(1.0) and upper == near(1.0) and list(u) == pytest.approx([1.0, 0.0], abs=1e-14)
    monkeypatch.setattr(classification, "EPS", COARSE)
    upper = hard_margin(Z)[1]
    assert upper == near(1 + (2 + 2 + 8) * COARSE * math.sqrt(1.04)) or upper == near(math.sqrt(1.04))
