"""Why a certificate promises nothing, and what it tells of a descent: the numbers that are named are those meant."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.certificates import descent
from linflow.certificates.setting import Setting
from linflow.certificates.step_bounds import DescentBounds

NET = lf.Network([np.eye(2, 3), np.eye(3)])  # balanced, of product I (2×3)


NO_GAMMA = "no pl_constant is known for the objective; declare strong_convexity= or pl_constant="


def user(constants, target=0.0):
    """`½‖W − t‖²` with the constants that a user declares."""
    return lf.Objective(
        lambda W: 0.5 * float(((W - target) ** 2).sum()), lambda W: W - target, shape=(2, 3), minimum=0.0, **constants
    )


def why(f, net, name="two layers"):
    found = {g.name: g for g in lf.certify(f, net).guarantees}
    return found[name].reason


# --- the flow ------------------------------------------------------------------------------------------------------


def test_without_dominance_nothing_is_promised_and_with_any_something_is():
    (only,) = lf.certify(user({"smoothness": 1.0}), NET).guarantees
    assert only.reason == NO_GAMMA
    dominated = lf.certify(user({"strong_convexity": 0.5}, 1.1 * np.eye(2, 3)), NET)
    assert dominated.objective.pl_constant == 1.0 and dominated.rate > 0
    assert lf.certify(lf.MatrixFactorization(np.eye(2, 3)), NET).guarantees[0].name != "envelope"  # at its minimum


def test_a_narrow_layer_is_told_with_what_it_is_below():
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 3))])
    assert "the hidden width 1 is below min(n, m) = 2" in why(lf.MatrixFactorization(np.eye(2, 3)), narrow)


@pytest.mark.parametrize("away", [0.1, 0.3])
def test_a_bound_of_0_in_spite_of_a_margin_names_the_margin(away):
    """Of a balanced start the imbalance alone says nothing, and the margin is `σ_min(W*) − ‖W − W*‖_F`."""
    f = lf.MatrixFactorization((1 + away) * np.eye(2, 3))
    left = 1 + away - away * math.sqrt(2)
    assert 0.8 < left < 1
    expected = f"its bound on λ_min(T) is 0 at this imbalance and margin {left:.3g}; imbalance the start more"
    assert why(f, NET, "any depth, imbalance only") == expected


def test_a_start_too_far_away_is_told_by_how_much():
    f = lf.MatrixFactorization(-2.0 * np.eye(2, 3))
    expected = f"margin is 0: ‖W(0) − W*‖_F = {3 * math.sqrt(2):.3g} is too far for σ_min(W*) = 2, and the imbalance"
    assert why(f, NET).startswith(expected)
    # Of a 2×3 target the second singular value is the last.
    f = lf.MatrixFactorization(np.diag([-5.0, -3.0, 0.0])[:2])
    assert "is too far for σ_min(W*) = 3, and" in why(f, NET)


@pytest.mark.parametrize("constants", [{"pl_constant": 2.0}, {"pl_constant": 2.0, "minimizer": np.zeros((2, 3))}])
def test_without_strong_convexity_there_is_no_margin(constants):
    expected = "the bound on λ_min(T) is 0 from the imbalance alone, and the margin needs μ and W*"
    assert why(user(constants | {"smoothness": 1.0}), NET) == expected


# --- descents ------------------------------------------------------------------------------------------------------


def of_descent(f, net, step):
    """The guarantee of this library on a descent."""
    return lf.certify(f, net, algorithm="descent", step_size=step).guarantees[0]


NEAR = lf.MatrixFactorization(1.2 * np.eye(2, 3))


def test_a_certified_step_tells_its_curvature_its_floor_and_its_factor():
    found = of_descent(NEAR, NET, 1e-3)
    bounds = DescentBounds(Setting(NEAR, NET, "descent"))
    held = bounds.at(1e-3)
    decreases = held.decreases(2.0)
    assert found.facts["β"] == held.betas[0] == max(held.betas) > held.betas[-1]
    assert found.facts["α"] == min(held.alphas) < max(held.alphas)
    assert found.facts["factor"] == pytest.approx(1 - min(decreases), rel=1e-12)
    assert found.facts["final factor"] == pytest.approx(1 - decreases[-1], rel=1e-12)
    assert found.applies and found.gap == NEAR.gap(NET.product())


def test_a_step_too_large_is_told_the_largest():
    largest = DescentBounds(Setting(NEAR, NET, "descent")).largest
    found = of_descent(NEAR, NET, 10.0)
    assert found.reason == f"the step 10 is too large: at most {largest:.4g} is certified; take safe_step_size"
    assert 0 < largest < 1  # of a smaller number than 1, too
    nothing = user({"smoothness": 1.0})
    no_caps = "no bound on the weights along the run is known: it needs μ and W*, or a start near the optimum"
    assert of_descent(nothing, NET, 1e-3).reason == no_caps
    with pytest.raises(ValueError, match="no step size is certified: " + re.escape(no_caps)):
        lf.safe_step_size(nothing, NET)
    unbounded = user({"strong_convexity": 1.0})
    smooth = "no smoothness K is known for the objective; declare smoothness="
    assert of_descent(unbounded, NET, 1e-3).reason == smooth
    with pytest.raises(ValueError, match="no step size is certified: " + re.escape(smooth)):
        lf.safe_step_size(unbounded, NET)


def test_a_step_without_a_rate_is_told_why():
    head = "the loss never rises, but no rate is certified: "
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 3))])
    found = of_descent(NEAR, narrow, 1e-3)
    assert found.reason.startswith(head) and "the hidden width 1 is below min(n, m) = 2" in found.reason
    assert found.facts["α"] == 0.0 and found.facts["β"] > 0 and "factor" not in found.facts
    far = lf.MatrixFactorization(np.diag([-5.0, -3.0, 0.0])[:2])
    found = of_descent(far, NET, 1e-5)
    distance = math.sqrt(36 + 16)
    assert found.reason == head + (
        f"the bound on λ_min(T) is 0 when imbalances may drift by {found.facts['drift cap']:.3g} and ‖W(0) − W*‖_F = "
        f"{distance:.3g} (σ_min(W*) = 3); take a smaller step, start nearer, or imbalance the start more"
    )


def test_what_is_missing_for_a_rate_is_told_in_turn():
    one = lf.Network([np.eye(2, 3)])
    assert of_descent(user({"smoothness": 1.0}), one, 0.1).reason.endswith(NO_GAMMA)
    # A dominance of 1 is one.
    narrow = lf.Network([np.ones((2, 1)), np.ones((1, 3))])
    target = 1.1 * np.eye(2, 3)
    slow = user({"strong_convexity": 0.5, "smoothness": 1.0, "minimizer": target}, target)
    assert slow.pl_constant == 1.0 and "the hidden width 1 is below" in of_descent(slow, narrow, 1e-3).reason
    dominated = Setting(user({"pl_constant": 1.0, "smoothness": 1.0}), NET, "descent")
    assert descent._no_rate(dominated, SimpleNamespace(drift=0.0)).endswith("and the margin needs μ and W*")


def test_the_step_that_is_taken_is_the_given_or_the_advised_one():
    advised = lf.safe_step_size(NEAR, NET)
    assert advised == DescentBounds(Setting(NEAR, NET, "descent")).advise()
    assert lf.certify(NEAR, NET, algorithm="descent").step_size == advised
    assert lf.certify(NEAR, NET, algorithm="descent", step_size=0.25).step_size == 0.25
    # Where none is certified, the step that a search from the start accepts.
    certificate = lf.certify(user({"strong_convexity": 1.0}), NET, algorithm="descent")
    assert certificate.step_size == descent._first_accepted(certificate.objective, NET) < 1.0
    assert not certificate.guarantees[0].applies
    names = [g.name for g in certificate.guarantees]
    assert names[0] == "descent, any depth" and len(names) > 2


def test_a_first_step_without_a_slope_is_1():
    at_rest = user({"strong_convexity": 1.0}, np.eye(2, 3))
    assert lf.certify(at_rest, NET, algorithm="descent").step_size == 1.0
