"""Networks, starts and what is conserved."""

import numpy as np
import pytest

import linflow as lf
from linflow import relu
from tests.reference import relu as reference
from tests.relu.starts import drawn


@pytest.mark.parametrize(("s", "bias"), [(0.0, False), (0.3, True)])
def test_outputs_are_those_of_the_definition(s, bias):
    X, _, net = drawn(0, m=2, s=s, bias=bias, paired=False)
    extended = np.hstack([X, np.ones((len(X), 1))]) if bias else X
    U = np.vstack([net.U, net.bias]) if bias else net.U
    np.testing.assert_allclose(net.outputs(X), reference.outputs(extended, U, net.V, s), rtol=1e-13, atol=1e-13)


def test_pairs_cancel_for_every_input():
    net = relu.paired((3, 8, 2), 4.0, bias=True, slope=0.2, rng=1)
    X = np.random.default_rng(0).standard_normal((20, 3))
    # sums of opposite numbers of size about 10
    assert abs(net.outputs(X)).max() < 1e-13
    np.testing.assert_allclose(np.linalg.norm(net.V, axis=1), 4.0, rtol=1e-15)
    assert relu.paired((3, 8, 2), 0.0, rng=1).V.any() == np.False_


def test_imbalance_includes_the_bias():
    net = relu.Network([[1.0, 2.0]], [[1.0, 1.0], [0.0, 3.0]], bias=[2.0, 0.0])
    assert relu.imbalance(net).tolist() == [1 + 4 - 2, 4 - 9]
    assert relu.imbalance([np.array([[3.0]]), np.array([[2.0]])]).tolist() == [5.0]


def test_two_layers_of_a_linear_start_make_a_network():
    layers = lf.init.gaussian((3, 5, 2), rng=0)
    net = relu.Network.of(layers, slope=0.1)
    assert net.slope == 0.1 and net.U.shape == (3, 5) and relu.Network.of(net) is net
    with pytest.raises(ValueError, match="output scale"):
        relu.Network.of(lf.init.ntk((3, 5, 2), rng=0))
    with pytest.raises(ValueError, match="3 layers"):
        relu.Network.of(lf.init.gaussian((3, 5, 5, 2), rng=0))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"U": np.ones((2, 3)), "V": np.ones((2, 1))}, "column, and V a row, for each neuron"),
        ({"U": np.ones((2, 3)), "V": np.ones((3, 1)), "slope": 1.0}, "linear"),
        ({"U": np.ones((2, 3)), "V": np.ones((3, 1)), "slope": -0.1}, "non-negative"),
        ({"U": np.ones((2, 3)), "V": np.ones((3, 1)), "bias": [1.0, 2.0]}, "1×3 is needed"),
        ({"U": np.ones((2, 3)), "V": np.full((3, 1), np.nan)}, "NaN"),
    ],
)
def test_wrong_networks_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        relu.Network(**arguments)


def test_odd_widths_and_other_depths_have_no_pairs():
    with pytest.raises(ValueError, match="pairs"):
        relu.paired((3, 5, 1))
    with pytest.raises(ValueError, match="three"):
        relu.paired((3, 4, 4, 1))


def test_imbalances_of_huge_weights_are_infinite_and_not_nan():
    net = relu.Network([[3e200, 2e200, 2e200]], [[1e200], [2e200], [3e200]])
    assert relu.imbalance(net).tolist() == [np.inf, 0.0, -np.inf]
    large = relu.Network([[3 * 2.0**505, 1.0]], [[2.0**505], [2.0]])
    assert relu.imbalance(large).tolist() == [8 * 2.0**1010, -3.0]


def test_targets_of_every_kind_and_what_is_said_of_others():
    net, X = relu.Network([[1.0, -1.0]], [[2.0], [3.0]]), [[1.0], [2.0]]
    wanted = relu.certify(X, [[1.0], [2.0]], net)
    for Y in ([1.0, 2.0], (1, 2), np.array([1.0, 2.0]), np.array([[1.0], [2.0]]), np.ma.masked_array([1.0, 2.0])):
        assert relu.certify(X, Y, net).gap == wanted.gap
    cert = relu.certify(np.float32(X), np.float32([1, 2]), net)
    assert cert.notes == ("X was promoted from float32 to float64", "Y was promoted from float32 to float64")
    assert relu.enclose(np.float32(X), [1.0, 2.0], net, max_steps=1).notes == cert.notes[:1]
    for Y, text in (
        (None, "Y is None"),
        (3.0, "Y has 0 dimensions"),
        ([[1.0], [2.0, 3.0]], "Y is ragged"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "Y hides 1 of its 2 entries"),
        ([1.0, None], "Y has dtype object"),
        ([1j, 2.0], "Y is complex"),
        (np.ones((1, 2)), "Y is 1×2; 2×1 is needed"),
    ):
        with pytest.raises((ValueError, TypeError), match=text):
            relu.certify(X, Y, net)
    with pytest.raises(ValueError, match=r"such as 0; .* 2 \* Y - 1"):
        relu.certify(X, [0.0, 1.0], net, loss="logistic")
    with pytest.raises(ValueError, match="has 1 layer; two"):
        relu.imbalance([[[1.0]]])
