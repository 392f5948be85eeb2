"""What an enclosure of a convex loss says of a step, and for ever after, written out under a coarse roundoff."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow import bounds
from linflow.bounds import Invariants
from linflow.verified.tail_enclosure import ConvexEnclosure, TailEnclosure
from tests.verified.test_literal_path import coarse, drawn, fro, g, near, up
from tests.verified.test_literal_tails import exp, problem_of

__all__ = ["coarse", "exp"]
LOSS = lf.ExponentialLoss(np.array([[1.0, 0.5], [0.75, 2.0]]), np.ones((2, 1)))


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_the_speed_on_the_path_is_off_by_its_rounding_and_the_motion_to_the_exact_weights(loss):
    problem, weights = problem_of(loss), [0.5 * drawn(2, 3), 0.5 * drawn(3, 2, seed=1)]
    errors = np.array([0.25, 0.5])
    step = SimpleNamespace(at=lambda t: (weights, errors), radius=0.125, constants=SimpleNamespace(third=2.5))
    enclosure = SimpleNamespace(problem=problem, start=SimpleNamespace(scale=0.7))
    speed, off = ConvexEnclosure._speed(enclosure, step, 1.0)
    _, _, gradients, rounding = problem.loss_gradient(weights, np.zeros(2), 0.7)
    assert speed == near(math.hypot(*map(fro, gradients)))
    moved = 0.125 + math.sqrt(0.25**2 + 0.5**2)
    assert off == near((math.hypot(*map(float, rounding)) + 2.5 * moved + g(8 + 6 + 6) * speed) * up)


def after(network, steps=((1.0, 2.0), (0.5, 0.75), (0.25, 0.375))):
    enclosure = SimpleNamespace(
        steps=[SimpleNamespace(gap=gap) for gap in steps], objective=LOSS, start=network, radius=[0.0, 0.1, 0.2, 0.3]
    )
    return TailEnclosure._after.func(enclosure)


def test_ever_after_the_imbalance_alone_gives_the_pace():
    net = lf.Network([np.diag([1.5, 1.25]), np.array([[0.25], [0.5]])], 0.7)
    alphas = [float(r.value) for r in bounds.evaluate(Invariants.of(net).at(0.0, math.inf), 0.7) if r.applies]
    found, reason = after(net)
    assert reason == "" and 0 < found.curve.alpha == max(alphas) < 1 and len(alphas) > 1
    assert found.gap == found.curve.first == 0.375 and found.minimum == 0.0
    assert found.facts == {"hard margin": LOSS.hard_margin, "α": max(alphas), "radius": 0.3}


def test_ever_after_one_layer_has_the_square_of_its_scale():
    found, reason = after(lf.Network([np.array([[1.0], [0.5]])], 0.7))
    assert reason == "" and found.curve.alpha == 0.7**2 and found.name == "ever after, one layer"


def test_nothing_is_proved_ever_after_without_an_imbalance_or_a_step():
    assert after(lf.init.balanced((2, 2, 1), np.array([[1.0], [0.5]]), rng=0))[0] is None
    assert after(lf.Network([np.ones((2, 1))]), ())[1] == "nothing is enclosed"
