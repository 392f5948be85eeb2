"""The search for the least `λ_min(T)` written out: what is kept of runs of which everything is given."""

import math
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow._support.arrays import EPS
from linflow.bounds._weight_search import WeightSearch
from linflow.geometry.operator import tangent_rounding

optimum = import_module("linflow.bounds.optimum")  # the package has a function of that name
NET = lf.Network([np.diag([2.0, 1.0]), np.diag([1.0, 1.5])], 0.5)
LEAST = min(4 + 1, 4 + 2.25, 1 + 1, 1 + 2.25)  # of T without its scale: w_1² + w_2² over all pairs
MOST = 6.25


def runs(monkeypatch, *found, sensitivity=0.0, violation=0.0, polished=None, net=NET):
    """Search with runs of given values and weights, one for each start."""
    asked = []

    class Search:
        def __init__(self, weights, *, product):
            self.product, self.size = product, MOST
            real = WeightSearch(weights, product=product)
            self.imbalance_units, self.product_unit = real.imbalance_units, real.product_unit

        def starts(self, rng):
            asked.append(rng)
            yield from range(len(found))

        def descend(self, start, steps):
            asked.append((start, steps))
            return found[start] if not isinstance(start, tuple) else start[1]

        def vector(self, weights):
            return next(("again", run.again) for run in found if run is not None and run.weights is weights)

        def polished(self, weights):
            return weights if polished is None else polished

        def violation(self, weights):
            return violation(weights) if callable(violation) else violation

        def sensitivity(self, weights):
            return sensitivity

    monkeypatch.setattr(optimum, "WeightSearch", Search)
    return optimum.optimum(net, starts=len(found)), asked


def run(value, weights=None, converged=True, again=None):
    weights = [np.diag([0.9, 0.8]), np.diag([0.5, 0.6])] if weights is None else weights
    return SimpleNamespace(value=value, weights=weights, converged=converged, again=again)


OF_RUN = min(0.81 + 0.25, 0.81 + 0.36, 0.64 + 0.25, 0.64 + 0.36)


def test_the_weights_given_are_kept_where_no_run_is_lower(monkeypatch):
    rounding = tangent_rounding(lf.Network(NET.weights))
    for value in (LEAST / MOST, 0.9):
        found, asked = runs(monkeypatch, run(value), run(0.95))
        assert found.value == pytest.approx(0.25 * (LEAST + rounding), rel=1e-14)
        assert found.rounding == pytest.approx(0.25 * rounding, rel=1e-12, abs=0) and found.residual == 0.0
        assert found.starts == 2 and all(
            np.array_equal(a, b) for a, b in zip(found.network.weights, NET.weights, strict=True)
        )
    assert [x for x in asked if isinstance(x, tuple)] == [(0, 60), (1, 60)]
    # A run at the value of the weights given, to 10⁻⁷ of it, is a hit; one is the least.
    level = LEAST / MOST
    found, _ = runs(monkeypatch, run(level), run(level * (1 + 0.9e-7)), run(level * (1 + 1.2e-7), converged=False))
    assert found.hits == 2 and found.converged
    assert runs(monkeypatch, run(0.9))[0].hits == 1 and not runs(monkeypatch, run(0.9))[0].converged


def test_the_least_value_and_its_rounding_are_kept(monkeypatch):
    """Whatever a run says of itself: `λ_min(T)` of its weights brought onto the constraints, and what may be off."""
    other = [np.diag([0.9, 0.8]), np.diag([0.4, 0.6])]
    for sensitivity in (0.0, 1e-3, 0.5):
        found, _ = runs(monkeypatch, run(0.1), run(0.12, other), sensitivity=sensitivity)
        off = tangent_rounding(lf.Network(other)) + sensitivity
        assert found.value == pytest.approx(0.25 * (0.64 + 0.16 + off), rel=1e-12)
        assert found.rounding == pytest.approx(0.25 * off, rel=1e-9, abs=0)
        assert np.array_equal(found.network.weights[1], other[1]) and found.network.scale == 0.5
    # Off the constraints by more than rounding nothing counts.
    for violation, kept in ((0.9e-14, True), (1.1e-14, False)):
        found, _ = runs(monkeypatch, run(0.1), violation=violation)
        assert (found.residual > 0) is kept
    # So much rounding that the weights given are lower.
    found, _ = runs(monkeypatch, run(0.1), sensitivity=2.0)
    assert found.residual == 0.0


def test_the_residual_is_relative_to_the_sizes_of_the_layers(monkeypatch):
    found, _ = runs(monkeypatch, run(0.1))
    W = [np.diag([0.9, 0.8]), np.diag([0.5, 0.6])]
    sizes = [math.sqrt(5), math.sqrt(3.25)]
    D = np.linalg.norm((W[0] @ W[0] - W[1] @ W[1]) - np.diag([3.0, 1 - 2.25])) / max(sizes) ** 2
    P = np.linalg.norm(W[0] @ W[1] - np.diag([2.0, 1.5])) / math.prod(sizes)
    assert found.residual == pytest.approx(max(D, P), rel=1e-12)


def test_the_best_few_runs_go_on_until_they_converge(monkeypatch):
    later = run(0.05)
    started = [
        run(0.1 + k / 100, [np.eye(2) * (1 + k), np.eye(2)], k == 1, later if k == 2 else None) for k in range(6)
    ]
    found, asked = runs(monkeypatch, *started, None)
    again = [x for x in asked if isinstance(x, tuple) and isinstance(x[0], tuple)]
    assert [steps for _, steps in again] == [300] * 3  # of the best four, the three that had not
    assert found.value == pytest.approx(0.25 * OF_RUN, rel=1e-9) and found.converged and found.starts == 7


def test_a_level_is_met_to_rounding(monkeypatch):
    tiny = [np.diag([1e-9, 1.0]), np.diag([1e-9, 1.0])]
    level = 0.1
    for off, hits in ((level * 0.9e-7, 2), (level * 1.2e-7, 1)):
        found, _ = runs(monkeypatch, run(level, tiny), run(level + off, tiny))
        assert found.hits == hits
    found, _ = runs(monkeypatch, run(0.0, tiny), run(15 * EPS, tiny), run(17 * EPS, tiny))
    assert found.hits == 2


def test_a_lower_run_that_leaves_the_constraints_is_no_hit(monkeypatch):
    wrong = [np.diag([0.1, 0.1]), np.diag([0.1, 0.1])]
    found, _ = runs(monkeypatch, run(0.05, wrong), run(0.1), violation=lambda weights: float(weights is wrong))
    assert found.hits == 1 and found.value == pytest.approx(0.25 * OF_RUN, rel=1e-9)


def test_a_least_eigenvalue_below_1_is_kept_as_it_is(monkeypatch):
    little = lf.Network([np.diag([0.2, 0.1]), np.diag([0.1, 0.3])], 0.5)
    found, _ = runs(monkeypatch, run(0.99), net=little)
    assert found.value == pytest.approx(0.25 * (0.01 + 0.01), rel=1e-10)


def test_where_rounding_leaves_nothing_of_the_least_eigenvalue_it_is_told(monkeypatch):
    monkeypatch.setattr(optimum, "positive_least", lambda values: 0)
    found = optimum.optimum(NET, starts=9)
    rounding = tangent_rounding(NET)
    assert found.value == pytest.approx(0.25 * LEAST + rounding, rel=1e-14)
    assert (found.rounding, found.residual, found.starts) == (rounding, 0.0, 1)


def test_one_layer_and_singular_operators_need_no_search():
    found = optimum.optimum(lf.Network([np.eye(2, 3)], 0.5), starts=9)
    assert (found.value, found.residual, found.starts, found.hits, found.converged) == (0.25, 0.0, 1, 1, True)
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 2))], 0.5)
    found = optimum.optimum(narrow, starts=9)
    assert (found.value, found.rounding, found.starts, found.hits, found.converged) == (0.0, 0.0, 1, 1, True)
    zero = lf.Network([np.diag([1.0, 0.0]), np.diag([1.0, 0.0])], 0.5)
    found = optimum.optimum(zero, starts=9)
    assert found.value == found.rounding == tangent_rounding(zero) > 0


def test_at_most_300_unknowns_are_taken(monkeypatch):
    fits = lf.Network([np.ones((10, 10)), np.ones((10, 10))])  # 200 weights and 100 entries of E
    assert optimum.optimum(fits, starts=1).starts == 1
    with pytest.raises(ValueError, match="makes 320 unknowns"):
        optimum.optimum(lf.Network([np.ones((10, 11)), np.ones((11, 10))]), starts=1)
    monkeypatch.setattr(optimum, "WeightSearch", None)
    with pytest.raises(ValueError, match="makes 301 unknowns"):  # 1 + 150 weights and 150 entries of E
        optimum.optimum(lf.Network([np.ones((1, 1)), np.ones((1, 150))]), starts=1)
    with pytest.raises(TypeError, match="not callable"):  # 299 of them are searched
        optimum.optimum(lf.Network([np.ones((1, 1)), np.ones((1, 149))]), starts=1)
    monkeypatch.undo()
    # A layer wider than its neighbours together is cut first.
    assert optimum.optimum(lf.Network([np.ones((1, 400)), np.ones((400, 1))]), starts=1).starts == 1


def test_a_value_that_rounding_decides_says_so():
    made = optimum.Optimum(1.0, 1e-12, NET, 4, 2, True, 0.0099)
    assert "decided by rounding" not in repr(made)
    assert "decided by rounding (of 0.01)" in repr(optimum.Optimum(1.0, 1e-12, NET, 4, 2, True, 0.01))
