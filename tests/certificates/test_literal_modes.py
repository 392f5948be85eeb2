"""Starts that split into modes, written out: their curves, rates and slack, and where they do not."""

import math

import numpy as np
import pytest

import linflow as lf
from linflow._support.arrays import EPS
from linflow.certificates.prior import modes
from linflow.certificates.prior._rows import bounds_at_margin
from linflow.certificates.setting import Setting


def near(x, rel=1e-11):
    return pytest.approx(x, rel=rel, abs=0)


def diagonal(*weights, Y, c=1.0, curvatures=None):
    """Diagonal layers and target."""
    n = len(Y)
    A = np.eye(n) if curvatures is None else np.diag(curvatures)
    f = lf.Quadratic(A, C=A @ np.diag(np.array(Y, dtype=float)))
    return Setting(f, lf.Network([np.diag(np.array(w, dtype=float)) for w in weights], c))


def rows(setting):
    return dict(zip(("saxe", "gidel", "tarmoun"), modes.mode_results(setting), strict=True))


# --- the curve -----------------------------------------------------------------------------------------------------


def curve(L, c, mu, d, s, w0, slack=0.0, rate=0.0):
    d, s, w0 = (np.atleast_1d(np.array(x, dtype=float)) for x in (d, s, w0))
    return modes.ModeCurve(0.5 * mu * float(np.sum((s - w0) ** 2)), L, c, mu, d, s, w0, slack, rate)


@pytest.mark.parametrize(
    "given",
    [
        (2, 1.0, 1.0, 0.0, 1.0, 1e-3),
        (2, 0.1, 3.0, 1e12, 1.0, 0.5),
        (2, 1e-4, 3.0, -1e12, 1.0, 0.5),
        (2, 1e3, 1.0, 0.0, 1e9, 1e8),
        (2, 1e-3, 1.0, 0.0, 1e-9, 1e-10),
        (3, 1e-3, 2.0, 0.0, 1e12, 1e11),
        (3, 1e4, 2.0, 0.0, 1e-12, 1e-13),
        (5, 1e-3, 1.0, 0.0, 1e10, 3e10),
        (5, 1e3, 1.0, 0.0, 1e-10, 3e-10),
        (3, 1e-12, 1.0, 0.0, 1.0, 0.1),
        (3, 1e-36, 1.0, 0.0, 1.0, 0.1),
        (3, 1.0, 1.0, 0.0, 1e36, 1e35),
        (2, 1e-12, 1.0, 1e36, 1.0, 0.5),
        (2, 1e12, 1.0, 1.0, 1.0, 0.5),
        (2, 1.0, 1.0, -1e12, 1.0, 0.5),
        (2, 1.0, 1.0, (1e12, 0.0), (1.0, 1e-3), (0.5, 1e-4)),
    ],
)
def test_the_time_to_a_gap_is_found_whatever_the_units(given):
    """Where the curve comes down to it: later by at most 10⁻⁷."""
    found = curve(*given)
    for part in (0.5, 1e-3, 1e-9) if np.ndim(given[3]) == 0 else (0.5,):
        gap = part * found.first
        t = found.time(gap)
        assert found.gap(t) <= gap < found.gap(t * (1 - 2e-7))
    assert found.time(found.first) == found.time(2 * found.first) == 0.0
    assert found.time(found.first * (1 - 1e-15)) < 1e-3 * found.time(0.5 * found.first)


def test_below_what_the_slack_leaves_the_rate_counts():
    slow = curve(2, 1.0, 1.0, 0.0, 1.0, 0.1, 1e-3, 1e-20)
    assert slow.time(1e-9 * slow.first) == near(math.log(1e9) * 1e20)
    assert curve(2, 1.0, 1.0, 0.0, 1.0, 0.1, 1e-3).time(1e-9) == math.inf


def test_the_slack_is_of_the_largest_of_all_products_and_on_the_far_side_of_a_mode():
    d, s, w0, slack = np.zeros(2), np.array([1.0, 2.0]), np.array([3.0, 0.1]), 0.01
    found = curve(2, 1.0, 1.5, d, s, w0, slack)
    for t in (0.3, 1.0, 4.0):
        total = sum(
            (abs(s[i] - lf.exact.two_layer_scalar(0.0, s[i], w0[i], 1.5 * 0.99 * t)) + slack * 3.0) ** 2
            for i in (0, 1)
        )
        assert found.gap(t) == near(min(0.5 * 1.5 * 1.01 * total, found.first))


# --- the modes of a start ------------------------------------------------------------------------------------------


def made(setting):
    """The modes of a start of two layers with their slack and rate, as docs and docstrings have them."""
    c, f = setting.scale, setting.objective
    w = np.array([np.diag(np.asarray(W)) for W in setting.network.weights])
    Y = np.diag(np.asarray(f.minimizer))
    size = max(np.linalg.norm(W) for W in setting.network.weights)
    rounding = 16 * 4 * EPS * size
    d, w0, sizes = w[0] ** 2 - w[1] ** 2, c * w[0] * w[1], np.abs(w).max(axis=0)
    floors, closest = [], [size]
    for i in range(len(Y)):
        least = min(Y[i], abs(w0[i])) if Y[i] * w0[i] > 0 else 0.0
        floors.append(c * math.hypot(c * d[i], 2 * least))
        if Y[i] > 0:
            closest.append(math.sqrt(abs(d[i])) if w0[i] * Y[i] < 0 else sizes[i])
    closest = min(closest[1:])
    reach = max(size, math.sqrt(Y.max() / c))
    slack = rounding / closest * (reach / closest) + 4 * (f.smoothness / f.strong_convexity - 1)
    return d, w0, slack, 2 * f.strong_convexity * min(floors) * (1 - slack)


@pytest.mark.parametrize(
    ("weights", "Y", "c"),
    [
        ([(2.0, 1.5), (1.0, 0.5)], (3.0, 0.5), 1.0),
        ([(2.0, 1.5), (1.0, 0.5)], (3.0, 0.5), 0.7),
        ([(0.2, 0.1), (0.1, 0.3)], (3.0, 0.5), 0.7),
        ([(2.0, 1.5), (1.0, -0.5)], (3.0, 0.5), 0.7),  # the second passes the saddle
        ([(2.0, 1.5), (-1.0, 0.0)], (3.0, 0.5), 1.0),  # the first passes it, the second starts there
        ([(-2.0, 0.0), (0.0, -1.5)], (3.0, 0.5), 1.0),
        ([(2.0, 1e-3 + 5e-10), (1.0, 1e-3)], (3.0, 0.5), 1.0),  # an imbalance that is above its rounding
        ([(3.0, 1.0), (1.0, 0.5)], (3.0, 0.0), 1.0),  # a mode that W* has not
        ([(3.0, 1.0), (1.0, -1.0)], (3.0, 0.0), 1.0),
        ([(0.1, 0.05), (0.3, 0.2)], (0.5, 0.25), 1.0),
        ([(3.0, 5.0), (4.0, 2.0)], (1.0, 0.5), 1.0),
    ],
)
def test_two_aligned_layers_are_a_chain_for_each_mode(weights, Y, c):
    setting = diagonal(*weights, Y=Y, c=c)
    d, w0, slack, rate = made(setting)
    found = rows(setting)["tarmoun"]
    assert found.source.endswith(", decoupled modes, exact solution") and found.applies
    order = [list(found.curve.s).index(y) for y in Y]
    assert [found.curve.d[k] for k in order] == near(list(d))
    # Of a mode that W* has not the sign is that of its vectors, which are free.
    assert [found.curve.w0[k] if y else abs(found.curve.w0[k]) for k, y in zip(order, Y, strict=True)] == near(
        [w if y else abs(w) for w, y in zip(w0, Y, strict=True)]
    )
    assert found.curve.slack == near(slack, rel=1e-6) and found.curve.rate == near(rate)
    assert (found.curve.depth, found.curve.scale, found.curve.first) == (2, c, setting.gap)


def test_curvatures_that_differ_by_rounding_are_part_of_the_slack():
    for mu in (1.0, 2.0):
        setting = diagonal((1.0, 1.0), (1.0, 1.0), Y=(2.0, 1.0), curvatures=(mu, mu * (1.0 + 8e-13)))
        _, _, slack, rate = made(setting)
        found = rows(setting)["tarmoun"].curve
        assert slack > 3e-12 and found.slack == near(slack, rel=1e-3) and found.rate == near(rate)
        assert found.curvature == near(mu) and found.rate == near(2 * mu * 2.0, rel=1e-9)


def test_a_mode_on_the_far_side_of_its_saddle_is_never_learned():
    for weights, mode, start in (
        ([(1.0, 1.0), (1.0, -1.0)], 2, -1.0),
        ([(1.0, -1.0), (-1.0, 1.0)], 1, -1.0),
    ):
        found = rows(diagonal(*weights, Y=(2.0, 1.0)))["saxe"]
        assert found.reason.startswith(f"mode {mode} (σ = {3 - mode}) starts at {start:.3g}, on the far side")
    # One that W* has not is learned on either side.
    assert rows(diagonal((1.0, 1.0), (1.0, -1.0), Y=(2.0, 0.0)))["tarmoun"].applies
    # One of the size of rounding stays.
    found = rows(diagonal((1.0, 1e-15), (1.0, 1e-15), Y=(2.0, 1.0)))["saxe"]
    assert "mode 2 (σ = 1) starts at 1e-30, on the far side of the saddle" in found.reason


def test_a_start_so_small_that_rounding_grows_is_refused():
    # The slack is 64 ε √2 w · 1/w² for two modes of w each.
    for slack, fine in ((0.9e-6, True), (1.5e-6, False)):
        w = 64 * EPS * math.sqrt(2) / slack
        found = rows(diagonal((w, w), (w, w), Y=(1.0, 1.0)))["saxe"]
        assert found.applies is fine
        if not fine:
            assert f"may grow to {slack:.2g} of a mode" in found.reason and f"weight {w:.2g}" in found.reason


def test_balanced_modes_are_asked_for():
    found = rows(diagonal((1.0, 2.0), (1.0, 1.9), Y=(2.0, 1.0)))
    for name in ("saxe", "gidel"):
        assert f"not balanced: w_i² differ by up to {2.0**2 - 1.9**2:.3g} in a mode" in found[name].reason
    found = rows(diagonal((1.0, 2.0), (1.5, 2.0), (1.2, 2.0), Y=(2.0, 1.0)))
    assert "differ by up to 1.25 in a mode" in found["saxe"].reason
    assert found["gidel"].reason == found["tarmoun"].reason == "it is for 2 layers, but the network has 3"
    balanced = rows(diagonal((0.5, 0.25), (0.5, 0.25), Y=(2.0, 0.0)))
    assert balanced["saxe"].applies and list(balanced["saxe"].curve.d) == [0.0, 0.0]
    # The half of a mode is learned at log(s/ω − 1)/(2cμs); a mode without target has no such time.
    assert balanced["gidel"].facts == {"half of mode 1": near(math.log(2 / 0.25 - 1) / (2 * 2))}
    assert rows(diagonal((1.2, 0.25), (1.2, 0.25), Y=(2.0, 1.0)))["gidel"].facts["half of mode 1"] == 0.0
    fast = rows(diagonal((0.5, 0.25), (0.5, 0.25), Y=(2.0, 1.0), c=0.5, curvatures=(4.0, 4.0)))["gidel"]
    assert fast.facts["half of mode 1"] == near(math.log(2 / 0.125 - 1) / (2 * 0.5 * 4 * 2))
    assert rows(diagonal((1.0, 0.0), (1.0, 0.0), Y=(2.0, 0.0)))["saxe"].applies
    # Balanced to 16 roundings of the layer, 4ε each.
    for part, is_balanced in ((8.0, True), (15.6, True), (16.4, False)):
        other = 100.0 + part * 4 * EPS * math.hypot(100.0, 50.0)
        found = rows(diagonal((100.0, 50.0), (other, 50.0), Y=(2e4, 1e4)))["saxe"]
        assert ("not balanced" not in found.reason) is is_balanced


def test_where_a_start_has_no_modes_of_its_target():
    tilted = np.array([[1.0, 0.0], [0.5, 1.0]])
    f = lf.MatrixFactorization(np.diag([1.0, 0.0]))
    for W in (tilted, tilted.T):  # one of W*ᵀW and W*Wᵀ alone is symmetric
        reason = modes.aligned_modes(Setting(f, lf.Network([W, np.eye(2)])))
        assert (
            "not aligned with the singular vectors of W*" in reason
            and "differs from a symmetric matrix by 0.47" in reason
        )
    assert modes.aligned_modes(Setting(lf.MatrixFactorization(0 * np.eye(2)), lf.Network([np.eye(2)] * 2))) == (
        "W* = 0 has no modes to learn"
    )
    reason = modes.aligned_modes(diagonal((1.0, 0.0), (1.0, 0.0), Y=(2.0, 1.0)))
    assert reason.startswith("mode 2 (σ = 1) starts at 0 in every layer")
    reason = modes.aligned_modes(diagonal((0.0, 1.0), (0.0, 1.0), Y=(2.0, 1.0)))
    assert reason.startswith("mode 1 (σ = 2) starts at 0 in every layer")
    reason = modes.aligned_modes(diagonal((1.0, 0.0), (0.0, 0.0), Y=(2.0, 1.0)))
    assert reason.startswith("mode 2 (σ = 1) starts at 0 in every layer")
    for weights in ([(1.0, 0.0), (1.0, 0.0)], [(1.0, 1.0), (1.0, 1.0)]):
        assert not isinstance(modes.aligned_modes(diagonal(*weights, Y=(2.0, 0.0))), str)
    white = diagonal((1.0, 1.0), (1.0, 1.0), Y=(2.0, 1.0), curvatures=(1.0, 2.0))
    assert all("whiten the inputs" in found.reason for found in rows(white).values())


def test_alignment_is_asked_for_to_a_billionth_and_with_any_vectors_of_the_target():
    Y = np.diag([3.0, 1.0])
    for part, aligned in ((0.7e-9, True), (1.5e-9, False)):
        # ‖YᵀW − WᵀY‖_F = 3√2 a for a in the corner of W.
        corner = part * np.linalg.norm(Y) * lf.Network([np.eye(2)] * 2).magnitude() / (3 * math.sqrt(2))
        W = np.array([[1.0, corner], [0.0, 1.0]])
        reason = modes.aligned_modes(Setting(lf.MatrixFactorization(Y), lf.Network([np.eye(2), W])))
        assert (isinstance(reason, str) and "not aligned with the singular" in reason) is not aligned
    slanted = np.array([[1.0, 2.0], [0.0, 1.5]])
    net = lf.init.spectral((2, 3, 2), slanted, 0.9, rng=0)
    assert rows(Setting(lf.MatrixFactorization(slanted), net))["saxe"].applies


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mode_that_one_layer_does_not_have_hides_no_misalignment(mirrored):
    layers = [np.diag([2.0, 0.0]), np.array([[1.0, 1e-11], [0.0, 1.5]])]
    layers = [W.T for W in layers[::-1]] if mirrored else layers
    for sign in (1.0, -1.0):
        net = lf.Network([sign * layers[0], sign * layers[1]])
        found = modes.aligned_modes(Setting(lf.MatrixFactorization(np.diag([3.0, 1.0])), net))
        assert 1e-12 < found.off < 1e-10


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_how_far_layers_are_from_their_modes_is_relative_to_each(size):
    off = 3e-13
    layers = [size * np.array([[2.0, off], [0.0, 1.0]]), np.eye(2)]
    found = modes.aligned_modes(Setting(lf.MatrixFactorization(np.diag([3.0, 1.0])), lf.Network(layers)))
    assert 0.1 * off < found.off < 3 * off and found.size == near(max(size * math.sqrt(5), math.sqrt(2)))
    exact = modes.aligned_modes(diagonal((2.0 * size, size), (1.0, 1.0), Y=(3.0, 1.0)))
    assert exact.off == 4 * EPS


def test_the_last_layer_is_compared_from_both_sides_relative_to_its_size():
    off = 3e-13
    layers = [np.eye(2), 1e3 * np.array([[2.0, off], [0.0, 1.0]])]
    found = modes.aligned_modes(Setting(lf.MatrixFactorization(np.diag([3.0, 1.0])), lf.Network(layers)))
    assert 0.1 * off < found.off < 3 * off


def test_the_size_of_a_curve_is_that_of_its_largest_start_or_target():
    assert curve(2, 1.0, 1.0, (1.0, 0.0), (2.0, 1.0), (-3.0, 0.5))._size == 3.0
    assert curve(2, 1.0, 1.0, (1.0, 0.0), (4.0, 1.0), (-3.0, 0.5))._size == 4.0


def test_a_mode_without_a_target_may_begin_at_0():
    target, weights = np.array([2.0, 0.0]), np.array([[1.0, 0.0], [1.0, 0.0]])
    aligned = modes._Aligned(modes.Modes(np.eye(2), np.eye(2), target, weights), 4 * EPS, 1.0)
    found = modes._curve(diagonal((1.0, 0.0), (1.0, 0.0), Y=(2.0, 0.0)), aligned)
    assert not isinstance(found, str) and list(found.s) == [2.0, 0.0]


# --- D = λI --------------------------------------------------------------------------------------------------------


def turned(Ys, size=2.0, angle=0.3, scale=1.0):
    """`W_1 = sR, W_2 = RᵀQ`: `D = (s² − 1)I`, with a product whose modes are not those of the target."""

    def rotation(a, n=len(Ys)):
        R = np.eye(n)
        R[:2, :2] = [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]
        return R

    net = lf.Network([size * rotation(angle), rotation(-angle) @ rotation(0.2)], scale)
    return Setting(lf.MatrixFactorization(np.asarray(Ys)), net)


def test_an_imbalance_that_is_a_multiple_of_the_identity_has_the_rate_at_its_margin():
    near_by = turned(np.array([[2.2, 0.1], [0.3, 1.9]]))
    found = rows(near_by)["tarmoun"]
    value = max(v for t, v in bounds_at_margin(near_by) if t.citation == "min2021")
    assert found.source.endswith(", D = λI, at the margin") and found.rate == near(2 * value)
    assert found.facts == {"λ": near(3.0, rel=2e-15), "margin": near(near_by.margin_by_distance)}
    assert value == pytest.approx(math.sqrt(9 + 4 * near_by.margin_by_distance**2), rel=1e-9)
    little = turned(np.array([[-1.2, 0.1], [0.3, -0.9]]), size=1.1)
    found = rows(little)["tarmoun"]
    assert found.facts["margin"] == 0.0 and found.rate == near(2 * 0.21, rel=1e-9)
    balanced = turned(np.array([[-1.2, 0.1], [0.3, -0.9]]), size=1.0)
    found = rows(balanced)["tarmoun"]
    assert "·I gives no rate by itself, and the margin is 0" in found.reason


def test_another_imbalance_has_no_rate_of_this_kind():
    f = lf.MatrixFactorization(np.array([[2.0, 0.5], [0.0, 1.0]]))
    found = rows(Setting(f, lf.Network([np.diag([1.2, 1.0]), np.eye(2)])))["tarmoun"]
    assert f"not a multiple of the identity: its eigenvalues spread over {1.2**2 - 1:.3g}" in found.reason
    layers = [np.diag([2.0, 1.8, 1.5]), np.eye(3)]
    f = lf.MatrixFactorization(np.array([[2.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.2, 0.0, 1.0]]))
    found = rows(Setting(f, lf.Network(layers)))["tarmoun"]
    assert f"not a multiple of the identity: its eigenvalues spread over {2.0**2 - 1.5**2:.3g}" in found.reason
