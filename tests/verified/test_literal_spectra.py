"""Bounds of eigenvalues and singular values written out, under a roundoff so coarse that every allowance shows."""

import numpy as np
import pytest

from linflow.verified import spectra
from tests.verified.test_literal_path import coarse, drawn, fro, g, near, tiny, u, up

__all__ = ["coarse"]


def of_eigenvalues(A, error=0.0):
    """φ and ε of docs/verified.md, section 10, with all allowances; the bounds."""
    n = len(A)
    values, P = np.linalg.eigh(A)
    size = fro(P)
    phi = (fro(P.T @ P - np.eye(n)) + g(n) * size**2 + u * (size**2 + n)) * up
    image = fro(A @ P)
    epsilon = fro(P.T @ (A @ P) - np.diag(values))
    epsilon += g(n) * (fro(A) * size * (1 + phi) + size * image) + 2 * u * (size * image + fro(A))
    bounds = []
    for x in sorted(values, reverse=True):
        off = ((epsilon + abs(x) * phi) / (1 - phi) + error) * up * up + 4 * u * abs(x) + tiny
        bounds.append((x - off, x + off))
    low, high = (list(x) for x in zip(*bounds, strict=True))
    # A lower bound of a later eigenvalue also holds for an earlier one, and an upper bound the other way round.
    return [max(low[k:]) for k in range(n)], [min(high[: k + 1]) for k in range(n)]


def symmetric(n, seed=0):
    A = drawn(n, n, seed=seed)
    return A + A.T


@pytest.mark.parametrize(("n", "error"), [(1, 0.0), (2, 0.25), (3, 0.0), (5, 1e-3)])
def test_eigenvalues(coarse, n, error):
    A = symmetric(n)
    low, high = spectra.eigenvalue_bounds(A, error)
    literal = of_eigenvalues(A, error)
    assert list(low) == near(literal[0]) and list(high) == near(literal[1])


def test_bounds_of_near_eigenvalues_stay_in_order(coarse, monkeypatch):
    """With values that are wrong by more than the bounds of others, the best of each side counts."""
    P = np.linalg.qr(drawn(3, 3))[0]
    monkeypatch.setattr(np.linalg, "eigh", lambda A: (np.array([0.0, 100.0, 1.0]), P))
    low, high = spectra.eigenvalue_bounds(np.diag([0.0, 1.0, 1.0]))
    literal = of_eigenvalues(np.diag([0.0, 1.0, 1.0]))
    assert list(low) == near(literal[0]) and list(high) == near(literal[1])


@pytest.mark.parametrize(("spread", "wide"), [(0.3, False), (0.52, True), (0.8, True)])
def test_a_basis_that_is_far_from_orthonormal_proves_the_norm_alone(coarse, monkeypatch, spread, wide):
    A = symmetric(2)
    values, P = np.linalg.eigh(A)
    monkeypatch.setattr(np.linalg, "eigh", lambda A: (values, P @ np.diag([np.sqrt(1 + spread), 1.0])))
    low, high = spectra.eigenvalue_bounds(A, 0.5)
    everything = (fro(A) + 0.5) * up
    if wide:
        assert list(low) == near([-everything] * 2) and list(high) == near([everything] * 2)
    else:
        literal = of_eigenvalues(A, 0.5)
        assert list(low) == near(literal[0]) and list(high) == near(literal[1])


@pytest.mark.parametrize(("shape", "error"), [((3, 3), 0.0), ((4, 2), 0.125), ((2, 5), 0.0), ((1, 3), 1e-3)])
def test_singular_values(coarse, shape, error):
    W, k = drawn(*shape), min(shape)
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    scaled = U * s
    tilts = [
        fro(gram - np.eye(k)) + g(max(shape) + 1) * fro(basis) ** 2 + u * (fro(basis) ** 2 + k)
        for gram, basis in ((U.T @ U, U), (Vt @ Vt.T, Vt))
    ]
    rest = fro(W - scaled @ Vt) + g(k + 2) * fro(scaled) * fro(Vt) + 2 * u * fro(W)
    off = (rest + s[0] * (tilts[0] + tilts[1] + tilts[0] * tilts[1]) + error) * up + 4 * u * s[0] + tiny
    low, high = spectra.singular_value_bounds(W, error)
    assert list(low) == near([max(x - off, 0.0) for x in s])
    assert list(high) == near([min(x + off, (fro(W) + error) * up) for x in s])


def test_singular_values_are_never_below_zero_whatever_the_decomposition(monkeypatch):
    W = drawn(3, 2)
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    monkeypatch.setattr(np.linalg, "svd", lambda W, full_matrices: (-U, -s, Vt))
    low, high = spectra.singular_value_bounds(W)
    assert (low >= 0).all() and (low <= s).all() and (s <= high).all()


@pytest.mark.parametrize("shape", [(2, 3, 2), (1, 2, 1), (3, 4, 1), (1, 4, 3)])
def test_imbalances_of_narrow_hidden_layers(coarse, shape):
    n, h, m = shape
    before, after = drawn(n, h), drawn(h, m, seed=1)
    D = before.T @ before - after @ after.T
    error = g(max(n, m) + 4) * (fro(before) ** 2 + fro(after) ** 2) * up + tiny
    low, high = spectra.imbalance_bounds(before, after)
    literal = of_eigenvalues((D + D.T) / 2, error)
    assert list(low) == near(literal[0]) and list(high) == near(literal[1])


def of_a_wide_layer(before, after):
    n, h, m = *before.shape, after.shape[1]
    B = np.concatenate([before.T, after], axis=1)
    Q, R = np.linalg.qr(B)
    k = Q.shape[1]
    phi = fro(Q.T @ Q - np.eye(k)) + g(h + 2) * fro(Q) ** 2
    off = fro(B - Q @ R) + g(k + 2) * fro(Q) * fro(R) + phi * fro(R)
    D = R @ np.diag([1.0] * n + [-1.0] * m) @ R.T
    # `spectral` is tested alone, with its own allowances.
    error = (2 * spectra.spectral(R) * off + off**2 + g(k + 4) * fro(R) ** 2) * up * up + tiny
    return phi, (D + D.T) / 2, error


@pytest.mark.parametrize("shape", [(1, 5, 2), (2, 9, 1)])
def test_imbalances_of_wide_hidden_layers(coarse, shape):
    n, h, m = shape
    before, after = drawn(n, h), drawn(h, m, seed=1)
    phi, D, error = of_a_wide_layer(before, after)
    assert phi < 0.5
    low, high = spectra.imbalance_bounds(before, after)
    literal = of_eigenvalues(D, error)
    zeros = [0.0] * (h - n - m)
    assert list(low) == near(sorted([*literal[0], *zeros], reverse=True))
    assert list(high) == near(sorted([*literal[1], *zeros], reverse=True))


@pytest.mark.parametrize(("spread", "known"), [(0.3, True), (0.52, False), (0.8, False)])
def test_a_factor_that_is_far_from_orthonormal_proves_nothing(coarse, monkeypatch, spread, known):
    before, after = drawn(1, 4), drawn(4, 1, seed=1)
    qr = np.linalg.qr

    def stretched(B):
        Q, R = qr(B)
        return Q @ np.diag([np.sqrt(1 + spread), 1.0]), np.diag([1 / np.sqrt(1 + spread), 1.0]) @ R

    monkeypatch.setattr(np.linalg, "qr", stretched)
    low, high = spectra.imbalance_bounds(before, after)
    assert np.isfinite(low).all() == np.isfinite(high).all() == known
