"""The row for diagonal and circulant layers: the rate from what their chains conserve."""

import numpy as np
import pytest

import linflow as lf
from linflow.exact.chain_rate import least_slope


def row(f, net, **options):
    (found,) = [g for g in lf.certify(f, net, **options).guarantees if g.name == "diagonal or circulant layers"]
    return found


def by_sampling(sizes):
    """The least `Σ_l Π_{k≠l} (q + o_k)` over q ≥ 0 of each chain, on a grid that holds its end q = 0."""
    squares = np.abs(sizes) ** 2
    offsets, grid = squares - squares.min(axis=0), np.concatenate([[0.0], np.geomspace(1e-6, 10, 50)])
    moved = grid[:, None, None] + offsets
    return np.sum([np.prod(np.delete(moved, l, axis=1), axis=1) for l in range(len(sizes))], axis=0).min()


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_circulant_layers_with_complex_frequencies(depth, rng):
    for d in (2, 3, 6):
        f = lf.CircularRegression(rng.standard_normal((2, d)), rng.standard_normal(2))
        filters = rng.standard_normal((depth, d))
        net = lf.Network(f.start(filters).weights, scale=1.7)
        found = row(f, net)
        expected = f.pl_constant * 1.7**2 * by_sampling(np.fft.fft(filters))
        # 10⁻⁹ below for its rounding, and offsets that may be as small as 10⁻³ lose 10⁻¹² of the squares.
        assert found.rate == pytest.approx(expected, rel=1e-8, abs=1e-12) and found.rate < expected
        assert lf.gradient_flow(f, net, t_max=1.0).rate.min() >= found.rate * (1 - 1e-7)


def test_diagonal_layers_of_two_parts_and_of_one(rng):
    X, y = rng.standard_normal((2, 4)), rng.standard_normal(2)
    f = lf.DiagonalRegression(X, y)
    assert row(f, f.start(2, 0.3)).rate == pytest.approx(f.pl_constant * 2 * 0.09, rel=2e-6, abs=0)
    one = lf.DiagonalRegression(X, y, signed=False)
    net = lf.Network([np.diag([1.0, -2, 3, 2]), np.diag([0.5, 1, 1, -1])], scale=0.5)
    assert row(one, net).rate == pytest.approx(one.pl_constant * 0.25 * 0.75, rel=1e-8, abs=0)
    rates = row(one, net, layer_rates=(4.0, 1.0))  # of the layers W/√ρ, with the output scale 0.5·2
    squares = np.array([1.0, 4, 9, 4]) / 4, np.array([0.25, 1, 1, 1])
    assert rates.rate == pytest.approx(one.pl_constant * np.abs(squares[0] - squares[1]).min(), rel=1e-6, abs=1e-9)
    assert f.citations < set(row(f, f.start(2, 0.3)).citations)


def test_it_keeps_its_word_along_runs(rng):
    for _ in range(5):
        f = lf.DiagonalRegression(rng.standard_normal((3, 4)), rng.standard_normal(3))
        net = f.start(3, rng.uniform(0.3, 1.0, 8))
        cert = lf.certify(f, net)
        assert cert.best is not None and cert.best.name == "diagonal or circulant layers"
        assert cert.check(lf.gradient_flow(f, net)).holds


def test_equal_power_at_a_frequency_is_rounding_not_a_rate(rng):
    """A filter and its mirror image have the same power; computed spectra differ in their last digits."""
    filters = rng.standard_normal((200, 12))
    spectra = np.abs(np.fft.fft(np.stack([filters, filters[:, -np.arange(12)]], axis=1)))
    unequal = [pair[:, [j]] for pair in spectra for j in range(12) if pair[0, j] != pair[1, j]]
    assert len(unequal) > 100  # else this tests nothing
    assert all(least_slope(pair, opposite=False) == 0 for pair in unequal)
    f = lf.CircularRegression([np.arange(12.0)], [1.0])
    found = row(f, f.start([filters[0], filters[0, -np.arange(12)]]))
    assert not found.applies and found.reason.startswith("a chain has T = 0")


def test_the_allowance_grows_with_the_length_of_the_transform():
    eps = np.finfo(float).eps
    sizes = np.ones((2, 16))
    sizes[0] += 2.0**-40  # o = 2⁻³⁹ is below the allowance 64 ε (1 + 4) · 32 = 2.3e-12
    assert 64 * eps * 5 * np.sum(sizes**2) > 2.0**-39 and least_slope(sizes, opposite=False) == 0
    sizes[0] += 2.0**-38
    more = 2.0**-40 + 2.0**-38
    expected = (more * (2 + more) - 64 * eps * 5 * np.sum(sizes**2)) * (1 - 1e-9)
    assert least_slope(sizes, opposite=False) == pytest.approx(expected, rel=1e-12, abs=0)


def test_only_exact_layers_have_it(rng):
    f = lf.CircularRegression(rng.standard_normal((1, 3)), [1.0])
    net = f.start(rng.standard_normal((2, 3)))
    off = net.weights[1].copy()
    off[2, 1] = np.nextafter(off[2, 1], 9)
    found = row(f, [net.weights[0], off])
    assert not found.applies and "W_2 is not exactly circulant: an entry is" in found.reason
    f = lf.DiagonalRegression(np.eye(2), [1.0, 2.0])
    found = row(f, lf.init.ntk((4, 5, 4), rng=0))
    assert found.reason == "W_1 is not exactly diagonal; start() makes layers that are"


def test_other_objectives_have_no_such_row():
    names = [g.name for g in lf.certify(lf.MatrixFactorization(np.eye(2)), lf.init.ntk((2, 4, 2), rng=0)).guarantees]
    assert "diagonal or circulant layers" not in names
