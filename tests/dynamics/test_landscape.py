"""What kind of point some weights are: closed forms, the theorem on modes against Hessians, and refusals."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

import linflow as lf
from linflow.dynamics import landscape as module
from linflow.dynamics.field import GradientField
from linflow.dynamics.landscape import Verdict, judge

Y = np.diag([3.0, 2.0, 1.0])


def near(x, rel=1e-12):
    return pytest.approx(x, rel=rel, abs=0)


def learned(modes, depth, size=3, hidden=None):
    """Balanced layers whose product holds some modes of Y."""
    side = np.diag([float(Y[i, i]) ** (1 / depth) if i + 1 in modes else 0.0 for i in range(size)])
    return [side] * depth


# --- eigenvalues ---------------------------------------------------------------------------------------------------


def test_the_origin_of_two_layers_has_the_singular_values_of_the_gradient():
    found = lf.landscape(lf.MatrixFactorization(Y), lf.Network(2 * [np.zeros((3, 3))], 0.5))
    assert found.verdict is Verdict.STRICT_SADDLE and found.least == near(-1.5) and found.greatest == near(1.5)
    assert (found.gap, found.gradient, found.flat, found.rank, found.modes) == (7.0, 0.0, 0, 0, ())
    assert found.reason == "the loss is 7 above f*, and its Hessian has a direction of negative curvature"


@pytest.mark.parametrize("depth", [3, 4])
def test_the_origin_of_more_layers_is_flat(depth):
    found = lf.landscape(lf.MatrixFactorization(Y), depth * [np.zeros((3, 3))])
    assert found.verdict is Verdict.FLAT_SADDLE and found.least == found.greatest == 0.0
    assert found.flat == 9 * depth and found.modes == ()
    assert found.reason == "the loss is 7 above f*, and for a convex f in full width no minimum is"


def test_a_minimum_has_the_eigenvalues_of_the_operator(rng):
    weights = [rng.standard_normal((2, 4)), rng.standard_normal((4, 3))]
    f = lf.MatrixFactorization(1.5 * weights[0] @ weights[1])
    net = lf.Network(weights, 1.5)
    found = lf.landscape(f, net)
    assert found.verdict is Verdict.GLOBAL_MINIMUM and found.reason == "the loss is f* to rounding"
    assert found.greatest == near(float(np.linalg.eigvalsh(lf.TangentOperator(net).dense())[-1]))
    assert found.flat == 2 * 4 + 4 * 3 - 2 * 3 and abs(found.least) <= found.error < 1e-9 and found.rank == 2


def test_the_ends_are_those_of_the_hessian_at_any_weights(rng):
    f = lf.LinearRegression(rng.standard_normal((5, 2)), rng.standard_normal((5, 3)))
    net = lf.Network([rng.standard_normal(s) for s in pairwise((2, 3, 2, 3))], 0.7)
    field = GradientField(f, net)
    y, h = field.flatten(net.weights), 1e-5
    H = np.array([-(field(y + h * e) - field(y - h * e)) / (2 * h) for e in np.eye(len(y))])
    values = np.linalg.eigvalsh((H + H.T) / 2)
    found = lf.landscape(f, net)
    assert found.verdict is Verdict.NOT_STATIONARY and found.reason == "the gradient is more than rounding"
    assert found.gradient == near(float(np.linalg.norm(field(y)))) and found.gap == near(f.gap(net.product()))
    assert found.least == near(values[0], rel=1e-6) and found.greatest == near(values[-1], rel=1e-6)


def test_many_weights_have_their_ends_from_an_iteration(monkeypatch, rng):
    f, weights = lf.MatrixFactorization(Y), learned((1,), 2)
    dense = lf.landscape(f, weights)
    monkeypatch.setattr(module, "DENSE", 17)
    found = lf.landscape(f, weights)
    assert dense.flat is not None and found.flat is None
    assert found.least == near(dense.least, rel=1e-7) and found.greatest == near(dense.greatest, rel=1e-7)
    assert found.verdict is dense.verdict is Verdict.STRICT_SADDLE
    nothing = lf.landscape(f, 3 * [np.zeros((3, 3))])
    assert nothing.least == nothing.greatest == 0.0 and nothing.verdict is Verdict.FLAT_SADDLE
    blank = lf.Objective(lambda W: 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y, shape=(3, 3), minimizer=Y,
                         strong_convexity=1.0)  # fmt: skip
    assert lf.landscape(blank, 3 * [np.zeros((3, 3))]).verdict is Verdict.SADDLE  # no theorem on modes, no Hessian


# --- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modes", "depth", "verdict"),
    [
        ((1, 2, 3), 2, Verdict.GLOBAL_MINIMUM), ((1, 2), 2, Verdict.STRICT_SADDLE), ((2,), 2, Verdict.STRICT_SADDLE),
        ((1, 2, 3), 4, Verdict.GLOBAL_MINIMUM), ((1, 2), 3, Verdict.FLAT_SADDLE), ((1,), 4, Verdict.FLAT_SADDLE),
        ((2,), 3, Verdict.STRICT_SADDLE), ((1, 3), 4, Verdict.STRICT_SADDLE), ((), 3, Verdict.FLAT_SADDLE),
    ],
)  # fmt: skip
def test_the_modes_decide(modes, depth, verdict):
    found = lf.landscape(lf.MatrixFactorization(Y), learned(modes, depth))
    assert found.verdict is verdict and found.modes == modes and found.rank == len(modes)
    assert ("achour2024" in found.citations) and "laurent2018" in found.citations
    if verdict is Verdict.STRICT_SADDLE:
        assert found.least < -0.1
    elif verdict is Verdict.FLAT_SADDLE:
        assert abs(found.least) <= found.error


def critical(rng, depth, width):
    """A critical point: blocks of the layers that the product does not see are free where they are decoupled."""
    r = int(rng.integers(0, 3))
    S = sorted(rng.choice(3, r, replace=False).tolist())
    layers = []
    for l in range(depth):
        rows, columns = 3 if l == 0 else width, 3 if l == depth - 1 else width
        W = np.zeros((rows, columns))
        for k, i in enumerate(S):
            W[i if l == 0 else k, i if l == depth - 1 else k] = float(Y[i, i]) ** (1 / depth)
        layers.append(W)
    # Rows and columns beyond the first r of hidden layers: at most depth − 2 of the blocks, so their product is 0 and
    # so is every product that misses one of the layers.
    for l in rng.permutation(np.arange(1, depth - 1))[: int(rng.integers(0, depth - 1))]:
        layers[l][r:, r:] = rng.standard_normal((width - r, width - r))
    turn = [np.linalg.qr(rng.standard_normal((width, width)))[0] for _ in range(depth - 1)]
    for l, Q in enumerate(turn):
        layers[l], layers[l + 1] = layers[l] @ Q, Q.T @ layers[l + 1]
    return layers, tuple(i + 1 for i in S)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_theorem_agrees_with_the_hessian(depth, rng):
    f, seen = lf.MatrixFactorization(Y), set()
    for _ in range(40):
        weights, modes = critical(rng, depth, int(rng.integers(3, 5)))
        net = lf.Network(weights)
        said, kind = module._critical_type(f, net)
        found = judge(GradientField(f, net), stationary=True)
        assert said == modes == found.modes
        # Rotated layers are critical to rounding: the smallest negative eigenvalue here is far above it.
        assert (found.least < -1e-3) == (kind is Verdict.STRICT_SADDLE) and (kind is found.verdict)
        assert kind is not Verdict.FLAT_SADDLE or abs(found.least) < 1e-12
        seen.add(kind)
    assert seen == ({Verdict.STRICT_SADDLE} if depth == 2 else {Verdict.STRICT_SADDLE, Verdict.FLAT_SADDLE})


def test_a_regression_has_the_modes_of_its_data(rng):
    X, B = rng.standard_normal((6, 3)), rng.standard_normal((3, 3))
    f = lf.LinearRegression(X, X @ B)
    F, _ = f.factors
    U, s, Vt = np.linalg.svd(F @ B)
    first = np.linalg.solve(F, U[:, [1]])  # F W = σ_2 u_2 v_2ᵀ
    found = judge(GradientField(f, lf.Network([first, s[1] * Vt[[1]]])), stationary=True)
    assert found.modes == (2,) and found.verdict is Verdict.STRICT_SADDLE and found.least < 0


def test_the_best_of_a_bottleneck_is_a_global_minimum():
    f = lf.MatrixFactorization(Y)
    best = [np.array([[3.0], [0.0], [0.0]]), np.array([[1.0, 0.0, 0.0]])]
    found = lf.landscape(f, best)
    assert found.verdict is Verdict.GLOBAL_MINIMUM and found.modes == (1,)
    assert found.reason == "the loss is 2.5 above f*, and no product of rank 1 has less"
    second = lf.landscape(f, [np.array([[0.0], [2.0], [0.0]]), np.array([[0.0, 1.0, 0.0]])])
    assert second.verdict is Verdict.STRICT_SADDLE and second.modes == (2,)


def test_a_minimum_up_to_symmetry_is_told_by_its_flat_directions():
    # ½‖W − Y‖² with one hidden unit, as a user's function: the modes are unknown, but the loss grows off the orbit.
    f = lf.Objective(lambda W: 0.5 * float(((W - Y) ** 2).sum()), lambda W: W - Y, shape=(3, 3), minimum=0.0)
    found = lf.landscape(f, [np.array([[3.0], [0.0], [0.0]]), np.array([[1.0, 0.0, 0.0]])])
    assert found.verdict is Verdict.MINIMUM and found.flat == found.symmetric == 1 and found.modes is None
    assert "of which symmetry explains 1" in str(found) and found.citations == {"laurent2018"}
    flat = lf.landscape(f, 3 * [np.zeros((3, 3))])
    assert flat.verdict is Verdict.UNDECIDED and flat.symmetric == 0
    assert flat.reason == "27 eigenvalues are 0 to rounding, and symmetry explains 0 of them"


def test_directions_of_symmetry_are_counted():
    # GL(h) acts freely where W_1 and W_2 have full rank h: h² directions; at 0 there are none.
    assert module._orbit(lf.Network([np.ones((3, 1)), np.ones((1, 2))])) == 1
    assert module._orbit(lf.Network([np.eye(3, 2), np.eye(2, 3)])) == 4
    assert module._orbit(lf.Network([np.zeros((3, 2)), np.zeros((2, 3))])) == 0
    assert module._orbit(lf.Network([np.eye(2), np.eye(2), np.eye(2)])) == 8
    assert module._orbit(lf.Network([np.eye(2)])) == 0


def test_ranks_are_relative_to_the_layers():
    assert module._rank([1e-9 * np.eye(2), np.eye(2)], 7) == 2 and module._rank([], 7) == 7
    assert module._rank([np.diag([1.0, 2e-6])], 7) == 2 and module._rank([np.diag([1.0, 5e-7])], 7) == 1


@pytest.mark.parametrize("target", [np.eye(3), np.diag([3.0, 1.0, 0.0]), np.diag([2.0, 2.0 - 1e-7, 1.0])])
def test_modes_are_named_only_where_they_are_distinct(target):
    found = lf.landscape(lf.MatrixFactorization(target), 2 * [np.zeros((3, 3))])
    assert found.modes is None and found.verdict is Verdict.STRICT_SADDLE


def test_a_point_between_the_modes_has_none():
    assert lf.landscape(lf.MatrixFactorization(Y), [0.9 * np.eye(3), np.diag([3.0, 0.0, 0.0])]).modes is None
    tilted = np.diag([3.0, 0.0, 0.0]) + 0.1 * np.eye(3)[[1, 0, 2]] * [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert lf.landscape(lf.MatrixFactorization(Y), [np.eye(3), tilted]).modes is None


def test_what_is_not_computed_is_not_told():
    found = judge(
        GradientField(lf.MatrixFactorization(Y), lf.Network(2 * [np.zeros((3, 3))])), stationary=True, most=17
    )
    assert found.least is found.greatest is found.flat is None and "not computed" in str(found)
    assert found.verdict is Verdict.STRICT_SADDLE and found.modes == ()  # the modes decide
    with pytest.raises(ValueError, match="the network's product is 2×2"):
        lf.landscape(lf.MatrixFactorization(Y), 2 * [np.eye(2)])


def test_classification_has_no_stationary_point():
    f = lf.LogisticLoss(np.array([[1.0], [2.0]]), np.array([1.0, 1.0]))
    assert lf.landscape(f, [np.eye(1), np.zeros((1, 1))]).verdict is Verdict.NOT_STATIONARY
    origin = lf.landscape(f, 2 * [np.zeros((1, 1))])
    assert origin.verdict is Verdict.STRICT_SADDLE and origin.least == near(-1.5)  # ∇f(0) = −(1 + 2)/2
    assert math.isfinite(origin.error)


# --- written out ---------------------------------------------------------------------------------------------------


def test_the_rounding_of_eigenvalues_as_written(monkeypatch, rng):
    monkeypatch.setattr(module, "EPS", 2.0**-10)
    monkeypatch.setattr(module, "DIFFERENCE", 2.0**-8)
    f = lf.MatrixFactorization(rng.standard_normal((2, 3)))
    net = lf.Network(
        [s * rng.standard_normal(w) for s, w in zip((1, 2, 3), ((2, 4), (4, 3), (3, 3)), strict=True)], 0.5
    )
    a, b, c = (np.linalg.norm(W) for W in net.weights)
    monkeypatch.setattr(lf.Objective, "gradient_rounding", lambda self, net: 0.25)
    monkeypatch.setattr(lf.MatrixFactorization, "gradient_rounding", lambda self, net: 0.25)
    G = 0.5 * (8 * 2.0**-10 * np.linalg.norm(f.gradient(net.product())) + f.gradient_rounding(net))
    assert module._error(f, net, 29, 7.0) == near((8 * 29 + 64) * 2.0**-10 * 7 + G * 2 * (a + b + c))
    mine = lf.Objective(f.value, f.gradient, shape=f.shape, minimum=0.0, smoothness=1.0)
    G = 0.5 * (8 * 2.0**-10 * np.linalg.norm(f.gradient(net.product())) + mine.gradient_rounding(net))
    assert module._error(mine, net, 29, 7.0) == near(2.0**-8 * 7 + G * 2 * (a + b + c))
    monkeypatch.undo()
    assert (module.DENSE, module.DIFFERENCE, module.CLOSE) == (1000, 1e-7, 1e-6)


def test_the_error_is_that_of_the_eigenvalue_farthest_from_0(monkeypatch):
    f, net = lf.MatrixFactorization(Y), lf.Network(2 * [np.eye(3)])
    for ends in ((-5.0, 1.0), (-1.0, 5.0), (1.0, 5.0)):
        monkeypatch.setattr(module, "_ends", lambda product, count, ends=ends: (np.array(ends), False))
        assert lf.landscape(f, net).error == near(module._error(f, net, 18, 5.0))


def test_without_a_hessian_there_is_no_error():
    f = lf.MatrixFactorization(Y)
    found = judge(GradientField(f, lf.Network(2 * [np.eye(3)])), stationary=True, most=0)
    assert found.error == 0.0 and found.least is None


def test_symmetries_of_layers_of_different_widths(rng):
    weights = [rng.standard_normal(s) for s in pairwise((3, 2, 4, 3))]
    # Of 2² + 4² directions, those of A_2 with W_2A_2 = 0 = A_2W_3 do nothing: 2 · 1.
    assert module._orbit(lf.Network(weights)) == 18
    assert module._orbit(lf.Network([np.eye(3)] * 2)) == 9


def test_ends_of_many_weights(monkeypatch):
    monkeypatch.setattr(module, "DENSE", 0)
    size = np.array([2.0, -1.0, 0, 0, 0, 0, 0, 0])
    ends, formed = module._ends(lambda v: size * v.ravel(), 8)
    np.testing.assert_allclose(ends, [-1.0, 2.0], rtol=1e-7)
    assert not formed
    assert module._ends(lambda v: 0.0 * v.ravel(), 8)[0].tolist() == [0.0, 0.0]
    from scipy.sparse import linalg

    plain, asked = linalg.eigsh, []
    monkeypatch.setattr(linalg, "eigsh", lambda *a, **options: asked.append(options["tol"]) or plain(*a, **options))
    module._ends(lambda v: size * v.ravel(), 8)
    assert asked == [1e-8, 1e-8]
    for error in (linalg.ArpackError(-9), linalg.ArpackNoConvergence("", np.empty(0), np.empty(0))):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(linalg, "eigsh", fail)
        assert module._ends(lambda v: size * v.ravel(), 8)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_modes_are_told_in_any_unit(unit):
    """Distinct to CLOSE of the largest, whatever that is; learned or not to CLOSE of each."""
    f = lf.MatrixFactorization(unit * Y)

    def kind(product):
        return module._critical_type(f, lf.Network([unit * np.array(product), np.eye(3)]))[0]

    assert kind(np.diag([3.0, 0.0, 1.0])) == (1, 3) and kind(np.diag([3.0, 0.0, -1.0])) is None
    assert kind(np.diag([3.0, 1.0, 1.0])) is None
    off = np.diag([3.0, 2.0, 0.0])
    off[0, 1] = 10 * module.CLOSE * 3
    assert kind(off) is None
    off[0, 1] = 0.1 * module.CLOSE * 3
    assert kind(off) == (1, 2)
    for apart, told in ((10 * module.CLOSE, (1,)), (0.1 * module.CLOSE, None)):
        g = lf.MatrixFactorization(unit * np.diag([3.0, 3.0 * (1 - apart)]))
        first = unit * np.diag([3.0, 0.0])
        assert module._critical_type(g, lf.Network([first, np.eye(2)]))[0] == told


def test_small_modes_are_learned_or_not_to_a_share_of_each():
    f = lf.MatrixFactorization(np.diag([3.0, 2.0, 0.1]))
    for third, told in ((0.0, (1,)), (1e-6, None), (-1e-6, None), (5e-8, (1,))):  # 1e-6 is 1e-5 of 0.1
        net = lf.Network([np.diag([3.0, 0.0, third]), np.eye(3)])
        assert module._critical_type(f, net)[0] == told


def with_factors(F, H, target):
    """½‖F(W − W*)H‖² with `F W* H` as given."""
    minimizer = target if F is None else np.linalg.pinv(F) @ target
    return SimpleNamespace(factors=(F, H), minimizer=minimizer if H is None else minimizer @ np.linalg.pinv(H))


@pytest.mark.parametrize("side", ["left", "right"])
def test_factors_are_square_of_full_rank_and_act_on_their_sides(rng, side):
    """F is on the left and H on the right; each has its least singular value above CLOSE of its greatest."""
    U, V = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))

    def modes(F):
        f = with_factors(F, None, Y[: len(F)]) if side == "left" else with_factors(None, F.T, Y[:, : len(F)])
        learned = f.factors[0 if side == "left" else 1]
        first = np.diag([3.0, 0.0, 1.0])
        back = np.linalg.pinv(learned)
        W = back @ first[: len(F)] if side == "left" else first[:, : len(F)] @ back
        return module._critical_type(f, lf.Network([W, np.eye(W.shape[1])]))[0]

    for unit in (1e-3, 1.0, 1e3):
        assert modes(unit * U @ np.diag([1.0, 0.1, 1e-5]) @ V) == (1, 3)
        assert modes(unit * U @ np.diag([1.0, 0.1, 1e-7]) @ V) is None
        assert modes(unit * U @ np.diag([1.0, 1e-3, 1e-7]) @ V) is None
    assert modes(U[:2]) is None  # it does not see all of W


def test_a_product_of_no_layers_is_an_identity_as_wide_as_its_place():
    for widths, least in (((1, 2, 3), 1), ((3, 2, 1), 1), ((2, 1, 3), 1), ((2, 3, 4), 2), ((4, 3, 2), 2)):
        net = lf.Network([np.ones(shape) for shape in pairwise(widths)])
        assert module._tightened(net, least) and not module._tightened(net, least - 1)
