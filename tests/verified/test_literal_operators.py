"""The errors of sensing and completion in a verified run, number by number, with a coarse unit of rounding."""

from dataclasses import replace

import numpy as np
import pytest

import linflow as lf
from linflow.verified import operators
from linflow.verified.operators import MaskedGradient, OperatorGradient
from linflow.verified.rounding import frobenius


def test_gap_and_gradient_carry_the_rounding_of_the_way_and_the_residue(rng, monkeypatch):
    monkeypatch.setattr(operators, "U", 1e-3)
    monkeypatch.setattr(operators, "UP", 1.25)
    sensing = lf.Sensing(rng.standard_normal((4, 3, 2)), rng.standard_normal(4))
    for f in (sensing, lf.Completion([[1.0, np.nan], [2.0, 0.5], [3.0, 1.0]])):
        problem = OperatorGradient.over(f, np.zeros((3, 2)))
        affine = replace(problem.affine, residue=0.5)
        problem = replace(problem, affine=affine)
        W = rng.standard_normal((3, 2))
        away = W.reshape(6, 1) - f.minimizer.reshape(6, 1)
        length = float(frobenius(away))
        assert problem.gap(W, 0.1) == affine.gap(away, (0.1 + 1e-3 * length) * 1.25)
        G, error = problem.gradient(W, 0.1)
        assert np.array_equal(G, affine.apply(away).reshape(3, 2))
        expected = (affine.error_of(length, 0.1 + 1e-3 * length * 1.25) + 0.5) * 1.25
        assert error == pytest.approx(expected, rel=1e-14, abs=0)
        _, errors = problem.gradient(np.stack([W, W]), np.array([0.1, 0.1]))
        assert errors == pytest.approx(np.array([expected, expected]), rel=1e-14, abs=0)


@pytest.mark.parametrize("missing", [False, True])
def test_a_completion_is_strongly_convex_if_all_entries_are_known(missing):
    f = lf.Completion([[1.0, np.nan if missing else 2.0]])
    affine = OperatorGradient.over(f, np.zeros((1, 2))).affine
    assert isinstance(affine, MaskedGradient) and affine.full is not missing
    assert affine.known.tolist() == [[1.0], [0.0 if missing else 1.0]]
