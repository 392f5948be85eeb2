"""First roots of polynomials of degree 7 from their values at the nodes of a step."""

import numpy as np
import pytest

from linflow.relu.roots import NODES, TOGETHER, first_roots, interpolation


def test_the_polynomial_through_the_nodes_is_exact_to_degree_7(rng):
    c, theta = rng.standard_normal(8), np.append(np.linspace(0, 1, 30), NODES)
    # values of size 10, and weights of at most 8
    assert np.abs(interpolation(theta) @ np.polyval(c, NODES) - np.polyval(c, theta)).max() < 1e-13


@pytest.mark.parametrize("root", [1e-7, 0.0155, 0.25, 0.5000000001, 0.9999])
def test_the_first_root_is_found_to_rounding(root):
    values = (root - NODES) * (1 + NODES**2) * (2 - NODES)
    assert first_roots(values[:, None])[0] == pytest.approx(root, rel=0, abs=1e-15)
    # a double root, beyond, does not hide it
    more = values * (NODES - root - 0.2) ** 2 * (3 - NODES)
    assert first_roots(more[:, None])[0] == pytest.approx(root, rel=0, abs=1e-14)


def test_columns_that_stay_above_or_come_later_have_no_root():
    later, same, first = 0.9 - NODES, 0.3 + 0.5 * TOGETHER - NODES, 0.3 - NODES
    found = first_roots(np.stack([later, 1 + NODES, first, same, -1 - NODES + 1 + 2 * NODES], axis=1))
    assert np.isinf(found[[0, 1, 4]]).all() and 0 < found[3] - found[2] < TOGETHER
    assert first_roots(np.stack([first, -1 - NODES], axis=1))[1] == 0  # below 0 from the start
    assert first_roots(np.empty((8, 0))).shape == (0,)


def test_a_root_more_than_a_cell_after_the_first_is_left_for_the_next_step():
    first, next_cell, later = (k / 64 - NODES for k in (19.5, 20.5, 21.5))
    found = first_roots(np.stack([later, first, next_cell, 1 + NODES], axis=1))
    # rounding of values of size 1
    assert found[[1, 2]] == pytest.approx([19.5 / 64, 20.5 / 64], rel=0, abs=1e-15)
    assert np.isinf(found[[0, 3]]).all()
    last = first_roots(np.stack([63.5 / 64 - NODES, 1 + NODES], axis=1))
    assert last[0] == pytest.approx(63.5 / 64, rel=0, abs=1e-15) and np.isinf(last[1])
