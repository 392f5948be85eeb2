"""Limits and parts of the width reduction, written out anew; exact arithmetic judges its widths elsewhere."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.geometry import reduction
from linflow.geometry.reduction import reduce_width

EPS = np.finfo(float).eps


def count(widths):
    return sum(a * b for a, b in itertools.pairwise(widths))


def test_constants_are_as_they_are_said(rng):
    reduce_width([rng.standard_normal((2, 9)), rng.standard_normal((9, 2))])
    assert (reduction.REDUCE_FROM, reduction.SEARCH_FROM) == (1000, 3000)
    assert (reduction._ROUNDING, reduction._CHANGE) == (16 * EPS, 64 * EPS)
    assert (reduction._DISTINCT, reduction._SWEEPS) == (1e-8, 2)


def test_a_run_is_reduced_from_so_many_weights_on(rng):
    for h, reduced in ((249, False), (250, True)):  # 4h weights, wider than both sides together
        net = lf.Network([rng.standard_normal((2, h)), rng.standard_normal((h, 2))])
        assert (reduction.worthwhile_reduction(net) is not None) == reduced
    # Not wider anywhere: from 3000 on, if there is structure, here units without a connection.
    for side, reduced in ((38, False), (39, True)):
        W = [rng.standard_normal((side, side)) for _ in range(2)]
        W[0][:, side // 2 :] = W[1][side // 2 :] = 0.0
        assert (2 * side * side < 3000) != reduced
        found = reduction.worthwhile_reduction(lf.Network(W))
        assert (found is not None) == reduced and (not reduced or found.network.widths == (side, side // 2, side))
    # A layer as wide as both of its sides is not wider.
    net = lf.Network([rng.standard_normal((16, 32)), rng.standard_normal((32, 16))])
    assert count(net.widths) == 1024 and reduction.worthwhile_reduction(net) is None


def test_the_gain_must_be_reached(rng):
    net = [rng.standard_normal((2, 12)), rng.standard_normal((12, 2))]  # 48 weights, 16 at the width 4
    assert reduce_width(net, gain=3.0).network.widths == (2, 4, 2)
    assert reduce_width(net, gain=3.0001).identity and reduce_width(net, gain=1.0).network.widths == (2, 4, 2)
    with pytest.raises(ValueError, match="at least 1"):
        reduce_width(net, gain=0.999)
    # Structure: 3·12·2 weights of rank 2, down to 3·4·… in a thorough search.
    low = [rng.standard_normal((3, 2)) @ rng.standard_normal((2, 5)), rng.standard_normal((5, 2)) @ np.eye(2, 3)]
    found = reduce_width(low, gain=1.0, thorough=True)
    factor = 30 / count(found.network.widths)
    assert factor > 1
    assert not reduce_width(low, gain=factor, thorough=True).identity
    assert reduce_width(low, gain=factor * 1.001, thorough=True).identity


def test_units_are_kept_that_reach_an_input_or_an_output(rng):
    for _ in range(60):
        widths = [2, *rng.integers(1, 6, rng.integers(1, 4)).tolist(), 2]
        layers = [
            rng.standard_normal(s) * (rng.random(s) < rng.choice([0.25, 0.5, 1.0]))
            for s in itertools.pairwise(widths)
        ]
        L = len(layers)
        # Every unit that a path of nonzero weights joins to an input or an output.
        seen = {(0, i) for i in range(2)} | {(L, i) for i in range(2)}
        todo = list(seen)
        while todo:
            l, i = todo.pop()
            beside = [(l + 1, j) for j in range(widths[l + 1]) if layers[l][i, j] != 0] if l < L else []
            beside += [(l - 1, j) for j in range(widths[l - 1]) if layers[l - 1][j, i] != 0] if l else []
            todo += [u for u in beside if u not in seen]
            seen |= set(beside)
        for l, Q in enumerate(reduction._connected(layers), 1):
            used = [i for i in range(widths[l]) if (l, i) in seen]
            if len(used) == widths[l]:
                assert Q is None
            else:
                expected = np.eye(widths[l])[:, used] if used else np.zeros((widths[l], 1))
                assert np.array_equal(Q, expected)


def test_a_layer_wider_than_its_neighbours_is_cut_to_their_ranges(rng):
    layers = [rng.standard_normal(s) for s in ((2, 9), (9, 3), (3, 6), (6, 4))]
    first, second, third = reduction.cut(layers)
    assert second is None and third is None  # 3 and 6 are at most 9 + 6 and 3 + 4
    assert first.shape == (9, 5)
    np.testing.assert_allclose(first.T @ first, np.eye(5), atol=1e-14)
    space = np.concatenate([layers[0].T, layers[1]], axis=1)
    np.testing.assert_allclose(first @ (first.T @ space), space, atol=1e-13)
    # 18 + 27 + 18 + 24 weights; with 5 for 9, 10 + 15 + 18 + 24.
    assert reduction.cut(layers, 87 / 67)[0] is not None and reduction.cut(layers, 87.1 / 67) == [None] * 3
    exact = [rng.standard_normal((2, 5)), rng.standard_normal((5, 3))]
    assert reduction.cut(exact) == [None]


def test_what_lies_outside_is_kept_aside_and_given_back():
    rng = np.random.default_rng(0)
    # Two parts: the second is joined to nothing, and its weights between hidden layers stay as they are.
    size = 3.0
    W = [np.zeros((2, 9)), np.zeros((9, 9)), np.zeros((9, 2))]
    W[0][:, :3], W[1][:3, :3], W[2][:3] = (rng.standard_normal(s) for s in ((2, 3), (3, 3), (3, 2)))
    W[1][4:, 4:] = size * rng.standard_normal((5, 5))
    turn = [np.linalg.qr(rng.standard_normal((9, 9)))[0] for _ in range(2)]
    layers = [W[0] @ turn[0].T, turn[0] @ W[1] @ turn[1].T, turn[1] @ W[2]]
    found = reduce_width(layers, thorough=True)
    assert found.network.widths == (2, 3, 3, 2) and not found.identity
    assert found.frozen[0] is None and found.frozen[2] is None
    outside = turn[0][:, 4:] @ W[1][4:, 4:] @ turn[1][:, 4:].T
    np.testing.assert_allclose(found.frozen[1], outside, atol=1e-12 * size)
    again = found.expand(found.network)
    for V, A in zip(again.weights, layers, strict=True):
        np.testing.assert_allclose(V, A, atol=64 * EPS * np.linalg.norm(A))
    literal = max(np.linalg.norm(V - A) / np.linalg.norm(A) for V, A in zip(again.weights, layers, strict=True))
    assert found.error <= 64 * EPS and literal <= 2 * found.error + 8 * EPS
    twice = found.expand_sequence([found.network, found.network.with_weights([2 * V for V in found.network.weights])])
    np.testing.assert_allclose(twice[1].weights[0], 2 * layers[0], atol=1e-13)
    np.testing.assert_allclose(twice[1].weights[1] - outside, 2 * (layers[1] - outside), atol=1e-11)


def test_a_change_past_rounding_is_no_reduction(rng, monkeypatch):
    layers = [rng.standard_normal((2, 12)), rng.standard_normal((12, 2))]
    for part, reduced in ((0.9, True), (1.1, False)):

        def changed(weights, bases, frozen, part=part):
            W = [layers[l] / np.linalg.norm(layers[l]) for l in range(2)]
            W[1] = W[1] + part * 64 * EPS * np.eye(12, 2) / math.sqrt(2)
            return W

        monkeypatch.setattr(reduction, "expanded", changed)
        assert reduce_width(layers).identity != reduced


def test_directions_above_rounding_count(rng):
    V = np.eye(4)[:, :1]
    for part, kept in ((0.8, 0), (1.25, 1)):
        X = np.array([[3.0], [part * 16 * EPS], [0.0], [0.0]])
        new = reduction._orthonormal_part(V, X)
        assert new.shape == (4, kept)
        if kept:
            np.testing.assert_allclose(np.abs(new[:, 0]), np.eye(4)[1], atol=1e-15)
    full = reduction._orthonormal_part(np.eye(4)[:, :3], rng.standard_normal((4, 5)))
    np.testing.assert_allclose(np.abs(full), np.eye(4)[:, 3:], atol=1e-14)
    X = rng.standard_normal((4, 9))
    assert np.array_equal(reduction._as_they_come(V, X), X[:, :3])
    # Of a layer of norm 1 what is outside both bases, where it is above rounding.
    P, Q = np.eye(3)[:, :1], np.eye(3)[:, :2]
    W = rng.standard_normal((3, 3))
    literal = W.copy()
    literal[0] = literal[:, :2] = 0.0
    np.testing.assert_allclose(reduction._outside(W, P, Q), literal, atol=1e-15)
    assert reduction._outside(W, None, Q) is None and reduction._outside(W, P, None) is None
    for part, kept in ((0.9, False), (1.1, True)):
        assert (reduction._outside(part * 16 * EPS * np.eye(3)[[2, 0, 1]], P, np.eye(3)[:, 1:]) is not None) == kept


def test_independent_directions_are_told_from_dependent_ones(rng):
    generic = [rng.standard_normal(s) for s in ((2, 6), (6, 6), (6, 2))]
    assert reduction._independent(generic, [6, 6]) and reduction._independent(generic, [4, 4])
    for distance, independent in ((1e-6, True), (1e-10, False)):
        # The second image is the first but for a part of its length.
        first = np.zeros((2, 6))
        first[0, 0], first[1, 0], first[1, 1] = 1.0, 1.0, distance
        layers = [first, np.linalg.qr(rng.standard_normal((6, 6)))[0], rng.standard_normal((6, 2))]
        assert reduction._independent(layers, [2, 1]) == independent


def test_a_dead_unit_alone_does_not_reach_the_gain(rng):
    weights = [rng.standard_normal((5, 10)), rng.standard_normal((10, 5))]
    weights[0][:, 3], weights[1][3] = 0.0, 0.0
    found = lf.reduce_width(weights)  # ten units become nine: less than the factor 1.25
    assert found.identity and found.network.widths == (5, 10, 5) and found.bases == (None,)
    assert lf.reduce_width(weights, gain=1.1).network.widths == (5, 9, 5)


@pytest.mark.parametrize("turned", [False, True])
def test_directions_that_come_back_are_mapped_on(rng, turned):
    """Blocks of 4 and 2 hidden units, rotated: the fourth direction of a layer comes from the way back."""
    first = rng.standard_normal((2, 4)), rng.standard_normal((4, 4)), rng.standard_normal((4, 1))
    beside = rng.standard_normal((2, 2))
    A, B = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
    middle = np.zeros((6, 6))
    middle[:4, :4], middle[4:, 4:] = first[1], beside
    ends = np.hstack([first[0], np.zeros((2, 2))]), np.vstack([first[2], np.zeros((2, 1))])
    weights = [ends[0] @ A, A.T @ middle @ B, B.T @ ends[1]]
    weights = [W.T for W in reversed(weights)] if turned else weights
    assert lf.reduce_width(weights, thorough=True).network.widths == ((1, 4, 4, 2) if turned else (2, 4, 4, 1))


def test_structure_counts_if_it_reaches_the_gain(rng):
    low = rng.standard_normal((4, 3)) @ rng.standard_normal((3, 4))
    layers = [low / 4, (low / 4).T]  # of rank 3, with one range: 32 weights become 24
    assert [V.shape for V in reduction._structure(layers, 1.3, True)] == [(4, 3)]
    assert reduction._structure(layers, 1.35, True) == [None]


def test_the_search_looks_at_so_many_directions(monkeypatch, rng):
    asked = []
    monkeypatch.setattr(reduction, "_independent", lambda layers, enough: asked.append(enough) or True)
    layers = [rng.standard_normal(s) for s in ((4, 10), (10, 20), (20, 1), (1, 3))]
    assert reduction._structure(layers, 1.25, False) == [None] * 3
    root = math.sqrt(1.25)
    assert asked == [[math.floor(10 / root) + 1, math.floor(20 / root) + 1, 1]]


def test_a_layer_wider_than_its_neighbours_is_enough_for_a_reduction(monkeypatch):
    asked = []
    found = SimpleNamespace(identity=True)
    monkeypatch.setattr(reduction, "reduce_width", lambda network: asked.append(network) or found)
    monkeypatch.setattr(reduction, "REDUCE_FROM", 10)
    monkeypatch.setattr(reduction, "SEARCH_FROM", 1000)
    for widths, wide in (((2, 9, 3, 3), True), ((2, 5, 3), False), ((2, 6, 3), True)):
        asked.clear()
        assert reduction.worthwhile_reduction(lf.init.gaussian(widths, rng=0)) is None and bool(asked) is wide


def spans(weights):
    """`U_l ⊇ W_lᵀU_{l−1} + W_{l+1}U_{l+1}` by repetition until no rank grows; their dimensions."""
    sizes = [weights[0].shape[0], *(W.shape[1] for W in weights)]
    U = [np.eye(sizes[0]), *(np.zeros((h, 0)) for h in sizes[1:-1]), np.eye(sizes[-1])]
    while True:
        before = [V.shape[1] for V in U]
        for l in range(1, len(weights)):
            X = np.hstack([U[l], weights[l - 1].T @ U[l - 1], weights[l] @ U[l + 1]])
            Q, s, _ = np.linalg.svd(X / np.maximum(np.linalg.norm(X, axis=0), 1e-300), full_matrices=False)
            U[l] = Q[:, s > 1e-6]
        if [V.shape[1] for V in U] == before:
            return before


def blocks(rng):
    """Five layers of two rotated blocks, the second of which no input and no output reaches."""
    own, idle = rng.integers(1, 5, 4).tolist(), rng.integers(1, 3, 4).tolist()
    own = [int(rng.integers(1, 3)), *own, int(rng.integers(1, 3))]
    turns = [np.linalg.qr(rng.standard_normal((a + b, a + b)))[0] for a, b in zip(own[1:-1], idle, strict=True)]
    turns, weights = [np.eye(own[0]), *turns, np.eye(own[-1])], []
    for l, (a, b) in enumerate(itertools.pairwise([0, *idle, 0])):
        W = np.zeros((own[l] + a, own[l + 1] + b))
        W[: own[l], : own[l + 1]] = rng.standard_normal((own[l], own[l + 1]))
        W[own[l] :, own[l + 1] :] = rng.standard_normal((a, b))
        weights.append(turns[l].T @ W @ turns[l + 1])
    return weights


def test_widths_are_never_below_those_of_a_plain_repetition(rng):
    """Directions that come late carry rounding, which may be kept as some more: most widths are equal."""
    equal = 0
    for _ in range(40):
        weights = blocks(rng)
        found = reduce_width(weights, gain=1.0, thorough=True).network.widths
        needed = [max(k, 1) for k in spans(weights)]
        assert all(a >= b for a, b in zip(found, needed, strict=True))
        equal += list(found) == needed
    assert equal >= 20  # 32 were seen
