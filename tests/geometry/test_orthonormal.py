"""Orthonormal bases by products of matrices are those of reflections, and these take over where they must."""

import numpy as np
import pytest

from linflow.geometry import _orthonormal
from linflow.geometry._orthonormal import CONDITION, LARGE, TALL, tall_qr

EPS = 2.0**-52


def conditioned(rng, rows: int, columns: int, condition: float) -> np.ndarray:
    U, V = (np.linalg.qr(rng.standard_normal((side, columns)))[0] for side in (rows, columns))
    return (U * np.geomspace(1.0, 1.0 / condition, columns)) @ V.T


@pytest.mark.parametrize("shape", [(3, 1), (600, 25), (1000, 50), (60, 25), (5, 5)])
@pytest.mark.parametrize("condition", [1.0, 5.0, 30.0, 1e3, 1e9, 1e14])
@pytest.mark.parametrize("size", [1.0, 1e-120, 1e120])
def test_bases_are_orthonormal_and_the_product_is_the_matrix(shape, condition, size):
    rng = np.random.default_rng(3)
    B = size * conditioned(rng, shape[0], shape[1], condition)
    Q, R = tall_qr(B)
    # Some roundings for each column: both are matrix products of side k, measured in Frobenius norm.
    assert np.linalg.norm(Q.T @ Q - np.eye(shape[1])) <= 20 * EPS * shape[1]
    assert np.linalg.norm(B / size - Q @ (R / size)) <= 20 * EPS * shape[1] * np.linalg.norm(B / size)
    assert np.all(np.tril(R, -1) == 0)
    assert Q.flags.c_contiguous and Q.shape == shape


def test_reflections_take_over_where_columns_are_nearly_dependent(monkeypatch):
    rng = np.random.default_rng(4)
    rows, columns = 1000, 20
    good, poor = (conditioned(rng, rows, columns, condition) for condition in (4.0, 1e3))
    asked = []
    real = np.linalg.qr
    monkeypatch.setattr(_orthonormal.np.linalg, "qr", lambda B: asked.append(B.shape) or real(B))
    tall_qr(good)
    assert asked == [] and rows * columns**2 >= LARGE
    values = np.geomspace(1.0, 1e-3, columns)
    assert np.linalg.norm(values) * np.linalg.norm(1 / values) > CONDITION * columns
    for bad in (
        poor,
        good @ np.diag([1.0] * (columns - 1) + [0.0]),
        np.zeros((rows, columns)),
        np.ones((TALL * 100 - 1, 100)) + 100 * np.eye(TALL * 100 - 1)[:, :100],
        good[: LARGE // columns**2 - 1],
    ):
        asked.clear()
        Q, _ = tall_qr(bad)
        assert asked == [bad.shape]
        assert np.linalg.norm(Q.T @ Q - np.eye(bad.shape[1])) <= 20 * EPS * bad.shape[1]
