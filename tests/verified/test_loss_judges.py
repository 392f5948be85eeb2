"""The judges of other losses: flows of closed form, and minima that are known."""

import flint
import numpy as np
import pytest

from tests.loss_judges import HuberFlow, OperatorFlow, SoftmaxFlow, TailFlow, huber_minimum
from tests.verified_judge import exact, precision

CLOSE = 1e-33
ONE = np.ones((1, 1))


def test_one_sample_of_an_exponential_and_a_logistic_loss():
    # z' = e^{−z}, so e^z grows by t; z' = 1/(1 + e^z), so z + e^z does. With x = 1, y = −1 and c = ½: w = −2z.
    for logistic, height in ((False, lambda z: z.exp()), (True, lambda z: z + z.exp())):
        true = TailFlow([np.full((1, 1), -1.5)], 0.5, ONE, -ONE, logistic)
        with precision():
            for t in (0.5, 3.0):
                z = -true.product(true.at(t))[0, 0]
                assert abs(float(height(z) - height(flint.arb(0.75)) - flint.arb(t) / 4)) < CLOSE
            value = (-z).exp().log1p() if logistic else (-z).exp()
            assert abs(float(true.gap(true.at(t)) - value)) < CLOSE


@pytest.mark.parametrize("mean", [False, True])
def test_one_sample_of_the_softmax_loss(mean):
    # Two equal samples x = 1 of the class 1 of two: D = w_0 − w_1 has D' = −4p/N', p = 1/(1 + e^{−D}), so D − e^{−D}
    # falls by 4t, or by 2t for the mean.
    true = SoftmaxFlow([np.array([[0.25, -0.5]])], 1.0, np.ones((2, 1)), [1, 1], 2, mean)
    with precision():
        start = flint.arb(0.75)
        for t in (0.5, 2.0):
            W = true.product(true.at(t))
            D = W[0, 0] - W[0, 1]
            fallen = start - (-start).exp() - (D - (-D).exp())
            assert abs(float(fallen - flint.arb(2 if mean else 4) * flint.arb(t))) < CLOSE
            assert abs(float(true.gap(true.at(t)) - (1 if mean else 2) * D.exp().log1p())) < CLOSE
    three = SoftmaxFlow([np.array([[1.0, 0.5, -0.25]])], 1.0, ONE, [2], 3, False)
    e = np.exp([1.0, 0.5, -0.25])
    with precision():
        found = [float(g) for g in three.force(three.start)[0].entries()]
    assert found == pytest.approx([0, 0, 1] - e / e.sum(), rel=1e-14, abs=0)


def test_huber_residuals_pass_their_kinks():
    # Two samples x = 1 with δ = 1 and c = 2: w_0 = 3 falls at the speed 4·2 to the kink of the second, y = −½.
    true = HuberFlow([np.array([[1.5]])], 2.0, np.ones((2, 1)), np.array([[0.0], [-0.5]]), 1.0, flint.fmpq(1, 16))
    with precision():
        # From W = 3 both pull by 1, W' = −8. At W = 1 the first comes in, then W' = −4(W + 1); at ½ the second.
        for t, W in ((0.125, 2.0), (0.25, 1.0)):
            assert abs(float(true.product(true.at(t))[0, 0] - flint.arb(W))) < CLOSE
        first = (flint.arb(2) / flint.arb("1.5")).log() / 4
        W = true.product(true.at(flint.arb(0.25) + first))[0, 0]
        assert abs(float(W - flint.arb("0.5"))) < CLOSE
        W = true.product(true.at(flint.arb(0.25) + first + flint.arb("0.125")))[0, 0]  # W' = −4(2W + ½)
        assert abs(float(W + flint.arb("0.25") - flint.arb("0.75") * flint.arb(-1).exp())) < CLOSE
        # h(W) + h(W + ½) − 1/16
        gap = true.gap(true.at(0.0))
        assert abs(float(gap - (flint.arb("2.5") + flint.arb("3.0") - flint.arb(1) / 16))) < CLOSE
        assert len(true.pieces) >= 3


def test_a_huber_residual_passes_both_kinks_between_two_looks():
    # The other sample pulls with 8δ. W' = −9δ, then −8δ − W within ±δ, then −7δ: lines, on which steps are long.
    X, Y, delta = np.array([[8.0], [1.0]]), np.array([[-80.0], [0.0]]), 0.001
    true = HuberFlow([np.array([[0.002]])], 1.0, X, Y, delta, flint.fmpq(0))
    with precision():
        t = flint.arb(1) / 9 + (flint.arb(9) / 7).log()
        assert abs(float(true.product(true.at(t))[0, 0] + flint.arb(delta))) < CLOSE
        later = true.product(true.at(t + 1))[0, 0]
        assert abs(float(later + flint.arb(delta) * 8)) < CLOSE
        assert [true.side(true.residuals(true.product(W))[1][0]) for W in (true.start, true.at(1 / 8), true.now)] == [
            1,
            0,
            -1,
        ]


def test_entries_that_are_known_decay_alone():
    M = flint.fmpq_mat(4, 4, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2])
    V, W = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.5, 0.25], [-1.0, 3.0]])
    C = exact(V * np.array([[1.0, 0.0], [1.0, 2.0]]))
    true = OperatorFlow([W], 1.0, C, M, V=exact(V))
    with precision():
        e = flint.arb(-0.5).exp()
        found = true.product(true.at(0.5))
        expected = [1 - e / 2, flint.arb(0.25), 3 - 4 * e, 4 - e * e]
        assert all(abs(float(a - b)) < CLOSE for a, b in zip(found.entries(), expected, strict=True))
        assert float(true.first) == 0.5 * (0.25 + 16.0 + 2.0)


def test_minima_of_huber_regression_are_exact():
    X, Y = np.ones((3, 1)), np.array([[0.0], [1.0], [10.0]])
    # Within δ = 2 of the first two: (w) + (w − 1) − 2 = 0.
    assert (
        huber_minimum(X, Y, 2.0, np.array([[1.4]])) == flint.fmpq(9, 8) + flint.fmpq(1, 8) + 2 * flint.fmpq(17, 2) - 2
    )
    assert huber_minimum(X, Y, 2.0, np.array([[9.0]])) is None  # not near the minimum
    tie = np.array([[0.0], [0.0], [10.0], [10.0]])
    assert huber_minimum(np.ones((4, 1)), tie, 1.0, np.array([[5.0]])) is None  # a plateau without curvature
