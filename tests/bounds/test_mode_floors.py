"""Floors of every mode of the product: T is never below them, and chains and balanced weights attain them."""

import math

import mpmath
import numpy as np
import pytest

import linflow as lf
from linflow.bounds import _base
from tests.random_networks import FAMILIES, draw_weights
from tests.reference import algebra
from tests.reference.intervals import chain

ROUNDED = 1e-12
"""T computed, relative to the product of the squares of the layers: a few hundred ε."""


def excess(net):
    """The least eigenvalue of T less the floors in the singular basis of W, and the floors."""
    n, m = net.shape
    Ds = [np.linalg.eigvalsh(np.asarray(D))[::-1] for D in lf.imbalance_matrices(net)]
    off = 1e-13 * max(algebra.spectral_norm(W) ** 2 for W in net.weights)
    Ds = [np.concatenate([D[:1] + off, D[1:-1], D[-1:] - off]) if len(D) > 1 else D for D in Ds]
    U, sigmas, Vt = np.linalg.svd(net.product())
    low = np.maximum(sigmas - 1e-13 * math.prod(algebra.spectral_norm(W) for W in net.weights), 0.0)
    floors = lf.bounds.mode_floors(Ds, n, m, low)
    operator = lf.TangentOperator(net)
    rows = [operator.apply(np.outer(U[:, i], Vt[j])) for i in range(n) for j in range(m)]
    T = np.array([[float(U[:, i] @ row @ Vt[j]) for i in range(n) for j in range(m)] for row in rows])
    return float(np.linalg.eigvalsh((T + T.T) / 2 - np.diag(floors.ravel()))[0]), floors, T


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "widths", [(2, 2, 2), (3, 3, 3, 3), (2, 4, 5, 2), (3, 3, 4, 2), (2, 3, 3, 4), (2, 3, 2, 3, 2)]
)
def test_t_is_never_below_the_floors(family, widths):
    for seed in range(4):
        net = lf.Network(draw_weights(widths, family, seed))
        if min(len(np.asarray(D)) for D in lf.imbalance_matrices(net)) < 2:
            continue
        least, _, _ = excess(net)
        size = max(algebra.spectral_norm(W) ** 2 for W in net.weights) ** (net.depth - 1)
        assert least >= -ROUNDED * size


def test_balanced_weights_attain_them(rng):
    for widths in ((3, 3, 3), (2, 4, 3, 2), (3, 4, 4, 2), (2, 3, 3, 3, 4)):
        least, floors, T = excess(lf.init.balanced(widths, rng=rng))
        n, m = widths[0], widths[-1]
        if n == m:
            np.testing.assert_allclose(floors.ravel(), np.diag(T), rtol=1e-4)  # D is rounding, and a floor its root
        assert abs(least) < 1e-4


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 3), (3, 2)])
def test_they_are_sums_of_chains_as_written(rng, n, m):
    Ds = [np.sort(rng.standard_normal(3))[::-1] for _ in range(3)]
    sigmas, a, b = np.sort(rng.uniform(0.1, 2, min(n, m)))[::-1], [D[0] for D in Ds], [D[-1] for D in Ds]
    floors = lf.bounds.mode_floors(Ds, n, m, sigmas)
    assert floors.shape == (n, m)
    for i in range(n):
        for j in range(m):
            left = chain(b, sigmas[i]) if i < len(sigmas) else None
            right = chain(a, sigmas[j]) if j < len(sigmas) else None
            first, last = (1, 1) if n > m else (4, 4) if n < m else (1, 4)
            literal = sum(
                (mpmath.fprod(left[: l - 1]) if l > 1 else 1) * (mpmath.fprod(right[l:]) if l < 4 else 1)
                for l in range(first, last + 1)
            )
            assert floors[i, j] == pytest.approx(float(literal), rel=1e-11, abs=0)
            assert floors[i, j] <= literal


def test_imbalances_are_widened_by_their_rounding(monkeypatch):
    """By 16ε of the imbalances and of layers of ‖W‖, and the chains by their own 8ε."""
    eps, Ds, sigmas = 2.0**-12, [np.array([1.0, -0.5]), np.array([0.75, 0.25])], [3.0, 0.5]
    monkeypatch.setattr(_base, "EPS", eps)
    off = 16 * eps * (1 + 0.75 + 3 ** (2 / 3))
    b, a = [-0.5 - off, 0.25 - off], [1 + off, 0.75 + off]
    floors = lf.bounds.mode_floors(Ds, 2, 2, sigmas)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = chain(b, sigmas[i]), chain(a, sigmas[j])
        assert floors[i, j] == pytest.approx(float(y[1] * y[2] + x[0] * y[2] + x[0] * x[1]), rel=1e-11, abs=0)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="3 finite numbers"):
        lf.bounds.mode_floors([np.eye(3)], 3, 3, [3.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="a layer of width 1 is narrower"):
        lf.bounds.mode_floors([np.eye(1), np.eye(2)], 2, 2, [1.0, 0.5])
    for sigmas in (1.0, [1.0], [1.0, 2.0], [1.0, -1.0], [math.inf, 1.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="2 finite numbers σ_1 ≥ … ≥ σ_2 ≥ 0 are needed"):
            lf.bounds.mode_floors([np.eye(2)], 2, 2, sigmas)
    with pytest.raises(ValueError, match="a layer of width 1 is narrower"):
        lf.bounds.mode_floors([np.eye(1)], 2, 2, [1.0, 0.5])
