"""Paths of high degree: their bounds, and the march that turns to them where curvatures are far apart."""

import math

import flint
import numpy as np
import pytest

import linflow as lf
from linflow.verified import march as marching
from linflow.verified.arithmetic import DEGREES, FLOAT64, LOW, PAIRS, Float64
from linflow.verified.compiled import CompiledPath, layout
from linflow.verified.march import EnclosureMarch
from linflow.verified.problem import affine_gradient
from linflow.verified.taylor import Expansion
from tests.verified_judge import TrueFlow, defect, distance, exact, square

pytest.importorskip("linflow.verified._frame")

# Curvatures of 60, 30.01 and 0.02. The fast directions are at their optimum to rounding, so that the coefficients of
# the path are those of this rounding.
ROOT, TURN = np.diag(np.sqrt([30.0, 0.01])), np.array([[0.8, -0.6], [0.6, 0.8]])
WEIGHTS = [ROOT @ np.diag([1.0, 1.5]), ROOT @ TURN]
FAR_APART = lf.MatrixFactorization(ROOT @ ROOT @ TURN)
PROBLEM = affine_gradient(FAR_APART)


def root(x):
    return float(flint.arb(x).sqrt().mid())


@pytest.mark.parametrize("order", DEGREES[1:])
@pytest.mark.parametrize("fast", [False, True])
def test_paths_of_high_degree_have_a_defect_within_their_bounds(order, fast):
    problem, weights = PROBLEM, WEIGHTS
    layer = layout(problem, weights, 1.0, order)
    assert layer is not None and layer.order == order
    tau = 2.0**-3
    path = CompiledPath(layer, weights, tau) if fast else Expansion(problem, weights, 1.0, tau, None, Float64(order))
    assert path.order == order and all(c.shape == (order + 1, 2, 2) for c in path.coefficients)
    found = defect(path.coefficients, 1.0, tau, exact(problem.V))
    sizes = [root(sum((square(part[k]) for part in found), flint.fmpq(0))) for k in range(len(found[0]))]
    below, beyond = (
        np.array(sizes[:order]) / path.rounding,
        np.array(sizes[order:]) / path.defects[order : len(sizes)],
    )
    assert below.max() <= 1 and beyond.max() <= 1 and below.max() > 1e-4 and beyond.max() > 1e-3
    s = path.longest()
    assert path.added(s) >= sum(x * s ** (k + 1) / (k + 1) for k, x in enumerate(sizes))


def test_steps_of_high_degree_are_longer_by_what_is_counted_on():
    steps = [Expansion(PROBLEM, WEIGHTS, 1.0, 0.125, None, Float64(p)).longest() for p in DEGREES]
    ratios = [s / steps[0] for s in steps]
    assert all(gain <= ratio < 1.2 * gain for gain, ratio in zip(marching.GAINS, ratios, strict=True))
    # The largest curvature is 60, and x^p/p! is about 1 where rounding has become as large as what is left out.
    assert steps[0] * 0.125 * 60 == pytest.approx(math.factorial(21) ** (1 / 21), rel=0.2)


@pytest.mark.parametrize("fast", [False, True])
@np.errstate(over="ignore", invalid="ignore")
def test_a_march_that_hurries_goes_on_from_the_same_weights(fast):
    problem, weights = PROBLEM, WEIGHTS

    def marched(**what):
        march = EnclosureMarch(problem, weights, 1.0, 1e-12, fast=fast, **what)
        assert march.advance() is not None
        return march

    for factor, order in ((0.9, 20), (1.0, 20), (1.1, 40), (1.7, 40), (1.8, 60), (9.0, 60), (math.inf, 60)):
        march = marched()
        start = [c[0].copy() for c in march.node.path.coefficients]
        before = march.t, march.radius, march.gap, march.exponent, march.node.path.tau
        march.hurry(factor)
        path = march.node.path
        assert (march.t, march.radius, march.gap, march.exponent, path.tau) == before
        assert march.arithmetic.order == path.order == order and (march.layout is not None) == fast
        assert all(np.array_equal(c[0], W) for c, W in zip(path.coefficients, start, strict=True))
        step = march.advance()
        assert step is not None and step.lengths.shape == (2, order + 1)
        march.hurry(1.3)  # 1.7 · 1.3 > 2.3 > 1.3 · 1
        assert march.arithmetic.order == {20: 40, 40: 60, 60: 60}[order]
        march.hurry(0.1)
        assert march.arithmetic.order > 20  # never lowered
    fine = marched(arithmetic=PAIRS)
    fine.hurry(9.0)
    assert fine.arithmetic is PAIRS


def test_a_path_of_high_degree_that_is_not_longer_is_not_taken(monkeypatch):
    march = EnclosureMarch(PROBLEM, WEIGHTS, 1.0, fast=True)
    node, layer = march.node, march.layout
    monkeypatch.setattr(CompiledPath, "longest", lambda path: {20: 1.0}.get(path.order, 1.0))
    march.hurry(9.0)
    assert (march.node, march.layout, march.arithmetic.order) == (node, layer, 20)


def test_only_small_networks_hurry(monkeypatch):
    problem, weights = PROBLEM, WEIGHTS
    for name, limit in (("RAISED", 7), ("DEEP", 1)):
        march = EnclosureMarch(problem, weights, 1.0, fast=True)
        with monkeypatch.context() as patch:
            patch.setattr(marching, name, limit)
            march.hurry(9.0)
            assert march.arithmetic.order == 20
            patch.setattr(marching, name, limit + 1)
            march.hurry(9.0)
            assert march.arithmetic.order == 60
    # Fewer than 4000 operations for each bound: Horner's rule for a series, and for its first two derivatives.
    assert 3 * ((2 * marching.DEEP - 1) * DEGREES[-1] + 1) < 4000 and 6 * (marching.DEEP * DEGREES[-1] + 1) < 4000


def test_a_flow_whose_steps_would_not_suffice_is_proved_with_a_path_of_high_degree():
    net = lf.Network(WEIGHTS)
    usual, hurried = (lf.enclose(FAR_APART, net, t_max=20.0, max_steps=k) for k in (5000, 80))
    assert {step.lengths.shape[1] for step in usual.steps} == {21} and 120 < len(usual.steps) < 200
    degrees = [step.lengths.shape[1] - 1 for step in hurried.steps]
    assert degrees[0] == 20 and set(degrees) == {20, 60} and sorted(degrees) == degrees and len(degrees) <= 80
    assert usual.result == hurried.result == "time limit reached"
    true = TrueFlow(net.weights, 1.0, exact(FAR_APART.Y))
    for t in (hurried.steps[20].t, 20.0):
        low, high = hurried.gap_bounds(t)
        gap = true.gap(true.at(t))
        assert flint.arb(low) <= gap <= flint.arb(high) and high - low < 1e-6 * high
        weights, _, _, radius = hurried.around(t)
        assert distance(true.at(t), [w[None] for w in weights], flint.arb(0)) <= radius < 1e-9
    assert (marching.RAISED, marching.DEEP) == (200, 8)  # docs/verified.md, section 3


@np.errstate(over="ignore", invalid="ignore")
@pytest.mark.parametrize("fast", [True, False])
def test_networks_that_are_too_large_for_hessians_have_paths_of_degree_16(monkeypatch, fast):
    """Of two layers and more, in float64. Where steps would not suffice, they hurry to degree 20."""
    monkeypatch.setattr(marching, "best_cost", lambda widths: (1500**3 / 6 + 1, "dense"))
    monkeypatch.setattr(marching, "RAISED", 1)
    march = EnclosureMarch(PROBLEM, WEIGHTS, 1.0, fast=fast)
    assert not march.curved and march.arithmetic is LOW and march.advance().lengths.shape == (2, 17)
    march.hurry(1.0)
    assert march.arithmetic is LOW
    march.hurry(1.01)
    assert march.arithmetic.order == march.node.path.order == 20 == FLOAT64.order
    march.hurry(9.0)
    assert march.arithmetic.order == 20 and LOW.order == 16
    assert EnclosureMarch(PROBLEM, WEIGHTS, 1.0, arithmetic=PAIRS).arithmetic is PAIRS
    monkeypatch.setattr(marching, "best_cost", lambda widths: (1500**3 / 6, "dense"))
    assert EnclosureMarch(PROBLEM, WEIGHTS, 1.0, fast=fast).arithmetic is FLOAT64
